package inventory

import (
	"context"
	"database/sql"

	"github.com/understudy-dr/understudy/pkg/block"
)

// takeovers is what the newest failovers have made of machines, by machine. One that
// failed or was cleaned up leaves the machine what its source is.
func takeovers(ctx context.Context, q queryer) (map[block.MachineID]State, error) {
	type takeover struct {
		machine block.MachineID
		status  JobStatus
	}
	jobs, err := list(ctx, q, func(rows *sql.Rows) (t takeover, err error) {
		var machine string
		if err := rows.Scan(&machine, &t.status); err != nil {
			return t, err
		}
		t.machine, err = block.ParseMachineID(machine)
		return t, err
	}, "SELECT machine, status FROM jobs WHERE kind = ? ORDER BY created_at", Takeover)
	if err != nil {
		return nil, err
	}
	states := map[block.MachineID]State{}
	for _, t := range jobs {
		states[t.machine] = map[JobStatus]State{JobQueued: FailoverInitiated, JobRunning: FailoverInitiated, JobDone: FailedOver, JobCommitted: Committed}[t.status]
	}
	return states, nil
}
