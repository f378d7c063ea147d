package simd

import (
	"fmt"
	"math"
)

// Conversions between float32 and 16-bit fixed point, and arithmetic on single
// numbers of it. All slices of a call have one length; dst may be an operand of
// its type, and other overlaps are not allowed. Results are the same bits on
// every path. Kernels take a multiple of turn16 elements; the few behind are left
// to the portable functions.

const turn16 = 16

// whole16 is how many of n elements kernels take. It panics where a slice has
// another length.
func whole16(op string, n int, lengths ...int) int {
	for _, l := range lengths {
		if l != n {
			panic(fmt.Sprintf("simd: %s: slices of %d and %d elements, want equal lengths", op, n, l))
		}
	}
	return n &^ (turn16 - 1)
}

// Quantize16 sets dst[i] = ⌊x[i]·scale + ½⌋, product and sum rounded to float32,
// clamped to an int16; NaN gives 0.
func (k *Kernels) Quantize16(dst []int16, x []float32, scale float32) {
	n := whole16("Quantize16", len(dst), len(x))
	k.quantize16(dst[:n], x[:n], scale)
	quantize16(dst[n:], x[n:], scale)
}

// Dequantize16 sets dst[i] = x[i]·scale.
func (k *Kernels) Dequantize16(dst []float32, x []int16, scale float32) {
	n := whole16("Dequantize16", len(dst), len(x))
	k.dequantize16(dst[:n], x[:n], scale)
	dequantize16(dst[n:], x[n:], scale)
}

// DequantizeEach16 sets dst[i] = x[i]·scales[i].
func (k *Kernels) DequantizeEach16(dst []float32, x []int16, scales []float32) {
	n := whole16("DequantizeEach16", len(dst), len(x), len(scales))
	k.dequantizeEach16(dst[:n], x[:n], scales[:n])
	dequantizeEach16(dst[n:], x[n:], scales[n:])
}

// Requantize16 sets dst[i] = ⌊x[i]/2^shift + ½⌋, clamped to an int16, for shift
// from −16 to 31.
func (k *Kernels) Requantize16(dst, x []int16, shift int) {
	if shift < -16 || shift > 31 {
		panic(fmt.Sprintf("simd: Requantize16: shift by %d", shift))
	}
	// |x|·2¹⁶ and |x| + 2³⁰ are numbers of 32 bits.
	n := whole16("Requantize16", len(dst), len(x))
	left, right := uint64(max(-shift, 0)), uint64(max(shift, 0))
	half := int32(halfOf(right))
	k.requantize16(dst[:n], x[:n], left, right, half)
	requantize16(dst[n:], x[n:], left, right, half)
}

// Add16 sets dst[i] = ⌊(x[i]·2^leftX + y[i]·2^leftY)/2^right + ½⌋, clamped to an
// int16, for left shifts of at most 16 and right ones of at most 40.
func (k *Kernels) Add16(dst, x, y []int16, leftX, leftY, right uint64) {
	if leftX > 16 || leftY > 16 || right > 40 {
		panic(fmt.Sprintf("simd: Add16: shifts by %d, %d and %d", leftX, leftY, right))
	}
	n := whole16("Add16", len(dst), len(x), len(y))
	half := halfOf(right)
	if 1<<15*(1<<leftX+1<<leftY)+half > math.MaxInt32 { // a sum could need more than the 32 bits that kernels have
		n = 0
	}
	if n > 0 {
		k.add16(dst[:n], x[:n], y[:n], leftX, leftY, right, int32(half))
	}
	for i, v := range x[n:] {
		dst[n+i] = saturate16((int64(v)<<leftX + int64(y[n+i])<<leftY + half) >> right)
	}
}

// Clip16 sets dst[i] = min(max(x[i], low), high).
func (k *Kernels) Clip16(dst, x []int16, low, high int16) {
	n := whole16("Clip16", len(dst), len(x))
	k.clip16(dst[:n], x[:n], low, high)
	clip16(dst[n:], x[n:], low, high)
}

// halfOf is half of 2^shift, 0 where there is nothing to round.
func halfOf(shift uint64) int64 { return int64(1) << shift >> 1 }

func saturate16(v int64) int16 { return int16(min(max(v, math.MinInt16), math.MaxInt16)) }

func quantize16(dst []int16, x []float32, scale float32) {
	for i, v := range x {
		t := float32(v*scale) + 0.5
		switch {
		case t != t:
			dst[i] = 0
		case t >= math.MaxInt16:
			dst[i] = math.MaxInt16
		case t <= math.MinInt16:
			dst[i] = math.MinInt16
		default:
			w := int32(t) // towards 0
			if float32(w) > t {
				w--
			}
			dst[i] = int16(w)
		}
	}
}

func dequantize16(dst []float32, x []int16, scale float32) {
	for i, v := range x {
		dst[i] = float32(v) * scale
	}
}

func dequantizeEach16(dst []float32, x []int16, scales []float32) {
	for i, v := range x {
		dst[i] = float32(v) * scales[i]
	}
}

func requantize16(dst, x []int16, left, right uint64, half int32) {
	for i, v := range x {
		dst[i] = saturate16(int64((int32(v)<<left + half) >> right))
	}
}

func add16(dst, x, y []int16, leftX, leftY, right uint64, half int32) {
	for i, v := range x {
		dst[i] = saturate16(int64((int32(v)<<leftX + int32(y[i])<<leftY + half) >> right))
	}
}

func clip16(dst, x []int16, low, high int16) {
	for i, v := range x {
		dst[i] = min(max(v, low), high)
	}
}
