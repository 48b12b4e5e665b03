// Faultdisk is a disk that fails on command: a FUSE mount with one file, "disk", that passes everything through
// to a real file, and makes errors, delays and hangs on the way. The lab gives it to hastd as a backing device.
//
//	faultdisk -file FILE -dir MOUNTPOINT -control SOCKET
//
// The socket takes one command for each connection and answers with one line, "ok" or what is wrong:
//
//	fail OP [from=N] [len=N] [times=N] [lose=yes]   EIO; times: only so often; lose (flush): what was written since the last flush is gone
//	delay OP ms=N [from=N] [len=N] [times=N]
//	hang OP [from=N] [len=N] [times=N]              until clear
//	clear                                           all of it ends
//	volatile                                        from now on there is a write cache that can be lost
//	stat                                            what has happened so far, in JSON
//
// OP is read, write (zeroing too), flush or any. It takes no part in anything that is shipped. A FUA write is a
// write here, without a flush: no power fails in the lab.
package main
