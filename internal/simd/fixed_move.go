package simd

import (
	"fmt"
	"math"
)

// This file moves numbers of 16-bit fixed point, and takes maxima and sums of
// windows over them.

// Transpose16 sets dst[c·dstStep + r] = src[r·srcStep + c] for rows × cols numbers.
func (k *Kernels) Transpose16(dst []int16, dstStep int, src []int16, srcStep, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	if srcStep < 0 || dstStep < 0 || (rows-1)*srcStep+cols > len(src) || (cols-1)*dstStep+rows > len(dst) {
		panic(fmt.Sprintf("simd: Transpose16: %d×%d numbers, rows %d apart of %d, into rows %d apart of %d", rows, cols, srcStep, len(src), dstStep, len(dst)))
	}
	const block = 8
	if rows < block || cols < block {
		transpose16(dst, dstStep, src, srcStep, rows, cols)
		return
	}
	// The last blocks overlap those before them.
	for r := 0; r < rows; r += max(block, (rows-r)&^(block-1)) {
		r, high := min(r, rows-block), max(block, (rows-r)&^(block-1))
		for c := 0; c < cols; c += max(block, (cols-c)&^(block-1)) {
			c, wide := min(c, cols-block), max(block, (cols-c)&^(block-1))
			k.transpose16(dst[c*dstStep+r:], dstStep, src[r*srcStep+c:], srcStep, high, wide)
		}
	}
}

func transpose16(dst []int16, dstStep int, src []int16, srcStep, rows, cols int) {
	for r := range rows {
		for c, v := range src[r*srcStep:][:cols] {
			dst[c*dstStep+r] = v
		}
	}
}

// SlideRead and SlideWrite are how many elements of a last row [Kernels.SlideMax16]
// and [Kernels.SlideSum16] may read from the largest of the taps on, and write.
func SlideRead(width, stride int) int { return roundUp(width, turn16) * stride }
func SlideWrite(width int) int        { return roundUp(width, turn16) }

// SlideMax16 sets z[r·zStep + j] to the largest of x[r·xStep + j·stride + taps…],
// for j < width; stride is 1 or 2. Up to SlideWrite elements of a row of z are
// written, before those of the next row.
func (k *Kernels) SlideMax16(z []int16, zStep int, x []int16, xStep int, taps Taps, rows, width, stride int) {
	if slides16("SlideMax16", len(z), zStep, len(x), xStep, taps, rows, width, stride) {
		k.slideMax16(z, zStep, x, xStep, taps.at, rows, width, stride)
	}
}

// SlideSum16 is SlideMax16 with sums of at most 2¹⁶ taps, of 32 bits.
func (k *Kernels) SlideSum16(z []int32, zStep int, x []int16, xStep int, taps Taps, rows, width, stride int) {
	if slides16("SlideSum16", len(z), zStep, len(x), xStep, taps, rows, width, stride) {
		k.slideSum16(z, zStep, x, xStep, taps.at, rows, width, stride)
	}
}

// MostTaps16 is how many taps SlideSum16 takes: sums of so many do not overflow.
const MostTaps16 = 1 << 16

func slides16(op string, z, zStep, x, xStep int, taps Taps, rows, width, stride int) bool {
	if rows <= 0 || width <= 0 {
		return false
	}
	if stride < 1 || stride > 2 || taps.Len() == 0 || taps.Len() > MostTaps16 || zStep < width || xStep < 0 || (rows-1)*zStep+SlideWrite(width) > z || (rows-1)*xStep+taps.last+SlideRead(width, stride) > x {
		panic(fmt.Sprintf("simd: %s: %d×%d windows at stride %d of %d taps up to %d, rows %d and %d apart, of %d and %d elements", op, rows, width, stride, taps.Len(), taps.last, zStep, xStep, z, x))
	}
	return true
}

func slideMax16(z []int16, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int) {
	for r := range rows {
		for j := range width {
			v := int16(math.MinInt16)
			for _, o := range offsets {
				v = max(v, x[r*xStep+j*stride+int(o)])
			}
			z[r*zStep+j] = v
		}
	}
}

func slideSum16(z []int32, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int) {
	for r := range rows {
		for j := range width {
			v := int32(0)
			for _, o := range offsets {
				v += int32(x[r*xStep+j*stride+int(o)])
			}
			z[r*zStep+j] = v
		}
	}
}

// Sum16 returns Σ x[i].
func (k *Kernels) Sum16(x []int16) int64 {
	const most = 1 << 16 // elements whose sum fits 32 bits
	sum := int64(0)
	for whole := len(x) &^ (turn16 - 1); whole > 0; whole = len(x) &^ (turn16 - 1) {
		n := min(whole, most)
		sum += int64(k.sum16(x[:n]))
		x = x[n:]
	}
	return sum + int64(sum16(x))
}

func sum16(x []int16) int32 {
	sum := int32(0)
	for _, v := range x {
		sum += int32(v)
	}
	return sum
}

// Vectors are pairs of places: where a vector begins in a slice of words, and which
// vector it becomes of another slice.
type Vectors struct {
	at             []int32
	lastSrc, lastV int
}

// NewVectors returns the vectors at these pairs of places, which are not negative.
// It keeps the slice.
func NewVectors(at []int32) Vectors {
	v := Vectors{at: at}
	for i := 0; i+1 < len(at); i += 2 {
		if at[i] < 0 || at[i+1] < 0 {
			panic(fmt.Sprintf("simd: NewVectors: places %d and %d", at[i], at[i+1]))
		}
		v.lastSrc, v.lastV = max(v.lastSrc, int(at[i])), max(v.lastV, int(at[i+1]))
	}
	return v
}

// Pieces are places of the elements of a vector, in as few runs of neighbours as
// there are: for each, where the first element of the vector would be, and the lanes
// that it has.
type Pieces struct {
	masks []int32
	last  int
}

// Set makes p the pieces of vectors of [FixedCirculant] whose first elements are at
// these places, which are not negative. The others are zero.
func (p *Pieces) Set(c *FixedCirculant, at []int32) {
	if len(at) > c.lanes {
		panic(fmt.Sprintf("simd: Pieces: %d elements for a vector of %d", len(at), c.lanes))
	}
	p.masks, p.last = p.masks[:0], 0
	for l, from := range at {
		if l == 0 || from != at[l-1]+1 {
			p.masks = append(p.masks, from-int32(l))
			for range c.lanes {
				p.masks = append(p.masks, 0)
			}
		}
		p.masks[len(p.masks)-c.lanes+l] = -1
		p.last = max(p.last, int(from))
	}
}

// Gather32 makes vectors of dst of what pieces choose of those of src.
func (c *FixedCirculant) Gather32(k *Kernels, dst, src []int32, v Vectors, p *Pieces) {
	if len(v.at) == 0 || len(p.masks) == 0 {
		return
	}
	if (v.lastV+1)*c.lanes > len(dst) || v.lastSrc+p.last >= len(src) || k.fixedCirculant.lanes != c.lanes {
		panic(fmt.Sprintf("simd: Gather32: vectors up to %d of %d elements, up to %d of %d", v.lastV, len(dst), v.lastSrc+p.last, len(src)))
	}
	k.pieces32(dst, src, v.at, p.masks)
}

func pieces32(dst, src, places, masks []int32) {
	const lanes = portableFixedTokens
	for i := 0; i < len(places); i += 2 {
		to := dst[int(places[i+1])*lanes:][:lanes]
		clear(to)
		for m := 0; m < len(masks); m += lanes + 1 {
			for l, chosen := range masks[m+1:][:lanes] {
				if chosen != 0 {
					to[l] = src[int(places[i]+masks[m])+l]
				}
			}
		}
	}
}
