package role

import (
	"fmt"

	"hast/proto"
)

// Decide judges what mine and theirs say. Rules are evaluated in order; the
// first that applies decides. Directions are found by direction and then
// checked by guard, so that no rule can overwrite a copy that must not be.
func Decide(mine, theirs Side) Verdict {
	// 1-4: facts that forbid any sync, whatever the data says.
	switch {
	case mine.DataSize == theirs.DataSize && mine.ExtentSize == theirs.ExtentSize && mine.Logical != theirs.Logical:
		return Verdict{Refused, 1, blocksDiffer(&mine, &theirs)}
	case mine.DataSize != theirs.DataSize || mine.ExtentSize != theirs.ExtentSize || mine.Logical != theirs.Logical:
		return Verdict{Refused, 1, fmt.Sprintf("the sizes differ: %s has %d bytes in extents of %d and blocks of %d, %s has %d, %d and %d; create both with the same -m, -e and --logical",
			mine.Node, mine.DataSize, mine.ExtentSize, mine.Logical, theirs.Node, theirs.DataSize, theirs.ExtentSize, theirs.Logical)}
	case mine.Node == theirs.Node:
		return Verdict{Refused, 2, "the peer has this node's own name: check remote and the node names"}
	case mine.Blank != mine.Current.IsZero() || theirs.Blank != theirs.Current.IsZero():
		return Verdict{Impossible, 3, "a blank copy with a generation"}
	case !mine.Resource.IsZero() && !theirs.Resource.IsZero() && mine.Resource != theirs.Resource:
		return Verdict{Unrelated, 4, fmt.Sprintf("the copies belong to different resources (%s here, %s there): on the node whose data is to be discarded run role init, create --force, role secondary",
			mine.Resource.Short(), theirs.Resource.Short())}
	}
	// 5: one epoch number, two nodes that served under it.
	if e, f := mine.Epoch, theirs.Epoch; e.Number == f.Number && e.Number != 0 && e.Node != f.Node && mine.Served == theirs.Served {
		if mine.Role == proto.RolePrimary && theirs.Role == proto.RolePrimary {
			return Verdict{SplitBrain, 5, fmt.Sprintf("both nodes are primary in epoch %d", e.Number)}
		}
	}
	v := direction(&mine, &theirs)
	// 6: two primaries never sync; whether they have diverged is the question.
	if mine.Role == proto.RolePrimary && theirs.Role == proto.RolePrimary {
		if v.Action == SplitBrain || v.Action == Unrelated || v.Action == Impossible {
			return v
		}
		return Verdict{PeerPrimary, 6, "both nodes are primary: make one of them secondary"}
	}
	return guard(&mine, &theirs, v)
}

// blocksDiffer is what an adopted device and a plain create make: one of 512-byte blocks, and 4096 on the peer.
func blocksDiffer(mine, theirs *Side) string {
	keep, lose, where := mine, theirs, "on the node whose copy is to be overwritten"
	if mine.Blank != theirs.Blank {
		if mine.Blank {
			keep, lose = theirs, mine
		}
		where = fmt.Sprintf("on %s, whose copy is blank", lose.Node)
	}
	return fmt.Sprintf("the sizes differ: %s has blocks of %d bytes, %s of %d; run %s: hastctl role init, hastctl create --force --logical %d (the other node's), hastctl role secondary",
		keep.Node, keep.Logical, lose.Node, lose.Logical, where, keep.Logical)
}

// direction compares the data alone.
func direction(mine, theirs *Side) Verdict {
	// Before blankness: a blank target stays blank until its first sync is done.
	if v, ok := session(mine, theirs); ok {
		return v
	}
	switch {
	case mine.Blank && theirs.Blank:
		return blank(mine, theirs)
	case mine.Blank:
		return Verdict{TargetFull, 11, "this copy is blank"}
	case theirs.Blank:
		return Verdict{SourceFull, 11, "the peer's copy is blank"}
	}
	if mine.Current == theirs.Current {
		return equal(mine, theirs)
	}
	return related(mine, theirs)
}

// blank decides between two copies without a generation: nothing was ever
// written through either, so there is nothing to move (rule 16). Marks or half a
// sync on one of them contradict that, and neither copy can say what the truth is.
func blank(mine, theirs *Side) Verdict {
	for _, s := range []*Side{mine, theirs} {
		if s.Marks || s.Data == proto.DataInconsistent {
			return Verdict{Refused, 9, fmt.Sprintf("both copies are blank, yet %s has marks or half a sync: run role init, create --force, role secondary there", s.Node)}
		}
	}
	return Verdict{NoSync, 10, "both copies are blank"}
}

// session goes on with a sync that both remember and neither has left behind.
func session(mine, theirs *Side) (Verdict, bool) {
	if mine.SyncID.IsZero() || mine.SyncID != theirs.SyncID || mine.SyncRole+theirs.SyncRole != 3 || mine.SyncRole == 0 || theirs.SyncRole == 0 {
		return Verdict{}, false
	}
	source, target := mine, theirs
	if mine.SyncRole == 2 {
		source, target = theirs, mine
	}
	// The source may have gone on to newer generations; the target must not have.
	if target.Data != proto.DataInconsistent || source.Data == proto.DataInconsistent || source.Blank ||
		!target.Blank && !source.descends(target.Current) {
		return Verdict{}, false
	}
	if mine == source {
		return Verdict{Source, 12, "an interrupted sync to the peer goes on"}, true
	}
	return Verdict{Target, 12, "an interrupted sync from the peer goes on"}, true
}

// equal decides between copies of one generation. They can differ only by what
// was under way, or unflushed, when something crashed; the marks say where.
func equal(mine, theirs *Side) Verdict {
	mi, ti := mine.Data == proto.DataInconsistent, theirs.Data == proto.DataInconsistent
	switch {
	case mi && ti:
		return Verdict{Refused, 20, "both copies are inconsistent: neither can be a source"}
	case mi:
		return Verdict{TargetFull, 21, "this copy is inconsistent"}
	case ti:
		return Verdict{SourceFull, 21, "the peer's copy is inconsistent"}
	case !mine.Marks && !theirs.Marks:
		return Verdict{NoSync, 22, "both copies are of one generation and nothing is marked"}
	}
	if sourceOfEqual(mine, theirs) {
		return Verdict{Source, 23, "one generation with marks: this copy is the source"}
	}
	return Verdict{Target, 23, "one generation with marks: the peer's copy is the source"}
}

// sourceOfEqual picks the copy that has every acknowledged write. It is antisymmetric.
func sourceOfEqual(mine, theirs *Side) bool {
	// A copy that failed a flush may lack what it took last; the other one has all of it, unless it was async's lag, or
	// memsync's frames that were received and died with a worker.
	if mine.FlushFailed != theirs.FlushFailed {
		failed, other := mine, theirs
		if theirs.FlushFailed {
			failed, other = theirs, mine
		}
		if failed.Mode == proto.ModeFullsync || failed.Mode == proto.ModeMemsync && other.Intact {
			return other == mine
		}
	}
	// A primary that has served is what its users have seen.
	if m, t := serving(mine), serving(theirs); m != t {
		return m
	}
	// Known to be older, or changed behind hastd's back: never the source for one of which that is not known.
	if m, t := mine.Data == proto.DataOutdated, theirs.Data == proto.DataOutdated; m != t {
		return t
	}
	// One crashed as primary: it has everything that was acknowledged, unless its kernel
	// went down with its disk's cache. The other one has it too, if it is intact and the mode waited for it.
	if mine.Crashed != theirs.Crashed {
		crashed, other := mine, theirs
		if theirs.Crashed {
			crashed, other = theirs, mine
		}
		source := crashed
		if other.Intact && crashed.Mode != proto.ModeAsync && (crashed.Rebooted || other.Role == proto.RolePrimary) {
			source = other
		}
		return source == mine
	}
	// Neither crashed. What has no marks has nothing that the other lacks; what has them may
	// hold writes that async acknowledged and the link lost.
	if m, t := own(mine), own(theirs); m != t {
		return m
	}
	if mine.Role != theirs.Role {
		return mine.Role == proto.RolePrimary
	}
	if mine.Epoch.Number != theirs.Epoch.Number {
		return mine.Epoch.Number > theirs.Epoch.Number
	}
	return less(theirs.Node, mine.Node)
}

// own reports whether s has marks of its own making.
func own(s *Side) bool { return s.Marks && !s.Merged }

func serving(s *Side) bool { return s.Role == proto.RolePrimary && s.Served }

func less(a, b proto.Node) bool { return string(a[:]) < string(b[:]) }

// related decides between different generations.
func related(mine, theirs *Side) Verdict {
	// The peer's marks began at the generation that I am at, and I have not gone on from there.
	behind := theirs.Base == mine.Current
	ahead := mine.Base == theirs.Current
	switch {
	case ahead && behind:
		return Verdict{Impossible, 30, "each copy claims to have begun at the other's generation"}
	case behind:
		return Verdict{Target, 31, "the peer wrote while this node was away"}
	case ahead:
		return Verdict{Source, 31, "this node wrote while the peer was away"}
	}
	behind = theirs.inHistory(mine.Current)
	ahead = mine.inHistory(theirs.Current)
	switch {
	case ahead && behind:
		return Verdict{Impossible, 32, "each copy is in the other's past"}
	case behind:
		return Verdict{TargetFull, 33, "this copy is an older generation of the peer's"}
	case ahead:
		return Verdict{SourceFull, 33, "the peer's copy is an older generation of this one"}
	}
	if common(mine, theirs) {
		return Verdict{SplitBrain, 34, "both copies went on from a common generation"}
	}
	return Verdict{Unrelated, 35, "the copies have no generation in common: on the node whose data is to be discarded run role init, create --force, role secondary"}
}

// common reports whether some generation is in both pasts.
func common(mine, theirs *Side) bool {
	if !mine.Base.IsZero() && (mine.Base == theirs.Base || theirs.inHistory(mine.Base)) || mine.inHistory(theirs.Base) {
		return true
	}
	for _, h := range mine.History {
		if theirs.inHistory(h) {
			return true
		}
	}
	return false
}

// guard refuses directions that would destroy something.
func guard(mine, theirs *Side, v Verdict) Verdict {
	source, target := mine, theirs
	switch v.Action {
	case Source, SourceFull:
	case Target, TargetFull:
		source, target = theirs, mine
	default:
		return v
	}
	switch {
	case source.Data == proto.DataInconsistent:
		return Verdict{Refused, 40, fmt.Sprintf("%s would be the source, and is inconsistent: its own sync has to end first, or a node be created anew", source.Node)}
	case serving(target) && !(source.Epoch == target.Epoch && !target.Epoch.Node.IsZero() && target.Epoch.Node == target.Node):
		return Verdict{Refused, 41, fmt.Sprintf("%s has newer data, and the primary %s has served its own: stop its users and run role secondary there", source.Node, target.Node)}
	}
	return v
}
