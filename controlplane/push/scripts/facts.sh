# Says what this machine is, as key=value. Needs no root and changes nothing.
say() { printf '%s=%s\n' "$1" "$2"; }
say system "$(uname -s)"
say machine "$(uname -m)"
say kernel "$(uname -r)"
say uid "$(id -u)"
say name "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '"')"
if [ -d /run/systemd/system ]; then say systemd yes; fi
for tool in mktemp df head tail wc sha256sum; do
	command -v "$tool" >/dev/null || say missing "$tool"
done
for tool in dpkg rpm; do
	if command -v "$tool" >/dev/null; then say packager "$tool"; fi
done
if [ -e /usr/lib/systemd/system/understudy-agent.service ]; then
	say installed package
	say program /usr/bin/understudy-agent
elif [ -e /etc/systemd/system/understudy-agent.service ]; then
	say installed bare
	say program /usr/local/bin/understudy-agent
fi
