package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/onnx-lathe/lathe/graph"
)

// eval computes one node of the default domain.
func eval(t testing.TB, op string, opset int64, inputs []*Tensor, attrs ...*graph.Attr) *Tensor {
	t.Helper()
	out, err := tryEval(op, opset, inputs, attrs...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryEval(op string, opset int64, inputs []*Tensor, attrs ...*graph.Attr) (*Tensor, error) {
	return tryEvalIn("", op, opset, inputs, attrs...)
}

func tryEvalIn(domain, op string, opset int64, inputs []*Tensor, attrs ...*graph.Attr) (*Tensor, error) {
	m := graph.NewModel("one", 8, opset)
	if domain != "" {
		m.Opsets = append(m.Opsets, graph.Opset{Domain: domain, Version: opset})
	}
	var in []*graph.Value
	for i, x := range inputs {
		if x == nil {
			in = append(in, nil)
			continue
		}
		in = append(in, m.Graph.AddInput(fmt.Sprint("x", i), nil))
	}
	n := m.Graph.NewNode(domain, op, "n", in, []string{"y"}, attrs...)
	out, err := Eval(n, inputs)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// floats draws n numbers of about unit size.
func floats(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

// within compares with a float64 reference, allowing ulps units in the last
// place of the larger of the value and scale.
func within(t *testing.T, what string, got []float32, want []float64, ulps, scale float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		g := float64(got[i])
		if g == w || g != g && w != w || math.IsInf(float64(float32(w)), 0) && float32(w) == got[i] {
			continue
		}
		if !(math.Abs(g-w) <= ulps*0x1p-23*math.Max(scale, math.Abs(w))) {
			t.Errorf("%s: element %d is %v, want %v", what, i, g, w)
		}
	}
}

// TestFunctions32 checks every function of one float against its formula, at
// special values too. An error of 4 ulp covers the vector kernels; the
// smallest number stands for the absolute error of what underflows.
func TestFunctions32(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	relu := func(x, slope float64) float64 {
		if x < 0 {
			return slope * x
		}
		return x
	}
	clamp := func(x float64) float64 { return math.Max(0, math.Min(1, x)) }
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	for _, c := range []struct {
		op    string
		opset int64
		f     func(x float64) float64
		attrs []*graph.Attr
	}{
		{"Abs", 13, math.Abs, nil},
		{"Acos", 7, math.Acos, nil},
		{"Acosh", 9, math.Acosh, nil},
		{"Asin", 7, math.Asin, nil},
		{"Asinh", 9, math.Asinh, nil},
		{"Atan", 7, math.Atan, nil},
		{"Atanh", 9, math.Atanh, nil},
		{"Ceil", 13, math.Ceil, nil},
		{"Celu", 12, func(x float64) float64 { return math.Max(0, x) + math.Min(0, 2*(math.Exp(x/2)-1)) }, []*graph.Attr{graph.FloatAttr("alpha", 2)}},
		{"Cos", 7, math.Cos, nil},
		{"Cosh", 9, math.Cosh, nil},
		{"Elu", 6, func(x float64) float64 { return math.Max(0, x) + math.Min(0, 0.5*(math.Exp(x)-1)) }, []*graph.Attr{graph.FloatAttr("alpha", 0.5)}},
		{"Erf", 13, math.Erf, nil},
		{"Exp", 13, math.Exp, nil},
		{"Floor", 13, math.Floor, nil},
		{"Gelu", 20, func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }, nil},
		{"Gelu", 20, func(x float64) float64 {
			return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
		}, []*graph.Attr{graph.StringAttr("approximate", "tanh")}},
		{"HardSigmoid", 6, func(x float64) float64 { return clamp(float64(float32(0.2))*x + 0.5) }, nil},
		{"HardSwish", 14, func(x float64) float64 { return x * clamp(x/6+0.5) }, nil},
		{"LeakyRelu", 6, func(x float64) float64 { return relu(x, float64(float32(0.01))) }, nil},
		{"Log", 13, math.Log, nil},
		{"Mish", 18, func(x float64) float64 { return x * math.Tanh(math.Log1p(math.Exp(x))) }, nil},
		{"Neg", 13, func(x float64) float64 { return -x }, nil},
		{"Reciprocal", 13, func(x float64) float64 { return 1 / x }, nil},
		{"Relu", 14, func(x float64) float64 { return math.Max(x, 0) }, nil},
		{"Round", 11, math.RoundToEven, nil},
		{"Selu", 6, func(x float64) float64 {
			return 1.05070102214813232421875 * (math.Max(0, x) + math.Min(0, 1.67326319217681884765625*(math.Exp(x)-1)))
		}, nil},
		{"Sigmoid", 13, sigmoid, nil},
		{"Sign", 13, func(x float64) float64 {
			if x != x || x == 0 {
				return x
			}
			return math.Copysign(1, x)
		}, nil},
		{"Sin", 7, math.Sin, nil},
		{"Sinh", 9, math.Sinh, nil},
		{"Softplus", 1, func(x float64) float64 {
			if x > 40 {
				return x
			}
			return math.Log1p(math.Exp(x))
		}, nil},
		{"Softsign", 1, func(x float64) float64 { return x / (1 + math.Abs(x)) }, nil},
		{"Sqrt", 13, math.Sqrt, nil},
		{"Swish", 24, func(x float64) float64 { return x * sigmoid(x) }, nil},
		{"Swish", 24, func(x float64) float64 { return x * sigmoid(1.5*x) }, []*graph.Attr{graph.FloatAttr("alpha", 1.5)}},
		{"Tan", 7, math.Tan, nil},
		{"Tanh", 13, math.Tanh, nil},
		{"ThresholdedRelu", 10, func(x float64) float64 {
			if x <= 1 {
				return 0
			}
			return x
		}, nil},
	} {
		t.Run(c.op, func(t *testing.T) {
			in := append(floats(3, 100), 0, float32(math.Copysign(0, -1)), 0.5, -0.5, 1.5, 2.5, -2.5, 3.4e38, -3.4e38, 88, -88, 20, -20, 1e-30, float32(inf), float32(-inf), float32(nan))
			want, wide, half := make([]float64, len(in)), make([]float64, len(in)), make([]uint16, len(in))
			for i, v := range in {
				want[i], wide[i], half[i] = c.f(float64(v)), float64(v), float16.Fromfloat32(v).Bits()
			}
			got := eval(t, c.op, c.opset, []*Tensor{FromSlice([]int{len(in)}, in)}, c.attrs...)
			within(t, "float32", got.F32(), want, 4, 0x1p-126)
			// The same in float64 to its own precision.
			got = eval(t, c.op, c.opset, []*Tensor{FromSlice([]int{len(in)}, wide)}, c.attrs...)
			for i, g := range got.F64() {
				if w := want[i]; g != w && !(g != g && w != w) && !(math.Abs(g-w) <= 1e-12*math.Max(1, math.Abs(w))) {
					t.Errorf("float64: f(%v) = %v, want %v", wide[i], g, w)
				}
			}
			// float16: the exact result rounded, or its neighbour where the
			// rounding to float32 on the way decides a tie.
			x := &Tensor{DType: graph.Float16, Shape: []int{len(in)}, mem: bytesOf(half)}
			got = eval(t, c.op, c.opset, []*Tensor{x}, c.attrs...)
			if got.DType != graph.Float16 {
				t.Fatalf("float16 becomes %v", got.DType)
			}
			for i, g := range view[uint16](got) {
				w := c.f(float64(float16.Frombits(half[i]).Float32()))
				gf := float64(float16.Frombits(g).Float32())
				if gf != w && !(gf != gf && w != w) && !(math.Abs(gf-w) <= 0x1.01p-11*math.Max(0x1p-14, math.Abs(w))) && !(math.IsInf(gf, 0) && math.Abs(w) > 65504) {
					t.Errorf("float16: f(%v) = %v, want %v", float16.Frombits(half[i]).Float32(), gf, w)
				}
			}
		})
	}
}

// numberTypes has the conversion of small integers to every number type.
var numberTypes = []graph.DType{
	graph.Float32, graph.Float64, graph.Float16, graph.BFloat16, graph.Int8, graph.Int16, graph.Int32, graph.Int64,
	graph.Uint8, graph.Uint16, graph.Uint32, graph.Uint64,
}

// small returns a tensor of small non-negative integers in any type.
func small(t testing.TB, d graph.DType, shape []int, v ...float64) *Tensor {
	t.Helper()
	z, err := newTensor(d, shape)
	if err != nil {
		t.Fatal(err)
	}
	if err := convert(z, FromSlice(shape, v), castRules{}); err != nil {
		t.Fatal(err)
	}
	return z
}

// TestBinaryTypes: every operator of two operands in every type that ONNX
// gives it, on values whose results all types hold exactly.
func TestBinaryTypes(t *testing.T) {
	x, y := []float64{6, 1, 9, 4, 0, 7}, []float64{3, 1, 2}
	b2f := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, c := range []struct {
		op    string
		opset int64
		f     func(x, y float64) float64
		types string // beside float32 and float64: h halves, i integers
		attrs []*graph.Attr
	}{
		{"Add", 14, func(x, y float64) float64 { return x + y }, "hi", nil},
		{"Mul", 14, func(x, y float64) float64 { return x * y }, "hi", nil},
		{"Sub", 14, func(x, y float64) float64 { return x - y }, "h", nil},
		{"Max", 13, math.Max, "hi", nil},
		{"Min", 13, math.Min, "hi", nil},
		{"Sum", 13, func(x, y float64) float64 { return x + y }, "h", nil},
		{"Mod", 13, math.Mod, "hi", []*graph.Attr{graph.IntAttr("fmod", 1)}},
		{"Pow", 15, math.Pow, "", nil},
		{"PRelu", 16, func(x, y float64) float64 { return x }, "h", nil},
		{"Equal", 13, func(x, y float64) float64 { return b2f(x == y) }, "hi", nil},
		{"Less", 13, func(x, y float64) float64 { return b2f(x < y) }, "hi", nil},
		{"LessOrEqual", 16, func(x, y float64) float64 { return b2f(x <= y) }, "hi", nil},
		{"Greater", 13, func(x, y float64) float64 { return b2f(x > y) }, "hi", nil},
		{"GreaterOrEqual", 16, func(x, y float64) float64 { return b2f(x >= y) }, "hi", nil},
	} {
		for _, d := range numberTypes {
			kind := "i"
			switch d {
			case graph.Float32, graph.Float64:
				kind = ""
			case graph.Float16, graph.BFloat16:
				kind = "h"
			}
			if !strings.Contains(c.types, kind) {
				continue
			}
			for _, swap := range []bool{false, true} {
				a, b := small(t, d, []int{2, 3}, x...), small(t, d, []int{3}, y...)
				f := c.f
				if swap {
					if c.op == "PRelu" {
						continue
					}
					a, b = b, a
					f = func(x, y float64) float64 { return c.f(y, x) }
				}
				if swap && c.op == "Mod" {
					continue // divides by zero
				}
				got, err := asFloats(eval(t, c.op, c.opset, []*Tensor{a, b}, c.attrs...))
				if err != nil {
					t.Fatal(err)
				}
				for i, g := range got {
					if want := f(x[i], y[i%3]); g != want {
						t.Errorf("%s of %v: (%v, %v) gives %v, want %v", c.op, d, x[i], y[i%3], g, want)
					}
				}
			}
		}
	}
	// Integer division truncates, and wraps instead of trapping.
	for _, c := range []struct{ x, y, want int32 }{{7, 2, 3}, {-7, 2, -3}, {7, -2, -3}, {math.MinInt32, -1, math.MinInt32}} {
		if got := eval(t, "Div", 14, []*Tensor{FromSlice([]int{1}, []int32{c.x}), FromSlice([]int{1}, []int32{c.y})}).I32()[0]; got != c.want {
			t.Errorf("%d / %d = %d, want %d", c.x, c.y, got, c.want)
		}
	}
	for _, op := range []string{"Div", "Mod"} {
		if _, err := tryEval(op, 14, []*Tensor{FromSlice([]int{1}, []int8{1}), FromSlice([]int{1}, []int8{0})}); err == nil {
			t.Errorf("%s by zero succeeds", op)
		}
	}
	if got := eval(t, "Pow", 15, []*Tensor{FromSlice([]int{5}, []int32{-1, -1, 1, 2, 3}), FromSlice([]int{5}, []int64{-3, -2, -9, -1, 4})}).I32(); !slices.Equal(got, []int32{-1, 1, 1, 0, 81}) {
		t.Errorf("integer powers: %v", got)
	}
}

// TestVariadic: Max, Sum and Mean of operands that meet only step by step.
func TestVariadic(t *testing.T) {
	in := []*Tensor{FromSlice([]int{2}, []float32{1, 2}), FromSlice([]int{3, 1}, []float32{10, 20, float32(math.NaN())}), FromSlice([]int{2, 1, 1}, []float32{0, 15})}
	for _, c := range []struct {
		op   string
		want [12]float64
	}{
		{"Max", [12]float64{10, 10, 20, 20, math.NaN(), math.NaN(), 15, 15, 20, 20, math.NaN(), math.NaN()}},
		{"Sum", [12]float64{11, 12, 21, 22, math.NaN(), math.NaN(), 26, 27, 36, 37, math.NaN(), math.NaN()}},
		{"Mean", [12]float64{11. / 3, 4, 7, 22. / 3, math.NaN(), math.NaN(), 26. / 3, 9, 12, 37. / 3, math.NaN(), math.NaN()}},
	} {
		got := eval(t, c.op, 13, in)
		if fmt.Sprint(got.Shape) != "[2 3 2]" {
			t.Errorf("%s has shape %v", c.op, got.Shape)
		}
		within(t, c.op, got.F32(), c.want[:], 1, 0)
	}
	if got := eval(t, "Mean", 13, in[:1]); !slices.Equal(got.F32(), in[0].F32()) {
		t.Errorf("Mean of one operand is %v", got.F32())
	}
}

// TestEmptyTensors: no elements are a legal input of everything.
func TestEmptyTensors(t *testing.T) {
	e := func(shape ...int) *Tensor { return FromSlice(shape, []float32{}) }
	one := FromSlice([]int{1}, []float32{1})
	three := FromSlice([]int{3}, []float32{1, 2, 3})
	for _, c := range []struct {
		op    string
		in    []*Tensor
		shape string
	}{
		{"Add", []*Tensor{e(0, 3), three}, "[0 3]"},
		{"Max", []*Tensor{e(0), one, one}, "[0]"},
		{"Relu", []*Tensor{e(2, 0)}, "[2 0]"},
		{"Softmax", []*Tensor{e(2, 0)}, "[2 0]"},
		{"Softmax", []*Tensor{e(0, 2)}, "[0 2]"},
		{"LayerNormalization", []*Tensor{e(0, 3), three}, "[0 3]"},
		{"MatMul", []*Tensor{e(0, 3), FromSlice([]int{3, 1}, []float32{1, 2, 3})}, "[0 1]"},
		{"MatMul", []*Tensor{e(2, 0), e(0, 2)}, "[2 2]"},
		{"MatMul", []*Tensor{e(2, 3, 0), e(2, 0, 3)}, "[2 3 3]"},
		{"MatMul", []*Tensor{e(0), e(0)}, "[]"},
		{"Gemm", []*Tensor{e(2, 0), e(0, 3), three}, "[2 3]"},
		{"BatchNormalization", []*Tensor{e(0, 3, 2), three, three, three, three}, "[0 3 2]"},
		{"InstanceNormalization", []*Tensor{e(2, 3, 0), three, three}, "[2 3 0]"},
		{"Where", []*Tensor{FromSlice([]int{0, 1}, []bool{}), one, three}, "[0 3]"},
		{"Cast", []*Tensor{e(0, 3)}, "[0 3]"},
		{"Transpose", []*Tensor{e(2, 0, 3)}, "[3 0 2]"},
		{"Concat", []*Tensor{e(0, 3), FromSlice([]int{1, 3}, []float32{1, 2, 3})}, "[1 3]"},
		{"ReduceSum", []*Tensor{e(2, 0), FromSlice([]int{1}, []int64{1})}, "[2 1]"},
	} {
		var attrs []*graph.Attr
		switch c.op {
		case "Cast":
			attrs = append(attrs, graph.IntAttr("to", int64(graph.Int8)))
		case "Concat":
			attrs = append(attrs, graph.IntAttr("axis", 0))
		}
		got, err := tryEval(c.op, 17, c.in, attrs...)
		if err != nil {
			t.Errorf("%s of %v: %v", c.op, c.in[0].Shape, err)
			continue
		}
		if fmt.Sprint(got.Shape) != c.shape {
			t.Errorf("%s of %v has shape %v, want %s", c.op, c.in[0].Shape, got.Shape, c.shape)
		}
		if c.op == "MatMul" || c.op == "ReduceSum" {
			for _, v := range got.F32() {
				if v != 0 {
					t.Errorf("%s over nothing gives %v", c.op, got.F32())
				}
			}
		}
	}
	// C alone is left of a product over nothing.
	if got := eval(t, "Gemm", 13, []*Tensor{e(1, 0), e(0, 3), three}).F32(); !slices.Equal(got, three.F32()) {
		t.Errorf("Gemm over nothing gives %v", got)
	}
}

// TestMatMulShapes compares every form of broadcasting, in every type, with
// the sum of products in float64, constant and not.
func TestMatMulShapes(t *testing.T) {
	for _, s := range [][2][]int{
		{{5, 7}, {7, 3}}, {{7}, {7, 3}}, {{5, 7}, {7}}, {{7}, {7}},
		{{2, 5, 7}, {7, 3}}, {{5, 7}, {2, 7, 3}}, {{2, 5, 7}, {2, 7, 3}}, {{2, 1, 5, 7}, {3, 7, 4}},
		{{3, 1, 2, 7}, {1, 4, 7, 2}}, {{2, 5, 7}, {7}}, {{7}, {2, 7, 3}}, {{2, 5, 7}, {1, 7, 3}}, {{1, 5, 7}, {2, 7, 300}}, {{1, 64}, {64, 400}},
	} {
		x, y := floats(1, mustCount(s[0])), floats(2, mustCount(s[1]))
		want, shape := matmulReference(x, s[0], y, s[1])
		for _, constant := range []bool{false, true} {
			m := graph.NewModel("mm", 8, 17)
			a := m.Graph.AddInput("a", nil)
			b := m.Graph.AddInput("b", nil)
			if constant {
				m = graph.NewModel("mm", 8, 17)
				a = m.Graph.AddInput("a", nil)
				g, err := ToGraphTensor(FromSlice(s[1], y))
				if err != nil {
					t.Fatal(err)
				}
				b = m.Graph.AddInitializer("b", g)
			}
			m.Graph.AddOutput(m.Graph.NewNode("", "MatMul", "", []*graph.Value{a, b}, []string{"z"}).Output(0), nil)
			p, err := Compile(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			sess := session(p, 2)
			var sub [2]*Tensor
			for i, f := range [][]float32{x, y} {
				sub[i] = FromSlice(s[i], f)
			}
			feeds := denseFeeds(t, p, sub[:]...)
			out := run(t, sess, feeds)["z"]
			if fmt.Sprint([]int(out.Shape())) != fmt.Sprint(shape) {
				t.Errorf("%v: shape %v, want %v", s, out.Shape(), shape)
			}
			got, err := FromDense(out)
			if err != nil {
				t.Fatal(err)
			}
			// k products and additions of about unit size.
			within(t, fmt.Sprint(s, constant), got.F32(), want, float64(s[0][len(s[0])-1]), 4)
		}
		for _, d := range []graph.DType{graph.Float64, graph.Int32, graph.Int64, graph.Uint32, graph.Uint64, graph.Float16} {
			a, b := make([]float64, len(x)), make([]float64, len(y))
			for i := range a {
				a[i] = float64(i % 5)
			}
			for i := range b {
				b[i] = float64(i % 3)
			}
			z := eval(t, "MatMul", 17, []*Tensor{small(t, d, s[0], a...), small(t, d, s[1], b...)})
			got, err := asFloats(z)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := matmulReference(narrow(a), s[0], narrow(b), s[1])
			if z.DType != d || !slices.Equal(got, want) {
				t.Errorf("%v of %v: %v, want %v", s, d, got, want)
			}
		}
	}
}

func narrow(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}

func mustCount(shape []int) int {
	n, err := count(shape)
	if err != nil {
		panic(err)
	}
	return n
}

// matmulReference is numpy.matmul by its definition.
func matmulReference(x []float32, sx []int, y []float32, sy []int) ([]float64, []int) {
	row, col := len(sx) == 1, len(sy) == 1
	if row {
		sx = []int{1, sx[0]}
	}
	if col {
		sy = []int{sy[0], 1}
	}
	m, k, n := sx[len(sx)-2], sx[len(sx)-1], sy[len(sy)-1]
	bx, by := sx[:len(sx)-2], sy[:len(sy)-2]
	batch := make([]int, max(len(bx), len(by)))
	dim := func(s []int, i int) int {
		if j := i - len(batch) + len(s); j >= 0 {
			return s[j]
		}
		return 1
	}
	for i := range batch {
		batch[i] = max(dim(bx, i), dim(by, i))
	}
	var out []float64
	for b := range mustCount(batch) {
		ox, oy, rest, stepX, stepY := 0, 0, b, 1, 1
		for i := len(batch) - 1; i >= 0; i-- {
			at := rest % batch[i]
			rest /= batch[i]
			ox += at % dim(bx, i) * stepX
			oy += at % dim(by, i) * stepY
			stepX *= dim(bx, i)
			stepY *= dim(by, i)
		}
		for i := range m {
			for j := range n {
				s := 0.0
				for p := range k {
					s += float64(x[(ox*m+i)*k+p]) * float64(y[(oy*k+p)*n+j])
				}
				out = append(out, s)
			}
		}
	}
	shape := batch
	if !row {
		shape = append(shape, m)
	}
	if !col {
		shape = append(shape, n)
	}
	return out, shape
}

// TestGemm goes through transposes, factors and shapes of C.
func TestGemm(t *testing.T) {
	const m, k, n = 5, 6, 35
	for _, transA := range []int64{0, 1} {
		for _, transB := range []int64{0, 1} {
			for _, alpha := range []float32{1, 0.5} {
				for _, shape := range [][]int{nil, {n}, {1, n}, {m, 1}, {m, n}, {}, {1}} {
					a, b := floats(1, m*k), floats(2, k*n)
					sa, sb := []int{m, k}, []int{k, n}
					if transA == 1 {
						sa = []int{k, m}
					}
					if transB == 1 {
						sb = []int{n, k}
					}
					var c *Tensor
					if shape != nil {
						c = FromSlice(shape, floats(3, mustCount(shape)))
					}
					want := make([]float64, m*n)
					for i := range want {
						i, j := i/n, i%n
						for p := range k {
							x, y := a[i*k+p], b[p*n+j]
							if transA == 1 {
								x = a[p*m+i]
							}
							if transB == 1 {
								y = b[j*k+p]
							}
							want[i*n+j] += float64(alpha) * float64(x) * float64(y)
						}
						switch len(shape) {
						case 1:
							want[i*n+j] += 2 * float64(c.F32()[j%shape[0]])
						case 2:
							want[i*n+j] += 2 * float64(c.F32()[i%shape[0]*shape[1]+j%shape[1]])
						default:
							if c != nil {
								want[i*n+j] += 2 * float64(c.F32()[0])
							}
						}
					}
					attrs := []*graph.Attr{graph.IntAttr("transA", transA), graph.IntAttr("transB", transB), graph.FloatAttr("alpha", alpha), graph.FloatAttr("beta", 2)}
					in := []*Tensor{FromSlice(sa, a), FromSlice(sb, b)}
					if c != nil {
						in = append(in, c)
					}
					what := fmt.Sprint(transA, transB, alpha, shape)
					within(t, what, eval(t, "Gemm", 13, in, attrs...).F32(), want, k, 4)
					// In float64, and with a weight that is not constant.
					for i := range in {
						in[i] = small64(t, in[i])
					}
					got := eval(t, "Gemm", 13, in, attrs...).F64()
					for i := range want {
						if math.Abs(got[i]-want[i]) > 1e-13 {
							t.Errorf("%s in float64: element %d is %v, want %v", what, i, got[i], want[i])
						}
					}
				}
			}
		}
	}
}

func small64(t testing.TB, x *Tensor) *Tensor {
	z, err := newTensor(graph.Float64, x.Shape)
	if err != nil {
		t.Fatal(err)
	}
	if err := convert(z, x, castRules{}); err != nil {
		t.Fatal(err)
	}
	return z
}

// TestEinsum compares equations with the sum over all labels.
func TestEinsum(t *testing.T) {
	size := map[byte]int{'a': 2, 'b': 3, 'c': 4, 'd': 5, 'e': 1, 'X': 2, 'Y': 3}
	for _, eq := range []string{
		"ab,bc->ac", "ab,bc", "ba,bc->ca", "abc,acd->abd", "abc,abc->", "ab->ba", "ab->a", "aab->b", "aa", "a,b->ab",
		"ab,bc,cd->ad", "abcd,abce->ad", "ab,cd->acbd", "abc,dbc->adb", "e,ab->ab", "XYab,XYbc->XYac", "ab,ab,ab->b", "aab,bcc->ac",
	} {
		left, out, _ := strings.Cut(eq, "->")
		if !strings.Contains(eq, "->") {
			n := map[rune]int{}
			for _, r := range strings.ReplaceAll(left, ",", "") {
				n[r]++
			}
			for r := 'A'; r <= 'z'; r++ {
				if n[r] == 1 {
					out += string(r)
				}
			}
		}
		terms := strings.Split(left, ",")
		labels := []byte{}
		var in []*Tensor
		for i, term := range terms {
			var shape []int
			for _, l := range []byte(term) {
				shape = append(shape, size[l])
				if !slices.Contains(labels, l) {
					labels = append(labels, l)
				}
			}
			in = append(in, FromSlice(shape, floats(uint64(i), mustCount(shape))))
		}
		flat := func(term string, at map[byte]int) int {
			i := 0
			for _, l := range []byte(term) {
				i = i*size[l] + at[l]
			}
			return i
		}
		var shape []int
		for _, l := range []byte(out) {
			shape = append(shape, size[l])
		}
		want := make([]float64, mustCount(shape))
		at := map[byte]int{}
		for {
			p := 1.0
			for i, term := range terms {
				p *= float64(in[i].F32()[flat(term, at)])
			}
			want[flat(out, at)] += p
			k := 0
			for ; k < len(labels); k++ {
				if at[labels[k]]++; at[labels[k]] < size[labels[k]] {
					break
				}
				at[labels[k]] = 0
			}
			if k == len(labels) {
				break
			}
		}
		attr := graph.StringAttr("equation", strings.ReplaceAll(strings.ReplaceAll(eq, ",", " , "), "XY", "..."))
		got := eval(t, "Einsum", 12, in, attr)
		if fmt.Sprint(got.Shape) != fmt.Sprint(shape) && len(shape) > 0 {
			t.Errorf("%s has shape %v, want %v", eq, got.Shape, shape)
		}
		within(t, eq, got.F32(), want, 64, 1)
		for i := range in {
			in[i] = small64(t, in[i])
		}
		for i, g := range eval(t, "Einsum", 12, in, attr).F64() {
			if math.Abs(g-want[i]) > 1e-12 {
				t.Errorf("%s in float64: element %d is %v, want %v", eq, i, g, want[i])
			}
		}
	}
	ab := FromSlice([]int{2, 3}, floats(1, 6))
	for _, eq := range []string{"", "ab,", "a", "abc", "ab->aa", "ab->c", "a.b", "a1", "......", "...abc", "aa"} {
		if _, err := tryEval("Einsum", 12, []*Tensor{ab}, graph.StringAttr("equation", eq)); err == nil || strings.Contains(err.Error(), "internal") {
			t.Errorf("equation %q: %v", eq, err)
		}
	}
}

// TestSoftmaxVersions: until opset 12 everything from the axis on is one row.
func TestSoftmaxVersions(t *testing.T) {
	x := floats(1, 24)
	row := func(op string, x []float64) []float64 {
		m := slices.Max(x)
		s := 0.0
		for _, v := range x {
			s += math.Exp(v - m)
		}
		out := make([]float64, len(x))
		for i, v := range x {
			switch op {
			case "Softmax":
				out[i] = math.Exp(v-m) / s
			case "LogSoftmax":
				out[i] = v - m - math.Log(s)
			case "Hardmax":
				if i == slices.Index(x, m) {
					out[i] = 1
				}
			}
		}
		return out
	}
	for _, op := range []string{"Softmax", "LogSoftmax", "Hardmax"} {
		for _, opset := range []int64{7, 11, 13} {
			for _, axis := range []int64{-3, -1, 0, 1, 2} {
				if axis < 0 && opset < 11 {
					continue
				}
				a := (axis + 3) % 3
				want := make([]float64, 24)
				dims := []int{2, 3, 4}
				outer, n, inner := 1, dims[a], 1
				for i, d := range dims {
					if i < int(a) {
						outer *= d
					} else if i > int(a) {
						inner *= d
					}
				}
				if opset < 13 {
					n, inner = n*inner, 1
				}
				for o := range outer {
					for i := range inner {
						var line []float64
						for j := range n {
							line = append(line, float64(x[(o*n+j)*inner+i]))
						}
						for j, v := range row(op, line) {
							want[(o*n+j)*inner+i] = v
						}
					}
				}
				in := FromSlice(dims, x)
				what := fmt.Sprint(op, opset, axis)
				within(t, what, eval(t, op, opset, []*Tensor{in}, graph.IntAttr("axis", axis)).F32(), want, 6, 1)
				for i, g := range eval(t, op, opset, []*Tensor{small64(t, in)}, graph.IntAttr("axis", axis)).F64() {
					if math.Abs(g-want[i]) > 1e-12 {
						t.Errorf("%s in float64: %v, want %v", what, g, want[i])
					}
				}
			}
		}
	}
	// A row of −Inf alone is NaN, as the formula says; masked elements are 0.
	inf := float32(math.Inf(-1))
	got := eval(t, "Softmax", 13, []*Tensor{FromSlice([]int{2, 2}, []float32{inf, inf, inf, 3})}).F32()
	if got[0] == got[0] || got[2] != 0 || got[3] != 1 {
		t.Errorf("masked rows: %v", got)
	}
}

// TestNorms compares the normalizations with their formulas in float64.
func TestNorms(t *testing.T) {
	const N, C, P = 2, 6, 5
	x := floats(1, N*C*P)
	for i := range x {
		x[i] += 100 // a mean that a one-pass variance would choke on
	}
	scale, bias, mean, variance := floats(2, C), floats(3, C), floats(4, C), floats(5, C)
	for i := range variance {
		variance[i] = variance[i]*variance[i] + 0.1
	}
	group := func(lo, n int, eps float64, rms bool) (m, inv float64) {
		if !rms {
			for _, v := range x[lo : lo+n] {
				m += float64(v)
			}
			m /= float64(n)
		}
		s := 0.0
		for _, v := range x[lo : lo+n] {
			s += (float64(v) - m) * (float64(v) - m)
		}
		return m, 1 / math.Sqrt(s/float64(n)+eps)
	}
	X := FromSlice([]int{N, C, P}, x)
	vec := func(v []float32) *Tensor { return FromSlice([]int{len(v)}, v) }
	eps := graph.FloatAttr("epsilon", 1e-3)
	e := float64(float32(1e-3))
	per := func(f func(n, c, i int) float64) []float64 {
		var out []float64
		for n := range N {
			for c := range C {
				for p := range P {
					out = append(out, f(n, c, (n*C+c)*P+p))
				}
			}
		}
		return out
	}
	type tc struct {
		op    string
		opset int64
		in    []*Tensor
		attrs []*graph.Attr
		want  []float64
	}
	gamma, beta := floats(6, P), floats(7, P)
	wide, wideB := floats(8, C*P), floats(9, C*P)
	cases := []tc{
		{"LayerNormalization", 17, []*Tensor{X, vec(gamma), vec(beta)}, []*graph.Attr{eps}, per(func(_, _, i int) float64 {
			m, inv := group(i/P*P, P, e, false)
			return (float64(x[i])-m)*inv*float64(gamma[i%P]) + float64(beta[i%P])
		})},
		{"LayerNormalization", 17, []*Tensor{X, FromSlice([]int{C, P}, wide), FromSlice([]int{C, P}, wideB)}, []*graph.Attr{eps, graph.IntAttr("axis", 1)}, per(func(_, _, i int) float64 {
			m, inv := group(i/(C*P)*C*P, C*P, e, false)
			return (float64(x[i])-m)*inv*float64(wide[i%(C*P)]) + float64(wideB[i%(C*P)])
		})},
		{"LayerNormalization", 17, []*Tensor{X, FromSlice([]int{C, 1}, scale)}, []*graph.Attr{eps, graph.IntAttr("axis", -2)}, per(func(_, c, i int) float64 {
			m, inv := group(i/(C*P)*C*P, C*P, e, false)
			return (float64(x[i]) - m) * inv * float64(scale[c])
		})},
		{"RMSNormalization", 23, []*Tensor{X, vec(gamma)}, []*graph.Attr{eps}, per(func(_, _, i int) float64 {
			_, inv := group(i/P*P, P, e, true)
			return float64(x[i]) * inv * float64(gamma[i%P])
		})},
		{"InstanceNormalization", 6, []*Tensor{X, vec(scale), vec(bias)}, []*graph.Attr{eps}, per(func(_, c, i int) float64 {
			m, inv := group(i/P*P, P, e, false)
			return (float64(x[i])-m)*inv*float64(scale[c]) + float64(bias[c])
		})},
		{"GroupNormalization", 21, []*Tensor{X, vec(scale), vec(bias)}, []*graph.Attr{eps, graph.IntAttr("num_groups", 3)}, per(func(_, c, i int) float64 {
			m, inv := group(i/(2*P)*2*P, 2*P, e, false)
			return (float64(x[i])-m)*inv*float64(scale[c]) + float64(bias[c])
		})},
		{"GroupNormalization", 18, []*Tensor{X, vec(scale[:3]), vec(bias[:3])}, []*graph.Attr{eps, graph.IntAttr("num_groups", 3)}, per(func(_, c, i int) float64 {
			m, inv := group(i/(2*P)*2*P, 2*P, e, false)
			return (float64(x[i])-m)*inv*float64(scale[c/2]) + float64(bias[c/2])
		})},
		{"MeanVarianceNormalization", 13, []*Tensor{X}, []*graph.Attr{graph.IntsAttr("axes", -1, 1)}, per(func(_, _, i int) float64 {
			m, inv := group(i/(C*P)*C*P, C*P, 0, false)
			return (float64(x[i]) - m) / (1/inv + 1e-9)
		})},
		{"LpNormalization", 1, []*Tensor{X}, nil, per(func(_, _, i int) float64 {
			_, inv := group(i/P*P, P, 0, true)
			return float64(x[i]) * inv / math.Sqrt(P)
		})},
		{"BatchNormalization", 15, []*Tensor{X, vec(scale), vec(bias), vec(mean), vec(variance)}, []*graph.Attr{eps}, per(func(_, c, i int) float64 {
			return (float64(x[i])-float64(mean[c]))/math.Sqrt(float64(variance[c])+e)*float64(scale[c]) + float64(bias[c])
		})},
	}
	for _, c := range cases {
		// Inputs of about 100 with one ulp of 2⁻¹⁷ meet deviations of about 1.
		within(t, fmt.Sprint(c.op, c.opset), eval(t, c.op, c.opset, c.in, c.attrs...).F32(), c.want, 128*8, 1)
		var in []*Tensor
		for _, x := range c.in {
			in = append(in, small64(t, x))
		}
		for i, g := range eval(t, c.op, c.opset, in, c.attrs...).F64() {
			if math.Abs(g-c.want[i]) > 1e-9 {
				t.Errorf("%s-%d in float64: element %d is %v, want %v", c.op, c.opset, i, g, c.want[i])
			}
		}
	}
}

// TestSmallFloats: every code of the types of a byte or less decodes and
// encodes to itself, and every float32 goes to a nearest code, the even one
// of two.
func TestSmallFloats(t *testing.T) {
	for d, f := range smallFloats {
		codes := 1 << d.Bits()
		var finite []int
		for c := range codes {
			v := f.decode(uint8(c))
			if v != v {
				if got := f.encode(v, castRules{}); f.decode(got) == f.decode(got) {
					t.Errorf("%v: NaN is encoded as %#x", d, got)
				}
				continue
			}
			if !math.IsInf(float64(v), 0) {
				finite = append(finite, c)
			}
			if got := f.encode(v, castRules{wrap: true}); int(got) != c && !(f.decode(got) == v && v == 0) {
				t.Errorf("%v: %#x is %v, which is encoded as %#x", d, c, v, got)
			}
		}
		if d == graph.Float8E8M0 {
			continue
		}
		largest := float64(f.decode(f.largest()))
		r := rand.New(rand.NewPCG(1, 2))
		for range 2000 {
			v := float32(math.Exp2(r.Float64()*24-16) * (2*r.Float64() - 1))
			if math.Abs(float64(v)) > largest {
				continue
			}
			best := math.Inf(1)
			for _, c := range finite {
				best = math.Min(best, math.Abs(float64(f.decode(uint8(c)))-float64(v)))
			}
			got := f.encode(v, castRules{})
			if math.Abs(float64(f.decode(got))-float64(v)) != best {
				t.Errorf("%v: %v goes to %v", d, v, f.decode(got))
			}
		}
		for i := range finite[:len(finite)-1] {
			a, b := f.decode(uint8(finite[i])), f.decode(uint8(finite[i+1]))
			if mid := (a + b) / 2; finite[i+1] == finite[i]+1 && a >= 0 && b > a {
				if got := f.encode(mid, castRules{}); got&1 != 0 {
					t.Errorf("%v: the tie %v goes to the odd %#x", d, mid, got)
				}
			}
		}
		if got := f.decode(f.encode(1e9, castRules{})); float64(got) != largest {
			t.Errorf("%v: 1e9 saturates to %v, want %v", d, got, largest)
		}
	}
}

// TestCasts: what ONNX says of the corners, and what it leaves open.
func TestCasts(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		in   any
		to   graph.DType
		want any
	}{
		{[]float32{1.9, -1.9, 0.5, nan, 3e9, -inf}, graph.Int32, []int32{1, -1, 0, 0, math.MaxInt32, math.MinInt32}},
		{[]float32{-1, 300, 254.9}, graph.Uint8, []uint8{0, 255, 254}},
		{[]float64{1e19, -1e19, 1e300}, graph.Int64, []int64{math.MaxInt64, math.MinInt64, math.MaxInt64}},
		{[]int64{300, -1, 1 << 40}, graph.Uint8, []uint8{44, 255, 0}},
		{[]int32{0, 5, -5}, graph.Bool, []bool{false, true, true}},
		{[]float32{0, nan, 0.1, float32(math.Copysign(0, -1))}, graph.Bool, []bool{false, true, true, false}},
		{[]bool{true, false}, graph.Float32, []float32{1, 0}},
		{[]uint64{math.MaxUint64}, graph.Float32, []float32{1.8446744073709552e19}},
		{[]string{"1e3", " 2.5", "-INF", "nan"}, graph.Float32, []float32{1000, 2.5, -inf, nan}},
		{[]string{"-12", "7"}, graph.Int16, []int16{-12, 7}},
		{[]float32{1, 0.1, 1e-5, 1e20, -0.25, inf, nan, 100000}, graph.String, []string{"1.0", "0.1", "1e-05", "1e+20", "-0.25", "INF", "NaN", "100000.0"}},
		{[]int64{-3}, graph.String, []string{"-3"}},
	} {
		in := fromAny(c.in)
		got := eval(t, "Cast", 19, []*Tensor{in}, graph.IntAttr("to", int64(c.to)))
		want := fromAny(c.want)
		if err := same(got, want, 0); err != nil {
			t.Errorf("%v to %v: %v", c.in, c.to, err)
		}
	}
	if _, err := tryEval("Cast", 19, []*Tensor{fromAny([]string{"x"})}, graph.IntAttr("to", 1)); err == nil {
		t.Error(`"x" is a float`)
	}
	// From float64 to float16 there is one rounding, not two.
	half := eval(t, "Cast", 19, []*Tensor{fromAny([]float64{1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11})}, graph.IntAttr("to", int64(graph.Float16)))
	if got := view[uint16](half); got[0] != 0x3c01 || got[1] != 0x3c00 {
		t.Errorf("1 + 2⁻¹¹ + 2⁻⁴⁰ and 1 + 2⁻¹¹ round to %#x", got)
	}
}

func fromAny(s any) *Tensor {
	switch s := s.(type) {
	case []string:
		return FromSlice([]int{len(s)}, s)
	case []float32:
		return FromSlice([]int{len(s)}, s)
	case []float64:
		return FromSlice([]int{len(s)}, s)
	case []int64:
		return FromSlice([]int{len(s)}, s)
	case []int32:
		return FromSlice([]int{len(s)}, s)
	case []int16:
		return FromSlice([]int{len(s)}, s)
	case []uint8:
		return FromSlice([]int{len(s)}, s)
	case []uint64:
		return FromSlice([]int{len(s)}, s)
	case []bool:
		return FromSlice([]int{len(s)}, s)
	}
	panic("type")
}

// TestGraphTensorRoundTrip: every element type goes to a constant and back.
func TestGraphTensorRoundTrip(t *testing.T) {
	for d := graph.Float32; d.Known(); d++ {
		if d == graph.String {
			continue
		}
		raw := make([]byte, 48)
		for i := range raw {
			raw[i] = byte(i*37 + 11)
			if d == graph.Bool {
				raw[i] &= 1
			}
		}
		g, err := graph.NewTensor(d, []int64{int64(48 * 8 / d.Bits())}, raw)
		if err != nil {
			t.Fatal(err)
		}
		x, err := FromGraphTensor(g)
		if err != nil {
			t.Errorf("%v: %v", d, err)
			continue
		}
		back, err := ToGraphTensor(x)
		if err != nil {
			t.Errorf("%v: %v", d, err)
			continue
		}
		if got, err := back.Bytes(); err != nil || !slices.Equal(got, raw) {
			t.Errorf("%v: %x became %x, %v", d, raw, got, err)
		}
	}
}
