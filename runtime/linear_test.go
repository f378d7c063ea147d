package runtime

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Dense layers of x [n, 7]: q, k, v and u, of 300, 13, 130 and 40 features, by
// MatMul with a bias and without, g and h by Gemm; of z = −x one more. s and t
// read x, but not with constant weights or not only those.
const layersText = `<ir_version: 8, opset_import: ["" : 17]>
layers (float[n, 7] x, float[7, 5] free) => (float[n, 300] q, float[n, 13] k, float[n, 130] v, float[n, 40] u, float[n, 30] g, float[n, 9] h, float[n, 13] r, float[n, 5] s, float[n, 13] t)
<float zero = {0}, float one = {1}, float many = {3900}, int64[2] wide = {7, 300}, int64[2] narrow = {7, 13}, int64[2] middle = {7, 130}, int64[2] last = {7, 40},
 int64[2] turned = {30, 7}, int64[2] nine = {7, 9}, float half = {0.5},
 int64[1] a = {0}, int64[1] b = {2100}, int64[1] c = {91}, int64[1] d = {910}, int64[1] e = {280}, int64[1] f = {210}, int64[1] i = {63}, int64[1] n300 = {300}, int64[1] n13 = {13}, int64[1] n30 = {30}>
{
  all = Range (zero, many, one)
  noise = Sin (all)
  n0 = Slice (noise, a, b)
  w0 = Reshape (n0, wide)
  n1 = Slice (noise, a, c)
  w1 = Reshape (n1, narrow)
  n2 = Slice (noise, a, d)
  w2 = Reshape (n2, middle)
  n3 = Slice (noise, a, e)
  w3 = Reshape (n3, last)
  n4 = Slice (noise, a, f)
  w4 = Reshape (n4, turned)
  n5 = Slice (noise, a, i)
  w5 = Reshape (n5, nine)
  b0 = Slice (noise, a, n300)
  b1 = Slice (noise, a, n13)
  b4 = Slice (noise, a, n30)
  p0 = MatMul (x, w0)
  q = Add (p0, b0)
  z = Neg (x)
  r = MatMul (z, w1)
  g = Gemm <transB = 1> (x, w4, b4)
  s = MatMul (x, free)
  k = MatMul (x, w1)
  v = MatMul (x, w2)
  p3 = MatMul (x, w3)
  u = Relu (p3)
  h = Gemm (x, w5)
  p6 = Gemm <alpha = 0.5> (x, w1, b1)
  t = Add (p6, b1)
}`

// TestSharedInputs: dense products that read one value become one step of the
// same bits, for any number of threads and tokens.
func TestSharedInputs(t *testing.T) {
	for _, path := range simd.Supported() {
		fused, plain := program(t, layersText, Options{Path: path.String(), Probes: [][]string{{"p3"}}}), program(t, layersText, Options{Path: path.String(), NoFusion: true})
		var kinds []string
		for _, s := range fused.main.steps {
			kinds = append(kinds, fmt.Sprint(s.kind, " ", len(s.out)))
		}
		if want := []string{"MatMul+Add 4", "Neg 1", "MatMul 1", "Gemm 2", "MatMul 1", "Relu 1", "Gemm 1", "Add 1"}; !slices.Equal(kinds, want) {
			t.Errorf("steps are %v, want %v", kinds, want)
		}
		for _, tokens := range []int{1, 5, 77, 300} {
			in := []*Tensor{FromSlice([]int{tokens, 7}, floats(1, tokens*7)), FromSlice([]int{7, 5}, floats(2, 35))}
			want := run(t, session(plain, 1), denseFeeds(t, plain, in...))
			for threads := 1; threads <= 3; threads++ {
				s := session(fused, threads)
				got := run(t, s, denseFeeds(t, fused, in...))
				for name, y := range want {
					if !slices.Equal(got[name].Data().([]float32), y.Data().([]float32)) {
						t.Errorf("%v, %d tokens, %d threads: %s is not what the product by itself gives", path, tokens, threads, name)
					}
				}
				if s.live() != 0 {
					t.Errorf("%d bytes are still lent", s.live())
				}
			}
		}
	}
}

// TestSharedInputsAllocate: a step for several products allocates nothing.
func TestSharedInputsAllocate(t *testing.T) {
	var allocs [2]float64
	for i, o := range []Options{{NoFusion: true}, {}} {
		p := program(t, layersText, o)
		feeds := denseFeeds(t, p, FromSlice([]int{20, 7}, floats(1, 140)), FromSlice([]int{7, 5}, floats(2, 35)))
		s, out := p.NewSession(SessionOptions{Threads: 1}), map[string]tensor.Tensor{}
		into := func() {
			if err := s.RunInto(context.Background(), feeds, out); err != nil {
				t.Fatal(err)
			}
		}
		into()
		allocs[i] = testing.AllocsPerRun(20, into)
	}
	if allocs[1] > allocs[0] {
		t.Errorf("%v allocations a run, by themselves %v", allocs[1], allocs[0])
	}
}
