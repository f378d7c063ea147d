package graph

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// External is a range of a file beside the model that holds a tensor's
// elements. Location is relative to the model's folder and cannot leave it.
type External struct {
	Location       string // of the file, with slashes
	Offset, Length int64  // bytes

	file *dataFile // nil: there is no folder to look in
}

// span is a range of bytes in a file.
type span struct{ offset, length int64 }

// dataFiles are the external files of one model, each found once.
type dataFiles struct {
	dir   string
	files map[string]*dataFile
}

func newDataFiles(dir string) *dataFiles {
	return &dataFiles{dir: dir, files: map[string]*dataFile{}}
}

// dataFile is an external file as it was at load. It is opened for each read,
// since exporters write models with thousands of them.
type dataFile struct {
	dir, location string
	info          fs.FileInfo
	spans         map[span]bool // those that the model referred to

	mu     sync.Mutex
	pinned *os.File // kept open because the file can lose its name
}

// find returns the file of a location.
func (d *dataFiles) find(location string) (*dataFile, error) {
	if f := d.files[location]; f != nil {
		return f, nil
	}
	f := &dataFile{dir: d.dir, location: location, spans: map[span]bool{}}
	r, err := openWithin(d.dir, location)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if f.info, err = r.Stat(); err != nil {
		return nil, bareError(err)
	}
	d.files[location] = f
	return f, nil
}

// checkLocation refuses what is not a plain path down from the folder.
func checkLocation(location string) error {
	switch {
	case location == "":
		return errors.New("no location is given")
	case slices.Contains(strings.FieldsFunc(location, func(r rune) bool { return r == '/' || r == '\\' }), ".."),
		path.IsAbs(location), !filepath.IsLocal(filepath.FromSlash(location)):
		return errors.New("the path leaves the model's folder: move the file beside the model and correct the path")
	}
	return nil
}

// openWithin opens a regular file in dir or below it. Links that lead out of
// dir are refused.
func openWithin(dir, location string) (*os.File, error) {
	if err := checkLocation(location); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, bareError(err)
	}
	defer root.Close()
	name := filepath.FromSlash(location)
	// Opening a pipe would wait for a writer: look first.
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("the file is missing: put it beside the model")
	case err != nil:
		return nil, fmt.Errorf("%w: it must lie in the model's folder, not behind a link", bareError(err))
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, bareError(err)
	}
	return f, nil
}

// open returns the file for reading. It fails where the file is not the one
// that was loaded any more.
func (f *dataFile) open() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.pinned, error(nil)
	if r == nil {
		r, err = openWithin(f.dir, f.location)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", f.location, err)
	}
	info, err := r.Stat()
	if err == nil && (!os.SameFile(info, f.info) || info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime())) {
		err = errors.New("the file was changed since the model was loaded: load it again")
	}
	if err != nil {
		if r != f.pinned {
			r.Close()
		}
		return nil, fmt.Errorf("%q: %w", f.location, bareError(err))
	}
	return r, nil
}

// release closes what open returned.
func (f *dataFile) release(r *os.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r != f.pinned {
		r.Close()
	}
}

// pin keeps the file readable after its name is gone.
func (f *dataFile) pin() error {
	r, err := f.open()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pinned = r
	return nil
}

// read returns the bytes of the range.
func (e *External) read(t *Tensor) ([]byte, error) {
	if e.file == nil {
		return nil, fmt.Errorf("tensor %q: external data %q can't be read: the model was not loaded from a file", t.Name, e.Location)
	}
	if e.Length != t.Size() {
		return nil, fmt.Errorf("tensor %q (%v%v): external data %q: dims ask for %d bytes, data has %d",
			t.Name, t.DType, t.Dims, e.Location, t.Size(), e.Length)
	}
	data, err := e.bytes().read()
	if err != nil {
		return nil, fmt.Errorf("tensor %q: external data %w", t.Name, err)
	}
	return data, nil
}

func (e *External) bytes() fileRange { return fileRange{e.file, span{e.Offset, e.Length}} }

// external decodes and checks where the elements of t are. Keys that are not
// known stay in the origin.
func (l *loader) external(t *Tensor, p *onnxpb.TensorProto) (*External, error) {
	if t.DType == String {
		return nil, errors.New("strings can't be external data")
	}
	e := &External{Length: -1}
	for _, kv := range p.ExternalData {
		var err error
		switch kv.GetKey() {
		case "location":
			e.Location = kv.GetValue()
		case "offset":
			e.Offset, err = strconv.ParseInt(kv.GetValue(), 10, 64)
		case "length":
			e.Length, err = strconv.ParseInt(kv.GetValue(), 10, 64)
			if err == nil && e.Length < 0 {
				err = errors.New("is negative")
			}
		}
		if err != nil || e.Offset < 0 {
			return nil, fmt.Errorf("external data: %s %q is no number of bytes", kv.GetKey(), kv.GetValue())
		}
	}
	if err := l.locate(e, t); err != nil {
		return nil, fmt.Errorf("external data %q: %w", e.Location, err)
	}
	return e, nil
}

// locate checks the range of e against the file and the dims of t, and sets
// its length if that was left out.
func (l *loader) locate(e *External, t *Tensor) error {
	if err := checkLocation(e.Location); err != nil {
		return err
	}
	size, known := t.DType.ByteSize(t.Len())
	if !known && t.DType.Known() {
		return errors.New("dims overflow")
	}
	if known && e.Length < 0 {
		e.Length = size
	}
	if known && e.Length != size {
		return fmt.Errorf("dims ask for %d bytes, data has %d", size, e.Length)
	}
	if l.files == nil {
		e.Length = max(e.Length, 0)
		return nil
	}
	f, err := l.files.find(e.Location)
	if err != nil {
		return err
	}
	if e.Length < 0 {
		e.Length = max(f.info.Size()-e.Offset, 0)
	}
	if end := f.info.Size(); e.Offset > end || e.Length > end-e.Offset {
		return fmt.Errorf("%d bytes from %d on are asked for, the file has %d: it is cut short or belongs to another model", e.Length, e.Offset, end)
	}
	e.file = f
	f.spans[span{e.Offset, e.Length}] = true
	return nil
}
