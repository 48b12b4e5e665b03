package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"hast/proto"
)

// addressForms is what a message offers instead of a bad address.
const addressForms = `write "10.0.0.1", "10.0.0.1:8457", "[2001:db8::1]:8457" or a host name`

// noRemote is the word for a resource without a peer.
const noRemote = "none"

// parsePeer parses the address of a node: host[:port] or [v6]:port.
func parsePeer(v any) (string, error) { return parseAddress(v, false) }

// parseRemote parses the address of a peer or "none", which becomes "".
func parseRemote(v any) (string, error) {
	if v == noRemote {
		return "", nil
	}
	s, err := parseAddress(v, false)
	if err != nil {
		return "", fmt.Errorf("%w; or %s, to run without a peer", err, quote(noRemote))
	}
	return s, nil
}

// parseSource parses a local address to dial from. It has no port: the two connections of
// a resource go to the same place and can't come from the same one.
func parseSource(v any) (string, error) {
	if v == "" {
		return "", nil
	}
	s, err := parseAddress(v, false)
	if err != nil {
		return "", err
	}
	if _, port, _ := splitAddress(v.(string)); port != 0 {
		return "", errors.New("must be an address or a host name without a port: a resource has two connections, each from a port of its own")
	}
	host, _, err := net.SplitHostPort(s)
	return host, err
}

// parseListen parses one address or a list of them.
func parseListen(v any) ([]string, error) {
	list, ok := v.([]any)
	if _, one := v.(string); one {
		list, ok = []any{v}, true
	}
	if !ok {
		return nil, wrongType(v, "an address or a list of addresses")
	}
	var all []string
	for i, e := range list {
		s, err := parseAddress(e, true)
		if err != nil {
			return nil, &elementError{i, err}
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("is empty: leave it out to listen on every address")
	}
	return all, nil
}

// elementError is a problem of one element of a list.
type elementError struct {
	index int
	error
}

// parseAddress returns v as host:port with the default port filled in.
func parseAddress(v any, listen bool) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", wrongType(v, "an address")
	}
	if s == "" {
		return "", fmt.Errorf("is empty: %s", addressForms)
	}
	if scheme, _, found := strings.Cut(s, "://"); found {
		return "", fmt.Errorf("%s: the prefix %s:// is not used here: %s", quote(s), scheme, addressForms)
	}
	host, port, err := splitAddress(s)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", quote(s), err, addressForms)
	}
	if port == 0 {
		port = proto.DefaultPort
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if strings.ContainsFunc(ip.Zone(), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("[]%", r) }) {
			return "", fmt.Errorf("%s: the part behind %% is not an interface's name", quote(s))
		}
		if ip.IsMulticast() {
			return "", fmt.Errorf("%s is a multicast address", quote(s))
		}
		if ip.IsUnspecified() && !listen {
			return "", fmt.Errorf("%s stands for every address, but one is needed", quote(s))
		}
		host = ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// splitAddress takes the forms of addressForms apart; port is 0 where there is none.
func splitAddress(s string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, port, nil
	}
	host = s
	if inside, ok := strings.CutPrefix(s, "["); ok {
		var after string
		if host, after, ok = strings.Cut(inside, "]"); !ok {
			return "", 0, errors.New("the ] is missing")
		}
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", 0, errors.New("there is no IPv6 address between [ and ]")
		}
		if after == "" {
			return host, port, nil
		}
		if after[0] != ':' {
			return "", 0, errors.New("after ] comes : and a port, or nothing")
		}
		port, err = parsePort(after[1:])
		return host, port, err
	}
	switch strings.Count(s, ":") {
	case 0:
	case 1:
		var digits string
		host, digits, _ = strings.Cut(s, ":")
		if port, err = parsePort(digits); err != nil {
			return "", 0, err
		}
	default:
		return "", 0, errors.New("this is no IPv6 address (with a port it needs brackets)")
	}
	return host, port, checkHost(host)
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a port from 1 to 65535", quote(s))
	}
	return uint16(n), nil
}

// maxHost is DNS's limit of a name.
const maxHost = 253

// checkHost checks the spelling of an IPv4 address or a host name.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if host == "" || len(host) > maxHost {
		return errors.New("the host is missing or too long")
	}
	digits := true
	for i := range len(host) {
		c := host[i]
		if !bareByte(c) && c != '.' {
			return errors.New("this is neither an IP address nor a host name")
		}
		digits = digits && (c == '.' || c >= '0' && c <= '9')
	}
	if digits {
		return errors.New("this is not an IPv4 address")
	}
	return nil
}
