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
// # Spectra
//
// The transform of b real numbers, X(f) = Σ_c x[c]·exp(−2πi·f·c/b), has
// ⌊b/2⌋+1 bins. Bin 0, and bin b/2 of an even b, are real; the others are
// complex. A spectrum is b real numbers, its planes: bin 0, bin b/2 (even b), then
// real and imaginary part of bins 1, 2, ….
//
// The product of two complex bins takes three multiplications,
//
//	k₁ = wr·(xr + xi),  k₂ = (wi − wr)·xr,  k₃ = (wr + wi)·xi,
//	re = k₁ − k₃,       im = k₁ + k₂,
//
// and because the combination is linear it waits until the sums over the input
// blocks are taken. So between the transforms there is a real matrix product for
// every real bin and three for every complex one. What is added before and after
// them stays in registers.
//
// # Layout
//
// A vector holds one number of Lanes rows. A row is what is transformed, and
// [Rows] says where the rows lie. They are cut into groups of Columns columns, as
// many blocks as fill a cache line of 16 elements and at least one. Transformed,
// they are a tile [blocks, Pitch, lanes], of which b vectors of a block count.
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
// (s − wr) − wr, each step rounded. The weights lie in the order in which a single
// token reads them, which takes the time that memory takes.
//
// # Bits
//
// Every path computes the sums over blocks in their order, and every lane by
// itself, so bits do not depend on which of the product kernels is used. The
// assembly paths fuse the same multiply-adds and agree to the bit.
type Circulant struct {
	b, lanes int
	k        *circulantKernels
	store    *Store // of weights
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
	tile     func(y, w, diff, x []float32, at []int, k, stride, pitch, reals, bins, yHalf int)
	pairs    func(y, w, x []float32, at []int, k, stride, pitch, reals, bins int)
	row      func(y, w, x []float32, k, unit, stride, spacing, vecs, pitch, reals, bins int)
	ask      func(x []float32) // brings the first elements of x into a cache; nil: nothing does
}

// Circulant returns the kernels for block size b ≥ 2.
func (kn *Kernels) Circulant(b int) *Circulant {
	if b < 2 {
		panic(fmt.Sprintf("simd: Circulant: block size is %d, want at least 2", b))
	}
	c := &Circulant{b: b, lanes: kn.circulant.lanes, k: &kn.circulant, store: kn.store, dft: newDFT(b)}
	if l := bits.TrailingZeros(uint(b)); b == 1<<l && l < len(c.k.forward) {
		c.forward, c.inverse = c.k.forward[l], c.k.inverse[l]
		c.forwardImage, c.inverseImage = c.k.image[l], c.k.unimage[l]
	}
	return c
}

// Lanes is the number of rows of a tile.
func (c *Circulant) Lanes() int { return c.lanes }

// Block is the block size b, and the number of planes of a spectrum.
func (c *Circulant) Block() int { return c.b }

// Pitch is the number of vectors from one block of a tile to the next, the first b
// of which are its planes. It is odd: products read one plane of all blocks, which
// at a power of two would share few sets of the first cache.
func (c *Circulant) Pitch() int { return c.b | 1 }

// tile is the number of elements of the tile of that many groups.
func (c *Circulant) tile(groups int) int { return groups * c.GroupBlocks() * c.Pitch() * c.lanes }

// Multiplications is how many a block of weights takes for a token, and the number
// of planes of transformed images, which have one for each: 3b/2 − 1 for an even b.
func (c *Circulant) Multiplications() int { return c.realBins() + 3*c.complexBins() }

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
// becomes [groups·Columns/b, Pitch, Lanes].
func (c *Circulant) Forward(dst, x []float32, rows Rows, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Forward: dst", dst, c.tile(groups))
	need("Forward: x", x, rows.at(c.lanes-1)+(groups-1)*rows.Group+c.Columns())
	need("Forward: scratch", scratch, c.Scratch())
	if c.forward != nil {
		c.forward(dst, x, rows.Odd, rows.Pair, rows.Group, groups, scratch)
		return
	}
	step, u := c.Pitch()*c.lanes, c.GroupBlocks()
	for j := range groups * u {
		for r := range c.lanes {
			for k, v := range x[rows.at(r)+j/u*rows.Group+j%u*c.b:][:c.b] {
				scratch[k*c.lanes+r] = v
			}
		}
		c.dft.forward(dst[j*step:(j+1)*step], scratch[:c.b*c.lanes], c.lanes)
	}
}

// Inverse undoes Forward, without the factor 1/b, of src [groups·Columns/b,
// Pitch, Lanes], and adds the bias, whose group g starts at bias[g·rows.Group], for odd
// rows biasOdd elements further on. It may destroy src.
func (c *Circulant) Inverse(y []float32, rows Rows, src, bias []float32, biasOdd, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Inverse: src", src, c.tile(groups))
	need("Inverse: y", y, rows.at(c.lanes-1)+(groups-1)*rows.Group+c.Columns())
	need("Inverse: bias", bias, (groups-1)*rows.Group+biasOdd+c.Columns())
	need("Inverse: scratch", scratch, c.Scratch())
	if c.inverse != nil {
		c.inverse(y, rows.Odd, rows.Pair, rows.Group, src, bias, biasOdd, groups, scratch)
		return
	}
	step, u := c.Pitch()*c.lanes, c.GroupBlocks()
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
	return c.imageStage() + c.Multiplications()*c.lanes
}

// imageStage is where the scratch memory of images has a vector of every plane
// for pixels that do not fill one. Before it, assembly has the scratch of the
// other transforms and the spectrum at hand.
func (c *Circulant) imageStage() int {
	return (circulantScratch*c.b + imagePad + c.b) * c.lanes
}

// imagePad is how many vectors the generator leaves between the two.
const imagePad = 16

// ForwardImage transforms the blocks of n pixels. Element k of the block of a
// pixel is in a plane of its own, at x[k·xStep + pixel], and so is what it
// becomes: a plane for every multiplication, at dst[k·dstStep + pixel]. A complex
// bin has xr + xi, xr and xi. A pixel's bits do not depend on the others.
func (c *Circulant) ForwardImage(dst []float32, dstStep int, x []float32, xStep, n int, scratch []float32) {
	if n <= 0 {
		return
	}
	need("ForwardImage: dst", dst, (c.Multiplications()-1)*dstStep+n)
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
			gatherPixels(dst, dstStep, stage, c.lanes, c.Multiplications(), n)
		}
		return
	}
	stage, planes := scratch[:c.b*c.lanes], scratch[c.b*c.lanes:][:c.b*c.lanes]
	for at := 0; at < n; at += c.lanes {
		m := min(c.lanes, n-at)
		clear(stage)
		gatherPixels(stage, c.lanes, x[at:], xStep, c.b, m)
		c.dft.forward(planes, stage, c.lanes)
		gatherPixels(dst[at:], dstStep, planes, c.lanes, c.realBins(), m)
		for f := range c.complexBins() {
			re, im := planes[(c.realBins()+2*f)*c.lanes:][:m], planes[(c.realBins()+2*f+1)*c.lanes:][:m]
			to := dst[(c.realBins()+3*f)*dstStep+at:]
			for i, v := range re {
				to[i] = v + im[i]
			}
			copy(to[dstStep:], re)
			copy(to[2*dstStep:], im)
		}
	}
}

// gatherPixels copies n pixels of planes, a step apart.
func gatherPixels(dst []float32, dstStep int, src []float32, srcStep, planes, n int) {
	for k := range planes {
		copy(dst[k*dstStep:][:n], src[k*srcStep:][:n])
	}
}

// InverseImage undoes [Circulant.ForwardImage], without the factor 1/b, for the
// results k₁, k₂ and k₃ of the multiplications: element k of the block of a pixel is
//
//	y[k·yStep + pixel] = limit(bias[k] + …)
//
// limited to [lo, hi] (NaN stays).
func (c *Circulant) InverseImage(y []float32, yStep int, src []float32, srcStep, n int, bias []float32, lo, hi float32, scratch []float32) {
	if n <= 0 {
		return
	}
	need("InverseImage: y", y, (c.b-1)*yStep+n)
	need("InverseImage: src", src, (c.Multiplications()-1)*srcStep+n)
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
			gatherPixels(stage, c.lanes, src, srcStep, c.Multiplications(), n)
			c.inverseImage(stage, c.lanes, stage, c.lanes, bias, lo, hi, 1, scratch)
			gatherPixels(y, yStep, stage, c.lanes, c.b, n)
		}
		return
	}
	stage, planes := scratch[:c.b*c.lanes], scratch[c.b*c.lanes:][:c.b*c.lanes]
	for at := 0; at < n; at += c.lanes {
		m := min(c.lanes, n-at)
		clear(planes)
		gatherPixels(planes, c.lanes, src[at:], srcStep, c.realBins(), m)
		for f := range c.complexBins() {
			re, im := planes[(c.realBins()+2*f)*c.lanes:][:m], planes[(c.realBins()+2*f+1)*c.lanes:][:m]
			from := src[(c.realBins()+3*f)*srcStep+at:]
			k2, k3 := from[srcStep:], from[2*srcStep:]
			for i := range re {
				re[i], im[i] = from[i]-k3[i], from[i]+k2[i]
			}
		}
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
// the complex bins [q, 2, n]; and their d [q, n] from bins·q·r on of diff. In a
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
		w:    c.store.Get(c.b*q*groups*u + slack),
		diff: c.store.Get(max(1, c.complexBins()*q)*groups*u + slack),
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
					at[(k*q+2*j)*panel.rows+r], at[(k*q+2*j+1)*panel.rows+r] = wr, sum
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
	u, tile := c.GroupBlocks(), c.Pitch()*c.lanes
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

// Products multiplies a tile of inputs x [q, Pitch, Lanes] by the weights of a part of
// w.Tiles: y becomes two tiles of pairs [⌈part.Groups/2⌉·Columns/b, Pitch, Lanes], that
// of the even rows of x and, yHalf elements after it, that of the odd rows.
func (c *Circulant) Products(y []float32, yHalf int, w CirculantWeights, part CirculantPart, x []float32) {
	need("Products: y", y, yHalf+c.tile((part.Groups+1)/2))
	need("Products: x", x, w.q*c.Pitch()*c.lanes)
	for _, s := range part.steps {
		c.k.tile(y, w.w[s.w:], w.diff[s.diff:], x, s.at, w.q, s.stride, c.Pitch(), c.realBins(), c.complexBins(), yHalf)
	}
}

// PairProducts multiplies a tile x [q, Pitch, Lanes] in which rows 2i and 2i+1 are
// equal by the weights of a part of w.Pairs: y becomes the tile of pairs
// [⌈part.Groups/2⌉·Columns/b, Pitch, Lanes].
func (c *Circulant) PairProducts(y []float32, w CirculantWeights, part CirculantPart, x []float32) {
	need("PairProducts: y", y, c.tile((part.Groups+1)/2))
	need("PairProducts: x", x, w.q*c.Pitch()*c.lanes)
	for _, s := range part.steps {
		c.k.pairs(y, w.w[s.w:], x, s.at, w.q, s.stride, c.Pitch(), c.realBins(), c.complexBins())
	}
}

// RowBlocks is the number of blocks of the tile that one row of n blocks takes
// when its groups are the rows.
func (c *Circulant) RowBlocks(n int) int {
	groups := (n + c.GroupBlocks() - 1) / c.GroupBlocks()
	return (groups + c.lanes - 1) / c.lanes * c.GroupBlocks()
}

// RowProduct multiplies one row of q blocks by the weights. Its groups are the
// rows of the transforms: x is [RowBlocks(q), Pitch, Lanes], y becomes
// [RowBlocks(p), Pitch, Lanes].
func (c *Circulant) RowProduct(y []float32, w CirculantWeights, x []float32) {
	u := c.GroupBlocks()
	need("RowProduct: y", y, c.RowBlocks(w.p)*c.Pitch()*c.lanes)
	need("RowProduct: x", x, c.RowBlocks(w.q)*c.Pitch()*c.lanes)
	for _, p := range w.panels {
		for v := 0; v < p.vecs; v += c.k.maxVecs {
			n := min(c.k.maxVecs, p.vecs-v)
			c.k.row(y[(p.first/c.lanes+v)*c.Pitch()*c.lanes:], w.w[c.b*w.q*p.first+v*p.spacing:], x, w.q, u, p.rows, p.spacing, n, c.Pitch(), c.realBins(), c.complexBins())
		}
	}
}

// AskRow asks the memory for the weights with which a RowProduct begins. It returns
// at once, so that they come while the row is transformed.
func (c *Circulant) AskRow(w CirculantWeights) {
	if c.k.ask != nil {
		c.k.ask(w.w[:min(len(w.w), circulantAsk)])
	}
}

// circulantAsk is how many elements AskRow asks for: as many as a RowProduct is
// ahead.
const circulantAsk = 2048

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

// circulantTile computes products of two halves h = 0, 1 for pairs m < len(at),
// with lanes the length of a vector. Spectrum Y(h, m) goes into the vectors from
// element h·yHalf + at[m] of y on; in lane t it is
//
//	Y(h, m) = Σ_j W(j, 2m + t%2) · X(j, t − t%2 + h)
//
// with sums over j < k in their order, X(j, l) lane l of the vectors from element
// j·pitch·lanes of x on, and products of complex bins as [Circulant] says. A
// spectrum has reals real bins and bins complex ones. At stride s, row r of the
// weights of block j is
//
//	w[(f·k+j)·s + r]                      for the real bin f,
//	w[(reals·k + 2·(f·k+j))·s + r]        wr of the complex bin f,
//	w[(reals·k + 2·(f·k+j) + 1)·s + r]    wr + wi,
//	diff[(f·k+j)·s + r]                   wi − wr.
//
// Where the pairs are more than the rows, weights of the last lanes may be any that
// follow; assembly reads up to 15 elements after the last weight.
func circulantTile(y, w, diff, x []float32, at []int, k, stride, pitch, reals, bins, yHalf int) {
	const lanes = portableLanes
	type vector = [lanes]float32
	for m, first := range at {
		for h := range 2 {
			y := y[first+h*yHalf:]
			for f := range reals {
				s := (*vector)(y[f*lanes:])
				clear(s[:])
				for j := range k {
					a := w[(f*k+j)*stride+2*m:]
					v := (*vector)(x[(j*pitch+f)*lanes:])
					for t := range s {
						s[t] += float32(a[t%2] * v[t-t%2+h])
					}
				}
			}
			for f := range bins {
				var k1, k2, k3 vector
				plane := reals + 2*f
				for j := range k {
					wr := w[(reals*k+2*(f*k+j))*stride+2*m:]
					ws := wr[stride:]
					wd := diff[(f*k+j)*stride+2*m:]
					v := x[(j*pitch+plane)*lanes:][: 2*lanes : 2*lanes]
					for t := range k1 {
						re, im := v[t-t%2+h], v[lanes+t-t%2+h]
						k1[t] += float32(wr[t%2] * (re + im))
						k2[t] += float32(wd[t%2] * re)
						k3[t] += float32(ws[t%2] * im)
					}
				}
				combine(y[plane*lanes:], k1[:], k2[:], k3[:])
			}
		}
	}
}

// combine makes real and imaginary part of the sums of products of a complex bin.
func combine(y, k1, k2, k3 []float32) {
	re, im := y[:len(k1)], y[len(k1):][:len(k1)]
	for t, v := range k1 {
		re[t], im[t] = v-k3[t], v+k2[t]
	}
}

// circulantPairs is circulantTile where lanes 2i and 2i+1 of x are equal, and so
// are the two halves: it computes the first, and makes what would be in diff.
func circulantPairs(y, w, x []float32, at []int, k, stride, pitch, reals, bins int) {
	const lanes = portableLanes
	type vector = [lanes]float32
	for m, first := range at {
		for f := range reals {
			s := (*vector)(y[first+f*lanes:])
			clear(s[:])
			for j := range k {
				a := w[(f*k+j)*stride+2*m:]
				v := (*vector)(x[(j*pitch+f)*lanes:])
				for t := range s {
					s[t] += float32(a[t%2] * v[t])
				}
			}
		}
		for f := range bins {
			var k1, k2, k3 vector
			plane := reals + 2*f
			for j := range k {
				wr := w[(reals*k+2*(f*k+j))*stride+2*m:]
				ws := wr[stride:]
				v := x[(j*pitch+plane)*lanes:][: 2*lanes : 2*lanes]
				for t := range k1 {
					re, sum := wr[t%2], ws[t%2]
					k1[t] += float32(re * (v[t] + v[lanes+t]))
					k2[t] += float32((sum - re - re) * v[t])
					k3[t] += float32(sum * v[lanes+t])
				}
			}
			combine(y[first+plane*lanes:], k1[:], k2[:], k3[:])
		}
	}
}

// circulantRow is circulantTile for one row whose lanes are blocks: with
// X(plane, j) the element
// ((j/unit/lanes·unit+j%unit)·pitch+plane)·lanes + j/unit%lanes of x, lane t of
//
//	Y(v) = Σ_j W(j, v·spacing + t) · X(j)
//
// for v < vecs goes into the vectors from element v·pitch·lanes of y on. Where the rows are fewer than lanes, weights of the last lanes may be any that
// follow.
func circulantRow(y, w, x []float32, k, unit, stride, spacing, vecs, pitch, reals, bins int) {
	const lanes = portableLanes
	type vector = [lanes]float32
	at := func(plane, j int) float32 {
		return x[((j/unit/lanes*unit+j%unit)*pitch+plane)*lanes+j/unit%lanes]
	}
	for v := range vecs {
		w, y := w[v*spacing:], y[v*pitch*lanes:]
		for f := range reals {
			s := (*vector)(y[f*lanes:])
			clear(s[:])
			for j := range k {
				a, u := at(f, j), (*vector)(w[(f*k+j)*stride:])
				for t := range s {
					s[t] += float32(u[t] * a)
				}
			}
		}
		for f := range bins {
			var k1, k2, k3 vector
			plane := reals + 2*f
			for j := range k {
				xr, xi := at(plane, j), at(plane+1, j)
				xs := xr + xi
				wr := (*vector)(w[(reals*k+2*(f*k+j))*stride:])
				ws := (*vector)(w[(reals*k+2*(f*k+j)+1)*stride:])
				for t := range k1 {
					k1[t] += float32(wr[t] * xs)
					k2[t] += float32((ws[t] - wr[t] - wr[t]) * xr)
					k3[t] += float32(ws[t] * xi)
				}
			}
			combine(y[plane*lanes:], k1[:], k2[:], k3[:])
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

// realPlanes is the number of planes of real bins.
func (d dft) realPlanes() int { return 2 - d.b%2 }

// forward transforms x [b, lanes] into the planes dst [b, lanes]. It destroys x.
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
	for k := d.realPlanes(); k < d.b; k += 2 {
		f := (k-d.realPlanes())/2 + 1
		re, im := out(k), out(k+1)
		copy(re, row(0))
		clear(im)
		for c := 1; c < d.b; c++ {
			axpy(re, row(c), d.cos[f*c%d.b])
			axpy(im, row(c), -d.sin[f*c%d.b])
		}
	}
}

// inverse transforms the planes k [b, lanes] into x [b, lanes], without the factor
// 1/b.
func (d dft) inverse(x, k []float32, lanes int) {
	in := func(i int) []float32 { return k[i*lanes : (i+1)*lanes] }
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
		for i := d.realPlanes(); i < d.b; i += 2 {
			f := (i-d.realPlanes())/2 + 1
			axpy(out, in(i), 2*d.cos[f*c%d.b])
			axpy(out, in(i+1), -2*d.sin[f*c%d.b])
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
		xr, xi := out(2*f), out(2*f+1)
		ar, ai, br, bi := re(f), im(f), re(h-f), im(h-f)
		for t := range xr {
			er, ei := (ar[t]+br[t])/2, (ai[t]-bi[t])/2
			or, oi := ai[t]+bi[t], br[t]-ar[t] // −i·(Z − Z*)
			xr[t] = er + float32(c*or) + float32(s*oi)
			xi[t] = ei + float32(c*oi) - float32(s*or)
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
		ar, ai, br, bi := in(2*f), in(2*f+1), in(2*(h-f)), in(2*(h-f)+1)
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
