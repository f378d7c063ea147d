package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vnni is AVX-512 with the Vector Neural Network Instructions.
var vnni = path{name: "AVX512VNNI", lanes: 16}

// fixed emits the tiles of products in 16-bit fixed point, of one or two vectors of
// outputs. For each a row has two vectors in registers: the sums of a group of
// pairs, and what was moved over from them. A pair of inputs is read as one word and
// broadcast.
func fixed(c *family) {
	for _, p := range []path{vnni, avx512, avx2} {
		fixedTile{c.begin(p, "fixedTile", fixedSignature, fixedDoc(p, 1)...), 1}.emit()
		fixedTile{c.begin(p, "fixedPair", fixedSignature, fixedDoc(p, 2)...), 2}.emit()
	}
	for _, p := range paths {
		energy(c.begin(p, "energy16", "func(x []int16) int32",
			"	most := 0",
			"	for i := 0; i < len(x); i += 16 {",
			"		s := 0",
			"		for k := i; k < i+16; k += 2 {",
			"			s += (x[k]*x[k] + x[k+1]*x[k+1]) >> 4",
			"		}",
			"		most = max(most, s)",
			"	}",
			"	return most",
			"", "for a multiple of sixteen elements."))
	}
}

const fixedSignature = "func(dst []int16, ldd int, sums []int32, a []int16, lda int, offsets, w, steps, ends []int32, rows int)"

func fixedRows(p path) int {
	if p == avx2 {
		return 6
	}
	return 14
}

func fixedDoc(p path, vecs int) []string {
	lanes := vecs * p.lanes
	return []string{
		"	for r := range rows {",
		fmt.Sprintf("		var sum, high [%d]int32", lanes),
		"		at := 0",
		"		for i := 0; steps[i+2] != 0; i += 3 {",
		"			x := a[r*lda+offsets[steps[i]]+steps[i+1]:]",
		"			for k := range steps[i+2] >> 1 {",
		"				for l := range sum {",
		"					sum[l] += int32(int16(w[at+l]))*x[2*k] + w[at+l]>>16*x[2*k+1]",
		"				}",
		fmt.Sprintf("				at += %d", lanes),
		"			}",
		"			if steps[i+2]&1 != 0 {",
		"				for l := range sum {",
		"					high[l] += sum[l] >> 16",
		"					sum[l] &= 0xffff",
		"				}",
		"			}",
		"		}",
		"		for l := range sum {",
		"			if len(sums) > 0 {",
		fmt.Sprintf("				sums[2*r*%[1]d+l], sums[(2*r+1)*%[1]d+l] = sum[l], high[l]", lanes),
		"			} else {",
		fmt.Sprintf("				h := min(max(high[l]+ends[%[1]d+l], ends[2*%[1]d+l]), ends[3*%[1]d+l])", lanes),
		fmt.Sprintf("				dst[r*ldd+l] = sat((h<<ends[4*%[1]d+l] + (sum[l]+ends[l])>>ends[5*%[1]d+l]) >> ends[6*%[1]d+l])", lanes),
		"			}",
		"		}",
		"	}",
		"",
		fmt.Sprintf("for 1 ≤ rows ≤ %d.", fixedRows(p)/vecs),
	}
}

type fixedTile struct {
	*function
	vecs int
}

func (t fixedTile) wide() bool { return t.path != avx2 }

func (t fixedTile) emit() {
	a, w, steps := t.GP64(), t.GP64(), t.GP64()
	t.Load(t.Param("a").Base(), a)
	t.Load(t.Param("w").Base(), w)
	t.Load(t.Param("steps").Base(), steps)
	x := t.GP64()
	// Row r begins at x + r·lda: a multiple by 1, 2, 4 or 8 of an odd multiple.
	odd := map[int]reg.GPVirtual{1: t.GP64()}
	t.Load(t.Param("lda"), odd[1])
	t.SHLQ(operand.U8(1), odd[1])
	row := []operand.Mem{{Base: x}}
	for r := 1; r < fixedRows(t.path)/t.vecs; r++ {
		scale := r & -r
		if r == scale {
			row = append(row, operand.Mem{Base: x, Index: odd[1], Scale: uint8(scale)})
			continue
		}
		k := r / scale
		if odd[k] == nil {
			odd[k] = t.GP64()
			t.LEAQ(operand.Mem{Base: odd[k-2], Index: odd[1], Scale: 2}, odd[k])
		}
		row = append(row, operand.Mem{Base: x, Index: odd[k], Scale: uint8(scale)})
	}
	for rows := fixedRows(t.path) / t.vecs; rows >= 1; rows-- {
		t.Label(fmt.Sprintf("rows%d", rows))
		if rows > 1 {
			n := t.GP64()
			t.Load(t.Param("rows"), n)
			t.CMPQ(n, operand.U8(rows))
			t.JNE(operand.LabelRef(fmt.Sprintf("rows%d", rows-1)))
		}
		t.tile(rows, row[:rows], a, w, steps, x)
		t.end()
	}
}

func (t fixedTile) tile(rows int, row []operand.Mem, a, w, steps, x reg.GPVirtual) {
	name := func(s string) operand.LabelRef { return operand.LabelRef(fmt.Sprintf("%s%d", s, rows)) }
	label := func(s string) { t.Label(string(name(s))) }
	sum, high := make([]reg.VecVirtual, rows*t.vecs), make([]reg.VecVirtual, rows*t.vecs)
	for i := range sum {
		sum[i], high[i] = t.zero(), t.zero()
	}
	var weights []reg.VecVirtual
	for range t.vecs {
		weights = append(weights, t.v())
	}
	input, temp := t.v(), t.v()
	upper, low := t.words("upper", 1<<16), t.words("low", 0xffff)
	label("step")
	pairs, code := t.GP64(), t.GP64()
	t.MOVL(operand.Mem{Base: steps, Disp: 8}, code.As32())
	t.TESTL(code.As32(), code.As32())
	t.JE(name("ends"))
	t.Load(t.Param("offsets").Base(), x)
	t.MOVLQSX(operand.Mem{Base: steps}, pairs)
	t.MOVLQSX(operand.Mem{Base: x, Index: pairs, Scale: 4}, x)
	t.LEAQ(operand.Mem{Base: a, Index: x, Scale: 2}, x)
	t.MOVLQSX(operand.Mem{Base: steps, Disp: 4}, pairs)
	t.LEAQ(operand.Mem{Base: x, Index: pairs, Scale: 2}, x)
	t.ADDQ(operand.U8(12), steps)
	t.MOVL(code.As32(), pairs.As32())
	t.SHRL(operand.U8(1), pairs.As32())
	label("pair")
	for i, v := range weights {
		t.load32(operand.Mem{Base: w, Disp: i * t.vecBytes()}, v)
	}
	for i, s := range sum {
		r, v := i/t.vecs, weights[i%t.vecs]
		switch {
		case t.path == vnni && t.vecs == 1:
			t.VPDPWSSD_BCST(row[r], v, s)
			continue
		case i%t.vecs == 0:
			t.VPBROADCASTD(row[r], input)
		}
		if t.path == vnni {
			t.VPDPWSSD(input, v, s)
			continue
		}
		t.VPMADDWD(v, input, temp)
		t.VPADDD(temp, s, s)
	}
	t.ADDQ(operand.U8(4), x)
	t.ADDQ(operand.U32(uint32(t.vecs*t.vecBytes())), w)
	t.DECL(pairs.As32())
	t.JNE(name("pair"))
	t.TESTL(operand.U32(1), code.As32())
	t.JE(name("step"))
	for i, s := range sum {
		switch {
		case t.path == vnni: // the upper word of a sum, times 1
			t.VPDPWSSD_BCST(upper, s, high[i])
			t.VPANDD_BCST(low, s, s)
		case t.wide():
			t.VPSRAD(operand.U8(16), s, temp)
			t.VPADDD(temp, high[i], high[i])
			t.VPANDD_BCST(low, s, s)
		default:
			t.VPSRAD(operand.U8(16), s, temp)
			t.VPADDD(temp, high[i], high[i])
			t.VPAND(low, s, s)
		}
	}
	t.JMP(name("step"))

	label("ends")
	ends, dst, ldd := t.GP64(), t.GP64(), t.GP64()
	t.Load(t.Param("sums").Len(), ends)
	t.Load(t.Param("sums").Base(), dst)
	t.TESTQ(ends, ends)
	t.JE(name("narrow"))
	for i, s := range sum {
		at := i/t.vecs*2*t.vecs + i%t.vecs
		t.store32(s, operand.Mem{Base: dst, Disp: at * t.vecBytes()})
		t.store32(high[i], operand.Mem{Base: dst, Disp: (at + t.vecs) * t.vecBytes()})
	}
	t.JMP(name("done"))
	label("narrow")
	t.Load(t.Param("ends").Base(), ends)
	t.Load(t.Param("dst").Base(), dst)
	t.Load(t.Param("ldd"), ldd)
	t.SHLQ(operand.U8(1), ldd)
	for i, s := range sum {
		part := func(k int) operand.Mem {
			return operand.Mem{Base: ends, Disp: (k*t.vecs + i%t.vecs) * t.vecBytes()}
		}
		t.VPADDD(part(1), high[i], high[i])
		t.VPMAXSD(part(2), high[i], high[i])
		t.VPMINSD(part(3), high[i], high[i])
		t.VPSLLVD(part(4), high[i], high[i])
		t.VPADDD(part(0), s, s)
		t.VPSRAVD(part(5), s, s)
		t.VPADDD(high[i], s, s)
		t.VPSRAVD(part(6), s, s)
		to := operand.Mem{Base: dst, Disp: i % t.vecs * t.vecBytes() / 2}
		if t.wide() {
			t.VPMOVSDW(s, to)
		} else {
			t.VPACKSSDW(s, s, s)
			const halves = 0x08 // 64-bit lanes 0 and 2
			t.VPERMQ(operand.U8(halves), s, s)
			t.VMOVDQU(s.AsX(), to)
		}
		if i%t.vecs == t.vecs-1 && i < len(sum)-1 {
			t.ADDQ(ldd, dst)
		}
	}
	label("done")
}

// words is memory with x in every lane of a vector of AVX2.
func (t fixedTile) words(name string, x uint32) operand.Mem {
	return t.data("words_"+name, x, x, x, x, x, x, x, x)
}

func (t fixedTile) load32(from operand.Mem, to reg.VecVirtual) {
	if t.wide() {
		t.VMOVDQU32(from, to)
	} else {
		t.VMOVDQU(from, to)
	}
}

func (t fixedTile) store32(from reg.VecVirtual, to operand.Mem) {
	if t.wide() {
		t.VMOVDQU32(from, to)
	} else {
		t.VMOVDQU(from, to)
	}
}

// energy adds up four blocks of sixteen elements a turn, whose sums lie side by side
// then, and single blocks behind them.
func energy(f *function) {
	x, n, result := f.GP64(), f.GP64(), f.GP32()
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("x").Len(), n)
	most := f.XMM()
	f.VPXOR(most, most, most)
	squares := func(i int) reg.VecVirtual {
		d := f.YMM()
		f.VMOVDQU(operand.Mem{Base: x, Disp: 32 * i}, d)
		f.VPMADDWD(d, d, d)
		f.VPSRLD(operand.U8(4), d, d)
		return d
	}
	pairs := func(a, b reg.VecVirtual) reg.VecVirtual {
		f.VPHADDD(b, a, a)
		return a
	}
	halves := func(s reg.VecVirtual) {
		upper := f.XMM()
		f.VEXTRACTI128(operand.U8(1), s, upper)
		f.VPADDD(upper, s.AsX(), upper)
		f.VPMAXSD(upper, most, most)
	}
	f.SUBQ(operand.U8(64), n)
	f.JL(operand.LabelRef("rest"))
	f.Label("four")
	halves(pairs(pairs(squares(0), squares(1)), pairs(squares(2), squares(3))))
	f.ADDQ(operand.U32(128), x)
	f.SUBQ(operand.U8(64), n)
	f.JGE(operand.LabelRef("four"))
	f.Label("rest")
	f.ADDQ(operand.U8(64), n)
	f.JE(operand.LabelRef("fold"))
	f.Label("one")
	s := squares(0)
	s = pairs(s, s)
	halves(pairs(s, s))
	f.ADDQ(operand.U8(32), x)
	f.SUBQ(operand.U8(16), n)
	f.JNE(operand.LabelRef("one"))
	f.Label("fold")
	other := f.XMM()
	for _, order := range []uint8{0x4e, 0xb1} { // elements 2, 3 to 0, 1, and then 1 to 0
		f.VPSHUFD(operand.U8(order), most, other)
		f.VPMAXSD(other, most, most)
	}
	f.VMOVD(most, result)
	f.Store(result, f.ReturnIndex(0))
	f.end()
}
