package runtime

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// crossEntropy sets g to the gradient of the mean cross-entropy of logits y
// [n, classes] and returns it.
func crossEntropy(y *Tensor, labels []int64, g *Tensor) float64 {
	n, classes := len(labels), y.Len()/len(labels)
	loss := 0.0
	for i, label := range labels {
		row := y.F32()[i*classes : (i+1)*classes]
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		for j, v := range row {
			g.F32()[i*classes+j] = float32(math.Exp(float64(v)) / sum / float64(n))
		}
		g.F32()[i*classes+int(label)] -= 1 / float32(n)
		loss += (math.Log(sum) - float64(row[label])) / float64(n)
	}
	return loss
}

// TestGradientsOfPyTorch compares losses and all gradients with those that
// PyTorch computed in float64; see testdata/gradients/make.py.
func TestGradientsOfPyTorch(t *testing.T) {
	for _, name := range []string{"transformer", "cnn", "circulant"} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata/gradients", name+".npz"))
			if err != nil {
				t.Fatal(err)
			}
			f, err := npz.FromBytes(name, data, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			read := func(name string) *graph.Tensor {
				a, err := f.Read(name)
				if err != nil {
					t.Fatal(err)
				}
				return tensorOf(t, a)
			}
			var m *graph.Model
			if name == "circulant" {
				m = circulantModel(t, read)
			} else if m, err = graph.Load(filepath.Join("testdata/gradients", name+".onnx")); err != nil {
				t.Fatal(err)
			}
			tr, err := CompileTraining(m, TrainingOptions{Parameters: Trainable(m), Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			x, err := FromGraphTensor(read("x"))
			if err != nil {
				t.Fatal(err)
			}
			labels, err := read("labels").Int64s()
			if err != nil {
				t.Fatal(err)
			}
			loss := 0.0
			err = tr.Gradients(t.Context(), 1, func(int) (map[string]tensor.Tensor, error) {
				d, err := x.Dense()
				return map[string]tensor.Tensor{"x": d}, err
			}, func(_ int, y, g []*Tensor) error {
				loss = crossEntropy(y[0], labels, g[0])
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want, err := FromGraphTensor(read("loss"))
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(loss-want.F64()[0]) > 1e-6 {
				t.Errorf("loss is %v, PyTorch's %v", loss, want.F64()[0])
			}
			params := tr.Parameters()
			found := 0
			for _, n := range f.Names() {
				const prefix = "grad/"
				if len(n) <= len(prefix) || n[:len(prefix)] != prefix {
					continue
				}
				i := slices.IndexFunc(params, func(p Parameter) bool { return p.Name == n[len(prefix):] })
				if i < 0 {
					t.Errorf("%s is no parameter of ours", n)
					continue
				}
				found++
				want, err := FromGraphTensor(read(n))
				if err != nil {
					t.Fatal(err)
				}
				for j, w := range want.F64() {
					// The models are a dozen products deep; gradients here are at
					// most of the order of 1.
					if d := math.Abs(float64(params[i].Gradient[j]) - w); !(d < 2e-6) {
						t.Errorf("%s[%d] is %v, PyTorch's %v", n, j, params[i].Gradient[j], w)
					}
				}
			}
			if found != len(params) {
				t.Errorf("%d of %d parameters are checked", found, len(params))
			}
		})
	}
}

func circulantModel(t *testing.T, read func(string) *graph.Tensor) *graph.Model {
	t.Helper()
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17, "lathe" : 1]>
g (float[n, 14] x, float[4, 2, 8] w1, float[30] b1, float[2, 8, 4] w2, float[7] b2) => (float[n, 7] y)
{
  h = lathe.BlockCirculantMatMul <out_features = 30> (x, w1, b1)
  t = Tanh (h)
  y = lathe.BlockCirculantMatMul <out_features = 7> (t, w2, b2)
}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"w1", "b1", "w2", "b2"} {
		g := read(name)
		f, err := g.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		toParameter(m, name, g.Dims, f)
	}
	return m
}

// tensorOf is an array as a tensor.
func tensorOf(t testing.TB, a *npz.Array) *graph.Tensor {
	t.Helper()
	dims := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		dims[i] = int64(d)
	}
	g, err := graph.NewTensor(a.DType, dims, a.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestEveryFamilyTrains: a step along the gradient changes the loss by what
// the gradient says.
func TestEveryFamilyTrains(t *testing.T) {
	for _, c := range testmodels.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			m := c.Model()
			if _, err := Compile(m, Options{}); err != nil {
				t.Skip(err) // an operator that the runtime does not have
			}
			if c.Name == "gpt2-17-merged-past" {
				t.Skip("its inputs are for the branch that goes on from a cache, which is not trained")
			}
			tr, err := CompileTraining(m, TrainingOptions{Parameters: Trainable(m), Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			feeds := func(int) (map[string]tensor.Tensor, error) {
				in := map[string]tensor.Tensor{}
				for _, a := range c.Inputs {
					x, err := FromGraphTensor(tensorOf(t, a))
					if err != nil {
						return nil, err
					}
					if in[a.Name], err = x.Dense(); err != nil {
						return nil, err
					}
				}
				return in, nil
			}
			// ½Σ(y − c)² of float outputs, c what they are at first plus a wave,
			// in float64.
			var targets [][]float32
			loss := func(y []*Tensor, g []*Tensor) float64 {
				sum := 0.0
				for k, v := range y {
					if v.DType != graph.Float32 {
						targets = append(targets, nil)
						continue
					}
					if len(targets) <= k {
						c := slices.Clone(v.F32())
						for j := range c {
							c[j] += float32(math.Sin(float64(3 * j)))
						}
						targets = append(targets, c)
					}
					for j, o := range v.F32() {
						d := float64(o) - float64(targets[k][j])
						sum += d * d / 2
						if g != nil && g[k] != nil {
							g[k].F32()[j] = float32(d)
						}
					}
				}
				return sum
			}
			if err := tr.Gradients(t.Context(), 1, feeds, func(_ int, y, g []*Tensor) error { loss(y, g); return nil }); err != nil {
				t.Fatal(err)
			}
			norm := 0.0
			for _, p := range tr.Parameters() {
				for _, v := range p.Gradient {
					norm += float64(v) * float64(v)
				}
			}
			norm = math.Sqrt(norm)
			if !(norm > 0) || math.IsInf(norm, 0) {
				t.Fatalf("gradient of norm %v", norm)
			}
			at := func(step float64) float64 {
				for _, p := range tr.Parameters() {
					for j := range p.Value {
						p.Value[j] += float32(step * float64(p.Gradient[j]) / norm)
					}
				}
				tr.Update()
				l := 0.0
				err := tr.Values(t.Context(), 1, feeds, func(_ int, y []*Tensor) error { l = loss(y, nil); return nil })
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			const h = 1e-3
			above := at(h)
			below := at(-2 * h)
			got := (above - below) / (2 * h)
			// The difference has the rounding of the outputs and the third
			// derivative in it.
			if math.Abs(got-norm) > 0.01*norm+0.01 {
				t.Errorf("the loss rises by %v a unit along the gradient, whose norm is %v", got, norm)
			}
		})
	}
}

// TestStore writes trained values back, and leaves the rest.
func TestStore(t *testing.T) {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y)
<float[2] a = {1, 2}, float[2] c = {3, 4}>
{
  b = Constant <value = float[2] {5, 6}> ()
  p = Mul (x, a)
  q = Mul (p, b)
  y = Add (q, c)
}`)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := CompileTraining(m, TrainingOptions{Parameters: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range tr.Parameters() {
		p.Value[0] = -p.Value[0]
	}
	tr.Update()
	if err := tr.Store(m, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]float32{"a": {-1, 2}, "b": {-5, 6}, "c": {3, 4}} {
		if got, err := m.Graph.Value(name).ConstTensor().Float32s(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v (%v), want %v", name, got, err, want)
		}
	}
	if err := graph.Check(m); err != nil {
		t.Error(err)
	}
}

// BenchmarkTrainingStep tells what the gradients of a batch and the packing of
// the changed weights cost, in plain runs of the batch: healing is to take at
// most six.
func BenchmarkTrainingStep(b *testing.B) {
	for _, c := range testmodels.Cases() {
		if !slices.Contains([]string{"demo", "lenet-13", "bert-17", "llama-13"}, c.Name) {
			continue
		}
		b.Run(c.Name, func(b *testing.B) {
			m := c.Model()
			prog, err := Compile(m, Options{})
			if err != nil {
				b.Fatal(err)
			}
			t, err := CompileTraining(m, TrainingOptions{Parameters: Trainable(m), Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			s := prog.NewSession(SessionOptions{Threads: 1})
			feeds := map[string]tensor.Tensor{}
			for _, a := range c.Inputs {
				x, err := FromGraphTensor(tensorOf(b, a))
				if err != nil {
					b.Fatal(err)
				}
				if feeds[a.Name], err = x.Dense(); err != nil {
					b.Fatal(err)
				}
			}
			forward, step := time.Duration(0), time.Duration(0)
			for b.Loop() {
				start := time.Now()
				for range 3 {
					if _, err := s.Run(b.Context(), feeds); err != nil {
						b.Fatal(err)
					}
				}
				middle := time.Now()
				err := t.Gradients(b.Context(), 1, func(int) (map[string]tensor.Tensor, error) { return feeds, nil },
					func(_ int, y, g []*Tensor) error {
						copy(g[0].F32(), y[0].F32())
						return nil
					})
				if err != nil {
					b.Fatal(err)
				}
				t.Update()
				forward, step = forward+middle.Sub(start)/3, step+time.Since(middle)
			}
			b.ReportMetric(float64(step)/float64(forward), "runs/step")
		})
	}
}
