package testmodels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// Size is what the builders of transformers have in common. Zero values get
// the family's defaults.
type Size struct {
	Layers  int    // of the encoder or decoder; of each where there are both
	Width   int    // of the residual stream
	Heads   int    // attention heads; Width is a multiple of it
	KVHeads int    // heads of keys and values (grouped attention); Heads is a multiple of it
	Hidden  int    // of the MLP
	Vocab   int    // tokens, and logits of a decoder
	Length  int    // longest sequence, where positions are learnt or the mask is stored
	Classes int    // outputs of a classifier
	Opset   int64  // 13 to 23; norms are LayerNormalization from 17 and decomposed below, GELU is Gelu from 20
	Seed    uint64 // of the weights
	Tiled   bool   // large weights repeat a block of drawn numbers, for models of gigabytes

	// Without lists modules, by their ids (see package modules), that the model is
	// exported without. All other weights stay what they are.
	Without []string
}

// or returns s with d's values where s has none, and panics on a size that
// does not fit together.
func (s Size) or(d Size) Size {
	for _, f := range []struct{ own, def *int }{
		{&s.Layers, &d.Layers}, {&s.Width, &d.Width}, {&s.Heads, &d.Heads}, {&s.KVHeads, &d.KVHeads},
		{&s.Hidden, &d.Hidden}, {&s.Vocab, &d.Vocab}, {&s.Length, &d.Length}, {&s.Classes, &d.Classes},
	} {
		if *f.own == 0 {
			*f.own = *f.def
		}
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.Opset == 0 {
		s.Opset = 17
	}
	if s.Opset < 13 || s.Opset > 23 {
		panic(fmt.Sprintf("testmodels: opset %d, want 13 to 23", s.Opset))
	}
	if s.Heads > 0 && (s.Width%s.Heads != 0 || s.Heads%s.KVHeads != 0) {
		panic(fmt.Sprintf("testmodels: width %d, %d heads, %d heads of keys: each must divide the one before", s.Width, s.Heads, s.KVHeads))
	}
	return s
}

// builder writes a graph in the manner of PyTorch's exporter: names are the
// path of the module that an operator comes from, numbers are Constant nodes,
// weights are initializers, and dynamic dims are read with Shape and Gather.
type builder struct {
	m     *graph.Model
	g     *graph.Graph
	r     *rand.Rand
	opset int64
	scope []string
	names map[string]int // times that a node name was used
	call  *call          // the function that is being written, or nil
	// without lists the modules that are left out.
	without []string
	tiled   bool
}

// call is a call of a function that is being written: its weights are
// initializers of the main graph and arguments of the call.
type call struct {
	body    *graph.Graph
	scope   int // length of the caller's scope
	weights ins
}

// ins are the inputs of an operator.
type ins = []*graph.Value

func newBuilder(name string, s Size) *builder {
	ir := int64(8) // came with opset 15, and 10 with 21, 11 with 23
	switch {
	case s.Opset >= 23:
		ir = 11
	case s.Opset > 18:
		ir = 10
	}
	m := graph.NewModel(name, ir, s.Opset)
	m.ProducerName = "lathe/testmodels"
	return &builder{m: m, g: m.Graph, opset: s.Opset, without: s.Without, tiled: s.Tiled, names: map[string]int{},
		r: rand.New(rand.NewPCG(s.Seed, 0x776569676874))} // "weight"
}

// module is what the stream x becomes behind the module of that kind (A, X or
// M) and layer: y, or x where the module is left out. What y is made of has
// been written by then, as the weights are drawn in order; model takes it
// away.
func (b *builder) module(kind string, layer int, x, y *graph.Value) *graph.Value {
	if b.lacks(kind, layer) {
		return x
	}
	return y
}

func (b *builder) lacks(kind string, layer int) bool {
	return slices.Contains(b.without, kind+strconv.Itoa(layer))
}

// model returns the model. As exporters do, it leaves out what no output
// needs: what is left of modules that were left out, and the caches that
// nothing reads.
func (b *builder) model() *graph.Model {
	unread := func(v *graph.Value) bool { return v == nil || len(v.Uses()) == 0 && !v.IsOutput() }
	for again := true; again; {
		again = false
		b.m.Graphs(func(g *graph.Graph) bool {
			var dead []*graph.Node
			for _, n := range g.Nodes() {
				if !slices.ContainsFunc(n.Outputs(), func(v *graph.Value) bool { return !unread(v) }) {
					dead = append(dead, n)
				}
			}
			g.Remove(dead...)
			again = again || len(dead) > 0
			return true
		})
	}
	for _, v := range slices.Clone(b.m.Graph.Initializers()) {
		if unread(v) {
			b.m.Graph.RemoveInitializer(v)
		}
	}
	for _, v := range slices.Clone(b.m.Graph.Inputs()) {
		if unread(v) && strings.HasPrefix(v.Name, "past_") {
			b.m.Graph.RemoveInput(v)
		}
	}
	return b.m
}

// in runs f with path, in the form of fmt.Sprintf, added to the names.
func (b *builder) in(f func(), format string, a ...any) {
	b.scope = append(b.scope, fmt.Sprintf(format, a...))
	f()
	b.scope = b.scope[:len(b.scope)-1]
}

// path is the path of op in the present scope.
func (b *builder) path(op string) string { return strings.Join(append(slices.Clone(b.scope), op), "/") }

// nodes adds an operator with that many outputs.
func (b *builder) nodes(op string, inputs ins, outputs int, attrs ...*graph.Attr) ins {
	return b.domainOp("", op, inputs, outputs, attrs...)
}

// domainOp is nodes for an operator of any domain.
func (b *builder) domainOp(domain, op string, inputs ins, outputs int, attrs ...*graph.Attr) ins {
	name := "/" + b.path(op)
	if b.names[name]++; b.names[name] > 1 {
		name += "_" + strconv.Itoa(b.names[name]-1)
	}
	var out []string
	for i := range outputs {
		out = append(out, fmt.Sprintf("%s_output_%d", name, i))
	}
	return b.g.NewNode(domain, op, name, inputs, out, attrs...).Outputs()
}

// op adds an operator with one output.
func (b *builder) op(op string, inputs ins, attrs ...*graph.Attr) *graph.Value {
	return b.nodes(op, inputs, 1, attrs...)[0]
}

// input adds a graph input; a dim is an int or the name of a symbol.
func (b *builder) input(name string, d graph.DType, dims ...any) *graph.Value {
	return b.g.AddInput(name, declare(d, dims))
}

// output makes v a graph output of that name.
func (b *builder) output(name string, v *graph.Value, d graph.DType, dims ...any) {
	v.Rename(name)
	b.g.AddOutput(v, declare(d, dims))
}

func declare(d graph.DType, dims []any) *graph.Type {
	var out []graph.Dim
	for _, x := range dims {
		switch x := x.(type) {
		case int:
			out = append(out, graph.Known(int64(x)))
		case string:
			out = append(out, graph.Symbol(x))
		default:
			panic(fmt.Sprintf("testmodels: a dim is an int or a string, not a %T", x))
		}
	}
	return graph.TensorType(d, out...)
}

// function calls a local function with the arguments args. The first call
// writes its body; body is run for every call, since it draws the weights.
func (b *builder) function(domain, name string, args ins, body func(args ins) ins) ins {
	written := b.m.Function(domain, name, "") != nil
	f := b.m.AddFunction(domain, name, graph.Opset{Version: b.opset})
	outer := b.g
	b.g, b.call = f.Graph, &call{body: f.Graph, scope: len(b.scope)}
	var inner ins
	for i := range args {
		inner = append(inner, b.g.AddInput(fmt.Sprintf("arg%d", i), nil))
	}
	results := body(inner)
	for _, y := range results {
		b.g.AddOutput(y, nil)
	}
	inputs := append(slices.Clone(args), b.call.weights...)
	b.g, b.call = outer, nil
	if written {
		b.m.RemoveFunction(f)
	}
	b.m.SetOpset(domain, 1)
	return b.domainOp(domain, name, inputs, len(results))
}

// Constants.

func (b *builder) constant(t *graph.Tensor) *graph.Value {
	return b.op("Constant", nil, graph.TensorAttr("value", t))
}

func (b *builder) float(x float64) *graph.Value {
	return b.constant(graph.Float32Tensor(nil, []float32{float32(x)}))
}

func (b *builder) int(x int64) *graph.Value { return b.constant(graph.Int64Tensor(nil, []int64{x})) }

func (b *builder) ints(x ...int64) *graph.Value {
	return b.constant(graph.Int64Tensor([]int64{int64(len(x))}, x))
}

// Weights. Their names are the module's path with dots, as in a state dict.

// name is the full name of a weight, and its value where another branch of an
// If has made it already.
func (b *builder) name(of string) (string, *graph.Value) {
	path := strings.ReplaceAll(strings.Join(append(slices.Clone(b.scope), of), "."), "/", ".")
	return path, b.m.Graph.Value(path)
}

func (b *builder) init(name string, t *graph.Tensor) *graph.Value {
	path, v := b.name(name)
	if v == nil {
		v = b.m.Graph.AddInitializer(path, t)
	}
	if b.call == nil {
		return v
	}
	b.call.weights = append(b.call.weights, v)
	local := strings.Join(append(slices.Clone(b.scope[b.call.scope:]), name), ".")
	return b.call.body.AddInput(strings.ReplaceAll(local, "/", "."), nil)
}

// weight is an initializer of drawn numbers.
func (b *builder) weight(name string, mean, deviation float64, dims ...int) *graph.Value {
	if _, v := b.name(name); v != nil {
		return v
	}
	return b.init(name, b.draw(mean, deviation, dims...))
}

// draw draws numbers of mean and standard deviation about a normal
// distribution: sums of twelve uniform integers, so that every machine gets
// the same bits.
func (b *builder) draw(mean, deviation float64, dims ...int) *graph.Tensor {
	shape, n := make([]int64, len(dims)), 1
	for i, d := range dims {
		shape[i] = int64(d)
		n *= d
	}
	data := make([]float32, n)
	drawn := data
	if b.tiled {
		drawn = data[:min(n, 1<<16)]
	}
	for i := range drawn {
		const one = 1 << 20
		sum := -6 * one // twelve uniforms in [0, 1) have variance 1
		for range 12 {
			sum += b.r.IntN(one)
		}
		scaled := float64(float64(sum)/one) * deviation
		drawn[i] = float32(mean + float64(scaled))
	}
	for at := len(drawn); at < n; at += len(drawn) {
		copy(data[at:], drawn)
	}
	return graph.Float32Tensor(shape, data)
}

// packed stores matrices [n, d] or vectors [d] of n rows side by side, [n,
// parts·d] or [parts·d].
func (b *builder) packed(name string, parts ...*graph.Tensor) *graph.Value {
	dims := slices.Clone(parts[0].Dims)
	last := len(dims) - 1
	d := int(dims[last])
	dims[last] *= int64(len(parts))
	var data []float32
	for row := 0; int64(row*d) < parts[0].Len(); row++ {
		for _, t := range parts {
			x, err := t.Float32s()
			if err != nil {
				panic(err)
			}
			data = append(data, x[row*d:(row+1)*d]...)
		}
	}
	return b.init(name, graph.Float32Tensor(dims, data))
}

// fan is the deviation that keeps the variance of a product with n terms.
func fan(n int) float64 { return 1 / math.Sqrt(float64(n)) }

// gain is the scale of a residual branch. It differs from branch to branch,
// so that some modules matter more than others.
func (b *builder) gain() float64 { return float64(10+b.r.IntN(91)) / 100 }

// Shapes.

// dim is a dim of a shape: axis of a value, or a number where of is nil.
type dim struct {
	of *graph.Value
	n  int64
}

func fixed(n int) dim                 { return dim{nil, int64(n)} }
func axis(of *graph.Value, i int) dim { return dim{of, int64(i)} }
func (b *builder) dimOf(d dim) *graph.Value { // a scalar
	if d.of == nil {
		return b.int(d.n)
	}
	return b.op("Gather", ins{b.op("Shape", ins{d.of}), b.int(d.n)}, graph.IntAttr("axis", 0))
}

// shape makes a shape of dims: a constant where all are numbers.
func (b *builder) shape(dims ...dim) *graph.Value {
	known, moving := []int64{}, false
	for _, d := range dims {
		moving = moving || d.of != nil
		known = append(known, d.n)
	}
	if !moving {
		return b.ints(known...)
	}
	var parts ins
	for _, d := range dims {
		if d.of == nil {
			parts = append(parts, b.ints(d.n))
		} else {
			parts = append(parts, b.unsqueeze(b.dimOf(d), 0))
		}
	}
	return b.op("Concat", parts, graph.IntAttr("axis", 0))
}

func (b *builder) reshape(x *graph.Value, dims ...dim) *graph.Value {
	return b.op("Reshape", ins{x, b.shape(dims...)})
}

func (b *builder) transpose(x *graph.Value, perm ...int64) *graph.Value {
	return b.op("Transpose", ins{x}, graph.IntsAttr("perm", perm...))
}

func (b *builder) unsqueeze(x *graph.Value, axes ...int64) *graph.Value {
	return b.op("Unsqueeze", ins{x, b.ints(axes...)})
}

func (b *builder) concat(axis int64, x ...*graph.Value) *graph.Value {
	return b.op("Concat", x, graph.IntAttr("axis", axis))
}

// slice is x[from:to] along one axis; from and to are [1].
func (b *builder) slice(x, from, to *graph.Value, axis int64) *graph.Value {
	return b.op("Slice", ins{x, from, to, b.ints(axis), b.ints(1)})
}

// end is what the exporter writes for an open end of a slice.
const end = math.MaxInt64

func (b *builder) reduceMean(x *graph.Value, axis int64) *graph.Value {
	if b.opset >= 18 {
		return b.op("ReduceMean", ins{x, b.ints(axis)})
	}
	return b.op("ReduceMean", ins{x}, graph.IntsAttr("axes", axis))
}

func (b *builder) cast(x *graph.Value, d graph.DType) *graph.Value {
	return b.op("Cast", ins{x}, graph.IntAttr("to", int64(d)))
}

// Layers.

func (b *builder) add(x, y *graph.Value) *graph.Value    { return b.op("Add", ins{x, y}) }
func (b *builder) mul(x, y *graph.Value) *graph.Value    { return b.op("Mul", ins{x, y}) }
func (b *builder) matmul(x, y *graph.Value) *graph.Value { return b.op("MatMul", ins{x, y}) }

// linear is nn.Linear on a tensor of rank 3: MatMul with the transposed
// weight, then the bias as first operand of an Add. bias is the deviation of
// the bias; 0 leaves it out.
func (b *builder) linear(name string, x *graph.Value, in, out int, gain, bias float64) (y *graph.Value) {
	b.in(func() {
		w := b.weight("weight", 0, gain*fan(in), in, out)
		y = b.matmul(x, w)
		if bias > 0 {
			y = b.add(b.weight("bias", 0, bias, out), y)
		}
	}, "%s", name)
	return y
}

// gemm is nn.Linear on a tensor of rank 2.
func (b *builder) gemm(name string, x *graph.Value, in, out int, gain float64) (y *graph.Value) {
	b.in(func() {
		w := b.weight("weight", 0, gain*fan(in), out, in)
		y = b.op("Gemm", ins{x, w, b.weight("bias", 0, 0.1, out)},
			graph.FloatAttr("alpha", 1), graph.FloatAttr("beta", 1), graph.IntAttr("transB", 1))
	}, "%s", name)
	return y
}

// layerNorm is nn.LayerNorm over the last axis of x [..., width].
func (b *builder) layerNorm(name string, x *graph.Value, width int, epsilon float64) (y *graph.Value) {
	b.in(func() {
		w, bias := b.weight("weight", 1, 0.1, width), b.weight("bias", 0, 0.1, width)
		if b.opset >= 17 {
			y = b.op("LayerNormalization", ins{x, w, bias},
				graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", float32(epsilon)))
			return
		}
		centred := b.op("Sub", ins{x, b.reduceMean(x, -1)})
		variance := b.reduceMean(b.op("Pow", ins{centred, b.float(2)}), -1)
		root := b.op("Sqrt", ins{b.add(variance, b.float(epsilon))})
		y = b.add(b.mul(b.op("Div", ins{centred, root}), w), bias)
	}, "%s", name)
	return y
}

// gelu is nn.functional.gelu in its exact form, or GPT-2's gelu_new.
func (b *builder) gelu(x *graph.Value, tanh bool) (y *graph.Value) {
	b.in(func() {
		switch {
		case b.opset >= 20 && tanh:
			y = b.op("Gelu", ins{x}, graph.StringAttr("approximate", "tanh"))
		case b.opset >= 20:
			y = b.op("Gelu", ins{x})
		case tanh:
			half := b.mul(x, b.float(0.5))
			cube := b.mul(b.op("Pow", ins{x, b.float(3)}), b.float(0.044715))
			inner := b.mul(b.add(x, cube), b.float(math.Sqrt(2/math.Pi)))
			y = b.mul(half, b.add(b.op("Tanh", ins{inner}), b.float(1)))
		default:
			erf := b.op("Erf", ins{b.op("Div", ins{x, b.float(math.Sqrt2)})})
			y = b.mul(b.mul(x, b.add(erf, b.float(1))), b.float(0.5))
		}
	}, "act")
	return y
}

// heads splits x [B, T, n·size] into [B, n, T, size].
func (b *builder) heads(x *graph.Value, n, size int) *graph.Value {
	return b.transpose(b.reshape(x, axis(x, 0), axis(x, 1), fixed(n), fixed(size)), 0, 2, 1, 3)
}

// merge is the inverse of heads: x [B, n, T, size] becomes [B, T, width].
func (b *builder) merge(x *graph.Value, width int) *graph.Value {
	x = b.transpose(x, 0, 2, 1, 3)
	return b.reshape(x, axis(x, 0), axis(x, 1), fixed(width))
}

// attend is softmax(q·kᵀ/√size + mask)·v for q [B, H, T, size] and k, v
// [B, H, S, size]; mask may be nil.
func (b *builder) attend(q, k, v, mask *graph.Value, size int) *graph.Value {
	scores := b.op("Div", ins{b.matmul(q, b.transpose(k, 0, 1, 3, 2)), b.float(math.Sqrt(float64(size)))})
	if mask != nil {
		scores = b.add(scores, mask)
	}
	return b.matmul(b.op("Softmax", ins{scores}, graph.IntAttr("axis", -1)), v)
}

// lowest is what masks add to a score that must not count: float32's minimum.
const lowest = -math.MaxFloat32
