package graph

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/runtime/protoiface"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// How a file becomes objects and a file again.
//
// Every object keeps, as its origin, the protobuf message that it came from,
// without what other objects hold: a node's origin has no attributes, a
// tensor's no elements. Save starts from the origin and changes only what
// differs from what the origin decodes to, so that unknown fields, explicit
// zeros and absent fields stay as they were. Origins are never changed: clones
// share them.
//
// Names are looked up once, here. A value remembers the name it had in the
// file, by which Save finds its places in the lists of the origin.

const (
	// maxMessage is the limit of protobuf for one message, which no other
	// reader of ONNX goes beyond; larger models keep their weights beside.
	maxMessage = 1<<31 - 1
	// maxNesting bounds graphs inside graphs; exporters stay below ten.
	maxNesting = 64
	// maxDepth bounds messages inside messages: a graph, a node and an
	// attribute for each nested graph, and some for types.
	maxDepth = 4*maxNesting + 16
	// maxMessages bounds the messages of a file, because one of two bytes on
	// the wire takes hundreds in memory. The largest models have below 1e6.
	maxMessages = 1 << 22
)

// Load reads the model of a file. Weights in external files stay there: they
// are looked up, their ranges checked, and read when asked for. The same is
// true of the larger weights in a file of more than 64 MiB, which must not be
// written to as long as the model is in use; that it is replaced does no harm.
//
// It fails, with the place and the reason in one line, where the file is no
// ONNX model, where names do not resolve or are defined twice, where dims and
// data of a tensor disagree, on cycles, and on external data that is missing
// or outside of the model's folder. Nodes that are not in topological order
// are put into it.
func Load(path string) (*Model, error) {
	m, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

func load(path string) (*Model, error) { return loadWhole(path, wholeFile) }

// loadWhole is load that reads files up to a size as a whole.
func loadWhole(path string, whole int64) (*Model, error) {
	data, views, err := readModel(path, whole)
	if err != nil {
		return nil, err
	}
	m, err := (&loader{files: newDataFiles(filepath.Dir(path)), views: views}).decode(data)
	if err != nil {
		return nil, err
	}
	m.path = path
	return m, nil
}

// Decode reads a model from the bytes of a file, and fails as [Load] does. Tensors
// refer to data, which must not be changed afterwards. A model with external data
// decodes, but that data can't be read: use Load.
func Decode(data []byte) (*Model, error) {
	m, err := (&loader{}).decode(data)
	if err != nil {
		return nil, fmt.Errorf("decode model: %w", err)
	}
	return m, nil
}

// DecodeTensor reads a lone tensor, as in the data sets of ONNX test cases. It
// refers to data, which must not be changed afterwards.
func DecodeTensor(data []byte) (*Tensor, error) {
	p := &onnxpb.TensorProto{}
	err := unmarshal(data, p)
	if err == nil {
		var t *Tensor
		if t, err = (&loader{}).tensor(p); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("decode tensor: %w", err)
}

// bareError takes the operation and the paths off an error of package os: the
// message around it names the file.
func bareError(err error) error {
	var path *os.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// unmarshal parses data into p. Byte fields alias data.
func unmarshal(data []byte, p proto.Message) error {
	if err := countMessages(data, p.ProtoReflect().Descriptor()); err != nil {
		return err
	}
	r := p.ProtoReflect()
	_, err := r.ProtoMethods().Unmarshal(protoiface.UnmarshalInput{
		Message:  r,
		Buf:      data,
		Flags:    protoiface.UnmarshalAliasBuffer,
		Resolver: protoregistry.GlobalTypes,
		Depth:    maxDepth,
	})
	return err
}

// countMessages fails where data holds more messages of type d, those in
// other messages included, than a model can have. Data that is no such message
// counts as far as it can be read.
func countMessages(data []byte, d protoreflect.MessageDescriptor) error {
	left := maxMessages
	var count func(data []byte, d protoreflect.MessageDescriptor, depth int)
	count = func(data []byte, d protoreflect.MessageDescriptor, depth int) {
		for len(data) > 0 && left >= 0 && depth > 0 {
			num, typ, n := protowire.ConsumeTag(data)
			if n < 0 {
				return
			}
			data = data[n:]
			if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
				return
			}
			if fd := d.Fields().ByNumber(num); fd != nil && fd.Message() != nil && typ == protowire.BytesType {
				left--
				body, _ := protowire.ConsumeBytes(data)
				count(body, fd.Message(), depth-1)
			}
			data = data[n:]
		}
	}
	if count(data, d, maxDepth); left < 0 {
		return fmt.Errorf("more than %d messages", maxMessages)
	}
	return nil
}

// eachTensor calls f for the tensors in a message in a fixed order, until an
// error.
func eachTensor(m protoreflect.Message, f func(*onnxpb.TensorProto) error) error {
	if t, ok := m.Interface().(*onnxpb.TensorProto); ok {
		return f(t)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			if err := eachTensor(m.Get(fd).Message(), f); err != nil {
				return err
			}
			continue
		}
		for list, k := m.Get(fd).List(), 0; k < list.Len(); k++ {
			if err := eachTensor(list.Get(k).Message(), f); err != nil {
				return err
			}
		}
	}
	return nil
}

// notModel says what data is that can't be decoded for the reason err.
func notModel(data []byte, err error) error {
	head := data[:min(len(data), 512)]
	switch {
	case len(data) == 0:
		return errors.New("is empty, not an ONNX model: export or download it again")
	case bytes.HasPrefix(head, []byte("version https://git-lfs")):
		return errors.New("is a Git LFS pointer, not an ONNX model: fetch the file with git lfs pull")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return errors.New("is a zip archive or a PyTorch file, not an ONNX model: unpack or export it first")
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return errors.New("is compressed, not an ONNX model: unpack it first")
	case isText(head):
		return errors.New("is a text file, not an ONNX model: give the .onnx file")
	}
	return fmt.Errorf("is damaged or not an ONNX model (%w): export or download it again", err)
}

// clip shortens an error with names of absurd length, or of places nested
// absurdly deep, to its ends.
func clip(err error) error {
	const head, tail = 700, 1000
	if err == nil || len(err.Error()) <= head+tail {
		return err
	}
	s := err.Error()
	return errors.New(strings.ToValidUTF8(s[:head], "") + " … " + strings.ToValidUTF8(s[len(s)-tail:], ""))
}

func isText(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 && len(head) >= utf8.UTFMax || r < ' ' && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
		head = head[n:]
	}
	return true
}

// loader turns messages into objects. It takes the messages over: what objects
// hold is taken out of them, and what is left is their origin.
type loader struct {
	files *dataFiles // nil: external data can't be reached
	views *views     // weights that stay in the model file, nil if there are none
	depth int        // nested graphs around the one that is decoded
}

func (l *loader) decode(data []byte) (*Model, error) {
	if len(data) > maxMessage {
		return nil, fmt.Errorf("has %d bytes, an ONNX model is below 2 GiB: keep the weights in external data", len(data))
	}
	p := &onnxpb.ModelProto{}
	if err := unmarshal(data, p); err != nil {
		return nil, notModel(data, err)
	}
	if p.Graph == nil {
		return nil, notModel(data, errors.New("it holds no graph"))
	}
	m, err := l.model(p)
	return m, clip(err)
}

func (l *loader) model(p *onnxpb.ModelProto) (*Model, error) {
	m := &Model{
		IRVersion:       p.GetIrVersion(),
		ProducerName:    p.GetProducerName(),
		ProducerVersion: p.GetProducerVersion(),
		Domain:          p.GetDomain(),
		ModelVersion:    p.GetModelVersion(),
		Doc:             p.GetDocString(),
		Opsets:          decodeOpsets(p.OpsetImport),
		Metadata:        decodeMetadata(p.MetadataProps),
	}
	known := map[[3]string]bool{}
	for _, fp := range p.Functions {
		f, err := l.function(fp, m)
		if err != nil {
			return nil, fmt.Errorf("function %q: %w", qualified(fp.GetDomain(), fp.GetName()), err)
		}
		key := [3]string{NormalDomain(f.Domain), f.Name, f.Overload}
		if known[key] {
			return nil, fmt.Errorf("function %q is defined twice: remove one", qualified(f.Domain, f.Name))
		}
		known[key] = true
		m.Functions = append(m.Functions, f)
	}
	g, err := l.graph(p.Graph, m, nil, nil)
	if err != nil {
		return nil, err
	}
	m.Graph = g
	origin := &modelOrigin{shell: p}
	// Training information is kept as it is, but its external tensors must
	// follow the model when it is saved.
	for _, ti := range p.TrainingInfo {
		err := eachTensor(ti.ProtoReflect(), func(tp *onnxpb.TensorProto) error {
			if tp.GetDataLocation() != onnxpb.TensorProto_EXTERNAL {
				return nil
			}
			t, err := l.tensor(proto.Clone(tp).(*onnxpb.TensorProto))
			origin.training = append(origin.training, t)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("training information: %w", err)
		}
	}
	p.Graph, p.Functions, p.OpsetImport, p.MetadataProps = nil, nil, nil, nil
	m.origin = origin
	return m, nil
}

// modelOrigin is the message of a model without its graph, functions, imports
// and metadata.
type modelOrigin struct {
	shell    *onnxpb.ModelProto
	training []*Tensor // external tensors in the training information, in the order of eachTensor
}

func qualified(domain, name string) string {
	if d := NormalDomain(domain); d != "" {
		return d + "." + name
	}
	return name
}

func decodeOpsets(ps []*onnxpb.OperatorSetIdProto) []Opset {
	var out []Opset
	for _, p := range ps {
		out = append(out, Opset{Domain: p.GetDomain(), Version: p.GetVersion(), origin: p})
	}
	return out
}

func decodeMetadata(ps []*onnxpb.StringStringEntryProto) []Metadata {
	var out []Metadata
	for _, p := range ps {
		out = append(out, Metadata{Key: p.GetKey(), Value: p.GetValue(), origin: p})
	}
	return out
}

func (l *loader) function(p *onnxpb.FunctionProto, m *Model) (*Function, error) {
	f := &Function{
		Domain:    p.GetDomain(),
		Name:      p.GetName(),
		Overload:  p.GetOverload(),
		Doc:       p.GetDocString(),
		AttrNames: p.Attribute,
		Opsets:    decodeOpsets(p.OpsetImport),
		Metadata:  decodeMetadata(p.MetadataProps),
		model:     m,
		origin:    p,
	}
	// A body is decoded as the graph that it is, without types at its ends.
	body := &onnxpb.GraphProto{Name: p.Name, Node: p.Node, ValueInfo: p.ValueInfo}
	for _, name := range p.Input {
		body.Input = append(body.Input, &onnxpb.ValueInfoProto{Name: &name})
	}
	for _, name := range p.Output {
		body.Output = append(body.Output, &onnxpb.ValueInfoProto{Name: &name})
	}
	var err error
	if f.Graph, err = l.graph(body, m, f, nil); err != nil {
		return nil, err
	}
	// Graphs in the defaults of attributes are read by the nodes that refer
	// to them; they see nothing around them.
	if f.AttrDefaults, err = l.attrs(p.AttributeProto, nil, m, f); err != nil {
		return nil, err
	}
	p.Node, p.AttributeProto, p.OpsetImport, p.MetadataProps = nil, nil, nil, nil
	p.Input, p.Output, p.Attribute, p.ValueInfo = nil, nil, nil, nil
	return f, nil
}

// graphOrigin is the message of a graph without nodes, initializers and
// metadata. For the body of a function it holds value_info alone.
type graphOrigin struct {
	shell *onnxpb.GraphProto
	// dangling are the names in value_info and quantization annotations
	// that mean nothing in this graph.
	dangling map[string]bool
	// file and loaded are the nodes in the order of the file and as they
	// were at load, in topological order and without superseded ones; nil
	// where these are the same.
	file, loaded []*onnxpb.NodeProto
}

// valueOrigin is what a value was in the file. A value can be described at
// several places: as an output and in value_info, for example. The first of
// input, output and value_info gives its type and documentation.
type valueOrigin struct {
	name string
	info *onnxpb.ValueInfoProto // nil if there is none
}

func (l *loader) graph(p *onnxpb.GraphProto, m *Model, fn *Function, holder *Node) (*Graph, error) {
	if l.depth++; l.depth > maxNesting {
		return nil, fmt.Errorf("graphs are nested more than %d deep", maxNesting)
	}
	defer func() { l.depth-- }()
	g := newGraph(m, fn, holder)
	g.Name, g.Doc, g.Metadata = p.GetName(), p.GetDocString(), decodeMetadata(p.MetadataProps)
	if err := l.fill(g, p); err != nil {
		if fn != nil && holder == nil {
			return nil, err // the message names the function already
		}
		return nil, fmt.Errorf("graph %q: %w", g.Name, err)
	}
	file := p.Node
	p.Node = nil
	if err := g.Sort(); err != nil {
		return nil, fmt.Errorf("%w: no order of the nodes can run", err)
	}
	loaded := make([]*onnxpb.NodeProto, len(g.nodes))
	for i, n := range g.nodes {
		loaded[i] = n.origin.(*onnxpb.NodeProto)
	}
	if !slices.Equal(file, loaded) {
		o := g.origin.(*graphOrigin)
		o.file, o.loaded = file, loaded
	}
	return g, nil
}

// fill decodes p into the empty graph g.
func (l *loader) fill(g *Graph, p *onnxpb.GraphProto) error {
	g.values = make(map[string]*Value, len(p.Node)+len(p.Initializer)+len(p.Input))
	for i, ip := range p.Input {
		v, err := g.define(ip.GetName())
		if err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
		v.input = true
		v.describe(ip)
		g.inputs = append(g.inputs, v)
	}
	for i, tp := range p.Initializer {
		if err := l.initializer(g, tp); err != nil {
			return fmt.Errorf("initializer %d: %w", i, err)
		}
	}
	for i, sp := range p.SparseInitializer {
		if err := l.sparseInitializer(g, sp); err != nil {
			return fmt.Errorf("sparse initializer %d: %w", i, err)
		}
	}

	// All values come before the first name is looked up: nodes may be out
	// of order.
	g.nodes = make([]*Node, 0, len(p.Node))
	last := lastConstants(p.Node)
	for i, np := range p.Node {
		if superseded(np, last, i) {
			if err := l.views.restore(np); err != nil {
				return fmt.Errorf("node %d: %w", i, err)
			}
			continue
		}
		n := &Node{
			Name: np.GetName(), Op: np.GetOpType(), Domain: np.GetDomain(), Overload: np.GetOverload(), Doc: np.GetDocString(),
			Metadata: decodeMetadata(np.MetadataProps),
			graph:    g,
			origin:   np,
		}
		if n.Op == "" {
			return fmt.Errorf("node %d (%q) has no operator", i, n.Name)
		}
		n.outputs = make([]*Value, len(np.Output))
		for k, name := range np.Output {
			if name == "" {
				continue
			}
			v, err := g.define(name)
			if err != nil {
				return fmt.Errorf("%v: output %d: %w", n, k, err)
			}
			v.def, v.defIndex = n, k
			n.outputs[k] = v
		}
		g.nodes = append(g.nodes, n)
	}
	for i, op := range p.Output {
		v := g.Lookup(op.GetName())
		if v == nil {
			return fmt.Errorf("output %d is %q, which nothing defines", i, op.GetName())
		}
		if v.graph == g {
			v.describe(op)
		}
		g.outputs = append(g.outputs, v)
	}
	origin := &graphOrigin{shell: p}
	for _, vp := range p.ValueInfo {
		if v := g.values[vp.GetName()]; v != nil {
			v.describe(vp)
		} else {
			origin.leaveDangling(vp.GetName())
		}
	}
	for _, ap := range p.QuantizationAnnotation {
		if g.values[ap.GetTensorName()] == nil {
			origin.leaveDangling(ap.GetTensorName())
		}
		for _, e := range ap.QuantParameterTensorNames {
			if g.values[e.GetValue()] == nil {
				origin.leaveDangling(e.GetValue())
			}
		}
	}

	for _, n := range g.nodes {
		np := n.origin.(*onnxpb.NodeProto)
		n.inputs = make([]*Value, len(np.Input))
		for k, name := range np.Input {
			if name == "" {
				continue
			}
			v := g.Lookup(name)
			if v == nil {
				return fmt.Errorf("%v: input %d reads %q, which nothing defines", n, k, name)
			}
			n.inputs[k] = v
			v.uses = append(v.uses, Use{n, k})
		}
		var err error
		if n.Attrs, err = l.attrs(np.Attribute, n, g.model, g.fn); err != nil {
			return fmt.Errorf("%v: %w", n, err)
		}
		np.Attribute, np.MetadataProps = nil, nil
	}
	p.Initializer, p.SparseInitializer, p.MetadataProps = nil, nil, nil
	g.origin = origin
	return nil
}

// lastConstants returns where each name is last defined by a Constant node.
func lastConstants(nodes []*onnxpb.NodeProto) map[string]int {
	last := map[string]int{}
	for i, p := range nodes {
		if isConstant(p) {
			last[p.Output[0]] = i
		}
	}
	return last
}

// superseded reports whether node i is a Constant whose name a later one
// defines again. ONNX forbids that; ONNX Runtime, and models made for it, take
// the last one.
func superseded(p *onnxpb.NodeProto, last map[string]int, i int) bool {
	return isConstant(p) && last[p.Output[0]] > i
}

// isConstant reports whether p is a Constant with its value in the file.
func isConstant(p *onnxpb.NodeProto) bool {
	return p.GetOpType() == "Constant" && NormalDomain(p.GetDomain()) == "" && len(p.Output) == 1 &&
		eachTensor(p.ProtoReflect(), func(t *onnxpb.TensorProto) error {
			if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
				return errors.New("external")
			}
			return nil
		}) == nil
}

// define makes the value of that name. Every one has an origin, so that its
// name in the file stays known.
func (g *Graph) define(name string) (*Value, error) {
	if name == "" {
		return nil, errors.New("has no name")
	}
	if v := g.values[name]; v != nil {
		by := "an input or initializer"
		if v.def != nil {
			by = v.def.String()
		}
		return nil, fmt.Errorf("%q is already defined by %s", name, by)
	}
	v := &Value{Name: name, graph: g, origin: &valueOrigin{name: name}}
	g.values[name] = v
	return v, nil
}

// describe takes the type and documentation of v from p unless it has a type
// from another place.
func (v *Value) describe(p *onnxpb.ValueInfoProto) {
	if o := v.origin.(*valueOrigin); o.info == nil || o.info.Type == nil && p.Type != nil {
		o.info = p
		v.Declared, v.Doc = decodeType(p.Type), p.GetDocString()
	}
}

func (o *graphOrigin) leaveDangling(name string) {
	if o.dangling == nil {
		o.dangling = map[string]bool{}
	}
	o.dangling[name] = true
}

func (l *loader) initializer(g *Graph, p *onnxpb.TensorProto) error {
	v, err := g.constant(p.GetName())
	if err != nil {
		return err
	}
	v.Const, err = l.tensor(p)
	return err
}

func (l *loader) sparseInitializer(g *Graph, p *onnxpb.SparseTensorProto) error {
	v, err := g.constant(p.GetValues().GetName())
	if err != nil {
		return err
	}
	if v.Sparse, err = l.sparse(p); err != nil {
		return fmt.Errorf("%q: %w", v.Name, err)
	}
	return nil
}

// constant makes the value of an initializer, which may be an input already.
func (g *Graph) constant(name string) (*Value, error) {
	v := g.values[name]
	if v == nil || v.Const != nil || v.Sparse != nil {
		var err error
		if v, err = g.define(name); err != nil {
			return nil, err
		}
	}
	g.inits = append(g.inits, v)
	return v, nil
}

func (l *loader) attrs(ps []*onnxpb.AttributeProto, holder *Node, m *Model, fn *Function) ([]*Attr, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	out := make([]*Attr, len(ps))
	known := make(map[string]bool, len(ps))
	for i, p := range ps {
		if known[p.GetName()] {
			return nil, fmt.Errorf("attribute %q is given twice", p.GetName())
		}
		known[p.GetName()] = true
		a, err := l.attr(p, holder, m, fn)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", p.GetName(), err)
		}
		out[i] = a
	}
	return out, nil
}

func (l *loader) attr(p *onnxpb.AttributeProto, holder *Node, m *Model, fn *Function) (*Attr, error) {
	a := &Attr{
		Name: p.GetName(), Type: attrType(p), Ref: p.GetRefAttrName(), Doc: p.GetDocString(),
		F: p.GetF(), I: p.GetI(), S: p.GetS(),
		TP:      decodeType(p.Tp),
		Floats:  p.Floats,
		Ints:    p.Ints,
		Strings: p.Strings,
	}
	a.origin = &attrOrigin{shell: p, typ: a.Type}
	var err error
	if p.T != nil {
		if a.T, err = l.tensor(p.T); err != nil {
			return nil, err
		}
	}
	if p.G != nil {
		if a.G, err = l.graph(p.G, m, fn, holder); err != nil {
			return nil, err
		}
	}
	if p.SparseTensor != nil {
		if a.Sparse, err = l.sparse(p.SparseTensor); err != nil {
			return nil, err
		}
	}
	for _, tp := range p.Tensors {
		t, err := l.tensor(tp)
		if err != nil {
			return nil, err
		}
		a.Tensors = append(a.Tensors, t)
	}
	for _, gp := range p.Graphs {
		g, err := l.graph(gp, m, fn, holder)
		if err != nil {
			return nil, err
		}
		a.Graphs = append(a.Graphs, g)
	}
	for _, sp := range p.SparseTensors {
		s, err := l.sparse(sp)
		if err != nil {
			return nil, err
		}
		a.Sparses = append(a.Sparses, s)
	}
	for _, tp := range p.TypeProtos {
		a.Types = append(a.Types, decodeType(tp))
	}
	if a.Ref == "" {
		var missing bool
		switch a.Type {
		case AttrTensor:
			missing = a.T == nil
		case AttrGraph:
			missing = a.G == nil
		case AttrSparse:
			missing = a.Sparse == nil
		case AttrTypeProto:
			missing = a.TP == nil
		}
		if missing {
			return nil, errors.New("has no value of the type that it states")
		}
	}
	p.T, p.G, p.SparseTensor, p.Tensors, p.Graphs, p.SparseTensors = nil, nil, nil, nil, nil, nil
	p.Floats, p.Ints, p.Strings, p.TypeProtos = nil, nil, nil, nil
	return a, nil
}

// attrOrigin is the message of an attribute without graphs, tensors and lists.
type attrOrigin struct {
	shell *onnxpb.AttributeProto
	typ   AttrType // that the message decoded to
}

// attrType is the type that p states or, in files older than that field, the
// one that its value shows.
func attrType(p *onnxpb.AttributeProto) AttrType {
	if t := p.GetType(); t != onnxpb.AttributeProto_UNDEFINED {
		return AttrType(t)
	}
	switch {
	case p.RefAttrName != nil:
	case p.F != nil:
		return AttrFloat
	case p.I != nil:
		return AttrInt
	case p.S != nil:
		return AttrString
	case p.T != nil:
		return AttrTensor
	case p.G != nil:
		return AttrGraph
	case p.SparseTensor != nil:
		return AttrSparse
	case p.Tp != nil:
		return AttrTypeProto
	case len(p.Floats) > 0:
		return AttrFloats
	case len(p.Ints) > 0:
		return AttrInts
	case len(p.Strings) > 0:
		return AttrStrings
	case len(p.Tensors) > 0:
		return AttrTensors
	case len(p.Graphs) > 0:
		return AttrGraphs
	case len(p.SparseTensors) > 0:
		return AttrSparses
	case len(p.TypeProtos) > 0:
		return AttrTypes
	}
	return AttrUndefined
}

// decodeType turns a type into an object; nil gives nil.
func decodeType(p *onnxpb.TypeProto) *Type {
	if p == nil {
		return nil
	}
	t := &Type{origin: p}
	switch v := p.Value.(type) {
	case *onnxpb.TypeProto_TensorType:
		t.Kind, t.Elem, t.Shape = KindTensor, DType(v.TensorType.GetElemType()), decodeShape(v.TensorType.Shape)
	case *onnxpb.TypeProto_SparseTensorType:
		t.Kind, t.Elem, t.Shape = KindSparseTensor, DType(v.SparseTensorType.GetElemType()), decodeShape(v.SparseTensorType.Shape)
	case *onnxpb.TypeProto_SequenceType:
		t.Kind, t.Sub = KindSequence, decodeType(v.SequenceType.ElemType)
	case *onnxpb.TypeProto_OptionalType:
		t.Kind, t.Sub = KindOptional, decodeType(v.OptionalType.ElemType)
	case *onnxpb.TypeProto_MapType:
		t.Kind, t.Key, t.Sub = KindMap, DType(v.MapType.GetKeyType()), decodeType(v.MapType.ValueType)
	case *onnxpb.TypeProto_OpaqueType:
		t.Kind = KindOpaque
	}
	return t
}

func decodeShape(p *onnxpb.TensorShapeProto) *Shape {
	if p == nil {
		return nil
	}
	s := &Shape{Dims: make([]Dim, len(p.Dim))}
	for i, d := range p.Dim {
		s.Dims[i] = decodeDim(d)
	}
	return s
}

// decodeDim turns a dimension into an object. A negative number is how some
// exporters write an unknown one.
func decodeDim(p *onnxpb.TensorShapeProto_Dimension) Dim {
	switch v := p.Value.(type) {
	case *onnxpb.TensorShapeProto_Dimension_DimValue:
		return Dim{N: max(v.DimValue, -1)}
	case *onnxpb.TensorShapeProto_Dimension_DimParam:
		return Dim{N: -1, Sym: v.DimParam}
	}
	return UnknownDim
}
