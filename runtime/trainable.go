package runtime

import (
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// trainable says which inputs of an operator hold what training moves: the
// weights of products, biases, the scales of norms, embeddings. Operands of
// Add and Mul are judged by operandTrains.
var trainable = map[string][]int{
	"MatMul": {0, 1}, "Gemm": {0, 1, 2}, "Conv": {1, 2},
	"LayerNormalization": {1, 2}, "RMSNormalization": {1}, "SimplifiedLayerNormalization": {1},
	"BatchNormalization": {1, 2}, "PRelu": {1},
	"Add": {0, 1}, "Sub": {0, 1}, "Mul": {0, 1}, "Div": {1},
	"Gather": {0}, "Concat": nil, "Expand": {0},
	"BlockCirculantMatMul": {1, 2}, "BlockCirculantConv": {1, 2},

	// ONNX Runtime's: products, norms and embeddings in one node, and the
	// biases that it has taken along.
	microsoft + ".Attention": {1, 2}, microsoft + ".MultiHeadAttention": {3}, microsoft + ".GroupQueryAttention": {11},
	microsoft + ".SkipLayerNormalization": {2, 3, 4}, microsoft + ".SkipSimplifiedLayerNormalization": {2, 3},
	microsoft + ".EmbedLayerNormalization": {2, 3, 4, 5, 6},
	microsoft + ".BiasGelu":                {1}, microsoft + ".FastGelu": {1},
	microsoft + ".FusedMatMul": {0, 1}, microsoft + ".TransposeMatMul": {0, 1}, microsoft + ".FusedGemm": {0, 1, 2}, microsoft + ".FusedConv": {1, 2},
	microsoft + ".MatMulNBits": {5},
}

// Trainable returns the names of the constants of a model's main graph that
// training usually moves, in the order of their first readers: float32 weights
// of products and convolutions, block-circulant ones too, biases, scales of
// norms, embeddings and class tokens. What only looks like them is left out:
// numbers, masks (large values), tables that activations are multiplied with
// (rotary embeddings), means and variances.
//
// Weights that are read inside of functions count, and of a merged decoder those
// of the branch that training runs: see CompileTraining.
func Trainable(m *graph.Model) []string {
	var names []string
	open, err := opened(m)
	if err != nil {
		open = m
	}
	seen := map[*graph.Value]bool{}
	for _, n := range open.Graph.Nodes() {
		for i, v := range n.Inputs() {
			if v == nil || seen[v] || v.Graph() != open.Graph || m.Graph.Value(v.Name).ConstTensor() == nil {
				continue
			}
			c := v.ConstTensor()
			if c == nil || c.DType != graph.Float32 || c.Len() < 2 {
				continue
			}
			if !readsParameter(graph.Use{Node: n, Index: i}, c, 0) {
				continue
			}
			seen[v] = true
			names = append(names, v.Name)
		}
	}
	return names
}

// opened is m, or of a merged decoder a copy in which the branch that starts a
// cache stands in the place of the If. Constants of the main graph keep their
// names.
func opened(m *graph.Model) (*graph.Model, error) {
	for _, n := range m.Graph.Nodes() {
		if n.Is("If") && slices.ContainsFunc(n.Subgraphs(), readsConstants) && modules.Merged(m) {
			return modules.Unfold(m)
		}
	}
	return m, nil
}

// readsConstants reports whether a node of a branch reads a constant of the main
// graph.
func readsConstants(g *graph.Graph) bool {
	return slices.ContainsFunc(g.Nodes(), func(n *graph.Node) bool {
		return slices.ContainsFunc(n.Inputs(), func(v *graph.Value) bool {
			return v != nil && v.Graph() == g.Model().Graph && v.ConstTensor() != nil
		}) || slices.ContainsFunc(n.Subgraphs(), readsConstants)
	})
}

// readsParameter reports whether a use of a constant is one of a parameter,
// through nodes that only give it another shape or place.
func readsParameter(u graph.Use, c *graph.Tensor, depth int) bool {
	n := u.Node
	if n.Domain == graph.LatheDomain && (n.Op == "BlockCirculantMatMul" || n.Op == "BlockCirculantConv") {
		return u.Index == 1 || u.Index == 2
	}
	if f := n.Graph().Model().Function(n.Domain, n.Op, n.Overload); f != nil && n.Domain != graph.LatheDomain {
		if depth > 8 || u.Index >= len(f.Graph.Inputs()) {
			return false
		}
		return slices.ContainsFunc(f.Graph.Inputs()[u.Index].Uses(), func(u graph.Use) bool { return readsParameter(u, c, depth+1) })
	}
	if n.Is("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze") && u.Index == 0 && depth < 8 {
		out := n.Output(0)
		return out != nil && slices.ContainsFunc(out.Uses(), func(u graph.Use) bool { return readsParameter(u, c, depth+1) })
	}
	op := n.Op
	if domain := graph.NormalDomain(n.Domain); domain != "" {
		op = domain + "." + op
	}
	inputs, ok := trainable[op]
	if !ok || inputs != nil && !slices.Contains(inputs, u.Index) {
		return false
	}
	switch op {
	case "MatMul", "Expand":
		if isAngle(n.Output(0), 0) {
			return false // the frequencies of rotary embeddings
		}
	}
	switch op {
	case "Add", "Sub":
		return sizedAsWeights(c)
	case "Mul", "Div":
		return vectorLike(c.Dims) && sizedAsWeights(c)
	case "Gather", "Expand", "Concat":
		return sizedAsWeights(c) && !isTable(n.Output(0), 0)
	}
	return true
}

// vectorLike reports whether all dims but one are 1.
func vectorLike(dims []int64) bool {
	long := 0
	for _, d := range dims {
		if d != 1 {
			long++
		}
	}
	return long == 1
}

// isAngle reports whether v, perhaps in another shape or multiplied by
// positions, is read by nothing but sines and cosines.
func isAngle(v *graph.Value, depth int) bool {
	if v == nil || depth > 8 || len(v.Uses()) == 0 {
		return false
	}
	for _, u := range v.Uses() {
		switch n := u.Node; {
		case n.Is("Cos", "Sin"):
		case n.Is("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Concat", "MatMul", "Mul"):
			if !isAngle(n.Output(0), depth+1) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// isTable reports whether v, perhaps in another shape, is read by nothing but
// products of elements, as the sines and cosines of rotary embeddings are.
func isTable(v *graph.Value, depth int) bool {
	if v == nil || depth > 8 || len(v.Uses()) == 0 {
		return false
	}
	for _, u := range v.Uses() {
		switch n := u.Node; {
		case n.Is("Mul"):
			other := n.Input(1 - u.Index).ConstTensor()
			if other != nil && other.Len() == 1 && !isTable(n.Output(0), depth+1) {
				return false // a scaled embedding
			}
		case n.Is("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Concat", "Slice", "Neg"):
			if !isTable(n.Output(0), depth+1) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// sizedAsWeights reports whether all elements are of the size of weights: masks hold
// −∞, the lowest float or some thousands below zero.
func sizedAsWeights(c *graph.Tensor) bool {
	f, err := c.Float32s()
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(f, func(v float32) bool { return !(math.Abs(float64(v)) < 1000) })
}
