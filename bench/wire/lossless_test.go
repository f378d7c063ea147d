package wire

import (
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/onnx-lathe/lathe/graph"
)

// Every public model that is loaded and saved is equal field by field, for a
// reader that shares no code with the one that loads: also the fields that are
// present with their default value.
func TestPublicModelsAreSavedWithoutLoss(t *testing.T) {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA names no folder with the public models and sets")
	}
	err := filepath.WalkDir(filepath.Join(dir, "models"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".onnx" {
			return err
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, err := graph.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "saved.onnx")
			if err := m.Save(out, graph.SaveOptions{}); err != nil {
				t.Fatal(err)
			}
			before, err := ReadModel(path)
			if err != nil {
				t.Fatal(err)
			}
			after, err := ReadModel(out)
			if err != nil {
				t.Fatal(err)
			}
			if d := Diff(before, after, 10); len(d) > 0 {
				t.Error(strings.Join(d, "\n"))
			}
			t.Logf("%d fields", before.Count())
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Models made at random, which together have every field of the schema, absent,
// present with its default value, present with another, and repeated, in every
// message and element type, and fields that no schema knows, are equal field by
// field when they were read and written.
func TestRandomModelsAreSavedWithoutLoss(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(400) {
		m := (&inventor{rng: rand.New(rand.NewPCG(seed, 1)), seen: seen}).model()
		data := m.Append(nil)
		loaded, err := graph.Decode(data)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		encoded, err := loaded.Encode()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		after, err := Parse(encoded, "ModelProto")
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d := Diff(m, after, 5); len(d) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(d, "\n"))
		}
	}
	for _, message := range slices.Sorted(maps.Keys(schema)) {
		for _, f := range schema[message] {
			if !seen[message+"."+f.name] && !slices.Contains(leftOut, message+"."+f.name) {
				t.Errorf("no model had %s.%s", message, f.name)
			}
		}
	}
}

// leftOut has the fields of external data, which needs files beside the model,
// and of references to a function's attributes, which only functions may have.
var leftOut = []string{"TensorProto.external_data", "TensorProto.data_location", "AttributeProto.ref_attr_name"}

// An inventor makes models at random: any field, but names that resolve and
// tensors whose data fits their dims, since a model without is refused.
type inventor struct {
	rng    *rand.Rand
	depth  int // of graphs inside graphs
	names  int
	values []string // that a node may read, outer graphs' too
	seen   map[string]bool
}

func (v *inventor) chance(p float64) bool { return v.rng.Float64() < p }

func (v *inventor) name() string {
	v.names++
	return fmt.Sprintf("%c%d", "xyzé"[v.rng.IntN(3)], v.names)
}

// message fills a message with each of its fields at random, but those given.
func (v *inventor) message(typ string, except ...string) *Message {
	m := &Message{Type: typ}
	for _, n := range slices.Sorted(maps.Keys(schema[typ])) {
		f := schema[typ][n]
		if slices.Contains(except, f.name) || v.chance(0.5) {
			continue
		}
		count := 1
		if f.repeated {
			count = 1 + v.rng.IntN(2)
		}
		for range count {
			v.add(m, f.name)
		}
	}
	if v.chance(0.1) {
		m.Fields = append(m.Fields, Field{Number: 5000 + protowire.Number(v.rng.IntN(2)), Wire: protowire.BytesType, Bytes: []byte("later")})
	}
	v.rng.Shuffle(len(m.Fields), func(i, j int) {
		if m.Fields[i].Number != m.Fields[j].Number { // order inside a repeated field counts
			m.Fields[i], m.Fields[j] = m.Fields[j], m.Fields[i]
		}
	})
	v.note(m)
	return m
}

// note remembers which fields were there.
func (v *inventor) note(m *Message) {
	for _, f := range m.Fields {
		v.seen[m.Type+"."+m.name(f.Number)] = true
	}
}

// add adds one occurrence of a field, with any content.
func (v *inventor) add(m *Message, name string) {
	n := m.number(name)
	typ := schema[m.Type][n].typ
	f := Field{Number: n, Wire: protowire.BytesType}
	switch {
	case typ == "TypeProto":
		f.Message = v.typ()
	case typ == "TensorShapeProto.Dimension":
		f.Message = v.dimension()
	case typ == "TensorProto":
		f.Message = v.tensor(v.name())
	case typ == "SparseTensorProto":
		f.Message = v.sparse("")
	case typ == "GraphProto":
		f.Message = v.graph()
	case typ == "AttributeProto":
		f.Message = v.attribute(v.name())
	case typ == "SimpleShardedDimProto":
		f.Message = v.message(typ, []string{"dim_value", "dim_param"}[v.rng.IntN(2)])
	case schema[typ] != nil:
		f.Message = v.message(typ)
	case typ == "string" || typ == "bytes":
		f.Bytes = []byte([]string{"", "text", "ünïcode", "a\x00b"}[v.rng.IntN(4)])
	case scalars[typ] == protowire.Fixed32Type:
		f.Wire = protowire.Fixed32Type
		f.Bits = uint64([]float32bits{0, 0x80000000, 0x3f800000, 0x7fc00001}[v.rng.IntN(4)])
	case scalars[typ] == protowire.Fixed64Type:
		f.Wire, f.Bits = protowire.Fixed64Type, math.Float64bits(v.rng.NormFloat64())
	case typ == "int32":
		f.Wire, f.Bits = protowire.VarintType, uint64([]int64{0, 1, -1, math.MaxInt32}[v.rng.IntN(4)])
	case typ == "int64" || typ == "uint64":
		f.Wire, f.Bits = protowire.VarintType, []uint64{0, 1, math.MaxUint64, 300}[v.rng.IntN(4)]
	default: // an enum: 0 and 1 are in all of them
		f.Wire, f.Bits = protowire.VarintType, uint64(v.rng.IntN(2))
	}
	m.Fields = append(m.Fields, f)
}

type float32bits uint32

func (v *inventor) model() *Message {
	m := v.message("ModelProto", "ir_version", "graph", "functions", "opset_import")
	m.AddInt("ir_version", 3+v.rng.Int64N(11)).AddMessage("graph", v.graph())
	for i := range v.rng.IntN(3) {
		m.AddMessage("functions", v.function(fmt.Sprint("F", i)))
	}
	for _, domain := range []string{"", "custom", "lathe"} {
		o := &Message{Type: "OperatorSetIdProto"}
		if domain != "" || v.chance(0.5) {
			o.AddText("domain", domain)
		}
		if v.chance(0.9) {
			o.AddInt("version", v.rng.Int64N(24))
		}
		v.note(o)
		m.AddMessage("opset_import", o)
	}
	v.note(m)
	return m
}

func (v *inventor) graph() *Message {
	outer := v.values
	v.depth++
	defer func() { v.values, v.depth = outer, v.depth-1 }()
	v.values = slices.Clone(outer)

	g := v.message("GraphProto", "node", "initializer", "sparse_initializer", "input", "output", "value_info", "quantization_annotation")
	var own []string
	for range 1 + v.rng.IntN(2) {
		own = append(own, v.name())
		g.AddMessage("input", v.valueInfo(own[len(own)-1]))
	}
	for range v.rng.IntN(3) {
		name := v.name()
		if v.chance(0.2) {
			name = own[0] // an input with a default
		}
		if slices.ContainsFunc(g.Messages("initializer"), func(t *Message) bool { return t.Text("name") == name }) {
			continue
		}
		own = append(own, name)
		g.AddMessage("initializer", v.tensor(name))
	}
	if v.chance(0.3) {
		own = append(own, v.name())
		g.AddMessage("sparse_initializer", v.sparse(own[len(own)-1]))
	}
	v.values = append(v.values, own...)
	for range v.rng.IntN(4) {
		n := v.node()
		g.AddMessage("node", n)
		for _, out := range n.Texts("output") {
			if out != "" {
				own = append(own, out)
				v.values = append(v.values, out)
				if v.chance(0.3) {
					g.AddMessage("value_info", v.valueInfo(out))
				}
			}
		}
	}
	for _, out := range own[max(0, len(own)-2):] {
		g.AddMessage("output", v.valueInfo(out))
	}
	if v.chance(0.4) {
		a := v.message("TensorAnnotation", "tensor_name").AddText("tensor_name", own[0])
		v.note(a)
		g.AddMessage("quantization_annotation", a)
	}
	v.note(g)
	return g
}

func (v *inventor) valueInfo(name string) *Message {
	i := v.message("ValueInfoProto", "name").AddText("name", name)
	v.note(i)
	return i
}

func (v *inventor) node() *Message {
	n := v.message("NodeProto", "input", "output", "op_type", "attribute", "domain")
	n.AddText("op_type", []string{"Relu", "Teleport", "Add"}[v.rng.IntN(3)])
	if v.chance(0.5) {
		n.AddText("domain", []string{"", "custom"}[v.rng.IntN(2)])
	}
	for range v.rng.IntN(3) {
		in := v.values[v.rng.IntN(len(v.values))]
		if v.chance(0.2) {
			in = ""
		}
		n.AddText("input", in)
	}
	for i := range 1 + v.rng.IntN(2) {
		if i > 0 && v.chance(0.3) {
			n.AddText("output", "")
			continue
		}
		n.AddText("output", v.name())
	}
	for range v.rng.IntN(3) {
		n.AddMessage("attribute", v.attribute(v.name()))
	}
	v.note(n)
	return n
}

// attribute makes an attribute of one kind, numbered as in AttributeType.
func (v *inventor) attribute(name string) *Message {
	kinds := []struct {
		kind   int64
		field  string
		graphs bool
		list   bool
	}{
		{1, "f", false, false}, {2, "i", false, false}, {3, "s", false, false}, {4, "t", false, false}, {5, "g", true, false},
		{6, "floats", false, true}, {7, "ints", false, true}, {8, "strings", false, true}, {9, "tensors", false, true}, {10, "graphs", true, true},
		{11, "sparse_tensor", false, false}, {12, "sparse_tensors", false, true}, {13, "tp", false, false}, {14, "type_protos", false, true},
	}
	k := kinds[v.rng.IntN(len(kinds))]
	if k.graphs && v.depth > 2 {
		k = kinds[1]
	}
	a := (&Message{Type: "AttributeProto"}).AddText("name", name).AddInt("type", k.kind)
	count := 1
	if k.list {
		count = v.rng.IntN(4)
	}
	for range count {
		v.add(a, k.field)
	}
	if v.chance(0.3) {
		a.AddText("doc_string", "")
	}
	v.note(a)
	return a
}

// typ makes a type of one kind, or of none.
func (v *inventor) typ() *Message {
	kinds := []string{"tensor_type", "sequence_type", "map_type", "sparse_tensor_type", "optional_type", "opaque_type", "denotation", "tensor_type", "tensor_type", "tensor_type"}
	t := &Message{Type: "TypeProto"}
	v.add(t, kinds[v.rng.IntN(len(kinds))])
	v.note(t)
	return t
}

func (v *inventor) dimension() *Message {
	d := &Message{Type: "TensorShapeProto.Dimension"}
	switch v.rng.IntN(4) {
	case 0:
		d.AddText("dim_param", []string{"", "batch"}[v.rng.IntN(2)])
	case 1:
		d.AddInt("dim_value", v.rng.Int64N(3)-1)
	case 2:
		d.AddInt("dim_value", 7).AddText("denotation", "DATA_CHANNEL")
	}
	v.note(d)
	return d
}

// elements has how a tensor of a type holds two elements: the size of its raw
// data, and the field that holds them otherwise, with its number of entries.
var elements = []struct {
	dtype   int64
	raw     int
	field   string
	entries int
}{
	{1, 8, "float_data", 2}, {2, 2, "int32_data", 2}, {3, 2, "int32_data", 2}, {4, 4, "int32_data", 2}, {5, 4, "int32_data", 2},
	{6, 8, "int32_data", 2}, {7, 16, "int64_data", 2}, {8, 0, "string_data", 2}, {9, 2, "int32_data", 2}, {10, 4, "int32_data", 2},
	{11, 16, "double_data", 2}, {12, 8, "uint64_data", 2}, {13, 16, "uint64_data", 2}, {14, 16, "float_data", 4}, {15, 32, "double_data", 4},
	{16, 4, "int32_data", 2}, {17, 2, "int32_data", 2}, {18, 2, "int32_data", 2}, {19, 2, "int32_data", 2}, {20, 2, "int32_data", 2},
	{21, 1, "int32_data", 1}, {22, 1, "int32_data", 1}, {23, 1, "int32_data", 1},
}

// tensor makes a tensor of two elements, or of none.
func (v *inventor) tensor(name string) *Message {
	e := elements[v.rng.IntN(len(elements))]
	t := v.message("TensorProto", "dims", "data_type", "name", "float_data", "int32_data", "string_data", "int64_data",
		"raw_data", "double_data", "uint64_data", "external_data", "data_location", "segment")
	t.AddText("name", name).AddInt("data_type", e.dtype)
	if v.chance(0.2) {
		t.AddInt("dims", 3).AddInt("dims", 0)
		if v.chance(0.5) {
			t.AddText("raw_data", "")
		}
		v.note(t)
		return t
	}
	t.AddInt("dims", 2)
	if v.chance(0.3) {
		t.AddInt("dims", 1)
	}
	if e.raw > 0 && v.chance(0.5) {
		t.AddText("raw_data", string(make([]byte, e.raw)))
	} else {
		for range e.entries {
			v.add(t, e.field)
		}
	}
	if v.chance(0.1) {
		v.add(t, "segment")
	}
	v.note(t)
	return t
}

// sparse makes a sparse tensor of dims [4] with two elements.
func (v *inventor) sparse(name string) *Message {
	values := v.tensor(name)
	for values.Ints("data_type")[0] == 8 || !slices.Equal(values.Ints("dims"), []int64{2}) || values.Message("segment") != nil {
		values = v.tensor(name)
	}
	indices := (&Message{Type: "TensorProto"}).AddInt("dims", 2).AddInt("data_type", 7).AddInt("int64_data", 1).AddInt("int64_data", 3)
	s := (&Message{Type: "SparseTensorProto"}).AddMessage("values", values).AddMessage("indices", indices).AddInt("dims", 4)
	v.note(s)
	return s
}

func (v *inventor) function(name string) *Message {
	outer := v.values
	defer func() { v.values = outer }()
	f := v.message("FunctionProto", "name", "domain", "overload", "input", "output", "attribute", "attribute_proto", "node", "value_info", "opset_import")
	f.AddText("name", name).AddText("domain", "custom").AddText("attribute", "alpha")
	if v.chance(0.3) {
		f.AddText("overload", "")
	}
	f.AddMessage("opset_import", (&Message{Type: "OperatorSetIdProto"}).AddInt("version", 18))
	f.AddMessage("attribute_proto", v.attribute("beta"))
	v.values = []string{v.name()}
	f.AddText("input", v.values[0])
	n := v.node()
	f.AddMessage("node", n).AddText("output", n.Texts("output")[0])
	f.AddMessage("value_info", v.valueInfo(n.Texts("output")[0]))
	v.note(f)
	return f
}
