package circulant

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// TestChain: a chain has the bits of its parts, whatever the number of tokens, and
// however they are split.
func TestChain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		for _, c := range []struct{ n, h, m, b1, b2 int }{{24, 40, 12, 4, 8}, {32, 70, 30, 16, 16}, {64, 256, 64, 64, 64}, {6, 9, 4, 3, 5}, {256, 512, 256, 128, 256}} {
			op := func(m, n, b int) *Operator {
				o, err := NewOperator(randomMatrix(t, rng, m, ceilDiv(n, b)*b, b), random(rng, m), k)
				if err != nil {
					t.Fatal(err)
				}
				return o
			}
			first, second := op(c.h, c.n, c.b1), op(c.m, c.h, c.b2)
			chain, err := NewChain(first, second, k.Relu)
			if err != nil {
				t.Fatal(err)
			}
			m, n := chain.Dims()
			for _, tokens := range []int{0, 1, 2, 3, 9, 16, 21, 50} {
				x, h := random(rng, tokens*n), make([]float32, tokens*second.n)
				want, got := make([]float32, tokens*m), make([]float32, tokens*m)
				first.Apply(h, second.n, x, n, tokens, make([]float32, first.Workspace()))
				k.Relu(h, h)
				for i := range h {
					if i%second.n >= first.m {
						h[i] = 0
					}
				}
				second.Apply(want, m, h, second.n, tokens, make([]float32, second.Workspace()))
				ws := poisoned(chain.Workspace())
				cut := rng.IntN(tokens + 1)
				chain.Apply(got, x, 0, cut, ws)
				chain.Apply(got, x, cut, tokens, ws)
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("%+v: element %d of %d tokens is %g, of the parts %g", c, i, tokens, got[i], want[i])
					}
				}
			}
			if _, err := NewChain(second, second, k.Relu); err == nil && second.n != second.m {
				t.Errorf("%+v: a chain of %d outputs and %d inputs", c, second.m, second.n)
			}
		}
	})
}

// BenchmarkChain compares 768 → 3072 → 768 with Gelu between, 128 tokens, in one piece
// and one after the other.
func BenchmarkChain(b *testing.B) {
	const tokens, n, h = 128, 768, 3072
	k := simd.Best().With(&simd.Store{})
	for _, block := range []int{8, 16, 32, 64, 128} {
		op := func(m, n int) *Operator {
			w := &Matrix{M: m, N: n, P: m / block, Q: n / block, B: block, W: make([]float32, m*n/block)}
			for i := range w.W {
				w.W[i] = float32(i%7-3) / 64
			}
			o, err := NewOperator(w, make([]float32, m), k)
			if err != nil {
				b.Fatal(err)
			}
			return o
		}
		first, second := op(h, n), op(n, h)
		chain, err := NewChain(first, second, k.Gelu)
		if err != nil {
			b.Fatal(err)
		}
		store := &simd.Store{}
		x, between, y := store.Get(tokens*n), store.Get(tokens*h), store.Get(tokens*n)
		for i := range x {
			x[i] = float32(i%5-2) / 2
		}
		ws := store.Get(max(chain.Workspace(), first.Workspace(), second.Workspace()))
		b.Run(fmt.Sprintf("b%d/chain", block), func(b *testing.B) {
			for b.Loop() {
				chain.Apply(y, x, 0, tokens, ws)
			}
		})
		b.Run(fmt.Sprintf("b%d/parts", block), func(b *testing.B) {
			for b.Loop() {
				first.Apply(between, h, x, n, tokens, ws)
				k.Gelu(between, between)
				second.Apply(y, n, between, h, tokens, ws)
			}
		})
	}
}
