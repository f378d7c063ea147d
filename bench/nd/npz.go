package nd

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/sbinet/npyio/npy"
)

// dtypes pairs NumPy's type strings with Go's element types.
var dtypes = []struct {
	npy string
	typ reflect.Type
}{
	{"<f4", reflect.TypeFor[float32]()}, {"<f8", reflect.TypeFor[float64]()},
	{"|i1", reflect.TypeFor[int8]()}, {"<i2", reflect.TypeFor[int16]()},
	{"<i4", reflect.TypeFor[int32]()}, {"<i8", reflect.TypeFor[int64]()},
	{"|u1", reflect.TypeFor[uint8]()}, {"<u2", reflect.TypeFor[uint16]()},
	{"<u4", reflect.TypeFor[uint32]()}, {"<u8", reflect.TypeFor[uint64]()},
	{"|b1", reflect.TypeFor[bool]()},
}

// ReadNPZ reads every array of a file, by name.
func ReadNPZ(path string) (map[string]Array, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer z.Close()
	arrays := map[string]Array{}
	for _, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok {
			continue
		}
		if arrays[name], err = readNPY(f); err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", path, name, err)
		}
	}
	return arrays, nil
}

func readNPY(f *zip.File) (Array, error) {
	r, err := f.Open()
	if err != nil {
		return Array{}, err
	}
	defer r.Close()
	h, err := npy.NewReader(r)
	if err != nil {
		return Array{}, err
	}
	if h.Header.Descr.Fortran && len(h.Header.Descr.Shape) > 1 {
		return Array{}, fmt.Errorf("column-major order is not supported: save it with numpy.ascontiguousarray")
	}
	for _, t := range dtypes {
		if t.npy[1:] != strings.TrimLeft(h.Header.Descr.Type, "<|=") {
			continue
		}
		// The payload must be there before anything of its size is allocated.
		n, size := 1, uint64(t.typ.Size())
		shape := []int64{}
		for _, d := range h.Header.Descr.Shape {
			if d < 0 || d > 0 && uint64(n) > f.UncompressedSize64/size/uint64(d) {
				return Array{}, fmt.Errorf("shape %v needs more than the %d bytes there are", h.Header.Descr.Shape, f.UncompressedSize64)
			}
			n *= d
			shape = append(shape, int64(d))
		}
		data := reflect.MakeSlice(reflect.SliceOf(t.typ), n, n)
		if err := binary.Read(r, binary.LittleEndian, data.Interface()); err != nil {
			return Array{}, fmt.Errorf("%d values of %s: %w", n, t.npy, err)
		}
		return Array{Shape: shape, Data: data.Interface()}, nil
	}
	return Array{}, fmt.Errorf("type %q is not supported", h.Header.Descr.Type)
}

// WriteNPZ writes arrays under their names, the same bytes for the same arrays.
func WriteNPZ(path string, arrays map[string]Array) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z := zip.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		w, err := z.Create(name + ".npy")
		if err == nil {
			err = writeNPY(w, arrays[name])
		}
		if err != nil {
			return fmt.Errorf("%s: array %q: %w", path, name, err)
		}
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return f.Close()
}

// writeNPY writes the NPY format, version 1.0
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
// npyio's writer knows no shapes of more than two dimensions.
func writeNPY(w io.Writer, a Array) error {
	i := slices.IndexFunc(dtypes, func(t struct {
		npy string
		typ reflect.Type
	}) bool {
		return t.typ == a.Type()
	})
	if i < 0 {
		return fmt.Errorf("type %v is not supported", a.Type())
	}
	dims := ""
	for _, d := range a.Shape {
		dims += fmt.Sprintf("%d, ", d)
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", dtypes[i].npy, strings.TrimSuffix(dims, " "))
	const prefix = len("\x93NUMPY") + 4
	for (prefix+len(header)+1)%64 != 0 {
		header += " "
	}
	header += "\n"
	if _, err := io.WriteString(w, "\x93NUMPY\x01\x00"); err != nil {
		return err
	}
	if err := binary.Write(w, binary.LittleEndian, uint16(len(header))); err != nil {
		return err
	}
	if _, err := io.WriteString(w, header); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, a.Data)
}
