package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// constantOps give values that depend on the shape of an input at most, or on
// a few numbers.
var constantOps = []operator{
	{"", "Constant", 1, prepareConstant, nil, 0},
	{"", "ConstantOfShape", 9, prepareConstantOfShape, nil, 0},
	{"", "Shape", 1, prepareShape, nil, 0},
	{"", "Size", 1, prepareSize, nil, 0},
	{"", "Range", 11, prepareRange, nil, 0},
}

func prepareConstant(n *node) (kernel, error) {
	var t *Tensor
	for _, a := range n.attrs {
		switch a.Name {
		case "value":
			t = n.tensor("value")
		case "sparse_value":
			if a.Sparse == nil {
				return nil, errors.New("attribute sparse_value is empty")
			}
			var err error
			if t, err = densify(a.Sparse); err != nil {
				return nil, err
			}
		case "value_float":
			t = FromSlice([]int{}, []float32{n.float("value_float", 0)})
		case "value_floats":
			v := n.floats("value_floats")
			t = FromSlice([]int{len(v)}, v)
		case "value_int":
			t = FromSlice([]int{}, []int64{int64(n.int("value_int", 0))})
		case "value_ints":
			if a := n.attr("value_ints", graph.AttrInts); a != nil {
				t = FromSlice([]int{len(a.Ints)}, a.Ints)
			}
		case "value_string":
			t = FromSlice([]int{}, []string{n.str("value_string", "")})
		case "value_strings":
			v := n.strings("value_strings")
			t = FromSlice([]int{len(v)}, v)
		}
	}
	if n.err != nil {
		return nil, n.err
	}
	if t == nil {
		return nil, errors.New("no value")
	}
	return func(c *call) error {
		c.share(0, t)
		return nil
	}, nil
}

// prepareShape: the dims from start to end, both clamped to the rank.
func prepareShape(n *node) (kernel, error) {
	start, end := n.int("start", 0), n.int("end", math.MaxInt)
	return func(c *call) error {
		x := c.in[0]
		r := len(x.Shape)
		clamp := func(i int) int {
			if i < 0 {
				i += r
			}
			return max(0, min(i, r))
		}
		lo, hi := clamp(start), clamp(end)
		z, err := c.alloc(0, graph.Int64, max(0, hi-lo))
		if err != nil {
			return err
		}
		for i := range z.I64() {
			z.I64()[i] = int64(x.Shape[lo+i])
		}
		return nil
	}, n.inputs(1, 1)
}

func prepareSize(n *node) (kernel, error) {
	return func(c *call) error {
		z, err := c.alloc(0, graph.Int64)
		if err != nil {
			return err
		}
		z.I64()[0] = int64(c.in[0].Len())
		return nil
	}, n.inputs(1, 1)
}

// prepareConstantOfShape: one value everywhere, 0 in float32 if none is given.
func prepareConstantOfShape(n *node) (kernel, error) {
	value := n.tensor("value")
	if value == nil {
		value = FromSlice([]int{1}, []float32{0})
	}
	if value.Len() != 1 {
		return nil, fmt.Errorf("value has %d elements, want 1", value.Len())
	}
	return func(c *call) error {
		s := c.shapes()
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[0]); err != nil {
			return err
		}
		z, err := c.alloc(0, value.DType, s.dims...)
		if err != nil {
			return err
		}
		for i := range z.strs {
			z.strs[i] = value.strs[0]
		}
		fill(z.mem, value.mem)
		return nil
	}, n.inputs(1, 1)
}

// prepareRange: start, start + delta, … before limit.
func prepareRange(n *node) (kernel, error) {
	return byType{
		graph.Float32: rangeOf[float32],
		graph.Float64: rangeOf[float64],
		graph.Int16:   rangeOf[int16],
		graph.Int32:   rangeOf[int32],
		graph.Int64:   rangeOf[int64],
	}.kernel(0), n.inputs(3, 3)
}

func rangeOf[T number](c *call) error {
	var v [3]T
	for i, what := range []string{"start", "limit", "delta"} {
		var err error
		if v[i], err = one[T](c.in[i], what); err != nil {
			return err
		}
	}
	start, limit, delta := v[0], v[1], v[2]
	if delta == 0 {
		return errors.New("delta is 0")
	}
	n := math.Ceil((float64(limit) - float64(start)) / float64(delta))
	if !(n > 0) {
		n = 0
	}
	if n > maxBytes {
		return fmt.Errorf("%v elements are too many", n)
	}
	z, err := c.alloc(0, dtypeOf[T](), int(n))
	if err != nil {
		return err
	}
	for i := range view[T](z) {
		view[T](z)[i] = start + T(T(i)*delta)
	}
	return nil
}
