// Package engine is the worker's runner: it feeds a machine of hastd/replica
// with what happens and carries out what the machine asks for, with the backing device (hastd/store), the peer's link
// (hastd/peer) and a front-end (hastd/device). It decides nothing.
//
// How an event travels:
//
//	1 post     whoever sees something (front-end, link, disk, timer) appends an Event to the inbox
//	2 pump     whoever gets the lock steps the machine through the inbox; others leave at once, their events are taken along
//	3 effects  under the lock: frames are queued on the link in order; the rest is collected into a batch
//	4 perform  without the lock: the link is flushed, replies are given, disk operations start: a short write that is all
//	           there is in this very goroutine, other reads and writes in the kernel's queue (hastd/store/aio), what that
//	           can't or won't do on a pool of goroutines; what they bring is posted again
//
// So at depth 1 a write crosses from the front-end's read to its answer with no
// goroutine switch of ours but the peer's acknowledgement, and the frame is on its way before the local disk starts.
package engine
