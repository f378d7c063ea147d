package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// elementwise emits the arithmetic between slices, and between slices and a
// scalar.
func elementwise(c *family) {
	binary := []struct {
		name, expr string
		scalarX    string // name of the kernel whose first operand is a scalar, if there is one
		scalarY    string // and of that whose second operand is
		op         func(f *function, x, y vec) reg.VecVirtual
	}{
		{"add", "%s + %s", "", "addScalar", (*function).add},
		{"sub", "%s - %s", "scalarSub", "", (*function).sub},
		{"mul", "%s * %s", "", "mulScalar", (*function).mul},
		{"div", "%s / %s", "scalarDiv", "divScalar", (*function).div},
		{"max", "max(%s, %s)", "", "maxScalar", (*function).max},
		{"min", "min(%s, %s)", "", "minScalar", (*function).min},
	}
	for _, p := range paths {
		for _, b := range binary {
			c.mapping(p, b.name, "x, y", "", fmt.Sprintf(b.expr, "x[i]", "y[i]"), func(f *function, in []vec) vec { return b.op(f, in[0], in[1]) })
			if b.scalarX != "" {
				c.mapping(p, b.scalarX, "x", "a", fmt.Sprintf(b.expr, "a", "x[i]"), func(f *function, in []vec) vec { return b.op(f, in[1], in[0]) })
			}
			if b.scalarY != "" {
				c.mapping(p, b.scalarY, "x", "a", fmt.Sprintf(b.expr, "x[i]", "a"), func(f *function, in []vec) vec { return b.op(f, in[0], in[1]) })
			}
		}
		c.mapping(p, "relu", "x", "", "x[i] < 0 ? 0 : x[i]", func(f *function, in []vec) vec {
			return f.larger(f.zero(), in[0]) // NaN and −0 come from the second operand
		})
		c.mapping(p, "reluGradient", "x, y", "", "y[i] <= 0 ? 0 : x[i]", func(f *function, in []vec) vec {
			zero := f.zero()
			return f.where(atMost, in[1], zero, zero, in[0])
		})
		f := c.begin(p, "axpy", "func(dst, x []float32, a float32)",
			"	for i := range dst {",
			"		dst[i] = fma(a, x[i], dst[i])",
			"	}")
		a := f.broadcast("a")
		f.eachVector([]string{"dst", "x"}, 4, func(_ int, at []operand.Mem, t *tail) {
			s := f.load(at[0], t)
			f.addMul(s, a, f.load(at[1], t))
			f.store(s, at[0], t)
		})
		f.end()
	}
}

// max returns the larger of x and y as Go's max does: NaN where either is NaN,
// +0 of two zeros.
func (f *function) max(x, y vec) reg.VecVirtual {
	// The two orders differ for zeros of different sign, whose conjunction is +0,
	// and for NaN.
	m := f.and(f.larger(x, y), f.larger(y, x))
	return f.where(unordered, x, y, f.add(x, y), m)
}

// min returns the smaller of x and y, with the rules of max and −0.
func (f *function) min(x, y vec) reg.VecVirtual {
	m := f.or(f.smaller(x, y), f.smaller(y, x))
	return f.where(unordered, x, y, f.add(x, y), m)
}

// mapping emits a kernel that sets dst[i] to a function of the elements i of the
// slices, which are "x" or "x, y", and of the scalar, which is "a" or nothing.
// body gets them in that order. expr is what the comment says.
func (c *family) mapping(p path, name, slices, scalar, expr string, body func(f *function, in []vec) vec) {
	signature := fmt.Sprintf("func(dst, %s []float32)", slices)
	if scalar != "" {
		signature = fmt.Sprintf("func(dst, %s []float32, %s float32)", slices, scalar)
	}
	f := c.begin(p, name, signature,
		"	for i := range dst {",
		"		dst[i] = "+expr,
		"	}")
	names := []string{"dst", "x"}
	if slices == "x, y" {
		names = append(names, "y")
	}
	var a vec
	if scalar != "" {
		a = f.broadcast(scalar)
	}
	f.eachVector(names, 4, func(_ int, at []operand.Mem, t *tail) {
		var in []vec
		for _, m := range at[1:] {
			in = append(in, f.load(m, t))
		}
		if a != nil {
			in = append(in, a)
		}
		f.store(body(f, in), at[0], t)
	})
	f.end()
}
