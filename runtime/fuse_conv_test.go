package runtime

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// Convolutions with what follows them, and what they become; near misses stay
// as they are.
var convFusions = []struct {
	name, body string
	want       []string // kinds of steps; nil: as many as nodes
	folded     bool     // weights change, and so does rounding
}{
	{"norm", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  y = BatchNormalization <epsilon = 0.01> (c, gamma, beta, mean, var)`, []string{"Conv"}, true},
	{"norm after a bias, and Relu", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  n = BatchNormalization (c, gamma, beta, mean, var)
  y = Relu (n)`, []string{"Conv+Relu"}, true},
	{"factors and terms", `
  c = Conv <pads = [1, 1, 1, 1], group = 2> (x, thin)
  s = Mul (column, c)
  t = Add (s, column)
  y = Add (half, t)`, []string{"Conv"}, true},
	{"a factor of the last axis", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  y = Mul (c, row)`, nil, false},
	{"a norm whose input is read elsewhere", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  n = BatchNormalization (c, gamma, beta, mean, var)
  y = Mul (n, c)`, nil, false},
	{"residual block", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  r = Relu (c)
  d = Conv <pads = [1, 1, 1, 1]> (r, w, b)
  a = Add (d, x)
  y = Relu (a)`, []string{"Conv+Add+Relu", "Conv+Relu"}, false},
	{"sum of two convolutions", `
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  d = Conv <pads = [1, 1, 1, 1], group = 2> (x, thin, b)
  y = Add (c, d)`, []string{"Conv", "Conv+Add"}, false},
	{"sum with a depth-wise convolution, clipped", `
  d = Conv <pads = [1, 1, 1, 1], group = 4> (x, single, b)
  a = Add (x, d)
  y = Clip (a, low, high)`, []string{"Conv+Add+Clip"}, false},
	{"clip from below", `
  d = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  y = Clip (d, low)`, []string{"Conv+Clip"}, false},
	{"clip from above", `
  d = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  y = Clip (d, , high)`, []string{"Conv+Clip"}, false},
	{"clip to what is computed", `
  d = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  m = ReduceMax <keepdims = 0> (x)
  y = Clip (d, low, m)`, nil, false},
	{"a sum that is broadcast", `
  d = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  m = ReduceMean <axes = [2]> (x)
  a = Add (d, m)
  y = Relu (a)`, []string{"Conv+Add+Relu", "ReduceMean"}, false},
	{"a sum that broadcasts", `
  d = Conv <kernel_shape = [3, 3], pads = [0, 1, 0, 1], strides = [3, 1]> (x, w, b)
  a = Add (x, d)
  y = Clip (a, low, high)`, []string{"Conv+Add+Clip"}, false},
	{"weights that are computed", `
  v = Mul (w, scale)
  d = Conv <pads = [1, 1, 1, 1]> (x, v, b)
  y = Relu (d)`, nil, false},
	{"block-circulant, with Relu", `
  d = lathe.BlockCirculantConv <out_channels = 4, pads = [1, 1, 1, 1]> (x, blocks, b)
  y = Relu (d)`, []string{"BlockCirculantConv+Relu"}, false},
	{"block-circulant, clipped", `
  d = lathe.BlockCirculantConv <out_channels = 3, strides = [2, 1]> (x, blocks)
  y = Clip (d, low, high)`, []string{"BlockCirculantConv+Clip"}, false},
	{"block-circulant, read twice", `
  d = lathe.BlockCirculantConv <out_channels = 4, pads = [1, 1, 1, 1]> (x, blocks, b)
  r = Relu (d)
  y = Mul (r, d)`, nil, false},
	{"block-circulant with weights that are computed", `
  v = Mul (blocks, scale)
  d = lathe.BlockCirculantConv <out_channels = 4, pads = [1, 1, 1, 1]> (x, v, b)
  y = Relu (d)`, nil, false},
	{"read twice", `
  d = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  r = Relu (d)
  y = Mul (r, d)`, nil, false},
}

const convFusionText = `<ir_version: 8, opset_import: ["" : 17, "lathe" : 1]>
fusion (float[n, 4, 3, 5] x, float scale) => (float[] y)
<float[4] b = {0.1, -0.2, 0.3, 0.5}, float[4] gamma = {1, 0.5, -2, 3}, float[4] beta = {0.1, -0.2, 0.3, 0},
 float[4] mean = {0.2, 0.1, -1, 0.5}, float[4] var = {1, 0.01, 4, 2}, float[4, 1, 1] column = {2, -1, 0.5, 3},
 float half = {0.5}, float low = {-0.25}, float high = {0.75}, float[5] row = {1, 2, 3, 4, 5}, W>
{BODY
}`

// convFusionModel writes the text of a case with weights of every kind.
func convFusionModel(body string) string {
	weights := func(name string, shape ...int) string {
		var v, dims []string
		for _, f := range noise(7, shape...).F32() {
			v = append(v, fmt.Sprint(f))
		}
		for _, d := range shape {
			dims = append(dims, fmt.Sprint(d))
		}
		return fmt.Sprintf("float[%s] %s = {%s}", strings.Join(dims, ", "), name, strings.Join(v, ", "))
	}
	w := strings.Join([]string{weights("w", 4, 4, 3, 3), weights("thin", 4, 2, 3, 3), weights("single", 4, 1, 3, 3), weights("blocks", 2, 2, 2, 3, 3)}, ", ")
	return strings.NewReplacer("W>", w+">", "BODY", body).Replace(convFusionText)
}

func TestConvFusions(t *testing.T) {
	feeds := map[string]tensor.Tensor{"x": f32([]int{2, 4, 3, 5}, noise(1, 2, 4, 3, 5).F32()...), "scale": f32(nil, 1.5)}
	kinds := func(p *Program) []string {
		var out []string
		for _, s := range p.main.steps {
			out = append(out, s.kind)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range convFusions {
		t.Run(c.name, func(t *testing.T) {
			text := convFusionModel(c.body)
			fused, plain := program(t, text, Options{}), program(t, text, Options{NoFusion: true})
			want := c.want
			if want == nil {
				want = kinds(plain)
			}
			if got := kinds(fused); !slices.Equal(got, want) {
				t.Errorf("steps are %v, want %v", got, want)
			}
			s := session(fused, 2)
			b := run(t, session(plain, 2), feeds)["y"]
			for range 2 {
				a := run(t, s, feeds)["y"]
				if !a.Shape().Eq(b.Shape()) {
					t.Fatalf("shape %v, unfused %v", a.Shape(), b.Shape())
				}
				for i, v := range b.Data().([]float32) {
					// Of 36 products and a sum, none above 30 with its factor.
					bound := 0.0
					if c.folded {
						bound = (2*36 + 8) * 0x1p-24 * 30
					}
					if w := a.Data().([]float32)[i]; math.Abs(float64(v-w)) > bound {
						t.Fatalf("element %d is %v, unfused %v", i, w, v)
					}
				}
			}
			if s.live() != 0 {
				t.Errorf("%d bytes are still lent", s.live())
			}
			// A probe of any inner value keeps that value what it is.
			for _, v := range strings.Split(strings.TrimSpace(c.body), "\n") {
				name := strings.TrimSpace(strings.Split(v, "=")[0])
				o := Options{Probes: [][]string{{name}}}
				got, want := program(t, text, o), program(t, text, Options{Probes: o.Probes, NoFusion: true})
				seen := func(p *Program) (x []float32) {
					_, err := session(p, 1).RunProbed(t.Context(), feeds, func(_ int, v []*Tensor) error {
						x = slices.Clone(v[0].F32())
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					return x
				}
				a, b := seen(got), seen(want)
				if len(a) == 0 || len(a) != len(b) {
					t.Errorf("probe of %q: %d elements, want %d", name, len(a), len(b))
				}
			}
		})
	}
}

// TestConvFusionTypes: other types than float32 are not fused, and a sum of
// another type fails as it does without fusion.
func TestConvFusionTypes(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
g (double[n, 1, 3] x) => (double[n, 1, 3] y)
<double[1, 1, 1] w = {2}>
{
  c = Conv (x, w)
  y = Relu (c)
}`
	p := program(t, text, Options{})
	x := as(t, graph.Float64, FromSlice([]int{1, 1, 3}, []float32{-1, 0.1, 2}))
	y := run(t, session(p, 1), denseFeeds(t, p, x))["y"].Data().([]float64)
	if want := floatsOf(t, x); y[0] != 0 || y[1] != 2*want[1] || y[2] != 4 {
		t.Errorf("%v", y)
	}
	text = `<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 1, 3] x, double[n, 1, 3] v) => (float[n, 1, 3] y)
<float[1, 1, 1] w = {2}>
{
  c = Conv (x, w)
  y = Add (c, v)
}`
	p = program(t, text, Options{})
	if _, err := session(p, 1).Run(t.Context(), denseFeeds(t, p, FromSlice([]int{1, 1, 3}, []float32{1, 2, 3}), x)); err == nil {
		t.Error("a sum of two types ran")
	}
}
