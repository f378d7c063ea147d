package runtime

import (
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// scaledConv is a node with a convolution of constant weights [M, …] that
// nothing else reads in front of it, whose output channels it scales and
// shifts: it becomes the convolution itself with
//
//	W'[m] = s[m]·W[m],  B'[m] = s[m]·B[m] + t[m],
//
// computed in float64 and rounded once. With n products to an element, n+1
// roundings of them, and those of the scale and shift that go away, y' and y
// differ by at most (2n+8)·2⁻²⁴·(|s|·(Σ|w·x| + |B|) + |t|).
//
//	BatchNormalization: s = γ/√(σ² + ε), t = β − s·μ
//	Mul by a constant:  s
//	Add of a constant:  t
func (f *fuser) scaledConv(x *lnode) bool {
	if x.op != "BatchNormalization" && x.op != "Mul" && x.op != "Add" {
		return false
	}
	var conv *lnode
	var s, t []float64
	if x.op == "BatchNormalization" {
		if conv = f.conv(x.in[0]); conv == nil {
			return false
		}
		s, t = x.affine(conv.in[1].konst.Shape[0])
	} else {
		v, c, ok := split(x, func(v *lvalue) bool { return v.konst != nil })
		if !ok {
			return false
		}
		if conv = f.conv(v); conv == nil {
			return false
		}
		shape := conv.in[1].konst.Shape
		list := perChannel(c.konst, shape[0], len(shape))
		if s, t = list, make([]float64, shape[0]); x.op == "Add" {
			s, t = slices.Repeat([]float64{1}, shape[0]), list
		}
		if list == nil {
			return false
		}
	}
	if s == nil {
		return false
	}
	w := conv.in[1].konst
	scaled, shift := make([]float32, w.Len()), make([]float32, len(s))
	n := w.Len() / len(s)
	for m, a := range s {
		b := 0.0
		if len(conv.in) > 2 && conv.in[2] != nil {
			b = float64(conv.in[2].konst.F32()[m])
		}
		shift[m] = float32(a*b + t[m])
		for i, v := range w.F32()[m*n : (m+1)*n] {
			scaled[m*n+i] = float32(a * float64(v))
		}
		if !finite(shift[m : m+1]) {
			return false
		}
	}
	if !finite(scaled) {
		return false
	}
	row, ok := lookup("", "Conv", x.version)
	if !ok {
		return false
	}
	x.op, x.attrs, x.row = "Conv", conv.attrs, row
	x.in = []*lvalue{conv.in[0], {name: conv.in[1].name, konst: FromSlice(w.Shape, scaled)}, {konst: FromSlice([]int{len(s)}, shift)}}
	return true
}

func finite(x []float32) bool {
	return !slices.ContainsFunc(x, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) })
}

// conv matches a convolution of float32 with constant weights that may go.
func (f *fuser) conv(v *lvalue) *lnode {
	x := f.only(v, "Conv")
	if x == nil {
		return nil
	}
	w := x.in[1].konst
	if w == nil || w.DType != graph.Float32 || len(w.Shape) < 3 || w.Len() == 0 {
		return nil
	}
	if len(x.in) > 2 && x.in[2] != nil {
		b := x.in[2].konst
		if b == nil || b.DType != graph.Float32 || !slices.Equal(b.Shape, w.Shape[:1]) {
			return nil
		}
	}
	return x
}

// affine is what a BatchNormalization of m channels computes: s·x + t.
func (x *lnode) affine(m int) (s, t []float64) {
	if x.bool("training_mode", false) || !x.bool("spatial", true) {
		return nil, nil
	}
	var p [5][]float32
	for i := 1; i < 5; i++ {
		c := vector(x.in[i])
		if c == nil || c.Len() != m {
			return nil, nil
		}
		p[i] = c.F32()
	}
	eps := float64(x.float("epsilon", 1e-5))
	for i := range m {
		a := float64(p[1][i]) / math.Sqrt(float64(p[4][i])+eps)
		s, t = append(s, a), append(t, float64(p[2][i])-a*float64(p[3][i]))
	}
	return s, t
}

// perChannel returns the m values that c adds to, or multiplies, the channels
// [N, m, …] of a value of that rank with, nil where it does something else.
func perChannel(c *Tensor, m, rank int) []float64 {
	if c.DType != graph.Float32 || len(c.Shape) > rank {
		return nil
	}
	for i, d := range c.Shape {
		if axis := rank - len(c.Shape) + i; d != 1 && (axis != 1 || d != m) {
			return nil
		}
	}
	out := make([]float64, m)
	for i := range out {
		out[i] = float64(c.F32()[i%c.Len()])
	}
	return out
}

// convEnd: Relu or Clip of Add(Conv, v), and Relu or Clip of Conv. The sum is
// rounded once more than the convolution, as that of the nodes is, and limits
// do not round: the bits are those of the nodes one by one.
func (f *fuser) convEnd(x *lnode) bool {
	lo, hi, ok := x.limits()
	if !ok {
		return false
	}
	if conv := f.conv(x.in[0]); conv != nil {
		return x.fuseConv(conv, nil, nil, lo, hi)
	}
	add := f.only(x.in[0], "Add")
	if add == nil {
		return false
	}
	return f.convAdd(x, add, lo, hi)
}

// convSum: Add(Conv, v).
func (f *fuser) convSum(x *lnode) bool {
	return x.op == "Add" && f.convAdd(x, x, simd.Unlimited.Lo, simd.Unlimited.Hi)
}

// convAdd makes x, which is add or limits it, a convolution that one of the
// operands is.
func (f *fuser) convAdd(x, add *lnode, lo, hi float32) bool {
	for i, v := range add.in {
		if conv := f.conv(v); conv != nil {
			return x.fuseConv(conv, add, add.in[1-i], lo, hi)
		}
	}
	return false
}

// limits returns the bounds of a Relu, or of a Clip whose bounds are constant
// numbers.
func (x *lnode) limits() (lo, hi float32, ok bool) {
	lo, hi = simd.Unlimited.Lo, simd.Unlimited.Hi
	switch {
	case x.op == "Relu":
		return 0, hi, true
	case x.op != "Clip":
		return 0, 0, false
	case x.opset < 11:
		lo, hi = x.float("min", lo), x.float("max", hi)
	}
	for i, at := range []*float32{1: &lo, 2: &hi} {
		if i >= 1 && i < len(x.in) && x.in[i] != nil {
			c := x.in[i].konst
			if c == nil || c.DType != graph.Float32 || c.Len() != 1 {
				return 0, 0, false
			}
			*at = c.F32()[0]
		}
	}
	return lo, hi, lo == lo && hi == hi
}

// fuseConv makes x the convolution conv with a sum (add and other, or nil) and
// limits.
func (x *lnode) fuseConv(conv, add *lnode, other *lvalue, lo, hi float32) bool {
	conv.known()
	v, err := newConvolution(&conv.node)
	if err != nil || conv.err != nil {
		return false
	}
	kind, inputs := "Conv", []*lvalue{conv.in[0]}
	plain := *v
	v.lo, v.hi = lo, hi
	if add != nil {
		k, err := add.ready()
		if err != nil {
			return false
		}
		kind, inputs = "Conv+Add", append(inputs, other)
		v.add = true
		v.links = []link{{k: byType{graph.Float32: plain.run}.kernel(0), in: []int{0}}, {k: k, in: []int{result(0), 1}}}
	}
	if x != add {
		kind += "+" + x.op
		if add != nil {
			limits := func(z, x []float32) {
				v.k.MaxScalar(z, x, lo)
				v.k.MinScalar(z, z, hi)
			}
			v.links = append(v.links, link{k: byType{graph.Float32: unary(limits, elementGrain)}.kernel(0), in: []int{result(1)}})
		}
	}
	x.replace(kind, byType{graph.Float32: v.run}.kernel(0), inputs...)
	return true
}
