package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fixedCirculant emits the kernels of block-circulant products in 16-bit fixed
// point.
func fixedCirculant(c *family) {
	for _, p := range paths {
		for b := 2; b <= 256; b *= 2 {
			newFixedFFT(c, p, b).forward()
			newFixedFFT(c, p, b).inverse()
		}
	}
	for _, p := range []path{vnni, avx512, avx2} {
		fixedProduct(c, p)
	}
}

// fixedFFT emits the transforms F and G of package fixed for one block size on
// one path. A vector is one number of all tokens of a tile, as a float32 that is
// an integer times a power of two: its documentation says what that is to the bit.
// A fused multiply-add to a number of magnitude 2²³ rounds to integers.
//
// The order of everything is that of circulantFFT.
type fixedFFT struct {
	*circulantFFT
	unit   float64     // what an integer 1 is in a register
	scales operand.Mem // where loops keep biasAt
}

func newFixedFFT(c *family, p path, b int) *fixedFFT {
	return &fixedFFT{circulantFFT: newCirculant(c, p, b), unit: 1}
}

// fixedColumns is a cache line of int16.
const fixedColumns = 32

func (f *fixedFFT) columns() int { return max(f.b, fixedColumns) }
func (f *fixedFFT) blocks() int  { return f.columns() / f.b }
func (f *fixedFFT) pairs() bool  { return f.b <= 16 }

// vec is vector k of block u of the current group.
func (f *fixedFFT) vec(u, k int) operand.Mem {
	return operand.Mem{Base: planesAt, Disp: (u*(f.b+1) + k) * f.vecBytes()}
}

func (f *fixedFFT) scale(k int) operand.Mem { return operand.Mem{Base: biasAt, Disp: 4 * k} }

// Registers that AVX-512 keeps constants in: the magic number, one half, and the
// scale of what is quantised.
const fixedMagic, fixedHalf, fixedScale = 31, 30, 29

// magic is 1.5·2²³ units of 2ᵘ.
func (f *fixedFFT) magic(u int) konst { return f.f32(1.5 * (1 << 23) * f.unit * float64(int(1)<<u)) }

func (f *fixedFFT) setConstants() {
	if f.path != avx2 {
		f.VBROADCASTSS(f.magic(0).Mem, f.physical(fixedMagic))
		f.VBROADCASTSS(f.f32(0.5).Mem, f.physical(fixedHalf))
	}
}

// spills is the first vector of the scratch memory for spilled registers: behind
// the columns of a group, or both buffers of a long transform, and the vector leasts.
func (f *fixedFFT) spills() int { return max(f.columns(), f.circulantFFT.spills()) + 1 }

// leasts is a vector of the scratch memory for the least words that were read.
func (f *fixedFFT) leasts() operand.Mem { return f.scratch(f.spills() - 1) }

func (f *fixedFFT) straight() *straight {
	s := f.circulantFFT.straight()
	s.slot = func(i int) operand.Mem { return f.scratch(f.spills() + i) }
	if f.path != avx2 {
		s.reserved = 2
	}
	return s
}

// list is straight-line code.
func (f *fixedFFT) list(body func(s *straight)) func() {
	return func() {
		s := f.straight()
		body(s)
		f.finish(s)
	}
}

func (f *fixedFFT) finish(s *straight) {
	s.emit()
	if f.spills()+s.slots > circulantScratch*f.columns() {
		panic(fmt.Sprintf("%s: %d vectors of scratch memory, there are %d", f.name, f.spills()+s.slots, circulantScratch*f.columns()))
	}
}

// setFixedRows points the bases at the rows of the slice of int16, or of that of
// float32 unless it is nil.
func (f *fixedFFT) setFixedRows(shorts, floats string) {
	f.Load(f.Param("ld"), rowPair)
	f.ADDQ(rowPair, rowPair)
	f.Load(f.Param(shorts).Base(), rowBase[0])
	f.ifFloats(floats, "rows", func() {
		f.Load(f.Param(floats).Base(), rowBase[0])
		f.ADDQ(rowPair, rowPair)
	}, func() {})
	f.LEAQ(operand.Mem{Base: rowBase[0], Index: rowPair, Scale: 1}, rowBase[1])
	f.ADDQ(rowPair, rowPair)
	for i := 2; i < f.lanes/4; i++ {
		f.LEAQ(operand.Mem{Base: rowBase[i-2], Index: rowPair, Scale: 4}, rowBase[i])
	}
	f.setPair3()
}

// ifFloats runs one of both, as the slice of float32 of that name is there or nil.
func (f *fixedFFT) ifFloats(arg, label string, floats, shorts func()) {
	base, err := f.Param(arg).Base().Resolve()
	if err != nil {
		panic(err)
	}
	f.CMPQ(base.Addr, operand.U8(0))
	f.JNE(operand.LabelRef(label + "Floats"))
	shorts()
	f.JMP(operand.LabelRef(label + "Done"))
	f.Label(label + "Floats")
	floats()
	f.Label(label + "Done")
}

// eachColumns runs one of both for every 32 columns of a group, whose vectors in
// the scratch memory are at the pointer, and moves the rows on. It uses loopDown.
func (f *fixedFFT) eachColumns(arg, label string, at reg.GPPhysical, floats, shorts, next func()) {
	run := func(body func(), bytes int) func() {
		return func() {
			body()
			f.ADDQ2(rowBase[:f.lanes/4], bytes*fixedColumns)
		}
	}
	f.MOVQ(scratchAt, at)
	f.MOVQ(operand.U32(uint32(f.columns()/fixedColumns)), loopDown)
	f.Label(label)
	f.ifFloats(arg, label, run(floats, 4), run(shorts, 2))
	f.ADDQ(operand.U32(uint32(fixedColumns*f.vecBytes())), at)
	next()
	f.DECQ(loopDown)
	f.JNE(operand.LabelRef(label))
}

// words is a constant whose 128-bit lanes are all w.
func (f *fixedFFT) words(name string, w ...uint32) operand.Mem {
	var all []uint32
	for range 4 {
		all = append(all, w...)
	}
	return f.data("fixed_"+name, all...)
}

// Orders of the words of a lane that holds four words of x and four of y.
func (f *fixedFFT) orderXY() operand.Mem {
	return f.words("xy", 0x09080100, 0x0b0a0302, 0x0d0c0504, 0x0f0e0706)
}
func (f *fixedFFT) orderYX() operand.Mem {
	return f.words("yx", 0x01000908, 0x03020b0a, 0x05040d0c, 0x07060f0e)
}
func (f *fixedFFT) orderX0() operand.Mem {
	return f.words("x0", 0x80800100, 0x80800302, 0x80800504, 0x80800706)
}
func (f *fixedFFT) order0Y() operand.Mem {
	return f.words("0y", 0x09088080, 0x0b0a8080, 0x0d0c8080, 0x0f0e8080)
}
func (f *fixedFFT) least() operand.Mem {
	return f.words("least", 0x80018001, 0x80018001, 0x80018001, 0x80018001)
}
func (f *fixedFFT) oddWords() operand.Mem {
	return f.words("odd", 0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000)
}

// ---- operations on values

func (f *fixedFFT) xorMem(m operand.Mem, x, d operand.Op) {
	if f.path == avx2 {
		f.VPXOR(m, x, d)
	} else {
		f.VPXORD(m, x, d)
	}
}

// move copies a register.
func (f *fixedFFT) setMagic(u int, d operand.Op) {
	switch {
	case f.path == avx2:
		f.VMOVUPS(f.magic(u).Mem, d)
	case u == 0:
		f.VMOVAPS(f.physical(fixedMagic), d)
	default:
		f.VBROADCASTSS(f.magic(u).Mem, d)
	}
}

func (f *fixedFFT) subMagic(u int, x, d operand.Op) {
	switch {
	case f.path == avx2:
		f.VSUBPS(f.magic(u).Mem, x, d)
	case u == 0:
		f.VSUBPS(f.physical(fixedMagic), x, d)
	default:
		f.VSUBPS_BCST(f.magic(u).Mem, x, d)
	}
}

// mac2 is macᵤ(macᵤ(0, x, s), y, c).
func (f *fixedFFT) mac2(s *straight, x val, sin float64, y val, cos float64, u int) val {
	if x.neg {
		sin = -sin
	}
	t := s.custom(x.op, -1, true, func(x, _, d operand.Op) {
		f.setMagic(u, d)
		f.mulAddConst(f.f32(sin), x, d)
	})
	t = s.mulAdd(t, cos, y)
	if t.neg {
		panic("a sum with a magic number has a sign")
	}
	return s.custom(t.op, -1, false, func(x, _, d operand.Op) { f.subMagic(u, x, d) })
}

// fixedCoarse is the block size from which on late rotations round to multiples of 2
// and 4.
const fixedCoarse = 64

// halves are the two int16 of every word as float32, times 2¹⁶.
func (f *fixedFFT) halves(s *straight, v val) (low, high val) {
	low = s.custom(v.op, -1, false, func(x, _, d operand.Op) {
		f.VPSLLD(operand.U8(16), x, d)
		f.VCVTDQ2PS(d, d)
	})
	high = s.custom(v.op, -1, false, func(x, _, d operand.Op) {
		if f.path == avx2 {
			f.VPAND(f.oddWords(), x, d)
		} else {
			f.VPANDD(f.oddWords(), x, d)
		}
		f.VCVTDQ2PS(d, d)
	})
	return low, high
}

// quantised is ⌊x·scale + ½⌋ as int32 in d, which must not be x; −x where neg.
func (f *fixedFFT) quantised(x operand.Op, neg bool, scale operand.Mem, d operand.Op) {
	if f.path == avx2 {
		f.VBROADCASTSS(scale, d)
		if neg {
			f.VFNMADD213PS(f.f32(0.5).Mem, x, d)
		} else {
			f.VFMADD213PS(f.f32(0.5).Mem, x, d)
		}
		f.floor(d, d)
		return
	}
	f.VMOVAPS(f.physical(fixedHalf), d)
	if neg {
		f.VFNMADD231PS_BCST(scale, x, d)
	} else {
		f.VFMADD231PS_BCST(scale, x, d)
	}
	f.VCVTPS2DQ_RD_SAE(d, d)
}

// floor is ⌊x⌋ as int32, with AVX2.
func (f *fixedFFT) floor(x, d operand.Op) {
	const down = 9
	f.VROUNDPS(operand.U8(down), x, d)
	f.VCVTPS2DQ(d, d)
}

func (f *fixedFFT) quantise(s *straight, v val, scale operand.Mem) val {
	return s.custom(v.op, -1, true, func(x, _, d operand.Op) { f.quantised(x, v.neg, scale, d) })
}

// pack saturates x and y to int16: a lane has four of x, then four of y.
func (f *fixedFFT) pack(s *straight, x, y val, least bool) val {
	return s.custom(x.op, y.op, false, func(x, y, d operand.Op) {
		f.VPACKSSDW(y, x, d)
		if least {
			f.VPMAXSW(f.least(), d, d)
		}
	})
}

func (f *fixedFFT) order(s *straight, v val, order operand.Mem) val {
	return s.custom(v.op, -1, false, func(x, _, d operand.Op) { f.VPSHUFB(order, x, d) })
}

// minusOdd changes the sign of the high halves.
func (f *fixedFFT) minusOdd(x, d operand.Op) {
	f.xorMem(f.oddWords(), x, d)
	f.VPSUBW(f.oddWords(), d, d)
}

// rfft is straight.rfft in integers.
func (f *fixedFFT) rfft(s *straight, x []val, out func(k int, re, im val)) {
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
		f.rfft(s, half, func(k int, r, i val) { re[k], im[k] = r, i })
		parts[i].re, parts[i].im = re, im
	}
	e, o := parts[0], parts[1]
	u := f.forwardCoarse(n)
	out(0, s.add(e.re[0], o.re[0]), val{})
	out(h, s.sub(e.re[0], o.re[0]), val{})
	for k := 1; k < h/2; k++ {
		c, sin := fixedTwiddle(k, n)
		pr := f.mac2(s, o.im[k], sin, o.re[k], c, u)
		pi := f.mac2(s, o.re[k], -sin, o.im[k], c, u)
		out(k, s.add(e.re[k], pr), s.add(e.im[k], pi))
		out(h-k, s.sub(e.re[k], pr), s.sub(pi, e.im[k]))
	}
	out(h/2, e.re[h/2], o.re[h/2].minus())
}

// forwardCoarse is u for the rotations of F_n.
func (f *fixedFFT) forwardCoarse(n int) int {
	if f.b < fixedCoarse {
		return 0
	}
	return map[int]int{f.b: 2, f.b / 2: 1}[n]
}

// irfft is straight.irfft in integers.
func (f *fixedFFT) irfft(s *straight, n int, in func(k int) (re, im val)) []val {
	h := n / 2
	if n == 2 {
		a, _ := in(0)
		b, _ := in(1)
		return []val{s.add(a, b), s.sub(a, b)}
	}
	u := 0
	if f.b >= fixedCoarse {
		u = map[int]int{16: 1, 8: 2}[n]
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
		c, sin := fixedTwiddle(k, n)
		ar, ai := in(k)
		br, bi := in(h - k)
		e.re[k], e.im[k] = s.add(ar, br), s.sub(ai, bi)
		dr, di := s.sub(ar, br), s.add(ai, bi)
		o.re[k], o.im[k] = f.mac2(s, di, -sin, dr, c, u), f.mac2(s, dr, sin, di, c, u)
	}
	mr, mi := in(h / 2)
	e.re[h/2], o.re[h/2] = s.add(mr, mr), s.add(mi, mi).minus()
	x := make([]val, n)
	for i, p := range parts {
		for j, v := range f.irfft(s, h, func(k int) (val, val) { return p.re[k], p.im[k] }) {
			x[2*j+i] = v
		}
	}
	return x
}

// fixedTwiddle is the cosine and the sine of 2πk/n, of 15 bits.
func fixedTwiddle(k, n int) (c, s float64) {
	s, c = math.Sincos(2 * math.Pi * float64(k) / float64(n))
	return math.Round(c*(1<<15)) / (1 << 15), math.Round(s*(1<<15)) / (1 << 15)
}

// ---- the forward transform

func (f *fixedFFT) forward() {
	f.name = fmt.Sprintf("fixedForward%d", f.b)
	f.function = f.c.begin(f.p, f.name, "func(dst []int32, x []int16, floats []float32, scale float32, ld, groups int, scales, scratch []float32)",
		fmt.Sprintf("FixedCirculant.Forward for blocks of %d and %d rows, groups ≥ 1.", f.b, f.p.lanes))
	f.unit = 1 << 8 * float64(f.b) // x is read times 2¹⁶, and is 2ᵍ integers
	if f.b >= fixedCoarse {
		f.unit /= 4
	}
	f.setFixedRows("x", "floats")
	f.Load(f.Param("dst").Base(), planesAt)
	f.Load(f.Param("groups"), groupsLeft)
	f.Load(f.Param("scratch").Base(), scratchAt)
	f.setConstants()
	f.Load(f.Param("scales").Base(), biasAt)
	f.Label("group")
	if f.b > straightMost {
		f.setPair3()
	}
	f.eachColumns("floats", "read", loopOut, f.readFloats, f.list(f.readShorts), func() {})
	if f.b <= straightMost {
		s := f.straight()
		var x []val
		for k := range f.columns() {
			x = append(x, s.load(f.scratch(k)))
		}
		var real [2]val // of an even block
		for u := range f.blocks() {
			f.rfft(s, x[u*f.b:(u+1)*f.b], func(k int, re, im val) {
				n := map[int]int{0: 0, f.b / 2: 1}
				i, isReal := n[k]
				switch {
				case !isReal:
					f.storePair(s, u, k, re, im)
				case !f.pairs():
					f.storeAlone(s, i, re)
				case u%2 == 0:
					real[i] = f.quantise(s, re, f.forwardScale(u, i))
				default:
					p := f.pack(s, real[i], f.quantise(s, re, f.forwardScale(u, i)), true)
					s.store(f.order(s, p, f.orderXY()), f.vec(u-1, i), nil)
				}
			})
		}
		f.finish(s)
		f.ADDQ(operand.U32(uint32(4*f.blocks()*(f.b/2+1))), biasAt)
	} else {
		f.forwardInParts()
	}
	f.ADDQ(operand.U32(uint32(f.blocks()*(f.b+1)*f.vecBytes())), planesAt)
	f.DECQ(groupsLeft)
	f.JNE(operand.LabelRef("group"))
	f.end()
}

// ADDQ2 moves pointers on by n bytes.
func (f *fixedFFT) ADDQ2(regs []reg.GPPhysical, n int) {
	for _, r := range regs {
		f.ADDQ(operand.U32(uint32(n)), r)
	}
}

// forwardScale is the factor of bin i of 0, b/2, 1, 2, … of block u.
func (f *fixedFFT) forwardScale(u, i int) operand.Mem { return f.scale(u*(f.b/2+1) + i) }

// readShorts reads 32 columns of the rows into the scratch memory at loopOut, a
// vector each.
func (f *fixedFFT) readShorts(s *straight) {
	for i, v := range f.readColumns(s, 0) {
		f.putHalves(s, v, 2*i, 2*i+1)
	}
}

// readFloats is readShorts for rows of float32, which it quantises: as if all were
// numbers below 2³¹, and again, with all that others take, where a result is −2¹⁵. That
// is what they become, and what is next to nowhere else.
func (f *fixedFFT) readFloats() {
	f.readQuantised(true)
	found := f.physical(0)
	f.VMOVUPS(f.leasts(), found)
	low := f.words("low", 0x80008000, 0x80008000, 0x80008000, 0x80008000)
	if f.path == avx2 {
		f.VPCMPEQW(low, found, found)
		f.VPMOVMSKB(found, reg.R12L)
		f.TESTL(reg.R12L, reg.R12L)
	} else {
		f.VPCMPEQW(low, found, reg.K1)
		f.KORTESTD(reg.K1, reg.K1)
	}
	f.JE(operand.LabelRef("numbers"))
	f.readQuantised(false)
	f.Label("numbers")
}

// readQuantised reads 32 columns of rows of float32. Two vectors of a row are packed to
// one of int16 before they are transposed, so that a lane has four columns of the
// first, then four of the second. Those taken for numbers in range leave their leasts.
func (f *fixedFFT) readQuantised(inRange bool) {
	s := f.straight()
	if f.path != avx2 {
		f.VBROADCASTSS(f.argument("scale"), f.physical(fixedScale))
		s.reserved = 3
	}
	var least *val
	words := f.fromLines(s, func(row, part int) val {
		first := f.quantiseInput(s, f.row(row, 32*part), inRange)
		v := f.pack(s, first, f.quantiseInput(s, f.row(row, 32*part+f.vecBytes()), inRange), false)
		switch {
		case !inRange:
		case least == nil:
			least = &v
		default:
			l := s.custom(least.op, v.op, false, func(x, y, d operand.Op) { f.VPMINSW(y, x, d) })
			least = &l
		}
		return v
	})
	if inRange {
		s.store(*least, f.leasts(), nil)
	}
	wide := f.lanes / 4
	for i, v := range words {
		quad, word := i/4, i%4
		column := 8*(quad/wide*wide) + word/2*f.lanes + 4*(quad%wide) + 2*(word%2)
		f.putHalves(s, v, column, column+1)
	}
	f.finish(s)
}

// quantiseInput is min(⌊x·scale + ½⌋, 2¹⁵ − 1) as int32, of NaN 0, for float32 at m.
// What is below an int32 becomes the least one, and so does NaN, and what is above, where
// the input is taken for a number in range. The multiply-add rounds as product and sum
// do: the product is exact, but where it is too small for the sum to notice, or too
// large for the rest.
func (f *fixedFFT) quantiseInput(s *straight, m operand.Mem, inRange bool) val {
	high := f.f32(1<<15 - 1)
	v := s.load(m)
	if f.path != avx2 {
		const zeroOfNaN = 0x88
		return s.custom(v.op, -1, false, func(x, _, d operand.Op) {
			if x != d {
				f.VMOVUPS(x, d)
			}
			f.VFMADD213PS(f.physical(fixedHalf), f.physical(fixedScale), d)
			if !inRange {
				f.VFIXUPIMMPS_BCST(operand.U8(0), f.bits(zeroOfNaN).Mem, d, d)
				f.VMINPS_BCST(high.Mem, d, d)
			}
			f.VCVTPS2DQ_RD_SAE(d, d)
		})
	}
	t := s.custom(v.op, -1, true, func(x, _, d operand.Op) {
		f.VBROADCASTSS(f.argument("scale"), d)
		f.VFMADD213PS(f.f32(0.5).Mem, x, d)
	})
	if inRange {
		return s.custom(t.op, -1, false, func(x, _, d operand.Op) { f.floor(x, d) })
	}
	number := s.custom(t.op, -1, true, func(x, _, d operand.Op) {
		const ordered = 7
		f.VCMPPS(operand.U8(ordered), x, x, d)
	})
	return s.custom(t.op, number.op, false, func(x, y, d operand.Op) {
		f.VANDPS(x, y, d)
		f.VMINPS(high.Mem, d, d)
		f.floor(d, d)
	})
}

// putHalves stores the two int16 of every word as two columns.
func (f *fixedFFT) putHalves(s *straight, v val, low, high int) {
	at := func(i int) operand.Mem { return operand.Mem{Base: loopOut, Disp: i * f.vecBytes()} }
	l, h := f.halves(s, v)
	s.store(l, at(low), nil)
	s.store(h, at(high), nil)
}

// storePair stores a complex bin.
func (f *fixedFFT) storePair(s *straight, u, k int, re, im val) {
	a, b := f.quantise(s, re, f.forwardScale(u, k+1)), f.quantise(s, im, f.forwardScale(u, k+1))
	p := f.pack(s, a, b, true)
	m := s.custom(p.op, -1, false, func(x, _, d operand.Op) {
		f.VPSHUFB(f.orderXY(), x, d)
		f.minusOdd(d, d)
	})
	s.store(m, f.vec(u, 2*k), nil)
	s.store(f.order(s, p, f.orderYX()), f.vec(u, 2*k+1), nil)
}

// storeAlone stores a real bin, i of 0 and b/2, as a pair with zero.
func (f *fixedFFT) storeAlone(s *straight, i int, re val) {
	q := f.quantise(s, re, f.forwardScale(0, i))
	p := f.pack(s, q, q, true)
	s.store(f.order(s, p, []operand.Mem{f.orderX0(), f.order0Y()}[i]), f.vec(0, i), nil)
}

func (f *fixedFFT) forwardInParts() {
	parts := f.b / straightMost
	vec := f.vecBytes()
	f.scales = f.AllocLocal(8)
	f.MOVQ(biasAt, f.scales)

	f.MOVQ(scratchAt, loopIn)
	f.LEAQ(f.scratch(f.second()), loopOut)
	f.MOVQ(operand.U32(uint32(parts)), loopDown)
	f.Label("part")
	s := f.straight()
	var x []val
	for k := range straightMost {
		x = append(x, s.load(operand.Mem{Base: loopIn, Disp: k * parts * vec}))
	}
	f.rfft(s, x, storeBins(s, straightMost, loopOut, vec))
	f.finish(s)
	f.ADDQ(operand.U32(uint32(vec)), loopIn)
	f.ADDQ(operand.U32(uint32(straightMost*vec)), loopOut)
	f.DECQ(loopDown)
	f.JNE(operand.LabelRef("part"))

	from, to := f.second(), 0
	for n := 2 * straightMost; n <= f.b; n *= 2 {
		count := f.b / n
		for i := range count {
			f.combine(n, i, count, from, to)
		}
		from, to = to, from
	}
	f.ADDQ(operand.U32(uint32(4*(f.b/2+1+2*(f.b/4-1)))), biasAt)
}

// fixedTwiddles is the table of cosines and sines for 0 < k < n/4.
func (f *fixedFFT) fixedTwiddles(n int) operand.Mem {
	var words []uint32
	for k := 1; k < n/4; k++ {
		c, s := fixedTwiddle(k, n)
		words = append(words, math.Float32bits(float32(c)), math.Float32bits(float32(s)))
	}
	return f.data(fmt.Sprintf("fixedTwiddles%d", n), words...)
}

// loopScale is where factors of the current bins are in loops.
var loopScale = reg.R15

// combine is circulantFFT.combine in integers; the last step stores the result.
func (f *fixedFFT) combine(n, i, count, from, to int) {
	h, vec := n/2, f.vecBytes()
	last := count == 1
	e := from + i*h
	odd := count * h * vec // from a bin of the even elements to that of the odd
	out := to + i*n

	s := f.straight()
	e0, o0 := s.load(f.scratch(e)), s.load(f.scratch(e+count*h))
	em, om := s.load(f.scratch(e+1)), s.load(f.scratch(e+count*h+1))
	u := f.forwardCoarse(n)
	if last {
		f.storeAlone(s, 0, s.add(e0, o0))
		f.storeAlone(s, 1, s.sub(e0, o0))
		f.storePair(s, 0, h/2, em, om.minus())
	} else {
		f.LEAQ(f.scratch(out), loopOut)
		put := storeBins(s, n, loopOut, vec)
		put(0, s.add(e0, o0), val{})
		put(h, s.sub(e0, o0), val{})
		put(h/2, em, om.minus())
	}
	f.finish(s)

	first := func(k int) operand.Mem { return f.scratch(out + 2*k) }
	if last {
		first = func(k int) operand.Mem { return f.vec(0, 2*k) }
	}
	f.LEAQ(f.scratch(e+2), loopIn)
	f.LEAQ(first(1), loopOut)
	f.LEAQ(first(h-1), loopDown)
	f.LEAQ(f.fixedTwiddles(n), loopTwiddle)
	if last {
		f.LEAQ(f.scale(f.b/2+1), loopScale)
	}
	f.MOVQ(operand.U32(uint32(h/2-1)), loopLeft) // is biasAt
	loop := fmt.Sprintf("combine%d_%d", n, i)
	f.Label(loop)
	r := f.physical
	er, ei, or, oi, pr, pi := r(0), r(1), r(2), r(3), r(4), r(5)
	c, sin := f.twiddle(0, 6), f.twiddle(1, 7)
	f.VMOVUPS(operand.Mem{Base: loopIn}, er)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: vec}, ei)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: odd}, or)
	f.VMOVUPS(operand.Mem{Base: loopIn, Disp: odd + vec}, oi)
	f.setMagic(u, pr)
	f.VFMADD231PS(oi, sin, pr)
	f.VFMADD231PS(or, c, pr)
	f.subMagic(u, pr, pr)
	f.setMagic(u, pi)
	f.VFNMADD231PS(or, sin, pi)
	f.VFMADD231PS(oi, c, pi)
	f.subMagic(u, pi, pi)
	f.VADDPS(pr, er, or) // X(k)
	f.VADDPS(pi, ei, oi)
	f.VSUBPS(pr, er, er) // X(h−k)
	f.VSUBPS(ei, pi, ei)
	for j, bin := range []struct {
		at     reg.Register
		re, im reg.VecPhysical
	}{{loopOut, or, oi}, {loopDown, er, ei}} {
		at := operand.Mem{Base: bin.at}
		re, im := bin.re, bin.im
		if last {
			scale := operand.Mem{Base: loopScale, Disp: 4 * j}
			f.quantised(re, false, scale, r(8))
			f.quantised(im, false, scale, r(9))
			f.VPACKSSDW(r(9), r(8), r(8))
			f.VPMAXSW(f.least(), r(8), r(8))
			f.VPSHUFB(f.orderXY(), r(8), re)
			f.minusOdd(re, re)
			f.VPSHUFB(f.orderYX(), r(8), im)
		}
		f.VMOVUPS(re, at)
		at.Disp += vec
		f.VMOVUPS(im, at)
	}
	f.ADDQ(operand.U32(uint32(2*vec)), loopIn)
	f.ADDQ(operand.U32(uint32(2*vec)), loopOut)
	f.SUBQ(operand.U32(uint32(2*vec)), loopDown)
	f.ADDQ(operand.U8(8), loopTwiddle)
	if last {
		f.ADDQ(operand.U8(8), loopScale)
	}
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(loop))
	f.MOVQ(f.scales, biasAt)
}

// ---- the inverse transform

func (f *fixedFFT) inverse() {
	f.name = fmt.Sprintf("fixedInverse%d", f.b)
	f.function = f.c.begin(f.p, f.name, "func(y []int16, floats []float32, ld int, src []int32, groups int, scales, units, scratch []float32)",
		fmt.Sprintf("FixedCirculant.Inverse for blocks of %d and %d rows, groups ≥ 1.", f.b, f.p.lanes))
	f.setFixedRows("y", "floats")
	f.Load(f.Param("src").Base(), planesAt)
	f.Load(f.Param("scales").Base(), biasAt)
	f.Load(f.Param("units").Base(), unitsFrom)
	f.SUBQ(biasAt, unitsFrom)
	f.Load(f.Param("groups"), groupsLeft)
	f.Load(f.Param("scratch").Base(), scratchAt)
	f.setConstants()
	f.Label("group")
	if f.b <= straightMost {
		s := f.straight()
		for u := range f.blocks() {
			x := f.irfft(s, f.b, func(k int) (re, im val) {
				switch k {
				case 0:
					return f.integer(s, f.vec(u, 0)), val{}
				case f.b / 2:
					return f.integer(s, f.vec(u, 1)), val{}
				}
				return f.integer(s, f.vec(u, 2*k)), f.integer(s, f.vec(u, 2*k+1))
			})
			for k, v := range x {
				s.store(v, f.scratch(u*f.b+k), nil)
			}
		}
		f.finish(s)
	} else {
		f.inverseInParts()
	}
	f.eachColumns("floats", "write", loopIn, f.list(f.writeFloats), f.list(f.writeShorts), func() { f.ADDQ(operand.U32(4*fixedColumns), biasAt) })
	f.ADDQ(operand.U32(uint32(f.blocks()*(f.b+1)*f.vecBytes())), planesAt)
	f.DECQ(groupsLeft)
	f.JNE(operand.LabelRef("group"))
	f.end()
}

// integer is the vector of int32 at m.
func (f *fixedFFT) integer(s *straight, m operand.Mem) val {
	v := s.load(m)
	return s.custom(v.op, -1, false, func(x, _, d operand.Op) { f.VCVTDQ2PS(x, d) })
}

// unitsFrom is how many bytes the units of columns are behind their scales.
var unitsFrom = reg.R15

// rounded returns columns i and j, rounded and saturated, as the low and the high
// half of words.
func (f *fixedFFT) rounded(s *straight, i, j int) val {
	column := func(i int) val {
		v := s.load(operand.Mem{Base: loopIn, Disp: i * f.vecBytes()})
		return f.quantise(s, v, f.scale(i))
	}
	a := column(i)
	return f.order(s, f.pack(s, a, column(j), false), f.orderXY())
}

// writeShorts rounds 32 columns and writes them to the rows.
func (f *fixedFFT) writeShorts(s *straight) {
	var words []val
	for i := range 16 {
		words = append(words, f.rounded(s, 2*i, 2*i+1))
	}
	f.toLines(s, words, func(row, part int, line val) { s.store(line, f.row(row, 16*part), nil) })
}

// writeFloats is writeShorts for rows of float32: numbers times the units of
// columns. A word holds columns that are 16 apart, so that every half of the words
// of a line is a line of float32. The units are those of numbers times 2¹⁶.
func (f *fixedFFT) writeFloats(s *straight) {
	var words []val
	for i := range 16 {
		words = append(words, f.rounded(s, i, 16+i))
	}
	f.toLines(s, words, func(row, part int, line val) {
		low, high := f.halves(s, line)
		for i, v := range []val{low, high} {
			off := 4 * (16*i + 4*part)
			unit := operand.Mem{Base: biasAt, Index: unitsFrom, Scale: 1, Disp: off}
			y := s.custom(v.op, -1, false, func(x, _, d operand.Op) { f.VMULPS(unit, x, d) })
			s.store(y, f.row(row, off), nil)
		}
	})
}

func (f *fixedFFT) inverseInParts() {
	parts := f.b / straightMost
	vec := f.vecBytes()
	scales := f.AllocLocal(8)
	f.MOVQ(biasAt, scales)

	to := 0
	if parts == 2 {
		to = f.second()
	}
	from := to // of the first step: the numbers
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
	f.MOVQ(operand.U32(uint32(parts)), loopDown)
	f.Label("part")
	s := f.straight()
	at := func(i int) val { return s.load(operand.Mem{Base: loopIn, Disp: i * vec}) }
	x := f.irfft(s, straightMost, func(k int) (re, im val) {
		switch k {
		case 0:
			return at(0), val{}
		case straightMost / 2:
			return at(1), val{}
		}
		return at(2 * k), at(2*k + 1)
	})
	for k, v := range x {
		s.store(v, operand.Mem{Base: loopOut, Disp: k * parts * vec}, nil)
	}
	f.finish(s)
	f.ADDQ(operand.U32(uint32(straightMost*vec)), loopIn)
	f.ADDQ(operand.U32(uint32(vec)), loopOut)
	f.DECQ(loopDown)
	f.JNE(operand.LabelRef("part"))

	f.MOVQ(scales, biasAt)
	f.setPair3()
}

// separate is circulantFFT.separate in integers. The first step reads int32.
func (f *fixedFFT) separate(n, i, count, from, to int) {
	h, vec := n/2, f.vecBytes()
	integers := count == 1
	in := from + i*n
	e := to + i*h
	odd := count * h * vec

	s := f.straight()
	read := func(k int) val {
		if integers {
			return f.integer(s, f.vec(0, k))
		}
		return s.load(f.scratch(in + k))
	}
	first, last, mr, mi := read(0), read(1), read(h), read(h+1)
	s.store(s.add(first, last), f.scratch(e), nil)
	s.store(s.sub(first, last), f.scratch(e+count*h), nil)
	s.store(s.add(mr, mr), f.scratch(e+1), nil)
	s.store(s.mul(-2, mi), f.scratch(e+count*h+1), nil)
	f.finish(s)

	at := func(k int) operand.Mem { return f.scratch(in + 2*k) }
	if integers {
		at = func(k int) operand.Mem { return f.vec(0, 2*k) }
	}
	f.LEAQ(at(1), loopIn)
	f.LEAQ(at(h-1), loopDown)
	f.LEAQ(f.scratch(e+2), loopOut)
	f.LEAQ(f.fixedTwiddles(n), loopTwiddle)
	f.MOVQ(operand.U32(uint32(h/2-1)), loopLeft)
	loop := fmt.Sprintf("separate%d_%d", n, i)
	f.Label(loop)
	r := f.physical
	c, sin := f.twiddle(0, 12), f.twiddle(1, 13)
	for j, base := range []reg.Register{loopIn, loopDown} {
		for k := range 2 {
			m := operand.Mem{Base: base, Disp: k * vec}
			if integers {
				f.VCVTDQ2PS(m, r(2*j+k))
			} else {
				f.VMOVUPS(m, r(2*j+k))
			}
		}
	}
	ar, ai, br, bi := r(0), r(1), r(2), r(3)
	er, ei, dr, di, or, oi := r(4), r(5), r(6), r(7), r(8), r(9)
	f.VADDPS(br, ar, er)
	f.VSUBPS(bi, ai, ei)
	f.VSUBPS(br, ar, dr)
	f.VADDPS(bi, ai, di)
	f.setMagic(0, or)
	f.VFNMADD231PS(di, sin, or)
	f.VFMADD231PS(dr, c, or)
	f.subMagic(0, or, or)
	f.setMagic(0, oi)
	f.VFMADD231PS(dr, sin, oi)
	f.VFMADD231PS(di, c, oi)
	f.subMagic(0, oi, oi)
	f.VMOVUPS(er, operand.Mem{Base: loopOut})
	f.VMOVUPS(ei, operand.Mem{Base: loopOut, Disp: vec})
	f.VMOVUPS(or, operand.Mem{Base: loopOut, Disp: odd})
	f.VMOVUPS(oi, operand.Mem{Base: loopOut, Disp: odd + vec})
	f.ADDQ(operand.U32(uint32(2*vec)), loopIn)
	f.SUBQ(operand.U32(uint32(2*vec)), loopDown)
	f.ADDQ(operand.U32(uint32(2*vec)), loopOut)
	f.ADDQ(operand.U8(8), loopTwiddle)
	f.DECQ(loopLeft)
	f.JNE(operand.LabelRef(loop))
}

// ---- the product

// fixedProduct emits the product of a tile by up to most rows of blocks: for every
// number of rows loops over blocks that keep the partial sums of a bin in
// registers, two for a row. Whole sums of several groups stay in memory, where
// they go in the end.
//
// No partial sum leaves 32 bits, because VPDPWSSD (and VPMADDWD, whose own sum
// of two products of magnitude below 2³⁰ fits) adds exactly the terms whose
// magnitudes the limits of package fixed add up: |w₀·x₀ + w₁·x₁| ≤ 32767·(|w₀| +
// |w₁|), and the sum of these over a group, with the half that it starts with,
// is below 2³¹; so are the whole sums.
func fixedProduct(c *family, p path) {
	most := 12
	if p == avx2 {
		most = 6
	}
	f := c.begin(p, "fixedProduct", "func(y, x, w, ends []int32, rows, real, bins, q, group, shift, round, limit, vecs int)",
		fmt.Sprintf("the same as fixedProducts(%d), for q ≥ 1 and 1 ≤ rows ≤ %d.", p.lanes, most))
	vec := f.vecBytes()
	y, x, w, ends := reg.RDI, reg.RSI, reg.RBX, reg.RCX
	left, count, xAt, block, bins, size, tmp := reg.RDX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("w").Base(), w)
	f.Load(f.Param("ends").Base(), ends)
	f.Load(f.Param("vecs"), block)
	f.IMUL3Q(operand.U32(uint32(vec)), block, block) // bytes from block to block, and from row to row
	for n := most; n >= 1; n-- {
		name := func(s string) string { return fmt.Sprintf("%s%d", s, n) }
		if n > 1 {
			f.Load(f.Param("rows"), tmp)
			f.CMPQ(tmp, operand.U8(n))
			f.JNE(operand.LabelRef(name("not")))
		}
		sum := func(r, half int) reg.VecPhysical { return f.physical(2*r + half) }
		x0, x1, weight, spare := f.physical(2*n), f.physical(2*n+1), f.physical(2*n+2), f.physical(2*n+3)
		multiply := func(x, w operand.Op, to reg.VecPhysical) {
			if p == vnni {
				f.VPDPWSSD(x, w, to)
				return
			}
			f.VPMADDWD(x, w, spare)
			f.VPADDD(spare, to, to)
		}
		eachSum := func(body func(r, half int, sum reg.VecPhysical, at operand.Mem)) {
			f.MOVQ(y, tmp)
			for r := range n {
				for half := range 2 {
					body(r, half, sum(r, half), operand.Mem{Base: tmp, Disp: half * vec})
				}
				if r < n-1 {
					f.ADDQ(block, tmp)
				}
			}
		}
		end := func(r, i int) operand.Mem { return operand.Mem{Base: ends, Disp: 16*r + 4*i} }
		// blocks sums up the next group.
		blocks := func(label string, wide bool) {
			f.MOVQ(size, count)
			f.CMPQ(left, size)
			f.CMOVQLT(left, count)
			f.SUBQ(count, left)
			f.VPBROADCASTD(f.argument("round"), f.physical(0))
			for i := 1; i < 2*n; i++ {
				f.VMOVAPS(f.physical(0), f.physical(i))
			}
			f.Label(label)
			f.VMOVUPS(operand.Mem{Base: xAt}, x0)
			f.VMOVUPS(operand.Mem{Base: xAt, Disp: vec}, x1)
			for r := range n {
				f.VPBROADCASTD(operand.Mem{Base: w, Disp: 4 * r}, weight)
				multiply(x0, weight, sum(r, 0))
				if wide {
					f.VPBROADCASTD(operand.Mem{Base: w, Disp: 4 * (n + r)}, weight)
				}
				multiply(x1, weight, sum(r, 1))
			}
			f.ADDQ(block, xAt)
			if wide {
				f.ADDQ(block, xAt)
				f.ADDQ(operand.U8(8*n), w)
			} else {
				f.ADDQ(operand.U8(4*n), w)
			}
			f.DECQ(count)
			f.JNE(operand.LabelRef(label))
			f.VPBROADCASTD(f.argument("shift"), x0)
			for i := range 2 * n {
				f.VPSRAVD(x0, f.physical(i), f.physical(i))
			}
		}
		bin := func(label string, wide bool) {
			label = name(label)
			f.MOVQ(x, xAt)
			f.Load(f.Param("group"), size)
			if wide {
				f.SHRQ(operand.U8(1), size)
				f.MOVQ(operand.U32(1), tmp) // a group of one block is all there is
				f.TESTQ(size, size)
				f.CMOVQEQ(tmp, size)
				f.Load(f.Param("real"), left)
			} else {
				f.Load(f.Param("q"), left)
			}
			blocks(label+"first", wide)
			for i := range 2 * n {
				f.addBroadcast(end(i/2, i%2), f.physical(i), x0)
			}
			f.TESTQ(left, left)
			f.JE(operand.LabelRef(label + "end"))
			f.Label(label + "group")
			eachSum(func(_, _ int, sum reg.VecPhysical, at operand.Mem) { f.VMOVUPS(sum, at) })
			blocks(label+"next", wide)
			eachSum(func(_, _ int, sum reg.VecPhysical, at operand.Mem) { f.VPADDD(at, sum, sum) })
			f.TESTQ(left, left)
			f.JNE(operand.LabelRef(label + "group"))
			f.Label(label + "end")
			high, low := x1, weight
			f.VPBROADCASTD(f.argument("limit"), high)
			if p == avx2 {
				f.VPXOR(low, low, low)
			} else {
				f.VPXORD(low, low, low)
			}
			f.VPSUBD(high, low, low)
			eachSum(func(r, half int, sum reg.VecPhysical, at operand.Mem) {
				f.VPBROADCASTD(end(r, 2+half), x0)
				f.VPSRAVD(x0, sum, sum)
				f.VPMAXSD(low, sum, sum)
				f.VPMINSD(high, sum, sum)
				f.VMOVUPS(sum, at)
			})
			f.ADDQ(operand.U32(uint32(16*n)), ends)
			f.ADDQ(operand.U32(uint32(2*vec)), x)
			f.ADDQ(operand.U32(uint32(2*vec)), y)
		}
		f.Load(f.Param("real"), tmp)
		f.TESTQ(tmp, tmp)
		f.JE(operand.LabelRef(name("complex")))
		bin("real", true)
		f.Label(name("complex"))
		f.Load(f.Param("bins"), bins)
		f.TESTQ(bins, bins)
		f.JE(operand.LabelRef(name("done")))
		f.Label(name("bin"))
		bin("complex", false)
		f.DECQ(bins)
		f.JNE(operand.LabelRef(name("bin")))
		f.Label(name("done"))
		f.end()
		if n > 1 {
			f.Label(name("not"))
		}
	}
}

// addBroadcast adds the integer at m to every one of x.
func (f *function) addBroadcast(m operand.Mem, x, spare reg.VecPhysical) {
	if f.path == avx2 {
		f.VPBROADCASTD(m, spare)
		f.VPADDD(spare, x, x)
		return
	}
	f.VPADDD_BCST(m, x, x)
}

// storeBins returns a function that stores the bins of a part at base: bin 0, the
// last bin, then real and imaginary part of the others.
func storeBins(s *straight, n int, base reg.Register, vec int) func(k int, re, im val) {
	return func(k int, re, im val) {
		at := func(i int) operand.Mem { return operand.Mem{Base: base, Disp: i * vec} }
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
