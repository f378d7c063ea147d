package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// The elements of a tensor in its message: in raw_data, packed; in a typed
// field, by element type; or in an external file.

// dataField is the field of a TensorProto that held the elements. What Save
// writes goes to the same one.
type dataField uint8

const (
	noField     dataField = iota // no elements, external, or not understood and left in the message
	rawField                     // raw_data
	typedField                   // the typed field of the element type
	stringField                  // string_data
)

// tensorOrigin is the message of a tensor without the elements that the
// Tensor holds.
type tensorOrigin struct {
	shell *onnxpb.TensorProto
	field dataField
}

// tensor takes p over. Elements that can't be understood (of an element type
// newer than this package, or a segment of a larger tensor) stay in the
// origin: the tensor is kept as it is and can't be read.
func (l *loader) tensor(p *onnxpb.TensorProto) (*Tensor, error) {
	t := &Tensor{DType: DType(p.GetDataType()), Dims: p.Dims, Name: p.GetName(), Doc: p.GetDocString()}
	origin := &tensorOrigin{shell: p}
	t.origin = origin
	err := l.elements(t, p, origin)
	if err == nil {
		err = l.views.restore(p) // raw_data that is not understood stays in the message
	}
	if err != nil {
		return nil, fmt.Errorf("tensor %q (%v%v): %w", t.Name, t.DType, t.Dims, err)
	}
	return t, nil
}

func (l *loader) elements(t *Tensor, p *onnxpb.TensorProto, origin *tensorOrigin) error {
	n, ok := NumElements(t.Dims)
	if !ok {
		return errors.New("dims are negative or overflow")
	}
	if p.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
		var err error
		t.external, err = l.external(t, p)
		return err
	}
	if !t.DType.Known() || p.Segment != nil {
		return nil
	}
	if t.DType == String {
		if n != int64(len(p.StringData)) {
			return fmt.Errorf("dims ask for %d strings, data has %d", n, len(p.StringData))
		}
		t.strs, origin.field = p.StringData, stringField
		p.StringData = nil
		return nil
	}
	size, ok := t.DType.ByteSize(n)
	if !ok {
		return errors.New("dims overflow")
	}
	have := typedEntries(p, t.DType)
	if len(p.RawData) > 0 || p.RawData != nil && have == 0 {
		length := int64(len(p.RawData))
		if r, ok := l.views.resolve(p.RawData); ok {
			t.inFile, length = r, r.length
		} else {
			t.raw = p.RawData
		}
		if size != length {
			return fmt.Errorf("dims ask for %d bytes, data has %d", size, length)
		}
		p.RawData, origin.field = nil, rawField
		return nil
	}
	want := n
	switch {
	case t.DType == Complex64 || t.DType == Complex128:
		want = 2 * n
	case t.DType.Bits() < 8:
		want = size
	}
	if want != int64(have) {
		return fmt.Errorf("dims ask for %d entries, data has %d", want, have)
	}
	if want == 0 {
		return nil
	}
	t.raw = packTyped(p, t.DType)
	// An entry can be more than its element holds (a bool of 256). Such a
	// list stays in the origin, and is saved from there.
	q := &onnxpb.TensorProto{}
	unpackTyped(q, t.raw, t.DType)
	if slices.Equal(p.Int32Data, q.Int32Data) && slices.Equal(p.Uint64Data, q.Uint64Data) {
		origin.field = typedField
		clearTyped(p, t.DType)
	}
	return nil
}

// typedEntries is the length of the typed field of d: an entry for every
// element, two for a complex one, and one for every byte of elements narrower
// than that.
func typedEntries(p *onnxpb.TensorProto, d DType) int {
	switch d {
	case Float32, Complex64:
		return len(p.FloatData)
	case Float64, Complex128:
		return len(p.DoubleData)
	case Int64:
		return len(p.Int64Data)
	case Uint32, Uint64:
		return len(p.Uint64Data)
	}
	return len(p.Int32Data)
}

// packTyped returns the elements of the typed field of d in packed form.
func packTyped(p *onnxpb.TensorProto, d DType) []byte {
	le := binary.LittleEndian
	out := make([]byte, 0, typedEntries(p, d)*max(1, min(d.Bits()/8, 8)))
	switch d {
	case Float32, Complex64:
		for _, v := range p.FloatData {
			out = le.AppendUint32(out, math.Float32bits(v))
		}
	case Float64, Complex128:
		for _, v := range p.DoubleData {
			out = le.AppendUint64(out, math.Float64bits(v))
		}
	case Int64:
		for _, v := range p.Int64Data {
			out = le.AppendUint64(out, uint64(v))
		}
	case Uint64:
		for _, v := range p.Uint64Data {
			out = le.AppendUint64(out, v)
		}
	case Uint32:
		for _, v := range p.Uint64Data {
			out = le.AppendUint32(out, uint32(v))
		}
	default:
		for _, v := range p.Int32Data {
			switch d.Bits() {
			case 32:
				out = le.AppendUint32(out, uint32(v))
			case 16:
				out = le.AppendUint16(out, uint16(v))
			default:
				out = append(out, byte(v))
			}
		}
	}
	return out
}

// unpackTyped sets the typed field of d to the elements of raw, integers
// narrower than 32 bits extended by their sign if they have one.
func unpackTyped(p *onnxpb.TensorProto, raw []byte, d DType) {
	le := binary.LittleEndian
	switch d {
	case Float32, Complex64:
		p.FloatData = make([]float32, len(raw)/4)
		for i := range p.FloatData {
			p.FloatData[i] = math.Float32frombits(le.Uint32(raw[4*i:]))
		}
	case Float64, Complex128:
		p.DoubleData = make([]float64, len(raw)/8)
		for i := range p.DoubleData {
			p.DoubleData[i] = math.Float64frombits(le.Uint64(raw[8*i:]))
		}
	case Int64:
		p.Int64Data = make([]int64, len(raw)/8)
		for i := range p.Int64Data {
			p.Int64Data[i] = int64(le.Uint64(raw[8*i:]))
		}
	case Uint64:
		p.Uint64Data = make([]uint64, len(raw)/8)
		for i := range p.Uint64Data {
			p.Uint64Data[i] = le.Uint64(raw[8*i:])
		}
	case Uint32:
		p.Uint64Data = make([]uint64, len(raw)/4)
		for i := range p.Uint64Data {
			p.Uint64Data[i] = uint64(le.Uint32(raw[4*i:]))
		}
	default:
		width := max(1, d.Bits()/8)
		p.Int32Data = make([]int32, len(raw)/width)
		for i := range p.Int32Data {
			switch d {
			case Int32:
				p.Int32Data[i] = int32(le.Uint32(raw[4*i:]))
			case Int16:
				p.Int32Data[i] = int32(int16(le.Uint16(raw[2*i:])))
			case Uint16, Float16, BFloat16:
				p.Int32Data[i] = int32(le.Uint16(raw[2*i:]))
			case Int8:
				p.Int32Data[i] = int32(int8(raw[i]))
			default:
				p.Int32Data[i] = int32(raw[i])
			}
		}
	}
}

func clearTyped(p *onnxpb.TensorProto, d DType) {
	switch d {
	case Float32, Complex64:
		p.FloatData = nil
	case Float64, Complex128:
		p.DoubleData = nil
	case Int64:
		p.Int64Data = nil
	case Uint32, Uint64:
		p.Uint64Data = nil
	default:
		p.Int32Data = nil
	}
}

// sparse takes p over. Values are [nnz], indices int64 [nnz] or [nnz, rank].
func (l *loader) sparse(p *onnxpb.SparseTensorProto) (*SparseTensor, error) {
	if p.Values == nil || p.Indices == nil {
		return nil, errors.New("sparse tensor without values or indices")
	}
	s := &SparseTensor{Dims: p.Dims, origin: p}
	var err error
	if s.Values, err = l.tensor(p.Values); err != nil {
		return nil, err
	}
	if s.Indices, err = l.tensor(p.Indices); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	p.Values, p.Indices = nil, nil
	return s, nil
}

// encodeTensor returns the message of t under a name. Elements go to the
// field they came from, those of a new tensor to raw_data. Those in a file are
// left to the caller.
func encodeTensor(t *Tensor, name string) *onnxpb.TensorProto {
	p := &onnxpb.TensorProto{}
	field := rawField
	if o, ok := t.origin.(*tensorOrigin); ok {
		p = shallow(o.shell)
		field = o.field
	} else if t.DType == String {
		field = stringField
	}
	setString(&p.Name, name)
	setString(&p.DocString, t.Doc)
	if DType(p.GetDataType()) != t.DType {
		p.DataType = proto.Int32(int32(t.DType))
	}
	p.Dims = t.Dims
	switch {
	case t.external != nil || t.inFile != nil:
	case field == rawField:
		p.RawData = t.raw
		if p.RawData == nil {
			p.RawData = []byte{}
		}
	case field == typedField:
		unpackTyped(p, t.raw, t.DType)
	case field == stringField:
		p.StringData = t.strs
	}
	return p
}
