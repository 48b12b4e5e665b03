package sim

import (
	"fmt"
	"os"
	"testing"
)

var few = func() uint64 {
	n := uint64(300)
	fmt.Sscan(os.Getenv("FEW"), &n)
	return n
}()

func TestFew(t *testing.T) {
	n := map[string][]uint64{}
	for s := uint64(1); s <= few; s++ {
		r := Run(s, Draw(s), false)
		if r.Violation != nil {
			n[r.Violation.Checker] = append(n[r.Violation.Checker], s)
			if len(n[r.Violation.Checker]) < 4 {
				t.Logf("%d: %+v\n%s", s, r.Violation, fmt.Sprintf("%+v", r.Options))
			}
		}
	}
	t.Log(n)
}

func TestOne(t *testing.T) {
	var s uint64
	fmt.Sscan(os.Getenv("SEED"), &s)
	r := Run(s, Draw(s), true)
	for _, l := range r.Trace {
		fmt.Println(l)
	}
}
