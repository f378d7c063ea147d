package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gemm emits the tiles of matrix multiplication. Both paths keep the whole tile
// of C in registers: 8 × 48 elements in 24 of 32 registers with AVX-512, 6 × 16
// in 12 of 16 with AVX2; the others hold a row of B and elements of A. A tile
// with fewer rows or vectors has its own loop, so all of them spend their time
// in multiply-adds, and all sum in the order of k.
func gemm(c *family) {
	mask := c.tailMask()
	gemmTile{c.begin(avx512, "gemmTile", gemmSignature, gemmDoc(8, 48, 16)...), 8, 3, mask}.emit()
	gemmTile{c.begin(avx2, "gemmTile", gemmSignature, gemmDoc(6, 16, 8)...), 6, 2, mask}.emit()
	c.transpose(avx512)
	c.transpose(avx2)
}

const gemmSignature = "func(c []float32, ldc int, a []float32, aRow, aCol int, b []float32, ldb, k int, bias []float32, rows, cols, width int, load bool)"

func gemmDoc(maxRows, maxWidth, lanes int) []string {
	return []string{
		"	for r := range rows {",
		"		for j := range cols {",
		"			s := float32(0)",
		"			if load {",
		"				s = c[r*ldc+j]",
		"			}",
		"			for p := range k {",
		"				s = fma(a[r*aRow+p*aCol], b[p*ldb+j], s)",
		"			}",
		"			if bias != nil {",
		"				s += bias[j]",
		"			}",
		"			c[r*ldc+j] = s",
		"		}",
		"	}",
		"",
		fmt.Sprintf("for 1 ≤ rows ≤ %d and width ≤ %d, which is cols rounded up to a multiple of %d;", maxRows, maxWidth, lanes),
		"b is read up to width in every row.",
	}
}

// gemmTile is the kernel with all sizes up to maxRows × maxVecs vectors.
type gemmTile struct {
	*function
	maxRows, maxVecs int
	mask             operand.Mem // of AVX2, see tailMask
}

// What the registers hold while a sum is computed. Strides are in bytes.
var (
	gemmA, gemmB, gemmK = reg.RAX, reg.RCX, reg.RDX
	gemmCol             = reg.RBX // from column to column of A
	gemmRow1            = reg.R8  // from row to row of A, times 1, 3, 5 and 7
	gemmRow3            = reg.R9
	gemmRow5            = reg.R10
	gemmRow7            = reg.R11
	gemmC, gemmLDC      = reg.RDI, reg.RSI
	gemmMissing         = reg.R12 // width − cols
	gemmT               = reg.R13
	gemmLDB             = reg.R14 // once the sums are loaded
)

func (g gemmTile) emit() {
	g.Load(g.Param("a").Base(), gemmA)
	g.Load(g.Param("aRow"), gemmRow1)
	g.Load(g.Param("aCol"), gemmCol)
	g.Load(g.Param("b").Base(), gemmB)
	g.Load(g.Param("k"), gemmK)
	g.Load(g.Param("ldc"), gemmLDC)
	g.SHLQ(operand.U8(2), gemmRow1)
	g.SHLQ(operand.U8(2), gemmCol)
	g.SHLQ(operand.U8(2), gemmLDC)
	g.LEAQ(operand.Mem{Base: gemmRow1, Index: gemmRow1, Scale: 2}, gemmRow3)
	g.LEAQ(operand.Mem{Base: gemmRow1, Index: gemmRow1, Scale: 4}, gemmRow5)
	g.LEAQ(operand.Mem{Base: gemmRow3, Index: gemmRow1, Scale: 4}, gemmRow7)
	g.Load(g.Param("width"), gemmMissing)
	g.Load(g.Param("cols"), gemmT)
	g.SUBQ(gemmT, gemmMissing)
	if g.path == avx512 {
		g.MOVL(operand.U32(0xffff), gemmT.As32())
		g.SHRXL(gemmMissing.As32(), gemmT.As32(), gemmT.As32())
		g.KMOVW(gemmT.As32(), reg.K1)
	} else {
		// The mask of 8 − missing elements lies at tailMask + 4·missing.
		g.LEAQ(g.mask, gemmT)
		g.LEAQ(operand.Mem{Base: gemmT, Index: gemmMissing, Scale: 4}, gemmT)
		g.Comment("R13 points at the mask of the last vector")
	}
	// Full tiles first: there are most of them.
	for rows := g.maxRows; rows >= 1; rows-- {
		g.Label(fmt.Sprintf("rows%d", rows))
		if rows > 1 {
			g.Load(g.Param("rows"), reg.R14)
			g.CMPQ(reg.R14, operand.U8(rows))
			g.JNE(operand.LabelRef(fmt.Sprintf("rows%d", rows-1)))
		}
		for vecs := g.maxVecs; vecs >= 1; vecs-- {
			g.Label(fmt.Sprintf("tile%dx%d", rows, vecs))
			if vecs > 1 {
				g.Load(g.Param("width"), reg.R14)
				g.CMPQ(reg.R14, operand.U8(vecs*g.lanes))
				g.JNE(operand.LabelRef(fmt.Sprintf("tile%dx%d", rows, vecs-1)))
			}
			g.tile(rows, vecs)
		}
	}
}

// tile emits the tile of exactly rows × vecs vectors, up to its RET.
func (g gemmTile) tile(rows, vecs int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%d", s, rows, vecs) }
	sum := func(r, v int) reg.VecPhysical { return g.physical(r*vecs + v) }
	g.Load(g.Param("load"), reg.R14.As8())
	g.Load(g.Param("c").Base(), gemmC)
	g.TESTB(reg.R14.As8(), reg.R14.As8())
	g.JE(operand.LabelRef(name("zero")))
	g.eachRow(name("load"), vecs, rows, func(r, v int, at operand.Mem, masked bool) {
		g.load(at, sum(r, v), masked)
	})
	g.JMP(operand.LabelRef(name("start")))
	g.Label(name("zero"))
	for i := range rows * vecs {
		z := g.physical(i)
		if g.path == avx512 {
			g.VPXORD(z, z, z)
		} else {
			g.VXORPS(z, z, z)
		}
	}
	g.Label(name("start"))
	if rows == g.maxRows {
		g.askNext(rows, vecs)
	}
	g.Load(g.Param("ldb"), gemmLDB)
	g.SHLQ(operand.U8(2), gemmLDB)

	const unroll = 4
	g.SUBQ(operand.U8(unroll), gemmK)
	g.JL(operand.LabelRef(name("rest")))
	g.Label(name("loop"))
	for range unroll {
		g.step(rows, vecs)
	}
	g.SUBQ(operand.U8(unroll), gemmK)
	g.JGE(operand.LabelRef(name("loop")))
	g.Label(name("rest"))
	g.ADDQ(operand.U8(unroll), gemmK)
	g.JE(operand.LabelRef(name("store")))
	g.Label(name("one"))
	g.step(rows, vecs)
	g.DECQ(gemmK)
	g.JNE(operand.LabelRef(name("one")))

	g.Label(name("store"))
	g.Load(g.Param("bias").Base(), gemmA)
	g.TESTQ(gemmA, gemmA)
	g.JE(operand.LabelRef(name("plain")))
	bias := func(v int) reg.VecPhysical { return g.physical(rows*vecs + v) }
	g.eachRow(name("bias"), vecs, 1, func(_, v int, _ operand.Mem, masked bool) {
		g.load(operand.Mem{Base: gemmA, Disp: v * g.vecBytes()}, bias(v), masked)
	})
	for r := range rows {
		for v := range vecs {
			g.VADDPS(bias(v), sum(r, v), sum(r, v))
		}
	}
	g.Label(name("plain"))
	g.Load(g.Param("c").Base(), gemmC)
	g.eachRow(name("end"), vecs, rows, func(r, v int, at operand.Mem, masked bool) {
		g.store(sum(r, v), at, masked)
	})
	g.end()
}

// askNext asks for the tile of C below this one, which mostly comes next: where C
// does not fit a near cache, a tile would wait for it before it begins. It uses
// gemmC.
func (g gemmTile) askNext(rows, vecs int) {
	g.Load(g.Param("c").Base(), gemmC)
	for left := rows; left > 0; {
		scale := 8
		for scale > left {
			scale /= 2
		}
		g.LEAQ(operand.Mem{Base: gemmC, Index: gemmLDC, Scale: uint8(scale)}, gemmC)
		left -= scale
	}
	for r := range rows {
		for at := 0; at < vecs*g.vecBytes(); at += 64 {
			g.PREFETCHT0(operand.Mem{Base: gemmC, Disp: at})
		}
		if r < rows-1 {
			g.ADDQ(gemmLDC, gemmC)
		}
	}
}

// step adds one column of A times one row of B.
func (g gemmTile) step(rows, vecs int) {
	row := []operand.Mem{
		{Base: gemmA}, {Base: gemmA, Index: gemmRow1, Scale: 1}, {Base: gemmA, Index: gemmRow1, Scale: 2}, {Base: gemmA, Index: gemmRow3, Scale: 1},
		{Base: gemmA, Index: gemmRow1, Scale: 4}, {Base: gemmA, Index: gemmRow5, Scale: 1}, {Base: gemmA, Index: gemmRow3, Scale: 2}, {Base: gemmA, Index: gemmRow7, Scale: 1},
	}
	free := rows * vecs // the first register that holds no sum
	total := 32
	if g.path == avx2 {
		total = 16
	}
	for v := range vecs {
		g.VMOVUPS(operand.Mem{Base: gemmB, Disp: v * g.vecBytes()}, g.physical(free+v))
	}
	for r := range rows {
		a := g.physical(free + vecs + r%(total-free-vecs))
		g.VBROADCASTSS(row[r], a)
		for v := range vecs {
			g.VFMADD231PS(g.physical(free+v), a, g.physical(r*vecs+v))
		}
	}
	// The first tile that meets a panel of B reads it from memory or a far cache;
	// asking 1 KiB ahead hides some of that (8 and 16 rows of B [768, 3072]: 15 and
	// 20 % faster), and costs nothing where B is near. A single row has less to do
	// meanwhile and asks further ahead.
	const line = 64
	ahead := 1024
	if rows == 1 {
		ahead = 3072
	}
	for at := 0; at < vecs*g.vecBytes(); at += line {
		g.PREFETCHT0(operand.Mem{Base: gemmB, Disp: ahead + at})
	}
	g.ADDQ(gemmCol, gemmA)
	g.ADDQ(gemmLDB, gemmB)
}

// eachRow calls f for the vectors of rows rows of C. The last of a row may be
// partial: AVX-512 masks it always, which costs nothing; AVX2 has code for
// whole and for partial vectors, because some machines store masked vectors
// slowly. The pointer gemmC moves down; name makes labels unique.
func (g gemmTile) eachRow(name string, vecs, rows int, f func(r, v int, at operand.Mem, masked bool)) {
	all := func(masked bool) {
		for r := range rows {
			for v := range vecs {
				f(r, v, operand.Mem{Base: gemmC, Disp: v * g.vecBytes()}, masked && v == vecs-1)
			}
			if r < rows-1 {
				g.ADDQ(gemmLDC, gemmC)
			}
		}
	}
	if g.path == avx512 {
		all(true)
		return
	}
	g.TESTQ(gemmMissing, gemmMissing)
	g.JNE(operand.LabelRef(name + "part"))
	all(false)
	g.JMP(operand.LabelRef(name + "done"))
	g.Label(name + "part")
	g.VMOVUPS(operand.Mem{Base: gemmT}, reg.Y15)
	all(true)
	g.Label(name + "done")
}

// load reads a vector, its missing elements as 0.
func (g gemmTile) load(from operand.Mem, to reg.VecPhysical, masked bool) {
	switch {
	case !masked:
		g.VMOVUPS(from, to)
	case g.path == avx512:
		g.VMOVUPS_Z(from, reg.K1, to)
	default:
		g.VMASKMOVPS(from, reg.Y15, to)
	}
}

// store writes the elements of a vector that exist.
func (g gemmTile) store(from reg.VecPhysical, to operand.Mem, masked bool) {
	switch {
	case !masked:
		g.VMOVUPS(from, to)
	case g.path == avx512:
		g.VMOVUPS(from, reg.K1, to)
	default:
		g.VMASKMOVPS(from, reg.Y15, to)
	}
}

// transpose emits the copy of eight rows into eight columns, in blocks of 8 × 8
// that are transposed in registers. Both paths use vectors of eight.
func (c *family) transpose(p path) {
	f := c.begin(p, "transpose", "func(dst []float32, width int, src []float32, stride, k int)",
		"	for i := range k {",
		"		for j := range 8 {",
		"			dst[i*width+j] = src[j*stride+i]",
		"		}",
		"	}")
	dst, width, src, stride, k := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dst").Base(), dst)
	f.Load(f.Param("width"), width)
	f.Load(f.Param("src").Base(), src)
	f.Load(f.Param("stride"), stride)
	f.Load(f.Param("k"), k)
	f.SHLQ(operand.U8(2), width)
	f.SHLQ(operand.U8(2), stride)
	low, stride3, high := f.GP64(), f.GP64(), f.GP64() // rows 0 and 4 of a block
	f.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	f.MOVQ(src, low)
	f.LEAQ(operand.Mem{Base: src, Index: stride, Scale: 4}, high)
	row := func(j int) operand.Mem {
		m := operand.Mem{Base: low}
		if j >= 4 {
			m.Base = high
		}
		switch j % 4 {
		case 1:
			m.Index, m.Scale = stride, 1
		case 2:
			m.Index, m.Scale = stride, 2
		case 3:
			m.Index, m.Scale = stride3, 1
		}
		return m
	}
	block := func(load func(m operand.Mem, to reg.VecVirtual), stored func(i int)) {
		pairs := func(op func(i, a, b, d operand.Op), imm [2]uint8, x, y reg.VecVirtual) (lo, hi reg.VecVirtual) {
			lo, hi = f.YMM(), f.YMM()
			op(operand.U8(imm[0]), y, x, lo)
			op(operand.U8(imm[1]), y, x, hi)
			return lo, hi
		}
		var a, b, t [8]reg.VecVirtual
		for j := range a {
			a[j] = f.YMM()
			load(row(j), a[j])
		}
		// Within halves of registers: rows 2j and 2j+1 interleave, then pairs of them.
		for j := 0; j < 8; j += 2 {
			b[j], b[j+1] = f.YMM(), f.YMM()
			f.VUNPCKLPS(a[j+1], a[j], b[j])
			f.VUNPCKHPS(a[j+1], a[j], b[j+1])
		}
		for j := 0; j < 8; j += 4 {
			const firstPairs, lastPairs = 0x44, 0xee
			t[j], t[j+1] = pairs(func(i, a, b, d operand.Op) { f.VSHUFPS(i, a, b, d) }, [2]uint8{firstPairs, lastPairs}, b[j], b[j+2])
			t[j+2], t[j+3] = pairs(func(i, a, b, d operand.Op) { f.VSHUFPS(i, a, b, d) }, [2]uint8{firstPairs, lastPairs}, b[j+1], b[j+3])
		}
		// t[i] has elements i and i+4 of rows 0 to 3, t[i+4] those of rows 4 to 7.
		var out [8]reg.VecVirtual
		for i := range 4 {
			const firstHalves, lastHalves = 0x20, 0x31
			out[i], out[i+4] = pairs(func(i, a, b, d operand.Op) { f.VPERM2F128(i, a, b, d) }, [2]uint8{firstHalves, lastHalves}, t[i], t[i+4])
		}
		for i := range out {
			f.VMOVUPS(out[i], operand.Mem{Base: dst})
			f.ADDQ(width, dst)
			stored(i)
		}
	}
	f.SUBQ(operand.U8(8), k)
	f.JL(operand.LabelRef("rest"))
	f.Label("loop")
	block(func(m operand.Mem, to reg.VecVirtual) { f.VMOVUPS(m, to) }, func(int) {})
	f.ADDQ(operand.U8(32), low)
	f.ADDQ(operand.U8(32), high)
	f.SUBQ(operand.U8(8), k)
	f.JGE(operand.LabelRef("loop"))
	f.Label("rest")
	f.ADDQ(operand.U8(8), k)
	f.JE(operand.LabelRef("done"))
	at, off, mask := f.GP64(), f.GP64(), f.YMM()
	f.LEAQ(f.tailMask(), at)
	f.MOVQ(k, off)
	f.NEGQ(off)
	f.VMOVUPS(operand.Mem{Base: at, Index: off, Scale: 4, Disp: 32}, mask)
	block(func(m operand.Mem, to reg.VecVirtual) { f.VMASKMOVPS(m, mask, to) }, func(int) {
		f.DECQ(k)
		f.JE(operand.LabelRef("done"))
	})
	f.Label("done")
	f.end()
}
