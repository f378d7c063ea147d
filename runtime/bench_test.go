package runtime

import (
	"context"
	"fmt"
	"testing"

	"gorgonia.org/tensor"
)

// BenchmarkPublicModels times one run of the public models, and reports the
// share of the kinds of nodes that take most.
func BenchmarkPublicModels(b *testing.B) {
	for _, c := range []struct {
		model string
		feeds map[string]tensor.Tensor
	}{
		{"kwt1_mfcc_opset13.onnx", map[string]tensor.Tensor{"mfcc": f32([]int{1, 98, 40}, floats(1, 98*40)...)}},
		{"kwt1_mfcc_opset13.onnx", map[string]tensor.Tensor{"mfcc": f32([]int{32, 98, 40}, floats(1, 32*98*40)...)}},
		{"kwt1_mfcc_opset17.onnx", map[string]tensor.Tensor{"mfcc": f32([]int{32, 98, 40}, floats(1, 32*98*40)...)}},
		{"stories260K_opset17.onnx", map[string]tensor.Tensor{"input_ids": i64([]int{1, 256}, make([]int64, 256)...)}},
		{"cnn_mnist_pytorch.onnx", map[string]tensor.Tensor{"0": f32([]int{1, 1, 28, 28}, floats(1, 784)...)}},
	} {
		n := 0
		for _, f := range c.feeds {
			n = f.Shape()[0]
		}
		b.Run(fmt.Sprintf("%s/%d", c.model, n), func(b *testing.B) {
			p, _ := publicSession(b, c.model, Options{})
			s := p.NewSession(SessionOptions{Threads: 1, Profile: true})
			run := func() {
				if _, err := s.Run(context.Background(), c.feeds); err != nil {
					b.Fatal(err)
				}
			}
			run()
			clear(s.profile)
			for b.Loop() {
				run()
			}
			for _, k := range s.Profile()[:3] {
				b.ReportMetric(float64(k.Total.Microseconds())/float64(b.N), k.Kind+"-µs")
			}
		})
	}
}
