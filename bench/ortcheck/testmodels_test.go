package ortcheck

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// The goldens in testmodels/testdata are what ONNX Runtime computes of the
// models that the builders build now.
func TestGoldensAreCurrent(t *testing.T) {
	for _, c := range testmodels.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			s := open(t, save(t, c.Model()), ort.Options{})
			got, err := s.Run(inputs(t, c))
			if err != nil {
				t.Fatal(err)
			}
			want, err := nd.ReadNPZ(filepath.Join("../../testmodels/testdata", c.Name+".npz"))
			if err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(got, func(_ string, a nd.Array) bool { return slices.Contains(a.Shape, 0) }) // goldens hold no empty arrays
			if len(got) != len(want) {
				t.Errorf("%d outputs, the golden has %d: run make golden", len(got), len(want))
			}
			for name, w := range want {
				if e, err := quality.RelativeError(got[name], w); err != nil || !(e <= tolerance) {
					t.Errorf("output %q: relative error %.2g, %v: run make golden", name, e, err)
				}
			}
		})
	}
}

func save(t *testing.T, m *graph.Model) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := m.Save(path, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return path
}

// inputs returns the arrays of a case, through a file.
func inputs(t *testing.T, c testmodels.Case) map[string]nd.Array {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inputs.npz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := npz.Write(f, c.Inputs...); err != nil {
		t.Fatal(err)
	}
	arrays, err := nd.ReadNPZ(path)
	if err != nil {
		t.Fatal(err)
	}
	return arrays
}
