package runtime

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// keys is the interpolation kernel by its definition.
func keys(mode string, a, x float64) float64 {
	x = math.Abs(x)
	switch {
	case mode == "linear":
		return math.Max(0, 1-x)
	case x <= 1:
		return (a+2)*x*x*x - (a+3)*x*x + 1
	case x < 2:
		return a*x*x*x - 5*a*x*x + 8*a*x - 4*a
	}
	return 0
}

// resized is one output element of an axis: the sum over all places, also far
// outside of the axis, of the kernel there times the element nearest to it.
func resized(x []float64, at, shrink float64, mode string, exclude bool) float64 {
	sum, weights := 0.0, 0.0
	for k := -40; k < len(x)+40; k++ {
		w := keys(mode, -0.75, (float64(k)-at)*shrink)
		if exclude && (k < 0 || k >= len(x)) {
			continue
		}
		sum += w * x[min(max(k, 0), len(x)-1)]
		weights += w
	}
	return sum / weights
}

// TestResize: interpolation along both axes of a plane in every coordinate
// mode, larger and smaller, against the kernels' definition.
func TestResize(t *testing.T) {
	x := noise(1, 2, 1, 6, 9)
	for _, mode := range []string{"linear", "cubic"} {
		for _, out := range [][]int{{6, 9}, {13, 4}, {1, 20}, {3, 9}} {
			for _, c := range []struct {
				name  string
				attrs string
				at    func(i, in, out int, scale float64) float64
			}{
				{"half_pixel", "", func(i, _, _ int, s float64) float64 { return (float64(i)+0.5)/s - 0.5 }},
				{"half_pixel", ", exclude_outside = 1", func(i, _, _ int, s float64) float64 { return (float64(i)+0.5)/s - 0.5 }},
				{"half_pixel", ", antialias = 1", func(i, _, _ int, s float64) float64 { return (float64(i)+0.5)/s - 0.5 }},
				{"half_pixel", ", antialias = 1, exclude_outside = 1", func(i, _, _ int, s float64) float64 { return (float64(i)+0.5)/s - 0.5 }},
				{"half_pixel_symmetric", "", func(i, _, _ int, s float64) float64 { return (float64(i)+0.5)/s - 0.5 }},
				{"pytorch_half_pixel", "", func(i, _, out int, s float64) float64 {
					if out == 1 {
						return 0
					}
					return (float64(i)+0.5)/s - 0.5
				}},
				{"align_corners", "", func(i, in, out int, _ float64) float64 {
					if out == 1 {
						return 0
					}
					return float64(i*(in-1)) / float64(out-1)
				}},
				{"asymmetric", "", func(i, _, _ int, s float64) float64 { return float64(i) / s }},
			} {
				text := fmt.Sprintf("y0 = Resize <mode = %q, coordinate_transformation_mode = %q%s> (x0, \"\", \"\", x1)", mode, c.name, c.attrs)
				got, err := operate(t, 19, text, x, row(2, 1, int64(out[0]), int64(out[1])))
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				v := floatsOf(t, x)
				for i, y := range floatsOf(t, got[0]) {
					n, r, col := i/(out[0]*out[1]), i/out[1]%out[0], i%out[1]
					axis := func(x []float64, i, out int) float64 {
						scale := float64(out) / float64(len(x))
						shrink := 1.0
						if strings.Contains(c.attrs, "antialias") {
							shrink = math.Min(scale, 1)
						}
						return resized(x, c.at(i, len(x), out, scale), shrink, mode, strings.Contains(c.attrs, "exclude"))
					}
					column := make([]float64, 6)
					for k := range column {
						column[k] = axis(v[n*54+k*9:n*54+k*9+9], col, out[1])
					}
					// Some twenty products of weights below 2 and elements below 4,
					// each rounded to float32.
					if want := axis(column, r, out[0]); math.Abs(y-want) > 40*4/float64(1<<24) {
						t.Fatalf("%s to %v: element %d is %v, want %v", text, out, i, y, want)
					}
				}
			}
		}
	}
}

// TestResizeForms: nearest in every mode and type, axes, policies, crops and
// the older operators; expectations from ONNX's formulas, by hand.
func TestResizeForms(t *testing.T) {
	x := matrixOf[float32](4, 1, 2, 3, 4, 5, 6, 7, 8)
	for _, c := range []struct {
		opset  int
		text   string
		inputs []*Tensor
		want   *Tensor
	}{
		// Coordinates −0.25, 0.25, 0.75, … of three elements, doubled.
		{13, "y0 = Resize (x0, \"\", x1)", []*Tensor{row[int8](1, 2, 3), row[float32](2)}, row[int8](1, 1, 2, 2, 3, 3)},
		// 0.5 and 2.5 are ties.
		{13, "y0 = Resize <nearest_mode = \"round_prefer_floor\"> (x0, \"\", x1)", []*Tensor{row[int64](1, 2, 3, 4), row[float32](0.5)}, row[int64](1, 3)},
		{13, "y0 = Resize <nearest_mode = \"round_prefer_ceil\"> (x0, \"\", x1)", []*Tensor{row[int64](1, 2, 3, 4), row[float32](0.5)}, row[int64](2, 4)},
		{13, "y0 = Resize <nearest_mode = \"floor\", coordinate_transformation_mode = \"asymmetric\"> (x0, \"\", \"\", x1)", []*Tensor{row[int64](1, 2, 3, 4), row[int64](3)}, row[int64](1, 2, 3)},
		{13, "y0 = Resize <nearest_mode = \"ceil\", coordinate_transformation_mode = \"asymmetric\"> (x0, \"\", \"\", x1)", []*Tensor{row[int64](1, 2, 3, 4), row[int64](3)}, row[int64](1, 3, 4)},
		{13, "y0 = Resize (x0, \"\", x1)", []*Tensor{FromSlice([]int{2}, []string{"a", "b"}), row[float32](1.5)}, FromSlice([]int{3}, []string{"a", "a", "b"})},
		{18, "y0 = Resize <axes = [-1], mode = \"linear\", coordinate_transformation_mode = \"align_corners\"> (x0, \"\", \"\", x1)", []*Tensor{x, row[int64](2)}, matrixOf[float32](2, 1, 4, 5, 8)},
		{18, "y0 = Resize <keep_aspect_ratio_policy = \"not_larger\"> (x0, \"\", \"\", x1)", []*Tensor{x, row[int64](1, 3)}, matrixOf[float32](2, 1, 3)},
		{18, "y0 = Resize <keep_aspect_ratio_policy = \"not_smaller\"> (x0, \"\", \"\", x1)", []*Tensor{x, row[int64](1, 4)}, x},
		{13, "y0 = Resize <mode = \"linear\", coordinate_transformation_mode = \"tf_crop_and_resize\", extrapolation_value = 9.0> (x0, x1, \"\", x2)",
			[]*Tensor{row[float32](0, 1, 2, 3, 4), row[float32](0.5, 1.5), row[int64](5)}, row[float32](2, 3, 4, 9, 9)},
		{13, "y0 = Resize <mode = \"linear\", coordinate_transformation_mode = \"asymmetric\"> (x0, \"\", x1)", []*Tensor{row[uint8](0, 255), row[float32](2)}, row[uint8](0, 127, 255, 255)},
		{13, "y0 = Resize <mode = \"linear\"> (x0, \"\", x1)", []*Tensor{as(t, graph.Float16, row[float32](1, 3)), row[float32](2)}, as(t, graph.Float16, row[float32](1, 1.5, 2.5, 3))},
		{13, "y0 = Resize <mode = \"linear\"> (x0, \"\", x1)", []*Tensor{FromSlice([]int{2, 0}, []float32{}), row[float32](2, 1)}, FromSlice([]int{4, 0}, []float32{})},
		{10, "y0 = Resize (x0, x1)", []*Tensor{x, row[float32](1, 0.6)}, matrixOf[float32](2, 1, 3, 5, 7)},
		{9, "y0 = Upsample <mode = \"linear\"> (x0, x1)", []*Tensor{row[float32](1, 3), row[float32](2)}, row[float32](1, 2, 3, 3)},
		{7, "y0 = Upsample <scales = [1.0, 1.5]> (x0)", []*Tensor{matrixOf[float32](2, 1, 2)}, matrixOf[float32](3, 1, 1, 2)},
	} {
		got, err := operate(t, c.opset, c.text, c.inputs...)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if err := same(got[0], c.want, 1e-6); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	for _, c := range []struct {
		text, want string
		inputs     []*Tensor
	}{
		{"y0 = Resize (x0, \"\", x1)", "scale", []*Tensor{x, row[float32](1, -1)}},
		{"y0 = Resize (x0, \"\", x1)", "scale", []*Tensor{x, row[float32](1, float32(nan))}},
		{"y0 = Resize (x0, \"\", x1)", "scale", []*Tensor{x, row[float32](1, 1e30)}},
		{"y0 = Resize (x0, \"\", x1)", "memory", []*Tensor{x, row[float32](1e8, 1e8)}},
		{"y0 = Resize (x0, \"\", x1)", "1 scales", []*Tensor{x, row[float32](1)}},
		{"y0 = Resize (x0, \"\", \"\", x1)", "resized", []*Tensor{x, row[int64](-1, 1)}},
		{"y0 = Resize <coordinate_transformation_mode = \"tf_crop_and_resize\"> (x0, \"\", \"\", x1)", "roi", []*Tensor{x, row[int64](1, 1)}},
		{"y0 = Resize (x0)", "scales", []*Tensor{x}},
	} {
		if _, err := operate(t, 13, c.text, c.inputs...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one of %q", c.text, err, c.want)
		}
	}
}

// TestGridSample: three dims, every padding, points at and beyond the ends.
func TestGridSample(t *testing.T) {
	x := FromSlice([]int{1, 1, 3}, []float32{1, 2, 4})
	grid := FromSlice([]int{1, 5, 1}, []float32{-1, 0, 1, 2, float32(nan)})
	for _, c := range []struct {
		attrs string
		want  []float32
	}{
		// Without aligned corners the points read −0.5, 1, 2.5 and 4 of 0 … 2.
		{"", []float32{0.5, 2, 2, 0, 0}},
		{"padding_mode = \"border\"", []float32{1, 2, 4, 4, 1}},
		{"padding_mode = \"reflection\"", []float32{1, 2, 4, 2, 1}},
		{"align_corners = 1", []float32{1, 2, 4, 0, 0}}, // 0, 1, 2 and 3
		{"align_corners = 1, padding_mode = \"reflection\"", []float32{1, 2, 4, 2, 1}},
		{"mode = \"nearest\", padding_mode = \"border\"", []float32{1, 2, 4, 4, 1}},
	} {
		got, err := operate(t, 20, "y0 = GridSample <"+c.attrs+"> (x0, x1)", x, grid)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got[0].F32() {
			if v != c.want[i] {
				t.Errorf("%s: point %d is %v, want %v", c.attrs, i, v, c.want[i])
			}
		}
	}
	// A grid that names every element gives the input back, in three dims.
	cube := noise(3, 2, 2, 2, 3, 4)
	at := make([]float32, 0, 2*24*3)
	for range 2 {
		everyIndex([]int{2, 3, 4}, func(i []int) {
			at = append(at, 2*float32(i[2])/3-1, 2*float32(i[1])/2-1, 2*float32(i[0])-1)
		})
	}
	for _, mode := range []string{"linear", "nearest", "cubic"} {
		got, err := operate(t, 20, fmt.Sprintf("y0 = GridSample <mode = %q, align_corners = 1> (x0, x1)", mode), cube, FromSlice([]int{2, 2, 3, 4, 3}, at))
		if err != nil {
			t.Fatal(err)
		}
		if err := same(got[0], cube, 1e-5); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
