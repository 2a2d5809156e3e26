package capture

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// The audit holds the bytes of WRITE that drivers were given against those that
// were seen on their way in. Their difference with nothing in flight is a constant
// of the disk (what was in flight when the programs came, writes that failed
// before they reached the driver); should it ever fall, a write went by unseen.
//
// The constant is taken in a quiet moment. After that the two may be compared at
// any time: what is in flight only makes the difference greater.

const (
	auditQuiet   = time.Second // without a write, so that nothing waits in a scheduler
	auditConfirm = 5           // readings, since a request given back may be counted twice in one
	auditPause   = 5 * time.Millisecond
)

// audit is what this process has seen of a disk's counters.
type audit struct {
	last  bpf.CaptureCounters
	since time.Time // last has not changed
}

func (s *source) audit(t *tracked) (Audit, error) {
	if s.programs["issue"] == nil || s.programs["submit"].Type() == ebpf.Kprobe || !requestBased(t.Disk) {
		return AuditImpossible, nil
	}
	disk := &s.disks[t.slot]
	c, err := s.counted(t.slot)
	if err != nil {
		return "", err
	}
	a := s.audits[t.ID]
	if a == nil || a.last != c {
		s.audits[t.ID] = &audit{last: c, since: time.Now()}
	} else if time.Since(a.since) > auditQuiet && idle(t.Disk) {
		verdict := s.compare(disk, c)
		disk.AuditBase = c.Submitted - c.Issued
		atomic.StoreUint32(&disk.Audited, 1)
		return s.judge(t, verdict), nil
	}
	if atomic.LoadUint32(&disk.Audited) == 0 {
		return AuditPending, nil
	}
	verdict := s.compare(disk, c)
	for i := 1; verdict == AuditMissing && i < auditConfirm; i++ {
		time.Sleep(auditPause)
		if c, err = s.counted(t.slot); err != nil {
			return "", err
		}
		verdict = s.compare(disk, c)
	}
	if verdict == AuditMissing {
		disk.AuditBase = c.Submitted - c.Issued
	}
	return s.judge(t, verdict), nil
}

func (s *source) compare(disk *bpf.CaptureDisk, c bpf.CaptureCounters) Audit {
	if atomic.LoadUint32(&disk.Audited) != 0 && int64(c.Submitted-c.Issued-disk.AuditBase) < 0 {
		return AuditMissing
	}
	return AuditEqual
}

func (s *source) judge(t *tracked, verdict Audit) Audit {
	if verdict == AuditMissing {
		s.lose(causeAudit, t.slot)
		s.log.Warn("more was issued to the driver than was seen submitted", "disk", t.Name)
	}
	return verdict
}

// requestBased: the driver takes requests, which fire block_rq_issue.
func requestBased(d Disk) bool {
	_, err := os.Stat(numberedFile(d.Major, d.Minor, "mq"))
	return err == nil
}

// idle: the kernel knows of no request in flight.
func idle(d Disk) bool {
	b, err := os.ReadFile(numberedFile(d.Major, d.Minor, "inflight"))
	var reads, writes int
	n, _ := fmt.Sscan(string(b), &reads, &writes)
	return err == nil && n == 2 && writes == 0
}
