package graph

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// A model that nothing touches comes back equal in every field.
func TestRoundTripPublicModels(t *testing.T) {
	publicModels(t, func(t *testing.T, path string) {
		want := wireLines(t, read(t, path))
		check := func(m *Model, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out.onnx")
			mustSave(t, m, out, SaveOptions{})
			sameLines(t, wireLines(t, read(t, out)), want)
		}
		m, err := Load(path)
		check(m, err)
		check(m.Clone(), nil)
		check(loadWhole(path, 0))
	})
}

// The same for random models with every field of the schema, each also as an
// explicit zero and absent, and with unknown fields in every message.
func TestRoundTripRandomModels(t *testing.T) {
	const seeds = 40
	seen := map[protoreflect.FullName][3]bool{} // absent, zero, other
	for seed := range uint64(seeds) {
		data := randomModel(seed)
		m, err := Decode(bytes.Clone(data))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for kind, m := range map[string]*Model{"decoded": m, "clone": m.Clone()} {
			got, err := m.Encode()
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, kind, err)
			}
			sameOnWire(t, got, data)
			again, err := m.Encode()
			if err != nil || !bytes.Equal(got, again) {
				t.Fatalf("seed %d, %s: two encodings differ (%v)", seed, kind, err)
			}
		}
		path := filepath.Join(t.TempDir(), "m.onnx")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		skimmed, err := loadWhole(path, 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := skimmed.Encode()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sameOnWire(t, got, data)

		p := &onnxpb.ModelProto{}
		if err := proto.Unmarshal(data, p); err != nil {
			t.Fatal(err)
		}
		countFields(p.ProtoReflect(), seen)
	}
	// The generator must have made every field, or the test above says
	// nothing about it.
	var missing []string
	eachField((&onnxpb.ModelProto{}).ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{}, func(fd protoreflect.FieldDescriptor) {
		s := seen[fd.FullName()]
		switch {
		case !s[2] && fd.FullName() != "lathe.onnxpb.TensorProto.data_location": // see TestExternalData
			missing = append(missing, string(fd.FullName()))
		case !s[1] && fd.HasPresence() && fd.Message() == nil && !neverZero[fd.FullName()]:
			missing = append(missing, string(fd.FullName())+" = 0")
		case !s[0] && !neverAbsent[fd.FullName()]:
			missing = append(missing, string(fd.FullName())+" absent")
		}
	})
	if len(missing) > 0 {
		t.Errorf("the generator never made %s", strings.Join(missing, ", "))
	}
}

// Models need these.
var neverAbsent = map[protoreflect.FullName]bool{
	"lathe.onnxpb.ModelProto.graph":          true,
	"lathe.onnxpb.NodeProto.op_type":         true,
	"lathe.onnxpb.FunctionProto.name":        true,
	"lathe.onnxpb.SparseTensorProto.values":  true,
	"lathe.onnxpb.SparseTensorProto.indices": true,
}

var neverZero = map[protoreflect.FullName]bool{
	"lathe.onnxpb.NodeProto.op_type":  true,
	"lathe.onnxpb.FunctionProto.name": true, // could be, but then once only
}

func countFields(m protoreflect.Message, seen map[protoreflect.FullName][3]bool) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		s := seen[fd.FullName()]
		switch {
		case !m.Has(fd):
			s[0] = true
		case fd.IsList():
			s[2] = true
			for k := 0; fd.Message() != nil && k < m.Get(fd).List().Len(); k++ {
				countFields(m.Get(fd).List().Get(k).Message(), seen)
			}
		case fd.Message() != nil:
			s[2] = true
			countFields(m.Get(fd).Message(), seen)
		case isZero(m.Get(fd)):
			s[1] = true
		default:
			s[2] = true
		}
		t := seen[fd.FullName()]
		seen[fd.FullName()] = [3]bool{s[0] || t[0], s[1] || t[1], s[2] || t[2]}
	}
}

func isZero(v protoreflect.Value) bool {
	switch x := v.Interface().(type) {
	case string:
		return x == ""
	case []byte:
		return len(x) == 0
	case float32:
		return x == 0
	case protoreflect.EnumNumber:
		return x == 0
	}
	return v.Int() == 0
}

func eachField(d protoreflect.MessageDescriptor, done map[protoreflect.FullName]bool, f func(protoreflect.FieldDescriptor)) {
	if done[d.FullName()] {
		return
	}
	done[d.FullName()] = true
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f(fd)
		if fd.Message() != nil {
			eachField(fd.Message(), done, f)
		}
	}
}

// randomModel returns a model on the wire that loads and has as much in it as
// fits: random fields first, and then names and data that belong together.
func randomModel(seed uint64) []byte {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
	p := &onnxpb.ModelProto{}
	g.fill(p.ProtoReflect(), 14)
	if p.Graph == nil {
		p.Graph = &onnxpb.GraphProto{}
	}
	for i, f := range p.Functions {
		name := fmt.Sprintf("f%d", i)
		f.Name = &name
		body := &onnxpb.GraphProto{Node: f.Node, ValueInfo: f.ValueInfo}
		for k := range f.Input {
			f.Input[k] = fmt.Sprintf("in%d", k)
			body.Input = append(body.Input, &onnxpb.ValueInfoProto{Name: &f.Input[k]})
		}
		for range f.Output {
			body.Output = append(body.Output, &onnxpb.ValueInfoProto{})
		}
		g.connect(body, nil)
		f.Node, f.ValueInfo, f.Output = body.Node, body.ValueInfo, nil
		for _, o := range body.Output {
			f.Output = append(f.Output, o.GetName())
		}
		g.attributes(f.AttributeProto, nil)
	}
	g.connect(p.Graph, nil)
	for _, ti := range p.TrainingInfo { // kept as it is but for external data
		_ = eachTensor(ti.ProtoReflect(), func(t *onnxpb.TensorProto) error {
			if t.DataLocation != nil {
				t.DataLocation = onnxpb.TensorProto_DEFAULT.Enum()
			}
			return nil
		})
	}
	data, err := proto.Marshal(p)
	if err != nil {
		panic(err)
	}
	return data
}

type generator struct {
	*rand.Rand
	names int
}

// fill sets the fields of a message at random. depth bounds the messages in
// it.
func (g *generator) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	chosen := g.IntN(6) // of a oneof
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() != nil && depth == 0 || g.IntN(4) == 0 {
			continue
		}
		if o := fd.ContainingOneof(); o != nil && o.Fields().Get(chosen%o.Fields().Len()) != fd {
			continue
		}
		if fd.Message() != nil && fd.Message().Name() == "GraphProto" && depth < 14 && g.IntN(6) > 0 {
			continue // trees of graphs grow fast
		}
		if !fd.IsList() {
			if fd.Message() != nil {
				g.fill(m.Mutable(fd).Message(), depth-1)
			} else {
				m.Set(fd, g.scalar(fd))
			}
			continue
		}
		list := m.Mutable(fd).List()
		for range g.IntN(3) {
			if fd.Message() != nil {
				g.fill(list.AppendMutable().Message(), depth-1)
			} else {
				list.Append(g.scalar(fd))
			}
		}
	}
	for g.IntN(3) == 0 {
		b := protowire.AppendTag(nil, protowire.Number(500+g.IntN(3)), protowire.BytesType)
		m.SetUnknown(append(m.GetUnknown(), protowire.AppendString(b, "unknown")...))
	}
}

func (g *generator) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	zero := g.IntN(3) == 0
	n := g.Int64() >> g.IntN(63)
	if g.IntN(2) == 0 {
		n = -n
	}
	if zero {
		n = 0
	}
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		s := ""
		if !zero {
			s = g.name("s")
		}
		if fd.Kind() == protoreflect.StringKind {
			return protoreflect.ValueOfString(s)
		}
		return protoreflect.ValueOfBytes([]byte(s))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		if zero {
			return protoreflect.ValueOfEnum(0)
		}
		return protoreflect.ValueOfEnum(values.Get(g.IntN(values.Len())).Number())
	}
	panic(fd.Kind())
}

func (g *generator) name(prefix string) string {
	g.names++
	return fmt.Sprintf("%s%d", prefix, g.names)
}

// connect gives the values of a graph names, and everything that reads one a
// name that is defined. outer are the names around the graph.
func (g *generator) connect(p *onnxpb.GraphProto, outer []string) {
	own := []string{}
	define := func() *string {
		name := g.name("v")
		own = append(own, name)
		return &name
	}
	for _, v := range p.Input {
		if v.Name == nil || !strings.HasPrefix(*v.Name, "in") {
			v.Name = define()
		} else {
			own = append(own, *v.Name)
		}
	}
	for i, t := range p.Initializer {
		g.tensor(t)
		if i < len(p.Input) && g.IntN(2) == 0 {
			t.Name = p.Input[i].Name // an old model's default
		} else {
			t.Name = define()
		}
	}
	for _, s := range p.SparseInitializer {
		g.sparse(s)
		s.Values.Name = define()
	}
	for _, n := range p.Node {
		op := g.name("Op")
		n.OpType = &op
		read := append(append([]string{""}, own...), outer...)
		for i := range n.Input {
			n.Input[i] = read[g.IntN(len(read))]
		}
		g.attributes(n.Attribute, read[1:])
		for i := range n.Output {
			n.Output[i] = ""
			if g.IntN(4) > 0 {
				n.Output[i] = *define()
			}
		}
		for _, c := range n.DeviceConfigurations {
			for _, s := range c.ShardingSpec {
				if len(n.Input) > 0 && g.IntN(2) == 0 {
					s.TensorName = &n.Input[0]
				}
			}
		}
	}
	if len(own) == 0 {
		p.Output = nil
	}
	for _, v := range p.Output {
		v.Name = &own[g.IntN(len(own))]
	}
	for _, v := range p.ValueInfo { // the others are about nothing
		if len(own) > 0 && g.IntN(2) == 0 {
			v.Name = &own[g.IntN(len(own))]
		}
	}
	for _, a := range p.QuantizationAnnotation {
		if len(own) > 0 && g.IntN(2) == 0 {
			a.TensorName = &own[g.IntN(len(own))]
		}
	}
	// Files have nodes out of order too.
	g.Shuffle(len(p.Node), func(i, k int) { p.Node[i], p.Node[k] = p.Node[k], p.Node[i] })
}

func (g *generator) attributes(list []*onnxpb.AttributeProto, names []string) {
	for i, a := range list {
		if i > 0 { // one can do without
			a.Name = proto.String(g.name("a"))
		}
		if a.T != nil {
			g.tensor(a.T)
		}
		for _, t := range a.Tensors {
			g.tensor(t)
		}
		if a.SparseTensor != nil {
			g.sparse(a.SparseTensor)
		}
		for _, s := range a.SparseTensors {
			g.sparse(s)
		}
		if a.G != nil {
			g.connect(a.G, names)
		}
		for _, s := range a.Graphs {
			g.connect(s, names)
		}
		if a.GetRefAttrName() == "" {
			switch a.GetType() {
			case onnxpb.AttributeProto_TENSOR, onnxpb.AttributeProto_GRAPH, onnxpb.AttributeProto_SPARSE_TENSOR, onnxpb.AttributeProto_TYPE_PROTO:
				a.Type = onnxpb.AttributeProto_INT.Enum()
			}
		}
	}
}

// tensor gives t dims and as much data as they ask for, in raw_data or the
// typed field. The other data fields stay: they do not count.
func (g *generator) tensor(t *onnxpb.TensorProto) {
	if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
		t.DataLocation = onnxpb.TensorProto_DEFAULT.Enum()
	}
	t.Dims = nil
	for range g.IntN(3) {
		t.Dims = append(t.Dims, int64(g.IntN(4)))
	}
	if g.IntN(8) == 0 {
		t.Dims = []int64{70_000 + int64(g.IntN(9))} // stays in the file
	}
	if g.IntN(8) == 0 {
		t.DataType = proto.Int32(99) // of a later version: anything goes
		return
	}
	if t.Segment != nil && g.IntN(2) == 0 {
		return
	}
	t.Segment = nil
	d := DType(1 + g.IntN(int(Int2)))
	t.DataType = proto.Int32(int32(d))
	n, _ := NumElements(t.Dims)
	if d == String {
		t.StringData = nil
		for range n {
			t.StringData = append(t.StringData, []byte(g.name("str")))
		}
		return
	}
	size, _ := d.ByteSize(n)
	if g.IntN(2) == 0 {
		t.RawData = make([]byte, size)
		for i := range t.RawData {
			t.RawData[i] = byte(g.Uint32())
		}
		if n == 0 {
			t.FloatData, t.DoubleData, t.Int32Data, t.Int64Data, t.Uint64Data = nil, nil, nil, nil, nil
		}
		return
	}
	t.RawData = nil
	entries := n
	switch {
	case d == Complex64 || d == Complex128:
		entries = 2 * n
	case d.Bits() < 8:
		entries = size
	}
	t.FloatData, t.DoubleData, t.Int32Data, t.Int64Data, t.Uint64Data = nil, nil, nil, nil, nil
	for range entries {
		switch d {
		case Float32, Complex64:
			t.FloatData = append(t.FloatData, g.Float32())
		case Float64, Complex128:
			t.DoubleData = append(t.DoubleData, g.Float64())
		case Int64:
			t.Int64Data = append(t.Int64Data, g.Int64()-g.Int64())
		case Uint32, Uint64:
			t.Uint64Data = append(t.Uint64Data, g.Uint64()>>g.IntN(64))
		default:
			v := g.Int32() >> g.IntN(32)
			if g.IntN(2) == 0 {
				v = -v
			}
			t.Int32Data = append(t.Int32Data, v)
		}
	}
}

func (g *generator) sparse(s *onnxpb.SparseTensorProto) {
	if s.Values == nil {
		s.Values = &onnxpb.TensorProto{}
	}
	if s.Indices == nil {
		s.Indices = &onnxpb.TensorProto{}
	}
	for _, t := range []*onnxpb.TensorProto{s.Values, s.Indices} {
		name, doc, meta := t.Name, t.DocString, t.MetadataProps
		proto.Reset(t)
		t.Name, t.DocString, t.MetadataProps = name, doc, meta
		t.Dims = []int64{2}
		t.DataType = proto.Int32(int32(Int64))
		t.Int64Data = []int64{1, 2}
	}
	s.Dims = []int64{3, 3}
}
