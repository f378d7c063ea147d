package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// structuredOps are the operators of domain lathe, whose weights are
// structured matrices. A model that uses one carries its definition as a
// function; lowering chooses between that and the kernel here.
var structuredOps = []operator{
	{graph.LatheDomain, "BlockCirculantMatMul", 1, prepareBlockCirculantMatMul, gradBlockCirculantMatMul, halves},
	{graph.LatheDomain, "BlockCirculantConv", 1, prepareBlockCirculantConv, gradBlockCirculantConv, halves},
}

// prepareBlockCirculantMatMul: X [..., n], W [p, q, b], B [m]; see package
// circulant. The spectra of a constant W are computed here.
func prepareBlockCirculantMatMul(n *node) (kernel, error) {
	m := n.int("out_features", 0)
	if err := n.inputs(2, 3); err != nil {
		return nil, err
	}
	build := func(w, b *Tensor) (*circulant.Operator, error) {
		if w.DType != graph.Float32 || len(w.Shape) != 3 {
			return nil, fmt.Errorf("weight W is %v%v, want float [p, q, b]", w.DType, w.Shape)
		}
		mat := &circulant.Matrix{M: m, N: w.Shape[1] * w.Shape[2], P: w.Shape[0], Q: w.Shape[1], B: w.Shape[2], W: w.F32()}
		if err := mat.Validate(); err != nil {
			return nil, err
		}
		var bias []float32
		if b != nil {
			if b.DType != graph.Float32 || b.Len() != m {
				return nil, fmt.Errorf("bias B is %v%v, want %d of float", b.DType, b.Shape, m)
			}
			bias = b.F32()
		}
		return circulant.NewOperator(mat, bias, n.simd)
	}
	var fixed *circulant.Operator
	if w := n.constant(1); w != nil && (!n.has(2) || n.constant(2) != nil) {
		w, err := widened(w)
		if err != nil {
			return nil, err
		}
		b := n.constant(2)
		if b != nil {
			if b, err = widened(b); err != nil {
				return nil, err
			}
		}
		if w == nil || n.has(2) && b == nil {
			return nil, errors.New("weights are of no floating-point type")
		}
		if fixed, err = build(w, b); err != nil {
			return nil, err
		}
		n.drop(1)
		if n.has(2) {
			n.drop(2)
		}
	}
	type state struct {
		op        *circulant.Operator
		x         []float32
		n, tokens int
		ws        []float32
		wsLen     int
		shape     []int
	}
	tiles := func(c *call, worker, lo, hi int) {
		s := c.state.(*state)
		ws := s.ws[worker*s.wsLen:][:s.wsLen]
		lo, hi = lo*s.op.Tile(), min(s.tokens, hi*s.op.Tile())
		s.op.Apply(c.out[0].F32()[lo*m:], m, s.x[lo*s.n:], s.n, hi-lo, ws)
	}
	return byType{graph.Float32: func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{op: fixed}
			c.state = s
		}
		var err error
		if fixed == nil {
			if s.op, err = build(c.in[1], c.input(2)); err != nil {
				return err
			}
		}
		x := c.in[0]
		if len(x.Shape) == 0 {
			return errors.New("input X is a scalar")
		}
		n := x.Shape[len(x.Shape)-1]
		_, s.n = s.op.Dims()
		if n > s.n {
			return fmt.Errorf("input X %v has %d features, W takes %d", x.Shape, n, s.n)
		}
		tokens, err := count(x.Shape[:len(x.Shape)-1])
		if err != nil {
			return err
		}
		s.shape = append(append(s.shape[:0], x.Shape[:len(x.Shape)-1]...), m)
		if _, err := c.alloc(0, graph.Float32, s.shape...); err != nil {
			return err
		}
		if s.x = x.F32(); n < s.n {
			// Zeros where the last block reaches beyond the features.
			if s.x, err = scratch[float32](c, tokens*s.n); err != nil {
				return err
			}
			for t := range tokens {
				copy(s.x[t*s.n:], x.F32()[t*n:(t+1)*n])
				clear(s.x[t*s.n+n : (t+1)*s.n])
			}
		}
		c.flops += s.op.FLOPs(tokens)
		s.wsLen = s.op.Workspace()
		if s.ws, err = scratch[float32](c, s.wsLen*c.workers()); err != nil {
			return err
		}
		s.tokens = tokens
		c.parallelWorkers((tokens+s.op.Tile()-1)/s.op.Tile(), 1, tiles)
		return nil
	}}.kernel(0), nil
}
