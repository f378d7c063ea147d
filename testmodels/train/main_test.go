package main

import (
	"math"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestGates: with all gates open the model is the original, and with one closed
// the original without that module.
func TestGates(t *testing.T) {
	file, _, _ := testmodels.Demo()
	m, err := graph.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	gated, layers, err := addGates(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 16 || layers[0] != 0 || layers[15] != 7 {
		t.Fatalf("gates of layers %v", layers)
	}
	const n = 3
	features, _ := testmodels.WordSamples(testmodels.EvalSeed, n)
	run := func(m *graph.Model, closed int) []float32 {
		prog, err := runtime.Compile(m, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]tensor.Tensor{"features": tensor.New(tensor.WithShape(n, testmodels.WordFrames, testmodels.WordFeatures), tensor.WithBacking(features))}
		if m == gated {
			keep := make([]float32, n*len(layers))
			for i := range keep {
				if i%len(layers) != closed {
					keep[i] = 1
				}
			}
			in[gateInput] = tensor.New(tensor.WithShape(n, len(layers)), tensor.WithBacking(keep))
		}
		out, err := prog.NewSession(runtime.SessionOptions{}).Run(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return out["logits"].Data().([]float32)
	}
	near := func(what string, got, want []float32) {
		for i, v := range got {
			if math.Abs(float64(v-want[i])) > 1e-4 {
				t.Errorf("%s: logit %d is %v, want %v", what, i, v, want[i])
				return
			}
		}
	}
	near("open", run(gated, -1), run(m, -1))
	for i, id := range map[int]string{0: "A0", 7: "M3", 14: "A7"} {
		c := m.Clone()
		if err := passes.Run(t.Context(), c, &passes.Journal{}, passes.DropModules([]string{id}, passes.DropOptions{}), passes.EliminateDeadCode()); err != nil {
			t.Fatal(err)
		}
		near(id, run(gated, i), run(c, -1))
	}
}
