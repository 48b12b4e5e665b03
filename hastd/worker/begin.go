package worker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"hast/hastd/engine"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/hastd/store"
	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/hastd/worker/sandbox"
	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// begin brings the worker to the point where its machine runs: steps 2 to 4 of its life.
func (w *worker) begin() error {
	m, files, err := w.conn.Recv()
	if err != nil {
		return &fatal{proto.ExitUnavailable, fmt.Errorf("no settings from the parent: %w", err)}
	}
	if m.Kind != ipc.KindSetup || m.Setup.Fake != nil {
		return &fatal{proto.ExitConfig, fmt.Errorf("first message is %s, not the settings", m.Kind)}
	}
	w.setup, w.settings = m.Setup, m.Setup.Settings
	named := make(map[string]*os.File, len(files))
	for i, f := range files {
		switch m.Files[i] { // errors are to name what people know
		case ipc.FileLocal:
			f, err = renamed(f, m.Setup.LocalPath)
		case ipc.FileMeta:
			f, err = renamed(f, m.Setup.MetaPath)
		}
		if err != nil {
			return &fatal{proto.ExitConfig, fmt.Errorf("descriptor %s: %w", m.Files[i], err)}
		}
		named[m.Files[i]] = f
	}
	if w.data = named[ipc.FileLocal]; w.data == nil || named[ipc.FileLease] == nil || named[ipc.FileRoot] == nil {
		return &fatal{proto.ExitConfig, errors.New("a descriptor is missing")}
	}
	if w.lease, err = lease.Map(named[ipc.FileLease]); err != nil {
		return &fatal{proto.ExitConfig, err}
	}
	named[ipc.FileLease].Close()
	w.meta = named[ipc.FileMeta]
	if w.area = w.meta; w.area == nil {
		w.area = w.data
	}
	if err := w.lockIn(named[ipc.FileRoot]); err != nil {
		return &fatal{proto.ExitConfig, fmt.Errorf("privileges can't be dropped: %w", err)}
	}
	if err := w.load(); err != nil {
		return err
	}
	st := w.state()
	w.out.put(&ipc.Message{Kind: ipc.KindReady, State: &st})
	return nil
}

// renamed returns the same open file, lock included, under a name that means something.
func renamed(f *os.File, name string) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lockIn takes the worker's rights away. Memory is locked first, while that is allowed.
func (w *worker) lockIn(root *os.File) error {
	defer root.Close()
	if w.setup.LockMem {
		if err := sandbox.LockMemory(); err != nil {
			w.log.Warn(err.Error())
		}
	}
	allowed := []int{0, 1, 2}
	for _, f := range []*os.File{w.data, w.meta, root} {
		if f != nil {
			allowed = append(allowed, int(f.Fd()))
		}
	}
	own, err := w.conn.Descriptor()
	if err != nil {
		return err
	}
	if err := sandbox.Audit(append(allowed, own)...); err != nil {
		return err
	}
	if w.setup.UID < 0 {
		return nil
	}
	return sandbox.Lock(root, w.setup.UID, w.setup.GID)
}

// load reads the metadata and starts the machine.
func (w *worker) load() error {
	meta, err := store.Load(w.area, w.setup.Resource)
	if err != nil {
		return &fatal{proto.ExitConfig, err}
	}
	for _, text := range meta.Warnings {
		w.log.Warn(text)
	}
	if err := w.checkChanged(meta); err != nil {
		return err
	}
	w.super = meta.Super
	disk, err := store.New(w.data, w.meta, &meta.Super, w.metaFlush)
	if err != nil {
		return &fatal{proto.ExitConfig, err}
	}
	arena, err := engine.NewArena(engine.ArenaSize)
	if err != nil {
		return &fatal{proto.ExitTemp, err}
	}
	cfg := engine.Config{Primary: w.setup.Role == proto.RolePrimary, Disk: disk, Arena: arena, Random: random(),
		Connect: w.wantPeer, Report: w.report, Lease: w.lease.Valid, Note: func(text string) { w.log.Warn(text) }}
	mc := w.machineConfig(meta)
	if cfg.Primary {
		cfg.Machine = replica.NewPrimary(mc)
	} else {
		cfg.Machine = replica.NewSecondary(mc)
	}
	began := lease.Now()
	w.eng = engine.New(cfg)
	w.zero = began - engineEpoch
	w.ended = make(chan error, 1)
	ctx, halt := context.WithCancelCause(context.Background())
	w.halt = halt
	go func() { w.ended <- w.eng.Run(ctx) }()
	return nil
}

// engineEpoch is what the engine's clock shows when the engine is made: a day, so that no time is zero.
const engineEpoch = int64(24 * time.Hour)

// checkChanged notices data that was written without hastd since a clean stop:
// nothing is known then about what differs, and the copy must not pass for current (architecture section 5).
func (w *worker) checkChanged(meta *store.Meta) error {
	changed, err := store.ChangedWithout(w.data, meta)
	if err != nil {
		return &fatal{proto.ExitIO, err}
	}
	if !changed {
		return nil
	}
	w.log.Error("the data on " + w.setup.LocalPath + " was changed without hastd: everything is compared with the peer, whose copy wins; to keep this one, role primary --force")
	meta.AllActive = true
	if meta.Super.Data > proto.DataOutdated {
		meta.Super.Data = proto.DataOutdated
	}
	return nil
}

func (w *worker) machineConfig(meta *store.Meta) replica.Config {
	return replica.Config{
		Node: proto.MakeNode(w.setup.Node), Name: w.setup.Resource, BootID: w.setup.BootID, Layout: meta.Layout,
		AppTags: engine.AppTags, SyncTags: engine.SyncTags, Settings: machineSettings(&w.settings),
		Super: meta.Super, SuperSlot: meta.Slot, Dirty: meta.Dirty, Never: meta.Never,
		Active: meta.Active, AllActive: meta.AllActive, MapSeq: meta.MapSeq,
		Successor: w.setup.Successor, Grace: replica.Time(w.setup.Grace),
	}
}

// metaFlush is asked at each write of metadata.
func (w *worker) metaFlush() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings.MetaFlush
}

// sealed marks a clean stop on disk.
func (w *worker) sealed() error {
	if err := store.Seal(w.data, w.area, w.setup.Resource); err != nil {
		return fmt.Errorf("the clean stop could not be recorded: %w", err)
	}
	return nil
}

func machineSettings(s *ipc.Settings) replica.Settings {
	return replica.Settings{Mode: s.Mode, Freeze: s.Freeze, Standalone: s.Standalone, SyncRate: s.SyncRate,
		IdleClean: replica.Time(s.IdleClean)}
}

// linkConfig is what a link is made with.
func linkConfig(setup *ipc.Setup, s *ipc.Settings) (c peer.Config, err error) {
	c = peer.Config{Key: setup.Key, Encrypt: s.Encrypt, Timeout: time.Duration(s.Timeout), Resource: setup.Resource,
		Node: setup.Node, Peer: setup.Peer}
	if setup.Role == proto.RoleSecondary {
		c.Awake = peer.Data // requests; what the answers wait for, a primary's front-end does (engine.Help)
	}
	if c.Compression, err = wire.ParseCompression(s.Compression); err != nil {
		return c, err
	}
	c.Checksum, err = wire.ParseChecksum(s.Checksum)
	return c, err
}

// pairOf makes connections of the descriptors, which it takes.
func pairOf(c *ipc.Connection, files []*os.File) (*peer.Pair, error) {
	p := &peer.Pair{Initiator: c.Initiator, Preambles: c.Preambles}
	if copy(p.Token[:], c.Token) != len(p.Token) || len(files) != 2 {
		return nil, errors.New("incomplete")
	}
	var conns [2]*net.TCPConn
	for i, f := range files {
		nc, err := net.FileConn(f)
		f.Close()
		tc, ok := nc.(*net.TCPConn)
		if err == nil && !ok {
			nc.Close()
			err = errors.New("not a TCP connection")
		}
		if err != nil {
			if i == 1 {
				conns[0].Close()
			}
			return nil, err
		}
		conns[i] = tc
	}
	p.Data, p.Control = conns[0], conns[1]
	return p, nil
}

// random is the seed of all ids and keys of this worker.
func random() (r [4]uint64) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	for i := range r {
		r[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return r
}
