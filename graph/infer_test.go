package graph

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each line is a node with the types of what it reads and computes: the
// expected types follow from ONNX's operator documentation.
const inferCases = `
# Elementwise: broadcast from behind, the unknown dim against a number, names kept.
float[2,3] a | y = Relu (a) | float[2,3] y
float[N,3] a, float[3] b | y = Add (a, b) | float[N,3] y
float[N,1] a, float[1,M] b | y = Mul (a, b) | float[N,M] y
float[N,3] a, float[?,1] b | y = Sub (a, b) | float[?,3] y
float[N] a, float[M] b | y = Sub (a, b) | float[?] y
float[N] a, float["N + P"] b | y = Sub (a, b) | float["N + P"] y
float[N] a, float[7] b | y = Sub (a, b) | float[7] y
float[0] a, float[1] b | y = Sub (a, b) | float[0] y
float[2] a, float[] b | y = Add (a, b) | float[] y
float[N,3] a, float[3] b | y = Less (a, b) | bool[N,3] y
bool[N,1] c, float a, float[4] b | y = Where (c, a, b) | float[N,4] y
float[2,3] a, int64[2,3] p | y = Pow (a, p) | float[2,3] y
float[N] a, float[N] b, float[1] c | y = Max (a, b, c) | float[N] y
float[2] a | y = Cast <to = 7> (a) | int64[2] y
float[2] a, double b | y = CastLike (a, b) | double[2] y
float[2,N] a | y, m = Dropout (a) | float[2,N] y, bool[2,N] m
float[2,N] a | y = IsNaN (a) | bool[2,N] y

# Norms and reductions.
float[B,T,8] x, float[8] g, float[8] b | y, m, s = LayerNormalization (x, g, b) | float[B,T,8] y, float[B,T,1] m, float[B,T,1] s
float[B,T,8] x, float[8] g | y = LayerNormalization <axis = 1> (x, g) | float[B,T,8] y
float[B,4,8] x, float[4] g, float[4] b, float[4] m, float[4] v | y = BatchNormalization (x, g, b, m, v) | float[B,4,8] y
float[B,T,8] x | y = Softmax <axis = -1> (x) | float[B,T,8] y
float[B,T,8] x | y = ReduceMean <axes = [-1]> (x) | float[B,T,1] y
float[B,T,8] x | y = ReduceMean <axes = [0, 2], keepdims = 0> (x) | float[T] y
float[B,T,8] x | y = ReduceMax (x) | float[1,1,1] y
float[B,T,8] x | a = Constant <value_ints = [1]> () y = ReduceSum (x, a) | float[B,1,8] y
float[B,T,8] x, int64[1] a | y = ReduceSum (x, a) | float[?,?,?] y
float[B,T,8] x | y = ReduceSum <noop_with_empty_axes = 1> (x) | float[B,T,8] y
float[B,T,8] x | y = ArgMax <axis = 1, keepdims = 0> (x) | int64[B,8] y

# Products.
float[B,H,T,8] a, float[B,H,8,S] b | y = MatMul (a, b) | float[B,H,T,S] y
float[8] a, float[B,8,S] b | y = MatMul (a, b) | float[B,S] y
float[B,T,8] a, float[8] b | y = MatMul (a, b) | float[B,T] y
float[8] a, float[8] b | y = MatMul (a, b) | float y
float[N,4] a, float[3,4] b, float[3] c | y = Gemm <transB = 1> (a, b, c) | float[N,3] y
float[4,N] a, float[4,3] b | y = Gemm <transA = 1> (a, b) | float[N,3] y
uint8[N,4] a, uint8[4,2] b | y = MatMulInteger (a, b) | int32[N,2] y
float[B,T,8] a, float[3,2,4] w, float[10] b | y = lathe.BlockCirculantMatMul <out_features = 10> (a, w, b) | float[B,T,10] y
int16[N,6,9,9] x, int16[2,2,4,3,3] w, int8[2,3] s, int32[2,4] b, int8[2,3] r, int8[7] e, int32[2] a | y = lathe.BlockCirculantConvInt16 <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, s, b, r, e, a) | int16[N,7,5,5] y
int16[N,6,9,9] x, int16[4,1,4,3,3] w, int8[4,3] s, int32[4,4] b, int8[2,3] r, int8[10] e, int32[2] a | y = lathe.BlockCirculantConvInt16 <group = 2> (x, w, s, b, r, e, a) | int16[N,10,7,7] y
float[N,6,9,9] x, float[2,2,4,3,3] w, float[7] b | y = lathe.BlockCirculantConv <out_channels = 7, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b) | float[N,7,5,5] y
float[N,6,9,9] x, float[4,1,4,3,3] w, float[10] b | y = lathe.BlockCirculantConv <out_channels = 10, group = 2> (x, w, b) | float[N,10,7,7] y
float[B,I,J] a, float[B,J,K] b | y = Einsum <equation = "bij, bjk -> bik"> (a, b) | float[B,I,K] y
float[2,I,J] a, float[J,3] b | y = Einsum <equation = "...j,jk"> (a, b) | float[2,I,3] y
float[I,J] a | y = Einsum <equation = "ij->"> (a) | float y

# Layout.
float[B,T,64] x | s = Constant <value_ints = [0, 0, 4, -1]> () y = Reshape (x, s) | float[B,T,4,16] y
float[B,T,64] x | s = Constant <value_ints = [-1, 64]> () y = Reshape (x, s) | float["B*T",64] y
float[2,0,3] x | s = Constant <value_ints = [0, 2]> () y = Reshape <allowzero = 1> (x, s) | float[0,2] y
float[B,T,64] x, int64[3] s | y = Reshape (x, s) | float[?,?,?] y
float[B,T,64] x, float[2,N] z | s = Shape (z) y = Reshape (x, s) | float[2,N] y
float[B,T,4,16] x | y = Transpose <perm = [0, 2, 1, 3]> (x) | float[B,4,T,16] y
float[B,T] x | y = Transpose (x) | float[T,B] y
float[B,1,T,1] x | a = Constant <value_ints = [1]> () y = Squeeze (x, a) | float[B,T,1] y
float[2,1,3,1] x | y = Squeeze (x) | float[2,3] y
float[B,1] x | y = Squeeze (x) | float[] y
float[B,T] x | a = Constant <value_ints = [0, -1]> () y = Unsqueeze (x, a) | float[1,B,T,1] y
float[B,2,3,T] x | y = Flatten <axis = 2> (x) | float["2*B","3*T"] y
float[B,2,3,4] x | y = Flatten (x) | float[B,24] y
float[B,T,4] x, float[B,S,4] z | y = Concat <axis = 1> (x, z) | float[B,"S + T",4] y
float[B,T,4] x, float[?,5,4] z | y = Concat <axis = 1> (x, z) | float[B,"T + 5",4] y
float[B,12] x | a, b, c = Split <axis = 1> (x) | float[B,4] a, float[B,4] b, float[B,4] c
float[B,12] x | s = Constant <value_ints = [5, 7]> () a, b = Split <axis = -1> (x, s) | float[B,5] a, float[B,7] b
float[B,T,8] x | s = Constant <value_ints = [0, -1]> () e = Constant <value_ints = [2, 9223372036854775807]> () a = Constant <value_ints = [2, 1]> () y = Slice (x, s, e, a) | float[B,1,2] y
float[B,T,8] x | s = Constant <value_ints = [1]> () e = Constant <value_ints = [-1]> () a = Constant <value_ints = [1]> () y = Slice (x, s, e, a) | float[B,"T - 2",8] y
float[9] x | s = Constant <value_ints = [-1]> () e = Constant <value_ints = [-100]> () t = Constant <value_ints = [-2]> () y = Slice (x, s, e, s, t) | float[5] y
float[B,8] x, int64[1] s, int64[1] e | y = Slice (x, s, e) | float[?,8] y
float[B,1,8] x | s = Constant <value_ints = [1, 5, 1]> () y = Expand (x, s) | float[B,5,8] y
float[B,2] x | r = Constant <value_ints = [3, 2]> () y = Tile (x, r) | float["3*B",4] y
float[B,2] x | p = Constant <value_ints = [0, 1, 2, 1]> () y = Pad (x, p) | float["B + 2",4] y
float[B,4,6,6] x | y = DepthToSpace <blocksize = 2> (x) | float[B,1,12,12] y
float[B,4,6,6] x | y = SpaceToDepth <blocksize = 3> (x) | float[B,36,2,2] y
float[B,T] x | y = Shape (x) | int64[2] y
float[B,T] x | y = Size (x) | int64 y

# Lookup.
float[V,8] w, int64[B,T] i | y = Gather (w, i) | float[B,T,8] y
float[V,8] w, int64 i | y = Gather <axis = 1> (w, i) | float[V] y
float[V,8] w, int64[V,3] i | y = GatherElements <axis = 1> (w, i) | float[V,3] y
float[2,3,4] w, int64[5,2] i | y = GatherND (w, i) | float[5,4] y
float[B,3,4] w, int64[B,1] i | y = GatherND <batch_dims = 1> (w, i) | float[B,4] y
float[2,3] w, int64[2,1] i, float[2,1] u | y = ScatterElements (w, i, u) | float[2,3] y
int64[B] i, float[2] v | d = Constant <value_ints = [10]> () y = OneHot (i, d, v) | float[B,10] y
float[B,9] x | k = Constant <value_ints = [3]> () v, i = TopK (x, k) | float[B,3] v, int64[B,3] i
float[B,9] x | y = NonZero (x) | int64[2,?] y

# Made from shapes.
float[B,T] x | s = Shape (x) y = ConstantOfShape <value = int64[1] {7}> (s) | int64[B,T] y
float[B,T] x | s = Shape (x) z = Constant <value_int = 0> () o = Constant <value_int = 1> () t = Gather (s, o) y = Range (z, t, o) | int64[T] y

# Convolution and pooling.
float[N,3,32,32] x, float[8,3,3,3] w | y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) | float[N,8,16,16] y
float[N,4,H,W] x, float[8,2,3,3] w | y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w) | float[N,8,H,W] y
float[N,3,H,32] x, float[8,3,4,4] w | y = Conv <strides = [4, 4]> (x, w) | float[N,8,"(H)//4",8] y
float[N,1,9] x, float[2,1,3] w | y = Conv <dilations = [2], auto_pad = "VALID"> (x, w) | float[N,2,5] y
float[N,1,9] x, float[2,1,3] w | y = Conv <auto_pad = "SAME_UPPER", strides = [2]> (x, w) | float[N,2,5] y
float[N,3,5,5] x, float[3,4,3,3] w | y = ConvTranspose <strides = [2, 2], output_padding = [1, 1], pads = [1, 1, 1, 1]> (x, w) | float[N,4,10,10] y
float[N,3,7,7] x | y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) | float[N,3,3,3] y
float[N,3,4,4] x, int64[N,3,4,4] i | y = MaxUnpool <kernel_shape = [2, 3], strides = [2, 1], pads = [0, 1, 0, 1]> (x, i) | float[N,3,8,4] y
float[N,3,7,7] x | y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x) | float[N,3,4,4] y, int64[N,3,4,4] i
float[N,3,7,7] x | y = GlobalAveragePool (x) | float[N,3,1,1] y
float[N,3,7,7] x | c = Constant <value = float[4] {1, 1, 2, 1.5}> () y = Resize (x, "", c) | float[N,3,14,10] y
float[N,3,H,W] x | c = Constant <value_ints = [1, 3, 8, 8]> () y = Resize (x, "", "", c) | float[1,3,8,8] y

# Signals, recurrence, quantization.
float[B,T,1] x | y = DFT <onesided = 1> (x) | float[B,"(T)//2 + 1",2] y
float[T,B,4] x, float[1,20,4] w, float[1,20,5] r | y, h, c = LSTM <hidden_size = 5> (x, w, r) | float[T,1,B,5] y, float[1,B,5] h, float[1,B,5] c
float[N,3] x, float s, int8 z | y = QuantizeLinear (x, s, z) | int8[N,3] y
int8[N,3] x, float s, int8 z | y = DequantizeLinear (x, s, z) | float[N,3] y
float[N,3] x | y, s, z = DynamicQuantizeLinear (x) | uint8[N,3] y, float s, uint8 z

# ONNX Runtime's fused operators.
float[B,T,8] x, float[8] g, float[8] b | y, m, s, r = com.microsoft.SkipLayerNormalization (x, x, g, b) | float[B,T,8] y, float[B,T,1] m, float[B,T,1] s, float[B,T,8] r
float[B,T,8] x, float[8,24] w, float[24] b | y, p = com.microsoft.Attention <num_heads = 2> (x, w, b) | float[B,T,8] y, float[2,B,2,T,4] p
float[B,T,8] x, float[B,S,8] k | y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, k, k) | float[B,T,8] y
float[B,T,16] x, int32[B] l, int32 t | y, k, v = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (x, "", "", "", "", l, t) | float[B,T,8] y, float[B,2,?,2] k, float[B,2,?,2] v

# Sequences.
float[2,3] a, float[2,4] b | s = SequenceConstruct (a, b) i = Constant <value_int = 0> () y = SequenceAt (s, i) | seq(float[2,?]) s, float[2,?] y
`

func TestInferOperators(t *testing.T) {
	for line := range strings.Lines(inferCases) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		part := strings.Split(line, " | ")
		m, err := Parse(`<ir_version: 10, opset_import: ["": 17, "lathe": 1, "com.microsoft": 1]> g (` + part[0] + `) => () {` + part[1] + `}`)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := Check(m); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if err := Infer(m); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		want := mustParse(t, `g (`+part[2]+`) => () { }`)
		for _, v := range want.Graph.Inputs() {
			if got := m.Graph.Value(v.Name).Type(); !got.Equal(v.Declared) {
				t.Errorf("%s: %s is %v, want %v", part[1], v.Name, got, v.Declared)
			}
		}
	}
}

// The signatures that changed between opsets.
func TestInferOldOpsets(t *testing.T) {
	for _, c := range []struct {
		opset       int
		graph, want string
	}{
		{6, `g (float[2,3,4] a, float[3] b) => () { y = Add <broadcast = 1, axis = 1> (a, b) }`, "float[2,3,4]"},
		{7, `g (float[N,1,2] x) => () { y = Upsample <mode = "nearest", scales = [1.0, 2.0, 2.0]> (x) }`, "float[N,2,4]"},
		{9, `g (float[N,1,2] x) => () { s = Constant <value = float[3] {1, 2, 2}> () y = Upsample (x, s) }`, "float[N,2,4]"},
		{9, `g (float[N,8] x) => () { y = Slice <starts = [1], ends = [-1], axes = [1]> (x) }`, "float[N,6]"},
		{9, `g (float[N,8] x) => () { y, i = TopK <k = 2> (x) }`, "float[N,2]"},
		{9, `g (float[N,8] x) => () { y, m = Dropout (x) }`, "float[N,8]"},
		{10, `g (float[N,8] x) => () { y = Pad <pads = [0, 1, 0, 1]> (x) }`, "float[N,10]"},
		{10, `g (float[N,4] x) => () { s = Constant <value = float[2] {1, 0.5}> () y = Resize (x, s) }`, "float[N,2]"},
		{12, `g (float[N,8] x) => () { y = Unsqueeze <axes = [1]> (x) }`, "float[N,1,8]"},
		{12, `g (float[N,1,8] x) => () { y = Squeeze <axes = [1]> (x) }`, "float[N,8]"},
		{12, `g (float[N,8] x) => () { y, z = Split <axis = 1, split = [3, 5]> (x) }`, "float[N,3]"},
		{12, `g (float[N,8] x) => () { y = ReduceSum <axes = [1]> (x) }`, "float[N,1]"},
		{18, `g (float[N,8] x) => () { a = Constant <value_ints = [1]> () y = ReduceMean (x, a) }`, "float[N,1]"},
		{18, `g (float[N,7] x) => () { y, z = Split <axis = 1, num_outputs = 2> (x) }`, "float[N,4]"},
		{18, `g (float[N,7] x) => () { p = Constant <value_ints = [1, 1]> () a = Constant <value_ints = [1]> () y = Pad (x, p, "", a) }`, "float[N,9]"},
		{15, `g (float[N,7,M] x) => () { s = Shape <start = 1> (x) y = ConstantOfShape (s) }`, "float[7,M]"},
		{20, `g (float[B,T,1] x) => () { y = DFT (x) }`, "float[B,T,2]"},
		{23, `g (float[B,T,8] q, float[B,S,4] k, float[B,2,P,2] pk) => () { y, p, v = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, k, "", pk, pk) }`, "float[B,T,8]"},
	} {
		m := mustParse(t, fmt.Sprintf(`<ir_version: 10, opset_import: ["": %d]> %s`, c.opset, c.graph))
		if err := Infer(m); err != nil {
			t.Errorf("opset %d: %s: %v", c.opset, c.graph, err)
		}
		if got := m.Graph.Value("y").Type().String(); got != c.want {
			t.Errorf("opset %d: %s: %s, want %s", c.opset, c.graph, got, c.want)
		}
	}
}

// The shape arithmetic that exporters write is followed to the Reshape that
// uses it.
func TestInferShapeArithmetic(t *testing.T) {
	for name, c := range map[string]struct{ graph, want string }{
		"split heads": {`g (float[batch,seq,64] x) => (y) <int64 i0 = {0}, int64 i1 = {1}, int64[1] h = {4}, int64[1] d = {-1}, int64[1] a = {0}> {
			s = Shape (x) b = Gather (s, i0) t = Gather (s, i1)
			b1 = Unsqueeze (b, a) t1 = Unsqueeze (t, a) n = Concat <axis = 0> (b1, t1, h, d)
			y = Reshape (x, n) }`, `float[batch,seq,4,16]`},
		"merge heads": {`g (float[batch,4,seq,16] x) => (y) <int64[1] s0 = {0}, int64[1] s1 = {2}, int64[1] m = {-1}> {
			t = Transpose <perm = [0, 2, 1, 3]> (x) s = Shape (t) f = Slice (s, s0, s1) n = Concat <axis = 0> (f, m)
			y = Reshape (t, n) }`, `float[batch,seq,64]`},
		"computed product": {`g (float[batch,seq,4,16] x) => (y) <int64 i2 = {2}, int64 i3 = {3}, int64[2] lead = {0, 0}, int64[1] a = {0}> {
			s = Shape (x) h = Gather (s, i2) d = Gather (s, i3) hd = Mul (h, d) hd1 = Unsqueeze (hd, a) n = Concat <axis = 0> (lead, hd1)
			y = Reshape (x, n) }`, `float[batch,seq,64]`},
		"expand with -1": {`g (float[batch,1,64] x, float[batch,seq] z) => (y) <int64 one = {1}, int64[3] minus = {-1, -1, -1}, int64[1] k = {64}, int64[3] shape = {-1, 7, -1}, int64[3] ones = {1, 1, 1}> {
			e = Equal (shape, minus) n = Where (e, ones, shape)
			y = Expand (x, n) }`, `float[batch,7,64]`},
		"past": {`g (float[B,4,past,8] p, float[B,4,seq,8] k) => (y) <int64 i2 = {2}, int64 zero = {0}, int64 one = {1}> {
			c = Concat <axis = 2> (p, k) s = Shape (c) t = Gather (s, i2) y = Range (zero, t, one) }`, `int64["past + seq"]`},
		"tail of a mask": {`g (bool[1,1,1024,1024] mask, float[B,4,seq,8] q, float[B,4,"past + seq",8] k) => (y) <int64 i2 = {2}, int64[1] a0 = {0}, int64[1] a2 = {2}, int64[1] a3 = {3}> {
			qs = Shape (q) ks = Shape (k) qn = Gather (qs, i2) kn = Gather (ks, i2) start = Sub (kn, qn)
			st = Unsqueeze (start, a0) en = Unsqueeze (kn, a0)
			m = Slice (mask, st, en, a2) y = Slice (m, a0, en, a3) }`, `bool[1,1,seq,"past + seq"]`},
		"pads of torch": {`g (float[N,3,H] x) => (y) <int64[2] p = {1, 2}, int64[2] two = {-1, 2}, int64[1] m1 = {-1}, int64[1] far = {-9223372036854775807}, int64[1] zero = {0}> {
			n = Constant <value_ints = [4]> () z = ConstantOfShape <value = int64[1] {0}> (n) c = Concat <axis = 0> (p, z)
			r = Reshape (c, two) s = Slice (r, m1, far, zero, m1) t = Transpose (s) f = Reshape (t, m1) k = Cast <to = 7> (f)
			y = Pad (x, k) }`, `float[N,3,"H + 3"]`},
		"division": {`g (float[N,H] x) => (y) <int64 one = {1}, int64 two = {2}, int64[1] a = {0}> {
			s = Shape (x) h = Gather (s, one) e = Mul (h, two) q = Div (e, two) u = Unsqueeze (q, a) y = ConstantOfShape (u) }`, `float[H]`},
		"through float": {`g (float[N,6] x) => (y) <int64 one = {1}, float half = {2}, int64[1] a = {0}> {
			s = Shape (x) h = Gather (s, one) f = Cast <to = 1> (h) q = Div (f, half) r = Floor (q) i = Cast <to = 7> (r) u = Unsqueeze (i, a) y = ConstantOfShape (u) }`, `float[3]`},
		"total size": {`g (float[N,6] x) => (y) <int64[1] a = {0}> {
			s = Shape (x) p = ReduceProd (s) y = Reshape (x, p) }`, `float["6*N"]`},
		"old input with default": {`g (float[N,6] x, int64[2] s) => (y) <int64[2] s = {-1, 3}> { y = Reshape (x, s) }`, `float["2*N",3]`},
	} {
		t.Run(name, func(t *testing.T) {
			m := mustParse(t, `<ir_version: 8, opset_import: ["": 17]> `+c.graph)
			if err := Check(m); err != nil {
				t.Fatal(err)
			}
			if err := Infer(m); err != nil {
				t.Fatal(err)
			}
			if got := m.Graph.Value("y").Type().String(); got != c.want {
				t.Errorf("y is %s, want %s", got, c.want)
			}
		})
	}
}

func TestInferControlFlowAndFunctions(t *testing.T) {
	for name, c := range map[string]struct{ graph, value, want string }{
		"branches": {`g (bool c, float[N,3] x) => () {
			y = If (c) <then_branch = t () => (u) { u = Relu (x) }, else_branch = e () => (v) { z = Concat <axis = 0> (x, x) v = Neg (z) }> }`, "y", "float[?,3]"},
		"inside a branch": {`g (bool c, float[N,3] x) => () {
			y = If (c) <then_branch = t () => (u) { u = Relu (x) }, else_branch = e () => (v) { v = Transpose (x) }> }`, "v", "float[3,N]"},
		"state that stays": {`g (int64 n, float[N,3] x) => () {
			y, s = Loop (n, "", x) <body = b (i, c, a) => (c2, a2, a2) { c2 = Identity (c) a2 = Relu (a) }> }`, "y", "float[N,3]"},
		"scan of a loop": {`g (float[N,3] x) => () { n = Constant <value_int = 5> ()
			y, s = Loop (n, "", x) <body = b (i, c, a) => (c2, a2, a2) { c2 = Identity (c) a2 = Relu (a) }> }`, "s", "float[5,N,3]"},
		"state that grows": {`g (int64 n, float[N,3] x) => () {
			y = Loop (n, "", x) <body = b (i, c, a) => (c2, a2) { c2 = Identity (c) a2 = Concat <axis = 0> (a, a) }> }`, "y", "float[?,3]"},
		"state that changes rank": {`g (int64 n, float[N,3] x) => () { z = Constant <value_ints = [0]> ()
			y = Loop (n, "", x) <body = b (i, c, a) => (c2, a2) { c2 = Identity (c) a2 = Unsqueeze (a, z) }> }`, "y", "float[]"},
		"scan": {`g (float[4] h, float[T,4] x) => () {
			y, s = Scan <num_scan_inputs = 1, body = b (a, e) => (a2, o) { a2 = Add (a, e) o = Identity (e) }> (h, x) }`, "s", "float[T,4]"},
		"scan axes": {`g (float[4] h, float[4,T] x) => () {
			y, s = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1], body = b (a, e) => (a2, o) { a2 = Add (a, e) o = Identity (e) }> (h, x) }`, "s", "float[4,T]"},
		"function": {`g (float[B,T,8] x) => () { y = other.Heads <n = 2> (x) }
			<domain: "other", opset_import: ["": 17]> Heads <n, axis = 1> (x) => (t) {
			n = Constant <value_int: int = @n> () z = Constant <value_ints = [0]> () u = Unsqueeze (n, z)
			l = Constant <value_ints = [0, 0]> () m = Constant <value_ints = [-1]> () s = Concat <axis = 0> (l, u, m)
			r = Reshape (x, s) t = Flatten <axis: int = @axis> (r) }`, "y", `float[B,"8*T"]`},
		"function in a function": {`g (float[B,T,8] x) => () { y = other.F <k = 2> (x) }
			<domain: "other", opset_import: ["": 17, "other": 1]> F <k> (x) => (y) { y = other.G <axis: int = @k> (x) }
			<domain: "other", opset_import: ["": 17]> G <axis> (x) => (y) { y = Concat <axis: int = @axis> (x, x) }`, "y", `float[B,T,16]`},
		"a function before the operator it is named after": {`g (float[B,T] x) => () { y = Relu (x) }
			<domain: "", opset_import: ["": 17]> Relu (x) => (y) { y = Transpose (x) }`, "y", `float[T,B]`},
	} {
		t.Run(name, func(t *testing.T) {
			m := mustParse(t, `<ir_version: 10, opset_import: ["": 17, "other": 1]> `+c.graph)
			if err := Check(m); err != nil {
				t.Fatal(err)
			}
			if err := Infer(m); err != nil {
				t.Fatal(err)
			}
			var got string
			m.Graphs(func(g *Graph) bool {
				if v := g.Value(c.value); v != nil && g.fn == nil {
					got = v.Type().String()
				}
				return true
			})
			if got != c.want {
				t.Errorf("%s is %s, want %s", c.value, got, c.want)
			}
		})
	}
	// The body of a function has what all calls agree on.
	m := mustParse(t, `<ir_version: 10, opset_import: ["": 17, "other": 1]> g (float[2,3] a, float[4,3] b) => () { y = other.F (a) z = other.F (b) }
		<domain: "other", opset_import: ["": 17]> F (x) => (r) { r = Relu (x) }`)
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	if got := m.Functions[0].Graph.Value("r").Type().String(); got != "float[?,3]" {
		t.Errorf("in the body: %s, want float[?,3]", got)
	}
}

// What contradicts itself is reported with the node, and the rest inferred
// all the same.
func TestInferErrors(t *testing.T) {
	for _, c := range []struct{ graph, want string }{
		{`g (float[2,3] a, float[4,5] b) => () { y = MatMul (a, b) }`, `node "→y" (MatMul): product of [2 3] and [4 5]: inner dims 3 and 4 differ`},
		{`g (float[2,3] a, float[4] b) => () { y = Add (a, b) }`, `node "→y" (Add): shapes [2 3] and [4] cannot be broadcast`},
		{`g (float[2,3] a) => (float[3,3] y) { y = Relu (a) }`, `node "→y" (Relu): output "y" is declared as float[3,3], and what it computes is float[2,3]`},
		{`g (float[2,3] a) => (int64[2,3] y) { y = Cast <to = 1> (a) }`, `output "y" is declared as int64[2,3], and what it computes is float[2,3]`},
		{`g (float[2,3] a) => () { s = Constant <value_ints = [4, -1]> () y = Reshape (a, s) }`, `6 elements of [2 3] do not fit the shape [4 -1]`},
		{`g (float[2,3] a) => () { s = Constant <value_ints = [4, 2]> () y = Reshape (a, s) }`, `6 elements of [2 3] do not fit the shape [4 2]`},
		{`g (float[2,3] a) => () { y = Softmax <axis = 2> (a) }`, `axis 2 of a tensor of rank 2`},
		{`g (float[2,3] a) => () { y = Transpose <perm = [0, 0]> (a) }`, `perm [0 0] of a tensor of rank 2`},
		{`g (float[2,3] a, float[3,3] b) => () { y = Concat <axis = 1> (a, b) }`, `others have 2 at dim 0`},
		{`g (float[1,9,8] x, float[1,2,4,3] w) => () { y = lathe.BlockCirculantConv <out_channels = 4> (x, w) }`, `in 1 groups, want at most 8 channels`},
		{`g (int16[1,9,8] x, int16[1,2,4,3] w) => () { y = lathe.BlockCirculantConvInt16 (x, w) }`, `want at most 8 channels`},
		{`g (int16[1,9,8] x, int16[2,1,8,3] w) => () { y = lathe.BlockCirculantConvInt16 <group = 2> (x, w) }`, `in 2 groups, want at most 16 channels`},
		{`g (int16[1,8,8] x, int16[3,1,8,3] w) => () { y = lathe.BlockCirculantConvInt16 <group = 2> (x, w) }`, `in 2 groups, want as many in each`},
		{`g (float[1,9,8] x, float[2,1,5,3] w) => () { y = lathe.BlockCirculantConv <out_channels = 10, group = 2> (x, w) }`, `in 2 groups, want at most 10 channels`},
		{`g (float[1,9,8] x, float[2,1,8,3] w) => () { y = lathe.BlockCirculantConv <out_channels = 10, group = 2> (x, w) }`, `as many in each`},
		{`g (float[1,8,8] x, float[3,1,8,3] w) => () { y = lathe.BlockCirculantConv <out_channels = 10, group = 2> (x, w) }`, `as many in each`},
		{`g (float[1,3,8,8] x, float[4,5,3,3] w) => () { y = Conv (x, w) }`, `input [1 3 8 8] with weights [4 5 3 3] in 1 groups`},
		{`g (float[1,3,2,2] x, float[4,3,3,3] w) => () { y = Conv (x, w) }`, `is smaller than the window of 3`},
		{`g (float[2,3] a) => () { i = Constant <value_int = 7> () s = Shape (a) y = Gather (s, i) }`, `index 7 of 2 elements`},
		{`g (bool c, float[2] a) => () { y = If (c) <then_branch = t () => (u) { u = Relu (a) }, else_branch = e () => (v) { v = Cast <to = 7> (a) }> }`,
			`output 0 is a float[2] in one branch and a int64[2] in the other`},
	} {
		m := mustParse(t, `<ir_version: 10, opset_import: ["": 17]> `+strings.TrimSuffix(c.graph, "}")+` last = Neg (last_in) last_in = Constant <value_float = 1.0> () }`)
		m.Graph.Sort()
		err := Infer(m)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.graph, err, c.want)
		}
		if got := m.Graph.Value("last").Type(); got == nil {
			t.Errorf("%s: the error ended inference", c.graph)
		}
	}
}

// A shape that is declared wrongly is told from a model that cannot run.
func TestInferErrorTellsWrongDeclarations(t *testing.T) {
	m := mustParse(t, `<ir_version: 10, opset_import: ["": 17]> g (float[N,3] x) => (float[1,5] y, int64[N,3] z) { y = Relu (x) z = Neg (x) }`)
	err := Infer(m)
	e, ok := err.(*InferError)
	if !ok || e.Total != 2 || e.Declared != 1 {
		t.Errorf("got %+v, want two problems, one of them a declared shape", err)
	}
	if got := m.Graph.Value("y").Type().String(); got != "float[N,3]" {
		t.Errorf("y is %s, want what is computed", got)
	}
}

// The type of an input follows an edit without another inference.
func TestInferDoesNotFreezeInputs(t *testing.T) {
	m := mustParse(t, `<ir_version: 10, opset_import: ["": 17]> g (float[N,3] x) => (y) <float[3] w = {1, 2, 3}> { y = Add (x, w) }`)
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	m.Graph.Value("x").Declared = TensorType(Float32, Known(2), Known(3))
	m.Graph.Value("w").Const = Float32Tensor([]int64{1}, []float32{1})
	if x, w := m.Graph.Value("x").Type().String(), m.Graph.Value("w").Type().String(); x != "float[2,3]" || w != "float[1]" {
		t.Errorf("after an edit x is %s and w %s", x, w)
	}
}

// What is declared and says more stays.
func TestInferKeepsDeclared(t *testing.T) {
	m := mustParse(t, `<ir_version: 10, opset_import: ["": 17]> g (float[N,3] x, int64[2] s) => (float[4,out] y, float[7] z) {
		y = Reshape (x, s) z = third.party.Op (x) }`)
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"y": "float[4,out]", "z": "float[7]"} {
		if got := m.Graph.Value(name).Type().String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// On public models every value gets a type with every dimension a number or a
// name, nothing contradicts what the files declare, and what is inferred with
// names agrees with what is inferred once the names are numbers.
func TestInferPublicModels(t *testing.T) {
	publicModels(t, func(t *testing.T, file string) {
		m, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(m); err != nil {
			t.Error(err)
		}
		if err := Infer(m); err != nil {
			t.Error(err)
		}
		static := m.Clone()
		numbers := map[string]int64{}
		for _, v := range static.Graph.Inputs() {
			dims := make([]Dim, len(v.Declared.Shape.Dims))
			for i, d := range v.Declared.Shape.Dims {
				if dims[i] = Known(d.N); !d.IsKnown() {
					if numbers[d.Sym] == 0 {
						numbers[d.Sym] = int64(5 + 2*len(numbers))
					}
					dims[i] = Known(numbers[d.Sym])
				}
			}
			v.Declared = TensorType(v.Declared.Elem, dims...)
		}
		for _, v := range static.Graph.ownValues() {
			if v.def != nil {
				v.Declared = nil // names there have no number
			}
		}
		if err := Infer(static); err != nil {
			t.Errorf("with numbers for %v: %v", numbers, err)
		}
		for _, v := range m.Graph.ownValues() {
			got, want := v.Type(), static.Graph.Value(v.Name).Type()
			if got == nil || got.Shape == nil || want == nil || want.Shape == nil || len(got.Shape.Dims) != len(want.Shape.Dims) || got.Elem != want.Elem {
				t.Errorf("%q: %v with names, %v with numbers", v.Name, got, want)
				continue
			}
			for i, d := range got.Shape.Dims {
				if strings.Contains(d.Sym, "(") { // a minimum or quotient
					continue
				}
				n, ok := evaluate(symbols{}.expr(d), numbers)
				if !ok || n != want.Shape.Dims[i].N {
					t.Errorf("%q: %v with names, %v with %v", v.Name, got, want, numbers)
					break
				}
			}
		}
	})
}

// evaluate puts numbers for the symbols of e.
func evaluate(e *expr, numbers map[string]int64) (int64, bool) {
	if e == nil {
		return 0, false
	}
	sum := int64(0)
	for _, t := range e.terms {
		p := t.coef
		for s := range strings.SplitSeq(t.syms, "\x00") {
			if s == "" {
				continue
			}
			n, ok := numbers[s]
			if !ok {
				return 0, false
			}
			p *= n
		}
		sum += p
	}
	return sum, true
}

// The official operator cases declare the shape of their outputs. With the
// small integer inputs of each case as constants, inference finds it.
func TestInferOfficialCases(t *testing.T) {
	dir := os.Getenv("LATHE_ONNX_TESTS")
	if dir == "" {
		t.Skip("LATHE_ONNX_TESTS does not name the official operator tests")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*", "model.onnx"))
	if len(files) == 0 {
		t.Fatalf("no */*/model.onnx in %s", dir)
	}
	// What no rule covers: sizes that depend on data, operators on text and
	// of training.
	unknown := map[string]bool{"Compress": true, "NonMaxSuppression": true, "NonZero": true, "Unique": true, "MaxUnpool": true,
		"Adagrad": true, "Adam": true, "Momentum": true, "Gradient": true, "StringNormalizer": true, "TfIdfVectorizer": true,
		"SequenceMap": true, "Scan": true, "Loop": true, "If": true, "ConcatFromSequence": true, "SequenceAt": true, "OptionalGetElement": true}
	known := 0
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		m, err := Load(file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := Check(m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		text := m.Text()
		if again, err := Parse(text); err != nil || again.Text() != text {
			t.Errorf("%s: the text form does not come back: %v", name, err)
		}
		if err := Infer(m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := map[*Value]*Type{}
		for _, v := range m.Graph.Outputs() {
			if v.Def() != nil {
				want[v], v.Declared = v.Declared, nil
			}
		}
		for i, v := range m.Graph.Inputs() {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "test_data_set_0", fmt.Sprintf("input_%d.pb", i)))
			if err != nil || v.Declared == nil || v.Declared.Kind != KindTensor {
				continue
			}
			c, err := DecodeTensor(data)
			if err == nil && c.Len() <= maxContent && (c.DType.isInteger() || c.DType == Bool || c.Len() == 1 || v.Name == "scales") {
				v.Const = c
			}
		}
		if err := Infer(m); err != nil {
			t.Errorf("%s: with its inputs: %v", name, err)
		}
		for v, w := range want {
			got := v.Type()
			switch {
			case strings.Contains(name, "castlike") && strings.Contains(name, "BFLOAT16"):
				// Its data are uint16 where the model declares bfloat16.
			case !got.compatible(w):
				t.Errorf("%s: %v: %v, want %v", name, v.Def(), got, w)
			case !unknown[v.Def().Op] && !got.Equal(w):
				t.Errorf("%s: %v: only %v of %v is inferred", name, v.Def(), got, w)
			default:
				known++
			}
		}
	}
	if known < 1000 {
		t.Errorf("only %d outputs were compared", known)
	}
}

// Graphs made to take long or to grow are given up on, not followed.
func TestInferHostile(t *testing.T) {
	var calls strings.Builder // 2^60 calls if followed
	calls.WriteString(`<ir_version: 10, opset_import: ["": 17, "f": 1]> g (float[2] x) => () { y = f.F0 (x) }`)
	for i := range 60 {
		fmt.Fprintf(&calls, ` <domain: "f", opset_import: ["": 17, "f": 1]> F%d (x) => (y) { a = f.F%d (x) y = f.F%d (a) }`, i, i+1, i+1)
	}
	calls.WriteString(` <domain: "f", opset_import: ["": 17]> F60 (x) => (y) { y = Relu (x) }`)

	loops := `y = Relu (x)` // 3^40 visits if followed
	for i := range 40 {
		loops = fmt.Sprintf(`y = Loop (n, "", x) <body = b%d (i, c, s) => (c2, s2) { c2 = Identity (c) s2 = Concat <axis = 0> (s, s) %s }>`, i, loops)
	}
	loops = `<ir_version: 10, opset_import: ["": 17]> g (int64 n, float[2] x) => () { ` + loops + ` }`

	var growth strings.Builder // a product of 2^50 symbols, a rank of 100,000
	growth.WriteString(`<ir_version: 10, opset_import: ["": 17]> g (float[a,b] x0) => () { z = Constant <value_ints = [0]> () s0 = Shape (x0) r0 = Identity (x0)`)
	for i := range 5000 {
		fmt.Fprintf(&growth, ` s%d = Mul (s%d, s%d) r%d = Unsqueeze (r%d, z)`, i+1, i, i, i+1, i)
	}
	growth.WriteString(`}`)

	recursion := `<ir_version: 10, opset_import: ["f": 1]> g (float[2] x) => () { y = f.F (x) }
		<domain: "f", opset_import: ["f": 1]> F (x) => (y) { a = f.F (x) y = f.F (a) }`

	sums := `<ir_version: 10, opset_import: ["": 17]> g (float[` // a sum of 100 symbols
	for i := range 100 {
		sums += fmt.Sprintf("d%d,", i)
	}
	sums = strings.TrimSuffix(sums, ",") + `] x) => () { s = Shape (x) y = ReduceSum (s) }`

	for name, text := range map[string]string{"calls": calls.String(), "loops": loops, "growth": growth.String(), "recursion": recursion, "sums": sums} {
		t.Run(name, func(t *testing.T) {
			m := mustParse(t, text)
			start := time.Now()
			_ = Infer(m)
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// A model of any text is checked and inferred without a panic.
func FuzzInfer(f *testing.F) {
	for line := range strings.Lines(inferCases) {
		if part := strings.Split(strings.TrimSpace(line), " | "); len(part) == 3 {
			f.Add(part[0], part[1], 17)
		}
	}
	f.Add("float[N,8] x", "y = Unsqueeze <axes = [1]> (x)", 9)
	f.Add("int64 n, float[N] x", `y = Loop (n, "", x) <body = b (i, c, a) => (c, a2) { a2 = Add (a, x) }>`, 13)
	f.Fuzz(func(t *testing.T, inputs, nodes string, opset int) {
		m, err := Parse(fmt.Sprintf(`<ir_version: 10, opset_import: ["": %d, "lathe": 1, "com.microsoft": 1]> g (%s) => () { %s }`, opset, inputs, nodes))
		if err != nil {
			return
		}
		checked := Check(m)
		_ = Infer(m)
		if again := Check(m); checked == nil && again != nil && !strings.Contains(again.Error(), "tensor(") {
			t.Errorf("Infer broke the model: %v", again)
		}
	})
}
