package modules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// TestNorms matches every idiom, from x to y, and none of what only looks
// alike. two, one, half and eps are constants.
func TestNorms(t *testing.T) {
	const consts = `
  two = Constant <value_float = 2.0> ()
  one = Constant <value_float = 1.0> ()
  half = Constant <value_float = 0.5> ()
  minus = Constant <value_float = -0.5> ()
  eps = Constant <value_float = 0.001> ()
  last = Constant <value_ints = [-1]> ()
`
	const layer = "m = ReduceMean <axes = [-1]> (x)\n d = Sub (x, m)\n q = Pow (d, two)\n v = ReduceMean <axes = [-1]> (q)\n e = Add (v, eps)\n s = Sqrt (e)\n"
	const rms = "q = Pow (x, two)\n v = ReduceMean <axes = [-1]> (q)\n e = Add (v, eps)\n s = Sqrt (e)\n"
	const affine = "f = Mul (c, G)\n y = Add (f, E)\n"
	for _, c := range []struct {
		name, opset, nodes string
		want               string // kind in out scale bias epsilon number of nodes
	}{
		{"PyTorch", "17", layer + "c = Div (d, s)\n" + affine, "layer x y G E 0.001 9"},
		{"PyTorch, operands swapped", "17", "m = ReduceMean <axes = [-1]> (x)\n d = Sub (x, m)\n q = Mul (d, d)\n v = ReduceMean <axes = [-1]> (q)\n e = Add (eps, v)\n s = Sqrt (e)\n c = Div (d, s)\n f = Mul (G, c)\n y = Add (E, f)\n", "layer x y G E 0.001 9"},
		{"opset 18", "18", "m = ReduceMean (x, last)\n d = Sub (x, m)\n q = Pow (d, two)\n v = ReduceMean (q, last)\n e = Add (v, eps)\n s = Sqrt (e)\n c = Div (d, s)\n" + affine, "layer x y G E 0.001 9"},
		{"mean taken off twice, casts", "17", layer + "d1 = Sub (x, m)\n d2 = Cast <to = 1> (d1)\n c = Div (d2, s)\n" + affine, "layer x y G E 0.001 10"},
		{"both means twice", "17", layer + "m1 = ReduceMean <axes = [-1]> (x)\n d1 = Sub (x, m1)\n c = Div (d1, s)\n" + affine, "layer x y G E 0.001 11"},
		{"power of a half", "17", "m = ReduceMean <axes = [-1]> (x)\n d = Sub (x, m)\n q = Pow (d, two)\n v = ReduceMean <axes = [-1]> (q)\n e = Add (v, eps)\n s = Pow (e, half)\n c = Div (d, s)\n" + affine, "layer x y G E 0.001 9"},
		{"reciprocal", "17", layer + "r = Reciprocal (s)\n c = Mul (r, d)\n" + affine, "layer x y G E 0.001 10"},
		{"no scale", "17", layer + "y = Div (d, s)\n", "layer x y - - 0.001 7"},
		{"no bias, read twice", "17", layer + "c = Div (d, s)\n f = Mul (c, G)\n y = Mul (f, f)\n", "layer x f G - 0.001 8"},
		{"TensorFlow", "17", layer + "r = Reciprocal (s)\n g = Mul (r, G)\n h = Mul (x, g)\n i = Mul (m, g)\n j = Sub (E, i)\n y = Add (h, j)\n", "layer x y G E 0.001 12"},
		{"one node", "17", "y = LayerNormalization <axis = -1, epsilon = 0.001> (x, G, E)\n", "layer x y G E 0.001 1"},
		{"one node, by number of axis", "17", "y = LayerNormalization <axis = 2, epsilon = 0.001> (x, G)\n", "layer x y G - 0.001 1"},
		{"RMS", "17", rms + "c = Div (x, s)\n y = Mul (c, G)\n", "rms x y G - 0.001 6"},
		{"RMS, one over the root", "17", rms + "r = Div (one, s)\n c = Mul (x, r)\n y = Mul (G, c)\n", "rms x y G - 0.001 7"},
		{"RMS, power of minus a half", "17", "q = Mul (x, x)\n v = ReduceMean <axes = [2]> (q)\n e = Add (v, eps)\n r = Pow (e, minus)\n c = Mul (x, r)\n y = Mul (c, G)\n", "rms x y G - 0.001 6"},
		{"RMS, scale folded in", "17", rms + "r = Reciprocal (s)\n g = Mul (r, G)\n y = Mul (x, g)\n", "rms x y G - 0.001 7"},
		{"RMS, one plus the weight", "17", rms + "r = Reciprocal (s)\n c = Mul (x, r)\n w = Add (G, one)\n y = Mul (c, w)\n", "rms x y w - 0.001 7"},
		{"simplified, default domain", "17", "y = SimplifiedLayerNormalization <epsilon = 0.001> (x, G)\n", "rms x y G - 0.001 1"},
		{"opset 23", "23", "y = RMSNormalization <epsilon = 0.001> (x, G)\n", "rms x y G - 0.001 1"},
		{"skip and norm", "17", "y, \"\", \"\", h = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, x, G, E)\n", "layer h y G E 0.001 1"},

		{"axis is not the last", "17", "m = ReduceMean <axes = [1]> (x)\n d = Sub (x, m)\n q = Pow (d, two)\n v = ReduceMean <axes = [1]> (q)\n e = Add (v, eps)\n s = Sqrt (e)\n y = Div (d, s)\n", ""},
		{"axes left out", "17", "q = Pow (x, two)\n v = ReduceMean (q)\n s = Sqrt (v)\n y = Div (x, s)\n", ""},
		{"over all but the first axis", "17", "y = LayerNormalization <axis = 1> (x, G)\n", ""},
		{"cube", "17", "three = Constant <value_float = 3.0> ()\n q = Pow (x, three)\n v = ReduceMean <axes = [-1]> (q)\n s = Sqrt (v)\n y = Div (x, s)\n", ""},
		{"something else is divided", "17", rms + "z = Relu (x)\n y = Div (z, s)\n", ""},
		{"standard deviation alone", "17", layer + "y = Relu (s)\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opset := 0
			fmt.Sscan(c.opset, &opset)
			m := parse(t, opset, one, consts+c.nodes)
			list, err := modules.Norms(m)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range list {
				got = append(got, fmt.Sprint(n.Kind, " ", name(n.In), " ", name(n.Out), " ", name(n.Scale), " ", name(n.Bias), " ", float32(n.Epsilon), " ", len(n.Nodes)))
			}
			if s := strings.Join(got, "; "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
			if len(list) == 1 {
				at := -1
				for _, n := range list[0].Nodes {
					i := slices.Index(m.Graph.Nodes(), n)
					if i <= at {
						t.Errorf("%v is out of order", n)
					}
					at = i
				}
			}
		})
	}
}

// TestSubstituteCache picks a cache that has the same dims and role.
func TestSubstituteCache(t *testing.T) {
	m := graph.NewModel("g", 8, 17)
	cache := func(name, role string, dims ...graph.Dim) modules.Cache {
		return modules.Cache{Role: role, Past: m.Graph.AddInput(name, graph.TensorType(graph.Float32, dims...))}
	}
	b, p, q := graph.Symbol("batch"), graph.Symbol("past_1"), graph.Symbol("past_2")
	gone := cache("gone", modules.Key, b, graph.Known(2), p, graph.Known(8))
	value := cache("value", modules.Value, b, graph.Known(2), p, graph.Known(8))
	wide := cache("wide", modules.Key, b, graph.Known(4), p, graph.Known(8))
	other := cache("other", modules.Key, b, graph.Known(2), q, graph.Known(8))
	same := cache("same", modules.Key, b, graph.Known(2), p, graph.Known(8))
	present := modules.Cache{Role: modules.Key}
	for _, c := range []struct {
		left []modules.Cache
		want *graph.Value
	}{
		{[]modules.Cache{value, wide, present, other, same}, same.Past},
		{[]modules.Cache{value, wide, other}, other.Past},
		{[]modules.Cache{value, wide, gone}, nil},
		{nil, nil},
	} {
		if got := modules.SubstituteCache(gone, c.left); got != c.want {
			t.Errorf("%v stands in, want %v", name(got), name(c.want))
		}
	}
}
