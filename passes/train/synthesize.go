package train

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/generate"
)

// synthesize returns the texts of the data with n more behind them that the
// teacher, a language model, draws at temperature 1. Each begins as a text of
// the data does, with one token up to a half of it, mostly few. The teacher's
// own distribution is what the student shall have, so that its texts serve as
// well as the ones it was trained on, which nobody may have any more (Kim,
// Rush: Sequence-Level Knowledge Distillation, 2016, where they are the most
// probable ones).
func synthesize(ctx context.Context, teacher *graph.Model, src *calib.Source, n int, o Options) (*calib.Source, error) {
	name, err := generate.TokensInput(teacher)
	if err != nil {
		return nil, err
	}
	a, err := src.Array(name)
	if err != nil {
		return nil, err
	}
	if len(a.Shape) != 2 || a.Shape[0] == 0 || a.Shape[1] < 2 {
		return nil, fmt.Errorf("array %q is %v%v: want the tokens of texts, [texts, tokens]", name, a.DType, a.Shape)
	}
	tokens, err := a.Int64s()
	if err != nil {
		return nil, err
	}
	texts, length := a.Shape[0], a.Shape[1]
	limit := src.Runtime().MemoryLimit
	if int64(n)*int64(length)*8 > limit/4 {
		return nil, fmt.Errorf("%d texts of %d tokens: more than a quarter of the %w of %d MB", n, length, runtime.ErrMemory, limit>>20)
	}
	const group = 64 // texts whose beginnings are equally long are decoded together
	prompts := make([][]int, n)
	rng := rand.New(rand.NewPCG(o.Seed, 1<<61))
	begin := 1
	for i := range prompts {
		if i%group == 0 {
			begin = int(math.Exp(rng.Float64() * math.Log(float64(length)/2)))
		}
		of := rng.IntN(texts)
		prompts[i] = make([]int, begin)
		for k := range prompts[i] {
			prompts[i][k] = int(tokens[of*length+k])
		}
	}
	drawn, err := generate.Texts(ctx, teacher, prompts, length, generate.Sampling{Temperature: 1, Seed: o.Seed},
		generate.Options{Threads: o.Threads, MemoryLimit: limit}, o.Drawing)
	if err != nil {
		return nil, err
	}
	all := append(make([]int64, 0, (texts+n)*length), tokens...)
	for _, text := range drawn {
		for _, t := range text {
			all = append(all, int64(t))
		}
	}
	var b bytes.Buffer
	if err := npz.Write(&b, npz.Int64Array(name, []int{texts + n, length}, all)); err != nil {
		return nil, err
	}
	return calib.SourceFromBytes(src.Path(), b.Bytes(), calib.SourceOptions{Limit: limit})
}
