package hastd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"hast/hastd/hold"
	"hast/hastd/worker/ipc"
)

// holdWait bounds one exchange with hold: it does nothing but answer.
const holdWait = 2 * time.Second

// adoptPatience is how long a new parent waits for an orphaned worker to get so far: the worker gives itself four seconds.
const adoptPatience = 15 * time.Second

// keeper looks after one hold process: it starts it, starts it again when it
// dies, and gives it what it is to hold.
type keeper struct {
	d      *Daemon
	name   string // of the resource
	client hold.Client
	listen *os.File // hold's listening socket; workers inherit it too

	mu   sync.Mutex
	pid  int
	blob []byte
	file *os.File // borrowed from the front
	end  chan struct{}
	wg   sync.WaitGroup
}

func holdPath(runDir, deviceName string) string { return filepath.Join(runDir, deviceName+".hold") }

// newKeeper makes the socket and starts hold.
func (d *Daemon) newKeeper(name, deviceName string) (*keeper, error) {
	path := holdPath(d.runDir, deviceName)
	l, err := hold.Listen(path)
	if err != nil {
		return nil, err
	}
	f, err := l.File()
	l.Close()
	if err != nil {
		return nil, fmt.Errorf("hold socket: %w", err)
	}
	k := d.keeperOn(name, path, f)
	if err := k.start(); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return k, nil
}

func (d *Daemon) keeperOn(name, path string, listen *os.File) *keeper {
	return &keeper{d: d, name: name, listen: listen, client: hold.Client{Path: path, Timeout: holdWait}, end: make(chan struct{})}
}

// start executes hold. Its parent's death does not concern it.
func (k *keeper) start() error {
	cmd := exec.Command("/proc/self/exe", "hold", k.client.Path)
	cmd.Args[0] = fmt.Sprintf("hastd: %s (hold)", k.name)
	cmd.Env = []string{"GOTRACEBACK=single"}
	cmd.ExtraFiles = []*os.File{k.listen}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start hold: %w", err)
	}
	k.mu.Lock()
	k.pid = cmd.Process.Pid
	k.mu.Unlock()
	k.wg.Go(func() { cmd.Wait(); k.again() })
	return nil
}

// watch looks after a hold that another parent has started.
func (k *keeper) watch(pid int) {
	k.mu.Lock()
	k.pid = pid
	k.mu.Unlock()
	born := startTime(pid)
	k.wg.Go(func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for startTime(pid) == born {
			select {
			case <-t.C:
			case <-k.end:
				return
			}
		}
		k.again()
	})
}

// again starts a successor of a hold that died, unless it was meant to.
func (k *keeper) again() {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, restartMost) {
		select {
		case <-k.end:
			return
		case <-time.After(pause):
		}
		k.d.log.Warn("hold died; starting another", "resource", k.name)
		err := k.start()
		if err == nil {
			k.mu.Lock()
			blob, file := k.blob, k.file
			k.mu.Unlock()
			if file != nil {
				err = k.client.Put(ipc.HoldLabel, blob, file, k.listen)
			}
			if err != nil {
				k.d.log.Error("hold does not take the device", "resource", k.name, "err", err)
			}
			return
		}
		k.d.log.Error("hold", "resource", k.name, "err", err)
	}
}

// put gives hold the device, or new news of it. It borrows file for as long as the keeper lives.
func (k *keeper) put(blob []byte, file *os.File) error {
	k.mu.Lock()
	k.blob, k.file = blob, file
	k.mu.Unlock()
	return k.client.Put(ipc.HoldLabel, blob, file, k.listen)
}

// quit ends hold, and with it what it holds.
func (k *keeper) quit() {
	close(k.end)
	k.mu.Lock()
	pid := k.pid
	k.mu.Unlock()
	who, err := k.client.Quit()
	if err != nil || who.PID != pid {
		// It may be stopped, or have died just now; it is ours in any case.
		syscall.Kill(pid, syscall.SIGKILL)
	}
	os.Remove(k.client.Path)
	k.listen.Close()
	k.wg.Wait()
}

// leave lets hold go on without us.
func (k *keeper) leave() {
	close(k.end)
	k.listen.Close()
}

// adoptKeeper takes a device back from hold, or from an orphaned worker that stands in for it. errors.Is(err,
// os.ErrNotExist): nobody has one.
func (d *Daemon) adoptKeeper(s *spec) (blob []byte, file *os.File, k *keeper, err error) {
	path := holdPath(d.runDir, s.deviceName)
	c := hold.Client{Path: path, Timeout: holdWait}
	blob, files, err := c.Get(ipc.HoldLabel)
	// An orphaned worker answers only when what it had under way is finished.
	for end := time.Now().Add(adoptPatience); isTimeout(err) && time.Now().Before(end); {
		blob, files, err = c.Get(ipc.HoldLabel)
	}
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, hold.ErrNotHeld) {
			d.log.Warn("a device of a former life has nobody left who holds it", "resource", s.name, "reason", err)
			os.Remove(path)
			return nil, nil, nil, os.ErrNotExist
		}
		return nil, nil, nil, err
	}
	if len(files) != 2 {
		for _, f := range files {
			f.Close()
		}
		return nil, nil, nil, fmt.Errorf("hold (%s) has %d descriptors, want 2", path, len(files))
	}
	return blob, files[0], d.keeperOn(s.name, path, files[1]), nil
}

// settle makes sure, once no orphaned worker answers any more, that a hold process does.
func (k *keeper) settle() error {
	if who, err := k.client.Ping(); err == nil && who.Name == "hold" {
		k.watch(who.PID)
		return nil
	} else if err != nil && !isTimeout(err) {
		return err
	}
	return k.start()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
