package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peer is a tool that copies disks, in the fastest way its manual describes. Its scripts
// see $SRC, the disk, $SIZE, its bytes, and $DST, a directory of their own; each ends
// with everything on stable storage.
type peer struct {
	name    string
	version string // prints it
	prepare string // once for a new $DST; not part of the time
	first   string // the initial copy
	again   string // brings it up to date
	restore string // writes copy number $N to $OUT; for peers that keep history
}

const durable = ` && sync -f "$DST"`

var peers = []peer{
	{
		name: "nbdcopy", version: `nbdcopy --version | head -1`,
		first: `nbdcopy --flush "$SRC" "$DST/image"` + durable,
		again: `nbdcopy --flush "$SRC" "$DST/image"` + durable,
	}, {
		name: "qemu-img", version: `qemu-img --version | head -1`,
		first: `qemu-img convert -f raw -O raw -t none -T none -W -m 8 "$SRC" "$DST/image"` + durable,
		again: `qemu-img convert -n -f raw -O raw -t none -T none -W -m 8 "$SRC" "$DST/image"` + durable,
	}, {
		name: "bdsync", version: `echo "bdsync, $(sha256sum "$(command -v bdsync)" | cut -c1-12)"`,
		prepare: `truncate -s "$SIZE" "$DST/image"`,
		first:   `bdsync --zeroblocks "bdsync --server" "$SRC" "$DST/image" | bdsync --patch="$DST/image"` + durable,
		again:   `bdsync --zeroblocks "bdsync --server" "$SRC" "$DST/image" | bdsync --patch="$DST/image"` + durable,
	}, {
		name: "blocksync-fast", version: `blocksync-fast --version | head -1`,
		prepare: `truncate -s "$SIZE" "$DST/image"`,
		first:   `blocksync-fast --silent -s "$SRC" -d "$DST/image" -f "$DST/digest"` + durable,
		again:   `blocksync-fast --silent -s "$SRC" -d "$DST/image" -f "$DST/digest"` + durable,
	}, {
		name: "restic", version: `restic version`,
		prepare: `restic -q init`,
		first:   `restic -q backup --stdin --stdin-filename disk < "$SRC"` + durable,
		again:   `restic -q backup --stdin --stdin-filename disk < "$SRC"` + durable,
		restore: `restic -q dump "$(restic snapshots --json | jq -r "sort_by(.time)[$N].id")" disk > "$OUT" && sync -f "$OUT"`,
	}, {
		name: "borg", version: `borg --version`,
		prepare: `borg init -e repokey-blake2`,
		first:   `borg create --read-special --compression lz4 "::{now:%s.%f}" "$SRC"` + durable,
		again:   `borg create --read-special --compression lz4 "::{now:%s.%f}" "$SRC"` + durable,
		restore: `borg extract --stdout "::$(borg list --short | sed -n "$((N+1))p")" > "$OUT" && sync -f "$OUT"`,
	},
}

// present are those peers that are installed here, each with its version.
func present(ctx context.Context, wanted []peer) (here []peer, versions []string) {
	for _, p := range wanted {
		if _, err := exec.LookPath(p.name); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is not installed: no rows against it\n", p.name)
			continue
		}
		v, err := command(ctx, "bash", "-c", p.version)
		if err != nil {
			v = p.name + ", of unknown version"
		}
		here, versions = append(here, p), append(versions, strings.TrimSpace(v))
	}
	return here, versions
}

// keeping are the peers that keep history.
func keeping() (out []peer) {
	for _, p := range peers {
		if p.restore != "" {
			out = append(out, p)
		}
	}
	return out
}

// keeper is a peer at work on one disk.
type keeper struct {
	peer
	dir string
	env []string
}

// start prepares a peer to keep copies of a disk of this size in a new directory.
func (p peer) start(ctx context.Context, dir, device string, size int64) (*keeper, error) {
	k := &keeper{peer: p, dir: dir, env: []string{
		"SRC=" + device, "DST=" + dir, fmt.Sprintf("SIZE=%d", size), "HOME=" + filepath.Join(dir, "home"),
		"RESTIC_REPOSITORY=" + filepath.Join(dir, "repo"), "RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR=" + filepath.Join(dir, "cache"),
		"BORG_REPO=" + filepath.Join(dir, "repo"), "BORG_PASSPHRASE=bench", "BORG_BASE_DIR=" + filepath.Join(dir, "home"),
	}}
	if err := os.MkdirAll(dir, 0o700); err != nil || p.prepare == "" {
		return k, err
	}
	return k, shell(ctx, k.env, p.prepare)
}

// run runs one of its scripts with cold caches and returns the seconds it took.
func (k *keeper) run(ctx context.Context, script string, more ...string) (sample, error) {
	if err := coldCaches(); err != nil {
		return nil, err
	}
	took, err := timed(func() error { return shell(ctx, append(k.env, more...), script) })
	return sample{"s": took}, err
}

// kept is how many bytes it keeps, without what it only caches.
func (k *keeper) kept() (int64, error) { return bytesBelow(filepath.Join(k.dir, "repo")) }
