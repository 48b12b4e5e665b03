package hooks

import (
	"fmt"
	"syscall"
	"time"
)

// Result is how one program ended.
type Result struct {
	Event    Event
	Path     string
	Exit     int            // exit status; -1 if it did not exit by itself
	Signal   syscall.Signal // what ended it, 0 if nothing did
	Duration time.Duration
	TimedOut bool // it was ended because its time was over
	Stopped  bool // it was ended because the Runner was
	Err      error
	// Err says why it could not be started, or that it could not be ended (it is stuck in the kernel).
}

// OK reports whether the program ran and exited with 0.
func (r *Result) OK() bool { return r.Err == nil && r.Exit == 0 && !r.TimedOut && !r.Stopped }

// String says what became of the program.
func (r *Result) String() string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.TimedOut:
		return fmt.Sprintf("was ended after %s because hook_timeout was over (%s)", r.Duration.Round(time.Millisecond), r.how())
	case r.Stopped:
		return "was ended because the daemon stops (" + r.how() + ")"
	}
	return r.how()
}

func (r *Result) how() string {
	if r.Signal != 0 {
		return fmt.Sprintf("signal %d, %s", int(r.Signal), r.Signal)
	}
	return fmt.Sprintf("exit status %d", r.Exit)
}
