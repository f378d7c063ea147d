package runtime

import (
	"errors"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

func prepareMaxPoolInt16(n *node) (kernel, error) {
	a, k := n.window(), n.simd
	if n.wants(1) {
		return nil, errors.New("MaxPoolInt16 gives no indices")
	}
	const low = math.MinInt16
	slow := maxPool(&a, false, false, int16(low))
	return byType{graph.Int16: slidePool16(&a, k, low, false, nil, slow)}.kernel(0), n.inputs(1, 1)
}

// prepareMeanPoolInt16: AveragePoolInt16 and GlobalAveragePoolInt16.
func prepareMeanPoolInt16(n *node) (kernel, error) {
	a, pad := n.window(), n.bool("count_include_pad", false)
	left, err := n.shifts(1, "L", 1, 0, 15)
	if err != nil {
		return nil, err
	}
	k, l := n.simd, int(left[0])
	if n.op == "GlobalAveragePoolInt16" {
		return byType{graph.Int16: globalPool(func(x []int16) int16 { return fixed.Mean(k.Sum16(x), len(x), l) })}.kernel(0), n.inputs(2, 2)
	}
	means := func(s *poolState, z []int16, sums []int32) {
		for i, v := range sums {
			z[i] = fixed.Mean(int64(v), int(s.divisors[i]), l)
		}
	}
	body := func(c *call, lo, hi int) {
		s := c.state.(*poolState)
		x, z := c.in[0].I16(), c.out[0].I16()
		last := len(s.in) - 1
		for i := lo; i < hi; i++ {
			plane := x[i/s.rows*s.inSize:][:s.inSize]
			rows := 1 // taps that count, but for those along the last axis
			for k, r := last-1, i%s.rows; k >= 0; k-- {
				rows *= s.counted(k, r%s.out[k], pad)
				r /= s.out[k]
			}
			for j := range s.width {
				first, end := s.inside(last, j, s.before[last], s.in[last])
				from := j*s.stride[last] - s.before[last] + first*s.dilation[last]
				var sum int64
				for t := s.row(i % s.rows); t.ok; t.next() {
					for k := range end - first {
						sum += int64(plane[t.in+from+k*s.dilation[last]])
					}
				}
				z[i*s.width+j] = fixed.Mean(sum, rows*s.counts[j], l)
			}
		}
	}
	slow := func(c *call) error {
		s, err := c.pooling(&a)
		if err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Int16, s.shape...)
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
	return byType{graph.Int16: slidePool16(&a, k, 0, pad, means, slow)}.kernel(0), n.inputs(2, 2)
}

// slidePool16 pools plane by plane where windows slide with a stride of 1 or 2, and
// otherwise does what it is told. end makes means of sums; without it there are
// maxima. pad says whether padding counts.
func slidePool16(a *windowAttrs, k *simd.Kernels, padding int16, pad bool, end func(s *poolState, z []int16, sums []int32), otherwise kernel) kernel {
	// Kernels read and write whole vectors, so images and results are a row longer.
	reads := func(s *poolState) int { return s.image.size + simd.SlideRead(s.width, simd.SlideStrides) }
	writes := func(s *poolState) int { return s.outSize + simd.SlideWrite(s.width) }
	body := func(c *call, worker, lo, hi int) {
		s := c.state.(*poolState)
		x, z := c.in[0].I16(), c.out[0].I16()
		size, plane, stride := reads(s), writes(s), s.stride[len(s.stride)-1]
		for i := lo; i < hi; i++ {
			from, to := x[i*s.inSize:], z[i*s.outSize:(i+1)*s.outSize]
			if s.image.padded || len(from) < size {
				m := s.images16[worker*size:][:size]
				s.image.fill16(m, from[:s.inSize], padding)
				from = m
			}
			for _, o := range s.origins {
				if end == nil {
					k.SlideMax16(s.maxima[worker*plane:][:plane][o[1]:], s.width, from[o[0]:], s.rowStep, s.offsets, s.planeRows, s.width, stride)
				} else {
					k.SlideSum16(s.sums[worker*plane:][:plane][o[1]:], s.width, from[o[0]:], s.rowStep, s.offsets, s.planeRows, s.width, stride)
				}
			}
			if end == nil {
				copy(to, s.maxima[worker*plane:])
			} else {
				end(s, to, s.sums[worker*plane:][:s.outSize])
			}
		}
	}
	return func(c *call) error {
		s, err := c.pooling(a)
		if err != nil {
			return err
		}
		if !s.plan() || s.taps > simd.MostTaps16 {
			return otherwise(c)
		}
		z, err := c.alloc(0, graph.Int16, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		if s.images16, err = scratch[int16](c, c.workers()*reads(s)); err != nil {
			return err
		}
		if end == nil {
			s.maxima, err = scratch[int16](c, c.workers()*writes(s))
		} else {
			s.sums, err = scratch[int32](c, c.workers()*writes(s))
		}
		if err != nil {
			return err
		}
		if end != nil && s.divisors == nil {
			s.count(pad)
		}
		c.parallelWorkers(s.planes, 1+elementGrain/(s.outSize*s.taps), body)
		s.images16, s.maxima, s.sums = nil, nil, nil
		return nil
	}
}

// fill16 is fill for 16-bit fixed point.
func (m *image) fill16(dst, x []int16, padding int16) {
	if !m.padded {
		copy(dst, x)
		return
	}
	for i := range dst[:m.size] {
		dst[i] = padding
	}
	in := m.w.in[len(m.w.in)-1]
	for p, from := range m.planes {
		if from < 0 {
			continue
		}
		to := dst[(p*m.height+m.top)*m.width+m.lead:]
		for r := range m.rows {
			copy(to[r*m.width:][:m.copied], x[int(from)+r*in:])
		}
	}
}
