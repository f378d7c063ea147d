package runtime

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// definitions are what fused operators stand for in standard ones. Training
// puts them in their place, so that only standard operators are differentiated.
var definitions = map[string]func(d *definer) ([]*lvalue, error){
	"Attention":              defineAttention,
	"SwiGLU":                 defineSwiGLU,
	microsoft + ".Attention": defineMicrosoftAttention, microsoft + ".MultiHeadAttention": defineMultiHeadAttention,
	microsoft + ".GroupQueryAttention":    defineGroupQueryAttention,
	microsoft + ".SkipLayerNormalization": defineSkipNorm, microsoft + ".SkipSimplifiedLayerNormalization": defineSkipNorm,
	microsoft + ".EmbedLayerNormalization": defineEmbedNorm,
	microsoft + ".Gelu":                    defineGelu, microsoft + ".BiasGelu": defineGelu, microsoft + ".FastGelu": defineGelu, microsoft + ".QuickGelu": defineGelu,
	microsoft + ".FusedMatMul": defineFusedMatMul, microsoft + ".TransposeMatMul": defineFusedMatMul,
	microsoft + ".FusedGemm": defineFusedGemm, microsoft + ".FusedConv": defineFusedConv,
}

// definer writes the definition of node x into a scope.
type definer struct {
	l  *lowering
	sc *scope
	x  *lnode
}

// define returns what x stands for, false where it has no definition.
func (l *lowering) define(sc *scope, x *lnode) ([]*lvalue, bool, error) {
	f := definitions[x.kind()]
	if f == nil {
		return nil, false, nil
	}
	d := &definer{l, sc, x}
	wanted := x.wanted
	x.known()
	x.wanted = wanted
	if _, err := x.row.prepare(&x.node); err != nil { // what inference refuses
		return nil, true, err
	}
	out, err := f(d)
	if err == nil {
		err = x.err
	}
	return out, true, err
}

// in is input i, nil where it is left out.
func (d *definer) in(i int) *lvalue {
	if i < len(d.x.in) {
		return d.x.in[i]
	}
	return nil
}

// ops adds a node of the default domain.
func (d *definer) ops(name string, outputs int, attrs []*graph.Attr, in ...*lvalue) []*lvalue {
	const version = 23 // of the operators as they are written here
	row, ok := lookup("", name, version)
	if !ok {
		panic("runtime: definition with unknown operator " + name)
	}
	x := &lnode{node: node{name: d.x.name + "/" + name, op: name, opset: version, attrs: attrs, simd: d.l.simd}, version: version, row: row, in: in}
	for range outputs {
		x.out = append(x.out, &lvalue{name: x.name, scope: d.sc, def: x, rank: -1})
	}
	if d.l.fold.try(x) {
		return slices.Clone(x.out)
	}
	if d.sc.parent == nil {
		x.settle()
	}
	d.sc.nodes = append(d.sc.nodes, x)
	return slices.Clone(x.out)
}

func (d *definer) with(name string, attrs []*graph.Attr, in ...*lvalue) *lvalue {
	return d.ops(name, 1, attrs, in...)[0]
}

func (d *definer) op(name string, in ...*lvalue) *lvalue { return d.with(name, nil, in...) }

func (d *definer) constant(shape []int, data any) *lvalue {
	return &lvalue{name: d.x.name + "/constant", konst: FromSlice(shape, data), rank: len(shape)}
}

func (d *definer) float(v float32) *lvalue   { return d.constant(nil, []float32{v}) }
func (d *definer) whole(v int64) *lvalue     { return d.constant(nil, []int64{v}) }
func (d *definer) wholes(v ...int64) *lvalue { return d.constant([]int{len(v)}, v) }
func (d *definer) cast(v *lvalue, to graph.DType) *lvalue {
	return d.with("Cast", []*graph.Attr{graph.IntAttr("to", int64(to))}, v)
}
func (d *definer) join(axis int64, v ...*lvalue) *lvalue {
	return d.with("Concat", []*graph.Attr{graph.IntAttr("axis", axis)}, v...)
}
func (d *definer) transpose(v *lvalue, perm ...int64) *lvalue {
	return d.with("Transpose", []*graph.Attr{graph.IntsAttr("perm", perm...)}, v)
}
func (d *definer) unsqueeze(v *lvalue, axes ...int64) *lvalue {
	return d.op("Unsqueeze", v, d.wholes(axes...))
}

// dims is a list of dims of v.
func (d *definer) dims(v *lvalue, axes ...int64) *lvalue {
	return d.op("Gather", d.op("Shape", v), d.wholes(axes...))
}

// dim is a dim of v, a number.
func (d *definer) dim(v *lvalue, axis int64) *lvalue {
	return d.op("Gather", d.op("Shape", v), d.whole(axis))
}

// upTo is 0 … n−1.
func (d *definer) upTo(n *lvalue) *lvalue { return d.op("Range", d.whole(0), n, d.whole(1)) }

func (d *definer) plus(v, bias *lvalue) *lvalue {
	if bias == nil {
		return v
	}
	return d.op("Add", v, bias)
}

// rank is the rank of input i, which a definition needs to know.
func (d *definer) rank(i int) (int, error) {
	v := d.in(i)
	if v.konst != nil {
		return len(v.konst.Shape), nil
	}
	if v.rank < 0 {
		return 0, fmt.Errorf("the rank of input %d is not known: its form cannot be told for training", i)
	}
	return v.rank, nil
}

// byHeads is v [B, L, n·d] as [B, n, L, d].
func (d *definer) byHeads(v *lvalue, n int) *lvalue {
	return d.transpose(d.op("Reshape", v, d.wholes(0, 0, int64(n), -1)), 0, 2, 1, 3)
}

// merged is v [B, n, L, d] as [B, L, n·d].
func (d *definer) merged(v *lvalue) *lvalue {
	return d.op("Reshape", d.transpose(v, 0, 2, 1, 3), d.wholes(0, 0, -1))
}

// split cuts v along an axis into parts of these sizes.
func (d *definer) split(v *lvalue, axis int64, parts int, sizes *lvalue) []*lvalue {
	attrs := []*graph.Attr{graph.IntAttr("axis", axis)}
	if sizes == nil {
		return d.ops("Split", parts, append(attrs, graph.IntAttr("num_outputs", int64(parts))), v)
	}
	return d.ops("Split", parts, attrs, v, sizes)
}

// attended is attention by heads: q [B, H, T, d] on k [B, KV, S, d] and v
// [B, KV, S, e].
type attended struct {
	q, k, v *lvalue
	scale   float32 // 0: 1/√d
	softcap float32
	added   []*lvalue
	allowed []*lvalue // bool: where a key counts
	sink    *lvalue   // [1, H, 1, 1]; nil: none
}

// lowest takes the place of −∞ in masks: a row of it has a softmax.
const lowest = -math.MaxFloat32

// attend computes [B, H, T, e].
func (d *definer) attend(a attended) *lvalue {
	repeat := func(x *lvalue) *lvalue {
		one := d.wholes(1)
		times := d.op("Div", d.dims(a.q, 1), d.dims(x, 1))
		wide := d.op("Expand", d.unsqueeze(x, 2), d.join(0, one, one, times, one, one))
		return d.op("Reshape", wide, d.join(0, d.dims(a.q, 0, 1), d.dims(x, 2, 3)))
	}
	q, k, v := a.q, repeat(a.k), repeat(a.v)
	if a.scale != 0 {
		q = d.op("Mul", q, d.float(a.scale))
	} else {
		q = d.op("Div", q, d.op("Sqrt", d.cast(d.dims(q, 3), graph.Float32)))
	}
	s := d.op("MatMul", q, d.transpose(k, 0, 1, 3, 2))
	if a.softcap > 0 {
		s = d.op("Mul", d.op("Tanh", d.op("Div", s, d.float(a.softcap))), d.float(a.softcap))
	}
	for _, x := range a.added {
		s = d.op("Add", s, x)
	}
	for _, x := range a.allowed {
		s = d.op("Where", x, s, d.float(lowest))
	}
	last := []*graph.Attr{graph.IntAttr("axis", -1)}
	if a.sink != nil {
		column := d.op("Expand", a.sink, d.join(0, d.dims(s, 0, 1, 2), d.wholes(1)))
		s = d.with("Softmax", last, d.join(3, s, column))
		s = d.op("Slice", s, d.wholes(0), d.wholes(-1), d.wholes(3))
	} else {
		s = d.with("Softmax", last, s)
	}
	for _, x := range a.allowed { // a query that sees no key gives zeros
		s = d.op("Where", x, s, d.float(0))
	}
	return d.op("MatMul", s, v)
}

// places are those of T queries [.., T, 1] behind offset, a number or
// [B, 1, 1, 1], and of S keys [S].
func (d *definer) places(q, k, offset *lvalue) (queries, keys *lvalue) {
	queries = d.unsqueeze(d.upTo(d.dim(q, 2)), 1)
	if offset != nil {
		queries = d.op("Add", queries, offset)
	}
	return queries, d.upTo(d.dim(k, 2))
}

// behind puts x behind a past along the axis of tokens.
func (d *definer) behind(past, x *lvalue) *lvalue {
	if past == nil {
		return x
	}
	return d.join(2, past, x)
}

// length is how many tokens a past has; nil: none.
func (d *definer) length(past *lvalue, axis int64) *lvalue {
	if past == nil {
		return nil
	}
	return d.dim(past, axis)
}

// kernels adds a node that computes outputs values with k.
func (d *definer) kernels(kind string, outputs int, k kernel, in ...*lvalue) []*lvalue {
	x := &lnode{node: node{name: d.x.name + "/" + kind, op: kind}, in: in, kernel: k}
	for range outputs {
		x.out = append(x.out, &lvalue{name: x.name, scope: d.sc, def: x, rank: -1})
	}
	d.sc.nodes = append(d.sc.nodes, x)
	return x.out
}

const maskKind = "attention mask"

// splitMask: a mask, how many keys there are → what is added, where keys count.
func splitMask(c *call) error {
	m, err := addable(c, c.in[0], int(c.in[1].I64()[0]))
	if err != nil {
		return err
	}
	added, err := c.alloc(0, graph.Float32, m.Shape...)
	if err != nil {
		return err
	}
	allowed, err := c.alloc(1, graph.Bool, m.Shape...)
	if err != nil {
		return err
	}
	for i, v := range m.F32() {
		allowed.Bools()[i] = !math.IsInf(float64(v), -1)
		if added.F32()[i] = v; !allowed.Bools()[i] {
			added.F32()[i] = 0
		}
	}
	return nil
}

// gradMask: the columns that the mask has.
func gradMask(b *backward, x *lnode, dy []*lvalue) error {
	b.add(x.in[0], b.kernel(maskKind, func(c *call) error {
		dims := c.in[1].I64()
		shape := make([]int, len(dims))
		for i, d := range dims {
			shape[i] = int(d)
		}
		z, err := c.alloc(0, graph.Float32, shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		if len(shape) == 0 {
			z.F32()[0] = c.in[0].F32()[0]
			return nil
		}
		n, wide := shape[len(shape)-1], c.in[0].Shape[len(shape)-1]
		for i := range z.Len() / n {
			copy(z.F32()[i*n:][:n], c.in[0].F32()[i*wide:])
		}
		return nil
	}, dy[0], b.shape(x.in[0])))
	return nil
}

func defineAttention(d *definer) ([]*lvalue, error) {
	x := d.x
	if x.wants(3) {
		return nil, errors.New("qk_matmul_output cannot be differentiated")
	}
	rank, err := d.rank(0)
	if err != nil {
		return nil, err
	}
	q, k, v := x.in[0], x.in[1], x.in[2]
	if rank == 3 {
		kv := x.int("kv_num_heads", 0)
		q, k, v = d.byHeads(q, x.int("q_num_heads", 0)), d.byHeads(k, kv), d.byHeads(v, kv)
	}
	k, v = d.behind(d.in(4), k), d.behind(d.in(5), v)
	a := attended{q: q, k: k, v: v, scale: x.float("scale", 0), softcap: x.float("softcap", 0)}
	offset := d.length(d.in(4), 2)
	if n := d.in(6); n != nil {
		n = d.unsqueeze(n, 1, 2, 3)
		_, keys := d.places(q, k, nil)
		a.allowed = append(a.allowed, d.op("Less", keys, n))
		if offset == nil {
			offset = d.op("Sub", n, d.dim(q, 2))
		}
	}
	queries, keys := d.places(q, k, offset)
	if x.bool("is_causal", false) {
		a.allowed = append(a.allowed, d.op("LessOrEqual", keys, queries))
	}
	if n := x.int("left_window_size", -1); n >= 0 {
		a.allowed = append(a.allowed, d.op("GreaterOrEqual", keys, d.op("Sub", queries, d.whole(int64(n)))))
	}
	if n := x.int("right_window_size", -1); n >= 0 {
		a.allowed = append(a.allowed, d.op("LessOrEqual", keys, d.op("Add", queries, d.whole(int64(min(n, math.MaxInt32))))))
	}
	if m := d.in(3); m != nil {
		both := d.kernels(maskKind, 2, splitMask, m, d.dims(k, 2))
		a.added, a.allowed = append(a.added, both[0]), append(a.allowed, both[1])
	}
	y := d.attend(a)
	if rank == 3 {
		y = d.merged(y)
	}
	return []*lvalue{y, k, v, nil}, nil
}

// queriesKeysValues cuts qkv [B, T, ·] into heads, parts of these sizes.
func (d *definer) queriesKeysValues(qkv *lvalue, h, kv int, sizes *lvalue) (q, k, v *lvalue) {
	parts := d.split(qkv, 2, 3, sizes)
	return d.byHeads(parts[0], h), d.byHeads(parts[1], kv), d.byHeads(parts[2], kv)
}

// hides is what mask m adds, by its forms in heads.mask.
func (d *definer) hides(i int, q, k *lvalue) ([]*lvalue, error) {
	m := d.in(i)
	if m == nil {
		return nil, nil
	}
	rank, err := d.rank(i)
	if err != nil {
		return nil, err
	}
	var keep *lvalue
	zero := d.constant(nil, []int32{0})
	switch rank {
	case 3:
		keep = d.unsqueeze(d.op("Greater", m, zero), 1)
	case 2:
		keep = d.unsqueeze(d.op("Greater", m, zero), 1, 2)
	case 1: // ends, and perhaps starts behind them
		batch := d.dims(q, 0)
		none := d.with("ConstantOfShape", []*graph.Attr{graph.TensorAttr("value", graph.Int64Tensor([]int64{1}, []int64{0}))}, batch)
		bounds := d.join(0, d.cast(m, graph.Int64), none)
		first := d.wholes(0)
		_, keys := d.places(q, k, nil)
		ends := d.unsqueeze(d.op("Slice", bounds, first, batch), 1, 2, 3)
		starts := d.unsqueeze(d.op("Slice", bounds, batch, d.op("Add", batch, batch)), 1, 2, 3)
		keep = d.op("And", d.op("Less", keys, ends), d.op("GreaterOrEqual", keys, starts))
	default:
		return nil, fmt.Errorf("the mask has %d dims", rank)
	}
	return []*lvalue{d.op("Where", keep, d.float(0), d.float(d.x.float("mask_filter_value", -10000)))}, nil
}

// own starts an attention with the attributes of com.microsoft's: q and k with
// the past in front.
func (d *definer) own(q, k, v, offset *lvalue, mask, bias int) (attended, error) {
	a := attended{q: q, k: k, v: v, scale: d.x.float("scale", 0)}
	var err error
	if a.added, err = d.hides(mask, q, k); err != nil {
		return a, err
	}
	if b := d.in(bias); b != nil {
		a.added = append(a.added, b)
	}
	if d.x.bool("unidirectional", false) {
		queries, keys := d.places(q, k, offset)
		a.allowed = append(a.allowed, d.op("LessOrEqual", keys, queries))
	}
	return a, nil
}

func defineMicrosoftAttention(d *definer) ([]*lvalue, error) {
	x := d.x
	h := x.int("num_heads", 0)
	var sizes *lvalue
	if list := x.ints("qkv_hidden_sizes"); list != nil {
		sizes = d.wholes(int64(list[0]), int64(list[1]), int64(list[2]))
	}
	q, k, v := d.queriesKeysValues(d.plus(d.op("MatMul", x.in[0], x.in[1]), d.in(2)), h, h, sizes)
	past := d.in(4)
	if past != nil {
		k, v = d.behind(d.op("Gather", past, d.whole(0)), k), d.behind(d.op("Gather", past, d.whole(1)), v)
	}
	a, err := d.own(q, k, v, d.length(past, 3), 3, 5)
	if err != nil {
		return nil, err
	}
	var present *lvalue
	if x.wants(1) {
		present = d.join(0, d.unsqueeze(k, 0), d.unsqueeze(v, 0))
	}
	return []*lvalue{d.merged(d.attend(a)), present}, nil
}

func defineMultiHeadAttention(d *definer) ([]*lvalue, error) {
	x := d.x
	if x.wants(3) {
		return nil, errors.New("the scores cannot be differentiated")
	}
	h := x.int("num_heads", 0)
	rank, err := d.rank(0)
	if err != nil {
		return nil, err
	}
	q, k, v := x.in[0], d.in(1), d.in(2)
	flat := func(x *lvalue) *lvalue { return d.op("Reshape", x, d.wholes(0, 0, -1)) }
	unpacked := func(x *lvalue, n int) []*lvalue { // [B, L, H, n, d]
		parts := d.split(x, 3, n, nil)
		for i := range parts {
			parts[i] = flat(parts[i])
		}
		return parts
	}
	tokens := true // keys and values come by tokens
	switch {
	case rank == 5:
		parts := unpacked(q, 3)
		q, k, v = parts[0], parts[1], parts[2]
	case k != nil && v == nil:
		parts := unpacked(k, 2)
		k, v = parts[0], parts[1]
	case k == nil || v == nil:
		return nil, errors.New("there is no key, or no value")
	default:
		rank, err := d.rank(1)
		if err != nil {
			return nil, err
		}
		tokens = rank == 3
	}
	if bias := d.in(3); bias != nil {
		width := d.dims(q, 2)
		both := d.op("Add", width, width)
		parts := d.split(bias, 0, 3, d.join(0, width, width, d.op("Sub", d.op("Shape", bias), both)))
		if q = d.op("Add", q, parts[0]); tokens {
			k, v = d.op("Add", k, parts[1]), d.op("Add", v, parts[2])
		}
	}
	q = d.byHeads(q, h)
	if tokens {
		k, v = d.byHeads(k, h), d.byHeads(v, h)
	}
	k, v = d.behind(d.in(6), k), d.behind(d.in(7), v)
	a, err := d.own(q, k, v, d.length(d.in(6), 2), 4, 5)
	if err != nil {
		return nil, err
	}
	return []*lvalue{d.merged(d.attend(a)), k, v, nil}, nil
}

// groupedLengths: seqlens_k [B], the total and the number of tokens → how many
// keys each sample has, [B, 1, 1, 1]. Samples whose past is shorter than its room
// are refused.
func groupedLengths(c *call) error {
	if c.in[0].DType != graph.Int32 {
		return fmt.Errorf("seqlens_k: %w", wrongType(c.in[0].DType))
	}
	lens, total, tokens := c.in[0].I32(), c.in[1].I64()[0], c.in[2].I64()[0]
	z, err := c.alloc(0, graph.Int64, len(lens), 1, 1, 1)
	if err != nil {
		return err
	}
	for i, v := range lens {
		if z.I64()[i] = int64(v) + 1; total != tokens && int64(v)+1 != total {
			return fmt.Errorf("seqlens_k[%d] = %d of a total of %d: a past that is shorter than its room cannot be trained on", i, v, total)
		}
	}
	return nil
}

// defineGroupQueryAttention holds where the past is as long as it has room, as
// in what is trained on; the Reshape fails where total_sequence_length says
// otherwise.
func defineGroupQueryAttention(d *definer) ([]*lvalue, error) {
	x := d.x
	if x.wants(3) {
		return nil, errors.New("output_qk cannot be differentiated")
	}
	h, kv := x.int("num_heads", 0), x.int("kv_num_heads", 0)
	q, k, v := x.in[0], d.in(1), d.in(2)
	if (k == nil) != (v == nil) {
		return nil, errors.New("key and value come together")
	}
	if k == nil {
		size := d.op("Div", d.dims(q, 2), d.wholes(int64(h+2*kv)))
		parts := d.split(q, 2, 3, d.op("Mul", size, d.wholes(int64(h), int64(kv), int64(kv))))
		q, k, v = parts[0], parts[1], parts[2]
	}
	offset := d.length(d.in(3), 2)
	if x.bool("do_rotary", false) {
		at := d.in(9)
		if at == nil {
			places := d.upTo(d.dim(q, 1))
			if offset != nil {
				places = d.op("Add", places, offset)
			}
			at = d.op("Expand", places, d.dims(q, 0, 1))
		}
		if d.in(7) == nil || d.in(8) == nil {
			return nil, errors.New("do_rotary needs cos_cache and sin_cache")
		}
		turn := func(v *lvalue, n int) *lvalue {
			return d.with("RotaryEmbedding", []*graph.Attr{graph.IntAttr("num_heads", int64(n)),
				graph.IntAttr("interleaved", int64(x.int("rotary_interleaved", 0)))}, v, x.in[7], x.in[8], at)
		}
		q, k = turn(q, h), turn(k, kv)
	}
	q, k, v = d.byHeads(q, h), d.behind(d.in(3), d.byHeads(k, kv)), d.behind(d.in(4), d.byHeads(v, kv))
	total := d.op("Reshape", d.cast(x.in[6], graph.Int64), d.wholes(1))
	k = d.op("Reshape", k, d.join(0, d.dims(k, 0, 1), total, d.dims(k, 3)))
	queries, keys := d.places(q, k, offset)
	length := d.kernels("lengths", 1, groupedLengths, x.in[5], total, d.dims(q, 2))[0]
	a := attended{q: q, k: k, v: v, scale: x.float("scale", 0), softcap: x.float("softcap", 0)}
	a.allowed = []*lvalue{d.op("LessOrEqual", keys, queries), d.op("Less", keys, length)}
	if n := x.int("local_window_size", -1); n > 0 {
		a.allowed = append(a.allowed, d.op("Greater", keys, d.op("Sub", queries, d.whole(int64(n)))))
	}
	if b := d.in(10); b != nil {
		a.added = append(a.added, d.op("Slice", b, d.wholes(0), total, d.wholes(3)))
	}
	switch sink := d.in(11); {
	case sink != nil:
		a.sink = d.op("Reshape", sink, d.wholes(1, -1, 1, 1))
	case x.int("smooth_softmax", 0) > 0:
		a.sink = d.constant([]int{1, 1, 1, 1}, []float32{0})
	}
	return []*lvalue{d.merged(d.attend(a)), k, v, nil}, nil
}

// norm is the norm of v over its last axis, its mean and 1/√(σ² + ε).
func (d *definer) norm(v, gamma, beta *lvalue, epsilon float32, outputs int) []*lvalue {
	in := []*lvalue{v, gamma}
	if beta != nil {
		in = append(in, beta)
	}
	return d.ops("LayerNormalization", outputs, []*graph.Attr{graph.FloatAttr("epsilon", epsilon)}, in...)
}

func defineSkipNorm(d *definer) ([]*lvalue, error) {
	x := d.x
	if x.op == "SkipSimplifiedLayerNormalization" {
		sum := d.plus(d.op("Add", x.in[0], x.in[1]), d.in(3))
		if x.wants(1) || x.wants(2) {
			return nil, errors.New("mean and inv_std_var cannot be differentiated")
		}
		y := d.with("RMSNormalization", []*graph.Attr{graph.FloatAttr("epsilon", x.float("epsilon", 1e-5))}, sum, x.in[2])
		return []*lvalue{y, nil, nil, sum}, nil
	}
	sum := d.plus(d.op("Add", x.in[0], x.in[1]), d.in(4))
	epsilon := x.float("epsilon", 1e-12)
	outputs := 1
	if x.wants(1) || x.wants(2) {
		outputs = 3
	}
	out := append(d.norm(sum, x.in[2], d.in(3), epsilon, outputs), nil, nil)
	return []*lvalue{out[0], out[1], out[2], sum}, nil
}

func defineEmbedNorm(d *definer) ([]*lvalue, error) {
	x := d.x
	at := d.in(8)
	if at == nil {
		at = d.upTo(d.dim(x.in[0], 1))
	}
	sum := d.op("Add", d.op("Gather", x.in[2], x.in[0]), d.op("Gather", x.in[3], at))
	if (d.in(1) == nil) != (d.in(4) == nil) {
		return nil, errors.New("segment_ids and segment_embedding come together")
	}
	if d.in(1) != nil {
		sum = d.op("Add", sum, d.op("Gather", x.in[4], x.in[1]))
	}
	counts := d.with("ConstantOfShape", []*graph.Attr{graph.TensorAttr("value", graph.Int64Tensor([]int64{1}, []int64{0}))}, d.dims(x.in[0], 0))
	if m := d.in(7); m != nil {
		ones := d.cast(d.op("Equal", m, d.constant(nil, []int32{1})), graph.Int64)
		counts = d.with("ReduceSum", []*graph.Attr{graph.IntAttr("keepdims", 0)}, ones, d.wholes(1))
	}
	y := d.norm(sum, x.in[5], x.in[6], x.float("epsilon", 1e-12), 1)[0]
	return []*lvalue{y, d.cast(counts, graph.Int32), sum}, nil
}

func defineGelu(d *definer) ([]*lvalue, error) {
	v := d.plus(d.x.in[0], d.in(1))
	switch d.x.op {
	case "FastGelu":
		return []*lvalue{d.with("Gelu", []*graph.Attr{graph.StringAttr("approximate", "tanh")}, v)}, nil
	case "QuickGelu":
		return []*lvalue{d.op("Mul", v, d.op("Sigmoid", d.op("Mul", v, d.float(d.x.float("alpha", 1.702)))))}, nil
	}
	return []*lvalue{d.op("Gelu", v)}, nil
}

func defineSwiGLU(d *definer) ([]*lvalue, error) {
	a := d.x.in[0]
	inner := a
	if alpha := d.x.float("alpha", 1); alpha != 1 {
		inner = d.op("Mul", a, d.float(alpha))
	}
	return []*lvalue{d.op("Mul", d.op("Mul", a, d.op("Sigmoid", inner)), d.x.in[1])}, nil
}

func defineFusedMatMul(d *definer) ([]*lvalue, error) {
	x := d.x
	if x.bool("transBatchA", false) || x.bool("transBatchB", false) {
		return nil, errors.New("transBatchA and transBatchB cannot be differentiated")
	}
	// Of any rank: as a stack of matrices.
	turned := func(v *lvalue) *lvalue {
		shape := d.op("Shape", v)
		lead := d.op("Slice", shape, d.wholes(0), d.wholes(-2))
		stack := d.op("Reshape", v, d.join(0, d.wholes(-1), d.dims(v, -2, -1)))
		return d.op("Reshape", d.transpose(stack, 0, 2, 1), d.join(0, lead, d.dims(v, -1, -2)))
	}
	a, b := x.in[0], x.in[1]
	if x.bool("transA", false) {
		a = turned(a)
	}
	if x.bool("transB", false) {
		b = turned(b)
	}
	y := d.op("MatMul", a, b)
	if alpha := x.float("alpha", 1); alpha != 1 {
		y = d.op("Mul", y, d.float(alpha))
	}
	return []*lvalue{y}, nil
}

func defineFusedGemm(d *definer) ([]*lvalue, error) {
	var attrs, of []*graph.Attr
	for _, a := range d.x.attrs {
		switch name, ours := strings.CutPrefix(a.Name, "activation_"); {
		case a.Name == "activation":
		case ours:
			of = append(of, graph.FloatAttr(name, a.F))
		default:
			attrs = append(attrs, a)
		}
	}
	return []*lvalue{d.activated(d.with("Gemm", attrs, d.x.in...), of)}, nil
}

// activated is the activation that an attribute names.
func (d *definer) activated(v *lvalue, attrs []*graph.Attr) *lvalue {
	if name := d.x.str("activation", ""); name != "" {
		return d.with(name, attrs, v)
	}
	return v
}

func defineFusedConv(d *definer) ([]*lvalue, error) {
	x := d.x
	var attrs, of []*graph.Attr
	for _, a := range x.attrs {
		if a.Name != "activation" && a.Name != "activation_params" {
			attrs = append(attrs, a)
		}
	}
	y := d.plus(d.with("Conv", attrs, x.in[:min(3, len(x.in))]...), d.in(3))
	params := convActivations(x.str("activation", ""), x.floats("activation_params"))
	if x.str("activation", "") == "Clip" {
		low, high := d.float(params["min"]), d.float(params["max"])
		return []*lvalue{d.op("Clip", y, low, high)}, nil
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		of = append(of, graph.FloatAttr(name, params[name]))
	}
	return []*lvalue{d.activated(y, of)}, nil
}
