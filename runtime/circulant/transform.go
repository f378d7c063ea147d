package circulant

import (
	"math"
	"math/bits"
)

// A spectrum of b real numbers has ⌊b/2⌋+1 bins. Bin 0, and bin b/2 of an even
// b, are real; the others are complex. The product of two complex bins is taken
// with three multiplications,
//
//	k₁ = wr·(xr + xi),  k₂ = (wi − wr)·xr,  k₃ = (wr + wi)·xi,
//	re = k₁ − k₃,       im = k₁ + k₂,
//
// and since the combination is linear it can wait until the sums over the input
// blocks are taken. So everything between the transforms is a real matrix
// product, one for every plane: a real bin is one plane, a complex bin three.
// Planes are in the order bin 0, bin b/2 (of an even b), then the triples of
// bins 1, 2, …

// planes is the number of planes of block size b.
func planes(b int) int { return realBins(b) + 3*complexBins(b) }

// realBins is the number of real bins of block size b.
func realBins(b int) int { return 2 - b%2 }

// complexBins is the number of complex bins of block size b.
func complexBins(b int) int { return (b - 1) / 2 }

// dft is the real discrete Fourier transform of length b over vectors of lanes:
// element c of lane t is at x[c·lanes + t]. It is immutable. Powers of two take
// the fast transform, other lengths the sum as it is written.
type dft struct {
	b        int
	cos, sin []float32 // cos and sin of 2π·k/b, k = 0 … b−1
}

func newDFT(b int) *dft {
	d := &dft{b: b, cos: make([]float32, b), sin: make([]float32, b)}
	for k := range b {
		s, c := sincosTurn(k, b)
		d.cos[k], d.sin[k] = float32(c), float32(s)
	}
	return d
}

// sincosTurn returns sin and cos of 2π·k/b, 0 ≤ k < b, exact at the quarters.
func sincosTurn(k, b int) (sin, cos float64) {
	switch {
	case 4*k == 0:
		return 0, 1
	case 4*k == b:
		return 1, 0
	case 4*k == 2*b:
		return 0, -1
	case 4*k == 3*b:
		return -1, 0
	}
	return math.Sincos(2 * math.Pi * float64(k) / float64(b))
}

// fast reports whether the length is a power of two.
func (d *dft) fast() bool { return d.b&(d.b-1) == 0 }

// forward computes the planes of the transform of x [b, lanes] into dst
// [planes, lanes]:
//
//	X(f) = Σ_c x[c]·exp(−2πi·f·c/b),  planes Re+Im, Re, Im of complex bins.
//
// It destroys x.
func (d *dft) forward(dst, x []float32, lanes int) {
	if d.fast() {
		d.forwardFast(dst, x, lanes)
		return
	}
	row := func(k int) []float32 { return x[k*lanes : (k+1)*lanes] }
	out := func(k int) []float32 { return dst[k*lanes : (k+1)*lanes] }
	copy(out(0), row(0))
	for c := 1; c < d.b; c++ {
		axpy(out(0), row(c), 1)
	}
	if d.b%2 == 0 {
		copy(out(1), row(0))
		for c := 1; c < d.b; c++ {
			axpy(out(1), row(c), float32(1-2*(c%2)))
		}
	}
	for f := 1; f <= complexBins(d.b); f++ {
		k := realBins(d.b) + 3*(f-1)
		sum, re, im := out(k), out(k+1), out(k+2)
		copy(re, row(0))
		clear(im)
		for c := 1; c < d.b; c++ {
			axpy(re, row(c), d.cos[f*c%d.b])
			axpy(im, row(c), -d.sin[f*c%d.b])
		}
		for t := range sum {
			sum[t] = re[t] + im[t]
		}
	}
}

// inverse combines the planes k [planes, lanes] of a product and computes
//
//	x[c] = Σ_f Y(f)·exp(2πi·f·c/b), all b bins, without the factor 1/b,
//
// into x [b, lanes]. It destroys k.
func (d *dft) inverse(x, k []float32, lanes int) {
	in := func(i int) []float32 { return k[i*lanes : (i+1)*lanes] }
	for i := realBins(d.b); i < planes(d.b); i += 3 {
		k1, k2, k3 := in(i), in(i+1), in(i+2)
		for t := range k1 {
			re, im := k1[t]-k3[t], k1[t]+k2[t]
			k2[t], k3[t] = re, im
		}
	}
	if d.fast() {
		d.inverseFast(x, k, lanes)
		return
	}
	for c := range d.b {
		out := x[c*lanes : (c+1)*lanes]
		copy(out, in(0))
		if d.b%2 == 0 {
			axpy(out, in(1), float32(1-2*(c%2)))
		}
		for f := 1; f <= complexBins(d.b); f++ {
			i := realBins(d.b) + 3*(f-1)
			axpy(out, in(i+1), 2*d.cos[f*c%d.b])
			axpy(out, in(i+2), -2*d.sin[f*c%d.b])
		}
	}
}

// forwardFast is forward for a power of two: the even and odd elements are the
// real and imaginary parts of a complex sequence of half the length, whose
// transform Z gives, with Z*(f) = conj(Z(b/2 − f)),
//
//	2·X(f) = Z(f) + Z*(f) − i·exp(−2πi·f/b)·(Z(f) − Z*(f)).
func (d *dft) forwardFast(dst, z []float32, lanes int) {
	h := d.b / 2
	d.complexFast(z, lanes, -1)
	re := func(f int) []float32 { return z[2*f*lanes : (2*f+1)*lanes] }
	im := func(f int) []float32 { return z[(2*f+1)*lanes : (2*f+2)*lanes] }
	out := func(k int) []float32 { return dst[k*lanes : (k+1)*lanes] }
	dc, ny, r0, i0 := out(0), out(1), re(0), im(0)
	for t := range dc {
		dc[t], ny[t] = r0[t]+i0[t], r0[t]-i0[t]
	}
	for f := 1; f < h; f++ {
		c, s := d.cos[f]/2, d.sin[f]/2
		sum, xr, xi := out(3*f-1), out(3*f), out(3*f+1)
		ar, ai, br, bi := re(f), im(f), re(h-f), im(h-f)
		for t := range sum {
			er, ei := (ar[t]+br[t])/2, (ai[t]-bi[t])/2
			or, oi := ai[t]+bi[t], br[t]-ar[t] // −i·(Z − Z*)
			xr[t] = er + float32(c*or) + float32(s*oi)
			xi[t] = ei + float32(c*oi) - float32(s*or)
			sum[t] = xr[t] + xi[t]
		}
	}
}

// inverseFast undoes forwardFast (up to the factor b): with Y*(f) =
// conj(Y(b/2 − f)), Z(f) = Y(f) + Y*(f) + i·exp(2πi·f/b)·(Y(f) − Y*(f)).
func (d *dft) inverseFast(z, k []float32, lanes int) {
	h := d.b / 2
	out := func(i int) []float32 { return z[i*lanes : (i+1)*lanes] }
	in := func(i int) []float32 { return k[i*lanes : (i+1)*lanes] }
	zr, zi, dc, ny := out(0), out(1), in(0), in(1)
	for t := range zr {
		zr[t], zi[t] = dc[t]+ny[t], dc[t]-ny[t]
	}
	for f := 1; f < h; f++ {
		c, s := d.cos[f], d.sin[f]
		zr, zi := out(2*f), out(2*f+1)
		ar, ai, br, bi := in(3*f), in(3*f+1), in(3*(h-f)), in(3*(h-f)+1)
		for t := range zr {
			er, ei := ar[t]+br[t], ai[t]-bi[t]
			or, oi := -(ai[t] + bi[t]), ar[t]-br[t] // i·(Y − Y*)
			zr[t] = er + float32(c*or) - float32(s*oi)
			zi[t] = ei + float32(c*oi) + float32(s*or)
		}
	}
	d.complexFast(z, lanes, 1)
}

// complexFast is the complex transform of length b/2 in place, with the sign in
// the exponent, by decimation in time (radix 2).
func (d *dft) complexFast(z []float32, lanes int, sign float32) {
	h := d.b / 2
	shift := bits.LeadingZeros32(uint32(h)) + 1
	at := func(k int) []float32 { return z[2*k*lanes : 2*(k+1)*lanes] }
	for k := range h {
		if r := int(bits.Reverse32(uint32(k)) >> shift); h > 1 && r > k {
			x, y := at(k), at(r)
			for t := range x {
				x[t], y[t] = y[t], x[t]
			}
		}
	}
	for size := 2; size <= h; size *= 2 {
		for first := 0; first < h; first += size {
			for k := range size / 2 {
				c, s := d.cos[k*d.b/size], sign*d.sin[k*d.b/size]
				x, y := at(first+k), at(first+k+size/2)
				xr, xi, yr, yi := x[:lanes], x[lanes:], y[:lanes], y[lanes:]
				for t := range xr {
					ur, ui := float32(c*yr[t])-float32(s*yi[t]), float32(c*yi[t])+float32(s*yr[t])
					yr[t], yi[t] = xr[t]-ur, xi[t]-ui
					xr[t], xi[t] = xr[t]+ur, xi[t]+ui
				}
			}
		}
	}
}

// axpy adds a·x to y.
func axpy(y, x []float32, a float32) {
	for t := range y {
		y[t] += float32(a * x[t])
	}
}
