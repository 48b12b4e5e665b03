// Package hastd is the daemon: it supervises one worker for each resource that
// has a role, owns the roles and what goes with them (the device, the lease, the
// hooks), passes connections on, and answers the control socket.
//
// It parses nothing that a peer sent beyond one preamble of fixed size (hastd/peer), moves no
// data, and waits for nothing without a deadline (rule 14). Only cmd/hastd imports it.
//
// The goroutines: Daemon.Run is the main loop, which renews every lease and pets the watchdog, and does nothing that
// could block; each resource has one goroutine that carries out its role changes one after the other;
// each worker has one that reads its messages. What a request of the control socket needs
// is copied out under a lock that nobody holds while waiting.
package hastd
