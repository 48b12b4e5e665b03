#!/bin/sh
# An example of a hook for hastd: mounts a file system where the resource is
# primary, and says in the log what else happens.
#
# In hast.toml:   exec = "/etc/hast/hooks/example.sh"
# The file must be executable, and writable by root only: it runs as root.
#
# Arguments, as with FreeBSD's HAST:
#
#   role RESOURCE OLD NEW     the role changed from OLD to NEW: init, primary, secondary
#   connect RESOURCE          connected with the peer
#   disconnect RESOURCE       the connection is lost
#   syncstart RESOURCE        the nodes differ and are being made equal (on the primary)
#   syncdone RESOURCE         they are equal again
#   syncintr RESOURCE         that was interrupted; it will go on where it stopped
#   split-brain RESOURCE      both nodes were written to; a person has to decide
#
# Environment: HAST_EVENT, HAST_RESOURCE (as above), HAST_EVENT_ID (as in
# hastctl events), HAST_NODE, HAST_PEER (names of the nodes), HAST_ROLE (now),
# HAST_OLD_ROLE, HAST_NEW_ROLE, HAST_DEVICE (the block device), HAST_REASON (for
# people; part of it may come from the peer, so never evaluate it), and PATH.
#
# Hooks of one resource run one after the other. Each has hook_timeout, then its
# whole process group gets SIGTERM, and SIGKILL five seconds later. What it prints
# goes to hastd's log. A program that shall live on after the hook has to be started
# with setsid and its output redirected, or better by the service manager (systemctl start).
# A hook that fails is logged; nothing else depends on it.

set -eu

mountpoint="/srv/$HAST_RESOURCE"

case "$1" in
role)
	old=$3
	new=$4
	if [ "$new" = primary ]; then
		# fsck answers 0 (clean) or 1 (repaired) when the file system may be mounted.
		fsck -p "$HAST_DEVICE" || [ $? -eq 1 ]
		mkdir -p "$mountpoint"
		mount "$HAST_DEVICE" "$mountpoint"
		echo "mounted $HAST_DEVICE on $mountpoint"
	elif [ "$old" = primary ] && mountpoint -q "$mountpoint"; then
		# By now the device is gone. To leave in good order, unmount before: umount, then hastctl role secondary.
		umount -l "$mountpoint"
		echo "detached $mountpoint"
	fi
	;;
split-brain)
	echo "split brain with $HAST_PEER: $HAST_REASON"
	# A message to a person belongs here, e.g.:
	# echo "$HAST_NODE: split brain of $HAST_RESOURCE" | mail -s hast root
	;;
*)
	echo "$1 ${HAST_REASON:+($HAST_REASON)}"
	;;
esac
