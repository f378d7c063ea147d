package circulant

import (
	"fmt"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Chain is two Operators, one after the other, with a function of every number between
// them,
//
//	Y = f(X·W₁ᵀ + bias₁)·W₂ᵀ + bias₂,
//
// as the MLP of a transformer has. Some tokens go the whole way before the next ones
// set out, so that what is between the operators stays in the caches. The bits of a
// result are those of the Operators and the function by themselves. A Chain is
// immutable and safe for concurrent use, as Operators are.
type Chain struct {
	first, second *Operator
	f             func(z, x []float32)
	ld            int // elements from one row between the operators to the next
}

// NewChain makes a chain. f computes z[i] from x[i] for as many elements as x has,
// each by itself; z may be x. NewChain fails unless the second operator has as many
// inputs as the first one has outputs, or those few more that fill its last block, and
// both have the same kernels.
func NewChain(first, second *Operator, f func(z, x []float32)) (*Chain, error) {
	if second.n < first.m || second.n-first.m >= second.c.Block() || first.k != second.k {
		return nil, fmt.Errorf("circulant: a chain of %d outputs and %d inputs in blocks of %d", first.m, second.n, second.c.Block())
	}
	// Rows that are a multiple of 4 KB apart would share few sets of the first cache.
	return &Chain{first: first, second: second, f: f, ld: ceilDiv(second.n, line)*line + line}, nil
}

// Pays reports whether a chain takes less time than its parts by themselves, of which
// the first multiplies all tokens before the second does: where the weights of both
// leave half of a core's second cache to the tokens.
func (c *Chain) Pays() bool {
	return 4*(c.first.weights()+c.second.weights()) <= simd.SecondCache()/2
}

// Dims returns the numbers of outputs and of inputs.
func (c *Chain) Dims() (m, n int) { return c.second.m, c.first.n }

// Tile is a number of tokens: work that is split at multiples of it takes the least
// time.
func (c *Chain) Tile() int { return c.first.Tile() }

// Workspace is the number of float32 elements of the workspace that Apply wants.
func (c *Chain) Workspace() int {
	_, first := c.first.layout(nil, 1)
	_, second := c.second.layout(nil, 1)
	return line + c.between() + max(first, second)
}

// between is the number of elements between the operators.
func (c *Chain) between() int { return c.Tile() * c.ld }

// FLOPs is the number of floating-point operations of both operators for so many
// tokens, as [Operator.FLOPs] counts them.
func (c *Chain) FLOPs(tokens int) int64 { return c.first.FLOPs(tokens) + c.second.FLOPs(tokens) }

// Apply computes tokens [lo, hi) of Y [tokens, m] from X [tokens, n], both without
// gaps. Y must not overlap X. The workspace has Workspace() elements of any content;
// goroutines must not share one. Apply allocates nothing, and panics where slices are
// too short.
func (c *Chain) Apply(y, x []float32, lo, hi int, ws []float32) {
	if lo >= hi {
		return
	}
	if want := c.Workspace(); len(ws) < want {
		panic(fmt.Sprintf("circulant: workspace of %d elements, want %d", len(ws), want))
	}
	o1, o2 := c.first, c.second
	x, y = x[lo*o1.n:hi*o1.n], y[lo*o2.m:hi*o2.m]
	ws = simd.AlignLine(ws)
	h, ws := ws[:c.between()], ws[c.between():]
	s1, _ := o1.layout(ws, 1) // is done with when s2 comes
	s2, _ := o2.layout(ws, 1)
	for t := 0; t < hi-lo; {
		size, from, have := o1.step(t, hi-lo, 1)
		o1.transform(size, x[from*o1.n:], o1.n, have, s1)
		o1.multiply(size, h, c.ld, have, s1)
		for i := range have {
			row := h[i*c.ld:][:o2.n]
			c.f(row[:o1.m], row[:o1.m])
			clear(row[o1.m:])
		}
		o2.transform(size, h, c.ld, have, s2)
		o2.multiply(size, y[from*o2.m:], o2.m, have, s2)
		t = from + have
	}
}
