package hastd

import (
	"os"
)

// joined is a pair of TCP connections between the nodes that belong together,
// after their preambles: what a worker gets.
type joined struct {
	token         [16]byte
	data, control *os.File
	// preambles are the preambles and replies as they crossed the wire; the workers' authentication covers them.
	preambles [][]byte
	remote    string
}

func (j *joined) files() []*os.File { return []*os.File{j.data, j.control} }
