#!/bin/sh
# The root's disk is there, and nothing has mounted what is on it: from here on its writes
# are captured. Whatever comes of it, the boot goes on.
if [ -r /etc/default/understudy-agent ]; then
	. /etc/default/understudy-agent
fi
/usr/bin/understudy-agent early $UNDERSTUDY_AGENT_OPTS > /dev/kmsg 2>&1
