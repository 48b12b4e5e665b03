// Package lab makes two nodes on one machine: each in its own network and mount
// namespace, joined by a veth pair, with the real binaries, real files as disks and real block devices.
//
// It is used by the demo and the end-to-end tests, and by nothing that is shipped. It needs root, and leaves
// nothing behind: a node's processes, mounts and loop devices end with it.
package lab
