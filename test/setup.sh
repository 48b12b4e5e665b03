#!/bin/sh
# Installs what the demo and the tests use, where it is missing and this is a Debian-like machine; elsewhere it says what is missing.
need="iproute2 util-linux mount e2fsprogs cvs fio qemu-utils qemu-system-common qemu-block-extra libnbd-bin nbdkit man-db groff"
command -v dpkg-query >/dev/null 2>&1 || { echo "not a Debian-like machine; needed are: $need"; exit 0; }
missing=""
for p in $need; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "missing, and only root can install it:$missing"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
