package passes_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"github.com/onnx-lathe/lathe/testmodels"
)

func parse(t testing.TB, text string) *graph.Model {
	t.Helper()
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// normal draws n numbers.
func normal(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 7))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// initializer returns the floats of a constant.
func initializer(t testing.TB, m *graph.Model, name string) []float32 {
	t.Helper()
	v, err := m.Graph.Value(name).Const.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestBody runs the operator by its definition (Y[i·b+a] = Σ_j Σ_c
// W[i, j, (a−c) mod b]·X[j·b+c] + B, in float64), by the kernel, and by the
// body that stock runtimes run, for every opset whose body is another, sizes
// that the block divides and does not, and inputs of every rank.
func TestBody(t *testing.T) {
	for _, opset := range []int64{9, 10, 11, 12, 13, 17, 22} {
		for _, c := range []struct{ m, n, b int }{{4, 4, 2}, {5, 7, 2}, {5, 7, 3}, {8, 16, 4}, {9, 17, 5}, {16, 16, 8}, {20, 33, 16}, {3, 40, 32}} {
			m := graph.NewModel("g", 8, opset)
			x := m.Graph.AddInput("x", graph.TensorType(graph.Float32)) // of any rank
			x.Declared.Shape = nil
			w := m.Graph.AddInitializer("w", graph.Float32Tensor([]int64{int64(c.n), int64(c.m)}, normal(1, c.m*c.n)))
			h := m.Graph.NewNode("", "MatMul", "layer", []*graph.Value{x, w}, []string{"h"}).Output(0)
			bias := m.Graph.AddInitializer("bias", graph.Float32Tensor([]int64{int64(c.m)}, normal(2, c.m)))
			m.Graph.AddOutput(m.Graph.NewNode("", "Add", "", []*graph.Value{h, bias}, []string{"y"}).Output(0), graph.TensorType(graph.Float32))
			m.Graph.Outputs()[0].Declared.Shape = nil
			err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: c.b, Fit: passes.FitFrobenius, IncludeHead: true}), passes.EliminateDeadCode())
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Graph.Nodes()) != 1 {
				t.Fatalf("opset %d, %+v: not rewritten", opset, c)
			}
			W, B := initializer(t, m, "w_circulant"), initializer(t, m, "layer_circulant_bias")
			q := (c.n + c.b - 1) / c.b
			for _, shape := range [][]int{{c.n}, {1, c.n}, {5, c.n}, {2, 3, c.n}, {2, 1, 3, c.n}, {0, c.n}} {
				tokens := 1
				for _, d := range shape[:len(shape)-1] {
					tokens *= d
				}
				data := normal(3, tokens*c.n)
				want := make([]float64, tokens*c.m)
				largest := 0.
				for k := range want {
					row, out := k/c.m, k%c.m
					i, a := out/c.b, out%c.b
					sum := float64(B[out])
					for col := range c.n {
						j, e := col/c.b, col%c.b
						sum += float64(W[(i*q+j)*c.b+(a-e+c.b)%c.b]) * float64(data[row*c.n+col])
					}
					want[k] = sum
					largest = math.Max(largest, math.Abs(sum))
				}
				in, err := runtime.FromSlice(shape, data).Dense()
				if err != nil {
					t.Fatal(err)
				}
				for _, bodies := range []bool{false, true} {
					got := run(t, m, map[string]tensor.Tensor{"x": in}, runtime.Options{Bodies: bodies})["y"]
					if s := append(slices.Clone(shape[:len(shape)-1]), c.m); !slices.Equal([]int(got.Shape()), s) {
						t.Fatalf("opset %d, %+v, body %v: shape %v for input %v", opset, c, bodies, got.Shape(), shape)
					}
					if tokens == 0 {
						continue
					}
					for k, v := range got.Data().([]float32) {
						if !(math.Abs(float64(v)-want[k]) <= rounding*largest) {
							t.Fatalf("opset %d, %+v, body %v, input %v: element %d is %v, want %v", opset, c, bodies, shape, k, v, want[k])
						}
					}
				}
			}
		}
	}
}

func source(t testing.TB, arrays ...*npz.Array) *calib.Source {
	t.Helper()
	var b bytes.Buffer
	if err := npz.Write(&b, arrays...); err != nil {
		t.Fatal(err)
	}
	s, err := calib.SourceFromBytes("data.npz", b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bind(t testing.TB, m *graph.Model, s *calib.Source) *calib.Feed {
	t.Helper()
	ports, err := runtime.Ports(m)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Bind(ports)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// tokens draws n samples of length tokens below limit.
func tokens(name string, limit, n, length int) *npz.Array {
	r := rand.New(rand.NewPCG(uint64(limit), uint64(length)))
	v := make([]int64, n*length)
	for i := range v {
		v[i] = int64(r.IntN(limit))
	}
	return npz.Int64Array(name, []int{n, length}, v)
}

// ones is a mask whose last token of every second sample does not count.
func ones(name string, n, length int) *npz.Array {
	v := make([]int64, n*length)
	for i := range v {
		if i%length < length-1 || i/length%2 == 0 {
			v[i] = 1
		}
	}
	return npz.Int64Array(name, []int{n, length}, v)
}

// weight is an initializer in text form.
func weight(name string, seed uint64, dims ...int) string {
	n, shape := 1, []string{}
	for _, d := range dims {
		n *= d
		shape = append(shape, fmt.Sprint(d))
	}
	var data []string
	for _, v := range normal(seed, n) {
		data = append(data, fmt.Sprint(v/4))
	}
	return fmt.Sprintf("float[%s] %s = {%s}", strings.Join(shape, ","), name, strings.Join(data, ", "))
}

// fits are models and data for the fits: every form in which layers follow
// each other, stand side by side and share weights.
var fits = []struct {
	name  string
	model func() *graph.Model
	data  []*npz.Array
}{
	{"post-LN, masked", func() *graph.Model {
		return testmodels.BERT(testmodels.Size{Layers: 2, Seed: 1}, testmodels.BERTOptions{})
	},
		[]*npz.Array{tokens("input_ids", 40, 40, 9), ones("attention_mask", 40, 9), tokens("token_type_ids", 2, 40, 9)}},
	{"Gemm", func() *graph.Model {
		return testmodels.GPT2(testmodels.Size{Layers: 2, Seed: 1}, testmodels.GPT2Options{})
	},
		[]*npz.Array{tokens("input_ids", 40, 40, 6)}},
	{"SwiGLU with a cache", func() *graph.Model {
		return testmodels.LLaMA(testmodels.Size{Layers: 2, Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	}, []*npz.Array{tokens("input_ids", 40, 40, 8)}},
	{"parallel", func() *graph.Model {
		return testmodels.NeoX(testmodels.Size{Layers: 2, Seed: 1}, testmodels.NeoXOptions{})
	},
		[]*npz.Array{tokens("input_ids", 40, 40, 8)}},
	{"layers that read one value at several depths", func() *graph.Model { return testmodels.T5(testmodels.Size{Layers: 2, Seed: 1}) },
		[]*npz.Array{tokens("input_ids", 40, 40, 9), ones("attention_mask", 40, 9), tokens("decoder_input_ids", 40, 40, 6)}},
	{"one weight at two depths", shared, []*npz.Array{npz.Float32Array("x", []int{200, 8}, normal(5, 1600))}},
	{"an If on the way", func() *graph.Model {
		m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,8] x, bool[1] c) => (float[N,8] y)
<` + weight("w", 1, 8, 8) + "," + weight("w2", 2, 8, 8) + `>
{
  h = MatMul (x, w)
  flag = Squeeze (c)
  k = If (flag) < then_branch = a () => (t) { t = Neg (h) }, else_branch = b () => (e) { e = Tanh (h) } >
  l = MatMul (k, w2)
  y = Add (l, h)
}`)
		if err != nil {
			panic(err)
		}
		return m
	}, []*npz.Array{npz.Float32Array("x", []int{60, 8}, normal(5, 480)), {Name: "c", DType: graph.Bool, Shape: []int{60}, Raw: make([]byte, 60)}}},
	{"convolutions", func() *graph.Model {
		m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,7,6] x) => (float[N,5] y)
<` + strings.Join([]string{weight("w", 1, 8, 4, 3, 3), weight("w2", 2, 6, 8, 1, 1), weight("w3", 3, 12, 6, 2, 3), weight("w4", 4, 12, 5), weight("b", 5, 8)}, ",") + `>
{
  [first] h = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  k = Relu (h)
  [pointwise] l = Conv (k, w2)
  m = Relu (l)
  [strided] n = Conv <strides = [2, 1], auto_pad = "SAME_UPPER"> (m, w3)
  o = Relu (n)
  p = GlobalAveragePool (o)
  q = Flatten (p)
  [head] y = MatMul (q, w4)
}`)
		if err != nil {
			panic(err)
		}
		return m
	}, []*npz.Array{npz.Float32Array("x", []int{40, 4, 7, 6}, normal(5, 40*4*7*6))}},
	{"convolutions in groups", grouped, []*npz.Array{npz.Float32Array("x", []int{40, 8, 7, 6}, normal(5, 40*8*7*6))}},
}

// grouped is a block of ResNeXt, with groups whose channels fill blocks of 4 and
// groups whose channels do not.
func grouped() *graph.Model {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,8,7,6] x) => (float[N,5] y)
<` + strings.Join([]string{weight("w", 1, 24, 4, 3, 3), weight("b", 2, 24), weight("w2", 3, 18, 8, 2, 3), weight("w3", 4, 18, 1, 3, 3), weight("w4", 5, 18, 5)}, ",") + `>
{
  [groups] h = Conv <pads = [1, 1, 1, 1], group = 2> (x, w, b)
  k = Relu (h)
  [padded] l = Conv <group = 3, strides = [2, 1], dilations = [1, 2]> (k, w2)
  m = Relu (l)
  [depthwise] n = Conv <group = 18, pads = [1, 1, 1, 1]> (m, w3)
  o = Relu (n)
  p = GlobalAveragePool (o)
  q = Flatten (p)
  [head] y = MatMul (q, w4)
}`)
	if err != nil {
		panic(err)
	}
	return m
}

// shared reads one weight at two depths.
func shared() *graph.Model {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,8] x) => (float[N,8] y)
<` + weight("w", 1, 8, 8) + `, float[8] b = {1, 2, 3, 4, 5, 6, 7, 8}>
{
  [first] h = MatMul (x, w)
  r = Relu (h)
  [second] k = MatMul (r, w)
  kb = Add (k, b)
  y = Tanh (kb)
}`)
	if err != nil {
		panic(err)
	}
	return m
}

// outputs gives the values of those names for all samples, [tokens, width]
// each, without the tokens that do not count.
func outputs(t *testing.T, m *graph.Model, src *calib.Source, names []string) map[string][]float32 {
	t.Helper()
	prog, err := runtime.Compile(m, runtime.Options{Probes: func() (out [][]string) {
		for _, n := range names {
			out = append(out, []string{n})
		}
		return out
	}()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := src.Bind(prog.Inputs())
	if err != nil {
		t.Fatal(err)
	}
	s := prog.NewSession(runtime.SessionOptions{Threads: 1})
	out := map[string][]float32{}
	err = calib.Batches(ctx, f, 0, nil, func(from, to int, in map[string]tensor.Tensor) error {
		mask, err := calib.MaskOf(in, to-from)
		if err != nil {
			return err
		}
		_, err = s.RunProbed(ctx, in, func(at int, v []*runtime.Tensor) error {
			if len(v[0].Shape) == 4 { // an image: its pixels are the tokens
				n, c := v[0].Shape[0], v[0].Shape[1]
				size := v[0].Len() / (n * c)
				for i := range n * size {
					for ch := range c {
						out[names[at]] = append(out[names[at]], v[0].F32()[(i/size*c+ch)*size+i%size])
					}
				}
				return nil
			}
			d := v[0].Shape[len(v[0].Shape)-1]
			return mask.Runs(v[0], func(from, to int) {
				out[names[at]] = append(out[names[at]], v[0].F32()[from*d:to*d]...)
			})
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// relativeError is sqrt(E‖y − z‖² / E‖y − E[y]‖²) of y, z [tokens, m].
func relativeError(y, z []float32, m int) float64 {
	mean := make([]float64, m)
	for i, v := range y {
		mean[i%m] += float64(v) / float64(len(y)/m)
	}
	var num, den float64
	for i, v := range y {
		num += math.Pow(float64(v)-float64(z[i]), 2)
		den += math.Pow(float64(v)-mean[i%m], 2)
	}
	return math.Sqrt(num / den)
}

// TestSequentialFit: the errors that are reported are those that the layers'
// outputs have in the rewritten model, beside the original's; least squares
// has smaller ones than the projection on every layer, and less divergence of
// the outputs.
func TestSequentialFit(t *testing.T) {
	for _, c := range fits {
		t.Run(c.name, func(t *testing.T) {
			src := source(t, c.data...)
			distance := map[passes.Fit]float64{}
			for _, fit := range []passes.Fit{passes.FitLSQ, passes.FitFrobenius} {
				original := c.model()
				m := original.Clone()
				var layers []passes.CirculantLayer
				steps := 0
				o := passes.CirculantOptions{Block: 4, Fit: fit, Feed: bind(t, m, src), IncludeHead: true, Threads: 2,
					Layer: func(l passes.CirculantLayer) { layers = append(layers, l) },
					Progress: func(done, total int) {
						if done <= steps || done > total {
							t.Errorf("progress %d of %d after %d", done, total, steps)
						}
						steps = done
					}}
				if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
					t.Fatal(err)
				}
				if steps != len(layers) || len(layers) < 2 {
					t.Fatalf("%d layers, progress says %d", len(layers), steps)
				}
				names := map[string]string{} // of layers' outputs
				for _, n := range m.Graph.Nodes() {
					if n.Domain == graph.LatheDomain {
						names[n.Name] = n.Output(0).Name
						names[n.Output(0).Name] = n.Output(0).Name
					}
				}
				var values []string
				for _, l := range layers {
					values = append(values, names[l.Node])
				}
				before, after := outputs(t, original, src, values), outputs(t, m, src, values)
				for _, l := range layers {
					want := relativeError(before[names[l.Node]], after[names[l.Node]], l.M)
					// The sums are of float32 values with some 1e-7 of rounding.
					if math.Abs(l.Error-want) > 1e-4*want+1e-6 {
						t.Errorf("%s %s: error %g, in the model %g", fit, l.Node, l.Error, want)
					}
					if fit == passes.FitFrobenius && l.Error != l.FrobeniusError || l.Error > l.FrobeniusError*(1+1e-9) {
						t.Errorf("%s %s: error %g, the projection's is %g", fit, l.Node, l.Error, l.FrobeniusError)
					}
				}
				list, err := calib.Evaluate(ctx, []*graph.Model{original, m}, src, calib.EvalOptions{Metric: calib.MetricSQNR})
				if err != nil {
					t.Fatal(err)
				}
				distance[fit] = list[1].Value
			}
			if !(distance[passes.FitLSQ] > distance[passes.FitFrobenius]) {
				t.Errorf("SQNR %g dB with least squares, %g dB with the projection", distance[passes.FitLSQ], distance[passes.FitFrobenius])
			}
		})
	}
}

// TestSharedFit: a weight that layers of different depth read becomes one
// block-circulant weight, the least-squares fit on the inputs of all of them
// in the original model, sequentially and one-shot; each layer has its own
// bias.
func TestSharedFit(t *testing.T) {
	original := shared()
	src := source(t, npz.Float32Array("x", []int{200, 8}, normal(5, 1600)))
	sums, err := calib.Moments(ctx, original, bind(t, original, src), []calib.Operand{{Key: "x", Value: "x"}, {Key: "r", Value: "r"}}, calib.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	both := circulant.NewMoments(8)
	for _, x := range []string{"x", "r"} {
		if err := both.Merge(sums[x]); err != nil {
			t.Fatal(err)
		}
	}
	w, dense := initializer(t, original, "w"), make([]float32, 64)
	for i := range 8 {
		for k := range 8 {
			dense[i*8+k] = w[k*8+i]
		}
	}
	want, _, err := circulant.LeastSquares(dense, 8, 8, 2, nil, both, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := original.Clone()
	o := passes.CirculantOptions{Block: 2, Feed: bind(t, m, src)}
	if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
		t.Fatal(err)
	}
	if got := initializer(t, m, "w_circulant"); !slices.Equal(got, want.W) {
		t.Errorf("the weight is %v, want %v", got, want.W)
	}
	if m.Graph.Value("w_circulant_1") != nil || m.Graph.Value("w") != nil {
		t.Error("there is more than one weight")
	}
	if a, b := initializer(t, m, "first_circulant_bias"), initializer(t, m, "second_circulant_bias"); slices.Equal(a, b) {
		t.Error("two layers have one bias")
	}
}

// TestOneShotFit: with a ledger's moments and without data, each layer is
// fitted on the inputs that it has in the original model.
func TestOneShotFit(t *testing.T) {
	c := fits[1]
	original := c.model()
	src := source(t, c.data...)
	l, err := calib.Score(ctx, original, bind(t, original, src), calib.ScoreOptions{Moments: true})
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(m *graph.Model, o passes.CirculantOptions) []passes.CirculantLayer {
		var layers []passes.CirculantLayer
		o.Layer = func(l passes.CirculantLayer) { layers = append(layers, l) }
		if err := passes.Run(ctx, m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
			t.Fatal(err)
		}
		return layers
	}
	m := original.Clone()
	layers := rewrite(m, passes.CirculantOptions{Block: 4, Ledger: l})
	sequential := rewrite(original.Clone(), passes.CirculantOptions{Block: 4, Feed: bind(t, original, src)})
	plain := rewrite(original.Clone(), passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius})
	if len(layers) != len(sequential) || len(layers) != len(plain) || len(layers) == 0 {
		t.Fatalf("%d layers one-shot, %d sequentially, %d without data", len(layers), len(sequential), len(plain))
	}
	if math.Abs(layers[0].Error-sequential[0].Error) > 1e-6 {
		t.Errorf("the first layer's error is %g one-shot, %g sequentially", layers[0].Error, sequential[0].Error)
	}
	for i, x := range layers {
		if !(x.Error < x.FrobeniusError) {
			t.Errorf("%s: error %g, the projection's is %g", x.Node, x.Error, x.FrobeniusError)
		}
		if !math.IsNaN(plain[i].Error) || !math.IsNaN(plain[i].FrobeniusError) || !(plain[i].WeightError > 0) || x.WeightError < plain[i].WeightError {
			t.Errorf("%s: %+v without data", x.Node, plain[i])
		}
		if x.Block != 4 || x.ParamsAfter != int64(x.M*x.N/4+x.M) || x.ParamsBefore != int64(x.M*x.N+x.M) {
			t.Errorf("%s: %+v", x.Node, x)
		}
	}
	h, err := modules.ReadHistory(m)
	if err != nil {
		t.Fatal(err)
	}
	if h.Original != original.Fingerprint() || len(h.Rewrites) != len(layers) || h.Rewrites[0].Node != layers[0].Node {
		t.Errorf("history %+v", h)
	}
	// Rewritten layers stay what they are.
	text := m.Text()
	if again := rewrite(m, passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}); len(again) > 0 || m.Text() != text {
		t.Errorf("the second time %d layers are rewritten", len(again))
	}
}

// TestRewriteAfterDrop: the ledger of the original serves the model that
// modules were dropped from.
func TestRewriteAfterDrop(t *testing.T) {
	c := fits[0]
	m := c.model()
	src := source(t, c.data...)
	l, err := calib.Score(ctx, m, bind(t, m, src), calib.ScoreOptions{Moments: true, Means: true})
	if err != nil {
		t.Fatal(err)
	}
	err = passes.Run(ctx, m, &passes.Journal{}, passes.DropModules([]string{"A0", "M1"}, passes.DropOptions{Recover: passes.RecoverMean, Means: l.MeanUpdate}),
		passes.RewriteCirculant(passes.CirculantOptions{Block: 2, Ledger: l}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	h, err := modules.ReadHistory(m)
	if err != nil || len(h.Rewrites) == 0 || len(h.Dropped) != 2 || !slices.Equal(h.Modules, []string{"M0", "A1"}) {
		t.Errorf("history %+v, %v", h, err)
	}
	if got := idsOf(modulesOf(t, m)); !slices.Equal(got, []string{"M0", "A1"}) {
		t.Errorf("modules %v", got)
	}
}

// TestRewriteFails: what a rewrite cannot do is said in words.
func TestRewriteFails(t *testing.T) {
	m := shared()
	src := source(t, npz.Float32Array("x", []int{4, 8}, normal(5, 32)))
	nan := m.Clone()
	bad := initializer(t, nan, "w")
	bad[3] = float32(math.NaN())
	nan.Graph.Value("w").Const = graph.Float32Tensor([]int64{8, 8}, bad)
	other := testmodels.GPT2(testmodels.Size{Seed: 1}, testmodels.GPT2Options{})
	ledger := func(m *graph.Model, o calib.ScoreOptions) *calib.Ledger {
		l, err := calib.Score(ctx, m, bind(t, m, source(t, tokens("input_ids", 40, 4, 6))), o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		model *graph.Model
		o     passes.CirculantOptions
		want  string
	}{
		{"no data", ctx, m, passes.CirculantOptions{Block: 2}, "least squares needs data, or a ledger scored with moments"},
		{"no such fit", ctx, m, passes.CirculantOptions{Block: 2, Fit: "best"}, `no fit "best"`},
		{"a block that is too large", ctx, m, passes.CirculantOptions{Block: 1 << 20, Fit: passes.FitFrobenius}, "choose 2 to 16384"},
		{"NaN weights", ctx, nan, passes.CirculantOptions{Block: 2, Fit: passes.FitFrobenius}, `node "first" (MatMul): its weight "w" holds NaN or infinity`},
		{"NaN weights and data", ctx, nan, passes.CirculantOptions{Block: 2, Feed: bind(t, m, src)}, "NaN"},
		{"a ledger without moments", ctx, other, passes.CirculantOptions{Block: 2, Ledger: ledger(other, calib.ScoreOptions{})}, "the ledger has no moments of its 32 inputs"},
		{"another model's ledger", ctx, m, passes.CirculantOptions{Block: 2, Ledger: ledger(other, calib.ScoreOptions{Moments: true})}, "the ledger was made of another model"},
		{"a run that was cancelled", stopped, m, passes.CirculantOptions{Block: 2, Feed: bind(t, m, src)}, context.Canceled.Error()},
	} {
		err := passes.Run(c.ctx, c.model.Clone(), &passes.Journal{}, passes.RewriteCirculant(c.o))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
