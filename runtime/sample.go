package runtime

import (
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// sampleOps read images at places that are computed.
var sampleOps = []operator{
	{"", "AffineGrid", 20, prepareAffineGrid, nil, halves},
	{"", "DeformConv", 19, prepareDeformConv, nil, halves},
	{"", "Col2Im", 18, prepareCol2Im, nil, halves},
	{"", "CausalConvWithState", 27, prepareCausalConv, nil, halves},
}

// prepareAffineGrid: theta [N, 2, 3] or [N, 3, 4], the size [N, C, (D,) H, W] →
// where GridSample reads for every output, theta·(x, y, (z,) 1), coordinates −1 … 1
// from one end of the image to the other: of the corner pixels' middles with
// align_corners, else of their edges.
func prepareAffineGrid(n *node) (kernel, error) {
	corners := n.bool("align_corners", false)
	return byType{graph.Float32: affineGrid[float32](corners), graph.Float64: affineGrid[float64](corners)}.kernel(0), n.inputs(2, 2)
}

func affineGrid[T float32 | float64](corners bool) kernel {
	place := func(i, n int) T {
		if !corners {
			return T(2*i+1)/T(n) - 1
		}
		if n == 1 {
			return 0
		}
		return T(2*i)/T(n-1) - 1
	}
	return func(c *call) error {
		theta := c.in[0]
		size, err := dimsOf(nil, c.in[1])
		if err != nil {
			return err
		}
		r := len(size) - 2
		if r != 2 && r != 3 || len(theta.Shape) != 3 || theta.Shape[0] != size[0] || theta.Shape[1] != r || theta.Shape[2] != r+1 {
			return fmt.Errorf("theta is %v for the size %v, want [N, 2, 3] or [N, 3, 4]", theta.Shape, size)
		}
		shape := append([]int{size[0]}, size[2:]...)
		z, err := c.alloc(0, theta.DType, append(shape, r)...)
		if err != nil || z.Len() == 0 {
			return err
		}
		out, t := view[T](z), view[T](theta)
		d, h, w := 1, size[len(size)-2], size[len(size)-1]
		if r == 3 {
			d = size[2]
		}
		at := 0
		for b := range size[0] {
			m := t[b*r*(r+1):][:r*(r+1)]
			for k := range d {
				for i := range h {
					for j := range w {
						p := [3]T{place(j, w), place(i, h), 0}
						if r == 3 {
							p[2] = place(k, d)
						}
						for row := range r {
							sum := m[row*(r+1)+r]
							for col := range r {
								sum += T(m[row*(r+1)+col] * p[col])
							}
							out[at] = sum
							at++
						}
					}
				}
			}
		}
		return nil
	}
}

// deform is a DeformConv at hand.
type deform struct {
	w                           window
	x, weights, offset, mask    []float32
	bias, z                     []float32
	channels, each, m, of       int // channels of X, of a group, outputs, outputs of a group
	offsetGroups, perOffset     int
	height, width, taps, places int
}

// prepareDeformConv: X [N, C, H, W], W [M, C/group, kh, kw], offset
// [N, 2·kh·kw·groups, oh, ow], B [M], mask [N, kh·kw·groups, oh, ow] → Conv whose
// taps are moved by the offsets (y, x), read between pixels linearly, 0 outside,
// and multiplied with the mask. Dai et al., Deformable Convolutional Networks,
// 2017; Zhu et al., 2019.
func prepareDeformConv(n *node) (kernel, error) {
	attrs, group, offsets := n.window(), n.int("group", 1), n.int("offset_group", 1)
	if group < 1 || offsets < 1 {
		return nil, fmt.Errorf("group = %d, offset_group = %d", group, offsets)
	}
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3, 4); err != nil {
			return err
		}
		x, weights, offset := c.in[0], c.in[1], c.in[2]
		if len(x.Shape) != 4 || len(weights.Shape) != 4 || len(offset.Shape) != 4 {
			return fmt.Errorf("X %v, W %v and offset %v, want images of two dims", x.Shape, weights.Shape, offset.Shape)
		}
		a := &deform{channels: x.Shape[1], each: weights.Shape[1], m: weights.Shape[0], offsetGroups: offsets}
		if a.each*group != a.channels || a.m%group != 0 || a.channels%offsets != 0 {
			return fmt.Errorf("X %v and W %v with group = %d, offset_group = %d", x.Shape, weights.Shape, group, offsets)
		}
		if err := a.w.set(&attrs, x.Shape[2:], weights.Shape[2:]); err != nil {
			return err
		}
		a.of, a.perOffset = a.m/group, max(a.channels/offsets, 1)
		a.height, a.width, a.taps, a.places = x.Shape[2], x.Shape[3], a.w.taps, a.w.outSize
		want := []int{x.Shape[0], 2 * a.taps * offsets, a.w.out[0], a.w.out[1]}
		same := func(t *Tensor, shape []int) bool { return fmt.Sprint(t.Shape) == fmt.Sprint(shape) }
		if !same(offset, want) {
			return fmt.Errorf("offset is %v, want %v", offset.Shape, want)
		}
		if b := c.input(3); b != nil {
			if b.Len() != a.m {
				return fmt.Errorf("B is %v, want [%d]", b.Shape, a.m)
			}
			a.bias = b.F32()
		}
		if mask := c.input(4); mask != nil {
			if want[1] /= 2; !same(mask, want) {
				return fmt.Errorf("mask is %v, want %v", mask.Shape, want)
			}
			a.mask = mask.F32()
		}
		z, err := c.alloc(0, graph.Float32, x.Shape[0], a.m, a.w.out[0], a.w.out[1])
		if err != nil || z.Len() == 0 {
			return err
		}
		a.x, a.weights, a.offset, a.z = x.F32(), weights.F32(), offset.F32(), z.F32()
		c.arg = a
		c.parallel(x.Shape[0]*a.places, 1+multiplyGrain/(1+a.taps*a.each*a.m), deformPlaces)
		return nil
	}, n.required(5, 0, 1, 2)
}

// deformPlaces computes all outputs of places lo to hi.
func deformPlaces(c *call, lo, hi int) {
	a := c.arg.(*deform)
	for i := lo; i < hi; i++ {
		b, at := i/a.places, i%a.places
		for m := range a.m {
			sum := float32(0)
			if a.bias != nil {
				sum = a.bias[m]
			}
			a.z[(b*a.m+m)*a.places+at] = sum
		}
		y0, x0 := at/a.w.out[1]*a.w.stride[0]-a.w.before[0], at%a.w.out[1]*a.w.stride[1]-a.w.before[1]
		for ch := range a.channels {
			group, of := ch/a.each, ch/a.perOffset
			image := a.x[(b*a.channels+ch)*a.height*a.width:][:a.height*a.width]
			for tap := range a.taps {
				from := ((b*a.offsetGroups+of)*a.taps + tap) * a.places
				y := float32(y0+tap/a.w.kernel[1]*a.w.dilation[0]) + a.offset[2*from+at]
				x := float32(x0+tap%a.w.kernel[1]*a.w.dilation[1]) + a.offset[2*from+a.places+at]
				v := between2(image, a.height, a.width, y, x)
				if a.mask != nil {
					v *= a.mask[from+at]
				}
				for m := group * a.of; m < (group+1)*a.of; m++ {
					a.z[(b*a.m+m)*a.places+at] += float32(v * a.weights[(m*a.each+ch%a.each)*a.taps+tap])
				}
			}
		}
	}
}

// between2 reads an image at (y, x), linearly between pixels, 0 outside.
func between2(image []float32, height, width int, y, x float32) float32 {
	if !(y > -1 && y < float32(height) && x > -1 && x < float32(width)) {
		return 0
	}
	fy, fx := math.Floor(float64(y)), math.Floor(float64(x))
	i, j := int(fy), int(fx)
	dy, dx := y-float32(fy), x-float32(fx)
	at := func(i, j int) float32 {
		if i < 0 || j < 0 || i >= height || j >= width {
			return 0
		}
		return image[i*width+j]
	}
	top := float32((1-dx)*at(i, j)) + float32(dx*at(i, j+1))
	bottom := float32((1-dx)*at(i+1, j)) + float32(dx*at(i+1, j+1))
	return float32((1-dy)*top) + float32(dy*bottom)
}

// prepareCol2Im: columns [N, C·taps, L], the dims of the image and of the block →
// the image [N, C, dims], each pixel the sum of the columns' elements that a
// window read it for.
func prepareCol2Im(n *node) (kernel, error) {
	attrs := n.window()
	return func(c *call) error {
		if err := c.floatsOnly(0); err != nil {
			return err
		}
		image, err := dimsOf(nil, c.in[1])
		if err != nil {
			return err
		}
		block, err := dimsOf(nil, c.in[2])
		if err != nil {
			return err
		}
		x := c.in[0]
		var w window
		attrs := attrs
		for _, d := range image {
			if d < 1 || d > math.MaxInt32 {
				return fmt.Errorf("image_shape is %v", image)
			}
		}
		if err := w.set(&attrs, image, block); err != nil {
			return err
		}
		if len(x.Shape) != 3 || x.Shape[1]%w.taps != 0 || x.Shape[2] != w.outSize {
			return fmt.Errorf("columns are %v, want [N, C·%d, %d]", x.Shape, w.taps, w.outSize)
		}
		channels := x.Shape[1] / w.taps
		z, err := c.alloc(0, graph.Float32, append([]int{x.Shape[0], channels}, image...)...)
		if err != nil || z.Len() == 0 {
			return err
		}
		clear(z.F32())
		for i := range x.Shape[0] * channels {
			to := z.F32()[i*w.inSize:][:w.inSize]
			for tap := range w.taps {
				row := x.F32()[(i*w.taps+tap)*w.outSize:][:w.outSize]
				for place, v := range row {
					at, step, k, o, inside := 0, 1, tap, place, true
					for d := len(image) - 1; d >= 0; d-- {
						p := o%w.out[d]*w.stride[d] - w.before[d] + k%w.kernel[d]*w.dilation[d]
						inside = inside && p >= 0 && p < image[d]
						at += p * step
						o, k, step = o/w.out[d], k/w.kernel[d], step*image[d]
					}
					if inside {
						to[at] += v
					}
				}
			}
		}
		return nil
	}, n.inputs(3, 3)
}

// prepareCausalConv: input [B, C, L], weight [C, 1, K], bias [C] and the last
// K − 1 inputs of before [B, C, K−1], zeros where they are not given → for every
// channel the sum of the K last inputs by its weights, with an activation, and
// the last K − 1 inputs.
func prepareCausalConv(n *node) (kernel, error) {
	act := n.oneOf("activation", "none", "none", "silu", "swish")
	k := n.simd
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3); err != nil {
			return err
		}
		x, w := c.in[0], c.in[1]
		if len(x.Shape) != 3 || len(w.Shape) != 3 || w.Shape[0] != x.Shape[1] || w.Shape[1] != 1 || w.Shape[2] < 1 {
			return fmt.Errorf("input %v and weight %v, want [B, C, L] and [C, 1, K]", x.Shape, w.Shape)
		}
		batch, channels, l, taps := x.Shape[0], x.Shape[1], x.Shape[2], w.Shape[2]
		a := &causal{k: k, x: x.F32(), w: w.F32(), channels: channels, l: l, taps: taps, silu: act != "none"}
		if b := c.input(2); b != nil {
			if b.Len() != channels {
				return fmt.Errorf("bias %v, want [%d]", b.Shape, channels)
			}
			a.bias = b.F32()
		}
		if p := c.input(3); p != nil {
			if len(p.Shape) != 3 || p.Shape[0] != batch || p.Shape[1] != channels || p.Shape[2] != taps-1 {
				return fmt.Errorf("past_state is %v, want [%d, %d, %d]", p.Shape, batch, channels, taps-1)
			}
			a.past = p.F32()
		}
		z, err := c.alloc(0, graph.Float32, batch, channels, l)
		if err != nil {
			return err
		}
		state, err := c.alloc(1, graph.Float32, batch, channels, taps-1)
		if err != nil {
			return err
		}
		a.z, a.state = z.F32(), state.F32()
		c.arg = a
		c.parallel(batch*channels, 1+multiplyGrain/(1+l*taps), causalRows)
		return nil
	}, n.required(4, 0, 1)
}

type causal struct {
	k                 *simd.Kernels
	x, w, bias, past  []float32
	z, state          []float32
	channels, l, taps int
	silu              bool
}

func causalRows(c *call, lo, hi int) {
	a := c.arg.(*causal)
	lead := a.taps - 1
	for i := lo; i < hi; i++ {
		ch := i % a.channels
		x, w := a.x[i*a.l:][:a.l], a.w[ch*a.taps:][:a.taps]
		at := func(p int) float32 { // input p, of before where it is negative
			switch {
			case p >= 0:
				return x[p]
			case a.past != nil:
				return a.past[i*lead+lead+p]
			}
			return 0
		}
		z := a.z[i*a.l:][:a.l]
		for p := range z {
			sum := float32(0)
			if a.bias != nil {
				sum = a.bias[ch]
			}
			for t, v := range w {
				sum += float32(v * at(p-lead+t))
			}
			z[p] = sum
		}
		if a.silu {
			for p, v := range z {
				z[p] = v / (1 + float32(math.Exp(-float64(v))))
			}
		}
		for p := range lead {
			a.state[i*lead+p] = at(a.l - lead + p)
		}
	}
}
