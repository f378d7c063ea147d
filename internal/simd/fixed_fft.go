package simd

import (
	"fmt"
	"math"
	"math/bits"
)

// FixedFFT has the integer Fourier transforms of one block size, as package
// fixed specifies them: F, with one rounding of its results to int16, and G,
// the same to int16 from int32. All paths give the same bits.
//
// A spectrum lies in planes of capacity elements, a multiple of 16 that is at
// least the number of blocks: bin 0 is plane 0, bin b/2 plane 1, and bin f takes
// planes 2f and 2f+1, in which real and imaginary parts alternate. So the blocks
// of a bin are contiguous, as pairs where they are complex.
type FixedFFT struct {
	b   int
	cos []int32 // in units of 2⁻¹⁵, by [N/4 + f], N = 8 … b
	sin []int32
}

// fixedLanes is how many blocks the vector kernels transform together.
const fixedLanes = 16

// FixedFFT returns the transforms of b numbers, b a power of two from 2 to 256.
func (kn *Kernels) FixedFFT(b int) *FixedFFT {
	if b < 2 || b > 256 || b&(b-1) != 0 {
		panic(fmt.Sprintf("simd: FixedFFT: block size is %d, want a power of two from 2 to 256", b))
	}
	f := &FixedFFT{b: b, cos: make([]int32, max(b/2, 1)), sin: make([]int32, max(b/2, 1))}
	for n := 8; n <= b; n *= 2 {
		for i := 1; i < n/4; i++ {
			s, c := math.Sincos(2 * math.Pi * float64(i) / float64(n))
			f.cos[n/4+i], f.sin[n/4+i] = int32(math.Round(c*(1<<15))), int32(math.Round(s*(1<<15)))
		}
	}
	return f
}

// Len is the number of elements of a block.
func (f *FixedFFT) Len() int { return f.b }

// Twiddle is the cosine and the sine of 2πf/n, times 2¹⁵, for 0 < f < n/4 and
// n a power of two up to the size of a block.
func (f *FixedFFT) Twiddle(i, n int) (c, s int32) { return f.cos[n/4+i], f.sin[n/4+i] }

// Capacity is the capacity of planes for that many blocks.
func (f *FixedFFT) Capacity(blocks int) int { return roundUp(blocks, fixedLanes) }

// Guard is how many bits behind the point F computes with, 8 − log₂ b.
func (f *FixedFFT) Guard() int { return 8 - bits.TrailingZeros(uint(f.b)) }

// Limit is the magnitude that G takes, 2^K.
func (f *FixedFFT) Limit() int32 { return 1 << 23 / int32(f.b) }

// Scratch is the number of elements of the scratch memory that transforms want.
func (f *FixedFFT) Scratch() int { return 3*fixedLanes*f.b + fixedLanes }

// Forward transforms blocks of b elements of x, one after the other: every
// number v of the spectra of 2ᵍ·x, g = Guard, becomes sat(round(v, g + shift)) in
// dst, of b·capacity elements. Elements of planes beyond the blocks are left undefined.
func (f *FixedFFT) Forward(dst []int16, capacity int, x []int16, blocks, shift int, scratch []float32) {
	f.fits(len(dst), capacity, len(x), blocks, shift, len(scratch))
	var v, t [256]int32
	g := f.Guard()
	shift += g
	for u := range blocks {
		for i, a := range x[u*f.b : (u+1)*f.b] {
			v[i] = int32(a) << g
		}
		f.fwd(v[:f.b], t[:f.b])
		for k, a := range v[:f.b] {
			dst[f.Place(k, u, capacity)] = int16(min(max(roundShift(a, shift), -1<<15), 1<<15-1))
		}
	}
}

// Inverse undoes Forward without the factor 1/b: from spectra in src, laid out
// as those, of magnitude up to Limit, it gives blocks of b elements sat(round(v,
// shift)) one after the other. It may overwrite src.
func (f *FixedFFT) Inverse(y []int16, src []int32, capacity, blocks, shift int, scratch []float32) {
	f.fits(len(src), capacity, len(y), blocks, shift, len(scratch))
	var v, t [256]int32
	for u := range blocks {
		for k := range f.b {
			v[k] = src[f.Place(k, u, capacity)]
		}
		f.inv(v[:f.b], t[:f.b])
		for i, a := range v[:f.b] {
			y[u*f.b+i] = int16(min(max(roundShift(a, shift), -1<<15), 1<<15-1))
		}
	}
}

func (f *FixedFFT) fits(spectra, capacity, values, blocks, shift, scratch int) {
	if capacity < blocks || capacity%fixedLanes != 0 || spectra < capacity*f.b || values < blocks*f.b || shift < 0 || shift > 40 || scratch < f.Scratch() {
		panic(fmt.Sprintf("simd: FixedFFT of %d: %d blocks with planes of %d in %d elements, %d values, shift %d, scratch of %d",
			f.b, blocks, capacity, spectra, values, shift, scratch))
	}
}

// Place is where number k of the spectrum of block u lies.
func (f *FixedFFT) Place(k, u, capacity int) int {
	if k < 2 {
		return k*capacity + u
	}
	return k/2*2*capacity + 2*u + k%2
}

// roundShift is ⌊v/2ˢ + ½⌋.
func roundShift(v int32, s int) int32 {
	if s == 0 {
		return v
	}
	return int32((int64(v) + 1<<(s-1)) >> s)
}

// mac is a + x·w/2¹⁵, rounded to the nearest integer, ties to even.
func mac(a, x, w int32) int32 {
	v := int64(a)<<15 + int64(x)*int64(w)
	return int32((v + 1<<14 - 1 + v>>15&1) >> 15)
}

// fwd transforms v in place, with as much scratch.
func (f *FixedFFT) fwd(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = v[0]+v[1], v[0]-v[1]
		return
	}
	h := n / 2
	for i := range h {
		t[i], t[h+i] = v[2*i], v[2*i+1]
	}
	f.fwd(t[:h], v[:h])
	f.fwd(t[h:], v[:h])
	e, o := t[:h], t[h:n]
	v[0], v[1] = e[0]+o[0], e[0]-o[0]
	v[h], v[h+1] = e[1], -o[1] // bin h/2
	for i := 1; i < h/2; i++ {
		c, s := f.cos[n/4+i], f.sin[n/4+i]
		er, ei, or, oi := e[2*i], e[2*i+1], o[2*i], o[2*i+1]
		pr := mac(mac(0, oi, s), or, c)
		pi := mac(mac(0, or, -s), oi, c)
		v[2*i], v[2*i+1] = er+pr, ei+pi
		v[n-2*i], v[n-2*i+1] = er-pr, pi-ei
	}
}

// inv is the inverse of fwd, without the factor 1/n.
func (f *FixedFFT) inv(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = v[0]+v[1], v[0]-v[1]
		return
	}
	h := n / 2
	e, o := t[:h], t[h:n]
	e[0], o[0] = v[0]+v[1], v[0]-v[1]
	e[1], o[1] = 2*v[h], -2*v[h+1]
	for i := 1; i < h/2; i++ {
		c, s := f.cos[n/4+i], f.sin[n/4+i]
		ar, ai, br, bi := v[2*i], v[2*i+1], v[n-2*i], v[n-2*i+1]
		e[2*i], e[2*i+1] = ar+br, ai-bi
		dr, di := ar-br, ai+bi
		o[2*i] = mac(mac(0, di, -s), dr, c)
		o[2*i+1] = mac(mac(0, dr, s), di, c)
	}
	f.inv(e, v[:h])
	f.inv(o, v[:h])
	for i := range h {
		v[2*i], v[2*i+1] = t[i], t[h+i]
	}
}
