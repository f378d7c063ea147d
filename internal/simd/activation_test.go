package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// activations lists the transcendental kernels with a float64 reference and the
// error that their methods state, in ulp. Where exp(−|x|) or Φ(−|x|) is smaller
// than a normal float32 it has an absolute error of 2⁻¹⁴⁹, which a factor x
// magnifies; byX says that there is one.
var activations = []struct {
	name string
	run  func(k *Kernels, dst, x []float32)
	ref  func(x float64) float64
	ulps float64
	byX  bool
}{
	{"exp", (*Kernels).Exp, math.Exp, 1.1, false},
	{"tanh", (*Kernels).Tanh, math.Tanh, 2.5, false},
	{"sigmoid", (*Kernels).Sigmoid, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, 2.5, false},
	{"silu", (*Kernels).Silu, func(x float64) float64 { return x / (1 + math.Exp(-x)) }, 3.5, true},
	{"erf", (*Kernels).Erf, math.Erf, 1.5, false},
	{"gelu", (*Kernels).Gelu, func(x float64) float64 { return x * (0.5 * math.Erfc(-x/math.Sqrt2)) }, 4.5, true},
	{"geluTanh", (*Kernels).GeluTanh, func(x float64) float64 {
		return x / (1 + math.Exp(-2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}, 3.5, true},
}

// ulp returns the distance of float32 values at x.
func ulp(x float64) float64 {
	_, e := math.Frexp(x)
	return math.Ldexp(1, max(e-24, -149))
}

// TestActivations compares with float64 on all lengths, and on a sweep of the
// float32 values: every exponent, random mantissas, and the special ones.
func TestActivations(t *testing.T) {
	var sweep []float32
	rng := rand.New(rand.NewPCG(7, 7))
	for e := uint32(0); e < 255; e++ {
		for range 300 {
			m := rng.Uint32()
			sweep = append(sweep, math.Float32frombits(m&0x807fffff|e<<23))
		}
	}
	for range 300000 { // where the functions bend
		sweep = append(sweep, float32(rng.Float64()*240-120), float32(rng.NormFloat64()*4))
	}
	sweep = append(sweep, specials...)
	for _, a := range activations {
		check := func(t *testing.T, x, got float32) (ulps float64) {
			want := a.ref(float64(x))
			switch w := float32(want); {
			case want != want || math.IsInf(float64(w), 0) || w == 0:
				// The last finite value may be a neighbour of infinity, and 0 of the least.
				if !same(got, w) && !(math.Abs(float64(got)-want) <= ulp(want)*a.ulps) && !(got == inf && want > math.MaxFloat32*(1-0x1p-23)) {
					t.Fatalf("%s(%v) = %v, want %v", a.name, x, got, w)
				}
				return 0
			}
			tol := a.ulps * ulp(want)
			if a.byX {
				tol += math.Abs(float64(x)) * 0x1p-149
			}
			if err := math.Abs(float64(got) - want); !(err <= tol) {
				t.Fatalf("%s(%v) = %v, want %v: off by %.2f ulp", a.name, x, got, want, err/ulp(want))
			}
			if math.Abs(want) < 0x1p-118 {
				return 0
			}
			return math.Abs(float64(got)-want) / ulp(want)
		}
		eachLength(t, a.name, func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
			x := guardedSample(rng, n)
			a.run(k, dst.s, x)
			for i := range x {
				check(t, x[i], dst.s[i])
			}
			copy(dst.s, x)
			a.run(k, dst.s, dst.s)
			for i := range x {
				check(t, x[i], dst.s[i])
			}
		})
		eachPath(t, func(t *testing.T, k *Kernels) {
			dst := make([]float32, len(sweep))
			a.run(k, dst, sweep)
			var worst float64
			var at float32
			for i, x := range sweep {
				if u := check(t, x, dst[i]); u > worst {
					worst, at = u, x
				}
			}
			t.Logf("%s: at most %.2f ulp, at %v", a.name, worst, at)
		})
	}
}
