package testmodels

import (
	"math"

	"github.com/onnx-lathe/lathe/graph"
)

// T5 builds an encoder and a decoder in one graph in the form of Hugging
// Face's T5ForConditionalGeneration: RMS norms, no biases, an embedding table
// that all share, and a relative position bias that the first layer computes
// for all.
//
//	input_ids, attention_mask [batch, encoder_sequence],
//	decoder_input_ids [batch, sequence] → logits [batch, sequence, Vocab]
//
// By default 2 layers in each half of width 32, 2 heads, an MLP of 64 and 40
// tokens.
func T5(s Size) *graph.Model {
	s = s.or(Size{Layers: 2, Width: 32, Heads: 2, Hidden: 64, Vocab: 40})
	b := newBuilder("t5", s)
	ids := b.input("input_ids", graph.Int64, "batch", "encoder_sequence")
	attention := b.input("attention_mask", graph.Int64, "batch", "encoder_sequence")
	targets := b.input("decoder_input_ids", graph.Int64, "batch", "sequence")
	table := b.weight("shared.weight", 0, 0.5, s.Vocab, s.Width)
	var x, states *graph.Value
	b.in(func() {
		x = b.op("Gather", ins{table, ids})
		far := b.keepMask(attention)
		places := b.op("Range", ins{b.int(0), b.dimOf(axis(ids, 1)), b.int(1)})
		bias := b.add(b.relativeBias(places, s.Heads, true), far)
		for i := range s.Layers {
			b.in(func() {
				x = b.module("A", i, x, b.t5Attention("layer.0/SelfAttention", x, nil, bias, s))
				x = b.module("M", i, x, b.t5MLP("layer.1", x, s))
			}, "block.%d", i)
		}
		states = b.rmsNorm("final_layer_norm", x, s.Width)
	}, "encoder")
	b.in(func() {
		x = b.op("Gather", ins{table, targets})
		far := b.keepMask(attention)
		places := b.op("Range", ins{b.int(0), b.dimOf(axis(targets, 1)), b.int(1)})
		bias := b.add(b.relativeBias(places, s.Heads, false), b.futureMask(places, places))
		for i := range s.Layers {
			b.in(func() {
				x = b.module("A", s.Layers+i, x, b.t5Attention("layer.0/SelfAttention", x, nil, bias, s))
				x = b.module("X", s.Layers+i, x, b.t5Attention("layer.1/EncDecAttention", x, states, far, s))
				x = b.module("M", s.Layers+i, x, b.t5MLP("layer.2", x, s))
			}, "block.%d", i)
		}
		x = b.rmsNorm("final_layer_norm", x, s.Width)
	}, "decoder")
	b.in(func() {
		x = b.mul(x, b.float(fan(s.Width)))
		x = b.matmul(x, b.transpose(table, 1, 0))
	}, "lm_head")
	b.output("logits", x, graph.Float32, "batch", "sequence", s.Vocab)
	return b.model()
}

// t5Attention is attention to states, or to x itself where states is nil, and
// the sum with x.
func (b *builder) t5Attention(name string, x, states, bias *graph.Value, s Size) *graph.Value {
	size := s.Width / s.Heads
	b.in(func() {
		h := b.rmsNorm("layer_norm", x, s.Width)
		if states == nil {
			states = h
		}
		// The scores are not divided by √size: the weights are that small.
		q := b.heads(b.linear("q", h, s.Width, s.Width, 1.5*fan(size), 0), s.Heads, size)
		k := b.heads(b.linear("k", states, s.Width, s.Width, 1.5, 0), s.Heads, size)
		v := b.heads(b.linear("v", states, s.Width, s.Width, 1, 0), s.Heads, size)
		scores := b.add(b.matmul(q, b.transpose(k, 0, 1, 3, 2)), bias)
		y := b.merge(b.matmul(b.op("Softmax", ins{scores}, graph.IntAttr("axis", -1)), v), s.Width)
		x = b.add(x, b.linear("o", y, s.Width, s.Width, 2*b.gain(), 0))
	}, "%s", name)
	return x
}

func (b *builder) t5MLP(name string, x *graph.Value, s Size) *graph.Value {
	b.in(func() {
		h := b.rmsNorm("layer_norm", x, s.Width)
		h = b.op("Relu", ins{b.linear("DenseReluDense/wi", h, s.Width, s.Hidden, 1.4, 0)})
		x = b.add(x, b.linear("DenseReluDense/wo", h, s.Hidden, s.Width, 2*b.gain(), 0))
	}, "%s", name)
	return x
}

// futureMask hides the keys that come after a query: queries [T] and keys [S]
// int64 become [1, 1, T, S], 0 or lowest.
func (b *builder) futureMask(queries, keys *graph.Value) *graph.Value {
	later := b.op("Greater", ins{b.unsqueeze(keys, 0), b.unsqueeze(queries, 1)})
	return b.unsqueeze(b.op("Where", ins{later, b.float(lowest), b.float(0)}), 0, 1)
}

// relativeBias is T5's learnt bias [1, heads, T, T] by the bucketed distance
// from query to key: places up to a quarter of the buckets (half of them in
// one direction) have one each, those further away share them by the
// logarithm of the distance. Raffel et al. 2020, section 2.1.
func (b *builder) relativeBias(places *graph.Value, heads int, both bool) (y *graph.Value) {
	const all, furthest = 8, 20
	b.in(func() {
		distance := b.op("Sub", ins{b.unsqueeze(places, 0), b.unsqueeze(places, 1)})
		buckets := all
		var side *graph.Value
		if both {
			buckets = all / 2
			right := b.op("Greater", ins{distance, b.int(0)})
			side = b.mul(b.cast(right, graph.Int64), b.int(int64(buckets)))
			distance = b.op("Abs", ins{distance})
		} else {
			zeros := b.op("ConstantOfShape", ins{b.op("Shape", ins{distance})}, graph.TensorAttr("value", graph.Int64Tensor([]int64{1}, []int64{0})))
			distance = b.op("Neg", ins{b.op("Min", ins{distance, zeros})})
		}
		exact := buckets / 2
		near := b.op("Less", ins{distance, b.int(int64(exact))})
		ratio := b.op("Log", ins{b.op("Div", ins{b.cast(distance, graph.Float32), b.float(float64(exact))})})
		ratio = b.op("Div", ins{ratio, b.float(math.Log(furthest / float64(exact)))})
		far := b.cast(b.mul(ratio, b.float(float64(buckets-exact))), graph.Int64)
		far = b.add(far, b.int(int64(exact)))
		last := b.op("ConstantOfShape", ins{b.op("Shape", ins{far})}, graph.TensorAttr("value", graph.Int64Tensor([]int64{1}, []int64{int64(buckets - 1)})))
		bucket := b.op("Where", ins{near, distance, b.op("Min", ins{far, last})})
		if side != nil {
			bucket = b.add(side, bucket)
		}
		y = b.op("Gather", ins{b.weight("relative_attention_bias.weight", 0, 0.7, all, heads), bucket})
		y = b.unsqueeze(b.transpose(y, 2, 0, 1), 0)
	}, "block.0/layer.0/SelfAttention")
	return y
}
