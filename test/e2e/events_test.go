package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"hast/proto/ctl"
	"hast/test/lab"
)

// events returns those of the node's events that have one of the names, as hastctl prints them: name and fields, in order.
func events(t *testing.T, n *lab.Node, names ...string) (list []string) {
	t.Helper()
	lines := sh(t, n, "timeout -s INT 1 hastctl events --since 0 || test $? = 124")
	for line := range strings.Lines(lines) {
		var e ctl.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v in %s", n.Name, err, line)
		}
		if !slices.Contains(names, e.Event) {
			continue
		}
		if e.ID == 0 || e.Time.IsZero() || e.Resource != "data" || e.Text == "" {
			t.Errorf("%s: an event lacks something: %s", n.Name, line)
		}
		text := e.Event
		for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
			text += fmt.Sprintf(" %s=%s", k, e.Fields[k])
		}
		list = append(list, text)
	}
	return list
}
