package graph

// Parameters counts the elements of the floating-point and packed constants
// with at least one axis, initializers and Constant nodes, of the main graph
// and the graphs inside it. A tied weight counts once; functions hold
// definitions and do not count.
func (m *Model) Parameters() int64 {
	n, _ := m.size()
	return n
}

// WeightBytes is the size in bytes of the constants that Parameters counts.
func (m *Model) WeightBytes() int64 {
	_, n := m.size()
	return n
}

func (m *Model) size() (elements, bytes int64) {
	add := func(t *Tensor) {
		if t != nil && len(t.Dims) > 0 && t.DType.Known() && t.DType != String && t.DType != Bool &&
			t.DType != Int64 && t.DType != Int32 {
			elements += t.Len()
			bytes += t.Size()
		}
	}
	m.Graph.walk(func(g *Graph) bool {
		for _, v := range g.inits {
			add(v.Const)
			if v.Sparse != nil {
				add(v.Sparse.Values)
			}
		}
		for _, n := range g.nodes {
			if n.Is("Constant") {
				if a := n.Attr("value"); a != nil {
					add(a.T)
				}
			}
		}
		return true
	})
	return elements, bytes
}
