package role

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hast/extent"
	"hast/proto"
)

// Generations of the small universe. c is never anybody's past.
var (
	idA = proto.ID{1}
	idB = proto.ID{2}
	idC = proto.ID{3}
	idD = proto.ID{4}
	idX = proto.ID{0xa0} // a sync session
	idY = proto.ID{0xb0}
)

func past(ids ...proto.ID) (h [extent.HistoryLen]proto.ID) {
	copy(h[:], ids)
	return h
}

func base() Side {
	return Side{Node: proto.MakeNode("a"), Role: proto.RoleSecondary, Resource: proto.ID{9}, Current: idA, Data: proto.DataUpToDate,
		Epoch: proto.Epoch{Number: 5, Node: proto.MakeNode("a")}, Mode: proto.ModeFullsync, DataSize: 1 << 30, ExtentSize: 2 << 20, Logical: 4096}
}

// A variant changes a side; the universe is a product of variants.
type variant func(s *Side)

var roles = []variant{
	func(s *Side) {},
	func(s *Side) { s.Role = proto.RolePrimary },
	func(s *Side) { s.Role, s.Served = proto.RolePrimary, true },
}

func lineages() (list []variant) {
	list = append(list, func(s *Side) { s.Current, s.Blank = proto.ID{}, true })
	for _, current := range []proto.ID{idA, idB, idC} {
		for _, b := range []proto.ID{{}, idA, idB, idD} {
			for _, h := range [][extent.HistoryLen]proto.ID{past(), past(idA), past(idB), past(idD), past(idA, idD), past(idB, idA)} {
				if b != current && h[0] != current && h[1] != current {
					list = append(list, func(s *Side) { s.Current, s.Base, s.History = current, b, h })
				}
			}
		}
	}
	return list
}

var states = []variant{
	func(s *Side) {},
	func(s *Side) { s.Data = proto.DataInconsistent },
}

var marks = []variant{
	func(s *Side) {},
	func(s *Side) { s.Marks = true },
	func(s *Side) { s.Marks, s.Merged = true, true },
}

var crashes = []variant{
	func(s *Side) {},
	func(s *Side) { s.Crashed = true },
	func(s *Side) { s.Crashed, s.Rebooted = true, true },
	func(s *Side) { s.Crashed, s.Rebooted, s.Mode = true, true, proto.ModeAsync },
	func(s *Side) { s.Intact = true },
	func(s *Side) { s.FlushFailed = true },
	func(s *Side) { s.FlushFailed, s.Crashed, s.Mode = true, true, proto.ModeAsync },
}

var sessions = []variant{
	func(s *Side) {},
	func(s *Side) { s.SyncID, s.SyncRole = idX, extent.SyncSource },
	func(s *Side) { s.SyncID, s.SyncRole = idX, extent.SyncTarget },
	func(s *Side) { s.SyncID, s.SyncRole = idY, extent.SyncTarget },
}

var epochs = []variant{
	func(s *Side) {},
	func(s *Side) { s.Epoch.Node = proto.MakeNode("b") },
	func(s *Side) { s.Epoch.Number = 6 },
	func(s *Side) { s.Epoch = proto.Epoch{} },
}

var datas = []variant{
	func(s *Side) {},
	func(s *Side) { s.Data = proto.DataInconsistent },
	func(s *Side) { s.Data = proto.DataOutdated },
	func(s *Side) { s.Data = proto.DataConsistent },
}

var resources = []variant{
	func(s *Side) {},
	func(s *Side) { s.Resource = proto.ID{} },
	func(s *Side) { s.Resource = proto.ID{8} },
	func(s *Side) { s.DataSize = 2 << 30 },
	func(s *Side) { s.Node = proto.MakeNode("b") },
}

// product returns all sides that the variants make.
func product(axes ...[]variant) []Side {
	sides := []Side{base()}
	for _, axis := range axes {
		next := make([]Side, 0, len(sides)*len(axis))
		for _, s := range sides {
			for _, v := range axis {
				t := s
				v(&t)
				next = append(next, t)
			}
		}
		sides = next
	}
	return sides
}

// check asserts everything that must hold of any two sides, whatever the rules are.
func check(mine, theirs Side) error {
	v, w := Decide(mine, theirs), Decide(theirs, mine)
	if w.Action != v.Action.Mirror() || w.Rule != v.Rule {
		return fmt.Errorf("rule 7: %v by rule %d, the peer says %v by rule %d", v.Action, v.Rule, w.Action, w.Rule)
	}
	if v.Action == 0 || v.Action.String() == "invalid" || v.Why == "" || v.Rule == 0 {
		return fmt.Errorf("no verdict: %+v", v)
	}
	if mine.Role == proto.RolePrimary && theirs.Role == proto.RolePrimary && v.Action <= TargetFull {
		return fmt.Errorf("two primaries, %v", v.Action)
	}
	switch v.Action {
	case NoSync:
		return checkEqual(&mine, &theirs)
	case Source, SourceFull:
		return checkSync(&mine, &theirs, v.Action == SourceFull)
	case Target, TargetFull:
		return checkSync(&theirs, &mine, v.Action == TargetFull)
	}
	return nil
}

func checkEqual(a, b *Side) error {
	switch {
	case a.Marks || b.Marks:
		return fmt.Errorf("no sync although something is marked")
	case a.Current != b.Current:
		return fmt.Errorf("no sync between generations %s and %s", a.Current.Short(), b.Current.Short())
	case a.Data == proto.DataInconsistent || b.Data == proto.DataInconsistent:
		return fmt.Errorf("no sync of an inconsistent copy")
	}
	return nil
}

func checkSync(source, target *Side, full bool) error {
	resumed := !source.SyncID.IsZero() && source.SyncID == target.SyncID &&
		source.SyncRole == extent.SyncSource && target.SyncRole == extent.SyncTarget
	bitmap := target.Current == source.Current || target.Current == source.Base
	switch {
	case source.Data == proto.DataInconsistent:
		return fmt.Errorf("the source is inconsistent")
	case source.Blank:
		return fmt.Errorf("the source is blank")
	case target.Role == proto.RolePrimary && target.Served && !(source.Epoch == target.Epoch && target.Epoch.Node == target.Node):
		return fmt.Errorf("a primary that has served becomes target")
	case !target.Blank && !source.descends(target.Current):
		return fmt.Errorf("generation %s would be overwritten, which the source never had", target.Current.Short())
	case !full && !bitmap && !resumed:
		return fmt.Errorf("only marks are sent, which began elsewhere")
	case target.Blank && !full && !resumed:
		return fmt.Errorf("a blank copy gets marks only")
	case source.Current == target.Current && !target.Blank && target.Role == proto.RolePrimary && target.Served && target.Data != proto.DataInconsistent && !target.FlushFailed:
		return fmt.Errorf("equal generations: what the users saw is overwritten")
	}
	return nil
}

// peerOf makes a side the other node.
func peerOf(s Side) Side {
	if s.Node == proto.MakeNode("b") {
		s.Node = proto.MakeNode("a")
	} else {
		s.Node = proto.MakeNode("b")
	}
	return s
}

// every runs check over all pairs, the second side being the other node.
func every(t *testing.T, sides []Side) {
	t.Helper()
	seen := map[int]int{}
	for i := range sides {
		for j := range sides {
			theirs := peerOf(sides[j])
			if err := check(sides[i], theirs); err != nil {
				t.Fatalf("%v\nmine   %+v\ntheirs %+v\n%+v", err, sides[i], theirs, Decide(sides[i], theirs))
			}
			seen[Decide(sides[i], theirs).Rule]++
		}
	}
	t.Logf("%d pairs, rules %v", len(sides)*len(sides), seen)
}

func TestEveryLineage(t *testing.T) { every(t, product(roles, lineages(), marks)) }

func TestEverySession(t *testing.T) {
	some := []variant{
		func(s *Side) { s.Current, s.Blank = proto.ID{}, true },
		func(s *Side) {},
		func(s *Side) { s.Current, s.Base = idB, idA },
		func(s *Side) { s.Current, s.Base = idC, idA },
		func(s *Side) { s.Current, s.History = idB, past(idA) },
	}
	every(t, product(roles, some, states, marks, sessions, epochs[:2]))
}

func TestEveryCrash(t *testing.T) {
	some := []variant{
		func(s *Side) {},
		func(s *Side) { s.Current, s.Base = idB, idA },
	}
	every(t, product(roles, some, datas, marks, crashes, epochs[:3]))
}

func TestEveryRefusal(t *testing.T) {
	every(t, product(roles, resources, epochs, marks, states, []variant{
		func(s *Side) {},
		func(s *Side) { s.Current, s.Blank = proto.ID{}, true },
		func(s *Side) { s.Blank = true },
	}))
}

// The whole product is too large to enumerate; a million pairs of it, the same every time.
func TestSampleOfEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	axes := [][]variant{roles, lineages(), datas, marks, crashes, sessions, epochs, resources[:2]}
	draw := func() Side {
		s := base()
		for _, axis := range axes {
			axis[r.IntN(len(axis))](&s)
		}
		return s
	}
	for range 500_000 {
		mine, theirs := draw(), peerOf(draw())
		if err := check(mine, theirs); err != nil {
			t.Fatalf("%v\nmine   %+v\ntheirs %+v", err, mine, theirs)
		}
	}
}

func TestMirror(t *testing.T) {
	for a := NoSync; a <= Impossible; a++ {
		if a.Mirror().Mirror() != a || a.String() == "invalid" {
			t.Errorf("%v mirrors to %v", a, a.Mirror())
		}
	}
	if Action(0).String() != "invalid" {
		t.Error("the zero action has a name")
	}
}

// The cases that two-node replicators are known to meet, one line each.
func TestNamedCases(t *testing.T) {
	primary := func(s *Side) { s.Role = proto.RolePrimary }
	served := func(s *Side) { s.Role, s.Served = proto.RolePrimary, true }
	blank := func(s *Side) {
		s.Current, s.Blank, s.Resource, s.Data = proto.ID{}, true, proto.ID{}, proto.DataConsistent
	}
	marked := func(s *Side) { s.Marks = true }
	merged := func(s *Side) { s.Marks, s.Merged = true, true }
	intact := func(s *Side) { s.Intact = true }
	crashed := func(s *Side) { s.Crashed, s.Marks = true, true }
	rebooted := func(s *Side) { s.Crashed, s.Rebooted, s.Marks = true, true, true }
	inconsistent := func(s *Side) { s.Data = proto.DataInconsistent }
	async := func(s *Side) { s.Mode = proto.ModeAsync }
	memsync := func(s *Side) { s.Mode = proto.ModeMemsync }
	atB := func(s *Side) { s.Current, s.Base, s.History = idB, idA, past(idA) }
	atC := func(s *Side) { s.Current, s.Base, s.History = idC, idA, past(idA) }
	atD := func(s *Side) { s.Current, s.Base, s.History = idD, proto.ID{}, past() }
	twoOn := func(s *Side) { s.Current, s.Base, s.History = idC, idB, past(idB, idA) }
	source := func(s *Side) { s.SyncID, s.SyncRole, s.Marks = idX, extent.SyncSource, true }
	target := func(s *Side) { s.SyncID, s.SyncRole, s.Data = idX, extent.SyncTarget, proto.DataInconsistent }
	epochB := func(s *Side) { s.Epoch = proto.Epoch{Number: 5, Node: proto.MakeNode("b")} }
	newer := func(s *Side) { s.Epoch = proto.Epoch{Number: 6, Node: proto.MakeNode("b")} }
	type list = []variant
	for _, c := range []struct {
		name         string
		mine, theirs list
		want         Action
		rule         int
	}{
		{"just created, both", list{primary, blank}, list{blank}, NoSync, 10},
		{"just created, both, damaged map on one", list{primary, blank}, list{blank, marked}, Refused, 9},
		{"just created, one of them half synced by a former peer", list{primary, blank}, list{blank, target}, Refused, 9},
		{"just created, peer", list{served}, list{blank}, SourceFull, 11},
		{"just created, self", list{blank}, list{served}, TargetFull, 11},
		{"a blank primary and its peer's data", list{primary, blank}, list{}, TargetFull, 11},
		{"a blank primary that served", list{served, blank}, list{newer}, Refused, 41},
		{"a blank primary that served its peer's data", list{served, blank}, list{}, TargetFull, 11},
		{"first sync was interrupted", list{served, source}, list{blank, target}, Source, 12},
		{"first sync was interrupted, the primary went on", list{served, source, atB}, list{blank, target}, Source, 12},
		{"a blank copy of another session", list{served}, list{blank, target}, SourceFull, 11},
		{"sync was interrupted", list{served, source, atB}, list{target}, Source, 12},
		{"sync was interrupted, the target missed its end", list{served, atB}, list{target}, Source, 31},
		{"sync was interrupted, primary is the target", list{served, target}, list{source, atB}, Target, 12},
		{"... and meanwhile the source had a term of its own", list{served, target}, list{source, atB, newer}, Refused, 41},
		{"interrupted twice: the source became inconsistent too", list{primary, source, inconsistent}, list{target}, Refused, 20},
		{"session, and the target wrote on its own", list{primary, source, atB}, list{target, atC}, SplitBrain, 34},
		{"link flap, idle", list{served}, list{intact}, NoSync, 22},
		{"link flap, writes under way", list{served, marked}, list{intact}, Source, 23},
		{"one side restarted cleanly", list{served}, list{}, NoSync, 22},
		{"equal ids, dirty bits on the secondary only", list{served}, list{marked}, Source, 23},
		{"equal ids, bits of an async lag on a demoted primary", list{primary}, list{marked, async}, Target, 23},
		{"... which the next primary took over, and the link went", list{primary, merged}, list{marked, async}, Target, 23},
		{"... and both of them restarted", list{merged}, list{primary, marked, async}, Target, 23},
		{"equal ids, bits on both, taken over by both", list{primary, merged}, list{merged}, Source, 23},
		{"equal ids, bits on both", list{primary, marked}, list{marked}, Source, 23},
		{"primary's worker died, nobody noticed", list{primary, crashed}, list{intact}, Source, 23},
		{"primary rebooted, survivor waits", list{primary, rebooted}, list{intact}, Target, 23},
		{"primary rebooted, memsync, survivor waits", list{primary, rebooted, memsync}, list{intact}, Target, 23},
		{"primary rebooted, async", list{primary, rebooted, async}, list{intact}, Source, 23},
		{"crashed primary meets the survivor that took over, no writes yet", list{rebooted}, list{primary, intact}, Target, 23},
		{"crashed primary meets the survivor that serves", list{crashed}, list{served}, Target, 23},
		{"async primary crashed, survivor took over, no writes yet", list{crashed, async}, list{primary, intact}, Source, 23},
		{"common power loss", list{rebooted}, list{}, Source, 23},
		{"common power loss, the former secondary was promoted", list{rebooted}, list{primary}, Source, 23},
		{"both inconsistent", list{primary, inconsistent}, list{inconsistent}, Refused, 20},
		{"equal, one inconsistent", list{served}, list{inconsistent}, SourceFull, 21},
		{"equal, the serving primary inconsistent", list{served, inconsistent}, list{}, TargetFull, 21},
		{"peer wrote while I was away", list{}, list{served, atB}, Target, 31},
		{"I wrote while the peer was away", list{served, atB}, list{}, Source, 31},
		{"I wrote, the peer's copy failed a write", list{served, atB}, list{inconsistent}, Source, 31},
		{"an outage and a crash", list{}, list{primary, atB, rebooted}, Target, 31},
		{"an older generation of the peer's", list{}, list{served, twoOn}, TargetFull, 33},
		{"the peer's is an older generation", list{served, twoOn}, list{}, SourceFull, 33},
		{"the newer copy is inconsistent", list{}, list{primary, twoOn, inconsistent}, Refused, 40},
		{"local disk lost, the peer went on for me", list{served}, list{atB}, Target, 31},
		{"a stale primary that served meets newer data", list{served}, list{atB, newer}, Refused, 41},
		{"a stale primary that did not serve meets newer data", list{primary}, list{atB, newer}, Target, 31},
		{"split brain, healed by a person's demotion", list{served, atB}, list{atC}, SplitBrain, 34},
		{"split brain, both still primary", list{served, atB}, list{served, atC, newer}, SplitBrain, 34},
		{"split brain, history only", list{atB}, list{func(s *Side) { s.Current, s.History = idC, past(idA) }}, SplitBrain, 34},
		{"unrelated data", list{primary}, list{atD}, Unrelated, 35},
		{"both primary, one outdated", list{served}, list{served, atB, newer}, PeerPrimary, 6},
		{"both primary, nobody wrote", list{primary}, list{primary, newer}, PeerPrimary, 6},
		{"both primary in one epoch", list{served}, list{served, epochB}, SplitBrain, 5},
		{"each in the other's past", list{func(s *Side) { s.Current, s.History = idB, past(idA) }}, list{func(s *Side) { s.History = past(idB) }}, Impossible, 32},
		{"each began at the other's", list{func(s *Side) { s.Base = idB }}, list{atB}, Impossible, 30},
		{"resources differ", list{}, list{func(s *Side) { s.Resource = proto.ID{8} }}, Unrelated, 4},
		{"sizes differ", list{}, list{func(s *Side) { s.DataSize = 1 << 20 }}, Refused, 1},
		{"extent sizes differ", list{}, list{func(s *Side) { s.ExtentSize = 1 << 20 }}, Refused, 1},
		{"logical blocks differ", list{}, list{func(s *Side) { s.Logical = 512 }}, Refused, 1},
		{"talks to itself", list{}, list{func(s *Side) { s.Node = proto.MakeNode("a") }}, Refused, 2},
		{"blank with a generation", list{func(s *Side) { s.Blank = true }}, list{}, Impossible, 3},
	} {
		mine, theirs := base(), peerOf(base())
		for _, v := range c.mine {
			v(&mine)
		}
		for _, v := range c.theirs {
			v(&theirs)
		}
		if got := Decide(mine, theirs); got.Action != c.want || got.Rule != c.rule {
			t.Errorf("%s: %v by rule %d (%s), want %v by %d", c.name, got.Action, got.Rule, got.Why, c.want, c.rule)
		}
		if err := check(mine, theirs); err != nil && c.rule != 2 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A refusal names the nodes and what to do.
func TestRefusalsSayWhatToDo(t *testing.T) {
	small, other := base(), peerOf(base())
	small.DataSize = 4096
	if why := Decide(small, other).Why; !strings.Contains(why, "4096") || !strings.Contains(why, "1073741824") {
		t.Errorf("not both sizes: %s", why)
	}
	adopted, plain := base(), peerOf(base())
	adopted.Logical, plain.Logical, plain.Blank, plain.Current = 512, 4096, true, proto.ID{}
	for _, v := range []Verdict{Decide(adopted, plain), Decide(plain, adopted)} {
		if v.Action != Refused || !strings.Contains(v.Why, "--logical 512") || !strings.Contains(v.Why, "run on "+plain.Node.String()) {
			t.Errorf("no way to equal blocks: %s", v.Why)
		}
	}
	stale, newer := base(), peerOf(base())
	stale.Role, stale.Served = proto.RolePrimary, true
	newer.Current, newer.Base, newer.Epoch.Number = idB, idA, 6
	if why := Decide(stale, newer).Why; !strings.Contains(why, "role secondary") {
		t.Errorf("no way out: %s", why)
	}
}
