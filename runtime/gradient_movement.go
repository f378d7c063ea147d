package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// Gradients of the operators that move elements, and of reductions.

// gradReshape covers what gives its input another shape and nothing else.
func gradReshape(b *backward, x *lnode, dy []*lvalue) error {
	if b.needs(x.in[0]) && dy[0] != nil {
		b.add(x.in[0], b.like(dy[0], x.in[0]))
	}
	return nil
}

func gradIdentity(b *backward, x *lnode, dy []*lvalue) error {
	b.add(x.in[0], dy[0])
	return nil
}

func gradTranspose(b *backward, x *lnode, dy []*lvalue) error {
	var attrs []*graph.Attr
	if perm := x.ints("perm"); perm != nil {
		inverse := make([]int64, len(perm))
		for i, p := range perm {
			p, err := axis(p, len(perm))
			if err != nil {
				return err
			}
			inverse[p] = int64(i)
		}
		attrs = append(attrs, graph.IntsAttr("perm", inverse...))
	}
	b.add(x.in[0], b.op("Transpose", attrs, dy[0]))
	return nil
}

// gradConcat cuts dy where the inputs met.
func gradConcat(b *backward, x *lnode, dy []*lvalue) error {
	in := []*lvalue{dy[0]}
	for _, v := range x.in {
		in = append(in, b.shape(v))
	}
	at := x.int("axis", 1)
	parts := b.kernels("Concat", len(x.in), func(c *call) error {
		d := c.in[0]
		a, err := axis(at, len(d.Shape))
		if err != nil {
			return err
		}
		l := linesOf(d.Shape, a)
		from := 0
		for i, t := range c.in[1:] {
			shape, err := dimsOf(c.moves().shape, t)
			if err != nil {
				return err
			}
			c.moves().shape = shape
			run := shape[a] * l.inner
			if c.wants(i) {
				z, err := c.alloc(i, graph.Float32, shape...)
				if err != nil {
					return err
				}
				copyRuns(z, d, l.outer, run, run, 0, l.n*l.inner, from)
			}
			from += run
		}
		return nil
	}, in...)
	for i, v := range x.in {
		b.add(v, parts[i])
	}
	return nil
}

// gradSplit puts the parts together, zeros where the loss reads none.
func gradSplit(b *backward, x *lnode, dy []*lvalue) error {
	for i, d := range dy {
		if d == nil {
			if x.out[i] == nil {
				return fmt.Errorf("output %d is left out", i)
			}
			dy[i] = b.kernel("zeros", func(c *call) error {
				shape, err := dimsOf(nil, c.in[0])
				if err != nil {
					return err
				}
				z, err := c.alloc(0, graph.Float32, shape...)
				if err == nil {
					clear(z.F32())
				}
				return err
			}, b.shape(x.out[i]))
		}
	}
	b.add(x.in[0], b.op("Concat", []*graph.Attr{graph.IntAttr("axis", int64(x.int("axis", 0)))}, dy...))
	return nil
}

func gradExpand(b *backward, x *lnode, dy []*lvalue) error {
	b.addBroadcast(x.in[0], dy[0])
	return nil
}

// gradGather adds the rows of dy to those of the data that they came from;
// those of a parameter where its gradient is summed.
func gradGather(b *backward, x *lnode, dy []*lvalue) error {
	data := x.in[0]
	if !b.needs(data) {
		return nil
	}
	at, k := x.int("axis", 0), b.simd
	add := func(z []float32, shape []int, c *call) error {
		a, err := axis(at, len(shape))
		if err != nil {
			return err
		}
		l := linesOf(shape, a)
		s := c.moves()
		if s.axes, err = indicesOf(s.axes, c.in[1], l.n); err != nil {
			return err
		}
		d := c.in[0].F32()
		for i := range l.outer * len(s.axes) {
			to := z[(i/len(s.axes)*l.n+s.axes[i%len(s.axes)])*l.inner:][:l.inner]
			k.Add(to, to, d[i*l.inner:(i+1)*l.inner])
		}
		return nil
	}
	if p := data.param; p > 0 {
		b.sink("Gather", func(c *call) error {
			return add(c.s.train.gradients[p-1], data.konst.Shape, c)
		}, dy[0], x.in[1])
		return nil
	}
	b.add(data, b.kernel("Gather", func(c *call) error {
		s := c.moves()
		var err error
		if s.shape, err = dimsOf(s.shape, c.in[2]); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, s.shape...)
		if err != nil {
			return err
		}
		clear(z.F32())
		return add(z.F32(), s.shape, c)
	}, dy[0], x.in[1], b.shape(data)))
	return nil
}

// gradMoved is the gradient of any operator that makes its output of elements
// of input 0: the forward kernel, run over the places of the elements, says
// where each came from. The places are kept as long as the shapes and the
// other inputs stay.
func gradMoved(b *backward, x *lnode, dy []*lvalue) error {
	if !b.needs(x.in[0]) {
		return nil
	}
	forward, err := x.ready()
	if err != nil {
		return err
	}
	type state struct {
		call    *call // of the forward kernel, on the places
		shape   []int
		seen    [][]byte // the other inputs
		dims    []int
		ordinal *Tensor
	}
	in := []*lvalue{dy[0], b.shape(x.in[0])}
	for i, v := range x.in[1:] {
		if v != nil && x.dropped[1+i] || x.op == "Pad" && i == 1 { // what is padded with comes from nowhere
			v = nil
		}
		in = append(in, v)
	}
	b.add(x.in[0], b.kernel(x.op, func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{call: &call{s: c.s, in: make([]*Tensor, len(c.in)-1), out: []*Tensor{{keep: true}}}, seen: make([][]byte, len(c.in)-2)}
			c.state = s
		}
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		same := s.ordinal != nil && slices.Equal(s.dims, s.shape)
		for i, t := range c.in[2:] {
			same = same && (t == nil || bytes.Equal(t.mem, s.seen[i]))
		}
		if !same {
			n, err := count(s.dims)
			if err != nil || n > math.MaxInt32 {
				return errors.Join(err, fmt.Errorf("%v is too large", s.dims))
			}
			places := make([]int32, n)
			for i := range places {
				places[i] = int32(i) + 1 // 0: not of the input
			}
			s.call.in[0] = FromSlice(slices.Clone(s.dims), places)
			for i, t := range c.in[2:] {
				if t != nil {
					s.call.in[1+i], s.seen[i] = t, bytes.Clone(t.mem)
				}
			}
			err = forward(s.call)
			if err == nil {
				s.ordinal = s.call.out[0].clone()
				s.shape = slices.Clone(s.dims)
			}
			s.call.tidy()
			c.s.pool.release(s.call.out[0])
			if err != nil {
				return err
			}
		}
		z, err := c.alloc(0, graph.Float32, s.dims...)
		if err != nil {
			return err
		}
		out, d := z.F32(), c.in[0].F32()
		clear(out)
		for i, p := range s.ordinal.I32() {
			if p > 0 {
				out[p-1] += d[i]
			}
		}
		return nil
	}, in...))
	return nil
}

// gradReduce covers the reductions. Every gradient is dy, spread over what was
// reduced, times something.
func gradReduce(b *backward, x *lnode, dy []*lvalue) error {
	in := x.in[0]
	if !b.needs(in) {
		return nil
	}
	axes := x.ints("axes")
	if len(x.in) > 1 && x.in[1] != nil {
		t := x.in[1].konst
		if t == nil {
			return errors.New("the axes are not constant")
		}
		var err error
		if axes, err = dimsOf(nil, t); err != nil {
			return err
		}
	}
	if len(axes) == 0 && x.bool("noop_with_empty_axes", false) {
		b.add(in, dy[0])
		return nil
	}
	spread := func(v *lvalue, mean bool) *lvalue {
		return b.kernel("spread", spreadKernel(axes, mean), v, b.shape(in))
	}
	d := spread(dy[0], x.op == "ReduceMean")
	switch x.op {
	case "ReduceSum", "ReduceMean":
	case "ReduceSumSquare":
		d = b.op("Mul", nil, b.scaled(d, 2), in)
	case "ReduceL1":
		d = b.op("Mul", nil, d, b.op("Sign", nil, in))
	case "ReduceL2":
		d = b.op("Mul", nil, d, b.op("Div", nil, in, spread(x.out[0], false)))
	case "ReduceLogSum":
		d = b.op("Div", nil, d, b.op("Exp", nil, spread(x.out[0], false)))
	case "ReduceLogSumExp":
		d = b.op("Mul", nil, d, b.op("Exp", nil, b.op("Sub", nil, in, spread(x.out[0], false))))
	case "ReduceMax", "ReduceMin":
		to := []*graph.Attr{graph.IntAttr("to", int64(graph.Float32))}
		hit := b.op("Cast", to, b.op("Equal", nil, in, spread(x.out[0], false)))
		list := make([]int64, len(axes))
		for i, a := range axes {
			list[i] = int64(a)
		}
		number := b.op("ReduceSum", nil, hit, b.constant(FromSlice([]int{len(list)}, list)))
		d = b.op("Div", nil, b.op("Mul", nil, d, hit), number)
	default:
		return fmt.Errorf("no gradient of %s", x.op)
	}
	b.add(in, d)
	return nil
}

// spreadKernel: V, shape → V, reduced from that shape along the axes (none:
// all), repeated along them; divided by the number of repeats for a mean.
func spreadKernel(axes []int, mean bool) kernel {
	type state struct {
		broadcast
		dims, kept []int
	}
	return func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		s.kept = append(s.kept[:0], s.dims...)
		for _, a := range axes {
			if a, err = axis(a, len(s.dims)); err != nil {
				return err
			}
			s.kept[a] = 1
		}
		if len(axes) == 0 {
			for i := range s.kept {
				s.kept[i] = 1
			}
		}
		if err := s.set(s.dims, s.kept); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, s.dims...)
		if err != nil || z.Len() == 0 {
			return err
		}
		out, v := z.F32(), c.in[0].F32()
		by := float32(1)
		if mean {
			by = 1 / float32(len(out)/max(len(v), 1))
		}
		for r := s.from(0, s.size); r.ok(); r.next() {
			row := out[r.at : r.at+r.n]
			from := v[r.off[1]:]
			if s.inner(1) == 0 {
				w := from[0] * by
				for i := range row {
					row[i] = w
				}
				continue
			}
			for i := range row {
				row[i] = from[i] * by
			}
		}
		return nil
	}
}

// gradRotation turns back: z₁ = x₁·c₁ − x₂·s₁, z₂ = x₂·c₂ + x₁·s₂ gives dx₁ =
// dz₁·c₁ + dz₂·s₂, dx₂ = dz₂·c₂ − dz₁·s₁, the same with −s₂ for s₁ and −s₁ for s₂.
// Where both features of a pair share their table, s₁ and s₂ are one.
func gradRotation(b *backward, x *lnode, dy []*lvalue) error {
	r := x.fused.(*rotary)
	cos, sin := x.in[1], x.in[2]
	if b.needs(cos) || b.needs(sin) {
		return errors.New("tables of cosines and sines cannot be trained")
	}
	key := backTable{sin, r.halves}
	back := b.tables[key]
	if back == nil {
		back = b.kernel("sines", func(c *call) error {
			s := c.in[0]
			if s.DType != graph.Float32 || len(s.Shape) == 0 {
				return fmt.Errorf("sines are %v%v", s.DType, s.Shape)
			}
			z, err := c.alloc(0, graph.Float32, s.Shape...)
			if err != nil {
				return err
			}
			b.simd.MulScalar(z.F32(), s.F32(), -1)
			switch n := s.Shape[len(s.Shape)-1]; {
			case r.halves == 0 || n == 1:
			case n != 2*r.halves:
				return fmt.Errorf("sines %v for %d features", s.Shape, 2*r.halves)
			default:
				for row := range slices.Chunk(z.F32(), n) {
					for i := range r.halves {
						row[i], row[r.halves+i] = row[r.halves+i], row[i]
					}
				}
			}
			return nil
		}, sin)
		b.tables[key] = back
	}
	b.add(x.in[0], b.kernel("Rotary", r.run, append([]*lvalue{dy[0], cos, back}, x.in[3:]...)...))
	return nil
}

// backTable names the sines of a rotation that turns back.
type backTable struct {
	sin    *lvalue
	halves int
}
