package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	a, far, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = New(far); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestFilesTravelInOrder(t *testing.T) {
	a, b := pair(t)
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"one", "two", "three"} {
		f, err := os.Create(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(name)
		files = append(files, f)
	}
	m := &Message{Kind: KindSetup, Setup: &Setup{Resource: "r"}, Files: []string{"one", "two", "three"}}
	m.Setup.Role, m.Setup.Settings.Mode = 2, 1
	if err := a.Send(m, time.Second, files...); err != nil {
		t.Fatal(err)
	}
	CloseAll(files)
	got, in, err := b.Recv()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll(in)
	for i, f := range in {
		buf := make([]byte, 16)
		n, _ := f.ReadAt(buf, 0)
		if string(buf[:n]) != got.Files[i] {
			t.Errorf("descriptor %d is %q, its name %q", i, buf[:n], got.Files[i])
		}
		if fl, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %q would be inherited by hooks", got.Files[i])
		}
	}
}

func TestStoppedReaderDoesNotBlockTheSender(t *testing.T) {
	a, _ := pair(t)
	m := &Message{Kind: KindLog, Text: strings.Repeat("x", 8<<10)}
	start := time.Now()
	var err error
	for i := 0; err == nil; i++ {
		if i > 10000 {
			t.Fatal("the socket takes everything")
		}
		err = a.Send(m, 50*time.Millisecond)
	}
	if !errors.Is(err, ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Fatalf("took %v", d)
	}
}

func TestEndOfTheOther(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if _, _, err := b.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want EOF", err)
	}
}

func TestLimits(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(&Message{Kind: KindLog, Text: strings.Repeat("x", MaxMessage)}, time.Second); err == nil {
		t.Error("sent more than MaxMessage")
	}
	if err := a.Send(&Message{Kind: KindLog, Files: []string{"a"}}, time.Second); err == nil {
		t.Error("sent a name without its descriptor")
	}
	// A descriptor without a name must be refused and closed by the receiver.
	r, w, _ := os.Pipe()
	defer r.Close()
	if _, _, err := a.c.WriteMsgUnix([]byte(`{"kind":"log"}`), unix.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, _, err := b.Recv(); err == nil {
		t.Error("accepted a descriptor without a name")
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error("the unnamed descriptor is still open")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, s := range []string{``, `{}`, `{"kind":"setup"}`, `{"kind":"nope"}`, `{"kind":"log","extra":1}`, `[]`,
		`{"kind":"connection","connection":{}}`, `{"kind":"state"}`} {
		if _, err := Decode([]byte(s)); err == nil {
			t.Errorf("accepted %q", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"ask","id":7}`))
	f.Add([]byte(`{"kind":"setup","setup":{"resource":"r","role":"primary","settings":{"mode":"async"}}}`))
	f.Add([]byte(`{"kind":"state","state":{"link":"connected"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			return // a word that only the decoder takes
		}
		if m2, err := Decode(out); err == nil {
			again, _ := json.Marshal(m2)
			if !bytes.Equal(out, again) {
				t.Fatalf("%s became %s", out, again)
			}
		}
	})
}

// TestLastWordsOfTheOther: what a process has sent before it ended is received, even if it ended with something of ours unread.
func TestLastWordsOfTheOther(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(&Message{Kind: KindAsk, ID: 1}, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.Send(&Message{Kind: KindStopped, Text: "why"}, time.Second); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if m, _, err := a.Recv(); err != nil || m.Text != "why" {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, _, err := a.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
}
