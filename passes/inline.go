package passes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// InlineForm is what takes the place of block-circulant operators.
type InlineForm string

const (
	// InlineDFT puts the operators of the body there, with what depends on
	// constants alone computed: as many multiplications as the custom operator
	// has, and a spectrum about twice as large as the weights.
	InlineDFT InlineForm = "dft"
	// InlineDense puts MatMul and Conv with the whole matrix there: block
	// size times as many weights and multiplications.
	InlineDense InlineForm = "dense"
)

// maxNodes bounds the nodes of a model whose functions are inlined: functions
// that call each other may stand for more nodes than there is memory.
const maxNodes = 1 << 20

// InlineFunctions puts the bodies of all model-local functions, those of the
// custom operators included, in the place of their calls, for runtimes that
// know no functions. What comes out of a body and depends on constants alone is
// computed. Functions and the domains that only they used go. It fails where the model
// has no functions.
//
//	BlockCirculantMatMul(X, W, B) = X·Dᵀ + B, D[i·b + a, j·b + c] = W[i, j, (a − c) mod b]
func InlineFunctions(form InlineForm) Pass {
	const name = "inline-functions"
	return Pass{
		Name:     name,
		Doc:      "put bodies in the place of custom operators and functions",
		Contract: Rounding,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			if form != InlineDFT && form != InlineDense {
				return fmt.Errorf("no form %q; there are %s and %s", form, InlineDense, InlineDFT)
			}
			if len(m.Functions) == 0 {
				return errors.New("the model has no functions and no custom operators to put bodies in the place of")
			}
			allowInitializers(m, j, name)
			in := inliner{m: m, j: j, pass: name, old: map[*graph.Node]bool{}, types: map[*graph.Node]*graph.Type{}, dense: map[matrixKey]*graph.Value{}}
			return in.run(ctx, form)
		},
	}
}

type inliner struct {
	m     *graph.Model
	j     *Journal
	pass  string
	old   map[*graph.Node]bool        // nodes that were there before
	types map[*graph.Node]*graph.Type // of the first inputs of custom operators
	dense map[matrixKey]*graph.Value
}

// matrixKey is a matrix in a graph: its weight, and its number of columns and of
// groups.
type matrixKey struct {
	g              *graph.Graph
	weight         *graph.Value
	columns, group int64
}

// nodes lists the nodes outside of functions.
func (in *inliner) nodes() (list []*graph.Node) {
	in.m.Graphs(func(g *graph.Graph) bool {
		if g.Function() == nil {
			list = append(list, g.Nodes()...)
		}
		return true
	})
	return list
}

func (in *inliner) run(ctx context.Context, form InlineForm) error {
	// What declared shapes contradict is no matter here: sizes that are not
	// known leave a body in its place.
	_ = graph.Infer(in.m)
	for _, n := range in.nodes() {
		in.old[n] = true
		if x := n.Input(0); x != nil && graph.NormalDomain(n.Domain) == graph.LatheDomain {
			in.types[n] = x.Type()
		}
	}
	history, err := modules.ReadHistory(in.m)
	if err != nil {
		return err
	}
	if n := in.stands(nil, map[*graph.Function]int{}); n > maxNodes {
		return fmt.Errorf("the functions stand for more than %d nodes", maxNodes)
	}
	for again := true; again; {
		again = false
		for _, n := range in.nodes() {
			if err := ctx.Err(); err != nil {
				return err
			}
			f := in.m.Function(n.Domain, n.Op, n.Overload)
			if f == nil {
				continue
			}
			again = true
			what, why := "inlined", "its body is standard operators"
			if graph.NormalDomain(n.Domain) == graph.LatheDomain && form == InlineDense {
				done, err := in.denseLayer(n)
				if err != nil {
					return fmt.Errorf("%v: %w", n, err)
				}
				if done {
					in.j.Add(in.pass, n.String(), "made dense", "its matrix is written out")
					continue
				}
			}
			if n.Domain == graph.LatheDomain {
				history.Rewrites = append(history.Rewrites, modules.Rewrite{Pass: in.pass, Node: n.Name, Note: string(form)})
			}
			in.j.Add(in.pass, n.String(), what, why)
			if err := n.InlineCall(f); err != nil {
				return err
			}
		}
	}
	for _, f := range slices.Clone(in.m.Functions) {
		in.m.RemoveFunction(f)
	}
	if err := in.fold(ctx); err != nil {
		return err
	}
	in.unimport()
	in.m.RemoveMeta(Int16Key) // its layers are no operators any more
	return modules.WriteHistory(in.m, history)
}

// stands counts the nodes that f, or nil for the model, stands for, up to a
// little more than maxNodes. A function that calls itself stands for so many.
func (in *inliner) stands(f *graph.Function, known map[*graph.Function]int) int {
	if n, ok := known[f]; ok {
		return n
	}
	known[f] = maxNodes + 1
	n := 0
	in.m.Graphs(func(g *graph.Graph) bool {
		if g.Function() != f {
			return true
		}
		for _, x := range g.Nodes() {
			one := 1
			if callee := in.m.Function(x.Domain, x.Op, x.Overload); callee != nil {
				one = in.stands(callee, known)
			}
			n = min(n+one, maxNodes+1)
		}
		return true
	})
	known[f] = n
	return n
}

// fold computes what came out of bodies and depends on constants alone.
func (in *inliner) fold(ctx context.Context) error {
	for _, n := range in.nodes() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if in.old[n] {
			continue
		}
		if consts, ok := foldNode(in.m, n, maxFolded); ok {
			replaceWithConstants(n, consts)
		}
	}
	return nil
}

// maxFolded bounds the bytes of a constant that is computed from weights: they
// are in memory as they are.
const maxFolded = 1 << 31

// unimport drops the domains that no node is of.
func (in *inliner) unimport() {
	used := map[string]bool{"": true}
	for _, n := range in.nodes() {
		used[graph.NormalDomain(n.Domain)] = true
	}
	for _, o := range slices.Clone(in.m.Opsets) {
		if !used[graph.NormalDomain(o.Domain)] {
			in.m.RemoveOpset(o.Domain)
		}
	}
}

// denseLayer replaces a block-circulant operator whose weights and number of
// inputs are known by MatMul or Conv. Others keep their body.
func (in *inliner) denseLayer(n *graph.Node) (bool, error) {
	conv := n.Op == "BlockCirculantConv"
	if !conv && n.Op != "BlockCirculantMatMul" || len(n.Inputs()) != 3 || slices.Contains(n.Inputs(), nil) {
		return false, nil
	}
	x, w, bias := n.Input(0), n.Input(1), n.Input(2)
	weights, t := w.ConstTensor(), in.types[n]
	if weights == nil || t == nil || t.Shape == nil || len(t.Shape.Dims) == 0 || conv && len(t.Shape.Dims) < 3 {
		return false, nil
	}
	dim, rows, group := t.Shape.Dims[len(t.Shape.Dims)-1], n.Int("out_features", 0), int64(1)
	if conv {
		dim, rows, group = t.Shape.Dims[1], n.Int("out_channels", 0), n.Int("group", 1)
	}
	if !dim.IsKnown() {
		return false, nil
	}
	g := n.Graph()
	key := matrixKey{g, w, dim.N, group}
	if in.dense[key] == nil {
		tensor, err := denseTensor(weights, int(rows), int(dim.N), int(group), conv)
		if err != nil {
			return false, err
		}
		in.dense[key] = g.AddInitializer(g.FreshName(w.Name+"_dense"), tensor)
	}
	op, inputs, attrs := "MatMul", []*graph.Value{x, in.dense[key]}, []*graph.Attr(nil)
	if conv {
		op, inputs = "Conv", append(inputs, bias)
		attrs = slices.DeleteFunc(slices.Clone(n.Attrs), func(a *graph.Attr) bool { return a.Name == "out_channels" })
	}
	old := n.Output(0)
	v := g.InsertBefore(n, "", op, n.Name, inputs, []string{g.FreshName(old.Name + "_dense")}, attrs...).Output(0)
	if b := bias.ConstTensor(); !conv && (b == nil || !zero(b)) {
		v = g.InsertBefore(n, "", "Add", g.FreshNodeName(n.Name+"_bias"), []*graph.Value{v, bias}, []string{g.FreshName(old.Name + "_biased")}).Output(0)
	}
	old.GiveWay(v, "_circulant")
	g.Remove(n)
	return true, nil
}

// zero reports whether t is float32 and all zeros.
func zero(t *graph.Tensor) bool {
	v, err := t.Float32s()
	return err == nil && !slices.ContainsFunc(v, func(x float32) bool { return x != 0 })
}

// denseTensor writes out block-circulant weights w [p, q, b, k…]: the matrix
// [columns, rows] that MatMul takes, or for a convolution in groups
// [rows, columns/group, k…].
func denseTensor(w *graph.Tensor, rows, columns, group int, conv bool) (*graph.Tensor, error) {
	v, err := w.Float32s()
	if err != nil {
		return nil, err
	}
	if len(w.Dims) < 3 || conv != (len(w.Dims) > 3) {
		return nil, fmt.Errorf("weights have shape %v, want [p, q, b] and the taps of a convolution", w.Dims)
	}
	if group < 1 || rows%group != 0 || columns%group != 0 {
		return nil, fmt.Errorf("%d outputs and %d inputs in %d groups", rows, columns, group)
	}
	rows, columns = rows/group, columns/group
	c, err := circulant.New(rows, columns, int(w.Dims[2]))
	if err != nil {
		return nil, err
	}
	if int64(c.P) != w.Dims[0]/int64(group) || w.Dims[0]%int64(group) != 0 || int64(c.Q) != w.Dims[1] {
		return nil, fmt.Errorf("weights have shape %v for %d matrices of %d×%d", w.Dims, group, rows, columns)
	}
	taps := 1
	for _, k := range w.Dims[3:] {
		taps *= int(k)
	}
	size := taps * rows * columns
	out := make([]float32, group*size)
	for g := range group {
		for k := range taps {
			for i := range c.W {
				c.W[i] = v[(g*len(c.W)+i)*taps+k]
			}
			for i, x := range c.Dense() { // [rows, columns]
				if conv {
					out[g*size+i*taps+k] = x
				} else {
					out[i%columns*rows+i/columns] = x
				}
			}
		}
	}
	dims := []int64{int64(columns), int64(rows)}
	if conv {
		dims = append([]int64{int64(group * rows), int64(columns)}, w.Dims[3:]...)
	}
	return graph.Float32Tensor(dims, out), nil
}
