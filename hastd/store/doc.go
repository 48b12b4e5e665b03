// Package store is the backing device: opening it exclusively, creating and
// loading its metadata, direct I/O on its data, and the arena that buffers come from.
//
// The parent opens (Open), the worker works (New, Disk), hastctl creates and dumps. It
// decides nothing: what is written when is hastd/replica's.
package store
