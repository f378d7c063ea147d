package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// scatterOps write elements to places that an input names.
var scatterOps = []operator{
	{"", "Scatter", 9, prepareScatterElements, nil, 0}, // deprecated by opset 11, still read
	{"", "ScatterElements", 11, prepareScatterElements, nil, halves},
	{"", "ScatterND", 11, prepareScatterND, nil, halves},
	{"", "OneHot", 9, prepareOneHot, nil, 0},
	{"", "EyeLike", 9, prepareEyeLike, nil, 0},
}

// write puts updates, run elements each, to positions of y.
type write func(y, updates *Tensor, positions []int64, run int)

// writes maps element types to how updates are combined with what is there.
// Where positions are named twice, updates apply in order.
func writes(reduction string) map[graph.DType]write {
	if reduction == "none" {
		return nil
	}
	w := map[graph.DType]write{
		graph.Float32: writeNumbers[float32](reduction), graph.Float64: writeNumbers[float64](reduction),
		graph.Int8: writeNumbers[int8](reduction), graph.Uint8: writeNumbers[uint8](reduction),
		graph.Int16: writeNumbers[int16](reduction), graph.Uint16: writeNumbers[uint16](reduction),
		graph.Int32: writeNumbers[int32](reduction), graph.Uint32: writeNumbers[uint32](reduction),
		graph.Int64: writeNumbers[int64](reduction), graph.Uint64: writeNumbers[uint64](reduction),
	}
	// Of bools, as ONNX Runtime has it: the sum is or, the product and.
	if reduction == "add" || reduction == "max" {
		w[graph.Bool] = writeWith(func(a, b bool) bool { return a || b })
	} else {
		w[graph.Bool] = writeWith(func(a, b bool) bool { return a && b })
	}
	return w
}

func writeNumbers[T number](reduction string) write {
	switch reduction {
	case "add":
		return writeWith(func(a, b T) T { return a + b })
	case "mul":
		return writeWith(func(a, b T) T { return a * b })
	case "max":
		return writeWith(func(a, b T) T { return max(a, b) })
	}
	return writeWith(func(a, b T) T { return min(a, b) })
}

func writeWith[T element](f func(a, b T) T) write {
	return func(y, updates *Tensor, positions []int64, run int) {
		z, u := view[T](y), view[T](updates)
		for i, p := range positions {
			dst, src := z[p:int(p)+run], u[i*run:]
			for j, v := range dst {
				dst[j] = f(v, src[j])
			}
		}
	}
}

// overwrite is the write of reduction none, for any type.
func overwrite(y, updates *Tensor, positions []int64, run int) {
	switch elemSize(y.DType) {
	case 0:
		overwriteElements(y.strs, updates.strs, positions, run)
	case 1:
		overwriteElements(cast[uint8](y.mem), cast[uint8](updates.mem), positions, run)
	case 2:
		overwriteElements(cast[uint16](y.mem), cast[uint16](updates.mem), positions, run)
	case 4:
		overwriteElements(cast[uint32](y.mem), cast[uint32](updates.mem), positions, run)
	case 8:
		overwriteElements(cast[uint64](y.mem), cast[uint64](updates.mem), positions, run)
	case 16:
		overwriteElements(cast[complex128](y.mem), cast[complex128](updates.mem), positions, run)
	}
}

func overwriteElements[T any](z, u []T, positions []int64, run int) {
	if run == 1 {
		for i, p := range positions {
			z[p] = u[i]
		}
		return
	}
	for i, p := range positions {
		copy(z[p:int(p)+run], u[i*run:])
	}
}

// scatter makes output 0 data with the updates written to the positions.
func (c *call) scatter(data, updates *Tensor, positions []int64, run int, table map[graph.DType]write) error {
	if updates.DType != data.DType {
		return fmt.Errorf("updates are %v, data %v", updates.DType, data.DType)
	}
	put := overwrite
	if table != nil {
		if put = table[data.DType]; put == nil {
			return wrongType(data.DType)
		}
	}
	y, err := c.alloc(0, data.DType, data.Shape...)
	if err != nil {
		return err
	}
	copy(y.mem, data.mem)
	copy(y.strs, data.strs)
	put(y, updates, positions, run)
	return nil
}

// elementPositions finds, for each element of indices, the element of a
// tensor of that shape at the same place but for the axis, where the index
// says. Indices may count from the end.
func (c *call) elementPositions(idx *Tensor, shape []int, along int) ([]int64, error) {
	a, err := axis(along, len(shape))
	if err != nil {
		return nil, err
	}
	if len(idx.Shape) != len(shape) {
		return nil, fmt.Errorf("indices have shape %v, data %v", idx.Shape, shape)
	}
	for i, d := range idx.Shape {
		if i != a && d > shape[i] {
			return nil, fmt.Errorf("indices of shape %v reach beyond data of shape %v", idx.Shape, shape)
		}
	}
	at, err := scratch[int64](c, idx.Len())
	if err != nil {
		return nil, err
	}
	if err := wide(at, idx); err != nil || len(at) == 0 {
		return at, err
	}
	n := int64(shape[a])
	var steps, dims [16]int // more dims than that are left to slices on the heap
	strides := contiguous(steps[:0], shape)
	place := append(dims[:0], make([]int, len(shape))...)
	step, last := int64(strides[a]), len(shape)-1
	base := 0 // place without the axis
	for row := 0; row < len(at); row += idx.Shape[last] {
		line := at[row : row+idx.Shape[last]]
		for j, v := range line {
			if v < -n || v >= n {
				return nil, fmt.Errorf("index %d is out of range for an axis of %d", v, n)
			}
			if v < 0 {
				v += n
			}
			p := int64(base) + v*step
			if last != a {
				p += int64(j)
			}
			line[j] = p
		}
		for k := last - 1; k >= 0; k-- {
			s := strides[k]
			if k == a {
				s = 0
			}
			base += s
			if place[k]++; place[k] < idx.Shape[k] {
				break
			}
			base -= place[k] * s
			place[k] = 0
		}
	}
	return at, nil
}

// wide reads a tensor of int32 or int64 indices.
func wide(dst []int64, t *Tensor) error {
	switch t.DType {
	case graph.Int64:
		copy(dst, t.I64())
	case graph.Int32:
		for i, v := range t.I32() {
			dst[i] = int64(v)
		}
	default:
		return fmt.Errorf("indices are %v, want int32 or int64", t.DType)
	}
	return nil
}

// slicePositions finds where the slices of a tensor of that shape begin that
// the last dim of indices names by leading coordinates, behind batch dims that
// both have in common; and how many elements a slice has.
func (c *call) slicePositions(idx *Tensor, shape []int, batch int) (positions []int64, run int, err error) {
	q := len(idx.Shape)
	if q == 0 || len(shape) == 0 {
		return nil, 0, fmt.Errorf("indices %v and data %v: want at least one dim of each", idx.Shape, shape)
	}
	k := idx.Shape[q-1]
	if batch < 0 || batch >= min(q, len(shape)) || batch+k > len(shape) || !slices.Equal(idx.Shape[:batch], shape[:batch]) {
		return nil, 0, fmt.Errorf("indices of shape %v with batch_dims %d for data of shape %v", idx.Shape, batch, shape)
	}
	if idx.DType != graph.Int64 {
		return nil, 0, fmt.Errorf("indices are %v, want int64", idx.DType)
	}
	rows, err := count(idx.Shape[:q-1])
	if err != nil {
		return nil, 0, err
	}
	if positions, err = scratch[int64](c, rows); err != nil || rows == 0 {
		return nil, 0, err
	}
	batches, err := count(shape[:batch])
	if err != nil {
		return nil, 0, err
	}
	run = 1
	for _, d := range shape[batch+k:] {
		run *= d
	}
	var steps [16]int
	strides := contiguous(steps[:0], shape)
	perBatch, batchStep := rows/batches, int64(0)
	if batch > 0 {
		batchStep = int64(strides[batch-1])
	}
	at := idx.I64()
	for r := range rows {
		p := int64(r/perBatch) * batchStep
		for j, v := range at[r*k : (r+1)*k] {
			n := int64(shape[batch+j])
			if v < -n || v >= n {
				return nil, 0, fmt.Errorf("index %d is out of range for an axis of %d", v, n)
			}
			if v < 0 {
				v += n
			}
			p += v * int64(strides[batch+j])
		}
		positions[r] = p
	}
	return positions, run, nil
}

func prepareScatterElements(n *node) (kernel, error) {
	along := n.int("axis", 0)
	table := writes(n.oneOf("reduction", "none", "none", "add", "mul", "max", "min"))
	return func(c *call) error {
		data, idx, updates := c.in[0], c.in[1], c.in[2]
		if !slices.Equal(idx.Shape, updates.Shape) {
			return fmt.Errorf("indices %v and updates %v differ in shape", idx.Shape, updates.Shape)
		}
		at, err := c.elementPositions(idx, data.Shape, along)
		if err != nil {
			return err
		}
		return c.scatter(data, updates, at, 1, table)
	}, errors.Join(n.inputs(3, 3), n.err)
}

func prepareScatterND(n *node) (kernel, error) {
	table := writes(n.oneOf("reduction", "none", "none", "add", "mul", "max", "min"))
	return func(c *call) error {
		data, idx, updates := c.in[0], c.in[1], c.in[2]
		at, run, err := c.slicePositions(idx, data.Shape, 0)
		if err != nil {
			return err
		}
		q := len(idx.Shape) - 1
		if k := idx.Shape[q]; len(updates.Shape) != q+len(data.Shape)-k ||
			!slices.Equal(updates.Shape[:q], idx.Shape[:q]) || !slices.Equal(updates.Shape[q:], data.Shape[k:]) {
			return fmt.Errorf("updates %v for indices %v into data %v", updates.Shape, idx.Shape, data.Shape)
		}
		return c.scatter(data, updates, at, run, table)
	}, errors.Join(n.inputs(3, 3), n.err)
}

// prepareOneHot: a new axis of length depth holds the on value where the index
// says and the off value elsewhere; since opset 11 indices may count from the
// end. An index out of range gives off values only.
func prepareOneHot(n *node) (kernel, error) {
	at := n.int("axis", -1)
	return func(c *call) error {
		idx, values := c.in[0], c.in[2]
		if c.in[1].Len() != 1 || values.Len() != 2 {
			return fmt.Errorf("depth has %d elements, values %d, want 1 and 2", c.in[1].Len(), values.Len())
		}
		depth, err := c.converted(c.in[1], graph.Int64)
		if err != nil {
			return err
		}
		d := depth.I64()[0]
		if d < 0 || d > math.MaxInt32 {
			return fmt.Errorf("depth is %d", d)
		}
		a, err := axis(at, len(idx.Shape)+1)
		if err != nil {
			return err
		}
		where, err := c.converted(idx, graph.Int64)
		if err != nil {
			return err
		}
		s := c.moves()
		s.shape = slices.Insert(append(s.shape[:0], idx.Shape...), a, int(d))
		y, err := c.alloc(0, values.DType, s.shape...)
		if err != nil || y.Len() == 0 {
			return err
		}
		w := elemSize(y.DType)
		if w > 0 {
			fill(y.mem, values.mem[:w])
		} else {
			for i := range y.strs {
				y.strs[i] = values.strs[0]
			}
		}
		l := linesOf(s.shape, a)
		for i, v := range where.I64() {
			if v < 0 && n.opset >= 11 {
				v += d
			}
			if v < 0 || v >= d {
				continue
			}
			copyRuns(y, values, 1, 1, 1, l.line(i)+int(v)*l.inner, 1, 1)
		}
		return nil
	}, n.inputs(3, 3)
}

// prepareEyeLike: ones on diagonal k (above the main one where k > 0) of a
// matrix with the input's shape.
func prepareEyeLike(n *node) (kernel, error) {
	k, to := n.int("k", 0), graph.DType(n.int("dtype", 0))
	if n.isSet("dtype") && !to.Known() {
		return nil, fmt.Errorf("dtype = %d is no element type", to)
	}
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) != 2 {
			return fmt.Errorf("input %v is no matrix", x.Shape)
		}
		d := to
		if !n.isSet("dtype") {
			d = x.DType
		}
		y, err := c.alloc(0, d, x.Shape...)
		if err != nil {
			return err
		}
		unit, err := c.converted(FromSlice([]int{1}, []int64{1}), d)
		if err != nil {
			return err
		}
		clear(y.mem)
		rows, cols := x.Shape[0], x.Shape[1]
		if k <= -rows || k >= cols {
			return nil
		}
		for r := max(-k, 0); r < rows && r+k < cols; r++ {
			copyRuns(y, unit, 1, 1, 1, r*cols+r+k, 1, 0)
		}
		return nil
	}, errors.Join(n.inputs(1, 1), n.err)
}
