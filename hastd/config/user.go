package config

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// FallbackUser is used where DefaultUser does not exist. A dedicated user is better: nobody's processes can signal each other.
const FallbackUser = "nobody"

// LookupUser returns the ids that the workers run as, and the user's name. Only the default user has a
// fallback; a user that someone chose has to exist. Root is refused under any name.
func (c *Config) LookupUser() (name string, uid, gid int, err error) {
	u, err := user.Lookup(c.User)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) && c.User == DefaultUser {
		u, err = user.Lookup(FallbackUser)
	}
	if err != nil {
		return "", 0, 0, fmt.Errorf("cannot find the user for the workers: %w: create it (useradd --system --shell /usr/sbin/nologin %s), or set user in %s", err, c.User, c.File)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return "", 0, 0, fmt.Errorf("user %s: %w", u.Username, err)
	}
	if uid == 0 || gid == 0 {
		return "", 0, 0, fmt.Errorf("user %s is root, or in root's group, and the workers must not be: set user in %s to an unprivileged one", u.Username, c.File)
	}
	return u.Username, uid, gid, nil
}
