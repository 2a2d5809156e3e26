#!/usr/bin/env bash
# Runs every fuzz target of the module for a time each. Usage: scripts/fuzz.sh 5s
set -euo pipefail

time=${1:-5s}
grep -rl --include='*_test.go' '^func Fuzz' agent controlplane pkg | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -h '^func Fuzz' "$dir"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | while read -r target; do
		echo "fuzz: $dir $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir" </dev/null
	done
done
