package passes

import (
	"context"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// Layers that lie inside: in local functions, whose calls give way to what they
// hold, and in the branches of an If, where what is fitted in the branch that
// starts a cache is carried over to both.

// maxInlined bounds the calls that are replaced, since functions that call
// functions can grow exponentially.
const maxInlined = 1 << 12

// inline replaces the calls of local functions that multiply by constants.
// Functions that nothing calls any more go with the dead code.
func (r *rewriter) inline() error {
	calls := 0
	var stays []*graph.Node
	for {
		i := slices.IndexFunc(r.m.Graph.Nodes(), func(n *graph.Node) bool {
			return !slices.Contains(stays, n) && callsLayers(n, func(v *graph.Value) bool { w, _ := calib.Weight(v); return w != nil }, 0)
		})
		if i < 0 {
			break
		}
		n := r.m.Graph.Nodes()[i]
		f := r.m.Function(n.Domain, n.Op, n.Overload)
		if err := f.Inlinable(); err != nil {
			r.j.Add(circulantPass, n.String(), "left dense", err.Error())
			stays = append(stays, n)
			continue
		}
		if calls++; calls > maxInlined {
			return fmt.Errorf("more than %d calls of functions hold layers", maxInlined)
		}
		if err := n.InlineCall(f); err != nil {
			return err
		}
	}
	if calls == 0 {
		return nil
	}
	r.j.Add(circulantPass, "", fmt.Sprintf("%d calls of functions inlined", calls), "their layers are rewritten each by itself")
	return nil
}

// callsLayers reports whether n calls a function that multiplies by a constant,
// its own or an argument; constant judges the arguments of n.
func callsLayers(n *graph.Node, constant func(v *graph.Value) bool, depth int) bool {
	f := n.Graph().Model().Function(n.Domain, n.Op, n.Overload)
	if f == nil || n.Domain == graph.LatheDomain || depth > 32 {
		return false
	}
	inner := func(v *graph.Value) bool {
		for v != nil && v.Def() != nil && v.Def().Is("Identity", "Transpose") {
			v = v.Def().Input(0)
		}
		if v == nil {
			return false
		}
		if i := slices.Index(f.Graph.Inputs(), v); i >= 0 {
			return n.Input(i) != nil && constant(n.Input(i))
		}
		return v.ConstTensor() != nil
	}
	return slices.ContainsFunc(f.Graph.Nodes(), func(k *graph.Node) bool {
		return k.Is("MatMul", "Gemm", "Conv") && inner(k.Input(1)) || callsLayers(k, inner, depth+1)
	})
}

// branched reports whether the main graph has an If whose branches multiply by
// weights. Only those of a merged decoder compute the same.
func branched(m *graph.Model) bool {
	return slices.ContainsFunc(m.Graph.Nodes(), func(n *graph.Node) bool {
		return n.Is("If") && slices.ContainsFunc(n.Subgraphs(), hasWeights)
	})
}

// applied is what became of a layer.
type applied struct {
	weight
	name   string
	was    []float32 // its bias before
	fitted *fitted
	has    *beside
}

// same reports whether l multiplies by the weight of a, in another copy of the
// model.
func (a *applied) same(l *layer) bool {
	return a.root.Name == l.root.Name && a.transposed == l.transposed && a.alpha == l.alpha && a.groups == l.groups && l.root.Graph().Holder() == nil
}

// throughBranches rewrites an unfolded copy of the model, where the branch that
// starts a cache stands in the place of the If, and carries over what comes out:
// layers of the main graph by their names, those of the branches by their
// weights, which they share.
func (r *rewriter) throughBranches(ctx context.Context) error {
	open, err := modules.Unfold(r.m)
	if err != nil {
		return err
	}
	if branched(open) {
		r.j.Add(circulantPass, "", "left dense", "the branches of an If do not hold the same modules: their layers are not rewritten")
	}
	sub := rewriter{m: open, j: r.j, o: r.o, fitted: map[weight]*fitted{}}
	if err := sub.rewrite(ctx); err != nil || len(sub.applied) == 0 {
		return err
	}
	var todo []*layer
	var from []*applied
	take := func(l *layer, a *applied) {
		l.block = a.block
		todo, from = append(todo, l), append(from, a)
	}
	rest := sub.applied
	for _, l := range layersIn(r.m.Graph) {
		if i := slices.IndexFunc(rest, func(a *applied) bool { return a.same(l) && a.name == l.name() }); i >= 0 {
			take(l, rest[i])
			rest = slices.Delete(slices.Clone(rest), i, i+1)
		}
	}
	var inside func(g *graph.Graph)
	inside = func(g *graph.Graph) {
		for _, n := range g.Nodes() {
			if !n.Is("If") {
				continue
			}
			for _, s := range n.Subgraphs() {
				all := layersIn(s)
				for i, l := range all {
					alike := func(k *layer) bool { return k.weight == l.weight }
					var twins []*applied
					for _, a := range rest {
						if a.same(l) {
							twins = append(twins, a)
						}
					}
					switch k := count(all[:i], alike); {
					case len(twins) == 0:
					case count(all, alike) != len(twins):
						r.j.Add(circulantPass, l.node.String(), "left dense", "its weight is read another number of times in the other branch")
					case !slices.Equal(l.bias, twins[k].was):
						r.j.Add(circulantPass, l.node.String(), "left dense", "it has another bias in the other branch")
					default:
						take(l, twins[k])
					}
				}
				inside(s)
			}
		}
	}
	inside(r.m.Graph)
	if err := r.importOperators(todo); err != nil {
		return err
	}
	own := map[*applied]*beside{} // in this model
	for i, l := range todo {
		a := from[i]
		if r.fitted[l.weight] == nil {
			r.fitted[l.weight] = &fitted{parts: a.fitted.parts}
		}
		if own[a] == nil {
			own[a] = &beside{bias: a.has.bias, low: a.has.low}
		}
		r.substitute(l, r.fitted[l.weight], own[a])
	}
	r.done = sub.done
	return nil
}

// layersIn lists the layers of a graph by itself.
func layersIn(g *graph.Graph) []*layer {
	var out []*layer
	for _, n := range g.Nodes() {
		if n.Is("MatMul", "Gemm", "Conv") {
			if l, _ := layerOf(n); l != nil {
				out = append(out, l)
			}
		}
	}
	return out
}

func count(list []*layer, f func(l *layer) bool) int {
	n := 0
	for _, l := range list {
		if f(l) {
			n++
		}
	}
	return n
}
