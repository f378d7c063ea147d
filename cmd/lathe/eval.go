package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
)

type evalJSON struct {
	Path        string       `json:"path"`
	Metric      calib.Metric `json:"metric"`
	Value       jsonFloat    `json:"value"`
	CI          [2]jsonFloat `json:"ci95"`
	MsPerSample float64      `json:"ms_per_sample"`
	Parameters  int64        `json:"parameters"`
	Bytes       int64        `json:"bytes"`
	SDR         *float64     `json:"sdr"`
}

func (a *app) eval() *cobra.Command {
	var data string
	var o calib.EvalOptions
	var gate float64
	c := &cobra.Command{
		Use:   "eval MODEL… --data D",
		Short: "Compare the quality, speed and size of models",
		Long: `eval runs the models over the data side by side; the first is the baseline that
kl, agreement, cosine and sqnr compare with. Values carry a seeded 95 % bootstrap
confidence interval. SDR is points of quality lost per percent of speed gained.`,
		Example: `  lathe eval model.onnx small.onnx --data eval.npz --labels labels --metric accuracy
  lathe eval decoder.onnx --data text.npz --metric nll
  lathe eval model.onnx small.onnx --data eval.npz --metric agreement --min 0.95`,
		Args: args(1, -1, "models"),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Metric == "" {
				o.Metric = calib.MetricKL
				if o.Labels != "" {
					o.Metric = calib.MetricAccuracy
				}
			}
			if err := oneOf("metric", string(o.Metric), calib.Metrics()...); err != nil {
				return err
			}
			var models []*graph.Model
			for _, path := range args {
				m, err := a.load(path)
				if err != nil {
					return err
				}
				models = append(models, m)
			}
			src, err := a.open(data)
			if err != nil {
				return err
			}
			o.Threads, o.Seed, o.Progress = a.threads, a.seed, a.progress("eval")
			res, err := calib.Evaluate(c.Context(), models, src, o)
			if err != nil {
				return err
			}
			for _, n := range res[0].Notes {
				a.note("%s: %s", data, n)
			}
			var list []evalJSON
			for i, r := range res {
				e := evalJSON{Path: args[i], Metric: o.Metric, Value: jsonFloat(r.Value), CI: [2]jsonFloat{jsonFloat(r.CI[0]), jsonFloat(r.CI[1])},
					MsPerSample: r.MsPerSample, Parameters: models[i].Parameters(), Bytes: fileSize(args[i])}
				if o.Metric == calib.MetricAccuracy && i > 0 {
					if sdr, ok := metric.SDR(res[0].Value, r.Value, res[0].MsPerSample, r.MsPerSample); ok {
						e.SDR = &sdr
					}
				}
				list = append(list, e)
			}
			if a.json {
				if err := a.printJSON(map[string]any{"models": list, "samples": len(res[0].Samples)}); err != nil {
					return err
				}
			} else {
				rows := [][]string{{"model", string(o.Metric), "95 % interval", "ms/sample", "speed", "parameters", "bytes", "SDR"}}
				for i, e := range list {
					sdr := ""
					if e.SDR != nil {
						sdr = fmt.Sprintf("%.3f", *e.SDR)
					}
					rows = append(rows, []string{e.Path, fmt.Sprintf("%.4f", float64(e.Value)),
						fmt.Sprintf("%.4f … %.4f", float64(e.CI[0]), float64(e.CI[1])), fmt.Sprintf("%.3f", e.MsPerSample),
						fmt.Sprintf("%.2f×", list[0].MsPerSample/e.MsPerSample), grouped(e.Parameters), grouped(e.Bytes), sdr})
					_ = i
				}
				a.table(rows)
				fmt.Fprintf(a.stdout, "%d samples of %s\n", len(res[0].Samples), data)
			}
			if c.Flags().Changed("min") {
				last := list[len(list)-1]
				v := float64(last.Value)
				if o.Metric.HigherIsBetter() && !(v >= gate) || !o.Metric.HigherIsBetter() && !(v <= gate) {
					return failed{fmt.Errorf("%s: %s is %.4f, the gate is %v", last.Path, o.Metric, v, gate)}
				}
			}
			return nil
		},
	}
	c.Flags().StringVar((*string)(&o.Metric), "metric", "", "accuracy, nll, kl, agreement, cosine or sqnr (default: accuracy with labels, else kl)")
	c.Flags().StringVar(&o.Labels, "labels", "", "array of the data that holds the labels")
	c.Flags().StringVar(&o.Output, "output", "", "output to measure (default: the first)")
	c.Flags().IntVar(&o.Batch, "batch", 0, "samples a run (0: a default)")
	c.Flags().IntVar(&o.Limit, "samples", 0, "use only so many samples (0: all)")
	c.Flags().Float64Var(&gate, "min", 0, "exit with status 1 where the last model is worse than this")
	a.dataFlags(c, &data, true)
	return c
}
