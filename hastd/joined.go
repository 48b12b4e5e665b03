package hastd

import (
	"errors"
	"net"
	"os"

	"hast/hastd/worker/ipc"
)

// joined is a pair of TCP connections between the nodes that belong together,
// after their preambles: what a worker gets.
type joined struct {
	token         [16]byte
	data, control *os.File
	// preambles are the preambles and replies as they crossed the wire, data connection first: request,
	// reply, request, reply. The workers' authentication covers them.
	preambles [][]byte
	remote    string
}

func (j *joined) files() []*os.File { return []*os.File{j.data, j.control} }

func (j *joined) close() { ipc.CloseAll(j.files()) }

// isClosed reports whether err says that we closed the thing ourselves.
func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
