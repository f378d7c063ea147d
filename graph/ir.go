// Package graph is the ONNX model in memory: load, edit, infer, check, print
// and save. Begin with [Load], [Model] and [Graph]; the example shows them.
//
// The objects are lathe's own (Model, Graph, Node, Value with def-use links);
// protobuf is only met at load and save. Names connect things in a file,
// pointers do here: a Node's inputs and outputs are Values, and a Value knows
// the Node that defines it and every place that reads it, also from inside
// the bodies of If, Loop and Scan. Edits go through methods, which keep both
// directions true; [Check] verifies them.
//
// Whatever a file says and lathe does not understand survives: a model that is
// loaded and saved comes back equal field by field.
//
// Errors are for models and files. An edit that contradicts the graph, such as a
// second value of one name or the removal of a value that is read, panics: it is
// a mistake of the program. Several goroutines may read a model at a time; one that
// edits it, or calls [Infer], has to be alone. A clone is a model of its own.
package graph

import (
	"fmt"
	"slices"
	"strconv"
)

// Model is an ONNX model: one main graph, the functions it calls, and what
// the file says of itself.
type Model struct {
	IRVersion       int64
	ProducerName    string
	ProducerVersion string
	Domain          string
	ModelVersion    int64
	Doc             string

	Opsets    []Opset    // see Opset, SetOpset
	Metadata  []Metadata // metadata_props; see Meta, SetMeta
	Graph     *Graph     // the main graph
	Functions []*Function

	path   string // file it was loaded from, "" if none
	origin any
}

// Opset is one operator set import. The default domain is "" ("ai.onnx" in a
// file means the same and is kept as it was written).
type Opset struct {
	Domain  string
	Version int64
	origin  any
}

// Metadata is one key-value pair.
type Metadata struct {
	Key, Value string
	origin     any
}

// Function is a model-local function; its Graph's inputs and outputs are its
// signature and carry no types.
type Function struct {
	Domain, Name, Overload string
	Doc                    string
	Graph                  *Graph
	AttrNames              []string // attributes without a default
	AttrDefaults           []*Attr  // attributes with one
	Opsets                 []Opset
	Metadata               []Metadata

	model  *Model
	origin any
}

// Graph is a graph of nodes in topological order: the main graph, a function
// body, or the body of a control-flow node, which may read the values of the
// graphs around it.
type Graph struct {
	Name     string
	Doc      string
	Metadata []Metadata

	nodes   []*Node
	inputs  []*Value
	outputs []*Value
	inits   []*Value
	values  map[string]*Value

	model  *Model    // set on every graph
	fn     *Function // the function whose body this is, or is inside of
	holder *Node     // the node whose attribute holds this graph; nil at the top
	origin any
}

// Node is one operator call. Its inputs and outputs are behind methods.
type Node struct {
	Name     string // may be empty, and need not be unique
	Op       string // the operator, op_type in a file
	Domain   string // of the operator; "" is ONNX's own
	Overload string // of a call of a local function
	Doc      string
	Attrs    []*Attr // see Attr, Int, …; SetAttr changes them
	Metadata []Metadata

	inputs  []*Value // nil where an optional input is left out
	outputs []*Value // nil where an optional output is left out
	graph   *Graph
	origin  any
}

// Value is what flows along an edge: a graph input, an initializer, or an
// output of a node. In an old model a value can be both input and
// initializer; it then counts as a constant.
type Value struct {
	Name     string // Rename changes it
	Doc      string
	Declared *Type         // what the file says; nil if it says nothing
	Const    *Tensor       // dense initializer
	Sparse   *SparseTensor // sparse initializer

	inferred *Type
	graph    *Graph
	def      *Node
	defIndex int
	input    bool
	uses     []Use
	origin   any
}

// Use is one place that reads a value: input Index of Node.
type Use struct {
	Node  *Node
	Index int
}

// LatheDomain is the domain of lathe's own operators.
const LatheDomain = "lathe"

// LatheVersion is the newest version of LatheDomain. Version 2 has
// BlockCirculantMatMulInt16 with shifts by bin and by output,
// BlockCirculantConvInt16, and DequantizeInt16 with an exponent for every channel.
const LatheVersion = 2

// AttrType is the type of an attribute, numbered as in AttributeProto.
type AttrType int32

const (
	AttrUndefined AttrType = 0
	AttrFloat     AttrType = 1
	AttrInt       AttrType = 2
	AttrString    AttrType = 3
	AttrTensor    AttrType = 4
	AttrGraph     AttrType = 5
	AttrFloats    AttrType = 6
	AttrInts      AttrType = 7
	AttrStrings   AttrType = 8
	AttrTensors   AttrType = 9
	AttrGraphs    AttrType = 10
	AttrSparse    AttrType = 11
	AttrSparses   AttrType = 12
	AttrTypeProto AttrType = 13
	AttrTypes     AttrType = 14
)

// Attr is one attribute of a node; Type says which field holds it. Inside a
// function body Ref names the function attribute that it takes its value
// from.
type Attr struct {
	Name    string
	Type    AttrType
	Ref     string
	Doc     string
	F       float32       // of AttrFloat
	I       int64         // AttrInt
	S       []byte        // AttrString
	T       *Tensor       // AttrTensor
	G       *Graph        // AttrGraph
	Sparse  *SparseTensor // AttrSparse
	TP      *Type         // AttrTypeProto
	Floats  []float32
	Ints    []int64
	Strings [][]byte
	Tensors []*Tensor
	Graphs  []*Graph
	Sparses []*SparseTensor
	Types   []*Type
	origin  any
}

// TypeKind is the kind of a value's type.
type TypeKind uint8

const (
	KindUnknown TypeKind = iota
	KindTensor
	KindSparseTensor
	KindSequence
	KindOptional
	KindMap
	KindOpaque
)

// Type is the type of a value. Elem and Shape are set for tensors and sparse
// tensors, Sub for sequences, optionals and maps, Key for maps.
type Type struct {
	Kind   TypeKind
	Elem   DType
	Shape  *Shape // nil: the rank is not known
	Sub    *Type
	Key    DType
	origin any
}

// Shape is the dims of a tensor; a Shape with no dims is a scalar's.
type Shape struct {
	Dims []Dim
}

// Dim is one dimension: a number if N >= 0, otherwise the symbol Sym, or
// unknown if that is empty too.
type Dim struct {
	N   int64
	Sym string
}

// Known returns a fixed dimension.
func Known(n int64) Dim { return Dim{N: n} }

// Symbol returns a named dimension.
func Symbol(name string) Dim { return Dim{N: -1, Sym: name} }

// UnknownDim is a dimension of which nothing is known.
var UnknownDim = Dim{N: -1}

// IsKnown reports whether the dimension is a number.
func (d Dim) IsKnown() bool { return d.N >= 0 }

func (d Dim) String() string {
	switch {
	case d.N >= 0:
		return strconv.FormatInt(d.N, 10)
	case d.Sym != "":
		return d.Sym
	}
	return "?"
}

// TensorType returns the type of a tensor of known rank.
func TensorType(elem DType, dims ...Dim) *Type {
	return &Type{Kind: KindTensor, Elem: elem, Shape: &Shape{Dims: dims}}
}

// StaticDims returns the dims of a tensor type as numbers; it reports false
// where the rank or any dim is not known.
func (t *Type) StaticDims() ([]int64, bool) {
	if t == nil || t.Shape == nil || t.Kind != KindTensor {
		return nil, false
	}
	out := make([]int64, len(t.Shape.Dims))
	for i, d := range t.Shape.Dims {
		if !d.IsKnown() {
			return nil, false
		}
		out[i] = d.N
	}
	return out, true
}

// Rank is the number of dims of a tensor type, -1 where it is not known.
func (t *Type) Rank() int {
	if t == nil || t.Shape == nil {
		return -1
	}
	return len(t.Shape.Dims)
}

// IntAttr returns an attribute that holds an integer.
func IntAttr(name string, v int64) *Attr { return &Attr{Name: name, Type: AttrInt, I: v} }

// IntsAttr returns an attribute that holds a list of integers.
func IntsAttr(name string, v ...int64) *Attr { return &Attr{Name: name, Type: AttrInts, Ints: v} }

// FloatAttr returns an attribute that holds a number.
func FloatAttr(name string, v float32) *Attr { return &Attr{Name: name, Type: AttrFloat, F: v} }

// FloatsAttr returns an attribute that holds a list of numbers, which is not copied.
func FloatsAttr(name string, v []float32) *Attr {
	return &Attr{Name: name, Type: AttrFloats, Floats: v}
}

// StringAttr returns an attribute that holds a string.
func StringAttr(name, v string) *Attr { return &Attr{Name: name, Type: AttrString, S: []byte(v)} }

// TensorAttr returns an attribute that holds a constant.
func TensorAttr(name string, t *Tensor) *Attr { return &Attr{Name: name, Type: AttrTensor, T: t} }

// GraphAttr returns an attribute that holds a graph: see [Node.NewSubgraph].
func GraphAttr(name string, g *Graph) *Attr { return &Attr{Name: name, Type: AttrGraph, G: g} }

// NewModel returns an empty model: name is that of its graph, irVersion the version
// of the file format, opset the version of the default domain that it imports.
func NewModel(name string, irVersion, opset int64) *Model {
	m := &Model{IRVersion: irVersion, ProducerName: "lathe", Opsets: []Opset{{Version: opset}}}
	m.Graph = newGraph(m, nil, nil)
	m.Graph.Name = name
	return m
}

func newGraph(m *Model, fn *Function, holder *Node) *Graph {
	return &Graph{model: m, fn: fn, holder: holder, values: map[string]*Value{}}
}

// Path is the file that the model was loaded from, "" if none.
func (m *Model) Path() string { return m.path }

// NormalDomain maps "ai.onnx" to "", the two spellings of the default domain.
func NormalDomain(d string) string {
	if d == "ai.onnx" {
		return ""
	}
	return d
}

func opsetOf(list []Opset, domain string) (int64, bool) {
	for _, o := range list {
		if NormalDomain(o.Domain) == NormalDomain(domain) {
			return o.Version, true
		}
	}
	return 0, false
}

// Opset returns the version of domain that the model imports.
func (m *Model) Opset(domain string) (int64, bool) { return opsetOf(m.Opsets, domain) }

// SetOpset imports version of domain, in the place of another version.
func (m *Model) SetOpset(domain string, version int64) {
	for i := range m.Opsets {
		if NormalDomain(m.Opsets[i].Domain) == NormalDomain(domain) {
			m.Opsets[i].Version = version
			return
		}
	}
	m.Opsets = append(m.Opsets, Opset{Domain: domain, Version: version})
}

// RemoveOpset takes the import of domain away.
func (m *Model) RemoveOpset(domain string) {
	m.Opsets = slices.DeleteFunc(m.Opsets, func(o Opset) bool { return NormalDomain(o.Domain) == NormalDomain(domain) })
}

// Meta returns the value of a metadata key.
func (m *Model) Meta(key string) (string, bool) {
	for _, e := range m.Metadata {
		if e.Key == key {
			return e.Value, true
		}
	}
	return "", false
}

// SetMeta sets a metadata key, at its place if it is there already.
func (m *Model) SetMeta(key, value string) {
	for i := range m.Metadata {
		if m.Metadata[i].Key == key {
			m.Metadata[i].Value = value
			return
		}
	}
	m.Metadata = append(m.Metadata, Metadata{Key: key, Value: value})
}

// RemoveMeta removes a key of metadata_props, if it is there.
func (m *Model) RemoveMeta(key string) {
	m.Metadata = slices.DeleteFunc(m.Metadata, func(e Metadata) bool { return e.Key == key })
}

// Function returns the model-local function of that name, nil if there is
// none.
func (m *Model) Function(domain, name, overload string) *Function {
	for _, f := range m.Functions {
		if NormalDomain(f.Domain) == NormalDomain(domain) && f.Name == name && f.Overload == overload {
			return f
		}
	}
	return nil
}

// AddFunction adds an empty model-local function and returns it. opsets are what
// its body imports.
func (m *Model) AddFunction(domain, name string, opsets ...Opset) *Function {
	f := &Function{Domain: domain, Name: name, Opsets: opsets, model: m}
	f.Graph = newGraph(m, f, nil)
	f.Graph.Name = name
	m.Functions = append(m.Functions, f)
	return f
}

// RemoveFunction takes a function out of the model, which must hold no call of it
// any more.
func (m *Model) RemoveFunction(f *Function) {
	m.Functions = slices.DeleteFunc(m.Functions, func(g *Function) bool { return g == f })
}

// Graphs calls f for the main graph, every function body and every graph
// nested in them, outer graphs first, until f returns false. It is an iterator:
//
//	for g := range m.Graphs { … }
func (m *Model) Graphs(f func(*Graph) bool) {
	if m.Graph != nil && !m.Graph.walk(f) {
		return
	}
	for _, fn := range m.Functions {
		if !fn.Graph.walk(f) {
			return
		}
	}
}

func (g *Graph) walk(f func(*Graph) bool) bool {
	if !f(g) {
		return false
	}
	for _, n := range g.nodes {
		for _, s := range n.Subgraphs() {
			if !s.walk(f) {
				return false
			}
		}
	}
	return true
}

// Model is the model that the graph belongs to.
func (g *Graph) Model() *Model { return g.model }

// Function is the function whose body the graph is or lies inside of, nil in
// the main graph.
func (g *Graph) Function() *Function { return g.fn }

// Holder is the control-flow node whose attribute holds the graph, nil for
// the main graph and for the body of a function.
func (g *Graph) Holder() *Node { return g.holder }

// Outer is the graph around this one, nil for the main graph and for the body
// of a function.
func (g *Graph) Outer() *Graph {
	if g.holder == nil {
		return nil
	}
	return g.holder.graph
}

// Opset returns the version of domain in force in this graph: the model's, or
// the enclosing function's.
func (g *Graph) Opset(domain string) (int64, bool) {
	if g.fn != nil {
		return opsetOf(g.fn.Opsets, domain)
	}
	return opsetOf(g.model.Opsets, domain)
}

// Nodes returns the nodes in topological order. The slice belongs to the
// graph: copy it before an edit while ranging over it.
func (g *Graph) Nodes() []*Node { return g.nodes }

// Inputs returns the graph inputs, those that are initializers too included.
func (g *Graph) Inputs() []*Value { return g.inputs }

// Outputs returns the graph outputs.
func (g *Graph) Outputs() []*Value { return g.outputs }

// Initializers returns the values with a constant, in the order of the file.
func (g *Graph) Initializers() []*Value { return g.inits }

// Value returns the value of that name defined in this graph, nil if there is
// none.
func (g *Graph) Value(name string) *Value { return g.values[name] }

// Lookup returns the value that name means in this graph: its own or that of
// the nearest graph around it; nil if there is none.
func (g *Graph) Lookup(name string) *Value {
	for s := g; s != nil; s = s.Outer() {
		if v := s.values[name]; v != nil {
			return v
		}
	}
	return nil
}

func (g *Graph) newValue(name string) *Value {
	if name == "" {
		panic("graph: a value needs a name")
	}
	if g.values[name] != nil {
		panic(fmt.Sprintf("graph: value %q is defined already", name))
	}
	v := &Value{Name: name, graph: g}
	g.values[name] = v
	return v
}

// AddInput adds a graph input of a name that is free; t may be nil.
func (g *Graph) AddInput(name string, t *Type) *Value {
	v := g.newValue(name)
	v.Declared, v.input = t, true
	g.inputs = append(g.inputs, v)
	return v
}

// AddInitializer adds a constant under a name that is free.
func (g *Graph) AddInitializer(name string, t *Tensor) *Value {
	v := g.newValue(name)
	v.Const = t
	g.inits = append(g.inits, v)
	return v
}

// AddOutput makes v an output of the graph, with the type t if v has none
// declared.
func (g *Graph) AddOutput(v *Value, t *Type) {
	if v.Declared == nil {
		v.Declared = t
	}
	g.outputs = append(g.outputs, v)
}

// RemoveInput takes v out of the graph's inputs. A value that is also an
// initializer stays as such; any other must have no reader.
func (g *Graph) RemoveInput(v *Value) {
	g.inputs = slices.DeleteFunc(g.inputs, func(w *Value) bool { return w == v })
	v.input = false
	g.forget(v)
}

// RemoveOutput takes output i of the graph away; its value stays.
func (g *Graph) RemoveOutput(i int) { g.outputs = slices.Delete(g.outputs, i, i+1) }

// RemoveInitializer takes the constant of v away; v must have no reader
// unless it is a graph input too.
func (g *Graph) RemoveInitializer(v *Value) {
	g.inits = slices.DeleteFunc(g.inits, func(w *Value) bool { return w == v })
	v.Const, v.Sparse = nil, nil
	g.forget(v)
}

// forget drops a value that nothing defines any more.
func (g *Graph) forget(v *Value) {
	if v.input || v.Const != nil || v.Sparse != nil || v.def != nil {
		return
	}
	if len(v.uses) > 0 || slices.Contains(g.outputs, v) {
		panic(fmt.Sprintf("graph: value %q is removed while it is read", v.Name))
	}
	delete(g.values, v.Name)
}

// NewNode adds a node at the end of the graph with new values for its
// outputs, whose names must be free (see FreshName); an empty output name leaves an
// optional output out, a nil input an optional input.
func (g *Graph) NewNode(domain, op, name string, inputs []*Value, outputs []string, attrs ...*Attr) *Node {
	return g.insert(len(g.nodes), domain, op, name, inputs, outputs, attrs)
}

// InsertBefore is NewNode at the place before mark, a node of the graph.
func (g *Graph) InsertBefore(mark *Node, domain, op, name string, inputs []*Value, outputs []string, attrs ...*Attr) *Node {
	i := slices.Index(g.nodes, mark)
	if i < 0 {
		panic("graph: InsertBefore: mark is not in the graph")
	}
	return g.insert(i, domain, op, name, inputs, outputs, attrs)
}

func (g *Graph) insert(at int, domain, op, name string, inputs []*Value, outputs []string, attrs []*Attr) *Node {
	n := &Node{Name: name, Op: op, Domain: domain, graph: g}
	g.nodes = slices.Insert(g.nodes, at, n)
	n.SetInputs(inputs)
	for _, o := range outputs {
		n.AddOutput(o)
	}
	for _, a := range attrs {
		n.SetAttr(a)
	}
	return n
}

// Remove takes nodes out of the graph together with the values they define,
// which must be read by none but the removed nodes and be no graph outputs.
func (g *Graph) Remove(nodes ...*Node) {
	gone := make(map[*Node]bool, len(nodes))
	for _, n := range nodes {
		gone[n] = true
		n.release()
	}
	g.nodes = slices.DeleteFunc(g.nodes, func(n *Node) bool { return gone[n] })
	for _, n := range nodes {
		for _, v := range n.outputs {
			if v != nil {
				v.def = nil
				g.forget(v)
			}
		}
		n.outputs = nil
		n.graph = nil
	}
}

// release drops every use that n makes, also those inside its subgraphs.
func (n *Node) release() {
	n.SetInputs(nil)
	for _, s := range n.Subgraphs() {
		for _, m := range s.nodes {
			m.release()
		}
	}
}

// Graph is the graph that the node is in, nil once it was removed.
func (n *Node) Graph() *Graph { return n.graph }

// Inputs returns the inputs, nil where one is left out; not to be changed.
func (n *Node) Inputs() []*Value { return n.inputs }

// Outputs returns the outputs, nil where one is left out; not to be changed.
func (n *Node) Outputs() []*Value { return n.outputs }

// Input returns input i, nil where it is left out or there are fewer.
func (n *Node) Input(i int) *Value {
	if i < len(n.inputs) {
		return n.inputs[i]
	}
	return nil
}

// Output returns output i, nil where it is left out or there are fewer.
func (n *Node) Output(i int) *Value {
	if i < len(n.outputs) {
		return n.outputs[i]
	}
	return nil
}

// SetInput makes v input i of the node; v may be nil for an optional input.
// Inputs between the last one and i are left out.
func (n *Node) SetInput(i int, v *Value) {
	for len(n.inputs) <= i {
		n.inputs = append(n.inputs, nil)
	}
	if old := n.inputs[i]; old != nil {
		old.uses = slices.DeleteFunc(old.uses, func(u Use) bool { return u == Use{n, i} })
	}
	n.inputs[i] = v
	if v != nil {
		v.uses = append(v.uses, Use{n, i})
	}
}

// SetInputs replaces all inputs.
func (n *Node) SetInputs(vs []*Value) {
	for i := range n.inputs {
		n.SetInput(i, nil)
	}
	n.inputs = make([]*Value, 0, len(vs))
	for i, v := range vs {
		n.SetInput(i, v)
	}
}

// AddOutput adds an output with a new value of that name; an empty name
// leaves an optional output out.
func (n *Node) AddOutput(name string) *Value {
	if name == "" {
		n.outputs = append(n.outputs, nil)
		return nil
	}
	v := n.graph.newValue(name)
	v.def, v.defIndex = n, len(n.outputs)
	n.outputs = append(n.outputs, v)
	return v
}

// DropOutput leaves optional output i out; its value must have no reader.
func (n *Node) DropOutput(i int) {
	v := n.outputs[i]
	if v == nil {
		return
	}
	v.def = nil
	n.graph.forget(v)
	n.outputs[i] = nil
	for k := len(n.outputs); k > 0 && n.outputs[k-1] == nil; k-- {
		n.outputs = n.outputs[:k-1]
	}
}

// RemoveOutput takes output i out; its value must have no reader. The outputs
// behind it move up.
func (n *Node) RemoveOutput(i int) {
	if v := n.outputs[i]; v != nil {
		v.def = nil
		n.graph.forget(v)
	}
	n.outputs = slices.Delete(n.outputs, i, i+1)
	for k, v := range n.outputs[i:] {
		if v != nil {
			v.defIndex = i + k
		}
	}
}

// Attr returns the attribute of that name, nil if it is not there.
func (n *Node) Attr(name string) *Attr {
	for _, a := range n.Attrs {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// SetAttr sets an attribute, at its place if one of its name is there, and
// makes the graphs that it holds part of the node's graph.
func (n *Node) SetAttr(a *Attr) {
	for _, s := range a.graphs() {
		s.holder, s.model, s.fn = n, n.graph.model, n.graph.fn
	}
	for i, b := range n.Attrs {
		if b.Name == a.Name {
			n.Attrs[i] = a
			return
		}
	}
	n.Attrs = append(n.Attrs, a)
}

// RemoveAttr takes the attribute of that name away.
func (n *Node) RemoveAttr(name string) {
	n.Attrs = slices.DeleteFunc(n.Attrs, func(a *Attr) bool { return a.Name == name })
}

// Int returns an integer attribute, or def where it is not set: where there is none
// of that name and type, or one that refers to an attribute of a function.
func (n *Node) Int(name string, def int64) int64 {
	if a := n.Attr(name); a != nil && a.Type == AttrInt && a.Ref == "" {
		return a.I
	}
	return def
}

// Float returns a float attribute, or def where it is not set; see Int.
func (n *Node) Float(name string, def float32) float32 {
	if a := n.Attr(name); a != nil && a.Type == AttrFloat && a.Ref == "" {
		return a.F
	}
	return def
}

// Str returns a string attribute, or def where it is not set; see Int.
func (n *Node) Str(name, def string) string {
	if a := n.Attr(name); a != nil && a.Type == AttrString && a.Ref == "" {
		return string(a.S)
	}
	return def
}

// Ints returns a list of integers and whether it is set; see Int. The list is not to
// be changed.
func (n *Node) Ints(name string) ([]int64, bool) {
	if a := n.Attr(name); a != nil && a.Type == AttrInts && a.Ref == "" {
		return a.Ints, true
	}
	return nil, false
}

// Subgraphs returns the graphs that the node's attributes hold, in order.
func (n *Node) Subgraphs() []*Graph {
	var out []*Graph
	for _, a := range n.Attrs {
		out = append(out, a.graphs()...)
	}
	return out
}

func (a *Attr) graphs() []*Graph {
	if a.G != nil {
		return append([]*Graph{a.G}, a.Graphs...)
	}
	return a.Graphs
}

// NewSubgraph returns an empty graph to be filled and set as an attribute of
// n, n.SetAttr(GraphAttr(attribute, g)); its nodes can read n's graph already.
func (n *Node) NewSubgraph(name string) *Graph {
	g := newGraph(n.graph.model, n.graph.fn, n)
	g.Name = name
	return g
}

// Is reports whether the node is one of these operators of the default domain.
func (n *Node) Is(ops ...string) bool {
	return NormalDomain(n.Domain) == "" && slices.Contains(ops, n.Op)
}

// Opset is the version of the node's domain in force where the node stands,
// 0 if the domain is not imported.
func (n *Node) Opset() int64 {
	v, _ := n.graph.Opset(n.Domain)
	return v
}

// String names the node for messages: its name, or its first output, and its
// operator.
func (n *Node) String() string {
	name := n.Name
	if name == "" {
		for _, o := range n.outputs {
			if o != nil {
				name = "→" + o.Name
				break
			}
		}
	}
	op := n.Op
	if d := NormalDomain(n.Domain); d != "" {
		op = d + "." + op
	}
	quoted := strconv.Quote(op) // a message is one line whatever the file says
	return fmt.Sprintf("node %q (%s)", name, quoted[1:len(quoted)-1])
}

// Graph is the graph that defines the value.
func (v *Value) Graph() *Graph { return v.graph }

// Def is the node that computes the value, nil for an input or initializer.
func (v *Value) Def() *Node { return v.def }

// Uses returns the places that read the value, those in nested graphs
// included, graph outputs not; not to be changed.
func (v *Value) Uses() []Use { return v.uses }

// IsInput reports whether the value is a graph input (perhaps with a default:
// then it is an initializer too).
func (v *Value) IsInput() bool { return v.input }

// IsInitializer reports whether the value is a constant of the graph.
func (v *Value) IsInitializer() bool { return v.Const != nil || v.Sparse != nil }

// IsOutput reports whether the value is an output of the graph that defines
// it or of a graph nested in that.
func (v *Value) IsOutput() bool {
	out := false
	v.graph.walk(func(g *Graph) bool {
		out = slices.Contains(g.outputs, v)
		return !out
	})
	return out
}

// Type is the best that is known: what inference found, else what the file
// declares, nil if neither.
func (v *Value) Type() *Type {
	if v.inferred != nil {
		return v.inferred
	}
	if v.Declared == nil && v.Const != nil {
		dims := make([]Dim, len(v.Const.Dims))
		for i, d := range v.Const.Dims {
			dims[i] = Known(d)
		}
		return TensorType(v.Const.DType, dims...)
	}
	return v.Declared
}

// SetInferred records a type as Infer does, nil to forget what it found. It is not
// saved.
func (v *Value) SetInferred(t *Type) { v.inferred = t }

// ConstTensor returns the constant that v holds: its initializer, or the
// value of the Constant node that defines it; nil if v is not constant.
// Numbers and lists given as attributes of Constant are converted.
func (v *Value) ConstTensor() *Tensor {
	if v == nil {
		return nil
	}
	if v.Const != nil {
		return v.Const
	}
	if v.def == nil || !v.def.Is("Constant") {
		return nil
	}
	for _, a := range v.def.Attrs {
		if a.Ref != "" {
			return nil
		}
		switch a.Name {
		case "value":
			return a.T
		case "value_float":
			return Float32Tensor(nil, []float32{a.F})
		case "value_floats":
			return Float32Tensor([]int64{int64(len(a.Floats))}, a.Floats)
		case "value_int":
			return Int64Tensor(nil, []int64{a.I})
		case "value_ints":
			return Int64Tensor([]int64{int64(len(a.Ints))}, a.Ints)
		case "value_string":
			return StringTensor(nil, [][]byte{a.S})
		case "value_strings":
			return StringTensor([]int64{int64(len(a.Strings))}, a.Strings)
		}
	}
	return nil
}

// ReplaceUses makes every node that reads v read w instead, also in nested
// graphs. Graph outputs stay; see ReplaceOutput.
func (v *Value) ReplaceUses(w *Value) {
	if v == w {
		return
	}
	for _, u := range slices.Clone(v.uses) {
		u.Node.SetInput(u.Index, w)
	}
}

// Rename gives the value another name, which must be free in its graph, and should
// be in the graphs inside it; see FreshName.
func (v *Value) Rename(name string) {
	if name == v.Name {
		return
	}
	if name == "" || v.graph.values[name] != nil {
		panic(fmt.Sprintf("graph: rename %q to %q: that name is taken", v.Name, name))
	}
	delete(v.graph.values, v.Name)
	v.Name = name
	v.graph.values[name] = v
}

// ReplaceOutput makes w what the graph gives where it gave v, under v's name
// and declared type: w takes the name where it can, else an Identity carries
// it. Readers of v are not touched.
func (g *Graph) ReplaceOutput(v, w *Value) {
	i := slices.Index(g.outputs, v)
	if i < 0 || v == w {
		return
	}
	name, declared := v.Name, v.Declared
	v.Rename(g.FreshName(name + "_replaced"))
	v.Declared = nil
	if w.graph == g && w.def != nil && !slices.Contains(g.outputs, w) {
		w.Rename(name)
	} else {
		w = g.NewNode("", "Identity", g.FreshNodeName("Identity_"+name), []*Value{w}, []string{name}).Output(0)
	}
	w.Declared, w.origin = declared, v.origin
	v.origin = nil
	for k := range g.outputs {
		if g.outputs[k] == v {
			g.outputs[k] = w
		}
	}
}

// GiveWay puts w, which a node of the same graph computes, in the place of v:
// for readers, as an output of graphs, by name and declared type. v stays
// behind, with suffix behind its name.
func (v *Value) GiveWay(w *Value, suffix string) {
	v.ReplaceUses(w)
	if v.IsOutput() {
		v.graph.walk(func(g *Graph) bool { g.ReplaceOutput(v, w); return true })
		return
	}
	name := v.Name
	v.Rename(v.graph.FreshName(name + suffix))
	w.Rename(name)
	w.Declared = v.Declared
}

// FreshName returns base, or base with a number behind it, such that no value
// of the model has that name.
func (g *Graph) FreshName(base string) string {
	taken := func(name string) bool {
		found := false
		g.model.Graphs(func(s *Graph) bool {
			found = s.values[name] != nil
			return !found
		})
		return found
	}
	return fresh(base, taken)
}

// FreshNodeName is FreshName for the names of nodes.
func (g *Graph) FreshNodeName(base string) string {
	names := map[string]bool{}
	g.model.Graphs(func(s *Graph) bool {
		for _, n := range s.nodes {
			names[n.Name] = true
		}
		return true
	})
	return fresh(base, func(name string) bool { return names[name] })
}

func fresh(base string, taken func(string) bool) string {
	name := base
	for i := 1; taken(name); i++ {
		name = base + "_" + strconv.Itoa(i)
	}
	return name
}

// Sort puts the nodes into topological order, keeping the present order where
// it can. It fails on a cycle, naming a node that lies on it.
func (g *Graph) Sort() error {
	out, err := g.sorted()
	if err == nil {
		g.nodes = out
	}
	return err
}

// sorted returns the nodes in the order that Sort gives them.
func (g *Graph) sorted() ([]*Node, error) {
	// deps counts, per node, the nodes of this graph it waits for, those
	// that its subgraphs read included.
	deps := make(map[*Node]int, len(g.nodes))
	next := make(map[*Node][]*Node, len(g.nodes))
	for _, n := range g.nodes {
		seen := map[*Node]bool{}
		n.reads(func(v *Value) {
			if d := v.def; d != nil && v.graph == g && !seen[d] {
				seen[d] = true
				deps[n]++
				next[d] = append(next[d], n)
			}
		})
	}
	pos := make(map[*Node]int, len(g.nodes))
	ready := make(nodeHeap, 0, len(g.nodes))
	for i, n := range g.nodes {
		pos[n] = i
	}
	for _, n := range g.nodes {
		if deps[n] == 0 {
			ready.push(pos[n])
		}
	}
	out := make([]*Node, 0, len(g.nodes))
	for len(ready) > 0 {
		n := g.nodes[ready.pop()]
		out = append(out, n)
		for _, m := range next[n] {
			if deps[m]--; deps[m] == 0 {
				ready.push(pos[m])
			}
		}
	}
	if len(out) < len(g.nodes) {
		for _, n := range g.nodes {
			if deps[n] > 0 {
				return nil, fmt.Errorf("graph %q: %v is on or behind a cycle", g.Name, n)
			}
		}
	}
	return out, nil
}

// reads calls f for every value that n reads, the captures of its subgraphs
// and their outputs included.
func (n *Node) reads(f func(*Value)) {
	for _, v := range n.inputs {
		if v != nil {
			f(v)
		}
	}
	for _, s := range n.Subgraphs() {
		for _, m := range s.nodes {
			m.reads(f)
		}
		for _, v := range s.outputs {
			f(v)
		}
	}
}

// nodeHeap is a binary min-heap of positions.
type nodeHeap []int

func (h *nodeHeap) push(x int) {
	*h = append(*h, x)
	s := *h
	for i := len(s) - 1; i > 0 && s[(i-1)/2] > s[i]; i = (i - 1) / 2 {
		s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
	}
}

func (h *nodeHeap) pop() int {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s = s[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(s) {
			break
		}
		if c+1 < len(s) && s[c+1] < s[c] {
			c++
		}
		if s[i] <= s[c] {
			break
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
	*h = s
	return top
}
