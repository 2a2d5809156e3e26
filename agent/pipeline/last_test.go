package pipeline

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// power stands for the switch of a machine whose agent has a hold on it.
type power struct {
	w      *world
	fails  error
	pushed int
	said   desired.PointState // when it was
	vault  bool               // it had everything by then
}

func (p *power) off(ctx context.Context) error {
	p.pushed++
	if s := p.w.p.Status().Point; s != nil {
		p.said = *s
	}
	_, committed := p.w.plant.acks()
	p.vault = committed >= p.said.At.Seq
	if p.fails != nil {
		return p.fails
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// switched is a steady world whose machine can be switched off.
func switched(t *testing.T, seed uint64) (*world, *frozen, *power) {
	w := newWorld(t, seed)
	p := &power{w: w}
	w.off = p.off
	w, f := steadyWith(w)
	return w, f, p
}

// warned reports whether an operator was told of this, with something to do.
func (w *world) warned(event string) bool {
	return slices.ContainsFunc(w.events, func(e desired.Event) bool { return e.Type == event && e.Remedy != "" })
}

var lastWish = desired.State{Point: desired.PointWish{Once: 1, Name: "last", App: true, Off: true}}

// TestTheLastPointIsInTheVaultBeforeTheMachineIsOff, and it holds all that was written.
func TestTheLastPointIsInTheVaultBeforeTheMachineIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f, p := switched(t, 1)
		w.burst(7)
		w.wish(lastWish) // commits once, after three seconds
		time.Sleep(time.Second)
		synctest.Wait()
		if p.pushed != 1 || !p.vault || !p.said.Off || p.said.Once != 1 || p.said.At.Seq == 0 {
			t.Fatalf("switched off %d times, with everything in the vault: %v; the agent said %+v", p.pushed, p.vault, p.said)
		}
		if !f.jobs[0].Whole {
			t.Error("a machine would be switched off that is protected in part")
		}
		marks, states := w.marks()
		if len(marks) != 1 || states[0] != f.state || states[0] != len(w.k.history)-1 {
			t.Errorf("marks %+v at %v, frozen at %d, written %d", marks, states, f.state, len(w.k.history)-1)
		}
		w.kill()
	})
}

// TestAMachineGoesOnThatCannotEnd: it says why, once, and everything is as before.
func TestAMachineGoesOnThatCannotEnd(t *testing.T) {
	for name, hinder := range map[string]func(w *world, f *frozen, p *power){
		"the vault is away":    func(w *world, _ *frozen, _ *power) { w.disconnect() },
		"a script hung":        func(_ *world, f *frozen, _ *power) { f.fails = errors.New("a script hung") },
		"thawed by another":    func(_ *world, f *frozen, _ *power) { f.still = errors.New("thawed") },
		"the switch is broken": func(_ *world, _ *frozen, p *power) { p.fails = errors.New("not permitted") },
		"no switch":            func(w *world, _ *frozen, _ *power) { w.p.PowerOff = nil },
		"another point takes long": func(w *world, f *frozen, _ *power) {
			f.hold = func(context.Context) {
				f.hold = nil
				time.Sleep(lastPatience + 5*time.Second)
			}
			w.wish(desired.State{Policy: desired.Policy{Consistency: desired.Consistency{AppSeconds: 1, DeadlineSeconds: 60}}})
		},
		"a resync": func(w *world, _ *frozen, _ *power) {
			w.disconnect() // or it would be over at once
			w.p.Wish(context.Background(), desired.State{Disks: w.disks, Resync: w.resync()}, w.k.found())
			time.Sleep(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, f, p := switched(t, 2)
				hinder(w, f, p)
				s := lastWish
				s.Resync = w.resyncs
				w.wish(s)
				time.Sleep(lastDeadline)
				synctest.Wait()
				if p.pushed > 0 && p.fails == nil {
					t.Error("it was switched off")
				}
				if got := w.p.Status().Point; got == nil || got.Once != 1 || got.Off || got.Problem == "" || !w.warned("shutdown-failed") {
					t.Errorf("status %+v, events %+v", got, w.events)
				}
				w.disconnect()
				w.connect(context.Background())
				w.settled()
				attempts := len(f.jobs)
				w.wish(s)
				if len(f.jobs) != attempts {
					t.Error("it was tried again though nobody asked")
				}
				f.fails, f.still = nil, nil
				w.wish(desired.State{Resync: w.resyncs, Point: desired.PointWish{Once: 2, Name: "later", App: true}})
				w.settled()
				if got := w.p.Status().Point; got.Once != 2 || got.Kind != desired.PointApp {
					t.Errorf("the next point: %+v", got)
				}
				w.kill()
			})
		})
	}
}

// TestALastWishDiesWithTheAgentThatHeardIt: one that answered it does not obey it in its
// next life.
func TestALastWishDiesWithTheAgentThatHeardIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f, p := switched(t, 3)
		f.fails = errors.New("a script hung")
		w.wish(lastWish)
		f.fails = nil
		w.kill()
		w.start(capture.Resume{Intact: true})
		w.wish(lastWish)
		time.Sleep(lastDeadline)
		synctest.Wait()
		if p.pushed != 0 {
			t.Error("it was switched off by a request that had been answered")
		}
		w.settled()
		w.kill()
	})
}
