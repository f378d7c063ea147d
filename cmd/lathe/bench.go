package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

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
