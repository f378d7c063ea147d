package calib_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// identity gives its input as logits; scaled gives them times a factor.
func scaled(t *testing.T, factor string) *graph.Model {
	return parse(t, fmt.Sprintf(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y, float[N,2] z)
< float factor = {%s} >
{
  y = Mul (x, factor)
  z = Neg (y)
}`, factor))
}

// TestEvaluateByHand: every metric on two samples of two classes with odds of
// 3:1 and 1:3, against a model that halves the logits.
func TestEvaluateByHand(t *testing.T) {
	l3 := float32(math.Log(3))
	src := source(t, npz.Float32Array("x", []int{2, 2}, []float32{l3, 0, 0, l3}), npz.Int64Array("labels", []int{2}, []int64{0, 0}))
	a, b := scaled(t, "1"), scaled(t, "0.5")
	r := math.Sqrt(3) // odds of the second model
	kl := 0.75*math.Log(0.75/(r/(1+r))) + 0.25*math.Log(0.25/(1/(1+r)))
	for _, c := range []struct {
		metric        calib.Metric
		first, second float64
	}{
		{calib.MetricAccuracy, 0.5, 0.5},
		{calib.MetricKL, 0, kl},
		{calib.MetricAgreement, 1, 1},
		{calib.MetricCosine, 1, 1},
		{calib.MetricSQNR, math.Inf(1), 20 * math.Log10(2)},
	} {
		for _, batch := range []int{0, 1} {
			list, err := calib.Evaluate(ctx, []*graph.Model{a, b}, src, calib.EvalOptions{Metric: c.metric, Labels: "labels", Batch: batch, Threads: 1})
			if err != nil {
				t.Fatalf("%s: %v", c.metric, err)
			}
			for i, want := range []float64{c.first, c.second} {
				e := list[i]
				if !(math.Abs(e.Value-want) <= 1e-7*math.Max(1, math.Abs(want)) || e.Value == want) { // ln 3 is rounded to float32
					t.Errorf("%s of model %d is %v, want %v", c.metric, i, e.Value, want)
				}
				if e.Metric != c.metric || len(e.Samples) != 2 || !(e.MsPerSample > 0) || !(e.CI[0] <= e.Value && e.Value <= e.CI[1]) {
					t.Errorf("%s of model %d: %+v", c.metric, i, e)
				}
			}
		}
	}
}

// TestEvaluateNLL: the next-token loss of a model is that of its logits, with
// and without a cache, and with the inputs of each model its own.
func TestEvaluateNLL(t *testing.T) {
	size := testmodels.Size{Layers: 1, Seed: 1}
	plain, cached := testmodels.LLaMA(size, testmodels.LLaMAOptions{}), testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: true})
	ids := tokens("input_ids", 40, 5, 6)
	src := source(t, ids)
	list, err := calib.Evaluate(ctx, []*graph.Model{plain, cached, plain}, src, calib.EvalOptions{Metric: calib.MetricNLL, Batch: 2})
	if err != nil {
		t.Fatal(err)
	}
	values, _ := run(t, plain, src)
	want := 0.
	text, err := ids.Int64s()
	if err != nil {
		t.Fatal(err)
	}
	for s, logits := range values["logits"] {
		v := logits.Data().([]float32)
		for k := range 5 {
			row := v[k*40 : (k+1)*40]
			sum := 0.
			for _, x := range row {
				sum += math.Exp(float64(x))
			}
			want -= (float64(row[text[s*6+k+1]]) - math.Log(sum)) / 25
		}
	}
	for i, e := range list {
		if math.Abs(e.Value-want) > 1e-5 { // float32 logits near 1 of two forms of the model
			t.Errorf("model %d: %v, want %v", i, e.Value, want)
		}
	}
}

// TestEvaluateOutput measures another output than the first.
func TestEvaluateOutput(t *testing.T) {
	src := source(t, npz.Float32Array("x", []int{2, 2}, []float32{1, 0, 2, 1}), npz.Int64Array("labels", []int{2}, []int64{1, 1}))
	for output, want := range map[string]float64{"": 0, "y": 0, "z": 1} {
		list, err := calib.Evaluate(ctx, []*graph.Model{scaled(t, "1")}, src, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels", Output: output})
		if err != nil || list[0].Value != want {
			t.Errorf("output %q: %v, %v, want %v", output, list, err, want)
		}
	}
}

// TestEvaluateLimit takes samples from all over the data.
func TestEvaluateLimit(t *testing.T) {
	labels := []int64{0, 0, 0, 0, 1, 1, 1, 1}
	src := source(t, npz.Float32Array("x", []int{8, 2}, make([]float32, 16)), npz.Int64Array("labels", []int{8}, labels))
	var last [2]int
	list, err := calib.Evaluate(ctx, []*graph.Model{scaled(t, "1")}, src, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels", Limit: 4,
		Progress: func(done, total int) { last = [2]int{done, total} }})
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Value != 0.5 || len(list[0].Samples) != 4 || last != [2]int{4, 4} {
		t.Errorf("%+v, progress %v", list[0], last)
	}
}

// TestEvaluateFails: what cannot be measured is refused in words.
func TestEvaluateFails(t *testing.T) {
	x := npz.Float32Array("x", []int{2, 2}, []float32{1, 2, 3, 4})
	labels := npz.Int64Array("labels", []int{2}, []int64{0, 5})
	good := scaled(t, "1")
	fixed := parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[2,2] x) => (float[2,2] y) { y = Neg (x) }`)
	one := parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[1,2] x) => (float[1,2] y) { y = Neg (x) }`)
	wide := parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,4] y) { y = Concat <axis = 1> (x, x) }`)
	whole := parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (int64[N,2] y) { y = Cast <to = 7> (x) }`)
	unknown := parse(t, `<ir_version: 8, opset_import: ["": 17, "x": 1]> g (float[N,2] x) => (float[N,2] y) { y = x.Op (x) }`)
	for _, c := range []struct {
		name   string
		models []*graph.Model
		data   []*npz.Array
		o      calib.EvalOptions
		want   string
	}{
		{"no metric", []*graph.Model{good}, nil, calib.EvalOptions{}, `no metric ""; there are [accuracy nll kl agreement cosine sqnr]`},
		{"no models", nil, nil, calib.EvalOptions{Metric: calib.MetricKL}, "no models"},
		{"no labels", []*graph.Model{good}, nil, calib.EvalOptions{Metric: calib.MetricAccuracy}, "accuracy needs labels"},
		{"labels that are not there", []*graph.Model{good}, nil, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "y"}, `no array "y"`},
		{"a label that is no class", []*graph.Model{good}, []*npz.Array{labels}, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"}, "label 5 is outside 0 … 1"},
		{"no such output", []*graph.Model{good}, nil, calib.EvalOptions{Metric: calib.MetricKL, Output: "q"}, `no output "q"; it has`},
		{"no tokens", []*graph.Model{good}, nil, calib.EvalOptions{Metric: calib.MetricNLL}, "nll needs one input of token ids; candidates: []"},
		{"another shape", []*graph.Model{good, wide}, nil, calib.EvalOptions{Metric: calib.MetricCosine}, `model 2: samples 0 … 1: output "y" has shape [2 4], the first model's [2 2]`},
		{"another type", []*graph.Model{good, whole}, nil, calib.EvalOptions{Metric: calib.MetricKL}, `output "y" is int64, want float`},
		{"batches that do not agree", []*graph.Model{fixed, one}, nil, calib.EvalOptions{Metric: calib.MetricKL}, "one model takes 2 samples at a time and another 1"},
		{"NaN", []*graph.Model{good, scaled(t, "nan")}, nil, calib.EvalOptions{Metric: calib.MetricAgreement}, `model 2: samples 0 … 1: output "y" holds NaN; check the weights and the data`},
		{"an operator that cannot run", []*graph.Model{unknown}, nil, calib.EvalOptions{Metric: calib.MetricKL}, "no kernel"},
	} {
		_, err := calib.Evaluate(ctx, c.models, source(t, append(c.data, x)...), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "eval: ") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestMetrics: what the table says of each.
func TestMetrics(t *testing.T) {
	for _, m := range calib.Metrics() {
		higher := m != calib.MetricNLL && m != calib.MetricKL
		relative := m != calib.MetricAccuracy && m != calib.MetricNLL
		if m.HigherIsBetter() != higher || m.Relative() != relative {
			t.Errorf("%s: higher is better %v, relative %v", m, m.HigherIsBetter(), m.Relative())
		}
	}
}
