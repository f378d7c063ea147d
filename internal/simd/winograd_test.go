package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestWinograd: transforms of all widths against their definition on windows
// of one channel, where all that is read and nothing else are numbers; odd
// outputs, which leave a part of the last tiles.
func TestWinograd(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(9, 10))
		for width := 1; width < 75; width++ {
			height := 1 + rng.IntN(7)
			rows, tiles := (height+1)/2, (width+1)/2
			xStep := 2*tiles + 2 + rng.IntN(3)
			x := newGuarded((2*rows+1)*xStep+2*tiles+2, rng.IntN(4))
			for i := range 2*rows + 2 {
				copy(x.s[i*xStep:], randoms(rng, 2*tiles+2))
			}
			g, bias := randoms(rng, 9), float32(rng.NormFloat64())
			plane := rows*tiles + rng.IntN(3)
			y := newGuarded(15*plane+rows*tiles, rng.IntN(4))
			k.WinogradInput(y.s, plane, x.s, xStep, rows, tiles)
			y.check(t)
			u := WinogradWeights(g, 1, 1)
			for p := range 16 {
				for i := range rows * tiles {
					y.s[p*plane+i] *= u[p][0]
				}
			}
			zStep := width + rng.IntN(3)
			z := newGuarded((height-1)*zStep+width, rng.IntN(4))
			k.WinogradOutput(z.s, zStep, y.s, plane, rows, tiles, height, width, bias, -3, 4)
			z.check(t)
			for i, got := range z.s {
				r, c := i/zStep, i%zStep
				if c >= width {
					if math.Float32bits(got) != guardBits {
						t.Fatalf("wrote between rows")
					}
					continue
				}
				want := float64(bias)
				for a := range 3 {
					for b := range 3 {
						want += float64(g[3*a+b]) * float64(x.s[(r+a)*xStep+c+b])
					}
				}
				want = min(max(want, -3), 4)
				// 20 roundings of sums that have at most 9 · 4 · 9/4 terms of |g·x|
				// below 4².
				if math.Abs(float64(got)-want) > 20*0x1p-24*81*16 {
					t.Fatalf("%d×%d: element %d, %d is %v, want %v", height, width, r, c, got, want)
				}
			}
		}
	})
}
