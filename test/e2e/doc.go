// Package e2e tests the real programs on two nodes (test/lab): real files as disks, real namespaces, real block devices, real
// kills. It needs root; without it the tests fail in continuous integration and are not built into anything else.
package e2e
