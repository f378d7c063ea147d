// Package train moves the weights of a model along gradients: it heals what
// drops and rewrites cost, by distillation from the original model on
// unlabelled inputs, and trains models from labels. Block-circulant operators
// are trained in their own parameters, as CirCNN does. [Run] does both; [Check] tells
// beforehand whether a model can be trained.
//
// Everything is a function of the options, the models and the data: not of
// the number of threads, nor of how often a run was interrupted and resumed.
package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
)

// Options says how a model is trained. The zero value of a number stands for
// its default where one is named.
type Options struct {
	// Teacher is the model to learn from; nil for labels alone.
	Teacher *graph.Model `json:"-"`

	// Labels names an integer array of the data that holds a class for each
	// sample; "" for none. LabelWeight is the weight of their cross-entropy
	// beside a teacher's share, from 0 to 1; 0 means ½.
	Labels      string
	LabelWeight float64

	// Output names the output that holds the logits [samples, …, classes];
	// "" for the first one.
	Output string

	// Temperature of the distillation, 0 for 2. HiddenWeight adds the squared
	// distance of the residual stream behind every module that student and
	// teacher share, relative to the teacher's power, with that weight.
	Temperature  float64
	HiddenWeight float64

	// A step changes the weights once, along the mean gradient of Batch samples.
	Steps int // 0 means 300
	Batch int // samples in a step; 0 means 64
	Chunk int // samples in a run; 0 means 8. It shows in roundings.

	// Recompute computes the activations inside of modules again in the backward
	// pass, from where the residual stream enters them, in place of keeping
	// them: less memory for up to a forward pass more, and the same bits.
	Recompute bool

	Optimizer Optimizer // "" means AdamW

	// AdamW (Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2019) has
	// β = 0.9, 0.999; Muon a momentum of 0.95. The rate rises over Warmup steps (0: a
	// twentieth) and falls to a hundredth along a cosine. Decay acts on matrices alone.
	LearningRate  float64 // 0 means 3e-4 with a teacher, 1e-3 without
	Warmup        int
	Decay         float64
	Clip          float64 // of the gradient's global norm; 0 means 1
	CirculantRate float64 // rate of block-circulant weights, relative to the rest; 0 means 1

	// Average is the decay of the running average of the weights, which is
	// what is evaluated and kept: 0 means 0.98, negative none.
	Average float64

	// HeldOut is the part of the samples that is kept aside to choose the
	// best weights on, 0 for a tenth, negative for none: then the last are
	// kept. Of the weights whose loss there cannot be told from the lowest, by
	// a standard error, the last are the best. It is measured every Every steps
	// (0: twenty times), and Patience measurements without a better one end the
	// training (0: none do).
	HeldOut  float64
	Every    int
	Patience int

	// Target ends the training once the held-out loss is at most this; 0 does
	// not.
	Target float64

	// Random starts from random weights instead of the model's.
	Random bool

	// Train says which of runtime.Trainable's parameters are trained; nil for
	// all.
	Train func(name string) bool `json:"-"`

	Seed    uint64
	Threads int // 0: one per processor

	// Checkpoint is a file that the state is written to at every measurement
	// and where the training ends; "" for none. Resume goes on from it where
	// it is there.
	Checkpoint string
	Resume     bool

	// Progress is told of every step; nil for nothing.
	Progress func(Status) `json:"-"`

	// Shift moves pictures by up to so many pixels, and sounds by frames, another way in
	// each use, which a teacher sees and labels survive. 0 for none.
	Shift int

	// Mix is the part of the samples that are mixed with another before each
	// use: inputs that are all float32 are averaged, and the teacher says what
	// the mixture is. 0 for none.
	Mix float64

	// Synthesize is how many texts a teacher that is a language model draws, to
	// be trained on beside those of the data; none is held out. One with a cache
	// draws a token in the time that it reads one. Drawing is told of the texts
	// done; nil for nothing.
	Synthesize int
	Drawing    func(done, total int) `json:"-"`

	// Augment changes the inputs of a chunk in place before each use for
	// training; nil for none. It is called from several goroutines. rng is a
	// function of the seed, the step and the chunk.
	Augment func(rng *rand.Rand, inputs map[string]tensor.Tensor) error `json:"-"`
}

// Optimizer is how weights follow their gradients.
type Optimizer string

const (
	// AdamW divides the running mean of every number's gradient by its running root
	// mean square.
	AdamW Optimizer = "adamw"

	// Muon makes the singular values of the running mean of a matrix's gradient equal,
	// of dense matrices and kernels, and of block-circulant ones bin by bin, which
	// comes to the same for the matrices that they stand for. Embeddings, vectors and
	// the matrix that gives the logits follow AdamW. Some products more a step buy
	// steps that come further.
	Muon Optimizer = "muon"
)

// withDefaults checks the options and fills what is zero.
func (o Options) withDefaults() (Options, error) {
	def := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	count := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.LabelWeight, 0.5)
	def(&o.Temperature, 2)
	if o.Teacher != nil {
		def(&o.LearningRate, 3e-4)
	}
	def(&o.LearningRate, 1e-3)
	if o.Optimizer == "" {
		o.Optimizer = AdamW
	}
	def(&o.Clip, 1)
	def(&o.CirculantRate, 1)
	def(&o.Average, 0.98)
	def(&o.HeldOut, 0.1)
	count(&o.Steps, 300)
	count(&o.Batch, 64)
	count(&o.Chunk, 8)
	count(&o.Warmup, (o.Steps+19)/20)
	count(&o.Every, max(o.Steps/20, 1))
	switch {
	case o.Optimizer != AdamW && o.Optimizer != Muon:
		return o, fmt.Errorf("there is no optimizer %q; take %s or %s", o.Optimizer, AdamW, Muon)
	case o.Teacher == nil && o.Labels == "":
		return o, errors.New("there is neither a teacher nor labels to learn from")
	case !(o.Target >= 0):
		return o, fmt.Errorf("target %v; give a loss above 0", o.Target)
	case o.Steps < 0 || o.Batch < 0 || o.Chunk < 0 || o.Warmup < 0 || o.Every < 0 || o.Patience < 0 || o.Synthesize < 0 || o.Shift < 0:
		return o, errors.New("a number of steps or samples is negative")
	case !(o.LearningRate > 0) || !(o.Temperature > 0) || !(o.Clip > 0) || !(o.CirculantRate > 0) || o.Decay < 0 || o.HiddenWeight < 0:
		return o, errors.New("a rate, a temperature or a weight is not positive")
	case o.LabelWeight < 0 || o.LabelWeight > 1 || o.HeldOut >= 1 || o.Average >= 1:
		return o, errors.New("the weight of labels, the held-out part and the decay of the average lie below 1")
	case o.Mix < 0 || o.Mix > 1 || o.Mix > 0 && o.Teacher == nil:
		return o, errors.New("the part of mixed samples lies between 0 and 1, and mixtures need a teacher to say what they are")
	case o.Synthesize > 0 && (o.Teacher == nil || o.Labels != ""):
		return o, errors.New("texts are drawn by a teacher, and have no labels")
	case o.HiddenWeight > 0 && o.Teacher == nil:
		return o, errors.New("hidden states need a teacher to be matched with")
	}
	return o, nil
}

// Point is one measurement.
type Point struct {
	Step    int     `json:"step"`     // steps done
	Loss    float64 `json:"loss"`     // mean of the steps since the point before; at step 0 that of the held-out samples
	HeldOut float64 `json:"held_out"` // of the averaged weights
	Rate    float64 `json:"learning_rate"`
}

// Status is how far a training is: Point is the step that was just done.
type Status struct {
	Point
	Steps     int           // that there will be
	Best      Point         // so far
	PerSecond float64       // samples
	Left      time.Duration // estimated
}

// Result is what a training did.
type Result struct {
	Curve       []Point // measurements, the first before any step
	Best        Point   // of the weights that were kept
	Steps       int     // done, over all runs
	Resumed     int     // of them before this run
	Samples     int     // to train on
	HeldOut     int     // samples that were kept aside
	Parameters  int     // numbers that are trained
	Bytes       int64   // of memory that steps take, teacher and data aside
	Interrupted bool    // the context ended it: the model holds the best so far
	Early       bool    // Options.Target is reached, or no better measurement came for Options.Patience
	Seconds     float64 // of this run
}

// Run trains m on the data and puts the best weights into it. A context that
// ends after the first step is no error: the model then holds the best weights
// so far. After an error m is as it was. It fails where an operator between a weight
// and the loss has no gradient, where options contradict each other or the data, where
// a step does not fit the memory limit of the data's source, and where a loss is not
// finite.
func Run(ctx context.Context, m *graph.Model, src *calib.Source, o Options) (*Result, error) {
	r, err := run(ctx, m, src, o)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return r, nil
}

func run(ctx context.Context, m *graph.Model, src *calib.Source, o Options) (*Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Synthesize > 0 {
		if src, err = synthesize(ctx, o.Teacher, src, o.Synthesize, o); err != nil {
			return nil, fmt.Errorf("texts to train on: %w", err)
		}
	}
	t, err := newTrainer(ctx, m, src, o)
	if err != nil {
		return nil, err
	}
	if o.Resume && o.Checkpoint != "" {
		if err := t.load(); err != nil {
			return nil, err
		}
	}
	t.result.Resumed = t.Done
	start := time.Now()
	err = t.loop(ctx, start)
	t.result.Seconds = time.Since(start).Seconds()
	if err != nil && (ctx.Err() == nil || t.Done == 0) {
		return nil, err
	}
	t.result.Interrupted = err != nil
	if o.Checkpoint != "" {
		if err := t.save(); err != nil {
			return nil, err
		}
	}
	t.result.Curve, t.result.Best, t.result.Steps = t.Curve, t.Best, t.Done
	keep := t.best
	if t.held.n() == 0 && t.Done > 0 {
		keep = t.evaluated()
	}
	return &t.result, t.model.Store(m, t.split(keep))
}

// trainer is a training under way.
type trainer struct {
	o      Options
	model  *runtime.Training
	params []runtime.Parameter

	train, held *samples
	teacher     *teacher
	simd        *simd.Kernels
	print       string // fingerprint of the model that training began with

	matrix  []bool     // parameters that follow Muon; nil for none
	scratch *sync.Pool // of orthogonalizers

	limit int64 // of memory; 0 for none

	state
	result Result
}

// loop takes the steps that are left.
func (t *trainer) loop(ctx context.Context, start time.Time) error {
	// A measurement is due where there is none yet, or one was interrupted.
	if n := len(t.Curve); n == 0 || t.due() && t.Curve[n-1].Step != t.Done {
		if err := t.measure(ctx); err != nil {
			return err
		}
	}
	first := t.Done
	for t.Done < t.o.Steps && !t.result.Early {
		loss, err := t.step(ctx)
		if err != nil {
			return err
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return t.notFinite(t.Done+1, "loss", loss)
		}
		t.Done++
		t.Sum += loss
		t.Count++
		if t.due() {
			if err := t.measure(ctx); err != nil {
				return err
			}
			if t.o.Checkpoint != "" && t.Done < t.o.Steps {
				if err := t.save(); err != nil {
					return err
				}
			}
		}
		if t.o.Progress != nil {
			taken := time.Since(start)
			each := taken / time.Duration(t.Done-first)
			last := t.Curve[len(t.Curve)-1]
			t.o.Progress(Status{
				Point: Point{Step: t.Done, Loss: loss, HeldOut: last.HeldOut, Rate: t.rate(t.Done - 1)}, Steps: t.o.Steps, Best: t.Best,
				PerSecond: float64(t.o.Batch) / each.Seconds(), Left: each * time.Duration(t.o.Steps-t.Done),
			})
		}
	}
	return nil
}

// fits computes the gradients of one chunk, to see before anything else that all
// chunks of a step together stay below the memory limit, and sets Result.Bytes.
func (t *trainer) fits(ctx context.Context) error {
	chunks := t.train.chunks(t.train.batch(t.o.Seed, t.Done, t.o.Batch), t.o.Chunk)
	c := chunks[0]
	err := t.model.Gradients(ctx, 1, func(int) (map[string]tensor.Tensor, error) {
		return c.inputs, t.augment(c, 0)
	}, func(_ int, values, grads []*runtime.Tensor) error {
		_, err := t.loss(ctx, c, values, grads, 1)
		return err
	})
	if err == nil {
		const vectors = 5 // of the state
		t.result.Bytes = t.model.Bytes(len(chunks)) + vectors*4*int64(t.result.Parameters)
		if t.limit <= 0 || t.result.Bytes <= t.limit {
			return nil
		}
		err = fmt.Errorf("%d bytes are over the %w of %d", t.result.Bytes, runtime.ErrMemory, t.limit)
	}
	if !errors.Is(err, runtime.ErrMemory) {
		return err
	}
	less := ""
	if !t.o.Recompute {
		less = ", or recompute activations"
	}
	return fmt.Errorf("steps of %d samples, %d at a time on each of %d threads: %w; take smaller chunks, fewer threads%s",
		t.o.Batch, len(c.numbers), min(t.o.Threads, len(chunks)), err, less)
}

// due reports whether the weights are measured after the steps done.
func (t *trainer) due() bool { return t.Done%t.o.Every == 0 || t.Done == t.o.Steps }

// step takes one step and returns the loss of its batch.
func (t *trainer) step(ctx context.Context) (float64, error) {
	chunks := t.train.chunks(t.train.batch(t.o.Seed, t.Done, t.o.Batch), t.o.Chunk)
	losses := make([]float64, len(chunks))
	n := 0
	for _, c := range chunks {
		n += len(c.numbers)
	}
	err := t.model.Gradients(ctx, len(chunks), func(i int) (map[string]tensor.Tensor, error) {
		c := chunks[i]
		return c.inputs, t.augment(c, i)
	}, func(i int, values, grads []*runtime.Tensor) (err error) {
		losses[i], err = t.loss(ctx, chunks[i], values, grads, 1/float64(n))
		chunks[i].inputs = nil
		return err
	})
	if err != nil {
		return 0, err
	}
	sum := sumOf(losses)
	if math.IsNaN(sum) || math.IsInf(sum, 0) {
		return sum, nil
	}
	return sum, t.update()
}

// augment reads the inputs of chunk i of the present step and changes them as
// the options want.
func (t *trainer) augment(c *chunk, i int) error {
	if err := c.read(); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(t.o.Seed, 1<<62|uint64(t.Done)<<20|uint64(i)))
	if t.o.Augment != nil {
		c.changed = true
		if err := t.o.Augment(rng, c.inputs); err != nil {
			return err
		}
	}
	if t.o.Shift > 0 {
		c.changed = true
		if err := shift(rng, c.inputs, len(c.numbers), t.o.Shift); err != nil {
			return err
		}
	}
	if t.o.Mix > 0 {
		c.changed = true
		var next map[string]tensor.Tensor
		if len(c.numbers) == 1 && c.next != c {
			var err error
			if next, err = c.of.feed.Pick(c.next.numbers[:1]).Batch(0, 1); err != nil {
				return err
			}
		}
		var err error
		if c.mixed, err = mix(rng, c.inputs, next, len(c.numbers), t.o.Mix); err != nil {
			return err
		}
	}
	return nil
}

// measure adds a point to the curve: the loss of the held-out samples with
// the averaged weights, which are kept if they are the best.
func (t *trainer) measure(ctx context.Context) error {
	p := Point{Step: t.Done, Rate: t.rate(max(t.Done-1, 0))}
	if t.Count > 0 {
		p.Loss = t.Sum / float64(t.Count)
	}
	var parts []float64
	if t.held.n() > 0 {
		t.swap()
		var err error
		parts, err = t.heldOut(ctx)
		t.swap()
		if err != nil {
			return err
		}
		if p.HeldOut = sumOf(parts); math.IsNaN(p.HeldOut) || math.IsInf(p.HeldOut, 0) {
			return t.notFinite(t.Done, "held-out loss", p.HeldOut)
		}
		if t.Done == 0 {
			p.Loss = p.HeldOut
		}
	}
	t.Sum, t.Count = 0, 0
	t.Curve = append(t.Curve, p)
	if len(t.Lowest) == 0 || p.HeldOut < sumOf(t.Lowest) {
		t.Lowest, t.Worse = parts, 0
	} else if t.Worse++; t.o.Patience > 0 && t.Worse >= t.o.Patience {
		t.result.Early = true
	}
	if noWorse(parts, t.Lowest) {
		t.Best = p
		copy(t.best, t.evaluated())
	}
	if t.o.Target > 0 && t.held.n() > 0 && p.HeldOut <= t.o.Target {
		t.result.Early = true
	}
	return nil
}

// noWorse reports whether a loss, the sum of its parts, is at most one standard
// error of the difference above another. The lowest of many measurements on few
// samples is a matter of luck; of those that cannot be told from it the last is
// taken, whose learning rate is the lowest.
func noWorse(parts, than []float64) bool {
	n := float64(len(parts))
	d := sumOf(parts) - sumOf(than)
	v := 0.0
	for i := range parts {
		e := parts[i] - than[i] - d/n
		v += float64(e * e)
	}
	return d <= 0 || n > 1 && d <= math.Sqrt(v*n/(n-1))
}

func sumOf(parts []float64) float64 {
	sum := 0.0
	for _, v := range parts {
		sum += v
	}
	return sum
}

// heldOut is the loss of the held-out samples with the weights as they are,
// chunk by chunk.
func (t *trainer) heldOut(ctx context.Context) ([]float64, error) {
	chunks := t.held.chunks(t.held.numbers, t.o.Chunk)
	losses := make([]float64, len(chunks))
	err := t.model.Values(ctx, len(chunks), func(i int) (map[string]tensor.Tensor, error) {
		c := chunks[i]
		return c.inputs, c.read()
	}, func(i int, values []*runtime.Tensor) (err error) {
		losses[i], err = t.loss(ctx, chunks[i], values, nil, 1/float64(t.held.n()))
		chunks[i].inputs = nil
		return err
	})
	return losses, err
}

// notFinite says that a loss is no number, and why that may be: before the first
// change of a weight it is not the learning rate.
func (t *trainer) notFinite(step int, what string, loss float64) error {
	advice := "lower the learning rate"
	if t.Done == 0 {
		advice = "look for NaN and infinities in the data and in the weights"
	}
	return fmt.Errorf("step %d: the %s is %v; %s", step, what, loss, advice)
}
