package runtime

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// recurrentOps go through a sequence with a state.
var recurrentOps = []operator{
	{"", "RNN", 7, prepareRecurrent, nil, halves},
	{"", "GRU", 7, prepareRecurrent, nil, halves},
	{"", "LSTM", 7, prepareRecurrent, nil, halves},
}

// recurrent is RNN, GRU or LSTM: X [T, B, n], W [dirs, G·h, n], R [dirs, G·h,
// h], B [dirs, 2·G·h], lengths [B], initial_h and initial_c [dirs, B, h], P
// [dirs, 3·h] → Y [T, dirs, B, h], Y_h and Y_c [dirs, B, h], with G gates. With
// layout 1 the batch comes first everywhere. Behind the end of a sequence Y is
// zero; Y_h is the state at its end.
//
// What the gates take from X is one product for the whole sequence; the steps
// add what they take from the state. Sequences are independent of each other,
// and threads share them.
type recurrent struct {
	k           *simd.Kernels
	op          string
	gates       int
	reverse     []bool // by direction
	hidden      int    // attribute, 0 if not given
	batchFirst  bool
	clip        float32
	coupled     bool             // LSTM: input_forget
	beforeReset bool             // GRU: linear_before_reset
	f           [][]activation   // by direction
	fixed       *recurrentWeight // where weights are constant
}

// recurrentWeight is W, R and B ready for the kernels.
type recurrentWeight struct {
	n, h  int // features and hidden size
	w     []simd.Packed
	r     []simd.Packed // all gates; of GRU all but the last
	last  []simd.Packed // of GRU, the last gate
	bias  []float32     // [dirs, G·h]: of X, and of the state where they just add up
	inner []float32     // GRU before the reset: [dirs, h], the state's bias of the last gate
}

// activation sets dst to a function of x, which may be dst.
type activation func(dst, x []float32)

func prepareRecurrent(n *node) (kernel, error) {
	v := &recurrent{
		k: n.simd, op: n.op, hidden: n.int("hidden_size", 0), batchFirst: n.bool("layout", false),
		clip: n.float("clip", 0), coupled: n.bool("input_forget", false), beforeReset: n.bool("linear_before_reset", false),
	}
	names := []string{"Sigmoid", "Tanh", "Tanh"}
	inputs := 8
	switch n.op {
	case "RNN":
		v.gates, names, inputs = 1, []string{"Tanh"}, 6
	case "GRU":
		v.gates, names, inputs = 3, []string{"Sigmoid", "Tanh"}, 6
	default:
		v.gates = 4
	}
	switch n.oneOf("direction", "forward", "forward", "reverse", "bidirectional") {
	case "forward":
		v.reverse = []bool{false}
	case "reverse":
		v.reverse = []bool{true}
	default:
		v.reverse = []bool{false, true}
	}
	given := n.strings("activations")
	if given == nil {
		for range v.reverse {
			given = append(given, names...)
		}
	}
	if len(given) != len(names)*len(v.reverse) {
		return nil, fmt.Errorf("%d activations, want %d", len(given), len(names)*len(v.reverse))
	}
	alphas, betas := n.floats("activation_alpha"), n.floats("activation_beta")
	next := func(list *[]float32, def float32) float32 {
		if len(*list) == 0 {
			return def
		}
		x := (*list)[0]
		*list = (*list)[1:]
		return x
	}
	for d := range v.reverse {
		var fs []activation
		for _, name := range given[d*len(names) : (d+1)*len(names)] {
			f, err := activationOf(n.simd, name, func(def float32) float32 { return next(&alphas, def) }, func(def float32) float32 { return next(&betas, def) })
			if err != nil {
				return nil, err
			}
			fs = append(fs, v.clipped(f))
		}
		v.f = append(v.f, fs)
	}
	w, r, b := n.constant(1), n.constant(2), n.constant(3)
	if w != nil && r != nil && (b != nil || !n.has(3)) {
		var err error
		if w, err = widened(w); err == nil {
			r, err = widened(r)
		}
		if b != nil && err == nil {
			b, err = widened(b)
		}
		if err != nil {
			return nil, err
		}
		if w != nil && r != nil && (b != nil || !n.has(3)) {
			if v.fixed, err = v.weights(w, r, b); err != nil {
				return nil, err
			}
			n.drop(1)
			n.drop(2)
			if n.has(3) {
				n.drop(3)
			}
		}
	}
	return byType{graph.Float32: v.run}.kernel(0), n.inputs(3, inputs)
}

// clipped holds the input of an activation to −clip … clip.
func (v *recurrent) clipped(f activation) activation {
	if v.clip <= 0 {
		return f
	}
	return func(dst, x []float32) {
		v.k.MinScalar(dst, x, v.clip)
		v.k.MaxScalar(dst, dst, -v.clip)
		f(dst, dst)
	}
}

// activationOf finds an activation function by name, in any case; the ones
// that have parameters take them.
func activationOf(k *simd.Kernels, name string, alpha, beta func(def float32) float32) (activation, error) {
	each := func(f func(x float64) float64) activation {
		return func(dst, x []float32) {
			for i, v := range x {
				dst[i] = float32(f(float64(v)))
			}
		}
	}
	switch strings.ToLower(name) {
	case "relu":
		return k.Relu, nil
	case "tanh":
		return k.Tanh, nil
	case "sigmoid":
		return k.Sigmoid, nil
	case "affine":
		a, b := float64(alpha(1)), float64(beta(0))
		return each(func(x float64) float64 { return a*x + b }), nil
	case "leakyrelu":
		a := float64(alpha(0.01))
		return each(func(x float64) float64 {
			if x < 0 {
				return a * x
			}
			return x
		}), nil
	case "thresholdedrelu":
		a := float64(alpha(1))
		return each(func(x float64) float64 {
			if x > a {
				return x
			}
			return 0
		}), nil
	case "scaledtanh":
		a, b := float64(alpha(1)), float64(beta(1))
		return each(func(x float64) float64 { return a * math.Tanh(b*x) }), nil
	case "hardsigmoid":
		a, b := float64(alpha(0.2)), float64(beta(0.5))
		return each(func(x float64) float64 { return math.Max(0, math.Min(1, a*x+b)) }), nil
	case "elu":
		a := float64(alpha(1))
		return each(func(x float64) float64 {
			if x < 0 {
				return a * math.Expm1(x)
			}
			return x
		}), nil
	case "softsign":
		return each(func(x float64) float64 { return x / (1 + math.Abs(x)) }), nil
	case "softplus":
		return each(func(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }), nil
	}
	return nil, fmt.Errorf("activation %q is not known", name)
}

// weights packs W, R and B.
func (v *recurrent) weights(w, r, b *Tensor) (*recurrentWeight, error) {
	dirs := len(v.reverse)
	if len(w.Shape) != 3 || len(r.Shape) != 3 || w.Shape[0] != dirs || r.Shape[0] != dirs {
		return nil, fmt.Errorf("W %v and R %v, want %d directions of matrices", w.Shape, r.Shape, dirs)
	}
	q := &recurrentWeight{n: w.Shape[2], h: r.Shape[2]}
	rows := v.gates * q.h
	if w.Shape[1] != rows || r.Shape[1] != rows || v.hidden != 0 && v.hidden != q.h {
		return nil, fmt.Errorf("W %v and R %v, want [%d, %d·hidden, …] with hidden %d", w.Shape, r.Shape, dirs, v.gates, max(v.hidden, q.h))
	}
	if w.DType != graph.Float32 || r.DType != graph.Float32 || b != nil && b.DType != graph.Float32 {
		return nil, errors.New("inputs are not of one type")
	}
	q.bias = make([]float32, dirs*rows)
	if v.beforeReset {
		q.inner = make([]float32, dirs*q.h)
	}
	if b != nil && (len(b.Shape) != 2 || b.Shape[0] != dirs || b.Shape[1] != 2*rows) {
		return nil, fmt.Errorf("B %v, want [%d, %d]", b.Shape, dirs, 2*rows)
	}
	for d := range dirs {
		q.w = append(q.w, v.k.PackB(simd.RowMajor(w.F32()[d*rows*q.n:(d+1)*rows*q.n], q.n).T(), q.n, rows))
		m := r.F32()[d*rows*q.h : (d+1)*rows*q.h]
		head := rows
		if v.op == "GRU" {
			head = 2 * q.h
			q.last = append(q.last, v.k.PackB(simd.RowMajor(m[head*q.h:], q.h).T(), q.h, q.h))
		}
		q.r = append(q.r, v.k.PackB(simd.RowMajor(m[:head*q.h], q.h).T(), q.h, head))
		if b == nil {
			continue
		}
		both := b.F32()[d*2*rows : (d+1)*2*rows]
		for i := range rows {
			q.bias[d*rows+i] = both[i]
			switch {
			case v.beforeReset && i >= head:
				q.inner[d*q.h+i-head] = both[rows+i]
			default:
				q.bias[d*rows+i] += both[rows+i]
			}
		}
	}
	return q, nil
}

// recurrentState is the run at hand.
type recurrentState struct {
	v                 *recurrent
	q                 *recurrentWeight
	steps, batch      int
	lengths           []int32
	peephole          []float32 // [dirs, 3, h]
	gx                []float32 // [dirs, steps, batch, G·h]
	gates, h, c, tmp  []float32 // [dirs, batch, …]
	y, yh, yc         []float32
	yStep, yDir, yRow int // strides of Y
	hDir, hRow        int // strides of the states outside
}

func (v *recurrent) run(c *call) error {
	s, ok := c.state.(*recurrentState)
	if !ok {
		s = &recurrentState{v: v}
		c.state = s
	}
	x := c.in[0]
	s.q = v.fixed
	var err error
	if s.q == nil {
		if s.q, err = v.weights(c.in[1], c.in[2], c.input(3)); err != nil {
			return err
		}
	}
	q, dirs := s.q, len(v.reverse)
	if len(x.Shape) != 3 || x.Shape[2] != q.n {
		return fmt.Errorf("X %v for W of %d features", x.Shape, q.n)
	}
	if s.steps, s.batch = x.Shape[0], x.Shape[1]; v.batchFirst {
		s.steps, s.batch = x.Shape[1], x.Shape[0]
	}
	s.lengths = nil
	if t := c.input(4); t != nil {
		if t.DType != graph.Int32 || t.Len() != s.batch {
			return fmt.Errorf("sequence_lens %v%v, want %d of int32", t.DType, t.Shape, s.batch)
		}
		s.lengths = t.I32()
		for _, l := range s.lengths {
			if l < 0 || int(l) > s.steps {
				return fmt.Errorf("a sequence of %d in %d steps", l, s.steps)
			}
		}
	}
	rows, size := dirs*s.batch, dirs*s.batch*q.h
	s.peephole = nil
	if t := c.input(7); t != nil {
		if t.DType != graph.Float32 || t.Len() != dirs*3*q.h {
			return fmt.Errorf("P %v%v, want [%d, %d]", t.DType, t.Shape, dirs, 3*q.h)
		}
		s.peephole = t.F32()
	}
	// Outputs.
	shapes := [2][]int{{s.steps, dirs, s.batch, q.h}, {dirs, s.batch, q.h}}
	s.yStep, s.yDir, s.yRow = rows*q.h, s.batch*q.h, q.h
	s.hDir, s.hRow = s.batch*q.h, q.h
	if v.batchFirst {
		shapes = [2][]int{{s.batch, s.steps, dirs, q.h}, {s.batch, dirs, q.h}}
		s.yStep, s.yDir, s.yRow = dirs*q.h, q.h, s.steps*dirs*q.h
		s.hDir, s.hRow = q.h, dirs*q.h
	}
	var outs [3][]float32
	for i := range outs {
		if c.wants(i) {
			z, err := c.alloc(i, graph.Float32, shapes[min(i, 1)]...)
			if err != nil {
				return err
			}
			outs[i] = z.F32()
		}
	}
	s.y, s.yh, s.yc = outs[0], outs[1], outs[2]
	// States.
	if s.h, err = scratch[float32](c, size); err != nil {
		return err
	}
	if s.c, err = scratch[float32](c, size); err != nil {
		return err
	}
	if s.tmp, err = scratch[float32](c, size); err != nil {
		return err
	}
	for i, dst := range [2][]float32{s.h, s.c} {
		clear(dst)
		t := c.input(5 + i)
		if t == nil {
			continue
		}
		if t.DType != graph.Float32 || t.Len() != size {
			return fmt.Errorf("initial state %v%v, want %v", t.DType, t.Shape, shapes[1])
		}
		for r := range rows {
			copy(dst[r*q.h:(r+1)*q.h], t.F32()[r/s.batch*s.hDir+r%s.batch*s.hRow:])
		}
	}
	n := v.gates * q.h
	if s.gates, err = scratch[float32](c, rows*n); err != nil {
		return err
	}
	total, err := count([]int{dirs, s.steps, s.batch, n})
	if err != nil {
		return err
	}
	if s.gx, err = scratch[float32](c, total); err != nil {
		return err
	}
	if rows*q.h == 0 {
		return nil
	}
	c.parallel(rows, 1+multiplyGrain/(1+s.steps*n*(q.n+q.h)), recurrentRows)
	return nil
}

// recurrentRows runs sequences [lo, hi), counted over directions and batch.
func recurrentRows(c *call, lo, hi int) {
	s := c.state.(*recurrentState)
	for lo < hi {
		d := lo / s.batch
		end := min(hi, (d+1)*s.batch)
		s.sequences(c.in[0].F32(), d, lo-d*s.batch, end-d*s.batch)
		lo = end
	}
}

// sequences runs sequences [b0, b1) of direction d.
func (s *recurrentState) sequences(x []float32, d, b0, b1 int) {
	v, q := s.v, s.q
	n, m := v.gates*q.h, b1-b0
	gx := s.gx[d*s.steps*s.batch*n:]
	for b := b0; b < b1 && s.steps > 0; b++ {
		a := simd.RowMajor(x[b*q.n:], s.batch*q.n)
		if v.batchFirst {
			a = simd.RowMajor(x[b*s.steps*q.n:], q.n)
		}
		v.k.Gemm(gx[b*n:], s.batch*n, a, s.steps, q.w[d], q.bias[d*n:(d+1)*n], false)
	}
	first := d*s.batch + b0
	gates := s.gates[first*n : (first+m)*n]
	h, cell, tmp := s.h[first*q.h:(first+m)*q.h], s.c[first*q.h:(first+m)*q.h], s.tmp[first*q.h:(first+m)*q.h]
	length := func(b int) int {
		if s.lengths != nil {
			return int(s.lengths[b])
		}
		return s.steps
	}
	longest := 0
	for b := b0; b < b1; b++ {
		longest = max(longest, length(b))
	}
	for step := range longest {
		for b := b0; b < b1; b++ {
			if l := length(b); step < l {
				t := step
				if v.reverse[d] {
					t = l - 1 - step
				}
				copy(gates[(b-b0)*n:(b-b0+1)*n], gx[(t*s.batch+b)*n:])
			}
		}
		_, cols := q.r[d].Dims()
		v.k.Gemm(gates, n, simd.RowMajor(h, q.h), m, q.r[d], nil, true)
		if v.op == "GRU" && v.beforeReset {
			v.k.Gemm(tmp, q.h, simd.RowMajor(h, q.h), m, q.last[d], q.inner[d*q.h:(d+1)*q.h], false)
		}
		if v.op == "GRU" && !v.beforeReset {
			// The reset gates of all rows come before the product they go into.
			for r := range m {
				g := gates[r*n : r*n+cols]
				v.f[d][0](g, g)
				v.k.Mul(tmp[r*q.h:(r+1)*q.h], g[q.h:], h[r*q.h:(r+1)*q.h])
			}
			v.k.Gemm(gates[2*q.h:], n, simd.RowMajor(tmp, q.h), m, q.last[d], nil, true)
		}
		for b := b0; b < b1; b++ {
			l := length(b)
			if step >= l {
				continue
			}
			r := b - b0
			g, hr, cr, tr := gates[r*n:(r+1)*n], h[r*q.h:(r+1)*q.h], cell[r*q.h:(r+1)*q.h], tmp[r*q.h:(r+1)*q.h]
			switch v.op {
			case "RNN":
				v.f[d][0](hr, g)
			case "GRU":
				v.gru(d, g, hr, tr)
			default:
				v.lstm(d, g, hr, cr, tr, s.peepholes(d))
			}
			if s.y != nil {
				t := step
				if v.reverse[d] {
					t = l - 1 - step
				}
				copy(s.y[t*s.yStep+d*s.yDir+b*s.yRow:][:q.h], hr)
			}
		}
	}
	for b := b0; b < b1; b++ {
		at := d*s.hDir + b*s.hRow
		if s.yh != nil {
			copy(s.yh[at:at+q.h], h[(b-b0)*q.h:])
		}
		if s.yc != nil {
			copy(s.yc[at:at+q.h], cell[(b-b0)*q.h:])
		}
		if s.y != nil {
			for t := length(b); t < s.steps; t++ {
				clear(s.y[t*s.yStep+d*s.yDir+b*s.yRow:][:q.h])
			}
		}
	}
}

func (s *recurrentState) peepholes(d int) []float32 {
	if s.peephole == nil {
		return nil
	}
	return s.peephole[d*3*s.q.h : (d+1)*3*s.q.h]
}

// gru ends a step of one row: gates z, r, h; t is what the state gives to the
// last gate where that comes before the reset.
//
//	H = (1 − z)·g(gate) + z·H
func (v *recurrent) gru(d int, g, h, t []float32) {
	n := len(h)
	z, r, last := g[:n], g[n:2*n], g[2*n:]
	if v.beforeReset {
		v.f[d][0](g[:2*n], g[:2*n])
		for i := range t {
			last[i] += float32(r[i] * t[i])
		}
	}
	v.f[d][1](last, last)
	for i := range h {
		h[i] = float32((1-z[i])*last[i]) + float32(z[i]*h[i])
	}
}

// lstm ends a step of one row: gates i, o, f, c; p is the peepholes of i, o, f.
//
//	C = f·C + i·g(gate), H = o·h(C)
func (v *recurrent) lstm(d int, g, h, c, t, p []float32) {
	n := len(h)
	in, out, forget, cell := g[:n], g[n:2*n], g[2*n:3*n], g[3*n:]
	if p != nil {
		for i := range c {
			in[i] += float32(p[i] * c[i])
			forget[i] += float32(p[2*n+i] * c[i])
		}
	}
	v.f[d][0](in, in)
	if v.coupled {
		v.k.ScalarSub(forget, 1, in)
	} else {
		v.f[d][0](forget, forget)
	}
	v.f[d][1](cell, cell)
	for i := range c {
		c[i] = float32(forget[i]*c[i]) + float32(in[i]*cell[i])
	}
	if p != nil {
		for i := range c {
			out[i] += float32(p[n+i] * c[i])
		}
	}
	v.f[d][0](out, out)
	v.f[d][2](t, c)
	v.k.Mul(h, out, t)
}
