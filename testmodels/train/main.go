// Command train trains a model like the embedded one from random weights, with
// lathe:
//
//	go run ./testmodels/train -o demo.onnx
//
// The graph is that of the embedded file, as PyTorch's exporter wrote it; all
// weights are drawn anew. In training every branch is left out of a tenth of
// the samples at the last layer, less often before it (stochastic depth: Huang
// et al., 2016), so that none is indispensable. See README.md beside it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/testmodels"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	out := flag.String("o", "", "`file.onnx` to write")
	samples := flag.Int("n", 60000, "samples to train on")
	steps := flag.Int("steps", 3000, "steps of 96 samples")
	drop := flag.Float64("drop", 0.1, "part of the samples that the branches of the last layer are left out of")
	seed := flag.Uint64("seed", 1, "seed")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(ctx, *out, *samples, *steps, *drop, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string, samples, steps int, drop float64, seed uint64) error {
	file, _, _ := testmodels.Demo()
	m, err := graph.Decode(file)
	if err != nil {
		return err
	}
	gated, layers, err := addGates(m)
	if err != nil {
		return err
	}
	src, err := data(samples, len(layers))
	if err != nil {
		return err
	}
	deepest := layers[len(layers)-1] + 1
	o := train.Options{
		Labels: "labels", Random: true, Seed: seed, Steps: steps, Batch: 96, LearningRate: 1.5e-3, Warmup: steps / 10, Decay: 0.05,
		HeldOut: 0.02, Average: 0.99, Augment: func(rng *rand.Rand, in map[string]tensor.Tensor) error {
			keep := in[gateInput].Data().([]float32)
			for i := range keep {
				p := drop * float64(layers[i%len(layers)]+1) / float64(deepest)
				if keep[i] = float32(1 / (1 - p)); rng.Float64() < p {
					keep[i] = 0
				}
			}
			return nil
		},
		Progress: func(s train.Status) {
			if s.Step%100 == 0 {
				fmt.Fprintf(os.Stderr, "step %d of %d: loss %.4f, held out %.4f, about %v left\n", s.Step, s.Steps, s.Loss, s.HeldOut, s.Left.Round(1e9))
			}
		},
	}
	r, err := train.Run(ctx, gated, src, o)
	if err != nil {
		return err
	}
	if r.Interrupted {
		return errors.New("interrupted; nothing is written")
	}
	for _, v := range m.Graph.Initializers() {
		if w := gated.Graph.Value(v.Name); w != nil && w.Const != nil {
			v.Const = w.Const
		}
	}
	if err := m.SaveContext(ctx, out, graph.SaveOptions{Force: true}); err != nil {
		return err
	}
	fmt.Printf("held-out loss %.4f → %.4f in %d steps, %.0f s\n", r.Curve[0].HeldOut, r.Best.HeldOut, r.Steps, r.Seconds)
	eval, err := testmodels.WordArchive(testmodels.EvalSeed, 2000)
	if err != nil {
		return err
	}
	judge, err := calib.SourceFromBytes("eval", eval, calib.SourceOptions{})
	if err != nil {
		return err
	}
	e, err := calib.Evaluate(ctx, []*graph.Model{m}, judge, calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"})
	if err != nil {
		return err
	}
	fmt.Printf("accuracy %.4f on 2000 samples of the evaluation stream; written to %s\n", e[0].Value, out)
	return nil
}

// gateInput is the input of addGates.
const gateInput = "keep"

// addGates returns a copy of m with an input keep [batch, modules], whose
// columns the branches of the modules are multiplied by, and the layers of the
// modules.
func addGates(m *graph.Model) (*graph.Model, []int, error) {
	c := m.Clone()
	found, err := modules.Find(c)
	if err != nil {
		return nil, nil, err
	}
	g := c.Graph
	keep := g.AddInput(gateInput, graph.TensorType(graph.Float32, graph.Symbol("batch"), graph.Known(int64(len(found)))))
	shape := g.AddInitializer(g.FreshName("gate_shape"), graph.Int64Tensor([]int64{3}, []int64{-1, 1, 1}))
	var layers []int
	for i, x := range found {
		layers = append(layers, x.Layer)
		at := g.AddInitializer(g.FreshName("gate"), graph.Int64Tensor([]int64{1}, []int64{int64(i)}))
		join := x.Join.Node
		column := g.InsertBefore(join, "", "Gather", "", []*graph.Value{keep, at}, []string{g.FreshName("gate")}, graph.IntAttr("axis", 1))
		gate := g.InsertBefore(join, "", "Reshape", "", []*graph.Value{column.Output(0), shape}, []string{g.FreshName("gate")})
		gated := g.InsertBefore(join, "", "Mul", "", []*graph.Value{x.Branch, gate.Output(0)}, []string{g.FreshName("gated")})
		join.SetInput(x.Join.Index, gated.Output(0))
	}
	return c, layers, graph.Check(c)
}

// data is samples of the training stream, with gates that are all open.
func data(n, gates int) (*calib.Source, error) {
	features, labels := testmodels.WordSamples(testmodels.TrainSeed, n)
	keep := make([]float32, n*gates)
	for i := range keep {
		keep[i] = 1
	}
	var b bytes.Buffer
	err := npz.Write(&b,
		npz.Float32Array("features", []int{n, testmodels.WordFrames, testmodels.WordFeatures}, features),
		npz.Float32Array(gateInput, []int{n, gates}, keep),
		npz.Int64Array("labels", []int{n}, labels))
	if err != nil {
		return nil, err
	}
	return calib.SourceFromBytes("words", b.Bytes(), calib.SourceOptions{})
}
