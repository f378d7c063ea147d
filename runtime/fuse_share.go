package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// shareInputs makes products of a scope that read one value and have constant
// weights one step: q, k and v of an attention are such, and the gate and the
// inputs of an MLP. Block-circulant ones in blocks of one size transform the value
// once, dense ones are one piece of work for the threads. The results are the same
// bits.
func shareInputs(sc *scope) {
	type input struct {
		x      *lvalue
		n      int // features that the weights take
		b      int // size of blocks, 0 for dense weights
		matrix bool
	}
	var order []input
	found := map[input][]*lnode{}
	for _, x := range sc.nodes {
		if x.like != nil || len(x.in) == 0 || x.in[0] == nil || x.in[0].konst != nil || len(x.out) != 1 || x.out[0] == nil {
			continue
		}
		in := input{x: x.in[0]}
		if l, ok := x.fused.(*linear); ok {
			in.n = l.depth
		} else if x.kernel != nil {
			continue
		} else if x.domain == "" && (x.op == "MatMul" || x.op == "Gemm") {
			x.known()
			w, _, transposed := linearWeight(&x.node)
			if w == nil {
				continue
			}
			if in.n = w.Shape[0]; transposed {
				in.n = w.Shape[1]
			}
			in.matrix = x.op == "Gemm"
		} else if x.kind() == graph.LatheDomain+".BlockCirculantMatMul" && len(x.in) > 1 && x.in[1] != nil && x.in[1].konst != nil && len(x.in[1].konst.Shape) == 3 {
			shape := x.in[1].konst.Shape
			in.n, in.b = shape[1]*shape[2], shape[2]
		} else {
			continue
		}
		if found[in] == nil {
			order = append(order, in)
		}
		found[in] = append(found[in], x)
	}
	gone := map[*lnode]bool{}
	for _, in := range order {
		list := found[in]
		if len(list) < 2 {
			continue
		}
		join := joinLinear
		if in.b > 0 {
			join = joinCirculant
		}
		k := join(list)
		if k == nil {
			continue // the products by themselves will report what is wrong
		}
		first := list[0]
		for _, x := range list[1:] {
			first.out = append(first.out, x.out...)
			x.out[0].def = first
			gone[x] = true
		}
		first.kernel, first.in = throughFloat32(k), first.in[:1]
	}
	sc.nodes = slices.DeleteFunc(sc.nodes, func(x *lnode) bool { return gone[x] })
}

// joinLinear is the kernel of dense products with one value, nil where one of them
// cannot be prepared.
func joinLinear(list []*lnode) kernel {
	all := &linear{}
	for _, x := range list {
		l, ok := x.fused.(*linear)
		if !ok {
			x.known()
			var err error
			if l, err = fixedLinear(&x.node); l == nil || err != nil {
				return nil
			}
		}
		all.join(l)
	}
	return all.kernel()
}

// joinCirculant is that of block-circulant ones.
func joinCirculant(list []*lnode) kernel {
	var ops []*circulant.Operator
	for _, x := range list {
		x.known()
		op, err := fixedCirculant(&x.node)
		if op == nil || err != nil {
			return nil
		}
		ops = append(ops, op)
	}
	k, err := circulantKernel(ops...)
	if err != nil {
		return nil
	}
	return k
}
