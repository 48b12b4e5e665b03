package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

func TestQuickStart(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	mkfs(t, l.A)
	sh(t, l.A, "cp -r /etc/ssl /srv/m/ 2>/dev/null; dd if=/dev/urandom of=/srv/m/big bs=1M count=20 status=none; sync; cd /srv/m && find . -type f -exec sha256sum {} + > /run/sums")
	sums := sh(t, l.A, "cat /run/sums")
	// Swap the roles by hand.
	sh(t, l.A, "umount /srv/m")
	run(t, l.A, "hastctl", "role", "secondary", "data")
	run(t, l.B, "hastctl", "role", "primary", "data")
	device(t, l.B)
	if _, err := l.A.Run("test", "-e", "/dev/hast/data"); err == nil {
		t.Error("the device is still there on the secondary")
	}
	fsck(t, l.B)
	mount(t, l.B)
	if err := os.WriteFile(filepath.Join(l.Dir, "sums"), []byte(sums+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, l.B, "cd /srv/m && sha256sum --quiet -c "+filepath.Join(l.Dir, "sums"))
	sh(t, l.B, "umount /srv/m")
	sameDisks(t, l)
}

func TestPrimaryDiesSecondaryTakesOver(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	mkfs(t, l.A)
	sh(t, l.A, `i=0; while [ $i -lt 30 ]; do echo $i > /srv/m/f$i; sync -f /srv/m/f$i; i=$((i+1)); done`)
	busy := l.A.Command("sh", "-c", "while :; do dd if=/dev/urandom of=/srv/m/noise bs=64k count=50 conv=fsync status=none; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	l.A.Die()
	busy.Wait()
	if _, err := l.B.Ctl("role", "primary", "data"); err == nil {
		t.Error("promoted without --force while the peer is silent")
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	promote(t, l.B)
	fsck(t, l.B)
	mount(t, l.B)
	if got := sh(t, l.B, "cat $(seq -f /srv/m/f%g 0 29) | wc -l"); got != "30" {
		t.Errorf("%s of 30 synced files are there", got)
	}
	if r, _ := status(l.B); !r.Forced {
		t.Error("a forced promotion is not shown")
	}
	sh(t, l.B, "echo later > /srv/m/later && sync")
	if err := l.A.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.A, "hastctl", "role", "secondary", "data")
	until(t, 30*time.Second, "the old primary in sync", is(l.B, connected))
	sh(t, l.B, "umount /srv/m")
	sameDisks(t, l)
}

// TestResyncMovesWhatChanged counts at the network interface.
func TestResyncMovesWhatChanged(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "compression = \"none\""})
	up(t, l)
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=64", "oflag=direct", "conv=fsync", "status=none")
	until(t, 30*time.Second, "clean", is(l.A, connected))
	time.Sleep(6 * time.Second) // the own flush of the last epoch
	l.B.Kill(syscall.SIGKILL)
	until(t, 30*time.Second, "degraded", is(l.A, func(r resource) bool { return r.State == "degraded" || r.State == "connecting" }))
	const changed = 8 << 20
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=8", "seek=20", "oflag=direct", "conv=fsync", "status=none")
	r, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	if r.Dirty < changed || r.Dirty > changed*105/100 {
		t.Errorf("%d bytes dirty after %d were written", r.Dirty, changed)
	}
	before, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	after, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	moved := after - before
	t.Logf("changed %d bytes, %d bytes left the interface: %.3f times", changed, moved, float64(moved)/changed)
	if moved < changed || float64(moved) > 1.05*changed {
		t.Errorf("the resync of %d bytes put %d on the wire", changed, moved)
	}
	sameDisks(t, l)
}

func TestCutLinkAndSplitBrain(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "timeout = \"2s\""})
	up(t, l)
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=8", "oflag=direct", "conv=fsync", "status=none")
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=4k", "count=10", "oflag=direct", "conv=fsync", "status=none")
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("writes waited %v for a silent peer, timeout is 2 s", d)
	}
	until(t, 5*time.Second, "the other node's timeout", is(l.B, func(r resource) bool { return r.State == "waiting" }))
	promote(t, l.B)
	run(t, l.B, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=4k", "count=10", "oflag=direct", "conv=fsync", "status=none")
	shots := 0
	sum := func(n *lab.Node) string {
		shots++
		shot := fmt.Sprintf("%s/shot%d", l.Dir, shots)
		run(t, n, "dd", "if=/dev/hast/data", "bs=1M", "count=8", "iflag=direct", "status=none", "of="+shot)
		return sh(t, n, "sha256sum < "+shot)
	}
	a, b := sum(l.A), sum(l.B)
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		until(t, 30*time.Second, "split brain seen", is(n, func(r resource) bool { return r.State == "split-brain" }))
		r, _ := status(n)
		if !strings.Contains(r.Why, "hastctl role init data") || !strings.Contains(r.Why, "wrote since") {
			t.Errorf("%s does not say what to do: %s", n.Name, r.Why)
		}
	}
	if a != sum(l.A) || b != sum(l.B) {
		t.Fatal("something was overwritten")
	}
	// HAST's recipe, on the node to discard.
	run(t, l.B, "hastctl", "role", "init", "data")
	run(t, l.B, "hastctl", "create", "--force", "data")
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 60*time.Second, "in sync again", is(l.A, connected))
	if a != sum(l.A) {
		out, _ := exec.Command("cmp", "-l", l.Dir+"/shot1", fmt.Sprintf("%s/shot%d", l.Dir, shots)).Output()
		t.Errorf("the survivor's data changed in %d bytes, first:\n%.200s%s", strings.Count(string(out), "\n"), out, sh(t, l.A, "ls -lL /dev/hast/ "+l.Dir+"; losetup -l; blockdev --getsize64 /dev/hast/data; cat /proc/self/mounts | grep fuse"))
	}
	sameDisks(t, l)
}

// TestAnyTwoMayDie kills the daemon's processes, alone and in pairs, under a mounted file system with verified writes.
func TestAnyTwoMayDie(t *testing.T) {
	l := newLab(t, lab.Options{DiskSize: 192 << 20})
	up(t, l)
	mkfs(t, l.A)
	fio := l.A.Command("fio", "--name=v", "--directory=/srv/m", "--size=64m", "--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=8", "--direct=1",
		"--fsync=32", "--time_based", "--runtime=40", "--verify=crc32c", "--verify_backlog=512", "--verify_fatal=1", "--output="+filepath.Join(l.Dir, "fio.out"))
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fio.Wait() }()
	time.Sleep(time.Second)
	// Processes rename themselves for ps: "hastd: data (primary)", "hastd: data (hold)".
	worker := func() []int { return l.A.Titles("hastd: data (primary)") }
	hold := func() []int { return l.A.Titles("hastd: data (hold)") }
	parent := func() []int { return l.A.Pids("hastd", "-F") }
	for _, set := range []struct {
		name string
		pids []func() []int
	}{
		{"worker", []func() []int{worker}},
		{"hold", []func() []int{hold}},
		{"parent", []func() []int{parent}},
		{"worker and hold", []func() []int{worker, hold}},
		{"parent and worker", []func() []int{parent, worker}},
		{"parent and hold", []func() []int{parent, hold}},
	} {
		for _, f := range set.pids {
			pids := f()
			if len(pids) == 0 {
				t.Fatalf("%s: no such process", set.name)
			}
			for _, p := range pids {
				syscall.Kill(p, syscall.SIGKILL)
			}
		}
		began := time.Now()
		if strings.Contains(set.name, "parent") {
			time.Sleep(300 * time.Millisecond)
			if err := l.A.Start(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, 20*time.Second, "service after the death of "+set.name, is(l.A, func(r resource) bool {
			return r.Role == "primary" && r.State == "connected" && len(hold()) > 0 && len(worker()) > 0
		}))
		t.Logf("%s killed: whole again after %v", set.name, time.Since(began))
		time.Sleep(1500 * time.Millisecond)
		select {
		case err := <-done:
			out, _ := os.ReadFile(filepath.Join(l.Dir, "fio.out"))
			t.Fatalf("fio ended after %s: %v\n%s", set.name, err, out)
		default:
		}
	}
	if err := <-done; err != nil {
		out, _ := os.ReadFile(filepath.Join(l.Dir, "fio.out"))
		t.Fatalf("fio: %v\n%s", err, out)
	}
	sh(t, l.A, "umount /srv/m")
	fsck(t, l.A)
	sameDisks(t, l)
}

func TestSecondaryKilledUnderLoad(t *testing.T) {
	for _, mode := range []string{"fullsync", "memsync", "async"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, lab.Options{Resource: fmt.Sprintf("replication = %q\ntimeout = \"3s\"", mode)})
			up(t, l)
			mkfs(t, l.A)
			fio := l.A.Command("fio", "--name=v", "--directory=/srv/m", "--size=24m", "--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=8", "--direct=1",
				"--fsync=64", "--time_based", "--runtime=8", "--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1")
			if err := fio.Start(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(time.Second)
				l.B.Kill(syscall.SIGKILL)
				time.Sleep(500 * time.Millisecond)
				if err := l.B.Start(); err != nil {
					t.Fatal(err)
				}
				run(t, l.B, "hastctl", "role", "secondary", "data")
			}
			if err := fio.Wait(); err != nil {
				t.Fatal(err)
			}
			sh(t, l.A, "umount /srv/m")
			fsck(t, l.A)
			until(t, 30*time.Second, "in sync", is(l.A, connected))
			sameDisks(t, l)
		})
	}
}
