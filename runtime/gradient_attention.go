package runtime

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// gradAttention: with the weights P = softmax(q·k·scale + mask), which are computed
// again, and G = ∂L/∂z,
//
//	∂v = Pᵀ·G,  ∂P = G·vᵀ,  ∂s = scale·P∘(∂P − Σ ∂P∘P),  ∂q = ∂s·kᵀ,  ∂k = qᵀ·∂s,
//
// some rows of one head at a time as in the forward pass, and only as far as the
// mask leaves scores. Sums go in the order of the rows. (Dao et al.:
// FlashAttention, 2022, section 3.1, which keeps sums of rows besides.)
func gradAttention(b *backward, x *lnode, dy []*lvalue) error {
	a := x.fused.(*attention)
	g := &attentionGradient{attention: a}
	for i := range g.wants {
		g.wants[i] = b.needs(x.in[i])
	}
	if err := g.chain(x, b.simd); err != nil {
		return err
	}
	outs := b.kernels("Attention", 3, g.run, append(slices.Clone(x.in), dy[0])...)
	for i, d := range outs {
		b.add(x.in[i], d)
	}
	return nil
}

// attentionGradient: q, k, v, the mask if there is one, G → ∂q, ∂k, ∂v as the
// first three lie.
type attentionGradient struct {
	*attention
	wants [3]bool

	// The operations one by one, for what attention.set does not take, and which
	// of them give the results.
	steps []link
	ends  [3]int
}

// chain lists the operations one by one, those of the forward pass first.
func (g *attentionGradient) chain(x *lnode, k *simd.Kernels) error {
	a := g.attention
	g.steps = slices.Clone(a.links[:a.weights+1])
	step := func(k kernel, in ...int) int {
		g.steps = append(g.steps, link{k: k, in: in})
		return result(len(g.steps) - 1)
	}
	turn := func(perm []int, from int) (int, error) {
		if perm == nil {
			return from, nil
		}
		back := make([]int, len(perm))
		for i, d := range perm {
			back[d] = i
		}
		k, err := transposeBy(back)
		return step(k, from), err
	}
	dz, err := turn(a.out, len(x.in))
	if err != nil {
		return err
	}
	p, q, key, v, scores := result(a.weights), a.from[0], a.from[1], a.from[2], result(a.product)
	ds := step(softmaxGradient(k, "Softmax", x.opset < 13, a.axis, a.scale), step(productGradient(k, 0), p, v, dz), p)
	ds = step(sumTo(k), ds, step(shapeKernel, scores))
	for i, from := range []int{
		step(productGradient(k, 0), q, key, ds), step(productGradient(k, 1), q, key, ds), step(productGradient(k, 1), p, v, dz),
	} {
		to, err := turn(a.perms[i], from)
		if err != nil {
			return err
		}
		g.ends[i] = result(to)
	}
	return nil
}

func (g *attentionGradient) run(c *call) error {
	st, ok := c.state.(*attentionState)
	if !ok {
		st = &attentionState{}
		c.state = st
	}
	if !g.set(c, st) {
		return c.chained(g.steps, g.ends[:])
	}
	dz := c.in[len(c.in)-1]
	if !slices.Equal(dz.Shape, st.shape) {
		return fmt.Errorf("gradient %v of an attention %v", dz.Shape, st.shape)
	}
	var to [3][]float32
	for i := range to {
		if !g.wants[i] {
			continue
		}
		z, err := c.alloc(i, graph.Float32, c.in[i].Shape...)
		if err != nil {
			return err
		}
		to[i] = z.F32()
		clear(to[i])
	}
	g.bound(c, st)
	parts := []int{
		g.k.PackedLen(st.d, st.s), g.k.PackedLen(st.s, st.d), g.k.PackedLen(st.e, st.s),
		st.tile * st.ld, st.tile * st.ld, st.tile * st.d, st.d * st.ld, st.e * st.ld,
	}
	size := 0
	for _, n := range parts {
		size += vectors(n)
	}
	ws, err := scratch[float32](c, size)
	if err != nil {
		return err
	}
	part := make([][]float32, len(parts))
	for i, n := range parts {
		part[i], ws = ws[:n:n], ws[vectors(n):]
	}
	c.flops += 2 * int64(st.q.dims[0]*st.heads*st.m) * int64(st.s*(3*st.d+2*st.e))
	for head := range st.q.dims[0] * st.heads {
		g.head(c, st, head, dz.F32(), to, part)
	}
	return nil
}

// head adds the gradients of a head.
func (g *attentionGradient) head(c *call, st *attentionState, head int, dz []float32, to [3][]float32, part [][]float32) {
	q, k, v := c.in[0].F32(), c.in[1].F32(), c.in[2].F32()
	atQ, atK, atV, atZ := st.q.at(head, st.heads), st.k.at(head, st.heads), st.v.at(head, st.heads), st.z.at(head, st.heads)
	key := st.k.mat(k, atK, 0)
	keys := g.k.PackInto(part[0], key, st.d, st.s)
	turnedKeys := g.k.PackInto(part[1], key.T(), st.s, st.d)
	values := g.k.PackInto(part[2], st.v.mat(v, atV, 0).T(), st.e, st.s)
	p, d, dq, dk, dv := part[3], part[4], part[5], part[6], part[7]
	clear(dk)
	clear(dv)
	for tile := range st.tiles {
		row, end := tile*st.tile, st.end(head, tile)
		rows := min(st.tile, st.m-row)
		queries, dzs := st.q.mat(q, atQ, row), st.z.mat(dz, atZ, row)
		g.k.Gemm(p, st.ld, queries, rows, keys.Leading(st.d, end), nil, false)
		var mask []float32
		for j := range rows {
			if g.masked {
				mask = c.in[3].F32()[st.mask.at(head, st.heads)+(row+j)*st.mask.strides[2]:][:end]
			}
			s := p[j*st.ld:][:end]
			g.k.MaskedSoftmax(s, s, mask, g.scale)
		}
		if to[2] != nil {
			g.k.Gemm(dv, st.ld, dzs.T(), st.e, g.inPlace(p, st.ld, rows, end), nil, true)
		}
		if to[0] == nil && to[1] == nil {
			continue
		}
		g.k.Gemm(d, st.ld, dzs, rows, values.Leading(st.e, end), nil, false)
		for j := range rows {
			s := d[j*st.ld:][:end]
			g.k.SoftmaxGradient(s, s, p[j*st.ld:][:end], g.scale)
		}
		if to[0] != nil {
			z, b := st.q.mat(to[0], atQ, row), turnedKeys.Leading(end, st.d)
			if z.ColStride == 1 {
				g.k.Gemm(z.Data, z.RowStride, simd.RowMajor(d, st.ld), rows, b, nil, false)
			} else {
				g.k.Gemm(dq, st.d, simd.RowMajor(d, st.ld), rows, b, nil, false)
				addTo(z, dq, st.d, rows, st.d)
			}
		}
		if to[1] != nil {
			g.k.Gemm(dk, st.ld, queries.T(), st.d, g.inPlace(d, st.ld, rows, end), nil, true)
		}
	}
	if to[1] != nil {
		addTo(st.k.mat(to[1], atK, 0), dk, st.ld, st.d, st.s)
	}
	if to[2] != nil {
		addTo(st.v.mat(to[2], atV, 0).T(), dv, st.ld, st.e, st.s)
	}
}

// inPlace is the first n columns of rows of ld elements, whole vectors, as a
// right-hand operand. So the transposes of ∂k and ∂v are summed, whose long rows fill
// vectors as the few features of a head would not.
func (g *attentionGradient) inPlace(x []float32, ld, rows, n int) simd.Packed {
	b, ok := g.k.InPlace(simd.RowMajor(x, ld), rows, ld)
	if !ok {
		panic("runtime: scores are not in whole vectors")
	}
	return b.Leading(rows, n)
}

// addTo is z += x, both [rows, n], the rows of x ld apart.
func addTo(z simd.Mat, x []float32, ld, rows, n int) {
	for i := range rows {
		for j, s := range x[i*ld:][:n] {
			z.Data[i*z.RowStride+j*z.ColStride] += s
		}
	}
}
