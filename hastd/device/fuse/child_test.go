package fuse

// children are what this test binary can be started as.
var children = map[string]func(){}
