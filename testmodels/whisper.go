package testmodels

import (
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// WhisperOptions chooses between the files that an encoder-decoder comes in.
type WhisperOptions struct {
	// Decoder is the decoder alone, with the cache of its own tokens and of
	// the encoder's states.
	Decoder bool
	// Merged is that decoder with an If on use_cache_branch between a branch
	// that starts the caches and one that reads them.
	Merged bool
}

// Whisper builds a pre-LN encoder on spectrograms, behind two convolutions,
// and a decoder with cross-attention, in the form of Hugging Face's
// WhisperForConditionalGeneration: heads are folded into the batch, keys have
// no bias.
//
//	input_features [batch, Length, frames], decoder_input_ids [batch, sequence] → logits [batch, sequence, Vocab]
//
// The decoder alone has the inputs input_ids [batch, sequence] and
// encoder_hidden_states [batch, encoder_sequence, Width], and for every layer i
// past_key_values.i.decoder.key and .value and .encoder.key and .value, the
// last two of which it attends to as they are. A merged one has outputs for
// all of them; the branch that reads the encoder's caches gives dummies in
// their place, as exporters write it.
//
// By default 2 layers in each half of width 32, 2 heads, an MLP of 64, 40
// tokens and 16 bands.
func Whisper(s Size, o WhisperOptions) *graph.Model {
	s = s.or(Size{Layers: 2, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 16})
	b := newBuilder("whisper", s)
	if o.Decoder || o.Merged {
		b.whisperDecoderFile(s, o)
		m := b.model()
		if v := m.Graph.Value("encoder_hidden_states"); !o.Merged {
			m.Graph.RemoveInput(v) // its keys and values are in the cache
		}
		return m
	}
	features := b.input("input_features", graph.Float32, "batch", s.Length, "frames")
	ids := b.input("decoder_input_ids", graph.Int64, "batch", "sequence")
	var states *graph.Value
	b.in(func() {
		x := features
		for i, in := range []int{s.Length, s.Width} {
			b.in(func() {
				w := b.weight("weight", 0, 1.4*fan(3*in), s.Width, in, 3)
				x = b.op("Conv", ins{x, w, b.weight("bias", 0, 0.1, s.Width)}, graph.IntsAttr("dilations", 1), graph.IntAttr("group", 1),
					graph.IntsAttr("kernel_shape", 3), graph.IntsAttr("pads", 1, 1), graph.IntsAttr("strides", int64(i+1)))
				x = b.gelu(x, false)
			}, "conv%d", i+1)
		}
		x = b.transpose(x, 0, 2, 1)
		places := b.weight("embed_positions.weight", 0, 0.3, 4*s.Length, s.Width)
		x = b.add(x, b.slice(places, b.ints(0), b.unsqueeze(b.dimOf(axis(x, 1)), 0), 0))
		for i := range s.Layers {
			b.in(func() {
				x = b.module("A", i, x, b.whisperAttention("self_attn", x, nil, nil, nil, s))
				x = b.module("M", i, x, b.whisperMLP(x, s))
			}, "layers.%d", i)
		}
		states = b.layerNorm("layer_norm", x, s.Width, 1e-5)
	}, "model/encoder")
	b.output("logits", b.whisperDecoder(ids, states, nil, s.Layers, s), graph.Float32, "batch", "sequence", s.Vocab)
	return b.model()
}

// sides are the two caches of a decoder's layer.
var sides = []string{"decoder", "encoder"}

func (b *builder) whisperDecoderFile(s Size, o WhisperOptions) {
	size := s.Width / s.Heads
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	states := b.input("encoder_hidden_states", graph.Float32, "batch", "encoder_sequence", s.Width)
	length := map[string]string{"decoder": pastDim, "encoder": "encoder_sequence_past"}
	total := map[string]string{"decoder": totalDim, "encoder": "encoder_sequence"}
	kinds := map[string]string{"decoder": "A", "encoder": "X"}
	past := map[string]*cache{"decoder": {}, "encoder": {}}
	for i := range s.Layers {
		for _, side := range sides {
			name := fmt.Sprintf(pastPrefix+"%d.%s.", i, side)
			past[side].past = append(past[side].past, pair{
				b.input(name+"key", graph.Float32, "batch", s.Heads, length[side], size),
				b.input(name+"value", graph.Float32, "batch", s.Heads, length[side], size),
			})
		}
	}
	// each calls f for every cache that is there, in the order of the outputs.
	each := func(f func(i int, side, name string)) {
		for i := range s.Layers {
			for _, side := range sides {
				if !b.lacks(kinds[side], i) {
					f(i, side, fmt.Sprintf("present.%d.%s.", i, side))
				}
			}
		}
	}
	if !o.Merged {
		b.output("logits", b.whisperDecoder(ids, states, past, 0, s), graph.Float32, "batch", "sequence", s.Vocab)
		each(func(i int, side, name string) {
			if side == "decoder" {
				p := past[side].present[i]
				b.output(name+"key", p.key, graph.Float32, "batch", s.Heads, total[side], size)
				b.output(name+"value", p.value, graph.Float32, "batch", s.Heads, total[side], size)
			}
		})
		return
	}
	use := b.input("use_cache_branch", graph.Bool, 1)
	names := []string{"/If_output_0"}
	each(func(int, string, string) {
		n := len(names)
		names = append(names, fmt.Sprintf("/If_output_%d", n), fmt.Sprintf("/If_output_%d", n+1))
	})
	n := b.g.NewNode("", "If", "/If", ins{use}, names)
	branch := func(name string, c map[string]*cache) {
		b.g = n.NewSubgraph(name)
		b.g.AddOutput(b.whisperDecoder(ids, states, c, 0, s), declare(graph.Float32, []any{"batch", "sequence", s.Vocab}))
		each(func(i int, side, _ string) {
			for k := range 2 {
				var v *graph.Value
				switch {
				case side == "encoder" && len(c[side].past) > 0:
					v = b.constant(graph.Float32Tensor([]int64{0, int64(s.Heads), 1, int64(size)}, nil))
				case k == 0:
					v = c[side].present[i].key
				default:
					v = c[side].present[i].value
				}
				b.g.AddOutput(v, declare(graph.Float32, []any{"batch_or_0", s.Heads, total[side], size}))
			}
		})
		n.SetAttr(graph.GraphAttr(name, b.g))
		b.g = b.m.Graph
	}
	branch("then_branch", past)
	branch("else_branch", map[string]*cache{"decoder": {fresh: true}, "encoder": {fresh: true}})
	b.output("logits", n.Output(0), graph.Float32, "batch", "sequence", s.Vocab)
	at := 1
	each(func(i int, side, name string) {
		b.output(name+"key", n.Output(at), graph.Float32, "batch_or_0", s.Heads, total[side], size)
		b.output(name+"value", n.Output(at+1), graph.Float32, "batch_or_0", s.Heads, total[side], size)
		at += 2
	})
}

// whisperDecoder goes from tokens to logits; its layers count from first. c
// holds the caches by side, or is nil.
func (b *builder) whisperDecoder(ids, states *graph.Value, c map[string]*cache, first int, s Size) *graph.Value {
	own, far := new(cache), new(cache)
	if c != nil {
		own, far = c["decoder"], c["encoder"]
	}
	var x, table *graph.Value
	b.in(func() {
		from, to := b.int(0), b.dimOf(axis(ids, 1))
		if len(own.past) > 0 {
			from = b.length(own)
			to = b.add(to, from)
		}
		table = b.weight("embed_tokens.weight", 0, 0.5, s.Vocab, s.Width)
		places := b.weight("embed_positions.weight", 0, 0.3, 4*s.Length, s.Width)
		queries, keys := b.op("Range", ins{from, to, b.int(1)}), b.op("Range", ins{b.int(0), to, b.int(1)})
		x = b.add(b.op("Gather", ins{table, ids}), b.op("Gather", ins{places, queries}))
		mask := b.futureMask(queries, keys)
		for i := range s.Layers {
			b.in(func() {
				x = b.module("A", first+i, x, b.whisperAttention("self_attn", x, nil, mask, own.layer(i), s))
				own.keep()
				x = b.module("X", first+i, x, b.whisperAttention("encoder_attn", x, states, nil, far.layer(i), s))
				far.keep()
				x = b.module("M", first+i, x, b.whisperMLP(x, s))
			}, "layers.%d", i)
		}
		x = b.layerNorm("layer_norm", x, s.Width, 1e-5)
	}, "model/decoder")
	return b.matmul(x, b.transpose(table, 1, 0))
}

// layer is the part of c for one layer, as a cache of its own that keep takes
// back.
func (c *cache) layer(i int) *cache {
	c.open = &cache{fresh: c.fresh}
	if len(c.past) > 0 {
		c.open.past = c.past[i : i+1]
	}
	return c.open
}

func (c *cache) keep() { c.present = append(c.present, c.open.present...) }

// whisperAttention is attention to states, or to x itself where states is nil,
// behind a norm, and the sum with x. A cache of states is read as it is.
func (b *builder) whisperAttention(name string, x, states, mask *graph.Value, c *cache, s Size) *graph.Value {
	size := s.Width / s.Heads
	h := b.layerNorm(name+"_layer_norm", x, s.Width, 1e-5)
	b.in(func() {
		q := b.mul(b.linear("q_proj", h, s.Width, s.Width, 1.5, 0.1), b.float(fan(size)))
		from := states
		if from == nil {
			from = h
		}
		k := b.heads(b.linear("k_proj", from, s.Width, s.Width, 1.5, 0), s.Heads, size)
		v := b.heads(b.linear("v_proj", from, s.Width, s.Width, 1, 0.1), s.Heads, size)
		switch {
		case c == nil:
		case states != nil && len(c.past) > 0:
			k, v = c.past[0].key, c.past[0].value
		default:
			k, v = b.extend(c, 0, k, v)
		}
		// [B·heads, tokens, size]
		fold := func(x *graph.Value) *graph.Value { return b.reshape(x, fixed(-1), axis(x, 2), fixed(size)) }
		q = b.heads(q, s.Heads, size)
		scores := b.matmul(fold(q), b.transpose(fold(k), 0, 2, 1))
		if mask != nil {
			scores = b.add(b.reshape(scores, axis(q, 0), fixed(s.Heads), axis(q, 2), axis(k, 2)), mask)
			scores = b.reshape(scores, fixed(-1), axis(q, 2), axis(k, 2))
		}
		y := b.matmul(b.op("Softmax", ins{scores}, graph.IntAttr("axis", -1)), fold(v))
		y = b.merge(b.reshape(y, axis(q, 0), fixed(s.Heads), axis(q, 2), fixed(size)), s.Width)
		h = b.linear("out_proj", y, s.Width, s.Width, 2*b.gain(), 0.1)
	}, "%s", name)
	return b.add(x, h)
}

func (b *builder) whisperMLP(x *graph.Value, s Size) *graph.Value {
	h := b.layerNorm("final_layer_norm", x, s.Width, 1e-5)
	h = b.gelu(b.linear("fc1", h, s.Width, s.Hidden, 1, 0.1), false)
	return b.add(x, b.linear("fc2", h, s.Hidden, s.Width, 2*b.gain(), 0.1))
}
