package circulant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// eachPath runs f on the kernels of every path that this machine has.
func eachPath(t *testing.T, f func(t *testing.T, k *simd.Kernels)) {
	for _, p := range simd.Supported() {
		k, err := simd.For(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(p.String(), func(t *testing.T) { f(t, k) })
	}
}

// nanBits is the payload of a NaN that no arithmetic makes.
const nanBits = 0x7fc0dead

func poisoned(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = math.Float32frombits(nanBits)
	}
	return x
}

// reference is Y = X·Wᵀ + bias through the matrix written out, in float64, and
// the bound on the error of each element that the kernels are held to.
//
// For random weights and tokens the elements of block i have the size
// s = √(Σ_j ‖w_ij‖²·‖x_j‖²/b). A transform adds a random error of √(log₂ b)
// roundings of u = 2⁻²⁴ each to its result (√b where the sum is taken as
// written), the sum over q blocks one of √(q/2), and the three multiplications
// have terms of up to twice the size of their sum. Roundings count as u, √3 times
// their standard deviation, and the bound is three times the sum, so five
// standard deviations: as far as the largest of the 10⁶ elements of all tests
// gets. The bias and the last rounding add u·|y|.
func reference(c *Matrix, bias, x []float32, ldx, tokens int) (y, bound []float64) {
	d := c.Dense()
	y, bound = make([]float64, tokens*c.M), make([]float64, tokens*c.M)
	transform := math.Log2(float64(c.B))
	if c.B&(c.B-1) != 0 {
		transform = float64(c.B)
	}
	for t := range tokens {
		row := x[t*ldx:][:c.N]
		for i := range c.P {
			var size float64
			for j := range ceilDiv(c.N, c.B) {
				var ww, xx float64
				for _, v := range c.block(i, j) {
					ww += float64(v) * float64(v)
				}
				for _, v := range row[j*c.B : min(c.N, (j+1)*c.B)] {
					xx += float64(v) * float64(v)
				}
				size += ww * xx / float64(c.B)
			}
			e := 3 * 2 * 0x1p-24 * math.Sqrt((3*transform+float64(c.Q)/2+1)*size)
			for r := i * c.B; r < min(c.M, (i+1)*c.B); r++ {
				var s float64
				for k, v := range row {
					s += float64(d[r*c.N+k]) * float64(v)
				}
				if bias != nil {
					s += float64(bias[r])
				}
				y[t*c.M+r] = s
				bound[t*c.M+r] = e + 0x1p-24*math.Abs(s)
			}
		}
	}
	return y, bound
}

var shapes = []struct{ m, n, b int }{
	{1, 1, 2}, {2, 2, 2}, {7, 5, 2}, {33, 70, 2},
	{9, 9, 3}, {10, 8, 3}, {16, 16, 4}, {19, 34, 4}, {64, 100, 4},
	{25, 31, 5}, {12, 18, 6}, {50, 21, 7}, {64, 64, 8}, {65, 63, 8}, {100, 203, 8}, {27, 19, 9},
	{96, 48, 16}, {97, 49, 16}, {15, 17, 16}, {3, 250, 16}, {224, 352, 16}, {40, 65, 24}, {61, 93, 31},
	{64, 64, 32}, {200, 130, 32}, {3, 5, 32}, {130, 260, 64}, {256, 128, 128}, {129, 300, 128},
	{2, 3000, 2}, {512, 256, 256}, {300, 260, 256}, {7, 700, 256}, {520, 513, 512},
}

func TestApply(t *testing.T) {
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		for _, s := range shapes {
			t.Run(fmt.Sprintf("%dx%d/b%d", s.m, s.n, s.b), func(t *testing.T) {
				testApply(t, k, s.m, s.n, s.b)
			})
		}
	})
}

// testApply checks every number of tokens to 70 against the reference, within
// guard bands, with a workspace full of NaN; and that a token has the same bits
// in each.
func testApply(t *testing.T, k *simd.Kernels, m, n, b int) {
	const most = 70
	rng := rand.New(rand.NewPCG(uint64(m*n), uint64(b)))
	c := randomMatrix(t, rng, m, n, b)
	bias := random(rng, m)
	ldx, ldy := n+3, m+5
	x := poisoned(most * ldx)
	for tok := range most {
		copy(x[tok*ldx:], random(rng, n))
	}
	clear(x[5*ldx:][:n])
	bias[0] = float32(math.Copysign(0, -1)) // even the sign of a zero is the same in every batch
	want, bound := reference(c, bias, x, ldx, most)
	o, err := NewOperator(c, bias, k)
	if err != nil {
		t.Fatal(err)
	}
	first := poisoned(most * m)
	for tokens := range most + 1 {
		from := 0
		if tokens%3 == 1 { // another place in the batch
			from = most - tokens
		}
		ws := poisoned(o.Workspace())
		lo := 1 + tokens%7 // another alignment
		y := poisoned(lo + tokens*ldy + 9)
		o.Apply(y[lo:lo+max(0, tokens*ldy-5)], ldy, x[from*ldx:max(from, (from+tokens)*ldx-3)], ldx, tokens, ws)
		for i, v := range y {
			tok, r := (i-lo)/ldy, (i-lo)%ldy
			if i < lo || tok >= tokens || r >= m {
				if math.Float32bits(v) != nanBits {
					t.Fatalf("%d tokens: wrote element %d, outside of the rows", tokens, i)
				}
				continue
			}
			tok += from
			if d := math.Abs(float64(v) - want[tok*m+r]); !(d <= bound[tok*m+r]) {
				t.Fatalf("%d tokens: y[%d, %d] = %g, want %g ± %g", tokens, tok, r, v, want[tok*m+r], bound[tok*m+r])
			}
			if f := &first[tok*m+r]; math.Float32bits(*f) == nanBits {
				*f = v
			} else if math.Float32bits(*f) != math.Float32bits(v) {
				t.Fatalf("%d tokens from %d: y[%d, %d] has the bits %x, %x in another batch", tokens, from, tok, r, math.Float32bits(v), math.Float32bits(*f))
			}
		}
	}
}

// The assembly paths agree to the bit.
func TestApplyPathsAgree(t *testing.T) {
	if _, err := simd.For(simd.AVX512); err != nil {
		t.Skip(err)
	}
	for _, s := range shapes {
		rng := rand.New(rand.NewPCG(uint64(s.m*s.n), uint64(s.b)))
		c := randomMatrix(t, rng, s.m, s.n, s.b)
		bias, x := random(rng, s.m), random(rng, 20*s.n)
		var y [2][]float32
		for i, p := range []simd.Path{simd.AVX2, simd.AVX512} {
			k, err := simd.For(p)
			if err != nil {
				t.Fatal(err)
			}
			o, err := NewOperator(c, bias, k)
			if err != nil {
				t.Fatal(err)
			}
			y[i] = make([]float32, 20*s.m)
			o.Apply(y[i], s.m, x, s.n, 20, make([]float32, o.Workspace()))
		}
		for i, v := range y[0] {
			if math.Float32bits(v) != math.Float32bits(y[1][i]) {
				t.Fatalf("%+v: element %d is %g with AVX2, %g with AVX-512", s, i, v, y[1][i])
			}
		}
	}
}

// Blocks without any row or column that exists are ignored.
func TestApplySpareBlocks(t *testing.T) {
	c := &Matrix{M: 3, N: 2, B: 2, P: 3, Q: 4, W: make([]float32, 24)}
	for i := range c.W {
		c.W[i] = float32(i + 1)
	}
	want, _ := reference(c, nil, []float32{1, 10}, 2, 1)
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		o, err := NewOperator(c, nil, k)
		if err != nil {
			t.Fatal(err)
		}
		y := make([]float32, 3)
		o.Apply(y, 3, []float32{1, 10}, 2, 1, make([]float32, o.Workspace()))
		for r := range y {
			if float64(y[r]) != want[r] {
				t.Fatalf("y = %v, want %v", y, want)
			}
		}
	})
}

func TestApplyConcurrently(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	c := randomMatrix(t, rng, 96, 80, 16)
	x := random(rng, 50*80)
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		o, err := NewOperator(c, nil, k)
		if err != nil {
			t.Fatal(err)
		}
		whole := make([]float32, 50*96)
		o.Apply(whole, 96, x, 80, 50, make([]float32, o.Workspace()))
		parts := make([]float32, 50*96)
		var wg sync.WaitGroup
		for _, r := range [][2]int{{0, 1}, {1, 20}, {20, 50}} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				n := r[1] - r[0]
				o.Apply(parts[r[0]*96:], 96, x[r[0]*80:], 80, n, make([]float32, o.Workspace()))
			}()
		}
		wg.Wait()
		for i := range whole {
			if math.Float32bits(whole[i]) != math.Float32bits(parts[i]) {
				t.Fatalf("element %d: %g in one call, %g in three at once", i, whole[i], parts[i])
			}
		}
	})
}

func TestApplyAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		for _, b := range []int{3, 4, 64} {
			o, err := NewOperator(randomMatrix(t, rng, 130, 70, b), nil, k)
			if err != nil {
				t.Fatal(err)
			}
			for _, tokens := range []int{1, 5, 40} {
				x, y, ws := random(rng, tokens*70), make([]float32, tokens*130), make([]float32, o.Workspace())
				if a := testing.AllocsPerRun(5, func() { o.Apply(y, 130, x, 70, tokens, ws) }); a != 0 {
					t.Errorf("b = %d, %d tokens: %g allocations", b, tokens, a)
				}
			}
		}
	})
}

func TestOperatorArguments(t *testing.T) {
	c := &Matrix{M: 2, N: 2, B: 2, P: 1, Q: 1, W: make([]float32, 2)}
	if _, err := NewOperator(c, make([]float32, 3), simd.Best()); err == nil {
		t.Error("took a bias of 3 elements for 2 rows")
	}
	large := &Matrix{M: 1, N: 1, B: MaxBlock + 1, P: 1, Q: 1, W: make([]float32, MaxBlock+1)}
	if _, err := NewOperator(large, nil, simd.Best()); err == nil {
		t.Errorf("took a block size of %d", large.B)
	}
	o, err := NewOperator(c, nil, simd.Best())
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"short x":         func() { o.Apply(make([]float32, 4), 2, make([]float32, 3), 2, 2, make([]float32, 999)) },
		"short y":         func() { o.Apply(make([]float32, 3), 2, make([]float32, 4), 2, 2, make([]float32, 999)) },
		"short workspace": func() { o.Apply(make([]float32, 4), 2, make([]float32, 4), 2, 2, nil) },
		"small stride":    func() { o.Apply(make([]float32, 4), 1, make([]float32, 4), 2, 2, make([]float32, 999)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestGroup: several operators with the same inputs give the bits of each by
// itself, for any range of tokens, and write nothing else.
func TestGroup(t *testing.T) {
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		rng := rand.New(rand.NewPCG(7, 8))
		for _, b := range []int{3, 4, 16, 64} {
			const n, tokens = 70, 45
			var ops []*Operator
			for i, m := range []int{130, 5, 64, 200} {
				bias := random(rng, m)
				if i == 1 {
					bias = nil
				}
				o, err := NewOperator(randomMatrix(t, rng, m, n, b), bias, k)
				if err != nil {
					t.Fatal(err)
				}
				ops = append(ops, o)
			}
			g, err := NewGroup(ops...)
			if err != nil {
				t.Fatal(err)
			}
			x := random(rng, tokens*n)
			for _, r := range [][2]int{{0, tokens}, {0, 1}, {3, 5}, {4, 9}, {7, 40}, {44, 45}, {9, 9}} {
				var y [][]float32
				for _, o := range ops {
					y = append(y, poisoned(tokens*o.m))
				}
				ws := poisoned(g.Workspace())
				if a := testing.AllocsPerRun(1, func() { g.Apply(y, x, r[0], r[1], ws) }); a != 0 {
					t.Errorf("b = %d, tokens %v: %g allocations", b, r, a)
				}
				for i, o := range ops {
					want := poisoned(tokens * o.m)
					if r[0] < r[1] {
						o.Apply(want[r[0]*o.m:], o.m, x[r[0]*n:], n, r[1]-r[0], poisoned(o.Workspace()))
					}
					for j, v := range want {
						if math.Float32bits(v) != math.Float32bits(y[i][j]) {
							t.Fatalf("b = %d, tokens %v: element %d of result %d is %g, by itself %g", b, r, j, i, y[i][j], v)
						}
					}
				}
			}
		}
	})
	one, err := NewOperator(randomMatrix(t, rand.New(rand.NewPCG(1, 1)), 8, 8, 4), nil, simd.Best())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range [][3]int{{8, 12, 4}, {8, 8, 8}} {
		other, err := NewOperator(randomMatrix(t, rand.New(rand.NewPCG(1, 1)), s[0], s[1], s[2]), nil, simd.Best())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewGroup(one, other); err == nil {
			t.Errorf("%v goes with 8x8 in blocks of 4", s)
		}
	}
	if _, err := NewGroup(); err == nil {
		t.Error("a group of nothing")
	}
}
