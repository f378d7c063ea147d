package graph

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// Encode returns the model as the bytes of a file, always the same ones for
// the same model. External data stay where they are: the bytes refer to them.
// It fails where the model is too large for one message; Save then puts
// weights into external data.
func (m *Model) Encode() ([]byte, error) {
	r, err := m.rope(nil)
	if err != nil {
		return nil, fmt.Errorf("encode model: %w", err)
	}
	if r.size > maxMessage {
		return nil, fmt.Errorf("encode model: %d bytes are more than an ONNX file can have (2 GiB): save it to a file, with external data", r.size)
	}
	var out bytes.Buffer
	out.Grow(int(r.size))
	if _, err := r.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("encode model: %w", err)
	}
	return out.Bytes(), nil
}

// EncodeTensor returns a lone tensor as bytes (a TensorProto), as in the files
// input_N.pb and output_N.pb of ONNX test cases; DecodeTensor reads it. The elements
// of an external tensor are read into it.
func EncodeTensor(t *Tensor) ([]byte, error) {
	p := encodeTensor(t, t.Name)
	if t.external != nil || t.inFile != nil {
		raw, err := t.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encode tensor: %w", err)
		}
		p.RawData, p.DataLocation, p.ExternalData = raw, nil, nil
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(p)
}

// encoder turns objects into messages. The messages share what is immutable
// with the origins and must not be changed.
type encoder struct {
	layout map[*Tensor]External               // tensors that go to, or move in, external data
	inFile map[*onnxpb.TensorProto]*fileRange // where raw_data is that the messages leave out
}

// rope returns the model on the wire, with tensors where layout puts them.
func (m *Model) rope(layout map[*Tensor]External) (*rope, error) {
	e := &encoder{layout: layout, inFile: map[*onnxpb.TensorProto]*fileRange{}}
	return e.marshal(e.model(m))
}

func (e *encoder) model(m *Model) *onnxpb.ModelProto {
	p := &onnxpb.ModelProto{}
	if o, ok := m.origin.(*modelOrigin); ok {
		p = shallow(o.shell)
		p.TrainingInfo = e.training(o)
	}
	setInt(&p.IrVersion, m.IRVersion)
	setString(&p.ProducerName, m.ProducerName)
	setString(&p.ProducerVersion, m.ProducerVersion)
	setString(&p.Domain, m.Domain)
	setInt(&p.ModelVersion, m.ModelVersion)
	setString(&p.DocString, m.Doc)
	p.OpsetImport = encodeOpsets(m.Opsets)
	p.MetadataProps = encodeMetadata(m.Metadata)
	p.Graph = e.graph(m.Graph)
	for _, f := range m.Functions {
		p.Functions = append(p.Functions, e.function(f))
	}
	return p
}

// training returns the training information, its external tensors moved.
func (e *encoder) training(o *modelOrigin) []*onnxpb.TrainingInfoProto {
	if !slices.ContainsFunc(o.training, func(t *Tensor) bool { _, moved := e.layout[t]; return moved }) {
		return o.shell.TrainingInfo
	}
	var out []*onnxpb.TrainingInfoProto
	i := 0
	for _, ti := range o.shell.TrainingInfo {
		ti = proto.Clone(ti).(*onnxpb.TrainingInfoProto)
		_ = eachTensor(ti.ProtoReflect(), func(p *onnxpb.TensorProto) error {
			if p.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
				e.place(p, o.training[i])
				i++
			}
			return nil
		})
		out = append(out, ti)
	}
	return out
}

func encodeOpsets(list []Opset) []*onnxpb.OperatorSetIdProto {
	var out []*onnxpb.OperatorSetIdProto
	for _, o := range list {
		p := &onnxpb.OperatorSetIdProto{}
		if origin, ok := o.origin.(*onnxpb.OperatorSetIdProto); ok {
			p = shallow(origin)
		} else {
			p.Domain = proto.String("") // other readers want it there
		}
		setString(&p.Domain, o.Domain)
		setInt(&p.Version, o.Version)
		out = append(out, p)
	}
	return out
}

func encodeMetadata(list []Metadata) []*onnxpb.StringStringEntryProto {
	var out []*onnxpb.StringStringEntryProto
	for _, e := range list {
		p := &onnxpb.StringStringEntryProto{}
		if origin, ok := e.origin.(*onnxpb.StringStringEntryProto); ok {
			p = shallow(origin)
		} else {
			p.Value = proto.String("")
		}
		setString(&p.Key, e.Key)
		setString(&p.Value, e.Value)
		out = append(out, p)
	}
	return out
}

func (e *encoder) function(f *Function) *onnxpb.FunctionProto {
	p := &onnxpb.FunctionProto{}
	if o, ok := f.origin.(*onnxpb.FunctionProto); ok {
		p = shallow(o)
	}
	setString(&p.Domain, f.Domain)
	setString(&p.Name, f.Name)
	setString(&p.Overload, f.Overload)
	setString(&p.DocString, f.Doc)
	p.OpsetImport = encodeOpsets(f.Opsets)
	p.MetadataProps = encodeMetadata(f.Metadata)
	p.Attribute = f.AttrNames
	p.AttributeProto = e.attrs(f.AttrDefaults)
	p.Input, p.Output = names(f.Graph.inputs), names(f.Graph.outputs)
	places := newPlaces(f.Graph)
	p.Node = e.nodes(f.Graph)
	p.ValueInfo = places.infos()
	return p
}

func names(list []*Value) []string {
	var out []string
	for _, v := range list {
		if v == nil {
			out = append(out, "")
		} else {
			out = append(out, v.Name)
		}
	}
	return out
}

func (e *encoder) graph(g *Graph) *onnxpb.GraphProto {
	p := &onnxpb.GraphProto{}
	if o, ok := g.origin.(*graphOrigin); ok {
		p = shallow(o.shell)
	}
	setString(&p.Name, g.Name)
	setString(&p.DocString, g.Doc)
	p.MetadataProps = encodeMetadata(g.Metadata)
	for _, v := range g.inits {
		if v.Sparse != nil {
			p.SparseInitializer = append(p.SparseInitializer, e.sparse(v.Sparse, &v.Name))
		} else {
			p.Initializer = append(p.Initializer, e.tensor(v.Const, v.Name))
		}
	}
	p.Node = e.nodes(g)
	places := newPlaces(g)
	p.Input = places.typed(g.inputs, p.Input)
	p.Output = places.typed(g.outputs, p.Output)
	p.ValueInfo = places.infos()
	p.QuantizationAnnotation = places.annotations(p.QuantizationAnnotation)
	return p
}

// places finds where the values of a graph stood in the lists of its message.
type places struct {
	g      *Graph
	origin *graphOrigin
	loaded map[string]*Value // by the name in the file
	listed map[*Value]bool   // those that have a place already
}

func newPlaces(g *Graph) *places {
	p := &places{g: g, origin: &graphOrigin{shell: &onnxpb.GraphProto{}}, loaded: map[string]*Value{}, listed: map[*Value]bool{}}
	if o, ok := g.origin.(*graphOrigin); ok {
		p.origin = o
	}
	for _, v := range g.values {
		if o, ok := v.origin.(*valueOrigin); ok {
			p.loaded[o.name] = v
		}
	}
	return p
}

// typed returns the descriptions of inputs or outputs, each from the one of
// the same value in the list of the file where there is one.
func (p *places) typed(values []*Value, origin []*onnxpb.ValueInfoProto) []*onnxpb.ValueInfoProto {
	byName := make(map[string][]*onnxpb.ValueInfoProto, len(origin))
	for _, ip := range origin {
		byName[ip.GetName()] = append(byName[ip.GetName()], ip)
	}
	var out []*onnxpb.ValueInfoProto
	for _, v := range values {
		p.listed[v] = true
		var from *onnxpb.ValueInfoProto
		if o, ok := v.origin.(*valueOrigin); ok {
			if list := byName[o.name]; len(list) > 0 {
				from, byName[o.name] = list[0], list[1:]
			} else if v.graph == p.g {
				from = o.info
			}
		}
		out = append(out, describe(v, from))
	}
	return out
}

// infos returns value_info: the entries of the file in their order, then the
// values that got a type since.
func (p *places) infos() []*onnxpb.ValueInfoProto {
	var out []*onnxpb.ValueInfoProto
	for _, ip := range p.origin.shell.ValueInfo {
		v := p.loaded[ip.GetName()]
		switch {
		case v == nil && p.origin.dangling[ip.GetName()]:
			out = append(out, ip)
		case v != nil && (v.Declared != nil || v.origin.(*valueOrigin).info.Type == nil):
			p.listed[v] = true
			out = append(out, describe(v, ip))
		}
	}
	more := func(v *Value) {
		if v == nil || v.Declared == nil || p.listed[v] {
			return
		}
		p.listed[v] = true
		var from *onnxpb.ValueInfoProto
		if o, ok := v.origin.(*valueOrigin); ok {
			from = o.info
		}
		out = append(out, describe(v, from))
	}
	if p.g.fn != nil && p.g.holder == nil {
		for _, v := range p.g.inputs {
			more(v)
		}
	}
	for _, n := range p.g.nodes {
		for _, v := range n.outputs {
			more(v)
		}
	}
	return out
}

// describe returns the description of v at a place where the file had from,
// nil if it had none.
func describe(v *Value, from *onnxpb.ValueInfoProto) *onnxpb.ValueInfoProto {
	p := &onnxpb.ValueInfoProto{}
	var was *onnxpb.ValueInfoProto // what v was decoded from
	if from != nil {
		p = shallow(from)
		was = v.origin.(*valueOrigin).info
	}
	setString(&p.Name, v.Name)
	if from == nil || !equalTypes(v.Declared, decodeType(was.GetType())) {
		p.Type = encodeType(v.Declared)
	}
	if from == nil || v.Doc != was.GetDocString() {
		setString(&p.DocString, v.Doc)
	}
	return p
}

// annotations returns the quantization annotations with the present names of
// their tensors, without those whose tensors are gone.
func (p *places) annotations(list []*onnxpb.TensorAnnotation) []*onnxpb.TensorAnnotation {
	var out []*onnxpb.TensorAnnotation
	for _, ap := range list {
		ap = shallow(ap)
		ok := p.rename(&ap.TensorName)
		params := make([]*onnxpb.StringStringEntryProto, len(ap.QuantParameterTensorNames))
		for i, e := range ap.QuantParameterTensorNames {
			params[i] = shallow(e)
			ok = p.rename(&params[i].Value) && ok
		}
		ap.QuantParameterTensorNames = params
		if ok {
			out = append(out, ap)
		}
	}
	return out
}

// rename sets the name of a value in the file to its present one; it reports
// false where the value is gone.
func (p *places) rename(name **string) bool {
	old := ""
	if *name != nil {
		old = **name
	}
	if v := p.loaded[old]; v != nil {
		setString(name, v.Name)
		return true
	}
	return p.origin.dangling[old]
}

// nodes returns the nodes in the order of the file as long as they are those
// that were loaded, otherwise in topological order.
func (e *encoder) nodes(g *Graph) []*onnxpb.NodeProto {
	out := make([]*onnxpb.NodeProto, len(g.nodes))
	for i, n := range g.nodes {
		out[i] = e.node(n)
	}
	o, ok := g.origin.(*graphOrigin)
	if !ok || o.file == nil || len(o.loaded) != len(g.nodes) {
		return out
	}
	byOrigin := make(map[*onnxpb.NodeProto]*onnxpb.NodeProto, len(out))
	for i, n := range g.nodes {
		if n.origin != o.loaded[i] {
			return out
		}
		byOrigin[o.loaded[i]] = out[i]
	}
	file := make([]*onnxpb.NodeProto, len(o.file))
	for i, p := range o.file {
		file[i] = p // superseded by a later one
		if q := byOrigin[p]; q != nil {
			file[i] = q
		}
	}
	return file
}

func (e *encoder) node(n *Node) *onnxpb.NodeProto {
	p := &onnxpb.NodeProto{}
	if o, ok := n.origin.(*onnxpb.NodeProto); ok {
		p = shallow(o)
		p.DeviceConfigurations = shardings(n, o)
	}
	setString(&p.Name, n.Name)
	setString(&p.OpType, n.Op)
	setString(&p.Domain, n.Domain)
	setString(&p.Overload, n.Overload)
	setString(&p.DocString, n.Doc)
	p.Input, p.Output = names(n.inputs), names(n.outputs)
	p.Attribute = e.attrs(n.Attrs)
	p.MetadataProps = encodeMetadata(n.Metadata)
	return p
}

// shardings returns the device configurations of n with the present names of
// the tensors that they split, without those that n does not touch any more.
func shardings(n *Node, origin *onnxpb.NodeProto) []*onnxpb.NodeDeviceConfigurationProto {
	if len(origin.DeviceConfigurations) == 0 {
		return nil
	}
	now := map[string]string{}
	for _, v := range slices.Concat(n.inputs, n.outputs) {
		if v == nil {
			continue
		}
		if o, ok := v.origin.(*valueOrigin); ok {
			now[o.name] = v.Name
		}
	}
	var out []*onnxpb.NodeDeviceConfigurationProto
	for _, c := range origin.DeviceConfigurations {
		c = shallow(c)
		var specs []*onnxpb.ShardingSpecProto
		for _, s := range c.ShardingSpec {
			old := s.GetTensorName()
			if name, ok := now[old]; ok {
				s = shallow(s)
				setString(&s.TensorName, name)
			} else if old != "" && (slices.Contains(origin.Input, old) || slices.Contains(origin.Output, old)) {
				continue
			}
			specs = append(specs, s)
		}
		c.ShardingSpec = specs
		out = append(out, c)
	}
	return out
}

func (e *encoder) attrs(list []*Attr) []*onnxpb.AttributeProto {
	var out []*onnxpb.AttributeProto
	for _, a := range list {
		out = append(out, e.attr(a))
	}
	return out
}

func (e *encoder) attr(a *Attr) *onnxpb.AttributeProto {
	p := &onnxpb.AttributeProto{}
	was := AttrUndefined // the type that p decodes to
	if o, ok := a.origin.(*attrOrigin); ok {
		p, was = shallow(o.shell), o.typ
	}
	setString(&p.Name, a.Name)
	setString(&p.RefAttrName, a.Ref)
	setString(&p.DocString, a.Doc)
	if a.Type != was {
		p.Type = onnxpb.AttributeProto_AttributeType(a.Type).Enum()
	}
	// A scalar of the stated type is written also if it is zero, unless the
	// file left it out.
	must := func(t AttrType) bool { return a.Type == t && a.Ref == "" && was != t }
	if math.Float32bits(p.GetF()) != math.Float32bits(a.F) || p.F == nil && must(AttrFloat) {
		p.F = &a.F
	}
	if p.GetI() != a.I || p.I == nil && must(AttrInt) {
		p.I = &a.I
	}
	if string(p.S) != string(a.S) || p.S == nil && must(AttrString) {
		p.S = append([]byte{}, a.S...)
	}
	p.T, p.G, p.SparseTensor = nil, nil, nil
	if a.T != nil {
		p.T = e.tensor(a.T, a.T.Name)
	}
	if a.G != nil {
		p.G = e.graph(a.G)
	}
	if a.Sparse != nil {
		p.SparseTensor = e.sparse(a.Sparse, nil)
	}
	p.Tp = encodeType(a.TP)
	p.Floats, p.Ints, p.Strings = a.Floats, a.Ints, a.Strings
	for _, t := range a.Tensors {
		p.Tensors = append(p.Tensors, e.tensor(t, t.Name))
	}
	for _, g := range a.Graphs {
		p.Graphs = append(p.Graphs, e.graph(g))
	}
	for _, s := range a.Sparses {
		p.SparseTensors = append(p.SparseTensors, e.sparse(s, nil))
	}
	for _, t := range a.Types {
		p.TypeProtos = append(p.TypeProtos, encodeType(t))
	}
	return p
}

// tensor returns the message of t, external where the layout says so.
func (e *encoder) tensor(t *Tensor, name string) *onnxpb.TensorProto {
	p := encodeTensor(t, name)
	if _, moved := e.layout[t]; t.inFile != nil && !moved {
		e.inFile[p] = t.inFile
	}
	e.place(p, t)
	return p
}

// place makes p refer to the place that the layout has for t. What is right
// already stays as it is written.
func (e *encoder) place(p *onnxpb.TensorProto, t *Tensor) {
	to, ok := e.layout[t]
	if !ok {
		if t.origin == nil && t.external != nil { // such as from the text form
			to = *t.external
		} else {
			return
		}
	}
	p.RawData = nil
	if o, ok := t.origin.(*tensorOrigin); ok && o.field == typedField {
		clearTyped(p, t.DType)
	}
	if p.GetDataLocation() != onnxpb.TensorProto_EXTERNAL {
		p.DataLocation = onnxpb.TensorProto_EXTERNAL.Enum()
	}
	was := External{Length: -1}
	if t.external != nil {
		was = *t.external
	}
	moved := was.Location != to.Location || was.Offset != to.Offset || was.Length != to.Length
	var list []*onnxpb.StringStringEntryProto
	have := map[string]bool{}
	for _, kv := range p.ExternalData {
		kv = shallow(kv)
		switch key := kv.GetKey(); key {
		case "checksum": // of the whole file
			if moved {
				continue
			}
		case "location":
			setString(&kv.Value, to.Location)
		case "offset":
			if was.Offset != to.Offset {
				kv.Value = proto.String(strconv.FormatInt(to.Offset, 10))
			}
		case "length":
			if was.Length != to.Length {
				kv.Value = proto.String(strconv.FormatInt(to.Length, 10))
			}
		}
		have[kv.GetKey()] = true
		list = append(list, kv)
	}
	add := func(key, value string) {
		if !have[key] {
			list = append(list, &onnxpb.StringStringEntryProto{Key: &key, Value: &value})
		}
	}
	add("location", to.Location)
	if moved {
		add("offset", strconv.FormatInt(to.Offset, 10))
		add("length", strconv.FormatInt(to.Length, 10))
	}
	p.ExternalData = list
}

// sparse returns the message of s. The name of its values is the name of the
// initializer where there is one.
func (e *encoder) sparse(s *SparseTensor, name *string) *onnxpb.SparseTensorProto {
	p := &onnxpb.SparseTensorProto{}
	if o, ok := s.origin.(*onnxpb.SparseTensorProto); ok {
		p = shallow(o)
	}
	if name == nil {
		name = &s.Values.Name
	}
	p.Values = e.tensor(s.Values, *name)
	p.Indices = e.tensor(s.Indices, s.Indices.Name)
	p.Dims = s.Dims
	return p
}

// equalTypes reports whether two types say the same.
func equalTypes(a, b *Type) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.Elem != b.Elem || a.Key != b.Key || (a.Shape == nil) != (b.Shape == nil) {
		return false
	}
	if a.Shape != nil && !slices.Equal(a.Shape.Dims, b.Shape.Dims) {
		return false
	}
	return equalTypes(a.Sub, b.Sub)
}

// encodeType returns the message of t: its origin where that says the same,
// otherwise one with the denotations of the origin where they still fit.
func encodeType(t *Type) *onnxpb.TypeProto {
	if t == nil {
		return nil
	}
	origin, _ := t.origin.(*onnxpb.TypeProto)
	if origin != nil && equalTypes(t, decodeType(origin)) {
		return origin
	}
	p := &onnxpb.TypeProto{}
	if origin != nil {
		p = proto.Clone(origin).(*onnxpb.TypeProto)
	}
	switch t.Kind {
	case KindTensor:
		v := &onnxpb.TypeProto_Tensor{}
		if p.GetTensorType() != nil {
			v = p.GetTensorType()
		}
		setElem(&v.ElemType, t.Elem)
		v.Shape = encodeShape(t.Shape, v.Shape)
		p.Value = &onnxpb.TypeProto_TensorType{TensorType: v}
	case KindSparseTensor:
		v := &onnxpb.TypeProto_SparseTensor{}
		if p.GetSparseTensorType() != nil {
			v = p.GetSparseTensorType()
		}
		setElem(&v.ElemType, t.Elem)
		v.Shape = encodeShape(t.Shape, v.Shape)
		p.Value = &onnxpb.TypeProto_SparseTensorType{SparseTensorType: v}
	case KindSequence:
		p.Value = &onnxpb.TypeProto_SequenceType{SequenceType: &onnxpb.TypeProto_Sequence{ElemType: encodeType(t.Sub)}}
	case KindOptional:
		p.Value = &onnxpb.TypeProto_OptionalType{OptionalType: &onnxpb.TypeProto_Optional{ElemType: encodeType(t.Sub)}}
	case KindMap:
		v := &onnxpb.TypeProto_Map{ValueType: encodeType(t.Sub)}
		setElem(&v.KeyType, t.Key)
		p.Value = &onnxpb.TypeProto_MapType{MapType: v}
	case KindOpaque:
		if p.GetOpaqueType() == nil {
			p.Value = &onnxpb.TypeProto_OpaqueType{OpaqueType: &onnxpb.TypeProto_Opaque{}}
		}
	default:
		p.Value = nil
	}
	return p
}

func setElem(field **int32, d DType) {
	if *field == nil && d != Undefined || *field != nil && **field != int32(d) {
		*field = proto.Int32(int32(d))
	}
}

func encodeShape(s *Shape, origin *onnxpb.TensorShapeProto) *onnxpb.TensorShapeProto {
	if s == nil {
		return nil
	}
	p := &onnxpb.TensorShapeProto{}
	if origin != nil {
		p = shallow(origin)
		p.Dim = nil
	}
	for i, d := range s.Dims {
		q := &onnxpb.TensorShapeProto_Dimension{}
		if origin != nil && len(origin.Dim) == len(s.Dims) {
			if q = origin.Dim[i]; decodeDim(q) == d {
				p.Dim = append(p.Dim, q)
				continue
			}
			q = shallow(q)
		}
		switch {
		case d.IsKnown():
			q.Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: d.N}
		case d.Sym != "":
			q.Value = &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: d.Sym}
		default:
			q.Value = nil
		}
		p.Dim = append(p.Dim, q)
	}
	return p
}

// shallow returns a copy of a message that shares what it holds. Fields of the
// copy may be set, the lists in it not changed.
func shallow[M proto.Message](m M) M {
	src := m.ProtoReflect()
	dst := src.New()
	src.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		dst.Set(fd, v)
		return true
	})
	dst.SetUnknown(src.GetUnknown())
	return dst.Interface().(M)
}

// setString sets an optional field to v unless it decodes to that.
func setString(field **string, v string) {
	switch {
	case *field == nil && v == "" || *field != nil && **field == v:
	case v == "":
		*field = nil
	default:
		*field = &v
	}
}

func setInt(field **int64, v int64) {
	if *field == nil && v != 0 || *field != nil && **field != v {
		*field = &v
	}
}

// minPart is the size from which on raw_data is a part of its own.
const minPart = 4096

// marshal returns the wire form of m, the same for the same message. Fields
// that hold large tensors come behind the other ones of their message.
func (e *encoder) marshal(m proto.Message) (*rope, error) {
	r := &rope{}
	if !e.holdsLarge(m.ProtoReflect()) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		r.add(b)
		return r, err
	}
	rest := shallow(m)
	src := m.ProtoReflect()
	var large []protoreflect.FieldDescriptor
	for fields, i := src.Descriptor().Fields(), 0; i < fields.Len(); i++ {
		if fd := fields.Get(i); fd.Message() != nil && src.Has(fd) {
			large = append(large, fd)
			rest.ProtoReflect().Clear(fd)
		}
	}
	t, isTensor := m.(*onnxpb.TensorProto)
	if isTensor {
		rest.ProtoReflect().Clear(src.Descriptor().Fields().ByNumber(rawData))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(rest)
	if err != nil {
		return nil, err
	}
	r.add(b)
	for _, fd := range large {
		if !fd.IsList() {
			if err := e.field(r, fd, src.Get(fd).Message()); err != nil {
				return nil, err
			}
			continue
		}
		for list, i := src.Get(fd).List(), 0; i < list.Len(); i++ {
			if err := e.field(r, fd, list.Get(i).Message()); err != nil {
				return nil, err
			}
		}
	}
	if isTensor {
		raw := part{bytes: t.RawData, file: e.inFile[t]}
		r.add(protowire.AppendVarint(protowire.AppendTag(nil, rawData, protowire.BytesType), uint64(raw.size())))
		r.parts = append(r.parts, raw)
		r.size += raw.size()
	}
	return r, nil
}

// field adds a field with a message to r.
func (e *encoder) field(r *rope, fd protoreflect.FieldDescriptor, m protoreflect.Message) error {
	body, err := e.marshal(m.Interface())
	if err != nil {
		return err
	}
	r.add(protowire.AppendVarint(protowire.AppendTag(nil, fd.Number(), protowire.BytesType), uint64(body.size)))
	r.parts = append(r.parts, body.parts...)
	r.size += body.size
	return nil
}

// holdsLarge reports whether a tensor in m, or m itself, is to be a part of
// its own.
func (e *encoder) holdsLarge(m protoreflect.Message) bool {
	found := errors.New("found")
	return eachTensor(m, func(t *onnxpb.TensorProto) error {
		if len(t.RawData) >= minPart || e.inFile[t] != nil {
			return found
		}
		return nil
	}) != nil
}
