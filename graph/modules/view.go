package modules

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// view is the main graph of a model as the analysis sees it; the model stays
// as it is. Calls of local functions are replaced by the function's nodes
// (lathe's own operators are not), Identity, Dropout and casts between
// floating-point types are looked through, a fused Add and norm is split in
// two, and a control-flow node reads what its bodies capture.
//
// Values and nodes are numbered; nodes are in topological order, those of the
// file in the order of the file where that is sorted already.
type view struct {
	model *graph.Model
	vals  []val
	nodes []node
	index map[*graph.Value]int32 // values of the main graph, by what they resolve to
	gives map[int32]*graph.Value // outputs of the main graph
	taken taken                  // what stands for an If
	ifs   []*graph.Node          // the If nodes that one branch stands for
	notes []string
	work  int // steps that are left before the analysis gives up
}

// taken says which branch stands for an If node whose branches both compute:
// the merged decoders of exporters have one that reads a cache and one that
// starts it.
type taken string

const (
	closed    taken = "" // neither: an If node is one operator
	thenTaken taken = "then_branch"
	elseTaken taken = "else_branch"
)

// val is a value of the view.
type val struct {
	origin *graph.Value // nil for the sum inside a fused node that does not output it
	def    int32        // node that computes it, -1 for inputs and initializers
	uses   []int32      // nodes that read its data, each once, in order
	shapes []int32      // nodes that read its dims only
	konst  bool         // computed from constants alone
	input  bool         // input of the main graph without a default
	output bool         // output of the main graph
	live   bool         // some output of the main graph needs it
}

// node is a node of the view.
type node struct {
	n     *graph.Node
	frame *frame // nil in the main graph
	name  string // domain.Op, or Op of ai.onnx; "" where output 0 is left out
	operator
	in, out []int32 // -1 where left out; what subgraphs capture stands behind the inputs
}

// frame is one call of a local function.
type frame struct {
	call   *graph.Node
	fn     *graph.Function
	caller *frame
	depth  int
	vals   map[*graph.Value]int32
}

// Bounds on what hostile files can ask for.
const (
	maxInlined   = 1 << 20 // nodes that calls of functions may add
	maxCallDepth = 32
	maxCalls     = 1 << 12 // that hold modules
	workPerNode  = 256     // steps of the analysis per node; the public models need 3 to 12
)

// errWork says that a graph is too tangled to be analysed in linear time.
var errWork = fmt.Errorf("branches nest or share nodes too deeply to be analysed")

// newView builds the view of m's main graph. It fails on a cycle.
func newView(m *graph.Model, t taken) (*view, error) {
	b := viewBuilder{view: &view{model: m, gives: map[int32]*graph.Value{}, taken: t}, main: map[*graph.Value]int32{}, inlined: maxInlined, functions: map[[3]string]*graph.Function{}}
	if m.Graph == nil {
		return nil, fmt.Errorf("the model has no graph")
	}
	for _, f := range m.Functions {
		if k := [3]string{graph.NormalDomain(f.Domain), f.Name, f.Overload}; b.functions[k] == nil {
			b.functions[k] = f
		}
	}
	for _, v := range m.Graph.Inputs() {
		b.view.vals[b.id(nil, v)].input = !v.IsInitializer()
	}
	b.graph(m.Graph, nil)
	for _, v := range m.Graph.Outputs() {
		b.id(nil, v)
	}
	if err := b.resolve(); err != nil {
		return nil, err
	}
	v := b.view
	for _, o := range m.Graph.Outputs() {
		x := b.find(b.main[o])
		v.vals[x].output = true
		if v.gives[x] == nil {
			v.gives[x] = o
		}
	}
	v.index = b.main
	for x, i := range v.index {
		v.index[x] = b.find(i)
	}
	if err := v.sort(); err != nil {
		return nil, err
	}
	v.link()
	v.work = workPerNode * (len(v.nodes) + len(v.vals) + 64)
	return v, nil
}

type viewBuilder struct {
	*view
	functions map[[3]string]*graph.Function // by domain, name and overload
	main      map[*graph.Value]int32
	alias     []int32 // union-find: the value that a value is the same as
	inlined   int     // nodes that calls may still add
}

func (b *viewBuilder) fresh(origin *graph.Value) int32 {
	b.vals = append(b.vals, val{origin: origin, def: -1})
	b.alias = append(b.alias, int32(len(b.alias)))
	return int32(len(b.vals) - 1)
}

// id is the number of value v of frame f.
func (b *viewBuilder) id(f *frame, v *graph.Value) int32 {
	m := b.main
	if f != nil {
		m = f.vals
	}
	i, ok := m[v]
	if !ok {
		i = b.fresh(v)
		b.vals[i].konst = v.IsInitializer()
		m[v] = i
	}
	return i
}

func (b *viewBuilder) find(i int32) int32 {
	for b.alias[i] != i {
		b.alias[i] = b.alias[b.alias[i]]
		i = b.alias[i]
	}
	return i
}

// same makes copy another name of the value v.
func (b *viewBuilder) same(copy, v int32) error {
	c, r := b.find(copy), b.find(v)
	if c == r {
		return fmt.Errorf("value %q depends on itself", b.vals[copy].origin.Name)
	}
	b.alias[c] = r
	return nil
}

// graph adds the nodes of g, which is the main graph or the body of f.
func (b *viewBuilder) graph(g *graph.Graph, f *frame) {
	for _, n := range g.Nodes() {
		if fn := b.callee(n, f); fn != nil {
			b.call(n, fn, f)
			continue
		}
		name := n.Op
		if d := graph.NormalDomain(n.Domain); d != "" {
			name = d + "." + n.Op
		}
		x := node{n: n, frame: f, name: name, operator: operators[name]}
		for _, v := range n.Inputs() {
			x.in = append(x.in, b.optional(f, v))
		}
		for _, s := range n.Subgraphs() {
			x.in = b.captures(x.in, s, f)
		}
		if len(n.Subgraphs()) > 0 {
			x.operator = operator{}
			if body := b.open(n, f); body != nil {
				b.ifs = append(b.ifs, n)
				b.graph(body, nil)
				b.results(n, nil, body, nil)
				continue
			}
			b.noteBranches(n)
		}
		for _, v := range n.Outputs() {
			x.out = append(x.out, b.optional(f, v))
		}
		if len(x.out) == 0 || x.out[0] < 0 {
			x.name, x.operator = "", operator{} // what an operator without its result does is not of interest
		}
		if x.name == "Cast" && floatType(x.attrInt("to", 0)) {
			x.class = through
		}
		if x.class == embedding {
			b.splitEmbedding(x)
			continue
		}
		if x.class == skipNorm {
			if !b.split(x) {
				x.operator = operator{}
				b.nodes = append(b.nodes, x)
			}
			continue
		}
		b.nodes = append(b.nodes, x)
	}
}

func floatType(d int64) bool { return graph.DType(d).IsFloat() }

func (b *viewBuilder) optional(f *frame, v *graph.Value) int32 {
	if v == nil {
		return -1
	}
	return b.id(f, v)
}

// callee is the function that a node calls, nil where it calls none or one
// that stays closed.
func (b *viewBuilder) callee(n *graph.Node, f *frame) *graph.Function {
	fn := b.functions[[3]string{graph.NormalDomain(n.Domain), n.Op, n.Overload}]
	if fn == nil || n.Domain == graph.LatheDomain {
		return nil
	}
	closed := f != nil && f.depth >= maxCallDepth || b.inlined < len(fn.Graph.Nodes())
	for c := f; c != nil && !closed; c = c.caller {
		closed = c.fn == fn
	}
	if closed {
		b.note("%v: its local functions call each other too often to be looked into", n)
		return nil
	}
	return fn
}

// call adds the nodes of fn in place of the node n.
func (b *viewBuilder) call(n *graph.Node, fn *graph.Function, caller *frame) {
	f := &frame{call: n, fn: fn, caller: caller, vals: map[*graph.Value]int32{}}
	if caller != nil {
		f.depth = caller.depth + 1
	}
	b.inlined -= len(fn.Graph.Nodes()) + 16 // what the frame itself takes
	for i, v := range fn.Graph.Inputs() {
		if a := n.Input(i); a != nil {
			f.vals[v] = b.id(caller, a)
		}
	}
	b.graph(fn.Graph, f)
	b.results(n, caller, fn.Graph, f)
}

// results makes the outputs of n those of its body.
func (b *viewBuilder) results(n *graph.Node, outside *frame, body *graph.Graph, inside *frame) {
	for i, v := range body.Outputs() {
		if o := n.Output(i); o != nil {
			b.nodes = append(b.nodes, node{n: n, frame: outside, name: "Identity", operator: operator{class: through},
				in: []int32{b.id(inside, v)}, out: []int32{b.id(outside, o)}})
		}
	}
}

// open returns the branch that stands for the node n, nil where n stays
// closed: it is no If, or lies in a function, or not both of its branches
// hold layers.
func (b *viewBuilder) open(n *graph.Node, f *frame) *graph.Graph {
	if b.taken == closed || f != nil || !n.Is("If") {
		return nil
	}
	var out *graph.Graph
	for _, name := range []taken{thenTaken, elseTaken} {
		a := n.Attr(string(name))
		if a == nil || a.G == nil || len(a.G.Inputs()) > 0 || len(a.G.Outputs()) < len(n.Outputs()) || !b.computes(a.G) {
			return nil
		}
		if name == b.taken {
			out = a.G
		}
	}
	return out
}

// computes reports whether g has a product or calls a function.
func (b *viewBuilder) computes(g *graph.Graph) bool {
	return slices.ContainsFunc(g.Nodes(), func(n *graph.Node) bool {
		name := n.Op
		if d := graph.NormalDomain(n.Domain); d != "" {
			name = d + "." + n.Op
		}
		class := operators[name].class
		return class == product || class == fused || b.functions[[3]string{graph.NormalDomain(n.Domain), n.Op, n.Overload}] != nil ||
			slices.ContainsFunc(n.Subgraphs(), b.computes)
	})
}

// captures appends what the body s of a control-flow node reads of the graphs
// around it.
func (b *viewBuilder) captures(in []int32, s *graph.Graph, f *frame) []int32 {
	seen := map[*graph.Value]bool{}
	inside := map[*graph.Graph]bool{}
	var walk func(*graph.Graph)
	read := func(v *graph.Value) {
		if v != nil && !inside[v.Graph()] && !seen[v] {
			seen[v] = true
			in = append(in, b.id(f, v))
		}
	}
	walk = func(g *graph.Graph) {
		inside[g] = true
		for _, n := range g.Nodes() {
			for _, v := range n.Inputs() {
				read(v)
			}
			for _, t := range n.Subgraphs() {
				walk(t)
			}
		}
		for _, v := range g.Outputs() {
			read(v)
		}
	}
	walk(s)
	return in
}

// noteBranches says that the bodies of n are not analysed, where they hold
// matrix products.
func (b *viewBuilder) noteBranches(n *graph.Node) {
	products := 0
	var walk func(*graph.Graph)
	walk = func(g *graph.Graph) {
		for _, m := range g.Nodes() {
			if m.Is("MatMul", "Gemm") {
				products++
			}
			for _, t := range m.Subgraphs() {
				walk(t)
			}
		}
	}
	for _, s := range n.Subgraphs() {
		walk(s)
	}
	if products > 0 {
		b.note("%v: its bodies hold %d matrix products, in which no module is looked for", n, products)
	}
}

// split adds the Add and the norm that a fused node stands for. Behind the
// data come the norm's scale (and shift, where a mean is subtracted), then
// the bias. A node that also hands out the mean or the deviation, as in
// training, stays whole.
func (b *viewBuilder) split(x node) bool {
	if at := x.n.Outputs(); slices.ContainsFunc(at[1:min(3, len(at))], func(v *graph.Value) bool {
		return v != nil && (len(v.Uses()) > 0 || v.IsOutput())
	}) {
		return false
	}
	at := func(list []int32, i int) int32 {
		if i < len(list) {
			return list[i]
		}
		return -1
	}
	params, bias := []int32{at(x.in, 2), at(x.in, 3)}, at(x.in, 4)
	if x.rms {
		params, bias = params[:1], at(x.in, 3)
	}
	sum := at(x.out, x.sum)
	if sum < 0 {
		sum = b.fresh(nil)
	}
	add, ln := x, x
	add.operator = operator{class: addition}
	add.in, add.out = []int32{at(x.in, 0), at(x.in, 1)}, []int32{sum}
	if bias >= 0 {
		add.in = append(add.in, bias)
	}
	ln.operator = operator{class: norm, rms: x.rms}
	ln.in, ln.out = append([]int32{sum}, params...), []int32{at(x.out, 0)}
	b.nodes = append(b.nodes, add, ln)
	return true
}

// splitEmbedding adds the sum of embeddings and the norm that an
// EmbedLayerNormalization stands for. Its outputs are the norm, the lengths of
// the samples and the sum; inputs 5 and 6 are scale and shift.
func (b *viewBuilder) splitEmbedding(x node) {
	var in, params, out []int32
	for i, v := range x.in {
		if i == 5 || i == 6 {
			params = append(params, v)
		} else {
			in = append(in, v)
		}
	}
	sum := int32(-1)
	if len(x.out) > 2 {
		sum = x.out[2]
	}
	if sum < 0 {
		sum = b.fresh(nil)
	}
	out = append(out, sum)
	if len(x.out) > 1 {
		out = append(out, x.out[1])
	}
	embed, ln := x, x
	embed.in, embed.out = in, out
	ln.operator = operator{class: norm}
	ln.in, ln.out = append([]int32{sum}, params...), x.out[:1]
	b.nodes = append(b.nodes, embed, ln)
}

func (v *view) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(v.notes, s) && len(v.notes) < 100 {
		v.notes = append(v.notes, s)
	}
}

// resolve takes the nodes that are looked through out and makes every other
// read and define the value that is meant.
func (b *viewBuilder) resolve() error {
	kept := b.nodes[:0]
	for _, x := range b.nodes {
		if x.class != through || len(x.in) == 0 || x.in[0] < 0 || len(x.out) == 0 || x.out[0] < 0 {
			kept = append(kept, x)
			continue
		}
		if err := b.same(x.out[0], x.in[0]); err != nil {
			return fmt.Errorf("%v: %w", x.n, err)
		}
	}
	b.nodes = kept
	for _, x := range b.nodes {
		for _, list := range [][]int32{x.in, x.out} {
			for i, v := range list {
				if v >= 0 {
					list[i] = b.find(v)
				}
			}
		}
	}
	// A value that a function computes goes by its name outside.
	for i := range b.vals {
		o := b.vals[i].origin
		if r := b.find(int32(i)); int(r) != i && o != nil && o.Graph().Function() == nil {
			if w := b.vals[r].origin; w == nil || w.Graph().Function() != nil {
				b.vals[r].origin = o
			}
		}
	}
	return nil
}

// sort puts the nodes into topological order, keeping the order they have
// where it can, and sets def.
func (v *view) sort() error {
	for i, x := range v.nodes {
		for _, o := range x.out {
			if o >= 0 {
				v.vals[o].def = int32(i)
			}
		}
	}
	waits := make([]int32, len(v.nodes))
	readers := make([][]int32, len(v.nodes))
	sorted := true
	for i, x := range v.nodes {
		for _, in := range x.in {
			if in >= 0 && v.vals[in].def >= 0 {
				d := v.vals[in].def
				readers[d] = append(readers[d], int32(i))
				waits[i]++
				sorted = sorted && int(d) < i
			}
		}
	}
	if sorted {
		return nil
	}
	var ready positions
	for i := range v.nodes {
		if waits[i] == 0 {
			ready.push(int32(i))
		}
	}
	out := make([]node, 0, len(v.nodes))
	for len(ready) > 0 {
		i := ready.pop()
		out = append(out, v.nodes[i])
		for _, r := range readers[i] {
			if waits[r]--; waits[r] == 0 {
				ready.push(r)
			}
		}
	}
	if len(out) < len(v.nodes) {
		for i, w := range waits {
			if w > 0 {
				return fmt.Errorf("%v is on or behind a cycle", v.nodes[i].n)
			}
		}
	}
	v.nodes = out
	for i, x := range v.nodes {
		for _, o := range x.out {
			if o >= 0 {
				v.vals[o].def = int32(i)
			}
		}
	}
	return nil
}

// link sets what depends on the order: uses, constants, and what is live.
func (v *view) link() {
	reader := make([]int32, len(v.vals)) // the node that was last counted as a use, plus one
	for i := range v.nodes {
		x := &v.nodes[i]
		konst := x.class != random && x.class != opaque && (len(x.in) > 0 || x.class == constant)
		for _, in := range x.in {
			if in < 0 {
				continue
			}
			konst = konst && v.vals[in].konst
			if reader[in] == int32(i)+1 {
				continue
			}
			reader[in] = int32(i) + 1
			if x.class == shapeOf {
				v.vals[in].shapes = append(v.vals[in].shapes, int32(i))
			} else {
				v.vals[in].uses = append(v.vals[in].uses, int32(i))
			}
		}
		for _, o := range x.out {
			if o >= 0 {
				v.vals[o].konst = konst
			}
		}
	}
	for i := range v.vals {
		v.vals[i].live = v.vals[i].output
	}
	for i := len(v.nodes) - 1; i >= 0; i-- {
		if v.alive(int32(i)) {
			for _, in := range v.nodes[i].in {
				if in >= 0 {
					v.vals[in].live = true
				}
			}
		}
	}
}

// alive reports whether an output of the main graph needs node i.
func (v *view) alive(i int32) bool {
	return slices.ContainsFunc(v.nodes[i].out, func(o int32) bool { return o >= 0 && v.vals[o].live })
}

// spend counts n steps and reports whether the analysis may go on.
func (v *view) spend(n int) bool {
	v.work -= n
	return v.work >= 0
}

// data is input k of node i, -1 where it is left out.
func (v *view) data(i int32, k int) int32 {
	if in := v.nodes[i].in; k >= 0 && k < len(in) {
		return in[k]
	}
	return -1
}

// def is the node that computes value x if it is the operator name, else -1.
func (v *view) def(x int32, name string) int32 {
	if x >= 0 {
		if d := v.vals[x].def; d >= 0 && v.nodes[d].name == name {
			return d
		}
	}
	return -1
}

// konst reports whether value x is there and constant.
func (v *view) konst(x int32) bool { return x >= 0 && v.vals[x].konst }

// scalar is the value of a constant of one element.
func (v *view) scalar(x int32) (float64, bool) {
	t := v.tensor(x)
	if t == nil || t.Len() != 1 {
		return 0, false
	}
	if f, err := t.Float32s(); err == nil {
		return float64(f[0]), true
	}
	if i, err := t.Int64s(); err == nil {
		return float64(i[0]), true
	}
	return 0, false
}

// ints is a short constant list of integers.
func (v *view) ints(x int32) ([]int64, bool) {
	t := v.tensor(x)
	if t == nil || t.Len() > 64 {
		return nil, false
	}
	list, err := t.Int64s()
	return list, err == nil
}

func (v *view) tensor(x int32) *graph.Tensor {
	if x < 0 || v.vals[x].origin == nil {
		return nil
	}
	return v.vals[x].origin.ConstTensor()
}

// dims is what is known of the dims of value x, nil if not even the rank.
func (v *view) dims(x int32) []graph.Dim {
	if x < 0 || v.vals[x].origin == nil {
		return nil
	}
	t := v.vals[x].origin.Type()
	if c := v.tensor(x); c != nil {
		out := make([]graph.Dim, len(c.Dims))
		for i, d := range c.Dims {
			out[i] = graph.Known(d)
		}
		return out
	}
	if t == nil || t.Kind != graph.KindTensor || t.Shape == nil {
		return nil
	}
	if t.Shape.Dims == nil {
		return []graph.Dim{}
	}
	return t.Shape.Dims
}

// rank is the rank of value x, -1 where it is not known.
func (v *view) rank(x int32) int {
	d := v.dims(x)
	if d == nil {
		return -1
	}
	return len(d)
}

// attr is the attribute of that name; in a function body one that refers to
// an attribute of the call is followed.
func (x *node) attr(name string) *graph.Attr {
	a, f := x.n.Attr(name), x.frame
	for a != nil && a.Ref != "" {
		if f == nil {
			return nil
		}
		ref := a.Ref
		if a = f.call.Attr(ref); a == nil {
			for _, d := range f.fn.AttrDefaults {
				if d.Name == ref {
					return d
				}
			}
		}
		f = f.caller
	}
	return a
}

func (x *node) attrInt(name string, def int64) int64 {
	if a := x.attr(name); a != nil && a.Type == graph.AttrInt {
		return a.I
	}
	return def
}

func (x *node) attrInts(name string) ([]int64, bool) {
	if a := x.attr(name); a != nil && a.Type == graph.AttrInts {
		return a.Ints, true
	}
	return nil, false
}

// top is the node of the main graph that x is, or is part of.
func (x *node) top() *graph.Node {
	n := x.n
	for f := x.frame; f != nil; f = f.caller {
		n = f.call
	}
	return n
}

// positions is a binary min-heap.
type positions []int32

func (h *positions) push(x int32) {
	*h = append(*h, x)
	s := *h
	for i := len(s) - 1; i > 0 && s[(i-1)/2] > s[i]; i = (i - 1) / 2 {
		s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
	}
}

func (h *positions) pop() int32 {
	s := *h
	top, last := s[0], len(s)-1
	s[0], s = s[last], s[:last]
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
