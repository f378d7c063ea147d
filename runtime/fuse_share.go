package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// shareTransforms makes the block-circulant products of a scope that read one
// value, with constant weights in blocks of one size, one step, which transforms
// the value once. q, k and v of an attention are such, and the gate and the
// inputs of an MLP. The results are the same bits.
func shareTransforms(sc *scope) {
	type input struct {
		x    *lvalue
		n, b int
	}
	var order []input
	found := map[input][]*lnode{}
	for _, x := range sc.nodes {
		if x.kind() != graph.LatheDomain+".BlockCirculantMatMul" || x.kernel != nil || x.like != nil ||
			len(x.in) < 2 || len(x.in) > 3 || x.in[0] == nil || x.in[0].konst != nil || len(x.out) != 1 || x.out[0] == nil {
			continue
		}
		w := x.in[1]
		if w == nil || w.konst == nil || len(w.konst.Shape) != 3 {
			continue
		}
		in := input{x.in[0], w.konst.Shape[1] * w.konst.Shape[2], w.konst.Shape[2]}
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
		var ops []*circulant.Operator
		for _, x := range list {
			x.known()
			op, err := fixedCirculant(&x.node)
			if op == nil || err != nil {
				break // as the products by themselves will report
			}
			ops = append(ops, op)
		}
		if len(ops) < len(list) {
			continue
		}
		k, err := circulantKernel(ops...)
		if err != nil {
			continue
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
