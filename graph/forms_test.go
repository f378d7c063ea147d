package graph_test

import (
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// In the forms that exporters write, inference finds every dimension of every
// value, as a number or a name; and their text form is complete.
func TestInferExportedForms(t *testing.T) {
	for _, c := range testmodels.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			m := c.Model()
			if err := graph.Infer(m); err != nil {
				t.Fatal(err)
			}
			m.Graphs(func(g *graph.Graph) bool {
				for _, n := range g.Nodes() {
					for _, v := range n.Outputs() {
						if v == nil {
							continue
						}
						typ := v.Type()
						if typ == nil || typ.Kind != graph.KindTensor || typ.Shape == nil {
							t.Errorf("%v: %q is %v", n, v.Name, typ)
							continue
						}
						for _, d := range typ.Shape.Dims {
							if !d.IsKnown() && d.Sym == "" {
								t.Errorf("%v: %q is %v", n, v.Name, typ)
							}
						}
					}
				}
				return true
			})
			again, err := graph.Parse(m.Text())
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range m.Opsets { // text does not tell an absent domain from an empty one
				m.Opsets[i] = graph.Opset{Domain: o.Domain, Version: o.Version}
			}
			if a, b := m.Fingerprint(), again.Fingerprint(); a != b {
				t.Errorf("the text form is another model: %s and %s", a, b)
			}
		})
	}
}
