package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pool emits the gradient of the largest of 2×2 elements, with windows in the
// lanes.
func pool(c *family) {
	for _, p := range paths {
		maxOfFour(c.begin(p, "maxOfFourGradient", "func(dx []float32, xStep int, dy, x, y []float32, rows, width int)",
			"	for r := range rows {",
			"		for j := range width {",
			"			o, first := r*width+j, true",
			"			for i := range 4 {",
			"				at := (2*r+i/2)*xStep + 2*j + i%2",
			"				dx[at] = first && x[at] == y[o] ? dy[o] : 0",
			"				first = first && x[at] != y[o]",
			"			}",
			"		}",
			"	}"))
	}
}

func maxOfFour(f *function) {
	dx, dy, x, y, step, rows := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Load(f.Param("dx").Base(), dx)
	f.Load(f.Param("dy").Base(), dy)
	f.Load(f.Param("x").Base(), x)
	f.Load(f.Param("y").Base(), y)
	f.Load(f.Param("xStep"), step)
	f.Load(f.Param("rows"), rows)
	f.SHLQ(operand.U8(2), step)
	left, from, to, double, rest := f.GP64(), f.GP64(), f.GP64(), f.GP64(), f.GP64()
	f.Label("row")
	f.DECQ(rows)
	f.JL(operand.LabelRef("done"))
	f.Load(f.Param("width"), left)
	f.MOVQ(x, from)
	f.MOVQ(dx, to)
	f.Label("vector")
	f.LEAQ(operand.Mem{Base: left, Index: left, Scale: 1}, double)
	f.LEAQ(operand.Mem{Base: double, Disp: -f.lanes}, rest)
	m := f.firstLanes(left, "windows")
	halves := [2]laneMask{f.firstLanes(double, "first"), f.firstLanes(rest, "second")}
	largest, g, zero := f.read(operand.Mem{Base: y}, m), f.read(operand.Mem{Base: dy}, m), f.zero()
	for i, line := range [2]operand.Mem{{Base: from}, {Base: from, Index: step, Scale: 1}} {
		a, b := f.read(line, halves[0]), f.read(line.Offset(f.vecBytes()), halves[1])
		var d [2]reg.VecVirtual
		for j, v := range [2]reg.VecVirtual{f.pick(a, b, "even"), f.pick(a, b, "odd")} {
			d[j] = f.where(equal, v, largest, g, zero)
			g = f.where(equal, v, largest, zero, g)
		}
		line = [2]operand.Mem{{Base: to}, {Base: to, Index: step, Scale: 1}}[i]
		f.write(f.pick(d[0], d[1], "low"), line, halves[0])
		f.write(f.pick(d[0], d[1], "high"), line.Offset(f.vecBytes()), halves[1])
	}
	f.ADDQ(operand.U32(uint32(2*f.vecBytes())), from)
	f.ADDQ(operand.U32(uint32(2*f.vecBytes())), to)
	f.ADDQ(operand.U8(f.vecBytes()), y)
	f.ADDQ(operand.U8(f.vecBytes()), dy)
	f.SUBQ(operand.U8(f.lanes), left)
	f.JG(operand.LabelRef("vector"))
	// y and dy are left behind by what was missing of the last vector.
	f.LEAQ(operand.Mem{Base: y, Index: left, Scale: 4}, y)
	f.LEAQ(operand.Mem{Base: dy, Index: left, Scale: 4}, dy)
	f.LEAQ(operand.Mem{Base: x, Index: step, Scale: 2}, x)
	f.LEAQ(operand.Mem{Base: dx, Index: step, Scale: 2}, dx)
	f.JMP(operand.LabelRef("row"))
	f.Label("done")
	f.end()
}
