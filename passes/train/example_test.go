package train_test

import (
	"context"
	"fmt"
	"log"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/testmodels"
)

// words is data that a program holds in memory; calib.OpenSource reads files.
func words(samples int) *calib.Source {
	src, err := calib.SourceFromTensors("words", testmodels.WordTensors(testmodels.CalibSeed, samples), calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return src
}

// Heal a model that lost two modules: it learns from the original, without labels.
func Example() {
	ctx := context.Background()
	original := testmodels.DemoModel()
	student := original.Clone()
	if err := passes.Run(ctx, student, nil, passes.DropModules([]string{"A1", "M4"}, passes.DropOptions{})); err != nil {
		log.Fatal(err)
	}
	r, err := train.Run(ctx, student, words(32), train.Options{Teacher: original, Steps: 4, Batch: 12, HeldOut: 0.25})
	if err != nil {
		log.Fatal(err)
	}
	// student has the best weights now.
	fmt.Println(r.Samples, "samples,", r.Parameters, "weights")
	fmt.Println("nearer to the original:", r.Best.HeldOut < r.Curve[0].HeldOut)
	// Output:
	// 24 samples, 238348 weights
	// nearer to the original: true
}

// Train a model on labels, from random weights.
func ExampleRun_labels() {
	m := testmodels.LeNet(testmodels.CNN{Classes: 2})
	images, labels := make([]float32, 32*12*12), make([]int64, 32)
	for i := range images { // bright ones and dark ones
		labels[i/144] = int64(i / 144 % 2)
		images[i] = float32(i/144%2) + float32(i%7)/10
	}
	src, err := calib.SourceFromTensors("images", map[string]tensor.Tensor{
		"image":  tensor.New(tensor.WithShape(32, 1, 12, 12), tensor.WithBacking(images)),
		"labels": tensor.New(tensor.WithShape(32), tensor.WithBacking(labels)),
	}, calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if _, err := train.Run(ctx, m, src, train.Options{Labels: "labels", Random: true, Steps: 20, Batch: 16, LearningRate: 1e-2}); err != nil {
		log.Fatal(err)
	}
	r, err := calib.Evaluate(ctx, []*graph.Model{m}, src, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accuracy", r[0].Value)
	// Output:
	// accuracy 1
}
