package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// circulant emits the kernels of block-circulant products: transforms for every
// power of two to 256, and the products of tiles and of rows.
func circulant(c *family) {
	for _, p := range paths {
		for b := 2; b <= 256; b *= 2 {
			newCirculant(c, p, b).forward()
			newCirculant(c, p, b).inverse()
			newCirculant(c, p, b).forwardImage()
			newCirculant(c, p, b).inverseImage()
		}
		circulantTile(c, p)
		circulantPairs(c, p)
		circulantRow(c, p)
		circulantAsk(c, p)
	}
}

// circulantFFT emits the transforms of one block size on one path. A vector is
// one number of all rows of a tile.
//
// A transform of 2h reals from two of h, those of the even elements E and of the
// odd ones O, is, for 0 < f < h/2 and with c and τ the cosine and the tangent of
// 2π·f/2h,
//
//	u = O(f)·(1 − iτ)                    2 multiply-adds
//	X(f) = E(f) + c·u                    2
//	X(h−f) = conj(E(f) − c·u)            2
//
// and X(0) = E(0) + O(0), X(h) = E(0) − O(0), X(h/2) = E(h/2) − i·O(h/2), all of
// them real. The inverse (without the factor 1/2) is
//
//	E(f) = X(f) + conj(X(h−f)),  O(f) = c·(1 + iτ)·(X(f) − conj(X(h−f)))
//
// and E(0) = X(0) + X(h), O(0) = X(0) − X(h), E(h/2) = 2·Re X(h/2),
// O(h/2) = −2·Im X(h/2).
//
// Up to 64 this is straight-line code, with the transposition between rows and
// vectors at its outer end. 128 and 256 are two or four transforms of 64, and
// loops that combine them.
type circulantFFT struct {
	*function
	c    *family
	p    path
	b    int
	name string

	image bool // a transform of images
}

func newCirculant(c *family, p path, b int) *circulantFFT { return &circulantFFT{c: c, p: p, b: b} }

// straightMost is the longest transform in straight-line code.
const straightMost = 64

// Registers of the transforms. Strides are in bytes.
var (
	rowBase           = []reg.GPPhysical{reg.RAX, reg.RBX, reg.RCX, reg.RDX} // rows 0, 1, 8, 9
	rowPair, rowPair3 = reg.R8, reg.R9
	planesAt          = reg.RDI // the spectrum
	scratchAt         = reg.RSI
	groupsLeft        = reg.R10
	biasAt            = reg.R11
	biasOdd           = reg.R13 // where there is no loop
	loopIn            = reg.R12
	loopOut           = reg.R13
	loopDown          = reg.R14
	loopTwiddle       = reg.R9  // where there are no rows
	loopLeft          = reg.R11 // and no bias
	circulantScratch  = 3       // times the input: what package simd provides
	scratchPad        = 16      // vectors between the two buffers, so that loads run ahead of stores to the same page offset
)

func (f *circulantFFT) columns() int {
	return max(f.b, 16)
}
func (f *circulantFFT) blocks() int { return f.columns() / f.b }

// plane is plane k of block u of the current group, whose blocks are b + 1 vectors
// apart.
func (f *circulantFFT) plane(u, k int) operand.Mem {
	return operand.Mem{Base: planesAt, Disp: (u*(f.b+1) + k) * f.vecBytes()}
}

// scratch is vector i of the scratch memory.
func (f *circulantFFT) scratch(i int) operand.Mem {
	return operand.Mem{Base: scratchAt, Disp: i * f.vecBytes()}
}

// second is the first vector of the second buffer, spills that of the spilled
// registers.
func (f *circulantFFT) second() int { return f.b + scratchPad }
func (f *circulantFFT) spills() int {
	switch {
	case f.b > straightMost:
		return f.second() + f.b
	case f.image:
		return f.b // behind the input
	}
	return 0
}

// imagePlanes is where the spectrum of a vector of an image is, in the part of
// the scratch memory that the other transforms do not have.
func (f *circulantFFT) imagePlanes() int { return circulantScratch*f.b + scratchPad }

// straight starts a list of operations.
func (f *circulantFFT) straight() *straight {
	return &straight{f: f.function, slot: func(i int) operand.Mem { return f.scratch(f.spills() + i) }}
}

// finish writes the code and checks that it keeps within the scratch memory.
func (f *circulantFFT) finish(s *straight) {
	s.emit()
	if f.spills()+s.slots > circulantScratch*f.b {
		panic(fmt.Sprintf("%s: %d vectors of scratch memory, there are %d", f.name, f.spills()+s.slots, circulantScratch*f.b))
	}
}

// row is the element at byte off of row r of the rows that the bases point at.
func (f *circulantFFT) row(r, off int) operand.Mem {
	m := operand.Mem{Base: rowBase[r/8*2+r%2], Disp: off}
	switch r / 2 % 4 {
	case 1:
		m.Index, m.Scale = rowPair, 1
	case 2:
		m.Index, m.Scale = rowPair, 2
	case 3:
		m.Index, m.Scale = rowPair3, 1
	}
	return m
}

// setRows points the bases at the rows of the slice argument.
func (f *circulantFFT) setRows(arg string) {
	f.Load(f.Param(arg).Base(), rowBase[0])
	f.Load(f.Param("odd"), rowBase[1])
	f.LEAQ(operand.Mem{Base: rowBase[0], Index: rowBase[1], Scale: 4}, rowBase[1])
	f.Load(f.Param("pair"), rowPair)
	f.SHLQ(operand.U8(2), rowPair)
	for i := 2; i < f.lanes/4; i++ {
		f.LEAQ(operand.Mem{Base: rowBase[i-2], Index: rowPair, Scale: 4}, rowBase[i])
	}
	f.setPair3()
}

func (f *circulantFFT) setPair3() {
	f.LEAQ(operand.Mem{Base: rowPair, Index: rowPair, Scale: 2}, rowPair3)
}

// nextColumns moves the bases n columns on.
func (f *circulantFFT) nextColumns(n int) {
	for _, r := range rowBase[:f.lanes/4] {
		f.ADDQ(operand.U32(uint32(4*n)), r)
	}
}

// nextGroup moves the bases, which are gone columns into a group, to the next
// group, and those in also with them. It uses loopOut.
func (f *circulantFFT) nextGroup(gone int, also ...reg.GPPhysical) {
	step := loopOut
	f.Load(f.Param("group"), step)
	f.SHLQ(operand.U8(2), step)
	if gone > 0 {
		f.SUBQ(operand.U32(uint32(4*gone)), step)
	}
	for _, r := range append(rowBase[:f.lanes/4:f.lanes/4], also...) {
		f.ADDQ(step, r)
	}
}

// readColumns returns 16 columns of the rows, a vector each.
func (f *circulantFFT) readColumns(s *straight, first int) []val {
	if f.lanes < 16 {
		return f.fromLines(s, func(row, part int) val { return s.load(f.row(row, 4*(first+4*part))) })
	}
	// Halves of two rows come together as they are read, in place of two of four
	// shuffles, which share one port on some machines.
	var v [4][4]val
	for r := range 4 {
		for half := range 2 {
			off := 4 * (first + 8*half)
			a := s.halves(f.row(r, off), f.row(r+4, off))
			b := s.halves(f.row(r+8, off), f.row(r+12, off))
			v[2*half][r] = s.shuffle(opLanes, 0x88, a, b)
			v[2*half+1][r] = s.shuffle(opLanes, 0xdd, a, b)
		}
	}
	return f.fromQuads(s, v)
}

// fromLines transposes 16 columns of words. A line is a vector of a row: part
// counts the quads of columns before it.
func (f *circulantFFT) fromLines(s *straight, line func(row, part int) val) []val {
	wide := f.lanes / 4 // lanes of a vector, rows of the same r mod 4
	var v [4][4]val     // [quad of columns][row mod 4], a lane of 128 bits a row
	for r := range 4 {
		for part := 0; part < 4; part += wide {
			var lines []val
			for l := range wide {
				lines = append(lines, line(r+4*l, part))
			}
			for q, w := range s.transposeLanes(lines) {
				v[part+q][r] = w
			}
		}
	}
	return f.fromQuads(s, v)
}

// fromQuads transposes the words of v: of a quad of columns, a lane of 128 bits is
// a row, and the rows of a vector are equal modulo 4.
func (f *circulantFFT) fromQuads(s *straight, v [4][4]val) []val {
	var x []val
	for quad := range v {
		t := s.transpose4(v[quad])
		x = append(x, t[:]...)
	}
	return x
}

// writeColumns adds the bias to 16 columns and writes them to the rows.
func (f *circulantFFT) writeColumns(s *straight, x []val, first int) {
	f.toLines(s, x, func(row, part int, line val) {
		off := 4 * (first + 4*part)
		bias := operand.Mem{Base: biasAt, Disp: off}
		if row%2 == 1 {
			bias.Index, bias.Scale = biasOdd, 1
		}
		s.store(line, f.row(row, off), &bias)
	})
}

// toLines undoes fromLines.
func (f *circulantFFT) toLines(s *straight, x []val, put func(row, part int, line val)) {
	wide := f.lanes / 4 // lanes of a vector, rows of the same r mod 4
	var v [4][4]val     // [quad of columns][row mod 4], a lane of 128 bits a row
	for quad := range v {
		v[quad] = s.transpose4([4]val(x[4*quad : 4*quad+4]))
	}
	for r := range 4 {
		for part := 0; part < 4; part += wide {
			var quads []val
			for q := range wide {
				quads = append(quads, v[part+q][r])
			}
			for l, line := range s.transposeLanes(quads) {
				put(r+4*l, part, line)
			}
		}
	}
}

// cosTan are c and τ for frequency f of a transform of n.
func cosTan(f, n int) (c, tan float64) {
	a := 2 * math.Pi * float64(f) / float64(n)
	return math.Cos(a), math.Tan(a)
}

// forward emits the forward transform.
func (f *circulantFFT) forward() {
	f.name = fmt.Sprintf("circulantForward%d", f.b)
	f.function = f.c.begin(f.p, f.name, "func(dst, x []float32, odd, pair, group, groups int, scratch []float32)",
		fmt.Sprintf("Circulant.Forward for blocks of %d and %d rows, groups ≥ 1.", f.b, f.p.lanes))
	f.setRows("x")
	f.Load(f.Param("dst").Base(), planesAt)
	f.Load(f.Param("groups"), groupsLeft)
	f.Load(f.Param("scratch").Base(), scratchAt)
	f.Label("group")
	if f.b <= straightMost {
		s := f.straight()
		var x []val
		for first := 0; first < f.columns(); first += 16 {
			x = append(x, f.readColumns(s, first)...)
		}
		for u := range f.blocks() {
			s.rfft(x[u*f.b:(u+1)*f.b], s.storeBins(f.b, func(i int) operand.Mem { return f.plane(u, i) }))
		}
		f.finish(s)
		f.nextGroup(0)
	} else {
		f.forwardInParts()
		f.nextGroup(f.b)
	}
	f.ADDQ(operand.U32(uint32(f.blocks()*(f.b+1)*f.vecBytes())), planesAt)
	f.DECQ(groupsLeft)
	f.JNE(operand.LabelRef("group"))
	f.end()
}

// storeBins returns a function that stores the bins of a spectrum of n as the
// vectors at(0), at(1), ….
func (s *straight) storeBins(n int, at func(i int) operand.Mem) func(k int, re, im val) {
	return func(k int, re, im val) {
		switch k {
		case 0:
			s.store(re, at(0), nil)
		case n / 2:
			s.store(re, at(1), nil)
		default:
			s.store(re, at(2*k), nil)
			s.store(im, at(2*k+1), nil)
		}
	}
}

// loadBins returns a function that loads what storeBins stored.
func (s *straight) loadBins(n int, at func(i int) operand.Mem) func(k int) (re, im val) {
	return func(k int) (re, im val) {
		switch k {
		case 0:
			return s.load(at(0)), val{}
		case n / 2:
			return s.load(at(1)), val{}
		}
		return s.load(at(2 * k)), s.load(at(2*k + 1))
	}
}

// rfft transforms x and gives every bin to out as soon as it is there. Bins 0
// and len(x)/2 are real and have no im.
func (s *straight) rfft(x []val, out func(k int, re, im val)) {
	n := len(x)
	h := n / 2
	if n == 2 {
		out(0, s.add(x[0], x[1]), val{})
		out(1, s.sub(x[0], x[1]), val{})
		return
	}
	var parts [2]struct{ re, im []val }
	for i := range parts {
		var half []val
		for j := i; j < n; j += 2 {
			half = append(half, x[j])
		}
		re, im := make([]val, h/2+1), make([]val, h/2+1)
		s.rfft(half, func(k int, r, i val) { re[k], im[k] = r, i })
		parts[i].re, parts[i].im = re, im
	}
	e, o := parts[0], parts[1]
	out(0, s.add(e.re[0], o.re[0]), val{})
	out(h, s.sub(e.re[0], o.re[0]), val{})
	for k := 1; k < h/2; k++ {
		c, tan := cosTan(k, n)
		ur, ui := s.mulAdd(o.re[k], tan, o.im[k]), s.mulAdd(o.im[k], -tan, o.re[k])
		out(k, s.mulAdd(e.re[k], c, ur), s.mulAdd(e.im[k], c, ui))
		out(h-k, s.mulAdd(e.re[k], -c, ur), s.mulAdd(e.im[k], -c, ui).minus())
	}
	out(h/2, e.re[h/2], o.re[h/2].minus())
}

// irfft undoes rfft without the factor 1/n. Bins are asked for when they are
// needed.
func (s *straight) irfft(n int, in func(k int) (re, im val)) []val {
	h := n / 2
	if n == 2 {
		a, _ := in(0)
		b, _ := in(1)
		return []val{s.add(a, b), s.sub(a, b)}
	}
	var parts [2]struct{ re, im []val }
	for i := range parts {
		parts[i].re, parts[i].im = make([]val, h/2+1), make([]val, h/2+1)
	}
	e, o := parts[0], parts[1]
	first, _ := in(0)
	last, _ := in(h)
	e.re[0], o.re[0] = s.add(first, last), s.sub(first, last)
	for k := 1; k < h/2; k++ {
		c, tan := cosTan(k, n)
		ar, ai := in(k)
		br, bi := in(h - k)
		e.re[k], e.im[k] = s.add(ar, br), s.sub(ai, bi)
		dr, di := s.sub(ar, br), s.add(ai, bi)
		o.re[k], o.im[k] = s.mul(c, s.mulAdd(dr, -tan, di)), s.mul(c, s.mulAdd(di, tan, dr))
	}
	mr, mi := in(h / 2)
	e.re[h/2], o.re[h/2] = s.mul(2, mr), s.mul(-2, mi)
	x := make([]val, n)
	for i, p := range parts {
		for j, v := range s.irfft(h, func(k int) (val, val) { return p.re[k], p.im[k] }) {
			x[2*j+i] = v
		}
	}
	return x
}

// setBiasOdd sets biasOdd.
func (f *circulantFFT) setBiasOdd() {
	f.Load(f.Param("biasOdd"), biasOdd)
	f.SHLQ(operand.U8(2), biasOdd)
}

// inverse emits the inverse transform.
func (f *circulantFFT) inverse() {
	f.name = fmt.Sprintf("circulantInverse%d", f.b)
	f.function = f.c.begin(f.p, f.name, "func(y []float32, odd, pair, group int, src, bias []float32, biasOdd, groups int, scratch []float32)",
		fmt.Sprintf("Circulant.Inverse for blocks of %d and %d rows, groups ≥ 1.", f.b, f.p.lanes))
	f.setRows("y")
	f.Load(f.Param("src").Base(), planesAt)
	f.Load(f.Param("bias").Base(), biasAt)
	f.Load(f.Param("groups"), groupsLeft)
	f.Load(f.Param("scratch").Base(), scratchAt)
	f.Label("group")
	if f.b <= straightMost {
		s := f.straight()
		f.setBiasOdd()
		var x []val
		for u := range f.blocks() {
			x = append(x, s.irfft(f.b, s.loadBins(f.b, func(i int) operand.Mem { return f.plane(u, i) }))...)
		}
		for first := 0; first < f.columns(); first += 16 {
			f.writeColumns(s, x[first:first+16], first)
		}
		f.finish(s)
		f.nextGroup(0, biasAt)
	} else {
		f.inverseInParts()
		f.nextGroup(f.b, biasAt)
	}
	f.ADDQ(operand.U32(uint32(f.blocks()*(f.b+1)*f.vecBytes())), planesAt)
	f.DECQ(groupsLeft)
	f.JNE(operand.LabelRef("group"))
	f.end()
}

// The elements of a block of an image are planes of pixels, a step apart. The
// transforms of images gather the vectors of a block in the scratch memory, and
// spread the results from there: a few loads and stores that cost little beside
// the products of a convolution. Those have a plane for every multiplication.

// Registers of the transforms of images. Steps are in bytes.
var (
	imageIn, imageInStep   = reg.RAX, reg.RBX
	imageOut, imageOutStep = reg.RCX, reg.RDX
	imageAt                = reg.R8
)

// beginImage starts a transform of images from one argument to another.
func (f *circulantFFT) beginImage(from, to string) {
	for _, x := range []struct {
		arg      string
		at, step reg.GPPhysical
	}{{from, imageIn, imageInStep}, {to, imageOut, imageOutStep}} {
		f.Load(f.Param(x.arg).Base(), x.at)
		f.Load(f.Param(x.arg+"Step"), x.step)
		f.SHLQ(operand.U8(2), x.step)
	}
	f.Load(f.Param("vecs"), groupsLeft)
	f.Load(f.Param("scratch").Base(), scratchAt)
	f.LEAQ(f.scratch(f.imagePlanes()), planesAt)
	f.Label("vector")
}

// eachVector runs body for n vectors, a step apart from at on; those in the
// scratch memory are at loopOut.
func (f *circulantFFT) eachVector(label string, n int, scratch reg.GPPhysical, at, step reg.GPPhysical, body func()) {
	f.MOVQ(at, imageAt)
	f.MOVQ(scratch, loopOut)
	f.MOVQ(operand.U32(uint32(n)), loopLeft)
	f.Label(label)
	body()
	f.ADDQ(step, imageAt)
	f.ADDQ(operand.U32(uint32(f.vecBytes())), loopOut)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(label))
}

// eachBin runs real for the bins 0 and b/2 of the spectrum, and complex for those
// between them, with imageAt on the one plane of a real bin or the first of three
// of a complex one.
func (f *circulantFFT) eachBin(label string, at, step reg.GPPhysical, real, complex func(re, im operand.Mem)) {
	re := operand.Mem{Base: loopOut}
	im := operand.Mem{Base: loopOut, Disp: f.vecBytes()}
	f.eachVector(label+"Real", 2, planesAt, at, step, func() { real(re, im) })
	if f.b == 2 {
		return
	}
	f.MOVQ(operand.U32(uint32(f.b/2-1)), loopLeft)
	f.Label(label + "Complex")
	complex(re, im)
	f.LEAQ(operand.Mem{Base: imageAt, Index: step, Scale: 2}, imageAt)
	f.ADDQ(step, imageAt)
	f.ADDQ(operand.U32(uint32(2*f.vecBytes())), loopOut)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(label + "Complex"))
}

func (f *circulantFFT) endImage() {
	f.ADDQ(operand.U32(uint32(f.vecBytes())), imageIn)
	f.ADDQ(operand.U32(uint32(f.vecBytes())), imageOut)
	f.DECQ(groupsLeft)
	f.JNE(operand.LabelRef("vector"))
	f.end()
}

// forwardImage emits the forward transform of an image.
func (f *circulantFFT) forwardImage() {
	f.name, f.image = fmt.Sprintf("circulantForwardImage%d", f.b), true
	f.function = f.c.begin(f.p, f.name, "func(dst []float32, dstStep int, x []float32, xStep, vecs int, scratch []float32)",
		fmt.Sprintf("Circulant.ForwardImage for blocks of %d and vecs·%d pixels, vecs ≥ 1.", f.b, f.p.lanes))
	f.beginImage("x", "dst")
	f.eachVector("gather", f.b, scratchAt, imageIn, imageInStep, func() {
		f.VMOVUPS(operand.Mem{Base: imageAt}, f.physical(0))
		f.VMOVUPS(f.physical(0), operand.Mem{Base: loopOut})
	})
	if f.b <= straightMost {
		s := f.straight()
		var x []val
		for k := range f.b {
			x = append(x, s.load(f.scratch(k)))
		}
		s.rfft(x, s.storeBins(f.b, func(i int) operand.Mem { return f.plane(0, i) }))
		f.finish(s)
	} else {
		f.combineParts()
	}
	f.eachBin("spread", imageOut, imageOutStep, func(at, _ operand.Mem) {
		f.VMOVUPS(at, f.physical(0))
		f.VMOVUPS(f.physical(0), operand.Mem{Base: imageAt})
	}, func(re, im operand.Mem) {
		f.VMOVUPS(re, f.physical(0))
		f.VMOVUPS(im, f.physical(1))
		f.VADDPS(f.physical(1), f.physical(0), f.physical(2))
		f.VMOVUPS(f.physical(2), operand.Mem{Base: imageAt})
		f.VMOVUPS(f.physical(0), operand.Mem{Base: imageAt, Index: imageOutStep, Scale: 1})
		f.VMOVUPS(f.physical(1), operand.Mem{Base: imageAt, Index: imageOutStep, Scale: 2})
	})
	f.endImage()
}

// inverseImage emits the inverse transform of an image.
func (f *circulantFFT) inverseImage() {
	f.name, f.image = fmt.Sprintf("circulantInverseImage%d", f.b), true
	f.function = f.c.begin(f.p, f.name, "func(y []float32, yStep int, src []float32, srcStep int, bias []float32, lo, hi float32, vecs int, scratch []float32)",
		fmt.Sprintf("Circulant.InverseImage for blocks of %d and vecs·%d pixels, vecs ≥ 1.", f.b, f.p.lanes))
	f.beginImage("src", "y")
	f.eachBin("gather", imageIn, imageInStep, func(at, _ operand.Mem) {
		f.VMOVUPS(operand.Mem{Base: imageAt}, f.physical(0))
		f.VMOVUPS(f.physical(0), at)
	}, func(re, im operand.Mem) {
		k1, k3 := f.physical(0), f.physical(1)
		f.VMOVUPS(operand.Mem{Base: imageAt}, k1)
		f.VMOVUPS(operand.Mem{Base: imageAt, Index: imageInStep, Scale: 2}, k3)
		f.VSUBPS(k3, k1, k3)
		f.VADDPS(operand.Mem{Base: imageAt, Index: imageInStep, Scale: 1}, k1, k1)
		f.VMOVUPS(k3, re)
		f.VMOVUPS(k1, im)
	})
	if f.b <= straightMost {
		s := f.straight()
		for k, v := range s.irfft(f.b, s.loadBins(f.b, func(i int) operand.Mem { return f.plane(0, i) })) {
			s.store(v, f.scratch(k), nil)
		}
		f.finish(s)
	} else {
		f.separateParts()
	}
	f.Load(f.Param("bias").Base(), loopIn)
	x, bias, lo, hi := f.physical(0), f.physical(1), f.physical(2), f.physical(3)
	f.VBROADCASTSS(f.argument("lo"), lo)
	f.VBROADCASTSS(f.argument("hi"), hi)
	f.eachVector("spread", f.b, scratchAt, imageOut, imageOutStep, func() {
		f.VBROADCASTSS(operand.Mem{Base: loopIn}, bias)
		f.VADDPS(operand.Mem{Base: loopOut}, bias, x)
		f.VMAXPS(x, lo, x) // NaN, the second source, stays
		f.VMINPS(x, hi, x)
		f.VMOVUPS(x, operand.Mem{Base: imageAt})
		f.ADDQ(operand.U8(4), loopIn)
	})
	f.endImage()
}

// forwardInParts transforms a block of more than straightMost elements: it
// transposes the rows into the first buffer, transforms every parts-th element
// of it into a part of the second, and combines parts i and i + parts/2 of one
// buffer to part i of the other until all are one.
func (f *circulantFFT) forwardInParts() {
	vec := f.vecBytes()

	f.setPair3()
	f.MOVQ(scratchAt, loopOut)
	f.MOVQ(operand.U32(uint32(f.b/16)), loopLeft)
	f.Label("read")
	s := f.straight()
	for i, v := range f.readColumns(s, 0) {
		s.store(v, operand.Mem{Base: loopOut, Disp: i * vec}, nil)
	}
	f.finish(s)
	f.nextColumns(16)
	f.ADDQ(operand.U32(uint32(16*vec)), loopOut)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef("read"))
	f.combineParts()
}

// combineParts is forwardInParts with the vectors of the block in the first
// buffer.
func (f *circulantFFT) combineParts() {
	parts := f.b / straightMost
	vec := f.vecBytes()
	f.MOVQ(scratchAt, loopIn)
	f.LEAQ(f.scratch(f.second()), loopOut)
	f.MOVQ(operand.U32(uint32(parts)), loopLeft)
	f.Label("part")
	s := f.straight()
	var x []val
	for k := range straightMost {
		x = append(x, s.load(operand.Mem{Base: loopIn, Disp: k * parts * vec}))
	}
	s.rfft(x, s.storeBins(straightMost, func(i int) operand.Mem { return operand.Mem{Base: loopOut, Disp: i * vec} }))
	f.finish(s)
	f.ADDQ(operand.U32(uint32(vec)), loopIn)
	f.ADDQ(operand.U32(uint32(straightMost*vec)), loopOut)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef("part"))

	from, to := f.second(), 0
	for n := 2 * straightMost; n <= f.b; n *= 2 {
		count := f.b / n
		for i := range count {
			f.combine(n, i, count, from, to)
		}
		from, to = to, from
	}
}

// twiddles is the table of c and τ for 0 < f < n/4.
func (f *circulantFFT) twiddles(n int) operand.Mem {
	var words []uint32
	for k := 1; k < n/4; k++ {
		c, tan := cosTan(k, n)
		words = append(words, math.Float32bits(float32(c)), math.Float32bits(float32(tan)))
	}
	return f.data(fmt.Sprintf("circulantTwiddles%d", n), words...)
}

// twiddle returns c or τ of the current frequency in a vector.
func (f *circulantFFT) twiddle(i, r int) operand.Op {
	f.VBROADCASTSS(operand.Mem{Base: loopTwiddle, Disp: 4 * i}, f.physical(r))
	return f.physical(r)
}

// combine makes part i of count parts of n from parts i and i+count of n/2.
// from and to are the first vectors of the buffers; the last step's output is the
// spectrum.
func (f *circulantFFT) combine(n, i, count, from, to int) {
	h, vec := n/2, f.vecBytes()
	e := from + i*h
	odd := count * h * vec // from a bin of the even elements to that of the odd
	out := func(k int) operand.Mem { return f.scratch(to + i*n + k) }
	if count == 1 {
		out = func(k int) operand.Mem { return f.plane(0, k) }
	}

	s := f.straight()
	e0, o0 := s.load(f.scratch(e)), s.load(f.scratch(e+count*h))
	em, om := s.load(f.scratch(e+1)), s.load(f.scratch(e+count*h+1))
	put := s.storeBins(n, out)
	put(0, s.add(e0, o0), val{})
	put(h, s.sub(e0, o0), val{})
	put(h/2, em, om.minus())
	f.finish(s)

	f.LEAQ(f.scratch(e+2), loopIn)
	f.LEAQ(out(2), loopOut)
	f.LEAQ(out(2*h-2), loopDown)
	f.LEAQ(f.twiddles(n), loopTwiddle)
	f.MOVQ(operand.U32(uint32(h/2-1)), loopLeft)
	loop := fmt.Sprintf("combine%d_%d", n, i)
	f.Label(loop)
	er, ei, or, oi, ur, ui := f.physical(0), f.physical(1), f.physical(2), f.physical(3), f.physical(4), f.physical(5)
	c, tan := f.twiddle(0, 6), f.twiddle(1, 7)
	f.VMOVUPS(operand.Mem{Base: loopIn}, er)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: vec}, ei)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: odd}, or)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: odd + vec}, oi)
	f.VMOVAPS(or, ur)
	f.VMOVAPS(oi, ui)
	f.VFMADD231PS(oi, tan, ur)  // ur = or + τ·oi
	f.VFNMADD231PS(or, tan, ui) // ui = oi − τ·or
	f.VMOVAPS(er, or)
	f.VMOVAPS(ei, oi)
	f.VFMADD231PS(ur, c, or)  // X(k)
	f.VFMADD231PS(ui, c, oi)  //
	f.VFNMADD231PS(ur, c, er) // X(h−k), its imaginary part as c·ui − ei
	f.VFMSUB231PS(ui, c, ei)
	for _, bin := range []struct {
		at     reg.Register
		re, im operand.Op
	}{{loopOut, or, oi}, {loopDown, er, ei}} {
		f.VMOVUPS(bin.re, operand.Mem{Base: bin.at})
		f.VMOVUPS(bin.im, operand.Mem{Base: bin.at, Disp: vec})
	}
	f.ADDQ(operand.U32(uint32(2*vec)), loopIn)
	f.ADDQ(operand.U32(uint32(2*vec)), loopOut)
	f.SUBQ(operand.U32(uint32(2*vec)), loopDown)
	f.ADDQ(operand.U8(8), loopTwiddle)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(loop))
}

// inverseInParts undoes forwardInParts.
func (f *circulantFFT) inverseInParts() {
	vec := f.vecBytes()
	bias := f.AllocLocal(8)
	f.MOVQ(biasAt, bias)
	f.separateParts()
	f.MOVQ(bias, biasAt)
	f.setBiasOdd()
	f.setPair3()
	f.MOVQ(scratchAt, loopIn)
	f.MOVQ(operand.U32(uint32(f.b/16)), loopDown)
	f.Label("write")
	s := f.straight()
	var x []val
	for k := range 16 {
		x = append(x, s.load(operand.Mem{Base: loopIn, Disp: k * vec}))
	}
	f.writeColumns(s, x, 0)
	f.finish(s)
	f.nextColumns(16)
	f.ADDQ(operand.U32(64), biasAt)
	f.ADDQ(operand.U32(uint32(16*vec)), loopIn)
	f.DECQ(loopDown)
	f.JNE(operand.LabelRef("write"))
}

// separateParts undoes combineParts.
func (f *circulantFFT) separateParts() {
	parts := f.b / straightMost
	vec := f.vecBytes()
	to := 0
	if parts == 2 {
		to = f.second()
	}
	from := to // of the first step: the spectrum
	for n := f.b; n > straightMost; n /= 2 {
		count := f.b / n
		for i := range count {
			f.separate(n, i, count, from, to)
		}
		from, to = to, f.second()-to
	}
	if from != f.second() {
		panic("the parts are not in the second buffer")
	}

	f.LEAQ(f.scratch(f.second()), loopIn)
	f.MOVQ(scratchAt, loopOut)
	f.MOVQ(operand.U32(uint32(parts)), loopLeft)
	f.Label("part")
	s := f.straight()
	x := s.irfft(straightMost, s.loadBins(straightMost, func(i int) operand.Mem { return operand.Mem{Base: loopIn, Disp: i * vec} }))
	for k, v := range x {
		s.store(v, operand.Mem{Base: loopOut, Disp: k * parts * vec}, nil)
	}
	f.finish(s)
	f.ADDQ(operand.U32(uint32(straightMost*vec)), loopIn)
	f.ADDQ(operand.U32(uint32(vec)), loopOut)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef("part"))
}

// separate undoes combine. The first step reads the spectrum.
func (f *circulantFFT) separate(n, i, count, from, to int) {
	h, vec := n/2, f.vecBytes()
	e := to + i*h
	odd := count * h * vec
	in := func(k int) operand.Mem { return f.scratch(from + i*n + k) }
	if count == 1 {
		in = func(k int) operand.Mem { return f.plane(0, k) }
	}

	s := f.straight()
	first, last := s.load(in(0)), s.load(in(1))
	mr, mi := s.load(in(h)), s.load(in(h+1))
	s.store(s.add(first, last), f.scratch(e), nil)
	s.store(s.sub(first, last), f.scratch(e+count*h), nil)
	s.store(s.mul(2, mr), f.scratch(e+1), nil)
	s.store(s.mul(-2, mi), f.scratch(e+count*h+1), nil)
	f.finish(s)

	f.LEAQ(in(2), loopIn)
	f.LEAQ(in(2*h-2), loopDown)
	f.LEAQ(f.scratch(e+2), loopOut)
	f.LEAQ(f.twiddles(n), loopTwiddle)
	f.MOVQ(operand.U32(uint32(h/2-1)), loopLeft)
	loop := fmt.Sprintf("separate%d_%d", n, i)
	f.Label(loop)
	c, tan := f.twiddle(0, 12), f.twiddle(1, 13)
	var x [4]reg.VecPhysical // ar, ai, br, bi
	for j, base := range []reg.Register{loopIn, loopDown} {
		re, im := f.physical(2*j), f.physical(2*j+1)
		f.VMOVUPS(operand.Mem{Base: base}, re)
		f.VMOVUPS(operand.Mem{Base: base, Disp: vec}, im)
		x[2*j], x[2*j+1] = re, im
	}
	ar, ai, br, bi := x[0], x[1], x[2], x[3]
	er, ei, dr, di, ur, ui := f.physical(4), f.physical(5), f.physical(6), f.physical(7), f.physical(8), f.physical(9)
	f.VADDPS(br, ar, er)
	f.VSUBPS(bi, ai, ei)
	f.VSUBPS(br, ar, dr)
	f.VADDPS(bi, ai, di)
	f.VMOVAPS(dr, ur)
	f.VMOVAPS(di, ui)
	f.VFNMADD231PS(di, tan, ur) // dr − τ·di
	f.VFMADD231PS(dr, tan, ui)  // di + τ·dr
	f.VMULPS(c, ur, ur)
	f.VMULPS(c, ui, ui)
	f.VMOVUPS(er, operand.Mem{Base: loopOut})
	f.VMOVUPS(ei, operand.Mem{Base: loopOut, Disp: vec})
	f.VMOVUPS(ur, operand.Mem{Base: loopOut, Disp: odd})
	f.VMOVUPS(ui, operand.Mem{Base: loopOut, Disp: odd + vec})
	f.ADDQ(operand.U32(uint32(2*vec)), loopIn)
	f.SUBQ(operand.U32(uint32(2*vec)), loopDown)
	f.ADDQ(operand.U32(uint32(2*vec)), loopOut)
	f.ADDQ(operand.U8(8), loopTwiddle)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(loop))
}

// circulantTile emits the product of a tile: for every number of pairs of rows
// loops over blocks that keep the sums of one multiplication in registers. k₁ waits
// in the output for the other two.
func circulantTile(c *family, p path) {
	most := 12
	if p == avx2 {
		most = 6
	}
	f := c.begin(p, "circulantTile", "func(y, w, diff, x []float32, at []int, k, stride, pitch, reals, bins, yHalf int)",
		fmt.Sprintf("the same as circulantTile, with %d lanes and fused multiply-adds, for k, reals ≥ 1", p.lanes),
		fmt.Sprintf("and 1 ≤ len(at) ≤ %d.", most))
	w, diff, x, y, k := reg.RAX, reg.RDI, reg.RBX, reg.RCX, reg.RDX
	xAt, half, block, stride := reg.RSI, reg.R8, reg.R9, reg.R10
	at, left, tmp, sum := reg.R11, reg.R12, reg.R13, reg.R14
	vec := f.vecBytes()
	f.Load(f.Param("w").Base(), w)
	f.Load(f.Param("diff").Base(), diff)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("at").Base(), at)
	f.Load(f.Param("stride"), stride)
	f.SHLQ(operand.U8(2), stride)
	f.Load(f.Param("yHalf"), half) // then where the second half is
	f.LEAQ(operand.Mem{Base: y, Index: half, Scale: 4}, half)
	f.Load(f.Param("pitch"), block)
	f.IMUL3Q(operand.U32(uint32(f.vecBytes())), block, block) // from block to block
	for pairs := most; pairs >= 1; pairs-- {
		name := func(s string) string { return fmt.Sprintf("%s%d", s, pairs) }
		if pairs > 1 {
			f.Load(f.Param("at").Len(), tmp)
			f.CMPQ(tmp, operand.U8(pairs))
			f.JNE(operand.LabelRef(name("not")))
		}
		even, odd := f.physical(2*pairs), f.physical(2*pairs+1) // rows of x
		input := func(plane int) {
			f.VMOVSLDUP(operand.Mem{Base: xAt, Disp: plane * vec}, even)
			f.VMOVSHDUP(operand.Mem{Base: xAt, Disp: plane * vec}, odd)
		}
		// sums takes the sums of an input times the weights at from, which it moves on.
		sums := func(label string, from reg.GPPhysical, columns uint8, input func()) {
			f.MOVQ(x, xAt)
			f.Load(f.Param("k"), k)
			f.clearFirst(2 * pairs)
			f.Label(label)
			input()
			for i := range pairs {
				a := f.physical(2*pairs + 2 + i%2)
				f.VBROADCASTSD(operand.Mem{Base: from, Disp: 8 * i}, a)
				f.VFMADD231PS(even, a, f.physical(2*i))
				f.VFMADD231PS(odd, a, f.physical(2*i+1))
			}
			f.LEAQ(operand.Mem{Base: from, Index: stride, Scale: columns}, from)
			f.ADDQ(block, xAt)
			f.DECQ(k)
			f.JNE(operand.LabelRef(label))
		}
		// results calls each for every sum, with where its plane is.
		results := func(each func(sum reg.VecPhysical, at func(plane int) operand.Mem)) {
			for i := range pairs {
				f.MOVQ(operand.Mem{Base: at, Disp: 8 * i}, tmp)
				for h, base := range []reg.GPPhysical{y, half} {
					each(f.physical(2*i+h), func(plane int) operand.Mem {
						return operand.Mem{Base: base, Index: tmp, Scale: 4, Disp: plane * vec}
					})
				}
			}
		}
		next := func(planes int) {
			for _, r := range []reg.GPPhysical{x, y, half} {
				f.ADDQ(operand.U32(uint32(planes*vec)), r)
			}
		}
		store := func(sum reg.VecPhysical, at func(int) operand.Mem) { f.VMOVUPS(sum, at(0)) }
		f.Load(f.Param("reals"), left)
		f.Label(name("real"))
		sums(name("k"), w, 1, func() { input(0) })
		results(store)
		next(1)
		f.DECQ(left)
		f.JNE(operand.LabelRef(name("real")))

		f.Load(f.Param("bins"), left)
		f.TESTQ(left, left)
		f.JE(operand.LabelRef(name("end")))
		f.Label(name("complex"))
		f.LEAQ(operand.Mem{Base: w, Index: stride, Scale: 1}, sum)
		sums(name("k1_"), w, 2, func() {
			// Copies come with loads; from a register, they would take the place of
			// multiply-adds.
			a, b := f.physical(2*pairs+2), f.physical(2*pairs+3)
			input(0)
			f.VMOVSLDUP(operand.Mem{Base: xAt, Disp: vec}, a)
			f.VMOVSHDUP(operand.Mem{Base: xAt, Disp: vec}, b)
			f.VADDPS(a, even, even)
			f.VADDPS(b, odd, odd)
		})
		results(store)
		sums(name("k2_"), diff, 1, func() { input(0) })
		results(func(k2 reg.VecPhysical, at func(int) operand.Mem) {
			f.VADDPS(at(0), k2, k2)
			f.VMOVUPS(k2, at(1))
		})
		sums(name("k3_"), sum, 2, func() { input(1) })
		results(func(k3 reg.VecPhysical, at func(int) operand.Mem) {
			f.VMOVUPS(at(0), even)
			f.VSUBPS(k3, even, even)
			f.VMOVUPS(even, at(0))
		})
		next(2)
		f.DECQ(left)
		f.JNE(operand.LabelRef(name("complex")))
		f.Label(name("end"))
		f.end()
		if pairs > 1 {
			f.Label(name("not"))
		}
	}
}

// clearFirst clears the first n vector registers.
func (f *function) clearFirst(n int) {
	for i := range n {
		z := f.physical(i)
		if f.path == avx512 {
			f.VPXORD(z, z, z)
		} else {
			f.VXORPS(z, z, z)
		}
	}
}

// circulantFew is what the products of pairs and of one row have in common: loops
// over blocks that keep sums of n vectors in registers, of one real bin or of all
// three multiplications of complex bins. It is the code for one n.
type circulantFew struct {
	*function
	n       int
	joins   []int // how many complex bins to take at once, the most first
	name    func(label string) string
	w, x, y reg.GPPhysical   // weights, and planes, of the current bin
	sum     reg.GPPhysical   // the weights wr + wi of a complex bin
	others  []reg.GPPhysical // weights of bins that are taken with the first
	stride  reg.GPPhysical   // bytes from one block of a real bin to the next
	left    reg.GPPhysical   // bins that are left
	tmp     reg.GPPhysical
	ahead   reg.GPPhysical // for bins that are taken at once, bytes from weights to those to ask for

	each   func(label string, body func(lane int))    // runs body for every block
	input  func(plane, lane int, to reg.VecPhysical)  // the input for a plane from x on
	weight func(i int, at operand.Mem) operand.Mem    // where weights i of the block at that place are
	load   func(from operand.Mem, to reg.VecPhysical) // loads weights
	ask    func(at operand.Mem)                       // asks for weights; may be nil
	output func(i, plane int, from reg.VecPhysical)   // sums i of a plane
	first  func(i int)                                // comes before the outputs i
}

func (f *circulantFew) emit() {
	f.Load(f.Param("reals"), f.left)
	f.Label(f.name("real"))
	f.clearFirst(f.n)
	f.each(f.name("realBlock"), func(lane int) {
		x, w := f.physical(f.n), f.physical(f.n+1)
		f.input(0, lane, x)
		for i := range f.n {
			at := f.weight(i, operand.Mem{Base: f.w})
			f.load(at, w)
			f.askAhead(at)
			f.VFMADD231PS(w, x, f.physical(i))
		}
		f.ADDQ(f.stride, f.w)
	})
	for i := range f.n {
		f.first(i)
		f.output(i, 0, f.physical(i))
	}
	f.next(1)
	f.DECQ(f.left)
	f.JNE(operand.LabelRef(f.name("real")))

	f.Load(f.Param("bins"), f.left)
	for _, join := range f.joins {
		f.complex(join)
	}
	f.end()
}

// next moves the inputs and outputs on.
func (f *circulantFew) next(planes int) {
	for _, r := range []reg.GPPhysical{f.x, f.y} {
		f.ADDQ(operand.U32(uint32(planes*f.vecBytes())), r)
	}
}

// askAhead asks for the weights that lie rowAhead after those at a place.
func (f *circulantFew) askAhead(at operand.Mem) {
	if f.ask != nil {
		at.Disp += rowAhead
		f.ask(at)
	}
}

// complex emits the loop that takes join bins at once, while there are as many:
// one of n vectors, or several of one vector, as otherwise a few sums that wait for
// themselves would be all that the processor has to do.
func (f *circulantFew) complex(join int) {
	name := func(s string) string { return f.name(fmt.Sprintf("%s_%d", s, join)) }
	weights := append([]reg.GPPhysical{f.w}, f.others...)[:join]
	f.Label(name("complex"))
	f.CMPQ(f.left, operand.U8(join))
	f.JLT(operand.LabelRef(name("end")))
	f.clearFirst(3 * f.n * join)
	if join == 1 {
		f.LEAQ(operand.Mem{Base: f.w, Index: f.stride, Scale: 1}, f.sum)
	} else {
		// A bin takes ahead bytes.
		f.MOVQ(f.stride, f.ahead)
		f.IMULQ(f.argument("k"), f.ahead)
		f.ADDQ(f.ahead, f.ahead)
		for i := 1; i < join; i++ {
			f.LEAQ(operand.Mem{Base: weights[i-1], Index: f.ahead, Scale: 1}, weights[i])
		}
		// Short bins ask for those after them, long ones for their own.
		f.LEAQ(operand.Mem{Base: f.ahead, Index: f.ahead, Scale: uint8(join - 1)}, f.ahead)
		f.MOVQ(operand.U32(rowAhead), f.tmp)
		f.CMPQ(f.ahead, f.tmp)
		f.CMOVQLT(f.tmp, f.ahead)
		f.CMPQ(f.ahead, operand.U32(4*rowAhead))
		f.CMOVQGT(f.tmp, f.ahead)
	}
	f.each(name("block"), func(lane int) {
		free := 3 * f.n * join
		x := [3]reg.VecPhysical{f.physical(free), f.physical(free + 1), f.physical(free + 2)} // sum, re, im
		re, diff, sum := f.physical(free+3), f.physical(free+4), f.physical(free+5)
		for bin, w := range weights {
			f.input(2*bin, lane, x[1])
			f.input(2*bin+1, lane, x[2])
			f.VADDPS(x[2], x[1], x[0])
			for i := range f.n {
				at := f.weight(i, operand.Mem{Base: w})
				f.load(at, re)
				if join == 1 {
					also := f.weight(i, operand.Mem{Base: f.sum})
					f.load(also, sum)
					f.askAhead(at)
					f.askAhead(also)
				} else {
					f.load(operand.Mem{Base: w, Index: f.stride, Scale: 1}, sum)
					f.ask(operand.Mem{Base: w, Index: f.ahead, Scale: 1})
					f.ask(operand.Mem{Base: w, Index: f.ahead, Scale: 1, Disp: 64})
				}
				f.VSUBPS(re, sum, diff)
				f.VSUBPS(re, diff, diff)
				acc := 3 * (bin*f.n + i)
				f.VFMADD231PS(re, x[0], f.physical(acc))
				f.VFMADD231PS(diff, x[1], f.physical(acc+1))
				f.VFMADD231PS(sum, x[2], f.physical(acc+2))
			}
			f.LEAQ(operand.Mem{Base: w, Index: f.stride, Scale: 2}, w)
			if join == 1 {
				f.LEAQ(operand.Mem{Base: f.sum, Index: f.stride, Scale: 2}, f.sum)
			}
		}
	})
	if join > 1 {
		f.MOVQ(weights[join-1], f.w)
	}
	for i := range f.n {
		f.first(i)
		for bin := range join {
			k1, k2, k3 := f.physical(3*(bin*f.n+i)), f.physical(3*(bin*f.n+i)+1), f.physical(3*(bin*f.n+i)+2)
			f.VSUBPS(k3, k1, k3)
			f.VADDPS(k2, k1, k2)
			f.output(i, 2*bin, k3)
			f.output(i, 2*bin+1, k2)
		}
	}
	f.next(2 * join)
	f.SUBQ(operand.U8(join), f.left)
	f.JMP(operand.LabelRef(name("complex")))
	f.Label(name("end"))
}

// argument is an integer argument in memory.
func (f *function) argument(name string) operand.Op {
	a, err := f.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return a.Addr
}

// circulantPairs emits the product of a tile of pairs.
func circulantPairs(c *family, p path) {
	maxPairs := 8
	if p == avx2 {
		maxPairs = 3
	}
	f := c.begin(p, "circulantPairs", "func(y, w, x []float32, at []int, k, stride, pitch, reals, bins int)",
		fmt.Sprintf("the same as circulantPairs, with %d lanes and fused multiply-adds, for k, reals ≥ 1", p.lanes),
		fmt.Sprintf("and 1 ≤ len(at) ≤ %d.", maxPairs))
	w, x, y, k := reg.RAX, reg.RBX, reg.RCX, reg.RDX
	xAt, sum, block, stride, at, left, tmp := reg.RSI, reg.RDI, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12
	f.Load(f.Param("w").Base(), w)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("at").Base(), at)
	f.Load(f.Param("stride"), stride)
	f.SHLQ(operand.U8(2), stride)
	f.Load(f.Param("pitch"), block)
	f.IMUL3Q(operand.U32(uint32(f.vecBytes())), block, block)
	for n := maxPairs; n >= 1; n-- {
		name := func(s string) string { return fmt.Sprintf("%s%d", s, n) }
		if n > 1 {
			f.Load(f.Param("at").Len(), tmp)
			f.CMPQ(tmp, operand.U8(n))
			f.JNE(operand.LabelRef(name("not")))
		}
		(&circulantFew{
			function: f, n: n, joins: []int{1}, name: name, w: w, x: x, y: y, sum: sum, stride: stride, left: left,
			each: func(label string, body func(int)) {
				f.Load(f.Param("k"), k)
				f.MOVQ(x, xAt)
				f.Label(label)
				body(0)
				f.ADDQ(block, xAt)
				f.DECQ(k)
				f.JNE(operand.LabelRef(label))
			},
			input: func(plane, _ int, to reg.VecPhysical) {
				f.VMOVUPS(operand.Mem{Base: xAt, Disp: plane * f.vecBytes()}, to)
			},
			weight: func(i int, at operand.Mem) operand.Mem {
				at.Disp += 8 * i
				return at
			},
			load:  func(from operand.Mem, to reg.VecPhysical) { f.VBROADCASTSD(from, to) },
			first: func(i int) { f.MOVQ(operand.Mem{Base: at, Disp: 8 * i}, tmp) },
			output: func(i, plane int, from reg.VecPhysical) {
				f.VMOVUPS(from, operand.Mem{Base: y, Index: tmp, Scale: 4, Disp: plane * f.vecBytes()})
			},
		}).emit()
		if n > 1 {
			f.Label(name("not"))
		}
	}
}

// rowAhead is how many bytes before their use weights of a row product are asked
// for. They come from memory or the last cache, which takes a few hundred cycles.
// Of 4 to 32 KB, 8 was the best for what is in the last cache, and hardly worse
// than more for what is not.
const rowAhead = 8192

// circulantRow emits the product of one row, whose lanes are blocks of the
// output.
func circulantRow(c *family, p path) {
	const maxVecs = 3
	f := c.begin(p, "circulantRow", "func(y, w, x []float32, k, unit, stride, spacing, vecs, pitch, reals, bins int)",
		fmt.Sprintf("the same as circulantRow, with %d lanes and fused multiply-adds, for k, unit, reals ≥ 1", p.lanes),
		fmt.Sprintf("and 1 ≤ vecs ≤ %d.", maxVecs))
	vec := f.vecBytes()
	w, x, y, k := reg.RAX, reg.RBX, reg.RCX, reg.RDX
	row, blockAt, unitsLeft, rowsLeft := reg.RSI, reg.RDI, reg.R10, reg.R11
	block, stride, left, sum, spacing := reg.R8, reg.R9, reg.R12, reg.R13, reg.R14
	f.Load(f.Param("w").Base(), w)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("stride"), stride)
	f.SHLQ(operand.U8(2), stride)
	f.Load(f.Param("spacing"), spacing)
	f.SHLQ(operand.U8(2), spacing)
	f.Load(f.Param("pitch"), block)
	f.IMUL3Q(operand.U32(uint32(vec)), block, block)
	// For every block of the input, with row on its first plane in the lane of its
	// row, where a group is one block. Four blocks at a time.
	const quad = 4
	single := func(label string, body func(lane int)) {
		f.Load(f.Param("k"), k)
		f.MOVQ(x, row)
		f.Label(label + "tile")
		f.MOVQ(operand.U32(uint32(f.lanes/quad)), rowsLeft)
		f.Label(label + "quad")
		f.CMPQ(k, operand.U8(quad))
		f.JLT(operand.LabelRef(label + "rest"))
		for lane := range quad {
			body(lane)
		}
		f.ADDQ(operand.U8(4*quad), row)
		f.SUBQ(operand.U8(quad), k)
		f.DECQ(rowsLeft)
		f.JNE(operand.LabelRef(label + "quad"))
		f.LEAQ(operand.Mem{Base: row, Index: block, Scale: 1, Disp: -vec}, row)
		f.JMP(operand.LabelRef(label + "tile"))
		f.Label(label + "rest")
		f.TESTQ(k, k)
		f.JE(operand.LabelRef(label + "done"))
		f.Label(label + "one")
		body(0)
		f.ADDQ(operand.U8(4), row)
		f.DECQ(k)
		f.JNE(operand.LabelRef(label + "one"))
		f.Label(label + "done")
	}
	// The same, with blockAt there, for any groups.
	grouped := func(label string, body func(lane int)) {
		f.Load(f.Param("k"), k)
		f.MOVQ(x, row)
		f.Label(label + "tile")
		f.MOVQ(operand.U32(uint32(f.lanes)), rowsLeft)
		f.Label(label + "row")
		f.MOVQ(row, blockAt)
		f.Load(f.Param("unit"), unitsLeft)
		f.Label(label + "block")
		body(0)
		f.DECQ(k)
		f.JE(operand.LabelRef(label + "done"))
		f.ADDQ(block, blockAt)
		f.DECQ(unitsLeft)
		f.JNE(operand.LabelRef(label + "block"))
		f.ADDQ(operand.U8(4), row)
		f.DECQ(rowsLeft)
		f.JNE(operand.LabelRef(label + "row"))
		f.LEAQ(operand.Mem{Base: blockAt, Disp: -4 * (f.lanes - 1)}, row)
		f.JMP(operand.LabelRef(label + "tile"))
		f.Label(label + "done")
	}
	for n := maxVecs; n >= 1; n-- {
		if n > 1 {
			f.Load(f.Param("vecs"), k)
			f.CMPQ(k, operand.U8(n))
			f.JNE(operand.LabelRef(fmt.Sprintf("not%d", n)))
		}
		f.Load(f.Param("unit"), k)
		f.CMPQ(k, operand.U8(1))
		f.JNE(operand.LabelRef(fmt.Sprintf("grouped%d", n)))
		for _, v := range []struct {
			name  string
			at    reg.GPPhysical // where blocks are
			each  func(label string, body func(lane int))
			joins []int
		}{{"single", row, single, []int{3, 1}}, {"grouped", blockAt, grouped, []int{1}}} {
			if n > 1 {
				v.joins = []int{1}
			}
			f.Label(fmt.Sprintf("%s%d", v.name, n))
			(&circulantFew{
				function: f, n: n, joins: v.joins, name: func(s string) string { return fmt.Sprintf("%s%s%d", s, v.name, n) },
				w: w, x: x, y: y, sum: sum, others: []reg.GPPhysical{blockAt, unitsLeft}, stride: stride, left: left, ahead: sum, tmp: k,
				each: v.each,
				input: func(plane, lane int, to reg.VecPhysical) {
					f.VBROADCASTSS(operand.Mem{Base: v.at, Disp: plane*vec + 4*lane}, to)
				},
				weight: func(i int, at operand.Mem) operand.Mem {
					if i > 0 {
						at.Index, at.Scale = spacing, uint8(i)
					}
					return at
				},
				load: func(from operand.Mem, to reg.VecPhysical) { f.VMOVUPS(from, to) },
				ask:  func(at operand.Mem) { f.PREFETCHT0(at) },
				first: func(i int) {
					if i == 0 {
						f.MOVQ(y, row)
					} else {
						f.ADDQ(block, row)
					}
				},
				output: func(i, plane int, from reg.VecPhysical) {
					f.VMOVUPS(from, operand.Mem{Base: row, Disp: plane * vec})
				},
			}).emit()
		}
		if n > 1 {
			f.Label(fmt.Sprintf("not%d", n))
		}
	}
}

// circulantAsk emits the prefetch of weights.
func circulantAsk(c *family, p path) {
	f := c.begin(p, "circulantAsk", "func(x []float32)", "prefetches of the lines of x, len(x) ≥ 1.")
	at, left := reg.RAX, reg.RCX
	f.Load(f.Param("x").Base(), at)
	f.Load(f.Param("x").Len(), left)
	f.Label("line")
	f.PREFETCHT0(operand.Mem{Base: at})
	f.ADDQ(operand.U8(64), at)
	f.SUBQ(operand.U8(16), left)
	f.JGT(operand.LabelRef("line"))
	f.end()
}
