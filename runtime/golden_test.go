package runtime

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestGoldens: the test models give what ONNX Runtime gives, fused and not,
// and with the portable kernels, to a relative error of 1e-5 of the largest
// output, which is what some hundred roundings in a row of float32 make.
func TestGoldens(t *testing.T) {
	for _, c := range testmodels.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			for _, o := range []Options{{}, {NoFusion: true}, {Path: "portable"}} {
				p, err := Compile(c.Model(), o)
				if err != nil {
					t.Fatal(err)
				}
				feeds := map[string]tensor.Tensor{}
				for _, a := range c.Inputs {
					feeds[a.Name] = feedOf(t, a)
				}
				got, err := session(p, 2).Run(context.Background(), feeds)
				if err != nil {
					t.Fatal(err)
				}
				f, err := npz.Open(filepath.Join("..", "testmodels", "testdata", c.Name+".npz"), 1<<24)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for _, name := range f.Names() {
					a, err := f.Read(name)
					if err != nil {
						t.Fatal(err)
					}
					want, err := a.Float32s()
					if err != nil {
						t.Fatal(err)
					}
					x, err := FromDense(got[name])
					if err != nil {
						t.Fatalf("output %q: %v", name, err)
					}
					y, err := asFloats(x)
					if err != nil {
						t.Fatal(err)
					}
					worst, largest := 0.0, 0.0
					if len(y) != len(want) {
						t.Fatalf("output %q has %d elements, want %d", name, len(y), len(want))
					}
					for i := range y {
						worst = math.Max(worst, math.Abs(y[i]-float64(want[i])))
						largest = math.Max(largest, math.Abs(float64(want[i])))
					}
					if !(worst <= 1e-5*largest) {
						t.Errorf("%+v: output %q is off by %.2g of %.2g", o, name, worst, largest)
					}
				}
			}
		})
	}
}

// feedOf makes an npz array a tensor to feed.
func feedOf(t testing.TB, a *npz.Array) tensor.Tensor {
	x, err := newTensor(a.DType, a.Shape)
	if err != nil {
		t.Fatal(err)
	}
	copy(x.mem, a.Raw)
	swapOrder(x.mem, a.DType)
	d, err := toDense(x, true)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
