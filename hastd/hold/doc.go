// Package hold keeps open descriptors alive beyond the death of the processes
// that use them: a Store of labelled descriptors, Serve, which lends duplicates of them over
// a unix socket, Client for the other end, and Main, the body of the process "hastd hold".
//
// It knows nothing of what the descriptors are, never reads or writes them, and never
// puts them under Go's poller (that would wake this process whenever the device is busy). Serve may also run in
// an orphaned worker, on the same listening socket.
//
// hastd (the parent), hastd/worker and cmd/hastd call it.
package hold
