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
// A vector holds one number of Lanes rows. A row is what is transformed: with
// many tokens a row is a token, and its blocks are transformed one after the
// other; with a single token the rows are parts of its input. Rows are cut into
// groups of Columns columns, as many blocks as fill a cache line of 16 elements
// and at least one. Transformed, they are a tile [blocks, planes, lanes].
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
}

type (
	circulantTransform func(dst, x []float32, ld, groups int, scratch []float32)
	circulantInverse   func(y []float32, ld int, src, bias []float32, groups int, scratch []float32)
)

// circulantKernels is what a path brings to block-circulant products. The
// comments of the portable functions say what the fields compute. Transforms
// are indexed by log₂ b; where there is none, the portable one is used.
type circulantKernels struct {
	lanes   int // rows of a tile
	maxRows int // rows of a full panel of weights, in tile products
	maxVecs int // vectors of a full panel of weights, in row products
	forward [9]circulantTransform
	inverse [9]circulantInverse
	tile    func(y, w, x []float32, k, rows, panels, planes, yHalf, xHalf, halves int)
	row     func(y, w, x []float32, k, unit, planes, vecs, bins int)
}

// Circulant returns the kernels for block size b ≥ 2.
func (kn *Kernels) Circulant(b int) *Circulant {
	if b < 2 {
		panic(fmt.Sprintf("simd: Circulant: block size is %d, want at least 2", b))
	}
	c := &Circulant{b: b, lanes: kn.circulant.lanes, k: &kn.circulant, dft: newDFT(b)}
	if l := bits.TrailingZeros(uint(b)); b == 1<<l && l < len(c.k.forward) {
		c.forward, c.inverse = c.k.forward[l], c.k.inverse[l]
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

// Forward transforms groups groups of Columns columns of Lanes rows. Row r of x
// starts at x[r·ld]; dst becomes [groups·Columns/b, Planes, Lanes]. The planes
// of a complex bin are xr + xi, xr and xi.
func (c *Circulant) Forward(dst, x []float32, ld, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Forward: dst", dst, groups*c.GroupBlocks()*c.Planes()*c.lanes)
	need("Forward: x", x, (c.lanes-1)*ld+groups*c.Columns())
	need("Forward: scratch", scratch, c.Scratch())
	if c.forward != nil {
		c.forward(dst, x, ld, groups, scratch)
		return
	}
	step := c.Planes() * c.lanes
	for j := range groups * c.GroupBlocks() {
		for r := range c.lanes {
			for k, v := range x[r*ld+j*c.b:][:c.b] {
				scratch[k*c.lanes+r] = v
			}
		}
		c.dft.forward(dst[j*step:(j+1)*step], scratch[:c.b*c.lanes], c.lanes)
	}
}

// Inverse undoes Forward, without the factor 1/b, for the planes k₁, k₂ and k₃
// of a product: src is [groups·Columns/b, Planes, Lanes], row r of y starts at
// y[r·ld], and bias [groups·Columns] is added to every row. It may destroy src.
func (c *Circulant) Inverse(y []float32, ld int, src, bias []float32, groups int, scratch []float32) {
	if groups == 0 {
		return
	}
	need("Inverse: src", src, groups*c.GroupBlocks()*c.Planes()*c.lanes)
	need("Inverse: y", y, (c.lanes-1)*ld+groups*c.Columns())
	need("Inverse: bias", bias, groups*c.Columns())
	need("Inverse: scratch", scratch, c.Scratch())
	if c.inverse != nil {
		c.inverse(y, ld, src, bias, groups, scratch)
		return
	}
	step := c.Planes() * c.lanes
	for i := range groups * c.GroupBlocks() {
		x := scratch[:c.b*c.lanes]
		c.dft.inverse(x, src[i*step:(i+1)*step], c.lanes)
		for r := range c.lanes {
			line := y[r*ld+i*c.b:][:c.b]
			for k, v := range bias[i*c.b : (i+1)*c.b] {
				line[k] = x[k*c.lanes+r] + v
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
type CirculantWeights struct {
	p, q int
	tile []float32
	row  []float32
}

// Pack returns the weights with the spectra s [b, p, q], which should have the
// factor 1/b of the inverse transform.
func (c *Circulant) Pack(s []float32, p, q int) CirculantWeights {
	need("Pack", s, c.b*p*q)
	w := CirculantWeights{p: p, q: q, tile: c.packTile(s, p, q)}
	if size := c.b * q * c.RowBlocks(p) * c.lanes; size <= max(4*len(s), 1<<16) {
		w.row = c.packRow(s, p, q)
	}
	return w
}

// RowLen is the number of elements that [Circulant.RowProduct] reads. It is 0
// when the weights have no form for it, because that would be mostly padding:
// large matrices with few rows of blocks.
func (w CirculantWeights) RowLen() int { return len(w.row) }

// panels cuts n into the fewest parts of at most limit, as equal as can be:
// many of size, then rest−many of size−1.
func panels(n, limit int) (size, many, all int) {
	all = (n + limit - 1) / limit
	size = (n + all - 1) / all
	return size, n - all*(size-1), all
}

// packTile orders weights as the tile kernel takes them: the panels of the
// larger size, then those of the smaller, each [planes, panels, q, rows].
func (c *Circulant) packTile(s []float32, p, q int) []float32 {
	w := make([]float32, 0, c.Planes()*p*q)
	bin := func(k, i, j int) float32 { return s[(k*p+i)*q+j] }
	size, many, all := panels(p, c.k.maxRows)
	pack := func(first, size, n int, at func(i, j int) float32) {
		for l := range n {
			for j := range q {
				for r := range size {
					w = append(w, at(first+l*size+r, j))
				}
			}
		}
	}
	for _, g := range [2]struct{ first, size, n int }{{0, size, many}, {many * size, size - 1, all - many}} {
		for k := range c.realBins() {
			pack(g.first, g.size, g.n, func(i, j int) float32 { return bin(k, i, j) })
		}
		for k := c.realBins(); k < c.b; k += 2 {
			pack(g.first, g.size, g.n, func(i, j int) float32 { return bin(k, i, j) })
			pack(g.first, g.size, g.n, func(i, j int) float32 { return bin(k+1, i, j) - bin(k, i, j) })
			pack(g.first, g.size, g.n, func(i, j int) float32 { return bin(k, i, j) + bin(k+1, i, j) })
		}
	}
	return w
}

// Products multiplies one or two tiles of inputs x [q, Planes, Lanes] each, the
// second xHalf elements after the first, by the weights: y becomes one or two
// tiles [p, Planes, Lanes], the second yHalf elements after the first, of the
// planes k₁, k₂, k₃.
func (c *Circulant) Products(y []float32, yHalf int, w CirculantWeights, x []float32, xHalf, halves int) {
	planes := c.Planes()
	need("Products: y", y, (halves-1)*yHalf+w.p*planes*c.lanes)
	need("Products: x", x, (halves-1)*xHalf+w.q*planes*c.lanes)
	size, many, all := panels(w.p, c.k.maxRows)
	large := planes * many * size * w.q
	c.k.tile(y, w.tile, x, w.q, size, many, planes, yHalf, xHalf, halves)
	if all > many {
		c.k.tile(y[many*size*planes*c.lanes:], w.tile[large:], x, w.q, size-1, all-many, planes, yHalf, xHalf, halves)
	}
}

// RowBlocks is the number of blocks of the tile of vectors that one row of n
// blocks takes when its groups are the rows: see [Circulant.RowProduct].
func (c *Circulant) RowBlocks(n int) int {
	groups := (n + c.GroupBlocks() - 1) / c.GroupBlocks()
	return (groups + c.lanes - 1) / c.lanes * c.GroupBlocks()
}

// rowBlock is where block i lies among RowBlocks vectors, and in which lane.
func (c *Circulant) rowBlock(i int) (vec, lane int) {
	u := c.GroupBlocks()
	group := i / u
	return group/c.lanes*u + i%u, group % c.lanes
}

// packRow orders weights as the row kernel takes them: panels of output
// vectors, as equal as can be, each the real bins [q, vecs, lanes] and the
// complex bins [q, re and im, vecs, lanes].
func (c *Circulant) packRow(s []float32, p, q int) []float32 {
	vecs := c.RowBlocks(p)
	size, many, _ := panels(vecs, c.k.maxVecs)
	w := make([]float32, c.b*q*vecs*c.lanes)
	for i := range p {
		v, lane := c.rowBlock(i)
		width, first := size, v/size*size
		if v >= many*size {
			width, first = size-1, many*size+(v-many*size)/(size-1)*(size-1)
		}
		at := w[c.b*q*first*c.lanes:]
		for k := range c.b {
			for j := range q {
				var o int
				if k < c.realBins() {
					o = (k*q + j) * width
				} else {
					f, part := (k-c.realBins())/2, (k-c.realBins())%2
					o = (c.realBins()*q + (f*q+j)*2 + part) * width
				}
				at[(o+v-first)*c.lanes+lane] = s[(k*p+i)*q+j]
			}
		}
	}
	return w
}

// RowProduct multiplies one row of q blocks by the weights, unless their RowLen
// is 0. Its groups are the
// rows of the transforms: x is [RowBlocks(q), Planes, Lanes], y becomes
// [RowBlocks(p), Planes, Lanes].
func (c *Circulant) RowProduct(y []float32, w CirculantWeights, x []float32) {
	planes, vecs := c.Planes(), c.RowBlocks(w.p)
	need("RowProduct: w", w.row, c.b*w.q*vecs*c.lanes)
	need("RowProduct: y", y, vecs*planes*c.lanes)
	need("RowProduct: x", x, c.RowBlocks(w.q)*planes*c.lanes)
	size, many, all := panels(vecs, c.k.maxVecs)
	for l, first := 0, 0; l < all; l++ {
		n := size
		if l >= many {
			n--
		}
		c.k.row(y[first*planes*c.lanes:], w.row[c.b*w.q*first*c.lanes:], x, w.q, c.GroupBlocks(), planes, n, c.complexBins())
		first += n
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

// circulantTile computes, for every plane, halves h and panels l, with lanes the
// length of a vector,
//
//	for r := range rows {
//		for t := range lanes {
//			s := float32(0)
//			for j := range k {
//				s += w[((plane·panels+l)·k+j)·rows+r] · x[h·xHalf+(j·planes+plane)·lanes+t]
//			}
//			y[h·yHalf+((l·rows+r)·planes+plane)·lanes+t] = s
//		}
//	}
func circulantTile(y, w, x []float32, k, rows, panels, planes, yHalf, xHalf, halves int) {
	const lanes = portableLanes
	for h := range halves {
		for plane := range planes {
			for i := range panels * rows {
				l, r := i/rows, i%rows
				w := w[(plane*panels+l)*k*rows+r:]
				s := (*[lanes]float32)(y[h*yHalf+(i*planes+plane)*lanes:])
				clear(s[:])
				j := 0
				for ; j+1 < k; j += 2 {
					a, b := w[j*rows], w[(j+1)*rows]
					v := (*[lanes]float32)(x[h*xHalf+(j*planes+plane)*lanes:])
					u := (*[lanes]float32)(x[h*xHalf+((j+1)*planes+plane)*lanes:])
					for t := range s {
						s[t] = s[t] + float32(a*v[t]) + float32(b*u[t])
					}
				}
				if j < k {
					a := w[j*rows]
					v := (*[lanes]float32)(x[h*xHalf+(j*planes+plane)*lanes:])
					for t := range s {
						s[t] += float32(a * v[t])
					}
				}
			}
		}
	}
}

// circulantRow computes, for a panel of vecs vectors, with X(plane, j) the
// element ((j/unit/lanes·unit+j%unit)·planes+plane)·lanes + j/unit%lanes of x
// and Y(v, plane) the vector (v·planes+plane)·lanes of y, first for the real
// planes
//
//	for j := range k { Y(v, plane) += X(plane, j) · w[(plane·k+j)·vecs+v] }
//
// and then for the planes of every complex bin, with wr and wi the vectors
// ((bin·k+j)·2·vecs + v) and ((bin·k+j)·2+1)·vecs + v) of the rest of w,
//
//	for j := range k {
//		Y(v, k₁) += X(xr+xi, j) · wr
//		Y(v, k₂) += X(xr, j) · (wi − wr)
//		Y(v, k₃) += X(xi, j) · (wr + wi)
//	}
func circulantRow(y, w, x []float32, k, unit, planes, vecs, bins int) {
	const lanes = portableLanes
	at := func(plane, j int) float32 {
		return x[((j/unit/lanes*unit+j%unit)*planes+plane)*lanes+j/unit%lanes]
	}
	out := func(plane, v int) *[lanes]float32 {
		s := (*[lanes]float32)(y[(v*planes+plane)*lanes:])
		return s
	}
	vec := func(i int) *[lanes]float32 { return (*[lanes]float32)(w[i*lanes:]) }
	for plane := range planes {
		for v := range vecs {
			clear(out(plane, v)[:])
		}
	}
	realBins := planes - 3*bins
	for plane := range realBins {
		for j := range k {
			a := at(plane, j)
			for v := range vecs {
				s, u := out(plane, v), vec((plane*k+j)*vecs+v)
				for t := range s {
					s[t] += float32(a * u[t])
				}
			}
		}
	}
	for f := range bins {
		plane := realBins + 3*f
		for j := range k {
			xs, xr, xi := at(plane, j), at(plane+1, j), at(plane+2, j)
			for v := range vecs {
				s1, s2, s3 := out(plane, v), out(plane+1, v), out(plane+2, v)
				o := realBins*k*vecs + (f*k+j)*2*vecs + v
				wr, wi := vec(o), vec(o+vecs)
				for t := range s1 {
					s1[t] += float32(wr[t] * xs)
					s2[t] += float32((wi[t] - wr[t]) * xr)
					s3[t] += float32((wr[t] + wi[t]) * xi)
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
	lanes: portableLanes, maxRows: 4, maxVecs: 4,
	tile: circulantTile, row: circulantRow,
}
