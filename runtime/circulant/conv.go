package circulant

import (
	"fmt"

	"gonum.org/v1/gonum/dsp/fourier"
)

// A block-circulant convolution has a block-circulant matrix of channels for
// every tap of its window: with w [p, q, b, taps], output channel i·b + a reads
// input channel j·b + c at tap t with the weight w[i, j, (a − c) mod b, t]. It is
// computed in three steps (CirCNN, section 3.2):
//
//  1. the transform of the q blocks of channels of every input pixel, once;
//  2. for each of the ⌊b/2⌋ + 1 frequencies a convolution of q to p complex
//     channels, whose sums over blocks and taps are taken on spectra;
//  3. the inverse transform of the p blocks of every output pixel.
//
// With three real multiplications for a complex one, as package simd has them,
// step 2 is [ConvPlanes](b) convolutions of q to p real channels: planes. That is
// one grouped convolution with weights [planes, p, q, taps], which any fast
// kernel for dense convolutions computes.

// ConvPlanes is the number of planes for block size b: 1 for every real
// frequency, 3 for every complex one; 3b/2 − 1 for an even b.
func ConvPlanes(b int) int { return realBins(b) + 3*((b-1)/2) }

func realBins(b int) int { return 2 - b%2 }

// ConvWeights writes the weights of the planes of w [p, q, b, taps] to dst
// [planes, p, q, taps]: ŵ for a real frequency; ŵr, ŵi − ŵr and ŵr + ŵi for a
// complex one, in the order of [simd.Circulant.Forward]. They have the factor
// 1/b of the inverse transform.
func ConvWeights(dst, w []float32, p, q, b, taps int) {
	size := convPlane("ConvWeights", w, dst, p, q, b, taps)
	fft := fourier.NewFFT(b)
	x, s := make([]float64, b), make([]complex128, b/2+1)
	for i := range p * q {
		for t := range taps {
			for c := range x {
				x[c] = float64(w[(i*b+c)*taps+t]) / float64(b)
			}
			fft.Coefficients(s, x)
			put := func(plane int, v float64) { dst[plane*size+i*taps+t] = float32(v) }
			put(0, real(s[0]))
			if b%2 == 0 {
				put(1, real(s[b/2]))
			}
			for f, plane := 1, realBins(b); f <= (b-1)/2; f, plane = f+1, plane+3 {
				re, im := real(s[f]), imag(s[f])
				put(plane, re)
				put(plane+1, im-re)
				put(plane+2, re+im)
			}
		}
	}
}

// convPlane is the number of weights of a plane, for a function of w [p, q, b, taps]
// and the weights of all planes.
func convPlane(name string, w, planes []float32, p, q, b, taps int) int {
	size := p * q * taps
	if len(w) < size*b || len(planes) < size*ConvPlanes(b) {
		panic(fmt.Sprintf("circulant: %s: %d×%d blocks of %d with %d taps in %d elements, of planes in %d", name, p, q, b, taps, len(w), len(planes)))
	}
	return size
}

// AddConvGradient adds to dw [p, q, b, taps] the gradient of a loss with respect
// to w from that with respect to the weights of the planes, d [planes, p, q,
// taps]: the adjoint of [ConvWeights].
func AddConvGradient(dw, d []float32, p, q, b, taps int) {
	size := convPlane("AddConvGradient", dw, d, p, q, b, taps)
	fft := fourier.NewFFT(b)
	x, s := make([]float64, b), make([]complex128, b/2+1)
	for i := range p * q {
		for t := range taps {
			at := func(plane int) float64 { return float64(d[plane*size+i*taps+t]) }
			// Sequence counts complex bins twice: Σ_f 2·Re(s·exp(2πi·f·c/b)).
			s[0] = complex(at(0), 0)
			if b%2 == 0 {
				s[b/2] = complex(at(1), 0)
			}
			for f, plane := 1, realBins(b); f <= (b-1)/2; f, plane = f+1, plane+3 {
				s[f] = complex((at(plane)-at(plane+1)+at(plane+2))/2, (at(plane+1)+at(plane+2))/2)
			}
			fft.Sequence(x, s)
			for c, v := range x {
				dw[(i*b+c)*taps+t] += float32(v / float64(b))
			}
		}
	}
}
