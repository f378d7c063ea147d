package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fixedMove emits what moves numbers of 16-bit fixed point, and pools.
func fixedMove(c *family) {
	for _, p := range paths {
		transpose16(c.begin(p, "transpose16", "func(dst []int16, dstStep int, src []int16, srcStep, rows, cols int)",
			"	for r := range rows {",
			"		for c := range cols {",
			"			dst[c*dstStep+r] = src[r*srcStep+c]",
			"		}",
			"	}",
			"", "for multiples of eight rows and columns, not 0."))
		slide16{c.begin(p, "slideMax16", "func(z []int16, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int)", slideDoc("int16", "-1<<15", "max(v, x[%s])")...), true}.emit()
		slide16{c.begin(p, "slideSum16", "func(z []int32, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int)", slideDoc("int32", "0", "v + int32(x[%s])")...), false}.emit()
		sum16(c.begin(p, "sum16", "func(x []int16) int32",
			"	sum := int32(0)",
			"	for i := range x {",
			"		sum += int32(x[i])",
			"	}",
			"	return sum",
			"", "for a multiple of sixteen elements, not 0 and at most 2¹⁶."))
		pieces(c.begin(p, "pieces32", "func(dst, src, places, masks []int32)",
			"	for i := 0; i < len(places); i += 2 {",
			fmt.Sprintf("		for l := range %d {", p.lanes),
			fmt.Sprintf("			dst[places[i+1]*%d+l] = 0", p.lanes),
			fmt.Sprintf("			for m := 0; m < len(masks); m += %d {", p.lanes+1),
			"				if masks[m+1+l] != 0 {",
			fmt.Sprintf("					dst[places[i+1]*%d+l] = src[places[i]+masks[m]+l]", p.lanes),
			"				}",
			"			}",
			"		}",
			"	}"))
	}
}

func slideDoc(t, start, step string) []string {
	return []string{
		"	for r := range rows {",
		"		for j := range (width + 15) &^ 15 {",
		"			v := " + t + "(" + start + ")",
		"			for _, o := range offsets {",
		"				v = " + fmt.Sprintf(step, "r*xStep+j*stride+o"),
		"			}",
		"			z[r*zStep+j] = v",
		"		}",
		"	}",
		"", "for a stride of 1 or 2; with 2 it reads one element more.",
	}
}

// transpose16 turns blocks of 8×8, written in whole rows of dst.
func transpose16(f *function) {
	dst, src, dstStep, srcStep, rows, cols := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dst").Base(), dst)
	f.Load(f.Param("src").Base(), src)
	f.Load(f.Param("dstStep"), dstStep)
	f.Load(f.Param("srcStep"), srcStep)
	f.Load(f.Param("cols"), cols)
	f.SHLQ(operand.U8(1), dstStep)
	f.SHLQ(operand.U8(1), srcStep)
	src3, dst3 := f.GP64(), f.GP64()
	f.LEAQ(operand.Mem{Base: srcStep, Index: srcStep, Scale: 2}, src3)
	f.LEAQ(operand.Mem{Base: dstStep, Index: dstStep, Scale: 2}, dst3)
	from, to, other := f.GP64(), f.GP64(), f.GP64()
	four := func(base, step, three reg.GPVirtual) []operand.Mem {
		return []operand.Mem{{Base: base}, {Base: base, Index: step, Scale: 1}, {Base: base, Index: step, Scale: 2}, {Base: base, Index: three, Scale: 1}}
	}
	f.Label("columns")
	f.MOVQ(src, from)
	f.MOVQ(dst, to)
	f.Load(f.Param("rows"), rows)
	f.Label("block")
	var x []reg.VecVirtual
	f.LEAQ(operand.Mem{Base: from, Index: srcStep, Scale: 4}, other)
	for _, m := range append(four(from, srcStep, src3), four(other, srcStep, src3)...) {
		d := f.XMM()
		f.VMOVDQU(m, d)
		x = append(x, d)
	}
	// Every stage brings the rows that are a distance apart together: words, double
	// words, quadruple words of both.
	unpack := func(low, high func(...operand.Op), x []reg.VecVirtual) (y []reg.VecVirtual) {
		for i := range 4 {
			a, b := f.XMM(), f.XMM()
			low(x[i+4], x[i], a)
			high(x[i+4], x[i], b)
			y = append(y, a, b)
		}
		return y
	}
	for range 3 {
		x = unpack(f.VPUNPCKLWD, f.VPUNPCKHWD, x)
	}
	f.LEAQ(operand.Mem{Base: to, Index: dstStep, Scale: 4}, other)
	for i, m := range append(four(to, dstStep, dst3), four(other, dstStep, dst3)...) {
		f.VMOVDQU(x[i], m)
	}
	f.LEAQ(operand.Mem{Base: from, Index: srcStep, Scale: 8}, from)
	f.ADDQ(operand.U8(16), to)
	f.SUBQ(operand.U8(8), rows)
	f.JNE(operand.LabelRef("block"))
	f.ADDQ(operand.U8(16), src)
	f.LEAQ(operand.Mem{Base: dst, Index: dstStep, Scale: 8}, dst)
	f.SUBQ(operand.U8(8), cols)
	f.JNE(operand.LabelRef("columns"))
	f.end()
}

// slide16 has sixteen windows in the lanes, and writes whole vectors of them.
type slide16 struct {
	*function
	max bool
}

func (s slide16) emit() {
	z, x, zStep, xStep, rows := s.GP64(), s.GP64(), s.GP64(), s.GP64(), s.GP64()
	s.Load(s.Param("z").Base(), z)
	s.Load(s.Param("x").Base(), x)
	s.Load(s.Param("zStep"), zStep)
	s.Load(s.Param("xStep"), xStep)
	s.Load(s.Param("rows"), rows)
	bytes := 2
	if !s.max {
		bytes = 4
	}
	s.IMUL3Q(operand.U8(bytes), zStep, zStep)
	s.SHLQ(operand.U8(1), xStep)
	offsets, taps, stride := s.GP64(), s.GP64(), s.GP64()
	s.Load(s.Param("offsets").Base(), offsets)
	s.Load(s.Param("offsets").Len(), taps)
	s.Load(s.Param("stride"), stride)
	left, from, to := s.GP64(), s.GP64(), s.GP64()
	s.Label("row")
	s.DECQ(rows)
	s.JL(operand.LabelRef("done"))
	s.Load(s.Param("width"), left)
	s.MOVQ(x, from)
	s.MOVQ(z, to)
	s.CMPQ(stride, operand.U8(1))
	s.JNE(operand.LabelRef("two"))
	s.vectors16("one", 1, offsets, taps, left, from, to, bytes)
	s.JMP(operand.LabelRef("next"))
	s.Label("two")
	s.vectors16("pair", 2, offsets, taps, left, from, to, bytes)
	s.Label("next")
	s.ADDQ(xStep, x)
	s.ADDQ(zStep, z)
	s.JMP(operand.LabelRef("row"))
	s.Label("done")
	s.end()
}

func (s slide16) vectors16(name string, stride int, offsets, taps, left, from, to reg.GPVirtual, bytes int) {
	k, at := s.GP64(), s.GP64()
	s.Label(name)
	var acc [2]reg.VecVirtual // windows 0 to 7 and 8 to 15 of sums; elements 0 to 15 and 16 to 31 of maxima
	vecs := 2
	if s.max {
		vecs = stride
	}
	for i := range vecs {
		acc[i] = s.YMM()
		if s.max {
			low := s.words16("lowest", 0x80008000)
			s.VMOVDQU(low, acc[i])
		} else {
			s.VPXOR(acc[i], acc[i], acc[i])
		}
	}
	s.XORQ(k, k)
	s.Label(name + "Tap")
	s.MOVLQSX(operand.Mem{Base: offsets, Index: k, Scale: 4}, at)
	for i := range vecs {
		element := 16 * i
		if !s.max {
			element = 8 * stride * i
		}
		m := operand.Mem{Base: from, Index: at, Scale: 2, Disp: 2 * element}
		switch {
		case s.max:
			s.VPMAXSW(m, acc[i], acc[i])
		case stride == 1:
			d := s.YMM()
			s.VPMOVSXWD(m, d)
			s.VPADDD(d, acc[i], acc[i])
		default: // the even words
			d := s.YMM()
			s.VMOVDQU(m, d)
			s.VPSLLD(operand.U8(16), d, d)
			s.VPSRAD(operand.U8(16), d, d)
			s.VPADDD(d, acc[i], acc[i])
		}
	}
	s.INCQ(k)
	s.CMPQ(k, taps)
	s.JNE(operand.LabelRef(name + "Tap"))
	if s.max && stride == 2 {
		for _, a := range acc {
			s.VPSLLD(operand.U8(16), a, a)
			s.VPSRAD(operand.U8(16), a, a)
		}
		s.VPACKSSDW(acc[1], acc[0], acc[0])
		const inOrder = 0xd8 // 64-bit lanes 0, 2, 1, 3: the halves were packed apart
		s.VPERMQ(operand.U8(inOrder), acc[0], acc[0])
	}
	s.VMOVDQU(acc[0], operand.Mem{Base: to})
	if !s.max {
		s.VMOVDQU(acc[1], operand.Mem{Base: to, Disp: 32})
	}
	s.ADDQ(operand.U8(32*stride), from)
	s.ADDQ(operand.U8(16*bytes), to)
	s.SUBQ(operand.U8(16), left)
	s.JG(operand.LabelRef(name))
}

func (s slide16) words16(name string, x uint32) operand.Mem {
	return s.data("slide_"+name, x, x, x, x, x, x, x, x)
}

// pieces puts vectors together of what masks choose.
func pieces(f *function) {
	dst, src, places, n, masks, end := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dst").Base(), dst)
	f.Load(f.Param("src").Base(), src)
	f.Load(f.Param("places").Base(), places)
	f.Load(f.Param("places").Len(), n)
	f.Load(f.Param("masks").Base(), masks)
	f.Load(f.Param("masks").Len(), end)
	f.LEAQ(operand.Mem{Base: masks, Index: end, Scale: 4}, end)
	from, at, place := f.GP64(), f.GP64(), f.GP64()
	f.TESTQ(n, n)
	f.JE(operand.LabelRef("done"))
	f.Label("vector")
	v := f.v()
	if f.path == avx512 {
		f.VPXORD(v, v, v)
	} else {
		f.VPXOR(v, v, v)
	}
	f.MOVLQSX(operand.Mem{Base: places}, from)
	f.LEAQ(operand.Mem{Base: src, Index: from, Scale: 4}, from)
	f.MOVQ(masks, at)
	f.Label("piece")
	f.MOVLQSX(operand.Mem{Base: at}, place)
	m, mask := operand.Mem{Base: from, Index: place, Scale: 4}, operand.Mem{Base: at, Disp: 4}
	if f.path == avx512 {
		z, k := f.ZMM(), f.K()
		f.VMOVDQU32(mask, z)
		f.VPMOVD2M(z, k)
		f.VMOVDQU32(m, k, v)
	} else {
		chosen, d := f.YMM(), f.YMM()
		f.VMOVDQU(mask, chosen)
		f.VPMASKMOVD(m, chosen, d)
		f.VPOR(d, v, v)
	}
	f.ADDQ(operand.U8(4+f.vecBytes()), at)
	f.CMPQ(at, end)
	f.JNE(operand.LabelRef("piece"))
	f.MOVLQSX(operand.Mem{Base: places, Disp: 4}, place)
	f.IMUL3Q(operand.U8(f.vecBytes()), place, place)
	f.VMOVUPS(v, operand.Mem{Base: dst, Index: place, Scale: 1})
	f.ADDQ(operand.U8(8), places)
	f.SUBQ(operand.U8(2), n)
	f.JNE(operand.LabelRef("vector"))
	f.Label("done")
	f.end()
}

func sum16(f *function) {
	x, n, result := f.GP64(), f.GP64(), f.GP32()
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("x").Len(), n)
	one, sum, upper := f.YMM(), f.YMM(), f.XMM()
	f.VMOVDQU(f.data("ones16", 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001), one)
	f.VPXOR(sum, sum, sum)
	f.Label("turn")
	d := f.YMM()
	f.VPMADDWD(operand.Mem{Base: x}, one, d)
	f.VPADDD(d, sum, sum)
	f.ADDQ(operand.U8(32), x)
	f.SUBQ(operand.U8(16), n)
	f.JNE(operand.LabelRef("turn"))
	f.VEXTRACTI128(operand.U8(1), sum, upper)
	f.VPADDD(upper, sum.AsX(), upper)
	other := f.XMM()
	for _, order := range []uint8{0x4e, 0xb1} { // elements 2, 3 to 0, 1, and then 1 to 0
		f.VPSHUFD(operand.U8(order), upper, other)
		f.VPADDD(other, upper, upper)
	}
	f.VMOVD(upper, result)
	f.Store(result, f.ReturnIndex(0))
	f.end()
}
