// Package ctl is the language of the control socket: what hastctl asks, what
// hastd answers, the events it tells, and the client that speaks it.
//
// It is JSON in HTTP/1.1 over a unix stream socket, and the types here are the
// whole schema. Field names carry their unit (bytes, seconds, unix seconds, ns); a
// field that is absent is unknown or does not apply. Fields are added, never changed
// or removed, so a client ignores what it does not know, while the server refuses a
// request that it does not understand in full.
//
// The package decides nothing and imports only proto. hastd/control serves it;
// hastctl and tests are its clients.
package ctl
