package testmodels

import (
	"fmt"
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
// Defaults and weights are those of BERT.
func FusedBERT(s Size, o FusedOptions) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 24, Classes: 3})
	b := newBuilder("bert", s)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", "sequence")
	types := b.input("token_type_ids", graph.Int64, "batch", "sequence")
	// skipNorm is the norm of y + x, with the bias that y still lacks.
	skipNorm := func(name string, y, x, bias *graph.Value) (sum *graph.Value) {
		b.in(func() {
			inputs := ins{y, x, b.weight("weight", 1, 0.1, s.Width), b.weight("bias", 0, 0.1, s.Width)}
			if bias != nil {
				inputs = append(inputs, bias)
			}
			sum = b.fused("SkipLayerNormalization", inputs, 1, graph.FloatAttr("epsilon", 1e-12))[0]
		}, "%s", name)
		return sum
	}
	// linear is a linear layer whose bias the next operator adds.
	linear := func(name string, x *graph.Value, in, out int, gain float64) (y, bias *graph.Value) {
		y = b.linear(name, x, in, out, gain, 0)
		b.in(func() { bias = b.weight("bias", 0, 0.1, out) }, "%s", name)
		return y, bias
	}
	var x *graph.Value
	b.in(func() {
		keep := b.cast(attention, graph.Int32)
		b.in(func() {
			words := b.weight("word_embeddings.weight", 0, 0.7, s.Vocab, s.Width)
			kinds := b.weight("token_type_embeddings.weight", 0, 0.3, 2, s.Width)
			positions := b.weight("position_embeddings.weight", 0, 0.5, s.Length, s.Width)
			if o.MultiHead {
				inputs := ins{b.cast(ids, graph.Int32), b.cast(types, graph.Int32), words, positions, kinds,
					b.weight("LayerNorm.weight", 1, 0.1, s.Width), b.weight("LayerNorm.bias", 0, 0.1, s.Width)}
				x = b.fused("EmbedLayerNormalization", inputs, 2, graph.FloatAttr("epsilon", 1e-12))[0]
				return // the second output, lengths, is for older masks
			}
			places := b.op("Expand", ins{b.op("Range", ins{b.int(0), b.dimOf(axis(ids, 1)), b.int(1)}), b.op("Shape", ins{ids})})
			x = b.add(b.op("Gather", ins{words, ids}), b.op("Gather", ins{positions, places}))
			x = skipNorm("LayerNorm", x, b.op("Gather", ins{kinds, types}), nil)
		}, "embeddings")
		for i := range s.Layers {
			b.in(func() {
				b.in(func() {
					heads, low := graph.IntAttr("num_heads", int64(s.Heads)), graph.FloatAttr("mask_filter_value", lowest)
					var weights, biases []*graph.Tensor // of queries, keys and values
					for _, gain := range []float64{1.5, 1.5, 1} {
						weights = append(weights, b.draw(0, gain*fan(s.Width), s.Width, s.Width))
						biases = append(biases, b.draw(0, 0.1, s.Width))
					}
					var y *graph.Value
					if o.MultiHead {
						var qkv ins
						for k, name := range []string{"query", "key", "value"} {
							qkv = append(qkv, b.matmul(x, b.init("self."+name+".weight", weights[k])))
						}
						y = b.fused("MultiHeadAttention", append(qkv, b.packed("qkv.bias", biases...), keep), 1, heads, low)[0]
					} else {
						y = b.fused("Attention", ins{x, b.packed("qkv.weight", weights...), b.packed("qkv.bias", biases...), keep}, 1, heads, low)[0]
					}
					y, bias := linear("output/dense", y, s.Width, s.Width, b.gain())
					x = b.module("A", i, x, skipNorm("output/LayerNorm", y, x, bias))
				}, "attention")
				y, bias := linear("intermediate/dense", x, s.Width, s.Hidden, 1)
				y = b.fused("BiasGelu", ins{y, bias}, 1)[0]
				y, bias = linear("output/dense", y, s.Hidden, s.Width, 2*b.gain())
				x = b.module("M", i, x, skipNorm("output/LayerNorm", y, x, bias))
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
	return b.model()
}

// FusedGPT2 builds GPT2 with a cache out of EmbedLayerNormalization, Attention,
// SkipLayerNormalization and FastGelu, as ONNX Runtime's tool for transformers
// makes it:
//
//	input_ids [batch, sequence], attention_mask [batch, past + sequence] int64 → logits [batch, sequence, Vocab]
//
// and for every layer i the input past_i and the output present_i, keys and
// values stacked: [2, batch, heads, past, size]. Defaults and weights are those
// of GPT2.
func FusedGPT2(s Size) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 32})
	b := newBuilder("gpt2", s)
	size := s.Width / s.Heads
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", totalDim)
	var past, present ins
	for i := range s.Layers {
		past = append(past, b.input(fmt.Sprintf("past_%d", i), graph.Float32, 2, "batch", s.Heads, pastDim, size))
	}
	norm := graph.FloatAttr("epsilon", 1e-5)
	var table, places, positions, keep *graph.Value
	// x is the residual stream, nil before the embeddings are summed up; y and
	// bias are what the last module has still to add to it. enter is the norm
	// of their sum, which is the stream from there on.
	var x, y, bias *graph.Value
	enter := func(name string, last bool) (h *graph.Value) {
		b.in(func() {
			w, shift := b.weight("weight", 1, 0.1, s.Width), b.weight("bias", 0, 0.1, s.Width)
			op, inputs, outputs := "SkipLayerNormalization", ins{x, y, w, shift, bias}, []string{"/" + b.path("output_0"), "", "", "/" + b.path("output_3")}
			switch {
			case x == nil:
				op, inputs = "EmbedLayerNormalization", ins{b.cast(ids, graph.Int32), nil, table, places, nil, w, shift, nil, positions}
				outputs = []string{"/" + b.path("output_0"), "", "/" + b.path("output_2")}
			case y == nil:
				h = b.op("LayerNormalization", ins{x, w, shift}, graph.IntAttr("axis", -1), norm)
				return
			}
			if last {
				outputs = outputs[:1]
			}
			out := b.g.NewNode(microsoft, op, "/"+b.path(op), inputs, outputs, norm).Outputs()
			if h = out[0]; !last {
				x, y = out[len(out)-1], nil
			}
		}, "%s", name)
		return h
	}
	// module writes a module behind its norm; where it is left out, the sum
	// waits for the next one's.
	module := func(kind string, layer int, name string, f func(h *graph.Value) (out, bias *graph.Value)) {
		stream, waiting, lacking := x, y, bias
		out, last := f(enter(name, false))
		if b.lacks(kind, layer) {
			x, y, bias = stream, waiting, lacking
		} else {
			y, bias = out, last
		}
	}
	linear := func(name string, x *graph.Value, in, out int, gain float64) (y, bias *graph.Value) {
		y = b.linear(name, x, in, out, gain, 0)
		b.in(func() { bias = b.weight("bias", 0, 0.1, out) }, "%s", name)
		return y, bias
	}
	b.m.SetOpset(microsoft, 1)
	b.in(func() {
		first := 0
		for first < s.Layers-1 && b.lacks("A", first) {
			first++
		}
		from := b.dimOf(axis(past[first], 3))
		positions = b.cast(b.unsqueeze(b.op("Range", ins{from, b.add(b.dimOf(axis(ids, 1)), from), b.int(1)}), 0), graph.Int32)
		positions = b.op("Expand", ins{positions, b.op("Shape", ins{ids})})
		keep = b.cast(attention, graph.Int32)
		table, places = b.weight("wte.weight", 0, 0.5, s.Vocab, s.Width), b.weight("wpe.weight", 0, 0.3, s.Length, s.Width)
		for i := range s.Layers {
			b.in(func() {
				module("A", i, "ln_1", func(h *graph.Value) (out, bias *graph.Value) {
					b.in(func() {
						w := b.weight("c_attn.weight", 0, 1.3*fan(s.Width), s.Width, 3*s.Width)
						y := b.fused("Attention", ins{h, w, b.weight("c_attn.bias", 0, 0.1, 3*s.Width), keep, past[i]}, 2,
							graph.IntAttr("num_heads", int64(s.Heads)), graph.IntAttr("unidirectional", 1), graph.FloatAttr("mask_filter_value", lowest))
						present = append(present, y[1])
						out, bias = linear("c_proj", y[0], s.Width, s.Width, 2*b.gain())
					}, "attn")
					return out, bias
				})
				module("M", i, "ln_2", func(h *graph.Value) (out, bias *graph.Value) {
					b.in(func() {
						h, first := linear("c_fc", h, s.Width, s.Hidden, 1)
						h = b.fused("FastGelu", ins{h, first}, 1)[0]
						out, bias = linear("c_proj", h, s.Hidden, s.Width, 2*b.gain())
					}, "mlp")
					return out, bias
				})
			}, "h.%d", i)
		}
		x = enter("ln_f", true)
	}, "transformer")
	b.output("logits", b.matmul(x, b.transpose(table, 1, 0)), graph.Float32, "batch", "sequence", s.Vocab)
	for i, p := range present {
		if !b.lacks("A", i) {
			b.output(fmt.Sprintf("present_%d", i), p, graph.Float32, 2, "batch", s.Heads, totalDim, size)
		}
	}
	return b.model()
}

// FusedLLaMA builds LLaMA with GroupQueryAttention and
// SkipSimplifiedLayerNormalization, in the form of ONNX Runtime's generation
// tools:
//
//	input_ids [batch, sequence], attention_mask [batch, past + sequence] → logits [batch, sequence, Vocab]
//
// and a cache as LLaMA has it. Tokens that do not count must come last.
// Heads are multiples of 16 wide, which ONNX Runtime asks for. Defaults are
// those of LLaMA, with a width of 64 and 32 positions; a LLaMA of one size has
// the same weights.
func FusedLLaMA(s Size) *graph.Model {
	if s.Heads == 0 && s.KVHeads == 0 {
		s.Heads, s.KVHeads = 4, 2
	}
	s = s.or(Size{Layers: 3, Width: 64, Heads: 4, Hidden: 48, Vocab: 40, Length: 32})
	size := s.Width / s.Heads
	b := newBuilder("llama", s)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", totalDim)
	c := b.caches(s.Layers, s.KVHeads, size)
	norm := graph.FloatAttr("epsilon", 1e-5)
	// x is the residual stream and y, where it is not nil, what the last module
	// has still to add to it. enter is the norm of their sum, which is the
	// stream from there on.
	var x, y *graph.Value
	enter := func(name string, last bool) (h *graph.Value) {
		b.in(func() {
			w := b.weight("weight", 1, 0.1, s.Width)
			if y == nil {
				h = b.op("SimplifiedLayerNormalization", ins{x, w}, graph.IntAttr("axis", -1), norm, graph.IntAttr("stash_type", 1))
				return
			}
			if last {
				h = b.fused("SkipSimplifiedLayerNormalization", ins{x, y, w}, 1, norm)[0]
				return
			}
			n := b.g.NewNode(microsoft, "SkipSimplifiedLayerNormalization", "/"+b.path("SkipLayerNorm"), ins{x, y, w},
				[]string{"/" + b.path("output_0"), "", "", "/" + b.path("output_3")}, norm)
			h, x, y = n.Output(0), n.Output(3), nil
		}, "%s", name)
		return h
	}
	// module writes a module behind its norm; where it is left out, the sum
	// waits for the next one's.
	module := func(kind string, layer int, name string, f func(h *graph.Value) *graph.Value) {
		stream, waiting := x, y
		out := f(enter(name, false))
		if b.lacks(kind, layer) {
			x, y = stream, waiting
		} else {
			y = out
		}
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
		x = b.op("Gather", ins{b.weight("embed_tokens.weight", 0, 0.5, s.Vocab, s.Width), ids})
		for i := range s.Layers {
			b.in(func() {
				module("A", i, "input_layernorm", func(h *graph.Value) *graph.Value {
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
					return h
				})
				module("M", i, "post_attention_layernorm", func(h *graph.Value) *graph.Value {
					b.in(func() {
						gate := b.linear("gate_proj", h, s.Width, s.Hidden, 1.5, 0)
						gate = b.mul(gate, b.op("Sigmoid", ins{gate}))
						h = b.mul(gate, b.linear("up_proj", h, s.Width, s.Hidden, 1, 0))
						h = b.linear("down_proj", h, s.Hidden, s.Width, 2*b.gain(), 0)
					}, "mlp")
					return h
				})
			}, "layers.%d", i)
		}
		h = enter("final_norm", true)
	}, "model")
	b.output("logits", b.linear("lm_head", h, s.Width, s.Vocab, 2, 0), graph.Float32, "batch", "sequence", s.Vocab)
	b.presents(c, s.KVHeads, size)
	return b.model()
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
