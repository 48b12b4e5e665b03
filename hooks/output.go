package hooks

import (
	"bytes"
	"io"
	"log/slog"
)

// Bounds of what one run of a program may put into the log (rule 15). What is beyond
// is read and thrown away, so that the program is not stopped by a full pipe.
const (
	maxLine  = 1024
	maxLines = 200
)

// copyLines logs what comes from r line by line until its end. It returns when r ends or is given a deadline.
func copyLines(r io.Reader, log *slog.Logger) {
	o := output{log: log}
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Read(buf)
		o.write(buf[:n])
		if err != nil {
			o.end()
			return
		}
	}
}

// output cuts bytes into lines.
type output struct {
	log     *slog.Logger
	line    []byte // the beginning of a line, at most maxLine bytes
	cut     bool   // more of this line was thrown away
	lines   int
	dropped int // lines beyond maxLines
}

func (o *output) write(p []byte) {
	for len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		if room := maxLine - len(o.line); len(part) > room {
			part, o.cut = part[:room], true
		}
		o.line = append(o.line, part...)
		if whole {
			o.flush()
		}
		p = rest
	}
}

// flush logs the line so far.
func (o *output) flush() {
	switch {
	case o.lines >= maxLines:
		o.dropped++
	case len(o.line) > 0:
		text := clean(string(o.line))
		if o.cut {
			text += " [...]"
		}
		o.log.Info(text)
		o.lines++
	}
	o.line, o.cut = o.line[:0], false
}

func (o *output) end() {
	if len(o.line) > 0 {
		o.flush()
	}
	if o.dropped > 0 {
		o.log.Warn("the hook printed more than goes into the log", "lines_dropped", o.dropped)
	}
}
