package runtime_test

import (
	"context"
	"fmt"
	"log"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// demo is a trained model, and the first samples of what it should recognise.
func demo(samples int) (*graph.Model, tensor.Tensor, []int64) {
	features, labels := testmodels.WordSamples(testmodels.EvalSeed, samples)
	x := tensor.New(tensor.WithShape(samples, testmodels.WordFrames, testmodels.WordFeatures), tensor.WithBacking(features))
	return testmodels.DemoModel(), x, labels
}

// Compile once, run as often as you like.
func Example() {
	m, x, labels := demo(4)
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(prog.Inputs(), prog.Outputs())

	session := prog.NewSession(runtime.SessionOptions{Threads: 2})
	out, err := session.Run(context.Background(), map[string]tensor.Tensor{"features": x})
	if err != nil {
		log.Fatal(err)
	}
	class, err := tensor.Argmax(out["logits"], 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("classes", class.Data())
	fmt.Println("labels ", labels)
	// Output:
	// [features: float[batch, 40, 8]] [logits: float[batch, 12]]
	// classes [1 6 8 2]
	// labels  [1 6 8 2]
}

// In a loop, RunInto writes over the outputs of the run before.
func ExampleSession_RunInto() {
	m, x, _ := demo(4)
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		log.Fatal(err)
	}
	session := prog.NewSession(runtime.SessionOptions{})
	in, out := map[string]tensor.Tensor{"features": x}, map[string]tensor.Tensor{}
	for range 3 {
		if err := session.RunInto(context.Background(), in, out); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(out["logits"].Shape())
	// Output: (4, 12)
}

// Probes see values inside of the model as a run computes them.
func ExampleSession_RunProbed() {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y) {
  h = Relu (x)
  y = Neg (h)
}`)
	if err != nil {
		log.Fatal(err)
	}
	prog, err := runtime.Compile(m, runtime.Options{Probes: [][]string{{"h"}}})
	if err != nil {
		log.Fatal(err)
	}
	x := tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{1, -2, -3, 4}))
	out, err := prog.NewSession(runtime.SessionOptions{}).RunProbed(context.Background(), map[string]tensor.Tensor{"x": x},
		func(group int, values []*runtime.Tensor) error {
			fmt.Println("h", values[0].Shape, values[0].F32())
			return nil
		})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("y", out["y"].Data())
	// Output:
	// h [2 2] [1 0 0 4]
	// y [-1 -0 -0 -4]
}

// The gradient of ½‖y − t‖², y = x·w, with respect to w.
func ExampleCompileTraining() {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
line (float[N,2] x) => (float[N,1] y) <float[2,1] w = {1, 1}> { y = MatMul (x, w) }`)
	if err != nil {
		log.Fatal(err)
	}
	t, err := runtime.CompileTraining(m, runtime.TrainingOptions{Parameters: []string{"w"}})
	if err != nil {
		log.Fatal(err)
	}
	batch := func(int) (map[string]tensor.Tensor, error) {
		return map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{1, 1, 1, -1}))}, nil
	}
	targets := []float32{3, -1} // of w = [1, 2]
	loss := func(_ int, values, grads []*runtime.Tensor) error {
		for i, y := range values[0].F32() {
			grads[0].F32()[i] = y - targets[i]
		}
		return nil
	}
	w := t.Parameters()[0]
	for range 10 {
		if err := t.Gradients(context.Background(), 1, batch, loss); err != nil {
			log.Fatal(err)
		}
		for i, g := range w.Gradient {
			w.Value[i] -= 0.4 * g
		}
		t.Update()
	}
	fmt.Printf("%.1f\n", w.Value)
	if err := t.Store(m, nil); err != nil { // into the model
		log.Fatal(err)
	}
	// Output: [1.0 2.0]
}
