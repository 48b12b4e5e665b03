package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"hast/proto"
)

const (
	// callWait bounds a call: what the server may take, and as much again for a busy machine.
	callWait = 2 * (StatusWait + OperationWait)
	// dialWait bounds connecting: a daemon that is stopped (SIGSTOP) with a full backlog does not accept.
	dialWait = 5 * time.Second
	// maxReply bounds what is read of an answer: every resource of a configuration at a few KiB each.
	maxReply = 16 << 20
	// maxLine bounds one event.
	maxLine = 1 << 20
)

// Client speaks to one daemon. It may be used by many goroutines. Every call but Events and Wait ends
// within seconds whatever the daemon does (rule 14). Errors are *Error.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client for the control socket at path; it connects when it is used.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialWait}).DialContext(ctx, "unix", path)
	}
	// Connections are kept only while calls follow each other.
	return &Client{path: path, http: http.Client{Transport: &http.Transport{DialContext: dial, IdleConnTimeout: time.Second, MaxIdleConnsPerHost: 4}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Daemon tells who serves the socket.
func (c *Client) Daemon(ctx context.Context) (d Daemon, err error) {
	return d, c.call(ctx, http.MethodGet, PathDaemon, nil, &d)
}

// Status returns the named resources; none means all. Unknown ones are in Errors.
func (c *Client) Status(ctx context.Context, names ...string) (r StatusReply, err error) {
	return r, c.call(ctx, http.MethodGet, PathStatus+"?"+url.Values{"name": names}.Encode(), nil, &r)
}

// SetRole begins a change of role; see Wait.
func (c *Client) SetRole(ctx context.Context, q RoleRequest) (r OperationsReply, err error) {
	return r, c.call(ctx, http.MethodPost, PathRole, q, &r)
}

// Reload begins to read the configuration again; see Wait.
func (c *Client) Reload(ctx context.Context) (r OperationsReply, err error) {
	return r, c.call(ctx, http.MethodPost, PathReload, struct{}{}, &r)
}

// Stop begins to end the daemon; see Wait.
func (c *Client) Stop(ctx context.Context, detach bool) (r OperationsReply, err error) {
	return r, c.call(ctx, http.MethodPost, PathStop, StopRequest{Detach: detach}, &r)
}

// Wait asks how op is until it has ended or ctx has, and tells progress (which may be nil) after each answer.
// When ctx ends first the operation goes on, and the error's code is proto.ExitTemp. A stop whose daemon has gone has ended well.
func (c *Client) Wait(ctx context.Context, op Operation, progress func(Operation)) (Operation, error) {
	for !op.Done {
		if ctx.Err() != nil {
			return op, &Error{Code: proto.ExitTemp, Message: fmt.Sprintf("%s is still at work after %.0f s%s", op.title(), op.Seconds, op.phase()),
				Hint: "It goes on; hastctl status shows the outcome"}
		}
		var next Operation
		err := c.call(context.WithoutCancel(ctx), http.MethodGet, PathOperations+"?id="+strconv.FormatUint(op.ID, 10), nil, &next)
		switch {
		case err != nil && gone(err) && op.Verb == "stop":
			op.Done = true
			return op, nil
		case err != nil && gone(err):
			return op, &Error{Code: proto.ExitUnavailable, Message: "hastd went away while " + op.title() + " was under way", Hint: "Its log says why; hastctl status shows the outcome once it runs again"}
		case err != nil:
			return op, err
		}
		op = next
		if progress != nil {
			progress(op)
		}
	}
	return op, nil
}

func (op *Operation) title() string {
	if op.Resource == "" {
		return op.Verb
	}
	return op.Verb + " of " + op.Resource
}

func (op *Operation) phase() string {
	if op.Phase == "" {
		return ""
	}
	return " (" + op.Phase + ")"
}

// gone reports whether err means that nobody serves the socket any more.
func gone(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Code == proto.ExitOS || e.Code == proto.ExitUnavailable)
}

// Events calls f for each event above since (nil: from now on), in order, until f returns an error, ctx ends (which is not an error), or the
// daemon goes. The events borrow nothing; a stream silent for 3 beats counts as lost.
func (c *Client) Events(ctx context.Context, since *uint64, f func(Event) error) error {
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	path := PathEvents
	if since != nil {
		path += "?since=" + strconv.FormatUint(*since, 10)
	}
	silent := time.AfterFunc(3*StreamBeat, cancel)
	defer silent.Stop()
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil && caller.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		silent.Reset(3 * StreamBeat)
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return &Error{Code: proto.ExitSoftware, Message: "event of hastd: " + err.Error(), Hint: versions}
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if caller.Err() != nil {
		return nil
	}
	if lines.Err() == nil {
		return &Error{Code: proto.ExitUnavailable, Message: "hastd has ended the stream of events", Hint: "It was stopped, or this reader was too slow; its log says which"}
	}
	return c.failure(lines.Err())
}

const versions = "hastctl and hastd may be of different versions: hastctl version shows both"

// call makes one request and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return c.failure(err)
	}
	return nil
}

// send makes one request and turns refusals into errors. The caller closes the body.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, &Error{Code: proto.ExitSoftware, Message: err.Error()}
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://hastd"+path, body)
	if err != nil {
		return nil, &Error{Code: proto.ExitSoftware, Message: err.Error()}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failure(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := new(Error)
	if err := json.NewDecoder(io.LimitReader(resp.Body, MaxBody)).Decode(e); err != nil || e.Message == "" {
		return nil, &Error{Code: proto.ExitSoftware, Message: "hastd answered " + resp.Status, Hint: versions}
	}
	return nil, e
}

// failure says what became of a call that got no answer.
func (c *Client) failure(err error) error {
	e := &Error{Code: proto.ExitUnavailable, Message: fmt.Sprintf("hastd closed %s without an answer", c.path), Hint: "Its log says why; is it still running?"}
	var op *net.OpError
	switch dialed := errors.As(err, &op) && op.Op == "dial"; {
	case dialed && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		*e = Error{Code: proto.ExitOS, Message: fmt.Sprintf("hastd does not serve %s", c.path), Hint: "Start it (systemctl start hastd), or name its configuration with -c"}
	case dialed && errors.Is(err, os.ErrPermission):
		*e = Error{Code: proto.ExitOS, Message: fmt.Sprintf("%s: permission denied", c.path), Hint: "Only root and the socket's owner may use it"}
	case dialed:
		*e = Error{Code: proto.ExitOS, Message: fmt.Sprintf("cannot connect to %s: %v", c.path, op.Err)}
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		*e = Error{Code: proto.ExitUnavailable, Message: fmt.Sprintf("hastd does not answer on %s within %v", c.path, callWait), Hint: "It may be stopped or stuck: its log and systemctl status hastd say more"}
	}
	return e
}
