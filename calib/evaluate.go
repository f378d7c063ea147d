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

// metricRow says of a metric whether larger is better, whether it compares
// with the first model, and how it is computed for one sample: original and v
// are the outputs of the first model and of the one that is measured, targets
// the sample's labels or tokens.
type metricRow struct {
	name             Metric
	higher, relative bool
	of               func(original, v []float32, classes int, targets []int64) (float64, error)
}

var metrics = []metricRow{
	{MetricAccuracy, true, false, func(_, v []float32, classes int, labels []int64) (float64, error) {
		return metric.Accuracy(v, classes, labels)
	}},
	{MetricNLL, false, false, func(_, v []float32, classes int, tokens []int64) (float64, error) {
		return metric.NLL(v, classes, tokens)
	}},
	{MetricKL, false, true, func(original, v []float32, classes int, _ []int64) (float64, error) {
		return metric.KL(original, v, classes)
	}},
	{MetricAgreement, true, true, func(original, v []float32, classes int, _ []int64) (float64, error) {
		return metric.Agreement(original, v, classes)
	}},
	{MetricCosine, true, true, func(original, v []float32, _ int, _ []int64) (float64, error) {
		return metric.Cosine(original, v)
	}},
	{MetricSQNR, true, true, func(original, v []float32, _ int, _ []int64) (float64, error) {
		return metric.SQNR(original, v)
	}},
}

// row is the metric's row; its name is empty for an unknown metric.
func (m Metric) row() metricRow {
	for _, r := range metrics {
		if r.name == m {
			return r
		}
	}
	return metricRow{}
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
func (m Metric) HigherIsBetter() bool { return m.row().higher }

// Relative reports whether m compares with the first model.
func (m Metric) Relative() bool { return m.row().relative }

// EvalOptions says what Evaluate measures.
type EvalOptions struct {
	Metric   Metric                // has no default
	Labels   string                // array of the labels, for accuracy
	Output   string                // which output; "" means the first
	Batch    int                   // samples a run; 0 means DefaultBatch
	Threads  int                   // of each session; 0 means one per processor
	Seed     uint64                // of the bootstrap
	Limit    int                   // samples to use, evenly spaced; 0 means all
	Progress func(done, total int) // samples; may be nil
}

// Evaluation is the quality and the speed of one model.
type Evaluation struct {
	Metric      Metric
	Value       float64    // mean over samples
	CI          [2]float64 // 95 % bootstrap interval of the mean
	Samples     []float64  // one value a sample
	MsPerSample float64    // median over batches, wall clock, in milliseconds
	Notes       []string   // how inputs were bound
}

// Evaluate runs the models over the data side by side, batch by batch in
// alternating order, and measures each; the first is the baseline that
// relative metrics compare with. Rows are the last axis of the output; tokens that
// only fill samples up do not count. An output that holds NaN is an error.
func Evaluate(ctx context.Context, models []*graph.Model, src *Source, o EvalOptions) ([]Evaluation, error) {
	list, err := evaluate(ctx, models, src, o)
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	return list, nil
}

func evaluate(ctx context.Context, models []*graph.Model, src *Source, o EvalOptions) ([]Evaluation, error) {
	if o.Metric.row().name == "" {
		return nil, fmt.Errorf("no metric %q; there are %v", o.Metric, Metrics())
	}
	if len(models) == 0 {
		return nil, errors.New("no models")
	}
	e := evaluator{o: o, metric: o.Metric.row()}
	for i, m := range models {
		r, err := newEvalRun(m, src, o, false)
		if err != nil {
			return nil, fmt.Errorf("model %d (%s): %w", i+1, m.Path(), err)
		}
		e.runs = append(e.runs, r)
	}
	if o.Metric == MetricAccuracy {
		if o.Labels == "" {
			return nil, errors.New("accuracy needs labels; name their array with --labels")
		}
		var err error
		if e.labels, err = e.runs[0].feed.Labels(o.Labels); err != nil {
			return nil, err
		}
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
	o      EvalOptions
	metric metricRow
	runs   []*evalRun
	labels []int64 // of the samples of the first feed
}

type evalRun struct {
	feed    *Feed
	inputs  []runtime.Port
	output  string
	session *runtime.Session
	values  []float64
	ms      []float64 // a sample, of every batch

	in, outputs map[string]tensor.Tensor // of the present batch
	out         *runtime.Tensor          // the output that is judged
}

func newEvalRun(m *graph.Model, src *Source, o EvalOptions, profile bool) (*evalRun, error) {
	prog, err := src.compile(m, nil)
	if err != nil {
		return nil, err
	}
	feed, err := src.Bind(prog.Inputs())
	if err != nil {
		return nil, err
	}
	feed = feed.Spread(o.Limit)
	if feed.Len() == 0 {
		return nil, fmt.Errorf("data %s: no samples; the model takes %d at a time", src.Path(), feed.MaxBatch())
	}
	at := 0
	if o.Output != "" {
		at = slices.IndexFunc(prog.Outputs(), func(p runtime.Port) bool { return p.Name == o.Output })
	}
	if at < 0 || len(prog.Outputs()) == 0 {
		return nil, fmt.Errorf("no output %q; it has %v", o.Output, prog.Outputs())
	}
	return &evalRun{feed: feed, inputs: prog.Inputs(), outputs: map[string]tensor.Tensor{}, output: prog.Outputs()[at].Name,
		session: prog.NewSession(runtime.SessionOptions{Threads: o.Threads, Profile: profile})}, nil
}

// batch is the number of samples that all models are given at once.
func (e *evaluator) batch() (int, error) {
	size, fixed := e.o.Batch, 0
	if size <= 0 {
		size = DefaultBatch
	}
	for _, r := range e.runs {
		switch n := r.feed.MaxBatch(); {
		case n == 0:
		case fixed > 0 && n != fixed:
			return 0, fmt.Errorf("one model takes %d samples at a time and another %d", fixed, n)
		default:
			size, fixed = n, n
		}
	}
	return size, nil
}

func (e *evaluator) run(ctx context.Context) error {
	n := e.runs[0].feed.Len()
	for _, r := range e.runs {
		n = min(n, r.feed.Len())
	}
	size, err := e.batch()
	if err != nil {
		return err
	}
	for from, k := 0, 0; from < n; from, k = from+size, k+1 {
		to := min(from+size, n)
		for i := range e.runs {
			if k%2 == 1 { // alternate, so that no model is always the one behind a warm cache
				i = len(e.runs) - 1 - i
			}
			if err := e.runs[i].step(ctx, from, to); err != nil {
				return fmt.Errorf("model %d: samples %d … %d: %w", i+1, from, to-1, err)
			}
		}
		for i := range e.runs {
			if err := e.measure(i, from, to); err != nil {
				return fmt.Errorf("model %d: samples %d … %d: %w", i+1, from, to-1, err)
			}
		}
		if e.o.Progress != nil {
			e.o.Progress(to, n)
		}
	}
	return nil
}

// step runs samples from … to−1.
func (r *evalRun) step(ctx context.Context, from, to int) error {
	var err error
	if r.in, err = r.feed.Batch(from, to); err != nil {
		return err
	}
	start := time.Now()
	if err := r.session.RunInto(ctx, r.in, r.outputs); err != nil {
		return err
	}
	r.ms = append(r.ms, float64(time.Since(start).Nanoseconds())/1e6/float64(to-from))
	if r.out, err = runtime.FromDense(r.outputs[r.output]); err != nil {
		return fmt.Errorf("output %q: %w", r.output, err)
	}
	if r.out.DType != graph.Float32 {
		return fmt.Errorf("output %q is %v, want float", r.output, r.out.DType)
	}
	if slices.ContainsFunc(r.out.F32(), func(v float32) bool { return v != v }) {
		return fmt.Errorf("output %q holds NaN; check the weights and the data", r.output)
	}
	return nil
}

// measure appends the metric of samples from … to−1 of run i.
func (e *evaluator) measure(i, from, to int) error {
	r, original := e.runs[i], e.runs[0].out
	samples := to - from
	if len(r.out.Shape) == 0 || r.out.Len()%samples != 0 || r.out.Len() == 0 {
		return fmt.Errorf("output %q has shape %v for %d samples", r.output, r.out.Shape, samples)
	}
	if e.metric.relative && !slices.Equal(original.Shape, r.out.Shape) {
		return fmt.Errorf("output %q has shape %v, the first model's %v", r.output, r.out.Shape, original.Shape)
	}
	var targets []int64 // of these samples
	switch e.o.Metric {
	case MetricAccuracy:
		k := len(e.labels) / e.runs[0].feed.Len()
		targets = e.labels[from*k : to*k]
	case MetricNLL:
		var err error
		if targets, err = tokensOf(r.inputs, r.in); err != nil {
			return err
		}
	}
	classes := r.out.Shape[len(r.out.Shape)-1]
	if classes == 0 {
		return fmt.Errorf("output %q has shape %v", r.output, r.out.Shape)
	}
	mask, err := r.feed.Mask(from, to, r.in)
	if err != nil {
		return err
	}
	keep := mask.of(r.out.Len() / classes)
	for s := range samples {
		of := part(targets, s, samples)
		x, y := part(original.F32(), s, samples), part(r.out.F32(), s, samples)
		if keep := part(keep, s, samples); keep != nil {
			// What stands where a text is filled up is no matter.
			if len(of) == len(keep) {
				of = pick(of, keep, 1)
			}
			x, y = pick(x, keep, classes), pick(y, keep, classes)
		}
		value, err := e.metric.of(x, y, classes, of)
		if err != nil {
			return fmt.Errorf("sample %d: %w", r.feed.Number(from+s), err)
		}
		r.values = append(r.values, value)
	}
	return nil
}

// part is part i of n of v.
func part[T any](v []T, i, n int) []T { return v[i*len(v)/n : (i+1)*len(v)/n] }

// pick returns the rows of v, of n elements each, that keep says, or v where
// those are all or v is no list of such rows.
func pick[T any](v []T, keep []bool, n int) []T {
	if len(v) != len(keep)*n || !slices.Contains(keep, false) {
		return v
	}
	var out []T
	for i, ok := range keep {
		if ok {
			out = append(out, v[i*n:(i+1)*n]...)
		}
	}
	return out
}

// tokensOf finds the token ids among the inputs: the integer input [samples,
// tokens] that is called decoder_input_ids, or else input_ids, or else the only
// one that is no mask, position or type.
func tokensOf(ports []runtime.Port, in map[string]tensor.Tensor) ([]int64, error) {
	named, names := "", []string(nil)
	for _, p := range ports {
		if (p.DType != graph.Int64 && p.DType != graph.Int32) || len(in[p.Name].Shape()) != 2 {
			continue
		}
		name := strings.ToLower(p.Name)
		switch {
		case name == "decoder_input_ids":
			named = p.Name
		case name == "input_ids" && named == "":
			named = p.Name
		case !strings.Contains(name, "mask") && !strings.Contains(name, "position") && !strings.Contains(name, "type"):
			names = append(names, p.Name)
		}
	}
	if named != "" {
		names = []string{named}
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
