package config

import (
	"reflect"
	"strings"
	"testing"
)

// mustParse resolves text for hb1.
func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f", []byte(text), "hb1")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDiff(t *testing.T) {
	base := "TOP\n" + twoNodes + "[resource.a]\nlocal = \"/dev/sda1\"\n[resource.b]\nlocal = \"/dev/sdb1\"\nIN\n"
	file := func(top, in string) *Config {
		return mustParse(t, strings.NewReplacer("TOP", top, "IN", in).Replace(base))
	}
	both := func(k Kind, keys ...string) []ResourceChange {
		return []ResourceChange{{"a", k, keys}, {"b", k, keys}}
	}
	b := func(k Kind, keys ...string) []ResourceChange { return []ResourceChange{{"b", k, keys}} }
	for _, c := range []struct {
		top, in string
		want    Changes
	}{
		{"", "", Changes{}},
		{"# a comment", "timeout = '20s'", Changes{}},
		{"replication = 'async'", "", Changes{Resources: both(Live, "replication")}},
		{"", "replication = 'memsync'\nchecksum = 'none'", Changes{Resources: b(Live, "replication", "checksum")}},
		{"", "compression = 'lz4'\ntimeout = 3\nmetaflush = false\nsync_rate = '1M'\nidle_clean = 0\nexec = '/x'\nhook_timeout = 5\non_peer_loss = 'freeze'",
			Changes{Resources: b(Live, "timeout", "on_peer_loss", "compression", "metaflush", "sync_rate", "idle_clean", "exec", "hook_timeout")}},
		{"", "encrypt = false\nchecksum = 'none'", Changes{Resources: b(Reconnect, "encrypt", "checksum")}},
		{"", "remote = 'none'", Changes{Resources: b(Reconnect, "remote")}},
		{"", "on.hb1.source = '10.0.0.7'", Changes{Resources: b(Reconnect, "source")}},
		{"", "on.hb2.source = '10.0.0.7'", Changes{}},
		{"", "name = 'x'\nencrypt = false", Changes{Resources: b(Restart, "name", "encrypt")}},
		{"", "on.hb1.local = '/dev/sdc1'", Changes{Resources: b(Restart, "local")}},
		{"", "metadata = '/m'", Changes{Resources: b(Restart, "metadata")}},
		{"", "device = 'fuse'", Changes{Resources: b(Restart, "device")}},
		{"user = 'daemon'", "", Changes{Resources: both(Restart, "user")}},
		{"device_dir = '/dev/x'", "", Changes{Resources: both(Restart, "device_dir")}},
		{"key = '/k'", "", Changes{Resources: both(Reconnect, "key")}},
		{"cluster = 'x'\nlog = 'stderr'", "", Changes{Cluster: true, Log: true}},
		{"control = '/c'\npidfile = '/p'", "", Changes{Control: true, PIDFile: true}},
		{"run_dir = '/r'\nstate_dir = '/s'", "", Changes{Control: true, PIDFile: true, Daemon: []string{"run_dir", "state_dir"}}},
		{"listen = ['[::]', '10.0.0.1']", "", Changes{ListenAdded: []string{"10.0.0.1:8457"}, ListenRemoved: []string{"0.0.0.0:8457"}}},
		{"", "[resource.c]\nlocal = '/dev/sdc1'", Changes{Resources: []ResourceChange{{"c", Added, nil}}}},
	} {
		before := file("", "")
		got := Diff(before, file(c.top, c.in))
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q %q:\n got %+v\nwant %+v", c.top, c.in, got, c.want)
		}
		if got.Empty() != reflect.DeepEqual(c.want, Changes{}) {
			t.Errorf("%q: Empty = %v", c.top, got.Empty())
		}
		if !reflect.DeepEqual(before, file("", "")) {
			t.Fatal("Diff changed its argument")
		}
	}
	gone := mustParse(t, twoNodes+"[resource.a]\nlocal = \"/dev/sda1\"\n")
	if got := Diff(file("", ""), gone); !reflect.DeepEqual(got, Changes{Resources: []ResourceChange{{"b", Removed, nil}}}) {
		t.Errorf("removed: %+v", got)
	}
}

// Every directive must be noticed by Diff, and by the digest; but the peer's address, which is each resource's remote.
func TestDiffKnowsAll(t *testing.T) {
	for i := range directives {
		d := &directives[i]
		a := mustParse(t, twoNodes+"[resource.a]\nlocal = \"/dev/sda1\"\n")
		b := mustParse(t, twoNodes+"[resource.a]\nlocal = \"/dev/sda1\"\n")
		v := reflect.New(reflect.TypeOf(d.get(b, &b.Resources[0]))).Elem()
		switch v.Kind() {
		case reflect.String:
			v.SetString("/other")
		case reflect.Bool:
			v.SetBool(!d.get(b, &b.Resources[0]).(bool))
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"other:1"}))
		case reflect.Int64:
			v.SetInt(5e9)
		default:
			v.SetUint(2)
		}
		d.set(b, &b.Resources[0], v.Interface())
		if got := Diff(a, b); got.Empty() && d.name != "address" {
			t.Errorf("%s: not noticed", d.name)
		}
		if a.Digest() == b.Digest() {
			t.Errorf("%s: not in the digest", d.name)
		}
	}
}

func TestKindNames(t *testing.T) {
	for k := Kind(0); k <= Removed+1; k++ {
		if (k.String() == "invalid") != (k < Live || k > Removed) {
			t.Errorf("kind %d is %q", k, k)
		}
	}
}
