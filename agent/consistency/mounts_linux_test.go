package consistency

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func points(mounts []mount) string {
	var names []string
	for _, m := range mounts {
		names = append(names, filepath.Base(m.Point))
	}
	return strings.Join(names, " ")
}

func freezable(t *testing.T, late []string, disks ...disk) (string, error) {
	t.Helper()
	h, err := thisHost()
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := h.freezable(devices(disks...), late)
	return points(mounts), err
}

// TestOrderOfStackedFileSystems: a file system in a file of another, three deep and on two
// protected disks, is frozen before that other: the wrong order locks up until the
// deadline, which the run would show.
func TestOrderOfStackedFileSystems(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	low := newDisk(t, dir, "low", "xfs")
	other := newDisk(t, dir, "other", "ext4")
	middle := newDisk(t, low.dir, "middle", "btrfs")
	newDisk(t, middle.dir, "high", "ext4")
	got, err := freezable(t, nil, low, other)
	if err != nil || got != "high middle low other" {
		t.Fatalf("order %q, %v", got, err)
	}
	// Protected by itself, it is not frozen after the disk whose file it is.
	if got, err := freezable(t, nil, low, middle); err != nil || got != "high middle low" {
		t.Errorf("order %q, %v", got, err)
	}
	if got, err := freezable(t, []string{low.dir}, low, other); err != nil || got != "high middle other low" {
		t.Errorf("the agent's own comes last: %q, %v", got, err)
	}
	startWriter(t, middle)
	startWriter(t, low)
	thawedAtTheEnd(t, low, other, middle)
	began := time.Now()
	o := q.Run(t.Context(), Job{Disks: devices(low, other), Deadline: 5 * time.Second}, asks)
	if o.Problem != nil || time.Since(began) > 4*time.Second {
		t.Errorf("after %v: %+v", time.Since(began), o)
	}
}

// TestMountedTwice: of each file system there is one mount, one that shows.
func TestMountedTwice(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	d := newDisk(t, dir, "first", "ext4")
	thawedAtTheEnd(t, d)
	second, bound := filepath.Join(dir, "second"), filepath.Join(dir, "bound")
	for _, p := range []string{second, bound, filepath.Join(d.dir, "inside")} {
		if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.mount(t, second)
	must(t, "mount", "--bind", filepath.Join(d.dir, "inside"), bound)
	t.Cleanup(func() { must(t, "umount", bound) })
	if got, err := freezable(t, nil, d); err != nil || got != "first" {
		t.Errorf("%q, %v", got, err)
	}
	if o := q.Run(t.Context(), Job{Disks: devices(d)}, asks); o.Problem != nil {
		t.Error(o.Problem)
	}
	must(t, "mount", "-t", "tmpfs", "none", second)
	t.Cleanup(func() { must(t, "umount", second) })
	must(t, "mount", "-t", "tmpfs", "none", bound)
	t.Cleanup(func() { must(t, "umount", bound) })
	if got, err := freezable(t, nil, d); err != nil || got != "first" {
		t.Errorf("others hidden: %q, %v", got, err)
	}
}

// TestHiddenMount: what cannot be reached is named, not passed over.
func TestHiddenMount(t *testing.T) {
	dir := scratch(t)
	d := newDisk(t, dir, "one", "ext4")
	must(t, "mount", "-t", "tmpfs", "none", d.dir)
	t.Cleanup(func() { must(t, "umount", d.dir) })
	if got, err := freezable(t, nil, d); err == nil || !strings.Contains(err.Error(), d.dir) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUsedElsewhere: a file system that only another mount namespace sees is named.
func TestUsedElsewhere(t *testing.T) {
	dir := scratch(t)
	image := filepath.Join(dir, "elsewhere.img")
	must(t, "truncate", "--size", "64M", image)
	d := disk{path: attach(t, image)}
	d.dev = number(t, d.path)
	must(t, "mkfs.ext4", d.path)
	if got, err := freezable(t, nil, d); err != nil || got != "" {
		t.Errorf("unused: %q, %v", got, err)
	}
	started := elsewhere(t, d.path, dir)
	defer started()
	if got, err := freezable(t, nil, d); err == nil || !strings.Contains(err.Error(), d.path) {
		t.Errorf("mounted in another namespace: %q, %v", got, err)
	}
}

// TestReadOnlyAndBtrfs: nothing to freeze on one, and one freeze for two devices.
func TestReadOnlyAndBtrfs(t *testing.T) {
	dir := scratch(t)
	d := newDisk(t, dir, "one", "btrfs")
	image := filepath.Join(dir, "second.img")
	must(t, "truncate", "--size", "128M", image)
	second := disk{path: attach(t, image)}
	second.dev = number(t, second.path)
	must(t, "btrfs", "device", "add", "-f", second.path, d.dir)
	if got, err := freezable(t, nil, second); err != nil || got != "one" {
		t.Errorf("by its second device: %q, %v", got, err)
	}
	if got, err := freezable(t, nil, d, second); err != nil || got != "one" {
		t.Errorf("by both: %q, %v", got, err)
	}
	must(t, "mount", "-o", "remount,ro", d.dir)
	if got, err := freezable(t, nil, d); err != nil || got != "" {
		t.Errorf("read-only: %q, %v", got, err)
	}
}
