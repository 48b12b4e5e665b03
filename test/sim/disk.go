package sim

import (
	"hast/proto"
)

const sector = 512

// version names the write that a sector was last written by; its top bit says
// that the write was of zeroes. The oracle keeps what is known about each.
type version uint32

const zeroBit version = 1 << 31

// diskWrite is one write that the cache holds and the medium may not.
type diskWrite struct {
	first int
	vers  []version
	fua   bool // it is on the medium whatever happens
}

// disk is one node's backing device: a data area of versions and a metadata area of
// bytes, both behind a volatile cache.
type disk struct {
	w      *world
	node   int
	cache  []version // what a read returns
	stable []version // what a loss of power leaves, but for the log
	log    []diskWrite
	bad    []bool // sectors that can't be read until they are rewritten
	badN   int

	meta       []byte // what a read returns
	metaStable []byte
	metaLog    []metaWrite // not flushed yet
	metaGen    uint64      // counts changes of metaStable

	ops   []*diskOp // under way
	metaN int       // metadata transactions under way
}

type metaWrite struct {
	off  int64
	data []byte
}

// diskOp is one operation under way.
type diskOp struct {
	tag   uint32
	op    proto.Op
	first int
	n     int
	fua   bool
	vers  []version // of a write
	mark  int       // of a flush: what the log held when it began
	done  bool
}

// submit starts an operation; then is called with its outcome, even if the worker that asked is gone.
func (d *disk) submit(op *diskOp, then func(proto.Errno)) {
	w := d.w
	d.ops = append(d.ops, op)
	op.mark = len(d.log)
	delay := w.rnd.skew(20*usec, 2*msec)
	if op.op == proto.OpFlush {
		delay = w.rnd.skew(50*usec, 20*msec)
	}
	if w.faults && w.rnd.chance(w.opt.Stall) {
		delay = w.rnd.skew(100*msec, 4*sec)
	}
	power := w.nodes[d.node].power
	w.after(delay, func() {
		if w.nodes[d.node].power != power {
			return // the machine lost power meanwhile
		}
		errno := d.complete(op)
		then(errno)
	})
}

func (d *disk) complete(op *diskOp) proto.Errno {
	w := d.w
	d.forget(op)
	op.done = true
	switch op.op {
	case proto.OpRead:
		if d.fails(w.opt.ReadError) {
			d.spoil(op.first + w.rnd.n(op.n))
		}
		if d.badN > 0 {
			for s := op.first; s < op.first+op.n; s++ {
				if d.bad[s] {
					return proto.EIO
				}
			}
		}
	case proto.OpFlush:
		if d.fails(w.opt.FlushError) || d.metaN > 0 && d.fails(w.opt.DoubtError) || w.justAlone(w.nodes[d.node]) && d.fails(w.opt.AloneError) ||
			w.greeting(w.nodes[d.node]) && d.fails(w.opt.GreetError) {
			d.loseLog(op.mark)
			return proto.EIO
		}
		d.flush(op.mark)
	default:
		if d.fails(w.opt.WriteError) {
			if w.rnd.one(2) {
				d.apply(op.first, op.vers[:w.rnd.n(op.n+1)], false)
			}
			if op.fua && w.rnd.one(2) {
				d.loseLog(len(d.log)) // it was the flush behind it that failed
			}
			return proto.EIO
		}
		d.apply(op.first, op.vers, op.fua)
	}
	return proto.OK
}

func (d *disk) forget(op *diskOp) {
	for i, o := range d.ops {
		if o == op {
			d.ops = append(d.ops[:i], d.ops[i+1:]...)
			return
		}
	}
}

func (d *disk) fails(ppm int) bool {
	w := d.w
	return ppm > 0 && w.faults && (w.opt.ErrorNode == 2 || w.opt.ErrorNode == d.node) && w.rnd.chance(ppm)
}

func (d *disk) spoil(s int) {
	s -= s % int(d.w.opt.Logical/sector)
	for i := 0; i < int(d.w.opt.Logical/sector); i++ {
		if !d.bad[s+i] {
			d.bad[s+i] = true
			d.badN++
		}
	}
}

// apply puts a completed write into the cache.
func (d *disk) apply(first int, vers []version, fua bool) {
	copy(d.cache[first:], vers)
	if len(vers) == 0 {
		return
	}
	if d.badN > 0 {
		for s := first; s < first+len(vers); s++ {
			if d.bad[s] {
				d.bad[s] = false
				d.badN--
			}
		}
	}
	d.log = append(d.log, diskWrite{first, vers, fua})
	if fua {
		d.settle()
	}
}

// settle keeps stable right for writes with FUA whose sectors have older log entries: they are on the medium now.
func (d *disk) settle() {
	e := &d.log[len(d.log)-1]
	copy(d.stable[e.first:], e.vers)
}

// flush makes the first n entries of the log stable. Entries that a FUA write overtook do not win over it.
func (d *disk) flush(n int) {
	if n > len(d.log) {
		n = len(d.log) // another flush that ended first took them
	}
	for i := range d.log[:n] {
		e := &d.log[i]
		copy(d.stable[e.first:], e.vers)
	}
	d.log = append(d.log[:0], d.log[n:]...)
	for i := range d.log {
		if e := &d.log[i]; e.fua {
			copy(d.stable[e.first:], e.vers)
		}
	}
	for _, op := range d.ops {
		if op.op == proto.OpFlush {
			op.mark = max(0, op.mark-n)
		}
	}
}

// loseLog is a failed flush: of the writes that it covered some are gone for good, at once or at the next loss
// of power, and no later flush will tell.
func (d *disk) loseLog(n int) {
	n = min(n, len(d.log))
	d.w.nodes[d.node].lastLoss = d.w.now
	revert := d.w.rnd.one(2)
	for i := range d.log[:n] {
		e := &d.log[i]
		keep := e.fua || d.w.rnd.one(2)
		for j, v := range e.vers {
			s := e.first + j
			switch {
			case keep:
				d.stable[s] = v
			case revert && d.cache[s] == v:
				d.cache[s] = d.stable[s]
			}
		}
	}
	d.log = append(d.log[:0], d.log[n:]...)
	for _, op := range d.ops {
		if op.op == proto.OpFlush {
			op.mark = max(0, op.mark-n)
		}
	}
	d.loseMeta() // a transaction under way has been written to the same disk; its own flush will not tell
}

// loseMeta is a failed flush's effect on metadata that no flush has covered.
func (d *disk) loseMeta() {
	for i := range d.metaLog {
		d.keepMeta(&d.metaLog[i], d.w.rnd.n(3))
	}
	d.metaLog = d.metaLog[:0]
}

// powerLoss keeps of what was not flushed whatever chance wants, sector by sector at the edge of a torn write.
func (d *disk) powerLoss() {
	r := &d.w.rnd
	for _, op := range d.ops {
		if (op.op == proto.OpWrite || op.op == proto.OpZero) && r.one(2) {
			d.log = append(d.log, diskWrite{op.first, op.vers[:r.n(op.n+1)], false})
		}
	}
	d.ops = d.ops[:0]
	mood := r.n(4)
	for i := range d.log {
		e := &d.log[i]
		keep := e.fua || mood == 0 || mood > 1 && r.one(2)
		torn := !e.fua && mood == 3 && r.one(2)
		for j, v := range e.vers {
			if torn && r.one(2) != keep || !torn && keep {
				d.stable[e.first+j] = v
			}
		}
	}
	d.log = d.log[:0]
	copy(d.cache, d.stable)
	d.loseMeta()
	d.metaN = 0
	copy(d.meta, d.metaStable)
	d.metaGen++
}

// keepMeta lets all (0), none (1) or some sectors of a metadata write survive.
func (d *disk) keepMeta(m *metaWrite, how int) {
	if how == 2 && d.w.skip > 0 && m.off < d.w.lay.Map[0] {
		how = d.w.rnd.n(2) // half a page means that all of it is dirty, and most of it is not simulated here
	}
	for at := 0; at < len(m.data); at += sector {
		if how == 0 || how == 2 && d.w.rnd.one(2) {
			copy(d.metaStable[m.off+int64(at):], m.data[at:at+sector])
		}
	}
}

// submitMeta writes blocks and flushes. The blocks are copied: what the
// machine keeps unchanged is not relied upon here. then is told which of the two failed.
func (d *disk) submitMeta(blocks []metaWrite, then func(proto.Op, proto.Errno)) {
	w := d.w
	page := false
	for i := range blocks {
		page = page || blocks[i].off < w.lay.Map[0]
	}
	d.metaLog = append(d.metaLog, blocks...)
	d.metaN++
	delay := w.rnd.skew(60*usec, 5*msec)
	if w.faults && w.rnd.chance(w.opt.Stall) {
		delay = w.rnd.skew(100*msec, 4*sec)
	}
	power := w.nodes[d.node].power
	w.after(delay, func() {
		if w.nodes[d.node].power != power {
			return
		}
		d.metaN--
		op, errno := proto.OpFlush, proto.OK
		switch {
		case page && d.fails(w.opt.PageError), w.greeting(w.nodes[d.node]) && d.fails(w.opt.GreetError):
			errno = proto.EIO
			d.loseLog(len(d.log))
		case !d.fails(w.opt.MetaError):
			for _, m := range d.metaLog {
				copy(d.metaStable[m.off:], m.data)
			}
			d.metaLog = d.metaLog[:0]
		case w.rnd.one(2):
			op, errno = proto.OpWrite, proto.EIO
			d.loseMeta()
		default:
			errno = proto.EIO
			d.loseLog(len(d.log))
		}
		copy(d.meta, d.metaStable)
		d.metaGen++
		then(op, errno)
	})
}

// busy reports whether anything is under way.
func (d *disk) busy() bool { return len(d.ops) > 0 || d.metaN > 0 }

// possible calls f for every version that a loss of power could leave in the sectors [first, first+n), and what a read sees.
func (d *disk) possible(f func(s int, v version)) {
	for i := range d.log {
		e := &d.log[i]
		for j, v := range e.vers {
			f(e.first+j, v)
		}
	}
	for _, op := range d.ops {
		if op.op == proto.OpWrite || op.op == proto.OpZero {
			for j, v := range op.vers {
				f(op.first+j, v)
			}
		}
	}
}

// reveal lets reads see what a failed flush has lost: a worker that finds no record of the failure gets to know it
// like this. (Otherwise nobody could, and no software would survive it.)
func (d *disk) reveal() {
	pending := d.w.flats[d.node]
	clear(pending)
	d.possible(func(s int, v version) { pending[s] = true })
	for s, p := range pending {
		if !p {
			d.cache[s] = d.stable[s]
		}
	}
}
