package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows emits the parts of softmax and of the normalisations.
func rows(c *family) {
	for _, p := range paths {
		c.softmax(p)
		norm := func(name, params, expr string, slices []string, last func(f *function, z reg.VecVirtual, in []reg.VecVirtual) vec) {
			f := c.begin(p, name, "func(dst, "+params+" []float32, mean, scale float32)",
				"	for i := range dst {",
				"		dst[i] = "+expr,
				"	}")
			mean, scale := f.broadcast("mean"), f.broadcast("scale")
			f.eachVector(slices, 4, func(_ int, at []operand.Mem, t *tail) {
				var in []reg.VecVirtual
				for _, m := range at[1:] {
					in = append(in, f.load(m, t))
				}
				f.store(last(f, f.mul(f.sub(in[0], mean), scale), in), at[0], t)
			})
			f.end()
		}
		norm("normScale", "x, gamma", "(x[i] - mean) * scale * gamma[i]", []string{"dst", "x", "gamma"},
			func(f *function, z reg.VecVirtual, in []reg.VecVirtual) vec { return f.mul(z, in[1]) })
		norm("normAffine", "x, gamma, beta", "fma((x[i]-mean)*scale, gamma[i], beta[i])", []string{"dst", "x", "gamma", "beta"},
			func(f *function, z reg.VecVirtual, in []reg.VecVirtual) vec {
				f.mulAdd(z, in[1], in[2])
				return z
			})
	}
}

// softmax emits a row of attention's scores in three passes over a row that
// stays in the cache: the maximum, the exponentials and their sum, the
// products with its reciprocal: one division a row, not one a vector.
func (c *family) softmax(p path) {
	f := c.begin(p, "softmax", "func(dst, x, mask []float32, scale float32)",
		"	for i := range dst {",
		"		dst[i] = fma(x[i], scale, mask[i]) // x[i]*scale without a mask",
		"	}",
		"	top, s := max(dst), float32(0)",
		"	for i := range dst {",
		"		dst[i] = exp(dst[i] - top)",
		"		s += dst[i]",
		"	}",
		"	for i := range dst {",
		"		dst[i] *= 1 / s",
		"	}",
		"",
		fmt.Sprintf("with partial sums in 4 × %d lanes: zeros at the end do not show in the others.", p.lanes))
	const parts = 4
	scale, low := f.broadcast("scale"), f.splat(f.f32(math.Inf(-1)))
	var s [parts]reg.VecVirtual
	for i := range s {
		s[i] = f.copy(low)
	}
	count := func() reg.GPVirtual {
		n := f.GP64()
		f.Load(f.Param("dst").Len(), n)
		return n
	}
	// A NaN is lost here, but not to the sum.
	scaled := func(i int, y reg.VecVirtual, to operand.Mem, t *tail) {
		f.store(y, to, t)
		f.VMAXPS(f.beyond(y, t, math.Inf(-1)), s[i], s[i])
	}
	masks := f.GP64()
	f.Load(f.Param("mask").Len(), masks)
	f.TESTQ(masks, masks)
	f.JE(operand.LabelRef("plain"))
	f.vectors("masked", count(), f.bases([]string{"dst", "x", "mask"}), parts, func(i int, at []operand.Mem, t *tail) {
		y := f.load(at[1], t)
		f.mulAdd(y, scale, f.load(at[2], t))
		scaled(i, y, at[0], t)
	})
	f.JMP(operand.LabelRef("exponentials"))
	f.Label("plain")
	f.vectors("plain", count(), f.bases([]string{"dst", "x"}), parts, func(i int, at []operand.Mem, t *tail) {
		scaled(i, f.mul(f.load(at[1], t), scale), at[0], t)
	})
	f.Label("exponentials")
	larger := func(a, b vec) reg.VecVirtual { return f.larger(a, b) }
	top := f.fold(larger(larger(s[0], s[2]), larger(s[1], s[3])), larger)
	for i := range s {
		f.VXORPS(s[i], s[i], s[i])
	}
	least := f.splat(f.f32(-104))
	f.partial("exp", count(), f.bases([]string{"dst"}), parts, func(i int, at []operand.Mem, t *tail) {
		e := f.expOfNegative(f.sub(f.load(at[0], t), top), least)
		f.store(e, at[0], t)
		f.VADDPS(f.beyond(e, t, 0), s[i], s[i])
	})
	add := func(a, b vec) reg.VecVirtual { return f.add(a, b) }
	sum := f.fold(add(add(s[0], s[2]), add(s[1], s[3])), add)
	inverse := f.div(f.splat(f.f32(1)), sum)
	f.vectors("quotient", count(), f.bases([]string{"dst"}), parts, func(_ int, at []operand.Mem, t *tail) {
		f.store(f.mul(f.load(at[0], t), inverse), at[0], t)
	})
	f.end()
}
