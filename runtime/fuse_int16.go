package runtime

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// convertInside lets block-circulant products in fixed point convert between
// float32 and int16 themselves, as they read and write: QuantizeInt16 before them,
// where all who read its result are such products, and DequantizeInt16 that alone
// reads theirs. The results are the same bits, and the int16 never gets to memory.
func convertInside(sc *scope, readers map[*lvalue]int) {
	type product struct {
		x  *lnode
		o  *fixed.Circulant
		in *int   // exponent of the input that it quantises
		to *lnode // its DequantizeInt16
		e  []int  // whose exponents these are
	}
	op := func(x *lnode, name string, in int) bool {
		return x != nil && x.domain == graph.LatheDomain && x.op == name && x.kernel == nil && x.like == nil &&
			len(x.in) == in && x.in[0] != nil && len(x.out) == 1 && x.out[0] != nil
	}
	goes := func(v *lvalue) bool { return v.scope == sc && !v.pinned }

	var products []*product
	reads := map[*lvalue]int{} // by products
	dequantized := map[*lvalue]*lnode{}
	for _, x := range sc.nodes {
		switch {
		case op(x, "BlockCirculantMatMulInt16", 7):
			x.known()
			if o, err := x.circulantInt16(); err == nil && o.Rounding == fixed.Once { // an error is reported where nothing is fused
				products = append(products, &product{x: x, o: o})
				reads[x.in[0]]++
			}
		case op(x, "DequantizeInt16", 2):
			dequantized[x.in[0]] = x
		}
	}
	gone := map[*lnode]bool{}
	for _, p := range products {
		x, y := p.x.in[0], p.x.out[0]
		if q := x.def; op(q, "QuantizeInt16", 2) && goes(x) && reads[x] == readers[x] {
			q.known()
			if e, err := q.shifts(1, "E", 1, -maxExponent, maxExponent); err == nil {
				exponent := int(e[0])
				p.in = &exponent
			}
		}
		if d := dequantized[y]; d != nil && goes(y) && readers[y] == 1 {
			d.known()
			if e, err := d.exponents(); err == nil && (len(e) == 1 || len(e) == p.o.Outputs()) {
				p.to, p.e = d, e
			}
		}
		o, err := p.o.Between(p.in, p.e)
		if err != nil || p.in == nil && p.to == nil {
			continue
		}
		from, to := graph.Int16, graph.Int16
		if p.in != nil {
			from, x = graph.Float32, x.def.in[0]
		}
		if p.to != nil {
			to, y = graph.Float32, p.to.out[0]
			y.def = p.x
			gone[p.to] = true
		}
		p.x.kernel, p.x.in, p.x.out = circulantInt16Kernel(o, from, to), []*lvalue{x}, []*lvalue{y}
	}
	sc.nodes = slices.DeleteFunc(sc.nodes, func(x *lnode) bool { return gone[x] })
}
