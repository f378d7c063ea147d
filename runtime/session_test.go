package runtime

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// chain returns y = Relu(x + b) reshaped to [-1], with a dead node that no
// kernel exists for.
func chain() *graph.Model {
	m := graph.NewModel("chain", 8, 17)
	g := m.Graph
	x := g.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("n"), graph.Known(3)))
	b := g.AddInitializer("b", graph.Float32Tensor([]int64{3}, []float32{1, -2, 3}))
	s := g.AddInitializer("s", graph.Int64Tensor([]int64{1}, []int64{-1}))
	sum := g.NewNode("", "Add", "add", []*graph.Value{x, b}, []string{"sum"}).Output(0)
	r := g.NewNode("", "Relu", "relu", []*graph.Value{sum}, []string{"r"}).Output(0)
	g.NewNode("nowhere", "Dead", "dead", []*graph.Value{sum}, []string{"d"})
	y := g.NewNode("", "Reshape", "flat", []*graph.Value{r, s}, []string{"y"}).Output(0)
	g.AddOutput(y, graph.TensorType(graph.Float32, graph.UnknownDim))
	return m
}

func f32(shape []int, data ...float32) tensor.Tensor {
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data))
}

func run(t *testing.T, s *Session, feeds map[string]tensor.Tensor) map[string]tensor.Tensor {
	t.Helper()
	out, err := s.Run(context.Background(), feeds)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRun(t *testing.T) {
	p, err := Compile(chain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 2})
	for _, n := range []int{2, 1, 3} {
		in := make([]float32, 3*n)
		for i := range in {
			in[i] = float32(i - 2)
		}
		y := run(t, s, map[string]tensor.Tensor{"x": f32([]int{n, 3}, in...)})["y"]
		want := make([]float32, 3*n)
		for i := range want {
			want[i] = max(0, in[i]+[]float32{1, -2, 3}[i%3])
		}
		if !slices.Equal(y.Data().([]float32), want) || !y.Shape().Eq(tensor.Shape{3 * n}) {
			t.Errorf("n = %d: %v %v, want %v", n, y.Shape(), y.Data(), want)
		}
	}
}

// TestOutputsAreOwned: an output keeps its elements when the session runs on.
func TestOutputsAreOwned(t *testing.T) {
	p, err := Compile(chain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	first := run(t, s, map[string]tensor.Tensor{"x": f32([]int{1, 3}, 1, 2, 3)})["y"]
	run(t, s, map[string]tensor.Tensor{"x": f32([]int{1, 3}, 7, 8, 9)})
	if got := first.Data().([]float32); !slices.Equal(got, []float32{2, 0, 6}) {
		t.Errorf("the first run's output became %v", got)
	}
}

func TestFeedErrors(t *testing.T) {
	p, err := Compile(chain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	x := f32([]int{1, 3}, 1, 2, 3)
	for _, c := range []struct {
		name  string
		feeds map[string]tensor.Tensor
		want  string
	}{
		{"missing", nil, `input "x" (x: float[n, 3]) is not fed`},
		{"unknown", map[string]tensor.Tensor{"x": x, "z": x}, `["z"] is no input`},
		{"rank", map[string]tensor.Tensor{"x": f32([]int{3}, 1, 2, 3)}, "rank 1"},
		{"dim", map[string]tensor.Tensor{"x": f32([]int{1, 2}, 1, 2)}, "dimension 1"},
		{"dtype", map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(1, 3), tensor.WithBacking([]float64{1, 2, 3}))}, "element type is double"},
	} {
		if _, err := s.Run(context.Background(), c.feeds); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Run(ctx, map[string]tensor.Tensor{"x": x}); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("cancelled run: %v", err)
	}
	run(t, s, map[string]tensor.Tensor{"x": x}) // the session is still good
}

// TestFeedLayouts: transposed and sliced tensors, scalars and empty tensors
// arrive as what they mean.
func TestFeedLayouts(t *testing.T) {
	m := graph.NewModel("id", 8, 17)
	x := m.Graph.AddInput("x", nil)
	y := m.Graph.NewNode("", "Identity", "", []*graph.Value{x}, []string{"y"}).Output(0)
	m.Graph.AddOutput(y, nil)
	p, err := Compile(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	trans := tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float32{1, 2, 3, 4, 5, 6}))
	trans.T()
	whole := tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float32{1, 2, 3, 4, 5, 6}))
	part, _ := whole.Slice(nil, tensor.S(1, 3))
	for _, c := range []struct {
		name  string
		in    tensor.Tensor
		shape []int
		want  any
	}{
		{"transposed", trans, []int{3, 2}, []float32{1, 4, 2, 5, 3, 6}},
		{"sliced", part, []int{2, 2}, []float32{2, 3, 5, 6}},
		{"int", tensor.New(tensor.WithShape(2), tensor.WithBacking([]int{7, -8})), []int{2}, []int64{7, -8}},
		{"string", tensor.New(tensor.WithShape(2), tensor.WithBacking([]string{"a", ""})), []int{2}, []string{"a", ""}},
		{"bool", tensor.New(tensor.WithShape(2), tensor.WithBacking([]bool{true, false})), []int{2}, []bool{true, false}},
	} {
		got := run(t, s, map[string]tensor.Tensor{"x": c.in})["y"]
		if !got.Shape().Eq(tensor.Shape(c.shape)) {
			t.Errorf("%s: shape %v, want %v", c.name, got.Shape(), c.shape)
		}
		equal := false
		switch w := c.want.(type) {
		case []float32:
			equal = slices.Equal(got.Data().([]float32), w)
		case []int64:
			equal = slices.Equal(got.Data().([]int64), w)
		case []string:
			equal = slices.Equal(got.Data().([]string), w)
		case []bool:
			equal = slices.Equal(got.Data().([]bool), w)
		}
		if !equal {
			t.Errorf("%s: %v, want %v", c.name, got.Data(), c.want)
		}
	}
	scalar := run(t, s, map[string]tensor.Tensor{"x": tensor.New(tensor.FromScalar(float32(3)))})["y"]
	if scalar.Dims() != 0 || scalar.Data().(float32) != 3 {
		t.Errorf("scalar: %v %v", scalar.Shape(), scalar.Data())
	}
	empty := run(t, s, map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(1, 0, 4), tensor.WithBacking([]float32{}))})["y"]
	if !empty.Shape().Eq(tensor.Shape{1, 0, 4}) {
		t.Errorf("empty: %v", empty.Shape())
	}
}

func TestMissingOperatorsAreNamedAtOnce(t *testing.T) {
	m := graph.NewModel("bad", 8, 17)
	g := m.Graph
	x := g.AddInput("x", graph.TensorType(graph.Float32))
	a := g.NewNode("", "NoSuch", "one", []*graph.Value{x}, []string{"a"}).Output(0)
	b := g.NewNode("com.acme", "Other", "two", []*graph.Value{a}, []string{"b"}).Output(0)
	g.AddOutput(b, nil)
	_, err := Compile(m, Options{})
	want := `compile: no kernel for NoSuch (opset 17, node "one"), com.acme.Other (its domain is not imported, node "two")`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestProbes(t *testing.T) {
	p, err := Compile(chain(), Options{Probes: [][]string{{"x", "r"}, {"b"}, {"sum"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	s.pool.dirty = true
	var order []int
	_, err = s.RunProbed(context.Background(), map[string]tensor.Tensor{"x": f32([]int{1, 3}, 1, 2, -4)}, func(group int, v []*Tensor) error {
		order = append(order, group)
		want := [][][]float32{{{1, 2, -4}, {2, 0, 0}}, {{1, -2, 3}}, {{2, 0, -1}}}[group]
		for i := range want {
			if !slices.Equal(v[i].F32(), want[i]) {
				t.Errorf("group %d value %d is %v, want %v", group, i, v[i].F32(), want[i])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []int{1, 2, 0}) {
		t.Errorf("groups came as %v, want 1 (a constant), 2, 0", order)
	}
	if _, err := Compile(chain(), Options{Probes: [][]string{{"nope"}}}); err == nil {
		t.Error("a probe of no value compiles")
	}
}

func TestMemoryLimit(t *testing.T) {
	p, err := Compile(chain(), Options{MemoryLimit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	_, err = s.Run(context.Background(), map[string]tensor.Tensor{"x": f32([]int{1 << 18, 3}, make([]float32, 3<<18)...)})
	if err == nil || !strings.Contains(err.Error(), `node "add" (Add)`) || !strings.Contains(err.Error(), "memory limit") {
		t.Errorf("a run above the limit gives %v", err)
	}
}

// TestBroadcastCursor compares the joined walk with an index computed
// dimension by dimension, over every split point.
func TestBroadcastCursor(t *testing.T) {
	for _, shapes := range [][][]int{
		{{2, 3, 4}, {2, 3, 4}},
		{{2, 3, 4}, {4}},
		{{2, 3, 4}, {3, 1}},
		{{2, 1, 4}, {3, 1}},
		{{1}, {}},
		{{}, {}},
		{{5, 1, 1, 2}, {1, 3, 1, 1}, {2}},
		{{0, 3}, {3}},
		{{2, 1, 2}, {1, 2, 1}, {2, 2, 1}},
	} {
		var b broadcast
		if err := b.set(shapes...); err != nil {
			t.Fatal(err)
		}
		for lo := 0; lo <= b.size; lo++ {
			at := lo
			for r := b.from(lo, b.size); r.ok(); r.next() {
				if r.at != at {
					t.Fatalf("%v from %d: row at %d, want %d", shapes, lo, r.at, at)
				}
				for i := range r.n {
					for o, s := range shapes {
						want, rest, step := 0, at+i, 1
						for k := len(b.shape) - 1; k >= 0; k-- {
							x := rest % b.shape[k]
							rest /= b.shape[k]
							if j := k - len(b.shape) + len(s); j >= 0 {
								if s[j] != 1 {
									want += x * step
								}
								step *= s[j]
							}
						}
						if got := r.off[o] + i*b.inner(o); got != want {
							t.Fatalf("%v from %d: element %d of operand %d is %d, want %d", shapes, lo, at+i, o, got, want)
						}
					}
				}
				at += r.n
			}
			if at != b.size && b.size > 0 {
				t.Fatalf("%v from %d: stopped at %d of %d", shapes, lo, at, b.size)
			}
		}
	}
	var b broadcast
	if b.set([]int{2, 3}, []int{2}) == nil {
		t.Error("[2 3] and [2] broadcast")
	}
}

func TestBF16Rounding(t *testing.T) {
	for _, c := range []struct {
		in   float32
		want uint16
	}{{1, 0x3f80}, {1.00390625, 0x3f80}, {1.01171875, 0x3f82}, {float32(math.Inf(1)), 0x7f80}, {math.MaxFloat32, 0x7f80}, {-0, 0}} {
		if got := bf16FromF32(c.in); got != c.want {
			t.Errorf("%g rounds to %#x, want %#x", c.in, got, c.want)
		}
	}
	if b := bf16FromF32(float32(math.NaN())); f32FromBF16(b) == f32FromBF16(b) {
		t.Error("NaN is lost")
	}
}
