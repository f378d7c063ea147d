package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
)

// evalFlags are the flags that say what quality is.
type evalFlags struct {
	metric calib.Metric
	labels string
	output string
}

// add adds the flags; without is the metric where there are no labels.
func (e *evalFlags) add(c *cobra.Command, without calib.Metric) {
	addWord(c, &e.metric, "metric", fmt.Sprintf("what to measure (default accuracy with --labels, else %s)", without), calib.Metrics()...)
	c.Flags().StringVar(&e.labels, "labels", "", "`name` of the array of the data that holds the labels")
	c.Flags().StringVar(&e.output, "output-name", "", "`name` of the output of the models to measure (default the first)")
}

// options turns the flags into what calib.Evaluate wants.
func (e *evalFlags) options(a *app, without calib.Metric) calib.EvalOptions {
	o := calib.EvalOptions{Metric: e.metric, Labels: e.labels, Output: e.output, Threads: a.threads, Seed: a.seed}
	if o.Metric == "" {
		o.Metric = without
		if o.Labels != "" {
			o.Metric = calib.MetricAccuracy
		}
	}
	return o
}

// quality is what is measured of a model, as it is printed.
type quality struct {
	Metric      calib.Metric `json:"metric"`
	Value       jsonFloat    `json:"value"`
	CI          [2]jsonFloat `json:"ci95"`
	MsPerSample float64      `json:"ms_per_sample"`
	Parameters  int64        `json:"parameters"`
	Bytes       int64        `json:"bytes"`
	SDR         *float64     `json:"sdr"` // null for the baseline, and where there is no speedup or no accuracy
}

func qualityOf(e, baseline calib.Evaluation, parameters, bytes int64) quality {
	q := quality{Metric: e.Metric, Value: jsonFloat(e.Value), CI: [2]jsonFloat{jsonFloat(e.CI[0]), jsonFloat(e.CI[1])},
		MsPerSample: e.MsPerSample, Parameters: parameters, Bytes: bytes}
	if e.Metric == calib.MetricAccuracy {
		if sdr, ok := metric.SDR(baseline.Value, e.Value, baseline.MsPerSample, e.MsPerSample); ok {
			q.SDR = &sdr
		}
	}
	return q
}

// interval is the confidence interval in words.
func (q *quality) interval() string {
	return fmt.Sprintf("%.4f … %.4f", float64(q.CI[0]), float64(q.CI[1]))
}

// speed is how many times as fast as the baseline the model is.
func (q *quality) speed(baseline *quality) string {
	return fmt.Sprintf("%.2f×", baseline.MsPerSample/q.MsPerSample)
}

func (a *app) eval() *cobra.Command {
	var d dataFlags
	var e evalFlags
	gate := math.NaN()
	perLayer := false
	c := &cobra.Command{
		Use:   "eval MODEL… --data D",
		Short: "Compare the quality, speed and size of models",
		Long: `eval runs the models over the data side by side. The first is the baseline that
kl, agreement, cosine and sqnr compare with. Values carry a seeded 95 % bootstrap
confidence interval. SDR is points of accuracy lost per percent of speed gained.

accuracy wants --labels, nll an input of token ids; kl is that of the model's
outputs from the baseline's, in nats, sqnr is in decibels.

--gate makes a quality gate of it: the exit status is 1 where a model (but the
baseline, if there are others) is worse than that. Worse is below the gate for
accuracy, agreement, cosine and sqnr, and above it for nll and kl.

--metric sqnr --per-layer lists the layers that lathe quantize put into fixed
point, each with the decibels of its output against the float operator on the
same dequantised input, of that input against the first model's value, and of
the output against the first model's. The gate is for the first of these.`,
		Example: `  lathe eval model.onnx small.onnx --data eval.npz --labels labels --metric accuracy
  lathe eval decoder.onnx --data text.npz --metric nll
  lathe eval model.onnx small.onnx --data eval.npz --metric agreement --gate 0.95
  lathe eval model.onnx small.onnx --data eval.npz --metric kl --gate 0.1
  lathe eval model.onnx int16.onnx --data eval.npz --metric sqnr --per-layer --gate 70`,
		Args: argCount(1, -1, "models"),
		RunE: func(c *cobra.Command, args []string) error {
			opts := e.options(a, calib.MetricKL)
			switch {
			case opts.Metric == calib.MetricAccuracy && opts.Labels == "":
				return errors.New("eval: accuracy needs --labels, the array of the data that holds them")
			case len(args) == 1 && opts.Metric.Relative():
				return fmt.Errorf("eval: %s compares with a first model; give two models, or --labels, or --metric nll", opts.Metric)
			case perLayer && opts.Metric != calib.MetricSQNR:
				return errors.New("eval: --per-layer goes with --metric sqnr")
			case perLayer && len(args) != 2:
				return errors.New("eval: --per-layer compares two models, the original and what lathe quantize made of it")
			}
			var models []*graph.Model
			for _, path := range args {
				m, err := a.load(path)
				if err != nil {
					return err
				}
				models = append(models, m)
			}
			src, err := a.open(d.path, &d)
			if err != nil {
				return err
			}
			for _, m := range models {
				if feed, err := a.bind(m, src); err == nil { // else Evaluate says why
					a.foresee(m, feed, d.batch, 0)
				}
			}
			opts.Batch, opts.Progress = d.batch, a.progress("eval")
			if perLayer {
				if !c.Flags().Changed("gate") {
					gate = math.Inf(-1)
				}
				return a.evalLayers(c.Context(), models, src, opts, gate)
			}
			res, err := calib.Evaluate(c.Context(), models, src, opts)
			if err != nil {
				return err
			}
			a.bound(src, res[0].Notes)
			type model struct {
				Path string `json:"path"`
				quality
			}
			var list []model
			for i, r := range res {
				list = append(list, model{args[i], qualityOf(r, res[0], models[i].Parameters(), fileSize(args[i]))})
			}
			if a.json {
				if err := a.printJSON(map[string]any{"models": list, "samples": len(res[0].Samples)}); err != nil {
					return err
				}
			} else {
				rows := [][]string{{"model", string(opts.Metric), "95 % interval", "ms/sample", "speed", "parameters", "bytes", "SDR"}}
				for _, x := range list {
					sdr := ""
					if x.SDR != nil {
						sdr = fmt.Sprintf("%.3f", *x.SDR)
					}
					rows = append(rows, []string{x.Path, fmt.Sprintf("%.4f", float64(x.Value)), x.interval(), fmt.Sprintf("%.3f", x.MsPerSample),
						x.speed(&list[0].quality), grouped(x.Parameters), grouped(x.Bytes), sdr})
				}
				a.table(rows)
				fmt.Fprintf(a.stdout, "%d samples of %s\n", len(res[0].Samples), d.path)
			}
			if !c.Flags().Changed("gate") {
				return nil
			}
			worse := func(v float64) bool { return !(v <= gate) }
			if opts.Metric.HigherIsBetter() {
				worse = func(v float64) bool { return !(v >= gate) }
			}
			var bad []string
			for i, x := range list {
				if v := float64(x.Value); (i > 0 || len(list) == 1) && worse(v) {
					bad = append(bad, fmt.Sprintf("%s: %s %.4f", x.Path, opts.Metric, v))
				}
			}
			if len(bad) > 0 {
				return failed{fmt.Errorf("worse than the gate of %v: %s", gate, strings.Join(bad, "; "))}
			}
			return nil
		},
	}
	e.add(c, calib.MetricKL)
	c.Flags().BoolVar(&perLayer, "per-layer", false, "with --metric sqnr, that of every layer in fixed point")
	addNumber(c.Flags(), &gate, math.Inf(-1), math.Inf(1), "gate", "exit with status 1 where a model is worse than this")
	c.Flags().Lookup("gate").DefValue = ""
	d.o.Choice = calib.ChooseSpread
	d.addBatch(c)
	d.add(a, c, true)
	return completeModels(c)
}

// layerNoise is the noise of a layer, as it is printed.
type layerNoise struct {
	Node     string    `json:"node"`
	Op       string    `json:"op"`
	Block    int       `json:"block,omitempty"`
	Operator jsonFloat `json:"sqnr"`
	Input    jsonFloat `json:"input_sqnr"`
	Output   jsonFloat `json:"output_sqnr"`
}

// evalLayers prints the noise of every layer in fixed point.
func (a *app) evalLayers(ctx context.Context, models []*graph.Model, src *calib.Source, o calib.EvalOptions, gate float64) error {
	fixed, err := passes.Int16Layers(models[1])
	if err != nil {
		return fmt.Errorf("%s: %w", models[1].Path(), err)
	}
	var layers []calib.FixedLayer
	for _, l := range fixed {
		layers = append(layers, calib.FixedLayer{Node: l.Node, In: l.In, Out: l.Out, Int16In: l.Int16In, Int16Out: l.Int16Out, ExponentX: l.ExponentX, ExponentsY: l.ExponentsY})
	}
	noise, err := calib.MeasureLayers(ctx, models[0], models[1], layers, src, o)
	if err != nil {
		return err
	}
	var list []layerNoise
	worst := 0
	for i, n := range noise {
		list = append(list, layerNoise{fixed[i].Node, fixed[i].Op, fixed[i].Block, jsonFloat(n.Operator), jsonFloat(n.Input), jsonFloat(n.Output)})
		if n.Operator < noise[worst].Operator {
			worst = i
		}
	}
	if a.json {
		if err := a.printJSON(map[string]any{"layers": list}); err != nil {
			return err
		}
	} else {
		rows := [][]string{{"layer", "operator", "block", "sqnr", "of its input", "of its output"}}
		for _, l := range list {
			block := "–"
			if l.Block > 0 {
				block = fmt.Sprint(l.Block)
			}
			rows = append(rows, []string{l.Node, l.Op, block, fmt.Sprintf("%.1f dB", float64(l.Operator)), fmt.Sprintf("%.1f dB", float64(l.Input)), fmt.Sprintf("%.1f dB", float64(l.Output))})
		}
		a.table(rows)
		fmt.Fprintf(a.stdout, "%d layers, the least is %.1f dB at %s\n", len(list), float64(list[worst].Operator), list[worst].Node)
	}
	if v := float64(list[worst].Operator); !(v >= gate) {
		return failed{fmt.Errorf("worse than the gate of %v: %s has %.1f dB", gate, list[worst].Node, v)}
	}
	return nil
}
