package hastd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"hast/proto"
)

// A daemon in the background is this program executed again in a session of its
// own. The first process waits for its word, so that whoever started hastd sees every error of the start, and
// finds the daemon serving when it is told of success.

// startPatience bounds that wait: binding sockets and reading the configuration take milliseconds, finding a device
// of a former life again up to a worker's start.
const startPatience = 90 * time.Second

// verdict is what the background process tells the first one, once.
type verdict struct {
	Code int    `json:"code"`
	Text string `json:"text,omitempty"`
}

// goBackground executes the daemon again with args and returns the exit code
// of the first process. Errors go to standard error.
func goBackground(args []string) int {
	r, w, err := os.Pipe()
	if err != nil {
		return complain(proto.ExitOS, err)
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return complain(proto.ExitOS, err)
	}
	defer null.Close()
	cmd := exec.Command("/proc/self/exe", append(args, "--ready-fd=3")...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, null
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/" // keep no file system busy
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return complain(proto.ExitOS, fmt.Errorf("cannot start in the background: %w", err))
	}
	r.SetReadDeadline(time.Now().Add(startPatience))
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	var v verdict
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		cmd.Process.Kill()
		return complain(proto.ExitTemp, fmt.Errorf("the daemon was not ready within %v", startPatience))
	case err != nil || json.Unmarshal(b, &v) != nil:
		st, _ := cmd.Process.Wait()
		return complain(proto.ExitSoftware, fmt.Errorf("the daemon died while starting: %v", st))
	}
	if v.Code != proto.ExitOK {
		fmt.Fprintln(os.Stderr, "hastd:", v.Text)
	}
	cmd.Process.Release()
	return v.Code
}

func complain(code int, err error) int {
	fmt.Fprintln(os.Stderr, "hastd:", err)
	return code
}

// tell reports the outcome of the start to the first process, if there is one.
func tell(ready *os.File, v verdict) {
	if ready == nil {
		return
	}
	b, _ := json.Marshal(v)
	ready.Write(b)
	ready.Close()
}
