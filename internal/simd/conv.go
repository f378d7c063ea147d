package simd

import (
	"fmt"
	"math"
)

// This file computes convolutions and pools without a matrix of columns. What
// a window reads lies at offsets ([Taps]) from where it stands, in an image
// that holds its padding; so one list of offsets serves any number of spatial
// dims, dilations and input channels.
//
// [Kernels.Conv] has output channels in the lanes of vectors: pixels are read
// one by one, so a stride costs nothing, and weights are packed once. The
// Slide kernels have pixels in the lanes, for windows over one channel.

// Taps are the offsets, in elements, of what a window reads.
type Taps struct {
	at   []int32
	last int // the largest
}

// NewTaps returns the taps at these offsets, which are not negative. It keeps
// the slice.
func NewTaps(at []int32) Taps {
	t := Taps{at: at}
	for _, o := range at {
		if o < 0 {
			panic(fmt.Sprintf("simd: NewTaps: offset %d", o))
		}
		t.last = max(t.last, int(o))
	}
	return t
}

// Len returns the number of taps.
func (t Taps) Len() int { return len(t.at) }

// Places are groups of output pixels that lie side by side, all groups of one
// size: where in x each has its first window, and where in z its first pixel.
type Places struct {
	at           []int32 // x, z, x, z, …
	pixels       int     // of a group
	lastX, lastZ int
}

// NewPlaces returns groups of that many pixels, at most [Kernels.ConvPixels];
// at has pairs of offsets into x and z, which are not negative. It keeps the
// slice.
func NewPlaces(at []int32, pixels int) Places {
	p := Places{at: at, pixels: pixels}
	if len(at)%2 != 0 || pixels < 1 {
		panic(fmt.Sprintf("simd: NewPlaces: %d offsets for groups of %d pixels", len(at), pixels))
	}
	for i := 0; i < len(at); i += 2 {
		if at[i] < 0 || at[i+1] < 0 {
			panic(fmt.Sprintf("simd: NewPlaces: offsets %d and %d", at[i], at[i+1]))
		}
		p.lastX, p.lastZ = max(p.lastX, int(at[i])), max(p.lastZ, int(at[i+1]))
	}
	return p
}

// Len returns the number of groups.
func (p Places) Len() int { return len(p.at) / 2 }

// Part returns groups [lo, hi).
func (p Places) Part(lo, hi int) Places {
	p.at = p.at[2*lo : 2*hi]
	return p
}

// ConvWeights are the weights and the bias of a convolution, packed for the
// kernels of one path: blocks of channels, each block tap by tap. The last
// block is padded with channels of zeros to whole vectors.
type ConvWeights struct {
	data, bias      []float32
	channels, depth int
	lanes           int
}

// Blocks returns the number of blocks, each for one call of [Kernels.Conv].
func (w ConvWeights) Blocks() int { return (w.channels + 2*w.lanes - 1) / (2 * w.lanes) }

// convKernels is what a path brings to convolution.
type convKernels struct {
	lanes  int // channels of a vector; a block has two
	pixels int // most pixels of a group

	tiles              func(z []float32, zStep int, x []float32, step int, offsets []int32, w, bias, add []float32, places []int32, pixels, channels int, lo, hi float32)
	slideConv          func(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int, w []float32, bias, lo, hi float32)
	slideMax, slideSum func(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int)
	winogradInput      func(dst []float32, plane int, x []float32, xStep, rows, tiles int)
	winogradOutput     func(z []float32, zStep int, y []float32, plane, rows, tiles, height, width int, bias, lo, hi float32)
	padRows            func(dst []float32, dstStep int, src []float32, srcStep int, rows, width, lead, copied int, value float32)
}

// lane is where channel c of a vector lies: kernels that transpose a tile find
// the channels in order so.
func (k *convKernels) lane(c int) int {
	n := k.lanes / 4
	return c%n*4 + c/n
}

// ConvPixels returns the most pixels that a group of [Places] may have.
func (k *Kernels) ConvPixels() int { return k.conv.pixels }

// ConvLanes returns how many output channels [Kernels.Conv] computes at once;
// with fewer it loses as much of its speed.
func (k *Kernels) ConvLanes() int { return k.conv.lanes }

// ConvWeightsLen returns the number of elements that [Kernels.PackConvInto]
// wants.
func (k *Kernels) ConvWeightsLen(channels, depth int) int {
	return roundUp(channels, k.conv.lanes) * (depth + 1)
}

// PackConv packs weights w [channels, depth] and the bias [channels], nil for
// none.
func (k *Kernels) PackConv(w, bias []float32, channels, depth int) ConvWeights {
	return k.PackConvInto(make([]float32, k.ConvWeightsLen(channels, depth)), w, bias, channels, depth)
}

// PackConvInto is [Kernels.PackConv] into the caller's memory, of at least
// [Kernels.ConvWeightsLen] elements, which the result keeps a reference to.
func (k *Kernels) PackConvInto(buf, w, bias []float32, channels, depth int) ConvWeights {
	Mat{w, depth, 1}.need("PackConv", channels, depth)
	if bias != nil && len(bias) < channels || len(buf) < k.ConvWeightsLen(channels, depth) {
		panic(fmt.Sprintf("simd: PackConv: bias of %d and buffer of %d elements for %d channels of %d taps", len(bias), len(buf), channels, depth))
	}
	padded := roundUp(channels, k.conv.lanes)
	p := ConvWeights{data: buf[:padded*depth], bias: buf[padded*depth:][:padded], channels: channels, depth: depth, lanes: k.conv.lanes}
	clear(p.data)
	clear(p.bias)
	for c := range channels {
		block, in := c/(2*p.lanes), c%(2*p.lanes)
		width := min(2*p.lanes, padded-block*2*p.lanes)
		lane := in/p.lanes*p.lanes + k.conv.lane(in%p.lanes)
		for i, v := range w[c*depth : (c+1)*depth] {
			p.data[block*2*p.lanes*depth+i*width+lane] = v
		}
		if bias != nil {
			p.bias[block*2*p.lanes+lane] = bias[c]
		}
	}
	return p
}

// Unpack writes the weights [channels, depth] without the bias.
func (w ConvWeights) Unpack(dst []float32) {
	k := convKernels{lanes: w.lanes}
	padded := roundUp(w.channels, w.lanes)
	for c := range w.channels {
		first := c / (2 * w.lanes) * 2 * w.lanes
		width := min(2*w.lanes, padded-first)
		from := first*w.depth + (c-first)/w.lanes*w.lanes + k.lane(c%w.lanes)
		for i := range w.depth {
			dst[c*w.depth+i] = w.data[from+i*width]
		}
	}
}

// ConvEnd is what becomes of the sums of a convolution: Add, where it is not
// nil, is added, element by element of z, and the result is limited to
// [Lo, Hi] (NaN stays). Use [Unlimited] for no limits.
type ConvEnd struct {
	Add    []float32
	Lo, Hi float32
}

// Unlimited is the end of a convolution whose sums are the results.
var Unlimited = ConvEnd{nil, float32(math.Inf(-1)), float32(math.Inf(1))}

// Conv computes the channels c of one block of w for all pixels p of all
// places (X, Z):
//
//	z[Z + c·zStep + p] = limit(add[…] + bias[c] + Σ_k w[c, k] · x[X + taps[k] + p·step])
//
// z begins with the block's first channel, and so does end.Add. Every element
// is one chain of multiply-adds that begins with the bias, in the order of the
// taps, whatever the places, so work may be split between threads anywhere.
// The assembly paths round once a step and give the same bits as each other,
// portable code rounds products too.
func (k *Kernels) Conv(z []float32, zStep int, x []float32, step int, taps Taps, w ConvWeights, block int, places Places, end ConvEnd) {
	if len(taps.at) != w.depth || w.lanes != k.conv.lanes || places.pixels > k.conv.pixels {
		panic(fmt.Sprintf("simd: Conv: %d taps for weights of %d, %d lanes for %d, groups of %d pixels", len(taps.at), w.depth, w.lanes, k.conv.lanes, places.pixels))
	}
	first := block * 2 * w.lanes
	channels := min(2*w.lanes, w.channels-first)
	if places.Len() == 0 || channels <= 0 {
		return
	}
	if n := places.lastX + taps.last + (places.pixels-1)*step; step < 0 || w.depth > 0 && n >= len(x) {
		panic(fmt.Sprintf("simd: Conv: reads element %d of %d", n, len(x)))
	}
	n := places.lastZ + (channels-1)*zStep + places.pixels
	if zStep < 0 || n > len(z) || end.Add != nil && n > len(end.Add) {
		panic(fmt.Sprintf("simd: Conv: writes %d elements of %d, adds %d", n, len(z), len(end.Add)))
	}
	k.conv.tiles(z, zStep, x, step, taps.at, w.data[first*w.depth:], w.bias[first:], end.Add, places.at, places.pixels, channels, end.Lo, end.Hi)
}

// SlideStrides is the largest stride that the Slide kernels take.
const SlideStrides = 2

// slides checks the arguments of a Slide kernel.
func slides(op string, z []float32, zStep int, x []float32, xStep int, taps Taps, rows, width, stride int) bool {
	if rows <= 0 || width <= 0 {
		return false
	}
	reads := (rows-1)*xStep + taps.last + (width-1)*stride + 1
	writes := (rows-1)*zStep + width
	if xStep < 0 || zStep < 0 || stride < 1 || stride > SlideStrides || len(taps.at) > 0 && reads > len(x) || writes > len(z) {
		panic(fmt.Sprintf("simd: %s: %d×%d pixels at stride %d read %d elements of %d and write %d of %d", op, rows, width, stride, reads, len(x), writes, len(z)))
	}
	return true
}

// SlideConv sets, for rows of pixels,
//
//	z[r·zStep + j] = limit(bias + Σ_k w[k] · x[r·xStep + taps[k] + j·stride])
//
// one chain of multiply-adds in the order of the taps that begins with the
// bias, limited to [lo, hi] (NaN stays). The stride is 1 or 2.
func (k *Kernels) SlideConv(z []float32, zStep int, x []float32, xStep int, taps Taps, rows, width, stride int, w []float32, bias, lo, hi float32) {
	if len(w) < len(taps.at) {
		panic(fmt.Sprintf("simd: SlideConv: %d weights for %d taps", len(w), len(taps.at)))
	}
	if slides("SlideConv", z, zStep, x, xStep, taps, rows, width, stride) {
		k.conv.slideConv(z, zStep, x, xStep, taps.at, rows, width, stride, w, bias, lo, hi)
	}
}

// SlideMax is the largest element under a window, as [Kernels.SlideConv] moves
// it: NaN where one is, −Inf where there are no taps.
func (k *Kernels) SlideMax(z []float32, zStep int, x []float32, xStep int, taps Taps, rows, width, stride int) {
	if slides("SlideMax", z, zStep, x, xStep, taps, rows, width, stride) {
		k.conv.slideMax(z, zStep, x, xStep, taps.at, rows, width, stride)
	}
}

// SlideSum is the sum, in the order of the taps, of the elements under a
// window, as [Kernels.SlideConv] moves it.
func (k *Kernels) SlideSum(z []float32, zStep int, x []float32, xStep int, taps Taps, rows, width, stride int) {
	if slides("SlideSum", z, zStep, x, xStep, taps, rows, width, stride) {
		k.conv.slideSum(z, zStep, x, xStep, taps.at, rows, width, stride)
	}
}

// PadRows copies rows between padding: rows of dst, dstStep apart, get lead
// elements of value, then the copied elements of the row of src, srcStep apart,
// and value again up to width.
func (k *Kernels) PadRows(dst []float32, dstStep int, src []float32, srcStep, rows, width, lead, copied int, value float32) {
	if rows <= 0 || width <= 0 {
		return
	}
	if lead < 0 || copied < 0 || lead+copied > width || dstStep < width && rows > 1 || (rows-1)*dstStep+width > len(dst) ||
		srcStep < 0 || copied > 0 && (rows-1)*srcStep+copied > len(src) || width > math.MaxInt32 {
		panic(fmt.Sprintf("simd: PadRows: %d rows of %d elements, %d apart in %d, with %d at %d, %d apart in %d",
			rows, width, dstStep, len(dst), copied, lead, srcStep, len(src)))
	}
	if copied == 0 {
		src, srcStep = dst, 0 // nothing is read
	}
	k.conv.padRows(dst, dstStep, src, srcStep, rows, width, lead, copied, value)
}

func padRows(dst []float32, dstStep int, src []float32, srcStep int, rows, width, lead, copied int, value float32) {
	for r := range rows {
		row := dst[r*dstStep:][:width]
		for j := range row[:lead] {
			row[j] = value
		}
		copy(row[lead:], src[r*srcStep:][:copied])
		for j := lead + copied; j < width; j++ {
			row[j] = value
		}
	}
}

// limit is x within [lo, hi], NaN where it is.
func limit(x, lo, hi float32) float32 {
	if x < lo {
		x = lo
	}
	if x > hi {
		x = hi
	}
	return x
}

// convTiles is the kernel of [Kernels.Conv]: vectors of 4 channels in order,
// groups of up to 2 pixels.
func convTiles(z []float32, zStep int, x []float32, step int, offsets []int32, w, bias, add []float32, places []int32, pixels, channels int, lo, hi float32) {
	width := roundUp(channels, 4)
	put := func(s [4]float32, i, c int) {
		for j, v := range s[:min(4, channels-c)] {
			at := i + (c+j)*zStep
			if add != nil {
				v += add[at]
			}
			z[at] = limit(v, lo, hi)
		}
	}
	for g := 0; g < len(places); g += 2 {
		from, to := int(places[g]), int(places[g+1])
		for c := 0; c < channels; c += 4 {
			s := [4]float32(bias[c:])
			w := w[min(c, len(w)):]
			if pixels == 1 {
				for k, o := range offsets {
					a, w := x[from+int(o)], w[k*width:k*width+4]
					s[0] += float32(a * w[0])
					s[1] += float32(a * w[1])
					s[2] += float32(a * w[2])
					s[3] += float32(a * w[3])
				}
				put(s, to, c)
				continue
			}
			s0, s1, s2, s3 := s[0], s[1], s[2], s[3]
			t0, t1, t2, t3 := s[0], s[1], s[2], s[3]
			for k, o := range offsets {
				a, b, w := x[from+int(o)], x[from+int(o)+step], w[k*width:k*width+4]
				s0 += float32(a * w[0])
				s1 += float32(a * w[1])
				s2 += float32(a * w[2])
				s3 += float32(a * w[3])
				t0 += float32(b * w[0])
				t1 += float32(b * w[1])
				t2 += float32(b * w[2])
				t3 += float32(b * w[3])
			}
			put([4]float32{s0, s1, s2, s3}, to, c)
			put([4]float32{t0, t1, t2, t3}, to+1, c)
		}
	}
}

func slideConv(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int, w []float32, bias, lo, hi float32) {
	for r := range rows {
		row := z[r*zStep:][:width]
		for j := range row {
			row[j] = bias
		}
		for k, o := range offsets {
			a, from := w[k], x[r*xStep+int(o):]
			for j := range row {
				row[j] += float32(a * from[j*stride])
			}
		}
		for j, v := range row {
			row[j] = limit(v, lo, hi)
		}
	}
}

func slideMax(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int) {
	for r := range rows {
		row := z[r*zStep:][:width]
		for j := range row {
			row[j] = float32(math.Inf(-1))
		}
		for _, o := range offsets {
			from := x[r*xStep+int(o):]
			for j, v := range row {
				row[j] = max(v, from[j*stride])
			}
		}
	}
}

func slideSum(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int) {
	for r := range rows {
		row := z[r*zStep:][:width]
		clear(row)
		for _, o := range offsets {
			from := x[r*xStep+int(o):]
			for j := range row {
				row[j] += from[j*stride]
			}
		}
	}
}
