package desired

import (
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestFindingAffectsPointsBehindTheLastProof(t *testing.T) {
	f := Finding{From: block.Position{Epoch: 2, Seq: 10}, At: block.Position{Epoch: 3, Seq: 50}}
	for p, want := range map[block.Position]bool{
		{Epoch: 1, Seq: 5}: false, {Epoch: 2, Seq: 10}: false, {Epoch: 2, Seq: 11}: true,
		{Epoch: 3, Seq: 50}: true, {Epoch: 4, Seq: 51}: false,
	} {
		if f.Affects(p) != want {
			t.Errorf("point %s affected: %v", p, !want)
		}
	}
	f.From = block.Position{}
	if !f.Affects(block.Position{Epoch: 1, Seq: 1}) {
		t.Error("what was never proved is not in doubt")
	}
}

func TestReportCheckBoundsFindings(t *testing.T) {
	extent := block.DiskExtent{Disk: block.DiskIDFromName("a"), Extent: block.Extent{Len: 4096}}
	fine := Finding{At: block.Position{Epoch: 1, Seq: 2}, Cause: FoundDifferent, Extents: []block.DiskExtent{extent}}
	for name, spoil := range map[string]func(*VerifyState){
		"":                 func(*VerifyState) {},
		"too many":         func(v *VerifyState) { v.Findings = make([]Finding, maxFindings+1) },
		"too many extents": func(v *VerifyState) { v.Findings[0].Extents = make([]block.DiskExtent, maxFindingExtents+1) },
		"of no position":   func(v *VerifyState) { v.Findings[0].At = block.Position{} },
		"of no disk":       func(v *VerifyState) { v.Findings[0].Extents = []block.DiskExtent{{Extent: extent.Extent}} },
		"a negative place": func(v *VerifyState) {
			v.Findings[0].Extents = []block.DiskExtent{{Disk: extent.Disk, Extent: block.Extent{Off: -1, Len: 1}}}
		},
		"no known cause": func(v *VerifyState) { v.Findings[0].Cause = "x" },
	} {
		r := good()
		v := VerifyState{Findings: []Finding{fine}}
		spoil(&v)
		r.Protection = &Protection{Verify: &v}
		if err := r.Check(); (problem.CodeOf(err) == problem.Invalid) != (name != "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
