// Command demo tells the story that the project exists for, with the real programs on this machine: two
// nodes, a CVS repository on the replicated device, commits all the while, the primary killed in mid-commit, the other node
// taking over, the old one coming back. It leaves nothing behind.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hast/test/lab"
)

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func run(n *lab.Node, name string, args ...string) string {
	out, err := n.Run(name, args...)
	must(err)
	return out
}

func main() {
	bin := flag.String("bin", "bin", "directory of hastd and hastctl")
	keep := flag.Bool("logs", false, "print both nodes' logs at the end")
	flag.Parse()
	if m := lab.Missing(); m != "" {
		fmt.Println("The demo needs", m)
		os.Exit(1)
	}
	if _, err := exec.LookPath("cvs"); err != nil {
		fmt.Println("The demo needs cvs (Debian: apt-get install cvs)")
		os.Exit(1)
	}
	path, err := filepath.Abs(*bin)
	must(err)
	l, err := lab.New(lab.Options{Bin: path, DiskSize: 256 << 20})
	must(err)
	code := 0
	func() {
		defer func() {
			if e := recover(); e != nil {
				fmt.Println("\nFAILED:", e)
				*keep, code = true, 1
			}
		}()
		story(l)
	}()
	if *keep {
		for _, n := range []*lab.Node{l.A, l.B} {
			b, _ := os.ReadFile(n.Log())
			fmt.Printf("\n--- log of %s\n%s", n.Name, b)
		}
	}
	l.Close()
	os.Exit(code)
}

func story(l *lab.Lab) {
	a, b := l.A, l.B
	fmt.Println("Two nodes, hb1 and hb2, each with its own network, mounts and a 256 MiB disk.")
	for _, n := range []*lab.Node{b, a} {
		run(n, "hastctl", "create", "data")
		must(n.Start())
	}
	run(b, "hastctl", "role", "secondary", "data")
	run(a, "hastctl", "role", "primary", "data")
	must(lab.Until(10*time.Second, func() error { _, err := a.Run("test", "-b", "/dev/hast/data"); return err }))
	say("hb2 is secondary, hb1 is primary; /dev/hast/data is there.")
	fmt.Println(indent(run(a, "hastctl", "status")))

	run(a, "mkfs.ext4", "-q", "/dev/hast/data")
	mount(a)
	run(a, "cvs", "-d", "/srv/cvs/repo", "init")
	say("ext4 made and mounted, CVS repository created.")
	r := newRepo(a, filepath.Join(l.Dir, "work"))
	r.importTree()
	say("%d files imported.", r.files)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); r.commitUntil(stop) }()
	must(lab.Until(60*time.Second, func() error {
		if r.acked.Load() < 12 {
			return fmt.Errorf("%d commits: %s", r.acked.Load(), r.problem())
		}
		return nil
	}))
	acked := r.acked.Load()
	killed := time.Now()
	a.Die() // kill -9 for everything: hastd, its workers, cvs in mid-commit
	close(stop)
	wg.Wait()
	acked = max(acked, r.acked.Load())
	say("hb1 died in mid-commit: every process killed with -9. %d commits had been acknowledged.", acked)

	run(b, "hastctl", "role", "primary", "--force", "data")
	must(lab.Until(10*time.Second, func() error { _, err := b.Run("test", "-b", "/dev/hast/data"); return err }))
	run(b, "sh", "-c", "e2fsck -p /dev/hast/data >/dev/null; test $? -le 1")
	mount(b)
	say("hb2 promoted (we say --force: nobody else can know that hb1 is off), checked and mounted: service back after %.2f s.", time.Since(killed).Seconds())
	r2 := newRepo(b, filepath.Join(l.Dir, "work2"))
	r2.removeLocks()
	r2.verify(acked)
	say("the repository is consistent, and each of the %d acknowledged commits is there.", acked)

	must(r2.checkout())
	for i := 0; i < 5; i++ {
		must(r2.commit(acked + 1000 + int64(i)))
	}
	say("5 more commits on hb2, without hb1.")
	fmt.Println(indent(run(b, "hastctl", "status")))

	sentBefore, _, err := b.LinkBytes()
	must(err)
	must(a.Start())
	run(a, "hastctl", "role", "secondary", "data")
	returned := time.Now()
	must(lab.Until(30*time.Second, func() error { return inSync(b) }))
	sent, _, err := b.LinkBytes()
	must(err)
	moved, marked := syncNumbers(b)
	say("hb1 is back as secondary and in sync after %.2f s: %s marked, %s differed and moved, %s on the wire in all; the device has 256 MiB.",
		time.Since(returned).Seconds(), size(marked), size(moved), size(sent-sentBefore))

	run(b, "umount", "/srv/cvs")
	for _, n := range []*lab.Node{b, a} {
		run(n, "hastctl", "role", "init", "data")
	}
	compare(a, b)
	say("both disks are identical, byte for byte.")
	for _, n := range []*lab.Node{b, a} {
		run(n, "hastctl", "stop")
	}
	say("done; nothing is left behind.")
}

func indent(s string) string { return "        | " + strings.ReplaceAll(s, "\n", "\n        | ") }

func size(n uint64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func mount(n *lab.Node) {
	run(n, "mkdir", "-p", "/srv/cvs")
	run(n, "mount", "/dev/hast/data", "/srv/cvs")
}

// status decodes what the demo needs of hastctl status --json.
type status struct {
	Resources []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		Dirty uint64 `json:"dirty_bytes"`
	} `json:"resources"`
}

func inSync(n *lab.Node) error {
	var s status
	out, err := n.Ctl("status", "--json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return err
	}
	for _, r := range s.Resources {
		if r.State != "connected" || r.Dirty != 0 {
			return fmt.Errorf("%s is %s, %d bytes dirty", r.Name, r.State, r.Dirty)
		}
	}
	return nil
}

// syncNumbers reads the last sync's report from the event log.
func syncNumbers(n *lab.Node) (moved, marked uint64) {
	b, _ := os.ReadFile(n.Log())
	for _, line := range bytes.Split(b, []byte("\n")) {
		if i := bytes.Index(line, []byte("sync complete: ")); i >= 0 {
			fmt.Sscanf(string(line[i:]), "sync complete: %d bytes moved, %d marked", &moved, &marked)
		}
	}
	return moved, marked
}

func compare(a, b *lab.Node) {
	x, err := os.ReadFile(a.Disk)
	must(err)
	y, err := os.ReadFile(b.Disk)
	must(err)
	var d []struct {
		Superblock struct {
			Size int `json:"data_size"`
		} `json:"superblock"`
	}
	out := run(a, "hastctl", "dump", "--json", "data")
	must(json.Unmarshal([]byte(out), &d))
	if len(d) != 1 || d[0].Superblock.Size == 0 {
		panic("hastctl dump: " + out)
	}
	n := d[0].Superblock.Size
	if !bytes.Equal(x[:n], y[:n]) {
		for i := 0; i < n; i += 4096 {
			if !bytes.Equal(x[i:i+4096], y[i:i+4096]) {
				panic(fmt.Sprintf("the disks differ at byte %d", i))
			}
		}
	}
}

// repo is a CVS repository on a node, and a working copy beside it.
type repo struct {
	n       *lab.Node
	work    string
	files   int
	acked   atomic.Int64
	mu      sync.Mutex
	lastErr error
}

const root = "/srv/cvs/repo"

func newRepo(n *lab.Node, work string) *repo { return &repo{n: n, work: work} }

func (r *repo) cvs(dir string, args ...string) error {
	line := "cd '" + dir + "' && cvs -Q -d " + root
	for _, a := range args {
		line += " '" + a + "'"
	}
	_, err := r.n.Run("sh", "-c", line)
	return err
}

// importTree imports this project's own documents and makes a working copy.
func (r *repo) importTree() {
	src := r.work + "-import"
	must(os.MkdirAll(src, 0o755))
	for i := 0; i < 40; i++ {
		must(os.WriteFile(fmt.Sprintf("%s/file%02d.txt", src, i), []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), 100+i)), 0o644))
		r.files++
	}
	must(os.WriteFile(src+"/counter", []byte("0\n"), 0o644))
	must(r.cvs(src, "import", "-m", "first", "project", "vendor", "start"))
	must(r.checkout())
}

func (r *repo) checkout() error {
	os.RemoveAll(r.work)
	must(os.MkdirAll(r.work, 0o755))
	return r.cvs(r.work, "checkout", "project")
}

// commit is acknowledged when its data is on stable storage: sync -f is the repository's fsync.
func (r *repo) commit(i int64) error {
	if err := os.WriteFile(r.work+"/project/counter", []byte(fmt.Sprintf("%d\n", i)), 0o644); err != nil {
		return err
	}
	if err := r.cvs(r.work+"/project", "commit", "-f", "-m", fmt.Sprintf("number %d", i), "counter"); err != nil {
		return err
	}
	_, err := r.n.Run("sync", "-f", root)
	return err
}

func (r *repo) commitUntil(stop chan struct{}) {
	for i := int64(1); ; i++ {
		if err := r.commit(i); err != nil {
			r.mu.Lock()
			r.lastErr = err
			r.mu.Unlock()
			return
		}
		r.acked.Store(i)
		select {
		case <-stop:
			return
		default:
		}
	}
}

func (r *repo) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastErr
}

// removeLocks takes away what the killed cvs left: locks named #cvs.*, and RCS's own, named ,file, beside the file.
func (r *repo) removeLocks() {
	run(r.n, "find", root, "(", "-name", "#cvs.*", "-o", "-name", ",*,", ")", "-exec", "rm", "-rf", "{}", "+")
}

// verify runs CVS's own readers over every file and revision, and looks for each acknowledged commit.
func (r *repo) verify(acked int64) {
	log := run(r.n, "cvs", "-Q", "-d", root, "rlog", "project")
	for i := int64(1); i <= acked; i++ {
		if !strings.Contains(log, fmt.Sprintf("number %d\n", i)) {
			panic(fmt.Sprintf("commit %d was acknowledged and is not there", i))
		}
		if got := run(r.n, "cvs", "-Q", "-d", root, "checkout", "-p", "-r", fmt.Sprintf("1.%d", i+1), "project/counter"); got != fmt.Sprint(i) {
			panic(fmt.Sprintf("revision 1.%d holds %q, not %d", i+1, got, i))
		}
	}
}
