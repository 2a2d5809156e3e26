package recovery

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressRateFollowsTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []Progress
		m := newMeter(2, 3000, func(p Progress) { reports = append(reports, p) })
		for range 100 { // ten seconds at 100 bytes a second
			time.Sleep(100 * time.Millisecond)
			m.add(10, 5)
		}
		slow := reports[len(reports)-1]
		if slow.Rate < 95 || slow.Rate > 105 || slow.Done < 980 || slow.Written != slow.Done/2 || slow.ETA.Round(time.Second) != 20*time.Second {
			t.Errorf("after ten slow seconds: %+v", slow)
		}
		if n := len(reports); n < 45 || n > 55 {
			t.Errorf("%d reports in ten seconds, want about 50", n)
		}
		for range 60 { // six seconds at 300
			time.Sleep(100 * time.Millisecond)
			m.add(30, 0)
		}
		if fast := reports[len(reports)-1]; fast.Rate < 290 || fast.Rate > 310 {
			t.Errorf("after six fast seconds: %+v", fast)
		}
		m.add(200, 0)
		m.diskDone()
		if last := reports[len(reports)-1]; last.Done != 3000 || last.ETA != 0 || last.DisksDone != 1 || last.Disks != 2 {
			t.Errorf("at the end: %+v", last)
		}
	})
}

func TestProgressWithoutAnyProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last Progress
		m := newMeter(1, 100, func(p Progress) { last = p })
		time.Sleep(time.Minute)
		m.add(0, 0)
		if last.ETA != -1 || last.Rate != 0 {
			t.Errorf("%+v", last)
		}
	})
}
