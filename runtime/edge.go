package runtime

import (
	"fmt"
	"slices"
	"sort"
	"unsafe"

	"github.com/x448/float16"
	_ "go4.org/unsafe/assume-no-moving-gc" // gorgonia's tensors need a version that knows this Go
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// symbol is what a run has bound a symbolic dimension to.
type symbol struct {
	n     int
	input string
}

// feed checks the fed tensors against the ports and puts them into the main
// frame.
func (s *Session) feed(feeds map[string]tensor.Tensor) error {
	clear(s.symbols)
	for i := range s.prog.inputs {
		p := &s.prog.inputs[i]
		d, ok := feeds[p.Name]
		if !ok || d == nil {
			return fmt.Errorf("input %q (%v) is not fed", p.Name, p)
		}
		if p.Other != nil {
			return fmt.Errorf("input %q is a %v; Session.RunTensors takes those", p.Name, p.Other)
		}
		t := s.main.values[s.prog.main.inputs[i]]
		if err := fromDense(t, d, p.DType); err != nil {
			return fmt.Errorf("input %q: %w", p.Name, err)
		}
		if err := s.fits(p, t.Shape); err != nil {
			return fmt.Errorf("input %q: %w", p.Name, err)
		}
	}
	if err := s.feedCaches(); err != nil {
		return err
	}
	return fedOnly(s.prog.inputs, feeds)
}

// fedOnly refuses what is fed beyond the inputs.
func fedOnly[T any](inputs []Port, feeds map[string]T) error {
	if len(feeds) <= len(inputs) {
		return nil
	}
	var extra []string
	for name := range feeds {
		if !slices.ContainsFunc(inputs, func(p Port) bool { return p.Name == name }) {
			extra = append(extra, name)
		}
	}
	sort.Strings(extra)
	return fmt.Errorf("%q is no input of the model; its inputs are %v", extra, inputs)
}

// feedTensors is feed for tensors of the runtime's own, which share their
// memory with the frame.
func (s *Session) feedTensors(feeds map[string]*Tensor) error {
	clear(s.symbols)
	for i := range s.prog.inputs {
		p := &s.prog.inputs[i]
		x := feeds[p.Name]
		switch {
		case x == nil:
			return fmt.Errorf("input %q (%v) is not fed", p.Name, p)
		case x.seq != nil && p.Other == nil:
			return fmt.Errorf("input %q is %s, the model takes %v", p.Name, x.kindOf(), p)
		case x.seq == nil && p.Other == nil && x.DType != p.DType && p.DType != graph.Undefined:
			return fmt.Errorf("input %q: element type is %v, the model takes %v", p.Name, x.DType, p.DType)
		case x.seq == nil && p.Other == nil:
			if err := s.fits(p, x.Shape); err != nil {
				return fmt.Errorf("input %q: %w", p.Name, err)
			}
		}
		s.pool.share(s.main.values[s.prog.main.inputs[i]], &Tensor{DType: x.DType, Shape: x.Shape, mem: x.mem, strs: x.strs, seq: x.seq})
	}
	if err := s.feedCaches(); err != nil {
		return err
	}
	return fedOnly(s.prog.inputs, feeds)
}

// fits checks a shape against a port; equal symbols stand for equal sizes
// within a run.
func (s *Session) fits(p *Port, shape []int) error {
	if p.Rank < 0 {
		return nil
	}
	if len(shape) != p.Rank {
		return fmt.Errorf("shape %v has rank %d, the model takes %v", shape, len(shape), p)
	}
	for i, d := range p.Shape.Dims {
		if d.IsKnown() && int64(shape[i]) != d.N {
			return fmt.Errorf("dimension %d of shape %v is %d, the model takes %v", i, shape, shape[i], p)
		}
		if d.IsKnown() || d.Sym == "" {
			continue
		}
		if b, ok := s.symbols[d.Sym]; !ok {
			s.symbols[d.Sym] = symbol{shape[i], p.Name}
		} else if b.n != shape[i] {
			return fmt.Errorf("dimension %q is %d, but %d in input %q", d.Sym, shape[i], b.n, b.input)
		}
	}
	return nil
}

// String gives a port as name: type[dims].
func (p Port) String() string {
	if p.Other != nil {
		return fmt.Sprintf("%s: %v", p.Name, p.Other)
	}
	if p.Rank < 0 {
		return fmt.Sprintf("%s: %v[any rank]", p.Name, p.DType)
	}
	out := fmt.Sprintf("%s: %v[", p.Name, p.DType)
	for i, d := range p.Shape.Dims {
		if i > 0 {
			out += ", "
		}
		out += d.String()
	}
	return out + "]"
}

// FromDense returns a tensor over the elements of d, sharing memory where d
// lies row by row.
func FromDense(d tensor.Tensor) (*Tensor, error) {
	t := &Tensor{}
	if err := fromDense(t, d, graph.Undefined); err != nil {
		return nil, err
	}
	return t, nil
}

// Dense returns a copy of t as gorgonia's tensor; float16 and bfloat16 become
// float32, other types without a Go counterpart their bits.
func (t *Tensor) Dense() (tensor.Tensor, error) { return toDense(t, false) }

// fromDense makes t the elements of d as type want (Undefined: d's own),
// sharing memory where d lies row by row.
func fromDense(t *Tensor, d tensor.Tensor, want graph.DType) error {
	shape, strides := d.Shape(), d.Strides()
	t.Shape = append(t.Shape[:0], shape...)
	n, err := count(t.Shape)
	if err != nil {
		return err
	}
	var data any
	if n > 0 { // gorgonia panics on the data of an empty tensor
		data = d.Data()
	}
	switch d.Dtype() {
	case tensor.Bool:
		return bindAs[bool](t, data, n, strides, graph.Bool, want)
	case tensor.Int8:
		return bindAs[int8](t, data, n, strides, graph.Int8, want, graph.Int4, graph.Int2)
	case tensor.Int16:
		return bindAs[int16](t, data, n, strides, graph.Int16, want)
	case tensor.Int32:
		return bindAs[int32](t, data, n, strides, graph.Int32, want)
	case tensor.Int64:
		return bindAs[int64](t, data, n, strides, graph.Int64, want)
	case tensor.Int:
		if s, ok := data.([]int); ok {
			wide := make([]int64, len(s))
			for i, v := range s {
				wide[i] = int64(v)
			}
			data = wide
		} else if v, ok := data.(int); ok {
			data = int64(v)
		}
		return bindAs[int64](t, data, n, strides, graph.Int64, want)
	case tensor.Uint8:
		return bindAs[uint8](t, data, n, strides, graph.Uint8, want, graph.Uint4, graph.Uint2, graph.Float8E4M3FN,
			graph.Float8E4M3FNUZ, graph.Float8E5M2, graph.Float8E5M2FNUZ, graph.Float8E8M0, graph.Float4E2M1)
	case tensor.Uint16:
		return bindAs[uint16](t, data, n, strides, graph.Uint16, want, graph.Float16, graph.BFloat16)
	case tensor.Uint32:
		return bindAs[uint32](t, data, n, strides, graph.Uint32, want)
	case tensor.Uint64:
		return bindAs[uint64](t, data, n, strides, graph.Uint64, want)
	case tensor.Float32:
		if want != graph.Float16 && want != graph.BFloat16 {
			return bindAs[float32](t, data, n, strides, graph.Float32, want)
		}
		if err := bindAs[float32](t, data, n, strides, graph.Float32, graph.Float32); err != nil {
			return err
		}
		half := make([]uint16, n)
		roundToHalf(half, t.F32(), want)
		t.DType, t.mem = want, bytesOf(half)
		return nil
	case tensor.Float64:
		return bindAs[float64](t, data, n, strides, graph.Float64, want)
	case tensor.Complex64:
		return bindAs[complex64](t, data, n, strides, graph.Complex64, want)
	case tensor.Complex128:
		return bindAs[complex128](t, data, n, strides, graph.Complex128, want)
	case tensor.String:
		if want != graph.String && want != graph.Undefined {
			return fmt.Errorf("element type is string, the model takes %v", want)
		}
		t.DType, t.mem, t.strs, t.buf = graph.String, nil, nil, nil
		t.strs, err = rowMajor[string](data, n, t.Shape, strides)
		return err
	}
	return fmt.Errorf("element type %v cannot be fed", d.Dtype())
}

func bindAs[T element](t *Tensor, data any, n int, strides []int, natural, want graph.DType, others ...graph.DType) error {
	if want == graph.Undefined {
		want = natural
	}
	if want != natural && !slices.Contains(others, want) {
		return fmt.Errorf("element type is %v, the model takes %v", natural, want)
	}
	s, err := rowMajor[T](data, n, t.Shape, strides)
	if err != nil {
		return err
	}
	t.DType, t.mem, t.strs, t.buf = want, bytesOf(s), nil, nil
	return nil
}

// rowMajor returns the n elements of gorgonia's data, a []T or for a scalar a
// T, in row-major order.
func rowMajor[T any](data any, n int, shape, strides []int) ([]T, error) {
	if n == 0 {
		return nil, nil
	}
	if v, ok := data.(T); ok {
		return []T{v}, nil
	}
	s, ok := data.([]T)
	if !ok {
		return nil, fmt.Errorf("its data is %T", data)
	}
	if len(shape) == 0 && len(s) >= 1 {
		return s[:1], nil
	}
	if len(strides) != len(shape) {
		return nil, fmt.Errorf("strides %v do not fit shape %v", strides, shape)
	}
	regular, step, far := true, 1, 0
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 && strides[i] != step {
			regular = false
		}
		if strides[i] < 0 {
			return nil, fmt.Errorf("strides %v are negative", strides)
		}
		far += strides[i] * (shape[i] - 1)
		step *= shape[i]
	}
	if far >= len(s) {
		return nil, fmt.Errorf("shape %v with strides %v reaches beyond its %d elements", shape, strides, len(s))
	}
	if regular {
		return s[:n], nil
	}
	out := make([]T, n)
	at := make([]int, len(shape))
	from := 0
	for i := range out {
		out[i] = s[from]
		for k := len(shape) - 1; k >= 0; k-- {
			at[k]++
			from += strides[k]
			if at[k] < shape[k] {
				break
			}
			from -= at[k] * strides[k]
			at[k] = 0
		}
	}
	return out, nil
}

// shared reports whether an earlier output is the same value.
func (s *Session) shared(slot, output int) bool {
	return slices.Contains(s.prog.main.outputs[:output], slot)
}

// place offers the memory of the caller's tensors to the outputs of a run:
// those that lie row by row, and share memory with no feed and no other output.
func (s *Session) place(out map[string]tensor.Tensor) {
	if len(out) == 0 {
		return
	}
	for i, slot := range s.prog.given() {
		d, ok := out[s.prog.outputs[i].Name].(*tensor.Dense)
		if !ok || d == nil || s.shared(slot, i) {
			continue
		}
		t := &s.targets[i]
		if fromDense(t, d, graph.Undefined) != nil || len(t.mem) == 0 {
			t.mem = nil
			continue
		}
		taken := uintptr(unsafe.Pointer(unsafe.SliceData(t.mem))) != d.Uintptr()
		for k := range s.targets[:i] {
			taken = taken || overlap(s.targets[k].mem, t.mem)
		}
		for _, in := range s.prog.main.inputs {
			taken = taken || overlap(s.main.values[in].mem, t.mem)
		}
		if taken {
			t.mem = nil
			continue
		}
		if v := s.main.values[slot]; !s.main.fixed[slot] {
			v.dest = t.mem
		}
	}
}

// settled puts output i, computed as t, into the caller's tensor, and
// reports whether it could: place offered it, and type and shape agree.
func (s *Session) settled(i int, t *Tensor) bool {
	o := &s.targets[i]
	if len(o.mem) == 0 || o.DType != t.DType || !slices.Equal(o.Shape, t.Shape) {
		return false
	}
	if !t.placed() {
		copy(o.mem, t.mem)
	}
	return true
}

// displace forgets the caller's tensors.
func (s *Session) displace() {
	for i, slot := range s.prog.given() {
		s.targets[i].mem = nil
		if v := s.main.values[slot]; v != nil && !s.main.fixed[slot] {
			v.dest = nil
		}
	}
}

func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	p, q := uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return p < q+uintptr(len(b)) && q < p+uintptr(len(a))
}

// toDense returns t as gorgonia's tensor, over t's memory if it is own.
func toDense(t *Tensor, own bool) (tensor.Tensor, error) {
	if t.seq != nil {
		return nil, fmt.Errorf("is %s; Session.RunTensors gives those", t.kindOf())
	}
	if !own {
		t = t.clone()
	}
	switch t.DType {
	case graph.String:
		return dense(t.Shape, t.strs), nil
	case graph.Bool:
		return dense(t.Shape, cast[bool](t.mem)), nil
	case graph.Int8, graph.Int4, graph.Int2:
		return dense(t.Shape, cast[int8](t.mem)), nil
	case graph.Int16:
		return dense(t.Shape, cast[int16](t.mem)), nil
	case graph.Int32:
		return dense(t.Shape, cast[int32](t.mem)), nil
	case graph.Int64:
		return dense(t.Shape, cast[int64](t.mem)), nil
	case graph.Uint16:
		return dense(t.Shape, cast[uint16](t.mem)), nil
	case graph.Uint32:
		return dense(t.Shape, cast[uint32](t.mem)), nil
	case graph.Uint64:
		return dense(t.Shape, cast[uint64](t.mem)), nil
	case graph.Float32:
		return dense(t.Shape, cast[float32](t.mem)), nil
	case graph.Float64:
		return dense(t.Shape, cast[float64](t.mem)), nil
	case graph.Complex64:
		return dense(t.Shape, cast[complex64](t.mem)), nil
	case graph.Complex128:
		return dense(t.Shape, cast[complex128](t.mem)), nil
	case graph.Float16, graph.BFloat16:
		out := make([]float32, t.Len())
		widen(out, cast[uint16](t.mem), t.DType)
		return dense(t.Shape, out), nil
	}
	if elemSize(t.DType) == 1 {
		return dense(t.Shape, cast[uint8](t.mem)), nil
	}
	return nil, wrongType(t.DType)
}

func dense[T any](shape []int, s []T) tensor.Tensor {
	if s == nil {
		s = []T{}
	}
	return tensor.New(tensor.WithShape(slices.Clone(shape)...), tensor.WithBacking(s))
}

// roundToHalf stores x as float16 or bfloat16, to nearest even.
func roundToHalf(z []uint16, x []float32, d graph.DType) {
	if d == graph.BFloat16 {
		for i, v := range x {
			z[i] = bf16FromF32(v)
		}
		return
	}
	for i, v := range x {
		z[i] = float16.Fromfloat32(v).Bits()
	}
}

// widen is the exact inverse of roundToHalf.
func widen(z []float32, x []uint16, d graph.DType) {
	if d == graph.BFloat16 {
		for i, v := range x {
			z[i] = f32FromBF16(v)
		}
		return
	}
	for i, v := range x {
		z[i] = float16.Frombits(v).Float32()
	}
}

// throughFloat32 wraps a kernel that computes in float32 so that it also
// takes float16 and bfloat16.
func throughFloat32(k kernel) kernel {
	return func(c *call) error {
		d := graph.Undefined
		for _, t := range c.in {
			if t != nil && (t.DType == graph.Float16 || t.DType == graph.BFloat16) {
				d = t.DType
				break
			}
		}
		if d == graph.Undefined {
			return k(c)
		}
		if c.half == nil {
			c.half = &call{s: c.s, in: make([]*Tensor, len(c.in)), out: make([]*Tensor, len(c.out))}
			for i := range c.half.in {
				c.half.in[i] = &Tensor{}
			}
			for i := range c.half.out {
				c.half.out[i] = &Tensor{}
			}
		}
		h := *c.half // the kernel sees copies, so that nil inputs can come and go
		defer func() {
			c.half.state = h.state
			c.flops += h.flops
			h.tidy()
			for _, t := range c.half.out {
				c.s.pool.release(t)
			}
		}()
		h.in = append([]*Tensor(nil), c.half.in...)
		h.out = append([]*Tensor(nil), c.half.out...)
		for i, t := range c.in {
			switch {
			case t == nil:
				h.in[i] = nil
			case t.DType == graph.Float16 || t.DType == graph.BFloat16:
				wide, err := scratch[float32](c, t.Len())
				if err != nil {
					return err
				}
				widen(wide, cast[uint16](t.mem), t.DType)
				w := h.in[i]
				w.DType, w.mem = graph.Float32, bytesOf(wide)
				w.Shape = append(w.Shape[:0], t.Shape...)
			default:
				h.in[i] = t
			}
		}
		for i, t := range c.out {
			if t == nil {
				h.out[i] = nil
			}
		}
		if err := k(&h); err != nil {
			return err
		}
		for i, t := range h.out {
			if t == nil {
				continue
			}
			if t.DType != graph.Float32 {
				c.share(i, t)
				continue
			}
			z, err := c.alloc(i, d, t.Shape...)
			if err != nil {
				return err
			}
			roundToHalf(cast[uint16](z.mem), t.F32(), d)
		}
		return nil
	}
}
