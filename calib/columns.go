package calib

import (
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// Operand is what a layer multiplies by its constant weight: of a MatMul or Gemm
// the tokens of a value, of a Conv the columns of its windows over the channels of a
// group (see [runtime.Patches]).
type Operand struct {
	Key   string      // in ledgers
	Value string      // the name of the value
	Conv  *graph.Node // nil where the tokens are meant
	Group int         // of Conv

	features int64 // of the operand; 0 where that is not known yet
}

// Operands are those of a MatMul, Gemm or Conv: one, or one for every group.
func Operands(n *graph.Node) []Operand {
	if !n.Is("Conv") {
		return []Operand{OperandOf(n, 0)}
	}
	var out []Operand
	for g := range ConvGroups(n) {
		out = append(out, OperandOf(n, g))
	}
	return out
}

// OperandOf is that of a group, 0 where there are none. Tokens are known by the name
// of their value, columns by that of the convolution's output and the number of their
// group, where there are several.
func OperandOf(n *graph.Node, group int) Operand {
	o := Operand{Key: n.Input(0).Name, Value: n.Input(0).Name, features: features(n)}
	if n.Is("Conv") {
		o.Key, o.Conv, o.Group = "columns of "+n.Output(0).Name, n, group
		if ConvGroups(n) > 1 {
			o.Key = fmt.Sprintf("columns of group %d of %s", group, n.Output(0).Name)
		}
	}
	return o
}

// features is how many inputs the constant weight of a node takes, 0 where that
// cannot be told.
func features(n *graph.Node) int64 {
	w, transposed := Weight(n.Input(1))
	c := w.ConstTensor()
	if c == nil || len(c.Dims) < 2 || c.Len() == 0 {
		return 0
	}
	if n.Is("Conv") {
		return c.Len() / c.Dims[0]
	}
	if n.Is("Gemm") && n.Int("transB", 0) != 0 {
		transposed = !transposed
	}
	if transposed {
		return c.Dims[len(c.Dims)-1]
	}
	return c.Dims[len(c.Dims)-2]
}

// ConvWeight returns the constant [M, C/group, k…] of a Conv, nil where it is no
// constant of float.
func ConvWeight(n *graph.Node) *graph.Tensor {
	root, _ := Weight(n.Input(1))
	if root == nil {
		return nil
	}
	if w := root.ConstTensor(); w.DType == graph.Float32 && len(w.Dims) >= 3 && w.Len() > 0 {
		return w
	}
	return nil
}

// ConvGroups is how many matrices of channels the constant weights of a Conv are: one
// for every group. It is 0 for weights that [ConvWeight] does not return, for groups
// that share out no outputs, and for a depth-wise convolution, whose groups are single
// channels.
func ConvGroups(n *graph.Node) int {
	w, groups := ConvWeight(n), n.Int("group", 1)
	if w == nil || groups < 1 || w.Dims[0]%groups != 0 || groups > 1 && w.Dims[1] == 1 {
		return 0
	}
	return int(groups)
}

// Columns reads columns of the windows of a convolution over the channels of a group,
// batch by batch. An image has thousands of places, next to each other much the same,
// and moments of n numbers take n² multiply-adds for each: of every sample as many
// places are read, spread evenly, as keep their number in all within 2³⁴/n² shared by
// the groups, or 4·n.
type Columns struct {
	patches       *runtime.Patches
	group, groups int
	channels      int // of a group
	samples       int // in all
	seen          int
	column        []float32
}

// columnLimit is how many columns of n numbers are read for each of so many groups:
// some seconds of products in all, but four for every number.
func columnLimit(n, groups int) int {
	return max(4*n, int(min(1<<34/(int64(n)*int64(n)*int64(groups)), math.MaxInt32)))
}

// NewColumns returns the columns of a group of a Conv with constant weights over that
// many samples.
func NewColumns(n *graph.Node, group, samples int) (*Columns, error) {
	w, groups := ConvWeight(n), ConvGroups(n)
	if group >= groups {
		return nil, fmt.Errorf("%v: its weights are no constant matrices of channels", n)
	}
	kernel := make([]int, len(w.Dims)-2)
	for i, d := range w.Dims[2:] {
		kernel[i] = int(d)
	}
	p, err := runtime.NewPatches(n, kernel)
	if err != nil {
		return nil, err
	}
	return &Columns{patches: p, group: group, groups: groups, channels: int(w.Dims[1]), samples: max(samples, 1)}, nil
}

// Each calls f for the columns of the next samples x [N, C, d…] that are read, in
// order. The column holds until f returns.
func (c *Columns) Each(x *runtime.Tensor, f func(sample, place int, column []float32)) error {
	if x.DType != graph.Float32 {
		return fmt.Errorf("element type %v, want float", x.DType)
	}
	if len(x.Shape) < 2 || x.Shape[1] != c.groups*c.channels {
		return fmt.Errorf("%v has not %d channels in %d groups", x.Shape, c.groups*c.channels, c.groups)
	}
	shape := slices.Clone(x.Shape)
	shape[1] = c.channels
	places, n, err := c.patches.Set(shape)
	if err != nil || x.Len() == 0 || places == 0 {
		return err
	}
	if len(c.column) != n {
		c.column = make([]float32, n)
	}
	take := min(max(columnLimit(n, c.groups)/c.samples, 1), places)
	size := x.Len() / (x.Shape[0] * c.groups)
	for i := range x.Shape[0] {
		at := (i*c.groups + c.group) * size
		for k := range take {
			// Samples begin at places of their own, so that all places have their turn.
			place := (k*places/take + c.seen) % places
			c.patches.Read(c.column, x.F32()[at:at+size], place)
			f(i, place, c.column)
		}
		c.seen++
	}
	return nil
}
