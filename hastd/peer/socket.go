package peer

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to addr ("host:port"), from the address source unless that is
// empty. It ends with ctx.
func Dial(ctx context.Context, network, addr, source string) (*net.TCPConn, error) {
	var d net.Dialer
	d.KeepAlive = -1 // Tune decides
	if source != "" {
		ip, err := net.ResolveIPAddr("ip", source)
		if err != nil {
			return nil, fmt.Errorf("source address %q: %w", source, err)
		}
		d.LocalAddr = &net.TCPAddr{IP: ip.IP, Zone: ip.Zone}
	}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	t := c.(*net.TCPConn)
	if tcpSelf(t) { // an unbound local port can connect to itself; the port is ours alone then, and nobody listens
		t.Close()
		return nil, fmt.Errorf("dial %s: connected to itself: nobody listens there", addr)
	}
	return t, nil
}

func tcpSelf(c *net.TCPConn) bool { return c.LocalAddr().String() == c.RemoteAddr().String() }

// Tune sets the options that both ends want: no delay, and a dead peer noticed
// by the kernel after timeout (at least a second) with and without data under way. Buffer
// sizes stay the kernel's: it grows them with the product of rate and delay, a fixed size ends that.
func Tune(c *net.TCPConn, timeout time.Duration) error {
	if err := c.SetNoDelay(true); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = rc.Control(func(fd uintptr) {
		set = patience(timeout, func(level, option, value int) error { return unix.SetsockoptInt(int(fd), level, option, value) })
	})
	if err == nil {
		err = set
	}
	return err
}

// patience sets how soon the kernel takes a silent peer for dead.
func patience(timeout time.Duration, set func(level, option, value int) error) error {
	timeout = max(timeout, time.Second)
	beat := int(max(timeout/4, time.Second) / time.Second)
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, beat},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, beat},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds())},
	} {
		if err := set(o.level, o.option, o.value); err != nil {
			return fmt.Errorf("set how soon a silent peer is noticed (option %d): %w", o.option, err)
		}
	}
	return nil
}
