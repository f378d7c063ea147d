package generate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	goruntime "runtime"
	"slices"
	"sync"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// Texts draws texts of length tokens from a decoder model, one for each
// prompt, whose tokens it begins with: the distribution that the model has
// learnt, as data to train another on. length counts the prompt. s.TopK and s.TopP
// must be 0. What is
// drawn depends on the seed and on the number of the prompt, and not on the
// threads. Prompts of one length that stand beside each other are decoded
// together. progress is told of how many texts are done; it may be nil.
func Texts(ctx context.Context, m *graph.Model, prompts [][]int, length int, s Sampling, o Options, progress func(done, total int)) ([][]int, error) {
	texts, err := drawTexts(ctx, m, prompts, length, s, o, progress)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	return texts, nil
}

// together is how many texts are decoded at a time, on one thread.
const together = 64

func drawTexts(ctx context.Context, m *graph.Model, prompts [][]int, length int, s Sampling, o Options, progress func(done, total int)) ([][]int, error) {
	p, err := findPorts(m)
	if err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	if s.TopK != 0 || s.TopP != 0 {
		return nil, errors.New("texts are drawn from all tokens; leave top-k and top-p out")
	}
	for _, in := range p.inputs {
		if in.rank != 2 || in.role == useCache {
			return nil, fmt.Errorf("input %q: texts are decoded together by models whose inputs are [batch, sequence]", in.name)
		}
	}
	if p.length > 0 {
		return nil, fmt.Errorf("the model reads %d tokens at a time, not any number", p.length)
	}
	var groups [][]int // numbers of prompts
	for i, prompt := range prompts {
		for _, t := range prompt {
			if t < 0 || p.vocabulary > 0 && t >= p.vocabulary {
				return nil, fmt.Errorf("prompt %d: token %d is none of the model's, which are 0 … %d", i, t, p.vocabulary-1)
			}
		}
		if len(prompt) == 0 || len(prompt) > length {
			return nil, fmt.Errorf("prompt %d has %d tokens; want 1 … %d", i, len(prompt), length)
		}
		if n := len(groups); n == 0 || len(groups[n-1]) == together || len(prompts[groups[n-1][0]]) != len(prompt) {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], i)
	}
	prog, err := runtime.Compile(m, runtime.Options{Path: o.Path, MemoryLimit: o.MemoryLimit, Cache: p.cache})
	if err != nil {
		return nil, err
	}
	threads := o.Threads
	if threads < 1 {
		threads = goruntime.GOMAXPROCS(0)
	}
	texts := make([][]int, len(prompts))
	errs := make([]error, len(groups))
	var (
		wg   sync.WaitGroup
		lock sync.Mutex
		done int
	)
	next := make(chan int)
	for range min(threads, len(groups)) {
		wg.Go(func() {
			d := &drawer{ports: p, prog: prog, s: s}
			for g := range next {
				errs[g] = d.draw(ctx, prompts, groups[g], length, texts)
				if progress != nil && errs[g] == nil {
					lock.Lock()
					done += len(groups[g])
					progress(done, len(prompts))
					lock.Unlock()
				}
			}
		})
	}
	for g := range groups {
		next <- g
	}
	close(next)
	wg.Wait()
	return texts, errors.Join(slices.Compact(errs)...)
}

// drawer decodes groups of texts, one after the other.
type drawer struct {
	ports *ports
	prog  *runtime.Program
	s     Sampling
}

// draw decodes the texts of some prompts of one length.
func (d *drawer) draw(ctx context.Context, prompts [][]int, group []int, length int, texts [][]int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	session := d.prog.NewSession(runtime.SessionOptions{Threads: 1})
	samplers := make([]*Sampler, len(group))
	for i, number := range group {
		texts[number] = append(make([]int, 0, length), prompts[number]...)
		samplers[i] = NewSampler(d.s)
		samplers[i].random = rand.New(rand.NewPCG(d.s.Seed, uint64(number)))
	}
	feeds, out := map[string]tensor.Tensor{}, map[string]tensor.Tensor{}
	for from, n := 0, len(prompts[group[0]]); n < length; n++ {
		d.feed(feeds, texts, group, from, n)
		if err := session.RunInto(ctx, feeds, out); err != nil {
			return err
		}
		x, ok := out[d.ports.logits].Data().([]float32)
		shape := out[d.ports.logits].Shape()
		vocabulary := shape[len(shape)-1]
		rows := len(x) / max(vocabulary, 1) / len(group) // of each text
		if !ok || rows != n-from && rows != 1 || len(x) != rows*len(group)*vocabulary {
			return fmt.Errorf("output %q has shape %v, want float32 logits for each of %d tokens of %d texts", d.ports.logits, shape, n-from, len(group))
		}
		for i, number := range group {
			at := (i+1)*rows - 1
			token, err := samplers[i].Draw(x[at*vocabulary : (at+1)*vocabulary])
			if err != nil {
				return fmt.Errorf("text %d, after %d tokens: %w", number, n, err)
			}
			texts[number] = append(texts[number], token)
		}
		if len(d.ports.cache) > 0 {
			from = n
		}
	}
	return nil
}

// feed makes the inputs of a run that reads tokens from … to−1 of every text.
func (d *drawer) feed(feeds map[string]tensor.Tensor, texts [][]int, group []int, from, to int) {
	for _, in := range d.ports.inputs {
		first := from
		if in.role == attentionMask {
			first = 0
		}
		all := make([]int64, 0, len(group)*(to-first))
		for _, number := range group {
			for i := first; i < to; i++ {
				v := 0
				switch in.role {
				case tokenIDs:
					v = texts[number][i]
				case positionIDs:
					v = i
				case attentionMask:
					v = 1
				}
				all = append(all, int64(v))
			}
		}
		feeds[in.name] = matrix(all, len(group), in.dtype)
	}
}

func matrix(all []int64, rows int, t graph.DType) tensor.Tensor {
	shape := tensor.WithShape(rows, len(all)/rows)
	if t == graph.Int32 {
		narrow := make([]int32, len(all))
		for i, v := range all {
			narrow[i] = int32(v)
		}
		return tensor.New(shape, tensor.WithBacking(narrow))
	}
	return tensor.New(shape, tensor.WithBacking(all))
}

// TokensInput names the input that a decoder model reads tokens from.
func TokensInput(m *graph.Model) (string, error) {
	p, err := findPorts(m)
	if err != nil {
		return "", fmt.Errorf("generate: %w", err)
	}
	at := slices.IndexFunc(p.inputs, func(in input) bool { return in.role == tokenIDs })
	return p.inputs[at].name, nil
}
