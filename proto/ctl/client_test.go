package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hast/proto"
)

// answer serves text as the reply to everything.
func answer(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	c := NewClient(path)
	t.Cleanup(c.Close)
	return c
}

func exitCode(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

func TestBadAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		text   string
		code   int
	}{
		{"not JSON", 200, "hello", proto.ExitUnavailable},
		{"cut off", 200, `{"resources":[{"name":`, proto.ExitUnavailable},
		{"unknown fields are for newer clients", 200, `{"node":"a","new":{"x":1}}`, -1},
		{"refusal", 409, `{"code":3,"message":"no","hint":"do"}`, proto.ExitRefused},
		{"refusal of something else", 502, `<html>`, proto.ExitSoftware},
		{"empty refusal", 500, `{}`, proto.ExitSoftware},
	} {
		c := answer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tc.status); io.WriteString(w, tc.text) })
		if _, err := c.Status(t.Context()); exitCode(err) != tc.code || err == nil && tc.code != -1 {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestHugeAnswer(t *testing.T) {
	c := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"node":"`)
		block := bytes.Repeat([]byte("x"), 1<<20)
		for range 40 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	if _, err := c.Daemon(t.Context()); exitCode(err) != proto.ExitUnavailable {
		t.Error(err)
	}
}

// A daemon that does not answer holds nobody up for longer than callWait; the caller's own deadline may be shorter.
func TestSilentDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = NewClient(path).Daemon(ctx)
	if exitCode(err) != proto.ExitUnavailable || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

func TestEventLines(t *testing.T) {
	c := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "\n{\"id\":1,\"event\":\"a\"}\n\ngarbage\n")
	})
	var got []uint64
	err := c.Events(t.Context(), nil, func(e Event) error { got = append(got, e.ID); return nil })
	if exitCode(err) != proto.ExitSoftware || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	enough := errors.New("enough")
	if err := c.Events(t.Context(), nil, func(Event) error { return enough }); err != enough {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	if AsError(nil, 1) != nil {
		t.Error("nil is an error")
	}
	e := &Error{Code: 3, Message: "no", Hint: "Do"}
	if AsError(e, 1) != e || e.Error() != "no. Do" || AsError(io.EOF, 74).Code != 74 {
		t.Error("conversion")
	}
}

// Whatever parses as a status is written and read again without loss: clients and files rely on one form.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"node":"a","resources":[{"name":"data","role":"primary","state":"syncing","mode":"async","sync":{"percent":1.5,"sync_seconds_left":3}}]}`))
	f.Add([]byte(`{"resources":[{"role":"boss"}]}`))
	f.Add([]byte(`{"errors":[{"name":"x","error":{"code":1,"message":"m"}}],"resources":[{"role":"init","mode":"memsync","resource_id":"00112233445566778899aabbccddeeff","epoch":{"number":1,"node":"a"}}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, back StatusReply
		if json.Unmarshal(b, &r) != nil {
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Resources {
			if !s.Role.Valid() || !s.Mode.Valid() {
				return // left out; the server always sets both
			}
		}
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		again, _ := json.Marshal(back)
		if !bytes.Equal(text, again) {
			t.Fatalf("%s\n%s", text, again)
		}
		if len(r.Resources) == 1 && !reflect.DeepEqual(r.Resources[0].Epoch, back.Resources[0].Epoch) {
			t.Fatal("epoch")
		}
	})
}
