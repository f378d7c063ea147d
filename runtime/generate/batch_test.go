package generate_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/generate"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestTexts: texts decoded together are those decoded one by one, with and
// without a cache, whatever the threads.
func TestTexts(t *testing.T) {
	ctx := context.Background()
	llama := func(cache bool) *graph.Model {
		return testmodels.LLaMA(size, testmodels.LLaMAOptions{Cache: cache})
	}
	n := 3 + len(llamaGreedy)
	prompts := slices.Repeat([][]int{{1, 2, 3}, {4}, {5}, {4}}, 20)
	prompts = append(prompts, slices.Repeat([][]int{{7}}, 70)...)
	draw := func(m *graph.Model, s generate.Sampling, threads int) [][]int {
		done := 0
		texts, err := generate.Texts(ctx, m, prompts, n, s, generate.Options{Threads: threads}, func(d, _ int) { done = max(done, d) })
		if err != nil {
			t.Fatal(err)
		}
		if done != len(prompts) {
			t.Errorf("progress says %d of %d", done, len(prompts))
		}
		return texts
	}
	for _, cache := range []bool{false, true} {
		texts := draw(llama(cache), generate.Sampling{}, 2)
		if !slices.Equal(texts[0], append([]int{1, 2, 3}, llamaGreedy...)) {
			t.Errorf("cache %v: %v, want %v", cache, texts[0][3:], llamaGreedy)
		}
		for i, p := range prompts {
			if want := append(slices.Clone(p), greedy(t, llama(true), generate.Options{}, n-len(p), p...)...); i < 4 && !slices.Equal(texts[i], want) {
				t.Errorf("cache %v, text %d: %v, want %v", cache, i, texts[i], want)
			}
		}
		if s := (generate.Sampling{Temperature: 1, Seed: 3}); cache {
			a, b := draw(llama(true), s, 1), draw(llama(false), s, 3)
			if !slices.EqualFunc(a, b, slices.Equal[[]int]) {
				t.Error("texts depend on the threads or on the cache")
			}
			if slices.Equal(a[1], a[3]) || slices.Equal(a[100], a[101]) {
				t.Error("texts of equal prompts are equal")
			}
		}
	}
	for _, c := range []struct {
		prompts [][]int
		s       generate.Sampling
		want    string
	}{
		{[][]int{{1}, {40}}, generate.Sampling{}, "prompt 1: token 40"},
		{[][]int{{}}, generate.Sampling{}, "prompt 0 has 0 tokens"},
		{[][]int{make([]int, 99)}, generate.Sampling{}, "99 tokens"},
		{[][]int{{1}}, generate.Sampling{TopK: 3}, "top-k"},
	} {
		if _, err := generate.Texts(ctx, llama(true), c.prompts, n, c.s, generate.Options{}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.prompts, err, c.want)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := generate.Texts(cancelled, llama(true), prompts, n, generate.Sampling{}, generate.Options{}, nil); err == nil {
		t.Error("a cancelled context gives no error")
	}
}
