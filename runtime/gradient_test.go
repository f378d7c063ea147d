package runtime

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// computed makes the operands of an attention, which is fused where they are no
// constants.
const computed = `q = Neg (ql)
		k = Neg (kl)
		v = Neg (vl)
		`

// causalMask is a mask of n queries for n keys.
func causalMask(n int) string {
	var rows []string
	for i := range n * n {
		v := "0"
		if i%n > i/n {
			v = "-1000000"
		}
		rows = append(rows, v)
	}
	return fmt.Sprintf("T[%d,%d] mask = {%s}", n, n, strings.Join(rows, ", "))
}

// gradientCases are small graphs of y; every input is differentiated. The
// values are uniform in [low, high), in [-2, 2) where both are zero.
var gradientCases = []struct {
	name, inputs, consts, body string
	low, high                  float64
	reference                  string // body of the float64 form, where it needs another
	fused                      string // what the compiled graph must have a node of
}{
	{name: "Add, both broadcast", inputs: "T[2,1,3] a, T[4,1] b", body: `y = Add (a, b)`},
	{name: "Sub from a scalar", inputs: "T a, T[2,3] b", body: `y = Sub (a, b)`},
	{name: "Mul by a row", inputs: "T[2,5,3] a, T[3] b", body: `y = Mul (a, b)`},
	{name: "a value used twice", inputs: "T[2,3] a", body: `b = Mul (a, a)
		y = Add (b, a)`},
	{name: "Div", inputs: "T[2,3] a, T[2,1] b", low: 0.5, high: 2, body: `y = Div (a, b)`},
	{name: "Pow 2", inputs: "T[2,3] a", consts: "T e = {2}", body: `y = Pow (a, e)`},
	{name: "Pow 3, int", inputs: "T[2,3] a", consts: "int64 e = {3}", body: `y = Pow (a, e)`},
	{name: "Pow of both", inputs: "T[2,3] a, T[3] b", low: 0.5, high: 2, body: `y = Pow (a, b)`},
	{name: "Sum and Mean", inputs: "T[2,3] a, T[3] b, T[1] c", body: `s = Sum (a, b, c)
		m = Mean (c, a, b)
		y = Mul (s, m)`},
	{name: "Max and Min", inputs: "T[2,3] a, T[3] b, T[1] c", body: `s = Max (a, b, c)
		m = Min (s, b)
		y = Add (s, m)`},
	{name: "Where", inputs: "T[2,3] a, T[3] b", consts: "bool[2,3] c = {1, 0, 1, 1, 0, 0}", body: `y = Where (c, a, b)`},
	{name: "Where with a computed condition", inputs: "T[2,3] a, T[3] b", body: `c = Less (a, b)
		y = Where (c, a, b)`},
	{name: "PRelu", inputs: "T[2,3] a, T[3] b", body: `y = PRelu (a, b)`},
	{name: "Clip", inputs: "T[3,5] a", consts: "T lo = {-1}, T hi = {0.75}", body: `y = Clip (a, lo, hi)`},
	{name: "Cast and Identity and Dropout", inputs: "T[2,3] a", body: `b = Cast <to = 1> (a)
		c = Identity (b)
		d = Dropout (c)
		y = Mul (d, a)`, reference: `y = Mul (a, a)`},

	{name: "Einsum, scores of heads", inputs: "T[2,3,4,5] a, T[2,3,6,5] b", body: `y = Einsum <equation = "bhqd,bhkd->bhqk"> (a, b)`},
	{name: "Einsum, three operands", inputs: "T[2,3] a, T[3,4] b, T[4] c", body: `y = Einsum <equation = "ij,jk,k->ki"> (a, b, c)`},
	{name: "Einsum, sum over an operand's own label", inputs: "T[2,3] a, T[2,5] b", body: `y = Einsum <equation = "ij,ik->k"> (a, b)`},
	{name: "Einsum, ellipsis and repeated dims", inputs: "T[1,3,4] a, T[2,1,4,2] b", body: `y = Einsum <equation = "...ij,...jk->...ik"> (a, b)`, reference: `y = MatMul (a, b)`},
	{name: "Einsum of one operand", inputs: "T[2,3,4] a", body: `b = Einsum <equation = "abc->ca"> (a)
		y = Mul (b, b)`},

	{name: "Neg", inputs: "T[5] a", body: `y = Neg (a)`},
	{name: "Abs", inputs: "T[5] a", body: `y = Abs (a)`},
	{name: "Relu", inputs: "T[5] a", body: `y = Relu (a)`},
	{name: "Exp", inputs: "T[5] a", body: `y = Exp (a)`},
	{name: "Erf", inputs: "T[5] a", body: `y = Erf (a)`},
	{name: "Gelu", inputs: "T[1500] a", body: `y = Gelu (a)`},
	{name: "Gelu, tanh", inputs: "T[1500] a", body: `y = Gelu <approximate = "tanh"> (a)`},
	{name: "Tanh", inputs: "T[5] a", body: `y = Tanh (a)`},
	{name: "Sigmoid", inputs: "T[5] a", body: `y = Sigmoid (a)`},
	{name: "Log, Sqrt, Reciprocal", inputs: "T[5] a", low: 0.5, high: 3, body: `l = Log (a)
		s = Sqrt (a)
		r = Reciprocal (a)
		y = Sum (l, s, r)`},
	{name: "trigonometry", inputs: "T[7] a", low: -0.9, high: 0.9, body: `b = Sin (a)
		c = Cos (a)
		d = Tan (a)
		e = Asin (a)
		f = Acos (a)
		g = Atan (a)
		h = Sinh (a)
		i = Cosh (a)
		j = Asinh (a)
		k = Atanh (a)
		y = Sum (b, c, d, e, f, g, h, i, j, k)`},
	{name: "Acosh", inputs: "T[7] a", low: 1.5, high: 3, body: `y = Acosh (a)`},
	{name: "units", inputs: "T[40] a", body: `b = Celu <alpha = 0.7> (a)
		c = Elu <alpha = 0.5> (a)
		d = Selu (a)
		e = HardSigmoid <alpha = 0.4> (a)
		f = HardSwish (a)
		g = LeakyRelu (a)
		h = Mish (a)
		i = Softplus (a)
		j = Softsign (a)
		k = ThresholdedRelu <alpha = 0.3> (a)
		y = Sum (b, c, d, e, f, g, h, i, j, k)`},

	{name: "MatMul", inputs: "T[2,5,3] a, T[3,4] b", body: `y = MatMul (a, b)`},
	{name: "MatMul of stacks", inputs: "T[2,3,5,3] a, T[2,3,3,4] b", body: `y = MatMul (a, b)`},
	{name: "MatMul of broadcast stacks", inputs: "T[2,1,5,3] a, T[3,3,4] b", body: `y = MatMul (a, b)`},
	{name: "MatMul of vectors", inputs: "T[3] a, T[3,4] b, T[4] c", body: `p = MatMul (a, b)
		y = MatMul (p, c)`},
	{name: "MatMul by a computed matrix", inputs: "T[2,5,3] a, T[4,3] b", body: `w = Transpose (b)
		y = MatMul (a, w)`},
	{name: "MatMul by itself", inputs: "T[3,3] a", body: `y = MatMul (a, a)`},
	{name: "Gemm", inputs: "T[5,3] a, T[3,4] b, T[4] c", body: `y = Gemm (a, b, c)`},
	{name: "Gemm, transB, scaled", inputs: "T[5,3] a, T[4,3] b, T[5,1] c", body: `y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (a, b, c)`},
	{name: "Gemm, transA", inputs: "T[3,5] a, T[3,4] b", body: `y = Gemm <transA = 1> (a, b)`},
	{name: "Gemm, transA and transB, computed B", inputs: "T[3,5] a, T[4,3] b, T c", body: `w = Neg (b)
		y = Gemm <transA = 1, transB = 1> (a, w, c)`},

	{name: "Softmax", inputs: "T[2,3,5] a", body: `y = Softmax (a)`},
	{name: "Softmax over another axis", inputs: "T[2,3,5] a", body: `y = Softmax <axis = 1> (a)`},
	{name: "LogSoftmax", inputs: "T[2,3,5] a", body: `y = LogSoftmax <axis = -1> (a)`},
	{name: "LogSoftmax over another axis", inputs: "T[2,3,5] a", body: `y = LogSoftmax <axis = 0> (a)`},
	{name: "LayerNormalization", inputs: "T[2,3,5] a, T[5] b, T[5] c", body: `y = LayerNormalization (a, b, c)`},
	{name: "LayerNormalization over two axes", inputs: "T[2,3,5] a, T[3,5] b", body: `y = LayerNormalization <axis = 1, epsilon = 0.1> (a, b)`},
	{name: "RMSNormalization", inputs: "T[2,3,5] a, T[5] b", body: `y = RMSNormalization (a, b)`},
	{name: "BatchNormalization", inputs: "T[2,3,5] a, T[3] b, T[3] c", consts: "T[3] mean = {0.5, -1, 0}, T[3] variance = {0.5, 1, 2}",
		body: `y = BatchNormalization (a, b, c, mean, variance)`},
	{name: "decomposed layer norm", inputs: "T[2,3,5] x, T[5] gamma, T[5] beta", consts: "T two = {2}, T eps = {0.00001}", body: `m = ReduceMean <axes = [-1]> (x)
		d = Sub (x, m)
		q = Pow (d, two)
		v = ReduceMean <axes = [-1]> (q)
		e = Add (v, eps)
		s = Sqrt (e)
		n = Div (d, s)
		g = Mul (n, gamma)
		y = Add (g, beta)`},
	{name: "decomposed gelu", inputs: "T[2,3,5] x", consts: "T half = {0.5}, T root2 = {1.41421356237}, T one = {1}", body: `d = Div (x, root2)
		e = Erf (d)
		a = Add (e, one)
		p = Mul (x, a)
		y = Mul (p, half)`},
	{name: "decomposed silu", inputs: "T[2,3,5] x", body: `s = Sigmoid (x)
		y = Mul (x, s)`},

	{name: "masked scores", inputs: "T[2,3,5] a", consts: "T root = {1.7}, T[3,5] mask = {0, -9, 0, 0, -9, 0, 0, -9, 0, 0, -9, 0, 0, 0, 0}", body: `d = Div (a, root)
		e = Add (mask, d)
		y = Softmax (e)`},
	{name: "attention", inputs: "T[2,3,5,4] ql, T[2,3,4,6] kl, T[2,3,6,7] vl", consts: "T root = {1.7}, T[5,6] mask = {0, -9, 0, 0, -9, 0, 0, -9, 0, 0, -9, 0, 0, 0, 0, 0, -3, 0, 1, 0, 0, -1, 0, 0, 0, 0, 2, 0, 0, 0}", body: computed + `a = MatMul (q, k)
		b = Div (a, root)
		c = Add (b, mask)
		d = Softmax (c)
		y = MatMul (d, v)`, fused: "Attention"},
	{name: "attention, plain, of two heads that share keys", inputs: "T[2,5,4] ql, T[1,4,6] kl, T[6,1] vl", body: computed + `a = MatMul (q, k)
		d = Softmax (a)
		y = MatMul (d, v)`, fused: "Attention"},
	{name: "attention, transposed, causal", inputs: "T[2,40,3,4] ql, T[2,40,3,4] kl, T[2,40,3,5] vl",
		consts: "T half = {0.5}, " + causalMask(40), body: computed + `qt = Transpose <perm = [0, 2, 1, 3]> (q)
		kt = Transpose <perm = [0, 2, 3, 1]> (k)
		vt = Transpose <perm = [0, 2, 1, 3]> (v)
		a = MatMul (qt, kt)
		b = Mul (a, half)
		c = Add (mask, b)
		d = Softmax (c)
		e = MatMul (d, vt)
		y = Transpose <perm = [0, 2, 1, 3]> (e)`, fused: "Attention"},
	{name: "attention of five dims, transposed", inputs: "T[2,1,4,3,2] ql, T[3,2,5] kl, T[5,1] vl", consts: "T half = {0.5}, T[2,1,1,5] mask = {0, 1, -9, 0, 2, 0, -9, -2, 1, 0}", body: computed + `qt = Transpose <perm = [1, 0, 3, 2, 4]> (q)
		a = MatMul (qt, k)
		b = Mul (a, half)
		c = Add (b, mask)
		d = Softmax (c)
		e = MatMul (d, v)
		y = Transpose <perm = [1, 0, 4, 3, 2]> (e)`, fused: "Attention"},
	{name: "attention of itself", inputs: "T[6,3] a", body: `x = Neg (a)
		t = Transpose (x)
		b = MatMul (x, t)
		d = Softmax (b)
		y = MatMul (d, x)`, fused: "Attention"},
	{name: "scores with a learnt bias", inputs: "T[2,3,5] a, T[3,1] b", consts: "T half = {0.5}", body: `d = Mul (half, a)
		e = Add (d, b)
		f = Mul (e, e)
		g = Add (f, b)
		y = Softmax (g)`},
	{name: "scores of fewer dims than their bias", inputs: "T[3,5] a, T[2,3,5] b", body: `e = Add (a, b)
		y = Softmax (e)`},
	{name: "rotation of pairs", inputs: "T[3,2,2,2] a", consts: "T[2,2] c = {0.9, 0.2, -0.4, 0.7}, T[2,2] s = {0.3, -0.8, 0.6, 0.5}, int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}", body: `u = Gather <axis = -1> (a, zero)
		v = Gather <axis = -1> (a, one)
		uc = Mul (u, c)
		vs = Mul (v, s)
		us = Mul (u, s)
		vc = Mul (v, c)
		p = Sub (uc, vs)
		q = Add (us, vc)
		ps = Unsqueeze (p, last)
		qs = Unsqueeze (q, last)
		y = Concat <axis = -1> (ps, qs)`},
	{name: "rotation of halves", inputs: "T[3,2,4] a", consts: "T[2,4] c = {0.9, 0.2, -0.4, 0.7, 0.1, 0.5, -0.6, 0.8}, T[2,4] s = {0.3, -0.8, 0.6, 0.5, -0.2, 0.4, 0.9, -0.7}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] end = {9}, int64[1] last = {-1}", body: `u = Slice (a, zero, two, last)
		v = Slice (a, two, end, last)
		n = Neg (v)
		t = Concat <axis = -1> (n, u)
		ac = Mul (a, c)
		ts = Mul (t, s)
		y = Add (ac, ts)`},
	{name: "rotation by learnt tables", inputs: "T[3,2,4] a, T[2,4] c, T[2,4] s", consts: "int64[1] zero = {0}, int64[1] two = {2}, int64[1] end = {9}, int64[1] last = {-1}", body: `u = Slice (a, zero, two, last)
		v = Slice (a, two, end, last)
		n = Neg (v)
		t = Concat <axis = -1> (n, u)
		ac = Mul (a, c)
		ts = Mul (t, s)
		y = Add (ac, ts)`},

	{name: "ReduceSum", inputs: "T[2,3,5] a", consts: "int64[1] axes = {1}", body: `y = ReduceSum (a, axes)`},
	{name: "ReduceMean, not kept", inputs: "T[2,3,5] a", body: `y = ReduceMean <axes = [0, 2], keepdims = 0> (a)`},
	{name: "ReduceMean of all", inputs: "T[2,3,5] a", body: `y = ReduceMean <keepdims = 0> (a)`},
	{name: "other reductions", inputs: "T[2,3,5] a", body: `b = ReduceMax <axes = [1]> (a)
		c = ReduceMin <axes = [1]> (a)
		d = ReduceL1 <axes = [1]> (a)
		e = ReduceL2 <axes = [1]> (a)
		f = ReduceSumSquare <axes = [1]> (a)
		g = ReduceLogSumExp <axes = [1]> (a)
		y = Sum (b, c, d, e, f, g)`},
	{name: "ReduceLogSum", inputs: "T[2,3,5] a", low: 0.1, high: 2, body: `y = ReduceLogSum <axes = [1]> (a)`},

	{name: "Reshape, Flatten, Squeeze, Unsqueeze", inputs: "T[2,3,4] a", consts: "int64[3] s = {0, -1, 1}, int64[1] two = {2}, int64[1] zero = {0}", body: `b = Reshape (a, s)
		c = Squeeze (b, two)
		d = Unsqueeze (c, zero)
		e = Mul (d, d)
		y = Flatten <axis = 2> (e)`},
	{name: "Transpose", inputs: "T[2,3,4] a, T[4,2,3] b", body: `c = Transpose <perm = [2, 0, 1]> (a)
		y = Mul (c, b)`},
	{name: "Concat", inputs: "T[2,3] a, T[2,2] b", body: `c = Concat <axis = 1> (a, b, a)
		y = Mul (c, c)`},
	{name: "Split, one part unused", inputs: "T[2,6] a", consts: "int64[3] s = {1, 2, 3}", body: `b, c, d = Split <axis = 1> (a, s)
		y = Mul (d, b)`},
	{name: "Slice", inputs: "T[4,6] a", consts: "int64[2] from = {3, 1}, int64[2] to = {-9, 6}, int64[2] axes = {0, 1}, int64[2] steps = {-1, 2}", body: `b = Slice (a, from, to, axes, steps)
		y = Mul (b, b)`},
	{name: "Gather of rows, one twice", inputs: "T[4,3] a", consts: "int64[2,2] i = {1, 3, -3, 0}", body: `b = Gather (a, i)
		y = Mul (b, b)`},
	{name: "Gather of a computed value", inputs: "T[2,4,3] a", consts: "int64 i = {2}", body: `b = Neg (a)
		y = Gather <axis = 1> (b, i)`},
	{name: "Expand", inputs: "T[2,1,3] a", consts: "int64[4] s = {2, 1, 4, 3}", body: `b = Expand (a, s)
		y = Mul (b, b)`},
	{name: "Tile and Pad", inputs: "T[2,3] a", consts: "int64[2] r = {2, 2}, int64[4] p = {1, 0, 0, 2}, T v = {3}", body: `b = Tile (a, r)
		c = Pad (b, p, v)
		y = Mul (c, c)`},
	{name: "shapes move nothing", inputs: "T[2,3] a", body: `s = Shape (a)
		f = Cast <to = TYPE> (s)
		r = Sqrt (f)
		i = ReduceMax <keepdims = 0> (r)
		y = Mul (a, i)`},

	{name: "Conv", inputs: "T[2,3,5,6] a, T[4,3,3,2] b, T[4] c", body: `y = Conv <pads = [1, 0, 1, 1], strides = [2, 1]> (a, b, c)`},
	{name: "Conv in groups, dilated", inputs: "T[2,4,9] a, T[6,2,3] b", body: `y = Conv <group = 2, dilations = [2], auto_pad = "SAME_UPPER"> (a, b)`},
	{name: "Conv, stride 2 with odd sizes", inputs: "T[2,2,7,6] a, T[3,2,3,3] b", body: `y = Conv <pads = [1, 2, 0, 1], strides = [2, 2]> (a, b)`},
	{name: "Conv, stride 3 beyond the window", inputs: "T[1,2,8,7] a, T[4,2,1,2] b", body: `y = Conv <strides = [3, 3]> (a, b)`},
	{name: "Conv, stride and dilation", inputs: "T[1,2,9,11] a, T[4,2,2,3] b", body: `y = Conv <strides = [2, 3], dilations = [3, 2], pads = [1, 1, 2, 2]> (a, b)`},
	{name: "Conv of many channels", inputs: "T[2,9,4,3] a, T[5,9,2,3] b, T[5] c", body: `y = Conv <auto_pad = "SAME_LOWER"> (a, b, c)`},
	{name: "Conv, 1×1", inputs: "T[2,9,3,4] a, T[5,9,1,1] b", body: `y = Conv (a, b)`},
	{name: "Conv of each channel", inputs: "T[2,3,5,6] a, T[6,1,3,3] b", body: `y = Conv <group = 3, pads = [1, 1, 1, 1], strides = [1, 2]> (a, b)`},
	{name: "Conv in three dims", inputs: "T[1,2,3,4,3] a, T[4,2,2,3,2] b", body: `y = Conv <pads = [0, 1, 1, 1, 1, 0], strides = [1, 2, 1]> (a, b)`},
	{name: "Conv with more padding than window", inputs: "T[1,2,4,5] a, T[4,2,2,2] b", body: `y = Conv <pads = [2, 0, 3, 1]> (a, b)`},
	{name: "Conv with computed weights", inputs: "T[2,3,4,5] a, T[4,3,3,2] b", body: `w = Mul (b, b)
		y = Conv <pads = [1, 0, 1, 1]> (a, w)`},
	{name: "MaxPool of four", inputs: "T[2,3,5,6] a", body: `y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)`},
	{name: "MaxPool", inputs: "T[2,3,5,6] a", body: `y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]> (a)`},
	{name: "AveragePool", inputs: "T[2,3,5,6] a", body: `b = AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]> (a)
		c = AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0], count_include_pad = 1> (a)
		y = Add (b, c)`},
	{name: "global pools", inputs: "T[2,3,5,6] a", body: `b = GlobalAveragePool (a)
		c = GlobalMaxPool (a)
		y = Add (b, c)`},

	{name: "BlockCirculantMatMul", inputs: "T[2,5,8] a, T[2,2,4] w, T[8] b", body: `y = lathe.BlockCirculantMatMul <out_features = 8> (a, w, b)`,
		reference: circulantReference(8, 8, 2, 4)},
	{name: "BlockCirculantMatMul, padded", inputs: "T[2,5,7] a, T[2,2,4] w, T[6] b", body: `y = lathe.BlockCirculantMatMul <out_features = 6> (a, w, b)`,
		reference: circulantReference(6, 7, 2, 4)},
	{name: "BlockCirculantMatMul, odd block, many tokens", inputs: "T[37,10] a, T[3,2,5] w, T[13] b", body: `y = lathe.BlockCirculantMatMul <out_features = 13> (a, w, b)`,
		reference: circulantReference(13, 10, 2, 5)},

	{name: "BlockCirculantConv", inputs: "T[2,8,5,4] a, T[2,2,4,3,2] w, T[8] b", body: `y = lathe.BlockCirculantConv <out_channels = 8, pads = [1, 0, 1, 1]> (a, w, b)`,
		reference: circulantConvReference(8, 8, 2, 4, 1, 3, 2, "pads = [1, 0, 1, 1]")},
	{name: "BlockCirculantConv, padded, strided", inputs: "T[2,7,9] a, T[2,2,4,3] w, T[6] b", body: `y = lathe.BlockCirculantConv <out_channels = 6, strides = [2], dilations = [2], auto_pad = "SAME_UPPER"> (a, w, b)`,
		reference: circulantConvReference(6, 7, 2, 4, 1, 3, 1, `strides = [2], dilations = [2], auto_pad = "SAME_UPPER"`)},
	{name: "BlockCirculantConv, odd block", inputs: "T[1,10,17] a, T[3,2,5,2] w, T[13] b", body: `y = lathe.BlockCirculantConv <out_channels = 13> (a, w, b)`,
		reference: circulantConvReference(13, 10, 2, 5, 1, 2, 1, "")},
	{name: "BlockCirculantConv in groups, without a bias", inputs: "T[2,8,6] a, T[4,1,4,3] w", body: `y = lathe.BlockCirculantConv <out_channels = 16, group = 2> (a, w)`,
		reference: strings.Replace(circulantConvReference(16, 4, 1, 4, 2, 3, 1, "group = 2"), ", b)", ")", 1)},
	{name: "BlockCirculantConv in groups, padded", inputs: "T[2,6,5,4] a, T[4,1,4,3,2] w, T[10] b", body: `y = lathe.BlockCirculantConv <out_channels = 10, group = 2, pads = [1, 0, 1, 1]> (a, w, b)`,
		reference: circulantConvReference(10, 3, 1, 4, 2, 3, 2, "group = 2, pads = [1, 0, 1, 1]")},
	{name: "two BlockCirculantConv with one W", inputs: "T[2,8,6] a, T[2,2,4,3] w, T[8] b", body: `h = lathe.BlockCirculantConv <out_channels = 8, pads = [1, 1]> (a, w, b)
		t = Tanh (h)
		y = lathe.BlockCirculantConv <out_channels = 8> (t, w, b)`,
		reference: strings.Replace(circulantConvReference(8, 8, 2, 4, 1, 3, 1, "pads = [1, 1]"), "y = Conv", "h = Conv", 1) + `
		t = Tanh (h)
		y = Conv (t, d, b)`},
}

// circulantConvReference writes a Conv with W [m, n, taps…] made from its blocks;
// the kernel is rows×cols, or rows alone for cols = 1, q blocks and n channels a
// group.
func circulantConvReference(m, n, q, b, group, rows, cols int, attrs string) string {
	var places []string
	taps, per := rows*cols, m/group
	for r := range m {
		for k := range n {
			i, j := r/per*((per+b-1)/b)+r%per/b, k/b
			for t := range taps {
				places = append(places, fmt.Sprint(((i*q+j)*b+((r%per-k%b)%b+b)%b)*taps+t))
			}
		}
	}
	dims := fmt.Sprintf("%d, %d, %d", m, n, rows)
	if cols > 1 {
		dims += fmt.Sprintf(", %d", cols)
	}
	return fmt.Sprintf(`s = Constant <value = int64[1] {-1}> ()
		f = Reshape (w, s)
		i = Constant <value = int64[%s] {%s}> ()
		d = Gather (f, i)
		y = Conv <%s> (a, d, b)`, dims, strings.Join(places, ", "), attrs)
}

// circulantReference writes a·Wᵀ + b with W [m, n] made from its blocks.
func circulantReference(m, n, q, b int) string {
	var places []string
	for k := range n {
		for r := range m {
			i, j := r/b, k/b
			places = append(places, fmt.Sprint((i*q+j)*b+((r-k)%b+b)%b))
		}
	}
	return fmt.Sprintf(`s = Constant <value = int64[1] {-1}> ()
		f = Reshape (w, s)
		i = Constant <value = int64[%d, %d] {%s}> ()
		d = Gather (f, i)
		p = MatMul (a, d)
		y = Add (p, b)`, n, m, strings.Join(places, ", "))
}

// model64 is the float32 (bits = 32) or float64 form of a case.
func gradientModel(t *testing.T, c int, bits int) *graph.Model {
	t.Helper()
	k := gradientCases[c]
	consts, body := k.consts, k.body
	if consts != "" {
		consts = "<" + consts + ">"
	}
	elem, number := "float", "1"
	if bits == 64 {
		elem, number = "double", "11"
		if k.reference != "" {
			body = k.reference
		}
	}
	opset := 17
	if strings.Contains(body, "Gelu") || strings.Contains(body, "Mish") || strings.Contains(body, "RMSNormalization") {
		opset = 23
	}
	text := fmt.Sprintf("<ir_version: 8, opset_import: [\"\" : %d, \"lathe\" : 1]>\ng (%s) => (T y)\n%s\n{\n%s\n}", opset, k.inputs, consts, strings.ReplaceAll(body, "TYPE", number))
	text = strings.NewReplacer("T[", elem+"[", "T ", elem+" ").Replace(text)
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return m
}

// toParameter makes an input an initializer.
func toParameter(m *graph.Model, name string, dims []int64, x []float32) {
	v := m.Graph.Value(name)
	w := m.Graph.AddInitializer(m.Graph.FreshName(name), graph.Float32Tensor(dims, x))
	v.ReplaceUses(w)
	m.Graph.RemoveInput(v)
	w.Rename(name)
}

// TestGradients compares every gradient with central differences of the same
// graph in float64.
func TestGradients(t *testing.T) {
	for i, c := range gradientCases {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			low, high := c.low, c.high
			if low == high {
				low, high = -2, 2
			}
			m := gradientModel(t, i, 32)
			ports, err := Ports(m)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			values := map[string][]float32{}
			for _, p := range ports {
				dims, ok := m.Graph.Value(p.Name).Declared.StaticDims()
				if !ok {
					t.Fatalf("%v", p)
				}
				n, _ := graph.NumElements(dims)
				x := make([]float32, n)
				for j := range x {
					x[j] = float32(low + (high-low)*rng.Float64())
				}
				values[p.Name] = x
				names = append(names, p.Name)
				toParameter(m, p.Name, dims, x)
			}
			tr, err := CompileTraining(m, TrainingOptions{Parameters: names, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			if c.fused != "" && !slices.ContainsFunc(tr.prog.main.steps, func(s step) bool { return s.kind == c.fused }) {
				t.Fatalf("no node is a fused %s", c.fused)
			}
			for _, s := range tr.sessions {
				s.pool.dirty = true
			}
			var weights []float32
			got := map[string][]float32{}
			for range 2 { // the second finds what the first left
				err = tr.Gradients(t.Context(), 1, func(int) (map[string]tensor.Tensor, error) { return nil, nil }, func(_ int, y, g []*Tensor) error {
					if weights == nil {
						for range y[0].Len() {
							weights = append(weights, float32(rng.Float64()*2-1))
						}
					}
					copy(g[0].F32(), weights)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range tr.Parameters() {
					if was := got[p.Name]; was != nil && !slices.Equal(was, p.Gradient) {
						t.Errorf("%s: gradient %v, the first time %v", p.Name, p.Gradient, was)
					}
					got[p.Name] = slices.Clone(p.Gradient)
				}
			}
			for _, s := range tr.sessions {
				if s.live() != 0 {
					t.Errorf("%d bytes are still lent", s.live())
				}
			}
			prog, err := Compile(gradientModel(t, i, 64), Options{})
			if err != nil {
				t.Fatal(err)
			}
			s := prog.NewSession(SessionOptions{Threads: 1})
			wide := map[string][]float64{}
			feeds := map[string]tensor.Tensor{}
			for _, p := range tr.Parameters() {
				for _, v := range values[p.Name] {
					wide[p.Name] = append(wide[p.Name], float64(v))
				}
				feeds[p.Name] = dense(p.Shape, wide[p.Name])
				if len(p.Shape) == 0 {
					feeds[p.Name] = tensor.New(tensor.FromScalar(wide[p.Name][0]))
				}
			}
			loss := func() float64 {
				for _, p := range tr.Parameters() {
					if len(p.Shape) == 0 {
						feeds[p.Name] = tensor.New(tensor.FromScalar(wide[p.Name][0]))
					}
				}
				out, err := s.Run(t.Context(), feeds)
				if err != nil {
					t.Fatal(err)
				}
				y, err := FromDense(out["y"])
				if err != nil {
					t.Fatal(err)
				}
				sum := 0.0
				for j, v := range y.F64() {
					sum += v * float64(weights[j])
				}
				return sum
			}
			for _, p := range tr.Parameters() {
				largest := 1.0
				for _, v := range p.Gradient {
					largest = math.Max(largest, math.Abs(float64(v)))
				}
				step := max(1, len(p.Value)/60) // enough to see a fault
				for j := 0; j < len(p.Value); j += step {
					const h = 1e-5
					was := wide[p.Name][j]
					wide[p.Name][j] = was + h
					above := loss()
					wide[p.Name][j] = was - h
					below := loss()
					wide[p.Name][j] = was
					want := (above - below) / (2 * h)
					// A hundred float32 roundings of numbers up to the largest.
					if d := math.Abs(float64(p.Gradient[j]) - want); !(d <= 100*0x1p-24*largest+1e-8) {
						t.Errorf("%s[%d]: gradient %v, differences give %v", p.Name, j, p.Gradient[j], want)
					}
				}
			}
		})
	}
}

// TestGradientsNameWhatIsMissing: every operator without a gradient at once.
func TestGradientsNameWhatIsMissing(t *testing.T) {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x) => (float[2,3] y)
<float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 one = {1}>
{
  a = MatMul (x, w)
  b = CumSum (a, one)
  c = Shrink (b)
  d = Transpose (c)
  y = Neg (d)
}`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = CompileTraining(m, TrainingOptions{Parameters: []string{"w"}})
	if err == nil || !strings.Contains(err.Error(), "CumSum") || !strings.Contains(err.Error(), "Shrink") {
		t.Errorf("error is %v", err)
	}
}

// TestGradientsOnThreads: the number of threads does not show, and a batch is
// a sum over its samples.
func TestGradientsOnThreads(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
g (float[b,3] x) => (float[b,2] y)
<float[3,4] w = {1, 2, -3, 4, 0.5, 6, -7, 0.8, 9, 1, 2, 3}, float[4] c = {1, 0, -1, 2}, float[4,2] u = {1, -1, 2, 0.5, 0.25, 1, -2, 1}>
{
  a = MatMul (x, w)
  d = Add (a, c)
  e = Tanh (d)
  y = MatMul (e, u)
}`
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	gradients := func(threads, n, size int) [][]float32 {
		tr, err := CompileTraining(m, TrainingOptions{Parameters: []string{"w", "c", "u"}, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		err = tr.Gradients(t.Context(), n, func(i int) (map[string]tensor.Tensor, error) {
			x := make([]float32, 3*size)
			for j := range x {
				x[j] = float32(math.Sin(float64(3*size*i + j)))
			}
			return map[string]tensor.Tensor{"x": dense([]int{size, 3}, x)}, nil
		}, func(_ int, y, g []*Tensor) error {
			copy(g[0].F32(), y[0].F32()) // ½‖y‖²
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var out [][]float32
		for _, p := range tr.Parameters() {
			out = append(out, slices.Clone(p.Gradient))
		}
		return out
	}
	one, three, whole := gradients(1, 21, 1), gradients(3, 21, 1), gradients(2, 1, 21)
	for i := range one {
		if !slices.Equal(one[i], three[i]) {
			t.Errorf("gradient %d differs between 1 and 3 threads", i)
		}
		for j, v := range one[i] {
			if math.Abs(float64(v-whole[i][j])) > 1e-5*(1+math.Abs(float64(v))) {
				t.Errorf("gradient %d[%d] is %v sample by sample, %v in one batch", i, j, v, whole[i][j])
			}
		}
	}
}

// TestTrainingCancels: a cancelled context ends a step with its error.
func TestTrainingCancels(t *testing.T) {
	m := gradientModel(t, 0, 32)
	for _, name := range []string{"a", "b"} {
		v := m.Graph.Value(name)
		dims, _ := v.Declared.StaticDims()
		n, _ := graph.NumElements(dims)
		toParameter(m, name, dims, make([]float32, n))
	}
	tr, err := CompileTraining(m, TrainingOptions{Parameters: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = tr.Gradients(ctx, 3, func(int) (map[string]tensor.Tensor, error) { return nil, nil }, func(int, []*Tensor, []*Tensor) error { return nil })
	if err != context.Canceled {
		t.Errorf("error is %v", err)
	}
}
