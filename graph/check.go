package graph

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// What must hold for a model. Check reports every breach as an error, except
// for what is marked "note", which models in the wild do and runtimes accept.
//
// Objects
//   - Every graph belongs to the model, and a nested one to the node and
//     attribute that hold it.
//   - A node knows its graph; an attribute of a type holds a value of it, and
//     its name occurs once.
//   - A value is defined once, in one graph: as an input, as an initializer
//     (or both), or as one output of one node; the graph finds it by its name.
//   - Def and use are reciprocal: a value lists exactly the node inputs that
//     read it, those in nested graphs included.
//
// Names
//   - Names of values are unique in a graph and not empty.
//   - What a node or output reads is what its name means at that place.
//   - A nested graph does not reuse a name of the graphs around it (note).
//
// Order
//   - A value is defined before it is read: by an earlier node of the same
//     graph, or in a graph around it by a node before the one that holds the
//     nested graph. There is no cycle.
//   - Functions do not call each other in a cycle.
//
// Interfaces
//   - Every output of a graph is defined in it. A nested graph may give out a
//     value of a graph around it (note).
//   - Inputs and outputs of the main graph have a type (note).
//   - The branches of If take nothing and give what the node gives; the bodies
//     of Loop and Scan take and give what the operator asks for.
//   - A call of a model-local function has no more inputs and outputs than
//     the function, and only attributes that it declares; attributes without
//     a default are set.
//
// Operators, by the signature in force at the imported opset; an operator
// without a known signature may be used in any way. For domains outside ONNX,
// whose signatures change without a new version, all of these are notes.
//   - The domain of every node is imported, once.
//   - Inputs and outputs are as many as the signature says, and none that is
//     required is left out.
//   - Attributes are known (those that begin with "__" are free), of the right
//     type, and set if required. References to function attributes stand in
//     functions that declare the attribute.
//   - Types fit the signature's constraints, one type a constraint, wherever
//     they are known.
//   - Deprecated operators are not used (note).
//
// Data
//   - A tensor has the bytes that its element type and dims ask for; an element
//     type that is not known asks for nothing (note).
//   - Sparse tensors have [nnz] values and [nnz] or [nnz, rank] indices.
//   - An initializer has the type that is declared for it.

// maxProblems is how many problems a CheckError spells out.
const maxProblems = 20

// CheckError lists what does not hold.
type CheckError struct {
	Problems []string // the first twenty, each naming graph, node and operator
	Total    int      // how many there are
}

func (e *CheckError) Error() string {
	s := "check: " + e.Problems[0]
	if e.Total > 1 {
		s += fmt.Sprintf(" (and %d more)", e.Total-1)
	}
	return s
}

// Check verifies what must hold for a model: that objects belong to each other and
// def and use agree, that names are unique and mean what is read, that values are
// defined before they are read, that interfaces of nested graphs and calls fit,
// that operators have the inputs, outputs, attributes and types of their
// signatures, and that constants have the bytes their types ask for. The list is at
// the top of check.go. An error is a *[CheckError].
//
// It takes time linear in the size of the graph, does not read weights, and
// changes nothing. It does not infer types: call [Infer] first for it to see more.
func Check(m *Model) error {
	c := check(m)
	if c.errors.Total == 0 {
		return nil
	}
	return &c.errors
}

// Notes lists what is unusual in a model and yet no error of [Check], since models
// in the wild have it and runtimes accept it: inputs of the main graph without a
// type, names that nested graphs use again, deprecated operators, and the like. It
// lists the first 200.
func Notes(m *Model) []string { return check(m).notes }

type checker struct {
	model     *Model
	errors    CheckError
	notes     []string
	functions map[[3]string]*Function
	open      map[*Graph]bool // the graph at hand and those around it
	defined   map[*Value]bool // values defined so far
	edges     map[Use]*Value  // uses that values list and no node was met for yet
	unordered map[*Graph]bool // graphs whose order was reported
	graph     *Graph          // at hand, for messages
}

func check(m *Model) *checker {
	c := &checker{model: m, functions: map[[3]string]*Function{}, open: map[*Graph]bool{}, defined: map[*Value]bool{},
		edges: map[Use]*Value{}, unordered: map[*Graph]bool{}}
	if m.Graph == nil {
		c.errorf("the model has no graph")
		return c
	}
	c.imports(m.Opsets)
	for _, f := range m.Functions {
		key := functionKey(f.Domain, f.Name, f.Overload)
		if c.functions[key] != nil {
			c.errorf("function %s.%s is defined twice", f.Domain, f.Name)
		}
		c.functions[key] = f
	}
	m.Graphs(func(g *Graph) bool {
		for _, v := range g.ownValues() {
			for _, u := range v.uses {
				if w := c.edges[u]; w != nil {
					c.errorf("value %q lists a use by %v that value %q lists too", v.Name, u.Node, w.Name)
				}
				c.edges[u] = v
			}
		}
		return true
	})
	c.topGraph(m.Graph, nil)
	for _, v := range slices.Concat(m.Graph.inputs, m.Graph.outputs) {
		if v.Type() == nil {
			c.notef("value %q: input or output of the model without a type", v.Name)
		}
	}
	for _, f := range m.Functions {
		if f.model != m {
			c.errorf("function %s.%s belongs to another model", f.Domain, f.Name)
		}
		c.imports(f.Opsets)
		c.topGraph(f.Graph, f)
	}
	c.recursion()
	if len(c.edges) > 0 {
		m.Graphs(func(g *Graph) bool {
			for _, v := range g.ownValues() {
				for _, u := range v.uses {
					if c.edges[u] == v {
						c.errorf("value %q lists a use by %v, which is not in the model or does not read it", v.Name, u.Node)
					}
				}
			}
			return true
		})
	}
	return c
}

func functionKey(domain, name, overload string) [3]string {
	return [3]string{NormalDomain(domain), name, overload}
}

func (c *checker) report(note bool, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if c.graph != nil {
		msg = c.place() + msg
	}
	if note {
		if len(c.notes) < 10*maxProblems {
			c.notes = append(c.notes, msg)
		}
		return
	}
	if c.errors.Total++; len(c.errors.Problems) < maxProblems {
		c.errors.Problems = append(c.errors.Problems, msg)
	}
}

func (c *checker) errorf(format string, args ...any) { c.report(false, format, args...) }
func (c *checker) notef(format string, args ...any)  { c.report(true, format, args...) }

// place names the function and the nested graph at hand, for messages; the
// main graph needs no name.
func (c *checker) place() string {
	s := ""
	if f := c.graph.fn; f != nil {
		s = fmt.Sprintf("function %s.%s: ", f.Domain, f.Name)
	}
	if h := c.graph.holder; h != nil {
		s += fmt.Sprintf("in %v, graph %q: ", h, c.graph.Name)
	}
	return s
}

func (c *checker) imports(list []Opset) {
	for i, o := range list {
		for _, p := range list[:min(i, 100)] {
			if NormalDomain(o.Domain) == NormalDomain(p.Domain) {
				c.report(o.Version == p.Version, "domain %q is imported twice, at opset %d and %d", o.Domain, p.Version, o.Version)
			}
		}
	}
}

// topGraph checks the main graph or the body of a function.
func (c *checker) topGraph(g *Graph, f *Function) {
	if g == nil {
		c.errorf("function %s.%s has no graph", f.Domain, f.Name)
		return
	}
	if g.holder != nil {
		c.errorf("graph %q is held by a node", g.Name)
	}
	c.checkGraph(g, f)
	c.graph = nil
}

func (c *checker) checkGraph(g *Graph, f *Function) {
	c.graph = g
	if c.open[g] {
		c.errorf("the graph is nested in itself")
		return
	}
	c.open[g] = true
	defer delete(c.open, g)
	if g.model != c.model || g.fn != f {
		c.errorf("the graph belongs to another model or function")
	}
	owned := 0
	define := func(v *Value, as string) {
		switch {
		case v.Name == "":
			c.errorf("%s without a name", as)
		case v.graph != g || g.values[v.Name] != v:
			c.errorf("%s %q is not what the graph finds by that name: the name is used twice", as, v.Name)
		case c.defined[v]:
			c.errorf("%s %q is defined twice", as, v.Name)
		}
		if outer := g.Outer(); outer != nil && outer.Lookup(v.Name) != nil {
			c.notef("%s %q has the name of a value around it", as, v.Name)
		}
		c.defined[v] = true
		owned++
	}
	for _, v := range g.inputs {
		define(v, "input")
		if !v.input || v.def != nil {
			c.errorf("input %q is not marked as one, or computed by a node too", v.Name)
		}
	}
	for _, v := range g.inits {
		if !v.input {
			define(v, "initializer")
		}
		c.initializer(v)
	}
	for _, n := range g.nodes {
		c.graph = g
		c.node(n, g)
		for i, v := range n.outputs {
			if v == nil {
				continue
			}
			define(v, "value")
			if v.def != n || v.defIndex != i || v.input || v.IsInitializer() {
				c.errorf("%v: output %q is also defined elsewhere", n, v.Name)
			}
		}
	}
	c.graph = g
	for i, v := range g.outputs {
		switch {
		case v == nil:
			c.errorf("output %d is missing", i)
		case !c.open[v.graph] || !c.defined[v] || g.Lookup(v.Name) != v:
			c.errorf("output %q is not defined in the graph", v.Name)
		case v.graph != g:
			c.notef("output %q is a value of a graph around it; some runtimes want an Identity between", v.Name)
		}
	}
	if owned != len(g.values) {
		c.errorf("the graph finds %d values by name and defines %d", len(g.values), owned)
	}
}

func (c *checker) initializer(v *Value) {
	if (v.Const == nil) == (v.Sparse == nil) {
		c.errorf("initializer %q needs a tensor, either dense or sparse", v.Name)
		return
	}
	if v.Sparse != nil {
		if err := v.Sparse.check(); err != nil {
			c.errorf("initializer %q: %v", v.Name, err)
		}
		return
	}
	if err := v.Const.check(); err != nil {
		c.errorf("initializer %q: %v", v.Name, err)
		return
	}
	if d := v.Const.DType; !d.Known() {
		c.notef("initializer %q has the element type %v, which is not known", v.Name, d)
	}
	t := v.Declared
	if t == nil || t.Kind == KindUnknown {
		return
	}
	dims := make([]Dim, len(v.Const.Dims))
	for i, d := range v.Const.Dims {
		dims[i] = Known(d)
	}
	if actual := TensorType(v.Const.DType, dims...); !t.compatible(actual) {
		c.errorf("initializer %q is a %v and declared as %v", v.Name, actual, t)
	}
}

// compatible reports whether one value can be of both types, dims that are
// not known being equal to any.
func (t *Type) compatible(u *Type) bool {
	if t == nil || u == nil || t.Kind == KindUnknown || u.Kind == KindUnknown {
		return true
	}
	if t.Kind != u.Kind || t.Elem != u.Elem && t.Elem != Undefined && u.Elem != Undefined || t.Key != u.Key {
		return false
	}
	if t.Shape != nil && u.Shape != nil {
		if len(t.Shape.Dims) != len(u.Shape.Dims) {
			return false
		}
		for i, a := range t.Shape.Dims {
			if b := u.Shape.Dims[i]; a.IsKnown() && b.IsKnown() && a.N != b.N {
				return false
			}
		}
	}
	return t.Sub.compatible(u.Sub)
}

// check verifies that dims and data agree; the data are not read.
func (t *Tensor) check() error {
	n, ok := NumElements(t.Dims)
	if !ok {
		return fmt.Errorf("tensor with dims %v: they are negative or overflow", t.Dims)
	}
	if !t.DType.Known() {
		return nil
	}
	have := int64(len(t.raw))
	want, _ := t.DType.ByteSize(n)
	switch {
	case t.DType == String:
		have, want = int64(len(t.strs)), n
	case t.inFile != nil:
		have = t.inFile.length
	case t.external != nil && t.external.Length > 0:
		have = t.external.Length
	case t.external != nil: // the file's end decides
		return nil
	}
	if want != have || want == 0 && n > 0 {
		return fmt.Errorf("tensor %v%v has %d elements (%d bytes), and data of %d", t.DType, t.Dims, n, want, have)
	}
	return nil
}

func (s *SparseTensor) check() error {
	if s.Values == nil || s.Indices == nil {
		return fmt.Errorf("sparse tensor without values or indices")
	}
	if _, ok := NumElements(s.Dims); !ok {
		return fmt.Errorf("sparse tensor with dims %v: they are negative or overflow", s.Dims)
	}
	for _, t := range []*Tensor{s.Values, s.Indices} {
		if err := t.check(); err != nil {
			return err
		}
	}
	nnz, in := s.Values.Len(), s.Indices.Dims
	if len(s.Values.Dims) != 1 || s.Indices.DType != Int64 ||
		!(len(in) == 1 && in[0] == nnz || len(in) == 2 && in[0] == nnz && in[1] == int64(len(s.Dims))) {
		return fmt.Errorf("sparse tensor %v with values %v and %v indices %v, want int64 [%d] or [%d,%d]",
			s.Dims, s.Values.Dims, s.Indices.DType, in, nnz, nnz, len(s.Dims))
	}
	return nil
}

func (c *checker) node(n *Node, g *Graph) {
	if n.graph != g {
		c.errorf("%v belongs to another graph", n)
	}
	for i, v := range n.inputs {
		if v == nil {
			continue
		}
		if c.edges[Use{n, i}] != v {
			c.errorf("%v: input %d reads %q, which does not list that use", n, i, v.Name)
		}
		delete(c.edges, Use{n, i})
		switch {
		case v.graph == nil || !c.open[v.graph]:
			c.errorf("%v: input %d reads %q, which no graph around the node defines", n, i, v.Name)
		case g.Lookup(v.Name) != v:
			c.errorf("%v: input %d reads %q, but that name means another value there", n, i, v.Name)
		case !c.defined[v]:
			c.order(n, i, v)
		}
	}
	c.attributes(n)
	c.operator(n)
	for _, s := range n.Subgraphs() {
		if s == nil {
			continue
		}
		if s.holder != n {
			c.errorf("%v: graph %q is held by another node", n, s.Name)
		}
		c.checkGraph(s, g.fn)
		c.graph = g
	}
}

// order reports a value that is read before it is defined: a cycle if there
// is one, once a graph.
func (c *checker) order(n *Node, i int, v *Value) {
	if !c.unordered[v.graph] {
		c.unordered[v.graph] = true
		if _, err := v.graph.sorted(); err != nil {
			c.errorf("%v", err)
			return
		}
	}
	c.errorf("%v: input %d reads %q before it is defined; the nodes need to be sorted", n, i, v.Name)
}

// attributes checks what holds for attributes of any operator.
func (c *checker) attributes(n *Node) {
	var seen map[string]bool
	if len(n.Attrs) > 8 {
		seen = make(map[string]bool, len(n.Attrs))
	}
	for i, a := range n.Attrs {
		twice := seen[a.Name]
		if seen != nil {
			seen[a.Name] = true
		} else {
			twice = slices.ContainsFunc(n.Attrs[:i], func(b *Attr) bool { return b.Name == a.Name })
		}
		if twice {
			c.errorf("%v: attribute %q is set twice", n, a.Name)
		}
		if a.Ref != "" {
			f := n.graph.fn
			if f == nil {
				c.errorf("%v: attribute %q refers to %q outside of a function", n, a.Name, a.Ref)
			} else if !f.declares(a.Ref) {
				c.errorf("%v: attribute %q refers to %q, which the function does not declare", n, a.Name, a.Ref)
			}
			continue
		}
		if err := a.check(); err != nil {
			c.errorf("%v: attribute %q: %v", n, a.Name, err)
		}
	}
}

func (f *Function) declares(attr string) bool {
	return slices.Contains(f.AttrNames, attr) || slices.ContainsFunc(f.AttrDefaults, func(a *Attr) bool { return a.Name == attr })
}

// check verifies that the value that the type asks for is there.
func (a *Attr) check() error {
	missing := false
	tensors, sparses := a.Tensors, a.Sparses
	switch a.Type {
	case AttrTensor:
		missing, tensors = a.T == nil, []*Tensor{a.T}
	case AttrGraph:
		missing = a.G == nil
	case AttrSparse:
		missing, sparses = a.Sparse == nil, []*SparseTensor{a.Sparse}
	case AttrTypeProto:
		missing = a.TP == nil
	}
	missing = missing || slices.Contains(a.Graphs, nil) || slices.Contains(tensors, nil) || slices.Contains(sparses, nil)
	if missing {
		return fmt.Errorf("is of type %v and has no such value", a.Type)
	}
	for _, t := range tensors {
		if err := t.check(); err != nil {
			return err
		}
	}
	for _, s := range sparses {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

// operator checks a node against its function or signature.
func (c *checker) operator(n *Node) {
	if n.Op == "" {
		c.errorf("%v has no operator", n)
		return
	}
	version, imported := n.graph.Opset(n.Domain)
	if f := c.functions[functionKey(n.Domain, n.Op, n.Overload)]; f != nil {
		c.call(n, f)
	} else if s, ok := LookupSchema(n.Domain, n.Op, version); ok {
		c.signature(n, s)
	}
	if !imported {
		// ONNX Runtime imports the domains it knows by itself, and writers
		// of its own operators often rely on that.
		note := strings.HasPrefix(n.Domain, "com.microsoft") || strings.HasPrefix(n.Domain, "ai.onnx.")
		c.report(note, "%v: domain %q is not imported", n, n.Domain)
	}
	c.controlFlow(n)
}

func (c *checker) call(n *Node, f *Function) {
	if f.Graph == nil {
		return // reported with the function
	}
	if len(n.inputs) > len(f.Graph.inputs) || len(n.outputs) > len(f.Graph.outputs) {
		c.errorf("%v has %d inputs and %d outputs, the function %d and %d", n,
			len(n.inputs), len(n.outputs), len(f.Graph.inputs), len(f.Graph.outputs))
	}
	for _, a := range n.Attrs {
		if !f.declares(a.Name) {
			c.errorf("%v: the function has no attribute %q", n, a.Name)
		}
	}
	for _, name := range f.AttrNames {
		if n.Attr(name) == nil {
			// ONNX lets such an attribute stay unset in the body too.
			c.notef("%v: attribute %q of the function is not set", n, name)
		}
	}
}

// isStandard reports whether a domain is ONNX's, where signatures are final.
func isStandard(domain string) bool { return NormalDomain(domain) == "" || domain == "ai.onnx.ml" }

func (c *checker) signature(n *Node, s *Schema) {
	note := !isStandard(s.Domain)
	if s.Deprecated {
		c.notef("%v is deprecated since opset %d", n, s.Since)
	}
	c.arity(n, note, "input", n.inputs, s.MinInputs, s.MaxInputs, s.Input)
	c.arity(n, note, "output", n.outputs, s.MinOutputs, s.MaxOutputs, s.Output)
	for _, a := range n.Attrs {
		spec := s.Attr(a.Name)
		switch {
		case spec == nil && len(a.Name) > 2 && a.Name[:2] == "__":
		case spec == nil:
			c.report(note, "%v: opset %d knows no attribute %q", n, s.Since, a.Name)
		case a.Type != spec.Type && !(a.Ref != "" && a.Type == AttrUndefined):
			c.report(note, "%v: attribute %q is of type %v, want %v", n, a.Name, a.Type, spec.Type)
		}
	}
	for _, spec := range s.Attrs {
		if spec.Required && n.Attr(spec.Name) == nil {
			c.report(note, "%v: attribute %q is missing", n, spec.Name)
		}
	}
	var bound []binding
	bound = c.types(n, note, "input", n.inputs, s.Input, bound)
	c.types(n, note, "output", n.outputs, s.Output, bound)
}

func (c *checker) arity(n *Node, note bool, side string, args []*Value, least, most int, formal func(int) *Param) {
	count := len(args)
	for count > least && args[count-1] == nil {
		count-- // optional ones left out at the end
	}
	if count < least || count > most {
		want := fmt.Sprintf("%d to %d", least, most)
		switch {
		case least == most:
			want = fmt.Sprint(least)
		case most == maxArity:
			want = fmt.Sprintf("at least %d", least)
		}
		c.report(note, "%v has %d %ss, want %s", n, count, side, want)
	}
	for i, v := range args[:min(count, most)] {
		if p := formal(i); v == nil && p != nil && !p.Optional && !p.Variadic {
			c.report(note, "%v: %s %d (%s) is left out and is not optional", n, side, i, p.Name)
		}
	}
}

// binding is a type constraint with the type that the first value gave it.
type binding struct {
	constraint string
	typ        *Type
}

func (c *checker) types(n *Node, note bool, side string, args []*Value, formal func(int) *Param, bound []binding) []binding {
	for i, v := range args {
		p := formal(i)
		if v == nil || p == nil {
			continue
		}
		t := v.Type()
		if t == nil || t.Kind == KindUnknown || t.Kind == KindTensor && t.Elem == Undefined {
			continue
		}
		if !p.Allows(t) {
			name, _ := t.typeString()
			c.report(note, "%v: %s %d (%s) %q is a %s, which the operator does not take", n, side, i, p.Name, v.Name, name)
			continue
		}
		if p.Mixed {
			continue
		}
		k := slices.IndexFunc(bound, func(b binding) bool { return b.constraint == p.TypeStr })
		if k < 0 {
			bound = append(bound, binding{p.TypeStr, t})
			continue
		}
		if have := bound[k].typ; have.Kind != t.Kind || have.Elem != t.Elem {
			a, _ := t.typeString()
			b, _ := have.typeString()
			c.report(note, "%v: %s %d (%s) %q is a %s where other values are %s", n, side, i, p.Name, v.Name, a, b)
		}
	}
	return bound
}

// controlFlow checks the interfaces of nested graphs.
func (c *checker) controlFlow(n *Node) {
	if !n.Is("If", "Loop", "Scan") {
		return
	}
	match := func(attr string, inputs, outputs int) {
		a := n.Attr(attr)
		if a == nil || a.G == nil {
			return // reported by the signature
		}
		if len(a.G.inputs) != inputs || outputs >= 0 && len(a.G.outputs) != outputs {
			c.errorf("%v: %s has %d inputs and %d outputs, want %d and %d", n, attr, len(a.G.inputs), len(a.G.outputs), inputs, outputs)
		}
	}
	switch n.Op {
	case "If":
		for _, b := range []string{"then_branch", "else_branch"} {
			match(b, 0, len(n.outputs))
		}
	case "Loop":
		// inputs: trip count, condition, state; outputs: state, scans.
		// body: iteration, condition, state → condition, state, scans.
		match("body", len(n.inputs), len(n.outputs)+1)
	case "Scan":
		in := len(n.inputs)
		if n.Opset() < 9 {
			in-- // sequence_lens
		}
		if k := n.Int("num_scan_inputs", 0); k < 1 || k > math.MaxInt32 || int(k) > in {
			c.errorf("%v: %d of %d inputs are scanned", n, k, in)
		}
		match("body", in, len(n.outputs))
	}
}

// recursion reports a function that calls itself, directly or through others.
func (c *checker) recursion() {
	const working, done = 1, 2
	state := map[*Function]int{}
	var visit func(f *Function) bool
	visit = func(f *Function) bool {
		if state[f] != 0 {
			return state[f] == done
		}
		state[f] = working
		ok := true
		if f.Graph != nil {
			f.Graph.walk(func(g *Graph) bool {
				for _, n := range g.nodes {
					if callee := c.functions[functionKey(n.Domain, n.Op, n.Overload)]; callee != nil && !visit(callee) {
						ok = false
						break
					}
				}
				return ok
			})
		}
		state[f] = done
		return ok
	}
	for _, f := range c.model.Functions {
		if !visit(f) {
			c.errorf("function %s.%s calls itself", f.Domain, f.Name)
			return
		}
	}
}
