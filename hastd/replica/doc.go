// Package replica decides what happens to every request of a resource: the
// primary's and the secondary's request machines, their handshake, and the sync.
//
// It is pure: no clock, no I/O, no goroutine, no randomness, no payload. An
// engine (hastd/engine, or the simulator) calls
//
//	Step(now, event, effects)
//
// for everything that happens, one call at a time, and carries out the effects.
// docs/design/0001-replication-core.md describes the algorithms, docs/safety.md
// the numbered rules that comments refer to.
package replica
