// Package report writes what an optimization did as one HTML page that needs
// no network: importance of every module, what was dropped and rewritten,
// size, operations, speed and quality before and after, and the controls.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
)

// Input is what a report shows.
type Input struct {
	Title  string // of the model
	Result *optimize.Result
}

//go:embed report.html
var page string

// parsed is the page with the functions it formats numbers with.
var parsed = template.Must(template.New("report").Funcs(template.FuncMap{
	"grouped": grouped,
	"percent": func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"fixed":   func(n int, v float64) string { return fmt.Sprintf("%.*f", n, v) },
	"times":   func(a, b float64) float64 { return a * b },
	"join":    func(s []string) string { return strings.Join(s, " ") },
}).Parse(page))

// view is what the page reads.
type view struct {
	Title    string
	Metric   calib.Metric
	Higher   bool
	Samples  int
	Scored   int
	Tokens   int64
	SameData bool
	Layers   []layerRow // of the importance picture
	Most     float64
	Axis     []tick
	Variants []variantRow
	Rewrites []rewriteRow
	Search   *searchView // nil without one
	Healings []healingView
	Times    []timeRow
	Longest  float64 // ms, of Times
	Peak     float64 // GFLOP/s
	Journal  []passes.Entry
	More     int // journal entries left out
	Left     []passes.Entry
}

type tick struct {
	At    float64 // percent of the width
	Label string
}

type layerRow struct {
	Layer   int
	Modules []moduleBar
}

type moduleBar struct {
	ID, Kind  string
	Score     float64
	Stderr    float64
	Width     float64 // percent of the largest
	Low, High float64 // percent: score ± stderr
	Dropped   bool
	Note      string
}

type variantRow struct {
	Name         string
	Control      bool
	Final        bool
	Dropped      []string
	Value        float64
	Low, High    float64
	At, From, To float64 // percent along the picture of the interval
	KL           float64
	Params       int64
	ParamsShare  float64 // percent of the original
	FLOPs        int64
	FLOPsShare   float64
	Bytes        int64
	BytesShare   float64
	Ms           float64
	Speed        float64
	SDR          string
}

type rewriteRow struct {
	Node          string
	Shape         string
	Block         int
	Error         float64
	Frobenius     float64
	HasError      bool
	Width, FWidth float64
	Before, After int64
}

// Write writes the page.
func Write(w io.Writer, in Input) error {
	r := in.Result
	v := view{Title: in.Title, SameData: r.SameData, Scored: r.Ledger.Samples, Tokens: r.Ledger.Tokens}
	first := r.Variants[0]
	v.Metric, v.Higher, v.Samples = first.Quality.Metric, first.Quality.Metric.HigherIsBetter(), len(first.Quality.Samples)
	v.importance(r)
	v.variants(r)
	v.rewrites(r)
	v.times(r)
	v.search(r)
	v.healings(r)
	const most = 200 // of the journal: what a reader scrolls through
	for _, e := range r.Journal.Entries {
		switch {
		case e.Pass == "rewrite-circulant" && e.What == "left dense":
			v.Left = append(v.Left, e)
		case e.Pass == "eliminate-dead-code":
			// Consequences of the other entries, by the hundred.
		case len(v.Journal) < most:
			v.Journal = append(v.Journal, e)
		default:
			v.More++
		}
	}
	if err := parsed.Execute(w, v); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// plotView is a picture of lines over one axis, in the units of the picture.
type plotView struct {
	Lines  []string // points attributes of polylines
	Dots   []plotDot
	Across []tick // below
	Up     []tick // at the left
}

type plotDot struct {
	X, Y   float64 // percent
	Title  string
	Chosen bool
}

// The picture of a plot is so wide and high; dots and ticks are in percent of both.
const plotWidth, plotHeight = 720, 260

// line adds a line through n points, in percent from the left and from the top.
func (p *plotView) line(n int, at func(i int) (x, y float64)) {
	var points []string
	for i := range n {
		x, y := at(i)
		points = append(points, fmt.Sprintf("%.1f,%.1f", x*plotWidth/100, y*plotHeight/100))
	}
	p.Lines = append(p.Lines, strings.Join(points, " "))
}

// up puts ticks on a vertical axis from 0 to top.
func (p *plotView) up(top float64) {
	for _, t := range axis(top) {
		p.Up = append(p.Up, tick{At: 100 - t.At, Label: t.Label})
	}
}

// searchView is the way of a search: the KL to the original over the share of
// the parameters that is left.
type searchView struct {
	Plot  plotView
	Steps []searchStep
	Met   bool
}

type searchStep struct {
	passes.Trade
	Chosen bool
}

func (v *view) search(r *optimize.Result) {
	if r.Search == nil || len(r.Search.Curve) < 2 {
		return
	}
	list := r.Search.Curve
	all := float64(list[0].Params)
	least, most := 1.0, 0.0
	for _, t := range list {
		least, most = min(least, float64(t.Params)/all), max(most, t.KL)
	}
	if most <= 0 {
		most = 1
	}
	// A little room beyond both ends.
	left, top := least-0.05*(1-least), 1.05*most
	at := func(share float64) float64 { return 100 * (1 - share) / (1 - left) }
	s := &searchView{Met: r.Search.Met}
	for i, t := range list {
		share := float64(t.Params) / all
		s.Steps = append(s.Steps, searchStep{t, i == r.Search.Chosen})
		s.Plot.Dots = append(s.Plot.Dots, plotDot{at(share), 100 * (1 - t.KL/top),
			fmt.Sprintf("%s: %.1f %% of the parameters, KL %.4f", t.Step, 100*share, t.KL), i == r.Search.Chosen})
	}
	s.Plot.line(len(list), func(i int) (x, y float64) { return s.Plot.Dots[i].X, s.Plot.Dots[i].Y })
	for _, t := range axis(1 - left) {
		share := 1 - t.At/100*(1-left)
		s.Plot.Across = append(s.Plot.Across, tick{At: at(share), Label: fmt.Sprintf("%.3g %%", 100*share)})
	}
	s.Plot.up(top)
	v.Search = s
}

// healingView is the losses of a healing over its steps.
type healingView struct {
	Name          string
	Plot          plotView
	Before, After float64 // held-out loss
	Steps, Best   int
	Samples, Held int
	Seconds       float64
}

func (v *view) healings(r *optimize.Result) {
	for _, h := range r.Healings {
		last := float64(h.Curve[len(h.Curve)-1].Step)
		top := 0.0
		for _, p := range h.Curve {
			top = max(top, 1.05*p.Loss, 1.05*p.HeldOut)
		}
		if top <= 0 || last == 0 {
			continue
		}
		x := healingView{Name: h.Variant, Before: h.Curve[0].HeldOut, After: h.Best.HeldOut, Steps: h.Steps, Best: h.Best.Step,
			Samples: h.Samples, Held: h.HeldOut, Seconds: h.Seconds}
		at := func(step int, loss float64) (float64, float64) {
			return 100 * float64(step) / last, 100 * (1 - loss/top)
		}
		x.Plot.line(len(h.Curve), func(i int) (float64, float64) { return at(h.Curve[i].Step, h.Curve[i].HeldOut) })
		x.Plot.line(len(h.Curve), func(i int) (float64, float64) { return at(h.Curve[i].Step, h.Curve[i].Loss) })
		for _, p := range h.Curve {
			dx, dy := at(p.Step, p.HeldOut)
			x.Plot.Dots = append(x.Plot.Dots, plotDot{dx, dy, fmt.Sprintf("step %d: held-out loss %.4f, loss %.4f", p.Step, p.HeldOut, p.Loss), p.Step == h.Best.Step})
		}
		x.Plot.Across = axis(last)
		x.Plot.up(top)
		v.Healings = append(v.Healings, x)
	}
}

// timeRow is a kind of operator in the original and in the final model.
type timeRow struct {
	Kind          string
	Before, After timeCell
}

type timeCell struct {
	Ms, Width    float64 // percent of the longest
	GFLOPS, Peak float64 // percent of the peak
}

// times merges the profiles of the original and the final model, kinds in the
// order of the time that they took in the original. What took less than a
// thousandth of it in both is summed up in one row.
func (v *view) times(r *optimize.Result) {
	first, final := r.Variants[0].Times, []optimize.OperatorTime(nil)
	for _, x := range r.Variants[1:] {
		if x.Model == r.Final {
			final = x.Times
		}
	}
	var total float64
	for _, t := range first {
		total += t.Ms
		v.Longest = max(v.Longest, t.Ms)
	}
	for _, t := range final {
		v.Longest = max(v.Longest, t.Ms)
	}
	if v.Longest == 0 {
		return
	}
	v.Peak = r.Peak
	cell := func(t optimize.OperatorTime) timeCell {
		return timeCell{t.Ms, 100 * t.Ms / v.Longest, t.GFLOPS, 100 * t.GFLOPS / r.Peak}
	}
	at := func(kind string) *timeRow {
		for i := range v.Times {
			if v.Times[i].Kind == kind {
				return &v.Times[i]
			}
		}
		v.Times = append(v.Times, timeRow{Kind: kind})
		return &v.Times[len(v.Times)-1]
	}
	for _, t := range first {
		at(t.Kind).Before = cell(t)
	}
	for _, t := range final {
		at(t.Kind).After = cell(t)
	}
	rest := timeRow{Kind: "the rest"}
	v.Times = slices.DeleteFunc(v.Times, func(t timeRow) bool {
		small := max(t.Before.Ms, t.After.Ms) < total/1000
		if small {
			rest.Before.Ms += t.Before.Ms
			rest.After.Ms += t.After.Ms
		}
		return small
	})
	if rest.Before.Ms+rest.After.Ms > 0 {
		rest.Before.Width, rest.After.Width = 100*rest.Before.Ms/v.Longest, 100*rest.After.Ms/v.Longest
		v.Times = append(v.Times, rest)
	}
}

func (v *view) importance(r *optimize.Result) {
	for _, m := range r.Ledger.Modules {
		v.Most = max(v.Most, m.Score+m.Stderr)
	}
	if v.Most == 0 {
		v.Most = 1
	}
	v.Axis = axis(v.Most)
	for _, m := range r.Ledger.Modules {
		b := moduleBar{ID: m.ID, Kind: string(m.Kind), Score: m.Score, Stderr: m.Stderr, Width: 100 * m.Score / v.Most,
			Low: 100 * max(m.Score-m.Stderr, 0) / v.Most, High: 100 * (m.Score + m.Stderr) / v.Most,
			Dropped: slices.Contains(r.Dropped, m.ID)}
		if !m.Droppable {
			b.Note = "cannot be dropped: " + m.Reason
		}
		if n := len(v.Layers); n == 0 || v.Layers[n-1].Layer != m.Layer {
			v.Layers = append(v.Layers, layerRow{Layer: m.Layer})
		}
		l := &v.Layers[len(v.Layers)-1]
		l.Modules = append(l.Modules, b)
	}
}

// axis puts about five round ticks on 0 … most.
func axis(most float64) []tick {
	step := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, k := range []float64{1, 2, 5, 10} {
		if most/(k*step) <= 6 {
			step *= k
			break
		}
	}
	var out []tick
	for i := 0; float64(i)*step <= most; i++ {
		out = append(out, tick{At: 100 * float64(i) * step / most, Label: fmt.Sprintf("%.4g", float64(i)*step)})
	}
	return out
}

func (v *view) variants(r *optimize.Result) {
	first := r.Variants[0]
	low, high := math.Inf(1), math.Inf(-1)
	for _, x := range r.Variants {
		low, high = min(low, x.Quality.CI[0]), max(high, x.Quality.CI[1])
	}
	span := high - low
	if !(span > 0) || math.IsInf(span, 0) {
		span = 1
	}
	share := func(a, b int64) float64 {
		if b == 0 {
			return 0
		}
		return 100 * float64(a) / float64(b)
	}
	for _, x := range r.Variants {
		q := x.Quality
		row := variantRow{Name: x.Name, Control: x.Control, Final: x.Model == r.Final, Dropped: x.Dropped,
			Value: q.Value, Low: q.CI[0], High: q.CI[1],
			At: 100 * (q.Value - low) / span, From: 100 * (q.CI[0] - low) / span, To: 100 * (q.CI[1] - low) / span,
			KL: x.ToOriginal.Value, Params: x.Parameters, ParamsShare: share(x.Parameters, first.Parameters),
			FLOPs: x.FLOPs, FLOPsShare: share(x.FLOPs, first.FLOPs), Bytes: x.Bytes, BytesShare: share(x.Bytes, first.Bytes),
			Ms: q.MsPerSample, Speed: first.Quality.MsPerSample / q.MsPerSample, SDR: "–"}
		if q.Metric == calib.MetricAccuracy {
			if sdr, ok := metric.SDR(first.Quality.Value, q.Value, first.Quality.MsPerSample, q.MsPerSample); ok {
				row.SDR = fmt.Sprintf("%.2f", sdr)
			}
		}
		v.Variants = append(v.Variants, row)
	}
}

func (v *view) rewrites(r *optimize.Result) {
	for _, l := range r.Layers {
		row := rewriteRow{Node: l.Node, Shape: fmt.Sprintf("%d × %d", l.M, l.N), Block: l.Block, Before: l.ParamsBefore, After: l.ParamsAfter}
		if row.HasError = !math.IsNaN(l.Error); row.HasError {
			row.Error, row.Frobenius = l.Error, l.FrobeniusError
			row.Width, row.FWidth = 100*min(l.Error, 1), 100*min(l.FrobeniusError, 1)
		}
		v.Rewrites = append(v.Rewrites, row)
	}
}

func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
