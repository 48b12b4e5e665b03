// Package proto holds the words that both nodes and both programs share: roles,
// modes, data states, identities, epochs, offsets and exit codes.
//
// It is pure vocabulary. It imports nothing of this module, does no I/O and
// keeps no state; every other package may import it.
package proto
