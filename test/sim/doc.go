// Package sim is the deterministic simulator: two nodes with the shipped request
// machines (hastd/replica) and the shipped on-disk encodings (extent), on disks,
// a network, clients and operators that are made of one seed. Time is virtual and everything runs in one goroutine.
//
//	Run(seed, options)
//
// returns the violations that its checkers saw. The checkers are named after
// the rules of docs/safety.md, one file each; they judge what clients were told and what the disks hold. They never
// look into a machine; the operator alone reads Status, as a person would.
//
// Data is not bytes but versions: each 512-byte sector holds the number of the
// write that it was last written by. Metadata is bytes, so that a restarted node
// loads what its disk really kept.
//
// Options is the fault plan. It is drawn from the seed, and says what may go wrong in this run, and therefore what must
// survive: a red run is always a bug. Only tests use this package.
package sim
