package runtime

import (
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// streamsOf are the values of the residual stream in front of the modules.
func streamsOf(t *testing.T, m *graph.Model) []string {
	t.Helper()
	list, err := modules.Find(m)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range list {
		if x.Stream.Graph() == m.Graph && !slices.Contains(out, x.Stream.Name) {
			out = append(out, x.Stream.Name)
		}
	}
	return out
}

// TestRecompute: gradients and values of the loss have the same bits whether
// activations are kept or computed again, in models of every family that can be
// trained, and a deep one takes a fraction of the memory.
func TestRecompute(t *testing.T) {
	gradients := func(t *testing.T, m *graph.Model, inputs []*npz.Array, recompute []string) ([][]float32, int64) {
		t.Helper()
		tr, err := CompileTraining(m, TrainingOptions{Parameters: Trainable(m), Threads: 1, Recompute: recompute})
		if err != nil {
			t.Skip(err)
		}
		feeds := map[string]tensor.Tensor{}
		for _, a := range inputs {
			x, err := FromGraphTensor(tensorOf(t, a))
			if err != nil {
				t.Fatal(err)
			}
			if feeds[a.Name], err = x.Dense(); err != nil {
				t.Fatal(err)
			}
		}
		var out [][]float32
		for range 2 { // the second time over used memory
			out = nil
			err = tr.Gradients(t.Context(), 1, func(int) (map[string]tensor.Tensor, error) { return feeds, nil }, func(_ int, y, g []*Tensor) error {
				for k, v := range y {
					if v.DType == graph.Float32 {
						out = append(out, slices.Clone(v.F32()))
						if g[k] != nil {
							copy(g[k].F32(), v.F32())
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range tr.Parameters() {
				out = append(out, slices.Clone(p.Gradient))
			}
		}
		return out, tr.Bytes(1)
	}
	compared := 0
	for _, c := range testmodels.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			m := c.Model()
			cuts := streamsOf(t, m)
			if len(cuts) == 0 {
				t.Skip("it has no modules")
			}
			want, _ := gradients(t, m, c.Inputs, nil)
			got, _ := gradients(t, m, c.Inputs, cuts)
			if len(got) != len(want) {
				t.Fatalf("%d values and gradients, want %d", len(got), len(want))
			}
			for i := range want {
				if !slices.Equal(got[i], want[i]) && !slices.ContainsFunc(want[i], func(v float32) bool { return v != v }) {
					t.Errorf("value or gradient %d differs", i)
				}
			}
			compared++
		})
	}
	if compared < 10 {
		t.Errorf("only %d models were compared", compared)
	}
	m := testmodels.BERT(testmodels.Size{Layers: 16, Width: 32, Heads: 4, Hidden: 128, Length: 64}, testmodels.BERTOptions{})
	ids := make([]int64, 4*64)
	ones := slices.Repeat([]int64{1}, 4*64)
	inputs := []*npz.Array{npz.Int64Array("input_ids", []int{4, 64}, ids), npz.Int64Array("attention_mask", []int{4, 64}, ones),
		npz.Int64Array("token_type_ids", []int{4, 64}, ids)}
	want, kept := gradients(t, m, inputs, nil)
	got, again := gradients(t, m, inputs, streamsOf(t, m))
	t.Logf("16 layers: %d bytes, %d with activations computed again", kept, again)
	if again > kept/2 {
		t.Errorf("16 layers take %d bytes, and %d with activations computed again", kept, again)
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("16 layers: value or gradient %d differs", i)
		}
	}
}
