package testmodels

import (
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// GPT2Options chooses between the forms that GPT-2 exports come in.
type GPT2Options struct {
	Cache   bool // past_key_values inputs and present outputs
	Merged  bool // an If on use_cache_branch between a branch that reads the cache and one that starts it
	ErfGELU bool // the exact GELU in place of the tanh form
	Untied  bool // a projection to the vocabulary of its own
}

// GPT2 builds a pre-LN decoder in the form of Hugging Face's GPT2LMHeadModel:
// one Gemm for queries, keys and values, taken apart by Split, and a stored
// causal mask.
//
//	input_ids [batch, sequence] → logits [batch, sequence, Vocab]
//
// With a cache there are also the inputs attention_mask [batch, past +
// sequence] and, for every layer i, past_key_values.i.key and .value [batch,
// heads, past, size], and the outputs present.i.key and .value. A merged model
// has the input use_cache_branch [1] bool too.
//
// By default 3 layers of width 32, 2 heads, an MLP of 64, 40 tokens and 32
// positions.
func GPT2(s Size, o GPT2Options) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Vocab: 40, Length: 32})
	b := newBuilder("gpt2", s)
	size := s.Width / s.Heads
	ids := b.input("input_ids", graph.Int64, "batch", "sequence")
	if !o.Cache && !o.Merged {
		b.output("logits", b.gpt2(ids, nil, new(cache), s, o), graph.Float32, "batch", "sequence", s.Vocab)
		return b.model()
	}
	mask := b.input("attention_mask", graph.Int64, "batch", totalDim)
	c := b.caches(s.Layers, s.Heads, size)
	if !o.Merged {
		b.output("logits", b.gpt2(ids, mask, &c, s, o), graph.Float32, "batch", "sequence", s.Vocab)
		b.presents(c, s.Heads, size)
		return b.model()
	}
	use := b.input("use_cache_branch", graph.Bool, 1)
	names := []string{"/If_output_0"}
	for i := range s.Layers {
		if !b.lacks("A", i) {
			names = append(names, fmt.Sprintf("/If_output_%d", 1+2*i), fmt.Sprintf("/If_output_%d", 2+2*i))
		}
	}
	n := b.g.NewNode("", "If", "/If", ins{use}, names)
	branch := func(name string, c cache) {
		b.g = n.NewSubgraph(name)
		b.g.AddOutput(b.gpt2(ids, mask, &c, s, o), declare(graph.Float32, []any{"batch", "sequence", s.Vocab}))
		for i, p := range c.present {
			if b.lacks("A", i) {
				continue
			}
			for _, v := range []*graph.Value{p.key, p.value} {
				b.g.AddOutput(v, declare(graph.Float32, []any{"batch", s.Heads, totalDim, size}))
			}
		}
		n.SetAttr(graph.GraphAttr(name, b.g))
		b.g = b.m.Graph
	}
	branch("then_branch", c)
	branch("else_branch", cache{fresh: true})
	b.output("logits", n.Output(0), graph.Float32, "batch", "sequence", s.Vocab)
	at := 1
	for i := range s.Layers {
		c.present = append(c.present, pair{})
		if !b.lacks("A", i) {
			c.present[i] = pair{n.Output(at), n.Output(at + 1)}
			at += 2
		}
	}
	b.presents(c, s.Heads, size)
	return b.model()
}

// gpt2 is the model from tokens to logits; mask is the attention mask that
// came with the tokens, or nil.
func (b *builder) gpt2(ids, mask *graph.Value, c *cache, s Size, o GPT2Options) *graph.Value {
	var x, table *graph.Value
	b.in(func() {
		from, to := b.int(0), b.dimOf(axis(ids, 1))
		if len(c.past) > 0 {
			from = b.length(c)
			to = b.add(to, from)
		}
		if mask != nil {
			mask = b.keepMask(mask)
		}
		positions := b.unsqueeze(b.op("Range", ins{from, to, b.int(1)}), 0)
		ids = b.reshape(ids, fixed(-1), axis(ids, 1))
		table = b.weight("wte.weight", 0, 0.5, s.Vocab, s.Width)
		places := b.weight("wpe.weight", 0, 0.3, s.Length, s.Width)
		x = b.add(b.op("Gather", ins{table, ids}), b.op("Gather", ins{places, positions}))
		causal := b.causalMask(s.Length)
		for i := range s.Layers {
			b.in(func() {
				h := b.layerNorm("ln_1", x, s.Width, 1e-5)
				b.in(func() { h = b.gpt2Attention(h, mask, causal, c, i, s) }, "attn")
				x = b.module("A", i, x, b.add(h, x))
				h = b.layerNorm("ln_2", x, s.Width, 1e-5)
				b.in(func() {
					h = b.gelu(b.conv1D("c_fc", h, s.Width, s.Hidden, 1), !o.ErfGELU)
					h = b.conv1D("c_proj", h, s.Hidden, s.Width, 2*b.gain())
				}, "mlp")
				x = b.module("M", i, x, b.add(x, h))
			}, "h.%d", i)
		}
		x = b.layerNorm("ln_f", x, s.Width, 1e-5)
	}, "transformer")
	b.in(func() {
		if o.Untied {
			table = b.weight("weight", 0, 2*fan(s.Width), s.Vocab, s.Width)
		}
		x = b.matmul(x, b.transpose(table, 1, 0))
	}, "lm_head")
	return x
}

func (b *builder) gpt2Attention(x, mask, causal *graph.Value, c *cache, layer int, s Size) *graph.Value {
	size, width := s.Width/s.Heads, int64(s.Width)
	qkv := b.conv1D("c_attn", x, s.Width, 3*s.Width, 1.3)
	part := b.nodes("Split", ins{qkv, b.ints(width, width, width)}, 3, graph.IntAttr("axis", 2))
	q := b.heads(part[0], s.Heads, size)
	k, v := b.extend(c, layer, b.heads(part[1], s.Heads, size), b.heads(part[2], s.Heads, size))
	scores := b.matmul(q, b.transpose(k, 0, 1, 3, 2))
	scores = b.op("Div", ins{scores, b.op("Sqrt", ins{b.float(float64(size))})})
	// Rows S−T to S and columns 0 to S of the stored mask.
	keys, queries := b.dimOf(axis(k, 2)), b.dimOf(axis(q, 2))
	to := b.unsqueeze(keys, 0)
	rows := b.slice(causal, b.unsqueeze(b.op("Sub", ins{keys, queries}), 0), to, 2)
	scores = b.op("Where", ins{b.slice(rows, b.ints(0), to, 3), scores, b.float(lowest)})
	if mask != nil {
		scores = b.add(scores, mask)
	}
	y := b.matmul(b.op("Softmax", ins{scores}, graph.IntAttr("axis", -1)), v)
	return b.conv1D("c_proj", b.merge(y, s.Width), s.Width, s.Width, 2*b.gain())
}

// conv1D is GPT-2's linear layer on x [B, T, in]: a Gemm over all tokens.
func (b *builder) conv1D(name string, x *graph.Value, in, out int, gain float64) (y *graph.Value) {
	b.in(func() {
		flat := b.reshape(x, fixed(-1), fixed(in))
		w := b.weight("weight", 0, gain*fan(in), in, out)
		y = b.op("Gemm", ins{flat, w, b.weight("bias", 0, 0.1, out)},
			graph.FloatAttr("alpha", 1), graph.FloatAttr("beta", 1))
		y = b.reshape(y, axis(x, 0), axis(x, 1), fixed(out))
	}, "%s", name)
	return y
}

// causalMask stores a bool matrix [1, 1, n, n], true on and below the
// diagonal.
func (b *builder) causalMask(n int) *graph.Value {
	raw := make([]byte, n*n)
	for i := range n {
		for j := range i + 1 {
			raw[i*n+j] = 1
		}
	}
	t, err := graph.NewTensor(graph.Bool, []int64{1, 1, int64(n), int64(n)}, raw)
	if err != nil {
		panic(err)
	}
	return b.init("attn.bias", t)
}

// cache holds a decoder's keys and values, one pair a layer. A model without
// a cache has no pairs.
type cache struct {
	past, present []pair
	fresh         bool // starts a cache: presents without pasts
	open          *cache
}

type pair struct{ key, value *graph.Value }

// Names of the dims of a cache, as the usual exporters write them.
const (
	pastDim  = "past_sequence_length"
	totalDim = "past_sequence_length + sequence"
)

// pastPrefix is what the names of a cache's inputs begin with.
const pastPrefix = "past_key_values."

// length is the number of tokens in a cache, by the first layer that is there.
func (b *builder) length(c *cache) *graph.Value {
	first := 0
	for first < len(c.past)-1 && b.lacks("A", first) {
		first++
	}
	return b.dimOf(axis(c.past[first].key, 2))
}

// caches adds the inputs of a cache.
func (b *builder) caches(layers, heads, size int) (c cache) {
	for i := range layers {
		names := pastNames(i)
		c.past = append(c.past, pair{
			b.input(names[0], graph.Float32, "batch", heads, pastDim, size),
			b.input(names[1], graph.Float32, "batch", heads, pastDim, size),
		})
	}
	return c
}

// pastNames are the inputs of a layer's cache, key and value.
func pastNames(layer int) [2]string {
	return [2]string{fmt.Sprintf(pastPrefix+"%d.key", layer), fmt.Sprintf(pastPrefix+"%d.value", layer)}
}

// extend appends k and v [B, heads, T, size] of a layer to its cache and
// returns the whole.
func (b *builder) extend(c *cache, layer int, k, v *graph.Value) (key, value *graph.Value) {
	if len(c.past) > 0 {
		p := c.past[layer]
		k, v = b.concat(-2, p.key, k), b.concat(-2, p.value, v)
	} else if !c.fresh {
		return k, v
	}
	c.present = append(c.present, pair{k, v})
	return k, v
}

// presents adds the outputs of a cache.
func (b *builder) presents(c cache, heads, size int) {
	for i, p := range c.present {
		if b.lacks("A", i) {
			continue
		}
		at := fmt.Sprintf("present.%d.", i)
		b.output(at+"key", p.key, graph.Float32, "batch", heads, totalDim, size)
		b.output(at+"value", p.value, graph.Float32, "batch", heads, totalDim, size)
	}
}
