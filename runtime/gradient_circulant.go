package runtime

import (
	"errors"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// gradBlockCirculantConv: the three stages of a [circulantConv] are linear. With
// the planes s = xr + xi, xr and xi of a complex bin of X, and k₁, k₂ and k₃ of Y,
// the adjoint of the inverse transform takes the bin D = Dr + i·Di of ∂L/∂y to
//
//	∂k₁ = 2(Dr + Di),  ∂k₂ = 2·Di,  ∂k₃ = −2·Dr,
//
// which are the planes of D but for order and factors; the convolution of planes
// has the gradients of a Conv, with respect to the planes of X and to the weights
// of planes; and the adjoint of the transform takes ∂s, ∂xr and ∂xi back as the
// inverse transform of k₁ = ∂s/2, k₂ = ∂xi/2, k₃ = −∂xr/2. Nothing goes through the
// dense weights. The spectra of W are made once after each change of it.
func gradBlockCirculantConv(b *backward, x *lnode, dy []*lvalue) error {
	in, w, g := x.in[0], x.in[1], dy[0]
	t := w.konst
	if t == nil || t.DType != graph.Float32 {
		return errors.New("W is neither a parameter nor a constant")
	}
	if len(x.in) > 2 && b.needs(x.in[2]) {
		b.add(x.in[2], b.kernel("BlockCirculantConv bias", channelSums(b.simd), g))
	}
	v, err := newCirculantConv(&node{op: x.op, attrs: x.attrs, simd: b.simd})
	if err != nil {
		return err
	}
	p, q, size, taps, err := v.check(t)
	if err != nil {
		return err
	}
	c, n := b.simd.Circulant(size), circulant.ConvPlanes(size)
	weights := FromSlice(append([]int{n * p, q}, t.Shape[3:]...), make([]float32, n*p*q*taps))
	planes := &convolution{windowAttrs: v.windowAttrs, k: b.simd, group: n * v.group, lo: simd.Unlimited.Lo, hi: simd.Unlimited.Hi}
	var flipped *convolution
	turn := func() {}
	if b.needs(in) {
		flipped, turn = flip(planes, weights)
	}
	var now *circulantPlanes
	v.moving = func() *circulantPlanes { return now }
	b.convs[x] = v
	b.train.prepared(w, func() {
		circulant.ConvWeights(weights.F32(), t.F32(), p, q, size, taps)
		now = v.planesOf(weights.F32(), p, q, size, t.Shape[3:])
		if flipped != nil {
			turn()
		}
	})
	if !b.needs(in) && !b.needs(w) {
		return nil
	}
	gh := b.kernel("BlockCirculantConv transform", toPlanes(c, size, p, v.group, func(k1, k2, k3 []float32) {
		for i, v := range k2 {
			k1[i], k2[i], k3[i] = 2*k1[i], 2*k3[i], -2*v
		}
	}), g)
	if b.needs(w) {
		if w.param == 0 {
			return errors.New("W is computed")
		}
		xh := b.kernel("BlockCirculantConv transform", toPlanes(c, size, v.group*q, v.group, nil), in)
		dw := b.kernel("Conv weights", convWeightGradient(planes, -1), gh, xh, b.constant(weights))
		b.sink("BlockCirculantConv weights", func(c *call) error {
			circulant.AddConvGradient(c.s.train.gradients[w.param-1], c.in[0].F32(), p, q, size, taps)
			return nil
		}, dw)
	}
	if !b.needs(in) {
		return nil
	}
	var dxh *lvalue
	if flipped != nil {
		dxh = b.kernel("Conv", flipped.run, gh)
	} else {
		xhShape := b.kernel("BlockCirculantConv shape", func(c *call) error {
			z, err := c.alloc(0, graph.Int64, c.in[0].Len())
			if err == nil {
				copy(z.I64(), c.in[0].I64())
				z.I64()[1] = int64(n * v.group * q)
			}
			return err
		}, b.shape(in))
		dxh = b.kernel("Conv", convInputGradient(planes), gh, b.constant(weights), xhShape)
	}
	b.add(in, b.kernel("BlockCirculantConv inverse transform", fromPlanes(c, size, v.group*q, v.group), dxh, b.shape(in)))
	return nil
}

// toPlanes: X [N, C, d…] → the planes [N, planes · blocks, d…] of its blocks of b
// channels, with zeros beyond those of a group. The function, where there is one,
// changes the three planes of every complex bin.
func toPlanes(c *simd.Circulant, b, blocks, group int, change func(k1, k2, k3 []float32)) kernel {
	n := circulant.ConvPlanes(b)
	return func(call *call) error {
		x := call.in[0]
		if x.DType != graph.Float32 || len(x.Shape) < 3 || x.Shape[1]%group != 0 || x.Shape[1]/group > blocks/group*b {
			return fmt.Errorf("%v%v in %d blocks of %d channels in %d groups", x.DType, x.Shape, blocks, b, group)
		}
		m := call.moves()
		m.shape = append(append(m.shape[:0], x.Shape[0], n*blocks), x.Shape[2:]...)
		z, err := call.alloc(0, graph.Float32, m.shape...)
		if err != nil || x.Len() == 0 {
			return err
		}
		size := x.Len() / (x.Shape[0] * x.Shape[1])
		ws, err := scratch[float32](call, c.ImageScratch())
		if err != nil {
			return err
		}
		stage, err := scratch[float32](call, b*size)
		if err != nil {
			return err
		}
		for i := range x.Shape[0] {
			from := x.F32()[i*x.Shape[1]*size : (i+1)*x.Shape[1]*size]
			to := z.F32()[i*n*blocks*size : (i+1)*n*blocks*size]
			for j := range blocks {
				first, have := blockChannels(j, blocks/group, b, x.Shape[1]/group)
				block := from[first*size : (first+have)*size]
				if have < b {
					clear(stage[copy(stage, block):])
					block = stage
				}
				c.ForwardImage(to[j*size:], blocks*size, block, size, size, ws)
			}
			if change != nil {
				eachBin(b, to, blocks*size, change)
			}
		}
		return nil
	}
}

// fromPlanes: gradients with respect to the planes of X, shape of X [N, C, d…] →
// that with respect to X. It changes its input, which nothing else reads.
func fromPlanes(c *simd.Circulant, b, blocks, group int) kernel {
	n := circulant.ConvPlanes(b)
	zeros := make([]float32, b)
	return func(call *call) error {
		m := call.moves()
		var err error
		if m.shape, err = dimsOf(m.shape, call.in[1]); err != nil {
			return err
		}
		z, err := call.alloc(0, graph.Float32, m.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		samples, channels := m.shape[0], m.shape[1]
		size := z.Len() / (samples * channels)
		if d := call.in[0]; d.DType != graph.Float32 || d.Len() != samples*n*blocks*size {
			return fmt.Errorf("planes %v%v of %v", d.DType, d.Shape, m.shape)
		}
		ws, err := scratch[float32](call, c.ImageScratch())
		if err != nil {
			return err
		}
		stage, err := scratch[float32](call, b*size)
		if err != nil {
			return err
		}
		for i := range samples {
			from := call.in[0].F32()[i*n*blocks*size : (i+1)*n*blocks*size]
			to := z.F32()[i*channels*size : (i+1)*channels*size]
			eachBin(b, from, blocks*size, func(k1, k2, k3 []float32) {
				for i, v := range k2 {
					k1[i], k2[i], k3[i] = k1[i]/2, k3[i]/2, -v/2
				}
			})
			for j := range blocks {
				first, have := blockChannels(j, blocks/group, b, channels/group)
				block := to[first*size : (first+have)*size]
				y := block
				if have < b {
					y = stage
				}
				c.InverseImage(y, size, from[j*size:], blocks*size, size, zeros, simd.Unlimited.Lo, simd.Unlimited.Hi, ws)
				if have < b {
					copy(block, stage)
				}
			}
		}
		return nil
	}
}

// eachBin calls f for the three planes of every complex bin of x [planes, size].
func eachBin(b int, x []float32, size int, f func(k1, k2, k3 []float32)) {
	for plane := 2 - b%2; plane < circulant.ConvPlanes(b); plane += 3 {
		at := x[plane*size:][:3*size]
		f(at[:size], at[size:2*size], at[2*size:])
	}
}
