package calib_test

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestScoresOfForms scores pairs of models that are one and the same in
// another form: norms in one node and in many, layers in local functions, in
// the branches of an If, and in fused operators, some of which keep the stream
// to themselves.
func TestScoresOfForms(t *testing.T) {
	byName := map[string]testmodels.Case{}
	for _, c := range testmodels.Cases() {
		byName[c.Name] = c
	}
	close := func(a, b float64) bool { return math.Abs(a-b) <= 1e-6+1e-5*b }
	for _, c := range [][2]string{
		{"bert-13", "bert-17"},
		{"bert-20", "bert-17"},
		{"bert-17-functions", "bert-17"},
		{"bert-17-fused", "bert-17"},
		{"bert-17-multihead", "bert-17"},
		{"llama-18-functions", "llama-17-cache"},
		{"gpt2-17-merged-start", "gpt2-17-cache"},
		{"gpt2-17-fused", "gpt2-17-cache"},
		{"llama-17-fused-start", "llama-17-wide"},
		{"llama-13", "llama-23"},
		{"llama-17-cache", "llama-23-cache"},
	} {
		t.Run(c[0], func(t *testing.T) {
			a, b := byName[c[0]], byName[c[1]]
			for _, x := range []testmodels.Case{a, b} {
				if _, err := runtime.Compile(x.Model(), runtime.Options{}); err != nil && strings.Contains(err.Error(), "no kernel") {
					t.Skip(err)
				}
			}
			got, want := scoreCase(t, a.Model(), a.Inputs), scoreCase(t, b.Model(), a.Inputs)
			if len(got.Modules) != len(want.Modules) {
				t.Fatalf("%d modules, want %d", len(got.Modules), len(want.Modules))
			}
			for i, x := range got.Modules {
				y := want.Modules[i]
				// Scores are 1 − cos of float32 values: they carry the
				// rounding of those, 1e-6 of a stream that is about one.
				if x.ID != y.ID || x.Sums.Tokens != y.Sums.Tokens || x.Score <= 0 || !close(x.Score, y.Score) || !close(x.ScoreBeforeNorm, y.ScoreBeforeNorm) {
					t.Errorf("%s has the score %g, %g before the norm; %s of the other form %g, %g", x.ID, x.Score, x.ScoreBeforeNorm, y.ID, y.Score, y.ScoreBeforeNorm)
				}
				m, n, ok := got.MeanUpdate(x.ID)
				p, q, ok2 := want.MeanUpdate(x.ID)
				if !ok || !ok2 || !near(m, p) || !near(n, q) {
					t.Errorf("%s: other mean updates: %v, %v", x.ID, m, p)
				}
			}
		})
	}
}

func near(a, b []float64) bool {
	for i := range a {
		if len(b) != len(a) || !(math.Abs(a[i]-b[i]) < 1e-5*(1+math.Abs(b[i]))) {
			return false
		}
	}
	return len(a) == len(b)
}

// scoreCase scores m on the tokens and masks of a case; a past is left empty.
func scoreCase(t *testing.T, m *graph.Model, inputs []*npz.Array) *calib.Ledger {
	t.Helper()
	var arrays []*npz.Array
	past := slices.ContainsFunc(inputs, func(a *npz.Array) bool { return strings.HasPrefix(a.Name, "past") })
	for _, a := range inputs {
		// With a past go the positions behind it and the mask that covers it.
		if !strings.HasPrefix(a.Name, "past") && a.Name != "use_cache_branch" && a.Name != "position_ids" && !(a.Name == "attention_mask" && past) {
			arrays = append(arrays, a)
		}
	}
	var b bytes.Buffer
	if err := npz.Write(&b, arrays...); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("test.npz", b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ports, err := runtime.Ports(m)
	if err != nil {
		t.Fatal(err)
	}
	feed, err := src.Bind(ports)
	if err != nil {
		t.Fatal(err)
	}
	l, err := calib.Score(context.Background(), m, feed, calib.ScoreOptions{Threads: 1, Means: true})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
