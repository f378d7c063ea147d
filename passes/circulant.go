package passes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

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
	// FitFrobenius is the projection, the mean of every wrapped diagonal.
	FitFrobenius Fit = "frobenius"
)

// CirculantOptions says which weights become block-circulant, and how.
type CirculantOptions struct {
	Block       int            // block size, at least 2
	Fit         Fit            // "" means FitLSQ
	Only, Skip  *regexp.Regexp // node names; nil means all, none
	IncludeTied bool           // also weights that an embedding shares
	IncludeHead bool           // also the last projection to classes or vocabulary
	Ridge       float64        // of the least squares; 0 means the default of package circulant

	Feed    *calib.Feed   // data for a sequential fit
	Ledger  *calib.Ledger // moments for a one-shot fit
	Threads int

	Progress func(done, total int)  // layers; may be nil
	Layer    func(l CirculantLayer) // called for every rewritten layer; may be nil
}

// CirculantLayer is one layer that was rewritten. Errors of outputs are
// relative, sqrt(E‖y − y′‖² / E‖y − E[y]‖²) over the calibration data, y the
// output of the original layer in the original model; they are NaN without
// data.
type CirculantLayer struct {
	Node           string
	M, N, Block    int     // outputs, inputs, block size
	Error          float64 // of the output
	FrobeniusError float64 // what the projection's would be
	WeightError    float64 // ‖W − C‖ / ‖W‖
	ParamsBefore   int64   // weight and bias, if it had one
	ParamsAfter    int64   // weight and bias
}

// layer is a weight operator that can be rewritten: y = W·x + bias on the last
// axis.
type layer struct {
	node   *graph.Node
	add    *graph.Node  // the Add of the bias, nil if there is none of its own
	weight *graph.Value // the constant as the node reads it
	m, n   int
	dense  []float32 // [m, n]
	bias   []float32 // [m]
	biased bool      // it has a bias of its own
}

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

// RewriteCirculant puts lathe.BlockCirculantMatMul in the place of MatMul and
// Gemm nodes with a constant weight, the bias that follows a MatMul included,
// and adds the function that defines it in standard operators. A weight that
// several nodes read is fitted once, on the inputs of all of them.
func RewriteCirculant(o CirculantOptions) Pass {
	const name = "rewrite-circulant"
	return Pass{
		Name:     name,
		Doc:      "put block-circulant operators in the place of dense layers",
		Contract: Lossy,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			if o.Fit == "" {
				o.Fit = FitLSQ
			}
			r := rewriter{pass: name, m: m, j: j, o: o, fitted: map[*graph.Value]*circulant.Matrix{}}
			return r.run(ctx)
		},
	}
}

type rewriter struct {
	pass   string
	m      *graph.Model
	j      *Journal
	o      CirculantOptions
	fitted map[*graph.Value]*circulant.Matrix // by weight
	inits  map[*circulant.Matrix]*graph.Value

	original string // fingerprint of the model as it came
}

func (r *rewriter) run(ctx context.Context) error {
	if r.o.Block < 2 {
		return fmt.Errorf("block size %d; choose 2 or more", r.o.Block)
	}
	opset, ok := r.m.Opset("")
	if !ok {
		return errors.New("the model does not import the default operator set")
	}
	f, err := matMulFunction(opset)
	if err != nil {
		return err
	}
	layers, err := r.layers()
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		return nil
	}
	r.inits = map[*circulant.Matrix]*graph.Value{}
	original := r.m.Clone()
	r.original = original.Fingerprint()
	if r.m.Function(graph.LatheDomain, f.Name, "") == nil {
		r.m.CopyFunction(f)
	}
	r.m.SetOpset(graph.LatheDomain, 1)
	if r.m.IRVersion < 8 {
		r.j.Add(r.pass, "", fmt.Sprintf("ir_version %d → 8", r.m.IRVersion), "model-local functions came with 8")
		r.m.IRVersion = 8
	}
	switch {
	case r.o.Fit != FitLSQ && r.o.Fit != FitFrobenius:
		return fmt.Errorf("no fit %q; there are %s and %s", r.o.Fit, FitLSQ, FitFrobenius)
	case r.o.Feed != nil:
		err = r.sequential(ctx, original, layers)
	case r.o.Fit == FitFrobenius:
		err = r.oneShot(ctx, layers, func(string) *circulant.Moments { return nil })
	case r.o.Ledger != nil:
		if err := ledgerFits(original, r.o.Ledger); err != nil {
			return err
		}
		err = r.oneShot(ctx, layers, r.o.Ledger.Moments)
	default:
		err = errors.New("least squares needs data, or a ledger scored with moments; or choose the frobenius fit")
	}
	return err
}

// layers finds what is to be rewritten and journals what is left alone.
func (r *rewriter) layers() ([]*layer, error) {
	var out []*layer
	skip := func(n *graph.Node, why string) {
		r.j.Add(r.pass, n.String(), "left dense", why)
	}
	matched := false
	for _, n := range r.m.Graph.Nodes() {
		if !n.Is("MatMul", "Gemm") {
			continue
		}
		l, why, err := denseLayer(n)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", n, err)
		}
		if l == nil {
			if why != "" {
				skip(n, why)
			}
			continue
		}
		name := l.name()
		switch {
		case r.o.Only != nil && !r.o.Only.MatchString(name):
			skip(n, "not among those asked for")
			continue
		case r.o.Skip != nil && r.o.Skip.MatchString(name):
			skip(n, "asked to be skipped")
			continue
		}
		matched = true
		switch {
		case !r.o.IncludeTied && tied(l.weight):
			skip(n, "its weight is tied to an embedding; include tied weights to rewrite it")
		case !r.o.IncludeHead && isHead(l.out()):
			skip(n, "it is the last projection; include the head to rewrite it")
		case blocks(l.m, r.o.Block)*blocks(l.n, r.o.Block)*r.o.Block >= l.m*l.n:
			skip(n, fmt.Sprintf("%d×%d has no fewer parameters in blocks of %d", l.m, l.n, r.o.Block))
		default:
			out = append(out, l)
		}
	}
	if !matched && r.o.Only != nil {
		return nil, fmt.Errorf("no layer is called %v; lathe inspect lists the names", r.o.Only)
	}
	return out, nil
}

func blocks(n, b int) int { return (n + b - 1) / b }

// denseLayer reads n as y = W·x + bias. It returns nil and the reason where n
// has a constant operand and is not of that form, and nil alone where it has
// none.
func denseLayer(n *graph.Node) (*layer, string, error) {
	a, b := n.Input(0), n.Input(1)
	if a == nil || b == nil {
		return nil, "", nil
	}
	w := b.ConstTensor()
	switch {
	case w == nil && a.ConstTensor() == nil:
		return nil, "", nil
	case w == nil:
		return nil, "its constant is the left operand", nil
	case a.ConstTensor() != nil:
		return nil, "both operands are constant", nil
	case len(w.Dims) != 2:
		return nil, fmt.Sprintf("its weight has %d axes", len(w.Dims)), nil
	case w.DType != graph.Float32:
		return nil, fmt.Sprintf("its weight is %v", w.DType), nil
	case w.Len() == 0:
		return nil, "its weight is empty", nil
	}
	data, err := w.Float32s()
	if err != nil {
		return nil, "", err
	}
	l := &layer{node: n, weight: b}
	l.n, l.m = int(w.Dims[0]), int(w.Dims[1])
	alpha := float32(1)
	if n.Op == "Gemm" {
		if n.Int("transA", 0) != 0 {
			return nil, "its input is transposed", nil
		}
		alpha = n.Float("alpha", 1)
		if n.Int("transB", 0) != 0 {
			l.n, l.m = l.m, l.n
		}
	}
	l.dense = make([]float32, l.m*l.n)
	for i := range l.m {
		for k := range l.n {
			at := k*l.m + i
			if n.Op == "Gemm" && n.Int("transB", 0) != 0 {
				at = i*l.n + k
			}
			l.dense[i*l.n+k] = alpha * data[at]
		}
	}
	l.bias = make([]float32, l.m)
	switch {
	case n.Op == "Gemm" && n.Input(2) != nil:
		c, why, err := rowConstant(n.Input(2), l.m)
		if c == nil {
			return nil, why, err
		}
		l.biased = true
		for i := range l.bias {
			l.bias[i] = n.Float("beta", 1) * c[i]
		}
	case n.Op == "MatMul":
		if len(n.Output(0).Uses()) != 1 || n.Output(0).IsOutput() {
			break
		}
		add := n.Output(0).Uses()[0].Node
		if !add.Is("Add") || add.Graph() != n.Graph() {
			break
		}
		other := add.Input(1 - n.Output(0).Uses()[0].Index)
		if c, _, err := rowConstant(other, l.m); c != nil && err == nil {
			l.add, l.bias, l.biased = add, c, true
		}
	}
	return l, "", nil
}

// rowConstant returns a constant that is added alike to every token, as m
// elements; nil and the reason where v is none.
func rowConstant(v *graph.Value, m int) ([]float32, string, error) {
	c := v.ConstTensor()
	if c == nil || c.DType != graph.Float32 {
		return nil, "its bias is not a float constant", nil
	}
	n := c.Len()
	if n != 1 && (n != int64(m) || c.Dims[len(c.Dims)-1] != n) {
		return nil, fmt.Sprintf("its bias has dims %v", c.Dims), nil
	}
	data, err := c.Float32s()
	if err != nil {
		return nil, "", err
	}
	// A constant of higher rank would add an axis to the output.
	if len(c.Dims) > 2 || (n == 1 && len(c.Dims) > 1) {
		return nil, fmt.Sprintf("its bias has dims %v", c.Dims), nil
	}
	if n == 1 {
		data = slices.Repeat(data, m)
	}
	return data, "", nil
}

// tied reports whether an embedding reads the weight too, perhaps behind a
// transposition.
func tied(v *graph.Value) bool {
	for _, u := range v.Uses() {
		if u.Node.Is("Gather") {
			return true
		}
	}
	if d := v.Def(); d != nil && d.Is("Transpose", "Identity") {
		return tied(d.Input(0))
	}
	return false
}

// passing are the operators that may stand between the last projection and an
// output: they move, scale or normalise scores and mix in no other branch.
var passing = []string{"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Softmax",
	"LogSoftmax", "Sigmoid", "Slice", "Gather", "Split", "ArgMax", "Add", "Mul", "Div"}

// isHead reports whether a projection leads to outputs of the model through
// passing operators alone.
func isHead(v *graph.Value) bool {
	for range 16 { // a chain longer than any exporter's
		if v.IsOutput() && len(v.Uses()) == 0 {
			return true
		}
		if len(v.Uses()) == 0 {
			return false
		}
		for _, u := range v.Uses() {
			n := u.Node
			if !n.Is(passing...) || u.Index > 1 {
				return false
			}
			if n.Is("Add", "Mul", "Div") && n.Input(1-u.Index).ConstTensor() == nil {
				return false
			}
			if n.Is("Gather", "Slice", "Reshape") && u.Index != 0 {
				return false
			}
			// All outputs of a split lead the same way; the first stands for
			// them, and for its siblings.
			v = n.Output(0)
		}
	}
	return false
}

// oneShot fits every weight on the moments that its inputs have in the
// original model.
func (r *rewriter) oneShot(ctx context.Context, layers []*layer, moments func(value string) *circulant.Moments) error {
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		x := moments(l.x().Name)
		if r.o.Fit == FitLSQ && x == nil {
			return fmt.Errorf("%v: the ledger has no moments of %q; score with moments", l.node, l.x().Name)
		}
		c := r.fitted[l.weight]
		bias := l.bias
		var err error
		if c == nil && r.o.Fit == FitLSQ {
			sum := circulant.NewMoments(l.n)
			for _, k := range layers {
				if k.weight == l.weight {
					if mo := moments(k.x().Name); mo == nil || mo.N != l.n {
						return fmt.Errorf("%v: the ledger has no moments of %q; score with moments", k.node, k.x().Name)
					} else if err := sum.Merge(mo); err != nil {
						return fmt.Errorf("%v: %w", k.node, err)
					}
				}
			}
			c, _, err = circulant.LeastSquares(l.dense, l.m, l.n, r.o.Block, l.bias, sum, &circulant.FitOptions{Ridge: r.o.Ridge})
		} else if c == nil {
			c, err = circulant.Frobenius(l.dense, l.m, l.n, r.o.Block)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		done := CirculantLayer{Error: nan, FrobeniusError: nan}
		if x != nil {
			bias = refit(l, c, x)
			if done, err = oneShotErrors(l, c, bias, x); err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		if err := r.apply(l, c, bias, done); err != nil {
			return err
		}
		if r.o.Progress != nil {
			r.o.Progress(i+1, len(layers))
		}
	}
	return nil
}

// refit is the bias that keeps the mean of the layer's output: bias + (W −
// C)·E[x].
func refit(l *layer, c *circulant.Matrix, x *circulant.Moments) []float32 {
	out := make([]float32, l.m)
	mean, dense := x.Mean(), c.Dense()
	for i := range out {
		sum := float64(l.bias[i])
		for k := range l.n {
			sum += (float64(l.dense[i*l.n+k]) - float64(dense[i*l.n+k])) * mean[k]
		}
		out[i] = float32(sum)
	}
	return out
}

func oneShotErrors(l *layer, c *circulant.Matrix, bias []float32, x *circulant.Moments) (CirculantLayer, error) {
	e, err := circulant.OutputError(l.dense, l.bias, c, bias, x)
	if err != nil {
		return CirculantLayer{}, err
	}
	f, err := circulant.Frobenius(l.dense, l.m, l.n, c.B)
	if err != nil {
		return CirculantLayer{}, err
	}
	fe, err := circulant.OutputError(l.dense, l.bias, f, refit(l, f, x), x)
	return CirculantLayer{Error: e, FrobeniusError: fe}, err
}

// apply puts the operator in the place of l and reports it.
func (r *rewriter) apply(l *layer, c *circulant.Matrix, bias []float32, done CirculantLayer) error {
	var err error
	done.Node, done.M, done.N, done.Block = l.name(), l.m, l.n, c.B
	done.ParamsBefore, done.ParamsAfter = int64(l.m)*int64(l.n), int64(c.Params())+int64(l.m)
	if l.biased {
		done.ParamsBefore += int64(l.m)
	}
	if done.WeightError, err = circulant.WeightError(l.dense, c); err != nil {
		return fmt.Errorf("%v: %w", l.node, err)
	}
	g := l.node.Graph()
	w := r.inits[c]
	if w == nil {
		w = g.AddInitializer(g.FreshName(l.weight.Name+"_circulant"),
			graph.Float32Tensor([]int64{int64(c.P), int64(c.Q), int64(c.B)}, c.W))
		r.inits[c], r.fitted[l.weight] = w, c
	}
	b := g.AddInitializer(g.FreshName(l.name()+"_circulant_bias"), graph.Float32Tensor([]int64{int64(l.m)}, bias))
	old, mark := l.out(), l.node
	if l.add != nil {
		mark = l.add
	}
	n := g.InsertBefore(mark, graph.LatheDomain, "BlockCirculantMatMul", l.node.Name,
		[]*graph.Value{l.x(), w, b}, []string{g.FreshName(old.Name + "_circulant")}, graph.IntAttr("out_features", int64(l.m)))
	v := n.Output(0)
	old.ReplaceUses(v)
	if slices.Contains(g.Outputs(), old) {
		g.ReplaceOutput(old, v)
	} else {
		name := old.Name
		old.Rename(g.FreshName(name + "_dense"))
		v.Rename(name)
		v.Declared = old.Declared
	}
	if l.add != nil {
		g.Remove(l.add)
	}
	g.Remove(l.node)
	r.j.Add(r.pass, done.Node, fmt.Sprintf("%d×%d in blocks of %d, %d → %d parameters", l.m, l.n, c.B, done.ParamsBefore, done.ParamsAfter),
		fmt.Sprintf("fitted with %s", r.o.Fit))
	if r.o.Layer != nil {
		r.o.Layer(done)
	}
	return r.record(done)
}

func (r *rewriter) record(done CirculantLayer) error {
	h, err := modules.ReadHistory(r.m)
	if err != nil {
		return err
	}
	if h.Original == "" {
		h.Original = r.original
	}
	h.Rewrites = append(h.Rewrites, modules.Rewrite{Pass: r.pass, Node: done.Node, Block: done.Block, Note: string(r.o.Fit)})
	return modules.WriteHistory(r.m, h)
}
