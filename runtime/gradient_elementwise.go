package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// Gradients of the operators that compute element by element.

func gradAdd(b *backward, x *lnode, dy []*lvalue) error {
	b.addBroadcast(x.in[0], dy[0])
	b.addBroadcast(x.in[1], dy[0])
	return nil
}

func gradSub(b *backward, x *lnode, dy []*lvalue) error {
	b.addBroadcast(x.in[0], dy[0])
	if b.needs(x.in[1]) {
		b.addBroadcast(x.in[1], b.op("Neg", nil, dy[0]))
	}
	return nil
}

func gradMul(b *backward, x *lnode, dy []*lvalue) error {
	for i, v := range x.in {
		if b.needs(v) {
			b.addBroadcast(v, b.op("Mul", nil, dy[0], x.in[1-i]))
		}
	}
	return nil
}

// gradDiv: ∂/∂x = dy/y, ∂/∂y = −dy/y · x/y.
func gradDiv(b *backward, x *lnode, dy []*lvalue) error {
	d := b.op("Div", nil, dy[0], x.in[1])
	b.addBroadcast(x.in[0], d)
	if b.needs(x.in[1]) {
		b.addBroadcast(x.in[1], b.op("Neg", nil, b.op("Mul", nil, d, x.out[0])))
	}
	return nil
}

// gradPow: ∂/∂x = dy·y·x^(y−1), ∂/∂y = dy·z·ln x.
func gradPow(b *backward, x *lnode, dy []*lvalue) error {
	base, exponent := x.in[0], x.in[1]
	if b.needs(base) {
		if exponent.konst != nil && exponent.konst.DType != graph.Float32 {
			exponent = b.op("Cast", []*graph.Attr{graph.IntAttr("to", int64(graph.Float32))}, exponent)
		}
		d := b.op("Mul", nil, dy[0], exponent)
		if e, ok := scalar(exponent); ok {
			d = b.op("Mul", nil, b.scaled(dy[0], e), b.op("Pow", nil, base, b.scalar(e-1)))
		} else {
			d = b.op("Mul", nil, d, b.op("Pow", nil, base, b.op("Sub", nil, exponent, b.scalar(1))))
		}
		b.addBroadcast(base, d)
	}
	if b.needs(exponent) {
		b.addBroadcast(exponent, b.op("Mul", nil, b.op("Mul", nil, dy[0], x.out[0]), b.op("Log", nil, base)))
	}
	return nil
}

// gradSum covers Sum and Mean of any number of operands.
func gradSum(b *backward, x *lnode, dy []*lvalue) error {
	d := dy[0]
	if x.op == "Mean" {
		d = b.scaled(d, 1/float64(len(x.in)))
	}
	for _, v := range x.in {
		b.addBroadcast(v, d)
	}
	return nil
}

// gradExtreme covers Max and Min: operands that share the extreme share the
// gradient.
func gradExtreme(b *backward, x *lnode, dy []*lvalue) error {
	to := []*graph.Attr{graph.IntAttr("to", int64(graph.Float32))}
	var hits []*lvalue
	for _, v := range x.in {
		hits = append(hits, b.op("Cast", to, b.op("Equal", nil, v, x.out[0])))
	}
	d := b.op("Div", nil, dy[0], b.op("Sum", nil, slices.Clone(hits)...))
	for i, v := range x.in {
		if b.needs(v) {
			b.addBroadcast(v, b.op("Mul", nil, d, hits[i]))
		}
	}
	return nil
}

func gradWhere(b *backward, x *lnode, dy []*lvalue) error {
	zero := b.scalar(0)
	if b.needs(x.in[1]) {
		b.addBroadcast(x.in[1], b.op("Where", nil, x.in[0], dy[0], zero))
	}
	if b.needs(x.in[2]) {
		b.addBroadcast(x.in[2], b.op("Where", nil, x.in[0], zero, dy[0]))
	}
	return nil
}

// gradPRelu: the slope where x is negative, and dslope = dy·min(x, 0).
func gradPRelu(b *backward, x *lnode, dy []*lvalue) error {
	zero := b.scalar(0)
	below := b.op("Less", nil, x.in[0], zero)
	if b.needs(x.in[0]) {
		b.add(x.in[0], b.op("Mul", nil, dy[0], b.op("Where", nil, below, x.in[1], b.scalar(1))))
	}
	if b.needs(x.in[1]) {
		b.addBroadcast(x.in[1], b.op("Mul", nil, dy[0], b.op("Where", nil, below, x.in[0], zero)))
	}
	return nil
}

// gradCast: gradients are float32, whatever the type.
func gradCast(b *backward, x *lnode, dy []*lvalue) error {
	b.add(x.in[0], dy[0])
	return nil
}

// chunk is how many elements a derivative of several steps computes at a time,
// so that what lies between them stays in cache.
const chunk = 1024

// pointwise is dx = f(dy, v), v being the operator's input or its output; f
// may write over dy, and finds chunk elements of scratch in t and u.
func (b *backward) pointwise(kind string, dy, v *lvalue, f func(dx, dy, v, t, u []float32)) *lvalue {
	return b.kernel(kind, func(c *call) error {
		d, x := c.in[0], c.in[1]
		if x.DType != graph.Float32 || d.Len() != x.Len() {
			return fmt.Errorf("gradient %v%v of %v%v", d.DType, d.Shape, x.DType, x.Shape)
		}
		z, err := c.over(0, 0, graph.Float32, x.Shape...)
		if err != nil {
			return err
		}
		s, err := scratch[float32](c, 2*chunk)
		if err != nil {
			return err
		}
		for i := 0; i < x.Len(); i += chunk {
			n := min(chunk, x.Len()-i)
			f(z.F32()[i:i+n], d.F32()[i:i+n], x.F32()[i:i+n], s[:n], s[chunk:][:n])
		}
		return nil
	}, dy, v)
}

// gradFunction covers the functions of one operand.
func gradFunction(b *backward, x *lnode, dy []*lvalue) error {
	in := x.in[0]
	if !b.needs(in) {
		return nil
	}
	kind := x.op
	if kind == "Gelu" {
		kind += x.str("approximate", "none")
	}
	if kind == "Swish" && x.float("alpha", 1) == 1 {
		kind = "Silu"
	}
	var d *lvalue
	if f := derivatives(b.simd)[kind]; f.of != nil {
		v := in
		if f.output {
			v = x.out[0]
		}
		d = b.pointwise(kind, dy[0], v, f.of)
	} else {
		f, err := derivative(&x.node)
		if err != nil {
			return err
		}
		d = b.pointwise(kind, dy[0], in, func(dx, dy, x, _, _ []float32) {
			for i, v := range x {
				dx[i] = float32(float64(dy[i]) * f(float64(v)))
			}
		})
	}
	if x.kernel != nil { // a fused one can raise the rank
		d = b.like(d, in)
	}
	b.add(in, d)
	return nil
}

// fastDerivative computes dx from dy and the operator's input, or its output.
type fastDerivative struct {
	output bool
	of     func(dx, dy, v, t, u []float32)
}

// derivatives are those that have vector kernels, or need the output.
func derivatives(k *simd.Kernels) map[string]fastDerivative {
	each := func(f func(dy, v float32) float32) func(dx, dy, v, t, u []float32) {
		return func(dx, dy, v, _, _ []float32) {
			for i, w := range v {
				dx[i] = f(dy[i], w)
			}
		}
	}
	return map[string]fastDerivative{
		"Exp":        {true, func(dx, dy, y, _, _ []float32) { k.Mul(dx, dy, y) }},
		"Log":        {false, func(dx, dy, x, _, _ []float32) { k.Div(dx, dy, x) }},
		"Neg":        {false, func(dx, dy, _, _, _ []float32) { k.MulScalar(dx, dy, -1) }},
		"Reciprocal": {true, each(func(dy, y float32) float32 { return -dy * y * y })},
		"Relu":       {true, func(dx, dy, y, _, _ []float32) { k.ReluGradient(dx, dy, y) }},
		"Abs": {false, each(func(dy, x float32) float32 {
			switch {
			case x > 0:
				return dy
			case x < 0:
				return -dy
			}
			return 0
		})},
		"Sigmoid": {true, each(func(dy, y float32) float32 { return dy * (y * (1 - y)) })},
		"Sqrt":    {true, each(func(dy, y float32) float32 { return dy / (2 * y) })},
		"Tanh":    {true, each(func(dy, y float32) float32 { return dy * (1 - float32(y*y)) })},
		"Erf": {false, func(dx, dy, x, t, _ []float32) { // 2/√π·exp(−x²)
			k.Mul(t, x, x)
			k.MulScalar(t, t, -1)
			k.Exp(t, t)
			k.MulScalar(t, t, float32(2/math.Sqrt(math.Pi)))
			k.Mul(dx, dy, t)
		}},
		"Gelunone": {false, func(dx, dy, x, t, u []float32) { // Φ(x) + x·φ(x)
			k.MulScalar(t, x, float32(math.Sqrt(0.5)))
			k.Erf(t, t)
			k.AddScalar(t, t, 1)
			k.MulScalar(t, t, 0.5)
			k.Mul(u, x, x)
			k.MulScalar(u, u, -0.5)
			k.Exp(u, u)
			k.Mul(u, u, x)
			k.MulScalar(u, u, float32(1/math.Sqrt(2*math.Pi)))
			k.Add(t, t, u)
			k.Mul(dx, dy, t)
		}},
		// h = tanh(c·(x + a·x³)): ½(1 + h) + ½x·(1 − h²)·c·(1 + 3a·x²)
		"Gelutanh": {false, func(dx, dy, x, t, u []float32) {
			const a = 0.044715
			c := float32(math.Sqrt(2 / math.Pi))
			k.Mul(u, x, x)
			k.MulScalar(t, u, a)
			k.AddScalar(t, t, 1)
			k.Mul(t, t, x)
			k.MulScalar(t, t, c)
			k.Tanh(t, t) // h
			k.MulScalar(u, u, 3*a)
			k.AddScalar(u, u, 1)
			k.MulScalar(u, u, c)
			k.Mul(u, u, x) // x·c·(1 + 3a·x²)
			for i, h := range t {
				t[i] = 0.5 * ((1 + h) + float32(u[i]*(1-float32(h*h))))
			}
			k.Mul(dx, dy, t)
		}},
		"Silu": {false, func(dx, dy, x, t, u []float32) { // s·(1 + x·(1 − s))
			k.Sigmoid(t, x)
			k.ScalarSub(u, 1, t)
			k.Mul(u, u, x)
			k.AddScalar(u, u, 1)
			k.Mul(t, t, u)
			k.Mul(dx, dy, t)
		}},
	}
}

// derivative returns the derivative of a function in float64; where it jumps,
// the value from the right, or zero at a corner of Abs and the like.
func derivative(n *node) (func(float64) float64, error) {
	alpha := func(def float32) float64 { return float64(n.float("alpha", def)) }
	step := func(on bool, v float64) float64 {
		if on {
			return v
		}
		return 0
	}
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	elu := func(alpha, gamma float64) func(float64) float64 {
		return func(x float64) float64 {
			if x < 0 {
				return gamma * (alpha * math.Exp(x))
			}
			return gamma
		}
	}
	switch n.op {
	case "Acos":
		return func(x float64) float64 { return -1 / math.Sqrt(1-x*x) }, nil
	case "Acosh":
		return func(x float64) float64 { return 1 / math.Sqrt(x*x-1) }, nil
	case "Asin":
		return func(x float64) float64 { return 1 / math.Sqrt(1-x*x) }, nil
	case "Asinh":
		return func(x float64) float64 { return 1 / math.Sqrt(x*x+1) }, nil
	case "Atan":
		return func(x float64) float64 { return 1 / (1 + x*x) }, nil
	case "Atanh":
		return func(x float64) float64 { return 1 / (1 - x*x) }, nil
	case "Celu":
		a := alpha(1)
		return func(x float64) float64 {
			if x < 0 {
				return math.Exp(x / a)
			}
			return 1
		}, nil
	case "Cos":
		return func(x float64) float64 { return -math.Sin(x) }, nil
	case "Cosh":
		return math.Sinh, nil
	case "Elu":
		return elu(alpha(1), 1), nil
	case "Selu":
		return elu(alpha(1.67326319217681884765625), float64(n.float("gamma", 1.05070102214813232421875))), nil
	case "HardSigmoid":
		a, c := alpha(0.2), float64(n.float("beta", 0.5))
		return func(x float64) float64 { v := a*x + c; return step(v > 0 && v < 1, a) }, nil
	case "HardSwish":
		return func(x float64) float64 {
			switch {
			case x <= -3:
				return 0
			case x >= 3:
				return 1
			}
			return x/3 + 0.5
		}, nil
	case "LeakyRelu":
		a := alpha(0.01)
		return func(x float64) float64 {
			if x < 0 {
				return a
			}
			return 1
		}, nil
	case "Mish":
		return func(x float64) float64 {
			t := math.Tanh(softplus(x))
			return t + x*(1-t*t)*sigmoid(x)
		}, nil
	case "Sin":
		return math.Cos, nil
	case "Sinh":
		return math.Cosh, nil
	case "Softplus":
		return sigmoid, nil
	case "Softsign":
		return func(x float64) float64 { d := 1 + math.Abs(x); return 1 / (d * d) }, nil
	case "Swish":
		a := alpha(1)
		return func(x float64) float64 { s := sigmoid(a * x); return s * (1 + a*x*(1-s)) }, nil
	case "Tan":
		return func(x float64) float64 { t := math.Tan(x); return 1 + t*t }, nil
	case "ThresholdedRelu":
		a := alpha(1)
		return func(x float64) float64 { return step(x > a, 1) }, nil
	}
	return nil, fmt.Errorf("no derivative of %s", n.op)
}

// gradClip lets the gradient through where the element was left as it is.
func gradClip(b *backward, x *lnode, dy []*lvalue) error {
	if !b.needs(x.in[0]) {
		return nil
	}
	b.add(x.in[0], b.kernel("Clip", func(c *call) error {
		d, in, out := c.in[0], c.in[1].F32(), c.in[2].F32()
		z, err := c.over(0, 0, graph.Float32, c.in[1].Shape...)
		if err != nil {
			return err
		}
		for i, v := range d.F32() {
			if in[i] != out[i] {
				v = 0
			}
			z.F32()[i] = v
		}
		return nil
	}, dy[0], x.in[0], x.out[0]))
	return nil
}
