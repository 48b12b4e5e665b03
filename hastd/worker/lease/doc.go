// Package lease is the role lease: one deadline in memory that the parent and a
// worker share. The parent writes it, the worker can only read it.
//
// It knows nothing of roles or I/O: the engine asks Deadline before it submits or completes application I/O, and
// the parent's main loop calls Renew. Only hastd and hastd/worker import it.
package lease
