// Package nbdserver is the front-end that needs nothing of the kernel: it speaks
// NBD (fixed newstyle) on a unix socket, and qemu, libnbd, nbd-client and fio attach to it.
//
// It decodes requests and passes them to a device.Sink, in batches of whatever could be read at once; it
// does no I/O of its own, keeps no data and knows nothing of replication. A client that
// breaks the protocol loses its connection and nothing else (rule 15). When this process
// dies, its clients see a closed connection and have to connect again.
//
// hastd/engine's owner (the worker) calls it; Listen is for the privileged parent.
package nbdserver
