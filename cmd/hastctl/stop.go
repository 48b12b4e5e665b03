package main

import "github.com/spf13/cobra"

func newStop(a *app) *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use:   "stop",
		Short: "Stop hastd in an orderly way",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Stop(cmd.Context(), detach)
			if err != nil {
				return err
			}
			a.finish(cmd.Context(), c, reply)
			return nil
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "remove devices although they are in use, where the kernel can")
	return c
}
