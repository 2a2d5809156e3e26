#!/usr/bin/env bash
# Runs every fuzz target of the module, one beside another on each processor, each for
# an even share of the time given. Usage: scripts/fuzz.sh [10m] [PATTERN]
set -euo pipefail
cd "$(dirname "$0")/.."

total=${1:-10m} pattern=${2:-.}
case $total in
*h) seconds=$((${total%h} * 3600)) ;;
*m) seconds=$((${total%m} * 60)) ;;
*) seconds=${total%s} ;;
esac
work=$(mktemp -d /tmp/fuzz.XXXXXX)
trap 'rm -rf "$work"' EXIT

# One binary a package, with coverage: go test -fuzz would build it anew for each target.
mapfile -t targets < <(grep -rn --include='*_test.go' -oE '^func Fuzz[A-Za-z0-9_]*' agent controlplane pkg |
	sed -E 's#^(.*)/[^/]*:[0-9]+:func (.*)#\1 \2#' | grep -E "$pattern" | sort -u)
[ ${#targets[@]} -gt 0 ] || { echo "fuzz: no target fits $pattern"; exit 1; }
for dir in $(printf '%s\n' "${targets[@]}" | cut -d' ' -f1 | sort -u); do
	go test -c -fuzz=Fuzz -o "$work/${dir//\//_}.test" "./$dir"
done

workers=$(nproc)
each=$((seconds * workers / ${#targets[@]}))
[ "$each" -ge 1 ] || each=1
echo "fuzz: ${#targets[@]} targets, $workers at a time, ${each}s each"
cache=$(go env GOCACHE)/fuzz

one() { # DIR TARGET
	local log=$work/${1//\//_}.$2 verdict=ok
	(cd "$1" && GOMAXPROCS=1 "$work/${1//\//_}.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "${each}s" \
		-test.fuzzminimizetime 20x -test.parallel 1 -test.fuzzcachedir "$cache/$module/$1") >"$log" 2>&1 </dev/null || verdict=FAIL
	# The time may end in the middle of an input: that is the engine's way to say so.
	[ "$(grep -A1 '^--- FAIL' "$log" | tail -1 | tr -d ' ')" = contextdeadlineexceeded ] && verdict=ok
	printf '%-32s %-22s %9s execs  %s\n' "$1" "$2" "$(grep -oE 'execs: [0-9]+' "$log" | tail -1 | cut -d' ' -f2)" $verdict
	[ $verdict = ok ] || { sed 's/^/    /' "$log" | tail -40; return 1; }
}
module=$(go list -m)
export -f one
export work each cache module
printf '%s\n' "${targets[@]}" | xargs -P "$workers" -L1 bash -c 'one "$0" "$1"'
