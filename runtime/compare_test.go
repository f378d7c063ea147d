package runtime

import (
	"fmt"
	"math"
	"os"

	"github.com/onnx-lathe/lathe/graph"
)

func readPB(path string) (*Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	g, err := graph.DecodeTensor(data)
	if err != nil {
		return nil, err
	}
	return FromGraphTensor(g)
}

// same compares two tensors: exactly, or floating-point numbers to a relative
// error (ONNX's own runner allows 1e-3) and 1e-6 absolute.
func same(got, want *Tensor, rtol float64) error {
	if got.DType != want.DType || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) {
		return fmt.Errorf("is %v%v, want %v%v", got.DType, got.Shape, want.DType, want.Shape)
	}
	if got.DType == graph.String {
		for i := range want.strs {
			if got.strs[i] != want.strs[i] {
				return fmt.Errorf("element %d is %q, want %q", i, got.strs[i], want.strs[i])
			}
		}
		return nil
	}
	if got.DType == graph.Float16 || got.DType == graph.BFloat16 {
		rtol = 1e-3
	}
	if !got.DType.IsFloat() {
		rtol = 0
	}
	x, err := asFloats(got)
	if err != nil {
		return err
	}
	y, err := asFloats(want)
	if err != nil {
		return err
	}
	for i := range y {
		if x[i] == y[i] || x[i] != x[i] && y[i] != y[i] {
			continue
		}
		if d := math.Abs(x[i] - y[i]); !(d <= rtol*math.Abs(y[i])+1e-6) || rtol == 0 {
			return fmt.Errorf("element %d of %v is %v, want %v", i, want.Shape, x[i], y[i])
		}
	}
	return nil
}

func asFloats(t *Tensor) ([]float64, error) {
	z, err := newTensor(graph.Float64, t.Shape)
	if err != nil {
		return nil, err
	}
	return z.F64(), convert(z, t, castRules{})
}
