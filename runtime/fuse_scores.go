package runtime

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// scores is softmax(x·scale + mask) row by row, so that the scores of an
// attention pass through the cache once.
type scores struct {
	k       *simd.Kernels
	scale   float32 // 1 for none
	masked  bool
	axis    int // of the softmax
	minRank int // of the constant factor

	// The nodes one by one, for types and shapes that this kernel does not
	// take.
	links []link
}

// scores: Softmax(Add(Div(x, c), mask)), with Mul for Div, and either of the
// two inner nodes left out. The inputs of the fused node are x and the mask.
func (f *fuser) scores(x *lnode) bool {
	if x.op != "Softmax" {
		return false
	}
	s := softmaxOf(x)
	softmax, err := x.ready()
	if err != nil {
		return false
	}
	in := x.in[0]
	inputs := []*lvalue{nil}
	factor := func(v *lvalue) bool { return f.factor(v) != nil }
	var add *link
	if n := f.only(in, "Add"); n != nil {
		v, scaled, ok := split(n, factor)
		if !ok {
			scaled, v = n.in[0], n.in[1]
		}
		k, err := n.ready()
		if err != nil {
			return false
		}
		s.masked = true
		add = &link{k: k, in: []int{0, 1}}
		if n.in[1] == scaled {
			add.in = []int{1, 0}
		}
		inputs = append(inputs, v)
		in = scaled
	}
	if m := f.factor(in); m != nil {
		v, c, _ := split(m, func(v *lvalue) bool { _, ok := scalar(v); return ok })
		k, err := m.ready()
		if err != nil {
			return false
		}
		l := link{k: k, in: []int{0, constant}, c: c.konst}
		if m.in[0] == c {
			l.in = []int{constant, 0}
		}
		s.scale, s.minRank = c.konst.F32()[0], len(c.konst.Shape)
		if m.op == "Div" {
			s.scale = 1 / s.scale
		}
		s.links = append(s.links, l)
		in = v
	}
	if add != nil {
		for i, from := range add.in {
			if from == 0 && len(s.links) > 0 {
				add.in[i] = result(0)
			}
		}
		s.links = append(s.links, *add)
	}
	if len(s.links) == 0 {
		return false
	}
	s.links = append(s.links, link{k: softmax, in: []int{result(len(s.links) - 1)}})
	inputs[0] = in
	x.replace("Softmax", s.run, inputs...)
	x.fused = s
	return true
}

// softmaxOf is a Softmax by itself.
func softmaxOf(x *lnode) *scores {
	s := &scores{k: x.simd, scale: 1, axis: x.int("axis", 1)}
	if x.opset >= 13 {
		s.axis = x.int("axis", -1)
	}
	return s
}

// factor returns the node that multiplies or divides by a constant, if v is
// its result and may go. The reciprocal of a divisor must be a number of full
// precision.
func (f *fuser) factor(v *lvalue) *lnode {
	m := f.only(v, "Mul", "Div")
	if m == nil {
		return nil
	}
	if c, ok := scalar(m.in[1]); ok && (m.op == "Mul" || math.Abs(c) > 1e-30 && math.Abs(c) < 1e30) {
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
	if s.masked && len(s.links) == 2 && c.in[1].Len() > c.in[0].Len() {
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
		if !s.masked {
			s.k.MaskedSoftmax(zr, row, nil, s.scale)
			continue
		}
		m, r := c.in[st.m].F32(), st.mask.from(i*st.n, (i+1)*st.n)
		if r.n == st.n && st.mask.inner(1) == 1 {
			s.k.MaskedSoftmax(zr, row, m[r.off[1]:r.off[1]+r.n], s.scale)
			continue
		}
		s.k.MulScalar(zr, row, s.scale)
		for ; r.ok(); r.next() {
			at := r.at - i*st.n
			part := zr[at : at+r.n]
			if st.mask.inner(1) == 0 {
				s.k.AddScalar(part, part, m[r.off[1]])
			} else {
				s.k.Add(part, part, m[r.off[1]:r.off[1]+r.n])
			}
		}
		s.k.Softmax(zr, zr)
	}
}

// link is a node among those that a fused one stands for.
type link struct {
	k  kernel
	in []int   // inputs of the fused node, results of links before, or constant
	c  *Tensor // the constant
}

const constant = math.MinInt

// result is how an input of a link names what link i gave.
func result(i int) int { return -1 - i }

// chain runs nodes one after the other and gives the result of the last as
// output 0.
func (c *call) chain(links []link) error { return c.chained(links, []int{len(links) - 1}) }

// chained runs nodes one after the other and gives the results of those numbered as
// its outputs.
func (c *call) chained(links []link, outputs []int) error {
	var have []*Tensor
	defer func() {
		for _, t := range have {
			c.s.pool.release(t)
		}
	}()
	for _, l := range links {
		sub := &call{s: c.s, out: []*Tensor{{}}}
		for _, from := range l.in {
			switch {
			case from == constant:
				sub.in = append(sub.in, l.c)
			case from < 0:
				sub.in = append(sub.in, have[result(from)])
			default:
				sub.in = append(sub.in, c.in[from])
			}
		}
		have = append(have, sub.out[0])
		err := l.k(sub)
		sub.tidy()
		if err != nil {
			return err
		}
	}
	for i, from := range outputs {
		if c.wants(i) {
			c.share(i, have[from])
		}
	}
	return nil
}
