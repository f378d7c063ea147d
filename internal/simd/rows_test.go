package simd

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSoftmax(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x, mask := randoms(rng, n), randoms(rng, n)
		for i := range x {
			x[i] *= 10
			if n > 1 && rng.IntN(5) == 0 && i != n/2 {
				x[i] = -inf
			}
			if rng.IntN(3) == 0 && i != n/2 {
				mask[i] = []float32{-math.MaxFloat32, -1e9, -inf}[rng.IntN(3)]
			}
		}
		check := func(mask []float32, scale float32) {
			t.Helper()
			y, top, sum := make([]float64, n), math.Inf(-1), 0.0
			for i, v := range x {
				y[i] = float64(v) * float64(scale)
				if mask != nil {
					y[i] += float64(mask[i])
				}
				top = max(top, y[i])
			}
			// exp makes the rounding of its argument, u·|y − m| at most, a relative
			// error, and those of y = x·scale + mask; e of them meet in the sum,
			// weighted by exp.
			argErr := func(i int) float64 {
				e := (top - y[i]) * u
				if scale != 1 || mask != nil {
					e += u * (math.Abs(y[i]) + math.Abs(top))
				}
				if mask != nil { // the product is rounded too, in portable code
					e += u * (math.Abs(float64(x[i])*float64(scale)) + math.Abs(top) + 2)
				}
				return e
			}
			var sumErr float64
			for i := range y {
				e := math.Exp(y[i] - top)
				sum += e
				if e > 0 {
					sumErr += e * argErr(i)
				}
			}
			for i := range y {
				want := math.Exp(y[i]-top) / sum
				if want == 0 {
					if dst.s[i] != 0 {
						t.Fatalf("a masked element gives %v", dst.s[i])
					}
					continue
				}
				// exp itself 1.1 ulp ≤ 2.2u twice, the sum, the division.
				tol := want * (argErr(i) + sumErr/sum + 2*2.2*u + sumBound(n) + u)
				if !(math.Abs(float64(dst.s[i])-want) <= tol) {
					t.Fatalf("element %d of %d = %v, want %v ± %.2g", i, n, dst.s[i], want, tol)
				}
			}
		}
		k.MaskedSoftmax(dst.s, x, mask, 0.3)
		check(mask, 0.3)
		k.MaskedSoftmax(dst.s, x, nil, 0.3)
		check(nil, 0.3)
		k.Softmax(dst.s, x)
		check(nil, 1)
		masked := append([]float32(nil), x...)
		for range 1 + rng.IntN(100) {
			masked = append(masked, -inf)
		}
		k.Softmax(masked, masked)
		for i, v := range dst.s {
			if math.Float32bits(masked[i]) != math.Float32bits(v) && n > 0 {
				t.Fatalf("with elements masked behind the row, element %d of %d = %v, not %v", i, n, masked[i], v)
			}
		}
		in := append([]float32(nil), x...)
		k.Softmax(in, in)
		for i := range in {
			if in[i] != dst.s[i] {
				t.Fatalf("in place, element %d = %v, not %v", i, in[i], dst.s[i])
			}
		}
		for _, bad := range []float32{nan, inf} {
			if n == 0 {
				break
			}
			copy(in, x)
			in[rng.IntN(n)] = bad
			k.Softmax(in, in)
			for i := range in {
				// exp(x − Inf) is 0, and 0 over a sum of NaN is NaN as well.
				if in[i] == in[i] {
					t.Fatalf("a row with %v gives %v at %d", bad, in[i], i)
				}
			}
		}
		for i := range in {
			in[i] = -inf
		}
		k.Softmax(in, in)
		for i := range in {
			if in[i] == in[i] {
				t.Fatalf("a row of -Inf gives %v at %d", in[i], i)
			}
		}
	})
}

func TestNorms(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x, gamma, beta := randoms(rng, n), randoms(rng, n), randoms(rng, n)
		const eps = 1e-5
		for _, offset := range []float32{0, 100} {
			for i := range x {
				x[i] += offset
			}
			var mean, meanAbs, variance, sq float64
			for _, v := range x {
				mean += float64(v) / float64(n)
				meanAbs += math.Abs(float64(v)) / float64(n)
				sq += float64(v) * float64(v) / float64(n)
			}
			for _, v := range x {
				variance += (float64(v) - mean) * (float64(v) - mean) / float64(n)
			}
			check := func(what string, mean, scale, meanErr, scaleErr float64, beta []float32) {
				t.Helper()
				for i, v := range x {
					z := (float64(v) - mean) * scale
					want := z * float64(gamma[i])
					// The difference, its product with scale and that with gamma round, the
					// mean is off by meanErr and the scale by a relative scaleErr.
					tol := math.Abs(float64(gamma[i])) * (math.Abs(z)*(3*u+scaleErr) + meanErr*scale)
					if beta != nil {
						want += float64(beta[i])
						tol += u * (math.Abs(want) + tol)
					}
					if !(math.Abs(float64(dst.s[i])-want) <= tol*1.001) {
						t.Fatalf("%s of %d elements: element %d = %v, want %v ± %.2g", what, n, i, dst.s[i], want, tol)
					}
				}
			}
			scale := 1 / math.Sqrt(variance+eps)
			// The mean is a float32 of a sum. The squares are of differences that carry its
			// error and one rounding; the scale is rounded once. √ halves relative errors.
			meanErr := sumBound(n)*meanAbs + u*math.Abs(mean)
			varErr := variance*(sumBound(n)+2*u) + meanErr*meanErr + 2*u*meanErr*math.Sqrt(variance)
			scaleErr := varErr*scale*scale/2 + u
			k.LayerNorm(dst.s, x, gamma, beta, eps)
			check("LayerNorm", mean, scale, meanErr, scaleErr, beta)
			k.LayerNorm(dst.s, x, gamma, nil, eps)
			check("LayerNorm without beta", mean, scale, meanErr, scaleErr, nil)
			copy(dst.s, x)
			k.LayerNorm(dst.s, dst.s, gamma, beta, eps)
			check("LayerNorm in place", mean, scale, meanErr, scaleErr, beta)
			k.RMSNorm(dst.s, x, gamma, eps)
			check("RMSNorm", 0, 1/math.Sqrt(sq+eps), 0, sumBound(n)/2+u, nil)
		}
	})
}

func TestRowsAllocateNothing(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		x, y := make([]float32, 100), make([]float32, 100)
		if n := testing.AllocsPerRun(10, func() {
			k.MaskedSoftmax(x, y, y, 2)
			k.LayerNorm(x, y, y, y, 1e-5)
			k.Gelu(x, y)
			k.Add(x, y, y)
			k.MomentsF64(x, y)
		}); n != 0 {
			t.Errorf("%v allocations a run", n)
		}
	})
}

func TestSoftmaxGradient(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		dy, y := randoms(rng, n), randoms(rng, n)
		const scale = 0.35
		s, size := 0.0, 0.0
		for i := range dy {
			s += float64(dy[i]) * float64(y[i])
			size += math.Abs(float64(dy[i]) * float64(y[i]))
		}
		check := func(what string) {
			t.Helper()
			for i := range dy {
				want := scale * float64(y[i]) * (float64(dy[i]) - s)
				// The dot product, and three roundings of what it is taken from; the
				// scale is a float32 too.
				tol := scale * math.Abs(float64(y[i])) * (sumBound(n+1)*size + 5*u*(math.Abs(float64(dy[i]))+math.Abs(s)))
				if !(math.Abs(float64(dst.s[i])-want) <= tol) {
					t.Fatalf("%s: element %d of %d = %v, want %v ± %.2g", what, i, n, dst.s[i], want, tol)
				}
			}
		}
		k.SoftmaxGradient(dst.s, dy, y, scale)
		check("gradient")
		copy(dst.s, dy)
		k.SoftmaxGradient(dst.s, dst.s, y, scale)
		check("in place")
	})
}

// TestNormOfManyRows: rows together have the bits of each by itself.
func TestNormOfManyRows(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, n := range []int{1, 7, 64, 130, 768, 5000} {
			gamma, beta := randoms(rng, n), randoms(rng, n)
			for _, rows := range []int{0, 1, 2, 16, 17, 41} {
				x := randoms(rng, rows*n)
				for what, norm := range map[string]func(dst, x []float32){
					"LayerNorm":              func(dst, x []float32) { k.LayerNorm(dst, x, gamma, beta, 1e-5) },
					"LayerNorm without beta": func(dst, x []float32) { k.LayerNorm(dst, x, gamma, nil, 1e-5) },
					"RMSNorm":                func(dst, x []float32) { k.RMSNorm(dst, x, gamma, 1e-5) },
				} {
					want, got := make([]float32, len(x)), slices.Clone(x)
					for i := range rows {
						norm(want[i*n:(i+1)*n], x[i*n:(i+1)*n])
					}
					norm(got, got)
					for i := range want {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
							t.Fatalf("%s, %d rows of %d: element %d is %v, its row by itself gives %v", what, rows, n, i, got[i], want[i])
						}
					}
				}
			}
		}
	})
}
