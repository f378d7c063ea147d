// Command int16table measures the layers of KWT-1 in 16-bit fixed point and
// prints the table of docs/int16.md: block-circulant with every block size, by
// projection, with both ways to round, and dense. Ranges come from the training
// set, figures from the evaluation set of the folder that LATHE_DATA names.
//
//	go run ./int16table
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "int16table:", err)
		os.Exit(1)
	}
}

// Samples that ranges are taken from, and that the noise is measured on.
const rangeSamples, evalSamples = 128, 32

func run(ctx context.Context) error {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		return errors.New("LATHE_DATA names no folder with the public models and sets")
	}
	original, err := graph.Load(filepath.Join(dir, "models", "kwt1_mfcc_opset17.onnx"))
	if err != nil {
		return err
	}
	train, errTrain := calib.OpenSource(filepath.Join(dir, "sets", "kwt_train.npz"), calib.SourceOptions{})
	eval, errEval := calib.OpenSource(filepath.Join(dir, "sets", "kwt_eval.npz"), calib.SourceOptions{})
	if err := errors.Join(errTrain, errEval); err != nil {
		return err
	}
	ports, err := runtime.Ports(original)
	if err != nil {
		return err
	}
	feed, err := train.Bind(ports)
	if err != nil {
		return err
	}
	feed = feed.Spread(rangeSamples)
	fmt.Println("| b | rounding | layers | least | median | median of inputs |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, b := range []int{0, 2, 4, 8, 16, 32, 64, 128, 256} {
		float, name := original.Clone(), "dense"
		if b > 0 {
			name = fmt.Sprint(b)
			o := passes.CirculantOptions{Block: b, Fit: passes.FitFrobenius, IncludeHead: true}
			if err := passes.Run(ctx, float, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
				return err
			}
		}
		for _, r := range []fixed.Rounding{fixed.Once, fixed.CirCNN} {
			if b == 0 && r == fixed.CirCNN {
				continue
			}
			q := float.Clone()
			var layers []calib.FixedLayer
			o := passes.QuantizeOptions{Feed: feed, Rounding: r, Layer: func(l passes.QuantizedLayer) {
				if l.Block == b {
					layers = append(layers, calib.FixedLayer{Node: l.Node, In: l.In, Out: l.Out, Int16In: l.Int16In, Int16Out: l.Int16Out, ExponentX: l.ExponentX, ExponentsY: l.ExponentsY})
				}
			}}
			if err := passes.Run(ctx, q, &passes.Journal{}, passes.QuantizeInt16(o), passes.EliminateDeadCode()); err != nil {
				return err
			}
			noise, err := calib.MeasureLayers(ctx, float, q, layers, eval, calib.EvalOptions{Limit: evalSamples})
			if err != nil {
				return err
			}
			var ops, inputs []float64
			for _, n := range noise {
				ops, inputs = append(ops, n.Operator), append(inputs, n.Input)
			}
			slices.Sort(ops)
			slices.Sort(inputs)
			fmt.Printf("| %s | %s | %d | %.1f | %.1f | %.1f |\n", name, r, len(ops), ops[0], ops[len(ops)/2], inputs[len(inputs)/2])
		}
	}
	return nil
}
