#!/bin/bash
# Puts the agent and its options into the initramfs, to begin the capture before the root
# file system is mounted.

check() {
	[ -x /usr/bin/understudy-agent ]
}

depends() {
	return 0
}

install() {
	inst_binary /usr/bin/understudy-agent
	if [ -e /etc/default/understudy-agent ]; then
		inst_simple /etc/default/understudy-agent
	fi
	inst_hook pre-mount 05 "$moddir/early.sh"
}
