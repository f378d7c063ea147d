package modules

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// merge pairs the modules that f found where the then branches of the Ifs
// stand in their place with those where the else branches do. The branches
// hold the same model, so there have to be the same modules in both; if there
// are not, the Ifs stay closed. The finder that it returns is that of the
// branches that read fewer caches: they can run on tokens alone.
func (f *finder) merge(m *graph.Model) (*finder, error) {
	g, err := findIn(m, elseTaken)
	if err != nil {
		return nil, err
	}
	if why := f.unlike(g); why != "" {
		c, err := findIn(m, closed)
		if err != nil {
			return nil, err
		}
		c.note("%v: no module is looked for in its branches: %s", f.ifs[0], why)
		return c, nil
	}
	if f.pasts() < g.pasts() {
		f, g = g, f
	}
	first, second := g.droppable(), f.droppable()
	for k, x := range first {
		y := second[k]
		x.Caches = bothCaches(x.Caches, y.Caches)
		if !y.Droppable && x.Droppable {
			x.Droppable, x.Reason = false, "in the other branch of the If: "+y.Reason
		}
		if x.Join != y.Join {
			twin := y.Module
			x.Twin = &twin
		}
	}
	return g, nil
}

// pasts counts the caches that come in.
func (f *finder) pasts() int {
	n := 0
	for _, m := range f.found {
		for _, c := range m.Caches {
			if c.Past != nil {
				n++
			}
		}
	}
	return n
}

// droppable lists the modules that are not of kind Other.
func (f *finder) droppable() []*found {
	var out []*found
	for k := range f.found {
		if f.found[k].Kind != Other {
			out = append(out, &f.found[k])
		}
	}
	return out
}

// unlike tells in what f and g, of the two branches, differ; "" if they have
// the same modules.
func (f *finder) unlike(g *finder) string {
	a, b := f.droppable(), g.droppable()
	if len(a) != len(b) {
		return fmt.Sprintf("the then branch holds %d, the else branch %d", len(a), len(b))
	}
	for k := range a {
		if a[k].Kind != b[k].Kind {
			return fmt.Sprintf("module %d is of kind %s in the then branch, of kind %s in the else branch", k, a[k].Kind, b[k].Kind)
		}
		x, y := a[k].Join.Node.Graph(), b[k].Join.Node.Graph()
		if x != y && (holder(x) == nil || holder(x) != holder(y)) {
			return fmt.Sprintf("module %d lies in one of them only", k)
		}
	}
	return ""
}

// holder is the node of the main graph that g lies in, nil where it is the
// main graph or a function.
func holder(g *graph.Graph) *graph.Node {
	var n *graph.Node
	for g != nil && g.Holder() != nil {
		n = g.Holder()
		g = n.Graph()
	}
	return n
}

// bothCaches is the cache of a module by what its two forms have of it.
func bothCaches(a, b []Cache) []Cache {
	out := slices.Clone(a)
	for _, c := range b {
		i := slices.IndexFunc(out, func(o Cache) bool {
			return o.Role == c.Role && (o.Past == nil || c.Past == nil || o.Past == c.Past) && (o.Present == nil || c.Present == nil || o.Present == c.Present)
		})
		if i < 0 {
			out = append(out, c)
			continue
		}
		if out[i].Past == nil {
			out[i].Past = c.Past
		}
		if out[i].Present == nil {
			out[i].Present = c.Present
		}
	}
	return out
}

// Merged reports whether m is a merged decoder: both branches of an If hold the
// same modules.
func Merged(m *graph.Model) bool {
	a, err := Analyze(m)
	return err == nil && slices.ContainsFunc(a.Modules, func(x Module) bool { return x.Twin != nil })
}

// Unfold returns a copy of m in which every module can be watched in a run:
// the calls of local functions that keep one inside are inlined, Ifs whose
// branches hold modules give way to the branch that starts a cache, and fused
// operators hand out the sums that they normalise. Find gives the same modules
// there as in m. Values of m's main graph keep their names.
func Unfold(m *graph.Model) (*graph.Model, error) {
	m = m.Clone()
	calls := 0
	for range maxCallDepth {
		a, f, err := analyze(m)
		if err != nil {
			return nil, fmt.Errorf("modules: %w", err)
		}
		if len(f.ifs) > 0 {
			for _, n := range f.ifs {
				if n.Graph() != m.Graph {
					continue // inside of another; its copy's turn comes
				}
				if err := n.InlineBranch(n.Attr(string(f.taken)).G); err != nil {
					return nil, fmt.Errorf("modules: %w", err)
				}
			}
			continue
		}
		inlined := false
		for _, x := range a.Modules {
			if x.Call != nil && x.Call.Graph() != nil && x.Kind != Other {
				if calls++; calls > maxCalls {
					return nil, fmt.Errorf("modules: more than %d calls of functions hold modules", maxCalls)
				}
				if err := Inline(m, x.Call); err != nil {
					return nil, fmt.Errorf("modules: module %s: %w", x.ID, err)
				}
				inlined = true
			}
		}
		if inlined {
			continue
		}
		for _, x := range a.Modules {
			if n := x.Merge; x.Sum == nil && len(n.Outputs()) < 4 && operators[n.Domain+"."+n.Op].class == skipNorm {
				for len(n.Outputs()) < operators[n.Domain+"."+n.Op].sum {
					n.AddOutput("")
				}
				n.AddOutput(m.Graph.FreshName(n.Output(0).Name + "_sum"))
			}
		}
		return m, nil
	}
	return nil, fmt.Errorf("modules: functions call each other too deeply")
}

// Inline puts the nodes of the local function that n calls in its place. It fails
// where m has no such function or n cannot be inlined; see [graph.Node.InlineCall].
func Inline(m *graph.Model, n *graph.Node) error {
	f := m.Function(n.Domain, n.Op, n.Overload)
	if f == nil {
		return fmt.Errorf("%v calls no local function", n)
	}
	return n.InlineCall(f)
}
