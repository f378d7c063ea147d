package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// Gradients of products with matrices. For Y = X·W: ∂L/∂X = G·Wᵀ and ∂L/∂W =
// Xᵀ·G, G = ∂L/∂Y. The weights of a layer are packed, in both directions, once
// after each change, and ∂L/∂W is summed where it belongs.

// weights is a constant matrix or a parameter, packed.
type weights struct {
	k, n   int // of the matrix as it is multiplied
	packed simd.Packed
}

type packKey struct {
	v          *lvalue
	transposed bool
}

// pack returns the constant or parameter v [k, n], or its transpose, packed,
// also after changes.
func (b *backward) pack(v *lvalue, transposed bool) *weights {
	key := packKey{v, transposed}
	if w := b.packs[key]; w != nil {
		return w
	}
	w := &weights{k: v.konst.Shape[0], n: v.konst.Shape[1]}
	if transposed {
		w.k, w.n = w.n, w.k
	}
	b.packs[key] = w
	buf := make([]float32, b.simd.PackedLen(w.k, w.n))
	b.train.prepared(v, func() {
		w.packed = b.simd.PackInto(buf, matrix(v.konst.F32(), w.k, w.n, transposed), w.k, w.n)
	})
	return w
}

// isMatrix reports whether v is a constant or parameter [k, n].
func isMatrix(v *lvalue) bool {
	return v != nil && v.konst != nil && v.konst.DType == graph.Float32 && len(v.konst.Shape) == 2 && v.konst.Len() > 0
}

// rowsOf views x as [rows, k].
func rowsOf(x *Tensor, k int) (rows int, err error) {
	r := len(x.Shape)
	if x.DType != graph.Float32 {
		return 0, wrongType(x.DType)
	}
	if r == 0 || x.Shape[r-1] != k {
		return 0, fmt.Errorf("%v times a matrix of %d rows", x.Shape, k)
	}
	return x.Len() / k, nil
}

// timesWeights: X [..., k] → X·W [..., n].
func timesWeights(k *simd.Kernels, w *weights) kernel {
	return func(c *call) error {
		x := c.in[0]
		rows, err := rowsOf(x, w.k)
		if err != nil {
			return err
		}
		s := c.moves()
		s.shape = append(append(s.shape[:0], x.Shape[:len(x.Shape)-1]...), w.n)
		z, err := c.alloc(0, graph.Float32, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		k.Gemm(z.F32(), w.n, simd.RowMajor(x.F32(), w.k), rows, w.packed, nil, false)
		return nil
	}
}

// addProduct: A [..., m], B [..., n] → AᵀB [m, n] added to the gradient of a
// parameter.
func addProduct(k *simd.Kernels, param, m, n int) kernel {
	return func(c *call) error {
		rows, err := rowsOf(c.in[0], m)
		if err != nil {
			return err
		}
		if also, err := rowsOf(c.in[1], n); err != nil || also != rows {
			return errors.Join(err, fmt.Errorf("%v meets %v", c.in[0].Shape, c.in[1].Shape))
		}
		if rows == 0 {
			return nil
		}
		buf, err := scratch[float32](c, k.PackedLen(rows, n))
		if err != nil {
			return err
		}
		b := k.PackInto(buf, simd.RowMajor(c.in[1].F32(), n), rows, n)
		k.Gemm(c.s.train.gradients[param], n, simd.RowMajor(c.in[0].F32(), m).T(), m, b, nil, true)
		return nil
	}
}

func gradMatMul(b *backward, x *lnode, dy []*lvalue) error {
	a, w, g := x.in[0], x.in[1], dy[0]
	if !isMatrix(w) {
		if b.needs(a) {
			b.add(a, b.kernel("MatMul", productGradient(b.simd, 0), a, w, g))
		}
		if b.needs(w) {
			b.add(w, b.kernel("MatMul", productGradient(b.simd, 1), a, w, g))
		}
		return nil
	}
	if b.needs(a) {
		b.add(a, b.kernel("MatMul", timesWeights(b.simd, b.pack(w, true)), g))
	}
	if b.needs(w) {
		b.sink("MatMul", addProduct(b.simd, w.param-1, w.konst.Shape[0], w.konst.Shape[1]), a, g)
	}
	return nil
}

// productGradient: A [..., m, k], B [..., k, n], G [..., m, n] → G·Bᵀ for
// operand 0, Aᵀ·G for operand 1, summed over the batches that the operand is
// repeated in.
func productGradient(k *simd.Kernels, operand int) kernel {
	return func(c *call) error {
		s := c.matmul(k)
		a, b, g := c.in[0], c.in[1], c.in[2]
		for _, t := range c.in {
			if t.DType != graph.Float32 {
				return wrongType(t.DType)
			}
		}
		if err := s.set(a.Shape, b.Shape); err != nil {
			return err
		}
		if g.Len() != s.count*s.m*s.n {
			return fmt.Errorf("gradient %v of a product %v", g.Shape, s.shape)
		}
		z, err := c.alloc(0, graph.Float32, c.in[operand].Shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		repeated := z.Len() != s.count*[2]int{s.m * s.k, s.k * s.n}[operand]
		if repeated || g.Len() == 0 {
			clear(z.F32())
		}
		if g.Len() == 0 {
			return nil
		}
		size := max(k.PackedLen(s.n, s.k), k.PackedLen(s.m, s.n))
		buf, err := scratch[float32](c, size)
		if err != nil {
			return err
		}
		for i := range s.count {
			at := s.batch.from(i, i+1)
			gi := g.F32()[i*s.m*s.n:][:s.m*s.n]
			if operand == 0 {
				bi := b.F32()[at.off[1]*s.k*s.n:][:s.k*s.n]
				p := k.PackInto(buf, simd.RowMajor(bi, s.n).T(), s.n, s.k)
				k.Gemm(z.F32()[at.off[0]*s.m*s.k:], s.k, simd.RowMajor(gi, s.n), s.m, p, nil, repeated)
				continue
			}
			ai := a.F32()[at.off[0]*s.m*s.k:][:s.m*s.k]
			p, ok := simd.Packed{}, false
			if s.k <= fewRows {
				p, ok = k.InPlace(simd.RowMajor(gi, s.n), s.m, s.n)
			}
			if !ok {
				p = k.PackInto(buf, simd.RowMajor(gi, s.n), s.m, s.n)
			}
			k.Gemm(z.F32()[at.off[1]*s.k*s.n:], s.n, simd.RowMajor(ai, s.k).T(), s.k, p, nil, repeated)
		}
		return nil
	}
}

// gradGemm: Y = alpha·op(A)·op(B) + beta·C.
func gradGemm(b *backward, x *lnode, dy []*lvalue) error {
	alpha, beta := float64(x.float("alpha", 1)), float64(x.float("beta", 1))
	transA, transB := x.bool("transA", false), x.bool("transB", false)
	a, w, g := x.in[0], x.in[1], b.scaled(dy[0], alpha)
	turn := func(v *lvalue, yes bool) *lvalue {
		if yes {
			return b.op("Transpose", nil, v)
		}
		return v
	}
	var turned *lvalue
	opA := func() *lvalue { // op(A)
		if turned == nil {
			turned = turn(a, transA)
		}
		return turned
	}
	if b.needs(a) {
		var d *lvalue
		if isMatrix(w) {
			d = b.kernel("MatMul", timesWeights(b.simd, b.pack(w, !transB)), g)
		} else {
			d = b.op("MatMul", nil, g, turn(w, !transB))
		}
		b.add(a, turn(d, transA))
	}
	switch {
	case !b.needs(w):
	case w.param > 0 && isMatrix(w):
		m, n := w.konst.Shape[0], w.konst.Shape[1]
		if transB {
			b.sink("MatMul", addProduct(b.simd, w.param-1, m, n), g, opA())
		} else {
			b.sink("MatMul", addProduct(b.simd, w.param-1, m, n), opA(), g)
		}
	case transB:
		b.add(w, b.op("MatMul", nil, b.op("Transpose", nil, g), opA()))
	default:
		b.add(w, b.op("MatMul", nil, turn(opA(), true), g))
	}
	if len(x.in) > 2 && b.needs(x.in[2]) {
		b.addBroadcast(x.in[2], b.scaled(dy[0], beta))
	}
	return nil
}

// replaceKernels gives products and convolutions with parameters forward
// kernels that read the packed weights.
func (b *backward) replaceKernels(forward []*lnode) {
	for _, x := range forward {
		if x.kernel != nil {
			continue
		}
		switch {
		case x.domain == "" && x.op == "MatMul" && len(x.in) == 2 && isMatrix(x.in[1]) && x.in[1].param > 0:
			x.kernel = timesWeights(b.simd, b.pack(x.in[1], false))
		case x.domain == "" && x.op == "Gemm" && isMatrix(x.in[1]) && x.in[1].param > 0 && !x.bool("transA", false):
			x.kernel = gemmWeights(b.simd, b.pack(x.in[1], x.bool("transB", false)), x.float("alpha", 1), x.float("beta", 1))
		case x.domain == "" && x.op == "Conv":
			if v := b.trainedConv(x); v != nil {
				x.kernel = v.run
			}
		case x.domain == graph.LatheDomain && x.op == "BlockCirculantMatMul":
			if w := b.circ[x.in[1]]; w != nil {
				x.kernel = w.forward
			}
		case x.domain == graph.LatheDomain && x.op == "BlockCirculantConv":
			if v := b.convs[x]; v != nil {
				x.kernel = v.run
			}
		}
	}
}

// gemmWeights is Gemm with packed weights.
func gemmWeights(k *simd.Kernels, w *weights, alpha, beta float32) kernel {
	product := timesWeights(k, w)
	type state struct {
		c broadcast
		m *moveState
	}
	return func(c *call) error {
		if len(c.in[0].Shape) != 2 {
			return fmt.Errorf("input %v is no matrix", c.in[0].Shape)
		}
		s, ok := c.state.(*state)
		if !ok {
			s = &state{m: &moveState{}}
		}
		c.state = s.m
		if err := product(c); err != nil {
			return err
		}
		c.state = s
		z := c.out[0].F32()
		if alpha != 1 {
			k.MulScalar(z, z, alpha)
		}
		return addC(c, &s.c, z, beta)
	}
}

// circulantWeights is a block-circulant matrix and its transpose, ready to be
// multiplied; see package circulant for the formulas. Nothing here goes
// through the dense matrix.
type circulantWeights struct {
	m, n          int // n = q·b, the features with those that are padding
	op, transpose *circulant.Operator
	gradient      *circulant.Gradient
	err           error
}

func gradBlockCirculantMatMul(b *backward, x *lnode, dy []*lvalue) error {
	in, w, g := x.in[0], x.in[1], dy[0]
	t := w.konst
	if t == nil || t.DType != graph.Float32 || len(t.Shape) != 3 {
		return errors.New("W is neither a parameter nor a constant")
	}
	if len(x.in) > 2 && b.needs(x.in[2]) {
		b.add(x.in[2], g)
	}
	s := b.circ[w]
	if s == nil {
		s = &circulantWeights{m: x.int("out_features", 0), n: t.Shape[1] * t.Shape[2]}
		mat := &circulant.Matrix{M: s.m, N: s.n, P: t.Shape[0], Q: t.Shape[1], B: t.Shape[2], W: t.F32()}
		if err := mat.Validate(); err != nil {
			return err
		}
		var err error
		if s.gradient, err = circulant.NewGradient(s.m, s.n, mat.B, b.simd); err != nil {
			return err
		}
		b.circ[w] = s
		// The bias is added by itself: it is a parameter of its own, and can
		// differ between the readers of W.
		b.train.prepared(w, func() {
			if s.op, err = circulant.NewOperator(mat, nil, b.simd); err == nil {
				s.transpose, err = circulant.NewOperator(mat.Transpose(), nil, b.simd)
			}
			s.err = err
		})
		if s.err != nil {
			return s.err
		}
	}
	if b.needs(in) {
		b.add(in, b.kernel("BlockCirculantMatMul", s.backward, g, b.shape(in)))
	}
	if b.needs(w) {
		if w.param == 0 {
			return errors.New("W is computed")
		}
		b.sink("BlockCirculantMatMul", s.addGradient(w.param-1), in, g)
	}
	return nil
}

// padded returns x [tokens, n] as [tokens, to], with zeros beyond n.
func padded(c *call, x []float32, tokens, n, to int) ([]float32, error) {
	if n == to {
		return x, nil
	}
	z, err := scratch[float32](c, tokens*to)
	if err != nil {
		return nil, err
	}
	for t := range tokens {
		copy(z[t*to:], x[t*n:(t+1)*n])
		clear(z[t*to+n : (t+1)*to])
	}
	return z, nil
}

// features returns the tokens of x [..., n] and n, at most most.
func features(x *Tensor, most int) (tokens, n int, err error) {
	if x.DType != graph.Float32 || len(x.Shape) == 0 {
		return 0, 0, fmt.Errorf("input %v%v", x.DType, x.Shape)
	}
	n = x.Shape[len(x.Shape)-1]
	if n > most || n == 0 {
		return 0, 0, fmt.Errorf("input %v has %d features, W takes %d", x.Shape, n, most)
	}
	return x.Len() / n, n, nil
}

// forward: X, W, B → Y.
func (s *circulantWeights) forward(c *call) error {
	x := c.in[0]
	tokens, n, err := features(x, s.n)
	if err != nil {
		return err
	}
	m := c.moves()
	m.shape = append(append(m.shape[:0], x.Shape[:len(x.Shape)-1]...), s.m)
	z, err := c.alloc(0, graph.Float32, m.shape...)
	if err != nil {
		return err
	}
	in, err := padded(c, x.F32(), tokens, n, s.n)
	if err != nil {
		return err
	}
	ws, err := scratch[float32](c, s.op.Workspace())
	if err != nil {
		return err
	}
	y := z.F32()
	s.op.Apply(y, s.m, in, s.n, tokens, ws)
	if c.has(2) {
		bias, k := c.in[2].F32(), c.s.train.simd
		if len(bias) != s.m {
			return fmt.Errorf("bias of %d for %d outputs", len(bias), s.m)
		}
		for t := range tokens {
			k.Add(y[t*s.m:(t+1)*s.m], y[t*s.m:(t+1)*s.m], bias)
		}
	}
	return nil
}

// backward: G, shape of X → G·W.
func (s *circulantWeights) backward(c *call) error {
	g, m := c.in[0], c.moves()
	tokens, _, err := features(g, s.m)
	if err != nil {
		return err
	}
	if m.shape, err = dimsOf(m.shape, c.in[1]); err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, m.shape...)
	if err != nil {
		return err
	}
	n := m.shape[len(m.shape)-1]
	out := z.F32()
	if n != s.n {
		if out, err = scratch[float32](c, tokens*s.n); err != nil {
			return err
		}
	}
	ws, err := scratch[float32](c, s.transpose.Workspace())
	if err != nil {
		return err
	}
	s.transpose.Apply(out, s.n, g.F32(), s.m, tokens, ws)
	if n != s.n {
		for t := range tokens {
			copy(z.F32()[t*n:(t+1)*n], out[t*s.n:])
		}
	}
	return nil
}

// addGradient: X, G → the gradient of W.
func (s *circulantWeights) addGradient(param int) kernel {
	return func(c *call) error {
		tokens, n, err := features(c.in[0], s.n)
		if err != nil {
			return err
		}
		x, err := padded(c, c.in[0].F32(), tokens, n, s.n)
		if err != nil {
			return err
		}
		ws, err := scratch[float32](c, s.gradient.Workspace())
		if err != nil {
			return err
		}
		s.gradient.AddWeights(c.s.train.gradients[param], c.in[1].F32(), s.m, x, s.n, tokens, ws)
		return nil
	}
}
