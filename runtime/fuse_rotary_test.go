package runtime

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Rotations as exporters write them, with what the fused program consists of.
var rotaryCases = []struct {
	name        string
	x, cos, sin []int
	body        string
	want        []string // nil: as many as nodes that are not constant
}{
	{"pairs", []int{2, 5, 3, 4, 2}, []int{1, 5, 1, 4}, []int{1, 5, 1, 4}, `
  a = Gather <axis = 4> (x, i0)
  b = Gather <axis = -1> (x, i1)
  ac = Mul (a, cos)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (a, sin)
  bc = Mul (b, cos)
  im = Add (as, bc)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  y = Concat <axis = -1> (u, w)`, []string{"Rotary"}},
	{"pairs, factors in other orders", []int{5, 3, 2}, []int{5, 3}, []int{3}, `
  a = Gather <axis = 2> (x, i0)
  b = Gather <axis = 2> (x, i1)
  ac = Mul (cos, a)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (sin, a)
  bc = Mul (cos, b)
  im = Add (bc, as)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  y = Concat <axis = -1> (u, w)`, []string{"Rotary"}},
	{"pairs taken from another axis", []int{2, 3, 2}, []int{2, 2}, []int{2, 2}, `
  a = Gather <axis = 1> (x, i0)
  b = Gather <axis = 1> (x, i1)
  ac = Mul (a, cos)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (a, sin)
  bc = Mul (b, cos)
  im = Add (as, bc)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  y = Concat <axis = -1> (u, w)`, []string{"Rotary"}},
	{"pairs turned by angles of more positions", []int{1, 3, 4, 2}, []int{5, 1, 4}, []int{5, 1, 4}, `
  a = Gather <axis = 3> (x, i0)
  b = Gather <axis = 3> (x, i1)
  ac = Mul (a, cos)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (a, sin)
  bc = Mul (b, cos)
  im = Add (as, bc)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  y = Concat <axis = -1> (u, w)`, []string{"Rotary"}},
	{"pairs with sines and cosines mixed up", []int{5, 3, 2}, []int{5, 3}, []int{5, 3}, `
  a = Gather <axis = 2> (x, i0)
  b = Gather <axis = 2> (x, i1)
  ac = Mul (a, cos)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (a, cos)
  bc = Mul (b, sin)
  im = Add (as, bc)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  y = Concat <axis = -1> (u, w)`, nil},
	{"pairs whose first is read elsewhere", []int{5, 3, 2}, []int{5, 3}, []int{5, 3}, `
  a = Gather <axis = 2> (x, i0)
  b = Gather <axis = 2> (x, i1)
  ac = Mul (a, cos)
  bs = Mul (b, sin)
  re = Sub (ac, bs)
  as = Mul (a, sin)
  bc = Mul (b, cos)
  im = Add (as, bc)
  u = Unsqueeze (re, last)
  w = Unsqueeze (im, last)
  r = Concat <axis = -1> (u, w)
  s = Unsqueeze (a, last)
  y = Add (r, s)`, nil},
	{"halves", []int{2, 3, 5, 4}, []int{1, 1, 5, 4}, []int{2, 1, 5, 4}, `
  x1 = Slice (x, zero, two, last, one)
  x2 = Slice (x, two, big, third, one)
  n = Neg (x2)
  r = Concat <axis = -1> (n, x1)
  xc = Mul (x, cos)
  rs = Mul (r, sin)
  y = Add (xc, rs)`, []string{"Rotary"}},
	{"halves, other orders", []int{2, 3, 5, 4}, []int{5, 4}, []int{5, 4}, `
  x1 = Slice (x, zero, two, third)
  x2 = Slice (x, two, big, third)
  n = Neg (x2)
  r = Concat <axis = 3> (n, x1)
  xc = Mul (cos, x)
  rs = Mul (sin, r)
  y = Add (rs, xc)`, []string{"Rotary"}},
	{"halves that are not", []int{2, 3, 5, 6}, []int{5, 6}, []int{5, 6}, `
  x1 = Slice (x, zero, two, last)
  x2 = Slice (x, two, big, last)
  n = Neg (x2)
  r = Concat <axis = -1> (n, x1)
  xc = Mul (x, cos)
  rs = Mul (r, sin)
  y = Add (xc, rs)`, []string{"Rotary"}},
	{"halves with the other one negative", []int{2, 3, 5, 4}, []int{5, 4}, []int{5, 4}, `
  x1 = Slice (x, zero, two, last)
  x2 = Slice (x, two, big, last)
  n = Neg (x1)
  r = Concat <axis = -1> (n, x2)
  xc = Mul (x, cos)
  rs = Mul (r, sin)
  y = Add (xc, rs)`, nil},
}

func TestRotary(t *testing.T) {
	for _, c := range rotaryCases {
		t.Run(c.name, func(t *testing.T) {
			free := func(shape []int) string { return strings.TrimSuffix(strings.Repeat("?,", len(shape)), ",") }
			text := strings.NewReplacer("[X]", "["+free(c.x)+"]", "[C]", "["+free(c.cos)+"]", "[S]", "["+free(c.sin)+"]").Replace(
				`<ir_version: 8, opset_import: ["" : 17]>
rotary (float[X] x, float[C] cos, float[S] sin) => (float[X] y)
<int64 i0 = {0}, int64 i1 = {1}, int64[1] last = {-1}, int64[1] third = {3}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
 int64[1] big = {9223372036854775807}>
{` + c.body + `
}`)
			in := []*Tensor{FromSlice(c.x, floats(1, elems(c.x))), FromSlice(c.cos, floats(2, elems(c.cos))), FromSlice(c.sin, floats(3, elems(c.sin)))}
			fused, plain := program(t, text, Options{}), program(t, text, Options{NoFusion: true})
			var got []string
			for _, s := range fused.main.steps {
				got = append(got, s.kind)
			}
			if c.want != nil && !slices.Equal(got, c.want) || c.want == nil && slices.Contains(got, "Rotary") {
				t.Errorf("steps are %v, want %v", got, c.want)
			}
			s := session(fused, 2)
			a, err := s.Run(t.Context(), denseFeeds(t, fused, in...))
			b, err2 := session(plain, 1).Run(t.Context(), denseFeeds(t, plain, in...))
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if s.live() != 0 {
				t.Errorf("%d bytes are still lent", s.live())
			}
			x, y := a["y"], b["y"]
			if !x.Shape().Eq(y.Shape()) || !bytes.Equal(bytesOf(x.Data().([]float32)), bytesOf(y.Data().([]float32))) {
				t.Errorf("%v, unfused %v", x.Data(), y.Data())
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
