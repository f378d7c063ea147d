package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
)

// TestRace runs on a clock that only the sides move. The machine gets slower
// from round to round, which ratios within rounds do not show. Once the clock
// does not hold, and the round does not count.
func TestRace(t *testing.T) {
	var now time.Duration
	order, looks := "", 0
	side := func(name string, cost time.Duration) func() error {
		return func() error {
			now += cost * time.Duration(1+len(order)/6)
			if order += name; len(order) > 12 && len(order) <= 18 {
				now += time.Hour
			}
			return nil
		}
	}
	holds := func() bool {
		looks++
		return looks != 10
	}
	sums, err := race(context.Background(), func() time.Duration { return now }, holds, protocol{pairs: 3, block: 0},
		side("a", 6*time.Millisecond), []func() error{side("b", 2*time.Millisecond), side("c", time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	// Once for memory and once for the number of repetitions, then in every
	// round a block unmeasured and one measured, here of one run.
	if want := "aabbcc" + "aabbcc" + "ccbbaa" + "ccbbaa" + "aabbcc"; order != want {
		t.Errorf("order %s, want %s", order, want)
	}
	for i, want := range []float64{3, 6} {
		if s := sums[i]; max(math.Abs(s.ratio-want), math.Abs(s.p10-want), math.Abs(s.p90-want)) > 1e-12 {
			t.Errorf("contender %d: %+v, want a ratio of %v throughout", i, s, want)
		}
	}
	if _, err := race(context.Background(), wallTime, func() bool { return false }, protocol{pairs: 1}, side("a", 1), nil); err == nil {
		t.Error("figures by a clock that never holds")
	}
}

// TestGauge fails where a clock that stands is believed, or a good one is not.
func TestGauge(t *testing.T) {
	if g := newGauge(wallTime); !g.holds() {
		t.Error("the time of the world is not believed")
	}
	g := newGauge(func() time.Duration { return 0 })
	if g.holds() {
		t.Error("a clock that stands is believed")
	}
	if slow := newGauge(func() time.Duration { return wallTime() / 1000 }); slow.holds() {
		t.Error("a clock that is slow is believed")
	}
}

// TestRepetitions asks for enough runs to fill a block, and no more.
func TestRepetitions(t *testing.T) {
	for _, c := range []struct {
		cost time.Duration
		want int
	}{{100 * time.Microsecond, 200}, {time.Millisecond, 20}, {30 * time.Millisecond, 1}, {time.Second, 1}} {
		var now time.Duration
		n, err := repetitions(func() time.Duration { return now }, 20*time.Millisecond, func() error {
			now += c.cost
			return nil
		})
		if err != nil || n != c.want {
			t.Errorf("%v: %d, %v, want %d", c.cost, n, err, c.want)
		}
	}
	broken := errors.New("broken")
	if _, err := repetitions(cpuTime, 0, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the error of a run is lost: %v", err)
	}
}

func TestSummary(t *testing.T) {
	base := []float64{10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110}
	own := slices.Repeat([]float64{10}, 11)
	got := summarize(base, own)
	want := summary{ratio: 6, p10: 2, p90: 10, base: time.Minute, own: 10 * time.Second}
	if math.Abs(got.ratio-want.ratio)+math.Abs(got.p10-want.p10)+math.Abs(got.p90-want.p90) > 1e-12 || got.base != want.base || got.own != want.own {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := quantile([]float64{4, 1}, 0.5); got != 2.5 {
		t.Errorf("the median of two values is %v", got)
	}
}

// TestClocks fails where a clock stands, or processor time runs while asleep.
func TestClocks(t *testing.T) {
	wall, cpu := wallTime(), cpuTime()
	time.Sleep(50 * time.Millisecond)
	slept, idle := wallTime()-wall, cpuTime()-cpu
	for cpuTime()-cpu <= idle {
	}
	if slept < 50*time.Millisecond || idle > slept {
		t.Errorf("asleep for %v by the wall, %v by the processor", slept, idle)
	}
}

// TestCases holds the table to what the rest relies on: names that tell cases
// and originals apart, one number of tokens where a plot names it.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	eachCase(selects(nil), func(g group, name string, _ float64) {
		if key := g.name + ": " + name; seen[key] {
			t.Errorf("%s is there twice", key)
		} else {
			seen[key] = true
		}
	})
	for _, g := range groups {
		for _, c := range g.contests {
			if g.plot && len(c.tokens) != 1 {
				t.Errorf("%s: %s is drawn with %v tokens", g.name, c.of.name, c.tokens)
			}
			if (c.of.build == nil) != (c.of.file != "") || (c.of.inputs == nil) != (c.of.set != "") {
				t.Errorf("%s: %s has no model or no inputs, or two", g.name, c.of.name)
			}
		}
	}
	for words, want := range map[string]int{"cnn": 2, "a quarter dropped": 2, "small cnn": 4, "nothing": 0} {
		list := strings.Fields(words)
		if strings.Contains(words, "dropped") {
			list = []string{words}
		}
		if got := count(selects(list)); got != want {
			t.Errorf("%q chooses %d cases, want %d", words, got, want)
		}
	}
}

// small is a group that takes no time, with a side that is wrong at will.
func smallGroup(wrong bool) []group {
	s := latheSide(1)
	if wrong {
		open := s.open
		s.open = func(ctx context.Context, j job) (runnable, error) {
			r, err := open(ctx, j)
			outputs := r.outputs
			r.outputs = func() (map[string]nd.Array, error) {
				out, err := outputs()
				for _, a := range out {
					a.Data.([]float32)[0] *= 1.01
				}
				return out, err
			}
			return r, err
		}
	}
	return []group{{name: "test", base: ortSide(), side: s, contests: []contest{
		{of: linear(32, 48), tokens: []int{1, 5}, contenders: []contender{{goal: 1e-9}, {block: 4, goal: 1e9}, {block: 16}}}}}}
}

// TestMeasure measures a small layer, and refuses to time wrong answers.
func TestMeasure(t *testing.T) {
	if _, err := ort.Library(); err != nil {
		t.Skip(err)
	}
	for _, wrong := range []bool{false, true} {
		var got []result
		b := bench{protocol: protocol{pairs: 2, block: time.Millisecond}, dir: t.TempDir()}
		if err := b.measure(context.Background(), smallGroup(wrong), selects(nil), func(r result) { got = append(got, r) }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 6 {
			t.Fatalf("%d results, want 6", len(got))
		}
		for i, r := range got {
			switch {
			case wrong && (!strings.Contains(r.Left, "off by") || r.Ratio != 0 || r.Pass):
				t.Errorf("wrong outputs: %+v", r)
			case !wrong && (r.Left != "" || r.Ratio <= 0 || r.P10 > r.Ratio || r.P90 < r.Ratio || r.BaseMS <= 0 || r.OwnMS <= 0):
				t.Errorf("%+v", r)
			case !wrong && r.Pass != (i%3 != 1):
				t.Errorf("%s: goal %v, ratio %v, pass: %v", r.Case, r.Goal, r.Ratio, r.Pass)
			case !wrong && (r.GFLOPS > 0) != (i%3 == 0):
				t.Errorf("%s: %v GFLOP/s", r.Case, r.GFLOPS)
			}
		}
	}
}

// TestSteps fails where rounding is taken for a wrong number, or the other way
// around.
func TestSteps(t *testing.T) {
	layer := passes.QuantizedLayer{Out: "y", ExponentsY: []int{-3, 1}}
	const n = 2000 // pairs of channels
	for _, c := range []struct {
		name string
		off  map[int]float32
		same bool
	}{
		{"nothing", nil, true},
		{"a step of either channel", map[int]float32{0: 0.125, 1: 2, 7: -2}, true},
		{"four steps in few", map[int]float32{2: 0.5, 3: -8}, true},
		{"five steps in one", map[int]float32{2: 0.625}, false},
		{"a step of the other channel", map[int]float32{2: 2}, false},
		{"two steps in one of 400", map[int]float32{0: 0.25, 100: 0.25, 200: 0.25, 300: 0.25, 400: 0.25, 500: 0.25, 600: 0.25, 700: 0.25, 800: 0.25}, false},
		{"no number", map[int]float32{5: float32(math.NaN())}, false},
	} {
		x, y := make([]float32, 2*n), make([]float32, 2*n)
		for i, d := range c.off {
			x[i] = d
		}
		err := sameSteps(map[string]nd.Array{"y": nd.Of(x, n, 2)}, map[string]nd.Array{"y": nd.Of(y, n, 2)}, []passes.QuantizedLayer{layer})
		if (err == nil) != c.same {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestDynamicBytes holds the baseline in 8 bits to the layer that it stands for:
// steps of a 127th of the largest weight and of a 255th of the inputs' range.
func TestDynamicBytes(t *testing.T) {
	if _, err := ort.Library(); err != nil {
		t.Skip(err)
	}
	ctx, o := context.Background(), centred(96, 64)
	var out [2][]float32
	for i, c := range []contender{{}, {bytes: true}} {
		b := bench{models: map[contender]*graph.Model{}}
		m, err := b.model(ctx, o, c)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ortSide().open(ctx, job{model: m, linear: o.linear, inputs: o.inputs(32), dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		arrays, err := s.outputs()
		if err != nil || len(arrays) != 1 {
			t.Fatalf("%d outputs, %v", len(arrays), err)
		}
		for _, a := range arrays {
			out[i] = a.Data.([]float32)
		}
	}
	var noise, signal float64
	for i, v := range out[0] {
		noise += math.Pow(float64(v-out[1][i]), 2)
		signal += math.Pow(float64(v), 2)
	}
	// Weights are uniform over 254 steps and inputs over 255, so the power of
	// rounding's noise, a twelfth of a step's square, is one part in so many squared.
	if want := 1/(254.0*254) + 1/(255.0*255); noise == 0 || noise/signal > 2*want {
		t.Errorf("noise of %.2g of the signal's power, want at most %.2g", noise/signal, 2*want)
	}
}

// TestLeftOut fails where a machine without the public models gets no table.
func TestLeftOut(t *testing.T) {
	var got []result
	b := bench{protocol: protocol{pairs: 1}}
	if err := b.measure(context.Background(), groups, selects([]string{"small"}), func(r result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	for _, r := range got {
		if !strings.Contains(r.Left, "LATHE_DATA") || r.Pass {
			t.Errorf("%+v", r)
		}
	}
	if table := markdown(machine{}, got); len(got) != 2 || !strings.Contains(table, "0 of 2 goals") || strings.Count(table, "LATHE_DATA") != 2 {
		t.Errorf("%d results in\n%s", len(got), table)
	}
}

var drawn = []result{
	{Group: "circulant", Case: "768 → 3072, T = 128, b = 8", Goal: 5.5, Ratio: 6, P10: 5.8, P90: 6.3, BaseMS: 3, OwnMS: 0.5, Pass: true, of: "768 → 3072", block: 8},
	{Group: "circulant", Case: "768 → 3072, T = 128, b = 16", Goal: 10.5, Ratio: 9, P10: 8, P90: 9.5, BaseMS: 3, OwnMS: 1.0 / 3, of: "768 → 3072", block: 16},
	{Group: "dense", Case: "768 → 768, T = 1", Goal: 1, Ratio: 1.25, P10: 1.2, P90: 1.3, BaseMS: 25, OwnMS: 20, GFLOPS: 59, Pass: true, of: "768 → 768"},
}

func TestMarkdown(t *testing.T) {
	table := markdown(machine{CPU: "A CPU", Peak: 118, Pairs: 7}, drawn)
	for _, want := range []string{
		"A CPU", "7 pairs", "2 of 3 goals",
		"| 768 → 3072, T = 128, b = 16 | ≥ 10.5 | 9.00 | 8.00 … 9.50 | 3.0 ms | 333 µs | no |",
		"| 768 → 768, T = 1 | ≥ 1.00 | 1.25 | 1.20 … 1.30 | 25 ms | 20 ms | 50 % | yes |",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
}

// TestRecords keeps what two machines came to side by side, and what one came to
// last.
func TestRecords(t *testing.T) {
	docs := t.TempDir()
	path := filepath.Join(docs, "performance.md")
	if err := os.WriteFile(path, []byte("before\n"+markBegin+"\n"+markEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	slow := slices.Clone(drawn)
	slow[0].Ratio, slow[0].P10, slow[0].P90, slow[0].Pass = 3, 2, 4, false
	for _, r := range []record{
		{machine{CPU: "One (R)", Pairs: 7}, "2026-01-01", slow},
		{machine{CPU: "Other, model 2", Pairs: 7}, "2026-01-02", slow},
		{machine{CPU: "One (R)", Pairs: 7}, "2026-01-03", drawn},
	} {
		if err := writeDocs(docs, r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n", "after\n", "- One (R), ", "2026-01-03", "2 of 3 goals are met: **bold**; missed: ✗. [All figures](speed/one-r.md)", "(speed/other-model-2.png)",
		"| 768 → 3072, T = 128, b = 8 | ≥ 5.50 | **6.00** (5.80 … 6.30) | 3.00 (2.00 … 4.00) ✗ |",
		"| 768 → 3072, T = 128, b = 32 | ≥ 18 | – | – |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	for _, name := range []string{"one-r", "other-model-2"} {
		for _, end := range []string{".json", ".md", ".png", ".svg"} {
			if _, err := os.Stat(filepath.Join(docs, "speed", name+end)); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPicture(t *testing.T) {
	const most = 150 << 10 // pictures lie in the repository
	raster, err := picture(drawn, machine{CPU: "A CPU"}, "png")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(raster)); err != nil || len(raster) > most {
		t.Errorf("PNG of %d bytes: %v", len(raster), err)
	}
	vector, err := picture(drawn, machine{CPU: "A CPU"}, "svg")
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(bytes.NewReader(vector))
	for err == nil {
		_, err = d.Token()
	}
	if err != io.EOF || len(vector) > most || !bytes.Contains(vector, []byte("768 → 3072, T = 128")) {
		t.Errorf("SVG of %d bytes: %v", len(vector), err)
	}
	if _, err := picture(drawn[2:], machine{}, "png"); err == nil {
		t.Error("a picture without a line")
	}
}
