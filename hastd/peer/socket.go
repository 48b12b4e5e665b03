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
	timeout = max(timeout, time.Second)
	if err := c.SetNoDelay(true); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	beat := max(timeout/4, time.Second)
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: beat, Interval: beat, Count: 3}); err != nil {
		return fmt.Errorf("keepalive: %w", err)
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = rc.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
	})
	if err == nil && set != nil {
		err = fmt.Errorf("TCP_USER_TIMEOUT: %w", set)
	}
	return err
}
