package nbdserver

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hast/hastd/device/devicetest"
)

// tool runs a program that others wrote. README says which Debian packages bring them.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestTools(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s *devicetest.Sink, socket string)
	}{
		{"nbdinfo", func(t *testing.T, s *devicetest.Sink, socket string) {
			out := tool(t, "nbdinfo", "nbd+unix:///test?socket="+socket)
			for _, want := range []string{"export-size: 67108864", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true",
				"can_multi_conn: true", "is_read_only: false", "block_size_minimum: 4096", "block_size_maximum: 1048576"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if out := tool(t, "nbdinfo", "--list", "nbd+unix:///?socket="+socket); !strings.Contains(out, `"test"`) {
				t.Errorf("the list is\n%s", out)
			}
		}},
		{"nbdcopy", func(t *testing.T, s *devicetest.Sink, socket string) {
			dir := t.TempDir()
			from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
			tool(t, "sh", "-c", "head -c 67108864 /dev/urandom >"+from)
			tool(t, "nbdcopy", "--flush", from, "nbd+unix:///?socket="+socket)
			tool(t, "nbdcopy", "nbd+unix:///test?socket="+socket, to)
			tool(t, "cmp", from, to)
			if s.Counts().Flushes == 0 {
				t.Error("no flush")
			}
		}},
		{"qemu-io", func(t *testing.T, s *devicetest.Sink, socket string) {
			out := tool(t, "qemu-io", "-f", "raw", "-t", "writeback", "-d", "unmap",
				"-c", "write -P 7 0 4M", "-c", "write -f -P 8 4M 64k", "-c", "write -z 1M 128k", "-c", "write -z -u 2M 1M", "-c", "discard 8M 4M",
				"-c", "flush", "-c", "read -P 7 0 1M", "-c", "read -P 0 1M 128k", "-c", "read -P 0 2M 1M", "-c", "read -P 8 4M 64k", "-c", "read -P 0 8M 4M",
				"nbd+unix:///test?socket="+socket)
			if n := s.Counts(); strings.Contains(out, "failed") || n.FUAs == 0 || n.Zeroes < 3 || n.NoUnmaps == 0 || n.Flushes == 0 {
				t.Errorf("%+v\n%s", n, out)
			}
		}},
		{"fio", func(t *testing.T, s *devicetest.Sink, socket string) {
			out := tool(t, "fio", "--name=v", "--ioengine=nbd", "--uri=nbd+unix:///test?socket="+socket, "--rw=randrw", "--bs=4k", "--iodepth=32",
				"--size=32m", "--verify=crc32c", "--verify_fatal=1", "--trim_percentage=5", "--output-format=terse")
			if n := s.Counts(); n.Writes == 0 || n.Most < 2 {
				t.Errorf("%+v\n%s", n, out)
			} else {
				t.Logf("%+v", n)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := devicetest.New(t, devicetest.Options{Size: 64 << 20, Workers: 2})
			path, _ := start(t, s)
			c.test(t, s, path)
		})
	}
}
