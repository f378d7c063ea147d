package passes_test

import (
	"math"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestRewriteInside: layers in functions and in the branches of an If become
// what they become in the export that has them in its main graph, whichever
// branch runs.
func TestRewriteInside(t *testing.T) {
	cases := map[string]testmodels.Case{}
	for _, c := range testmodels.Cases() {
		cases[c.Name] = c
	}
	for _, pair := range []struct {
		inside, plain string
		data          bool // whether data can be made of tokens alone
	}{
		{"bert-17-functions", "bert-17", false},
		{"llama-18-functions", "llama-17-cache", true},
		{"gpt2-17-merged-past", "gpt2-17-cache", true},
		{"gpt2-17-merged-start", "gpt2-17-cache", true},
		{"whisper-17-merged-past", "", false},
	} {
		for _, fit := range []passes.Fit{passes.FitFrobenius, passes.FitLSQ} {
			if fit == passes.FitLSQ && !pair.data {
				continue
			}
			t.Run(pair.inside+" "+string(fit), func(t *testing.T) {
				c := cases[pair.inside]
				rewritten := func(m *graph.Model) (*graph.Model, int) {
					layers := 0
					o := passes.CirculantOptions{Block: 4, Fit: fit, Layer: func(passes.CirculantLayer) { layers++ }}
					if fit == passes.FitLSQ {
						o.Feed = bind(t, m, source(t, tokens("input_ids", 40, 24, 6)))
					}
					if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
						t.Fatal(err)
					}
					return m, layers
				}
				compute := func(m *graph.Model) map[string]tensor.Tensor {
					feeds := map[string]tensor.Tensor{}
					for _, a := range c.Inputs {
						if v := m.Graph.Value(a.Name); v == nil || !v.IsInput() {
							continue
						}
						dims := make([]int64, len(a.Shape))
						for i, d := range a.Shape {
							dims[i] = int64(d)
						}
						g, err := graph.NewTensor(a.DType, dims, a.Raw)
						if err != nil {
							t.Fatal(err)
						}
						x, err := runtime.FromGraphTensor(g)
						if err != nil {
							t.Fatal(err)
						}
						if feeds[a.Name], err = x.Dense(); err != nil {
							t.Fatal(err)
						}
					}
					return run(t, m, feeds, runtime.Options{})
				}
				got, layers := rewritten(c.Model())
				if layers < 12 {
					t.Errorf("%d layers", layers)
				}
				// Nothing is left dense in either branch but the head.
				dense := 0
				for _, n := range got.Graph.Nodes() {
					for _, s := range n.Subgraphs() {
						for _, k := range s.Nodes() {
							if k.Is("MatMul", "Gemm") && k.Input(1) != nil && k.Input(1).ConstTensor() != nil {
								dense++
							}
						}
					}
				}
				if dense > 2 {
					t.Errorf("%d layers of the branches are dense", dense)
				}
				if pair.plain == "" {
					compute(got)
					return
				}
				want, others := rewritten(cases[pair.plain].Model())
				if layers != others {
					t.Errorf("%d layers, %d in the plain export", layers, others)
				}
				original := compute(c.Model())
				g, w := compute(got), compute(want)
				for name, x := range w {
					y, ok := g[name]
					if !ok {
						t.Fatalf("output %q is missing", name)
					}
					a, b, first := y.Data().([]float32), x.Data().([]float32), original[name].Data().([]float32)
					worst, largest, changed := 0.0, 0.0, 0.0
					for i := range b {
						worst = math.Max(worst, math.Abs(float64(a[i]-b[i])))
						largest = math.Max(largest, math.Abs(float64(b[i])))
						changed = math.Max(changed, math.Abs(float64(a[i]-first[i])))
					}
					// Least squares solves with what rounding made of the data.
					limit := 1e-5
					if fit == passes.FitLSQ {
						limit = 2e-3
					}
					if !(worst <= limit*largest) {
						t.Errorf("output %q is off by %g of %g", name, worst, largest)
					}
					if name == "logits" && !(changed > 1e-2*largest) {
						t.Errorf("output %q is that of the original", name)
					}
				}
			})
		}
	}
}
