package block

import (
	"bytes"
	"crypto/sha256"
	"sync"
)

// The range hash is how two sides find out where a disk and its replica differ
// without sending the disk: both hash the same ranges and compare. A disk is cut
// into granules counted from its first byte; only its last granule may be short.
// The coarse granule is compared first, the fine one inside what differs.
const (
	HashSize      = 16       // bytes of one range hash
	CoarseGranule = 64 << 10 // bytes: 16 B for each makes 256 KiB of hashes a GiB
	FineGranule   = 4 << 10  // bytes: the file systems' block, so the smallest thing sent
)

// Hash16 is the first 16 bytes of SHA-256 over a range's bytes. 128 bits bound the
// chance that some pair of different blocks looks equal to 2^-90 for an exabyte
// compared, and a guest cannot make such a pair on purpose.
type Hash16 = [HashSize]byte

// HashRange is the range hash of b.
func HashRange(b []byte) Hash16 {
	sum := sha256.Sum256(b)
	return Hash16(sum[:HashSize])
}

// AppendHashes cuts b into granules of the given size (bytes; the last may be
// short) and appends the range hash of each to dst. Zero granules cost a compare,
// not a hash: a disk is full of them.
func AppendHashes(dst []Hash16, b []byte, granule int64) []Hash16 {
	for len(b) > 0 {
		g := b[:min(granule, int64(len(b)))]
		b = b[len(g):]
		if IsZero(g) {
			dst = append(dst, ZeroHash(int64(len(g))))
		} else {
			dst = append(dst, HashRange(g))
		}
	}
	return dst
}

// NoData stands in the place of a hash where a replica holds no data at all: the range
// was never written, or zeroed or discarded, and reads as zeros. No range hashes to it,
// but with a chance of 2^-128.
var NoData Hash16

var (
	zeros      [CoarseGranule]byte
	zeroCoarse = sync.OnceValue(func() Hash16 { return HashRange(zeros[:]) })
	zeroFine   = sync.OnceValue(func() Hash16 { return HashRange(zeros[:FineGranule]) })
)

// ZeroHash is the range hash of n zero bytes, so that what was never written need
// not be read to be hashed. Free for the two granules.
func ZeroHash(n int64) Hash16 {
	switch n {
	case CoarseGranule:
		return zeroCoarse()
	case FineGranule:
		return zeroFine()
	}
	h := sha256.New()
	for ; n > 0; n -= min(n, CoarseGranule) {
		h.Write(zeros[:min(n, CoarseGranule)])
	}
	return Hash16(h.Sum(nil)[:HashSize])
}

// IsZero reports whether b holds nothing but zero bytes. It runs at the speed of
// the memory (bytes.Equal is vectorised) and returns at once for most data.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}
