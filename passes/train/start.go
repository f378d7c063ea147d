package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	goruntime "runtime"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
)

// Check reports what keeps m from being trained, such as an operator that has no
// gradient, without data and before time is spent on what comes first.
func Check(m *graph.Model, o Options, limits runtime.Options) error {
	_, err := compile(m, o, limits)
	return err
}

// A compiled student, and the form of the teacher that goes with it.
type compiled struct {
	model   *runtime.Training
	logits  string
	teacher *graph.Model
	theirs  []string // the teacher's hidden states
}

func compile(m *graph.Model, o Options, limits runtime.Options) (compiled, error) {
	c := compiled{logits: o.Output, teacher: o.Teacher}
	outputs := m.Graph.Outputs()
	if c.logits == "" && len(outputs) > 0 {
		c.logits = outputs[0].Name
	}
	if !slices.ContainsFunc(outputs, func(v *graph.Value) bool { return v.Name == c.logits }) {
		return c, fmt.Errorf("the model has no output %q", c.logits)
	}
	values := []string{c.logits}
	student := m
	if o.HiddenWeight > 0 {
		// Functions, branches and fused operators keep hidden states to themselves.
		var err error
		if student, err = modules.Unfold(m); err != nil {
			return c, err
		}
		if c.teacher, err = modules.Unfold(o.Teacher); err != nil {
			return c, fmt.Errorf("teacher: %w", err)
		}
		var ours []string
		if ours, c.theirs, err = streams(student, c.teacher); err != nil {
			return c, err
		}
		values = append(values, ours...)
	}
	names := runtime.Trainable(m)
	if o.Train != nil {
		names = slices.DeleteFunc(names, func(name string) bool { return !o.Train(name) })
	}
	if len(names) == 0 {
		return c, fmt.Errorf("there is nothing to train: no float32 weights in the main graph, or all are left out")
	}
	var err error
	var again []string
	if o.Recompute {
		if again, err = entries(m); err != nil {
			return c, err
		}
	}
	c.model, err = runtime.CompileTraining(student, runtime.TrainingOptions{
		Parameters: names, Values: values, Recompute: again, Threads: o.Threads, Path: limits.Path, MemoryLimit: limits.MemoryLimit,
	})
	return c, err
}

// newTrainer makes everything ready for the first step.
func newTrainer(ctx context.Context, m *graph.Model, src *calib.Source, o Options) (*trainer, error) {
	if o.Threads < 1 {
		o.Threads = goruntime.GOMAXPROCS(0)
	}
	limits := src.Runtime()
	c, err := compile(m, o, limits)
	if err != nil {
		return nil, err
	}
	t := &trainer{o: o, train: &samples{}, held: &samples{}, print: m.Fingerprint(), model: c.model, limit: limits.MemoryLimit}
	if t.simd, err = simd.For(simd.Auto); err != nil {
		return nil, err
	}
	t.params = t.model.Parameters()
	for _, p := range t.params {
		t.result.Parameters += len(p.Value)
	}
	if o.Optimizer == Muon {
		t.useMuon(m, c.logits)
	}
	if err := t.bind(src); err != nil {
		return nil, err
	}
	if o.Teacher != nil {
		if t.teacher, err = newTeacher(c.teacher, c.logits, c.theirs, o.Threads, limits); err != nil {
			return nil, err
		}
	}
	if err := t.fits(ctx); err != nil {
		return nil, err
	}
	if t.teacher != nil {
		if err := t.teacher.keep(ctx, t.held, o.Chunk, o.Threads); err != nil {
			return nil, err
		}
		// Logits that are used less than once are not worth computing ahead.
		if o.Augment == nil && o.Mix == 0 && o.Shift == 0 && o.Steps*o.Batch >= t.train.n() {
			if err := t.teacher.keep(ctx, t.train, o.Chunk, o.Threads); err != nil {
				return nil, err
			}
		}
	}
	if o.Random {
		t.randomize(m)
	}
	n := t.result.Parameters
	t.value, t.first, t.second, t.best = make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
	t.gather()
	copy(t.best, t.value)
	if o.Average > 0 {
		t.average = slices.Clone(t.value)
	}
	return t, nil
}

// bind finds what feeds both models and sets samples aside.
func (t *trainer) bind(src *calib.Source) error {
	feed, err := src.Bind(t.model.Inputs())
	if err != nil {
		return err
	}
	t.train.feed, t.held.feed = feed, feed
	if t.o.Teacher != nil {
		ports, err := runtime.Ports(t.o.Teacher)
		if err != nil {
			return fmt.Errorf("teacher: %w", err)
		}
		f, err := feed.For(ports)
		if err != nil {
			return fmt.Errorf("teacher: %w", err)
		}
		if f.MaxBatch() != feed.MaxBatch() {
			return fmt.Errorf("the model takes %d samples at a time and the teacher %d (0: any number)", feed.MaxBatch(), f.MaxBatch())
		}
		t.train.teacher, t.held.teacher = f, f
	}
	if t.o.Labels != "" {
		labels, err := feed.Labels(t.o.Labels)
		if err != nil {
			return err
		}
		if len(labels) != feed.Len() {
			return fmt.Errorf("labels %q are %d for %d samples", t.o.Labels, len(labels), feed.Len())
		}
		t.train.labels, t.held.labels = labels, labels
	}
	t.train.numbers, t.held.numbers, err = splitSamples(feed, t.o.Synthesize, t.o.HeldOut, t.o.Seed)
	t.result.Samples, t.result.HeldOut = t.train.n(), t.held.n()
	return err
}

// randomize draws weights as for a training from nothing: of a matrix from a
// normal distribution of variance 1/inputs (2/inputs before a Relu would be
// He's; norms and the optimiser make up for the difference), biases zero,
// scales one. An entry of a block-circulant matrix has the variance of a dense
// one.
func (t *trainer) randomize(m *graph.Model) {
	for i := range t.params {
		p := &t.params[i]
		rng := rand.New(rand.NewPCG(t.o.Seed, 1<<63|uint64(i)))
		normal := func(inputs int) {
			std := 1 / math.Sqrt(float64(max(inputs, 1)))
			for j := range p.Value {
				p.Value[j] = float32(rng.NormFloat64() * std)
			}
		}
		fill := func(v float32) {
			for j := range p.Value {
				p.Value[j] = v
			}
		}
		u := reader(m.Graph.Value(p.Name))
		rank := len(p.Shape)
		switch {
		case p.Block > 0:
			normal(len(p.Value) / p.Shape[0]) // q blocks of b, at every tap of a convolution
		case u.Node.Is("Conv") && u.Index == 1:
			normal(len(p.Value) / p.Shape[0])
		case u.Node.Is("Gemm") && u.Index == 1 && u.Node.Int("transB", 0) != 0:
			normal(p.Shape[rank-1])
		case u.Node.Is("MatMul", "Gemm") && u.Index < 2 && rank > 1:
			normal(p.Shape[rank-2])
		case u.Node.Is("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "BatchNormalization") && u.Index == 1,
			u.Node.Is("Mul", "Div"):
			fill(1)
		case rank > 1: // embeddings, class tokens
			for j := range p.Value {
				p.Value[j] = float32(rng.NormFloat64() * 0.02)
			}
		default:
			fill(0)
		}
	}
	t.model.Update()
}

// reader is the first use of v that is more than another shape of it.
func reader(v *graph.Value) graph.Use {
	for {
		u := v.Uses()[0]
		if !u.Node.Is("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze") || u.Index != 0 || len(u.Node.Output(0).Uses()) == 0 {
			return u
		}
		v = u.Node.Output(0)
	}
}
