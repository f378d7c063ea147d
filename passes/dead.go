package passes

import (
	"context"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// EliminateDeadCode removes the nodes whose outputs nothing needs, the
// initializers that nothing reads, and the model-local functions that nothing
// calls. Graph inputs stay, except those that an old model lists for its
// initializers.
func EliminateDeadCode() Pass {
	return Pass{
		Name:     "eliminate-dead-code",
		Doc:      "remove nodes, initializers and functions that no output needs",
		Contract: Exact,
		Run: func(_ context.Context, m *graph.Model, j *Journal) error {
			eliminateDead(m, j)
			return nil
		},
	}
}

func eliminateDead(m *graph.Model, j *Journal) {
	const pass = "eliminate-dead-code"
	outputs := map[*graph.Value]bool{}
	m.Graphs(func(g *graph.Graph) bool {
		for _, v := range g.Outputs() {
			outputs[v] = true
		}
		return true
	})
	deadIn(m.Graph, outputs, j)

	// An initializer of any graph goes when nothing reads it.
	m.Graphs(func(g *graph.Graph) bool {
		if g.Function() != nil {
			return true
		}
		for _, v := range slices.Clone(g.Initializers()) {
			if len(v.Uses()) > 0 || outputs[v] {
				continue
			}
			j.Add(pass, v.Name, "removed initializer", "nothing reads it")
			if v.IsInput() {
				j.Add(pass, v.Name, "removed graph input", "it was the initializer's")
				g.RemoveInput(v)
			}
			g.RemoveInitializer(v)
		}
		return true
	})

	// Functions call each other, so the called ones are found from the main
	// graph on.
	type key struct{ domain, name, overload string }
	called := map[key]bool{}
	byKey := map[key]*graph.Function{}
	for _, f := range m.Functions {
		byKey[key{graph.NormalDomain(f.Domain), f.Name, f.Overload}] = f
	}
	todo := []*graph.Graph{m.Graph}
	for len(todo) > 0 {
		g := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, n := range g.Nodes() {
			k := key{graph.NormalDomain(n.Domain), n.Op, n.Overload}
			if f := byKey[k]; f != nil && !called[k] {
				called[k] = true
				todo = append(todo, f.Graph)
			}
			todo = append(todo, n.Subgraphs()...)
		}
	}
	for _, f := range slices.Clone(m.Functions) {
		if !called[key{graph.NormalDomain(f.Domain), f.Name, f.Overload}] {
			m.RemoveFunction(f)
			j.Add(pass, f.Name, "removed function", "nothing calls it")
		}
	}
}

// deadIn removes the dead nodes of g, readers before what they read, and of
// the graphs inside the nodes that live.
func deadIn(g *graph.Graph, outputs map[*graph.Value]bool, j *Journal) {
	gone := map[*graph.Node]bool{}
	isGone := func(n *graph.Node) bool {
		for n != nil && n.Graph() != g {
			n = n.Graph().Holder()
		}
		return gone[n]
	}
	var dead []*graph.Node
	nodes := g.Nodes()
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		live := false
		for _, v := range n.Outputs() {
			if v == nil {
				continue
			}
			live = live || outputs[v] || slices.ContainsFunc(v.Uses(), func(u graph.Use) bool { return !isGone(u.Node) })
		}
		if !live {
			gone[n] = true
			dead = append(dead, n)
			j.Add("eliminate-dead-code", n.String(), "removed", "no output needs it")
			continue
		}
		if n.Is("If") {
			trimIf(n, outputs, isGone, j)
		}
		for _, s := range n.Subgraphs() {
			deadIn(s, outputs, j)
		}
	}
	g.Remove(dead...)
}

// trimIf takes the results that nothing reads out of both branches of an If.
func trimIf(n *graph.Node, outputs map[*graph.Value]bool, isGone func(*graph.Node) bool, j *Journal) {
	bodies := n.Subgraphs()
	for i := len(n.Outputs()) - 1; i >= 0; i-- {
		v := n.Output(i)
		if v != nil && (outputs[v] || slices.ContainsFunc(v.Uses(), func(u graph.Use) bool { return !isGone(u.Node) })) ||
			slices.ContainsFunc(bodies, func(g *graph.Graph) bool { return len(g.Outputs()) <= i }) {
			continue
		}
		if v != nil && len(v.Uses()) > 0 {
			continue // the nodes that read it go first; the next sweep takes it
		}
		n.RemoveOutput(i)
		for _, g := range bodies {
			w := g.Outputs()[i]
			g.RemoveOutput(i)
			if w.Graph() == g && !slices.Contains(g.Outputs(), w) {
				delete(outputs, w)
			}
		}
		j.Add("eliminate-dead-code", n.String(), fmt.Sprintf("removed result %d of both branches", i), "nothing reads it")
	}
}
