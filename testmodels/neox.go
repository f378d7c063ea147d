package testmodels

import "github.com/onnx-lathe/lathe/graph"

// NeoXOptions chooses between the models whose attention and MLP stand side
// by side.
type NeoXOptions struct {
	SharedNorm bool // one norm for both branches, as in GPT-J and Phi
}

// NeoX builds a decoder with parallel attention and MLP, x + attention(norm₁(x))
// + MLP(norm₂(x)), and rotary positions on the first half of every head, in
// the form of Hugging Face's GPTNeoXForCausalLM:
//
//	input_ids [batch, sequence] → logits [batch, sequence, Vocab]
//
// By default 3 layers of width 32, 2 heads, an MLP of 64 and 40 tokens.
func NeoX(s Size, o NeoXOptions) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40})
	size := s.Width / s.Heads
	b := newBuilder("neox", s)
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	var x *graph.Value
	b.in(func() {
		x = b.op("Gather", ins{b.weight("embed_in.weight", 0, 0.5, s.Vocab, s.Width), ids})
		places := b.op("Range", ins{b.int(0), b.dimOf(axis(ids, 1)), b.int(1)})
		mask := b.futureMask(places, places)
		cos, sin := b.rotaryAngles(b.positions(places, ids), size/2)
		for i := range s.Layers {
			b.in(func() {
				h := b.layerNorm("input_layernorm", x, s.Width, 1e-5)
				g := h
				if !o.SharedNorm {
					g = b.layerNorm("post_attention_layernorm", x, s.Width, 1e-5)
				}
				b.in(func() {
					qkv := b.linear("query_key_value", h, s.Width, 3*s.Width, 1.3, 0.1)
					qkv = b.heads(qkv, s.Heads, 3*size)
					n := int64(size)
					part := b.nodes("Split", ins{qkv, b.ints(n, n, n)}, 3, graph.IntAttr("axis", -1))
					q, k := b.rotateFirst(part[0], cos, sin, size/2), b.rotateFirst(part[1], cos, sin, size/2)
					h = b.merge(b.attend(q, k, part[2], mask, size), s.Width)
					h = b.linear("dense", h, s.Width, s.Width, 2*b.gain(), 0.1)
				}, "attention")
				b.in(func() {
					g = b.gelu(b.linear("dense_h_to_4h", g, s.Width, s.Hidden, 1, 0.1), false)
					g = b.linear("dense_4h_to_h", g, s.Hidden, s.Width, 2*b.gain(), 0.1)
				}, "mlp")
				switch {
				case !b.lacks("A", i) && !b.lacks("M", i):
					x = b.add(b.add(g, h), x)
				case !b.lacks("M", i):
					x = b.add(g, x)
				case !b.lacks("A", i):
					x = b.add(h, x)
				}
			}, "layers.%d", i)
		}
		x = b.layerNorm("final_layer_norm", x, s.Width, 1e-5)
	}, "gpt_neox")
	b.output("logits", b.linear("embed_out", x, s.Width, s.Vocab, 2, 0), graph.Float32, "batch", "sequence", s.Vocab)
	return b.model()
}

// rotateFirst turns the first n elements of every head of x [B, H, T, size].
func (b *builder) rotateFirst(x, cos, sin *graph.Value, n int) *graph.Value {
	turn := b.slice(x, b.ints(0), b.ints(int64(n)), 3)
	pass := b.slice(x, b.ints(int64(n)), b.ints(end), 3)
	return b.concat(-1, b.rotate(turn, cos, sin, n), pass)
}
