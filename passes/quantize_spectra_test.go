package passes

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// TestPartialSums: partial sums are of as many blocks as fit, for which at most a
// quarter of the bins give up a bit.
func TestPartialSums(t *testing.T) {
	const p, q, b = 12, 48, 64
	bins := b/2 + 1
	rng := rand.New(rand.NewPCG(1, 2))
	f := fixedSpectra{p: p, q: q, b: b, groups: 1, w: make([]float64, p*q*b), bias: make([]float64, p*b), x: -12, y: make([]int, p*b),
		xTops: make([]float64, q*bins), yTops: make([]float64, p), rounding: fixed.Once}
	for i := range f.w { // rows of blocks of all sizes
		f.w[i] = rng.NormFloat64() * math.Exp2(float64(i/(q*b))/p)
	}
	for i := range f.xTops {
		f.xTops[i] = 8
	}
	for i := range f.yTops {
		f.yTops[i] = 4000
	}
	s, err := f.quantize()
	if err != nil {
		t.Fatal(err)
	}
	if s.Group%2 != 0 || s.Group < 8 {
		t.Errorf("partial sums are of %d blocks", s.Group)
	}
	larger, low := 0, 0
	for i := range p {
		for k := range bins {
			if !sumsFit(f.sizes(s.W, i, k), s.Group) {
				t.Errorf("bin %d of row %d does not fit", k, i)
			}
			if sumsFit(f.sizes(s.W, i, k), s.Group+2) {
				larger++
			}
			square, count := 0.0, 0
			f.numbers(i, k, func(_, at int) {
				square, count = square+float64(s.W[at])*float64(s.W[at]), count+1
			})
			switch rms := math.Sqrt(square / float64(count)); {
			case rms < 0.49*f.leastSteps():
				t.Errorf("weights of bin %d of row %d are %.0f steps", k, i, rms)
			case rms < 0.99*f.leastSteps():
				low++
			}
		}
	}
	if larger == p*bins {
		t.Errorf("%d blocks would fit, too", s.Group+2)
	}
	if low == 0 || low > p*bins/4 {
		t.Errorf("%d of %d bins gave up a bit", low, p*bins)
	}
}
