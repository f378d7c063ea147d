package testmodels

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// Models in the form that ONNX Runtime's own optimizers write, with operators
// of its domain.
const microsoft = "com.microsoft"

func (b *builder) fused(op string, inputs ins, outputs int, attrs ...*graph.Attr) ins {
	b.m.SetOpset(microsoft, 1)
	return b.domainOp(microsoft, op, inputs, outputs, attrs...)
}

// FusedOptions chooses between the operators that a fused BERT is made of.
type FusedOptions struct {
	MultiHead bool // EmbedLayerNormalization and MultiHeadAttention, as ONNX Runtime's tool for transformers writes them
}

// FusedBERT builds BERT with Attention, SkipLayerNormalization and BiasGelu,
// as ONNX Runtime's extended optimizations make it:
//
//	input_ids, attention_mask, token_type_ids [batch, sequence] int64 → logits [batch, Classes]
//
// Defaults are those of BERT; the weights are not.
func FusedBERT(s Size, o FusedOptions) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 24, Classes: 3})
	b := newBuilder("bert", s.Opset, s.Seed)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", "sequence")
	types := b.input("token_type_ids", graph.Int64, "batch", "sequence")
	// skipNorm is the norm of y + x, with the bias that y still lacks.
	skipNorm := func(name string, y, x *graph.Value, bias bool) (sum *graph.Value) {
		b.in(func() {
			inputs := ins{y, x, b.weight("weight", 1, 0.1, s.Width), b.weight("bias", 0, 0.1, s.Width)}
			if bias {
				inputs = append(inputs, b.weight("dense.bias", 0, 0.1, s.Width))
			}
			sum = b.fused("SkipLayerNormalization", inputs, 1, graph.FloatAttr("epsilon", 1e-12))[0]
		}, "%s", name)
		return sum
	}
	var x *graph.Value
	b.in(func() {
		keep := b.cast(attention, graph.Int32)
		b.in(func() {
			words := b.weight("word_embeddings.weight", 0, 0.7, s.Vocab, s.Width)
			positions := b.weight("position_embeddings.weight", 0, 0.5, s.Length, s.Width)
			kinds := b.weight("token_type_embeddings.weight", 0, 0.3, 2, s.Width)
			if o.MultiHead {
				inputs := ins{b.cast(ids, graph.Int32), b.cast(types, graph.Int32), words, positions, kinds,
					b.weight("LayerNorm.weight", 1, 0.1, s.Width), b.weight("LayerNorm.bias", 0, 0.1, s.Width)}
				x = b.fused("EmbedLayerNormalization", inputs, 2, graph.FloatAttr("epsilon", 1e-12))[0]
				return // the second output, lengths, is for older masks
			}
			places := b.op("Expand", ins{b.op("Range", ins{b.int(0), b.dimOf(axis(ids, 1)), b.int(1)}), b.op("Shape", ins{ids})})
			x = b.add(b.op("Gather", ins{words, ids}), b.op("Gather", ins{positions, places}))
			x = skipNorm("LayerNorm", x, b.op("Gather", ins{kinds, types}), false)
		}, "embeddings")
		for i := range s.Layers {
			b.in(func() {
				b.in(func() {
					heads, low := graph.IntAttr("num_heads", int64(s.Heads)), graph.FloatAttr("mask_filter_value", lowest)
					var y *graph.Value
					if o.MultiHead {
						q := b.linear("self/query", x, s.Width, s.Width, 1.5, 0)
						k := b.linear("self/key", x, s.Width, s.Width, 1.5, 0)
						v := b.linear("self/value", x, s.Width, s.Width, 1, 0)
						y = b.fused("MultiHeadAttention", ins{q, k, v, b.weight("qkv.bias", 0, 0.1, 3*s.Width), keep}, 1, heads, low)[0]
					} else {
						w := b.weight("qkv.weight", 0, 1.3*fan(s.Width), s.Width, 3*s.Width)
						y = b.fused("Attention", ins{x, w, b.weight("qkv.bias", 0, 0.1, 3*s.Width), keep}, 1, heads, low)[0]
					}
					y = b.linear("output/dense", y, s.Width, s.Width, 2*b.gain(), 0)
					x = skipNorm("output/LayerNorm", y, x, true)
				}, "attention")
				y := b.linear("intermediate/dense", x, s.Width, s.Hidden, 1, 0)
				y = b.fused("BiasGelu", ins{y, b.weight("intermediate.dense.bias", 0, 0.1, s.Hidden)}, 1)[0]
				y = b.linear("output/dense", y, s.Hidden, s.Width, 2*b.gain(), 0)
				x = skipNorm("output/LayerNorm", y, x, true)
			}, "encoder/layer.%d", i)
		}
		b.in(func() {
			x = b.op("Gather", ins{x, b.int(0)}, graph.IntAttr("axis", 1))
			w := b.weight("dense.weight", 0, fan(s.Width), s.Width, s.Width)
			x = b.fused("FusedGemm", ins{x, w, b.weight("dense.bias", 0, 0.1, s.Width)}, 1,
				graph.StringAttr("activation", "Tanh"), graph.FloatAttr("alpha", 1), graph.FloatAttr("beta", 1), graph.IntAttr("transB", 1))[0]
		}, "pooler")
	}, "bert")
	b.output("logits", b.gemm("classifier", x, s.Width, s.Classes, 1), graph.Float32, "batch", s.Classes)
	return b.m
}

// FusedLLaMA builds LLaMA with GroupQueryAttention and
// SkipSimplifiedLayerNormalization, in the form of ONNX Runtime's generation
// tools:
//
//	input_ids [batch, sequence], attention_mask [batch, past + sequence] → logits [batch, sequence, Vocab]
//
// and a cache as LLaMA has it. Tokens that do not count must come last.
// Heads are multiples of 16 wide, which ONNX Runtime asks for. Defaults are
// those of LLaMA, with a width of 64 and 32 positions; the weights are not.
func FusedLLaMA(s Size) *graph.Model {
	if s.Heads == 0 && s.KVHeads == 0 {
		s.Heads, s.KVHeads = 4, 2
	}
	s = s.or(Size{Layers: 3, Width: 64, Heads: 4, Hidden: 48, Vocab: 40, Length: 32})
	size := s.Width / s.Heads
	b := newBuilder("llama", s.Opset, s.Seed)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", totalDim)
	c := b.caches(s.Layers, s.KVHeads, size)
	norm := graph.FloatAttr("epsilon", 1e-5)
	// skipNorm adds y to the residual stream and returns the norm of the sum
	// and, where it is asked for, the sum.
	skipNorm := func(name string, x, y *graph.Value, sum bool) (out ins) {
		b.in(func() {
			inputs := ins{x, y, b.weight("weight", 1, 0.1, s.Width)}
			if !sum {
				out = b.fused("SkipSimplifiedLayerNormalization", inputs, 1, norm)
				return
			}
			n := b.g.NewNode(microsoft, "SkipSimplifiedLayerNormalization", "/"+b.path("SkipLayerNorm"), inputs,
				[]string{"/" + b.path("output_0"), "", "", "/" + b.path("output_3")}, norm)
			out = ins{n.Output(0), n.Output(3)}
		}, "%s", name)
		return out
	}
	var h *graph.Value
	b.in(func() {
		var last, total, cos, sin *graph.Value
		b.in(func() {
			count := b.op("ReduceSum", ins{attention, b.ints(1)}, graph.IntAttr("keepdims", 0))
			last = b.cast(b.op("Sub", ins{count, b.ints(1)}), graph.Int32)
			total = b.cast(b.dimOf(axis(attention, 1)), graph.Int32)
			cos, sin = b.rotaryTables(s.Length, size)
		}, "attn_mask_reformat")
		x := b.op("Gather", ins{b.weight("embed_tokens.weight", 0, 0.5, s.Vocab, s.Width), ids})
		b.in(func() {
			h = b.op("SimplifiedLayerNormalization", ins{x, b.weight("weight", 1, 0.1, s.Width)},
				graph.IntAttr("axis", -1), norm, graph.IntAttr("stash_type", 1))
		}, "layers.0/input_layernorm")
		for i := range s.Layers {
			b.in(func() {
				b.in(func() {
					q := b.linear("q_proj", h, s.Width, s.Heads*size, 1.5, 0)
					k := b.linear("k_proj", h, s.Width, s.KVHeads*size, 1.5, 0)
					v := b.linear("v_proj", h, s.Width, s.KVHeads*size, 1, 0)
					p := c.past[i]
					out := b.fused("GroupQueryAttention", ins{q, k, v, p.key, p.value, last, total, cos, sin}, 3,
						graph.IntAttr("num_heads", int64(s.Heads)), graph.IntAttr("kv_num_heads", int64(s.KVHeads)), graph.IntAttr("do_rotary", 1))
					c.present = append(c.present, pair{out[1], out[2]})
					h = b.linear("o_proj", out[0], s.Width, s.Width, 2*b.gain(), 0)
				}, "attn")
				both := skipNorm("post_attention_layernorm", x, h, true)
				h, x = both[0], both[1]
				b.in(func() {
					gate := b.linear("gate_proj", h, s.Width, s.Hidden, 1.5, 0)
					gate = b.mul(gate, b.op("Sigmoid", ins{gate}))
					h = b.mul(gate, b.linear("up_proj", h, s.Width, s.Hidden, 1, 0))
					h = b.linear("down_proj", h, s.Hidden, s.Width, 2*b.gain(), 0)
				}, "mlp")
			}, "layers.%d", i)
			if i == s.Layers-1 {
				h = skipNorm("final_norm", x, h, false)[0]
				break
			}
			b.in(func() {
				both := skipNorm("input_layernorm", x, h, true)
				h, x = both[0], both[1]
			}, "layers.%d", i+1)
		}
	}, "model")
	b.output("logits", b.linear("lm_head", h, s.Width, s.Vocab, 2, 0), graph.Float32, "batch", "sequence", s.Vocab)
	b.presents(c, s.KVHeads, size)
	return b.m
}

// rotaryTables stores cos and sin [length, size/2] of all positions.
func (b *builder) rotaryTables(length, size int) (cos, sin *graph.Value) {
	var c, s []float32
	for t := range length {
		for i := range size / 2 {
			y, x := math.Sincos(float64(t) * math.Pow(10000, -2*float64(i)/float64(size)))
			c, s = append(c, float32(x)), append(s, float32(y))
		}
	}
	dims := []int64{int64(length), int64(size / 2)}
	return b.init("cos_cache", graph.Float32Tensor(dims, c)), b.init("sin_cache", graph.Float32Tensor(dims, s))
}
