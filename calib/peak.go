package calib

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"gorgonia.org/tensor"
)

// Peak estimates the bytes that the values of m take at once in a run with
// these inputs: the most that any node finds alive, inputs and outputs
// included, weights not. What is inside functions and the bodies of control
// flow and the workspace of an operator do not count, and what the runtime
// fuses counts, so the truth lies somewhat to either side. It reports false where a shape depends on more
// than the shapes of the inputs.
func Peak(m *graph.Model, in map[string]tensor.Tensor) (bytes int64, known bool) {
	m = sized(m, in)
	nodes := m.Graph.Nodes()
	at := make(map[*graph.Node]int, len(nodes))
	for i, n := range nodes {
		at[n] = i
	}
	dies := func(v *graph.Value) int {
		end := at[v.Def()]
		for _, u := range v.Uses() {
			n := u.Node
			for n.Graph() != m.Graph {
				n = n.Graph().Holder()
			}
			end = max(end, at[n])
		}
		if v.IsOutput() {
			end = len(nodes)
		}
		return end
	}
	known = true
	var alive, most int64
	ends := make([]int64, len(nodes)+1) // bytes that die with a node
	begin := func(v *graph.Value) {
		if v == nil || v.ConstTensor() != nil {
			return
		}
		n, ok := sizeOf(v.Type())
		known = known && ok
		alive = plus(alive, n)
		end := dies(v)
		ends[end] = plus(ends[end], n)
	}
	for _, v := range m.Graph.Inputs() {
		begin(v)
	}
	for i, n := range nodes {
		for _, v := range n.Outputs() {
			begin(v)
		}
		most = max(most, alive)
		alive -= ends[i]
	}
	return most, known
}

// sizeOf is the size of a tensor of type t, where that has a size.
func sizeOf(t *graph.Type) (int64, bool) {
	if t == nil || t.Kind != graph.KindTensor || t.Shape == nil {
		return 0, false
	}
	dims := make([]int64, len(t.Shape.Dims))
	for i, d := range t.Shape.Dims {
		if !d.IsKnown() {
			return 0, false
		}
		dims[i] = d.N
	}
	n, ok := graph.NumElements(dims)
	if !ok {
		return math.MaxInt64, true
	}
	if n, ok = t.Elem.ByteSize(n); !ok {
		return math.MaxInt64, true
	}
	return n, true
}

// plus adds what is not negative, and stays at the largest number.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Total estimates, as Peak does, the bytes of all values of a run together: what
// training keeps of it for the gradients.
func Total(m *graph.Model, in map[string]tensor.Tensor) (bytes int64, known bool) {
	known = true
	for _, n := range sized(m, in).Graph.Nodes() {
		for _, v := range n.Outputs() {
			if v == nil || v.ConstTensor() != nil {
				continue
			}
			size, ok := sizeOf(v.Type())
			bytes, known = plus(bytes, size), known && ok
		}
	}
	return bytes, known
}

// sized is a copy of m with the shapes that follow from those of its inputs.
func sized(m *graph.Model, in map[string]tensor.Tensor) *graph.Model {
	m = m.Clone()
	for _, v := range m.Graph.Inputs() {
		t := v.Type()
		if in[v.Name] == nil || t == nil {
			continue
		}
		var dims []graph.Dim
		for _, n := range in[v.Name].Shape() {
			dims = append(dims, graph.Known(int64(n)))
		}
		v.Declared = graph.TensorType(t.Elem, dims...)
	}
	_ = graph.Infer(m) // a shape that it cannot find is not known
	return m
}
