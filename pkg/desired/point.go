package desired

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// The kinds of a point that a machine is asked for.
const (
	PointCrash = "crash"
	PointApp   = "app"
)

// MaxPointName bounds the name of a point, bytes.
const MaxPointName = 128

// PointWish asks for one point.
type PointWish struct {
	Once uint64 `json:"once,omitempty" doc:"A point is wanted while this is above the report's protection.point.once."`
	Name string `json:"name,omitempty" doc:"Its name."`
	App  bool   `json:"app,omitempty" doc:"Application-consistent."`
	Off  bool   `json:"off,omitempty" doc:"The last one: the machine stays frozen until everything up to it is in the vault, and is switched off then."`
}

// PointState is the last point that was asked for, or due by the policy.
type PointState struct {
	Once    uint64         `json:"once,omitempty" doc:"The newest request that was answered."`
	Time    time.Time      `json:"time" doc:"When it was made."`
	Name    string         `json:"name,omitempty"`
	Kind    string         `json:"kind" doc:"app or crash."`
	At      block.Position `json:"at" doc:"Its id."`
	Off     bool           `json:"off,omitempty" doc:"Everything up to it is in the vault, and the machine switches itself off. It does not go on if nobody hears this."`
	Problem string         `json:"problem,omitempty" doc:"Why it is not application-consistent, where that was wanted; why the machine goes on, where it was to be switched off."`
}

func (p *PointState) check() error {
	if p == nil {
		return nil
	}
	return checkTexts(map[string]string{"point": p.Name, "kind": p.Kind, "problem": p.Problem}, maxText)
}

// Consistency is how a policy wants application-consistent points.
type Consistency struct {
	AppSeconds      int64 `json:"app_consistency_seconds,omitempty" minimum:"0" doc:"Make one this long after the last; 0: only when asked."`
	DeadlineSeconds int64 `json:"app_deadline_seconds,omitempty" minimum:"0" doc:"How long one may take, from the first script until everything is thawed; 0: 10."`
	NoScripts       bool  `json:"app_no_scripts,omitempty" doc:"Freeze only, without the machine's scripts."`

	ScanSeconds       int64 `json:"scan_seconds,omitempty" minimum:"0" doc:"Scan a machine whose kernel does not give the data of writes this long after the last; 0: never."`
	ScanFreezeSeconds int64 `json:"scan_freeze_seconds,omitempty" minimum:"0" doc:"How long a scan may freeze its file systems, which is what reading its disks once takes; 0: 60."`
}

// ScanState is how the scans of a machine stand.
type ScanState struct {
	Last time.Time `json:"last,omitzero" doc:"When one last made a point."`
	Next time.Time `json:"next,omitzero" doc:"When the next is due."`
}

// Limits of a policy's application-consistent points and scans.
const (
	MinAppSeconds      = 10
	maxAppSeconds      = 30 * 86400
	maxDeadlineSeconds = 300
	minScanSeconds     = 60
	maxScanSeconds     = 30 * 86400
	maxFreezeSeconds   = 3600
)

// Check says what is wrong with it, if anything is.
func (c Consistency) Check() error {
	switch {
	case c.AppSeconds != 0 && (c.AppSeconds < MinAppSeconds || c.AppSeconds > maxAppSeconds):
		return fmt.Errorf("an application-consistent point every %d s: want %d to %d, or 0 for none", c.AppSeconds, MinAppSeconds, maxAppSeconds)
	case c.DeadlineSeconds < 0 || c.DeadlineSeconds > maxDeadlineSeconds:
		return fmt.Errorf("an application-consistent point may take %d s: want 1 to %d, or 0 for 10", c.DeadlineSeconds, maxDeadlineSeconds)
	case c.ScanSeconds != 0 && (c.ScanSeconds < minScanSeconds || c.ScanSeconds > maxScanSeconds):
		return fmt.Errorf("a scan every %d s: want %d to %d, or 0 for none", c.ScanSeconds, minScanSeconds, maxScanSeconds)
	case c.ScanFreezeSeconds < 0 || c.ScanFreezeSeconds > maxFreezeSeconds:
		return fmt.Errorf("a scan may freeze for %d s: want 1 to %d, or 0 for 60", c.ScanFreezeSeconds, maxFreezeSeconds)
	}
	return nil
}
