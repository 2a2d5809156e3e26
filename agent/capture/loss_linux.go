package capture

import (
	"slices"
	"sync/atomic"
)

// Why a write is not in the ring: the places in the kernel side's counters.
const (
	causeRingFull = iota
	causeReadFault
	causeTooLong
	causeNested
	causeOperation
	causeResized
	causeChanged
	causePassthrough
	causeRefused
	causeRecursion
	causeAudit
)

// causes says under which reason each is known and in which words. The one with the
// lowest rank is told first: it explains the others.
var causes = [...]struct {
	reason Reason
	text   string
	rank   int
}{
	causeChanged:     {DeviceChanged, "another device answers under the disk's number, or none", 1},
	causeResized:     {Resized, "the disk has another size than when it was tracked", 2},
	causePassthrough: {PassthroughWrite, "a passthrough command (SG_IO, NVMe) that may have written", 3},
	causeRefused:     {AuditDifference, "the device failed a write: what it holds there is unknown", 4},
	causeOperation:   {AuditDifference, "an operation whose data is not in the request (write same, zone append, a file system mounted with inlinecrypt)", 5},
	causeReadFault:   {AuditDifference, "a page of the write could not be read", 6},
	causeTooLong:     {AuditDifference, "a write of too many segments", 7},
	causeNested:      {RecursionMiss, "interrupted too deeply inside the capture program", 8},
	causeRecursion:   {RecursionMiss, "the kernel skipped the capture program", 9},
	causeAudit:       {AuditDifference, "the driver was given more bytes than were seen submitted", 10},
	causeRingFull:    {RingOverflow, "ring full: the data was not taken out in time", 11},
}

// losses since arming, the most telling first.
func (s *source) losses() []Loss {
	var places []int
	for i := range causes {
		if atomic.LoadUint64(&s.state.Causes[i]) != s.state.CausesArmed[i] {
			places = append(places, i)
		}
	}
	slices.SortStableFunc(places, func(a, b int) int { return causes[a].rank - causes[b].rank })
	var losses []Loss
	for _, i := range places {
		losses = append(losses, Loss{
			Reason: causes[i].reason,
			Cause:  causes[i].text,
			Count:  atomic.LoadUint64(&s.state.Causes[i]) - s.state.CausesArmed[i],
		})
	}
	return losses
}
