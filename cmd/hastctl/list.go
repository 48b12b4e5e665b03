package main

import (
	"io"

	"github.com/spf13/cobra"

	"hast/proto/ctl"
)

func newList(a *app) *cobra.Command {
	return withJSON(a, &cobra.Command{
		Use:               "list [all|name...]",
		Short:             "Show everything about resources",
		ValidArgsFunction: a.names,
		RunE: func(c *cobra.Command, names []string) error {
			return a.show(c, names, func(w io.Writer, r *ctl.StatusReply) { listText(w, r, a.now()) })
		},
	})
}
