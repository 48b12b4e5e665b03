package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

var binary string

// The tests of exit codes run the program as it is shipped.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hastctl")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "hastctl")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// site is a directory with a configuration, a key and two images.
type site struct {
	t   *testing.T
	dir string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t, t.TempDir()}
	s.write("hast.toml", fmt.Sprintf(`
key = "%[1]s/key"
control = "%[1]s/s"
[node.hb1]
address = "127.0.0.1"
[node.hb2]
address = "127.0.0.2"
[resource.data]
local = "%[1]s/data.img"
[resource.mail]
local = "%[1]s/mail.img"
metadata = "%[1]s/mail.meta"
`, s.dir))
	s.write("data.img", "")
	s.write("mail.img", "")
	for _, name := range []string{"data.img", "mail.img"} {
		if err := os.Truncate(s.path(name), 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	return exec.Command(binary, append(args, "-c", s.path("hast.toml"), "--node", "hb1")...)
}

// run returns both outputs and the exit status.
func (s *site) run(args ...string) (out, errs string, code int) {
	s.t.Helper()
	var o, e bytes.Buffer
	c := s.command(args...)
	c.Stdout, c.Stderr = &o, &e
	if err := c.Run(); c.ProcessState == nil {
		s.t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// want runs and checks the exit status and a part of what was said, on either output.
func (s *site) want(code int, part string, args ...string) string {
	s.t.Helper()
	out, errs, got := s.run(args...)
	if got != code || !strings.Contains(out+errs, part) {
		s.t.Errorf("hastctl %s: exit %d, want %d with %q in:\n%s%s", strings.Join(args, " "), got, code, part, out, errs)
	}
	return out
}

func TestUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, args := range [][]string{{}, {"bogus"}, {"status", "--bogus"}, {"role"}, {"role", "primary"}, {"role", "boss", "data"}, {"create"},
		{"stop", "now"}, {"events", "--since", "-1"}, {"config"}, {"config", "x"}, {"key"}, {"key", "old"}, {"completion", "tcsh"},
		{"create", "-k", "many", "data"}, {"role", "primary", "--force", "all"}, {"status", "--timeout", "soon"}} {
		s.want(proto.ExitUsage, "hastctl: ", args...)
	}
	s.want(proto.ExitOK, "Available Commands", "--help")
	s.want(proto.ExitOK, "complete", "completion", "bash")
	s.want(proto.ExitOK, "compdef", "completion", "zsh")
	s.want(proto.ExitOK, "complete", "completion", "fish")
}

func TestConfigVerbs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.want(proto.ExitConfig, "hastctl key new", "config", "check")
	s.want(proto.ExitOK, "0600", "key", "new")
	if st, err := os.Stat(s.path("key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	s.want(proto.ExitRefused, "kept", "key", "new")
	s.want(proto.ExitOK, "written", "key", "new", s.path("other"))
	s.want(proto.ExitIO, "", "key", "new", s.path("nowhere/key"))
	s.want(proto.ExitOK, "node hb1, peer hb2, 2 resources", "config", "check")
	s.want(proto.ExitOK, "[resource.mail]", "config", "show")
	var v map[string]any
	if err := json.Unmarshal([]byte(s.want(proto.ExitOK, "", "config", "show", "--json")), &v); err != nil || v["node"] != "hb1" {
		t.Errorf("%v %v", v, err)
	}
	s.write("hast.toml", "bogus = 1\n[resource.data]\nreplication = 7\n")
	for _, verb := range []string{"config check", "config show", "status", "reload", "create data", "dump"} {
		s.want(proto.ExitConfig, "hast.toml:1", strings.Fields(verb)...)
	}
	os.Remove(s.path("hast.toml"))
	s.want(proto.ExitOSFile, "hast.toml", "config", "check")
}

func TestCreateAndDump(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.want(proto.ExitMetadata, "create", "dump", "data")
	// What is wrong with one doesn't stop the others.
	s.want(proto.ExitData, "nope", "create", "nope", "data")
	s.want(proto.ExitOK, "datasize:    67", "dump", "data")
	s.want(proto.ExitRefused, "--force", "create", "data")
	for _, bad := range [][]string{{"-e", "3k"}, {"-e", "3x"}, {"-e", "0"}, {"-e", "8G"}, {"-m", "1T"}, {"-m", "5"}, {"-m", "0"}, {"-k", "1"}} {
		s.want(proto.ExitData, "hastctl: ", append(append([]string{"create", "--force"}, bad...), "data")...)
	}
	s.want(proto.ExitOK, "1.0 MiB", "create", "--force", "-d", "-e", "1M", "-k", "64", "-m", "32M", "data")
	s.want(proto.ExitUsage, "metadata", "create", "--metadata", s.path("x"), "data")
	s.want(proto.ExitData, "--adopt", "create", "--adopt", "--force", "data")
	s.want(proto.ExitData, "512 or 4096", "create", "--force", "--logical", "1024", "data")
	s.want(proto.ExitOK, "hastctl create --logical 512 -m 67108864 mail", "create", "--adopt", "--logical", "512", "mail")
	out := s.want(proto.ExitData, "nope", "dump", "--json", "data", "nope", "mail")
	var raw []map[string]any
	if err := json.Unmarshal([]byte(out), &raw); err != nil || len(raw) != 2 {
		t.Fatalf("%v in %s", err, out)
	}
	for i, want := range []string{`[data 3.3554432e+07 1.048576e+06 32]`, `[mail 6.7108864e+07 2.097152e+06 0]`} {
		sb := raw[i]["superblock"].(map[string]any)
		if got := fmt.Sprint([]any{raw[i]["name"], sb["data_size"], sb["extent_size"], raw[i]["never_written_extents"]}); got != want {
			t.Errorf("%s, want %s ", got, want)
		}
	}
	// A device that a daemon holds.
	f, err := os.Open(s.path("data.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s.want(proto.ExitNoInput, "in use", "create", "--force", "data")
	s.want(proto.ExitOK, "datasize", "dump", "data")
	os.Remove(s.path("mail.img"))
	s.want(proto.ExitNoInput, "mail.img", "create", "--force", "mail")
	os.Remove(s.path("mail.meta"))
	s.want(proto.ExitNoInput, "mail.meta", "dump", "mail")
}

func TestNoDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, verb := range []string{"status", "list", "role init all", "stop", "reload", "events"} {
		s.want(proto.ExitOS, "systemctl start hastd", strings.Fields(verb)...)
	}
	if out := s.want(proto.ExitOK, "", "version"); out != "hastctl 1.2.3\n" {
		t.Errorf("%q", out)
	}
}

func TestDaemonVerbs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := startDaemon(t, s.dir)
	s.want(proto.ExitOK, "mail  complete  primary  connected", "status")
	s.want(proto.ExitOK, "  provname: /dev/hast/data", "list", "data")
	if out := s.want(proto.ExitNoResource, "no such resource: nope", "status", "nope", "data"); !strings.Contains(out, "/dev/sdb1") {
		t.Errorf("the others are missing: %s", out)
	}
	var r ctl.StatusReply
	if err := json.Unmarshal([]byte(s.want(proto.ExitOK, "", "status", "--json", "data")), &r); err != nil || r.Resources[0].Name != "data" {
		t.Errorf("%+v %v", r, err)
	}
	for _, args := range [][]string{{"role", "primary", "data"}, {"role", "init", "all"}, {"reload"}, {"stop", "--detach"}} {
		if out, errs, code := s.run(args...); out+errs != "" || code != 0 {
			t.Errorf("%v is not silent: %d %s%s", args, code, out, errs)
		}
	}
	s.want(proto.ExitNoResource, "nope", "role", "secondary", "nope", "mail")
	if want := []string{"primary data", "init data", "init mail", "/v1/reload", "/v1/stop", "secondary mail"}; !slices.Equal(f.seen(), want) {
		t.Errorf("the daemon was asked for %q, want %q", f.seen(), want)
	}
	s.want(proto.ExitOK, "role data: done", "role", "primary", "-d", "data")
	s.want(proto.ExitOK, "hastd 9.9, pid 7, node hb1", "version")
	f.set(func() {
		f.refusal = &ctl.Error{Code: proto.ExitRefused, Message: "the peer is primary", Hint: "Make it secondary first"}
	})
	s.want(proto.ExitRefused, "hastctl: data: the peer is primary\n         Make it secondary first", "role", "primary", "data")
	s.want(proto.ExitRefused, "the peer", "reload")
	f.set(func() { f.stuck = true })
	s.want(proto.ExitTemp, "still at work", "role", "primary", "data", "--timeout", "10ms")
	f.set(func() { f.quits = true })
	s.want(proto.ExitOK, "", "stop")
}

func TestDaemonGoesAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := startDaemon(t, s.dir)
	f.set(func() { f.stuck, f.quits = true, true })
	s.want(proto.ExitUnavailable, "went away", "role", "primary", "data")
}

func TestEventsVerb(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := startDaemon(t, s.dir)
	for _, tc := range []struct {
		args []string
		end  func(*exec.Cmd)
		code int
	}{
		{[]string{"events", "--since", "3"}, func(c *exec.Cmd) { c.Process.Signal(os.Interrupt) }, proto.ExitOK},
		{[]string{"events"}, func(*exec.Cmd) { f.server.Close() }, proto.ExitUnavailable},
	} {
		c := s.command(tc.args...)
		p, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(5*time.Second, func() { c.Process.Kill() })
		lines := bufio.NewScanner(p)
		var got []string
		for len(got) < 2 && lines.Scan() {
			got = append(got, lines.Text())
		}
		tc.end(c)
		c.Wait()
		late.Stop()
		if len(got) != 2 || !strings.HasPrefix(got[0], `{"id":4,`) || !strings.Contains(got[0], `"a < b"`) || !strings.HasPrefix(got[1], `{"id":5,`) {
			t.Errorf("%v: %q", tc.args, got)
		}
		if code := c.ProcessState.ExitCode(); code != tc.code {
			t.Errorf("%v: exit %d, want %d", tc.args, code, tc.code)
		}
	}
	if want := []string{"since=3", "since="}; !slices.Equal(f.seen(), want) {
		t.Errorf("%q, want %q", f.seen(), want)
	}
}
