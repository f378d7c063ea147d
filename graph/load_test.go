package graph

import (
	"os"
	"path/filepath"
	"testing"
)

// A model that nothing touches comes back equal in every field.
func TestRoundTripPublicModels(t *testing.T) {
	publicModels(t, func(t *testing.T, path string) {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range map[string]*Model{"loaded": m, "clone": m.Clone()} {
			out := filepath.Join(t.TempDir(), name+".onnx")
			if err := m.Save(out, SaveOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			sameOnWire(t, got, want)
		}
	})
}
