package hastd

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestPidfile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "hastd.pid")
	p, err := lockPidfile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if strings.TrimSpace(string(b)) != strconv.Itoa(os.Getpid()) {
		t.Errorf("it says %q", b)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := lockPidfile(path); !errors.Is(err, errRunning) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second daemon: %v", err)
	}
	p.remove()
	if _, err := os.Stat(path); err == nil {
		t.Error("not removed")
	}
	if err := os.WriteFile(path, []byte("999999999 stale nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err = lockPidfile(path)
	if err != nil {
		t.Fatal("a stale file must be taken over:", err)
	}
	p.remove()
}
