// Package generate decodes text, as tokens, with a language model: a model
// that gives logits for the token after each of those it is fed.
//
//	d, err := generate.New(model, generate.Options{})
//	err = d.Generate(ctx, prompt, 100, generate.NewSampler(generate.Sampling{}), func(token int) error {
//		fmt.Println(token)
//		return nil
//	})
//
// A model that takes the keys and values of earlier tokens and gives them on
// is fed every token once; the runtime's session keeps them (see
// runtime.Options.Cache). Any other model reads the whole text again for every
// token. Which input is what is found in the graph (see ports.go); names decide
// only where the graph leaves it open.
//
// [New] makes a [Decoder]; Generate draws a whole text, Next one token at a time.
// Tokens are numbers: what text they stand for is for a tokenizer to say.
package generate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// Options says how a model decodes.
type Options struct {
	Threads int    // of the session; 0 means one per processor. Tokens do not depend on it.
	Path    string // vector kernels, as in runtime.Options

	// MemoryLimit bounds the session's memory in bytes, its cache included, as
	// in runtime.Options.
	MemoryLimit int64

	// Stop lists tokens that end Generate, such as that for the end of a text.
	Stop []int
}

// Decoder is a model with the text that it has read so far. It is for one
// goroutine at a time.
type Decoder struct {
	ports   *ports
	session *runtime.Session
	stop    []int

	tokens []int // read so far
	feeds  map[string]tensor.Tensor
	out    map[string]tensor.Tensor
}

// New compiles a decoder model. It fails where the model is no decoder, saying what
// it lacks, and where [runtime.Compile] does.
func New(m *graph.Model, o Options) (*Decoder, error) {
	p, err := findPorts(m)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	prog, err := runtime.Compile(m, runtime.Options{Path: o.Path, MemoryLimit: o.MemoryLimit, Cache: p.cache})
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	return &Decoder{
		ports: p, session: prog.NewSession(runtime.SessionOptions{Threads: o.Threads}), stop: o.Stop,
		feeds: map[string]tensor.Tensor{}, out: map[string]tensor.Tensor{},
	}, nil
}

// Cached reports whether the model has a cache, so that a token costs the same
// however much text there is before it, but for the attention to it.
func (d *Decoder) Cached() bool { return len(d.ports.cache) > 0 }

// Vocabulary returns the number of tokens that the model knows, 0 where it
// does not say.
func (d *Decoder) Vocabulary() int { return d.ports.vocabulary }

// Len returns how many tokens the decoder has read.
func (d *Decoder) Len() int { return len(d.tokens) }

// Truncate makes the decoder forget all but the first n tokens.
func (d *Decoder) Truncate(n int) error {
	if n < 0 || n > len(d.tokens) {
		return fmt.Errorf("generate: truncate to %d of %d tokens", n, len(d.tokens))
	}
	if d.Cached() {
		if err := d.session.Truncate(n); err != nil {
			return fmt.Errorf("generate: %w", err)
		}
	}
	d.tokens = d.tokens[:n]
	return nil
}

// Next reads tokens, at least one, and returns the logits of the token that follows
// them, [vocabulary]. The next call writes over them. After an error the decoder has
// read what it had before, or a part of tokens more where the model takes them one
// by one; Len tells.
func (d *Decoder) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if len(tokens) == 0 {
		return nil, errors.New("generate: no tokens to read; begin with one, such as that for the start of a text")
	}
	for _, t := range tokens {
		if t < 0 || d.ports.vocabulary > 0 && t >= d.ports.vocabulary {
			return nil, fmt.Errorf("generate: token %d is none of the model's, which are 0 … %d", t, d.ports.vocabulary-1)
		}
	}
	var logits []float32
	for step := range slices.Chunk(tokens, d.ports.chunk(len(tokens), d.Cached())) {
		var err error
		if logits, err = d.read(ctx, step); err != nil {
			return nil, fmt.Errorf("generate: after %d tokens: %w", len(d.tokens), err)
		}
	}
	return logits, nil
}

// read makes one run.
func (d *Decoder) read(ctx context.Context, tokens []int) ([]float32, error) {
	all := append(d.tokens, tokens...)
	from := len(d.tokens)
	if !d.Cached() {
		from = 0
	}
	places, err := d.ports.feed(d.feeds, all, from)
	if err != nil {
		return nil, err
	}
	if err := d.session.RunInto(ctx, d.feeds, d.out); err != nil {
		return nil, err
	}
	logits, err := d.ports.last(d.out[d.ports.logits], len(all)-1-from, places)
	if err != nil {
		return nil, err
	}
	d.tokens = all
	return logits, nil
}

// Generate reads prompt, which must not be empty, and then draws tokens from s, until
// it has drawn max or one of Options.Stop, which is the last then. Each goes to
// yield as soon as it is drawn, and is read to draw the next; an error of yield ends
// the text and is returned as it is. What the decoder has read before stands in front
// of the prompt: to go on with a text, begin the next prompt with the last token, which
// was not read.
func (d *Decoder) Generate(ctx context.Context, prompt []int, max int, s *Sampler, yield func(token int) error) error {
	next := prompt
	for range max {
		logits, err := d.Next(ctx, next...)
		if err != nil {
			return err
		}
		token, err := s.Draw(logits)
		if err != nil {
			return fmt.Errorf("generate: after %d tokens: %w", len(d.tokens), err)
		}
		if err := yield(token); err != nil {
			return err
		}
		if slices.Contains(d.stop, token) {
			return nil
		}
		next = []int{token}
	}
	return nil
}
