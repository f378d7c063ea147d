package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// reduceOps replace axes by one number of their elements.
var reduceOps = []operator{
	{"", "ReduceSum", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceMean", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceMax", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceMin", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceProd", 1, prepareReduce, nil, halves},
	{"", "ReduceL1", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceL2", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceLogSum", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceLogSumExp", 1, prepareReduce, gradReduce, halves},
	{"", "ReduceSumSquare", 1, prepareReduce, gradReduce, halves},
	{"", "CumSum", 11, prepareCumulate, nil, halves},
	{"", "CumProd", 26, prepareCumulate, nil, halves},
}

// prepareReduce: the axes are an attribute, and an input since opset 18 (13
// for ReduceSum). None means all, or none with noop_with_empty_axes.
func prepareReduce(n *node) (kernel, error) {
	r := &reduction{
		axes: n.ints("axes"), keep: n.bool("keepdims", true), noop: n.bool("noop_with_empty_axes", false),
		input: n.opset >= 18 || n.opset >= 13 && n.op == "ReduceSum",
	}
	k := n.simd
	inputs := 1
	if r.input {
		inputs = 2
	}
	table := byType{
		graph.Float32: reduceOf(r, floatReducer32(k, n.op)),
		graph.Float64: reduceOf(r, floatReducer[float64](n.op)),
		graph.Int8:    reduceOf(r, intReducer[int8](n.op)),
		graph.Int16:   reduceOf(r, intReducer[int16](n.op)),
		graph.Int32:   reduceOf(r, intReducer[int32](n.op)),
		graph.Int64:   reduceOf(r, intReducer[int64](n.op)),
		graph.Uint8:   reduceOf(r, intReducer[uint8](n.op)),
		graph.Uint16:  reduceOf(r, intReducer[uint16](n.op)),
		graph.Uint32:  reduceOf(r, intReducer[uint32](n.op)),
		graph.Uint64:  reduceOf(r, intReducer[uint64](n.op)),
	}
	switch n.op {
	case "ReduceMax":
		table[graph.Bool] = reduceOf(r, func(x []bool) bool { return slices.Contains(x, true) })
	case "ReduceMin":
		table[graph.Bool] = reduceOf(r, func(x []bool) bool { return !slices.Contains(x, false) })
	}
	return table.kernel(0), n.inputs(1, inputs)
}

type reduction struct {
	axes              []int
	keep, noop, input bool
}

// reduceState is a reduction of known shape: the dims that stay, and those
// that go, each with neighbours joined.
type reduceState struct {
	axes, shape     []int
	gone            []bool
	kept, keptSteps []int
	reduced, steps  []int
	outputs, n      int // elements of the result, and elements that go into each
	contiguous      bool
	rows            any // [workers][n]T where rows have to be gathered
}

// set works out the reduction of a shape along axes.
func (s *reduceState) set(shape, axes []int, keep bool) error {
	r := len(shape)
	s.gone = slices.Grow(s.gone[:0], r)[:r]
	clear(s.gone)
	for _, a := range axes {
		a, err := axis(a, r)
		if err != nil {
			return err
		}
		s.gone[a] = true
	}
	s.shape, s.kept, s.keptSteps, s.reduced, s.steps = s.shape[:0], s.kept[:0], s.keptSteps[:0], s.reduced[:0], s.steps[:0]
	s.outputs, s.n = 1, 1
	for i, d := range shape {
		if !s.gone[i] {
			s.shape = append(s.shape, d)
			s.outputs *= d
		} else {
			s.n *= d
			if keep {
				s.shape = append(s.shape, 1)
			}
		}
	}
	step := 1
	for i := r - 1; i >= 0; i-- { // innermost first
		dims, steps := &s.kept, &s.keptSteps
		if s.gone[i] {
			dims, steps = &s.reduced, &s.steps
		}
		if l := len(*dims) - 1; l >= 0 && (*steps)[l]*(*dims)[l] == step {
			(*dims)[l] *= shape[i]
		} else if shape[i] != 1 {
			*dims, *steps = append(*dims, shape[i]), append(*steps, step)
		}
		step *= shape[i]
	}
	s.contiguous = len(s.reduced) == 0 || len(s.reduced) == 1 && s.steps[0] == 1
	return nil
}

// reduceOf is the kernel that applies f to the elements that go into each
// element of the result, in row-major order.
func reduceOf[T element](r *reduction, f func(x []T) T) kernel {
	d := dtypeOf[T]()
	body := func(c *call, worker, lo, hi int) {
		s := c.state.(*reduceState)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		var row []T
		if !s.contiguous {
			row = s.rows.([]T)[worker*s.n:][:s.n]
		}
		for i := lo; i < hi; i++ {
			from, rest := 0, i
			for k, d := range s.kept {
				from += rest % d * s.keptSteps[k]
				rest /= d
			}
			if s.contiguous {
				z[i] = f(x[from : from+s.n])
				continue
			}
			n, step := s.reduced[0], s.steps[0]
			for at := 0; at < s.n; at += n {
				o, rest := from, at/n
				for k := 1; k < len(s.reduced); k++ {
					o += rest % s.reduced[k] * s.steps[k]
					rest /= s.reduced[k]
				}
				for j := range n {
					row[at+j] = x[o]
					o += step
				}
			}
			z[i] = f(row)
		}
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*reduceState)
		if !ok {
			s = &reduceState{}
			c.state = s
		}
		axes := r.axes
		if r.input && c.has(1) {
			var err error
			if s.axes, err = dimsOf(s.axes, c.in[1]); err != nil {
				return err
			}
			axes = s.axes
		}
		if len(axes) == 0 {
			if r.noop {
				c.share(0, x)
				return nil
			}
			s.axes = s.axes[:0]
			for i := range x.Shape {
				s.axes = append(s.axes, i)
			}
			axes = s.axes
		}
		if err := s.set(x.Shape, axes, r.keep); err != nil {
			return err
		}
		z, err := c.alloc(0, d, s.shape...)
		if err != nil {
			return err
		}
		if x.Len() == 0 {
			for i := range view[T](z) {
				view[T](z)[i] = f(nil)
			}
			return nil
		}
		if !s.contiguous {
			rows, err := scratch[T](c, s.n*c.workers())
			if err != nil {
				return err
			}
			s.rows = rows
		}
		c.parallelWorkers(s.outputs, 1+elementGrain/s.n, body)
		return nil
	}
}

// floatReducer32 uses the vector kernels where there are some.
func floatReducer32(k *simd.Kernels, op string) func(x []float32) float32 {
	switch op {
	case "ReduceSum":
		return k.Sum
	case "ReduceMean":
		return func(x []float32) float32 { return k.Sum(x) / float32(len(x)) }
	case "ReduceMax":
		return k.MaxOf
	case "ReduceMin":
		return k.MinOf
	case "ReduceSumSquare":
		return k.SumSq
	case "ReduceL2":
		return func(x []float32) float32 { return float32(math.Sqrt(float64(k.SumSq(x)))) }
	}
	return floatReducer[float32](op)
}

// floatReducer computes in float64 and rounds once.
func floatReducer[T float32 | float64](op string) func(x []T) T {
	sum := func(x []T, f func(v float64) float64) float64 {
		s := 0.0
		for _, v := range x {
			s += f(float64(v))
		}
		return s
	}
	id := func(v float64) float64 { return v }
	square := func(v float64) float64 { return v * v }
	switch op {
	case "ReduceSum":
		return func(x []T) T { return T(sum(x, id)) }
	case "ReduceMean":
		return func(x []T) T { return T(sum(x, id) / float64(len(x))) }
	case "ReduceMax":
		return func(x []T) T {
			m := T(math.Inf(-1))
			for _, v := range x {
				m = max(m, v)
			}
			return m
		}
	case "ReduceMin":
		return func(x []T) T {
			m := T(math.Inf(1))
			for _, v := range x {
				m = min(m, v)
			}
			return m
		}
	case "ReduceProd":
		return func(x []T) T {
			p := 1.0
			for _, v := range x {
				p *= float64(v)
			}
			return T(p)
		}
	case "ReduceL1":
		return func(x []T) T { return T(sum(x, math.Abs)) }
	case "ReduceL2":
		return func(x []T) T { return T(math.Sqrt(sum(x, square))) }
	case "ReduceSumSquare":
		return func(x []T) T { return T(sum(x, square)) }
	case "ReduceLogSum":
		return func(x []T) T { return T(math.Log(sum(x, id))) }
	case "ReduceLogSumExp":
		return func(x []T) T {
			m := columnMax(x, len(x), 1)
			if math.IsInf(m, 0) {
				return T(m)
			}
			return T(m + math.Log(sum(x, func(v float64) float64 { return math.Exp(v - m) })))
		}
	}
	panic(fmt.Sprintf("runtime: no reduction %s", op))
}

// intReducer computes in the type itself, wrapping around, but for functions
// that leave the integers, which are truncated.
func intReducer[T integer](op string) func(x []T) T {
	low, high := limits[T]()
	switch op {
	case "ReduceSum", "ReduceMean":
		return func(x []T) T {
			var s int64
			for _, v := range x {
				s += int64(v)
			}
			if op == "ReduceMean" && len(x) > 0 {
				s /= int64(len(x))
			}
			return T(s)
		}
	case "ReduceMax":
		return func(x []T) T {
			m := low
			for _, v := range x {
				m = max(m, v)
			}
			return m
		}
	case "ReduceMin":
		return func(x []T) T {
			m := high
			for _, v := range x {
				m = min(m, v)
			}
			return m
		}
	case "ReduceProd":
		return func(x []T) T {
			p := T(1)
			for _, v := range x {
				p *= v
			}
			return p
		}
	case "ReduceL1":
		return func(x []T) T {
			var s T
			for _, v := range x {
				if v < 0 {
					v = -v
				}
				s += v
			}
			return s
		}
	case "ReduceSumSquare":
		return func(x []T) T {
			var s T
			for _, v := range x {
				s += v * v
			}
			return s
		}
	}
	f := floatReducer[float64](op)
	return func(x []T) T {
		wide := make([]float64, len(x))
		for i, v := range x {
			wide[i] = float64(v)
		}
		return toInteger[float64, T](f(wide))
	}
}

// prepareCumulate: running sums or products along an axis, from the end with
// reverse, each without its own element with exclusive.
func prepareCumulate(n *node) (kernel, error) {
	exclusive, reverse, product := n.bool("exclusive", false), n.bool("reverse", false), n.op == "CumProd"
	run := byType{
		graph.Float32: cumulate[float32, float64](exclusive, reverse, product),
		graph.Float64: cumulate[float64, float64](exclusive, reverse, product),
		graph.Int32:   cumulate[int32, int32](exclusive, reverse, product),
		graph.Int64:   cumulate[int64, int64](exclusive, reverse, product),
		graph.Uint32:  cumulate[uint32, uint32](exclusive, reverse, product),
		graph.Uint64:  cumulate[uint64, uint64](exclusive, reverse, product),
	}.kernel(0)
	return run, n.inputs(2, 2)
}

// cumulate adds up or multiplies in type S.
func cumulate[T, S number](exclusive, reverse, product bool) kernel {
	body := func(c *call, lo, hi int) {
		l := c.state.(*lines)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		for i := lo; i < hi; i++ {
			at, step := l.line(i), l.inner
			if reverse {
				at, step = at+(l.n-1)*step, -step
			}
			var so S
			if product {
				so = 1
			}
			for range l.n {
				v := S(x[at])
				if exclusive {
					z[at] = T(so)
				}
				if product {
					so *= v
				} else {
					so += v
				}
				if !exclusive {
					z[at] = T(so)
				}
				at += step
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		at, err := c.converted(c.in[1], graph.Int64)
		if err != nil {
			return err
		}
		along, err := one[int64](at, "axis")
		if err != nil {
			return err
		}
		a, err := axis(int(max(min(along, math.MaxInt32), math.MinInt32)), len(x.Shape))
		if err != nil {
			return err
		}
		l, ok := c.state.(*lines)
		if !ok {
			l = &lines{}
			c.state = l
		}
		*l = linesOf(x.Shape, a)
		if _, err := c.alloc(0, x.DType, x.Shape...); err != nil || x.Len() == 0 {
			return err
		}
		c.parallel(l.outer*l.inner, 1+elementGrain/l.n, body)
		return nil
	}
}
