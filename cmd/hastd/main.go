package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"hast/hastd"
	"hast/hastd/hold"
	"hast/hastd/worker"
	"hast/proto"
)

// version is set by the linker.
var version = "unknown"

func main() {
	code := proto.ExitOK
	if err := command(&code).Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "hastd:", err)
		os.Exit(proto.ExitUsage)
	}
	os.Exit(code)
}

// command builds the command line; code receives the exit status.
func command(code *int) *cobra.Command {
	o := hastd.Options{Version: version}
	var readyFD int
	c := &cobra.Command{
		Use:           "hastd",
		Short:         "hastd keeps a block device identical on two nodes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		Run: func(*cobra.Command, []string) {
			if readyFD > 0 {
				o.Ready = os.NewFile(uintptr(readyFD), "ready")
			}
			*code = hastd.Main(o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.Config, "config", "c", hastd.DefaultConfig, "configuration `file`")
	f.CountVarP(&o.Debug, "debug", "d", "log more; may be given twice")
	f.BoolVarP(&o.Foreground, "foreground", "F", false, "stay in the foreground")
	f.StringVarP(&o.PIDFile, "pidfile", "P", "", "pidfile, instead of the configured one")
	f.StringVar(&o.Node, "node", "", "act as this `node` of the configuration")
	f.IntVar(&readyFD, "ready-fd", 0, "used by hastd itself")
	f.MarkHidden("ready-fd")
	c.SetHelpCommand(&cobra.Command{Hidden: true})
	c.CompletionOptions.DisableDefaultCmd = true
	c.AddCommand(
		&cobra.Command{Use: "worker", Hidden: true, DisableFlagParsing: true,
			Run: func(_ *cobra.Command, args []string) { *code = worker.Main(args) }},
		&cobra.Command{Use: "hold", Hidden: true, DisableFlagParsing: true,
			Run: func(_ *cobra.Command, args []string) { *code = keep(args) }},
	)
	return c
}

// keep runs hold on the listening socket that it inherits; args is the socket's path.
func keep(args []string) int {
	if len(args) != 1 {
		return proto.ExitUsage
	}
	if err := hold.Main(hold.Config{Path: args[0], Listener: os.NewFile(3, "hold")}); err != nil {
		fmt.Fprintln(os.Stderr, "hastd hold:", err)
		return proto.ExitSoftware
	}
	return proto.ExitOK
}
