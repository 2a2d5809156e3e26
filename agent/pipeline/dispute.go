package pipeline

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// maxDispute bounds how long the next epoch waits for a disk's size to be agreed on.
const maxDispute = 5 * time.Minute

// dispute is a disk's size that copies find changed and capture does not, or that cannot
// be told at all. A new epoch takes up a size that capture has seen change; it heals
// nothing else. The first one begins at once, those after it ever later: each costs the
// log a mark and the vault an object.
type dispute struct {
	tries int
	at    time.Time     // of the last try
	wait  time.Duration // before the next
}

// again notes one more epoch that came to nothing.
func (d *dispute) again(now time.Time) {
	if d.at, d.wait = now, 0; d.tries > 0 {
		d.wait = min(maxDispute, retryCopy<<min(d.tries-1, 10))
	}
	d.tries++
}

// pending reports whether it is too early for another epoch. A clock that goes far back or
// ahead ends the waiting.
func (d *dispute) pending(now time.Time) bool { return now.Sub(d.at).Abs() < d.wait }

// disputed tells of a size that goes on being disputed.
func (p *Pipeline) disputed(err error) {
	p.dispute.again(p.Now())
	if p.dispute.wait == 0 {
		return
	}
	p.event(desired.Event{
		Type: "size-disputed", Severity: desired.Warning,
		Message: fmt.Sprintf("%v; capture has seen no change: no recovery points until they agree, tried again in %v", err, p.dispute.wait),
		Remedy:  "compare the size that blockdev tells with the one in /sys/class/block/<disk>/size; if they agree, unprotect the disk and protect it again, else look at the disk (dmesg)",
	})
}
