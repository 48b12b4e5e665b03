// Package ipc is how a parent and its worker talk: one socket pair of packets,
// each packet one JSON message of bounded size with the descriptors it needs.
//
// It moves messages; what they mean is decided by hastd (the parent) and
// hastd/worker, its only importers. Key material travels here and never in
// arguments or the environment.
package ipc
