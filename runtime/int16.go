package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// int16Ops are the operators of domain lathe in 16-bit fixed point. Package
// fixed specifies them to the bit. Weights, biases and shifts are constant.
var int16Ops = []operator{
	{graph.LatheDomain, "QuantizeInt16", 1, prepareQuantizeInt16, nil, 0},
	{graph.LatheDomain, "DequantizeInt16", 1, prepareDequantizeInt16, nil, 0},
	{graph.LatheDomain, "RequantizeInt16", 1, prepareRequantizeInt16, nil, 0},
	{graph.LatheDomain, "MatMulInt16", 1, prepareMatMulInt16, nil, 0},
	{graph.LatheDomain, "ConvInt16", 1, prepareConvInt16, nil, 0},
	{graph.LatheDomain, "BlockCirculantMatMulInt16", 2, prepareCirculantInt16, nil, 0},
	{graph.LatheDomain, "BlockCirculantConvInt16", 2, prepareCirculantConvInt16, nil, 0},
	{graph.LatheDomain, "AddInt16", 1, prepareAddInt16, nil, 0},
	{graph.LatheDomain, "ClipInt16", 1, prepareClipInt16, nil, 0},
	{graph.LatheDomain, "MaxPoolInt16", 1, prepareMaxPoolInt16, nil, 0},
	{graph.LatheDomain, "AveragePoolInt16", 1, prepareMeanPoolInt16, nil, 0},
	{graph.LatheDomain, "GlobalAveragePoolInt16", 1, prepareMeanPoolInt16, nil, 0},
}

// fixedInput returns constant input i, whose element type is d.
func (n *node) fixedInput(i int, name string, d graph.DType) (*Tensor, error) {
	switch t := n.constant(i); {
	case !n.has(i):
		return nil, fmt.Errorf("input %s is missing", name)
	case t == nil:
		return nil, fmt.Errorf("input %s has to be constant", name)
	case t.DType != d:
		return nil, fmt.Errorf("input %s is %v, want %v", name, t.DType, d)
	default:
		n.drop(i)
		return t, nil
	}
}

// shifts returns the int32 elements of constant input i, each from low to high;
// there are count of them, any number where that is negative.
func (n *node) shifts(i int, name string, count int, low, high int32) ([]int32, error) {
	t, err := n.fixedInput(i, name, graph.Int32)
	if err != nil {
		return nil, err
	}
	if count >= 0 && t.Len() != count {
		return nil, fmt.Errorf("input %s has %d elements, want %d", name, t.Len(), count)
	}
	for _, v := range t.I32() {
		if v < low || v > high {
			return nil, fmt.Errorf("input %s holds %d, want %d to %d", name, v, low, high)
		}
	}
	return t.I32(), nil
}

// mapInt16 is a kernel that computes out[i] from in[i], for runs of elements.
func mapInt16[X, Y element](f func(y []Y, x []X)) kernel {
	body := func(c *call, lo, hi int) { f(view[Y](c.out[0])[lo:hi], view[X](c.in[0])[lo:hi]) }
	return byType{dtypeOf[X](): func(c *call) error {
		x := c.in[0]
		if _, err := c.over(0, 0, dtypeOf[Y](), x.Shape...); err != nil {
			return err
		}
		c.parallel(x.Len(), elementGrain, body)
		return nil
	}}.kernel(0)
}

const maxExponent = 126 // 2 to the power of ± that is a float32 that is not subnormal

func prepareQuantizeInt16(n *node) (kernel, error) {
	e, err := n.shifts(1, "E", 1, -maxExponent, maxExponent)
	if err != nil {
		return nil, err
	}
	k, scale := n.simd, float32(math.Ldexp(1, -int(e[0])))
	return mapInt16(func(y []int16, x []float32) { k.Quantize16(y, x, scale) }), n.inputs(2, 2)
}

// exponents returns E of DequantizeInt16, constant input 1.
func (n *node) exponents() ([]int, error) {
	var e []int
	if t := n.constant(1); t != nil && t.DType == graph.Int8 {
		n.drop(1)
		for _, v := range t.I8() {
			e = append(e, int(v))
		}
	} else {
		list, err := n.shifts(1, "E", -1, -maxExponent, maxExponent)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			e = append(e, int(v))
		}
	}
	if len(e) == 0 {
		return nil, errors.New("input E is empty")
	}
	for _, v := range e {
		if v < -maxExponent || v > maxExponent {
			return nil, fmt.Errorf("input E holds %d, want %d to %d", v, -maxExponent, maxExponent)
		}
	}
	return e, nil
}

func prepareDequantizeInt16(n *node) (kernel, error) {
	e, err := n.exponents()
	if err != nil {
		return nil, err
	}
	scales := make([]float32, len(e))
	for i, v := range e {
		scales[i] = float32(math.Ldexp(1, v))
	}
	k := n.simd
	if len(e) == 1 {
		return mapInt16(func(y []float32, x []int16) { k.Dequantize16(y, x, scales[0]) }), n.inputs(2, 2)
	}
	body := func(c *call, lo, hi int) {
		y, x := c.out[0].F32(), c.in[0].I16()
		for ; lo < hi; lo++ {
			k.DequantizeEach16(y[lo*len(scales):][:len(scales)], x[lo*len(scales):][:len(scales)], scales)
		}
	}
	return byType{graph.Int16: func(c *call) error {
		x := c.in[0]
		if len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] != len(scales) {
			return fmt.Errorf("input X is %v with %d exponents E", x.Shape, len(scales))
		}
		if _, err := c.over(0, 0, graph.Float32, x.Shape...); err != nil {
			return err
		}
		c.parallel(x.Len()/len(scales), 1+elementGrain/len(scales), body)
		return nil
	}}.kernel(0), n.inputs(2, 2)
}

func prepareRequantizeInt16(n *node) (kernel, error) {
	s, err := n.shifts(1, "S", 1, -16, 31)
	if err != nil {
		return nil, err
	}
	k, shift := n.simd, int(s[0])
	return mapInt16(func(y, x []int16) { k.Requantize16(y, x, shift) }), n.inputs(2, 2)
}

func prepareClipInt16(n *node) (kernel, error) {
	low, errLow := n.fixedInput(1, "L", graph.Int16)
	high, errHigh := n.fixedInput(2, "H", graph.Int16)
	if err := errors.Join(errLow, errHigh, n.inputs(3, 3)); err != nil {
		return nil, err
	}
	if low.Len() != 1 || high.Len() != 1 {
		return nil, fmt.Errorf("bounds L and H have %d and %d elements, want one each", low.Len(), high.Len())
	}
	k, l, h := n.simd, low.I16()[0], high.I16()[0]
	return mapInt16(func(y, x []int16) { k.Clip16(y, x, l, h) }), nil
}

func prepareAddInt16(n *node) (kernel, error) {
	e, err := n.shifts(2, "E", 3, 0, 40)
	if err != nil {
		return nil, err
	}
	if e[0] > 16 || e[1] > 16 {
		return nil, fmt.Errorf("input E holds %v, want at most 16 in the first two", e)
	}
	l := each(func(x, y int16) int16 {
		return fixed.Saturate(fixed.Round(int64(x)<<e[0]+int64(y)<<e[1], int(e[2])))
	})
	k := n.simd
	l.vv = func(z, x, y []int16) { k.Add16(z, x, y, uint64(e[0]), uint64(e[1]), uint64(e[2])) }
	return byType{graph.Int16: binary(l)}.kernel(0), n.inputs(3, 3)
}

// fixedLayer reads the constant inputs W, S and B of a layer; there is a shift
// for every row of W.
func (n *node) fixedLayer() (w *Tensor, shift []int32, bias []int64, err error) {
	w, errW := n.fixedInput(1, "W", graph.Int16)
	shift, errS := n.shifts(2, "S", -1, 0, 62)
	b, errB := n.fixedInput(3, "B", graph.Int64)
	if err := errors.Join(errW, errS, errB); err != nil {
		return nil, nil, nil, err
	}
	if len(w.Shape) == 0 || len(shift) != w.Shape[0] {
		return nil, nil, nil, fmt.Errorf("%d shifts S for weights W %v", len(shift), w.Shape)
	}
	return w, shift, b.I64(), nil
}

// prepareMatMulInt16: X [..., n], W [m, n].
func prepareMatMulInt16(n *node) (kernel, error) {
	if err := n.inputs(4, 4); err != nil {
		return nil, err
	}
	w, shift, bias, err := n.fixedLayer()
	if err != nil {
		return nil, err
	}
	if len(w.Shape) != 2 {
		return nil, fmt.Errorf("weights W %v, want [m, n]", w.Shape)
	}
	m, features := w.Shape[0], w.Shape[1]
	packed, err := fixed.Pack(n.simd, w.I16(), m, features, 1, bias, shift)
	if err != nil {
		return nil, err
	}
	k, stride := n.simd, features+features%2
	type state struct {
		x     []int16
		shape []int
	}
	body := func(c *call, lo, hi int) {
		s := c.state.(*state)
		k.Fixed16(c.out[0].I16()[lo*m:], m, &packed, s.x[lo*stride:], stride, hi-lo)
	}
	return byType{graph.Int16: func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		x := c.in[0]
		if len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] != features {
			return fmt.Errorf("input X is %v, weights W [%d, %d]", x.Shape, m, features)
		}
		rows, err := count(x.Shape[:len(x.Shape)-1])
		if err != nil {
			return err
		}
		s.shape = append(append(s.shape[:0], x.Shape[:len(x.Shape)-1]...), m)
		if _, err := c.alloc(0, graph.Int16, s.shape...); err != nil {
			return err
		}
		if s.x = x.I16(); stride != features { // the kernels read pairs
			if s.x, err = scratch[int16](c, rows*stride); err != nil {
				return err
			}
			for r := range rows {
				copy(s.x[r*stride:], x.I16()[r*features:(r+1)*features])
				s.x[(r+1)*stride-1] = 0
			}
		}
		c.flops += 2 * int64(rows) * int64(m) * int64(features)
		c.parallel(rows, 1+multiplyGrain/(1+m*features), body)
		s.x = nil
		return nil
	}}.kernel(0), nil
}

// fixedSpec reads the constant inputs of a block-circulant layer: W [p, q, b,
// kernel…], S, B, R, E and A. Q and W are those of W, without its kernel.
func (n *node) fixedSpec() (s fixed.Spec, kernel []int, err error) {
	if err := n.inputs(7, 7); err != nil {
		return s, nil, err
	}
	w, errW := n.fixedInput(1, "W", graph.Int16)
	shifts, errS := n.fixedInput(2, "S", graph.Int8)
	bias, errB := n.fixedInput(3, "B", graph.Int32)
	r, errR := n.fixedInput(4, "R", graph.Int8)
	e, errE := n.fixedInput(5, "E", graph.Int8)
	sums, errA := n.shifts(6, "A", 2, 0, math.MaxInt32)
	if err := errors.Join(errW, errS, errB, errR, errE, errA); err != nil {
		return s, nil, err
	}
	if len(w.Shape) < 3 {
		return s, nil, fmt.Errorf("weights W %v, want at least [p, q, b]", w.Shape)
	}
	return fixed.Spec{P: w.Shape[0], Q: w.Shape[1], B: w.Shape[2], W: w.I16(), S: shifts.I8(), Bias: bias.I32(), R: r.I8(), E: e.I8(),
		Group: int(sums[0]), Shift: int(sums[1]), Rounding: fixed.Rounding(n.str("rounding", string(fixed.Once)))}, w.Shape[3:], nil
}

// fixedWorkspaces gives every worker a workspace of these sizes.
func (c *call) fixedWorkspaces(list []fixed.Workspace, sizes func() (x, y, stage, scratch int)) error {
	x, y, stage, fft := sizes()
	for i := range list {
		ws := &list[i]
		var errs [4]error
		ws.X, errs[0] = scratch[int32](c, x)
		ws.Y, errs[1] = scratch[int32](c, y)
		ws.Stage, errs[2] = scratch[int16](c, stage)
		ws.Scratch, errs[3] = scratch[float32](c, fft)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
	}
	return nil
}

// circulantInt16 is the product of a BlockCirculantMatMulInt16: X [..., n], W [p, q,
// b].
func (n *node) circulantInt16() (*fixed.Circulant, error) {
	spec, kernel, err := n.fixedSpec()
	if err != nil {
		return nil, err
	}
	if len(kernel) != 0 {
		return nil, fmt.Errorf("weights W %v, want [p, q, b]", append([]int{spec.P, spec.Q, spec.B}, kernel...))
	}
	return fixed.NewCirculant(spec, n.simd)
}

func prepareCirculantInt16(n *node) (kernel, error) {
	o, err := n.circulantInt16()
	if err != nil {
		return nil, err
	}
	return circulantInt16Kernel(o, graph.Int16, graph.Int16), nil
}

// circulantInt16Kernel computes o from elements of one type into those of another,
// int16 or float32 both.
func circulantInt16Kernel(o *fixed.Circulant, from, to graph.DType) kernel {
	type state struct {
		ws       []fixed.Workspace
		shape    []int
		features int
	}
	rows := func(t *Tensor, lo, hi int) fixed.Rows {
		if t.DType == graph.Float32 {
			return fixed.Rows{Float32: t.F32()[lo:hi]}
		}
		return fixed.Rows{Int16: t.I16()[lo:hi]}
	}
	m, grain := o.Outputs(), o.Tile()
	body := func(c *call, worker, lo, hi int) {
		s := c.state.(*state)
		o.Apply(rows(c.out[0], lo*m, hi*m), rows(c.in[0], lo*s.features, hi*s.features), s.features, hi-lo, &s.ws[worker])
	}
	return byType{from: func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{ws: make([]fixed.Workspace, c.workers())}
			c.state = s
		}
		x := c.in[0]
		if len(x.Shape) == 0 {
			return errors.New("input X is a scalar")
		}
		if s.features = x.Shape[len(x.Shape)-1]; s.features > o.Inputs() {
			return fmt.Errorf("input X %v has %d features, W takes %d", x.Shape, s.features, o.Inputs())
		}
		tokens, err := count(x.Shape[:len(x.Shape)-1])
		if err != nil {
			return err
		}
		s.shape = append(append(s.shape[:0], x.Shape[:len(x.Shape)-1]...), m)
		if _, err := c.alloc(0, to, s.shape...); err != nil {
			return err
		}
		if err := c.fixedWorkspaces(s.ws, o.Sizes); err != nil {
			return err
		}
		c.flops += o.Operations(tokens)
		c.parallelWorkers(tokens, grain, body)
		clear(s.ws)
		return nil
	}}.kernel(0)
}

// circulantConvInt16 is BlockCirculantConvInt16: X [N, C, d…], W [p, q, b, k…] → Y
// [N, m, o…]. Every pixel of some samples is transformed once, into an image with
// the window's padding in place, one for every group; then every output gathers the
// spectra of its taps from that of its group.
type circulantConvInt16 struct {
	windowAttrs
	groups []*fixed.Conv // of the same sizes
	kernel []int
}

type circulantConvInt16State struct {
	win   window
	image image
	shape []int

	to            []int32     // places of pixels in the image
	plan          *fixed.Plan // nil: not yet known
	images        []int32     // of the samples at hand
	first         int         // of these samples
	inTiles, outs int         // tiles of a sample
	ws            []fixed.Workspace
}

func prepareCirculantConvInt16(n *node) (kernel, error) {
	s, kernel, err := n.fixedSpec()
	if err != nil {
		return nil, err
	}
	taps, err := count(kernel)
	if err != nil {
		return nil, err
	}
	if len(kernel) == 0 || taps == 0 || len(s.W) != s.P*s.Q*s.B*taps {
		return nil, fmt.Errorf("weights W %v, want [p, q, b, kernel…]", append([]int{s.P, s.Q, s.B}, kernel...))
	}
	w := make([]int16, len(s.W)) // [p, taps, q, b]
	for i := range s.P {
		for j := range s.Q * s.B {
			for t, v := range s.W[(i*s.Q*s.B+j)*taps:][:taps] {
				w[(i*taps+t)*s.Q*s.B+j] = v
			}
		}
	}
	s.W, s.Q = w, s.Q*taps
	v := &circulantConvInt16{windowAttrs: n.window(), kernel: slices.Clone(kernel)}
	groups, err := s.Groups(n.int("group", 1))
	if err != nil {
		return nil, err
	}
	for _, s := range groups {
		o, err := fixed.NewConv(s, taps, n.simd)
		if err != nil {
			return nil, err
		}
		v.groups = append(v.groups, o)
	}
	return byType{graph.Int16: v.run}.kernel(0), nil
}

func (v *circulantConvInt16) run(c *call) error {
	s, ok := c.state.(*circulantConvInt16State)
	if !ok {
		s = &circulantConvInt16State{ws: make([]fixed.Workspace, c.workers())}
		c.state = s
	}
	x, o, groups := c.in[0], v.groups[0], len(v.groups)
	if len(x.Shape) != len(v.kernel)+2 || x.Shape[1] < 1 || x.Shape[1]%groups != 0 || x.Shape[1]/groups > o.Inputs() {
		return fmt.Errorf("X %v, want 1 to %d channels, as many in each of %d groups, and the dims of a kernel %v", x.Shape, groups*o.Inputs(), groups, v.kernel)
	}
	if !slices.Equal(s.win.in, x.Shape[2:]) || s.win.out == nil {
		s.plan = nil
		if err := s.win.set(&v.windowAttrs, x.Shape[2:], v.kernel); err != nil {
			return err
		}
		if !s.image.set(&s.win, groups*o.Rows()) {
			s.win.out = nil
			return errors.New("the input with its padding is too large")
		}
	}
	samples := x.Shape[0]
	s.shape = append(append(s.shape[:0], samples, groups*o.Outputs()), s.win.out...)
	z, err := c.alloc(0, graph.Int16, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	size := groups * o.Rows() * s.image.size
	together := min(max(circulantCache/max(size, 1), 1), samples)
	if s.images, err = scratch[int32](c, together*size); err != nil {
		return err
	}
	if err := c.fixedWorkspaces(s.ws, v.sizes); err != nil {
		return err
	}
	if s.plan == nil { // behind the allocations, which are limited
		s.places(o)
	}
	tile := o.Tile()
	s.inTiles, s.outs = (s.win.inSize+tile-1)/tile, (s.win.outSize+tile-1)/tile
	clear(s.images) // padding stays zero
	for s.first = 0; s.first < samples; s.first += together {
		n := min(together, samples-s.first)
		c.parallelWorkers(n*groups*s.inTiles, 1, v.forward)
		c.parallelWorkers(n*groups*s.outs, 1, v.multiply)
	}
	c.flops += int64(groups) * o.Operations(samples*s.win.inSize, samples*s.win.outSize)
	s.images = nil
	clear(s.ws)
	return nil
}

// sizes are those of a workspace for any of the groups.
func (v *circulantConvInt16) sizes() (x, y, stage, scratch int) {
	for _, o := range v.groups {
		xo, yo, stageO, scratchO := o.Sizes()
		x, y, stage, scratch = max(x, xo), max(y, yo), max(stage, stageO), max(scratch, scratchO)
	}
	return x, y, stage, scratch
}

// places works out where pixels, outputs and taps are in the image.
func (s *circulantConvInt16State) places(o *fixed.Conv) {
	walk := func(dims []int, size int, at func(axis, i int) int) (list []int32) {
		for i := range size {
			place := 0
			for axis := len(dims) - 1; axis >= 0 && place >= 0; axis-- {
				a := at(axis, i%dims[axis])
				i /= dims[axis]
				if a < 0 || a >= s.image.dims[axis] {
					place = -1
					break
				}
				place += a * s.image.steps[axis]
			}
			list = append(list, int32(place))
		}
		return list
	}
	w := &s.win
	s.to = walk(w.in, w.inSize, func(axis, i int) int { return i + w.before[axis] })
	at := walk(w.out, w.outSize, func(axis, i int) int { return i * w.stride[axis] })
	taps := walk(w.kernel, w.taps, func(axis, i int) int { return i * w.dilation[axis] })
	s.plan = o.Plan(s.image.size, at, taps)
}

// forward transforms tiles [lo, hi) of the groups of the samples at hand.
func (v *circulantConvInt16) forward(c *call, worker, lo, hi int) {
	s := c.state.(*circulantConvInt16State)
	groups := len(v.groups)
	channels, pixels := c.in[0].Shape[1]/groups, s.win.inSize
	for i := lo; i < hi; i++ {
		image, o := i/s.inTiles, v.groups[i/s.inTiles%groups]
		first := i % s.inTiles * o.Tile()
		o.Forward(s.images[image*o.Rows()*s.image.size:], s.image.size, s.to, c.in[0].I16()[(s.first*groups+image)*channels*pixels:], channels, pixels,
			first, min(first+o.Tile(), pixels), &s.ws[worker])
	}
}

// multiply computes tiles [lo, hi) of the outputs of the groups of the samples at hand.
func (v *circulantConvInt16) multiply(c *call, worker, lo, hi int) {
	s := c.state.(*circulantConvInt16State)
	groups, outputs := len(v.groups), s.win.outSize
	for i := lo; i < hi; i++ {
		image, o := i/s.outs, v.groups[i/s.outs%groups]
		first := i % s.outs * o.Tile()
		o.Multiply(c.out[0].I16()[(s.first*groups+image)*o.Outputs()*outputs:], s.images[image*o.Rows()*s.image.size:], s.plan,
			first, min(first+o.Tile(), outputs), &s.ws[worker])
	}
}
