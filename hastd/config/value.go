package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hast/proto"
)

// A parser turns a decoded TOML value into a setting's type. Its error says
// what is wrong and what is allowed; file, line and key are added by the caller.
type parser[T any] func(v any) (T, error)

// kind names a decoded TOML value's type for people.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a number with a fraction"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	}
	return "of an unknown type"
}

// wrongType is the error of a value that has another type than wanted.
func wrongType(v any, want string) error { return fmt.Errorf("is %s, but must be %s", kind(v), want) }

// text parses any string that check accepts.
func text(want string, check func(string) error) parser[string] {
	return func(v any) (string, error) {
		s, ok := v.(string)
		if !ok {
			return "", wrongType(v, want)
		}
		return s, check(s)
	}
}

// word parses one of a closed set of words.
func word[T ~string](words ...T) parser[T] {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = quote(string(w))
	}
	want := "one of " + strings.Join(list, ", ")
	return func(v any) (T, error) {
		s, ok := v.(string)
		if !ok {
			return "", wrongType(v, want)
		}
		if !slices.Contains(words, T(s)) {
			return "", fmt.Errorf("%s is not known: use %s", quote(s), want)
		}
		return T(s), nil
	}
}

func parseMode(v any) (proto.Mode, error) {
	w, err := word("fullsync", "memsync", "async")(v)
	if err != nil {
		return 0, err
	}
	return proto.ParseMode(w)
}

func parseBool(v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, wrongType(v, "true or false, without quotes")
	}
	return b, nil
}

// maxPath is Linux's PATH_MAX without the closing zero, maxSocket that of a unix socket's address.
const (
	maxPath   = 4095
	maxSocket = 107
)

// path parses an absolute path of at most limit bytes and cleans it.
func path(limit int) parser[string] {
	return func(v any) (string, error) {
		s, err := text("an absolute path", func(s string) error { return checkPath(s, limit) })(v)
		if err != nil {
			return "", err
		}
		return filepath.Clean(s), nil
	}
}

func checkPath(s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("is empty, but must be an absolute path")
	case !filepath.IsAbs(s):
		return fmt.Errorf("%s is not an absolute path: it has to begin with /", quote(s))
	case len(s) > limit:
		return fmt.Errorf("the path has %d bytes, but at most %d are possible", len(s), limit)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s has a control character in it", quote(s))
	}
	return nil
}

// pathOr parses an absolute path, or a word that stands for "".
func pathOr(none string) parser[string] {
	return func(v any) (string, error) {
		if s, ok := v.(string); ok && s == none {
			return "", nil
		}
		s, err := path(maxPath)(v)
		if err != nil && none != "" {
			return "", fmt.Errorf("%w; %s is possible as well", err, quote(none))
		}
		return s, err
	}
}

// checkName checks the name of a resource, a device or a cluster: it is part
// of paths, of environment variables and of commands.
func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a name must not be empty")
	case len(s) > proto.MaxName:
		return fmt.Errorf("the name has %d bytes, but at most %d are possible", len(s), proto.MaxName)
	case s[0] == '.' || s[0] == '-':
		return fmt.Errorf("%s must begin with a letter, a digit or an underscore", quote(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || !bareByte(byte(r)) && r != '.' }):
		return fmt.Errorf("%s must consist of letters, digits and the characters . - _", quote(s))
	}
	return nil
}

// checkResource checks a resource's name.
func checkResource(s string) error {
	if s == "all" {
		return fmt.Errorf(`a resource can't be called "all": hastctl takes that for every resource`)
	}
	return checkName(s)
}

// checkNode checks a node's name, which has to fit a proto.Node.
func checkNode(s string) error {
	if limit := len(proto.Node{}); len(s) > limit {
		return fmt.Errorf("the node's name has %d bytes, but at most %d are possible: use the part of the host name before the first dot", len(s), limit)
	}
	return checkName(s)
}

// maxUser is the limit of Linux's useradd(8).
const maxUser = 32

func checkUser(s string) error {
	switch {
	case s == "root" || s == "0":
		return fmt.Errorf("the workers parse what comes from the network and must not run as root: name an unprivileged user")
	case len(s) > maxUser:
		return fmt.Errorf("a user's name has at most %d bytes", maxUser)
	}
	return checkName(s)
}

// duration parses "20s" or a number of seconds, between least and most; with
// zero also 0, which stands for what zero says.
func duration(least, most time.Duration, zero string) parser[time.Duration] {
	allowed := fmt.Sprintf("from %s to %s", quote(formatDuration(least)), quote(formatDuration(most)))
	if zero != "" {
		allowed += ", or 0 for " + zero
	}
	return func(v any) (time.Duration, error) {
		d, err := anyDuration(v)
		if err != nil {
			return 0, fmt.Errorf("%w: allowed is %s", err, allowed)
		}
		if d == 0 && zero != "" {
			return 0, nil
		}
		if d < least || d > most {
			return 0, fmt.Errorf("%s is out of range: allowed is %s", quote(formatDuration(d)), allowed)
		}
		return d, nil
	}
}

func anyDuration(v any) (time.Duration, error) {
	switch v := v.(type) {
	case int64:
		if v > math.MaxInt64/int64(time.Second) || v < math.MinInt64/int64(time.Second) {
			return 0, fmt.Errorf("%d seconds are out of range", v)
		}
		return time.Duration(v) * time.Second, nil
	case string:
		d, err := time.ParseDuration(v)
		if err != nil {
			return 0, fmt.Errorf(`%s is not a duration; write e.g. "500ms", "20s", "2m30s", or a number of seconds without quotes`, quote(v))
		}
		return d, nil
	}
	return 0, wrongType(v, `a duration like "20s" or a number of seconds`)
}

// formatDuration writes d as people do: "10m", not "10m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeUnits are the suffixes of sizes, each 1024 times the one before.
const sizeUnits = "kMGT"

// ParseSize parses a number of bytes with an optional suffix k, M, G or T
// (powers of 1024, in either case), as in "100M".
func ParseSize(s string) (uint64, error) {
	digits, shift := s, 0
	if s != "" {
		if i := strings.IndexByte(strings.ToLower(sizeUnits), s[len(s)-1]|0x20); i >= 0 && s[len(s)-1] > '9' {
			digits, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf(`%s is not a size; write a number with k, M, G or T behind it, e.g. "100M"`, quote(s))
	case n > math.MaxUint64>>shift:
		return 0, fmt.Errorf("%s is too large", quote(s))
	}
	return n << shift, nil
}

// formatSize is the inverse of ParseSize.
func formatSize(n uint64) string {
	unit := ""
	for i := 0; i < len(sizeUnits) && n != 0 && n%1024 == 0; i++ {
		n, unit = n/1024, sizeUnits[i:i+1]
	}
	return strconv.FormatUint(n, 10) + unit
}

// minRate is the slowest sync that can be asked for: below it one sync piece
// (256 KiB) takes longer than a sensible timeout.
const minRate Rate = 64 << 10

func parseRate(v any) (Rate, error) {
	const allowed = `allowed is "64k" and more per second, or 0 for no limit`
	var rate Rate
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return 0, fmt.Errorf("%d is negative: %s", v, allowed)
		}
		rate = Rate(v)
	case string:
		n, err := ParseSize(v)
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, allowed)
		}
		rate = Rate(n)
	default:
		return 0, wrongType(v, `a number of bytes per second like "100M", or 0 for no limit`)
	}
	if rate != 0 && rate < minRate {
		return 0, fmt.Errorf("%s bytes per second are too few: %s", formatSize(uint64(rate)), allowed)
	}
	return rate, nil
}
