package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// microsoft is the domain of ONNX Runtime's own operators.
const microsoft = "com.microsoft"

// microsoftAttentionOps are ONNX Runtime's attentions. Their definition is what
// its kernels for processors compute.
var microsoftAttentionOps = []operator{
	{microsoft, "Attention", 1, prepareMicrosoftAttention, nil, halves},
	{microsoft, "QAttention", 1, prepareQAttention, nil, halves},
	{microsoft, "MultiHeadAttention", 1, prepareMultiHeadAttention, nil, halves},
	{microsoft, "GroupQueryAttention", 1, prepareGroupQueryAttention, nil, halves},
}

// attentionAttrs are what the attentions of ONNX Runtime have in common.
type attentionAttrs struct {
	simd   *simd.Kernels
	heads  int
	scale  float32 // 0: 1/√d
	masked float32 // what a mask adds where it hides
	causal bool
}

func readAttention(n *node) (attentionAttrs, error) {
	a := attentionAttrs{simd: n.simd, heads: n.int("num_heads", 0), scale: n.float("scale", 0),
		masked: n.float("mask_filter_value", -10000), causal: n.bool("unidirectional", false)}
	if a.heads < 1 {
		return a, fmt.Errorf("num_heads = %d", a.heads)
	}
	return a, nil
}

// start returns an attention of these attributes.
func (a *attentionAttrs) start(batch, t, s, d, e int) *heads {
	h := &heads{simd: a.simd, batch: batch, h: a.heads, kv: a.heads, t: t, s: s, d: d, e: e, scale: a.scale, causal: a.causal}
	if h.scale == 0 {
		h.scale = float32(1 / math.Sqrt(float64(d)))
	}
	return h
}

// mask adds what mask m says: [B] lengths, [2B] ends and then starts, [B, S]
// and [B, T, S] with 0 where a key is hidden.
func (h *heads) mask(c *call, m *Tensor, hidden float32) error {
	if m == nil {
		return nil
	}
	if m.DType != graph.Int32 {
		return fmt.Errorf("the mask: %w", wrongType(m.DType))
	}
	v, shape := m.I32(), m.Shape
	rows := h.batch
	switch {
	case len(shape) == 3 && shape[0] == h.batch && shape[1] == h.t && shape[2] == h.s:
		rows *= h.t
	case len(shape) == 2 && shape[0] == h.batch && shape[1] == h.s:
	case len(shape) == 1 && (shape[0] == h.batch || shape[0] == 2*h.batch):
	default:
		return fmt.Errorf("a mask of shape %v, want [%d], [%d], [%d, %d] or [%d, %d, %d]", shape, h.batch, 2*h.batch, h.batch, h.s, h.batch, h.t, h.s)
	}
	add, err := scratch[float32](c, rows*h.s)
	if err != nil {
		return err
	}
	for i := range add {
		hide := false
		if len(shape) > 1 {
			hide = v[i] <= 0
		} else {
			b, key := i/h.s, int32(i%h.s)
			hide = key >= v[b] || len(v) == 2*h.batch && key < v[h.batch+b]
		}
		if add[i] = 0; hide {
			add[i] = hidden
		}
	}
	if h.added[0] = (headed{data: add, batch: rows / h.batch * h.s, step: h.s}); rows == h.batch {
		h.added[0].step = 0
	}
	return nil
}

// stacked lets keys and values continue past [2, B, H, P, d], into output i.
func (h *heads) appendBoth(c *call, i int, past *Tensor, l int) error {
	p := 0
	if past != nil {
		if len(past.Shape) != 5 || past.Shape[0] != 2 || past.Shape[1] != h.batch || past.Shape[2] != h.h || past.Shape[4] != h.d || h.d != h.e {
			return fmt.Errorf("the past is %v, want [2, %d, %d, past, %d]", past.Shape, h.batch, h.h, h.d)
		}
		p = past.Shape[3]
	}
	if past == nil && !c.wants(i) {
		return nil
	}
	if h.d != h.e {
		return fmt.Errorf("keys of %d and values of %d elements do not go into one tensor", h.d, h.e)
	}
	z, err := c.alloc(i, graph.Float32, 2, h.batch, h.h, p+l, h.d)
	if err != nil {
		return err
	}
	half := z.Len() / 2
	for k, x := range []*headed{&h.k, &h.v} {
		out := planesOf(z.F32()[k*half:(k+1)*half], p+l, h.h, h.d)
		var from []float32
		if past != nil {
			from = past.F32()[k*past.Len()/2:][:past.Len()/2]
		}
		appendTo(out, from, *x, h.batch, h.h, p, l, h.d)
		*x = out
	}
	return nil
}

func pastOf(p, batch int) []int {
	out := make([]int, batch)
	for i := range out {
		out[i] = p
	}
	return out
}

// prepareMicrosoftAttention: input [B, T, I], weights [I, q + k + v] and bias
// give queries, keys and values; mask, past [2, B, H, P, d] and attention bias
// as in heads → [B, T, v], present [2, B, H, P+T, d].
func prepareMicrosoftAttention(n *node) (kernel, error) {
	a, err := readAttention(n)
	if err != nil {
		return nil, err
	}
	if n.bool("do_rotary", false) || n.bool("past_present_share_buffer", false) || n.has(6) {
		return nil, errors.New("do_rotary and past_present_share_buffer are not supported, as in ONNX Runtime on processors")
	}
	sizes := n.ints("qkv_hidden_sizes")
	if sizes != nil && len(sizes) != 3 {
		return nil, fmt.Errorf("qkv_hidden_sizes = %v, want three", sizes)
	}
	dense, err := projection(n)
	if err != nil {
		return nil, err
	}
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 4, 5); err != nil {
			return err
		}
		x := c.in[0]
		if len(x.Shape) != 3 {
			return fmt.Errorf("input is %v, want [B, T, I]", x.Shape)
		}
		qkv, width, err := dense(c, x)
		if err != nil {
			return err
		}
		return a.self(c, x.Shape[0], x.Shape[1], qkv, width, sizes, c.input(3), c.input(4), c.input(5))
	}, n.inputs(2, 7)
}

// self is attention over qkv [B, T, q + k + v].
func (a *attentionAttrs) self(c *call, batch, t int, qkv []float32, width int, sizes []int, mask, past, bias *Tensor) error {
	if sizes == nil {
		sizes = []int{width / 3, width / 3, width / 3}
	}
	if sizes[0] < 0 || sizes[2] < 0 || sizes[0] != sizes[1] || sizes[0]+sizes[1]+sizes[2] != width || sizes[0]%a.heads != 0 || sizes[2]%a.heads != 0 || sizes[0] == 0 {
		return fmt.Errorf("%d columns of weights do not make queries, keys and values of %v for %d heads", width, sizes, a.heads)
	}
	d, e := sizes[0]/a.heads, sizes[2]/a.heads
	p := 0
	if past != nil && len(past.Shape) == 5 {
		p = past.Shape[3]
	}
	h := a.start(batch, t, p+t, d, e)
	h.past = pastOf(p, batch)
	z, err := c.alloc(0, graph.Float32, batch, t, sizes[2])
	if err != nil {
		return err
	}
	h.z = tokensOf(z.F32(), t, a.heads, e)
	if z.Len() > 0 {
		h.q = headed{qkv, t * width, d, width}
		h.k = headed{qkv[sizes[0]:], t * width, d, width}
		h.v = headed{qkv[sizes[0]+sizes[1]:], t * width, e, width}
	}
	if err := h.appendBoth(c, 1, past, t); err != nil {
		return err
	}
	if err := h.mask(c, mask, a.masked); err != nil {
		return err
	}
	if bias != nil {
		if err := h.add(c, 1, bias, "attention_bias"); err != nil {
			return err
		}
	}
	return h.run(c)
}

// projection multiplies x [..., I] with weights, input 1 [I, W], and adds the
// bias, input 2.
func projection(n *node) (func(c *call, x *Tensor) (z []float32, width int, err error), error) {
	var fixed *simd.Packed
	var shape []int
	if w := n.constant(1); w != nil && len(w.Shape) == 2 && w.Len() > 0 {
		wide, err := widened(w)
		if err != nil {
			return nil, err
		}
		if wide != nil {
			p := n.simd.PackB(simd.RowMajor(wide.F32(), w.Shape[1]), w.Shape[0], w.Shape[1])
			fixed, shape = &p, w.Shape
			n.drop(1)
		}
	}
	k := n.simd
	return func(c *call, x *Tensor) ([]float32, int, error) {
		packed, shape := fixed, shape
		if packed == nil {
			w := c.in[1]
			if shape = w.Shape; len(shape) != 2 {
				return nil, 0, fmt.Errorf("weights are %v, want a matrix", shape)
			}
			buf, err := scratch[float32](c, k.PackedLen(shape[0], shape[1]))
			if err != nil {
				return nil, 0, err
			}
			p := k.PackInto(buf, simd.RowMajor(w.F32(), shape[1]), shape[0], shape[1])
			packed = &p
		}
		in := x.Shape[len(x.Shape)-1]
		if in != shape[0] {
			return nil, 0, fmt.Errorf("input %v and weights %v: %d features meet %d rows", x.Shape, shape, in, shape[0])
		}
		var bias []float32
		if b := c.input(2); b != nil {
			if bias = b.F32(); len(bias) != shape[1] {
				return nil, 0, fmt.Errorf("bias %v, want %d elements", b.Shape, shape[1])
			}
		}
		rows := 0
		if in > 0 {
			rows = x.Len() / in
		}
		z, err := scratch[float32](c, rows*shape[1])
		if err != nil || rows == 0 {
			return nil, shape[1], err
		}
		c.arg = &denseRows{k, z, x.F32(), bias, *packed, in, shape[1]}
		c.parallel(rows, 1+multiplyGrain/(1+in*shape[1]), projectRows)
		return z, shape[1], nil
	}, nil
}

type denseRows struct {
	k        *simd.Kernels
	z, x     []float32
	bias     []float32
	b        simd.Packed
	in, wide int
}

func projectRows(c *call, lo, hi int) {
	d := c.arg.(*denseRows)
	d.k.Gemm(d.z[lo*d.wide:], d.wide, simd.RowMajor(d.x[lo*d.in:], d.in), hi-lo, d.b, d.bias, false)
}

// prepareQAttention is Attention over a quantized input and quantized weights:
// (x − zx)·(w − zw)·sx·sw + bias; scales of the weights are one number or one a
// column.
func prepareQAttention(n *node) (kernel, error) {
	a, err := readAttention(n)
	if err != nil {
		return nil, err
	}
	if n.bool("do_rotary", false) || n.bool("past_present_share_buffer", false) {
		return nil, errors.New("do_rotary and past_present_share_buffer are not supported, as in ONNX Runtime on processors")
	}
	k := n.simd
	return func(c *call) error {
		if err := c.floatsOnly(2, 3, 4, 8); err != nil {
			return err
		}
		x, w := c.in[0], c.in[1]
		if len(x.Shape) != 3 || len(w.Shape) != 2 || w.Shape[0] != x.Shape[2] {
			return fmt.Errorf("input %v and weights %v, want [B, T, I] and [I, 3·H]", x.Shape, w.Shape)
		}
		width := w.Shape[1]
		if c.in[2].Len() != width || c.in[3].Len() != 1 || c.in[4].Len() != 1 && c.in[4].Len() != width {
			return fmt.Errorf("bias %v, scale %v of the input and %v of the weights for %d columns", c.in[2].Shape, c.in[3].Shape, c.in[4].Shape, width)
		}
		z, err := dequantizedProduct(c, k, quantized{x, c.in[3], c.input(6)}, quantized{w, c.in[4], c.input(7)}, c.in[2].F32())
		if err != nil {
			return err
		}
		return a.self(c, x.Shape[0], x.Shape[1], z, width, nil, c.input(5), c.input(8), nil)
	}, n.inputs(5, 9)
}

// prepareMultiHeadAttention: query [B, T, q], key [B, S, q] and value [B, S, v],
// or key and value by heads, or both packed in key [B, S, H, 2, d], or all
// three in query [B, T, H, 3, d]; bias [q + q + v], mask, attention bias and past
// keys and values [B, H, P, d] → [B, T, v], present keys and values.
func prepareMultiHeadAttention(n *node) (kernel, error) {
	a, err := readAttention(n)
	if err != nil {
		return nil, err
	}
	if n.has(8) || n.has(9) {
		return nil, errors.New("past_sequence_length and cache_indirection are not supported")
	}
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3, 5, 6, 7); err != nil {
			return err
		}
		q, key, value := c.in[0], c.input(1), c.input(2)
		h := a.heads
		var batch, t, l, d, e int
		var hq, hk, hv headed
		planes := false // keys and values come by heads, with no bias
		switch {
		case len(q.Shape) == 5 && key == nil && value == nil:
			batch, t, d = q.Shape[0], q.Shape[1], q.Shape[4]
			if q.Shape[2] != h || q.Shape[3] != 3 {
				return fmt.Errorf("query is %v, want [B, T, %d, 3, d]", q.Shape, h)
			}
			l, e = t, d
			if x := q.F32(); len(x) > 0 {
				hq = headed{x, t * h * 3 * d, 3 * d, h * 3 * d}
				hk, hv = hq, hq
				hk.data, hv.data = x[d:], x[2*d:]
			}
		case len(q.Shape) != 3 || q.Shape[2]%h != 0 || key == nil:
			return fmt.Errorf("query is %v, want [B, T, H·d] with a key", q.Shape)
		default:
			batch, t, d = q.Shape[0], q.Shape[1], q.Shape[2]/h
			hq = tokensOf(q.F32(), t, h, d)
			switch {
			case len(key.Shape) == 5 && value == nil:
				if l, e = key.Shape[1], d; key.Shape[0] != batch || key.Shape[2] != h || key.Shape[3] != 2 || key.Shape[4] != d {
					return fmt.Errorf("key is %v, want [%d, S, %d, 2, %d]", key.Shape, batch, h, d)
				}
				if x := key.F32(); len(x) > 0 {
					hk = headed{x, l * h * 2 * d, 2 * d, h * 2 * d}
					hv = hk
					hv.data = x[d:]
				}
			case len(key.Shape) == 4 && value != nil && len(value.Shape) == 4:
				l, e, planes = key.Shape[2], value.Shape[3], true
				if key.Shape[0] != batch || key.Shape[1] != h || key.Shape[3] != d || value.Shape[0] != batch || value.Shape[1] != h || value.Shape[2] != l {
					return fmt.Errorf("key %v and value %v, want [%d, %d, S, %d] and as many values", key.Shape, value.Shape, batch, h, d)
				}
				hk, hv = planesOf(key.F32(), l, h, d), planesOf(value.F32(), l, h, e)
			case len(key.Shape) == 3 && value != nil && len(value.Shape) == 3:
				l = key.Shape[1]
				if key.Shape[0] != batch || key.Shape[2] != h*d || value.Shape[0] != batch || value.Shape[1] != l || value.Shape[2]%h != 0 {
					return fmt.Errorf("key %v and value %v, want [%d, S, %d] and as many values", key.Shape, value.Shape, batch, h*d)
				}
				e = value.Shape[2] / h
				hk, hv = tokensOf(key.F32(), l, h, d), tokensOf(value.F32(), l, h, e)
			default:
				return fmt.Errorf("key %v with this value: neither [B, S, H·d], nor by heads, nor packed", key.Shape)
			}
		}
		if b := c.input(3); b != nil {
			want := h * (2*d + e)
			if b.Len() != want {
				return fmt.Errorf("bias %v, want %d elements", b.Shape, want)
			}
			if err := hq.plus(c, a.simd, b.F32()[:h*d], batch, t, h, d); err != nil {
				return err
			}
			if !planes {
				if err := hk.plus(c, a.simd, b.F32()[h*d:2*h*d], batch, l, h, d); err != nil {
					return err
				}
				if err := hv.plus(c, a.simd, b.F32()[2*h*d:], batch, l, h, e); err != nil {
					return err
				}
			}
		}
		z, err := c.alloc(0, graph.Float32, batch, t, h*e)
		if err != nil {
			return err
		}
		p := 0
		if c.has(6) != c.has(7) {
			return errors.New("past_key and past_value come together")
		}
		if c.has(6) || c.wants(1) || c.wants(2) {
			pv := 0
			if hk, p, err = appended(c, 1, c.input(6), hk, batch, h, l, d); err != nil {
				return err
			}
			if hv, pv, err = appended(c, 2, c.input(7), hv, batch, h, l, e); err != nil {
				return err
			}
			if p != pv {
				return fmt.Errorf("%d past keys and %d past values", p, pv)
			}
		}
		at := a.start(batch, t, p+l, d, e)
		at.q, at.k, at.v, at.z = hq, hk, hv, tokensOf(z.F32(), t, h, e)
		at.past = pastOf(p, batch)
		if err := at.mask(c, c.input(4), a.masked); err != nil {
			return err
		}
		if x := c.input(5); x != nil {
			if err := at.add(c, 1, x, "attention_bias"); err != nil {
				return err
			}
		}
		if c.wants(3) {
			seen, err := c.alloc(3, graph.Float32, batch, h, t, at.s)
			if err != nil {
				return err
			}
			at.seen = seen.F32()
		}
		return at.run(c)
	}, n.inputs(1, 10)
}

// plus makes x [B, L, H·d] of x and a bias [H·d].
func (x *headed) plus(c *call, k *simd.Kernels, bias []float32, batch, l, h, d int) error {
	out, err := scratch[float32](c, batch*l*h*d)
	if err != nil || len(out) == 0 {
		return err
	}
	for b := range batch {
		for r := range l {
			for j := range h {
				k.Add(out[((b*l+r)*h+j)*d:][:d], x.data[x.at(b, j)+r*x.step:][:d], bias[j*d:][:d])
			}
		}
	}
	*x = tokensOf(out, l, h, d)
	return nil
}

// prepareGroupQueryAttention: query [B, T, H·d], key and value [B, T, KV·d], or
// all three behind each other in query; past keys and values [B, KV, P, d],
// whose first entries count: with T new ones they are seqlens_k + 1 of the
// sample. A run of all its tokens (total_sequence_length = T) has no past.
// Rotation of queries and keys, a window, an attention bias and sinks are
// optional. → [B, T, H·d], present keys and values [B, KV, max(P, total), d].
func prepareGroupQueryAttention(n *node) (kernel, error) {
	a, err := readAttention(n)
	if err != nil {
		return nil, err
	}
	kv := n.int("kv_num_heads", 0)
	if kv < 1 || a.heads%kv != 0 {
		return nil, fmt.Errorf("kv_num_heads = %d for %d heads", kv, a.heads)
	}
	window, softcap := n.int("local_window_size", -1), n.float("softcap", 0)
	rotates, smooth := n.bool("do_rotary", false), n.int("smooth_softmax", 0) > 0
	r := rotation{interleaved: n.bool("rotary_interleaved", false)}
	qk := n.int("qk_output", 0)
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3, 4, 7, 8, 10, 11); err != nil {
			return err
		}
		q, key, value := c.in[0], c.input(1), c.input(2)
		if len(q.Shape) != 3 || (key == nil) != (value == nil) {
			return fmt.Errorf("query is %v, want [B, T, H·d], with key and value or neither", q.Shape)
		}
		batch, t, h := q.Shape[0], q.Shape[1], a.heads
		all := h
		if key == nil {
			all += 2 * kv
		}
		d := q.Shape[2] / all
		if d*all != q.Shape[2] || d == 0 {
			return fmt.Errorf("query is %v, which does not divide into %d heads", q.Shape, all)
		}
		hq := headed{q.F32(), t * all * d, d, all * d}
		hk, hv := hq, hq
		if key == nil {
			if len(hq.data) > 0 {
				hk.data, hv.data = hq.data[h*d:], hq.data[(h+kv)*d:]
			}
		} else {
			for _, x := range []*Tensor{key, value} {
				if len(x.Shape) != 3 || x.Shape[0] != batch || x.Shape[1] != t || x.Shape[2] != kv*d {
					return fmt.Errorf("key or value is %v, want [%d, %d, %d]", x.Shape, batch, t, kv*d)
				}
			}
			hk, hv = tokensOf(key.F32(), t, kv, d), tokensOf(value.F32(), t, kv, d)
		}
		lens, tot := c.in[5], c.in[6]
		if lens.DType != graph.Int32 || lens.Len() != batch || tot.DType != graph.Int32 || tot.Len() != 1 {
			return fmt.Errorf("seqlens_k is %v%v and total_sequence_length %v%v, want %d and one of int32", lens.DType, lens.Shape, tot.DType, tot.Shape, batch)
		}
		total := int(tot.I32()[0])
		prompt := total == t
		p := 0 // room of the past
		if c.has(3) != c.has(4) {
			return errors.New("past_key and past_value come together")
		}
		for i := 3; i <= 4; i++ {
			if x := c.input(i); x != nil {
				if len(x.Shape) != 4 || x.Shape[0] != batch || x.Shape[1] != kv || x.Shape[3] != d {
					return fmt.Errorf("the past is %v, want [%d, %d, past, %d]", x.Shape, batch, kv, d)
				}
				if i == 4 && x.Shape[2] != p {
					return errors.New("past_key and past_value differ in length")
				}
				p = x.Shape[2]
			}
		}
		if total < t {
			return fmt.Errorf("total_sequence_length = %d with %d tokens", total, t)
		}
		room := max(p, total)
		length, past := make([]int, batch), make([]int, batch)
		for b, v := range lens.I32() {
			length[b] = int(v) + 1
			if !prompt {
				past[b] = length[b] - t
			}
			if length[b] < 1 || length[b] > total || past[b] < 0 || past[b] > p {
				return fmt.Errorf("seqlens_k[%d] = %d with %d tokens, a total of %d and a past of %d", b, v, t, total, p)
			}
		}
		at := a.start(batch, t, room, d, d)
		at.kv, at.causal, at.past, at.softcap, at.length = kv, true, past, softcap, length
		if window > 0 {
			at.window = window
		}
		if rotates {
			if !c.has(7) || !c.has(8) {
				return errors.New("do_rotary needs cos_cache and sin_cache")
			}
			where, err := scratch[int64](c, batch*t)
			if err != nil {
				return err
			}
			for i := range where {
				where[i] = int64(past[i/t] + i%t)
			}
			if x := c.input(9); x != nil {
				if x.DType != graph.Int64 || x.Len() != len(where) {
					return fmt.Errorf("position_ids is %v%v, want %d of int64", x.DType, x.Shape, len(where))
				}
				copy(where, x.I64())
			}
			for _, x := range []struct {
				h *headed
				n int
			}{{&hq, h}, {&hk, kv}} {
				out, err := scratch[float32](c, batch*t*x.n*d)
				if err != nil {
					return err
				}
				z := tokensOf(out, t, x.n, d)
				if err := r.apply(z, *x.h, c.in[7], c.in[8], where, batch, t, x.n, d); err != nil {
					return err
				}
				*x.h = z
			}
		}
		z, err := c.alloc(0, graph.Float32, batch, t, h*d)
		if err != nil {
			return err
		}
		out := [2]headed{}
		for i, x := range []headed{hk, hv} {
			y, err := c.alloc(1+i, graph.Float32, batch, kv, room, d)
			if err != nil {
				return err
			}
			clear(y.F32())
			out[i] = planesOf(y.F32(), room, kv, d)
			for b := range batch {
				for j := range kv {
					to := out[i].data[out[i].at(b, j):]
					if past[b] > 0 {
						copy(to[:past[b]*d], c.in[3+i].F32()[(b*kv+j)*p*d:])
					}
					for r := range t {
						if past[b]+r < room {
							copy(to[(past[b]+r)*d:][:d], x.data[x.at(b, j)+r*x.step:])
						}
					}
				}
			}
		}
		at.q, at.k, at.v, at.z = hq, out[0], out[1], tokensOf(z.F32(), t, h, d)
		if x := c.input(10); x != nil {
			if len(x.Shape) != 4 || x.Shape[3] < total {
				return fmt.Errorf("attention_bias is %v, want [B, H, T, %d]", x.Shape, total)
			}
			at.s = total
			if err := at.add(c, 1, x, "attention_bias"); err != nil {
				return err
			}
		}
		at.s = room
		if x := c.input(11); x != nil {
			if x.Len() != h {
				return fmt.Errorf("head_sink is %v, want %d elements", x.Shape, h)
			}
			at.sink = x.F32()
		} else if smooth {
			at.sink = make([]float32, h)
		}
		if c.wants(3) {
			return fmt.Errorf("output_qk (qk_output = %d) is not supported", qk)
		}
		return at.run(c)
	}, n.required(12, 0, 5, 6)
}
