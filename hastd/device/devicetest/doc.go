// Package devicetest is the conformance suite of the front-ends: a Sink that
// keeps the device in memory, records what it is asked, checks that the contract of package device is kept, and can
// fail, delay and lose power; and Run, the tests that every front-end passes over it.
//
// Only tests import it.
package devicetest
