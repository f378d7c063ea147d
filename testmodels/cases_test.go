package testmodels

import (
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// Every form must be a valid model, and the same one every time.
func TestCasesAreValid(t *testing.T) {
	for _, c := range Cases() {
		m := c.Model()
		if err := graph.Check(m); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		for _, n := range graph.Notes(m) {
			t.Errorf("%s: %s", c.Name, n)
		}
		text := m.Text()
		if c.Model().Text() != text {
			t.Errorf("%s: built twice, two models", c.Name)
		}
		given := map[string]bool{}
		for _, a := range c.Inputs {
			given[a.Name] = true
		}
		for _, v := range m.Graph.Inputs() {
			if !given[v.Name] {
				t.Errorf("%s: no input for %s", c.Name, v.Name)
			}
			delete(given, v.Name)
		}
		for name := range given {
			t.Errorf("%s: %s is no input of the model", c.Name, name)
		}
	}
}
