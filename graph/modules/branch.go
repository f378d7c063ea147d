package modules

import (
	"cmp"
	"slices"
)

// leaf is one addend of a tree of Adds: input at of node add.
type leaf struct {
	val     int32
	add, at int32
}

// tree is a sum: an Add and the Adds that only feed it, with the addends
// below them. Constant addends are biases and left out.
type tree struct {
	adds   []int32 // the root last
	leaves []leaf  // in the order they are added up
}

// sums finds the trees of Adds with at least two addends that are not
// constant. An inner Add belongs to its reader if that is its only one; an
// Add of one activation and a bias is no inner Add but ends a branch.
func (v *view) sums() []tree {
	inner := func(x int32) int32 { // the Add that computes x and belongs to x's reader
		l := &v.vals[x]
		if l.def < 0 || l.output || len(l.uses) != 1 || len(l.shapes) > 0 {
			return -1
		}
		d, r := l.def, l.uses[0]
		if v.nodes[d].class != addition || v.nodes[r].class != addition || v.activations(d) < 2 || v.activations(r) < 2 {
			return -1
		}
		return d
	}
	var out []tree
	for i := range v.nodes {
		root := int32(i)
		if v.nodes[i].class != addition || v.activations(root) < 2 || !v.alive(root) || inner(v.nodes[i].out[0]) == root {
			continue
		}
		var t tree
		type step struct{ add, at int32 }
		stack := []step{{root, 0}}
		for len(stack) > 0 {
			s := &stack[len(stack)-1]
			if int(s.at) == len(v.nodes[s.add].in) {
				t.adds = append(t.adds, s.add)
				stack = stack[:len(stack)-1]
				continue
			}
			x, at := v.nodes[s.add].in[s.at], s.at
			s.at++
			if x < 0 || v.vals[x].konst {
				continue
			}
			if a := inner(x); a >= 0 {
				stack = append(stack, step{a, 0})
				continue
			}
			t.leaves = append(t.leaves, leaf{val: x, add: s.add, at: at})
		}
		if len(t.leaves) > 1 {
			out = append(out, t)
		}
	}
	return out
}

// candidate is a sum at which a stream takes branches in.
type candidate struct {
	merge  int32 // the Add that post-dominates the stream
	stream int32
	leaves []leaf // the other addends below merge
}

// candidates finds the sums one of whose addends is post-dominated by the
// sum, in topological order of the merges. Whether the other addends come
// from it is left to region.
func (v *view) candidates(p *postdom) ([]candidate, error) {
	var out []candidate
	for _, t := range v.sums() {
		pos := map[int32]int{} // of the Adds of the tree
		for i, a := range t.adds {
			pos[a] = i
		}
		byMerge := map[int32]candidate{}
		for _, s := range t.leaves {
			m := p.after(s.val)
			if _, ok := pos[m]; !ok || len(v.vals[s.val].uses) < 2 {
				continue
			}
			if c, ok := byMerge[m]; ok && v.vals[c.stream].def <= v.vals[s.val].def {
				continue
			}
			byMerge[m] = candidate{merge: m, stream: s.val}
		}
		for _, c := range byMerge {
			if !v.spend(len(t.adds) + len(t.leaves)) {
				return nil, errWork
			}
			below := map[int32]bool{c.merge: true} // Adds below the merge
			for i := pos[c.merge]; i >= 0; i-- {
				if a := t.adds[i]; a == c.merge || below[v.reader(a)] {
					below[a] = true
				}
			}
			for _, l := range t.leaves {
				if below[l.add] && l.val != c.stream {
					c.leaves = append(c.leaves, l)
				}
			}
			if len(c.leaves) > 0 {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b candidate) int { return cmp.Compare(a.merge, b.merge) })
	return out, nil
}

// reader is the single node that reads the result of the inner Add a.
func (v *view) reader(a int32) int32 {
	if u := v.vals[v.nodes[a].out[0]].uses; len(u) == 1 {
		return u[0]
	}
	return -1
}

// region is the part of the view between a stream and its merge.
type region struct {
	v       *view
	p       *postdom
	stamp   int32
	forward []int32 // per node: the stamp of the last walk that met it
	seen    []int32 // per node, while the body of one branch is collected
	mark    int32
	streams map[int32]int32 // stream of a merge inside → that merge
	merges  map[int32]int32 // and back
}

func newRegion(v *view, p *postdom) *region {
	return &region{v: v, p: p, forward: make([]int32, len(v.nodes)), seen: make([]int32, len(v.nodes)),
		streams: map[int32]int32{}, merges: map[int32]int32{}}
}

// enter walks forward from the stream of c to its merge, over nodes that an
// exit needs. Merges inside that are known already are stepped over in one.
func (r *region) enter(c candidate) error {
	r.stamp++
	v := r.v
	stack := []int32{c.stream}
	for len(stack) > 0 {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		uses := v.vals[x].uses
		if m, ok := r.streams[x]; ok && x != c.stream {
			uses = []int32{m}
		}
		if !v.spend(1 + len(uses)) {
			return errWork
		}
		for _, u := range uses {
			if u == c.merge || r.forward[u] == r.stamp || !r.p.reaches(u) {
				continue
			}
			r.forward[u] = r.stamp
			for _, o := range v.nodes[u].out {
				if o >= 0 {
					stack = append(stack, o)
				}
			}
		}
	}
	return nil
}

// inside reports whether value x comes from the stream that was entered, the
// stream itself not counted.
func (r *region) inside(x int32) bool {
	d := r.v.vals[x].def
	return d >= 0 && r.forward[d] == r.stamp
}

// body collects the nodes on the ways from the stream of c to value f, in
// topological order, and the merges among them that were stepped over.
func (r *region) body(c candidate, f int32) (nodes, nested []int32, err error) {
	r.mark++
	v := r.v
	var stack []int32
	push := func(x int32) {
		if x >= 0 && x != c.stream && r.inside(x) {
			if d := v.vals[x].def; r.seen[d] != r.mark {
				r.seen[d] = r.mark
				stack = append(stack, d)
			}
		}
	}
	push(f)
	for len(stack) > 0 {
		i := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		nodes = append(nodes, i)
		in := v.nodes[i].in
		if s, ok := r.merges[i]; ok {
			nested = append(nested, i)
			in = []int32{s}
		}
		if !v.spend(1 + len(in)) {
			return nil, nil, errWork
		}
		for _, x := range in {
			push(x)
		}
	}
	slices.Sort(nodes)
	return nodes, nested, nil
}
