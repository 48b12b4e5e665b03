package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"hast/extent"
	"hast/hastd/config"
	"hast/hastd/store"
	"hast/proto"
	"hast/proto/ctl"
)

func newDump(a *app) *cobra.Command {
	return withJSON(a, &cobra.Command{
		Use:               "dump [all|name...]",
		Short:             "Print the metadata on the disk; needs no daemon",
		ValidArgsFunction: a.names,
		RunE:              func(_ *cobra.Command, names []string) error { return a.dump(names) },
	})
}

// dumped is one resource's metadata, for people and programs.
type dumped struct {
	Name         string            `json:"name"`
	Path         string            `json:"path"` // where the metadata is
	Superblock   extent.Superblock `json:"superblock"`
	DirtyBytes   uint64            `json:"dirty_bytes"`
	Active       []extent.Extent   `json:"active_extents"`
	AllActive    bool              `json:"all_active,omitempty"` // the activity map is damaged
	NeverExtents extent.Extent     `json:"never_written_extents"`
	Extents      extent.Extent     `json:"extents"`
	BadPages     []int             `json:"bad_pages,omitempty"`
	Warnings     []string          `json:"warnings,omitempty"`
}

// dump reads the disk as it is. A daemon may be running: each block is read whole, but they are of different instants.
func (a *app) dump(names []string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if len(names) == 0 || slices.Contains(names, "all") {
		names = c.Names()
	}
	list := []dumped{}
	for _, name := range names {
		r := c.Resource(name)
		if r == nil {
			a.fail(name, notConfigured(c, name))
			continue
		}
		d, e := dumpOne(r)
		if e != nil {
			a.fail(name, e)
			continue
		}
		list = append(list, *d)
	}
	if a.json {
		printJSON(a.out, list)
		return nil
	}
	for i := range list {
		list[i].text(a.out)
	}
	return nil
}

func dumpOne(r *config.Resource) (*dumped, *ctl.Error) {
	path := r.Local
	if r.Metadata != "" {
		path = r.Metadata
	}
	f, err := openDirect(path)
	if err != nil {
		return nil, &ctl.Error{Code: proto.ExitNoInput, Message: err.Error()}
	}
	defer f.Close()
	m, err := store.Load(f, r.Name)
	if err != nil {
		code := proto.ExitMetadata
		if errors.Is(err, syscall.EIO) {
			code = proto.ExitIO
		}
		return nil, &ctl.Error{Code: code, Message: err.Error()}
	}
	return &dumped{
		Name: r.Name, Path: path, Superblock: m.Super, DirtyBytes: uint64(m.Dirty.Count()) * proto.BlockSize,
		Active: append([]extent.Extent{}, m.Active...), AllActive: m.AllActive, NeverExtents: m.Never.Count(), Extents: m.Super.Extents(),
		BadPages: m.BadPages, Warnings: m.Warnings,
	}, nil
}

// openDirect reads past the page cache, which may hold what a daemon has overwritten since.
func openDirect(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) { // a file system without direct I/O
		f, err = os.Open(path)
	}
	return f, err
}

// text prints the superblock and a summary of the rest, indented below the name.
func (d *dumped) text(w io.Writer) {
	fmt.Fprintf(w, "%s:\n", d.Name)
	line := func(key string, value any) { fmt.Fprintf(w, "  %-12s %v\n", key+":", value) }
	line("metadata", d.Path)
	for text := range strings.Lines(d.Superblock.String()) {
		fmt.Fprintf(w, "  %s", text)
	}
	line("dirty", exact(d.DirtyBytes))
	if d.AllActive {
		line("active", "all extents: the activity map is damaged")
	} else {
		line("active", plural(len(d.Active), "extent"))
	}
	line("unwritten", fmt.Sprintf("%d of %d extents", d.NeverExtents, d.Extents))
	for _, text := range d.Warnings {
		line("warning", text)
	}
}
