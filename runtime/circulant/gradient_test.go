package circulant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// The gradients are those of Σ_t g·(W·x): Σ_t g xᵀ summed over the entries that
// share a weight, and g·W.
func TestGradient(t *testing.T) {
	eachPath(t, func(t *testing.T, k *simd.Kernels) {
		for _, s := range shapes {
			if s.m*s.n > 1<<16 {
				continue // the reference takes its time
			}
			t.Run(fmt.Sprintf("%dx%d/b%d", s.m, s.n, s.b), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(s.m*s.n), uint64(s.b)))
				c := randomMatrix(t, rng, s.m, s.n, s.b)
				for _, tokens := range []int{0, 1, 7, 16, 37} {
					ldx, ldy := s.n+1, s.m+2
					x, dy := random(rng, tokens*ldx), random(rng, tokens*ldy)
					g, err := NewGradient(s.m, s.n, s.b, k)
					if err != nil {
						t.Fatal(err)
					}
					start := random(rng, len(c.W))
					dw := append(append([]float32(nil), start...), 77)
					g.AddWeights(dw[:len(c.W)], dy, ldy, x, ldx, tokens, poisoned(g.Workspace()))
					if dw[len(c.W)] != 77 {
						t.Fatal("wrote behind dw")
					}
					want := make([]float64, len(c.W))
					for tok := range tokens {
						for r := range s.m {
							for j := range s.n {
								i := (r/s.b*c.Q+j/s.b)*s.b + wrap(r%s.b-j%s.b, s.b)
								want[i] += float64(dy[tok*ldy+r]) * float64(x[tok*ldx+j])
							}
						}
					}
					// A sum of tokens·b products of size 1, with the errors of three
					// transforms and of the sum; see reference.
					transform := math.Log2(float64(s.b))
					if s.b&(s.b-1) != 0 {
						transform = float64(s.b)
					}
					bound := 3 * 2 * 0x1p-24 * math.Sqrt((3*transform+float64(tokens)/2+2)*float64(tokens*s.b+1))
					for i, v := range want {
						if d := math.Abs(float64(dw[i]) - float64(start[i]) - v); !(d <= bound) {
							t.Fatalf("%d tokens: ∂w[%d] = %g, want %g ± %g", tokens, i, dw[i]-start[i], v, bound)
						}
					}

					o, err := NewOperator(c.Transpose(), nil, k)
					if err != nil {
						t.Fatal(err)
					}
					dx := make([]float32, tokens*s.n)
					o.Apply(dx, s.n, dy, ldy, tokens, make([]float32, o.Workspace()))
					d := c.Dense()
					_, bounds := reference(c.Transpose(), nil, dy, ldy, tokens)
					for tok := range tokens {
						for j := range s.n {
							var want float64
							for r := range s.m {
								want += float64(dy[tok*ldy+r]) * float64(d[r*s.n+j])
							}
							if e := math.Abs(float64(dx[tok*s.n+j]) - want); !(e <= bounds[tok*s.n+j]) {
								t.Fatalf("%d tokens: ∂x[%d, %d] = %g, want %g ± %g", tokens, tok, j, dx[tok*s.n+j], want, bounds[tok*s.n+j])
							}
						}
					}
				}
			})
		}
	})
}

func TestGradientAllocatesNothing(t *testing.T) {
	g, err := NewGradient(40, 50, 8, simd.Best())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	x, dy, dw, ws := random(rng, 20*50), random(rng, 20*40), make([]float32, 5*7*8), make([]float32, g.Workspace())
	if a := testing.AllocsPerRun(5, func() { g.AddWeights(dw, dy, 40, x, 50, 20, ws) }); a != 0 {
		t.Errorf("%g allocations", a)
	}
}
