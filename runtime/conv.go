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
	{"", "Conv", 1, prepareConv, gradConv, halves},
	{"", "ConvTranspose", 1, prepareConvTranspose, nil, halves},
}

// convolution is Conv: X [N, C, d…], W [M, C/group, k…], B [M] →
//
//	Y[n, m, o…] = B[m] + Σ_c Σ_k W[m, c, k…] · X[n, c, o·stride − before + k·dilation…]
//
// with c over the channels of m's group and zeros outside of X. Every element
// is one chain of multiply-adds that begins with the bias, in the order of c
// and k. What fusion appends, a sum and limits, is applied to its result.
type convolution struct {
	windowAttrs
	k     *simd.Kernels
	group int
	w, b  *Tensor // where they are constant; w without memory where it is packed

	packed   []simd.ConvWeights // by group, where W and B are constant
	winograd *winograd          // in place of packed, where that is faster
	memory   []float32          // of packed

	// What fusion appends: input 1, of Y's shape, is added, and the sum limited.
	// The nodes one by one are for other shapes.
	add    bool
	lo, hi float32
	links  []link
}

// convShape is the sizes of a convolution.
type convShape struct {
	window
	n, channels, m    int // samples, channels of X and of Y
	groupIn, groupOut int // channels of a group
	depth             int // products that go into an element: groupIn · taps
	shape             []int
}

// convState is the convolution at hand.
type convState struct {
	convShape
	xShape, wShape []int // that the rest is for
	how            convMethod
	image          image
	offsets        simd.Taps
	step           int            // from pixel to pixel of the image
	places         [2]simd.Places // groups of pixels, of two sizes
	wino           winogradState
	outer          [][2]int // for windows that slide: where planes of rows begin in image and output
	rowStep        int
	planeRows      int

	*convolution
	x, w, b, z, add, images []float32
	weights                 []simd.ConvWeights
	samples, first          int // that are computed together
	chunks                  int // of the places
}

// convMethod is how a convolution is computed.
type convMethod uint8

const (
	convLanes    convMethod = iota // output channels in the lanes of vectors
	convSlides                     // output pixels in the lanes, for groups of few channels
	convRows                       // row by row, without an image
	convWinograd                   // tile by tile, see winograd
)

func prepareConv(n *node) (kernel, error) {
	v, err := newConvolution(n)
	if err != nil {
		return nil, err
	}
	if v.w != nil || v.b != nil {
		return byType{graph.Float32: v.run}.kernel(0), n.inputs(2, 3)
	}
	return byType{graph.Float32: v.run, graph.Float64: v.run64()}.kernel(0), n.inputs(2, 3)
}

func newConvolution(n *node) (*convolution, error) {
	v := &convolution{windowAttrs: n.window(), k: n.simd, group: n.int("group", 1), lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi}
	if err := v.constants(n); err != nil {
		return nil, err
	}
	if v.b != nil || !n.has(2) {
		v.pack()
	}
	return v, nil
}

// pack packs constant weights, if the method wants them so and they fit.
func (v *convolution) pack() {
	if v.w == nil || v.w.DType != graph.Float32 || v.b != nil && v.b.DType != graph.Float32 || len(v.w.Shape) < 3 {
		return
	}
	m, per := v.w.Shape[0], v.w.Shape[0]/v.group
	if m == 0 || m%v.group != 0 || v.method(per, v.w.Len()/m) != convLanes || v.b != nil && v.b.Len() != m {
		return
	}
	depth := v.w.Len() / m
	var bias []float32
	if v.winograd = v.newWinograd(); v.winograd == nil {
		size := v.k.ConvWeightsLen(per, depth)
		if len(v.memory) < size*v.group {
			v.memory = make([]float32, size*v.group)
		}
		for g := range v.group {
			if v.b != nil {
				bias = v.b.F32()[g*per:]
			}
			v.packed = append(v.packed, v.k.PackConvInto(v.memory[g*size:(g+1)*size], v.w.F32()[g*per*depth:], bias, per, depth))
		}
	}
	v.w = &Tensor{DType: graph.Float32, Shape: v.w.Shape}
}

// repack makes v the convolution with weights w and bias b, nil for none, that
// are other than they were.
func (v *convolution) repack(w, b *Tensor) {
	v.w, v.b, v.packed, v.winograd = w, b, v.packed[:0], nil
	v.pack()
}

// method chooses by the number of output channels of a group, and of products
// that go into an element. Windows slide at a stride of 1 or 2 only, and read
// as much for one channel as for a vector of them; where half of the lanes would
// be full, that pays for short sums alone.
func (v *convolution) method(groupOut, depth int) convMethod {
	stride := 1
	if n := len(v.strides); n > 0 {
		stride = v.strides[n-1]
	}
	const short = 16
	few := 2*groupOut < v.k.ConvLanes() || 2*groupOut == v.k.ConvLanes() && depth <= short
	if few && stride <= simd.SlideStrides {
		return convSlides
	}
	return convLanes
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
func (v *convolution) operands(c *call, s *convShape) (w, b *Tensor, err error) {
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
func (v *convolution) geometry(s *convShape, x, w []int) error {
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

func (c *call) convolve(v *convolution) *convState {
	s, ok := c.state.(*convState)
	if !ok {
		s = &convState{convolution: v}
		c.state = s
	}
	return s
}

func (v *convolution) run(c *call) error {
	s := c.convolve(v)
	w, b, err := v.operands(c, &s.convShape)
	if err != nil {
		return err
	}
	var add *Tensor
	if v.add {
		if add = c.in[1]; add.DType != graph.Float32 || !slices.Equal(add.Shape, s.shape) {
			return c.chain(v.links)
		}
	}
	known := slices.Equal(s.xShape, c.in[0].Shape) && slices.Equal(s.wShape, w.Shape)
	var z *Tensor
	if known && add != nil && s.how == convLanes {
		z, err = c.over(0, 1, graph.Float32, s.shape...)
	} else {
		z, err = c.alloc(0, graph.Float32, s.shape...)
	}
	if err != nil || z.Len() == 0 {
		return err
	}
	c.flops += 2 * int64(z.Len()) * int64(s.depth)
	if !known {
		if !s.plan(c.workers()) {
			return errors.New("the input with its padding is too large")
		}
		s.xShape, s.wShape = append(s.xShape[:0], c.in[0].Shape...), append(s.wShape[:0], w.Shape...)
	}
	s.x, s.z, s.b, s.add = c.in[0].F32(), z.F32(), nil, nil
	if b != nil {
		s.b = b.F32()
	}
	if add != nil {
		s.add = add.F32()
	}
	if v.packed == nil && v.winograd == nil {
		s.w = w.F32()
	}
	defer func() { s.x, s.w, s.b, s.z, s.add, s.images, s.wino.scratch = nil, nil, nil, nil, nil, nil, nil }()
	if s.how == convRows {
		if v.packed != nil {
			if s.w, err = scratch[float32](c, s.m*s.depth); err != nil {
				return err
			}
			for g, p := range v.packed {
				p.Unpack(s.w[g*s.groupOut*s.depth:])
			}
		}
		c.parallel(s.n*s.m, 1+multiplyGrain/(1+s.outSize*s.depth), convByRows)
		return nil
	}
	if s.how == convLanes {
		if err := s.ready(c); err != nil {
			return err
		}
	}
	if s.how == convSlides {
		return s.slides(c)
	}
	// As many samples at once as keep their images in the cache.
	size := s.channels * s.image.size
	s.samples = min(max(convCache/max(size, 1), 1), s.n)
	if s.image.padded {
		if s.images, err = scratch[float32](c, s.samples*size); err != nil {
			return err
		}
	}
	if s.how == convWinograd {
		if s.wino.scratch, err = scratch[float32](c, s.wino.size*c.workers()); err != nil {
			return err
		}
	}
	for s.first = 0; s.first < s.n; s.first += s.samples {
		n := min(s.samples, s.n-s.first)
		if s.image.padded {
			c.parallel(n*s.channels, 1+elementGrain/s.image.size, convImages)
		}
		if s.how == convWinograd {
			c.parallelWorkers(n*s.wino.bands, 1+multiplyGrain/(1+s.m*s.outSize*s.depth/s.wino.bands), byWinograd)
			continue
		}
		units := n * v.group * s.weights[0].Blocks()
		places := s.places[0].Len() + s.places[1].Len()
		s.chunks = (4*s.groupIn*s.image.size + convChunk - 1) / convChunk
		if t := 4 * c.workers(); c.workers() > 1 && units*s.chunks < t {
			s.chunks = (t + units - 1) / units
		}
		s.chunks = min(max(s.chunks, 1), (places+3)/4)
		units *= s.chunks
		c.parallel(units, 1+multiplyGrain/(1+n*s.m*s.outSize*s.depth/units), convByLanes)
	}
	return nil
}

const (
	// convCache is the memory for the padded images of several samples, in
	// elements.
	convCache = 1 << 18
	// convChunk is what an image may take, in bytes, to stay in a level-two cache
	// beside a block of weights, while one block after the other passes by.
	convChunk = 1 << 18
)

// plan works out what depends on the shapes.
func (s *convState) plan(workers int) bool {
	if s.winograd != nil {
		s.how = convWinograd
		return s.planWinograd(workers)
	}
	s.how = s.method(s.groupOut, s.depth)
	if !s.image.set(&s.window, s.groupIn) {
		s.how = convRows
		return true
	}
	s.offsets = s.image.taps(s.groupIn)
	s.step = s.stride[len(s.stride)-1]
	if s.how == convSlides {
		s.planeRows, s.rowStep = s.image.planeRows()
		s.outer = s.outer[:0]
		for r := 0; r < s.rows; r += s.planeRows {
			s.outer = append(s.outer, [2]int{s.image.row(r), r * s.width})
		}
		return true
	}
	// Where all pixels lie as in the image, they are one row.
	rows, width := s.rows, s.width
	if s.image.size == s.outSize && s.window.taps == 1 {
		rows, width = 1, s.outSize
	}
	s.places = places(s.k, rows, width, s.step, s.image.row)
	return true
}

// places cuts rows of pixels into the fewest groups, whose sizes differ by one
// at most, and returns those of either size. Windows are step apart in the
// image, and those of row r begin at row(r).
func places(k *simd.Kernels, rows, width, step int, row func(r int) int) [2]simd.Places {
	n := (width + k.ConvPixels() - 1) / k.ConvPixels()
	size, larger := width/n, width%n
	var at [2][]int32
	for r := range rows {
		from, to := row(r), r*width
		for i := range n {
			k, pixels := 0, size
			if i < larger {
				k, pixels = 1, size+1
			}
			at[k] = append(at[k], int32(from), int32(to))
			from, to = from+pixels*step, to+pixels
		}
	}
	return [2]simd.Places{simd.NewPlaces(at[0], size), simd.NewPlaces(at[1], min(size+1, k.ConvPixels()))}
}

// ready makes sure that the weights are packed.
func (s *convState) ready(c *call) error {
	if s.weights = s.packed; s.weights != nil {
		return nil
	}
	size := s.k.ConvWeightsLen(s.groupOut, s.depth)
	buf, err := scratch[float32](c, size*s.group)
	if err != nil {
		return err
	}
	var bias []float32
	for g := range s.group {
		if s.b != nil {
			bias = s.b[g*s.groupOut:]
		}
		s.weights = append(s.weights, s.k.PackConvInto(buf[g*size:(g+1)*size], s.w[g*s.groupOut*s.depth:], bias, s.groupOut, s.depth))
	}
	return nil
}

// convImages makes the images of channels [lo, hi) of the samples at hand.
func convImages(c *call, lo, hi int) {
	s := c.state.(*convState)
	x := s.x[s.first*s.channels*s.inSize:]
	for i := lo; i < hi; i++ {
		s.image.fill(s.k, s.images[i*s.image.size:(i+1)*s.image.size], x[i*s.inSize:(i+1)*s.inSize], 0)
	}
}

// read returns the images of a group of channels of a sample, counted from the
// first one at hand.
func (s *convState) read(sample, group int) []float32 {
	if s.image.padded {
		return s.images[(sample*s.channels+group*s.groupIn)*s.image.size:][:s.groupIn*s.image.size]
	}
	return s.x[((s.first+sample)*s.channels+group*s.groupIn)*s.inSize:][:s.groupIn*s.inSize]
}

// convByLanes computes units [lo, hi): all blocks of channels of a chunk of
// the places of a group, then the next chunk.
func convByLanes(c *call, lo, hi int) {
	s := c.state.(*convState)
	blocks := s.weights[0].Blocks()
	per := 2 * s.k.ConvLanes()
	end := simd.ConvEnd{Lo: s.lo, Hi: s.hi}
	for i := lo; i < hi; i++ {
		block, chunk, image := i%blocks, i/blocks%s.chunks, i/blocks/s.chunks
		sample, group := image/s.group, image%s.group
		x := s.read(sample, group)
		at := ((s.first+sample)*s.m + group*s.groupOut + block*per) * s.outSize
		z := s.z[at:]
		if s.add != nil {
			end.Add = s.add[at:]
		}
		for _, p := range s.places {
			part := p.Part(p.Len()*chunk/s.chunks, p.Len()*(chunk+1)/s.chunks)
			s.k.Conv(z, s.outSize, x, s.step, s.offsets, s.weights[group], block, part, end)
		}
	}
}

// slides computes the convolution with pixels in the lanes. The images of a
// group are read as soon as they are made; where there are fewer groups than
// threads, the threads share channels and rows of each.
func (s *convState) slides(c *call) error {
	groups := s.n * s.group
	s.samples, s.chunks = 0, 1
	if c.workers() > 1 && groups < 2*c.workers() {
		s.samples = s.n
		s.chunks = min((4*c.workers()+s.n*s.m-1)/(s.n*s.m), (s.planeRows+3)/4)
	}
	if s.image.padded {
		n := c.workers()
		if s.samples > 0 {
			n = groups
		}
		var err error
		if s.images, err = scratch[float32](c, n*s.groupIn*s.image.size); err != nil {
			return err
		}
	}
	if s.samples == 0 {
		c.parallelWorkers(groups, 1+multiplyGrain/(1+s.groupOut*s.outSize*s.depth), convGroups)
		return nil
	}
	s.first = 0
	if s.image.padded {
		c.parallel(s.n*s.channels, 1+elementGrain/s.image.size, convImages)
	}
	c.parallel(s.n*s.m*s.chunks, 1+s.chunks*multiplyGrain/(1+s.outSize*s.depth), convBands)
	return nil
}

// convGroups computes groups [lo, hi) of all samples.
func convGroups(c *call, worker, lo, hi int) {
	s := c.state.(*convState)
	for i := lo; i < hi; i++ {
		x := s.x[i*s.groupIn*s.inSize : (i+1)*s.groupIn*s.inSize]
		if s.image.padded {
			size := s.image.size
			images := s.images[worker*s.groupIn*size:][:s.groupIn*size]
			for ch := range s.groupIn {
				s.image.fill(s.k, images[ch*size:(ch+1)*size], x[ch*s.inSize:(ch+1)*s.inSize], 0)
			}
			x = images
		}
		for m := range s.groupOut {
			s.slide(x, i*s.groupOut+m, 0, s.planeRows)
		}
	}
}

// convBands computes units [lo, hi): a band of the rows of every plane of a
// channel of a sample.
func convBands(c *call, lo, hi int) {
	s := c.state.(*convState)
	for i := lo; i < hi; i++ {
		channel, band := i/s.chunks, i%s.chunks
		x := s.read(channel/s.m, channel%s.m/s.groupOut)
		s.slide(x, channel, s.planeRows*band/s.chunks, s.planeRows*(band+1)/s.chunks)
	}
}

// slide computes rows [lo, hi) of every plane of a channel, counted over all
// samples, from the images x of its group.
func (s *convState) slide(x []float32, channel, lo, hi int) {
	m := channel % s.m
	var bias float32
	if s.b != nil {
		bias = s.b[m]
	}
	low, high := s.lo, s.hi
	if s.add != nil {
		low, high = simd.Unlimited.Lo, simd.Unlimited.Hi
	}
	w := s.w[m*s.depth : (m+1)*s.depth]
	for _, o := range s.outer {
		from, to := o[0]+lo*s.rowStep, channel*s.outSize+o[1]+lo*s.width
		z := s.z[to:][:(hi-lo)*s.width]
		s.k.SlideConv(z, s.width, x[from:], s.rowStep, s.offsets, hi-lo, s.width, s.step, w, bias, low, high)
		if s.add != nil {
			s.end(z, s.add[to:])
		}
	}
}

// end adds and limits z, as the kernels with lanes of channels do.
func (s *convState) end(z, add []float32) {
	if add != nil {
		s.k.Add(z, z, add[:len(z)])
	}
	if s.lo > simd.Unlimited.Lo {
		s.k.MaxScalar(z, z, s.lo)
	}
	if s.hi < simd.Unlimited.Hi {
		s.k.MinScalar(z, z, s.hi)
	}
}

// convByRows computes channels [lo, hi) of all samples, row by row.
func convByRows(c *call, lo, hi int) {
	s := c.state.(*convState)
	for i := lo; i < hi; i++ {
		n, m := i/s.m, i%s.m
		x := s.x[(n*s.channels+m/s.groupOut*s.groupIn)*s.inSize:]
		var bias float32
		if s.b != nil {
			bias = s.b[m]
		}
		z := s.z[i*s.outSize : (i+1)*s.outSize]
		slide(&s.window, z, x, s.w[m*s.depth:(m+1)*s.depth], s.groupIn, bias, s.k.Axpy)
		if s.add != nil {
			s.end(z, s.add[i*s.outSize:])
		} else {
			s.end(z, nil)
		}
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
		s := c.convolve(v)
		if _, _, err := v.operands(c, &s.convShape); err != nil {
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

// transposedState is the adjoint at hand.
type transposedState struct {
	convShape
	kernels           *simd.Kernels
	x, weights, b, z  []float32
	cols, packed      []float32
	colStep, packStep int
	panels            []simd.Packed // the groups of X
}

func (c *call) transposed(k *simd.Kernels) *transposedState {
	s, ok := c.state.(*transposedState)
	if !ok {
		s = &transposedState{kernels: k}
		c.state = s
	}
	return s
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
func (v *transposedConvolution) operands(c *call, s *convShape) (w, b *Tensor, err error) {
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
	s := c.transposed(v.k)
	w, b, err := v.operands(c, &s.convShape)
	if err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	c.flops += 2 * int64(c.in[0].Len()) * int64(s.groupOut) * int64(s.taps)
	s.x, s.weights, s.z, s.b = c.in[0].F32(), w.F32(), z.F32(), nil
	if b != nil {
		s.b = b.F32()
	}
	defer func() { s.x, s.weights, s.b, s.z, s.cols, s.packed = nil, nil, nil, nil, nil, nil }()
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
	s := c.state.(*transposedState)
	for unit := lo; unit < hi; unit++ {
		x := simd.RowMajor(s.x[unit*s.groupIn*s.outSize:], s.outSize)
		s.panels[unit] = s.kernels.PackInto(s.packed[unit*s.packStep:(unit+1)*s.packStep], x, s.groupIn, s.outSize)
	}
}

func transposeChannels(c *call, worker, lo, hi int) {
	s := c.state.(*transposedState)
	cols := s.cols[worker*s.colStep:][:s.colStep]
	for i := lo; i < hi; i++ {
		unit, m := i/s.groupOut, i%s.m
		z := s.z[i*s.inSize : (i+1)*s.inSize]
		var bias float32
		if s.b != nil {
			bias = s.b[m]
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
		s := c.transposed(v.k)
		w, b, err := v.operands(c, &s.convShape)
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
