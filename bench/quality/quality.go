// Package quality computes the numbers by which outputs are judged, in
// float64 and without any code of the main module.
package quality

import (
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/bench/nd"
)

// Accuracy is the share of rows of logits [N, classes] whose largest value
// (the first of equals) stands at the row's label [N].
func Accuracy(logits, labels nd.Array) (float64, error) {
	want, ok := labels.Data.([]int64)
	if !ok || len(logits.Shape) != 2 || len(labels.Shape) != 1 || len(want) == 0 || logits.Shape[0] < labels.Shape[0] {
		return 0, fmt.Errorf("accuracy of logits %v for labels %v %v", logits.Shape, labels.Type(), labels.Shape)
	}
	classes := int(logits.Shape[1])
	values, right := logits.Float64s(), 0
	for i, label := range want {
		best, row := 0, values[i*classes:(i+1)*classes]
		for c, v := range row {
			if v > row[best] {
				best = c
			}
		}
		if int64(best) == label {
			right++
		}
	}
	return float64(right) / float64(len(want)), nil
}

// NextTokenNLL is the mean of −log softmax(logits[n, t])[tokens[n, t+1]] over
// all n and over t = 0 … T−2, in nats, for logits [N, T, V] and tokens [N, T].
func NextTokenNLL(logits, tokens nd.Array) (float64, error) {
	ids, ok := tokens.Data.([]int64)
	if !ok || len(logits.Shape) != 3 || len(tokens.Shape) != 2 || logits.Shape[0] != tokens.Shape[0] || logits.Shape[1] != tokens.Shape[1] || tokens.Shape[1] < 2 {
		return 0, fmt.Errorf("nll of logits %v for tokens %v %v", logits.Shape, tokens.Type(), tokens.Shape)
	}
	T, V := int(logits.Shape[1]), int(logits.Shape[2])
	values, sum, n := logits.Float64s(), 0.0, 0
	for at := range ids {
		if at%T == T-1 {
			continue
		}
		row, next := values[at*V:(at+1)*V], ids[at+1]
		if next < 0 || next >= int64(V) {
			return 0, fmt.Errorf("token %d is outside a vocabulary of %d", next, V)
		}
		sum += logSumExp(row) - row[next]
		n++
	}
	return sum / float64(n), nil
}

// MeanKL is the mean over rows of KL(softmax(original) ‖ softmax(candidate)),
// in nats; the last axis is that of the classes.
func MeanKL(original, candidate nd.Array) (float64, error) {
	if len(original.Shape) == 0 || original.Len() == 0 || original.Len() != candidate.Len() {
		return 0, fmt.Errorf("KL of shapes %v and %v", original.Shape, candidate.Shape)
	}
	classes := int(original.Shape[len(original.Shape)-1])
	p, q, sum := original.Float64s(), candidate.Float64s(), 0.0
	for at := 0; at < len(p); at += classes {
		a, b := p[at:at+classes], q[at:at+classes]
		la, lb := logSumExp(a), logSumExp(b)
		for i := range a {
			sum += math.Exp(a[i]-la) * ((a[i] - la) - (b[i] - lb))
		}
	}
	return sum / float64(len(p)/classes), nil
}

func logSumExp(row []float64) float64 {
	m, sum := math.Inf(-1), 0.0
	for _, v := range row {
		m = max(m, v)
	}
	for _, v := range row {
		sum += math.Exp(v - m)
	}
	return m + math.Log(sum)
}

// RelativeError is max|got − want| / max|want|, the definition used all over
// this project, and infinite where a NaN or an infinity has no equal opposite.
func RelativeError(got, want nd.Array) (float64, error) {
	if len(got.Shape) != len(want.Shape) || got.Len() != want.Len() {
		return 0, fmt.Errorf("shape %v against %v", got.Shape, want.Shape)
	}
	for i, d := range want.Shape {
		if got.Shape[i] != d {
			return 0, fmt.Errorf("shape %v against %v", got.Shape, want.Shape)
		}
	}
	diff, scale := 0.0, 0.0
	b := want.Float64s()
	for i, a := range got.Float64s() {
		if a == b[i] || math.IsNaN(a) && math.IsNaN(b[i]) {
			scale = max(scale, finite(b[i]))
			continue
		}
		d := math.Abs(a - b[i])
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return math.Inf(1), nil
		}
		diff, scale = max(diff, d), max(scale, finite(b[i]))
	}
	if diff == 0 {
		return 0, nil
	}
	return diff / scale, nil
}

// finite is |v|, or 0 where that is no number.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return math.Abs(v)
}
