package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// bytesLike is a tensor of random bytes, many of them the extremes.
func bytesLike(seed uint64, signed bool, shape ...int) *Tensor {
	n, _ := count(shape)
	r := rand.New(rand.NewPCG(seed, 2))
	s := make([]uint8, n)
	for i := range s {
		s[i] = uint8(r.IntN(256))
		switch r.IntN(4) {
		case 0:
			s[i] = 0x80
		case 1:
			s[i] = 0xff
		}
		if signed && s[i] == 0xff {
			s[i] = 0x7f
		}
	}
	t := FromSlice(shape, s)
	if signed {
		t.DType = graph.Int8
	}
	return t
}

func wholes(t testing.TB, x *Tensor) []int64 {
	if x == nil {
		return []int64{0}
	}
	return as(t, graph.Int64, x).I64()
}

// TestMatMulInteger: exact sums of the largest products, deeper than what a
// float32 holds, with every form of zero point.
func TestMatMulInteger(t *testing.T) {
	for _, c := range []struct {
		m, k, n      int
		batch        []int
		zeroA, zeroB []int // shapes; nil for none
		signedA      bool
		signedB      bool
	}{
		{1, 1, 1, nil, nil, nil, false, false},
		{5, 256, 3, nil, []int{}, []int{}, false, true},
		{30, 700, 17, nil, []int{30}, []int{17}, true, false},
		{3, 300, 50, []int{2}, []int{1}, []int{2, 1, 50}, false, false},
		{3, 40, 5, []int{2}, []int{2, 3, 1}, []int{5}, true, true},
		{3, 0, 5, nil, nil, nil, true, true},
	} {
		a := bytesLike(1, c.signedA, append(slices.Clone(c.batch), c.m, c.k)...)
		b := bytesLike(2, c.signedB, append(slices.Clone(c.batch), c.k, c.n)...)
		var za, zb *Tensor
		args := "x0, x1"
		inputs := []*Tensor{a, b}
		if c.zeroA != nil {
			za = bytesLike(3, c.signedA, c.zeroA...)
			args += ", x2"
			inputs = append(inputs, za)
		}
		if c.zeroB != nil {
			zb = bytesLike(4, c.signedB, c.zeroB...)
			args += ", x3"
			inputs = append(inputs, zb)
		}
		out, err := operate(t, 10, "y0 = MatMulInteger ("+args+")", inputs...)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		x, y, zx, zy := wholes(t, a), wholes(t, b), wholes(t, za), wholes(t, zb)
		for i, got := range out[0].I32() {
			row, col := i/c.n, i%c.n
			matrix := row / c.m
			zr, zc := zx[0], zy[0]
			if len(zx) > 1 {
				zr = zx[row%len(zx)]
			}
			if len(zy) > 1 {
				zc = zy[(matrix*c.n+col)%len(zy)]
			}
			want := int64(0)
			for p := range c.k {
				want += (x[row*c.k+p] - zr) * (y[(matrix*c.k+p)*c.n+col] - zc)
			}
			if int64(got) != want {
				t.Fatalf("%+v: element %d is %d, want %d", c, i, got, want)
			}
		}
	}
}

// TestConvInteger: exact sums over every geometry; padding stands for the zero
// point of X, which is no product.
func TestConvInteger(t *testing.T) {
	for _, g := range geometries {
		for _, c := range []struct{ n, channels, m, group int }{{2, 3, 5, 1}, {1, 300, 2, 1}, {1, 4, 4, 4}} {
			x := bytesLike(1, false, append([]int{c.n, c.channels}, g.in...)...)
			w := bytesLike(2, true, append([]int{c.m, c.channels / c.group}, g.kernel...)...)
			zx, zw := bytesLike(3, false), bytesLike(4, true, c.m)
			out, err := operate(t, 10, fmt.Sprintf("y0 = ConvInteger <group = %d, %s> (x0, x1, x2, x3)", c.group, g.text()), x, w, zx, zw)
			if err != nil {
				t.Fatalf("%+v: %v", g, err)
			}
			xs, ws := floatsOf(t, x), floatsOf(t, w)
			for i := range xs {
				xs[i] -= float64(wholes(t, zx)[0])
			}
			for i := range ws {
				ws[i] -= float64(wholes(t, zw)[i/(len(ws)/c.m)])
			}
			want, _ := convolved(g, xs, ws, nil, c.n, c.channels, c.m, c.group)
			for i, got := range out[0].I32() {
				if float64(got) != want[i] {
					t.Fatalf("%+v %+v: element %d is %d, want %v", g, c, i, got, want[i])
				}
			}
		}
	}
}

// TestQLinear: scales that are powers of two make the reference exact.
func TestQLinear(t *testing.T) {
	quantized := func(v float64, zero int64, signed bool) int64 {
		low, high := int64(0), int64(255)
		if signed {
			low, high = -128, 127
		}
		return int64(math.Max(float64(low), math.Min(float64(high), math.RoundToEven(v)+float64(zero))))
	}
	for _, signed := range []bool{false, true} {
		a, b := bytesLike(1, signed, 2, 7, 300), bytesLike(2, true, 300, 9)
		za, zb, zy := bytesLike(3, signed), bytesLike(4, true, 9), bytesLike(5, signed)
		sa, sy := row[float32](0.25), row[float32](1024)
		sb := row[float32](1, 0.5, 0.25, 2, 1, 1, 4, 0.125, 1)
		out, err := operate(t, 10, "y0 = QLinearMatMul (x0, x1, x2, x3, x4, x5, x6, x7)", a, sa, za, b, sb, zb, sy, zy)
		if err != nil {
			t.Fatal(err)
		}
		x, y := wholes(t, a), wholes(t, b)
		for i, got := range wholes(t, out[0]) {
			sum := int64(0)
			for p := range 300 {
				sum += (x[i/9*300+p] - wholes(t, za)[0]) * (y[p*9+i%9] - wholes(t, zb)[i%9])
			}
			if want := quantized(float64(sum)*0.25*float64(sb.F32()[i%9])/1024, wholes(t, zy)[0], signed); got != want {
				t.Fatalf("element %d of the product is %d, want %d", i, got, want)
			}
		}
		g := geometries[6]
		cx, cw := bytesLike(6, signed, 2, 4, 6, 5), bytesLike(7, true, 6, 2, 3, 2)
		bias := row[int32](0, 1, -500, 70000, -70000, 3)
		sw := row[float32](1, 2, 4, 0.5, 0.25, 1)
		out, err = operate(t, 10, "y0 = QLinearConv <group = 2, "+g.text()+"> (x0, x1, x2, x3, x4, x5, x6, x7, x8)",
			cx, sa, za, cw, sw, FromSlice([]int{6}, make([]int8, 6)), row[float32](256), zy, bias)
		if err != nil {
			t.Fatal(err)
		}
		xs := floatsOf(t, cx)
		for i := range xs {
			xs[i] -= float64(wholes(t, za)[0])
		}
		sums, _ := convolved(g, xs, floatsOf(t, cw), floatsOf(t, bias), 2, 4, 6, 2)
		for i, got := range wholes(t, out[0]) {
			m := i / 20 % 6
			if want := quantized(sums[i]*0.25*float64(sw.F32()[m])/256, wholes(t, zy)[0], signed); got != want {
				t.Fatalf("element %d of the convolution is %d, want %d", i, got, want)
			}
		}
	}
}

// TestQuantizeLinear: ties, saturation, NaN, and every form of scale.
func TestQuantizeLinear(t *testing.T) {
	inf := float32(math.Inf(1))
	x := row[float32](-1, -0.5, 0.5, 1.5, 2.5, 126.5, 300, -300, inf, -inf, float32(nan), 63.25)
	four := func(d graph.DType, v ...int8) *Tensor {
		z := row(v...)
		z.DType = d
		return z
	}
	rows := matrixOf[float32](4, 1, 2, 3, 4, 5, 6, 7, 8)
	for _, c := range []struct {
		opset  int
		text   string
		inputs []*Tensor
		want   *Tensor
	}{
		{10, "y0 = QuantizeLinear (x0, x1)", []*Tensor{x, FromSlice([]int{}, []float32{1})}, row[uint8](0, 0, 0, 2, 2, 126, 255, 0, 255, 0, 0, 63)},
		{13, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{x, row[float32](0.5), row[int8](1)}, row[int8](-1, 0, 2, 4, 6, 127, 127, -128, 127, -128, 1, 127)},
		{13, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{x, row[float32](1), row[uint8](250)}, row[uint8](249, 250, 250, 252, 252, 255, 255, 0, 255, 0, 250, 255)},
		{21, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{x, row[float32](1), four(graph.Int4, -3)}, four(graph.Int4, -4, -3, -3, -1, -1, 7, 7, -8, 7, -8, -3, 7)},
		{21, "y0 = QuantizeLinear <output_dtype = 21> (x0, x1)", []*Tensor{x, row[float32](1)}, four(graph.Uint4, 0, 0, 0, 2, 2, 15, 15, 0, 15, 0, 0, 15)},
		{21, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{x, row[float32](1. / 256), row[uint16](65535)}, row[uint16](65279, 65407, 65535, 65535, 65535, 65535, 65535, 0, 65535, 0, 65535, 65535)},
		{13, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{row[int32](5, -1), row[float32](2), row[int8](0)}, row[int8](2, 0)},
		{13, "y0 = QuantizeLinear <axis = -2> (x0, x1)", []*Tensor{rows, row[float32](1, 2)}, matrixOf[uint8](4, 1, 2, 3, 4, 2, 3, 4, 4)},
		{13, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{rows, row[float32](1, 2, 4, 8), row[uint8](0, 1, 2, 3)}, matrixOf[uint8](4, 1, 2, 3, 3, 5, 4, 4, 4)},
		{21, "y0 = QuantizeLinear <axis = 1, block_size = 3> (x0, x1)", []*Tensor{rows, matrixOf[float32](2, 1, 2, 4, 8)}, matrixOf[uint8](4, 1, 2, 3, 2, 1, 2, 2, 1)},
		{21, "y0 = QuantizeLinear <axis = 0, block_size = 2> (x0, x1)", []*Tensor{rows, matrixOf[float32](4, 1, 2, 4, 8)}, matrixOf[uint8](4, 1, 1, 1, 0, 5, 3, 2, 1)},
		{13, "y0 = QuantizeLinear (x0, x1)", []*Tensor{FromSlice([]int{0, 2}, []float32{}), row[float32](1)}, FromSlice([]int{0, 2}, []uint8{})},
		{13, "y0 = DequantizeLinear (x0, x1, x2)", []*Tensor{row[int8](-128, 0, 127), row[float32](0.5), row[int8](-1)}, row[float32](-63.5, 0.5, 64)},
		{13, "y0 = DequantizeLinear (x0, x1)", []*Tensor{row[int32](math.MinInt32, 7), row[float32](2)}, row[float32](-4294967296, 14)},
		{13, "y0 = DequantizeLinear <axis = 0> (x0, x1, x2)", []*Tensor{matrixOf[uint8](2, 1, 2, 3, 4), row[float32](1, 2), row[uint8](1, 2)}, matrixOf[float32](2, 0, 1, 2, 4)},
		{21, "y0 = DequantizeLinear <axis = 1, block_size = 2> (x0, x1)", []*Tensor{matrixOf[int16](3, 1, 2, 3), matrixOf[float32](2, 2, 3)}, matrixOf[float32](3, 2, 4, 9)},
		{21, "y0 = DequantizeLinear (x0, x1)", []*Tensor{four(graph.Int4, -8, 7), as(t, graph.Float16, row[float32](0.5))}, as(t, graph.Float16, row[float32](-4, 3.5))},
		{23, "y0 = DequantizeLinear <output_dtype = 1> (x0, x1)", []*Tensor{four(graph.Uint4, 0, 15), as(t, graph.BFloat16, row[float32](0.5))}, row[float32](0, 7.5)},
		{19, "y0 = DequantizeLinear (x0, x1)", []*Tensor{as(t, graph.Float8E4M3FN, row[float32](-448, 1.25)), row[float32](2)}, row[float32](-896, 2.5)},
		{19, "y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{row[float32](1e6, -2.6, float32(nan)), row[float32](2), as(t, graph.Float8E4M3FN, row[float32](0))},
			as(t, graph.Float8E4M3FN, row[float32](448, -1.25, float32(nan)))},
		{19, "y0 = QuantizeLinear <saturate = 0> (x0, x1, x2)", []*Tensor{row[float32](1e6, -2.6), row[float32](2), as(t, graph.Float8E4M3FN, row[float32](0))},
			as(t, graph.Float8E4M3FN, row[float32](float32(nan), -1.25))},
	} {
		got, err := operate(t, c.opset, c.text, c.inputs...)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if err := same(got[0], c.want, 0); err != nil && !slices.Equal(got[0].mem, c.want.mem) {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	for _, c := range []struct {
		text   string
		inputs []*Tensor
	}{
		{"y0 = QuantizeLinear (x0, x1)", []*Tensor{rows, row[float32](1, 2, 3)}},
		{"y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{rows, row[float32](1), row[uint8](1, 2)}},
		{"y0 = QuantizeLinear (x0, x1, x2)", []*Tensor{rows, row[float32](1), row[int64](1)}},
		{"y0 = QuantizeLinear <axis = 5> (x0, x1)", []*Tensor{rows, row[float32](1, 2, 3, 4)}},
		{"y0 = QuantizeLinear <block_size = 3> (x0, x1)", []*Tensor{rows, matrixOf[float32](1, 1, 2)}},
		{"y0 = DequantizeLinear (x0, x1, x2)", []*Tensor{row[uint8](1), row[float32](1), row[int8](1)}},
		{"y0 = MatMulInteger (x0, x1, x2)", []*Tensor{matrixOf[uint8](1, 1, 2), matrixOf[uint8](2, 1, 2), row[uint8](1, 2, 3)}},
		{"y0 = ConvInteger (x0, x1)", []*Tensor{rows, rows}},
	} {
		if _, err := operate(t, 21, c.text, c.inputs...); err == nil {
			t.Errorf("%s of %v: no error", c.text, c.inputs)
		}
	}
}
