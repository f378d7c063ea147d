package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// CachePair is a part of a decoder's cache, such as the keys of one layer:
// Past is the input that brings in what earlier tokens gave, Present the
// output that hands it on, longer along Axis by the tokens of the run.
type CachePair struct {
	Past, Present string
	Axis          int
}

// cachePlan is a pair of Options.Cache in a program.
type cachePlan struct {
	port    Port // of the past
	axis    int
	growing *growing // how it grows in place; nil: the present is kept as it is
	in      int      // slot of the past
	out     int      // slot of the present, where it does not
}

// growing is a cache that grows in place. It is kept as what a product reads:
// a stack of matrices B, of which the tokens are the rows, as for values, or
// the columns, as for keys.
type growing struct {
	k    *simd.Kernels
	axis int  // of the tokens in the model's tensors, the last or the one before
	last bool // it is the last
	rows bool // tokens are rows of B

	past, present *lvalue // while compiling
}

// cacheStack is the cache of one pair in a session. Its pages hold pageTokens
// tokens of all matrices, so that it grows without moving what it has.
type cacheStack struct {
	*growing
	outer, width int // matrices, and features of a token in each
	pages        [][]float32
	next         int // tokens after the run at hand
}

// pageTokens is a multiple of the widest panel of every path (48 columns), so
// that only the last panel of a cache is partial, and few enough tokens that a
// short text does not cost much: 6 MB of a layer of width 4096.
const pageTokens = 192

// sessionCache is the state of a pair: how many tokens it has, and where.
type sessionCache struct {
	n     int
	lead  []int // dims of the past, n not kept up to date
	stack *cacheStack
	held  Tensor // the present of the run before, where the cache does not grow in place
}

// cacheError is for what cannot be a pair of a cache.
func cacheError(c CachePair, format string, a ...any) error {
	return fmt.Errorf("cache of input %q and output %q: %w", c.Past, c.Present, fmt.Errorf(format, a...))
}

// caches takes the pairs out of the program's ports and lets those grow in
// place of which all readers can do with it.
func (l *lowering) caches(p *Program, main *scope) error {
	var ins, outs []int
	for _, c := range l.opts.Cache {
		i := slices.IndexFunc(p.inputs, func(q Port) bool { return q.Name == c.Past })
		o := slices.IndexFunc(p.outputs, func(q Port) bool { return q.Name == c.Present })
		if i < 0 || o < 0 {
			return cacheError(c, "the model has no such input or output")
		}
		if slices.Contains(ins, i) || slices.Contains(outs, o) {
			return cacheError(c, "it is part of another pair")
		}
		port := p.inputs[i]
		if port.Rank < 1 || c.Axis < 0 || c.Axis >= port.Rank || port.Shape.Dims[c.Axis].IsKnown() {
			return cacheError(c, "%v has no free dimension %d to grow along", port, c.Axis)
		}
		if q := p.outputs[o]; q.DType != port.DType && q.DType != graph.Undefined {
			return cacheError(c, "%v does not become %v", q, port)
		}
		ins, outs = append(ins, i), append(outs, o)
		p.caches = append(p.caches, cachePlan{port: port, axis: c.Axis})
	}
	if len(ins) == 0 {
		return nil
	}
	move := func(list []*lvalue, at []int) []*lvalue {
		var rest, last []*lvalue
		for i, v := range list {
			if !slices.Contains(at, i) {
				rest = append(rest, v)
			}
		}
		for _, i := range at {
			last = append(last, list[i])
		}
		return append(rest, last...)
	}
	without := func(list []Port, at []int) (rest []Port) {
		for i, q := range list {
			if !slices.Contains(at, i) {
				rest = append(rest, q)
			}
		}
		return rest
	}
	main.inputs, main.outputs = move(main.inputs, ins), move(main.outputs, outs)
	p.inputs, p.outputs = without(p.inputs, ins), without(p.outputs, outs)
	if l.opts.NoFusion {
		return nil
	}
	mark(main)
	prune(main)
	given, taken := main.outputs[:len(p.outputs)], main.outputs[len(p.outputs):]
	g := &growth{l: l, main: main, readers: map[*lvalue][]*lnode{}, inside: map[*lvalue]bool{}}
	g.index(main)
	kept := slices.Clone(given)
	for i := range p.caches {
		past, present := main.inputs[len(p.inputs)+i], taken[i]
		if !slices.Contains(given, present) {
			p.caches[i].growing = g.pair(&p.caches[i], past, present)
		}
		if p.caches[i].growing == nil {
			kept = append(kept, present)
		}
	}
	main.outputs = kept
	mark(main)
	prune(main)
	g.materialize()
	return nil
}

// growth finds the caches that can grow in place, and makes their readers
// kernels that read them as they lie.
type growth struct {
	l       *lowering
	main    *scope
	readers map[*lvalue][]*lnode // in the main graph, a node once per input
	inside  map[*lvalue]bool     // read in a body
	done    []*growing
}

func (g *growth) index(sc *scope) {
	for _, x := range sc.nodes {
		for _, v := range x.in {
			switch {
			case v == nil:
			case sc == g.main:
				g.readers[v] = append(g.readers[v], x)
			default:
				g.inside[v] = true
			}
		}
		for _, s := range x.scopes {
			for _, v := range s.outputs {
				g.inside[v] = true
			}
			g.index(s)
		}
	}
}

// way is a way from a present to a product that reads it as B.
type way struct {
	product  *lnode
	turned   bool     // rows and columns change places
	repeat   []*lnode // Unsqueeze, Expand, Reshape: heads that are shared by queries
	links    []link   // everything on the way but the product
	expanded *lvalue  // the shapes of Expand and Reshape
	shaped   *lvalue
}

// pair lets present = Concat(past, x) grow in place where a product reads it;
// it returns nil where it cannot.
func (g *growth) pair(c *cachePlan, past, present *lvalue) *growing {
	x, r := present.def, c.port.Rank
	if x == nil || present.konst != nil || !x.isOp("Concat") || len(x.in) != 2 || x.in[0] != past || x.in[1] == nil || x.in[1] == past ||
		c.port.DType != graph.Float32 || present.scope != g.main || r < 3 || c.axis < r-2 || past.pinned || present.pinned || g.inside[past] || g.inside[present] {
		return nil
	}
	if at, err := axis(x.int("axis", 1), r); err != nil || at != c.axis || !x.isSet("axis") {
		return nil
	}
	for _, u := range g.readers[past] {
		if u != x && !u.isOp("Shape") {
			return nil
		}
	}
	o := &growing{k: g.l.simd, axis: c.axis, last: c.axis == r-1, past: past, present: present}
	var ways []way
	g.follow(present, r, way{}, &ways)
	for i, w := range ways {
		// B [d, tokens] has its tokens in columns.
		rows := w.turned == o.last
		if i == 0 {
			o.rows = rows
		}
		if o.rows != rows {
			continue // it will read a copy
		}
		if !g.read(o, w) && i == 0 {
			return nil
		}
	}
	if len(ways) == 0 {
		return nil
	}
	x.replace("Concat", o.append, past, x.in[1])
	g.done = append(g.done, o)
	return o
}

// isOp reports whether x is an operator of the default domain that no fusion
// has replaced yet.
func (x *lnode) isOp(op string) bool { return x.op == op && x.domain == "" && x.kernel == nil }

// follow lists the ways from v, of rank r, to products.
func (g *growth) follow(v *lvalue, r int, so way, ways *[]way) {
	if v.pinned || g.inside[v] || len(so.links) > 6 {
		return
	}
	for _, u := range g.readers[v] {
		if len(u.out) != 1 || u.out[0] == nil {
			continue
		}
		w := so
		w.links = slices.Clone(so.links)
		switch {
		case u.isOp("MatMul") && len(u.in) == 2 && u.in[1] == v && u.in[0] != v && u.in[0] != nil:
			w.product = u
			*ways = append(*ways, w)
		case u.isOp("Transpose") && len(w.repeat)%3 == 0 && turns(u.ints("perm"), r):
			w.turned = !w.turned
			if w.add(u) {
				g.follow(u.out[0], r, w, ways)
			}
		case u.isOp("Unsqueeze") && len(so.links) == 0 && between(u, r):
			w.repeat = append(w.repeat, u)
			if w.add(u) {
				g.follow(u.out[0], r, w, ways)
			}
		case u.isOp("Expand") && len(w.repeat) == 1 && len(u.in) == 2 && u.in[0] == v && u.in[1] != nil:
			w.repeat, w.expanded = append(slices.Clip(w.repeat), u), u.in[1]
			if w.add(u) {
				g.follow(u.out[0], r, w, ways)
			}
		case u.isOp("Reshape") && len(w.repeat) == 2 && len(u.in) == 2 && u.in[0] == v && u.in[1] != nil:
			w.repeat, w.shaped = append(slices.Clip(w.repeat), u), u.in[1]
			if w.add(u) {
				g.follow(u.out[0], r, w, ways)
			}
		}
	}
}

// turns reports whether a permutation swaps the last two of r axes and leaves
// the others.
func turns(perm []int, r int) bool {
	if len(perm) != r || r < 2 {
		return false
	}
	for i, p := range perm {
		want := i
		if i >= r-2 {
			want = 2*r - 3 - i
		}
		if p != want && p != want-r {
			return false
		}
	}
	return true
}

// between reports whether an Unsqueeze of rank r adds its axis in front of the
// matrices.
func between(x *lnode, r int) bool {
	axes := x.ints("axes")
	if x.opset >= 13 {
		if len(x.in) != 2 || x.in[1] == nil || x.in[1].konst == nil {
			return false
		}
		var err error
		if axes, err = dimsOf(nil, x.in[1].konst); err != nil {
			return false
		}
	}
	return len(axes) == 1 && (axes[0] == r-2 || axes[0] == r-2-(r+1))
}

// end is what the last link gives, as an input of the next one.
func (w *way) end() int {
	if len(w.links) == 0 {
		return 0
	}
	return result(len(w.links) - 1)
}

// add makes u a link of the way. Inputs beside the first are a constant, or
// the shapes, whose places in the product are fixed.
func (w *way) add(u *lnode) bool {
	k, err := u.ready()
	if err != nil {
		return false
	}
	l := link{k: k, in: []int{w.end()}}
	switch u.op {
	case "Unsqueeze":
		if len(u.in) == 2 {
			l.in, l.c = append(l.in, constant), u.in[1].konst
		}
	case "Expand":
		l.in = append(l.in, 2)
	case "Reshape":
		l.in = append(l.in, 3)
	}
	w.links = append(w.links, l)
	return true
}

// read makes the product at the end of a way one that reads the cache.
func (g *growth) read(o *growing, w way) bool {
	m := w.product
	k, err := m.ready()
	if err != nil {
		return false
	}
	p := &cachedProduct{growing: o, repeats: w.expanded != nil, links: append(w.links, link{k: k, in: []int{1, w.end()}})}
	in := []*lvalue{m.in[0], o.present}
	if p.repeats {
		if w.shaped == nil {
			return false
		}
		p.allowzero = w.repeat[2].bool("allowzero", false)
		in = append(in, w.expanded, w.shaped)
	}
	m.replace("MatMul", p.run, in...)
	return true
}

// materialize gives readers of a cache that do not know how it lies a copy.
func (g *growth) materialize() {
	for _, o := range g.done {
		var readers []*lnode
		for _, x := range g.main.nodes {
			if x.kernel == nil && !x.isOp("Shape") && slices.Contains(x.in, o.present) {
				readers = append(readers, x)
			}
		}
		if readers == nil {
			continue
		}
		at := o.present.def
		x := &lnode{node: node{name: at.name, simd: at.simd}, in: []*lvalue{o.present}, live: true}
		v := &lvalue{name: o.present.name, scope: g.main, def: x, rank: o.present.rank}
		x.op, x.out, x.kernel = "Concat", []*lvalue{v}, o.copy
		for _, u := range readers {
			for i, w := range u.in {
				if w == o.present {
					u.in[i] = v
				}
			}
		}
		i := slices.Index(g.main.nodes, at)
		g.main.nodes = slices.Insert(g.main.nodes, i+1, x)
	}
}

// matrices returns how many matrices [tokens, features] tensors of that shape
// are, and their features.
func (o *growing) matrices(shape []int) (outer, width int) {
	outer, width = 1, shape[len(shape)-1]
	if o.last {
		width = shape[len(shape)-2]
	}
	for _, d := range shape[:len(shape)-2] {
		outer *= d
	}
	return outer, width
}

// page is a page of matrix i.
func (o *cacheStack) page(p, i int) simd.Packed {
	k, n := pageTokens, o.width
	if !o.rows {
		k, n = n, k
	}
	size := o.k.PackedLen(k, n)
	return o.k.Room(o.pages[p][i*size:], k, n)
}

// fit makes room for so many tokens.
func (o *cacheStack) fit(pool *pool, outer, width, tokens int) error {
	if outer != o.outer || width != o.width {
		for _, p := range o.pages {
			pool.bytes -= 4 * len(p)
		}
		o.pages, o.outer, o.width = nil, outer, width
	}
	size := o.k.PackedLen(width, pageTokens)
	if o.rows {
		size = o.k.PackedLen(pageTokens, width)
	}
	if outer > 0 && size > maxBytes/4/outer {
		return fmt.Errorf("a cache of %d×%d features does not fit into memory", outer, width)
	}
	for len(o.pages)*pageTokens < tokens {
		if err := pool.room(4 * outer * size); err != nil {
			return fmt.Errorf("a cache of %d tokens: %w", tokens, err)
		}
		pool.bytes += 4 * outer * size
		o.pages = append(o.pages, pool.store.Get(outer*size))
	}
	return nil
}

// append is Concat(past, x) of a cache that grows in place.
func (g *growing) append(c *call) error {
	past, x := c.in[0], c.in[1]
	o := past.cached
	if o == nil {
		return errors.New("internal error: the past is no cache")
	}
	if x.DType != graph.Float32 || len(x.Shape) != len(past.Shape) {
		return fmt.Errorf("input 1 is %v%v, the cache %v%v", x.DType, x.Shape, past.DType, past.Shape)
	}
	for i, d := range x.Shape {
		if i != g.axis && d != past.Shape[i] {
			return fmt.Errorf("input 1 has shape %v, the cache %v: they differ beside axis %d", x.Shape, past.Shape, g.axis)
		}
	}
	outer, width := g.matrices(x.Shape)
	t := c.target(0)
	c.s.pool.release(t)
	t.DType, t.cached = graph.Float32, o
	t.Shape = append(t.Shape[:0], past.Shape...)
	t.Shape[g.axis] += x.Shape[g.axis]
	if err := o.fit(&c.s.pool, outer, width, t.Shape[g.axis]); err != nil {
		return err
	}
	o.next = t.Shape[g.axis]
	if x.Len() > 0 {
		c.parallel(outer, 1+elementGrain/(width*x.Shape[g.axis]), g.put)
	}
	return nil
}

// put appends the tokens of matrices [lo, hi).
func (g *growing) put(c *call, lo, hi int) {
	x, o := c.in[1], c.in[0].cached
	from, tokens := c.in[0].Shape[g.axis], x.Shape[g.axis]
	for i := lo; i < hi; i++ {
		ld := o.width
		if g.last {
			ld = tokens
		}
		b := simd.RowMajor(x.F32()[i*tokens*o.width:(i+1)*tokens*o.width], ld)
		if g.last == g.rows {
			b = b.T()
		}
		for at := from; at < from+tokens; {
			p, off := at/pageTokens, at%pageTokens
			n := min(pageTokens-off, from+tokens-at)
			part := b
			if g.rows {
				part.Data = b.Data[(at-from)*b.RowStride:]
				g.k.PutRows(o.page(p, i), off, part, n)
			} else {
				part.Data = b.Data[(at-from)*b.ColStride:]
				g.k.PutColumns(o.page(p, i), off, part, n)
			}
			at += n
		}
	}
}

// copy makes output 0 the tensor that the cache of input 0 stands for.
func (g *growing) copy(c *call) error {
	x := c.in[0]
	if _, err := c.alloc(0, graph.Float32, x.Shape...); err != nil || x.Len() == 0 {
		return err
	}
	outer, _ := g.matrices(x.Shape)
	c.parallel(outer, 1+elementGrain*outer/x.Len(), g.unpack)
	return nil
}

func (g *growing) unpack(c *call, lo, hi int) {
	x := c.in[0]
	o, z, tokens := x.cached, c.out[0].F32(), x.Shape[g.axis]
	for i := lo; i < hi; i++ {
		ld := o.width
		if g.last {
			ld = tokens
		}
		b := simd.RowMajor(z[i*tokens*o.width:(i+1)*tokens*o.width], ld)
		if g.last == g.rows {
			b = b.T()
		}
		for p := 0; p*pageTokens < tokens; p++ {
			n := min(pageTokens, tokens-p*pageTokens)
			part := b
			if g.rows {
				part.Data = b.Data[p*pageTokens*b.RowStride:]
				o.page(p, i).Leading(n, o.width).Unpack(part)
			} else {
				part.Data = b.Data[p*pageTokens*b.ColStride:]
				o.page(p, i).Leading(o.width, n).Unpack(part)
			}
		}
	}
}

// cachedProduct is A·B with a cache for B, every matrix of which may serve
// several of A: Unsqueeze, Expand and Reshape, in front of it in the model,
// repeat them. The bits are those of the product with the matrices copied.
type cachedProduct struct {
	*growing
	repeats, allowzero bool
	links              []link // the nodes one by one, for shapes that this kernel does not take
}

type cachedState struct {
	shape, wide []int // of B: without and with its heads repeated
	result      []int
	expand      broadcast
	rows        int // of A for a matrix of B
	k, n        int // of B
}

// set works out the shapes and reports whether they are those of an attention.
func (p *cachedProduct) set(s *cachedState, c *call) bool {
	a, b := c.in[0], c.in[1]
	r := len(b.Shape)
	if a.DType != graph.Float32 || len(a.Shape) != r {
		return false
	}
	s.wide = append(s.wide[:0], b.Shape...)
	times := 1
	if p.repeats {
		s.shape = slices.Insert(append(s.shape[:0], b.Shape...), r-2, 1)
		var err error
		if s.wide, err = dimsOf(s.wide, c.in[2]); err != nil || s.expand.set(s.shape, s.wide) != nil || len(s.expand.shape) != r+1 {
			return false
		}
		times = s.expand.shape[r-2]
		s.shape[r-2] = times
		if !slices.Equal(s.shape, s.expand.shape) {
			return false
		}
		if s.wide, err = dimsOf(s.wide, c.in[3]); err != nil || reshaped(s.wide, s.shape, p.allowzero) != nil ||
			len(s.wide) != r || !slices.Equal(s.wide[r-2:], b.Shape[r-2:]) {
			return false
		}
	}
	if !slices.Equal(a.Shape[:r-2], s.wide[:r-2]) {
		return false
	}
	if n, err := count(s.wide); err != nil || n != b.Len()*times {
		return false
	}
	_, width := p.matrices(b.Shape)
	s.k, s.n = width, b.Shape[p.axis]
	if p.rows {
		s.k, s.n = s.n, s.k
	}
	s.rows = times * a.Shape[r-2]
	s.result = append(append(s.result[:0], a.Shape[:r-1]...), s.n)
	return a.Shape[r-1] == s.k
}

func (p *cachedProduct) run(c *call) error {
	s, ok := c.state.(*cachedState)
	if !ok {
		s = &cachedState{}
		c.state = s
	}
	if !p.set(s, c) {
		return p.plain(c)
	}
	z, err := c.alloc(0, graph.Float32, s.result...)
	if err != nil || z.Len() == 0 {
		return err
	}
	if s.k == 0 {
		clear(z.F32())
		return nil
	}
	outer, _ := p.matrices(c.in[1].Shape)
	c.parallel(outer*s.rows, 1+multiplyGrain/(1+s.k*s.n), p.multiply)
	return nil
}

// multiply computes rows [lo, hi) of the stack of results.
func (p *cachedProduct) multiply(c *call, lo, hi int) {
	s, o := c.state.(*cachedState), c.in[1].cached
	a, z, tokens := c.in[0].F32(), c.out[0].F32(), c.in[1].Shape[p.axis]
	for lo < hi {
		i := lo / s.rows
		rows := min(s.rows-lo%s.rows, hi-lo)
		x := simd.RowMajor(a[lo*s.k:(lo+rows)*s.k], s.k)
		for at := 0; at < tokens; at += pageTokens {
			n := min(pageTokens, tokens-at)
			if p.rows {
				part := x
				part.Data = x.Data[at:]
				p.k.Gemm(z[lo*s.n:], s.n, part, rows, o.page(at/pageTokens, i).Leading(n, s.n), nil, at > 0)
			} else {
				p.k.Gemm(z[lo*s.n+at:], s.n, x, rows, o.page(at/pageTokens, i).Leading(s.k, n), nil, false)
			}
		}
		lo += rows
	}
}

// plain copies the cache and runs the nodes of the model.
func (p *cachedProduct) plain(c *call) error {
	b := &call{s: c.s, in: []*Tensor{c.in[1]}, out: []*Tensor{{}}}
	err := p.copy(b)
	b.tidy()
	if err == nil {
		all := &call{s: c.s, in: slices.Clone(c.in), out: c.out}
		all.in[0], all.in[1] = b.out[0], c.in[0]
		err = all.chain(p.links)
	}
	c.s.pool.release(b.out[0])
	return err
}

// placeCaches notes the slots of pasts and presents.
func (p *Program) placeCaches() {
	kept := p.main.outputs[len(p.outputs):]
	for i := range p.caches {
		c := &p.caches[i]
		c.in = p.main.inputs[len(p.inputs)+i]
		if c.growing == nil {
			c.out, kept = kept[0], kept[1:]
		}
	}
}

// given returns the slots of the outputs that a run gives.
func (p *Program) given() []int { return p.main.outputs[:len(p.outputs)] }

// CacheLen returns how many tokens the session's cache holds: those of all
// runs since it was made or truncated to none.
func (s *Session) CacheLen() int {
	n := 0
	for i := range s.caches { // one may stay empty: that of an attention that was dropped
		n = max(n, s.caches[i].n)
	}
	return n
}

// Truncate lets the session's cache hold its first n tokens only; 0 makes it
// ready for another sequence.
func (s *Session) Truncate(n int) error {
	if s.busy {
		return errors.New("truncate: the session is running")
	}
	if have := s.CacheLen(); n < 0 || n > have {
		return fmt.Errorf("truncate: the cache has %d tokens, not %d", have, n)
	}
	for i := range s.caches {
		st, p := &s.caches[i], &s.prog.caches[i]
		switch {
		case n == 0:
			s.pool.release(&st.held)
			st.lead = st.lead[:0]
		case p.growing == nil && n < st.n:
			short, err := st.held.leading(p.axis, n)
			if err != nil {
				return fmt.Errorf("truncate: %w", err)
			}
			s.pool.release(&st.held)
			st.held = *short
		}
		st.n = min(n, st.n)
	}
	return nil
}

// leading copies the first n places of an axis.
func (t *Tensor) leading(axis, n int) (*Tensor, error) {
	shape := slices.Clone(t.Shape)
	shape[axis] = n
	out, err := newTensor(t.DType, shape)
	if err != nil {
		return nil, err
	}
	l, w := linesOf(t.Shape, axis), elemSize(t.DType)
	for o := range l.outer {
		if w == 0 {
			copy(out.strs[o*n*l.inner:(o+1)*n*l.inner], t.strs[o*l.n*l.inner:])
		} else {
			copy(out.mem[o*n*l.inner*w:(o+1)*n*l.inner*w], t.mem[o*l.n*l.inner*w:])
		}
	}
	return out, nil
}

// feedCaches makes the pasts of a run what the runs before left.
func (s *Session) feedCaches() error {
	for i := range s.caches {
		st, p := &s.caches[i], &s.prog.caches[i]
		t := s.main.values[p.in]
		if len(st.lead) == 0 {
			for k, d := range p.port.Shape.Dims {
				n := 1
				switch {
				case k == p.axis:
					n = 0
				case d.IsKnown():
					n = int(d.N)
				default:
					if b, ok := s.symbols[d.Sym]; ok && d.Sym != "" {
						n = b.n
					}
				}
				st.lead = append(st.lead, n)
			}
		}
		st.lead[p.axis] = st.n
		switch {
		case p.growing != nil:
			t.DType, t.cached = graph.Float32, st.stack
			t.Shape = append(t.Shape[:0], st.lead...)
		case st.n > 0:
			s.pool.share(t, &st.held)
		default:
			if elemSize(p.port.DType) == 0 {
				return fmt.Errorf("cache %q: %w", p.port.Name, wrongType(p.port.DType))
			}
			t.DType = p.port.DType
			t.Shape = append(t.Shape[:0], st.lead...)
			n, err := count(t.Shape)
			if err != nil {
				return fmt.Errorf("cache %q: %w", p.port.Name, err)
			}
			if n > 0 { // a fixed dimension of the tokens is refused, so there is none
				return fmt.Errorf("cache %q: no empty cache has shape %v", p.port.Name, t.Shape)
			}
		}
		// How long it is is the session's own business; the rest must fit the feeds.
		for k, d := range p.port.Shape.Dims {
			if b, ok := s.symbols[d.Sym]; k != p.axis && d.Sym != "" && ok && b.n != t.Shape[k] {
				return fmt.Errorf("cache %q has shape %v, but dimension %q is %d in input %q; truncate it to nothing before another batch",
					p.port.Name, t.Shape, d.Sym, b.n, b.input)
			}
		}
	}
	return nil
}

// keepCaches makes the presents of a run that succeeded the pasts of the next.
func (s *Session) keepCaches() error {
	for i := range s.caches {
		p := &s.prog.caches[i]
		if t := s.main.values[p.out]; p.growing == nil && len(t.Shape) != p.port.Rank {
			return fmt.Errorf("cache %q: its present has shape %v", p.port.Name, t.Shape)
		}
	}
	for i := range s.caches {
		st, p := &s.caches[i], &s.prog.caches[i]
		if p.growing != nil {
			st.n = st.stack.next
			continue
		}
		t := s.main.values[p.out]
		st.n, st.lead = t.Shape[p.axis], append(st.lead[:0], t.Shape...)
		if t.buf == nil { // memory of a feed, of an output, or of a constant
			t = t.clone()
		}
		s.pool.share(&st.held, t)
	}
	return nil
}
