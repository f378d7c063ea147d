package main

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	gort "runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// timed is one model that is being timed.
type timed struct {
	session *runtime.Session
	in, out map[string]tensor.Tensor
	ms      []float64 // of every run
}

func (t *timed) run(ctx context.Context) error {
	start := time.Now()
	err := t.session.RunInto(ctx, t.in, t.out)
	t.ms = append(t.ms, float64(time.Since(start).Nanoseconds())/1e6)
	return err
}

// quantile is the time that a share q of the sorted runs stays below.
func (t *timed) quantile(q float64) float64 { return t.ms[int(q*float64(len(t.ms)-1)+0.5)] }

type benchJSON struct {
	Path   string         `json:"path"`
	Median float64        `json:"ms_median"`
	P10    float64        `json:"ms_p10"`
	P90    float64        `json:"ms_p90"`
	Kinds  []operatorTime `json:"operators,omitempty"`
}

type operatorTime struct {
	Operator string  `json:"operator"`
	Calls    int     `json:"calls"`            // in one run
	Ms       float64 `json:"ms"`               // of one run
	GFLOPS   float64 `json:"gflops,omitempty"` // a second, of products and convolutions
}

func (a *app) bench() *cobra.Command {
	batch, seq, runs := 1, 128, 30
	var profile bool
	c := &cobra.Command{
		Use:   "bench MODEL…",
		Short: "Time models on made-up inputs",
		Long: `bench makes inputs of the given batch and sequence length and times the models in
turn, after a warm-up, so that what else the machine does hits all alike. The
first free axis of an input is the batch, the others have the sequence length,
and caches are empty. Models that do not take such inputs are timed over data
by lathe eval.`,
		Example: `  lathe bench model.onnx small.onnx --seq 128 --threads 1
  lathe bench model.onnx --batch 8 --profile`,
		Args: argCount(1, -1, "models"),
		RunE: func(c *cobra.Command, args []string) error {
			var list []*timed
			for _, path := range args {
				t, err := a.timed(c.Context(), path, batch, seq, profile)
				if err != nil {
					return err
				}
				list = append(list, t)
			}
			progress := a.progress("bench")
			for k := range runs {
				for i := range list {
					if k%2 == 1 {
						i = len(list) - 1 - i
					}
					if err := list[i].run(c.Context()); err != nil {
						return fmt.Errorf("%s: %w", args[i], err)
					}
				}
				if progress != nil {
					progress(k+1, runs)
				}
			}
			var out []benchJSON
			for i, t := range list {
				slices.Sort(t.ms)
				r := benchJSON{Path: args[i], Median: t.quantile(0.5), P10: t.quantile(0.1), P90: t.quantile(0.9)}
				for _, k := range t.session.Profile() {
					r.Kinds = append(r.Kinds, operatorTime{k.Kind, k.Calls / runs, k.Total.Seconds() * 1e3 / float64(runs), k.GFLOPS()})
				}
				out = append(out, r)
			}
			var peak peakRate
			if profile {
				if err := peak.measure(a.threads); err != nil {
					return err
				}
			}
			if a.json {
				object := map[string]any{"models": out, "runs": runs, "batch": batch, "seq": seq, "threads": a.threads}
				if profile {
					object["peak_gflops"] = peak.gflops
				}
				return a.printJSON(object)
			}
			a.printBench(out, peak)
			return nil
		},
	}
	addCount(c.Flags(), &batch, 1, "batch", "samples in a run")
	addCount(c.Flags(), &seq, 1, "seq", "length of free axes but the batch")
	addCount(c.Flags(), &runs, 1, "runs", "timed runs of each model")
	c.Flags().BoolVar(&profile, "profile", false, "also the time of every kind of operator, and the GFLOP/s of products and convolutions")
	a.memoryFlag(c)
	return completeModels(c)
}

// warmUps is how many runs are not counted: the first makes the buffers, the
// second finds them.
const warmUps = 2

// timed loads a model, makes inputs for it and warms up.
func (a *app) timed(ctx context.Context, path string, batch, seq int, profile bool) (*timed, error) {
	m, err := a.load(path)
	if err != nil {
		return nil, err
	}
	prog, err := a.compile(m, runtime.Options{MemoryLimit: a.memory << 20})
	if err != nil {
		return nil, err
	}
	in, err := madeUp(prog.Inputs(), batch, seq, a.seed, a.memory<<20)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer a.busy("warming up " + path)()
	t := &timed{session: prog.NewSession(runtime.SessionOptions{Threads: a.threads, Profile: profile}), in: in, out: map[string]tensor.Tensor{}}
	for range warmUps {
		if err := t.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w; give another --seq or --batch, or time it over data with lathe eval", path, err)
		}
	}
	t.ms = nil
	t.session.ResetProfile()
	return t, nil
}

// peakRate is what the threads of a session can compute at most, measured.
type peakRate struct {
	threads int
	gflops  float64
	path    string // of the kernels
}

func (p *peakRate) measure(threads int) error {
	if p.threads = threads; threads == 0 {
		p.threads = gort.GOMAXPROCS(0)
	}
	flops, path, err := runtime.Peak("")
	p.gflops, p.path = flops/1e9*float64(p.threads), path
	return err
}

func (a *app) printBench(list []benchJSON, peak peakRate) {
	rows := [][]string{{"model", "median ms", "p10", "p90", "speed"}}
	for _, r := range list {
		rows = append(rows, []string{r.Path, fmt.Sprintf("%.3f", r.Median), fmt.Sprintf("%.3f", r.P10), fmt.Sprintf("%.3f", r.P90),
			fmt.Sprintf("%.2f×", list[0].Median/r.Median)})
	}
	a.table(rows)
	for _, r := range list {
		if len(r.Kinds) == 0 {
			continue
		}
		var total float64
		for _, k := range r.Kinds {
			total += k.Ms
		}
		fmt.Fprintln(a.stdout)
		rows := [][]string{{r.Path, "calls", "ms a run", "share", "GFLOP/s", "of peak"}}
		for _, k := range r.Kinds {
			row := []string{k.Operator, fmt.Sprint(k.Calls), fmt.Sprintf("%.3f", k.Ms), fmt.Sprintf("%.1f %%", 100*k.Ms/total), "", ""}
			if k.GFLOPS > 0 {
				row[4], row[5] = fmt.Sprintf("%.1f", k.GFLOPS), fmt.Sprintf("%.0f %%", 100*k.GFLOPS/peak.gflops)
			}
			rows = append(rows, row)
		}
		a.table(rows)
	}
	if peak.gflops > 0 {
		fmt.Fprintf(a.stdout, "\nMeasured peak: %.0f GFLOP/s (%s multiply-adds, threads: %d). A control-flow node's time contains that of its bodies.\n", peak.gflops, peak.path, peak.threads)
	}
}

// madeUp makes inputs: the first open axis of an input is the batch, axes
// with "past" in their name are empty, every other open axis has length seq.
// Floats are normally distributed; integers are small, masks all ones.
func madeUp(ports []runtime.Port, batch, seq int, seed uint64, limit int64) (map[string]tensor.Tensor, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := map[string]tensor.Tensor{}
	for _, p := range ports {
		if p.Rank < 0 {
			return nil, fmt.Errorf("input %q has no known rank; run it over data with lathe eval", p.Name)
		}
		n := uint64(1)
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
			if hi, lo := bits.Mul64(n, uint64(shape[i])); hi > 0 || lo > uint64(limit)/8 {
				return nil, fmt.Errorf("input %q of shape %v would pass --memory %d; give a smaller --batch or --seq", p.Name, shape[:i+1], limit>>20)
			} else {
				n = lo
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
			v := make([]bool, n)
			for i := range v {
				v[i] = mask
			}
			data = v
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
