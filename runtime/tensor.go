package runtime

import (
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/onnx-lathe/lathe/graph"
)

// Tensor is a value inside a run: an element type, a shape, and the elements
// in row-major order in native byte order. A scalar has an empty shape. It may
// also be a sequence of tensors or an optional that holds nothing; see Items
// and IsNone.
//
// Every element has an address of its own: a bool takes a byte, and so does
// an element narrower than that (int4 and the like, sign-extended). float16
// and bfloat16 elements are their bit patterns.
//
// Tensors given to probes belong to the session and change after the call.
type Tensor struct {
	DType graph.DType
	Shape []int

	mem  []byte    // the elements; empty for strings
	strs []string  // the elements of a string tensor
	seq  *sequence // set where this is no tensor; everything else is then empty
	buf  *buffer   // what mem is a part of; nil if no pool owns it
	keep bool      // an output of the run: its memory is to outlive the session
	own  bool      // mem was made for this output alone
	dest []byte    // memory of the caller's for this output, nil for none

	cached *cacheStack // a cache that grows in place: has the elements, mem is empty
}

// placed reports whether t was computed into the caller's memory.
func (t *Tensor) placed() bool {
	return len(t.dest) > 0 && len(t.mem) > 0 && unsafe.SliceData(t.dest) == unsafe.SliceData(t.mem)
}

// element is every Go type that tensor elements are viewed as.
type element interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 |
		~float32 | ~float64 | ~complex64 | ~complex128
}

// elemSize is the bytes that one element takes in a Tensor, 0 for strings and
// unknown types.
func elemSize(d graph.DType) int {
	return (d.Bits() + 7) / 8
}

// dtypeOf is the element type that T is the natural view of.
func dtypeOf[T element]() graph.DType {
	var z T
	switch any(z).(type) {
	case bool:
		return graph.Bool
	case int8:
		return graph.Int8
	case int16:
		return graph.Int16
	case int32:
		return graph.Int32
	case int64:
		return graph.Int64
	case uint8:
		return graph.Uint8
	case uint16:
		return graph.Uint16
	case uint32:
		return graph.Uint32
	case uint64:
		return graph.Uint64
	case float32:
		return graph.Float32
	case float64:
		return graph.Float64
	case complex64:
		return graph.Complex64
	case complex128:
		return graph.Complex128
	}
	return graph.Undefined
}

// view returns the elements of t as a slice of T, which must have the width
// of t's elements.
func view[T element](t *Tensor) []T {
	var z T
	w := int(unsafe.Sizeof(z))
	if w != elemSize(t.DType) {
		panic(fmt.Sprintf("runtime: view of %v elements as %T", t.DType, z))
	}
	return cast[T](t.mem)
}

// cast reinterprets bytes, which must be aligned for T.
func cast[T element](mem []byte) []T {
	var z T
	if len(mem) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/int(unsafe.Sizeof(z)))
}

// bytesOf is the inverse of cast.
func bytesOf[T element](s []T) []byte {
	var z T
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(z)))
}

// FromSlice returns a tensor of that shape over data, which is not copied; it
// panics where their sizes disagree. data is a slice of bool, string, any
// sized integer, float32, float64 or a complex type.
func FromSlice(shape []int, data any) *Tensor {
	switch s := data.(type) {
	case []bool:
		return over(shape, s)
	case []int8:
		return over(shape, s)
	case []int16:
		return over(shape, s)
	case []int32:
		return over(shape, s)
	case []int64:
		return over(shape, s)
	case []uint8:
		return over(shape, s)
	case []uint16:
		return over(shape, s)
	case []uint32:
		return over(shape, s)
	case []uint64:
		return over(shape, s)
	case []float32:
		return over(shape, s)
	case []float64:
		return over(shape, s)
	case []complex64:
		return over(shape, s)
	case []complex128:
		return over(shape, s)
	case []string:
		t := &Tensor{DType: graph.String, Shape: shape, strs: s}
		if t.Len() != len(s) {
			panic(fmt.Sprintf("runtime: shape %v over %d strings", shape, len(s)))
		}
		return t
	}
	panic(fmt.Sprintf("runtime: FromSlice of %T", data))
}

func over[T element](shape []int, s []T) *Tensor {
	t := &Tensor{DType: dtypeOf[T](), Shape: shape, mem: bytesOf(s)}
	if t.Len() != len(s) {
		panic(fmt.Sprintf("runtime: shape %v over %d elements", shape, len(s)))
	}
	return t
}

// newTensor returns a zeroed tensor outside any pool.
func newTensor(d graph.DType, shape []int) (*Tensor, error) {
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	t := &Tensor{DType: d, Shape: slices.Clone(shape)}
	if d == graph.String {
		t.strs = make([]string, n)
		return t, nil
	}
	w := elemSize(d)
	if w == 0 {
		return nil, fmt.Errorf("element type %v has no size", d)
	}
	if n > maxBytes/w {
		return nil, fmt.Errorf("a tensor %v%v does not fit into memory", d, shape)
	}
	t.mem = aligned(n * w)
	return t, nil
}

const maxBytes = math.MaxInt / 4

// count multiplies dims; it fails where one is negative or the product is
// more than memory can address.
func count(dims []int) (int, error) {
	n := 1
	for _, d := range dims {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", dims)
		}
		if d == 0 {
			n = 0
		}
	}
	if n == 0 {
		return 0, nil
	}
	for _, d := range dims {
		if d > maxBytes/n {
			return 0, fmt.Errorf("shape %v has more elements than memory can hold", dims)
		}
		n *= d
	}
	return n, nil
}

// aligned returns n zero bytes that start at a multiple of 64, the width of a
// cache line and of the widest vector.
func aligned(n int) []byte {
	if n == 0 {
		return nil
	}
	words := make([]uint64, (n+63)/8+8)
	b := bytesOf(words)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63)
	return b[skip : skip+n : skip+n]
}

// Len is the number of elements.
func (t *Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes returns the elements' memory in native byte order, nil for strings.
func (t *Tensor) Bytes() []byte { return t.mem }

// Strings returns the elements of a string tensor, nil for any other.
func (t *Tensor) Strings() []string { return t.strs }

// F32 returns the elements of a float32 tensor, which the slice shares with it; like
// every typed accessor it panics for another type.
func (t *Tensor) F32() []float32 { return typed[float32](t, graph.Float32) }

// F64 returns the elements of a float64 tensor.
func (t *Tensor) F64() []float64 { return typed[float64](t, graph.Float64) }

// I64 returns the elements of an int64 tensor.
func (t *Tensor) I64() []int64 { return typed[int64](t, graph.Int64) }

// I32 returns the elements of an int32 tensor.
func (t *Tensor) I32() []int32 { return typed[int32](t, graph.Int32) }

// I16 returns the elements of an int16 tensor.
func (t *Tensor) I16() []int16 { return typed[int16](t, graph.Int16) }

// I8 returns the elements of an int8 tensor.
func (t *Tensor) I8() []int8 { return typed[int8](t, graph.Int8) }

// U8 returns the elements of a uint8 tensor.
func (t *Tensor) U8() []uint8 { return typed[uint8](t, graph.Uint8) }

// Bools returns the elements of a bool tensor.
func (t *Tensor) Bools() []bool { return typed[bool](t, graph.Bool) }

func typed[T element](t *Tensor, d graph.DType) []T {
	if t.DType != d {
		panic(fmt.Sprintf("runtime: a tensor of %v read as %v", t.DType, d))
	}
	return cast[T](t.mem)
}

// clone copies t into memory of its own.
func (t *Tensor) clone() *Tensor {
	c := &Tensor{DType: t.DType, Shape: slices.Clone(t.Shape)}
	if t.seq != nil {
		c.seq = &sequence{none: t.seq.none, elem: t.seq.elem, refs: 1}
		for i := range t.seq.items {
			c.seq.items = append(c.seq.items, *t.seq.items[i].clone())
		}
		return c
	}
	if t.DType == graph.String {
		c.strs = slices.Clone(t.strs)
		return c
	}
	c.mem = aligned(len(t.mem))
	copy(c.mem, t.mem)
	return c
}

// littleEndian reports the byte order of this machine; ONNX files are little
// endian.
var littleEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 1
}()

// FromGraphTensor returns the value of a constant. Where it can it shares the
// constant's memory, which neither side changes.
func FromGraphTensor(g *graph.Tensor) (*Tensor, error) {
	shape := make([]int, len(g.Dims))
	for i, d := range g.Dims {
		if d < 0 || d > math.MaxInt {
			return nil, fmt.Errorf("tensor %q: dimension %d is out of range", g.Name, d)
		}
		shape[i] = int(d)
	}
	n, err := count(shape)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", g.Name, err)
	}
	t := &Tensor{DType: g.DType, Shape: shape}
	if g.DType == graph.String {
		t.strs = make([]string, n)
		if len(g.Strings()) != n {
			return nil, fmt.Errorf("tensor %q: %d strings for shape %v", g.Name, len(g.Strings()), shape)
		}
		for i, s := range g.Strings() {
			t.strs[i] = string(s)
		}
		return t, nil
	}
	raw, err := g.Bytes()
	if err != nil {
		return nil, err
	}
	w := elemSize(g.DType)
	if w == 0 {
		return nil, fmt.Errorf("tensor %q: element type %v cannot be computed with", g.Name, g.DType)
	}
	if want, ok := g.DType.ByteSize(int64(n)); !ok || want != int64(len(raw)) {
		return nil, fmt.Errorf("tensor %q: %d bytes for %v%v", g.Name, len(raw), g.DType, shape)
	}
	if bits := g.DType.Bits(); bits < 8 {
		t.mem = aligned(n)
		signed := g.DType == graph.Int4 || g.DType == graph.Int2
		for i := range t.mem {
			b := raw[i*bits/8] >> (i * bits % 8) & (1<<bits - 1)
			if signed {
				b = byte(int8(b<<(8-bits)) >> (8 - bits))
			}
			t.mem[i] = b
		}
		return t, nil
	}
	if littleEndian && n > 0 && uintptr(unsafe.Pointer(unsafe.SliceData(raw)))%uintptr(min(w, 8)) == 0 {
		t.mem = raw[:len(raw):len(raw)]
		return t, nil
	}
	t.mem = aligned(n * w)
	copy(t.mem, raw)
	swapOrder(t.mem, g.DType)
	return t, nil
}

// ToGraphTensor returns t as a constant with memory of its own.
func ToGraphTensor(t *Tensor) (*graph.Tensor, error) {
	dims := make([]int64, len(t.Shape))
	for i, d := range t.Shape {
		dims[i] = int64(d)
	}
	if t.DType == graph.String {
		strs := make([][]byte, len(t.strs))
		for i, s := range t.strs {
			strs[i] = []byte(s)
		}
		return graph.StringTensor(dims, strs), nil
	}
	if bits := t.DType.Bits(); bits > 0 && bits < 8 {
		raw := make([]byte, (len(t.mem)*bits+7)/8)
		for i, b := range t.mem {
			raw[i*bits/8] |= (b & (1<<bits - 1)) << (i * bits % 8)
		}
		return graph.NewTensor(t.DType, dims, raw)
	}
	raw := slices.Clone(t.mem)
	swapOrder(raw, t.DType)
	return graph.NewTensor(t.DType, dims, raw)
}

// swapOrder turns little-endian elements into native ones and back.
func swapOrder(mem []byte, d graph.DType) {
	if littleEndian {
		return
	}
	w := elemSize(d)
	if d == graph.Complex64 || d == graph.Complex128 {
		w /= 2
	}
	for i := 0; i+w <= len(mem); i += w {
		slices.Reverse(mem[i : i+w])
	}
}

// float16 and bfloat16, as bit patterns.

// f32FromBF16 is exact.
func f32FromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// bf16FromF32 rounds to nearest even; a NaN stays one.
func bf16FromF32(f float32) uint16 {
	u := math.Float32bits(f)
	if f != f {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}
