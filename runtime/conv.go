package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// convOps slide learnt kernels over their input.
var convOps = []operator{
	{"", "Conv", 1, prepareConv, halves},
	{"", "ConvTranspose", 1, prepareConvTranspose, halves},
}

// convolution is Conv: X [N, C, d…], W [M, C/group, k…], B [M] →
//
//	Y[n, m, o…] = B[m] + Σ_c Σ_k W[m, c, k…] · X[n, c, o·stride − before + k·dilation…]
//
// with c over the channels of m's group and zeros outside of X. Every element
// is one chain of multiply-adds that begins with the bias, in the order of c
// and k.
type convolution struct {
	windowAttrs
	k     *simd.Kernels
	group int
	w, b  *Tensor // where they are constant
}

// convState is the convolution at hand.
type convState struct {
	window
	n, channels, m         int // samples, channels of X and of Y
	groupIn, groupOut      int // channels of a group
	depth                  int // products that go into an element: groupIn · taps
	x, weights, bias, z    []float32
	shape                  []int
	pointwise              bool // every output reads the one input at its place
	tile, tiles            int  // outputs of a channel that are computed together, and how many such tiles
	cols, packed           []float32
	colStep, packStep      int
	panels                 []simd.Packed
	rowBlocks, rowsOfBlock int
	kernels                *simd.Kernels
}

func prepareConv(n *node) (kernel, error) {
	v := &convolution{windowAttrs: n.window(), k: n.simd, group: n.int("group", 1)}
	if err := v.constants(n); err != nil {
		return nil, err
	}
	if v.w != nil || v.b != nil {
		return byType{graph.Float32: v.run}.kernel(0), n.inputs(2, 3)
	}
	return byType{graph.Float32: v.run, graph.Float64: v.run64()}.kernel(0), n.inputs(2, 3)
}

// constants keeps weights and bias where they are constant.
func (v *convolution) constants(n *node) error {
	if v.group < 1 || v.group > math.MaxInt32 {
		return fmt.Errorf("group = %d, want at least 1", v.group)
	}
	for i, at := range []**Tensor{1: &v.w, 2: &v.b} {
		c := n.constant(i)
		if at == nil || c == nil {
			continue
		}
		wide, err := widened(c)
		if err != nil {
			return err
		}
		if wide != nil {
			*at = wide
			n.drop(i)
		}
	}
	return nil
}

// inputs returns W and B, of X's type and W of its rank; B is nil where it is
// left out.
func (v *convolution) inputs(c *call) (w, b *Tensor, err error) {
	x := c.in[0]
	if w = v.w; w == nil {
		w = c.in[1]
	}
	if b = v.b; b == nil {
		b = c.input(2)
	}
	if w.DType != x.DType || b != nil && b.DType != x.DType {
		return nil, nil, errors.New("inputs are not of one type")
	}
	if len(x.Shape) < 3 || len(w.Shape) != len(x.Shape) {
		return nil, nil, fmt.Errorf("X %v with W %v: want as many dims of both, channels and spatial ones", x.Shape, w.Shape)
	}
	return w, b, nil
}

// operands returns W and B, checked against X, and sets the geometry.
func (v *convolution) operands(c *call, s *convState) (w, b *Tensor, err error) {
	if w, b, err = v.inputs(c); err != nil {
		return nil, nil, err
	}
	if err := v.geometry(s, c.in[0].Shape, w.Shape); err != nil {
		return nil, nil, err
	}
	if b != nil && (len(b.Shape) != 1 || b.Shape[0] != s.m) {
		return nil, nil, fmt.Errorf("B %v for %d output channels", b.Shape, s.m)
	}
	return w, b, nil
}

// geometry works out the shapes for X [N, C, d…] and W [M, C/group, k…].
func (v *convolution) geometry(s *convState, x, w []int) error {
	if len(x) < 3 || len(w) != len(x) {
		return fmt.Errorf("X %v with W %v: want as many dims of both, channels and spatial ones", x, w)
	}
	s.n, s.channels, s.m = x[0], x[1], w[0]
	s.groupIn, s.groupOut = w[1], s.m/v.group
	if s.m%v.group != 0 || s.channels%v.group != 0 || s.channels/v.group != s.groupIn {
		return fmt.Errorf("X %v with W %v in %d groups", x, w, v.group)
	}
	if err := s.set(&v.windowAttrs, x[2:], w[2:]); err != nil {
		return err
	}
	s.depth = s.groupIn * s.taps
	s.shape = append(append(s.shape[:0], s.n, s.m), s.out...)
	return nil
}

func (c *call) convolve(k *simd.Kernels) *convState {
	s, ok := c.state.(*convState)
	if !ok {
		s = &convState{kernels: k}
		c.state = s
	}
	return s
}

func (v *convolution) run(c *call) error {
	s := c.convolve(v.k)
	w, b, err := v.operands(c, s)
	if err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	c.flops += 2 * int64(z.Len()) * int64(s.depth)
	s.x, s.weights, s.z, s.bias = c.in[0].F32(), w.F32(), z.F32(), nil
	if b != nil {
		s.bias = b.F32()
	}
	defer func() { s.x, s.z, s.cols, s.packed = nil, nil, nil, nil }()
	// A product with fewer rows does not pay for the gathering of columns.
	if s.groupOut < 4 || s.depth == 0 {
		c.parallel(s.n*s.m, 1+multiplyGrain/(1+s.outSize*s.depth), convDirect)
		return nil
	}
	return s.multiply(c)
}

// convDirect computes channels [lo, hi) of all samples, row by row.
func convDirect(c *call, lo, hi int) {
	s := c.state.(*convState)
	for i := lo; i < hi; i++ {
		n, m := i/s.m, i%s.m
		x := s.x[(n*s.channels+m/s.groupOut*s.groupIn)*s.inSize:]
		var bias float32
		if s.bias != nil {
			bias = s.bias[m]
		}
		slide(&s.window, s.z[i*s.outSize:(i+1)*s.outSize], x, s.weights[m*s.depth:(m+1)*s.depth], s.groupIn, bias, s.kernels.Axpy)
	}
}

// slide computes one channel of a convolution from the channels of its group.
func slide[T float32 | float64](s *window, z, x, w []T, channels int, bias T, axpy func(dst []T, a T, x []T)) {
	last := len(s.in) - 1
	kw, stride := s.kernel[last], s.stride[last]
	for r := range s.rows {
		row := z[r*s.width : (r+1)*s.width]
		for j := range row {
			row[j] = bias
		}
		for ch := range channels {
			for t := s.row(r); t.ok; t.next() {
				in := x[ch*s.inSize+t.in:][:s.in[last]]
				taps := w[ch*s.taps+t.tap:][:kw]
				for k, a := range taps {
					lo, hi, from := s.span(k)
					if lo >= hi {
						continue
					}
					if stride == 1 {
						axpy(row[lo:hi], a, in[from:from+hi-lo])
						continue
					}
					for j := lo; j < hi; j++ {
						row[j] += T(a * in[from])
						from += stride
					}
				}
			}
		}
	}
}

// convTile is the memory for the columns of a tile, in elements: with their
// packed copy they stay in a level-two cache.
const convTile = 1 << 16

// multiply computes the convolution as products W [groupOut, depth] times the
// columns of X [depth, outputs], a tile of outputs at a time.
func (s *convState) multiply(c *call) error {
	s.pointwise = s.taps == 1
	for i := range s.in {
		s.pointwise = s.pointwise && s.stride[i] == 1 && s.before[i] == 0 && s.after[i] == 0
	}
	const unit = 48 // the widest panel of the kernels
	s.tile = min(max(convTile/s.depth/unit, 1)*unit, s.outSize)
	s.tiles = (s.outSize + s.tile - 1) / s.tile
	groups := s.m / s.groupOut
	units := s.n * groups * s.tiles
	s.packStep = s.kernels.PackedLen(s.depth, s.tile)
	s.colStep = s.depth * s.tile
	if s.pointwise {
		s.colStep = 0
	}
	var err error
	if s.cols, err = scratch[float32](c, s.colStep*c.workers()); err != nil {
		return err
	}
	work := s.tile * s.depth * s.groupOut
	if c.workers() == 1 || units >= 2*c.workers() || work < multiplyGrain {
		if s.packed, err = scratch[float32](c, s.packStep*c.workers()); err != nil {
			return err
		}
		c.parallelWorkers(units, 1+multiplyGrain/(1+work), convTiles)
		return nil
	}
	// Few tiles of many rows: the threads share the rows of each.
	if s.packed, err = scratch[float32](c, s.packStep*units); err != nil {
		return err
	}
	if cap(s.panels) < units {
		s.panels = make([]simd.Packed, units)
	}
	s.panels = s.panels[:units]
	c.parallelWorkers(units, 1, convPack)
	s.rowsOfBlock = 24
	s.rowBlocks = (s.groupOut + s.rowsOfBlock - 1) / s.rowsOfBlock
	c.parallel(units*s.rowBlocks, 1+multiplyGrain/(1+s.tile*s.depth*s.rowsOfBlock), convRows)
	return nil
}

// pack makes the columns of tile unit into buf.
func (s *convState) pack(unit int, cols, buf []float32) simd.Packed {
	p0 := unit % s.tiles * s.tile
	n := min(s.tile, s.outSize-p0)
	x := s.x[unit/s.tiles*s.groupIn*s.inSize:][:s.groupIn*s.inSize]
	b := simd.RowMajor(cols, n)
	if s.pointwise {
		b = simd.RowMajor(x[p0:], s.inSize)
	} else {
		columns(&s.window, cols, x, s.groupIn, p0, n)
	}
	return s.kernels.PackInto(buf, b, s.depth, n)
}

// product computes rows [lo, hi) of a tile's group of channels.
func (s *convState) product(unit, lo, hi int, b simd.Packed) {
	p0 := unit % s.tiles * s.tile
	_, n := b.Dims()
	first := unit / s.tiles * s.groupOut // channel of all samples
	z := s.z[(first+lo)*s.outSize+p0:]
	w := first%s.m + lo
	if s.bias != nil {
		for r := range hi - lo {
			row := z[r*s.outSize : r*s.outSize+n]
			bias := s.bias[w+r]
			for j := range row {
				row[j] = bias
			}
		}
	}
	s.kernels.Gemm(z, s.outSize, simd.RowMajor(s.weights[w*s.depth:], s.depth), hi-lo, b, nil, s.bias != nil)
}

func convTiles(c *call, worker, lo, hi int) {
	s := c.state.(*convState)
	cols, buf := s.cols[worker*s.colStep:][:s.colStep], s.packed[worker*s.packStep:][:s.packStep]
	for unit := lo; unit < hi; unit++ {
		s.product(unit, 0, s.groupOut, s.pack(unit, cols, buf))
	}
}

func convPack(c *call, worker, lo, hi int) {
	s := c.state.(*convState)
	cols := s.cols[worker*s.colStep:][:s.colStep]
	for unit := lo; unit < hi; unit++ {
		s.panels[unit] = s.pack(unit, cols, s.packed[unit*s.packStep:][:s.packStep])
	}
}

func convRows(c *call, lo, hi int) {
	s := c.state.(*convState)
	for i := lo; i < hi; i++ {
		unit, r := i/s.rowBlocks, i%s.rowBlocks*s.rowsOfBlock
		s.product(unit, r, min(r+s.rowsOfBlock, s.groupOut), s.panels[unit])
	}
}

// columns writes what outputs [p0, p0+n) of a channel read of x [channels,
// in…] as a matrix [channels · taps, n], zeros for padding.
func columns[T element](s *window, cols, x []T, channels, p0, n int) {
	last := len(s.in) - 1
	kw, stride := s.kernel[last], s.stride[last]
	var zero T
	for p := p0; p < p0+n; {
		r, c0 := p/s.width, p%s.width
		c1 := min(s.width, c0+p0+n-p)
		at := p - p0
		if first := s.row(r); !first.ok || first.count() != s.taps/kw {
			for k := range channels * s.taps {
				clear(cols[k*n+at : k*n+at+c1-c0])
			}
		}
		for t := s.row(r); t.ok; t.next() {
			for k := range kw {
				lo, hi, from := s.span(k)
				lo0 := lo
				lo, hi = min(max(lo, c0), c1), max(min(hi, c1), c0)
				if lo >= hi {
					lo, hi = c1, c1
				}
				from += (lo - lo0) * stride
				for ch := range channels {
					to := cols[(ch*s.taps+t.tap+k)*n+at:][:c1-c0]
					for j := range to[:lo-c0] {
						to[j] = zero
					}
					if in := x[ch*s.inSize+t.in:]; lo == hi {
					} else if stride == 1 {
						copy(to[lo-c0:hi-c0], in[from:])
					} else {
						f := from
						for j := lo - c0; j < hi-c0; j++ {
							to[j] = in[f]
							f += stride
						}
					}
					for j := hi - c0; j < c1-c0; j++ {
						to[j] = zero
					}
				}
			}
		}
		p += c1 - c0
	}
}

// run64 is the convolution in float64.
func (v *convolution) run64() kernel {
	axpy := func(dst []float64, a float64, x []float64) {
		for i, v := range x[:len(dst)] {
			dst[i] += float64(a * v)
		}
	}
	body := func(c *call, lo, hi int) {
		s := c.state.(*convState)
		x, w, z := c.in[0].F64(), c.in[1].F64(), c.out[0].F64()
		for i := lo; i < hi; i++ {
			n, m := i/s.m, i%s.m
			bias := 0.0
			if c.has(2) {
				bias = c.in[2].F64()[m]
			}
			slide(&s.window, z[i*s.outSize:(i+1)*s.outSize], x[(n*s.channels+m/s.groupOut*s.groupIn)*s.inSize:],
				w[m*s.depth:(m+1)*s.depth], s.groupIn, bias, axpy)
		}
	}
	return func(c *call) error {
		s := c.convolve(v.k)
		if _, _, err := v.operands(c, s); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Float64, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		c.parallel(s.n*s.m, 1+multiplyGrain/(1+s.outSize*s.depth), body)
		return nil
	}
}

// transposedConvolution is ConvTranspose: X [N, C, d…], W [C, M/group, k…], B [M]. It is
// the adjoint of a convolution from its output to X: x[n, c, i…] · W[c, m, k…]
// goes to Y[n, m, i·stride − before + k·dilation…]. The sum over c is one chain
// of multiply-adds; the sums that meet in an element are added to the bias in
// the order of their places in X, and then of k.
type transposedConvolution struct {
	convolution
	extra, outShape []int // output_padding, output_shape
}

func prepareConvTranspose(n *node) (kernel, error) {
	v := &transposedConvolution{convolution: convolution{windowAttrs: n.window(), k: n.simd, group: n.int("group", 1)},
		extra: n.ints("output_padding"), outShape: n.ints("output_shape")}
	if err := v.constants(n); err != nil {
		return nil, err
	}
	if v.w != nil || v.b != nil {
		return byType{graph.Float32: v.run}.kernel(0), n.inputs(2, 3)
	}
	return byType{graph.Float32: v.run, graph.Float64: v.run64()}.kernel(0), n.inputs(2, 3)
}

// operands is convolution.operands for the adjoint: the window slides over Y.
func (v *transposedConvolution) operands(c *call, s *convState) (w, b *Tensor, err error) {
	x := c.in[0]
	if w, b, err = v.inputs(c); err != nil {
		return nil, nil, err
	}
	s.n, s.channels, s.m = x.Shape[0], x.Shape[1], 0
	if w.Shape[1] > 0 {
		if s.m = w.Shape[1] * v.group; s.m/v.group != w.Shape[1] {
			return nil, nil, fmt.Errorf("W %v in %d groups", w.Shape, v.group)
		}
	}
	s.groupIn, s.groupOut = s.channels/v.group, w.Shape[1]
	if w.Shape[0] != s.channels || s.channels%v.group != 0 {
		return nil, nil, fmt.Errorf("X %v with W %v in %d groups", x.Shape, w.Shape, v.group)
	}
	if b != nil && (len(b.Shape) != 1 || b.Shape[0] != s.m) {
		return nil, nil, fmt.Errorf("B %v for %d output channels", b.Shape, s.m)
	}
	if err := v.size(&s.window, x.Shape[2:], w.Shape[2:]); err != nil {
		return nil, nil, err
	}
	s.shape = append(append(s.shape[:0], s.n, s.m), s.in...)
	return w, b, nil
}

// size works out the window that slides over Y with X's dims as its outputs.
func (v *transposedConvolution) size(w *window, x, kernel []int) error {
	if v.kernel != nil && !slices.Equal(kernel, v.kernel) {
		return fmt.Errorf("kernel_shape is %v, the weights' kernel %v", v.kernel, kernel)
	}
	if w.out != nil && slices.Equal(w.out, x) && slices.Equal(w.kernel, kernel) {
		return nil
	}
	if err := v.resize(w, x, kernel); err != nil {
		w.out = nil
		return err
	}
	return nil
}

func (v *transposedConvolution) resize(w *window, x, kernel []int) error {
	if err := w.shape(&v.windowAttrs, x, kernel); err != nil {
		return err
	}
	n := len(x)
	outShape := v.outShape
	if len(outShape) == n+2 {
		outShape = outShape[2:]
	}
	if v.extra != nil && len(v.extra) != n || outShape != nil && len(outShape) != n {
		return fmt.Errorf("output_padding %v and output_shape %v do not fit %d spatial dims", v.extra, v.outShape, n)
	}
	w.out = append(w.out, x...)
	for i, d := range x {
		if d > math.MaxInt32 {
			return fmt.Errorf("X has %d positions along an axis", d)
		}
		natural := (d-1)*w.stride[i] + (w.kernel[i]-1)*w.dilation[i] + 1
		if v.extra != nil {
			if v.extra[i] < 0 || v.extra[i] > math.MaxInt32 {
				return fmt.Errorf("output_padding %v", v.extra)
			}
			natural += v.extra[i]
		}
		switch same := v.auto == "SAME_UPPER" || v.auto == "SAME_LOWER"; {
		case outShape != nil || same:
			w.in[i] = d * w.stride[i]
			if outShape != nil {
				w.in[i] = outShape[i]
			}
			pad := max(natural-w.in[i], 0)
			if w.before[i] = pad - pad/2; v.auto == "SAME_UPPER" {
				w.before[i] = pad / 2
			}
			w.after[i] = pad - w.before[i]
		default:
			w.in[i] = natural - w.before[i] - w.after[i]
		}
		if w.in[i] < 0 {
			return fmt.Errorf("Y has a spatial dim of %d", w.in[i])
		}
	}
	return w.sizes()
}

func (v *transposedConvolution) run(c *call) error {
	s := c.convolve(v.k)
	w, b, err := v.operands(c, s)
	if err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	c.flops += 2 * int64(c.in[0].Len()) * int64(s.groupOut) * int64(s.taps)
	s.x, s.weights, s.z, s.bias = c.in[0].F32(), w.F32(), z.F32(), nil
	if b != nil {
		s.bias = b.F32()
	}
	defer func() { s.x, s.z, s.cols, s.packed = nil, nil, nil, nil }()
	// The groups of X, packed; then the channels of Y, each a product with
	// them that is spread over it.
	units := s.n * v.group
	s.packStep = s.kernels.PackedLen(s.groupIn, s.outSize)
	if s.packed, err = scratch[float32](c, s.packStep*units); err != nil {
		return err
	}
	if cap(s.panels) < units {
		s.panels = make([]simd.Packed, units)
	}
	s.panels = s.panels[:units]
	c.parallel(units, 1+elementGrain/(1+s.groupIn*s.outSize), transposePack)
	if s.colStep, err = count([]int{s.taps, s.outSize, c.workers()}); err != nil {
		return err
	}
	s.colStep /= c.workers()
	if s.cols, err = scratch[float32](c, s.colStep*c.workers()); err != nil {
		return err
	}
	c.parallelWorkers(s.n*s.m, 1+multiplyGrain/(1+s.colStep*(1+s.groupIn)), transposeChannels)
	return nil
}

func transposePack(c *call, lo, hi int) {
	s := c.state.(*convState)
	for unit := lo; unit < hi; unit++ {
		x := simd.RowMajor(s.x[unit*s.groupIn*s.outSize:], s.outSize)
		s.panels[unit] = s.kernels.PackInto(s.packed[unit*s.packStep:(unit+1)*s.packStep], x, s.groupIn, s.outSize)
	}
}

func transposeChannels(c *call, worker, lo, hi int) {
	s := c.state.(*convState)
	cols := s.cols[worker*s.colStep:][:s.colStep]
	for i := lo; i < hi; i++ {
		unit, m := i/s.groupOut, i%s.m
		z := s.z[i*s.inSize : (i+1)*s.inSize]
		var bias float32
		if s.bias != nil {
			bias = s.bias[m]
		}
		for j := range z {
			z[j] = bias
		}
		if s.groupIn == 0 || s.outSize == 0 {
			continue
		}
		// W of the group is [groupIn, groupOut · taps].
		w := s.weights[(m/s.groupOut*s.groupIn*s.groupOut+m%s.groupOut)*s.taps:]
		a := simd.Mat{Data: w, RowStride: 1, ColStride: s.groupOut * s.taps}
		s.kernels.Gemm(cols, s.outSize, a, s.taps, s.panels[unit], nil, false)
		addColumns(&s.window, z, cols, s.kernels.Add)
	}
}

// addColumns adds what columns would read: cols [taps, outputs] go to the
// positions of z that the taps of the outputs stand on.
func addColumns[T float32 | float64](s *window, z, cols []T, add func(dst, x, y []T)) {
	last := len(s.in) - 1
	stride := s.stride[last]
	for r := range s.rows {
		for t := s.row(r); t.ok; t.next() {
			for k := range s.kernel[last] {
				lo, hi, from := s.span(k)
				if lo >= hi {
					continue
				}
				col := cols[(t.tap+k)*s.outSize+r*s.width:][lo:hi]
				if stride == 1 {
					dst := z[t.in+from:][:len(col)]
					add(dst, dst, col)
					continue
				}
				to := t.in + from
				for _, v := range col {
					z[to] += v
					to += stride
				}
			}
		}
	}
}

// run64 is the adjoint in float64.
func (v *transposedConvolution) run64() kernel {
	add := func(dst, x, y []float64) {
		for i := range dst {
			dst[i] = x[i] + y[i]
		}
	}
	return func(c *call) error {
		s := c.convolve(v.k)
		w, b, err := v.operands(c, s)
		if err != nil {
			return err
		}
		out, err := c.alloc(0, graph.Float64, s.shape...)
		if err != nil || out.Len() == 0 {
			return err
		}
		cols, err := scratch[float64](c, s.taps*s.outSize)
		if err != nil {
			return err
		}
		x, weights := c.in[0].F64(), w.F64()
		for i := range s.n * s.m {
			z, m := out.F64()[i*s.inSize:(i+1)*s.inSize], i%s.m
			bias := 0.0
			if b != nil {
				bias = b.F64()[m]
			}
			for j := range z {
				z[j] = bias
			}
			clear(cols)
			for ch := range s.groupIn {
				in := x[(i/s.groupOut*s.groupIn+ch)*s.outSize:][:s.outSize]
				for k, a := range weights[((m/s.groupOut*s.groupIn+ch)*s.groupOut+m%s.groupOut)*s.taps:][:s.taps] {
					col := cols[k*s.outSize:][:s.outSize]
					for j, v := range in {
						col[j] += float64(a * v)
					}
				}
			}
			addColumns(&s.window, z, cols, add)
		}
		return nil
	}
}
