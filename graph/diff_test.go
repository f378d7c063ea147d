package graph_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

const diffBase = `<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x, bool c) => (float[N,2] y)
<float[2,2] w = {1, 2, 3, 4}, float[2] b = {0, 1}, int64[1] axes = {0}>
{
  [first] h = MatMul (x, w)
  [second] hb = Add (h, b)
  [third] r = If (c) <then_branch = t () => (float[N,2] a) { a = Relu (hb) }, else_branch = e () => (float[N,2] z) { z = Neg (hb) }>
  [fourth] y = Softmax <axis = -1> (r)
}`

// TestDiff: every kind of change is found, and nothing else.
func TestDiff(t *testing.T) {
	parse := func(text string) *graph.Model {
		m, err := graph.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	replaced := func(pairs ...string) *graph.Model { return parse(strings.NewReplacer(pairs...).Replace(diffBase)) }
	for _, c := range []struct {
		name string
		b    *graph.Model
		want string // the changes, in JSON, without counts and empty lists
	}{
		{"the same", parse(diffBase), ``},
		{"other names of nodes", replaced("[first]", "[one]", "[second]", "[two]"), ``},
		{"a clone", parse(diffBase).Clone(), ``},
		{"an operator", replaced("r = If", "r = If", "a = Relu (hb)", "a = Tanh (hb)"), `{"nodes":{"changed":[{"value":"r/then_branch/a","before":"Relu","after":"Tanh","what":["operator"]}]}}`},
		{"an input", replaced("Softmax <axis = -1> (r)", "Softmax <axis = -1> (hb)"), `{"nodes":{"changed":[{"value":"y","before":"Softmax","after":"Softmax","what":["inputs"]}]}}`},
		{"an attribute", replaced("axis = -1", "axis = 0"), `{"nodes":{"changed":[{"value":"y","before":"Softmax","after":"Softmax","what":["attribute axis"]}]}}`},
		{"a node less and one more", replaced("[second] hb = Add (h, b)", "[second] hc = Sub (h, b)", "Relu (hb)", "Relu (hc)", "Neg (hb)", "Neg (hc)"),
			`{"nodes":{"added":[{"value":"hc","after":"Sub"}],"changed":[{"value":"r/then_branch/a","before":"Relu","after":"Relu","what":["inputs"]},{"value":"r/else_branch/z","before":"Neg","after":"Neg","what":["inputs"]}],"removed":[{"value":"hb","before":"Add"}]}}`},
		{"data", replaced("{1, 2, 3, 4}", "{1, 2, 3, 7}"), `{"weights":{"changed":[{"name":"w","before":"float[2 2]","after":"float[2 2]","relative":0.5477}]}}`},
		{"integers", replaced("axes = {0}", "axes = {1}"), `{"weights":{"changed":[{"name":"axes","before":"int64[1]","after":"int64[1]"}]}}`},
		{"a shape", replaced("float[2] b = {0, 1}", "float[1,2] b = {0, 1}"), `{"weights":{"changed":[{"name":"b","before":"float[2]","after":"float[1 2]"}]}}`},
		{"a weight less", replaced(", int64[1] axes = {0}", ""), `{"weights":{"removed":[{"name":"axes","before":"int64[1]"}]}}`},
		{"a type of an input", replaced("float[N,2] x", "float[3,2] x"), `{"inputs":{"changed":["x"]}}`},
		{"an opset and metadata", replaced(`opset_import: ["": 17]`, `opset_import: ["": 18, "lathe": 1], metadata_props: ["k": "v"]`), `{"metadata":{"added":["k"]},"opsets":{"added":["lathe"],"changed":["ai.onnx"]}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := graph.Diff(parse(diffBase), c.b)
			if err != nil {
				t.Fatal(err)
			}
			if d.Same() != (c.want == "") {
				t.Errorf("same: %v", d.Same())
			}
			for i, w := range d.Weights.Changed {
				if w.Relative != nil {
					r := math.Round(*w.Relative*1e4) / 1e4
					d.Weights.Changed[i].Relative = &r
				}
			}
			b, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			var tree map[string]map[string]any
			if err := json.Unmarshal(b, &tree); err != nil {
				t.Fatal(err)
			}
			for kind, changes := range tree {
				delete(changes, "before")
				delete(changes, "after")
				for how, list := range changes {
					if len(list.([]any)) == 0 {
						delete(changes, how)
					}
				}
				if len(changes) == 0 {
					delete(tree, kind)
				}
			}
			want := map[string]map[string]any{}
			if c.want != "" {
				if err := json.Unmarshal([]byte(c.want), &want); err != nil {
					t.Fatal(err)
				}
			}
			got, _ := json.Marshal(tree)
			expected, _ := json.Marshal(want)
			if string(got) != string(expected) {
				t.Errorf("got  %s\nwant %s", got, expected)
			}
		})
	}
	d, err := graph.Diff(parse(diffBase), parse(diffBase))
	if err != nil || d.Nodes.Before != 6 || d.Nodes.After != 6 || d.Weights.Before != 3 || !slices.Equal([]int{d.Inputs.Before, d.Outputs.After}, []int{2, 1}) {
		t.Errorf("counts %+v, %v", d, err)
	}
}
