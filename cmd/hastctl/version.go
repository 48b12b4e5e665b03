package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hast/hastd/config"
	"hast/proto/ctl"
)

// versions is what hastctl version --json prints.
type versions struct {
	Hastctl string      `json:"hastctl"`
	Daemon  *ctl.Daemon `json:"hastd,omitempty"` // if one answers
}

func newVersion(a *app) *cobra.Command {
	return withJSON(a, &cobra.Command{
		Use:   "version",
		Short: "Print the versions of hastctl and of the hastd that runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Hastctl: version}
			if c, err := config.Load(a.config, a.node); err == nil {
				client := ctl.NewClient(c.Control)
				defer client.Close()
				if d, err := client.Daemon(cmd.Context()); err == nil {
					v.Daemon = &d
				}
			}
			if a.json {
				printJSON(a.out, v)
				return nil
			}
			fmt.Fprintf(a.out, "hastctl %s\n", v.Hastctl)
			if d := v.Daemon; d != nil {
				fmt.Fprintf(a.out, "hastd %s, pid %d, node %s, running since %s\n", d.Version, d.PID, d.Node, stamp(d.StartedUnix))
			}
			return nil
		},
	})
}
