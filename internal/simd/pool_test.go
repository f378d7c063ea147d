package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestMaxOfFourGradient: all widths, with windows that hold their largest
// element twice, and others that hold NaN, against the definition.
func TestMaxOfFourGradient(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(11, 12))
		for width := 1; width < 75; width++ {
			rows := 1 + rng.IntN(4)
			step := 2*width + rng.IntN(3)
			n := (2*rows-1)*step + 2*width
			x, dx := newGuarded(n, rng.IntN(4)), newGuarded(n, rng.IntN(4))
			y, dy := newGuarded(rows*width, rng.IntN(4)), newGuarded(rows*width, rng.IntN(4))
			copy(dy.s, randoms(rng, rows*width))
			for i := range x.s {
				x.s[i] = float32(rng.IntN(5))
				if rng.IntN(50) == 0 {
					x.s[i] = float32(math.NaN())
				}
			}
			window := func(o int) [4]int {
				at := 2*(o/width)*step + 2*(o%width)
				return [4]int{at, at + 1, at + step, at + step + 1}
			}
			for o := range y.s {
				w := window(o)
				y.s[o] = max(x.s[w[0]], x.s[w[1]], x.s[w[2]], x.s[w[3]])
			}
			want := make([]float32, n)
			for i := range want {
				want[i] = math.Float32frombits(guardBits)
			}
			for o, largest := range y.s {
				given := false
				for _, at := range window(o) {
					want[at] = 0
					if x.s[at] == largest && !given {
						want[at], given = dy.s[o], true
					}
				}
			}
			k.MaxOfFourGradient(dx.s, step, dy.s, x.s, y.s, rows, width)
			dx.check(t)
			for i, got := range dx.s {
				if math.Float32bits(got) != math.Float32bits(want[i]) {
					t.Fatalf("%d×%d windows, rows %d apart: element %d is %v, want %v", rows, width, step, i, got, want[i])
				}
			}
		}
	})
}
