package runtime

import (
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"
)

// Idioms as exporters write them, with what the fused program consists of;
// and near misses, which stay as they are.
var fusionCases = []struct {
	name, body string
	want       []string // kinds of steps; nil: as many as nodes that are not constant
}{
	{"layer norm", `
  m = ReduceMean <axes = [-1]> (x)
  d = Sub (x, m)
  q = Pow (d, two)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  n = Div (d, s)
  g = Mul (n, gamma)
  y = Add (g, beta)`, []string{"LayerNormalization"}},
	{"layer norm, the difference twice, squared by Mul, other order", `
  m = ReduceMean <axes = [2]> (x)
  d = Sub (x, m)
  d2 = Sub (x, m)
  q = Mul (d2, d2)
  v = ReduceMean <axes = [-1], keepdims = 1> (q)
  e = Add (eps, v)
  s = Sqrt (e)
  n = Div (d, s)
  g = Mul (gamma, n)
  y = Add (beta, g)`, []string{"LayerNormalization"}},
	{"layer norm whose variance is read elsewhere", `
  m = ReduceMean <axes = [-1]> (x)
  d = Sub (x, m)
  q = Pow (d, two)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  n = Div (d, s)
  g = Mul (n, gamma)
  b = Add (g, beta)
  y = Add (b, v)`, nil},
	{"layer norm over another axis", `
  m = ReduceMean <axes = [1]> (x)
  d = Sub (x, m)
  q = Pow (d, two)
  v = ReduceMean <axes = [1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  n = Div (d, s)
  g = Mul (n, gamma)
  y = Add (g, beta)`, nil},
	{"layer norm of a mean that is not its input's", `
  m = ReduceMean <axes = [-1]> (w)
  d = Sub (x, m)
  q = Pow (d, two)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  n = Div (d, s)
  g = Mul (n, gamma)
  y = Add (g, beta)`, []string{"Add", "RMSNormalization", "ReduceMean", "Sub"}},
	{"rms norm by Reciprocal", `
  q = Pow (x, two)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  r = Reciprocal (s)
  n = Mul (x, r)
  y = Mul (gamma, n)`, []string{"RMSNormalization"}},
	{"rms norm by 1/√", `
  q = Mul (x, x)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  r = Div (one, s)
  n = Mul (r, x)
  y = Mul (n, gamma)`, []string{"RMSNormalization"}},
	{"rms norm of another value", `
  q = Mul (w, w)
  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps)
  s = Sqrt (e)
  n = Div (x, s)
  y = Mul (n, gamma)`, nil},
	{"gelu", `
  d = Div (x, root2)
  e = Erf (d)
  a = Add (e, one)
  p = Mul (x, a)
  y = Mul (p, half)`, []string{"Gelu"}},
	{"gelu, halved first", `
  d = Mul (rootHalf, x)
  e = Erf (d)
  a = Add (one, e)
  h = Mul (half, x)
  y = Mul (a, h)`, []string{"Gelu"}},
	{"gelu with another divisor", `
  d = Div (x, two)
  e = Erf (d)
  a = Add (e, one)
  p = Mul (x, a)
  y = Mul (p, half)`, nil},
	{"gelu of two values", `
  d = Div (x, root2)
  e = Erf (d)
  a = Add (e, one)
  p = Mul (w, a)
  y = Mul (p, half)`, nil},
	{"tanh gelu", `
  q = Pow (x, three)
  c = Mul (q, cubic)
  s = Add (x, c)
  u = Mul (s, rootTwoByPi)
  t = Tanh (u)
  a = Add (t, one)
  h = Mul (x, half)
  y = Mul (h, a)`, []string{"Gelu"}},
	{"tanh gelu, factored", `
  q = Mul (x, x)
  c = Mul (cubic, q)
  s = Add (c, one)
  u = Mul (x, s)
  k = Mul (u, rootTwoByPi)
  t = Tanh (k)
  a = Add (one, t)
  h = Mul (half, x)
  y = Mul (h, a)`, []string{"Gelu"}},
	{"tanh gelu whose Tanh is an output", `
  q = Pow (x, three)
  c = Mul (q, cubic)
  s = Add (x, c)
  u = Mul (s, rootTwoByPi)
  t = Tanh (u)
  a = Add (t, one)
  h = Mul (x, half)
  p = Mul (h, a)
  y = Add (p, t)`, nil},
	{"silu", `
  s = Sigmoid (x)
  y = Mul (x, s)`, []string{"Silu"}},
	{"gated by another sigmoid", `
  s = Sigmoid (w)
  y = Mul (x, s)`, nil},
	{"scaled and masked scores", `
  s = Div (x, three)
  a = Add (w, s)
  y = Softmax (a)`, []string{"Softmax"}},
	{"scores masked by a row", `
  s = Mul (half, x)
  a = Add (s, gamma)
  y = Softmax <axis = -1> (a)`, []string{"Softmax"}},
	{"scores masked by a row, which comes first", `
  a = Add (gamma, x)
  y = Softmax <axis = -1> (a)`, []string{"Softmax"}},
	{"masked scores", `
  a = Add (x, w)
  y = Softmax <axis = 2> (a)`, []string{"Softmax"}},
	{"scaled scores over another axis", `
  s = Div (x, three)
  y = Softmax <axis = 1> (s)`, []string{"Softmax"}},
	{"scores divided the other way round", `
  s = Div (three, x)
  y = Softmax (s)`, nil},
	{"scores that are read elsewhere", `
  s = Mul (x, half)
  p = Softmax (s)
  y = Add (p, s)`, nil},
	{"bias", `
  p = MatMul (x, weight)
  y = Add (beta, p)`, []string{"MatMul+Add"}},
	{"bias of one element", `
  p = MatMul (x, weight)
  y = Add (p, half)`, nil},
	{"bias of a product that is read twice", `
  p = MatMul (x, weight)
  b = Add (p, beta)
  y = Mul (b, p)`, nil},
}

const fusionText = `<ir_version: 8, opset_import: ["" : 17]>
fusion (float[a, b, 4] x, float[a, b, 4] w) => (float[a, b, 4] y)
<float two = {2}, float three = {3}, float[1] eps = {1e-5}, float one = {1}, float half = {0.5},
 float root2 = {1.41421356237}, float rootHalf = {0.70710678118}, float cubic = {0.044715}, float rootTwoByPi = {0.79788456080},
 float[4] gamma = {1, 0.5, -2, 3}, float[4] beta = {0.1, -0.2, 0.3, 0},
 float[4, 4] weight = {1, 2, 3, 4, -1, 0.5, 0.25, 2, 0, 1, 0, -1, 3, 3, -3, 1}>
{BODY
}`

func TestFusions(t *testing.T) {
	x := make([]float32, 2*3*4)
	w := make([]float32, len(x))
	for i := range x {
		x[i] = float32(math.Sin(float64(i*i))) * 3
		w[i] = float32(math.Cos(float64(i)))
	}
	feeds := map[string]tensor.Tensor{"x": f32([]int{2, 3, 4}, x...), "w": f32([]int{2, 3, 4}, w...)}
	kinds := func(p *Program) []string {
		var out []string
		for _, s := range p.main.steps {
			out = append(out, s.kind)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range fusionCases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(fusionText, "BODY", c.body, 1)
			fused, plain := program(t, text, Options{}), program(t, text, Options{NoFusion: true})
			want := c.want
			if want == nil {
				want = kinds(plain)
			}
			if got := kinds(fused); !slices.Equal(got, want) {
				t.Errorf("steps are %v, want %v", got, want)
			}
			a := run(t, session(fused, 2), feeds)["y"].Data().([]float32)
			b := run(t, session(plain, 2), feeds)["y"].Data().([]float32)
			for i := range b {
				// A few roundings of values up to 10.
				if math.Abs(float64(a[i]-b[i])) > 10*8*0x1p-24 {
					t.Errorf("element %d is %v, unfused %v", i, a[i], b[i])
				}
			}
			// A probe of any inner value keeps that value what it is.
			for _, v := range strings.Split(strings.TrimSpace(c.body), "\n") {
				name := strings.TrimSpace(strings.Split(v, "=")[0])
				p := program(t, text, Options{Probes: [][]string{{name}}})
				seen := false
				_, err := session(p, 1).RunProbed(t.Context(), feeds, func(_ int, v []*Tensor) error {
					seen = len(v) == 1 && len(v[0].F32()) > 0
					return nil
				})
				if err != nil || !seen {
					t.Errorf("probe of %q: delivered %v, error %v", name, seen, err)
				}
			}
		})
	}
}

// TestFusedNormStretches: a scale longer than the last axis, which is 1,
// stretches it, as the decomposed form does.
func TestFusedNormStretches(t *testing.T) {
	text := strings.Replace(fusionText, "BODY", fusionCases[0].body, 1)
	text = strings.NewReplacer("float[a, b, 4] x", "float[a, b, c] x", "float[a, b, 4] w", "float[a, b, c] w").Replace(text)
	feeds := map[string]tensor.Tensor{"x": f32([]int{1, 2, 1}, 5, -7), "w": f32([]int{1, 2, 1}, 1, 1)}
	a := run(t, session(program(t, text, Options{}), 1), feeds)["y"]
	b := run(t, session(program(t, text, Options{NoFusion: true}), 1), feeds)["y"]
	if !a.Shape().Eq(b.Shape()) || !slices.Equal(a.Data().([]float32), b.Data().([]float32)) {
		t.Errorf("%v%v, unfused %v%v", a.Shape(), a.Data(), b.Shape(), b.Data())
	}
}

// TestScoresFallBack: a mask of more elements than the scores, and other
// types, take the nodes one by one.
func TestScoresFallBack(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
scores (float[a, 4] x, float[b, c, d] w) => (float[b, c, 4] y)
<float[1] half = {0.5}>
{
  s = Mul (x, half)
  a = Add (s, w)
  y = Softmax (a)
}`
	in := []*Tensor{FromSlice([]int{1, 4}, floats(1, 4)), FromSlice([]int{2, 3, 1}, floats(2, 6))}
	double := strings.NewReplacer("float[", "double[").Replace(text)
	for _, c := range []struct {
		text string
		in   []*Tensor
	}{
		{text, in},
		{double, []*Tensor{small64(t, in[0]), small64(t, in[1])}},
	} {
		fused, plain := program(t, c.text, Options{}), program(t, c.text, Options{NoFusion: true})
		if c.text == text && len(fused.main.steps) != 1 {
			t.Errorf("%d steps", len(fused.main.steps))
		}
		s := session(fused, 2)
		a := run(t, s, denseFeeds(t, fused, c.in...))["y"]
		b := run(t, session(plain, 1), denseFeeds(t, plain, c.in...))["y"]
		x, err := FromDense(a)
		if err != nil {
			t.Fatal(err)
		}
		y, err := FromDense(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(x, y, 0); err != nil {
			t.Error(err)
		}
		if s.live() != 0 {
			t.Errorf("%d bytes are still lent", s.live())
		}
	}
}
