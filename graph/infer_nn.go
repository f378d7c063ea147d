package graph

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Products.

// inferMatMul is numpy's matmul: a [..., m, k], b [..., k, n]; a vector counts as a
// row on the left and a column on the right, and its 1 is dropped again.
func inferMatMul(c *call) error { return c.product2(c.elem(0), 0, 1, false, false) }

func inferMatMulInteger(c *call) error { return c.product2(Int32, 0, 1, false, false) }

// inferMatMulIntegerToFloat: the type is that of the scales.
func inferMatMulIntegerToFloat(c *call) error { return c.product2(c.elem(2), 0, 1, false, false) }

func inferQLinearMatMul(c *call) error { return c.product2(c.elem(7), 0, 3, false, false) }

func inferFusedMatMul(c *call) error {
	if c.int("transBatchA", 0) != 0 || c.int("transBatchB", 0) != 0 {
		if dims, ok := c.dims(0); ok {
			c.setRank(0, c.elem(0), len(dims))
		}
		return nil
	}
	return c.product2(c.elem(0), 0, 1, c.int("transA", 0) != 0, c.int("transB", 0) != 0)
}

func (c *call) product2(elem DType, i, j int, transA, transB bool) error {
	a, okA := c.dims(i)
	b, okB := c.dims(j)
	if !okA || !okB {
		c.setElem(0, elem)
		return nil
	}
	if len(a) == 0 || len(b) == 0 {
		return fmt.Errorf("product of %v and %v", a, b)
	}
	row, column := len(a) == 1, len(b) == 1
	a, b = slices.Clone(a), slices.Clone(b)
	if row {
		a = []Dim{Known(1), a[0]}
	} else if n := len(a); transA {
		a[n-1], a[n-2] = a[n-2], a[n-1]
	}
	if column {
		b = []Dim{b[0], Known(1)}
	} else if n := len(b); transB {
		b[n-1], b[n-2] = b[n-2], b[n-1]
	}
	m, k := a[len(a)-2], a[len(a)-1]
	l, n := b[len(b)-2], b[len(b)-1]
	if _, ok := c.unify(k, l); !ok {
		return fmt.Errorf("product of %v and %v: inner dims %v and %v differ", a, b, k, l)
	}
	out, err := c.broadcastDims(a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return err
	}
	if !row {
		out = append(out, m)
	}
	if !column {
		out = append(out, n)
	}
	c.set(0, elem, out)
	return nil
}

func inferGemm(c *call) error {
	a, okA := c.dims(0)
	b, okB := c.dims(1)
	out := []Dim{UnknownDim, UnknownDim}
	k, l := UnknownDim, UnknownDim
	if okA {
		if len(a) != 2 {
			return fmt.Errorf("input A is %v, want two dims", a)
		}
		if out[0], k = a[0], a[1]; c.int("transA", 0) != 0 {
			out[0], k = a[1], a[0]
		}
	}
	if okB {
		if len(b) != 2 {
			return fmt.Errorf("input B is %v, want two dims", b)
		}
		if l, out[1] = b[0], b[1]; c.int("transB", 0) != 0 {
			l, out[1] = b[1], b[0]
		}
	}
	if _, ok := c.unify(k, l); !ok {
		return fmt.Errorf("product of %v and %v: inner dims %v and %v differ", a, b, k, l)
	}
	c.set(0, c.elem(0), out)
	return nil
}

// inferEinsum: the output has one dim for every letter behind the arrow; without
// an arrow, for every letter that occurs once, in alphabetical order. An
// ellipsis stands for the broadcast dims that are left.
func inferEinsum(c *call) error {
	equation := strings.ReplaceAll(c.str("equation", ""), " ", "")
	left, right, arrow := strings.Cut(equation, "->")
	terms := strings.Split(left, ",")
	elem := c.elem(0)
	if len(terms) != len(c.n.inputs) {
		return fmt.Errorf("equation %q with %d inputs", equation, len(c.n.inputs))
	}
	sizes := map[rune]Dim{}
	count := map[rune]int{}
	var ellipsis []Dim
	known := true
	for i, term := range terms {
		before, after, dots := strings.Cut(term, "...")
		for _, r := range before + after {
			count[r]++
		}
		dims, ok := c.dims(i)
		if !ok {
			known = known && !dots
			continue
		}
		letters := len(before) + len(after)
		if len(dims) < letters || !dots && len(dims) != letters {
			return fmt.Errorf("equation %q with %v as input %d", equation, dims, i)
		}
		middle := len(dims) - len(after)
		var err error
		if ellipsis, err = c.broadcastDims(ellipsis, dims[len(before):middle]); dots && err != nil {
			return err
		}
		for k, r := range before + after {
			d := dims[k]
			if k >= len(before) {
				d = dims[middle+k-len(before)]
			}
			if have, seen := sizes[r]; seen {
				var ok bool
				if d, ok = c.broadcastDim(have, d); !ok {
					return fmt.Errorf("equation %q with both %v and %v for %c", equation, have, dims, r)
				}
			}
			sizes[r] = d
		}
	}
	if !arrow {
		var once []rune
		for r, n := range count {
			if n == 1 {
				once = append(once, r)
			}
		}
		slices.Sort(once)
		right = string(once)
		if strings.Contains(left, "...") {
			right = "..." + right
		}
	}
	before, after, dots := strings.Cut(right, "...")
	if dots && !known {
		c.setElem(0, elem)
		return nil
	}
	var out []Dim
	letters := func(s string) {
		for _, r := range s {
			if d, ok := sizes[r]; ok {
				out = append(out, d)
			} else {
				out = append(out, UnknownDim)
			}
		}
	}
	letters(before)
	if dots {
		out = append(out, ellipsis...)
	}
	letters(after)
	c.set(0, elem, out)
	return nil
}

// inferCirculantMatMul: X [..., n], W [p, q, b], B [m] with m = out_features.
func inferCirculantMatMul(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	m := c.int("out_features", -1)
	if okW {
		if len(w) != 3 {
			return fmt.Errorf("input W is %v, want [p, q, b]", w)
		}
		rows, known := c.expr(w[0]).mul(c.expr(w[2])).value()
		if known && (m > rows || m < 0) {
			return fmt.Errorf("out_features is %d with W %v, want 0 to %d", m, w, rows)
		}
	}
	if !okX {
		c.setElem(0, c.elem(0))
		return nil
	}
	if len(x) == 0 {
		return fmt.Errorf("input X is a scalar")
	}
	if okW {
		columns, known := c.expr(w[1]).mul(c.expr(w[2])).value()
		if n := x[len(x)-1]; known && n.IsKnown() && n.N > columns {
			return fmt.Errorf("input X is %v with W %v, want at most %d as its last dim", x, w, columns)
		}
	}
	out := slices.Clone(x)
	out[len(out)-1] = c.dim(constant(m))
	c.set(0, c.elem(0), out)
	return nil
}

// inferMatMulNBits: A [..., K], the weight is [N, K] packed.
func inferMatMulNBits(c *call) error {
	dims, ok := c.dims(0)
	if !ok || len(dims) == 0 {
		c.setElem(0, c.elem(0))
		return nil
	}
	out := slices.Clone(dims)
	out[len(out)-1] = c.dim(constant(c.int("N", -1)))
	c.set(0, c.elem(0), out)
	return nil
}

// inferDet is a [..., n, n] tensor's determinant.
func inferDet(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	if len(dims) < 2 {
		return fmt.Errorf("determinant of %v", dims)
	}
	c.set(0, c.elem(0), dims[:len(dims)-2])
	return nil
}

// Convolution and pooling.

// sliding is a window that slides over the spatial dims.
type sliding struct {
	kernel, strides, dilations, pads []*expr // pads: all begins, then all ends
	auto                             string
	ceil                             bool
}

// slidingOf reads the attributes for n spatial dims; kernel is what the
// weights say, for where the attribute is left out.
func (c *call) slidingOf(n int, kernel []Dim) (*sliding, error) {
	w := &sliding{auto: c.str("auto_pad", "NOTSET"), ceil: c.int("ceil_mode", 0) != 0}
	read := func(name string, count int, def, least int64) ([]*expr, error) {
		list, given := c.ints(name)
		if !given || len(list) == 0 {
			return slices.Repeat([]*expr{constant(def)}, count), nil
		}
		if len(list) != count {
			return nil, fmt.Errorf("%s is %v for %d spatial dims", name, list, n)
		}
		out := make([]*expr, count)
		for i, v := range list {
			if v < least || v > math.MaxInt32 {
				return nil, fmt.Errorf("%s is %v", name, list)
			}
			out[i] = constant(v)
		}
		return out, nil
	}
	var err error
	if w.strides, err = read("strides", n, 1, 1); err != nil {
		return nil, err
	}
	if w.dilations, err = read("dilations", n, 1, 1); err != nil {
		return nil, err
	}
	if w.pads, err = read("pads", 2*n, 0, math.MinInt32); err != nil {
		return nil, err
	}
	if list, given := c.ints("kernel_shape"); given && len(list) > 0 {
		if w.kernel, err = read("kernel_shape", n, 1, 1); err != nil {
			return nil, err
		}
		for i, d := range kernel {
			if d.IsKnown() && d.N != list[i] {
				return nil, fmt.Errorf("kernel_shape is %v and the kernel %v", list, kernel)
			}
		}
		return w, nil
	}
	if len(kernel) != n {
		return nil, fmt.Errorf("kernel_shape is missing")
	}
	for _, d := range kernel {
		w.kernel = append(w.kernel, c.expr(d))
	}
	return w, nil
}

// extent is the number of inputs that kernel dim i spans: (k−1)·dilation + 1.
func (w *sliding) extent(i int) *expr {
	return w.kernel[i].sub(constant(1)).mul(w.dilations[i]).add(constant(1))
}

// out is the size of spatial dim i for an input of size d:
// ⌊(d + pads − extent) / stride⌋ + 1.
func (w *sliding) out(i int, d *expr) (*expr, error) {
	n := len(w.kernel)
	s := w.strides[i]
	switch w.auto {
	case "SAME_UPPER", "SAME_LOWER":
		return d.add(s).sub(constant(1)).floorDiv(s), nil
	}
	padded := d
	if w.auto != "VALID" {
		padded = d.add(w.pads[i]).add(w.pads[n+i])
	}
	span := padded.sub(w.extent(i)) // of the first input of a window
	if v, known := span.value(); known && v < 0 {
		return nil, fmt.Errorf("spatial dim %d of size %v is smaller than the window of %v", i, padded, w.extent(i))
	}
	if !w.ceil {
		return span.add(s).floorDiv(s), nil
	}
	size := span.add(s).add(s).sub(constant(1)).floorDiv(s)
	// The last window has to begin inside of the input or its first padding.
	if last, known := size.sub(constant(1)).mul(s).value(); known {
		if inside, ok := d.add(w.pads[i]).value(); ok && last >= inside {
			size = size.sub(constant(1))
		}
	}
	return size, nil
}

// outs applies out to the spatial dims of an input [N, C, spatial...] and
// puts batch and channels before them.
func (c *call) outs(w *sliding, batch, channels Dim, spatial []Dim) ([]Dim, error) {
	dims := []Dim{batch, channels}
	for i, d := range spatial {
		size, err := w.out(i, c.expr(d))
		if err != nil {
			return nil, err
		}
		dims = append(dims, c.dim(size))
	}
	return dims, nil
}

// inferConv: X [N, C, d...], W [M, C/group, k...] → [N, M, ...].
func inferConv(c *call) error { return c.convolve(c.elem(0), 0, 1) }

func inferConvInteger(c *call) error { return c.convolve(Int32, 0, 1) }

func inferQLinearConv(c *call) error { return c.convolve(c.elem(7), 0, 3) }

func inferDeformConv(c *call) error { return c.convolve(c.elem(0), 0, 1) }

func (c *call) convolve(elem DType, xi, wi int) error {
	x, okX := c.dims(xi)
	w, okW := c.dims(wi)
	switch {
	case !okX && !okW:
		c.setElem(0, elem)
		return nil
	case okX && len(x) < 2 || okW && len(w) < 2 || okX && okW && len(x) != len(w):
		return fmt.Errorf("input %v with weights %v", x, w)
	case !okX:
		out := slices.Repeat([]Dim{UnknownDim}, len(w))
		out[1] = w[0]
		c.set(0, elem, out)
		return nil
	case !okW:
		kernel, _ := c.ints("kernel_shape")
		if len(kernel) != len(x)-2 {
			c.setRank(0, elem, len(x))
			return nil
		}
		w = []Dim{UnknownDim, UnknownDim}
		for _, k := range kernel {
			w = append(w, Known(max(k, 0)))
		}
	}
	group := c.int("group", 1)
	channels, fits := mulInt(w[1].N, group)
	if group < 1 || w[1].IsKnown() && x[1].IsKnown() && (!fits || channels != x[1].N) || w[0].IsKnown() && w[0].N%group != 0 {
		return fmt.Errorf("input %v with weights %v in %d groups", x, w, group)
	}
	win, err := c.slidingOf(len(x)-2, w[2:])
	if err != nil {
		return err
	}
	out, err := c.outs(win, x[0], w[0], x[2:])
	if err != nil {
		return err
	}
	c.set(0, elem, out)
	return nil
}

// inferCirculantConv: X [N, C, d...], W [p, q, b, k...] → [N, out_channels, ...].
func inferCirculantConv(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	if !okX {
		c.setElem(0, c.elem(0))
		return nil
	}
	if !okW {
		c.setRank(0, c.elem(0), len(x))
		return nil
	}
	if len(x) < 2 || len(w) != len(x)+1 {
		return fmt.Errorf("input %v with weights %v, want [p, q, b, kernel...]", x, w)
	}
	m, group := c.int("out_channels", -1), c.int("group", 1)
	if group < 1 || m%group != 0 || w[0].IsKnown() && w[0].N%group != 0 {
		return fmt.Errorf("out_channels is %d with weights %v in %d groups, want as many in each", m, w, group)
	}
	if rows, known := c.expr(w[0]).mul(c.expr(w[2])).value(); known && (m < 0 || m > rows) {
		return fmt.Errorf("out_channels is %d with weights %v, want 0 to %d", m, w, rows)
	}
	if columns, known := c.expr(w[1]).mul(c.expr(w[2])).mul(constant(group)).value(); known && x[1].IsKnown() &&
		(x[1].N > columns || x[1].N%group != 0) {
		return fmt.Errorf("input %v with weights %v in %d groups, want at most %d channels, as many in each", x, w, group, columns)
	}
	win, err := c.slidingOf(len(x)-2, w[3:])
	if err != nil {
		return err
	}
	out, err := c.outs(win, x[0], c.dim(constant(m)), x[2:])
	if err != nil {
		return err
	}
	c.set(0, c.elem(0), out)
	return nil
}

// inferConvTranspose: X [N, C, d...], W [C, M/group, k...]; a spatial dim becomes
// stride·(d−1) + output_padding + extent − pads.
func inferConvTranspose(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	if !okX {
		c.setElem(0, c.elem(0))
		return nil
	}
	if !okW {
		c.setRank(0, c.elem(0), len(x))
		return nil
	}
	if len(x) < 2 || len(w) != len(x) {
		return fmt.Errorf("input %v with weights %v", x, w)
	}
	if _, ok := c.unify(x[1], w[0]); !ok {
		return fmt.Errorf("input %v with weights %v", x, w)
	}
	n := len(x) - 2
	win, err := c.slidingOf(n, w[2:])
	if err != nil {
		return err
	}
	extra, _ := c.ints("output_padding")
	shape, given := c.ints("output_shape")
	if given && len(shape) == n+2 {
		shape = shape[2:]
	}
	if len(extra) != 0 && len(extra) != n || given && len(shape) != n {
		return fmt.Errorf("output_padding %v, output_shape %v for %d spatial dims", extra, shape, n)
	}
	out := []Dim{x[0], c.dim(c.expr(w[1]).mul(constant(c.int("group", 1))))}
	for i, d := range x[2:] {
		if given {
			if shape[i] < 0 {
				return fmt.Errorf("output_shape %v", shape)
			}
			out = append(out, Known(shape[i]))
			continue
		}
		size := c.expr(d).sub(constant(1)).mul(win.strides[i]).add(win.extent(i))
		if len(extra) > 0 {
			size = size.add(constant(extra[i]))
		}
		switch win.auto {
		case "SAME_UPPER", "SAME_LOWER":
			size = c.expr(d).mul(win.strides[i])
		case "NOTSET", "":
			size = size.sub(win.pads[i]).sub(win.pads[n+i])
		}
		out = append(out, c.dim(size))
	}
	c.set(0, c.elem(0), out)
	return nil
}

func inferPool(c *call) error {
	x, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		c.setElem(1, Int64)
		return nil
	}
	if len(x) < 2 {
		return fmt.Errorf("input %v", x)
	}
	win, err := c.slidingOf(len(x)-2, nil)
	if err != nil {
		return err
	}
	out, err := c.outs(win, x[0], x[1], x[2:])
	if err != nil {
		return err
	}
	c.set(0, c.elem(0), out)
	c.set(1, Int64, out)
	return nil
}

// inferMaxUnpool: the spatial dims are output_shape's, or the least that the
// pool before can have had: stride·(d−1) + kernel − pads.
func inferMaxUnpool(c *call) error {
	x, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	if len(x) < 2 {
		return fmt.Errorf("input %v", x)
	}
	out := slices.Clone(x)
	if c.has(2) {
		sizes, known := c.content(2).list()
		for i := range out {
			if out[i] = UnknownDim; known && len(sizes) == len(out) {
				out[i] = c.dim(sizes[i])
			}
		}
		c.set(0, c.elem(0), out)
		return nil
	}
	n := len(x) - 2
	w, err := c.slidingOf(n, nil)
	if err != nil {
		return err
	}
	for i, d := range x[2:] {
		out[2+i] = c.dim(c.expr(d).sub(constant(1)).mul(w.strides[i]).add(w.kernel[i]).sub(w.pads[i]).sub(w.pads[n+i]))
	}
	c.set(0, c.elem(0), out)
	return nil
}

func inferGlobalPool(c *call) error {
	x, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	out := slices.Clone(x)
	for i := 2; i < len(out); i++ {
		out[i] = Known(1)
	}
	c.set(0, c.elem(0), out)
	return nil
}

// rois is [rois, C, h, w] of pooled regions.
func (c *call) rois(h, w int64) error {
	out := slices.Repeat([]Dim{UnknownDim}, 4)
	if r, ok := c.dims(1); ok && len(r) == 2 {
		out[0] = r[0]
	}
	if x, ok := c.dims(0); ok && len(x) == 4 {
		out[1] = x[1]
	}
	out[2], out[3] = c.dim(constant(h)), c.dim(constant(w))
	c.set(0, c.elem(0), out)
	return nil
}

func inferMaxRoiPool(c *call) error {
	if shape, ok := c.ints("pooled_shape"); ok && len(shape) == 2 {
		return c.rois(shape[0], shape[1])
	}
	return nil
}

func inferRoiAlign(c *call) error { return c.rois(c.int("output_height", 1), c.int("output_width", 1)) }

// inferResize: the output is ⌊d · scale⌋, or what sizes says. Scales are an
// attribute in Upsample-7, input 1 up to opset 10, then input 2.
func inferResize(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	axes := make([]int, len(dims))
	for i := range axes {
		axes[i] = i
	}
	if list, given := c.ints("axes"); given && c.opset >= 18 {
		axes = axes[:0]
		for _, a := range list {
			axis, err := c.axisOf(a, len(dims))
			if err != nil {
				return err
			}
			axes = append(axes, axis)
		}
	}
	out := slices.Clone(dims)
	for _, a := range axes {
		out[a] = UnknownDim
	}
	at := 2
	if c.opset < 11 {
		at = 1
	}
	var scales []float64
	if a := c.attr("scales"); a != nil && a.Type == AttrFloats && c.opset < 9 {
		for _, f := range a.Floats {
			scales = append(scales, float64(f))
		}
	} else if t := c.n.Input(at).ConstTensor(); t != nil && t.Len() <= maxRank && t.check() == nil {
		scales, _ = t.float64s()
	}
	switch sizes, known := c.content(3).list(); {
	case c.has(3):
		if known && len(sizes) == len(axes) && c.str("keep_aspect_ratio_policy", "stretch") == "stretch" {
			for i, a := range axes {
				out[a] = c.dim(sizes[i])
			}
		}
	case len(scales) == len(axes):
		for i, a := range axes {
			// The scale is a float; so is the product.
			if d := dims[a]; d.IsKnown() {
				if size := math.Floor(float64(float32(scales[i]) * float32(d.N))); size >= 0 && size < math.MaxInt32 {
					out[a] = Known(int64(size))
				}
			} else if whole := math.Trunc(scales[i]); whole == scales[i] && whole > 0 && whole < math.MaxInt32 {
				out[a] = c.dim(c.expr(d).mul(constant(int64(whole))))
			}
		}
	case len(scales) > 0:
		return fmt.Errorf("%d scales for %d axes", len(scales), len(axes))
	}
	c.set(0, c.elem(0), out)
	return nil
}

// inferGridSample: X [N, C, d...], grid [N, e..., rank] → [N, C, e...].
func inferGridSample(c *call) error {
	x, okX := c.dims(0)
	grid, okG := c.dims(1)
	if !okX || !okG || len(x) < 2 || len(grid) != len(x) {
		c.setElem(0, c.elem(0))
		return nil
	}
	c.set(0, c.elem(0), slices.Concat(x[:2], grid[1:len(grid)-1]))
	return nil
}

// inferAffineGrid: size [N, C, d...] → [N, d..., rank].
func inferAffineGrid(c *call) error {
	size, ok := c.content(1).list()
	if !ok || len(size) < 4 {
		// theta [N, r, r + 1] tells how many dims there are.
		c.setElem(0, c.elem(0))
		if t, ok := c.dims(0); ok && len(t) == 3 && t[1].IsKnown() && (t[1].N == 2 || t[1].N == 3) {
			out := slices.Repeat([]Dim{UnknownDim}, int(t[1].N)+2)
			out[0], out[len(out)-1] = t[0], t[1]
			c.set(0, c.elem(0), out)
		}
		return nil
	}
	out := []Dim{c.dim(size[0])}
	for _, s := range size[2:] {
		out = append(out, c.dim(s))
	}
	c.set(0, c.elem(0), append(out, Known(int64(len(size)-2))))
	return nil
}

// inferCol2Im: input [N, C·∏block, L] → [N, C, image...].
func inferCol2Im(c *call) error {
	x, ok := c.dims(0)
	image, known := c.content(1).list()
	block, blockKnown := c.content(2).numbers()
	if !ok || !known || !blockKnown || len(x) != 3 {
		c.setElem(0, c.elem(0))
		if n, ok := c.dims(1); ok && len(n) == 1 && n[0].IsKnown() && n[0].N > 0 && n[0].N < 64 {
			c.setRank(0, c.elem(0), int(n[0].N)+2)
		}
		return nil
	}
	channels := c.expr(x[1])
	for _, b := range block {
		channels = channels.div(constant(b))
	}
	out := []Dim{x[0], c.dim(channels)}
	for _, s := range image {
		out = append(out, c.dim(s))
	}
	c.set(0, c.elem(0), out)
	return nil
}

// Signals.

// inferDft: input [batch, d..., 1 or 2] → the same with dft_length on the axis
// (⌊n/2⌋ + 1 if onesided) and 2 (real and imaginary) last.
func inferDft(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, c.elem(0))
		return nil
	}
	axis, known := c.int("axis", 1), true
	if c.opset >= 20 {
		if axis = -2; c.has(2) {
			axis, known = c.content(2).number()
		}
	}
	if !known {
		c.setRank(0, c.elem(0), len(dims))
		return nil
	}
	a, err := c.axisOf(axis, len(dims))
	if err != nil {
		return err
	}
	n := c.expr(dims[a])
	if c.has(1) {
		if n = nil; c.content(1) != nil && len(c.content(1).elems) == 1 {
			n = c.content(1).elems[0]
		}
	}
	out := slices.Clone(dims)
	onesided, inverse := c.int("onesided", 0) != 0, c.int("inverse", 0) != 0
	last := int64(2)
	switch {
	case onesided && inverse: // half a spectrum back to real numbers
		if last = 1; !c.has(1) {
			n = n.sub(constant(1)).mul(constant(2))
		}
	case onesided:
		n = n.floorDiv(constant(2)).add(constant(1))
	}
	out[a] = c.dim(n)
	out[len(out)-1] = Known(last)
	c.set(0, c.elem(0), out)
	return nil
}

// inferStft: signal [batch, length, 1 or 2] → [batch, frames, bins, 2] with
// frames = ⌊(length − frame_length) / step⌋ + 1.
func inferStft(c *call) error {
	out := []Dim{UnknownDim, UnknownDim, UnknownDim, Known(2)}
	signal, ok := c.dims(0)
	if ok && len(signal) > 1 {
		out[0] = signal[0]
	}
	var length *expr
	if n, known := c.content(3).number(); known {
		length = constant(n)
	} else if w, known := c.dims(2); known && len(w) == 1 && !c.has(3) {
		length = c.expr(w[0])
	}
	step, known := c.content(1).number()
	if ok && len(signal) > 1 && known && step > 0 {
		out[1] = c.dim(c.expr(signal[1]).sub(length).add(constant(step)).floorDiv(constant(step)))
	}
	if out[2] = c.dim(length); c.int("onesided", 1) != 0 {
		out[2] = c.dim(length.floorDiv(constant(2)).add(constant(1)))
	}
	c.set(0, c.elem(0), out)
	return nil
}

// Recurrent networks.

// inferRecurrent: X [T, N, I] → Y [T, directions, N, H], Y_h and Y_c
// [directions, N, H]; with layout 1 the batch comes first.
func inferRecurrent(c *call) error {
	steps, batch, hidden := UnknownDim, UnknownDim, UnknownDim
	layout := c.int("layout", 0)
	if x, ok := c.dims(0); ok {
		if len(x) != 3 {
			return fmt.Errorf("input X is %v, want three dims", x)
		}
		if steps, batch = x[0], x[1]; layout == 1 {
			steps, batch = batch, steps
		}
	}
	directions := Known(1)
	if c.str("direction", "forward") == "bidirectional" {
		directions = Known(2)
	}
	if r, ok := c.dims(2); ok && len(r) == 3 {
		hidden = r[2]
	}
	if h := c.int("hidden_size", -1); h >= 0 {
		var ok bool
		if hidden, ok = c.unify(Known(h), hidden); !ok {
			return fmt.Errorf("hidden_size is %d and R says %v", h, hidden)
		}
	}
	y, last := []Dim{steps, directions, batch, hidden}, []Dim{directions, batch, hidden}
	if layout == 1 {
		y, last = []Dim{batch, steps, directions, hidden}, []Dim{batch, directions, hidden}
	}
	c.set(0, c.elem(0), y)
	c.set(1, c.elem(0), last)
	c.set(2, c.elem(0), last)
	return nil
}

// Attention.

// inferAttention is ONNX's, from opset 23: Q [B, Hq, S, D] or [B, S, Hq·D], K and
// V likewise; Y like Q with V's head size, present_key and present_value
// [B, Hkv, past + S_kv, D].
func inferAttention(c *call) error {
	q, okQ := c.dims(0)
	k, okK := c.dims(1)
	v, okV := c.dims(2)
	if !okQ || !okK || !okV {
		c.setElem(0, c.elem(0))
		c.setElem(1, c.elem(1))
		c.setElem(2, c.elem(2))
		return nil
	}
	if len(q) != len(k) || len(k) != len(v) || len(q) != 3 && len(q) != 4 {
		return fmt.Errorf("inputs Q %v, K %v, V %v, want three or four dims", q, k, v)
	}
	heads := func(x []Dim, attr string) ([]Dim, error) {
		if len(x) == 4 {
			return x, nil
		}
		n := c.int(attr, 0)
		if n < 1 {
			return nil, fmt.Errorf("%s is missing", attr)
		}
		return []Dim{x[0], Known(n), x[1], c.dim(c.expr(x[2]).div(constant(n)))}, nil
	}
	q4, err := heads(q, "q_num_heads")
	if err != nil {
		return err
	}
	k4, err := heads(k, "kv_num_heads")
	if err != nil {
		return err
	}
	v4, err := heads(v, "kv_num_heads")
	if err != nil {
		return err
	}
	if len(q) == 4 {
		c.set(0, c.elem(0), []Dim{q[0], q[1], q[2], v[3]})
	} else {
		c.set(0, c.elem(0), []Dim{q[0], q[1], c.dim(c.expr(q4[1]).mul(c.expr(v4[3])))})
	}
	total := c.expr(k4[2])
	if c.has(4) {
		if past, ok := c.dims(4); ok && len(past) == 4 {
			total = total.add(c.expr(past[2]))
		} else {
			total = nil
		}
	}
	c.set(1, c.elem(1), []Dim{k4[0], k4[1], c.dim(total), k4[3]})
	c.set(2, c.elem(2), []Dim{v4[0], v4[1], c.dim(total), v4[3]})
	c.set(3, c.elem(0), []Dim{q4[0], q4[1], q4[2], c.dim(total)})
	return nil
}

// inferLinearAttention: query [B, T, H·d], value [B, T, KV·e] → [B, T, H·e], the
// state [B, KV, d, e] of the type of the past one.
func inferLinearAttention(c *call) error {
	q, okQ := c.dims(0)
	v, okV := c.dims(2)
	h, kv := c.int("q_num_heads", 0), c.int("kv_num_heads", 0)
	state := c.elem(0)
	if c.has(3) {
		state = c.elem(3)
	}
	if !okQ || !okV || len(q) != 3 || len(v) != 3 || h < 1 || kv < 1 {
		c.setRank(0, c.elem(0), 3)
		c.setRank(1, state, 4)
		return nil
	}
	e := c.expr(v[2]).div(constant(kv))
	c.set(0, c.elem(0), []Dim{q[0], q[1], c.dim(e.mul(constant(h)))})
	c.set(1, state, []Dim{q[0], Known(kv), c.dim(c.expr(q[2]).div(constant(h))), c.dim(e)})
	return nil
}

// inferCausalConv: input [B, C, L], weight [C, 1, K] → [B, C, L], [B, C, K−1].
func inferCausalConv(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	if !okX || !okW || len(x) != 3 || len(w) != 3 {
		c.setRank(0, c.elem(0), 3)
		c.setRank(1, c.elem(0), 3)
		return nil
	}
	c.set(0, c.elem(0), x)
	c.set(1, c.elem(0), []Dim{x[0], x[1], c.dim(c.expr(w[2]).add(constant(-1)))})
	return nil
}

// inferFusedAttention: input [B, S, I], weights [I, 3H] → [B, S, H'], present
// [2, B, heads, past + S, H/heads]; H' is the last of qkv_hidden_sizes.
func inferFusedAttention(c *call) error { return c.selfAttention(c.elem(0), 4) }

// inferQAttention is that with quantized input and weights.
func inferQAttention(c *call) error { return c.selfAttention(c.elem(2), 8) }

func (c *call) selfAttention(elem DType, past int) error {
	x, ok := c.dims(0)
	w, okW := c.dims(1)
	hidden, key := UnknownDim, UnknownDim
	if sizes, given := c.ints("qkv_hidden_sizes"); given && len(sizes) == 3 {
		hidden, key = c.dim(constant(sizes[2])), c.dim(constant(sizes[1]))
	} else if okW && len(w) == 2 {
		hidden = c.dim(c.expr(w[1]).div(constant(3)))
		key = hidden
	}
	out, present := slices.Repeat([]Dim{UnknownDim}, 3), []Dim{Known(2), UnknownDim, UnknownDim, UnknownDim, UnknownDim}
	heads := max(c.int("num_heads", 1), 1)
	present[2], present[4] = Known(heads), c.dim(c.expr(key).div(constant(heads)))
	if out[2] = hidden; ok {
		if len(x) != 3 {
			return fmt.Errorf("input %v, want three dims", x)
		}
		out[0], out[1] = x[0], x[1]
		present[1] = x[0]
		if total := c.expr(x[1]); c.has(past) {
			if p, known := c.dims(past); known && len(p) == 5 {
				present[3] = c.dim(total.add(c.expr(p[3])))
			}
		} else {
			present[3] = x[1]
		}
	}
	c.set(0, elem, out)
	c.set(1, elem, present)
	return nil
}

// inferMultiHeadAttention: query [B, S, D], or [B, S, heads, 3, D/heads] with all
// three packed; value [B, L, D'] or [B, heads, L, D'/heads] → [B, S, D'].
func inferMultiHeadAttention(c *call) error {
	q, ok := c.dims(0)
	if !ok || len(q) != 3 && len(q) != 5 {
		c.setElem(0, c.elem(0))
		return nil
	}
	out := []Dim{q[0], q[1], UnknownDim}
	v, okV := c.dims(2)
	switch {
	case len(q) == 5:
		out[2] = c.dim(c.expr(q[2]).mul(c.expr(q[4])))
	case okV && len(v) == 3:
		out[2] = v[2]
	case okV && len(v) == 4:
		out[2] = c.dim(c.expr(v[1]).mul(c.expr(v[3])))
	case !c.has(2):
		out[2] = q[2]
	}
	c.set(0, c.elem(0), out)
	heads := max(c.int("num_heads", 1), 1)
	sizes := []*expr{nil, c.expr(q[len(q)-1]), c.expr(out[2]).div(constant(heads))} // of a head
	if len(q) == 3 {
		sizes[1] = sizes[1].div(constant(heads))
	}
	total := UnknownDim
	switch k, known := c.dims(1); {
	case !c.has(1):
		total = q[1]
	case known && (len(k) == 3 || len(k) == 5):
		total = k[1]
	case known && len(k) == 4:
		total = k[2]
	}
	if past, known := c.dims(6); c.has(6) && known && len(past) == 4 {
		total = c.dim(c.expr(total).add(c.expr(past[2])))
	} else if c.has(6) {
		total = UnknownDim
	}
	for i := 1; i < len(c.out) && i < len(sizes); i++ {
		c.set(i, c.elem(0), []Dim{q[0], Known(heads), total, c.dim(sizes[i])})
	}
	c.set(3, c.elem(0), []Dim{q[0], Known(heads), q[1], total})
	return nil
}

// inferGroupQueryAttention: query [B, S, heads·D], or with key and value packed
// behind it → [B, S, heads·D], present_key and present_value [B, kv, total, D].
func inferGroupQueryAttention(c *call) error {
	q, ok := c.dims(0)
	if !ok || len(q) != 3 {
		c.setElem(0, c.elem(0))
		return nil
	}
	heads, kv := max(c.int("num_heads", 1), 1), max(c.int("kv_num_heads", 1), 1)
	all := heads
	if !c.has(1) {
		all += 2 * kv
	}
	size := c.expr(q[2]).div(constant(all))
	c.set(0, c.elem(0), []Dim{q[0], q[1], c.dim(size.mul(constant(heads)))})
	for i := 1; i < len(c.out); i++ {
		c.set(i, c.elem(0), []Dim{q[0], Known(kv), UnknownDim, c.dim(size)})
	}
	return nil
}

// inferEmbedLayerNorm: ids [B, S], word embedding [V, H] → [B, S, H], mask index
// [B], and the sum before the norm.
func inferEmbedLayerNorm(c *call) error {
	ids, ok := c.dims(0)
	word, okW := c.dims(2)
	out := slices.Repeat([]Dim{UnknownDim}, 3)
	if ok && len(ids) == 2 {
		out[0], out[1] = ids[0], ids[1]
	}
	if okW && len(word) == 2 {
		out[2] = word[1]
	}
	c.set(0, c.elem(2), out)
	c.set(1, Int32, out[:1])
	c.set(2, c.elem(2), out)
	return nil
}

// inferSkipLayerNorm: output, mean, inverse deviation, and the sum that was
// normalised.
func inferSkipLayerNorm(c *call) error {
	dims, ok := c.dims(0)
	for i := range c.out {
		switch {
		case !ok:
			c.setElem(i, c.elem(0))
		case (i == 1 || i == 2) && len(dims) > 0:
			stats := slices.Clone(dims)
			stats[len(stats)-1] = Known(1)
			c.set(i, Float32, stats)
		default:
			c.set(i, c.elem(0), dims)
		}
	}
	return nil
}

// Quantization.

func inferQuantizeLinear(c *call) error {
	elem := c.dtype("output_dtype", Uint8)
	if c.has(2) {
		elem = c.elem(2)
	}
	c.like(0, 0, elem)
	return nil
}

func inferDequantizeLinear(c *call) error {
	elem := c.elem(1)
	if c.opset >= 23 {
		elem = c.dtype("output_dtype", elem)
	}
	c.like(0, 0, elem)
	return nil
}

func inferDynamicQuantizeLinear(c *call) error {
	c.like(0, 0, Uint8)
	c.set(1, Float32, nil)
	c.set(2, Uint8, nil)
	return nil
}

// Losses.

// inferLoss: scores [N, C, d...], labels [N, d...]; a scalar unless reduction is
// "none". SoftmaxCrossEntropyLoss gives log-probabilities too.
func inferLoss(c *call) error {
	if c.str("reduction", "mean") == "none" {
		c.like(0, 1, c.elem(0))
	} else {
		c.set(0, c.elem(0), nil)
	}
	if len(c.out) > 1 {
		c.out[1] = c.in(0)
	}
	return nil
}
