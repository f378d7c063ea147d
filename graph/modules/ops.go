package modules

import "github.com/onnx-lathe/lathe/graph"

// class is what the analysis needs to know of an operator.
type class uint8

const (
	opaque      class = iota // nothing is known: it may do anything with its inputs
	through                  // output 0 is input 0 as far as dataflow goes
	shapeOf                  // reads the dims of its input, not the data
	constant                 // a constant without inputs
	random                   // never constant
	addition                 // adds its inputs
	elementwise              // acts on every element alone, with broadcasting
	layout                   // moves, copies or selects elements
	reduction                // reduces over axes
	softmax
	norm      // a norm in one node
	product   // matrix product; a linear layer where an operand is constant
	fused     // attention in one node
	skipNorm  // an Add and a norm in one node
	embedding // sum of embeddings, and a norm
)

// operator is what the analysis knows of one operator. Operands are input
// positions.
type operator struct {
	class
	weight int       // product, fused: the operand that can hold weights (behind data, operand 0)
	attn   *attnPort // fused
	rms    bool      // norm, skipNorm: no mean is subtracted
	sum    int       // skipNorm: the output that gives the sum
}

// attnPort says where a fused attention takes its operands (-1: it projects
// them itself) and where it keeps its cache.
type attnPort struct {
	key, value    int
	past, present []int // key and value, or one stacked [2, B, N, S, H]
}

// domains of the table below: "" stands for ai.onnx.
const microsoft = "com.microsoft."

// operators lists the operators that transformers are made of, by domain and
// name; ai.onnx has no prefix. An operator that is not here is opaque.
// com.microsoft: positions from ONNX Runtime's ContribOperators.md.
var operators = func() map[string]operator {
	t := map[string]operator{
		"Constant":                {class: constant},
		"Shape":                   {class: shapeOf},
		"Size":                    {class: shapeOf},
		"EyeLike":                 {class: shapeOf},
		"RandomNormal":            {class: random},
		"RandomUniform":           {class: random},
		"RandomNormalLike":        {class: random},
		"RandomUniformLike":       {class: random},
		"Bernoulli":               {class: random},
		"Multinomial":             {class: random},
		"Identity":                {class: through},
		"Dropout":                 {class: through},
		"Add":                     {class: addition},
		"Sum":                     {class: addition},
		"Softmax":                 {class: softmax},
		microsoft + "BiasSoftmax": {class: softmax},

		"LayerNormalization":                       {class: norm},
		microsoft + "LayerNormalization":           {class: norm},
		"SimplifiedLayerNormalization":             {class: norm, rms: true},
		microsoft + "SimplifiedLayerNormalization": {class: norm, rms: true},
		"RMSNormalization":                         {class: norm, rms: true},

		"MatMul":                                    {class: product, weight: 1},
		"Gemm":                                      {class: product, weight: 1},
		"Einsum":                                    {class: product, weight: 1},
		"MatMulInteger":                             {class: product, weight: 1},
		"QLinearMatMul":                             {class: product, weight: 3},
		microsoft + "FusedMatMul":                   {class: product, weight: 1},
		microsoft + "TransposeMatMul":               {class: product, weight: 1},
		microsoft + "FusedGemm":                     {class: product, weight: 1},
		microsoft + "GemmFastGelu":                  {class: product, weight: 1},
		microsoft + "GemmFloat8":                    {class: product, weight: 1},
		microsoft + "MatMulNBits":                   {class: product, weight: 1},
		microsoft + "MatMulBnb4":                    {class: product, weight: 1},
		microsoft + "MatMulFpQ4":                    {class: product, weight: 1},
		microsoft + "MatMulIntegerToFloat":          {class: product, weight: 1},
		microsoft + "DynamicQuantizeMatMul":         {class: product, weight: 1},
		microsoft + "QGemm":                         {class: product, weight: 3},
		graph.LatheDomain + ".BlockCirculantMatMul": {class: product, weight: 1},

		"Attention":                                   {class: fused, attn: &attnPort{key: 1, value: 2, past: []int{4, 5}, present: []int{1, 2}}, weight: -1},
		microsoft + "Attention":                       {class: fused, attn: &attnPort{key: -1, value: -1, past: []int{4}, present: []int{1}}, weight: 1},
		microsoft + "QAttention":                      {class: fused, attn: &attnPort{key: -1, value: -1, past: []int{8}, present: []int{1}}, weight: 1},
		microsoft + "MultiHeadAttention":              {class: fused, attn: &attnPort{key: 1, value: 2, past: []int{6, 7}, present: []int{1, 2}}, weight: -1},
		microsoft + "GroupQueryAttention":             {class: fused, attn: &attnPort{key: 1, value: 2, past: []int{3, 4}, present: []int{1, 2}}, weight: -1},
		microsoft + "SparseAttention":                 {class: fused, attn: &attnPort{key: 1, value: 2, past: []int{3, 4}, present: []int{1, 2}}, weight: -1},
		microsoft + "DecoderMaskedMultiHeadAttention": {class: fused, attn: &attnPort{key: 1, value: 2, past: []int{5, 6}, present: []int{1, 2}}, weight: -1},
		microsoft + "DecoderMaskedSelfAttention":      {class: fused, attn: &attnPort{key: -1, value: -1, past: []int{4}, present: []int{1}}, weight: 1},
		microsoft + "PackedAttention":                 {class: fused, attn: &attnPort{key: -1, value: -1}, weight: 1},
		microsoft + "PackedMultiHeadAttention":        {class: fused, attn: &attnPort{key: 1, value: 2}, weight: -1},
		microsoft + "LongformerAttention":             {class: fused, attn: &attnPort{key: -1, value: -1}, weight: 1},

		microsoft + "SkipLayerNormalization":           {class: skipNorm, sum: 3},
		microsoft + "SkipSimplifiedLayerNormalization": {class: skipNorm, rms: true, sum: 3},
		microsoft + "EmbedLayerNormalization":          {class: embedding},
	}
	for _, op := range []string{
		"Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "PRelu",
		"Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "HardSwish", "HardSigmoid", "Softplus", "Softsign",
		"ThresholdedRelu", "Clip", "Min", "Max", "Mean", "Abs", "Neg", "Reciprocal", "Floor", "Ceil", "Round", "Sign",
		"Sin", "Cos", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor",
		"IsNaN", "IsInf", "Cast", "CastLike", "Mod", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
		microsoft + "Gelu", microsoft + "FastGelu", microsoft + "QuickGelu", microsoft + "BiasGelu",
		microsoft + "QuantizeLinear", microsoft + "DequantizeLinear", microsoft + "BiasAdd",
	} {
		t[op] = operator{class: elementwise}
	}
	for _, op := range []string{
		"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Slice", "Split", "Concat",
		"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "TensorScatter", "Pad", "Trilu",
	} {
		t[op] = operator{class: layout}
	}
	for _, op := range []string{
		"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
		"ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
	} {
		t[op] = operator{class: reduction}
	}
	return t
}()
