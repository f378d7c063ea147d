package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// fusions are tried in this order, each over all nodes. None changes more than
// the rounding of intermediate results, and none swallows a value that a
// probe, an output or another node reads.
var fusions = []struct {
	name string
	fire func(f *fuser, x *lnode) bool
}{
	{"layer-norm", (*fuser).layerNorm},
	{"rms-norm", (*fuser).rmsNorm}, // after layer-norm, which ends in one
	{"gelu", (*fuser).gelu},
	{"silu", (*fuser).silu},
	{"scaled-conv", (*fuser).scaledConv},
	{"conv-end", (*fuser).convEnd}, // after scaled-conv, which leaves a Conv
	{"circulant-conv-end", (*fuser).circulantConvEnd},
	{"conv-sum", (*fuser).convSum}, // after conv-end, which takes sums that are limited
	{"bias", (*fuser).bias},        // after layer-norm, whose last Add could be one
	{"scores", (*fuser).scores},
	{"attention", (*fuser).attention}, // which is made of scores
	{"context", (*fuser).context},
	{"rotary pairs", (*fuser).rotaryPairs},
	{"rotary halves", (*fuser).rotaryHalves},
}

// fuser matches idioms in one scope, from their last node backwards.
type fuser struct {
	readers map[*lvalue]int
	scope   *scope
	moved   map[*lvalue]bool // by parameters, in training
}

// fuse rewrites a scope and the scopes in it, with the fusions of those names
// or, for nil, all. In training, moved has the values that parameters move.
func fuse(sc *scope, only []string, moved map[*lvalue]bool) {
	for _, rule := range fusions {
		if only != nil && !slices.Contains(only, rule.name) {
			continue
		}
		mark(sc)
		prune(sc)
		f := &fuser{readers: map[*lvalue]int{}, moved: moved}
		f.count(sc)
		eachScope(sc, func(s *scope) {
			f.scope = s
			for _, x := range s.nodes {
				if x.regular() {
					rule.fire(f, x)
				}
			}
		})
	}
	if only == nil {
		mark(sc)
		prune(sc)
		f := &fuser{readers: map[*lvalue]int{}}
		f.count(sc)
		eachScope(sc, func(s *scope) { convertInside(s, f.readers) })
		eachScope(sc, shareInputs)
		clear(f.readers)
		f.count(sc)
		eachScope(sc, f.residualNorms)
		eachScope(sc, f.circulantChains)
	}
}

func eachScope(sc *scope, f func(*scope)) {
	f(sc)
	for _, x := range sc.nodes {
		for _, s := range x.scopes {
			eachScope(s, f)
		}
	}
}

// count sets how many inputs of nodes read each value; an output counts as
// more than one.
func (f *fuser) count(sc *scope) {
	eachScope(sc, func(s *scope) {
		for _, v := range s.outputs {
			f.readers[v] += 2
		}
		for _, x := range s.nodes {
			for _, v := range x.in {
				if v != nil {
					f.readers[v]++
				}
			}
		}
	})
}

// prune drops the nodes that nothing needs, so that they count as no readers.
func prune(sc *scope) {
	sc.nodes = slices.DeleteFunc(sc.nodes, func(x *lnode) bool { return !x.live })
	for _, x := range sc.nodes {
		for _, s := range x.scopes {
			prune(s)
		}
	}
}

// is reports whether v is computed in this scope by one of the operators of
// the default domain.
func (f *fuser) is(v *lvalue, ops ...string) *lnode {
	if v == nil || v.konst != nil || v.scope != f.scope || v.def == nil {
		return nil
	}
	if x := v.def; slices.Contains(ops, x.op) && x.regular() {
		return x
	}
	return nil
}

// arity has the operators that fusions look at.
var arity = map[string]int{
	"Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "Pow": 2, "MatMul": 2,
	"Sqrt": 1, "Reciprocal": 1, "Erf": 1, "Tanh": 1, "Sigmoid": 1, "ReduceMean": 1, "Softmax": 1, "Transpose": 1,
	"Conv": 2, "BatchNormalization": 5, "Relu": 1, "Clip": 1,
	"Concat": 2, "Gather": 2, "Neg": 1, "Slice": 1, "Unsqueeze": 1,
}

// optional has those of them that take more inputs.
var optional = map[string]bool{"ReduceMean": true, "Conv": true, "Clip": true, "Slice": true, "Unsqueeze": true}

// regular reports whether x is one of those, with the inputs and the output
// that it has to have; what is not is for its kernel to refuse.
func (x *lnode) regular() bool {
	n := arity[x.op]
	if n == 0 || x.domain != "" || x.kernel != nil || len(x.in) < n || len(x.out) != 1 || x.out[0] == nil {
		return false
	}
	if len(x.in) > n && !optional[x.op] {
		return false
	}
	return !slices.Contains(x.in[:n], nil)
}

// only is is for a value that may go: its one reader is the idiom itself.
func (f *fuser) only(v *lvalue, ops ...string) *lnode {
	if x := f.is(v, ops...); x != nil && f.readers[v] == 1 && !v.pinned {
		return x
	}
	return nil
}

// scalar returns the value of a float constant of one element.
func scalar(v *lvalue) (float64, bool) {
	if v == nil || v.konst == nil || v.konst.DType != graph.Float32 || v.konst.Len() != 1 {
		return 0, false
	}
	return float64(v.konst.F32()[0]), true
}

// near compares constants that exporters write with float32 precision.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*math.Abs(b) }

// vector returns a constant that is a list of floats.
func vector(v *lvalue) *Tensor {
	if v == nil || v.konst == nil || v.konst.DType != graph.Float32 || len(v.konst.Shape) != 1 {
		return nil
	}
	return v.konst
}

// split returns the operands of a two-operand node such that pred holds for
// the second.
func split(x *lnode, pred func(v *lvalue) bool) (other, match *lvalue, ok bool) {
	if x == nil || len(x.in) != 2 || x.in[0] == nil || x.in[1] == nil {
		return nil, nil, false
	}
	if pred(x.in[1]) {
		return x.in[0], x.in[1], true
	}
	if pred(x.in[0]) {
		return x.in[1], x.in[0], true
	}
	return nil, nil, false
}

// replace makes x a node of another kind with the given inputs.
func (x *lnode) replace(kind string, k kernel, in ...*lvalue) {
	x.op, x.domain, x.attrs, x.in, x.kernel = kind, "", nil, in, k
}

// bias: Add(MatMul(a, W), b) with constant W [k, n] and b [n].
func (f *fuser) bias(x *lnode) bool {
	if x.op != "Add" {
		return false
	}
	b, v, ok := split(x, func(v *lvalue) bool { return f.only(v, "MatMul") != nil })
	if !ok {
		return false
	}
	m, bias := v.def, vector(b)
	w := m.in[1]
	if bias == nil || w == nil || w.konst == nil || w.konst.DType != graph.Float32 || len(w.konst.Shape) != 2 ||
		w.konst.Len() == 0 || w.konst.Shape[1] != bias.Len() {
		return false
	}
	l := newLinear(x.simd, w.konst, false, bias.F32())
	x.replace("MatMul+Add", l.kernel(), m.in[0])
	x.fused = l
	return true
}

// factors flattens a product: x, y, … of the Mul and Div tree that ends in v,
// inner nodes having no other reader, and the product of its constant factors
// with the highest rank among them.
type factors struct {
	values []*lvalue
	scale  float64
	rank   int
}

func (f *fuser) factors(v *lvalue, out *factors) {
	if c, ok := scalar(v); ok {
		out.scale *= c
		out.rank = max(out.rank, len(v.konst.Shape))
		return
	}
	x := f.only(v, "Mul", "Div")
	if x == nil {
		out.values = append(out.values, v)
		return
	}
	f.operands(x, out)
}

func (f *fuser) operands(x *lnode, out *factors) {
	if x.op == "Div" {
		c, ok := scalar(x.in[1])
		if !ok {
			out.values = append(out.values, x.out[0])
			return
		}
		f.factors(x.in[0], out)
		out.scale /= c
		out.rank = max(out.rank, len(x.in[1].konst.Shape))
		return
	}
	f.factors(x.in[0], out)
	f.factors(x.in[1], out)
}

// product returns the factors of a Mul.
func (f *fuser) product(x *lnode) factors {
	out := factors{scale: 1}
	f.operands(x, &out)
	return out
}

// gelu: ½·x·(1 + erf(x/√2)), or with tanh(√(2/π)·(x + 0.044715·x³)) for the
// error function, in any order of the factors.
func (f *fuser) gelu(x *lnode) bool {
	if x.op != "Mul" {
		return false
	}
	p := f.product(x)
	if len(p.values) != 2 || !near(p.scale, 0.5) {
		return false
	}
	for i, v := range p.values {
		in := p.values[1-i]
		add := f.only(v, "Add")
		u, c, ok := split(add, func(v *lvalue) bool { s, ok := scalar(v); return ok && s == 1 })
		if !ok {
			continue
		}
		rank := max(p.rank, len(c.konst.Shape))
		var g func(z, x []float32)
		approximate := "none"
		if erf := f.only(u, "Erf"); erf != nil {
			q := factors{scale: 1}
			f.factors(erf.in[0], &q)
			if len(q.values) != 1 || q.values[0] != in || !near(q.scale, math.Sqrt(0.5)) {
				continue
			}
			rank, g = max(rank, q.rank), x.simd.Gelu
		} else if tanh := f.only(u, "Tanh"); tanh != nil {
			r, ok := f.geluArgument(tanh.in[0], in)
			if !ok {
				continue
			}
			rank, g, approximate = max(rank, r), x.simd.GeluTanh, "tanh"
		} else {
			continue
		}
		x.replace("Gelu", raised(g, rank), in)
		x.fused = elementwise{g, rank}
		x.attrs = []*graph.Attr{graph.StringAttr("approximate", approximate)}
		return true
	}
	return false
}

// geluArgument matches √(2/π)·(x + 0.044715·x³) and √(2/π)·x·(1 + 0.044715·x²).
func (f *fuser) geluArgument(v, x *lvalue) (rank int, ok bool) {
	p := factors{scale: 1}
	f.factors(v, &p)
	if !near(p.scale, math.Sqrt(2/math.Pi)) {
		return 0, false
	}
	for i, v := range p.values {
		add := f.only(v, "Add")
		if add == nil {
			continue
		}
		rest := slices.Delete(slices.Clone(p.values), i, i+1)
		for j := range 2 {
			first, q := add.in[j], factors{scale: 1}
			f.factors(add.in[1-j], &q)
			power := 0
			for _, v := range q.values {
				if v == x {
					power++
				} else if pow := f.only(v, "Pow"); pow != nil && pow.in[0] == x {
					if e, ok := scalar(pow.in[1]); ok && (e == 2 || e == 3) {
						power += int(e)
						q.rank = max(q.rank, len(pow.in[1].konst.Shape))
					} else {
						power = -9
					}
				} else {
					power = -9
				}
			}
			one, isOne := scalar(first)
			rank := max(p.rank, q.rank)
			switch {
			case !near(q.scale, 0.044715):
			case power == 3 && first == x && len(rest) == 0:
				return rank, true
			case power == 2 && isOne && one == 1 && len(rest) == 1 && rest[0] == x:
				return max(rank, len(first.konst.Shape)), true
			}
		}
	}
	return 0, false
}

// raised is a function of one operand whose result has at least a rank, as
// constants of shape [1] make it.
func raised(g func(z, x []float32), rank int) kernel {
	k := unary(g, functionGrain)
	return byType{graph.Float32: func(c *call) error {
		if err := k(c); err != nil {
			return err
		}
		for len(c.out[0].Shape) < rank {
			c.out[0].Shape = slices.Insert(c.out[0].Shape, 0, 1)
		}
		return nil
	}}.kernel(0)
}

// silu: x·sigmoid(x).
func (f *fuser) silu(x *lnode) bool {
	if x.op != "Mul" {
		return false
	}
	in, v, ok := split(x, func(v *lvalue) bool { return f.only(v, "Sigmoid") != nil })
	if !ok || v.def.in[0] != in {
		return false
	}
	// The type is not known here: a type without the vector kernel takes the
	// formula.
	sigmoid := func(v float64) float64 { return v / (1 + math.Exp(-v)) }
	x.replace("Silu", throughFloat32(byType{
		graph.Float32: unary(x.simd.Silu, functionGrain),
		graph.Float64: unary(elements(sigmoid), functionGrain),
	}.kernel(0)), in)
	x.fused = elementwise{f: x.simd.Silu}
	return true
}

// mean matches ReduceMean(v) over the last axis, kept, and returns v.
func (f *fuser) mean(v *lvalue) *lvalue {
	x := f.is(v, "ReduceMean")
	if x == nil || v.pinned {
		return nil
	}
	for _, a := range x.attrs {
		if a.Name == "keepdims" && a.I == 0 {
			return nil
		}
	}
	axes := x.ints("axes")
	if len(x.in) > 1 && x.in[1] != nil {
		t := x.in[1].konst
		if t == nil || t.DType != graph.Int64 {
			return nil
		}
		axes = nil
		for _, a := range t.I64() {
			axes = append(axes, int(a))
		}
	}
	if len(axes) != 1 || axes[0] != -1 && (x.in[0] == nil || axes[0] != x.in[0].rank-1) {
		return nil
	}
	return x.in[0]
}

// rootMeanSquare matches √(mean(v²) + eps) and returns v.
func (f *fuser) rootMeanSquare(v *lvalue) (*lvalue, float64, bool) {
	root := f.only(v, "Sqrt")
	if root == nil {
		return nil, 0, false
	}
	m, e, ok := split(f.only(root.in[0], "Add"), func(v *lvalue) bool { _, ok := scalar(v); return ok })
	if !ok || len(e.konst.Shape) > 1 || f.readers[m] != 1 {
		return nil, 0, false
	}
	eps, _ := scalar(e)
	s := f.mean(m)
	sq := f.only(s, "Pow", "Mul")
	if sq == nil {
		return nil, 0, false
	}
	if sq.op == "Mul" {
		return sq.in[0], eps, sq.in[0] == sq.in[1]
	}
	two, ok := scalar(sq.in[1])
	return sq.in[0], eps, ok && two == 2 && len(sq.in[1].konst.Shape) <= 1
}

// layerNorm: (x − μ)/√(mean((x − μ)²) + eps)·γ + β, the difference computed
// once or twice.
func (f *fuser) layerNorm(x *lnode) bool {
	if x.op != "Add" {
		return false
	}
	v, beta, ok := split(x, func(v *lvalue) bool { return vector(v) != nil })
	if !ok {
		return false
	}
	mul := f.only(v, "Mul")
	v, gamma, ok := split(mul, func(v *lvalue) bool { return vector(v) != nil })
	if !ok || gamma.konst.Len() != beta.konst.Len() {
		return false
	}
	div := f.only(v, "Div")
	if div == nil {
		return false
	}
	d, eps, ok := f.rootMeanSquare(div.in[1])
	if !ok {
		return false
	}
	in := f.centred(div.in[0])
	if in == nil || in != f.centred(d) {
		return false
	}
	// The differences and the mean may be read by this idiom alone.
	reads := map[*lvalue]int{div.in[0]: 1}
	reads[d] += 1
	if sq := f.squareOf(div.in[1]); sq.op == "Mul" {
		reads[d]++
	}
	means := map[*lvalue]int{}
	for v, n := range reads {
		if f.readers[v] != n || v.pinned {
			return false
		}
		means[v.def.in[1]]++
	}
	for v, n := range means {
		if f.readers[v] != n {
			return false
		}
	}
	return f.norm(x, "LayerNormalization", eps, in, gamma, beta)
}

// squareOf is the node that squares in what rootMeanSquare matched.
func (f *fuser) squareOf(root *lvalue) *lnode {
	add := root.def.in[0].def
	for _, v := range add.in {
		if v.def != nil && v.def.op == "ReduceMean" {
			return v.def.in[0].def
		}
	}
	return nil
}

// centred matches x − mean(x) and returns x.
func (f *fuser) centred(v *lvalue) *lvalue {
	if sub := f.is(v, "Sub"); sub != nil && sub.in[0] == f.mean(sub.in[1]) {
		return sub.in[0]
	}
	return nil
}

// rmsNorm: x/√(mean(x²) + eps)·γ, by Div, or by Mul with a Reciprocal or with
// 1/√….
func (f *fuser) rmsNorm(x *lnode) bool {
	if x.op != "Mul" {
		return false
	}
	v, gamma, ok := split(x, func(v *lvalue) bool { return vector(v) != nil && v.konst.Len() > 1 })
	if !ok {
		return false
	}
	var in, root *lvalue
	if div := f.only(v, "Div"); div != nil {
		in, root = div.in[0], div.in[1]
	} else if mul := f.only(v, "Mul"); mul != nil {
		for i, w := range mul.in {
			if r := f.only(w, "Reciprocal"); r != nil {
				in, root = mul.in[1-i], r.in[0]
			} else if r := f.only(w, "Div"); r != nil {
				if one, ok := scalar(r.in[0]); ok && one == 1 && len(r.in[0].konst.Shape) <= 1 {
					in, root = mul.in[1-i], r.in[1]
				}
			}
		}
	}
	if in == nil {
		return false
	}
	s, eps, ok := f.rootMeanSquare(root)
	if !ok || s != in {
		return false
	}
	return f.norm(x, "RMSNormalization", eps, in, gamma)
}

// norm makes x a normalization over the last axis. Where that is 1, the
// decomposed form stretches it to the length of γ, which the operator does
// not.
func (f *fuser) norm(x *lnode, op string, eps float64, in ...*lvalue) bool {
	l := &layerNorm{k: x.simd, axis: -1, eps: float32(eps), rms: op == "RMSNormalization"}
	l.choose()
	gamma := in[1].konst.F32()
	var beta []float32
	if len(in) > 2 {
		beta = in[2].konst.F32()
	}
	x.replace(op, byType{graph.Float32: func(c *call) error {
		t := c.in[0]
		r := len(t.Shape)
		if r == 0 {
			return fmt.Errorf("input is a scalar")
		}
		if t.Shape[r-1] == len(gamma) {
			return l.float32(c)
		}
		if t.Shape[r-1] != 1 {
			return fmt.Errorf("scale of %d does not fit %v", len(gamma), t.Shape)
		}
		shape := append(slices.Clone(t.Shape[:r-1]), len(gamma))
		z, err := c.alloc(0, graph.Float32, shape...)
		if err != nil {
			return err
		}
		for i, v := range t.F32() {
			m, s := moments(t.F32()[i:i+1], l.rms)
			n := (float64(v) - m) / math.Sqrt(s+eps)
			for j, g := range gamma {
				w := float32(n) * g
				if beta != nil {
					w += beta[j]
				}
				z.F32()[i*len(gamma)+j] = w
			}
		}
		return nil
	}}.kernel(0), in...)
	x.attrs = []*graph.Attr{graph.FloatAttr("epsilon", l.eps)}
	return true
}
