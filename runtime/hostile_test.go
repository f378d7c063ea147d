package runtime

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// TestHostileCases bends the official cases: attributes, shapes, types and
// whole-number inputs that no exporter writes. A kernel may refuse them, but
// not panic, take memory beyond the limit, or go on when it is cancelled.
// LATHE_HOSTILE_SEEDS says how often each case is bent, once without it.
func TestHostileCases(t *testing.T) {
	root := os.Getenv("LATHE_ONNX_TESTS")
	if root == "" {
		t.Skip("LATHE_ONNX_TESTS does not name the official operator tests")
	}
	cases, err := filepath.Glob(filepath.Join(root, "node", "*", "model.onnx"))
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases under %s: %v", root, err)
	}
	seeds, _ := strconv.Atoi(os.Getenv("LATHE_HOSTILE_SEEDS"))
	for i, path := range cases {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			for seed := range max(seeds, 1) {
				start := time.Now()
				if err := bend(path, rand.New(rand.NewPCG(uint64(i), uint64(seed)))); err != nil && strings.Contains(err.Error(), "internal error") {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if d := time.Since(start); d > 10*time.Second {
					t.Fatalf("seed %d takes %v", seed, d)
				}
			}
		})
	}
}

var extremes = []int64{-1, 0, 1, 2, 3, 4, 5, 100, -3, 1 << 31, 1 << 40, -1 << 40, math.MaxInt64, math.MinInt64}

func bend(path string, r *rand.Rand) error {
	m, err := graph.Load(path)
	if err != nil {
		return err
	}
	pick := bendAttrs(m, r)
	feeds := map[string]tensor.Tensor{}
	for i, v := range m.Graph.Inputs() {
		x, err := readPB(filepath.Join(filepath.Dir(path), "test_data_set_0", "input_"+strconv.Itoa(i)+".pb"))
		if err != nil {
			return err
		}
		if x.DType != graph.String {
			if x, err = bent(x, r, pick); err != nil {
				return err
			}
		}
		if v.Declared != nil {
			v.Declared = &graph.Type{Kind: v.Declared.Kind, Elem: x.DType}
		}
		if feeds[v.Name], err = toDense(x, true); err != nil {
			return err
		}
	}
	return runHostile(m, feeds, r)
}

// bendAttrs changes attributes of the model's nodes; it returns what it picks
// whole numbers with.
func bendAttrs(m *graph.Model, r *rand.Rand) (pick func() int64) {
	pick = func() int64 { return extremes[r.IntN(len(extremes))] }
	for _, n := range m.Graph.Nodes() {
		for _, a := range n.Attrs {
			if r.IntN(2) == 0 {
				continue
			}
			switch a.Type {
			case graph.AttrInt:
				a.I = pick()
			case graph.AttrFloat:
				a.F = []float32{0, -1, float32(math.NaN()), float32(math.Inf(1)), 1e30}[r.IntN(5)]
			case graph.AttrInts:
				if len(a.Ints) > 0 && r.IntN(4) == 0 {
					a.Ints = a.Ints[:r.IntN(len(a.Ints))]
				}
				for i := range a.Ints {
					if r.IntN(3) == 0 {
						a.Ints[i] = pick()
					}
				}
			}
		}
	}
	return pick
}

// runHostile compiles and runs a model in little memory and time.
func runHostile(m *graph.Model, feeds map[string]tensor.Tensor, r *rand.Rand) error {
	p, err := Compile(m, Options{MemoryLimit: 1 << 24})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = p.NewSession(SessionOptions{Threads: 1 + r.IntN(2)}).Run(ctx, feeds)
	return err
}

// TestHostileNodes bends operators of which the official tests at hand have no
// case.
func TestHostileNodes(t *testing.T) {
	for i, text := range []string{
		`(float[2,4,5,8] a, float[2,2,7,8] b, float[2,2,7,6] c, float[2,1,5,10] d, float[2,2,3,8] e, float[2,2,3,6] f) => (float y, float z, float u, float v)
			{ y, z, u, v = Attention <is_causal = 1, softcap = 1.5, qk_matmul_output_mode = 2, left_window_size = 2, right_window_size = 1> (a, b, c, d, e, f) }`,
		`(float[2,5,32] a, float[2,7,16] b, float[2,7,12] c, bool[5,7] d, int64[2] e) => (float y)
			{ y = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1> (a, b, c, d, "", "", e) }`,
		`(float[2,3,6,4] a, float[2,3,2,4] b, int64[2] c) => (float y) { y = TensorScatter <axis = 2, mode = "circular"> (a, b, c) }`,
		`(float[2,3,6,4] a, float[2,3,2,4] b, int64[2] c) => (float y) { y = TensorScatter <axis = -2> (a, b, c) }`,
		`(float[2,5,12] a, float[2,5,6] b, float[2,5,4] c, float[2,2,3,2] d, float[2,5,6] e, float[2,5,2] f) => (float y, float z)
			{ y, z = LinearAttention <q_num_heads = 4, kv_num_heads = 2> (a, b, c, d, e, f) }`,
		`(float[2,3,8] a, float[2,3,8] b) => (float y) { y = SwiGLU (a, b) }`,
		`(float[2,2,3] a, int64[4] b) => (float y) { y = AffineGrid <align_corners = 1> (a, b) }`,
		`(float[2,4,6,5] a, float[6,2,3,2] b, float[2,24,3,2] c, float[6] d, float[2,12,3,2] e) => (float y)
			{ y = DeformConv <kernel_shape = [3, 2], strides = [2, 1], dilations = [1, 2], pads = [0, 0, 1, 0], group = 2, offset_group = 2> (a, b, c, d, e) }`,
		`(float[1,12,8] a, int64[2] b, int64[2] c) => (float y) { y = Col2Im <strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2]> (a, b, c) }`,
		`(float[2,3,5] a, float[3,1,4] b, float[3] c, float[2,3,3] d) => (float y, float z) { y, z = CausalConvWithState <activation = "silu"> (a, b, c, d) }`,
		`(float[5,3,4] a, int64[2] b) => (float y) { y = CenterCropPad <axes = [0, -1]> (a, b) }`,
		`(float[3,4] a, int64 b) => (float y) { y = CumProd <exclusive = 1> (a, b) }`,
		`(float[3,4] a) => (int32 y) { y = BitCast <to = 6> (a) }`,
		`() => (float y) { y = RandomNormal <shape = [3, 4], seed = 1.0> () }`,
		`(float[3,4] a) => (float y) { y = RandomUniformLike (a) }`,
		`(float[3,4] a) => (float y) { y = Bernoulli (a) }`,
		`(float[3,4] a) => (int32 y) { y = Multinomial <sample_size = 3> (a) }`,
		`(float[2,3,24] a, float[9,4] b, float[9,4] c, int64[2,3] d) => (float y) { y = RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 8> (a, b, c, d) }`,
	} {
		for seed := range 400 {
			r := rand.New(rand.NewPCG(uint64(i), uint64(seed)))
			m, err := graph.Parse(`<ir_version: 10, opset_import: ["": 28]> g ` + text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			pick := bendAttrs(m, r)
			feeds := map[string]tensor.Tensor{}
			for _, v := range m.Graph.Inputs() {
				var shape []int
				if s := v.Declared.Shape; s != nil {
					for _, d := range s.Dims {
						shape = append(shape, int(d.N))
					}
				}
				x, err := newTensor(v.Declared.Elem, shape)
				if err != nil {
					t.Fatal(err)
				}
				for k := range x.mem {
					x.mem[k] = byte(k % 3 / 2)
				}
				if x, err = bent(x, r, pick); err != nil {
					t.Fatal(err)
				}
				v.Declared = &graph.Type{Kind: v.Declared.Kind, Elem: x.DType}
				if feeds[v.Name], err = toDense(x, true); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			if err := runHostile(m, feeds, r); err != nil && strings.Contains(err.Error(), "internal error") {
				t.Fatalf("%s\nseed %d: %v", text, seed, err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Fatalf("%s\nseed %d takes %v", text, seed, d)
			}
		}
	}
}

// bent is x with another shape, other whole numbers or another type, or as it
// is.
func bent(x *Tensor, r *rand.Rand, pick func() int64) (*Tensor, error) {
	x = x.clone()
	switch r.IntN(4) {
	case 0: // another shape, filled with what there is
		shape := append([]int(nil), x.Shape...)
		for i := range shape {
			if r.IntN(2) == 0 {
				shape[i] = r.IntN(5)
			}
		}
		switch r.IntN(3) {
		case 0:
			shape = append(shape, r.IntN(3))
		case 1:
			if len(shape) > 0 {
				shape = shape[1:]
			}
		}
		z, err := newTensor(x.DType, shape)
		if err != nil || len(x.mem) == 0 {
			return x, nil
		}
		for at := 0; at < len(z.mem); {
			at += copy(z.mem[at:], x.mem)
		}
		return z, nil
	case 1: // other whole numbers
		if x.DType == graph.Int64 {
			for i := range x.I64() {
				if r.IntN(3) == 0 {
					x.I64()[i] = pick()
				}
			}
		}
	case 2: // another type
		if r.IntN(3) == 0 {
			d := []graph.DType{graph.Float32, graph.Float64, graph.Int8, graph.Int64, graph.Bool, graph.Float16, graph.Complex64, graph.Uint64}[r.IntN(8)]
			z, err := newTensor(d, x.Shape)
			if err != nil || convert(z, x, castRules{}) != nil {
				return x, nil
			}
			return z, nil
		}
	}
	return x, nil
}
