package graph

import (
	"fmt"
	"slices"
)

// Inlinable tells why calls of f cannot be replaced by its nodes: f means
// other versions of its operators than the model does. It returns nil where
// they can.
func (f *Function) Inlinable() error {
	for _, o := range f.Opsets {
		if v, ok := f.model.Opset(o.Domain); ok && v != o.Version && f.uses(o.Domain) {
			return fmt.Errorf("function %q is of opset %d of domain %q, the model of %d", f.Name, o.Version, NormalDomain(o.Domain), v)
		}
	}
	return nil
}

// uses reports whether an operator in f's body is of that domain.
func (f *Function) uses(domain string) bool {
	return !f.Graph.walk(func(g *Graph) bool {
		return !slices.ContainsFunc(g.nodes, func(n *Node) bool { return NormalDomain(n.Domain) == NormalDomain(domain) })
	})
}

// InlineCall puts the nodes of the function f in the place of the call n,
// which lies in no function itself. Values and nodes are named after the
// call; those that the call gives keep their names.
func (n *Node) InlineCall(f *Function) error {
	if err := f.Inlinable(); err != nil {
		return fmt.Errorf("inline %v: %w", n, err)
	}
	attrs := map[string]*Attr{}
	for _, list := range [][]*Attr{f.AttrDefaults, n.Attrs} {
		for _, a := range list {
			attrs[a.Name] = a
		}
	}
	c := cloner{model: n.graph.model, values: map[*Value]*Value{}, attr: func(a *Attr) *Attr {
		b := attrs[a.Ref]
		if b == nil {
			return nil // the operator's own default
		}
		d := *b
		d.Name, d.origin = a.Name, nil
		return &d
	}}
	for i, v := range f.Graph.inputs {
		c.values[v] = n.Input(i)
	}
	name := n.Name
	if name == "" {
		name = n.Op
	}
	if err := n.inline(&c, f.Graph, name+"/"); err != nil {
		return fmt.Errorf("inline %v: %w", n, err)
	}
	for _, o := range f.Opsets {
		if _, ok := n.graph.model.Opset(o.Domain); !ok {
			n.graph.model.SetOpset(o.Domain, o.Version)
		}
	}
	n.graph.Remove(n)
	return nil
}

// InlineBranch puts the nodes of body, a branch of the If node n, in n's
// place.
func (n *Node) InlineBranch(body *Graph) error {
	if body.holder != n || len(body.inputs) > 0 {
		return fmt.Errorf("inline %v: graph %q is no branch of it", n, body.Name)
	}
	c := cloner{model: n.graph.model, values: map[*Value]*Value{}}
	if err := n.inline(&c, body, ""); err != nil {
		return fmt.Errorf("inline %v: %w", n, err)
	}
	n.graph.Remove(n)
	return nil
}

// inline puts copies of body's nodes before n and gives n's outputs to their
// results. A name that is taken gets prefix in front, and perhaps a number
// behind.
func (n *Node) inline(c *cloner, body *Graph, prefix string) error {
	g := n.graph
	if g.fn != nil {
		return fmt.Errorf("it lies in function %q", g.fn.Name)
	}
	if len(n.outputs) > len(body.outputs) {
		return fmt.Errorf("it has %d outputs, its body %d", len(n.outputs), len(body.outputs))
	}
	values, nodes := map[string]bool{}, map[string]bool{}
	goes := map[*Graph]bool{} // with n
	for _, s := range n.Subgraphs() {
		s.walk(func(s *Graph) bool { goes[s] = true; return true })
	}
	g.model.Graphs(func(s *Graph) bool {
		if s.fn != nil || goes[s] {
			return true
		}
		for name := range s.values {
			values[name] = true
		}
		for _, m := range s.nodes {
			nodes[m.Name] = true
		}
		return true
	})
	free := func(taken map[string]bool, name string) string {
		if name == "" {
			return ""
		}
		if prefix != "" || taken[name] {
			name = fresh(prefix+name, func(s string) bool { return taken[s] })
		}
		taken[name] = true
		return name
	}
	c.rename = func(name string) string { return free(values, name) }
	c.outer = true
	for _, v := range body.inits {
		g.inits = append(g.inits, c.value(v, g))
	}
	first := len(g.nodes)
	for _, m := range body.nodes {
		c.shell(m, g)
	}
	for i, m := range body.nodes {
		c.connect(m, g.nodes[first+i])
	}
	copies := slices.Clone(g.nodes[first:])
	for _, m := range copies {
		m.Name = free(nodes, m.Name)
	}
	at := slices.Index(g.nodes, n)
	g.nodes = slices.Insert(g.nodes[:first], at, copies...)

	// What n gave is what its body gives, under n's names.
	own := map[*Value]bool{}
	for _, m := range copies {
		for _, v := range m.outputs {
			own[v] = v != nil
		}
	}
	for i, v := range n.outputs {
		if v == nil {
			continue
		}
		w, ok := c.values[body.outputs[i]]
		if !ok {
			w = body.outputs[i]
		}
		if w == nil {
			return fmt.Errorf("its body does not give output %q", v.Name)
		}
		v.ReplaceUses(w)
		if v.IsOutput() {
			g.walk(func(s *Graph) bool { s.ReplaceOutput(v, w); return true })
		} else if own[w] && !w.IsOutput() {
			name := v.Name
			v.Rename(g.FreshName(name + "_call"))
			w.Rename(name)
		}
		own[w] = false
		if w.Declared == nil && w.def != nil {
			w.Declared = v.Declared
		}
	}
	return nil
}
