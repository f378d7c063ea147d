package modules

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// Kinds of norm.
const (
	LayerNorm = "layer" // (x − mean x) / √(var x + ε) · scale + bias
	RMSNorm   = "rms"   // x / √(mean x² + ε) · scale
)

// SkipEpsilon is the ε of ONNX Runtime's fused Add and norm where the node
// has no attribute epsilon.
const SkipEpsilon = 1e-12

// Norm is a normalisation over the feature axis, in one node or in the
// operators that it consists of. Casts, which are looked through, can stand
// between its nodes.
type Norm struct {
	Kind    string        // LayerNorm or RMSNorm
	Nodes   []*graph.Node // of the main graph, in order
	In, Out *graph.Value  // In is nil where a fused operator keeps the sum that it normalises to itself
	Scale   *graph.Value  // nil: none
	Bias    *graph.Value  // nil: none
	Epsilon float64       // ε
}

// The idioms, x being the input and ~ a Cast that can be there:
//
//	d = Sub(x, ReduceMean(x))            twice in old PyTorch exports
//	q = Pow(~d, 2) or Mul(d, d)
//	s = Sqrt(Add(ReduceMean(q), ε))      or Pow(…, 0.5)
//	y = Div(~d, s), Mul(d, Reciprocal(s)), Mul(d, Div(1, s)) or Mul(d, Pow(…, −0.5))
//	out = Add(Mul(y, scale), bias)       scale and bias can be missing
//
// With d = x it is RMS. TensorFlow folds the scale in first:
//
//	g = Mul(Reciprocal(s), scale)
//	out = Add(Mul(x, g), Sub(bias, Mul(mean, g)))
//
// In one node: LayerNormalization (opset 17), RMSNormalization (opset 23),
// SimplifiedLayerNormalization, which ONNX Runtime puts into the default
// domain, and the norms in the SkipLayerNormalization family.

// viewNorm is a norm by the numbers of the view.
type viewNorm struct {
	rms         bool
	in, out     int32
	scale, bias int32
	eps         float64
	nodes       []int32
}

// Norms returns every norm of m's main graph, in graph order, those that
// local functions hold included: also those that belong to no module, such as the
// last one of a model, for tools that fold scales or name layers. It fails where
// [Find] does.
func Norms(m *graph.Model) ([]*Norm, error) {
	v, err := newView(m, closed)
	if err != nil {
		return nil, err
	}
	var out []*Norm
	for _, n := range v.norms() {
		out = append(out, v.norm(&n))
	}
	return out, nil
}

// norm is n in terms of the model.
func (v *view) norm(n *viewNorm) *Norm {
	origin := func(x int32) *graph.Value {
		if x < 0 {
			return nil
		}
		return v.vals[x].origin
	}
	o := &Norm{Kind: LayerNorm, In: origin(n.in), Out: origin(n.out), Scale: origin(n.scale), Bias: origin(n.bias), Epsilon: n.eps}
	if n.rms {
		o.Kind = RMSNorm
	}
	o.Nodes = v.tops(n.nodes)
	return o
}

// tops lists the nodes of the main graph that the nodes of the view are or
// lie in, each once, in order.
func (v *view) tops(nodes []int32) []*graph.Node {
	var out []*graph.Node
	for _, i := range nodes {
		if n := v.nodes[i].top(); len(out) == 0 || out[len(out)-1] != n && !slices.Contains(out[max(0, len(out)-8):], n) {
			out = append(out, n)
		}
	}
	return out
}

// norms finds every norm of the view, in order of the node they are known by.
func (v *view) norms() []viewNorm {
	var out []viewNorm
	for i := range v.nodes {
		if n, ok := v.normAt(int32(i)); ok {
			out = append(out, n)
		}
	}
	return out
}

// normAt finds the norm that is node i, or whose square root is node i.
func (v *view) normAt(i int32) (viewNorm, bool) {
	x := &v.nodes[i]
	none := viewNorm{}
	if x.class == norm {
		n := viewNorm{rms: x.rms || x.attrInt("simplified", 0) == 1, in: v.data(i, 0), out: -1, scale: v.data(i, 1), bias: v.data(i, 2), nodes: []int32{i}, eps: 1e-5}
		if c := operators[x.name].class; c == skipNorm || c == embedding {
			n.eps = SkipEpsilon
		}
		if a := x.attr("epsilon"); a != nil && a.Type == graph.AttrFloat {
			n.eps = float64(a.F)
		}
		if len(x.out) > 0 {
			n.out = x.out[0]
		}
		return n, n.in >= 0 && n.out >= 0 && v.lastAxis(n.in, x.attrInt("axis", -1))
	}
	inverse := false // node i gives 1/√, not √
	switch x.name {
	case "Sqrt":
	case "Pow":
		e, ok := v.scalar(v.data(i, 1))
		if !ok || e != 0.5 && e != -0.5 {
			return none, false
		}
		inverse = e < 0
	default:
		return none, false
	}
	// Back to the input.
	n := viewNorm{scale: -1, bias: -1, out: -1, nodes: []int32{i}}
	variance := v.data(i, 0)
	if a := v.def(variance, "Add"); a >= 0 {
		for k := range 2 {
			if e, ok := v.scalar(v.data(a, k)); ok && e >= 0 && e < 1 {
				n.eps, variance = e, v.data(a, 1-k)
				n.nodes = append(n.nodes, a)
				break
			}
		}
	}
	square, mean2 := v.mean(variance)
	d, sq := v.squared(square)
	if mean2 < 0 || d < 0 {
		return none, false
	}
	n.nodes = append(n.nodes, mean2, sq)
	n.in, n.rms = d, true
	mean := int32(-1) // the mean as a value
	if s := v.def(d, "Sub"); s >= 0 {
		if from, m := v.mean(v.data(s, 1)); from >= 0 && from == v.data(s, 0) {
			n.in, n.rms, mean = from, false, v.data(s, 1)
			n.nodes = append(n.nodes, s, m)
		} else if m := v.def(v.data(s, 1), "ReduceMean"); m >= 0 && v.data(m, 0) == v.data(s, 0) {
			return none, false // a mean over other axes
		}
	}
	// Forward to the output. numerator reports whether value y is d, and
	// counts a second subtraction of the mean in.
	numerator := func(y int32) bool {
		if y == d {
			return true
		}
		if s := v.def(y, "Sub"); s >= 0 && !n.rms && v.data(s, 0) == n.in {
			if from, m := v.mean(v.data(s, 1)); m >= 0 && from == n.in {
				n.nodes = append(n.nodes, s, m)
				return true
			}
		}
		return false
	}
	finish := func(core int32) (viewNorm, bool) {
		n.nodes = append(n.nodes, core)
		v.affine(&n, v.nodes[core].out[0])
		slices.Sort(n.nodes)
		n.nodes = slices.Compact(n.nodes)
		return n, true
	}
	root := x.out[0]
	var inverses []int32
	if inverse {
		inverses = append(inverses, root)
	}
	for _, u := range v.vals[root].uses {
		y := &v.nodes[u]
		switch {
		case inverse:
		case y.name == "Reciprocal":
			inverses = append(inverses, y.out[0])
		case y.name == "Div" && v.data(u, 1) == root:
			if one, ok := v.scalar(v.data(u, 0)); ok && one == 1 {
				inverses = append(inverses, y.out[0])
			} else if numerator(v.data(u, 0)) {
				return finish(u)
			}
		}
	}
	for _, inv := range inverses {
		if u := v.vals[inv].def; u != i {
			n.nodes = append(n.nodes, u)
		}
		for _, u := range v.vals[inv].uses {
			if v.nodes[u].name != "Mul" {
				continue
			}
			other := v.data(u, 0)
			if other == inv {
				other = v.data(u, 1)
			}
			if numerator(other) {
				return finish(u)
			}
			if v.konst(other) && v.folded(&n, u, other, mean) {
				return n, true
			}
		}
	}
	return none, false
}

// folded matches TensorFlow's form behind g = Mul(1/√, scale), which is node
// mul.
func (v *view) folded(n *viewNorm, mul, scale, mean int32) bool {
	g := v.nodes[mul].out[0]
	product := func(x int32) int32 { // the node Mul(x, g)
		for _, u := range v.vals[g].uses {
			if v.nodes[u].name == "Mul" && (v.data(u, 0) == x && v.data(u, 1) == g || v.data(u, 1) == x && v.data(u, 0) == g) {
				return u
			}
		}
		return -1
	}
	xg := product(n.in)
	if xg < 0 {
		return false
	}
	n.scale = scale
	n.nodes = append(n.nodes, mul, xg)
	n.out = v.nodes[xg].out[0]
	if !n.rms {
		mg := product(mean)
		if mg < 0 {
			return false
		}
		sub := v.only(v.nodes[mg].out[0], "Sub")
		if sub < 0 || v.data(sub, 1) != v.nodes[mg].out[0] || !v.konst(v.data(sub, 0)) {
			return false
		}
		add := v.only(v.nodes[sub].out[0], "Add")
		if add < 0 || v.only(n.out, "Add") != add {
			return false
		}
		n.bias, n.out = v.data(sub, 0), v.nodes[add].out[0]
		n.nodes = append(n.nodes, mg, sub, add)
	}
	slices.Sort(n.nodes)
	n.nodes = slices.Compact(n.nodes)
	return true
}

// affine takes a constant scale and a constant bias behind y into the norm.
func (v *view) affine(n *viewNorm, y int32) {
	n.out = y
	if m := v.only(n.out, "Mul"); m >= 0 {
		for k := range 2 {
			if v.data(m, k) == n.out && v.konst(v.data(m, 1-k)) {
				n.scale, n.out = v.data(m, 1-k), v.nodes[m].out[0]
				n.nodes = append(n.nodes, m)
				break
			}
		}
	}
	if n.scale < 0 {
		return
	}
	if a := v.only(n.out, "Add"); a >= 0 {
		for k := range 2 {
			if v.data(a, k) == n.out && v.konst(v.data(a, 1-k)) {
				n.bias, n.out = v.data(a, 1-k), v.nodes[a].out[0]
				n.nodes = append(n.nodes, a)
				break
			}
		}
	}
}

// only is the single node that reads value x, if it is the operator name and
// x is no output; else -1.
func (v *view) only(x int32, name string) int32 {
	if l := &v.vals[x]; len(l.uses) == 1 && !l.output && v.nodes[l.uses[0]].name == name {
		return l.uses[0]
	}
	return -1
}

// mean matches value x as a mean over the last axis; it returns what the mean
// is of, and the node.
func (v *view) mean(x int32) (of, at int32) {
	m := v.def(x, "ReduceMean")
	if m < 0 {
		return -1, -1
	}
	axes, ok := v.nodes[m].attrInts("axes")
	if !ok {
		axes, ok = v.ints(v.data(m, 1))
	}
	if !ok || len(axes) != 1 || v.nodes[m].attrInt("keepdims", 1) != 1 || !v.lastAxis(v.data(m, 0), axes[0]) {
		return -1, -1
	}
	return v.data(m, 0), m
}

// lastAxis reports whether axis is the last one of value x; where the rank is
// not known, whether it can be.
func (v *view) lastAxis(x int32, axis int64) bool {
	if axis < 0 {
		return axis == -1
	}
	r := v.rank(x)
	return axis > 0 && r < 0 || axis == int64(r)-1
}

// squared matches value x as the square of a value.
func (v *view) squared(x int32) (of, at int32) {
	if p := v.def(x, "Pow"); p >= 0 {
		if e, ok := v.scalar(v.data(p, 1)); ok && e == 2 {
			return v.data(p, 0), p
		}
	}
	if m := v.def(x, "Mul"); m >= 0 && v.data(m, 0) == v.data(m, 1) {
		return v.data(m, 0), m
	}
	return -1, -1
}
