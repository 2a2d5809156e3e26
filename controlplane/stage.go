package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/controlplane/daemon"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/recovery/overlay"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// What lies in a replica's directory besides what the hypervisor puts there.
const (
	disksSocket   = "disks" // of the NBD server
	disksLog      = "disks.log"
	overlaySuffix = ".overlay"
)

// runsFrom is the name under which points are locked that machines run from.
const runsFrom = "a machine runs from it"

const (
	serveLimit   = 2 * time.Minute // until disks are served: opening a vault reads its catalogs
	serveGrace   = 15 * time.Second
	stageMemory  = 256 // MiB for what was read of the disks of one machine
	stageProgram = "understudy"
)

// stage is the disks that machines run from: failover.Disks. Each machine's are served by
// a process of their own, understudy disk serve, which a restart of the control plane
// leaves alone: a machine that lost its disks would lose what it has written.
type stage struct {
	past  past
	place vaultPlace
	data  string
}

// Lock implements failover.Disks.
func (s stage) Lock(ctx context.Context, id block.MachineID, at block.Position) error {
	m, err := s.past.machine(ctx, id)
	if err != nil {
		return err
	}
	return vaultProblem(m.Lock(ctx, at, runsFrom))
}

// Unlock implements failover.Disks.
func (s stage) Unlock(ctx context.Context, id block.MachineID, at block.Position) error {
	m, err := s.past.machine(ctx, id)
	if problem.CodeOf(err) == problem.NoPoint {
		return nil // the vault has forgotten the machine
	}
	if err != nil {
		return err
	}
	return vaultProblem(m.Unlock(ctx, at, runsFrom))
}

// Serve implements failover.Disks.
func (s stage) Serve(ctx context.Context, id block.MachineID, at block.Position, dir string) ([]failover.Served, error) {
	var served []failover.Served
	err := s.past.view(ctx, id, at.String(), func(v *vault.View, _ vault.Point) error {
		for _, d := range v.Disks() {
			loader, err := hasLoader(ctx, v, d)
			if err != nil {
				return err
			}
			served = append(served, failover.Served{Disk: d.ID, Name: d.Name, Path: d.Path, Size: d.Size, SectorSize: d.SectorSize,
				Loader: loader, Socket: filepath.Join(dir, disksSocket), Export: d.Name})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(served, byPath)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the replica's directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, serveLimit)
	defer cancel()
	ready := func() bool { return listens(ctx, filepath.Join(dir, disksSocket)) }
	if s.under(ctx, dir, ready) {
		return served, nil
	}
	program, err := s.program(id, at, dir)
	if err != nil {
		return nil, err
	}
	if err := daemon.Start(ctx, program, ready); err != nil {
		return nil, problem.New(problem.Unavailable, "see "+program.Log, "the disks of machine %s are not served: %v", id, err)
	}
	return served, nil
}

// hasLoader looks for a boot loader where a BIOS does: code in the first sector, and its
// mark at the end. The protective MBR of a disk that only UEFI boots has no code.
func hasLoader(ctx context.Context, v *vault.View, d vault.Disk) (bool, error) {
	const codeSize, markAt, sector = 440, 510, 512
	b := make([]byte, min(sector, d.Size))
	if _, err := v.ReadAt(ctx, d.ID, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, vaultProblem(err)
	}
	return len(b) == sector && b[markAt] == 0x55 && b[markAt+1] == 0xAA && slices.Max(b[:codeSize]) > 0, nil
}

// byPath orders disks as their machine did: sda, sdb, ..., sdaa.
func byPath(a, b failover.Served) int {
	if len(a.Path) != len(b.Path) {
		return len(a.Path) - len(b.Path)
	}
	return strings.Compare(a.Path, b.Path)
}

// under waits for a server that is there already, or starts: of a control plane that was
// killed meanwhile.
func (s stage) under(ctx context.Context, dir string, ready func() bool) bool {
	for !ready() {
		if ctx.Err() != nil || len(daemon.Find(filepath.Join(dir, disksSocket), ownName())) == 0 {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

func listens(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// program is the process that serves these disks. Everything that it needs is on its
// command line.
func (s stage) program(id block.MachineID, at block.Position, dir string) (daemon.Program, error) {
	own, err := os.Executable()
	if err != nil {
		return daemon.Program{}, err
	}
	place := s.place.in(s.data)
	return daemon.Program{Path: strings.TrimSuffix(own, deletedMark), Log: filepath.Join(dir, disksLog), Args: []string{
		"disk", "serve", id.String(), "--point", at.String(), "--in-doubt", "--held", // who asked for it was asked
		"--data", s.data, "--vault", place.vault, "--vault-key", place.key, "--memory", fmt.Sprint(stageMemory),
		"--listen", "unix:" + filepath.Join(dir, disksSocket), "--overlay", dir}}, nil
}

// deletedMark is what Linux puts behind the path of a program that an upgrade replaced.
const deletedMark = " (deleted)"

// ownName is what this program is called.
func ownName() string {
	own, err := os.Executable()
	if err != nil {
		return stageProgram
	}
	return strings.TrimSuffix(filepath.Base(own), deletedMark)
}

// Withdraw implements failover.Disks.
func (s stage) Withdraw(ctx context.Context, dir string) error {
	if !exists(dir) {
		return nil
	}
	if err := daemon.End(ctx, filepath.Join(dir, disksSocket), ownName(), serveGrace); err != nil {
		return problem.New(problem.Unavailable, "end it by hand", "the disks in %s: %v", dir, err)
	}
	written, err := filepath.Glob(filepath.Join(dir, "*"+overlaySuffix))
	if err != nil {
		return err
	}
	for _, path := range written {
		if err := overlay.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problem.New(problem.Conflict, "look at who uses it", "what a machine wrote is left: %v", err)
		}
	}
	for _, name := range []string{disksSocket, disksLog} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(dir) // somebody else's files may lie there; then it stays
	return nil
}

// hardwareOf is failover.Facts: what agents reported.
type hardwareOf struct{ inventory *inventory.Inventory }

// Hardware implements failover.Facts.
func (h hardwareOf) Hardware(ctx context.Context, id block.MachineID) (failover.Hardware, error) {
	var out failover.Hardware
	m, err := h.inventory.Machine(ctx, id)
	if problem.CodeOf(err) == problem.MachineUnknown {
		return out, nil // the vault may have its past all the same
	}
	if err != nil {
		return out, err
	}
	for _, d := range m.Report.Disks { // that of the first: a system boots from it
		if bus := failover.Bus(d.Driver); slices.Contains(failover.Buses, bus) {
			out.Bus = bus
			break
		}
	}
	said := m.Report.Host.Hardware
	if said == nil {
		return out, nil
	}
	out.Memory, out.CPUs = said.Memory, said.CPUs
	if f := failover.Firmware(said.Firmware); f == failover.BIOS || f == failover.UEFI {
		out.Firmware = f
	}
	for _, c := range said.Cards {
		out.Cards = append(out.Cards, failover.Card{MAC: c.MAC, Virtio: c.Driver == "virtio_net"})
	}
	return out, nil
}
