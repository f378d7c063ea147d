package passes_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestDropBothParallelBranches drops attention and MLP of one layer, in both
// orders: the Add that joined the two gives way to one branch when the other
// goes, and both have to be gone in the end.
func TestDropBothParallelBranches(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, drop := range [][]string{{"A1", "M1"}, {"A1", "M1", "M2"}, {"A0", "M0", "A2", "M2"}, {"M0"}} {
			m := testmodels.NeoX(testmodels.Size{Opset: 17, Seed: 1}, testmodels.NeoXOptions{SharedNorm: shared})
			if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.DropModules(drop, passes.DropOptions{})); err != nil {
				t.Fatalf("%v: %v", drop, err)
			}
			want := slices.DeleteFunc([]string{"A0", "M0", "A1", "M1", "A2", "M2"}, func(id string) bool { return slices.Contains(drop, id) })
			list, err := modules.Find(m)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range list {
				got = append(got, x.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("without %v: %v, want %v", drop, got, want)
			}
			softmaxes := 0
			for _, n := range m.Graph.Nodes() {
				if n.Is("Softmax") {
					softmaxes++
				}
			}
			if left := 3 - len(slices.DeleteFunc(slices.Clone(drop), func(id string) bool { return id[0] != 'A' })); softmaxes != left {
				t.Errorf("without %v: %d attentions are computed, want %d", drop, softmaxes, left)
			}
		}
	}
}

// TestDropStackedCache drops the attention whose stacked cache the positions
// are counted by.
func TestDropStackedCache(t *testing.T) {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA is not set: no public models")
	}
	m, err := graph.Load(filepath.Join(dir, "models/graphs/gpt2_12layer_past.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.DropModules([]string{"A0", "A3"}, passes.DropOptions{})); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"past_0", "past_3", "present_0", "present_3"} {
		if m.Graph.Value(name) != nil {
			t.Errorf("%q is still there", name)
		}
	}
	if in, out := len(m.Graph.Inputs()), len(m.Graph.Outputs()); in != 11 || out != 11 {
		t.Errorf("%d inputs and %d outputs, want 11 of each: tokens or states, and ten caches", in, out)
	}
}
