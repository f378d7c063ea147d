package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// structuredOps are the operators of domain lathe, whose weights are
// structured matrices. A model that uses one carries its definition as a
// function; lowering chooses between that and the kernel here.
var structuredOps = []operator{
	{graph.LatheDomain, "BlockCirculantMatMul", 1, prepareBlockCirculantMatMul, gradBlockCirculantMatMul, halves},
	{graph.LatheDomain, "BlockCirculantConv", 1, prepareBlockCirculantConv, gradBlockCirculantConv, halves},
}

// circulantOperator prepares a product with W [p, q, b] and bias B [m], or nil.
func circulantOperator(m int, w, b *Tensor, k *simd.Kernels) (*circulant.Operator, error) {
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
	return circulant.NewOperator(mat, bias, k)
}

// fixedCirculant prepares the product of a BlockCirculantMatMul with constant
// weights; nil where they are not.
func fixedCirculant(n *node) (*circulant.Operator, error) {
	if err := n.inputs(2, 3); err != nil {
		return nil, err
	}
	if n.constant(1) == nil || n.has(2) && n.constant(2) == nil {
		return nil, nil
	}
	w, err := widened(n.constant(1))
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
	return circulantOperator(n.int("out_features", 0), w, b, n.simd)
}

// prepareBlockCirculantMatMul: X [..., n], W [p, q, b], B [m]; see package
// circulant. The spectra of a constant W are computed here.
func prepareBlockCirculantMatMul(n *node) (kernel, error) {
	fixed, err := fixedCirculant(n)
	if err != nil {
		return nil, err
	}
	if fixed == nil {
		m := n.int("out_features", 0)
		return byType{graph.Float32: func(c *call) error {
			o, err := circulantOperator(m, c.in[1], c.input(2), n.simd)
			if err != nil {
				return err
			}
			g, err := circulant.NewGroup(o)
			if err != nil {
				return err
			}
			return multiplyCirculant(c, g)
		}}.kernel(0), nil
	}
	n.drop(1)
	if n.has(2) {
		n.drop(2)
	}
	return circulantKernel(fixed)
}

// circulantKernel multiplies the input with every one of some operators, and
// transforms it once for all of them.
func circulantKernel(ops ...*circulant.Operator) (kernel, error) {
	g, err := circulant.NewGroup(ops...)
	if err != nil {
		return nil, err
	}
	return byType{graph.Float32: func(c *call) error { return multiplyCirculant(c, g) }}.kernel(0), nil
}

type groupState struct {
	group  *circulant.Group
	x      []float32
	y      [][]float32
	m      []int
	n      int
	tokens int
	ws     []float32
	shape  []int
}

func multiplyCirculant(c *call, g *circulant.Group) error {
	s, ok := c.state.(*groupState)
	if !ok {
		s = &groupState{}
		c.state = s
	}
	if s.group != g {
		s.group = g
		s.m, s.n = g.Dims()
		s.y = make([][]float32, len(s.m))
	}
	x := c.in[0]
	if len(x.Shape) == 0 {
		return errors.New("input X is a scalar")
	}
	n := x.Shape[len(x.Shape)-1]
	if n > s.n {
		return fmt.Errorf("input X %v has %d features, W takes %d", x.Shape, n, s.n)
	}
	var err error
	if s.tokens, err = count(x.Shape[:len(x.Shape)-1]); err != nil {
		return err
	}
	for i, m := range s.m {
		s.shape = append(append(s.shape[:0], x.Shape[:len(x.Shape)-1]...), m)
		y, err := c.alloc(i, graph.Float32, s.shape...)
		if err != nil {
			return err
		}
		s.y[i] = y.F32()
	}
	if s.x = x.F32(); n < s.n {
		// Zeros where the last block reaches beyond the features.
		if s.x, err = scratch[float32](c, s.tokens*s.n); err != nil {
			return err
		}
		for t := range s.tokens {
			copy(s.x[t*s.n:], x.F32()[t*n:(t+1)*n])
			clear(s.x[t*s.n+n : (t+1)*s.n])
		}
	}
	c.flops += g.FLOPs(s.tokens)
	if s.ws, err = scratch[float32](c, g.Workspace()*c.workers()); err != nil {
		return err
	}
	c.parallelWorkers((s.tokens+g.Tile()-1)/g.Tile(), 1, groupTiles)
	return nil
}

func groupTiles(c *call, worker, lo, hi int) {
	s := c.state.(*groupState)
	size, tile := s.group.Workspace(), s.group.Tile()
	s.group.Apply(s.y, s.x, lo*tile, min(s.tokens, hi*tile), s.ws[worker*size:][:size])
}
