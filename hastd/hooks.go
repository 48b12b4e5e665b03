package hastd

import "hast/proto/ctl"

type hookSet struct{}

func newHooks(*Daemon) hookRunner { return hookSet{} }

func (hookSet) fire(*spec, uint64, []string, map[string]string) {}
func (hookSet) running(*spec) *ctl.HookStatus                   { return nil }
