package passes

import (
	"fmt"
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
// does not count them. A convolution in groups is such a layer for every group, from
// its channels to its outputs: its parts.

// convLayer reads n, a Conv, as such a layer. It returns nil and the reason where
// n has constant weights and is not of the form.
func convLayer(n *graph.Node) (*layer, string) {
	root, _ := calib.Weight(n.Input(1))
	if root == nil || n.Input(0) == nil {
		return nil, ""
	}
	w, group := calib.ConvWeight(n), n.Int("group", 1)
	switch {
	case n.Input(0).ConstTensor() != nil:
		return nil, "both operands are constant; fold constants first"
	case w == nil:
		c := root.ConstTensor()
		return nil, fmt.Sprintf("its weight is %v%v", c.DType, c.Dims)
	case group != 1 && w.Dims[1] == 1:
		return nil, "it is a depth-wise convolution, which has no matrix of channels"
	case group < 1 || w.Dims[0]%group != 0:
		return nil, fmt.Sprintf("its weight is %v in %d groups", w.Dims, group)
	}
	m, channels := int(w.Dims[0]), int(w.Dims[1])
	l := &layer{node: n, m: m, n: int(w.Len()) / m, weight: weight{root: root, transposed: true, alpha: 1, groups: int(group)}, bias: make([]float32, m)}
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

// parts are the layers that l consists of: one for every group of a convolution, else
// l itself.
func (l *layer) parts() []*layer {
	if l.groups == 1 {
		return []*layer{l}
	}
	out := make([]*layer, l.groups)
	m := l.m / l.groups
	for g := range out {
		p := *l
		p.m, p.groups, p.part, p.bias = m, 1, g, l.bias[g*m:(g+1)*m]
		if l.dense != nil {
			p.dense = l.dense[g*m*l.n : (g+1)*m*l.n]
		}
		out[g] = &p
	}
	return out
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

// weightError is ‖W − C‖² relative to ‖W‖², over the weights that exist.
func (l *layer) weightError(c *circulant.Matrix) (circulant.Error, error) {
	if l.width() == l.run {
		return circulant.WeightError(l.dense, c)
	}
	var e circulant.Error
	got, width := c.Dense(), l.width()
	for i, v := range l.dense {
		row, col := i/l.n, i%l.n
		d := float64(v) - float64(got[row*c.N+col/l.run*width+col%l.run])
		e.Square += d * d
		e.Of += float64(v) * float64(v)
	}
	return e, nil
}

// operatorWeight is the weight of the operator: [p, q, b], for a convolution
// [p, q, b, taps] from the matrix [p, taps·q, b] of every group.
func (l *layer) operatorWeight(parts []*circulant.Matrix) *graph.Tensor {
	taps, c := l.taps(), parts[0]
	q := c.Q / taps
	var w []float32
	for _, c := range parts {
		one := make([]float32, len(c.W))
		for i := range c.P {
			for t := range taps {
				for j := range q {
					for a, v := range c.W[(i*c.Q+t*q+j)*c.B:][:c.B] {
						one[((i*q+j)*c.B+a)*taps+t] = v
					}
				}
			}
		}
		w = append(w, one...)
	}
	return graph.Float32Tensor(slices.Concat([]int64{int64(len(parts) * c.P), int64(q), int64(c.B)}, l.kernel), w)
}
