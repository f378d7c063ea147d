package simd

import "math"

// Sum returns Σ x[i], 0 for no elements. The order of the additions is fixed
// for a length and a path: several interleaved partial sums on the assembly
// paths.
func (k *Kernels) Sum(x []float32) float32 { return k.sum(x) }

// Dot returns Σ x[i]·y[i] of two slices of one length, in a fixed order as
// [Kernels.Sum].
func (k *Kernels) Dot(x, y []float32) float32 {
	sameLen("Dot", x, y)
	return k.dot(x, y)
}

// SumSq returns Σ x[i]².
func (k *Kernels) SumSq(x []float32) float32 { return k.dot(x, x) }

// MaxOf returns the largest element of x, NaN when x has one, −Inf for no
// elements.
func (k *Kernels) MaxOf(x []float32) float32 { return k.maxOf(x) }

// MinOf returns the smallest element of x, NaN when x has one, +Inf for no
// elements.
func (k *Kernels) MinOf(x []float32) float32 { return k.minOf(x) }

// MomentsF64 returns Σ x[i]·y[i], Σ x[i]² and Σ y[i]² in one pass, with products and
// sums in float64: every product is exact, and n elements of bounded size lose at most
// n·2⁻⁵³ of the sum of magnitudes. They are what a cosine takes.
func (k *Kernels) MomentsF64(x, y []float32) (xy, xx, yy float64) {
	sameLen("MomentsF64", x, y)
	return k.momentsF64(x, y)
}

func sum(x []float32) float32 {
	// Four chains: the additions of one wait for each other.
	var s [4]float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s[0] += x[i]
		s[1] += x[i+1]
		s[2] += x[i+2]
		s[3] += x[i+3]
	}
	for ; i < len(x); i++ {
		s[i%4] += x[i]
	}
	return (s[0] + s[2]) + (s[1] + s[3])
}

func dot(x, y []float32) float32 {
	y = y[:len(x)]
	var s [4]float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s[0] += float32(x[i] * y[i])
		s[1] += float32(x[i+1] * y[i+1])
		s[2] += float32(x[i+2] * y[i+2])
		s[3] += float32(x[i+3] * y[i+3])
	}
	for ; i < len(x); i++ {
		s[i%4] += float32(x[i] * y[i])
	}
	return (s[0] + s[2]) + (s[1] + s[3])
}

func maxOf(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

func minOf(x []float32) float32 {
	m := float32(math.Inf(1))
	for _, v := range x {
		m = min(m, v)
	}
	return m
}

func momentsF64(x, y []float32) (xy, xx, yy float64) {
	y = y[:len(x)]
	for i := range x {
		u, v := float64(x[i]), float64(y[i])
		xy += float64(u * v)
		xx += float64(u * u)
		yy += float64(v * v)
	}
	return xy, xx, yy
}
