package hastd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"

	"hast/hastd/config"
)

// reload reads the configuration again and makes each difference true in the
// least intrusive way. A mistake in the file changes nothing at all (HAST); after that each resource is on its
// own, and the error says which of them could not follow.
func (s *server) reload(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	daemon.SdNotify(false, daemon.SdNotifyReloading)
	defer daemon.SdNotify(false, daemon.SdNotifyReady)
	c, err := config.Load(s.o.Config, s.o.Node)
	if err != nil {
		return fmt.Errorf("nothing was changed:\n%w", err)
	}
	specs, err := specsOf(c)
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	diff := config.Diff(s.conf, c)
	var errs []error
	if len(diff.Daemon) > 0 {
		errs = append(errs, fmt.Errorf("%s: takes effect when hastd is started again", strings.Join(diff.Daemon, ", ")))
		c.Node, c.RunDir, c.StateDir = s.conf.Node, s.conf.RunDir, s.conf.StateDir
	}
	if err := s.reloadSockets(c, &diff); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if err := s.reloadPidfile(c, &diff); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.reloadResources(ctx, specs, &diff)...)
	s.conf, s.keys = c, keysOf(specs)
	s.d.mu.Lock()
	s.d.about.Peer = c.Peer
	if len(s.refused) == 0 { // else the file is not in force yet, and config check goes on saying so
		s.d.about.ConfigDigest = c.Digest()
	}
	s.d.mu.Unlock()
	s.log.Info("configuration read again", "resources", len(specs), "changes", len(diff.Resources))
	s.d.event(nil, "reload", fmt.Sprintf("configuration read again, resources changed: %d", len(diff.Resources)), nil)
	return errors.Join(errs...)
}

// reloadSockets moves the listeners and the control socket. It does both or changes nothing.
func (s *server) reloadSockets(c *config.Config, diff *config.Changes) error {
	if len(diff.ListenAdded)+len(diff.ListenRemoved) > 0 {
		if err := s.peers.set(c.Listen, s.log); err != nil {
			return err
		}
	}
	if !diff.Control {
		return nil
	}
	err := s.listenControl(c.Control)
	if err != nil {
		if e := s.peers.set(s.conf.Listen, s.log); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (s *server) reloadPidfile(c *config.Config, diff *config.Changes) error {
	if !diff.PIDFile || s.o.PIDFile != "" {
		return nil
	}
	p, err := lockPidfile(c.PIDFile)
	if err != nil {
		c.PIDFile = s.conf.PIDFile
		return fmt.Errorf("the old pidfile stays: %w", err)
	}
	s.pid.remove()
	s.pid = p
	return nil
}

// reloadResources tells every resource that changed, all at once: one that waits must not hold up the others.
func (s *server) reloadResources(ctx context.Context, specs []*spec, diff *config.Changes) []error {
	byName := make(map[string]*spec, len(specs))
	how := make(map[string]impact)
	for _, sp := range specs {
		byName[sp.name] = sp
		if old := s.keys[sp.name]; old != nil && sp.key != nil && !bytes.Equal(old, sp.key) {
			how[sp.name] = impactLive // both ends of a connection that lives have shown each other the old one
			s.log.Info("the key changed: new connections are made with the new one", "resource", sp.name)
		}
	}
	gone := s.owed(byName, how)
	for _, ch := range diff.Resources {
		if s.refused[ch.Name] {
			continue // owed has seen to it
		}
		switch ch.Kind {
		case config.Added:
			s.d.addResource(byName[ch.Name])
		case config.Removed:
			gone = append(gone, ch.Name)
		case config.Live:
			how[ch.Name] = max(how[ch.Name], impactLive)
		case config.Reconnect:
			how[ch.Name] = impactReconnect
		case config.Restart:
			how[ch.Name] = impactRestart
		}
		s.log.Info("resource changed", "resource", ch.Name, "how", ch.Kind, "keys", strings.Join(ch.Keys, " "))
	}
	todo := make(map[string]func(*resource) error)
	for _, name := range gone {
		todo[name] = func(r *resource) error { return s.d.removeResource(ctx, r) }
	}
	for name, h := range how {
		todo[name] = func(r *resource) error { return r.reload(ctx, byName[name], h) }
	}
	return s.carryOut(todo)
}

// owed finds what is left to do for the resources that could not follow at the last reload, of which the difference between the
// configurations does not tell any more: gone are those that are to be removed.
func (s *server) owed(byName map[string]*spec, how map[string]impact) (gone []string) {
	for name := range s.refused {
		r, ok := s.d.find(name)
		sp := byName[name]
		switch {
		case !ok:
		case sp == nil:
			gone = append(gone, name)
		case !r.current().sameDevice(sp):
			how[name] = impactRestart
		case !reflect.DeepEqual(r.current(), sp):
			how[name] = impactReconnect
		}
	}
	return gone
}

// carryOut does all of it at once, and remembers who refused.
func (s *server) carryOut(todo map[string]func(*resource) error) (errs []error) {
	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	n := 0
	for name, do := range todo {
		if r, ok := s.d.find(name); ok {
			n++
			go func() { results <- result{name, do(r)} }()
		}
	}
	s.refused = make(map[string]bool)
	for range n {
		res := <-results
		if res.err != nil {
			errs = append(errs, res.err)
		}
		if errors.Is(res.err, errKept) {
			s.refused[res.name] = true
		}
	}
	return errs
}

// keysOf remembers the keys that the running workers have.
func keysOf(specs []*spec) map[string][]byte {
	m := make(map[string][]byte, len(specs))
	for _, s := range specs {
		m[s.name] = s.key
	}
	return m
}
