package fixed_test

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// TestLimits: what could overflow an accumulator is an error that says so.
func TestLimits(t *testing.T) {
	good := func() fixed.Spec {
		return fixed.Spec{P: 1, Q: 2, B: 4, W: make([]int16, 8), Bias: make([]int32, 4), S: make([]int8, 3), R: make([]int8, 6), E: make([]int8, 4), Group: 2}
	}
	for want, change := range map[string]func(s *fixed.Spec){
		"block size":         func(s *fixed.Spec) { s.B = 3 },
		"at least":           func(s *fixed.Spec) { s.W[1] = fixed.Low },
		"number 2 of block":  func(s *fixed.Spec) { s.W[2], s.W[3], s.W[6] = 32767, -32767, 5 },
		"number 1 of block":  func(s *fixed.Spec) { s.Bias[1] = math.MaxInt32 },
		"number 0 of block":  func(s *fixed.Spec) { s.Bias[0], s.S[0] = 1<<30, 30; s.W[0] = 20000 },
		"S hold 31":          func(s *fixed.Spec) { s.S[0] = 31 },
		"R hold 32":          func(s *fixed.Spec) { s.R[0] = 32 },
		"E hold -1":          func(s *fixed.Spec) { s.E[0] = -1 },
		"has to be 2":        func(s *fixed.Spec) { s.Rounding = fixed.CirCNN },
		"rounding is":        func(s *fixed.Spec) { s.Rounding = "down" },
		"E of 5 outputs":     func(s *fixed.Spec) { s.E = make([]int8, 5) },
		"weights W":          func(s *fixed.Spec) { s.W = s.W[:3] },
		"shifts S and R and": func(s *fixed.Spec) { s.R = s.R[:2] },
		"of 1 blocks":        func(s *fixed.Spec) { s.Group = 1 },
		"shifted by 31":      func(s *fixed.Spec) { s.Shift = 31 },
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

// TestTokens: how many tokens a call has does not show in the results, nor does
// what lies in the workspace.
func TestTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	const tokens, n, m = 37, 100, 71
	for _, block := range []int{4, 16, 64, 128} {
		s := random(r, m, n, block)
		o, err := fixed.NewCirculant(s, simd.Best())
		if err != nil {
			t.Fatal(err)
		}
		x := make([]int16, tokens*n)
		for i := range x {
			x[i] = int16(r.NormFloat64() * 6000)
		}
		all, one := make([]int16, tokens*m), make([]int16, tokens*m)
		o.Apply(fixed.Rows{Int16: all}, fixed.Rows{Int16: x}, n, tokens, workspace(o))
		for k := range tokens {
			o.Apply(fixed.Rows{Int16: one[k*m : (k+1)*m]}, fixed.Rows{Int16: x[k*n : (k+1)*n]}, n, 1, workspace(o))
		}
		if !slices.Equal(all, one) {
			t.Errorf("b = %d: tokens one by one give other results", block)
		}
	}
}

// random is a product with weights as those of real layers.
func random(r *rand.Rand, m, n, block int) fixed.Spec {
	p, q := (m+block-1)/block, (n+block-1)/block
	s := fixed.Spec{P: p, Q: q, B: block, W: make([]int16, p*q*block), Bias: make([]int32, p*block), S: make([]int8, p*(block/2+1)),
		R: make([]int8, q*(block/2+1)), E: make([]int8, m), Group: min(q+q%2, 8)}
	if parts := (q + s.Group - 1) / s.Group; parts > 1 {
		s.Shift = bits.Len(uint(parts-1)) + 1
	}
	size := 2200.
	if q < 8 {
		size = 65534 / float64(2*q) / 4
	}
	for i := range s.W {
		s.W[i] = int16(min(max(r.NormFloat64()*size, -3.7*size), 3.7*size))
	}
	for i := range s.S {
		s.S[i] = 5
	}
	for i := range s.R {
		s.R[i] = 2
	}
	for i := range s.E {
		s.E[i] = 6
	}
	return s
}

func workspace(o *fixed.Circulant) *fixed.Workspace {
	ws := fixed.NewWorkspace(o)
	for i := range ws.Scratch {
		ws.Scratch[i] = float32(math.NaN())
	}
	return ws
}

// BenchmarkCirculant is int16 beside float32, 128 tokens.
func BenchmarkCirculant(b *testing.B) {
	const tokens = 128
	for _, size := range [][2]int{{768, 3072}, {3072, 768}} {
		n, m := size[0], size[1]
		r := rand.New(rand.NewPCG(1, 2))
		for _, block := range []int{2, 4, 8, 16, 32, 64, 128, 256} {
			o, err := fixed.NewCirculant(random(r, m, n, block), simd.Best())
			if err != nil {
				b.Fatal(err)
			}
			x, y := make([]int16, tokens*n), make([]int16, tokens*m)
			for i := range x {
				x[i] = int16(r.NormFloat64() * 6000)
			}
			ws := workspace(o)
			b.Run(fmt.Sprintf("%d→%d/b=%d/int16", n, m, block), func(b *testing.B) {
				for b.Loop() {
					o.Apply(fixed.Rows{Int16: y}, fixed.Rows{Int16: x}, n, tokens, ws)
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
			b.Run(fmt.Sprintf("%d→%d/b=%d/float32", n, m, block), func(b *testing.B) {
				for b.Loop() {
					f.Apply(fy, m, fx, n, tokens, fws)
				}
			})
		}
	}
}

// TestNewConvOnTheBestKernels: without kernels it takes those of this machine, and
// runs on them.
func TestNewConvOnTheBestKernels(t *testing.T) {
	s := fixed.Spec{P: 1, Q: 1, B: 2, W: make([]int16, 2), S: make([]int8, 2), Bias: make([]int32, 2), R: make([]int8, 2), E: make([]int8, 2), Group: 2}
	v, err := fixed.NewConv(s, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Inputs() != 2 || v.Outputs() != 2 {
		t.Errorf("%d inputs, %d outputs", v.Inputs(), v.Outputs())
	}
	v.Forward(make([]int32, 4*v.Rows()), 4, []int32{0, 1, 2, 3}, make([]int16, 8), 2, 4, 0, 4, fixed.NewWorkspace(v))
}
