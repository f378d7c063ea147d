package main

// groups is the table of what is measured: in each group a baseline against
// contenders, with the goal for the ratio of their times where there is one.
var groups = []group{
	{
		name: "dense", title: "Dense layers", unit: "MatMul of [T, n] with constant weights [n, m]",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: linear(768, 768), tokens: []int{1, 8, 128, 512}, contenders: []contender{{goal: 1}}},
			{of: linear(768, 3072), tokens: []int{1, 8, 128, 512}, contenders: []contender{{goal: 1}}},
			{of: linear(3072, 768), tokens: []int{1, 8, 128, 512}, contenders: []contender{{goal: 1}}},
			{of: linear(384, 1536), tokens: []int{1, 8, 128, 512}, contenders: []contender{{goal: 1}}},
			{of: linear(1001, 768), tokens: []int{1, 77}, contenders: []contender{{goal: 1}}},
			{of: linear(768, 1001), tokens: []int{1, 77}, contenders: []contender{{goal: 1}}},
			{of: linear(1001, 1001), tokens: []int{13, 77}, contenders: []contender{{goal: 1}}},
		},
	},
	{
		name: "circulant", title: "Block-circulant layers, many tokens", unit: "against the dense layer in ONNX Runtime",
		base: ortSide(), side: latheSide(1), plot: true,
		contests: []contest{
			{of: linear(768, 3072), tokens: []int{128}, contenders: []contender{
				{block: 4}, {block: 8, goal: 5.5}, {block: 16, goal: 10.5}, {block: 32, goal: 18}, {block: 64, goal: 28}, {block: 128}}},
			{of: linear(3072, 768), tokens: []int{128}, contenders: []contender{
				{block: 4}, {block: 8, goal: 5.5}, {block: 16, goal: 10.5}, {block: 32, goal: 18}, {block: 64, goal: 28}, {block: 128}}},
		},
	},
	{
		name: "int16", title: "Block-circulant layers in 16-bit fixed point", unit: "against the same layers in float32, conversions of the first input and the last output included",
		base: latheSide(1), side: latheSide(1), float: true,
		contests: []contest{
			{of: centred(768, 3072), tokens: []int{128}, contenders: fixedContenders},
			{of: centred(3072, 768), tokens: []int{128}, contenders: fixedContenders},
			{of: layers("768 → 3072 → 768, mean 0", 0, size{768, 3072}, size{3072, 768}), tokens: []int{128}, contenders: fixedContenders},
		},
	},
	{
		name: "int16-conv", title: "Convolutions in 16-bit fixed point", unit: "against the same layer or network in float32, conversions of input and output included",
		base: latheSide(1), side: latheSide(1), float: true,
		contests: []contest{
			{of: mnist, contenders: []contender{{fixed: true, goal: 1}, {block: 4, fixed: true, goal: 1}}},
			{of: convolution(256, 256, 3, 1, 28, 1), contenders: []contender{{fixed: true, goal: 1}, {block: 4, fixed: true}, {block: 8, fixed: true}}},
			{of: convolution(64, 64, 3, 1, 56, 1), contenders: []contender{{fixed: true}}},
			{of: convolution(256, 64, 1, 1, 56, 1), contenders: []contender{{fixed: true}}},
		},
	},
	{
		name: "int8", title: "16-bit fixed point against dynamic 8-bit quantization", unit: "block-circulant layers in int16, conversions included, against the dense layer with int8 weights in ONNX Runtime",
		base: ortSide(), side: latheSide(1), bytes: true,
		contests: []contest{
			{of: centred(768, 3072), tokens: []int{128}, contenders: bytesContenders},
			{of: centred(3072, 768), tokens: []int{128}, contenders: bytesContenders},
		},
	},
	{
		name: "chain", title: "Block-circulant layers, one token, dense weights out of the caches",
		unit: "24 times 768 → 3072 → 768, one after the other",
		base: ortSide(), side: latheSide(1), plot: true,
		contests: []contest{
			{of: chain(24), tokens: []int{1}, contenders: []contender{
				{block: 4}, {block: 8, goal: 12}, {block: 16, goal: 45}, {block: 32, goal: 75}, {block: 64, goal: 125}, {block: 128}}},
		},
	},
	{
		name: "kernel", title: "Kernels alone", unit: "without graph, session and allocation of outputs",
		base: ortSide(), side: kernelSide(),
		contests: []contest{
			{of: linear(768, 3072), tokens: []int{1, 8, 128}, contenders: []contender{{}, {block: 8}, {block: 16}, {block: 32}, {block: 64}}},
		},
	},
	{
		name: "bert", title: "BERT-base", unit: "12 layers, width 768, batch 1; dropped: three of the twelve layers, six of 24 modules",
		base: ortSide(), side: latheSide(1), plot: true,
		contests: []contest{
			{of: bertBase, tokens: []int{128}, contenders: []contender{
				{goal: 1}, {block: 16, goal: 6}, {block: 64, goal: 9}, {block: 16, drop: true, goal: 8}, {block: 64, drop: true, goal: 12}}},
		},
	},
	{
		name: "threads", title: "Two threads against one", unit: "time of the world, so only an idle machine tells",
		base: latheSide(1), side: latheSide(2), same: true, wall: true,
		contests: []contest{
			{of: bertBase, tokens: []int{128}, contenders: []contender{{goal: 1.7}, {block: 16, goal: 1.7}}},
			{of: linear(768, 3072), tokens: []int{128, 512}, contenders: []contender{{goal: 1.7}, {block: 16, goal: 1.7}}},
		},
	},
	{
		name: "gpt2", title: "GPT-2-base", unit: "decoding one token with a cache of T − 1 tokens, logits of 50,257 words included",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: gpt2Base, tokens: []int{257}, contenders: []contender{{}, {block: 16, goal: 10}}},
		},
	},
	{
		name: "small", title: "Small public models as they are", unit: "batch 1",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: public("KWT-1", "kwt1_mfcc_opset17.onnx", "kwt_eval.npz"), contenders: []contender{{goal: 1.5}}},
			{of: public("stories260K", "stories260K_opset17.onnx", "stories_eval.npz"), contenders: []contender{{goal: 1.5}}},
		},
	},
	{
		name: "cnn", title: "Convolutional networks", unit: "batch 1",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: leNet, contenders: []contender{{goal: 0.9}}},
			{of: resNet18, contenders: []contender{{goal: 0.9}}},
		},
	},
	{
		name: "conv", title: "Convolutions", unit: "one layer with bias and Relu, batch 1; in ONNX Runtime, tensors change their layout before and after it, which within a network they share",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: convolution(3, 64, 7, 2, 224, 1), contenders: []contender{{}}},
			{of: convolution(64, 64, 3, 1, 56, 1), contenders: []contender{{}}},
			{of: convolution(64, 128, 3, 2, 56, 1), contenders: []contender{{}}},
			{of: convolution(64, 128, 1, 2, 56, 1), contenders: []contender{{}}},
			{of: convolution(128, 128, 3, 1, 28, 1), contenders: []contender{{}}},
			{of: convolution(256, 256, 3, 1, 14, 1), contenders: []contender{{}}},
			{of: convolution(512, 512, 3, 1, 7, 1), contenders: []contender{{}}},
			{of: convolution(64, 256, 1, 1, 56, 1), contenders: []contender{{}}},
			{of: convolution(256, 64, 1, 1, 56, 1), contenders: []contender{{}}},
			{of: convolution(512, 2048, 1, 1, 7, 1), contenders: []contender{{}}},
			{of: convolution(32, 32, 3, 1, 112, 32), contenders: []contender{{}}},
			{of: convolution(96, 96, 3, 2, 112, 96), contenders: []contender{{}}},
			{of: convolution(384, 384, 3, 1, 14, 384), contenders: []contender{{}}},
			{of: convolution(128, 128, 3, 1, 56, 32), contenders: []contender{{}}},
			{of: convolution(1, 6, 5, 1, 28, 1), contenders: []contender{{}}},
			{of: convolution(6, 16, 5, 1, 14, 1), contenders: []contender{{}}},
		},
	},
	{
		name: "circulant-conv", title: "Block-circulant convolutions", unit: "one layer with bias and Relu, batch 1, against the dense layer in ONNX Runtime",
		base: ortSide(), side: latheSide(1),
		contests: []contest{
			{of: convolution(256, 256, 3, 1, 28, 1), contenders: []contender{{block: 4}, {block: 8, goal: 4}, {block: 16}, {block: 32}}},
			{of: convolution(64, 64, 3, 1, 56, 1), contenders: []contender{{block: 4}, {block: 8}, {block: 16}}},
			{of: convolution(128, 128, 3, 1, 28, 1), contenders: []contender{{block: 4}, {block: 8}, {block: 16}}},
			{of: convolution(128, 256, 3, 2, 28, 1), contenders: []contender{{block: 4}, {block: 8}, {block: 16}}},
			{of: convolution(512, 512, 3, 1, 7, 1), contenders: []contender{{block: 4}, {block: 8}, {block: 16}}},
			{of: convolution(256, 256, 1, 1, 28, 1), contenders: []contender{{block: 4}, {block: 8}, {block: 16}}},
		},
	},
	{
		name: "stock", title: "The rewritten file in stock ONNX Runtime", unit: "block-circulant layers as the standard operators that define them",
		base: ortSide(), side: ortSide(),
		contests: []contest{
			{of: linear(768, 3072), tokens: []int{128}, contenders: []contender{{block: 16}, {block: 32, goal: 2}, {block: 64}}},
			{of: linear(3072, 768), tokens: []int{128}, contenders: []contender{{block: 16}, {block: 32, goal: 2}, {block: 64}}},
			{of: convolution(256, 256, 3, 1, 28, 1), contenders: []contender{{block: 8}}},
		},
	},
}

// fixedContenders have the goal of being no slower than float32, and faster where
// products dominate.
var fixedContenders = []contender{
	{block: 2, fixed: true, goal: 1}, {block: 4, fixed: true, goal: 1}, {block: 8, fixed: true, goal: 1.3}, {block: 16, fixed: true, goal: 1},
	{block: 32, fixed: true, goal: 1}, {block: 64, fixed: true, goal: 1}, {block: 128, fixed: true, goal: 1}, {block: 256, fixed: true, goal: 1},
}

// bytesContenders have a goal where the loss of a healed model is small.
var bytesContenders = []contender{{block: 8, fixed: true}, {block: 16, fixed: true, goal: 3}, {block: 32, fixed: true}}

// A group is measured and shown together.
type group struct {
	name        string // selects it on the command line
	title, unit string // heading, and what the figures are of
	base, side  side
	same        bool // the baseline runs the contender's model and not the original
	float       bool // the baseline runs the contender's model before it is put into fixed point
	bytes       bool // the baseline runs the original in dynamic 8-bit quantization
	wall        bool // time of the world counts, and not that of the processor
	plot        bool // contenders with blocks are drawn
	contests    []contest
}

// A contest runs an original, for each number of tokens, against contenders.
type contest struct {
	of         original
	tokens     []int // nil: the model has none, or its inputs say
	contenders []contender
}

// sizes are the numbers of tokens, 0 where there are none.
func (c contest) sizes() []int {
	if c.tokens == nil {
		return []int{0}
	}
	return c.tokens
}

// A contender is what the original is turned into.
type contender struct {
	block int     // block size of the layers that were dense; 0 leaves them
	drop  bool    // a quarter of the modules is dropped
	fixed bool    // layers are put into 16-bit fixed point
	bytes bool    // layers are put into dynamic 8-bit quantization
	goal  float64 // for the time of the baseline ÷ that of the contender; 0: none
}

// variant is c without what is said about it: equal variants are equal models.
func (c contender) variant() contender {
	return contender{block: c.block, drop: c.drop, fixed: c.fixed, bytes: c.bytes}
}
