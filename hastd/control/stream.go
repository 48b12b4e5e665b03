package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// streams counts the readers of events.
type streams chan struct{}

const (
	// maxStreams leaves most connections to short requests.
	maxStreams = 64
	// lineWait ends a reader that does not take a line; until then the backend's queue holds what follows.
	lineWait = 10 * time.Second
)

// events streams what happens until the client goes, is too slow, or the daemon ends.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.tell <- struct{}{}:
		defer func() { <-s.tell }()
	default:
		refuse(w, http.StatusServiceUnavailable, &ctl.Error{Code: proto.ExitTemp,
			Message: fmt.Sprintf("%d readers of events are connected, more are not served", maxStreams), Hint: "End one of them (hastctl events)"})
		return
	}
	st := &stream{w: w, rc: http.NewResponseController(w)}
	last := s.Backend.Daemon().LastEvent
	since := last
	if q := r.URL.Query().Get("since"); q != "" {
		n, err := strconv.ParseUint(q, 10, 64)
		if err != nil {
			refuse(w, http.StatusBadRequest, invalid("since: %v", err))
			return
		}
		since = n
	}
	st.rc.SetReadDeadline(time.Time{}) // only the client's going ends this request
	w.Header().Set("Content-Type", "application/x-ndjson")
	if since > last {
		st.note(ctl.EventRestart, fmt.Sprintf("hastd has been restarted since event %d; its events follow from the beginning", since))
		since = 0
	}
	st.next = since + 1
	ch := s.Backend.Events(r.Context(), since)
	st.pass(r.Context().Done(), ch)
	if st.err == nil && r.Context().Err() == nil {
		st.note(ctl.EventDropped, fmt.Sprintf("this reader was too slow; go on with --since %d", st.next-1))
	}
}

// stream is one reader's connection.
type stream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	next uint64 // the number that is due
	err  error
}

// pass copies events until the channel ends, the client goes, or the daemon ends.
func (st *stream) pass(gone <-chan struct{}, ch <-chan ctl.Event) {
	beat := time.NewTicker(ctl.StreamBeat)
	defer beat.Stop()
	st.send(nil) // the client knows at once that it is served
	for st.err == nil {
		select {
		case e, ok := <-ch:
			if !ok {
				return
			}
			if e.ID > st.next {
				st.note(ctl.EventGap, fmt.Sprintf("events %d to %d are no longer kept", st.next, e.ID-1))
			}
			st.next = e.ID + 1
			st.event(&e)
		case <-beat.C:
			st.send(nil)
		case <-gone:
			return
		}
	}
}

func (st *stream) event(e *ctl.Event) {
	b, err := json.Marshal(e)
	if err != nil {
		st.err = err
		return
	}
	st.send(b)
}

// note tells something about the stream itself.
func (st *stream) note(kind, text string) {
	st.event(&ctl.Event{Time: time.Now(), Event: kind, Text: text})
}

// send writes one line.
func (st *stream) send(b []byte) {
	if st.err != nil {
		return
	}
	st.rc.SetWriteDeadline(time.Now().Add(lineWait))
	if _, st.err = st.w.Write(append(b, '\n')); st.err == nil {
		st.err = st.rc.Flush()
	}
}
