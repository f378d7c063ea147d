package runtime

import (
	"math"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// image is how a window sees a channel of its input: with its padding in
// place, so that every tap of every output is an element. It is the input
// itself where the window needs no padding.
type image struct {
	w      *window
	dims   []int
	steps  []int // from place to place along every axis
	size   int
	padded bool
	planes []int32 // of the last two dims: where they come from in the channel; −1 for padding

	// Rows of a plane, and elements of a row: padding in front, and what the
	// channel gives; the rest is padding.
	height, top, rows   int
	width, lead, copied int
}

// imageBound and imageTimes are what a padded channel may be: a number of
// elements, or that many times the input and the output together. Larger ones,
// which no model in use has, are for something slower to compute.
const imageBound, imageTimes = 1 << 16, 4

// set works out the image for w. It reports false where there is no image for
// channels of them.
func (m *image) set(w *window, channels int) bool {
	m.w, m.dims, m.steps, m.padded = w, m.dims[:0], m.steps[:0], false
	m.size = 1
	limit := max(imageBound, imageTimes*(w.inSize+w.outSize))
	for i, d := range w.in {
		span := (w.out[i]-1)*w.stride[i] + (w.kernel[i]-1)*w.dilation[i] + 1
		m.padded = m.padded || w.before[i] > 0 || span > d
		m.dims = append(m.dims, span)
		if m.size *= max(span, 0); m.size > limit {
			return false
		}
	}
	if !m.padded {
		m.dims, m.size = append(m.dims[:0], w.in...), w.inSize
	}
	last := len(m.dims) - 1
	m.steps = append(m.steps, m.dims...)
	for i, step := last, 1; i >= 0; i-- {
		m.steps[i] = step
		step *= m.dims[i]
	}
	if most := math.MaxInt32; m.size > most/max(channels, 1) || w.outSize > most {
		return false
	}
	if !m.padded {
		return true
	}
	inner := func(i int) (size, lead, copied int) {
		lead = min(w.before[i], m.dims[i])
		return m.dims[i], lead, min(w.in[i], m.dims[i]-lead)
	}
	m.width, m.lead, m.copied = inner(last)
	m.height, m.top, m.rows = 1, 0, 1
	step := w.in[last]
	if last > 0 {
		m.height, m.top, m.rows = inner(last - 1)
		step *= w.in[last-1]
	}
	m.planes = m.planes[:0]
	for p := range m.size / max(m.width*m.height, 1) {
		from, step := 0, step
		for i := last - 2; i >= 0; i-- {
			at := p%m.dims[i] - w.before[i]
			p /= m.dims[i]
			if at < 0 || at >= w.in[i] {
				from = -1
				break
			}
			from += at * step
			step *= w.in[i]
		}
		m.planes = append(m.planes, int32(from))
	}
	return true
}

// fill makes the image of one channel x, with a value for padding.
func (m *image) fill(k *simd.Kernels, dst, x []float32, padding float32) {
	pad := func(n int) {
		k.PadRows(dst, 0, nil, 0, 1, n, 0, 0, padding)
		dst = dst[n:]
	}
	for _, from := range m.planes {
		if from < 0 {
			pad(m.height * m.width)
			continue
		}
		pad(m.top * m.width)
		k.PadRows(dst, m.width, x[from:], m.w.in[len(m.w.in)-1], m.rows, m.width, m.lead, m.copied, padding)
		dst = dst[m.rows*m.width:]
		pad((m.height - m.top - m.rows) * m.width)
	}
}

// taps are the offsets of what the window reads of channels that lie one after
// the other: channel by channel, and in each the kernel row by row.
func (m *image) taps(channels int) simd.Taps {
	at := make([]int32, 0, channels*m.w.taps)
	for c := range channels {
		for k := range m.w.taps {
			o := c * m.size
			for i := len(m.dims) - 1; i >= 0; i-- {
				o += k % m.w.kernel[i] * m.w.dilation[i] * m.steps[i]
				k /= m.w.kernel[i]
			}
			at = append(at, int32(o))
		}
	}
	return simd.NewTaps(at)
}

// row is where the window of the first output of row r stands.
func (m *image) row(r int) int {
	at := 0
	for i := len(m.dims) - 2; i >= 0; i-- {
		at += r % m.w.out[i] * m.w.stride[i] * m.steps[i]
		r /= m.w.out[i]
	}
	return at
}

// planeRows are the output rows for one call of a Slide kernel: those along
// the last axis but one, and the step between their windows.
func (m *image) planeRows() (n, step int) {
	i := len(m.dims) - 2
	if i < 0 {
		return 1, 0
	}
	return m.w.out[i], m.w.stride[i] * m.steps[i]
}
