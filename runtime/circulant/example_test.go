package circulant_test

import (
	"fmt"
	"log"
	"math"

	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// A 4×4 matrix of two by two blocks, and its product with two tokens by FFT.
func Example() {
	m, err := circulant.New(4, 4, 2)
	if err != nil {
		log.Fatal(err)
	}
	copy(m.W, []float32{1, 2, 3, 4, 5, 6, 7, 8}) // the first columns of the blocks
	for row := range m.M {
		fmt.Println(m.Dense()[row*m.N:][:m.N])
	}

	op, err := circulant.NewOperator(m, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	rows, columns := op.Dims()
	x := []float32{1, 0, 0, 0, 0, 0, 1, 1} // [2 tokens, columns]
	y := make([]float32, 2*rows)           // [2 tokens, rows]
	op.Apply(y, rows, x, columns, 2, make([]float32, op.Workspace()))
	fmt.Printf("%.0f\n", y)
	// Output:
	// [1 2 3 4]
	// [2 1 4 3]
	// [5 6 7 8]
	// [6 5 8 7]
	// [1 2 5 6 7 7 15 15]
}

// The block-circulant matrix nearest to a dense one, and the one that changes the
// outputs of a layer least.
func ExampleLeastSquares() {
	const m, n, b = 4, 4, 2
	w := []float32{
		1, 2, 0, 1,
		3, 1, 1, 0,
		0, 1, 2, 2,
		1, 0, 2, 3,
	}
	// Inputs whose second half is much larger than the first.
	acc := circulant.NewAccumulator(n)
	for t := range 64 {
		f := float64(t)
		x := []float32{float32(math.Sin(f)), float32(math.Cos(2 * f)), 9 * float32(math.Sin(3*f)), 3 * float32(math.Cos(5*f))}
		acc.Add(x, n, 1)
	}
	near, err := circulant.Frobenius(w, m, n, b)
	if err != nil {
		log.Fatal(err)
	}
	fit, bias, err := circulant.LeastSquares(w, m, n, b, nil, acc.Moments(), nil)
	if err != nil {
		log.Fatal(err)
	}
	before, err := circulant.OutputError(w, nil, near, nil, acc.Moments())
	if err != nil {
		log.Fatal(err)
	}
	after, err := circulant.OutputError(w, nil, fit, bias, acc.Moments())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("error of outputs %.3f → %.3f\n", before.Relative(), after.Relative())
	// Output:
	// error of outputs 0.162 → 0.098
}
