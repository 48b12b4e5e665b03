package hastd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device/fuse"
	"hast/hastd/worker/ipc"
	"hast/proto"
)

// takeUpEvery is how often a surviving device whose promotion was refused is tried again.
const takeUpEvery = 10 * time.Second

// adoptSurvivors lets every resource look for the device that a former parent
// has left, in use, before it does anything else. It is called once, at the start, and does not wait.
func (d *Daemon) adoptSurvivors() {
	mine := make(map[string]bool)
	for _, r := range d.all() {
		mine[d.fuseDir(r.current())] = true
		r.ops <- &operation{verb: verbAdopt, result: make(chan error, 1)} // the queue is empty: nobody could ask yet
	}
	d.cleanLeftovers(mine)
}

// findSurvivor takes back what belongs to the resource and ends whoever else has it.
func (d *Daemon) findSurvivor(s *spec) (*ipc.Survivor, *fuseFront, error) {
	if _, err := os.Lstat(holdPath(d.runDir, s.deviceName)); err != nil {
		return nil, nil, os.ErrNotExist
	}
	blob, file, k, err := d.adoptKeeper(s)
	if err != nil {
		return nil, nil, err
	}
	v := new(ipc.Survivor)
	err = json.Unmarshal(blob, v)
	if err == nil && v.Resource != s.name {
		err = fmt.Errorf("it belongs to resource %q", v.Resource)
	}
	if err == nil {
		// One incarnation at a time: the successor starts when the orphan is dead, and its lock tells when its last I/O is.
		err = endOrphan(v.Worker, v.Started)
	}
	if err == nil {
		err = k.settle()
	}
	if err != nil {
		k.leave()
		file.Close()
		return nil, nil, err
	}
	f := d.adoptFuse(s, v, file, k)
	if err := k.put(f.blob(s.name, nil, v.Orderly), file); err != nil {
		d.log.Error("hold does not take the device back", "resource", s.name, "err", err)
	}
	return v, f, nil
}

// endOrphan kills the worker of a dead parent and waits for its end. The process is
// named by a descriptor, so that no other one of the same number can be meant.
func endOrphan(pid int, started uint64) error {
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("orphaned worker %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if startTime(pid) != started {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("orphaned worker %d: %w", pid, err)
	}
	end := time.Now().Add(openPatience)
	for time.Now().Before(end) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 100); n > 0 && err == nil {
			return nil
		}
	}
	return fmt.Errorf("orphaned worker %d does not die: its disk does not answer", pid)
}

// startTime returns when a process began, in clock ticks since boot; 0: no such process.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name may contain anything; what counts begins behind its last parenthesis, with field 3.
	rest := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(rest) < 20 || rest[0][0] == 'Z' {
		return 0
	}
	n, _ := strconv.ParseUint(string(rest[19]), 10, 64)
	return n
}

// cleanLeftovers removes mounts that nobody holds: what is mounted there has nobody left who could answer.
func (d *Daemon) cleanLeftovers(mine map[string]bool) {
	dirs, err := fuse.Leftovers(d.runDir)
	if err != nil {
		d.log.Warn("cannot look for what a former life left", "err", err)
		return
	}
	for _, dir := range dirs {
		if mine[dir] {
			continue // its resource cleans up itself, if the device is dead
		}
		if _, err := os.Lstat(holdPath(d.runDir, trimFuse(dir))); err == nil {
			continue // held, and could not be taken back: somebody has to look at it
		}
		if err := fuse.Clean(dir); err != nil {
			d.log.Error("a dead device of a former life can't be removed", "at", dir, "err", err)
		}
	}
}

func trimFuse(dir string) string {
	name := filepath.Base(dir)
	return name[:len(name)-len(filepath.Ext(name))]
}

// adopt goes on with a device that has survived its parent, and perhaps its
// worker. If the worker was stopped in order, its term is over, and the promotion is asked for like any other; the
// device waits meanwhile. If not, the term goes on.
func (r *resource) adopt() error {
	s := r.current()
	r.setPhase("looking for a device of a former life")
	v, f, err := r.d.findSurvivor(s)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		r.log.Error("a device of a former life can't be taken back", "err", err)
		r.setWhy(err.Error())
		return err
	}
	r.log.Warn("taking back a device that was in use", "device", f.path(), "orderly", v.Orderly)
	r.front = f
	if v.Orderly {
		return r.takeUp()
	}
	r.promoted = true
	r.setRole(proto.RolePrimary)
	r.restart()
	return nil
}

// takeUp asks for the promotion of a device that waits.
func (r *resource) takeUp() error {
	r.takeUpAt = time.Time{}
	if r.front == nil || r.roleNow() != proto.RoleInit {
		return nil
	}
	err := r.changeRole(proto.RolePrimary, false)
	if err != nil && r.front != nil {
		r.takeUpAt = time.Now().Add(takeUpEvery)
		r.setWhy("a device that is in use waits for its promotion: " + err.Error())
	}
	return err
}
