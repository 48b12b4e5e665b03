package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hast/extent"
	"hast/hastd/config"
	"hast/hastd/store"
	"hast/proto"
	"hast/proto/ctl"
)

// createFlags are the options of create as they were typed.
type createFlags struct {
	extent, media, metadata string
	logical                 string
	hot                     uint32
	force, adopt            bool
}

func newCreate(a *app) *cobra.Command {
	var o createFlags
	c := &cobra.Command{
		Use:   "create name...",
		Short: "Write fresh metadata for resources; needs no daemon",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("create needs the names of resources")
			}
			return nil
		},
		ValidArgsFunction: a.names,
		RunE:              func(_ *cobra.Command, names []string) error { return a.create(names, &o) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.extent, "extentsize", "e", "", "`size` of an extent, a power of two, k/M/G/T (default 2M)")
	f.Uint32VarP(&o.hot, "hot-extents", "k", 0, "`number` of hot extents (default 512)")
	f.StringVarP(&o.media, "mediasize", "m", "", "`size` of the data, k/M/G/T (default: all that fits)")
	f.StringVar(&o.logical, "logical", "", "`size` of the device's blocks, 512 or 4096, the same on both nodes (default 4096; with --adopt the device's own)")
	f.StringVar(&o.metadata, "metadata", "", "internal, or the `path` of a file or device (default: as configured)")
	f.BoolVar(&o.force, "force", false, "discard what is on the device")
	f.BoolVar(&o.adopt, "adopt", false, "keep what is on the device; needs external metadata")
	c.RegisterFlagCompletionFunc("logical", cobra.FixedCompletions([]string{"512", "4096"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// create formats the named resources one after the other. What is wrong with one does not keep the others from being made.
func (a *app) create(names []string, o *createFlags) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	base, err := o.options()
	if err != nil {
		return err
	}
	for _, name := range names {
		r := c.Resource(name)
		if r == nil {
			a.fail(name, notConfigured(c, name))
			continue
		}
		opt := *base
		opt.Name, opt.Local, opt.Metadata = name, r.Local, r.Metadata
		switch o.metadata {
		case "":
		case "internal":
			opt.Metadata = ""
		default:
			opt.Metadata = o.metadata
		}
		if opt.Metadata != r.Metadata {
			a.fail(name, &ctl.Error{Code: proto.ExitUsage, Message: fmt.Sprintf("--metadata %s is not what the configuration says (%s): hastd would not find it", o.metadata, orInternal(r.Metadata)),
				Hint: fmt.Sprintf("Set metadata = %q for resource %s first", o.metadata, name)})
			continue
		}
		a.createOne(c, opt)
	}
	return nil
}

func (a *app) createOne(c *config.Config, opt store.Options) {
	sb, err := store.Create(opt)
	if errors.Is(err, store.ErrInUse) {
		if e := heldByDaemon(c, opt.Name); e != nil {
			a.fail(opt.Name, e)
			return
		}
	}
	if err != nil {
		a.fail(opt.Name, &ctl.Error{Code: createCode(err), Message: err.Error()})
		return
	}
	a.note("%s: created on %s: %s of data in extents of %s, %d of them hot", opt.Name, opt.Local, exact(uint64(sb.DataSize)), size(uint64(sb.ExtentSize)), sb.HotExtents)
	if opt.Adopt {
		// Not a note: without it the two nodes would refuse each other.
		fmt.Fprintf(a.out, "%s: blocks of %d bytes. On the other node, whose copy will be overwritten, run: hastctl create %s%s\n", opt.Name, sb.Logical, peerFlags(&opt, sb), opt.Name)
	}
}

// heldByDaemon asks whether it is this node's hastd that has the device, nil if not.
func heldByDaemon(c *config.Config, name string) *ctl.Error {
	client := ctl.NewClient(c.Control)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), heldPatience)
	defer cancel()
	reply, err := client.Status(ctx, name)
	if err != nil || len(reply.Resources) != 1 {
		return nil
	}
	s := &reply.Resources[0]
	if s.Role == proto.RoleInit && s.WorkerPID == 0 {
		return nil
	}
	return &ctl.Error{Code: proto.ExitNoInput, Message: fmt.Sprintf("hastd uses %s: the role of resource %s is %s", s.Local, name, s.Role),
		Hint: fmt.Sprintf("Metadata can be made in role init only: hastctl role init %s", name)}
}

// heldPatience bounds a question whose answer only makes an error clearer.
const heldPatience = 3 * time.Second

// peerFlags are those options of the peer's create without which the handshake refuses: what is not a default here, and
// the data's size, which a device of another length would not have.
func peerFlags(opt *store.Options, sb *extent.Superblock) string {
	flags := fmt.Sprintf("--logical %d -m %d ", sb.Logical, sb.DataSize)
	if opt.ExtentSize != 0 {
		flags += fmt.Sprintf("-e %d ", sb.ExtentSize)
	}
	return flags
}

// options turns what was typed into what is common to all resources.
func (o *createFlags) options() (*store.Options, error) {
	out := &store.Options{Force: o.force, Adopt: o.adopt, HotExtents: o.hot}
	if o.extent != "" {
		n, err := sizeFlag("-e", o.extent, math.MaxUint32)
		if err != nil {
			return nil, err
		}
		out.ExtentSize = uint32(n)
	}
	switch o.logical {
	case "":
	case "512":
		out.Logical = 512
	case "4096":
		out.Logical = 4096
	default:
		return nil, &ctl.Error{Code: proto.ExitData, Message: fmt.Sprintf("--logical: %s: the size of a block is 512 or 4096", o.logical)}
	}
	if o.media != "" {
		n, err := sizeFlag("-m", o.media, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		out.MediaSize = int64(n)
	}
	return out, nil
}

// sizeFlag parses a size above 0: 0 means the default to the store, and to nobody else.
func sizeFlag(flag, text string, most uint64) (uint64, error) {
	n, err := config.ParseSize(text)
	if err == nil && (n == 0 || n > most) {
		err = fmt.Errorf("%s is out of range", text)
	}
	if err != nil {
		return 0, &ctl.Error{Code: proto.ExitData, Message: flag + ": " + err.Error()}
	}
	return n, nil
}

// createCode maps failures to HAST's exit codes.
func createCode(err error) int {
	var size *store.SizeError
	switch {
	case errors.As(err, &size):
		return proto.ExitData
	case errors.Is(err, store.ErrHoldsData):
		return proto.ExitRefused
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENOSPC):
		return proto.ExitIO
	}
	return proto.ExitNoInput
}

func notConfigured(c *config.Config, name string) *ctl.Error {
	return &ctl.Error{Code: proto.ExitData, Message: fmt.Sprintf("no resource %q in %s", name, c.File)}
}

func orInternal(path string) string {
	if path == "" {
		return "internal"
	}
	return path
}
