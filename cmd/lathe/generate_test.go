package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestGenerate: tokens as ONNX Runtime 1.30 gives them for the model without
// a cache, the most probable one taken, whatever way they are asked for.
func TestGenerate(t *testing.T) {
	f := newFolder(t)
	for name, cache := range map[string]bool{"cache.onnx": true, "plain.onnx": false} {
		m := testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{Cache: cache})
		if err := m.Save(f.in(name), graph.SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		const want = "13 13 13 13 35 29 13 13 11 3\n"
		r := lathe("generate", f.in(name), "--tokens", "1,2", "--tokens", "3", "--max", "10")
		if r.code != 0 || r.out != want {
			t.Errorf("%s: status %d, %q, %s; want %q", name, r.code, r.out, r.err, want)
		}
		if !strings.Contains(r.err, "3 read, ") || !strings.Contains(r.err, "10 generated, ") || strings.Contains(r.err, "no cache") == cache {
			t.Errorf("%s: notes %q", name, r.err)
		}
		if r = lathe("generate", f.in(name), "--tokens", "1,2,3", "--max", "10", "--quiet", "--stop", "5,29"); r.out != want[:len("13 13 13 13 35 29")]+"\n" || r.err != "" {
			t.Errorf("%s: stopped at 29: %q, %q", name, r.out, r.err)
		}
		v := object(t, "generate", f.in(name), "--tokens", "1,2,3", "--max", "4", "--stop", "35")
		for _, key := range []string{"path", "prompt", "tokens", "cached", "stopped", "prompt_seconds", "decode_seconds", "prompt_tokens_per_second", "tokens_per_second"} {
			if _, ok := v[key]; !ok {
				t.Errorf("%s: no key %q in %v", name, key, v)
			}
		}
		if !slices.Equal(v["tokens"].([]any), []any{13.0, 13.0, 13.0, 13.0}) || v["cached"] != cache || v["stopped"] != false {
			t.Errorf("%s: %v", name, v)
		}
		draw := func(seed string, threads string) string {
			return ok(t, "generate", f.in(name), "--tokens", "1", "--temperature", "1.5", "--top-k", "30", "--top-p", "0.9", "--seed", seed, "--threads", threads)
		}
		if a := draw("4", "1"); a != draw("4", "3") || a == draw("5", "1") {
			t.Errorf("%s: draws do not follow the seed alone: %s", name, a)
		}
	}
	for _, c := range []struct{ args, want string }{
		{"cache.onnx", "--tokens 1"},
		{"cache.onnx --tokens 1,x", "separated by commas"},
		{"cache.onnx --tokens 40", "0 … 39"},
		{"cache.onnx --tokens 1 --stop 40", "0 … 39"},
		{"cache.onnx --tokens 1 --max 0", "--max"},
		{"cache.onnx --tokens 1 --temperature -1", "--temperature"},
		{"model.onnx --tokens 1", "no decoder"},
	} {
		args := strings.Fields(c.args)
		args[0] = f.in(args[0])
		if r := lathe(append([]string{"generate"}, args...)...); r.code != exitBad || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: status %d, %q, %q; want %q", c.args, r.code, r.out, r.err, c.want)
		}
	}
	text := f.in("tokenizer.json")
	if err := os.WriteFile(text, []byte(words40()), 0o644); err != nil {
		t.Fatal(err)
	}
	// The words of the tokens that ONNX Runtime gives.
	const said = " w13 w13 w13 w13 w35 w29 w13 w13 w11 w3\n"
	for _, args := range [][]string{{"--prompt", "w1 w2 w3"}, {"--tokens", "1,2,3"}} {
		args = append([]string{"generate", f.in("cache.onnx"), "--tokenizer", text, "--max", "10"}, args...)
		want := said
		if args[len(args)-2] == "--prompt" {
			want = "w1 w2 w3" + said
		}
		if r := lathe(args...); r.code != 0 || r.out != want {
			t.Errorf("%v: status %d, %q, %s; want %q", args, r.code, r.out, r.err, want)
		}
		if v := object(t, append(args, "--stop", "w29")...); v["text"] != " w13 w13 w13 w13 w35 w29" || v["stopped"] != true {
			t.Errorf("%v: %v", args, v)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--prompt", "w1"}, "needs --tokenizer"},
		{[]string{"--prompt", "w1", "--tokens", "1", "--tokenizer", text}, "not both"},
		{[]string{"--prompt", "w1", "--tokenizer", f.in("cache.onnx")}, "no tokenizer.json"},
		{[]string{"--prompt", "w1", "--tokenizer", text, "--stop", "w1 w2"}, "is 2 tokens"},
		{[]string{"--tokens", "1", "--stop", "w1"}, "texts need --tokenizer"},
		{[]string{"--tokenizer", text}, "needs --prompt"},
	} {
		if r := lathe(append([]string{"generate", f.in("cache.onnx")}, c.args...)...); r.code != exitBad || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("%v: status %d, %q, %q; want %q", c.args, r.code, r.out, r.err, c.want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	r := latheContext(ctx, "generate", f.in("cache.onnx"), "--tokens", "1", "--max", "100000000")
	if r.code != exitInterrupted || !strings.HasSuffix(r.out, "\n") || len(strings.Fields(r.out)) < 2 {
		t.Errorf("interrupted: status %d, %d bytes, %q", r.code, len(r.out), r.err)
	}
}

// words40 is a tokenizer.json of forty words.
func words40() string {
	var vocab []string
	for i := range 40 {
		vocab = append(vocab, fmt.Sprintf(`"w%d": %d`, i, i))
	}
	return `{"pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": {` + strings.Join(vocab, ", ") + `}}}`
}
