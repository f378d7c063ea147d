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
		if err := graph.Infer(m); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		m.Graphs(func(g *graph.Graph) bool {
			for _, n := range g.Nodes() {
				for _, v := range n.Outputs() {
					if v != nil && g.Function() == nil && v.Type().Rank() < 0 {
						t.Errorf("%s: %v: the rank of %s is not known", c.Name, n, v.Name)
					}
				}
			}
			return true
		})
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
