package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// elementwise is the method of a fused kernel that computes every element of its input
// by itself, and gives the result at least that rank.
type elementwise struct {
	f    func(z, x []float32)
	rank int
}

// circulantChains makes two block-circulant products with constant weights, of which
// the second alone reads an activation of the first, one step: the MLP of a
// transformer. The results are the same bits.
func (f *fuser) circulantChains(sc *scope) {
	f.scope = sc
	gone := map[*lnode]bool{}
	products := map[*lnode]*circulant.Operator{} // that were prepared
	for _, x := range sc.nodes {
		f.circulantChain(x, products, gone)
	}
	for x, o := range products {
		if x.kernel == nil && !gone[x] { // in no chain
			if k, err := circulantKernel(o); err == nil {
				x.kernel, x.in = throughFloat32(k), x.in[:1]
			}
		}
	}
	sc.nodes = slices.DeleteFunc(sc.nodes, func(x *lnode) bool { return gone[x] })
}

func (f *fuser) circulantChain(x *lnode, products map[*lnode]*circulant.Operator, gone map[*lnode]bool) {
	// before is the node that computes v, which nothing else reads.
	before := func(v *lvalue) *lnode {
		if v == nil || v.konst != nil || v.scope != f.scope || v.def == nil || f.readers[v] != 1 || v.pinned || len(v.def.out) != 1 || v.def.like != nil {
			return nil
		}
		return v.def
	}
	product := func(x *lnode) *circulant.Operator {
		if x == nil || x.kind() != graph.LatheDomain+".BlockCirculantMatMul" || x.kernel != nil || x.like != nil || len(x.out) != 1 {
			return nil
		}
		if o := products[x]; o != nil {
			return o
		}
		x.known()
		o, err := fixedCirculant(&x.node)
		if o == nil || err != nil {
			return nil // the product by itself will report it
		}
		products[x] = o
		return o
	}
	if len(x.in) == 0 {
		return
	}
	act := before(x.in[0])
	g := pointwise(act)
	if g == nil {
		return
	}
	first := before(act.in[0])
	o1, o2 := product(first), product(x)
	if o1 == nil || o2 == nil {
		return
	}
	c, err := circulant.NewChain(o1, o2, g)
	if err != nil || !c.Pays() {
		return
	}
	chain := &circulantChain{c: c}
	if chain.parts[1] = act.kernel; act.kernel == nil {
		if chain.parts[1], err = act.ready(); err != nil {
			return
		}
	}
	for i, o := range []*circulant.Operator{o1, o2} {
		k, err := circulantKernel(o)
		if err != nil {
			return
		}
		chain.parts[2*i] = throughFloat32(k)
	}
	x.replace("BlockCirculantMatMul+"+act.op+"+BlockCirculantMatMul", chain.run, first.in[0])
	x.out = append(x.out, nil, nil)
	gone[first], gone[act] = true, true
}

// pointwise is what a node computes of every element of its one input, nil where it
// is no such node.
func pointwise(x *lnode) func(z, x []float32) {
	switch {
	case x == nil || len(x.in) != 1 || x.domain != "":
		return nil
	case x.kernel != nil:
		if e, ok := x.fused.(elementwise); ok && e.rank <= 1 {
			return e.f
		}
		return nil
	case x.op == "Relu":
		return x.simd.Relu
	case x.op == "Gelu":
		x.known()
		if x.str("approximate", "none") == "tanh" {
			return x.simd.GeluTanh
		}
		return x.simd.Gelu
	}
	return nil
}

// circulantChain is the kernel of a chain. Its outputs after the first are not wanted:
// what is between the parts, where they run one by one, for types and shapes that the
// chain does not take.
type circulantChain struct {
	c     *circulant.Chain
	parts [3]kernel
}

type chainState struct {
	c        *circulant.Chain
	x, y, ws []float32
	tokens   int
	shape    []int
}

func (k *circulantChain) run(c *call) error {
	x := c.in[0]
	m, n := k.c.Dims()
	last := len(x.Shape) - 1
	if x.DType != graph.Float32 || last < 0 || x.Shape[last] != n {
		return k.oneByOne(c)
	}
	s, ok := c.state.(*chainState)
	if !ok {
		s = &chainState{c: k.c}
		c.state = s
	}
	var err error
	if s.tokens, err = count(x.Shape[:last]); err != nil {
		return err
	}
	s.shape = append(append(s.shape[:0], x.Shape[:last]...), m)
	y, err := c.alloc(0, graph.Float32, s.shape...)
	if err != nil {
		return err
	}
	s.x, s.y = x.F32(), y.F32()
	c.flops += k.c.FLOPs(s.tokens)
	if s.ws, err = scratch[float32](c, k.c.Workspace()*c.workers()); err != nil {
		return err
	}
	c.parallelWorkers((s.tokens+k.c.Tile()-1)/k.c.Tile(), 1, chainTiles)
	return nil
}

func chainTiles(c *call, worker, lo, hi int) {
	s := c.state.(*chainState)
	size, tile := s.c.Workspace(), s.c.Tile()
	s.c.Apply(s.y, s.x, lo*tile, min(s.tokens, hi*tile), s.ws[worker*size:][:size])
}

func (k *circulantChain) oneByOne(c *call) error {
	in := c.in
	for i, part := range k.parts {
		out := c.out[:1]
		if i < 2 {
			out = []*Tensor{c.target(i + 1)}
		}
		sub := &call{s: c.s, in: in, out: out}
		err := part(sub)
		c.flops += sub.flops
		sub.tidy()
		if err != nil {
			return err
		}
		in = out
	}
	return nil
}
