# Says, to root, what an agent that is installed here is, as key=value. Changes nothing.
say() { printf '%s=%s\n' "$1" "$2"; }
if [ -x "$program" ]; then say version "$("$program" --version 2>/dev/null | sed 's/.* //')"; fi
if command -v systemctl >/dev/null; then say active "$(systemctl is-active understudy-agent 2>/dev/null)"; fi
if [ -d /var/lib/understudy-agent ]; then say state yes; fi
if [ -e /var/lib/understudy-agent/identity.json ]; then say identity "$(tr -d '\n' </var/lib/understudy-agent/identity.json)"; fi
