package passes

import (
	"context"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// foldLimit bounds the bytes of a constant that is folded and of the result:
// shapes, tables and small weights fold, a model does not blow up. 1 MB is a
// float mask of 512 × 512, and less than a layer of a real model.
const foldLimit = 1 << 20

// unfoldable are the operators whose value is not a function of their inputs,
// or that say something a constant does not: quantized weights stay quantized.
var unfoldable = []string{"Constant", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
	"Bernoulli", "Multinomial", "Dropout", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}

// FoldConstants computes the nodes of the main graph whose inputs are all
// constant and puts initializers of the same names in their place. Nodes that
// give an output of the model stay.
func FoldConstants() Pass {
	const name = "fold-constants"
	return Pass{
		Name:     name,
		Doc:      "compute what depends on constants alone",
		Contract: Rounding,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			for _, n := range slices.Clone(m.Graph.Nodes()) {
				if err := ctx.Err(); err != nil {
					return err
				}
				consts, ok := foldNode(m, n, foldLimit)
				if !ok {
					continue
				}
				allowInitializers(m, j, name)
				j.Add(name, n.String(), "folded", "its inputs are constant")
				replaceWithConstants(n, consts)
			}
			return nil
		},
	}
}

// foldNode computes the outputs of a node whose inputs are constant; false where
// they are not, where it gives an output of the graph, or where one of all these
// has more than limit bytes.
func foldNode(m *graph.Model, n *graph.Node, limit int64) ([]*graph.Tensor, bool) {
	in, ok := constantInputs(m, n, limit)
	if !ok || slices.ContainsFunc(n.Outputs(), func(v *graph.Value) bool { return v != nil && v.IsOutput() }) {
		return nil, false
	}
	out, err := runtime.Eval(n, in)
	if err != nil {
		return nil, false // too large, or for the runtime to refuse in its own words if it still matters there
	}
	return constants(n, out, limit)
}

// constantInputs returns the inputs of a node that can be folded.
func constantInputs(m *graph.Model, n *graph.Node, limit int64) ([]*runtime.Tensor, bool) {
	if graph.NormalDomain(n.Domain) != "" || n.Is(unfoldable...) || m.Function(n.Domain, n.Op, n.Overload) != nil ||
		len(n.Subgraphs()) > 0 || len(n.Inputs()) == 0 {
		return nil, false
	}
	in := make([]*runtime.Tensor, len(n.Inputs()))
	for i, v := range n.Inputs() {
		if v == nil {
			continue
		}
		c := v.ConstTensor()
		if c == nil || c.Size() > limit {
			return nil, false
		}
		t, err := runtime.FromGraphTensor(c)
		if err != nil {
			return nil, false
		}
		in[i] = t
	}
	return in, true
}

// constants turns the results of n into constants that may take its place.
func constants(n *graph.Node, out []*runtime.Tensor, limit int64) ([]*graph.Tensor, bool) {
	consts := make([]*graph.Tensor, len(n.Outputs()))
	for i, v := range n.Outputs() {
		if v == nil {
			continue
		}
		c, err := runtime.ToGraphTensor(out[i])
		if err != nil || c.Size() > limit {
			return nil, false
		}
		consts[i] = c
	}
	return consts, true
}

// replaceWithConstants removes n and makes its outputs initializers of the
// same names.
func replaceWithConstants(n *graph.Node, consts []*graph.Tensor) {
	g := n.Graph()
	for i, c := range consts {
		v := n.Output(i)
		if v == nil {
			continue
		}
		name := v.Name
		v.Rename(g.FreshName(name + "_folded"))
		v.ReplaceUses(g.AddInitializer(name, c))
	}
	g.Remove(n)
}
