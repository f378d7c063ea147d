package graph

import "fmt"

// DType is an ONNX element type; the numbers are those of
// TensorProto.DataType on the wire.
type DType int32

const (
	Undefined      DType = 0
	Float32        DType = 1
	Uint8          DType = 2
	Int8           DType = 3
	Uint16         DType = 4
	Int16          DType = 5
	Int32          DType = 6
	Int64          DType = 7
	String         DType = 8
	Bool           DType = 9
	Float16        DType = 10
	Float64        DType = 11
	Uint32         DType = 12
	Uint64         DType = 13
	Complex64      DType = 14
	Complex128     DType = 15
	BFloat16       DType = 16
	Float8E4M3FN   DType = 17
	Float8E4M3FNUZ DType = 18
	Float8E5M2     DType = 19
	Float8E5M2FNUZ DType = 20
	Uint4          DType = 21
	Int4           DType = 22
	Float4E2M1     DType = 23
	Float8E8M0     DType = 24
	Uint2          DType = 25
	Int2           DType = 26
)

// dtypes has the name in ONNX's textual syntax and the width in bits of every
// element type; a string has no fixed width.
var dtypes = [...]struct {
	name string
	bits int
}{
	Undefined:      {"undefined", 0},
	Float32:        {"float", 32},
	Uint8:          {"uint8", 8},
	Int8:           {"int8", 8},
	Uint16:         {"uint16", 16},
	Int16:          {"int16", 16},
	Int32:          {"int32", 32},
	Int64:          {"int64", 64},
	String:         {"string", 0},
	Bool:           {"bool", 8},
	Float16:        {"float16", 16},
	Float64:        {"double", 64},
	Uint32:         {"uint32", 32},
	Uint64:         {"uint64", 64},
	Complex64:      {"complex64", 64},
	Complex128:     {"complex128", 128},
	BFloat16:       {"bfloat16", 16},
	Float8E4M3FN:   {"float8e4m3fn", 8},
	Float8E4M3FNUZ: {"float8e4m3fnuz", 8},
	Float8E5M2:     {"float8e5m2", 8},
	Float8E5M2FNUZ: {"float8e5m2fnuz", 8},
	Uint4:          {"uint4", 4},
	Int4:           {"int4", 4},
	Float4E2M1:     {"float4e2m1", 4},
	Float8E8M0:     {"float8e8m0", 8},
	Uint2:          {"uint2", 2},
	Int2:           {"int2", 2},
}

// Known reports whether d is an element type of the ONNX version this package
// was written against.
func (d DType) Known() bool { return d > Undefined && int(d) < len(dtypes) }

// String returns the name used in ONNX's textual syntax and type strings,
// such as "float" for Float32.
func (d DType) String() string {
	if d >= 0 && int(d) < len(dtypes) {
		return dtypes[d].name
	}
	return fmt.Sprintf("dtype(%d)", int32(d))
}

// ParseDType is the inverse of DType.String.
func ParseDType(name string) (DType, bool) {
	for d, t := range dtypes {
		if t.name == name && d != 0 {
			return DType(d), true
		}
	}
	return Undefined, false
}

// Bits is the width of one element in bits, 0 for strings and unknown types.
func (d DType) Bits() int {
	if d >= 0 && int(d) < len(dtypes) {
		return dtypes[d].bits
	}
	return 0
}

// ByteSize returns the bytes that n packed elements take (elements narrower
// than a byte are packed, the last byte padded). It reports false for strings
// and unknown types, for n < 0, and where the size overflows an int64.
func (d DType) ByteSize(n int64) (int64, bool) {
	bits := int64(d.Bits())
	if bits == 0 || n < 0 || n > (1<<62)/bits {
		return 0, false
	}
	return (n*bits + 7) / 8, true
}

// IsFloat reports whether d is one of the floating-point types of 16 bits or
// more.
func (d DType) IsFloat() bool {
	return d == Float32 || d == Float64 || d == Float16 || d == BFloat16
}
