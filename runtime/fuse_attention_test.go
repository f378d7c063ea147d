package runtime

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Attention as exporters write it, with what the fused program consists of.
var attentionCases = []struct {
	name       string
	q, k, v, m []int // shapes of what is fed; m the mask's, nil where none is read
	body       string
	want       []string
}{
	{"heads side by side, with a mask", []int{2, 37, 3, 8}, []int{2, 21, 3, 8}, []int{2, 21, 3, 8}, []int{2, 1, 1, 21}, `
  Q = Transpose <perm = [0, 2, 1, 3]> (q)
  K = Transpose <perm = [0, 2, 1, 3]> (k)
  V = Transpose <perm = [0, 2, 1, 3]> (v)
  T = Transpose <perm = [0, 1, 3, 2]> (K)
  p = MatMul (Q, T)
  s = Div (p, c)
  a = Add (s, m)
  w = Softmax <axis = -1> (a)
  o = MatMul (w, V)
  y = Transpose <perm = [0, 2, 1, 3]> (o)`, []string{"Attention"}},
	{"keys transposed at once, no mask", []int{1, 70, 2, 5}, []int{1, 70, 2, 5}, []int{1, 70, 2, 9}, nil, `
  Q = Transpose <perm = [0, 2, 1, 3]> (q)
  K = Transpose <perm = [0, 2, 3, 1]> (k)
  V = Transpose <perm = [0, 2, 1, 3]> (v)
  p = MatMul (Q, K)
  s = Mul (c, p)
  w = Softmax <axis = 3> (s)
  y = MatMul (w, V)`, []string{"Attention"}},
	{"no scale, the mask first, of rank 2", []int{2, 2, 16, 4}, []int{2, 2, 4, 300}, []int{2, 2, 300, 4}, []int{16, 300}, `
  p = MatMul (q, k)
  a = Add (m, p)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"nothing but the softmax; one head of keys for all", []int{2, 3, 5, 4}, []int{2, 1, 4, 6}, []int{1, 1, 6, 2}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"rank 3", []int{4, 5, 4}, []int{4, 4, 6}, []int{4, 6, 3}, []int{1, 6}, `
  p = MatMul (q, k)
  s = Mul (p, c)
  a = Add (s, m)
  w = Softmax <axis = -1> (a)
  o = MatMul (w, v)
  y = Transpose <perm = [1, 0, 2]> (o)`, []string{"Attention"}},
	{"one query", []int{1, 2, 1, 4}, []int{1, 2, 4, 33}, []int{1, 2, 33, 4}, []int{1, 1, 1, 33}, `
  p = MatMul (q, k)
  a = Add (p, m)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)`, []string{"Attention"}},
	// What the kernel leaves to the nodes one by one.
	{"the result turned around", []int{1, 2, 3, 4}, []int{1, 2, 4, 5}, []int{1, 2, 5, 4}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  o = MatMul (w, v)
  y = Transpose <perm = [0, 1, 3, 2]> (o)`, []string{"Attention"}},
	{"more heads of keys than of queries", []int{1, 1, 3, 4}, []int{1, 2, 4, 5}, []int{1, 2, 5, 4}, []int{5}, `
  p = MatMul (q, k)
  a = Add (p, m)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"a mask of more samples than queries", []int{1, 1, 3, 4}, []int{1, 1, 4, 5}, []int{1, 1, 5, 4}, []int{2, 1, 3, 5}, `
  p = MatMul (q, k)
  a = Add (p, m)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"a mask of one number a row", []int{1, 1, 3, 4}, []int{1, 1, 4, 5}, []int{1, 1, 5, 4}, []int{3, 1}, `
  p = MatMul (q, k)
  a = Add (p, m)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"softmax over the queries", []int{1, 2, 3, 4}, []int{1, 2, 4, 5}, []int{1, 2, 5, 4}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = 2> (p)
  y = MatMul (w, v)`, []string{"Attention"}},
	{"five dimensions", []int{1, 1, 2, 3, 4}, []int{1, 1, 2, 4, 5}, []int{1, 1, 2, 5, 4}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  y = MatMul (w, v)`, []string{"Attention"}},
	// Not to be touched.
	{"weights that are read twice", []int{1, 2, 3, 4}, []int{1, 2, 4, 5}, []int{1, 2, 5, 5}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  o = MatMul (w, v)
  y = Add (o, w)`, []string{"Add", "MatMul", "MatMul", "Softmax"}},
	{"scores that are read twice", []int{1, 2, 3, 4}, []int{1, 2, 4, 5}, []int{1, 2, 5, 5}, nil, `
  p = MatMul (q, k)
  s = Mul (p, c)
  w = Softmax <axis = -1> (s)
  o = MatMul (w, v)
  y = Add (o, p)`, []string{"Add", "MatMul", "MatMul", "Softmax"}},
	{"keys that are read elsewhere", []int{1, 2, 3, 5}, []int{1, 2, 5, 5}, []int{1, 2, 5, 5}, nil, `
  K = Transpose <perm = [0, 1, 3, 2]> (k)
  p = MatMul (q, K)
  w = Softmax <axis = -1> (p)
  V = Add (v, K)
  y = MatMul (w, V)`, []string{"Add", "Attention", "Transpose"}},
	{"weights on the right", []int{1, 2, 5, 5}, []int{1, 2, 5, 5}, []int{1, 2, 5, 5}, nil, `
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  y = MatMul (v, w)`, []string{"MatMul", "MatMul", "Softmax"}},
}

func elems(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

func TestAttention(t *testing.T) {
	for _, c := range attentionCases {
		t.Run(c.name, func(t *testing.T) {
			text := `<ir_version: 8, opset_import: ["" : 17]>
attention (float[Q] q, float[K] k, float[V] v, float[M] m) => (float[Y] y)
<float c = {0.3}>
{` + c.body + `
}`
			free := func(shape []int) string { return strings.TrimSuffix(strings.Repeat("?,", len(shape)), ",") }
			mask := c.m
			if mask == nil {
				mask = []int{1}
			}
			text = strings.NewReplacer("[Q]", "["+free(c.q)+"]", "[K]", "["+free(c.k)+"]", "[V]", "["+free(c.v)+"]",
				"[M]", "["+free(mask)+"]", "[Y]", "["+free(c.q)+"]").Replace(text)
			in := []*Tensor{FromSlice(c.q, floats(1, elems(c.q))), FromSlice(c.k, floats(2, elems(c.k))),
				FromSlice(c.v, floats(3, elems(c.v))), FromSlice(mask, floats(4, elems(mask)))}
			for i := range in[3].F32() {
				if i%3 == 0 && i > 0 {
					in[3].F32()[i] = -math.MaxFloat32
				}
			}
			for _, path := range simd.Supported() {
				fused, plain := program(t, text, Options{Path: path.String()}), program(t, text, Options{Path: path.String(), NoFusion: true})
				var got []string
				for _, s := range fused.main.steps {
					got = append(got, s.kind)
				}
				slices.Sort(got)
				if !slices.Equal(got, c.want) {
					t.Errorf("steps are %v, want %v", got, c.want)
				}
				s := session(fused, 1)
				a, err := FromDense(run(t, s, denseFeeds(t, fused, in...))["y"])
				if err != nil {
					t.Fatal(err)
				}
				if s.live() != 0 {
					t.Errorf("%d bytes are still lent", s.live())
				}
				b, err := FromDense(run(t, session(plain, 1), denseFeeds(t, plain, in...))["y"])
				if err != nil {
					t.Fatal(err)
				}
				// Roundings of values up to 10.
				if err := same(a, b, 10*8*0x1p-24); err != nil {
					t.Error(err)
				}
				d, err := FromDense(run(t, session(fused, 3), denseFeeds(t, fused, in...))["y"])
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(a.Bytes(), d.Bytes()) {
					t.Error("three threads give other bytes than one")
				}
			}
			// A probe of any inner value keeps that value what it is.
			for _, line := range strings.Split(strings.TrimSpace(c.body), "\n") {
				name := strings.TrimSpace(strings.Split(line, "=")[0])
				p := program(t, text, Options{Probes: [][]string{{name}}})
				seen := false
				_, err := session(p, 1).RunProbed(t.Context(), denseFeeds(t, p, in...), func(_ int, v []*Tensor) error {
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

// TestAttentionFallsBack: other types, and nothing to compute.
func TestAttentionFallsBack(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
attention (double[a, b, c] q, double[a, c, d] k, double[a, d, e] v) => (double[a, b, e] y)
{
  p = MatMul (q, k)
  w = Softmax <axis = -1> (p)
  y = MatMul (w, v)
}`
	single := strings.ReplaceAll(text, "double[", "float[")
	in := []*Tensor{FromSlice([]int{2, 3, 4}, floats(1, 24)), FromSlice([]int{2, 4, 5}, floats(2, 40)), FromSlice([]int{2, 5, 1}, floats(3, 10))}
	none := []*Tensor{FromSlice([]int{2, 3, 4}, floats(1, 24)), FromSlice([]int{2, 4, 0}, []float32{}), FromSlice([]int{2, 0, 1}, []float32{})}
	for _, c := range []struct {
		text string
		in   []*Tensor
	}{
		{text, []*Tensor{small64(t, in[0]), small64(t, in[1]), small64(t, in[2])}},
		{single, none},
	} {
		fused, plain := program(t, c.text, Options{}), program(t, c.text, Options{NoFusion: true})
		if len(fused.main.steps) != 1 {
			t.Errorf("%d steps", len(fused.main.steps))
		}
		outs := func(p *Program) tensor.Tensor { return run(t, session(p, 1), denseFeeds(t, p, c.in...))["y"] }
		x, err := FromDense(outs(fused))
		if err != nil {
			t.Fatal(err)
		}
		y, err := FromDense(outs(plain))
		if err != nil {
			t.Fatal(err)
		}
		if err := same(x, y, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestAttentionMasked: what a mask leaves no weight to is not computed, and
// shows nowhere.
func TestAttentionMasked(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
attention (float[b, h, t, d] q, float[b, h, d, s] k, float[b, h, s, e] v, float[x, y, z, s] m) => (float[b, h, t, e] y)
<float c = {0.5}>
{
  p = MatMul (q, k)
  r = Mul (p, c)
  a = Add (r, m)
  w = Softmax <axis = -1> (a)
  y = MatMul (w, v)
}`
	const batch, heads, rows, cols, d, e = 2, 3, 150, 200, 8, 20
	inf := float32(math.Inf(1))
	// causal leaves row i of matrix b, h the columns up to i + 50.
	causal := func(low float32) func(b, h, i, j int) float32 {
		return func(_, _, i, j int) float32 {
			if j > i+cols-rows {
				return low
			}
			return 0
		}
	}
	for _, c := range []struct {
		name  string
		shape [3]int
		mask  func(b, h, i, j int) float32
		tweak func(q, k, v []float32)
		cut   bool // fewer scores are computed
	}{
		{"causal", [3]int{1, 1, rows}, causal(-1e9), nil, true},
		{"causal, −Inf", [3]int{1, 1, rows}, causal(-inf), nil, true},
		{"causal, lowest, by sample", [3]int{batch, 1, rows}, causal(-math.MaxFloat32), nil, true},
		{"causal in one head", [3]int{batch, heads, rows}, func(b, h, i, j int) float32 {
			if h == 1 {
				return causal(-inf)(b, h, i, j)
			}
			return float32(i - j)
		}, nil, true},
		{"padding", [3]int{batch, 1, 1}, func(b, _, _, j int) float32 {
			if j >= 70+40*b {
				return -inf
			}
			return 0
		}, nil, true},
		{"rows that see nothing", [3]int{1, 1, rows}, func(_, _, i, j int) float32 {
			if i > 100 || j > 20 {
				return -1e9
			}
			return 0
		}, nil, true},
		{"a mask that is not deep", [3]int{1, 1, rows}, causal(-50), nil, false},
		{"scores that make up for it", [3]int{1, 1, rows}, causal(-1e4), func(q, k, v []float32) {
			for i := range q {
				q[i] *= 100
			}
			for i := range k {
				k[i] *= 100
			}
		}, false},
		{"values that are not finite", [3]int{1, 1, rows}, causal(-inf), func(q, k, v []float32) { v[len(v)-1] = inf }, false},
		{"a key that is NaN", [3]int{1, 1, rows}, causal(-inf), func(q, k, v []float32) { k[len(k)-1] = float32(math.NaN()) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := make([]float32, c.shape[0]*c.shape[1]*c.shape[2]*cols)
			for i := range m {
				r := i / cols
				m[i] = c.mask(r/c.shape[2]/c.shape[1], r/c.shape[2]%c.shape[1], r%c.shape[2], i%cols)
			}
			q, k, v := floats(1, batch*heads*rows*d), floats(2, batch*heads*d*cols), floats(3, batch*heads*cols*e)
			if c.tweak != nil {
				c.tweak(q, k, v)
			}
			in := []*Tensor{FromSlice([]int{batch, heads, rows, d}, q), FromSlice([]int{batch, heads, d, cols}, k),
				FromSlice([]int{batch, heads, cols, e}, v), FromSlice([]int{c.shape[0], c.shape[1], c.shape[2], cols}, m)}
			for _, path := range simd.Supported() {
				fused, plain := program(t, text, Options{Path: path.String()}), program(t, text, Options{Path: path.String(), NoFusion: true})
				s := session(fused, 2)
				a, err := FromDense(run(t, s, denseFeeds(t, fused, in...))["y"])
				if err != nil {
					t.Fatal(err)
				}
				b, err := FromDense(run(t, session(plain, 1), denseFeeds(t, plain, in...))["y"])
				if err != nil {
					t.Fatal(err)
				}
				if err := same(a, b, 20*8*0x1p-24); err != nil {
					t.Error(err)
				}
				st := s.main.calls[0].state.(*attentionState)
				if cut := len(st.ends) > 0 && slices.Min(st.ends) < cols; cut != c.cut {
					t.Errorf("scores end at %v of %d", st.ends, cols)
				}
			}
		})
	}
}
