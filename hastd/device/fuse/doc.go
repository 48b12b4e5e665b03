// Package fuse is the front-end that works on every Linux with FUSE and loop
// devices and survives the death of the process that serves it: a FUSE file system with one
// file, "disk", under a loop device, linked as /dev/hast/NAME.
//
// It has two halves. The privileged one (the parent) makes and removes what the kernel has to know:
//
//	f := Mount(dir)              // a mount, and the descriptor through which it is served
//	... f to hold and to the worker; the worker calls Server.Serve, which reports ready ...
//	l := Attach(dir, info, t)    // the loop device; needs a server that answers
//	p := Publish(devDir, name, l)
//	Unpublish, l.Detach, Unmount // in this order
//
// The unprivileged one is Server: it answers the kernel's requests on the descriptor by passing them to a device.Sink.
// As long as any process keeps the descriptor, requests wait for a server; a successor
// has the kernel send again what its predecessor had not answered (Linux 6.9 or newer). It must
// not start before the predecessor is dead, or a late write of the old one could undo a newer one.
//
// The package does no I/O on data, and nothing in it may be called on a thread that the device itself needs.
package fuse
