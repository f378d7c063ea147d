package graph

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/x448/float16"
)

// Tensor is a constant of any ONNX element type. Its elements are packed
// little-endian bytes in row-major order, either held in memory or a range of
// a file that is read on demand: external data, or a large model file.
//
// A tensor is immutable: a pass that changes a weight makes a new tensor, so
// tensors are shared freely between models and clones.
type Tensor struct {
	DType DType
	Dims  []int64 // none for a scalar
	Name  string  // as in the file; for an initializer the Value's name is what counts
	Doc   string

	raw      []byte   // packed elements; nil while external or in a file, and for strings
	strs     [][]byte // elements of a string tensor
	external *External
	inFile   *fileRange // packed elements that stay in the model file; see stream.go
	origin   any        // the protobuf message without its data; see load.go
}

// NewTensor returns a tensor over raw, which holds the packed little-endian
// elements and is not copied. It fails where raw has not the length that dims
// and dtype ask for.
func NewTensor(dtype DType, dims []int64, raw []byte) (*Tensor, error) {
	n, ok := NumElements(dims)
	if !ok {
		return nil, fmt.Errorf("tensor %v%v: dims are negative or overflow", dtype, dims)
	}
	size, ok := dtype.ByteSize(n)
	if !ok {
		return nil, fmt.Errorf("tensor %v%v: element type has no fixed size", dtype, dims)
	}
	if size != int64(len(raw)) {
		return nil, fmt.Errorf("tensor %v%v: dims ask for %d bytes, data has %d", dtype, dims, size, len(raw))
	}
	return &Tensor{DType: dtype, Dims: dims, raw: raw}, nil
}

// NumElements multiplies dims; it reports false where one is negative or the
// product overflows an int64. A scalar (no dims) has one element.
func NumElements(dims []int64) (int64, bool) {
	n := int64(1)
	zero := false
	for _, d := range dims {
		if d < 0 {
			return 0, false
		}
		if d == 0 {
			zero = true
			continue
		}
		if n > math.MaxInt64/d {
			return 0, false
		}
		n *= d
	}
	if zero {
		return 0, true
	}
	return n, true
}

// Float32Tensor returns a float tensor with a copy of data. Like Int64Tensor and
// StringTensor it panics where data has not as many elements as dims ask for.
func Float32Tensor(dims []int64, data []float32) *Tensor {
	raw := make([]byte, 4*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	return mustTensor(Float32, dims, raw)
}

// Int64Tensor returns an int64 tensor with a copy of data.
func Int64Tensor(dims []int64, data []int64) *Tensor {
	raw := make([]byte, 8*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint64(raw[8*i:], uint64(v))
	}
	return mustTensor(Int64, dims, raw)
}

// StringTensor returns a string tensor over data, which is not copied.
func StringTensor(dims []int64, data [][]byte) *Tensor {
	if n, ok := NumElements(dims); !ok || n != int64(len(data)) {
		panic(fmt.Sprintf("graph: string tensor %v with %d elements", dims, len(data)))
	}
	return &Tensor{DType: String, Dims: dims, strs: data}
}

func mustTensor(d DType, dims []int64, raw []byte) *Tensor {
	t, err := NewTensor(d, dims, raw)
	if err != nil {
		panic("graph: " + err.Error())
	}
	return t
}

// Len is the number of elements.
func (t *Tensor) Len() int64 {
	n, _ := NumElements(t.Dims)
	return n
}

// Size is the number of bytes of the elements (of the characters, for
// strings), whether or not they are in memory.
func (t *Tensor) Size() int64 {
	if t.DType == String {
		var n int64
		for _, s := range t.strs {
			n += int64(len(s))
		}
		return n
	}
	n, _ := t.DType.ByteSize(t.Len())
	return n
}

// External says where the elements lie where the file keeps them outside of itself;
// nil for all other tensors. A tool that copies or packs a model needs it to know
// which files belong to it.
func (t *Tensor) External() *External { return t.external }

// Strings returns the elements of a string tensor, nil for any other; they must not
// be changed.
func (t *Tensor) Strings() [][]byte { return t.strs }

// Bytes returns the packed little-endian elements. Those in memory are not copied
// and must not be changed; those of a file are read into a new slice. It fails for
// strings, for element types that are not known, and where the file cannot be read
// or is no longer what it was.
func (t *Tensor) Bytes() ([]byte, error) {
	switch {
	case t.DType == String:
		return nil, fmt.Errorf("tensor %q: strings have no packed form", t.Name)
	case !t.DType.Known():
		return nil, fmt.Errorf("tensor %q: its element type %v is not known", t.Name, t.DType)
	case t.external != nil:
		return t.external.read(t)
	case t.inFile != nil:
		raw, err := t.inFile.read()
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		return raw, nil
	case int64(len(t.raw)) != t.Size():
		return nil, fmt.Errorf("tensor %q (%v%v): its data are a segment of a larger tensor", t.Name, t.DType, t.Dims)
	}
	return t.raw, nil
}

// Float32s returns the elements converted to float32. It accepts the
// floating-point types of 16 bits or more and fails for every other type.
func (t *Tensor) Float32s() ([]float32, error) {
	raw, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	out := make([]float32, t.Len())
	switch t.DType {
	case Float32:
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case Float64:
		for i := range out {
			out[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
		}
	case Float16:
		for i := range out {
			out[i] = float16.Frombits(binary.LittleEndian.Uint16(raw[2*i:])).Float32()
		}
	case BFloat16:
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		}
	default:
		return nil, fmt.Errorf("tensor %q: is %v, want a floating-point type", t.Name, t.DType)
	}
	return out, nil
}

// Int64s returns the elements of an integer or bool tensor as int64 (uint64
// wraps); it fails for every other type.
func (t *Tensor) Int64s() ([]int64, error) {
	raw, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	out := make([]int64, t.Len())
	le := binary.LittleEndian
	for i := range out {
		switch t.DType {
		case Int64, Uint64:
			out[i] = int64(le.Uint64(raw[8*i:]))
		case Int32:
			out[i] = int64(int32(le.Uint32(raw[4*i:])))
		case Uint32:
			out[i] = int64(le.Uint32(raw[4*i:]))
		case Int16:
			out[i] = int64(int16(le.Uint16(raw[2*i:])))
		case Uint16:
			out[i] = int64(le.Uint16(raw[2*i:]))
		case Int8:
			out[i] = int64(int8(raw[i]))
		case Uint8, Bool:
			out[i] = int64(raw[i])
		default:
			return nil, fmt.Errorf("tensor %q: is %v, want an integer type", t.Name, t.DType)
		}
	}
	return out, nil
}

// SparseTensor is a constant of shape Dims in coordinate form: Values is [nnz],
// Indices is [nnz] (linear) or [nnz, rank].
type SparseTensor struct {
	Values, Indices *Tensor
	Dims            []int64
	origin          any
}
