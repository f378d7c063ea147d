package testmodels_test

import (
	"context"
	"maps"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// Two float32 evaluations of these models differ by the order of their sums:
// by about √terms·2⁻²⁴ of the largest value for each product (128 terms or
// fewer), and up to 50 products follow each other: √50·√128·2⁻²⁴ = 5e-6.
// ONNX Runtime itself differs by 5e-7 between two forms of one model
// (llama-17-cache and llama-23-cache).
const tolerance = 5e-6

// The runtime and ONNX Runtime must agree on every form of every family.
func TestGoldens(t *testing.T) {
	names := map[string]bool{}
	for _, c := range testmodels.Cases() {
		names[c.Name] = true
		t.Run(c.Name, func(t *testing.T) {
			want := readGolden(t, c.Name)
			p, err := runtime.Compile(c.Model(), runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			feeds := map[string]tensor.Tensor{}
			for _, a := range c.Inputs {
				feeds[a.Name] = dense(t, a)
			}
			got, err := p.NewSession(runtime.SessionOptions{Threads: 1}).Run(context.Background(), feeds)
			if err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(got, func(name string, x tensor.Tensor) bool { // goldens hold no empty arrays
				return want[name] == nil && x.Shape().TotalSize() == 0
			})
			if len(got) != len(want) {
				t.Errorf("%d outputs, ONNX Runtime has %d", len(got), len(want))
			}
			for name, w := range want {
				compare(t, name, got[name], w)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.npz")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".npz"); !names[name] {
			t.Errorf("%s belongs to no case: remove it, or run testmodels/golden.sh", f)
		}
	}
}

// What lathe demo says it starts from: the model hears 97 words of a hundred.
func TestDemoHearsWords(t *testing.T) {
	model, _, eval := testmodels.Demo()
	m, err := graph.Decode(model)
	if err != nil {
		t.Fatal(err)
	}
	f, err := npz.FromBytes("eval", eval, 1<<24)
	if err != nil {
		t.Fatal(err)
	}
	features, err := f.Read("features")
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.Read("labels")
	if err != nil {
		t.Fatal(err)
	}
	labels, err := l.Int64s()
	if err != nil {
		t.Fatal(err)
	}
	if len(labels) != testmodels.DemoEval {
		t.Fatalf("%d samples, want %d", len(labels), testmodels.DemoEval)
	}
	p, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	feeds := map[string]tensor.Tensor{"features": dense(t, features)}
	out, err := p.NewSession(runtime.SessionOptions{Threads: 1}).Run(context.Background(), feeds)
	if err != nil {
		t.Fatal(err)
	}
	logits, hits := out["logits"].Data().([]float32), 0
	for i, label := range labels {
		row := logits[i*testmodels.WordClasses:][:testmodels.WordClasses]
		best := int64(0)
		for c, v := range row {
			if v > row[best] {
				best = int64(c)
			}
		}
		if best == label {
			hits++
		}
	}
	if accuracy := float64(hits) / float64(len(labels)); accuracy < 0.97 {
		t.Errorf("accuracy %.4f, want 0.97 or more", accuracy)
	}
}

// Builders that write one model in two forms must write the same model: the
// goldens, which know nothing of the builders, have to agree.
func TestFormsAgree(t *testing.T) {
	for _, c := range [][2]string{
		{"bert-13", "bert-17"},
		{"bert-20", "bert-17"},
		{"bert-17-functions", "bert-17"},
		{"bert-17-fused", "bert-17"},
		{"bert-17-multihead", "bert-17"},
		{"gpt2-17-fused", "gpt2-17-cache"},
		{"llama-17-wide", "llama-17-fused-start"},
		{"llama-18-functions", "llama-17-cache"},
		{"llama-13", "llama-23"},
		{"llama-17-cache", "llama-23-cache"},
	} {
		a, b := readGolden(t, c[0]), readGolden(t, c[1])
		if c[0] == "gpt2-17-fused" { // its caches are stacked
			b = map[string]*npz.Array{"logits": b["logits"]}
		} else if len(a) != len(b) {
			t.Errorf("%s has %d outputs, %s has %d", c[0], len(a), c[1], len(b))
		}
		for name, w := range b {
			if a[name] == nil {
				t.Errorf("%s has no output %s", c[0], name)
				continue
			}
			compare(t, name, dense(t, a[name]), w)
		}
	}
}

func readGolden(t *testing.T, name string) map[string]*npz.Array {
	t.Helper()
	path := filepath.Join("testdata", name+".npz")
	f, err := npz.Open(path, 1<<24)
	if err != nil {
		t.Fatalf("%v; testmodels/golden.sh makes the goldens", err)
	}
	defer f.Close()
	out := map[string]*npz.Array{}
	for _, name := range f.Names() {
		if out[name], err = f.Read(name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return out
}

func dense(t *testing.T, a *npz.Array) tensor.Tensor {
	t.Helper()
	dims := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		dims[i] = int64(d)
	}
	g, err := graph.NewTensor(a.DType, dims, a.Raw)
	if err != nil {
		t.Fatal(err)
	}
	r, err := runtime.FromGraphTensor(g)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Dense()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// compare fails where got differs from want by more than tolerance times the
// largest magnitude in want.
func compare(t *testing.T, name string, got tensor.Tensor, want *npz.Array) {
	t.Helper()
	if got == nil {
		t.Errorf("no output %s", name)
		return
	}
	if len(got.Shape()) != len(want.Shape) || !got.Shape().Eq(tensor.Shape(want.Shape)) {
		t.Errorf("%s is %v, want %v", name, got.Shape(), want.Shape)
		return
	}
	w, err := want.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	g := got.Data().([]float32)
	largest, worst := 0.0, 0.0
	for i := range w {
		largest = max(largest, math.Abs(float64(w[i])))
		worst = max(worst, math.Abs(float64(g[i])-float64(w[i]))) // max keeps NaN
	}
	if !(worst <= tolerance*largest) {
		t.Errorf("%s differs by %.3g, the largest value is %.3g: want %g of it or less", name, worst, largest, tolerance)
	}
	t.Logf("%s: differs by %.2g of %.3g", name, worst/largest, largest)
}
