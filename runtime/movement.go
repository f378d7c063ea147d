package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// movementOps move elements of any type without looking at them.
var movementOps = []operator{
	{"", "Transpose", 1, prepareTranspose, gradTranspose, 0},
	{"", "Concat", 4, prepareConcat, gradConcat, 0},
	{"", "Gather", 1, prepareGather, gradGather, 0},
	{"", "Expand", 8, prepareExpand, gradExpand, 0},
}

// byWidth chooses among generic functions by the width of an element type;
// strings have width 0.
type byWidth [17]func(c *call, lo, hi int)

// prepareTranspose: without perm the dims are reversed.
func prepareTranspose(n *node) (kernel, error) {
	perm := n.ints("perm")
	bodies := byWidth{
		0: transpose(func(t *Tensor) []string { return t.strs }),
		1: transpose(view[uint8]), 2: transpose(view[uint16]), 4: transpose(view[uint32]), 8: transpose(view[uint64]), 16: transpose(view[complex128]),
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*transposed)
		if !ok {
			s = &transposed{}
			c.state = s
		}
		if err := s.set(x.Shape, perm); err != nil {
			return err
		}
		if s.trivial {
			return c.view(0, x, s.shape...)
		}
		if _, err := c.alloc(0, x.DType, s.shape...); err != nil {
			return err
		}
		last := len(s.dims) - 1
		rows := 1
		for _, d := range s.dims[:last] {
			rows *= d
		}
		c.parallel(rows, 1+elementGrain/max(s.dims[last], 1), bodies[elemSize(x.DType)])
		return nil
	}, n.inputs(1, 1)
}

// transposed is a permutation of dims with those joined that stay together:
// the result's dims, and the stride in the input for each.
type transposed struct {
	seen, shape, dims, strides []int
	order                      []int
	trivial                    bool // only dims of 1 change place
}

func (s *transposed) set(shape, perm []int) error {
	if s.dims != nil && slices.Equal(shape, s.seen) {
		return nil
	}
	r := len(shape)
	s.seen = append(s.seen[:0], shape...)
	s.order = s.order[:0]
	for i := range r {
		s.order = append(s.order, r-1-i)
	}
	if perm != nil {
		if len(perm) != r {
			return fmt.Errorf("perm %v does not fit rank %d", perm, r)
		}
		for i, p := range perm {
			a, err := axis(p, r)
			if err != nil {
				return err
			}
			if slices.Contains(s.order[:i], a) {
				return fmt.Errorf("perm %v names an axis twice", perm)
			}
			s.order[i] = a
		}
	}
	s.shape, s.dims, s.strides = s.shape[:0], s.dims[:0], s.strides[:0]
	step := make([]int, r)
	at := 1
	for i := r - 1; i >= 0; i-- {
		step[i] = at
		at *= shape[i]
	}
	for _, p := range s.order {
		s.shape = append(s.shape, shape[p])
		if shape[p] == 1 {
			continue
		}
		if l := len(s.dims) - 1; l >= 0 && s.strides[l] == step[p]*shape[p] {
			s.dims[l] *= shape[p]
			s.strides[l] = step[p]
			continue
		}
		s.dims, s.strides = append(s.dims, shape[p]), append(s.strides, step[p])
	}
	s.trivial = len(s.dims) <= 1
	if len(s.dims) == 0 {
		s.dims, s.strides = append(s.dims, 1), append(s.strides, 1)
	}
	return nil
}

// transpose computes rows [lo, hi) of the result, a row being its last dim.
// Where the dim before it runs along the input, blocks of rows are copied
// together, so that both sides stay in cache.
func transpose[T any](elems func(*Tensor) []T) func(c *call, lo, hi int) {
	return func(c *call, lo, hi int) {
		s := c.state.(*transposed)
		z, x := elems(c.out[0]), elems(c.in[0])
		last := len(s.dims) - 1
		n, step := s.dims[last], s.strides[last]
		tall, down := 1, 0
		if last > 0 {
			tall, down = s.dims[last-1], s.strides[last-1]
		}
		for row := lo; row < hi; {
			rows := min(tall-row%tall, hi-row)
			from, rest := row%tall*down, row/tall
			for k := last - 2; k >= 0; k-- {
				from += rest % s.dims[k] * s.strides[k]
				rest /= s.dims[k]
			}
			if step == 1 {
				for i := range rows {
					copy(z[(row+i)*n:(row+i+1)*n], x[from+i*down:])
				}
			} else {
				const block = 16
				for i0 := 0; i0 < rows; i0 += block {
					i1 := min(i0+block, rows)
					for j0 := 0; j0 < n; j0 += block {
						j1 := min(j0+block, n)
						for i := i0; i < i1; i++ {
							zr := z[(row+i)*n+j0 : (row+i)*n+j1]
							at := from + i*down + j0*step
							for j := range zr {
								zr[j] = x[at]
								at += step
							}
						}
					}
				}
			}
			row += rows
		}
	}
}

// prepareConcat: axis may count from the end since opset 11.
func prepareConcat(n *node) (kernel, error) {
	if !n.isSet("axis") {
		return nil, errors.New("attribute axis is missing")
	}
	return concat(n.int("axis", 1)), n.inputs(1, -1)
}

// concat joins its inputs along an axis.
func concat(at int) kernel {
	type state struct{ shape []int }
	return func(c *call) error {
		x := c.in[0]
		a, err := axis(at, len(x.Shape))
		if err != nil {
			return err
		}
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		s.shape = append(s.shape[:0], x.Shape...)
		s.shape[a] = 0
		for i, t := range c.in {
			if t == nil || t.DType != x.DType || len(t.Shape) != len(x.Shape) {
				return fmt.Errorf("input %d is missing or not %v of rank %d like input 0", i, x.DType, len(x.Shape))
			}
			for k, d := range t.Shape {
				if k != a && d != x.Shape[k] {
					return fmt.Errorf("input %d has shape %v, input 0 %v: they differ beside axis %d", i, t.Shape, x.Shape, a)
				}
			}
			if s.shape[a] += t.Shape[a]; s.shape[a] < 0 {
				return errors.New("the inputs are too long")
			}
		}
		z, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		l := linesOf(s.shape, a)
		w := elemSize(x.DType)
		to := 0
		for _, t := range c.in {
			n := t.Shape[a] * l.inner
			if n*w == 4 { // halves of a rotation that are put together again
				dst, src := cast[uint32](z.mem), cast[uint32](t.mem)
				for o, v := range src {
					dst[o*(l.n*l.inner)+to] = v
				}
				to += n
				continue
			}
			for o := range l.outer {
				if x.DType == graph.String {
					copy(z.strs[o*l.n*l.inner+to:][:n], t.strs[o*n:])
				} else {
					copy(z.mem[(o*l.n*l.inner+to)*w:][:n*w], t.mem[o*n*w:])
				}
			}
			to += n
		}
		return nil
	}
}

// indicesOf reads a tensor of int32 or int64 indices into an axis of n, in
// range and counted from the start.
func indicesOf(dst []int, t *Tensor, n int) ([]int, error) {
	dst = dst[:0]
	put := func(v int64) error {
		if v < int64(-n) || v >= int64(n) {
			return fmt.Errorf("index %d is out of range for %d", v, n)
		}
		if v < 0 {
			v += int64(n)
		}
		dst = append(dst, int(v))
		return nil
	}
	switch t.DType {
	case graph.Int64:
		for _, v := range t.I64() {
			if err := put(v); err != nil {
				return dst, err
			}
		}
	case graph.Int32:
		for _, v := range t.I32() {
			if err := put(int64(v)); err != nil {
				return dst, err
			}
		}
	default:
		return dst, fmt.Errorf("indices are %v, want int32 or int64", t.DType)
	}
	return dst, nil
}

// prepareGather: the axis is replaced by the dims of the indices.
func prepareGather(n *node) (kernel, error) {
	at := n.int("axis", 0)
	type state struct {
		lines
		idx, shape []int
	}
	body := func(c *call, lo, hi int) {
		s := c.state.(*state)
		x, z := c.in[0], c.out[0]
		w := elemSize(x.DType) * s.inner
		if w == 4 && len(s.idx) == 1 { // one column, as of pairs that are rotated
			dst, src := cast[uint32](z.mem), cast[uint32](x.mem)[s.idx[0]:]
			for i := lo; i < hi; i++ {
				dst[i] = src[i*s.n]
			}
			return
		}
		for i := lo; i < hi; i++ {
			from := i/len(s.idx)*s.n + s.idx[i%len(s.idx)]
			if w == 0 {
				copy(z.strs[i*s.inner:(i+1)*s.inner], x.strs[from*s.inner:])
			} else {
				copy(z.mem[i*w:(i+1)*w], x.mem[from*w:])
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		a, err := axis(at, len(x.Shape))
		if err != nil {
			return err
		}
		s.lines = linesOf(x.Shape, a)
		if s.idx, err = indicesOf(s.idx, c.in[1], s.n); err != nil {
			return err
		}
		s.shape = append(append(append(s.shape[:0], x.Shape[:a]...), c.in[1].Shape...), x.Shape[a+1:]...)
		z, err := c.alloc(0, x.DType, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		c.parallel(s.outer*len(s.idx), 1+elementGrain/s.inner, body)
		return nil
	}, n.inputs(2, 2)
}

// prepareExpand broadcasts in both directions between the input and a shape.
func prepareExpand(n *node) (kernel, error) {
	type state struct {
		broadcast
		dims []int
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		var err error
		if s.dims, err = dimsOf(s.dims, c.in[1]); err != nil {
			return err
		}
		if _, err := count(s.dims); err != nil {
			return err
		}
		if err := s.set(x.Shape, s.dims); err != nil {
			return err
		}
		b := &s.broadcast
		if b.size == x.Len() {
			return c.view(0, x, b.shape...)
		}
		z, err := c.alloc(0, x.DType, b.shape...)
		if err != nil {
			return err
		}
		w := elemSize(x.DType)
		repeat := b.inner(0) == 0
		for r := b.from(0, b.size); r.ok(); r.next() {
			switch {
			case w == 0:
				for i := range r.n {
					z.strs[r.at+i] = x.strs[r.off[0]+i*b.inner(0)]
				}
			case repeat:
				fill(z.mem[r.at*w:(r.at+r.n)*w], x.mem[r.off[0]*w:(r.off[0]+1)*w])
			default:
				copy(z.mem[r.at*w:(r.at+r.n)*w], x.mem[r.off[0]*w:])
			}
		}
		return nil
	}, n.inputs(2, 2)
}

// fill repeats an element over z.
func fill(z, elem []byte) {
	n := copy(z, elem)
	for n < len(z) {
		n += copy(z[n:], z[:n])
	}
}
