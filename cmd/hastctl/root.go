package main

import (
	"errors"

	"github.com/spf13/cobra"

	"hast/hastd/config"
)

// newRoot builds the command line.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "hastctl",
		Short:         "hastctl tells hastd what to do and shows how it is",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("unknown verb " + args[0])
			}
			return errors.New("a verb is missing")
		},
	}
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVarP(&a.config, "config", "c", config.DefaultPath, "configuration `file`")
	f.StringVar(&a.node, "node", "", "act as this `node` of the configuration")
	f.CountVarP(&a.debug, "debug", "d", "say what is done; may be given twice")
	f.DurationVar(&a.timeout, "timeout", defaultPatience, "how long to wait for the daemon to finish a change")
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	root.CompletionOptions.DisableDefaultCmd = true
	cobra.EnableCommandSorting = false
	root.AddCommand(
		newCreate(a), newRole(a), newStatus(a), newList(a), newDump(a), newEvents(a),
		newReload(a), newStop(a), newConfig(a), newKey(a), newVersion(a), newCompletion(a),
	)
	return root
}

// withJSON adds --json to a verb that prints data.
func withJSON(a *app, c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return c
}
