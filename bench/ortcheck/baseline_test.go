package ortcheck

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
)

// The harness is sound when the published models give the quality that they
// are published with. Accuracies are counts out of 1000, so 0.0005 is exact;
// nll is published to four digits.
func TestPublishedBaselines(t *testing.T) {
	for _, c := range []struct {
		model, set, output, target string
		metric                     func(out, target nd.Array) (float64, error)
		want, tolerance            float64
	}{
		{"kwt1_mfcc_opset13.onnx", "kwt_eval.npz", "logits", "labels", quality.Accuracy, 0.9710, 0.0005},
		{"kwt1_mfcc_opset17.onnx", "kwt_eval.npz", "logits", "labels", quality.Accuracy, 0.9710, 0.0005},
		{"cnn_mnist_pytorch.onnx", "mnist_eval.npz", "21", "labels", quality.Accuracy, 0.9840, 0.0005},
		{"stories260K_opset17.onnx", "stories_eval.npz", "logits", "input_ids", quality.NextTokenNLL, 1.5148, 0.0001},
		{"stories260K_kv_opset17.onnx", "stories_eval.npz", "logits", "input_ids", quality.NextTokenNLL, 1.5148, 0.0001},
	} {
		t.Run(c.model, func(t *testing.T) {
			arrays, err := nd.ReadNPZ(dataFile(t, "sets/"+c.set))
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, dataFile(t, "models/"+c.model), ort.Options{Threads: 2})
			out, err := s.All(ort.Samples{Arrays: arrays, Batch: 32})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.metric(out[c.output], arrays[c.target])
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%.5f", got)
			if !(math.Abs(got-c.want) <= c.tolerance) {
				t.Errorf("got %.5f, published is %.4f", got, c.want)
			}
		})
	}
}

// Every public model has a case, loads, runs, and gives finite numbers. Where
// two exports of one network stand beside each other they agree.
func TestPublicModelsRun(t *testing.T) {
	root := dataFile(t, "models")
	err := filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".onnx" {
			return err
		}
		name, err := filepath.Rel(root, file)
		if !slices.ContainsFunc(cases, func(c feedCase) bool { return c.model == filepath.ToSlash(name) }) {
			t.Errorf("%s is in no case", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			s := open(t, dataFile(t, "models/"+c.model), ort.Options{})
			for _, in := range c.feeds(t, s) {
				out, err := s.Run(in)
				if err != nil {
					t.Fatal(err)
				}
				for name, a := range out {
					if slices.ContainsFunc(a.Float64s(), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
						t.Errorf("output %q is not finite", name)
					}
				}
			}
		})
	}
}

// Two exports of one network agree, which no fault of the harness (a mixed-up
// input, a wrong dimension) would leave true. One is run as it stands and one
// optimized, which otherwise end as the same kernels. The tolerance is that of
// one float32 sum order against another over a few hundred terms.
func TestExportsAgree(t *testing.T) {
	for _, pair := range [][2]string{
		{"kwt1_mfcc_opset13.onnx", "kwt1_mfcc_opset17.onnx"},
		{"stories260K_opset17.onnx", "stories260K_kv_opset17.onnx"},
		{"graphs/bert5_pytorch_opset12.onnx", "graphs/bert5_ort_fused.onnx"},
	} {
		t.Run(pair[0]+" and "+pair[1], func(t *testing.T) {
			var outs [2]map[string]nd.Array
			for i, model := range pair {
				c := cases[slices.IndexFunc(cases, func(c feedCase) bool { return c.model == model })]
				s := open(t, dataFile(t, "models/"+c.model), ort.Options{Basic: i == 0})
				out, err := s.Run(c.feeds(t, s)[0])
				if err != nil {
					t.Fatal(err)
				}
				outs[i] = out
			}
			for name, want := range outs[0] {
				rel, err := quality.RelativeError(outs[1][name], want)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: relative error %.2g", name, rel)
				if !(rel <= 1e-5) {
					t.Errorf("output %q: relative error %g", name, rel)
				}
			}
		})
	}
}
