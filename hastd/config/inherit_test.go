package config

import (
	"fmt"
	"reflect"
	"testing"
)

// TestEveryDirectiveIsInherited sets each directive of a resource in every place where it may stand, and takes the most specific one
// away again and again: what is left there decides, and at the end the default.
func TestEveryDirectiveIsInherited(t *testing.T) {
	values := map[string][4]string{ // for the top level, the node, the resource, and the node within the resource
		"name": {`"v1"`, `"v2"`, `"v3"`, `"v4"`}, "local": {`"/v1"`, `"/v2"`, `"/v3"`, `"/v4"`}, "metadata": {`"/v1"`, `"/v2"`, `"/v3"`, `"/v4"`},
		"device": {`"fuse"`, `"nbd-server"`, `"fuse"`, `"nbd-server"`}, "remote": {`"10.1.1.1"`, `"10.1.1.2"`, `"none"`, `"10.1.1.4"`},
		"source": {`"10.1.1.1"`, `"10.1.1.2"`, `"10.1.1.3"`, `"10.1.1.4"`}, "encrypt": {"false", "true", "true", "false"},
		"replication": {`"async"`, `"async"`, `"memsync"`, `"async"`}, "timeout": {"5", "6", "7", "8"}, "on_peer_loss": {`"freeze"`, `"freeze"`, `"continue"`, `"freeze"`},
		"checksum": {`"none"`, `"xxhash"`, `"sha256"`, `"none"`}, "compression": {`"none"`, `"lz4"`, `"none"`, `"lz4"`}, "metaflush": {"false", "true", "false", "true"},
		"sync_rate": {`"1M"`, `"2M"`, `"3M"`, `"4M"`}, "idle_clean": {"5", "6", "7", "8"}, "exec": {`"/v1"`, `"/v2"`, `"/v3"`, `"/v4"`}, "hook_timeout": {"5", "6", "7", "8"},
	}
	places := []scope{scopeTop, scopeNode, scopeResource, scopeOn}
	for i := range directives {
		d := &directives[i]
		if !d.perResource() {
			continue
		}
		v, ok := values[d.name]
		if !ok {
			t.Errorf("%s: the test has no values for it", d.name)
			continue
		}
		// only says the value in the places of which the bit is set.
		only := func(set scope) any {
			var line [4]string
			for k, s := range places {
				if set&s != 0 {
					line[k] = d.name + " = " + v[k]
				}
			}
			local, other := "local = \"/dev/sdb1\"", ""
			if d.name == "local" && set != 0 {
				local, other = "", local // which the other node needs, too
				if set&scopeResource != 0 {
					other = ""
				}
			}
			text := fmt.Sprintf("%s\n[node.hb1]\naddress = \"10.0.0.1\"\n%s\n[node.hb2]\naddress = \"10.0.0.2\"\n[resource.r]\n%s\n%s\n[resource.r.on.hb1]\n%s\n[resource.r.on.hb2]\n%s\n",
				line[0], line[1], local, line[2], line[3], other)
			c, err := Parse("f", []byte(text), "hb1")
			if err != nil {
				t.Fatalf("%s: %v in\n%s", d.name, err, text)
			}
			return d.get(c, &c.Resources[0])
		}
		preset := only(0)
		for k := len(places) - 1; k >= 0; k-- {
			if d.scopes&places[k] == 0 {
				continue
			}
			alone := only(places[k])
			if all := only(d.scopes & (places[k]<<1 - 1)); !reflect.DeepEqual(all, alone) {
				t.Errorf("%s: %v is in force, and %s says %v", d.name, all, places[k], alone)
			}
			if reflect.DeepEqual(alone, preset) && v[k] != "true" && v[k] != `"continue"` {
				t.Errorf("%s: %s has no effect %s", d.name, v[k], places[k])
			}
		}
	}
}
