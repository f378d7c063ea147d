package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// pairsOf pairs inputs past_key_values.i.part with outputs present.i.part.
func pairsOf(m *graph.Model, axis int) (pairs []CachePair) {
	for _, v := range m.Graph.Inputs() {
		if rest, ok := strings.CutPrefix(v.Name, "past_key_values."); ok {
			pairs = append(pairs, CachePair{v.Name, "present." + rest, axis})
		}
	}
	return pairs
}

// turnedCache is an attention of two heads of 8 that keeps its keys as [B, H,
// d, T]. Something that is no product reads its values too, and a product that
// is none of an attention its keys.
const turnedCache = `<ir_version: 8, opset_import: ["": 17]>
turned (int64[B,T] input_ids, float[B,2,8,P] past_key_values.0.key, float[B,2,P,8] past_key_values.0.value) =>
    (float[B,T,16] logits, float[B,2,8,S] present.0.key, float[B,2,S,8] present.0.value, float[B,2,8] sums, float[B,2,2,S] broad)
<float[2,8] two = {1,2,3,4,5,6,7,8,8,7,6,5,4,3,2,1}, float[16,16] table = {%s}, int64[4] split = {0,0,2,8}, int64[3] joined = {0,0,16}> {
    x = Gather (table, input_ids)
    h = Reshape (x, split)
    q = Transpose <perm = [0,2,1,3]> (h)
    k = Transpose <perm = [0,2,3,1]> (h)
    present.0.key = Concat <axis = -1> (past_key_values.0.key, k)
    present.0.value = Concat <axis = 2> (past_key_values.0.value, q)
    s = MatMul (q, present.0.key)
    broad = MatMul (two, present.0.key)
    p = Softmax <axis = -1> (s)
    y = MatMul (p, present.0.value)
    sums = ReduceSum <keepdims = 0> (present.0.value, axis)
    z = Transpose <perm = [0,2,1,3]> (y)
    logits = Reshape (z, joined)
}`

func turned(t testing.TB) *graph.Model {
	var table []string
	for i := range 256 {
		table = append(table, fmt.Sprintf("%.3f", math.Sin(float64(i*i))))
	}
	text := fmt.Sprintf(turnedCache, strings.Join(table, ","))
	text = strings.Replace(text, "int64[3] joined", "int64[1] axis = {2}, int64[3] joined", 1)
	for _, name := range []string{"past_key_values.0.key", "past_key_values.0.value", "present.0.key", "present.0.value"} {
		text = strings.ReplaceAll(text, name, `"`+name+`"`)
	}
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCacheInPlace: a session that keeps a cache gives the bits of one that is
// fed the presents of the run before, whether the cache grows in place or is
// copied, with any number of threads and over the borders of pages.
func TestCacheInPlace(t *testing.T) {
	size := func(heads, kv int) testmodels.Size {
		return testmodels.Size{Layers: 2, Width: 32, Heads: heads, KVHeads: kv, Hidden: 48, Vocab: 40, Length: 500, Seed: 3, Opset: 17}
	}
	merged := testmodels.GPT2(size(2, 0), testmodels.GPT2Options{Merged: true})
	for _, c := range []struct {
		name    string
		model   *graph.Model
		axes    []int // of keys and values where they are not 2
		growing int   // pairs that grow in place
	}{
		{"gpt2", testmodels.GPT2(size(2, 0), testmodels.GPT2Options{Cache: true}), nil, 4},
		{"llama", testmodels.LLaMA(size(4, 4), testmodels.LLaMAOptions{Cache: true}), nil, 4},
		{"grouped", testmodels.LLaMA(size(4, 2), testmodels.LLaMAOptions{Cache: true}), nil, 4},
		{"one head", testmodels.LLaMA(size(4, 1), testmodels.LLaMAOptions{Cache: true}), nil, 4},
		{"turned", turned(t), []int{3, 2}, 2},
		{"merged", merged, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			pairs := pairsOf(c.model, 2)
			if len(pairs) == 0 {
				t.Fatal("the model has no cache")
			}
			for i := range c.axes {
				pairs[i].Axis = c.axes[i]
			}
			for _, o := range []Options{{}, {NoFusion: true}} {
				fed, err := Compile(c.model, o)
				if err != nil {
					t.Fatal(err)
				}
				o.Cache = pairs
				p, err := Compile(c.model, o)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for _, k := range p.caches {
					if k.growing != nil {
						n++
					}
				}
				if o.NoFusion && n != 0 || !o.NoFusion && n != c.growing {
					t.Fatalf("%+v: %d pairs grow in place, want %d", o, n, c.growing)
				}
				reference := fed.NewSession(SessionOptions{Threads: 1})
				kept := map[string]*Session{"a thread": p.NewSession(SessionOptions{Threads: 1}), "two threads": p.NewSession(SessionOptions{Threads: 2})}
				for range 2 {
					for _, s := range kept {
						s.pool.dirty = true
						if err := s.Truncate(0); err != nil {
							t.Fatal(err)
						}
					}
					if err := followCache(fed, reference, kept, pairs, []int{7, 1, 1, 183, 1, 3, 190, 1, 1}); err != nil {
						t.Fatalf("%+v: %v", o, err)
					}
				}
			}
		})
	}
}

// followCache decodes chunks of tokens with a session that is fed its presents
// and with those that keep them, and compares the other outputs.
func followCache(fed *Program, reference *Session, kept map[string]*Session, pairs []CachePair, chunks []int) error {
	const batch = 2
	past := map[string]tensor.Tensor{}
	for _, p := range pairs {
		for _, port := range fed.Inputs() {
			if port.Name == p.Past {
				shape := []int{batch, int(port.Shape.Dims[1].N), 0, int(port.Shape.Dims[3].N)}
				if p.Axis == 3 {
					shape[2], shape[3] = int(port.Shape.Dims[2].N), 0
				}
				past[p.Past] = tensor.New(tensor.WithShape(shape...), tensor.WithBacking([]float32{}))
			}
		}
	}
	done := 0
	for _, n := range chunks {
		ids, mask, at := make([]int64, batch*n), make([]int64, batch*(done+n)), make([]int64, batch*n)
		for i := range ids {
			ids[i], at[i] = int64((done+i)*7%16), int64(done+i%n)
		}
		for i := range mask {
			mask[i] = 1
		}
		feeds := map[string]tensor.Tensor{}
		for _, port := range fed.Inputs() {
			switch port.Name {
			case "input_ids":
				feeds[port.Name] = tensor.New(tensor.WithShape(batch, n), tensor.WithBacking(ids))
			case "attention_mask":
				feeds[port.Name] = tensor.New(tensor.WithShape(batch, done+n), tensor.WithBacking(mask))
			case "position_ids":
				feeds[port.Name] = tensor.New(tensor.WithShape(batch, n), tensor.WithBacking(at))
			case "use_cache_branch":
				feeds[port.Name] = tensor.New(tensor.WithShape(1), tensor.WithBacking([]bool{done > 0}))
			}
		}
		all := map[string]tensor.Tensor{}
		for name, x := range feeds {
			all[name] = x
		}
		for name, x := range past {
			all[name] = x
		}
		want, err := reference.Run(context.Background(), all)
		if err != nil {
			return fmt.Errorf("%d tokens after %d: %w", n, done, err)
		}
		for name, s := range kept {
			got, err := s.Run(context.Background(), feeds)
			if err != nil {
				return fmt.Errorf("%s: %d tokens after %d: %w", name, n, done, err)
			}
			if len(got) != len(want)-len(pairs) {
				return fmt.Errorf("%s: %d outputs beside %d pairs, want %d", name, len(got), len(pairs), len(want))
			}
			if s.CacheLen() != done+n {
				return fmt.Errorf("%s: the cache has %d tokens, want %d", name, s.CacheLen(), done+n)
			}
			for out, x := range got {
				a, b := x.Data().([]float32), want[out].Data().([]float32)
				for i := range b {
					if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
						return fmt.Errorf("%s: %d tokens after %d: %s[%d] is %v, fed %v", name, n, done, out, i, a[i], b[i])
					}
				}
			}
		}
		for _, p := range pairs {
			past[p.Past] = want[p.Present]
		}
		done += n
	}
	return nil
}

// TestCacheTruncate: after some tokens are taken back, or a run was given up
// half-way, a session goes on as if they had never been.
func TestCacheTruncate(t *testing.T) {
	for _, o := range []Options{{}, {NoFusion: true}} {
		m := testmodels.GPT2(testmodels.Size{}, testmodels.GPT2Options{Cache: true})
		o.Cache = pairsOf(m, 2)
		p, err := Compile(m, o)
		if err != nil {
			t.Fatal(err)
		}
		decode := func(s *Session, ctx context.Context, ids ...int64) ([]float32, error) {
			mask := make([]int64, s.CacheLen()+len(ids))
			for i := range mask {
				mask[i] = 1
			}
			out, err := s.Run(ctx, map[string]tensor.Tensor{
				"input_ids":      tensor.New(tensor.WithShape(1, len(ids)), tensor.WithBacking(ids)),
				"attention_mask": tensor.New(tensor.WithShape(1, len(mask)), tensor.WithBacking(mask)),
			})
			if err != nil {
				return nil, err
			}
			return out["logits"].Data().([]float32), nil
		}
		a, b := p.NewSession(SessionOptions{Threads: 1}), p.NewSession(SessionOptions{Threads: 1})
		must := func(x []float32, err error) []float32 {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		ctx := context.Background()
		must(decode(a, ctx, 1, 2, 3))
		must(decode(a, ctx, 9, 9))
		if err := a.Truncate(3); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := decode(a, gone, 8); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled run: %v", err)
		}
		if _, err := decode(a, ctx, 99); err == nil {
			t.Fatal("a token beyond the vocabulary is taken")
		}
		got := must(decode(a, ctx, 4))
		must(decode(b, ctx, 1, 2, 3))
		want := must(decode(b, ctx, 4))
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%+v: logit %d is %v, want %v", o, i, got[i], want[i])
			}
		}
		if err := a.Truncate(5); err == nil {
			t.Error("truncated to more than there is")
		}
	}
}

// TestCacheLimit: a cache that passes the memory limit is an error, and the
// session goes on with what it had.
func TestCacheLimit(t *testing.T) {
	m := testmodels.LLaMA(testmodels.Size{Layers: 1, Width: 64, Heads: 4, KVHeads: 4, Hidden: 16, Vocab: 40, Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	p, err := Compile(m, Options{Cache: pairsOf(m, 2), MemoryLimit: 1 << 19})
	if err != nil {
		t.Fatal(err)
	}
	s := p.NewSession(SessionOptions{Threads: 1})
	for done := 0; ; done++ {
		mask := make([]int64, done+1)
		for i := range mask {
			mask[i] = 1
		}
		_, err := s.Run(context.Background(), map[string]tensor.Tensor{
			"input_ids":      tensor.New(tensor.WithShape(1, 1), tensor.WithBacking([]int64{1})),
			"position_ids":   tensor.New(tensor.WithShape(1, 1), tensor.WithBacking([]int64{int64(done)})),
			"attention_mask": tensor.New(tensor.WithShape(1, done+1), tensor.WithBacking(mask)),
		})
		if err != nil {
			if !errors.Is(err, ErrMemory) || done%pageTokens != 0 || done == 0 || s.CacheLen() != done {
				t.Fatalf("after %d tokens, the cache having %d: %v", done, s.CacheLen(), err)
			}
			return
		}
		if done > 4000 {
			t.Fatal("no limit")
		}
	}
}

// TestCacheErrors: pairs that are none.
func TestCacheErrors(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{}, testmodels.GPT2Options{Cache: true})
	key := CachePair{"past_key_values.0.key", "present.0.key", 2}
	for _, c := range []struct {
		pairs []CachePair
		want  string
	}{
		{[]CachePair{{"nothing", "present.0.key", 2}}, "no such input or output"},
		{[]CachePair{{"input_ids", "logits", 1}}, "does not become"},
		{[]CachePair{key, key}, "another pair"},
		{[]CachePair{{key.Past, key.Present, 1}}, "no free dimension 1"},
		{[]CachePair{{key.Past, key.Present, 4}}, "no free dimension 4"},
	} {
		if _, err := Compile(m, Options{Cache: c.pairs}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.pairs, err, c.want)
		}
	}
}
