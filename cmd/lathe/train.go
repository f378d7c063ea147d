package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/train"
)

// learnFlags say how weights are moved.
type learnFlags struct {
	o          train.Options
	only, skip pattern
	heldOut    float64
}

// trainFlags are what heal and train share.
type trainFlags struct {
	learnFlags
	data dataFlags
	out  outFlags
}

func (f *trainFlags) add(a *app, c *cobra.Command, rate float64) {
	f.learnFlags.add(c, rate)
	fs := c.Flags()
	fs.StringVar(&f.o.Checkpoint, "checkpoint", "", "`file` that the state is kept in at every measurement")
	fs.BoolVar(&f.o.Resume, "resume", false, "go on from the checkpoint, if there is one")
	f.out.add(c, "model", "onnx")
	f.data.add(a, c, true)
}

func (f *learnFlags) add(c *cobra.Command, rate float64) {
	f.o.Steps, f.o.Batch, f.o.LearningRate, f.o.Clip, f.o.CirculantRate, f.o.Average, f.heldOut = 300, 64, rate, 1, 1, 0.98, 0.1
	f.o.Optimizer = train.AdamW
	fs := c.Flags()
	addCount(fs, &f.o.Steps, 1, "steps", "steps to take")
	addCount(fs, &f.o.Batch, 1, "batch", "samples in a step")
	addCount(fs, &f.o.Chunk, 0, "chunk", "samples in a run of the model, 0 for 8: more take more memory")
	fs.BoolVar(&f.o.Recompute, "recompute", false, "compute activations inside of modules again rather than keep them: slower, in less memory, to the same bytes")
	addWord(c, &f.o.Optimizer, "optimizer", "how weights follow their gradients; muon makes the singular values of a matrix's step equal", train.AdamW, train.Muon)
	addNumber(fs, &f.o.LearningRate, 1e-9, 10, "lr", "learning rate after the warm-up; it falls along a cosine")
	addCount(fs, &f.o.Warmup, 0, "warmup", "steps in which the rate rises; 0 for a twentieth")
	addNumber(fs, &f.o.Decay, 0, 1, "decay", "weight decay of matrices")
	addNumber(fs, &f.o.Clip, 1e-9, 1e9, "clip", "largest norm of the gradient")
	addNumber(fs, &f.o.CirculantRate, 1e-9, 1e9, "circulant-rate", "learning rate of block-circulant weights, relative to the rest")
	addNumber(fs, &f.o.Average, 0, 0.99999, "average", "decay of the running average of the weights, which is what is kept; 0 for none")
	addNumber(fs, &f.heldOut, 0, 0.9, "held-out", "part of the samples kept aside to choose the best weights on")
	addCount(fs, &f.o.Every, 0, "every", "steps between two measurements on these; 0 for a twentieth of all")
	addCount(fs, &f.o.Patience, 0, "patience", "end after so many measurements without a better one; 0 for never")
	addNumber(fs, &f.o.Target, 0, 1e9, "target", "end once the loss on these is at most this; 0 for never")
	addCount(fs, &f.o.Shift, 0, "shift", "pixels that pictures, or frames that sounds are moved by at most, another way in every pass; 0 for none")
	fs.StringVar(&f.o.Output, "output-name", "", "`name` of the output that holds the logits; the first if not given")
	fs.Var(&f.only, "only", "train only weights whose name matches this regular expression")
	fs.Var(&f.skip, "skip", "leave weights whose name matches this regular expression as they are")
}

// addTeacher adds the flags of learning from another model.
func (f *learnFlags) addTeacher(c *cobra.Command) {
	f.o.Temperature, f.o.LabelWeight = 2, 0.5
	addNumber(c.Flags(), &f.o.Temperature, 0.01, 1000, "temperature", "temperature of the probabilities that are compared")
	addNumber(c.Flags(), &f.o.HiddenWeight, 0, 1e9, "hidden", "weight of the distance of hidden states")
	addNumber(c.Flags(), &f.o.Mix, 0, 1, "mix", "part of the samples that are mixed with another; for inputs of numbers, as sound and pictures are")
	addCount(c.Flags(), &f.o.Synthesize, 0, "synthesize", "texts that the original, a language model, draws to train on beside the data")
	c.Flags().StringVar(&f.o.Labels, "labels", "", "`array` of the data that holds the classes")
	addNumber(c.Flags(), &f.o.LabelWeight, 0.001, 1, "label-weight", "weight of the labels' cross-entropy beside the teacher")
}

// options turns the flags into the options of a training.
func (f *learnFlags) options(a *app) train.Options {
	o := f.o
	o.Seed, o.Threads, o.HeldOut = a.seed, a.threads, f.heldOut
	if o.HeldOut == 0 {
		o.HeldOut = -1 // the library's "none"
	}
	if o.Average == 0 {
		o.Average = -1
	}
	if o.Synthesize > 0 {
		o.Drawing = a.progress("draw texts")
	}
	o.Train = func(name string) bool {
		return (f.only.Regexp == nil || f.only.MatchString(name)) && (f.skip.Regexp == nil || !f.skip.MatchString(name))
	}
	return o
}

// run trains m, read from path, and writes it.
func (f *trainFlags) run(ctx context.Context, a *app, m *graph.Model, path, pass string) error {
	o := f.options(a)
	if o.Resume && o.Checkpoint == "" {
		return fmt.Errorf("--resume needs --checkpoint FILE to resume from")
	}
	feed, err := a.feed(m, &f.data)
	if err != nil {
		return err
	}
	a.foreseeTraining(m, o.Teacher, feed, cmp.Or(o.Chunk, 8))
	if progress := a.trainProgress(); progress != nil {
		o.Progress = progress
	}
	var result *train.Result
	j := &passes.Journal{}
	heal := passes.Pass{Name: pass, Doc: "Move weights along gradients", Contract: passes.Lossy,
		Run: func(_ context.Context, m *graph.Model, j *passes.Journal) (err error) {
			if result, err = train.Run(ctx, m, feed.Source(), o); err == nil {
				j.Add(pass, "", fmt.Sprintf("%d weights, %d steps of %d samples", result.Parameters, result.Steps, o.Batch), "to bring the loss down")
			}
			return err
		}}
	// What an interrupt leaves is kept, so only the training itself ends by it.
	after := context.WithoutCancel(ctx)
	if err := passes.Run(after, m, j, heal); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	size, err := f.out.save(after, a, m)
	if err != nil {
		return err
	}
	if err := f.report(a, result, size); err != nil {
		return err
	}
	if result.Interrupted {
		return interrupted{fmt.Errorf("interrupted after %d of %d steps; the best weights so far are kept%s", result.Steps, o.Steps, f.out.written())}
	}
	return nil
}

func (f *trainFlags) report(a *app, r *train.Result, size int64) error {
	last := r.Curve[len(r.Curve)-1]
	perSecond := float64((r.Steps-r.Resumed)*f.o.Batch) / max(r.Seconds, 1e-9)
	if a.json {
		return a.printJSON(map[string]any{"curve": r.Curve, "best": r.Best, "steps": r.Steps, "resumed": r.Resumed, "samples": r.Samples,
			"held_out_samples": r.HeldOut, "trained_parameters": r.Parameters, "interrupted": r.Interrupted, "stopped_early": r.Early,
			"seconds": r.Seconds, "samples_per_second": perSecond, "memory": r.Bytes, "output": f.out.path, "bytes": size})
	}
	rows := [][]string{{"step", "loss", "held-out loss", "rate"}}
	for _, p := range r.Curve {
		mark := ""
		if p.Step == r.Best.Step {
			mark = " best"
		}
		held := "–"
		if r.HeldOut > 0 {
			held = fmt.Sprintf("%.5f%s", p.HeldOut, mark)
		}
		rows = append(rows, []string{fmt.Sprint(p.Step), fmt.Sprintf("%.5f", p.Loss), held, fmt.Sprintf("%.2g", p.Rate)})
	}
	a.table(rows)
	what := ""
	if r.HeldOut > 0 {
		what = fmt.Sprintf("held-out loss %.5f → %.5f at step %d; ", r.Curve[0].HeldOut, r.Best.HeldOut, r.Best.Step)
	} else {
		what = fmt.Sprintf("loss %.5f; ", last.Loss)
	}
	fmt.Fprintf(a.stdout, "%s%s weights trained on %d samples, %.0f samples/s%s\n", what, grouped(int64(r.Parameters)), r.Samples, perSecond, f.out.written())
	return nil
}

// trainProgress shows how a training gets on.
func (a *app) trainProgress() func(train.Status) {
	bar := a.progress("train")
	if bar == nil {
		return nil
	}
	last := time.Now()
	return func(s train.Status) {
		if a.terminal {
			a.bar.Describe(fmt.Sprintf("train: loss %.4f, held out %.4f (best %.4f), %.0f samples/s", s.Loss, s.HeldOut, s.Best.HeldOut, s.PerSecond))
			bar(s.Step, s.Steps)
			return
		}
		if now := time.Now(); now.Sub(last) >= 10*time.Second {
			a.remarks()
			last = now
			fmt.Fprintf(a.stderr, "train: step %d of %d, loss %.4f, held out %.4f (best %.4f), %.0f samples/s, about %v left\n",
				s.Step, s.Steps, s.Loss, s.HeldOut, s.Best.HeldOut, s.PerSecond, s.Left.Round(time.Second))
		}
	}
}

func (a *app) heal() *cobra.Command {
	var f trainFlags
	var teacher string
	c := &cobra.Command{
		Use:   "heal STUDENT --teacher MODEL --data D -o OUT",
		Short: "Train a dropped or rewritten model back, from the original",
		Long: `heal moves the weights of a model whose modules were dropped or whose layers
were rewritten, so that its outputs come close to those of the original, the
teacher, on the data. It needs no labels: the loss is the divergence of the
class probabilities. Block-circulant layers are trained in their own
parameters. With --labels the cross-entropy of the labels joins in, with
--hidden the distance of the hidden states behind every module that is left.
A language model whose data is little draws more texts itself, with --synthesize;
the export that has a cache does so much faster.

A part of the samples is kept aside, and the weights that do best there are
written. Never heal on the data that you judge with. An interrupt keeps the
best so far. The same seed gives the same bytes, whatever the threads, also
where a run goes on from a --checkpoint.`,
		Example: `  lathe heal small.onnx --teacher model.onnx --data calib.npz -o healed.onnx
  lathe heal small.onnx --teacher model.onnx --data calib.npz --labels labels --steps 600 \
      --checkpoint heal.npz --resume -o healed.onnx`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if teacher == "" {
				return fmt.Errorf("heal needs --teacher MODEL, the model that the student was made from")
			}
			m, err := f.load(a, c, args[0], teacher)
			if err != nil {
				return err
			}
			if f.o.Teacher, err = a.load(teacher); err != nil {
				return err
			}
			return f.run(c.Context(), a, m, args[0], "heal")
		},
	}
	c.Flags().StringVar(&teacher, "teacher", "", "`model` to learn from")
	must(c.MarkFlagFilename("teacher", "onnx"))
	f.addTeacher(c)
	f.add(a, c, 3e-4)
	return completeModels(c)
}

func (a *app) train() *cobra.Command {
	var f trainFlags
	begin := beginRandom
	c := &cobra.Command{
		Use:   "train MODEL --data D --labels NAME -o OUT",
		Short: "Train a model on labelled data",
		Long: `train moves the weights of a model so that it gives the classes of the labels,
from random weights or from those that it has. Layers are trained in the form
that they have: block-circulant ones stay so, which is CirCNN's way to train
small models from the beginning.`,
		Example: `  lathe train model.onnx --data train.npz --labels labels -o trained.onnx
  lathe train model.onnx --data train.npz --labels labels --begin given --lr 1e-4 -o tuned.onnx`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if f.o.Labels == "" {
				return fmt.Errorf("train needs --labels NAME, the array of the data that holds the classes")
			}
			m, err := f.load(a, c, args[0])
			if err != nil {
				return err
			}
			f.o.Random = begin == beginRandom
			return f.run(c.Context(), a, m, args[0], "train")
		},
	}
	c.Flags().StringVar(&f.o.Labels, "labels", "", "`array` of the data that holds the classes")
	addWord(c, &begin, "begin", "which weights to begin with", beginRandom, beginGiven)
	f.add(a, c, 1e-3)
	return completeModels(c)
}

type beginning string

const (
	beginRandom beginning = "random"
	beginGiven  beginning = "given"
)

// load checks the flags and reads the model to be trained.
func (f *trainFlags) load(a *app, c *cobra.Command, path string, others ...string) (*graph.Model, error) {
	if err := f.out.need(c, "OUT.onnx"); err != nil {
		return nil, err
	}
	inputs := append([]string{path, f.data.path}, others...)
	if err := f.out.writable(f.out.path, inputs...); err != nil {
		return nil, err
	}
	if err := f.out.writable(f.o.Checkpoint, append(inputs, f.out.path)...); err != nil {
		return nil, err
	}
	if f.out.dryRun {
		f.o.Checkpoint = ""
	}
	return a.load(path)
}
