package graph

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Shape, layout, lookup, and tensors made from nothing.

// product multiplies dims.
func (c *call) product(dims []Dim) *expr {
	p := constant(1)
	for _, d := range dims {
		p = p.mul(c.expr(d))
	}
	return p
}

// inferReshape: 0 copies a dim (unless allowzero), one -1 takes what is left.
func inferReshape(c *call) error {
	elem := c.elem(0)
	shape, ok := c.content(1).list()
	if attr, given := c.ints("shape"); given && c.opset < 5 {
		ok = true
		for _, n := range attr {
			shape = append(shape, constant(n))
		}
	}
	in, inKnown := c.dims(0)
	if !ok {
		if t, known := c.dims(1); known && len(t) == 1 && t[0].IsKnown() && t[0].N <= maxRank {
			c.setRank(0, elem, int(t[0].N))
		} else {
			c.setElem(0, elem)
		}
		return nil
	}
	out := make([]Dim, len(shape))
	rest := constant(1) // product of all but the dim that is left open
	open, opens := -1, 0
	for i, s := range shape {
		v, number := s.value()
		switch {
		case number && v == -1 || s == nil:
			out[i] = UnknownDim
			open = i
			opens++
			continue
		case number && v == 0 && c.int("allowzero", 0) == 0:
			if out[i] = UnknownDim; inKnown {
				if i >= len(in) {
					return fmt.Errorf("shape %v copies dim %d of %v", shape, i, in)
				}
				out[i] = Dim{N: in[i].N, Sym: in[i].Sym}
			}
		case number && v < 0:
			return fmt.Errorf("shape %v has a negative dim", shape)
		default:
			out[i] = c.dim(s)
		}
		rest = rest.mul(c.expr(out[i]))
	}
	if inKnown {
		total := c.product(in)
		switch {
		case opens == 1:
			out[open] = c.dim(total.div(rest))
			n, a := total.value()
			m, b := rest.value()
			if a && b && (m == 0 && n != 0 || m != 0 && n%m != 0) {
				return fmt.Errorf("%d elements of %v do not fit the shape %v", n, in, shape)
			}
			if a && b && m == 0 {
				out[open] = Known(0)
			}
		case opens == 0:
			if same, known := total.equals(rest); known && !same {
				return fmt.Errorf("%v elements of %v do not fit the shape %v", total, in, shape)
			}
		}
	}
	c.set(0, elem, out)
	c.reshaped()
	return nil
}

func inferTranspose(c *call) error {
	dims, ok := c.dims(0)
	perm, given := c.ints("perm")
	if !ok {
		if given {
			c.setRank(0, c.elem(0), len(perm))
		} else {
			c.setElem(0, c.elem(0))
		}
		return nil
	}
	order := make([]int, len(dims))
	seen := make([]bool, len(dims))
	for i := range order {
		order[i] = len(dims) - 1 - i
		if given {
			if len(perm) != len(dims) || perm[i] < 0 || perm[i] >= int64(len(dims)) || seen[perm[i]] {
				return fmt.Errorf("perm %v of a tensor of rank %d", perm, len(dims))
			}
			order[i] = int(perm[i])
		}
		seen[order[i]] = true
	}
	out := make([]Dim, len(dims))
	for i, k := range order {
		out[i] = dims[k]
	}
	c.set(0, c.elem(0), out)
	if x := c.content(0); x != nil && len(x.dims) == len(order) {
		to := make([]int64, len(order))
		for i, k := range order {
			to[i] = x.dims[k]
		}
		c.give(0, x.pick(to, func(at, from []int64) {
			for i, k := range order {
				from[k] = at[i]
			}
		}))
	}
	return nil
}

func inferSqueeze(c *call) error {
	dims, ok := c.dims(0)
	axes, given, known := c.axes(13, 1)
	if !ok || !known {
		c.setElem(0, c.elem(0))
		return nil
	}
	set, err := c.axisSet(axes, len(dims))
	if err != nil {
		return err
	}
	var out []Dim
	for i, d := range dims {
		switch {
		case given && !set[i]:
			out = append(out, d)
		case given && d.IsKnown() && d.N != 1:
			return fmt.Errorf("axis %d of %v is not 1", i, dims)
		case !given && !d.IsKnown():
			c.setElem(0, c.elem(0)) // the rank depends on it
			return nil
		case !given && d.N != 1:
			out = append(out, d)
		}
	}
	c.set(0, c.elem(0), out)
	c.reshaped()
	return nil
}

func inferUnsqueeze(c *call) error {
	dims, ok := c.dims(0)
	axes, _, known := c.axes(13, 1)
	if !ok || !known {
		if a, n := c.dims(1); ok && c.opset >= 13 && n && len(a) == 1 && a[0].IsKnown() && a[0].N <= maxRank {
			c.setRank(0, c.elem(0), len(dims)+int(a[0].N))
		} else {
			c.setElem(0, c.elem(0))
		}
		return nil
	}
	set, err := c.axisSet(axes, len(dims)+len(axes))
	if err != nil {
		return err
	}
	var out []Dim
	next := 0
	for _, inserted := range set {
		switch {
		case inserted:
			out = append(out, Known(1))
		case next >= len(dims):
			return fmt.Errorf("axes %v name one twice", axes)
		default:
			out = append(out, dims[next])
			next++
		}
	}
	if next != len(dims) {
		return fmt.Errorf("axes %v name one twice", axes)
	}
	c.set(0, c.elem(0), out)
	c.reshaped()
	return nil
}

func inferFlatten(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setRank(0, c.elem(0), 2)
		return nil
	}
	axis := c.int("axis", 1)
	if axis != int64(len(dims)) {
		a, err := c.axisOf(axis, len(dims))
		if err != nil {
			return err
		}
		axis = int64(a)
	}
	c.set(0, c.elem(0), []Dim{c.dim(c.product(dims[:axis])), c.dim(c.product(dims[axis:]))})
	return nil
}

func inferConcat(c *call) error {
	n := len(c.n.inputs)
	elem := Undefined
	for i := range n {
		if elem == Undefined {
			elem = c.elem(i)
		}
	}
	var out []Dim
	axis := -1
	sum := constant(0)
	for i := range n {
		dims, ok := c.dims(i)
		if !ok {
			sum = nil
			continue
		}
		if axis < 0 {
			a, err := c.axisOf(c.int("axis", 1), len(dims))
			if err != nil {
				return err
			}
			axis, out = a, slices.Clone(dims)
		}
		if len(dims) != len(out) {
			return fmt.Errorf("inputs of rank %d and %d", len(out), len(dims))
		}
		for k, d := range dims {
			if k == axis {
				sum = sum.add(c.expr(d))
			} else if out[k], ok = c.unify(out[k], d); !ok {
				return fmt.Errorf("input %d is %v, others have %v at dim %d", i, dims, out[k], k)
			}
		}
	}
	if axis < 0 {
		c.setElem(0, elem)
		return nil
	}
	out[axis] = c.dim(sum)
	c.set(0, elem, out)
	if len(out) == 1 {
		var all []*expr
		for i := range n {
			x := c.content(i)
			dims, _ := c.dims(i)
			switch {
			case x != nil && len(x.dims) == 1:
				all = append(all, x.elems...)
			case len(dims) == 1 && dims[0].N >= 0 && dims[0].N <= maxContent:
				all = append(all, make([]*expr, dims[0].N)...)
			default:
				return nil
			}
			if len(all) > maxContent {
				return nil
			}
		}
		if slices.ContainsFunc(all, func(e *expr) bool { return e != nil }) {
			c.give(0, vector(all))
		}
	}
	return nil
}

func inferSplit(c *call) error {
	elem := c.elem(0)
	dims, ok := c.dims(0)
	if !ok {
		for i := range c.out {
			c.setElem(i, elem)
		}
		return nil
	}
	axis, err := c.axisOf(c.int("axis", 0), len(dims))
	if err != nil {
		return err
	}
	n := len(c.out)
	sizes := make([]*expr, n)
	if list, given := c.ints("split"); given && c.opset < 13 {
		if len(list) < n {
			return fmt.Errorf("%d outputs and %d sizes", n, len(list))
		}
		for i := range sizes {
			sizes[i] = constant(list[i])
		}
	} else if c.opset >= 13 && c.has(1) {
		list, _ := c.content(1).list()
		for i := range min(n, len(list)) {
			sizes[i] = list[i]
		}
	} else {
		whole := c.expr(dims[axis])
		parts := max(c.int("num_outputs", int64(n)), 1)
		if total, known := whole.value(); known {
			chunk := (total + parts - 1) / parts
			if c.opset < 18 && total%parts != 0 {
				return fmt.Errorf("dim %d of %v does not split into %d", axis, dims, parts)
			}
			for i := range sizes {
				sizes[i] = constant(max(min(chunk, total-int64(i)*chunk), 0))
			}
		} else {
			for i := range sizes {
				sizes[i] = whole.div(constant(parts))
			}
		}
	}
	x := c.content(0)
	start := int64(0)
	for i, s := range sizes {
		out := slices.Clone(dims)
		out[axis] = c.dim(s)
		if v, known := s.value(); known && v < 0 {
			return fmt.Errorf("size %d of output %d", v, i)
		}
		c.set(i, elem, out)
		length, known := s.value()
		if x != nil && len(x.dims) == 1 && known && start >= 0 && length <= int64(len(x.elems))-start {
			c.give(i, vector(x.elems[start:start+length]))
			start += length
		} else {
			start = -1
		}
	}
	return nil
}

// inferSlice: starts, ends, axes and steps are attributes before opset 10.
func inferSlice(c *call) error {
	elem := c.elem(0)
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, elem)
		return nil
	}
	var starts, ends, steps []*expr
	var axes []int64
	axesGiven, axesKnown := false, true
	startsKnown, endsKnown := true, true
	if c.opset < 10 {
		s, _ := c.ints("starts")
		e, _ := c.ints("ends")
		for _, v := range s {
			starts = append(starts, constant(v))
		}
		for _, v := range e {
			ends = append(ends, constant(v))
		}
		axes, axesGiven = c.ints("axes")
	} else {
		starts, startsKnown = c.content(1).list()
		ends, endsKnown = c.content(2).list()
		if axesGiven = c.has(3); axesGiven {
			axes, axesKnown = c.content(3).numbers()
		}
		if c.has(4) {
			steps, _ = c.content(4).list()
		}
	}
	count := max(len(starts), len(ends))
	if !startsKnown || !endsKnown {
		for _, i := range []int{1, 2} {
			if t, known := c.dims(i); known && len(t) == 1 && t[0].IsKnown() {
				count = int(min(t[0].N, maxRank))
			}
		}
		if count == 0 && axesGiven && axesKnown {
			count = len(axes)
		}
		if count == 0 {
			axesKnown = false
		}
	}
	if !axesKnown {
		c.setRank(0, elem, len(dims))
		return nil
	}
	if !axesGiven {
		for i := range count {
			axes = append(axes, int64(i))
		}
	}
	out := slices.Clone(dims)
	x := c.content(0)
	if x != nil && len(x.dims) != len(dims) {
		x = nil
	}
	from := make([]int64, len(dims)) // first position and step of every axis
	by := slices.Repeat([]int64{1}, len(dims))
	for i, a := range axes {
		axis, err := c.axisOf(a, len(dims))
		if err != nil {
			return err
		}
		var start, end *expr
		step := constant(1)
		if i < len(starts) {
			start = starts[i]
		}
		if i < len(ends) {
			end = ends[i]
		}
		if c.opset >= 10 && c.has(4) {
			step = nil
			if i < len(steps) {
				step = steps[i]
			}
		}
		if step.is(0) {
			return errors.New("a step is 0")
		}
		length, first := sliceLength(c.expr(dims[axis]), start, end, step)
		out[axis] = c.dim(length)
		s, known := step.value()
		if !known || first < 0 || !length.known() {
			x = nil
		}
		from[axis], by[axis] = first, s
	}
	c.set(0, elem, out)
	if to, known := staticDims(out); known && x != nil {
		c.give(0, x.pick(to, func(at, pos []int64) {
			for k := range pos {
				pos[k] = from[k] + at[k]*by[k]
			}
		}))
	}
	return nil
}

// known reports whether e is a number.
func (e *expr) known() bool {
	_, ok := e.value()
	return ok
}

// sliceLength is the number of elements of start:end:step of a dim, and the
// first of them, -1 where that is not known. Symbolic bounds are taken to lie
// within the dim.
func sliceLength(d, start, end, step *expr) (*expr, int64) {
	s, known := step.value()
	if !known || d == nil {
		return nil, -1
	}
	a, aKnown := start.value()
	b, bKnown := end.value()
	if n, static := d.value(); static && aKnown && bKnown {
		low, high := int64(0), n
		if s < 0 {
			low, high = -1, n-1
		}
		bound := func(v int64) int64 {
			if v < 0 {
				v += n
			}
			return min(max(v, low), high)
		}
		a, b = bound(a), bound(b)
		var count int64
		if s > 0 && b > a {
			count = (b-a-1)/s + 1
		} else if s < 0 && a > b {
			count = (a-b-1)/max(-s, 1) + 1
			if s == math.MinInt64 {
				count = 1
			}
		}
		return constant(count), a
	}
	const far = math.MaxInt32 // an end like 2^31-1 or 2^63-1 means all
	if s == -1 && (aKnown && (a == -1 || a >= far)) && bKnown && b <= -far {
		return d, -1
	}
	if s < 1 || start == nil || end == nil {
		return nil, -1
	}
	fromEnd := func(e *expr, v int64, known bool) *expr {
		switch {
		case known && v >= far:
			return d
		case known && v <= -far:
			return constant(0)
		case known && v < 0:
			return d.add(e)
		case !known && e.sign() < 0:
			if n := e.mul(constant(-1)); n.sign() >= 0 { // such as -seq
				return d.add(e)
			}
			if _, atMost := e.less(d); !atMost {
				return nil
			}
		}
		return e
	}
	length := fromEnd(end, b, bKnown).sub(fromEnd(start, a, aKnown))
	if n, known := length.value(); known && n < 0 {
		length = constant(0)
	}
	if s > 1 {
		length = length.add(constant(s - 1)).floorDiv(constant(s))
	}
	return length, -1
}

func inferExpand(c *call) error {
	elem := c.elem(0)
	dims, ok := c.dims(0)
	shape, known := c.content(1).list()
	if !known {
		if t, n := c.dims(1); ok && n && len(t) == 1 && t[0].IsKnown() && t[0].N <= maxRank {
			// A dim other than 1 stays; what becomes of 1 is not known.
			out := slices.Repeat([]Dim{UnknownDim}, max(int(t[0].N), len(dims)))
			for i, d := range dims {
				if d.IsKnown() && d.N != 1 {
					out[len(out)-len(dims)+i] = d
				}
			}
			c.set(0, elem, out)
		} else {
			c.setElem(0, elem)
		}
		return nil
	}
	to := make([]Dim, len(shape))
	for i, s := range shape {
		to[i] = c.dim(s)
	}
	if !ok {
		c.setElem(0, elem)
		return nil
	}
	out, err := c.broadcastDims(dims, to)
	if err != nil {
		return err
	}
	c.set(0, elem, out)
	if x := c.content(0); x != nil {
		if static, fits := staticDims(out); fits {
			if n, few := small(static); few && n > 0 {
				out := &content{dims: static, elems: make([]*expr, 0, n)}
				positions(static, func(at []int64) { out.elems = append(out.elems, x.at(at)) })
				c.give(0, out)
			}
		}
	}
	return nil
}

func inferTile(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	if c.opset < 6 {
		c.setRank(0, c.elem(0), len(dims))
		return nil
	}
	repeats, known := c.content(1).list()
	if known && len(repeats) != len(dims) {
		return fmt.Errorf("%d repeats of a tensor of rank %d", len(repeats), len(dims))
	}
	out := slices.Repeat([]Dim{UnknownDim}, len(dims))
	for i := range repeats {
		out[i] = c.dim(c.expr(dims[i]).mul(repeats[i]))
	}
	c.set(0, c.elem(0), out)
	return nil
}

// inferPad: pads are all begins, then all ends; an attribute before opset 11.
func inferPad(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	var pads []*expr
	known := true
	if c.opset < 11 {
		list, given := c.ints("pads")
		if !given {
			list, _ = c.ints("paddings")
		}
		for _, v := range list {
			pads = append(pads, constant(v))
		}
	} else {
		pads, known = c.content(1).list()
	}
	axes := make([]int64, len(dims))
	for i := range axes {
		axes[i] = int64(i)
	}
	if c.has(3) && c.opset >= 18 {
		var axesKnown bool
		axes, axesKnown = c.content(3).numbers()
		known = known && axesKnown
	}
	if !known {
		c.setRank(0, c.elem(0), len(dims))
		return nil
	}
	if len(pads) != 2*len(axes) {
		return fmt.Errorf("%d pads for %d axes", len(pads), len(axes))
	}
	out := slices.Clone(dims)
	for i, a := range axes {
		axis, err := c.axisOf(a, len(dims))
		if err != nil {
			return err
		}
		size := c.expr(dims[axis]).add(pads[i]).add(pads[i+len(axes)])
		if n, known := size.value(); known && n < 0 {
			return fmt.Errorf("pads leave dim %d of %v with %d", axis, dims, n)
		}
		out[axis] = c.dim(size)
	}
	c.set(0, c.elem(0), out)
	return nil
}

func inferShapeOf(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.set(0, Int64, []Dim{UnknownDim})
		return nil
	}
	bound := func(name string, def int64) int64 {
		v := c.int(name, def)
		if v < 0 {
			v += int64(len(dims))
		}
		return min(max(v, 0), int64(len(dims)))
	}
	start, end := bound("start", 0), bound("end", int64(len(dims)))
	dims = dims[start:max(start, end)]
	c.set(0, Int64, []Dim{Known(int64(len(dims)))})
	elems := make([]*expr, len(dims))
	for i, d := range dims {
		elems[i] = c.expr(d)
	}
	c.give(0, vector(elems))
	return nil
}

func inferSizeOf(c *call) error {
	c.set(0, Int64, nil)
	if dims, ok := c.dims(0); ok {
		c.give(0, scalar(c.product(dims)))
	}
	return nil
}

// blocks is [N, C, H, W] with C divided and H, W multiplied by the block
// size, or the other way round.
func (c *call) blocks(up bool) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setRank(0, c.elem(0), 4)
		return nil
	}
	b := c.int("blocksize", 0)
	square, fits := mulInt(b, b)
	if len(dims) != 4 || b < 1 || !fits {
		return fmt.Errorf("shape %v with a block size of %d", dims, b)
	}
	by := func(d Dim, n int64, multiply bool) Dim {
		if multiply {
			return c.dim(c.expr(d).mul(constant(n)))
		}
		return c.dim(c.expr(d).floorDiv(constant(n)))
	}
	c.set(0, c.elem(0), []Dim{dims[0], by(dims[1], square, !up), by(dims[2], b, up), by(dims[3], b, up)})
	return nil
}

func inferDepthToSpace(c *call) error { return c.blocks(true) }
func inferSpaceToDepth(c *call) error { return c.blocks(false) }

func inferCenterCropPad(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	axes, given := c.ints("axes")
	shape, known := c.content(1).list()
	out := slices.Clone(dims)
	for i := range out {
		axis := i
		if given {
			if i >= len(axes) {
				break
			}
			var err error
			if axis, err = c.axisOf(axes[i], len(dims)); err != nil {
				return err
			}
		}
		if out[axis] = UnknownDim; known && i < len(shape) {
			out[axis] = c.dim(shape[i])
		}
	}
	c.set(0, c.elem(0), out)
	return nil
}

func inferGather(c *call) error {
	elem := c.elem(0)
	dims, ok := c.dims(0)
	indices, known := c.dims(1)
	if !ok || !known {
		c.setElem(0, elem)
		return nil
	}
	axis, err := c.axisOf(c.int("axis", 0), len(dims))
	if err != nil {
		return err
	}
	c.set(0, elem, slices.Concat(dims[:axis], indices, dims[axis+1:]))
	x, at := c.content(0), c.content(1)
	if x == nil || at == nil || len(x.dims) != 1 {
		return nil
	}
	n := int64(len(x.elems))
	out := &content{dims: at.dims, elems: make([]*expr, len(at.elems))}
	for i, e := range at.elems {
		k, known := e.value()
		if !known {
			continue
		}
		if k < 0 {
			k += n
		}
		if k < 0 || k >= n {
			return fmt.Errorf("index %v of %d elements", e, n)
		}
		out.elems[i] = x.elems[k]
	}
	c.give(0, out)
	return nil
}

func inferGatherElements(c *call) error {
	c.like(0, 1, c.elem(0))
	return nil
}

// inferGatherND: indices.shape[:-1] + data.shape[batch_dims + indices.shape[-1]:].
func inferGatherND(c *call) error {
	dims, ok := c.dims(0)
	indices, known := c.dims(1)
	if !ok || !known || len(indices) == 0 || !indices[len(indices)-1].IsKnown() {
		c.setElem(0, c.elem(0))
		return nil
	}
	batch, k := c.int("batch_dims", 0), indices[len(indices)-1].N
	if batch < 0 || batch >= int64(len(indices)) || k < 0 || k > int64(len(dims))-batch {
		return fmt.Errorf("indices %v into %v with %d batch dims", indices, dims, batch)
	}
	c.set(0, c.elem(0), slices.Concat(indices[:len(indices)-1], dims[batch+k:]))
	return nil
}

func inferOneHot(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(2))
		return nil
	}
	axis, err := c.axisOf(c.int("axis", -1), len(dims)+1)
	if err != nil {
		return err
	}
	depth := UnknownDim
	if x := c.content(1); x != nil && len(x.elems) == 1 {
		depth = c.dim(x.elems[0])
	}
	c.set(0, c.elem(2), slices.Insert(slices.Clone(dims), axis, depth))
	return nil
}

func inferTopK(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		c.setElem(1, Int64)
		return nil
	}
	axis, err := c.axisOf(c.int("axis", -1), len(dims))
	if err != nil {
		return err
	}
	k := constant(c.int("k", -1))
	if c.opset >= 10 {
		k = nil
		if x := c.content(1); x != nil && len(x.elems) == 1 {
			k = x.elems[0]
		}
	}
	if n, known := k.value(); known && (n < 0 || dims[axis].IsKnown() && n > dims[axis].N) {
		return fmt.Errorf("the top %d of %v", n, dims[axis])
	}
	out := slices.Clone(dims)
	out[axis] = c.dim(k)
	c.set(0, c.elem(0), out)
	c.set(1, Int64, out)
	return nil
}

func inferNonZero(c *call) error {
	rank := UnknownDim
	if dims, ok := c.dims(0); ok && len(dims) > 0 {
		rank = Known(int64(len(dims)))
	}
	c.set(0, Int64, []Dim{rank, UnknownDim})
	return nil
}

func inferCompress(c *call) error {
	a := c.attr("axis")
	dims, ok := c.dims(0)
	switch {
	case a == nil:
		c.set(0, c.elem(0), []Dim{UnknownDim})
	case !ok:
		c.setElem(0, c.elem(0))
	default:
		axis, err := c.axisOf(a.I, len(dims))
		if err != nil {
			return err
		}
		out := slices.Clone(dims)
		out[axis] = UnknownDim
		c.set(0, c.elem(0), out)
	}
	return nil
}

func inferUnique(c *call) error {
	for i := 1; i < len(c.out); i++ {
		c.set(i, Int64, []Dim{UnknownDim})
	}
	return inferCompress(c)
}

func inferNonMaxSuppression(c *call) error {
	c.set(0, Int64, []Dim{UnknownDim, Known(3)})
	return nil
}

func inferConstantNode(c *call) error {
	vector := func(elem DType, n int) { c.set(0, elem, []Dim{Known(int64(n))}) }
	for _, name := range []string{"value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"} {
		a := c.attr(name)
		if a == nil {
			continue
		}
		t := a.T
		switch a.Type {
		case AttrSparse:
			if a.Sparse == nil || a.Sparse.Values == nil {
				return nil
			}
			t = &Tensor{DType: a.Sparse.Values.DType, Dims: a.Sparse.Dims}
			fallthrough
		case AttrTensor:
			if t == nil || len(t.Dims) > maxRank {
				return nil
			}
			dims := make([]Dim, len(t.Dims))
			for i, d := range t.Dims {
				if d < 0 {
					return fmt.Errorf("a tensor with dims %v", t.Dims)
				}
				dims[i] = Known(d)
			}
			c.set(0, t.DType, dims)
			if a.Type == AttrTensor {
				c.give(0, tensorContent(t))
			}
		case AttrFloat:
			c.set(0, Float32, nil)
			c.give(0, tensorContent(Float32Tensor(nil, []float32{a.F})))
		case AttrFloats:
			vector(Float32, len(a.Floats))
			if len(a.Floats) <= maxContent {
				c.give(0, tensorContent(Float32Tensor([]int64{int64(len(a.Floats))}, a.Floats)))
			}
		case AttrInt:
			c.set(0, Int64, nil)
			c.give(0, scalar(constant(a.I)))
		case AttrInts:
			vector(Int64, len(a.Ints))
			if len(a.Ints) <= maxContent {
				c.give(0, tensorContent(Int64Tensor([]int64{int64(len(a.Ints))}, a.Ints)))
			}
		case AttrString:
			c.set(0, String, nil)
		case AttrStrings:
			vector(String, len(a.Strings))
		}
		return nil
	}
	return nil
}

// inferConstantOfShape: the attribute value has one element, 0 as float if it is
// left out.
func inferConstantOfShape(c *call) error {
	elem, fill := Float32, constant(0)
	if a := c.attr("value"); a != nil && a.T != nil {
		elem, fill = a.T.DType, nil
		if x := tensorContent(a.T); x != nil && len(x.elems) == 1 {
			fill = x.elems[0]
		}
	}
	shape, ok := c.content(0).list()
	if !ok {
		if t, known := c.dims(0); known && len(t) == 1 && t[0].IsKnown() && t[0].N <= maxRank {
			c.setRank(0, elem, int(t[0].N))
		} else {
			c.setElem(0, elem)
		}
		return nil
	}
	dims := make([]Dim, len(shape))
	for i, s := range shape {
		if n, known := s.value(); known && n < 0 {
			return fmt.Errorf("a shape with the dim %d", n)
		}
		dims[i] = c.dim(s)
	}
	c.set(0, elem, dims)
	if static, known := staticDims(dims); known && fill != nil {
		if n, few := small(static); few {
			c.give(0, &content{dims: static, elems: slices.Repeat([]*expr{fill}, n)})
		}
	}
	return nil
}

// inferRangeOf: max(⌈(limit − start) / delta⌉, 0) elements.
func inferRangeOf(c *call) error {
	elem := c.elem(0)
	one := func(i int) *expr {
		if x := c.content(i); x != nil && len(x.elems) == 1 {
			return x.elems[0]
		}
		return nil
	}
	start, limit, delta := one(0), one(1), one(2)
	if delta.is(0) {
		return errors.New("delta is 0")
	}
	var n *expr
	if d, known := delta.value(); known {
		span := limit.sub(start)
		if d < 0 {
			span, d = span.mul(constant(-1)), -max(d, -math.MaxInt64)
		}
		if n = span; d != 1 {
			n = span.add(constant(d - 1)).floorDiv(constant(d))
		}
		if count, number := n.value(); number {
			n = constant(max(count, 0))
		}
	}
	c.set(0, elem, []Dim{c.dim(n)})
	if count, known := n.value(); known && count <= maxContent {
		elems := make([]*expr, count)
		for i := range elems {
			elems[i] = start.add(delta.mul(constant(int64(i))))
		}
		c.give(0, vector(elems))
	}
	return nil
}

func inferRandom(c *call) error {
	shape, _ := c.ints("shape")
	if len(shape) > maxRank {
		return nil
	}
	dims := make([]Dim, len(shape))
	for i, n := range shape {
		if n < 0 {
			return fmt.Errorf("a shape of %v", shape)
		}
		dims[i] = Known(n)
	}
	c.set(0, c.dtype("dtype", Float32), dims)
	return nil
}

func inferMultinomial(c *call) error {
	batch := UnknownDim
	if dims, ok := c.dims(0); ok && len(dims) == 2 {
		batch = dims[0]
	}
	n := UnknownDim
	if k := c.int("sample_size", 1); k >= 0 {
		n = Known(k)
	}
	c.set(0, c.dtype("dtype", Int32), []Dim{batch, n})
	return nil
}

func inferWindow(c *call) error {
	size := UnknownDim
	if x := c.content(0); x != nil && len(x.elems) == 1 {
		size = c.dim(x.elems[0])
	}
	c.set(0, c.dtype("output_datatype", Float32), []Dim{size})
	return nil
}

// inferMelWeightMatrix is [dft_length/2 + 1, num_mel_bins].
func inferMelWeightMatrix(c *call) error {
	out := []Dim{UnknownDim, UnknownDim}
	if bins, ok := c.content(0).number(); ok {
		out[1] = c.dim(constant(bins))
	}
	if n, ok := c.content(1).number(); ok {
		out[0] = c.dim(constant(n/2 + 1))
	}
	c.set(0, c.dtype("output_datatype", Float32), out)
	return nil
}
