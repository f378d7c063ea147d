package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// noise is a tensor of normal deviates, the same for a seed.
func noise(seed uint64, shape ...int) *Tensor {
	n, err := count(shape)
	if err != nil {
		panic(err)
	}
	return FromSlice(shape, floats(seed, n))
}

// list writes an attribute of integers.
func list(name string, v []int) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf(", %s = [%s]", name, strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ", "), "[]"))
}

// everyIndex calls f with every index into a shape.
func everyIndex(shape []int, f func(at []int)) {
	n, _ := count(shape)
	at := make([]int, len(shape))
	for range n {
		f(at)
		for k := len(at) - 1; k >= 0; k-- {
			if at[k]++; at[k] < shape[k] {
				break
			}
			at[k] = 0
		}
	}
}

// flat is the place of an index in a shape; ok is false outside of it.
func flat(shape, at []int) (p int, ok bool) {
	for i, d := range shape {
		if at[i] < 0 || at[i] >= d {
			return 0, false
		}
		p = p*d + at[i]
	}
	return p, true
}

// geometry is a sliding window for tests; the pads are numpy's, worked out by
// hand for auto_pad.
type geometry struct {
	in, kernel, strides, dilations, pads []int
	auto                                 string
	ceil                                 bool
	out                                  []int
}

var geometries = []geometry{
	{in: []int{7}, kernel: []int{3}, out: []int{5}},
	{in: []int{1}, kernel: []int{1}, out: []int{1}},
	{in: []int{10}, kernel: []int{4}, strides: []int{3}, dilations: []int{2}, pads: []int{5, 1}, out: []int{4}},
	{in: []int{5}, kernel: []int{2}, pads: []int{4, 4}, out: []int{12}},
	{in: []int{5, 9}, kernel: []int{1, 1}, out: []int{5, 9}},
	{in: []int{5, 9}, kernel: []int{1, 1}, strides: []int{2, 3}, out: []int{3, 3}},
	{in: []int{6, 5}, kernel: []int{3, 2}, strides: []int{2, 1}, pads: []int{1, 0, 2, 1}, out: []int{4, 5}},
	{in: []int{23, 31}, kernel: []int{5, 3}, strides: []int{1, 1}, dilations: []int{2, 3}, pads: []int{4, 3, 4, 3}, out: []int{23, 31}},
	{in: []int{6, 7}, kernel: []int{3, 4}, strides: []int{2, 2}, auto: "SAME_UPPER", pads: []int{0, 1, 1, 2}, out: []int{3, 4}},
	{in: []int{6, 7}, kernel: []int{3, 4}, strides: []int{2, 2}, auto: "SAME_LOWER", pads: []int{1, 2, 0, 1}, out: []int{3, 4}},
	{in: []int{6, 7}, kernel: []int{3, 4}, strides: []int{2, 3}, auto: "VALID", pads: []int{0, 0, 0, 0}, out: []int{2, 2}},
	{in: []int{7}, kernel: []int{3}, strides: []int{1}, dilations: []int{2}, auto: "SAME_UPPER", pads: []int{2, 2}, out: []int{7}},
	{in: []int{4, 5, 6}, kernel: []int{2, 3, 2}, strides: []int{1, 2, 1}, dilations: []int{2, 1, 3}, pads: []int{0, 1, 2, 1, 1, 0}, out: []int{3, 3, 5}},
	{in: []int{2, 3, 2, 3}, kernel: []int{2, 1, 2, 2}, out: []int{1, 3, 1, 2}},
	{in: []int{0}, kernel: []int{3}, pads: []int{2, 1}, out: []int{1}},
}

// ceiled have a last window that reaches beyond the input, and one that would
// begin there and is left out.
var ceiled = []geometry{
	{in: []int{6, 5}, kernel: []int{3, 2}, strides: []int{2, 2}, ceil: true, out: []int{3, 3}},
	{in: []int{5, 5}, kernel: []int{1, 1}, strides: []int{3, 4}, ceil: true, out: []int{2, 2}},
	{in: []int{4}, kernel: []int{2}, strides: []int{3}, pads: []int{1, 1}, ceil: true, out: []int{2}},
	{in: []int{7}, kernel: []int{3}, strides: []int{3}, pads: []int{1, 1}, ceil: true, out: []int{3}},
}

// text is the attributes of g.
func (g geometry) text() string {
	s := list("kernel_shape", g.kernel) + list("strides", g.strides) + list("dilations", g.dilations)
	if g.ceil {
		s += ", ceil_mode = 1"
	}
	if g.auto != "" {
		return s[2:] + fmt.Sprintf(", auto_pad = %q", g.auto)
	}
	return (s + list("pads", g.pads))[2:]
}

// reads calls f with every tap of the output at o that lies inside of the
// input, and the input's index.
func (g geometry) reads(o []int, f func(tap, in []int)) {
	at := make([]int, len(o))
	everyIndex(g.kernel, func(tap []int) {
		for i := range o {
			s, d, p := 1, 1, 0
			if g.strides != nil {
				s = g.strides[i]
			}
			if g.dilations != nil {
				d = g.dilations[i]
			}
			if g.pads != nil {
				p = g.pads[i]
			}
			at[i] = o[i]*s - p + tap[i]*d
		}
		if _, ok := flat(g.in, at); ok {
			f(tap, at)
		}
	})
}

// padded is the number of taps of the output at o that lie inside of the input
// and its padding.
func (g geometry) padded(o []int) int {
	p := g
	p.in, p.pads = slices.Clone(g.in), nil
	for i := range g.pads {
		p.in[i%len(g.in)] += g.pads[i]
	}
	n := 0
	p.reads(o, func(_, _ []int) { n++ })
	return n
}

// convolved is Conv in float64 by its definition, and the bound of what
// float32 may lose: (products + 1) · 2⁻²⁴ · Σ |x·w|, doubled for portable code,
// which rounds products too.
func convolved(g geometry, x, w, b []float64, n, channels, m, group int) (z, bound []float64) {
	in, _ := count(g.in)
	taps, _ := count(g.kernel)
	per := channels / group
	for i := range n * m {
		everyIndex(g.out, func(o []int) {
			sum, size := 0.0, 0.0
			if b != nil {
				sum = b[i%m]
				size = math.Abs(sum)
			}
			g.reads(o, func(tap, at []int) {
				k, _ := flat(g.kernel, tap)
				p, _ := flat(g.in, at)
				for c := range per {
					v := x[(i/m*channels+i%m/(m/group)*per+c)*in+p] * w[(i%m*per+c)*taps+k]
					sum += v
					size += math.Abs(v)
				}
			})
			z = append(z, sum)
			bound = append(bound, float64(2*(per*taps+1))*size/(1<<24))
		})
	}
	return z, bound
}

func floatsOf(t testing.TB, x *Tensor) []float64 {
	if x == nil {
		return nil
	}
	s, err := asFloats(x)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// as converts a tensor.
func as(t testing.TB, d graph.DType, x *Tensor) *Tensor {
	z, err := newTensor(d, x.Shape)
	if err == nil {
		err = convert(z, x, castRules{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestConv: every geometry, thick and thin groups, with and without a bias,
// against the definition.
func TestConv(t *testing.T) {
	for _, g := range geometries {
		for _, c := range []struct{ n, channels, m, group int }{{2, 3, 5, 1}, {1, 6, 12, 3}, {2, 4, 4, 4}, {1, 4, 8, 4}, {1, 40, 70, 1}, {0, 2, 4, 1}} {
			for _, d := range []graph.DType{graph.Float32, graph.Float64} {
				x := as(t, d, noise(1, append([]int{c.n, c.channels}, g.in...)...))
				w := as(t, d, noise(2, append([]int{c.m, c.channels / c.group}, g.kernel...)...))
				var b *Tensor
				inputs := []*Tensor{x, w}
				args := "x0, x1"
				if c.m != 4 {
					b = as(t, d, noise(3, c.m))
					inputs, args = append(inputs, b), "x0, x1, x2"
				}
				out, err := operate(t, 11, fmt.Sprintf("y0 = Conv <group = %d, %s> (%s)", c.group, g.text(), args), inputs...)
				if err != nil {
					t.Fatalf("%+v %+v: %v", g, c, err)
				}
				if want := append([]int{c.n, c.m}, g.out...); !slices.Equal(out[0].Shape, want) {
					t.Fatalf("%+v: shape %v, want %v", g, out[0].Shape, want)
				}
				want, bound := convolved(g, floatsOf(t, x), floatsOf(t, w), floatsOf(t, b), c.n, c.channels, c.m, c.group)
				for i, v := range floatsOf(t, out[0]) {
					if !(math.Abs(v-want[i]) <= bound[i]) {
						t.Fatalf("%+v %+v %v: element %d is %v, want %v ± %v", g, c, d, i, v, want[i], bound[i])
					}
				}
			}
		}
	}
}

// TestConvRandom: random geometries of one to three dims, groups and channels,
// on every path of this machine, with weights constant and fed, against the
// definition; every method of computing has its share. The same bits on one
// thread and on three.
func TestConvRandom(t *testing.T) {
	for _, path := range simd.Supported() {
		kernels, err := simd.For(path)
		if err != nil {
			t.Fatal(err)
		}
		methods := map[convMethod]int{}
		for seed := range uint64(120) {
			r := rand.New(rand.NewPCG(seed, 1))
			dims := 1 + r.IntN(3)
			var g geometry
			for range dims {
				g.kernel = append(g.kernel, 1+r.IntN(4))
				g.strides = append(g.strides, 1+r.IntN(3))
				g.dilations = append(g.dilations, 1+r.IntN(2))
			}
			for range 2 * dims {
				g.pads = append(g.pads, r.IntN(4))
			}
			if seed%7 == 0 { // what overflows the bound on images
				g.pads[0] += 70_000
				g.strides[0] = 30_000
			}
			for i := range dims {
				span := (g.kernel[i]-1)*g.dilations[i] + 1
				in := max(1, span-g.pads[i]-g.pads[i+dims]) + r.IntN(14/dims)
				g.in = append(g.in, in)
				g.out = append(g.out, (in+g.pads[i]+g.pads[i+dims]-span)/g.strides[i]+1)
			}
			group := []int{1, 1, 2, 5}[r.IntN(4)]
			n, channels, m := 1+r.IntN(2), group*(1+r.IntN(4)), group*(1+r.IntN(40/group))
			x, w, b := noise(seed, append([]int{n, channels}, g.in...)...), noise(seed+1, append([]int{m, channels / group}, g.kernel...)...), noise(seed+2, m)
			want, bound := convolved(g, floatsOf(t, x), floatsOf(t, w), floatsOf(t, b), n, channels, m, group)
			conv := graphNode(t, fmt.Sprintf("y = Conv <group = %d, %s> (x, w, b)", group, g.text()))
			// What fusion appends.
			add, lo, hi := noise(seed+3, append([]int{n, m}, g.out...)...), float32(-0.5), float32(2)
			end := make([]float64, len(want))
			for i, v := range want {
				end[i] = min(max(v+float64(add.F32()[i]), -0.5), 2)
			}
			var first, firstEnd []float32
			for variant := range 4 {
				node := node{op: "Conv", opset: 11, attrs: conv.Attrs, simd: kernels, given: []bool{true, true, true}, consts: make([]*Tensor, 3), dropped: make([]bool, 3)}
				in := []*Tensor{x, w, b}
				if variant%2 == 1 {
					node.consts[1], node.consts[2] = w, b
				}
				k, err := prepareConv(&node)
				if err != nil {
					t.Fatal(err)
				}
				s := &Session{ctx: t.Context(), team: newTeam(1 + variant/2*2)}
				s.pool.limit, s.pool.dirty = 1<<30, true
				c := &call{in: in, out: []*Tensor{{}}, s: s}
				if err := k(c); err != nil {
					t.Fatalf("%v: %+v: %v", path, g, err)
				}
				methods[c.state.(*convState).how]++
				z := c.out[0].F32()
				if first == nil {
					first = slices.Clone(z)
				}
				for i, v := range z {
					if !(math.Abs(float64(v)-want[i]) <= bound[i]) || v != first[i] {
						t.Fatalf("%v: %+v, %d → %d channels in %d groups, variant %d: element %d is %v, want %v ± %v and the bits of %v",
							path, g, channels, m, group, variant, i, v, want[i], bound[i], first[i])
					}
				}
				c.tidy()
				if variant%2 == 1 {
					v, err := newConvolution(&node)
					if err != nil {
						t.Fatal(err)
					}
					v.add, v.lo, v.hi = true, lo, hi
					c := &call{in: []*Tensor{x, add}, out: []*Tensor{{}}, s: s}
					for range 2 {
						if err := v.run(c); err != nil {
							t.Fatalf("%v: %+v: %v", path, g, err)
						}
						z := c.out[0].F32()
						if firstEnd == nil {
							firstEnd = slices.Clone(z)
						}
						for i, v := range z {
							if b := bound[i] + 0x1p-23*(math.Abs(want[i])+math.Abs(float64(add.F32()[i]))); !(math.Abs(float64(v)-end[i]) <= b) || v != firstEnd[i] {
								t.Fatalf("%v: %+v, %d → %d channels in %d groups, variant %d: element %d of the sum is %v, want %v and the bits of %v",
									path, g, channels, m, group, variant, i, v, end[i], firstEnd[i])
							}
						}
						c.tidy()
					}
				}
				s.team.close()
			}
		}
		if len(methods) != 3 {
			t.Errorf("%v: computed by methods %v, want all three", path, methods)
		}
	}
}

// graphNode parses one node.
func graphNode(t testing.TB, text string) *graph.Node {
	m, err := graph.Parse("<ir_version: 10, opset_import: [\"\" : 17]>\ng (float[] x, float[] w, float[] b) => (float[] y) { " + text + " }")
	if err != nil {
		t.Fatal(err)
	}
	return m.Graph.Nodes()[0]
}

// TestConvTranspose: the adjoint of every geometry against its definition.
// Its X has the dims that the convolution's output has.
func TestConvTranspose(t *testing.T) {
	for _, g := range geometries {
		if g.auto != "" || g.in[0] == 0 {
			continue // their sizes follow another rule; the official tests have them
		}
		for _, c := range []struct{ n, channels, m, group int }{{2, 3, 5, 1}, {1, 6, 4, 2}, {1, 3, 3, 3}, {2, 0, 2, 1}} {
			for _, d := range []graph.DType{graph.Float32, graph.Float64} {
				x := as(t, d, noise(1, append([]int{c.n, c.channels}, g.out...)...))
				w := as(t, d, noise(2, append([]int{c.channels, c.m / c.group}, g.kernel...)...))
				b := as(t, d, noise(3, c.m))
				// What a stride leaves over at the end of the input is padding of the output.
				extra := slices.Clone(g.in)
				for i := range extra {
					s, l, p := 1, 1, 0
					if g.strides != nil {
						s = g.strides[i]
					}
					if g.dilations != nil {
						l = g.dilations[i]
					}
					if g.pads != nil {
						p = g.pads[i] + g.pads[i+len(g.in)]
					}
					extra[i] = g.in[i] + p - (g.out[i]-1)*s - (g.kernel[i]-1)*l - 1
				}
				out, err := operate(t, 11, fmt.Sprintf("y0 = ConvTranspose <group = %d%s, %s> (x0, x1, x2)", c.group, list("output_padding", extra), g.text()), x, w, b)
				if err != nil {
					t.Fatalf("%+v %+v: %v", g, c, err)
				}
				if want := append([]int{c.n, c.m}, g.in...); !slices.Equal(out[0].Shape, want) {
					t.Fatalf("%+v: shape %v, want %v", g, out[0].Shape, want)
				}
				in, _ := count(g.in)
				size, _ := count(g.out)
				taps, _ := count(g.kernel)
				per := c.m / c.group
				xs, ws, bs := floatsOf(t, x), floatsOf(t, w), floatsOf(t, b)
				got := floatsOf(t, out[0])
				for i := range c.n * c.m {
					want, sums := make([]float64, in), make([]float64, in)
					for j := range want {
						want[j], sums[j] = bs[i%c.m], math.Abs(bs[i%c.m])
					}
					o := 0
					everyIndex(g.out, func(at []int) {
						g.reads(at, func(tap, to []int) {
							p, _ := flat(g.in, to)
							k, _ := flat(g.kernel, tap)
							for ch := range c.channels / c.group {
								ch += i % c.m / per * (c.channels / c.group)
								v := xs[(i/c.m*c.channels+ch)*size+o] * ws[(ch*per+i%per)*taps+k]
								want[p] += v
								sums[p] += math.Abs(v)
							}
						})
						o++
					})
					for j, v := range want {
						if bound := float64(2*(c.channels*taps+1)) * sums[j] / (1 << 24); !(math.Abs(got[i*in+j]-v) <= bound) {
							t.Fatalf("%+v %+v %v: element %d of channel %d is %v, want %v", g, c, d, j, i, got[i*in+j], v)
						}
					}
				}
			}
		}
	}
}

// TestPools: every geometry in every mode, against the definition.
func TestPools(t *testing.T) {
	for _, g := range slices.Concat(geometries, ceiled) {
		x := noise(4, append([]int{2, 3}, g.in...)...)
		v := floatsOf(t, x)
		size, _ := count(g.in)
		for _, pool := range []struct {
			text string
			one  func(in []float64, place []int, taps int) float64
		}{
			{"y0, y1 = MaxPool <", func(in []float64, _ []int, _ int) float64 {
				if len(in) == 0 {
					return math.Inf(-1)
				}
				return slices.Max(in)
			}},
			{"y0 = MaxPool <", func(in []float64, _ []int, _ int) float64 {
				if len(in) == 0 {
					return math.Inf(-1)
				}
				return slices.Max(in)
			}},
			{"y0 = AveragePool <", func(in []float64, _ []int, _ int) float64 { return total(in, 1) / float64(len(in)) }},
			{"y0 = AveragePool <count_include_pad = 1, ", func(in []float64, _ []int, taps int) float64 { return total(in, 1) / float64(taps) }},
			{"y0 = LpPool <", func(in []float64, _ []int, _ int) float64 { return math.Sqrt(total(in, 2)) }},
			{"y0 = LpPool <p = 1, ", func(in []float64, _ []int, _ int) float64 { return total(absolute(in), 1) }},
			{"y0 = LpPool <p = 3, ", func(in []float64, _ []int, _ int) float64 { return math.Cbrt(total(absolute(in), 3)) }},
		} {
			out, err := operate(t, 19, pool.text+g.text()+"> (x0)", x)
			if err != nil {
				t.Fatalf("%s%+v: %v", pool.text, g, err)
			}
			got := floatsOf(t, out[0])
			i := 0
			for plane := range 6 {
				everyIndex(g.out, func(o []int) {
					var in []float64
					var place []int
					taps := g.padded(o)
					g.reads(o, func(_, at []int) {
						p, _ := flat(g.in, at)
						in, place = append(in, v[plane*size+p]), append(place, p)
					})
					want := pool.one(in, place, taps)
					// A sum of n float32 loses at most (n − 1) · 2⁻²⁴ of the sum of
					// the absolute values; powers, roots and quotients round too.
					bound := 0.0
					if !strings.Contains(pool.text, "Max") {
						bound = float64(len(in)+4) / (1 << 24) * math.Abs(pool.one(absolute(in), place, taps))
					}
					if got[i] != want && !(math.Abs(got[i]-want) <= bound) && !(math.IsNaN(want) && math.IsNaN(got[i])) {
						t.Errorf("%s%+v: element %d is %v, want %v", pool.text, g, i, got[i], want)
					}
					if len(out) > 1 && len(in) > 0 {
						if p := out[1].I64()[i]; p != int64(plane*size+place[slices.Index(in, want)]) {
							t.Errorf("%s%+v: index %d is %d", pool.text, g, i, p)
						}
					}
					i++
				})
			}
		}
	}
}

func absolute(x []float64) []float64 {
	z := slices.Clone(x)
	for i, v := range z {
		z[i] = math.Abs(v)
	}
	return z
}

// total is Σ xᵖ.
func total(x []float64, p float64) float64 {
	s := 0.0
	for _, v := range x {
		s += math.Pow(v, p)
	}
	return s
}

// TestSlidingErrors: hostile windows are refused, not computed.
func TestSlidingErrors(t *testing.T) {
	x, w := noise(1, 1, 4, 5, 5), noise(2, 4, 4, 3, 3)
	for _, c := range []struct{ text, want string }{
		{"y0 = Conv <group = 0> (x0, x1)", "group = 0"},
		{"y0 = Conv <group = 3> (x0, x1)", "groups"},
		{"y0 = Conv <strides = [0, 1]> (x0, x1)", "strides"},
		{"y0 = Conv <dilations = [1]> (x0, x1)", "dilations"},
		{"y0 = Conv <dilations = [9223372036854775807, 1]> (x0, x1)", "dilations"},
		{"y0 = Conv <pads = [-1, 0, 0, 0]> (x0, x1)", "pads"},
		{"y0 = Conv <pads = [2000000000, 2000000000, 2000000000, 2000000000]> (x0, x1)", "memory"},
		{"y0 = Conv <kernel_shape = [3, 2]> (x0, x1)", "kernel"},
		{"y0 = Conv <dilations = [3, 1]> (x0, x1)", "window spans 7"},
		{"y0 = Conv <auto_pad = \"SOME\"> (x0, x1)", "auto_pad"},
		{"y0 = MaxPool <kernel_shape = [2]> (x0)", "kernel"},
		{"y0 = MaxPool <strides = [2, 2]> (x0)", "kernel_shape"},
		{"y0 = MaxPool <kernel_shape = [6, 1]> (x0)", "window spans 6"},
		{"y0 = LpPool <kernel_shape = [2, 2], p = 0> (x0)", "p = 0"},
		{"y0 = LRN <size = 0> (x0)", "size"},
	} {
		if _, err := operate(t, 18, c.text, x, w); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one of %q", c.text, err, c.want)
		}
	}
}
