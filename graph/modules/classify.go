package modules

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// core is where an attention mixes tokens.
type core struct {
	node        int32   // the product of probabilities and values, or the fused operator
	keys        []int32 // keys, before or after their transposition
	values      []int32
	past        []int32 // operands and results of a fused operator that are its cache:
	present     []int32 // key and value, or one of both
	projectsKV  bool    // a fused operator that projects keys and values itself
	probability int32   // the softmax, -1 in a fused operator
}

// cores finds every attention among the nodes of a body: a fused operator, or
// a Softmax between two products of activations.
func (v *view) cores(body []int32) []core {
	var out []core
	for _, i := range body {
		x := &v.nodes[i]
		switch {
		case x.class == fused:
			c := core{node: i, probability: -1}
			a := x.attn
			if a.key < 0 {
				c.projectsKV = true
			} else {
				c.keys, c.values = some(v.data(i, a.key)), some(v.data(i, a.value))
				if len(c.values) == 0 { // packed with the query
					c.projectsKV = true
				}
			}
			for _, k := range a.past {
				c.past = append(c.past, v.data(i, k))
			}
			for _, k := range a.present {
				o := int32(-1)
				if k < len(x.out) {
					o = x.out[k]
				}
				c.present = append(c.present, o)
			}
			out = append(out, c)
		case x.class == softmax, v.isSoftmax(i):
			if c, ok := v.core(i, body); ok {
				out = append(out, c)
			}
		}
	}
	return out
}

// isSoftmax matches node i as Div(Exp(z), ReduceSum(Exp(z))).
func (v *view) isSoftmax(i int32) bool {
	if v.nodes[i].name != "Div" {
		return false
	}
	e, s := v.data(i, 0), v.def(v.data(i, 1), "ReduceSum")
	return s >= 0 && v.def(e, "Exp") >= 0 && v.data(s, 0) == e
}

// core follows the softmax at node i to the product of two activations that
// gives its scores, and to the one that applies its probabilities.
func (v *view) core(i int32, body []int32) (core, bool) {
	c := core{node: -1, probability: i}
	in := func(n int32) bool { _, ok := slices.BinarySearch(body, n); return ok }
	// Forward: probabilities to their product.
	seen := map[int32]bool{}
	stack := []int32{v.nodes[i].out[0]}
	for len(stack) > 0 {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if !v.spend(1 + len(v.vals[x].uses)) {
			break
		}
		for _, u := range v.vals[x].uses {
			if seen[u] || !in(u) {
				continue
			}
			seen[u] = true
			switch n := &v.nodes[u]; n.class {
			case product:
				if p, val, ok := v.operands(u, x); ok && p == x {
					c.node = u
					c.values = append(c.values, val)
				}
			case elementwise, layout, addition:
				stack = append(stack, n.out[0])
			}
		}
	}
	if c.node < 0 {
		return c, false
	}
	// Backward: scores from query and key.
	score := v.data(i, 0)
	if v.nodes[i].class != softmax {
		score = v.data(v.vals[v.data(i, 0)].def, 0)
	}
	clear(seen)
	stack = append(stack[:0], score)
	for len(stack) > 0 && v.spend(1) {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if x < 0 || v.vals[x].def < 0 {
			continue
		}
		d := v.vals[x].def
		if seen[d] || !in(d) {
			continue
		}
		seen[d] = true
		switch n := &v.nodes[d]; n.class {
		case product:
			if k, ok := v.keyOperand(d); ok {
				c.keys = append(c.keys, k)
			}
		case elementwise, layout, addition, reduction:
			stack = append(stack, n.in...)
		}
	}
	return c, len(c.keys) > 0
}

// operands returns the two factors of a product of activations, x first.
func (v *view) operands(i, x int32) (a, b int32, ok bool) {
	a, b = v.data(i, 0), v.data(i, v.nodes[i].weight)
	if a < 0 || b < 0 || v.konst(a) || v.konst(b) {
		return -1, -1, false
	}
	if b == x {
		a, b = b, a
	}
	return a, b, true
}

// keyOperand is the operand of a product of activations that gives the last
// axis of the scores, over which the softmax goes: the right one of a matrix
// product, and by its labels in an Einsum.
func (v *view) keyOperand(i int32) (int32, bool) {
	a, b, ok := v.operands(i, -1)
	if !ok {
		return -1, false
	}
	if v.nodes[i].name == "Einsum" {
		if x, y, z, ok := v.equation(i); ok && z != "" && strings.Contains(x, z[len(z)-1:]) && !strings.Contains(y, z[len(z)-1:]) {
			return a, true
		}
	}
	return b, true
}

// equation returns the labels of a two-operand Einsum.
func (v *view) equation(i int32) (x, y, z string, ok bool) {
	a := v.nodes[i].attr("equation")
	if a == nil || len(a.S) > 256 {
		return
	}
	s := strings.ReplaceAll(string(a.S), " ", "")
	in, z, ok := strings.Cut(s, "->")
	if !ok {
		return
	}
	x, y, ok = strings.Cut(in, ",")
	return x, y, z, ok && !strings.Contains(y, ",")
}

// classify tells what the branch with these nodes is. For Other, why says
// what keeps it from being an MLP; computes is false for a branch that holds
// nothing but element-wise operators, which is no module.
func (v *view) classify(r *region, c candidate, f int32, body []int32) (kind Kind, cores []core, why string, computes bool) {
	cores = v.cores(body)
	if len(cores) > 0 {
		kind = CrossAttention
		for _, k := range cores {
			if k.projectsKV {
				kind = Attention
			}
			for _, x := range k.values {
				if x == c.stream || r.inside(x) {
					kind = Attention
				}
			}
		}
		return kind, cores, "", true
	}
	for _, i := range body {
		switch v.nodes[i].class {
		case opaque, product, random:
			computes = true
		}
	}
	if why = v.mixes(c, f, body); why != "" {
		return Other, nil, why, computes
	}
	return MLP, nil, "", true
}

// tokenwise follows the features of a token through the body of a branch.
type tokenwise struct {
	v     *view
	c     candidate
	f     int32
	body  []int32
	width map[int32]int64 // length of the last axis of a value, as far as it was found out
}

// mixes tells why a body is no MLP: what in it can take the features of one
// token to another, or that it has no linear layer. "" if it is one: the last
// axis stays the feature axis from the stream to the branch's end, linear
// layers and norms act along it, everything else on single elements.
func (v *view) mixes(c candidate, f int32, body []int32) string {
	t := &tokenwise{v: v, c: c, f: f, body: body, width: map[int32]int64{}}
	// The stream is as wide as what is added to it, and as the first layers
	// that read it expect.
	w := t.last(c.stream)
	if w < 0 {
		w = t.last(f)
	}
	if w < 0 {
		w = t.expected()
	}
	t.width[c.stream] = w
	linear := 0
	for _, i := range body {
		w, why := t.step(i)
		if why != "" {
			return fmt.Sprintf("%v %s", v.nodes[i].n, why)
		}
		if v.nodes[i].class == product {
			linear++
		}
		for _, o := range v.nodes[i].out {
			if o >= 0 && w >= 0 {
				t.width[o] = w
			}
		}
	}
	if linear == 0 {
		return "it has no MatMul or Gemm with constant weights"
	}
	return ""
}

// last is the length of the last axis of value x, -1 where it is not known.
func (t *tokenwise) last(x int32) int64 {
	if w, ok := t.width[x]; ok && w >= 0 {
		return w
	}
	if d := t.v.dims(x); len(d) > 0 && d[len(d)-1].IsKnown() {
		return d[len(d)-1].N
	}
	return -1
}

// inside reports whether value x is the stream or computed in the body.
func (t *tokenwise) inside(x int32) bool {
	if x < 0 || x == t.c.stream {
		return x >= 0
	}
	_, ok := slices.BinarySearch(t.body, t.v.vals[x].def)
	return ok
}

// lastAxis reports whether axis is known to be the last one of value x.
func (t *tokenwise) lastAxis(x int32, axis int64) bool {
	return axis == -1 || axis > 0 && axis == int64(t.v.rank(x))-1
}

// expected is the width that the first norm or linear layer of the body has
// been made for, -1 if there is none.
func (t *tokenwise) expected() int64 {
	v := t.v
	for _, i := range t.body {
		if !slices.ContainsFunc(v.nodes[i].in, t.inside) {
			continue
		}
		switch v.nodes[i].class {
		case norm, elementwise, addition:
			if w := v.vector(i); w >= 0 {
				return w
			}
		case product:
			return v.contracted(i)
		}
	}
	return -1
}

// vector is the length of a bias or a scale that node i reads, -1 if it reads
// none longer than one.
func (v *view) vector(i int32) int64 {
	for _, in := range v.nodes[i].in {
		if v.konst(in) {
			if d := v.dims(in); len(d) > 0 && d[len(d)-1].N > 1 {
				return d[len(d)-1].N
			}
		}
	}
	return -1
}

// step follows the features through node i: how wide its results are (-1: not
// known), or why it does not act on each token alone.
func (t *tokenwise) step(i int32) (width int64, why string) {
	v, x := t.v, &t.v.nodes[i]
	in := v.data(i, 0)
	axes := func(k int) ([]int64, bool) {
		if a, ok := x.attrInts("axes"); ok {
			return a, true
		}
		return v.ints(v.data(i, k))
	}
	lastOf := func(k int) bool {
		a, ok := axes(k)
		return ok && len(a) == 1 && t.lastAxis(in, a[0])
	}
	switch x.class {
	case elementwise, addition:
		w := int64(-1)
		for _, a := range x.in {
			if a >= 0 {
				w = max(w, t.last(a))
			}
		}
		return w, ""
	case norm:
		if t.lastAxis(in, x.attrInt("axis", -1)) {
			return t.last(in), ""
		}
		return -1, "normalises more than the feature axis"
	case softmax:
		axis := int64(-1)
		if x.n.Opset() < 13 || x.name != "Softmax" {
			axis = 1
		}
		if t.lastAxis(in, x.attrInt("axis", axis)) {
			return t.last(in), ""
		}
		return -1, "goes over more than the feature axis"
	case reduction:
		if lastOf(1) && x.attrInt("keepdims", 1) == 1 {
			return 1, ""
		}
		return -1, "reduces more than the feature axis"
	case product:
		return v.linear(i)
	case layout:
	default:
		return -1, "is not known to act on each token alone"
	}
	switch x.name {
	case "Reshape":
		// The features stay together if the last axis keeps its length.
		from, to := t.last(in), t.wanted(i)
		switch {
		case from < 0 || to < 0:
			return -1, "is not known to keep the feature axis"
		case from != to:
			return -1, fmt.Sprintf("makes rows of %d out of rows of %d features", to, from)
		}
		return to, ""
	case "Flatten":
		if t.lastAxis(in, x.attrInt("axis", 1)) {
			return t.last(in), ""
		}
	case "Transpose":
		if perm, ok := x.attrInts("perm"); ok && len(perm) > 0 && perm[len(perm)-1] == int64(len(perm))-1 {
			return t.last(in), ""
		}
	case "Squeeze", "Unsqueeze":
		list, ok := axes(1)
		r := v.rank(in)
		if r >= 0 && x.name == "Unsqueeze" {
			r += len(list)
		}
		for _, a := range list {
			// A stream has at least two axes, so the first is not the last.
			ok = ok && (a == 0 || a < -1 || r >= 0 && a < int64(r)-1 && a > 0)
		}
		if ok {
			return t.last(in), ""
		}
	case "Split", "Concat":
		if t.lastAxis(in, x.attrInt("axis", 0)) {
			return -1, ""
		}
	case "Slice":
		if lastOf(3) {
			return -1, ""
		}
	}
	return -1, "moves more than the feature axis"
}

// wanted is how wide the result of the Reshape at node i is: by its type, by
// the last number of the shape, by what reads it, or as wide as the stream at
// the end of the branch. -1 if none tells.
func (t *tokenwise) wanted(i int32) int64 {
	v, x := t.v, t.v.nodes[i].out[0]
	if w := t.last(x); w >= 0 {
		return w
	}
	shape := v.data(i, 1)
	if c := v.def(shape, "Cast"); c >= 0 {
		shape = v.data(c, 0)
	}
	if c := v.def(shape, "Concat"); c >= 0 && len(v.nodes[c].in) > 0 {
		shape = v.nodes[c].in[len(v.nodes[c].in)-1]
	}
	if s, ok := v.ints(shape); ok && len(s) > 0 && s[len(s)-1] > 0 {
		return s[len(s)-1]
	}
	if s := v.def(shape, "Shape"); s >= 0 && v.data(s, 0) >= 0 && v.nodes[s].attrInt("end", math.MaxInt64) == math.MaxInt64 {
		if w := t.last(v.data(s, 0)); w >= 0 {
			return w
		}
	}
	for _, u := range v.vals[x].uses {
		w := int64(-1)
		switch v.nodes[u].class {
		case product:
			if v.data(u, 0) == x {
				w = v.contracted(u)
			}
		case addition, elementwise:
			w = v.vector(u)
		}
		if w >= 0 {
			return w
		}
	}
	if x == t.f {
		return t.last(t.c.stream)
	}
	return -1
}

// contracted is the length of the axis that a product sums over, by its
// constant weights; -1 where they do not tell.
func (v *view) contracted(i int32) int64 {
	x := &v.nodes[i]
	if k := x.attrInt("K", -1); k >= 0 && x.n.Domain != "" { // weights in blocks of a few bits
		return k
	}
	w := v.matrix(v.data(i, x.weight))
	if len(w) != 2 || !v.konst(v.data(i, x.weight)) || x.name == "Einsum" || x.n.Domain == graph.LatheDomain {
		return -1
	}
	if x.attrInt("transB", 0) == 1 {
		return w[1].N
	}
	return w[0].N
}

// matrix is the dims of value x without ones in front of the last two.
func (v *view) matrix(x int32) []graph.Dim {
	d := v.dims(x)
	for len(d) > 2 && d[0].N == 1 {
		d = d[1:]
	}
	return d
}

// linear tells how wide the result of a product is (-1: not known), or why it
// does not act on each token alone.
func (v *view) linear(i int32) (width int64, why string) {
	x := &v.nodes[i]
	if !v.konst(v.data(i, x.weight)) {
		if v.konst(v.data(i, 0)) {
			return -1, "multiplies by weights from the left, which mixes positions"
		}
		return -1, "multiplies two activations"
	}
	if x.attrInt("transA", 0) == 1 || x.attrInt("transBatchA", 0) == 1 {
		return -1, "transposes its input, which mixes positions"
	}
	w := v.matrix(v.data(i, x.weight))
	switch {
	case x.name == "Einsum":
		// "abc,cd->abd": the last labels of the input are summed over, the
		// others stay in front.
		a, b, z, ok := v.equation(i)
		k := 0
		for k < len(a) && k < len(z) && a[k] == z[k] && !strings.Contains(b, a[k:k+1]) {
			k++
		}
		if !ok || k == len(a) || strings.ContainsAny(z, a[k:]) {
			return -1, "is not known to act on each token alone"
		}
	case x.n.Domain == graph.LatheDomain:
		return x.attrInt("out_features", -1), ""
	case x.n.Domain != "" && x.attr("N") != nil: // weights in blocks of a few bits
		return x.attrInt("N", -1), ""
	case len(w) == 2 && x.attrInt("transB", 0) == 1:
		return w[0].N, ""
	case len(w) == 2:
		return w[1].N, ""
	case len(w) > 2:
		return -1, "has weights of more than two axes, which differ by position"
	}
	return -1, ""
}
