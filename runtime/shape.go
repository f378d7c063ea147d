package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// shapeOps give their input another shape, or none other, without touching an
// element.
var shapeOps = []operator{
	{"", "Identity", 1, prepareIdentity, gradIdentity, sequences},
	{"", "Dropout", 7, prepareDropout, gradIdentity, 0},
	{"", "Reshape", 5, prepareReshape, gradReshape, 0},
	{"", "Flatten", 1, prepareFlatten, gradReshape, 0},
	{"", "Squeeze", 1, prepareSqueeze, gradReshape, 0},
	{"", "Unsqueeze", 1, prepareUnsqueeze, gradReshape, 0},
}

func prepareIdentity(n *node) (kernel, error) {
	return func(c *call) error {
		if !c.has(0) {
			return errors.New("input 0 is missing")
		}
		c.share(0, c.in[0])
		return nil
	}, n.inputs(1, 1)
}

// prepareDropout: at inference nothing is dropped, and the mask is all true.
func prepareDropout(n *node) (kernel, error) {
	return func(c *call) error {
		x := c.in[0]
		if c.has(2) {
			training, err := one[bool](c.in[2], "training_mode")
			if err != nil {
				return err
			}
			if training && !(c.has(1) && c.in[1].Len() == 1 && isZero(c.in[1])) {
				return errors.New("training_mode is on: only inference can be run")
			}
		}
		c.share(0, x)
		if !c.wants(1) {
			return nil
		}
		d := graph.Bool
		if n.opset < 10 {
			d = x.DType
		}
		mask, err := c.alloc(1, d, x.Shape...)
		if err != nil {
			return err
		}
		ones := FromSlice([]int{1}, []bool{true})
		unit := &Tensor{DType: d, Shape: ones.Shape, mem: aligned(elemSize(d))}
		if err := convert(unit, ones, castRules{}); err != nil {
			return err
		}
		for at := 0; at < len(mask.mem); at += len(unit.mem) {
			copy(mask.mem[at:], unit.mem)
		}
		return nil
	}, n.inputs(1, 3)
}

// isZero reports whether every byte of t is zero.
func isZero(t *Tensor) bool {
	for _, b := range t.mem {
		if b != 0 {
			return false
		}
	}
	return true
}

// dimsOf reads a tensor of int64 that says dims or axes.
func dimsOf(dst []int, t *Tensor) ([]int, error) {
	if t.DType != graph.Int64 || len(t.Shape) > 1 {
		return nil, fmt.Errorf("dims or axes are %v%v, want a list of int64", t.DType, t.Shape)
	}
	dst = dst[:0]
	for _, v := range t.I64() {
		if int64(int(v)) != v {
			return nil, fmt.Errorf("%d is out of range", v)
		}
		dst = append(dst, int(v))
	}
	return dst, nil
}

// shapeState is what the operators of this file keep between calls.
type shapeState struct{ dims, axes []int }

func (c *call) shapes() *shapeState {
	s, ok := c.state.(*shapeState)
	if !ok {
		s = &shapeState{}
		c.state = s
	}
	return s
}

// prepareReshape: 0 copies the input's dimension (unless allowzero), -1 takes
// what is left.
func prepareReshape(n *node) (kernel, error) {
	allowzero := n.bool("allowzero", false)
	return func(c *call) error {
		x := c.in[0]
		s := c.shapes()
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		if err := reshaped(s.dims, x.Shape, allowzero); err != nil {
			return err
		}
		return c.view(0, x, s.dims...)
	}, n.inputs(2, 2)
}

// reshaped replaces what Reshape's dims leave open for an input of a shape.
func reshaped(dims, shape []int, allowzero bool) error {
	infer, known := -1, 1
	for i, d := range dims {
		switch {
		case d == 0 && !allowzero:
			if i >= len(shape) {
				return fmt.Errorf("shape %v copies dimension %d of %v", dims, i, shape)
			}
			dims[i] = shape[i]
		case d == -1 && infer >= 0:
			return fmt.Errorf("shape %v leaves two dimensions open", dims)
		case d == -1:
			infer = i
		case d < 0:
			return fmt.Errorf("shape %v has a negative dimension", dims)
		}
		if dims[i] > 0 && known > maxBytes/dims[i] {
			return fmt.Errorf("shape %v is too large", dims)
		}
		if dims[i] >= 0 {
			known *= dims[i]
		}
	}
	if infer >= 0 {
		size := 1
		for _, d := range shape {
			size *= d
		}
		if known == 0 || size%known != 0 {
			return fmt.Errorf("%v cannot be reshaped to %v", shape, dims)
		}
		dims[infer] = size / known
	}
	return nil
}

// prepareFlatten: axis may count from the end since opset 11.
func prepareFlatten(n *node) (kernel, error) {
	at := n.int("axis", 1)
	return func(c *call) error {
		x := c.in[0]
		r := len(x.Shape)
		if at < -r || at > r {
			return fmt.Errorf("axis %d is out of range for rank %d", at, r)
		}
		a := at
		if a < 0 {
			a += r
		}
		outer, err := count(x.Shape[:a])
		if err != nil {
			return err
		}
		inner, err := count(x.Shape[a:])
		if err != nil {
			return err
		}
		return c.view(0, x, outer, inner)
	}, n.inputs(1, 1)
}

// axesOf reads the axes of Squeeze and Unsqueeze: an attribute until opset
// 12, an input after that.
func axesOf(n *node, attr []int, c *call, s *shapeState) (axes []int, given bool, err error) {
	if n.opset < 13 {
		return attr, attr != nil, nil
	}
	if !c.has(1) {
		return nil, false, nil
	}
	s.axes, err = dimsOf(s.axes, c.in[1])
	return s.axes, true, err
}

func prepareSqueeze(n *node) (kernel, error) {
	attr := n.ints("axes")
	return func(c *call) error {
		x, s := c.in[0], c.shapes()
		axes, given, err := axesOf(n, attr, c, s)
		if err != nil {
			return err
		}
		r := len(x.Shape)
		s.dims = s.dims[:0]
		for i, d := range x.Shape {
			gone := !given && d == 1
			for _, a := range axes {
				if a < -r || a >= r {
					return fmt.Errorf("axis %d is out of range for rank %d", a, r)
				}
				if a == i || a+r == i {
					if d != 1 {
						return fmt.Errorf("axis %d of %v is not 1", a, x.Shape)
					}
					gone = true
				}
			}
			if !gone {
				s.dims = append(s.dims, d)
			}
		}
		return c.view(0, x, s.dims...)
	}, n.inputs(1, 2)
}

func prepareUnsqueeze(n *node) (kernel, error) {
	attr := n.ints("axes")
	return func(c *call) error {
		x, s := c.in[0], c.shapes()
		axes, given, err := axesOf(n, attr, c, s)
		if err != nil {
			return err
		}
		if !given {
			return errors.New("axes are missing")
		}
		r := len(x.Shape) + len(axes)
		if r > 1<<10 {
			return fmt.Errorf("%d axes are too many", len(axes))
		}
		s.dims = s.dims[:0]
		for range r {
			s.dims = append(s.dims, -1)
		}
		for _, a := range axes {
			a, err := axis(a, r)
			if err != nil {
				return err
			}
			if s.dims[a] == 1 {
				return fmt.Errorf("axes %v name one twice", axes)
			}
			s.dims[a] = 1
		}
		k := 0
		for i := range s.dims {
			if s.dims[i] < 0 {
				s.dims[i] = x.Shape[k]
				k++
			}
		}
		return c.view(0, x, s.dims...)
	}, n.inputs(1, 2)
}
