package nbd

import (
	"math/bits"
	"sync"
)

// headroom is what a buffer keeps free before its data, in bytes: the larger of the
// reply headers, so that header and data leave in one system call.
const headroom = chunkSize + 8

// buffer is a borrowed piece of memory for the data of one request.
type buffer struct {
	class int
	all   []byte // headroom, then data
}

func (b *buffer) data() []byte { return b.all[headroom:] }

const (
	smallestClass = 12 // 4 KiB, as a power of two
	largestClass  = 25 // 32 MiB, maxPayload
)

// classOf is the class that holds n bytes of data, and what it takes, in bytes.
func classOf(n uint32) (class int, size int64) {
	if n > 0 {
		class = bits.Len32(n - 1)
	}
	class = max(class, smallestClass)
	return class, 1 << class
}

// buffers lends memory by power-of-two classes, so that a busy server does not
// allocate for each request.
type buffers struct {
	classes [largestClass + 1]sync.Pool
}

// get lends a buffer for n bytes of data, at most maxPayload.
func (p *buffers) get(n uint32) *buffer {
	class, size := classOf(n)
	b, ok := p.classes[class].Get().(*buffer)
	if !ok {
		b = &buffer{class: class, all: make([]byte, headroom+size)}
	}
	b.all = b.all[:headroom+int(n)]
	return b
}

func (p *buffers) put(b *buffer) { p.classes[b.class].Put(b) }
