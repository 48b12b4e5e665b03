package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hast/hastd/config"
	"hast/proto"
	"hast/proto/ctl"
)

// defaultPatience is longer than any change of role takes when nothing is stuck: an orderly stop, a
// promotion within the resource's timeout, and the making of the device.
const defaultPatience = 2 * time.Minute

// app is one run of hastctl: the global options and where output goes.
type app struct {
	out, err io.Writer
	now      func() time.Time
	live     bool // somebody watches err: show what is waited for
	code     int  // the exit status so far: the first one that is not 0

	config  string
	node    string
	debug   int
	json    bool
	timeout time.Duration
}

func newApp(out, err io.Writer) *app {
	a := &app{out: out, err: err, now: time.Now}
	if f, ok := err.(*os.File); ok {
		st, e := f.Stat()
		a.live = e == nil && st.Mode()&os.ModeCharDevice != 0
	}
	return a
}

// run executes one command line and returns the exit status.
func (a *app) run(args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.Execute()
	var e *ctl.Error
	switch {
	case err == nil:
	case errors.As(err, &e):
		a.fail("", e)
	default: // cobra's own: an unknown verb, option or number of arguments
		a.fail("", &ctl.Error{Code: proto.ExitUsage, Message: err.Error(), Hint: "hastctl --help lists the verbs, hastctl VERB --help a verb's options"})
	}
	return a.code
}

// fail prints an error, about a resource or (name == "") in general, and remembers its code.
func (a *app) fail(name string, e *ctl.Error) {
	if a.code == proto.ExitOK {
		a.code = e.Code
	}
	text := e.Message
	if name != "" && !strings.Contains(text, name) {
		text = name + ": " + text
	}
	fmt.Fprintf(a.err, "hastctl: %s\n", text)
	if e.Hint != "" {
		fmt.Fprintf(a.err, "         %s\n", e.Hint)
	}
}

func (a *app) failAll(list []ctl.NamedError) {
	for i := range list {
		a.fail(list[i].Name, &list[i].Error)
	}
}

// note tells what happens to those who asked with -d.
func (a *app) note(format string, args ...any) {
	if a.debug > 0 {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// load reads the configuration.
func (a *app) load() (*config.Config, error) {
	c, err := config.Load(a.config, a.node)
	if err != nil {
		return nil, &ctl.Error{Code: config.ExitCode(err), Message: err.Error()}
	}
	return c, nil
}

// client returns a client of the daemon that the configuration names.
func (a *app) client() (*ctl.Client, error) {
	c, err := a.load()
	if err != nil {
		// A file that got mistakes while the daemon runs must not lock its operators out.
		var bad *ctl.Error
		if st, e := os.Stat(config.DefaultControl); e == nil && st.Mode()&os.ModeSocket != 0 && errors.As(err, &bad) && bad.Code == proto.ExitConfig {
			fmt.Fprintf(a.err, "hastctl: the configuration has mistakes (hastctl config check); asking hastd at %s\n", config.DefaultControl)
			return ctl.NewClient(config.DefaultControl), nil
		}
		return nil, err
	}
	a.note("asking hastd at %s", c.Control)
	return ctl.NewClient(c.Control), nil
}

// finish waits for operations, all at the same time, and prints what became of them in their order.
func (a *app) finish(ctx context.Context, c *ctl.Client, reply ctl.OperationsReply) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	type result struct {
		op  ctl.Operation
		err error
	}
	results := make([]chan result, len(reply.Operations))
	for i, op := range reply.Operations {
		results[i] = make(chan result, 1)
		go func() {
			op, err := c.Wait(ctx, op, a.progress)
			results[i] <- result{op, err}
		}()
	}
	for _, ch := range results {
		r := <-ch
		switch {
		case r.err != nil:
			a.fail("", ctl.AsError(r.err, proto.ExitSoftware))
		case r.op.Error != nil:
			a.fail(r.op.Resource, r.op.Error)
		default:
			a.note("%s: done in %.1f s", title(&r.op), r.op.Seconds)
		}
	}
}

// progress says what is waited for when it takes longer than one answer.
func (a *app) progress(op ctl.Operation) {
	if op.Done || !a.live && a.debug == 0 {
		return
	}
	phase := op.Phase
	if phase == "" {
		phase = "at work"
	}
	fmt.Fprintf(a.err, "%s: %s (%.0f s)\n", title(&op), phase, op.Seconds)
}

func title(op *ctl.Operation) string {
	if op.Resource == "" {
		return op.Verb
	}
	return op.Verb + " " + op.Resource
}

// names completes the names of resources on the command line.
func (a *app) names(_ *cobra.Command, done []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := config.Load(a.config, a.node)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return append([]string{"all"}, c.Names()...), cobra.ShellCompDirectiveNoFileComp
}
