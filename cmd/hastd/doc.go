// Command hastd keeps a block device identical on two nodes; see hastd(8).
//
// It is the command line only: the daemon is package hastd, and the processes that
// it starts of this same binary are hastd/worker and hastd/hold. It decides nothing. People, init scripts and
// systemd call it without arguments but options; the sub-commands worker and hold are the daemon's own.
package main
