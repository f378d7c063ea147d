package runtime

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// Gradients of convolutions. With G = ∂L/∂Y, windows of stride s and dilation d,
// and padded positions p = o·s + k·d of output o and tap k:
//
//	∂L/∂W[m, c, k] = Σ_n Σ_o G[n, m, o] · X[n, c, p],  ∂L/∂X[n, c, p] = Σ_m Σ_{o, k: p} W[m, c, k] · G[n, m, o].
//
// The second is a convolution of G with the flipped weights where s = 1.

// gradConv adds both, and that of the bias.
func gradConv(b *backward, x *lnode, dy []*lvalue) error {
	in, w := x.in[0], x.in[1]
	if len(x.in) > 2 && b.needs(x.in[2]) {
		b.add(x.in[2], b.kernel("Conv bias", channelSums(b.simd), dy[0]))
	}
	v := &convolution{windowAttrs: x.window(), k: b.simd, group: x.int("group", 1)}
	if b.needs(w) {
		if w.param > 0 {
			b.sink("Conv weights", convWeightGradient(v, w.param-1), dy[0], in, w)
		} else {
			b.add(w, b.kernel("Conv weights", convWeightGradient(v, -1), dy[0], in, w))
		}
	}
	if !b.needs(in) {
		return nil
	}
	if flipped := b.flippedConv(v, w); flipped != nil {
		b.add(in, b.kernel("Conv", flipped.run, dy[0]))
	} else {
		b.add(in, b.kernel("Conv", convInputGradient(v), dy[0], w, b.shape(in)))
	}
	return nil
}

// trainedConv is the forward convolution of x with weights and a bias that are
// packed again after they changed; nil where they are computed or of a kind
// that x itself would refuse.
func (b *backward) trainedConv(x *lnode) *convolution {
	var bias *lvalue
	if len(x.in) > 2 {
		bias = x.in[2]
	}
	w := x.in[1]
	if w.konst == nil || w.konst.DType != graph.Float32 || len(w.konst.Shape) < 3 || bias != nil && (bias.konst == nil || bias.konst.DType != graph.Float32) {
		return nil
	}
	v := &convolution{windowAttrs: x.window(), k: b.simd, group: x.int("group", 1), lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi}
	if v.group < 1 {
		return nil
	}
	changes := w
	if bias != nil && w.param == 0 {
		changes = bias
	}
	b.train.prepared(changes, func() {
		var shift *Tensor
		if bias != nil {
			shift = bias.konst
		}
		v.repack(w.konst, shift)
	})
	return v
}

// flippedConv is the convolution that turns the gradient of v's output into
// that of its input, with the constant weights w [M, C/group, k…] as [C,
// M/group, k…], taps in reverse: an input at distance p from the window's first
// tap is where the tap of the flipped window at extent − p stands. It is nil
// where there is none.
func (b *backward) flippedConv(v *convolution, w *lvalue) *convolution {
	f, turn := flip(v, w.konst)
	if f != nil {
		b.train.prepared(w, turn)
	}
	return f
}

// flip is flippedConv for the weights t. Its weights are there after turn, which
// has to be called again after t has changed.
func flip(v *convolution, t *Tensor) (f *convolution, turn func()) {
	if t == nil || t.DType != graph.Float32 || len(t.Shape) < 3 || t.Len() == 0 || v.group < 1 || t.Shape[0]%v.group != 0 {
		return nil, nil
	}
	kernel := t.Shape[2:]
	n := len(kernel)
	f = &convolution{k: v.k, group: v.group, lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi}
	f.pads, f.auto = make([]int, 2*n), "NOTSET"
	if v.dilations != nil {
		f.dilations = v.dilations
	}
	if v.strides != nil && len(v.strides) != n || v.dilations != nil && len(v.dilations) != n || v.pads != nil && len(v.pads) != 2*n {
		return nil, nil
	}
	for i, taps := range kernel {
		if v.strides != nil && v.strides[i] != 1 {
			return nil, nil
		}
		extent := taps - 1
		if v.dilations != nil {
			extent *= v.dilations[i]
		}
		before, after := 0, 0
		switch {
		case v.auto == "SAME_UPPER":
			before, after = extent/2, extent-extent/2
		case v.auto == "SAME_LOWER":
			before, after = extent-extent/2, extent/2
		case v.auto == "NOTSET" && v.pads != nil:
			before, after = v.pads[i], v.pads[n+i]
		}
		if f.pads[i], f.pads[n+i] = extent-before, extent-after; before > extent || after > extent {
			return nil, nil
		}
	}
	m, c := t.Shape[0]/v.group, t.Shape[1] // of a group
	turned := &Tensor{DType: graph.Float32, Shape: append([]int{c * v.group, m}, kernel...)}
	turned.mem = aligned(4 * t.Len())
	taps := t.Len() / (t.Shape[0] * c)
	return f, func() {
		from, to := t.F32(), turned.F32()
		for i := range t.Shape[0] * c {
			g, o, ch := i/c/m, i/c%m, i%c
			src, dst := from[i*taps:(i+1)*taps], to[((g*c+ch)*m+o)*taps:][:taps]
			for k, a := range src {
				dst[taps-1-k] = a
			}
		}
		f.repack(turned, nil)
	}
}

// planes are a channel of a convolution's input as its gradients read it: the
// padded positions dealt out by their remainder with the stride, on every
// axis, to planes in which all windows move by one. Outputs lie as far apart in
// a plane, so what a tap reads for all of them is one run of elements, with
// some between the rows that count for nothing.
type planes struct {
	of    *window
	known [4][]int // in, out, kernel, before: what the rest is for
	dims  []int    // of a plane
	size  int      // of a plane
	count int      // planes
	span  int      // elements from the first output to the last one
	taps  []int    // where each tap of the first output is: plane · size + place
	outs  []int    // where each row of outputs begins in a plane
	rows  []int    // by planes along the axes but the last, and their rows: the row of the channel, −1 for padding
	same  bool     // the channel itself is the only plane
}

// set works out the planes for w.
func (p *planes) set(w *window) error {
	now := [4][]int{w.in, w.out, w.kernel, w.before}
	fits := p.of != nil
	for i := range now {
		fits = fits && slices.Equal(now[i], p.known[i])
	}
	p.of = w
	if fits {
		return nil
	}
	last := len(w.in) - 1
	p.dims, p.same = p.dims[:0], true
	for i, n := range w.out {
		d := n + (w.kernel[i]-1)*w.dilation[i]/w.stride[i]
		p.dims = append(p.dims, d)
		p.same = p.same && w.stride[i] == 1 && w.before[i] == 0 && d == w.in[i]
	}
	var err error
	if p.size, err = count(p.dims); err != nil {
		return err
	}
	if p.count, err = count(w.stride); err != nil {
		return err
	}
	if _, err = count([]int{p.size, p.count}); err != nil {
		return err
	}
	steps := make([]int, last+1)
	for i, step := last, 1; i >= 0; i-- {
		steps[i] = step
		step *= p.dims[i]
	}
	p.span = 1
	for i, n := range w.out {
		p.span += (n - 1) * steps[i]
	}
	p.taps = p.taps[:0]
	for k := range w.taps {
		plane, at := 0, 0
		for i, part := last, 1; i >= 0; i-- {
			d := k % w.kernel[i] * w.dilation[i]
			k /= w.kernel[i]
			plane += d % w.stride[i] * part
			at += d / w.stride[i] * steps[i]
			part *= w.stride[i]
		}
		p.taps = append(p.taps, plane*p.size+at)
	}
	p.outs = p.outs[:0]
	for r := range w.rows {
		at := 0
		for i := last - 1; i >= 0; i-- {
			at += r % w.out[i] * steps[i]
			r /= w.out[i]
		}
		p.outs = append(p.outs, at)
	}
	p.rows = p.rows[:0]
	for i := range p.count / w.stride[last] * (p.size / max(p.dims[last], 1)) {
		row, in, plane, rest := 0, true, i/(p.size/p.dims[last]), i%(p.size/p.dims[last])
		for a, step := last-1, 1; a >= 0; a-- {
			at := rest%p.dims[a]*w.stride[a] + plane%w.stride[a] - w.before[a]
			rest, plane = rest/p.dims[a], plane/w.stride[a]
			in = in && at >= 0 && at < w.in[a]
			row += at * step
			step *= w.in[a]
		}
		if !in {
			row = -1
		}
		p.rows = append(p.rows, row)
	}
	for i := range now {
		p.known[i] = append(p.known[i][:0], now[i]...)
	}
	return nil
}

// each calls f for every row of the planes: where it begins in them, and which
// of its elements [lo, hi) lie in the channel, the first one at from and the
// others a stride apart. lo = hi where the row is padding.
func (p *planes) each(f func(at, lo, hi, from int)) {
	last := len(p.dims) - 1
	w, width := p.of, p.dims[last]
	stride, perPlane := w.stride[last], p.size/width
	for phase := range stride {
		lo := max((w.before[last]-phase+stride-1)/stride, 0)
		hi := min((w.in[last]-1+w.before[last]-phase+stride)/stride, width)
		first := lo*stride + phase - w.before[last]
		for i, row := range p.rows {
			at := ((i/perPlane*stride+phase)*perPlane + i%perPlane) * width
			if row < 0 || lo >= hi {
				f(at, 0, 0, 0)
			} else {
				f(at, lo, hi, row*w.in[last]+first)
			}
		}
	}
}

// fill writes the planes of channel x.
func (p *planes) fill(k *simd.Kernels, dst, x []float32) {
	width, stride := p.dims[len(p.dims)-1], p.of.stride[len(p.dims)-1]
	if w := p.of; p.count == 1 && len(p.dims) == 2 {
		top, left := min(w.before[0], p.dims[0]), min(w.before[1], width)
		rows, copied := min(w.in[0], p.dims[0]-top), min(w.in[1], width-left)
		clear(dst[:top*width])
		k.PadRows(dst[top*width:], width, x, w.in[1], rows, width, left, copied, 0)
		clear(dst[(top+rows)*width:])
		return
	}
	p.each(func(at, lo, hi, from int) {
		row := dst[at : at+width]
		clear(row[:lo])
		if stride == 1 {
			copy(row[lo:hi], x[from:])
		} else {
			for j := lo; j < hi; j++ {
				row[j] = x[from]
				from += stride
			}
		}
		clear(row[hi:])
	})
}

// gather writes what the planes hold into the channel x, zeros elsewhere.
func (p *planes) gather(x, src []float32) {
	clear(x)
	stride := p.of.stride[len(p.dims)-1]
	p.each(func(at, lo, hi, from int) {
		row := src[at+lo : at+hi]
		if stride == 1 {
			copy(x[from:], row)
			return
		}
		for _, v := range row {
			x[from] = v
			from += stride
		}
	})
}

// spread writes a channel of outputs g as it lies in a plane, with zeros
// between. They may reach beyond the last output, up to the end of its row.
func (p *planes) spread(k *simd.Kernels, dst, g []float32) {
	width := p.of.width
	if len(p.dims) == 2 {
		k.PadRows(dst, p.dims[1], g, width, p.of.rows, p.dims[1], 0, width, 0)
		return
	}
	end := 0
	for r, at := range p.outs {
		clear(dst[end:at])
		end = at + copy(dst[at:], g[r*width:(r+1)*width])
	}
}

// convGradient is the gradient of a convolution at hand.
type convGradient struct {
	convShape
	p     planes
	input []int // shape of X
}

// convGeometry works out the shapes for G, X and W.
func (c *call) convGeometry(v *convolution, g *Tensor, x, w []int) (*convGradient, error) {
	s, ok := c.state.(*convGradient)
	if !ok {
		s = &convGradient{}
		c.state = s
	}
	if err := v.geometry(&s.convShape, x, w); err != nil {
		return nil, err
	}
	if g.DType != graph.Float32 {
		return nil, wrongType(g.DType)
	}
	if g.Len() != s.n*s.m*s.outSize {
		return nil, fmt.Errorf("gradient %v of a convolution %v", g.Shape, s.shape)
	}
	if g.Len() == 0 {
		return s, nil
	}
	return s, s.p.set(&s.window)
}

// spreadGroup returns the outputs of a group as they lie in planes, [groupOut,
// span].
func (s *convGradient) spreadGroup(k *simd.Kernels, buf, g []float32) []float32 {
	if s.p.span == s.outSize {
		return g
	}
	for m := range s.groupOut {
		s.p.spread(k, buf[m*s.p.span:], g[m*s.outSize:(m+1)*s.outSize])
	}
	return buf
}

// With fewer output channels than dotChannels, the lanes of a product are so
// empty that a dot product for every weight is faster. With fewer input
// channels than copyChannels, what all taps read is copied into one matrix,
// for products of more rows.
const dotChannels, copyChannels = 4, 8

// convWeightGradient: G, X, W → ∂L/∂W, added to the gradient of a parameter, or
// an output where param is −1. The sum of each weight is taken in the order of
// the samples and of the outputs.
func convWeightGradient(v *convolution, param int) kernel {
	k := v.k
	return func(c *call) error {
		g, x, w := c.in[0], c.in[1], c.in[2]
		if x.DType != graph.Float32 || w.DType != graph.Float32 {
			return wrongType(x.DType)
		}
		s, err := c.convGeometry(v, g, x.Shape, w.Shape)
		if err != nil {
			return err
		}
		var dw []float32
		if param >= 0 {
			dw = c.s.train.gradients[param]
		} else {
			z, err := c.alloc(0, graph.Float32, w.Shape...)
			if err != nil {
				return err
			}
			dw = z.F32()
			clear(dw)
		}
		if g.Len() == 0 || s.depth == 0 {
			return nil
		}
		dots, copied := s.groupOut < dotChannels, s.groupIn < copyChannels
		sizes := [5]int{s.groupIn * s.p.count * s.p.size, s.groupOut*s.p.span + s.p.dims[len(s.p.dims)-1], 0, 0, s.m * s.depth}
		if s.p.same {
			sizes[0] = 0
		}
		if s.p.span == s.outSize {
			sizes[1] = 0
		}
		if !dots {
			sizes[2] = k.PackedLen(s.p.span, s.groupOut)
			if copied {
				sizes[3] = s.depth * s.p.span
			}
		}
		var bufs [5][]float32
		for i, n := range sizes {
			if bufs[i], err = scratch[float32](c, n); err != nil {
				return err
			}
		}
		sums := bufs[4] // by group [taps, groupIn, groupOut]
		clear(sums)
		channel := s.p.count * s.p.size
		for i := range s.n * v.group {
			xs := x.F32()[i*s.groupIn*s.inSize:][:s.groupIn*s.inSize]
			if !s.p.same {
				for ch := range s.groupIn {
					s.p.fill(k, bufs[0][ch*channel:(ch+1)*channel], xs[ch*s.inSize:(ch+1)*s.inSize])
				}
				xs = bufs[0]
			}
			gs := s.spreadGroup(k, bufs[1], g.F32()[i*s.groupOut*s.outSize:][:s.groupOut*s.outSize])
			sum := sums[i%v.group*s.groupOut*s.depth:][:s.groupOut*s.depth]
			if dots {
				for t, at := range s.p.taps {
					for ch := range s.groupIn {
						row := xs[ch*channel+at:][:s.p.span]
						for m := range s.groupOut {
							sum[(t*s.groupIn+ch)*s.groupOut+m] += k.Dot(gs[m*s.p.span:(m+1)*s.p.span], row)
						}
					}
				}
				continue
			}
			p := k.PackInto(bufs[2], simd.RowMajor(gs, s.p.span).T(), s.p.span, s.groupOut)
			if copied {
				for t, at := range s.p.taps {
					for ch := range s.groupIn {
						copy(bufs[3][(t*s.groupIn+ch)*s.p.span:][:s.p.span], xs[ch*channel+at:])
					}
				}
				k.Gemm(sum, s.groupOut, simd.RowMajor(bufs[3], s.p.span), s.depth, p, nil, true)
				continue
			}
			for t, at := range s.p.taps {
				k.Gemm(sum[t*s.groupIn*s.groupOut:], s.groupOut, simd.RowMajor(xs[at:], channel), s.groupIn, p, nil, true)
			}
		}
		for i := range s.m * s.groupIn {
			m, ch := i/s.groupIn, i%s.groupIn
			from := sums[m/s.groupOut*s.groupOut*s.depth+ch*s.groupOut+m%s.groupOut:]
			to := dw[i*s.taps:][:s.taps]
			for t := range to {
				to[t] += from[t*s.groupIn*s.groupOut]
			}
		}
		return nil
	}
}

// convInputGradient: G, W, shape of X → ∂L/∂X: the product of the weights of each
// tap with G is added to the plane that the tap reads.
func convInputGradient(v *convolution) kernel {
	k := v.k
	return func(c *call) error {
		g, w := c.in[0], c.in[1]
		if w.DType != graph.Float32 {
			return wrongType(w.DType)
		}
		s, ok := c.state.(*convGradient)
		if !ok {
			s = &convGradient{}
			c.state = s
		}
		var err error
		if s.input, err = dimsOf(s.input, c.in[2]); err != nil {
			return err
		}
		if s, err = c.convGeometry(v, g, s.input, w.Shape); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, s.input...)
		if err != nil {
			return err
		}
		dx := z.F32()
		if g.Len() == 0 || s.depth == 0 {
			clear(dx)
			return nil
		}
		p := &s.p
		var bufs [4][]float32
		for i, n := range [4]int{p.count * p.size, s.groupOut*p.span + p.dims[len(p.dims)-1], k.PackedLen(s.groupOut, p.span), s.depth * p.span} {
			if bufs[i], err = scratch[float32](c, n); err != nil {
				return err
			}
		}
		sums, cols := bufs[0], bufs[3]
		for i := range s.n * v.group {
			gs := s.spreadGroup(k, bufs[1], g.F32()[i*s.groupOut*s.outSize:][:s.groupOut*s.outSize])
			ws := w.F32()[i%v.group*s.groupOut*s.depth:]
			packed := k.PackInto(bufs[2], simd.RowMajor(gs, p.span), s.groupOut, p.span)
			k.Gemm(cols, p.span, simd.RowMajor(ws, s.depth).T(), s.depth, packed, nil, false)
			for ch := range s.groupIn {
				clear(sums)
				for t, at := range p.taps {
					to := sums[at : at+p.span]
					k.Add(to, to, cols[(ch*s.taps+t)*p.span:][:p.span])
				}
				p.gather(dx[(i*s.groupIn+ch)*s.inSize:][:s.inSize], sums)
			}
		}
		return nil
	}
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
