package fixed_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// TestLimits: what could overflow an accumulator is an error that says so.
func TestLimits(t *testing.T) {
	good := func() fixed.Spec {
		return fixed.Spec{P: 1, Q: 1, B: 4, M: 4, W: make([]int16, 4), Bias: make([]int64, 4), Shift: make([]int32, 1)}
	}
	for want, change := range map[string]func(s *fixed.Spec){
		"block size":  func(s *fixed.Spec) { s.B = 3 },
		"at least":    func(s *fixed.Spec) { s.W[1] = fixed.Low },
		"2^60":        func(s *fixed.Spec) { s.Bias[2] = 1<<60 + 1 },
		"0 to 62":     func(s *fixed.Spec) { s.Shift[0] = 63 },
		"shifts R":    func(s *fixed.Spec) { s.R[0] = 32 },
		"has to be 2": func(s *fixed.Spec) { s.Rounding = fixed.CirCNN },
		"rounding is": func(s *fixed.Spec) { s.Rounding = "down" },
		"M is 5":      func(s *fixed.Spec) { s.M = 5 },
		"weights W":   func(s *fixed.Spec) { s.W = s.W[:3] },
	} {
		s := good()
		if _, err := fixed.NewCirculant(s, simd.Best()); err != nil {
			t.Fatal(err)
		}
		change(&s)
		if _, err := fixed.NewCirculant(s, simd.Best()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

// BenchmarkCirculant is int16 beside float32, 768 → 3072, 128 tokens.
func BenchmarkCirculant(b *testing.B) {
	const tokens, n, m = 128, 768, 3072
	r := rand.New(rand.NewPCG(1, 2))
	for _, block := range []int{2, 4, 8, 16, 32, 64, 128, 256} {
		p, q := m/block, n/block
		s := fixed.Spec{P: p, Q: q, B: block, M: m, W: make([]int16, p*q*block), Bias: make([]int64, p*block), Shift: make([]int32, p), R: [2]int32{2, 2}}
		for i := range s.W {
			s.W[i] = int16(min(max(r.NormFloat64()*6000, -fixed.High), fixed.High))
		}
		for i := range s.Shift {
			s.Shift[i] = 14
		}
		o, err := fixed.NewCirculant(s, simd.Best())
		if err != nil {
			b.Fatal(err)
		}
		x, y := make([]int16, tokens*n), make([]int16, tokens*m)
		for i := range x {
			x[i] = int16(r.NormFloat64() * 6000)
		}
		nx, ny, stage, scratch := o.Sizes(tokens)
		ws := &fixed.Workspace{X: make([]int16, nx), Y: make([]int32, ny), Stage: make([]int16, stage), Scratch: make([]float32, scratch)}
		b.Run(fmt.Sprintf("b=%d/int16", block), func(b *testing.B) {
			for b.Loop() {
				o.Apply(y, x, tokens, ws)
			}
		})
		mat, err := circulant.New(m, n, block)
		if err != nil {
			b.Fatal(err)
		}
		f, err := circulant.NewOperator(mat, nil, simd.Best())
		if err != nil {
			b.Fatal(err)
		}
		fx, fy, fws := make([]float32, tokens*n), make([]float32, tokens*m), make([]float32, f.Workspace())
		b.Run(fmt.Sprintf("b=%d/float32", block), func(b *testing.B) {
			for b.Loop() {
				f.Apply(fy, m, fx, n, tokens, fws)
			}
		})
	}
}
