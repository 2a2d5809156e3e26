# Takes files from standard input into a directory for as long as that stays open: $sizes
# and $sums are theirs, in turn, and $names what they are called. Whatever ends this, the
# end of the connection too, removes the directory.
umask 077
need=1024
for size in $sizes; do need=$((need + size / 1024)); done
trap 'rm -rf "$d"' EXIT
trap 'exit 1' HUP INT TERM PIPE
d= found=
for base in "${TMPDIR:-/tmp}" /var/tmp "$HOME"; do
	d=$(mktemp -d "$base/understudy-XXXXXXXX" 2>/dev/null) || { d=; printf 'place=%s cannot be written to\n' "$base"; continue; }
	printf '#!/bin/sh\n' >"$d/try" && chmod 700 "$d/try"
	set -- $(df -Pk "$d" | tail -n 1)
	if [ "$4" -lt "$need" ]; then
		printf 'place=%s has %s MiB free, %s are needed\n' "$base" $(($4 / 1024)) $((need / 1024))
	elif ! "$d/try" 2>/dev/null; then
		printf 'place=%s lets nothing be executed (noexec)\n' "$base"
	else
		found=yes
		break
	fi
	rm -rf "$d"
done
[ "$found" ] || exit 91
rm -f "$d/try"
set -- $sums
for name in $names; do
	head -c "${sizes%% *}" >"$d/$name" || exit 92
	sizes=${sizes#* }
	printf '%s  %s\n' "$1" "$d/$name" | sha256sum -c - >/dev/null 2>&1 || { echo "$name did not arrive whole" >&2; exit 92; }
	shift
done
chmod 700 "$d/understudy-agent"
printf 'staged=%s\n' "$d"
cat >/dev/null # until nobody needs it any more
