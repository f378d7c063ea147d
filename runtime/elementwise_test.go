package runtime

import (
	"context"
	"fmt"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// TestShortRows: operands that repeat over short rows, as the angles of rotary
// positions do over heads, wherever threads cut the result.
func TestShortRows(t *testing.T) {
	for _, c := range []struct{ x, y []int }{
		{[]int{2, 700, 8, 4}, []int{1, 700, 1, 4}},
		{[]int{700, 1, 4}, []int{2, 700, 8, 4}},
		{[]int{3, 7000, 3}, []int{3}},
		{[]int{3, 1, 5}, []int{3, 2500, 5}},
		{[]int{40, 33, 64}, []int{40, 1, 64}},
		{[]int{9, 2, 65}, []int{9, 1, 65}},
		{[]int{0, 8, 4}, []int{1, 1, 4}},
		{[]int{3, 0, 4}, []int{3, 1, 4}},
		{[]int{5, 2, 2}, []int{5, 1, 2}},
	} {
		for _, op := range []string{"Sub", "Greater"} {
			m := graph.NewModel("m", 8, 17)
			free := func(n int) (d []graph.Dim) {
				for range n {
					d = append(d, graph.UnknownDim)
				}
				return d
			}
			x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, free(len(c.x))...))
			y := m.Graph.AddInput("y", graph.TensorType(graph.Float32, free(len(c.y))...))
			z := m.Graph.NewNode("", op, "", []*graph.Value{x, y}, []string{"z"}).Output(0)
			m.Graph.AddOutput(z, nil)
			p, err := Compile(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			make := func(shape []int, step float32) ([]float32, tensor.Tensor) {
				n, _ := count(shape)
				data := make([]float32, n)
				for i := range data {
					data[i] = float32(i%101)*step - 3
				}
				return data, tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data))
			}
			a, xt := make(c.x, 0.25)
			b, yt := make(c.y, 0.5)
			var at broadcast
			if err := at.set(c.x, c.y); err != nil {
				t.Fatal(err)
			}
			for threads := 1; threads <= 3; threads++ {
				out, err := p.NewSession(SessionOptions{Threads: threads}).Run(context.Background(), map[string]tensor.Tensor{"x": xt, "y": yt})
				if err != nil {
					t.Fatal(err)
				}
				if at.size == 0 {
					continue
				}
				// Indices by the definition of broadcasting, one element at a time.
				index := func(shape []int, i int) int {
					to, step := 0, 1
					for k := len(at.shape) - 1; k >= 0; k-- {
						at, d := i%at.shape[k], 1
						i /= []int(out["z"].Shape())[k]
						if j := k - (len(out["z"].Shape()) - len(shape)); j >= 0 {
							d = shape[j]
						}
						if d > 1 {
							to += at * step
						}
						step *= d
					}
					return to
				}
				for i := range at.size {
					u, v := a[index(c.x, i)], b[index(c.y, i)]
					var got, want string
					if op == "Sub" {
						got, want = fmt.Sprint(out["z"].Data().([]float32)[i]), fmt.Sprint(u-v)
					} else {
						got, want = fmt.Sprint(out["z"].Data().([]bool)[i]), fmt.Sprint(u > v)
					}
					if got != want {
						t.Fatalf("%s%v%v, %d threads: element %d is %s, want %s", op, c.x, c.y, threads, i, got, want)
					}
				}
			}
		}
	}
}
