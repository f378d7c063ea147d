package passes_test

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// TestConvBody runs a rewritten convolution by its definition (a Conv in float64
// whose matrix of channels has the entries W[i, j, (a − c) mod b] at every tap), by
// the kernel, and by the body that stock runtimes run, for every opset whose body
// is another, channels that fill their blocks or not, in groups, one and two dims.
func TestConvBody(t *testing.T) {
	for _, opset := range []int64{9, 10, 11, 13, 17, 22} {
		for _, c := range []struct {
			m, channels, b int // channels of a group
			kernel         []int
			attrs          string
			group          int
		}{
			{8, 8, 4, []int{3, 3}, "pads = [1, 1, 1, 1]", 1}, {6, 9, 4, []int{3, 2}, "strides = [2, 1]", 1}, {7, 5, 2, []int{1, 1}, "", 1},
			{9, 10, 3, []int{2, 2}, "dilations = [2, 1]", 1}, {8, 16, 8, []int{3}, "pads = [2, 1]", 1}, {5, 6, 4, []int{4}, "auto_pad = \"SAME_LOWER\"", 1},
			{16, 4, 4, []int{3, 3}, "group = 4, pads = [1, 1, 1, 1]", 4}, {24, 12, 8, []int{3, 3}, "group = 2, pads = [1, 1, 1, 1]", 2},
			{15, 7, 4, []int{3}, "group = 3, strides = [2]", 3},
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
			q, per := (c.channels+c.b-1)/c.b, c.m/c.group
			wide := make([]float64, c.m*c.channels*taps)
			for i := range wide {
				row, ch, tap := i/taps/c.channels, i/taps%c.channels, i%taps
				block := row/per*((per+c.b-1)/c.b) + row%per/c.b
				wide[i] = float64(W[((block*q+ch/c.b)*c.b+((row%per-ch)%c.b+c.b)%c.b)*taps+tap])
			}
			channels := c.group * c.channels
			x := normal(3, 2*channels*size)
			want := dense64(t, opset, c.attrs, append([]int{2, channels}, spatial...), x, append([]int{c.m, c.channels}, c.kernel...), wide, B)
			in, err := runtime.FromSlice(append([]int{2, channels}, spatial...), x).Dense()
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

// TestGroupsApart: a convolution in groups is fitted, sequentially and from a ledger,
// as convolutions of its groups side by side are; together they have its parameters
// and its errors, and the depth-wise one stays.
func TestGroupsApart(t *testing.T) {
	x := npz.Float32Array("x", []int{30, 36, 5, 5}, normal(1, 30*36*25))
	src := source(t, x)
	// Behind it a depth-wise one, and a module, without which there is no ledger.
	rest := weight("d", 4, 30, 1, 1, 1) + ", " + weight("u", 5, 30, 40) + ", " + weight("v", 6, 40, 30)
	const behind = `
  r = Relu (h)
  [depthwise] e = Conv <group = 30> (r, d)
  p = GlobalAveragePool (e)
  s = Flatten (p)
  i = MatMul (s, u)
  j = Relu (i)
  k = MatMul (j, v)
  y = Add (s, k)
}`
	whole := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,36,5,5] x) => (float[N,30] y)
<`+weight("w", 2, 30, 12, 3, 3)+", "+weight("b", 3, 30)+", "+rest+`>
{
  [layer] h = Conv <group = 3, pads = [0, 1, 0, 1]> (x, w, b)`+behind)
	// The initializers of the groups.
	w, b := initializer(t, whole, "w"), initializer(t, whole, "b")
	part := func(name string, v []float32, dims string) string {
		return fmt.Sprintf("float[%s] %s = {%s}", dims, name, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(v)), ", "), "[]"))
	}
	var constants, nodes []string
	for g := range 3 {
		constants = append(constants, part(fmt.Sprintf("w%d", g), w[g*1080:(g+1)*1080], "10,12,3,3"), part(fmt.Sprintf("b%d", g), b[g*10:(g+1)*10], "10"))
		nodes = append(nodes, fmt.Sprintf("[layer%d] h%d = Conv <pads = [0, 1, 0, 1]> (x%d, w%d, b%d)", g, g, g, g, g))
	}
	apart := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,36,5,5] x) => (float[N,30] y)
<`+strings.Join(constants, ", ")+", "+rest+`>
{
  x0, x1, x2 = Split <axis = 1> (x)
  `+strings.Join(nodes, "\n  ")+`
  h = Concat <axis = 1> (h0, h1, h2)`+behind)
	for _, form := range []string{"frobenius", "sequential", "one-shot"} {
		rewrite := func(m *graph.Model) (*graph.Model, []passes.CirculantLayer) {
			m = m.Clone()
			var layers []passes.CirculantLayer
			o := passes.CirculantOptions{Block: 8, Only: regexp.MustCompile("^layer|wise"), Layer: func(l passes.CirculantLayer) { layers = append(layers, l) }}
			switch form {
			case "frobenius":
				o.Fit = passes.FitFrobenius
			case "sequential":
				o.Feed = bind(t, m, src)
			default:
				var err error
				if o.Ledger, err = calib.Score(ctx, m, bind(t, m, src), calib.ScoreOptions{Moments: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			return m, layers
		}
		one, layers := rewrite(whole)
		many, parts := rewrite(apart)
		if len(layers) != 1 || len(parts) != 3 {
			t.Fatalf("%s: %d and %d layers", form, len(layers), len(parts))
		}
		var weights, bias []float32
		var sum passes.CirculantLayer
		for g := range 3 {
			weights = append(weights, initializer(t, many, fmt.Sprintf("w%d_circulant", g))...)
			bias = append(bias, initializer(t, many, fmt.Sprintf("layer%d_circulant_bias", g))...)
			sum.ParamsBefore += parts[g].ParamsBefore
			sum.ParamsAfter += parts[g].ParamsAfter
		}
		if got := initializer(t, one, "w_circulant"); !slices.Equal(got, weights) {
			t.Errorf("%s: weights differ from those of the groups apart", form)
		}
		if got := initializer(t, one, "layer_circulant_bias"); !slices.Equal(got, bias) {
			t.Errorf("%s: biases %v, want %v", form, got, bias)
		}
		l := layers[0]
		if l.ParamsBefore != sum.ParamsBefore || l.ParamsAfter != sum.ParamsAfter || l.M != 30 || l.N != 108 || l.Block != 8 {
			t.Errorf("%s: %+v", form, l)
		}
		between := func(name string, got float64, of func(passes.CirculantLayer) float64) {
			all := []float64{of(parts[0]), of(parts[1]), of(parts[2])}
			if form == "frobenius" && name != "weight error" {
				if !math.IsNaN(got) {
					t.Errorf("%s: %s is %v without data", form, name, got)
				}
			} else if !(got >= slices.Min(all) && got <= slices.Max(all)) {
				t.Errorf("%s: %s is %v, of the groups %v", form, name, got, all)
			}
		}
		between("weight error", l.WeightError, func(l passes.CirculantLayer) float64 { return l.WeightError })
		between("error", l.Error, func(l passes.CirculantLayer) float64 { return l.Error })
		between("error of the projection", l.FrobeniusError, func(l passes.CirculantLayer) float64 { return l.FrobeniusError })

		// The file is one that loads, and every form of it computes the same.
		path := filepath.Join(t.TempDir(), "m.onnx")
		if err := one.Save(path, graph.SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		loaded, err := graph.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := graph.Check(loaded); err != nil {
			t.Error(err)
		}
		in, err := runtime.FromSlice([]int{2, 36, 5, 5}, normal(9, 2*36*25)).Dense()
		if err != nil {
			t.Fatal(err)
		}
		want := run(t, loaded, map[string]tensor.Tensor{"x": in}, runtime.Options{})["y"].Data().([]float32)
		near(t, "the body", run(t, loaded, map[string]tensor.Tensor{"x": in}, runtime.Options{Bodies: true})["y"].Data().([]float32), want, rounding)
		for _, inline := range []passes.InlineForm{passes.InlineDFT, passes.InlineDense} {
			m := loaded.Clone()
			if err := passes.Run(ctx, m, &passes.Journal{}, passes.InlineFunctions(inline), passes.EliminateDeadCode()); err != nil {
				t.Fatal(err)
			}
			near(t, string(inline), run(t, m, map[string]tensor.Tensor{"x": in}, runtime.Options{})["y"].Data().([]float32), want, rounding)
		}
	}
}

// TestAllocateGroups: the search gives the groups of a convolution one block size, and
// its figures are those of the model that comes out.
func TestAllocateGroups(t *testing.T) {
	m := grouped()
	src := source(t, npz.Float32Array("x", []int{40, 8, 7, 6}, normal(5, 40*8*7*6)))
	a, err := passes.Allocate(ctx, m, passes.AllocateOptions{Share: 0.6, Blocks: []int{2, 4}, Feed: bind(t, m, src), Samples: 16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	best := a.Best()
	if !a.Met || len(best.Blocks) == 0 {
		t.Fatalf("%+v", best)
	}
	o := passes.CirculantOptions{Blocks: best.Blocks, Feed: bind(t, m, src), Threads: 1}
	if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
		t.Fatal(err)
	}
	if m.Parameters() != best.Params {
		t.Errorf("%d parameters, the search says %d", m.Parameters(), best.Params)
	}
}
