package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// matmulOps multiply matrices.
var matmulOps = []operator{
	{"", "MatMul", 1, prepareMatMul, gradMatMul, halves},
	{"", "Gemm", 7, prepareGemm, gradGemm, halves},
	{"", "Det", 11, prepareDet, nil, halves},
	{"", "Einsum", 12, prepareEinsum, gradEinsum, halves},
}

// product is A·B for float32 stacks of matrices, A [..., m, k], B [..., k, n]
// packed. Every element is one chain of multiply-adds in the order of k, so
// that neither the split nor the place in a batch shows in a result.
type product struct {
	k *simd.Kernels

	// Of a constant B, prepared once.
	packed []simd.Packed
	shape  []int // of B, as MatMul sees it
}

// productState is the shape of the multiplication at hand.
type productState struct {
	batch   broadcast // over the leading dims, in matrices
	count   int       // matrices in the result
	flat    bool      // one B for a stack of A: one tall matrix
	m, k, n int
	a       simd.Mat // of the first matrix; the others follow m·k apart
	packed  []simd.Packed
	parts   int // columns are split in so many parts; 0: rows are split

	b       []float32 // B while it is packed
	bt      bool      // B is stored as [n, k]
	buf     []float32
	bufStep int
	shape   []int // result

	left, right [2]int // shapes of the operands where they are not the inputs'
}

// pack prepares a constant B [..., k, n], or [..., n, k] if transposed.
func (p *product) pack(b *Tensor, transposed bool) {
	r := len(b.Shape)
	k, n := b.Shape[r-2], b.Shape[r-1]
	if transposed {
		k, n = n, k
	}
	p.shape = append(append([]int(nil), b.Shape[:r-2]...), k, n)
	data := b.F32()
	count := 1
	for _, d := range b.Shape[:r-2] {
		count *= d
	}
	for i := range count {
		p.packed = append(p.packed, p.k.PackB(matrix(data[i*k*n:(i+1)*k*n], k, n, transposed), k, n))
	}
}

// matrix views row-major elements as [rows, cols], or as the transpose of the
// [cols, rows] that they are.
func matrix(data []float32, rows, cols int, transposed bool) simd.Mat {
	if transposed {
		return simd.RowMajor(data, rows).T()
	}
	return simd.RowMajor(data, cols)
}

// multiplyGrain is the least number of multiply-adds that are worth a thread:
// some ten microseconds.
const multiplyGrain = 1 << 18

// run multiplies a [..., m, k] with B: the constant one, or b [..., k, n]. The
// result is allocated by the caller through out once its shape is known.
func (p *product) run(c *call, s *productState, b *Tensor) error {
	c.flops += 2 * int64(s.count) * int64(s.m) * int64(s.k) * int64(s.n)
	if p.packed != nil {
		s.packed = p.packed
	} else {
		count := len(b.F32()) / max(s.k*s.n, 1)
		if cap(s.packed) < count {
			s.packed = make([]simd.Packed, count)
		}
		s.packed = s.packed[:count]
		s.b = b.F32()
		if !p.inPlace(s, count) {
			// Pack every matrix of B into scratch memory.
			s.bufStep = p.k.PackedLen(s.k, s.n)
			var err error
			if s.buf, err = scratch[float32](c, s.bufStep*count); err != nil {
				return err
			}
			c.parallel(count, 1+multiplyGrain/(1+s.k*s.n), packMatrices)
		}
	}
	rows, workers := s.count*s.m, c.workers()
	if !s.flat {
		workers = 1
	}
	if s.parts = columnParts(rows, s.n, workers); s.parts > 0 {
		c.parallel(s.parts, 1+multiplyGrain/(1+rows*s.k*s.n/s.parts), multiplyColumns)
		return nil
	}
	c.parallel((rows+rowUnit-1)/rowUnit, 1+multiplyGrain/(1+rowUnit*s.k*s.n), multiplyRows)
	return nil
}

const (
	// rowUnit is what rows are split by among threads: the height of a full tile.
	rowUnit = 8
	// lowRows is how many rows a thread must have to be worth reading all of B:
	// a piece of them is then 32 rows high. With fewer, threads share the columns.
	lowRows = 128
)

// fewRows is how many rows of A a matrix B must meet to be worth packing: with
// fewer, reading it row by row costs less than writing it once more.
const fewRows = 8

// inPlace takes the count matrices of B as they lie, if that is possible and
// worth while.
func (p *product) inPlace(s *productState, count int) bool {
	if s.bt || s.count*s.m > fewRows*count {
		return false
	}
	for i := range count {
		var ok bool
		if s.packed[i], ok = p.k.InPlace(simd.RowMajor(s.b[i*s.k*s.n:(i+1)*s.k*s.n], s.n), s.k, s.n); !ok {
			return false
		}
	}
	return true
}

func packMatrices(c *call, lo, hi int) {
	s := c.state.(*matmul)
	for i := lo; i < hi; i++ {
		b := matrix(s.b[i*s.k*s.n:(i+1)*s.k*s.n], s.k, s.n, s.bt)
		s.packed[i] = s.kernels.PackInto(s.buf[i*s.bufStep:(i+1)*s.bufStep], b, s.k, s.n)
	}
}

// multiplyRows computes units [lo, hi) of the rows of the stack of results.
func multiplyRows(c *call, lo, hi int) {
	s := c.state.(*matmul)
	z := c.out[0].F32()
	lo, hi = lo*rowUnit, min(hi*rowUnit, s.count*s.m)
	for lo < hi {
		i, row := lo/s.m, lo%s.m
		rows := min(s.m-row, hi-lo)
		at := s.batch.from(i, i+1)
		b := s.packed[at.off[1]]
		if s.flat {
			i, row, rows, b = 0, lo, hi-lo, s.packed[0]
			at.off[0] = 0
		}
		a := s.a
		a.Data = a.Data[at.off[0]*s.m*s.k+row*a.RowStride:]
		s.kernels.Gemm(z[(i*s.m+row)*s.n:], s.n, a, rows, b, nil, false)
		lo += rows
	}
}

// multiplyColumns computes parts [lo, hi) of the columns of every result.
func multiplyColumns(c *call, lo, hi int) {
	s := c.state.(*matmul)
	z := c.out[0].F32()
	count, rows := s.count, s.m
	if s.flat {
		count, rows = 1, s.count*s.m
	}
	for i := range count {
		at := s.batch.from(i, i+1)
		a := s.a
		a.Data = a.Data[at.off[0]*s.m*s.k:]
		for part := lo; part < hi; part++ {
			b, col := s.packed[at.off[1]].Split(part, s.parts)
			if _, n := b.Dims(); n == 0 {
				continue
			}
			s.kernels.Gemm(z[i*s.m*s.n+col:], s.n, a, rows, b, nil, false)
		}
	}
}

// matmul is the state of a MatMul or Gemm.
type matmul struct {
	productState
	kernels *simd.Kernels
	c       broadcast // of Gemm's C
}

func (c *call) matmul(k *simd.Kernels) *matmul {
	s, ok := c.state.(*matmul)
	if !ok {
		s = &matmul{kernels: k}
		c.state = s
	}
	return s
}

// set works out the shapes of a [..., m, k] times b [..., k, n] as MatMul
// does: a vector on the left is a row, on the right a column, and the
// dimension that this adds is taken away from the result.
func (s *matmul) set(a, b []int) error {
	if len(a) == 0 || len(b) == 0 {
		return fmt.Errorf("%v times %v: a scalar is no matrix", a, b)
	}
	row, col := len(a) == 1, len(b) == 1
	ba, bb := a, b
	if row {
		s.left = [2]int{1, a[0]}
		ba = s.left[:]
	}
	if col {
		s.right = [2]int{b[0], 1}
		bb = s.right[:]
	}
	ra, rb := len(ba), len(bb)
	s.m, s.k, s.n = ba[ra-2], ba[ra-1], bb[rb-1]
	if bb[rb-2] != s.k {
		return fmt.Errorf("%v times %v: %d columns meet %d rows", a, b, s.k, bb[rb-2])
	}
	if err := s.batch.set(ba[:ra-2], bb[:rb-2]); err != nil {
		return err
	}
	s.count = s.batch.size
	s.shape = append(s.shape[:0], s.batch.shape...)
	if !row {
		s.shape = append(s.shape, s.m)
	}
	if !col {
		s.shape = append(s.shape, s.n)
	}
	// One matrix on the right, and the left stack not repeated.
	s.flat = len(s.batch.dims) == 1 && s.batch.strides[1][0] == 0 && (s.batch.strides[0][0] != 0 || s.count == 1)
	return nil
}

func prepareMatMul(n *node) (kernel, error) {
	if l, err := fixedLinear(n); err != nil {
		return nil, err
	} else if l != nil {
		return l.kernel(), nil
	}
	p := &product{k: n.simd}
	if b := n.constant(1); b != nil && len(b.Shape) >= 2 && b.Len() > 0 {
		wide, err := widened(b)
		if err != nil {
			return nil, err
		}
		if wide != nil {
			p.pack(wide, false)
			n.drop(1)
		}
	}
	f32 := p.kernel()
	if p.packed != nil {
		return byType{graph.Float32: f32}.kernel(0), n.inputs(2, 2)
	}
	return byType{
		graph.Float32: f32,
		graph.Float64: matmulOf[float64](),
		graph.Int32:   matmulOf[int32](),
		graph.Int64:   matmulOf[int64](),
		graph.Uint32:  matmulOf[uint32](),
		graph.Uint64:  matmulOf[uint64](),
	}.kernel(0), n.inputs(2, 2)
}

// widened returns t as float32 if it is of a type that reaches kernels as
// such, nil if not.
func widened(t *Tensor) (*Tensor, error) {
	switch t.DType {
	case graph.Float32:
		return t, nil
	case graph.Float16, graph.BFloat16:
		w, err := newTensor(graph.Float32, t.Shape)
		if err != nil {
			return nil, err
		}
		widen(w.F32(), view[uint16](t), t.DType)
		return w, nil
	}
	return nil, nil
}

func (p *product) kernel() kernel {
	return func(c *call) error {
		s := c.matmul(p.k)
		a, b := c.in[0], c.input(1)
		shape := p.shape
		if p.packed == nil {
			if b == nil || b.DType != a.DType {
				return errors.New("inputs are not of one type")
			}
			shape = b.Shape
		}
		if err := s.set(a.Shape, shape); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		s.a = simd.RowMajor(a.F32(), s.k)
		if s.k == 0 {
			clear(z.F32())
			return nil
		}
		return p.run(c, &s.productState, b)
	}
}

// matmulOf is MatMul in the other types, by the definition.
func matmulOf[T number]() kernel {
	body := func(c *call, lo, hi int) {
		s := c.state.(*matmul)
		z, x, y := view[T](c.out[0]), view[T](c.in[0]), view[T](c.in[1])
		for r := lo; r < hi; r++ {
			at := s.batch.from(r/s.m, r/s.m+1)
			row := x[(at.off[0]*s.m+r%s.m)*s.k:][:s.k]
			zr := z[r*s.n:][:s.n]
			clear(zr)
			for p, v := range row {
				for j, w := range y[(at.off[1]*s.k+p)*s.n:][:s.n] {
					zr[j] += T(v * w)
				}
			}
		}
	}
	d := dtypeOf[T]()
	return func(c *call) error {
		s := c.matmul(nil)
		if c.in[1] == nil || c.in[1].DType != d {
			return errors.New("inputs are not of one type")
		}
		if err := s.set(c.in[0].Shape, c.in[1].Shape); err != nil {
			return err
		}
		z, err := c.alloc(0, d, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		c.parallel(s.count*s.m, 1+multiplyGrain/(1+s.k*s.n), body)
		return nil
	}
}

// prepareGemm: Y = alpha·op(A)·op(B) + beta·C, C broadcast to Y [m, n].
func prepareGemm(n *node) (kernel, error) {
	if l, err := fixedLinear(n); err != nil {
		return nil, err
	} else if l != nil {
		return l.kernel(), nil
	}
	g := &gemm{
		product: product{k: n.simd},
		alpha:   n.float("alpha", 1), beta: n.float("beta", 1),
		transA: n.bool("transA", false), transB: n.bool("transB", false),
	}
	if b := n.constant(1); b != nil && len(b.Shape) == 2 && b.Len() > 0 {
		wide, err := widened(b)
		if err != nil {
			return nil, err
		}
		if wide != nil {
			g.pack(wide, g.transB)
			n.drop(1)
		}
	}
	table := byType{graph.Float32: g.kernel()}
	if g.packed == nil {
		table[graph.Float64] = gemmOf[float64](g)
		table[graph.Int32] = gemmOf[int32](g)
		table[graph.Int64] = gemmOf[int64](g)
		table[graph.Uint32] = gemmOf[uint32](g)
		table[graph.Uint64] = gemmOf[uint64](g)
	}
	return table.kernel(0), n.inputs(2, 3)
}

type gemm struct {
	product
	alpha, beta    float32
	transA, transB bool
}

// set works out the shapes of Gemm.
func (g *gemm) set(s *matmul, a, b []int) error {
	if len(a) != 2 || g.packed == nil && len(b) != 2 {
		return fmt.Errorf("inputs %v and %v are no matrices", a, b)
	}
	if g.packed != nil {
		b = g.shape
	}
	s.left, s.right = [2]int{a[0], a[1]}, [2]int{b[0], b[1]}
	if g.transA {
		s.left = [2]int{a[1], a[0]}
	}
	if g.transB && g.packed == nil {
		s.right = [2]int{b[1], b[0]}
	}
	return s.set(s.left[:], s.right[:])
}

func (g *gemm) kernel() kernel {
	return func(c *call) error {
		s := c.matmul(g.k)
		a, b := c.in[0], c.input(1)
		var shapeB []int
		if g.packed == nil {
			if b == nil || b.DType != a.DType {
				return errors.New("inputs are not of one type")
			}
			shapeB = b.Shape
		}
		if err := g.set(s, a.Shape, shapeB); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float32, s.shape...)
		if err != nil {
			return err
		}
		if z.Len() > 0 {
			s.a, s.bt = matrix(a.F32(), s.m, s.k, g.transA), g.transB
			if s.k == 0 {
				clear(z.F32())
			} else if err := g.run(c, &s.productState, b); err != nil {
				return err
			}
			if g.alpha != 1 {
				g.k.MulScalar(z.F32(), z.F32(), g.alpha)
			}
		}
		return addC(c, &s.c, z.F32(), g.beta)
	}
}

// addC adds beta·C, which broadcasts to the result in one direction.
func addC[T number](c *call, b *broadcast, z []T, beta float32) error {
	if !c.has(2) {
		return nil
	}
	if c.in[2].DType != c.out[0].DType {
		return fmt.Errorf("addend C is %v, want %v", c.in[2].DType, c.out[0].DType)
	}
	if err := b.set(c.out[0].Shape, c.in[2].Shape); err != nil {
		return err
	}
	if len(b.shape) != 2 || b.size != len(z) {
		return fmt.Errorf("addend C %v does not broadcast to %v", c.in[2].Shape, c.out[0].Shape)
	}
	y, dy, scale := view[T](c.in[2]), b.inner(1), T(beta)
	for r := b.from(0, b.size); r.ok(); r.next() {
		zr := z[r.at : r.at+r.n]
		for i := range zr {
			zr[i] += T(scale * y[r.off[1]+i*dy])
		}
	}
	return nil
}

// gemmOf is Gemm in the other types, by the definition.
func gemmOf[T number](g *gemm) kernel {
	d := dtypeOf[T]()
	return func(c *call) error {
		s := c.matmul(nil)
		if c.in[1] == nil || c.in[1].DType != d {
			return errors.New("inputs are not of one type")
		}
		if err := g.set(s, c.in[0].Shape, c.in[1].Shape); err != nil {
			return err
		}
		out, err := c.alloc(0, d, s.shape...)
		if err != nil {
			return err
		}
		z, x, y := view[T](out), view[T](c.in[0]), view[T](c.in[1])
		ar, ac, br, bc := s.k, 1, s.n, 1
		if g.transA {
			ar, ac = 1, s.m
		}
		if g.transB {
			br, bc = 1, s.k
		}
		for i := range s.m {
			for j := range s.n {
				var sum T
				for p := range s.k {
					sum += T(x[i*ar+p*ac] * y[p*br+j*bc])
				}
				z[i*s.n+j] = T(T(g.alpha) * sum)
			}
		}
		return addC(c, &s.c, z, g.beta)
	}
}

// prepareDet: the determinants of a stack of square matrices [..., m, m], by
// elimination with partial pivoting in float64.
func prepareDet(n *node) (kernel, error) {
	return byType{graph.Float32: det[float32], graph.Float64: det[float64]}.kernel(0), n.inputs(1, 1)
}

func det[T float32 | float64](c *call) error {
	x := c.in[0]
	r := len(x.Shape)
	if r < 2 || x.Shape[r-1] != x.Shape[r-2] {
		return fmt.Errorf("input %v, want square matrices", x.Shape)
	}
	z, err := c.alloc(0, x.DType, x.Shape[:r-2]...)
	if err != nil {
		return err
	}
	m := x.Shape[r-1]
	if m > math.MaxInt32 {
		return fmt.Errorf("input %v is too large", x.Shape)
	}
	a, err := scratch[float64](c, m*m)
	if err != nil {
		return err
	}
	for i := range view[T](z) {
		for k, v := range view[T](x)[i*m*m : (i+1)*m*m] {
			a[k] = float64(v)
		}
		product := 1.0
		for k := range m {
			pivot := k
			for j := k + 1; j < m; j++ {
				if math.Abs(a[j*m+k]) > math.Abs(a[pivot*m+k]) {
					pivot = j
				}
			}
			if product *= a[pivot*m+k]; product == 0 {
				break
			}
			if pivot != k {
				product = -product
				for j := range m {
					a[k*m+j], a[pivot*m+j] = a[pivot*m+j], a[k*m+j]
				}
			}
			for j := k + 1; j < m; j++ {
				f := a[j*m+k] / a[k*m+k]
				for p := k; p < m; p++ {
					a[j*m+p] -= float64(f * a[k*m+p])
				}
			}
		}
		view[T](z)[i] = T(product)
	}
	return nil
}
