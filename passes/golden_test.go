package passes_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

var update = flag.Bool("update", false, "write what the passes do now into testdata")

var ctx = context.Background()

// A golden is a file of testdata: what is done, the model before, and the
// model after with the journal, or the error. The head is lines of "key:
// value":
//
//	# what the case shows
//	pass: drop-modules
//	ids: A0 M1
//	norm: kept           (drop-modules)
//	mean: 0.5 -0.5       the mean update of every module, over the norm too
//	block: 2             (rewrite-circulant, by projection)
//	only, skip: regexp   (rewrite-circulant)
//	include: tied head   (rewrite-circulant)
//	only, skip: regexp   (quantize-int16, with ranges from the inputs that are drawn)
//	budget: 0.2          of a lossy pass, see compare
//	body: 1e-4           how far bodies may be from kernels, rounding if it is not given
//
// A case of a pass that must not fire has an "after" that is the "before" and
// no journal but what was left alone.
type golden struct {
	path  string
	head  map[string]string
	parts map[string]string
}

var parts = []string{"before", "after", "journal", "error"}

func readGolden(t *testing.T, path string) *golden {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := &golden{path: path, head: map[string]string{}, parts: map[string]string{}}
	part := ""
	for _, line := range strings.SplitAfter(string(b), "\n") {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(name, " --") {
			part = strings.TrimSuffix(name, " --")
			if !slices.Contains(parts, part) {
				t.Fatalf("%s: no part is called %q", path, part)
			}
			continue
		}
		if part != "" {
			g.parts[part] += line
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if key == "" || strings.HasPrefix(key, "#") {
			g.parts[""] += line
			continue
		}
		g.parts[""] += line
		g.head[key] = strings.TrimSpace(value)
	}
	return g
}

func (g *golden) write(t *testing.T) {
	t.Helper()
	out := g.parts[""]
	for _, name := range parts {
		if text, ok := g.parts[name]; ok {
			out += "-- " + name + " --\n" + text
		}
	}
	if err := os.WriteFile(g.path, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// list are the passes of a golden.
func (g *golden) list(t *testing.T, before *graph.Model) []passes.Pass {
	t.Helper()
	number := func(text string) float64 {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("%s: %v", g.path, err)
		}
		return v
	}
	pattern := func(key string) *regexp.Regexp {
		if g.head[key] == "" {
			return nil
		}
		return regexp.MustCompile(g.head[key])
	}
	var out []passes.Pass
	for _, name := range strings.Fields(g.head["pass"]) {
		switch name {
		case "eliminate-dead-code":
			out = append(out, passes.EliminateDeadCode())
		case "fold-constants":
			out = append(out, passes.FoldConstants())
		case "share-equal":
			out = append(out, passes.ShareEqual())
		case "short-names":
			out = append(out, passes.ShortNames())
		case "drop-modules":
			o := passes.DropOptions{Norm: passes.Norm(g.head["norm"])}
			if text := g.head["mean"]; text != "" {
				o.Recover = passes.RecoverMean
				var mean []float64
				for _, x := range strings.Fields(text) {
					mean = append(mean, number(x))
				}
				o.Means = func(string) (branch, unit []float64, ok bool) { return mean, mean, true }
			}
			out = append(out, passes.DropModules(strings.Fields(g.head["ids"]), o))
		case "rewrite-circulant":
			out = append(out, passes.RewriteCirculant(passes.CirculantOptions{Block: int(number(g.head["block"])), Fit: passes.FitFrobenius,
				Only: pattern("only"), Skip: pattern("skip"),
				IncludeTied: strings.Contains(g.head["include"], "tied"), IncludeHead: strings.Contains(g.head["include"], "head")}))
		case "quantize-int16":
			var arrays []*npz.Array
			for name, x := range inputs(t, before) {
				arrays = append(arrays, npz.Float32Array(name, x.Shape(), x.Data().([]float32)))
			}
			out = append(out, passes.QuantizeInt16(passes.QuantizeOptions{Feed: bind(t, before, source(t, arrays...)), Only: pattern("only"), Skip: pattern("skip")}))
		default:
			t.Fatalf("%s: no pass is called %q", g.path, name)
		}
	}
	return out
}

// text prints a model. The body of the block-circulant operator, which
// TestBody runs, is cut: its digest would change with every word of it.
func text(m *graph.Model) string {
	c := m.Clone()
	note := ""
	for _, f := range slices.Clone(c.Functions) {
		if f.Domain == graph.LatheDomain {
			c.RemoveFunction(f)
			note += fmt.Sprintf("# and the function lathe.%s of opset %d\n", f.Name, f.Opsets[0].Version)
		}
	}
	return c.Text() + note
}

func journal(j *passes.Journal) string {
	var b strings.Builder
	for _, e := range j.Entries {
		fmt.Fprintf(&b, "%s: %s: %s: %s\n", e.Pass, e.Node, e.What, e.Why)
	}
	return b.String()
}

// TestGoldens runs every file of testdata, and the models before and after.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	fires, keeps := map[string]bool{}, map[string]bool{}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			g := readGolden(t, path)
			before, err := graph.Parse(g.parts["before"])
			if err != nil {
				t.Fatal(err)
			}
			list := g.list(t, before)
			m, j := before.Clone(), &passes.Journal{}
			got := map[string]string{"": g.parts[""], "before": g.parts["before"]}
			if err := passes.Run(ctx, m, j, list...); err != nil {
				got["error"] = err.Error() + "\n"
			} else {
				got["after"] = text(m)
				if len(j.Entries) > 0 {
					got["journal"] = journal(j)
				}
			}
			if *update {
				g.parts = got
				g.write(t)
			}
			for _, name := range parts {
				if got[name] != g.parts[name] {
					t.Errorf("%s is\n%s\nwant\n%s\nIf the new one is right: go test ./passes -run TestGoldens -update", name, got[name], g.parts[name])
				}
			}
			changed := got["after"] != text(before)
			if got["error"] == "" {
				compare(t, g, list, before, m)
			} else {
				changed = false
			}
			for _, p := range list {
				fires[p.Name] = fires[p.Name] || changed
				keeps[p.Name] = keeps[p.Name] || !changed
			}
		})
	}
	for _, name := range []string{"eliminate-dead-code", "fold-constants", "drop-modules", "rewrite-circulant", "quantize-int16", "share-equal", "short-names"} {
		if !fires[name] || !keeps[name] {
			t.Errorf("%s: a golden where it fires: %v; where it must not: %v; want both", name, fires[name], keeps[name])
		}
	}
}

// rounding is what the same sums in another order may differ by, relative to
// the largest element: the models of testdata have sums of some ten terms,
// ten deep.
const rounding = 100 * 0x1p-24

// compare runs both models and holds the pass to its contract: exact passes
// give the same bits, rounding ones differ by rounding, and lossy ones by the
// golden's budget at most (and by more than rounding, where the budget is
// more), as a fraction of the largest element of an output.
func compare(t *testing.T, g *golden, list []passes.Pass, before, after *graph.Model) {
	t.Helper()
	contract := passes.Exact
	for _, p := range list {
		contract = max(contract, p.Contract)
	}
	tolerance := map[passes.Contract]float64{passes.Exact: 0, passes.Rounding: rounding}[contract]
	if contract == passes.Lossy {
		v, err := strconv.ParseFloat(g.head["budget"], 64)
		if err != nil {
			t.Fatalf("a lossy pass needs a budget: %v", err)
		}
		tolerance = v
	}
	feeds := inputs(t, before)
	want := run(t, before, feeds, runtime.Options{})
	got := run(t, after, feeds, runtime.Options{})
	worst := 0.
	for name, a := range got {
		b := want[name]
		if b == nil {
			t.Errorf("output %q was not there before", name)
			continue
		}
		worst = max(worst, difference(t, name, a, b))
	}
	if !(worst <= tolerance) {
		t.Errorf("outputs differ by %g of the largest element, the budget is %g (%s)", worst, tolerance, contract)
	}
	if contract == passes.Lossy && tolerance > rounding && !(worst > rounding && worst > tolerance/10) {
		t.Errorf("outputs differ by %g of the largest element; a budget of %g says nothing", worst, tolerance)
	}
	// What the body of a custom operator says has to be what the kernel does.
	body := rounding
	if text := g.head["body"]; text != "" {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("%s: body: %v", g.path, err)
		}
		body = v
	}
	for name, b := range run(t, after, feeds, runtime.Options{Bodies: true}) {
		if d := difference(t, name, b, got[name]); !(d <= body) {
			t.Errorf("output %q: kernel and body differ by %g of the largest element", name, d)
		}
	}
}

// inputs draws what a model is fed: dims without a number are 3, the first
// one 2; integers are below 4; floats normal.
func inputs(t testing.TB, m *graph.Model) map[string]tensor.Tensor {
	t.Helper()
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(11, 12))
	sizes := map[string]int{}
	out := map[string]tensor.Tensor{}
	for _, p := range prog.Inputs() {
		var shape []int
		n := 1
		for k, d := range p.Shape.Dims {
			size := int(d.N)
			if !d.IsKnown() {
				size = sizes[d.Sym]
				if size == 0 {
					size = 3
					if k == 0 {
						size = 2
					}
				}
				sizes[d.Sym] = size
			}
			shape = append(shape, size)
			n *= size
		}
		var x *runtime.Tensor
		switch p.DType {
		case graph.Float32:
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(r.NormFloat64())
			}
			x = runtime.FromSlice(shape, v)
		case graph.Int64:
			v := make([]int64, n)
			for i := range v {
				v[i] = int64(r.IntN(4))
			}
			x = runtime.FromSlice(shape, v)
		case graph.Bool:
			x = runtime.FromSlice(shape, make([]bool, n))
		default:
			t.Fatalf("input %v: write how to draw its type", p)
		}
		if out[p.Name], err = x.Dense(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// run runs a model on those of the feeds that it takes.
func run(t testing.TB, m *graph.Model, feeds map[string]tensor.Tensor, o runtime.Options) map[string]tensor.Tensor {
	t.Helper()
	prog, err := runtime.Compile(m, o)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Tensor{}
	for _, p := range prog.Inputs() {
		in[p.Name] = feeds[p.Name]
	}
	out, err := prog.NewSession(runtime.SessionOptions{Threads: 1}).Run(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// difference is max |a − b| / max |b|, infinite where the shapes differ.
func difference(t testing.TB, name string, a, b tensor.Tensor) float64 {
	t.Helper()
	if !slices.Equal([]int(a.Shape()), []int(b.Shape())) || a.Dtype() != b.Dtype() {
		t.Errorf("output %q is %v%v, was %v%v", name, a.Dtype(), a.Shape(), b.Dtype(), b.Shape())
		return math.Inf(1)
	}
	x, err := runtime.FromDense(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := runtime.FromDense(b)
	if err != nil {
		t.Fatal(err)
	}
	if x.DType != graph.Float32 {
		if !slices.Equal(x.Bytes(), y.Bytes()) {
			return math.Inf(1)
		}
		return 0
	}
	worst, largest := 0., 0.
	for i, v := range y.F32() {
		largest = math.Max(largest, math.Abs(float64(v)))
		worst = math.Max(worst, math.Abs(float64(x.F32()[i])-float64(v)))
	}
	if largest > 0 {
		worst /= largest
	}
	return worst
}
