package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// Gradients of convolutions and pools.

// eachTap calls f for every run of outputs and the inputs that one tap reads
// for them: outputs [out, out+n), inputs from in on, stride apart.
func (w *window) eachTap(f func(tap, out, in, n, stride int)) {
	last := len(w.in) - 1
	for r := range w.rows {
		for t := w.row(r); t.ok; t.next() {
			for k := range w.kernel[last] {
				if lo, hi, from := w.span(k); lo < hi {
					f(t.tap+k, r*w.width+lo, t.in+from, hi-lo, w.stride[last])
				}
			}
		}
	}
}

// gradConv: with the columns C of X [depth, outputs] and W [m, depth], both of
// a group, Y = W·C gives dW = dY·Cᵀ and dC = Wᵀ·dY, whose elements go back to
// the elements of X that they are.
func gradConv(b *backward, x *lnode, dy []*lvalue) error {
	v := &convolution{windowAttrs: x.window(), k: b.simd, group: x.int("group", 1)}
	in, w := x.in[0], x.in[1]
	k := b.simd
	if len(x.in) > 2 && b.needs(x.in[2]) {
		b.add(x.in[2], b.kernel("Conv bias", channelSums(k), dy[0]))
	}
	wantX, wantW := b.needs(in), b.needs(w)
	if !wantX && !wantW {
		return nil
	}
	outs := b.kernels("Conv", 2, func(c *call) error {
		g, x, w := c.in[0], c.in[1], c.in[2]
		if x.DType != graph.Float32 || w.DType != graph.Float32 {
			return wrongType(x.DType)
		}
		s, ok := c.state.(*convShape)
		if !ok {
			s = &convShape{}
			c.state = s
		}
		if err := v.geometry(s, x.Shape, w.Shape); err != nil {
			return err
		}
		var dx, dw []float32
		if wantX {
			z, err := c.alloc(0, graph.Float32, x.Shape...)
			if err != nil {
				return err
			}
			dx = z.F32()
			clear(dx)
		}
		if wantW {
			z, err := c.alloc(1, graph.Float32, w.Shape...)
			if err != nil {
				return err
			}
			dw = z.F32()
			clear(dw)
		}
		if g.Len() == 0 || s.depth == 0 {
			return nil
		}
		cols, err := scratch[float32](c, s.depth*s.outSize)
		if err != nil {
			return err
		}
		buf, err := scratch[float32](c, max(k.PackedLen(s.outSize, s.depth), k.PackedLen(s.groupOut, s.outSize)))
		if err != nil {
			return err
		}
		for i := range s.n * v.group {
			xs := x.F32()[i*s.groupIn*s.inSize:][:s.groupIn*s.inSize]
			gs := simd.RowMajor(g.F32()[i*s.groupOut*s.outSize:], s.outSize)
			at := i % v.group * s.groupOut * s.depth
			if wantW {
				clear(cols)
				for ch := range s.groupIn {
					plane, rows := xs[ch*s.inSize:], cols[ch*s.taps*s.outSize:]
					s.eachTap(func(tap, out, in, n, stride int) {
						to := rows[tap*s.outSize+out:][:n]
						if stride == 1 {
							copy(to, plane[in:])
							return
						}
						for j := range to {
							to[j] = plane[in+j*stride]
						}
					})
				}
				p := k.PackInto(buf, simd.RowMajor(cols, s.outSize).T(), s.outSize, s.depth)
				k.Gemm(dw[at:], s.depth, gs, s.groupOut, p, nil, true)
			}
			if wantX {
				p := k.PackInto(buf, gs, s.groupOut, s.outSize)
				k.Gemm(cols, s.outSize, simd.RowMajor(w.F32()[at:], s.depth).T(), s.depth, p, nil, false)
				to := dx[i*s.groupIn*s.inSize:]
				for ch := range s.groupIn {
					plane, rows := to[ch*s.inSize:], cols[ch*s.taps*s.outSize:]
					s.eachTap(func(tap, out, in, n, stride int) {
						from := rows[tap*s.outSize+out:][:n]
						if stride == 1 {
							k.Add(plane[in:in+n], plane[in:in+n], from)
							return
						}
						for j, d := range from {
							plane[in+j*stride] += d
						}
					})
				}
			}
		}
		return nil
	}, dy[0], in, w)
	b.add(in, outs[0])
	b.add(w, outs[1])
	return nil
}

// channelSums: G [N, M, d…] → the sums over all but M.
func channelSums(k *simd.Kernels) kernel {
	return func(c *call) error {
		g := c.in[0]
		if len(g.Shape) < 2 {
			return fmt.Errorf("gradient %v has no channels", g.Shape)
		}
		m := g.Shape[1]
		z, err := c.alloc(0, graph.Float32, m)
		if err != nil {
			return err
		}
		clear(z.F32())
		if g.Len() == 0 {
			return nil
		}
		plane := g.Len() / (g.Shape[0] * m)
		for i := range g.Shape[0] * m {
			z.F32()[i%m] += k.Sum(g.F32()[i*plane : (i+1)*plane])
		}
		return nil
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
		given := make([]uint32, s.outSize) // all bits set once dy is
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
