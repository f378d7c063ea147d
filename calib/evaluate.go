package calib

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"gorgonia.org/tensor"
)

// Metric names what Evaluate measures.
type Metric string

const (
	MetricAccuracy  Metric = "accuracy"  // share of samples whose largest logit is the label
	MetricNLL       Metric = "nll"       // next-token loss, nats a token
	MetricKL        Metric = "kl"        // KL of the outputs from the first model's, nats
	MetricAgreement Metric = "agreement" // share of rows with the first model's largest logit
	MetricCosine    Metric = "cosine"    // cosine with the first model's output
	MetricSQNR      Metric = "sqnr"      // dB, the first model's output the signal
)

// metrics says of each metric whether larger is better, and whether it
// compares with the first model.
var metrics = []struct {
	name             Metric
	higher, relative bool
}{
	{MetricAccuracy, true, false},
	{MetricNLL, false, false},
	{MetricKL, false, true},
	{MetricAgreement, true, true},
	{MetricCosine, true, true},
	{MetricSQNR, true, true},
}

// Metrics lists the metrics.
func Metrics() []Metric {
	var out []Metric
	for _, m := range metrics {
		out = append(out, m.name)
	}
	return out
}

// HigherIsBetter reports whether a larger value of m is better.
func (m Metric) HigherIsBetter() bool {
	at := m.index()
	return at >= 0 && metrics[at].higher
}

// Relative reports whether m compares with the first model.
func (m Metric) Relative() bool {
	at := m.index()
	return at >= 0 && metrics[at].relative
}

// index is the row of m in the table, −1 if there is none.
func (m Metric) index() int {
	for i, x := range metrics {
		if x.name == m {
			return i
		}
	}
	return -1
}

// EvalOptions says what Evaluate measures.
type EvalOptions struct {
	Metric   Metric
	Labels   string // array of the labels, for accuracy
	Output   string // which output; "" means the first
	Batch    int    // samples a run; 0 means DefaultBatch
	Threads  int
	Seed     uint64 // of the bootstrap
	Limit    int    // samples to use; 0 means all
	Progress func(done, total int)
}

// Evaluation is the quality and the speed of one model.
type Evaluation struct {
	Metric      Metric
	Value       float64    // mean over samples
	CI          [2]float64 // 95 % bootstrap interval of the mean
	Samples     []float64  // one value a sample
	MsPerSample float64    // median over batches, wall clock
	Notes       []string   // how inputs were bound
}

// Evaluate runs the models over the data side by side, batch by batch in
// alternating order, and measures each; the first is the baseline that
// relative metrics compare with.
func Evaluate(ctx context.Context, models []*graph.Model, src *Source, o EvalOptions) ([]Evaluation, error) {
	if o.Metric.index() < 0 {
		return nil, fmt.Errorf("eval: no metric %q; there are %v", o.Metric, Metrics())
	}
	e := evaluator{o: o, relative: o.Metric.Relative()}
	for i, m := range models {
		prog, err := runtime.Compile(m, runtime.Options{})
		if err != nil {
			return nil, fmt.Errorf("model %d (%s): %w", i+1, m.Path(), err)
		}
		feed, err := src.Bind(prog.Inputs())
		if err != nil {
			return nil, err
		}
		feed = feed.Spread(o.Limit)
		out := o.Output
		if out == "" {
			out = prog.Outputs()[0].Name
		}
		if !slices.ContainsFunc(prog.Outputs(), func(p runtime.Port) bool { return p.Name == out }) {
			return nil, fmt.Errorf("model %d (%s): no output %q; it has %v", i+1, m.Path(), out, prog.Outputs())
		}
		e.runs = append(e.runs, evalRun{feed: feed, output: out,
			session: prog.NewSession(runtime.SessionOptions{Threads: o.Threads}), inputs: prog.Inputs()})
	}
	first := e.runs[0].feed
	if o.Metric == MetricAccuracy {
		if o.Labels == "" {
			return nil, errors.New("eval: accuracy needs labels; name their array with --labels")
		}
		labels, err := first.Labels(o.Labels)
		if err != nil {
			return nil, err
		}
		e.labels = labels
	}
	if err := e.run(ctx); err != nil {
		return nil, err
	}
	var out []Evaluation
	for _, r := range e.runs {
		v := Evaluation{Metric: o.Metric, Samples: r.values, Value: metric.Mean(r.values), Notes: r.feed.Notes}
		v.CI[0], v.CI[1] = metric.Bootstrap(r.values, o.Seed)
		slices.Sort(r.ms)
		v.MsPerSample = r.ms[len(r.ms)/2]
		out = append(out, v)
	}
	return out, nil
}

type evaluator struct {
	o        EvalOptions
	relative bool
	runs     []evalRun
	labels   []int64
}

type evalRun struct {
	feed    *Feed
	inputs  []runtime.Port
	output  string
	session *runtime.Session
	values  []float64
	ms      []float64 // a sample, of every batch
}

func (e *evaluator) run(ctx context.Context) error {
	n := e.runs[0].feed.Len()
	size := e.o.Batch
	if size <= 0 {
		size = DefaultBatch
	}
	for _, r := range e.runs {
		if r.feed.Len() != n {
			return fmt.Errorf("eval: the models take %d and %d samples of the data", n, r.feed.Len())
		}
		if limit := r.feed.MaxBatch(); limit > 0 {
			size = min(size, limit)
		}
	}
	results := make([]*runtime.Tensor, len(e.runs))
	for from, k := 0, 0; from < n; from, k = from+size, k+1 {
		to := min(from+size, n)
		var in map[string]tensor.Tensor
		for i := range e.runs {
			if k%2 == 1 { // alternate, so that no model is always the one behind a warm cache
				i = len(e.runs) - 1 - i
			}
			r := &e.runs[i]
			var err error
			if in, err = r.feed.Batch(from, to); err != nil {
				return err
			}
			start := time.Now()
			out, err := r.session.Run(ctx, in)
			if err != nil {
				return fmt.Errorf("eval: model %d: samples %d … %d: %w", i+1, from, to-1, err)
			}
			r.ms = append(r.ms, float64(time.Since(start).Nanoseconds())/1e6/float64(to-from))
			if results[i], err = runtime.FromDense(out[r.output]); err != nil {
				return fmt.Errorf("eval: model %d: output %q: %w", i+1, r.output, err)
			}
			if results[i].DType != graph.Float32 {
				return fmt.Errorf("eval: model %d: output %q is %v, want float", i+1, r.output, results[i].DType)
			}
		}
		for i := range e.runs {
			if err := e.measure(i, from, to, results, in); err != nil {
				return fmt.Errorf("eval: model %d: samples %d … %d: %w", i+1, from, to-1, err)
			}
		}
		if e.o.Progress != nil {
			e.o.Progress(to, n)
		}
	}
	return nil
}

// measure appends the metric of samples from … to−1 of run i.
func (e *evaluator) measure(i, from, to int, results []*runtime.Tensor, in map[string]tensor.Tensor) error {
	r := &e.runs[i]
	t := results[i]
	samples := to - from
	if len(t.Shape) == 0 || t.Len()%samples != 0 || t.Len() == 0 {
		return fmt.Errorf("output %q has shape %v for %d samples", r.output, t.Shape, samples)
	}
	per := t.Len() / samples
	classes := t.Shape[len(t.Shape)-1]
	var tokens []int64
	if e.o.Metric == MetricNLL {
		var err error
		if tokens, err = tokensOf(r.inputs, in); err != nil {
			return err
		}
	}
	if e.relative && results[0].Len() != t.Len() {
		return fmt.Errorf("output %q has shape %v, the first model's %v", r.output, t.Shape, results[0].Shape)
	}
	for s := range samples {
		v := t.F32()[s*per : (s+1)*per]
		var x float64
		var err error
		switch e.o.Metric {
		case MetricAccuracy:
			k := len(e.labels) / r.feed.Len()
			x, err = metric.Accuracy(v, classes, e.labels[(from+s)*k:(from+s+1)*k])
		case MetricNLL:
			k := len(tokens) / samples
			x, err = metric.NLL(v, classes, tokens[s*k:(s+1)*k])
		case MetricKL:
			x, err = metric.KL(results[0].F32()[s*per:(s+1)*per], v, classes)
		case MetricAgreement:
			x, err = metric.Agreement(results[0].F32()[s*per:(s+1)*per], v, classes)
		case MetricCosine:
			x, err = metric.Cosine(results[0].F32()[s*per:(s+1)*per], v)
		case MetricSQNR:
			x, err = metric.SQNR(results[0].F32()[s*per:(s+1)*per], v)
		}
		if err != nil {
			return err
		}
		r.values = append(r.values, x)
	}
	return nil
}

// tokensOf finds the token ids among the inputs: the integer input [samples,
// tokens] that is called input_ids, or the only one that is no mask, position
// or type.
func tokensOf(ports []runtime.Port, in map[string]tensor.Tensor) ([]int64, error) {
	var names []string
	for _, p := range ports {
		if (p.DType != graph.Int64 && p.DType != graph.Int32) || len(in[p.Name].Shape()) != 2 {
			continue
		}
		name := strings.ToLower(p.Name)
		if name == "input_ids" {
			names = []string{p.Name}
			break
		}
		if !strings.Contains(name, "mask") && !strings.Contains(name, "position") && !strings.Contains(name, "type") {
			names = append(names, p.Name)
		}
	}
	if len(names) != 1 {
		return nil, fmt.Errorf("nll needs one input of token ids; candidates: %v", names)
	}
	t, err := runtime.FromDense(in[names[0]])
	if err != nil {
		return nil, err
	}
	if t.DType == graph.Int64 {
		return t.I64(), nil
	}
	out := make([]int64, t.Len())
	for i, v := range t.I32() {
		out[i] = int64(v)
	}
	return out, nil
}
