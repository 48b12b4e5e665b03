package config

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
)

// Digest returns 64 hexadecimal digits that are equal on two nodes whose files
// mean the same. Comments, order, spelling and the place of a directive do not count,
// nor do values that equal their default: a newer version's new directives do not change it.
func (c *Config) Digest() string {
	text := render(c, func(d *directive, c *Config, r *Resource) bool {
		return !reflect.DeepEqual(d.get(c, r), d.preset(c, r))
	})
	sum := sha256.Sum256([]byte("hast.toml 1\n" + text))
	return hex.EncodeToString(sum[:])
}
