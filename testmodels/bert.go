package testmodels

import "github.com/onnx-lathe/lathe/graph"

// BERTOptions chooses between the forms that BERT exports come in.
type BERTOptions struct {
	Functions bool // one local function, called for every layer
}

// BERT builds a post-LN encoder with a classifier, in the form of Hugging
// Face's BertForSequenceClassification:
//
//	input_ids, attention_mask, token_type_ids [batch, sequence] int64 → logits [batch, Classes]
//
// By default 3 layers of width 32, 2 heads, an MLP of 64, 40 tokens, 24
// positions and 3 classes.
func BERT(s Size, o BERTOptions) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 24, Classes: 3})
	b := newBuilder("bert", s)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", "sequence")
	types := b.input("token_type_ids", graph.Int64, "batch", "sequence")

	var x, mask *graph.Value
	b.in(func() {
		mask = b.keepMask(attention)
		b.in(func() {
			word := b.op("Gather", ins{b.weight("word_embeddings.weight", 0, 0.7, s.Vocab, s.Width), ids})
			kind := b.op("Gather", ins{b.weight("token_type_embeddings.weight", 0, 0.3, 2, s.Width), types})
			all := make([]int64, s.Length)
			for i := range all {
				all[i] = int64(i)
			}
			positions := b.init("position_ids", graph.Int64Tensor([]int64{1, int64(s.Length)}, all))
			used := b.slice(positions, b.ints(0), b.unsqueeze(b.dimOf(axis(ids, 1)), 0), 1)
			place := b.op("Gather", ins{b.weight("position_embeddings.weight", 0, 0.5, s.Length, s.Width), used})
			x = b.layerNorm("LayerNorm", b.add(b.add(word, kind), place), s.Width, 1e-12)
		}, "embeddings")
		for i := range s.Layers {
			b.in(func() {
				if !o.Functions || b.lacks("A", i) || b.lacks("M", i) { // a layer that differs gets no call
					x = b.bertLayer(x, mask, i, s)
					return
				}
				x = b.function("transformers.models.bert", "BertLayer", ins{x, mask}, func(args ins) ins {
					return ins{b.bertLayer(args[0], args[1], i, s)}
				})[0]
			}, "encoder/layer.%d", i)
		}
		b.in(func() {
			first := b.op("Gather", ins{x, b.int(0)}, graph.IntAttr("axis", 1))
			x = b.op("Tanh", ins{b.gemm("dense", first, s.Width, s.Width, 1)})
		}, "pooler")
	}, "bert")
	b.output("logits", b.gemm("classifier", x, s.Width, s.Classes, 1), graph.Float32, "batch", s.Classes)
	return b.model()
}

// bertLayer is attention and MLP on x [B, T, D], each followed by the norm of
// its sum with x.
func (b *builder) bertLayer(x, mask *graph.Value, layer int, s Size) *graph.Value {
	size := s.Width / s.Heads
	b.in(func() {
		var y *graph.Value
		b.in(func() {
			q := b.linear("query", x, s.Width, s.Width, 1.5, 0.1)
			k := b.heads(b.linear("key", x, s.Width, s.Width, 1.5, 0.1), s.Heads, size)
			v := b.heads(b.linear("value", x, s.Width, s.Width, 1, 0.1), s.Heads, size)
			y = b.merge(b.attend(b.heads(q, s.Heads, size), k, v, mask, size), s.Width)
		}, "self")
		b.in(func() {
			y = b.linear("dense", y, s.Width, s.Width, b.gain(), 0.1)
			x = b.module("A", layer, x, b.layerNorm("LayerNorm", b.add(y, x), s.Width, 1e-12))
		}, "output")
	}, "attention")
	var y *graph.Value
	b.in(func() {
		y = b.gelu(b.linear("dense", x, s.Width, s.Hidden, 1, 0.1), false)
	}, "intermediate")
	b.in(func() {
		y = b.linear("dense", y, s.Hidden, s.Width, 2*b.gain(), 0.1)
		x = b.module("M", layer, x, b.layerNorm("LayerNorm", b.add(y, x), s.Width, 1e-12))
	}, "output")
	return x
}

// keepMask turns attention [B, S] int64, 1 where a token counts, into what is
// added to scores: [B, 1, 1, S], 0 or lowest.
func (b *builder) keepMask(attention *graph.Value) *graph.Value {
	keep := b.cast(b.unsqueeze(b.unsqueeze(attention, 1), 2), graph.Float32)
	return b.mul(b.op("Sub", ins{b.float(1), keep}), b.float(lowest))
}
