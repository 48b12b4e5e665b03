package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"hast/extent"
	"hast/hastd/engine"
	"hast/hastd/peer"
	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/hastd/worker/sandbox"
	"hast/proto"
)

// parentFD is where a worker finds its socket to the parent.
const parentFD = 3

// Bounds of what a worker waits for.
const (
	// sendWait bounds a message to a parent that does not read; nothing of the data path waits for it.
	sendWait = 2 * time.Second
	// frontEnd bounds how long clients' requests under way may take when the front-end is to stop: longer than a
	// disk's own error recovery; requests that are frozen don't end at all, they are the successor's.
	frontEnd = 8 * time.Second
	// orphanEnd is the same for an orphan: its lease runs out in that time, and nothing is answered any more.
	orphanEnd = 4 * time.Second
	// watchEvery is how often the state is compared with what the parent was told last.
	watchEvery = 50 * time.Millisecond
	// maxShaking is how many handshakes may be under way: a second one replaces a first that hangs.
	maxShaking = 4
)

// cleaned is the last argument of a worker that sandbox.Clean has executed again.
const cleaned = "cleaned"

// processors is the least value of GOMAXPROCS. A thread that waits in read(2) keeps its processor (in the runtime's sense) as long as
// another one is idle; if none is, the runtime's monitor looks every 20 us whether there is one to take away, and then wakes
// a thread to use it. So there are more than a worker has threads that wait like this: a client's, two of the peer's.
const processors = 8

// Main is the worker's whole life; args are the resource and the role, for ps(1). It returns the exit status.
func Main(args []string) int {
	if len(args) == 0 || args[len(args)-1] != cleaned {
		err := sandbox.Clean(append(os.Args, cleaned))
		fmt.Fprintln(os.Stderr, err)
		return proto.ExitConfig
	}
	runtime.GOMAXPROCS(max(processors, runtime.NumCPU()))
	// The parent decides when a worker ends; a terminal or a broken log must not.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	conn, err := ipc.New(os.NewFile(parentFD, "parent"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return proto.ExitUsage
	}
	w := &worker{conn: conn, out: newOutbox(conn), shaking: make(chan struct{}, maxShaking)}
	w.log = slog.New(&outLog{out: w.out})
	defer w.out.close()
	if err := w.begin(); err != nil {
		return w.giveUp(err)
	}
	return w.serve()
}

// fatal is an error with the exit status that tells the parent what to make of it.
type fatal struct {
	code int
	err  error
}

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// giveUp tells the parent why and returns the exit status.
func (w *worker) giveUp(err error) int {
	code := proto.ExitSoftware
	var f *fatal
	if errors.As(err, &f) {
		code = f.code
	}
	w.out.put(&ipc.Message{Kind: ipc.KindFatal, Text: err.Error(), Code: code})
	return code
}

// worker is the state of the process. Fields above mu are set before serve.
type worker struct {
	conn  *ipc.Conn
	out   *outbox
	log   *slog.Logger
	setup *ipc.Setup
	lease *lease.View
	super extent.Superblock
	data  *os.File
	area  *os.File // where the metadata is: data, or a file of its own
	meta  *os.File // nil for internal metadata
	eng   *engine.Engine
	ended chan error // the engine's Run
	halt  context.CancelCauseFunc
	zero  int64 // CLOCK_BOOTTIME of the engine's time 0

	shaking chan struct{}
	links   sync.WaitGroup

	mu       sync.Mutex
	settings ipc.Settings
	front    frontEnds
	hold     *os.File // hold's listening socket
	prior    []byte   // what was agreed with the kernel, for a successor
	key      []byte   // for connections made from now on
	failed   failures // of handshakes
	told     ipc.State

	diskStalled, peerStalled time.Time // since when, zero: not; of the goroutine that serves
}

// serve handles the parent's messages until it says stop, the parent dies, or the engine ends.
func (w *worker) serve() int {
	inbox := make(chan incoming, 16)
	go w.receive(inbox)
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		select {
		case in, ok := <-inbox:
			if !ok {
				return w.orphan()
			}
			if in.m.Kind == ipc.KindStop {
				return w.stop()
			}
			if err := w.handle(in.m, in.files); err != nil {
				ipc.CloseAll(in.files)
				w.log.Error(fmt.Sprintf("message %s: %v", in.m.Kind, err))
			}
		case <-watch.C:
			w.tellChange()
		case err := <-w.ended:
			return w.giveUp(&fatal{proto.ExitTemp, fmt.Errorf("the engine ended by itself: %v", err)})
		}
	}
}

// incoming is a message with its descriptors.
type incoming struct {
	m     *ipc.Message
	files []*os.File
}

// receive reads messages until the parent's end is closed.
func (w *worker) receive(inbox chan<- incoming) {
	defer close(inbox)
	for {
		m, files, err := w.conn.Recv()
		if err != nil {
			return
		}
		if m.Kind == ipc.KindAsk { // answered here, so that nothing else delays it
			st := w.state()
			w.out.put(&ipc.Message{Kind: ipc.KindState, ID: m.ID, State: &st})
			continue
		}
		inbox <- incoming{m, files}
	}
}

// handle carries out one message. On success the files have found their owners.
func (w *worker) handle(m *ipc.Message, files []*os.File) error {
	switch m.Kind {
	case ipc.KindSettings:
		w.applySettings(m.Settings, m.Key, m.Force)
	case ipc.KindConnection:
		return w.connect(m.Connection, files)
	case ipc.KindPermit:
		w.eng.Permit(m.Force)
		w.tellChange()
	case ipc.KindDevice:
		return w.serveDevice(m.Device, m.Files, files)
	case ipc.KindDetach:
		w.detach(m.Force)
	default:
		return errors.New("unexpected")
	}
	return nil
}

func (w *worker) applySettings(s *ipc.Settings, key []byte, reconnect bool) {
	w.mu.Lock()
	if len(key) > 0 {
		w.key = key // a link that lives stays: it was proven with the old one
	}
	reconnect = reconnect || w.settings.Encrypt != s.Encrypt // that is what a link is made of
	w.settings = *s
	cfg, err := linkConfig(w.setup, s)
	w.mu.Unlock()
	w.eng.Settings(machineSettings(s))
	if err == nil {
		err = w.eng.Retune(peer.Tuning{Timeout: cfg.Timeout, Compression: cfg.Compression, Checksum: cfg.Checksum})
	}
	if err != nil {
		w.log.Error("the connection to the peer does not follow the configuration, and is made anew", "err", err)
		reconnect = true
	}
	if reconnect {
		w.eng.DropPeer("the configuration changed")
	}
}

// stop ends in an orderly way: clients first, then the machine, then the seal of a clean stop.
func (w *worker) stop() int {
	w.stopFront(frontEnd)
	w.eng.Stop()
	err := <-w.ended
	w.links.Wait()
	if err == nil {
		err = w.sealed()
	}
	m := &ipc.Message{Kind: ipc.KindStopped}
	if err != nil {
		m.Text = err.Error()
	}
	w.out.put(m)
	return proto.ExitOK
}

// machineTime turns the machine's time into CLOCK_BOOTTIME nanoseconds; 0 stays 0.
func (w *worker) machineTime(t int64) int64 {
	if t == 0 {
		return 0
	}
	return w.zero + t
}

// connect authenticates the peer on two sockets, in a goroutine of its own, and gives the link to the engine.
func (w *worker) connect(c *ipc.Connection, files []*os.File) error {
	pair, err := pairOf(c, files)
	if err != nil {
		return err
	}
	select {
	case w.shaking <- struct{}{}:
	default:
		pair.Data.Close()
		pair.Control.Close()
		return errors.New("too many handshakes at once")
	}
	w.mu.Lock()
	cfg, err := linkConfig(w.setup, &w.settings)
	if w.key != nil {
		cfg.Key = w.key
	}
	w.mu.Unlock()
	if err != nil {
		<-w.shaking
		pair.Data.Close()
		pair.Control.Close()
		return err
	}
	w.links.Go(func() {
		defer func() { <-w.shaking }()
		link, err := peer.Handshake(context.Background(), cfg, *pair)
		w.shaken(c, err)
		if err == nil {
			w.eng.PeerUp(link)
		}
	})
	return nil
}

// shaken notes how a handshake ended. Whoever dialled asks for another try; the parent knows when.
func (w *worker) shaken(c *ipc.Connection, err error) {
	text, reason := "", ""
	w.mu.Lock()
	if err == nil {
		w.failed.succeeded()
	} else {
		text, reason = w.failed.add(err, time.Now())
	}
	w.mu.Unlock()
	if err == nil {
		return
	}
	told := text != "" // once in an episode: a stranger must not fill the log, or push other events out (rule 15)
	switch text = "connection with " + c.Remote + ": " + text; {
	case told && reason != "":
		w.event(ipc.EventAuthFailed, text, map[string]string{ipc.FieldRemote: c.Remote, ipc.FieldReason: reason})
	case told:
		w.log.Error(text)
	}
	if c.Initiator {
		w.out.put(&ipc.Message{Kind: ipc.KindConnect, Text: err.Error()})
	}
}
