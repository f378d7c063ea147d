package ort_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// elem_type codes of ONNX.
const (
	float32Type = 1
	int64Type   = 7
	boolType    = 9
)

// A port is an input or output: a nil shape is unknown, -1 symbolic.
type port struct {
	name  string
	elem  int64
	shape []int64
}

// oneNode writes a model of one node and opens it.
func oneNode(t *testing.T, op string, in, out []port) *ort.Session {
	t.Helper()
	if _, err := ort.Library(); err != nil && os.Getenv("LATHE_ORT") == "" {
		t.Skip(err)
	}
	message := func(typ string) *wire.Message { return &wire.Message{Type: typ} }
	node := message("NodeProto").AddText("op_type", op)
	g := message("GraphProto").AddText("name", "g").AddMessage("node", node)
	add := func(field, end string, ports []port) {
		for _, p := range ports {
			node.AddText(end, p.name)
			tensor := message("TypeProto.Tensor").AddInt("elem_type", p.elem)
			if p.shape != nil {
				shape := message("TensorShapeProto")
				for _, d := range p.shape {
					dim := message("TensorShapeProto.Dimension")
					if d >= 0 {
						dim.AddInt("dim_value", d)
					}
					shape.AddMessage("dim", dim)
				}
				tensor.AddMessage("shape", shape)
			}
			g.AddMessage(field, message("ValueInfoProto").AddText("name", p.name).
				AddMessage("type", message("TypeProto").AddMessage("tensor_type", tensor)))
		}
	}
	add("input", "input", in)
	add("output", "output", out)
	m := message("ModelProto").AddInt("ir_version", 8).AddMessage("graph", g).
		AddMessage("opset_import", message("OperatorSetIdProto").AddText("domain", "").AddInt("version", 17))
	path := filepath.Join(t.TempDir(), "m.onnx")
	if err := m.Write(path); err != nil {
		t.Fatal(err)
	}
	s, err := ort.Open(path, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The shapes that the binding below does not take by itself: none (declared or
// found out), empty, and dynamic ones.
func TestShapes(t *testing.T) {
	for _, c := range []struct {
		what, op string
		in, out  []port
		feeds    map[string]nd.Array
		want     map[string]nd.Array
	}{
		{"scalars in and out", "Add",
			[]port{{"a", float32Type, []int64{}}, {"b", float32Type, []int64{}}}, []port{{"c", float32Type, []int64{}}},
			map[string]nd.Array{"a": nd.Of([]float32{1}), "b": nd.Of([]float32{2})},
			map[string]nd.Array{"c": nd.Of([]float32{3})}},
		{"a scalar that the model does not declare", "Squeeze",
			[]port{{"a", int64Type, []int64{1, 1}}}, []port{{"c", int64Type, nil}},
			map[string]nd.Array{"a": nd.Of([]int64{-7}, 1, 1)},
			map[string]nd.Array{"c": nd.Of([]int64{-7})}},
		{"an empty array", "Relu",
			[]port{{"a", float32Type, []int64{-1, 3}}}, []port{{"c", float32Type, []int64{-1, 3}}},
			map[string]nd.Array{"a": nd.Of([]float32{}, 0, 3)},
			map[string]nd.Array{"c": nd.Of([]float32{}, 0, 3)}},
		{"booleans", "Not",
			[]port{{"a", boolType, []int64{-1}}}, []port{{"c", boolType, []int64{-1}}},
			map[string]nd.Array{"a": nd.Of([]bool{true, false}, 2)},
			map[string]nd.Array{"c": nd.Of([]bool{false, true}, 2)}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := oneNode(t, c.op, c.in, c.out)
			for range 2 { // what the first run learns must hold in the second
				got, err := s.Run(c.feeds)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestSamples(t *testing.T) {
	pair := func(s *ort.Session, arrays map[string]nd.Array, limit int) (nd.Array, []int, error) {
		var firsts []int
		d := ort.Samples{Arrays: arrays, Limit: limit, Batch: 2}
		if err := s.Each(d, func(first int, _, _ map[string]nd.Array) error {
			firsts = append(firsts, first)
			return nil
		}); err != nil {
			return nd.Array{}, nil, err
		}
		all, err := s.All(d)
		return all["c"], firsts, err
	}
	rows := nd.Of([]float32{-1, 2, 3, -4, 5}, 5, 1)

	free := oneNode(t, "Relu", []port{{"a", float32Type, []int64{-1, 1}}}, []port{{"c", float32Type, []int64{-1, 1}}})
	got, firsts, err := pair(free, map[string]nd.Array{"other": rows, "labels": nd.Of([]int64{0, 0, 0, 0, 0}, 5)}, 0)
	if err != nil || !reflect.DeepEqual(got, nd.Of([]float32{0, 2, 3, 0, 5}, 5, 1)) || !reflect.DeepEqual(firsts, []int{0, 2, 4}) {
		t.Errorf("free batch: %v in runs at %v, %v", got, firsts, err)
	}
	if got, _, err := pair(free, map[string]nd.Array{"a": rows}, 3); err != nil || !reflect.DeepEqual(got.Shape, []int64{3, 1}) {
		t.Errorf("three samples: %v, %v", got, err)
	}

	fixed := oneNode(t, "Relu", []port{{"a", float32Type, []int64{1, 1}}}, []port{{"c", float32Type, []int64{1, 1}}})
	got, firsts, err = pair(fixed, map[string]nd.Array{"a": rows}, 0)
	if err != nil || !reflect.DeepEqual(got.Shape, []int64{5, 1}) || len(firsts) != 5 {
		t.Errorf("batch fixed at 1: %v in runs at %v, %v", got, firsts, err)
	}

	for what, arrays := range map[string]map[string]nd.Array{
		"wrong dimension": {"a": nd.Of([]float32{1, 2}, 1, 2)},
		"wrong type":      {"a": nd.Of([]int64{1}, 1, 1)},
		"two that fit":    {"x": rows, "y": rows},
		"none":            {},
	} {
		if _, _, err := pair(free, arrays, 0); err == nil || !strings.Contains(err.Error(), `input "a"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
