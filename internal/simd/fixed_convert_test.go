package simd

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The references of this file compute with float64, which holds every number
// here exactly: products of a float32 or int16 with a power of two, sums of 33
// bits shifted by 40.

// nearest16 is ⌊v + ½⌋ of an exact v, clamped.
func nearest16(v float64) int16 {
	return int16(min(max(math.Floor(v+0.5), math.MinInt16), math.MaxInt16))
}

// TestQuantize16 has numbers around every limit and tie, all sorts of bits, and
// what no number is.
func TestQuantize16(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	x := []float32{nan, -nan, inf, -inf, 0, negZero, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-127,
		0.49999997, -0.49999997, 1 << 31, -1 << 31, 1<<31 + 256, -1<<31 - 256, 1 << 32}
	for _, q := range []float32{-32769, -32768, -32767, -2, -1, 0, 1, 2, 32766, 32767, 32768, 8388607} {
		for _, off := range []float32{-0.5, 0, 0.5} {
			x = append(x, q+off, math.Nextafter32(q+off, inf), math.Nextafter32(q+off, -inf))
		}
	}
	for range 2000 {
		x = append(x, math.Float32frombits(r.Uint32()), float32(r.NormFloat64()*1e4))
	}
	for _, e := range []int{-126, -127 + 24, -8, -1, 0, 1, 15, 100, 126} {
		scale, want := float32(math.Ldexp(1, -e)), make([]int16, len(x))
		for i, v := range x {
			if v == v {
				want[i] = int16(min(max(math.Floor(float64(float32(float64(float32(math.Ldexp(float64(v), -e)))+0.5))), math.MinInt16), math.MaxInt16))
			}
		}
		runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
			got := between16(hi - lo)
			k.Quantize16(got[1:hi-lo+1], x[lo:hi], scale)
			for i := lo; i < hi; i++ {
				if got[1+i-lo] != want[i] {
					t.Fatalf("%v at exponent %d is %d, want %d", x[i], e, got[1+i-lo], want[i])
				}
			}
			guards16(t, got)
		})
	}
}

// TestDequantize16 has all numbers.
func TestDequantize16(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	x := all16()
	scales, want := make([]float32, len(x)), make([]float32, len(x))
	for _, e := range []int{-126, -120, -20, 0, 20, 111, 126} {
		for i, v := range x {
			want[i] = float32(math.Ldexp(float64(v), e))
		}
		runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
			got := newGuarded(hi-lo, lo%7)
			k.Dequantize16(got.s, x[lo:hi], float32(math.Ldexp(1, e)))
			if !slices.EqualFunc(got.s, want[lo:hi], same) {
				t.Fatalf("exponent %d, elements %d to %d: wrong", e, lo, hi)
			}
			got.check(t)
		})
	}
	for i, v := range x {
		e := r.IntN(253) - 126
		scales[i], want[i] = float32(math.Ldexp(1, e)), float32(math.Ldexp(float64(v), e))
	}
	runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
		got := newGuarded(hi-lo, lo%7)
		k.DequantizeEach16(got.s, x[lo:hi], scales[lo:hi])
		if !slices.EqualFunc(got.s, want[lo:hi], same) {
			t.Fatalf("an exponent each, elements %d to %d: wrong", lo, hi)
		}
		got.check(t)
	})
}

// TestRequantize16 has all numbers with all shifts, TestAdd16 shifts that
// kernels have and have not room for, TestClip16 bounds in either order.
func TestRequantize16(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	x, want := all16(), make([]int16, 1<<16)
	for shift := -16; shift <= 31; shift++ {
		for i, v := range x {
			want[i] = nearest16(math.Ldexp(float64(v), -shift))
		}
		runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
			check16(t, "requantize", x[lo:hi], want[lo:hi], func(dst, x []int16) { k.Requantize16(dst, x, shift) })
		})
	}
}

func TestAdd16(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	x, y, want := all16(), all16(), make([]int16, 1<<16)
	r.Shuffle(len(y), func(i, j int) { y[i], y[j] = y[j], y[i] })
	for _, v := range []int16{math.MinInt16, math.MaxInt16} { // both operands at the extremes
		x, y, want = append(x, v, v), append(y, math.MinInt16, math.MaxInt16), append(want, 0, 0)
	}
	for _, s := range [][3]uint64{{0, 0, 0}, {0, 0, 1}, {3, 0, 4}, {0, 14, 13}, {15, 0, 15}, {0, 15, 31}, {14, 14, 30}, {15, 14, 30}, {15, 15, 16}, {16, 0, 1}, {16, 16, 17}, {16, 16, 40}, {2, 5, 40}, {0, 0, 32}} {
		for i := range x {
			want[i] = nearest16(math.Ldexp(math.Ldexp(float64(x[i]), int(s[0]))+math.Ldexp(float64(y[i]), int(s[1])), -int(s[2])))
		}
		runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
			check16(t, "add", x[lo:hi], want[lo:hi], func(dst, x []int16) { k.Add16(dst, x, y[lo:hi], s[0], s[1], s[2]) })
		})
	}
}

func TestClip16(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	x, want := all16(), make([]int16, 1<<16)
	for _, b := range [][2]int16{{0, math.MaxInt16}, {math.MinInt16, math.MaxInt16}, {-7, 6000}, {5, -5}} {
		for i, v := range x {
			want[i] = min(max(v, b[0]), b[1])
		}
		runs16(t, r, len(x), func(t *testing.T, k *Kernels, lo, hi int) {
			check16(t, "clip", x[lo:hi], want[lo:hi], func(dst, x []int16) { k.Clip16(dst, x, b[0], b[1]) })
		})
	}
}

// all16 lists the numbers of 16 bits.
func all16() []int16 {
	x := make([]int16, 1<<16)
	for i := range x {
		x[i] = int16(i)
	}
	return x
}

// runs16 runs f on every path for all n elements and for short runs of them, at
// all remainders by 16.
func runs16(t *testing.T, r *rand.Rand, n int, f func(t *testing.T, k *Kernels, lo, hi int)) {
	t.Helper()
	for _, p := range Supported() {
		k, err := For(p)
		if err != nil {
			t.Fatal(err)
		}
		f(t, k, 0, n)
		for size := range 50 {
			lo := r.IntN(n - size + 1)
			f(t, k, lo, lo+size)
		}
	}
}

const guard16 = 0x5ead

// between16 is n elements between guards, full of them.
func between16(n int) []int16 {
	x := make([]int16, n+2)
	for i := range x {
		x[i] = guard16
	}
	return x
}

func guards16(t *testing.T, x []int16) {
	t.Helper()
	if x[0] != guard16 || x[len(x)-1] != guard16 {
		t.Fatal("wrote outside of the slice")
	}
}

// check16 runs f between guards, and in place.
func check16(t *testing.T, what string, x, want []int16, f func(dst, x []int16)) {
	t.Helper()
	got := between16(len(x))
	f(got[1:len(x)+1], x)
	guards16(t, got)
	inPlace := slices.Clone(x)
	f(inPlace, inPlace)
	for i, w := range want {
		if g := got[i+1]; g != w || inPlace[i] != w {
			t.Fatalf("%s: %d gives %d, %d in place, want %d", what, x[i], g, inPlace[i], w)
		}
	}
}
