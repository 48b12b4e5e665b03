package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"hast/proto"
	"hast/proto/ctl"
)

func newRole(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "role init|primary|secondary all|name...",
		Short: "Change the role of resources",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("role needs a role and the names of resources, or all")
			}
			_, err := proto.ParseRole(args[0])
			return err
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"init", "primary", "secondary"}, cobra.ShellCompDirectiveNoFileComp
			}
			return a.names(c, args, to)
		},
		RunE: func(c *cobra.Command, args []string) error { return a.role(c, args, force) },
	}
	c.Flags().BoolVar(&force, "force", false, "primary: promote although the peer is silent or this copy outdated, and answer for the peer's being off; init, secondary: take the device away although it is in use: its users get I/O errors")
	return c
}

// role is silent on success, as in HAST.
func (a *app) role(cmd *cobra.Command, args []string, force bool) error {
	role, err := proto.ParseRole(args[0])
	if err != nil {
		return err
	}
	names := args[1:]
	if slices.Contains(names, "all") {
		names = nil
	}
	if force && role == proto.RolePrimary && names == nil {
		return errors.New("--force promotes resources that are named one by one, not all")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	reply, err := c.SetRole(cmd.Context(), ctl.RoleRequest{Names: names, Role: role, Force: force})
	if err != nil {
		return err
	}
	a.note("%s", fmt.Sprintf("role %s for %s", role, plural(len(reply.Operations), "resource")))
	a.failAll(reply.Errors)
	a.finish(cmd.Context(), c, reply)
	return nil
}
