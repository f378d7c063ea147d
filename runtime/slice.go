package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// sliceOps cut their inputs and put the pieces together.
var sliceOps = []operator{
	{"", "Slice", 1, prepareSliceAttrs, gradMoved, 0},
	{"", "Slice", 10, prepareSlice, gradMoved, 0},
	{"", "Split", 2, prepareSplit, gradSplit, 0},
	{"", "Tile", 6, prepareTile, gradMoved, 0},
	{"", "Pad", 2, preparePad, gradMoved, 0},
	{"", "DepthToSpace", 1, prepareDepthToSpace, gradMoved, 0},
	{"", "SpaceToDepth", 1, prepareSpaceToDepth, gradMoved, 0},
	{"", "CenterCropPad", 18, prepareCenterCropPad, nil, 0},
}

// strided is a way to read a tensor: from element offset on, dims with a
// stride each, the last one the innermost.
type strided struct {
	offset        int
	dims, strides []int
}

// contiguous returns the strides of a shape that lies row by row.
func contiguous(dst, shape []int) []int {
	dst = slices.Grow(dst[:0], len(shape))[:len(shape)]
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		dst[i] = step
		step *= shape[i]
	}
	return dst
}

// join merges neighbouring dims that one stride runs through, and drops those
// of length 1.
func (v *strided) join() {
	n := 0
	for i, d := range v.dims {
		if d == 1 {
			continue
		}
		if n > 0 && v.strides[n-1] == v.strides[i]*d {
			v.dims[n-1] *= d
			v.strides[n-1] = v.strides[i]
			continue
		}
		v.dims[n], v.strides[n] = d, v.strides[i]
		n++
	}
	v.dims, v.strides = v.dims[:n], v.strides[:n]
}

// copyStrided fills output 0, row by row, with the elements of input 0 that v
// reads. It joins v's dims.
func (c *call) copyStrided(v *strided) error {
	v.join()
	if c.out[0].Len() == 0 {
		return nil
	}
	if len(v.dims) == 0 {
		v.dims, v.strides = append(v.dims, 1), append(v.strides, 1)
	}
	bodies := byWidth{0: copyStrings, 1: copyElements[uint8], 2: copyElements[uint16], 4: copyElements[uint32], 8: copyElements[uint64], 16: copyElements[complex128]}
	last := len(v.dims) - 1
	rows := 1
	for _, d := range v.dims[:last] {
		rows *= d
	}
	c.arg = v
	c.parallel(rows, 1+elementGrain/v.dims[last], bodies[elemSize(c.in[0].DType)])
	return nil
}

func copyElements[T element](c *call, lo, hi int) {
	copyRows(cast[T](c.out[0].mem), cast[T](c.in[0].mem), c.arg.(*strided), lo, hi)
}

func copyStrings(c *call, lo, hi int) {
	copyRows(c.out[0].strs, c.in[0].strs, c.arg.(*strided), lo, hi)
}

// copyRows copies rows [lo, hi), a row being the last of v's dims.
func copyRows[T any](dst, src []T, v *strided, lo, hi int) {
	last := len(v.dims) - 1
	n, step := v.dims[last], v.strides[last]
	for r := lo; r < hi; {
		// A run of rows that differ along the dim before the last.
		pos, rest, rows, down := v.offset, r, 1, 0
		for k := last - 1; k >= 0; k-- {
			i := rest % v.dims[k]
			rest /= v.dims[k]
			pos += i * v.strides[k]
			if k == last-1 {
				rows, down = min(v.dims[k]-i, hi-r), v.strides[k]
			}
		}
		for range rows {
			d := dst[r*n : (r+1)*n]
			switch step {
			case 1:
				copy(d, src[pos:pos+n])
			case 0:
				x := src[pos]
				for i := range d {
					d[i] = x
				}
			default:
				at := pos
				for i := range d {
					d[i] = src[at]
					at += step
				}
			}
			pos += down
			r++
		}
	}
}

// moveState is what the operators of this file keep between calls.
type moveState struct {
	view                strided
	shape, strides      []int
	starts, ends, steps []int
	axes                []int
}

func (c *call) moves() *moveState {
	s, ok := c.state.(*moveState)
	if !ok {
		s = &moveState{}
		c.state = s
	}
	return s
}

func prepareSliceAttrs(n *node) (kernel, error) {
	starts, ends, axes := n.ints("starts"), n.ints("ends"), n.ints("axes")
	if len(starts) != len(ends) || axes != nil && len(axes) != len(starts) {
		return nil, fmt.Errorf("starts %v, ends %v and axes %v differ in length", starts, ends, axes)
	}
	return func(c *call) error {
		s := c.moves()
		s.starts, s.ends = append(s.starts[:0], starts...), append(s.ends[:0], ends...)
		s.steps = s.steps[:0]
		s.axes = append(s.axes[:0], axes...)
		return c.slice(axes != nil, false)
	}, n.inputs(1, 1)
}

func prepareSlice(n *node) (kernel, error) {
	return func(c *call) error {
		s := c.moves()
		lists := []*[]int{1: &s.starts, 2: &s.ends, 3: &s.axes, 4: &s.steps}
		for i := 1; i < len(lists); i++ {
			*lists[i] = (*lists[i])[:0]
			if t := c.input(i); t != nil {
				var err error
				if *lists[i], err = indices(*lists[i], t); err != nil {
					return err
				}
			}
		}
		if len(s.starts) != len(s.ends) || c.has(3) && len(s.axes) != len(s.starts) || c.has(4) && len(s.steps) != len(s.starts) {
			return fmt.Errorf("starts %v, ends %v, axes %v and steps %v differ in length", s.starts, s.ends, s.axes, s.steps)
		}
		return c.slice(c.has(3), c.has(4))
	}, n.inputs(3, 5)
}

// indices reads a list of int32 or int64, held to the range of an int32 where
// the difference cannot matter to any shape.
func indices(dst []int, t *Tensor) ([]int, error) {
	if len(t.Shape) > 1 {
		return nil, fmt.Errorf("indices have shape %v, want a list", t.Shape)
	}
	switch t.DType {
	case graph.Int64:
		for _, v := range t.I64() {
			dst = append(dst, int(max(min(v, math.MaxInt64>>1), math.MinInt64>>1)))
		}
	case graph.Int32:
		for _, v := range t.I32() {
			dst = append(dst, int(v))
		}
	default:
		return nil, fmt.Errorf("indices are %v, want int32 or int64", t.DType)
	}
	return dst, nil
}

// slice cuts as numpy does: negative bounds count from the end, bounds beyond
// the ends are held to them, and steps may be negative.
func (c *call) slice(axes, steps bool) error {
	x, s := c.in[0], c.moves()
	rank := len(x.Shape)
	if len(s.starts) > rank {
		return fmt.Errorf("%d axes are cut from an input of shape %v", len(s.starts), x.Shape)
	}
	v := &s.view
	v.offset = 0
	v.dims = append(v.dims[:0], x.Shape...)
	v.strides = contiguous(v.strides, x.Shape)
	whole := true
	var seen uint64
	for i := range s.starts {
		a, step := i, 1
		if axes {
			var err error
			if a, err = axis(s.axes[i], rank); err != nil {
				return err
			}
		}
		if a < 64 && seen>>a&1 != 0 {
			return fmt.Errorf("axis %d is cut twice", a)
		}
		seen |= 1 << (a & 63)
		if steps {
			step = s.steps[i]
		}
		if step == 0 || step > math.MaxInt32 || step < -math.MaxInt32 {
			return fmt.Errorf("step %d", step)
		}
		d := x.Shape[a]
		lo, hi := s.starts[i], s.ends[i]
		if lo < 0 {
			lo += d
		}
		if hi < 0 {
			hi += d
		}
		var n int
		if step > 0 {
			lo, hi = min(max(lo, 0), d), min(max(hi, 0), d)
			n = max((hi-lo+step-1)/step, 0)
		} else {
			lo, hi = min(max(lo, -1), d-1), min(max(hi, -1), d-1)
			n = max((lo-hi-step-1)/-step, 0)
		}
		whole = whole && n == d && step == 1
		if n > 0 {
			v.offset += lo * v.strides[a]
		}
		v.dims[a] = n
		v.strides[a] *= step
	}
	if whole {
		c.share(0, x)
		return nil
	}
	if _, err := c.alloc(0, x.DType, v.dims...); err != nil {
		return err
	}
	return c.copyStrided(v)
}

// copyRuns copies count runs of run elements: run i from x at
// fromAt + i·fromStep to y at toAt + i·toStep.
func copyRuns(y, x *Tensor, count, run, toStep, toAt, fromStep, fromAt int) {
	if x.DType == graph.String {
		for i := range count {
			copy(y.strs[toAt+i*toStep:toAt+i*toStep+run], x.strs[fromAt+i*fromStep:])
		}
		return
	}
	w := elemSize(x.DType)
	run *= w
	for i := range count {
		to, from := (toAt+i*toStep)*w, (fromAt+i*fromStep)*w
		copy(y.mem[to:to+run], x.mem[from:from+run])
	}
}

// prepareSplit cuts its input into parts along an axis: of given lengths, an
// attribute before opset 13 and an input from then on, or equal ones; from
// opset 18 on the last may be smaller.
func prepareSplit(n *node) (kernel, error) {
	along := n.int("axis", 0)
	lengths := n.ints("split")
	parts := len(n.wanted)
	if k := n.int("num_outputs", parts); k != parts {
		return nil, fmt.Errorf("num_outputs is %d, the node has %d outputs", k, parts)
	}
	return func(c *call) error {
		x, s := c.in[0], c.moves()
		a, err := axis(along, len(x.Shape))
		if err != nil {
			return err
		}
		l := lengths
		if c.has(1) {
			if s.axes, err = dimsOf(s.axes, c.in[1]); err != nil {
				return err
			}
			l = s.axes
		}
		if l == nil {
			if x.Shape[a]%parts != 0 && n.opset < 18 {
				return fmt.Errorf("%d does not split into %d equal parts", x.Shape[a], parts)
			}
			each := (x.Shape[a] + parts - 1) / parts
			s.axes = s.axes[:0]
			for i := range parts {
				s.axes = append(s.axes, max(min(each, x.Shape[a]-i*each), 0))
			}
			l = s.axes
		}
		sum := 0
		for _, d := range l {
			if d < 0 {
				return fmt.Errorf("a part of length %d", d)
			}
			sum += d
		}
		if len(l) != parts || sum != x.Shape[a] {
			return fmt.Errorf("parts %v of an axis of %d for %d outputs", l, x.Shape[a], parts)
		}
		outer, inner := 1, 1
		for i, d := range x.Shape {
			if i < a {
				outer *= d
			} else if i > a {
				inner *= d
			}
		}
		s.shape = append(s.shape[:0], x.Shape...)
		at := 0
		for i, d := range l {
			s.shape[a] = d
			if c.wants(i) {
				y, err := c.alloc(i, x.DType, s.shape...)
				if err != nil {
					return err
				}
				if y.Len() > 0 {
					copyRuns(y, x, outer, d*inner, d*inner, 0, x.Shape[a]*inner, at)
				}
			}
			at += d * inner
		}
		return nil
	}, n.inputs(1, 2)
}

// prepareTile repeats its input repeats[i] times along axis i.
func prepareTile(n *node) (kernel, error) {
	return func(c *call) error {
		x, s := c.in[0], c.moves()
		var err error
		if s.axes, err = dimsOf(s.axes, c.in[1]); err != nil {
			return err
		}
		if len(s.axes) != len(x.Shape) {
			return fmt.Errorf("repeats %v for an input of shape %v", s.axes, x.Shape)
		}
		// Axis i of the output is two axes, the repetition and the input's.
		v := &s.view
		v.offset, v.dims, v.strides, s.shape = 0, v.dims[:0], v.strides[:0], s.shape[:0]
		s.strides = contiguous(s.strides, x.Shape)
		for i, r := range s.axes {
			if r < 0 || x.Shape[i] > 0 && r > math.MaxInt32 {
				return fmt.Errorf("repeats %v", s.axes)
			}
			v.dims = append(v.dims, r, x.Shape[i])
			v.strides = append(v.strides, 0, s.strides[i])
			s.shape = append(s.shape, r*x.Shape[i])
		}
		if _, err := c.alloc(0, x.DType, s.shape...); err != nil {
			return err
		}
		return c.copyStrided(v)
	}, n.inputs(2, 2)
}

// padding is a Pad at hand.
type padding struct {
	x, pads, axes  []int // shape of the input, and what the inputs say
	shape, before  []int // of the output, and what is padded before each axis
	strides        []int // of the input
	value          *Tensor
	mode           string
	rows, width, n int // rows and columns of the output; columns of the input
}

// preparePad: pads are attributes before opset 11 and inputs from then on, for
// the axes named since opset 18; negative pads cut.
func preparePad(n *node) (kernel, error) {
	mode := n.oneOf("mode", "constant", "constant", "reflect", "edge", "wrap")
	attrs := n.ints("pads")
	fill := n.float("value", 0)
	most := 1
	if n.opset >= 11 {
		most = 4
		if err := n.inputs(2, 4); err != nil {
			return nil, err
		}
	}
	bodies := byWidth{0: padStrings, 1: padElements[uint8], 2: padElements[uint16], 4: padElements[uint32], 8: padElements[uint64], 16: padElements[complex128]}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*padding)
		if !ok {
			s = &padding{mode: mode}
			c.state = s
		}
		pads := attrs
		var err error
		if c.has(1) {
			if s.pads, err = indices(s.pads[:0], c.in[1]); err != nil {
				return err
			}
			pads = s.pads
		}
		s.axes = s.axes[:0]
		if c.has(3) {
			if s.axes, err = indices(s.axes, c.in[3]); err != nil {
				return err
			}
		} else {
			for i := range x.Shape {
				s.axes = append(s.axes, i)
			}
		}
		if err := s.set(x.Shape, pads); err != nil {
			return err
		}
		y, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		if c.has(2) {
			if s.value = c.in[2]; s.value.Len() != 1 || s.value.DType != x.DType {
				return fmt.Errorf("constant_value is %v%v for an input of %v", s.value.DType, s.value.Shape, x.DType)
			}
		} else if s.value == nil || s.value.DType != x.DType {
			if s.value, err = newTensor(x.DType, []int{1}); err != nil {
				return err
			}
			if fill != 0 {
				if err := convert(s.value, FromSlice([]int{1}, []float32{fill}), castRules{}); err != nil {
					return err
				}
			}
		}
		c.parallel(s.rows, 1+elementGrain/s.width, bodies[elemSize(x.DType)])
		return nil
	}, errors.Join(n.inputs(1, most), n.err)
}

// set works out the geometry; a scalar is a row of one.
func (s *padding) set(x, pads []int) error {
	if len(pads) != 2*len(s.axes) {
		return fmt.Errorf("%d pads for %d axes", len(pads), len(s.axes))
	}
	s.x, s.shape = append(s.x[:0], x...), append(s.shape[:0], x...)
	s.before = append(s.before[:0], make([]int, len(x))...)
	for i, a := range s.axes {
		a, err := axis(a, len(x))
		if err != nil {
			return err
		}
		lo, hi := pads[i], pads[len(s.axes)+i]
		if max(lo, hi) > math.MaxInt32 || min(lo, hi) < -math.MaxInt32 {
			return fmt.Errorf("pads %v", pads)
		}
		if s.shape[a] != x[a] || s.before[a] != 0 {
			return fmt.Errorf("axes %v name one twice", s.axes)
		}
		s.before[a] = lo
		if s.shape[a] += lo + hi; s.shape[a] < 0 {
			return fmt.Errorf("pads %v cut more than an input of shape %v has", pads, x)
		}
		if s.mode != "constant" && x[a] == 0 && s.shape[a] > 0 {
			return fmt.Errorf("mode %s has nothing to repeat in shape %v", s.mode, x)
		}
	}
	s.strides = contiguous(s.strides, x)
	s.rows, s.width, s.n = 1, 1, 1
	if last := len(x) - 1; last >= 0 {
		s.width, s.n = s.shape[last], x[last]
		for _, d := range s.shape[:last] {
			s.rows *= d
		}
	}
	return nil
}

func padElements[T element](c *call, lo, hi int) {
	s := c.state.(*padding)
	padRows(s, cast[T](c.out[0].mem), cast[T](c.in[0].mem), cast[T](s.value.mem)[0], lo, hi)
}

func padStrings(c *call, lo, hi int) {
	s := c.state.(*padding)
	padRows(s, c.out[0].strs, c.in[0].strs, s.value.strs[0], lo, hi)
}

// padRows computes rows [lo, hi) of the output.
func padRows[T any](s *padding, z, x []T, value T, lo, hi int) {
	last := len(s.shape) - 1
	before := 0
	if last >= 0 {
		before = s.before[last]
	}
	for r := lo; r < hi; r++ {
		row := z[r*s.width : (r+1)*s.width]
		from, rest := 0, r
		for k := last - 1; k >= 0; k-- {
			i := padFrom(rest%s.shape[k]-s.before[k], s.x[k], s.mode)
			rest /= s.shape[k]
			if i < 0 {
				from = -1
				break
			}
			from += i * s.strides[k]
		}
		if from < 0 {
			for j := range row {
				row[j] = value
			}
			continue
		}
		in := x[from : from+s.n]
		// The input's columns lie in [c0, c1).
		c0 := min(max(before, 0), s.width)
		c1 := max(min(before+s.n, s.width), c0)
		if c0 < c1 {
			copy(row[c0:c1], in[c0-before:])
		}
		for j := 0; j < s.width; j++ {
			if j == c0 {
				if j = c1; j == s.width {
					break
				}
			}
			if i := padFrom(j-before, s.n, s.mode); i >= 0 {
				row[j] = in[i]
			} else {
				row[j] = value
			}
		}
	}
}

// padFrom maps index i of an axis of length d, which may lie outside, to the
// element that mode puts there, -1 for the constant.
func padFrom(i, d int, mode string) int {
	if i >= 0 && i < d {
		return i
	}
	switch mode {
	case "edge":
		return min(max(i, 0), d-1)
	case "wrap":
		return ((i % d) + d) % d
	case "reflect":
		if d == 1 {
			return 0
		}
		p := 2 * (d - 1)
		i = ((i % p) + p) % p
		return min(i, p-i)
	}
	return -1
}

// prepareDepthToSpace: x [N, C, H, W] → [N, C/b², H·b, W·b]. The channel of an
// element is (row in the block, column in the block, channel of the result) in
// mode DCR, (channel, row, column) in mode CRD.
func prepareDepthToSpace(n *node) (kernel, error) {
	b := n.int("blocksize", 0)
	crd := n.oneOf("mode", "DCR", "DCR", "CRD") == "CRD"
	if b < 1 || b > math.MaxInt32 {
		return nil, fmt.Errorf("blocksize = %d", b)
	}
	return func(c *call) error {
		x, s := c.in[0], c.moves()
		if len(x.Shape) != 4 || x.Shape[1]%(b*b) != 0 {
			return fmt.Errorf("input %v with blocksize %d: want [N, C·%[2]d·%[2]d, H, W]", x.Shape, b)
		}
		n, d, h, w := x.Shape[0], x.Shape[1]/(b*b), x.Shape[2], x.Shape[3]
		if _, err := c.alloc(0, x.DType, n, d, h*b, w*b); err != nil {
			return err
		}
		plane := h * w
		row, col, ch := b*d*plane, d*plane, plane
		if crd {
			ch, row, col = b*b*plane, b*plane, plane
		}
		s.view = strided{0, append(s.view.dims[:0], n, d, h, b, w, b), append(s.view.strides[:0], b*b*d*plane, ch, w, row, 1, col)}
		return c.copyStrided(&s.view)
	}, errors.Join(n.inputs(1, 1), n.err)
}

// prepareSpaceToDepth: x [N, C, H·b, W·b] → [N, C·b², H, W], the inverse of
// DepthToSpace in mode DCR.
func prepareSpaceToDepth(n *node) (kernel, error) {
	b := n.int("blocksize", 0)
	if b < 1 || b > math.MaxInt32 {
		return nil, fmt.Errorf("blocksize = %d", b)
	}
	return func(c *call) error {
		x, s := c.in[0], c.moves()
		if len(x.Shape) != 4 || x.Shape[2]%b != 0 || x.Shape[3]%b != 0 {
			return fmt.Errorf("input %v with blocksize %d: want [N, C, H·%[2]d, W·%[2]d]", x.Shape, b)
		}
		n, d, h, w := x.Shape[0], x.Shape[1], x.Shape[2], x.Shape[3]
		channels, err := count([]int{d, b, b})
		if err != nil {
			return err
		}
		if _, err := c.alloc(0, x.DType, n, channels, h/b, w/b); err != nil {
			return err
		}
		s.view = strided{0, append(s.view.dims[:0], n, b, b, d, h/b, w/b), append(s.view.strides[:0], d*h*w, w, 1, h*w, b*w, b)}
		return c.copyStrided(&s.view)
	}, errors.Join(n.inputs(1, 1), n.err)
}

// prepareCenterCropPad: the middle of the input in a shape of its own along the
// axes, zeros around it where that is longer. Where they cannot be halved, one
// more is cut off or added at the end.
func prepareCenterCropPad(n *node) (kernel, error) {
	axes, given := n.ints("axes"), n.isSet("axes")
	return func(c *call) error {
		x := c.in[0]
		list, err := c.converted(c.in[1], graph.Int64)
		if err != nil {
			return err
		}
		want, err := dimsOf(nil, list)
		if err != nil {
			return err
		}
		w := elemSize(x.DType)
		if w == 0 || x.DType == graph.String {
			return wrongType(x.DType)
		}
		r := len(x.Shape)
		along := axes
		if !given {
			along = nil
			for i := range r {
				along = append(along, i)
			}
		}
		if len(want) != len(along) {
			return fmt.Errorf("shape %v for %d axes", want, len(along))
		}
		shape := slices.Clone(x.Shape)
		for i, a := range along {
			if a, err = axis(a, r); err != nil {
				return err
			}
			shape[a] = want[i]
		}
		z, err := c.alloc(0, x.DType, shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		clear(z.mem)
		if r == 0 {
			copy(z.mem, x.mem)
			return nil
		}
		// Copy rows: from and to are where the common part begins.
		from, to, common := make([]int, r), make([]int, r), make([]int, r)
		rows := 1
		for i := range r {
			if common[i] = min(x.Shape[i], shape[i]); i < r-1 {
				rows *= common[i]
			}
			from[i], to[i] = max(x.Shape[i]-shape[i], 0)/2, max(shape[i]-x.Shape[i], 0)/2
		}
		for k := range rows {
			at, into, step, stride := from[r-1], to[r-1], x.Shape[r-1], shape[r-1]
			for i := r - 2; i >= 0; i-- {
				p := k % common[i]
				k /= common[i]
				at, into = at+(from[i]+p)*step, into+(to[i]+p)*stride
				step, stride = step*x.Shape[i], stride*shape[i]
			}
			copy(z.mem[into*w:][:common[r-1]*w], x.mem[at*w:])
		}
		return nil
	}, n.inputs(2, 2)
}
