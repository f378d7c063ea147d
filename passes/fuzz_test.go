package passes_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// randomModel draws a graph of up to 24 nodes on values [2, 4]: residual
// sums, linear layers with weights that are shared, transposed, computed or
// read by a Gather too, norms, constants, If nodes, dead ends, and outputs
// anywhere.
func randomModel(r *rand.Rand) *graph.Model {
	m := graph.NewModel("fuzz", []int64{4, 8, 10}[r.IntN(3)], []int64{9, 13, 17}[r.IntN(3)])
	opset, _ := m.Opset("")
	g := m.Graph
	typ := graph.TensorType(graph.Float32, graph.Known(2), graph.Known(4))
	values := []*graph.Value{g.AddInput("x", typ)}
	ids := g.AddInput("ids", graph.TensorType(graph.Int64, graph.Known(2)))
	flag := g.AddInput("flag", graph.TensorType(graph.Bool))
	var weights, rows []*graph.Value
	for i := range 3 {
		weights = append(weights, g.AddInitializer(fmt.Sprintf("w%d", i), graph.Float32Tensor([]int64{4, 4}, normal(uint64(i), 16))))
		rows = append(rows, g.AddInitializer(fmt.Sprintf("b%d", i), graph.Float32Tensor([]int64{4}, normal(uint64(9+i), 4))))
	}
	n := 0
	node := func(op string, in []*graph.Value, attrs ...*graph.Attr) *graph.Value {
		n++
		return g.NewNode("", op, fmt.Sprintf("n%d", n), in, []string{fmt.Sprintf("v%d", n)}, attrs...).Output(0)
	}
	some := func(list []*graph.Value) *graph.Value { return list[r.IntN(len(list))] }
	late := func() *graph.Value { return values[max(0, len(values)-1-r.IntN(3))] }
	for range 4 + r.IntN(20) {
		x := late()
		var y *graph.Value
		switch r.IntN(14) {
		case 0, 1, 2:
			y = node("Add", []*graph.Value{x, late()})
		case 3, 4:
			y = node("MatMul", []*graph.Value{x, some(weights)})
		case 5:
			y = node("MatMul", []*graph.Value{x, node("Transpose", []*graph.Value{some(weights)})})
		case 6:
			y = node("Gemm", []*graph.Value{x, some(weights), some(rows)}, graph.IntAttr("transB", int64(r.IntN(2))), graph.FloatAttr("alpha", 0.5))
		case 7:
			y = node("Add", []*graph.Value{some(rows), x})
		case 8:
			y = node("Gather", []*graph.Value{some(weights), ids})
		case 9:
			y = node("Relu", []*graph.Value{x})
		case 10:
			y = node("MatMul", []*graph.Value{x, node("Neg", []*graph.Value{some(weights)})})
		case 11:
			if opset >= 17 {
				y = node("LayerNormalization", []*graph.Value{x, some(rows), some(rows)})
			} else {
				y = node("Tanh", []*graph.Value{x})
			}
		case 12: // an attention over the two tokens
			q, k := node("MatMul", []*graph.Value{x, some(weights)}), node("MatMul", []*graph.Value{x, some(weights)})
			p := node("Softmax", []*graph.Value{node("MatMul", []*graph.Value{q, node("Transpose", []*graph.Value{k})})}, graph.IntAttr("axis", -1))
			if opset < 13 {
				p.Def().SetAttr(graph.IntAttr("axis", 1))
			}
			y = node("Add", []*graph.Value{x, node("MatMul", []*graph.Value{p, node("MatMul", []*graph.Value{x, some(weights)})})})
		case 13:
			n++
			iff := g.NewNode("", "If", fmt.Sprintf("n%d", n), []*graph.Value{flag}, []string{fmt.Sprintf("v%d", n)})
			for _, name := range []string{"then_branch", "else_branch"} {
				s := iff.NewSubgraph(name)
				n++
				s.AddOutput(s.NewNode("", "MatMul", "", []*graph.Value{x, some(weights)}, []string{fmt.Sprintf("v%d", n)}).Output(0), typ)
				iff.SetAttr(graph.GraphAttr(name, s))
			}
			y = iff.Output(0)
		}
		if r.IntN(4) > 0 { // else a dead end
			values = append(values, y)
		}
	}
	for k := range 1 + r.IntN(2) {
		v := values[len(values)-1]
		if k > 0 {
			v = some(values)
		}
		if v.Def() != nil && !v.IsOutput() {
			g.AddOutput(v, typ)
		}
	}
	if len(g.Outputs()) == 0 {
		g.AddOutput(node("Relu", []*graph.Value{values[0]}), typ)
	}
	return m
}

// FuzzPipeline runs passes over random graphs: the model stays whole, a pass
// that promises exactness or rounding keeps its promise, drops leave the
// modules that they do not name, and everything ends with a model that runs,
// or an error.
func FuzzPipeline(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, uint16(seed*2654435761>>3))
	}
	f.Fuzz(func(t *testing.T, seed uint64, what uint16) {
		m := randomModel(rand.New(rand.NewPCG(seed, 1)))
		if err := graph.Check(m); err != nil {
			t.Fatalf("the random model is not whole: %v", err)
		}
		feeds := inputs(t, m)
		feeds["ids"] = tensor.New(tensor.WithShape(2), tensor.WithBacking([]int64{3, 1}))
		want := run(t, m, feeds, runtime.Options{})
		same := func(m *graph.Model, tolerance float64, by string) {
			t.Helper()
			for name, v := range run(t, m, feeds, runtime.Options{}) {
				if d := difference(t, name, v, want[name]); !(d <= tolerance) {
					t.Fatalf("%s: output %q differs by %g\n%s", by, name, d, m.Text())
				}
			}
		}
		must := func(m *graph.Model, list ...passes.Pass) {
			t.Helper()
			if err := passes.Run(ctx, m, &passes.Journal{}, list...); err != nil {
				t.Fatalf("%v\n%s", err, m.Text())
			}
		}
		clean := m.Clone()
		must(clean, passes.EliminateDeadCode())
		same(clean, 0, "eliminate-dead-code")
		again := clean.Clone()
		must(again, passes.EliminateDeadCode())
		if again.Text() != clean.Text() {
			t.Fatalf("dead code is left:\n%s", clean.Text())
		}
		must(clean, passes.FoldConstants(), passes.EliminateDeadCode())
		same(clean, 4*rounding, "fold-constants")

		// Drop some of the modules.
		list, err := modules.Find(clean)
		if err != nil {
			t.Fatal(err)
		}
		var gone, left []string
		for i, x := range list {
			if x.Droppable && what>>(i%16)&1 == 1 {
				gone = append(gone, x.ID)
			} else {
				left = append(left, x.ID)
			}
		}
		short := clean.Clone()
		must(short, passes.DropModules(gone, passes.DropOptions{Norm: []passes.Norm{passes.NormGone, passes.NormKept}[seed%2]}))
		run(t, short, feeds, runtime.Options{})
		if h, err := modules.ReadHistory(short); err != nil || len(gone) > 0 && len(h.Dropped) != len(gone) || len(h.Modules) > len(left) {
			t.Fatalf("history %+v, %v, %v dropped of %v", h, err, gone, list)
		}

		// Rewrite all layers: the operator computes what its body says.
		must(short, passes.RewriteCirculant(passes.CirculantOptions{Block: 2, Fit: passes.FitFrobenius, IncludeTied: true, IncludeHead: true}), passes.EliminateDeadCode())
		kernels, bodies := run(t, short, feeds, runtime.Options{}), run(t, short, feeds, runtime.Options{Bodies: true})
		for name, v := range kernels {
			if d := difference(t, name, v, bodies[name]); !(d <= 4*rounding) {
				t.Fatalf("output %q: kernel and body differ by %g\n%s", name, d, short.Text())
			}
		}
		b, err := short.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := graph.Decode(b); err != nil {
			t.Fatal(err)
		}
	})
}
