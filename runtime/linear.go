package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// linear is x·W + b of one x [..., k], or vector [k], with one or more constant
// matrices W [k, n], each with a bias b [n] or none: an output for each. The
// products are one piece of work for the threads. Every element is that of the
// product by itself.
type linear struct {
	k      *simd.Kernels
	layers []layer
	depth  int  // k
	width  int  // Σ n
	matrix bool // x has to be a matrix, as for Gemm
}

type layer struct {
	w    simd.Packed
	n    int
	bias []float32 // nil for none
}

// linearWeight returns the constant matrix W that MatMul or Gemm multiplies its
// input with, whether it is stored as [n, k], and the bias, if nothing else
// happens there; nil where that is not so.
func linearWeight(n *node) (w, bias *Tensor, transposed bool) {
	w = n.constant(1)
	if w == nil || len(w.Shape) != 2 || w.Len() == 0 {
		return nil, nil, false
	}
	if n.op == "MatMul" {
		return w, nil, false
	}
	transposed = n.bool("transB", false)
	if n.float("alpha", 1) != 1 || n.bool("transA", false) {
		return nil, nil, false
	}
	if !n.has(2) {
		return w, nil, transposed
	}
	out := w.Shape[1]
	if transposed {
		out = w.Shape[0]
	}
	bias = n.constant(2)
	if bias == nil || n.float("beta", 1) != 1 || len(bias.Shape) == 0 || bias.Len() != out || bias.Shape[len(bias.Shape)-1] != out {
		return nil, nil, false
	}
	return w, bias, transposed
}

// fixedLinear prepares a MatMul or Gemm, FusedGemm's too, that is one product with
// a constant matrix, and perhaps a bias, and drops these inputs; nil where it is
// not.
func fixedLinear(n *node) (*linear, error) {
	most := 3
	if n.op == "MatMul" {
		most = 2
	}
	if err := n.inputs(2, most); err != nil {
		return nil, err
	}
	w, b, transposed := linearWeight(n)
	if w == nil {
		return nil, nil
	}
	w, err := widened(w)
	if w == nil || err != nil {
		return nil, err
	}
	var bias []float32
	if b != nil {
		if b, err = widened(b); b == nil || err != nil {
			return nil, err
		}
		bias = b.F32()
		n.drop(2)
	}
	n.drop(1)
	l := newLinear(n.simd, w, transposed, bias)
	l.matrix = n.op != "MatMul"
	return l, nil
}

// newLinear is one product with W [k, n], or [n, k] if transposed.
func newLinear(k *simd.Kernels, w *Tensor, transposed bool, bias []float32) *linear {
	rows, cols := w.Shape[0], w.Shape[1]
	if transposed {
		rows, cols = cols, rows
	}
	p := k.PackB(matrix(w.F32(), rows, cols, transposed), rows, cols)
	return &linear{k: k, layers: []layer{{p, cols, bias}}, depth: rows, width: cols}
}

// join adds the layers of a product with the same x.
func (l *linear) join(o *linear) {
	l.k, l.depth, l.matrix = o.k, o.depth, o.matrix
	l.layers = append(l.layers, o.layers...)
	l.width += o.width
}

// linearState is the product at hand.
type linearState struct {
	shape []int
	rows  int
	parts int // the columns of all layers are split in about so many
	units int // the parts in fact
}

// columnParts is how many parts columns of a product are split in for rows of A:
// where there are few, so that threads share B and not the rows; 0 otherwise.
func columnParts(rows, columns, workers int) int {
	switch {
	case columns >= 256 && rows < 16:
		return min(columns/64, 64)
	case columns >= 256 && workers > 1 && rows < lowRows*workers:
		return min(columns/96, 4*workers)
	}
	return 0
}

// parts is how many of the parts fall to a layer.
func (l *linear) parts(s *linearState, i int) int { return max(1, s.parts*l.layers[i].n/l.width) }

func (l *linear) kernel() kernel { return byType{graph.Float32: l.run}.kernel(0) }

func (l *linear) run(c *call) error {
	s, ok := c.state.(*linearState)
	if !ok {
		s = &linearState{}
		c.state = s
	}
	x := c.in[0]
	r := len(x.Shape)
	switch {
	case r == 0:
		return errors.New("a scalar is no matrix")
	case l.matrix && r != 2:
		return fmt.Errorf("input %v is no matrix", x.Shape)
	case x.Shape[r-1] != l.depth:
		return fmt.Errorf("%v times [%d %d]: %d columns meet %d rows", x.Shape, l.depth, l.layers[0].n, x.Shape[r-1], l.depth)
	}
	var err error
	if s.rows, err = count(x.Shape[:r-1]); err != nil {
		return err
	}
	for i := range l.layers {
		s.shape = append(append(s.shape[:0], x.Shape[:r-1]...), l.layers[i].n)
		if _, err := c.alloc(i, graph.Float32, s.shape...); err != nil {
			return err
		}
	}
	if s.rows == 0 {
		return nil
	}
	c.flops += 2 * int64(s.rows) * int64(l.depth) * int64(l.width)
	if s.parts = columnParts(s.rows, l.width, c.workers()); s.parts == 0 {
		c.arg = l
		c.parallel((s.rows+rowUnit-1)/rowUnit, 1+multiplyGrain/(1+rowUnit*l.depth*l.width), linearRows)
		return nil
	}
	s.units = 0
	for i := range l.layers {
		s.units += l.parts(s, i)
	}
	c.arg = l
	c.parallel(s.units, 1+multiplyGrain/(1+s.rows*l.depth*l.width/s.units), linearColumns)
	return nil
}

// linearRows computes units [lo, hi) of the rows.
func linearRows(c *call, lo, hi int) {
	l, s := c.arg.(*linear), c.state.(*linearState)
	lo, hi = lo*rowUnit, min(hi*rowUnit, s.rows)
	a := simd.RowMajor(c.in[0].F32()[lo*l.depth:], l.depth)
	for i := range l.layers {
		y := &l.layers[i]
		l.k.Gemm(c.out[i].F32()[lo*y.n:], y.n, a, hi-lo, y.w, y.bias, false)
	}
}

// linearColumns computes parts [lo, hi) of the columns, those of the first layer
// before those of the next.
func linearColumns(c *call, lo, hi int) {
	l, s := c.arg.(*linear), c.state.(*linearState)
	a := simd.RowMajor(c.in[0].F32(), l.depth)
	first := 0 // part of the layer
	for i := range l.layers {
		y, parts := &l.layers[i], l.parts(s, i)
		for part := max(lo-first, 0); part < min(hi-first, parts); part++ {
			b, col := y.w.Split(part, parts)
			if _, n := b.Dims(); n == 0 {
				continue
			}
			bias := y.bias
			if bias != nil {
				bias = bias[col:]
			}
			l.k.Gemm(c.out[i].F32()[col:], y.n, a, s.rows, b, bias, false)
		}
		first += parts
	}
}
