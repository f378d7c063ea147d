package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fixedConvert emits what is done to single numbers of 16-bit fixed point, sixteen
// a turn: slices hold a multiple of sixteen.
func fixedConvert(c *family) {
	for _, p := range paths {
		f := c.begin(p, "quantize16", "func(dst []int16, x []float32, scale float32)",
			"	for i := range dst {",
			"		dst[i] = sat(floor(x[i]*scale + 0.5)) // of NaN 0",
			"	}",
			"", "for a multiple of sixteen elements.")
		scale, half, zero, high := f.broadcast("scale"), f.splat(f.f32(0.5)), f.zero(), f.splat(f.f32(1<<15-1))
		f.sixteens([]slice{{"dst", 2}, {"x", 4}}, func(at []operand.Mem) {
			var parts []reg.VecVirtual
			for i := range f.parts() {
				t := f.add(f.mul(f.load(f.part(at[1], 4, i), nil), scale), half)
				t = f.smaller(f.where(unordered, t, t, zero, t), high)
				// What is below an int32 becomes the least one, which sat is right about.
				t = f.floor(t)
				f.VCVTPS2DQ(t, t)
				parts = append(parts, t)
			}
			f.pack(parts, at[0])
		})
		f.end()

		f = c.begin(p, "dequantize16", "func(dst []float32, x []int16, scale float32)",
			"	for i := range dst {",
			"		dst[i] = float32(x[i]) * scale",
			"	}",
			"", "for a multiple of sixteen elements.")
		scale = f.broadcast("scale")
		f.sixteens([]slice{{"dst", 4}, {"x", 2}}, func(at []operand.Mem) {
			for i, v := range f.unpack(at[1]) {
				f.VCVTDQ2PS(v, v)
				f.store(f.mul(v, scale), f.part(at[0], 4, i), nil)
			}
		})
		f.end()

		f = c.begin(p, "dequantizeEach16", "func(dst []float32, x []int16, scales []float32)",
			"	for i := range dst {",
			"		dst[i] = float32(x[i]) * scales[i]",
			"	}",
			"", "for a multiple of sixteen elements.")
		f.sixteens([]slice{{"dst", 4}, {"x", 2}, {"scales", 4}}, func(at []operand.Mem) {
			for i, v := range f.unpack(at[1]) {
				f.VCVTDQ2PS(v, v)
				f.store(f.mul(v, f.load(f.part(at[2], 4, i), nil)), f.part(at[0], 4, i), nil)
			}
		})
		f.end()

		f = c.begin(p, "requantize16", "func(dst, x []int16, left, right uint64, half int32)",
			"	for i := range dst {",
			"		dst[i] = sat((int32(x[i])<<left + half) >> right)",
			"	}",
			"", "for a multiple of sixteen elements.")
		left, right, word := f.count("left"), f.count("right"), f.broadcast("half")
		f.sixteens([]slice{{"dst", 2}, {"x", 2}}, func(at []operand.Mem) {
			parts := f.unpack(at[1])
			for _, v := range parts {
				f.VPSLLD(left, v, v)
				f.VPADDD(word, v, v)
				f.VPSRAD(right, v, v)
			}
			f.pack(parts, at[0])
		})
		f.end()

		f = c.begin(p, "add16", "func(dst, x, y []int16, leftX, leftY, right uint64, half int32)",
			"	for i := range dst {",
			"		dst[i] = sat((int32(x[i])<<leftX + int32(y[i])<<leftY + half) >> right)",
			"	}",
			"", "for a multiple of sixteen elements.")
		leftX, leftY := f.count("leftX"), f.count("leftY")
		right, word = f.count("right"), f.broadcast("half")
		f.sixteens([]slice{{"dst", 2}, {"x", 2}, {"y", 2}}, func(at []operand.Mem) {
			parts, others := f.unpack(at[1]), f.unpack(at[2])
			for i, v := range parts {
				f.VPSLLD(leftX, v, v)
				f.VPSLLD(leftY, others[i], others[i])
				f.VPADDD(word, v, v)
				f.VPADDD(others[i], v, v)
				f.VPSRAD(right, v, v)
			}
			f.pack(parts, at[0])
		})
		f.end()

		f = c.begin(p, "clip16", "func(dst, x []int16, low, high int16)",
			"	for i := range dst {",
			"		dst[i] = min(max(x[i], low), high)",
			"	}",
			"", "for a multiple of sixteen elements.")
		bound := func(name string) reg.VecVirtual {
			a, err := f.Param(name).Resolve()
			if err != nil {
				panic(err)
			}
			d := f.YMM()
			f.VPBROADCASTW(a.Addr, d)
			return d
		}
		least, most := bound("low"), bound("high")
		f.sixteens([]slice{{"dst", 2}, {"x", 2}}, func(at []operand.Mem) {
			d := f.YMM()
			f.VPMAXSW(at[1], least, d)
			f.VPMINSW(most, d, d)
			f.VMOVDQU(d, at[0])
		})
		f.end()
	}
}

// A slice is an argument of that name, of elements of that many bytes.
type slice struct {
	name  string
	bytes int
}

// sixteens emits a loop over sixteen elements of every slice a turn. body gets
// where they begin.
func (f *function) sixteens(slices []slice, body func(at []operand.Mem)) {
	var at []operand.Mem
	n := f.GP64()
	f.Load(f.Param(slices[0].name).Len(), n)
	for _, s := range slices {
		p := f.GP64()
		f.Load(f.Param(s.name).Base(), p)
		at = append(at, operand.Mem{Base: p})
	}
	f.TESTQ(n, n)
	f.JE(operand.LabelRef("done"))
	f.Label("turn")
	body(at)
	for i, s := range slices {
		f.ADDQ(operand.U32(uint32(16*s.bytes)), at[i].Base)
	}
	f.SUBQ(operand.U32(16), n)
	f.JNE(operand.LabelRef("turn"))
	f.Label("done")
}

// parts is how many vectors sixteen numbers of 32 bits fill.
func (f *function) parts() int { return 16 / f.lanes }

// part is where vector i of sixteen elements of that many bytes begins.
func (f *function) part(m operand.Mem, bytes, i int) operand.Mem {
	return m.Offset(i * f.lanes * bytes)
}

// unpack returns the sixteen int16 at m as int32.
func (f *function) unpack(m operand.Mem) (parts []reg.VecVirtual) {
	for i := range f.parts() {
		d := f.v()
		f.VPMOVSXWD(f.part(m, 2, i), d)
		parts = append(parts, d)
	}
	return parts
}

// pack saturates sixteen int32 to int16 and writes them to m.
func (f *function) pack(parts []reg.VecVirtual, m operand.Mem) {
	if f.path == avx512 {
		f.VPMOVSDW(parts[0], m)
		return
	}
	d := f.YMM()
	f.VPACKSSDW(parts[1], parts[0], d)
	const inOrder = 0xd8 // 64-bit lanes 0, 2, 1, 3: the halves were packed apart
	f.VPERMQ(operand.U8(inOrder), d, d)
	f.VMOVDQU(d, m)
}

// count returns the argument as the count of a shift.
func (f *function) count(arg string) reg.VecVirtual {
	a, err := f.Param(arg).Resolve()
	if err != nil {
		panic(err)
	}
	d := f.XMM()
	f.VMOVQ(a.Addr, d)
	return d
}

// floor returns the largest integer not above x.
func (f *function) floor(x vec) reg.VecVirtual {
	const downNoException = 9
	d := f.v()
	if f.path == avx512 {
		f.VRNDSCALEPS(operand.U8(downNoException), x, d)
	} else {
		f.VROUNDPS(operand.U8(downNoException), x, d)
	}
	return d
}
