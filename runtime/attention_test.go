package runtime

import (
	"math"
	"math/rand/v2"
	"testing"
)

// ONNX's attention against its definition in float64, for what ONNX Runtime
// does not compute: windows (opset 25), masks of fewer columns than keys, and
// queries that stand before all keys. bench/ortcheck compares the rest with it.
func TestAttentionDefinition(t *testing.T) {
	const batch, h, kv, tokens, keys, d, e = 2, 4, 2, 5, 7, 6, 3
	r := rand.New(rand.NewPCG(3, 4))
	floats := func(shape ...int) *Tensor {
		n, _ := count(shape)
		x := FromSlice(shape, make([]float32, n))
		for i := range x.F32() {
			x.F32()[i] = float32(r.NormFloat64())
		}
		return x
	}
	q, k, v := floats(batch, h, tokens, d), floats(batch, kv, keys, d), floats(batch, kv, keys, e)
	narrow, counts := floats(tokens, keys-2), FromSlice([]int{batch}, []int64{3, keys})
	past, pastV := floats(batch, kv, 2, d), floats(batch, kv, 2, e)
	for _, c := range []struct {
		name, node  string
		inputs      []*Tensor
		left, right int // keys that count before and behind a query's own place
		columns     int // of the mask; 0: none
		past        bool
		place       func(b int) int // of the first query
		count       func(b int) int
	}{
		{"windows", "y0 = Attention <left_window_size = 1, right_window_size = 2> (x0, x1, x2)", []*Tensor{q, k, v}, 1, 2, 0, false, nil, nil},
		{"left window, causal, past", `y0 = Attention <left_window_size = 2, is_causal = 1> (x0, x1, x2, "", x3, x4)`,
			[]*Tensor{q, k, v, past, pastV}, 2, 0, 0, true, func(int) int { return 2 }, nil},
		{"narrow mask", "y0 = Attention (x0, x1, x2, x3)", []*Tensor{q, k, v, narrow}, 100, 100, keys - 2, false, nil, nil},
		{"counted keys, causal", `y0 = Attention <is_causal = 1> (x0, x1, x2, "", "", "", x3)`, []*Tensor{q, k, v, counts}, 100, 0, 0, false,
			func(b int) int { return int(counts.I64()[b]) - tokens }, func(b int) int { return int(counts.I64()[b]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := operate(t, 25, c.node, c.inputs...)
			if err != nil {
				t.Fatal(err)
			}
			all := keys
			key := func(b, g, j int) []float32 { return k.F32()[((b*kv+g)*keys+j)*d:][:d] }
			value := func(b, g, j int) []float32 { return v.F32()[((b*kv+g)*keys+j)*e:][:e] }
			if c.past {
				all += 2
				newKey, newValue := key, value
				key = func(b, g, j int) []float32 {
					if j < 2 {
						return past.F32()[((b*kv+g)*2+j)*d:][:d]
					}
					return newKey(b, g, j-2)
				}
				value = func(b, g, j int) []float32 {
					if j < 2 {
						return pastV.F32()[((b*kv+g)*2+j)*e:][:e]
					}
					return newValue(b, g, j-2)
				}
			}
			for b := range batch {
				place, count := 0, all
				if c.place != nil {
					place = c.place(b)
				}
				if c.count != nil {
					count = c.count(b)
				}
				for i := range h {
					g := i / (h / kv)
					for u := range tokens {
						want, sum := make([]float64, e), 0.0
						for j := range all {
							at := place + u
							if j >= count || j < at-c.left || j > at+c.right || c.columns > 0 && j >= c.columns {
								continue
							}
							s := 0.0
							for x, y := range q.F32()[((b*h+i)*tokens+u)*d:][:d] {
								s += float64(y) * float64(key(b, g, j)[x])
							}
							if s /= math.Sqrt(d); c.columns > 0 {
								s += float64(narrow.F32()[u*c.columns+j])
							}
							sum += math.Exp(s)
							for x := range want {
								want[x] += math.Exp(s) * float64(value(b, g, j)[x])
							}
						}
						for x := range want {
							if sum > 0 {
								want[x] /= sum
							}
							if y := got[0].F32()[((b*h+i)*tokens+u)*e+x]; !(math.Abs(float64(y)-want[x]) < 1e-5) {
								t.Fatalf("sample %d, head %d, query %d: %g, want %g", b, i, u, y, want[x])
							}
						}
					}
				}
			}
		})
	}
}

// LinearAttention against its definition in float64: every rule, both kinds of
// decay, heads that share a state, a state that comes in.
func TestLinearAttentionDefinition(t *testing.T) {
	const batch, h, kv, tokens, d, e = 2, 4, 2, 6, 5, 3
	r := rand.New(rand.NewPCG(5, 6))
	floats := func(shape ...int) *Tensor {
		n, _ := count(shape)
		x := FromSlice(shape, make([]float32, n))
		for i := range x.F32() {
			x.F32()[i] = float32(r.NormFloat64() / 2)
		}
		return x
	}
	q, k, v := floats(batch, tokens, h*d), floats(batch, tokens, kv*d), floats(batch, tokens, kv*e)
	state := floats(batch, kv, d, e)
	for _, c := range []struct {
		rule        string
		decay, beta int // columns
		given       bool
	}{{"linear", 0, 0, false}, {"gated", kv, 0, true}, {"gated", kv * d, 0, false}, {"delta", 0, kv, true}, {"delta", 0, 1, false}, {"gated_delta", kv, 1, true}, {"gated_delta", kv * d, kv, false}} {
		t.Run(c.rule, func(t *testing.T) {
			node, inputs := `y0, y1 = LinearAttention <q_num_heads = 4, kv_num_heads = 2, update_rule = "`+c.rule+`"> (x0, x1, x2`, []*Tensor{q, k, v}
			var decay, beta *Tensor
			if c.given {
				node, inputs = node+", x3", append(inputs, state)
			} else {
				node, inputs = node+`, ""`, append(inputs, nil)
			}
			if c.decay > 0 {
				decay = floats(batch, tokens, c.decay)
				node, inputs = node+", x4", append(inputs, decay)
			} else if c.beta > 0 {
				node, inputs = node+`, ""`, append(inputs, nil)
			}
			if c.beta > 0 {
				beta = floats(batch, tokens, c.beta)
				node, inputs = node+", x5", append(inputs, beta)
			}
			got, err := operate(t, 27, node+")", inputs...)
			if err != nil {
				t.Fatal(err)
			}
			near := func(what string, y float32, want float64) {
				if !(math.Abs(float64(y)-want) < 1e-5*(1+math.Abs(want))) {
					t.Fatalf("%s: %g, want %g", what, y, want)
				}
			}
			for b := range batch {
				for g := range kv {
					s := make([]float64, d*e)
					if c.given {
						for i, x := range state.F32()[(b*kv+g)*d*e:][:d*e] {
							s[i] = float64(x)
						}
					}
					for u := range tokens {
						row := b*tokens + u
						for i := range s {
							switch c.decay {
							case kv:
								s[i] *= math.Exp(float64(decay.F32()[row*kv+g]))
							case kv * d:
								s[i] *= math.Exp(float64(decay.F32()[(row*kv+g)*d+i/e]))
							}
						}
						key := k.F32()[(row*kv+g)*d:][:d]
						write := make([]float64, e)
						for m := range write {
							write[m] = float64(v.F32()[(row*kv+g)*e+m])
							if c.beta > 0 {
								for i := range d {
									write[m] -= s[i*e+m] * float64(key[i])
								}
								write[m] *= float64(beta.F32()[row*c.beta+g%c.beta])
							}
						}
						for i := range s {
							s[i] += float64(key[i/e]) * write[i%e]
						}
						for i := range h / kv {
							head := g*(h/kv) + i
							for m := range e {
								want := 0.0
								for x := range d {
									want += s[x*e+m] * float64(q.F32()[(row*h+head)*d+x]) / math.Sqrt(d)
								}
								near("output", got[0].F32()[(row*h+head)*e+m], want)
							}
						}
					}
					for i := range s {
						near("state", got[1].F32()[(b*kv+g)*d*e+i], s[i])
					}
				}
			}
		})
	}
}
