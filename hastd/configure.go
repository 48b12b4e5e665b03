package hastd

import (
	"fmt"
	"os"

	"hast/hastd/config"
	"hast/hastd/worker/ipc"
)

// specsOf turns a configuration into what the daemon works with. It reads the
// key and looks the unprivileged user up, so it may fail although the file is right.
func specsOf(c *config.Config) ([]*spec, error) {
	_, uid, gid, err := c.LookupUser()
	if err != nil {
		return nil, err
	}
	var key []byte
	list := make([]*spec, 0, len(c.Resources))
	for i := range c.Resources {
		res := &c.Resources[i]
		if !res.Alone() && key == nil {
			if key, err = config.ReadKey(c.KeyFile); err != nil {
				return nil, err
			}
		}
		list = append(list, specOf(c, res, uid, gid, key))
	}
	return list, nil
}

func specOf(c *config.Config, res *config.Resource, uid, gid int, key []byte) *spec {
	return &spec{
		name: res.Name, deviceName: res.DeviceName, device: c.DevicePath(res), front: frontFor(res.Front),
		local: res.Local, meta: res.Metadata, peer: c.Peer, remote: res.Remote, source: res.Source,
		timeout: res.Timeout, exec: res.Exec, hookTime: res.HookTimeout,
		uid: uid, gid: gid, key: key,
		settings: ipc.Settings{
			Mode: res.Mode, Compression: string(res.Compression), Checksum: string(res.Checksum),
			Timeout: int64(res.Timeout), Encrypt: res.Encrypt, MetaFlush: res.MetaFlush,
			Freeze: res.OnPeerLoss == config.PeerLossFreeze, Standalone: res.Alone(),
			SyncRate: uint64(res.SyncRate), IdleClean: int64(res.IdleClean),
		},
	}
}

// frontFor chooses the best front-end that the kernel offers and this build has.
func frontFor(f config.Front) string {
	if f != config.FrontAuto {
		return string(f)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return frontNBD
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return frontNBD
	}
	return frontFUSE
}

// describe names a resource's change in a log line.
func (h impact) String() string {
	switch h {
	case impactLive:
		return "applied while it runs"
	case impactReconnect:
		return "connects anew"
	case impactRestart:
		return "restarts"
	}
	return fmt.Sprintf("impact %d", uint8(h))
}
