package testmodels

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
)

// Case is a small model with inputs for it. The outputs that ONNX Runtime
// computes lie in testdata/NAME.npz; golden.sh makes them.
type Case struct {
	Name string
	// Model builds the model, as a new export would be without the modules of
	// these ids; those that are no transformers have none to leave out.
	Model  func(without ...string) *graph.Model
	Inputs []*npz.Array // named after the model's inputs
}

// Cases lists the trained model and a small instance of every form that the
// builders make.
func Cases() []Case {
	size := func(opset int64, without []string) Size { return Size{Opset: opset, Seed: 1, Without: without} }
	decoder := []*npz.Array{tokens("input_ids", 40, 2, 7)}
	gpt2Cache := append(pasts(3, 2, 2, 3, 16), tokens("input_ids", 40, 2, 4), mask("attention_mask", 7, 0, 2))
	llamaCache := append(pasts(3, 2, 2, 3, 8), tokens("input_ids", 40, 2, 4), mask("attention_mask", 7, 0, 2),
		npz.Int64Array("position_ids", []int{2, 4}, []int64{3, 4, 5, 6, 1, 2, 3, 4}))
	// GroupQueryAttention takes one sample, or one token, where there is a past.
	fusedStart := append(pasts(3, 2, 2, 0, 16), tokens("input_ids", 40, 2, 4), mask("attention_mask", 4, 0, 0))
	fusedStep := append(pasts(3, 2, 2, 3, 16), tokens("input_ids", 40, 2, 1), mask("attention_mask", 4, 0, 0))
	text := []*npz.Array{tokens("input_ids", 40, 2, 9), mask("attention_mask", 9, 0, -3), tokens("token_type_ids", 2, 2, 9)}
	picture := []*npz.Array{numbers("pixel_values", 2, 3, 16, 16)}
	merged := func(w ...string) *graph.Model { return GPT2(size(17, w), GPT2Options{Merged: true}) }
	yes := &npz.Array{Name: "use_cache_branch", DType: graph.Bool, Shape: []int{1}, Raw: []byte{1}}
	no := &npz.Array{Name: "use_cache_branch", DType: graph.Bool, Shape: []int{1}, Raw: []byte{0}}
	whisper := func(w ...string) *graph.Model { return Whisper(size(17, w), WhisperOptions{Merged: true}) }
	words, _ := WordSamples(EvalSeed, 8)
	return []Case{
		{"demo", func(...string) *graph.Model { return DemoModel() }, []*npz.Array{npz.Float32Array("features", []int{8, WordFrames, WordFeatures}, words)}},
		{"bert-13", func(w ...string) *graph.Model { return BERT(size(13, w), BERTOptions{}) }, text},
		{"bert-17", func(w ...string) *graph.Model { return BERT(size(17, w), BERTOptions{}) }, text},
		{"bert-20", func(w ...string) *graph.Model { return BERT(size(20, w), BERTOptions{}) }, text},
		{"bert-17-functions", func(w ...string) *graph.Model { return BERT(size(17, w), BERTOptions{Functions: true}) }, text},
		{"bert-17-fused", func(w ...string) *graph.Model { return FusedBERT(size(17, w), FusedOptions{}) }, text},
		{"bert-17-multihead", func(w ...string) *graph.Model { return FusedBERT(size(17, w), FusedOptions{MultiHead: true}) }, text},
		{"gpt2-13", func(w ...string) *graph.Model { return GPT2(size(13, w), GPT2Options{}) }, decoder},
		{"gpt2-17-untied-erf", func(w ...string) *graph.Model { return GPT2(size(17, w), GPT2Options{ErfGELU: true, Untied: true}) }, decoder},
		{"gpt2-17-cache", func(w ...string) *graph.Model { return GPT2(size(17, w), GPT2Options{Cache: true}) }, gpt2Cache},
		{"gpt2-17-merged-past", merged, append(pasts(3, 1, 2, 3, 16), tokens("input_ids", 40, 1, 4), mask("attention_mask", 7, 2), yes)},
		{"gpt2-17-merged-start", merged, append(pasts(3, 1, 2, 0, 16), tokens("input_ids", 40, 1, 4), mask("attention_mask", 4, 0), no)},
		{"gpt2-17-fused", func(w ...string) *graph.Model { return FusedGPT2(size(17, w)) },
			append(stackedPasts(3, 2, 2, 3, 16), tokens("input_ids", 40, 2, 4), mask("attention_mask", 7, 0, 2))},
		{"llama-13", func(w ...string) *graph.Model { return LLaMA(size(13, w), LLaMAOptions{}) }, decoder},
		{"llama-18-bias", func(w ...string) *graph.Model { return LLaMA(size(18, w), LLaMAOptions{Bias: true}) }, decoder},
		{"llama-17-cache", func(w ...string) *graph.Model { return LLaMA(size(17, w), LLaMAOptions{Cache: true}) }, llamaCache},
		{"llama-17-wide", func(w ...string) *graph.Model {
			return LLaMA(Size{Opset: 17, Seed: 1, Width: 64, Without: w}, LLaMAOptions{Cache: true})
		}, append(slices.Clone(fusedStart), npz.Int64Array("position_ids", []int{2, 4}, []int64{0, 1, 2, 3, 0, 1, 2, 3}))},
		{"llama-17-fused-start", func(w ...string) *graph.Model { return FusedLLaMA(size(17, w)) }, fusedStart},
		{"llama-17-fused-step", func(w ...string) *graph.Model { return FusedLLaMA(size(17, w)) }, fusedStep},
		{"llama-23", func(w ...string) *graph.Model { return LLaMA(size(23, w), LLaMAOptions{}) }, decoder},
		{"llama-23-cache", func(w ...string) *graph.Model { return LLaMA(size(23, w), LLaMAOptions{Cache: true}) }, llamaCache},
		{"llama-17-sandwich", func(w ...string) *graph.Model { return LLaMA(size(17, w), LLaMAOptions{Sandwich: true}) }, decoder},
		{"llama-17-headnorm", func(w ...string) *graph.Model { return LLaMA(size(17, w), LLaMAOptions{HeadNorm: true}) }, decoder},
		{"llama-18-functions", func(w ...string) *graph.Model {
			return LLaMA(size(18, w), LLaMAOptions{Cache: true, Functions: true})
		}, llamaCache},
		{"neox-17", func(w ...string) *graph.Model { return NeoX(size(17, w), NeoXOptions{}) }, decoder},
		{"neox-13-sharednorm", func(w ...string) *graph.Model { return NeoX(size(13, w), NeoXOptions{SharedNorm: true}) }, decoder},
		{"t5-17", func(w ...string) *graph.Model { return T5(size(17, w)) }, []*npz.Array{tokens("input_ids", 40, 2, 9), mask("attention_mask", 9, 0, -3), tokens("decoder_input_ids", 40, 2, 6)}},
		{"whisper-17", func(w ...string) *graph.Model { return Whisper(size(17, w), WhisperOptions{}) },
			[]*npz.Array{numbers("input_features", 2, 16, 11), tokens("decoder_input_ids", 40, 2, 5)}},
		{"whisper-17-step", func(w ...string) *graph.Model { return Whisper(size(17, w), WhisperOptions{Decoder: true}) },
			append(sidePasts(2, 2, 3, 6), tokens("input_ids", 40, 2, 1))},
		{"whisper-17-merged-past", whisper, append(sidePasts(2, 1, 3, 6), tokens("input_ids", 40, 1, 1), numbers("encoder_hidden_states", 1, 6, 32), yes)},
		{"whisper-17-merged-start", whisper, append(sidePasts(2, 1, 0, 0), tokens("input_ids", 40, 1, 4), numbers("encoder_hidden_states", 1, 6, 32), no)},
		{"vit-13", func(w ...string) *graph.Model { return ViT(size(13, w), ViTOptions{}) }, picture},
		{"vit-17-layerscale", func(w ...string) *graph.Model { return ViT(size(17, w), ViTOptions{LayerScale: true}) }, picture},
		{"lenet-13", func(...string) *graph.Model { return LeNet(CNN{Opset: 13, Seed: 1}) }, []*npz.Array{numbers("image", 2, 1, 12, 12)}},
		{"resnet-13", func(...string) *graph.Model { return ResNet(CNN{Opset: 13, Seed: 1}) }, []*npz.Array{numbers("image", 2, 3, 16, 16)}},
		{"resnet-17-norms", func(...string) *graph.Model { return ResNet(CNN{Opset: 17, Seed: 1, BatchNorm: true}) }, []*npz.Array{numbers("image", 2, 3, 16, 16)}},
	}
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// tokens draws integers below limit.
func tokens(name string, limit int, shape ...int) *npz.Array {
	r := rand.New(rand.NewPCG(7, uint64(limit)))
	data := make([]int64, product(shape))
	for i := range data {
		data[i] = int64(r.IntN(limit))
	}
	return npz.Int64Array(name, shape, data)
}

// numbers draws multiples of 1/64 in −2 to 2.
func numbers(name string, shape ...int) *npz.Array {
	h := fnv.New64a()
	h.Write([]byte(name))
	r := rand.New(rand.NewPCG(8, h.Sum64()))
	data := make([]float32, product(shape))
	for i := range data {
		data[i] = float32(r.IntN(257)-128) / 64
	}
	return npz.Float32Array(name, shape, data)
}

// mask is an attention mask [len(gone), length]: the first gone[i] tokens of
// sample i do not count, the last ones where gone[i] is negative.
func mask(name string, length int, gone ...int) *npz.Array {
	data := make([]int64, 0, len(gone)*length)
	for _, g := range gone {
		for t := range length {
			keep := int64(1)
			if g > 0 && t < g || g < 0 && t >= length+g {
				keep = 0
			}
			data = append(data, keep)
		}
	}
	return npz.Int64Array(name, []int{len(gone), length}, data)
}

// pasts is a cache [batch, heads, length, size] for every layer.
func pasts(layers, batch, heads, length, size int) []*npz.Array {
	var out []*npz.Array
	for i := range layers {
		p := pastNames(i)
		out = append(out, numbers(p[0], batch, heads, length, size), numbers(p[1], batch, heads, length, size))
	}
	return out
}

// sidePasts is a cache [batch, 2, length, 16] for both attentions of every layer
// of Whisper's decoder: of own tokens and of the encoder's.
func sidePasts(layers, batch, own, far int) []*npz.Array {
	var out []*npz.Array
	for i := range layers {
		for _, side := range sides {
			length := map[string]int{"decoder": own, "encoder": far}[side]
			for _, role := range []string{"key", "value"} {
				out = append(out, numbers(fmt.Sprintf(pastPrefix+"%d.%s.%s", i, side, role), batch, 2, length, 16))
			}
		}
	}
	return out
}

// stackedPasts are the caches of pasts, keys and values of a layer in one
// array [2, batch, heads, length, size].
func stackedPasts(layers, batch, heads, length, size int) []*npz.Array {
	var out []*npz.Array
	list := pasts(layers, batch, heads, length, size)
	for i := range layers {
		key, value := list[2*i], list[2*i+1]
		out = append(out, &npz.Array{Name: fmt.Sprintf("past_%d", i), DType: key.DType, Shape: append([]int{2}, key.Shape...),
			Raw: append(slices.Clone(key.Raw), value.Raw...)})
	}
	return out
}
