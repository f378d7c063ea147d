package generate

import (
	"math"
	"testing"
)

// draws counts what a sampler draws from logits.
func draws(t *testing.T, s Sampling, logits []float32, n int) []int {
	t.Helper()
	count := make([]int, len(logits))
	x := NewSampler(s)
	for range n {
		token, err := x.Draw(logits)
		if err != nil {
			t.Fatal(err)
		}
		count[token]++
	}
	return count
}

// TestDraw: tokens come as often as the softmax of the logits over temperature
// says, within four standard deviations, and those that are excluded never.
func TestDraw(t *testing.T) {
	inf := float32(math.Inf(-1))
	logits := []float32{1, 3, 2, inf, 0, 3, -1}
	for _, c := range []struct {
		s       Sampling
		allowed []int
	}{
		{Sampling{Temperature: 1}, []int{0, 1, 2, 4, 5, 6}},
		{Sampling{Temperature: 0.5}, []int{0, 1, 2, 4, 5, 6}},
		{Sampling{Temperature: 3, TopP: 1}, []int{0, 1, 2, 4, 5, 6}},
		{Sampling{Temperature: 1, TopK: 3}, []int{1, 5, 2}},
		{Sampling{Temperature: 1, TopK: 1}, []int{1}}, // of two the first
		{Sampling{Temperature: 1, TopK: 100}, []int{0, 1, 2, 4, 5, 6}},
		// The probabilities of 1, 5, 2, 0 are 0.393, 0.393, 0.145, 0.053.
		{Sampling{Temperature: 1, TopP: 0.3}, []int{1}},
		{Sampling{Temperature: 1, TopP: 0.5}, []int{1, 5}},
		{Sampling{Temperature: 1, TopP: 0.9}, []int{1, 5, 2}},
		{Sampling{Temperature: 1, TopP: 0.95}, []int{1, 5, 2, 0}},
		// Of those that are left of three, 1 and 5 have 0.422 each.
		{Sampling{Temperature: 1, TopK: 3, TopP: 0.84}, []int{1, 5}},
		{Sampling{Temperature: 1, TopK: 3, TopP: 0.85}, []int{1, 5, 2}},
		{Sampling{}, []int{1}},
	} {
		const n = 20000
		got := draws(t, c.s, logits, n)
		total := 0.0
		p := make([]float64, len(logits))
		for _, i := range c.allowed {
			p[i] = 1
			if c.s.Temperature > 0 {
				p[i] = math.Exp(float64(logits[i]) / c.s.Temperature)
			}
			total += p[i]
		}
		for i := range p {
			want := n * p[i] / total
			if d := math.Abs(float64(got[i]) - want); d > 4*math.Sqrt(want*(1-p[i]/total)) {
				t.Errorf("%+v: token %d came %d times, want %.0f", c.s, i, got[i], want)
			}
		}
	}
}

func TestDrawRefuses(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		s      Sampling
		logits []float32
	}{
		{Sampling{}, nil},
		{Sampling{}, []float32{1, nan}},
		{Sampling{Temperature: -1}, []float32{1}},
		{Sampling{Temperature: math.NaN()}, []float32{1}},
		{Sampling{TopK: -1}, []float32{1}},
		{Sampling{TopP: 1.5}, []float32{1}},
	} {
		if _, err := NewSampler(c.s).Draw(c.logits); err == nil {
			t.Errorf("%+v of %v is drawn", c.s, c.logits)
		}
	}
	inf := float32(math.Inf(1))
	if x, err := NewSampler(Sampling{Temperature: 1}).Draw([]float32{1, inf}); err != nil || x != 1 {
		t.Errorf("an infinite logit: %d, %v", x, err)
	}
}
