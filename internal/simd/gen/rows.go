package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows emits the parts of softmax and of the normalisations.
func rows(c *family) {
	for _, p := range paths {
		c.expSum(p)
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

func (c *family) expSum(p path) {
	f := c.begin(p, "expSum", "func(dst, x []float32, max float32) float32",
		"	s := float32(0)",
		"	for i := range dst {",
		"		dst[i] = exp(x[i] - max)",
		"		s += dst[i]",
		"	}",
		"	return s",
		"",
		fmt.Sprintf("with partial sums in 2 × %d lanes.", p.lanes))
	top, bounds := f.broadcast("max"), f.expBounds()
	s := [2]reg.VecVirtual{f.zero(), f.zero()}
	f.eachVector([]string{"dst", "x"}, 2, func(i int, at []operand.Mem, t *tail) {
		e := f.expOf(f.sub(f.load(at[1], t), top), bounds)
		f.store(e, at[0], t)
		f.VADDPS(f.beyond(e, t, 0), s[i], s[i])
	})
	op := func(a, b vec) reg.VecVirtual { return f.add(a, b) }
	f.give(0, f.fold(op(s[0], s[1]), op), func(x, m operand.Op) { f.VMOVSS(x, m) })
	f.end()
}
