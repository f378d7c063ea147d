package train

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestSynthesize: texts of the teacher stand behind those of the data, none is
// held out, and they help where the data is little.
func TestSynthesize(t *testing.T) {
	const texts, length, more = 10, 12, 100
	rng := rand.New(rand.NewPCG(1, 2))
	tokens := make([]int64, texts*length)
	for i := range tokens {
		tokens[i] = rng.Int64N(40)
	}
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Int64Array("input_ids", []int{texts, length}, tokens)); err != nil {
		t.Fatal(err)
	}
	source := func() *calib.Source {
		src, err := calib.SourceFromBytes("texts", b.Bytes(), calib.SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	teacher := testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	src, err := synthesize(t.Context(), teacher, source(), more, Options{Seed: 5, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	a, err := src.Array("input_ids")
	if err != nil || a.Shape[0] != texts+more || a.Shape[1] != length {
		t.Fatalf("%v, %v", a, err)
	}
	all, err := a.Int64s()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for i, v := range all {
		if i < len(tokens) && v != tokens[i] || v < 0 || v >= 40 {
			t.Fatalf("token %d is %d", i, v)
		}
		seen[v] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d tokens of 40 are drawn", len(seen))
	}
	heal := func(synthesize, threads int) (*Result, *graph.Model) {
		m := dropped(t, teacher, "M1")
		r, err := Run(t.Context(), m, source(), Options{Teacher: teacher, Steps: 10, Batch: 16, HeldOut: 0.4, Synthesize: synthesize, Temperature: 1, LearningRate: 3e-3, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		return r, m
	}
	few, _ := heal(0, 2)
	r, m := heal(more, 2)
	if few.Samples != 6 || r.Samples != 106 || few.HeldOut != 4 || r.HeldOut != 4 || r.Curve[0].HeldOut != few.Curve[0].HeldOut {
		t.Errorf("%d and %d samples, %d and %d held out", few.Samples, r.Samples, few.HeldOut, r.HeldOut)
	}
	if r.Best.HeldOut > 0.95*r.Curve[0].HeldOut {
		t.Errorf("held-out loss %v → %v", r.Curve[0].HeldOut, r.Best.HeldOut)
	}
	_, again := heal(more, 1)
	sameWeights(t, "one thread", m, again)

	words, data := demo(t, 8)
	for _, c := range []struct {
		what    string
		teacher *graph.Model
		data    *calib.Source
		o       Options
		want    string
	}{
		{"no language model", words, data, Options{Synthesize: 1}, "no decoder"},
		{"labels", teacher, source(), Options{Synthesize: 1, Labels: "labels"}, "no labels"},
		{"too many", teacher, source(), Options{Synthesize: 1 << 30}, "memory"},
		{"other data", teacher, data, Options{Synthesize: 1}, "no array \"input_ids\""},
	} {
		c.o.Teacher = c.teacher
		if _, err := Run(t.Context(), c.teacher.Clone(), c.data, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.what, err, c.want)
		}
	}
}
