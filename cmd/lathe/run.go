package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// joined collects the outputs of batches along the first axis.
type joined struct {
	name  string
	dtype graph.DType
	shape []int
	raw   []byte
}

func (j *joined) add(t *runtime.Tensor) error {
	if j.shape == nil {
		j.dtype, j.shape, j.raw = t.DType, slices.Clone(t.Shape), slices.Clone(t.Bytes())
		return nil
	}
	if len(t.Shape) == 0 || len(t.Shape) != len(j.shape) || !slices.Equal(t.Shape[1:], j.shape[1:]) || t.DType != j.dtype {
		return fmt.Errorf("output %q is %v%v for one batch and %v%v for another; run with --batch 0 over samples of one shape",
			j.name, j.dtype, j.shape, t.DType, t.Shape)
	}
	j.shape[0] += t.Shape[0]
	j.raw = append(j.raw, t.Bytes()...)
	return nil
}

// outputsOf runs a model over a feed and joins the outputs of all batches.
func (a *app) outputsOf(ctx context.Context, prog *runtime.Program, feed *calib.Feed, batch int, what string) ([]*joined, error) {
	session := prog.NewSession(runtime.SessionOptions{Threads: a.threads})
	outs := make([]*joined, len(prog.Outputs()))
	for i, p := range prog.Outputs() {
		outs[i] = &joined{name: p.Name}
	}
	err := calib.Batches(ctx, feed, batch, a.progress(what), func(from, to int, in map[string]tensor.Tensor) error {
		res, err := session.Run(ctx, in)
		if err != nil {
			return fmt.Errorf("samples %d … %d: %w", from, to-1, err)
		}
		for _, j := range outs {
			t, err := runtime.FromDense(res[j.name])
			if err != nil {
				return fmt.Errorf("output %q: %w", j.name, err)
			}
			if err := j.add(t); err != nil {
				return err
			}
		}
		return nil
	})
	return outs, err
}

func (a *app) run() *cobra.Command {
	var data, out, expect string
	var batch, samples int
	var rtol, atol float64
	c := &cobra.Command{
		Use:   "run MODEL --data D [-o OUT.npz] [--expect E]",
		Short: "Run a model over data",
		Long: `run feeds every sample of the data to the model. -o keeps the outputs in an .npz;
--expect compares them with an .npz of outputs, or with the output_N.pb of a
test folder (--expect DATA), and exits with status 1 where they differ by more
than atol + rtol·max|expected|.`,
		Example: `  lathe run model.onnx --data samples.npz -o outputs.npz
  lathe run model.onnx --data samples.npz --expect golden.npz --rtol 1e-4
  lathe run model.onnx --data test_case/ --expect test_case/`,
		Args: args(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			src, err := a.open(data)
			if err != nil {
				return err
			}
			prog, err := runtime.Compile(m, runtime.Options{})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			feed, err := src.Bind(prog.Inputs())
			if err != nil {
				return err
			}
			for _, n := range feed.Notes {
				a.note("%s: %s", data, n)
			}
			if samples > 0 {
				feed = feed.Slice(0, min(samples, feed.Len()))
			}
			start := time.Now()
			outs, err := a.outputsOf(c.Context(), prog, feed, batch, "run")
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			took := time.Since(start)
			if out != "" {
				if err := writeNPZ(out, outs); err != nil {
					return fmt.Errorf("%s: %w", out, err)
				}
			}
			result := map[string]any{"path": args[0], "samples": feed.Len(), "seconds": took.Seconds()}
			var list []map[string]any
			for _, j := range outs {
				list = append(list, map[string]any{"name": j.name, "dtype": j.dtype.String(), "shape": j.shape})
			}
			result["outputs"] = list
			var cmp comparison
			if expect != "" {
				if cmp, err = compareWith(outs, src, expect, rtol, atol, a.limitMB<<20); err != nil {
					return err
				}
				result["passed"], result["max_abs_error"], result["max_rel_error"] = cmp.passed, cmp.abs, cmp.rel
			}
			if a.json {
				if err := a.printJSON(result); err != nil {
					return err
				}
			} else {
				for _, j := range outs {
					fmt.Fprintf(a.stdout, "%s: %v%v\n", j.name, j.dtype, j.shape)
				}
				fmt.Fprintf(a.stdout, "%d samples in %.2f s, %.3f ms a sample\n", feed.Len(), took.Seconds(), 1e3*took.Seconds()/float64(feed.Len()))
				if expect != "" {
					fmt.Fprintf(a.stdout, "largest difference: %.3g absolute, %.3g relative to the largest value\n", cmp.abs, cmp.rel)
				}
			}
			if expect != "" && !cmp.passed {
				return failed{fmt.Errorf("%s: %s", args[0], cmp.where)}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", ".npz to write the outputs to")
	c.Flags().StringVar(&expect, "expect", "", "expected outputs: an .npz, or the test folder given as data")
	c.Flags().IntVar(&batch, "batch", 0, "samples a run (0: a default)")
	c.Flags().IntVar(&samples, "samples", 0, "use only so many samples (0: all)")
	c.Flags().Float64Var(&rtol, "rtol", 1e-4, "tolerance of --expect relative to the largest expected value of an output")
	c.Flags().Float64Var(&atol, "atol", 1e-5, "absolute tolerance of --expect")
	a.dataFlags(c, &data, true)
	return c
}

func writeNPZ(path string, outs []*joined) error {
	var arrays []*npz.Array
	for _, j := range outs {
		arrays = append(arrays, &npz.Array{Name: j.name, DType: j.dtype, Shape: j.shape, Raw: j.raw})
	}
	var buf bytes.Buffer
	if err := npz.Write(&buf, arrays...); err != nil {
		return err
	}
	return atomicfile.Write(path, buf.Bytes())
}

type comparison struct {
	passed   bool
	abs, rel float64
	where    string // first difference
}

// compareWith compares outputs with the expected ones.
func compareWith(outs []*joined, src *calib.Source, path string, rtol, atol float64, limit int64) (comparison, error) {
	c := comparison{passed: true}
	want := map[string]*joined{}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		if filepath.Clean(path) != filepath.Clean(src.Path()) {
			return c, fmt.Errorf("--expect %s: a folder of expected outputs must be the one given as --data", path)
		}
		for k := 0; ; k++ {
			list := src.Outputs(k)
			if list == nil {
				break
			}
			for i, t := range list {
				if i >= len(outs) {
					break
				}
				r, err := runtime.FromGraphTensor(t)
				if err != nil {
					return c, fmt.Errorf("--expect %s: output_%d.pb: %w", path, i, err)
				}
				if want[outs[i].name] == nil {
					want[outs[i].name] = &joined{name: outs[i].name}
				}
				if err := want[outs[i].name].add(r); err != nil {
					return c, fmt.Errorf("--expect %s: %w", path, err)
				}
			}
		}
	} else {
		f, err := npz.Open(path, limit)
		if err != nil {
			return c, fmt.Errorf("--expect %w", err)
		}
		defer f.Close()
		for _, name := range f.Names() {
			arr, err := f.Read(name)
			if err != nil {
				return c, fmt.Errorf("--expect %w", err)
			}
			want[name] = &joined{name: name, dtype: arr.DType, shape: arr.Shape, raw: arr.Raw}
		}
	}
	matched := 0
	for _, got := range outs {
		w := want[got.name]
		if w == nil {
			continue
		}
		matched++
		if w.dtype != got.dtype || !slices.Equal(w.shape, got.shape) {
			c.fail("output %q is %v%v, expected %v%v", got.name, got.dtype, got.shape, w.dtype, w.shape)
			continue
		}
		g, err := got.float64s()
		if err != nil {
			return c, err
		}
		e, err := w.float64s()
		if err != nil {
			return c, err
		}
		c.compare(got.name, got.shape, g, e, rtol, atol)
	}
	if matched == 0 {
		return c, fmt.Errorf("--expect %s: has none of the model's outputs", path)
	}
	return c, nil
}

func (c *comparison) fail(format string, args ...any) {
	if c.passed {
		c.where = fmt.Sprintf(format, args...)
	}
	c.passed = false
}

// compare takes the elements of one output into account.
func (c *comparison) compare(name string, shape []int, got, want []float64, rtol, atol float64) {
	var abs, most float64
	for _, w := range want {
		most = max(most, finite(w))
	}
	for i, w := range want {
		g := got[i]
		if g == w || (math.IsNaN(g) && math.IsNaN(w)) {
			continue
		}
		d := math.Abs(g - w)
		if math.IsNaN(d) {
			d = math.Inf(1)
		}
		abs = max(abs, d)
		if !(d <= atol+rtol*most) {
			c.fail("%s%v is %v, expected %v", name, indexOf(i, shape), g, w)
		}
	}
	c.abs = max(c.abs, abs)
	if abs > 0 {
		c.rel = max(c.rel, abs/max(most, math.SmallestNonzeroFloat32))
	}
}

// finite is |v|, 0 where that is infinite or NaN.
func finite(v float64) float64 {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	return math.Abs(v)
}

// indexOf turns the number of an element into its coordinates.
func indexOf(i int, shape []int) []int {
	at := make([]int, len(shape))
	for k := len(shape) - 1; k >= 0; k-- {
		at[k] = i % shape[k]
		i /= shape[k]
	}
	return at
}

func (j *joined) float64s() ([]float64, error) {
	dims := make([]int64, len(j.shape))
	for i, d := range j.shape {
		dims[i] = int64(d)
	}
	t, err := graph.NewTensor(j.dtype, dims, j.raw)
	if err != nil {
		return nil, fmt.Errorf("output %q: %w", j.name, err)
	}
	out := make([]float64, t.Len())
	if j.dtype.IsFloat() {
		v, err := t.Float32s()
		for i := range v {
			out[i] = float64(v[i])
		}
		return out, err
	}
	v, err := t.Int64s()
	if err != nil {
		return nil, fmt.Errorf("output %q: %w", j.name, err)
	}
	for i := range v {
		out[i] = float64(v[i])
	}
	return out, nil
}

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

// jsonFloat is a float that JSON writes as null where it has no number for
// it.
type jsonFloat float64

func (f jsonFloat) MarshalJSON() ([]byte, error) {
	if v := float64(f); math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%v", float64(f)), nil
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

func (a *app) bench() *cobra.Command {
	var batch, seq, runs int
	var profile bool
	c := &cobra.Command{
		Use:   "bench MODEL…",
		Short: "Time models on made-up inputs",
		Long: `bench makes inputs of the given batch and sequence length and times the models in
turn, after a warm-up, so that what else the machine does hits all alike.`,
		Example: "  lathe bench model.onnx small.onnx --seq 128 --threads 1",
		Args:    args(1, -1, "models"),
		RunE: func(c *cobra.Command, args []string) error {
			type bench struct {
				session *runtime.Session
				in      map[string]tensor.Tensor
				ms      []float64
			}
			var list []*bench
			for _, path := range args {
				m, err := a.load(path)
				if err != nil {
					return err
				}
				prog, err := runtime.Compile(m, runtime.Options{})
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				in, err := madeUp(prog.Inputs(), batch, seq, a.seed)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				b := &bench{session: prog.NewSession(runtime.SessionOptions{Threads: a.threads, Profile: profile}), in: in}
				for range 2 {
					if _, err := b.session.Run(c.Context(), in); err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
				}
				list = append(list, b)
			}
			progress := a.progress("bench")
			for k := range runs {
				for i := range list {
					if k%2 == 1 {
						i = len(list) - 1 - i
					}
					start := time.Now()
					if _, err := list[i].session.Run(c.Context(), list[i].in); err != nil {
						return fmt.Errorf("%s: %w", args[i], err)
					}
					list[i].ms = append(list[i].ms, float64(time.Since(start).Nanoseconds())/1e6)
				}
				if progress != nil {
					progress(k+1, runs)
				}
			}
			type result struct {
				Path   string             `json:"path"`
				Median float64            `json:"ms_median"`
				P10    float64            `json:"ms_p10"`
				P90    float64            `json:"ms_p90"`
				Kinds  []runtime.KindTime `json:"operators,omitempty"`
			}
			var out []result
			rows := [][]string{{"model", "median ms", "p10", "p90", "speed"}}
			for i, b := range list {
				slices.Sort(b.ms)
				at := func(q float64) float64 { return b.ms[int(q*float64(len(b.ms)-1)+0.5)] }
				r := result{Path: args[i], Median: at(0.5), P10: at(0.1), P90: at(0.9), Kinds: b.session.Profile()}
				out = append(out, r)
				rows = append(rows, []string{r.Path, fmt.Sprintf("%.3f", r.Median), fmt.Sprintf("%.3f", r.P10), fmt.Sprintf("%.3f", r.P90),
					fmt.Sprintf("%.2f×", out[0].Median/r.Median)})
			}
			if a.json {
				return a.printJSON(map[string]any{"models": out, "runs": runs, "batch": batch, "seq": seq, "threads": a.threads})
			}
			a.table(rows)
			for _, r := range out {
				if len(r.Kinds) == 0 {
					continue
				}
				var total time.Duration
				for _, k := range r.Kinds {
					total += k.Total
				}
				rows := [][]string{{"", ""}, {r.Path, "calls", "ms a run", "share"}}
				for _, k := range r.Kinds {
					rows = append(rows, []string{k.Kind, fmt.Sprint(k.Calls / (runs + 2)), fmt.Sprintf("%.3f", k.Total.Seconds()*1e3/float64(runs+2)),
						percent(int64(k.Total), int64(total))})
				}
				a.table(rows)
			}
			return nil
		},
	}
	c.Flags().IntVar(&batch, "batch", 1, "samples a run")
	c.Flags().IntVar(&seq, "seq", 128, "length of open axes but the batch")
	c.Flags().IntVar(&runs, "runs", 30, "timed runs of each model")
	c.Flags().BoolVar(&profile, "profile", false, "also the time of every kind of operator")
	return c
}

// madeUp makes inputs: the first open axis of an input is the batch, axes
// with "past" in their name are empty, every other open axis has length seq.
// Floats are normally distributed; integers are small, masks all ones.
func madeUp(ports []runtime.Port, batch, seq int, seed uint64) (map[string]tensor.Tensor, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := map[string]tensor.Tensor{}
	for _, p := range ports {
		if p.Rank < 0 {
			return nil, fmt.Errorf("input %q has no known rank; run it over data with lathe eval", p.Name)
		}
		n := 1
		shape := make([]int, p.Rank)
		past := strings.Contains(strings.ToLower(p.Name), "past")
		for i, d := range p.Shape.Dims {
			switch {
			case d.IsKnown():
				shape[i] = int(d.N)
			case strings.Contains(strings.ToLower(d.Sym), "past") || past && i > 1:
				shape[i] = 0
			case i == 0 || strings.Contains(strings.ToLower(d.Sym), "batch"):
				shape[i] = batch
			default:
				shape[i] = seq
			}
			if n *= shape[i]; n > 1<<30 {
				return nil, fmt.Errorf("input %q of shape %v is too large to make up", p.Name, shape)
			}
		}
		mask := strings.Contains(strings.ToLower(p.Name), "mask")
		var data any
		switch p.DType {
		case graph.Float32:
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(rng.NormFloat64())
			}
			data = v
		case graph.Int64:
			v := make([]int64, n)
			for i := range v {
				if v[i] = int64(rng.IntN(2)); mask {
					v[i] = 1
				}
			}
			data = v
		case graph.Int32:
			v := make([]int32, n)
			for i := range v {
				if v[i] = int32(rng.IntN(2)); mask {
					v[i] = 1
				}
			}
			data = v
		case graph.Bool:
			data = make([]bool, n)
		default:
			return nil, fmt.Errorf("input %q is %v, which bench cannot make up; run it over data with lathe eval", p.Name, p.DType)
		}
		d, err := runtime.FromSlice(shape, data).Dense()
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", p.Name, err)
		}
		out[p.Name] = d
	}
	return out, nil
}
