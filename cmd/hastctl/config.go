package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hast/hastd/config"
	"hast/proto"
	"hast/proto/ctl"
)

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check or show the configuration; needs no daemon",
		Args:  cobra.ArbitraryArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("config needs one of check and show") },
	}
	c.AddCommand(
		&cobra.Command{Use: "check", Short: "Report every mistake in the configuration", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return a.check(c) }},
		withJSON(a, &cobra.Command{Use: "show", Short: "Print the configuration with every default filled in", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return a.showConfig() }}),
	)
	return c
}

// check reads the file and the key, and says whether the daemon that runs knows this file.
func (a *app) check(cmd *cobra.Command) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if _, err := config.ReadKey(c.KeyFile); err != nil {
		return &ctl.Error{Code: proto.ExitConfig, Message: fmt.Sprintf("%s is well-formed, but its key is not usable: %v", c.File, err)}
	}
	fmt.Fprintf(a.out, "%s: ok: node %s, peer %s, %s, digest %s\n", c.File, c.Node, dash(c.Peer), plural(len(c.Resources), "resource"), c.Digest())
	client := ctl.NewClient(c.Control)
	defer client.Close()
	if d, err := client.Daemon(cmd.Context()); err == nil && samePath(d.ConfigPath, c.File) && d.ConfigDigest != c.Digest() {
		fmt.Fprintln(a.out, "hastd runs with an older version of it: hastctl reload")
	}
	return nil
}

func samePath(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y) || filepath.Clean(a) == filepath.Clean(b)
}

func (a *app) showConfig() error {
	c, err := a.load()
	if err != nil {
		return err
	}
	show := config.Show
	if a.json {
		show = config.ShowJSON
	}
	if err := show(a.out, c); err != nil {
		return &ctl.Error{Code: proto.ExitIO, Message: "cannot write: " + err.Error()}
	}
	return nil
}
