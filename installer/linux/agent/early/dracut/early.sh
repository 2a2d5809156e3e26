#!/bin/sh
# The root's disk is there, and nothing has checked or mounted what is on it: pre-mount is
# before both. LVM and LUKS came up before that, in the initqueue, which only reads; the
# kernel's count of writes tells if it ever did more. From here on the disk's writes are
# captured. Whatever comes of it, the boot goes on.
if [ -r /etc/default/understudy-agent ]; then
	. /etc/default/understudy-agent
fi
/usr/bin/understudy-agent early $UNDERSTUDY_AGENT_OPTS > /dev/kmsg 2>&1
