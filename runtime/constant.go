package runtime

import (
	"errors"

	"github.com/onnx-lathe/lathe/graph"
)

// constantOps give values that depend on no element of an input.
var constantOps = []operator{
	{"", "Constant", 1, prepareConstant, 0},
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
