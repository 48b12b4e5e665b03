// Package wire turns the frames that two nodes exchange into bytes and back: the
// fixed header with all its limits, the compression and the checksum of payloads.
//
// It is pure: no I/O, no clock, no goroutine. It allocates nothing per frame and
// nothing that a peer asks for: every destination is the caller's (rule 15).
// What frames mean is decided by hastd/replica; hastd/peer moves them. The
// bytes are described in docs/protocol/wire.md.
package wire
