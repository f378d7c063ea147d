package passes

import (
	"context"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// foldLimit bounds the bytes of a folded result: shapes, tables and small
// weights fold, a model does not blow up. 1 MB is larger than any mask table
// of 512 × 512 and smaller than a layer of a real model.
const foldLimit = 1 << 20

// unfoldable are the operators whose value is not a function of their inputs,
// or that say something a constant does not: quantized weights stay quantized.
var unfoldable = []string{"Constant", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
	"Bernoulli", "Multinomial", "Dropout", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}

// FoldConstants computes the nodes whose inputs are all constant and puts
// initializers in their place.
func FoldConstants() Pass {
	const name = "fold-constants"
	return Pass{
		Name:     name,
		Doc:      "compute what depends on constants alone",
		Contract: Rounding,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			g := m.Graph
			outputs := map[*graph.Value]bool{}
			for _, v := range g.Outputs() {
				outputs[v] = true
			}
			for _, n := range slices.Clone(g.Nodes()) {
				if err := ctx.Err(); err != nil {
					return err
				}
				in, ok := constantInputs(n)
				if !ok || slices.ContainsFunc(n.Outputs(), func(v *graph.Value) bool { return outputs[v] }) {
					continue
				}
				out, err := runtime.Eval(n, in)
				if err != nil {
					continue // left for the runtime to refuse, with its own words, if it still matters there
				}
				if err := replaceWithConstants(g, n, out); err != nil {
					continue
				}
				j.Add(name, n.String(), fmt.Sprintf("folded into %d initializers", len(out)), "its inputs are constant")
			}
			return nil
		},
	}
}

func constantInputs(n *graph.Node) ([]*runtime.Tensor, bool) {
	if graph.NormalDomain(n.Domain) != "" || n.Is(unfoldable...) || len(n.Subgraphs()) > 0 || len(n.Inputs()) == 0 {
		return nil, false
	}
	in := make([]*runtime.Tensor, len(n.Inputs()))
	for i, v := range n.Inputs() {
		if v == nil {
			continue
		}
		c := v.ConstTensor()
		if c == nil || c.Size() > foldLimit {
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

// replaceWithConstants removes n and makes its outputs initializers of the
// same names.
func replaceWithConstants(g *graph.Graph, n *graph.Node, out []*runtime.Tensor) error {
	consts := make([]*graph.Tensor, len(out))
	for i, t := range out {
		if t == nil || n.Output(i) == nil {
			continue
		}
		if t.Len() > foldLimit/8 {
			return fmt.Errorf("the result has %d elements", t.Len())
		}
		c, err := runtime.ToGraphTensor(t)
		if err != nil {
			return err
		}
		consts[i] = c
	}
	for i, c := range consts {
		v := n.Output(i)
		if v == nil {
			continue
		}
		name := v.Name
		v.Rename(g.FreshName(name + "_folded"))
		w := g.AddInitializer(name, c)
		v.ReplaceUses(w)
	}
	g.Remove(n)
	return nil
}
