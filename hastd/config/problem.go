package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hast/proto"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File string
	Line int    // 1 is the first; 0 where no line is to blame
	Key  string // as written in TOML, e.g. resource.data.on.hb1.local; may be empty
	Text string // what is wrong and what is allowed
}

// String returns "file:line: key: text".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems is everything that is wrong with a file, in the order of its lines. It is never empty as an error.
type Problems []Problem

// Error returns one line per problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// sorted returns p by line, without duplicates: one value may be wrong for both nodes.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(p)
}

// ExitCode returns the exit status (proto) that an error of Load calls for:
// wrong contents are EX_CONFIG, a file that can't be read is EX_OSFILE.
func ExitCode(err error) int {
	var p Problems
	switch {
	case err == nil:
		return proto.ExitOK
	case errors.As(err, &p):
		return proto.ExitConfig
	}
	return proto.ExitOSFile
}
