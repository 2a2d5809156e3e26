package spool

import "unsafe"

// stageSize is how much is copied together for one write. Below half of it the disk is
// waited for more often than it works; above it the bytes leave the processor's cache.
const stageSize = 1 << 20

// newStage is memory that begins on a page.
func newStage() []byte {
	b := make([]byte, stageSize+pageSize)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (pageSize - 1))
	return b[skip : skip : skip+stageSize]
}

// wholePages reports whether direct I/O takes b at off.
func wholePages(b []byte, off int64) bool {
	return len(b) > 0 && (off|int64(len(b))|int64(uintptr(unsafe.Pointer(&b[0]))))&(pageSize-1) == 0
}

// gatherer puts bytes behind each other into a file by large writes, of whole pages
// from a page of memory on as long as they begin at one: those can go past the page
// cache.
type gatherer struct {
	file File
	off  int64  // where buf goes
	buf  []byte // in a stage
	err  error  // the first
}

// at is where the next byte goes.
func (g *gatherer) at() int64 { return g.off + int64(len(g.buf)) }

func (g *gatherer) add(b []byte) {
	for len(b) > 0 {
		n := min(len(b), cap(g.buf)-len(g.buf))
		g.buf, b = append(g.buf, b[:n]...), b[n:]
		if len(g.buf) == cap(g.buf) {
			g.flush()
		}
	}
}

func (g *gatherer) flush() {
	if g.err == nil && len(g.buf) > 0 {
		_, g.err = g.file.WriteAt(g.buf, g.off)
	}
	g.off += int64(len(g.buf))
	g.buf = g.buf[:0]
}
