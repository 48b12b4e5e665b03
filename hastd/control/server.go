package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxConns bounds what clients can make the daemon hold; status every second from a dozen tools needs a few.
	maxConns = 512
	// maxHeader fits a request that names ctl.MaxNames resources of the longest name.
	maxHeader = 128 << 10
	// headerWait ends a client that connects and says nothing, bodyWait one that does not finish.
	headerWait = 5 * time.Second
	bodyWait   = 10 * time.Second
	// answerWait ends a client that does not read. It is longer than any answer takes.
	answerWait = 15 * time.Second
	// endGrace is how long the end of the server waits for answers under way.
	endGrace = time.Second
	// childGrace is how long it then waits for the backend, which has been told to end.
	childGrace = 3 * time.Second
)

// Server answers the control socket. Fill in the exported fields, then call Run once.
type Server struct {
	Backend  Backend
	Listener net.Listener // from Listen; Run closes it
	Log      *slog.Logger // nil: silent

	peer func(net.Conn) (uint32, error) // tests act as strangers
	base context.Context
	poll *poller
	ops  *operations
	tell streams
	kids sync.WaitGroup // calls of the backend
}

// Run serves until ctx ends, then finishes the answers under way and returns.
// An error means that the socket can't be served any more.
func (s *Server) Run(ctx context.Context) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	base, end := context.WithCancel(ctx)
	defer end()
	s.base = base
	s.poll = newPoller(base, s.Backend, &s.kids)
	s.ops = newOperations(base, s.Backend, &s.kids)
	s.tell = make(streams, maxStreams)
	h := &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       bodyWait,
		WriteTimeout:      answerWait,
		IdleTimeout:       headerWait,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(s.guard()) }()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		err = shutdown(h)
		<-served
	}
	end()
	h.Close()
	s.await()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// shutdown lets answers under way finish; what is left after the grace is cut off.
func shutdown(h *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// await waits for the calls of the backend. One that disregards its context must not keep the daemon from ending.
func (s *Server) await() {
	done := make(chan struct{})
	go func() { s.kids.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(childGrace):
		s.Log.Warn("control: the daemon ends although a request is still at work")
	}
}

func (s *Server) guard() *guard {
	peer := s.peer
	if peer == nil {
		peer = peerUID
	}
	var last time.Time // of a line in the log; Accept is called by one goroutine
	return &guard{
		Listener: s.Listener, owner: uint32(os.Geteuid()), peer: peer, slots: make(chan struct{}, maxConns),
		note: func(text string) {
			if time.Since(last) > time.Second { // rule 15: the log's rate is bounded
				last = time.Now()
				s.Log.Warn("control: " + strings.TrimSuffix(text, " (<nil>)"))
			}
		},
	}
}
