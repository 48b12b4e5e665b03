package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/device/fuse"
	"hast/proto"
)

func main() {
	file := flag.String("file", "", "the real file")
	dir := flag.String("dir", "", "where to mount")
	control := flag.String("control", "", "unix socket for commands")
	flag.Parse()
	if err := serve(*file, *dir, *control); err != nil {
		fmt.Fprintln(os.Stderr, "faultdisk:", err)
		os.Exit(1)
	}
}

func serve(path, dir, control string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	d, err := newDisk(f)
	if err != nil {
		return err
	}
	dev, err := mount(dir)
	if err != nil {
		return err
	}
	os.Remove(control)
	l, err := net.Listen("unix", control)
	if err != nil {
		return err
	}
	go obey(l, d)
	s, err := fuse.NewServer(dev, device.Info{Name: filepath.Base(path), Size: proto.Offset(st.Size()), Logical: 512}, d, nil)
	if err != nil {
		return err
	}
	err = s.Serve(context.Background(), nil, nil)
	if errors.Is(err, fuse.ErrGone) {
		return nil
	}
	return err
}

// mount is fuse.Mount for a file that others than its owner use: hastd's worker has an identity of its own.
func mount(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d", fd, proto.MaxRequest)
	if err := unix.Mount("faultdisk", dir, "fuse.faultdisk", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// obey serves the control socket until the process ends.
func obey(l net.Listener, d *disk) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			answer, err := d.command(line)
			if err != nil {
				answer = "error: " + err.Error()
			}
			fmt.Fprintln(c, answer)
		}
		c.Close()
	}
}
