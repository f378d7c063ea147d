package runtime

import (
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// attention is softmax(q·k·scale + mask)·v for q [..., T, d], k [..., d, S] and
// v [..., S, e], up to two leading dimensions, some rows of one head at a time:
// their scores stay in the cache next to the core. The operands and the result
// are read and written through their transpositions.
type attention struct {
	*scores
	perms [3][]int // of q, k and v: the dims of what is fed, in their order; nil as they lie
	out   []int    // of the result

	// The nodes one by one, with where q, k and v are found in their order, and
	// which nodes give the scores and the weights.
	links            []link
	from             [3]int
	product, weights int
}

// attention: MatMul(Softmax(…MatMul(q, k)…), v), whose inputs are q, k, v and
// the mask.
func (f *fuser) attention(x *lnode) bool {
	if x.op != "MatMul" {
		return false
	}
	softmax := f.softmax(x.in[0])
	if softmax == nil {
		return false
	}
	a := &attention{}
	if s, ok := softmax.fused.(*scores); ok {
		a.scores = s
	} else {
		a.scores = softmaxOf(softmax)
		k, err := softmax.ready()
		if err != nil {
			return false
		}
		a.scores.links = []link{{k: k, in: []int{0}}}
	}
	at := 0
	product := f.only(softmax.in[0], "MatMul")
	if product == nil && a.masked && len(a.scores.links) == 2 { // a sum does not say which is which
		at, product = 1, f.only(softmax.in[1], "MatMul")
	}
	if product == nil {
		return false
	}
	first, err := product.ready()
	if err != nil {
		return false
	}
	last, err := x.ready()
	if err != nil {
		return false
	}
	if a.masked && f.moved[softmax.in[1-at]] {
		return false // what is learnt of a mask needs the gradient of all scores
	}
	inputs := []*lvalue{product.in[0], product.in[1], x.in[1]}
	a.from = [3]int{0, 1, 2}
	for i, v := range inputs {
		if v.konst != nil {
			return false
		}
		for t := f.transposition(v); t != nil; t = f.transposition(inputs[i]) {
			perm := t.ints("perm")
			if a.perms[i] == nil {
				a.perms[i] = perm
			} else {
				for j, d := range a.perms[i] {
					a.perms[i][j] = perm[d]
				}
			}
			inputs[i] = t.in[0]
		}
		if a.perms[i] != nil {
			k, err := transposeBy(a.perms[i])
			if err != nil {
				return false
			}
			a.from[i] = result(len(a.links))
			a.links = append(a.links, link{k: k, in: []int{i}})
		}
	}
	a.product = len(a.links)
	a.links = append(a.links, link{k: first, in: []int{a.from[0], a.from[1]}})
	if a.masked {
		inputs = append(inputs, softmax.in[1-at])
	}
	for _, l := range a.scores.links {
		in := slices.Clone(l.in)
		for i, v := range in {
			switch {
			case v == constant:
			case v < 0:
				in[i] = v - a.product - 1
			case v == at:
				in[i] = result(a.product)
			default:
				in[i] = 3
			}
		}
		a.links = append(a.links, link{k: l.k, in: in, c: l.c})
	}
	a.weights = len(a.links) - 1
	a.links = append(a.links, link{k: last, in: []int{result(a.weights), a.from[2]}})
	x.replace("Attention", a.run, inputs...)
	x.fused = a
	return true
}

// softmax returns the Softmax, fused or not, that computes v, if v may go.
func (f *fuser) softmax(v *lvalue) *lnode {
	if v.konst != nil || v.scope != f.scope || v.def == nil || v.pinned || f.readers[v] != 1 {
		return nil
	}
	if _, ok := v.def.fused.(*scores); ok {
		return v.def
	}
	return f.is(v, "Softmax")
}

// transposition returns the Transpose with given dims that computes v, if v
// may go.
func (f *fuser) transposition(v *lvalue) *lnode {
	t := f.only(v, "Transpose")
	if t == nil || t.in[0].konst != nil {
		return nil
	}
	perm := t.ints("perm")
	for i := range perm {
		if !slices.Contains(perm, i) {
			return nil
		}
	}
	if len(perm) == 0 {
		return nil
	}
	return t
}

// transposeBy is the kernel of a Transpose.
func transposeBy(perm []int) (kernel, error) {
	a := &graph.Attr{Name: "perm", Type: graph.AttrInts}
	for _, d := range perm {
		a.Ints = append(a.Ints, int64(d))
	}
	return prepareTranspose(&node{op: "Transpose", attrs: []*graph.Attr{a}, given: []bool{true}})
}

// context: a Transpose of attention's result, which then is written that way.
func (f *fuser) context(x *lnode) bool {
	if x.op != "Transpose" {
		return false
	}
	v := x.in[0]
	if v.konst != nil || v.scope != f.scope || v.def == nil || v.pinned || f.readers[v] != 1 {
		return false
	}
	a, ok := v.def.fused.(*attention)
	perm := x.ints("perm")
	if !ok || a.out != nil || len(perm) == 0 {
		return false
	}
	k, err := x.ready()
	if err != nil {
		return false
	}
	b := *a
	b.out = perm
	b.links = append(slices.Clip(a.links), link{k: k, in: []int{result(len(a.links) - 1)}})
	x.replace("Attention", b.run, v.def.in...)
	x.fused = &b
	return true
}

// attentionState is the shape of the attention at hand.
type attentionState struct {
	q, k, v, mask, z stack
	heads            int // of one sample
	m, d, s, e       int
	tile, tiles      int // rows of scores at a time; tiles of a head
	ld               int // from row to row of the scores
	shape            []int
	ws               []float32
	step             int // of the workspace, from worker to worker
	packK            int // elements
	packV            int
	ends             []int // by matrix of the mask and tile: scores from there on do not count
}

// stack is how a tensor of up to four dimensions lies in memory; dimensions
// that it lacks are 1.
type stack struct{ dims, strides [4]int }

// set makes t the tensor of that shape with its dims in the order of perm.
func (t *stack) set(shape, perm []int) bool {
	r := len(shape)
	if r < 2 || r > len(t.dims) || perm != nil && len(perm) != r {
		return false
	}
	*t = stack{dims: [4]int{1, 1, 1, 1}}
	var strides [4]int
	step := 1
	for i := r - 1; i >= 0; i-- {
		strides[i] = step
		step *= shape[i]
	}
	for i := range r {
		from := i
		if perm != nil {
			from = perm[i]
		}
		t.dims[4-r+i] = shape[from]
		if shape[from] > 1 {
			t.strides[4-r+i] = strides[from]
		}
	}
	return true
}

// within reports whether the leading dims of t broadcast to those of to, which
// keeps its own.
func (t *stack) within(to *stack) bool {
	for i := range 2 {
		if t.dims[i] != to.dims[i] && t.dims[i] != 1 {
			return false
		}
	}
	return true
}

// at is where matrix i of n in a sample begins.
func (t *stack) at(i, n int) int { return i/n*t.strides[0] + i%n*t.strides[1] }

// mat is the matrix from row on that begins at off.
func (t *stack) mat(data []float32, off, row int) simd.Mat {
	return simd.Mat{Data: data[off+row*t.strides[2]:], RowStride: t.strides[2], ColStride: t.strides[3]}
}

// tileSize is how many scores are computed at a time: 32 KiB, which leave room
// in a level-one cache for the rows of q and a panel of k.
const tileSize = 8 << 10

// set works out the shapes; it reports false for what only the nodes one by
// one can do.
func (a *attention) set(c *call, st *attentionState) bool {
	r := len(c.in[0].Shape)
	for _, t := range c.in {
		if t == nil || t.DType != graph.Float32 || len(t.Shape) > r {
			return false
		}
	}
	q, k, v := &st.q, &st.k, &st.v
	if !q.set(c.in[0].Shape, a.perms[0]) || !k.set(c.in[1].Shape, a.perms[1]) || !v.set(c.in[2].Shape, a.perms[2]) ||
		!k.within(q) || !v.within(q) || r < a.minRank || a.axis != -1 && a.axis != r-1 {
		return false
	}
	st.heads, st.m, st.d, st.s, st.e = q.dims[1], q.dims[2], q.dims[3], k.dims[3], v.dims[3]
	if k.dims[2] != st.d || v.dims[2] != st.s || q.dims[0]*st.heads*st.m*st.d*st.s*st.e == 0 {
		return false
	}
	if a.masked {
		shape, m := c.in[3].Shape, &st.mask
		*m = stack{dims: [4]int{1, 1, 1, 1}}
		if len(shape) > 1 && !m.set(shape, nil) {
			return false
		}
		if len(shape) == 1 {
			m.dims[3], m.strides[3] = shape[0], 1
		}
		if !m.within(q) || m.dims[2] != st.m && m.dims[2] != 1 || m.dims[3] != st.s {
			return false
		}
	}
	var order [4]int // of the result in memory
	full := [4]int{q.dims[0], st.heads, st.m, st.e}
	for i := range r {
		order[i] = i
		if a.out != nil {
			if len(a.out) != r {
				return false
			}
			order[i] = a.out[i]
		}
	}
	st.shape = st.shape[:0]
	for i := range r {
		st.shape = append(st.shape, full[4-r+order[i]])
	}
	st.z = stack{dims: full}
	step := 1
	for i := r - 1; i >= 0; i-- {
		st.z.strides[4-r+order[i]] = step
		step *= st.shape[i]
	}
	if st.z.strides[3] != 1 {
		return false
	}
	st.ld = vectors(st.s)
	st.tile = min(max(tileSize/st.ld/8*8, 8), st.m)
	st.tiles = (st.m + st.tile - 1) / st.tile
	return true
}

func (a *attention) run(c *call) error {
	st, ok := c.state.(*attentionState)
	if !ok {
		st = &attentionState{}
		c.state = st
	}
	if !a.set(c, st) {
		return c.chain(a.links)
	}
	if _, err := c.alloc(0, graph.Float32, st.shape...); err != nil {
		return err
	}
	st.packK, st.packV = vectors(a.k.PackedLen(st.d, st.s)), vectors(a.k.PackedLen(st.s, st.e))
	st.step = st.packK + st.packV + st.tile*st.ld
	var err error
	if st.ws, err = scratch[float32](c, st.step*c.workers()); err != nil {
		return err
	}
	c.flops += 2 * int64(st.q.dims[0]*st.heads*st.m) * int64(st.s*(st.d+st.e))
	a.bound(c, st)
	units := st.q.dims[0] * st.heads * st.tiles
	c.parallelWorkers(units, 1+multiplyGrain/(st.tile*st.s*(st.d+st.e)), a.rows)
	return nil
}

// vectors rounds n up to whole vectors of any path.
func vectors(n int) int { return (n + 15) / 16 * 16 }

// bound finds where the scores of tiles end that the mask leaves: beyond, as in
// the upper half of causal attention, exp gives 0 for every row. It is so where
// the mask falls by more than the scores can make up for. The values there are
// to be finite, since 0 times another one counts.
func (a *attention) bound(c *call, st *attentionState) {
	st.ends = st.ends[:0]
	if !a.masked {
		return
	}
	m := &st.mask
	mask := c.in[3].F32()
	row := func(matrix, i int) []float32 { return mask[m.at(matrix, m.dims[1])+i*m.strides[2]:][:st.s] }
	matrices := m.dims[0] * m.dims[1]
	// As far as masks go, the first row tells whether a look at all is worth it.
	const deep = 1000
	falls := false
	for i := range matrices {
		first := row(i, 0)
		falls = falls || a.k.MaxOf(first)-first[st.s-1] > deep
	}
	if !falls {
		return
	}
	widest := func(t *Tensor) float64 {
		return math.Max(math.Abs(float64(a.k.MaxOf(t.F32()))), math.Abs(float64(a.k.MinOf(t.F32()))))
	}
	most := float64(st.d) * widest(c.in[0]) * widest(c.in[1]) * math.Abs(float64(a.scale)) // of a score
	const nothing = 110                                                                    // exp(−104) is 0; the rest is for rounding
	if widest(c.in[2]) > math.MaxFloat32 || !(most < 1e30) {
		return
	}
	fall := float32(math.Max(deep, 2.001*most+nothing))
	for i := range matrices {
		first := row(i, 0)
		look := a.k.MaxOf(first)-first[st.s-1] > deep
		for tile := range st.tiles {
			end := 0
			for j := tile * st.tile; j < min((tile+1)*st.tile, st.m) && end < st.s; j++ {
				x := first
				if m.dims[2] > 1 {
					x = row(i, j)
				}
				top := a.k.MaxOf(x)
				if !look || !(math.Abs(float64(top)) < 1e6) { // a sum with a large number rounds too much
					end = st.s
				}
				for end < st.s && !(a.k.MaxOf(x[end:]) < top-fall) {
					end = min(end+16, st.s)
				}
				if m.dims[2] == 1 {
					break
				}
			}
			st.ends = append(st.ends, end)
		}
	}
}

// end is how many scores of a row count, in whole vectors.
func (st *attentionState) end(head, tile int) int {
	if len(st.ends) == 0 {
		return st.s
	}
	m := &st.mask
	matrix := 0
	if m.dims[0] > 1 {
		matrix = head / st.heads * m.dims[1]
	}
	if m.dims[1] > 1 {
		matrix += head % st.heads
	}
	return min(vectors(st.ends[matrix*st.tiles+tile]), st.s)
}

// rows computes tiles of rows [lo, hi).
func (a *attention) rows(c *call, worker, lo, hi int) {
	st := c.state.(*attentionState)
	ws := st.ws[worker*st.step:][:st.step]
	packK, packV, p := ws[:st.packK], ws[st.packK:][:st.packV], ws[st.packK+st.packV:]
	q, k, v, z := c.in[0].F32(), c.in[1].F32(), c.in[2].F32(), c.out[0].F32()
	var keys, values simd.Packed
	atK, atV := -1, -1 // what is packed
	for i := lo; i < hi; i++ {
		head, row := i/st.tiles, i%st.tiles*st.tile
		rows := min(st.tile, st.m-row)
		if at := st.k.at(head, st.heads); at != atK {
			atK, keys = at, a.k.PackInto(packK, st.k.mat(k, at, 0), st.d, st.s)
		}
		if at := st.v.at(head, st.heads); at != atV {
			atV, values = at, a.k.PackInto(packV, st.v.mat(v, at, 0), st.s, st.e)
		}
		end := st.end(head, i%st.tiles)
		a.k.Gemm(p, st.ld, st.q.mat(q, st.q.at(head, st.heads), row), rows, keys.Leading(st.d, end), nil, false)
		var mask []float32
		for j := range rows {
			if a.masked {
				mask = c.in[3].F32()[st.mask.at(head, st.heads)+(row+j)*st.mask.strides[2]:][:end]
			}
			s := p[j*st.ld:][:end]
			a.k.MaskedSoftmax(s, s, mask, a.scale)
		}
		a.k.Gemm(z[st.z.at(head, st.heads)+row*st.z.strides[2]:], st.z.strides[2], simd.RowMajor(p, st.ld), rows, values.Leading(end, st.e), nil, false)
	}
}
