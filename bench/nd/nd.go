// Package nd holds dense arrays of any number of dimensions, and reads and
// writes them as NumPy .npz files. It shares no code with the main module, so
// that the checks made with it are independent of what they check.
package nd

import (
	"fmt"
	"reflect"
)

// An Array is dense and in row-major order. Data is a []float32, []float64,
// []int8, []int16, []int32, []int64, []uint8, []uint16, []uint32, []uint64 or
// []bool whose length is the product of Shape. An empty Shape is a scalar.
type Array struct {
	Shape []int64
	Data  any
}

// Of makes an Array of data with the given shape; it panics where the two do
// not fit, which is a mistake of the caller.
func Of[T any](data []T, shape ...int64) Array {
	if n := Size(shape); n != len(data) {
		panic(fmt.Sprintf("nd: %d values for shape %v", len(data), shape))
	}
	return Array{Shape: append([]int64{}, shape...), Data: data}
}

// Size returns the number of elements of an array of this shape.
func Size(shape []int64) int {
	n := 1
	for _, d := range shape {
		n *= int(d)
	}
	return n
}

// Len returns the number of elements, 0 for the zero Array.
func (a Array) Len() int {
	if a.Data == nil {
		return 0
	}
	return reflect.ValueOf(a.Data).Len()
}

// Type returns the type of one element.
func (a Array) Type() reflect.Type { return reflect.TypeOf(a.Data).Elem() }

// Rows returns rows i to j−1 along the first axis, without copying:
// [n, d1, …] → [j−i, d1, …].
func (a Array) Rows(i, j int) (Array, error) {
	if len(a.Shape) == 0 || i < 0 || j < i || int64(j) > a.Shape[0] {
		return Array{}, fmt.Errorf("rows %d to %d of an array of shape %v", i, j, a.Shape)
	}
	row := Size(a.Shape[1:])
	shape := append([]int64{int64(j - i)}, a.Shape[1:]...)
	return Array{Shape: shape, Data: reflect.ValueOf(a.Data).Slice(i*row, j*row).Interface()}, nil
}

// Concat joins arrays along the first axis. All of them have the same type
// and the same other dimensions.
func Concat(parts []Array) (Array, error) {
	if len(parts) == 0 {
		return Array{}, fmt.Errorf("nothing to concatenate")
	}
	first := parts[0]
	if len(first.Shape) == 0 {
		return Array{}, fmt.Errorf("scalars have no axis to concatenate along")
	}
	shape := append([]int64{0}, first.Shape[1:]...)
	data := reflect.MakeSlice(reflect.TypeOf(first.Data), 0, len(parts)*first.Len())
	for _, p := range parts {
		if len(p.Shape) != len(shape) || p.Type() != first.Type() || Size(p.Shape[1:]) != Size(shape[1:]) {
			return Array{}, fmt.Errorf("%v of shape %v does not continue %v of shape %v", p.Type(), p.Shape, first.Type(), first.Shape)
		}
		shape[0] += p.Shape[0]
		data = reflect.AppendSlice(data, reflect.ValueOf(p.Data))
	}
	return Array{Shape: shape, Data: data.Interface()}, nil
}

// Float64s returns the elements converted to float64, booleans as 0 and 1.
func (a Array) Float64s() []float64 {
	out := make([]float64, a.Len())
	switch d := a.Data.(type) {
	case []float32:
		for i, v := range d {
			out[i] = float64(v)
		}
	case []float64:
		copy(out, d)
	case []bool:
		for i, v := range d {
			if v {
				out[i] = 1
			}
		}
	default:
		v, f := reflect.ValueOf(a.Data), reflect.TypeFor[float64]()
		for i := range out {
			out[i] = v.Index(i).Convert(f).Float()
		}
	}
	return out
}
