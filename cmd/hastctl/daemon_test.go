package main

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"hast/proto"
	"hast/proto/ctl"
)

// fakeDaemon answers the control socket with fixtures: resources "data" and "mail".
type fakeDaemon struct {
	mu      sync.Mutex
	asked   []string
	stuck   bool // changes never end
	refusal *ctl.Error
	quits   bool // ends on stop, without an answer
	server  http.Server
}

func startDaemon(t *testing.T, dir string) *fakeDaemon {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeDaemon{}
	mux := http.NewServeMux()
	mux.HandleFunc(ctl.PathStatus, f.status)
	mux.HandleFunc(ctl.PathRole, f.role)
	mux.HandleFunc(ctl.PathReload, f.whole)
	mux.HandleFunc(ctl.PathStop, f.whole)
	mux.HandleFunc(ctl.PathOperations, f.operation)
	mux.HandleFunc(ctl.PathEvents, f.events)
	mux.HandleFunc(ctl.PathDaemon, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(ctl.Daemon{Version: "9.9", PID: 7, Node: "hb1", StartedUnix: begun})
	})
	f.server.Handler = mux
	go f.server.Serve(l)
	t.Cleanup(func() { f.server.Close() })
	return f
}

func (f *fakeDaemon) status(w http.ResponseWriter, r *http.Request) {
	var out ctl.StatusReply
	names := r.URL.Query()["name"]
	if len(names) == 0 || slices.Contains(names, "all") {
		names = []string{"data", "mail"}
	}
	for _, name := range names {
		if name != "data" && name != "mail" {
			out.Errors = append(out.Errors, ctl.NamedError{Name: name, Error: ctl.Error{Code: proto.ExitNoResource, Message: "no such resource: " + name}})
			continue
		}
		s := normal()
		s.Name, s.Status = name, "complete"
		out.Resources = append(out.Resources, s)
	}
	json.NewEncoder(w).Encode(out)
}

func (f *fakeDaemon) role(w http.ResponseWriter, r *http.Request) {
	var q ctl.RoleRequest
	json.NewDecoder(r.Body).Decode(&q)
	if len(q.Names) == 0 {
		q.Names = []string{"data", "mail"}
	}
	var out ctl.OperationsReply
	for i, name := range q.Names {
		if name != "data" && name != "mail" {
			out.Errors = append(out.Errors, ctl.NamedError{Name: name, Error: ctl.Error{Code: proto.ExitNoResource, Message: "no such resource: " + name}})
			continue
		}
		f.note(q.Role.String() + " " + name)
		out.Operations = append(out.Operations, f.describe(ctl.Operation{ID: uint64(i + 1), Verb: "role", Resource: name}))
	}
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(out)
}

func (f *fakeDaemon) whole(w http.ResponseWriter, r *http.Request) {
	f.note(r.URL.Path)
	verb := filepath.Base(r.URL.Path)
	json.NewEncoder(w).Encode(ctl.OperationsReply{Operations: []ctl.Operation{{ID: 1, Verb: verb}}})
}

func (f *fakeDaemon) operation(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	quits := f.quits
	f.mu.Unlock()
	if quits {
		go f.server.Close()
		<-r.Context().Done()
		return
	}
	json.NewEncoder(w).Encode(f.describe(ctl.Operation{ID: 1, Verb: "role", Resource: "data"}))
}

// describe ends an operation as the test wants it.
func (f *fakeDaemon) describe(op ctl.Operation) ctl.Operation {
	f.mu.Lock()
	defer f.mu.Unlock()
	op.Done, op.Error, op.Phase, op.Seconds = !f.stuck, nil, "asking the peer", 1
	if op.Done {
		op.Error = f.refusal
	}
	return op
}

func (f *fakeDaemon) events(w http.ResponseWriter, r *http.Request) {
	f.note("since=" + r.URL.Query().Get("since"))
	e := json.NewEncoder(w)
	e.Encode(ctl.Event{ID: 4, Event: "connect", Resource: "data", Text: "a < b"})
	w.Write([]byte("\n"))
	e.Encode(ctl.Event{ID: 5, Event: "syncstart", Resource: "data"})
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func (f *fakeDaemon) note(s string) { f.mu.Lock(); f.asked = append(f.asked, s); f.mu.Unlock() }

func (f *fakeDaemon) seen() []string { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.asked) }

func (f *fakeDaemon) set(change func()) { f.mu.Lock(); change(); f.mu.Unlock() }
