package runtime

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Block-circulant products one behind the other, with the steps of the fused program.
// w takes 6 features and gives 8 or fewer, v takes 8 and gives 4, h 9.
var chainCases = []struct {
	name, body string
	want       []string
}{
	{"Gelu as exporters write it", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w, b)
  s = Mul (a, root)
  e = Erf (s)
  p = Add (e, one)
  m = Mul (a, p)
  g = Mul (m, half)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, v)`, []string{"BlockCirculantMatMul+Gelu+BlockCirculantMatMul"}},
	{"Gelu", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  g = Gelu <approximate = "tanh"> (a)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, v)`, []string{"BlockCirculantMatMul+Gelu+BlockCirculantMatMul"}},
	{"Relu", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  g = Relu (a)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, v, d)`, []string{"BlockCirculantMatMul+Relu+BlockCirculantMatMul"}},
	{"SiLU, and a last block that is not full", `
  a = lathe.BlockCirculantMatMul <out_features = 7> (x, w)
  s = Sigmoid (a)
  g = Mul (a, s)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, v, d)`, []string{"BlockCirculantMatMul+Silu+BlockCirculantMatMul"}},
	{"fewer features than blocks take", `
  z = Slice (x, zero, five, axis)
  a = lathe.BlockCirculantMatMul <out_features = 8> (z, w)
  g = Relu (a)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, v, d)`, []string{"BlockCirculantMatMul+Relu+BlockCirculantMatMul", "Slice"}},
	{"three of them", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  g = Relu (a)
  c = lathe.BlockCirculantMatMul <out_features = 6> (g, v)
  h = Relu (c)
  y = lathe.BlockCirculantMatMul <out_features = 4> (h, w)`, []string{"BlockCirculantMatMul+Relu+BlockCirculantMatMul", "Relu", "lathe.BlockCirculantMatMul"}},
	{"a value between that is read", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  g = Relu (a)
  c = lathe.BlockCirculantMatMul <out_features = 4> (g, v)
  e = ReduceMax (a)
  y = Add (c, e)`, []string{"Add", "ReduceMax", "Relu", "lathe.BlockCirculantMatMul", "lathe.BlockCirculantMatMul"}},
	{"nothing between", `
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  y = lathe.BlockCirculantMatMul <out_features = 4> (a, v)`, []string{"lathe.BlockCirculantMatMul", "lathe.BlockCirculantMatMul"}},
	{"computed weights", `
  f = Add (v, x1)
  a = lathe.BlockCirculantMatMul <out_features = 8> (x, w)
  g = Relu (a)
  y = lathe.BlockCirculantMatMul <out_features = 4> (g, f)`, []string{"Add", "Relu", "lathe.BlockCirculantMatMul", "lathe.BlockCirculantMatMul"}},
}

func TestCirculantChains(t *testing.T) {
	const text = `<ir_version: 8, opset_import: ["" : 20, "lathe" : 1]>
chain (float[n, 6] input, float[1] one1) => (float[n, k] output)
<float[4, 3, 2] w0 = {1, 2, 3, 4, 5, -6, 7, 8, 9, -10, 11, 12, 0.5, 1, -1, 2, 3, 4, -2, 6, 7, 1, 9, 3}, float[8] b0 = {0.5, 0, -1, 2, 1, 1, -3, 0},
 float[3, 4, 2] v0 = {3, 1, 3, 4, -5, 6, 7, 8, 0.5, 10, -11, 12, 1, 2, 3, 4, 5, -6, 7, 8, 9, -10, 11, 12}, float[4] d0 = {1, 2, 3, -4},
 float root = {0.7071067811865476}, float one = {1}, float half = {0.5}, int64[1] zero = {0}, int64[1] five = {5}, int64[1] axis = {1}>
{
  x = Cast <to = TYPE> (input)
  x1 = Cast <to = TYPE> (one1)
  w = Cast <to = TYPE> (w0)
  b = Cast <to = TYPE> (b0)
  v = Cast <to = TYPE> (v0)
  d = Cast <to = TYPE> (d0)BODY
  output = Cast <to = 1> (y)
}
<domain: "lathe", opset_import: ["" : 17]>
BlockCirculantMatMul <out_features> (X, W, B) => (Y)
{
  Y = Identity (B)
}`
	for _, c := range chainCases {
		for _, float := range []string{"float", "float16"} {
			if float == "float16" && strings.Contains(c.body, "Erf") {
				continue // constants of Gelu are float32
			}
			within := 0.0                            // of values up to 800
			if strings.Contains(c.body, "= Mul (") { // one function in the place of several
				if within = 1e-3; float == "float16" {
					within = 1
				}
			}
			for _, path := range simd.Supported() {
				to := map[string]string{"float": "1", "float16": "10"}[float]
				text := strings.NewReplacer("BODY", c.body, "TYPE", to).Replace(text)
				o := Options{Path: path.String()}
				fused := program(t, text, o)
				var kinds []string
				for _, s := range fused.main.steps {
					if s.kind != "Cast" {
						kinds = append(kinds, s.kind)
					}
				}
				if slices.Sort(kinds); !slices.Equal(kinds, c.want) {
					t.Errorf("%s, %s: steps %q, want %q", c.name, float, kinds, c.want)
				}
				o.NoFusion = true
				plain := program(t, text, o)
				for _, tokens := range []int{1, 2, 3, 7, 16, 19, 40} {
					in := []*Tensor{FromSlice([]int{tokens, 6}, floats(1, tokens*6)), FromSlice([]int{1}, []float32{0.5})}
					s := session(fused, 2)
					got, want := run(t, s, denseFeeds(t, fused, in...))["output"], run(t, session(plain, 1), denseFeeds(t, plain, in...))["output"]
					if !got.Shape().Eq(want.Shape()) || !slices.EqualFunc(got.Data().([]float32), want.Data().([]float32), func(a, b float32) bool {
						return math.Abs(float64(a-b)) <= within
					}) {
						t.Errorf("%s, %s, %s, %d tokens: %v, by themselves %v", c.name, float, path, tokens, got, want)
					}
					if s.live() != 0 {
						t.Errorf("%s, %s, %d tokens: %d bytes are still lent", c.name, float, tokens, s.live())
					}
				}
			}
		}
	}
}
