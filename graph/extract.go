package graph

import "fmt"

// Extract returns a new model of the nodes of the main graph that compute
// outputs from inputs, both given by name. The inputs become graph inputs,
// whatever computed them before; initializers that are needed come along,
// their data shared, and so do the functions. It fails where an output
// depends on a graph input that inputs does not name.
func (m *Model) Extract(inputs, outputs []string) (*Model, error) {
	g := m.Graph
	cut := make(map[*Value]bool, len(inputs))
	c := *m
	c.path, c.Graph = "", nil
	c.Functions = nil
	for _, f := range m.Functions {
		c.Functions = append(c.Functions, f.cloneInto(&c))
	}
	d := newGraph(&c, nil, nil)
	d.Name = g.Name
	c.Graph = d
	cl := cloner{model: &c, values: map[*Value]*Value{}}
	for _, name := range inputs {
		v := g.values[name]
		if v == nil {
			return nil, fmt.Errorf("extract: graph %q has no value %q", g.Name, name)
		}
		if cut[v] {
			continue
		}
		cut[v] = true
		w := d.AddInput(name, v.Type())
		cl.values[v] = w
	}

	// need holds the nodes on paths from the cut to the outputs, found
	// backwards.
	need := map[*Node]bool{}
	var todo []*Value
	for _, name := range outputs {
		v := g.values[name]
		if v == nil {
			return nil, fmt.Errorf("extract: graph %q has no value %q", g.Name, name)
		}
		todo = append(todo, v)
	}
	seen := map[*Value]bool{}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if cut[v] || seen[v] || v.graph != g {
			continue
		}
		seen[v] = true
		switch {
		case v.IsInitializer():
		case v.def == nil:
			return nil, fmt.Errorf("extract: %q is needed and is not among the inputs", v.Name)
		case !need[v.def]:
			need[v.def] = true
			v.def.reads(func(r *Value) { todo = append(todo, r) })
		}
	}
	for _, v := range g.inits {
		if seen[v] {
			w := d.AddInitializer(v.Name, v.Const)
			w.Sparse, w.Declared = v.Sparse, v.Declared
			cl.values[v] = w
		}
	}
	for _, n := range g.nodes {
		if need[n] {
			cl.node(n, d)
		}
	}
	for _, name := range outputs {
		v := g.values[name]
		w := cl.values[v]
		if w.input || w.IsInitializer() {
			// A value that passes through needs a name of its own at the
			// far side.
			w = d.NewNode("", "Identity", "", []*Value{w}, []string{d.FreshName(name + "_out")}).outputs[0]
		}
		d.AddOutput(w, v.Type())
	}
	return &c, nil
}
