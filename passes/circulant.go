package passes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// Fit is how a block-circulant weight is made from a dense one.
type Fit string

const (
	// FitLSQ is per-frequency least squares on calibration data:
	// sequential, through the already rewritten prefix, where Feed is given;
	// one-shot where only a ledger with moments is.
	FitLSQ Fit = "lsq"
	// FitFrobenius is the projection, the mean of every wrapped diagonal. Where
	// Feed is given the bias is refitted, as for FitLSQ.
	FitFrobenius Fit = "frobenius"
)

// CirculantOptions says which weights become block-circulant, and how.
type CirculantOptions struct {
	Block       int            // block size, 2 to circulant.MaxBlock; 0 leaves layers dense that Blocks does not name
	Blocks      map[string]int // block sizes of layers by the names of their nodes, in place of Block; 1 leaves a layer dense
	Fit         Fit            // "" means FitLSQ
	Only, Skip  *regexp.Regexp // node names; nil means all, none
	IncludeTied bool           // also weights that an embedding shares
	IncludeHead bool           // also the last projection to classes or vocabulary
	// IncludeFirst: also convolutions of one to three input channels, those of pictures
	// and of sound, which have few weights that much depends on.
	IncludeFirst bool
	Ridge        float64 // of the least squares; 0 means the default of circulant.FitOptions
	// Rank is that of a residual U·V·x beside the blocks of every linear layer,
	// fitted with them; 0 for none. It needs FitLSQ, and Feed (Allocate has its own).
	Rank int

	Feed    *calib.Feed   // data for a sequential fit
	Ledger  *calib.Ledger // moments for a one-shot fit, of calib.Score with ScoreOptions.Moments
	Threads int           // 0 means one per processor

	Progress func(done, total int)  // layers; may be nil
	Layer    func(l CirculantLayer) // called for every rewritten layer; may be nil
}

// CirculantLayer is one layer that was rewritten. Errors of outputs are
// relative, sqrt(E‖y − y′‖² / E‖y − E[y]‖²) over the calibration data, y the
// output of the original layer in the original model; they are NaN without
// data.
type CirculantLayer struct {
	Node           string  // its name
	M, N, Block    int     // outputs, inputs (of a convolution: of its window), block size
	Error          float64 // of the output
	FrobeniusError float64 // what the projection's would be
	WeightError    float64 // ‖W − C‖ / ‖W‖
	ParamsBefore   int64   // of weight, and bias if it had one
	ParamsAfter    int64   // of weight, residual and bias
}

// block is the block size of a layer.
func (o *CirculantOptions) block(name string) int {
	if b, ok := o.Blocks[name]; ok {
		return b
	}
	return max(o.Block, 1)
}

// weight is what a layer multiplies by and the form that it gets. Layers with
// equal ones share one block-circulant weight.
type weight struct {
	root       *graph.Value // holds the constant
	transposed bool         // the layer's W is the constant and not its transpose
	alpha      float32      // factor of the constant
	groups     int          // that share out the outputs: 1, or those of a convolution
	block      int          // the block size that it gets; 1: it stays dense
}

// layer is a weight operator that can be rewritten: y = W·x + bias on the last
// axis or, for a convolution, on the columns of its windows. In groups, each has
// m/groups of the outputs and n inputs of its own; see parts.
type layer struct {
	node   *graph.Node
	add    *graph.Node // the Add of the bias, nil if there is none of its own
	m, n   int
	run    int     // columns that blocks may span: n, or the channels of a tap
	kernel []int64 // of a convolution, else nil
	part   int     // the group that it is
	weight
	bias   []float32 // [m]
	biased bool      // it had one

	dense []float32 // W [m, n], once it is loaded
}

// paramsIn is the number of weights in blocks of b, with a residual of a rank.
func (l *layer) paramsIn(b, rank int) int {
	return l.groups*blocks(l.m/l.groups, b)*l.taps()*blocks(l.run, b)*b + l.rank(rank)*(l.m+l.n)
}

// rank is that of the residual that the layer gets where rank is wanted: none
// beside a convolution.
func (l *layer) rank(rank int) int {
	if l.kernel != nil {
		return 0
	}
	return min(rank, l.m, l.n)
}

// key is how a ledger calls the moments of what the layer, a part, multiplies.
func (l *layer) key() string { return calib.OperandOf(l.node, l.part).Key }

// x is the value that the layer reads: where that was the output of a layer
// rewritten before, its new form.
func (l *layer) x() *graph.Value { return l.node.Input(0) }

// out is the value that the rewritten layer computes.
func (l *layer) out() *graph.Value {
	if l.add != nil {
		return l.add.Output(0)
	}
	return l.node.Output(0)
}

// name is how the layer is called in reports: its node's name, or the name of
// its output where the node has none.
func (l *layer) name() string { return cmp.Or(l.node.Name, l.out().Name) }

// load reads W.
func (l *layer) load() error {
	data, err := l.root.ConstTensor().Float32s()
	if err != nil {
		return err
	}
	l.dense = make([]float32, len(data))
	for i := range l.m {
		row := l.dense[i*l.n : (i+1)*l.n]
		for k := range row {
			at := k*l.m + i
			if l.transposed { // [m, run, taps]
				at = i*l.n + k%l.run*l.taps() + k/l.run
			}
			row[k] = l.alpha * data[at]
		}
	}
	if slices.ContainsFunc(l.dense, func(v float32) bool { return v-v != 0 }) {
		return fmt.Errorf("its weight %q holds NaN or infinity", l.root.Name)
	}
	return nil
}

// RewriteCirculant puts lathe.BlockCirculantMatMul in the place of MatMul and
// Gemm nodes with a constant weight, the bias that follows a MatMul included,
// and lathe.BlockCirculantConv in that of Conv nodes that are not depth-wise, and adds
// the functions that define them in standard operators. The weight may
// stand behind Identity and Transpose nodes ([calib.Weight]). A weight that
// several layers read is fitted once, on the inputs of all of them; every
// layer has a bias of its own. Dense weights stay until [EliminateDeadCode] runs.
//
// It fails where FitLSQ has neither data nor a ledger with moments, and where a block
// size is not one. That no layer can be rewritten is no error: Layer is not called
// then.
func RewriteCirculant(o CirculantOptions) Pass {
	return Pass{
		Name:     circulantPass,
		Doc:      "put block-circulant operators in the place of dense layers",
		Contract: Lossy,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			if o.Fit == "" {
				o.Fit = FitLSQ
			}
			r := rewriter{m: m, j: j, o: o, fitted: map[weight]*fitted{}}
			return r.run(ctx)
		},
	}
}

const circulantPass = "rewrite-circulant"

type rewriter struct {
	m      *graph.Model
	j      *Journal
	o      CirculantOptions
	fitted map[weight]*fitted
	done   []modules.Rewrite

	applied []*applied
}

// fitted is a block-circulant weight, of every part of a layer, and its initializer
// once it has one.
type fitted struct {
	parts []*circulant.Matrix
	init  *graph.Value
}

func (r *rewriter) run(ctx context.Context) error {
	sizes := slices.Collect(maps.Values(r.o.Blocks))
	slices.Sort(sizes)
	if r.o.Block != 0 || len(sizes) == 0 {
		sizes = append(sizes, r.o.Block)
	}
	for _, b := range sizes {
		if b < 1 || b == 1 && len(r.o.Blocks) == 0 || b > circulant.MaxBlock {
			return fmt.Errorf("block size %d; choose 2 to %d", b, circulant.MaxBlock)
		}
	}
	if r.o.Fit != FitLSQ && r.o.Fit != FitFrobenius {
		return fmt.Errorf("no fit %q; there are %s and %s", r.o.Fit, FitLSQ, FitFrobenius)
	}
	if r.o.Rank < 0 || r.o.Rank > 0 && (r.o.Feed == nil || r.o.Fit != FitLSQ) {
		return fmt.Errorf("a residual of rank %d: it is fitted by least squares on data, and has a rank above 0", r.o.Rank)
	}
	if r.o.Fit == FitLSQ && r.o.Feed == nil && r.o.Ledger == nil {
		return errors.New("least squares needs data, or a ledger scored with moments; or choose the frobenius fit")
	}
	print := r.m.Fingerprint()
	if r.o.Feed != nil || r.o.Fit == FitFrobenius { // a ledger has no moments of what lies inside
		if err := r.inline(); err != nil {
			return err
		}
	}
	rewrite := r.rewrite
	if branched(r.m) && modules.Merged(r.m) && (r.o.Feed != nil || r.o.Fit == FitFrobenius) {
		rewrite = r.throughBranches
	}
	if err := rewrite(ctx); err != nil || len(r.done) == 0 {
		return err
	}
	h, err := modules.ReadHistory(r.m)
	if err != nil {
		return err
	}
	if h.Original == "" {
		h.Original = print
	}
	h.Rewrites = append(h.Rewrites, r.done...)
	return modules.WriteHistory(r.m, h)
}

// rewrite fits and replaces the layers of the main graph.
func (r *rewriter) rewrite(ctx context.Context) error {
	layers, err := r.layers()
	if err != nil || len(layers) == 0 {
		return err
	}
	original := r.m.Clone()
	if err := r.importOperators(layers); err != nil {
		return err
	}
	switch {
	case r.o.Feed != nil:
		err = r.sequential(ctx, original, layers)
	case r.o.Fit == FitFrobenius:
		err = r.oneShot(ctx, layers, func(string) *circulant.Moments { return nil })
	default:
		if err := ledgerFits(original, r.o.Ledger); err != nil {
			return err
		}
		err = r.oneShot(ctx, layers, r.o.Ledger.Moments)
	}
	return err
}

// importOperators makes the model one that may call the operators of the layers:
// with the functions that define them, the import of their domain, and a format
// that knows functions.
func (r *rewriter) importOperators(layers []*layer) error {
	opset, ok := r.m.Opset("")
	if !ok {
		return errors.New("the model does not import the default operator set")
	}
	if v, ok := r.m.Opset(graph.LatheDomain); ok && v > graph.LatheVersion {
		return fmt.Errorf("the model imports version %d of domain %q; this program knows up to %d", v, graph.LatheDomain, graph.LatheVersion)
	}
	for _, conv := range []bool{false, true} {
		if !slices.ContainsFunc(layers, func(l *layer) bool { return (l.kernel != nil) == conv }) {
			continue
		}
		function := matMulFunction
		if conv {
			function = convFunction
		}
		f, err := function(opset)
		if err != nil {
			return err
		}
		if err := r.addFunction(f); err != nil {
			return err
		}
	}
	if _, ok := r.m.Opset(graph.LatheDomain); !ok {
		r.m.SetOpset(graph.LatheDomain, 1)
	}
	if r.m.IRVersion < 8 {
		r.j.Add(circulantPass, "", fmt.Sprintf("ir_version %d → 8", r.m.IRVersion), "model-local functions came with 8")
		r.m.IRVersion = 8
	}
	return nil
}

// addFunction adds f unless the model has it.
func (r *rewriter) addFunction(f *graph.Function) error {
	text := func(f *graph.Function) string {
		m := graph.NewModel("", 8, 17)
		m.CopyFunction(f)
		return m.Text(graph.OmitDocs())
	}
	switch there := r.m.Function(graph.LatheDomain, f.Name, ""); {
	case there == nil:
		r.m.CopyFunction(f)
	case text(there) != text(f):
		return fmt.Errorf("the model has a function %s.%s with another body; rewrite the original model", graph.LatheDomain, f.Name)
	}
	return nil
}

// layers finds what is to be rewritten and journals what is left alone.
func (r *rewriter) layers() ([]*layer, error) {
	var out []*layer
	var others []string // names that are not asked for
	matched := false
	for _, n := range r.m.Graph.Nodes() {
		for _, s := range n.Subgraphs() {
			if hasWeights(s) {
				r.j.Add(circulantPass, n.String(), "left dense", "layers inside its branches or body are not rewritten")
				break
			}
		}
		if !n.Is("MatMul", "Gemm", "Conv") {
			continue
		}
		l, why := layerOf(n)
		if l != nil {
			name := l.name()
			l.block = r.o.block(name)
			switch {
			case r.o.Only != nil && !r.o.Only.MatchString(name):
				why, others = "not among those asked for", append(others, name)
			case r.o.Skip != nil && r.o.Skip.MatchString(name):
				why, matched = "asked to be skipped", true
			case !r.o.IncludeTied && tied(l.root):
				why, matched = "its weight is tied to an embedding; include tied weights to rewrite it", true
			case !r.o.IncludeHead && isHead(l.out()):
				why, matched = "it is the last projection; include the head to rewrite it", true
			case !r.o.IncludeFirst && l.kernel != nil && l.run*l.groups <= firstChannels:
				why, matched = fmt.Sprintf("it reads %d input channels; include first layers to rewrite it", l.run*l.groups), true
			case l.block > 1 && l.paramsIn(l.block, r.o.Rank) >= l.m*l.n:
				why, matched = fmt.Sprintf("%d×%d has no fewer parameters in blocks of %d", l.m, l.n, l.block), true
			case l.block == 1:
				why, matched = "asked to be left dense", true
			default:
				out, matched = append(out, l), true
			}
		}
		if why != "" {
			r.j.Add(circulantPass, n.String(), "left dense", why)
		}
	}
	if !matched && r.o.Only != nil {
		return nil, noneCalled(r.o.Only, others)
	}
	return out, nil
}

// noneCalled is the error where no layer's name matches; it shows how some are called.
func noneCalled(only *regexp.Regexp, names []string) error {
	const some = 3
	switch n := len(names); {
	case n == 0:
		return fmt.Errorf("no layer is called %v; there is no layer with constant weights", only)
	case n > some:
		return fmt.Errorf("no layer is called %v; they are called %s, …, %s", only, strings.Join(names[:some], ", "), names[n-1])
	}
	return fmt.Errorf("no layer is called %v; they are called %s", only, strings.Join(names, ", "))
}

// hasWeights reports whether a graph multiplies by constant weights.
func hasWeights(g *graph.Graph) bool {
	return slices.ContainsFunc(g.Nodes(), func(n *graph.Node) bool {
		if n.Is("MatMul", "Gemm", "Conv") {
			if w, _ := calib.Weight(n.Input(1)); w != nil {
				return true
			}
		}
		return slices.ContainsFunc(n.Subgraphs(), hasWeights)
	})
}

func blocks(n, b int) int { return (n + b - 1) / b }

// firstChannels is how many input channels the first convolution of a network has
// at most: colours.
const firstChannels = 3

// layerOf reads a MatMul, Gemm or Conv; see denseLayer and convLayer.
func layerOf(n *graph.Node) (*layer, string) {
	if n.Is("Conv") {
		return convLayer(n)
	}
	return denseLayer(n)
}

// denseLayer reads n, a MatMul or Gemm, as y = W·x + bias. It returns nil and
// the reason where n has a constant operand and is not of that form, and nil
// alone where both operands are activations.
func denseLayer(n *graph.Node) (*layer, string) {
	a, b := n.Input(0), n.Input(1)
	if a == nil || b == nil {
		return nil, ""
	}
	root, transposed := calib.Weight(b)
	left, _ := calib.Weight(a)
	switch {
	case root == nil && madeOfConstants(b):
		return nil, fmt.Sprintf("its weight is no constant itself: %v computes it", b.Def())
	case root == nil && left == nil:
		return nil, ""
	case root == nil:
		return nil, "its constant is the left operand"
	case left != nil:
		return nil, "both operands are constant; fold constants first"
	}
	w := root.ConstTensor()
	switch {
	case len(w.Dims) != 2:
		return nil, fmt.Sprintf("its weight has %d axes", len(w.Dims))
	case w.DType != graph.Float32:
		return nil, fmt.Sprintf("its weight is %v", w.DType)
	case w.Len() == 0:
		return nil, "its weight is empty"
	}
	l := &layer{node: n, weight: weight{root: root, transposed: transposed, alpha: 1, groups: 1}}
	if n.Op == "Gemm" {
		if n.Int("transA", 0) != 0 {
			return nil, "its input is transposed"
		}
		l.alpha = n.Float("alpha", 1)
		l.transposed = l.transposed != (n.Int("transB", 0) != 0)
	}
	if l.n, l.m = int(w.Dims[0]), int(w.Dims[1]); l.transposed {
		l.n, l.m = l.m, l.n
	}
	l.run = l.n
	if n.Op == "Gemm" && n.Input(2) != nil {
		c := rowConstant(n.Input(2), l.m, 2)
		if c == nil {
			return nil, "its bias is not a constant for every output"
		}
		l.biased = true
		for _, v := range c {
			l.bias = append(l.bias, n.Float("beta", 1)*v)
		}
		return l, ""
	}
	l.bias = make([]float32, l.m)
	if y := n.Output(0); n.Op == "MatMul" && len(y.Uses()) == 1 && !y.IsOutput() {
		add := y.Uses()[0].Node
		if add.Is("Add") && add.Graph() == n.Graph() {
			if c := rowConstant(add.Input(1-y.Uses()[0].Index), l.m, a.Type().Rank()); c != nil {
				l.add, l.bias, l.biased = add, c, true
			}
		}
	}
	return l, ""
}

// madeOfConstants reports whether v is computed from constants alone, by one
// operator after the other.
func madeOfConstants(v *graph.Value) bool {
	for range 8 {
		n := v.Def()
		if n == nil || len(n.Inputs()) == 0 {
			return false
		}
		for _, in := range n.Inputs()[1:] {
			if in != nil && in.ConstTensor() == nil {
				return false
			}
		}
		if v = n.Input(0); v == nil {
			return false
		}
		if v.ConstTensor() != nil {
			return true
		}
	}
	return false
}

// rowConstant returns a float constant that is added alike to every token of a
// value of that rank (−1 where it is not known) with m features, as m
// elements; nil where v is none or would add an axis.
func rowConstant(v *graph.Value, m, rank int) []float32 {
	c := constant(v)
	if c == nil || c.DType != graph.Float32 || len(c.Dims) > max(rank, 1) {
		return nil
	}
	if n := c.Len(); n != 1 && (n != int64(m) || c.Dims[len(c.Dims)-1] != n) {
		return nil
	}
	data, err := c.Float32s()
	if err != nil {
		return nil
	}
	if len(data) == 1 {
		data = slices.Repeat(data, m)
	}
	return data
}

// constant returns the constant that v holds, also behind Identity nodes: by
// them PyTorch makes equal parameters one initializer.
func constant(v *graph.Value) *graph.Tensor {
	root, transposed := calib.Weight(v)
	if transposed {
		return nil
	}
	return root.ConstTensor()
}

// tied reports whether an embedding reads the weight too, itself or its
// transpose.
func tied(root *graph.Value) bool {
	for _, u := range root.Uses() {
		if u.Node.Is("Gather") && u.Index == 0 || u.Node.Is("Transpose", "Identity") && tied(u.Node.Output(0)) {
			return true
		}
	}
	return false
}

// passing are the operators that may stand between the last projection and an
// output: they move, scale or normalise scores and mix in no other branch.
var passing = []string{"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Softmax",
	"LogSoftmax", "Sigmoid", "Slice", "Gather", "Split", "ArgMax", "Add", "Mul", "Div", "GlobalAveragePool"}

// isHead reports whether everything that reads a projection leads through
// passing operators alone to outputs of the model.
func isHead(v *graph.Value) bool {
	seen := map[*graph.Value]bool{v: true}
	list := []*graph.Value{v}
	for k := 0; k < len(list); k++ {
		uses := list[k].Uses()
		if len(uses) == 0 && !list[k].IsOutput() || len(list) > 64 { // more than any head's
			return false
		}
		for _, u := range uses {
			n := u.Node
			switch {
			case !n.Is(passing...):
				return false
			case n.Is("Add", "Mul", "Div"):
				if c, _ := calib.Weight(n.Input(1 - u.Index)); c == nil {
					return false
				}
			case u.Index != 0: // it is the shape or the indices
				return false
			}
			for _, o := range n.Outputs() {
				if o != nil && !seen[o] && (len(o.Uses()) > 0 || o.IsOutput()) {
					seen[o] = true
					list = append(list, o)
				}
			}
		}
	}
	return true
}

// apply puts the operator, and a residual beside it where low is one, in the
// place of l and reports it.
func (r *rewriter) apply(l *layer, bias []float32, low *lowRank, done CirculantLayer) error {
	c := r.fitted[l.weight]
	done.Node, done.M, done.N, done.Block = l.name(), l.m, l.n, l.block
	done.ParamsBefore, done.ParamsAfter = int64(l.m)*int64(l.n), int64(l.m)+low.params()
	if l.biased {
		done.ParamsBefore += int64(l.m)
	}
	var e circulant.Error
	for i, p := range l.parts() {
		done.ParamsAfter += int64(c.parts[i].Params())
		one, err := p.weightError(c.parts[i])
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		e = e.Plus(one)
	}
	done.WeightError = e.Relative()
	l.dense = nil
	has := &beside{bias: bias, low: low}
	r.applied = append(r.applied, &applied{weight: l.weight, name: done.Node, was: l.bias, fitted: c, has: has})
	r.substitute(l, c, has)
	r.j.Add(circulantPass, done.Node, fmt.Sprintf("%d×%d in blocks of %d, %d → %d parameters", l.m, l.n, l.block, done.ParamsBefore, done.ParamsAfter),
		fmt.Sprintf("fitted with %s", r.o.Fit))
	r.done = append(r.done, modules.Rewrite{Pass: circulantPass, Node: done.Node, Block: done.Block, Note: string(r.o.Fit)})
	if r.o.Layer != nil {
		r.o.Layer(done)
	}
	return nil
}

// beside is what a layer has beside its weight, and its initializers once it has
// them.
type beside struct {
	bias []float32
	low  *lowRank // nil: none

	b, u, v *graph.Value
}

// substitute puts the operator with weight c in the place of l, with what it has
// beside it. Initializers lie in the main graph.
func (r *rewriter) substitute(l *layer, c *fitted, has *beside) {
	g, main := l.node.Graph(), r.m.Graph
	op, attrs := "BlockCirculantMatMul", []*graph.Attr{graph.IntAttr("out_features", int64(l.m))}
	if l.kernel != nil {
		op, attrs = "BlockCirculantConv", append(slices.Clone(l.node.Attrs), graph.IntAttr("out_channels", int64(l.m)))
	}
	if c.init == nil {
		c.init = main.AddInitializer(main.FreshName(l.root.Name+"_circulant"), l.operatorWeight(c.parts))
	}
	if has.b == nil {
		has.b = main.AddInitializer(main.FreshName(l.name()+"_circulant_bias"), graph.Float32Tensor([]int64{int64(l.m)}, has.bias))
		if has.low != nil {
			has.u, has.v = has.low.initializers(main, l.name())
		}
	}
	old, gone := l.out(), []*graph.Node{l.node}
	if l.add != nil {
		gone = append(gone, l.add)
	}
	n := g.InsertBefore(gone[len(gone)-1], graph.LatheDomain, op, l.node.Name,
		[]*graph.Value{l.x(), c.init, has.b}, []string{g.FreshName(old.Name + "_circulant")}, attrs...)
	v := n.Output(0)
	if has.low != nil {
		v = has.residual(g, gone[len(gone)-1], l.x(), v, l.name())
	}
	old.GiveWay(v, "_dense")
	g.Remove(gone...)
}
