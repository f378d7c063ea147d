package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// attentionOps are ONNX's attentions.
var attentionOps = []operator{
	{"", "Attention", 23, prepareAttention, nil, halves},
	{"", "LinearAttention", 27, prepareLinearAttention, nil, halves},
	{"", "TensorScatter", 24, prepareTensorScatter, nil, 0},
}

// prepareAttention: Q [B, H, T, d] or [B, T, H·d], K [B, KV, L, d] and V
// [B, KV, L, e] or by tokens; attn_mask (bool, or added) broadcast to
// [B, H, T, S] with what is missing of S hidden, past keys and values
// [B, KV, P, ·], and how many of the S = P + L keys of each sample are no
// padding → Y like Q, present keys and values, and a stage of the scores
// [B, H, T, S]: 0 the products, 1 capped, 2 with what is added, 3 the weights.
//
// Query i stands at key P + i, or without a past at count − T + i where the
// keys of each sample are counted; is_causal and the windows go by that.
func prepareAttention(n *node) (kernel, error) {
	scale, softcap, causal := n.float("scale", 0), n.float("softcap", 0), n.bool("is_causal", false)
	qHeads, kvHeads := n.int("q_num_heads", 0), n.int("kv_num_heads", 0)
	left, right := n.int("left_window_size", -1), n.int("right_window_size", -1)
	mode := n.int("qk_matmul_output_mode", 0)
	stages := []stage{stageProduct, stageCapped, stageAdded, stageSoftmax}
	if mode < 0 || mode >= len(stages) {
		return nil, fmt.Errorf("qk_matmul_output_mode = %d, want 0 to 3", mode)
	}
	if softcap < 0 {
		return nil, fmt.Errorf("softcap = %g", softcap)
	}
	if p := n.int("softmax_precision", 1); p != 0 && !graph.DType(p).IsFloat() {
		return nil, fmt.Errorf("softmax_precision = %d is no floating-point type", p)
	}
	k := n.simd
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 4, 5); err != nil {
			return err
		}
		q, key, value := c.in[0], c.in[1], c.in[2]
		if len(q.Shape) != len(key.Shape) || len(q.Shape) != len(value.Shape) {
			return fmt.Errorf("Q %v, K %v and V %v differ in rank", q.Shape, key.Shape, value.Shape)
		}
		hq, batch, t, h, d, err := byHeads(q, q.F32(), qHeads)
		if err != nil {
			return fmt.Errorf("Q %w", err)
		}
		hk, kb, l, kv, kd, err := byHeads(key, key.F32(), kvHeads)
		if err != nil {
			return fmt.Errorf("K %w", err)
		}
		hv, vb, vl, vh, e, err := byHeads(value, value.F32(), kvHeads)
		if err != nil {
			return fmt.Errorf("V %w", err)
		}
		if kb != batch || vb != batch || kd != d || vl != l || vh != kv || kv == 0 || h%kv != 0 {
			return fmt.Errorf("Q %v, K %v and V %v do not fit, %d heads on %d", q.Shape, key.Shape, value.Shape, h, kv)
		}
		shape := []int{batch, h, t, e}
		if len(q.Shape) == 3 {
			shape = []int{batch, t, h * e}
		}
		y, err := c.alloc(0, graph.Float32, shape...)
		if err != nil {
			return err
		}
		p, pv := 0, 0
		if c.has(4) != c.has(5) {
			return errors.New("past_key and past_value come together")
		}
		if c.has(4) || c.wants(1) || c.wants(2) {
			if hk, p, err = appended(c, 1, c.input(4), hk, batch, kv, l, d); err != nil {
				return err
			}
			if hv, pv, err = appended(c, 2, c.input(5), hv, batch, kv, l, e); err != nil {
				return err
			}
			if p != pv {
				return fmt.Errorf("%d past keys and %d past values", p, pv)
			}
		}
		a := &heads{simd: k, batch: batch, h: h, kv: kv, t: t, s: p + l, d: d, e: e,
			q: hq, k: hk, v: hv, scale: scale, softcap: softcap, causal: causal, past: pastOf(p, batch)}
		if a.z = planesOf(y.F32(), t, h, e); len(q.Shape) == 3 {
			a.z = tokensOf(y.F32(), t, h, e)
		}
		if scale == 0 {
			a.scale = float32(1 / math.Sqrt(float64(d)))
		}
		if left >= 0 {
			a.window = min(left, math.MaxInt32) + 1
		}
		if right >= 0 {
			a.ahead = min(right, math.MaxInt32) + 1
		}
		if x := c.input(6); x != nil {
			if x.DType != graph.Int64 || x.Len() != batch {
				return fmt.Errorf("nonpad_kv_seqlen is %v%v, want %d of int64", x.DType, x.Shape, batch)
			}
			a.length = make([]int, batch)
			for b, v := range x.I64() {
				if v < 0 || v > int64(a.s) {
					return fmt.Errorf("nonpad_kv_seqlen[%d] = %d of %d keys", b, v, a.s)
				}
				a.length[b] = int(v)
				if !c.has(4) {
					a.past[b] = int(v) - t
				}
			}
		}
		if x := c.input(3); x != nil {
			if x, err = addable(c, x, a.s); err != nil {
				return err
			}
			if err := a.add(c, 0, x, "attn_mask"); err != nil {
				return err
			}
		}
		if c.wants(3) {
			seen, err := c.alloc(3, graph.Float32, batch, h, t, a.s)
			if err != nil {
				return err
			}
			a.seen, a.stage = seen.F32(), stages[mode]
		}
		if a.s == 0 {
			clear(y.F32())
			return nil
		}
		return a.run(c)
	}, n.required(7, 0, 1, 2)
}

// addable is attention mask m [..., columns] as what is added to the scores of s
// keys: 0 and −∞ for a mask of bool, and −∞ in the columns that are missing.
func addable(c *call, m *Tensor, s int) (*Tensor, error) {
	at, err := numberAt(m)
	if err != nil || len(m.Shape) == 0 {
		return m, err
	}
	shape := slices.Clone(m.Shape)
	columns, rows := shape[len(shape)-1], 1
	for _, d := range shape[:len(shape)-1] {
		rows *= d
	}
	switch {
	case columns > s:
		return nil, fmt.Errorf("attn_mask is %v for %d keys", m.Shape, s)
	case columns == s && m.DType == graph.Float32:
		return m, nil
	}
	shape[len(shape)-1] = s
	if n, err := count(shape); err != nil || n != rows*s {
		return nil, fmt.Errorf("attn_mask is %v for %d keys", m.Shape, s)
	}
	data, err := scratch[float32](c, rows*s)
	if err != nil {
		return nil, err
	}
	for i := range data {
		if data[i] = float32(math.Inf(-1)); i%s < columns {
			data[i] = at(i/s*columns + i%s)
		}
	}
	return FromSlice(shape, data), nil
}

// numberAt reads the elements of a mask.
func numberAt(m *Tensor) (func(i int) float32, error) {
	switch m.DType {
	case graph.Float32:
		x := m.F32()
		return func(i int) float32 { return x[i] }, nil
	case graph.Bool:
		x := m.Bools()
		return func(i int) float32 {
			if x[i] {
				return 0
			}
			return float32(math.Inf(-1))
		}, nil
	case graph.Int32:
		x := m.I32()
		return func(i int) float32 { return float32(x[i]) }, nil
	case graph.Int64:
		x := m.I64()
		return func(i int) float32 { return float32(x[i]) }, nil
	}
	return nil, fmt.Errorf("attn_mask: %w", wrongType(m.DType))
}

// prepareTensorScatter: a cache [B, ..., S, ...], an update [B, ..., L, ...] and
// where the update of each sample begins along the axis, 0 if that is not given
// → the cache with the update in it. In mode circular it goes on at the front.
func prepareTensorScatter(n *node) (kernel, error) {
	along := n.int("axis", -2)
	circular := n.oneOf("mode", "linear", "linear", "circular") == "circular"
	return func(c *call) error {
		past, update, where := c.in[0], c.in[1], c.input(2)
		at, err := axis(along, len(past.Shape))
		if err != nil {
			return err
		}
		if at == 0 {
			return errors.New("the axis of samples cannot be written along")
		}
		if past.DType != update.DType || len(past.Shape) != len(update.Shape) {
			return fmt.Errorf("cache %v%v and update %v%v do not fit", past.DType, past.Shape, update.DType, update.Shape)
		}
		inner := elemSize(past.DType)
		if inner == 0 {
			return wrongType(past.DType)
		}
		outer := 1 // of a sample
		for i, d := range past.Shape {
			if i != at && update.Shape[i] != d || i == at && update.Shape[i] > d {
				return fmt.Errorf("update %v does not fit into cache %v along axis %d", update.Shape, past.Shape, at)
			}
			if i > at {
				inner *= d
			} else if i > 0 && i < at {
				outer *= d
			}
		}
		batch, s, l := past.Shape[0], past.Shape[at], update.Shape[at]
		if where != nil && (where.DType != graph.Int64 || where.Len() != batch) {
			return fmt.Errorf("write_indices is %v%v, want %d of int64", where.DType, where.Shape, batch)
		}
		z, err := c.over(0, 0, past.DType, past.Shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		copy(z.mem, past.mem)
		for b := range batch {
			from := int64(0)
			if where != nil {
				from = where.I64()[b]
			}
			if from < 0 || !circular && from > int64(s-l) {
				return fmt.Errorf("write_indices[%d] = %d with %d of %d places to write", b, from, l, s)
			}
			from %= int64(max(s, 1))
			for o := range outer {
				to, u := z.mem[(b*outer+o)*s*inner:][:s*inner], update.mem[(b*outer+o)*l*inner:][:l*inner]
				n := copy(to[int(from)*inner:], u)
				copy(to, u[n:])
			}
		}
		return nil
	}, n.inputs(2, 3)
}

// prepareLinearAttention: query [B, T, H·d], key [B, T, KV·d], value
// [B, T, KV·e], a state [B, KV, d, e], decay [B, T, KV] or [B, T, KV·d] and beta
// [B, T, KV] or [B, T, 1] → output [B, T, H·e] and the state behind the last
// token. For every token, with S the state of a head,
//
//	S ← exp(decay)·S, v ← β·(v − Sᵀk), S ← S + k·vᵀ, y = scale·Sᵀq
//
// where the first step is that of the gated rules and the second that of the
// delta rules. Yang, Kautz, Hatamizadeh: Gated Delta Networks, 2024.
func prepareLinearAttention(n *node) (kernel, error) {
	h, kv, scale := n.int("q_num_heads", 0), n.int("kv_num_heads", 0), n.float("scale", 0)
	rule := n.oneOf("update_rule", "gated_delta", "linear", "gated", "delta", "gated_delta")
	gated, delta := strings.HasPrefix(rule, "gated"), strings.HasSuffix(rule, "delta")
	switch {
	case h < 1 || kv < 1 || h%kv != 0:
		return nil, fmt.Errorf("%d heads on %d", h, kv)
	case gated != n.has(4) || delta != n.has(5):
		return nil, fmt.Errorf("update_rule = %q with decay: %t, beta: %t", rule, n.has(4), n.has(5))
	}
	k := n.simd
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3, 4, 5); err != nil {
			return err
		}
		if len(c.in[0].Shape) != 3 || len(c.in[1].Shape) != 3 || len(c.in[2].Shape) != 3 {
			return fmt.Errorf("query %v, key %v and value %v, want [B, T, H·d]", c.in[0].Shape, c.in[1].Shape, c.in[2].Shape)
		}
		a := &linearAttention{simd: k, h: h, kv: kv, scale: scale, decay: c.input(4), beta: c.input(5)}
		var err error
		var batch int
		if a.q, batch, a.t, _, a.d, err = byHeads(c.in[0], c.in[0].F32(), h); err != nil {
			return fmt.Errorf("query %w", err)
		}
		var kd int
		if a.k, _, _, _, kd, err = byHeads(c.in[1], c.in[1].F32(), kv); err != nil {
			return fmt.Errorf("key %w", err)
		}
		if a.v, _, _, _, a.e, err = byHeads(c.in[2], c.in[2].F32(), kv); err != nil {
			return fmt.Errorf("value %w", err)
		}
		tokens := []int{batch, a.t}
		if kd != a.d || !slices.Equal(c.in[1].Shape[:2], tokens) || !slices.Equal(c.in[2].Shape[:2], tokens) {
			return fmt.Errorf("query %v, key %v and value %v do not fit", c.in[0].Shape, c.in[1].Shape, c.in[2].Shape)
		}
		for _, x := range []struct {
			t    *Tensor
			what string
			wide [2]int
		}{{a.decay, "decay", [2]int{kv, kv * a.d}}, {a.beta, "beta", [2]int{kv, 1}}} {
			if x.t != nil && (len(x.t.Shape) != 3 || !slices.Equal(x.t.Shape[:2], tokens) || x.t.Shape[2] != x.wide[0] && x.t.Shape[2] != x.wide[1]) {
				return fmt.Errorf("%s is %v, want [%d, %d, %d] or [%d, %d, %d]", x.what, x.t.Shape, batch, a.t, x.wide[0], batch, a.t, x.wide[1])
			}
		}
		if scale == 0 {
			a.scale = float32(1 / math.Sqrt(float64(a.d)))
		}
		y, err := c.alloc(0, graph.Float32, batch, a.t, h*a.e)
		if err != nil {
			return err
		}
		state, err := c.alloc(1, graph.Float32, batch, kv, a.d, a.e)
		if err != nil {
			return err
		}
		a.y, a.state = tokensOf(y.F32(), a.t, h, a.e), state.F32()
		if past := c.input(3); past == nil {
			clear(a.state)
		} else if slices.Equal(past.Shape, state.Shape) {
			copy(a.state, past.F32())
		} else {
			return fmt.Errorf("past_state is %v, want %v", past.Shape, state.Shape)
		}
		if a.recall, err = scratch[float32](c, batch*kv*a.e); err != nil {
			return err
		}
		c.arg = a
		c.parallel(batch*kv, 1+multiplyGrain/(1+3*a.t*a.d*a.e), linearHeads)
		return nil
	}, n.required(6, 0, 1, 2)
}

type linearAttention struct {
	simd          *simd.Kernels
	h, kv         int
	t, d, e       int
	scale         float32
	q, k, v, y    headed
	decay, beta   *Tensor
	state, recall []float32
}

// linearHeads goes through the tokens of states lo to hi.
func linearHeads(c *call, lo, hi int) {
	a := c.arg.(*linearAttention)
	for i := lo; i < hi; i++ {
		b, j := i/a.kv, i%a.kv
		s, v := a.state[i*a.d*a.e:][:a.d*a.e], a.recall[i*a.e:][:a.e]
		for t := range a.t {
			key := a.k.data[a.k.at(b, j)+t*a.k.step:][:a.d]
			if g := a.decay; g != nil {
				of := func(x int) float32 { return float32(math.Exp(float64(g.F32()[x]))) }
				at := (b*a.t + t) * g.Shape[2]
				if g.Shape[2] == a.kv {
					a.simd.MulScalar(s, s, of(at+j))
				} else {
					for r := range a.d {
						a.simd.MulScalar(s[r*a.e:][:a.e], s[r*a.e:][:a.e], of(at+j*a.d+r))
					}
				}
			}
			value := a.v.data[a.v.at(b, j)+t*a.v.step:][:a.e]
			if a.beta == nil {
				copy(v, value)
			} else {
				a.read(v, s, key)
				w := a.beta.Shape[2]
				beta := a.beta.F32()[(b*a.t+t)*w+j%w]
				for m := range v {
					v[m] = beta * (value[m] - v[m])
				}
			}
			for r, x := range key {
				row := s[r*a.e:][:a.e]
				for m := range row {
					row[m] += float32(x * v[m])
				}
			}
			for u := range a.h / a.kv {
				head := j*(a.h/a.kv) + u
				y := a.y.data[a.y.at(b, head)+t*a.y.step:][:a.e]
				a.read(y, s, a.q.data[a.q.at(b, head)+t*a.q.step:][:a.d])
				a.simd.MulScalar(y, y, a.scale)
			}
		}
	}
}

// read is y = Sᵀx.
func (a *linearAttention) read(y, s, x []float32) {
	clear(y)
	for r, x := range x {
		for m := range y {
			y[m] += float32(x * s[r*a.e+m])
		}
	}
}
