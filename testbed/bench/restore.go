package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// restoreAndVault measures what a history is good for and what it takes.
func restoreAndVault(ctx context.Context, b *bench) error {
	return withHistory(ctx, b, func(h *history) error {
		image := h.Path("image")
		if err := shell(ctx, nil, fmt.Sprintf("dd if=%s of=%s bs=1M status=none conv=sparse && sync -f %s", h.disk.Device, image, image)); err != nil {
			return err
		}
		if err := h.proveRestore(ctx); err != nil {
			return err
		}
		if err := h.restores(ctx, image); err != nil {
			return err
		}
		if err := h.serves(ctx, image); err != nil {
			return err
		}
		return h.bytes(ctx)
	})
}

// proveRestore: a fast restore of something else would be worth nothing.
func (h *history) proveRestore(ctx context.Context) error {
	got, err := h.machine.Recover(ctx, h.points[len(h.points)-1].ID, h.Path("proof"))
	if err != nil {
		return err
	}
	files, err := got.Files([]*lab.Disk{h.disk})
	if err != nil {
		return err
	}
	return errors.Join(lab.SameBytes(h.disk.Device, files[h.disk.Name]), h.machine.CleanUp(ctx, got))
}

// restores measures the newest point and one in the middle.
func (h *history) restores(ctx context.Context, image string) error {
	out := h.Path("restored")
	copied := func(ctx context.Context, _ int) (sample, error) {
		return h.restored(out, func() error {
			return shell(ctx, nil, fmt.Sprintf("cp --sparse=always %s %s && sync -f %s", image, out, out))
		})
	}
	arms := []arm{{"cp", copied}, {"cp once more", copied}}
	for _, p := range h.chosen() {
		name, n := p.name, p.n
		arms = append(arms, arm{ours + name, func(ctx context.Context, round int) (sample, error) { return h.ownRestore(ctx, n, round) }})
		for _, k := range h.keepers {
			arms = append(arms, arm{k.name + name, func(ctx context.Context, _ int) (sample, error) {
				return h.restored(out, func() error { return shell(ctx, append(k.env, "OUT="+out, fmt.Sprintf("N=%d", n)), k.restore) })
			}})
		}
	}
	got, err := interleave(ctx, pick(h.bench, 5, 3), arms...)
	if err != nil {
		return err
	}
	for _, p := range h.chosen() {
		if err := h.fileRestores(got, p.name); err != nil {
			return err
		}
	}
	return nil
}

// chosenPoint is a point to restore, by its place among the points.
type chosenPoint struct {
	name string
	n    int
}

func (h *history) chosen() []chosenPoint {
	return []chosenPoint{{"latest", len(h.points) - 1}, {"middle", len(h.points) / 2}}
}

func (h *history) fileRestores(got series, point string) error {
	mine := got.of(ours+point, "s")
	noise := spreadOf(ratios(got.of("cp once more", "s"), got.of("cp", "s")))
	r := row{Unit: "×", Better: higher, Noise: &noise, Rounds: len(mine), Ours: number(median(mine)) + " s", Note: h.String()}
	against := func(name, arm string, target float64, tools []string) error {
		theirs := got.of(arm, "s")
		r.ID, r.What, r.Target, r.Tools = "restore/"+point+"/"+name, fmt.Sprintf("%s point to a raw file, speed ÷ %s", point, name), target, tools
		r.Value, r.Theirs = spreadOf(ratios(theirs, mine)), number(median(theirs))+" s"
		return h.add(r)
	}
	target := 0.0
	if point == "latest" { // cp has no other
		target = 0.8
	}
	err := against("cp", "cp", target, []string{"cp --sparse=always, of a raw image of the disk, and sync -f"})
	for i, k := range h.keepers {
		err = errors.Join(err, against(k.name, k.name+point, 0, []string{h.versions[i] + ": " + k.restore}))
	}
	return err
}

// restored runs a restore to out with cold caches.
func (h *history) restored(out string, f func() error) (sample, error) {
	if err := errors.Join(os.RemoveAll(out), coldCaches()); err != nil {
		return nil, err
	}
	took, err := timed(f)
	return sample{"s": took}, err
}

// ownRestore is an operator's test failover: a job that ends with the file on stable
// storage under its name.
func (h *history) ownRestore(ctx context.Context, n, round int) (sample, error) {
	dir := h.Path(fmt.Sprintf("own-%d-%d", n, round))
	var got lab.Recovered
	s, err := h.restored(dir, func() (err error) {
		got, err = h.machine.Recover(ctx, h.points[n].ID, dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, h.machine.CleanUp(ctx, got)
}

// nbdServer starts a server and says where it is and how it is stopped.
type nbdServer func(context.Context) (uri string, stop func() error, err error)

// serves compares our NBD server, out of the vault, with nbdkit's, out of a raw image.
// Each sample has a server of its own: ours would remember what the one before read.
func (h *history) serves(ctx context.Context, image string) error {
	theirs := h.reads(h.nbdkit(image))
	got, err := interleave(ctx, pick(h.bench, 5, 3), arm{ours, h.reads(h.ownServer)}, arm{"nbdkit", theirs}, arm{"nbdkit once more", theirs})
	if err != nil {
		return err
	}
	version, err := command(ctx, "bash", "-c", "nbdkit --version; fio --version")
	version = strings.ReplaceAll(version, "\n", ", ")
	for _, depth := range []string{"qd1", "qd16"} {
		plain, mine := got.of("nbdkit", depth), got.of(ours, depth)
		noise := spreadOf(ratios(got.of("nbdkit once more", depth), plain))
		err = errors.Join(err, h.add(row{
			ID: "restore/nbd/" + depth, What: "4 KiB random reads over NBD, " + depth + ", IOPS ÷ nbdkit file", Unit: "×", Better: higher, Rounds: len(mine),
			Value: spreadOf(ratios(mine, plain)), Noise: &noise, Ours: number(median(mine)) + " IOPS", Theirs: number(median(plain)) + " IOPS",
			Tools: []string{version + ": nbdkit -r -U SOCKET file IMAGE; fio --ioengine=nbd for both"}, Note: h.String() + "; servers just started, caches dropped before each sample",
		}))
	}
	return err
}

func (h *history) ownServer(ctx context.Context) (string, func() error, error) {
	s, err := h.machine.Serve(ctx, h.disk, h.points[len(h.points)-1].ID)
	if err != nil {
		return "", nil, err
	}
	return s.URI, s.Stop, nil
}

func (h *history) nbdkit(image string) nbdServer {
	return func(ctx context.Context) (string, func() error, error) {
		socket := h.Path("nbdkit.sock")
		p := h.NewProcess("nbdkit", "nbdkit", "-f", "-r", "-U", socket, "file", image)
		if err := errors.Join(os.RemoveAll(socket), p.Start()); err != nil {
			return "", nil, err
		}
		err := lab.Until(ctx, 10*time.Second, "nbdkit's socket", func() (bool, error) { _, err := os.Stat(socket); return err == nil, nil })
		return "nbd+unix:///?socket=" + socket, func() error { return p.Stop(10 * time.Second) }, err
	}
}

// reads measures random reads from a server with nothing in any cache.
func (h *history) reads(server nbdServer) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		out := sample{}
		for _, depth := range []int{1, 16} {
			iops, err := h.readsAt(ctx, server, depth)
			if err != nil {
				return nil, err
			}
			out[fmt.Sprintf("qd%d", depth)] = iops
		}
		return out, nil
	}
}

func (h *history) readsAt(ctx context.Context, server nbdServer, depth int) (iops float64, err error) {
	uri, stop, err := server(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := coldCaches(); err != nil {
		return 0, err
	}
	got, err := fio(ctx, "", fioJob{rw: "randread", bs: "4k", depth: depth, engine: "nbd", more: []string{"--uri=" + uri, fmt.Sprintf("--size=%d", h.size)}},
		pick(h.bench, time.Second, 500*time.Millisecond))
	return got["iops"], err
}

// vaultDir is where the control plane keeps what it has.
func (s *stage) vaultDir() string { return filepath.Join(s.site.Data, "vault") }
