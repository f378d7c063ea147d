package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// absolutes transforms a matrix by the absolute values of another: |t|·|a|·|t|ᵀ.
func absolutes(t, a [][]float64) [][]float64 {
	across := func(a [][]float64) [][]float64 { // (|t|·a)ᵀ
		out := make([][]float64, len(a[0]))
		for j := range out {
			out[j] = make([]float64, len(t))
			for i, row := range t {
				for k, v := range row {
					out[j][i] += math.Abs(v * a[k][j])
				}
			}
		}
		return out
	}
	return across(across(a))
}

var (
	winogradA = [][]float64{{1, 1, 1, 0}, {0, 1, -1, -1}}
	winogradB = [][]float64{{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}}
	winogradG = [][]float64{{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}
)

// TestWinograd: random sizes, paddings and channels on every path, with what
// fusion appends and without, against the definition and within the bound that
// winograd states; the same bits for any number of threads.
func TestWinograd(t *testing.T) {
	for _, path := range simd.Supported() {
		kernels, err := simd.For(path)
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(8) {
			r := rand.New(rand.NewPCG(seed, 2))
			g := geometry{kernel: []int{3, 3}, pads: []int{r.IntN(3), r.IntN(3), r.IntN(3), r.IntN(3)}}
			for i := range 2 {
				in := 3 + r.IntN(9+20*i)
				g.in = append(g.in, in)
				g.out = append(g.out, in+g.pads[i]+g.pads[i+2]-2)
			}
			n, channels, m := 1+r.IntN(2), winogradLeast+r.IntN(9), winogradLeast+r.IntN(17)
			x, w, b := noise(seed, append([]int{n, channels}, g.in...)...), noise(seed+1, m, channels, 3, 3), noise(seed+2, m)
			want, _ := convolved(g, floatsOf(t, x), floatsOf(t, w), floatsOf(t, b), n, channels, m, 1)
			add := noise(seed+3, append([]int{n, m}, g.out...)...)
			bound := winogradBound(g, x.F32(), w.F32(), b.F32(), n, channels, m, path)

			conv := graphNode(t, fmt.Sprintf("y = Conv <%s> (x, w, b)", g.text()))
			first := map[bool][]float32{}
			for variant := range 4 {
				fused, threads := variant%2 == 1, 1+variant/2*2
				node := node{op: "Conv", opset: 11, attrs: conv.Attrs, simd: kernels, given: []bool{true, true, true}, consts: []*Tensor{nil, w, b}, dropped: make([]bool, 3)}
				v, err := newConvolution(&node)
				if err != nil {
					t.Fatal(err)
				}
				in := []*Tensor{x}
				if fused {
					v.add, v.lo, v.hi = true, -1, 3
					in = append(in, add)
				}
				s := &Session{ctx: t.Context(), team: newTeam(threads)}
				s.pool.limit, s.pool.dirty = 1<<30, true
				c := &call{in: in, out: []*Tensor{{}}, s: s}
				for range 2 {
					if err := v.run(c); err != nil {
						t.Fatalf("%v: %+v: %v", path, g, err)
					}
					if c.state.(*convState).how != convWinograd {
						t.Fatal("computed another way")
					}
					z := c.out[0].F32()
					if first[fused] == nil {
						first[fused] = slices.Clone(z)
					}
					for i, got := range z {
						y, e := want[i], bound[i]
						if fused {
							y += float64(add.F32()[i])
							e += 0x1p-23 * math.Abs(y)
							y = min(max(y, -1), 3)
						}
						if !(math.Abs(float64(got)-y) <= e) || got != first[fused][i] {
							t.Fatalf("%v: %+v, %d → %d channels, %d threads: element %d is %v, want %v ± %v and the bits of %v",
								path, g, channels, m, threads, i, got, y, e, first[fused][i])
						}
					}
					c.tidy()
				}
				s.team.close()
			}
		}
	}
}

// winogradBound is the bound that winograd states, by element of Y.
func winogradBound(g geometry, x, w, b []float32, n, channels, m int, path simd.Path) []float64 {
	matrix := func(size int, at func(i, j int) float64) [][]float64 {
		a := make([][]float64, size)
		for i := range a {
			for j := range size {
				a[i] = append(a[i], at(i, j))
			}
		}
		return a
	}
	var weights [][][]float64 // of channels of Y and X
	for i := range m * channels {
		weights = append(weights, absolutes(winogradG, matrix(3, func(r, c int) float64 { return float64(w[9*i+3*r+c]) })))
	}
	u := float64(channels+8) * 0x1p-24
	if path == simd.Portable {
		u += 0x1p-24
	}
	size := g.in[0] * g.in[1]
	bound := make([]float64, n*m*g.out[0]*g.out[1])
	for s := range n {
		for r := 0; r < g.out[0]; r += 2 {
			for c := 0; c < g.out[1]; c += 2 {
				var inputs [][][]float64
				for ch := range channels {
					inputs = append(inputs, absolutes(winogradB, matrix(4, func(i, j int) float64 {
						p, ok := flat(g.in, []int{r + i - g.pads[0], c + j - g.pads[1]})
						if !ok {
							return 0
						}
						return float64(x[(s*channels+ch)*size+p])
					})))
				}
				for k := range m {
					sum := matrix(4, func(i, j int) float64 {
						v := 0.0
						for ch := range channels {
							v += weights[k*channels+ch][i][j] * inputs[ch][i][j]
						}
						return v
					})
					for i, row := range absolutes(winogradA, sum) {
						for j, v := range row {
							if p, ok := flat(g.out, []int{r + i, c + j}); ok {
								bound[(s*m+k)*g.out[0]*g.out[1]+p] = 1.001 * u * (v + math.Abs(float64(b[k])))
							}
						}
					}
				}
			}
		}
	}
	return bound
}
