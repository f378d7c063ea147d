package generate_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/generate"
	"github.com/onnx-lathe/lathe/testmodels"
)

// greedy decodes with the most probable token always.
func greedy(t *testing.T, m *graph.Model, o generate.Options, n int, prompt ...int) []int {
	t.Helper()
	d, err := generate.New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, d, generate.Sampling{}, n, prompt...)
}

func decode(t *testing.T, d *generate.Decoder, s generate.Sampling, n int, prompt ...int) (out []int) {
	t.Helper()
	err := d.Generate(context.Background(), prompt, n, generate.NewSampler(s), func(token int) error {
		out = append(out, token)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	size   = testmodels.Size{Seed: 1}
	size23 = testmodels.Size{Seed: 1, Opset: 23}
)

// What ONNX Runtime 1.30 gives for the models without a cache, run on the whole
// text for every token, the most probable one taken.
var (
	llamaGreedy   = []int{13, 13, 13, 13, 35, 29, 13, 13, 11, 3, 23, 13, 13, 13, 11, 23, 14, 39, 4, 13}
	gpt2Greedy    = []int{3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}
	storiesGreedy = []int{403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426, 338, 391, 266, 267, 337, 335, 312, 432, 398, 312, 286, 267, 414, 270, 333, 415, 426, 13, 438, 310}
)

func TestGreedy(t *testing.T) {
	renamed := testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: true})
	for i, v := range slices.Concat(renamed.Graph.Inputs(), renamed.Graph.Outputs()) {
		if !v.IsInitializer() {
			v.Rename("port_" + string(rune('a'+i)))
		}
	}
	for _, c := range []struct {
		name   string
		model  *graph.Model
		cached bool
		want   []int
	}{
		{"llama", testmodels.LLaMA(size, testmodels.LLaMAOptions{}), false, llamaGreedy},
		{"llama, cache", testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: true}), true, llamaGreedy},
		{"llama, opset 23", testmodels.LLaMA(size23, testmodels.LLaMAOptions{}), false, llamaGreedy},
		{"llama, opset 23, cache", testmodels.LLaMA(size23, testmodels.LLaMAOptions{Cache: true}), true, llamaGreedy},
		{"llama, cache, other names", renamed, true, llamaGreedy},
		{"gpt2", testmodels.GPT2(size, testmodels.GPT2Options{}), false, gpt2Greedy},
		{"gpt2, cache", testmodels.GPT2(size, testmodels.GPT2Options{Cache: true}), true, gpt2Greedy},
		{"gpt2, merged", testmodels.GPT2(size, testmodels.GPT2Options{Merged: true}), true, gpt2Greedy},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := generate.New(c.model, generate.Options{Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			if d.Cached() != c.cached || d.Vocabulary() != 40 {
				t.Errorf("cached %v, %d tokens, want %v, 40", d.Cached(), d.Vocabulary(), c.cached)
			}
			if got := decode(t, d, generate.Sampling{}, len(c.want), 1, 2, 3); !slices.Equal(got, c.want) {
				t.Errorf("tokens %v, want %v", got, c.want)
			}
			// Again from the middle.
			if err := d.Truncate(5); err != nil {
				t.Fatal(err)
			}
			if got := decode(t, d, generate.Sampling{}, 10, c.want[2]); !slices.Equal(got, c.want[3:13]) {
				t.Errorf("truncated to 5: %v, want %v", got, c.want[3:13])
			}
		})
	}
}

func public(t *testing.T, file string) *graph.Model {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA does not name the public models and sets")
	}
	m, err := graph.Load(filepath.Join(dir, "models", file))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPublicModels(t *testing.T) {
	for _, file := range []string{"stories260K_opset17.onnx", "stories260K_kv_opset17.onnx"} {
		if got := greedy(t, public(t, file), generate.Options{}, len(storiesGreedy), 1); !slices.Equal(got, storiesGreedy) {
			t.Errorf("%s: tokens %v, want %v", file, got, storiesGreedy)
		}
	}
	m := public(t, "graphs/gpt2_12layer_past.onnx")
	if _, err := generate.New(m, generate.Options{}); err == nil || !strings.Contains(err.Error(), "last_state") {
		t.Errorf("a model without a head: %v, want its output named", err)
	}
}

// TestStackedCache: a cache that is taken apart and put together again in the
// model, in one tensor with a fixed first dim, and that takes a token at a time.
func TestStackedCache(t *testing.T) {
	m := public(t, "graphs/gpt2_12layer_past.onnx")
	g := m.Graph
	w := make([]float32, 4*1000)
	for i := range w {
		w[i] = float32(i*i%97) / 97
	}
	table := g.AddInitializer("head", graph.Float32Tensor([]int64{4, 1000}, w))
	last := g.Outputs()[0]
	logits := g.NewNode("", "MatMul", "head", []*graph.Value{last, table}, []string{"scores"}).Output(0)
	g.RemoveOutput(0)
	g.AddOutput(logits, graph.TensorType(graph.Float32, graph.Symbol("batch_size"), graph.UnknownDim, graph.UnknownDim))
	d, err := generate.New(m, generate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	whole, err := d.Next(ctx, 5, 6, 7, 8)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(whole)
	if err := d.Truncate(2); err != nil {
		t.Fatal(err)
	}
	got, err := d.Next(ctx, 7, 8)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) || d.Len() != 4 {
		t.Errorf("after a truncation, the same tokens give other logits")
	}
}

// TestDroppedAttention: the caches of models that have lost attentions have
// gaps in their numbers.
func TestDroppedAttention(t *testing.T) {
	for name, build := range map[string]func(cache bool) *graph.Model{
		"llama": func(c bool) *graph.Model { return testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: c}) },
		"gpt2":  func(c bool) *graph.Model { return testmodels.GPT2(size, testmodels.GPT2Options{Cache: c}) },
	} {
		for _, ids := range [][]string{{"A0"}, {"A1", "M0"}, {"A0", "A2"}} {
			drop := func(m *graph.Model) *graph.Model {
				if err := passes.Run(context.Background(), m, new(passes.Journal), passes.DropModules(ids, passes.DropOptions{}), passes.EliminateDeadCode()); err != nil {
					t.Fatal(err)
				}
				return m
			}
			t.Run(name+" without "+strings.Join(ids, ", "), func(t *testing.T) {
				want := greedy(t, drop(build(false)), generate.Options{}, 16, 4, 5)
				if got := greedy(t, drop(build(true)), generate.Options{}, 16, 4, 5); !slices.Equal(got, want) {
					t.Errorf("with a cache %v, without %v", got, want)
				}
			})
		}
	}
}

// TestSameSeed: what is drawn depends on the seed and not on the threads, nor
// on the cache.
func TestSameSeed(t *testing.T) {
	s := generate.Sampling{Temperature: 1.3, TopK: 30, TopP: 0.95, Seed: 7}
	var want []int
	for _, cache := range []bool{false, true} {
		m := testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: cache})
		for threads := 1; threads <= 3; threads++ {
			d, err := generate.New(m, generate.Options{Threads: threads})
			if err != nil {
				t.Fatal(err)
			}
			got := decode(t, d, s, 40, 1)
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("cache %v, %d threads: %v, want %v", cache, threads, got, want)
			}
		}
	}
	d, err := generate.New(testmodels.LLaMA(size, testmodels.LLaMAOptions{}), generate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Seed = 8
	if got := decode(t, d, s, 40, 1); slices.Equal(got, want) {
		t.Error("another seed gives the same tokens")
	}
}

func TestStop(t *testing.T) {
	m := testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: true})
	if got := greedy(t, m, generate.Options{Stop: []int{99, 29}}, 20, 1, 2, 3); !slices.Equal(got, llamaGreedy[:6]) {
		t.Errorf("stopped at 29: %v, want %v", got, llamaGreedy[:6])
	}
	d, err := generate.New(m, generate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	n := 0
	err = d.Generate(context.Background(), []int{1}, 10, generate.NewSampler(generate.Sampling{}), func(int) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 3 {
		t.Errorf("%d tokens, %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = d.Generate(ctx, []int{1}, 10, generate.NewSampler(generate.Sampling{}), func(int) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFixedLength: a model without a cache whose number of tokens is fixed
// reads its text with filling behind it.
func TestFixedLength(t *testing.T) {
	m := testmodels.LLaMA(size, testmodels.LLaMAOptions{})
	for _, v := range m.Graph.Inputs() {
		if v.Name == "input_ids" {
			v.Declared = graph.TensorType(graph.Int64, graph.Known(1), graph.Known(12))
		}
	}
	if got := greedy(t, m, generate.Options{}, 9, 1, 2, 3); !slices.Equal(got, llamaGreedy[:9]) {
		t.Errorf("tokens %v, want %v", got, llamaGreedy[:9])
	}
	d, err := generate.New(m, generate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Next(context.Background(), make([]int, 13)...); err == nil || !strings.Contains(err.Error(), "the 12 that the model takes") {
		t.Errorf("13 tokens: %v", err)
	}
}

func TestErrors(t *testing.T) {
	missing := testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: true})
	for i, v := range missing.Graph.Outputs() {
		if v.Name == "present.1.key" {
			missing.Graph.RemoveOutput(i)
			break
		}
	}
	for _, c := range []struct {
		name  string
		model *graph.Model
		want  []string
	}{
		{"cnn", testmodels.LeNet(testmodels.CNN{Image: 28, Width: 4, Opset: 17, Seed: 1}), []string{"no decoder", "image"}},
		{"encoder", testmodels.BERT(size, testmodels.BERTOptions{}), []string{"no decoder", "logits", "outputs are"}},
		{"half a cache", missing, []string{"no decoder", "past_key_values.1.key"}},
		{"no model", nil, []string{"no graph"}},
	} {
		_, err := generate.New(c.model, generate.Options{})
		if err == nil {
			t.Errorf("%s is taken for a decoder", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: want %q in it", c.name, err, w)
			}
		}
	}
	d, err := generate.New(testmodels.GPT2(size, testmodels.GPT2Options{Cache: true}), generate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, c := range []struct {
		tokens []int
		want   string
	}{{nil, "no tokens"}, {[]int{40}, "token 40"}, {[]int{-1}, "token -1"}, {make([]int, 33), "index 32"}} {
		if _, err := d.Next(ctx, c.tokens...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("tokens %v: %v, want %q", c.tokens, err, c.want)
		}
		if d.Len() != 0 {
			t.Fatalf("after an error the decoder has read %d tokens", d.Len())
		}
	}
	if err := d.Truncate(1); err == nil {
		t.Error("truncated to more than there is")
	}
	small, err := generate.New(testmodels.GPT2(size, testmodels.GPT2Options{Cache: true}), generate.Options{MemoryLimit: 1 << 12})
	if err == nil {
		_, err = small.Next(ctx, 1)
	}
	if !errors.Is(err, runtime.ErrMemory) {
		t.Errorf("4 KiB of memory: %v", err)
	}
}
