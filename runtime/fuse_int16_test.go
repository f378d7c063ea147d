package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Products between conversions, with the kinds of steps that are left of them.
var insideCases = []struct {
	name, body string
	want       []string
}{
	{"a layer between float32", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  y = lathe.DequantizeInt16 (c, each)`, []string{"M"}},
	{"one exponent for all outputs, which makes subnormal numbers", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  y = lathe.DequantizeInt16 (c, least)`, []string{"M"}},
	{"two layers that read one value", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  d = lathe.BlockCirculantMatMulInt16 (q, W)
  f = lathe.DequantizeInt16 (c, each)
  g = lathe.DequantizeInt16 (d, e)
  y = Add (f, g)`, []string{"Add", "M", "M"}},
	{"an input that others read too", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  f = lathe.DequantizeInt16 (c, each)
  g = lathe.DequantizeInt16 (q, e)
  y = Concat <axis = 1> (f, g)`, []string{"Concat", "D", "M", "Q"}},
	{"an output that others read too", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  f = lathe.DequantizeInt16 (c, each)
  g = lathe.DequantizeInt16 (c, e)
  y = Add (f, g)`, []string{"Add", "D", "D", "M"}},
	{"integers between two layers", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 (q, W)
  part = Slice (c, zero, features, one)
  d = lathe.BlockCirculantMatMulInt16 (part, W)
  y = lathe.DequantizeInt16 (d, each)`, []string{"M", "M", "Slice"}},
	{"rounding as in CirCNN", `
  q = lathe.QuantizeInt16 (x, e)
  c = lathe.BlockCirculantMatMulInt16 <rounding = "circnn"> (q, wh, s, b, half, eh, a)
  y = lathe.DequantizeInt16 (c, each)`, []string{"D", "M", "Q"}},
}

// TestConvertInside: the program that converts inside of the products gives the
// bits of the one that does not, on every path, for numbers of all sorts, and for
// tokens and features that fill tiles and groups or do not. Probes still see what
// they saw.
func TestConvertInside(t *testing.T) {
	const tokens = 37
	for _, size := range []struct{ b, n, m int }{{2, 70, 71}, {8, 61, 97}, {64, 192, 128}, {256, 500, 300}} {
		r := rand.New(rand.NewPCG(uint64(size.b), 3))
		p, q, bins := (size.m+size.b-1)/size.b, (size.n+size.b-1)/size.b, size.b/2+1
		list := func(kind, name string, dims []int, f func() int) string {
			count, shape := 1, []string{}
			for _, d := range dims {
				count *= d
				shape = append(shape, fmt.Sprint(d))
			}
			v := make([]string, count)
			for i := range v {
				v[i] = fmt.Sprint(f())
			}
			return fmt.Sprintf("%s[%s] %s = {%s}", kind, strings.Join(shape, ","), name, strings.Join(v, ", "))
		}
		is := func(v int) func() int { return func() int { return v } }
		within := func(lo, hi int) func() int { return func() int { return lo + r.IntN(hi-lo+1) } }
		most := 30000 / q
		log := int(math.Log2(float64(size.b)))
		constants := strings.Join([]string{
			list("int16", "w", []int{p, q, size.b}, within(-most, most)),
			list("int16", "wh", []int{p, q, size.b}, within(-most, most)),
			list("int8", "s", []int{p, bins}, within(12, 15)),
			list("int32", "b", []int{p, size.b}, within(-1000, 1000)),
			list("int8", "r", []int{q, bins}, within(0, 4)),
			list("int8", "half", []int{q, bins}, is(log)),
			list("int8", "eh", []int{size.m}, is(log)),
			list("int8", "o", []int{size.m}, within(0, 6)),
			"int32[2] a = {1048576, 0}",
			list("int8", "each", []int{size.m}, within(-126, 126)),
			list("int32", "e", []int{1}, is(-3)), list("int32", "least", []int{1}, is(-126)),
			list("int64", "zero", []int{1}, is(0)), list("int64", "one", []int{1}, is(1)), list("int64", "features", []int{1}, is(min(size.n, size.m))),
		}, ",\n")
		// Kernels have a quick way for what is all numbers of some size. A tile of tokens
		// is, one has little else, and one much.
		x := make([]float32, tokens*size.n)
		for i := range x {
			x[i] = float32(r.NormFloat64() * 400)
			rare := []int{math.MaxInt, 500, 12}[i/size.n/16]
			switch r.IntN(rare) {
			case 0:
				x[i] = math.Float32frombits(r.Uint32()) // NaN among them
			case 1:
				x[i] = []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32, -math.MaxFloat32, 4096, -4096.1, 0.0625, -0.0625}[r.IntN(9)]
			}
		}
		for _, c := range insideCases {
			text := fmt.Sprintf(`<ir_version: 8, opset_import: ["": 17, "lathe": 2]> g (float[%d, %d] x) => (float[t, k] y)
<%s> {%s
}`, tokens, size.n, constants, strings.ReplaceAll(c.body, "W)", "w, s, b, r, o, a)"))
			feeds := map[string]tensor.Tensor{"x": f32([]int{tokens, size.n}, x...)}
			kinds := func(p *Program) (out []string) {
				for _, s := range p.main.steps {
					out = append(out, strings.NewReplacer("lathe.BlockCirculantMatMulInt16", "M", "lathe.DequantizeInt16", "D", "lathe.QuantizeInt16", "Q").Replace(s.kind))
				}
				slices.Sort(out)
				return out
			}
			for _, path := range simd.Supported() {
				fused, plain := program(t, text, Options{Path: path.String()}), program(t, text, Options{Path: path.String(), NoFusion: true})
				if got := kinds(fused); !slices.Equal(got, c.want) {
					t.Fatalf("%s: steps are %v, want %v", c.name, got, c.want)
				}
				want := run(t, session(plain, 1), feeds)["y"].Data().([]float32)
				for _, threads := range []int{1, 2} {
					for i, v := range run(t, session(fused, threads), feeds)["y"].Data().([]float32) {
						if math.Float32bits(v) != math.Float32bits(want[i]) {
							t.Fatalf("%s, b = %d, %v: element %d is %v, with conversions apart %v", c.name, size.b, path, i, v, want[i])
						}
					}
				}
			}
			for _, name := range []string{"q", "c"} {
				seen := func(o Options) (x []int16) {
					o.Probes = [][]string{{name}}
					if _, err := session(program(t, text, o), 1).RunProbed(t.Context(), feeds, func(_ int, v []*Tensor) error {
						x = slices.Clone(v[0].I16())
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					return x
				}
				if got := seen(Options{}); len(got) == 0 || !slices.Equal(got, seen(Options{NoFusion: true})) {
					t.Errorf("%s, b = %d: a probe of %s sees other numbers", c.name, size.b, name)
				}
			}
		}
	}
}
