package optimize_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/testmodels"
)

func source(t *testing.T, seed uint64, samples int) *calib.Source {
	t.Helper()
	data, err := testmodels.WordArchive(seed, samples)
	if err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("words", data, calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func demo(t *testing.T) *graph.Model {
	t.Helper()
	file, _, _ := testmodels.Demo()
	m, err := graph.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// accuracy is how variants are judged here.
var accuracy = calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"}

// names are those of the variants.
func names(r *optimize.Result) (out []string) {
	for _, v := range r.Variants {
		out = append(out, v.Name)
	}
	return out
}

// TestSteps: every step makes a variant of the one before, in order, a healing
// brings it nearer to the original, and the original stays as it is.
func TestSteps(t *testing.T) {
	m := demo(t)
	before := m.Fingerprint()
	heal := &train.Options{Steps: 12, Batch: 32, LearningRate: 3e-4}
	stages := map[string]bool{}
	healed := 0
	r, err := optimize.Run(t.Context(), m, optimize.Options{
		Steps: []optimize.Step{
			{Drop: &passes.SelectOptions{Count: 6, By: passes.ByRandom, Seed: 1}},
			{Heal: heal},
			{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}, Samples: 32}},
			{Heal: heal},
		},
		Controls: true, Calibration: source(t, testmodels.CalibSeed, 128), Evaluation: source(t, testmodels.EvalSeed, 128), Eval: accuracy,
		Progress: func(stage string) func(int, int) { stages[stage] = true; return nil },
		Healing:  func(train.Status) { healed++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"original", "modules dropped", "modules dropped, healed", "block-circulant, b = 4", "block-circulant, b = 4, healed",
		"control: dropped by cosine", "control: dropped by deepest"}
	if got := names(r); !slices.Equal(got, want) {
		t.Fatalf("variants %q, want %q", got, want)
	}
	if m.Fingerprint() != before {
		t.Error("the original was changed")
	}
	if r.Final != r.Variants[4].Model || r.SameData || len(r.Dropped) != 6 || len(r.Layers) == 0 || len(r.Healings) != 2 || r.Search != nil {
		t.Errorf("final %v, same data %v, dropped %v, %d layers, %d healings", r.Final == r.Variants[4].Model, r.SameData, r.Dropped, len(r.Layers), len(r.Healings))
	}
	if !stages["score"] || !stages["fit"] || !stages["compare"] || healed != 24 {
		t.Errorf("progress of %v and %d steps of healing", stages, healed)
	}
	v := r.Variants
	for i, smaller := range []bool{false, true, false, true, false} {
		if smaller != (i > 0 && v[i].Parameters < v[i-1].Parameters) {
			t.Errorf("%s: %d parameters", v[i].Name, v[i].Parameters)
		}
	}
	if v[0].ToOriginal.Value != 0 || v[2].ToOriginal.Value >= v[1].ToOriginal.Value || v[4].ToOriginal.Value >= v[3].ToOriginal.Value {
		t.Errorf("KL to the original %v, %v, %v, %v, %v", v[0].ToOriginal.Value, v[1].ToOriginal.Value, v[2].ToOriginal.Value, v[3].ToOriginal.Value, v[4].ToOriginal.Value)
	}
	for i, c := range v {
		if err := graph.Check(c.Model); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if timed := len(c.Times) > 0; timed != (i == 0 || i == 4) {
			t.Errorf("%s: times %v", c.Name, timed)
		}
		if c.Control && (len(c.Dropped) != 6 || i < 5) {
			t.Errorf("%s: dropped %v", c.Name, c.Dropped)
		}
	}
	for _, pass := range []string{"drop-modules", "rewrite-circulant", "heal"} {
		if len(r.Journal.By(pass)) == 0 {
			t.Errorf("the journal says nothing of %s", pass)
		}
	}
}

// TestBudget: a search does what its best trade says, with one variant for the
// modules and one for the blocks.
func TestBudget(t *testing.T) {
	o := optimize.Options{
		Steps: []optimize.Step{{Budget: &passes.AllocateOptions{Share: 0.8, Blocks: []int{2}, Modules: true, Samples: 16, FitSamples: 32,
			Circulant: passes.CirculantOptions{Only: regexp.MustCompile(`layers\.[5-7]`)}}}},
		Controls: true, Calibration: source(t, testmodels.CalibSeed, 64), Eval: accuracy,
	}
	m := demo(t)
	r, err := optimize.Run(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	best := r.Search.Best()
	if !r.Search.Met || len(best.Dropped) == 0 || !slices.Equal(best.Dropped, r.Dropped) || len(r.Layers) != len(best.Blocks) {
		t.Errorf("met %v, %v and %d blocks chosen, %v and %d made", r.Search.Met, best.Dropped, len(best.Blocks), r.Dropped, len(r.Layers))
	}
	if got := r.Final.Parameters(); got != best.Params || float64(got) > 0.8*float64(m.Parameters()) {
		t.Errorf("%d parameters, the search says %d", got, best.Params)
	}
	if !r.SameData {
		t.Error("judged on the data that it was fitted on, and does not say so")
	}
	for _, v := range r.Variants {
		if v.Control && len(v.Dropped) != len(best.Dropped) {
			t.Errorf("%s dropped %v", v.Name, v.Dropped)
		}
	}
}

// TestQuantize: fixed point comes behind everything else, and what it makes is
// compared and timed like any other step.
func TestQuantize(t *testing.T) {
	m := demo(t)
	r, err := optimize.Run(t.Context(), m, optimize.Options{
		Steps: []optimize.Step{
			{Drop: &passes.SelectOptions{Count: 2}},
			{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}}},
			{Heal: &train.Options{Steps: 8, Batch: 32, LearningRate: 3e-4}},
			{Quantize: &optimize.Quantize{Samples: 32}},
			{Compact: true},
		},
		Calibration: source(t, testmodels.CalibSeed, 96), Evaluation: source(t, testmodels.EvalSeed, 96), Eval: accuracy,
	})
	if err != nil {
		t.Fatal(err)
	}
	v := r.Variants
	want := []string{"original", "modules dropped", "block-circulant, b = 4", "block-circulant, b = 4, healed", "block-circulant, b = 4, healed, int16",
		"block-circulant, b = 4, healed, int16, compact"}
	if got := names(r); !slices.Equal(got, want) {
		t.Fatalf("variants %q, want %q", got, want)
	}
	layers, err := passes.Int16Layers(r.Final)
	if err != nil {
		t.Fatal(err)
	}
	if r.Final != v[5].Model || len(r.Fixed) == 0 || len(layers) != len(r.Fixed) || len(v[5].Times) == 0 {
		t.Errorf("%d layers in fixed point, %d in the model, times %v", len(r.Fixed), len(layers), v[5].Times)
	}
	for _, l := range layers { // the metadata has kept up with the names
		if r.Final.Graph.Value(l.Int16In) == nil || r.Final.Graph.Value(l.Int16Out) == nil || m.Graph.Value(l.In) == nil {
			t.Errorf("layer %+v has no such values", l)
		}
	}
	if v[5].Bytes > v[4].Bytes*9/10 || v[5].Quality.Value != v[4].Quality.Value || v[5].ToOriginal.Value != v[4].ToOriginal.Value || v[5].FLOPs != v[4].FLOPs {
		t.Errorf("compact: %d bytes of %d, accuracy %v → %v, KL %v → %v", v[5].Bytes, v[4].Bytes, v[4].Quality.Value, v[5].Quality.Value,
			v[4].ToOriginal.Value, v[5].ToOriginal.Value)
	}
	if d := v[4].Quality.Value - v[3].Quality.Value; math.Abs(d) > 0.02 || math.Abs(v[4].ToOriginal.Value-v[3].ToOriginal.Value) > 0.01 {
		t.Errorf("accuracy %v → %v, KL %v → %v", v[3].Quality.Value, v[4].Quality.Value, v[3].ToOriginal.Value, v[4].ToOriginal.Value)
	}
	if v[4].Bytes >= v[3].Bytes || v[4].FLOPs == 0 {
		t.Errorf("%d bytes of %d, %d FLOPs", v[4].Bytes, v[3].Bytes, v[4].FLOPs)
	}
	if len(r.Journal.By("quantize-int16")) == 0 {
		t.Error("the journal says nothing of fixed point")
	}
}

// TestQuantizeLast: what cannot follow fixed point is refused before anything starts.
func TestQuantizeLast(t *testing.T) {
	src := source(t, testmodels.CalibSeed, 16)
	quantize := optimize.Step{Quantize: &optimize.Quantize{}}
	for want, s := range map[string]optimize.Step{
		"cannot heal: integers have no gradients": {Heal: &train.Options{}},
		"cannot drop modules":                     {Drop: &passes.SelectOptions{Count: 1}},
		"cannot rewrite layers":                   {Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 4}}},
	} {
		_, err := optimize.Run(t.Context(), demo(t), optimize.Options{Calibration: src, Steps: []optimize.Step{quantize, s},
			Progress: func(stage string) func(int, int) { t.Errorf("%s: stage %s", want, stage); return nil }})
		if err == nil || !strings.Contains(err.Error(), "step 2 "+want) || !strings.Contains(err.Error(), "quantize last") {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestNoSteps: without steps the original is judged and nothing else is done.
func TestNoSteps(t *testing.T) {
	src := source(t, testmodels.CalibSeed, 16)
	r, err := optimize.Run(t.Context(), demo(t), optimize.Options{Calibration: src, Eval: accuracy, Controls: true,
		Steps: []optimize.Step{{Drop: &passes.SelectOptions{}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(r); !slices.Equal(got, []string{"original"}) || r.Final == nil || len(r.Ledger.Modules) != 16 {
		t.Errorf("variants %q, %d modules scored", got, len(r.Ledger.Modules))
	}
}

// TestConvolutions: a network without modules has nothing to drop; its layers,
// convolutions among them, are fitted, chosen by a budget and healed.
func TestConvolutions(t *testing.T) {
	m := testmodels.LeNet(testmodels.CNN{Seed: 1})
	rng := rand.New(rand.NewPCG(1, 2))
	pictures := make([]float32, 96*12*12)
	for i := range pictures {
		pictures[i] = float32(rng.NormFloat64())
	}
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Float32Array("image", []int{96, 1, 12, 12}, pictures)); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("pictures", b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	heal := &train.Options{Steps: 30, Batch: 32, LearningRate: 2e-3, Shift: 1}
	r, err := optimize.Run(t.Context(), m, optimize.Options{
		Steps:       []optimize.Step{{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}}}, {Heal: heal}},
		Calibration: src, Eval: calib.EvalOptions{Metric: calib.MetricKL},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(r), []string{"original", "block-circulant, b = 4", "block-circulant, b = 4, healed"}; !slices.Equal(got, want) {
		t.Errorf("variants %q, want %q", got, want)
	}
	convolutions := 0
	for _, n := range r.Final.Graph.Nodes() {
		if n.Op == "BlockCirculantConv" {
			convolutions++
		}
	}
	if convolutions != 1 || len(r.Layers) != 2 || len(r.Ledger.Modules) != 0 {
		t.Errorf("%d convolutions of %d layers rewritten, %d modules scored", convolutions, len(r.Layers), len(r.Ledger.Modules))
	}
	if before, after := r.Variants[1].ToOriginal.Value, r.Variants[2].ToOriginal.Value; !(after < 0.7*before) {
		t.Errorf("KL to the original %v, healed %v", before, after)
	}
	r, err = optimize.Run(t.Context(), m, optimize.Options{
		Steps:       []optimize.Step{{Budget: &passes.AllocateOptions{Share: 0.5, Blocks: []int{2, 4}, Modules: true}}},
		Calibration: src, Eval: calib.EvalOptions{Metric: calib.MetricKL},
	})
	if err != nil {
		t.Fatal(err)
	}
	if best := r.Search.Best(); !r.Search.Met || len(best.Blocks) == 0 || r.Final.Parameters() > m.Parameters()*6/10 {
		t.Errorf("%+v, %d of %d parameters", best, r.Final.Parameters(), m.Parameters())
	}
	_, err = optimize.Run(t.Context(), m, optimize.Options{Calibration: src, Eval: calib.EvalOptions{Metric: calib.MetricKL},
		Steps: []optimize.Step{{Drop: &passes.SelectOptions{Count: 1}}}})
	if err == nil || !strings.Contains(err.Error(), "no attention or MLP module") {
		t.Errorf("a drop gives the error %v", err)
	}
}

// TestErrors: an error names the step.
func TestErrors(t *testing.T) {
	src := source(t, testmodels.CalibSeed, 16)
	for _, c := range []struct {
		what string
		o    optimize.Options
		want string
	}{
		{"no data", optimize.Options{}, "calibration data"},
		{"an empty step", optimize.Options{Calibration: src, Steps: []optimize.Step{{Drop: &passes.SelectOptions{Count: 1}}, {}}}, "step 2: is empty"},
		{"too many modules", optimize.Options{Calibration: src, Steps: []optimize.Step{{Drop: &passes.SelectOptions{Count: 99}}}}, "step 1: "},
		{"a block of one", optimize.Options{Calibration: src, Steps: []optimize.Step{{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 1}}}}}, "step 1: "},
		{"no budget", optimize.Options{Calibration: src, Steps: []optimize.Step{{Budget: &passes.AllocateOptions{Modules: true}}}}, "step 1: allocate: give a budget"},
		{"a negative rate", optimize.Options{Calibration: src, Steps: []optimize.Step{{Heal: &train.Options{LearningRate: -1}}}}, "step 1: train: "},
		{"no labels", optimize.Options{Calibration: src, Steps: []optimize.Step{{Heal: &train.Options{Labels: "names"}}}}, "\"names\""},
	} {
		if _, err := optimize.Run(t.Context(), demo(t), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.what, err, c.want)
		}
	}
}

// TestInterrupt: an interrupted healing ends the whole, since what would come
// of it is not what was asked for.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := optimize.Run(ctx, demo(t), optimize.Options{Calibration: source(t, testmodels.CalibSeed, 64), Eval: accuracy,
		Steps:   []optimize.Step{{Drop: &passes.SelectOptions{Count: 2}}, {Heal: &train.Options{Steps: 50, Batch: 16}}},
		Healing: func(s train.Status) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestHealingIsForeseen: a model that cannot be trained is refused before it is
// scored and dropped from, not after.
func TestHealingIsForeseen(t *testing.T) {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2,2] w = {1, 2, 3, 4}>
{
  a = MatMul (x, w)
  y = Shrink (a)
}`)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Float32Array("x", []int{4, 2}, make([]float32, 8))); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("zeros", b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = optimize.Run(t.Context(), m, optimize.Options{Calibration: src, Steps: []optimize.Step{
		{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 2}}}, {Heal: &train.Options{}}}})
	if err == nil || !strings.Contains(err.Error(), "step 2 cannot heal this model") || !strings.Contains(err.Error(), "Shrink") {
		t.Errorf("error %v", err)
	}
}
