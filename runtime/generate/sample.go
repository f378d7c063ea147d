package generate

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// Sampling says how a token is drawn from logits. The zero value draws the most
// probable token always.
type Sampling struct {
	// Temperature divides the logits; 0 takes the most probable token always,
	// and of several the first.
	Temperature float64
	// TopK draws from the most probable K tokens only; 0 from all.
	TopK int
	// TopP draws from the fewest tokens whose probabilities reach P together,
	// of those that TopK leaves; 0 or 1 from all of them.
	TopP float64
	// Seed determines what is drawn: the same logits and seed give the same
	// tokens.
	Seed uint64
}

// Check returns an error that says what is wrong with s, nil where nothing is.
func (s Sampling) Check() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 1):
		return fmt.Errorf("temperature %v: want 0 for the most probable token, or more", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k %d: want 0 for all tokens, or more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p %v: want a probability", s.TopP)
	}
	return nil
}

// Sampler draws tokens. It is for one goroutine at a time.
type Sampler struct {
	Sampling
	random       *rand.Rand
	heap, chosen []candidate
}

type candidate struct {
	token  int
	weight float64 // relative probability
}

// NewSampler returns a sampler that begins with the seed of s. Draw tells where s is
// not valid.
func NewSampler(s Sampling) *Sampler {
	return &Sampler{Sampling: s, random: rand.New(rand.NewPCG(s.Seed, 0))}
}

// Draw returns a token for logits, [vocabulary]. Sums are made in float64, from the
// most probable token on. It fails where there are no logits or one is NaN, and where
// Check does.
func (s *Sampler) Draw(logits []float32) (int, error) {
	if err := s.Check(); err != nil {
		return 0, err
	}
	best := -1
	for i, v := range logits {
		if v != v {
			return 0, fmt.Errorf("the logit of token %d is no number", i)
		}
		if best < 0 || v > logits[best] {
			best = i
		}
	}
	if best < 0 {
		return 0, errors.New("there are no logits")
	}
	if s.Temperature == 0 || math.IsInf(float64(logits[best]), 0) {
		return best, nil
	}
	s.heap = s.heap[:0]
	total := 0.0
	for i, v := range logits {
		if w := math.Exp((float64(v) - float64(logits[best])) / s.Temperature); w > 0 {
			s.heap = append(s.heap, candidate{i, w})
			total += w
		}
	}
	most, chosen := len(s.heap), s.heap
	byK, byP := s.TopK > 0 && s.TopK < most, s.TopP > 0 && s.TopP < 1
	if byK || byP {
		chosen = s.chosen[:0]
		for i := most/2 - 1; i >= 0; i-- {
			s.sink(i)
		}
	}
	if byK {
		most, total = s.TopK, 0
		for range most {
			chosen = append(chosen, s.pop())
			total += chosen[len(chosen)-1].weight
		}
	}
	if byP {
		n, sum := 0, 0.0
		for ; n < most && sum < s.TopP*total; n++ {
			if n == len(chosen) {
				chosen = append(chosen, s.pop())
			}
			sum += chosen[n].weight
		}
		s.chosen = chosen
		chosen, total = chosen[:n], sum
	}
	at := s.random.Float64() * total
	for _, c := range chosen {
		if at -= c.weight; at < 0 {
			return c.token, nil
		}
	}
	return chosen[len(chosen)-1].token, nil
}

// pop takes the most probable candidate out of the heap.
func (s *Sampler) pop() candidate {
	c, last := s.heap[0], len(s.heap)-1
	s.heap[0] = s.heap[last]
	s.heap = s.heap[:last]
	s.sink(0)
	return c
}

// before orders candidates, the most probable first.
func before(a, b candidate) bool {
	return a.weight > b.weight || a.weight == b.weight && a.token < b.token
}

// sink restores the heap below i.
func (s *Sampler) sink(i int) {
	for {
		k := 2*i + 1
		if k >= len(s.heap) {
			return
		}
		if k+1 < len(s.heap) && before(s.heap[k+1], s.heap[k]) {
			k++
		}
		if !before(s.heap[k], s.heap[i]) {
			return
		}
		s.heap[i], s.heap[k] = s.heap[k], s.heap[i]
		i = k
	}
}
