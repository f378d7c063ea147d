package main

import (
	"fmt"
	"strings"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// conv emits convolution with output channels in the lanes of vectors, and
// windows that slide with output pixels in the lanes.
func conv(c *family) {
	for _, p := range paths {
		convTiles{c.begin(p, "convTiles", convSignature, convDoc(p)...)}.emit()
		for _, op := range slideOps {
			slide{c.begin(p, op.name, slideSignature(op.weights), op.doc()...), op}.emit()
		}
		c.padRows(p)
	}
}

const convSignature = "func(z []float32, zStep int, x []float32, step int, offsets []int32, w, bias, add []float32, places []int32, pixels, channels int, lo, hi float32)"

func convDoc(p path) []string {
	return []string{
		"	for g := 0; g < len(places); g += 2 {",
		"		for p := range pixels {",
		"			for c := range channels {",
		fmt.Sprintf("				lane := c &^ %d + c%%%d*4 + c%%%d/%d", p.lanes-1, p.lanes/4, p.lanes, p.lanes/4),
		"				s := bias[lane]",
		"				for k, o := range offsets {",
		"					s = fma(x[places[g]+o+p*step], w[k*width+lane], s)",
		"				}",
		"				i := places[g+1] + c*zStep + p",
		"				if add != nil {",
		"					s += add[i]",
		"				}",
		"				z[i] = min(max(s, lo), hi) // NaN where s is",
		"			}",
		"		}",
		"	}",
		"",
		fmt.Sprintf("for pixels ≤ %d and channels ≤ %d; width is channels rounded up to a multiple of %d.", convTiles{&function{nil, p}}.maxPixels(), 2*p.lanes, p.lanes),
	}
}

// convTiles is a kernel whose tile is up to two groups of pixels times up to two
// vectors of channels. Groups lie anywhere, so that the pixels of a tile may be
// of different rows. AVX-512 keeps 28 sums in 32 registers, AVX2 12 in 16; the
// others hold the weights and pixels of one step. The sums go through memory
// to be transposed: a group is a run of pixels in each of its channels.
type convTiles struct{ *function }

// maxPixels is the most pixels of a group.
func (t convTiles) maxPixels() int {
	if t.path == avx512 {
		return 7
	}
	return 3
}

// slots is the room for the pixels of a group when it is transposed.
func (t convTiles) slots() int { return t.maxPixels() + 1 }

// What the registers hold while sums are computed. Strides are in bytes.
var (
	convOffsets, convW, convK = reg.RAX, reg.RCX, reg.RDX
	convT                     = reg.RBX
	convStep                  = reg.R8 // from pixel to pixel of x, times 1, 3 and 5
	convStep3, convStep5      = reg.R9, reg.R10
	convX                     = [2]reg.GPPhysical{reg.R11, reg.R12} // of the groups
	convAt                    = [2]reg.GPPhysical{reg.RSI, reg.RDI} // and at the offset
	convPlaces, convLeft      = reg.R13, reg.R14                    // groups to come
	convSums                  = reg.R15                             // memory for the sums of a tile
)

func (t convTiles) emit() {
	t.Attributes(0) // it has a frame
	local := t.AllocLocal(2*2*t.slots()*t.vecBytes() + 64)
	t.LEAQ(local, convSums)
	t.ADDQ(operand.U8(63), convSums)
	t.ANDQ(operand.I8(-64), convSums)
	t.Load(t.Param("places").Base(), convPlaces)
	t.Load(t.Param("places").Len(), convLeft)
	t.SHRQ(operand.U8(1), convLeft)
	t.Load(t.Param("step"), convStep)
	t.SHLQ(operand.U8(2), convStep)
	t.LEAQ(operand.Mem{Base: convStep, Index: convStep, Scale: 2}, convStep3)
	t.LEAQ(operand.Mem{Base: convStep, Index: convStep, Scale: 4}, convStep5)
	if t.path == avx512 {
		t.Load(t.Param("pixels"), convW)
		t.MOVL(operand.U32(1), convT.As32())
		t.SHLXL(convW.As32(), convT.As32(), convT.As32())
		t.DECL(convT.As32())
		t.KMOVW(convT.As32(), reg.K1)
	}

	t.Label("next")
	t.TESTQ(convLeft, convLeft)
	t.JE(operand.LabelRef("done"))
	t.Load(t.Param("x").Base(), convX[1])
	t.MOVLQSX(operand.Mem{Base: convPlaces}, convT)
	t.LEAQ(operand.Mem{Base: convX[1], Index: convT, Scale: 4}, convX[0])
	t.Load(t.Param("offsets").Base(), convOffsets)
	t.Load(t.Param("offsets").Len(), convK)
	t.Load(t.Param("w").Base(), convW)
	t.Load(t.Param("bias").Base(), convAt[0])
	t.Load(t.Param("pixels"), convAt[1])
	t.Load(t.Param("channels"), convT)
	t.CMPQ(convLeft, operand.U8(1))
	t.JE(operand.LabelRef("one"))
	t.CMPQ(convT, operand.U8(t.lanes))
	t.MOVLQSX(operand.Mem{Base: convPlaces, Disp: 8}, convT)
	t.LEAQ(operand.Mem{Base: convX[1], Index: convT, Scale: 4}, convX[1])
	t.JLE(operand.LabelRef("two1"))
	t.choose(2, 2)
	t.Label("two1")
	t.choose(2, 1)
	t.Label("one")
	t.CMPQ(convT, operand.U8(t.lanes))
	t.JLE(operand.LabelRef("one1"))
	t.choose(1, 2)
	t.Label("one1")
	t.choose(1, 1)
	t.store()
	t.Label("done")
	t.end()
}

// choose emits the tiles of that many groups and vectors for all numbers of
// pixels.
func (t convTiles) choose(groups, vecs int) {
	for p := t.maxPixels(); p >= 1; p-- {
		if p > 1 {
			t.CMPQ(convAt[1], operand.U8(p))
			t.JNE(operand.LabelRef(fmt.Sprintf("end%dx%dx%d", groups, vecs, p)))
		}
		t.tile(groups, vecs, p)
		t.Label(fmt.Sprintf("end%dx%dx%d", groups, vecs, p))
	}
}

// tile emits the sums of one tile, up to the jump to where they are stored.
func (t convTiles) tile(groups, vecs, pixels int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%dx%d", s, groups, vecs, pixels) }
	sum := func(g, p, v int) reg.VecPhysical { return t.physical((g*pixels+p)*vecs + v) }
	for v := range vecs {
		t.VMOVUPS(operand.Mem{Base: convAt[0], Disp: v * t.vecBytes()}, sum(0, 0, v))
		for i := 1; i < groups*pixels; i++ {
			t.VMOVAPS(sum(0, 0, v), sum(0, i, v))
		}
	}
	t.TESTQ(convK, convK)
	t.JE(operand.LabelRef(name("sums")))

	free := groups * pixels * vecs // the first register that holds no sum
	total := 32
	if t.path == avx2 {
		total = 16
	}
	t.Label(name("loop"))
	t.MOVLQSX(operand.Mem{Base: convOffsets}, convT)
	for g := range groups {
		t.LEAQ(operand.Mem{Base: convX[g], Index: convT, Scale: 4}, convAt[g])
	}
	for v := range vecs {
		t.VMOVUPS(operand.Mem{Base: convW, Disp: v * t.vecBytes()}, t.physical(free+v))
	}
	for g := range groups {
		pixel := [...]operand.Mem{
			{Base: convAt[g]}, {Base: convAt[g], Index: convStep, Scale: 1}, {Base: convAt[g], Index: convStep, Scale: 2},
			{Base: convAt[g], Index: convStep3, Scale: 1}, {Base: convAt[g], Index: convStep, Scale: 4},
			{Base: convAt[g], Index: convStep5, Scale: 1}, {Base: convAt[g], Index: convStep3, Scale: 2},
		}
		for p := range pixels {
			x := t.physical(free + vecs + (g*pixels+p)%min(total-free-vecs, 4))
			t.VBROADCASTSS(pixel[p], x)
			for v := range vecs {
				t.VFMADD231PS(t.physical(free+v), x, sum(g, p, v))
			}
		}
	}
	// Weights come from a far cache or from memory.
	const ahead, line = 1024, 64
	for at := 0; at < vecs*t.vecBytes(); at += line {
		t.PREFETCHT0(operand.Mem{Base: convW, Disp: ahead + at})
	}
	t.ADDQ(operand.U8(4), convOffsets)
	t.ADDQ(operand.U32(uint32(vecs*t.vecBytes())), convW)
	t.DECQ(convK)
	t.JNE(operand.LabelRef(name("loop")))

	t.Label(name("sums"))
	for g := range groups {
		for v := range vecs {
			for p := range pixels {
				t.VMOVUPS(sum(g, p, v), operand.Mem{Base: convSums, Disp: ((g*2+v)*t.slots() + p) * t.vecBytes()})
			}
		}
	}
	t.MOVQ(operand.U32(uint32(groups)), convX[0])
	t.JMP(operand.LabelRef("store"))
}

// store emits what follows every tile: transposing, adding, clamping and
// writing its sums.
func (t convTiles) store() {
	zStep, cursor, channels := reg.RAX, reg.RCX, reg.RDX
	groups, sums := convX[0], convX[1]
	add, z := convAt[0], convAt[1]
	t.Label("store")
	t.MOVQ(convSums, sums)
	t.Load(t.Param("zStep"), zStep)
	t.SHLQ(operand.U8(2), zStep)
	lo, hi := t.physical(14), t.physical(15)
	for _, b := range []struct {
		arg string
		to  reg.VecPhysical
	}{{"lo", lo}, {"hi", hi}} {
		a, err := t.Param(b.arg).Resolve()
		if err != nil {
			panic(err)
		}
		t.VBROADCASTSS(a.Addr, b.to)
	}
	t.Label("group")
	t.MOVLQSX(operand.Mem{Base: convPlaces, Disp: 4}, convT)
	t.Load(t.Param("z").Base(), z)
	t.LEAQ(operand.Mem{Base: z, Index: convT, Scale: 4}, z)
	t.Load(t.Param("add").Base(), add)
	t.TESTQ(add, add)
	t.JE(operand.LabelRef("channels"))
	t.LEAQ(operand.Mem{Base: add, Index: convT, Scale: 4}, add)
	t.Label("channels")
	t.Load(t.Param("channels"), channels)
	t.MOVQ(sums, cursor)
	t.Label("vector")
	rows := t.transpose(cursor)
	t.ADDQ(operand.U32(uint32(t.slots()*t.vecBytes())), cursor)
	t.TESTQ(add, add)
	t.JNE(operand.LabelRef("adding"))
	for _, r := range rows {
		t.VMAXPS(r, lo, r)
		t.VMINPS(r, hi, r)
	}
	next := func() {
		t.ADDQ(zStep, z)
		t.DECQ(channels)
		t.JE(operand.LabelRef("stored"))
	}
	// Every register holds two channels.
	half := func(r reg.VecPhysical) (low, other reg.VecPhysical) {
		if t.path == avx512 {
			return r.AsY().(reg.VecPhysical), reg.Y13
		}
		return r.AsX().(reg.VecPhysical), reg.X13
	}
	split := func(r reg.VecPhysical, to operand.Op) {
		if t.path == avx512 {
			t.VEXTRACTF32X8(operand.U8(1), r, to)
		} else {
			t.VEXTRACTF128(operand.U8(1), r, to)
		}
	}
	// write emits f for every number of pixels that stores differ for.
	write := func(label string, f func(pixels int)) {
		if t.path == avx512 {
			f(0)
			t.JMP(operand.LabelRef("vector"))
			return
		}
		t.Load(t.Param("pixels"), convT)
		for p := t.maxPixels(); p >= 1; p-- {
			if p > 1 {
				t.CMPQ(convT, operand.U8(p))
				t.JNE(operand.LabelRef(fmt.Sprintf("%s%d", label, p-1)))
			}
			f(p)
			t.JMP(operand.LabelRef("vector"))
			if p > 1 {
				t.Label(fmt.Sprintf("%s%d", label, p-1))
			}
		}
	}
	put := func(r reg.VecPhysical, pixels int) {
		switch to := (operand.Mem{Base: z}); pixels {
		case 0:
			t.VMOVUPS(r, reg.K1, to)
		case 1:
			t.VMOVSS(r, to)
		case 2:
			t.VMOVLPS(r, to)
		case 3:
			t.VMOVLPS(r, to)
			t.VEXTRACTPS(operand.U8(2), r, to.Offset(8))
		}
	}
	write("plain", func(pixels int) {
		for _, r := range rows {
			low, other := half(r)
			put(low, pixels)
			next()
			if t.path == avx512 {
				t.VEXTRACTF32X8(operand.U8(1), r, reg.K1, operand.Mem{Base: z})
			} else {
				split(r, other)
				put(other, pixels)
			}
			next()
		}
	})
	t.Label("adding")
	write("added", func(pixels int) {
		low, _ := half(lo)
		high, _ := half(hi)
		row := func(r reg.VecPhysical) {
			if pixels == 0 {
				t.VADDPS(operand.Mem{Base: add}, r, reg.K1, r)
			} else {
				from := operand.Mem{Base: add}
				switch pixels {
				case 1:
					t.VMOVSS(from, reg.X12)
				case 2:
					t.VMOVSD(from, reg.X12)
				case 3:
					t.VMOVSD(from, reg.X12)
					t.VINSERTPS(operand.U8(0x20), from.Offset(8), reg.X12, reg.X12)
				}
				t.VADDPS(reg.X12, r, r)
			}
			t.VMAXPS(r, low, r)
			t.VMINPS(r, high, r)
			put(r, pixels)
			t.ADDQ(zStep, add)
			next()
		}
		for _, r := range rows {
			a, b := half(r)
			split(r, b)
			row(a)
			row(b)
		}
	})
	t.Label("stored")
	t.ADDQ(operand.U32(uint32(2*t.slots()*t.vecBytes())), sums)
	t.ADDQ(operand.U8(8), convPlaces)
	t.DECQ(convLeft)
	t.DECQ(groups)
	t.JNE(operand.LabelRef("group"))
	t.JMP(operand.LabelRef("next"))
}

// transpose reads the sums of a vector of channels for all pixels, and returns
// registers that hold two channels each, in order: that is why the lanes of
// channels are what they are.
func (t convTiles) transpose(from reg.GPPhysical) []reg.VecPhysical {
	// quads transposes four pixels within the quarters (AVX2: halves) of vectors:
	// register e of the result has element e of every quarter.
	quads := func(p, a []reg.VecPhysical) (out [4]reg.VecPhysical) {
		t.VUNPCKLPS(p[1], p[0], a[0])
		t.VUNPCKHPS(p[1], p[0], a[1])
		t.VUNPCKLPS(p[3], p[2], a[2])
		t.VUNPCKHPS(p[3], p[2], a[3])
		t.VUNPCKLPD(a[2], a[0], p[0])
		t.VUNPCKHPD(a[2], a[0], p[1])
		t.VUNPCKLPD(a[3], a[1], p[2])
		t.VUNPCKHPD(a[3], a[1], p[3])
		copy(out[:], p)
		return out
	}
	registers := func(first, n int) (r []reg.VecPhysical) {
		for i := range n {
			r = append(r, t.physical(first+i))
		}
		return r
	}
	pixels := registers(0, t.slots())
	for i, p := range pixels {
		t.VMOVUPS(operand.Mem{Base: from, Disp: i * t.vecBytes()}, p)
	}
	if t.path == avx2 {
		out := quads(pixels, registers(4, 4))
		return out[:]
	}
	first, second := quads(pixels[:4], registers(8, 4)), quads(pixels[4:], registers(8, 4))
	low := t.data("lowQuarters", 0, 0, 1, 0, 8, 0, 9, 0, 2, 0, 3, 0, 10, 0, 11, 0)
	high := t.data("highQuarters", 4, 0, 5, 0, 12, 0, 13, 0, 6, 0, 7, 0, 14, 0, 15, 0)
	rows := registers(16, 8)
	for e := range 4 {
		t.VMOVUPS(low, rows[2*e])
		t.VPERMI2PD(second[e], first[e], rows[2*e])
		t.VMOVUPS(high, rows[2*e+1])
		t.VPERMI2PD(second[e], first[e], rows[2*e+1])
	}
	return rows
}

// slideOp is what a window does with the elements that it covers.
type slideOp struct {
	name    string
	weights bool
	start   string // the comment's value to begin with, step and end
	step    string
	finish  string
}

var slideOps = []slideOp{
	{"slideConv", true, "bias", "fma(w[k], v, s)", "min(max(s, lo), hi) // NaN where s is"},
	{"slideMax", false, "-Inf", "max(s, v)", "s"},
	{"slideSum", false, "0", "s + v", "s"},
}

func slideSignature(weights bool) string {
	more := ""
	if weights {
		more = ", w []float32, bias, lo, hi float32"
	}
	return "func(z []float32, zStep int, x []float32, xStep int, offsets []int32, rows, width, stride int" + more + ")"
}

func (o slideOp) doc() []string {
	return strings.Split(`	for r := range rows {
		for j := range width {
			s := float32(`+o.start+`)
			for k, o := range offsets {
				v := x[r*xStep+o+j*stride]
				s = `+o.step+`
			}
			z[r*zStep+j] = `+o.finish+`
		}
	}

for a stride of 1 or 2.`, "\n")
}

// slide is the kernel of one op: four rows of pixels at a time, then one, two
// vectors at a time, then one, of which the last of a row may be a part.
type slide struct {
	*function
	slideOp
}

var (
	slideZ, slideX         = reg.RDI, reg.RSI // rows
	slideZAt, slideXAt     = reg.R8, reg.R9   // places in them
	slideOffsets, slideK   = reg.RAX, reg.RDX
	slideW                 = reg.RCX
	slideT, slideLeft      = reg.RBX, reg.R10
	slideRows              = reg.R11
	slideXStep, slideZStep = reg.R12, reg.R13
	slideXStep3            = reg.R14
	slideMasking           = reg.R15 // scratch
)

func (s slide) emit() {
	s.Load(s.Param("z").Base(), slideZ)
	s.Load(s.Param("x").Base(), slideX)
	s.Load(s.Param("xStep"), slideXStep)
	s.Load(s.Param("zStep"), slideZStep)
	s.SHLQ(operand.U8(2), slideXStep)
	s.SHLQ(operand.U8(2), slideZStep)
	s.LEAQ(operand.Mem{Base: slideXStep, Index: slideXStep, Scale: 2}, slideXStep3)
	s.Load(s.Param("rows"), slideRows)
	s.Load(s.Param("stride"), slideT)
	s.CMPQ(slideT, operand.U8(1))
	s.JNE(operand.LabelRef("stride2"))
	s.strides(1)
	s.Label("stride2")
	if s.path == avx512 {
		even := s.data("evens", 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
		s.VMOVUPS(even, reg.Z31)
	}
	s.strides(2)
}

// strides emits all rows for a stride, and the return.
func (s slide) strides(stride int) {
	s.rows(4, stride)
	s.rows(1, stride)
	s.end()
}

// rows emits the loop over as many rows at a time, until fewer are left.
// Registers 0 to 7 hold sums, 8 to 12 what is computed on the way; 13 to 15 are
// masks of AVX2.
func (s slide) rows(rows, stride int) {
	name := func(n string) string { return fmt.Sprintf("%s%dx%d", n, rows, stride) }
	s.Label(name("row"))
	s.CMPQ(slideRows, operand.U8(rows))
	if rows == 1 {
		s.JL(operand.LabelRef(name("done")))
	} else {
		// The last rows again together with some before them, if there are so many.
		s.JGE(operand.LabelRef(name("begin")))
		s.TESTQ(slideRows, slideRows)
		s.JE(operand.LabelRef(name("done")))
		s.Load(s.Param("rows"), slideT)
		s.CMPQ(slideT, operand.U8(rows))
		s.JL(operand.LabelRef(name("done")))
		s.SUBQ(operand.U8(rows), slideRows)
		s.MOVQ(slideRows, slideT)
		s.IMULQ(slideXStep, slideT)
		s.ADDQ(slideT, slideX)
		s.IMULQ(slideZStep, slideRows)
		s.ADDQ(slideRows, slideZ)
		s.MOVQ(operand.U32(uint32(rows)), slideRows)
		s.Label(name("begin"))
	}
	s.Load(s.Param("width"), slideLeft)
	s.MOVQ(slideZ, slideZAt)
	s.MOVQ(slideX, slideXAt)
	s.Label(name("pair"))
	s.CMPQ(slideLeft, operand.U8(2*s.lanes))
	s.JL(operand.LabelRef(name("single")))
	s.masks(stride, false)
	s.block(name("p"), rows, 2, stride, false)
	s.ADDQ(operand.U32(uint32(2*s.vecBytes())), slideZAt)
	s.ADDQ(operand.U32(uint32(2*stride*s.vecBytes())), slideXAt)
	s.SUBQ(operand.U8(2*s.lanes), slideLeft)
	s.JMP(operand.LabelRef(name("pair")))
	s.Label(name("single"))
	s.TESTQ(slideLeft, slideLeft)
	s.JLE(operand.LabelRef(name("end")))
	s.masks(stride, true)
	s.block(name("s"), rows, 1, stride, true)
	s.ADDQ(operand.U32(uint32(s.vecBytes())), slideZAt)
	s.ADDQ(operand.U32(uint32(stride*s.vecBytes())), slideXAt)
	s.SUBQ(operand.U8(s.lanes), slideLeft)
	s.JMP(operand.LabelRef(name("single")))
	s.Label(name("end"))
	if rows == 4 {
		s.LEAQ(operand.Mem{Base: slideX, Index: slideXStep, Scale: 4}, slideX)
		s.LEAQ(operand.Mem{Base: slideZ, Index: slideZStep, Scale: 4}, slideZ)
	} else {
		s.ADDQ(slideXStep, slideX)
		s.ADDQ(slideZStep, slideZ)
	}
	s.SUBQ(operand.U8(rows), slideRows)
	s.JMP(operand.LabelRef(name("row")))
	s.Label(name("done"))
}

// masks sets the masks for min(left, lanes) pixels: K1 or register 13 those of
// z and, at stride 1, of x; K2, K3 or 14, 15 those of the two vectors of x that
// stride 2 reads, without the element behind the last pixel.
func (s slide) masks(stride int, part bool) {
	set := func(i int, count reg.GPPhysical) { // count clobbered
		if s.path == avx512 {
			k := []reg.OpmaskPhysical{reg.K1, reg.K2, reg.K3}[i]
			s.MOVQ(operand.I32(-1), slideW)
			s.BZHIQ(count, slideW, slideW)
			s.KMOVW(slideW.As32(), k)
			return
		}
		s.NEGQ(count)
		s.LEAQ(s.tailMask(), slideOffsets)
		s.VMOVUPS(operand.Mem{Base: slideOffsets, Index: count, Scale: 4, Disp: 32}, s.physical(13+i))
	}
	limit := func(to reg.GPPhysical) { // at most lanes
		s.MOVQ(operand.U32(uint32(s.lanes)), slideT)
		s.CMPQ(to, slideT)
		s.CMOVQGT(slideT, to)
	}
	if !part && stride == 1 {
		return
	}
	if part {
		s.MOVQ(slideLeft, slideK)
		limit(slideK)
	} else {
		s.MOVQ(operand.U32(uint32(s.lanes)), slideK)
	}
	if stride == 1 {
		set(0, slideK)
		return
	}
	s.LEAQ(operand.Mem{Base: slideK, Index: slideK, Scale: 1, Disp: -1}, slideMasking)
	set(0, slideK)
	s.MOVQ(slideMasking, slideK)
	limit(slideK)
	s.SUBQ(slideK, slideMasking)
	set(1, slideK)
	set(2, slideMasking)
}

// load reads pixels into register to.
func (s slide) load(at operand.Mem, stride int, masked bool, to, other reg.VecPhysical) {
	read := func(at operand.Mem, mask int, to reg.VecPhysical) {
		switch {
		case mask < 0:
			s.VMOVUPS(at, to)
		case s.path == avx512:
			s.VMOVUPS_Z(at, []reg.OpmaskPhysical{reg.K1, reg.K2, reg.K3}[mask], to)
		default:
			s.VMASKMOVPS(at, s.physical(13+mask), to)
		}
	}
	if stride == 1 {
		if masked {
			read(at, 0, to)
		} else {
			read(at, -1, to)
		}
		return
	}
	if masked {
		read(at, 1, to)
	} else {
		read(at, -1, to)
	}
	read(at.Offset(s.vecBytes()), 2, other)
	if s.path == avx512 {
		s.VPERMT2PS(other, reg.Z31, to)
		return
	}
	const evens, order = 0x88, 0xd8
	s.VSHUFPS(operand.U8(evens), other, to, to)
	s.VPERMPD(operand.U8(order), to, to)
}

// block emits vecs vectors of pixels of that many rows.
func (s slide) block(label string, rows, vecs, stride int, masked bool) {
	arg := func(name string, to reg.VecPhysical) {
		a, err := s.Param(name).Resolve()
		if err != nil {
			panic(err)
		}
		s.VBROADCASTSS(a.Addr, to)
	}
	sum := func(r, v int) reg.VecPhysical { return s.physical(r*vecs + v) }
	for i := range rows * vecs {
		switch to := s.physical(i); {
		case s.name == "slideSum":
			s.VXORPS(to, to, to)
		case i > 0:
			s.VMOVAPS(s.physical(0), to)
		case s.name == "slideConv":
			arg("bias", to)
		default:
			s.VBROADCASTSS(s.bits(0xff800000).Mem, to)
		}
	}
	s.Load(s.Param("offsets").Base(), slideOffsets)
	s.Load(s.Param("offsets").Len(), slideK)
	if s.weights {
		s.Load(s.Param("w").Base(), slideW)
	}
	s.TESTQ(slideK, slideK)
	s.JE(operand.LabelRef(label + "sums"))
	s.Label(label + "loop")
	s.MOVLQSX(operand.Mem{Base: slideOffsets}, slideT)
	s.LEAQ(operand.Mem{Base: slideXAt, Index: slideT, Scale: 4}, slideT)
	w := s.physical(8)
	if s.weights {
		s.VBROADCASTSS(operand.Mem{Base: slideW}, w)
	}
	row := []operand.Mem{{Base: slideT}, {Base: slideT, Index: slideXStep, Scale: 1}, {Base: slideT, Index: slideXStep, Scale: 2}, {Base: slideT, Index: slideXStep3, Scale: 1}}
	for r := range rows {
		for v := range vecs {
			at, to := row[r].Offset(v*stride*s.vecBytes()), sum(r, v)
			x, other := s.physical(9+v), s.physical(11+v)
			// Where x is read as it lies it need not go through a register; masked
			// lanes are not stored.
			var from operand.Op = x
			part := masked
			if s.name != "slideMax" && stride == 1 && (!masked || s.path == avx512) {
				from = at
			} else {
				s.load(at, stride, masked, x, other)
				part = false
			}
			const unordered = 3
			switch s.name {
			case "slideConv":
				if part {
					s.VFMADD231PS(from, w, reg.K1, to)
				} else {
					s.VFMADD231PS(from, w, to)
				}
			case "slideSum":
				if part {
					s.VADDPS(from, to, reg.K1, to)
				} else {
					s.VADDPS(from, to, to)
				}
			case "slideMax":
				if s.path == avx512 {
					s.VCMPPS(operand.U8(unordered), x, x, reg.K4)
					s.VMAXPS(to, x, to) // of a NaN and x, what has been so far
					s.VMOVAPS(x, reg.K4, to)
				} else {
					s.VCMPPS(operand.U8(unordered), x, x, other)
					s.VMAXPS(to, x, to)
					s.VORPS(other, to, to)
				}
			}
		}
	}
	s.ADDQ(operand.U8(4), slideOffsets)
	if s.weights {
		s.ADDQ(operand.U8(4), slideW)
	}
	s.DECQ(slideK)
	s.JNE(operand.LabelRef(label + "loop"))
	s.Label(label + "sums")
	if s.weights {
		arg("lo", s.physical(9))
		arg("hi", s.physical(10))
	}
	z := []operand.Mem{{Base: slideZAt}, {Base: slideZAt, Index: slideZStep, Scale: 1}, {Base: slideZAt, Index: slideZStep, Scale: 2}, {Base: slideZAt, Index: slideK, Scale: 1}}
	if rows == 4 {
		s.LEAQ(operand.Mem{Base: slideZStep, Index: slideZStep, Scale: 2}, slideK)
	}
	for r := range rows {
		for v := range vecs {
			if s.weights {
				s.VMAXPS(sum(r, v), s.physical(9), sum(r, v))
				s.VMINPS(sum(r, v), s.physical(10), sum(r, v))
			}
			to := z[r].Offset(v * s.vecBytes())
			switch {
			case !masked:
				s.VMOVUPS(sum(r, v), to)
			case s.path == avx512:
				s.VMOVUPS(sum(r, v), reg.K1, to)
			default:
				s.VMASKMOVPS(sum(r, v), s.physical(13), to)
			}
		}
	}
}

// padRows emits the copy of rows between padding.
func (c *family) padRows(p path) {
	f := c.begin(p, "padRows", "func(dst []float32, dstStep int, src []float32, srcStep int, rows, width, lead, copied int, value float32)",
		"	for r := range rows {",
		"		for j := range width {",
		"			dst[r*dstStep+j] = value",
		"			if j >= lead && j < lead+copied {",
		"				dst[r*dstStep+j] = src[r*srcStep+j-lead]",
		"			}",
		"		}",
		"	}")
	dst, src, dstStep, srcStep, rows, left := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dst").Base(), dst)
	f.Load(f.Param("src").Base(), src)
	f.Load(f.Param("dstStep"), dstStep)
	f.Load(f.Param("srcStep"), srcStep)
	f.SHLQ(operand.U8(2), dstStep)
	f.SHLQ(operand.U8(2), srcStep)
	lead, end := f.GP64(), f.GP64()
	f.Load(f.Param("lead"), lead)
	f.Load(f.Param("copied"), end)
	f.Load(f.Param("width"), left)
	value := f.broadcast("value")
	ints := func(from reg.GPVirtual) reg.VecVirtual {
		x, v := f.XMM(), f.v()
		f.VMOVD(from.As32(), x)
		f.VPBROADCASTD(x, v)
		return v
	}
	first, last, width := ints(lead), f.v(), ints(left)
	f.ADDQ(lead, end)
	f.NEGQ(lead)
	f.LEAQ(operand.Mem{Base: src, Index: lead, Scale: 4}, src)
	f.VPBROADCASTD(func() reg.VecVirtual { x := f.XMM(); f.VMOVD(end.As32(), x); return x }(), last)
	at := f.v() // the place of every lane in a row
	f.VMOVUPS(c.data("places", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), at)
	step := f.v()
	lanes := f.GP64()
	f.MOVQ(operand.U32(uint32(p.lanes)), lanes)
	f.VPBROADCASTD(func() reg.VecVirtual { x := f.XMM(); f.VMOVD(lanes.As32(), x); return x }(), step)
	to, from := f.GP64(), f.GP64()
	f.Label("vector")
	f.MOVQ(dst, to)
	f.MOVQ(src, from)
	f.Load(f.Param("rows"), rows)
	var copying, storing vec
	if p == avx512 {
		before, ending, inside := f.K(), f.K(), f.K()
		f.VPCMPGTD(at, first, before) // lead > place
		f.VPCMPGTD(at, last, ending)  // lead + copied > place
		f.KANDNW(ending, before, ending)
		f.VPCMPGTD(at, width, inside)
		copying, storing = ending, inside
	} else {
		before, ending, inside := f.v(), f.v(), f.v()
		f.VPCMPGTD(at, first, before)
		f.VPCMPGTD(at, last, ending)
		f.VPANDN(ending, before, ending)
		f.VPCMPGTD(at, width, inside)
		copying, storing = ending, inside
	}
	f.Label("row")
	f.DECQ(rows)
	f.JL(operand.LabelRef("rows"))
	x := f.v()
	if p == avx512 {
		f.VMOVAPS(value, x)
		f.VMOVUPS(operand.Mem{Base: from}, copying, x)
		f.VMOVUPS(x, storing, operand.Mem{Base: to})
	} else {
		f.VMASKMOVPS(operand.Mem{Base: from}, copying, x)
		f.VBLENDVPS(copying, x, value, x)
		f.CMPQ(left, operand.U8(p.lanes))
		f.JL(operand.LabelRef("part"))
		f.VMOVUPS(x, operand.Mem{Base: to})
		f.JMP(operand.LabelRef("stored"))
		f.Label("part")
		f.VMASKMOVPS(x, storing, operand.Mem{Base: to})
		f.Label("stored")
	}
	f.ADDQ(dstStep, to)
	f.ADDQ(srcStep, from)
	f.JMP(operand.LabelRef("row"))
	f.Label("rows")
	f.VPADDD(step, at, at)
	f.ADDQ(operand.U8(p.vecBytes()), dst)
	f.ADDQ(operand.U8(p.vecBytes()), src)
	f.SUBQ(operand.U8(p.lanes), left)
	f.JG(operand.LabelRef("vector"))
	f.end()
}
