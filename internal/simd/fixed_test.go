package simd

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// fixedPaths are all implementations of fixed-point products that this machine
// can run.
func fixedPaths() map[string]*Kernels {
	out := map[string]*Kernels{}
	for _, p := range Supported() {
		k, _ := For(p)
		out[p.String()] = k
	}
	if k := withoutVNNI(); k != nil {
		out["avx512 without vnni"] = k
	}
	return out
}

// TestFixed holds every implementation to sums of big integers, over random
// numbers and over the extremes, with rows apart, unaligned, and guards.
func TestFixed(t *testing.T) {
	for name, k := range fixedPaths() {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for _, c := range []struct {
				rows, n, m int
				extreme    bool
			}{
				{1, 1, 1, false}, {1, 2, 16, false}, {3, 7, 5, false}, {8, 64, 16, false}, {9, 33, 40, false}, {5, 130, 70, false},
				{17, 768, 9, false}, {4, 301, 17, true}, {8, 64, 33, true}, {2, 0, 3, false},
			} {
				checkFixed(t, r, k, c.rows, c.n, c.m, c.extreme)
			}
		})
	}
}

func checkFixed(t *testing.T, r *rand.Rand, k *Kernels, rows, n, m int, extreme bool) {
	t.Helper()
	what := fmt.Sprintf("%d rows, %d → %d, extremes %v", rows, n, m, extreme)
	pick := func(low int) int16 {
		switch {
		case extreme && r.IntN(2) == 0:
			return int16(low)
		case extreme:
			return 1<<15 - 1
		case r.IntN(4) == 0:
			return int16(r.IntN(200) - 100)
		}
		return int16(max(low, r.IntN(1<<16)-1<<15))
	}
	off, ldx, ldy := r.IntN(3), n+n%2+r.IntN(3), m+r.IntN(3)
	x := make([]int16, off+rows*ldx+Slack)[off:]
	for i := range x {
		x[i] = pick(-1 << 15)
	}
	w := make([]int16, m*n)
	for i := range w {
		w[i] = pick(-1<<15 + 1)
	}
	if extreme { // whole rows of one sign make the largest sums
		for i := range w {
			if i/n%3 != 2 {
				w[i] = int16((1<<15 - 1) * (1 - 2*(i/n%3)))
			}
		}
		for i := range x {
			if i/ldx%2 == 0 {
				x[i] = -1 << 15
			}
		}
	}
	bias, shift := make([]int64, m), make([]int32, m)
	for i := range bias {
		switch bias[i], shift[i] = r.Int64N(1<<40)-1<<39, int32(r.IntN(30)); {
		case i%5 == 3:
			bias[i] = 1 << 60
		case i%5 == 4:
			bias[i] = -1 << 60
		}
		if i%7 == 6 {
			shift[i] = 62
		}
	}
	packed := k.PackFixed(w, m, n, 1, bias, shift)
	const guard = 12345
	y16 := make([]int16, rows*ldy+8)
	for i := range y16 {
		y16[i] = guard
	}
	k.Fixed16(y16[:rows*ldy], ldy, &packed, x, ldx, rows)
	for i := range y16 {
		row, col := i/ldy, i%ldy
		if row >= rows || col >= m {
			if y16[i] != guard {
				t.Fatalf("%s: wrote beyond row %d", what, row)
			}
			continue
		}
		sum := big.NewInt(bias[col])
		for j := range n {
			sum.Add(sum, big.NewInt(int64(w[col*n+j])*int64(x[row*ldx+j])))
		}
		if s := uint(shift[col]); s > 0 {
			sum.Add(sum, new(big.Int).Lsh(big.NewInt(1), s-1))
			sum.Rsh(sum, s)
		}
		clamp := func(low, high int64) int64 {
			switch {
			case sum.Cmp(big.NewInt(low)) < 0:
				return low
			case sum.Cmp(big.NewInt(high)) > 0:
				return high
			}
			return sum.Int64()
		}
		if want := clamp(-1<<15, 1<<15-1); int64(y16[i]) != want {
			t.Fatalf("%s: row %d, output %d: int16 %d, want %d", what, row, col, y16[i], want)
		}
	}
}

func BenchmarkFixed(b *testing.B) {
	const rows, n, m = 128, 768, 3072
	r := rand.New(rand.NewPCG(1, 2))
	x, w := make([]int16, rows*n), make([]int16, m*n)
	for i := range x {
		x[i] = int16(r.NormFloat64() * 6000)
	}
	for i := range w {
		w[i] = int16(min(max(r.NormFloat64()*6000, -32767), 32767))
	}
	y := make([]int16, rows*m)
	for name, k := range fixedPaths() {
		p := k.PackFixed(w, m, n, 1, make([]int64, m), make([]int32, m))
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				k.Fixed16(y, m, &p, x, n, rows)
			}
			b.ReportMetric(float64(rows*n*m)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}

// TestFixedPanel: rows in runs from places of their own, with inputs of all sizes,
// so that groups of all lengths occur. In every other case, inputs follow the signs
// and sizes of a row of weights, which makes the largest sums that their energy
// allows.
func TestFixedPanel(t *testing.T) {
	for name, k := range fixedPaths() {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			for i := range 300 {
				runs, run, m, rows := 1+r.IntN(9), 1+r.IntN(70), 1+r.IntN(70), 1+r.IntN(20)
				ldx := 1 + r.IntN(40)
				if i%3 == 0 {
					run, ldx = 16*(1+r.IntN(6)), 16*(1+r.IntN(3))
				}
				n := runs * run
				offsets := make([]int32, runs)
				for j := range offsets {
					if offsets[j] = int32(r.IntN(200)); i%3 == 0 {
						offsets[j] = int32(16 * r.IntN(12))
					}
				}
				x, w := make([]int16, (rows-1)*ldx+200+run+Slack), make([]int16, m*n)
				for j := range w {
					w[j] = int16(min(max(r.NormFloat64()*9000, -32767), 32767))
				}
				scale := r.IntN(16)
				for j := range x {
					x[j] = int16(r.IntN(1<<16)-1<<15) >> scale
				}
				if i%2 == 0 {
					row := r.IntN(m)
					for j := range n {
						x[int(offsets[j/run])+j%run] = w[row*n+j] >> scale
					}
				}
				bias, shift := make([]int64, m), make([]int32, m)
				for j := range bias {
					bias[j], shift[j] = r.Int64N(1<<36)-1<<35, int32(r.IntN(36))
				}
				p := k.PackFixed(w, m, n, runs, bias, shift)
				energy := k.Energy16(x)
				for panel := range p.Panels() {
					first := panel * p.Lanes()
					cols := min(p.Lanes(), m-first)
					y := make([]int16, rows*p.Lanes())
					k.FixedPanel(y, &p, panel, energy, x, ldx, offsets, rows)
					for at := range rows * cols {
						row, c := at/cols, first+at%cols
						sum := bias[c]
						for j := range n {
							sum += int64(w[c*n+j]) * int64(x[row*ldx+int(offsets[j/run])+j%run])
						}
						want := saturate16((sum + halfOf(uint64(shift[c]))) >> shift[c])
						if got := y[row*p.Lanes()+at%cols]; got != want {
							t.Fatalf("case %d, %d runs of %d, row %d of %d, output %d of %d, shift %d: %d, want %d", i, runs, run, row, rows, c, m, shift[c], got, want)
						}
					}
				}
			}
		})
	}
}

// TestFixedLong: more groups than are moved over before sums are taken away.
func TestFixedLong(t *testing.T) {
	const n = 4*mostFlushes + 6
	for name, k := range fixedPaths() {
		t.Run(name, func(t *testing.T) {
			x, w := make([]int16, n), make([]int16, n)
			for i := range w {
				x[i], w[i] = -1<<15, 1<<15-1
			}
			p := k.PackFixed(w, 1, n, 1, []int64{5}, []int32{32})
			y := make([]int16, 1)
			k.Fixed16(y, 1, &p, x, n, 1)
			if want := saturate16((-n*(1<<15-1)<<15 + 5 + 1<<31) >> 32); y[0] != want {
				t.Fatalf("%d, want %d", y[0], want)
			}
		})
	}
}
