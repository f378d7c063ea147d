package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// reduce emits the sums and extrema of slices.
func reduce(c *family) {
	for _, p := range paths {
		c.reduction(p, "sum", "x", "", 0, "s += x[i]",
			func(f *function, s reg.VecVirtual, in []reg.VecVirtual, _ vec, _ *tail) reg.VecVirtual {
				return f.add(s, in[0]) // the elements beyond a tail are 0
			}, (*function).add)
		c.reduction(p, "dot", "x, y", "", 0, "s = fma(x[i], y[i], s)",
			func(f *function, s reg.VecVirtual, in []reg.VecVirtual, _ vec, _ *tail) reg.VecVirtual {
				f.addMul(s, in[0], in[1])
				return s
			}, (*function).add)
		c.reduction(p, "centredSumSq", "x", "mean", 0, "s = fma(x[i]-mean, x[i]-mean, s)",
			func(f *function, s reg.VecVirtual, in []reg.VecVirtual, mean vec, t *tail) reg.VecVirtual {
				d := f.beyond(f.sub(in[0], mean), t, 0)
				f.addMul(s, d, d)
				return s
			}, (*function).add)
		c.reduction(p, "maxOf", "x", "", math.Inf(-1), "s = max(s, x[i])",
			func(f *function, s reg.VecVirtual, in []reg.VecVirtual, _ vec, t *tail) reg.VecVirtual {
				return f.max(s, f.beyond(in[0], t, math.Inf(-1)))
			}, (*function).max)
		c.reduction(p, "minOf", "x", "", math.Inf(1), "s = min(s, x[i])",
			func(f *function, s reg.VecVirtual, in []reg.VecVirtual, _ vec, t *tail) reg.VecVirtual {
				return f.min(s, f.beyond(in[0], t, math.Inf(1)))
			}, (*function).min)
		c.momentsF64(p)
	}
}

// beyond returns x with the number fill in the elements beyond the tail.
func (f *function) beyond(x reg.VecVirtual, t *tail, fill float64) reg.VecVirtual {
	if t == nil {
		return x
	}
	return f.keep(x, f.splat(f.f32(fill)), t)
}

// reduction emits a kernel that reduces the slices, which are "x" or "x, y", to
// one number: step adds vectors to a partial result that starts as zero, and
// merge combines partial results. Whole turns of the loop keep four of them, of
// as many vectors; element i of vector v is in lane i of partial result v mod 4.
func (c *family) reduction(p path, name, slices, scalar string, zero float64, expr string,
	step func(f *function, s reg.VecVirtual, in []reg.VecVirtual, scalar vec, t *tail) reg.VecVirtual,
	merge func(f *function, a, b vec) reg.VecVirtual) {
	signature := fmt.Sprintf("func(%s []float32) float32", slices)
	if scalar != "" {
		signature = fmt.Sprintf("func(%s []float32, %s float32) float32", slices, scalar)
	}
	f := c.begin(p, name, signature,
		fmt.Sprintf("	s := float32(%v)", zero),
		"	for i := range x {",
		"		"+expr,
		"	}",
		"	return s",
		"",
		fmt.Sprintf("with partial results in 4 × %d lanes.", p.lanes))
	names := []string{"x"}
	if slices == "x, y" {
		names = append(names, "y")
	}
	const parts = 4
	var s [parts]reg.VecVirtual
	for i := range s {
		if zero == 0 {
			s[i] = f.zero()
		} else {
			s[i] = f.splat(f.f32(zero))
		}
	}
	var a vec
	if scalar != "" {
		a = f.broadcast(scalar)
	}
	f.eachVector(names, parts, func(i int, at []operand.Mem, t *tail) {
		var in []reg.VecVirtual
		for _, m := range at {
			in = append(in, f.load(m, t))
		}
		if r := step(f, s[i], in, a, t); r != s[i] {
			f.VMOVAPS(r, s[i])
		}
	})
	op := func(a, b vec) reg.VecVirtual { return merge(f, a, b) }
	r := f.fold(op(op(s[0], s[2]), op(s[1], s[3])), op)
	f.give(0, r, func(x, m operand.Op) { f.VMOVSS(x, m) })
	f.end()
}

// doubles returns the vector at m as float64, in two registers; 0 beyond a tail.
func (f *function) doubles(m operand.Mem, t *tail) [2]reg.VecVirtual {
	half := f.vecBytes() / 2
	d := [2]reg.VecVirtual{f.v(), f.v()}
	if t == nil {
		f.VCVTPS2PD(m, d[0])
		f.VCVTPS2PD(m.Offset(half), d[1])
		return d
	}
	x := f.load(m, t)
	if f.path == avx512 {
		hi := f.YMM()
		f.VEXTRACTF32X8(operand.U8(1), x, hi)
		f.VCVTPS2PD(x.AsY(), d[0])
		f.VCVTPS2PD(hi, d[1])
	} else {
		hi := f.XMM()
		f.VEXTRACTF128(operand.U8(1), x, hi)
		f.VCVTPS2PD(x.AsX(), d[0])
		f.VCVTPS2PD(hi, d[1])
	}
	return d
}

// sum64 returns the sum of the float64 lanes of x, in every lane.
func (f *function) sum64(x reg.VecVirtual) reg.VecVirtual {
	d := f.v()
	if f.path == avx512 {
		f.VSHUFF64X2(operand.U8(0x4e), x, x, d)
		f.VADDPD(d, x, x)
		f.VSHUFF64X2(operand.U8(0xb1), x, x, d)
	} else {
		f.VPERM2F128(operand.U8(1), x, x, d)
	}
	f.VADDPD(d, x, x)
	f.VPERMILPD(operand.U8(0x55), x, d)
	f.VADDPD(d, x, x)
	return x
}

func (c *family) momentsF64(p path) {
	f := c.begin(p, "momentsF64", "func(x, y []float32) (xy, xx, yy float64)",
		"	for i := range x {",
		"		xy = fma(float64(x[i]), float64(y[i]), xy)",
		"		xx = fma(float64(x[i]), float64(x[i]), xx)",
		"		yy = fma(float64(y[i]), float64(y[i]), yy)",
		"	}",
		"",
		fmt.Sprintf("with partial sums in 2 × %d lanes.", p.lanes/2))
	var s [3][2]reg.VecVirtual // [result][half]
	for i := range s {
		s[i] = [2]reg.VecVirtual{f.zero(), f.zero()}
	}
	f.eachVector([]string{"x", "y"}, 1, func(_ int, at []operand.Mem, t *tail) {
		x, y := f.doubles(at[0], t), f.doubles(at[1], t)
		for h := range 2 {
			f.VFMADD231PD(x[h], y[h], s[0][h])
			f.VFMADD231PD(x[h], x[h], s[1][h])
			f.VFMADD231PD(y[h], y[h], s[2][h])
		}
	})
	for i := range s {
		f.VADDPD(s[i][1], s[i][0], s[i][0])
		f.give(i, f.sum64(s[i][0]), func(x, m operand.Op) { f.VMOVSD(x, m) })
	}
	f.end()
}
