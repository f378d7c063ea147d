// Package onnxgo lets a program written for github.com/owulveryck/onnx-go run
// its models here: where it made a gorgonnx graph it makes a Backend,
//
//	backend := onnxgo.New(onnxgo.Opset(13))
//	model := onnx.NewModel(backend)
//
// and the rest stays as it is.
//
// # Limits
//
// They are those of onnx-go's decoder, which hands operations over without
// their domain and without the model's opset:
//
//   - The opset has to be given; OpsetOf reads it from a model's bytes.
//   - Every operator is taken to be one of the default domain.
//   - Attributes that hold graphs do not pass the decoder, so there is no If,
//     Loop or Scan, and there are no model-local functions.
//   - Model.SetInput(i, t) feeds the i-th input that the file declares; the
//     initializers that old files declare as inputs count.
//   - Element types are those that the decoder knows: bool, int32, int64,
//     float32 and float64.
//
// A program that is not tied to onnx-go uses packages graph and runtime, which have
// none of these limits.
package onnxgo

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/owulveryck/onnx-go"
	gonum "gonum.org/v1/gonum/graph"
	"gonum.org/v1/gonum/graph/iterator"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// Backend is onnx-go's picture of a model: a node for every value, an edge
// from every output to each input it is computed from. It implements
// onnx.Backend and backend.ComputationBackend, and is not safe for concurrent
// use.
type Backend struct {
	opset   int64
	options runtime.Options
	session runtime.SessionOptions

	nodes []*Node // by ID
	ops   []operation

	compiled *runtime.Session
	fed      []*Node // inputs of compiled
	given    []*Node // outputs of compiled
}

type operation struct {
	onnx.Operation
	outputs []*Node
}

// Option configures a Backend.
type Option func(*Backend)

// Opset says which version of the default operator set the model uses; it is needed.
// See OpsetOf.
func Opset(version int) Option { return func(b *Backend) { b.opset = int64(version) } }

// Threads says how many threads compute; 0, the default, means one per
// processor.
func Threads(n int) Option { return func(b *Backend) { b.session.Threads = n } }

// MemoryLimit bounds the bytes of intermediate values; see runtime.Options.
func MemoryLimit(bytes int64) Option { return func(b *Backend) { b.options.MemoryLimit = bytes } }

// New returns an empty backend for onnx.NewModel.
func New(options ...Option) *Backend {
	b := &Backend{}
	for _, o := range options {
		o(b)
	}
	return b
}

// OpsetOf returns the version of the default operator set that a model in
// protobuf form imports.
func OpsetOf(model []byte) (int, error) {
	m, err := graph.Decode(model)
	if err != nil {
		return 0, err
	}
	v, ok := m.Graph.Opset("")
	if !ok {
		return 0, errors.New("onnxgo: the model imports no version of the default operator set")
	}
	return int(v), nil
}

// Node is a value of the model. It implements onnx.Namer and
// onnx.DataCarrier.
type Node struct {
	backend *Backend
	id      int64
	name    string
	t       tensor.Tensor
	inputs  []*Node // what it is computed from, nil where left out
	readers []*Node // each once
	input   bool    // t was set after that: it is fed
	op      bool    // an operation computes it
	wanted  bool    // GetTensor asked for it
	stale   bool    // t is not of the last run
}

// ID is the number of the node, in the order of creation.
func (n *Node) ID() int64 { return n.id }

// SetName sets the name of the value.
func (n *Node) SetName(name string) { n.name = name }

// GetName returns the name of the value.
func (n *Node) GetName() string { return n.name }

// SetTensor sets the value. What is set while onnx-go decodes a model is a
// constant; what is set after that is fed to every Run.
func (n *Node) SetTensor(t tensor.Tensor) error {
	b := n.backend
	if len(b.ops) > 0 && !n.input {
		n.input = true
		b.compiled = nil
	}
	n.t = t
	return nil
}

// GetTensor returns the value: what was set, or what the last Run computed.
// Asking for a value that is neither fed nor final computes it, and makes it
// a result of every Run to come; if that fails it is nil.
func (n *Node) GetTensor() tensor.Tensor {
	if n.op && !n.wanted {
		n.wanted = true
		if n.stale {
			n.backend.compiled = nil
			if err := n.backend.Run(); err != nil {
				return nil
			}
		}
	}
	return n.t
}

// Run computes the values of the outputs from those of the inputs.
func (b *Backend) Run() error { return b.RunContext(context.Background()) }

// RunContext is Run with a context that can cancel it.
func (b *Backend) RunContext(ctx context.Context) error {
	if err := b.run(ctx); err != nil {
		return fmt.Errorf("onnxgo: %w", err)
	}
	return nil
}

func (b *Backend) run(ctx context.Context) error {
	if b.compiled == nil {
		if err := b.compile(); err != nil {
			return err
		}
	}
	feeds := make(map[string]tensor.Tensor, len(b.fed))
	for _, n := range b.fed {
		feeds[n.key()] = n.t
	}
	out, err := b.compiled.Run(ctx, feeds)
	if err != nil {
		return err
	}
	for _, n := range b.nodes {
		n.stale = n.op
	}
	for _, n := range b.given {
		n.t, n.stale = out[n.key()], false
	}
	return nil
}

// key is the node's name in the model that is compiled: names in the file
// need not be set, or be different.
func (n *Node) key() string { return n.name + "#" + strconv.FormatInt(n.id, 10) }

// compile builds the model anew.
func (b *Backend) compile() error {
	if b.opset == 0 {
		return errors.New("the opset is not known: use New(Opset(n)), n from OpsetOf")
	}
	m := graph.NewModel("onnx-go", 8, b.opset)
	g := m.Graph
	values := map[*Node]*graph.Value{}
	b.fed, b.given = nil, nil
	for _, n := range b.nodes {
		switch {
		case n.op || n.t == nil:
		case n.input:
			values[n] = g.AddInput(n.key(), nil)
			b.fed = append(b.fed, n)
		default:
			t, err := runtime.FromDense(n.t)
			if err != nil {
				return fmt.Errorf("value %q: %w", n.name, err)
			}
			c, err := runtime.ToGraphTensor(t)
			if err != nil {
				return fmt.Errorf("value %q: %w", n.name, err)
			}
			values[n] = g.AddInitializer(n.key(), c)
		}
	}
	for _, o := range b.ops {
		var names []string
		for _, n := range o.outputs {
			if n.name == "" {
				names = append(names, "")
			} else {
				names = append(names, n.key())
			}
		}
		x := g.NewNode("", o.Name, "", nil, names)
		for i, v := range x.Outputs() {
			if v != nil {
				values[o.outputs[i]] = v
			}
		}
		for name, v := range o.Attributes {
			a, err := attribute(name, v)
			if err != nil {
				return fmt.Errorf("operation %s: %w", o.Name, err)
			}
			x.SetAttr(a)
		}
	}
	for i, o := range b.ops {
		if withoutInputs[o.Name] {
			continue // onnx-go makes one up
		}
		x := g.Nodes()[i]
		for k, n := range o.outputs[0].inputs {
			if n == nil || n.name == "" {
				continue
			}
			v := values[n]
			if v == nil {
				return fmt.Errorf("operation %s: input %q has no value: set it with SetInput", o.Name, n.name)
			}
			x.SetInput(k, v)
		}
	}
	if err := g.Sort(); err != nil {
		return err
	}
	for _, n := range b.nodes {
		if n.op && n.name != "" && (len(n.readers) == 0 || n.wanted) {
			g.AddOutput(values[n], nil)
			b.given = append(b.given, n)
		}
	}
	p, err := runtime.Compile(m, b.options)
	if err != nil {
		return err
	}
	b.compiled = p.NewSession(b.session)
	return nil
}

// withoutInputs are the operators that have none, for which onnx-go's decoder
// makes up an input without a value.
var withoutInputs = map[string]bool{
	"Constant": true, "RandomNormal": true, "RandomUniform": true, "SequenceEmpty": true,
}

func attribute(name string, v any) (*graph.Attr, error) {
	switch v := v.(type) {
	case float32:
		return graph.FloatAttr(name, v), nil
	case int64:
		return graph.IntAttr(name, v), nil
	case string:
		return graph.StringAttr(name, v), nil
	case []float32:
		return graph.FloatsAttr(name, v), nil
	case []int64:
		return graph.IntsAttr(name, v...), nil
	case []string:
		a := &graph.Attr{Name: name, Type: graph.AttrStrings}
		for _, s := range v {
			a.Strings = append(a.Strings, []byte(s))
		}
		return a, nil
	case tensor.Tensor:
		t, err := runtime.FromDense(v)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		c, err := runtime.ToGraphTensor(t)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		return graph.TensorAttr(name, c), nil
	}
	return nil, fmt.Errorf("attribute %q is %T, which onnx-go should not give", name, v)
}

// ApplyOperation notes that op computes the nodes ns from those that they
// have edges to.
func (b *Backend) ApplyOperation(op onnx.Operation, ns ...gonum.Node) error {
	if len(ns) == 0 {
		return fmt.Errorf("onnxgo: operation %s has no output", op.Name)
	}
	o := operation{Operation: op}
	for _, n := range ns {
		n, ok := n.(*Node)
		if !ok || n.backend != b {
			return fmt.Errorf("onnxgo: operation %s: node is not one of this backend", op.Name)
		}
		n.op, n.t, n.stale = true, nil, true
		o.outputs = append(o.outputs, n)
	}
	b.ops = append(b.ops, o)
	b.compiled = nil
	return nil
}

// What follows implements gonum's graph.DirectedWeightedBuilder.

// edge goes from an output to an input of the operation that computes it; its
// weight is the input's index.
type edge struct {
	from, to *Node
	weight   float64
}

func (e edge) From() gonum.Node         { return e.from }
func (e edge) To() gonum.Node           { return e.to }
func (e edge) Weight() float64          { return e.weight }
func (e edge) ReversedEdge() gonum.Edge { return edge{e.to, e.from, e.weight} }

// NewNode returns a node that is not yet in the graph.
func (b *Backend) NewNode() gonum.Node { return &Node{backend: b, id: int64(len(b.nodes))} }

// AddNode adds a node made by NewNode; it panics if one of its ID is there.
func (b *Backend) AddNode(n gonum.Node) {
	if n.ID() != int64(len(b.nodes)) {
		panic(fmt.Sprintf("onnxgo: node %d added as number %d", n.ID(), len(b.nodes)))
	}
	b.nodes = append(b.nodes, n.(*Node))
}

// NewWeightedEdge returns the edge that says: input number weight of from is
// to.
func (b *Backend) NewWeightedEdge(from, to gonum.Node, weight float64) gonum.WeightedEdge {
	return edge{from.(*Node), to.(*Node), weight}
}

// SetWeightedEdge adds an edge. Unlike most graphs this one keeps several
// edges between the same nodes, if their weights differ: an operation may read
// a value more than once.
func (b *Backend) SetWeightedEdge(e gonum.WeightedEdge) {
	from, to, i := e.From().(*Node), e.To().(*Node), int(e.Weight())
	for len(from.inputs) <= i {
		from.inputs = append(from.inputs, nil)
	}
	from.inputs[i] = to
	for _, r := range to.readers {
		if r == from {
			return
		}
	}
	to.readers = append(to.readers, from)
}

func (b *Backend) node(id int64) *Node {
	if id < 0 || id >= int64(len(b.nodes)) {
		return nil
	}
	return b.nodes[id]
}

// Node returns the node of that ID, nil if there is none.
func (b *Backend) Node(id int64) gonum.Node {
	if n := b.node(id); n != nil {
		return n
	}
	return nil
}

func nodes(list []*Node) gonum.Nodes {
	var out []gonum.Node
	seen := map[*Node]bool{nil: true}
	for _, n := range list {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	if out == nil {
		return gonum.Empty
	}
	return iterator.NewOrderedNodes(out)
}

// Nodes returns all nodes.
func (b *Backend) Nodes() gonum.Nodes { return nodes(b.nodes) }

// From returns what a node is computed from.
func (b *Backend) From(id int64) gonum.Nodes {
	if n := b.node(id); n != nil {
		return nodes(n.inputs)
	}
	return gonum.Empty
}

// To returns the nodes that are computed from a node.
func (b *Backend) To(id int64) gonum.Nodes {
	if n := b.node(id); n != nil {
		return nodes(n.readers)
	}
	return gonum.Empty
}

// Edge returns the first edge from u to v, nil if there is none.
func (b *Backend) Edge(u, v int64) gonum.Edge {
	if n := b.node(u); n != nil {
		for i, m := range n.inputs {
			if m != nil && m.id == v {
				return edge{n, m, float64(i)}
			}
		}
	}
	return nil
}

// HasEdgeFromTo reports whether u is computed from v.
func (b *Backend) HasEdgeFromTo(u, v int64) bool { return b.Edge(u, v) != nil }

// HasEdgeBetween reports whether one of two nodes is computed from the other.
func (b *Backend) HasEdgeBetween(x, y int64) bool {
	return b.HasEdgeFromTo(x, y) || b.HasEdgeFromTo(y, x)
}
