package passes_test

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// TestRewriteChain rewrites layers that read each other's outputs directly, as
// those of a factorised weight do. Their weights are block-circulant already,
// so the outputs stay what they were.
func TestRewriteChain(t *testing.T) {
	x := make([]float32, 12*4)
	for i := range x {
		x[i] = float32((i*7)%11) - 5
	}
	file := filepath.Join(t.TempDir(), "x.npz")
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Float32Array("x", []int{12, 4}, x)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(m *graph.Model) []float32 {
		t.Helper()
		p, err := runtime.Compile(m, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.NewSession(runtime.SessionOptions{Threads: 1}).Run(context.Background(),
			map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(12, 4), tensor.WithBacking(x))})
		if err != nil {
			t.Fatal(err)
		}
		return out["y"].Data().([]float32)
	}
	for _, withData := range []bool{false, true} {
		m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] v = {1, 2, 3, 5, 2, 1, 5, 3, -1, 4, 1, 0, 4, -1, 0, 1}, float[4, 4] w = {0, 1, 2, -1, 1, 0, -1, 2, 6, 1, 3, 2, 1, 6, 2, 3}>
{
  h = MatMul(x, v)
  k = MatMul(h, w)
  y = MatMul(k, v)
}`)
		if err != nil {
			t.Fatal(err)
		}
		want := run(m)
		o := passes.CirculantOptions{Block: 2, Fit: passes.FitFrobenius, IncludeHead: true}
		if withData {
			p, err := runtime.Compile(m, runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			source, err := calib.OpenSource(file, calib.SourceOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if o.Feed, err = source.Bind(p.Inputs()); err != nil {
				t.Fatal(err)
			}
		}
		if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
			t.Fatalf("with data: %v: %v", withData, err)
		}
		for _, n := range m.Graph.Nodes() {
			if n.Op != "BlockCirculantMatMul" {
				t.Errorf("with data: %v: %v is left", withData, n)
			}
		}
		// Integers below 2²⁴ and transforms of two elements are exact. With data
		// there is a bias, the difference of equal means in float64.
		for i, v := range run(m) {
			if math.Abs(float64(v-want[i])) > 1e-9 {
				t.Fatalf("with data: %v: element %d is %v, want %v", withData, i, v, want[i])
			}
		}
	}
}
