package runtime

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// definedCases are single nodes: inputs as "type[dims] name", whole ones with
// their elements, "" for one that is left out.
var definedCases = []struct {
	node   string // "op <attributes>"
	inputs []string
	wholes map[string][]int64
	more   int // outputs beside the first that are compared
}{
	{node: "SwiGLU <alpha = 0.7>", inputs: []string{"float[2,3,8] a", "float[2,3,8] b"}},
	{node: "com.microsoft.Gelu", inputs: []string{"float[2,3,8] a"}},
	{node: "com.microsoft.BiasGelu", inputs: []string{"float[2,3,8] a", "float[8] b"}},
	{node: "com.microsoft.FastGelu", inputs: []string{"float[2,3,8] a", "float[8] b"}},
	{node: "com.microsoft.QuickGelu <alpha = 0.7>", inputs: []string{"float[2,3,8] a"}},
	{node: "com.microsoft.SkipLayerNormalization <epsilon = 0.1>", inputs: []string{"float[2,3,8] a", "float[3,8] b", "float[8] g", "float[8] c", "float[8] e"}},
	{node: "com.microsoft.SkipLayerNormalization <epsilon = 0.1>", inputs: []string{"float[2,3,8] a", "float[2,3,8] b", "float[8] g", "", "float[8] e"}},
	{node: "com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.1>", inputs: []string{"float[2,3,8] a", "float[1,3,8] b", "float[8] g", "float[8] e"}},
	{node: "com.microsoft.EmbedLayerNormalization <epsilon = 0.1>", inputs: []string{"int32[2,3] i", "int32[2,3] s", "float[4,8] w", "float[5,8] p", "float[2,8] e", "float[8] g", "float[8] b", "int32[2,3] m"},
		wholes: map[string][]int64{"i": {0, 3, 1, 2, 2, 0}, "s": {0, 1, 1, 0, 0, 1}, "m": {1, 1, 0, 1, 0, 0}}, more: 1},
	{node: "com.microsoft.EmbedLayerNormalization <epsilon = 0.1>", inputs: []string{"int32[2,3] i", "", "float[4,8] w", "float[5,8] p", "", "float[8] g", "float[8] b", "", "int32[1,3] at"},
		wholes: map[string][]int64{"i": {0, 3, 1, 2, 2, 0}, "at": {4, 0, 1}}, more: 1},
	{node: "com.microsoft.FusedMatMul <alpha = 0.5>", inputs: []string{"float[2,3,4] a", "float[4,5] b"}},
	{node: "com.microsoft.FusedMatMul <transA = 1>", inputs: []string{"float[2,4,3] a", "float[2,4,5] b"}},
	{node: "com.microsoft.FusedMatMul <transB = 1, alpha = 2.0>", inputs: []string{"float[2,2,3,4] a", "float[5,4] b"}},
	{node: "com.microsoft.FusedGemm <transB = 1, beta = 0.5, activation = \"Tanh\">", inputs: []string{"float[3,4] a", "float[5,4] b", "float[5] c"}},
	{node: "com.microsoft.FusedGemm <activation = \"LeakyRelu\", activation_alpha = 0.3>", inputs: []string{"float[3,4] a", "float[4,5] b", "float[5] c"}},
	{node: "com.microsoft.FusedConv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], activation = \"HardSigmoid\", activation_params = [0.1, 0.5]>",
		inputs: []string{"float[2,2,4,5] a", "float[3,2,3,3] w", "float[3] b", "float[2,3,4,5] z"}},
	{node: "com.microsoft.FusedConv <kernel_shape = [3], activation = \"Clip\", activation_params = [-20.0, 20.0]>", inputs: []string{"float[2,2,6] a", "float[3,2,3] w", "float[3] b"}},
	{node: "com.microsoft.MatMulNBits <K = 40, N = 6, bits = 4, block_size = 16>", inputs: []string{"float[2,3,40] a", "uint8[6,3,8] b", "fixed[18] s", "uint8[12] z", "", "float[6] c"}},
	{node: "com.microsoft.RotaryEmbedding", inputs: []string{"float[2,3,24] x", "int64[2,3] at", "fixed[9,4] c", "fixed[9,4] s"}, wholes: map[string][]int64{"at": {0, 5, 3, 8, 2, 2}}},
	{node: "com.microsoft.RotaryEmbedding <interleaved = 1>", inputs: []string{"float[2,5,3,8] x", "int64[1] at", "fixed[9,4] c", "fixed[9,4] s"}, wholes: map[string][]int64{"at": {2}}},
	{node: "RotaryEmbedding <num_heads = 3>", inputs: []string{"float[2,3,24] x", "fixed[2,3,4] c", "fixed[2,3,4] s"}},
	{node: "RotaryEmbedding <rotary_embedding_dim = 6>", inputs: []string{"float[2,2,3,8] x", "fixed[9,3] c", "fixed[9,3] s", "int64[2,3] at"}, wholes: map[string][]int64{"at": {0, 5, 3, 8, 2, 2}}},

	{node: "Attention", inputs: []string{"float[2,4,5,8] q", "float[2,2,7,8] k", "float[2,2,7,6] v"}},
	{node: "Attention <is_causal = 1, softcap = 1.5, scale = 0.7>", inputs: []string{"float[2,4,5,8] q", "float[2,2,7,8] k", "float[2,2,7,6] v", "float[2,1,5,10] m", "float[2,2,3,8] k0", "float[2,2,3,6] v0"}, more: 2},
	{node: "Attention <q_num_heads = 4, kv_num_heads = 2>", inputs: []string{"float[2,5,32] q", "float[2,7,16] k", "float[2,7,12] v", "float[5,6] m"}},
	{node: "Attention", inputs: []string{"float[2,4,3,8] q", "float[2,4,4,8] k", "float[2,4,4,6] v", "bool[3,4] m"}, wholes: map[string][]int64{"m": {1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1}}},
	{node: "Attention <is_causal = 1>", inputs: []string{"float[2,4,5,8] q", "float[2,2,7,8] k", "float[2,2,7,6] v", "", "", "", "int64[2] n"}, wholes: map[string][]int64{"n": {3, 7}}},
	{node: "Attention <left_window_size = 1, right_window_size = 2>", inputs: []string{"float[2,4,5,8] q", "float[2,2,7,8] k", "float[2,2,7,6] v"}},

	{node: "com.microsoft.Attention <num_heads = 3>", inputs: []string{"float[2,5,24] x", "float[24,36] w", "float[36] b"}},
	{node: "com.microsoft.Attention <num_heads = 3, unidirectional = 1>", inputs: []string{"float[2,5,24] x", "float[24,36] w", "float[36] b", "int32[2,9] m", "float[2,2,3,4,4] past"},
		wholes: map[string][]int64{"m": {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1}}, more: 1},
	{node: "com.microsoft.Attention <num_heads = 3, qkv_hidden_sizes = [12, 12, 18], mask_filter_value = -3.0, scale = 0.4>", inputs: []string{"float[2,5,24] x", "float[24,42] w", "float[42] b", "int32[2] m", "", "float[1,3,5,5] bias"},
		wholes: map[string][]int64{"m": {3, 5}}},
	{node: "com.microsoft.Attention <num_heads = 3>", inputs: []string{"float[2,5,24] x", "float[24,36] w", "float[36] b", "int32[4] m"}, wholes: map[string][]int64{"m": {4, 5, 1, 0}}},
	{node: "com.microsoft.MultiHeadAttention <num_heads = 3>", inputs: []string{"float[2,5,24] q", "float[2,7,24] k", "float[2,7,12] v", "float[60] b", "int32[2,7] m"},
		wholes: map[string][]int64{"m": {1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1}}},
	{node: "com.microsoft.MultiHeadAttention <num_heads = 3, unidirectional = 1>", inputs: []string{"float[2,5,24] q", "float[2,5,24] k", "float[2,5,24] v", "", "", "float[1,3,5,9] bias", "float[2,3,4,8] k0", "float[2,3,4,8] v0"}, more: 2},
	{node: "com.microsoft.MultiHeadAttention <num_heads = 3>", inputs: []string{"float[2,5,24] q", "float[2,3,7,8] k", "float[2,3,7,8] v"}},
	{node: "com.microsoft.MultiHeadAttention <num_heads = 3>", inputs: []string{"float[2,5,24] q", "float[2,7,3,2,8] k", "", "", "int32[2,5,7] m"}, wholes: map[string][]int64{}},
	{node: "com.microsoft.MultiHeadAttention <num_heads = 3>", inputs: []string{"float[2,5,3,3,8] q"}},
	{node: "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1, softcap = 3.0>",
		inputs: []string{"float[2,5,64] q", "float[2,5,32] k", "float[2,5,32] v", "", "", "int32[2] lens", "int32[1] total", "fixed[20,8] c", "fixed[20,8] s"}, wholes: map[string][]int64{"lens": {4, 4}, "total": {5}}},
	{node: "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, local_window_size = 3, do_rotary = 1, rotary_interleaved = 1>",
		inputs: []string{"float[2,3,128] q", "", "", "float[2,2,4,16] k0", "float[2,2,4,16] v0", "int32[2] lens", "int32[1] total", "fixed[20,8] c", "fixed[20,8] s"}, wholes: map[string][]int64{"lens": {6, 6}, "total": {7}}, more: 2},
	{node: "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, smooth_softmax = 1>",
		inputs: []string{"float[2,5,64] q", "float[2,5,32] k", "float[2,5,32] v", "", "", "int32[2] lens", "int32[1] total", "", "", "", "float[1,4,5,5] bias"}, wholes: map[string][]int64{"lens": {4, 2}, "total": {5}}},
	{node: "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>",
		inputs: []string{"float[2,5,64] q", "float[2,5,32] k", "float[2,5,32] v", "", "", "int32[2] lens", "int32[1] total", "", "", "", "", "float[4] sink"}, wholes: map[string][]int64{"lens": {4, 4}, "total": {5}}},
}

// definedText is the model of a case, its inputs called names.
func definedText(c int, names []string) string {
	k := definedCases[c]
	var declared []string
	for _, in := range k.inputs {
		if kind, name, ok := strings.Cut(in, " "); ok {
			declared = append(declared, strings.Replace(kind, "fixed", "float", 1)+" "+name)
		}
	}
	outs, all := "float y", "y"
	switch op := strings.Fields(k.node)[0]; {
	case strings.HasSuffix(op, "EmbedLayerNormalization"):
		all = `y, "", y2`
	case k.more == 1:
		all = "y, y2"
	case k.more == 2:
		all = "y, y2, y3"
	}
	for i := range k.more {
		outs += fmt.Sprintf(", float y%d", i+2)
	}
	op, attrs, _ := strings.Cut(k.node, " ")
	return fmt.Sprintf(`<ir_version: 10, opset_import: ["": 28, "com.microsoft": 1]> g (%s) => (%s) { %s = %s %s (%s) }`,
		strings.Join(declared, ", "), outs, all, op, attrs, strings.Join(names, ", "))
}

// TestHostileDefinitions: what training makes of bent fused operators, with other
// shapes and without some of their inputs, is an error at the worst.
func TestHostileDefinitions(t *testing.T) {
	for i, c := range definedCases {
		for seed := range 200 {
			r := rand.New(rand.NewPCG(uint64(i), uint64(seed)))
			var names []string
			for _, in := range c.inputs {
				_, name, ok := strings.Cut(in, " ")
				if !ok || r.IntN(12) == 0 {
					name = `""`
				}
				names = append(names, name)
			}
			m, err := graph.Parse(definedText(i, names))
			if err != nil {
				t.Fatal(err)
			}
			pick := bendAttrs(m, r)
			feeds := map[string]tensor.Tensor{}
			var params []string
			for k, name := range names {
				if name == `""` {
					continue
				}
				v := m.Graph.Value(name)
				dims, _ := v.Type().StaticDims()
				shape := make([]int, len(dims))
				for j, d := range dims {
					shape[j] = int(d)
				}
				x, err := newTensor(v.Type().Elem, shape)
				if err != nil {
					t.Fatal(err)
				}
				for j := range x.mem {
					x.mem[j] = byte(j % 3 / 2)
				}
				if r.IntN(2) == 0 {
					if x, err = bent(x, r, pick); err != nil {
						t.Fatal(err)
					}
				}
				if strings.HasPrefix(c.inputs[k], "float") && x.DType == graph.Float32 && x.Len() > 0 {
					dims = dims[:0]
					for _, d := range x.Shape {
						dims = append(dims, int64(d))
					}
					toParameter(m, name, dims, x.F32())
					params = append(params, name)
					continue
				}
				v.Declared = &graph.Type{Kind: v.Declared.Kind, Elem: x.DType}
				if r.IntN(2) == 0 {
					v.Declared.Shape = &graph.Shape{Dims: slices.Repeat([]graph.Dim{graph.UnknownDim}, len(x.Shape))}
				}
				if feeds[name], err = toDense(x, true); err != nil {
					t.Fatal(err)
				}
			}
			tr, err := CompileTraining(m, TrainingOptions{Parameters: params, Threads: 1, MemoryLimit: 1 << 26})
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err = tr.Gradients(ctx, 1, func(int) (map[string]tensor.Tensor, error) { return feeds, nil }, func(int, []*Tensor, []*Tensor) error { return nil })
				cancel()
			}
			if err != nil && strings.Contains(err.Error(), "internal error") {
				t.Fatalf("%s, seed %d: %v", c.node, seed, err)
			}
		}
	}
}

// TestDefinitions: what training computes of a fused operator is what its kernel
// computes, and the gradients with respect to all its float inputs say how it
// changes.
func TestDefinitions(t *testing.T) {
	for i, c := range definedCases {
		t.Run(fmt.Sprint(i, " ", strings.Fields(c.node)[0]), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			var names, params []string
			for _, in := range c.inputs {
				kind, name, ok := strings.Cut(in, " ")
				if !ok {
					names = append(names, `""`)
					continue
				}
				if names = append(names, name); strings.HasPrefix(kind, "float") {
					params = append(params, name)
				}
			}
			text := definedText(i, names)
			m, err := graph.Parse(text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, v := range m.Graph.Outputs() {
				v.Declared = &graph.Type{Kind: graph.KindTensor, Elem: graph.Float32}
			}
			feeds := map[string]tensor.Tensor{}
			values := map[string][]float32{}
			for k, in := range c.inputs {
				if in == "" {
					continue
				}
				v := m.Graph.Value(names[k])
				dims, _ := v.Type().StaticDims()
				n, _ := graph.NumElements(dims)
				shape := make([]int, len(dims))
				for i, d := range dims {
					shape[i] = int(d)
				}
				x, err := newTensor(v.Type().Elem, shape)
				if err != nil {
					t.Fatal(err)
				}
				for j := range int(n) {
					w := int64(1)
					if list := c.wholes[names[k]]; list != nil {
						w = list[j]
					} else if x.DType == graph.Uint8 {
						w = rng.Int64N(256)
					}
					switch x.DType {
					case graph.Float32:
						x.F32()[j] = float32(rng.NormFloat64())
					case graph.Int32:
						x.I32()[j] = int32(w)
					case graph.Int64:
						x.I64()[j] = w
					case graph.Uint8:
						x.U8()[j] = uint8(w)
					case graph.Bool:
						x.Bools()[j] = w != 0
					}
				}
				switch {
				case strings.HasPrefix(in, "float"):
					values[names[k]] = x.F32()
					toParameter(m, names[k], dims, x.F32())
				case strings.HasPrefix(in, "uint8") || strings.HasPrefix(in, "fixed"):
					g, err := graph.NewTensor(x.DType, dims, x.mem)
					if err != nil {
						t.Fatal(err)
					}
					w := m.Graph.AddInitializer(m.Graph.FreshName("c"), g)
					v.ReplaceUses(w)
					m.Graph.RemoveInput(v)
				default:
					if feeds[names[k]], err = x.Dense(); err != nil {
						t.Fatal(err)
					}
				}
			}
			prog, err := Compile(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			want, err := session(prog, 1).Run(t.Context(), feeds)
			if err != nil {
				t.Fatal(err)
			}
			tr, err := CompileTraining(m, TrainingOptions{Parameters: params, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			batch := func(int) (map[string]tensor.Tensor, error) { return feeds, nil }
			var weights [][]float64 // of the outputs in the loss
			loss := func(y []*Tensor) float64 {
				sum := 0.0
				for k := range y {
					if len(weights) <= k {
						w := make([]float64, y[k].Len())
						for j := range w {
							w[j] = rng.NormFloat64()
						}
						weights = append(weights, w)
					}
					for j, v := range y[k].F32() {
						sum += float64(v) * weights[k][j]
					}
				}
				return sum
			}
			err = tr.Gradients(t.Context(), 1, batch, func(_ int, y, g []*Tensor) error {
				loss(y)
				for k, v := range m.Graph.Outputs() {
					x, err := FromDense(want[v.Name])
					if err != nil {
						return err
					}
					if fmt.Sprint(x.Shape) != fmt.Sprint(y[k].Shape) {
						t.Errorf("output %d has shape %v, want %v", k, y[k].Shape, x.Shape)
					}
					for j, w := range x.F32() {
						// Scores reach 100, and sums of 24 float32 products of that size are off by
						// some 4·2⁻²⁴·100, which is the relative error of a softmax's terms.
						if d := math.Abs(float64(y[k].F32()[j] - w)); !(d < 2.5e-5*(1+math.Abs(float64(w)))) {
							t.Fatalf("output %d, element %d: %g, the kernel gives %g", k, j, y[k].F32()[j], w)
						}
						if g[k] != nil {
							g[k].F32()[j] = float32(weights[k][j])
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			// Each input by itself, a step along a direction.
			for p, param := range tr.Parameters() {
				saved := append([]float32(nil), param.Value...)
				direction, slope := make([]float64, len(saved)), 0.0
				for j := range direction {
					direction[j] = rng.NormFloat64()
					slope += direction[j] * float64(param.Gradient[j])
				}
				at := func(h float64) (l float64) {
					for j := range saved {
						param.Value[j] = saved[j] + float32(h*direction[j])
					}
					tr.Update()
					if err := tr.Values(t.Context(), 1, batch, func(_ int, y []*Tensor) error { l = loss(y); return nil }); err != nil {
						t.Fatal(err)
					}
					return l
				}
				const h = 3e-3
				got := (at(h) - at(-h)) / (2 * h)
				at(0)
				if math.Abs(got-slope) > 0.02*math.Abs(slope)+0.05 {
					t.Errorf("input %q: the loss rises by %g, by its gradient %g", params[p], got, slope)
				}
			}
		})
	}
}
