package graph

import (
	"fmt"
	"slices"
)

// rule finds the types of a node's outputs, and their contents where they are
// small integers; it fails where the inputs cannot fit the operator.
type rule func(*call) error

// inferRules has the rule of every operator that inference understands; If,
// Loop, Scan and calls of functions are handled in infer.go.
var inferRules = map[opKey]rule{
	// Elementwise on one tensor.
	{"", "Abs"}: inferSame, {"", "Acos"}: inferSame, {"", "Acosh"}: inferSame, {"", "Asin"}: inferSame, {"", "Asinh"}: inferSame,
	{"", "Atan"}: inferSame, {"", "Atanh"}: inferSame, {"", "BitwiseNot"}: inferSame, {"", "Ceil"}: inferWhole, {"", "Celu"}: inferSame,
	{"", "Clip"}: inferSame, {"", "Cos"}: inferSame, {"", "Cosh"}: inferSame, {"", "Elu"}: inferSame, {"", "Erf"}: inferSame,
	{"", "Exp"}: inferSame, {"", "Floor"}: inferWhole, {"", "Gelu"}: inferSame, {"", "HardSigmoid"}: inferSame, {"", "HardSwish"}: inferSame,
	{"", "Identity"}: inferIdentity, {"", "LeakyRelu"}: inferSame, {"", "Log"}: inferSame, {"", "Mish"}: inferSame, {"", "Neg"}: inferNegate,
	{"", "Not"}: inferNot, {"", "Reciprocal"}: inferSame, {"", "Relu"}: inferSame, {"", "Round"}: inferWhole, {"", "Selu"}: inferSame,
	{"", "Shrink"}: inferSame, {"", "Sigmoid"}: inferSame, {"", "Sign"}: inferSame, {"", "Sin"}: inferSame, {"", "Sinh"}: inferSame,
	{"", "Softplus"}: inferSame, {"", "Softsign"}: inferSame, {"", "Sqrt"}: inferSame, {"", "Swish"}: inferSame, {"", "Tan"}: inferSame,
	{"", "Tanh"}: inferSame, {"", "ThresholdedRelu"}: inferSame, {"", "IsInf"}: inferIsBool, {"", "IsNaN"}: inferIsBool,
	{"", "Affine"}: inferSame, {"", "ScaledTanh"}: inferSame, {"", "ParametricSoftplus"}: inferSame, {"", "ImageScaler"}: inferSame,
	{"", "Cast"}: inferCast, {"", "CastLike"}: inferCastLike, {"", "BitCast"}: inferBitCast, {"", "SwiGLU"}: inferSame, {"", "Bernoulli"}: inferSameAs, {"", "Dropout"}: inferDropout,

	// Elementwise on several, broadcast.
	{"", "Add"}: inferArithmetic((*expr).add), {"", "Sub"}: inferArithmetic((*expr).sub), {"", "Mul"}: inferArithmetic((*expr).mul),
	{"", "Div"}: inferQuotient, {"", "Mod"}: inferArithmetic(modulo), {"", "Pow"}: inferPow,
	{"", "Max"}: inferArithmetic((*expr).maximum), {"", "Min"}: inferArithmetic((*expr).minimum), {"", "Mean"}: inferArithmetic(nil), {"", "Sum"}: inferArithmetic((*expr).add),
	{"", "And"}: inferComparison((*expr).and), {"", "Or"}: inferComparison((*expr).or), {"", "Xor"}: inferComparison(nil),
	{"", "Equal"}: inferComparison((*expr).equals), {"", "Greater"}: inferComparison((*expr).greater), {"", "GreaterOrEqual"}: inferComparison((*expr).greaterOrEqual),
	{"", "Less"}: inferComparison((*expr).less), {"", "LessOrEqual"}: inferComparison((*expr).lessOrEqual),
	{"", "BitShift"}: inferArithmetic(nil), {"", "BitwiseAnd"}: inferArithmetic(nil), {"", "BitwiseOr"}: inferArithmetic(nil), {"", "BitwiseXor"}: inferArithmetic(nil),
	{"", "PRelu"}: inferSame, {"", "Where"}: inferWhere,

	// Along an axis, with the shape kept.
	{"", "CumSum"}: inferAxisIn(1), {"", "CumProd"}: inferAxisIn(1), {"", "Hardmax"}: inferAxisAttr, {"", "LogSoftmax"}: inferAxisAttr, {"", "Softmax"}: inferAxisAttr,
	{"", "LpNormalization"}: inferAxisAttr, {"", "MeanVarianceNormalization"}: inferSame, {"", "LRN"}: inferSame, {"", "ReverseSequence"}: inferSame, {"", "Trilu"}: inferSame,
	{"", "InstanceNormalization"}: inferSame, {"", "GroupNormalization"}: inferSame, {"", "RMSNormalization"}: inferAxisAttr, {"", "SimplifiedLayerNormalization"}: inferLayerNorm,
	{"", "LayerNormalization"}: inferLayerNorm, {"", "BatchNormalization"}: inferBatchNorm, {"", "RotaryEmbedding"}: inferSame,

	// Reductions.
	{"", "ReduceL1"}: inferReduce(18, nil), {"", "ReduceL2"}: inferReduce(18, nil), {"", "ReduceLogSum"}: inferReduce(18, nil), {"", "ReduceLogSumExp"}: inferReduce(18, nil),
	{"", "ReduceMax"}: inferReduce(18, (*expr).maximum), {"", "ReduceMean"}: inferReduce(18, nil), {"", "ReduceMin"}: inferReduce(18, (*expr).minimum),
	{"", "ReduceProd"}: inferReduce(18, (*expr).mul), {"", "ReduceSum"}: inferReduce(13, (*expr).add), {"", "ReduceSumSquare"}: inferReduce(18, nil),
	{"", "ArgMax"}: inferArgMax, {"", "ArgMin"}: inferArgMax,

	// Shape and layout.
	{"", "Reshape"}: inferReshape, {"", "Transpose"}: inferTranspose, {"", "Squeeze"}: inferSqueeze, {"", "Unsqueeze"}: inferUnsqueeze, {"", "Flatten"}: inferFlatten,
	{"", "Concat"}: inferConcat, {"", "Split"}: inferSplit, {"", "Slice"}: inferSlice, {"", "Expand"}: inferExpand, {"", "Tile"}: inferTile, {"", "Pad"}: inferPad,
	{"", "Shape"}: inferShapeOf, {"", "Size"}: inferSizeOf, {"", "DepthToSpace"}: inferDepthToSpace, {"", "SpaceToDepth"}: inferSpaceToDepth,
	{"", "CenterCropPad"}: inferCenterCropPad,

	// Lookup.
	{"", "Gather"}: inferGather, {"", "GatherElements"}: inferGatherElements, {"", "GatherND"}: inferGatherND, {"", "Scatter"}: inferSame,
	{"", "ScatterElements"}: inferSame, {"", "ScatterND"}: inferSame, {"", "TensorScatter"}: inferSame, {"", "OneHot"}: inferOneHot, {"", "TopK"}: inferTopK, {"", "NonZero"}: inferNonZero,
	{"", "Compress"}: inferCompress, {"", "Unique"}: inferUnique, {"", "NonMaxSuppression"}: inferNonMaxSuppression, {"", "EyeLike"}: inferSameAs,

	// Made from nothing.
	{"", "Constant"}: inferConstantNode, {"", "ConstantOfShape"}: inferConstantOfShape, {"", "Range"}: inferRangeOf,
	{"", "RandomNormal"}: inferRandom, {"", "RandomUniform"}: inferRandom, {"", "RandomNormalLike"}: inferSameAs, {"", "RandomUniformLike"}: inferSameAs,
	{"", "Multinomial"}: inferMultinomial, {"", "HannWindow"}: inferWindow, {"", "HammingWindow"}: inferWindow, {"", "BlackmanWindow"}: inferWindow,
	{"", "MelWeightMatrix"}: inferMelWeightMatrix,

	// Products.
	{"", "MatMul"}: inferMatMul, {"", "Gemm"}: inferGemm, {"", "Einsum"}: inferEinsum, {"", "MatMulInteger"}: inferMatMulInteger, {"", "QLinearMatMul"}: inferQLinearMatMul,
	{"", "Det"}: inferDet,

	// Convolution, pooling, images.
	{"", "Conv"}: inferConv, {"", "ConvInteger"}: inferConvInteger, {"", "QLinearConv"}: inferQLinearConv, {"", "ConvTranspose"}: inferConvTranspose, {"", "DeformConv"}: inferDeformConv,
	{"", "AveragePool"}: inferPool, {"", "LpPool"}: inferPool, {"", "MaxPool"}: inferPool,
	{"", "MaxUnpool"}: inferMaxUnpool, {"", "GlobalAveragePool"}: inferGlobalPool, {"", "GlobalLpPool"}: inferGlobalPool, {"", "GlobalMaxPool"}: inferGlobalPool,
	{"", "MaxRoiPool"}: inferMaxRoiPool, {"", "RoiAlign"}: inferRoiAlign, {"", "Resize"}: inferResize, {"", "Upsample"}: inferResize,
	{"", "GridSample"}: inferGridSample, {"", "AffineGrid"}: inferAffineGrid, {"", "Col2Im"}: inferCol2Im,

	// Signals.
	{"", "DFT"}: inferDft, {"", "STFT"}: inferStft,

	// Recurrent networks and attention.
	{"", "RNN"}: inferRecurrent, {"", "GRU"}: inferRecurrent, {"", "LSTM"}: inferRecurrent, {"", "Attention"}: inferAttention,
	{"", "LinearAttention"}: inferLinearAttention, {"", "CausalConvWithState"}: inferCausalConv,

	// Quantization.
	{"", "QuantizeLinear"}: inferQuantizeLinear, {"", "DequantizeLinear"}: inferDequantizeLinear, {"", "DynamicQuantizeLinear"}: inferDynamicQuantizeLinear,

	// Text.
	{"", "StringNormalizer"}: inferStringNormalizer, {"", "StringConcat"}: inferStringConcat, {"", "StringSplit"}: inferStringSplit,
	{"", "RegexFullMatch"}: inferIsBool, {"", "TfIdfVectorizer"}: inferTfIdf,

	// Losses.
	{"", "NegativeLogLikelihoodLoss"}: inferLoss, {"", "SoftmaxCrossEntropyLoss"}: inferLoss,

	// Sequences and optionals.
	{"", "SequenceConstruct"}: inferSequenceConstruct, {"", "SequenceEmpty"}: inferSequenceEmpty, {"", "SequenceInsert"}: inferSequenceInsert,
	{"", "SequenceErase"}: inferSequenceErase, {"", "SequenceAt"}: inferSequenceAt, {"", "SequenceLength"}: inferSequenceLength,
	{"", "ConcatFromSequence"}: inferConcatFromSequence, {"", "SplitToSequence"}: inferSplitToSequence,
	{"", "Optional"}: inferOptional, {"", "OptionalGetElement"}: inferOptionalGetElement, {"", "OptionalHasElement"}: inferOptionalHasElement,

	// ONNX Runtime's fused operators.
	{"com.microsoft", "Attention"}: inferFusedAttention, {"com.microsoft", "MultiHeadAttention"}: inferMultiHeadAttention,
	{"com.microsoft", "GroupQueryAttention"}: inferGroupQueryAttention, {"com.microsoft", "EmbedLayerNormalization"}: inferEmbedLayerNorm,
	{"com.microsoft", "SkipLayerNormalization"}: inferSkipLayerNorm, {"com.microsoft", "SkipSimplifiedLayerNormalization"}: inferSkipLayerNorm,
	{"com.microsoft", "BiasGelu"}: inferSame, {"com.microsoft", "FastGelu"}: inferSame, {"com.microsoft", "Gelu"}: inferSame, {"com.microsoft", "QuickGelu"}: inferSame,
	{"com.microsoft", "BiasSoftmax"}: inferSame, {"com.microsoft", "BiasAdd"}: inferSame, {"com.microsoft", "RotaryEmbedding"}: inferSame,
	{"com.microsoft", "FusedGemm"}: inferGemm, {"com.microsoft", "FusedMatMul"}: inferFusedMatMul, {"com.microsoft", "TransposeMatMul"}: inferFusedMatMul,
	{"com.microsoft", "FusedConv"}: inferConv, {"com.microsoft", "MatMulNBits"}: inferMatMulNBits,
	{"com.microsoft", "DynamicQuantizeMatMul"}: inferMatMul, {"com.microsoft", "MatMulIntegerToFloat"}: inferMatMulIntegerToFloat,
	{"com.microsoft", "QAttention"}:     inferQAttention,
	{"com.microsoft", "QuantizeLinear"}: inferQuantizeLinear, {"com.microsoft", "DequantizeLinear"}: inferDequantizeLinear,

	// lathe's own.
	{LatheDomain, "BlockCirculantMatMul"}: inferCirculantMatMul, {LatheDomain, "BlockCirculantConv"}: inferCirculantConv,
	{LatheDomain, "QuantizeInt16"}: inferTo(Int16), {LatheDomain, "DequantizeInt16"}: inferTo(Float32), {LatheDomain, "RequantizeInt16"}: inferSame,
	{LatheDomain, "MatMulInt16"}: inferMatMulInt16, {LatheDomain, "ConvInt16"}: inferConv, {LatheDomain, "BlockCirculantMatMulInt16"}: inferCirculantInt16,
	{LatheDomain, "BlockCirculantConvInt16"}: inferCirculantConvInt16,
	{LatheDomain, "AddInt16"}:                inferAddInt16, {LatheDomain, "ClipInt16"}: inferSame, {LatheDomain, "MaxPoolInt16"}: inferPool,
	{LatheDomain, "AveragePoolInt16"}: inferPool, {LatheDomain, "GlobalAveragePoolInt16"}: inferGlobalPool,
}

// inferSame gives output 0 the type of input 0.
func inferSame(c *call) error {
	if len(c.out) > 0 {
		c.out[0] = c.in(0)
	}
	return nil
}

// inferIdentity is same, with the content.
func inferIdentity(c *call) error {
	c.give(0, c.content(0))
	return inferSame(c)
}

// inferWhole is an operator that leaves whole numbers as they are.
func inferWhole(c *call) error { return inferIdentity(c) }

func inferNegate(c *call) error {
	c.give(0, elementwise(func(xs []*expr) *expr { return xs[0].mul(constant(-1)) }, c.content(0)))
	return inferSame(c)
}

func inferNot(c *call) error {
	c.give(0, elementwise(func(xs []*expr) *expr { return truth(xs[0].equals(constant(0))) }, c.content(0)))
	return inferSame(c)
}

// like gives output i the shape of input j with another element type.
func (c *call) like(i, j int, elem DType) {
	if dims, ok := c.dims(j); ok {
		c.set(i, elem, dims)
	} else {
		c.setElem(i, elem)
	}
}

func inferIsBool(c *call) error {
	c.like(0, 0, Bool)
	return nil
}

func inferCast(c *call) error {
	to := c.dtype("to", Undefined)
	c.like(0, 0, to)
	c.castContent(to)
	return nil
}

// inferStringNormalizer: strings of the same rank, some perhaps gone.
func inferStringNormalizer(c *call) error {
	if x, ok := c.dims(0); ok && len(x) == 2 {
		c.set(0, String, []Dim{x[0], UnknownDim})
	} else if ok {
		c.setRank(0, String, len(x))
	} else {
		c.setElem(0, String)
	}
	return nil
}

func inferStringConcat(c *call) error { return c.elementwise(String) }

// inferStringSplit: the parts, in one more dim, and how many there are.
func inferStringSplit(c *call) error {
	c.like(1, 0, Int64)
	if x, ok := c.dims(0); ok {
		c.set(0, String, append(slices.Clone(x), UnknownDim))
	} else {
		c.setElem(0, String)
	}
	return nil
}

// inferTfIdf: [N, C] or [C] → as many columns as ngram_indexes names.
func inferTfIdf(c *call) error {
	indexes, given := c.ints("ngram_indexes")
	x, ok := c.dims(0)
	if !ok || !given || len(indexes) == 0 || len(x) == 0 {
		c.setElem(0, Float32)
		return nil
	}
	out := []Dim{Known(slices.Max(indexes) + 1)}
	if len(x) == 2 {
		out = []Dim{x[0], out[0]}
	}
	c.set(0, Float32, out)
	return nil
}

func inferBitCast(c *call) error {
	c.like(0, 0, c.dtype("to", Undefined))
	return nil
}

func inferCastLike(c *call) error {
	c.like(0, 0, c.elem(1))
	c.castContent(c.elem(1))
	return nil
}

// castContent hands the elements on where no number changes.
func (c *call) castContent(to DType) {
	switch to {
	case Int64, Float64, Float32:
		c.give(0, c.content(0))
	case Int32, Bool:
		// Shapes fit an int32 in any model that runs; other numbers may not.
		x := c.content(0)
		if x == nil {
			return
		}
		c.give(0, elementwise(func(xs []*expr) *expr {
			v, ok := xs[0].value()
			switch {
			case to == Bool:
				same, known := xs[0].equals(constant(0))
				return truth(!same, known)
			case ok && int64(int32(v)) != v:
				return nil
			}
			return xs[0]
		}, x))
	}
}

// inferSameAs has the shape of input 0 and, if given, the element type of the
// attribute dtype.
func inferSameAs(c *call) error {
	c.like(0, 0, c.dtype("dtype", c.elem(0)))
	return nil
}

func inferDropout(c *call) error {
	mask := Bool
	if c.opset < 10 {
		mask = c.elem(0)
	}
	c.like(1, 0, mask)
	return inferIdentity(c)
}

// broadcastDim is the dimension of two that are broadcast to each other.
func (c *call) broadcastDim(a, b Dim) (Dim, bool) {
	switch {
	case a.N == 1:
		return b, true
	case b.N == 1:
		return a, true
	case a.IsKnown() && b.IsKnown():
		return a, a.N == b.N
	case a.IsKnown():
		return a, true
	case b.IsKnown():
		return b, true
	}
	// Two that are not the same are 1 and the other, so that the larger is
	// the result.
	switch x, y := c.expr(a), c.expr(b); {
	case x == nil || y == nil:
	case y.sub(x).upTo0():
		return a, true
	case x.sub(y).upTo0():
		return b, true
	}
	return UnknownDim, true
}

func (c *call) broadcastDims(a, b []Dim) ([]Dim, error) {
	if len(a) < len(b) {
		a, b = b, a
	}
	out := slices.Clone(a)
	skip := len(a) - len(b)
	for i := range b {
		var ok bool
		if out[skip+i], ok = c.broadcastDim(a[skip+i], b[i]); !ok {
			return nil, fmt.Errorf("shapes %v and %v cannot be broadcast", a, b)
		}
	}
	return out, nil
}

// broadcast gives output 0 the broadcast shape of inputs from … to.
func (c *call) broadcast(elem DType, from, to int) error {
	var out []Dim
	for i := from; i < to; i++ {
		dims, ok := c.dims(i)
		if !ok {
			c.setElem(0, elem)
			return nil
		}
		var err error
		if out, err = c.broadcastDims(out, dims); err != nil {
			return err
		}
	}
	if from < to {
		c.set(0, elem, out)
	}
	return nil
}

// elementwise broadcasts all inputs; before opset 7 the others follow the
// first, which is as large as the result.
func (c *call) elementwise(elem DType) error {
	n := len(c.n.inputs)
	if c.opset < 7 && NormalDomain(c.n.Domain) == "" {
		n = min(n, 1)
	}
	return c.broadcast(elem, 0, n)
}

func (c *call) allContents() []*content {
	out := make([]*content, len(c.n.inputs))
	for i := range out {
		out[i] = c.content(i)
	}
	return out
}

func inferArithmetic(f func(a, b *expr) *expr) rule {
	return func(c *call) error {
		if f != nil && len(c.n.inputs) > 0 && c.opset >= 7 {
			c.give(0, elementwise(fold(f), c.allContents()...))
		}
		return c.elementwise(c.elem(0))
	}
}

// inferQuotient divides whole numbers toward zero, others only where nothing
// remains.
func inferQuotient(c *call) error {
	f := divide
	if !c.elem(0).isInteger() {
		f = (*expr).div
	}
	return inferArithmetic(f)(c)
}

func (d DType) isInteger() bool {
	return d >= Uint8 && d <= Int64 || d == Uint32 || d == Uint64
}

func inferPow(c *call) error {
	c.give(0, elementwise(fold(func(a, b *expr) *expr {
		switch {
		case b.is(1):
			return a
		case b.is(2):
			return a.mul(a)
		}
		return nil
	}), c.content(0), c.content(1)))
	return c.elementwise(c.elem(0))
}

func inferComparison(f func(a, b *expr) (yes, known bool)) rule {
	return func(c *call) error {
		if f != nil {
			c.give(0, elementwise(fold(func(a, b *expr) *expr { return truth(f(a, b)) }), c.content(0), c.content(1)))
		}
		return c.elementwise(Bool)
	}
}

func inferWhere(c *call) error {
	elem := c.elem(1)
	if elem == Undefined {
		elem = c.elem(2)
	}
	c.give(0, elementwise(choose, c.content(0), c.content(1), c.content(2)))
	return c.broadcast(elem, 0, 3)
}

// axisOf returns the axis that an attribute names, for the rank of input 0;
// ok is false where the rank is not known.
func (c *call) axisOf(axis int64, rank int) (int, error) {
	a, ok := normalAxis(axis, rank)
	if !ok {
		return 0, fmt.Errorf("axis %d of a tensor of rank %d", axis, rank)
	}
	return a, nil
}

// inferAxisAttr is same for an operator whose attribute axis must exist.
func inferAxisAttr(c *call) error {
	if dims, ok := c.dims(0); ok && len(dims) > 0 {
		// Before opset 13 a Softmax may flatten at axis = rank.
		if axis := c.int("axis", -1); axis != int64(len(dims)) || c.opset >= 13 {
			if _, err := c.axisOf(axis, len(dims)); err != nil {
				return err
			}
		}
	}
	return inferSame(c)
}

// inferAxisIn is same for an operator whose axis is input i.
func inferAxisIn(i int) rule {
	return func(c *call) error {
		dims, ok := c.dims(0)
		if axis, known := c.content(i).number(); ok && known {
			if _, err := c.axisOf(axis, len(dims)); err != nil {
				return err
			}
		}
		return inferSame(c)
	}
}

// inferLayerNorm: Y is like X; Mean and InvStdDev have 1 for every normalised dim.
func inferLayerNorm(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		return inferSame(c)
	}
	axis, err := c.axisOf(c.int("axis", -1), len(dims))
	if err != nil {
		return err
	}
	stats := slices.Clone(dims)
	for i := axis; i < len(stats); i++ {
		stats[i] = Known(1)
	}
	stash := c.dtype("stash_type", Float32)
	for i := 1; i < len(c.out); i++ {
		c.set(i, stash, stats)
	}
	return inferSame(c)
}

// inferBatchNorm: Y is like X; the statistics are [C].
func inferBatchNorm(c *call) error {
	if dims, ok := c.dims(0); ok && len(dims) > 1 {
		for i := 1; i < len(c.out); i++ {
			elem := c.elem(3)
			if elem == Undefined {
				elem = c.elem(0)
			}
			if scale, ok := c.dims(1); ok && len(scale) == 1 {
				d, fits := c.unify(dims[1], scale[0])
				if !fits {
					return fmt.Errorf("%v channels and a scale of %v", dims[1], scale[0])
				}
				c.set(i, elem, []Dim{d})
			}
		}
	}
	return inferSame(c)
}

// unify returns what is known of two dimensions that must be the same.
func (c *call) unify(a, b Dim) (Dim, bool) {
	if a.IsKnown() && b.IsKnown() && a.N != b.N {
		return a, false
	}
	return better(a, b), true
}

// axes returns the axes that an attribute gives before opset since and input
// i from then on; given is false where they are left out, known where they
// are computed.
func (c *call) axes(since int64, i int) (axes []int64, given, known bool) {
	if c.opset < since {
		axes, given = c.ints("axes")
		return axes, given, true
	}
	if !c.has(i) {
		return nil, false, true
	}
	axes, known = c.content(i).numbers()
	return axes, true, known
}

// axisSet turns axes into a set over the dims of a tensor.
func (c *call) axisSet(axes []int64, rank int) ([]bool, error) {
	set := make([]bool, rank)
	for _, a := range axes {
		k, err := c.axisOf(a, rank)
		if err != nil {
			return nil, err
		}
		set[k] = true
	}
	return set, nil
}

// inferReduce is a reduction whose axes are an input from opset since on; f
// combines two elements.
func inferReduce(since int64, f func(a, b *expr) *expr) rule {
	return func(c *call) error {
		dims, ok := c.dims(0)
		axes, given, known := c.axes(since, 1)
		keep := c.int("keepdims", 1) != 0
		elem := c.elem(0)
		if !ok {
			c.setElem(0, elem)
			if !keep && known && !given && c.int("noop_with_empty_axes", 0) == 0 {
				c.set(0, elem, nil)
			}
			return nil
		}
		if !known {
			if keep {
				c.setRank(0, elem, len(dims))
			} else {
				c.setElem(0, elem)
			}
			return nil
		}
		set, err := c.axisSet(axes, len(dims))
		if err != nil {
			return err
		}
		if len(axes) == 0 {
			if c.int("noop_with_empty_axes", 0) != 0 {
				return inferSame(c)
			}
			for i := range set {
				set[i] = true
			}
		}
		var out []Dim
		for i, d := range dims {
			switch {
			case !set[i]:
				out = append(out, d)
			case keep:
				out = append(out, Known(1))
			}
		}
		c.set(0, elem, out)
		if x := c.content(0); f != nil && x != nil && len(x.elems) > 0 && !slices.Contains(set, false) {
			if sum := elementwise(fold(f), splitElems(x)...); sum != nil {
				c.give(0, sum.reshape(slices.Repeat([]int64{1}, len(out))))
			}
		}
		return nil
	}
}

// splitElems returns every element as a scalar.
func splitElems(x *content) []*content {
	out := make([]*content, len(x.elems))
	for i, e := range x.elems {
		out[i] = scalar(e)
	}
	return out
}

func inferArgMax(c *call) error {
	dims, ok := c.dims(0)
	if !ok {
		c.setElem(0, Int64)
		return nil
	}
	axis, err := c.axisOf(c.int("axis", 0), len(dims))
	if err != nil {
		return err
	}
	out := slices.Clone(dims)
	if c.int("keepdims", 1) != 0 {
		out[axis] = Known(1)
	} else {
		out = slices.Delete(out, axis, axis+1)
	}
	c.set(0, Int64, out)
	return nil
}

// Sequences and optionals.

func sequenceOf(t *Type) *Type {
	if t == nil {
		return nil
	}
	return &Type{Kind: KindSequence, Sub: t}
}

func inferSequenceConstruct(c *call) error {
	if len(c.n.inputs) == 0 || len(c.out) == 0 {
		return nil
	}
	t := c.in(0)
	for i := 1; i < len(c.n.inputs); i++ {
		t = join(t, c.in(i))
	}
	c.out[0] = sequenceOf(t)
	return nil
}

func inferSequenceEmpty(c *call) error {
	if len(c.out) > 0 {
		c.out[0] = sequenceOf(&Type{Kind: KindTensor, Elem: c.dtype("dtype", Float32)})
	}
	return nil
}

func inferSequenceInsert(c *call) error {
	if s := c.in(0); s != nil && s.Kind == KindSequence && len(c.out) > 0 {
		c.out[0] = sequenceOf(join(s.Sub, c.in(1)))
	}
	return nil
}

func inferSequenceErase(c *call) error { return inferSame(c) }

func inferSequenceAt(c *call) error {
	if s := c.in(0); s != nil && s.Kind == KindSequence && len(c.out) > 0 {
		c.out[0] = s.Sub
	}
	return nil
}

func inferSequenceLength(c *call) error {
	c.set(0, Int64, nil)
	return nil
}

func inferConcatFromSequence(c *call) error {
	s := c.in(0)
	if s == nil || s.Kind != KindSequence || s.Sub == nil || s.Sub.Kind != KindTensor {
		return nil
	}
	if s.Sub.Shape == nil {
		c.setElem(0, s.Sub.Elem)
		return nil
	}
	dims := slices.Clone(s.Sub.Shape.Dims)
	if c.int("new_axis", 0) != 0 {
		axis, err := c.axisOf(c.int("axis", 0), len(dims)+1)
		if err != nil {
			return err
		}
		dims = slices.Insert(dims, axis, UnknownDim)
	} else {
		axis, err := c.axisOf(c.int("axis", 0), len(dims))
		if err != nil {
			return err
		}
		dims[axis] = UnknownDim
	}
	c.set(0, s.Sub.Elem, dims)
	return nil
}

func inferSplitToSequence(c *call) error {
	t := c.in(0)
	if t == nil || t.Kind != KindTensor || len(c.out) == 0 {
		return nil
	}
	sub := &Type{Kind: KindTensor, Elem: t.Elem}
	if t.Shape != nil {
		axis, err := c.axisOf(c.int("axis", 0), len(t.Shape.Dims))
		if err != nil {
			return err
		}
		dims := slices.Clone(t.Shape.Dims)
		switch size, ok := c.content(1).number(); {
		case c.has(1) && ok && len(c.content(1).dims) == 0 && dims[axis].IsKnown() && size > 0 && dims[axis].N%size == 0:
			dims[axis] = Known(size)
		case c.has(1):
			dims[axis] = UnknownDim
		case c.int("keepdims", 1) != 0:
			dims[axis] = Known(1)
		default:
			dims = slices.Delete(dims, axis, axis+1)
		}
		sub = TensorType(t.Elem, dims...)
	}
	c.out[0] = sequenceOf(sub)
	return nil
}

func inferOptional(c *call) error {
	t := c.in(0)
	if a := c.attr("type"); t == nil && a != nil {
		t = a.TP
	}
	if t != nil && len(c.out) > 0 {
		c.out[0] = &Type{Kind: KindOptional, Sub: t}
	}
	return nil
}

func inferOptionalGetElement(c *call) error {
	if t := c.in(0); t != nil && t.Kind == KindOptional && len(c.out) > 0 {
		c.out[0] = t.Sub
		return nil
	}
	return inferSame(c)
}

func inferOptionalHasElement(c *call) error {
	c.set(0, Bool, nil)
	return nil
}
