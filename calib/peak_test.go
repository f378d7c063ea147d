package calib_test

import (
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestPeak: a run fits into the estimate, with a quarter more for the
// rounding of buffers and a little for the very small; and it does not fit
// into a small part of it, so that the estimate says something.
func TestPeak(t *testing.T) {
	tested := 0
	for _, c := range testmodels.Cases() {
		m := c.Model()
		whole, err := runtime.Compile(m, runtime.Options{})
		if err != nil {
			continue // an operator that the runtime lacks; its tests list them
		}
		in := map[string]tensor.Tensor{}
		for _, a := range c.Inputs {
			x, err := runtime.FromGraphTensor(graphTensor(t, a))
			if err != nil {
				t.Fatal(err)
			}
			if in[a.Name], err = x.Dense(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := whole.NewSession(runtime.SessionOptions{Threads: 1}).Run(ctx, in); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		peak, known := calib.Peak(m, in)
		if !known {
			t.Logf("%s: not known", c.Name)
			continue
		}
		tested++
		room := peak + peak/4 + 16<<10
		if slices.ContainsFunc(m.Graph.Nodes(), func(n *graph.Node) bool { return n.Is("Conv") }) {
			room = 5 * peak // its workspace does not count
		}
		for _, limit := range []struct {
			bytes int64
			fits  bool
		}{{room, true}, {peak / 8, false}} {
			p, err := runtime.Compile(m, runtime.Options{MemoryLimit: limit.bytes})
			if err == nil {
				_, err = p.NewSession(runtime.SessionOptions{Threads: 1}).Run(ctx, in)
			}
			if (err == nil) != limit.fits {
				t.Errorf("%s: a peak of %d is estimated; with a limit of %d: %v", c.Name, peak, limit.bytes, err)
			}
		}
	}
	if tested < 10 {
		t.Errorf("only %d models tested", tested)
	}
}

func graphTensor(t *testing.T, a *npz.Array) *graph.Tensor {
	t.Helper()
	dims := make([]int64, len(a.Shape))
	for i, n := range a.Shape {
		dims[i] = int64(n)
	}
	x, err := graph.NewTensor(a.DType, dims, a.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestTotal: all values together, whichever is alive.
func TestTotal(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y) { a = Relu (x)
 b = Relu (a)
 y = Relu (b) }`)
	in := map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(5, 4), tensor.Of(tensor.Float32))}
	if n, known := calib.Total(m, in); n != 3*5*4*4 || !known {
		t.Errorf("%d bytes, known %v, want %d", n, known, 3*5*4*4)
	}
}
