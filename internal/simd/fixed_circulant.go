package simd

import (
	"fmt"
	"math"
	"math/bits"
)

// A FixedCirculant has the kernels of block-circulant products in 16-bit fixed
// point for one block size, as package fixed specifies them. All paths give the
// same bits.
//
// # Layout
//
// A vector holds one number of Lanes tokens. The transform of a tile of tokens
// is [blocks, b+1, lanes] words of 32 bits, the last vector of a block unused: so
// the vectors of one bin are an odd number of cache lines apart, which spreads
// them over all sets of the cache. A complex bin f of an input is two vectors of
// pairs of int16, low half first,
//
//	2f: (Re, −Im)    2f+1: (Im, Re)
//
// so that with the pair (wr, wi) of a weight the sum of two products is the real,
// and the imaginary part of their product. Bins 0 and b/2 are vectors 0 and 1. Up
// to blocks of 16 they are pairs of two neighbouring blocks, 2j and 2j+1, in the
// vectors of the former; for longer blocks they are pairs with zero, (X(0), 0)
// and (0, X(b/2)), and multiplied by the pair of both weights like a complex bin,
// which costs one product in b more.
//
// An output is the int32 numbers of its spectrum in the order of package fixed,
// in as many vectors.
//
// Columns are read and written in groups of 32, a cache line of int16, and at
// least a block.
type FixedCirculant struct {
	b, lanes int
	k        *fixedCirculantKernels
	table    fixedFFT
	forward  fixedForward // nil: portable
	inverse  fixedInverse
}

type (
	// Rows are those of float32, unless they are nil.
	fixedForward func(dst []int32, x []int16, floats []float32, scale float32, ld, groups int, scales, scratch []float32)
	fixedInverse func(y []int16, floats []float32, ld int, src []int32, groups int, scales, units, scratch []float32)
)

// fixedCirculantKernels is what a path brings. Transforms are indexed by log₂ b.
type fixedCirculantKernels struct {
	lanes   int
	maxRows int // rows of blocks that product multiplies at most
	forward [9]fixedForward
	inverse [9]fixedInverse
	product func(y, x, w, ends []int32, rows, real, bins, q, group, shift, round, limit, vecs int)
}

// FixedCirculant returns the kernels for b, a power of two from 2 to 256.
func (kn *Kernels) FixedCirculant(b int) *FixedCirculant {
	if b < 2 || b > 256 || b&(b-1) != 0 {
		panic(fmt.Sprintf("simd: FixedCirculant: block size is %d, want a power of two from 2 to 256", b))
	}
	k := &kn.fixedCirculant
	l := bits.TrailingZeros(uint(b))
	return &FixedCirculant{b: b, lanes: k.lanes, k: k, table: newFixedFFT(b), forward: k.forward[l], inverse: k.inverse[l]}
}

// Lanes is the number of tokens of a tile.
func (c *FixedCirculant) Lanes() int { return c.lanes }

// Columns is the number of columns of a group.
func (c *FixedCirculant) Columns() int { return max(c.b, fixedColumns) }

// GroupBlocks is the number of blocks of a group.
func (c *FixedCirculant) GroupBlocks() int { return c.Columns() / c.b }

const fixedColumns = 32

// Tile is the number of words of the transforms of that many groups.
func (c *FixedCirculant) Tile(groups int) int { return groups * c.GroupBlocks() * c.vecs() * c.lanes }

func (c *FixedCirculant) vecs() int { return c.b + 1 }

// Pairs reports whether the real bins of two blocks share a pair.
func (c *FixedCirculant) Pairs() bool { return c.b <= 16 }

// Scratch is the number of elements of the scratch memory of the transforms.
func (c *FixedCirculant) Scratch() int { return circulantScratch * max(c.b, fixedColumns) * c.lanes }

// Limit is the magnitude of a number that the inverse transform takes, 2^K.
func (c *FixedCirculant) Limit() int32 {
	if c.b >= coarseFrom {
		return 1 << 25 / int32(c.b)
	}
	return 1 << 23 / int32(c.b)
}

// coarseFrom is the block size from which on transforms have two more bits, and
// their late rotations round to multiples of 2 and of 4.
const coarseFrom = 64

// ForwardScales are the factors 2⁻¹⁶⁻ʳ of the numbers of spectra as Forward takes
// them, for shifts R [blocks, b/2 + 1] and groups groups: ForwardGroup of them for
// each.
func (c *FixedCirculant) ForwardScales(r []int8, groups int) []float32 {
	bins := c.b/2 + 1
	var out []float32
	for j := range groups * c.GroupBlocks() {
		s := make([]float32, bins)
		for k := range s {
			s[k] = 1. / (1 << 16) // kernels read x times 2¹⁶
			if (j+1)*bins <= len(r) {
				s[k] = float32(math.Ldexp(1, -16-int(r[j*bins+k])))
			}
		}
		out = append(out, s...)
		for k := 1; k < bins/2 && c.b > fixedStraight; k++ { // bins that long transforms finish together
			out = append(out, s[k+1], s[bins-k])
		}
	}
	return out
}

// ForwardGroup is the number of factors of a group.
func (c *FixedCirculant) ForwardGroup() int {
	if c.b > fixedStraight {
		return c.b/2 + 1 + 2*(c.b/4-1)
	}
	return c.GroupBlocks() * (c.b/2 + 1)
}

// fixedStraight is the longest transform in one pass.
const fixedStraight = 64

// Forward transforms groups groups of Columns columns of Lanes rows of x, ld
// elements apart: every number v of the spectra becomes v·2⁻ʳ, rounded half up and
// clamped to ±32767.
func (c *FixedCirculant) Forward(dst []int32, x []int16, ld, groups int, scales, scratch []float32) {
	if !c.fits("Forward", len(x), ld, len(dst), groups, len(scales)-groups*c.ForwardGroup(), len(scratch)) {
		return
	}
	if c.forward != nil {
		c.forward(dst, x, nil, 0, ld, groups, scales, scratch)
		return
	}
	c.forwardPortable(dst, groups, scales, func(to []int16, at int, row int) { copy(to, x[row*ld+at:]) })
}

// ForwardFloats is Forward of x as Quantize16 makes it int16 with a factor of
// quantum.
func (c *FixedCirculant) ForwardFloats(dst []int32, x []float32, quantum float32, ld, groups int, scales, scratch []float32) {
	if !c.fits("ForwardFloats", len(x), ld, len(dst), groups, len(scales)-groups*c.ForwardGroup(), len(scratch)) {
		return
	}
	if c.forward != nil {
		c.forward(dst, nil, x, quantum, ld, groups, scales, scratch)
		return
	}
	c.forwardPortable(dst, groups, scales, func(to []int16, at int, row int) { quantize16(to, x[row*ld+at:][:len(to)], quantum) })
}

// fits reports whether there is something to transform. It panics where rows,
// transforms, factors beyond those that are needed, or scratch memory are too few.
func (c *FixedCirculant) fits(op string, rows, ld, transforms, groups, more, scratch int) bool {
	if groups == 0 {
		return false
	}
	if transforms < c.Tile(groups) || rows < (c.lanes-1)*ld+groups*c.Columns() || scratch < c.Scratch() || more < 0 {
		panic(fmt.Sprintf("simd: FixedCirculant of %d: %s of %d groups, %d elements and %d words", c.b, op, groups, rows, transforms))
	}
	return true
}

// forwardPortable is Forward of what read sets to elements from at on of a row.
func (c *FixedCirculant) forwardPortable(dst []int32, groups int, scales []float32, read func(to []int16, at, row int)) {
	var v, t [256]int32
	var x [256]int16
	b := c.b
	g := 8 - bits.TrailingZeros(uint(b))
	if b >= coarseFrom {
		g += 2
	}
	step := c.ForwardGroup() / c.GroupBlocks()
	shift := func(j, k int) int { return g - 16 - math.Ilogb(float64(scales[j*step+fixedBin(k)])) }
	pair := func(a, b int32) int32 { return int32(uint32(uint16(a)) | uint32(b)<<16) }
	for j := range groups * c.GroupBlocks() {
		for r := range c.lanes {
			read(x[:b], j*b, r)
			for i, a := range x[:b] {
				v[i] = int32(a) << g
			}
			c.table.fwd(v[:b], t[:b])
			for k, a := range v[:b] {
				t[k] = min(max(roundSum24(a, shift(j, k)), -(1<<15-1)), 1<<15-1)
			}
			at := func(j, k int) *int32 { return &dst[(j*c.vecs()+k)*c.lanes+r] }
			switch {
			case !c.Pairs():
				*at(j, 0), *at(j, 1) = pair(t[0], 0), pair(0, t[1])
			case j%2 == 0:
				*at(j, 0), *at(j, 1) = pair(t[0], 0), pair(t[1], 0)
			default:
				*at(j-1, 0) |= t[0] << 16
				*at(j-1, 1) |= t[1] << 16
			}
			for k := 2; k < b; k += 2 {
				*at(j, k), *at(j, k+1) = pair(t[k], -t[k+1]), pair(t[k+1], t[k])
			}
		}
	}
}

// fixedBin is the bin of number k of a spectrum in the order 0, b/2, 1, 2, ….
func fixedBin(k int) int {
	if k < 2 {
		return k
	}
	return k/2 + 1
}

// Inverse transforms groups groups of Columns columns back: every element v
// becomes v·scales, rounded half up and clamped to int16. Rows of y are ld
// elements apart; scales has a factor 2⁻ᵉ for every column. It may destroy src.
func (c *FixedCirculant) Inverse(y []int16, ld int, src []int32, groups int, scales, scratch []float32) {
	if !c.fits("Inverse", len(y), ld, len(src), groups, len(scales)-groups*c.Columns(), len(scratch)) {
		return
	}
	if c.inverse != nil {
		c.inverse(y, nil, ld, src, groups, scales, nil, scratch)
		return
	}
	c.inversePortable(src, groups, scales, func(at, row int, from []int16) { copy(y[row*ld+at:], from) })
}

// InverseFloats is Inverse into int16 as DequantizeEach16 makes them float32, with
// factors of columns that are 2¹⁶ times units.
func (c *FixedCirculant) InverseFloats(y []float32, ld int, src []int32, groups int, scales, units, scratch []float32) {
	if !c.fits("InverseFloats", len(y), ld, len(src), groups, min(len(scales), len(units))-groups*c.Columns(), len(scratch)) {
		return
	}
	if c.inverse != nil {
		c.inverse(nil, y, ld, src, groups, scales, units, scratch)
		return
	}
	c.inversePortable(src, groups, scales, func(at, row int, from []int16) {
		for i, v := range from {
			y[row*ld+at+i] = float32(int32(v)<<16) * units[at+i]
		}
	})
}

// inversePortable is Inverse into what write puts from an element on of a row.
func (c *FixedCirculant) inversePortable(src []int32, groups int, scales []float32, write func(at, row int, from []int16)) {
	var v, t [256]int32
	var y [256]int16
	for i := range groups * c.GroupBlocks() {
		for r := range c.lanes {
			for k := range c.b {
				v[k] = src[(i*c.vecs()+k)*c.lanes+r]
			}
			c.table.inv(v[:c.b], t[:c.b])
			for a, w := range v[:c.b] {
				e := -math.Ilogb(float64(scales[i*c.b+a]))
				y[a] = int16(min(max(roundSum24(w, e), -1<<15), 1<<15-1))
			}
			write(i*c.b, r, y[:c.b])
		}
	}
}

// FixedCirculantWeights are the weights of p×q blocks and what is done to their
// sums, in the order in which the kernels of one path read them.
type FixedCirculantWeights struct {
	q, group, shift int
	Parts           []FixedCirculantPart
}

// A FixedCirculantPart is the groups First … First+Groups−1 of the output, which
// are multiplied before they are transformed, while they are in a cache.
type FixedCirculantPart struct {
	First, Groups int
	steps         []fixedStep
}

// fixedStep is one call of product for rows rows of blocks, the first of which
// is row of the part.
type fixedStep struct {
	row, rows int
	w, ends   []int32
}

// Pack returns the weights w [p, q, b] with biases [p, b] and shifts [p, b/2+1].
// Sums of group blocks are shifted by shift and added to the bias. They must fit:
// see the limits of package fixed. Where there are more blocks than group, group
// is even.
func (c *FixedCirculant) Pack(w []int16, p, q int, bias []int32, shifts []int8, group, shift int) FixedCirculantWeights {
	b, u := c.b, c.GroupBlocks()
	if len(w) != p*q*b || len(bias) != p*b || len(shifts) != p*(b/2+1) || group < 1 || group < q && group%2 != 0 {
		panic(fmt.Sprintf("simd: FixedCirculant of %d: %d weights for %d×%d blocks, %d biases, %d shifts, groups of %d", b, len(w), p, q, len(bias), len(shifts), group))
	}
	out := FixedCirculantWeights{q: q, group: group, shift: shift}
	groups := (p + u - 1) / u
	per := 1 // groups of a part: the fewest that fill whole steps
	for per*u%c.k.maxRows != 0 {
		per++
	}
	eachRun(groups, per, func(first, n int) {
		part := FixedCirculantPart{First: first, Groups: n}
		eachRun(n*u, c.k.maxRows, func(row, rows int) {
			part.steps = append(part.steps, c.step(w, p, q, bias, shifts, first*u+row, row, rows))
		})
		out.Parts = append(out.Parts, part)
	})
	return out
}

// step packs rows rows of blocks from row first of the matrix on.
func (c *FixedCirculant) step(w []int16, p, q int, bias []int32, shifts []int8, first, row, rows int) fixedStep {
	b := c.b
	s := fixedStep{row: row, rows: rows}
	number := func(r, j, k int) uint32 {
		if first+r >= p || j >= q {
			return 0
		}
		return uint32(uint16(w[((first+r)*q+j)*b+k]))
	}
	if c.Pairs() {
		for j := 0; j < q; j += 2 {
			for k := range 2 {
				for r := range rows {
					s.w = append(s.w, int32(number(r, j, k)|number(r, j+1, k)<<16))
				}
			}
		}
	}
	for k := 0; k < b; k += 2 {
		if k == 0 && c.Pairs() {
			continue
		}
		for j := range q {
			for r := range rows {
				s.w = append(s.w, int32(number(r, j, k)|number(r, j, k+1)<<16))
			}
		}
	}
	for k := 0; k < b; k += 2 {
		for r := range rows {
			var end [4]int32 // what the sums begin with, half of the last shift included, and the shifts
			if i := first + r; i < p {
				for n := range 2 {
					sh := int32(shifts[i*(b/2+1)+fixedBin(k+n)])
					end[n], end[2+n] = bias[i*b+k+n], sh
					if sh > 0 {
						end[n] += 1 << (sh - 1)
					}
				}
			}
			s.ends = append(s.ends, end[:]...)
		}
	}
	return s
}

// Products multiplies a tile of inputs by the weights of a part: y becomes the
// tile of its groups.
func (c *FixedCirculant) Products(y []int32, w *FixedCirculantWeights, part *FixedCirculantPart, x []int32) {
	real, bins := 0, c.b/2
	if c.Pairs() {
		real, bins = (w.q+1)/2, bins-1
	}
	round := 0
	if w.shift > 0 {
		round = 1 << (w.shift - 1)
	}
	product := c.k.product
	if w.q == 0 {
		product = fixedProducts(c.lanes)
	}
	if len(y) < c.Tile(part.Groups) || len(x) < w.q*c.vecs()*c.lanes {
		panic(fmt.Sprintf("simd: FixedCirculant of %d: Products of %d groups from %d to %d elements", c.b, part.Groups, len(x), len(y)))
	}
	for i := range part.steps {
		s := &part.steps[i]
		product(y[s.row*c.vecs()*c.lanes:], x, s.w, s.ends, s.rows, real, bins, w.q, w.group, w.shift, round, int(c.Limit()), c.vecs())
	}
}

// fixedProducts returns the portable product for so many lanes: with v(k) the
// vector k of a row of y or a block of x, which are vecs vectors apart, and ends
// [bins, rows, 4],
//
//	y(r, k) = clamp((ends[k/2, r, k%2] + Σ_g (round + Σ_j x(j, k)·w[j, r]) >> shift) >> ends[k/2, r, 2+k%2], ±limit)
//
// with the two products of halves for x·w, sums over j in groups of group blocks,
// for k = 2, 3, …; and for k = 0, 1, where real is not 0, over real pairs of
// blocks in groups of group/2, whose weights are [real, 2, rows]. bins counts the
// pairs of vectors of the former, with weights [bins, q, rows].
func fixedProducts(lanes int) func(y, x, w, ends []int32, rows, real, bins, q, group, shift, round, limit, vecs int) {
	return func(y, x, w, ends []int32, rows, real, bins, q, group, shift, round, limit, vecs int) {
		sum := func(k, step, count, group int, wide bool) {
			for r := range rows {
				for n := range 2 {
					e := ends[(k/2*rows+r)*4:]
					to := y[(r*vecs+k+n)*lanes:][:lanes]
					for l := range to {
						to[l] = e[n]
					}
					for first := 0; first < count; first += group {
						for l := range to {
							s := int32(round)
							for j := first; j < min(first+group, count); j++ {
								at := j*rows + r
								if wide {
									at = (2*j+n)*rows + r
								}
								v, a := x[(j*step*vecs+k+n)*lanes+l], w[at]
								s += int32(int16(v))*int32(int16(a)) + v>>16*(a>>16)
							}
							to[l] += s >> shift
						}
					}
					for l, v := range to {
						to[l] = min(max(v>>e[2+n], -int32(limit)), int32(limit))
					}
				}
			}
		}
		k := 0
		if real > 0 || vecs <= 17 {
			sum(0, 2, real, max(1, group/2), true)
			w, k = w[2*real*rows:], 2
		}
		for range bins {
			sum(k, 1, q, group, false)
			w, k = w[q*rows:], k+2
		}
	}
}

const portableFixedTokens = 8

var portableFixedCirculant = fixedCirculantKernels{lanes: portableFixedTokens, maxRows: 4, product: fixedProducts(portableFixedTokens)}

// fixedFFT has the integer Fourier transforms F and G of package fixed, without
// their requantisations.
type fixedFFT struct {
	b   int
	cos []int32 // in units of 2⁻¹⁵, by [N/4 + f], N = 8 … b
	sin []int32
}

func newFixedFFT(b int) fixedFFT {
	f := fixedFFT{b: b, cos: make([]int32, max(b/2, 1)), sin: make([]int32, max(b/2, 1))}
	for n := 8; n <= b; n *= 2 {
		for i := 1; i < n/4; i++ {
			c, s := FixedTwiddle(i, n)
			f.cos[n/4+i], f.sin[n/4+i] = c, s
		}
	}
	return f
}

// FixedTwiddle is the cosine and the sine of 2πf/n, times 2¹⁵.
func FixedTwiddle(f, n int) (c, s int32) {
	sin, cos := math.Sincos(2 * math.Pi * float64(f) / float64(n))
	return int32(math.Round(cos * (1 << 15))), int32(math.Round(sin * (1 << 15)))
}

// sum24 is a + b with 24 significant bits, ties to even, as float32 has them.
func sum24(a, b int32) int32 { return int32(float32(a + b)) }

// roundSum24 is ⌊v/2ˢ + ½⌋ of a sum of 24 significant bits.
func roundSum24(v int32, s int) int32 {
	if s == 0 {
		return v
	}
	return int32(int64(float32(int64(v)+1<<(s-1))) >> s)
}

// mac is a + x·w/2¹⁵, rounded to the nearest multiple of 2ᵘ, ties to even ones.
func mac(a, x, w int32, u int) int32 { return nearest(int64(a)<<15+int64(x)*int64(w), 15+u) << u }

// nearest is v/2ˢ, rounded to the nearest integer, ties to even.
func nearest(v int64, s int) int32 { return int32((v + 1<<(s-1) - 1 + v>>s&1) >> s) }

// fwd transforms v in place, with as much scratch.
func (f *fixedFFT) fwd(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = sum24(v[0], v[1]), sum24(v[0], -v[1])
		return
	}
	h := n / 2
	for i := range h {
		t[i], t[h+i] = v[2*i], v[2*i+1]
	}
	f.fwd(t[:h], v[:h])
	f.fwd(t[h:n], v[:h])
	e, o := t[:h], t[h:n]
	u := 0
	switch {
	case f.b >= coarseFrom && n == f.b:
		u = 2
	case f.b >= coarseFrom && n == f.b/2:
		u = 1
	}
	v[0], v[1] = sum24(e[0], o[0]), sum24(e[0], -o[0])
	v[h], v[h+1] = e[1], -o[1] // bin h/2
	for i := 1; i < h/2; i++ {
		c, s := f.cos[n/4+i], f.sin[n/4+i]
		er, ei, or, oi := e[2*i], e[2*i+1], o[2*i], o[2*i+1]
		pr := mac(mac(0, oi, s, u), or, c, u)
		pi := mac(mac(0, or, -s, u), oi, c, u)
		v[2*i], v[2*i+1] = sum24(er, pr), sum24(ei, pi)
		v[n-2*i], v[n-2*i+1] = sum24(er, -pr), sum24(pi, -ei)
	}
}

// inv is the inverse of fwd, without the factor 1/n.
func (f *fixedFFT) inv(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = sum24(v[0], v[1]), sum24(v[0], -v[1])
		return
	}
	h := n / 2
	u := f.coarse(n)
	e, o := t[:h], t[h:n]
	e[0], o[0] = sum24(v[0], v[1]), sum24(v[0], -v[1])
	e[1], o[1] = 2*v[h], -2*v[h+1]
	for i := 1; i < h/2; i++ {
		c, s := f.cos[n/4+i], f.sin[n/4+i]
		ar, ai, br, bi := v[2*i], v[2*i+1], v[n-2*i], v[n-2*i+1]
		e[2*i], e[2*i+1] = sum24(ar, br), sum24(ai, -bi)
		dr, di := sum24(ar, -br), sum24(ai, bi)
		o[2*i] = mac(mac(0, di, -s, u), dr, c, u)
		o[2*i+1] = mac(mac(0, dr, s, u), di, c, u)
	}
	f.inv(e, v[:h])
	f.inv(o, v[:h])
	for i := range h {
		v[2*i], v[2*i+1] = t[i], t[h+i]
	}
}

// coarse is u where the inverse transform rounds what it rotates from n numbers
// to multiples of 2ᵘ.
func (f *fixedFFT) coarse(n int) int {
	if f.b < coarseFrom {
		return 0
	}
	switch n {
	case 16:
		return 1
	case 8:
		return 2
	}
	return 0
}
