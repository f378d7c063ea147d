package modules

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// found is a module together with its numbers in the view.
type found struct {
	Module
	stream, branch, sum int32
	merge               int32
	body                []int32
	entry               bool // the branch begins with a norm of the stream
}

type finder struct {
	*view
	normsOf map[int32][]viewNorm // by the value that they normalise
	found   []found
}

// find fills in everything but ids and layers.
func (f *finder) find() error {
	p := newPostdom(f.view, exits(f.view))
	r := newRegion(f.view, p)
	f.normsOf = map[int32][]viewNorm{}
	for _, n := range f.norms() {
		f.normsOf[n.in] = append(f.normsOf[n.in], n)
	}
	list, err := f.candidates(p)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := r.enter(c); err != nil {
			return err
		}
		list, err := f.branches(r, c)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			r.streams[c.stream], r.merges[c.merge] = c.merge, c.stream
		}
		slices.SortStableFunc(list, func(a, b found) int { return cmp.Compare(a.Kind.rank(), b.Kind.rank()) })
		f.found = append(f.found, list...)
	}
	f.postNorms()
	f.shareCaches()
	if !f.spend(0) {
		return errWork
	}
	return nil
}

// branch is an addend of a candidate that comes from its stream.
type branch struct {
	leaf
	body   []int32
	nested []int32
	group  int // branches that share a linear layer or a product have one number
}

// branches returns the modules that join at c.
func (f *finder) branches(r *region, c candidate) ([]found, error) {
	var list []branch
	for _, l := range c.leaves {
		if l.val != c.stream && !r.inside(l.val) {
			continue
		}
		body, nested, err := r.body(c, l.val)
		if err != nil {
			return nil, err
		}
		if len(body) > 0 {
			list = append(list, branch{leaf: l, body: body, nested: nested, group: len(list)})
		}
	}
	list = f.group(c, list)
	added := map[int32]int{} // per addend: how often it is added
	for _, l := range c.leaves {
		added[l.val]++
	}
	owners := map[int32]int{} // per node: branches it is part of
	for _, b := range list {
		for _, i := range b.body {
			owners[i]++
		}
	}
	var out []found
	for _, b := range list {
		kind, cores, why, computes := f.classify(r, c, b.val, b.body)
		if !computes {
			continue
		}
		m := found{stream: c.stream, branch: b.val, sum: f.nodes[c.merge].out[0], merge: c.merge, body: b.body}
		m.Kind = kind
		m.Parallel = b.add != c.merge || !f.pair(b.add, b.val, c.stream)
		m.Stream, m.Sum = f.vals[m.stream].origin, f.vals[m.sum].origin
		m.Merge = f.nodes[c.merge].n
		m.Join = graph.Use{Node: f.nodes[b.add].n, Index: int(b.at)}
		m.Branch = m.Join.Node.Input(m.Join.Index)
		m.Body = f.tops(b.body)
		if m.Call = f.caller(m.stream); m.Call == nil && f.nodes[b.add].frame != nil {
			m.Call = f.nodes[b.add].top()
		}
		f.measure(&m)
		if kind == Attention || kind == CrossAttention {
			m.Caches = f.caches(c, cores)
		}
		if len(b.nested) > 0 {
			m.Kind, why = Other, fmt.Sprintf("other modules lie inside it, the first joined by %v", f.nodes[b.nested[0]].n)
		}
		for _, n := range f.normsOf[c.stream] {
			if _, ok := slices.BinarySearch(b.body, n.nodes[0]); ok && f.spend(1) {
				m.entry = true
			}
		}
		m.Reason = f.decline(&m, c, b, why, owners, added)
		m.Droppable = m.Reason == ""
		out = append(out, m)
	}
	return out, nil
}

// caller is the call that keeps value x inside a function, nil where x is a
// value of a graph.
func (f *finder) caller(x int32) *graph.Node {
	if l := &f.vals[x]; l.def >= 0 && l.origin != nil && l.origin.Graph().Function() != nil {
		return f.nodes[l.def].top()
	}
	return nil
}

// pair reports whether the Add at node i adds up x and y and nothing else but
// constants, the bias of a fused operator.
func (f *finder) pair(i, x, y int32) bool {
	in := slices.DeleteFunc(slices.Clone(f.nodes[i].in), f.konst)
	return slices.Equal(in, []int32{x, y}) || slices.Equal(in, []int32{y, x})
}

// group joins branches that share a linear layer, a product or an operator
// that is not known: experts with one router, or a projection with a low-rank
// part beside it, are one module. Their sum has to be an Add of its own.
func (f *finder) group(c candidate, list []branch) []branch {
	if len(list) < 2 {
		return list
	}
	first := map[int32]int{} // node → group
	root := func(g int) int {
		for list[g].group != g {
			list[g].group = list[list[g].group].group
			g = list[g].group
		}
		return g
	}
	for k := range list {
		for _, i := range list[k].body {
			switch f.nodes[i].class {
			case product, fused, opaque:
				if g, ok := first[i]; ok {
					a, b := root(g), root(k)
					list[max(a, b)].group = min(a, b)
				} else {
					first[i] = k
				}
			}
		}
	}
	groups := make([][]branch, len(list))
	for k := range list {
		g := root(k)
		groups[g] = append(groups[g], list[k])
	}
	var out []branch
	for _, members := range groups {
		if len(members) == 0 {
			continue
		}
		b := members[0]
		if len(members) > 1 {
			var adds []int32
			b.leaf, adds = f.join(c, members)
			for _, o := range members[1:] {
				b.body = append(b.body, o.body...)
				b.nested = append(b.nested, o.nested...)
			}
			b.body = append(b.body, adds...)
			slices.Sort(b.body)
			b.body = slices.Compact(b.body)
		}
		out = append(out, b)
	}
	return out
}

// join finds the Add below the merge that sums up exactly these branches, and
// returns where its result goes in, with the Adds on the way. Where there is
// none it returns the first branch: the others then read from its body, and
// it is declined.
func (f *finder) join(c candidate, members []branch) (leaf, []int32) {
	want := map[leaf]bool{}
	for _, b := range members {
		want[b.leaf] = true
	}
	all := map[leaf]bool{}
	for _, l := range c.leaves {
		all[l] = true
	}
	for _, b := range members {
		for a := b.add; a >= 0 && a != c.merge; a = f.reader(a) {
			// The leaves below a.
			n, ok := 0, true
			var adds []int32
			stack := []int32{a}
			for len(stack) > 0 && f.spend(1) {
				x := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				adds = append(adds, x)
				for at, in := range f.nodes[x].in {
					switch {
					case in < 0 || f.vals[in].konst:
					case in == c.stream:
						ok = false
					case all[leaf{in, x, int32(at)}]:
						n++
						ok = ok && want[leaf{in, x, int32(at)}]
					case f.vals[in].def >= 0:
						stack = append(stack, f.vals[in].def)
					}
				}
			}
			if ok && n == len(members) {
				up := f.reader(a)
				return leaf{f.nodes[a].out[0], up, int32(slices.Index(f.nodes[up].in, f.nodes[a].out[0]))}, adds
			}
		}
	}
	return members[0].leaf, nil
}

// decline tells why a module is not to be dropped, "" if it can be.
func (f *finder) decline(m *found, c candidate, b branch, why string, owners, added map[int32]int) string {
	if m.Kind == Other {
		if len(b.nested) > 0 {
			return why
		}
		return "neither attention nor MLP: " + why
	}
	for fr := f.nodes[b.add].frame; fr != nil; fr = fr.caller {
		if err := fr.fn.Inlinable(); err != nil {
			return fmt.Sprintf("%v cannot be taken apart: %v", fr.call, err)
		}
	}
	if s := f.broadcast(c.stream, b.val); s != "" {
		return s
	}
	if added[b.val] > 1 {
		return fmt.Sprintf("it is added %d times", added[b.val])
	}
	presents := map[*graph.Value]bool{}
	for _, k := range m.Caches {
		if k.Present != nil {
			presents[k.Present] = true
		}
		if k.Past != nil {
			if i := f.reads(f.index[k.Past], b.body); i >= 0 {
				return fmt.Sprintf("its cache %q is read by %v too", k.Past.Name, f.nodes[i].n)
			}
		}
	}
	for _, i := range b.body {
		if owners[i] > 1 {
			continue
		}
		for _, o := range f.nodes[i].out {
			if o < 0 {
				continue
			}
			if g := f.gives[o]; g != nil && !presents[g] {
				return fmt.Sprintf("branch feeds output %q", g.Name)
			}
			for _, u := range f.vals[o].uses {
				if u == b.add && o == b.val || !f.alive(u) {
					continue
				}
				if _, ok := slices.BinarySearch(b.body, u); ok {
					continue
				}
				if s := f.leak(u, presents); s != "" {
					return s
				}
			}
		}
	}
	return ""
}

// leak follows what node i, which reads from a body it is not part of, makes
// of it: it may only be moved about to become a present.
func (f *finder) leak(i int32, presents map[*graph.Value]bool) string {
	stack, seen := []int32{i}, map[int32]bool{i: true}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		x := &f.nodes[n]
		if !f.spend(1) {
			return errWork.Error()
		}
		if x.class != layout {
			if o := x.top().Output(0); o != nil && f.output(x) != "" {
				return fmt.Sprintf("branch feeds output %q", f.output(x))
			}
			return fmt.Sprintf("branch feeds %v outside of it", x.n)
		}
		for _, o := range x.out {
			if o < 0 {
				continue
			}
			if g := f.gives[o]; g != nil && !presents[g] {
				return fmt.Sprintf("branch feeds output %q", g.Name)
			}
			for _, u := range f.vals[o].uses {
				if !seen[u] && f.alive(u) {
					seen[u] = true
					stack = append(stack, u)
				}
			}
		}
	}
	return ""
}

// output is the name of the graph output that node x computes, "" if none.
func (f *finder) output(x *node) string {
	for _, o := range x.out {
		if g := f.gives[o]; g != nil {
			return g.Name
		}
	}
	return ""
}

// broadcast tells why stream and branch do not have one shape.
func (f *finder) broadcast(stream, b int32) string {
	s, d := f.dims(stream), f.dims(b)
	if s == nil || d == nil {
		return ""
	}
	same := len(s) == len(d)
	for i := 0; same && i < len(s); i++ {
		same = !s[i].IsKnown() || !d[i].IsKnown() || s[i].N == d[i].N
	}
	if same {
		return ""
	}
	return fmt.Sprintf("its shape %v is not that of the stream, %v", d, s)
}

// own is the body together with what is computed for it alone, such as the
// keys and values of a cross-attention; products end the search, so that an
// encoder which feeds one attention is not counted as part of it.
func (f *finder) own(body []int32) []int32 {
	in := map[int32]bool{}
	for _, i := range body {
		in[i] = true
	}
	list := slices.Clone(body)
	for k := 0; k < len(list); k++ {
		if k >= len(body) && f.nodes[list[k]].class == product {
			continue
		}
		for _, x := range f.nodes[list[k]].in {
			if x < 0 || f.vals[x].konst || f.vals[x].def < 0 || in[f.vals[x].def] || !f.spend(1) {
				continue
			}
			d := f.vals[x].def
			alone := true
			for _, o := range f.nodes[d].out {
				if o >= 0 {
					f.spend(len(f.vals[o].uses))
					alone = alone && !slices.ContainsFunc(f.vals[o].uses, func(u int32) bool { return !in[u] && f.alive(u) })
				}
			}
			if alone {
				in[d] = true
				list = append(list, d)
			}
		}
	}
	slices.Sort(list)
	return list
}

// measure fills in weights, parameters and FLOPs.
func (f *finder) measure(m *found) {
	counted := map[int32]bool{}
	for _, i := range f.own(m.body) {
		x := &f.nodes[i]
		if x.class == layout && x.name != "Gather" {
			continue // a causal mask that is cut to size, say
		}
		weights := false
		for k, in := range x.in {
			if in < 0 || !f.vals[in].konst {
				continue
			}
			t := f.constant(in)
			if t == nil || t.Len() < 2 {
				continue
			}
			if linear := x.class == product || x.class == fused && k == x.weight || x.name == "Conv"; linear && k > 0 && (k == x.weight || x.name == "Conv" && k == 1) {
				weights = true
				m.FLOPs += f.flops(i, t)
			} else if x.class == product && k == 0 {
				weights = true
				m.FLOPs += 2 * t.Len()
			}
			if (t.DType.IsFloat() || x.class == product || x.class == fused) && !counted[in] {
				counted[in] = true
				m.Params += t.Len()
			}
		}
		if weights && x.frame == nil {
			m.Weights = append(m.Weights, x.n)
		}
	}
	if x := &f.nodes[m.merge]; operators[x.name].class == skipNorm && !m.Parallel {
		for _, in := range x.in { // the bias of the last layer
			if t := f.constant(in); f.konst(in) && t != nil {
				m.Params += t.Len()
			}
		}
	}
}

// constant is the tensor that a constant value holds, or is made from by
// moving elements or dequantizing; nil where that is not plain to see.
func (f *finder) constant(x int32) *graph.Tensor {
	for range 8 {
		if t := f.tensor(x); t != nil {
			return t
		}
		d := int32(-1)
		if x >= 0 {
			d = f.vals[x].def
		}
		if d < 0 {
			return nil
		}
		switch n := &f.nodes[d]; {
		case n.class == layout && n.name != "Expand" && n.name != "Tile", n.name == "DequantizeLinear", n.name == "Cast":
			x = f.data(d, 0)
		default:
			return nil
		}
	}
	return nil
}

// flops is the work for one token of the linear layer at node i with weights
// t. A block-circulant one takes q forward and p inverse transforms of real
// data, 2.5·b·log2 b each, and 8 for each of the b/2 complex products of its
// p·q blocks.
func (f *finder) flops(i int32, t *graph.Tensor) int64 {
	if x := &f.nodes[i]; x.n.Domain == graph.LatheDomain && len(t.Dims) == 3 {
		p, q, b := t.Dims[0], t.Dims[1], t.Dims[2]
		log := int64(0)
		for n := b; n > 1; n >>= 1 {
			log++
		}
		return (p+q)*5*b*log/2 + 4*p*q*b
	}
	return 2 * t.Len()
}

// postNorms finds the norms behind the sums of post-LN modules: all that
// reads the sum is the norm, the branch does not begin with a norm of its
// own, and the norm leads to the next module's stream, or the module before
// has one too (of the last one the norm alone does not tell, as a pre-LN
// model ends with one as well).
func (f *finder) postNorms() {
	streams := map[int32]bool{}
	for _, m := range f.found {
		streams[m.stream] = true
	}
	posts := map[int32]bool{} // streams that come out of such a norm
	for k := range f.found {
		m := &f.found[k]
		n := f.soleNorm(m.sum)
		if n == nil || m.entry {
			continue
		}
		if out := f.onward(n.out, streams); streams[out] || posts[m.stream] || len(f.found) == 1 {
			m.Norm = f.norm(n)
			if m.Call == nil {
				m.Call = f.caller(n.out)
			}
			posts[out] = true
		}
	}
}

// soleNorm is the norm that alone reads value x, nil if there is none.
func (f *finder) soleNorm(x int32) *viewNorm {
	if len(f.normsOf[x]) != 1 || f.vals[x].output {
		return nil
	}
	n := &f.normsOf[x][0]
	for _, u := range f.vals[x].uses {
		if _, ok := slices.BinarySearch(n.nodes, u); !ok && f.alive(u) {
			return nil
		}
	}
	return n
}

// onward follows a stream that comes out of a norm over what dropped modules
// leave behind, their mean updates and norms, to the next module's stream.
func (f *finder) onward(x int32, streams map[int32]bool) int32 {
	for !streams[x] && f.spend(1+len(f.vals[x].uses)) {
		if n := f.soleNorm(x); n != nil {
			x = n.out
			continue
		}
		next := int32(-1)
		for _, u := range f.vals[x].uses {
			if !f.alive(u) {
				continue
			}
			if next >= 0 || f.nodes[u].class != addition || f.activations(u) != 1 {
				return x
			}
			next = u
		}
		if next < 0 {
			return x
		}
		x = f.nodes[next].out[0]
	}
	return x
}

// shareCaches declines attentions whose cache is not theirs alone.
func (f *finder) shareCaches() {
	owner := map[*graph.Value]int{}
	for k := range f.found {
		for _, c := range f.found[k].Caches {
			for _, x := range []*graph.Value{c.Past, c.Present} {
				if x == nil {
					continue
				}
				if o, ok := owner[x]; ok && o != k {
					for _, i := range []int{o, k} {
						if m := &f.found[i]; m.Droppable {
							m.Droppable, m.Reason = false, fmt.Sprintf("its cache %q holds other modules' too", x.Name)
						}
					}
				}
				owner[x] = k
			}
		}
	}
}
