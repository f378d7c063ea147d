package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// peakChains is the number of independent multiply-adds of the loop that
// measures a machine's peak: at least the latency (up to 5 cycles) times the
// units (up to 2) of the cores that have these paths, and no more than leaves
// two of AVX2's registers for the operands.
const peakChains = 12

// peak emits that loop.
func peak(c *family) {
	for _, p := range paths {
		f := c.begin(p, "multiplyAdds", "func(x []float32, rounds int)",
			"	for range rounds {",
			"		for i := range x {",
			"			x[i] = fma(x[i], 0.5, 1)",
			"		}",
			"	}",
			"",
			fmt.Sprintf("for rounds ≥ 1 and an x of %d × %d elements, in registers.", peakChains, p.lanes))
		base, left := f.GP64(), f.GP64()
		f.Load(f.Param("x").Base(), base)
		f.Load(f.Param("rounds"), left)
		half, one := f.splat(f.f32(0.5)), f.splat(f.f32(1))
		var x []reg.VecVirtual
		for i := range peakChains {
			x = append(x, f.load(operand.Mem{Base: base, Disp: i * f.vecBytes()}, nil))
		}
		f.Label("round")
		for i := range x {
			f.mulAdd(x[i], half, one)
		}
		f.DECQ(left)
		f.JNE(operand.LabelRef("round"))
		for i := range x {
			f.store(x[i], operand.Mem{Base: base, Disp: i * f.vecBytes()}, nil)
		}
		f.end()
	}
}
