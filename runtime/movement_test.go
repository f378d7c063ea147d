package runtime

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

func row[T element](v ...T) *Tensor { return FromSlice([]int{len(v)}, v) }

// matrixOf is a tensor of rows columns long.
func matrixOf[T element](cols int, v ...T) *Tensor { return FromSlice([]int{len(v) / cols, cols}, v) }

var nan = math.NaN()

// TestMovement: what moves elements, in the forms that the official tests
// leave out; the expectations are worked out by hand from ONNX's text.
func TestMovement(t *testing.T) {
	data := matrixOf[float32](3, 1, 2, 3, 4, 5, 6)
	for _, c := range []struct {
		opset  int
		text   string
		inputs []*Tensor
		want   []*Tensor
	}{
		{9, "y0 = Slice <starts = [1], ends = [9223372036854775807], axes = [-1]> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](2, 2, 3, 5, 6)}},
		{9, "y0 = Slice <starts = [-1, -9], ends = [9, -1]> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](2, 4, 5)}},
		{13, "y0 = Slice (x0, x1, x2, x3, x4)", []*Tensor{data, row[int64](-1, math.MaxInt64), row[int64](math.MinInt64, math.MinInt64), row[int64](0, 1), row[int64](-1, -2)},
			[]*Tensor{matrixOf[float32](2, 6, 4, 3, 1)}},
		{13, "y0 = Slice (x0, x1, x2, x3)", []*Tensor{data, row[int32](2), row[int32](1), row[int32](1)}, []*Tensor{FromSlice([]int{2, 0}, []float32{})}},
		{13, "y0 = Slice (x0, x1, x2)", []*Tensor{FromSlice([]int{3}, []string{"a", "b", "c"}), row[int64](1), row[int64](3)}, []*Tensor{FromSlice([]int{2}, []string{"b", "c"})}},
		{11, "y0, y1 = Split <axis = -1, split = [1, 2]> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](1, 1, 4), matrixOf[float32](2, 2, 3, 5, 6)}},
		{13, "y0, y1 = Split <axis = 1> (x0, x1)", []*Tensor{data, row[int64](0, 3)}, []*Tensor{FromSlice([]int{2, 0}, []float32{}), data}},
		{18, "y0, y1 = Split <axis = 1, num_outputs = 2> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](2, 1, 2, 4, 5), matrixOf[float32](1, 3, 6)}},
		{13, "y0 = Tile (x0, x1)", []*Tensor{matrixOf[int16](2, 1, 2), row[int64](2, 2)}, []*Tensor{matrixOf[int16](4, 1, 2, 1, 2, 1, 2, 1, 2)}},
		{13, "y0 = Tile (x0, x1)", []*Tensor{data, row[int64](0, 1)}, []*Tensor{FromSlice([]int{0, 3}, []float32{})}},
		{10, "y0 = Pad <pads = [0, 1, 0, -1], value = 7.0> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](3, 7, 1, 2, 7, 4, 5)}},
		{10, "y0 = Pad <mode = \"edge\", pads = [1, 1, 0, 2]> (x0)", []*Tensor{data}, []*Tensor{matrixOf[float32](6, 1, 1, 2, 3, 3, 3, 1, 1, 2, 3, 3, 3, 4, 4, 5, 6, 6, 6)}},
		{18, "y0 = Pad <mode = \"reflect\"> (x0, x1, \"\", x2)", []*Tensor{data, row[int64](2, 5), row[int64](-1)},
			[]*Tensor{matrixOf[float32](10, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 6, 5, 4, 5, 6, 5, 4, 5, 6, 5)}},
		{19, "y0 = Pad <mode = \"wrap\"> (x0, x1)", []*Tensor{row[int8](1, 2, 3), row[int64](4, -1)}, []*Tensor{row[int8](3, 1, 2, 3, 1, 2)}},
		{13, "y0 = Pad (x0, x1)", []*Tensor{FromSlice([]int{1}, []string{"a"}), row[int64](1, 1)}, []*Tensor{FromSlice([]int{3}, []string{"", "a", ""})}},
		{13, "y0 = Pad (x0, x1)", []*Tensor{FromSlice([]int{0, 2}, []float32{}), row[int64](1, 0, 0, 1)}, []*Tensor{matrixOf[float32](3, 0, 0, 0)}},
		{13, "y0 = GatherElements <axis = -1> (x0, x1)", []*Tensor{data, matrixOf[int32](1, -1, 0)}, []*Tensor{matrixOf[float32](1, 3, 4)}},
		{13, "y0 = GatherElements (x0, x1)", []*Tensor{data, matrixOf[int64](2, 1, 0)}, []*Tensor{matrixOf[float32](2, 4, 2)}},
		{13, "y0 = GatherND <batch_dims = 1> (x0, x1)", []*Tensor{data, matrixOf[int64](1, 2, -3)}, []*Tensor{row[float32](3, 4)}},
		{13, "y0 = NonZero (x0)", []*Tensor{matrixOf[float32](2, float32(math.Copysign(0, -1)), float32(nan), 0, 1)}, []*Tensor{matrixOf[int64](2, 0, 1, 1, 1)}},
		{13, "y0 = NonZero (x0)", []*Tensor{matrixOf(2, true, false)}, []*Tensor{matrixOf[int64](1, 0, 0)}},
		{11, "y0 = Compress (x0, x1)", []*Tensor{data, row(false, true, false, false, true)}, []*Tensor{row[float32](2, 5)}},
		{11, "y0 = Compress <axis = -1> (x0, x1)", []*Tensor{data, row(false, true)}, []*Tensor{matrixOf[float32](1, 2, 5)}},
		{10, "y0 = ReverseSequence <time_axis = 1, batch_axis = 0> (x0, x1)", []*Tensor{data, row[int64](0, 2)}, []*Tensor{matrixOf[float32](3, 1, 2, 3, 5, 4, 6)}},
		{14, "y0 = Trilu <upper = 0> (x0, x1)", []*Tensor{data, row[int64](-1)}, []*Tensor{matrixOf[float32](3, 0, 0, 0, 4, 0, 0)}},

		{9, "y0 = Scatter <axis = 1> (x0, x1, x2)", []*Tensor{data, matrixOf[int64](1, -1, 0), matrixOf[float32](1, 8, 9)}, []*Tensor{matrixOf[float32](3, 1, 2, 8, 9, 5, 6)}},
		{18, "y0 = ScatterElements <axis = 1, reduction = \"max\"> (x0, x1, x2)", []*Tensor{data, matrixOf[int32](2, 2, 2, 0, 0), matrixOf[float32](2, 8, 9, 1, 2)},
			[]*Tensor{matrixOf[float32](3, 1, 2, 9, 4, 5, 6)}},
		{16, "y0 = ScatterElements <reduction = \"mul\"> (x0, x1, x2)", []*Tensor{row[int8](3, 4), row[int64](0, 0), row[int8](2, 3)}, []*Tensor{row[int8](18, 4)}},
		{16, "y0 = ScatterElements <reduction = \"add\"> (x0, x1, x2)", []*Tensor{row(true, false), row[int64](0, 1), row(false, true)}, []*Tensor{row(true, true)}},
		{18, "y0 = ScatterND <reduction = \"min\"> (x0, x1, x2)", []*Tensor{data, matrixOf[int64](1, 1, -1), matrixOf[float32](3, 9, 0, 9, 0, 9, 9)},
			[]*Tensor{matrixOf[float32](3, 1, 2, 3, 0, 0, 6)}},
		{13, "y0 = ScatterND (x0, x1, x2)", []*Tensor{FromSlice([]int{2}, []string{"a", "b"}), matrixOf[int64](1, 1), FromSlice([]int{1}, []string{"c"})}, []*Tensor{FromSlice([]int{2}, []string{"a", "c"})}},
		{13, "y0 = ScatterND (x0, x1, x2)", []*Tensor{data, FromSlice([]int{0, 2}, []int64{}), FromSlice([]int{0}, []float32{})}, []*Tensor{data}},
		{11, "y0 = OneHot (x0, x1, x2)", []*Tensor{row[int64](-1, 3, 1), row[int64](3), row[int8](5, 6)}, []*Tensor{matrixOf[int8](3, 5, 5, 6, 5, 5, 5, 5, 6, 5)}},
		{9, "y0 = OneHot <axis = 0> (x0, x1, x2)", []*Tensor{row[float32](-1, 1), row[float32](2), FromSlice([]int{2}, []string{"-", "+"})},
			[]*Tensor{FromSlice([]int{2, 2}, []string{"-", "-", "-", "+"})}},
		{9, "y0 = EyeLike <k = -1, dtype = 7> (x0)", []*Tensor{data}, []*Tensor{matrixOf[int64](3, 0, 0, 0, 1, 0, 0)}},
		{9, "y0 = EyeLike <k = -9223372036854775808> (x0)", []*Tensor{matrixOf[float32](1, 1)}, []*Tensor{matrixOf[float32](1, 0)}},

		{9, "y0, y1 = TopK <k = 2, axis = 0> (x0)", []*Tensor{matrixOf[float32](2, 1, 5, 3, 5, 3, 4)}, []*Tensor{matrixOf[float32](2, 3, 5, 3, 5), matrixOf[int64](2, 1, 0, 2, 1)}},
		{11, "y0, y1 = TopK (x0, x1)", []*Tensor{row[float32](1, float32(nan), float32(math.Inf(1))), row[int64](2)},
			[]*Tensor{row[float32](float32(nan), float32(math.Inf(1))), row[int64](1, 2)}},
		{11, "y0, y1 = TopK <largest = 0> (x0, x1)", []*Tensor{row[float32](float32(nan), 2, 1), row[int64](3)}, []*Tensor{row[float32](1, 2, float32(nan)), row[int64](2, 1, 0)}},
		{11, "y0, y1 = TopK (x0, x1)", []*Tensor{row[int64](1, 2), row[int64](0)}, []*Tensor{row[int64](), row[int64]()}},
		{11, "y0, y1, y2, y3 = Unique <sorted = 0> (x0)", []*Tensor{row[int16](3, 1, 3, 2)}, []*Tensor{row[int16](3, 1, 2), row[int64](0, 1, 3), row[int64](0, 1, 0, 2), row[int64](2, 1, 1)}},
		{11, "y0, y1, y2, y3 = Unique (x0)", []*Tensor{row[float32](float32(nan), 1, float32(nan))},
			[]*Tensor{row[float32](1, float32(nan), float32(nan)), row[int64](1, 0, 2), row[int64](1, 0, 2), row[int64](1, 1, 1)}},
		{11, "y0, y1 = Unique (x0)", []*Tensor{FromSlice([]int{3}, []string{"b", "a", "b"})}, []*Tensor{FromSlice([]int{2}, []string{"a", "b"}), row[int64](1, 0)}},
		{14, "y0 = CumSum <exclusive = 1, reverse = 1> (x0, x1)", []*Tensor{data, FromSlice([]int{}, []int32{-1})}, []*Tensor{matrixOf[float32](3, 5, 3, 0, 11, 6, 0)}},
		{14, "y0 = CumSum (x0, x1)", []*Tensor{row[uint32](1, math.MaxUint32, 2), row[int64](0)}, []*Tensor{row[uint32](1, 0, 2)}},
		{11, "y0 = DepthToSpace <blocksize = 2, mode = \"CRD\"> (x0)", []*Tensor{FromSlice([]int{1, 4, 1, 2}, []float64{1, 2, 3, 4, 5, 6, 7, 8})},
			[]*Tensor{FromSlice([]int{1, 1, 2, 4}, []float64{1, 3, 2, 4, 5, 7, 6, 8})}},
		{1, "y0 = SpaceToDepth <blocksize = 2> (x0)", []*Tensor{FromSlice([]int{1, 1, 2, 4}, []bool{true, false, false, false, true, true, false, true})},
			[]*Tensor{FromSlice([]int{1, 4, 1, 2}, []bool{true, false, false, false, true, false, true, true})}},
	} {
		got, err := operate(t, c.opset, c.text, c.inputs...)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		for i, want := range c.want {
			if err := same(got[i], want, 0); err != nil && !(want.DType.IsFloat() && identical(got[i], want)) {
				t.Errorf("%s: output %d: %v", c.text, i, err)
			}
		}
	}
}

// identical reports whether two tensors hold the same bits, any NaN for any.
func identical(a, b *Tensor) bool {
	return a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && slices.EqualFunc(a.F32(), b.F32(), func(x, y float32) bool { return x == y || x != x && y != y })
}

// TestTopKSorts: long lists, few and many of them, against a stable sort.
func TestTopKSorts(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, k := range []int64{1, 16, 17, 100} {
		x := make([]float32, 2*100*3)
		for i := range x {
			x[i] = float32(r.IntN(30))
		}
		out, err := operate(t, 11, "y0, y1 = TopK <axis = 1> (x0, x1)", FromSlice([]int{2, 100, 3}, x), row(k))
		if err != nil {
			t.Fatal(err)
		}
		for line := range 6 {
			order := make([]int64, 100)
			for i := range order {
				order[i] = int64(i)
			}
			at := func(i int64) float32 { return x[line/3*300+int(i)*3+line%3] }
			slices.SortStableFunc(order, func(i, j int64) int { return int(at(j) - at(i)) })
			for i := range k {
				o := line/3*int(k)*3 + int(i)*3 + line%3
				if v, p := out[0].F32()[o], out[1].I64()[o]; p != order[i] || v != at(p) {
					t.Fatalf("k = %d: element %d of line %d is %v from %d, want %v from %d", k, i, line, v, p, at(order[i]), order[i])
				}
			}
		}
	}
}

// TestMovementErrors: indices and sizes that do not fit are refused.
func TestMovementErrors(t *testing.T) {
	data := matrixOf[float32](3, 1, 2, 3, 4, 5, 6)
	for _, c := range []struct {
		text, want string
		inputs     []*Tensor
	}{
		{"y0 = Slice (x0, x1, x2, x3, x4)", "step", []*Tensor{data, row[int64](0), row[int64](1), row[int64](0), row[int64](0)}},
		{"y0 = Slice (x0, x1, x2, x3)", "axis 2", []*Tensor{data, row[int64](0), row[int64](1), row[int64](2)}},
		{"y0 = Slice (x0, x1, x2, x3)", "twice", []*Tensor{data, row[int64](0, 0), row[int64](1, 1), row[int64](0, -2)}},
		{"y0, y1 = Split (x0, x1)", "part of length -1", []*Tensor{data, row[int64](3, -1)}},
		{"y0 = Tile (x0, x1)", "repeats", []*Tensor{data, row[int64](-1, 1)}},
		{"y0 = Tile (x0, x1)", "memory", []*Tensor{data, row[int64](1<<30, 1<<30)}},
		{"y0 = Pad (x0, x1)", "pads", []*Tensor{data, row[int64](0, -2, 0, -2)}},
		{"y0 = Pad (x0, x1)", "memory", []*Tensor{data, row[int64](1<<30, 1<<30, 0, 0)}},
		{"y0 = GatherElements (x0, x1)", "out of range", []*Tensor{data, matrixOf[int64](1, 2)}},
		{"y0 = GatherElements (x0, x1)", "beyond", []*Tensor{data, matrixOf[int64](4, 0, 0, 0, 0)}},
		{"y0 = GatherND (x0, x1)", "out of range", []*Tensor{data, matrixOf[int64](2, 0, -4)}},
		{"y0 = GatherND (x0, x1)", "indices", []*Tensor{data, matrixOf[int64](3, 0, 0, 0)}},
		{"y0 = ScatterElements (x0, x1, x2)", "out of range", []*Tensor{data, matrixOf[int64](1, math.MinInt64), matrixOf[float32](1, 0)}},
		{"y0 = ScatterElements (x0, x1, x2)", "updates are double", []*Tensor{data, matrixOf[int64](1, 0), matrixOf[float64](1, 0)}},
		{"y0 = ScatterElements (x0, x1, x2)", "differ", []*Tensor{data, matrixOf[int64](1, 0), matrixOf[float32](2, 0, 0)}},
		{"y0 = ScatterND (x0, x1, x2)", "updates", []*Tensor{data, matrixOf[int64](1, 0), matrixOf[float32](2, 0, 0)}},
		{"y0 = OneHot (x0, x1, x2)", "memory", []*Tensor{row[int64](1, 2), row[int64](1 << 30), row[float64](0, 1)}},
		{"y0 = OneHot (x0, x1, x2)", "depth", []*Tensor{row[int64](1, 2), row[int64](-1), row[float64](0, 1)}},
		{"y0, y1 = TopK (x0, x1)", "4 first", []*Tensor{data, row[int64](math.MaxInt64)}},
		{"y0 = CumSum (x0, x1)", "axis", []*Tensor{data, row[int64](math.MinInt64)}},
		{"y0 = Compress <axis = 1> (x0, x1)", "condition", []*Tensor{data, row(true, true, true, true)}},
		{"y0 = ReverseSequence (x0, x1)", "length 4", []*Tensor{data, row[int64](1, 1, 4)}},
		{"y0 = DepthToSpace <blocksize = 4294967296> (x0)", "blocksize", []*Tensor{FromSlice([]int{1, 1, 1, 1}, []float32{1})}},
	} {
		if _, err := operate(t, 13, c.text, c.inputs...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one of %q", c.text, err, c.want)
		}
	}
	if _, err := operate(t, 13, "y0 = Slice (x0, x1, x2)", as(t, graph.Float16, data), row[float32](0), row[int64](1)); err == nil {
		t.Error("Slice takes float indices")
	}
}
