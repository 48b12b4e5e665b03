package hastd

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// lookupTime bounds one question to the resolver: a name server that is down must not hold up a connection for long.
	lookupTime = 2 * time.Second
	// lookupKeep is for how long an answer is used again; addresses of peers hardly ever change.
	lookupKeep = 30 * time.Second
)

// addressBook resolves the hosts of remote addresses. Literal addresses cost nothing; the
// answers for names are kept, the last good one also while the resolver fails.
type addressBook struct {
	mu    sync.Mutex
	known map[string]bookEntry // one for each host of the configuration
}

type bookEntry struct {
	addrs []netip.Addr
	until time.Time
}

// of returns the addresses of the host of hostport.
func (b *addressBook) of(ctx context.Context, hostport string) []netip.Addr {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}
	}
	b.mu.Lock()
	e := b.known[host]
	b.mu.Unlock()
	if time.Now().Before(e.until) {
		return e.addrs
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return e.addrs
	}
	for i := range found {
		found[i] = found[i].Unmap().WithZone("")
	}
	b.mu.Lock()
	if b.known == nil {
		b.known = make(map[string]bookEntry)
	}
	b.known[host] = bookEntry{found, time.Now().Add(lookupKeep)}
	b.mu.Unlock()
	return found
}

// matches reports whether from is an address of the host of hostport.
func (b *addressBook) matches(ctx context.Context, hostport string, from netip.Addr) bool {
	for _, a := range b.of(ctx, hostport) {
		if a == from {
			return true
		}
	}
	return false
}
