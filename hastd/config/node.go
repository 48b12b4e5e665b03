package config

import (
	"os"
	"slices"
	"strings"
)

// identity is how this machine may be called in the file.
type identity struct {
	names []string // in the order of preference
	given bool     // by --node
}

// machineID is where systemd and dbus keep the machine's unique id.
const machineID = "/etc/machine-id"

// machine returns this machine's host name, its part before the first dot, and the machine id
// (HAST knows the host's UUID as a node's name).
func machine() identity {
	var id identity
	if name, err := os.Hostname(); err == nil && name != "" {
		id.names = append(id.names, name)
		if short, _, _ := strings.Cut(name, "."); short != name && short != "" {
			id.names = append(id.names, short)
		}
	}
	if b, err := os.ReadFile(machineID); err == nil {
		if s := strings.TrimSpace(string(b)); checkNode(s) == nil {
			id.names = append(id.names, s)
		}
	}
	return id
}

// pick returns the section that stands for this machine, or reports that there is none.
func (c *checker) pick(names []string, self identity) string {
	for _, n := range self.names {
		if slices.Contains(names, n) {
			return n
		}
	}
	switch {
	case len(names) == 0: // reported already
	case self.given:
		c.fail("node", "there is no section [%s]; --node may be %s", join("node", self.names[0]), words(names))
	case len(self.names) == 0:
		c.fail("node", "this machine has no host name: say --node %s", words(names))
	default:
		c.fail("node", "there is no section for this machine: it may be called %s here; or say --node %s", words(self.names), words(names))
	}
	return ""
}

// words lists names for people: "a, b or c".
func words(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
