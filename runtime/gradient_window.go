package runtime

import (
	"errors"
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// Gradients of pools.

// eachTap calls f for every run of outputs and the inputs that one tap reads
// for them: outputs [out, out+n), inputs from in on, stride apart.
func (w *window) eachTap(f func(tap, out, in, n, stride int)) {
	last := len(w.in) - 1
	type span struct{ lo, hi, from int }
	var few [8]span
	spans := few[:0]
	for k := range w.kernel[last] {
		lo, hi, from := w.span(k)
		spans = append(spans, span{lo, hi, from})
	}
	for r := range w.rows {
		for t := w.row(r); t.ok; t.next() {
			for k, s := range spans {
				if s.lo < s.hi {
					f(t.tap+k, r*w.width+s.lo, t.in+s.from, s.hi-s.lo, w.stride[last])
				}
			}
		}
	}
}

// poolGradient is a kernel: G, X, Y → dX, plane by plane.
func poolGradient(a *windowAttrs, plane func(s *poolState, dx, g, x, y []float32)) kernel {
	return func(c *call) error {
		g, x, y := c.in[0], c.in[1], c.in[2]
		// The geometry is read from input 0.
		c.in[0] = x
		s, err := c.pooling(a)
		c.in[0] = g
		if err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, x.Shape...)
		if err != nil {
			return err
		}
		clear(z.F32())
		for i := range s.planes {
			if s.outSize == 0 {
				break
			}
			in, out := i*s.inSize, i*s.outSize
			plane(s, z.F32()[in:in+s.inSize], g.F32()[out:out+s.outSize], x.F32()[in:in+s.inSize], y.F32()[out:out+s.outSize])
		}
		return nil
	}
}

// gradMaxPool gives dy to the first of the largest elements.
func gradMaxPool(b *backward, x *lnode, dy []*lvalue) error {
	a := x.window()
	b.add(x.in[0], b.kernel(x.op, poolGradient(&a, func(s *poolState, dx, g, x, y []float32) {
		if s.halves() {
			b.simd.MaxOfFourGradient(dx, s.in[1], g, x, y, s.rows, s.width)
			return
		}
		if cap(s.given) < s.outSize {
			s.given = make([]uint32, s.outSize)
		}
		given := s.given[:s.outSize] // all bits set once dy is
		clear(given)
		s.eachTap(func(_, out, in, n, stride int) {
			for o := out; o < out+n; o++ { // without a branch, which could not be foreseen
				hit := uint32(0)
				if x[in] == y[o] {
					hit = math.MaxUint32
				}
				hit &^= given[o]
				given[o] |= hit
				dx[in] += math.Float32frombits(math.Float32bits(g[o]) & hit)
				in += stride
			}
		})
	}), dy[0], x.in[0], x.out[0]))
	return nil
}

// halves reports whether the window takes four elements and shares none.
func (w *window) halves() bool {
	two := func(l []int) bool { return len(l) == 2 && l[0] == 2 && l[1] == 2 }
	return two(w.kernel) && two(w.stride) && w.dilation[0] == 1 && w.dilation[1] == 1 && w.before[0] == 0 && w.before[1] == 0 &&
		2*w.out[0] <= w.in[0] && 2*w.out[1] <= w.in[1]
}

func gradAveragePool(b *backward, x *lnode, dy []*lvalue) error {
	if x.op != "AveragePool" {
		return errors.New("only AveragePool has one")
	}
	a, pad := x.window(), x.bool("count_include_pad", false)
	b.add(x.in[0], b.kernel(x.op, poolGradient(&a, func(s *poolState, dx, g, _, _ []float32) {
		last := len(s.in) - 1
		part := make([]float32, s.outSize)
		for r := range s.rows {
			n := 1
			for i, rest := last-1, r; i >= 0; i-- {
				n *= s.counted(i, rest%s.out[i], pad)
				rest /= s.out[i]
			}
			for o := range s.width {
				part[r*s.width+o] = g[r*s.width+o] / float32(n*s.counted(last, o, pad))
			}
		}
		s.eachTap(func(_, out, in, n, stride int) {
			for j := range n {
				dx[in+j*stride] += part[out+j]
			}
		})
	}), dy[0], x.in[0], x.out[0]))
	return nil
}

// gradGlobalPool covers GlobalAveragePool and GlobalMaxPool.
func gradGlobalPool(b *backward, x *lnode, dy []*lvalue) error {
	op := x.op
	if op == "GlobalLpPool" {
		return errors.New("there is none")
	}
	b.add(x.in[0], b.kernel(op, func(c *call) error {
		g, x := c.in[0], c.in[1]
		z, err := c.alloc(0, graph.Float32, x.Shape...)
		if err != nil || x.Len() == 0 {
			return err
		}
		size := x.Len() / g.Len()
		for i, d := range g.F32() {
			to := z.F32()[i*size : (i+1)*size]
			if op == "GlobalMaxPool" {
				clear(to)
				best := 0
				for j, v := range x.F32()[i*size : (i+1)*size] {
					if v > x.F32()[i*size+best] {
						best = j
					}
				}
				to[best] = d
				continue
			}
			d /= float32(size)
			for j := range to {
				to[j] = d
			}
		}
		return nil
	}, dy[0], x.in[0]))
	return nil
}
