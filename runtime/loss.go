package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// lossOps compare scores with labels.
var lossOps = []operator{
	{"", "NegativeLogLikelihoodLoss", 12, prepareLoss, nil, halves},
	{"", "SoftmaxCrossEntropyLoss", 12, prepareLoss, nil, halves},
}

// loss is NegativeLogLikelihoodLoss or SoftmaxCrossEntropyLoss: scores [N, C,
// d…], labels [N, d…] and weights [C] →
//
//	−w[label]·p[n, label, d…]
//
// each, with reduction none, or their sum, or the sum over that of the weights
// (mean); p is the scores or their log-softmax over C, which is the second
// output. Labels of ignore_index weigh nothing. Sums are in float64.
type loss struct {
	reduction string
	ignore    int64
	ignores   bool
	softmax   bool
}

func prepareLoss(n *node) (kernel, error) {
	l := &loss{
		reduction: n.oneOf("reduction", "mean", "mean", "sum", "none"),
		ignore:    int64(n.int("ignore_index", 0)), ignores: n.isSet("ignore_index"),
		softmax: n.op == "SoftmaxCrossEntropyLoss",
	}
	return byType{graph.Float32: lossOf[float32](l), graph.Float64: lossOf[float64](l)}.kernel(0), errors.Join(n.inputs(2, 3), n.err)
}

func lossOf[T float32 | float64](l *loss) kernel {
	return func(c *call) error {
		x, labels := c.in[0], c.in[1]
		r := len(x.Shape)
		if r < 2 || len(labels.Shape) != r-1 || labels.Shape[0] != x.Shape[0] || !slices.Equal(labels.Shape[1:], x.Shape[2:]) {
			return fmt.Errorf("scores %v with labels %v, want [N, C, d…] and [N, d…]", x.Shape, labels.Shape)
		}
		classes := x.Shape[1]
		var weights []T
		if t := c.input(2); t != nil {
			if t.DType != x.DType || t.Len() != classes {
				return fmt.Errorf("weights %v%v for %d classes", t.DType, t.Shape, classes)
			}
			weights = view[T](t)
		}
		at, err := scratch[int64](c, labels.Len())
		if err != nil {
			return err
		}
		if err := wide(at, labels); err != nil {
			return err
		}
		p := view[T](x)
		lines := linesOf(x.Shape, 1)
		if l.softmax {
			if p, err = scratch[T](c, x.Len()); err != nil {
				return err
			}
			if c.wants(1) {
				z, err := c.alloc(1, x.DType, x.Shape...)
				if err != nil {
					return err
				}
				p = view[T](z)
			}
			for i := 0; i < labels.Len() && classes > 0; i++ {
				columnLogSoftmax(p[lines.line(i):], view[T](x)[lines.line(i):], classes, lines.inner)
			}
		}
		var each []T
		if l.reduction == "none" {
			z, err := c.alloc(0, x.DType, labels.Shape...)
			if err != nil {
				return err
			}
			each = view[T](z)
		}
		sum, total := 0.0, 0.0
		for i, label := range at {
			w, v := 0.0, 0.0
			if !l.ignores || label != l.ignore {
				if label < 0 || label >= int64(classes) {
					return fmt.Errorf("label %d of %d classes", label, classes)
				}
				if w = 1; weights != nil {
					w = float64(weights[label])
				}
				v = -w * float64(p[lines.line(i)+int(label)*lines.inner])
			}
			if each != nil {
				each[i] = T(v)
			}
			sum += v
			total += w
		}
		if each != nil {
			return nil
		}
		z, err := c.alloc(0, x.DType)
		if err != nil {
			return err
		}
		if l.reduction == "mean" {
			sum /= total
		}
		view[T](z)[0] = T(sum)
		return nil
	}
}
