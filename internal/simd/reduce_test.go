package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// u is the unit roundoff of float32.
const u = 0x1p-24

// sumBound is the relative error, in Σ|terms|, of a sum of n terms in at least
// four chains that are merged at the end, with one more rounding per term:
// (n/4 + 4 + 3)·u, Higham, Accuracy and Stability, section 4.2.
func sumBound(n int) float64 { return (float64(n)/4 + 7) * u }

func TestReductions(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x := dst.s
		copy(x, randoms(rng, n))
		y, mean := randoms(rng, n), float32(rng.NormFloat64())
		var sum, dot, yy, sumSq, centred, sumAbs, dotAbs float64
		for i, v := range x {
			a, b, c := float64(v), float64(y[i]), float64(v-mean)
			sum += a
			dot += a * b
			sumSq += a * a
			yy += b * b
			centred += c * c
			sumAbs += math.Abs(a)
			dotAbs += math.Abs(a * b)
		}
		for _, c := range []struct {
			name             string
			got, want, bound float64
		}{
			{"Sum", float64(k.Sum(x)), sum, sumBound(n) * sumAbs},
			{"Dot", float64(k.Dot(x, y)), dot, sumBound(n) * dotAbs},
			{"SumSq", float64(k.SumSq(x)), sumSq, sumBound(n) * sumSq},
			{"centredSumSq", float64(k.centredSumSq(x, mean)), centred, sumBound(n) * centred},
		} {
			if !(math.Abs(c.got-c.want) <= c.bound) {
				t.Fatalf("%s of %d elements = %v, want %v ± %.2g", c.name, n, c.got, c.want, c.bound)
			}
		}
		gxy, gxx, gyy := k.MomentsF64(x, y) // bounds are the reference's error and ours
		if b := float64(n) * 0x1p-52; !(math.Abs(gxy-dot) <= b*dotAbs && math.Abs(gxx-sumSq) <= b*sumSq && math.Abs(gyy-yy) <= b*yy) {
			t.Fatalf("MomentsF64 of %d elements = %v, %v, %v, want %v, %v, %v", n, gxy, gxx, gyy, dot, sumSq, yy)
		}
	})
}

// TestExtrema: one element at a time is the extreme one, or NaN.
func TestExtrema(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x := dst.s
		for _, sign := range []float32{1, -1} { // all elements on one side of 0, which masks must not let in
			for i := range x {
				x[i] = sign * (1 + rng.Float32())
			}
			if n == 0 {
				if k.MaxOf(x) != -inf || k.MinOf(x) != inf {
					t.Fatalf("of nothing: %v, %v", k.MaxOf(x), k.MinOf(x))
				}
			}
			for i := range x {
				old := x[i]
				for _, v := range []float32{3, -3, inf, -inf, nan} {
					x[i] = v
					wantMax, wantMin := x[0], x[0]
					for _, w := range x {
						wantMax, wantMin = max(wantMax, w), min(wantMin, w)
					}
					if got := k.MaxOf(x); !same(got, wantMax) {
						t.Fatalf("MaxOf with %v at %d of %d = %v, want %v", v, i, n, got, wantMax)
					}
					if got := k.MinOf(x); !same(got, wantMin) {
						t.Fatalf("MinOf with %v at %d of %d = %v, want %v", v, i, n, got, wantMin)
					}
				}
				x[i] = old
			}
		}
	})
}

// TestReductionsIgnoreAlignment: the same elements give the same bits wherever
// they lie.
func TestReductionsIgnoreAlignment(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, n := range []int{5, 100, 1001} {
			x, y := randoms(rng, n), randoms(rng, n)
			all := func(x, y []float32) [4]float64 {
				xy, xx, _ := k.MomentsF64(x, y)
				return [4]float64{float64(k.Sum(x)), float64(k.Dot(x, y)), xy, xx}
			}
			want := all(x, y)
			for off := range 17 {
				a, b := newGuarded(n, off), newGuarded(n, (off*5)%17)
				copy(a.s, x)
				copy(b.s, y)
				if got := all(a.s, b.s); got != want {
					t.Fatalf("%d elements at offset %d: %v, at 0: %v", n, off, got, want)
				}
			}
		}
	})
}
