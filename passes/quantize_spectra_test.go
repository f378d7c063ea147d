package passes

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// TestPartialSums: partial sums are of as many blocks as fit, without more noise than
// is allowed, and the noise is what was foreseen.
func TestPartialSums(t *testing.T) {
	const rows = 200
	for _, c := range []struct {
		name            string
		p, q, b, groups int
		spread          float64 // of the sizes of the weights of a row, in octaves
		least, most     int     // blocks of a partial sum
	}{
		{"all fit", 4, 10, 4, 1, 0, 10, 10},
		{"many blocks", 12, 48, 64, 1, 1, 8, 46},
		{"two groups", 6, 40, 8, 2, 1, 8, 38},
		{"few large weights", 6, 64, 8, 1, 6, 4, 62},
		{"one block", 3, 1, 16, 1, 0, 1, 1},
		{"three blocks", 30, 3, 8, 1, 0, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			bins := c.b/2 + 1
			rng := rand.New(rand.NewPCG(1, 2))
			f := fixedSpectra{p: c.p, q: c.q, b: c.b, groups: c.groups, w: make([]float64, c.p*c.q*c.b), bias: make([]float64, c.p*c.b), x: -12,
				y: make([]int, c.p*c.b), xTops: make([]float64, c.groups*c.q*bins), yTops: make([]float64, c.p), xSquares: make([]float64, c.groups*c.q*bins),
				ySquares: make([]float64, c.p), rows: 1, rounding: fixed.Once}
			for i := range f.w {
				f.w[i] = rng.NormFloat64() * math.Exp2(c.spread*rng.Float64())
			}
			// Spectra of the inputs, as the weights lie; loud and quiet blocks.
			x := make([]float64, rows*c.groups*c.q*c.b)
			for i := range x {
				x[i] = rng.NormFloat64() * float64(1+i/c.b%3)
			}
			bin := func(n int) (bin int, times float64) {
				if n < 2 {
					return n, 1
				}
				return fixed.Bin(n), 2
			}
			for i, v := range x {
				j := i / c.b % (c.groups * c.q)
				k, times := bin(i % c.b)
				f.xTops[j*bins+k] = max(f.xTops[j*bins+k], math.Abs(v))
				f.xSquares[j*bins+k] += times * v * v
			}
			// product calls do for every number of the output's spectra, and its bin.
			product := func(w []float64, do func(i int, times, v float64)) {
				for row := range rows {
					for i := range c.p {
						g := i / (c.p / c.groups)
						for n := range c.b {
							_, times := bin(n)
							var sum float64
							for j := range c.q {
								x := x[((row*c.groups+g)*c.q+j)*c.b:][:c.b]
								w := w[(i*c.q+j)*c.b:][:c.b]
								switch {
								case n < 2:
									sum += x[n] * w[n]
								case n%2 == 0:
									sum += x[n]*w[n] - x[n+1]*w[n+1]
								default:
									sum += x[n-1]*w[n] + x[n]*w[n-1]
								}
							}
							do(i, times, sum)
						}
					}
				}
			}
			product(f.w, func(i int, times, v float64) {
				f.yTops[i] = max(f.yTops[i], math.Abs(v))
				f.ySquares[i] += times * v * v
			})
			s, err := f.quantize()
			if err != nil {
				t.Fatal(err)
			}
			if s.Group < c.least || s.Group > c.most || s.Group%2 != 0 && s.Group != c.q {
				t.Errorf("partial sums are of %d blocks, want %d to %d", s.Group, c.least, c.most)
			}
			for i := range c.p {
				for k := range bins {
					if !sumsFit(f.sizes(s.W, i, k), s.Group) {
						t.Errorf("bin %d of row %d does not fit", k, i)
					}
				}
			}
			var signal, noise float64
			for _, v := range f.ySquares {
				signal += v
			}
			exponents := make([]int, c.p*bins)
			round := func(group int) float64 {
				for at := range exponents {
					exponents[at] = f.weights(s.W, at/bins, at%bins, group)
				}
				return f.noise(exponents)
			}
			if s.Group < c.q && round(s.Group+2) <= mostNoise*signal {
				t.Errorf("%d blocks would do, too", s.Group+2)
			}
			foreseen := round(s.Group)
			if foreseen > mostNoise*signal {
				t.Errorf("a noise of %.3g is foreseen beside %.3g", foreseen, signal)
			}
			errs := make([]float64, len(f.w))
			for i := range c.p {
				for k := range bins {
					f.numbers(i, k, func(j, at int) {
						shift := int(f.r[(i/(c.p/c.groups)*c.q+j)*bins+k])
						errs[at] = math.Ldexp(float64(s.W[at]), exponents[i*bins+k]-shift) - f.w[at]
					})
				}
			}
			product(errs, func(_ int, times, v float64) { noise += times * v * v })
			if ratio := noise / foreseen; ratio < 0.8 || ratio > 1.25 {
				t.Errorf("a noise of %.3g was foreseen, it is %.3g", foreseen, noise)
			}
		})
	}
}
