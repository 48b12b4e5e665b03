// Package mutation breaks the shipped code one line at a time and demands that
// the simulator notices: by the checker that is named beside the breakage, within a number of seeds.
//
// It is a test only. A mutation replaces a text that occurs exactly once in its file, by an overlay: the tree is never touched.
package mutation
