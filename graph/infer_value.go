package graph

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/x448/float16"
)

// content is what is known of the elements of a small tensor of whole
// numbers: shapes on their way to a Reshape, and masks and constants they are
// computed with. Elements are in row-major order, nil where nothing is known.
// A floating-point tensor has a content where its elements are whole.
type content struct {
	dims  []int64
	elems []*expr
}

func scalar(x *expr) *content { return &content{elems: []*expr{x}} }

func vector(xs []*expr) *content { return &content{dims: []int64{int64(len(xs))}, elems: xs} }

// list returns the elements of a vector or scalar.
func (x *content) list() ([]*expr, bool) {
	if x == nil || len(x.dims) > 1 {
		return nil, false
	}
	return x.elems, true
}

// numbers returns the elements of a vector or scalar that is known entirely.
func (x *content) numbers() ([]int64, bool) {
	list, ok := x.list()
	if !ok {
		return nil, false
	}
	out := make([]int64, len(list))
	for i, e := range list {
		if out[i], ok = e.value(); !ok {
			return nil, false
		}
	}
	return out, true
}

// number returns the only element, if it is known.
func (x *content) number() (int64, bool) {
	if x == nil || len(x.elems) != 1 {
		return 0, false
	}
	return x.elems[0].value()
}

// allAre reports whether every element is known to be n.
func (x *content) allAre(n int64) bool {
	return x != nil && !slices.ContainsFunc(x.elems, func(e *expr) bool { return !e.is(n) })
}

// contentOf returns what is known of a value's elements, nil if nothing is.
func (e *inferer) contentOf(v *Value) *content {
	if v == nil {
		return nil
	}
	if x, ok := e.contents[v]; ok {
		return x
	}
	t := v.ConstTensor()
	if t == nil {
		return nil
	}
	x := tensorContent(t)
	if x != nil {
		if e.cells < len(x.elems) {
			x = nil
		} else {
			e.cells -= len(x.elems)
		}
	}
	e.contents[v] = x
	return x
}

func tensorContent(t *Tensor) *content {
	n, ok := NumElements(t.Dims)
	if !ok || n > maxContent || len(t.Dims) > maxRank || t.check() != nil {
		return nil
	}
	x := &content{dims: t.Dims, elems: make([]*expr, n)}
	if whole, err := t.Int64s(); err == nil {
		for i, v := range whole {
			x.elems[i] = constant(v)
		}
		return x
	}
	floats, ok := t.float64s()
	if !ok {
		return nil
	}
	for i, f := range floats {
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			x.elems[i] = constant(int64(f))
		}
	}
	return x
}

// float64s returns the elements of a floating-point tensor.
func (t *Tensor) float64s() ([]float64, bool) {
	raw, err := t.Bytes()
	n := t.Len()
	if size, ok := t.DType.ByteSize(n); err != nil || !ok || int64(len(raw)) != size || !t.DType.IsFloat() {
		return nil, false
	}
	le := binary.LittleEndian
	out := make([]float64, n)
	for i := range out {
		switch t.DType {
		case Float32:
			out[i] = float64(math.Float32frombits(le.Uint32(raw[4*i:])))
		case Float64:
			out[i] = math.Float64frombits(le.Uint64(raw[8*i:]))
		case Float16:
			out[i] = float64(float16.Frombits(le.Uint16(raw[2*i:])).Float32())
		case BFloat16:
			out[i] = float64(math.Float32frombits(uint32(le.Uint16(raw[2*i:])) << 16))
		}
	}
	return out, true
}

// small reports whether dims hold few enough elements to be followed, and how
// many.
func small(dims []int64) (int, bool) {
	n, ok := NumElements(dims)
	return int(n), ok && n <= maxContent && len(dims) <= maxRank
}

// offsets calls f for every position of dims in order, with the position.
func positions(dims []int64, f func(at []int64)) {
	n, ok := small(dims)
	if !ok {
		return
	}
	at := make([]int64, len(dims))
	for range n {
		f(at)
		for k := len(at) - 1; k >= 0; k-- {
			if at[k]++; at[k] < dims[k] {
				break
			}
			at[k] = 0
		}
	}
}

// at returns the element at a position of a tensor that x is broadcast to.
func (x *content) at(at []int64) *expr {
	i := int64(0)
	skip := len(at) - len(x.dims)
	for k, d := range x.dims {
		i *= d
		if d != 1 {
			i += at[skip+k]
		}
	}
	return x.elems[i]
}

// elementwise applies f to one or more tensors, broadcast to each other.
func elementwise(f func(xs []*expr) *expr, args ...*content) *content {
	var dims []int64
	for _, x := range args {
		if x == nil {
			return nil
		}
		if len(x.dims) > len(dims) {
			dims = slices.Concat(slices.Repeat([]int64{1}, len(x.dims)-len(dims)), dims)
		}
		for k, d := range x.dims {
			o := &dims[len(dims)-len(x.dims)+k]
			switch {
			case *o == 1:
				*o = d
			case d != 1 && d != *o:
				return nil
			}
		}
	}
	n, ok := small(dims)
	if !ok {
		return nil
	}
	out := &content{dims: dims, elems: make([]*expr, 0, n)}
	xs := make([]*expr, len(args))
	positions(dims, func(at []int64) {
		for i, x := range args {
			xs[i] = x.at(at)
		}
		out.elems = append(out.elems, f(xs))
	})
	return out
}

// fold makes a function of two elements one of a list, for elementwise.
func fold(f func(a, b *expr) *expr) func([]*expr) *expr {
	return func(xs []*expr) *expr {
		out := xs[0]
		for _, x := range xs[1:] {
			out = f(out, x)
		}
		return out
	}
}

// truth makes a comparison an element: 1, 0, or nil where it is not known.
func truth(yes, known bool) *expr {
	switch {
	case !known:
		return nil
	case yes:
		return constant(1)
	}
	return constant(0)
}

// choose returns a where cond is 1 and b where it is 0; both if they agree.
func choose(xs []*expr) *expr {
	cond, a, b := xs[0], xs[1], xs[2]
	switch v, ok := cond.value(); {
	case ok && v != 0:
		return a
	case ok:
		return b
	case a.equal(b):
		return a
	}
	return nil
}

// divide is integer division as Go and ONNX Runtime do it, toward zero.
func divide(a, b *expr) *expr {
	x, okX := a.value()
	y, okY := b.value()
	if okX && okY {
		if y == 0 {
			return nil
		}
		return constant(x / y)
	}
	return a.floorDiv(b)
}

// modulo is Mod with fmod = 0: the sign of the divisor.
func modulo(a, b *expr) *expr {
	return a.sub(a.floorDiv(b).mul(b))
}

// reshape returns x under other dims, which must hold as many elements.
func (x *content) reshape(dims []int64) *content {
	if x == nil {
		return nil
	}
	if n, ok := small(dims); !ok || n != len(x.elems) {
		return nil
	}
	return &content{dims: dims, elems: x.elems}
}

// pick returns the elements of x at the positions that index computes for
// every position of dims.
func (x *content) pick(dims []int64, index func(at, from []int64)) *content {
	n, ok := small(dims)
	if x == nil || !ok {
		return nil
	}
	out := &content{dims: dims, elems: make([]*expr, 0, n)}
	from := make([]int64, len(x.dims))
	positions(dims, func(at []int64) {
		index(at, from)
		out.elems = append(out.elems, x.at(from))
	})
	return out
}

// staticDims returns dims as numbers.
func staticDims(dims []Dim) ([]int64, bool) {
	out := make([]int64, len(dims))
	for i, d := range dims {
		if !d.IsKnown() {
			return nil, false
		}
		out[i] = d.N
	}
	return out, true
}

// reshaped gives output 0 the content of input 0 under the dims that the rule
// found for the output.
func (c *call) reshaped() {
	if x := c.content(0); x != nil && len(c.out) > 0 {
		if dims, ok := c.out[0].StaticDims(); ok {
			c.values[0] = x.reshape(dims)
		}
	}
}

// give sets the content of output i.
func (c *call) give(i int, x *content) {
	if i < len(c.values) {
		c.values[i] = x
	}
}
