package runtime

import (
	"github.com/onnx-lathe/lathe/internal/simd"
)

// winograd is a convolution with 3×3 windows at stride 1 by F(2×2, 3×3), with
// 16 products a channel for four outputs in place of 36: see package simd.
//
// Rounding is not that of the sum of products. With C channels, to first order,
//
//	|y − exact| ≤ (C + 8)·2⁻²⁴ · (|B| + Σ_c |Aᵀ|·[(|G|·|g|·|Gᵀ|) ⊙ (|Bᵀ|·|d|·|B|)]·|A|)
//
// from 1 rounding of a weight, 2 of an input, C of the sum of products and 5 of
// an output with its bias, each of values that the bracket bounds; the portable
// path, which rounds products too, has 1 more. An infinity or a NaN reaches all
// four outputs of a tile that reads it.
type winograd struct {
	weights [16]simd.ConvWeights // by element of the transform: channels of Y and of X
}

// What winograd is chosen for. With fewer channels, transforms take what is
// saved; with more, weights that are 16/9 times as large come from memory for
// the small images that such layers have.
const (
	winogradLeast = 32
	winogradMost  = 256 * 256
)

// newWinograd returns nil where W [M, C, 3, 3] or the window is not of the kind.
func (v *convolution) newWinograd() *winograd {
	w := v.w
	if v.group != 1 || len(w.Shape) != 4 || w.Shape[2] != 3 || w.Shape[3] != 3 {
		return nil
	}
	m, channels := w.Shape[0], w.Shape[1]
	if min(m, channels) < winogradLeast || m > winogradMost/channels {
		return nil
	}
	for i, list := range [][]int{v.strides, v.dilations, v.pads} {
		for _, n := range list {
			if i < 2 && n != 1 || n < 0 || n > 2 {
				return nil
			}
		}
	}
	p := &winograd{}
	for i, u := range simd.WinogradWeights(w.F32(), m, channels) {
		p.weights[i] = v.k.PackConv(u, nil, m, channels)
	}
	return p
}

// winogradState is what depends on the shapes.
type winogradState struct {
	even        window            // the window of twice the tiles
	rows, tiles int               // tiles of an output: rows, and tiles of a row
	band, bands int               // rows that are computed together, how many such bands
	places      [2][2]simd.Places // all tiles of a band, and of the last one; in groups of two sizes
	offsets     simd.Taps
	in, out     int // from element to element of the transforms
	size        int // memory of a worker
	scratch     []float32
}

// winogradCache is the memory for the transformed inputs and outputs of a band,
// in elements: they stay in a level-two cache.
const winogradCache = 1 << 17

// planWinograd works out what depends on the shapes and the number of threads.
func (s *convState) planWinograd(workers int) bool {
	w := &s.wino
	w.even = s.window
	w.even.out = []int{(s.out[0] + 1) / 2 * 2, (s.out[1] + 1) / 2 * 2}
	if !s.image.set(&w.even, 1) {
		return false
	}
	w.rows, w.tiles = w.even.out[0]/2, w.even.out[1]/2
	w.band = max(1, winogradCache/(16*(s.channels+s.m)*w.tiles))
	if workers > 1 {
		w.band = min(w.band, max(1, w.rows*s.n/(2*workers)))
	}
	w.bands = (w.rows + w.band - 1) / w.band
	w.band = (w.rows + w.bands - 1) / w.bands
	w.bands = (w.rows + w.band - 1) / w.band
	n := w.band * w.tiles
	at := make([]int32, s.channels)
	for c := range at {
		at[c] = int32(c * n)
	}
	w.offsets = simd.NewTaps(at)
	last := (w.rows - (w.bands-1)*w.band) * w.tiles
	w.places = [2][2]simd.Places{places(s.k, 1, n, 1, func(int) int { return 0 }), places(s.k, 1, last, 1, func(int) int { return 0 })}
	// An odd number of cache lines, so that the 16 elements of a tile lie in as
	// many sets of the cache: else they are a multiple of 4 KB apart in layers in use.
	const line = 16
	apart := func(n int) int { return ((n+line-1)/line | 1) * line }
	w.in, w.out = apart(s.channels*n), apart(s.m*n)
	w.size = 16 * (w.in + w.out)
	return true
}

// byWinograd computes units [lo, hi) of the samples at hand: bands of them.
func byWinograd(c *call, worker, lo, hi int) {
	s := c.state.(*convState)
	w := &s.wino
	n := w.band * w.tiles
	buf := w.scratch[worker*w.size : (worker+1)*w.size]
	in, out := buf[:16*w.in], buf[16*w.in:]
	pitch := s.image.dims[1]
	for i := lo; i < hi; i++ {
		sample, band := i/w.bands, i%w.bands
		first := band * w.band
		rows := min(w.band, w.rows-first)
		x := s.read(sample, 0)
		for ch := range s.channels {
			s.k.WinogradInput(in[ch*n:], w.in, x[ch*s.image.size+2*first*pitch:(ch+1)*s.image.size], pitch, rows, w.tiles)
		}
		places := &w.places[0]
		if band == w.bands-1 {
			places = &w.places[1]
		}
		for p, weights := range s.winograd.weights {
			for block := range weights.Blocks() {
				for _, g := range places {
					s.k.Conv(out[p*w.out+block*2*s.k.ConvLanes()*n:], n, in[p*w.in:(p+1)*w.in], 1, w.offsets, weights, block, g, simd.Unlimited)
				}
			}
		}
		width, height := s.out[1], min(2*rows, s.out[0]-2*first)
		low, high := s.lo, s.hi
		if s.add != nil {
			low, high = simd.Unlimited.Lo, simd.Unlimited.Hi
		}
		for m := range s.m {
			var bias float32
			if s.b != nil {
				bias = s.b[m]
			}
			at := ((s.first+sample)*s.m+m)*s.outSize + 2*first*width
			z := s.z[at : at+height*width]
			s.k.WinogradOutput(z, width, out[m*n:], w.out, rows, w.tiles, height, width, bias, low, high)
			if s.add != nil {
				s.end(z, s.add[at:])
			}
		}
	}
}
