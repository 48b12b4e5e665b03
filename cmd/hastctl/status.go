package main

import (
	"io"

	"github.com/spf13/cobra"

	"hast/proto/ctl"
)

func newStatus(a *app) *cobra.Command {
	return withJSON(a, &cobra.Command{
		Use:               "status [all|name...]",
		Short:             "Show resources in a line each, and what is not normal with them",
		ValidArgsFunction: a.names,
		RunE: func(c *cobra.Command, names []string) error {
			return a.show(c, names, func(w io.Writer, r *ctl.StatusReply) { statusText(w, r, a.now()) })
		},
	})
}

// show asks for the status of resources and prints it as text or JSON.
func (a *app) show(cmd *cobra.Command, names []string, text func(io.Writer, *ctl.StatusReply)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	reply, err := c.Status(cmd.Context(), names...)
	if err != nil {
		return err
	}
	if a.json {
		printJSON(a.out, reply)
	} else {
		text(a.out, &reply)
	}
	a.failAll(reply.Errors)
	return nil
}
