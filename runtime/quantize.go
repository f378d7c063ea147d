package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// quantizeOps compute with numbers that stand for (q − zero point) · scale.
var quantizeOps = []operator{
	{"", "QuantizeLinear", 10, prepareQuantize, nil, 0},
	{"", "DequantizeLinear", 10, prepareDequantize, nil, 0},
	{"", "DynamicQuantizeLinear", 11, prepareDynamicQuantize, nil, 0},
	{"", "MatMulInteger", 10, prepareMatMulInteger, nil, 0},
	{"", "QLinearMatMul", 10, prepareQLinearMatMul, nil, halves},
	{"", "ConvInteger", 10, prepareConvInteger, nil, 0},
	{"", "QLinearConv", 10, prepareQLinearConv, nil, 0},
}

// grid is the scales and zero points that the elements of a tensor have: one
// for all, one for each place along an axis, or one for each block of places
// along it.
type grid struct {
	lines
	axis, block int       // attributes
	one         bool      // one for all
	blocks      int       // along the axis; 0 where there are none
	blockLen    int       // places in a block
	scale       []float32 // as many as the form has
	zero        []int32   // nil for zeros
}

// set reads the scale and the zero point, which may be nil, for x.
func (g *grid) set(c *call, x []int, scale, zero *Tensor) error {
	if zero != nil && !slices.Equal(zero.Shape, scale.Shape) && !(zero.Len() == 1 && scale.Len() == 1) {
		return fmt.Errorf("zero point %v and scale %v differ in shape", zero.Shape, scale.Shape)
	}
	size, err := count(x)
	if err != nil {
		return err
	}
	g.blocks, g.one = 0, false
	switch r := len(scale.Shape); {
	case g.block == 0 && scale.Len() == 1 && r <= 1:
		g.one = true
		g.lines = lines{1, 1, size}
	case g.block == 0 && r == 1:
		a, err := axis(g.axis, len(x))
		if err != nil {
			return err
		}
		if scale.Shape[0] != x[a] {
			return fmt.Errorf("%d scales along axis %d of %v", scale.Shape[0], a, x)
		}
		g.lines = linesOf(x, a)
	case g.block > 0 && r == len(x):
		a, err := axis(g.axis, r)
		if err != nil {
			return err
		}
		g.lines, g.blocks, g.blockLen = linesOf(x, a), scale.Shape[a], g.block
		for i, d := range scale.Shape {
			if i != a && d != x[i] || i == a && d != (x[a]+g.block-1)/g.block {
				return fmt.Errorf("scale %v for blocks of %d along axis %d of %v", scale.Shape, g.block, a, x)
			}
		}
	default:
		return fmt.Errorf("scale %v for %v with block_size %d", scale.Shape, x, g.block)
	}
	wide, err := c.converted(scale, graph.Float32)
	if err != nil {
		return err
	}
	g.scale, g.zero = wide.F32(), nil
	if zero != nil && smallFloats[zero.DType] == nil {
		whole, err := c.converted(zero, graph.Int32)
		if err != nil {
			return err
		}
		g.zero = whole.I32()
	}
	return nil
}

// run returns the scale and zero point of element at, and the end of the
// elements from there on that have the same.
func (g *grid) run(at int) (scale float32, zero int32, end int) {
	i := 0
	switch {
	case g.one:
		end = g.inner
	case g.blocks == 0:
		row := at / g.inner
		i, end = row%g.n, (row+1)*g.inner
	case g.inner == 1:
		o, k := at/g.n, at%g.n
		b := k / g.blockLen
		i, end = o*g.blocks+b, o*g.n+min((b+1)*g.blockLen, g.n)
	default:
		row := at / g.inner
		i, end = (row/g.n*g.blocks+row%g.n/g.blockLen)*g.inner+at%g.inner, at+1
	}
	if g.zero != nil {
		zero = g.zero[i]
	}
	return g.scale[i], zero, end
}

// quantizing is a QuantizeLinear or DequantizeLinear at hand.
type quantizing struct {
	grid
	x     []float32
	z     []float32
	rules castRules
}

func (c *call) quantizing(axis, block int, rules castRules) *quantizing {
	s, ok := c.state.(*quantizing)
	if !ok {
		s = &quantizing{grid: grid{axis: axis, block: block}, rules: rules}
		c.state = s
	}
	return s
}

// prepareQuantize: y = saturate(round(x / scale) + zero point), rounded to
// nearest even; to the 8-bit floating-point types without a zero point. The
// result is of the zero point's type. Opset 21 adds blocks and more types.
func prepareQuantize(n *node) (kernel, error) {
	along, block, rules := n.int("axis", 1), n.int("block_size", 0), castRules{wrap: !n.bool("saturate", true)}
	to := graph.DType(n.int("output_dtype", 0))
	if block < 0 {
		return nil, fmt.Errorf("block_size = %d", block)
	}
	n.int("precision", 0) // the quotient is one of float32
	bodies := map[graph.DType]func(c *call, lo, hi int){
		graph.Uint8: quantizeTo[uint8](0, math.MaxUint8), graph.Int8: quantizeTo[int8](math.MinInt8, math.MaxInt8),
		graph.Uint16: quantizeTo[uint16](0, math.MaxUint16), graph.Int16: quantizeTo[int16](math.MinInt16, math.MaxInt16),
		graph.Uint4: quantizeTo[uint8](0, 15), graph.Int4: quantizeTo[int8](-8, 7),
		graph.Uint2: quantizeTo[uint8](0, 3), graph.Int2: quantizeTo[int8](-2, 1),
	}
	for d := range smallFloats {
		bodies[d] = quantizeToFloat
	}
	return func(c *call) error {
		s := c.quantizing(along, block, rules)
		x, zero := c.in[0], c.input(2)
		d := to
		switch {
		case zero != nil && to != graph.Undefined && zero.DType != to:
			return fmt.Errorf("output_dtype is %v, the zero point %v", to, zero.DType)
		case zero != nil:
			d = zero.DType
		case to == graph.Undefined:
			d = graph.Uint8
		}
		body := bodies[d]
		if body == nil {
			return wrongType(d)
		}
		if !isOneOf(x.DType, graph.Float32, graph.Float16, graph.BFloat16, graph.Int32) {
			return wrongType(x.DType)
		}
		if err := s.set(c, x.Shape, c.in[1], zero); err != nil {
			return err
		}
		wide, err := c.converted(x, graph.Float32)
		if err != nil {
			return err
		}
		s.x = wide.F32()
		y, err := c.alloc(0, d, x.Shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		c.parallel(y.Len(), elementGrain/4, body)
		return nil
	}, errors.Join(n.inputs(2, 3), n.err)
}

func isOneOf(d graph.DType, list ...graph.DType) bool { return slices.Contains(list, d) }

func quantizeTo[T int8 | uint8 | int16 | uint16](low, high int32) func(c *call, lo, hi int) {
	return func(c *call, lo, hi int) {
		s := c.state.(*quantizing)
		y := cast[T](c.out[0].mem)
		for at := lo; at < hi; {
			scale, zero, end := s.run(at)
			end = min(end, hi)
			quantizeRun(y[at:end], s.x[at:end], scale, zero, low, high)
			at = end
		}
	}
}

// quantizeRun sets z[i] = clamp(round(x[i] / scale) + zero), NaN to zero.
func quantizeRun[T int8 | uint8 | int16 | uint16](z []T, x []float32, scale float32, zero, low, high int32) {
	bottom, top := float32(low-zero), float32(high-zero)
	for i, v := range x {
		v /= scale
		switch {
		case v >= top:
			z[i] = T(high)
		case v <= bottom:
			z[i] = T(low)
		case v != v:
			z[i] = T(min(max(zero, low), high))
		default:
			// Adding 1.5 · 2²³ rounds what is less than 2²² to an integer.
			const whole = 3 << 22
			r := v + whole
			z[i] = T(int32(r-whole) + zero)
		}
	}
}

func quantizeToFloat(c *call, lo, hi int) {
	s := c.state.(*quantizing)
	y := cast[uint8](c.out[0].mem)
	f := smallFloats[c.out[0].DType]
	for at := lo; at < hi; {
		scale, _, end := s.run(at)
		for end = min(end, hi); at < end; at++ {
			y[at] = f.encode(s.x[at]/scale, s.rules)
		}
	}
}

// prepareDequantize: y = (x − zero point) · scale, of the scale's type or,
// since opset 23, of output_dtype.
func prepareDequantize(n *node) (kernel, error) {
	along, block, to := n.int("axis", 1), n.int("block_size", 0), graph.DType(n.int("output_dtype", 0))
	if block < 0 {
		return nil, fmt.Errorf("block_size = %d", block)
	}
	bodies := map[graph.DType]func(c *call, lo, hi int){
		graph.Uint8: dequantize[uint8], graph.Int8: dequantize[int8],
		graph.Uint16: dequantize[uint16], graph.Int16: dequantize[int16],
		graph.Uint4: dequantize[uint8], graph.Int4: dequantize[int8],
		graph.Uint2: dequantize[uint8], graph.Int2: dequantize[int8],
		graph.Int32: dequantize[int32],
	}
	for d := range smallFloats {
		bodies[d] = dequantizeFloat
	}
	return func(c *call) error {
		s := c.quantizing(along, block, castRules{})
		x, scale, zero := c.in[0], c.in[1], c.input(2)
		body := bodies[x.DType]
		if body == nil {
			return wrongType(x.DType)
		}
		if zero != nil && zero.DType != x.DType {
			return fmt.Errorf("the zero point is %v, x %v", zero.DType, x.DType)
		}
		if err := s.set(c, x.Shape, scale, zero); err != nil {
			return err
		}
		d := to
		if d == graph.Undefined {
			d = scale.DType
		}
		if !isOneOf(d, graph.Float32, graph.Float16, graph.BFloat16) {
			return wrongType(d)
		}
		y, err := c.alloc(0, d, x.Shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		if d == graph.Float32 {
			s.z = y.F32()
		} else if s.z, err = scratch[float32](c, y.Len()); err != nil {
			return err
		}
		c.parallel(y.Len(), elementGrain, body)
		if d != graph.Float32 {
			roundToHalf(view[uint16](y), s.z, d)
		}
		return nil
	}, errors.Join(n.inputs(2, 3), n.err)
}

func dequantize[T integer](c *call, lo, hi int) {
	s := c.state.(*quantizing)
	x := cast[T](c.in[0].mem)
	for at := lo; at < hi; {
		scale, zero, end := s.run(at)
		for end = min(end, hi); at < end; at++ {
			s.z[at] = float32(int64(x[at])-int64(zero)) * scale
		}
	}
}

func dequantizeFloat(c *call, lo, hi int) {
	s := c.state.(*quantizing)
	x := cast[uint8](c.in[0].mem)
	f := smallFloats[c.in[0].DType]
	for at := lo; at < hi; {
		scale, _, end := s.run(at)
		for end = min(end, hi); at < end; at++ {
			s.z[at] = f.decode(x[at]) * scale
		}
	}
}

// prepareDynamicQuantize quantizes x to uint8 over its own range, which is
// made to hold 0: scale = (max − min) / 255, zero point = round(−min / scale).
// A range of 0 alone has scale 1.
func prepareDynamicQuantize(n *node) (kernel, error) {
	k := n.simd
	body := func(c *call, lo, hi int) {
		scale, zero := c.out[1].F32()[0], c.out[2].U8()[0]
		quantizeRun(c.out[0].U8()[lo:hi], c.in[0].F32()[lo:hi], scale, int32(zero), 0, math.MaxUint8)
	}
	return byType{graph.Float32: func(c *call) error {
		x := c.in[0]
		var out [3]*Tensor
		var err error
		if out[0], err = c.alloc(0, graph.Uint8, x.Shape...); err != nil {
			return err
		}
		if out[1], err = c.alloc(1, graph.Float32); err != nil {
			return err
		}
		if out[2], err = c.alloc(2, graph.Uint8); err != nil {
			return err
		}
		low, high := min(k.MinOf(x.F32()), 0), max(k.MaxOf(x.F32()), 0)
		scale := (high - low) / math.MaxUint8
		if high == low {
			scale = 1
		}
		out[1].F32()[0] = scale
		quantizeRun(out[2].U8(), []float32{-low}, scale, 0, 0, math.MaxUint8)
		if !c.wants(0) || !c.wants(1) || !c.wants(2) {
			quantizeRun(out[0].U8(), x.F32(), scale, int32(out[2].U8()[0]), 0, math.MaxUint8)
			return nil
		}
		c.parallel(x.Len(), elementGrain, body)
		return nil
	}}.kernel(0), n.inputs(1, 1)
}

// exactDepth is the number of products of integers of nine bits and a sign,
// which differences of two bytes are, that a float32 sums without rounding:
// 255² · 256 < 2²⁴. Products of bytes go through the float32 kernels in slices
// of that depth, and the sums of the slices into int32.
const exactDepth = 256

// lessZero sets z[i] = x[i] − zero, x of bytes.
func lessZero(z []float32, x *Tensor, at int, zero int32) {
	if x.DType == graph.Int8 {
		for i, v := range x.I8()[at : at+len(z)] {
			z[i] = float32(int32(v) - zero)
		}
		return
	}
	for i, v := range x.U8()[at : at+len(z)] {
		z[i] = float32(int32(v) - zero)
	}
}

// isBytes refuses all but int8 and uint8.
func isBytes(ts ...*Tensor) error {
	for _, t := range ts {
		if t != nil && t.DType != graph.Int8 && t.DType != graph.Uint8 {
			return wrongType(t.DType)
		}
	}
	return nil
}

// zerosOf reads the zero points of x, which have x's type: none, one for all
// (of any shape with one element), or one for each of n places.
func zerosOf(c *call, x, zero *Tensor, n int) ([]int32, error) {
	if zero == nil {
		return nil, nil
	}
	if zero.DType != x.DType || zero.Len() != 1 && zero.Len() != n {
		return nil, fmt.Errorf("zero point %v%v for %v%v", zero.DType, zero.Shape, x.DType, x.Shape)
	}
	whole, err := c.converted(zero, graph.Int32)
	if err != nil {
		return nil, err
	}
	return whole.I32(), nil
}

// zeroAt is zero point i of a list as zerosOf reads it.
func zeroAt(zeros []int32, i int) int32 {
	switch len(zeros) {
	case 0:
		return 0
	case 1:
		return zeros[0]
	}
	return zeros[i]
}

// integerProduct is A·B of bytes: A [..., m, k] less a zero point for all or
// each row, B [..., k, n] less one for all or each column.
type integerProduct struct {
	matmul
	x, y           *Tensor
	zeroX, zeroY   []int32
	rowsX, colsY   int // zero points are counted in so many rows and columns
	a, packed, tmp []float32
	panels         []simd.Packed
	slices         int // of the depth
	z              []int32
}

// integerRows is the rows of a product that are computed together.
const integerRows = 24

// multiply computes the product into scratch memory or z.
func (s *integerProduct) multiply(c *call, x, y, zeroX, zeroY *Tensor, z []int32) error {
	s.x, s.y, s.z = x, y, z
	var err error
	xs, ys := x.Shape, y.Shape
	s.rowsX, s.colsY = s.m, s.n
	if zeroX != nil && zeroX.Len() == x.Len()/max(s.k, 1) {
		s.rowsX = zeroX.Len() // [..., m, 1]: one for every row of the stack
	}
	if zeroY != nil && len(ys) > 2 && zeroY.Len() == y.Len()/max(s.k, 1) {
		s.colsY = zeroY.Len() // [..., 1, n]
	}
	if len(xs) == 1 {
		s.rowsX = 1
	}
	if s.zeroX, err = zerosOf(c, x, zeroX, s.rowsX); err != nil {
		return err
	}
	if s.zeroY, err = zerosOf(c, y, zeroY, s.colsY); err != nil {
		return err
	}
	if s.k == 0 {
		clear(z)
		return nil
	}
	if s.a, err = scratch[float32](c, x.Len()); err != nil {
		return err
	}
	for r := range x.Len() / s.k {
		lessZero(s.a[r*s.k:(r+1)*s.k], x, r*s.k, zeroAt(s.zeroX, r%s.rowsX))
	}
	// B, matrix by matrix and slice by slice.
	matrices := y.Len() / (s.k * s.n)
	s.slices = (s.k + exactDepth - 1) / exactDepth
	step := 0
	for i := range s.slices {
		step += s.kernels.PackedLen(min(exactDepth, s.k-i*exactDepth), s.n)
	}
	if s.packed, err = scratch[float32](c, step*matrices); err != nil {
		return err
	}
	b, err := scratch[float32](c, exactDepth*s.n)
	if err != nil {
		return err
	}
	s.panels = s.panels[:0]
	at := 0
	for i := range matrices {
		for k0 := 0; k0 < s.k; k0 += exactDepth {
			depth := min(exactDepth, s.k-k0)
			for p := range depth {
				row := b[p*s.n : (p+1)*s.n]
				lessZero(row, y, (i*s.k+k0+p)*s.n, 0)
				if len(s.zeroY) == 1 {
					for j := range row {
						row[j] -= float32(s.zeroY[0])
					}
				} else if len(s.zeroY) > 1 {
					zeros := s.zeroY[i*s.n%s.colsY:]
					for j := range row {
						row[j] -= float32(zeros[j])
					}
				}
			}
			size := s.kernels.PackedLen(depth, s.n)
			s.panels = append(s.panels, s.kernels.PackInto(s.packed[at:at+size], simd.RowMajor(b, s.n), depth, s.n))
			at += size
		}
	}
	if s.tmp, err = scratch[float32](c, integerRows*s.n*c.workers()); err != nil {
		return err
	}
	c.parallelWorkers(s.count*s.m, max(integerRows, multiplyGrain/(1+s.k*s.n)), integerMultiply)
	return nil
}

func integerMultiply(c *call, worker, lo, hi int) {
	s := c.state.(*quantizedMatMul)
	tmp := s.tmp[worker*integerRows*s.n:][:integerRows*s.n]
	for lo < hi {
		i, r := lo/s.m, lo%s.m
		rows := min(s.m-r, hi-lo, integerRows)
		from := s.batch.from(i, i+1)
		z := s.z[lo*s.n : (lo+rows)*s.n]
		for p := range s.slices {
			a := simd.RowMajor(s.a[(from.off[0]*s.m+r)*s.k+p*exactDepth:], s.k)
			s.kernels.Gemm(tmp, s.n, a, rows, s.panels[from.off[1]*s.slices+p], nil, false)
			addWhole(z, tmp[:len(z)], p > 0)
		}
		lo += rows
	}
}

// addWhole adds integers to z, or sets it to them.
func addWhole(z []int32, x []float32, add bool) {
	if !add {
		for i, v := range x {
			z[i] = int32(v)
		}
		return
	}
	for i, v := range x {
		z[i] += int32(v)
	}
}

// quantizedMatMul is the state of MatMulInteger and QLinearMatMul.
type quantizedMatMul struct {
	integerProduct
	scaleRows, scaleCols []float32
	scaleY               float32
	zeroOut              int32
}

func (c *call) quantizedMatMul(k *simd.Kernels) *quantizedMatMul {
	s, ok := c.state.(*quantizedMatMul)
	if !ok {
		s = &quantizedMatMul{}
		s.kernels = k
		c.state = s
	}
	return s
}

// prepareMatMulInteger: A · B of bytes less their zero points, in int32.
func prepareMatMulInteger(n *node) (kernel, error) {
	k := n.simd
	return func(c *call) error {
		s := c.quantizedMatMul(k)
		a, b := c.in[0], c.in[1]
		if err := isBytes(a, b); err != nil {
			return err
		}
		if err := s.set(a.Shape, b.Shape); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Int32, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		return s.multiply(c, a, b, c.input(2), c.input(3), z.I32())
	}, n.inputs(2, 4)
}

// prepareQLinearMatMul: the product of what a and b stand for, quantized. The
// sum of products is exact; it is multiplied by scale(a)·scale(b)/scale(y) in
// float32, as ONNX Runtime does.
func prepareQLinearMatMul(n *node) (kernel, error) {
	k := n.simd
	bodies := map[graph.DType]func(c *call, lo, hi int){
		graph.Uint8: requantizeRows[uint8](0, math.MaxUint8),
		graph.Int8:  requantizeRows[int8](math.MinInt8, math.MaxInt8),
	}
	return func(c *call) error {
		s := c.quantizedMatMul(k)
		a, scaleA, b, scaleB := c.in[0], c.in[1], c.in[3], c.in[4]
		scaleY, zeroY := c.in[6], c.in[7]
		if err := isBytes(a, b, zeroY); err != nil {
			return err
		}
		if err := s.set(a.Shape, b.Shape); err != nil {
			return err
		}
		if scaleA.DType != graph.Float32 || scaleB.DType != graph.Float32 || scaleY.DType != graph.Float32 || scaleY.Len() != 1 || zeroY.Len() != 1 {
			return fmt.Errorf("scales %v%v, %v%v and %v%v, zero point %v", scaleA.DType, scaleA.Shape, scaleB.DType, scaleB.Shape, scaleY.DType, scaleY.Shape, zeroY.Shape)
		}
		rows := s.count * s.m
		s.scaleRows, s.scaleCols = scaleA.F32(), scaleB.F32()
		if l := len(s.scaleRows); l != 1 && l != s.m && l != rows {
			return fmt.Errorf("scale %v for %v", scaleA.Shape, a.Shape)
		}
		if l := len(s.scaleCols); l != 1 && l != s.n && l != s.count*s.n {
			return fmt.Errorf("scale %v for %v", scaleB.Shape, b.Shape)
		}
		s.scaleY = scaleY.F32()[0]
		zero, err := zerosOf(c, zeroY, zeroY, 1)
		if err != nil {
			return err
		}
		s.zeroOut = zero[0]
		y, err := c.alloc(0, zeroY.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		z, err := scratch[int32](c, y.Len())
		if err != nil {
			return err
		}
		if err := s.multiply(c, a, b, c.in[2], c.in[5], z); err != nil {
			return err
		}
		c.parallel(rows, 1+elementGrain/4/s.n, bodies[zeroY.DType])
		return nil
	}, n.inputs(8, 8)
}

func requantizeRows[T int8 | uint8](low, high int32) func(c *call, lo, hi int) {
	return func(c *call, lo, hi int) {
		s := c.state.(*quantizedMatMul)
		y := cast[T](c.out[0].mem)
		for r := lo; r < hi; r++ {
			scale := s.scaleRows[r%len(s.scaleRows)]
			cols := s.scaleCols[r/s.m*s.n%len(s.scaleCols):]
			for j, v := range s.z[r*s.n : (r+1)*s.n] {
				b := cols[0]
				if len(s.scaleCols) > 1 {
					b = cols[j]
				}
				y[r*s.n+j] = requantize[T](v, scale*b/s.scaleY, s.zeroOut, low, high)
			}
		}
	}
}

// requantize is clamp(round(v · scale) + zero).
func requantize[T int8 | uint8](v int32, scale float32, zero, low, high int32) T {
	f := float32(v) * scale
	switch {
	case f >= float32(high-zero):
		return T(high)
	case f <= float32(low-zero):
		return T(low)
	case f != f:
		return T(zero)
	}
	const whole = 3 << 22
	r := f + whole
	return T(int32(r-whole) + zero)
}

// quantizedConv is the state of ConvInteger and QLinearConv.
type quantizedConv struct {
	convShape
	kernels                        *simd.Kernels
	attrs                          windowAttrs
	group                          int
	in, w, tmp                     []float32 // X and W less their zero points; products of a slice of the depth
	tile, tiles, colStep, packStep int       // outputs of a channel that are computed together, how many such tiles, and the memory for one
	cols, packed                   []float32
	acc                            []int32
	biasWhole                      []int32
	scales                         []float32 // for every channel, or for all
	zeroOut                        int32
}

func prepareQuantizedConv(n *node) (*quantizedConv, error) {
	s := &quantizedConv{attrs: n.window(), group: n.int("group", 1)}
	s.kernels = n.simd
	if s.group < 1 || s.group > math.MaxInt32 {
		return nil, fmt.Errorf("group = %d, want at least 1", s.group)
	}
	return s, nil
}

func (c *call) quantizedConv(fresh *quantizedConv) *quantizedConv {
	s, ok := c.state.(*quantizedConv)
	if !ok {
		s = new(quantizedConv)
		*s = *fresh
		c.state = s
	}
	return s
}

// set works out the geometry for X and W.
func (s *quantizedConv) set(x, w *Tensor) error {
	if err := isBytes(x, w); err != nil {
		return err
	}
	v := &convolution{windowAttrs: s.attrs, group: s.group}
	return v.geometry(&s.convShape, x.Shape, w.Shape)
}

// convolve sums the products into acc, int32 [n, m, out…].
func (s *quantizedConv) convolveBytes(c *call, x, w, zeroX, zeroW *Tensor, acc []int32) error {
	zx, err := zerosOf(c, x, zeroX, 1)
	if err != nil {
		return err
	}
	zw, err := zerosOf(c, w, zeroW, s.m)
	if err != nil {
		return err
	}
	s.acc = acc
	if s.depth == 0 {
		clear(acc)
		return nil
	}
	if s.in, err = scratch[float32](c, x.Len()); err != nil {
		return err
	}
	lessZero(s.in, x, 0, zeroAt(zx, 0))
	if s.w, err = scratch[float32](c, w.Len()); err != nil {
		return err
	}
	for m := range s.m {
		lessZero(s.w[m*s.depth:(m+1)*s.depth], w, m*s.depth, zeroAt(zw, m))
	}
	const unit = 48
	s.tile = min(max(convTile/s.depth/unit, 1)*unit, s.outSize)
	s.tiles = (s.outSize + s.tile - 1) / s.tile
	s.colStep = s.depth * s.tile
	s.packStep = s.kernels.PackedLen(min(exactDepth, s.depth), s.tile)
	if s.cols, err = scratch[float32](c, s.colStep*c.workers()); err != nil {
		return err
	}
	if s.packed, err = scratch[float32](c, s.packStep*c.workers()); err != nil {
		return err
	}
	if s.tmp, err = scratch[float32](c, s.groupOut*s.tile*c.workers()); err != nil {
		return err
	}
	c.parallelWorkers(s.n*s.group*s.tiles, 1+multiplyGrain/(1+s.colStep*s.groupOut), convBytes)
	return nil
}

func convBytes(c *call, worker, lo, hi int) {
	s := c.state.(*quantizedConv)
	cols, buf := s.cols[worker*s.colStep:][:s.colStep], s.packed[worker*s.packStep:][:s.packStep]
	tmp := s.tmp[worker*s.groupOut*s.tile:][:s.groupOut*s.tile]
	for unit := lo; unit < hi; unit++ {
		p0 := unit % s.tiles * s.tile
		n := min(s.tile, s.outSize-p0)
		columns(&s.window, cols, s.in[unit/s.tiles*s.groupIn*s.inSize:], s.groupIn, p0, n)
		first := unit / s.tiles * s.groupOut
		w := s.w[first%s.m*s.depth:]
		for k0 := 0; k0 < s.depth; k0 += exactDepth {
			b := s.kernels.PackInto(buf, simd.RowMajor(cols[k0*n:], n), min(exactDepth, s.depth-k0), n)
			s.kernels.Gemm(tmp, n, simd.RowMajor(w[k0:], s.depth), s.groupOut, b, nil, false)
			for r := range s.groupOut {
				addWhole(s.acc[(first+r)*s.outSize+p0:][:n], tmp[r*n:(r+1)*n], k0 > 0)
			}
		}
	}
}

// prepareConvInteger: Conv of bytes less their zero points, in int32. The zero
// point of W may be one for each output channel.
func prepareConvInteger(n *node) (kernel, error) {
	fresh, err := prepareQuantizedConv(n)
	if err != nil {
		return nil, err
	}
	return func(c *call) error {
		s := c.quantizedConv(fresh)
		if err := s.set(c.in[0], c.in[1]); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Int32, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		return s.convolveBytes(c, c.in[0], c.in[1], c.input(2), c.input(3), z.I32())
	}, n.inputs(2, 4)
}

// prepareQLinearConv: Conv of what x and w stand for, plus a bias in units of
// scale(x)·scale(w), quantized as QLinearMatMul does.
func prepareQLinearConv(n *node) (kernel, error) {
	fresh, err := prepareQuantizedConv(n)
	if err != nil {
		return nil, err
	}
	bodies := map[graph.DType]func(c *call, lo, hi int){
		graph.Uint8: requantizeChannels[uint8](0, math.MaxUint8),
		graph.Int8:  requantizeChannels[int8](math.MinInt8, math.MaxInt8),
	}
	return func(c *call) error {
		s := c.quantizedConv(fresh)
		x, scaleX, w, scaleW, scaleY, zeroY := c.in[0], c.in[1], c.in[3], c.in[4], c.in[6], c.in[7]
		if err := s.set(x, w); err != nil {
			return err
		}
		if err := isBytes(zeroY); err != nil {
			return err
		}
		if scaleX.DType != graph.Float32 || scaleW.DType != graph.Float32 || scaleY.DType != graph.Float32 ||
			scaleX.Len() != 1 || scaleY.Len() != 1 || zeroY.Len() != 1 || scaleW.Len() != 1 && scaleW.Len() != s.m {
			return fmt.Errorf("scales %v%v, %v%v and %v%v for %d channels", scaleX.DType, scaleX.Shape, scaleW.DType, scaleW.Shape, scaleY.DType, scaleY.Shape, s.m)
		}
		s.biasWhole = nil
		if b := c.input(8); b != nil {
			if b.DType != graph.Int32 || b.Len() != s.m {
				return fmt.Errorf("bias %v%v, want %d of int32", b.DType, b.Shape, s.m)
			}
			s.biasWhole = b.I32()
		}
		s.scales = s.scales[:0]
		for _, v := range scaleW.F32() {
			s.scales = append(s.scales, scaleX.F32()[0]*v/scaleY.F32()[0])
		}
		zero, err := zerosOf(c, zeroY, zeroY, 1)
		if err != nil {
			return err
		}
		s.zeroOut = zero[0]
		y, err := c.alloc(0, zeroY.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		acc, err := scratch[int32](c, y.Len())
		if err != nil {
			return err
		}
		if err := s.convolveBytes(c, x, w, c.in[2], c.in[5], acc); err != nil {
			return err
		}
		c.parallel(s.n*s.m, 1+elementGrain/4/s.outSize, bodies[zeroY.DType])
		return nil
	}, n.inputs(8, 9)
}

func requantizeChannels[T int8 | uint8](low, high int32) func(c *call, lo, hi int) {
	return func(c *call, lo, hi int) {
		s := c.state.(*quantizedConv)
		y := cast[T](c.out[0].mem)
		for i := lo; i < hi; i++ {
			m := i % s.m
			scale := s.scales[m%len(s.scales)]
			var bias int32
			if s.biasWhole != nil {
				bias = s.biasWhole[m]
			}
			for j, v := range s.acc[i*s.outSize : (i+1)*s.outSize] {
				y[i*s.outSize+j] = requantize[T](v+bias, scale, s.zeroOut, low, high)
			}
		}
	}
}
