package passes_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/fixed"
	"github.com/onnx-lathe/lathe/testmodels"
)

// quantized is m in fixed point, with ranges from the arrays.
func quantized(t testing.TB, m *graph.Model, o passes.QuantizeOptions, arrays ...*npz.Array) (*graph.Model, []passes.QuantizedLayer) {
	t.Helper()
	m = m.Clone()
	o.Feed = bind(t, m, source(t, arrays...))
	var layers []passes.QuantizedLayer
	o.Layer = func(l passes.QuantizedLayer) { layers = append(layers, l) }
	if err := passes.Run(ctx, m, &passes.Journal{}, passes.QuantizeInt16(o), passes.EliminateDeadCode()); err != nil {
		t.Fatal(err)
	}
	return m, layers
}

// TestQuantizedNetworksAreIntegers: a convolutional network computes its logits
// from its input without a floating-point operation, in the model as in what
// runs of it.
func TestQuantizedNetworksAreIntegers(t *testing.T) {
	for _, c := range []struct {
		name  string
		m     *graph.Model
		block int // 0: dense
		image *npz.Array
	}{
		{"lenet", testmodels.LeNet(testmodels.CNN{Seed: 1}), 0, gaussian("image", 8, 1, 12, 12)},
		{"resnet", testmodels.ResNet(testmodels.CNN{Seed: 1}), 0, gaussian("image", 8, 3, 16, 16)},
		{"lenet circulant", testmodels.LeNet(testmodels.CNN{Seed: 1}), 4, gaussian("image", 8, 1, 12, 12)},
		{"resnet circulant", testmodels.ResNet(testmodels.CNN{Seed: 1}), 4, gaussian("image", 8, 3, 16, 16)},
		{"groups", groupedNetwork(), 0, gaussian("image", 8, 12, 6, 6)},
		{"groups circulant", groupedNetwork(), 4, gaussian("image", 8, 12, 6, 6)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, image := c.m, c.image
			if c.block > 0 {
				o := passes.CirculantOptions{Block: c.block, Fit: passes.FitFrobenius, IncludeHead: true}
				if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
					t.Fatal(err)
				}
			}
			q, layers := quantized(t, m, passes.QuantizeOptions{}, image)
			if err := graph.Infer(q); err != nil {
				t.Fatal(err)
			}
			conversions := 0
			for _, n := range q.Graph.Nodes() {
				switch {
				case n.Op == "QuantizeInt16" && n.Input(0).IsInput(), n.Op == "DequantizeInt16" && n.Output(0).IsOutput():
					conversions++
				case n.Op == "Constant":
				case n.Output(0).Type() == nil || n.Output(0).Type().Elem != graph.Int16:
					t.Errorf("%v computes %v", n, n.Output(0).Type())
				}
			}
			if conversions != 2 {
				t.Errorf("%d conversions at the input and the output, want 2", conversions)
			}
			prog, err := runtime.Compile(q, runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			s := prog.NewSession(runtime.SessionOptions{Threads: 1, Profile: true})
			feeds := feedsOf(t, []*npz.Array{image})
			got, err := s.Run(ctx, feeds)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range s.Profile() {
				integer := strings.HasPrefix(k.Kind, "lathe.") && strings.HasSuffix(k.Kind, "Int16")
				if !integer && !slices.Contains([]string{"Reshape", "Flatten"}, k.Kind) {
					t.Errorf("the plan has %d steps of kind %s", k.Calls, k.Kind)
				}
			}
			want := run(t, m, feeds, runtime.Options{})
			if len(layers) < 4 {
				t.Errorf("%d layers in fixed point", len(layers))
			}
			for _, op := range []string{"BlockCirculantConvInt16", "BlockCirculantMatMulInt16"} {
				if circulant := slices.ContainsFunc(layers, func(l passes.QuantizedLayer) bool { return l.Op == op }); circulant != (c.block > 0) {
					t.Errorf("a layer is %s: %v", op, circulant)
				}
			}
			db, err := metric.SQNR(want["logits"].Data().([]float32), got["logits"].Data().([]float32))
			if err != nil || !(db > 60) {
				t.Errorf("logits have %.1f dB, %v", db, err)
			}
			bodies := run(t, q, feeds, runtime.Options{Bodies: true})
			db, err = metric.SQNR(want["logits"].Data().([]float32), bodies["logits"].Data().([]float32))
			if err != nil || !(db > 60) {
				t.Errorf("logits of the bodies have %.1f dB, %v", db, err)
			}
		})
	}
}

// groupedNetwork has convolutions in groups, whose channels fill blocks of 4 or do not,
// and a depth-wise one.
func groupedNetwork() *graph.Model {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,12,6,6] image) => (float[N,8] logits)
<` + strings.Join([]string{weight("w", 1, 24, 4, 3, 3), weight("b", 2, 24), weight("w2", 3, 18, 8, 3, 3), weight("d", 4, 18, 1, 3, 3), weight("w3", 5, 10, 9, 1, 1), weight("w4", 6, 10, 8)}, ",") + `>
{
  h = Conv <pads = [1, 1, 1, 1], group = 3> (image, w, b)
  k = Relu (h)
  l = Conv <group = 3, pads = [1, 1, 1, 1]> (k, w2)
  m = Relu (l)
  n = Conv <group = 18, pads = [1, 1, 1, 1]> (m, d)
  o = Relu (n)
  r = Conv <group = 2> (o, w3)
  s = Relu (r)
  p = GlobalAveragePool (s)
  q = Flatten (p)
  logits = MatMul (q, w4)
}`)
	if err != nil {
		panic(err)
	}
	return m
}

// gaussian is an array of normal numbers.
func gaussian(name string, shape ...int) *npz.Array {
	r := rand.New(rand.NewPCG(3, 4))
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return npz.Float32Array(name, shape, v)
}

// TestQuantizedCirculant: layers of every block size keep 70 dB against the
// float operator on the same input, with 64-wide activations of unequal power.
func TestQuantizedCirculant(t *testing.T) {
	for _, b := range []int{2, 4, 8, 16, 32, 64, 128, 256} {
		once := 0.
		for _, rounding := range []string{"", "circnn"} {
			m := graph.NewModel("layer", 8, 17)
			in, outs := 3*b-b/2+1, 2*b-b/2
			x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("T"), graph.Known(int64(in))))
			r := rand.New(rand.NewPCG(uint64(b), 2))
			w, bias := make([]float32, 2*3*b), make([]float32, outs)
			for i := range w {
				w[i] = float32(r.NormFloat64())
			}
			for i := range bias {
				bias[i] = float32(r.NormFloat64())
			}
			node := m.Graph.NewNode(graph.LatheDomain, "BlockCirculantMatMul", "layer", []*graph.Value{x,
				m.Graph.AddInitializer("w", graph.Float32Tensor([]int64{2, 3, int64(b)}, w)),
				m.Graph.AddInitializer("c", graph.Float32Tensor([]int64{int64(outs)}, bias))}, []string{"y"}, graph.IntAttr("out_features", int64(outs)))
			m.Graph.AddOutput(node.Output(0), graph.TensorType(graph.Float32, graph.Symbol("T"), graph.Known(int64(outs))))
			m.SetOpset(graph.LatheDomain, 1)
			data := gaussian("x", 64, in)
			q, _ := quantized(t, m, passes.QuantizeOptions{Rounding: fixed.Rounding(rounding)}, data)
			feeds := feedsOf(t, []*npz.Array{data})
			got := run(t, q, feeds, runtime.Options{})["y"].Data().([]float32)
			// The same input as the integers have it.
			v := feeds["x"].Data().([]float32)
			e := exponentOf(t, q)
			for i := range v {
				v[i] = float32(math.Ldexp(math.Floor(math.Ldexp(float64(v[i]), -e)+0.5), e))
			}
			want := run(t, m, map[string]tensor.Tensor{"x": feeds["x"]}, runtime.Options{})["y"].Data().([]float32)
			db, err := metric.SQNR(want, got)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("b = %d %s: %.1f dB", b, rounding, db)
			if rounding == "" {
				once = db
			}
			if rounding == "" && !(db >= 70) || rounding != "" && !(db > 40 && db < once) {
				t.Errorf("b = %d %s: %.1f dB", b, rounding, db)
			}
		}
	}
}

// TestQuantizedCirculantConv: the same for convolutions, whose last blocks are
// ragged, in groups too, through bodies too.
func TestQuantizedCirculantConv(t *testing.T) {
	for _, b := range []int{2, 4, 8, 16, 32, 64} {
		for form := range 4 {
			rounding, groups := []string{"", "circnn"}[form%2], 1+form/2*2
			m := graph.NewModel("layer", 8, 17)
			in, outs := groups*(2*b-b/2+1), groups*(2*b-b/2)
			x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("N"), graph.Known(int64(in)), graph.Known(6), graph.Known(5)))
			r := rand.New(rand.NewPCG(uint64(b), 3))
			w, bias := make([]float32, groups*2*2*b*6), make([]float32, outs)
			for i := range w {
				w[i] = float32(r.NormFloat64())
			}
			for i := range bias {
				bias[i] = float32(r.NormFloat64())
			}
			node := m.Graph.NewNode(graph.LatheDomain, "BlockCirculantConv", "layer", []*graph.Value{x,
				m.Graph.AddInitializer("w", graph.Float32Tensor([]int64{int64(2 * groups), 2, int64(b), 3, 2}, w)),
				m.Graph.AddInitializer("c", graph.Float32Tensor([]int64{int64(outs)}, bias))}, []string{"y"}, graph.IntAttr("out_channels", int64(outs)), graph.IntAttr("group", int64(groups)),
				graph.IntsAttr("strides", 2, 1), graph.IntsAttr("pads", 1, 0, 1, 1))
			m.Graph.AddOutput(node.Output(0), nil)
			m.SetOpset(graph.LatheDomain, 1)
			data := gaussian("x", 16, in, 6, 5)
			q, _ := quantized(t, m, passes.QuantizeOptions{Rounding: fixed.Rounding(rounding)}, data)
			feeds := feedsOf(t, []*npz.Array{data})
			got := run(t, q, feeds, runtime.Options{})["y"].Data().([]float32)
			bodies := run(t, q, feeds, runtime.Options{Bodies: true})["y"].Data().([]float32)
			v := feeds["x"].Data().([]float32)
			e := exponentOf(t, q)
			for i := range v {
				v[i] = float32(math.Ldexp(math.Floor(math.Ldexp(float64(v[i]), -e)+0.5), e))
			}
			want := run(t, m, feeds, runtime.Options{})["y"].Data().([]float32)
			db, err := metric.SQNR(want, got)
			if err != nil {
				t.Fatal(err)
			}
			dbBodies, err := metric.SQNR(want, bodies)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("b = %d %s: %.1f dB, bodies %.1f dB", b, rounding, db, dbBodies)
			if rounding == "" && !(db >= 70 && dbBodies >= 70) || rounding != "" && !(db > 40) {
				t.Errorf("b = %d %s: %.1f dB, bodies %.1f dB", b, rounding, db, dbBodies)
			}
		}
	}
}

// TestMagnitudes: what a percentile leaves out is as much as it says, and the squares of
// spectra are those of the elements.
func TestMagnitudes(t *testing.T) {
	v := make([]float32, 1000)
	for i := range v {
		v[i] = float32(i+1) * (1 - 2*float32(i%2))
	}
	m := graph.NewModel("m", 8, 17)
	x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("N"), graph.Known(10)))
	m.Graph.AddOutput(m.Graph.NewNode("", "Relu", "relu", []*graph.Value{x}, []string{"y"}).Output(0), nil)
	wanted := calib.Magnitude{Value: "x"}
	channels := calib.Magnitude{Value: "x", By: calib.ByChannel}
	blocks := calib.Magnitude{Value: "x", Block: 4, By: calib.ByBlock}
	bins := calib.Magnitude{Value: "x", Block: 4, By: calib.ByBin}
	got, err := calib.MeasureMagnitudes(ctx, m, bind(t, m, source(t, npz.Float32Array("x", []int{100, 10}, v))), []calib.Magnitude{wanted, channels, blocks, bins},
		calib.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := got[wanted]
	if h.Count != 1000 || h.Largest != 1000 || h.Quantile(1) != 1000 {
		t.Errorf("%d magnitudes up to %v, all within %v", h.Count, h.Largest, h.Quantile(1))
	}
	for _, q := range []float64{0.5, 0.9, 0.99} {
		if x := float64(h.Quantile(q)); x < 1000*q || x > 1000*q*(1+1./32)+1 {
			t.Errorf("quantile %v is %v", q, x)
		}
	}
	for j := range 3 { // blocks of 4 channels, 4 and 2, b times their squares (Parseval)
		var want, ofBins float64
		for c := 4 * j; c < min(4*j+4, 10); c++ {
			want += 4 * got[channels].Squares[c]
		}
		for k := range 3 {
			ofBins += got[bins].Squares[j*3+k]
		}
		if s := got[blocks].Squares[j]; math.Abs(s-want) > 1e-9*want || math.Abs(ofBins-want) > 1e-9*want {
			t.Errorf("squares of block %d are %v, of its bins %v, want %v", j, s, ofBins, want)
		}
	}
	if c := got[channels]; len(c.Squares) != 10 || c.Squares[9] < 1000*1000 {
		t.Errorf("squares of channels are %v", c.Squares)
	}
}

// exponentOf is the exponent of the first quantised value.
func exponentOf(t testing.TB, m *graph.Model) int {
	t.Helper()
	layers, err := passes.Int16Layers(m)
	if err != nil || len(layers) == 0 {
		t.Fatalf("layers %v, %v", layers, err)
	}
	return layers[0].ExponentX
}
