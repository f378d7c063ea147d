package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/runtime"
)

// loss is the loss of a chunk of samples, weight for each, and sets grads,
// unless that is nil, to its gradient. A sample's loss is the mean over its
// tokens that count; of a sample with logits z, teacher's logits y and label c
//
//	(1 − λ)·T²·KL(softmax(y/T) ‖ softmax(z/T)) − λ·log softmax(z)_c
//
// (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015),
// λ being 0 without labels and 1 without a teacher. Hidden states add the
// squared distance to the teacher's, relative to the mean square of these.
func (t *trainer) loss(ctx context.Context, c *chunk, values, grads []*runtime.Tensor, weight float64) (float64, error) {
	z, labels := values[0], c.of.labels
	n := len(c.numbers)
	if len(z.Shape) < 2 || z.Shape[0] != n || z.Len() == 0 {
		return 0, fmt.Errorf("logits have shape %v for %d samples, want [samples, …, classes]", z.Shape, n)
	}
	var g []float32
	if grads != nil {
		if grads[0] == nil {
			return 0, fmt.Errorf("no parameter moves the output")
		}
		g = grads[0].F32()
	}
	per := z.Len() / n
	classes := z.Shape[len(z.Shape)-1]
	mask, err := c.mask()
	if err != nil {
		return 0, err
	}
	var lesson *lesson
	if t.teacher != nil {
		if lesson, err = t.teacher.of(ctx, c); err != nil {
			return 0, err
		}
	}
	lambda := t.o.LabelWeight
	switch {
	case labels == nil:
		lambda = 0
	case lesson == nil:
		lambda = 1
	}
	if labels != nil && per != classes {
		return 0, fmt.Errorf("logits have shape %v: labels are of samples, not of tokens", z.Shape)
	}
	sum := 0.0
	// Tokens of each sample that count.
	tokens := per / classes
	counted := make([]int, n)
	kept := make([]bool, n*tokens)
	err = mask.Runs(z, func(from, to int) {
		for i := from; i < to; i++ {
			kept[i] = true
			counted[i/tokens]++
		}
	})
	if err != nil {
		return 0, err
	}
	p, q := make([]float32, classes), make([]float32, classes)
	var wide []float64 // log-probabilities, for labels
	if lambda > 0 {
		wide = make([]float64, classes)
	}
	for row, ok := range kept {
		if !ok {
			continue
		}
		i, lambda := row/tokens, lambda
		if c.mixed != nil && c.mixed[i] {
			lambda = 0
		}
		w := weight / float64(counted[i])
		zr := z.F32()[row*classes : (row+1)*classes]
		var gr []float32
		if g != nil {
			gr = g[row*classes : (row+1)*classes]
		}
		if lesson != nil && lambda < 1 {
			y := lesson.logits[i]
			if len(y) != per {
				return 0, fmt.Errorf("the teacher gives %d logits for a sample, the student %d", len(y), per)
			}
			at := row % tokens * classes
			sum += (1 - lambda) * w * t.divergence(y[at:at+classes], zr, p, q, gr, float32((1-lambda)*w))
		}
		if lambda > 0 {
			label := labels[c.numbers[i]]
			if label < 0 || label >= int64(classes) {
				return 0, fmt.Errorf("label %d of sample %d is none of %d classes", label, c.numbers[i], classes)
			}
			logSoftmax(wide, zr)
			sum -= lambda * w * wide[label]
			for j := range gr {
				gr[j] += float32(lambda * w * math.Exp(wide[j]))
			}
			if gr != nil {
				gr[label] -= float32(lambda * w)
			}
		}
	}
	for k, h := range values[1:] {
		var gh []float32
		if grads != nil && grads[1+k] != nil {
			gh = grads[1+k].F32()
		}
		d, err := distance(h, lesson.hidden[k], gh, t.o.HiddenWeight*weight*float64(n)/float64(len(values)-1))
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// logSoftmax sets p to log softmax(x).
func logSoftmax(p []float64, x []float32) {
	most := float64(slices.Max(x))
	sum := 0.0
	for i, v := range x {
		p[i] = float64(v) - most
		sum += math.Exp(p[i])
	}
	sum = math.Log(sum)
	for i := range p {
		p[i] -= sum
	}
}

// divergence is T²·KL(softmax(y/T) ‖ softmax(z/T)); its gradient with respect
// to z, T·(softmax(z/T) − softmax(y/T)), is added to g weight times. p and q
// are scratch, of as many elements. With logarithms of probabilities written as
// x/T − log Σ exp(x/T), KL takes one pass over the probabilities.
func (t *trainer) divergence(y, z, p, q, g []float32, weight float32) float64 {
	scale := 1 / t.o.Temperature
	t.simd.MaskedSoftmax(p, y, nil, float32(scale))
	t.simd.MaskedSoftmax(q, z, nil, float32(scale))
	kl := 0.0
	top, other := 0, 0 // the most probable ones
	step := weight * float32(t.o.Temperature)
	for i, e := range p {
		if e > 0 {
			kl += float64(float64(e) * (float64(y[i]) - float64(z[i])))
		}
		if e > p[top] {
			top = i
		}
		if q[i] > q[other] {
			other = i
		}
		if g != nil {
			g[i] += float32(step * (q[i] - e))
		}
	}
	kl *= scale
	kl += float64(z[other])*scale - math.Log(float64(q[other]))
	kl -= float64(y[top])*scale - math.Log(float64(p[top]))
	return t.o.Temperature * t.o.Temperature * math.Max(kl, 0)
}

// distance is weight·Σ(h − y)²/Σy², with its gradient in g.
func distance(h *runtime.Tensor, y []float32, g []float32, weight float64) (float64, error) {
	x := h.F32()
	if len(x) != len(y) {
		return 0, fmt.Errorf("hidden states have %d elements, the teacher's %d", len(x), len(y))
	}
	d, power := 0.0, 0.0
	for i, v := range x {
		e := float64(v) - float64(y[i])
		d += e * e
		power += float64(y[i]) * float64(y[i])
	}
	power = math.Max(power, 1e-30)
	for i := range g {
		g[i] = float32(2 * weight / power * (float64(x[i]) - float64(y[i])))
	}
	return weight * d / power, nil
}
