package passes_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// reexports are the test models that builders can write without modules.
func reexports() []testmodels.Case {
	return slices.DeleteFunc(testmodels.Cases(), func(c testmodels.Case) bool {
		return c.Name == "demo" || strings.HasPrefix(c.Name, "lenet") || strings.HasPrefix(c.Name, "resnet")
	})
}

// madeOf lists what a model is made of: operators and initializers, how often
// each, and the interface. Initializers go by their data.
func madeOf(m *graph.Model) map[string]int {
	out := map[string]int{}
	m.Graphs(func(g *graph.Graph) bool {
		for _, n := range g.Nodes() {
			if n.Op != "Constant" {
				out[n.Domain+"."+n.Op]++
			}
		}
		return true
	})
	for _, v := range m.Graph.Initializers() {
		if f, err := v.Const.Float32s(); err == nil {
			out[fmt.Sprint("weights ", v.Const.Dims, f[:min(4, len(f))])]++
		}
	}
	for _, v := range m.Graph.Inputs() {
		out["input "+v.Name+" "+v.Declared.String()]++
	}
	for _, v := range m.Graph.Outputs() {
		out["output "+v.Name+" "+v.Declared.String()]++
	}
	return out
}

// sets are the drops to try on a model with these modules: each module alone,
// a layer, all MLPs, the first half, and one of each layer in turn.
func sets(list []modules.Module) [][]string {
	var out [][]string
	var layer, mlps, first, turns []string
	for i, x := range list {
		out = append(out, []string{x.ID})
		if x.Layer == 1 {
			layer = append(layer, x.ID)
		}
		if x.Kind == modules.MLP {
			mlps = append(mlps, x.ID)
		}
		if i < len(list)/2 {
			first = append(first, x.ID)
		}
		if i%3 != 0 {
			turns = append(turns, x.ID)
		}
	}
	return append(out, layer, mlps, first, turns)
}

// TestDropIsReexport drops modules of every family, alone and together: the
// model is made of the same operators, weights, inputs and outputs as one that
// the exporter writes without these modules, and computes the same.
func TestDropIsReexport(t *testing.T) {
	for _, c := range reexports() {
		t.Run(c.Name, func(t *testing.T) {
			feeds := feedsOf(t, c.Inputs)
			_, err := runtime.Compile(c.Model(), runtime.Options{})
			runs := err == nil
			if !runs {
				t.Log("compared without running:", err)
			}
			list := modulesOf(t, c.Model())
			if len(list) < 6 {
				t.Errorf("%d modules can be dropped", len(list))
			}
			for _, gone := range sets(list) {
				m, want := c.Model(), c.Model(gone...)
				drop(t, m, passes.DropOptions{}, gone...)
				passed(t, m, passes.EliminateDeadCode())
				if a, b := madeOf(m), madeOf(want); !maps.Equal(a, b) {
					t.Errorf("without %v: %s", gone, differ(a, b))
				}
				if !runs {
					continue
				}
				has := func(name string) bool { return want.Graph.Value(name) != nil }
				given := maps.Clone(feeds)
				maps.DeleteFunc(given, func(name string, _ tensor.Tensor) bool { return !has(name) })
				got, re := run(t, m, given, runtime.Options{}), run(t, want, given, runtime.Options{})
				for name := range re {
					if got[name] == nil {
						t.Fatalf("without %v: no output %q", gone, name)
					}
					if d := difference(t, name, got[name], re[name]); !(d <= rounding) {
						t.Errorf("without %v: output %q differs by %g", gone, name, d)
					}
				}
			}
		})
	}
}

func passed(t *testing.T, m *graph.Model, p passes.Pass) {
	t.Helper()
	if err := passes.Run(ctx, m, &passes.Journal{}, p); err != nil {
		t.Fatal(err)
	}
}

// differ says what a has that b has not, and back.
func differ(a, b map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if a[k] != b[k] {
			out = append(out, fmt.Sprintf("%d %s, a new export has %d", a[k], k, b[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if a[k] == 0 {
			out = append(out, fmt.Sprintf("no %s, a new export has %d", k, b[k]))
		}
	}
	return strings.Join(out, "; ")
}
