// Package control serves the control socket: it checks who asks, bounds what
// is asked, and answers in bounded time whatever the daemon waits for (rule 14).
//
// The package knows nothing of workers, disks or peers; the daemon is a Backend
// to it. A change that may take long (a role, a reload, a stop) becomes an
// operation: it runs to its end by itself, and clients ask how it is.
//
// Only the daemon (package hastd) imports it. The language is proto/ctl's.
package control
