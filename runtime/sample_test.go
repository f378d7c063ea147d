package runtime

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// CausalConvWithState against its definition in float64, with and without what
// came before; its state is what makes a second piece go on from the first.
func TestCausalConvDefinition(t *testing.T) {
	const batch, channels, l, taps = 2, 3, 7, 4
	r := rand.New(rand.NewPCG(7, 8))
	floats := func(shape ...int) *Tensor {
		n, _ := count(shape)
		x := FromSlice(shape, make([]float32, n))
		for i := range x.F32() {
			x.F32()[i] = float32(r.NormFloat64())
		}
		return x
	}
	x, w, bias, past := floats(batch, channels, l), floats(channels, 1, taps), floats(channels), floats(batch, channels, taps-1)
	for _, silu := range []bool{false, true} {
		node := "y0, y1 = CausalConvWithState (x0, x1, x2, x3)"
		if silu {
			node = `y0, y1 = CausalConvWithState <activation = "silu"> (x0, x1, x2, x3)`
		}
		got, err := operate(t, 27, node, x, w, bias, past)
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch * channels {
			all := slices.Concat(past.F32()[i*(taps-1):][:taps-1], x.F32()[i*l:][:l])
			for p := range l {
				want := float64(bias.F32()[i%channels])
				for k := range taps {
					want += float64(w.F32()[i%channels*taps+k]) * float64(all[p+k])
				}
				if silu {
					want /= 1 + math.Exp(-want)
				}
				if y := got[0].F32()[i*l+p]; !(math.Abs(float64(y)-want) < 1e-5*(1+math.Abs(want))) {
					t.Fatalf("row %d, place %d: %g, want %g", i, p, y, want)
				}
			}
			if !slices.Equal(got[1].F32()[i*(taps-1):][:taps-1], all[l:]) {
				t.Errorf("row %d: the state is not the last inputs", i)
			}
		}
	}
	none, err := operate(t, 27, "y0, y1 = CausalConvWithState (x0, x1)", x, w)
	if err != nil {
		t.Fatal(err)
	}
	zero, err := operate(t, 27, `y0, y1 = CausalConvWithState (x0, x1, "", x3)`, x, w, nil, FromSlice([]int{batch, channels, taps - 1}, make([]float32, batch*channels*(taps-1))))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(none[0].F32(), zero[0].F32()) {
		t.Error("no state is not a state of zeros")
	}
}

// Random operators have the moments that they are asked for, and the same
// numbers in every run.
func TestRandomOperators(t *testing.T) {
	const n = 40000
	wide := FromSlice([]int{n}, slices.Repeat([]float32{0.3}, n))
	for _, c := range []struct {
		node           string
		inputs         []*Tensor
		mean, variance float64
	}{
		{"y0 = RandomNormalLike <mean = 2.0, scale = 3.0> (x0)", []*Tensor{wide}, 2, 9},
		{"y0 = RandomUniformLike <low = -1.0, high = 3.0, seed = 4.0> (x0)", []*Tensor{wide}, 1, 16.0 / 12},
		{"y0 = Bernoulli (x0)", []*Tensor{wide}, 0.3, 0.21},
	} {
		first, err := operate(t, 22, c.node, c.inputs...)
		if err != nil {
			t.Fatal(err)
		}
		again, err := operate(t, 22, c.node, c.inputs...)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(first[0].F32(), again[0].F32()) {
			t.Errorf("%s: other numbers in another run", c.node)
		}
		mean, square := 0.0, 0.0
		for _, v := range first[0].F32() {
			mean += float64(v) / n
			square += float64(v) * float64(v) / n
		}
		// Five standard errors of the mean; the variance has some of its own.
		if v := square - mean*mean; math.Abs(mean-c.mean) > 5*math.Sqrt(c.variance/n) || math.Abs(v-c.variance) > 0.05*c.variance {
			t.Errorf("%s: mean %g, variance %g, want %g, %g", c.node, mean, v, c.mean, c.variance)
		}
	}
	p := []float32{0.1, 0.6, 0.3}
	logs := FromSlice([]int{1, 3}, []float32{float32(math.Log(0.1)), float32(math.Log(0.6)), float32(math.Log(0.3))})
	got, err := operate(t, 22, "y0 = Multinomial <sample_size = 20000, seed = 1.0> (x0)", logs)
	if err != nil {
		t.Fatal(err)
	}
	var counts [3]float64
	for _, v := range got[0].I32() {
		counts[v] += 1.0 / 20000
	}
	for i, c := range counts {
		if math.Abs(c-float64(p[i])) > 0.02 {
			t.Errorf("class %d is drawn with %g, want %g", i, c, p[i])
		}
	}
	if got[0].DType != graph.Int32 {
		t.Errorf("classes are %v", got[0].DType)
	}
}
