package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// FaultStat is what a faulty disk has met so far.
type FaultStat struct {
	Reads, Writes, Flushes, Failed, Delayed, Hanging int
}

// faulty puts test/faultdisk in front of the node's disk; Disk stays the real file.
func (n *Node) faulty() error {
	dir := filepath.Join(n.Dir, "faulty")
	c := n.Command("faultdisk", "-file", n.Disk, "-dir", dir, "-control", n.socket())
	log, err := os.Create(filepath.Join(n.Dir, "faultdisk.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	go c.Wait()
	n.local = filepath.Join(dir, "disk")
	return Until(5*time.Second, func() error {
		_, err := n.Fault("stat")
		if err == nil {
			_, err = n.Run("test", "-f", n.local)
		}
		return err
	})
}

func (n *Node) socket() string { return filepath.Join(n.Dir, "faultdisk.sock") }

// Fault gives the node's faulty disk a command (test/faultdisk).
func (n *Node) Fault(format string, args ...any) (string, error) {
	command := fmt.Sprintf(format, args...)
	c, err := net.DialTimeout("unix", n.socket(), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c, command); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && strings.HasPrefix(answer, "error: ") {
		err = errors.New(strings.TrimSpace(answer))
	}
	if err != nil {
		err = fmt.Errorf("%s: faultdisk: %s: %w", n.Name, command, err)
	}
	return answer, err
}

// FaultStat asks the node's faulty disk what has happened.
func (n *Node) FaultStat() (s FaultStat, err error) {
	answer, err := n.Fault("stat")
	if err == nil {
		err = json.Unmarshal([]byte(answer), &s)
	}
	return s, err
}
