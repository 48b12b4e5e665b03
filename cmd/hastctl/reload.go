package main

import "github.com/spf13/cobra"

func newReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Let hastd read its configuration again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The file is read here as well: its mistakes are told although a daemon's log might be far away.
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Reload(cmd.Context())
			if err != nil {
				return err
			}
			a.finish(cmd.Context(), c, reply)
			return nil
		},
	}
}
