package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Image is a disk that was made by a recipe, and what it takes to start and to enter
// it. Its files are shared by all guests: nobody writes to them.
type Image struct {
	Recipe Recipe
	Dir    string
}

// Disk is the whole disk: an MBR, and the root as its first partition.
func (i *Image) Disk() string { return filepath.Join(i.Dir, "disk.img") }

// Kernel and Initrd are those of the disk, for a boot without a boot loader.
func (i *Image) Kernel() string { return filepath.Join(i.Dir, "vmlinuz") }

// KeyFile holds the private key that lets root in: for who enters a guest by itself.
func (i *Image) KeyFile() string { return filepath.Join(i.Dir, keyFile) }

// Initrd belongs to Kernel.
func (i *Image) Initrd() string { return filepath.Join(i.Dir, "initrd") }

// Build returns the recipe's image out of the repository's cache, and makes it before
// if it is not there: some two minutes and 400 MB from Debian's mirror. Two that want
// one image at the same time wait for each other.
func Build(ctx context.Context, r Recipe) (*Image, error) {
	r = r.complete()
	if tools[r.Root] == "" {
		return nil, fmt.Errorf("guest image: no root on %q: ext4, xfs or btrfs", r.Root)
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	i := &Image{Recipe: r, Dir: filepath.Join(cache, "disk-"+r.disk())}
	fill := func(dir string) error { return i.make(ctx, cache, dir) }
	if r.Under != "" {
		fill = func(dir string) error { return i.stack(ctx, dir) }
	}
	if err := once(i.Dir, fill); err != nil {
		return nil, fmt.Errorf("guest image of %s with %s on %s %s: %w", r.Suite, r.Kernel, r.Root, r.Under, err)
	}
	return i, nil
}

func (i *Image) make(ctx context.Context, cache, dir string) error {
	tar := filepath.Join(cache, "tree-"+i.Recipe.tree())
	if err := once(tar, func(dir string) error { return bootstrap(ctx, i.Recipe, dir) }); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if _, err := run(ctx, "tar", "-C", tree, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf", filepath.Join(tar, "tree.tar")); err != nil {
		return err
	}
	if err := errors.Join(writeFiles(tree, files(i.Recipe)), writeKeys(dir, tree)); err != nil {
		return err
	}
	if _, err := run(ctx, "chroot", tree, "/bin/bash", "-euc", finish(i.Recipe)); err != nil {
		return err
	}
	for from, to := range map[string]string{"vmlinuz": "vmlinuz", "initrd.img": "initrd"} {
		if _, err := run(ctx, "cp", "-L", filepath.Join(tree, from), filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	if err := makeDisk(ctx, i.Recipe, tree, filepath.Join(dir, "disk.img")); err != nil {
		return err
	}
	return os.RemoveAll(tree)
}

// bootstrap has mmdebstrap put the packages into dir/tree.tar. It does not recommend:
// what a guest has, the recipe says. From a second suite comes only what a kernel of it
// cannot do without.
func bootstrap(ctx context.Context, r Recipe, dir string) error {
	packages := append(slices.Clone(r.Packages), r.Kernel+"/"+r.KernelSuite)
	args := []string{"--mode=root", "--variant=apt", "--include=" + strings.Join(packages, ","),
		`--aptopt=Acquire::Check-Valid-Until "false"`, // a mirror may be of another day
		`--aptopt=APT::Install-Recommends "false"`, fmt.Sprintf(`--aptopt=APT::Default-Release "%s"`, r.Suite)}
	for _, path := range slimming {
		args = append(args, "--dpkgopt=path-exclude="+path)
	}
	args = append(args, r.Suite, filepath.Join(dir, "tree.tar"), source(r.Suite))
	if r.KernelSuite != r.Suite {
		args = append(args, source(r.KernelSuite))
	}
	_, err := run(ctx, "unshare", append([]string{"--mount", "bash", "-c", withoutLabs, "mmdebstrap"}, args...)...)
	return err
}

// withoutLabs runs a command in a mount namespace that has none of the labs' mounts.
// mmdebstrap makes a namespace of its own, which would hold on to every disk that was
// mounted when it began: no lab could detach its loop devices for these two minutes.
const withoutLabs = `
while read -r _ mount _; do
	case $mount in */understudy-lab-*) umount -l "$mount" ;; esac
done <<<"$(</proc/self/mounts)" # read as a whole: the table changes under who takes from it
exec "$0" "$@"
`

// source is where apt finds a suite. Debian's keyring is named, so that no other key a
// host trusts is good enough.
func source(suite string) string {
	return "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian " + suite + " main"
}

// once has fill make dir unless it is there already. A dir is there whole or not at
// all; one process makes it while others wait.
func once(dir string, fill func(dir string) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil { // an earlier one was interrupted
		return err
	}
	if err := fill(part); err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return os.Rename(part, dir)
}

// cacheDir is .cache/guests of the repository that we stand in.
func cacheDir() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := at; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache", "guests"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("guest images are cached in the repository, and %s is not in it: run it from there", at)
		}
	}
}

// run executes a command and returns what it printed. The error holds its complaint.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	// mmdebstrap has mounts to take down when it is interrupted.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(unix.SIGTERM) }, 20*time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()+stdout.String()))
	}
	return stdout.String(), nil
}
