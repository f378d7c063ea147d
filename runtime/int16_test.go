package runtime_test

import (
	"context"
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels/fixed"
)

// TestInt16Goldens holds every path to the reference implementation, bit by bit.
func TestInt16Goldens(t *testing.T) {
	cases, err := fixed.Cases()
	if err != nil || len(cases) < 100 {
		t.Fatalf("%d goldens, %v", len(cases), err)
	}
	for _, path := range simd.Supported() {
		t.Run(path.String(), func(t *testing.T) {
			for _, g := range cases {
				for _, threads := range []int{1, 2} {
					m := g.Model(17)
					m.Graph.Outputs()[0].Declared = nil
					if err := graph.Infer(m); err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					inferred := m.Graph.Outputs()[0].Type()
					prog, err := runtime.Compile(m, runtime.Options{Path: path.String()})
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					out, err := prog.NewSession(runtime.SessionOptions{Threads: threads}).Run(context.Background(), int16Feeds(t, g))
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					x, err := runtime.FromDense(out["out"])
					if err != nil {
						t.Fatal(err)
					}
					got, err := runtime.ToGraphTensor(x)
					if err != nil {
						t.Fatal(err)
					}
					dims, known := inferred.StaticDims()
					if !slices.Equal(got.Dims, g.Output.Dims) || !known || !slices.Equal(dims, g.Output.Dims) || got.DType != g.Output.DType || inferred.Elem != got.DType {
						t.Fatalf("%s: %v%v, inferred %v, want %v%v", g.Name, got.DType, got.Dims, inferred, g.Output.DType, g.Output.Dims)
					}
					a, errA := got.Bytes()
					b, errB := g.Output.Bytes()
					if errA != nil || errB != nil || !slices.Equal(a, b) {
						at := 0
						for a[at] == b[at] {
							at++
						}
						t.Fatalf("%s, %d threads: differs from element %d on", g.Name, threads, at*8/got.DType.Bits())
					}
				}
			}
		})
	}
}

func int16Feeds(t testing.TB, g fixed.Case) map[string]tensor.Tensor {
	t.Helper()
	feeds := map[string]tensor.Tensor{}
	for name, x := range g.Inputs {
		v, err := runtime.FromGraphTensor(x)
		if err != nil {
			t.Fatal(err)
		}
		switch v.DType {
		case graph.Int16:
			feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.I16())))
		default:
			feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.F32())))
		}
	}
	return feeds
}
