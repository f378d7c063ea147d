package runtime

import (
	"fmt"
	"math"
	"slices"
)

// maxSpatial bounds the spatial dims of what a window slides over. ONNX names
// no bound; nothing in use has more than three.
const maxSpatial = 8

// windowAttrs are the attributes that convolutions and pools share. Lists that
// are nil, or empty in the model, take their default: ones for strides and
// dilations, zeros for pads.
type windowAttrs struct {
	kernel, strides, dilations, pads []int // pads: all begins, then all ends
	auto                             string
	ceil                             bool
}

func (n *node) window() windowAttrs {
	list := func(name string) []int {
		if l := n.ints(name); len(l) > 0 {
			return l
		}
		return nil
	}
	return windowAttrs{
		kernel: list("kernel_shape"), strides: list("strides"), dilations: list("dilations"), pads: list("pads"),
		auto: n.oneOf("auto_pad", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
		ceil: n.bool("ceil_mode", false),
	}
}

// window is a kernel that slides over the spatial dims of an input. Along axis
// i, tap k of output o reads position o·stride − before + k·dilation, which is
// padding where it lies outside of [0, in).
type window struct {
	in, out, kernel, stride, dilation, before, after []int

	inSize, outSize, taps int // products of in, out and kernel
	rows, width           int // of the output: product of all dims but the last, and the last
}

// set works out the geometry for an input with these spatial dims; the kernel
// is that of the attributes or, where they have none, the one given. It keeps
// what it has if the dims did not change.
func (w *window) set(a *windowAttrs, in, kernel []int) error {
	if a.kernel != nil {
		if kernel != nil && !slices.Equal(kernel, a.kernel) {
			return fmt.Errorf("kernel_shape is %v, the weights' kernel %v", a.kernel, kernel)
		}
		kernel = a.kernel
	}
	if w.out != nil && slices.Equal(w.in, in) && slices.Equal(w.kernel, kernel) {
		return nil
	}
	if err := w.shape(a, in, kernel); err != nil {
		w.out = nil
		return err
	}
	for i, d := range in {
		s, extent := w.stride[i], (kernel[i]-1)*w.dilation[i]+1
		var n int
		switch a.auto {
		case "SAME_UPPER", "SAME_LOWER":
			n = (d + s - 1) / s
			pad := max((n-1)*s+extent-d, 0)
			w.before[i] = pad / 2
			if a.auto == "SAME_LOWER" {
				w.before[i] = pad - pad/2
			}
			w.after[i] = pad - w.before[i]
		default:
			room := d + w.before[i] + w.after[i] - extent
			if room < 0 {
				w.out = nil
				return fmt.Errorf("spatial dim %d is %d with its padding, the window spans %d", i, d+w.before[i]+w.after[i], extent)
			}
			n = room/s + 1
			// The last window has to begin inside of the input or the padding
			// before it.
			if a.ceil && room%s != 0 && n*s < d+w.before[i] {
				n++
			}
		}
		w.out = append(w.out, n)
	}
	return w.sizes()
}

// shape checks the attributes against the rank and fills what does not depend
// on the output.
func (w *window) shape(a *windowAttrs, in, kernel []int) error {
	n := len(in)
	if n == 0 || n > maxSpatial {
		return fmt.Errorf("the input has %d spatial dims, want 1 to %d", n, maxSpatial)
	}
	if kernel == nil {
		return fmt.Errorf("attribute kernel_shape is missing")
	}
	if len(kernel) != n || a.strides != nil && len(a.strides) != n || a.dilations != nil && len(a.dilations) != n || a.pads != nil && len(a.pads) != 2*n {
		return fmt.Errorf("kernel %v, strides %v, dilations %v and pads %v do not fit %d spatial dims", kernel, a.strides, a.dilations, a.pads, n)
	}
	ones := func(dst, list []int) []int {
		if list != nil {
			return append(dst[:0], list...)
		}
		return append(dst[:0], slices.Repeat([]int{1}, n)...)
	}
	w.in, w.kernel, w.out = append(w.in[:0], in...), append(w.kernel[:0], kernel...), make([]int, 0, n)
	w.stride, w.dilation = ones(w.stride, a.strides), ones(w.dilation, a.dilations)
	w.before, w.after = slices.Repeat([]int{0}, n), slices.Repeat([]int{0}, n)
	for _, list := range [][]int{w.kernel, w.stride, w.dilation} {
		for _, v := range list {
			if v < 1 || v > math.MaxInt32 {
				return fmt.Errorf("kernel %v, strides %v, dilations %v: want positive numbers of 32 bits", kernel, w.stride, w.dilation)
			}
		}
	}
	if a.pads != nil && a.auto == "NOTSET" {
		for _, v := range a.pads {
			if v < 0 || v > math.MaxInt32 {
				return fmt.Errorf("pads %v: want numbers of 32 bits that are not negative", a.pads)
			}
		}
		copy(w.before, a.pads[:n])
		copy(w.after, a.pads[n:])
	}
	return nil
}

// sizes works out the products.
func (w *window) sizes() error {
	var err error
	if w.inSize, err = count(w.in); err != nil {
		return err
	}
	if w.outSize, err = count(w.out); err != nil {
		return err
	}
	if w.taps, err = count(w.kernel); err != nil {
		return err
	}
	last := len(w.out) - 1
	w.width = w.out[last]
	w.rows, err = count(w.out[:last])
	return err
}

// span is the run of outputs along the last axis whose tap k lies inside of
// the input, and the input position that the first of them reads.
func (w *window) span(k int) (lo, hi, from int) {
	i := len(w.in) - 1
	s, off := w.stride[i], k*w.dilation[i]-w.before[i]
	if off < 0 {
		lo = (-off + s - 1) / s
	}
	if room := w.in[i] - 1 - off; room >= 0 {
		hi = min(room/s+1, w.width)
	}
	return lo, max(lo, hi), lo*s + off
}

// inside is the run of taps of output o along axis i that lie inside of an
// input of size d after before elements of padding.
func (w *window) inside(i, o, before, d int) (first, end int) {
	s := w.dilation[i]
	at := o*w.stride[i] - before
	if at < 0 {
		first = (-at + s - 1) / s
	}
	if room := d - 1 - at; room >= 0 {
		end = min(room/s+1, w.kernel[i])
	}
	return first, max(first, end)
}

// rowTaps walks the kernel rows (taps that differ along the last axis only) of
// one output row that lie inside of the input, in row-major order.
type rowTaps struct {
	w             *window
	in            int // offset of the input row in its channel
	tap           int // index of the kernel row's first tap in the kernel
	ok            bool
	first         [maxSpatial]int // the first tap
	end, k        [maxSpatial]int
	inStep, kStep [maxSpatial]int
}

// row starts the walk for output row r.
func (w *window) row(r int) rowTaps {
	t := rowTaps{w: w, ok: true}
	last := len(w.in) - 1
	inStep, kStep := w.in[last], w.kernel[last]
	for i := last - 1; i >= 0; i-- {
		o := r % w.out[i]
		r /= w.out[i]
		t.inStep[i], t.kStep[i] = inStep*w.dilation[i], kStep
		t.first[i], t.end[i] = w.inside(i, o, w.before[i], w.in[i])
		t.ok = t.ok && t.first[i] < t.end[i]
		t.k[i] = t.first[i]
		t.in += (o*w.stride[i]-w.before[i])*inStep + t.first[i]*t.inStep[i]
		t.tap += t.first[i] * kStep
		inStep, kStep = inStep*w.in[i], kStep*w.kernel[i]
	}
	return t
}

func (t *rowTaps) next() {
	for i := len(t.w.in) - 2; i >= 0; i-- {
		t.k[i]++
		t.in += t.inStep[i]
		t.tap += t.kStep[i]
		if t.k[i] < t.end[i] {
			return
		}
		n := t.k[i] - t.first[i]
		t.k[i] = t.first[i]
		t.in -= n * t.inStep[i]
		t.tap -= n * t.kStep[i]
	}
	t.ok = false
}

// count is the number of kernel rows that the walk has.
func (t *rowTaps) count() int {
	n := 1
	for i := range len(t.w.in) - 1 {
		n *= t.end[i] - t.first[i]
	}
	return n
}
