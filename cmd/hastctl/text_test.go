package main

import (
	"encoding/json"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hast/proto/ctl"
)

func TestStatusText(t *testing.T) {
	all := &ctl.StatusReply{}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		r := reply(name)
		var b strings.Builder
		statusText(&b, r, at())
		golden(t, "status-"+name+".txt", b.String())
		s := r.Resources[0]
		s.Name = name
		all.Resources = append(all.Resources, s)
	}
	var b strings.Builder
	statusText(&b, all, at())
	golden(t, "status-all.txt", b.String())
	for _, s := range ctl.States {
		if !strings.Contains(b.String(), string(s)) {
			t.Errorf("no case shows state %s", s)
		}
	}
	statusText(&b, &ctl.StatusReply{}, at()) // nothing configured: nothing to say, and no panic
}

func TestListText(t *testing.T) {
	for _, name := range []string{"connected", "init", "syncing", "disk-errors"} {
		var b strings.Builder
		listText(&b, reply(name), at())
		golden(t, "list-"+name+".txt", b.String())
	}
}

// The JSON is the protocol's: what comes in goes out, and every field has a snake-case name.
func TestJSON(t *testing.T) {
	r := reply("syncing")
	var b strings.Builder
	printJSON(&b, r)
	golden(t, "status.json", b.String())
	var back ctl.StatusReply
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || !reflect.DeepEqual(&back, r) {
		t.Errorf("%v: %+v", err, back)
	}
}

// Every field of a status is shown by list when it is set: one that is added and forgotten there fails here.
func TestListShowsEverything(t *testing.T) {
	full := normal()
	for _, name := range []string{"disk-errors", "degraded", "syncing"} {
		cases[name](&full)
	}
	full.Why, full.Pending, full.Metadata, full.Source, full.Base = "why", "pending", "/meta", "10.0.0.1", full.Current
	full.Stale, full.StaleSeconds = true, 3
	full.Status = "degraded"
	text := func(s ctl.ResourceStatus) string {
		var b strings.Builder
		listText(&b, &ctl.StatusReply{Resources: []ctl.ResourceStatus{s}}, at())
		return b.String()
	}
	whole := text(full)
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsZero() {
			t.Errorf("the fixture lacks %s", name)
			continue
		}
		cut := full
		if f := reflect.ValueOf(&cut).Elem().Field(i); name != "Role" && name != "Mode" {
			f.SetZero()
		} else {
			f.SetUint(f.Uint() + 1)
		}
		if text(cut) == whole {
			t.Errorf("list does not show %s", name)
		}
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 102297: "99.9 KiB", 102400: "100 KiB",
		1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 1288490188: "1.2 GiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "0 s", 0: "0 s", 59 * time.Second: "59 s", 61 * time.Second: "1 min 1 s",
		time.Hour: "1 h 0 min", 25*time.Hour + time.Minute: "1 d 1 h"} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestNewSync(t *testing.T) {
	if s := ctl.NewSync(true, 0, 0, 0, -1, 0); s.Percent != 100 || s.SecondsLeft != nil {
		t.Errorf("%+v", s)
	}
	if s := ctl.NewSync(true, 100, 150, 1, 10, 0); s.LeftBytes != 0 || s.Percent != 100 || *s.SecondsLeft != 0 {
		t.Errorf("%+v", s)
	}
	if s := ctl.NewSync(true, 100, 50, 1, 10, 0); s.RateBytes != 5 || *s.SecondsLeft != 10 {
		t.Errorf("%+v", s)
	}
	statusText(io.Discard, reply("syncing"), at())
}
