package passes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestInlineFunctions: models without functions give what those with functions
// do, to rounding, in both forms, and nothing of lathe is left. ONNX Runtime and
// onnx.checker judge the same in bench/ortcheck.
func TestInlineFunctions(t *testing.T) {
	blocks := []int{3, 4, 2}
	for i, name := range []string{"bert-13", "bert-17-functions", "llama-18-functions", "vit-13", "lenet-13", "resnet-17-norms", "whisper-17-merged-past"} {
		all := testmodels.Cases()
		c := all[slices.IndexFunc(all, func(c testmodels.Case) bool { return c.Name == name })]
		m := c.Model()
		rewrite := passes.RewriteCirculant(passes.CirculantOptions{Block: blocks[i%3], Fit: passes.FitFrobenius})
		if err := passes.Run(ctx, m, new(passes.Journal), rewrite, passes.EliminateDeadCode()); err != nil {
			t.Fatal(err)
		}
		if len(m.Functions) == 0 {
			if err := passes.Run(ctx, m, new(passes.Journal), passes.InlineFunctions(passes.InlineDFT)); err == nil || !strings.Contains(err.Error(), "no functions") {
				t.Errorf("%s: without functions: %v", name, err)
			}
			continue
		}
		for _, form := range []passes.InlineForm{passes.InlineDFT, passes.InlineDense} {
			t.Run(name+"/"+string(form), func(t *testing.T) {
				out, j := m.Clone(), new(passes.Journal)
				if err := passes.Run(ctx, out, j, passes.InlineFunctions(form), passes.EliminateDeadCode()); err != nil {
					t.Fatal(err)
				}
				if err := graph.Infer(out); err != nil {
					t.Error(err)
				}
				if _, has := out.Opset(graph.LatheDomain); has || len(out.Functions) > 0 || len(j.By("inline-functions")) == 0 {
					t.Errorf("%d functions are left, lathe imported: %v; %d entries", len(out.Functions), has, len(j.By("inline-functions")))
				}
				out.Graphs(func(g *graph.Graph) bool {
					for _, n := range g.Nodes() {
						if n.Domain == graph.LatheDomain {
							t.Errorf("%v is left", n)
						}
						// No spectrum is computed when the model runs.
						if n.Is("Cos", "Sin") && strings.Contains(n.Name, "MatMul") {
							t.Errorf("%v is not folded", n)
						}
					}
					return true
				})
				want, got := runCase(t, m, c), runCase(t, out, c)
				for name, w := range want {
					near(t, name, got[name], w, 2e-5)
				}
				if form == passes.InlineDense && name == "bert-13" {
					// What there was before, but for a Gemm that is now two nodes.
					original := c.Model()
					if p, q := len(out.Graph.Nodes()), len(original.Graph.Nodes()); p > q+1 {
						t.Errorf("%d nodes, %d before it was rewritten", p, q)
					}
				}
			})
		}
	}
	if err := passes.Run(ctx, testmodels.BERT(testmodels.Size{Seed: 1}, testmodels.BERTOptions{Functions: true}), new(passes.Journal), passes.InlineFunctions("sparse")); err == nil {
		t.Error("an unknown form")
	}
}

// TestInlineGrowth: functions that call each other twice stand for more nodes
// than there is room for.
func TestInlineGrowth(t *testing.T) {
	var b strings.Builder
	b.WriteString("<ir_version: 8, opset_import: [\"\": 17, \"f\": 1]>\ng (float[2] x) => (float[2] y) { y = f.f0 (x) }\n")
	for i := range 40 {
		call := fmt.Sprintf("f.f%d", i+1)
		if i == 39 {
			call = "Relu"
		}
		fmt.Fprintf(&b, "<domain: \"f\", opset_import: [\"\": 17, \"f\": 1]>\nf%d (x) => (y) { a = %s (x)\n y = %s (a) }\n", i, call, call)
	}
	m, err := graph.Parse(b.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := passes.Run(ctx, m, new(passes.Journal), passes.InlineFunctions(passes.InlineDFT)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v, want a bound", err)
	}
}

func runCase(t *testing.T, m *graph.Model, c testmodels.Case) map[string][]float32 {
	t.Helper()
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := prog.NewSession(runtime.SessionOptions{}).Run(ctx, feedsOf(t, c.Inputs))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]float32{}
	for name, d := range out {
		v, err := runtime.FromDense(d)
		if err != nil {
			t.Fatal(err)
		}
		if v.DType == graph.Float32 {
			values[name] = v.F32()
		}
	}
	return values
}

// near checks that got is want to tol, relative to its largest element.
func near(t *testing.T, name string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d elements, want %d", name, len(got), len(want))
		return
	}
	var most, worst float64
	for i := range want {
		most, worst = max(most, abs(want[i])), max(worst, abs(got[i]-want[i]))
	}
	if !(worst <= tol*most) {
		t.Errorf("%s: off by %g of %g", name, worst, most)
	}
}

func abs(x float32) float64 { return float64(max(x, -x)) }
