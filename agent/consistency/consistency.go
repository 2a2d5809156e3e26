// Package consistency makes a machine quiet for a moment, so that a recovery point holds
// what its applications had finished: scripts prepare them, every file system on the
// protected disks is frozen at once, the point is marked, everything is thawed again.
//
// # One attempt
//
//  1. The scripts run with --pre, in order.
//  2. The file systems on the protected disks are looked up: those on partitions, on LVM,
//     md and crypt above them, and on images in files that lie on them.
//  3. What is about to be frozen is written down, in memory.
//  4. The freezer, a process of its own, opens the mount points, syncs them and freezes
//     them: what stands on another file system before that one.
//  5. The caller marks the point. Before that it asks whether everything is still frozen:
//     somebody else may have thawed it.
//  6. The freezer thaws in the other order.
//  7. The scripts that were called run with --post, in the other order.
//
// # Nothing stays frozen
//
// A frozen root file system stops every program that writes a file. So the freezer thaws
// by itself at the deadline, when it is told to end, and when its standard input ends, as
// it does when the agent is killed. It has its own session, its memory is locked, and the
// kernel does not choose it when memory is short. Should it be killed, the agent thaws;
// should both be, the next agent does, by what was written down.
//
// Meanwhile the agent must write to no disk: its log waits in memory (Hush), and the
// journal leaves its disk stage alone. Whoever does wait for a frozen file system holds
// nothing that thawing needs.
package consistency

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// DefaultDeadline is how long one attempt may take, from the first script's begin until
// everything is thawed. The scripts have as long again afterwards.
const DefaultDeadline = 10 * time.Second

// DefaultScripts is where the scripts are looked for.
const DefaultScripts = "/etc/understudy"

// ErrUnsupported says that this system cannot be made quiet.
var ErrUnsupported = errors.New("consistency: application-consistent points are not supported on this system")

// Options of a Quiescer.
type Options struct {
	// Freezer is the command that runs Freeze in a process of its own.
	Freezer []string
	// Record is the file in which is written down what is frozen. It must lie in memory.
	Record string
	// Scripts is the directory of the scripts: scripts/customscript.sh and
	// consistency.d/*.sh below it. Empty: DefaultScripts.
	Scripts string
}

// Quiescer makes a machine quiet, once at a time.
type Quiescer struct {
	Options
	busy atomic.Bool // a freezer runs
}

// New makes a Quiescer. What an earlier one left frozen, Recover thaws.
func New(o Options) *Quiescer {
	if o.Scripts == "" {
		o.Scripts = DefaultScripts
	}
	return &Quiescer{Options: o}
}

// Job is one attempt.
type Job struct {
	Name     string        // of the point; the scripts are told
	Disks    []string      // the protected disks, as major:minor
	Deadline time.Duration // zero: DefaultDeadline
	Scripts  bool          // whether the scripts run
	Whole    bool          // the root file system must be among what is frozen
	// Late are paths of the agent's own; their file systems are frozen last, so that what
	// the others write back still finds a place.
	Late []string
	// Hold is called before anything is frozen: from its return on the agent writes to no
	// disk, until what it returns is called.
	Hold func() (release func()) `json:"-"`
}

// Mark makes the point while everything is frozen. still asks whether it is; only if it
// says nothing else is the point application-consistent.
type Mark func(ctx context.Context, still func() error) error

// Outcome is what came of an attempt.
type Outcome struct {
	Problem error         // why the point is not application-consistent; nil if it is
	Notes   []string      // what an operator should know all the same
	Output  string        // of the scripts, the beginning of it
	Frozen  time.Duration // how long
	Mounts  []string      // that were frozen
}
