package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// lines finds the line on which each key and each array element of a TOML text
// is written. The TOML library tells the position of syntax errors only, and
// an operator wants it for every problem.
//
// The keys of the result are written as in TOML with every table spelled out (see join); elements have
// their index behind them ("listen[1]"). A table that is only implied is on the line of the first key that implies it.
// It also bounds what the library is asked to do: on deep nesting and on many keys with a long prefix
// that needs memory by the square. deep is the line at which a key is longer than maxKey, or 0. So lines comes first; up to
// the first syntax error it reads a text as the library does, and behind that it merely ends.
func lines(text string) (found map[string]int, deep int) {
	s := &scanner{text: text, line: 1, found: map[string]int{}, tables: map[string]int{}}
	s.file()
	return s.found, s.deep
}

// maxKey bounds a key with all tables and indices around it, in bytes, and with it the depth of nesting. The longest that
// can mean anything are resource.NAME.on.NODE.DIRECTIVE with a NAME of proto.MaxName bytes: about 150.
const maxKey = 512

type scanner struct {
	text   string
	pos    int
	line   int
	deep   int
	found  map[string]int
	tables map[string]int // arrays of tables: how many so far
}

// allow reports whether key may be used; if not, the scan is over.
func (s *scanner) allow(key string) bool {
	if len(key) <= maxKey {
		return true
	}
	if s.deep == 0 {
		s.deep = s.line
	}
	s.pos = len(s.text)
	return false
}

// join appends one part to a key in TOML's notation.
func join(key, part string) string {
	if !bare(part) {
		part = quote(part)
	}
	if key == "" {
		return part
	}
	return key + "." + part
}

// element returns the name of an array's element.
func element(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// bare reports whether TOML wants no quotes around a key.
func bare(part string) bool {
	for i := range len(part) {
		if !bareByte(part[i]) {
			return false
		}
	}
	return part != ""
}

func bareByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// quote returns s as a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// file reads headers and key-value pairs to the end.
func (s *scanner) file() {
	s.text = strings.TrimPrefix(s.text, "\ufeff")
	table := ""
	for {
		s.space()
		switch {
		case s.end():
			return
		case s.has("[["):
			s.pos += 2
			table = s.header(s.key(), true)
			s.rest()
		case s.has("["):
			s.pos++
			table = s.header(s.key(), false)
			s.rest()
		default:
			s.pair(table)
			s.rest()
		}
	}
}

func (s *scanner) end() bool            { return s.pos >= len(s.text) }
func (s *scanner) has(want string) bool { return strings.HasPrefix(s.text[s.pos:], want) }

// step moves over one byte and counts lines.
func (s *scanner) step() {
	if s.text[s.pos] == '\n' {
		s.line++
	}
	s.pos++
}

// blank moves over spaces and tabs.
func (s *scanner) blank() {
	for !s.end() && (s.text[s.pos] == ' ' || s.text[s.pos] == '\t') {
		s.pos++
	}
}

// space moves over blanks, comments and line ends.
func (s *scanner) space() {
	for !s.end() {
		switch s.text[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.step()
		case '#':
			s.comment()
		default:
			return
		}
	}
}

func (s *scanner) comment() {
	for !s.end() && s.text[s.pos] != '\n' {
		s.pos++
	}
}

// rest moves to the end of the line.
func (s *scanner) rest() { s.comment() }

// mark notes where a key was seen first.
func (s *scanner) mark(key string, line int) {
	if _, ok := s.found[key]; !ok {
		s.found[key] = line
	}
}

// header notes a table's header and returns the table's key. Parts that name
// an array of tables stand for its latest element.
func (s *scanner) header(parts []string, array bool) string {
	key := ""
	for i, part := range parts {
		if key = join(key, part); !s.allow(key) {
			return ""
		}
		last := i == len(parts)-1
		if !last || !array {
			if last {
				s.found[key] = s.line // an explicit header beats an implied one
			}
			s.mark(key, s.line)
			if n := s.tables[key]; n > 0 {
				key = element(key, n-1)
			}
			continue
		}
		s.mark(key, s.line)
		s.tables[key]++
		key = element(key, s.tables[key]-1)
		s.mark(key, s.line)
	}
	return key
}

// pair reads key = value inside of table.
func (s *scanner) pair(table string) {
	line := s.line
	parts := s.key()
	key := table
	for i, part := range parts {
		if key = join(key, part); !s.allow(key) {
			return
		}
		s.mark(key, line)
		// The library lets a dotted key reach into an array of tables.
		if n := s.tables[key]; n > 0 && i < len(parts)-1 {
			key = element(key, n-1)
		}
	}
	if len(parts) == 0 || s.end() || s.text[s.pos] != '=' {
		if !s.end() {
			s.step() // not TOML; go on
		}
		return
	}
	s.pos++
	s.blank()
	s.value(key)
}

// key reads a dotted key and the blanks behind it.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.blank()
		part, ok := s.part()
		if !ok {
			return parts
		}
		parts = append(parts, part)
		s.blank()
		if !s.has(".") {
			return parts
		}
		s.pos++
	}
}

// part reads one bare or quoted part of a key.
func (s *scanner) part() (string, bool) {
	switch {
	case s.has(`"`), s.has(`'`):
		return s.str(), true
	}
	start := s.pos
	for !s.end() && bareByte(s.text[s.pos]) {
		s.pos++
	}
	return s.text[start:s.pos], s.pos > start
}

// value moves over a value and notes what is inside of it.
func (s *scanner) value(key string) {
	if s.end() || !s.allow(key) {
		return
	}
	switch s.text[s.pos] {
	case '"', '\'':
		s.str()
	case '[':
		s.array(key)
	case '{':
		s.inline(key)
	default: // number, boolean, date (which may have a space inside)
		for !s.end() && !strings.ContainsRune(",]}#\n", rune(s.text[s.pos])) {
			s.pos++
		}
	}
}

func (s *scanner) array(key string) {
	s.pos++
	for i := 0; ; i++ {
		s.space()
		if s.end() {
			return
		}
		if s.has("]") {
			s.pos++
			return
		}
		s.mark(element(key, i), s.line)
		s.value(element(key, i))
		if !s.comma("]") {
			return
		}
	}
}

func (s *scanner) inline(key string) {
	s.pos++
	for {
		s.space()
		if s.end() {
			return
		}
		if s.has("}") {
			s.pos++
			return
		}
		s.pair(key)
		if !s.comma("}") {
			return
		}
	}
}

// comma moves over what may stand behind an element. It is false at anything that is neither
// a comma nor the closing bracket, so that the caller can't go round in place.
func (s *scanner) comma(closing string) bool {
	s.space()
	if s.has(",") {
		s.pos++
		return true
	}
	return s.has(closing)
}

// str reads any of the four kinds of strings and returns its contents,
// unescaped; those of multi-line strings are of no interest.
func (s *scanner) str() string {
	q := s.text[s.pos : s.pos+1]
	if s.has(q + q + q) {
		s.pos += 3
		s.long(q)
		return ""
	}
	s.pos++
	start := s.pos
	for !s.end() && !s.has(q) && !s.has("\n") {
		if q == `"` && s.has(`\`) {
			s.pos++
			if s.end() {
				break
			}
		}
		s.step()
	}
	text := s.text[start:s.pos]
	if s.has(q) && !s.end() {
		s.pos++
	}
	if q == `"` {
		return unescape(text)
	}
	return text
}

// long moves over a multi-line string, up to two more quotes at its end included.
func (s *scanner) long(q string) {
	for !s.end() && !s.has(q+q+q) {
		if q == `"` && s.has(`\`) {
			s.pos++
			if s.end() {
				return
			}
		}
		s.step()
	}
	for i := 0; i < 5 && s.has(q); i++ {
		s.pos++
	}
}

// unescape undoes the escapes of a basic string.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			i++
			continue
		}
		c := text[i+1]
		i += 2
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		if digits > 0 {
			if i+digits > len(text) {
				return b.String()
			}
			n, err := strconv.ParseUint(text[i:i+digits], 16, 32)
			if err != nil || n > utf8.MaxRune {
				n = utf8.RuneError
			}
			b.WriteRune(rune(n))
			i += digits
			continue
		}
		if at := strings.IndexByte("btnfre", c); at >= 0 {
			c = "\b\t\n\f\r\x1b"[at]
		}
		b.WriteByte(c)
	}
	return b.String()
}
