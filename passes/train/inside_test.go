package train

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestHealInside: what functions, the branches of an If and fused operators hold
// is trained, with and without their hidden states, and stays where it was.
func TestHealInside(t *testing.T) {
	cases := map[string]testmodels.Case{}
	for _, c := range testmodels.Cases() {
		cases[c.Name] = c
	}
	ids := make([]int64, 48*6)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range ids {
		ids[i] = rng.Int64N(40)
	}
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Int64Array("input_ids", []int{48, 6}, ids)); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("made up", b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"llama-18-functions", "gpt2-17-merged-past", "gpt2-17-fused", "llama-17-fused-start", "llama-23-cache"} {
		for _, hidden := range []float64{0, 0.5} {
			t.Run(name, func(t *testing.T) {
				teacher := cases[name].Model()
				m := dropped(t, teacher, "A1", "M1")
				nodes := len(m.Graph.Nodes())
				r, err := Run(t.Context(), m, src, Options{Teacher: teacher, Steps: 12, Batch: 16, HeldOut: 0.25, HiddenWeight: hidden})
				if err != nil {
					t.Fatal(err)
				}
				if err := graph.Check(m); err != nil {
					t.Error(err)
				}
				if !(r.Best.HeldOut < 0.97*r.Curve[0].HeldOut) || len(m.Graph.Nodes()) != nodes {
					t.Errorf("held-out loss %v → %v, %d → %d nodes", r.Curve[0].HeldOut, r.Best.HeldOut, nodes, len(m.Graph.Nodes()))
				}
				// Most of the weights lie inside: none of them may be left out.
				if r.Parameters < 9000 {
					t.Errorf("%d weights are trained", r.Parameters)
				}
			})
		}
	}
}
