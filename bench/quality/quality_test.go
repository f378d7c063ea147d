package quality_test

import (
	"math"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/quality"
)

// Values worked out by hand.
func TestByHand(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		what string
		got  func() (float64, error)
		want float64
	}{
		{"one of two right, the first of equals counts", func() (float64, error) {
			return quality.Accuracy(nd.Of([]float32{1, 1, 0, 2, 0, 1}, 2, 3), nd.Of([]int64{0, 2}, 2))
		}, 0.5},
		{"the last position predicts nothing", func() (float64, error) {
			// Position 0 gives the next token, 1, the probability 3/4.
			return quality.NextTokenNLL(nd.Of([]float64{0, math.Log(3), 50, 0}, 1, 2, 2), nd.Of([]int64{0, 1}, 1, 2))
		}, math.Log(4.0 / 3)},
		{"KL(1/2, 1/2 ‖ 1/4, 3/4)", func() (float64, error) {
			return quality.MeanKL(nd.Of([]float64{5, 5}, 1, 2), nd.Of([]float64{0, math.Log(3)}, 1, 2))
		}, 0.5*math.Log(2) + 0.5*math.Log(2.0/3)},
		{"error against the largest value", func() (float64, error) {
			return quality.RelativeError(nd.Of([]float64{1.5, -4}, 2), nd.Of([]float64{1, -4}, 2))
		}, 0.125},
		{"the same NaN and infinity are no error", func() (float64, error) {
			return quality.RelativeError(nd.Of([]float64{nan, inf, 2}, 3), nd.Of([]float64{nan, inf, 1}, 3))
		}, 1},
		{"a NaN of one side", func() (float64, error) {
			return quality.RelativeError(nd.Of([]float64{nan, 1}, 2), nd.Of([]float64{0, 1}, 2))
		}, inf},
		{"an error where all is zero", func() (float64, error) {
			return quality.RelativeError(nd.Of([]float64{1}, 1), nd.Of([]float64{0}, 1))
		}, inf},
	} {
		got, err := c.got()
		if err != nil || got != c.want && !(math.Abs(got-c.want) < 1e-15) {
			t.Errorf("%s: %v, %v; want %v", c.what, got, err, c.want)
		}
	}
	if _, err := quality.RelativeError(nd.Of([]float64{1, 2}, 2, 1), nd.Of([]float64{1, 2}, 1, 2)); err == nil {
		t.Error("different shapes: no error")
	}
}
