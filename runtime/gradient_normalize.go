package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// Gradients of the operators that normalize.

// gradSoftmax: dx = y∘(dy − Σ dy∘y); of LogSoftmax, dx = dy − eʸ·Σ dy. The
// axis is that of prepareSoftmax.
func gradSoftmax(b *backward, x *lnode, dy []*lvalue) error {
	if !b.needs(x.in[0]) {
		return nil
	}
	def := 1
	if x.opset >= 13 {
		def = -1
	}
	b.add(x.in[0], b.softmaxGradient(x, x.int("axis", def), 1, dy[0]))
	return nil
}

// gradScores is the gradient of softmax(x·scale + mask).
func gradScores(b *backward, x *lnode, dy []*lvalue) error {
	s := x.fused.(*scores)
	if s.masked && b.needs(x.in[1]) {
		d := b.softmaxGradient(x, s.axis, 1, dy[0])
		b.addBroadcast(x.in[1], d)
		b.addBroadcast(x.in[0], b.scaled(d, float64(s.scale)))
	} else if b.needs(x.in[0]) {
		b.addBroadcast(x.in[0], b.softmaxGradient(x, s.axis, s.scale, dy[0]))
	}
	return nil
}

// softmaxGradient is scale times the gradient with respect to what the softmax
// of x is of.
func (b *backward) softmaxGradient(x *lnode, at int, scale float32, dy *lvalue) *lvalue {
	return b.kernel(x.op, softmaxGradient(b.simd, x.op, x.opset < 13, at, scale), dy, x.out[0])
}

// softmaxGradient: dy, y → scale·dx of a Softmax or LogSoftmax over the axis at or,
// flat, over that and all behind it.
func softmaxGradient(k *simd.Kernels, op string, flat bool, at int, scale float32) kernel {
	log := op == "LogSoftmax"
	return func(c *call) error {
		g, y := c.in[0], c.in[1]
		r := len(y.Shape)
		a := at
		if a < 0 {
			a += r
		}
		l := lines{1, 1, 1}
		if flat {
			for i, d := range y.Shape {
				if i < a {
					l.outer *= d
				} else {
					l.n *= d
				}
			}
		} else if r > 0 {
			l = linesOf(y.Shape, a)
		}
		z, err := c.over(0, 0, graph.Float32, y.Shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		tmp, err := scratch[float32](c, l.n)
		if err != nil {
			return err
		}
		dx, d, out := z.F32(), g.F32(), y.F32()
		for i := range l.outer * l.inner {
			from := l.line(i)
			if l.inner == 1 {
				row := from + l.n
				if log {
					s := k.Sum(d[from:row])
					k.Exp(tmp, out[from:row])
					k.MulScalar(tmp, tmp, s)
					k.Sub(dx[from:row], d[from:row], tmp)
					continue
				}
				k.SoftmaxGradient(dx[from:row], d[from:row], out[from:row], scale)
				continue
			}
			s := 0.0
			for j := range l.n {
				at := from + j*l.inner
				if log {
					s += float64(d[at])
				} else {
					s += float64(d[at] * out[at])
				}
			}
			for j := range l.n {
				at := from + j*l.inner
				if log {
					dx[at] = d[at] - float32(math.Exp(float64(out[at]))*s)
				} else {
					dx[at] = out[at] * (d[at] - float32(s)) * scale
				}
			}
		}
		return nil
	}
}

// gradLayerNorm: with h = (x − μ)/σ and g = dy∘γ, over rows of n elements,
//
//	dx = (g − mean(g) − h·mean(g∘h))/σ,  dγ = Σ dy∘h,  dβ = Σ dy;
//
// the form without a mean leaves out mean(g). h is computed again.
func gradLayerNorm(b *backward, x *lnode, dy []*lvalue) error {
	for _, d := range dy[1:] {
		if d != nil {
			return errors.New("the loss depends on its statistics")
		}
	}
	at, eps, rms, k := x.int("axis", -1), x.float("epsilon", 1e-5), x.op != "LayerNormalization", b.simd
	wantScale, wantBias := b.needs(x.in[1]), len(x.in) > 2 && b.needs(x.in[2])
	outs := b.kernels(x.op, 3, func(c *call) error {
		g, in, gamma := c.in[0], c.in[1], c.in[2]
		if in.DType != graph.Float32 {
			return wrongType(in.DType)
		}
		a, err := axis(at, len(in.Shape))
		if err != nil {
			return err
		}
		n, err := count(in.Shape[a:])
		if err != nil {
			return err
		}
		if gamma.Len() != n {
			return fmt.Errorf("scale %v of rows of %d", gamma.Shape, n)
		}
		dx, err := c.over(0, 0, graph.Float32, in.Shape...)
		if err != nil {
			return err
		}
		var dGamma, dBeta []float32
		for i, d := range []*[]float32{1: &dGamma, 2: &dBeta} {
			if d == nil || i == 1 && !wantScale || i == 2 && !wantBias {
				continue
			}
			z, err := c.alloc(i, graph.Float32, gamma.Shape...)
			if err != nil {
				return err
			}
			*d = z.F32()
			clear(*d)
		}
		tmp, err := scratch[float32](c, 2*n)
		if err != nil || n == 0 {
			return err
		}
		h, t := tmp[:n], tmp[n:]
		scale, by := gamma.F32(), 1/float32(n)
		for i := 0; i < in.Len(); i += n {
			row, d, z := in.F32()[i:i+n], g.F32()[i:i+n], dx.F32()[i:i+n]
			mean := float32(0)
			if !rms {
				mean = k.Sum(row) * by
			}
			k.AddScalar(h, row, -mean)
			inv := float32(1 / math.Sqrt(float64(k.SumSq(h)*by)+float64(eps)))
			k.MulScalar(h, h, inv)
			if dBeta != nil {
				k.Add(dBeta, dBeta, d)
			}
			if dGamma != nil {
				k.Mul(t, d, h)
				k.Add(dGamma, dGamma, t)
			}
			k.Mul(z, d, scale)
			if !rms {
				mean = k.Sum(z) * by
			}
			k.MulScalar(h, h, k.Dot(z, h)*by)
			k.Sub(z, z, h)
			if !rms {
				k.AddScalar(z, z, -mean)
			}
			k.MulScalar(z, z, inv)
		}
		return nil
	}, dy[0], x.in[0], x.in[1])
	b.add(x.in[0], outs[0])
	b.add(x.in[1], outs[1])
	if wantBias {
		b.add(x.in[2], outs[2])
	}
	return nil
}

// gradBatchNorm is that of inference: mean and variance are constants.
func gradBatchNorm(b *backward, x *lnode, dy []*lvalue) error {
	for _, v := range x.in[3:] {
		if b.needs(v) {
			return errors.New("its mean or variance would be trained")
		}
	}
	eps, k := float64(x.float("epsilon", 1e-5)), b.simd
	wantScale, wantBias := b.needs(x.in[1]), b.needs(x.in[2])
	outs := b.kernels(x.op, 3, func(c *call) error {
		g, in, scale, mean, variance := c.in[0], c.in[1], c.in[2], c.in[3], c.in[4]
		dx, err := c.over(0, 0, graph.Float32, in.Shape...)
		if err != nil {
			return err
		}
		channels := scale.Len()
		var dScale, dBias []float32
		if wantScale {
			z, err := c.alloc(1, graph.Float32, channels)
			if err != nil {
				return err
			}
			dScale = z.F32()
			clear(dScale)
		}
		if wantBias {
			z, err := c.alloc(2, graph.Float32, channels)
			if err != nil {
				return err
			}
			dBias = z.F32()
			clear(dBias)
		}
		if in.Len() == 0 {
			return nil
		}
		plane := in.Len() / (in.Shape[0] * channels)
		for i := range in.Shape[0] * channels {
			ch := i % channels
			row, d, z := in.F32()[i*plane:(i+1)*plane], g.F32()[i*plane:(i+1)*plane], dx.F32()[i*plane:(i+1)*plane]
			inv := float32(1 / math.Sqrt(float64(variance.F32()[ch])+eps))
			sum := k.Sum(d)
			if dScale != nil {
				dScale[ch] += inv * (k.Dot(d, row) - float32(mean.F32()[ch]*sum))
			}
			if dBias != nil {
				dBias[ch] += sum
			}
			k.MulScalar(z, d, inv*scale.F32()[ch])
		}
		return nil
	}, dy[0], x.in[0], x.in[1], x.in[3], x.in[4])
	b.add(x.in[0], outs[0])
	b.add(x.in[1], outs[1])
	b.add(x.in[2], outs[2])
	return nil
}
