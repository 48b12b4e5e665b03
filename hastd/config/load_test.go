package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"hast/proto"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with the file at path.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// each runs a test for each TOML file below testdata/dir.
func each(t *testing.T, dir string, test func(t *testing.T, file, base string)) {
	files, err := filepath.Glob("testdata/" + dir + "/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test files", err)
	}
	for _, f := range files {
		base := strings.TrimSuffix(f, ".toml")
		t.Run(filepath.Base(base), func(t *testing.T) { test(t, f, base) })
	}
}

func show(t *testing.T, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := Show(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestValid(t *testing.T) {
	each(t, "valid", func(t *testing.T, file, base string) {
		c, err := Load(file, "hb1")
		if err != nil {
			t.Fatal(err)
		}
		text := show(t, c)
		golden(t, base+".show", text)
		roundTrip(t, c)
		var b bytes.Buffer
		if err := ShowJSON(&b, c); err != nil {
			t.Fatal(err)
		}
		golden(t, base+".json", b.String())
		if !json.Valid(b.Bytes()) {
			t.Error("not JSON")
		}
	})
}

// roundTrip checks that Show's output means the same on both nodes.
func roundTrip(t *testing.T, c *Config) {
	t.Helper()
	text := show(t, c)
	again, err := Parse(c.File, []byte(text), c.Node)
	if err != nil {
		t.Fatalf("what Show wrote is refused:\n%v\n%s", err, text)
	}
	if !reflect.DeepEqual(c, again) {
		t.Errorf("round trip:\n got %+v\nwant %+v", again, c)
	}
	if c.Digest() != again.Digest() {
		t.Error("the digest changed in a round trip")
	}
	if d := Diff(c, again); !d.Empty() {
		t.Errorf("round trip differs: %+v", d)
	}
	if c.Peer != "" {
		other, err := Parse(c.File, []byte(text), c.Peer)
		if err != nil {
			t.Fatal(err)
		}
		if other.Digest() != c.Digest() {
			t.Error("the nodes' digests of one file differ")
		}
		if show(t, other) != text {
			t.Error("the nodes print one file differently")
		}
	}
}

func TestInvalid(t *testing.T) {
	each(t, "invalid", func(t *testing.T, file, base string) {
		c, err := Load(file, "hb1")
		if err == nil || c != nil {
			t.Fatalf("accepted: %+v", c)
		}
		if ExitCode(err) != proto.ExitConfig {
			t.Errorf("exit code %d", ExitCode(err))
		}
		golden(t, base+".err", err.Error()+"\n")
	})
}

func TestUnreadable(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), "hb1")
	if !errors.Is(err, fs.ErrNotExist) || ExitCode(err) != proto.ExitOSFile {
		t.Errorf("%v, exit %d", err, ExitCode(err))
	}
	if _, err := Load(t.TempDir(), "hb1"); ExitCode(err) != proto.ExitOSFile {
		t.Errorf("directory: %v", err)
	}
	if ExitCode(nil) != proto.ExitOK {
		t.Error("no error is no failure")
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.toml")
	if err := os.WriteFile(path, bytes.Repeat([]byte("#\n"), maxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, "hb1"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}

// Deep nesting must end in an error, not in the end of the stack.
func TestDeepNesting(t *testing.T) {
	for _, text := range []string{
		"a = " + strings.Repeat("[", maxFile-100),
		"a = " + strings.Repeat("[", maxFile/2-100) + strings.Repeat("]", maxFile/2-100),
		"a = " + strings.Repeat("{a=", maxFile/3-100),
		"a" + strings.Repeat(".a", 2000) + " = 1",
		"[a" + strings.Repeat(".a", 2000) + "]",
	} {
		if _, err := Parse("deep", []byte(text), "hb1"); err == nil {
			t.Error("accepted")
		}
	}
}

const twoNodes = "[node.hb1]\naddress = \"10.0.0.1\"\n[node.hb2]\naddress = \"10.0.0.2\"\n"

func TestIdentity(t *testing.T) {
	text := strings.ReplaceAll(twoNodes, "hb2", `"hb2.example.org"`)
	for _, c := range []struct {
		names []string
		want  string
		err   string
	}{
		{[]string{"hb1"}, "hb1", ""},
		{[]string{"hb1.example.org", "hb1"}, "hb1", ""},
		{[]string{"hb2.example.org", "hb1"}, "hb2.example.org", ""},
		{[]string{"web.example.org", "web"}, "", "f: node: there is no section for this machine: it may be called web.example.org or web here; or say --node hb1 or hb2.example.org"},
		{nil, "", "f: node: this machine has no host name: say --node hb1 or hb2.example.org"},
	} {
		cfg, err := parse("f", []byte(text), identity{names: c.names})
		switch {
		case c.err == "" && (err != nil || cfg.Node != c.want):
			t.Errorf("%v: %v", c.names, err)
		case c.err != "" && (err == nil || strings.ReplaceAll(err.Error(), ":1: ", ": ") != c.err):
			t.Errorf("%v: %v", c.names, err)
		}
	}
	if id := machine(); len(id.names) == 0 || id.given {
		t.Errorf("this machine: %+v", id)
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse("f", []byte(twoNodes+"[resource.data]\nlocal = \"/dev/sdb1\"\n"), "hb2")
	if err != nil {
		t.Fatal(err)
	}
	want := Resource{
		Name: "data", DeviceName: "data", Local: "/dev/sdb1", Remote: "10.0.0.1:8457", Front: FrontAuto,
		Mode: proto.ModeFullsync, Checksum: ChecksumCRC32C, Compression: CompressionHole, Encrypt: true,
		Timeout: 20e9, OnPeerLoss: PeerLossContinue, MetaFlush: true, IdleClean: 10e9, HookTimeout: 600e9,
	}
	if got := c.Resource("data"); *got != want {
		t.Errorf("\n got %+v\nwant %+v", *got, want)
	}
	if c.Control != DefaultControl || c.PIDFile != "/run/hast/hastd.pid" || !reflect.DeepEqual(c.Listen, []string{"0.0.0.0:8457", "[::]:8457"}) {
		t.Errorf("%+v", c)
	}
	if c.Resource("data").Alone() || c.Resource("other") != nil || c.DevicePath(c.Resource("data")) != "/dev/hast/data" {
		t.Error("accessors")
	}
}
