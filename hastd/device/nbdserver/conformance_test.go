package nbdserver

import (
	"math/rand/v2"
	"testing"

	"hast/hastd/device/devicetest"
)

func TestConformance(t *testing.T) {
	devicetest.Run(t, devicetest.Traits{}, func(t *testing.T, s *devicetest.Sink) devicetest.Device {
		path, _ := start(t, s)
		return dial(t, path)
	})
}

// several spreads requests over connections.
type several []*client

func (m several) any() *client                               { return m[rand.IntN(len(m))] }
func (m several) Read(p []byte, off uint64) error            { return m.any().Read(p, off) }
func (m several) Write(p []byte, off uint64, fua bool) error { return m.any().Write(p, off, fua) }
func (m several) Zero(off, n uint64, keep bool) error        { return m.any().Zero(off, n, keep) }
func (m several) Trim(off, n uint64) error                   { return m.any().Trim(off, n) }
func (m several) Flush() error                               { return m.any().Flush() }

func TestConformanceMultiConn(t *testing.T) {
	devicetest.Run(t, devicetest.Traits{}, func(t *testing.T, s *devicetest.Sink) devicetest.Device {
		path, _ := start(t, s)
		return several{dial(t, path), dial(t, path), dial(t, path)}
	})
}
