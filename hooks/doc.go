// Package hooks runs an operator's program when something happened to a
// resource: HAST's exec directive.
//
// A Runner belongs to one resource. It runs one program at a time in the order of the events, each
// with a time limit, its output in the log, and an environment of its own. Nothing of
// what a program does or fails to do has an effect on replication, and nobody waits for it:
// Submit never blocks, and the queue is bounded (rules 14 and 15).
//
// The package does not decide when an event happens and knows nothing of the daemon. The daemon's root
// imports it; hooks/fence and hooks/publish build upon the same process handling.
package hooks
