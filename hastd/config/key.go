package config

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// KeySize is the length of the shared key in bytes. Its file holds twice as many hexadecimal digits and a line end.
const KeySize = 32

// keyHint tells how to come by a good key.
const keyHint = "make one with hastctl key new, and copy it to the other node"

// NewKey creates the file at path with a new random key, mode 0600. It never replaces
// a file: the error is then an fs.ErrExist. The file appears with all of its contents or not at all.
func NewKey(path string) error {
	key := make([]byte, KeySize)
	rand.Read(key) // never fails
	dir := filepath.Dir(path)
	// os.CreateTemp makes it with mode 0600.
	f, err := os.CreateTemp(dir, ".key-*")
	if err != nil {
		return fmt.Errorf("cannot create a key in %s: %w", dir, err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the key: %w", err)
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("there is a key already, and it is kept; move it away first if both nodes shall have a new one: %w", err)
	} else if err != nil {
		return fmt.Errorf("cannot create the key: %w", err)
	}
	return syncDir(dir)
}

// syncDir puts a new name on stable storage.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot make the key's name durable: %w", err)
	}
	return nil
}

// ReadKey returns the KeySize bytes of the key at path. It refuses a file that anyone
// but its owner may read or write, and one that belongs neither to root nor to the user who asks. The caller owns the result.
func ReadKey(path string) ([]byte, error) {
	// O_NONBLOCK: a pipe in the key's place must not stop the daemon.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no key: %w; %s", err, keyHint)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	defer f.Close()
	if err := checkKeyFile(f); err != nil {
		return nil, err
	}
	text := make([]byte, 2*KeySize+2)
	n, err := io.ReadFull(f, text)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	line := strings.TrimRight(string(text[:n]), "\r\n")
	key, err := hex.DecodeString(line)
	if err != nil || len(key) != KeySize {
		// The contents stay out of the message: they may be a key with a typing error.
		return nil, fmt.Errorf("key %s: must be one line of %d hexadecimal digits; %s", path, 2*KeySize, keyHint)
	}
	return key, nil
}

// checkKeyFile refuses a key that others know or could have put there.
func checkKeyFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot examine the key %s: %w", f.Name(), err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("key %s is not a regular file; %s", f.Name(), keyHint)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("key %s can be read or written by others (mode %04o): run chmod 600 %s, and change the key if they are not to be trusted", f.Name(), st.Mode&0o7777, f.Name())
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("key %s belongs to user id %d: run chown root: %s, and change the key if that user is not to be trusted", f.Name(), st.Uid, f.Name())
	}
	return nil
}
