package calib_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

var ctx = context.Background()

// source is an npz of arrays, as a program holds it.
func source(t testing.TB, arrays ...*npz.Array) *calib.Source {
	t.Helper()
	s, err := sourceOf(t, calib.SourceOptions{}, arrays...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sourceOf(t testing.TB, o calib.SourceOptions, arrays ...*npz.Array) (*calib.Source, error) {
	t.Helper()
	return calib.SourceFromBytes("data.npz", archive(t, arrays...), o)
}

func archive(t testing.TB, arrays ...*npz.Array) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := npz.Write(&b, arrays...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// feed binds data to a model.
func feed(t testing.TB, m *graph.Model, s *calib.Source) *calib.Feed {
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
	r := rand.New(rand.NewPCG(uint64(n), uint64(limit)))
	data := make([]int64, n*length)
	for i := range data {
		data[i] = int64(r.IntN(limit))
	}
	return npz.Int64Array(name, []int{n, length}, data)
}

// padding is a mask in which sample i has i mod 3 tokens less than it could,
// at its end, or at its beginning if first.
func padding(n, length int, first bool) *npz.Array {
	data := make([]int64, n*length)
	for i := range data {
		at := i % length
		if first {
			at = length - 1 - at
		}
		if at < length-i/length%3 {
			data[i] = 1
		}
	}
	return npz.Int64Array("attention_mask", []int{n, length}, data)
}

func pictures(n int) *npz.Array {
	r := rand.New(rand.NewPCG(3, 4))
	data := make([]float32, n*3*16*16)
	for i := range data {
		data[i] = float32(r.NormFloat64())
	}
	return npz.Float32Array("pixel_values", []int{n, 3, 16, 16}, data)
}

// forms are models of every shape of a residual stream, with 7 samples.
var forms = []struct {
	name  string
	model func() *graph.Model
	data  []*npz.Array
}{
	{"post-LN, masked", func() *graph.Model { return testmodels.BERT(testmodels.Size{Seed: 1}, testmodels.BERTOptions{}) },
		[]*npz.Array{tokens("input_ids", 40, 7, 9), padding(7, 9, false), tokens("token_type_ids", 2, 7, 9)}},
	{"post-LN, norm decomposed", func() *graph.Model {
		return testmodels.BERT(testmodels.Size{Opset: 13, Seed: 2}, testmodels.BERTOptions{})
	}, []*npz.Array{tokens("input_ids", 40, 7, 9), padding(7, 9, false), tokens("token_type_ids", 2, 7, 9)}},
	{"pre-LN", func() *graph.Model { return testmodels.GPT2(testmodels.Size{Seed: 1}, testmodels.GPT2Options{}) },
		[]*npz.Array{tokens("input_ids", 40, 7, 6)}},
	{"RMS norm, cache, padding in front", func() *graph.Model {
		return testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	}, []*npz.Array{tokens("input_ids", 40, 7, 8), padding(7, 8, true)}},
	{"parallel branches", func() *graph.Model { return testmodels.NeoX(testmodels.Size{Seed: 1}, testmodels.NeoXOptions{}) },
		[]*npz.Array{tokens("input_ids", 40, 7, 8)}},
	{"class token", func() *graph.Model { return testmodels.ViT(testmodels.Size{Seed: 1}, testmodels.ViTOptions{}) },
		[]*npz.Array{pictures(7)}},
	{"more tokens than a piece", func() *graph.Model {
		return testmodels.GPT2(testmodels.Size{Layers: 1, Width: 8, Heads: 1, Hidden: 8, Length: 150, Seed: 1}, testmodels.GPT2Options{})
	}, []*npz.Array{tokens("input_ids", 40, 3, 150)}},
}

// exposed is a copy of m that gives the named values as outputs.
func exposed(m *graph.Model, names []string) *graph.Model {
	c := m.Clone()
	for _, name := range names {
		if v := c.Graph.Value(name); !slices.Contains(c.Graph.Outputs(), v) {
			c.Graph.AddOutput(v, nil)
		}
	}
	return c
}

// reference is the score of a module, computed from its definition.
type reference struct {
	score, before, angular, stderr float64
	branch, unit                   []float64 // mean updates
	tokens                         int
}

// referenceOf computes scores in float64 from the plain outputs x, y and z of
// samples run one by one: the stream before the module, behind the sum, and
// behind the norm (or nil).
func referenceOf(x, y, z [][]float32, d int, keep func(sample, token int) bool) reference {
	var r reference
	var means []float64
	r.branch, r.unit = make([]float64, d), make([]float64, d)
	cos := func(a, b []float32) float64 {
		var ab, aa, bb float64
		for i := range a {
			ab += float64(a[i]) * float64(b[i])
			aa += float64(a[i]) * float64(a[i])
			bb += float64(b[i]) * float64(b[i])
		}
		return ab / (math.Sqrt(aa) * math.Sqrt(bb))
	}
	for s := range x {
		sum, n := 0., 0
		for t := range len(x[s]) / d {
			if !keep(s, t) {
				continue
			}
			a, b := x[s][t*d:(t+1)*d], y[s][t*d:(t+1)*d]
			before := 1 - cos(a, b)
			score, c := before, b
			if z != nil {
				c = z[s][t*d : (t+1)*d]
				score = 1 - cos(a, c)
			}
			for i := range a {
				r.branch[i] += float64(b[i]) - float64(a[i])
				r.unit[i] += float64(c[i]) - float64(a[i])
			}
			r.score, r.before, r.angular = r.score+score, r.before+before, r.angular+math.Acos(1-score)/math.Pi
			sum += score
			n++
		}
		means = append(means, sum/float64(n))
		r.tokens += n
	}
	n := float64(r.tokens)
	r.score, r.before, r.angular = r.score/n, r.before/n, r.angular/n
	for i := range r.branch {
		r.branch[i] /= n
		r.unit[i] /= n
	}
	mean, square := 0., 0.
	for _, v := range means {
		mean += v / float64(len(means))
	}
	for _, v := range means {
		square += (v - mean) * (v - mean)
	}
	r.stderr = math.Sqrt(square / float64(len(means)-1) / float64(len(means)))
	return r
}

// The streams of these models have values near 1 with float32's rounding, and
// scores of 1e-2 and more: taps and outputs that went through differently
// fused kernels may differ by some 1e-7/√S of a score.
const scoreTolerance = 1e-6

func relative(got, want float64) float64 { return math.Abs(got-want) / math.Abs(want) }

// TestScoreFollowsItsDefinition compares every score with one computed in
// float64 from values that the model gives as plain outputs.
func TestScoreFollowsItsDefinition(t *testing.T) {
	for _, c := range forms {
		t.Run(c.name, func(t *testing.T) {
			m := c.model()
			src := source(t, c.data...)
			l, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{Threads: 2, Batch: 3, Means: true})
			if err != nil {
				t.Fatal(err)
			}
			list, err := modules.Find(m)
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Modules) != len(list) {
				t.Fatalf("%d modules in the ledger, %d in the model", len(l.Modules), len(list))
			}
			var names []string
			for _, x := range list {
				for _, v := range []*graph.Value{x.Stream, x.Branch, x.Sum} {
					names = append(names, v.Name)
				}
				if x.Norm != nil {
					names = append(names, x.Norm.Out.Name)
				}
			}
			values, keep := run(t, exposed(m, names), src)
			for i, x := range list {
				width := len(values[x.Stream.Name][0].Data().([]float32))
				shape := values[x.Stream.Name][0].Shape()
				d := shape[len(shape)-1]
				data := func(v *graph.Value) (out [][]float32) {
					for _, o := range values[v.Name] {
						out = append(out, o.Data().([]float32))
					}
					return out
				}
				in, y, z := data(x.Stream), data(x.Sum), [][]float32(nil)
				if x.Parallel {
					y = data(x.Branch)
					for s := range y {
						y[s] = slices.Clone(y[s])
						for k := range y[s] {
							y[s][k] += in[s][k]
						}
					}
				}
				if x.Norm != nil {
					z = data(x.Norm.Out)
				}
				counts := func(s, k int) bool { return width/d != len(keep[s]) || keep[s][k] }
				want := referenceOf(in, y, z, d, counts)
				got := l.Modules[i]
				if got.ID != x.ID || got.Kind != x.Kind || got.Layer != x.Layer || got.Params != x.Params || got.Droppable != x.Droppable {
					t.Errorf("entry %d is %+v, want %s", i, got, x.ID)
				}
				for _, v := range []struct {
					name      string
					got, want float64
					tolerance float64
				}{
					{"score", got.Score, want.score, scoreTolerance},
					{"score before the norm", got.ScoreBeforeNorm, want.before, scoreTolerance},
					{"angular", got.Angular, want.angular, scoreTolerance},
					{"standard error", got.Stderr, want.stderr, 1e-4}, // a difference of nearly equal means
					{"tokens", float64(got.Sums.Tokens), float64(want.tokens), 0},
				} {
					if !(relative(v.got, v.want) <= v.tolerance) {
						t.Errorf("%s: %s is %v, want %v", x.ID, v.name, v.got, v.want)
					}
				}
				branch, unit, ok := l.MeanUpdate(x.ID)
				if !ok || (unit != nil) != (x.Norm != nil) {
					t.Fatalf("%s: mean update %v, over the norm %v", x.ID, ok, unit != nil)
				}
				sameMean(t, x.ID, branch, want.branch)
				if unit != nil {
					sameMean(t, x.ID+" over the norm", unit, want.unit)
				}
			}
			blocks(t, l, list, values, keep)
		})
	}
}

// blocks checks the scores of layers against the definition.
func blocks(t *testing.T, l *calib.Ledger, list []modules.Module, values map[string][]tensor.Tensor, keep [][]bool) {
	t.Helper()
	for _, b := range l.Blocks {
		var of []modules.Module
		for _, x := range list {
			if x.Layer == b.Layer {
				of = append(of, x)
			}
		}
		end := of[len(of)-1].Sum
		if n := of[len(of)-1].Norm; n != nil {
			end = n.Out
		}
		var x, y [][]float32
		for s := range keep {
			x = append(x, values[of[0].Stream.Name][s].Data().([]float32))
			y = append(y, values[end.Name][s].Data().([]float32))
		}
		shape := values[end.Name][0].Shape()
		d := shape[len(shape)-1]
		want := referenceOf(x, y, nil, d, func(s, k int) bool { return len(x[s])/d != len(keep[s]) || keep[s][k] })
		if relative(b.Score, want.score) > scoreTolerance || relative(b.Angular, want.angular) > scoreTolerance || len(b.Modules) != len(of) {
			t.Errorf("layer %d: %+v, want %+v", b.Layer, b, want)
		}
	}
}

// sameMean compares mean updates; both are rounded like the float32 values
// that they come from.
func sameMean(t *testing.T, what string, got, want []float64) {
	t.Helper()
	for i := range want {
		if !(math.Abs(got[i]-want[i]) <= 2e-7) {
			t.Errorf("%s: mean update %d is %v, want %v", what, i, got[i], want[i])
			return
		}
	}
}

// run gives every output of every sample, run one by one, and the mask of
// every sample.
func run(t *testing.T, m *graph.Model, src *calib.Source) (map[string][]tensor.Tensor, [][]bool) {
	t.Helper()
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := src.Bind(prog.Inputs())
	if err != nil {
		t.Fatal(err)
	}
	s := prog.NewSession(runtime.SessionOptions{Threads: 1})
	out := map[string][]tensor.Tensor{}
	var keep [][]bool
	for i := range f.Len() {
		in, err := f.Batch(i, i+1)
		if err != nil {
			t.Fatal(err)
		}
		var one []bool
		if d, ok := in["attention_mask"]; ok {
			for _, v := range d.Data().([]int64) {
				one = append(one, v != 0)
			}
		}
		keep = append(keep, one)
		res, err := s.Run(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for name, d := range res {
			out[name] = append(out[name], d)
		}
	}
	return out, keep
}

var everything = calib.ScoreOptions{Means: true, Moments: true, Ranges: true}

// saved is the ledger's bytes: of the JSON, which names the arrays by their
// hash.
func saved(t testing.TB, l *calib.Ledger) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.json")
	if err := l.Save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestScoreIsTheSameBytes: neither how many samples are run at once nor how
// many threads there are shows in a ledger.
func TestScoreIsTheSameBytes(t *testing.T) {
	for _, c := range forms {
		m := c.model()
		src := source(t, c.data...)
		var first string
		for _, o := range []struct{ batch, threads int }{{1, 1}, {2, 1}, {7, 2}, {3, 3}, {0, 0}, {3, 3}} {
			opts := everything
			opts.Batch, opts.Threads = o.batch, o.threads
			l, err := calib.Score(ctx, m, feed(t, m, src), opts)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			got := saved(t, l)
			if first == "" {
				first = got
			}
			if got != first {
				t.Errorf("%s: batches of %d and %d threads give another ledger", c.name, o.batch, o.threads)
			}
		}
	}
}

// TestShardsMerge: ledgers of four shards, joined in any order, are the ledger
// of one run, to rounding.
func TestShardsMerge(t *testing.T) {
	for _, c := range forms[:5] {
		m := c.model()
		all := feed(t, m, source(t, c.data...))
		whole, err := calib.Score(ctx, m, all, everything)
		if err != nil {
			t.Fatal(err)
		}
		var parts []*calib.Ledger
		for _, i := range []int{2, 0, 3, 1} {
			shard, err := all.Shard(i, 4)
			if err != nil {
				t.Fatal(err)
			}
			l, err := calib.Score(ctx, m, shard, everything)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, l)
		}
		got, err := calib.Merge(parts)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Parts, whole.Parts) || got.Samples != whole.Samples || got.Tokens != whole.Tokens || got.Total != whole.Total {
			t.Errorf("%s: parts %v of %d, %d samples, %d tokens, want %v of %d, %d, %d", c.name, got.Parts, got.Total, got.Samples,
				got.Tokens, whole.Parts, whole.Total, whole.Samples, whole.Tokens)
		}
		near := func(what string, got, want float64) {
			t.Helper()
			if !(math.Abs(got-want) <= 1e-12*math.Abs(want)) {
				t.Errorf("%s: %s is %v, in one run %v", c.name, what, got, want)
			}
		}
		for i, x := range whole.Modules {
			near(x.ID, got.Modules[i].Score, x.Score)
			near(x.ID+" before the norm", got.Modules[i].ScoreBeforeNorm, x.ScoreBeforeNorm)
			near(x.ID+" angular", got.Modules[i].Angular, x.Angular)
			if math.Abs(got.Modules[i].Stderr-x.Stderr) > 1e-9*x.Score { // a difference of nearly equal sums
				t.Errorf("%s: standard error of %s is %v, in one run %v", c.name, x.ID, got.Modules[i].Stderr, x.Stderr)
			}
			a, _, _ := got.MeanUpdate(x.ID)
			b, _, ok := whole.MeanUpdate(x.ID)
			if !ok {
				t.Fatalf("%s: no mean update of %s", c.name, x.ID)
			}
			for k := range b {
				if math.Abs(a[k]-b[k]) > 1e-12 { // of streams near 1
					t.Errorf("%s: mean update of %s is %v, in one run %v", c.name, x.ID, a[k], b[k])
				}
			}
		}
		for i, x := range whole.Blocks {
			near(fmt.Sprint("layer ", x.Layer), got.Blocks[i].Score, x.Score)
		}
		for i, x := range whole.Ranges {
			if got.Ranges[i] != x {
				t.Errorf("%s: range %v, in one run %v", c.name, got.Ranges[i], x)
			}
		}
		for _, v := range m.Graph.Nodes() {
			if x := v.Input(0); x != nil && whole.Moments(x.Name) != nil {
				a, b := got.Moments(x.Name), whole.Moments(x.Name)
				near("count of "+x.Name, a.Count, b.Count)
				for i := range b.Second {
					if math.Abs(a.Second[i]-b.Second[i]) > 1e-12*math.Abs(b.Count) { // of values near 1
						t.Errorf("%s: moments of %s are %v, in one run %v", c.name, x.Name, a.Second[i], b.Second[i])
						break
					}
				}
			}
		}
	}
}

// TestRanges: the least and largest value of what goes in and out of a linear
// layer.
func TestRanges(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
< float[2,2] w = {1, 0, 0, -2} >
{
  f = MatMul (x, w)
  y = Add (x, f)
}`)
	src := source(t, npz.Float32Array("x", []int{3, 2}, []float32{1, 2, 0.5, -3, 0, 4}))
	l, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{Batch: 1, Ranges: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []calib.RangeOf{{Value: "x", Min: -3, Max: 4}, {Value: "f", Min: -8, Max: 6}}
	if !slices.Equal(l.Ranges, want) {
		t.Errorf("ranges %v, want %v", l.Ranges, want)
	}
}

func parse(t testing.TB, text string) *graph.Model {
	t.Helper()
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestScoreByHand: cosines that paper and pencil give.
func TestScoreByHand(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
< float[2,2] w = {0, 1, -1, 0} >
{
  f = MatMul (x, w)
  y = Add (x, f)
}`)
	// f turns x by a right angle, so y is turned by 45°; a zero stays zero.
	for _, c := range []struct {
		x              []float32
		score, angular float64
	}{
		{[]float32{1, 0}, 1 - math.Sqrt(0.5), 0.25},
		{[]float32{0, 0}, 0, 0},
		{[]float32{3, 4, 0, 0}, (1 - math.Sqrt(0.5)) / 2, 0.125},
	} {
		src := source(t, npz.Float32Array("x", []int{len(c.x) / 2, 2}, c.x))
		l, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := l.Module("M0")
		if math.Abs(got.Score-c.score) > 1e-15 || math.Abs(got.Angular-c.angular) > 1e-15 {
			t.Errorf("%v: score %v, angular %v, want %v and %v", c.x, got.Score, got.Angular, c.score, c.angular)
		}
	}
}

// TestScoreFails: what cannot be scored is refused in words.
func TestScoreFails(t *testing.T) {
	mlp := `<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
< float[2,2] w = {%s} >
{
  f = MatMul (x, w)
  y = Add (x, f)
}`
	one := npz.Float32Array("x", []int{1, 2}, []float32{1, 2})
	for _, c := range []struct {
		name, model string
		data        *npz.Array
		want        string
	}{
		{"no modules", `<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }`, one, "has no attention or MLP module"},
		{"NaN weights", fmt.Sprintf(mlp, "nan, 0, 0, 1"), one, "module M0: the residual stream holds NaN or infinity; check the weights and the data"},
		{"infinite data", fmt.Sprintf(mlp, "1, 0, 0, 1"), npz.Float32Array("x", []int{1, 2}, []float32{float32(math.Inf(1)), 0}), "holds NaN or infinity"},
	} {
		m := parse(t, c.model)
		_, err := calib.Score(ctx, m, feed(t, m, source(t, c.data)), calib.ScoreOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestWidthThatChanges: inputs of another width in the next batch are an error
// where their moments would not fit.
func TestWidthThatChanges(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[N,W] x) => (float[N,W] y) { y = Relu (x) }`)
	dir := folder(t, []*graph.Tensor{graph.Float32Tensor([]int64{1, 2}, []float32{1, 2})},
		[]*graph.Tensor{graph.Float32Tensor([]int64{1, 3}, []float32{1, 2, 3})})
	src, err := calib.OpenSource(dir, calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = calib.Moments(ctx, m, feed(t, m, src), []calib.Operand{{Key: "x", Value: "x"}}, calib.ScoreOptions{})
	if err == nil || !strings.Contains(err.Error(), "values x: has 3 features, had 2 before") {
		t.Errorf("%v, want an error that tells both widths", err)
	}
}

// folder writes test cases in the ONNX layout.
func folder(t testing.TB, cases ...[]*graph.Tensor) string {
	t.Helper()
	dir := t.TempDir()
	for i, inputs := range cases {
		sub := filepath.Join(dir, fmt.Sprintf("test_data_set_%d", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for k, x := range inputs {
			b, err := graph.EncodeTensor(x)
			if err == nil {
				err = os.WriteFile(filepath.Join(sub, fmt.Sprintf("input_%d.pb", k)), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestScoreStops(t *testing.T) {
	c := forms[2]
	m := c.model()
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := calib.Score(stop, m, feed(t, m, source(t, c.data...)), calib.ScoreOptions{Batch: 1, Progress: func(done, total int) {
		if done == 2 {
			cancel()
		}
		if done > 2 || total != 7 {
			t.Errorf("%d of %d after the end", done, total)
		}
	}})
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("%v, want that it was cancelled", err)
	}
}

// TestPublicScores: the four modules of KWT-1 that matter least.
func TestPublicScores(t *testing.T) {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA does not name the public models and sets")
	}
	for _, opset := range []int{13, 17} {
		m, err := graph.Load(filepath.Join(dir, "models", fmt.Sprintf("kwt1_mfcc_opset%d.onnx", opset)))
		if err != nil {
			t.Fatal(err)
		}
		src, err := calib.OpenSource(filepath.Join(dir, "sets", "kwt_train.npz"), calib.SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := calib.Score(ctx, m, feed(t, m, src).Spread(256), calib.ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(l.Modules, func(a, b calib.ModuleScore) int { return int(math.Copysign(1, a.Score-b.Score)) })
		var got []string
		for _, x := range l.Modules[:4] {
			got = append(got, x.ID)
		}
		slices.Sort(got)
		if want := []string{"M4", "M5", "M7", "M8"}; !slices.Equal(got, want) {
			t.Errorf("opset %d: the smallest scores are those of %v, want %v", opset, got, want)
		}
	}
}
