package modules

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// Sizes gives numbers to the free dims of a model's inputs. The zero value is one
// token.
type Sizes struct {
	Batch  int64            // the first axis; 0 means 1
	Tokens int64            // every other free axis; 0 means 1. Caches start empty.
	Dims   map[string]int64 // dims by name, before the two above
}

// Cost is the work of one run of a model. A multiply-add counts as two; a
// division, a root or an exponential as one; moving elements as nothing.
// What is computed from constants alone is left out, since it is computed
// once. Of an If the dearer branch counts, of a Loop or Scan one turn.
type Cost struct {
	FLOPs     int64          // of all that could be counted
	Operators []OperatorCost // the dearest first
	Notes     []string       // what could not be counted

	nodes   map[*graph.Node]int64
	modules map[string]int64 // by id
}

// OperatorCost is the share of one operator, of the nodes of the main graph
// and the graphs inside it; what a local function does counts for its call.
type OperatorCost struct {
	Op      string // with its domain, but for ai.onnx
	Nodes   int
	Unknown int // nodes whose work is not known
	FLOPs   int64
}

// Node is the work of a node of the model that CostOf got, in FLOPs; 0 where it is not
// known.
func (c *Cost) Node(n *graph.Node) int64 { return c.nodes[n] }

// Module is the work of the nodes of a module's body in FLOPs, the products of
// activations in an attention included. Modules are known by their ids.
func (c *Cost) Module(x Module) int64 { return c.modules[x.ID] }

// CostOf counts the work of one run of m at these sizes. It infers the shapes
// of a copy whose inputs have numbers for dims; m stays as it is. It fails
// where graph.Infer finds that the numbers do not fit the model.
func CostOf(m *graph.Model, s Sizes) (*Cost, error) {
	list, err := Find(m)
	if err != nil {
		return nil, err
	}
	c, err := costOf(m, list, s)
	if err != nil || !slices.ContainsFunc(list, func(x Module) bool { return x.Call != nil || x.Merge.Graph() != m.Graph }) {
		return c, err
	}
	// What lies in functions and branches is counted where it is unfolded.
	u, err := Unfold(m)
	if err != nil {
		return nil, err
	}
	if list, err = Find(u); err != nil {
		return nil, err
	}
	open, err := costOf(u, list, s)
	if err != nil {
		return nil, err
	}
	c.modules = open.modules
	return c, nil
}

// costOf is CostOf for the modules that lie in the main graph.
func costOf(m *graph.Model, list []Module, s Sizes) (*Cost, error) {
	pasts := map[string]bool{}
	for _, x := range list {
		for _, c := range x.Caches {
			if c.Past != nil {
				pasts[c.Past.Name] = true
			}
		}
	}
	d := m.Clone()
	if err := s.bind(d, pasts); err != nil {
		return nil, fmt.Errorf("cost: %w", err)
	}
	var wrong *graph.InferError
	if err := graph.Infer(d); err != nil && (!errors.As(err, &wrong) || wrong.Total > wrong.Declared) {
		return nil, fmt.Errorf("cost: %w; give other sizes", err)
	}
	c := &Cost{nodes: map[*graph.Node]int64{}, modules: map[string]int64{}}
	k := coster{Cost: c, ops: map[string]*OperatorCost{}, functions: map[*graph.Function]*cost{}, bodies: map[*graph.Graph]cost{}, origin: map[*graph.Node]*graph.Node{}}
	k.pair(m.Graph, d.Graph)
	c.FLOPs = k.graph(d.Graph, true).flops
	for _, o := range k.ops {
		c.Operators = append(c.Operators, *o)
		if o.Unknown > 0 {
			c.Notes = append(c.Notes, fmt.Sprintf("%s: the work of %d of %d nodes is not known", o.Op, o.Unknown, o.Nodes))
		}
	}
	slices.SortFunc(c.Operators, func(a, b OperatorCost) int {
		return cmp.Or(cmp.Compare(b.FLOPs, a.FLOPs), cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Op, b.Op))
	})
	slices.Sort(c.Notes)
	for _, x := range list {
		var sum int64
		for _, n := range x.Body {
			sum = plus(sum, c.nodes[n])
		}
		c.modules[x.ID] = sum
	}
	return c, nil
}

// bind gives numbers to the dims of the inputs of d. A name has one number
// wherever it stands; the length of a cache is that of the axis behind the
// first whose name stands in caches alone, and 0.
func (s Sizes) bind(d *graph.Model, pasts map[string]bool) error {
	s.Batch, s.Tokens = max(s.Batch, 1), max(s.Tokens, 1)
	names := map[string]int64{}
	for name, n := range s.Dims {
		if n < 0 {
			return fmt.Errorf("dim %q is %d, want 0 or more", name, n)
		}
		names[name] = n
	}
	// The names of all but caches come first, so that a cache knows which
	// are its own.
	for _, past := range []bool{false, true} {
		for _, v := range d.Graph.Inputs() {
			t := v.Declared
			if v.IsInitializer() || pasts[v.Name] != past || t == nil || t.Kind != graph.KindTensor || t.Shape == nil {
				continue
			}
			dims := slices.Clone(t.Shape.Dims)
			for i, dim := range dims {
				if dim.IsKnown() {
					continue
				}
				n, ok := names[dim.Sym]
				if dim.Sym == "" || !ok {
					switch {
					case past && i > 0:
						n = 0
					case i == 0:
						n = s.Batch
					default:
						n = s.Tokens
					}
					if dim.Sym != "" {
						names[dim.Sym] = n
					}
				}
				dims[i] = graph.Known(n)
			}
			v.Declared = graph.TensorType(t.Elem, dims...)
		}
	}
	// What the file says of other values is in names that are numbers now.
	for _, n := range d.Graph.Nodes() {
		for _, o := range n.Outputs() {
			if o != nil && o.Declared != nil && o.Declared.Kind == graph.KindTensor && o.Declared.Shape != nil {
				dims := slices.Clone(o.Declared.Shape.Dims)
				for i, dim := range dims {
					if !dim.IsKnown() {
						dims[i] = graph.UnknownDim
						if n, ok := names[dim.Sym]; ok && dim.Sym != "" {
							dims[i] = graph.Known(n)
						}
					}
				}
				o.Declared = graph.TensorType(o.Declared.Elem, dims...)
			}
		}
	}
	return nil
}

type coster struct {
	*Cost
	ops       map[string]*OperatorCost
	functions map[*graph.Function]*cost // of one call; known false while it is counted
	bodies    map[*graph.Graph]cost     // of the bodies of control flow
	origin    map[*graph.Node]*graph.Node
}

// cost is work that is known in full or only in part.
type cost struct {
	flops int64
	known bool
}

// pair remembers which node of the measured model a node of the copy is.
func (k *coster) pair(m, d *graph.Graph) {
	for i, n := range m.Nodes() {
		k.origin[d.Nodes()[i]] = n
		for j, s := range n.Subgraphs() {
			k.pair(s, d.Nodes()[i].Subgraphs()[j])
		}
	}
}

// graph counts the nodes of g, and lists them by operator if listed.
func (k *coster) graph(g *graph.Graph, listed bool) cost {
	sum := cost{known: true}
	konst := map[*graph.Value]bool{}
	for _, n := range g.Nodes() {
		folded := len(n.Inputs()) > 0 && len(n.Subgraphs()) == 0
		for _, v := range n.Inputs() {
			folded = folded && (v == nil || v.IsInitializer() || konst[v])
		}
		c := cost{known: true}
		if folded || n.Is("Constant") {
			for _, v := range n.Outputs() {
				konst[v] = true
			}
		} else {
			c = k.node(n, listed)
		}
		sum.flops, sum.known = plus(sum.flops, c.flops), sum.known && c.known
		if !listed {
			continue
		}
		name := n.Op
		if d := graph.NormalDomain(n.Domain); d != "" {
			name = d + "." + n.Op
		}
		o := k.ops[name]
		if o == nil {
			o = &OperatorCost{Op: name}
			k.ops[name] = o
		}
		o.Nodes++
		if !c.known {
			o.Unknown++
		}
		if len(n.Subgraphs()) == 0 {
			o.FLOPs = plus(o.FLOPs, c.flops)
		}
		if m := k.origin[n]; m != nil {
			k.nodes[m] = c.flops
		}
	}
	return sum
}

func (k *coster) node(n *graph.Node, listed bool) cost {
	if list := n.Subgraphs(); len(list) > 0 {
		c := cost{known: n.Is("If")}
		dearest := list[0]
		for _, s := range list {
			b, ok := k.bodies[s]
			if !ok {
				b = k.graph(s, false)
				k.bodies[s] = b
			}
			if b.flops > c.flops {
				dearest = s
			}
			c.flops, c.known = max(c.flops, b.flops), c.known && b.known
		}
		if listed {
			k.graph(dearest, true)
		}
		return c
	}
	if f := n.Graph().Model().Function(n.Domain, n.Op, n.Overload); f != nil && n.Domain != graph.LatheDomain {
		if c := k.functions[f]; c != nil {
			return *c
		}
		c := &cost{}
		k.functions[f] = c
		*c = k.graph(f.Graph, false)
		return *c
	}
	name := n.Op
	if d := graph.NormalDomain(n.Domain); d != "" {
		name = d + "." + n.Op
	}
	flops, ok := work(n, name)
	return cost{max(flops, 0), ok}
}

// work counts one node by its shapes: out is the number of elements of its
// first output, in of its first input.
func work(n *graph.Node, name string) (flops int64, ok bool) {
	op := operators[name]
	switch op.class {
	case through, shapeOf, constant, random, layout:
		return 0, true
	}
	if slices.Contains(movers, name) {
		return 0, true
	}
	out, known := elements(n.Output(0))
	in, knownIn := elements(n.Input(0))
	xs, ws := dims(n.Input(0)), dims(n.Input(1))
	if op.class == product {
		ws = dims(n.Input(op.weight))
	}
	last := func(d []int64) int64 {
		if len(d) == 0 {
			return 1
		}
		return d[len(d)-1]
	}
	switch {
	case op.class == elementwise || op.class == addition:
		terms := 0
		for _, v := range n.Inputs() {
			if v != nil {
				terms++
			}
		}
		return times(out, int64(max(terms-1, 1))), known
	case op.class == reduction:
		return in, knownIn
	case op.class == softmax || name == "LogSoftmax": // maximum, difference, exponential, sum, quotient
		return times(out, 5), known
	case op.class == norm: // as the operators that it stands for
		return times(out, normWork(op.rms)), known
	case op.class == skipNorm:
		return times(out, 1+normWork(op.rms)), known
	case name == "Gemm" || name == microsoft+"FusedGemm" || name == microsoft+"GemmFastGelu":
		if len(xs) != 2 {
			return 0, false
		}
		k := xs[1]
		if n.Int("transA", 0) == 1 {
			k = xs[0]
		}
		return plus(times(out, 2, k), bias(n, 2, out)), known && xs != nil
	case name == graph.LatheDomain+".BlockCirculantMatMul":
		if len(ws) != 3 || xs == nil {
			return 0, false
		}
		rows := int64(1)
		for _, d := range xs[:len(xs)-1] {
			rows = times(rows, d)
		}
		return plus(plus(circulantWork(ws[0], ws[1], ws[2], rows), times(rows, 4, ws[0], ws[1], ws[2])), bias(n, 2, out)), known
	case name == graph.LatheDomain+".BlockCirculantConv":
		if len(ws) < 4 || len(xs) != len(ws)-1 || !known || !knownIn {
			return 0, false
		}
		taps := int64(1)
		for _, d := range ws[3:] {
			taps = times(taps, d)
		}
		p, q, b, m := ws[0], times(ws[1], max(n.Int("group", 1), 1)), ws[2], n.Int("out_channels", 0)
		if m < 1 || xs[1] < 1 {
			return 0, false
		}
		// A transform for every block of a pixel, and complex products for each of the
		// blocks and taps that an output reads.
		transforms := plus(circulantWork(0, q, b, in/xs[1]), circulantWork(p, 0, b, out/m))
		return plus(plus(transforms, times(out/m, 4, p, ws[1], b, taps)), bias(n, 2, out)), true
	case name == "Einsum":
		return einsumWork(n)
	case op.class == product:
		k := last(xs)
		if n.Int("transA", 0) == 1 && len(xs) > 1 {
			k = xs[len(xs)-2]
		}
		return times(out, 2, k), known && xs != nil
	case name == "RotaryEmbedding" || name == microsoft+"RotaryEmbedding": // two products and a sum
		return times(out, 3), known
	case op.class == embedding: // two sums and a norm
		return times(out, 2+normWork(false)), known
	case name == "Conv" || name == "ConvInteger" || name == microsoft+"FusedConv":
		if len(ws) < 3 || ws[0] == 0 {
			return 0, false
		}
		per := int64(2)
		for _, d := range ws[1:] {
			per = times(per, d)
		}
		return plus(times(out, per), bias(n, 2, out)), known
	case name == "ConvTranspose":
		if len(ws) < 3 {
			return 0, false
		}
		per := int64(2)
		for _, d := range ws[1:] {
			per = times(per, d)
		}
		return plus(times(in, per), bias(n, 2, out)), known && knownIn
	case name == "MaxPool" || name == "AveragePool" || name == "LpPool":
		k, ok := n.Ints("kernel_shape")
		per := int64(1)
		for _, d := range k {
			per = times(per, max(d, 0))
		}
		return times(out, per), known && ok
	case name == "GlobalAveragePool" || name == "GlobalMaxPool" || name == "CumSum":
		return in, knownIn
	case name == "BatchNormalization": // one scale and one shift in inference
		return times(out, 2), known
	case name == "InstanceNormalization" || name == "GroupNormalization":
		return times(out, normWork(false)), known
	case op.class == fused && op.attn.key > 0:
		// Queries with keys, softmax, probabilities with values.
		keys := dims(n.Output(1))
		if len(op.attn.present) == 0 || len(keys) != 4 {
			keys = dims(n.Input(op.attn.key))
		}
		if len(keys) < 3 || len(xs) < 3 {
			return 0, false
		}
		s := keys[len(keys)-2]
		heads := max(n.Int("num_heads", 0), n.Int("q_num_heads", 0))
		if len(xs) == 4 {
			heads = xs[1]
		}
		tokens := times(xs[0], xs[len(xs)-2])
		return plus(plus(times(in, 2, s), times(out, 2, s)), times(5, tokens, heads, s)), known && knownIn
	case name == microsoft+"Attention":
		if len(xs) != 3 || len(ws) != 2 {
			return 0, false
		}
		projections := times(xs[0], xs[1], 2, ws[0], ws[1])
		s := xs[1]
		if p := dims(n.Input(4)); len(p) == 5 {
			s = plus(s, p[3])
		}
		return plus(plus(projections, times(out, 4, s)), times(5, xs[0], xs[1], n.Int("num_heads", 1), s)), known
	}
	return 0, false
}

// movers lists the operators that are not in the view's table and compute
// nothing either.
var movers = []string{
	"ConstantOfShape", "Range", "NonZero", "OneHot", "Compress", "Unique", "TopK", "DepthToSpace", "SpaceToDepth",
	"Cast", "CastLike", "ReverseSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SplitToSequence", "ConcatFromSequence",
}

// normWork is the work of a norm for one element: mean, difference, square,
// mean of squares, quotient, scale and shift, or four of them.
func normWork(rms bool) int64 {
	if rms {
		return 4
	}
	return 7
}

// circulantWork is the work of the transforms of block-circulant products: for
// each of rows, q forward and p inverse ones of b real numbers, 2.5·b·log₂ b each
// (half of 5·b·log₂ b for complex ones, Johnson and Frigo 2007). The b/2 complex
// products of each of p·q blocks take eight each, 4·p·q·b, on top.
func circulantWork(p, q, b, rows int64) int64 {
	log := int64(bits.Len64(uint64(max(b, 1)) - 1))
	return times(rows, times(plus(p, q), 5, b, log)/2)
}

// bias is the work of adding the bias at input i, if there is one.
func bias(n *graph.Node, i int, out int64) int64 {
	if n.Input(i) == nil {
		return 0
	}
	return out
}

// einsumWork is two for every combination of the labels.
func einsumWork(n *graph.Node) (int64, bool) {
	size := map[byte]int64{}
	eq := n.Str("equation", "")
	term := 0
	var labels []byte
	flush := func() bool {
		d := dims(n.Input(term))
		if d == nil || len(d) != len(labels) {
			return false
		}
		for i, l := range labels {
			size[l] = d[i]
		}
		labels = labels[:0]
		term++
		return true
	}
	for i := 0; i < len(eq); i++ {
		switch c := eq[i]; {
		case c == ' ':
		case c == ',':
			if !flush() {
				return 0, false
			}
		case c == '-':
			i = len(eq)
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			labels = append(labels, c)
		default:
			return 0, false
		}
	}
	if !flush() {
		return 0, false
	}
	w := int64(2)
	for _, d := range size {
		w = times(w, d)
	}
	return w, true
}

// dims is the dims of v where all are known, else nil.
func dims(v *graph.Value) []int64 {
	if v == nil {
		return nil
	}
	d, ok := v.Type().StaticDims()
	if !ok {
		return nil
	}
	return d
}

// elements is the number of elements of v, where it is known.
func elements(v *graph.Value) (int64, bool) {
	if v == nil {
		return 0, false
	}
	d, ok := v.Type().StaticDims()
	n := int64(1)
	for _, x := range d {
		n = times(n, x)
	}
	return n, ok
}

// plus and times stay at the largest number instead of overflowing; their
// arguments are not negative.

func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func times(a int64, list ...int64) int64 {
	for _, b := range list {
		hi, lo := bits.Mul64(uint64(a), uint64(b))
		if hi != 0 || lo > math.MaxInt64 {
			return math.MaxInt64
		}
		a = int64(lo)
	}
	return a
}
