package runtime

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// operate runs one node, in the textual form with inputs x0, x1, … and outputs
// y0, y1, …, in that opset. It runs it with every input fed and with all but
// the first constant, on one thread and on three, twice each, with NaN in all
// memory that is lent, and fails the test unless all agree bit by bit.
func operate(t testing.TB, opset int, text string, inputs ...*Tensor) ([]*Tensor, error) {
	t.Helper()
	var last []*Tensor
	for _, constant := range []bool{false, true} {
		if constant && len(inputs) < 2 {
			continue
		}
		var in, out []string
		feeds := map[string]tensor.Tensor{}
		for i, x := range inputs {
			name := fmt.Sprintf("x%d", i)
			if x == nil {
				continue
			}
			dims := make([]string, len(x.Shape))
			for k, d := range x.Shape {
				dims[k] = fmt.Sprint(d)
			}
			in = append(in, fmt.Sprintf("%v[%s] %s", x.DType, strings.Join(dims, ","), name))
			if constant && i > 0 {
				continue
			}
			d, err := toDense(x, true)
			if err != nil {
				t.Fatal(err)
			}
			feeds[name] = d
		}
		for i := 0; strings.Contains(text, fmt.Sprintf("y%d", i)); i++ {
			out = append(out, fmt.Sprintf("float[] y%d", i))
		}
		m, err := graph.Parse(fmt.Sprintf("<ir_version: 10, opset_import: [\"\" : %d]>\ng (%s) => (%s) { %s }",
			opset, strings.Join(in, ", "), strings.Join(out, ", "), text))
		if err != nil {
			t.Fatal(err)
		}
		if constant {
			for i, x := range inputs[1:] {
				if x == nil {
					continue
				}
				g, err := ToGraphTensor(x)
				if err != nil {
					t.Fatal(err)
				}
				v := m.Graph.Value(fmt.Sprintf("x%d", i+1))
				v.ReplaceUses(m.Graph.AddInitializer(fmt.Sprintf("c%d", i+1), g))
				m.Graph.RemoveInput(v)
			}
		}
		p, err := Compile(m, Options{})
		if err != nil {
			return nil, err
		}
		for _, threads := range []int{1, 3} {
			s := session(p, threads)
			for range 2 {
				s.ctx = context.Background()
				if err := s.feed(feeds); err != nil {
					return nil, err
				}
				if err := s.main.exec(); err != nil {
					return nil, err
				}
				var got []*Tensor
				for _, slot := range p.main.outputs {
					got = append(got, s.main.values[slot].clone())
				}
				s.main.reset()
				for i := range last {
					if a, b := got[i], last[i]; a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || !bytes.Equal(a.mem, b.mem) || !slices.Equal(a.strs, b.strs) {
						t.Errorf("output %d: %v%v differs from a run before (%d threads, constants %v)", i, a.DType, a.Shape, threads, constant)
					}
				}
				last = got
			}
		}
	}
	return last, nil
}

// Folding gives a kernel what a run gives it: not the inputs that it has taken
// into its weights. A Gemm of constants once had its bias twice.
func TestFoldedAsRun(t *testing.T) {
	text := `<ir_version: 10, opset_import: ["": 17]>
g (float[1,2] a) => (float[1,2] y) <float[2,2] b = {1, 2, 3, 4}, float[2] c = {10, 20}> { y = Gemm (a, b, c) }`
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	toParameter(m, "a", []int64{1, 2}, []float32{1, 1})
	p, err := Compile(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := session(p, 1).Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if y := got["y"].Data().([]float32); !slices.Equal(y, []float32{14, 26}) {
		t.Errorf("y = %v, want [14 26]", y)
	}
}
