// Command hastctl tells hastd what to do and shows how it is; see hastctl(8).
//
// One file for each verb, registered in root.go; what prints is in text.go,
// status_text.go and list_text.go, apart from what fetches, so that text and JSON come from the same data. Most
// verbs ask the daemon over the control socket (proto/ctl); create, dump,
// key and config need none.
package main

import "os"

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(newApp(os.Stdout, os.Stderr).run(os.Args[1:])) }
