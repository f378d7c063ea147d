package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// lengths are those that the row kernels are tested with: empty, less than a
// vector, whole vectors and turns of the loops of any path, and one off them.
var lengths = []int{0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 48, 63, 64, 65, 100, 127, 128, 129, 191, 257}

var (
	nan      = float32(math.NaN())
	inf      = float32(math.Inf(1))
	negZero  = float32(math.Copysign(0, -1))
	specials = []float32{0, negZero, 1, -1, nan, inf, -inf, math.SmallestNonzeroFloat32, -math.MaxFloat32, math.MaxFloat32, 1e-30}
)

// sample returns n elements: normal ones, and some special.
func sample(rng *rand.Rand, n int) []float32 {
	x := randoms(rng, n)
	for i := range x {
		if rng.IntN(4) == 0 {
			x[i] = specials[rng.IntN(len(specials))]
		}
	}
	return x
}

// same reports whether a and b are the same value, with all NaN alike and zeros
// told apart.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// TestElementwise: results are those of Go's own operators, bit by bit.
func TestElementwise(t *testing.T) {
	type binary = func(k *Kernels, dst, x, y []float32)
	type scalar = func(k *Kernels, dst, x []float32, a float32)
	for _, op := range []struct {
		name   string
		ref    func(x, y float32) float32
		vector binary
		right  scalar // y is a scalar
		left   scalar // x is a scalar
	}{
		{"add", func(x, y float32) float32 { return x + y }, (*Kernels).Add, (*Kernels).AddScalar, nil},
		{"sub", func(x, y float32) float32 { return x - y }, (*Kernels).Sub, nil,
			func(k *Kernels, dst, x []float32, a float32) { k.ScalarSub(dst, a, x) }},
		{"mul", func(x, y float32) float32 { return x * y }, (*Kernels).Mul, (*Kernels).MulScalar, nil},
		{"div", func(x, y float32) float32 { return x / y }, (*Kernels).Div, (*Kernels).DivScalar,
			func(k *Kernels, dst, x []float32, a float32) { k.ScalarDiv(dst, a, x) }},
		{"max", func(x, y float32) float32 { return max(x, y) }, (*Kernels).Max, (*Kernels).MaxScalar, nil},
		{"min", func(x, y float32) float32 { return min(x, y) }, (*Kernels).Min, (*Kernels).MinScalar, nil},
	} {
		check := func(t *testing.T, what string, in [2]float32, got float32) {
			t.Helper()
			if want := op.ref(in[0], in[1]); !same(got, want) {
				t.Fatalf("%s(%v, %v) = %v, want %v", what, in[0], in[1], got, want)
			}
		}
		eachLength(t, op.name, func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
			x, y := guardedSample(rng, n), guardedSample(rng, n)
			op.vector(k, dst.s, x, y)
			for i := range dst.s {
				check(t, op.name, [2]float32{x[i], y[i]}, dst.s[i])
			}
			for _, a := range append([]float32{2.5}, specials...) {
				if op.right != nil {
					op.right(k, dst.s, x, a)
					for i := range dst.s {
						check(t, op.name, [2]float32{x[i], a}, dst.s[i])
					}
				}
				if op.left != nil {
					op.left(k, dst.s, x, a)
					for i := range dst.s {
						check(t, op.name, [2]float32{a, x[i]}, dst.s[i])
					}
				}
			}
			copy(dst.s, x)
			op.vector(k, dst.s, dst.s, y)
			for i := range dst.s {
				check(t, op.name+" in place", [2]float32{x[i], y[i]}, dst.s[i])
			}
		})
	}
}

func TestRelu(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x := guardedSample(rng, n)
		k.Relu(dst.s, x)
		for i, v := range x {
			want := v
			if v < 0 {
				want = 0
			}
			if !same(dst.s[i], want) {
				t.Fatalf("relu(%v) = %v", v, dst.s[i])
			}
		}
	})
}

func TestReluGradient(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x, y := guardedSample(rng, n), guardedSample(rng, n)
		want := make([]float32, n)
		for i, v := range y {
			if !(v <= 0) {
				want[i] = x[i]
			}
		}
		k.ReluGradient(dst.s, x, y)
		for i, v := range dst.s {
			if !same(v, want[i]) {
				t.Fatalf("%v with y = %v gives %v", x[i], y[i], v)
			}
		}
		copy(dst.s, x)
		k.ReluGradient(dst.s, dst.s, y)
		for i, v := range dst.s {
			if !same(v, want[i]) {
				t.Fatalf("in place: %v with y = %v gives %v", x[i], y[i], v)
			}
		}
	})
}

func TestAxpy(t *testing.T) {
	eachLength(t, "", func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded) {
		x, y, a := randoms(rng, n), randoms(rng, n), float32(rng.NormFloat64())
		copy(dst.s, y)
		k.Axpy(dst.s, a, x)
		for i := range dst.s {
			p := float64(a) * float64(x[i])
			// One rounding of the sum and, in portable code, one of the product.
			tol := 0x1p-24 * (math.Abs(p) + math.Abs(p+float64(y[i])) + 0x1p-24*math.Abs(p))
			if err := math.Abs(float64(dst.s[i]) - (float64(y[i]) + p)); err > tol {
				t.Fatalf("%v + %v·%v = %v", y[i], a, x[i], dst.s[i])
			}
		}
	})
}

// eachLength runs f for every path, for all lengths at several alignments, and
// fails when it writes around dst.
func eachLength(t *testing.T, name string, f func(t *testing.T, k *Kernels, rng *rand.Rand, n int, dst guarded)) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for _, n := range lengths {
			t.Run(fmt.Sprintf("%s%d", name, n), func(t *testing.T) {
				for misalign := range 3 {
					dst := newGuarded(n, misalign)
					f(t, k, rand.New(rand.NewPCG(uint64(n), uint64(misalign))), n, dst)
					dst.check(t)
				}
			})
		}
	})
}

// guardedSample returns sample(rng, n) between NaNs, at a random alignment.
func guardedSample(rng *rand.Rand, n int) []float32 {
	g := newGuarded(n, rng.IntN(16))
	copy(g.s, sample(rng, n))
	return g.s
}
