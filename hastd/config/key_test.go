package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if _, err := ReadKey(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hastctl key new") {
		t.Errorf("no key: %v", err)
	}
	if err := NewKey(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Fatalf("%v %v", st.Mode(), err)
	}
	key, err := ReadKey(path)
	if err != nil || len(key) != KeySize || bytes.Equal(key, make([]byte, KeySize)) {
		t.Fatalf("%x %v", key, err)
	}
	if err := NewKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second key: %v", err)
	}
	if again, err := ReadKey(path); err != nil || !bytes.Equal(key, again) {
		t.Errorf("the key was replaced: %v", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left behind: %v", list)
	}
	other := filepath.Join(dir, "other")
	if err := NewKey(other); err != nil {
		t.Fatal(err)
	}
	if k, _ := ReadKey(other); bytes.Equal(k, key) {
		t.Error("two keys are equal")
	}
	if err := NewKey(filepath.Join(dir, "none", "key")); err == nil {
		t.Error("key in a missing directory")
	}
}

func TestReadKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	good := strings.Repeat("0f", KeySize)
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string // "": accepted
	}{
		{"good", good + "\n", 0o600, ""},
		{"crlf", good + "\r\n", 0o400, ""},
		{"bare", good, 0o600, ""},
		{"group", good + "\n", 0o640, "chmod 600 " + dir + "/group"},
		{"world", good + "\n", 0o604, "chmod 600"},
		{"writable", good + "\n", 0o620, "chmod 600"},
		{"short", good[2:] + "\n", 0o600, "64 hexadecimal digits"},
		{"long", good + "00\n", 0o600, "64 hexadecimal digits"},
		{"longer", strings.Repeat("0", 1000), 0o600, "64 hexadecimal digits"},
		{"words", "correct horse battery staple", 0o600, "64 hexadecimal digits"},
		{"empty", "", 0o600, "64 hexadecimal digits"},
	} {
		path := filepath.Join(dir, c.name)
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := ReadKey(path)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && c.text != "" && strings.Contains(err.Error(), strings.TrimSpace(c.text)) {
			t.Errorf("%s: the message tells the key", c.name)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{fifo, dir} {
		if _, err := ReadKey(p); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if os.Geteuid() == 0 {
		path := filepath.Join(dir, "good")
		os.Chown(path, 1000, 0)
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "chown root:") {
			t.Errorf("foreign key: %v", err)
		}
	}
}

func TestLookupUser(t *testing.T) {
	c := &Config{User: "daemon", File: "f"}
	if name, uid, gid, err := c.LookupUser(); err != nil || name != "daemon" || uid == 0 || gid == 0 {
		t.Error(name, uid, gid, err)
	}
	c.User = DefaultUser
	if name, uid, _, err := c.LookupUser(); err != nil || name != DefaultUser && name != FallbackUser || uid == 0 {
		t.Error(name, uid, err)
	}
	for _, u := range []string{"root", "no-such-user-here"} {
		c.User = u
		if _, _, _, err := c.LookupUser(); err == nil {
			t.Errorf("%s accepted", u)
		}
	}
}
