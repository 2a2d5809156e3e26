#!/bin/sh
# Installs the agent on this machine and enrols it: sh agent.sh HOST:PORT, with the token
# on standard input, in a directory with the control plane's ca.pem. The command that
# understudy token create --command prints has proved that certificate by the fingerprint
# in the token, and fetched this by it.
set -eu
server=$1
dir=$(cd "$(dirname "$0")" && pwd)
fail() {
	echo "understudy: $1" >&2
	exit 1
}
if [ "$(id -u)" != 0 ]; then exec sudo -- sh "$0" "$@"; fi
case $(uname -s)/$(uname -m) in
Linux/x86_64) arch=amd64 ;;
Linux/aarch64) arch=arm64 ;;
*) fail "there is no agent for $(uname -s) on $(uname -m)" ;;
esac
if [ -e /var/lib/understudy-agent/identity.json ]; then
	echo "this machine has enrolled already: $(cat /var/lib/understudy-agent/identity.json)"
	exit 0
fi
agent=$dir/understudy-agent
curl -fsS --cacert "$dir/ca.pem" --connect-to "::$server" "https://localhost:${server##*:}/v1/install/agent/linux/$arch" -o "$agent" ||
	fail "the control plane does not give the agent for linux/$arch"
chmod 700 "$agent"
"$agent" probe >"$dir/probe" || case $? in
4) ;; # could not tell: the agent tells the control plane
*)
	cat "$dir/probe" >&2
	fail "this machine is not fit for the agent; nothing was changed"
	;;
esac
if [ -e /usr/lib/systemd/system/understudy-agent.service ]; then
	installed=package program=/usr/bin/understudy-agent
elif [ -e /etc/systemd/system/understudy-agent.service ]; then
	installed=bare program=/usr/local/bin/understudy-agent
else
	installed='' program=/usr/local/bin/understudy-agent
	"$agent" install || { "$agent" uninstall >/dev/null 2>&1; fail "the agent was not installed"; }
fi
"$program" enrol --server "$server" --token-file - || {
	[ "$installed" ] || "$agent" uninstall --purge >/dev/null 2>&1
	fail "this machine did not enrol"
}
