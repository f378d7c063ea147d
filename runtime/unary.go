package runtime

import (
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// unaryOps compute element by element of one input.
var unaryOps = []operator{
	{"", "Abs", 6, prepareSigned, gradFunction, halves},
	{"", "Neg", 6, prepareSigned, gradFunction, halves},
	{"", "Sign", 9, prepareSigned, gradZero, halves},
	{"", "Relu", 6, prepareSigned, gradFunction, halves},
	{"", "Acos", 7, prepareFunction, gradFunction, halves},
	{"", "Acosh", 9, prepareFunction, gradFunction, halves},
	{"", "Asin", 7, prepareFunction, gradFunction, halves},
	{"", "Asinh", 9, prepareFunction, gradFunction, halves},
	{"", "Atan", 7, prepareFunction, gradFunction, halves},
	{"", "Atanh", 9, prepareFunction, gradFunction, halves},
	{"", "Ceil", 6, prepareFunction, gradZero, halves},
	{"", "Celu", 12, prepareFunction, gradFunction, halves},
	{"", "Cos", 7, prepareFunction, gradFunction, halves},
	{"", "Cosh", 9, prepareFunction, gradFunction, halves},
	{"", "Elu", 6, prepareFunction, gradFunction, halves},
	{"", "Erf", 9, prepareFunction, gradFunction, halves},
	{"", "Exp", 6, prepareFunction, gradFunction, halves},
	{"", "Floor", 6, prepareFunction, gradZero, halves},
	{"", "Gelu", 20, prepareFunction, gradFunction, halves},
	{"", "HardSigmoid", 6, prepareFunction, gradFunction, halves},
	{"", "HardSwish", 14, prepareFunction, gradFunction, halves},
	{"", "LeakyRelu", 6, prepareFunction, gradFunction, halves},
	{"", "Log", 6, prepareFunction, gradFunction, halves},
	{"", "Mish", 18, prepareFunction, gradFunction, halves},
	{"", "Reciprocal", 6, prepareFunction, gradFunction, halves},
	{"", "Round", 11, prepareFunction, gradZero, halves},
	{"", "Selu", 6, prepareFunction, gradFunction, halves},
	{"", "Shrink", 9, prepareShrink, nil, halves},
	{"", "Sigmoid", 6, prepareFunction, gradFunction, halves},
	{"", "Sin", 7, prepareFunction, gradFunction, halves},
	{"", "Sinh", 9, prepareFunction, gradFunction, halves},
	{"", "Softplus", 1, prepareFunction, gradFunction, halves},
	{"", "Softsign", 1, prepareFunction, gradFunction, halves},
	{"", "Sqrt", 6, prepareFunction, gradFunction, halves},
	{"", "Swish", 24, prepareFunction, gradFunction, halves},
	{"", "Tan", 7, prepareFunction, gradFunction, halves},
	{"", "Tanh", 6, prepareFunction, gradFunction, halves},
	{"", "ThresholdedRelu", 10, prepareFunction, gradFunction, halves},
	{"", "IsNaN", 9, prepareIsNaN, nil, halves},
	{"", "IsInf", 10, prepareIsInf, nil, halves},
	{"", "Not", 1, prepareNot, nil, 0},
	{"", "BitwiseNot", 18, prepareBitwiseNot, nil, 0},
	{"", "Clip", 6, prepareClip, gradClip, halves},
}

// unary is the kernel of an operator of one operand that keeps its shape.
func unary[T, Z element](f func(z []Z, x []T), grain int) kernel {
	body := func(c *call, lo, hi int) {
		f(view[Z](c.out[0])[lo:hi], view[T](c.in[0])[lo:hi])
	}
	d := dtypeOf[Z]()
	return func(c *call) error {
		if _, err := c.over(0, 0, d, c.in[0].Shape...); err != nil {
			return err
		}
		c.parallel(c.in[0].Len(), grain, body)
		return nil
	}
}

// elements makes a loop of a function of one element.
func elements[T, Z element](f func(x T) Z) func(z []Z, x []T) {
	return func(z []Z, x []T) {
		for i, v := range x {
			z[i] = f(v)
		}
	}
}

// functionGrain is elementGrain for functions of about ten nanoseconds.
const functionGrain = 1 << 11

// prepareFunction covers the functions of floating-point numbers: a vector
// kernel in float32 where there is one, else float64 rounded once.
func prepareFunction(n *node) (kernel, error) {
	f, err := function(n)
	if err != nil {
		return nil, err
	}
	k := n.simd
	f32 := map[string]func(z, x []float32){
		"Exp": k.Exp, "Erf": k.Erf, "Tanh": k.Tanh, "Sigmoid": k.Sigmoid, "Gelu": k.Gelu, "Gelutanh": k.GeluTanh,
		"Reciprocal": func(z, x []float32) { k.ScalarDiv(z, 1, x) },
		"Sqrt": func(z, x []float32) {
			for i, v := range x {
				z[i] = float32(math.Sqrt(float64(v)))
			}
		},
	}[n.op+n.str("approximate", "")]
	if n.op == "Swish" && n.float("alpha", 1) == 1 {
		f32 = k.Silu
	}
	if f32 == nil {
		f32 = elements(func(x float32) float32 { return float32(f(float64(x))) })
	}
	if n.op == "Gelu" && n.str("approximate", "none") == "none" {
		f32 = k.Gelu
	}
	return byType{
		graph.Float32: unary(f32, functionGrain),
		graph.Float64: unary(elements(f), functionGrain),
	}.kernel(0), n.inputs(1, 1)
}

// function returns the formula of an operator in float64, from its ONNX
// definition.
func function(n *node) (func(float64) float64, error) {
	alpha := func(def float32) float64 { return float64(n.float("alpha", def)) }
	switch n.op {
	case "Acos":
		return math.Acos, nil
	case "Acosh":
		return math.Acosh, nil
	case "Asin":
		return math.Asin, nil
	case "Asinh":
		return math.Asinh, nil
	case "Atan":
		return math.Atan, nil
	case "Atanh":
		return math.Atanh, nil
	case "Ceil":
		return math.Ceil, nil
	case "Celu":
		a := alpha(1)
		return func(x float64) float64 { return math.Max(0, x) + math.Min(0, a*math.Expm1(x/a)) }, nil
	case "Cos":
		return math.Cos, nil
	case "Cosh":
		return math.Cosh, nil
	case "Elu":
		return elu(alpha(1), 1), nil
	case "Selu":
		return elu(alpha(1.67326319217681884765625), float64(n.float("gamma", 1.05070102214813232421875))), nil
	case "Erf":
		return math.Erf, nil
	case "Exp":
		return math.Exp, nil
	case "Floor":
		return math.Floor, nil
	case "Gelu":
		if n.oneOf("approximate", "none", "none", "tanh") == "tanh" {
			return func(x float64) float64 {
				return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
			}, nil
		}
		return func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }, nil
	case "HardSigmoid":
		a, b := alpha(0.2), float64(n.float("beta", 0.5))
		return func(x float64) float64 { return math.Max(0, math.Min(1, a*x+b)) }, nil
	case "HardSwish":
		return func(x float64) float64 { return x * math.Max(0, math.Min(1, x/6+0.5)) }, nil
	case "LeakyRelu":
		a := alpha(0.01)
		return func(x float64) float64 {
			if x < 0 {
				return a * x
			}
			return x
		}, nil
	case "Log":
		return math.Log, nil
	case "Mish":
		return func(x float64) float64 { return x * math.Tanh(softplus(x)) }, nil
	case "Reciprocal":
		return func(x float64) float64 { return 1 / x }, nil
	case "Round":
		return math.RoundToEven, nil
	case "Sigmoid":
		return func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, nil
	case "Sin":
		return math.Sin, nil
	case "Sinh":
		return math.Sinh, nil
	case "Softplus":
		return softplus, nil
	case "Softsign":
		return func(x float64) float64 { return x / (1 + math.Abs(x)) }, nil
	case "Sqrt":
		return math.Sqrt, nil
	case "Swish":
		a := alpha(1)
		return func(x float64) float64 { return x / (1 + math.Exp(-a*x)) }, nil
	case "Tan":
		return math.Tan, nil
	case "Tanh":
		return math.Tanh, nil
	case "ThresholdedRelu":
		a := alpha(1)
		return func(x float64) float64 {
			if x > a || x != x {
				return x
			}
			return 0
		}, nil
	}
	return nil, fmt.Errorf("no function for it")
}

func elu(alpha, gamma float64) func(float64) float64 {
	return func(x float64) float64 {
		if x < 0 {
			return gamma * (alpha * math.Expm1(x))
		}
		return gamma * x
	}
}

// softplus is ln(1 + eˣ) without overflow.
func softplus(x float64) float64 {
	return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x)))
}

// prepareSigned covers what is defined on integers too.
func prepareSigned(n *node) (kernel, error) {
	f32 := signed[float32](n.op)
	if n.op == "Relu" {
		f32 = n.simd.Relu
	}
	table := byType{
		graph.Float32: unary(f32, elementGrain),
		graph.Float64: unary(signed[float64](n.op), elementGrain),
		graph.Int8:    unary(signed[int8](n.op), elementGrain),
		graph.Int16:   unary(signed[int16](n.op), elementGrain),
		graph.Int32:   unary(signed[int32](n.op), elementGrain),
		graph.Int64:   unary(signed[int64](n.op), elementGrain),
	}
	if n.op == "Abs" || n.op == "Sign" {
		table[graph.Uint8] = unary(signed[uint8](n.op), elementGrain)
		table[graph.Uint16] = unary(signed[uint16](n.op), elementGrain)
		table[graph.Uint32] = unary(signed[uint32](n.op), elementGrain)
		table[graph.Uint64] = unary(signed[uint64](n.op), elementGrain)
	}
	return table.kernel(0), n.inputs(1, 1)
}

// signed keeps NaN in all four.
func signed[T number](op string) func(z, x []T) {
	switch op {
	case "Abs":
		return elements(func(x T) T {
			if x < 0 {
				return -x
			}
			return x + 0 // −0 + 0 = 0
		})
	case "Neg":
		return elements(func(x T) T { return -x })
	case "Sign":
		return elements(func(x T) T {
			switch {
			case x > 0:
				return 1
			case x < 0:
				x = 0
				return x - 1
			}
			return x
		})
	}
	return elements(func(x T) T { return max(x, 0) })
}

// prepareShrink: y = x + bias below −lambd, x − bias above lambd, 0 between.
func prepareShrink(n *node) (kernel, error) {
	bias, lambd := float64(n.float("bias", 0)), float64(n.float("lambd", 0.5))
	return byType{
		graph.Float32: unary(shrink[float32](bias, lambd), elementGrain),
		graph.Float64: unary(shrink[float64](bias, lambd), elementGrain),
		graph.Int8:    unary(shrink[int8](bias, lambd), elementGrain),
		graph.Int16:   unary(shrink[int16](bias, lambd), elementGrain),
		graph.Int32:   unary(shrink[int32](bias, lambd), elementGrain),
		graph.Int64:   unary(shrink[int64](bias, lambd), elementGrain),
		graph.Uint8:   unary(shrink[uint8](bias, lambd), elementGrain),
		graph.Uint16:  unary(shrink[uint16](bias, lambd), elementGrain),
		graph.Uint32:  unary(shrink[uint32](bias, lambd), elementGrain),
		graph.Uint64:  unary(shrink[uint64](bias, lambd), elementGrain),
	}.kernel(0), n.inputs(1, 1)
}

func shrink[T number](bias, lambd float64) func(z, x []T) {
	return elements(func(x T) T {
		switch v := float64(x); {
		case v < -lambd:
			return T(v + bias)
		case v > lambd:
			return T(v - bias)
		case v != v:
			return x
		}
		return 0
	})
}

func prepareIsNaN(n *node) (kernel, error) {
	return byType{
		graph.Float32: unary(elements(func(x float32) bool { return x != x }), elementGrain),
		graph.Float64: unary(elements(func(x float64) bool { return x != x }), elementGrain),
	}.kernel(0), n.inputs(1, 1)
}

func prepareIsInf(n *node) (kernel, error) {
	neg, pos := n.bool("detect_negative", true), n.bool("detect_positive", true)
	f := func(x float64) bool { return neg && math.IsInf(x, -1) || pos && math.IsInf(x, 1) }
	return byType{
		graph.Float32: unary(elements(func(x float32) bool { return f(float64(x)) }), elementGrain),
		graph.Float64: unary(elements(f), elementGrain),
	}.kernel(0), n.inputs(1, 1)
}

func prepareNot(n *node) (kernel, error) {
	return byType{graph.Bool: unary(elements(func(x bool) bool { return !x }), elementGrain)}.kernel(0), n.inputs(1, 1)
}

func prepareBitwiseNot(n *node) (kernel, error) {
	return byType{
		graph.Int8:   unary(elements(func(x int8) int8 { return ^x }), elementGrain),
		graph.Int16:  unary(elements(func(x int16) int16 { return ^x }), elementGrain),
		graph.Int32:  unary(elements(func(x int32) int32 { return ^x }), elementGrain),
		graph.Int64:  unary(elements(func(x int64) int64 { return ^x }), elementGrain),
		graph.Uint8:  unary(elements(func(x uint8) uint8 { return ^x }), elementGrain),
		graph.Uint16: unary(elements(func(x uint16) uint16 { return ^x }), elementGrain),
		graph.Uint32: unary(elements(func(x uint32) uint32 { return ^x }), elementGrain),
		graph.Uint64: unary(elements(func(x uint64) uint64 { return ^x }), elementGrain),
	}.kernel(0), n.inputs(1, 1)
}

// prepareClip: min(max(x, low), high). The bounds are attributes until opset
// 10 and optional inputs after that; NaN stays.
func prepareClip(n *node) (kernel, error) {
	var low, high *float64
	if n.opset < 11 {
		if n.isSet("min") {
			v := float64(n.float("min", 0))
			low = &v
		}
		if n.isSet("max") {
			v := float64(n.float("max", 0))
			high = &v
		}
	}
	f32 := func(z, x []float32, low, high float32) {
		n.simd.MaxScalar(z, x, low)
		n.simd.MinScalar(z, z, high)
	}
	inf := math.Inf(1)
	return byType{
		graph.Float32: clip(f32, float32(-inf), float32(inf), low, high),
		graph.Float64: clip(clamp[float64], -inf, inf, low, high),
		graph.Int8:    clip(clamp[int8], math.MinInt8, math.MaxInt8, low, high),
		graph.Int16:   clip(clamp[int16], math.MinInt16, math.MaxInt16, low, high),
		graph.Int32:   clip(clamp[int32], math.MinInt32, math.MaxInt32, low, high),
		graph.Int64:   clip(clamp[int64], math.MinInt64, math.MaxInt64, low, high),
		graph.Uint8:   clip(clamp[uint8], 0, math.MaxUint8, low, high),
		graph.Uint16:  clip(clamp[uint16], 0, math.MaxUint16, low, high),
		graph.Uint32:  clip(clamp[uint32], 0, math.MaxUint32, low, high),
		graph.Uint64:  clip(clamp[uint64], 0, math.MaxUint64, low, high),
	}.kernel(0), n.inputs(1, 3)
}

func clamp[T number](z, x []T, low, high T) {
	for i, v := range x {
		z[i] = min(max(v, low), high)
	}
}

func clip[T number](f func(z, x []T, low, high T), least, most T, low, high *float64) kernel {
	type bounds struct{ low, high T }
	body := func(c *call, lo, hi int) {
		b := c.state.(*bounds)
		f(view[T](c.out[0])[lo:hi], view[T](c.in[0])[lo:hi], b.low, b.high)
	}
	d := dtypeOf[T]()
	return func(c *call) error {
		b, ok := c.state.(*bounds)
		if !ok {
			b = &bounds{}
			c.state = b
		}
		b.low, b.high = least, most
		if low != nil {
			b.low = T(*low)
		}
		if high != nil {
			b.high = T(*high)
		}
		for i, p := range []*T{&b.low, &b.high} {
			t := c.input(i + 1)
			if t == nil {
				continue
			}
			if t.DType != d || t.Len() != 1 {
				return fmt.Errorf("bound %d is %v%v, want one element of %v", i+1, t.DType, t.Shape, d)
			}
			*p = view[T](t)[0]
		}
		if _, err := c.over(0, 0, d, c.in[0].Shape...); err != nil {
			return err
		}
		c.parallel(c.in[0].Len(), elementGrain, body)
		return nil
	}
}
