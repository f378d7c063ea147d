package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vnni is AVX-512 with the Vector Neural Network Instructions.
var vnni = path{name: "AVX512VNNI", lanes: 16}

// fixed emits the tiles of products in 16-bit fixed point. A row of a tile has
// three vectors in registers: the 32-bit sums of a group of pairs, and the
// 64-bit sums of the even and of the odd outputs. A pair of inputs is read as
// one word and broadcast.
func fixed(c *family) {
	for _, p := range []path{vnni, avx512, avx2} {
		fixedTile{c.begin(p, "fixedTile", fixedSignature, fixedDoc(p)...)}.emit()
	}
}

const fixedSignature = "func(dst []int16, ldd int, a []int16, lda int, w, groups []int32, ends []int64, low, high int64, rows int)"

func fixedDoc(p path) []string {
	rows := 8
	if p == avx2 {
		rows = 4
	}
	return []string{
		"	for r := range rows {",
		fmt.Sprintf("		var sums [%d]int64", p.lanes),
		"		at, k := 0, 0",
		"		for _, g := range groups {",
		fmt.Sprintf("			var s [%d]int32", p.lanes),
		"			for range g {",
		"				x0, x1 := int32(a[r*lda+k]), int32(a[r*lda+k+1])",
		"				for l := range s {",
		"					s[l] += int32(int16(w[at+l]))*x0 + w[at+l]>>16*x1",
		"				}",
		fmt.Sprintf("				at, k = at+%d, k+2", p.lanes),
		"			}",
		"			for l := range s {",
		"				sums[l] += int64(s[l])",
		"			}",
		"		}",
		"		for l := range sums {",
		fmt.Sprintf("			e := l%%2*%d + l/2", p.lanes/2),
		fmt.Sprintf("			dst[r*ldd+l] = min(max((sums[l]+ends[e])>>ends[%d+e], low), high)", p.lanes),
		"		}",
		"	}",
		"",
		fmt.Sprintf("for 1 ≤ rows ≤ %d.", rows),
	}
}

type fixedTile struct{ *function }

func (t fixedTile) wide() bool { return t.path != avx2 }

func (t fixedTile) emit() {
	maxRows := 8
	if !t.wide() {
		maxRows = 4
	}
	a, w, groups, left := t.GP64(), t.GP64(), t.GP64(), t.GP64()
	row1, row3, row5, row7 := t.GP64(), t.GP64(), t.GP64(), t.GP64()
	t.Load(t.Param("a").Base(), a)
	t.Load(t.Param("lda"), row1)
	t.SHLQ(operand.U8(1), row1)
	t.LEAQ(operand.Mem{Base: row1, Index: row1, Scale: 2}, row3)
	t.LEAQ(operand.Mem{Base: row1, Index: row1, Scale: 4}, row5)
	t.LEAQ(operand.Mem{Base: row3, Index: row1, Scale: 4}, row7)
	t.Load(t.Param("w").Base(), w)
	t.Load(t.Param("groups").Base(), groups)
	t.Load(t.Param("groups").Len(), left)
	row := []operand.Mem{
		{Base: a}, {Base: a, Index: row1, Scale: 1}, {Base: a, Index: row1, Scale: 2}, {Base: a, Index: row3, Scale: 1},
		{Base: a, Index: row1, Scale: 4}, {Base: a, Index: row5, Scale: 1}, {Base: a, Index: row3, Scale: 2}, {Base: a, Index: row7, Scale: 1},
	}
	ones := t.v() // 1 in the low word of every 64 bits
	t.broadcastQ(1, ones)
	for rows := maxRows; rows >= 1; rows-- {
		t.Label(fmt.Sprintf("rows%d", rows))
		if rows > 1 {
			n := t.GP64()
			t.Load(t.Param("rows"), n)
			t.CMPQ(n, operand.U8(rows))
			t.JNE(operand.LabelRef(fmt.Sprintf("rows%d", rows-1)))
		}
		t.tile(rows, row[:rows], a, w, groups, left, ones)
		t.end()
	}
}

// broadcastQ sets every 64-bit lane of d to x.
func (t fixedTile) broadcastQ(x uint64, d reg.VecVirtual) {
	g := t.GP64()
	t.MOVQ(operand.U64(x), g)
	if t.wide() {
		t.VPBROADCASTQ(g, d)
		return
	}
	t.MOVQ(g, d.AsX())
	t.VPBROADCASTQ(d.AsX(), d)
}

func (t fixedTile) zero(d reg.VecVirtual) {
	if t.wide() {
		t.VPXORQ(d, d, d)
	} else {
		t.VPXOR(d, d, d)
	}
}

func (t fixedTile) tile(rows int, row []operand.Mem, a, w, groups, left reg.GPVirtual, ones reg.VecVirtual) {
	name := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
	acc, even, odd := make([]reg.VecVirtual, rows), make([]reg.VecVirtual, rows), make([]reg.VecVirtual, rows)
	for r := range rows {
		acc[r], even[r], odd[r] = t.v(), t.v(), t.v()
		t.zero(even[r])
		t.zero(odd[r])
	}
	weights, temp := t.v(), t.v()
	t.TESTQ(left, left)
	t.JE(operand.LabelRef(name("ends")))
	t.Label(name("group"))
	pairs := t.GP32()
	t.MOVL(operand.Mem{Base: groups}, pairs)
	t.ADDQ(operand.U8(4), groups)
	for r := range rows {
		t.zero(acc[r])
	}
	t.Label(name("pair"))
	t.load32(operand.Mem{Base: w}, weights)
	for r := range rows {
		if t.path == vnni {
			t.VPDPWSSD_BCST(row[r], weights, acc[r])
			continue
		}
		t.VPBROADCASTD(row[r], temp)
		t.VPMADDWD(weights, temp, temp)
		t.VPADDD(temp, acc[r], acc[r])
	}
	t.ADDQ(operand.U8(4), a)
	t.ADDQ(operand.U32(uint32(t.vecBytes())), w)
	t.DECL(pairs)
	t.JNE(operand.LabelRef(name("pair")))
	for r := range rows {
		t.VPMULDQ(ones, acc[r], temp)
		t.VPADDQ(temp, even[r], even[r])
		if t.wide() {
			t.VPSRAQ(operand.U8(32), acc[r], acc[r])
			t.VPADDQ(acc[r], odd[r], odd[r])
			continue
		}
		t.VPSRLQ(operand.U8(32), acc[r], acc[r])
		t.VPMULDQ(ones, acc[r], acc[r])
		t.VPADDQ(acc[r], odd[r], odd[r])
	}
	t.DECQ(left)
	t.JNE(operand.LabelRef(name("group")))

	t.Label(name("ends"))
	ends, dst, ldd := t.GP64(), t.GP64(), t.GP64()
	t.Load(t.Param("ends").Base(), ends)
	t.Load(t.Param("dst").Base(), dst)
	t.Load(t.Param("ldd"), ldd)
	t.SHLQ(operand.U8(1), ldd)
	low, high := t.v(), t.v()
	for _, x := range []struct {
		name string
		v    reg.VecVirtual
	}{{"low", low}, {"high", high}} {
		p, err := t.Param(x.name).Resolve()
		if err != nil {
			panic(err)
		}
		t.VPBROADCASTQ(p.Addr, x.v)
	}
	part := func(i, half int) operand.Mem {
		return operand.Mem{Base: ends, Disp: i*2*t.vecBytes() + half*t.vecBytes()}
	}
	for r := range rows {
		for half, v := range []reg.VecVirtual{even[r], odd[r]} {
			t.VPADDQ(part(0, half), v, v)
			if t.wide() {
				t.VPSRAVQ(part(1, half), v, v)
				t.VPMAXSQ(low, v, v)
				t.VPMINSQ(high, v, v)
				continue
			}
			// An arithmetic shift: flip the sign, shift, and take the flip off.
			t.VPXOR(t.quad("flip", 1<<63), v, v)
			t.VPSRLVQ(part(1, half), v, v)
			t.VPSUBQ(part(2, half), v, v)
			t.VPCMPGTQ(v, low, temp)
			t.VBLENDVPD(temp, low, v, v)
			t.VPCMPGTQ(high, v, temp)
			t.VBLENDVPD(temp, high, v, v)
		}
		t.store(even[r], odd[r], temp, operand.Mem{Base: dst})
		if r < rows-1 {
			t.ADDQ(ldd, dst)
		}
	}
}

// quad is memory with x in every 64-bit lane of a vector of AVX2.
func (t fixedTile) quad(name string, x uint64) operand.Mem {
	words := []uint32{uint32(x), uint32(x >> 32)}
	return t.data("quad_"+name, append(append(words, words...), append(words, words...)...)...)
}

func (t fixedTile) load32(from operand.Mem, to reg.VecVirtual) {
	if t.wide() {
		t.VMOVDQU32(from, to)
	} else {
		t.VMOVDQU(from, to)
	}
}

// store interleaves even and odd outputs and writes them.
func (t fixedTile) store(even, odd, temp reg.VecVirtual, to operand.Mem) {
	t.VPSLLQ(operand.U8(16), odd, odd)
	if t.wide() {
		t.VPANDQ_BCST(t.quad("low16", 0xffff), even, even)
		t.VPORQ(odd, even, even)
		t.VPMOVQD(even, even.AsY())
		t.VMOVDQU32(even.AsY(), to)
		return
	}
	t.VPAND(t.quad("low16", 0xffff), even, even)
	t.VPOR(odd, even, even)
	const lowWords = 0x08 // words 0 and 2, and then 64-bit lanes 0 and 2
	t.VPSHUFD(operand.U8(lowWords), even, even)
	t.VPERMQ(operand.U8(lowWords), even, even)
	t.VMOVDQU(even.AsX(), to)
}
