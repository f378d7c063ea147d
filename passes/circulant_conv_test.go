package passes_test

import (
	"fmt"
	"math"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// TestConvBody runs a rewritten convolution by its definition (a Conv in float64
// whose matrix of channels has the entries W[i, j, (a − c) mod b] at every tap), by
// the kernel, and by the body that stock runtimes run, for every opset whose body
// is another, channels that fill their blocks or not, one and two dims.
func TestConvBody(t *testing.T) {
	for _, opset := range []int64{9, 10, 11, 13, 17, 22} {
		for _, c := range []struct {
			m, channels, b int
			kernel         []int
			attrs          string
		}{
			{8, 8, 4, []int{3, 3}, "pads = [1, 1, 1, 1]"}, {6, 9, 4, []int{3, 2}, "strides = [2, 1]"}, {7, 5, 2, []int{1, 1}, ""},
			{9, 10, 3, []int{2, 2}, "dilations = [2, 1]"}, {8, 16, 8, []int{3}, "pads = [2, 1]"}, {5, 6, 4, []int{4}, "auto_pad = \"SAME_LOWER\""},
		} {
			dims, size, taps := "3", 1, 1
			var spatial []int
			for i, k := range c.kernel {
				spatial = append(spatial, 6+i)
				dims += fmt.Sprintf(",%d", k)
				size *= 6 + i
				taps *= k
			}
			m := parse(t, fmt.Sprintf(`<ir_version: 8, opset_import: ["": %d]>
g (float[] x) => (float[] y)
<%s, %s>
{
  [layer] h = Conv <%s> (x, w, bias)
  y = Relu (h)
}`, opset, weight("w", 1, append([]int{c.m, c.channels}, c.kernel...)...), weight("bias", 2, c.m), c.attrs))
			m.Graph.Inputs()[0].Declared.Shape, m.Graph.Outputs()[0].Declared.Shape = nil, nil
			err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: c.b, Fit: passes.FitFrobenius}), passes.EliminateDeadCode())
			if err != nil {
				t.Fatal(err)
			}
			if op := m.Graph.Nodes()[0].Op; op != "BlockCirculantConv" {
				t.Fatalf("opset %d, %+v: %s, not rewritten", opset, c, op)
			}
			W, B := initializer(t, m, "w_circulant"), initializer(t, m, "layer_circulant_bias")
			q := (c.channels + c.b - 1) / c.b
			wide := make([]float64, c.m*c.channels*taps)
			for i := range wide {
				row, ch, tap := i/taps/c.channels, i/taps%c.channels, i%taps
				wide[i] = float64(W[((row/c.b*q+ch/c.b)*c.b+((row-ch)%c.b+c.b)%c.b)*taps+tap])
			}
			x := normal(3, 2*c.channels*size)
			want := dense64(t, opset, c.attrs, append([]int{2, c.channels}, spatial...), x, append([]int{c.m, c.channels}, c.kernel...), wide, B)
			in, err := runtime.FromSlice(append([]int{2, c.channels}, spatial...), x).Dense()
			if err != nil {
				t.Fatal(err)
			}
			largest := 0.
			for _, v := range want {
				largest = math.Max(largest, math.Abs(v))
			}
			for _, bodies := range []bool{false, true} {
				got := run(t, m, map[string]tensor.Tensor{"x": in}, runtime.Options{Bodies: bodies})["y"].Data().([]float32)
				if len(got) != len(want) {
					t.Fatalf("opset %d, %+v, body %v: %d elements, want %d", opset, c, bodies, len(got), len(want))
				}
				for k, v := range got {
					if !(math.Abs(float64(v)-max(want[k], 0)) <= rounding*largest) {
						t.Fatalf("opset %d, %+v, body %v: element %d is %v, want %v", opset, c, bodies, k, v, max(want[k], 0))
					}
				}
			}
		}
	}
}

// dense64 is a Conv in float64.
func dense64(t *testing.T, opset int64, attrs string, xShape []int, x []float32, wShape []int, w []float64, b []float32) []float64 {
	t.Helper()
	m := parse(t, fmt.Sprintf(`<ir_version: 8, opset_import: ["": %d]>
g (double[] x, double[] w, double[] b) => (double[] y)
{
  y = Conv <%s> (x, w, b)
}`, opset, attrs))
	for _, v := range append(m.Graph.Inputs(), m.Graph.Outputs()...) {
		v.Declared.Shape = nil
	}
	in := map[string]tensor.Tensor{}
	for name, a := range map[string]*runtime.Tensor{"x": runtime.FromSlice(xShape, widened(x)), "w": runtime.FromSlice(wShape, w), "b": runtime.FromSlice([]int{len(b)}, widened(b))} {
		d, err := a.Dense()
		if err != nil {
			t.Fatal(err)
		}
		in[name] = d
	}
	return run(t, m, in, runtime.Options{})["y"].Data().([]float64)
}

func widened(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// TestConvProjection: the projection of channels that do not fill their blocks is
// over the weights that exist, as for a matrix, at every tap by itself.
func TestConvProjection(t *testing.T) {
	// Two outputs of three channels, taps 0 and 1: in blocks of 2 the second block of
	// a tap has one channel.
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,4] x) => (float[N,2,3] y)
<float[2,3,2] w = {1, 10, 2, 20, 3, 30, 5, 50, 4, 40, 7, 70}>
{
  h = Conv (x, w)
  y = Relu (h)
}`)
	var layer passes.CirculantLayer
	o := passes.CirculantOptions{Block: 2, Fit: passes.FitFrobenius, IncludeFirst: true, Layer: func(l passes.CirculantLayer) { layer = l }}
	if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o)); err != nil {
		t.Fatal(err)
	}
	// Tap 0: [1 2 3; 5 4 7] is {(1+4)/2, (5+2)/2} and {3, 7}. [p, q, b, taps].
	want := []float32{2.5, 25, 3.5, 35, 3, 30, 7, 70}
	for i, v := range initializer(t, m, "w_circulant") {
		if v != want[i] {
			t.Fatalf("weights %v, want %v", initializer(t, m, "w_circulant"), want)
		}
	}
	if want := math.Sqrt(4 * 1.5 * 1.5 / (1 + 4 + 9 + 25 + 16 + 49)); math.Abs(layer.WeightError-want) > 1e-9 {
		t.Errorf("weight error %v, want %v", layer.WeightError, want)
	}
	if layer.ParamsBefore != 12 || layer.ParamsAfter != 10 {
		t.Errorf("%d → %d parameters, want 12 → 8 and a bias of 2", layer.ParamsBefore, layer.ParamsAfter)
	}
}
