package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"hast/proto"
	"hast/proto/ctl"
)

// handler maps the paths of proto/ctl to what answers them.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ctl.PathStatus, s.status)
	mux.HandleFunc("POST "+ctl.PathRole, s.role)
	mux.HandleFunc("POST "+ctl.PathReload, s.reload)
	mux.HandleFunc("POST "+ctl.PathStop, s.stop)
	mux.HandleFunc("GET "+ctl.PathOperations, s.operation)
	mux.HandleFunc("GET "+ctl.PathEvents, s.events)
	mux.HandleFunc("GET "+ctl.PathDaemon, s.daemon)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, invalid("hastd does not know the request %s %s: hastctl and hastd may be of different versions", r.Method, r.URL.Path))
	})
	return mux
}

func (s *Server) daemon(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, s.Backend.Daemon())
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	names := r.URL.Query()["name"]
	if len(names) > ctl.MaxNames {
		refuse(w, http.StatusBadRequest, invalid("%d resources are named, at most %d can be", len(names), ctl.MaxNames))
		return
	}
	reply(w, http.StatusOK, s.poll.all(r.Context(), names))
}

func (s *Server) role(w http.ResponseWriter, r *http.Request) {
	var q ctl.RoleRequest
	if !body(w, r, &q) {
		return
	}
	if !q.Role.Valid() || len(q.Names) > ctl.MaxNames {
		refuse(w, http.StatusBadRequest, invalid("a role and at most %d resources have to be named", ctl.MaxNames))
		return
	}
	names, errs := pick(q.Names, s.Backend.Names())
	out := ctl.OperationsReply{Operations: []ctl.Operation{}, Errors: errs}
	for _, name := range names {
		op, err := s.ops.start("role", name, func(ctx context.Context) error { return s.Backend.SetRole(ctx, name, q.Role, q.Force) })
		if err != nil {
			out.Errors = append(out.Errors, ctl.NamedError{Name: name, Error: *err})
			continue
		}
		out.Operations = append(out.Operations, s.ops.describe(op))
	}
	reply(w, http.StatusAccepted, out)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	s.begin(w, "reload", s.Backend.Reload)
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	var q ctl.StopRequest
	if body(w, r, &q) {
		s.begin(w, "stop", func(ctx context.Context) error { return s.Backend.Stop(ctx, q.Detach) })
	}
}

// begin starts an operation of the whole daemon.
func (s *Server) begin(w http.ResponseWriter, verb string, run func(context.Context) error) {
	op, err := s.ops.start(verb, "", run)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusAccepted, ctl.OperationsReply{Operations: []ctl.Operation{s.ops.describe(op)}})
}

func (s *Server) operation(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.URL.Query().Get("id"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, invalid("operation id: %v", err))
		return
	}
	op := s.ops.find(id)
	if op == nil {
		refuse(w, http.StatusNotFound, &ctl.Error{Code: proto.ExitUnavailable, Message: fmt.Sprintf("operation %d is not known any more", id),
			Hint: "hastd may have been restarted: hastctl status shows how things are"})
		return
	}
	s.ops.wait(r.Context(), op)
	reply(w, http.StatusOK, s.ops.describe(op))
}

// body reads a request's JSON into v, strictly: a request that is only half understood is refused.
func body(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, ctl.MaxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.Decode(&struct{}{}) != io.EOF {
		err = errors.New("more than one value")
	}
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		refuse(w, http.StatusRequestEntityTooLarge, invalid("the request is larger than %d bytes", ctl.MaxBody))
	case err != nil:
		refuse(w, http.StatusBadRequest, invalid("the request is not understood: %v", err))
	}
	return err == nil
}

func invalid(format string, args ...any) *ctl.Error {
	return &ctl.Error{Code: proto.ExitInvalid, Message: fmt.Sprintf(format, args...)}
}

func refuse(w http.ResponseWriter, status int, e *ctl.Error) { reply(w, status, e) }

// reply sends v. A client that has gone is not our business.
func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"code":70,"message":"the answer can't be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
