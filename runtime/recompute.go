package runtime

import "slices"

// Gradients with less memory: what the backward pass reads of a module is
// computed again from the value that the module starts from, just before it is
// read, in place of being kept since the forward pass (Chen, Xu, Zhang, Guestrin:
// Training deep nets with sublinear memory cost, 2016).

// recompute rewrites the backward nodes so. The forward nodes are cut into
// segments at the values of keep, each with what leads to it; what other segments
// read is kept, and so is all that leads to none of these values: the backward
// pass begins with it. Copies run the kernels of what they copy, so no bit of a
// result changes.
func (b *backward) recompute(forward []*lnode, keep []*lvalue) {
	r := recomputation{place: map[*lnode]int{}, segment: map[*lnode]int{}, kept: map[*lvalue]bool{}, copies: map[*lvalue]*lvalue{}}
	for i, x := range forward {
		r.place[x] = i
	}
	r.divide(forward, keep)
	for _, v := range b.scope.outputs {
		r.kept[v] = true
	}
	var out []*lnode
	for i := 0; i < len(b.nodes); {
		// The nodes from here on that read one segment: all that they need of it
		// is computed before the first of them.
		var again []*lnode
		at, end := -1, i
		for ; end < len(b.nodes); end++ {
			var reads []*lvalue
			other := false
			for _, v := range b.nodes[end].in {
				if r.gone(v) {
					reads = append(reads, v)
					other = other || at >= 0 && r.segment[v.def] != at
				}
			}
			if other && end > i {
				break
			}
			for _, v := range reads {
				at = r.segment[v.def]
				again = append(again, r.again(v)...)
			}
			if at < 0 {
				end++
				break
			}
		}
		slices.SortFunc(again, func(x, y *lnode) int { return r.place[x] - r.place[y] })
		for _, x := range again {
			out = append(out, r.copy(x))
		}
		out = append(out, b.nodes[i:end]...)
		i = end
	}
	for _, x := range out {
		for k, v := range x.in {
			if c := r.copies[v]; c != nil {
				x.in[k] = c
			}
		}
	}
	b.nodes = out
}

// recomputation is what recompute knows.
type recomputation struct {
	place   map[*lnode]int // of forward nodes
	segment map[*lnode]int // of those that lead to a cut
	kept    map[*lvalue]bool
	copies  map[*lvalue]*lvalue
}

// divide finds the segments, and the values that are kept.
func (r *recomputation) divide(forward []*lnode, keep []*lvalue) {
	slices.SortStableFunc(keep, func(v, w *lvalue) int { return r.place[v.def] - r.place[w.def] })
	for i, v := range keep {
		r.kept[v] = true
		for todo := []*lvalue{v}; len(todo) > 0; {
			x := todo[len(todo)-1].def
			todo = todo[:len(todo)-1]
			if x == nil {
				continue
			}
			if _, ok := r.segment[x]; ok {
				continue
			}
			r.segment[x] = i
			for _, v := range x.in {
				if v != nil {
					todo = append(todo, v)
				}
			}
		}
	}
	for _, x := range forward {
		s, ok := r.segment[x]
		for _, v := range x.in {
			if v != nil && v.def != nil && (!ok || r.segment[v.def] != s) {
				r.kept[v] = true
			}
		}
		if !ok || len(x.scopes) > 0 || x.kernel == nil && x.row.flags&sequences != 0 || !x.repeats() {
			for _, v := range x.out {
				r.kept[v] = true
			}
		}
	}
}

// gone reports whether v is neither kept nor copied.
func (r *recomputation) gone(v *lvalue) bool {
	if v == nil || v.def == nil || r.kept[v] || r.copies[v] != nil {
		return false
	}
	_, ok := r.place[v.def]
	return ok
}

// again returns the nodes that compute v once more.
func (r *recomputation) again(v *lvalue) []*lnode {
	var nodes []*lnode
	for todo := []*lvalue{v}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !r.gone(v) {
			continue
		}
		nodes = append(nodes, v.def)
		for _, o := range v.def.out {
			if o != nil && !r.kept[o] {
				r.copies[o] = &lvalue{name: o.name, scope: o.scope, rank: o.rank}
			}
		}
		todo = append(todo, v.def.in...)
	}
	return nodes
}

// copy is a node that does what x does, for the copies of its outputs.
func (r *recomputation) copy(x *lnode) *lnode {
	y := &lnode{node: x.node, version: x.version, row: x.row, in: slices.Clone(x.in), kernel: x.kernel, like: x}
	y.name += ": again"
	for _, v := range x.out {
		c := r.copies[v]
		if v != nil && c == nil { // the kernel writes it, and nothing reads it
			c = &lvalue{name: v.name, scope: v.scope, rank: v.rank}
		}
		if c != nil {
			c.def = y
		}
		y.out = append(y.out, c)
	}
	return y
}

// repeats reports whether x gives the same again.
func (x *lnode) repeats() bool {
	if x.kernel != nil || x.domain != "" {
		return true
	}
	return !slices.Contains([]string{"Dropout", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}, x.op)
}
