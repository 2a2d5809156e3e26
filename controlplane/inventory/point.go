package inventory

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// pointName leaves out what means a point already: latest, a position, a time.
var pointName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,127}$`)

// CreatePoint asks the machine's agent for a point, and returns the request's number. A
// request that was not answered yet is replaced.
func (inv *Inventory) CreatePoint(ctx context.Context, machine block.MachineID, name string, app bool) (uint64, error) {
	if name != "" && !pointName.MatchString(name) || name == "latest" || name == "latest-app" {
		return 0, problem.New(problem.Invalid, "give it 1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter, and not latest or latest-app", "%q is no name for a point", name)
	}
	var number uint64
	err := inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, disks []Disk) error {
		if err := someProtected(m, disks); err != nil {
			return err
		}
		number = m.Point.Once + 1
		if err := putWish(ctx, tx, machine, desired.PointWish{Once: number, Name: name, App: app}, time.Time{}); err != nil {
			return err
		}
		kind := desired.PointCrash
		if app {
			kind = desired.PointApp
		}
		return inv.addEvent(ctx, tx, machine, desired.Event{Type: "point-requested", Severity: desired.Info,
			Message: fmt.Sprintf("an operator asked for point %d (%s) of machine %s, kind %s", number, name, m.Hostname, kind)})
	})
	return number, err
}

// CreateLastPoint asks the machine's agent to make a last point, and to switch the machine
// off behind it: within this time, or not at all. Asked again under the same name it is the
// same request.
func (inv *Inventory) CreateLastPoint(ctx context.Context, machine block.MachineID, name string, within time.Duration) (number uint64, err error) {
	err = inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, disks []Disk) error {
		if m.Point.Off && m.Point.Name == name {
			number = m.Point.Once
			return nil
		}
		if err := someProtected(m, disks); err != nil {
			return err
		}
		number = m.Point.Once + 1
		if err := putWish(ctx, tx, machine, desired.PointWish{Once: number, Name: name, App: true, Off: true}, inv.now().Add(within)); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, machine, desired.Event{Type: "shutdown-requested", Severity: desired.Warning,
			Message: fmt.Sprintf("machine %s was asked to make its last point, %s, and to switch itself off behind it", m.Hostname, name)})
	})
	return number, err
}

// WithdrawLastPoint takes back the request of this name, if it stands.
func (inv *Inventory) WithdrawLastPoint(ctx context.Context, machine block.MachineID, name string) error {
	return inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, _ []Disk) error {
		if !m.Point.Off || m.Point.Name != name {
			return nil
		}
		return putWish(ctx, tx, machine, m.Point, time.Time{})
	})
}

// putWish writes down the point that is wanted of a machine, and until when if it is a last
// one.
func putWish(ctx context.Context, tx *sql.Tx, machine block.MachineID, w desired.PointWish, until time.Time) error {
	_, err := exec(ctx, tx, "UPDATE machines SET point = ?, point_name = ?, point_app = ?, point_off = ?, point_until = ? WHERE id = ?", w.Once, w.Name, w.App, w.Off, nanos(until), machine.String())
	return err
}
