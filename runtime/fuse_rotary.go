package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// rotary is the rotation of pairs of features by angles that the positions
// give, row by row: Su et al., RoFormer, 2021, equation 34. The operations and
// their order are those of the nodes, so are the bits.
type rotary struct {
	halves int   // the pairs are of feature i and i + halves; 0: of 2i and 2i + 1
	axes   []int // all of which have to be the last
	links  []link
}

// rotaryPairs: for x [..., d/2, 2] and cosines and sines [..., d/2],
// Concat(Unsqueeze(a·cos − b·sin), Unsqueeze(a·sin + b·cos)) with a and b taken
// from x by Gather.
func (f *fuser) rotaryPairs(x *lnode) bool {
	if x.op != "Concat" || len(x.in) != 2 || x.int("axis", 0) != -1 {
		return false
	}
	var terms [2]*lnode
	for i, op := range []string{"Sub", "Add"} {
		u := f.only(x.in[i], "Unsqueeze")
		if u == nil || !lastAxis(u) {
			return false
		}
		if terms[i] = f.only(u.in[0], op); terms[i] == nil {
			return false
		}
	}
	a, cos, ok := f.factored(terms[0].in[0], nil)
	if !ok {
		return false
	}
	var b, sin *lvalue
	if half(a) == nil { // which factor is which
		a, cos = cos, a
	}
	if b, sin, ok = f.factored(terms[0].in[1], nil); !ok {
		return false
	}
	if half(b) == nil {
		b, sin = sin, b
	}
	if half(a) == nil || half(b) == nil || half(a).in[0] != half(b).in[0] || f.readers[a] != 2 || f.readers[b] != 2 || a.pinned || b.pinned ||
		!isIndex(half(a), 0) || !isIndex(half(b), 1) || f.is(a, "Gather") == nil || f.is(b, "Gather") == nil {
		return false
	}
	v, w := terms[1].in[0], terms[1].in[1]
	if _, _, ok := f.factored(v, a); !ok {
		v, w = w, v
	}
	if _, s, ok := f.factored(v, a); !ok || s != sin {
		return false
	}
	if _, c, ok := f.factored(w, b); !ok || c != cos {
		return false
	}
	n := []*lnode{half(a), half(b), terms[0].in[0].def, terms[0].in[1].def, terms[0], v.def, w.def, terms[1], x.in[0].def, x.in[1].def, x}
	return f.rotation(x, &rotary{axes: []int{half(a).int("axis", 0), half(b).int("axis", 0)}}, []*lvalue{half(a).in[0], cos, sin}, n)
}

// rotaryHalves: x·cos + Concat(−x₂, x₁)·sin with x₁ and x₂ the halves of x,
// cut by Slice along the last axis.
func (f *fuser) rotaryHalves(x *lnode) bool {
	if x.op != "Add" {
		return false
	}
	for i := range 2 {
		turned := f.only(x.in[i], "Mul")
		straight := f.only(x.in[1-i], "Mul")
		if turned == nil || straight == nil {
			continue
		}
		v, sin, ok := split(turned, func(v *lvalue) bool { return f.only(v, "Concat") == nil })
		if !ok {
			continue
		}
		c := f.only(v, "Concat")
		if c == nil || len(c.in) != 2 {
			continue
		}
		neg := f.only(c.in[0], "Neg")
		if neg == nil {
			continue
		}
		low, high := f.only(c.in[1], "Slice"), f.only(neg.in[0], "Slice")
		if low == nil || high == nil || low.in[0] != high.in[0] {
			continue
		}
		at, from, to := cut(low)
		at2, from2, to2 := cut(high)
		in := low.in[0]
		if at == 0 || at2 == 0 || from != 0 || to != from2 || to <= 0 || to2 < 2*to {
			continue
		}
		same, cos, ok := f.factored(x.in[1-i], in)
		if !ok || same != in {
			continue
		}
		return f.rotation(x, &rotary{halves: to, axes: []int{at, at2, c.int("axis", 0)}}, []*lvalue{in, cos, sin}, []*lnode{low, high, neg, c, turned, straight, x})
	}
	return false
}

// factored returns the factors of a product that may go; the first is want, if
// that is not nil.
func (f *fuser) factored(v, want *lvalue) (x, y *lvalue, ok bool) {
	m := f.only(v, "Mul")
	switch {
	case m == nil:
		return nil, nil, false
	case want == nil || m.in[0] == want:
		return m.in[0], m.in[1], true
	case m.in[1] == want:
		return want, m.in[0], true
	}
	return nil, nil, false
}

// half returns the Gather that computes v.
func half(v *lvalue) *lnode {
	if v.def == nil || v.def.op != "Gather" || !v.def.regular() {
		return nil
	}
	return v.def
}

// isIndex reports whether a Gather takes the element i, and leaves the axis out.
func isIndex(g *lnode, i int64) bool {
	t := g.in[1].konst
	return t != nil && t.DType == graph.Int64 && len(t.Shape) == 0 && t.I64()[0] == i
}

// lastAxis reports whether an Unsqueeze adds a last dimension.
func lastAxis(u *lnode) bool {
	axes := u.ints("axes")
	if len(u.in) > 1 && u.in[1] != nil {
		t := u.in[1].konst
		if t == nil || t.DType != graph.Int64 {
			return false
		}
		axes = nil
		for _, a := range t.I64() {
			axes = append(axes, int(a))
		}
	}
	return len(axes) == 1 && (axes[0] == -1 || u.in[0].rank >= 0 && axes[0] == u.in[0].rank)
}

// cut returns the axis and the bounds of a Slice along one axis, in steps of
// one; 0, 0, 0 for any other.
func cut(s *lnode) (axis, from, to int) {
	if len(s.in) < 4 {
		return 0, 0, 0
	}
	var list [3]int
	for i, v := range s.in[1:] {
		if v == nil || v.konst == nil || v.konst.DType != graph.Int64 || v.konst.Len() != 1 || i == 3 && v.konst.I64()[0] != 1 {
			return 0, 0, 0
		}
		if i < 3 {
			list[i] = int(min(v.konst.I64()[0], 1<<30))
		}
	}
	return list[2], list[0], list[1]
}

// rotation makes x, the last of the nodes, the rotation of in[0] by the
// cosines in[1] and the sines in[2].
func (f *fuser) rotation(x *lnode, r *rotary, in []*lvalue, nodes []*lnode) bool {
	if f.moved[in[1]] || f.moved[in[2]] {
		return false // the tables have no gradient
	}
	made := map[*lvalue]int{}
	for i, v := range in {
		made[v] = i
	}
	inputs := slices.Clone(in)
	for i, n := range nodes {
		k, err := n.ready()
		if err != nil {
			return false
		}
		l := link{k: k}
		for _, v := range n.in {
			at, ok := made[v]
			if !ok { // an index, an axis or a bound
				at = len(inputs)
				made[v], inputs = at, append(inputs, v)
			}
			l.in = append(l.in, at)
		}
		r.links = append(r.links, l)
		made[n.out[0]] = result(i)
	}
	x.replace("Rotary", r.run, inputs...)
	x.fused = r
	return true
}

type rotaryState struct {
	rows broadcast
	n    int // features of a row
}

func (r *rotary) run(c *call) error {
	s, ok := c.state.(*rotaryState)
	if !ok {
		s = &rotaryState{}
		c.state = s
	}
	x, cos, sin := c.in[0], c.in[1], c.in[2]
	if !r.set(s, x, cos, sin) {
		return c.chain(r.links)
	}
	z, err := c.alloc(0, graph.Float32, x.Shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	c.parallel(s.rows.size, 1+elementGrain/s.n, r.rotate)
	return nil
}

// set works out the shapes; it reports false where only the nodes will do.
func (r *rotary) set(s *rotaryState, x, cos, sin *Tensor) bool {
	own := 1 // dims of x that make a row
	if r.halves == 0 {
		own = 2
	}
	rank := len(x.Shape)
	if rank < own || slices.ContainsFunc(r.axes, func(a int) bool { return a != -1 && a != rank-1 }) || len(cos.Shape) == 0 || len(sin.Shape) == 0 ||
		x.DType != graph.Float32 || cos.DType != graph.Float32 || sin.DType != graph.Float32 {
		return false
	}
	wide := x.Shape[rank-1]
	s.n = wide
	if r.halves == 0 {
		if wide != 2 {
			return false
		}
		wide = x.Shape[rank-2]
		s.n = 2 * wide
	} else if wide != 2*r.halves {
		return false
	}
	last := func(t *Tensor) (lead []int, n int) { return t.Shape[:len(t.Shape)-1], t.Shape[len(t.Shape)-1] }
	leadCos, nc := last(cos)
	leadSin, ns := last(sin)
	if nc != wide || ns != wide || wide == 0 || len(leadCos) > rank-own || len(leadSin) > rank-own {
		return false
	}
	if s.rows.set(x.Shape[:rank-own], leadCos, leadSin) != nil || s.rows.size*s.n != x.Len() {
		return false
	}
	return true
}

// rotate computes rows [lo, hi).
func (r *rotary) rotate(c *call, lo, hi int) {
	s := c.state.(*rotaryState)
	x, z := c.in[0].F32(), c.out[0].F32()
	n, wide := s.n, s.n/2
	if r.halves > 0 {
		wide = n
	}
	for at := s.rows.from(lo, hi); at.ok(); at.next() {
		dc, ds := s.rows.inner(1), s.rows.inner(2)
		for i := range at.n {
			cos, sin := c.in[1].F32()[(at.off[1]+i*dc)*wide:][:wide], c.in[2].F32()[(at.off[2]+i*ds)*wide:][:wide]
			row := (at.at + i) * n
			if r.halves > 0 {
				rotateHalves(z[row:row+n], x[row:row+n], cos, sin)
			} else {
				rotatePairs(z[row:row+n], x[row:row+n], cos, sin)
			}
		}
	}
}

func rotatePairs(z, x, cos, sin []float32) {
	sin = sin[:len(cos)]
	x, z = x[:2*len(cos)], z[:2*len(cos)]
	for i, c := range cos {
		a, b, s := x[2*i], x[2*i+1], sin[i]
		z[2*i] = float32(a*c) - float32(b*s)
		z[2*i+1] = float32(a*s) + float32(b*c)
	}
}

func rotateHalves(z, x, cos, sin []float32) {
	h := len(x) / 2
	x1, x2, z1, z2 := x[:h], x[h:][:h], z[:h], z[h:][:h]
	c1, c2, s1, s2 := cos[:h], cos[h:][:h], sin[:h], sin[h:][:h]
	for i, a := range x1 {
		b := x2[i]
		z1[i] = float32(a*c1[i]) - float32(b*s1[i])
		z2[i] = float32(b*c2[i]) + float32(a*s2[i])
	}
}
