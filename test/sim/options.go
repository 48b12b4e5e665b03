package sim

import "hast/proto"

// Options is the fault plan of a run: what may go wrong, how often, and so what must survive.
type Options struct {
	Mode    proto.Mode
	Freeze  bool   // on_peer_loss = "freeze"
	Logical uint32 // 512 or 4096
	Ops     int    // client requests before the end
	Depth   int    // requests outstanding at once
	Pages   bool   // the dirty bitmap has two pages

	Cut        int // mean time between cuts of the link, in ms; 0: none
	CutLong    int // longest outage in ms
	Crash      int // mean time between crashes of a worker, in ms; 0: none
	PowerLoss  int // mean time between losses of power of one node, in ms; 0: none
	BothPower  bool
	Operator   int  // mean time between acts of the operator, in ms; 0: none
	Forced     bool // a node is promoted by force while its peer is down and has nothing that it lacks
	SplitBrain bool // or while the peer is alive: writes of one side are given up
	ModeChange bool
	Single     bool // now and then a primary has no peer configured
	SlowMount  bool // it takes a while until somebody uses what was promoted
	Moved      bool // in a split, the clients leave the old primary

	ReadError  int // per million operations
	WriteError int
	FlushError int
	MetaError  int
	AloneError int  // of a flush on a primary that has just lost its peer, and of that flush only: what it loses the peer still has
	PageError  int  // of the flush of a metadata transaction with a page of the bitmap
	GreetError int  // of a flush, of data or metadata, while a handshake or the end of a sync is under way
	GreetCut   bool // every other handshake is cut, or ends with one of the two workers
	Chase      bool // clients write where a sync is at work
	DoubtError int  // of a flush while a metadata transaction is under way: it loses what that has written, and the transaction's own flush does not tell
	ErrorNode  int  // the node whose disk fails: 0, 1, or 2 for either
	Stall      int  // per million disk operations take seconds
	SlowNet    bool // delays of up to 50 ms
}

// Draw makes the plan of a seed.
func Draw(seed uint64) Options {
	r := random{seed*0x9e3779b97f4a7c15 + 1}
	o := Options{Mode: proto.ModeFullsync, Logical: 4096, Ops: r.between(60, 260), Depth: r.between(1, 10), ErrorNode: 2}
	switch r.n(6) {
	case 0:
		o.Mode = proto.ModeMemsync
	case 1:
		o.Mode = proto.ModeAsync
	}
	if r.one(3) {
		o.Logical = 512
	}
	o.Freeze = r.one(8)
	o.SlowNet = r.one(4)
	if !r.one(5) {
		o.Cut, o.CutLong = r.between(150, 3000), r.between(10, 8000)
	}
	if r.one(2) {
		o.Crash = r.between(200, 5000)
	}
	if r.one(3) {
		o.PowerLoss = r.between(400, 6000)
		o.BothPower = r.one(3)
	}
	if r.one(2) {
		o.Operator = r.between(300, 5000)
		o.Forced = r.one(2)
		o.ModeChange = r.one(3)
	}
	o.SplitBrain = r.one(12)
	if r.one(3) {
		o.ErrorNode = r.n(2)
		o.ReadError = pick(&r, 0, 1000, 20000)
		o.WriteError = pick(&r, 0, 500, 5000)
		o.FlushError = pick(&r, 0, 5000, 30000)
		o.MetaError = pick(&r, 0, 0, 5000)
	}
	o.Stall = pick(&r, 0, 0, 500, 3000)
	o.drawMore(random{seed*0xd1342543de82ef95 + 7})
	return o
}

// drawMore makes the newer parts of the plan, from numbers of their own: so the older parts of a seed's plan stay what they were.
func (o *Options) drawMore(r random) {
	if o.FlushError > 0 {
		o.DoubtError = pick(&r, 0, 100000, 400000)
	}
	o.Pages = r.one(4)
	if o.FlushError > 0 {
		o.AloneError = pick(&r, 0, 0, 300000)
		o.PageError = pick(&r, 0, 0, 300000)
	}
	o.Single = r.one(3)
	o.SlowMount = r.one(4)
	o.Moved = r.one(2)
	o.drawRare(random{r.next()*0x9e3779b97f4a7c15 + 31})
}

// drawRare does the same for the newest parts.
func (o *Options) drawRare(r random) {
	if o.FlushError > 0 {
		o.GreetError = pick(&r, 0, 0, 0, 30000, 200000)
	}
	o.GreetCut = o.Cut > 0 && r.one(4)
	chase := random{r.next()*0xd1342543de82ef95 + 6}
	o.Chase = chase.one(6)
}

func pick(r *random, v ...int) int { return v[r.n(len(v))] }
