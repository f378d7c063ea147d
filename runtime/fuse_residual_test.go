package runtime

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Sums in front of norms, with the steps of the fused program and the number of
// their outputs.
var residualCases = []struct {
	name, body string
	want       []string
}{
	{"a norm after the sum, as in BERT", `
  s = Add (x, w)
  y = LayerNormalization (s, gamma, beta)`, []string{"Add+LayerNormalization 1"}},
	{"a norm before the branch, as in GPT-2", `
  s = Add (x, w)
  n = LayerNormalization (s, gamma)
  y = Add (s, n)`, []string{"Add 1", "Add+LayerNormalization 2"}},
	{"a sum that is read before the norm", `
  s = Add (w, x)
  r = Relu (s)
  n = LayerNormalization <axis = 2> (s, gamma, beta)
  y = Mul (r, n)`, []string{"Add+LayerNormalization 2", "Mul 1", "Relu 1"}},
	{"a written-out norm", `
  s = Add (x, w)
  q = Mul (s, s)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  t = Sqrt (e)
  n = Div (s, t)
  z = Mul (n, gamma)
  y = Sub (z, s)`, []string{"Add+RMSNormalization 2", "Sub 1"}},
	{"two norms of a sum", `
  s = Add (x, w)
  n = LayerNormalization (s, gamma, beta)
  m = LayerNormalization (s, beta)
  y = Mul (m, n)`, []string{"Add+LayerNormalization 2", "LayerNormalization 1", "Mul 1"}},
	{"a norm over two axes", `
  s = Add (x, w)
  y = LayerNormalization <axis = 1> (s, gamma)`, []string{"Add+LayerNormalization 1"}},
	{"a bias in front of a norm", `
  s = Add (x, beta)
  y = LayerNormalization (s, gamma)`, []string{"Add 1", "LayerNormalization 1"}},
	{"a computed scale", `
  s = Add (x, w)
  g = ReduceMean <axes = [0, 1], keepdims = 0> (w)
  y = LayerNormalization (s, g)`, []string{"Add 1", "LayerNormalization 1", "ReduceMean 1"}},
	{"a norm whose statistics are read", `
  s = Add (x, w)
  n, m = LayerNormalization (s, gamma)
  y = Add (n, m)`, []string{"Add 1", "Add 1", "LayerNormalization 2"}},
}

func TestResidualNorms(t *testing.T) {
	const text = `<ir_version: 8, opset_import: ["" : 17]>
residual (float[a, b, 4] x, float[c, d, 4] w) => (float[a, b, 4] y)
<float[1] eps = {1e-5}, float[4] gamma = {1, 0.5, -2, 3}, float[4] beta = {0.1, -0.2, 0.3, 0}>
{BODY
}`
	for _, c := range residualCases {
		for _, path := range simd.Supported() {
			text := strings.Replace(text, "BODY", c.body, 1)
			fused := program(t, text, Options{Path: path.String()})
			var kinds []string
			for _, s := range fused.main.steps {
				n := 0
				for _, o := range s.out {
					if o >= 0 {
						n++
					}
				}
				kinds = append(kinds, fmt.Sprint(s.kind, " ", n))
			}
			if slices.Sort(kinds); !slices.Equal(kinds, c.want) {
				t.Errorf("%s: steps are %v, want %v", c.name, kinds, c.want)
			}
			// Long rows and few, and shapes that the step leaves to its parts.
			for _, shapes := range [][2][]int{{{2, 3, 4}, {2, 3, 4}}, {{700, 5, 4}, {700, 5, 4}}, {{7, 300, 4}, {1, 300, 4}}, {{1, 3, 4}, {2, 3, 4}}, {{2, 1, 4}, {1, 3, 4}}, {{0, 3, 4}, {0, 3, 4}}} {
				count := func(s []int) int { return s[0] * s[1] * s[2] }
				in := []*Tensor{FromSlice(shapes[0], floats(1, count(shapes[0]))), FromSlice(shapes[1], floats(2, count(shapes[1])))}
				if strings.Contains(c.body, "ReduceMean <axes = [0") && count(shapes[1]) == 0 {
					continue
				}
				p := program(t, text, Options{Path: path.String(), Probes: [][]string{{"s"}}})
				var sum []float32
				_, err := session(p, 2).RunProbed(t.Context(), denseFeeds(t, p, in...), func(_ int, v []*Tensor) error {
					sum = slices.Clone(v[0].F32())
					return nil
				})
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				plain := program(t, text, Options{Path: path.String(), NoFusion: true, Probes: [][]string{{"s"}}})
				var wantSum []float32
				want, err := session(plain, 1).RunProbed(t.Context(), denseFeeds(t, plain, in...), func(_ int, v []*Tensor) error {
					wantSum = slices.Clone(v[0].F32())
					return nil
				})
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if !slices.Equal(sum, wantSum) {
					t.Errorf("%s, %v: the sum differs", c.name, shapes)
				}
				bound := 0.0
				if strings.Contains(c.body, "Sqrt") { // a few roundings of values up to 10
					bound = 10 * 8 * 0x1p-24
				}
				y, err := FromDense(want["y"])
				if err != nil {
					t.Fatal(err)
				}
				for threads := 1; threads <= 3; threads++ {
					s := session(fused, threads)
					got, err := FromDense(run(t, s, denseFeeds(t, fused, in...))["y"])
					if err != nil {
						t.Fatal(err)
					}
					if err := same(got, y, bound); err != nil {
						t.Errorf("%s, %v, %v, %d threads: %v", c.name, path, shapes, threads, err)
					}
					if s.live() != 0 {
						t.Errorf("%d bytes are still lent", s.live())
					}
				}
			}
		}
	}
}
