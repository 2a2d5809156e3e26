package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// lived is a vault with two machines that have runs, logs, bases, a lock and facts.
func lived(t *testing.T) (*mem.Store, *Vault, *history) {
	t.Helper()
	store := mem.New()
	var v *Vault
	var h *history
	for i := range 2 {
		h = newHistory(2, 4*granule)
		var w *Writer
		if i == 0 {
			v, w = setup(t, store, h)
		} else {
			w = must(v.OpenWriter(t.Context(), h.machine))
		}
		v.opts.Now = func() time.Time { return h.now }
		m := must(v.Machine(t.Context(), h.machine))
		for e := range 3 {
			h.begin(frame.ReasonInitial)
			h.baseFrame(frame.CompressAlways, write{0, frame.OpWrite, 0, pattern(3*granule, byte(e))})
			h.flush(t, w)
			h.baseFrame(frame.CompressNever, write{1, frame.OpWrite, 512, pattern(granule, byte(e+7))})
			h.finish()
			for n := range 4 {
				h.step(20 * time.Minute)
				h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(n) * 8 * sector, pattern(4*sector, byte(n))})
				h.flush(t, w)
			}
		}
		if err := m.Lock(t.Context(), h.order[1], "before the upgrade"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Thin(t.Context(), Retention{All: time.Hour, Hourly: 2 * time.Hour, Daily: 3 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		if err := m.SaveAbout(t.Context(), []byte(`{"host":"db1"}`)); err != nil {
			t.Fatal(err)
		}
	}
	return store, v, h
}

func check(t *testing.T, v *Vault) *CheckReport {
	t.Helper()
	report, err := v.Check(context.Background(), nil)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return report
}

func TestCheckOfASoundVault(t *testing.T) {
	_, v, h := lived(t)
	var last CheckProgress
	report, err := v.Check(t.Context(), func(p CheckProgress) { last = p })
	if err != nil || report.Severity() != Fine {
		t.Fatalf("%+v, %v", report, err)
	}
	if report.Machines != 2 || report.Points == 0 || report.Bytes == 0 || last.Machine.IsZero() || last.Done != last.Total {
		t.Fatalf("report %+v, progress %+v", report, last)
	}
	m := must(v.Machine(t.Context(), h.machine))
	if h.check(t, m, positions(t, m)); len(positions(t, m)) < 3 {
		t.Fatalf("only points %v", positions(t, m))
	}
}

// keys lists what a test can damage.
func keys(store *mem.Store) (names []string) {
	for info := range store.List(context.Background(), "") {
		names = append(names, info.Key)
	}
	return names
}

// TestCheckFindsEveryFlippedBit flips one bit in one object after the other, at its
// head, within, and at its end. Each is found, and nothing but it is blamed.
func TestCheckFindsEveryFlippedBit(t *testing.T) {
	store, _, h := lived(t)
	for _, key := range keys(store) {
		if key == vaultName {
			continue
		}
		for _, at := range []float64{0, 0.3, 0.99} {
			t.Run(fmt.Sprintf("%s@%v", key, at), func(t *testing.T) {
				bad := store.Clone()
				bad.Alter(key, func(b []byte) []byte {
					b[int(at*float64(len(b)))] ^= 4
					return b
				})
				v, _ := reopenVault(t, bad, h)
				report := check(t, v)
				if strings.HasPrefix(key, keyPrefix) && at == 0.3 && report.Severity() == Fine {
					return // the bit hit what JSON does not hold to
				}
				blamed := slices.ContainsFunc(report.Defects, func(d Defect) bool { return d.Object == key })
				if report.Severity() == Fine || !blamed {
					t.Fatalf("report %+v", report)
				}
			})
		}
	}
}

// TestCheckFindsEveryMissingObject deletes one object after the other that a machine
// needs.
func TestCheckFindsEveryMissingObject(t *testing.T) {
	store, _, h := lived(t)
	names := keys(store)
	for i, key := range names {
		isLast := i+1 == len(names) || !strings.HasPrefix(names[i+1], key[:strings.LastIndex(key, "/")+1])
		switch kind := kindOf(h.machine, key); {
		case !strings.HasPrefix(key, machinePrefix(h.machine)), kind == sealed.KindDocument && !strings.Contains(key, "/manifest/"):
			continue // of the other machine, or nothing that points need
		case !isLast && strings.Contains(key, "/manifest/"):
			continue // only the newest counts
		case isLast && strings.Contains(key, "/log/"):
			continue // the newest frames: nothing in the vault says that they were there
		}
		t.Run(key, func(t *testing.T) {
			bad := store.Clone()
			if err := bad.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			v, _ := reopenVault(t, bad, h)
			if report := check(t, v); report.Severity() != Damage {
				t.Fatalf("report %+v", report)
			}
		})
	}
}

func reopenVault(t *testing.T, store *mem.Store, h *history) (*Vault, error) {
	t.Helper()
	v, err := Open(t.Context(), store, Options{Key: Key{1}, Now: func() time.Time { return h.now }})
	if err != nil {
		t.Fatal(err)
	}
	return v, err
}

// TestReadsNameTheDamage: what cannot be proven is never returned, and the error says
// which object of which machine it is and what depends on it.
func TestReadsNameTheDamage(t *testing.T) {
	store, _, h := lived(t)
	for _, key := range keys(store) {
		if !strings.HasPrefix(key, machinePrefix(h.machine)) || kindOf(h.machine, key) == sealed.KindDocument {
			continue
		}
		bad := store.Clone()
		bad.Alter(key, func(b []byte) []byte {
			b[len(b)-1] ^= 1 // in the data, or the hashes: the index is sound
			return b
		})
		_, m := reopen(t, bad, h)
		refused := 0
		for _, p := range positions(t, m) {
			refused += readAll(t, h, m, p, key)
		}
		if refused == 0 && !strings.Contains(key, "/run/") {
			t.Errorf("%s: no read was refused", key)
		}
	}
}

// readAll reads a point whole: what it returns must be true, and what it refuses must
// be put down to key.
func readAll(t *testing.T, h *history, m *Machine, p block.Position, key string) (refused int) {
	t.Helper()
	v, err := m.View(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, d := range h.disks {
		got := make([]byte, sector)
		for off := int64(0); off < d.Size; off += sector {
			if _, err := v.ReadAt(t.Context(), d.ID, got, off); err != nil {
				if !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), m.id.String()) || !strings.Contains(err.Error(), "recovery point") {
					t.Fatalf("an error that does not name the damage: %v", err)
				}
				refused++
			} else if want := h.want[p][d.ID][off : off+sector]; string(got) != string(want) {
				t.Fatalf("wrong data at %d of disk %s", off, d.Name)
			}
		}
	}
	return refused
}

func TestRebuildFromTheVaultAlone(t *testing.T) {
	store, _, h := lived(t)
	v, _ := reopenVault(t, store, h)
	all, err := v.Rebuild(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	i := slices.IndexFunc(all, func(p Protected) bool { return p.Machine == h.machine })
	p := all[i]
	if string(p.About) != `{"host":"db1"}` || p.Damage != "" || len(p.Status.Epoch.Disks) != 2 || p.Status.Last.Seq != h.seq || p.Status.Newest == nil {
		t.Fatalf("%+v", p)
	}
	for _, key := range keys(store) {
		if strings.HasPrefix(key, manifestPrefix(h.machine)) {
			store.Alter(key, func(b []byte) []byte { return b[:len(b)/2] })
		}
	}
	v, _ = reopenVault(t, store, h)
	if all, err = v.Rebuild(t.Context()); err != nil || all[i].Damage == "" || all[1-i].Damage != "" {
		t.Fatalf("with one machine damaged: %+v, %v", all, err)
	}
}
