package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/x448/float16"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// readValue reads a file with a TensorProto, a SequenceProto or an
// OptionalProto, which one the type says.
func readValue(path string, t *graph.Type) (*runtime.Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	kind := graph.KindTensor
	if t != nil && t.Kind != graph.KindUnknown {
		kind = t.Kind
	}
	x, err := decode(data, kind)
	if err == nil && kind == graph.KindTensor && x.DType == graph.Uint16 && t != nil && t.Elem == graph.BFloat16 {
		return asBFloat16(x) // how old files store it
	}
	return x, err
}

func asBFloat16(x *runtime.Tensor) (*runtime.Tensor, error) {
	g, err := runtime.ToGraphTensor(x)
	if err == nil {
		raw, _ := g.Bytes()
		g, err = graph.NewTensor(graph.BFloat16, g.Dims, raw)
	}
	if err != nil {
		return nil, err
	}
	return runtime.FromGraphTensor(g)
}

// Fields of onnx-data.proto.
const (
	sequenceElemType = 2
	sequenceTensors  = 3

	optionalElemType = 2
	optionalTensor   = 3
	optionalSequence = 5
)

func decode(data []byte, kind graph.TypeKind) (*runtime.Tensor, error) {
	switch kind {
	case graph.KindTensor:
		g, err := graph.DecodeTensor(data)
		if err != nil {
			return nil, err
		}
		return runtime.FromGraphTensor(g)
	case graph.KindSequence:
		var items []*runtime.Tensor
		err := fields(data, func(num protowire.Number, value []byte) error {
			switch num {
			case sequenceTensors:
				x, err := decode(value, graph.KindTensor)
				items = append(items, x)
				return err
			case 1, sequenceElemType:
				return nil
			}
			return fmt.Errorf("a sequence of things that are no tensors")
		})
		return runtime.SequenceOf(items...), err
	case graph.KindOptional:
		x := runtime.NoElement()
		err := fields(data, func(num protowire.Number, value []byte) error {
			var err error
			switch num {
			case optionalTensor:
				x, err = decode(value, graph.KindTensor)
			case optionalSequence:
				x, err = decode(value, graph.KindSequence)
			case 1, optionalElemType:
			default:
				err = fmt.Errorf("an optional of something that is no tensor and no sequence")
			}
			return err
		})
		return x, err
	}
	return nil, fmt.Errorf("a value that is no tensor, sequence or optional")
}

// fields calls f for the fields of a message.
func fields(data []byte, f func(num protowire.Number, value []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		value := []byte(nil)
		if typ == protowire.BytesType {
			value, n = protowire.ConsumeBytes(data)
		} else {
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(num, value); err != nil {
			return err
		}
	}
	return nil
}

// typed compares what is known of a type with a value of it.
func typed(t *graph.Type, x *runtime.Tensor) error {
	if items, ok := x.Items(); ok || x.IsNone() {
		if t.Kind == graph.KindOptional {
			t = t.Sub
		}
		if t == nil || t.Kind == graph.KindUnknown || x.IsNone() {
			return nil
		}
		if t.Kind != graph.KindSequence {
			return fmt.Errorf("its type is %v, it is a sequence", t)
		}
		for i, item := range items {
			if t.Sub == nil {
				return nil
			}
			if err := typed(t.Sub, item); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
	if t.Kind == graph.KindOptional && t.Sub != nil {
		t = t.Sub
	}
	if t.Kind != graph.KindTensor {
		return fmt.Errorf("its type is %v, it is a tensor", t)
	}
	if t.Elem != x.DType {
		return fmt.Errorf("its element type is %v, it holds %v", t.Elem, x.DType)
	}
	if t.Shape == nil {
		return nil
	}
	if len(t.Shape.Dims) != len(x.Shape) {
		return fmt.Errorf("its type has %d dims, its shape is %v", len(t.Shape.Dims), x.Shape)
	}
	for i, d := range t.Shape.Dims {
		if d.IsKnown() && d.N != int64(x.Shape[i]) {
			return fmt.Errorf("dim %d of its type is %d, its shape is %v", i, d.N, x.Shape)
		}
	}
	return nil
}

// same compares two values: exactly, or floating-point numbers to a relative
// error and 1e-6 absolute.
func same(got, want *runtime.Tensor, rtol float64) error {
	if want.IsNone() != got.IsNone() {
		return fmt.Errorf("one is an optional that holds nothing, the other is not")
	}
	w, list := want.Items()
	if g, ok := got.Items(); ok != list || len(g) != len(w) {
		return fmt.Errorf("is a sequence of %d, want one of %d", len(g), len(w))
	} else if list {
		for i := range w {
			if err := same(g[i], w[i], rtol); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
	if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) {
		return fmt.Errorf("is %v%v, want %v%v", got.DType, got.Shape, want.DType, want.Shape)
	}
	if got.DType == graph.String {
		for i, s := range want.Strings() {
			if got.Strings()[i] != s {
				return fmt.Errorf("element %d is %q, want %q", i, got.Strings()[i], s)
			}
		}
		return nil
	}
	x, y := floats(got), floats(want)
	if x == nil {
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			return fmt.Errorf("its bytes differ")
		}
		return nil
	}
	if got.DType == graph.Float16 || got.DType == graph.BFloat16 {
		rtol = max(rtol, 1e-3)
	}
	for i := range y {
		if x[i] == y[i] || x[i] != x[i] && y[i] != y[i] {
			continue
		}
		if d := math.Abs(x[i] - y[i]); !(d <= rtol*math.Abs(y[i])+1e-6) {
			return fmt.Errorf("element %d of %v is %v, want %v", i, want.Shape, x[i], y[i])
		}
	}
	return nil
}

// floats returns the elements of a floating-point tensor, real and imaginary
// parts one after the other; nil for the types that are compared exactly.
func floats(t *runtime.Tensor) []float64 {
	var out []float64
	switch t.DType {
	case graph.Float32:
		for _, v := range t.F32() {
			out = append(out, float64(v))
		}
	case graph.Float64:
		out = t.F64()
	case graph.Float16, graph.BFloat16:
		b := t.Bytes()
		for i := 0; i < len(b); i += 2 {
			u := binary.NativeEndian.Uint16(b[i:])
			if t.DType == graph.BFloat16 {
				out = append(out, float64(math.Float32frombits(uint32(u)<<16)))
			} else {
				out = append(out, float64(float16.Frombits(u).Float32()))
			}
		}
	default:
		return nil
	}
	if out == nil {
		out = []float64{}
	}
	return out
}
