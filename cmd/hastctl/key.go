package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"hast/hastd/config"
	"hast/proto"
	"hast/proto/ctl"
)

func newKey(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Make the secret that both nodes share; needs no daemon",
		Args:  cobra.ArbitraryArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("key needs the verb new") },
	}
	c.AddCommand(&cobra.Command{
		Use:   "new [path]",
		Short: "Write a new key to path, or to where the configuration expects it",
		Args:  cobra.MaximumNArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.newKey(args) },
	})
	return c
}

func (a *app) newKey(args []string) error {
	path := config.DefaultKeyFile
	if len(args) == 1 {
		path = args[0]
	} else if c, err := config.Load(a.config, a.node); err == nil {
		path = c.KeyFile
	}
	err := config.NewKey(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return &ctl.Error{Code: proto.ExitRefused, Message: err.Error()}
	case err != nil:
		return &ctl.Error{Code: proto.ExitIO, Message: err.Error()}
	}
	fmt.Fprintf(a.out, "%s: written; copy it to the other node, for root alone (mode 0600)\n", path)
	return nil
}
