package runtime

import (
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// trainingBatchNorm is BatchNormalization with the statistics of the batch,
// x [N, C, d…]: y = (x − μ)/√(σ² + eps)·scale + bias, and the running
// statistics r·momentum + (μ or σ²)·(1 − momentum), σ² over N·d elements.
func trainingBatchNorm(n *node) (kernel, error) {
	eps, momentum := float64(n.float("epsilon", 1e-5)), float64(n.float("momentum", 0.9))
	return byType{
		graph.Float32: trainingBatchNormOf[float32](eps, momentum),
		graph.Float64: trainingBatchNormOf[float64](eps, momentum),
	}.kernel(0), n.inputs(5, 5)
}

func trainingBatchNormOf[T float32 | float64](eps, momentum float64) kernel {
	d := dtypeOf[T]()
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) < 2 {
			return fmt.Errorf("input %v has no channels", x.Shape)
		}
		l := linesOf(x.Shape, 1)
		for i := 1; i < 5; i++ {
			if c.in[i].DType != d || c.in[i].Len() != l.n {
				return fmt.Errorf("input %d is %v%v, want %d of %v", i, c.in[i].DType, c.in[i].Shape, l.n, d)
			}
		}
		if _, err := c.alloc(0, d, x.Shape...); err != nil {
			return err
		}
		running := [2][]T{}
		for i := range running {
			z, err := c.alloc(1+i, d, l.n)
			if err != nil {
				return err
			}
			running[i] = view[T](z)
		}
		xs, zs := view[T](x), view[T](c.target(0))
		size := float64(l.outer * l.inner)
		for ch := range l.n {
			mean, variance := 0.0, 0.0
			for o := range l.outer {
				for _, v := range xs[(o*l.n+ch)*l.inner:][:l.inner] {
					mean += float64(v)
				}
			}
			mean /= size
			for o := range l.outer {
				for _, v := range xs[(o*l.n+ch)*l.inner:][:l.inner] {
					e := float64(v) - mean
					variance += float64(e * e)
				}
			}
			variance /= size
			a, b := float64(view[T](c.in[1])[ch])/math.Sqrt(variance+eps), float64(view[T](c.in[2])[ch])
			for o := range l.outer {
				at := (o*l.n + ch) * l.inner
				for j, v := range xs[at:][:l.inner] {
					zs[at+j] = T(float64((float64(v)-mean)*a) + b)
				}
			}
			running[0][ch] = T(float64(float64(view[T](c.in[3])[ch])*momentum) + float64(mean*(1-momentum)))
			running[1][ch] = T(float64(float64(view[T](c.in[4])[ch])*momentum) + float64(variance*(1-momentum)))
		}
		return nil
	}
}
