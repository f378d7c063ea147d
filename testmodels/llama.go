package testmodels

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// LLaMAOptions chooses between the forms that LLaMA exports come in.
type LLaMAOptions struct {
	Cache bool // past_key_values inputs and present outputs
	Bias  bool // biases on queries, keys and values, as Qwen 2 has them
}

// LLaMA builds a decoder with RMSNorm, SwiGLU, rotary positions and grouped
// heads in the form of Hugging Face's LlamaForCausalLM:
//
//	input_ids [batch, sequence] → logits [batch, sequence, Vocab]
//
// With a cache there are also the inputs attention_mask [batch, past +
// sequence], position_ids [batch, sequence] and, for every layer i,
// past_key_values.i.key and .value [batch, KV heads, past, size], and the
// outputs present.i.key and .value.
//
// By default 3 layers of width 32, 4 heads on 2 heads of keys, an MLP of 48
// and 40 tokens.
func LLaMA(s Size, o LLaMAOptions) *graph.Model {
	if s.Heads == 0 && s.KVHeads == 0 {
		s.Heads, s.KVHeads = 4, 2
	}
	s = s.or(Size{Layers: 3, Width: 32, Heads: 4, Hidden: 48, Vocab: 40})
	size := s.Width / s.Heads
	b := newBuilder("llama", s.Opset, s.Seed)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	var keep, positions *graph.Value
	var c cache
	if o.Cache {
		keep = b.input("attention_mask", graph.Int64, "batch", totalDim)
		positions = b.input("position_ids", graph.Int64, "batch", "sequence")
		c = b.caches(s.Layers, s.KVHeads, size)
	}
	var x *graph.Value
	b.in(func() {
		x = b.op("Gather", ins{b.weight("embed_tokens.weight", 0, 0.5, s.Vocab, s.Width), ids})
		// Places of the queries in the sequence, and of all keys.
		from, to := b.int(0), b.dimOf(axis(ids, 1))
		if o.Cache {
			from = b.dimOf(axis(c.past[0].key, 2))
			to = b.add(to, from)
		}
		queries := b.op("Range", ins{from, to, b.int(1)})
		keys := b.op("Range", ins{b.int(0), to, b.int(1)})
		if positions == nil {
			positions = b.unsqueeze(queries, 0)
		}
		later := b.op("Greater", ins{b.unsqueeze(keys, 0), b.unsqueeze(queries, 1)})
		mask := b.unsqueeze(b.op("Where", ins{later, b.float(lowest), b.float(0)}), 0, 1)
		if keep != nil {
			absent := b.op("Equal", ins{b.unsqueeze(keep, 1, 2), b.int(0)})
			mask = b.op("Where", ins{absent, b.float(lowest), mask})
		}
		cos, sin := b.rotaryAngles(positions, size)
		for i := range s.Layers {
			b.in(func() {
				h := b.rmsNorm("input_layernorm", x, s.Width)
				b.in(func() { h = b.llamaAttention(h, mask, cos, sin, &c, i, s, o) }, "self_attn")
				x = b.add(x, h)
				h = b.rmsNorm("post_attention_layernorm", x, s.Width)
				b.in(func() {
					gate := b.linear("gate_proj", h, s.Width, s.Hidden, 1.5, 0)
					gate = b.mul(gate, b.op("Sigmoid", ins{gate}))
					h = b.mul(gate, b.linear("up_proj", h, s.Width, s.Hidden, 1, 0))
					h = b.linear("down_proj", h, s.Hidden, s.Width, 2*b.gain(), 0)
				}, "mlp")
				x = b.add(x, h)
			}, "layers.%d", i)
		}
		x = b.rmsNorm("norm", x, s.Width)
	}, "model")
	b.output("logits", b.linear("lm_head", x, s.Width, s.Vocab, 2, 0), graph.Float32, "batch", "sequence", s.Vocab)
	b.presents(c, s.KVHeads, size)
	return b.m
}

func (b *builder) llamaAttention(x, mask, cos, sin *graph.Value, c *cache, layer int, s Size, o LLaMAOptions) *graph.Value {
	size := s.Width / s.Heads
	bias := 0.0
	if o.Bias {
		bias = 0.1
	}
	q := b.linear("q_proj", x, s.Width, s.Heads*size, 1.5, bias)
	k := b.linear("k_proj", x, s.Width, s.KVHeads*size, 1.5, bias)
	v := b.linear("v_proj", x, s.Width, s.KVHeads*size, 1, bias)
	q = b.rotate(b.heads(q, s.Heads, size), cos, sin, size)
	k = b.rotate(b.heads(k, s.KVHeads, size), cos, sin, size)
	k, v = b.extend(c, layer, k, b.heads(v, s.KVHeads, size))
	if s.KVHeads < s.Heads {
		k, v = b.repeatHeads(k, s, size), b.repeatHeads(v, s, size)
	}
	y := b.merge(b.attend(q, k, v, mask, size), s.Width)
	return b.linear("o_proj", y, s.Width, s.Width, 2*b.gain(), 0)
}

// rmsNorm is x/√(mean(x²)+ε)·weight over the last axis of x [..., width].
func (b *builder) rmsNorm(name string, x *graph.Value, width int) (y *graph.Value) {
	b.in(func() {
		square := b.op("Pow", ins{x, b.float(2)})
		root := b.op("Sqrt", ins{b.add(b.reduceMean(square, -1), b.float(1e-5))})
		y = b.mul(x, b.op("Div", ins{b.float(1), root}))
		y = b.mul(b.weight("weight", 1, 0.1, width), y)
	}, "%s", name)
	return y
}

// rotaryAngles returns cos and sin [B, 1, T, size] of positions [B, T] times
// the frequencies 10000^(−2i/size), each frequency for elements i and
// i + size/2 of a head.
func (b *builder) rotaryAngles(positions *graph.Value, size int) (cos, sin *graph.Value) {
	b.in(func() {
		frequencies := make([]float32, size/2)
		for i := range frequencies {
			frequencies[i] = float32(math.Pow(10000, -2*float64(i)/float64(size)))
		}
		f := b.init("inv_freq", graph.Float32Tensor([]int64{1, int64(size / 2), 1}, frequencies))
		f = b.op("Expand", ins{f, b.shape(axis(positions, 0), fixed(size/2), fixed(1))})
		t := b.cast(b.unsqueeze(positions, 1), graph.Float32)
		angle := b.transpose(b.matmul(f, t), 0, 2, 1)
		angle = b.concat(-1, angle, angle)
		cos = b.unsqueeze(b.op("Cos", ins{angle}), 1)
		sin = b.unsqueeze(b.op("Sin", ins{angle}), 1)
	}, "rotary_emb")
	return cos, sin
}

// rotate is x·cos + [−x₂, x₁]·sin, x₁ and x₂ the halves of the heads of x
// [B, H, T, size].
func (b *builder) rotate(x, cos, sin *graph.Value, size int) *graph.Value {
	half := b.ints(int64(size / 2))
	first := b.slice(x, b.ints(0), half, 3)
	second := b.slice(x, half, b.ints(end), 3)
	turned := b.concat(-1, b.op("Neg", ins{second}), first)
	return b.add(b.mul(x, cos), b.mul(turned, sin))
}

// repeatHeads gives every query head its own copy of k [B, KV, S, size]:
// [B, H, S, size].
func (b *builder) repeatHeads(k *graph.Value, s Size, size int) *graph.Value {
	times := s.Heads / s.KVHeads
	wide := b.shape(axis(k, 0), fixed(s.KVHeads), fixed(times), axis(k, 2), fixed(size))
	y := b.op("Expand", ins{b.unsqueeze(k, 2), wide})
	return b.reshape(y, axis(k, 0), fixed(s.Heads), axis(k, 2), fixed(size))
}
