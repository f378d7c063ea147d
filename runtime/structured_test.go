package runtime

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"
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
