// Package peer is everything between two TCP sockets and the frames of package
// wire: dialling, the preamble that the parents exchange, the authentication of
// the workers (TLS 1.3, or a challenge and response), and the Link, which moves frames in
// both directions on two connections with few system calls and no allocation per frame.
//
// It does not know what frames mean, does not retry, and takes no decision about
// data. The parent (hastd) uses Dial and the preamble functions and never reads a byte behind the
// preamble; the worker (hastd/engine) uses Handshake and Link. The bytes are
// described in docs/protocol/wire.md.
package peer
