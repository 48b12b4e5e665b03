package hastd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"hast/hastd/config"
	"hast/hastd/control"
	"hast/hastd/worker/lease"
	"hast/proto"
	"hast/proto/ctl"
)

// DefaultConfig is where the configuration is unless -c says otherwise.
const DefaultConfig = config.DefaultPath

// Options are the command line's.
type Options struct {
	Config     string
	Node       string // "" = by host name
	PIDFile    string // "" = as configured
	Foreground bool
	Debug      int
	Version    string
	Ready      *os.File // where a background process reports its start; nil in the foreground
}

// startError carries the exit code of a failed start.
type startError struct {
	code int
	err  error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// Main runs the daemon and returns its exit code. In the background it returns in the first process once the daemon serves.
func Main(o Options) int {
	var err error
	if o.Config, err = filepath.Abs(o.Config); err != nil {
		return complain(proto.ExitOSFile, err)
	}
	if o.PIDFile != "" {
		if o.PIDFile, err = filepath.Abs(o.PIDFile); err != nil {
			return complain(proto.ExitOSFile, err)
		}
	}
	if !o.Foreground && o.Ready == nil {
		return goBackground(o.args())
	}
	syscall.Umask(0o022)
	flusher := BecomeIOFlusher() // may start the process again
	s, err := open(o)
	if err != nil {
		return refuse(o, err)
	}
	if flusher != nil {
		s.log.Warn(flusher.Error())
	}
	return s.run()
}

// refuse reports a failed start to whoever waits for it.
func refuse(o Options, err error) int {
	code := proto.ExitSoftware
	var se *startError
	if errors.As(err, &se) {
		code = se.code
	}
	if o.Ready != nil {
		tell(o.Ready, verdict{Code: code, Text: err.Error()})
		return code
	}
	return complain(code, err)
}

// args is the command line of the background process.
func (o *Options) args() []string {
	args := []string{"--config=" + o.Config}
	if o.Node != "" {
		args = append(args, "--node="+o.Node)
	}
	if o.PIDFile != "" {
		args = append(args, "--pidfile="+o.PIDFile)
	}
	for range o.Debug {
		args = append(args, "-d")
	}
	return args
}

// server is a daemon with what it serves on.
type server struct {
	o     Options
	log   *slog.Logger
	d     *Daemon
	peers *listeners

	mu   sync.Mutex // one reload at a time; guards what a reload replaces
	conf *config.Config
	keys map[string][]byte // by resource: a changed key file concerns running workers
	// refused are resources in use that kept their old settings at the last reload, or stayed although they left the file.
	refused map[string]bool
	pid     *pidfile
	ctl     *controlServer
}

// controlServer is the control socket while it is served.
type controlServer struct {
	l    net.Listener
	stop context.CancelFunc
	done chan struct{}
}

// open reads the configuration, takes the pidfile and binds every socket. No disk is touched.
func open(o Options) (_ *server, err error) {
	c, err := config.Load(o.Config, o.Node)
	if err != nil {
		return nil, &startError{config.ExitCode(err), err}
	}
	specs, err := specsOf(c)
	if err != nil {
		return nil, &startError{proto.ExitConfig, err}
	}
	s := &server{o: o, conf: c, keys: keysOf(specs)}
	if s.log, err = newLogger(string(c.Log), o.Foreground, o.Debug); err != nil {
		return nil, &startError{proto.ExitOS, err}
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err = os.MkdirAll(c.RunDir, 0o755); err != nil {
		return nil, &startError{proto.ExitOS, err}
	}
	if s.pid, err = lockPidfile(s.pidPath(c)); err != nil {
		code := proto.ExitOS
		if errors.Is(err, errRunning) {
			code = proto.ExitTemp
		}
		return nil, &startError{code, err}
	}
	if s.d, err = newDaemon(c, o, s.log); err != nil {
		return nil, &startError{proto.ExitOS, err}
	}
	s.d.reload = s.reload
	s.peers = &listeners{accept: newAcceptor(s.d, peerGreeter{}, &addressBook{}), open: map[string]net.Listener{}}
	if err = s.peers.set(c.Listen, s.log); err != nil {
		return nil, &startError{proto.ExitOS, err}
	}
	if err = s.listenControl(c.Control); err != nil {
		return nil, &startError{proto.ExitOS, err}
	}
	protectFromOOM(s.log)
	for _, sp := range specs {
		s.d.addResource(sp)
	}
	s.d.adoptSurvivors()
	return s, nil
}

func (s *server) pidPath(c *config.Config) string {
	if s.o.PIDFile != "" {
		return s.o.PIDFile
	}
	return c.PIDFile
}

// listenControl serves the control socket at path; one that is served already ends after the new one is there.
func (s *server) listenControl(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	l, err := control.Listen(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &controlServer{l: l, stop: cancel, done: make(chan struct{})}
	srv := &control.Server{Backend: s.d, Listener: l, Log: s.log}
	go func() {
		defer close(c.done)
		if err := srv.Run(ctx); err != nil {
			s.log.Error("control socket", "err", err)
		}
	}()
	if old := s.ctl; old != nil {
		go old.close() // it may be carrying the very request that asked for this
	}
	s.ctl = c
	return nil
}

func (c *controlServer) close() {
	c.stop()
	<-c.done
	c.l.Close()
}

// newDaemon makes the daemon of a configuration, without resources.
func newDaemon(c *config.Config, o Options, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{
		log: log, node: c.Node, runDir: c.RunDir, rootDir: rootFor(c.RunDir),
		link: peerLinker{}, events: newEventLog(),
		resources: map[string]*resource{}, leases: map[*lease.Grant]struct{}{}, ended: make(chan struct{}),
		about: ctl.Daemon{Version: o.Version, PID: os.Getpid(), Node: c.Node, Peer: c.Peer, StartedUnix: time.Now().Unix(),
			ConfigPath: o.Config, ConfigDigest: c.Digest()},
	}
	id, err := bootID()
	if err != nil {
		return nil, err
	}
	if d.boot, err = proto.ParseID(id); err != nil {
		return nil, fmt.Errorf("kernel boot id: %w", err)
	}
	if err := allowLocking(); err != nil {
		log.Warn(err.Error())
	} else {
		d.lockMem = true
	}
	d.openLocal, d.openMeta = openBacking, openMetadata
	d.hooks = newHooks(c.Node, log)
	d.beats = watchdog()
	return d, nil
}

// watchdog returns what pets systemd's watchdog, at most twice per its period.
func watchdog() func() {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil || period == 0 {
		return func() {}
	}
	var last time.Time
	return func() {
		if now := time.Now(); now.Sub(last) >= period/2 {
			last = now
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// run serves until a signal or hastctl stop, and leaves nothing behind that is not held on purpose.
func (s *server) run() int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	// Buffered: signals come while the reload of an earlier one is at work.
	sig := make(chan os.Signal, 16)
	signal.Notify(sig, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGPIPE)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.signals(ctx, sig, stop)
	}()
	s.log.Info("started", "version", s.o.Version, "node", s.d.node, "pid", os.Getpid())
	tell(s.o.Ready, verdict{Code: proto.ExitOK})
	daemon.SdNotify(false, daemon.SdNotifyReady)
	s.d.Run(ctx)
	daemon.SdNotify(false, daemon.SdNotifyStopping)
	stop()
	signal.Stop(sig)
	<-gone
	s.close()
	s.log.Info("ended")
	return proto.ExitOK
}

// signals turns signals into what they ask for, until ctx ends.
func (s *server) signals(ctx context.Context, sig <-chan os.Signal, stop func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case g := <-sig:
			if g != syscall.SIGHUP {
				s.log.Info("stopping", "signal", g)
				stop()
				return
			}
			if err := s.reload(ctx); err != nil {
				s.log.Error("reload failed", "err", err)
			}
		}
	}
}

// close takes everything away that open made. Run has returned, or was never called.
func (s *server) close() {
	if s.peers != nil {
		s.peers.close()
		s.peers.accept.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctl != nil {
		s.ctl.close()
	}
	if s.d != nil {
		s.d.running.Wait()
		s.d.hooks.close()
	}
	if s.pid != nil {
		s.pid.remove()
	}
}
