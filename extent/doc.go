// Package extent is the bookkeeping of what is hot, dirty and locked on one
// resource, and how that is written to the metadata area: geometry, activity
// map, dirty bitmap, range locks, superblock.
//
// It is pure: no I/O, no clock, no goroutine, not safe for concurrent use. The
// only caller in the data path is hastd/replica; hastctl uses the encodings.
package extent
