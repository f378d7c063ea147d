package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// winograd emits the transforms of F(2×2, 3×3), with tiles in the lanes.
func winograd(c *family) {
	for _, p := range paths {
		winogradInput(c.begin(p, "winogradInput", "func(dst []float32, plane int, x []float32, xStep, rows, tiles int)",
			"	for r := range rows {",
			"		for t := range tiles {",
			"			d := x[2*r*xStep+2*t:] // d[i][j] = d[i*xStep+j]",
			"			for i := range 4 {",
			"				for j := range 4 {",
			"					dst[(4*i+j)*plane+r*tiles+t] = sum of Bᵀ[i][k] * d[k][l] * B[l][j]",
			"				}",
			"			}",
			"		}",
			"	}"))
		winogradOutput(c.begin(p, "winogradOutput", "func(z []float32, zStep int, y []float32, plane, rows, tiles, height, width int, bias, lo, hi float32)",
			"	for r := range rows {",
			"		for t := range tiles {",
			"			for i := range min(2, height-2*r) {",
			"				for j := range min(2, width-2*t) {",
			"					s := sum of Aᵀ[i][k] * y[(4*k+l)*plane+r*tiles+t] * A[l][j]",
			"					z[(2*r+i)*zStep+2*t+j] = min(max(s+bias, lo), hi) // NaN where s is",
			"				}",
			"			}",
			"		}",
			"	}"))
	}
}

// laneMask is a mask of the first lanes: a K register, or a vector.
type laneMask = operand.Op

// firstLanes sets a mask for count lanes, of which there may be more than lanes
// or fewer than none. It leaves count as it is.
func (f *function) firstLanes(count reg.GPVirtual, label string) laneMask {
	n := f.GP64()
	f.MOVQ(count, n)
	f.TESTQ(n, n)
	f.JGE(operand.LabelRef(label + "some"))
	f.XORQ(n, n)
	f.Label(label + "some")
	f.CMPQ(n, operand.U8(f.lanes))
	f.JLE(operand.LabelRef(label + "part"))
	f.MOVQ(operand.U32(uint32(f.lanes)), n)
	f.Label(label + "part")
	if f.path == avx512 {
		bits, k := f.GP64(), f.K()
		f.MOVQ(operand.I32(-1), bits)
		f.BZHIQ(n, bits, bits)
		f.KMOVW(bits.As32(), k)
		return k
	}
	f.NEGQ(n)
	at, m := f.GP64(), f.v()
	f.LEAQ(f.tailMask(), at)
	f.VMOVUPS(operand.Mem{Base: at, Index: n, Scale: 4, Disp: 32}, m)
	return m
}

func (f *function) read(from operand.Mem, m laneMask) reg.VecVirtual {
	d := f.v()
	if f.path == avx512 {
		f.VMOVUPS_Z(from, m, d)
	} else {
		f.VMASKMOVPS(from, m, d)
	}
	return d
}

func (f *function) write(x vec, to operand.Mem, m laneMask) {
	if f.path == avx512 {
		f.VMOVUPS(x, m, to)
	} else {
		f.VMASKMOVPS(x, m, to)
	}
}

// pick returns elements of two vectors: even or odd ones, or the low or high
// halves interleaved.
func (f *function) pick(a, b reg.VecVirtual, what string) reg.VecVirtual {
	d := f.v()
	if f.path == avx512 {
		var index []uint32
		for i := range uint32(16) {
			switch what {
			case "even":
				index = append(index, 2*i)
			case "odd":
				index = append(index, 2*i+1)
			case "low":
				index = append(index, i/2+i%2*16)
			case "high":
				index = append(index, 8+i/2+i%2*16)
			}
		}
		f.VMOVUPS(f.data(what, index...), d)
		f.VPERMI2PS(b, a, d)
		return d
	}
	switch what {
	case "even", "odd":
		order := map[string]uint8{"even": 0x88, "odd": 0xdd}[what]
		f.VSHUFPS(operand.U8(order), b, a, d)
		f.VPERMPD(operand.U8(0xd8), d, d)
	default:
		e, order := f.v(), map[string]uint8{"low": 0x20, "high": 0x31}[what]
		f.VUNPCKLPS(b, a, d)
		f.VUNPCKHPS(b, a, e)
		f.VPERM2F128(operand.U8(order), e, d, d)
	}
	return d
}

func winogradInput(f *function) {
	dst, plane, x, step, rows := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dst").Base(), dst)
	f.Load(f.Param("plane"), plane)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("xStep"), step)
	f.Load(f.Param("rows"), rows)
	f.SHLQ(operand.U8(2), plane)
	f.SHLQ(operand.U8(2), step)
	step3 := f.GP64()
	f.LEAQ(operand.Mem{Base: step, Index: step, Scale: 2}, step3)
	left, at, double, rest := f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Label("row")
	f.DECQ(rows)
	f.JL(operand.LabelRef("done"))
	f.Load(f.Param("tiles"), left)
	f.MOVQ(x, at)
	f.Label("vector")
	f.LEAQ(operand.Mem{Base: left, Index: left, Scale: 1}, double)
	f.LEAQ(operand.Mem{Base: double, Disp: -f.lanes}, rest)
	m := f.firstLanes(left, "tiles")
	halves := [2]laneMask{f.firstLanes(double, "first"), f.firstLanes(rest, "second")}
	line := []operand.Mem{{Base: at}, {Base: at, Index: step, Scale: 1}, {Base: at, Index: step, Scale: 2}, {Base: at, Index: step3, Scale: 1}}
	to := f.GP64()
	f.MOVQ(dst, to)
	// Bᵀ = [1 0 −1 0; 0 1 1 0; 0 −1 1 0; 0 1 0 −1], first down, then across.
	for i, of := range [4][2]int{{0, 2}, {1, 2}, {2, 1}, {1, 3}} {
		var t [2][2]reg.VecVirtual // from column 0 and from column 2, two vectors of each
		for k := range 2 {
			for h := range 2 {
				disp := 8*k + h*f.vecBytes()
				a, b := f.read(line[of[0]].Offset(disp), halves[h]), f.read(line[of[1]].Offset(disp), halves[h])
				if i == 1 {
					t[k][h] = f.add(a, b)
				} else {
					t[k][h] = f.sub(a, b)
				}
			}
		}
		c0, c1 := f.pick(t[0][0], t[0][1], "even"), f.pick(t[0][0], t[0][1], "odd")
		c2, c3 := f.pick(t[1][0], t[1][1], "even"), f.pick(t[1][0], t[1][1], "odd")
		for _, d := range []reg.VecVirtual{f.sub(c0, c2), f.add(c1, c2), f.sub(c2, c1), f.sub(c1, c3)} {
			f.write(d, operand.Mem{Base: to}, m)
			f.ADDQ(plane, to)
		}
	}
	f.ADDQ(operand.U32(uint32(2*f.vecBytes())), at)
	f.ADDQ(operand.U8(f.vecBytes()), dst)
	f.SUBQ(operand.U8(f.lanes), left)
	f.JG(operand.LabelRef("vector"))
	// dst is left behind by what was missing of the last vector.
	f.LEAQ(operand.Mem{Base: dst, Index: left, Scale: 4}, dst)
	f.LEAQ(operand.Mem{Base: x, Index: step, Scale: 2}, x)
	f.JMP(operand.LabelRef("row"))
	f.Label("done")
	f.end()
}

func winogradOutput(f *function) {
	z, step, y, plane, rows, height := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("z").Base(), z)
	f.Load(f.Param("zStep"), step)
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("plane"), plane)
	f.Load(f.Param("rows"), rows)
	f.Load(f.Param("height"), height)
	f.SHLQ(operand.U8(2), plane)
	f.SHLQ(operand.U8(2), step)
	left, width, at, second := f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Label("row")
	f.DECQ(rows)
	f.JL(operand.LabelRef("done"))
	f.Load(f.Param("tiles"), left)
	f.Load(f.Param("width"), width)
	f.MOVQ(z, at)
	f.Label("vector")
	m := f.firstLanes(left, "tiles")
	from := f.GP64()
	// Aᵀ = [1 1 1 0; 0 1 −1 −1], first down, then across.
	var a [2][4]reg.VecVirtual
	for j := range 4 {
		f.MOVQ(y, from)
		for range j {
			f.ADDQ(plane, from)
		}
		four := f.GP64()
		f.MOVQ(plane, four)
		f.SHLQ(operand.U8(2), four)
		var p [4]reg.VecVirtual
		for i := range 4 {
			p[i] = f.read(operand.Mem{Base: from}, m)
			f.ADDQ(four, from)
		}
		a[0][j] = f.add(f.add(p[0], p[1]), p[2])
		a[1][j] = f.sub(f.sub(p[1], p[2]), p[3])
	}
	rest := f.GP64()
	f.LEAQ(operand.Mem{Base: width, Disp: -f.lanes}, rest)
	halves := [2]laneMask{f.firstLanes(width, "first"), f.firstLanes(rest, "second")}
	f.LEAQ(operand.Mem{Base: at, Index: step, Scale: 1}, second)
	for i, b := range a {
		if i == 1 {
			f.CMPQ(height, operand.U8(2))
			f.JL(operand.LabelRef("one"))
		}
		var pair [2]reg.VecVirtual
		pair[0] = f.add(f.add(b[0], b[1]), b[2])
		pair[1] = f.sub(f.sub(b[1], b[2]), b[3])
		bias, lo, hi := f.broadcast("bias"), f.broadcast("lo"), f.broadcast("hi")
		for j, v := range pair {
			pair[j] = f.smaller(hi, f.larger(lo, f.add(v, bias)))
		}
		to := operand.Mem{Base: []reg.GPVirtual{at, second}[i]}
		f.write(f.pick(pair[0], pair[1], "low"), to, halves[0])
		f.write(f.pick(pair[0], pair[1], "high"), to.Offset(f.vecBytes()), halves[1])
	}
	f.Label("one")
	f.ADDQ(operand.U32(uint32(2*f.vecBytes())), at)
	f.ADDQ(operand.U8(f.vecBytes()), y)
	f.SUBQ(operand.U8(2*f.lanes), width)
	f.SUBQ(operand.U8(f.lanes), left)
	f.JG(operand.LabelRef("vector"))
	f.LEAQ(operand.Mem{Base: y, Index: left, Scale: 4}, y)
	f.LEAQ(operand.Mem{Base: z, Index: step, Scale: 2}, z)
	f.SUBQ(operand.U8(2), height)
	f.JMP(operand.LabelRef("row"))
	f.Label("done")
	f.end()
}
