package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxFile bounds the file: hundreds of resources fit, and the TOML
// library's recursion over the deepest nesting that fits stays far from the limit of a stack.
const maxFile = 256 << 10

// Load reads the file at path and resolves it for node, or, where node is "", for
// the section that this machine's names stand for.
//
// An error of type Problems is everything that is wrong with the contents; any
// other error says why the file can't be read. ExitCode tells them apart.
func Load(path, node string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return Parse(path, data, node)
}

// read returns at most one byte more than maxFile, which Parse refuses.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Parse is Load for contents that are in memory; file is the name for messages. It borrows data.
func Parse(file string, data []byte, node string) (*Config, error) {
	self := identity{names: []string{node}, given: true}
	if node == "" {
		self = machine()
	}
	return parse(file, data, self)
}

func parse(file string, data []byte, self identity) (*Config, error) {
	if len(data) > maxFile {
		return nil, Problems{{File: file, Text: fmt.Sprintf("is larger than the %d KiB that a configuration may have", maxFile>>10)}}
	}
	text := string(data)
	where, deep := lines(text)
	if deep > 0 {
		return nil, Problems{{File: file, Line: deep, Text: fmt.Sprintf("nested too deeply, or a key longer than %d bytes", maxKey)}}
	}
	root, err := decode(text)
	if err != nil {
		p := syntax(text, err)
		p.File = file
		return nil, Problems{p}
	}
	c := &checker{file: file, lines: where}
	f := c.check(root)
	cfg := c.resolve(f, self)
	if len(c.problems) > 0 {
		return nil, c.problems.sorted()
	}
	return cfg, nil
}

// decode parses TOML into plain maps. A panic of the library is an error like
// any other: no file may take the daemon down.
func decode(text string) (root map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the TOML parser gave up: %v", r)
		}
	}()
	if !utf8.ValidString(text) {
		return nil, errors.New("the file is not UTF-8 text")
	}
	_, err = toml.Decode(text, &root)
	return root, err
}

// hastConf recognizes the first lines of sections in FreeBSD's hast.conf(5).
var hastConf = regexp.MustCompile(`(?m)^[ \t]*(resource|on)[ \t]+[^ \t={}"]+[ \t]*\{`)

// syntax makes a problem of the library's error.
func syntax(text string, err error) Problem {
	p := Problem{Text: err.Error()}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		p.Line, p.Key = pe.Position.Line, pe.LastKey
		p.Text = strings.TrimSuffix(strings.TrimPrefix(pe.Message, "toml: "), ".")
		if strings.HasPrefix(p.Text, "Key '") { // it names the key better than LastKey does
			p.Key = ""
		}
		if strings.HasPrefix(p.Text, "Invalid float") || strings.HasPrefix(p.Text, "expected value") {
			p.Text += ` (addresses, paths and words need quotes: "10.0.0.1")`
		}
	}
	if hastConf.MatchString(text) {
		p.Text += " (this looks like hast.conf of FreeBSD; here a resource is a TOML table, [resource.NAME], and what differs between the nodes is in [resource.NAME.on.NODE])"
	}
	return p
}
