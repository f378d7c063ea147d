// Package npz reads and writes NumPy .npz archives of arrays of any rank.
//
// The header of each array is parsed by github.com/sbinet/npyio. The elements
// are read and written here: that library returns no error on truncated data,
// panics on absurd shapes, and writes no array of more than two dimensions.
package npz

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/sbinet/npyio/npy"
)

// Array is one array: packed little-endian elements in row-major order.
type Array struct {
	Name  string
	DType graph.DType
	Shape []int
	Raw   []byte
}

// descr pairs the element types with NumPy's names for them.
var descr = []struct {
	name  string
	dtype graph.DType
}{
	{"<f4", graph.Float32}, {"<f8", graph.Float64}, {"<f2", graph.Float16},
	{"<i8", graph.Int64}, {"<i4", graph.Int32}, {"<i2", graph.Int16}, {"|i1", graph.Int8},
	{"<u8", graph.Uint64}, {"<u4", graph.Uint32}, {"<u2", graph.Uint16}, {"|u1", graph.Uint8},
	{"|b1", graph.Bool},
}

// ErrLimit is what errors of arrays over the limit wrap.
var ErrLimit = errors.New("limit")

// File is an open archive. Arrays are read when they are asked for.
type File struct {
	path  string
	file  *os.File
	zip   *zip.Reader
	limit int64
}

// Open opens an archive. No array of more than limit bytes is read.
func Open(path string, limit int64) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	z, err := zip.NewReader(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: not an .npz archive (%w); write it with numpy.savez or numpy.savez_compressed", path, err)
	}
	return &File{path: path, file: f, zip: z, limit: limit}, nil
}

// FromBytes opens an archive that is held in memory; name stands for its path
// in errors.
func FromBytes(name string, data []byte, limit int64) (*File, error) {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: not an .npz archive (%w)", name, err)
	}
	return &File{path: name, zip: z, limit: limit}, nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// Names lists the arrays in the order of the archive.
func (f *File) Names() []string {
	var out []string
	for _, e := range f.zip.File {
		if name, ok := strings.CutSuffix(e.Name, ".npy"); ok {
			out = append(out, name)
		}
	}
	return out
}

// Read returns an array with its elements.
func (f *File) Read(name string) (*Array, error) {
	for _, e := range f.zip.File {
		if e.Name != name+".npy" {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", f.path, name, err)
		}
		defer r.Close()
		a, err := readArray(r, f.limit)
		if err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", f.path, name, err)
		}
		a.Name = name
		return a, nil
	}
	return nil, fmt.Errorf("%s: no array %q; it has %s", f.path, name, strings.Join(f.Names(), ", "))
}

// maxHeader bounds the header: NumPy writes about a hundred bytes and itself
// refuses more than ten thousand.
const maxHeader = 10000

func readArray(r io.Reader, limit int64) (*Array, error) {
	// The length field comes first, so that the library never sees a header
	// that claims to be huge.
	var pre [12]byte
	if _, err := io.ReadFull(r, pre[:]); err != nil {
		return nil, errors.New("truncated header")
	}
	size := int64(binary.LittleEndian.Uint16(pre[8:])) - 2
	if pre[6] >= 2 {
		size = int64(binary.LittleEndian.Uint32(pre[8:]))
	}
	if size < 0 || size > maxHeader {
		return nil, fmt.Errorf("header of %d bytes", size)
	}
	head := make([]byte, size)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, errors.New("truncated header")
	}
	h, err := header(append(pre[:], head...))
	if err != nil {
		return nil, err
	}
	a := &Array{Shape: h.Descr.Shape}
	if a.Shape == nil {
		a.Shape = []int{}
	}
	name := strings.Replace(h.Descr.Type, "=", "<", 1)
	if len(name) == 3 && name[2] == '1' {
		name = "|" + name[1:]
	}
	for _, d := range descr {
		if d.name == name {
			a.DType = d.dtype
		}
	}
	if a.DType == graph.Undefined {
		return nil, fmt.Errorf("element type %q cannot be read; save it as a little-endian float, integer or bool array", h.Descr.Type)
	}
	if h.Descr.Fortran && len(a.Shape) > 1 {
		return nil, errors.New("is in Fortran order; save numpy.ascontiguousarray of it")
	}
	dims := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		dims[i] = int64(d)
	}
	n, ok := graph.NumElements(dims)
	if !ok {
		return nil, fmt.Errorf("shape %v is negative or overflows", a.Shape)
	}
	want, ok := a.DType.ByteSize(n)
	if !ok || want > limit {
		return nil, fmt.Errorf("shape %v of %v is over the %w of %d MB an array", a.Shape, a.DType, ErrLimit, limit>>20)
	}
	// ReadAll through a limit grows with what is there, not with what the
	// header claims.
	raw, err := io.ReadAll(io.LimitReader(r, want+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != want {
		at := "at least "
		if int64(len(raw)) < want {
			at = ""
		}
		return nil, fmt.Errorf("shape %v of %v asks for %d bytes, the file has %s%d", a.Shape, a.DType, want, at, len(raw))
	}
	a.Raw = raw
	return a, nil
}

func header(b []byte) (h npy.Header, err error) {
	defer func() {
		if recover() != nil { // the library slices a malformed dictionary unchecked
			err = errors.New("malformed header")
		}
	}()
	r, err := npy.NewReader(bytes.NewReader(b))
	if err != nil {
		return h, err
	}
	return r.Header, nil
}

// Float32s returns the elements of a floating-point array as float32.
func (a *Array) Float32s() ([]float32, error) {
	t, err := a.tensor()
	if err != nil {
		return nil, err
	}
	return t.Float32s()
}

// Int64s returns the elements of an integer or bool array as int64.
func (a *Array) Int64s() ([]int64, error) {
	t, err := a.tensor()
	if err != nil {
		return nil, err
	}
	return t.Int64s()
}

// Float64s returns the elements of a float64 array.
func (a *Array) Float64s() ([]float64, error) {
	if a.DType != graph.Float64 {
		return nil, fmt.Errorf("array %q is %v, want double", a.Name, a.DType)
	}
	out := make([]float64, len(a.Raw)/8)
	for i := range out {
		out[i] = math.Float64frombits(binary.LittleEndian.Uint64(a.Raw[8*i:]))
	}
	return out, nil
}

func (a *Array) tensor() (*graph.Tensor, error) {
	dims := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		dims[i] = int64(d)
	}
	t, err := graph.NewTensor(a.DType, dims, a.Raw)
	if err != nil {
		return nil, fmt.Errorf("array %q: %w", a.Name, err)
	}
	t.Name = a.Name
	return t, nil
}

// Float32Array, Float64Array and Int64Array make an array of data.

func Float32Array(name string, shape []int, data []float32) *Array {
	raw := make([]byte, 4*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	return &Array{Name: name, DType: graph.Float32, Shape: shape, Raw: raw}
}

func Float64Array(name string, shape []int, data []float64) *Array {
	raw := make([]byte, 8*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint64(raw[8*i:], math.Float64bits(v))
	}
	return &Array{Name: name, DType: graph.Float64, Shape: shape, Raw: raw}
}

func Int64Array(name string, shape []int, data []int64) *Array {
	raw := make([]byte, 8*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint64(raw[8*i:], uint64(v))
	}
	return &Array{Name: name, DType: graph.Int64, Shape: shape, Raw: raw}
}

// Write writes arrays as a compressed archive. The same arrays give the same
// bytes: no times are recorded.
func Write(w io.Writer, arrays ...*Array) error {
	z := zip.NewWriter(w)
	for _, a := range arrays {
		var name string
		for _, d := range descr {
			if d.dtype == a.DType {
				name = d.name
			}
		}
		if name == "" {
			return fmt.Errorf("array %q: NumPy has no element type %v", a.Name, a.DType)
		}
		if _, err := a.tensor(); err != nil {
			return err
		}
		f, err := z.Create(a.Name + ".npy")
		if err != nil {
			return err
		}
		if _, err := f.Write(npyHeader(name, a.Shape)); err != nil {
			return err
		}
		if _, err := f.Write(a.Raw); err != nil {
			return err
		}
	}
	return z.Close()
}

// npyHeader is the header of format version 1.0, padded so that the elements
// begin at a multiple of 64 bytes (NumPy Enhancement Proposal 1).
func npyHeader(descr string, shape []int) []byte {
	dims := strings.Builder{}
	for i, d := range shape {
		if i > 0 {
			dims.WriteByte(' ')
		}
		fmt.Fprintf(&dims, "%d,", d)
	}
	s := dims.String()
	if len(shape) > 1 {
		s = strings.TrimSuffix(s, ",")
	}
	dict := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, s)
	pad := (64 - (10+len(dict)+1)%64) % 64
	dict += strings.Repeat(" ", pad) + "\n"
	h := append([]byte("\x93NUMPY\x01\x00"), 0, 0)
	binary.LittleEndian.PutUint16(h[8:], uint16(len(dict)))
	return append(h, dict...)
}
