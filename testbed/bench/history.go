package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// history is a disk that lives for a while: it is written in full, then again and again
// at random places, most of them in a tenth of it. At the end of each stretch it stands
// still, there is a recovery point, and the peers that keep history take theirs.
type history struct {
	*bench
	*stage
	disk     *lab.Disk
	machine  *lab.Machine
	keepers  []*keeper
	versions []string
	points   []lab.Point
	size     int64
	written  int64    // by the machine, in all
	stretch  []blocks // by point: what was written before it and behind the one before
	r        *rand.Rand
}

// blocks are the versions in which blocks were left.
type blocks map[int64]uint64

// withHistory makes one and runs f on it. The agent has ended by then.
func withHistory(ctx context.Context, b *bench, f func(*history) error) error {
	return b.onStage(ctx, func(s *stage) error {
		h := &history{bench: b, stage: s, size: pick(b, int64(512*mib), 64*mib), r: rand.New(rand.NewPCG(8, 9))}
		if err := h.begin(ctx); err != nil {
			return err
		}
		for i := range pick(b, 10, 4) {
			if err := h.live(ctx, i); err != nil {
				return err
			}
		}
		if err := errors.Join(h.machine.Agent.Stop(20*time.Second), h.machine.Detach(ctx)); err != nil {
			return err
		}
		return f(h)
	})
}

func (h *history) begin(ctx context.Context) (err error) {
	if h.disk, err = h.stage.disk(ctx, "history", h.size); err != nil {
		return err
	}
	here, versions := present(ctx, keeping())
	for i, p := range here {
		k, err := p.start(ctx, h.Path(p.name), h.disk.Device, h.size)
		if err != nil {
			return err
		}
		h.keepers, h.versions = append(h.keepers, k), append(h.versions, versions[i])
	}
	if h.machine, err = h.stage.machine(ctx, "history"); err != nil {
		return err
	}
	if err := h.machine.SetRPO(ctx, 3*time.Second); err != nil {
		return err
	}
	return nil
}

// live writes one stretch and has everybody keep it.
func (h *history) live(ctx context.Context, n int) error {
	wrote, err := h.write(n)
	if err != nil {
		return err
	}
	h.stretch = append(h.stretch, wrote)
	if n == 0 {
		if err := h.protect(ctx, h.machine, h.disk); err != nil {
			return err
		}
	} else if err := h.pointAfter(ctx, h.machine, time.Now()); err != nil {
		return err
	}
	var p lab.Point
	if err := h.call(ctx, http.MethodGet, "/v1/machines/"+h.machine.ID()+"/points/latest", &p); err != nil {
		return err
	}
	h.points = append(h.points, p)
	for _, k := range h.keepers {
		script := k.again
		if n == 0 {
			script = k.first
		}
		if err := shell(ctx, k.env, script); err != nil {
			return err
		}
	}
	return nil
}

// write is the whole disk the first time, then a sixteenth of it in pieces of 16 KiB,
// four of five in the first tenth.
func (h *history) write(n int) (blocks, error) {
	f, err := os.OpenFile(h.disk.Device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	wrote := blocks{}
	piece, left := int64(mib), h.size
	if n > 0 {
		piece, left = 16*kib, h.size/16
	}
	buf := aligned(int(piece))
	for i := int64(0); left > 0; i, left = i+1, left-piece {
		at := i * piece
		if n > 0 {
			span := h.size
			if h.r.IntN(5) > 0 {
				span /= 10
			}
			at = h.r.Int64N(span/piece) * piece
		}
		version := uint64(n)<<32 | uint64(i)
		for off := int64(0); off < piece; off += blockSize {
			block := (at + off) / blockSize
			wrote[block] = version
			fillVersion(buf[off:off+blockSize], block, version)
		}
		if _, err := f.WriteAt(buf, at); err != nil {
			return nil, err
		}
		h.written += piece
	}
	return wrote, f.Sync()
}

// fillVersion is what a block holds in this version.
func fillVersion(b []byte, block int64, version uint64) {
	fillMixed(b, (uint64(block)*0x9E3779B97F4A7C15)^(version*0xBF58476D1CE4E5B9))
	binary.LittleEndian.PutUint64(b, uint64(block))
}

// uniqueLZ4 is what LZ4 makes of the churn that any of the points can see: of each
// stretch the last version of each block, a frame's worth at a time.
func (h *history) uniqueLZ4() (packed, raw int64, err error) {
	var c lz4.Compressor
	frame, out := make([]byte, 0, frameSize), make([]byte, lz4.CompressBlockBound(frameSize))
	flush := func() error {
		n, err := c.CompressBlock(frame, out)
		if n == 0 || n >= len(frame) {
			n = len(frame)
		}
		packed, raw, frame = packed+int64(n), raw+int64(len(frame)), frame[:0]
		return err
	}
	for _, wrote := range h.stretch {
		for _, block := range slices.SortedFunc(maps.Keys(wrote), cmp.Compare[int64]) {
			frame = frame[:len(frame)+blockSize]
			fillVersion(frame[len(frame)-blockSize:], block, wrote[block])
			if len(frame) == frameSize {
				if err := flush(); err != nil {
					return 0, 0, err
				}
			}
		}
		if err := flush(); err != nil {
			return 0, 0, err
		}
	}
	return packed, raw, nil
}

func (h *history) String() string {
	return fmt.Sprintf("%d points of a disk of %d MiB, %d MiB written", len(h.points), h.size/mib, h.written/mib)
}
