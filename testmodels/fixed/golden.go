// Package fixed has goldens of the int16 operators of domain lathe, made by
// reference.py, a second implementation of their specification in plain Python
// integers.
package fixed

//go:generate sh -c "python3 reference.py > golden.jsonl"

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

//go:embed golden.jsonl
var goldens []byte

// Case is one node, its inputs and what it has to give.
type Case struct {
	Name   string
	Op     string
	Inputs map[string]*graph.Tensor // of the model; other inputs of the node are constants
	Output *graph.Tensor            // of value "out"

	attributes map[string]any
	operands   []*graph.Tensor
	dynamic    int
}

// Extreme reports whether the case is one of inputs chosen to overflow whatever
// can.
func (c *Case) Extreme() bool { return strings.Contains(c.Name, "extremes") }

// array is [type, dims, data]; float_bits are the patterns of float32.
type array struct {
	kind string
	dims []int64
	data []int64
}

func (a *array) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&a.kind, &a.dims, &a.data})
}

func (a *array) tensor() (*graph.Tensor, error) {
	d, ok := map[string]graph.DType{"int8": graph.Int8, "int16": graph.Int16, "int32": graph.Int32, "int64": graph.Int64, "float_bits": graph.Float32}[a.kind]
	if !ok {
		return nil, fmt.Errorf("type %q", a.kind)
	}
	var raw []byte
	for _, v := range a.data {
		for i := range d.Bits() / 8 {
			raw = append(raw, byte(v>>(8*i)))
		}
	}
	return graph.NewTensor(d, a.dims, raw)
}

// Cases returns all goldens.
func Cases() ([]Case, error) {
	var out []Case
	for line := range bytes.Lines(goldens) {
		var g struct {
			Name, Op   string
			Attributes map[string]any
			Inputs     []array
			Output     array
		}
		err := json.Unmarshal(line, &g)
		c := Case{Name: g.Name, Op: g.Op, attributes: g.Attributes, Inputs: map[string]*graph.Tensor{}, dynamic: 1}
		if c.Op == "AddInt16" {
			c.dynamic = 2
		}
		for i, a := range g.Inputs {
			t, e := a.tensor()
			if e != nil && err == nil {
				err = e
			}
			c.operands = append(c.operands, t)
			if i < c.dynamic {
				c.Inputs[input(i)] = t
			}
		}
		if err == nil {
			c.Output, err = g.Output.tensor()
		}
		if err != nil {
			return nil, fmt.Errorf("golden.jsonl, line %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func input(i int) string { return fmt.Sprint("in", i) }

// Model returns the node as a model of that opset, without the function that
// defines its operator.
func (c *Case) Model(opset int64) *graph.Model {
	m := graph.NewModel("golden", 8, opset)
	m.SetOpset(graph.LatheDomain, graph.LatheVersion)
	var in []*graph.Value
	for i, t := range c.operands {
		if i >= c.dynamic {
			in = append(in, m.Graph.AddInitializer(input(i), t))
			continue
		}
		in = append(in, m.Graph.AddInput(input(i), typeOf(t)))
	}
	var attrs []*graph.Attr
	for name, v := range c.attributes {
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
	slices.SortFunc(attrs, func(a, b *graph.Attr) int { return strings.Compare(a.Name, b.Name) })
	n := m.Graph.NewNode(graph.LatheDomain, c.Op, c.Op, in, []string{"out"}, attrs...)
	m.Graph.AddOutput(n.Output(0), typeOf(c.Output))
	return m
}

func typeOf(t *graph.Tensor) *graph.Type {
	var dims []graph.Dim
	for _, d := range t.Dims {
		dims = append(dims, graph.Known(d))
	}
	return graph.TensorType(t.DType, dims...)
}
