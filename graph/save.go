package graph

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
)

// Saving.
//
// A file is written under a temporary name in its folder, flushed to the disk,
// read back and compared, and only then renamed to its own name, so that at
// any time the name means the old file or the new one, whole. (The library
// natefinch/atomic has no place for the comparison between write and rename,
// and none for files that must not replace any.)
//
// A model and its external data are several files, which can't be replaced at
// once. So a data file never replaces another one: the new data are there,
// under a name that was free, before the model that refers to them takes its
// place.
//
// Only data that the model still refers to are copied, by range from file to
// file. Names and offsets of a data file stay as they are where the name is
// free, and the offsets if all of its ranges are still in use. Everything else
// goes to one file, named after the model: "m.onnx.data" beside "m.onnx", or
// "m.onnx.<hash of the content>.data" where another file has that name. When a
// model is replaced, data files of these names that only it referred to are
// removed; others stay, as other models may use them.

// SaveOptions are options of Save; the zero value is for a new file.
type SaveOptions struct {
	Force bool // may replace the file that the model was loaded from
}

const (
	// minMoved is the size from which on weights move to external data when
	// a model is too large for one message.
	minMoved = 64 << 10
	// pageAlign is where larger ranges start in a compacted data file, so
	// that they can be mapped.
	pageAlign = 4096
	// wordAlign is where smaller ones start.
	wordAlign = 64
)

// Save writes the model to a file, and its external data to files beside it.
// The file at path, if there is one, is replaced as a whole or stays as it
// was. Save refuses to replace the file that the model was loaded from, unless
// o.Force is set, and always any file that holds weights of the model. What was
// written is read back, compared and decoded before it takes its place.
//
// Weights of a model that is too large for one file (2 GiB) go to external
// data.
func (m *Model) Save(path string, o SaveOptions) error {
	return m.SaveContext(context.Background(), path, o)
}

// SaveContext is [Model.Save] that ctx can interrupt; it then leaves no files.
func (m *Model) SaveContext(ctx context.Context, path string, o SaveOptions) error {
	return m.save(ctx, path, o, maxMessage)
}

func (m *Model) save(ctx context.Context, path string, o SaveOptions, limit int64) error {
	s := &saver{ctx: ctx, model: m, path: path, base: filepath.Base(path), limit: limit}
	if err := s.run(o); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

type saver struct {
	ctx   context.Context
	model *Model
	path  string
	base  string
	root  *os.Root // the folder of path
	limit int64    // bytes of a message

	layout  map[*Tensor]External
	written []string // data files and folders that this save has put in place
}

func (s *saver) run(o SaveOptions) (err error) {
	if err := s.checkTarget(o.Force); err != nil {
		return err
	}
	s.root, err = os.OpenRoot(filepath.Dir(s.path))
	if err != nil {
		return fmt.Errorf("folder: %w", bareError(err))
	}
	defer s.root.Close()
	atomicfile.RemoveStale(s.path)
	defer func() {
		if err != nil {
			for _, name := range slices.Backward(s.written) {
				s.root.Remove(name)
			}
		}
	}()
	if err := s.placeData(); err != nil {
		return err
	}
	r, err := s.model.rope(s.layout)
	if err != nil {
		return err
	}
	if r.size > s.limit {
		return fmt.Errorf("the model has %d bytes without its larger weights, an ONNX file can have %d: it can't be saved", r.size, s.limit)
	}
	temp, err := s.writeTemp(s.base, func(f *os.File) error {
		_, err := r.WriteTo(s.interruptible(f))
		return err
	})
	if err != nil {
		return err
	}
	defer s.root.Remove(temp) // fails once it has its name
	if err := s.verify(temp, r); err != nil {
		return err
	}
	old := s.oldData()
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if info, err := s.root.Stat(s.base); err == nil {
		if err := s.root.Chmod(temp, info.Mode().Perm()); err != nil {
			return bareError(err)
		}
	}
	if err := s.root.Rename(temp, s.base); err != nil {
		return bareError(err)
	}
	s.syncFolder(".")
	// The model is in its place: what fails from here on leaves a file that
	// nobody needs.
	for _, name := range old {
		s.root.Remove(name)
	}
	return nil
}

// checkTarget refuses to replace what the model is made of.
func (s *saver) checkTarget(force bool) error {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return bareError(err)
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file: give another name")
	}
	if s.model.path != "" && !force {
		if from, err := os.Stat(s.model.path); err == nil && os.SameFile(from, info) {
			return errors.New("is the file that the model was loaded from: give another name, or force it")
		}
	}
	for t := range s.model.externalTensors {
		if f := t.external.file; f != nil && os.SameFile(f.info, info) {
			return errors.New("holds weights of the model: give another name")
		}
	}
	return nil
}

// externalTensors iterates over the external tensors, in a fixed order.
func (m *Model) externalTensors(yield func(*Tensor) bool) {
	m.tensors(func(t *Tensor) bool { return t.external == nil || yield(t) })
}

// tensors iterates over every tensor, in a fixed order; external ones of the
// training information come last.
func (m *Model) tensors(yield func(*Tensor) bool) {
	ok := true
	visit := func(list ...*Tensor) {
		for _, t := range list {
			ok = ok && (t == nil || yield(t))
		}
	}
	sparse := func(list ...*SparseTensor) {
		for _, s := range list {
			if s != nil {
				visit(s.Values, s.Indices)
			}
		}
	}
	attrs := func(list []*Attr) {
		for _, a := range list {
			visit(a.T)
			sparse(a.Sparse)
			visit(a.Tensors...)
			sparse(a.Sparses...)
		}
	}
	graph := func(g *Graph) bool {
		for _, v := range g.inits {
			visit(v.Const)
			sparse(v.Sparse)
		}
		for _, n := range g.nodes {
			attrs(n.Attrs)
		}
		return ok
	}
	m.Graphs(graph)
	for _, f := range m.Functions {
		attrs(f.AttrDefaults)
		for _, a := range f.AttrDefaults {
			for _, g := range a.graphs() {
				g.walk(graph)
			}
		}
	}
	if o, isOrigin := m.origin.(*modelOrigin); isOrigin {
		visit(o.training...)
	}
}

// segment is a range of bytes in a data file that is to be written.
type segment struct {
	part
	offset  int64
	tensors []*Tensor // that have these bytes
}

// group is the segments that come from one file.
type group struct {
	file     *dataFile
	segments []*segment
	bySpan   map[span]*segment
}

// placeData writes the data files that the model needs and sets the layout.
func (s *saver) placeData() error {
	var groups []*group
	byFile := map[*dataFile]*group{}
	for t := range s.model.externalTensors {
		e := t.external
		if e.file == nil {
			return fmt.Errorf("tensor %q: external data %q can't be copied: the model was not loaded from a file", t.Name, e.Location)
		}
		gr := byFile[e.file]
		if gr == nil {
			gr = &group{file: e.file, bySpan: map[span]*segment{}}
			byFile[e.file] = gr
			groups = append(groups, gr)
		}
		at := span{e.Offset, e.Length}
		sg := gr.bySpan[at]
		if sg == nil {
			from := e.bytes()
			sg = &segment{part: part{file: &from}}
			gr.bySpan[at] = sg
			gr.segments = append(gr.segments, sg)
		}
		sg.tensors = append(sg.tensors, t)
	}
	s.layout = map[*Tensor]External{}
	var rest []*segment // what goes to the file named after the model
	for _, gr := range groups {
		kept, err := s.keepName(gr)
		if err != nil {
			return err
		}
		if !kept {
			rest = append(rest, gr.segments...)
		}
	}
	moved, err := s.tooLarge()
	if err != nil {
		return err
	}
	rest = append(rest, moved...)
	if len(rest) == 0 {
		return nil
	}
	compact(rest)
	location, err := s.writeData(s.base+".data", rest, true)
	if err != nil {
		return err
	}
	s.assign(location, rest)
	return nil
}

// keepName writes the segments of a data file under its own name and reports
// whether it could: the name must be free, or its file hold the same bytes.
func (s *saver) keepName(gr *group) (bool, error) {
	whole := len(gr.bySpan) == len(gr.file.spans) // every range is still in use
	if whole {
		for _, g := range gr.segments {
			g.offset = g.file.offset
		}
	} else {
		compact(gr.segments)
	}
	location := gr.file.location
	name := filepath.FromSlash(location)
	info, err := s.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if location, err = s.writeData(location, gr.segments, false); err != nil {
			return false, err
		}
	case err != nil:
		return false, nil
	case os.SameFile(info, gr.file.info):
		// Only the model itself goes on using its own file.
		if !whole || !s.replacesSource() {
			return false, nil
		}
	default:
		if same, err := s.holds(name, gr.segments); err != nil || !same {
			return false, err
		}
	}
	s.assign(location, gr.segments)
	return true, nil
}

// replacesSource reports whether the model is saved over its own file.
func (s *saver) replacesSource() bool {
	a, errA := os.Stat(s.path)
	b, errB := os.Stat(s.model.path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (s *saver) assign(location string, segments []*segment) {
	for _, g := range segments {
		for _, t := range g.tensors {
			s.layout[t] = External{Location: location, Offset: g.offset, Length: g.size()}
		}
	}
}

// compact lays segments out behind each other.
func compact(segments []*segment) {
	at := int64(0)
	for _, g := range segments {
		align := int64(wordAlign)
		if g.size() >= minMoved {
			align = pageAlign
		}
		at = (at + align - 1) / align * align
		g.offset = at
		at += g.size()
	}
}

// tooLarge returns the weights in memory that must leave the message for it to
// stay within the limit: none, or all that are large.
func (s *saver) tooLarge() ([]*segment, error) {
	r, err := s.model.rope(s.layout)
	if err != nil || r.size <= s.limit {
		return nil, err
	}
	var out []*segment
	seen := map[*Tensor]bool{}
	s.model.Graphs(func(g *Graph) bool {
		for _, v := range g.inits {
			t := v.Const
			if t == nil || t.external != nil || seen[t] {
				continue
			}
			if p := (part{bytes: t.raw, file: t.inFile}); p.size() >= minMoved {
				seen[t] = true
				out = append(out, &segment{part: p, tensors: []*Tensor{t}})
			}
		}
		return true
	})
	return out, nil
}

// writeData writes segments to a new file and returns its location. Where the
// name is taken, by other content, another one is found if that is allowed.
func (s *saver) writeData(location string, segments []*segment, another bool) (string, error) {
	dir, base := path.Split(location)
	if err := s.makeFolders(dir); err != nil {
		return "", fmt.Errorf("folder of external data %q: %w", location, bareError(err))
	}
	if another {
		if same, err := s.holds(filepath.FromSlash(location), segments); err != nil || same {
			return location, err
		}
	}
	temp, err := s.writeTemp(filepath.FromSlash(location), func(f *os.File) error {
		for _, g := range segments {
			if _, err := f.Seek(g.offset, io.SeekStart); err != nil {
				return err
			}
			if _, err := g.WriteTo(s.interruptible(f)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("external data %q: %w", location, err)
	}
	defer s.root.Remove(temp)
	if err := s.compareFile(temp, segments); err != nil {
		return "", fmt.Errorf("external data %q: %w", location, bareError(err))
	}
	// A hard link takes a name only if it is free.
	err = s.root.Link(temp, filepath.FromSlash(location))
	if errors.Is(err, fs.ErrExist) && another {
		sum, hashErr := s.hash(temp)
		if hashErr != nil {
			return "", fmt.Errorf("external data %q: %w", location, hashErr)
		}
		location = dir + strings.TrimSuffix(base, ".data") + "." + sum[:12] + ".data"
		if same, err := s.holds(filepath.FromSlash(location), segments); err != nil || same {
			return location, err
		}
		err = s.root.Link(temp, filepath.FromSlash(location))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// Some file systems have no hard links.
		if _, statErr := s.root.Lstat(filepath.FromSlash(location)); errors.Is(statErr, fs.ErrNotExist) {
			err = s.root.Rename(temp, filepath.FromSlash(location))
		}
	}
	if err != nil {
		return "", fmt.Errorf("external data %q: %w", location, bareError(err))
	}
	s.written = append(s.written, filepath.FromSlash(location))
	s.syncFolder(filepath.Dir(filepath.FromSlash(location)))
	return location, nil
}

// makeFolders makes the folders of a path with slashes, "" for none.
func (s *saver) makeFolders(dir string) error {
	for i, c := range dir {
		if c != '/' {
			continue
		}
		name := filepath.FromSlash(dir[:i])
		err := s.root.Mkdir(name, 0o777)
		switch {
		case err == nil:
			s.written = append(s.written, name)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	return nil
}

// interruptible returns a writer that fails once the context ends.
func (s *saver) interruptible(w io.Writer) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		if err := s.ctx.Err(); err != nil {
			return 0, err
		}
		return w.Write(b)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// differs says that a file has not the bytes that it should have.
var errDiffers = errors.New("what was read back differs from what was written: the disk is faulty, or another program writes there")

// compareWith returns a writer that fails with errDiffers where what it gets
// is not what r has.
func (s *saver) compareWith(r io.Reader) io.Writer {
	var buf []byte
	return s.interruptible(writerFunc(func(b []byte) (int, error) {
		buf = slices.Grow(buf[:0], len(b))[:len(b)]
		_, err := io.ReadFull(r, buf)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF || err == nil && !bytes.Equal(b, buf):
			return 0, errDiffers
		case err != nil:
			return 0, err
		}
		return len(b), nil
	}))
}

// compareFile fails with errDiffers where the file of that name has not the
// bytes of the segments, or some behind them.
func (s *saver) compareFile(name string, segments []*segment) error {
	f, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	end := int64(0)
	for _, g := range segments {
		end = max(end, g.offset+g.size())
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != end {
		return errDiffers
	}
	for _, g := range segments {
		if _, err := g.WriteTo(s.compareWith(io.NewSectionReader(f, g.offset, g.size()))); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether there is a regular file of that name with the bytes of
// the segments.
func (s *saver) holds(name string, segments []*segment) (bool, error) {
	if info, err := s.root.Stat(name); err != nil || !info.Mode().IsRegular() {
		return false, nil
	}
	err := s.compareFile(name, segments)
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil, err
}

func (s *saver) hash(name string) (string, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeTemp makes a temporary file beside name and flushes it to the disk; it
// leaves none if it fails.
func (s *saver) writeTemp(name string, write func(*os.File) error) (string, error) {
	temp := atomicfile.TempName(name)
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", bareError(err)
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		s.root.Remove(temp)
		return "", bareError(err)
	}
	return temp, nil
}

// syncFolder flushes a folder's names to the disk. Not every system can.
func (s *saver) syncFolder(name string) {
	if d, err := s.root.Open(name); err == nil {
		d.Sync()
		d.Close()
	}
}

// verify reads the model back and decodes it.
func (s *saver) verify(temp string, r *rope) error {
	f, err := s.root.Open(temp)
	if err != nil {
		return bareError(err)
	}
	defer f.Close()
	if _, err := r.WriteTo(s.compareWith(f)); err != nil {
		return err
	}
	if n, err := f.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return errDiffers
	}
	if _, err := load(filepath.Join(filepath.Dir(s.path), temp)); err != nil {
		return fmt.Errorf("the model that was written can't be loaded: %w", err)
	}
	return nil
}

// oldData returns the data files named after the model that the file which is
// replaced refers to and the new one does not.
func (s *saver) oldData() []string {
	data, _, err := readModel(s.path, wholeFile)
	if err != nil {
		return nil
	}
	p := &onnxpb.ModelProto{}
	if unmarshal(data, p) != nil {
		return nil
	}
	used := map[string]bool{}
	for _, e := range s.layout {
		used[e.Location] = true
	}
	var out []string
	_ = eachTensor(p.ProtoReflect(), func(t *onnxpb.TensorProto) error {
		for _, kv := range t.ExternalData {
			name := kv.GetValue()
			if kv.GetKey() != "location" || used[name] || !ownData(s.base, name) {
				continue
			}
			used[name] = true
			s.pin(name)
			out = append(out, name)
		}
		return nil
	})
	return out
}

// ownData reports whether Save gives a data file of the model base that name.
func ownData(base, name string) bool {
	hash, ok := strings.CutPrefix(name, base+".")
	if !ok {
		return false
	}
	if hash == "data" {
		return true
	}
	hash, ok = strings.CutSuffix(hash, ".data")
	b, err := hex.DecodeString(hash)
	return ok && err == nil && len(b) == 6
}

// pin keeps the file readable for the model if that refers to it.
func (s *saver) pin(name string) {
	info, err := s.root.Stat(name)
	if err != nil {
		return
	}
	for t := range s.model.externalTensors {
		if f := t.external.file; f != nil && os.SameFile(f.info, info) {
			_ = f.pin() // a later read says what is wrong
		}
	}
}

// historyKey is where the history of a model's changes is in its metadata.
const historyKey = "lathe.history"

// Fingerprint identifies the content of the model: "sha256:" and the hash of
// its encoding without the history of its changes, and of its external data,
// wherever these lie. Data that can't be read count by their place. It takes a pass
// over all weights.
func (m *Model) Fingerprint() string {
	c := *m
	c.Metadata = slices.DeleteFunc(slices.Clone(m.Metadata), func(e Metadata) bool { return e.Key == historyKey })
	// In the message external tensors stand without their place; their data
	// follow in a fixed order.
	layout := map[*Tensor]External{}
	for t := range m.externalTensors {
		layout[t] = External{}
	}
	h := sha256.New()
	r, err := c.rope(layout)
	if err != nil {
		panic("graph: " + err.Error()) // proto2 without required fields has no errors
	}
	hash := func(p part, place int64, name string) {
		if n, err := p.WriteTo(h); err != nil || n < p.size() {
			fmt.Fprintf(h, "unread %d %q", place, name)
		}
	}
	for _, p := range r.parts {
		if p.file == nil {
			h.Write(p.bytes)
		} else {
			hash(p, p.file.offset, p.file.file.location)
		}
	}
	for t := range m.externalTensors {
		e := t.external
		from := e.bytes()
		fmt.Fprintf(h, "external %d\n", e.Length)
		if e.file == nil {
			fmt.Fprintf(h, "unread %d %q", e.Offset, e.Location)
		} else {
			hash(part{file: &from}, e.Offset, e.Location)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
