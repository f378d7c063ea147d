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
	pick := func() int64 { return extremes[r.IntN(len(extremes))] }
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
	p, err := Compile(m, Options{MemoryLimit: 1 << 24})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = p.NewSession(SessionOptions{Threads: 1 + r.IntN(2)}).Run(ctx, feeds)
	return err
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
