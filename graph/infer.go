package graph

import (
	"fmt"
	"math"
	"slices"
)

// InferError lists the nodes whose types do not fit.
type InferError struct {
	Problems []string // the first twenty, each naming node and operator
	Total    int      // how many there are
	Declared int      // how many of them are shapes that the file declares and its operators contradict, which runtimes overlook
}

func (e *InferError) Error() string {
	s := "infer: " + e.Problems[0]
	if e.Total > 1 {
		s += fmt.Sprintf(" (and %d more)", e.Total-1)
	}
	return s
}

// Infer finds element types and shapes of all values that it can, also in
// nested graphs and in the bodies of functions (there, what all calls agree
// on), and records them for Value.Type; what an earlier call recorded is
// forgotten.
//
// Dimensions keep the names that the inputs' declared types give them; sums,
// products and quotients of names become names such as "past + seq" or
// "(h + 1)//2". Integers that are computed from shapes are followed through
// the usual operators, so that a Reshape to a computed shape is understood.
// Slices and quotients with symbolic bounds are taken to stay within bounds
// and not to divide by zero.
//
// A type that is declared and one that is inferred are merged, the one that
// says more counting in each dimension. An operator that knows its inputs do
// not fit, and an inferred type that contradicts the declared one, are
// errors: a *[InferError]. An error does not end inference; where the two
// disagree the inferred type is kept.
//
// Operators that lathe has no rule for (infer_rules.go lists those that it has), and
// what depends on data, leave types as declared. Time and memory are linear in the size of the model with
// a bound on the growth by calls and loops; what lies beyond it stays as
// declared.
func Infer(m *Model) error {
	if m.Graph == nil {
		return nil
	}
	e := &inferer{model: m, functions: map[[3]string]*Function{}, syms: symbols{}, types: map[*Value]*Type{},
		contents: map[*Value]*content{}, bodies: map[*Value]*Type{}}
	for _, f := range m.Functions {
		e.functions[functionKey(f.Domain, f.Name, f.Overload)] = f
	}
	nodes := 0
	m.Graphs(func(g *Graph) bool {
		nodes += len(g.nodes)
		for _, v := range g.ownValues() {
			v.inferred = nil
		}
		return true
	})
	e.work = 200_000 + 20*nodes
	e.cells = 4_000_000 + 20*nodes
	e.graph(m.Graph)
	for _, found := range []map[*Value]*Type{e.types, e.bodies} {
		for v, t := range found {
			// What a value says of itself is not recorded, so that an edit of
			// its declaration or constant counts at once.
			if t != v.Declared && (v.def != nil || v.Const == nil || v.Declared != nil) {
				v.inferred = t
			}
		}
	}
	if e.errors.Total > 0 {
		return &e.errors
	}
	return nil
}

// inferer is the state of one call of Infer.
type inferer struct {
	model     *Model
	functions map[[3]string]*Function
	syms      symbols
	errors    InferError
	types     map[*Value]*Type    // of the main graph or the call at hand
	contents  map[*Value]*content // likewise; nil where it was looked for and is not known
	bodies    map[*Value]*Type    // of function bodies, joined over all calls
	caller    *call               // of the function whose body is at hand
	depth     int                 // of calls and nested graphs
	work      int                 // how many more nodes may be visited, weighted with contents
	cells     int                 // how many more dims and integers may be kept
}

// Limits on what inference follows.
const (
	maxRank       = 64  // dims of an inferred shape
	maxContent    = 256 // integers of a tensor that is followed
	maxInferDepth = 100 // of calls and nested graphs
	maxLoopPass   = 3   // visits of a loop's body until its state is stable
)

func (e *inferer) errorf(n *Node, format string, args ...any) {
	msg := fmt.Sprintf("%v: ", n) + fmt.Sprintf(format, args...)
	if e.errors.Total++; len(e.errors.Problems) < maxProblems {
		e.errors.Problems = append(e.errors.Problems, msg)
	}
}

// typeOf is the type of a value as known so far, nil if it is not.
func (e *inferer) typeOf(v *Value) *Type {
	if v == nil {
		return nil
	}
	if t, ok := e.types[v]; ok {
		return t
	}
	t := v.Declared
	if v.Const != nil {
		if len(v.Const.Dims) > maxRank {
			return t
		}
		dims := make([]Dim, len(v.Const.Dims))
		for i, d := range v.Const.Dims {
			dims[i] = Known(d)
		}
		t = TensorType(v.Const.DType, dims...)
	} else if v.Sparse != nil && v.Sparse.Values != nil {
		dims := make([]Dim, len(v.Sparse.Dims))
		for i, d := range v.Sparse.Dims {
			dims[i] = Known(d)
		}
		// What reads a sparse initializer sees the dense tensor.
		t = TensorType(v.Sparse.Values.DType, dims...)
	}
	if t != nil {
		e.types[v] = t
	}
	return t
}

// graph visits the nodes in order.
func (e *inferer) graph(g *Graph) {
	if e.depth >= maxInferDepth {
		return
	}
	e.depth++
	defer func() { e.depth-- }()
	for _, v := range g.inputs {
		e.typeOf(v)
	}
	for _, v := range g.inits {
		e.typeOf(v)
	}
	for _, n := range g.nodes {
		if e.work--; e.work < 0 {
			return
		}
		e.node(n)
	}
}

func (e *inferer) node(n *Node) {
	c := &call{e: e, n: n, around: e.caller, out: make([]*Type, len(n.outputs)), values: make([]*content, len(n.outputs))}
	c.opset, _ = n.graph.Opset(n.Domain)
	domain := NormalDomain(n.Domain)
	f := e.functions[functionKey(n.Domain, n.Op, n.Overload)]
	rule := inferRules[opKey{domain, n.Op}]
	before := e.errors.Total
	switch {
	case rule != nil && (f == nil || domain == LatheDomain):
		if err := rule(c); err != nil {
			e.errorf(n, "%v", err)
		}
	case f != nil:
		e.callFunction(c, f)
	case domain == "" && n.Op == "If":
		e.inferIf(c)
	case domain == "" && n.Op == "Loop":
		e.inferLoop(c)
	case domain == "" && n.Op == "Scan":
		e.inferScan(c)
	case domain == "" && n.Op == "SequenceMap":
		e.inferSequenceMap(c)
	default:
		for _, s := range n.Subgraphs() {
			if s != nil {
				e.graph(s)
			}
		}
	}
	failed := e.errors.Total > before
	for i, v := range n.outputs {
		if v == nil {
			continue
		}
		t, ok := e.merge(v.Declared, c.out[i])
		if !ok && !failed {
			if v.Declared.Kind == c.out[i].Kind && v.Declared.Elem == c.out[i].Elem {
				e.errors.Declared++
			}
			e.errorf(n, "output %q is declared as %v, and what it computes is %v", v.Name, v.Declared, c.out[i])
		}
		e.keep(v, t)
		if c.values[i] != nil && e.cells > len(c.values[i].elems) {
			e.cells -= len(c.values[i].elems)
			e.work -= len(c.values[i].elems) / 8
			e.contents[v] = c.values[i]
		} else {
			delete(e.contents, v)
		}
	}
}

// keep records the type of v within the bounds on memory.
func (e *inferer) keep(v *Value, t *Type) {
	if t == nil {
		delete(e.types, v)
		return
	}
	if t.Shape != nil && t != v.Declared {
		if e.cells -= len(t.Shape.Dims); e.cells < 0 || len(t.Shape.Dims) > maxRank {
			t = &Type{Kind: t.Kind, Elem: t.Elem, Key: t.Key, Sub: t.Sub}
		}
	}
	e.types[v] = t
}

// merge joins what is declared with what is inferred into what both know; it
// reports false where they contradict each other, and returns the inferred
// type then.
func (e *inferer) merge(declared, inferred *Type) (*Type, bool) {
	switch {
	case inferred == nil || inferred.Kind == KindUnknown:
		return declared, true
	case declared == nil || declared.Kind == KindUnknown:
		return inferred, true
	case declared == inferred:
		return declared, true
	case !declared.compatible(inferred):
		return inferred, false
	}
	out := &Type{Kind: inferred.Kind, Elem: inferred.Elem, Key: inferred.Key, Shape: inferred.Shape}
	if out.Elem == Undefined {
		out.Elem = declared.Elem
	}
	out.Sub, _ = e.merge(declared.Sub, inferred.Sub)
	if out.Shape == nil {
		out.Shape = declared.Shape
	} else if declared.Shape != nil {
		dims := make([]Dim, len(out.Shape.Dims))
		for i, d := range out.Shape.Dims {
			dims[i] = better(d, declared.Shape.Dims[i])
		}
		out.Shape = &Shape{Dims: dims}
	}
	return out, true
}

// better returns the dimension of which more is known: a number, else a name,
// the first if both are as good.
func better(a, b Dim) Dim {
	if b.IsKnown() && !a.IsKnown() || a.Sym == "" && !a.IsKnown() {
		return Dim{N: b.N, Sym: b.Sym}
	}
	return a
}

// join returns what is true of both types.
func join(a, b *Type) *Type {
	if a == nil || b == nil || a.Kind != b.Kind || a.Elem != b.Elem || a.Key != b.Key {
		return nil
	}
	if a.Equal(b) {
		return a
	}
	out := &Type{Kind: a.Kind, Elem: a.Elem, Key: a.Key}
	if a.Sub != nil {
		if out.Sub = join(a.Sub, b.Sub); out.Sub == nil {
			return nil
		}
	}
	if a.Shape != nil && b.Shape != nil && len(a.Shape.Dims) == len(b.Shape.Dims) {
		dims := make([]Dim, len(a.Shape.Dims))
		for i, d := range a.Shape.Dims {
			dims[i] = UnknownDim
			if f := b.Shape.Dims[i]; d.IsKnown() && d.N == f.N || !d.IsKnown() && !f.IsKnown() && d.Sym == f.Sym {
				dims[i] = Dim{N: d.N, Sym: d.Sym}
			}
		}
		out.Shape = &Shape{Dims: dims}
	}
	return out
}

// callFunction infers through the body of f with the types, contents and
// attributes of the call.
func (e *inferer) callFunction(c *call, f *Function) {
	if f.Graph == nil || e.depth >= maxInferDepth || e.work < 0 {
		return
	}
	g := f.Graph
	types, contents := map[*Value]*Type{}, map[*Value]*content{}
	for i, v := range g.inputs {
		if i >= len(c.n.inputs) || c.n.inputs[i] == nil {
			continue
		}
		if t := e.typeOf(c.n.inputs[i]); t != nil {
			types[v] = t
		}
		contents[v] = e.contentOf(c.n.inputs[i])
	}
	outerTypes, outerContents, caller := e.types, e.contents, e.caller
	e.types, e.contents, e.caller = types, contents, c
	e.graph(g)
	for i, v := range g.outputs {
		if i < len(c.out) && v != nil {
			c.out[i], c.values[i] = e.typeOf(v), e.contentOf(v)
		}
	}
	e.types, e.contents, e.caller = outerTypes, outerContents, caller
	for v, t := range types {
		if old, ok := e.bodies[v]; ok {
			t = join(old, t)
		}
		e.bodies[v] = t
	}
}

func (e *inferer) inferIf(c *call) {
	var branches []*Graph
	for _, name := range []string{"then_branch", "else_branch"} {
		if a := c.attr(name); a != nil && a.G != nil {
			e.graph(a.G)
			branches = append(branches, a.G)
		}
	}
	if len(branches) != 2 {
		return
	}
	for i := range c.out {
		if i >= len(branches[0].outputs) || i >= len(branches[1].outputs) {
			return
		}
		a, b := e.typeOf(branches[0].outputs[i]), e.typeOf(branches[1].outputs[i])
		if a != nil && b != nil && a.Kind == b.Kind && a.Elem != b.Elem && a.Elem != Undefined && b.Elem != Undefined {
			e.errorf(c.n, "output %d is a %v in one branch and a %v in the other", i, a, b)
		}
		c.out[i] = join(a, b)
	}
}

// inferLoop finds types of the loop's state that hold before the first
// iteration and that every iteration keeps, by trying ever weaker ones.
func (e *inferer) inferLoop(c *call) {
	a := c.attr("body")
	if a == nil || a.G == nil {
		return
	}
	g := a.G
	states := len(c.n.inputs) - 2
	if states < 0 || len(g.inputs) != states+2 || len(g.outputs) < states+1 || len(c.out) > len(g.outputs)-1 {
		return
	}
	state := make([]*Type, states)
	for i := range state {
		state[i] = e.typeOf(c.n.inputs[i+2])
	}
	e.stable(g, func() {
		e.types[g.inputs[0]], e.types[g.inputs[1]] = TensorType(Int64), TensorType(Bool)
		for i, t := range state {
			e.bind(g.inputs[i+2], t)
		}
	}, state, g.outputs[1:])
	for i := range c.out {
		t := e.typeOf(g.outputs[i+1])
		if i < states {
			c.out[i] = state[i]
		} else {
			c.out[i] = stacked(t, 0, e.tripCount(c))
		}
	}
}

// bind gives a nested graph's input a type, or none.
func (e *inferer) bind(v *Value, t *Type) {
	t, _ = e.merge(v.Declared, t)
	if t == nil {
		delete(e.types, v)
	} else {
		e.types[v] = t
	}
	delete(e.contents, v)
}

// stable visits the body g until outputs of types state come out of inputs
// of types state, and weakens state where they do not.
func (e *inferer) stable(g *Graph, bind func(), state []*Type, outputs []*Value) {
	for pass := 1; ; pass++ {
		errors := e.errors
		bind()
		e.graph(g)
		changed := false
		for i := range state {
			next := join(state[i], e.typeOf(outputs[i]))
			switch {
			case next == nil && state[i] == nil || next != nil && next.Equal(state[i]):
				continue
			case pass >= maxLoopPass-1:
				next = nil
			}
			state[i] = next
			changed = true
		}
		if !changed || pass >= maxLoopPass || e.work < 0 {
			if changed {
				clear(state)
			}
			return
		}
		e.errors = errors // of a pass that assumed too much
	}
}

// tripCount is the number of iterations if nothing ends the loop early and it
// is known, else unknown.
func (e *inferer) tripCount(c *call) Dim {
	g := c.attr("body").G
	trips := c.content(0)
	cond := g.outputs[0]
	if trips == nil || len(trips.elems) != 1 || c.has(1) && !c.content(1).allAre(1) {
		return UnknownDim
	}
	if v := e.contentOf(cond); cond != g.inputs[1] && !v.allAre(1) && !(cond.def != nil && cond.def.Is("Identity") && cond.def.Input(0) == g.inputs[1]) {
		return UnknownDim
	}
	return e.syms.dim(trips.elems[0])
}

// stacked adds a dimension to a tensor type.
func stacked(t *Type, axis int, d Dim) *Type {
	if t == nil || t.Kind != KindTensor {
		return nil
	}
	out := &Type{Kind: KindTensor, Elem: t.Elem}
	if t.Shape != nil && axis >= 0 && axis <= len(t.Shape.Dims) {
		out.Shape = &Shape{Dims: slices.Insert(slices.Clone(t.Shape.Dims), axis, d)}
	}
	return out
}

func (e *inferer) inferScan(c *call) {
	a := c.attr("body")
	scans := c.int("num_scan_inputs", 0)
	if c.opset < 9 {
		e.inferScan8(c)
		return
	}
	if a == nil || a.G == nil || scans < 1 || scans > int64(len(c.n.inputs)) {
		return
	}
	g := a.G
	states := len(c.n.inputs) - int(scans)
	if len(g.inputs) != len(c.n.inputs) || len(g.outputs) < states || len(c.out) > len(g.outputs) {
		return
	}
	inAxes, _ := c.ints("scan_input_axes")
	outAxes, _ := c.ints("scan_output_axes")
	length := UnknownDim
	elems := make([]*Type, scans) // what one iteration sees
	for i := range elems {
		t := e.typeOf(c.n.inputs[states+i])
		if t == nil || t.Kind != KindTensor {
			continue
		}
		elems[i] = &Type{Kind: KindTensor, Elem: t.Elem}
		axis, ok := 0, t.Shape != nil
		if i < len(inAxes) && ok {
			axis, ok = normalAxis(inAxes[i], len(t.Shape.Dims))
		}
		if ok && axis < len(t.Shape.Dims) {
			length = better(length, t.Shape.Dims[axis])
			elems[i].Shape = &Shape{Dims: slices.Delete(slices.Clone(t.Shape.Dims), axis, axis+1)}
		}
	}
	state := make([]*Type, states)
	for i := range state {
		state[i] = e.typeOf(c.n.inputs[i])
	}
	e.stable(g, func() {
		for i, t := range slices.Concat(state, elems) {
			e.bind(g.inputs[i], t)
		}
	}, state, g.outputs)
	for i := range c.out {
		if i < states {
			c.out[i] = state[i]
			continue
		}
		t := e.typeOf(g.outputs[i])
		axis := 0
		if k := i - states; k < len(outAxes) && t != nil && t.Shape != nil {
			axis, _ = normalAxis(outAxes[k], len(t.Shape.Dims)+1)
		}
		c.out[i] = stacked(t, axis, length)
	}
}

// inferScan8 is Scan over a batch: states are [batch, …], what is scanned is
// [batch, steps, …], and the body sees neither.
func (e *inferer) inferScan8(c *call) {
	a := c.attr("body")
	scans := c.int("num_scan_inputs", 0)
	states := len(c.n.inputs) - 1 - int(max(min(scans, 1<<20), 0))
	if a == nil || a.G == nil || scans < 1 || states < 0 {
		return
	}
	g := a.G
	if len(g.inputs) != len(c.n.inputs)-1 || len(g.outputs) < states || len(c.out) > len(g.outputs) {
		return
	}
	batch, steps := UnknownDim, UnknownDim
	inner := make([]*Type, len(g.inputs)) // what one step sees
	for i := range inner {
		t, drop := e.typeOf(c.n.inputs[i+1]), 1
		if i >= states {
			drop = 2
		}
		if t == nil || t.Kind != KindTensor {
			continue
		}
		inner[i] = &Type{Kind: KindTensor, Elem: t.Elem}
		if t.Shape == nil || len(t.Shape.Dims) < drop {
			continue
		}
		if batch = better(batch, t.Shape.Dims[0]); drop == 2 {
			steps = better(steps, t.Shape.Dims[1])
		}
		inner[i].Shape = &Shape{Dims: slices.Clone(t.Shape.Dims[drop:])}
	}
	e.stable(g, func() {
		for i, t := range inner {
			e.bind(g.inputs[i], t)
		}
	}, inner[:states], g.outputs)
	for i := range c.out {
		if i < states {
			c.out[i] = stacked(inner[i], 0, batch)
		} else {
			c.out[i] = stacked(stacked(e.typeOf(g.outputs[i]), 0, steps), 0, batch)
		}
	}
}

// inferSequenceMap: the body sees an item of each sequence, and tensors as
// they are.
func (e *inferer) inferSequenceMap(c *call) {
	a := c.attr("body")
	if a == nil || a.G == nil || len(a.G.inputs) != len(c.n.inputs) || len(a.G.outputs) < len(c.out) {
		return
	}
	for i, v := range c.n.inputs {
		t := e.typeOf(v)
		if t != nil && t.Kind == KindSequence {
			t = t.Sub
		}
		e.bind(a.G.inputs[i], t)
	}
	e.graph(a.G)
	for i := range c.out {
		c.out[i] = sequenceOf(e.typeOf(a.G.outputs[i]))
	}
}

// call is one visit of a node: what its rule reads and what it finds.
type call struct {
	e      *inferer
	n      *Node
	around *call // of the function whose body the node is in
	opset  int64
	out    []*Type    // types of the outputs
	values []*content // integers of the outputs
}

// has reports whether input i is given.
func (c *call) has(i int) bool { return i < len(c.n.inputs) && c.n.inputs[i] != nil }

// in is the type of input i, nil if it is not given or not known.
func (c *call) in(i int) *Type { return c.e.typeOf(c.n.Input(i)) }

// elem is the element type of input i, Undefined if it is not known.
func (c *call) elem(i int) DType {
	if t := c.in(i); t != nil && t.Kind == KindTensor {
		return t.Elem
	}
	return Undefined
}

// dims are the dims of input i; it reports false where the rank is not known.
func (c *call) dims(i int) ([]Dim, bool) {
	if t := c.in(i); t != nil && t.Kind == KindTensor && t.Shape != nil {
		return t.Shape.Dims, true
	}
	return nil, false
}

// content is the integers of input i as far as they are known, nil if they
// are not.
func (c *call) content(i int) *content { return c.e.contentOf(c.n.Input(i)) }

// expr and dim convert between dimensions and integers.
func (c *call) expr(d Dim) *expr { return c.e.syms.expr(d) }
func (c *call) dim(e *expr) Dim  { return c.e.syms.dim(e) }

// set gives output i a tensor type with these dims.
func (c *call) set(i int, elem DType, dims []Dim) {
	if i < len(c.out) {
		plain := make([]Dim, len(dims))
		for k, d := range dims {
			plain[k] = Dim{N: d.N, Sym: d.Sym}
		}
		c.out[i] = TensorType(elem, plain...)
	}
}

// setElem gives output i a tensor type of unknown rank.
func (c *call) setElem(i int, elem DType) {
	if i < len(c.out) && elem != Undefined {
		c.out[i] = &Type{Kind: KindTensor, Elem: elem}
	}
}

// setRank gives output i a tensor type of which only the rank is known.
func (c *call) setRank(i int, elem DType, rank int) {
	if rank > maxRank {
		c.setElem(i, elem)
	} else {
		c.set(i, elem, slices.Repeat([]Dim{UnknownDim}, rank))
	}
}

// attr returns an attribute of the node; a reference to an attribute of the
// function around it is followed to the call.
func (c *call) attr(name string) *Attr {
	a := c.n.Attr(name)
	for caller := c.around; a != nil && a.Ref != ""; caller = caller.around {
		if caller == nil {
			return nil
		}
		ref := a.Ref
		if a = caller.n.Attr(ref); a == nil {
			f := c.e.functions[functionKey(caller.n.Domain, caller.n.Op, caller.n.Overload)]
			if f == nil {
				return nil
			}
			if i := slices.IndexFunc(f.AttrDefaults, func(d *Attr) bool { return d.Name == ref }); i >= 0 {
				return f.AttrDefaults[i]
			}
		}
	}
	return a
}

func (c *call) int(name string, def int64) int64 {
	if a := c.attr(name); a != nil && a.Type == AttrInt {
		return a.I
	}
	return def
}

func (c *call) str(name, def string) string {
	if a := c.attr(name); a != nil && a.Type == AttrString {
		return string(a.S)
	}
	return def
}

func (c *call) ints(name string) ([]int64, bool) {
	if a := c.attr(name); a != nil && a.Type == AttrInts {
		return a.Ints, true
	}
	return nil, false
}

// dtype is an attribute that holds an element type.
func (c *call) dtype(name string, def DType) DType {
	n := c.int(name, int64(def))
	if n <= 0 || n > math.MaxInt32 || !DType(n).Known() {
		return def
	}
	return DType(n)
}

// normalAxis brings an axis into 0 … rank-1; negative ones count from behind.
func normalAxis(axis int64, rank int) (int, bool) {
	if axis < 0 {
		axis += int64(rank)
	}
	if axis < 0 || axis >= int64(rank) {
		return 0, false
	}
	return int(axis), true
}
