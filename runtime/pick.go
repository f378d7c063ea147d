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
	{"", "NonZero", 9, prepareNonZero, 0},
	{"", "GatherElements", 11, prepareGatherElements, 0},
	{"", "GatherND", 11, prepareGatherND, 0},
	{"", "Trilu", 14, prepareTrilu, 0},
	{"", "ArgMax", 1, prepareArg, halves},
	{"", "ArgMin", 1, prepareArg, halves},
}

// prepareNonZero gives the indices of the elements that are not zero, [rank,
// n], in row-major order.
func prepareNonZero(n *node) (kernel, error) {
	return func(c *call) error {
		x := c.in[0]
		w := elemSize(x.DType)
		if w == 0 {
			return wrongType(x.DType)
		}
		var at []int
		for i := range x.Len() {
			e := x.mem[i*w : (i+1)*w]
			// Zero is all bits zero, but for the sign of a float.
			zero := true
			for k, b := range e {
				if x.DType.IsFloat() && k == w-1 {
					b &= 0x7f
				}
				zero = zero && b == 0
			}
			if !zero {
				at = append(at, i)
			}
		}
		rank := max(len(x.Shape), 1)
		y, err := c.alloc(0, graph.Int64, rank, len(at))
		if err != nil {
			return err
		}
		out := y.I64()
		for k, i := range at {
			for a := len(x.Shape) - 1; a >= 0; a-- {
				out[a*len(at)+k] = int64(i % x.Shape[a])
				i /= x.Shape[a]
			}
		}
		return nil
	}, n.inputs(1, 1)
}

// indexAt reads element i of a tensor of int32 or int64 as an index of an
// axis of length d, negative ones counting from the end.
func indexAt(t *Tensor, i, d int) (int, error) {
	var v int64
	if t.DType == graph.Int64 {
		v = cast[int64](t.mem)[i]
	} else {
		v = int64(cast[int32](t.mem)[i])
	}
	if v < -int64(d) || v >= int64(d) {
		return 0, fmt.Errorf("index %d is out of range for an axis of %d", v, d)
	}
	if v < 0 {
		v += int64(d)
	}
	return int(v), nil
}

func isIndex(t *Tensor) error {
	if t.DType != graph.Int64 && t.DType != graph.Int32 {
		return fmt.Errorf("indices are %v, want int32 or int64", t.DType)
	}
	return nil
}

// prepareGatherElements: y[i…] has the shape of indices and is x at i… with
// the index along the axis taken from indices.
func prepareGatherElements(n *node) (kernel, error) {
	along := n.int("axis", 0)
	return func(c *call) error {
		x, idx, s := c.in[0], c.in[1], c.moves()
		a, err := axis(along, len(x.Shape))
		if err != nil {
			return err
		}
		if err := isIndex(idx); err != nil {
			return err
		}
		if len(idx.Shape) != len(x.Shape) {
			return fmt.Errorf("indices of shape %v for an input of shape %v", idx.Shape, x.Shape)
		}
		for i, d := range idx.Shape {
			if i != a && d > x.Shape[i] {
				return fmt.Errorf("indices of shape %v for an input of shape %v", idx.Shape, x.Shape)
			}
		}
		y, err := c.alloc(0, x.DType, idx.Shape...)
		if err != nil {
			return err
		}
		s.strides = contiguous(s.strides, x.Shape)
		s.axes = append(s.axes[:0], make([]int, len(x.Shape))...)
		for i := range y.Len() {
			at, err := indexAt(idx, i, x.Shape[a])
			if err != nil {
				return err
			}
			pos := at * s.strides[a]
			for k, j := range s.axes {
				if k != a {
					pos += j * s.strides[k]
				}
			}
			copyRuns(y, x, 1, 1, 1, i, 1, pos)
			for k := len(s.axes) - 1; k >= 0; k-- {
				if s.axes[k]++; s.axes[k] < idx.Shape[k] {
					break
				}
				s.axes[k] = 0
			}
		}
		return nil
	}, n.inputs(2, 2)
}

// prepareGatherND: the last axis of indices holds the leading coordinates,
// behind batch_dims, of the slices of x to take.
func prepareGatherND(n *node) (kernel, error) {
	batch := n.int("batch_dims", 0)
	return func(c *call) error {
		x, idx, s := c.in[0], c.in[1], c.moves()
		if idx.DType != graph.Int64 || len(idx.Shape) == 0 || len(x.Shape) == 0 {
			return fmt.Errorf("indices are %v%v for an input of shape %v", idx.DType, idx.Shape, x.Shape)
		}
		q := len(idx.Shape)
		k := idx.Shape[q-1]
		if batch < 0 || batch >= min(q, len(x.Shape)) || k < 1 || batch+k > len(x.Shape) || !slices.Equal(idx.Shape[:batch], x.Shape[:batch]) {
			return fmt.Errorf("indices of shape %v with batch_dims %d for an input of shape %v", idx.Shape, batch, x.Shape)
		}
		s.shape = append(append(s.shape[:0], idx.Shape[:q-1]...), x.Shape[batch+k:]...)
		y, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		s.strides = contiguous(s.strides, x.Shape)
		run := 1
		for _, d := range x.Shape[batch+k:] {
			run *= d
		}
		rows := idx.Len() / k
		perBatch := rows
		batchStep := 0
		if batch > 0 {
			b := 1
			for _, d := range x.Shape[:batch] {
				b *= d
			}
			perBatch, batchStep = rows/b, s.strides[batch-1]
		}
		for r := range rows {
			pos := r / perBatch * batchStep
			for j := range k {
				at, err := indexAt(idx, r*k+j, x.Shape[batch+j])
				if err != nil {
					return err
				}
				pos += at * s.strides[batch+j]
			}
			copyRuns(y, x, 1, run, run, r*run, run, pos)
		}
		return nil
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
