package circulant

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func random(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func randomMatrix(t *testing.T, rng *rand.Rand, m, n, b int) *Matrix {
	t.Helper()
	c, err := New(m, n, b)
	if err != nil {
		t.Fatal(err)
	}
	copy(c.W, random(rng, len(c.W)))
	return c
}

// The convention, written out: the first column of every block is its w, and
// each next column is the one before, rotated down.
func TestDenseConvention(t *testing.T) {
	c := &Matrix{M: 5, N: 4, B: 3, P: 2, Q: 2, W: []float32{
		1, 2, 3, 4, 5, 6,
		7, 8, 9, 10, 11, 12}}
	want := []float32{
		1, 3, 2, 4,
		2, 1, 3, 5,
		3, 2, 1, 6,
		7, 9, 8, 10,
		8, 7, 9, 11,
	}
	got := c.Dense()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("dense\n%v, want\n%v", got, want)
		}
	}
	if c.Params() != 12 {
		t.Errorf("%d parameters, want 12", c.Params())
	}
	tr := c.Transpose()
	if err := tr.Validate(); err != nil {
		t.Fatal(err)
	}
	td := tr.Dense()
	for r := range 5 {
		for k := range 4 {
			if td[k*5+r] != want[r*4+k] {
				t.Fatalf("transpose\n%v of\n%v", td, want)
			}
		}
	}
}

func TestFrobenius(t *testing.T) {
	// A lone block of 2×2 with one column beyond the matrix, and one beside it
	// whose diagonals have one or two entries.
	c, err := Frobenius([]float32{1, 2, 3, 5, 4, 7}, 2, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []float32{2.5, 3.5, 3, 7} // {(1+4)/2, (5+2)/2}, then entries 3 and 7 alone
	for i, v := range want {
		if c.W[i] != v {
			t.Fatalf("projection %v, want %v", c.W, want)
		}
	}
	e, err := WeightError([]float32{1, 2, 3, 5, 4, 7}, c)
	if err != nil {
		t.Fatal(err)
	}
	if want := math.Sqrt((4 * 1.5 * 1.5) / (1 + 4 + 9 + 25 + 16 + 49.)); math.Abs(e.Relative()-want) > 1e-12 {
		t.Errorf("weight error %g, want %g", e.Relative(), want)
	}
}

// The projection keeps 1/b of the energy of a matrix of independent weights.
func TestFrobeniusEnergy(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := random(rng, 192*192)
	for _, b := range []int{2, 3, 4, 8, 16} {
		c, err := Frobenius(w, 192, 192, b)
		if err != nil {
			t.Fatal(err)
		}
		e, err := WeightError(w, c)
		if err != nil {
			t.Fatal(err)
		}
		// 192²/b weights: the kept share has a standard error of 1/b·sqrt(2b)/192.
		if kept, slack := 1-e.Square/e.Of, 4*math.Sqrt(2/float64(b))/192; math.Abs(kept-1/float64(b)) > slack {
			t.Errorf("b = %d keeps %.4f of the energy, want %.4f ± %.4f", b, kept, 1/float64(b), slack)
		}
	}
}

func TestValidate(t *testing.T) {
	ok := Matrix{M: 5, N: 4, B: 3, P: 2, Q: 2, W: make([]float32, 12)}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Matrix)
		says   string
	}{
		{func(m *Matrix) { m.B = 1 }, "block size is 1"},
		{func(m *Matrix) { m.P = 0 }, "grid is 0×2"},
		{func(m *Matrix) { m.Q = -2 }, "grid is 2×-2"},
		{func(m *Matrix) { m.W = m.W[:11] }, "11 weights do not fill"},
		{func(m *Matrix) { m.P, m.Q = 1<<62, 1<<62 }, "12 weights do not fill"},
		{func(m *Matrix) { m.M = 7 }, "7 rows, but 2 blocks of 3 hold 1 to 6"},
		{func(m *Matrix) { m.N = 0 }, "0 columns"},
	} {
		m := ok
		c.change(&m)
		err := m.Validate()
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v, want one that says %q", m, err, c.says)
		}
		if _, err := NewOperator(&m, nil, nil); err == nil {
			t.Errorf("%+v: NewOperator took it", m)
		}
	}
	for _, s := range [][3]int{{0, 1, 2}, {1, -1, 2}, {1, 1, 1}, {1 << 62, 1 << 62, 2}} {
		if _, err := New(s[0], s[1], s[2]); err == nil {
			t.Errorf("New(%v) gave no error", s)
		}
	}
	if _, err := Frobenius(make([]float32, 5), 2, 3, 2); err == nil {
		t.Error("Frobenius took 5 weights for 2×3")
	}
}

// A block-circulant matrix, written out and projected, is itself.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint8(5), uint8(4), uint8(3), uint64(1))
	f.Add(uint8(8), uint8(8), uint8(8), uint64(2))
	f.Add(uint8(1), uint8(9), uint8(200), uint64(3))
	f.Fuzz(func(t *testing.T, m, n, b uint8, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		c, err := New(int(m), int(n), int(b))
		if err != nil {
			t.Skip()
		}
		for i := range c.W { // any finite float32
			for c.W[i] = math.Float32frombits(rng.Uint32()); c.W[i]-c.W[i] != 0; {
				c.W[i] = math.Float32frombits(rng.Uint32())
			}
		}
		d := c.Dense()
		back, err := Frobenius(d, c.M, c.N, c.B)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range back.Dense() {
			if v != d[i] {
				t.Fatalf("%d×%d, b = %d: entry %d is %g, was %g", m, n, b, i, v, d[i])
			}
		}
		tt := c.Transpose().Transpose()
		for i, v := range tt.W {
			if v != c.W[i] {
				t.Fatalf("%d×%d, b = %d: transposed twice, weight %d is %g, was %g", m, n, b, i, v, c.W[i])
			}
		}
	})
}
