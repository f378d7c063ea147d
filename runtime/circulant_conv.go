package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// circulantConv is BlockCirculantConv: X [N, C, d…], W [p, q, b, k…], B [m] →
// Y [N, m, o…]. At every tap of the window the matrix from the channels of X to
// those of Y is block-circulant; package circulant has the formulas.
//
// With G groups, the C/G channels of a group take q blocks and its m/G outputs p/G
// rows of blocks: what is missing in the last block of a group is zero, rows that are
// too many are discarded.
//
// A sample goes through three stages. The image of every block of channels, with
// the window's padding in place, is transformed into planes [planes, G·q, image];
// a grouped convolution with real weights takes them to [planes, p, outputs]; and
// the blocks of every output are transformed back, with bias and limits. The
// convolution is [convolution], with its kernels and all that it knows of
// windows. A plane is a group of it, so that the lanes of a vector are blocks of
// the output, and every pixel is transformed once for all taps.
type circulantConv struct {
	windowAttrs
	k      *simd.Kernels
	group  int
	m      int     // channels of Y
	lo, hi float32 // limits that fusion appends
	fixed  *circulantPlanes
	moving func() *circulantPlanes // in a training: those of the weights as they are now
}

// circulantPlanes is a W, ready to be used.
type circulantPlanes struct {
	p, q, b int
	kernel  []int
	c       *simd.Circulant
	conv    *convolution
	bias    []float32 // [p·b], of every block: zeros where there is none
}

func prepareBlockCirculantConv(n *node) (kernel, error) {
	v, err := newCirculantConv(n)
	if err != nil {
		return nil, err
	}
	return byType{graph.Float32: v.run}.kernel(0), n.inputs(2, 3)
}

func newCirculantConv(n *node) (*circulantConv, error) {
	v := &circulantConv{windowAttrs: n.window(), k: n.simd, group: n.int("group", 1), m: n.int("out_channels", 0),
		lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi}
	if v.group < 1 || v.group > math.MaxInt32 {
		return nil, fmt.Errorf("group = %d, want at least 1", v.group)
	}
	w, b := n.constant(1), n.constant(2)
	if w == nil || n.has(2) && b == nil {
		return v, nil
	}
	w, err := widened(w)
	if err != nil {
		return nil, err
	}
	if b != nil {
		if b, err = widened(b); err != nil {
			return nil, err
		}
	}
	if w == nil || n.has(2) && b == nil {
		return nil, errors.New("weights are of no floating-point type")
	}
	if v.fixed, err = v.planes(w, b); err != nil {
		return nil, err
	}
	n.drop(1)
	if n.has(2) {
		n.drop(2)
	}
	return v, nil
}

// check returns the sizes of W [p, q, b, k…].
func (v *circulantConv) check(w *Tensor) (p, q, b, taps int, err error) {
	if w.DType != graph.Float32 || len(w.Shape) < 4 {
		return 0, 0, 0, 0, fmt.Errorf("weight W is %v%v, want float [p, q, b, kernel…]", w.DType, w.Shape)
	}
	p, q, b = w.Shape[0], w.Shape[1], w.Shape[2]
	switch {
	case p < 1 || q < 1 || b < 2 || w.Len() == 0:
		return 0, 0, 0, 0, fmt.Errorf("weight W is %v: want at least one block of 2 and a tap", w.Shape)
	case b > circulant.MaxBlock:
		return 0, 0, 0, 0, fmt.Errorf("block size is %d, the convolution takes at most %d", b, circulant.MaxBlock)
	case p%v.group != 0 || v.m < 1 || v.m%v.group != 0 || v.m/v.group > p/v.group*b:
		return 0, 0, 0, 0, fmt.Errorf("out_channels is %d, but %d rows of blocks of %d in %d groups hold 1 to %d, as many in each", v.m, p, b, v.group, p*b)
	}
	return p, q, b, w.Len() / (p * q * b), nil
}

// planes prepares W and B, which may be nil.
func (v *circulantConv) planes(w, bias *Tensor) (*circulantPlanes, error) {
	p, q, b, taps, err := v.check(w)
	if err != nil {
		return nil, err
	}
	weights := make([]float32, circulant.ConvPlanes(b)*p*q*taps)
	circulant.ConvWeights(weights, w.F32(), p, q, b, taps)
	s := v.planesOf(weights, p, q, b, w.Shape[3:])
	return s, v.addBias(s.bias, bias)
}

// addBias copies B, which may be nil, to the bias of blocks.
func (v *circulantConv) addBias(to []float32, bias *Tensor) error {
	if bias == nil {
		return nil
	}
	if bias.DType != graph.Float32 || !slices.Equal(bias.Shape, []int{v.m}) {
		return fmt.Errorf("bias B is %v%v, want %d of float", bias.DType, bias.Shape, v.m)
	}
	rows := len(to) / v.group // with those that are discarded
	for g := range v.group {
		copy(to[g*rows:], bias.F32()[g*v.m/v.group:(g+1)*v.m/v.group])
	}
	return nil
}

// planesOf prepares the weights of planes [planes, p, q, taps].
func (v *circulantConv) planesOf(weights []float32, p, q, b int, kernel []int) *circulantPlanes {
	s := &circulantPlanes{p: p, q: q, b: b, kernel: slices.Clone(kernel), c: v.k.Circulant(b), bias: make([]float32, p*b)}
	planes := circulant.ConvPlanes(b)
	shape := append([]int{planes * p, q}, s.kernel...)
	s.conv = &convolution{windowAttrs: windowAttrs{strides: v.strides, dilations: v.dilations, auto: "NOTSET"}, k: v.k, group: planes * v.group,
		lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi, w: FromSlice(shape, weights)}
	s.conv.pack()
	return s
}

// circulantState is the convolution at hand.
type circulantState struct {
	*circulantConv
	*circulantPlanes
	win      window
	image    image
	n, chans int // samples and channels of X
	shape    []int

	x, z, bias     []float32
	first, samples int       // that are computed together
	ws             []float32 // of the workers
	wsLen          int
	xh             Tensor
	yh             Tensor
	inner          *call // of the convolution of planes
}

// circulantCache is the memory for the planes of several samples, in elements:
// they stay in a cache.
const circulantCache = 1 << 18

func (v *circulantConv) run(c *call) error {
	s, ok := c.state.(*circulantState)
	if !ok {
		s = &circulantState{circulantConv: v, circulantPlanes: v.fixed}
		s.inner = &call{s: c.s, in: []*Tensor{&s.xh}, out: []*Tensor{&s.yh}}
		c.state = s
	}
	switch {
	case v.moving != nil:
		if now := v.moving(); now != s.circulantPlanes {
			s.circulantPlanes, s.inner.state = now, nil
		}
		s.bias = append(s.bias[:0], s.circulantPlanes.bias...)
		if err := v.addBias(s.bias, c.input(2)); err != nil {
			return err
		}
	case v.fixed == nil:
		planes, err := v.planes(c.in[1], c.input(2))
		if err != nil {
			return err
		}
		s.circulantPlanes, s.bias, s.inner.state = planes, planes.bias, nil
	default:
		s.bias = v.fixed.bias
	}
	if err := s.geometry(c.in[0]); err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	planes := s.c.Multiplications()
	in, out := planes*v.group*s.q*s.image.size, planes*s.p*s.win.outSize // planes of a sample
	s.samples = min(max(circulantCache/max(in+out, 1), 1), s.n)
	s.xh.DType = graph.Float32
	s.xh.Shape = append(append(s.xh.Shape[:0], s.samples, planes*v.group*s.q), s.image.dims...)
	xh, err := scratch[float32](c, s.samples*in)
	if err != nil {
		return err
	}
	// A worker has the image of a block and what the transforms want.
	s.wsLen = s.c.ImageScratch() + s.b*max(s.image.size, s.win.outSize)
	if s.ws, err = scratch[float32](c, s.wsLen*c.workers()); err != nil {
		return err
	}
	s.x, s.z = c.in[0].F32(), z.F32()
	defer func() {
		s.x, s.z, s.ws, s.xh.mem = nil, nil, nil, nil
		c.s.pool.release(&s.yh)
	}()
	for s.first = 0; s.first < s.n; s.first += s.samples {
		s.xh.Shape[0] = min(s.samples, s.n-s.first)
		s.xh.mem = bytesOf(xh[:s.xh.Shape[0]*in])
		c.parallelWorkers(s.xh.Shape[0]*v.group*s.q, 1+elementGrain/(1+s.b*s.image.size), circulantForward)
		err := s.conv.run(s.inner)
		s.inner.tidy()
		if err != nil {
			return err
		}
		c.parallelWorkers(s.xh.Shape[0]*s.p, 1+elementGrain/(1+s.b*s.win.outSize), circulantInverse)
	}
	c.flops += s.inner.flops
	s.inner.flops = 0
	transforms := float64(s.n*(v.group*s.q*s.image.size+s.p*s.win.outSize)) * 2.5 * float64(s.b) * math.Log2(float64(s.b))
	c.flops += int64(transforms)
	return nil
}

// geometry works out the shapes.
func (s *circulantState) geometry(x *Tensor) error {
	if len(x.Shape) != len(s.kernel)+2 {
		return fmt.Errorf("X %v with a kernel %v: want as many spatial dims", x.Shape, s.kernel)
	}
	s.n, s.chans = x.Shape[0], x.Shape[1]
	if s.chans%s.group != 0 || s.chans/s.group > s.q*s.b {
		return fmt.Errorf("X %v has %d channels, W takes %d groups of at most %d", x.Shape, s.chans, s.group, s.q*s.b)
	}
	if err := s.win.set(&s.windowAttrs, x.Shape[2:], s.kernel); err != nil {
		return err
	}
	s.shape = append(append(s.shape[:0], s.n, s.m), s.win.out...)
	if !s.image.set(&s.win, s.group*s.q) {
		return errors.New("the input with its padding is too large")
	}
	return nil
}

// workspace is the memory of a worker: scratch memory, and the image of a block.
func (s *circulantState) workspace(worker int) (scratch, stage []float32) {
	ws := s.ws[worker*s.wsLen : (worker+1)*s.wsLen]
	return ws[:s.c.ImageScratch()], ws[s.c.ImageScratch():]
}

// blockChannels returns the channels that block i has, where they begin and how many
// of b they are: a group of per channels has that many blocks, of which the last ones
// may have fewer or none.
func blockChannels(i, blocks, b, per int) (first, have int) {
	at := min(i%blocks*b, per)
	return i/blocks*per + at, min(b, per-at)
}

// circulantForward transforms blocks [lo, hi) of the channels of the samples at
// hand.
func circulantForward(c *call, worker, lo, hi int) {
	s := c.state.(*circulantState)
	scratch, stage := s.workspace(worker)
	blocks, size := s.group*s.q, s.image.size
	planes := cast[float32](s.xh.mem)
	for i := lo; i < hi; i++ {
		sample, block := i/blocks, i%blocks
		dst := planes[(sample*s.c.Multiplications()*blocks+block)*size:]
		first, have := blockChannels(block, s.q, s.b, s.chans/s.group)
		x := s.x[((s.first+sample)*s.chans+first)*s.win.inSize:]
		if have < s.b || s.image.padded {
			for ch := range have {
				plane := x[ch*s.win.inSize : (ch+1)*s.win.inSize]
				if s.image.padded {
					s.image.fill(s.k, stage[ch*size:(ch+1)*size], plane, 0)
				} else {
					copy(stage[ch*size:], plane)
				}
			}
			clear(stage[have*size : s.b*size])
			x = stage
		}
		s.c.ForwardImage(dst, blocks*size, x, size, size, scratch)
	}
}

// circulantInverse transforms blocks [lo, hi) of the outputs of the samples at
// hand.
func circulantInverse(c *call, worker, lo, hi int) {
	s := c.state.(*circulantState)
	scratch, stage := s.workspace(worker)
	size := s.win.outSize
	planes := s.yh.F32()
	for i := lo; i < hi; i++ {
		sample, block := i/s.p, i%s.p
		src := planes[(sample*s.c.Multiplications()*s.p+block)*size:]
		first, have := blockChannels(block, s.p/s.group, s.b, s.m/s.group)
		if have == 0 {
			continue // more rows of blocks than channels
		}
		z := s.z[((s.first+sample)*s.m+first)*size:][:have*size]
		to := z
		if have < s.b {
			to = stage
		}
		s.c.InverseImage(to, size, src, s.p*size, size, s.bias[block*s.b:(block+1)*s.b], s.lo, s.hi, scratch)
		if have < s.b {
			copy(z, stage)
		}
	}
}

// circulantConvEnd: Relu or Clip of a BlockCirculantConv with constant weights.
// Limits do not round.
func (f *fuser) circulantConvEnd(x *lnode) bool {
	lo, hi, ok := x.limits()
	if !ok {
		return false
	}
	conv := x.in[0].def
	if conv == nil || conv.domain != graph.LatheDomain || conv.op != "BlockCirculantConv" || conv.kernel != nil ||
		x.in[0].scope != f.scope || f.readers[x.in[0]] != 1 || x.in[0].pinned || len(conv.in) < 2 {
		return false
	}
	for i, v := range conv.in {
		if i > 0 && v != nil && (v.konst == nil || v.konst.DType != graph.Float32) {
			return false
		}
	}
	conv.known()
	v, err := newCirculantConv(&conv.node)
	if err != nil || conv.err != nil || v.fixed == nil || conv.in[0] == nil {
		return false
	}
	v.lo, v.hi = lo, hi
	x.replace("BlockCirculantConv+"+x.op, byType{graph.Float32: v.run}.kernel(0), conv.in[0])
	return true
}
