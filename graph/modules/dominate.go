package modules

import "slices"

// Post-dominators of the view. Vertices are the view's values and nodes, and
// one exit behind the outputs; an edge leads from a value to every node that
// reads its data and from a node to every value it computes. Value s is
// post-dominated by node m if every way from s to the exit leads through m.
//
// The view has no cycles, so one sweep from the exit backwards finds the tree:
// the immediate post-dominator of a vertex is the lowest common ancestor of
// its successors in the tree so far (Aho, Hopcroft and Ullman, "On finding
// lowest common ancestors in trees", 1976). Common ancestors are found in
// O(log n) by the jump pointers of Myers ("An applicative random-access
// stack", 1983): every vertex knows its parent and one ancestor further down,
// at the distances of the skew-binary numbers.

// postdom is the tree. Vertex 0 is the exit, value x is 1+x, node i is
// 1+len(vals)+i.
type postdom struct {
	v      *view
	parent []int32 // -1 where the exit is not reached
	jump   []int32
	depth  []int32
}

// newPostdom builds the tree whose exit is reached from the values marked in
// exits.
func newPostdom(v *view, exits []bool) *postdom {
	size := 1 + len(v.vals) + len(v.nodes)
	p := &postdom{v: v, parent: make([]int32, size), jump: make([]int32, size), depth: make([]int32, size)}
	for i := range p.parent {
		p.parent[i] = -1
	}
	p.parent[0] = 0
	// Backwards in topological order: a node behind all values it computes,
	// a value behind all nodes that read it.
	value := func(x int32) {
		up := int32(-1)
		if exits[x] {
			up = 0
		}
		for _, u := range v.vals[x].uses {
			up = p.common(up, p.node(u))
		}
		p.hang(1+x, up)
	}
	for i := len(v.nodes) - 1; i >= 0; i-- {
		up := int32(-1)
		for _, o := range v.nodes[i].out {
			if o >= 0 {
				value(o)
				up = p.common(up, 1+o)
			}
		}
		p.hang(p.node(int32(i)), up)
	}
	for x := range v.vals {
		if v.vals[x].def < 0 {
			value(int32(x))
		}
	}
	return p
}

func (p *postdom) node(i int32) int32 { return 1 + int32(len(p.v.vals)) + i }

// hang makes up the parent of vertex x; -1 leaves x out of the tree.
func (p *postdom) hang(x, up int32) {
	if up < 0 {
		return
	}
	p.parent[x], p.depth[x] = up, p.depth[up]+1
	j := p.jump[up]
	if p.depth[up]-p.depth[j] == p.depth[j]-p.depth[p.jump[j]] {
		p.jump[x] = p.jump[j]
	} else {
		p.jump[x] = up
	}
}

// common is the lowest common ancestor of a and b; -1 stands for nothing, and
// so does a vertex that does not reach the exit.
func (p *postdom) common(a, b int32) int32 {
	if b < 0 || p.parent[b] < 0 {
		return a
	}
	if a < 0 {
		return b
	}
	if p.depth[a] < p.depth[b] {
		a, b = b, a
	}
	for p.depth[a] > p.depth[b] {
		if p.depth[p.jump[a]] >= p.depth[b] {
			a = p.jump[a]
		} else {
			a = p.parent[a]
		}
	}
	for a != b {
		if p.jump[a] != p.jump[b] {
			a, b = p.jump[a], p.jump[b]
		} else {
			a, b = p.parent[a], p.parent[b]
		}
	}
	return a
}

// after is the first node that every way from value x to the exit leads
// through, -1 where there is none.
func (p *postdom) after(x int32) int32 {
	first := int32(1 + len(p.v.vals))
	for u := p.parent[1+x]; u > 0; u = p.parent[u] {
		if u >= first {
			return u - first
		}
	}
	return -1
}

// reaches reports whether the exit is reached from node i.
func (p *postdom) reaches(i int32) bool { return p.parent[p.node(i)] >= 0 }

// exits chooses the outputs that a post-dominator has to lie before: the one
// behind the longest path, and of the others every one that a sum of two
// activations leads to which leads to none chosen before. So two towers have
// an exit each; a cache, attention weights or a tapped hidden state that is
// an output besides has none, as it would hide the merges around it: whether
// a branch feeds such an output is looked at for each branch.
func exits(v *view) []bool {
	depth := make([]int32, len(v.vals))
	for i := range v.nodes {
		d := int32(0)
		if v.nodes[i].class != shapeOf {
			for _, in := range v.nodes[i].in {
				if in >= 0 {
					d = max(d, depth[in])
				}
			}
		}
		for _, o := range v.nodes[i].out {
			if o >= 0 {
				depth[o] = d + 1
			}
		}
	}
	var outputs []int32
	for _, o := range v.model.Graph.Outputs() {
		if x := v.index[o]; !v.vals[x].konst {
			outputs = append(outputs, x)
		}
	}
	slices.SortStableFunc(outputs, func(a, b int32) int { return int(depth[b] - depth[a]) })
	chosen := make([]bool, len(v.vals))
	seen := make([]bool, len(v.vals))
	for k, o := range outputs {
		if seen[o] {
			continue
		}
		sums := false
		stack := []int32{o}
		seen[o] = true
		for len(stack) > 0 {
			x := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			d := v.vals[x].def
			if d < 0 || v.nodes[d].class == shapeOf {
				continue
			}
			if v.nodes[d].class == addition && v.activations(d) > 1 {
				sums = true
			}
			for _, in := range v.nodes[d].in {
				if in >= 0 && !seen[in] {
					seen[in] = true
					stack = append(stack, in)
				}
			}
		}
		chosen[o] = k == 0 || sums
	}
	return chosen
}

// activations counts the inputs of node i that are not constant.
func (v *view) activations(i int32) int {
	n := 0
	for _, in := range v.nodes[i].in {
		if in >= 0 && !v.vals[in].konst {
			n++
		}
	}
	return n
}
