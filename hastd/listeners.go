package hastd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"
)

// listeners is the set of addresses on which peers are accepted.
type listeners struct {
	accept *acceptor
	open   map[string]net.Listener
}

// set makes the listening addresses those of want: the same stay open, new ones
// are opened before old ones are closed. At least one must work; an address family that the kernel lacks is no error.
func (s *listeners) set(want []string, log *slog.Logger) error {
	var errs []error
	fresh := make(map[string]net.Listener)
	kept := 0
	for _, addr := range want {
		if s.open[addr] != nil {
			kept++
			continue
		}
		l, err := listen(addr)
		switch {
		case err == nil:
			fresh[addr] = l
		case errors.Is(err, syscall.EAFNOSUPPORT):
			log.Debug("address family is not available", "listen", addr)
		default:
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 || len(fresh)+kept == 0 {
		for _, l := range fresh {
			l.Close()
		}
		if len(errs) == 0 {
			errs = append(errs, fmt.Errorf("none of the listen addresses %v is usable", want))
		}
		return errors.Join(errs...)
	}
	for addr, l := range s.open {
		if !slices.Contains(want, addr) {
			l.Close()
			delete(s.open, addr)
			log.Info("no longer listening", "address", addr)
		}
	}
	for addr, l := range fresh {
		s.open[addr] = l
		s.accept.wg.Go(func() { s.accept.serve(l) })
		log.Debug("listening", "address", l.Addr())
	}
	return nil
}

// listen binds one address; one of a family listens on that family only, so that 0.0.0.0 and [::] go together.
func listen(addr string) (net.Listener, error) {
	network := "tcp"
	if host, _, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
			network = "tcp4"
		} else if ip != nil {
			network = "tcp6"
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return l, nil
}

// close ends them all.
func (s *listeners) close() {
	for addr, l := range s.open {
		l.Close()
		delete(s.open, addr)
	}
}
