package onnxgo_test

import (
	"fmt"
	"log"
	"slices"
	"strings"
	"testing"

	"github.com/owulveryck/onnx-go"
	"github.com/owulveryck/onnx-go/backend"
	"gonum.org/v1/gonum/graph/topo"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/onnxgo"
)

var _ backend.ComputationBackend = (*onnxgo.Backend)(nil)

func encode(text string) []byte {
	m, err := graph.Parse(text)
	if err != nil {
		log.Fatal(err)
	}
	data, err := m.Encode()
	if err != nil {
		log.Fatal(err)
	}
	return data
}

const text = `<ir_version: 8, opset_import: ["" : 13]>
small (float[2, 2] x) => (float[2, 2] y, float[2, 2] h)
<float[2, 2] w = {1, 2, 3, 4}, float high = {5}>
{
  h = MatMul (x, w)
  two = Constant <value_float = 2.0> ()
  s = Mul (h, two)
  q = Mul (s, s)
  y = Clip (q, "", high)
}`

func Example() {
	data := encode(text) // the content of a model.onnx

	// This line was: backend := gorgonnx.NewGraph()
	backend := onnxgo.New(onnxgo.Opset(13))

	model := onnx.NewModel(backend)
	if err := model.UnmarshalBinary(data); err != nil {
		log.Fatal(err)
	}
	model.SetInput(0, tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{1, 0, 0, 0.25})))
	if err := backend.Run(); err != nil {
		log.Fatal(err)
	}
	output, err := model.GetOutputTensors()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(output[0].Data())
	// Output:
	// [4 5 2.25 4]
}

// TestBackend: values read twice, optional inputs left out, operators without
// inputs, outputs that other nodes read, several runs.
func TestBackend(t *testing.T) {
	data := encode(text)
	n, err := onnxgo.OpsetOf(data)
	if err != nil || n != 13 {
		t.Fatalf("OpsetOf gives %d, %v", n, err)
	}
	b := onnxgo.New(onnxgo.Opset(n), onnxgo.Threads(1), onnxgo.MemoryLimit(1<<20))
	m := onnx.NewModel(b)
	if err := m.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	for _, in := range []float32{1, 0.5} {
		m.SetInput(0, tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{in, 0, 0, 0})))
		if err := b.Run(); err != nil {
			t.Fatal(err)
		}
		out, err := m.GetOutputTensors()
		if err != nil {
			t.Fatal(err)
		}
		y, h := out[0].Data().([]float32), out[1].Data().([]float32)
		if !slices.Equal(h, []float32{in, 2 * in, 0, 0}) || !slices.Equal(y, []float32{4 * in * in, min(5, 16*in*in), 0, 0}) {
			t.Errorf("x = %v: y = %v, h = %v", in, y, h)
		}
	}
	// The decoder's graph is a graph: a topological order exists, outputs
	// first.
	order, err := topo.Sort(b)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, n := range order {
		at[n.(*onnxgo.Node).GetName()] = i
	}
	if !(at["y"] < at["q"] && at["q"] < at["s"] && at["s"] < at["h"] && at["h"] < at["x"]) {
		t.Errorf("topological order %v", at)
	}
}

func TestErrors(t *testing.T) {
	data := encode(text)
	feed := tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{1, 0, 0, 0}))
	for _, c := range []struct {
		name string
		b    *onnxgo.Backend
		data []byte
		feed tensor.Tensor
		want string
	}{
		{"no opset", onnxgo.New(), data, feed, "onnxgo: the opset is not known"},
		{"unknown operator", onnxgo.New(onnxgo.Opset(13)), encode(strings.Replace(text, "MatMul", "NoSuch", 1)), feed, "no kernel for NoSuch"},
		{"wrong shape", onnxgo.New(onnxgo.Opset(13)), data, tensor.New(tensor.WithShape(3), tensor.WithBacking([]float32{1, 0, 0})), "(MatMul): [3] times [2 2]"},
	} {
		m := onnx.NewModel(c.b)
		if err := m.UnmarshalBinary(c.data); err != nil {
			t.Fatal(err)
		}
		if err := m.SetInput(0, c.feed); err != nil {
			t.Fatal(err)
		}
		if err := c.b.Run(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
