package runtime

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// A model with a block-circulant product of 5 features, in blocks of 3, to 4;
// the body is another function, so that it shows which of the two ran.
const circulantText = `<ir_version: 8, opset_import: ["" : 17, "lathe" : 1]>
layer (float[n, 5] x) => (float[n, 4] y)
<float[2, 2, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[4] b = {0.5, 0, -1, 2}>
{
  y = lathe.BlockCirculantMatMul <out_features = 4> (x, w, b)
}
<domain: "lathe", opset_import: ["" : 17]>
BlockCirculantMatMul <out_features> (X, W, B) => (Y)
{
  two = Constant <value_float = 2.0> ()
  Y = Mul (B, two)
}`

func TestBlockCirculantMatMul(t *testing.T) {
	x := []float32{1, 2, 3, 4, 5, -1, 0, 0.5, 2, 0}
	w := []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	b := []float32{0.5, 0, -1, 2}
	want := make([]float64, 8)
	for i := range want {
		token, row := i/4, i%4
		want[i] = float64(b[row])
		for col := range 5 {
			// Entry [a, c] of block (i, j) is w[i, j, (a − c) mod 3].
			block := w[(row/3*2+col/3)*3:]
			want[i] += float64(block[(row%3-col%3+3)%3]) * float64(x[token*5+col])
		}
	}
	feeds := map[string]tensor.Tensor{"x": f32([]int{2, 5}, x...)}
	for _, threads := range []int{1, 2} {
		p := program(t, circulantText, Options{})
		y := run(t, session(p, threads), feeds)["y"]
		within(t, fmt.Sprint(threads, " threads"), y.Data().([]float32), want, 8, 100)
	}
	if k := program(t, circulantText, Options{}).main.steps[0].kind; k != "lathe.BlockCirculantMatMul" {
		t.Errorf("the step is %s", k)
	}

	// The body runs where it is asked for, and where the call is not one that
	// the kernel knows.
	for _, c := range []struct {
		what, text string
		o          Options
	}{
		{"Options.Bodies", circulantText, Options{Bodies: true}},
		{"another attribute", strings.ReplaceAll(strings.Replace(circulantText, "<out_features>", "<out_features, mode: int = 0>", 1), "<out_features = 4>", "<out_features = 4, mode = 1>"), Options{}},
		{"another version", strings.Replace(circulantText, `"lathe" : 1`, `"lathe" : 99`, 1), Options{}},
	} {
		y := run(t, session(program(t, c.text, c.o), 1), feeds)["y"]
		if got := y.Data().([]float32); !slices.Equal(got, []float32{1, 0, -2, 4}) {
			t.Errorf("%s: %v is not what the body gives", c.what, got)
		}
	}
}

// TestSharedTransforms: products that read one value become one step of the same
// bits, those of another value, another block size or computed weights do not.
func TestSharedTransforms(t *testing.T) {
	const text = `<ir_version: 8, opset_import: ["" : 17, "lathe" : 1]>
layer (float[n, 6] x, float[2, 2, 3] free) => (float[n, 4] q, float[n, 5] k, float[n, 4] r, float[n, 4] s, float[n, 4] u)
<float[2, 2, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[4] b = {0.5, 0, -1, 2},
 float[2, 2, 3] w2 = {3, 1, 3, 4, -5, 6, 7, 8, 0.5, 10, -11, 12}, float[2, 3, 2] w3 = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
  q = lathe.BlockCirculantMatMul <out_features = 4> (x, w, b)
  z = Neg (x)
  s = lathe.BlockCirculantMatMul <out_features = 4> (z, w)
  r = lathe.BlockCirculantMatMul <out_features = 4> (x, w3, b)
  k = lathe.BlockCirculantMatMul <out_features = 5> (x, w2)
  u = lathe.BlockCirculantMatMul <out_features = 4> (x, free, b)
}
<domain: "lathe", opset_import: ["" : 17]>
BlockCirculantMatMul <out_features> (X, W, B) => (Y)
{
  Y = Identity (B)
}`
	for _, path := range simd.Supported() {
		in := []*Tensor{FromSlice([]int{19, 6}, floats(1, 19*6)), FromSlice([]int{2, 2, 3}, floats(2, 12))}
		o := Options{Path: path.String(), Probes: [][]string{{"k"}}}
		fused := program(t, text, o)
		o.NoFusion = true
		plain := program(t, text, o)
		if a, b := len(fused.main.steps), len(plain.main.steps); a != 5 || b != 6 {
			t.Errorf("%d steps of %d", a, b)
		}
		s := session(fused, 2)
		got, want := run(t, s, denseFeeds(t, fused, in...)), run(t, session(plain, 1), denseFeeds(t, plain, in...))
		for name, y := range want {
			if !slices.Equal(got[name].Data().([]float32), y.Data().([]float32)) {
				t.Errorf("%s, %s: %v, by itself %v", path, name, got[name].Data(), y.Data())
			}
		}
		if s.live() != 0 {
			t.Errorf("%d bytes are still lent", s.live())
		}
	}
}
