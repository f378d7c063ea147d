package ortcheck

import (
	"context"
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// The runtime agrees with ONNX Runtime on every public model, which is run as
// it stands there, without rewrites.
func TestRuntimeAgrees(t *testing.T) {
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			path := dataFile(t, "models/"+c.model)
			theirs := open(t, path, ort.Options{Basic: true})
			m, err := graph.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			program, err := runtime.Compile(m, runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			ours := program.NewSession(runtime.SessionOptions{Threads: 2})
			for _, feeds := range c.feeds(t, theirs) {
				want, err := theirs.Run(feeds)
				if err != nil {
					t.Fatal(err)
				}
				got, err := ours.Run(context.Background(), toTensors(feeds))
				if err != nil {
					t.Fatal(err)
				}
				compare(t, got, want)
			}
		})
	}
}

// compare holds every output against ONNX Runtime's.
func compare(t *testing.T, got map[string]tensor.Tensor, want map[string]nd.Array) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d outputs, want %d", len(got), len(want))
	}
	worst := 0.0
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			t.Errorf("no output %q", name)
			continue
		}
		if slices.Contains(w.Shape, 0) { // gorgonia's empty tensors give no data
			if s := g.Shape(); s.TotalSize() != 0 || len(s) != len(w.Shape) {
				t.Errorf("output %q is %v, want %v", name, s, w.Shape)
			}
			continue
		}
		e, err := quality.RelativeError(fromTensor(g), w)
		if err != nil || !(e <= tolerance) {
			t.Errorf("output %q: relative error %.2g, %v", name, e, err)
		}
		worst = max(worst, e)
	}
	t.Logf("worst relative error %.2g over %d outputs", worst, len(want))
}

func toTensors(arrays map[string]nd.Array) map[string]tensor.Tensor {
	out := map[string]tensor.Tensor{}
	for name, a := range arrays {
		shape := make([]int, len(a.Shape))
		for i, d := range a.Shape {
			shape[i] = int(d)
		}
		out[name] = tensor.New(tensor.WithShape(shape...), tensor.WithBacking(a.Data))
	}
	return out
}

func fromTensor(t tensor.Tensor) nd.Array {
	a := nd.Array{Shape: []int64{}, Data: t.Data()}
	for _, d := range t.Shape() {
		a.Shape = append(a.Shape, int64(d))
	}
	return a
}
