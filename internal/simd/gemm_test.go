package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestGemm compares with float64, within the error that Gemm states, on sizes
// that leave part tiles, part panels and part blocks, in all operand layouts.
func TestGemm(t *testing.T) {
	sizes := []struct{ m, k, n int }{
		{1, 1, 1}, {1, 7, 5}, {2, 3, 4}, {3, 0, 5}, {0, 3, 4}, {5, 4, 0}, {7, 17, 15}, {8, 48, 48}, {9, 31, 49},
		{13, 64, 64}, {6, 33, 16}, {4, 9, 33}, {5, 100, 145}, {17, gemmKC + 5, 97}, {gemmMC + 3, 20, 19}, {1, gemmKC*2 + 1, 200}, {3, 12, 113},
	}
	eachPath(t, func(t *testing.T, k *Kernels) {
		for si, s := range sizes {
			for variant := range 16 {
				aT, bT, withBias, acc := variant&1 != 0, variant&2 != 0, variant&4 != 0, variant&8 != 0
				rng := rand.New(rand.NewPCG(uint64(si), uint64(variant)))
				t.Run(fmt.Sprintf("%dx%dx%d/aT=%v,bT=%v,bias=%v,acc=%v", s.m, s.k, s.n, aT, bT, withBias, acc), func(t *testing.T) {
					checkGemm(t, k, rng, s.m, s.k, s.n, aT, bT, withBias, acc)
				})
			}
		}
	})
}

// matrix returns a random rows × cols matrix between NaNs that must not be read.
func matrix(rng *rand.Rand, rows, cols int, transposed bool) Mat {
	if transposed {
		return matrix(rng, cols, rows, false).T()
	}
	ld := cols + rng.IntN(4)
	g := newGuarded(rows*ld, rng.IntN(4))
	for i := range rows {
		copy(g.s[i*ld:], randoms(rng, cols))
	}
	return RowMajor(g.s, ld)
}

func (a Mat) at(i, j int) float64 { return float64(a.Data[i*a.RowStride+j*a.ColStride]) }

func checkGemm(t *testing.T, kn *Kernels, rng *rand.Rand, m, k, n int, aT, bT, withBias, acc bool) {
	a, b := matrix(rng, m, k, aT), matrix(rng, k, n, bT)
	ldc := n + rng.IntN(5)
	c := newGuarded(m*ldc, rng.IntN(16))
	var c0 []float32
	if acc {
		for i := range m {
			copy(c.s[i*ldc:i*ldc+n], randoms(rng, n))
		}
	}
	c0 = append(c0, c.s...)
	var bias []float32
	if withBias {
		bias = randoms(rng, n)
	}
	ws := newGuarded(kn.PackedLen(k, n), 3) // NaN-filled: padding must be written
	p := kn.PackInto(ws.s, b, k, n)
	ws.check(t)
	kn.Gemm(c.s, ldc, a, m, p, bias, acc)
	c.check(t)
	ws.check(t)
	for i := range m {
		for j := range ldc {
			got := c.s[i*ldc+j]
			if j >= n {
				if math.Float32bits(got) != guardBits {
					t.Fatalf("C[%d,%d] lies between rows and was written", i, j)
				}
				continue
			}
			var want, size float64
			for q := range k {
				v := a.at(i, q) * b.at(q, j)
				want += v
				size += math.Abs(v)
			}
			if acc {
				want += float64(c0[i*ldc+j])
				size += math.Abs(float64(c0[i*ldc+j]))
			}
			if withBias {
				want += float64(bias[j])
				size += math.Abs(float64(bias[j]))
			}
			// k products, k sums with the first of them exact unless it starts from C, one bias.
			if err := math.Abs(float64(got) - want); !(err <= float64(k+2)*0x1p-24*1.0001*size) {
				t.Fatalf("C[%d,%d] = %v, want %v ± %.3g", i, j, got, want, float64(k+2)*0x1p-24*size)
			}
		}
	}
}

// TestGemmSplit: any split of rows or columns gives the bits of the whole, so
// results do not depend on the number of threads.
func TestGemmSplit(t *testing.T) {
	eachPath(t, func(t *testing.T, kn *Kernels) {
		rng := rand.New(rand.NewPCG(1, 2))
		for _, s := range []struct{ m, k, n int }{{19, gemmKC + 9, 64}, {5, 40, 197}, {1, 900, 145}, {33, 17, 250}} {
			a := randoms(rng, s.m*s.k)
			b := kn.PackB(RowMajor(randoms(rng, s.k*s.n), s.n), s.k, s.n)
			bias := randoms(rng, s.n)
			want := make([]float32, s.m*s.n)
			kn.Gemm(want, s.n, RowMajor(a, s.k), s.m, b, bias, false)
			for parts := 1; parts <= 7; parts++ {
				rows, cols := make([]float32, s.m*s.n), make([]float32, s.m*s.n)
				total := 0
				for i := range parts {
					lo, hi := s.m*i/parts, s.m*(i+1)/parts
					kn.Gemm(rows[lo*s.n:], s.n, RowMajor(a[lo*s.k:], s.k), hi-lo, b, bias, false)
					part, col := b.Split(i, parts)
					_, pn := part.Dims()
					total += pn
					kn.Gemm(cols[col:], s.n, RowMajor(a, s.k), s.m, part, bias[col:], false)
				}
				if total != s.n {
					t.Fatalf("%d parts have %d columns of %d", parts, total, s.n)
				}
				for i := range want {
					if rows[i] != want[i] || cols[i] != want[i] {
						t.Fatalf("%v in %d parts: element %d: rows %v, columns %v, whole %v", s, parts, i, rows[i], cols[i], want[i])
					}
				}
			}
		}
	})
}

func TestGemmAllocatesNothing(t *testing.T) {
	eachPath(t, func(t *testing.T, kn *Kernels) {
		a, b, c := make([]float32, 9*40), make([]float32, 40*50), make([]float32, 9*50)
		ws := make([]float32, kn.PackedLen(40, 50))
		if n := testing.AllocsPerRun(10, func() {
			p := kn.PackInto(ws, RowMajor(b, 50), 40, 50)
			kn.Gemm(c, 50, RowMajor(a, 40), 9, p, nil, false)
		}); n != 0 {
			t.Errorf("%v allocations a run", n)
		}
	})
}

// BenchmarkGemm reports GFLOP/s (2·m·k·n operations a product).
func BenchmarkGemm(b *testing.B) {
	for _, p := range Supported() {
		kn, _ := For(p)
		for _, s := range []struct{ m, k, n int }{{128, 768, 3072}, {128, 3072, 768}, {1, 768, 3072}, {4, 768, 3072}, {128, 64, 128}, {128, 128, 64}} {
			b.Run(fmt.Sprintf("%v/%dx%dx%d", p, s.m, s.k, s.n), func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 1))
				a, c := RowMajor(randoms(rng, s.m*s.k), s.k), make([]float32, s.m*s.n)
				w := kn.PackB(RowMajor(randoms(rng, s.k*s.n), s.n), s.k, s.n)
				for b.Loop() {
					kn.Gemm(c, s.n, a, s.m, w, nil, false)
				}
				b.ReportMetric(2*float64(s.m*s.k*s.n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
