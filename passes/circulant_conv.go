package passes

import (
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// A convolution is the product of its weights with the columns of its windows,
// tap by tap the channels of a pixel: W [m, taps·channels]. Cut into blocks tap by
// tap, that is one block-circulant matrix of p×(taps·q) blocks, which every fit
// takes as it takes any other. Where b does not divide the channels, those of every
// tap are padded: such columns have no data and no weights, and the projection
// does not count them.

// convLayer reads n, a Conv, as such a layer. It returns nil and the reason where
// n has constant weights and is not of the form.
func convLayer(n *graph.Node) (*layer, string) {
	root, _ := calib.Weight(n.Input(1))
	if root == nil || n.Input(0) == nil {
		return nil, ""
	}
	w := calib.ConvWeight(n)
	group := n.Int("group", 1)
	switch {
	case n.Input(0).ConstTensor() != nil:
		return nil, "both operands are constant; fold constants first"
	case w == nil:
		c := root.ConstTensor()
		return nil, fmt.Sprintf("its weight is %v%v", c.DType, c.Dims)
	case group != 1 && w.Dims[1] == 1:
		return nil, "it is a depth-wise convolution, which has no matrix of channels"
	case group != 1:
		return nil, "it is a convolution in groups"
	}
	m, channels := int(w.Dims[0]), int(w.Dims[1])
	l := &layer{node: n, m: m, n: int(w.Len()) / m, weight: weight{root: root, transposed: true, alpha: 1}, bias: make([]float32, m)}
	l.kernel, l.run = w.Dims[2:], channels
	if b := n.Input(2); b != nil {
		c := b.ConstTensor()
		if c == nil || c.DType != graph.Float32 || c.Len() != int64(m) {
			return nil, "its bias is not a constant for every output"
		}
		data, err := c.Float32s()
		if err != nil {
			return nil, err.Error()
		}
		copy(l.bias, data)
		l.biased = true
	}
	return l, ""
}

// taps is the number of runs of columns.
func (l *layer) taps() int { return l.n / l.run }

// width is how many columns a run takes in the matrix that is fitted.
func (l *layer) width() int {
	if l.taps() == 1 {
		return l.run // the last block of a matrix may reach beyond it
	}
	return blocks(l.run, l.block) * l.block
}

// columns is the number of columns of the matrix that is fitted.
func (l *layer) columns() int { return l.taps() * l.width() }

// wide is the dense matrix [m, columns].
func (l *layer) wide() []float32 {
	if l.width() == l.run {
		return l.dense
	}
	w := make([]float32, l.m*l.columns())
	circulant.PadRuns(w, l.dense, l.run, l.width())
	return w
}

// padded are moments of the columns that are fitted.
func (l *layer) padded(x *circulant.Moments) *circulant.Moments { return x.Padded(l.run, l.width()) }

// frobenius is the projection.
func (l *layer) frobenius() (*circulant.Matrix, error) {
	if l.width() == l.run {
		return circulant.Frobenius(l.dense, l.m, l.n, l.block)
	}
	c, err := circulant.New(l.m, l.columns(), l.block)
	if err != nil {
		return nil, err
	}
	tap := make([]float32, l.m*l.run)
	q := l.width() / l.block
	for t := range l.taps() {
		for i := range l.m {
			copy(tap[i*l.run:(i+1)*l.run], l.dense[i*l.n+t*l.run:])
		}
		f, err := circulant.Frobenius(tap, l.m, l.run, l.block)
		if err != nil {
			return nil, err
		}
		for i := range c.P {
			copy(c.W[(i*c.Q+t*q)*c.B:], f.W[i*q*c.B:(i+1)*q*c.B])
		}
	}
	return c, nil
}

// weightError is ‖W − C‖ / ‖W‖ over the weights that exist.
func (l *layer) weightError(c *circulant.Matrix) (float64, error) {
	if l.width() == l.run {
		return circulant.WeightError(l.dense, c)
	}
	var diff, norm float64
	got, width := c.Dense(), l.width()
	for i, v := range l.dense {
		row, col := i/l.n, i%l.n
		d := float64(v) - float64(got[row*c.N+col/l.run*width+col%l.run])
		diff += d * d
		norm += float64(v) * float64(v)
	}
	if diff == 0 {
		return 0, nil
	}
	return math.Sqrt(diff / norm), nil
}

// convWeight is the weight of the operator: [p, q, b, taps] from the matrix
// [p, taps·q, b].
func (l *layer) convWeight(c *circulant.Matrix) *graph.Tensor {
	taps := l.taps()
	q := c.Q / taps
	w := make([]float32, len(c.W))
	for i := range c.P {
		for t := range taps {
			for j := range q {
				for a, v := range c.W[(i*c.Q+t*q+j)*c.B:][:c.B] {
					w[((i*q+j)*c.B+a)*taps+t] = v
				}
			}
		}
	}
	return graph.Float32Tensor(slices.Concat([]int64{int64(c.P), int64(q), int64(c.B)}, l.kernel), w)
}
