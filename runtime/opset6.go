package runtime

import (
	"errors"
	"fmt"
	"slices"
)

// opset6Ops are the operators that opset 7 gave another meaning: until then
// the second operand broadcasts to the first only where the attribute
// broadcast says so, from the axis on that the attribute axis names.
var opset6Ops = []operator{
	{"", "Add", 6, oneWay("Add"), nil, halves},
	{"", "Sub", 6, oneWay("Sub"), nil, halves},
	{"", "Mul", 6, oneWay("Mul"), nil, halves},
	{"", "Div", 6, oneWay("Div"), nil, halves},
	{"", "Pow", 6, oneWay("Pow"), nil, halves},
	{"", "And", 6, oneWay("And"), nil, 0},
	{"", "Or", 6, oneWay("Or"), nil, 0},
	{"", "Xor", 6, oneWay("Xor"), nil, 0},
	{"", "Equal", 6, oneWay("Equal"), nil, 0},
	{"", "Greater", 6, oneWay("Greater"), nil, halves},
	{"", "Less", 6, oneWay("Less"), nil, halves},
	{"", "PRelu", 6, preparePRelu6, nil, halves},
	{"", "Gemm", 6, prepareGemm, nil, halves},
	{"", "BatchNormalization", 6, prepareBatchNorm6, nil, halves},
}

// opset7 returns how a node is prepared from opset 7 on.
func opset7(table []operator, name string) func(n *node) (kernel, error) {
	for i := range table {
		if o := &table[i]; o.name == name && o.since >= 7 {
			return o.prepare
		}
	}
	return nil
}

// spreadTo returns b as it broadcasts to a when its first dim lies at axis of
// a (at the end where axis is negative).
func spreadTo(a, b []int, axis int) ([]int, error) {
	at := axis
	if axis < 0 {
		at = len(a) - len(b)
	}
	if at < 0 || at+len(b) > len(a) {
		return nil, fmt.Errorf("%v does not broadcast to %v from axis %d on", b, a, axis)
	}
	out := slices.Clone(b)
	for range len(a) - at - len(b) {
		out = append(out, 1)
	}
	for i, d := range b {
		if d != 1 && d != a[at+i] {
			return nil, fmt.Errorf("%v does not broadcast to %v from axis %d on", b, a, at)
		}
	}
	return out, nil
}

func oneWay(name string) func(n *node) (kernel, error) {
	return func(n *node) (kernel, error) {
		prepare := opset7(slices.Concat(elementwiseOps, unaryOps), name)
		if prepare == nil {
			return nil, errors.New("opset 7 has no such operator")
		}
		k, err := prepare(n)
		if err != nil {
			return nil, err
		}
		broadcasts, at := n.bool("broadcast", false), n.int("axis", -1)
		return func(c *call) error {
			a, b := c.in[0], *c.in[1]
			if !broadcasts {
				if !slices.Equal(a.Shape, b.Shape) {
					return fmt.Errorf("shapes %v and %v differ and broadcast is not set", a.Shape, b.Shape)
				}
				return k(c)
			}
			var err error
			if b.Shape, err = spreadTo(a.Shape, b.Shape, at); err != nil {
				return err
			}
			c.in[1] = &b
			return k(c)
		}, n.inputs(2, 2)
	}
}

// preparePRelu6: the slope is one number or one a channel, which is axis 1.
func preparePRelu6(n *node) (kernel, error) {
	prepare := opset7(slices.Concat(elementwiseOps, unaryOps), "PRelu")
	if prepare == nil {
		return nil, errors.New("opset 7 has no such operator")
	}
	k, err := prepare(n)
	if err != nil {
		return nil, err
	}
	return func(c *call) error {
		slope := *c.in[1]
		if slope.Len() > 1 {
			if slope.Shape, err = spreadTo(c.in[0].Shape, slope.Shape, min(1, len(c.in[0].Shape)-1)); err != nil {
				return err
			}
			c.in[1] = &slope
		}
		return k(c)
	}, n.inputs(2, 2)
}

func prepareBatchNorm6(n *node) (kernel, error) {
	if !n.bool("is_test", false) {
		return nil, errors.New("is_test = 0: only inference can be run")
	}
	return prepareBatchNorm(n)
}
