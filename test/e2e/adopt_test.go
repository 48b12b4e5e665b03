package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

// external gives node n's resource metadata in a file of its own, and returns its path.
func external(t *testing.T, l *lab.Lab, n *lab.Node) string {
	t.Helper()
	text, err := os.ReadFile(l.Config())
	if err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(n.Dir, "meta")
	own := filepath.Join(n.Dir, "own.toml")
	section := fmt.Sprintf("[resource.data.on.%s]\n", n.Name)
	with := strings.Replace(string(text), section, section+fmt.Sprintf("metadata = %q\n", meta), 1)
	if err := os.WriteFile(own, []byte(with), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, n, "cp", own, "/etc/hast/hast.toml")
	return meta
}

// TestAdopt takes over a file system that was made without hastd, on a disk of 512-byte blocks.
func TestAdopt(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	sh(t, l.A, fmt.Sprintf(`mkfs.ext4 -q -F %[1]s && mkdir -p /srv/raw && mount -o loop %[1]s /srv/raw &&
head -c 20000000 /dev/urandom > /srv/raw/old && sha256sum < /srv/raw/old > /run/sum && umount /srv/raw`, l.A.Disk))
	for _, n := range []*lab.Node{l.A, l.B} {
		external(t, l, n)
	}
	if out, err := l.A.Ctl("create", "data"); err == nil || !strings.Contains(out, "--adopt") {
		t.Errorf("a file system was overwritten, or nothing says how to keep it: %s", out)
	}
	out := run(t, l.A, "hastctl", "create", "--adopt", "data")
	said := regexp.MustCompile(`hastctl create .*data`).FindString(out)
	if !strings.Contains(said, "--logical 512") {
		t.Fatalf("the adopting create does not say what the peer's needs: %s", out)
	}
	// The peer's copy made without it is refused, and the refusal names the way out.
	run(t, l.B, "hastctl", "create", "data")
	for _, n := range []*lab.Node{l.A, l.B} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if out, err := l.A.Ctl("role", "primary", "data"); err == nil || !strings.Contains(out, "hastctl create --force --logical 512") || !strings.Contains(out, "hb2") {
		t.Errorf("promoted with a peer of another block size, or not explained: %s", out)
	}
	run(t, l.B, "hastctl", "role", "init", "data")
	sh(t, l.B, strings.Replace(said, "create", "create --force", 1))
	run(t, l.B, "hastctl", "role", "secondary", "data")
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	mount(t, l.A)
	same := func(n *lab.Node) {
		sh(t, n, fmt.Sprintf("echo '%s' > /run/want; sha256sum < /srv/m/old | cmp - /run/want", run(t, l.A, "cat", "/run/sum")))
	}
	same(l.A)
	sh(t, l.A, "echo new > /srv/m/new && sync")
	until(t, 60*time.Second, "in sync", is(l.A, connected))
	sh(t, l.A, "umount /srv/m")
	run(t, l.A, "hastctl", "role", "secondary", "data")
	run(t, l.B, "hastctl", "role", "primary", "data")
	device(t, l.B)
	fsck(t, l.B)
	mount(t, l.B)
	same(l.B)
	if out := run(t, l.B, "cat", "/srv/m/new"); out != "new" {
		t.Errorf("on the peer: %q", out)
	}
	sh(t, l.B, "umount /srv/m")
	sameDisks(t, l)
}

// TestForcedFromUnderAFileSystem: role init --force takes the device away from whoever uses it. Its users get errors, and when the last one
// is gone nothing is left of it: no loop device, no id; until then the node says what is in the way.
func TestForcedFromUnderAFileSystem(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	mkfs(t, l.A)
	loop := strings.TrimSpace(run(t, l.A, "readlink", "/dev/hast/data"))
	attached := func() bool {
		_, err := os.Stat("/sys/block/" + filepath.Base(loop) + "/loop/backing_file")
		return err == nil
	}
	if !attached() {
		t.Fatalf("%s is not attached", loop)
	}
	run(t, l.A, "hastctl", "role", "init", "--force", "data")
	if out, err := l.A.Run("sh", "-c", "echo x > /srv/m/f && sync /srv/m/f"); err == nil {
		t.Errorf("a write to a device that was taken away: %s", out)
	}
	if out, err := l.A.Ctl("role", "primary", "data"); err == nil || !strings.Contains(out, "is in the way") {
		t.Errorf("promoted over a file system on a dead device, or not explained: %s", out)
	}
	l.A.Run("umount", "/srv/m") // which says that it could not store everything
	until(t, 5*time.Second, "the end of the loop device", func() error {
		if attached() {
			return errors.New(loop + " is still attached")
		}
		return nil
	})
	run(t, l.A, "hastctl", "role", "primary", "data")
	run(t, l.A, "hastctl", "role", "init", "data")
	if out := sh(t, l.A, "ls /run/hast"); strings.Contains(out, "fuse") {
		t.Errorf("left in the run directory: %s", out)
	}
}
