package simd

import (
	"fmt"
	"math"
	"math/bits"
	"unsafe"
)

// A block-circulant product with block size b runs in three steps: the real
// discrete Fourier transform of the blocks of the input, a matrix product for
// every frequency, and the inverse transform. A [Circulant] has their kernels.
//
// # Spectra and planes
//
// The transform of b real numbers, X(f) = Σ_c x[c]·exp(−2πi·f·c/b), has
// ⌊b/2⌋+1 bins. Bin 0, and bin b/2 of an even b, are real; the others are
// complex. A spectrum lists b real numbers: bin 0, bin b/2 (even b), then real
// and imaginary part of bins 1, 2, ….
//
// The product of two complex bins takes three multiplications,
//
//	k₁ = wr·(xr + xi),  k₂ = (wi − wr)·xr,  k₃ = (wr + wi)·xi,
//	re = k₁ − k₃,       im = k₁ + k₂,
//
// and because the combination is linear it can wait until the sums over the
// input blocks are taken. So everything between the transforms is a real matrix
// product for every plane: a real bin is one plane, a complex bin is three.
//
// # Layout
//
// A vector holds one number of Lanes rows. A row is what is transformed, and
// [Rows] says where the rows lie. They are cut into groups of Columns columns, as
// many blocks as fill a cache line of 16 elements and at least one. Transformed,
// they are a tile [blocks, planes, lanes].
//
// Products come in three widths. [Circulant.Products] takes a tile of Lanes
// tokens, a row each, and [Circulant.PairProducts] one of Lanes/2 tokens, each of
// which is two equal rows. Both give tiles of pairs: rows 2i and 2i+1 are the
// groups 2g and 2g+1 of one token. Written side by side, they keep what is stored
// together off the same set of the cache when tokens lie a multiple of 4 KB
// apart, which made the inverse transform half as fast. For
// [Circulant.RowProduct] the rows are the groups of a single token.
//
// All three read wr and s = wr + wi of a complex bin, so b numbers a block. Where
// there are many tokens, the time that making d = wi − wr takes counts, and it is
// read too; the others make it from s. That all have the same bits, it is
// (s − wr) − wr, each step rounded.
//
// # Bits
//
// Every path computes the sums over blocks in their order, and every lane by
// itself, so bits do not depend on which of the product kernels is used. The
// assembly paths fuse the same multiply-adds and agree to the bit.
type Circulant struct {
	b, lanes int
	k        *circulantKernels
	dft      dft
	forward  circulantTransform // nil: portable
	inverse  circulantInverse

	forwardImage circulantImage
	inverseImage circulantImageInverse
}

type (
	circulantTransform    func(dst, x []float32, odd, pair, group, groups int, scratch []float32)
	circulantInverse      func(y []float32, odd, pair, group int, src, bias []float32, biasOdd, groups int, scratch []float32)
	circulantImage        func(dst []float32, dstStep int, x []float32, xStep, vecs int, scratch []float32)
	circulantImageInverse func(y []float32, yStep int, src []float32, srcStep int, bias []float32, lo, hi float32, vecs int, scratch []float32)
)

// Rows says where the rows of a tile lie in a slice: group g of row 2i + s, s = 0
// or 1, starts at element i·Pair + s·Odd + g·Group.
type Rows struct{ Odd, Pair, Group int }

// at is where the row starts.
func (r Rows) at(row int) int { return row/2*r.Pair + row%2*r.Odd }

// circulantKernels is what a path brings to block-circulant products. The
// comments of the portable functions say what the fields compute. Transforms
// are indexed by log₂ b; where there is none, the portable one is used.
type circulantKernels struct {
	lanes    int // rows of a tile
	maxTile  int // pairs of rows of blocks that tile multiplies at most
	maxPairs int // pairs of them that pairs multiplies at most
	maxVecs  int // vectors of them that row multiplies at most
	forward  [9]circulantTransform
	inverse  [9]circulantInverse
	image    [9]circulantImage
	unimage  [9]circulantImageInverse
	tile     func(y, w, diff, x []float32, at []int, k, stride, planes, bins, yHalf int)
	pairs    func(y, w, x []float32, at []int, k, stride, planes, bins int)
	row      func(y, w, x []float32, k, unit, stride, spacing, vecs, planes, bins int)
}

// Circulant returns the kernels for block size b ≥ 2.
func (kn *Kernels) Circulant(b int) *Circulant {
	if b < 2 {
		panic(fmt.Sprintf("simd: Circulant: block size is %d, want at least 2", b))
	}
	c := &Circulant{b: b, lanes: kn.circulant.lanes, k: &kn.circulant, dft: newDFT(b)}
	if l := bits.TrailingZeros(uint(b)); b == 1<<l && l < len(c.k.forward) {
		c.forward, c.inverse = c.k.forward[l], c.k.inverse[l]
		c.forwardImage, c.inverseImage = c.k.image[l], c.k.unimage[l]
	}
	return c
}

// Lanes is the number of rows of a tile.
func (c *Circulant) Lanes() int { return c.lanes }

// Planes is the number of planes: 3b/2 − 1 for an even b.
func (c *Circulant) Planes() int { return c.realBins() + 3*c.complexBins() }

// Columns is the number of columns of a group: b, or the 16 of a cache line
// where b divides 16.
func (c *Circulant) Columns() int { return c.b * c.GroupBlocks() }

// GroupBlocks is the number of blocks of a group.
func (c *Circulant) GroupBlocks() int {
	if 16%c.b == 0 {
		return 16 / c.b
	}
	return 1
}

func (c *Circulant) realBins() int    { return 2 - c.b%2 }
func (c *Circulant) complexBins() int { return (c.b - 1) / 2 }

// Scratch is the number of elements of the scratch memory that the transforms
// want.
func (c *Circulant) Scratch() int { return circulantScratch * c.b * c.lanes }

// circulantScratch is the scratch of a transform in its inputs: the input, the
// output of a pass, and registers that were spilled. The generator holds the
// assembly to it.
const circulantScratch = 3

// Forward transforms groups groups of Columns columns of the Lanes rows of x: dst
// becomes [groups·Columns/b, Planes, Lanes]. The planes of a complex bin are
// xr + xi, xr and xi.
func (c *Circulant) Forward(dst, x []float32, rows Rows, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Forward: dst", dst, groups*c.GroupBlocks()*c.Planes()*c.lanes)
	need("Forward: x", x, rows.at(c.lanes-1)+(groups-1)*rows.Group+c.Columns())
	need("Forward: scratch", scratch, c.Scratch())
	if c.forward != nil {
		c.forward(dst, x, rows.Odd, rows.Pair, rows.Group, groups, scratch)
		return
	}
	step, u := c.Planes()*c.lanes, c.GroupBlocks()
	for j := range groups * u {
		for r := range c.lanes {
			for k, v := range x[rows.at(r)+j/u*rows.Group+j%u*c.b:][:c.b] {
				scratch[k*c.lanes+r] = v
			}
		}
		c.dft.forward(dst[j*step:(j+1)*step], scratch[:c.b*c.lanes], c.lanes)
	}
}

// Inverse undoes Forward, without the factor 1/b, for the planes k₁, k₂ and k₃
// of a product src [groups·Columns/b, Planes, Lanes], and adds the bias, whose
// group g starts at bias[g·rows.Group], for odd rows biasOdd elements further
// on. It may destroy src.
func (c *Circulant) Inverse(y []float32, rows Rows, src, bias []float32, biasOdd, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Inverse: src", src, groups*c.GroupBlocks()*c.Planes()*c.lanes)
	need("Inverse: y", y, rows.at(c.lanes-1)+(groups-1)*rows.Group+c.Columns())
	need("Inverse: bias", bias, (groups-1)*rows.Group+biasOdd+c.Columns())
	need("Inverse: scratch", scratch, c.Scratch())
	if c.inverse != nil {
		c.inverse(y, rows.Odd, rows.Pair, rows.Group, src, bias, biasOdd, groups, scratch)
		return
	}
	step, u := c.Planes()*c.lanes, c.GroupBlocks()
	for i := range groups * u {
		x := scratch[:c.b*c.lanes]
		c.dft.inverse(x, src[i*step:(i+1)*step], c.lanes)
		first := i/u*rows.Group + i%u*c.b
		for r := range c.lanes {
			line := y[rows.at(r)+first:][:c.b]
			for k, v := range bias[first+r%2*biasOdd:][:c.b] {
				line[k] = x[k*c.lanes+r] + v
			}
		}
	}
}

// ImageScratch is the number of elements of the scratch memory that the
// transforms of images want.
func (c *Circulant) ImageScratch() int {
	return c.imageStage() + c.Planes()*c.lanes
}

// imageStage is where the scratch memory of images has a vector of every plane
// for pixels that do not fill one. Before it, assembly has the scratch of the
// other transforms and the planes at hand.
func (c *Circulant) imageStage() int {
	return (circulantScratch*c.b + imagePad + c.Planes()) * c.lanes
}

// imagePad is how many vectors the generator leaves between the two.
const imagePad = 16

// ForwardImage transforms the blocks of n pixels. Element k of the block of a
// pixel is in a plane of its own, at x[k·xStep + pixel], and so is what it
// becomes: plane k of [Circulant.Forward] at dst[k·dstStep + pixel]. A pixel's
// bits do not depend on the others.
func (c *Circulant) ForwardImage(dst []float32, dstStep int, x []float32, xStep, n int, scratch []float32) {
	if n <= 0 {
		return
	}
	need("ForwardImage: dst", dst, (c.Planes()-1)*dstStep+n)
	need("ForwardImage: x", x, (c.b-1)*xStep+n)
	need("ForwardImage: scratch", scratch, c.ImageScratch())
	if c.forwardImage != nil {
		vecs, rest := n/c.lanes, n%c.lanes
		if vecs > 0 {
			c.forwardImage(dst, dstStep, x, xStep, vecs, scratch)
		}
		switch {
		case rest == 0:
		case vecs > 0: // the last vector overlaps the one before
			c.forwardImage(dst[n-c.lanes:], dstStep, x[n-c.lanes:], xStep, 1, scratch)
		default:
			// The transform gathers a vector before it writes any, so one stage does.
			stage := scratch[c.imageStage():]
			gatherPixels(stage, c.lanes, x, xStep, c.b, n)
			c.forwardImage(stage, c.lanes, stage, c.lanes, 1, scratch)
			gatherPixels(dst, dstStep, stage, c.lanes, c.Planes(), n)
		}
		return
	}
	stage, planes := scratch[:c.b*c.lanes], scratch[c.b*c.lanes:][:c.Planes()*c.lanes]
	for at := 0; at < n; at += c.lanes {
		m := min(c.lanes, n-at)
		clear(stage)
		gatherPixels(stage, c.lanes, x[at:], xStep, c.b, m)
		c.dft.forward(planes, stage, c.lanes)
		gatherPixels(dst[at:], dstStep, planes, c.lanes, c.Planes(), m)
	}
}

// gatherPixels copies n pixels of planes, a step apart.
func gatherPixels(dst []float32, dstStep int, src []float32, srcStep, planes, n int) {
	for k := range planes {
		copy(dst[k*dstStep:][:n], src[k*srcStep:][:n])
	}
}

// InverseImage undoes [Circulant.ForwardImage] for the planes of products, as
// [Circulant.Inverse] does for tiles: element k of the block of a pixel is
//
//	y[k·yStep + pixel] = limit(bias[k] + …)
//
// limited to [lo, hi] (NaN stays).
func (c *Circulant) InverseImage(y []float32, yStep int, src []float32, srcStep, n int, bias []float32, lo, hi float32, scratch []float32) {
	if n <= 0 {
		return
	}
	need("InverseImage: y", y, (c.b-1)*yStep+n)
	need("InverseImage: src", src, (c.Planes()-1)*srcStep+n)
	need("InverseImage: bias", bias, c.b)
	need("InverseImage: scratch", scratch, c.ImageScratch())
	if c.inverseImage != nil {
		vecs, rest := n/c.lanes, n%c.lanes
		if vecs > 0 {
			c.inverseImage(y, yStep, src, srcStep, bias, lo, hi, vecs, scratch)
		}
		switch {
		case rest == 0:
		case vecs > 0:
			c.inverseImage(y[n-c.lanes:], yStep, src[n-c.lanes:], srcStep, bias, lo, hi, 1, scratch)
		default:
			stage := scratch[c.imageStage():]
			gatherPixels(stage, c.lanes, src, srcStep, c.Planes(), n)
			c.inverseImage(stage, c.lanes, stage, c.lanes, bias, lo, hi, 1, scratch)
			gatherPixels(y, yStep, stage, c.lanes, c.b, n)
		}
		return
	}
	stage, planes := scratch[:c.b*c.lanes], scratch[c.b*c.lanes:][:c.Planes()*c.lanes]
	for at := 0; at < n; at += c.lanes {
		m := min(c.lanes, n-at)
		clear(planes)
		gatherPixels(planes, c.lanes, src[at:], srcStep, c.Planes(), m)
		c.dft.inverse(stage, planes, c.lanes)
		for k := range c.b {
			from, to := stage[k*c.lanes:][:m], y[k*yStep+at:][:m]
			for i, v := range from {
				to[i] = limit(v+bias[k], lo, hi)
			}
		}
	}
}

func need(what string, x []float32, n int) {
	if len(x) < n {
		panic(fmt.Sprintf("simd: Circulant: %s of %d elements, want %d", what, len(x), n))
	}
}

// CirculantWeights are the weights of a block-circulant matrix of p×q blocks in
// the order in which the kernels of one path read them.
//
// The rows of blocks are cut into panels. The panel of n rows from row r on is
// the b·q·n elements from b·q·r on of w: the real bins [q, n], then wr and s of
// the complex bins [2, q, n]; and their d [q, n] from bins·q·r on of diff. In a
// panel the rows are in the order of the lanes of [Circulant.RowProduct]: where a
// group has one block, as they come; else a panel has at most Lanes groups, and
// their first blocks come before their second ones.
type CirculantWeights struct {
	p, q   int
	w      []float32
	diff   []float32
	panels []circulantPanel

	// Tiles and Pairs are the parts in which Products and PairProducts compute.
	Tiles, Pairs []CirculantPart
}

// circulantPanel is a panel of rows rows; lane l of its vector v is row
// v·spacing + l.
type circulantPanel struct{ first, rows, spacing, vecs int }

// A CirculantPart is the groups First … First+Groups−1 of the output, as many as
// are multiplied before they are transformed, while they are in a cache.
type CirculantPart struct {
	First, Groups int
	steps         []circulantStep
}

// circulantStep is one call of a kernel for rows that are next to each other in
// a panel of stride rows. The first is at w and diff. The results of pair i go to
// element at[i] of a tile of the part.
type circulantStep struct {
	w, diff, stride int
	at              []int
}

// Pack returns the weights with the spectra s [b, p, q], which should have the
// factor 1/b of the inverse transform.
func (c *Circulant) Pack(s []float32, p, q int) CirculantWeights {
	need("Pack", s, c.b*p*q)
	u := c.GroupBlocks()
	groups := (p + u - 1) / u
	w := CirculantWeights{
		p: p, q: q,
		w:    LongLived(c.b*q*groups*u + slack),
		diff: LongLived(max(1, c.complexBins()*q)*groups*u + slack),
	}
	vecs := u // of a panel
	if u == 1 {
		vecs = c.k.maxVecs
	}
	for first := 0; first < groups; first += vecs / u * c.lanes {
		n := min(groups-first, vecs/u*c.lanes)
		w.addPanel(c, circulantPanel{first: first * u, rows: n * u, spacing: min(n, c.lanes), vecs: (n + c.lanes - 1) / c.lanes * u})
	}
	for _, panel := range w.panels {
		at, diff := w.w[c.b*q*panel.first:], w.diff[c.complexBins()*q*panel.first:]
		for r := range panel.rows {
			i := panel.first + panel.block(r, u)
			if i >= p {
				continue // the rest of the last group
			}
			for j := range q {
				bin := func(k int) float32 { return s[(k*p+i)*q+j] }
				for k := range c.realBins() {
					at[(k*q+j)*panel.rows+r] = bin(k)
				}
				for f := range c.complexBins() {
					k := c.realBins() + 2*f
					wr, sum := bin(k), bin(k)+bin(k+1)
					at[(k*q+j)*panel.rows+r], at[((k+1)*q+j)*panel.rows+r] = wr, sum
					diff[(f*q+j)*panel.rows+r] = sum - wr - wr
				}
			}
		}
	}
	return w
}

// slack is how many elements after the last one kernels may read: those of a
// vector that is not full.
const slack = 15

// block is the block of the panel that row r is of.
func (p circulantPanel) block(r, unit int) int {
	if unit == 1 {
		return r
	}
	return r%p.spacing*unit + r/p.spacing
}

// addPanel adds a panel and its parts.
func (w *CirculantWeights) addPanel(c *Circulant, p circulantPanel) {
	w.panels = append(w.panels, p)
	w.Tiles = append(w.Tiles, w.parts(c, p, c.k.maxTile)...)
	w.Pairs = append(w.Pairs, w.parts(c, p, c.k.maxPairs)...)
}

// parts cuts a panel into parts and these into steps of at most limit pairs.
func (w *CirculantWeights) parts(c *Circulant, p circulantPanel, limit int) []CirculantPart {
	u, tile := c.GroupBlocks(), c.Planes()*c.lanes
	var parts []CirculantPart
	// Blocks of a group are spacing rows apart. Groups are whole after the last.
	spacing := p.rows / u
	if u > 1 {
		parts = []CirculantPart{{First: p.first / u, Groups: spacing}}
	}
	for block := range u {
		eachRun((spacing+1)/2, limit, func(first, n int) {
			from := first
			if u == 1 {
				parts = append(parts, CirculantPart{First: p.first + 2*first, Groups: min(2*n, p.rows-2*first)})
				from = 0
			}
			row := block*spacing + 2*first
			s := circulantStep{w: c.b*w.q*p.first + row, diff: c.complexBins()*w.q*p.first + row, stride: p.rows}
			for i := range n {
				s.at = append(s.at, ((from+i)*u+block)*tile)
			}
			last := &parts[len(parts)-1]
			last.steps = append(last.steps, s)
		})
	}
	return parts
}

// eachRun cuts n into the fewest runs of at most limit, as equal as can be.
func eachRun(n, limit int, f func(first, n int)) {
	runs := (n + limit - 1) / limit
	for i := range runs {
		f(i*n/runs, (i+1)*n/runs-i*n/runs)
	}
}

// Products multiplies a tile of inputs x [q, Planes, Lanes] by the weights of a
// part of w.Tiles: y becomes two tiles of pairs [⌈part.Groups/2⌉·Columns/b, Planes,
// Lanes] of the planes k₁, k₂, k₃, that of the even rows of x and, yHalf elements
// after it, that of the odd rows.
func (c *Circulant) Products(y []float32, yHalf int, w CirculantWeights, part CirculantPart, x []float32) {
	planes := c.Planes()
	need("Products: y", y, yHalf+(part.Groups+1)/2*c.GroupBlocks()*planes*c.lanes)
	need("Products: x", x, w.q*planes*c.lanes)
	for _, s := range part.steps {
		c.k.tile(y, w.w[s.w:], w.diff[s.diff:], x, s.at, w.q, s.stride, planes, c.complexBins(), yHalf)
	}
}

// PairProducts multiplies a tile x [q, Planes, Lanes] in which rows 2i and 2i+1 are
// equal by the weights of a part of w.Pairs: y becomes the tile of pairs
// [⌈part.Groups/2⌉·Columns/b, Planes, Lanes].
func (c *Circulant) PairProducts(y []float32, w CirculantWeights, part CirculantPart, x []float32) {
	planes := c.Planes()
	need("PairProducts: y", y, (part.Groups+1)/2*c.GroupBlocks()*planes*c.lanes)
	need("PairProducts: x", x, w.q*planes*c.lanes)
	for _, s := range part.steps {
		c.k.pairs(y, w.w[s.w:], x, s.at, w.q, s.stride, planes, c.complexBins())
	}
}

// RowBlocks is the number of blocks of the tile that one row of n blocks takes
// when its groups are the rows.
func (c *Circulant) RowBlocks(n int) int {
	groups := (n + c.GroupBlocks() - 1) / c.GroupBlocks()
	return (groups + c.lanes - 1) / c.lanes * c.GroupBlocks()
}

// RowProduct multiplies one row of q blocks by the weights. Its groups are the
// rows of the transforms: x is [RowBlocks(q), Planes, Lanes], y becomes
// [RowBlocks(p), Planes, Lanes].
func (c *Circulant) RowProduct(y []float32, w CirculantWeights, x []float32) {
	u, planes := c.GroupBlocks(), c.Planes()
	need("RowProduct: y", y, c.RowBlocks(w.p)*planes*c.lanes)
	need("RowProduct: x", x, c.RowBlocks(w.q)*planes*c.lanes)
	for _, p := range w.panels {
		for v := 0; v < p.vecs; v += c.k.maxVecs {
			n := min(c.k.maxVecs, p.vecs-v)
			c.k.row(y[(p.first/c.lanes+v)*planes*c.lanes:], w.w[c.b*w.q*p.first+v*p.spacing:], x, w.q, u, p.rows, p.spacing, n, planes, c.complexBins())
		}
	}
}

// AlignLine returns x from its first element that lies at a multiple of a cache
// line, for kernels that store whole vectors. It drops at most 15 elements.
func AlignLine(x []float32) []float32 {
	if len(x) == 0 {
		return x
	}
	return x[min(len(x), int(-uintptr(unsafe.Pointer(&x[0]))%64/4)):]
}

// portableLanes is the number of rows of the portable tiles: long enough that
// the loops over lanes dominate, short enough for small batches.
const portableLanes = 16

// circulantTile computes sums of two halves h = 0, 1 for pairs m < len(at), with
// lanes the length of a vector: in lane t
//
//	Y(h, plane, m) = Σ_j W(plane, j, 2m + t%2) · x[(j·planes+plane)·lanes + t − t%2 + h]
//
// for plane < planes and sums over j < k in their order, into the vector at
// element h·yHalf + at[m] + plane·lanes of y. With real = planes − 3·bins,
// W(plane, j, r) is, at stride s,
//
//	w[(plane·k+j)·s+r]          for a plane < real,
//	w[((real+2f)·k+j)·s + r]    for k₁ of bin f,
//	diff[(f·k+j)·s + r]         for k₂,
//	w[((real+2f+1)·k+j)·s + r]  for k₃.
//
// Where the pairs are more than the rows, weights of the last lanes may be any that
// follow; assembly reads up to 15 elements after the last weight.
func circulantTile(y, w, diff, x []float32, at []int, k, stride, planes, bins, yHalf int) {
	const lanes = portableLanes
	realBins := planes - 3*bins
	for m, first := range at {
		for plane := range planes {
			from := w
			f := (plane - realBins) / 3
			switch {
			case plane < realBins:
				from = w[plane*k*stride:]
			case (plane-realBins)%3 == 0:
				from = w[(realBins+2*f)*k*stride:]
			case (plane-realBins)%3 == 1:
				from = diff[f*k*stride:]
			default:
				from = w[(realBins+2*f+1)*k*stride:]
			}
			y0 := (*[lanes]float32)(y[first+plane*lanes:])
			y1 := (*[lanes]float32)(y[yHalf+first+plane*lanes:])
			clear(y0[:])
			clear(y1[:])
			for j := range k {
				a, b := from[j*stride+2*m], from[j*stride+2*m+1]
				v := (*[lanes]float32)(x[(j*planes+plane)*lanes:])
				for t := 0; t < lanes; t += 2 {
					y0[t] += float32(a * v[t])
					y0[t+1] += float32(b * v[t])
					y1[t] += float32(a * v[t+1])
					y1[t+1] += float32(b * v[t+1])
				}
			}
		}
	}
}

// circulantPairs is circulantTile where lanes 2i and 2i+1 of x are equal, and so
// are the two halves: it computes the first, and makes what would be in diff.
func circulantPairs(y, w, x []float32, at []int, k, stride, planes, bins int) {
	const lanes = portableLanes
	realBins := planes - 3*bins
	for m, first := range at {
		for plane := range realBins {
			s := (*[lanes]float32)(y[first+plane*lanes:])
			clear(s[:])
			for j := range k {
				a := w[(plane*k+j)*stride+2*m:]
				v := (*[lanes]float32)(x[(j*planes+plane)*lanes:])
				for t := range s {
					s[t] += float32(a[t%2] * v[t])
				}
			}
		}
		for f := range bins {
			plane := realBins + 3*f
			s1 := (*[lanes]float32)(y[first+plane*lanes:])
			s2 := (*[lanes]float32)(y[first+(plane+1)*lanes:])
			s3 := (*[lanes]float32)(y[first+(plane+2)*lanes:])
			clear(s1[:])
			clear(s2[:])
			clear(s3[:])
			for j := range k {
				wr := w[((realBins+2*f)*k+j)*stride+2*m:]
				ws := w[((realBins+2*f+1)*k+j)*stride+2*m:]
				v := x[(j*planes+plane)*lanes:][: 3*lanes : 3*lanes]
				for t := range s1 {
					re, sum := wr[t%2], ws[t%2]
					s1[t] += float32(re * v[t])
					s2[t] += float32((sum - re - re) * v[lanes+t])
					s3[t] += float32(sum * v[2*lanes+t])
				}
			}
		}
	}
}

// circulantRow is circulantTile for one row whose lanes are blocks: with
// X(plane, j) the element
// ((j/unit/lanes·unit+j%unit)·planes+plane)·lanes + j/unit%lanes of x,
//
//	Y(plane, v)[t] = Σ_j W(plane, j, v·spacing + t) · X(plane, j)
//
// for v < vecs goes into the vector at element (v·planes+plane)·lanes of y. Where
// the rows are fewer than lanes, weights of the last lanes may be any that
// follow.
func circulantRow(y, w, x []float32, k, unit, stride, spacing, vecs, planes, bins int) {
	const lanes = portableLanes
	at := func(plane, j int) float32 {
		return x[((j/unit/lanes*unit+j%unit)*planes+plane)*lanes+j/unit%lanes]
	}
	realBins := planes - 3*bins
	for v := range vecs {
		w := w[v*spacing:]
		out := func(plane int) *[lanes]float32 {
			s := (*[lanes]float32)(y[(v*planes+plane)*lanes:])
			clear(s[:])
			return s
		}
		for plane := range realBins {
			s := out(plane)
			for j := range k {
				a, u := at(plane, j), (*[lanes]float32)(w[(plane*k+j)*stride:])
				for t := range s {
					s[t] += float32(u[t] * a)
				}
			}
		}
		for f := range bins {
			plane := realBins + 3*f
			s1, s2, s3 := out(plane), out(plane+1), out(plane+2)
			for j := range k {
				xs, xr, xi := at(plane, j), at(plane+1, j), at(plane+2, j)
				wr := (*[lanes]float32)(w[((realBins+2*f)*k+j)*stride:])
				ws := (*[lanes]float32)(w[((realBins+2*f+1)*k+j)*stride:])
				for t := range s1 {
					s1[t] += float32(wr[t] * xs)
					s2[t] += float32((ws[t] - wr[t] - wr[t]) * xr)
					s3[t] += float32(ws[t] * xi)
				}
			}
		}
	}
}

// dft is the portable real transform of length b over vectors of lanes: element
// c of lane t is at x[c·lanes + t]. Powers of two take the fast transform, other
// lengths the sum as it is written.
type dft struct {
	b        int
	cos, sin []float32 // cos and sin of 2π·k/b, k = 0 … b−1
}

func newDFT(b int) dft {
	d := dft{b: b, cos: make([]float32, b), sin: make([]float32, b)}
	for k := range b {
		s, c := sincosTurn(k, b)
		d.cos[k], d.sin[k] = float32(c), float32(s)
	}
	return d
}

// sincosTurn returns sin and cos of 2π·k/b, 0 ≤ k < b, exact at the quarters.
func sincosTurn(k, b int) (sin, cos float64) {
	switch 4 * k {
	case 0:
		return 0, 1
	case b:
		return 1, 0
	case 2 * b:
		return 0, -1
	case 3 * b:
		return -1, 0
	}
	return math.Sincos(2 * math.Pi * float64(k) / float64(b))
}

// fast reports whether the length is a power of two.
func (d dft) fast() bool { return d.b&(d.b-1) == 0 }

// realPlanes and planes are the numbers of planes of real bins and of all.
func (d dft) realPlanes() int { return 2 - d.b%2 }
func (d dft) planes() int     { return d.realPlanes() + (d.b-1)/2*3 }

// forward computes the planes of the transform of x [b, lanes] into dst
// [planes, lanes]. It destroys x.
func (d dft) forward(dst, x []float32, lanes int) {
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
	for k := d.realPlanes(); k < d.planes(); k += 3 {
		f := (k-d.realPlanes())/3 + 1
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

// inverse combines the planes k [planes, lanes] of a product and transforms
// them into x [b, lanes], without the factor 1/b. It destroys k.
func (d dft) inverse(x, k []float32, lanes int) {
	in := func(i int) []float32 { return k[i*lanes : (i+1)*lanes] }
	for i := d.realPlanes(); i < d.planes(); i += 3 {
		k1, k2, k3 := in(i), in(i+1), in(i+2)
		for t := range k1 {
			k2[t], k3[t] = k1[t]-k3[t], k1[t]+k2[t] // re, im
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
		for i := d.realPlanes(); i < d.planes(); i += 3 {
			f := (i-d.realPlanes())/3 + 1
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
func (d dft) forwardFast(dst, z []float32, lanes int) {
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
func (d dft) inverseFast(z, k []float32, lanes int) {
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
func (d dft) complexFast(z []float32, lanes int, sign float32) {
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

var portableCirculant = circulantKernels{
	lanes: portableLanes, maxTile: 4, maxPairs: 4, maxVecs: 4,
	tile: circulantTile, pairs: circulantPairs, row: circulantRow,
}
