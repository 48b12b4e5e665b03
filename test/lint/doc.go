// Package lint holds the tests that keep the tree in the shape that the
// architecture gives it: who may import whom, which packages stay pure, what every
// package and every dependency has to say about itself.
//
// It has no code of its own and nobody imports it.
package lint
