package runtime

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// circulantDense writes W [p, q, b, k…] out: the dense weights [m, per, taps] of
// a convolution in groups of per input channels.
func circulantDense(w *Tensor, m, per, group int) []float64 {
	p, q, b := w.Shape[0], w.Shape[1], w.Shape[2]
	taps := w.Len() / (p * q * b)
	d := make([]float64, m*per*taps)
	for r := range m {
		// Rows of blocks are padded group by group.
		i, a := r/(m/group)*(p/group)+r%(m/group)/b, r%(m/group)%b
		for ch := range per {
			for t := range taps {
				d[(r*per+ch)*taps+t] = float64(w.F32()[((i*q+ch/b)*b+((a-ch%b)%b+b)%b)*taps+t])
			}
		}
	}
	return d
}

// blockNorms bounds, for every output, Σ ‖w_ij‖·‖x_j‖ over the blocks and taps that it
// reads: by the largest of any output and channel of w, and what x is under the
// window.
func blockNorms(g geometry, x, w *Tensor, channels, m, group int) []float64 {
	p, q, b := w.Shape[0], w.Shape[1], w.Shape[2]
	in, _ := count(g.in)
	taps, _ := count(g.kernel)
	per := channels / group
	xNorm := func(sample, grp, j, at int) float64 {
		s := 0.0
		for c := j * b; c < min(per, (j+1)*b); c++ {
			v := float64(x.F32()[(sample*channels+grp*per+c)*in+at])
			s += v * v
		}
		return math.Sqrt(s)
	}
	wNorm := func(i, j, t int) float64 {
		s := 0.0
		for c := range b {
			v := float64(w.F32()[((i*q+j)*b+c)*taps+t])
			s += v * v
		}
		return math.Sqrt(s)
	}
	var out []float64
	for i := range x.Shape[0] * m {
		sample, r := i/m, i%m
		grp := r / (m / group)
		block := grp*(p/group) + r%(m/group)/b
		everyIndex(g.out, func(o []int) {
			s := 0.0
			g.reads(o, func(tap, at []int) {
				k, _ := flat(g.kernel, tap)
				pos, _ := flat(g.in, at)
				for j := range q {
					s += wNorm(block, j, k) * xNorm(sample, grp, j, pos)
				}
			})
			out = append(out, s)
		})
	}
	return out
}

// TestBlockCirculantConv: random geometries of one to three dims, groups, block
// sizes, channels that fill their blocks or not, on every path, with weights
// constant and fed, with limits and without, against the dense convolution in
// float64; the same bits on one thread and on three, and from memory full of NaN.
func TestBlockCirculantConv(t *testing.T) {
	for _, path := range simd.Supported() {
		kernels, err := simd.For(path)
		if err != nil {
			t.Fatal(err)
		}
		methods := map[convMethod]int{}
		for seed := range uint64(90) {
			r := rand.New(rand.NewPCG(seed, 7))
			dims := 1 + r.IntN(3)
			var g geometry
			for range dims {
				g.kernel = append(g.kernel, 1+r.IntN(3))
				g.strides = append(g.strides, 1+r.IntN(3))
				g.dilations = append(g.dilations, 1+r.IntN(2))
			}
			for range 2 * dims {
				g.pads = append(g.pads, r.IntN(3))
			}
			group := []int{1, 1, 2, 3}[r.IntN(4)]
			b := []int{2, 3, 4, 5, 8, 16, 32}[r.IntN(7)]
			n, per, out := 1+r.IntN(2), 1+r.IntN(2*b), 1+r.IntN(2*b)
			if seed%10 == 0 { // enough blocks for the products of tiles of outputs
				dims, g = 2, geometry{kernel: []int{3, 3}, strides: []int{1, 1}, dilations: []int{1, 1}, pads: []int{1, 1, 1, 1}}
				b, group, per, out = 2, 1, 70, 66
			}
			for i := range dims {
				span := (g.kernel[i]-1)*g.dilations[i] + 1
				in := max(1, span-g.pads[i]-g.pads[i+dims]) + r.IntN(12/dims)
				g.in = append(g.in, in)
				g.out = append(g.out, (in+g.pads[i]+g.pads[i+dims]-span)/g.strides[i]+1)
			}
			channels, m := group*per, group*out
			p, q := group*((out+b-1)/b), (per+b-1)/b
			x, w, bias := noise(seed, append([]int{n, channels}, g.in...)...), noise(seed+1, append([]int{p, q, b}, g.kernel...)...), noise(seed+2, m)
			want, _ := convolved(g, floatsOf(t, x), circulantDense(w, m, per, group), floatsOf(t, bias), n, channels, m, group)
			bound := blockNorms(g, x, w, channels, m, group)
			taps, _ := count(g.kernel)
			steps := 4 * bits.Len(uint(b)) // roundings of the transforms
			if b&(b-1) != 0 {
				steps = 4 * b
			}
			conv := graphNode(t, fmt.Sprintf("y = ConvBlockCirculantConv <out_channels = %d, group = %d, %s> (x, w, b)", m, group, g.text()))
			var first []float32
			for variant := range 6 {
				node := node{op: "BlockCirculantConv", domain: graph.LatheDomain, opset: 1, attrs: conv.Attrs, simd: kernels, given: []bool{true, true, true}, consts: make([]*Tensor, 3), dropped: make([]bool, 3)}
				in := []*Tensor{x, w, bias}
				if variant%3 > 0 {
					node.consts[1], node.consts[2] = w, bias
				}
				v, err := newCirculantConv(&node)
				if err != nil {
					t.Fatal(err)
				}
				lo, hi := math.Inf(-1), math.Inf(1)
				if variant%3 == 2 {
					lo, hi = -0.5, 2
					v.lo, v.hi = -0.5, 2
				}
				s := &Session{ctx: t.Context(), team: newTeam(1 + variant/3*2)}
				s.pool.limit, s.pool.dirty = 1<<30, true
				c := &call{in: in, out: []*Tensor{{}}, s: s}
				for range 2 {
					if err := v.run(c); err != nil {
						t.Fatalf("%v: %+v: %v", path, g, err)
					}
					methods[c.state.(*circulantState).inner.state.(*convState).how]++
					z := c.out[0].F32()
					if first == nil {
						first = slices.Clone(z)
					}
					for i, y := range z {
						limit := float64(taps*q+steps+16) * 0x1p-24 * (bound[i] + math.Abs(float64(bias.F32()[i/(len(want)/(n*m))%m])))
						ref := min(max(want[i], lo), hi)
						same := y == min(max(first[i], float32(lo)), float32(hi))
						if !(math.Abs(float64(y)-ref) <= limit) || !same {
							t.Fatalf("%v: %+v, %d → %d channels in %d groups, b = %d, variant %d: element %d is %v, want %v ± %v and the bits of %v",
								path, g, channels, m, group, b, variant, i, y, ref, limit, first[i])
						}
					}
					c.tidy()
				}
				s.pool.release(c.out[0])
				back := 0
				for _, list := range s.pool.free {
					for _, b := range list {
						back += len(b.mem)
					}
				}
				if back != s.pool.bytes {
					t.Fatalf("%d of %d bytes came back", back, s.pool.bytes)
				}
				s.team.close()
			}
		}
		if methods[convLanes] == 0 || methods[convSlides] == 0 {
			t.Errorf("%v: computed by methods %v", path, methods)
		}
	}
}

// What does not fit is refused with words, whatever it is.
func TestBlockCirculantConvRefuses(t *testing.T) {
	for _, c := range []struct{ attrs, x, w, says string }{
		{"out_channels = 9", "float[1,4,5]", "float[2,1,4,3]", "out_channels is 9"},
		{"out_channels = 0", "float[1,4,5]", "float[2,1,4,3]", "out_channels is 0"},
		{"out_channels = 8", "float[1,5,5]", "float[2,1,4,3]", "channels"},
		{"out_channels = 8", "float[1,4,2]", "float[2,1,4,3]", "window spans 3"},
		{"out_channels = 8", "float[1,4,5,5]", "float[2,1,4,3]", ""},
		{"out_channels = 8", "float[1,4,5]", "float[2,1,1,3]", ""},
		{"out_channels = 8, group = 3", "float[1,4,5]", "float[2,1,4,3]", ""},
		{"out_channels = 8, group = -2", "float[1,4,5]", "float[2,1,4,3]", ""},
		{"out_channels = 7, group = 2", "float[1,4,5]", "float[2,1,4,3]", "in 2 groups"},
		{"out_channels = 8, group = 2", "float[1,7,5]", "float[2,1,4,3]", "2 groups of at most 4"},
		{"out_channels = 8, group = 2", "float[1,10,5]", "float[2,1,4,3]", "2 groups of at most 4"},
		{"out_channels = 8, pads = [2000000000, 2000000000]", "float[1,4,5]", "float[2,1,4,3]", "too large"},
	} {
		m, err := graph.Parse(fmt.Sprintf(`<ir_version: 8, opset_import: ["" : 17, "lathe" : 1]>
g (%s x, %s w, float[n] b) => (y)
{
  y = lathe.BlockCirculantConv <%s> (x, w, b)
}`, c.x, c.w, c.attrs))
		if err != nil {
			t.Fatal(err)
		}
		prog, err := Compile(m, Options{})
		if err == nil {
			dims := func(name string) []int {
				d, _ := m.Graph.Value(name).Declared.StaticDims()
				var out []int
				for _, v := range d {
					out = append(out, int(v))
				}
				return out
			}
			x, w := noise(1, dims("x")...), noise(2, dims("w")...)
			_, err = prog.NewSession(SessionOptions{}).Run(t.Context(), denseFeeds(t, prog, x, w, noise(3, 8)))
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}
