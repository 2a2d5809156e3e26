package vault

import "time"

// limits trade memory and round trips for speed. They are no part of the format; only
// tests use others than the default.
type limits struct {
	// segments is how many pieces of 24 bytes a mapped stretch of a disk may have.
	segments int
	// minWindow bytes of a disk are mapped whatever it takes: 64 MiB have at most
	// 131,072 sectors.
	minWindow int64
	// absorb is how much raw payload of frames is sorted at once. It is held decompressed
	// meanwhile, so that frames are decompressed once although they are read by offset.
	absorb int64
	// patience is which part of the age up to which every point is kept may come together
	// before it is absorbed: each absorption stores a manifest. 0 waits for nothing.
	patience time.Duration
	// runFrame is the raw payload of a frame in a run, in bytes: what a random read
	// decompresses.
	runFrame int
	// runObject is about the stored size of an object of a run: what a merge rewrites
	// for a single change. Two of them are in memory while one is built.
	runObject int64
}

// hashCache bounds the memory for range hashes: those of 64 GiB.
const hashCache = 16 << 20

var defaultLimits = limits{
	segments:  2 << 20,
	minWindow: 64 << 20,
	absorb:    64 << 20,
	patience:  24,
	runFrame:  256 << 10,
	runObject: 16 << 20,
}
