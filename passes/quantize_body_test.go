package passes

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels/fixed"
)

// TestInt16Bodies runs the function bodies on the goldens of the kernels: what a
// body gives in float32 may be a step off where a sum lies next to a half, and a
// few more where rounding errors of a transform meet.
func TestInt16Bodies(t *testing.T) {
	cases, err := fixed.Cases()
	if err != nil {
		t.Fatal(err)
	}
	for _, opset := range []int64{9, 10, 11, 13, 17} {
		elements, off, worst := 0, 0, 0
		for _, g := range cases {
			m := g.Model(opset)
			n := m.Graph.Nodes()[0]
			if strings.HasPrefix(g.Op, "BlockCirculant") && n.Str("rounding", "") != "" {
				continue // the bodies do not imitate it
			}
			if strings.HasPrefix(g.Op, "BlockCirculant") && g.Extreme() {
				continue // sums and biases cancel that float32 cannot hold
			}
			if opset < 10 && n.Int("ceil_mode", 0) != 0 {
				continue
			}
			if opset < 10 {
				n.RemoveAttr("ceil_mode")
			}
			f, err := int16Function(g.Op, opset)
			if err != nil {
				t.Fatal(err)
			}
			m.CopyFunction(f)
			if err := graph.Check(m); err != nil {
				t.Fatalf("%s, opset %d: %v", g.Name, opset, err)
			}
			prog, err := runtime.Compile(m, runtime.Options{Bodies: true})
			if err != nil {
				t.Fatalf("%s, opset %d: %v", g.Name, opset, err)
			}
			feeds := map[string]tensor.Tensor{}
			for name, x := range g.Inputs {
				v, err := runtime.FromGraphTensor(x)
				if err != nil {
					t.Fatal(err)
				}
				if v.DType == graph.Int16 {
					feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.I16())))
				} else {
					feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.F32())))
				}
			}
			out, err := prog.NewSession(runtime.SessionOptions{Threads: 1}).Run(context.Background(), feeds)
			if err != nil {
				t.Fatalf("%s, opset %d: %v", g.Name, opset, err)
			}
			got, err := runtime.FromDense(out["out"])
			if err != nil {
				t.Fatal(err)
			}
			want, err := runtime.FromGraphTensor(g.Output)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Shape, want.Shape) || got.DType != want.DType {
				t.Fatalf("%s, opset %d: %v%v, want %v%v", g.Name, opset, got.DType, got.Shape, want.DType, want.Shape)
			}
			if got.DType == graph.Float32 {
				if !slices.Equal(got.F32(), want.F32()) {
					t.Errorf("%s, opset %d: %v, want %v", g.Name, opset, got.F32(), want.F32())
				}
				continue
			}
			for i, w := range want.I16() {
				d := int(math.Abs(float64(got.I16()[i]) - float64(w)))
				if g.Op == "QuantizeInt16" && feeds["in0"].Data().([]float32)[i] != feeds["in0"].Data().([]float32)[i] {
					continue // bodies leave open what NaN gives
				}
				elements++
				if d > 0 {
					off++
				}
				worst = max(worst, d)
				// What conversions, clips and largest elements give is exact. The
				// transforms of bodies have twiddles of 15 bits once, those of kernels
				// at every stage, and these spectra are as large as can be: 2⁻¹⁶ of
				// their sums, which saturate, is several steps.
				most := 1
				switch g.Op {
				case "QuantizeInt16", "RequantizeInt16", "ClipInt16", "MaxPoolInt16":
					most = 0
				case "BlockCirculantMatMulInt16", "BlockCirculantConvInt16":
					most = 2 + int(n.Input(1).ConstTensor().Dims[2])/4
				}
				if d > most {
					t.Fatalf("%s, opset %d: element %d is %d, want %d", g.Name, opset, i, got.I16()[i], w)
				}
			}
		}
		t.Logf("opset %d: %d of %d elements differ, by %d steps at most", opset, off, elements, worst)
		if off*10 > elements {
			t.Errorf("opset %d: %d of %d elements differ", opset, off, elements)
		}
	}
}
