package peer

import (
	"net"
	"sync"
	"time"
)

// socket lies between TLS and TCP. While the handshake lasts it passes
// everything through. Afterwards it collects the records that one flush makes, to be written with one system
// call, and tells the reader before it might block.
type socket struct {
	raw    *net.TCPConn
	before func() // called before each read of the raw connection; nil during the handshake

	mu      sync.Mutex
	collect bool   // the handshake is over
	taking  bool   // the sender is encrypting: records go to out
	out     []byte // records not yet written; the sender's while taking is false
}

// Read reads from the network.
func (s *socket) Read(b []byte) (int, error) {
	if s.before != nil {
		s.before()
	}
	return s.raw.Read(b)
}

// Write takes records from TLS. Behind the handshake, what does not come from the sender is an alert of the reader's, and dropped: the
// link ends anyway, and a reader must never wait for a writer.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.collect {
		return s.raw.Write(b)
	}
	if s.taking {
		s.out = append(s.out, b...)
	}
	return len(b), nil
}

// take opens and closes the time in which records are collected.
func (s *socket) take(on bool) {
	s.mu.Lock()
	s.collect, s.taking = true, on
	s.mu.Unlock()
}

// The rest of net.Conn, for the handshake.

func (s *socket) Close() error                       { return s.raw.Close() }
func (s *socket) LocalAddr() net.Addr                { return s.raw.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr               { return s.raw.RemoteAddr() }
func (s *socket) SetDeadline(t time.Time) error      { return s.raw.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.raw.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.raw.SetWriteDeadline(t) }
