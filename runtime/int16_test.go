package runtime_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
)

// int16Golden is a line of testmodels/fixed/golden.jsonl, which the reference
// implementation beside it wrote.
type int16Golden struct {
	Name, Op   string
	Attributes map[string]any
	Inputs     []int16Array
	Output     int16Array
}

// int16Array is [type, dims, data]; float_bits are the patterns of float32.
type int16Array struct {
	kind string
	dims []int64
	data []int64
}

func (a *int16Array) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&a.kind, &a.dims, &a.data})
}

func (a *int16Array) dtype() graph.DType {
	return map[string]graph.DType{"int16": graph.Int16, "int32": graph.Int32, "int64": graph.Int64, "float_bits": graph.Float32}[a.kind]
}

// bytes are the elements, little endian.
func (a *int16Array) bytes() []byte {
	var out []byte
	for _, v := range a.data {
		for i := range a.dtype().Bits() / 8 {
			out = append(out, byte(v>>(8*i)))
		}
	}
	return out
}

func (a *int16Array) dense() *tensor.Dense {
	shape := make([]int, len(a.dims))
	for i, d := range a.dims {
		shape[i] = int(d)
	}
	if a.kind == "int16" {
		v := make([]int16, len(a.data))
		for i, x := range a.data {
			v[i] = int16(x)
		}
		return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(v))
	}
	v := make([]float32, len(a.data))
	for i, x := range a.data {
		v[i] = math.Float32frombits(uint32(x))
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(v))
}

func int16Goldens(t testing.TB) []int16Golden {
	t.Helper()
	f, err := os.Open("../testmodels/fixed/golden.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []int16Golden
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var g int16Golden
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			t.Fatalf("line %d: %v", len(out)+1, err)
		}
		out = append(out, g)
	}
	if err := lines.Err(); err != nil || len(out) < 100 {
		t.Fatalf("%d goldens, %v", len(out), err)
	}
	return out
}

// int16Model is one node with the golden's first inputs fed and the others
// constant: AddInt16 has two operands, all others one.
func int16Model(t testing.TB, g int16Golden) (*graph.Model, map[string]tensor.Tensor) {
	t.Helper()
	m := graph.NewModel("golden", 8, 17)
	m.SetOpset(graph.LatheDomain, 1)
	operands := 1
	if g.Op == "AddInt16" {
		operands = 2
	}
	var in []*graph.Value
	feeds := map[string]tensor.Tensor{}
	for i, a := range g.Inputs {
		name := fmt.Sprint("in", i)
		if i >= operands {
			c, err := graph.NewTensor(a.dtype(), a.dims, a.bytes())
			if err != nil {
				t.Fatal(err)
			}
			in = append(in, m.Graph.AddInitializer(name, c))
			continue
		}
		var dims []graph.Dim
		for _, d := range a.dims {
			dims = append(dims, graph.Known(d))
		}
		in = append(in, m.Graph.AddInput(name, graph.TensorType(a.dtype(), dims...)))
		feeds[name] = a.dense()
	}
	var attrs []*graph.Attr
	for name, v := range g.Attributes {
		switch v := v.(type) {
		case float64:
			attrs = append(attrs, graph.IntAttr(name, int64(v)))
		case string:
			attrs = append(attrs, graph.StringAttr(name, v))
		case []any:
			var list []int64
			for _, x := range v {
				list = append(list, int64(x.(float64)))
			}
			attrs = append(attrs, graph.IntsAttr(name, list...))
		}
	}
	n := m.Graph.NewNode(graph.LatheDomain, g.Op, g.Name, in, []string{"out"}, attrs...)
	m.Graph.AddOutput(n.Output(0), nil)
	if err := graph.Infer(m); err != nil {
		t.Fatalf("%s: %v", g.Name, err)
	}
	return m, feeds
}

// TestInt16Goldens holds every path to the reference implementation, bit by bit.
func TestInt16Goldens(t *testing.T) {
	goldens := int16Goldens(t)
	for _, path := range simd.Supported() {
		t.Run(path.String(), func(t *testing.T) {
			for _, g := range goldens {
				for _, threads := range []int{1, 2} {
					m, feeds := int16Model(t, g)
					inferred := m.Graph.Outputs()[0].Type()
					prog, err := runtime.Compile(m, runtime.Options{Path: path.String()})
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					out, err := prog.NewSession(runtime.SessionOptions{Threads: threads}).Run(context.Background(), feeds)
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					got, err := runtime.FromDense(out["out"])
					if err != nil {
						t.Fatal(err)
					}
					dims, known := inferred.StaticDims()
					var shape []int64
					for _, d := range got.Shape {
						shape = append(shape, int64(d))
					}
					if !slices.Equal(shape, g.Output.dims) || !known || !slices.Equal(dims, g.Output.dims) || got.DType != g.Output.dtype() || inferred.Elem != got.DType {
						t.Fatalf("%s: %v%v, inferred %v, want %s%v", g.Name, got.DType, got.Shape, inferred, g.Output.kind, g.Output.dims)
					}
					if want := g.Output.bytes(); !slices.Equal(got.Bytes(), want) {
						at := 0
						for got.Bytes()[at] == want[at] {
							at++
						}
						t.Fatalf("%s, %d threads: differs from element %d on", g.Name, threads, at*8/got.DType.Bits())
					}
				}
			}
		})
	}
}
