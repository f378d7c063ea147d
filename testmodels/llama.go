package testmodels

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// LLaMAOptions chooses between the forms that LLaMA exports come in.
type LLaMAOptions struct {
	Cache     bool // past_key_values inputs and present outputs
	Bias      bool // biases on queries, keys and values, as in Qwen 2
	Sandwich  bool // a second norm at the end of every branch, scores and logits held back by tanh, as in Gemma 2
	HeadNorm  bool // a norm on every head of queries and keys, as in Qwen 3
	Functions bool // one local function, called for every layer
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
// From opset 23 it is made of RMSNormalization, RotaryEmbedding and Attention.
// By default 3 layers of width 32, 4 heads on 2 heads of keys, an MLP of 48
// and 40 tokens.
func LLaMA(s Size, o LLaMAOptions) *graph.Model {
	if s.Heads == 0 && s.KVHeads == 0 {
		s.Heads, s.KVHeads = 4, 2
	}
	s = s.or(Size{Layers: 3, Width: 32, Heads: 4, Hidden: 48, Vocab: 40})
	size := s.Width / s.Heads
	b := newBuilder("llama", s)
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
			from = b.length(&c)
			to = b.add(to, from)
		}
		queries := b.op("Range", ins{from, to, b.int(1)})
		keys := b.op("Range", ins{b.int(0), to, b.int(1)})
		if positions == nil {
			positions = b.positions(queries, ids)
		}
		mask := b.futureMask(queries, keys)
		if keep != nil {
			absent := b.op("Equal", ins{b.unsqueeze(keep, 1, 2), b.int(0)})
			mask = b.op("Where", ins{absent, b.float(lowest), mask})
		}
		cos, sin := b.rotaryAngles(positions, size)
		if o.Sandwich {
			x = b.mul(x, b.float(math.Sqrt(float64(s.Width))))
		}
		for i := range s.Layers {
			b.in(func() {
				if !o.Functions || b.lacks("A", i) || b.lacks("M", i) { // a layer that differs gets no call
					x = b.llamaLayer(x, mask, cos, sin, &c, i, s, o)
					return
				}
				args := ins{x, mask, cos, sin}
				if o.Cache {
					args = append(args, c.past[i].key, c.past[i].value)
				}
				out := b.function("transformers.models.llama", "LlamaDecoderLayer", args, func(args ins) ins {
					own := cache{past: make([]pair, i+1)}
					if o.Cache {
						own.past[i] = pair{args[4], args[5]}
					} else {
						own.past = nil
					}
					out := ins{b.llamaLayer(args[0], args[1], args[2], args[3], &own, i, s, o)}
					for _, p := range own.present {
						out = append(out, p.key, p.value)
					}
					return out
				})
				x = out[0]
				if o.Cache {
					c.present = append(c.present, pair{out[1], out[2]})
				}
			}, "layers.%d", i)
		}
		x = b.rmsNorm("norm", x, s.Width)
	}, "model")
	x = b.linear("lm_head", x, s.Width, s.Vocab, 2, 0)
	if o.Sandwich {
		x = b.cap(x, 30)
	}
	b.output("logits", x, graph.Float32, "batch", "sequence", s.Vocab)
	b.presents(c, s.KVHeads, size)
	return b.model()
}

func (b *builder) llamaLayer(x, mask, cos, sin *graph.Value, c *cache, i int, s Size, o LLaMAOptions) *graph.Value {
	h := b.rmsNorm("input_layernorm", x, s.Width)
	b.in(func() { h = b.llamaAttention(h, mask, cos, sin, c, i, s, o) }, "self_attn")
	entry := "post_attention_layernorm"
	if o.Sandwich {
		h = b.rmsNorm("post_attention_layernorm", h, s.Width)
		entry = "pre_feedforward_layernorm"
	}
	x = b.module("A", i, x, b.add(x, h))
	h = b.rmsNorm(entry, x, s.Width)
	b.in(func() {
		gate := b.linear("gate_proj", h, s.Width, s.Hidden, 1.5, 0)
		if o.Sandwich {
			gate = b.gelu(gate, true)
		} else {
			gate = b.mul(gate, b.op("Sigmoid", ins{gate}))
		}
		h = b.mul(gate, b.linear("up_proj", h, s.Width, s.Hidden, 1, 0))
		h = b.linear("down_proj", h, s.Hidden, s.Width, 2*b.gain(), 0)
	}, "mlp")
	if o.Sandwich {
		h = b.rmsNorm("post_feedforward_layernorm", h, s.Width)
	}
	return b.module("M", i, x, b.add(x, h))
}

// cap is limit·tanh(x/limit).
func (b *builder) cap(x *graph.Value, limit float64) *graph.Value {
	return b.mul(b.op("Tanh", ins{b.op("Div", ins{x, b.float(limit)})}), b.float(limit))
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
	q, k = b.heads(q, s.Heads, size), b.heads(k, s.KVHeads, size)
	if o.HeadNorm {
		q, k = b.rmsNorm("q_norm", q, size), b.rmsNorm("k_norm", k, size)
	}
	q, k = b.rotate(q, cos, sin, size), b.rotate(k, cos, sin, size)
	v = b.heads(v, s.KVHeads, size)
	if b.opset >= 23 {
		return b.linear("o_proj", b.merge(b.attention23(q, k, v, mask, c, layer), s.Width), s.Width, s.Width, 2*b.gain(), 0)
	}
	k, v = b.extend(c, layer, k, v)
	if s.KVHeads < s.Heads {
		k, v = b.repeatHeads(k, s, size), b.repeatHeads(v, s, size)
	}
	if o.Sandwich {
		scores := b.mul(b.matmul(q, b.transpose(k, 0, 1, 3, 2)), b.float(fan(size)))
		y := b.op("Softmax", ins{b.add(b.cap(scores, 50), mask)}, graph.IntAttr("axis", -1))
		return b.linear("o_proj", b.merge(b.matmul(y, v), s.Width), s.Width, s.Width, 2*b.gain(), 0)
	}
	y := b.merge(b.attend(q, k, v, mask, size), s.Width)
	return b.linear("o_proj", y, s.Width, s.Width, 2*b.gain(), 0)
}

// attention23 is Attention-23 of q [B, H, T, size] on k and v [B, KV, T, size]
// and the layer's cache.
func (b *builder) attention23(q, k, v, mask *graph.Value, c *cache, layer int) *graph.Value {
	if len(c.past) == 0 {
		return b.op("Attention", ins{q, k, v}, graph.IntAttr("is_causal", 1))
	}
	p := c.past[layer]
	out := b.nodes("Attention", ins{q, k, v, mask, p.key, p.value}, 3)
	c.present = append(c.present, pair{out[1], out[2]})
	return out[0]
}

// rmsNorm is x/√(mean(x²)+ε)·weight over the last axis of x [..., width].
func (b *builder) rmsNorm(name string, x *graph.Value, width int) (y *graph.Value) {
	b.in(func() {
		if b.opset >= 23 {
			y = b.op("RMSNormalization", ins{x, b.weight("weight", 1, 0.1, width)},
				graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", 1e-5))
			return
		}
		square := b.op("Pow", ins{x, b.float(2)})
		root := b.op("Sqrt", ins{b.add(b.reduceMean(square, -1), b.float(1e-5))})
		y = b.mul(x, b.op("Div", ins{b.float(1), root}))
		y = b.mul(b.weight("weight", 1, 0.1, width), y)
	}, "%s", name)
	return y
}

// positions gives every sample of ids [B, T] the places [T]: [1, T], or [B, T]
// for RotaryEmbedding-23, which does not broadcast.
func (b *builder) positions(places, ids *graph.Value) *graph.Value {
	p := b.unsqueeze(places, 0)
	if b.opset >= 23 {
		p = b.op("Expand", ins{p, b.op("Shape", ins{ids})})
	}
	return p
}

// rotaryAngles returns cos and sin [B, 1, T, size] of positions [B, T] times
// the frequencies 10000^(−2i/size), each frequency for elements i and
// i + size/2 of a head; for RotaryEmbedding-23 they are [B, T, size/2].
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
		if b.opset >= 23 {
			cos, sin = b.op("Cos", ins{angle}), b.op("Sin", ins{angle})
			return
		}
		angle = b.concat(-1, angle, angle)
		cos = b.unsqueeze(b.op("Cos", ins{angle}), 1)
		sin = b.unsqueeze(b.op("Sin", ins{angle}), 1)
	}, "rotary_emb")
	return cos, sin
}

// rotate is x·cos + [−x₂, x₁]·sin, x₁ and x₂ the halves of the heads of x
// [B, H, T, size].
func (b *builder) rotate(x, cos, sin *graph.Value, size int) *graph.Value {
	if b.opset >= 23 {
		return b.op("RotaryEmbedding", ins{x, cos, sin})
	}
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
