package runtime

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// gradient adds to b the nodes that compute the gradients with respect to the
// inputs of x from those with respect to its outputs; dy has nil where the
// loss does not depend on an output. It hands each over with b.add, which
// ignores inputs that need none, so that gradients that cost something should
// ask b.needs first.
type gradient func(b *backward, x *lnode, dy []*lvalue) error

// gradZero is the gradient of functions whose derivative is zero wherever there
// is one.
func gradZero(*backward, *lnode, []*lvalue) error { return nil }

// fusedGradients are those of the nodes that fusion makes, by their kind.
var fusedGradients = map[string]gradient{
	"LayerNormalization": gradLayerNorm,
	"RMSNormalization":   gradLayerNorm,
	"Gelu":               gradFunction,
	"Silu":               gradFunction,
	"Softmax":            gradScores,
	"Attention":          gradAttention,
	"Rotary":             gradRotation,
	maskKind:             gradMask,
}

// discrete has the operators whose results no parameter moves: numbers that
// are no floating-point ones, and those that are shapes or types alone.
var discrete = map[string]bool{
	"Shape": true, "Size": true, "ConstantOfShape": true, "EyeLike": true, "RandomNormalLike": true, "RandomUniformLike": true,
	"Equal": true, "Less": true, "LessOrEqual": true, "Greater": true, "GreaterOrEqual": true,
	"And": true, "Or": true, "Xor": true, "Not": true, "IsNaN": true, "IsInf": true,
	"ArgMax": true, "ArgMin": true, "NonZero": true, "QuantizeLinear": true,
}

// backward adds to a lowered graph the nodes that compute gradients, in
// reverse mode: from the values that a loss reads back to the parameters.
// Forward and backward nodes make one plan, so that the planner keeps an
// activation exactly as long as a gradient reads it. Backward kernels compute
// in float32, on one thread: samples are spread over threads, not the inside
// of kernels.
type backward struct {
	train  *training
	scope  *scope
	simd   *simd.Kernels
	active map[*lvalue]bool     // depends on a parameter
	grads  map[*lvalue]*lvalue  // so far
	shapes map[*lvalue]*lvalue  // see shape
	after  map[*lnode][]*lnode  // forward nodes that only gradients need, by the node that they follow
	first  []*lnode             // the same, of inputs
	nodes  []*lnode             // backward, in order
	packs  map[packKey]*weights // see weights
	circ   map[*lvalue]*circulantWeights
	tables map[backTable]*lvalue
	convs  map[*lnode]*circulantConv
	now    *lnode // whose gradient is being added, for names

	// lookup is the function of that name. Tables of operators name gradients,
	// so gradients cannot name what reads the tables.
	lookup func(domain, name string, version int64) (*operator, bool)
}

// build makes sc, whose outputs are the values of the loss, a graph that ends
// in the gradients of the parameters. What lies between the values of keep is
// computed again rather than kept.
func (b *backward) build(keep []*lvalue) error {
	sc := b.scope
	b.grads, b.shapes = map[*lvalue]*lvalue{}, map[*lvalue]*lvalue{}
	b.after, b.packs, b.circ = map[*lnode][]*lnode{}, map[packKey]*weights{}, map[*lvalue]*circulantWeights{}
	b.tables = map[backTable]*lvalue{}
	b.convs = map[*lnode]*circulantConv{}
	mark(sc)
	prune(sc)
	var reached map[int]bool
	b.active, reached = movedBy(sc)
	// The loss: its inputs are the values, its outputs their gradients.
	loss := &lnode{node: node{name: "loss", op: "loss"}, in: slices.Clone(sc.outputs), kernel: lossKernel}
	for _, v := range sc.outputs {
		if !b.active[v] {
			loss.out = append(loss.out, nil)
			continue
		}
		d := b.value(loss)
		loss.out = append(loss.out, d)
		if was := b.grads[v]; was != nil {
			return fmt.Errorf("value %q is named twice", v.name)
		}
		b.grads[v] = d
	}
	if len(b.grads) == 0 {
		return fmt.Errorf("no parameter moves a value of the loss")
	}
	for i := range b.train.params {
		if !reached[i+1] {
			return fmt.Errorf("parameter %q: no node that the loss needs reads it", b.train.params[i].Name)
		}
	}
	forward := sc.nodes
	if err := b.reverse(forward); err != nil {
		return err
	}
	b.replaceKernels(forward)
	if len(keep) > 0 {
		b.recompute(forward, keep)
	}

	all := slices.Clone(b.first)
	for _, x := range forward {
		all = append(append(all, x), b.after[x]...)
	}
	sc.nodes = append(append(all, loss), b.nodes...)
	sc.outputs = nil // what a sink needs stays, all else goes
	return nil
}

// movedBy returns the values of sc that depend on parameters, these included,
// and the numbers + 1 of the parameters that are read.
func movedBy(sc *scope) (active map[*lvalue]bool, reached map[int]bool) {
	active, reached = map[*lvalue]bool{}, map[int]bool{}
	for _, x := range sc.nodes {
		moved := false
		for _, v := range x.in {
			if v == nil {
				continue
			}
			if v.param > 0 {
				active[v], reached[v.param] = true, true
			}
			moved = moved || active[v]
		}
		if !moved || x.domain == "" && discrete[x.op] || x.castsAway() {
			continue
		}
		for _, v := range x.out {
			if v != nil {
				active[v] = true
			}
		}
	}
	return active, reached
}

// reverse walks the forward nodes backwards and adds their gradients. Every
// operator without one is named at once.
func (b *backward) reverse(forward []*lnode) error {
	missing := map[string]string{}
	for i := len(forward) - 1; i >= 0; i-- {
		x := forward[i]
		dy := make([]*lvalue, len(x.out))
		wanted := false
		for k, v := range x.out {
			if v != nil {
				dy[k] = b.grads[v]
				wanted = wanted || dy[k] != nil
			}
		}
		if !wanted || !slices.ContainsFunc(x.in, b.needs) {
			continue
		}
		g := fusedGradients[x.op]
		if x.kernel == nil {
			g = x.row.gradient
		}
		if g == nil {
			if kind := x.kind(); missing[kind] == "" {
				missing[kind] = x.name
			}
			for _, v := range x.in { // to find the others too
				if b.needs(v) && v.param == 0 && b.grads[v] == nil {
					b.grads[v] = dy[slices.IndexFunc(dy, func(d *lvalue) bool { return d != nil })]
				}
			}
			continue
		}
		b.now = x
		if err := g(b, x, dy); err != nil {
			return fmt.Errorf("%s: gradient: %w", x.title(), err)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no gradient for %s", named(missing))
	}
	return nil
}

// named lists operators with the first node of each.
func named(first map[string]string) string {
	out := ""
	kinds := []string{}
	for k := range first {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for i, k := range kinds {
		if i > 0 {
			out += ", "
		}
		out += fmt.Sprintf("%s (node %q)", k, first[k])
	}
	return out
}

// castsAway reports whether x is a Cast to a type without derivatives.
func (x *lnode) castsAway() bool {
	return x.domain == "" && x.op == "Cast" && !graph.DType(x.int("to", 0)).IsFloat()
}

// needs reports whether a gradient with respect to v is wanted.
func (b *backward) needs(v *lvalue) bool { return v != nil && b.active[v] }

// add hands over a gradient with respect to v: one of v's shape, or for a
// parameter also one that v was broadcast to.
func (b *backward) add(v, d *lvalue) {
	switch {
	case !b.needs(v) || d == nil:
	case v.param > 0:
		b.sink("gradient sum", sumIntoParameter(v.param-1, v.konst.Shape), d)
	case b.grads[v] == nil:
		b.grads[v] = d
	default:
		b.grads[v] = b.op("Add", nil, b.grads[v], d)
	}
}

// addBroadcast is add for a gradient of a shape that v was broadcast to.
func (b *backward) addBroadcast(v, d *lvalue) {
	if b.needs(v) && v.param == 0 {
		d = b.sumTo(d, v)
	}
	b.add(v, d)
}

func (b *backward) value(x *lnode) *lvalue {
	return &lvalue{name: x.name, scope: b.scope, def: x, rank: -1}
}

func (b *backward) label(kind string) string {
	if b.now == nil {
		return kind
	}
	return b.now.name + ": gradient: " + kind
}

// kernels adds a node that computes outputs values with k.
func (b *backward) kernels(kind string, outputs int, k kernel, in ...*lvalue) []*lvalue {
	x := &lnode{node: node{name: b.label(kind), op: kind}, in: in, kernel: k}
	for range outputs {
		x.out = append(x.out, b.value(x))
	}
	b.nodes = append(b.nodes, x)
	return x.out
}

func (b *backward) kernel(kind string, k kernel, in ...*lvalue) *lvalue {
	return b.kernels(kind, 1, k, in...)[0]
}

// sink adds a node without outputs: it adds to the gradient of a parameter.
func (b *backward) sink(kind string, k kernel, in ...*lvalue) {
	b.kernel(kind, k, in...).pinned = true
}

// op adds a node of the default domain.
func (b *backward) op(name string, attrs []*graph.Attr, in ...*lvalue) *lvalue {
	const version = 18 // of the operators as they are written here
	row, ok := b.lookup("", name, version)
	if !ok {
		panic("runtime: gradient with unknown operator " + name)
	}
	x := &lnode{node: node{name: b.label(name), op: name, opset: version, attrs: attrs, simd: b.simd}, version: version, row: row, in: in}
	x.out = []*lvalue{b.value(x)}
	b.nodes = append(b.nodes, x)
	return x.out[0]
}

// again adds a node like x that reads other values.
func (b *backward) again(x *lnode, in []*lvalue) *lvalue {
	y := &lnode{node: node{name: b.label(x.op), op: x.op, domain: x.domain, opset: x.opset, attrs: x.attrs, simd: b.simd}, version: x.version, row: x.row, in: in}
	y.out = []*lvalue{b.value(y)}
	b.nodes = append(b.nodes, y)
	return y.out[0]
}

func (b *backward) constant(t *Tensor) *lvalue { return &lvalue{name: "constant", konst: t} }

func (b *backward) scalar(v float64) *lvalue {
	return b.constant(FromSlice(nil, []float32{float32(v)}))
}

// scaled is d times a constant.
func (b *backward) scaled(d *lvalue, by float64) *lvalue {
	if by == 1 {
		return d
	}
	return b.op("Mul", nil, d, b.scalar(by))
}

// shape is the shape of a forward value, a list of int64, without keeping the
// value.
func (b *backward) shape(v *lvalue) *lvalue {
	if s := b.shapes[v]; s != nil {
		return s
	}
	if v.konst != nil {
		dims := make([]int64, len(v.konst.Shape))
		for i, d := range v.konst.Shape {
			dims[i] = int64(d)
		}
		b.shapes[v] = b.constant(FromSlice([]int{len(dims)}, dims))
		return b.shapes[v]
	}
	x := &lnode{node: node{name: v.name + ": shape", op: "Shape"}, in: []*lvalue{v}, kernel: shapeKernel}
	x.out = []*lvalue{b.value(x)}
	if v.def == nil {
		b.first = append(b.first, x)
	} else {
		b.after[v.def] = append(b.after[v.def], x)
	}
	b.shapes[v] = x.out[0]
	return x.out[0]
}

func shapeKernel(c *call) error {
	z, err := c.alloc(0, graph.Int64, len(c.in[0].Shape))
	if err != nil {
		return err
	}
	for i, d := range c.in[0].Shape {
		z.I64()[i] = int64(d)
	}
	return nil
}

// sumTo sums d over what v was broadcast along.
func (b *backward) sumTo(d, v *lvalue) *lvalue {
	return b.kernel("sum to shape", sumTo(b.simd), d, b.shape(v))
}

// like gives d the shape of v, of as many elements.
func (b *backward) like(d, v *lvalue) *lvalue {
	return b.kernel("reshape", func(c *call) error {
		s := c.shapes()
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		return c.view(0, c.in[0], s.dims...)
	}, d, b.shape(v))
}

// sumTo: D, shape → D summed over the axes along which a tensor of that shape
// is broadcast to D's.
func sumTo(k *simd.Kernels) kernel {
	type state struct {
		broadcast
		dims []int
	}
	return func(c *call) error {
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		d := c.in[0]
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		n, err := count(s.dims)
		if err != nil {
			return err
		}
		if n == d.Len() {
			return c.view(0, d, s.dims...)
		}
		z, err := c.alloc(0, graph.Float32, s.dims...)
		if err != nil {
			return err
		}
		clear(z.F32())
		return addSums(k, &s.broadcast, z.F32(), s.dims, d)
	}
}

// addSums adds to z, of a shape that is broadcast to d's, what falls on each
// of its elements.
func addSums(k *simd.Kernels, b *broadcast, z []float32, shape []int, d *Tensor) error {
	if d.DType != graph.Float32 {
		return wrongType(d.DType)
	}
	if err := b.set(d.Shape, shape); err != nil {
		return err
	}
	if b.size != d.Len() {
		return fmt.Errorf("gradient %v does not sum to %v", d.Shape, shape)
	}
	x := d.F32()
	if len(z) > 0 && len(z) == len(x) {
		k.Add(z, z, x)
		return nil
	}
	for r := b.from(0, b.size); r.ok(); r.next() {
		row := x[r.at : r.at+r.n]
		if b.inner(1) == 0 {
			z[r.off[1]] += k.Sum(row)
			continue
		}
		to := z[r.off[1]:][:r.n]
		k.Add(to, to, row)
	}
	return nil
}

// sumIntoParameter adds a gradient that the parameter was broadcast to.
func sumIntoParameter(param int, shape []int) kernel {
	return func(c *call) error {
		b, ok := c.state.(*broadcast)
		if !ok {
			b = &broadcast{}
			c.state = b
		}
		return addSums(c.s.train.simd, b, c.s.train.gradients[param], shape, c.in[0])
	}
}
