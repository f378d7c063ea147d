package runtime

import (
	"errors"
	"slices"
	"testing"

	"gorgonia.org/tensor"
)

// A causal mask, positions and a shape, as exporters compute them; n depends
// on an element, so what is made of it is not still.
const stillText = `<ir_version: 8, opset_import: ["" : 17]>
causal (float[a, b, b] x, int64[1] n) => (float[a, b, b] y, int64[c] r, int64[3] s)
<int64 zero = {0}, int64 one = {1}, float low = {-1000}, float none = {0}, int64[1] first = {0}, int64[1] second = {1}, float[1] half = {0.5}>
{
  s = Shape (x)
  T = Gather (s, one)
  p = Range (zero, T, one)
  rows = Unsqueeze (p, second)
  columns = Unsqueeze (p, first)
  keep = LessOrEqual (columns, rows)
  mask = Where (keep, none, low)
  m = Add (x, mask)
  d = ConstantOfShape <value = float[1] {2}> (n)
  e = Shape (d)
  l = Squeeze (e)
  r = Range (zero, l, one)
  wide = Expand (half, s)
  y = Mul (m, wide)
}`

func TestStillValues(t *testing.T) {
	p := program(t, stillText, Options{})
	fresh := func() *Session {
		s := p.NewSession(SessionOptions{Threads: 1, Profile: true})
		s.pool.dirty = true
		return s
	}
	s := fresh()
	calls := func(kind string) int {
		for _, k := range s.Profile() {
			if k.Kind == kind {
				return k.Calls
			}
		}
		return 0
	}
	feeds := func(a, b int, n int64) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"x": f32([]int{a, b, b}, floats(uint64(a+b), a*b*b)...), "n": tensor.New(tensor.WithShape(1), tensor.WithBacking([]int64{n}))}
	}
	masks := 0
	for i, c := range []struct {
		a, b  int
		n     int64
		again bool // the shapes of the run before
	}{{2, 3, 4, false}, {2, 3, 5, true}, {2, 3, 4, true}, {1, 6, 4, false}, {2, 3, 4, false}, {2, 3, 9, true}} {
		got, want := run(t, s, feeds(c.a, c.b, c.n)), run(t, fresh(), feeds(c.a, c.b, c.n))
		for name, w := range want {
			if !got[name].Shape().Eq(w.Shape()) || !slices.Equal(elements32(t, got[name]), elements32(t, w)) {
				t.Errorf("run %d: %s is %v, in a session of its own %v", i, name, got[name], w)
			}
		}
		if !c.again {
			masks++
		}
		if calls("Where") != masks || calls("ConstantOfShape") != i+1 {
			t.Errorf("run %d: %d masks, want %d; %d of what depends on elements", i, calls("Where"), masks, calls("ConstantOfShape"))
		}
		if s.live() != 0 {
			t.Errorf("run %d: %d bytes are still lent", i, s.live())
		}
	}
	// A run that fails leaves nothing that the next one takes for whole.
	broken := errors.New("broken")
	q := program(t, stillText, Options{Probes: [][]string{{"m"}}})
	s = q.NewSession(SessionOptions{Threads: 1})
	s.pool.dirty = true
	for i := range 3 {
		_, err := s.RunProbed(t.Context(), feeds(2, 3, 4), func(int, []*Tensor) error {
			if i == 1 {
				return broken
			}
			return nil
		})
		if (i == 1) != errors.Is(err, broken) {
			t.Fatal(err)
		}
		if s.live() != 0 {
			t.Errorf("%d bytes are still lent", s.live())
		}
	}
	if got, want := run(t, s, feeds(2, 3, 4))["y"], run(t, fresh(), feeds(2, 3, 4))["y"]; !slices.Equal(elements32(t, got), elements32(t, want)) {
		t.Errorf("%v, in a session of its own %v", got, want)
	}
}

// elements32 is the elements of a tensor as float32.
func elements32(t *testing.T, d tensor.Tensor) []float32 {
	t.Helper()
	switch x := d.Data().(type) {
	case []float32:
		return x
	case []int64:
		var out []float32
		for _, v := range x {
			out = append(out, float32(v))
		}
		return out
	}
	t.Fatalf("%T", d.Data())
	return nil
}
