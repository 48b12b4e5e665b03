// Package store is the backing device: opening it exclusively, creating and
// loading its metadata, and direct I/O on its data: one operation in the caller's thread, or many at once by its
// sub-package aio.
//
// The parent opens (Open), the worker works (New, Disk), hastctl creates and dumps. It
// decides nothing: what is written when is hastd/replica's.
package store
