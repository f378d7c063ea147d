package modules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// TestHostile feeds graphs that a file can hold but no model is: each has to
// end, with an error or with what can be found.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name, signature, nodes, rest string
		err                          string // part of the error, "" for none
		want                         string // ids
	}{
		{"cycle", one, "a = Relu (b)\n b = Add (a, x)\n y = Add (x, b)\n", "", "is on or behind a cycle", ""},
		{"cycle of copies", one, "a = Identity (b)\n b = Identity (a)\n y = Add (x, b)\n", "", "depends on itself", ""},
		{"an operator that reads itself", one, "y = Add (x, y)\n", "", "is on or behind a cycle", ""},
		{"inputs and outputs left out", one, `
  a = Add ()
  "" = MatMul (x)
  b = MatMul ()
  c = LayerNormalization ()
  d = Sqrt ()
  e = Pow (x)
  f = Softmax ()
  g = Reshape (x)
  h = Div (x)
  i = com.microsoft.SkipLayerNormalization ()
  j = com.microsoft.MultiHeadAttention ()
  k = Sub (x)
  l = ReduceMean ()
  "", m = Split (x)
  n = Einsum (x)
  o = Cast ()
  p = Transpose ()
  y = Sum (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
`, "", "", ""},
		{"norm of nothing", one, "q = Pow (r, C1)\n r = Constant <value_float = 1.0> ()\n v = ReduceMean <axes = [-1]> (q)\n e = Add (v, C2)\n s = Sqrt (e)\n y = Div (x, s)\n", "", "", ""},
		{"function that calls itself", one, "y = local.F (x)\n", `
<domain: "local", opset_import: ["": 18, "local": 1]>
F (a) => (r) { h = local.F (a) i = local.F (h) r = Add (i, a) }
`, "", "O0"},
		{"functions that double", one, "y = local.F0 (x)\n", func() string {
			var b strings.Builder
			for i := range 30 {
				fmt.Fprintf(&b, "<domain: \"local\", opset_import: [\"\": 18, \"local\": 1]>\nF%d (a) => (r) { h = local.F%d (a) r = local.F%d (h) }\n", i, i+1, i+1)
			}
			return b.String() + "<domain: \"local\", opset_import: [\"\": 18]>\nF30 (a) => (r) { r = Relu (a) }\n"
		}(), "", ""},
		{"function with other arguments than its call", one, "h = local.F (x, x, x)\n y = Add (h, x)\n", `
<domain: "local", opset_import: ["": 18]>
F (a) => (r, s) { r = Relu (a) s = Relu (r) }
`, "", ""},
		{"weights of odd rank", "(float[4] x) => (float[4] y)", "u = MatMul (x, G)\n v = MatMul (G, u)\n w = MatMul (v, K)\n y = Add (w, x)\n", "", "", "O0"},
		{"an output that is an input", "(float[B,T,4] x) => (float[B,T,4] x)", "y = Relu (x)\n", "", "", ""},
		{"a constant output", "(float[4] x) => (float[4] G)", "y = Add (x, G)\n", "", "", ""},
		{"nothing", "() => ()", "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, 18, c.signature, c.nodes, c.rest)
			list, err := modules.Find(m)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if got := strings.Join(ids(list), " "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzFind analyses whatever parses.
func FuzzFind(f *testing.F) {
	for _, c := range cases {
		f.Add(parse(f, 18, c.signature, c.nodes, c.rest).Text())
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := graph.Parse(text)
		if err != nil {
			return
		}
		before := m.Text()
		list, err := modules.Find(m)
		if err != nil {
			return
		}
		if _, err := modules.Norms(m); err != nil {
			t.Error(err)
		}
		if m.Text() != before {
			t.Error("the model was changed")
		}
		if u, err := modules.Unfold(m); err == nil && graph.Check(m) == nil {
			if err := graph.Check(u); err != nil {
				t.Errorf("unfolded: %v", err)
			}
		}
		seen := map[string]bool{}
		for _, x := range list {
			if seen[x.ID] {
				t.Errorf("%s is there twice", x.ID)
			}
			seen[x.ID] = true
			if x.Branch == nil || x.Merge == nil || x.Droppable != (x.Reason == "") || x.Droppable && (x.Stream == nil || x.Sum == nil) {
				t.Errorf("incomplete: %+v", x)
			}
		}
	})
}
