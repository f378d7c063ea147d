package runtime

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// ErrMemory is what errors of Options.MemoryLimit wrap.
var ErrMemory = errors.New("memory limit")

// buffer is a piece of memory that a session lends to tensors; it goes back
// to the session's pool when the last tensor that shares it is released.
type buffer struct {
	mem   []byte
	refs  int
	class int
	used  int // the last run that borrowed it
}

// pool holds the buffers of a session. Sizes are rounded up to classes, four
// to a power of two, so that a run of the same shapes finds every buffer it
// needs where the run before left it, and shapes that grow slowly (a cache)
// reuse buffers too.
type pool struct {
	free  [64 * 4][]*buffer
	store simd.Store
	bytes int // of all buffers, lent or free
	given int // bytes of the run's outputs, which leave the session
	limit int
	runs  int  // so far
	dirty bool // tests: fill buffers with NaN patterns before lending them
}

// sizeClass returns the class of a size and what buffers of that class hold.
func sizeClass(n int) (class, size int) {
	const least = 256
	if n <= least {
		return 0, least
	}
	e := bits.Len(uint(n-1)) - 1 // 2^e < n <= 2^(e+1)
	step := 1 << (e - 2)
	k := (n - 1<<e + step - 1) / step // 1 … 4
	return (e-8)*4 + k, 1<<e + k*step
}

// get lends a buffer of at least n bytes with one reference.
func (p *pool) get(n int) (*buffer, error) {
	class, size := sizeClass(n)
	for c := class; c <= class+4 && c < len(p.free); c++ {
		if l := p.free[c]; len(l) > 0 {
			b := l[len(l)-1]
			p.free[c] = l[:len(l)-1]
			b.refs, b.used = 1, p.runs
			if p.dirty {
				for i := range b.mem {
					b.mem[i] = 0xff
				}
			}
			return b, nil
		}
	}
	if err := p.room(size); err != nil {
		return nil, err
	}
	p.bytes += size
	b := &buffer{mem: bytesOf(p.store.Get((size + 3) / 4))[:size], refs: 1, class: class, used: p.runs}
	if p.dirty {
		for i := range b.mem {
			b.mem[i] = 0xff
		}
	}
	return b, nil
}

// room makes sure that size bytes more stay below the limit.
func (p *pool) room(size int) error {
	if size > p.limit-p.bytes-p.given {
		p.trim()
		if size > p.limit-p.bytes-p.given {
			return fmt.Errorf("%d bytes more than the %d in use would pass the %w of %d", size, p.bytes+p.given, ErrMemory, p.limit)
		}
	}
	return nil
}

// spend counts the bytes of an output.
func (p *pool) spend(size int) error {
	if err := p.room(size); err != nil {
		return err
	}
	p.given += size
	return nil
}

// put takes one reference back.
func (p *pool) put(b *buffer) {
	if b.refs--; b.refs == 0 {
		p.free[b.class] = append(p.free[b.class], b)
	}
}

// trim lets go of every free buffer.
func (p *pool) trim() { p.keep(func(*buffer) bool { return false }) }

// age ends a run: buffers that the last idleRuns runs had no use for, since
// their shapes were others, go.
func (p *pool) age() {
	p.runs++
	p.given = 0
	p.keep(func(b *buffer) bool { return b.used+idleRuns >= p.runs })
}

// idleRuns is how many runs of other shapes may come between two of the same
// before the memory is made anew.
const idleRuns = 16

// keep lets go of the free buffers for which f is false.
func (p *pool) keep(f func(b *buffer) bool) {
	for c, l := range p.free {
		kept := l[:0]
		for _, b := range l {
			if f(b) {
				kept = append(kept, b)
			} else {
				p.bytes -= len(b.mem)
			}
		}
		clear(l[len(kept):])
		p.free[c] = kept
	}
}

// release empties t, giving its memory back.
func (p *pool) release(t *Tensor) {
	if t.buf != nil {
		p.put(t.buf)
	}
	if t.seq != nil {
		if t.seq.refs--; t.seq.refs == 0 {
			for i := range t.seq.items {
				p.release(&t.seq.items[i])
			}
		}
	}
	t.buf, t.mem, t.strs, t.seq, t.own, t.cached = nil, nil, nil, nil, false, nil
}

// share makes dst the same as x, without a copy.
func (p *pool) share(dst, x *Tensor) {
	if x.buf != nil {
		x.buf.refs++
	}
	if x.seq != nil {
		x.seq.refs++
	}
	p.release(dst)
	dst.DType, dst.mem, dst.strs, dst.seq, dst.buf = x.DType, x.mem, x.strs, x.seq, x.buf
	dst.Shape = append(dst.Shape[:0], x.Shape...)
}
