package fixed_test

import (
	"fmt"
	"log"

	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// One block of two, [[2 1] [1 2]], in integers alone: its spectrum is 2 + 1, 2 − 1, and
// E takes the factor 2 away that the two transforms leave.
func ExampleCirculant() {
	op, err := fixed.NewCirculant(fixed.Spec{
		P: 1, Q: 1, B: 2,
		W: []int16{3, 1}, Bias: make([]int32, 2),
		S: make([]int8, 2), R: make([]int8, 2), E: []int8{1, 1}, Group: 1,
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	in := fixed.Rows{Int16: []int16{10, 20, -5, 7}} // two tokens
	out := fixed.Rows{Int16: make([]int16, 4)}
	op.Apply(out, in, op.Inputs(), 2, fixed.NewWorkspace(op))
	fmt.Println(out.Int16)
	// Output: [40 50 -3 9]
}
