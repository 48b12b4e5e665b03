// Command bench measures fullsync replication through the NBD socket against QEMU's storage daemon on the same
// disk in the same run: exporting a local file un-replicated, and mirroring to a second file (quorum, both must take the write).
// It prints ratios; absolute numbers are for orientation only.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"hast/test/lab"
)

// row is one load.
type row struct {
	name  string
	args  string // of fio
	cold  bool   // over four times what the hot extents cover
	bytes bool   // report MB/s
	floor float64
}

var rows = []row{
	{name: "4 KiB random write, depth 1", args: "--rw=randwrite --bs=4k --iodepth=1", floor: 1.0},
	{name: "4 KiB random write, depth 16", args: "--rw=randwrite --bs=4k --iodepth=16", floor: 0.7},
	{name: "128 KiB sequential write, depth 8", args: "--rw=write --bs=128k --iodepth=8", bytes: true, floor: 1.1},
	{name: "4 KiB random write, flush after each", args: "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"},
	{name: "4 KiB random write, cold extents, depth 16", args: "--rw=randwrite --bs=4k --iodepth=16", cold: true},
}

// system is what the load runs against.
type system struct {
	name string
	node *lab.Node
	sock string
	cold string // socket of the resource with few hot extents
	stop func()
}

type result struct{ rate, p50, p99 float64 }

// must ends the run; main's deferred calls take the systems down.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	bin := flag.String("bin", "bin", "directory of hastd and hastctl")
	secs := flag.Int("seconds", 3, "of each measurement")
	rounds := flag.Int("rounds", 3, "alternating rounds; medians are printed")
	size := flag.Int("size", 256, "MiB of each device")
	only := flag.String("only", "", "comma separated systems: plain, tls, qemu, quorum")
	load := flag.String("load", "", "only loads whose name contains this")
	flag.Parse()
	if m := lab.Missing(); m != "" {
		fmt.Println("bench needs", m)
		os.Exit(1)
	}
	for _, p := range []string{"fio", "qemu-storage-daemon"} {
		if _, err := exec.LookPath(p); err != nil {
			fmt.Printf("bench needs %s (Debian: apt-get install fio qemu-system-common)\n", p)
			os.Exit(1)
		}
	}
	path, err := filepath.Abs(*bin)
	must(err)
	want := func(s string) bool { return *only == "" || strings.Contains(","+*only+",", ","+s+",") }
	rows = slices.DeleteFunc(rows, func(r row) bool { return !strings.Contains(r.name, *load) })
	var systems []*system
	defer func() {
		for _, s := range systems {
			s.stop()
		}
	}()
	for _, s := range []struct {
		name string
		make func() *system
	}{
		{"qemu", func() *system { return qemu(path, *size, false) }},
		{"quorum", func() *system { return qemu(path, *size, true) }},
		{"plain", func() *system { return hast(path, *size, false) }},
		{"tls", func() *system { return hast(path, *size, true) }},
	} {
		if want(s.name) {
			systems = append(systems, s.make())
		}
	}
	for _, s := range systems {
		for _, sock := range []string{s.sock, s.cold} {
			_, err := fio(s, sock, "--rw=write --bs=1m --iodepth=4", *size, 0) // every extent written, every file allocated
			must(err)
		}
	}
	time.Sleep(2 * time.Second)
	table := map[string]map[string][]result{}
	for range *rounds {
		for _, r := range rows {
			for _, s := range systems {
				sock := s.sock
				if r.cold {
					sock = s.cold
				}
				res, err := fio(s, sock, r.args, *size, *secs)
				must(err)
				if table[r.name] == nil {
					table[r.name] = map[string][]result{}
				}
				table[r.name][s.name] = append(table[r.name][s.name], res)
			}
		}
	}
	print(systems, table)
}

func median(list []result, f func(result) float64) float64 {
	var v []float64
	for _, r := range list {
		v = append(v, f(r))
	}
	sort.Float64s(v)
	return v[len(v)/2]
}

func print(systems []*system, table map[string]map[string][]result) {
	for _, r := range rows {
		fmt.Printf("\n%s    (fio --ioengine=nbd %s)\n", r.name, r.args)
		base := 0.0
		for _, s := range systems {
			list := table[r.name][s.name]
			rate := median(list, func(r result) float64 { return r.rate })
			if s.name == "QEMU un-replicated" {
				base = rate
			}
			unit := "IOPS"
			if r.bytes {
				unit, rate = "MB/s", rate*0.131072
			}
			fmt.Printf("  %-20s %9.0f %s  p50 %7.0f us  p99 %8.0f us", s.name, rate, unit,
				median(list, func(r result) float64 { return r.p50 }), median(list, func(r result) float64 { return r.p99 }))
			if base > 0 {
				fmt.Printf("  %5.2f x QEMU un-replicated", median(list, func(r result) float64 { return r.rate })/base)
				if s.name == "hastd fullsync" && r.floor > 0 {
					fmt.Printf(" (floor %.1f)", r.floor)
				}
			}
			fmt.Println()
		}
	}
}

func fio(s *system, sock, args string, mib, secs int) (result, error) {
	export := "data"
	if sock != s.sock {
		export = "cold"
	}
	line := []string{"--name=b", "--ioengine=nbd", "--uri=nbd+unix:///" + export + "?socket=" + sock, fmt.Sprintf("--size=%dm", mib-16), "--output-format=json", "--randrepeat=0"}
	line = append(line, strings.Fields(args)...)
	if secs > 0 {
		line = append(line, "--time_based", fmt.Sprintf("--runtime=%d", secs), "--ramp_time=500ms")
	}
	c := s.node.Command("fio", line...)
	out, err := c.Output()
	if err != nil {
		return result{}, fmt.Errorf("%s: fio %s: %w\n%s", s.name, strings.Join(line, " "), err, out)
	}
	if i := strings.Index(string(out), "{"); i > 0 {
		out = out[i:]
	}
	var j struct {
		Jobs []struct {
			Write struct {
				IOPS float64 `json:"iops"`
				Clat struct {
					P map[string]float64 `json:"percentile"`
				} `json:"clat_ns"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(out, &j); err != nil {
		return result{}, err
	}
	w := j.Jobs[0].Write
	return result{w.IOPS, w.Clat.P["50.000000"] / 1000, w.Clat.P["99.000000"] / 1000}, nil
}

// hast is two nodes with two resources: data with the default activity map, cold with one that covers an eighth of the device.
func hast(bin string, mib int, encrypt bool) *system {
	l, err := lab.New(lab.Options{Bin: bin, DiskSize: int64(mib) << 20, Extra: fmt.Sprintf("encrypt = %v\ndevice = \"nbd-server\"", encrypt)})
	must(err)
	text, err := os.ReadFile(l.Config())
	must(err)
	more := "\n[resource.cold]\n"
	for _, n := range []*lab.Node{l.A, l.B} {
		more += fmt.Sprintf("[resource.cold.on.%s]\nlocal = %q\n", n.Name, n.Dir+"/cold")
		must(exec.Command("truncate", "-s", fmt.Sprintf("%dM", mib), n.Dir+"/cold").Run())
	}
	must(os.WriteFile(l.Config(), append(text, more...), 0o644))
	for _, n := range []*lab.Node{l.B, l.A} {
		_, err := n.Run("cp", l.Config(), "/etc/hast/hast.toml")
		must(err)
		_, err = n.Ctl("create", "data")
		must(err)
		_, err = n.Ctl("create", "-k", "16", "-e", fmt.Sprintf("%dK", max(512, mib*1024/64/1024*1024)), "cold")
		must(err)
		must(n.Start())
	}
	_, err = l.B.Ctl("role", "secondary", "all")
	must(err)
	_, err = l.A.Ctl("role", "primary", "all")
	must(err)
	s := &system{name: "hastd fullsync", node: l.A, sock: "/run/hast/data.nbd", cold: "/run/hast/cold.nbd", stop: l.Close}
	if encrypt {
		s.name += " TLS"
	}
	for _, sock := range []string{s.sock, s.cold} {
		must(lab.Until(10*time.Second, func() error { _, err := l.A.Run("test", "-S", sock); return err }))
	}
	return s
}

// qemu is the storage daemon with a file, or with a mirror of two.
func qemu(bin string, mib int, mirror bool) *system {
	l, err := lab.New(lab.Options{Bin: bin, DiskSize: int64(mib) << 20})
	must(err)
	sock := "/run/qemu.sock"
	args := []string{"--nbd-server", "addr.type=unix,addr.path=" + sock}
	top := "r0"
	for i, n := range []*lab.Node{l.A, l.B}[:map[bool]int{false: 1, true: 2}[mirror]] {
		args = append(args, "--blockdev", fmt.Sprintf("driver=file,node-name=f%d,filename=%s,cache.direct=on,aio=io_uring", i, n.Disk),
			"--blockdev", fmt.Sprintf("driver=raw,node-name=r%d,file=f%d", i, i))
	}
	if mirror {
		args = append(args, "--blockdev", "driver=quorum,node-name=q,vote-threshold=2,children.0=r0,children.1=r1")
		top = "q"
	}
	args = append(args, "--export", "type=nbd,id=e,node-name="+top+",name=data,writable=on")
	c := l.A.Command("qemu-storage-daemon", args...)
	c.Stderr = os.Stderr
	must(c.Start())
	go c.Wait()
	must(lab.Until(5*time.Second, func() error { _, err := l.A.Run("test", "-S", sock); return err }))
	s := &system{name: "QEMU un-replicated", node: l.A, sock: sock, cold: sock, stop: l.Close}
	if mirror {
		s.name = "QEMU quorum of two"
	}
	fmt.Println("qemu-storage-daemon", strings.Join(args, " "))
	return s
}
