// Package worker is the process that serves one resource in one role: it takes
// its descriptors and settings from the parent, gives up its rights, and then
// runs a machine (hastd/replica) in an engine (hastd/engine), with a front-end where it is primary.
//
// It opens nothing, knows no addresses and decides nothing about roles. Only
// cmd/hastd calls Main. The life of a worker:
//
//	1 clean    executed again with the descriptors it may have (sandbox.Clean)
//	2 setup    one message: settings and descriptors; the descriptors are audited
//	3 lock     empty root, unprivileged user; from here on it may hear the peer
//	4 load     metadata, machine, engine
//	5 serve    messages of the parent, until it says stop
//	6 orphan   if the parent dies: finish, let go of disk and peer, hold the device for a new parent
package worker
