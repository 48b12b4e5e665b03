// Package sandbox takes a worker's rights away before it reads a byte that came
// from the peer: descriptors, the file system, the user, new privileges.
//
// It is called once, by hastd/worker, in the order Enter, Audit, Lock. Failure is fatal for the worker, which exits 78.
package sandbox
