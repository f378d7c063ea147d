package train

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// demo is the trained model and a part of its data.
func demo(t *testing.T, samples int) (*graph.Model, *calib.Source) {
	t.Helper()
	file, _, _ := testmodels.Demo()
	m, err := graph.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := testmodels.WordArchive(testmodels.CalibSeed, samples)
	if err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("words", data, calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m, src
}

// dropped is the model without some modules.
func dropped(t *testing.T, m *graph.Model, ids ...string) *graph.Model {
	t.Helper()
	c := m.Clone()
	err := passes.Run(t.Context(), c, &passes.Journal{}, passes.DropModules(ids, passes.DropOptions{}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// weights are all trainable constants of a model.
func weights(t *testing.T, m *graph.Model) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	for _, name := range runtime.Trainable(m) {
		f, err := m.Graph.Value(name).ConstTensor().Float32s()
		if err != nil {
			t.Fatal(err)
		}
		out[name] = f
	}
	return out
}

func sameWeights(t *testing.T, what string, a, b *graph.Model) {
	t.Helper()
	x, y := weights(t, a), weights(t, b)
	for name, w := range x {
		if !slices.Equal(w, y[name]) {
			t.Errorf("%s: weight %q differs", what, name)
			return
		}
	}
}

// TestHeal: a few steps take back most of what drops cost, on samples that
// were not trained on; with hidden states, labels and mixtures too.
func TestHeal(t *testing.T) {
	teacher, src := demo(t, 256)
	student := dropped(t, teacher, "A1", "M1", "A3", "M4", "M5")
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"logits", Options{}},
		{"hidden states", Options{HiddenWeight: 1}},
		{"labels", Options{Labels: "labels"}},
		{"mixtures and labels", Options{Mix: 0.5, Labels: "labels"}},
		{"no average", Options{Average: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := student.Clone()
			o := c.o
			o.Teacher, o.Steps, o.Batch, o.LearningRate, o.HeldOut = teacher, 12, 32, 3e-4, 0.25
			r, err := Run(t.Context(), m, src, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := graph.Check(m); err != nil {
				t.Error(err)
			}
			if r.Best.HeldOut > 0.7*r.Curve[0].HeldOut || r.Steps != 12 || r.Samples != 192 || r.HeldOut != 64 {
				t.Errorf("held-out loss %v → %v after %d steps with %d and %d samples", r.Curve[0].HeldOut, r.Best.HeldOut, r.Steps, r.Samples, r.HeldOut)
			}
		})
	}
}

// TestHealCirculant trains block-circulant layers in their own parameters.
func TestHealCirculant(t *testing.T) {
	teacher, src := demo(t, 128)
	m := teacher.Clone()
	err := passes.Run(t.Context(), m, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	before := m.Parameters()
	r, err := Run(t.Context(), m, src, Options{Teacher: teacher, Steps: 15, Batch: 32, LearningRate: 2e-3})
	if err != nil {
		t.Fatal(err)
	}
	if r.Best.HeldOut > 0.8*r.Curve[0].HeldOut || m.Parameters() != before {
		t.Errorf("held-out loss %v → %v, parameters %d → %d", r.Curve[0].HeldOut, r.Best.HeldOut, before, m.Parameters())
	}
}

// TestRecompute: a healing that computes activations again gives the same bytes,
// block-circulant layers included, in less memory, and goes on from a checkpoint
// of one that does not.
func TestRecompute(t *testing.T) {
	teacher, src := demo(t, 64)
	student := teacher.Clone()
	err := passes.Run(t.Context(), student, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Teacher: teacher, Steps: 4, Batch: 16, Every: 2, HiddenWeight: 0.5, Threads: 1}
	whole, again := student.Clone(), student.Clone()
	want, err := Run(t.Context(), whole, src, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Recompute = true
	got, err := Run(t.Context(), again, src, o)
	if err != nil {
		t.Fatal(err)
	}
	sameWeights(t, "recomputed", whole, again)
	if !slices.Equal(got.Curve, want.Curve) || got.Bytes >= want.Bytes {
		t.Errorf("curve %v in %d bytes, want %v in less than %d", got.Curve, got.Bytes, want.Curve, want.Bytes)
	}
	// Interrupted, and resumed the other way.
	o.Checkpoint, o.Resume = filepath.Join(t.TempDir(), "state.npz"), true
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(Status) { cancel() }
	if _, err := Run(ctx, student.Clone(), src, o); err != nil {
		t.Fatal(err)
	}
	o.Recompute, o.Progress = false, nil
	m := student.Clone()
	if got, err = Run(t.Context(), m, src, o); err != nil || got.Resumed == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	sameWeights(t, "resumed", whole, m)
}

// TestTrain learns from labels alone, from random weights.
func TestTrain(t *testing.T) {
	m, src := demo(t, 128)
	r, err := Run(t.Context(), m, src, Options{Labels: "labels", Random: true, Steps: 20, Batch: 32, LearningRate: 2e-3})
	if err != nil {
		t.Fatal(err)
	}
	if last := r.Curve[len(r.Curve)-1]; last.Loss > 0.9*r.Curve[0].Loss {
		t.Errorf("loss %v → %v", r.Curve[0].Loss, last.Loss)
	}
}

// TestThreadsDoNotShow: same seed, same bytes, whatever the threads; another
// seed, other bytes.
func TestThreadsDoNotShow(t *testing.T) {
	teacher, src := demo(t, 96)
	student := dropped(t, teacher, "M1")
	heal := func(threads int, seed uint64) *graph.Model {
		m := student.Clone()
		_, err := Run(t.Context(), m, src, Options{Teacher: teacher, Steps: 4, Batch: 40, Every: 2, HeldOut: -1, Threads: threads, Seed: seed, Mix: 0.3})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	one := heal(1, 7)
	sameWeights(t, "3 threads", one, heal(3, 7))
	x, y := weights(t, one), weights(t, heal(1, 8))
	for name := range x {
		if slices.Equal(x[name], y[name]) && len(x[name]) > 1000 {
			t.Errorf("weight %q does not depend on the seed", name)
		}
	}
}

// TestResume: a training that is interrupted after every few steps, and once
// killed between two checkpoints, ends with the bytes and the curve of one
// that is not.
func TestResume(t *testing.T) {
	teacher, src := demo(t, 96)
	student := dropped(t, teacher, "M1")
	options := Options{Teacher: teacher, Steps: 9, Batch: 24, Every: 3, HeldOut: 0.2, Chunk: 12, LearningRate: 3e-4}
	whole := student.Clone()
	want, err := Run(t.Context(), whole, src, options)
	if err != nil {
		t.Fatal(err)
	}
	if want.Best.Step == 0 {
		t.Fatalf("nothing was learnt: %v", want.Curve)
	}
	file := filepath.Join(t.TempDir(), "state.npz")
	options.Checkpoint, options.Resume = file, true
	var got *Result
	m := student.Clone()
	runs := 0
	for got == nil || got.Interrupted {
		if runs++; runs > 12 {
			t.Fatal("it never ends")
		}
		ctx, cancel := context.WithCancel(t.Context())
		first := -1
		options.Progress = func(s Status) {
			if first < 0 {
				first = s.Step
			}
			if s.Step == first+1 && runs != 3 || runs == 3 && s.Step == first {
				cancel()
			}
		}
		m = student.Clone()
		kept, readErr := os.ReadFile(file)
		if got, err = Run(ctx, m, src, options); err != nil {
			t.Fatal(err)
		}
		cancel()
		if runs == 2 && readErr == nil { // as if it had been killed before it wrote
			if err := os.WriteFile(file, kept, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if runs < 4 {
		t.Errorf("%d runs", runs)
	}
	sameWeights(t, "resumed", whole, m)
	if !slices.Equal(got.Curve, want.Curve) || got.Best != want.Best {
		t.Errorf("curve is %v, want %v", got.Curve, want.Curve)
	}

	options.Progress, options.LearningRate = nil, 0.5
	if _, err := Run(t.Context(), student.Clone(), src, options); err == nil || !strings.Contains(err.Error(), "another training") {
		t.Errorf("other options: error is %v", err)
	}
	if err := os.WriteFile(file, []byte("no npz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), student.Clone(), src, options); err == nil || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("broken checkpoint: error is %v", err)
	}
}

// TestInterruptKeepsTheBest: an interrupt before the first step leaves the
// model as it was; a patience that runs out ends the training.
func TestInterruptKeepsTheBest(t *testing.T) {
	teacher, src := demo(t, 64)
	student := dropped(t, teacher, "M1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := student.Clone()
	if _, err := Run(ctx, m, src, Options{Teacher: teacher}); !errors.Is(err, context.Canceled) {
		t.Errorf("before the first step: error is %v", err)
	}
	sameWeights(t, "interrupted at once", student, m)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r, err := Run(ctx, m, src, Options{Teacher: teacher, Batch: 8, Every: 1, Progress: func(s Status) {
		if s.Step == 2 {
			cancel()
		}
	}})
	if err != nil || !r.Interrupted || r.Steps != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	// A rate at which nothing gets better.
	m = student.Clone()
	r, err = Run(t.Context(), m, src, Options{Teacher: teacher, Steps: 40, Batch: 8, Every: 1, Patience: 2, LearningRate: 1, Warmup: 1, Average: -1})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Early || r.Steps >= 40 || r.Best.HeldOut > r.Curve[0].HeldOut {
		t.Errorf("ended early: %v, after %d steps, best %v of %v", r.Early, r.Steps, r.Best, r.Curve)
	}
}

// TestRefusals: what cannot be trained says why.
func TestRefusals(t *testing.T) {
	teacher, src := demo(t, 16)
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "neither a teacher nor labels"},
		{Options{Labels: "nothing"}, "nothing"},
		{Options{Labels: "labels", Output: "no"}, `no output "no"`},
		{Options{Labels: "labels", Train: func(string) bool { return false }}, "nothing to train"},
		{Options{Labels: "labels", HiddenWeight: 1}, "need a teacher"},
		{Options{Labels: "labels", Mix: 1}, "need a teacher"},
		{Options{Labels: "labels", LearningRate: math.NaN()}, "not positive"},
		{Options{Labels: "labels", Steps: -1}, "negative"},
		{Options{Teacher: teacher, LearningRate: 1e30, Warmup: 1, Steps: 5, Decay: 1}, "lower the learning rate"},
	} {
		if _, err := Run(t.Context(), teacher.Clone(), src, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error is %v, want one with %q", c.o, err, c.want)
		}
	}
}

// TestNaN: a loss that is no number before any weight has changed is not blamed on
// the learning rate.
func TestNaN(t *testing.T) {
	teacher, src := demo(t, 16)
	broken := teacher.Clone()
	for _, v := range broken.Graph.Initializers() {
		if f, err := v.Const.Float32s(); err == nil && len(f) > 0 {
			f = slices.Clone(f)
			f[0] = float32(math.NaN())
			v.Const = graph.Float32Tensor(v.Const.Dims, f)
		}
	}
	_, err := Run(t.Context(), broken, src, Options{Teacher: teacher, Steps: 2})
	if err == nil || !strings.Contains(err.Error(), "look for NaN") {
		t.Errorf("error is %v", err)
	}
}

// TestAdamW compares with five steps of torch.optim.AdamW (1.13, float64)
// behind torch.nn.utils.clip_grad_norm_, the rate set before every step as
// rate does, decay 0.05 for the matrix and 0 for the vector.
func TestAdamW(t *testing.T) {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 2] x) => (float[n, 2] y)
<float[2, 2] w = {0.5, -1, 2, 0.25}, float[2] b = {0.1, -0.3}>
{
  p = MatMul (x, w)
  y = Add (p, b)
}`)
	if err != nil {
		t.Fatal(err)
	}
	model, err := runtime.CompileTraining(m, runtime.TrainingOptions{Parameters: []string{"w", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	tr := &trainer{o: Options{Steps: 5, Warmup: 2, LearningRate: 0.1, Clip: 1, Decay: 0.05, CirculantRate: 1, Threads: 2}, model: model, params: model.Parameters()}
	tr.value, tr.first, tr.second = make([]float32, 6), make([]float32, 6), make([]float32, 6)
	want := [][]float64{
		{0.44875000189480446, -0.9475000028422067, 1.9450000113688246, 0.19937500056844137, 0.14999999857889668, -0.3},
		{0.351419524012306, -0.8426337869773091, 1.8351463114094957, 0.13137230122953109, 0.25012871708761736, -0.37441367183564706},
		{0.25239634003682887, -0.7402051510127573, 1.7277551297942053, 0.12989172782830788, 0.3483441869458535, -0.4598407719598896},
		{0.17782104069073873, -0.66737754190507, 1.651211877359443, 0.15511536730568257, 0.4183867764175374, -0.5281555957203915},
		{0.15250001292192114, -0.6440102218868922, 1.6265778753907638, 0.1686939952264379, 0.44089484864324535, -0.5522434485896789},
	}
	for k, w := range want {
		f := float32(k)
		copy(tr.params[0].Gradient, []float32{0.3 * (f + 1), -0.2, 0.05, 1 - f})
		copy(tr.params[1].Gradient, []float32{-0.4, 0.1 * f})
		if err := tr.update(); err != nil {
			t.Fatal(err)
		}
		tr.Done++
		got := append(slices.Clone(tr.params[0].Value), tr.params[1].Value...)
		for i := range w {
			if math.Abs(float64(got[i])-w[i]) > 2e-6 { // float32 values and moments
				t.Errorf("step %d: weight %d is %v, PyTorch's %v", k, i, got[i], w[i])
			}
		}
	}
}

// TestLossGradients compares the losses' gradients with differences.
func TestLossGradients(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	draw := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * 2)
		}
		return x
	}
	const n = 7
	y, z, g := draw(n), draw(n), make([]float32, n)
	k, err := simd.For(simd.Auto)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trainer{o: Options{Temperature: 3}, simd: k}
	p, q := make([]float32, n), make([]float32, n)
	for _, c := range []struct {
		name string
		loss func(z, g []float32) float64
	}{
		{"divergence", func(z, g []float32) float64 { return 0.3 * tr.divergence(y, z, p, q, g, 0.3) }},
		{"distance", func(z, g []float32) float64 {
			d, err := distance(runtime.FromSlice([]int{n}, z), y, g, 0.7)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}},
	} {
		clear(g)
		c.loss(z, g)
		for i := range z {
			const h = 1.0 / 256
			v := slices.Clone(z)
			v[i] += h
			above := c.loss(v, nil)
			v[i] -= 2 * h
			below := c.loss(v, nil)
			if want := (above - below) / (2 * h); math.Abs(float64(g[i])-want) > 1e-4 {
				t.Errorf("%s: gradient %d is %v, differences give %v", c.name, i, g[i], want)
			}
		}
		if c.name == "divergence" && c.loss(y, nil) > 1e-6 {
			t.Errorf("divergence of equal logits is %v", c.loss(y, nil))
		}
	}
	// Against the definition, with a class that neither gives and one that the
	// teacher does not.
	inf := float32(math.Inf(-1))
	y[2], z[2], y[5] = inf, inf, inf
	want, sums := 0.0, [2]float64{}
	for i := range y {
		sums[0] += math.Exp(float64(y[i]) / 3)
		sums[1] += math.Exp(float64(z[i]) / 3)
	}
	for i := range y {
		if e := math.Exp(float64(y[i])/3) / sums[0]; e > 0 {
			want += 9 * e * math.Log(e/(math.Exp(float64(z[i])/3)/sums[1]))
		}
	}
	if got := tr.divergence(y, z, p, q, nil, 1); math.Abs(got-want) > 1e-5 {
		t.Errorf("divergence %v, want %v", got, want)
	}
}

// TestNoWorse: a difference counts where it is larger than its own spread.
func TestNoWorse(t *testing.T) {
	low := []float64{1, 2, 3, 4}
	for _, c := range []struct {
		parts []float64
		want  bool
	}{
		{[]float64{1, 2, 3, 4}, true},
		{[]float64{0, 2, 3, 4}, true},
		{[]float64{1.1, 2.1, 3.1, 4.1}, false}, // a little, everywhere
		{[]float64{2, 1.1, 3, 4}, true},        // here and there
		{[]float64{1.5, 2.6, 3.4, 4.5}, false},
	} {
		if got := noWorse(c.parts, low); got != c.want {
			t.Errorf("%v beside %v: %v", c.parts, low, got)
		}
	}
	if noWorse([]float64{2}, []float64{1}) {
		t.Error("one part has no spread")
	}
}

// TestSamples: a split covers everything once, and so does every pass over
// the part to train on.
func TestSamples(t *testing.T) {
	m, src := demo(t, 50)
	ports, err := runtime.Ports(m)
	if err != nil {
		t.Fatal(err)
	}
	feed, err := src.Bind(ports)
	if err != nil {
		t.Fatal(err)
	}
	train, held, err := splitSamples(feed, 0, 0.2, 1)
	if err != nil || len(held) != 10 || len(train) != 40 {
		t.Fatalf("%d and %d samples, %v", len(train), len(held), err)
	}
	all := append(slices.Clone(train), held...)
	slices.Sort(all)
	for i, v := range all {
		if v != i {
			t.Fatalf("samples are %v", all)
		}
	}
	s := &samples{feed: feed, numbers: train}
	var seen []int
	for step := range 5 {
		seen = append(seen, s.batch(1, step, 16)...)
	}
	for pass := range 2 {
		one := slices.Clone(seen[pass*40 : (pass+1)*40])
		slices.Sort(one)
		if !slices.Equal(one, train) {
			t.Errorf("pass %d is %v", pass, one)
		}
	}
	if slices.Equal(seen[:40], seen[40:]) {
		t.Error("both passes have one order")
	}
}

// TestShift: whole pixels, the same for all channels of a sample, another way for
// each; what is moved in repeats the edge. Sounds move in time alone.
func TestShift(t *testing.T) {
	const n, h, w = 8, 3, 4
	pixel := func(ch, r, c int) float32 { return float32(100*ch + 10*r + c) }
	for _, c := range []struct {
		name     string
		shape    []int
		channels int
		sideways int // places that columns move at most
	}{
		{"pictures", []int{n, 2, h, w}, 2, 2},
		{"sounds", []int{n, h, w}, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := make([]float32, n*c.channels*h*w)
			for i := range data {
				data[i] = pixel(i/(h*w)%c.channels, i/w%h, i%w)
			}
			x := tensor.New(tensor.WithShape(c.shape...), tensor.WithBacking(data))
			flags := tensor.New(tensor.WithShape(n, 2), tensor.WithBacking(make([]int64, 2*n)))
			if err := shift(rand.New(rand.NewPCG(1, 1)), map[string]tensor.Tensor{"x": x, "flags": flags}, n, 2); err != nil {
				t.Fatal(err)
			}
			seen := map[[2]int]bool{}
			for i := range n {
				found := false
				sample := data[i*c.channels*h*w : (i+1)*c.channels*h*w]
				for dy := -2; dy <= 2 && !found; dy++ {
					for dx := -c.sideways; dx <= c.sideways && !found; dx++ {
						found = true
						for k, v := range sample {
							row, col := min(max(k/w%h-dy, 0), h-1), min(max(k%w-dx, 0), w-1)
							found = found && v == pixel(k/(h*w), row, col)
						}
						if found {
							seen[[2]int{dy, dx}] = true
						}
					}
				}
				if !found {
					t.Errorf("sample %d is %v, no shift of what it was", i, sample)
				}
			}
			if len(seen) < 3 {
				t.Errorf("all samples are shifted by %v", seen)
			}
		})
	}
	flags := tensor.New(tensor.WithShape(n, 2), tensor.WithBacking(make([]int64, 2*n)))
	if err := shift(rand.New(rand.NewPCG(1, 1)), map[string]tensor.Tensor{"flags": flags}, n, 2); err == nil {
		t.Error("shifts what are no pictures")
	}
}

// TestMix: shares of a neighbour, and only where it says so.
func TestMix(t *testing.T) {
	x := tensor.New(tensor.WithShape(4, 2), tensor.WithBacking([]float32{0, 1, 10, 11, 20, 21, 30, 31}))
	mixed, err := mix(rand.New(rand.NewPCG(1, 1)), map[string]tensor.Tensor{"x": x}, nil, 4, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	data := x.Data().([]float32)
	for i, yes := range mixed {
		was, other := float32(10*i), float32((i+1)%4*10)
		share := (data[2*i] - was) / (other - was)
		if yes && (share <= 0 || share > 0.5) || !yes && share != 0 {
			t.Errorf("sample %d, mixed %v: share %v", i, yes, share)
		}
	}
	if !slices.Contains(mixed, true) || !slices.Contains(mixed, false) {
		t.Errorf("mixed %v", mixed)
	}
	// A sample that is alone has a neighbour in the next chunk, which stays as it is.
	alone := map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(1, 2), tensor.WithBacking([]float32{0, 10}))}
	next := map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(1, 2), tensor.WithBacking([]float32{100, 110}))}
	if mixed, err = mix(rand.New(rand.NewPCG(1, 1)), alone, next, 1, 1); err != nil || !mixed[0] {
		t.Fatal(mixed, err)
	}
	if v := alone["x"].Data().([]float32); !(v[0] > 0 && v[0] <= 50) || math.Abs(float64(v[1]-v[0]-10)) > 1e-4 {
		t.Errorf("alone: %v", v)
	}
	if v := next["x"].Data().([]float32); v[0] != 100 || v[1] != 110 {
		t.Errorf("the neighbour became %v", v)
	}
	if mixed, err = mix(rand.New(rand.NewPCG(1, 1)), alone, nil, 1, 1); err != nil || mixed[0] {
		t.Errorf("a sample without a neighbour is mixed: %v, %v", mixed, err)
	}
	ids := tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]int64{1, 2, 3, 4}))
	if _, err := mix(rand.New(rand.NewPCG(1, 1)), map[string]tensor.Tensor{"ids": ids}, nil, 2, 0.5); err == nil {
		t.Error("mixes tokens")
	}
}
