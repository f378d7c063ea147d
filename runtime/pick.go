package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// pickOps pick elements of their input by index.
var pickOps = []operator{
	{"", "NonZero", 9, prepareNonZero, nil, 0},
	{"", "GatherElements", 11, prepareGatherElements, gradMoved, 0},
	{"", "GatherND", 11, prepareGatherND, gradMoved, 0},
	{"", "Compress", 9, prepareCompress, gradMoved, 0},
	{"", "ReverseSequence", 10, prepareReverseSequence, gradMoved, 0},
	{"", "Trilu", 14, prepareTrilu, gradMoved, 0},
	{"", "ArgMax", 1, prepareArg, nil, halves},
	{"", "ArgMin", 1, prepareArg, nil, halves},
}

// prepareNonZero gives the indices of the elements that are not zero, [rank,
// n], in row-major order; a scalar counts as a list of one.
func prepareNonZero(n *node) (kernel, error) {
	return func(c *call) error {
		x := c.in[0]
		at, err := scratch[int64](c, x.Len())
		if err != nil {
			return err
		}
		switch w := elemSize(x.DType); {
		case w == 0:
			return wrongType(x.DType)
		case x.DType.IsFloat():
			// Zero is all bits zero but for the sign, the highest bit.
			switch w {
			case 2:
				at = nonZero(at, cast[uint16](x.mem), 1<<15-1)
			case 4:
				at = nonZero(at, cast[uint32](x.mem), 1<<31-1)
			case 8:
				at = nonZero(at, cast[uint64](x.mem), 1<<63-1)
			default:
				return wrongType(x.DType)
			}
		case w == 1:
			at = nonZero(at, cast[uint8](x.mem), math.MaxUint8)
		case w == 2:
			at = nonZero(at, cast[uint16](x.mem), math.MaxUint16)
		case w == 4:
			at = nonZero(at, cast[uint32](x.mem), math.MaxUint32)
		case x.DType == graph.Complex64 || x.DType == graph.Complex128:
			return wrongType(x.DType)
		default:
			at = nonZero(at, cast[uint64](x.mem), math.MaxUint64)
		}
		rank := max(len(x.Shape), 1)
		y, err := c.alloc(0, graph.Int64, rank, len(at))
		if err != nil {
			return err
		}
		out := y.I64()
		for a := len(x.Shape) - 1; a >= 0; a-- {
			d := int64(x.Shape[a])
			row := out[a*len(at) : (a+1)*len(at)]
			for k, i := range at {
				row[k] = i % d
				at[k] = i / d
			}
		}
		if len(x.Shape) == 0 {
			clear(out)
		}
		return nil
	}, n.inputs(1, 1)
}

// nonZero lists where x has a bit of mask, in memory that holds len(x).
func nonZero[T uint8 | uint16 | uint32 | uint64](at []int64, x []T, mask T) []int64 {
	n := 0
	for i, v := range x {
		if v&mask != 0 {
			at[n] = int64(i)
			n++
		}
	}
	return at[:n]
}

// positions is what the copies of this file keep for their threads.
type positions struct {
	at  []int64
	run int
}

// pick makes output 0 the elements of x at those positions, run elements
// from each on.
func (c *call) pick(x *Tensor, at []int64, run int, shape ...int) error {
	y, err := c.alloc(0, x.DType, shape...)
	if err != nil || y.Len() == 0 {
		return err
	}
	s, ok := c.state.(*positions)
	if !ok {
		s = &positions{}
		c.state = s
	}
	s.at, s.run = at, run
	bodies := byWidth{0: pickStrings, 1: pickElements[uint8], 2: pickElements[uint16], 4: pickElements[uint32], 8: pickElements[uint64], 16: pickElements[complex128]}
	c.parallel(len(at), 1+elementGrain/run, bodies[elemSize(x.DType)])
	s.at = nil
	return nil
}

func pickElements[T element](c *call, lo, hi int) {
	s := c.state.(*positions)
	y, x := cast[T](c.out[0].mem), cast[T](c.in[0].mem)
	if s.run == 1 {
		for i, p := range s.at[lo:hi] {
			y[lo+i] = x[p]
		}
		return
	}
	for i := lo; i < hi; i++ {
		copy(y[i*s.run:(i+1)*s.run], x[s.at[i]:])
	}
}

func pickStrings(c *call, lo, hi int) {
	s := c.state.(*positions)
	for i := lo; i < hi; i++ {
		copy(c.out[0].strs[i*s.run:(i+1)*s.run], c.in[0].strs[s.at[i]:])
	}
}

// prepareGatherElements: y[i…] has the shape of indices and is x at i… with
// the index along the axis taken from indices.
func prepareGatherElements(n *node) (kernel, error) {
	along := n.int("axis", 0)
	return func(c *call) error {
		at, err := c.elementPositions(c.in[1], c.in[0].Shape, along)
		if err != nil {
			return err
		}
		return c.pick(c.in[0], at, 1, c.in[1].Shape...)
	}, n.inputs(2, 2)
}

// prepareGatherND: the last axis of indices holds the leading coordinates,
// behind batch_dims, of the slices of x to take.
func prepareGatherND(n *node) (kernel, error) {
	batch := n.int("batch_dims", 0)
	return func(c *call) error {
		x, idx := c.in[0], c.in[1]
		at, run, err := c.slicePositions(idx, x.Shape, batch)
		if err != nil {
			return err
		}
		q := len(idx.Shape) - 1
		var dims [16]int
		return c.pick(x, at, run, append(append(dims[:0], idx.Shape[:q]...), x.Shape[batch+idx.Shape[q]:]...)...)
	}, n.inputs(2, 2)
}

// prepareCompress takes the slices along the axis, or the elements of the
// flattened input, where the condition holds; beyond its end it does not.
func prepareCompress(n *node) (kernel, error) {
	along, flat := n.int("axis", 0), !n.isSet("axis")
	return func(c *call) error {
		x, cond := c.in[0], c.in[1]
		if cond.DType != graph.Bool || len(cond.Shape) != 1 {
			return fmt.Errorf("condition is %v%v, want a list of bool", cond.DType, cond.Shape)
		}
		l, a := lines{1, x.Len(), 1}, 0
		if !flat {
			var err error
			if a, err = axis(along, len(x.Shape)); err != nil {
				return err
			}
			l = linesOf(x.Shape, a)
		}
		if cond.Len() > l.n {
			return fmt.Errorf("condition has %d elements for an axis of %d", cond.Len(), l.n)
		}
		kept := 0
		for _, v := range cond.Bools() {
			if v {
				kept++
			}
		}
		shape := []int{kept}
		if !flat {
			shape = slices.Clone(x.Shape)
			shape[a] = kept
		}
		at, err := scratch[int64](c, l.outer*kept)
		if err != nil {
			return err
		}
		at = at[:0]
		for o := range l.outer {
			for i, v := range cond.Bools() {
				if v {
					at = append(at, int64((o*l.n+i)*l.inner))
				}
			}
		}
		return c.pick(x, at, l.inner, shape...)
	}, n.inputs(2, 2)
}

// prepareReverseSequence turns the first sequence_lens[b] steps of every
// sample around; one of the first two dims counts the samples (batch_axis),
// the other the steps (time_axis).
func prepareReverseSequence(n *node) (kernel, error) {
	batch, time := n.int("batch_axis", 1), n.int("time_axis", 0)
	if batch != 1-time || batch != 0 && batch != 1 {
		return nil, fmt.Errorf("batch_axis = %d, time_axis = %d, want 0 and 1", batch, time)
	}
	return func(c *call) error {
		x, lens := c.in[0], c.in[1]
		if len(x.Shape) < 2 || lens.DType != graph.Int64 || len(lens.Shape) != 1 || lens.Len() != x.Shape[batch] {
			return fmt.Errorf("sequence_lens are %v%v for an input %v", lens.DType, lens.Shape, x.Shape)
		}
		rows, cols := x.Shape[0], x.Shape[1]
		run, err := count(x.Shape[2:])
		if err != nil {
			return err
		}
		at, err := scratch[int64](c, rows*cols)
		if err != nil {
			return err
		}
		for i := range at {
			b, t := i/cols, i%cols
			if batch == 1 {
				b, t = t, b
			}
			n := int(lens.I64()[b])
			if n < 0 || n > x.Shape[time] {
				return fmt.Errorf("sequence of length %d in an input %v", n, x.Shape)
			}
			if t < n {
				t = n - 1 - t
			}
			if batch == 1 {
				b, t = t, b
			}
			at[i] = int64((b*cols + t) * run)
		}
		return c.pick(x, at, max(run, 1), x.Shape...)
	}, n.inputs(2, 2)
}

// prepareTrilu keeps the upper (or lower) triangle of the last two axes, from
// diagonal k on, and zeroes the rest.
func prepareTrilu(n *node) (kernel, error) {
	upper := n.bool("upper", true)
	return func(c *call) error {
		x := c.in[0]
		rank := len(x.Shape)
		if rank < 2 {
			return fmt.Errorf("an input of shape %v has no triangle", x.Shape)
		}
		k := 0
		if c.has(1) {
			v, err := one[int64](c.in[1], "k")
			if err != nil {
				return err
			}
			k = int(max(min(v, math.MaxInt32), -math.MaxInt32))
		}
		y, err := c.alloc(0, x.DType, x.Shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		w := elemSize(x.DType)
		if w == 0 {
			return wrongType(x.DType)
		}
		copy(y.mem, x.mem)
		rows, cols := x.Shape[rank-2], x.Shape[rank-1]
		for at := 0; at < y.Len(); at += rows * cols {
			for r := range rows {
				cut := min(max(r+k, 0), cols) // columns below the diagonal
				lo, hi := 0, cut
				if !upper {
					lo, hi = min(max(r+k+1, 0), cols), cols
				}
				clear(y.mem[(at+r*cols+lo)*w : (at+r*cols+hi)*w])
			}
		}
		return nil
	}, n.inputs(1, 2)
}

// prepareArg: the index of the largest or smallest element along an axis, of
// equals the first, or the last with select_last_index.
func prepareArg(n *node) (kernel, error) {
	along := n.int("axis", 0)
	keepdims, last, largest := n.bool("keepdims", true), n.bool("select_last_index", false), n.op == "ArgMax"
	run := byType{
		graph.Float32: argOf[float32](along, largest, last), graph.Float64: argOf[float64](along, largest, last),
		graph.Int8: argOf[int8](along, largest, last), graph.Uint8: argOf[uint8](along, largest, last),
		graph.Int16: argOf[int16](along, largest, last), graph.Uint16: argOf[uint16](along, largest, last),
		graph.Int32: argOf[int32](along, largest, last), graph.Uint32: argOf[uint32](along, largest, last),
		graph.Int64: argOf[int64](along, largest, last), graph.Uint64: argOf[uint64](along, largest, last),
	}.kernel(0)
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) == 0 && (along == 0 || along == -1) {
			y, err := c.alloc(0, graph.Int64)
			if err == nil {
				y.I64()[0] = 0
			}
			return err
		}
		a, err := axis(along, len(x.Shape))
		if err != nil {
			return err
		}
		if x.Shape[a] == 0 {
			return fmt.Errorf("axis %d of an input of shape %v is empty", along, x.Shape)
		}
		shape := slices.Clone(x.Shape)
		if shape[a] = 1; !keepdims {
			shape = slices.Delete(shape, a, a+1)
		}
		if _, err := c.alloc(0, graph.Int64, shape...); err != nil {
			return err
		}
		return run(c)
	}, errors.Join(n.inputs(1, 1), n.err)
}

// argOf is the kernel for one element type, over the output that is there.
func argOf[T number](along int, largest, last bool) kernel {
	return func(c *call) error {
		x, out := c.in[0], c.out[0].I64()
		a, err := axis(along, len(x.Shape))
		if err != nil {
			return err
		}
		in, n, step := view[T](x), x.Shape[a], 1
		for _, d := range x.Shape[a+1:] {
			step *= d
		}
		for i := range out {
			at := i/step*step*n + i%step
			best, where := in[at], 0
			for k := 1; k < n && best == best; k++ {
				v := in[at+k*step]
				if v != v || largest && v > best || !largest && v < best || last && v == best {
					best, where = v, k
				}
			}
			out[i] = int64(where)
		}
		return nil
	}
}
