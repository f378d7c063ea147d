package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := Load(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestStream: tokens printed one by one give the text of them all, and never
// a part of a character.
func TestStream(t *testing.T) {
	g := readGolden(t)
	for _, name := range []string{"gpt2", "llama", "llama3", "bert", "t5", "gemma", "words", "unigram-bytes"} {
		tok := load(t, name)
		for i, text := range g.Texts {
			ids := g.Golden[name][i].IDs
			s, got := tok.Stream(nil), ""
			for _, id := range ids {
				part := s.Next(id)
				if strings.Contains(part, "\uFFFD") && !strings.Contains(text, "\uFFFD") {
					t.Errorf("%s: %q: a part of a character in %q", name, text, part)
				}
				got += part
			}
			got += s.Rest() + s.Rest()
			if want := tok.Decode(ids); got != want {
				t.Errorf("%s: %q: streamed %q, want %q", name, text, got, want)
			}
		}
	}
	tok := load(t, "llama")
	e, err := tok.Encode("the lathe turns", 0)
	if err != nil {
		t.Fatal(err)
	}
	s := tok.Stream(e.IDs[:3])
	if got := s.Next(e.IDs[3]); tok.Decode(e.IDs[:3])+got != tok.Decode(e.IDs[:4]) {
		t.Errorf("behind a prompt: %q", got)
	}
}

// TestPrompt: a text to be continued has what stands in front of every text,
// and no end.
func TestPrompt(t *testing.T) {
	for name, want := range map[string][]int{"llama": {1}, "t5": {}, "gpt2": {}} {
		tok := load(t, name)
		ids, err := tok.Tokens("the lathe")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tok.Prompt("the lathe"); err != nil || !slices.Equal(got, append(want, ids...)) {
			t.Errorf("%s: %v, want %v and %v; %v", name, got, want, ids, err)
		}
	}
	if got := load(t, "llama").Ends(); !slices.Equal(got, []int{2}) {
		t.Errorf("ends %v, want 2, which is </s>", got)
	}
	// The first of the two bytes of ß.
	tok := load(t, "llama")
	s := tok.Stream(nil)
	if id, ok := tok.ID("<0xC3>"); !ok || s.Next(id) != "" || s.Rest() != "\uFFFD" {
		t.Error("half a character is not left over")
	}
}

func TestTruncation(t *testing.T) {
	tok := load(t, "bert")
	e, err := tok.Encode("the lathe turns the wood", 4)
	if err != nil || !slices.Equal(e.IDs, []int{2, 5, 6, 3}) {
		t.Errorf("cut to 4: %v, %v", e.IDs, err)
	}
	if e, err = tok.Encode("the lathe", 2); err != nil || !slices.Equal(e.IDs, []int{2, 3}) {
		t.Errorf("cut to 2: %v, %v", e.IDs, err)
	}
	if _, err = tok.Encode("the lathe", 1); err == nil || !strings.Contains(err.Error(), "no room for the 2") {
		t.Errorf("cut to 1: %v", err)
	}
	if id, segment, left := tok.Pad(); id != 0 || segment != 0 || left {
		t.Errorf("padding %d %d %v", id, segment, left)
	}
	if id, _, _ := load(t, "roberta").Pad(); id != 1 {
		t.Errorf("RoBERTa pads with %d, want 1, which is <pad>", id)
	}
	if id, ok := tok.ID("[SEP]"); !ok || id != 3 {
		t.Errorf("[SEP] is %d, %v", id, ok)
	}
	if n := tok.Size(); n < 100 {
		t.Errorf("%d tokens", n)
	}
}

// TestLongWords: time grows with the length of a word, and not with its
// square.
func TestLongWords(t *testing.T) {
	for _, name := range []string{"gpt2", "llama", "t5", "bert"} {
		tok := load(t, name)
		start := time.Now()
		ids, err := tok.Encode(strings.Repeat("lathe", 100_000), 0)
		if err != nil || len(ids.IDs) == 0 || time.Since(start) > 20*time.Second {
			t.Errorf("%s: %d tokens, %v, %v", name, len(ids.IDs), time.Since(start), err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "no tokenizer.json"},
		{`[]`, "no tokenizer.json"},
		{`{"do_lower_case": true}`, `has no "model"`},
		{`{"model": {"type": "Markov", "vocab": {"a": 1}}}`, `model "Markov" is not supported`},
		{`{"model": {"type": "WordPiece", "vocab": {}}}`, "the vocabulary is empty"},
		{`{"model": {"type": "WordPiece", "vocab": {"a": -1}}}`, "has the id -1"},
		{`{"model": {"type": "WordPiece", "vocab": {"a": 99999999999}}}`, "has the id"},
		{`{"model": {"type": "WordPiece", "unk_token": "?", "vocab": {"a": 0}}}`, `"?", is not in the vocabulary`},
		{`{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}`, "merge 0"},
		{`{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a"]}}`, "is not a pair"},
		{`{"model": {"type": "Unigram", "vocab": [["a"]]}}`, "vocab"},
		{`{"model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", -1]]}}`, "unk_id 7"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "normalizer": {"type": "Shout"}}`, `normalizer "Shout" is not supported`},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAEAAAA="}}`, "cut off"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated"}}`, "regular expression"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "pre_tokenizer": {"type": "UnicodeScripts"}}`, "is not supported"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "decoder": {"type": "CTC"}}`, "is not supported"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "special_tokens": {}}}`, "none of its special tokens"},
		{`{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "post_processor": {"type": "BertProcessing", "cls": ["x", "y"]}}`, "not a token and its id"},
	} {
		if _, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
	tok, err := Parse([]byte(`{"model": {"type": "WordLevel", "vocab": {"a": 0}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Encode(strings.Repeat("b", 100), 0); err == nil || !strings.Contains(err.Error(), "bbb…") {
		t.Errorf("an unknown word: %v", err)
	}
	if _, err := Load(filepath.Join("testdata", "none.json")); err == nil {
		t.Error("a file that is not there")
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"bert", "gpt2", "llama", "t5", "clip", "added", "change-precompiled", "words"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 20_000 {
			f.Add(b, "the lathe turns Größe 木 🙂 12")
		}
	}
	f.Add([]byte(`{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a","b"]]}}`), "abab")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		tok, err := Parse(b)
		if err != nil || len(text) > 1000 {
			return
		}
		e, err := tok.Encode(text, 50)
		if err != nil {
			return
		}
		if len(e.IDs) != len(e.Types) || len(e.IDs) > 50 {
			t.Fatalf("%d tokens, %d types", len(e.IDs), len(e.Types))
		}
		tok.Decode(e.IDs)
	})
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat("The makers of bowls turn the wood on lathes, it's 2024; naïve Größe. ", 200)
	for _, name := range []string{"bert", "gpt2", "llama3", "llama", "t5"} {
		tok := load(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := tok.Encode(text, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
