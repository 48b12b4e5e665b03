// Package config turns hast.toml into checked values, prints the effective
// configuration, tells two configurations apart, and keeps the shared key file.
//
// One file serves both nodes; Load resolves it for both of them and reports
// every problem of either in one go, each with its file, line and key. One table
// (directive.go) drives parsing, defaults, printing, comparing and the digest;
// docs/man/hast.toml.5 describes it for people.
//
// The package decides nothing at run time and looks up no host names. It
// opens only the configuration, the key and (LookupUser) the user data base.
// The daemon and hastctl import it; nothing below the daemon's root does.
// A *Config is not changed once Load has returned it, so any number of goroutines may read it.
package config
