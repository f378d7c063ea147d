package runtime

import (
	"fmt"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// The compiler's own form of a graph. Lowering turns a graph.Model into it:
// functions inlined, attributes resolved, constant subexpressions computed.
// A value belongs to the scope that defines it; a constant belongs to all.

// scope is the main graph or the body of a control-flow node.
type scope struct {
	parent  *scope
	nodes   []*lnode
	inputs  []*lvalue
	outputs []*lvalue
	types   []*graph.Type // declared, of the outputs
}

// lvalue is a value of a scope.
type lvalue struct {
	name   string
	scope  *scope
	konst  *Tensor // its value where that is known
	pinned bool    // a probe reads it: fusion must leave it
	def    *lnode
	rank   int // -1 where the model does not say

	still  bool // the shapes of the program's inputs decide it, see still.go
	formed bool // they decide its shape
	param  int  // a constant that is trained: its number + 1
}

// lnode is one operator call.
type lnode struct {
	node
	version int64 // of its domain
	row     *operator
	in      []*lvalue // nil where left out
	out     []*lvalue // nil where left out
	scopes  map[string]*scope
	kernel  kernel // set by fusion, which then needs no operator
	fused   any    // what the kernel is the method of, for fusions that go on from there
	like    *lnode // whose kernel it has too
	live    bool
}

// env resolves the values of one graph while it is lowered: the main graph, a
// body, or an inlined function.
type env struct {
	outer  *env
	values map[*graph.Value]*lvalue
	attrs  map[string]*graph.Attr // of the function call; nil outside functions
	prefix string                 // in front of the names of inlined nodes
	calls  []*graph.Function      // being inlined, outermost first
}

func (e *env) find(v *graph.Value) *lvalue {
	for ; e != nil; e = e.outer {
		if l := e.values[v]; l != nil {
			return l
		}
	}
	return nil
}

type lowering struct {
	model   *graph.Model
	opts    *Options
	simd    *simd.Kernels
	missing missing
	probes  map[string]*graph.Value // values to pin
	named   map[*graph.Value]*lvalue
	fold    *folder
	nodes   int // lowered so far, for the bound on inlining
}

// maxNodes bounds what inlining may make of a model: functions that call
// functions can grow exponentially.
const maxNodes = 1 << 18

// graph lowers g's initializers and nodes into sc and returns its outputs.
func (l *lowering) graph(sc *scope, g *graph.Graph, e *env) ([]*lvalue, error) {
	for _, v := range g.Initializers() {
		t, err := constantOf(v)
		if err != nil {
			return nil, err
		}
		e.values[v] = l.known(v, e, t)
	}
	for _, n := range g.Nodes() {
		if err := l.node(sc, n, e); err != nil {
			return nil, err
		}
	}
	out := make([]*lvalue, len(g.Outputs()))
	for i, v := range g.Outputs() {
		if out[i] = e.find(v); out[i] == nil {
			return nil, fmt.Errorf("graph %q: output %q is not computed", g.Name, v.Name)
		}
	}
	return out, nil
}

// constantOf is the value of an initializer.
func constantOf(v *graph.Value) (*Tensor, error) {
	var t *Tensor
	var err error
	if v.Const != nil {
		t, err = FromGraphTensor(v.Const)
	} else {
		t, err = densify(v.Sparse)
	}
	if err != nil {
		return nil, fmt.Errorf("initializer %q: %w", v.Name, err)
	}
	return t, nil
}

// known makes the lowered form of a value that is constant.
func (l *lowering) known(v *graph.Value, e *env, t *Tensor) *lvalue {
	lv := &lvalue{name: e.prefix + v.Name, konst: t}
	l.track(v, lv)
	return lv
}

// track remembers what became of a value that a probe may name.
func (l *lowering) track(v *graph.Value, lv *lvalue) {
	if l.probes[v.Name] == v {
		lv.pinned = true
		l.named[v] = lv
	}
	if t := l.opts.training; t != nil && v.Graph() == l.model.Graph {
		if lv.param = t.names[v.Name]; lv.param > 0 {
			lv.formed = true
			t.konst[lv.param-1] = lv
		}
	}
}

func (l *lowering) node(sc *scope, n *graph.Node, e *env) error {
	if l.nodes++; l.nodes > maxNodes {
		return fmt.Errorf("%v: the model has more than %d nodes once its functions are inlined", n, maxNodes)
	}
	domain := graph.NormalDomain(n.Domain)
	ins := make([]*lvalue, len(n.Inputs()))
	for i, v := range n.Inputs() {
		if v == nil {
			continue
		}
		if ins[i] = e.find(v); ins[i] == nil {
			// A function call can leave an optional input of the body out.
			if v.IsInput() && g(v).Function() != nil {
				continue
			}
			return fmt.Errorf("%v: input %q is not computed before it", n, v.Name)
		}
	}
	attrs := resolve(n, e)
	version, imported := n.Graph().Opset(n.Domain)

	if f := l.model.Function(n.Domain, n.Op, n.Overload); f != nil && !l.ownKernel(n, version) {
		return l.inline(sc, n, f, ins, attrs, e)
	}

	x := &lnode{
		node: node{
			name: e.prefix + n.Name, op: n.Op, domain: domain, opset: int(version), attrs: attrs,
			simd: l.simd, bodyRun: l.opts.Bodies,
		},
		version: version,
		in:      ins,
	}
	if n.Name == "" {
		if len(n.Outputs()) > 0 && n.Outputs()[0] != nil {
			x.name = e.prefix + "→" + n.Outputs()[0].Name
		}
	}
	op, ok := lookup(domain, n.Op, version)
	x.row = op

	// An If whose condition is known is the branch that it takes.
	if domain == "" && n.Op == "If" && ok && len(ins) == 1 && ins[0] != nil && ins[0].konst != nil {
		if t := ins[0].konst; t.DType == graph.Bool && t.Len() == 1 {
			name := "else_branch"
			if t.Bools()[0] {
				name = "then_branch"
			}
			if a := x.attr(name, graph.AttrGraph); a != nil && a.G != nil {
				return l.branch(sc, n, a.G, e)
			}
		}
	}

	if l.opts.training != nil && ok {
		for _, v := range n.Outputs() {
			x.wanted = append(x.wanted, v != nil)
		}
		if outs, defined, err := l.define(sc, x); defined {
			if err != nil {
				return fmt.Errorf("%s: %w", x.title(), err)
			}
			return l.bind(n, outs, e)
		}
	}

	for _, v := range n.Outputs() {
		if v == nil {
			x.out = append(x.out, nil)
			continue
		}
		lv := &lvalue{name: e.prefix + v.Name, scope: sc, def: x, rank: v.Type().Rank()}
		l.track(v, lv)
		x.out = append(x.out, lv)
		e.values[v] = lv
	}
	for _, a := range attrs {
		if a.G == nil {
			continue
		}
		sub, err := l.body(sc, a.G, e)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", x.title(), a.Name, err)
		}
		if x.scopes == nil {
			x.scopes = map[string]*scope{}
		}
		x.scopes[a.Name] = sub
	}
	if ok && len(x.scopes) == 0 && l.fold.try(x) {
		return nil
	}
	if !ok {
		l.missing.add(x, version, imported)
	}
	if sc.parent == nil {
		x.settle()
	}
	sc.nodes = append(sc.nodes, x)
	return nil
}

func g(v *graph.Value) *graph.Graph { return v.Graph() }

func (x *lnode) title() string {
	op := x.op
	if x.domain != "" {
		op = x.domain + "." + op
	}
	return fmt.Sprintf("node %q (%s)", x.name, op)
}

// body lowers a subgraph into a scope of its own.
func (l *lowering) body(parent *scope, g *graph.Graph, e *env) (*scope, error) {
	sc := &scope{parent: parent}
	in := &env{outer: e, values: map[*graph.Value]*lvalue{}, attrs: e.attrs, prefix: e.prefix, calls: e.calls}
	for _, v := range g.Inputs() {
		lv := &lvalue{name: e.prefix + v.Name, scope: sc, rank: v.Type().Rank()}
		l.track(v, lv)
		in.values[v] = lv
		sc.inputs = append(sc.inputs, lv)
	}
	var err error
	sc.outputs, err = l.graph(sc, g, in)
	for _, v := range g.Outputs() {
		sc.types = append(sc.types, v.Type())
	}
	return sc, err
}

// branch lowers a branch in place of its If.
func (l *lowering) branch(sc *scope, n *graph.Node, g *graph.Graph, e *env) error {
	in := &env{outer: e, values: map[*graph.Value]*lvalue{}, attrs: e.attrs, prefix: e.prefix, calls: e.calls}
	outs, err := l.graph(sc, g, in)
	if err != nil {
		return err
	}
	return l.bind(n, outs, e)
}

// inline lowers the body of a function in place of a call of it.
func (l *lowering) inline(sc *scope, n *graph.Node, f *graph.Function, ins []*lvalue, attrs []*graph.Attr, e *env) error {
	for _, c := range e.calls {
		if c == f {
			return fmt.Errorf("%v: function %s calls itself", n, f.Name)
		}
	}
	in := &env{
		values: map[*graph.Value]*lvalue{},
		attrs:  map[string]*graph.Attr{},
		prefix: e.prefix + n.Name + "/",
		calls:  append(e.calls[:len(e.calls):len(e.calls)], f),
	}
	for _, d := range f.AttrDefaults {
		in.attrs[d.Name] = d
	}
	for _, a := range attrs {
		in.attrs[a.Name] = a
	}
	if len(ins) > len(f.Graph.Inputs()) {
		return fmt.Errorf("%v: %d inputs, function %s takes %d", n, len(ins), f.Name, len(f.Graph.Inputs()))
	}
	for i, v := range f.Graph.Inputs() {
		if i < len(ins) && ins[i] != nil {
			in.values[v] = ins[i]
		}
	}
	outs, err := l.graph(sc, f.Graph, in)
	if err != nil {
		return fmt.Errorf("%v: %w", n, err)
	}
	return l.bind(n, outs, e)
}

// bind makes outs the outputs of n.
func (l *lowering) bind(n *graph.Node, outs []*lvalue, e *env) error {
	if len(n.Outputs()) > len(outs) {
		return fmt.Errorf("%v: %d outputs, its body gives %d", n, len(n.Outputs()), len(outs))
	}
	for i, v := range n.Outputs() {
		if v != nil {
			if outs[i] == nil {
				return fmt.Errorf("%v: output %d is not computed", n, i)
			}
			e.values[v] = outs[i]
			if outs[i].rank < 0 {
				outs[i].rank = v.Type().Rank()
			}
			l.track(v, outs[i])
		}
	}
	return nil
}

// ownKernel reports whether a call of a function of lathe's own domain is one
// that a kernel here computes; any other runs the function's body.
func (l *lowering) ownKernel(n *graph.Node, version int64) bool {
	if l.opts.Bodies || n.Domain != graph.LatheDomain {
		return false
	}
	op, ok := lookup(n.Domain, n.Op, version)
	if !ok {
		return false
	}
	known := latheAttrs[op.name]
	for _, a := range n.Attrs {
		if !strings.Contains(known, " "+a.Name+" ") {
			return false
		}
	}
	return version >= 1 && version <= graph.LatheVersion
}

// latheAttrs has the attributes that the kernels of domain lathe understand.
var latheAttrs = map[string]string{
	"BlockCirculantMatMul": " out_features ",
	"BlockCirculantConv":   " out_channels auto_pad dilations group kernel_shape pads strides ",

	"BlockCirculantMatMulInt16": " rounding ",
	"BlockCirculantConvInt16":   " auto_pad dilations group kernel_shape pads rounding strides ",
	"ConvInt16":                 " auto_pad dilations group kernel_shape pads strides ",
	"MaxPoolInt16":              " auto_pad ceil_mode dilations kernel_shape pads storage_order strides ",
	"AveragePoolInt16":          " auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides ",
}

// resolve returns the attributes of n with references to those of the
// enclosing function replaced; one that the call does not give is left out.
func resolve(n *graph.Node, e *env) []*graph.Attr {
	out := n.Attrs
	for i, a := range n.Attrs {
		if a.Ref == "" {
			continue
		}
		out = append([]*graph.Attr(nil), n.Attrs[:i]...)
		for _, a := range n.Attrs[i:] {
			if a.Ref == "" {
				out = append(out, a)
				continue
			}
			if v := e.attrs[a.Ref]; v != nil {
				w := *v
				w.Name, w.Ref = a.Name, ""
				out = append(out, &w)
			}
		}
		break
	}
	return out
}

// missing collects operators without a kernel.
type missing struct {
	nodes []*lnode
	notes map[*lnode]string
}

func (m *missing) add(x *lnode, version int64, imported bool) {
	if m.notes == nil {
		m.notes = map[*lnode]string{}
	}
	m.nodes = append(m.nodes, x)
	if imported {
		m.notes[x] = fmt.Sprintf("opset %d", version)
	} else {
		m.notes[x] = "its domain is not imported"
	}
}

// err names every operator that is missing and live, each once with the first
// node that needs it.
func (m *missing) err() error {
	seen := map[string]bool{}
	var list []string
	for _, x := range m.nodes {
		if !x.live {
			continue
		}
		name := x.op
		if x.domain != "" {
			name = x.domain + "." + x.op
		}
		key := name + m.notes[x]
		if !seen[key] {
			seen[key] = true
			list = append(list, fmt.Sprintf("%s (%s, node %q)", name, m.notes[x], x.name))
		}
	}
	if list == nil {
		return nil
	}
	return fmt.Errorf("no kernel for %s", strings.Join(list, ", "))
}

// densify is the dense form of a sparse initializer.
func densify(s *graph.SparseTensor) (*Tensor, error) {
	if s == nil || s.Values == nil || s.Indices == nil {
		return nil, fmt.Errorf("sparse tensor without values or indices")
	}
	vals, err := FromGraphTensor(s.Values)
	if err != nil {
		return nil, err
	}
	idx, err := s.Indices.Int64s()
	if err != nil {
		return nil, err
	}
	shape := make([]int, len(s.Dims))
	for i, d := range s.Dims {
		shape[i] = int(d)
	}
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	w := elemSize(vals.DType)
	if w == 0 {
		return nil, wrongType(vals.DType)
	}
	if n > maxSparse/w {
		return nil, fmt.Errorf("sparse tensor of shape %v is too large to be made dense", shape)
	}
	out, err := newTensor(vals.DType, shape)
	if err != nil {
		return nil, err
	}
	nnz := vals.Len()
	rank := 1
	if len(s.Indices.Dims) == 2 {
		rank = int(s.Indices.Dims[1])
	}
	if rank != 1 && rank != len(shape) || len(idx) != nnz*rank {
		return nil, fmt.Errorf("sparse tensor: %d indices for %d values of rank %d", len(idx), nnz, len(shape))
	}
	linear := len(s.Indices.Dims) == 1 || len(shape) == 1
	for i := range nnz {
		at := 0
		if linear {
			at = int(idx[i])
		} else {
			for k, d := range shape {
				j := int(idx[i*rank+k])
				if j < 0 || j >= d {
					return nil, fmt.Errorf("sparse tensor: index %d is out of range for shape %v", j, shape)
				}
				at = at*d + j
			}
		}
		if at < 0 || at >= n {
			return nil, fmt.Errorf("sparse tensor: index %d is out of range for shape %v", at, shape)
		}
		copy(out.mem[at*w:(at+1)*w], vals.mem[i*w:(i+1)*w])
	}
	return out, nil
}

// maxSparse bounds the bytes of a sparse initializer made dense: its dims
// cost nothing in the file.
const maxSparse = 1 << 30
