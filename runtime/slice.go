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
	{"", "Slice", 1, prepareSliceAttrs, 0},
	{"", "Slice", 10, prepareSlice, 0},
	{"", "Split", 2, prepareSplit, 0},
	{"", "Tile", 6, prepareTile, 0},
	{"", "Pad", 2, preparePad, 0},
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

// copyStrided fills dst, row by row, with the elements of src that v reads.
// It joins v's dims.
func copyStrided(dst, src *Tensor, v *strided) error {
	v.join()
	if dst.Len() == 0 {
		return nil
	}
	if src.DType == graph.String {
		copyElements(dst.strs, src.strs, v)
		return nil
	}
	switch elemSize(src.DType) {
	case 1:
		copyElements(cast[uint8](dst.mem), cast[uint8](src.mem), v)
	case 2:
		copyElements(cast[uint16](dst.mem), cast[uint16](src.mem), v)
	case 4:
		copyElements(cast[uint32](dst.mem), cast[uint32](src.mem), v)
	case 8:
		copyElements(cast[uint64](dst.mem), cast[uint64](src.mem), v)
	case 16:
		copyElements(cast[complex128](dst.mem), cast[complex128](src.mem), v)
	default:
		return wrongType(src.DType)
	}
	return nil
}

func copyElements[T any](dst, src []T, v *strided) {
	rank := len(v.dims)
	if rank == 0 {
		dst[0] = src[v.offset]
		return
	}
	inner := v.dims[rank-1]
	var at [16]int
	idx := at[:0]
	if rank > len(at) {
		idx = make([]int, 0, rank)
	}
	idx = idx[:rank]
	pos, step := v.offset, v.strides[rank-1]
	for out := 0; ; out += inner {
		d := dst[out : out+inner]
		switch step {
		case 1:
			copy(d, src[pos:pos+inner])
		case 0:
			x := src[pos]
			for i := range d {
				d[i] = x
			}
		default:
			s := pos
			for i := range d {
				d[i] = src[s]
				s += step
			}
		}
		k := rank - 2
		for ; k >= 0; k-- {
			idx[k]++
			pos += v.strides[k]
			if idx[k] < v.dims[k] {
				break
			}
			pos -= v.strides[k] * v.dims[k]
			idx[k] = 0
		}
		if k < 0 {
			return
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
	y, err := c.alloc(0, x.DType, v.dims...)
	if err != nil {
		return err
	}
	return copyStrided(y, x, v)
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
		y, err := c.alloc(0, x.DType, s.shape...)
		if err != nil {
			return err
		}
		return copyStrided(y, x, v)
	}, n.inputs(2, 2)
}

// preparePad: pads are attributes before opset 11 and inputs from then on;
// negative pads cut.
func preparePad(n *node) (kernel, error) {
	mode := n.oneOf("mode", "constant", "constant", "reflect", "edge", "wrap")
	attrs := n.ints("pads")
	fill := n.float("value", 0)
	most := 1
	if n.opset >= 11 {
		most = 4
	}
	return func(c *call) error {
		x, s := c.in[0], c.moves()
		rank := len(x.Shape)
		pads := attrs
		var err error
		if c.has(1) {
			if s.starts, err = indices(s.starts[:0], c.in[1]); err != nil {
				return err
			}
			pads = s.starts
		}
		s.axes = s.axes[:0]
		if c.has(3) {
			if s.axes, err = indices(s.axes, c.in[3]); err != nil {
				return err
			}
		} else {
			for i := range rank {
				s.axes = append(s.axes, i)
			}
		}
		if len(pads) != 2*len(s.axes) {
			return fmt.Errorf("%d pads for %d axes", len(pads), len(s.axes))
		}
		before := make([]int, rank)
		s.shape = append(s.shape[:0], x.Shape...)
		for i, a := range s.axes {
			if a, err = axis(a, rank); err != nil {
				return err
			}
			lo, hi := pads[i], pads[len(s.axes)+i]
			if max(lo, hi) > math.MaxInt32 || min(lo, hi) < -math.MaxInt32 {
				return fmt.Errorf("pads %v", pads)
			}
			before[a] = lo
			if s.shape[a] += lo + hi; s.shape[a] < 0 {
				return fmt.Errorf("pads %v cut more than an input of shape %v has", pads, x.Shape)
			}
			if mode != "constant" && x.Shape[a] == 0 && s.shape[a] > 0 {
				return fmt.Errorf("mode %s has nothing to repeat in shape %v", mode, x.Shape)
			}
			if mode == "reflect" && max(lo, hi) >= x.Shape[a] && max(lo, hi) > 0 && x.Shape[a] > 0 && max(lo, hi) > x.Shape[a]-1 {
				return fmt.Errorf("pads %v reflect more than an input of shape %v has", pads, x.Shape)
			}
		}
		y, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		// from[a][i] is the input's index for output index i along axis a,
		// -1 where the constant goes.
		from := make([][]int, rank)
		for a := range rank {
			from[a] = make([]int, s.shape[a])
			for i := range from[a] {
				from[a][i] = padFrom(i-before[a], x.Shape[a], mode)
			}
		}
		value := &Tensor{DType: x.DType, Shape: []int{1}}
		if x.DType == graph.String {
			value.strs = []string{""}
		} else {
			value.mem = aligned(max(elemSize(x.DType), 1))
			if err := convert(value, FromSlice([]int{1}, []float32{fill}), castRules{}); err != nil && fill != 0 {
				return err
			}
		}
		if c.has(2) {
			if value = c.in[2]; value.Len() != 1 || value.DType != x.DType {
				return fmt.Errorf("constant_value is %v%v for an input of %v", value.DType, value.Shape, x.DType)
			}
		}
		s.strides = contiguous(s.strides, x.Shape)
		idx := make([]int, rank)
		for out := range y.Len() {
			pos := 0
			for a, i := range idx {
				if from[a][i] < 0 {
					pos = -1
					break
				}
				pos += from[a][i] * s.strides[a]
			}
			if pos < 0 {
				copyRuns(y, value, 1, 1, 1, out, 1, 0)
			} else {
				copyRuns(y, x, 1, 1, 1, out, 1, pos)
			}
			for a := rank - 1; a >= 0; a-- {
				if idx[a]++; idx[a] < s.shape[a] {
					break
				}
				idx[a] = 0
			}
		}
		return nil
	}, errors.Join(n.inputs(1, most), n.err)
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
