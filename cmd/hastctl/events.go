package main

import (
	"encoding/json"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"hast/proto/ctl"
)

func newEvents(a *app) *cobra.Command {
	var since uint64
	c := &cobra.Command{
		Use:   "events",
		Short: "Print what happens, one line of JSON for each event, until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("since") {
				return a.events(c, &since)
			}
			return a.events(c, nil)
		},
	}
	c.Flags().Uint64Var(&since, "since", 0, "begin behind the event with this `id`; 0: with the oldest that is kept")
	return c
}

func (a *app) events(cmd *cobra.Command, since *uint64) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	lines := json.NewEncoder(a.out)
	lines.SetEscapeHTML(false)
	return c.Events(ctx, since, func(e ctl.Event) error { return lines.Encode(e) })
}
