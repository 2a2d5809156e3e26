package inventory

import "fmt"

// Bounds of drills.
const (
	minDrill         = 3600         // seconds: each keeps the host busy for minutes
	maxDrill         = 3650 * 86400 // seconds
	maxDrillDeadline = 86400        // seconds
	maxName          = 255
)

// Drill says how often a machine is brought up for a try, without anybody who asks, and
// how it must show that it is up.
type Drill struct {
	DrillSeconds  int64  `json:"drill_seconds,omitempty" doc:"Try a failover that boots this often; 0: only when asked."`
	DrillBus      string `json:"drill_bus,omitempty" doc:"How disks are attached, as in the hardware of a failover; absent: as the source's."`
	DrillMemory   int64  `json:"drill_memory,omitempty" doc:"Bytes; absent: the source's, which the control plane's host may not have."`
	DrillCheck    string `json:"drill_check,omitempty" doc:"The operator's check, a program in DATA/checks; absent: a login prompt or the agent."`
	DrillDeadline int64  `json:"drill_deadline_seconds,omitempty" doc:"Until when the machine must be up; 0: 600."`
}

// Check says what is wrong with it, if anything is.
func (d Drill) Check() error {
	switch {
	case d.DrillSeconds != 0 && (d.DrillSeconds < minDrill || d.DrillSeconds > maxDrill):
		return fmt.Errorf("a drill every %d seconds: want one an hour to one in ten years, or 0 for none", d.DrillSeconds)
	case d.DrillMemory < 0:
		return fmt.Errorf("a drill's machine with %d bytes of memory", d.DrillMemory)
	case d.DrillDeadline < 0 || d.DrillDeadline > maxDrillDeadline:
		return fmt.Errorf("a drill's deadline of %d seconds: want 1 to %d", d.DrillDeadline, maxDrillDeadline)
	case len(d.DrillCheck) > maxName || len(d.DrillBus) > maxName:
		return fmt.Errorf("a drill's check and bus have names of %d and %d bytes: at most %d", len(d.DrillCheck), len(d.DrillBus), maxName)
	}
	return nil
}
