package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Lab is two nodes, hb1 and hb2, after the article that this project comes from.
type Lab struct {
	Dir string
	A   *Node
	B   *Node
	mu  sync.Mutex
	seq int
}

// Node is one of them.
type Node struct {
	Name  string
	Addr  string // on the link between the nodes
	Dir   string // its disk and logs
	Disk  string // the backing file of resource data
	local string // what hastd is told to use: Disk, or a faulty disk over it
	lab   *Lab
	init  *exec.Cmd // keeps the namespaces
	hastd *exec.Cmd
	env   []string
}

// Options of a lab.
type Options struct {
	Bin      string // directory of hastd and hastctl
	DiskSize int64
	// Extra is added at the top of hast.toml, Resource to the resource's section.
	Extra    string
	Resource string
	// Faulty puts a disk that fails on command between hastd and each node's file (Node.Fault); Bin has to have faultdisk then.
	Faulty bool
}

// Missing says what this machine lacks, or "".
func Missing() string {
	if os.Geteuid() != 0 {
		return "root: it makes network and mount namespaces, loop devices and FUSE mounts. Run: sudo make demo"
	}
	for _, p := range []string{"ip", "nsenter", "unshare", "losetup", "mkfs.ext4", "e2fsck"} {
		if _, err := exec.LookPath(p); err != nil {
			return p + " (Debian: apt-get install iproute2 util-linux mount e2fsprogs)"
		}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "/dev/fuse: modprobe fuse"
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "/dev/loop-control: modprobe loop"
	}
	return ""
}

// New makes the nodes; Close removes them.
func New(o Options) (*Lab, error) {
	if m := Missing(); m != "" {
		return nil, errors.New("the lab needs " + m)
	}
	dir, err := os.MkdirTemp("", "hast-lab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	for i, name := range []string{"hb1", "hb2"} {
		n := &Node{Name: name, Addr: fmt.Sprintf("10.99.7.%d", i+1), Dir: filepath.Join(dir, name), lab: l}
		n.Disk = filepath.Join(n.Dir, "disk")
		n.env = append(os.Environ(), "PATH="+o.Bin+":/usr/sbin:/sbin:"+os.Getenv("PATH"))
		if i == 0 {
			l.A = n
		} else {
			l.B = n
		}
		if err := n.create(o); err != nil {
			l.Close()
			return nil, err
		}
	}
	if err := l.join(); err != nil {
		l.Close()
		return nil, err
	}
	return l, l.configure(o)
}

func (n *Node) create(o Options) error {
	if err := os.Mkdir(n.Dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(n.Disk)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(o.DiskSize); err != nil {
		return err
	}
	// The first process of the node: its end takes mounts and interfaces away. It dies with us.
	n.init = exec.Command("unshare", "--net", "--mount", "--uts", "--propagation", "private", "--",
		"sh", "-c", `hostname "$0"; mkdir -p /run/hast /dev/hast /srv /etc/hast
mount -t tmpfs -o mode=755 none /run && mkdir -p /run/hast && mount -t tmpfs -o mode=755 none /srv && mount -t tmpfs -o mode=755 none /etc/hast
mkdir -p /dev/hast && mount -t tmpfs -o mode=755 none /dev/hast
ip link set lo up; echo ready; exec sleep infinity`, n.Name)
	n.init.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := n.init.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.init.Start(); err != nil {
		return err
	}
	b := make([]byte, 16)
	if k, err := out.Read(b); err != nil || !strings.HasPrefix(string(b[:k]), "ready") {
		return fmt.Errorf("namespaces of %s: %q, %v", n.Name, b[:k], err)
	}
	n.local = n.Disk
	if o.Faulty {
		return n.faulty()
	}
	return nil
}

func (l *Lab) join() error {
	a, b := fmt.Sprint(l.A.init.Process.Pid), fmt.Sprint(l.B.init.Process.Pid)
	tag := a
	steps := [][]string{
		{"ip", "link", "add", "hv" + tag, "type", "veth", "peer", "name", "hw" + tag},
		{"ip", "link", "set", "hv" + tag, "netns", a, "name", "eth0"},
		{"ip", "link", "set", "hw" + tag, "netns", b, "name", "eth0"},
	}
	for _, s := range steps {
		if out, err := exec.Command(s[0], s[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %v: %s", strings.Join(s, " "), err, out)
		}
	}
	for _, n := range []*Node{l.A, l.B} {
		if _, err := n.Run("ip", "addr", "add", n.Addr+"/24", "dev", "eth0"); err != nil {
			return err
		}
		if _, err := n.Run("ip", "link", "set", "eth0", "up"); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the one file that both nodes read.
func (l *Lab) configure(o Options) error {
	text := fmt.Sprintf(`cluster = "lab"
log = "stderr"
%s
[node.hb1]
address = "%s"
[node.hb2]
address = "%s"

[resource.data]
%s
[resource.data.on.hb1]
local = "%s"
[resource.data.on.hb2]
local = "%s"
`, o.Extra, l.A.Addr, l.B.Addr, o.Resource, l.A.local, l.B.local)
	if err := os.WriteFile(filepath.Join(l.Dir, "hast.toml"), []byte(text), 0o644); err != nil {
		return err
	}
	key := filepath.Join(l.Dir, "key")
	if _, err := l.A.Run("hastctl", "key", "new", key); err != nil {
		return err
	}
	for _, n := range []*Node{l.A, l.B} {
		for _, c := range [][]string{{"cp", filepath.Join(l.Dir, "hast.toml"), "/etc/hast/hast.toml"}, {"cp", key, "/etc/hast/key"}, {"chmod", "600", "/etc/hast/key"}} {
			if _, err := n.Run(c[0], c[1:]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Config is the path of the file that Reconfigure copies to both nodes.
func (l *Lab) Config() string { return filepath.Join(l.Dir, "hast.toml") }

// Command prepares a program to run on the node.
func (n *Node) Command(name string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(n.init.Process.Pid), "-n", "-m", "-u", "--", name}, args...)...)
	c.Env = n.env
	c.Dir = "/"
	return c
}

// Run runs a program on the node and returns what it printed.
func (n *Node) Run(name string, args ...string) (string, error) {
	c := n.Command(name, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w\n%s", n.Name, name, strings.Join(args, " "), err, out.String())
	}
	return strings.TrimSpace(out.String()), err
}

// Ctl runs hastctl.
func (n *Node) Ctl(args ...string) (string, error) { return n.Run("hastctl", args...) }

// Log is the path of the daemon's log.
func (n *Node) Log() string { return filepath.Join(n.Dir, "hastd.log") }

// Start starts hastd in the foreground and waits until it answers.
func (n *Node) Start() error {
	f, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	n.hastd = n.Command("hastd", "-F")
	n.hastd.Stdout, n.hastd.Stderr = f, f
	n.hastd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := n.hastd.Start(); err != nil {
		return err
	}
	done := n.hastd
	go done.Wait()
	return Until(10*time.Second, func() error { _, err := n.Ctl("status"); return err })
}

// Pids returns the processes of this node whose command line begins with the words.
func (n *Node) Pids(words ...string) (pids []int) {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.init.Process.Pid))
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if own, _ := os.Readlink(d + "/ns/net"); own != ns {
			continue
		}
		raw, _ := os.ReadFile(d + "/cmdline")
		args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		if len(args) < len(words) || len(args[0]) == 0 {
			continue
		}
		args[0], _, _ = strings.Cut(filepath.Base(args[0]), ":") // a title begins with the name and a colon
		ok := true
		for i, w := range words {
			ok = ok && args[i] == w
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(d), &pid); ok && err == nil && pid != n.init.Process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Titles returns the processes of this node whose command line, as ps shows it, begins with title.
func (n *Node) Titles(title string) (pids []int) {
	for _, pid := range n.Pids() {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(strings.ReplaceAll(string(raw), "\x00", " "), title) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Kill sends a signal to every process of hastd on the node: 9 is what a machine's death looks like to the other one.
func (n *Node) Kill(sig syscall.Signal) {
	for _, pid := range n.Pids("hastd") {
		syscall.Kill(pid, sig)
	}
}

// Cut and Heal take the link between the nodes away and give it back.
func (l *Lab) Cut() error { _, err := l.A.Run("ip", "link", "set", "eth0", "down"); return err }

// Heal is the opposite of Cut.
func (l *Lab) Heal() error { _, err := l.A.Run("ip", "link", "set", "eth0", "up"); return err }

// LinkBytes returns the bytes that the node has sent and received on the link, counted by the kernel.
func (n *Node) LinkBytes() (sent, received uint64, err error) {
	read := func(name string) (v uint64) {
		out, e := n.Run("cat", "/sys/class/net/eth0/statistics/"+name)
		if e != nil {
			// sysfs shows the namespace that mounted it; /proc/net/dev always shows one's own.
			err = e
			return 0
		}
		fmt.Sscan(out, &v)
		return v
	}
	if out, e := n.Run("cat", "/proc/net/dev"); e == nil {
		for _, line := range strings.Split(out, "\n") {
			name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
			if f := strings.Fields(rest); ok && name == "eth0" && len(f) > 8 {
				fmt.Sscan(f[0], &received)
				fmt.Sscan(f[8], &sent)
				return sent, received, nil
			}
		}
	}
	return read("tx_bytes"), read("rx_bytes"), err
}

// Die ends every process of the node but its namespaces' keeper, and unmounts what they had: a machine that loses power.
func (n *Node) Die() {
	for range 50 {
		pids := n.Pids()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.clean()
}

// Clean takes away what killed processes left: mounts and devices. Before a new start it is what a reboot would do.
func (n *Node) Clean() { n.clean() }

// clean detaches what a dead node left in its mount namespace. Loop devices are the machine's, so it takes
// only those that this node's own links lead to; they go when the last mount of theirs has gone.
func (n *Node) clean() {
	n.Run("sh", "-c", `for d in /dev/hast/*; do [ -b "$d" ] && losetup -d "$(readlink -f "$d")"; done
for m in $(awk '$2 ~ "^/(srv|run/hast)/" {print $2}' /proc/self/mounts | tac); do umount -l "$m"; done; rm -rf /dev/hast/*`)
}

// Close removes the nodes and everything of theirs.
func (l *Lab) Close() {
	for _, n := range []*Node{l.A, l.B} {
		if n == nil || n.init == nil || n.init.Process == nil {
			continue
		}
		n.Die()
		syscall.Kill(n.init.Process.Pid, syscall.SIGKILL)
		n.init.Wait()
	}
	os.RemoveAll(l.Dir)
}

// Until calls f until it returns nil or the time is over.
func Until(d time.Duration, f func() error) error {
	end := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", d, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
