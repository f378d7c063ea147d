package runtime

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// recurrence is one direction of RNN, GRU or LSTM for one sequence, by ONNX's
// equations in float64: it returns H after every step, and the last C.
func recurrence(op string, x [][]float64, w, r, b, p, h, c []float64, clip float64, coupled, beforeReset bool) ([][]float64, []float64) {
	sigmoid := func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
	cut := func(v float64) float64 {
		if clip > 0 {
			return math.Max(-clip, math.Min(clip, v))
		}
		return v
	}
	n := len(h)
	gates := map[string]int{"RNN": 1, "GRU": 3, "LSTM": 4}[op]
	bias := func(part, g, i int) float64 {
		if b == nil {
			return 0
		}
		return b[part*gates*n+g*n+i]
	}
	fromX := func(x []float64, g, i int) float64 {
		s := bias(0, g, i)
		for k, v := range x {
			s += v * w[(g*n+i)*len(x)+k]
		}
		return s
	}
	fromH := func(h []float64, g, i int) float64 {
		s := 0.0
		for k, v := range h {
			s += v * r[(g*n+i)*n+k]
		}
		return s
	}
	peep := func(g, i int) float64 {
		if p == nil {
			return 0
		}
		return p[g*n+i]
	}
	h, c = slices.Clone(h), slices.Clone(c)
	var all [][]float64
	for _, xt := range x {
		next := make([]float64, n)
		reset := make([]float64, n)
		for i := range n {
			if op == "GRU" {
				reset[i] = sigmoid(cut(fromX(xt, 1, i)+fromH(h, 1, i)+bias(1, 1, i))) * h[i]
			}
		}
		for i := range n {
			full := func(g int) float64 { return fromX(xt, g, i) + fromH(h, g, i) + bias(1, g, i) }
			switch op {
			case "RNN":
				next[i] = math.Tanh(cut(full(0)))
			case "GRU":
				z := sigmoid(cut(full(0)))
				gate := fromX(xt, 2, i) + fromH(reset, 2, i) + bias(1, 2, i)
				if beforeReset {
					gate = fromX(xt, 2, i) + sigmoid(cut(full(1)))*(fromH(h, 2, i)+bias(1, 2, i))
				}
				next[i] = (1-z)*math.Tanh(cut(gate)) + z*h[i]
			case "LSTM":
				in := sigmoid(cut(full(0) + peep(0, i)*c[i]))
				forget := sigmoid(cut(full(2) + peep(2, i)*c[i]))
				if coupled {
					forget = 1 - in
				}
				old := c[i]
				c[i] = forget*old + in*math.Tanh(cut(full(3)))
				next[i] = sigmoid(cut(full(1)+peep(1, i)*c[i])) * math.Tanh(cut(c[i]))
			}
		}
		h = next
		all = append(all, h)
	}
	return all, c
}

// TestRecurrent: every operator in both directions, with sequences of
// different lengths, states, clipping and the options of each.
func TestRecurrent(t *testing.T) {
	const steps, batch, n, h = 5, 3, 4, 6
	lengths := []int32{5, 0, 3}
	for _, c := range []struct {
		op, attrs            string
		gates                int
		clip                 float64
		coupled, beforeReset bool
		peepholes            bool
	}{
		{op: "RNN", gates: 1},
		{op: "RNN", gates: 1, attrs: ", clip = 0.5", clip: 0.5},
		{op: "GRU", gates: 3},
		{op: "GRU", gates: 3, attrs: ", linear_before_reset = 1", beforeReset: true},
		{op: "LSTM", gates: 4},
		{op: "LSTM", gates: 4, attrs: ", clip = 0.75", clip: 0.75, peepholes: true},
		{op: "LSTM", gates: 4, attrs: ", input_forget = 1", coupled: true},
	} {
		for _, direction := range []string{"forward", "reverse", "bidirectional"} {
			dirs := 1
			if direction == "bidirectional" {
				dirs = 2
			}
			x := noise(1, steps, batch, n)
			w, r, b := noise(2, dirs, c.gates*h, n), noise(3, dirs, c.gates*h, h), noise(4, dirs, 2*c.gates*h)
			h0, c0, p := noise(5, dirs, batch, h), noise(6, dirs, batch, h), noise(7, dirs, 3*h)
			inputs := []*Tensor{x, w, r, b, row(lengths...), h0}
			args, outs := "x0, x1, x2, x3, x4, x5", "y0, y1"
			if c.op == "LSTM" {
				inputs = append(inputs, c0)
				args, outs = args+", x6", "y0, y1, y2"
				if c.peepholes {
					inputs, args = append(inputs, p), args+", x7"
				}
			}
			text := fmt.Sprintf("%s = %s <hidden_size = %d, direction = %q%s> (%s)", outs, c.op, h, direction, c.attrs, args)
			out, err := operate(t, 14, text, inputs...)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			y, yh := floatsOf(t, out[0]), floatsOf(t, out[1])
			close := func(what string, got, want float64) {
				// Some steps of sums of ten products, each near 1, of functions
				// whose slopes are at most 1.
				if math.Abs(got-want) > 1e-5 {
					t.Errorf("%s: %s is %v, want %v", text, what, got, want)
				}
			}
			part := func(x *Tensor, d, size int) []float64 { return floatsOf(t, x)[d*size : (d+1)*size] }
			for d := range dirs {
				for k := range batch {
					l := int(lengths[k])
					var in [][]float64
					for s := range l {
						in = append(in, floatsOf(t, x)[(s*batch+k)*n:(s*batch+k+1)*n])
					}
					back := direction == "reverse" || d == 1
					if back {
						slices.Reverse(in)
					}
					var peep []float64
					if c.peepholes {
						peep = part(p, d, 3*h)
					}
					all, cell := recurrence(c.op, in, part(w, d, c.gates*h*n), part(r, d, c.gates*h*h), part(b, d, 2*c.gates*h), peep,
						part(h0, d*batch+k, h), part(c0, d*batch+k, h), c.clip, c.coupled, c.beforeReset)
					last := part(h0, d*batch+k, h)
					if l > 0 {
						last = all[l-1]
					}
					for i := range h {
						close("Y_h", yh[(d*batch+k)*h+i], last[i])
						if c.op == "LSTM" {
							close("Y_c", floatsOf(t, out[2])[(d*batch+k)*h+i], cell[i])
						}
						for s := range steps {
							want := 0.0
							if s < l {
								want = all[s][i]
								if back {
									want = all[l-1-s][i]
								}
							}
							close("Y", y[((s*dirs+d)*batch+k)*h+i], want)
						}
					}
				}
			}
		}
	}
}

// TestRecurrentActivations: named functions, in any case, take their
// parameters in order.
func TestRecurrentActivations(t *testing.T) {
	x, one := FromSlice([]int{1, 1, 1}, []float32{-2}), FromSlice([]int{1, 1, 1}, []float32{1})
	for name, want := range map[string]float64{
		"Relu": 0, "tanh": math.Tanh(-2), "Sigmoid": 1 / (1 + math.Exp(2)), "Affine": -2*3 + 0.5, "LeakyRelu": -6,
		"ThresholdedRelu": 0, "ScaledTanh": 3 * math.Tanh(-1), "HardSigmoid": 0, "Elu": 3 * math.Expm1(-2), "Softsign": -2. / 3, "Softplus": math.Log1p(math.Exp(-2)),
	} {
		out, err := operate(t, 14, fmt.Sprintf("y0 = RNN <hidden_size = 1, activations = [%q], activation_alpha = [3.0], activation_beta = [0.5]> (x0, x1, x2)", name), x, one, one)
		if err != nil {
			t.Fatal(err)
		}
		if got := float64(out[0].F32()[0]); math.Abs(got-want) > 1e-6*math.Abs(want) {
			t.Errorf("%s(-2) = %v, want %v", name, got, want)
		}
	}
	for _, text := range []string{
		"y0 = RNN <hidden_size = 2> (x0, x1, x2)",
		"y0 = RNN <activations = [\"Sinus\"]> (x0, x1, x2)",
		"y0 = LSTM (x0, x1, x2)",
		"y0 = RNN (x0, x1, x2, \"\", x1)",
		"y0 = RNN <direction = \"bidirectional\"> (x0, x1, x2)",
	} {
		if _, err := operate(t, 14, text, x, one, one); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
