package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// printJSON prints v for programs, indented for people who look.
func printJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v)
}

// size writes a number of bytes with three or four digits and a binary unit.
func size(n uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f >= 99.95 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// exact writes a number of bytes in full and, where that helps, in short, as HAST's list does.
func exact(n uint64) string {
	if n < 1024 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d (%s)", n, size(n))
}

// plural writes a number of things.
func plural[N int | uint64](n N, thing string) string { return plurals(n, thing, thing+"s") }

func plurals[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// span writes a duration with its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	if d < 0 {
		d = 0
	}
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s%86400/3600)
}

// stamp writes unix seconds in local time.
func stamp(unix int64) string { return time.Unix(unix, 0).Format("2006-01-02 15:04:05") }

// ago writes an instant and how long it is past.
func ago(unix int64, now time.Time) string {
	return stamp(unix) + " (" + span(now.Sub(time.Unix(unix, 0))) + ")"
}

// micros writes nanoseconds as microseconds.
func micros(ns int64) string { return fmt.Sprintf("%.1f us", float64(ns)/1000) }

// dash stands for what is not there.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
