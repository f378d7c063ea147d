package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// trained is a model that is trained, batch samples a step: on labels, or by
// another model.
type trained struct {
	name    string
	model   *graph.Model
	data    *calib.Source
	batch   int
	teacher *graph.Model
}

// stepsCost demands that a whole step of a training, the optimiser's work
// included, takes at most that many plain forward passes of the same batch, of
// one thread's processor time; what a teacher of the student's size takes, one
// more, does not count.
func stepsCost(most float64, cases ...func(*workbench) (trained, error)) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		var said []string
		pass := true
		for _, make := range cases {
			t, err := make(b)
			if err != nil {
				return result{}, err
			}
			ratio, err := t.cost(b.ctx)
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", t.name, err)
			}
			said = append(said, fmt.Sprintf("%s %.1f", t.name, ratio))
			pass = pass && ratio <= most
		}
		return result{strings.Join(said, ", "), pass}, nil
	}
}

// cost is the median over three turns of the time of a step by that of a pass.
func (t *trained) cost(ctx context.Context) (float64, error) {
	prog, err := runtime.Compile(t.model, runtime.Options{})
	if err != nil {
		return 0, err
	}
	feed, err := t.data.Bind(prog.Inputs())
	if err != nil {
		return 0, err
	}
	in, err := feed.Batch(0, t.batch)
	if err != nil {
		return 0, err
	}
	session, out := prog.NewSession(runtime.SessionOptions{Threads: 1}), map[string]tensor.Tensor{}
	const turn = time.Second
	var ratios []float64
	for range 3 {
		n, began := 0, time.Duration(0)
		for wall := time.Now(); time.Since(wall) < turn; n++ {
			if err := session.RunInto(ctx, in, out); err != nil {
				return 0, err
			}
			if n == 0 { // to warm up
				began = processorTime()
			}
		}
		pass := (processorTime() - began) / time.Duration(max(n-1, 1))
		steps := max(int(turn/(5*pass)), 5)
		var first, last time.Duration
		labels := "labels"
		if t.teacher != nil {
			labels = ""
			steps = min(steps, (feed.Len()-1)/t.batch) // with more, its logits are computed ahead
		}
		_, err := train.Run(ctx, t.model.Clone(), t.data, train.Options{Labels: labels, Teacher: t.teacher, Steps: steps, Batch: t.batch, HeldOut: -1, Every: steps, Threads: 1,
			Progress: func(s train.Status) {
				if last = processorTime(); s.Step == 1 {
					first = last
				}
			}})
		if err != nil {
			return 0, err
		}
		ratio := float64(last-first) / float64(steps-1) / float64(pass)
		if t.teacher != nil {
			ratio--
		}
		ratios = append(ratios, ratio)
	}
	slices.Sort(ratios)
	return ratios[1], nil
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// publicCase is a case of a public model and its training set.
func publicCase(b *workbench, name, model, set string, batch int) (trained, error) {
	t := trained{name: name, batch: batch}
	model, err := b.model(model)
	if err != nil {
		return t, err
	}
	if set, err = b.set(set); err != nil {
		return t, err
	}
	if t.model, err = graph.Load(model); err != nil {
		return t, err
	}
	t.data, err = calib.OpenSource(set, calib.SourceOptions{})
	return t, err
}

// stories is stories260K, taught by itself.
func stories(b *workbench) (trained, error) {
	t, err := publicCase(b, "stories260K", "stories260K_opset17.onnx", "stories_train.npz", 16)
	t.teacher = t.model
	return t, err
}

// images is a case of a convolutional network on noise: time does not depend
// on what is to be seen.
func images(name string, batch int, c testmodels.CNN, build func(testmodels.CNN) *graph.Model) func(*workbench) (trained, error) {
	return func(b *workbench) (trained, error) {
		const samples = 256
		rng := rand.New(rand.NewPCG(1, 2))
		x, labels := make([]float32, samples*c.Channels*c.Image*c.Image), make([]int64, samples)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		for i := range labels {
			labels[i] = rng.Int64N(10)
		}
		path := b.file("noise.npz")
		err := nd.WriteNPZ(path, map[string]nd.Array{
			"image":  nd.Of(x, samples, int64(c.Channels), int64(c.Image), int64(c.Image)),
			"labels": nd.Of(labels, samples),
		})
		if err != nil {
			return trained{}, err
		}
		data, err := calib.OpenSource(path, calib.SourceOptions{})
		return trained{name, build(c), data, batch, nil}, err
	}
}

// keywords is KWT-1, with its encoder in blocks of that size where it is above 1.
func keywords(name string, block int) func(*workbench) (trained, error) {
	return func(b *workbench) (trained, error) {
		t, err := publicCase(b, name, "kwt1_mfcc_opset17.onnx", "kwt_train.npz", 64)
		if err == nil && block > 1 {
			err = passes.Run(b.ctx, t.model, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: block, Fit: passes.FitFrobenius}), passes.EliminateDeadCode())
		}
		return t, err
	}
}
