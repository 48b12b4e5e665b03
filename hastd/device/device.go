package device

import "hast/proto"

// Request is one request of a front-end on its way through the engine. It is an
// entry of a table of fixed size: a front-end gets it from Sink.Get, fills in
// what it wants, submits it, and gives it back with Sink.Put.
type Request struct {
	Op      proto.Op
	FUA     bool
	NoUnmap bool // OpZero: keep the space allocated
	Errno   proto.Errno
	Off     proto.Offset
	Len     proto.Length
	// Buf has Len bytes of page-aligned arena memory for reads and writes, nil for the rest. The front-end owns it
	// from Get to Submit and from Complete to Put.
	Buf []byte
	// Handle and Owner are the front-end's: what it needs to answer.
	Handle uint64
	Owner  Completer
	// Tag is the engine's.
	Tag uint32
}

// Sink takes requests; the engine implements it.
type Sink interface {
	// Get returns a table entry, with a buffer of n bytes if n > 0 (n <= proto.MaxRequest). It waits while the
	// table or the arena is used up (that is the back-pressure), and returns nil once the sink is closing.
	// TryGet returns nil instead of waiting.
	Get(n proto.Length) *Request
	TryGet(n proto.Length) *Request
	// Submit takes the requests; each one will be given to its Owner's Complete exactly once. A front-end submits everything that it could read
	// without blocking in one call: a batch crosses the engine, the disk and the wire with few system calls. Submit may execute I/O before it returns.
	Submit(batch []*Request)
	// Put gives a completed request back.
	Put(r *Request)
}

// Completer answers requests; a front-end's connection implements it.
type Completer interface {
	// Complete is called by the engine from any goroutine with requests whose Errno is set. It must not block on a slow
	// client for long (hand over to a writer then), and calls Sink.Put for each when its buffer is no longer needed.
	Complete(batch []*Request)
}

// Info describes the device that a front-end presents.
type Info struct {
	Name    string       // /dev/hast/NAME
	Size    proto.Offset // bytes
	Logical uint32       // logical block size, 512 or 4096
}
