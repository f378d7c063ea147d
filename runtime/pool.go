package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// poolOps reduce the input under a sliding window, or whole channels.
var poolOps = []operator{
	{"", "MaxPool", 1, prepareMaxPool, gradMaxPool, halves},
	{"", "AveragePool", 1, prepareMeanPool, gradAveragePool, halves},
	{"", "LpPool", 2, prepareMeanPool, nil, halves},
	{"", "GlobalMaxPool", 1, prepareGlobalPool, gradGlobalPool, halves},
	{"", "GlobalAveragePool", 1, prepareGlobalPool, gradGlobalPool, halves},
	{"", "GlobalLpPool", 2, prepareGlobalPool, nil, halves},
	{"", "MaxUnpool", 9, prepareMaxUnpool, nil, 0},
}

// poolState is the pooling at hand.
type poolState struct {
	window
	planes int // samples · channels
	shape  []int
	counts []int // of elements in the window, by the output's place in a row

	// Of windows that slide with pixels in the lanes of vectors.
	slides    bool
	planned   []int // spatial dims that the rest is for
	image     image
	offsets   simd.Taps
	origins   [][2]int // where planes of rows begin in image and output
	planeRows int
	rowStep   int // from row to row of the image
	divisors  []float32
	images    []float32 // one for each worker

	// The same in 16-bit fixed point.
	images16, maxima []int16
	sums             []int32

	given []uint32 // of gradients: what maxima have handed on
}

func (c *call) pooling(a *windowAttrs) (*poolState, error) {
	s, ok := c.state.(*poolState)
	if !ok {
		s = &poolState{}
		c.state = s
	}
	x := c.in[0]
	if len(x.Shape) < 3 {
		return nil, fmt.Errorf("X %v, want [N, C, spatial…]", x.Shape)
	}
	if err := s.set(a, x.Shape[2:], nil); err != nil {
		return nil, err
	}
	s.planes = x.Shape[0] * x.Shape[1]
	s.shape = append(append(s.shape[:0], x.Shape[:2]...), s.out...)
	return s, nil
}

// slideOp is a window of package simd.
type slideOp func(k *simd.Kernels, z []float32, zStep int, x []float32, xStep int, taps simd.Taps, rows, width, stride int)

// plan works out how windows slide; it reports false where the kernels do not
// take them so.
func (s *poolState) plan() bool {
	if s.planned != nil && slices.Equal(s.planned, s.in) {
		return s.slides
	}
	s.planned = append(s.planned[:0], s.in...)
	s.divisors = nil
	s.slides = s.stride[len(s.stride)-1] <= simd.SlideStrides && s.image.set(&s.window, 1)
	if !s.slides {
		return false
	}
	s.offsets = s.image.taps(1)
	s.planeRows, s.rowStep = s.image.planeRows()
	s.origins = s.origins[:0]
	for r := 0; r < s.rows; r += s.planeRows {
		s.origins = append(s.origins, [2]int{s.image.row(r), r * s.width})
	}
	return true
}

// slidePool pools plane by plane where windows slide with a stride of 1 or 2,
// and otherwise does what it is told. begin is called for new shapes, end makes
// the result of a plane from what op gives; both can be nil.
func slidePool(a *windowAttrs, k *simd.Kernels, op slideOp, padding float32, begin func(s *poolState), end func(s *poolState, plane []float32), otherwise kernel) kernel {
	planes := func(c *call, worker, lo, hi int) {
		s := c.state.(*poolState)
		x, z := c.in[0].F32(), c.out[0].F32()
		stride := s.stride[len(s.stride)-1]
		for i := lo; i < hi; i++ {
			from, to := x[i*s.inSize:(i+1)*s.inSize], z[i*s.outSize:(i+1)*s.outSize]
			if s.image.padded {
				m := s.images[worker*s.image.size:][:s.image.size]
				s.image.fill(k, m, from, padding)
				from = m
			}
			for _, o := range s.origins {
				op(k, to[o[1]:], s.width, from[o[0]:], s.rowStep, s.offsets, s.planeRows, s.width, stride)
			}
			if end != nil {
				end(s, to)
			}
		}
	}
	return func(c *call) error {
		s, err := c.pooling(a)
		if err != nil {
			return err
		}
		if !s.plan() {
			return otherwise(c)
		}
		z, err := c.alloc(0, graph.Float32, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		if begin != nil && s.divisors == nil {
			begin(s)
		}
		if s.image.padded {
			if s.images, err = scratch[float32](c, s.image.size*c.workers()); err != nil {
				return err
			}
		}
		c.parallelWorkers(s.planes, 1+elementGrain/(s.outSize*s.taps), planes)
		s.images = nil
		return nil
	}
}

// prepareMaxPool: a window of padding alone gives the lowest value, and a NaN
// in the window NaN. Indices are places in the whole of X, in the order that
// storage_order says: row by row, or the first spatial dim running fastest.
func prepareMaxPool(n *node) (kernel, error) {
	a := n.window()
	columnMajor := n.bool("storage_order", false)
	indices := n.wants(1)
	low := float32(math.Inf(-1))
	float := maxPool(&a, indices, columnMajor, low)
	if !indices {
		float = slidePool(&a, n.simd, (*simd.Kernels).SlideMax, low, nil, nil, float)
	}
	return byType{
		graph.Float32: float,
		graph.Float64: maxPool(&a, indices, columnMajor, math.Inf(-1)),
		graph.Int8:    maxPool(&a, indices, columnMajor, int8(math.MinInt8)),
		graph.Uint8:   maxPool(&a, indices, columnMajor, uint8(0)),
	}.kernel(0), n.inputs(1, 1)
}

// maxPool pools row by row.
func maxPool[T number](a *windowAttrs, indices, columnMajor bool, low T) kernel {
	d := dtypeOf[T]()
	values := func(c *call, lo, hi int) {
		s := c.state.(*poolState)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		last := len(s.in) - 1
		stride := s.stride[last]
		for i := lo; i < hi; i++ {
			row := z[i*s.width : (i+1)*s.width]
			for j := range row {
				row[j] = low
			}
			plane := x[i/s.rows*s.inSize:][:s.inSize]
			for t := s.row(i % s.rows); t.ok; t.next() {
				in := plane[t.in:][:s.in[last]]
				for k := range s.kernel[last] {
					lo, hi, from := s.span(k)
					if lo >= hi {
						continue
					}
					for j := lo; j < hi; j++ {
						if v := in[from]; v > row[j] || v != v {
							row[j] = v
						}
						from += stride
					}
				}
			}
		}
	}
	places := func(c *call, lo, hi int) {
		s := c.state.(*poolState)
		x, z, at := view[T](c.in[0]), view[T](c.out[0]), c.out[1].I64()
		last := len(s.in) - 1
		for i := lo; i < hi; i++ {
			row, idx := z[i*s.width:(i+1)*s.width], at[i*s.width:(i+1)*s.width]
			for j := range row {
				row[j], idx[j] = low, -1
			}
			plane := x[i/s.rows*s.inSize:][:s.inSize]
			for t := s.row(i % s.rows); t.ok; t.next() {
				for k := range s.kernel[last] {
					lo, hi, from := s.span(k)
					for j := lo; j < hi; j++ {
						if v := plane[t.in+from]; idx[j] < 0 || v > row[j] || v != v && row[j] == row[j] {
							row[j], idx[j] = v, int64(t.in+from)
						}
						from += s.stride[last]
					}
				}
			}
			for j, p := range idx {
				if p < 0 {
					continue
				}
				if columnMajor {
					p = int64(s.columnMajor(int(p)))
				}
				idx[j] = int64(i/s.rows*s.inSize) + p
			}
		}
	}
	return func(c *call) error {
		s, err := c.pooling(a)
		if err != nil {
			return err
		}
		if _, err := c.alloc(0, d, s.shape...); err != nil {
			return err
		}
		body := values
		if indices {
			if _, err := c.alloc(1, graph.Int64, s.shape...); err != nil {
				return err
			}
			body = places
		}
		if c.out[0].Len() > 0 {
			c.parallel(s.planes*s.rows, 1+elementGrain/(s.width*s.taps), body)
		}
		return nil
	}
}

// columnMajor turns a place in a channel, counted row by row, into one counted
// with the first dim fastest.
func (w *window) columnMajor(p int) int {
	at, step := 0, w.inSize
	for i := len(w.in) - 1; i >= 0; i-- {
		step /= w.in[i]
		at += p % w.in[i] * step
		p /= w.in[i]
	}
	return at
}

// prepareMeanPool: AveragePool divides the sum of the window by the number of
// its elements inside of X, or with count_include_pad of X and its padding
// (not of what ceil_mode lets it reach beyond). LpPool is (Σ |x|ᵖ)^(1/p).
func prepareMeanPool(n *node) (kernel, error) {
	a := n.window()
	if n.op == "LpPool" {
		p := float64(n.int("p", 2))
		if p < 1 {
			return nil, fmt.Errorf("p = %v, want at least 1", p)
		}
		return byType{
			graph.Float32: sumPool(&a, false, powerOf[float32](p), rootOf[float32](p)),
			graph.Float64: sumPool(&a, false, powerOf[float64](p), rootOf[float64](p)),
		}.kernel(0), n.inputs(1, 1)
	}
	pad, k := n.bool("count_include_pad", false), n.simd
	count := func(s *poolState) { s.count(pad) }
	divide := func(s *poolState, plane []float32) { k.Div(plane, plane, s.divisors) }
	means := slidePool(&a, k, (*simd.Kernels).SlideSum, 0, count, divide, sumPool(&a, pad, nil, meanOf[float32](pad)))
	return byType{
		graph.Float32: means,
		graph.Float64: sumPool(&a, pad, nil, meanOf[float64](pad)),
	}.kernel(0), n.inputs(1, 1)
}

// count works out how many elements count in the windows of a plane.
func (s *poolState) count(pad bool) {
	s.divisors = make([]float32, s.outSize)
	for i := range s.divisors {
		n, at := 1, i
		for k := len(s.out) - 1; k >= 0; k-- {
			n *= s.counted(k, at%s.out[k], pad)
			at /= s.out[k]
		}
		s.divisors[i] = float32(n)
	}
}

// powerOf is |x|ᵖ.
func powerOf[T float32 | float64](p float64) func(x T) T {
	switch p {
	case 1:
		return func(x T) T { return T(math.Abs(float64(x))) }
	case 2:
		return func(x T) T { return T(x * x) }
	}
	return func(x T) T { return T(math.Pow(math.Abs(float64(x)), p)) }
}

// rootOf ends an LpPool row.
func rootOf[T float32 | float64](p float64) func(s *poolState, r int, row []T) {
	return func(_ *poolState, _ int, row []T) {
		for j, v := range row {
			if p == 2 {
				row[j] = T(math.Sqrt(float64(v)))
			} else if p != 1 {
				row[j] = T(math.Pow(float64(v), 1/p))
			}
		}
	}
}

// meanOf ends an AveragePool row: it divides by the count.
func meanOf[T float32 | float64](pad bool) func(s *poolState, r int, row []T) {
	return func(s *poolState, r int, row []T) {
		n := 1
		for i := len(s.in) - 2; i >= 0; i-- {
			n *= s.counted(i, r%s.out[i], pad)
			r /= s.out[i]
		}
		for j, k := range s.counts {
			row[j] /= T(n * k)
		}
	}
}

// counted is the number of taps of output o along axis i that count.
func (w *window) counted(i, o int, pad bool) int {
	before, d := w.before[i], w.in[i]
	if pad {
		before, d = 0, w.before[i]+d+w.after[i]
	}
	first, end := w.inside(i, o, before, d)
	return end - first
}

// sumPool sums f(x), x itself where f is nil, over windows row by row; end
// makes the result of row r of the outputs from its sums.
func sumPool[T float32 | float64](a *windowAttrs, pad bool, f func(x T) T, end func(s *poolState, r int, row []T)) kernel {
	d := dtypeOf[T]()
	body := func(c *call, lo, hi int) {
		s := c.state.(*poolState)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		last := len(s.in) - 1
		stride := s.stride[last]
		for i := lo; i < hi; i++ {
			row := z[i*s.width : (i+1)*s.width]
			clear(row)
			plane := x[i/s.rows*s.inSize:][:s.inSize]
			for t := s.row(i % s.rows); t.ok; t.next() {
				in := plane[t.in:][:s.in[last]]
				for k := range s.kernel[last] {
					lo, hi, from := s.span(k)
					switch {
					case lo >= hi:
					case f != nil:
						for j := lo; j < hi; j++ {
							row[j] += f(in[from])
							from += stride
						}
					default:
						for j := lo; j < hi; j++ {
							row[j] += in[from]
							from += stride
						}
					}
				}
			}
			end(s, i%s.rows, row)
		}
	}
	return func(c *call) error {
		s, err := c.pooling(a)
		if err != nil {
			return err
		}
		z, err := c.alloc(0, d, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		s.counts = s.counts[:0]
		for o := range s.width {
			s.counts = append(s.counts, s.counted(len(s.in)-1, o, pad))
		}
		c.parallel(s.planes*s.rows, 1+elementGrain/(s.width*s.taps), body)
		return nil
	}
}

// prepareGlobalPool: every channel becomes one element.
func prepareGlobalPool(n *node) (kernel, error) {
	k := n.simd
	p := float64(n.int("p", 2))
	if p < 1 {
		return nil, fmt.Errorf("p = %v, want at least 1", p)
	}
	switch n.op {
	case "GlobalMaxPool":
		return byType{graph.Float32: globalPool(k.MaxOf), graph.Float64: globalPool(floatReducer[float64]("ReduceMax"))}.kernel(0), n.inputs(1, 1)
	case "GlobalAveragePool":
		return byType{graph.Float32: globalPool(floatReducer32(k, "ReduceMean")), graph.Float64: globalPool(floatReducer[float64]("ReduceMean"))}.kernel(0), n.inputs(1, 1)
	}
	return byType{graph.Float32: globalPool(normOf[float32](p)), graph.Float64: globalPool(normOf[float64](p))}.kernel(0), n.inputs(1, 1)
}

// normOf is (Σ |x|ᵖ)^(1/p) in float64.
func normOf[T float32 | float64](p float64) func(x []T) T {
	return func(x []T) T {
		s := 0.0
		for _, v := range x {
			s += math.Pow(math.Abs(float64(v)), p)
		}
		return T(math.Pow(s, 1/p))
	}
}

func globalPool[T number](f func(x []T) T) kernel {
	d := dtypeOf[T]()
	body := func(c *call, lo, hi int) {
		x, z := view[T](c.in[0]), view[T](c.out[0])
		size := len(x) / max(len(z), 1)
		for i := lo; i < hi; i++ {
			z[i] = f(x[i*size : (i+1)*size])
		}
	}
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) < 2 {
			return fmt.Errorf("X %v, want [N, C, spatial…]", x.Shape)
		}
		s, ok := c.state.(*poolState)
		if !ok {
			s = &poolState{}
			c.state = s
		}
		s.shape = append(s.shape[:0], x.Shape...)
		for i := range s.shape[2:] {
			s.shape[2+i] = 1
		}
		z, err := c.alloc(0, d, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		c.parallel(z.Len(), 1+elementGrain/(1+x.Len()/z.Len()), body)
		return nil
	}
}

// prepareMaxUnpool puts every element of X where MaxPool's indices say that it
// came from, zeros elsewhere. Without output_shape the output is as large as
// the smallest input of that pool.
func prepareMaxUnpool(n *node) (kernel, error) {
	a := n.window()
	return func(c *call) error {
		x, at := c.in[0], c.in[1]
		if len(x.Shape) < 3 {
			return fmt.Errorf("X %v, want [N, C, spatial…]", x.Shape)
		}
		if at.DType != graph.Int64 || !slices.Equal(at.Shape, x.Shape) {
			return fmt.Errorf("indices are %v%v for X %v, want int64 of its shape", at.DType, at.Shape, x.Shape)
		}
		r := len(x.Shape) - 2
		var w window
		if err := w.shape(&a, x.Shape[2:], a.kernel); err != nil {
			return err
		}
		shape := slices.Clone(x.Shape)
		for i := range r {
			d := (x.Shape[2+i]-1)*w.stride[i] + w.kernel[i] - w.before[i] - w.after[i]
			if x.Shape[2+i] > math.MaxInt32 || d < 0 {
				return fmt.Errorf("X %v cannot be unpooled with pads %v", x.Shape, a.pads)
			}
			shape[2+i] = d
		}
		// The indices are places in the tensor of that shape, also where the
		// output is larger.
		inner := slices.Clone(shape)
		if c.has(2) {
			dims, err := dimsOf(nil, c.in[2])
			if err != nil {
				return err
			}
			if len(dims) != len(shape) {
				return fmt.Errorf("output_shape %v for X %v", dims, x.Shape)
			}
			for i, d := range dims {
				if d < inner[i] || i < 2 && d != inner[i] {
					return fmt.Errorf("output_shape %v does not hold %v", dims, inner)
				}
			}
			shape = dims
		}
		y, err := c.alloc(0, x.DType, shape...)
		if err != nil {
			return err
		}
		size := elemSize(x.DType)
		if size == 0 {
			return wrongType(x.DType)
		}
		clear(y.mem)
		most, err := count(inner)
		if err != nil {
			return err
		}
		steps := contiguous(nil, shape)
		for i, p := range at.I64() {
			if p < 0 || p >= int64(most) {
				return fmt.Errorf("index %d is out of range for %v", p, inner)
			}
			to := 0
			for k, rest := len(inner)-1, int(p); k >= 0; k-- {
				to += rest % inner[k] * steps[k]
				rest /= inner[k]
			}
			copy(y.mem[to*size:(to+1)*size], x.mem[i*size:(i+1)*size])
		}
		return nil
	}, errors.Join(n.inputs(2, 3), n.err)
}
