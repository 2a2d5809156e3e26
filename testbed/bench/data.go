package main

import (
	"encoding/binary"
	"math/rand/v2"
	"unsafe"
)

const (
	kib       = 1 << 10
	mib       = 1 << 20
	gib       = 1 << 30
	blockSize = 4 * kib
)

// words is what text-like data is made of.
var words = []string{"SELECT ", "id=", "2026-11-23T", " INFO request ", "\"name\":\"", "user-", ", ", "\r\n", "GET /v1/", "0000", "status=200 ", "a8f3"}

// fillMixed makes a block as a server's disk holds them: by its seed a quarter of the
// blocks is random, half is text with numbers in it, a quarter is text that repeats.
// LZ4 makes about half of it.
func fillMixed(b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	switch kind := seed * 0x9E3779B97F4A7C15 >> 62; kind {
	case 0:
		fillRandom(b, r)
	case 1, 2:
		for i := 0; i < len(b); {
			i += copy(b[i:], words[r.IntN(len(words))])
			if i < len(b) {
				var n [8]byte
				binary.LittleEndian.PutUint64(n[:], r.Uint64())
				i += copy(b[i:], n[:5])
			}
		}
	default:
		line := words[r.IntN(len(words))] + words[r.IntN(len(words))] + words[r.IntN(len(words))]
		for i := 0; i < len(b); {
			i += copy(b[i:], line)
		}
	}
}

func fillRandom(b []byte, r *rand.Rand) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, r.Uint64())
	}
}

// aligned is a buffer as direct I/O wants it.
func aligned(n int) []byte {
	b := make([]byte, n+blockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (blockSize - 1)
	return b[skip : skip+n : skip+n]
}

// pool is data that lies ready to be written: making it must not cost the processor
// time that is measured.
type pool []byte

const poolSize = 64 * mib

// newPool is random, or mixed, data.
func newPool(compressible bool) pool {
	p := aligned(poolSize)
	if !compressible {
		fillRandom(p, rand.New(rand.NewPCG(1, 2)))
		return p
	}
	for i := 0; i < len(p); i += blockSize {
		fillMixed(p[i:i+blockSize], uint64(i/blockSize))
	}
	return p
}

// piece is n bytes from somewhere in it.
func (p pool) piece(r *rand.Rand, n int) []byte {
	at := r.IntN((len(p)-n)/blockSize+1) * blockSize
	return p[at : at+n]
}
