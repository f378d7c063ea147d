package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// scores is softmax(x·c + mask) row by row, so that the scores of an attention
// pass through the cache once: the operations and their order are those of
// the nodes it stands for, so are the bits.
type scores struct {
	k       *simd.Kernels
	scale   func(z, x []float32) // nil for none
	masked  bool
	axis    int // of the softmax
	minRank int // of the constant factor

	// The nodes one by one, for types and shapes that this kernel does not
	// take: every kernel with where its one or two operands come from.
	links []link
}

// link is one node of a chain.
type link struct {
	k  kernel
	in []int   // −1: what the link before gave; else an input of the fused node
	c  *Tensor // takes the place of −2
}

// scores: Softmax(Add(Div(x, c), mask)), with Mul for Div, and either of the
// two inner nodes left out.
func (f *fuser) scores(x *lnode) bool {
	if x.op != "Softmax" {
		return false
	}
	s := &scores{k: x.simd, axis: x.int("axis", 1)}
	if x.opset >= 13 {
		s.axis = x.int("axis", -1)
	}
	softmax, err := x.ready()
	if err != nil {
		return false
	}
	in := x.in[0]
	inputs := []*lvalue{nil}
	factor := func(v *lvalue) bool { return f.factor(v) != nil }
	if add := f.only(in, "Add"); add != nil {
		v, scaled, ok := split(add, factor)
		if !ok {
			scaled, v = add.in[0], add.in[1]
		}
		k, err := add.ready()
		if err != nil {
			return false
		}
		l := link{k: k, in: []int{-1, 1}}
		if add.in[1] == scaled {
			l.in = []int{1, -1}
		}
		s.masked, s.links = true, []link{l}
		inputs = append(inputs, v)
		in = scaled
	}
	if m := f.factor(in); m != nil {
		v, c, _ := split(m, func(v *lvalue) bool { _, ok := scalar(v); return ok })
		k, err := m.ready()
		if err != nil {
			return false
		}
		l := link{k: k, in: []int{-1, -2}, c: c.konst}
		if m.in[0] == c {
			l.in = []int{-2, -1}
		}
		a := c.konst.F32()[0]
		s.scale, s.minRank = func(z, x []float32) { s.k.MulScalar(z, x, a) }, len(c.konst.Shape)
		if m.op == "Div" {
			s.scale = func(z, x []float32) { s.k.DivScalar(z, x, a) }
		}
		s.links = slices.Insert(s.links, 0, l)
		in = v
	}
	if len(s.links) == 0 {
		return false
	}
	s.links = append(s.links, link{k: softmax, in: []int{-1}})
	inputs[0] = in
	x.replace("Softmax", s.run, inputs...)
	return true
}

// factor returns the node that multiplies or divides by a constant, if v is
// its result and may go.
func (f *fuser) factor(v *lvalue) *lnode {
	m := f.only(v, "Mul", "Div")
	if m == nil {
		return nil
	}
	if _, ok := scalar(m.in[1]); ok {
		return m
	}
	if _, ok := scalar(m.in[0]); ok && m.op == "Mul" {
		return m
	}
	return nil
}

type scoresState struct {
	mask broadcast
	n    int
	x, m int // which input is the scores, and which the mask
}

func (s *scores) run(c *call) error {
	st, ok := c.state.(*scoresState)
	if !ok {
		st = &scoresState{}
		c.state = st
	}
	st.x, st.m = 0, 1
	if s.masked && s.scale == nil && c.in[1].Len() > c.in[0].Len() {
		st.x, st.m = 1, 0 // a sum does not say which is which
	}
	x := c.in[st.x]
	r := len(x.Shape)
	plain := x.DType == graph.Float32 && r > 0 && r >= s.minRank && (s.axis == -1 || s.axis == r-1)
	if plain && s.masked {
		mask := c.in[st.m]
		plain = mask.DType == graph.Float32 && st.mask.set(x.Shape, mask.Shape) == nil &&
			len(st.mask.shape) == r && st.mask.size == x.Len()
	}
	if !plain {
		return c.chain(s.links)
	}
	if _, err := c.over(0, st.x, graph.Float32, x.Shape...); err != nil || x.Len() == 0 {
		return err
	}
	st.n = x.Shape[r-1]
	c.parallel(x.Len()/st.n, 1+functionGrain/st.n, s.rows)
	return nil
}

func (s *scores) rows(c *call, lo, hi int) {
	st := c.state.(*scoresState)
	z, x := c.out[0].F32(), c.in[st.x].F32()
	for i := lo; i < hi; i++ {
		zr, row := z[i*st.n:(i+1)*st.n], x[i*st.n:(i+1)*st.n]
		if s.scale != nil {
			s.scale(zr, row)
			row = zr
		}
		if s.masked {
			m, y := c.in[st.m].F32(), &st.mask
			for r := y.from(i*st.n, (i+1)*st.n); r.ok(); r.next() {
				at := r.at - i*st.n
				if y.inner(1) == 0 {
					s.k.AddScalar(zr[at:at+r.n], row[at:at+r.n], m[r.off[1]])
				} else {
					s.k.Add(zr[at:at+r.n], row[at:at+r.n], m[r.off[1]:r.off[1]+r.n])
				}
			}
			row = zr
		}
		s.k.Softmax(zr, row)
	}
}

// chain runs nodes one after the other, the first on input 0, and gives the
// result of the last as output 0.
func (c *call) chain(links []link) error {
	have := c.in[0]
	for i, l := range links {
		sub := &call{s: c.s, out: []*Tensor{{}}}
		for _, from := range l.in {
			switch from {
			case -1:
				sub.in = append(sub.in, have)
			case -2:
				sub.in = append(sub.in, l.c)
			default:
				sub.in = append(sub.in, c.in[from])
			}
		}
		err := l.k(sub)
		sub.tidy()
		if i > 0 {
			c.s.pool.release(have)
		}
		have = sub.out[0]
		if err != nil {
			c.s.pool.release(have)
			return err
		}
	}
	c.share(0, have)
	c.s.pool.release(have)
	return nil
}
