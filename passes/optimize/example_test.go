package optimize_test

import (
	"context"
	"fmt"
	"log"
	"regexp"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
	"github.com/onnx-lathe/lathe/testmodels"
)

// words is data with labels that a program holds in memory.
func words(seed uint64, samples int) *calib.Source {
	src, err := calib.SourceFromTensors("words", testmodels.WordTensors(seed, samples), calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return src
}

// A recipe of two steps, and what each made of the model. (A third, Heal, would
// train what is left.)
func Example() {
	r, err := optimize.Run(context.Background(), testmodels.DemoModel(), optimize.Options{
		Steps: []optimize.Step{
			{Drop: &passes.SelectOptions{Count: 4}},
			{Circulant: &optimize.Circulant{CirculantOptions: passes.CirculantOptions{Block: 2, Only: regexp.MustCompile("layers.3")}}},
		},
		Calibration: words(testmodels.CalibSeed, 16),
		Evaluation:  words(testmodels.EvalSeed, 32),
		Eval:        calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range r.Variants {
		fmt.Printf("%s: %d parameters, accurate: %v\n", v.Name, v.Parameters, v.Quality.Value > 0.9)
	}
	fmt.Println("dropped", r.Dropped)
	fmt.Println("to be saved:", r.Final.Parameters(), "parameters")
	// Output:
	// original: 271820 parameters, accurate: true
	// modules dropped: 204876 parameters, accurate: true
	// block-circulant, b = 2: 188492 parameters, accurate: true
	// dropped [M7 A7 M6 A6]
	// to be saved: 188492 parameters
}
