package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// residualNorms makes the Add that ends a residual branch and the norm of its sum
// one step, which goes over the rows once. The sum is kept where others read it, as
// they do where norms come first. The results are the same bits.
func (f *fuser) residualNorms(sc *scope) {
	f.scope = sc
	gone := map[*lnode]bool{}
	for _, x := range sc.nodes {
		gone[x] = f.residualNorm(x)
	}
	sc.nodes = slices.DeleteFunc(sc.nodes, func(x *lnode) bool { return gone[x] })
}

// residualNorm: LayerNormalization(Add(x, y)), or RMSNormalization, in the place of
// the Add, of which others may read the sum before the norm comes.
func (f *fuser) residualNorm(x *lnode) bool {
	if x.domain != "" || !slices.Contains([]string{"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}, x.op) ||
		len(x.in) < 2 || len(x.out) != 1 || x.like != nil {
		return false
	}
	sum := x.in[0]
	add := f.is(sum, "Add")
	if add == nil || add.like != nil || add.in[0].konst != nil || add.in[1].konst != nil {
		return false
	}
	r := &residualNorm{axis: x.int("axis", -1), skipNorm: skipNorm{k: x.simd, eps: x.float("epsilon", 1e-5), rms: x.op != "LayerNormalization"}}
	for i, to := range []*[]float32{&r.gamma, &r.beta} {
		if i+1 >= len(x.in) || i > 0 && x.in[i+1] == nil {
			continue
		}
		v := vector(x.in[i+1])
		if v == nil || i > 0 && v.Len() != len(r.gamma) {
			return false
		}
		*to = v.F32()
		r.scales = append(r.scales, v)
	}
	var err error
	if r.add, err = add.ready(); err != nil {
		return false
	}
	if r.norm = x.kernel; r.norm == nil {
		if r.norm, err = x.ready(); err != nil {
			return false
		}
	}
	add.replace("Add+"+x.op, r.run, add.in...)
	add.out = []*lvalue{x.out[0], sum}
	if f.readers[sum] == 1 && !sum.pinned {
		add.out[1] = nil
	}
	x.out[0].def = add
	return true
}

type residualNorm struct {
	skipNorm
	axis int

	// The nodes one by one, for types and shapes that this kernel does not take.
	add, norm kernel
	scales    []*Tensor
}

// run: x and y → the norm of x + y, the sum.
func (r *residualNorm) run(c *call) error {
	x, y := c.in[0], c.in[1]
	last := len(x.Shape) - 1
	if x.DType != graph.Float32 || y.DType != graph.Float32 || !repeats(y.Shape, x.Shape) || r.axis != -1 && r.axis != last || x.Shape[last] != len(r.gamma) {
		return r.parts(c)
	}
	s, ok := c.state.(*skipNorm)
	if !ok {
		s = &skipNorm{}
		c.state = s
	}
	*s = r.skipNorm
	s.n, s.repeat = len(r.gamma), y.Len()
	return s.run(c, x.Shape, x.F32(), y.F32(), 1)
}

func (r *residualNorm) parts(c *call) error {
	sum := c.target(1)
	for _, sub := range []*call{
		{s: c.s, in: c.in, out: []*Tensor{sum}},
		{s: c.s, in: append([]*Tensor{sum}, r.scales...), out: c.out[:1]},
	} {
		k := r.add
		if sub.in[0] == sum {
			k = r.norm
		}
		err := k(sub)
		sub.tidy()
		if err != nil {
			return err
		}
	}
	return nil
}
