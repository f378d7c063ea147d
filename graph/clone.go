package graph

import "slices"

// Clone returns a deep copy of the model that can be edited on its own.
// Tensors and what was kept of the file's messages are shared: neither ever
// changes.
func (m *Model) Clone() *Model {
	c := *m
	c.Opsets = slices.Clone(m.Opsets)
	c.Metadata = slices.Clone(m.Metadata)
	c.Functions = nil
	for _, f := range m.Functions {
		c.Functions = append(c.Functions, f.cloneInto(&c))
	}
	if m.Graph != nil {
		cl := cloner{model: &c, values: map[*Value]*Value{}}
		c.Graph = cl.graph(m.Graph, nil)
	}
	return &c
}

// CopyFunction adds a copy of a function, which may be another model's, and returns
// it.
func (m *Model) CopyFunction(f *Function) *Function {
	c := f.cloneInto(m)
	m.Functions = append(m.Functions, c)
	return c
}

func (f *Function) cloneInto(m *Model) *Function {
	d := *f
	d.model = m
	d.AttrNames = slices.Clone(f.AttrNames)
	d.Opsets = slices.Clone(f.Opsets)
	d.Metadata = slices.Clone(f.Metadata)
	c := cloner{model: m, fn: &d, values: map[*Value]*Value{}}
	d.Graph = c.graph(f.Graph, nil)
	d.AttrDefaults = c.attrs(f.AttrDefaults, nil)
	return &d
}

type cloner struct {
	model  *Model
	fn     *Function
	values map[*Value]*Value

	// Where the copy goes into a graph that is there already:
	rename func(string) string // gives values names that are free
	outer  bool                // what is not copied is read where it is
	attr   func(*Attr) *Attr   // what a reference to an attribute stands for, nil for nothing
}

// graph copies g in two steps, all values before the nodes that read them, so
// that it also copies a graph that is not sorted.
func (c *cloner) graph(g *Graph, holder *Node) *Graph {
	d := newGraph(c.model, c.fn, holder)
	d.Name, d.Doc, d.origin = g.Name, g.Doc, g.origin
	d.Metadata = slices.Clone(g.Metadata)
	for _, v := range g.inputs {
		d.inputs = append(d.inputs, c.value(v, d))
	}
	for _, v := range g.inits {
		d.inits = append(d.inits, c.value(v, d))
	}
	first := len(d.nodes)
	for _, n := range g.nodes {
		c.shell(n, d)
	}
	for i, n := range g.nodes {
		c.connect(n, d.nodes[first+i])
	}
	for _, v := range g.outputs {
		w, ok := c.values[v]
		if !ok && c.outer {
			w = v
		}
		d.outputs = append(d.outputs, w)
	}
	return d
}

// shell adds a copy of n with its outputs to d.
func (c *cloner) shell(n *Node, d *Graph) *Node {
	m := &Node{Name: n.Name, Op: n.Op, Domain: n.Domain, Overload: n.Overload, Doc: n.Doc,
		Metadata: slices.Clone(n.Metadata), graph: d, origin: n.origin}
	for k, v := range n.outputs {
		if v == nil {
			m.outputs = append(m.outputs, nil)
			continue
		}
		w := c.value(v, d)
		w.def, w.defIndex = m, k
		m.outputs = append(m.outputs, w)
	}
	d.nodes = append(d.nodes, m)
	return m
}

// connect gives m the copies of n's inputs and attributes.
func (c *cloner) connect(n, m *Node) {
	for k, v := range n.inputs {
		if w, ok := c.values[v]; ok || !c.outer {
			v = w
		}
		m.SetInput(k, v)
	}
	m.Attrs = c.attrs(n.Attrs, m)
}

// node copies one node whose inputs have been copied.
func (c *cloner) node(n *Node, d *Graph) { c.connect(n, c.shell(n, d)) }

func (c *cloner) value(v *Value, in *Graph) *Value {
	if w := c.values[v]; w != nil {
		return w
	}
	w := &Value{}
	*w = *v
	w.graph, w.def, w.uses = in, nil, nil
	if c.rename != nil {
		w.Name = c.rename(w.Name)
	}
	c.values[v] = w
	in.values[w.Name] = w
	return w
}

func (c *cloner) attrs(list []*Attr, holder *Node) []*Attr {
	if list == nil {
		return nil
	}
	out := make([]*Attr, 0, len(list))
	for _, a := range list {
		if a.Ref != "" && c.attr != nil {
			if a = c.attr(a); a == nil {
				continue
			}
		}
		b := *a
		if a.G != nil {
			b.G = c.graph(a.G, holder)
		}
		if a.Graphs != nil {
			b.Graphs = make([]*Graph, len(a.Graphs))
			for k, s := range a.Graphs {
				b.Graphs[k] = c.graph(s, holder)
			}
		}
		out = append(out, &b)
	}
	return out
}
