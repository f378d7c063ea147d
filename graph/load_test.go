package graph

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// smallModel is y = Add(Relu(x), w), as a message to break.
func smallModel() *onnxpb.ModelProto {
	value := func(name string) *onnxpb.ValueInfoProto {
		return &onnxpb.ValueInfoProto{Name: &name, Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{TensorType: &onnxpb.TypeProto_Tensor{
			ElemType: proto.Int32(1),
			Shape: &onnxpb.TensorShapeProto{Dim: []*onnxpb.TensorShapeProto_Dimension{
				{Value: &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: "n"}, Denotation: proto.String("DATA_BATCH")},
				{Value: &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 2}},
			}},
		}}}}
	}
	return &onnxpb.ModelProto{
		IrVersion:   proto.Int64(8),
		OpsetImport: []*onnxpb.OperatorSetIdProto{{Domain: proto.String(""), Version: proto.Int64(17)}},
		Graph: &onnxpb.GraphProto{
			Name:   proto.String("g"),
			Input:  []*onnxpb.ValueInfoProto{value("x")},
			Output: []*onnxpb.ValueInfoProto{value("y")},
			Initializer: []*onnxpb.TensorProto{
				{Name: proto.String("w"), DataType: proto.Int32(1), Dims: []int64{2}, FloatData: []float32{1, 2}},
			},
			Node: []*onnxpb.NodeProto{
				{Name: proto.String("relu"), OpType: proto.String("Relu"), Input: []string{"x"}, Output: []string{"a"}},
				{Name: proto.String("add"), OpType: proto.String("Add"), Input: []string{"a", "w"}, Output: []string{"y"}},
			},
			ValueInfo: []*onnxpb.ValueInfoProto{value("a")},
		},
	}
}

// nested is a model of graphs inside of graphs.
func nested(depth int) *onnxpb.ModelProto {
	p := smallModel()
	g := p.Graph
	for range depth {
		sub := &onnxpb.GraphProto{}
		g.Node = append(g.Node, &onnxpb.NodeProto{OpType: proto.String("If"), Attribute: []*onnxpb.AttributeProto{
			{Name: proto.String("then_branch"), Type: onnxpb.AttributeProto_GRAPH.Enum(), G: sub}}})
		g = sub
	}
	return p
}

// What is no model, or one that can't be right, is an error in one line that
// says what, where and what is wrong.
func TestLoadRefuses(t *testing.T) {
	edit := func(f func(p *onnxpb.ModelProto)) []byte {
		p := smallModel()
		f(p)
		data, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	tensor := func(d DType, dims []int64, raw []byte) []byte {
		return edit(func(p *onnxpb.ModelProto) {
			p.Graph.Initializer[0] = &onnxpb.TensorProto{Name: proto.String("w"), DataType: proto.Int32(int32(d)), Dims: dims, RawData: raw}
		})
	}
	good := edit(func(*onnxpb.ModelProto) {})
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 1000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	many := protowire.AppendTag(nil, 7, protowire.BytesType)
	many = protowire.AppendBytes(many, bytes.Repeat([]byte{0x0a, 0}, maxMessages+1))

	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":         {nil, "is empty"},
		"text":          {[]byte("import torch\n# the model\n"), "is a text file"},
		"short text":    {[]byte("hello"), "is a text file"},
		"UTF-8":         {[]byte(strings.Repeat("Gewichte für alle\n", 99)), "is a text file"},
		"LFS":           {[]byte("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"), "git lfs pull"},
		"zip":           {[]byte("PK\x03\x04\x14\x00\x00\x00"), "zip archive"},
		"gzip":          {[]byte{0x1f, 0x8b, 8, 0}, "compressed"},
		"random":        {random, "is damaged or not an ONNX model"},
		"no graph":      {edit(func(p *onnxpb.ModelProto) { p.Graph = nil }), "holds no graph"},
		"cut":           {good[:len(good)-3], "is damaged or not an ONNX model"},
		"many messages": {many, "more than 4194304 messages"},
		"nesting":       {edit(func(p *onnxpb.ModelProto) { proto.Reset(p); proto.Merge(p, nested(70)) }), "nested more than 64 deep"},
		"deep nesting":  {edit(func(p *onnxpb.ModelProto) { proto.Reset(p); proto.Merge(p, nested(3000)) }), "is damaged or not an ONNX model"},

		"no name":     {edit(func(p *onnxpb.ModelProto) { p.Graph.Initializer[0].Name = nil }), `initializer 0: has no name`},
		"input twice": {edit(func(p *onnxpb.ModelProto) { p.Graph.Input = append(p.Graph.Input, p.Graph.Input[0]) }), `input 1: "x" is already defined by an input`},
		"initializer twice": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.Initializer = append(p.Graph.Initializer, p.Graph.Initializer[0])
		}), `initializer 1: "w" is already defined`},
		"output twice":    {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[1].Output[0] = "a" }), `node "add" (Add): output 0: "a" is already defined by node "relu" (Relu)`},
		"input redefined": {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[1].Output[0] = "x" }), `node "add" (Add): output 0: "x" is already defined by an input`},
		"dangling input":  {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[1].Input[1] = "v" }), `graph "g": node "add" (Add): input 1 reads "v", which nothing defines`},
		"dangling output": {edit(func(p *onnxpb.ModelProto) { p.Graph.Output[0].Name = proto.String("z") }), `output 0 is "z", which nothing defines`},
		"cycle":           {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[0].Input[0] = "y" }), `node "relu" (Relu) is on or behind a cycle`},
		"self":            {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[0].Input[0] = "a" }), `node "relu" (Relu) is on or behind a cycle`},
		"no operator":     {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[1].OpType = nil }), `node 1 ("add") has no operator`},
		"newline": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.Node[1].OpType = proto.String("A\nB")
			p.Graph.Node[1].Input[0] = "\n"
		}), `node "add" (A\nB): input 0 reads "\n"`},
		"long name": {edit(func(p *onnxpb.ModelProto) { p.Graph.Node[1].Input[0] = strings.Repeat("a", 1<<20) }), `input 0 reads "aaaa`},
		"body reads later": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.Node[0].Attribute = []*onnxpb.AttributeProto{{Name: proto.String("body"), Type: onnxpb.AttributeProto_GRAPH.Enum(), G: &onnxpb.GraphProto{
				Node: []*onnxpb.NodeProto{{OpType: proto.String("Neg"), Input: []string{"y"}, Output: []string{"n"}}}}}}
		}), "cycle"},
		"attribute twice": {edit(func(p *onnxpb.ModelProto) {
			a := &onnxpb.AttributeProto{Name: proto.String("axis"), I: proto.Int64(1)}
			p.Graph.Node[0].Attribute = []*onnxpb.AttributeProto{a, a}
		}), `node "relu" (Relu): attribute "axis" is given twice`},
		"attribute without value": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.Node[0].Attribute = []*onnxpb.AttributeProto{{Name: proto.String("value"), Type: onnxpb.AttributeProto_TENSOR.Enum()}}
		}), `attribute "value": has no value`},
		"function twice": {edit(func(p *onnxpb.ModelProto) {
			p.Functions = []*onnxpb.FunctionProto{{Name: proto.String("f"), Domain: proto.String("d")}, {Name: proto.String("f"), Domain: proto.String("d")}}
		}), `function "d.f" is defined twice`},
		"function reads outside": {edit(func(p *onnxpb.ModelProto) {
			p.Functions = []*onnxpb.FunctionProto{{Name: proto.String("f"), Node: []*onnxpb.NodeProto{{OpType: proto.String("Neg"), Input: []string{"w"}}}}}
		}), `function "f": node "" (Neg): input 0 reads "w", which nothing defines`},

		"negative dim":   {tensor(Float32, []int64{-2}, nil), `tensor "w" (float[-2]): dims are negative`},
		"overflow":       {tensor(Float32, []int64{1 << 40, 1 << 40}, nil), "dims are negative or overflow"},
		"2^60 elements":  {tensor(Float32, []int64{1 << 60}, nil), `tensor "w"`},
		"2^50 elements":  {tensor(Float32, []int64{1 << 50}, nil), `dims ask for`},
		"short raw data": {tensor(Float32, []int64{2}, make([]byte, 7)), "dims ask for 8 bytes, data has 7"},
		"long raw data":  {tensor(Float32, []int64{2}, make([]byte, 9)), "dims ask for 8 bytes, data has 9"},
		"data for none":  {tensor(Float32, []int64{0}, make([]byte, 4)), "dims ask for 0 bytes, data has 4"},
		"int4":           {tensor(Int4, []int64{3}, make([]byte, 3)), "dims ask for 2 bytes, data has 3"},
		"strings":        {tensor(String, []int64{1 << 40}, nil), "dims ask for 1099511627776 strings, data has 0"},
		"short floats":   {edit(func(p *onnxpb.ModelProto) { p.Graph.Initializer[0].FloatData = []float32{1} }), "dims ask for 2 entries, data has 1"},
		"long floats":    {edit(func(p *onnxpb.ModelProto) { p.Graph.Initializer[0].Dims = nil }), "dims ask for 1 entries, data has 2"},
		"wrong field":    {edit(func(p *onnxpb.ModelProto) { p.Graph.Initializer[0].DataType = proto.Int32(7) }), "dims ask for 2 entries, data has 0"},
		"sparse": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.SparseInitializer = []*onnxpb.SparseTensorProto{{Values: &onnxpb.TensorProto{Name: proto.String("s")}}}
		}), "without values or indices"},
		"sparse mismatch": {edit(func(p *onnxpb.ModelProto) {
			p.Graph.SparseInitializer = []*onnxpb.SparseTensorProto{{Dims: []int64{9},
				Values:  &onnxpb.TensorProto{Name: proto.String("s"), DataType: proto.Int32(1), Dims: []int64{2}, FloatData: []float32{1, 2}},
				Indices: &onnxpb.TensorProto{DataType: proto.Int32(7), Dims: []int64{1}, Int64Data: []int64{1}}}}
		}), `sparse initializer 0: "s"`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.onnx")
			write(t, path, c.data)
			peak := watchHeap(t)
			for _, load := range []func() (*Model, error){
				func() (*Model, error) { return Load(path) },
				func() (*Model, error) { return loadWhole(path, 0) },
				func() (*Model, error) { return Decode(c.data) },
			} {
				m, err := load()
				if m != nil || err == nil {
					t.Fatalf("loaded, error %v", err)
				}
				if s := err.Error(); !strings.Contains(s, c.want) || strings.Contains(s, "\n") || len(s) > 2200 {
					t.Errorf("error %q, want %q, in one line", s, c.want)
				}
			}
			if got := peak(); got > 64<<20 {
				t.Errorf("%d MB of heap", got>>20)
			}
			if _, err := Load(path); !strings.HasPrefix(err.Error(), "load "+path+": ") {
				t.Errorf("%v does not begin with the file", err)
			}
		})
	}
}

func TestLoadRefusesPlaces(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.onnx")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("folder: %v", err)
	}
	huge := filepath.Join(dir, "huge.onnx")
	if err := errors.Join(os.WriteFile(huge, nil, 0o666), os.Truncate(huge, 1<<32)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(huge); err == nil || !strings.Contains(err.Error(), "below 2 GiB") {
		t.Errorf("huge: %v", err)
	}
	if err := os.Truncate(huge, 1<<30); err != nil {
		t.Fatal(err)
	}
	peak := watchHeap(t)
	if _, err := Load(huge); err == nil || !strings.Contains(err.Error(), "not an ONNX model") {
		t.Errorf("zeros: %v", err)
	}
	if got := peak(); got > 16<<20 {
		t.Errorf("a file of zeros takes %d MB of heap", got>>20)
	}
}

// What no rule forbids loads, odd as it may be, and comes back as it was.
func TestLoadAccepts(t *testing.T) {
	for name, edit := range map[string]func(*onnxpb.ModelProto){
		"unknown operator": func(p *onnxpb.ModelProto) {
			p.Graph.Node[0].OpType, p.Graph.Node[0].Domain = proto.String("Magic"), proto.String("com.example")
		},
		"NaN weights": func(p *onnxpb.ModelProto) {
			p.Graph.Initializer[0].FloatData, p.Graph.Initializer[0].RawData = nil, bytes.Repeat([]byte{0xff}, 8)
		},
		"invalid UTF-8": func(p *onnxpb.ModelProto) {
			p.Graph.Node[0].Output[0], p.Graph.Node[1].Input[0] = "\xff\xfe", "\xff\xfe"
		},
		"no opset":          func(p *onnxpb.ModelProto) { p.OpsetImport, p.IrVersion = nil, nil },
		"out of order":      func(p *onnxpb.ModelProto) { slices.Reverse(p.Graph.Node) },
		"nesting":           func(p *onnxpb.ModelProto) { proto.Reset(p); proto.Merge(p, nested(60)) },
		"element type 99":   func(p *onnxpb.ModelProto) { p.Graph.Initializer[0].DataType = proto.Int32(99) },
		"attribute type 99": func(p *onnxpb.ModelProto) { p.Graph.Node[0].Attribute = unknownAttribute(t) },
		"bool of 256":       func(p *onnxpb.ModelProto) { oddBool(p.Graph.Initializer[0]) },
		"zero-size": func(p *onnxpb.ModelProto) {
			p.Graph.Initializer[0].Dims, p.Graph.Initializer[0].FloatData = []int64{0, 1 << 40}, nil
		},
		"output of the graph around": func(p *onnxpb.ModelProto) {
			p.Graph.Node[1].Attribute = []*onnxpb.AttributeProto{{Name: proto.String("then_branch"), Type: onnxpb.AttributeProto_GRAPH.Enum(), G: &onnxpb.GraphProto{
				Output: []*onnxpb.ValueInfoProto{{Name: proto.String("a"), DocString: proto.String("")}}}}}
		},
		"output twice": func(p *onnxpb.ModelProto) {
			p.Graph.Output = append(p.Graph.Output, &onnxpb.ValueInfoProto{Name: proto.String("y"), DocString: proto.String("again")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := smallModel()
			edit(p)
			data, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			sameOnWire(t, got, data)
		})
	}
}

func unknownAttribute(t *testing.T) []*onnxpb.AttributeProto {
	a := &onnxpb.AttributeProto{}
	b := protowire.AppendTag(nil, 20, protowire.VarintType)
	if err := proto.Unmarshal(protowire.AppendVarint(b, 99), a); err != nil {
		t.Fatal(err)
	}
	return []*onnxpb.AttributeProto{a}
}

func oddBool(p *onnxpb.TensorProto) {
	p.DataType, p.FloatData, p.Int32Data = proto.Int32(int32(Bool)), nil, []int32{256, -1}
}

// ONNX Runtime takes the last of several Constants of one name; models made
// for it rely on that.
func TestLastConstantCounts(t *testing.T) {
	p := smallModel()
	for i, v := range []float32{3, 4} {
		p.Graph.Node = append(p.Graph.Node, &onnxpb.NodeProto{Name: proto.String(fmt.Sprint("c", i)), OpType: proto.String("Constant"), Output: []string{"c"}, Attribute: []*onnxpb.AttributeProto{
			{Name: proto.String("value_float"), Type: onnxpb.AttributeProto_FLOAT.Enum(), F: proto.Float32(v)}}})
	}
	p.Graph.Node[1].Input[1] = "c"
	data, _ := proto.Marshal(p)
	m, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Graph.Value("c").ConstTensor()
	if f, err := c.Float32s(); err != nil || f[0] != 4 {
		t.Errorf("c is %v (%v), want 4", f, err)
	}
	got, _ := m.Encode()
	sameOnWire(t, got, data)
	m.Graph.Value("a").ReplaceUses(m.Graph.Value("x"))
	m.Graph.Remove(m.Graph.Value("a").Def())
	if got, err = m.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(got); err != nil || bytes.Contains(got, []byte("c0")) {
		t.Errorf("after an edit the superseded constant is still there (%v)", err)
	}
}

// Elements are the same wherever the file has them.
func TestElementsByType(t *testing.T) {
	i32 := func(v ...int32) *onnxpb.TensorProto { return &onnxpb.TensorProto{Int32Data: v} }
	for d, c := range map[DType]struct {
		p    *onnxpb.TensorProto
		dims []int64
		want []byte
	}{
		Float32:        {&onnxpb.TensorProto{FloatData: []float32{1, -2}}, []int64{2}, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}},
		Complex64:      {&onnxpb.TensorProto{FloatData: []float32{1, -2}}, nil, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}},
		Float64:        {&onnxpb.TensorProto{DoubleData: []float64{1}}, nil, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f}},
		Complex128:     {&onnxpb.TensorProto{DoubleData: []float64{1, 0}}, nil, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0}},
		Int64:          {&onnxpb.TensorProto{Int64Data: []int64{-2}}, nil, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		Uint64:         {&onnxpb.TensorProto{Uint64Data: []uint64{1 << 63}}, nil, []byte{0, 0, 0, 0, 0, 0, 0, 0x80}},
		Uint32:         {&onnxpb.TensorProto{Uint64Data: []uint64{1 << 31}}, nil, []byte{0, 0, 0, 0x80}},
		Int32:          {i32(-2), nil, []byte{0xfe, 0xff, 0xff, 0xff}},
		Int16:          {i32(-2, 3), []int64{2}, []byte{0xfe, 0xff, 3, 0}},
		Uint16:         {i32(65535), nil, []byte{0xff, 0xff}},
		Int8:           {i32(-2), nil, []byte{0xfe}},
		Uint8:          {i32(255), nil, []byte{255}},
		Bool:           {i32(1, 0), []int64{2}, []byte{1, 0}},
		Float16:        {i32(0x3c00), nil, []byte{0, 0x3c}},
		BFloat16:       {i32(0x3f80), nil, []byte{0x80, 0x3f}},
		Float8E4M3FN:   {i32(0x38), nil, []byte{0x38}},
		Float8E4M3FNUZ: {i32(0xf8), nil, []byte{0xf8}},
		Float8E5M2:     {i32(0x3c), nil, []byte{0x3c}},
		Float8E5M2FNUZ: {i32(0x3c), nil, []byte{0x3c}},
		Float8E8M0:     {i32(127), nil, []byte{127}},
		Uint4:          {i32(0x21, 0x03), []int64{3}, []byte{0x21, 3}},
		Int4:           {i32(0xf1), []int64{2}, []byte{0xf1}},
		Float4E2M1:     {i32(0x21), []int64{2}, []byte{0x21}},
		Uint2:          {i32(0xe4), []int64{4}, []byte{0xe4}},
		Int2:           {i32(0xe4, 1), []int64{5}, []byte{0xe4, 1}},
	} {
		c.p.DataType, c.p.Dims = proto.Int32(int32(d)), c.dims
		typed, _ := proto.Marshal(c.p)
		raw, _ := proto.Marshal(&onnxpb.TensorProto{DataType: c.p.DataType, Dims: c.dims, RawData: c.want})
		for kind, data := range map[string][]byte{"typed": typed, "raw": raw} {
			x, err := DecodeTensor(data)
			if err != nil {
				t.Errorf("%v %s: %v", d, kind, err)
				continue
			}
			if got, err := x.Bytes(); err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%v %s: %x (%v), want %x", d, kind, got, err, c.want)
			}
			if got, err := EncodeTensor(x); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v %s: encodes to %x (%v), want %x", d, kind, got, err, data)
			}
		}
	}
	if _, err := DecodeTensor([]byte("no tensor")); err == nil {
		t.Error("text decodes as a tensor")
	}
}

// FuzzDecode: no input panics, and what decodes encodes and decodes again.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(100) {
		if data := randomModel(seed); len(data) < 8<<10 { // small ones mutate faster
			f.Add(data)
		}
	}
	for _, p := range []*onnxpb.ModelProto{smallModel(), nested(3), externalModel(ext{"w", "data", 0, 4, []int64{4}})} {
		data, _ := proto.Marshal(p)
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Add([]byte("version https://git-lfs.github.com/spec/v1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(bytes.Clone(data))
		if err != nil {
			if s := err.Error(); strings.Contains(s, "\n") {
				t.Errorf("error of several lines: %q", s)
			}
			return
		}
		got, err := m.Encode()
		if err != nil {
			t.Fatalf("what decodes does not encode: %v", err)
		}
		m, err = Decode(got)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("a second round trip differs (%v)", err)
		}
		_ = Check(m) // may object, must not panic
		_ = m.Text()
	})
}
