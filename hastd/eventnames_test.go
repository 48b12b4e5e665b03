package hastd

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hast/hastd/replica"
	"hast/hastd/worker/ipc"
)

// The events are an interface: hastctl(8) has each of them and no other, and operations.md names them.
func TestEventsAreDocumented(t *testing.T) {
	want := map[string]bool{"role": true, "worker-died": true, "reload": true,
		ipc.EventAuthFailed: true, ipc.EventStall: true, ipc.EventStallEnd: true}
	for k := replica.ReportKind(1); k.String() != "invalid"; k++ {
		want[k.String()] = true
	}
	man, err := os.ReadFile("../docs/man/hastctl.8")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(man), "\nThese are the events, with their fields:\n")
	text, rest, ok := strings.Cut(text, "\n.PP\n")
	if !ok || !strings.Contains(rest, "Three events without an id") {
		t.Fatal("the list of events is not where it was")
	}
	got := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.TP\n\.B (.*)$`).FindAllStringSubmatch(text, -1) {
		got[strings.ReplaceAll(m[1], `\-`, "-")] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("documented: %v\nhappening:  %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	ops, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if !strings.Contains(string(ops), "`"+name+"`") {
			t.Errorf("operations.md does not name %s", name)
		}
	}
	for _, name := range []string{ipc.FieldRemote, ipc.FieldReason, ipc.FieldDisk, ipc.FieldSeconds, ipc.ReasonKey, ipc.ReasonEncrypt, ipc.ReasonLoop, ipc.DiskLocal, ipc.DiskPeer} {
		if !regexp.MustCompile(`(?m)^\.BR? ` + name + `( [,.:])?$`).MatchString(text) {
			t.Errorf("hastctl(8) does not explain %s", name)
		}
	}
}
