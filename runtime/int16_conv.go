package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// convInt16 is ConvInt16. The image of a group has the channels of a pixel side by
// side and the window's padding in place, so that the pixels along the last axis of
// a window are one run of numbers (or a run each, with a dilation): every output is
// a row of a product with the weights of its group, read at the same places from
// where its window stands.
type convInt16 struct {
	windowAttrs
	k               *simd.Kernels
	group, m        int
	groupIn, groupM int
	kernel          []int
	runs            int
	packed          []simd.FixedWeights // by group
}

type convInt16State struct {
	window
	*convInt16
	image image
	shape []int

	pieces        []convPiece
	offsets       []int32 // of the runs of a window, in the image
	rows, width   int     // of the outputs, as they lie in the image
	size          int     // of the image of a group
	high, blocks  int     // rows of a block, blocks of a group
	first, n      int     // samples at hand
	images, stage []int16 // of the samples at hand; by worker
	energies      []int64 // by image and piece, and then by image
}

// convPiece is pixels that lie side by side in a channel and in the image.
type convPiece struct{ from, to, n int }

func prepareConvInt16(n *node) (kernel, error) {
	if err := n.inputs(4, 4); err != nil {
		return nil, err
	}
	w, shift, bias, err := n.fixedLayer()
	if err != nil {
		return nil, err
	}
	v := &convInt16{windowAttrs: n.window(), k: n.simd, group: n.int("group", 1), m: w.Shape[0]}
	if len(w.Shape) < 3 || v.group < 1 || v.m%v.group != 0 {
		return nil, fmt.Errorf("weights W %v in %d groups", w.Shape, v.group)
	}
	v.groupIn, v.groupM, v.kernel = w.Shape[1], v.m/v.group, w.Shape[2:]
	depth, err := count(w.Shape[1:])
	if err != nil {
		return nil, err
	}
	taps, err := count(v.kernel)
	if err != nil {
		return nil, err
	}
	if len(bias) != v.m {
		return nil, fmt.Errorf("bias B of %d elements for weights W %v", len(bias), w.Shape)
	}
	v.runs = taps
	if last := len(v.kernel) - 1; v.kernel[last] > 0 && (len(v.dilations) != len(v.kernel) || v.dilations[last] == 1) {
		v.runs = taps / v.kernel[last]
	}
	turned := make([]int16, v.groupM*depth) // of a group, [M, k…, C]
	for g := range v.group {
		first, end := g*v.groupM, (g+1)*v.groupM
		for m := range v.groupM {
			row := w.I16()[(first+m)*depth : (first+m+1)*depth]
			for i, x := range row {
				turned[m*depth+i%taps*v.groupIn+i/taps] = x
			}
		}
		p, err := fixed.Pack(n.simd, turned, v.groupM, depth, max(v.runs, 1), bias[first:end], shift[first:end])
		if err != nil {
			return nil, err
		}
		v.packed = append(v.packed, p)
	}
	return byType{graph.Int16: v.run}.kernel(0), nil
}

// A block of outputs has convInt16Pixels at most, whose rows of a panel stay in the
// cache until they are turned into channels.
const convInt16Pixels = 1024

func (v *convInt16) run(c *call) error {
	s, ok := c.state.(*convInt16State)
	if !ok {
		s = &convInt16State{convInt16: v}
		c.state = s
	}
	x := c.in[0]
	if len(x.Shape) != len(v.kernel)+2 || x.Shape[1] != v.groupIn*v.group {
		return fmt.Errorf("X %v with W [%d, %d, %v] in %d groups", x.Shape, v.m, v.groupIn, v.kernel, v.group)
	}
	known := s.out
	if err := s.set(&v.windowAttrs, x.Shape[2:], v.kernel); err != nil {
		return err
	}
	s.shape = append(append(s.shape[:0], x.Shape[0], v.m), s.out...)
	z, err := c.alloc(0, graph.Int16, s.shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	if known == nil || &known[0] != &s.out[0] { // the window is another
		if !s.image.set(&s.window, v.groupIn) {
			s.out = nil
			return errors.New("the input with its padding is too large")
		}
		s.plan()
	}
	whole := s.size * v.group
	s.n = min(max(convInt16Cache/max(whole, 1), 1), x.Shape[0])
	if s.images, err = scratch[int16](c, s.n*whole+simd.Slack); err != nil {
		return err
	}
	if s.energies, err = scratch[int64](c, s.n*v.group*(len(s.pieces)+1)); err != nil {
		return err
	}
	lanes, units := v.packed[0].Lanes(), v.group*v.packed[0].Panels()
	high := min(s.rows, max(1, convInt16Pixels/s.width), max(1, convChunk*s.rows/(1+2*s.size)))
	if t := 4 * c.workers(); c.workers() > 1 {
		high = min(high, max(1, s.rows*s.n*units/t))
	}
	s.blocks = (s.rows + high - 1) / high
	s.high = (s.rows + s.blocks - 1) / s.blocks
	s.blocks = (s.rows + s.high - 1) / s.high
	if s.stage, err = scratch[int16](c, c.workers()*s.high*s.width*lanes); err != nil {
		return err
	}
	c.flops += 2 * int64(z.Len()) * int64(v.groupIn) * int64(s.taps)
	if s.image.padded || s.size == 0 {
		clear(s.images)
	} else {
		clear(s.images[s.n*whole:])
	}
	for s.first = 0; s.first < x.Shape[0]; s.first += s.n {
		n := min(s.n, x.Shape[0]-s.first)
		images := n * v.group
		c.parallel(images*len(s.pieces), 1+elementGrain*len(s.pieces)/(1+s.size), convInt16Images)
		energies := s.energies[s.n*v.group*len(s.pieces):]
		for i := range images {
			energies[i] = 0
			for _, e := range s.energies[i*len(s.pieces):][:len(s.pieces)] {
				energies[i] = max(energies[i], e)
			}
		}
		c.parallelWorkers(n*units*s.blocks, 1+multiplyGrain/(1+s.high*s.width*lanes*v.groupIn*s.taps), convInt16Panels)
	}
	s.images, s.stage, s.energies = nil, nil, nil
	return nil
}

// convInt16Cache is the memory for images of several samples, in elements.
const convInt16Cache = 1 << 18

// plan works out where pixels, windows and taps are in the image.
func (s *convInt16State) plan() {
	m, last := &s.image, len(s.in)-1
	s.size = m.size * s.groupIn
	s.pieces, s.offsets = s.pieces[:0], s.offsets[:0]
	if m.padded {
		n := min(s.in[last], m.dims[last]-s.before[last])
		for from := 0; from < s.inSize && n > 0; from += s.in[last] {
			to, inside := s.before[last], true
			for i, r := last-1, from/s.in[last]; i >= 0; i-- {
				at := r%s.in[i] + s.before[i]
				r /= s.in[i]
				inside = inside && at < m.dims[i]
				to += at * m.steps[i]
			}
			if inside {
				s.pieces = append(s.pieces, convPiece{from, to, n})
			}
		}
	} else {
		const pixels = 64
		for from := 0; from < s.inSize; from += pixels {
			s.pieces = append(s.pieces, convPiece{from, from, min(pixels, s.inSize-from)})
		}
	}
	for r := range s.runs {
		at := 0
		for i, t := last, r*(s.taps/s.runs); i >= 0; i-- {
			at += t % s.window.kernel[i] * s.dilation[i] * m.steps[i]
			t /= s.window.kernel[i]
		}
		s.offsets = append(s.offsets, int32(at*s.groupIn))
	}
	s.rows, s.width = s.window.rows, s.window.width
	if s.flat() { // pixels lie as in the image, so rows of any length will do
		s.width = min(s.outSize, 112)
		s.rows = (s.outSize + s.width - 1) / s.width
	}
}

// flat reports whether outputs are where their windows stand.
func (s *convInt16State) flat() bool { return s.image.size == s.outSize && s.taps == 1 }

// convInt16Images puts pieces [lo, hi) of the images at hand in place.
func convInt16Images(c *call, lo, hi int) {
	s := c.state.(*convInt16State)
	x := c.in[0].I16()[s.first*s.group*s.groupIn*s.inSize:]
	for u := lo; u < hi; u++ {
		i, p := u/len(s.pieces), s.pieces[u%len(s.pieces)]
		to := s.images[i*s.size+p.to*s.groupIn:][:p.n*s.groupIn]
		from := x[i*s.groupIn*s.inSize+p.from:]
		if s.groupIn == 1 {
			copy(to, from)
		} else {
			s.k.Transpose16(to, s.groupIn, from, s.inSize, s.groupIn, p.n)
		}
		s.energies[u] = s.k.Energy16(to)
	}
}

// convInt16Panels computes units [lo, hi): all panels of a block of the outputs of a
// group, then the next block.
func convInt16Panels(c *call, worker, lo, hi int) {
	s := c.state.(*convInt16State)
	lanes, panels := s.packed[0].Lanes(), s.packed[0].Panels()
	stage := s.stage[worker*s.high*s.width*lanes:][:s.high*s.width*lanes]
	step := s.groupIn * s.stride[len(s.stride)-1]
	for u := lo; u < hi; u++ {
		panel, block, i := u%panels, u/panels%s.blocks, u/panels/s.blocks
		g := i % s.group
		x := s.images[i*s.size:]
		energy := s.energies[s.n*s.group*len(s.pieces)+i]
		first := block * s.high
		end := min(first+s.high, s.rows)
		for r := first; r < end; r++ {
			at, n := r*s.width, s.width
			if s.flat() {
				n = min(n, s.outSize-at)
			} else {
				at = s.image.row(r)
			}
			s.k.FixedPanel(stage[(r-first)*s.width*lanes:], &s.packed[g], panel, energy, x[at*s.groupIn:], step, s.offsets, n)
		}
		pixels := min(end*s.width, s.outSize) - first*s.width
		channels := min(lanes, s.groupM-panel*lanes)
		z := c.out[0].I16()[((s.first*s.group+i)*s.groupM+panel*lanes)*s.outSize+first*s.width:]
		s.k.Transpose16(z, s.outSize, stage, lanes, pixels, channels)
	}
}
