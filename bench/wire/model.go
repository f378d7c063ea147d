package wire

import (
	"fmt"
	"os"
)

// ReadModel reads a model file.
func ReadModel(path string) (*Message, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := Parse(data, "ModelProto")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Write writes the model into a file.
func (m *Message) Write(path string) error {
	return os.WriteFile(path, m.Append(nil), 0o644)
}

// AddOutputs makes float32 values of a model's graph outputs of the model, so
// that any runtime shows them.
func (m *Message) AddOutputs(values ...string) {
	g := m.Message("graph")
	for _, v := range values {
		tensor := (&Message{Type: "TypeProto.Tensor"}).AddInt("elem_type", 1)
		typ := (&Message{Type: "TypeProto"}).AddMessage("tensor_type", tensor)
		g.AddMessage("output", (&Message{Type: "ValueInfoProto"}).AddText("name", v).AddMessage("type", typ))
	}
}

// ScrambleNames gives new names, which say nothing, to all values, nodes,
// initializers and symbolic dimensions of a model's graph and the graphs inside
// its nodes. The graph's inputs and outputs are renamed too. Model-local
// functions stay as they are: they have names of their own.
func (m *Message) ScrambleNames() {
	s := scrambler{}
	s.message(m.Message("graph"))
}

// A scrambler maps old names to new ones.
type scrambler map[string][]byte

// nameFields has the fields whose text names something inside a graph.
var nameFields = map[string][]string{
	"GraphProto":                 {"name"},
	"NodeProto":                  {"name", "input", "output"},
	"ValueInfoProto":             {"name"},
	"TensorProto":                {"name"},
	"TensorAnnotation":           {"tensor_name"},
	"TensorShapeProto.Dimension": {"dim_param"},
}

func (s scrambler) message(m *Message) {
	for _, field := range nameFields[m.Type] {
		for _, f := range m.All(field) {
			old := string(f.Bytes)
			if old == "" {
				continue // an optional input that is left out
			}
			if _, ok := s[old]; !ok {
				s[old] = fmt.Appendf(nil, "q%x", (len(s)+1)*2654435761%(1<<32))
			}
			f.Bytes = s[old]
		}
	}
	for i := range m.Fields {
		if child := m.Fields[i].Message; child != nil {
			s.message(child)
		}
	}
}
