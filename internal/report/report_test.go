package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
	"github.com/onnx-lathe/lathe/passes/train"
)

// result is an optimization with one variant; its names try to be markup.
func result() *optimize.Result {
	original, final := &graph.Model{}, &graph.Model{}
	quality := func(v float64) calib.Evaluation {
		return calib.Evaluation{Metric: calib.MetricAccuracy, Value: v, CI: [2]float64{v - 0.01, v + 0.01}, Samples: make([]float64, 20), MsPerSample: 1}
	}
	return &optimize.Result{
		Ledger: &calib.Ledger{Samples: 10, Tokens: 400, Modules: []calib.ModuleScore{
			{ID: "A0", Kind: "attention", Score: 0.2, Stderr: 0.01, Droppable: true},
			{ID: "M0", Kind: "mlp", Score: 0.1, Droppable: false, Reason: `feeds "<b>"`},
			{ID: "A1", Kind: "attention", Layer: 1, Score: 0.01, Droppable: true},
		}},
		Dropped: []string{"A1"},
		Journal: &passes.Journal{Entries: []passes.Entry{{Pass: "drop-modules", Node: "<script>", What: "dropped"}}},
		Variants: []optimize.Variant{
			{Name: "original", Model: original, Parameters: 1000, Bytes: 4000, FLOPs: 2000, Quality: quality(0.9), ToOriginal: quality(0),
				Times: []optimize.OperatorTime{{Kind: "MatMul", Ms: 0.75, GFLOPS: 50}, {Kind: "Softmax", Ms: 0.25}, {Kind: "Shape", Ms: 0.0001}, {Kind: "Gather", Ms: 0.0002}}},
			{Name: "modules dropped", Model: final, Dropped: []string{"A1"}, Parameters: 500, Bytes: 2000, FLOPs: 1000, Quality: quality(0.8), ToOriginal: quality(0.1),
				Times: []optimize.OperatorTime{{Kind: "lathe.BlockCirculantMatMul", Ms: 0.5, GFLOPS: 25}, {Kind: "Softmax", Ms: 0.125}}},
		},
		Search: &passes.Allocation{Chosen: 1, Curve: []passes.Trade{{Step: "original", Params: 1000},
			{Step: "drop A1", Params: 500, KL: 0.1}}},
		Healings: []optimize.Healing{{Variant: "modules dropped, healed", Result: &train.Result{Steps: 20, Samples: 90, HeldOut: 10,
			Curve: []train.Point{{HeldOut: 0.5, Loss: 0.5}, {Step: 20, HeldOut: 0.25, Loss: 0.125}}, Best: train.Point{Step: 20, HeldOut: 0.25}}}},
		Final: final,
		Peak:  200,
	}
}

// TestWrite: the page says what the result holds, and holds no markup of a
// model's names.
func TestWrite(t *testing.T) {
	var page bytes.Buffer
	if err := Write(&page, Input{Title: "<script>alert(1)</script>", Result: result()}); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if strings.Contains(text, "<script>") || strings.Contains(text, "<b>\"") {
		t.Error("a name of the model is markup in the page")
	}
	for _, want := range []string{
		"0.20000", "0.01000 dropped", // scores
		"50.0 %", "of the parameters, 500",
		"0.8000", "was 0.9000",
		"<td>MatMul</td><td>0.750</td><td>50.0</td><td>25 %</td><td>–</td>",
		"<td>Softmax</td><td>0.250</td><td></td><td></td><td>0.125</td>",
		"<td>lathe.BlockCirculantMatMul</td><td>–</td><td></td><td></td><td>0.500</td><td>25.0</td><td>12 %</td>",
		"the rest",
		"modules dropped, healed</b>: 0.5000 → 0.2500 at step 20 of 20", "step 20: held-out loss 0.2500, loss 0.1250",
		"drop A1: 50.0 % of the parameters, KL 0.1000", "The budget was not met",
		"against the 200 GFLOP/s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(text, "Gather") {
		t.Error("a kind of operator below a thousandth has a row of its own")
	}
}
