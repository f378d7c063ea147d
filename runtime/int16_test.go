package runtime_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels/fixed"
)

// TestInt16Goldens holds every path to the reference implementation, bit by bit.
func TestInt16Goldens(t *testing.T) {
	cases, err := fixed.Cases()
	if err != nil || len(cases) < 100 {
		t.Fatalf("%d goldens, %v", len(cases), err)
	}
	for _, path := range simd.Supported() {
		t.Run(path.String(), func(t *testing.T) {
			for _, g := range cases {
				for _, threads := range []int{1, 2} {
					m := g.Model(17)
					m.Graph.Outputs()[0].Declared = nil
					if err := graph.Infer(m); err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					inferred := m.Graph.Outputs()[0].Type()
					prog, err := runtime.Compile(m, runtime.Options{Path: path.String()})
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					out, err := prog.NewSession(runtime.SessionOptions{Threads: threads}).Run(context.Background(), int16Feeds(t, g))
					if err != nil {
						t.Fatalf("%s: %v", g.Name, err)
					}
					x, err := runtime.FromDense(out["out"])
					if err != nil {
						t.Fatal(err)
					}
					got, err := runtime.ToGraphTensor(x)
					if err != nil {
						t.Fatal(err)
					}
					dims, known := inferred.StaticDims()
					if !slices.Equal(got.Dims, g.Output.Dims) || !known || !slices.Equal(dims, g.Output.Dims) || got.DType != g.Output.DType || inferred.Elem != got.DType {
						t.Fatalf("%s: %v%v, inferred %v, want %v%v", g.Name, got.DType, got.Dims, inferred, g.Output.DType, g.Output.Dims)
					}
					a, errA := got.Bytes()
					b, errB := g.Output.Bytes()
					if errA != nil || errB != nil || !slices.Equal(a, b) {
						at := 0
						for a[at] == b[at] {
							at++
						}
						t.Fatalf("%s, %d threads: differs from element %d on", g.Name, threads, at*8/got.DType.Bits())
					}
				}
			}
		})
	}
}

func int16Feeds(t testing.TB, g fixed.Case) map[string]tensor.Tensor {
	t.Helper()
	feeds := map[string]tensor.Tensor{}
	for name, x := range g.Inputs {
		v, err := runtime.FromGraphTensor(x)
		if err != nil {
			t.Fatal(err)
		}
		switch v.DType {
		case graph.Int16:
			feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.I16())))
		default:
			feeds[name] = tensor.New(tensor.WithShape(v.Shape...), tensor.WithBacking(slices.Clone(v.F32())))
		}
	}
	return feeds
}

// TestCirculantConvInt16Refuses: what does not fit is an error that says so.
func TestCirculantConvInt16Refuses(t *testing.T) {
	for _, c := range []struct{ x, w, r, attrs, want string }{
		{"1,2,3,3", "1,1,2,2,2", "1,2", "", ""},
		{"1,2,3,3", "1,1,2,2,2", "1,2", `rounding = "circnn"`, "has to be 1"},
		{"1,2,3,3", "1,1,2", "1,2", "", "kernel"},
		{"1,3,3,3", "1,1,2,2,2", "1,2", "", "1 to 2 channels"},
		{"1,0,3,3", "1,1,2,2,2", "1,2", "", "1 to 2 channels"},
		{"1,2,3", "1,1,2,2,2", "1,2", "", "1 to 2 channels"},
		{"1,2,1,3", "1,1,2,2,2", "1,2", "", "the window spans 2"},
		{"1,2,3,3", "1,1,2,2,2", "1,2", "pads = [1073741824, 0, 1073741824, 0]", "too large"},
		{"1,2,3,3", "1,1,2,2,2", "2,2", "", "shifts R of 4"},
		{"1,2,3,3", "1,1,2,2,2", "1,2", "kernel_shape = [3, 3]", "kernel_shape"},
		{"1,2,3,3", "1,1,2,0,2", "1,2", "", "weights W"},
		{"1,2,3,3", "1,1,2,2,2", "1,2", "group = 2", "2 groups of 1 block rows"},
		{"1,2,3,3", "1,1,2,2,2", "1,2", "group = 0", "groups"},
		{"1,2,3,3", "1,1,2,2,2", "1,2", "group = -9223372036854775808", "groups"},
		{"1,4,3,3", "2,1,2,2,2", "2,2", "group = 2", ""},
		{"1,3,3,3", "2,1,2,2,2", "2,2", "group = 2", "as many in each of 2 groups"},
		{"1,4,3,3", "2,1,2,2,2", "3,2", "group = 2", "shifts R of 3"},
		{"1,4,3,3", "2,1,2,2,2", "2,2", "group = 4", "4 groups of 2 block rows"},
	} {
		zeros := func(dims string) string {
			n := 1
			for d := range strings.SplitSeq(dims, ",") {
				k, err := strconv.Atoi(d)
				if err != nil {
					t.Fatal(err)
				}
				n *= k
			}
			return strings.TrimSuffix(strings.Repeat("0, ", n), ", ")
		}
		p, _, _ := strings.Cut(c.w, ",")
		text := fmt.Sprintf(`<ir_version: 8, opset_import: ["": 17, "lathe": 2]> g (int16[%s] x) => (y)
			<int16[%s] w = {%s}, int8[%s,2] s = {%s}, int32[%s,2] b = {%s}, int8[%s] r = {%s}, int8[2] e = {0, 0}, int32[2] a = {4, 0}>
			{ y = lathe.BlockCirculantConvInt16 <%s> (x, w, s, b, r, e, a) }`, c.x, c.w, zeros(c.w), p, zeros(p+",2"), p, zeros(p+",2"), c.r, zeros(c.r), c.attrs)
		text = strings.Replace(text, "<>", "", 1)
		m, err := graph.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		dims, _ := m.Graph.Inputs()[0].Type().StaticDims()
		m.Graph.Inputs()[0].Declared = graph.TensorType(graph.Int16, slices.Repeat([]graph.Dim{graph.UnknownDim}, len(dims))...)
		prog, err := runtime.Compile(m, runtime.Options{})
		if err == nil {
			shape := make([]int, len(dims))
			size := 1
			for i, d := range dims {
				shape[i] = int(d)
				size *= shape[i]
			}
			var x tensor.Tensor
			if x, err = runtime.FromSlice(shape, make([]int16, size)).Dense(); err == nil {
				_, err = prog.NewSession(runtime.SessionOptions{}).Run(context.Background(), map[string]tensor.Tensor{"x": x})
			}
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("X [%s], W [%s], R [%s], %s: %v, want %q", c.x, c.w, c.r, c.attrs, err, c.want)
		}
	}
}
