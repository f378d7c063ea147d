package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// elementwiseOps computes element by element, under broadcasting where there
// is more than one input.
var elementwiseOps = []operator{
	{"", "Add", 7, prepareArithmetic, halves},
	{"", "Sub", 7, prepareArithmetic, halves},
	{"", "Mul", 7, prepareArithmetic, halves},
	{"", "Div", 7, prepareArithmetic, halves},
	{"", "Relu", 6, prepareUnary, halves},
}

// number is the types that arithmetic is defined on.
type number interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 | float32 | float64
}

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

// binary is the kernel of an operator of two operands of one type.
func binary[T, Z element](l *loops[T, Z]) kernel {
	body := func(c *call, lo, hi int) {
		b := c.state.(*broadcast)
		z, x, y := view[Z](c.out[0]), view[T](c.in[0]), view[T](c.in[1])
		dx, dy := b.inner(0), b.inner(1)
		for r := b.from(lo, hi); r.ok(); r.next() {
			zr, ox, oy := z[r.at:r.at+r.n], r.off[0], r.off[1]
			switch {
			case dx != 0 && dy != 0:
				l.vv(zr, x[ox:ox+r.n], y[oy:oy+r.n])
			case dx != 0:
				l.vs(zr, x[ox:ox+r.n], y[oy])
			case dy != 0:
				l.sv(zr, x[ox], y[oy:oy+r.n])
			default:
				l.vv(zr[:1], x[ox:ox+1], y[oy:oy+1])
				for i := 1; i < r.n; i++ {
					zr[i] = zr[0]
				}
			}
		}
	}
	d := dtypeOf[Z]()
	return func(c *call) error {
		if len(c.in) != 2 || c.in[0] == nil || c.in[1] == nil {
			return errors.New("wants two inputs")
		}
		if c.in[0].DType != c.in[1].DType {
			return fmt.Errorf("inputs are %v and %v, want one type", c.in[0].DType, c.in[1].DType)
		}
		b, ok := c.state.(*broadcast)
		if !ok {
			b = &broadcast{}
			c.state = b
		}
		if err := b.set(c.in[0].Shape, c.in[1].Shape); err != nil {
			return err
		}
		if _, err := c.alloc(0, d, b.shape...); err != nil {
			return err
		}
		c.parallel(b.size, elementGrain, body)
		return nil
	}
}

// elementGrain is the least number of elements that are worth a thread: about
// ten microseconds of the simplest loop.
const elementGrain = 1 << 14

func prepareArithmetic(n *node) (kernel, error) {
	return byType{
		graph.Float32: binary(arithmetic[float32](n.op)),
		graph.Float64: binary(arithmetic[float64](n.op)),
		graph.Int8:    integers(n.op, arithmetic[int8](n.op)),
		graph.Int16:   integers(n.op, arithmetic[int16](n.op)),
		graph.Int32:   integers(n.op, arithmetic[int32](n.op)),
		graph.Int64:   integers(n.op, arithmetic[int64](n.op)),
		graph.Uint8:   integers(n.op, arithmetic[uint8](n.op)),
		graph.Uint16:  integers(n.op, arithmetic[uint16](n.op)),
		graph.Uint32:  integers(n.op, arithmetic[uint32](n.op)),
		graph.Uint64:  integers(n.op, arithmetic[uint64](n.op)),
	}.kernel(0), nil
}

// arithmetic returns the loops of Add, Sub, Mul or Div. Integers wrap around;
// their quotient is truncated.
func arithmetic[T number](op string) *loops[T, T] {
	switch op {
	case "Add":
		return &loops[T, T]{
			func(z, x, y []T) {
				x, y = x[:len(z)], y[:len(z)]
				for i := range z {
					z[i] = x[i] + y[i]
				}
			},
			func(z, x []T, y T) {
				x = x[:len(z)]
				for i := range z {
					z[i] = x[i] + y
				}
			},
			func(z []T, x T, y []T) {
				y = y[:len(z)]
				for i := range z {
					z[i] = x + y[i]
				}
			},
		}
	case "Sub":
		return &loops[T, T]{
			func(z, x, y []T) {
				x, y = x[:len(z)], y[:len(z)]
				for i := range z {
					z[i] = x[i] - y[i]
				}
			},
			func(z, x []T, y T) {
				x = x[:len(z)]
				for i := range z {
					z[i] = x[i] - y
				}
			},
			func(z []T, x T, y []T) {
				y = y[:len(z)]
				for i := range z {
					z[i] = x - y[i]
				}
			},
		}
	case "Mul":
		return &loops[T, T]{
			func(z, x, y []T) {
				x, y = x[:len(z)], y[:len(z)]
				for i := range z {
					z[i] = x[i] * y[i]
				}
			},
			func(z, x []T, y T) {
				x = x[:len(z)]
				for i := range z {
					z[i] = x[i] * y
				}
			},
			func(z []T, x T, y []T) {
				y = y[:len(z)]
				for i := range z {
					z[i] = x * y[i]
				}
			},
		}
	case "Div":
		return &loops[T, T]{
			func(z, x, y []T) {
				x, y = x[:len(z)], y[:len(z)]
				for i := range z {
					z[i] = x[i] / y[i]
				}
			},
			func(z, x []T, y T) {
				x = x[:len(z)]
				for i := range z {
					z[i] = x[i] / y
				}
			},
			func(z []T, x T, y []T) {
				y = y[:len(z)]
				for i := range z {
					z[i] = x / y[i]
				}
			},
		}
	}
	panic("runtime: no arithmetic loops for " + op)
}

// integers is binary with a check of the divisors of Div and Mod: the
// processor traps on an integer division by zero.
func integers[T integer](op string, l *loops[T, T]) kernel {
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

// unary is the kernel of an operator of one operand that keeps its shape.
func unary[T, Z element](f func(z []Z, x []T)) kernel {
	return unaryGrain(f, elementGrain)
}

func unaryGrain[T, Z element](f func(z []Z, x []T), grain int) kernel {
	body := func(c *call, lo, hi int) {
		f(view[Z](c.out[0])[lo:hi], view[T](c.in[0])[lo:hi])
	}
	d := dtypeOf[Z]()
	return func(c *call) error {
		if _, err := c.alloc(0, d, c.in[0].Shape...); err != nil {
			return err
		}
		c.parallel(c.in[0].Len(), grain, body)
		return nil
	}
}

func prepareUnary(n *node) (kernel, error) {
	return byType{
		graph.Float32: unary(relu[float32]),
		graph.Float64: unary(relu[float64]),
		graph.Int8:    unary(relu[int8]),
		graph.Int16:   unary(relu[int16]),
		graph.Int32:   unary(relu[int32]),
		graph.Int64:   unary(relu[int64]),
	}.kernel(0), nil
}

// relu keeps NaN.
func relu[T number](z, x []T) {
	for i, v := range x {
		if v < 0 {
			v = 0
		}
		z[i] = v
	}
}
