package runtime

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
)

// publicData is the folder of public models and sets; see CONTRIBUTING.md.
func publicData(t testing.TB) string {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA does not name the public models and sets")
	}
	return dir
}

func publicSession(t testing.TB, file string, o Options) (*Program, *Session) {
	m, err := graph.Load(filepath.Join(publicData(t), "models", file))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, p.NewSession(SessionOptions{Threads: 2})
}

func readArray(t testing.TB, set, name string) *npz.Array {
	f, err := npz.Open(filepath.Join(publicData(t), "sets", set), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := f.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestPublicModels: the trained models have the quality that ONNX Runtime
// 1.30 measures with them, to what one sample makes.
func TestPublicModels(t *testing.T) {
	for _, c := range []struct {
		model, set, array, input string
		batch                    int
		want                     float64
	}{
		{"kwt1_mfcc_opset13.onnx", "kwt_eval.npz", "mfcc", "mfcc", 100, 0.971},
		{"kwt1_mfcc_opset17.onnx", "kwt_eval.npz", "mfcc", "mfcc", 250, 0.971},
		{"cnn_mnist_pytorch.onnx", "mnist_eval.npz", "images", "0", 1, 0.984},
	} {
		t.Run(c.model, func(t *testing.T) {
			_, s := publicSession(t, c.model, Options{})
			x := readArray(t, c.set, c.array)
			pixels, err := x.Float32s()
			if err != nil {
				t.Fatal(err)
			}
			labels, err := readArray(t, c.set, "labels").Int64s()
			if err != nil {
				t.Fatal(err)
			}
			right := 0
			shape := x.Shape
			per := len(pixels) / shape[0]
			for i := 0; i < shape[0]; i += c.batch {
				n := min(c.batch, shape[0]-i)
				feed := tensor.New(tensor.WithShape(append([]int{n}, shape[1:]...)...), tensor.WithBacking(pixels[i*per:(i+n)*per]))
				out, err := s.Run(context.Background(), map[string]tensor.Tensor{c.input: feed})
				if err != nil {
					t.Fatal(err)
				}
				for _, logits := range out {
					d := logits.Data().([]float32)
					classes := len(d) / n
					for k := range n {
						best := 0
						for j := range classes {
							if d[k*classes+j] > d[k*classes+best] {
								best = j
							}
						}
						if int64(best) == labels[i+k] {
							right++
						}
					}
				}
			}
			if got := float64(right) / float64(shape[0]); math.Abs(got-c.want) > 0.001 {
				t.Errorf("accuracy is %.4f, want %.4f", got, c.want)
			}
		})
	}
	t.Run("stories260K", func(t *testing.T) {
		_, s := publicSession(t, "stories260K_opset17.onnx", Options{})
		a := readArray(t, "stories_eval.npz", "input_ids")
		ids, err := a.Int64s()
		if err != nil {
			t.Fatal(err)
		}
		seq := a.Shape[1]
		sum, count := 0.0, 0
		for i := range a.Shape[0] {
			row := ids[i*seq : (i+1)*seq]
			out, err := s.Run(context.Background(), map[string]tensor.Tensor{"input_ids": i64([]int{1, seq}, row...)})
			if err != nil {
				t.Fatal(err)
			}
			d := out["logits"].Data().([]float32)
			vocab := len(d) / seq
			for p := range seq - 1 {
				l := d[p*vocab : (p+1)*vocab]
				m, z := columnMax(l, vocab, 1), 0.0
				for _, v := range l {
					z += math.Exp(float64(v) - m)
				}
				sum += m + math.Log(z) - float64(l[row[p+1]])
				count++
			}
		}
		if got := sum / float64(count); math.Abs(got-1.5148) > 0.001 {
			t.Errorf("nll is %.4f, want 1.5148", got)
		}
	})
}
