package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// resizeOps read their input between its elements.
var resizeOps = []operator{
	{"", "Upsample", 7, prepareResize, nil, halves},
	{"", "Resize", 10, prepareResize, nil, halves},
	{"", "GridSample", 16, prepareGridSample, nil, halves},
}

// resizing is Resize's attributes.
type resizing struct {
	mode, coordinates, nearest, policy string
	cubicA                             float64
	excludeOutside, antialias          bool
	extrapolation                      float32
	axes                               []int
	scales                             []float32 // Upsample-7's
	opset                              int
	scalesAt                           int // the input that has them
}

// resizeState is the resizing at hand.
type resizeState struct {
	seen   []int // input dims
	roi    []float32
	scales []float32
	sizes  []int
	dims   []int
	shape  []int
	axes   []resizeAxis // that change
	blank  bool         // some places lie outside and take the extrapolation value

	axis   *resizeAxis // of the pass at hand
	lines  lines
	x, z   *Tensor
	passes []*Tensor
}

// resizeAxis says which elements along an axis each output reads.
type resizeAxis struct {
	axis, in, out int
	taps          int
	from          []int     // [out, taps], in range
	weights       []float64 // [out, taps]; nil where from is all
	weights32     []float32
	outside       []bool // nil if none is
	identity      bool
}

// prepareResize is Resize and the older Upsample: along each axis, output i
// reads the input around a coordinate that the transformation mode gives,
//
//	half_pixel            (i + ½) / scale − ½
//	pytorch_half_pixel    the same, 0 for an output of one
//	half_pixel_symmetric  the same, about the centre of the unrounded output
//	align_corners         i · (in − 1) / (out − 1)
//	asymmetric            i / scale
//	tf_half_pixel_for_nn  (i + ½) / scale
//	tf_crop_and_resize    start · (in − 1) + i · (end − start) · (in − 1) / (out − 1)
//
// and takes the nearest element, or weighs two (linear) or four (cubic), or
// with antialias as many more as the scale shrinks. Upsample and Resize-10 are
// asymmetric; nearest is the element before there, or in Resize-10 after it
// where the axis shrinks, as ONNX Runtime has it.
func prepareResize(n *node) (kernel, error) {
	r := &resizing{
		mode:           n.oneOf("mode", "nearest", "nearest", "linear", "cubic", "bilinear"),
		coordinates:    n.oneOf("coordinate_transformation_mode", "half_pixel", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
		nearest:        n.oneOf("nearest_mode", "round_prefer_floor", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
		policy:         n.oneOf("keep_aspect_ratio_policy", "stretch", "stretch", "not_larger", "not_smaller"),
		cubicA:         float64(n.float("cubic_coeff_a", -0.75)),
		excludeOutside: n.bool("exclude_outside", false),
		antialias:      n.bool("antialias", false),
		extrapolation:  n.float("extrapolation_value", 0),
		axes:           n.ints("axes"),
		scales:         n.floats("scales"),
		opset:          n.opset, scalesAt: 2,
	}
	if r.mode == "bilinear" {
		r.mode = "linear"
	}
	inputs := 4
	if n.opset < 11 {
		r.coordinates, r.nearest, r.scalesAt = "asymmetric", "floor", 1
		inputs = 2
		if n.op == "Resize" {
			r.nearest = "simple"
		}
	}
	if r.mode != "nearest" {
		float := byType{graph.Float32: resizeOf(r, n.simd.Axpy), graph.Float64: resizeOf(r, axpy64)}.kernel(0)
		return func(c *call) error {
			if d := c.in[0].DType; d == graph.Float32 || d == graph.Float64 {
				return float(c)
			}
			return r.throughFloats(c, float)
		}, errors.Join(n.inputs(1, inputs), n.err)
	}
	bodies := byWidth{0: resizeStrings, 1: resizeElements[uint8], 2: resizeElements[uint16], 4: resizeElements[uint32], 8: resizeElements[uint64], 16: resizeElements[complex128]}
	return func(c *call) error {
		s, err := r.set(c)
		if err != nil {
			return err
		}
		x := c.in[0]
		if len(s.axes) == 0 {
			c.share(0, x)
			return nil
		}
		// Axis by axis, as long as elements move; the last pass makes the output.
		return s.run(c, x, func(int) func(c *call, lo, hi int) { return bodies[elemSize(x.DType)] }, r.extrapolation)
	}, errors.Join(n.inputs(1, inputs), n.err)
}

func axpy64(dst []float64, a float64, x []float64) {
	for i, v := range x[:len(dst)] {
		dst[i] += float64(a * v)
	}
}

// throughFloats resizes integers in float64; the result is truncated.
func (r *resizing) throughFloats(c *call, k kernel) error {
	x, out := c.in[0], c.out[0]
	wide, err := c.converted(x, graph.Float64)
	if err != nil {
		return err
	}
	var z Tensor
	c.in[0], c.out[0] = wide, &z
	err = k(c)
	c.in[0], c.out[0] = x, out
	defer c.s.pool.release(&z)
	if err != nil {
		return err
	}
	y, err := c.alloc(0, x.DType, z.Shape...)
	if err != nil {
		return err
	}
	return convert(y, &z, castRules{})
}

// set reads the inputs and works out what each axis reads.
func (r *resizing) set(c *call) (*resizeState, error) {
	s, ok := c.state.(*resizeState)
	if !ok {
		s = &resizeState{}
		c.state = s
	}
	x := c.in[0].Shape
	scales := r.scales
	var roi []float32
	var err error
	if t := c.input(r.scalesAt); t != nil {
		if t.DType != graph.Float32 {
			return nil, fmt.Errorf("scales are %v, want float", t.DType)
		}
		scales = t.F32()
	}
	if t := c.input(1); t != nil && r.scalesAt == 2 && r.coordinates == "tf_crop_and_resize" {
		wide, err := c.converted(t, graph.Float32)
		if err != nil {
			return nil, err
		}
		roi = wide.F32()
	}
	s.dims = s.dims[:0]
	if t := c.input(3); t != nil && t.Len() > 0 {
		if s.dims, err = dimsOf(s.dims, t); err != nil {
			return nil, err
		}
		scales = nil
	}
	if s.seen != nil && slices.Equal(s.seen, x) && slices.Equal(s.scales, scales) && slices.Equal(s.sizes, s.dims) && slices.Equal(s.roi, roi) {
		return s, nil
	}
	s.seen = nil
	s.scales, s.sizes, s.roi = append(s.scales[:0], scales...), append(s.sizes[:0], s.dims...), append(s.roi[:0], roi...)
	if err := r.plan(c, s, x); err != nil {
		return nil, err
	}
	s.seen = append(make([]int, 0, len(x)), x...)
	return s, nil
}

// plan works out the axes for an input of shape x.
func (r *resizing) plan(c *call, s *resizeState, x []int) error {
	axes := make([]int, 0, len(x))
	if r.axes != nil && r.opset >= 18 {
		for _, a := range r.axes {
			a, err := axis(a, len(x))
			if err != nil {
				return err
			}
			if slices.Contains(axes, a) {
				return fmt.Errorf("axes %v name one twice", r.axes)
			}
			axes = append(axes, a)
		}
	} else {
		for a := range x {
			axes = append(axes, a)
		}
	}
	if len(s.scales) != len(axes) && len(s.sizes) != len(axes) || len(s.scales) > 0 && len(s.sizes) > 0 {
		return fmt.Errorf("%d scales and %d sizes for %d axes", len(s.scales), len(s.sizes), len(axes))
	}
	if r.coordinates == "tf_crop_and_resize" && len(s.roi) != 2*len(axes) {
		return fmt.Errorf("a roi of %d numbers for %d axes", len(s.roi), len(axes))
	}
	ratio := 0.0 // one for all axes, if the policy says so
	if len(s.sizes) > 0 && r.policy != "stretch" {
		for i, a := range axes {
			if x[a] == 0 {
				return fmt.Errorf("shape %v has no aspect ratio to keep", x)
			}
			v := float64(s.sizes[i]) / float64(x[a])
			if i == 0 || (r.policy == "not_larger") == (v < ratio) {
				ratio = v
			}
		}
	}
	s.axes, s.blank = s.axes[:0], false
	s.shape = append(s.shape[:0], x...)
	for i, a := range axes {
		in, out := x[a], 0
		switch {
		case len(s.sizes) == 0:
			scale := float64(s.scales[i])
			size := math.Floor(float64(s.scales[i] * float32(in)))
			if !(scale > 0) || size > math.MaxInt32 {
				return fmt.Errorf("scale %v of an axis of %d", scale, in)
			}
			out = int(size)
		case ratio > 0:
			out = int(math.Floor(ratio*float64(in) + 0.5))
		default:
			out = s.sizes[i]
		}
		if out < 0 || out > math.MaxInt32 || in == 0 && out > 0 {
			return fmt.Errorf("an axis of %d cannot be resized to %d", in, out)
		}
		s.shape[a] = out
	}
	// The tables of an axis are as long as the output at most.
	n, err := count(s.shape)
	if err != nil || n > c.s.pool.limit/max(elemSize(c.in[0].DType), 1) {
		return fmt.Errorf("an output %v passes the %w of %d bytes", s.shape, ErrMemory, c.s.pool.limit)
	}
	if n == 0 {
		if !slices.Equal(s.shape, x) {
			s.axes = append(s.axes, resizeAxis{}) // nothing to read, another shape
		}
		return nil
	}
	for i, a := range axes {
		in, out := x[a], s.shape[a]
		scale := ratio
		switch {
		case len(s.sizes) == 0:
			scale = float64(s.scales[i])
		case ratio == 0:
			scale = float64(out) / float64(in)
		}
		var start, end float64
		if r.coordinates == "tf_crop_and_resize" {
			start, end = float64(s.roi[i]), float64(s.roi[len(axes)+i])
		}
		ax := r.axisOf(a, in, out, scale, start, end)
		if !ax.identity {
			s.axes = append(s.axes, ax)
		}
		s.blank = s.blank || ax.outside != nil
	}
	return nil
}

// coordinate is where output i of an axis reads.
func (r *resizing) coordinate(i, in, out int, scale, start, end float64) float64 {
	x, last := float64(i), float64(in-1)
	switch r.coordinates {
	case "half_pixel":
		return (x+0.5)/scale - 0.5
	case "half_pixel_symmetric":
		whole := scale * float64(in)
		return float64(in)/2*(1-float64(out)/whole) + (x+0.5)/scale - 0.5
	case "pytorch_half_pixel":
		if out == 1 {
			return 0
		}
		return (x+0.5)/scale - 0.5
	case "align_corners":
		if out == 1 {
			return 0
		}
		return x * last / float64(out-1)
	case "tf_half_pixel_for_nn":
		return (x + 0.5) / scale
	case "tf_crop_and_resize":
		if out == 1 {
			return 0.5 * (start + end) * last
		}
		return start*last + x*(end-start)*last/float64(out-1)
	}
	return x / scale // asymmetric
}

func (r *resizing) axisOf(a, in, out int, scale, start, end float64) resizeAxis {
	ax := resizeAxis{axis: a, in: in, out: out, taps: 1, identity: in == out}
	shrink := 1.0 // of the kernel in antialias
	if r.antialias && scale < 1 {
		shrink = scale
	}
	reach := 1.0 // of the kernel to both sides
	switch r.mode {
	case "linear":
		ax.taps = 2
	case "cubic":
		ax.taps, reach = 4, 2
	}
	first := 1 - ax.taps/2 // the first tap, counted from the floor of the coordinate
	if r.mode != "nearest" && shrink < 1 {
		// No more taps than twice the input can matter: those beyond fall on
		// its ends, where weights add up.
		first = int(math.Max(math.Floor(-reach/shrink)+1, float64(-2*in-2)))
		ax.taps = 2 - 2*first
	}
	weights := make([]float64, ax.taps)
	for i := range out {
		at := r.coordinate(i, in, out, scale, start, end)
		if r.coordinates == "tf_crop_and_resize" && !(at >= 0 && at <= float64(in-1)) {
			if ax.outside == nil {
				ax.outside = make([]bool, out)
			}
			ax.outside[i] = true
			at = 0
		}
		at = math.Max(math.Min(at, math.MaxInt32), -math.MaxInt32)
		if r.mode == "nearest" {
			k := r.nearestOf(at, scale)
			k = min(max(k, 0), in-1)
			ax.from = append(ax.from, k)
			ax.identity = ax.identity && k == i
			continue
		}
		floor := math.Floor(at)
		frac := at - floor
		sum := 0.0
		for t := range weights {
			w := r.weight((float64(first+t) - frac) * shrink)
			if k := int(floor) + first + t; r.excludeOutside && (k < 0 || k >= in) {
				w = 0
			}
			weights[t] = w
			sum += w
		}
		for t, w := range weights {
			ax.from = append(ax.from, min(max(int(floor)+first+t, 0), in-1))
			if r.excludeOutside || shrink < 1 {
				w /= sum
			}
			ax.weights = append(ax.weights, w)
		}
		ax.identity = ax.identity && frac == 0 && int(floor) == i && shrink == 1
	}
	ax.identity = ax.identity && ax.outside == nil
	for _, w := range ax.weights {
		ax.weights32 = append(ax.weights32, float32(w))
	}
	return ax
}

// weight is the kernel of linear or cubic interpolation (Keys, Cubic
// convolution interpolation, 1981, with coefficient a) at distance x.
func (r *resizing) weight(x float64) float64 {
	x = math.Abs(x)
	if r.mode == "linear" {
		return math.Max(1-x, 0)
	}
	switch a := r.cubicA; {
	case x <= 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return ((a*x-5*a)*x+8*a)*x - 4*a
	}
	return 0
}

func (r *resizing) nearestOf(at, scale float64) int {
	switch r.nearest {
	case "round_prefer_floor":
		return int(math.Ceil(at - 0.5))
	case "round_prefer_ceil":
		return int(math.Floor(at + 0.5))
	case "ceil":
		return int(math.Ceil(at))
	case "simple":
		if scale < 1 {
			return int(math.Ceil(at))
		}
	}
	return int(math.Floor(at))
}

// run makes the output from x, one axis after the other; body gives the loop
// for a pass of so many taps.
func (s *resizeState) run(c *call, x *Tensor, body func(taps int) func(c *call, lo, hi int), blank float32) error {
	if n, _ := count(s.shape); n == 0 {
		_, err := c.alloc(0, x.DType, s.shape...)
		return err
	}
	for len(s.passes) < len(s.axes) {
		s.passes = append(s.passes, &Tensor{})
	}
	defer func() {
		s.x, s.z = nil, nil
		for _, t := range s.passes {
			c.s.pool.release(t)
		}
	}()
	s.dims = append(s.dims[:0], x.Shape...)
	s.x = x
	for i := range s.axes {
		ax := &s.axes[i]
		s.axis, s.lines = ax, linesOf(s.dims, ax.axis)
		s.dims[ax.axis] = ax.out
		out := c.out[0]
		if i < len(s.axes)-1 {
			c.out[0] = s.passes[i]
		}
		z, err := c.alloc(0, x.DType, s.dims...)
		c.out[0] = out
		if err != nil {
			return err
		}
		s.z = z
		c.parallel(s.lines.outer*ax.out, 1+elementGrain/(1+s.lines.inner*ax.taps), body(ax.taps))
		s.x = z
	}
	if s.blank {
		return s.extrapolate(c.out[0], blank)
	}
	return nil
}

// extrapolate writes a value to all places that lie outside along some axis.
func (s *resizeState) extrapolate(z *Tensor, value float32) error {
	unit, err := newTensor(z.DType, []int{1})
	if err != nil {
		return err
	}
	if z.DType != graph.String {
		if err := convert(unit, FromSlice([]int{1}, []float32{value}), castRules{}); err != nil {
			return err
		}
	}
	for i := range s.axes {
		ax := &s.axes[i]
		if ax.outside == nil {
			continue
		}
		l := linesOf(s.shape, ax.axis)
		for o := range l.outer {
			for k, out := range ax.outside {
				if out {
					copyRuns(z, unit, l.inner, 1, 1, (o*l.n+k)*l.inner, 0, 0)
				}
			}
		}
	}
	return nil
}

func resizeElements[T element](c *call, lo, hi int) {
	s := c.state.(*resizeState)
	nearestRows(s, cast[T](s.z.mem), cast[T](s.x.mem), lo, hi)
}

func resizeStrings(c *call, lo, hi int) {
	s := c.state.(*resizeState)
	nearestRows(s, s.z.strs, s.x.strs, lo, hi)
}

// nearestRows computes rows [lo, hi), a row being what lies behind the axis.
func nearestRows[T any](s *resizeState, z, x []T, lo, hi int) {
	ax, inner := s.axis, s.lines.inner
	if inner == 1 {
		for r := lo; r < hi; r++ {
			z[r] = x[r/ax.out*ax.in+ax.from[r%ax.out]]
		}
		return
	}
	for r := lo; r < hi; r++ {
		from := r/ax.out*ax.in + ax.from[r%ax.out]
		copy(z[r*inner:(r+1)*inner], x[from*inner:])
	}
}

// resizeOf interpolates.
func resizeOf[T float32 | float64](r *resizing, axpy func(dst []T, a T, x []T)) kernel {
	body := func(c *call, lo, hi int) {
		s := c.state.(*resizeState)
		ax, inner := s.axis, s.lines.inner
		z, x := view[T](s.z), view[T](s.x)
		weights, _ := any(ax.weights32).([]T)
		if weights == nil {
			weights, _ = any(ax.weights).([]T)
		}
		for row := lo; row < hi; row++ {
			i := row % ax.out * ax.taps
			from, w := ax.from[i:i+ax.taps], weights[i:i+ax.taps]
			in := x[row/ax.out*ax.in*inner:]
			if inner == 1 {
				var sum T
				for t, a := range w {
					sum += T(a * in[from[t]])
				}
				z[row] = sum
				continue
			}
			dst := z[row*inner : (row+1)*inner]
			clear(dst)
			for t, a := range w {
				if a != 0 {
					axpy(dst, a, in[from[t]*inner:][:inner])
				}
			}
		}
	}
	return func(c *call) error {
		s, err := r.set(c)
		if err != nil {
			return err
		}
		if len(s.axes) == 0 {
			c.share(0, c.in[0])
			return nil
		}
		return s.run(c, c.in[0], func(int) func(c *call, lo, hi int) { return body }, r.extrapolation)
	}
}

// gridSampling is a GridSample at hand: X [N, C, d…], grid [N, e…, rank].
type gridSampling struct {
	mode, padding string
	align         bool
	dims          []int // d…
	points        int   // of a sample
	channels      int
	rank          int
	size          int // product of dims
	shape         []int
}

// prepareGridSample reads X at the coordinates of grid, −1 … 1 from one end of
// an axis to the other (the centres of the end elements with align_corners,
// their outer edges without), the last axis first. Beyond the ends there are
// zeros, the end elements (border), or the mirrored input (reflection). A NaN
// coordinate lies outside.
func prepareGridSample(n *node) (kernel, error) {
	g := gridSampling{
		mode:    n.oneOf("mode", "linear", "linear", "bilinear", "nearest", "cubic", "bicubic"),
		padding: n.oneOf("padding_mode", "zeros", "zeros", "border", "reflection"),
		align:   n.bool("align_corners", false),
	}
	switch g.mode {
	case "bilinear":
		g.mode = "linear"
	case "bicubic":
		g.mode = "cubic"
	}
	float := byType{graph.Float32: gridSampleOf[float32](g), graph.Float64: gridSampleOf[float64](g)}.kernel(0)
	return float, errors.Join(n.inputs(2, 2), n.err)
}

func gridSampleOf[T float32 | float64](attrs gridSampling) kernel {
	body := func(c *call, lo, hi int) {
		s := c.state.(*gridSampling)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		var grid func(i int) float64
		if g := c.in[1]; g.DType == graph.Float32 {
			grid = func(i int) float64 { return float64(g.F32()[i]) }
		} else {
			grid = func(i int) float64 { return g.F64()[i] }
		}
		var t gridTaps
		for p := lo; p < hi; p++ {
			sample := p / s.points
			t.set(s, grid, p*s.rank)
			for ch := range s.channels {
				plane := x[(sample*s.channels+ch)*s.size:][:s.size]
				sum := 0.0
				for i, at := range t.from {
					if at >= 0 {
						sum += t.weights[i] * float64(plane[at])
					}
				}
				z[(sample*s.channels+ch)*s.points+p%s.points] = T(sum)
			}
		}
	}
	return func(c *call) error {
		s, ok := c.state.(*gridSampling)
		if !ok {
			s = new(gridSampling)
			*s = attrs
			c.state = s
		}
		x, grid := c.in[0], c.in[1]
		r := len(x.Shape) - 2
		if r < 1 || r > 4 || len(grid.Shape) != r+2 || grid.Shape[0] != x.Shape[0] || grid.Shape[r+1] != r {
			return fmt.Errorf("X %v with grid %v: want [N, C, d…] and [N, e…, rank], rank 1 to 4", x.Shape, grid.Shape)
		}
		if grid.DType != graph.Float32 && grid.DType != graph.Float64 {
			return wrongType(grid.DType)
		}
		s.rank, s.channels = r, x.Shape[1]
		s.dims = append(s.dims[:0], x.Shape[2:]...)
		var err error
		if s.size, err = count(s.dims); err != nil {
			return err
		}
		if s.points, err = count(grid.Shape[1 : r+1]); err != nil {
			return err
		}
		s.shape = append(append(s.shape[:0], x.Shape[:2]...), grid.Shape[1:r+1]...)
		z, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		if s.size == 0 {
			return fmt.Errorf("X %v has nothing to read", x.Shape)
		}
		c.parallel(x.Shape[0]*s.points, 1+functionGrain/(1+s.channels), body)
		return nil
	}
}

// gridTaps is what one point reads: places in a channel, −1 for a zero, and
// their weights.
type gridTaps struct {
	from    []int
	weights []float64
	memory  [256]int // 4 taps along 4 axes
	scales  [256]float64
}

func (t *gridTaps) set(s *gridSampling, grid func(i int) float64, at int) {
	t.from, t.weights = append(t.memory[:0], 0), append(t.scales[:0], 1)
	for a, d := range s.dims {
		v := grid(at + s.rank - 1 - a)
		low, high := -0.5, float64(d)-0.5
		if s.align {
			low, high = 0, float64(d-1)
			v = (v + 1) / 2 * high
		} else {
			v = ((v+1)*float64(d) - 1) / 2
		}
		if v != v {
			v = math.Inf(-1)
		}
		if s.mode == "nearest" {
			v = math.RoundToEven(v)
		}
		if v < low || v > high {
			switch s.padding {
			case "border":
				v = math.Max(0, math.Min(v, float64(d-1)))
			case "reflection":
				v = mirror(v, low, high)
			}
		}
		v = math.Max(math.Min(v, math.MaxInt32), -math.MaxInt32)
		floor := math.Floor(v)
		frac := v - floor
		var weights [4]float64
		first, taps := int(floor), 2
		switch s.mode {
		case "nearest":
			taps, weights[0] = 1, 1
		case "linear":
			weights[0], weights[1] = 1-frac, frac
		case "cubic":
			first, taps = first-1, 4
			cubic := resizing{mode: "cubic", cubicA: -0.75}
			for k := range weights {
				weights[k] = cubic.weight(float64(k-1) - frac)
			}
		}
		// Every tap so far times every tap of this axis; from the end, so that
		// the list grows in place.
		n := len(t.from)
		t.from, t.weights = t.from[:n*taps], t.weights[:n*taps]
		for i := n - 1; i >= 0; i-- {
			from, w := t.from[i], t.weights[i]
			for k := taps - 1; k >= 0; k-- {
				p := first + k
				if p < 0 || p >= d {
					switch s.padding {
					case "border":
						p = min(max(p, 0), d-1)
					case "reflection":
						p = min(max(int(mirror(float64(p), low, high)), 0), d-1)
					default:
						p = -1
					}
				}
				if p >= 0 && from >= 0 {
					p += from * d
				} else {
					p = -1
				}
				t.from[i*taps+k], t.weights[i*taps+k] = p, w*weights[k]
			}
		}
	}
}

// mirror reflects v at low and high until it lies between them.
func mirror(v, low, high float64) float64 {
	span := high - low
	if span <= 0 || math.IsInf(v, 0) {
		return low
	}
	d := math.Mod(math.Abs(v-low), 2*span)
	if d > span {
		d = 2*span - d
	}
	return low + d
}
