package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// elementwiseOps compute element by element of several inputs, under
// multidirectional broadcasting.
var elementwiseOps = []operator{
	{"", "Add", 7, prepareArithmetic, gradAdd, halves},
	{"", "Sub", 7, prepareArithmetic, gradSub, halves},
	{"", "Mul", 7, prepareArithmetic, gradMul, halves},
	{"", "Div", 7, prepareArithmetic, gradDiv, halves},
	{"", "Mod", 10, prepareMod, nil, halves},
	{"", "Pow", 7, preparePow, gradPow, halves},
	{"", "PRelu", 7, preparePRelu, gradPRelu, halves},
	{"", "Max", 6, prepareExtreme, gradExtreme, halves},
	{"", "Min", 6, prepareExtreme, gradExtreme, halves},
	{"", "Sum", 6, prepareSum, gradSum, halves},
	{"", "Mean", 6, prepareSum, gradSum, halves},
	{"", "And", 7, prepareLogic, nil, 0},
	{"", "Or", 7, prepareLogic, nil, 0},
	{"", "Xor", 7, prepareLogic, nil, 0},
	{"", "Equal", 7, prepareCompare, nil, halves},
	{"", "Less", 7, prepareCompare, nil, halves},
	{"", "LessOrEqual", 12, prepareCompare, nil, halves},
	{"", "Greater", 7, prepareCompare, nil, halves},
	{"", "GreaterOrEqual", 12, prepareCompare, nil, halves},
	{"", "BitShift", 11, prepareBits, nil, 0},
	{"", "BitwiseAnd", 18, prepareBits, nil, 0},
	{"", "BitwiseOr", 18, prepareBits, nil, 0},
	{"", "BitwiseXor", 18, prepareBits, nil, 0},
	{"", "SwiGLU", 28, prepareSwiGLU, nil, halves},
	{"", "Where", 9, prepareWhere, gradWhere, 0},
}

// number is the types that arithmetic is defined on.
type number interface{ integer | float32 | float64 }

type integer interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// loops is an operator of two operands on rows: both vary along the row (vv),
// or one repeats (vs, sv). z has the length of the operand that varies.
type loops[T, Z element] struct {
	vv func(z []Z, x, y []T)
	vs func(z []Z, x []T, y T)
	sv func(z []Z, x T, y []T)
}

// each makes loops of a function of two elements.
func each[T, Z element](f func(x, y T) Z) *loops[T, Z] {
	return &loops[T, Z]{
		vv: func(z []Z, x, y []T) {
			for i := range z {
				z[i] = f(x[i], y[i])
			}
		},
		vs: func(z []Z, x []T, y T) {
			for i := range z {
				z[i] = f(x[i], y)
			}
		},
		sv: func(z []Z, x T, y []T) {
			for i := range z {
				z[i] = f(x, y[i])
			}
		},
	}
}

// row applies l to a row of n elements; dx and dy are 1, or 0 where the
// operand repeats.
func (l *loops[T, Z]) row(z []Z, x, y []T, dx, dy int) {
	switch {
	case dx != 0 && dy != 0:
		l.vv(z, x[:len(z)], y[:len(z)])
	case dx != 0:
		l.vs(z, x[:len(z)], y[0])
	case dy != 0:
		l.sv(z, x[0], y[:len(z)])
	default:
		l.vv(z[:1], x[:1], y[:1])
		for i := range z {
			z[i] = z[0]
		}
	}
}

// elementGrain is the least number of elements that are worth a thread: about
// ten microseconds of the simplest loop.
const elementGrain = 1 << 14

// pair returns the broadcast of the first two inputs, which must be of one
// type.
func (c *call) pair() (*broadcast, error) {
	if !c.has(0) || !c.has(1) {
		return nil, errors.New("wants two inputs")
	}
	if c.in[0].DType != c.in[1].DType {
		return nil, fmt.Errorf("inputs are %v and %v, want one type", c.in[0].DType, c.in[1].DType)
	}
	b, ok := c.state.(*broadcast)
	if !ok {
		b = &broadcast{}
		c.state = b
	}
	return b, b.set(c.in[0].Shape, c.in[1].Shape)
}

// binary is the kernel of an operator of two operands of one type.
func binary[T, Z element](l *loops[T, Z]) kernel {
	body := func(c *call, lo, hi int) {
		b := c.state.(*broadcast)
		z, x, y := view[Z](c.out[0]), view[T](c.in[0]), view[T](c.in[1])
		dx, dy := b.inner(0), b.inner(1)
		for r := b.from(lo, hi); r.ok(); r.next() {
			l.row(z[r.at:r.at+r.n], x[r.off[0]:], y[r.off[1]:], dx, dy)
		}
	}
	d := dtypeOf[Z]()
	return func(c *call) error {
		b, err := c.pair()
		if err != nil {
			return err
		}
		// In place of the operand that has the result's shape, if it is free.
		j := 0
		if c.in[0].Len() != b.size || !c.dies0() {
			j = 1
		}
		if _, err := c.over(0, j, d, b.shape...); err != nil {
			return err
		}
		if b.tileRows() > 0 {
			if b.tile, err = scratch[byte](c, c.workers()*tileBytes); err != nil {
				return err
			}
			c.parallelWorkers(b.size, elementGrain, l.tiled)
			b.tile = nil
			return nil
		}
		c.parallel(b.size, elementGrain, body)
		return nil
	}
}

// tileBytes holds the rows of a repeated operand that tiled joins.
const tileBytes = 2048

// tileRows tells how many short rows can be computed as one: those over which
// one operand repeats its own, while the other goes on. 0 where that is not so
// or rows are long enough by themselves.
func (b *broadcast) tileRows() int {
	last := len(b.dims) - 1
	const short, widest = 64, 16 // elements, bytes of one
	if last < 1 || b.size == 0 || b.dims[last] > short || b.inner(0) == 0 || b.inner(1) == 0 {
		return 0
	}
	n := b.dims[last]
	dx, dy := b.strides[0][last-1], b.strides[1][last-1]
	if dx == n && dy == 0 || dx == 0 && dy == n {
		if rows := min(tileBytes/widest/n, b.dims[last-1]); rows > 1 {
			return rows
		}
	}
	return 0
}

// tiled is the body of binary for short rows, as cos and sin have that are
// shared by heads: the repeated row is written behind itself, and many rows of
// the result are one loop.
func (l *loops[T, Z]) tiled(c *call, worker, lo, hi int) {
	b := c.state.(*broadcast)
	z, x, y := view[Z](c.out[0]), view[T](c.in[0]), view[T](c.in[1])
	last := len(b.dims) - 1
	n, m, most := b.dims[last], b.dims[last-1], b.tileRows()
	tile := cast[T](b.tile[worker*tileBytes : (worker+1)*tileBytes])
	o, from := 1, y // the operand that repeats
	if b.strides[0][last-1] == 0 {
		o, from = 0, x
	}
	held := -1 // where in it the tile is from
	for r := b.from(lo, hi); r.ok(); r.next() {
		rows := min(most, m-r.at/n%m, (hi-r.at)/n)
		if r.n < n || rows < 2 {
			l.row(z[r.at:r.at+r.n], x[r.off[0]:], y[r.off[1]:], 1, 1)
			continue
		}
		if held != r.off[o] {
			held = r.off[o]
			for k := copy(tile, from[held:held+n]); k < most*n; {
				k += copy(tile[k:most*n], tile[:k])
			}
		}
		size := rows * n
		if o == 1 {
			l.vv(z[r.at:r.at+size], x[r.off[0]:r.off[0]+size], tile[:size])
		} else {
			l.vv(z[r.at:r.at+size], tile[:size], y[r.off[1]:r.off[1]+size])
		}
		// On to the last of these rows.
		r.at += size - n
		r.off[1-o] += size - n
	}
}

// dies0 reports whether the memory of input 0 may be taken over.
func (c *call) dies0() bool { return len(c.dies) > 0 && c.dies[0] }

func prepareArithmetic(n *node) (kernel, error) {
	k := n.simd
	f32 := map[string]*loops[float32, float32]{
		"Add": {k.Add, k.AddScalar, func(z []float32, x float32, y []float32) { k.AddScalar(z, y, x) }},
		"Sub": {k.Sub, func(z, x []float32, y float32) { k.AddScalar(z, x, -y) }, k.ScalarSub},
		"Mul": {k.Mul, k.MulScalar, func(z []float32, x float32, y []float32) { k.MulScalar(z, y, x) }},
		"Div": {k.Div, k.DivScalar, k.ScalarDiv},
	}[n.op]
	return byType{
		graph.Float32: binary(f32),
		graph.Float64: binary(arithmetic[float64](n.op)),
		graph.Int8:    divisible(n.op, arithmetic[int8](n.op)),
		graph.Int16:   divisible(n.op, arithmetic[int16](n.op)),
		graph.Int32:   divisible(n.op, arithmetic[int32](n.op)),
		graph.Int64:   divisible(n.op, arithmetic[int64](n.op)),
		graph.Uint8:   divisible(n.op, arithmetic[uint8](n.op)),
		graph.Uint16:  divisible(n.op, arithmetic[uint16](n.op)),
		graph.Uint32:  divisible(n.op, arithmetic[uint32](n.op)),
		graph.Uint64:  divisible(n.op, arithmetic[uint64](n.op)),
	}.kernel(0), n.inputs(2, 2)
}

// arithmetic returns the loops of Add, Sub, Mul or Div. Integers wrap around;
// their quotient is truncated.
func arithmetic[T number](op string) *loops[T, T] {
	switch op {
	case "Add":
		return each(func(x, y T) T { return x + y })
	case "Sub":
		return each(func(x, y T) T { return x - y })
	case "Mul":
		return each(func(x, y T) T { return x * y })
	case "Div":
		return each(func(x, y T) T { return x / y })
	}
	panic("runtime: no arithmetic loops for " + op)
}

// divisible is binary with a check of the divisors of Div and Mod: the
// processor traps on an integer division by zero.
func divisible[T integer](op string, l *loops[T, T]) kernel {
	k := binary(l)
	if op != "Div" && op != "Mod" {
		return k
	}
	return func(c *call) error {
		if y := c.input(1); y != nil && y.DType == dtypeOf[T]() {
			for _, v := range view[T](y) {
				if v == 0 {
					return errors.New("integer division by zero")
				}
			}
		}
		return k(c)
	}
}

// prepareMod: the result has the sign of the divisor, or with fmod that of
// the dividend; floating-point types take fmod only.
func prepareMod(n *node) (kernel, error) {
	fmod := n.bool("fmod", false)
	table := byType{
		graph.Int8:   divisible("Mod", modulo[int8](fmod)),
		graph.Int16:  divisible("Mod", modulo[int16](fmod)),
		graph.Int32:  divisible("Mod", modulo[int32](fmod)),
		graph.Int64:  divisible("Mod", modulo[int64](fmod)),
		graph.Uint8:  divisible("Mod", modulo[uint8](fmod)),
		graph.Uint16: divisible("Mod", modulo[uint16](fmod)),
		graph.Uint32: divisible("Mod", modulo[uint32](fmod)),
		graph.Uint64: divisible("Mod", modulo[uint64](fmod)),
	}
	if fmod {
		table[graph.Float32] = binary(each(func(x, y float32) float32 { return float32(math.Mod(float64(x), float64(y))) }))
		table[graph.Float64] = binary(each(math.Mod))
	}
	return table.kernel(0), n.inputs(2, 2)
}

func modulo[T integer](fmod bool) *loops[T, T] {
	if fmod {
		return each(func(x, y T) T { return x % y })
	}
	return each(func(x, y T) T {
		r := x % y
		if r != 0 && (r < 0) != (y < 0) {
			r += y
		}
		return r
	})
}

// preparePow: the exponent may have a type of its own; the result has the
// base's. It is computed in the base's type, except that an integer to a
// floating-point power is truncated from float64.
func preparePow(n *node) (kernel, error) {
	f32 := binary(&loops[float32, float32]{
		vv: func(z, x, y []float32) {
			for i := range z {
				z[i] = float32(math.Pow(float64(x[i]), float64(y[i])))
			}
		},
		vs: func(z, x []float32, y float32) {
			switch y {
			case 1:
				copy(z, x)
			case 2:
				n.simd.Mul(z, x, x)
			default:
				for i, v := range x {
					z[i] = float32(math.Pow(float64(v), float64(y)))
				}
			}
		},
		sv: func(z []float32, x float32, y []float32) {
			for i, v := range y {
				z[i] = float32(math.Pow(float64(x), float64(v)))
			}
		},
	})
	same := byType{
		graph.Float32: f32,
		graph.Float64: binary(each(math.Pow)),
		graph.Int8:    binary(each(power[int8])),
		graph.Int16:   binary(each(power[int16])),
		graph.Int32:   binary(each(power[int32])),
		graph.Int64:   binary(each(power[int64])),
		graph.Uint8:   binary(each(power[uint8])),
		graph.Uint16:  binary(each(power[uint16])),
		graph.Uint32:  binary(each(power[uint32])),
		graph.Uint64:  binary(each(power[uint64])),
	}.kernel(0)
	return func(c *call) error {
		x, y := c.in[0], c.in[1]
		if x.DType == y.DType {
			return same(c)
		}
		// Bring both to one type: the base's, or float64 under an integer.
		common := x.DType
		if !x.DType.IsFloat() && y.DType.IsFloat() {
			common = graph.Float64
		}
		var err error
		sub := &call{s: c.s, in: []*Tensor{x, y}, out: []*Tensor{{}}}
		defer func() {
			sub.tidy()
			c.s.pool.release(sub.out[0])
		}()
		for i, t := range sub.in {
			if sub.in[i], err = c.converted(t, common); err != nil {
				return err
			}
		}
		if err := same(sub); err != nil {
			return err
		}
		if common == x.DType {
			c.share(0, sub.out[0])
			return nil
		}
		z, err := c.alloc(0, x.DType, sub.out[0].Shape...)
		if err != nil {
			return err
		}
		return convert(z, sub.out[0], castRules{})
	}, n.inputs(2, 2)
}

// power is x to the y in wrapping integers; a negative power of anything but
// ±1 truncates to 0.
func power[T integer](x, y T) T {
	if y < 0 {
		switch {
		case x == 1:
			return 1
		case x+1 == 0: // −1
			if y&1 == 0 {
				return 1
			}
			return x
		}
		return 0
	}
	z := T(1)
	for ; y > 0; y >>= 1 {
		if y&1 != 0 {
			z *= x
		}
		x *= x
	}
	return z
}

// preparePRelu: x where it is not negative, else x times the slope, which is
// broadcast to x.
func preparePRelu(n *node) (kernel, error) {
	k := byType{
		graph.Float32: binary(each(prelu[float32])),
		graph.Float64: binary(each(prelu[float64])),
		graph.Int32:   binary(each(prelu[int32])),
		graph.Int64:   binary(each(prelu[int64])),
		graph.Uint32:  binary(each(prelu[uint32])),
		graph.Uint64:  binary(each(prelu[uint64])),
	}.kernel(0)
	return func(c *call) error {
		b, err := c.pair()
		if err != nil {
			return err
		}
		if len(b.shape) != len(c.in[0].Shape) || b.size != c.in[0].Len() {
			return fmt.Errorf("slope %v does not broadcast to %v", c.in[1].Shape, c.in[0].Shape)
		}
		return k(c)
	}, n.inputs(2, 2)
}

func prelu[T number](x, slope T) T {
	if x < 0 {
		return x * slope
	}
	return x
}

// fold is the kernel of an associative operator of any number of operands:
// z = op(…op(op(a, b), c)…), then finished with last if that is not nil.
func fold[T element](l *loops[T, T], last func(z []T, operands int)) kernel {
	type state struct {
		full  broadcast // only its shape matters
		pairs []broadcast
		b     *broadcast
		y     []T
		first bool
	}
	body := func(c *call, lo, hi int) {
		s := c.state.(*state)
		z := view[T](c.out[0])
		for r := s.b.from(lo, hi); r.ok(); r.next() {
			zr := z[r.at : r.at+r.n]
			if s.first {
				l.row(zr, view[T](c.in[0])[r.off[0]:], s.y[r.off[1]:], s.b.inner(0), s.b.inner(1))
			} else {
				l.row(zr, zr, s.y[r.off[1]:], 1, s.b.inner(1))
			}
		}
	}
	d := dtypeOf[T]()
	return func(c *call) error {
		for i, t := range c.in {
			if t == nil || t.DType != d {
				return fmt.Errorf("input %d is missing or not %v like input 0", i, d)
			}
		}
		s, ok := c.state.(*state)
		if !ok {
			s = &state{pairs: make([]broadcast, len(c.in))}
			c.state = s
		}
		if len(c.in) == 1 {
			if last == nil {
				c.share(0, c.in[0])
				return nil
			}
		}
		// The common shape of all operands, then each against it.
		full := c.in[0].Shape
		for i, t := range c.in[1:] {
			if err := s.pairs[i].set(full, t.Shape); err != nil {
				return err
			}
			full = s.pairs[i].shape
		}
		z, err := c.alloc(0, d, full...)
		if err != nil {
			return err
		}
		if len(c.in) == 1 {
			copy(z.mem, c.in[0].mem)
		}
		for i, t := range c.in[1:] {
			s.b, s.y, s.first = &s.full, view[T](t), i == 0
			var err error
			if i == 0 {
				err = s.b.set(c.in[0].Shape, t.Shape, z.Shape)
			} else {
				err = s.b.set(z.Shape, t.Shape)
			}
			if err != nil {
				return err
			}
			c.parallel(s.b.size, elementGrain, body)
		}
		if last != nil {
			last(view[T](z), len(c.in))
		}
		return nil
	}
}

// prepareExtreme: Max and Min give NaN where any operand is NaN.
func prepareExtreme(n *node) (kernel, error) {
	k := n.simd
	f32 := &loops[float32, float32]{k.Max, k.MaxScalar, func(z []float32, x float32, y []float32) { k.MaxScalar(z, y, x) }}
	if n.op == "Min" {
		f32 = &loops[float32, float32]{k.Min, k.MinScalar, func(z []float32, x float32, y []float32) { k.MinScalar(z, y, x) }}
	}
	return byType{
		graph.Float32: fold(f32, nil),
		graph.Float64: fold(extreme[float64](n.op), nil),
		graph.Int8:    fold(extreme[int8](n.op), nil),
		graph.Int16:   fold(extreme[int16](n.op), nil),
		graph.Int32:   fold(extreme[int32](n.op), nil),
		graph.Int64:   fold(extreme[int64](n.op), nil),
		graph.Uint8:   fold(extreme[uint8](n.op), nil),
		graph.Uint16:  fold(extreme[uint16](n.op), nil),
		graph.Uint32:  fold(extreme[uint32](n.op), nil),
		graph.Uint64:  fold(extreme[uint64](n.op), nil),
	}.kernel(0), n.inputs(1, -1)
}

func extreme[T number](op string) *loops[T, T] {
	if op == "Min" {
		return each(func(x, y T) T { return min(x, y) })
	}
	return each(func(x, y T) T { return max(x, y) })
}

func prepareSum(n *node) (kernel, error) {
	k := n.simd
	f32 := &loops[float32, float32]{k.Add, k.AddScalar, func(z []float32, x float32, y []float32) { k.AddScalar(z, y, x) }}
	var last32 func([]float32, int)
	var last64 func([]float64, int)
	if n.op == "Mean" {
		last32 = func(z []float32, n int) { k.DivScalar(z, z, float32(n)) }
		last64 = func(z []float64, n int) {
			for i := range z {
				z[i] /= float64(n)
			}
		}
	}
	return byType{
		graph.Float32: fold(f32, last32),
		graph.Float64: fold(arithmetic[float64]("Add"), last64),
	}.kernel(0), n.inputs(1, -1)
}

func prepareLogic(n *node) (kernel, error) {
	f := map[string]func(x, y bool) bool{
		"And": func(x, y bool) bool { return x && y },
		"Or":  func(x, y bool) bool { return x || y },
		"Xor": func(x, y bool) bool { return x != y },
	}[n.op]
	return byType{graph.Bool: binary(each(f))}.kernel(0), n.inputs(2, 2)
}

func prepareCompare(n *node) (kernel, error) {
	table := byType{
		graph.Float32: binary(compare[float32](n.op)),
		graph.Float64: binary(compare[float64](n.op)),
		graph.Int8:    binary(compare[int8](n.op)),
		graph.Int16:   binary(compare[int16](n.op)),
		graph.Int32:   binary(compare[int32](n.op)),
		graph.Int64:   binary(compare[int64](n.op)),
		graph.Uint8:   binary(compare[uint8](n.op)),
		graph.Uint16:  binary(compare[uint16](n.op)),
		graph.Uint32:  binary(compare[uint32](n.op)),
		graph.Uint64:  binary(compare[uint64](n.op)),
	}
	if n.op == "Equal" {
		table[graph.Bool] = binary(each(func(x, y bool) bool { return x == y }))
		table[graph.String] = equalStrings
	}
	return table.kernel(0), n.inputs(2, 2)
}

func compare[T number](op string) *loops[T, bool] {
	switch op {
	case "Equal":
		return each(func(x, y T) bool { return x == y })
	case "Less":
		return each(func(x, y T) bool { return x < y })
	case "LessOrEqual":
		return each(func(x, y T) bool { return x <= y })
	case "Greater":
		return each(func(x, y T) bool { return x > y })
	case "GreaterOrEqual":
		return each(func(x, y T) bool { return x >= y })
	}
	panic("runtime: no comparison " + op)
}

func equalStrings(c *call) error {
	b, err := c.pair()
	if err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Bool, b.shape...)
	if err != nil {
		return err
	}
	out, x, y := z.Bools(), c.in[0].strs, c.in[1].strs
	for r := b.from(0, b.size); r.ok(); r.next() {
		for i := range r.n {
			out[r.at+i] = x[r.off[0]+i*b.inner(0)] == y[r.off[1]+i*b.inner(1)]
		}
	}
	return nil
}

func prepareBits(n *node) (kernel, error) {
	op := n.op
	if op == "BitShift" {
		op += n.oneOf("direction", "", "LEFT", "RIGHT")
	}
	table := byType{
		graph.Uint8:  binary(bitwise[uint8](op)),
		graph.Uint16: binary(bitwise[uint16](op)),
		graph.Uint32: binary(bitwise[uint32](op)),
		graph.Uint64: binary(bitwise[uint64](op)),
	}
	if n.op != "BitShift" {
		table[graph.Int8] = binary(bitwise[int8](op))
		table[graph.Int16] = binary(bitwise[int16](op))
		table[graph.Int32] = binary(bitwise[int32](op))
		table[graph.Int64] = binary(bitwise[int64](op))
	}
	return table.kernel(0), n.inputs(2, 2)
}

func bitwise[T integer](op string) *loops[T, T] {
	switch op {
	case "BitShiftLEFT":
		return each(func(x, y T) T { return x << uint64(y) })
	case "BitShiftRIGHT":
		return each(func(x, y T) T { return x >> uint64(y) })
	case "BitwiseAnd":
		return each(func(x, y T) T { return x & y })
	case "BitwiseOr":
		return each(func(x, y T) T { return x | y })
	}
	return each(func(x, y T) T { return x ^ y })
}

// prepareWhere: Where moves elements of any type, chosen by their width.
func prepareWhere(n *node) (kernel, error) {
	widths := map[int]kernel{
		1: where(view[uint8]), 2: where(view[uint16]), 4: where(view[uint32]), 8: where(view[uint64]), 16: where(view[complex128]),
		0: where(func(t *Tensor) []string { return t.strs }),
	}
	return func(c *call) error {
		for i := range 3 {
			if !c.has(i) {
				return fmt.Errorf("input %d is missing", i)
			}
		}
		if c.in[0].DType != graph.Bool {
			return fmt.Errorf("the condition is %v, want bool", c.in[0].DType)
		}
		if c.in[1].DType != c.in[2].DType {
			return fmt.Errorf("inputs are %v and %v, want one type", c.in[1].DType, c.in[2].DType)
		}
		k := widths[elemSize(c.in[1].DType)]
		if k == nil {
			return wrongType(c.in[1].DType)
		}
		return k(c)
	}, n.inputs(3, 3)
}

func where[T any](elems func(*Tensor) []T) kernel {
	body := func(c *call, lo, hi int) {
		b := c.state.(*broadcast)
		z, cond, x, y := elems(c.out[0]), view[bool](c.in[0]), elems(c.in[1]), elems(c.in[2])
		dc, dx, dy := b.inner(0), b.inner(1), b.inner(2)
		for r := b.from(lo, hi); r.ok(); r.next() {
			zr, oc, ox, oy := z[r.at:r.at+r.n], r.off[0], r.off[1], r.off[2]
			for i := range zr {
				if cond[oc+i*dc] {
					zr[i] = x[ox+i*dx]
				} else {
					zr[i] = y[oy+i*dy]
				}
			}
		}
	}
	return func(c *call) error {
		b, ok := c.state.(*broadcast)
		if !ok {
			b = &broadcast{}
			c.state = b
		}
		if err := b.set(c.in[0].Shape, c.in[1].Shape, c.in[2].Shape); err != nil {
			return err
		}
		if _, err := c.alloc(0, c.in[1].DType, b.shape...); err != nil {
			return err
		}
		c.parallel(b.size, elementGrain, body)
		return nil
	}
}

// prepareSwiGLU: a·σ(alpha·a)·b of two tensors of a shape. Shazeer: GLU Variants
// Improve Transformer, 2020.
func prepareSwiGLU(n *node) (kernel, error) {
	alpha := float64(n.float("alpha", 1))
	return byType{graph.Float32: swiGLU[float32](alpha), graph.Float64: swiGLU[float64](alpha)}.kernel(0), n.inputs(2, 2)
}

func swiGLU[T float32 | float64](alpha float64) kernel {
	body := func(c *call, lo, hi int) {
		a, b, z := view[T](c.in[0]), view[T](c.in[1]), view[T](c.out[0])
		for i := lo; i < hi; i++ {
			x := float64(a[i])
			z[i] = T(x / (1 + math.Exp(-alpha*x)) * float64(b[i]))
		}
	}
	return func(c *call) error {
		a, b := c.in[0], c.in[1]
		if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) {
			return fmt.Errorf("A is %v%v, B %v%v", a.DType, a.Shape, b.DType, b.Shape)
		}
		if _, err := c.alloc(0, a.DType, a.Shape...); err != nil {
			return err
		}
		c.parallel(a.Len(), functionGrain, body)
		return nil
	}
}
