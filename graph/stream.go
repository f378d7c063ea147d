package graph

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// Models larger than memory should be. A large file is not read as a whole:
// its weights stay in it, are read when asked for, and are copied from file to
// file when the model is saved. Reading goes through ReadAt, never through a
// memory map, which would kill the process if the file were cut meanwhile.

const (
	// wholeFile is the size up to which a file is read as a whole: it is
	// then free to change, and weights are there at once.
	wholeFile = 64 << 20
	// minView is the size from which on raw_data of a larger file stays in
	// it. The tensors below that are the many small ones.
	minView = 64 << 10
)

// fileRange is a range of a file that holds elements of a tensor.
type fileRange struct {
	file *dataFile
	span
}

// open returns the bytes of the range, and a function to call at the end.
func (r fileRange) open() (io.Reader, func(), error) {
	f, err := r.file.open()
	if err != nil {
		return nil, nil, err
	}
	return io.NewSectionReader(f, r.offset, r.length), func() { r.file.release(f) }, nil
}

// read returns the bytes of the range in memory.
func (r fileRange) read() ([]byte, error) {
	in, done, err := r.open()
	if err != nil {
		return nil, err
	}
	defer done()
	data := make([]byte, r.length)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, fmt.Errorf("%q, %d bytes at %d: %w", r.file.location, r.length, r.offset, err)
	}
	return data, nil
}

// views are the weights that stay in a model file. In the message that is
// decoded each is replaced by a token and its number; the token is random, so
// that no file can hold it.
type views struct {
	file  *dataFile
	token []byte
	spans []span
}

// resolve returns the range that data stands for.
func (v *views) resolve(data []byte) (*fileRange, bool) {
	if v == nil || len(data) != len(v.token)+8 || !bytes.HasPrefix(data, v.token) {
		return nil, false
	}
	i := binary.LittleEndian.Uint64(data[len(v.token):])
	return &fileRange{file: v.file, span: v.spans[i]}, true
}

// restore puts raw_data back where it was replaced in the tensors of a
// message that is kept as it is.
func (v *views) restore(m proto.Message) error {
	if v == nil {
		return nil
	}
	return eachTensor(m.ProtoReflect(), func(t *onnxpb.TensorProto) error {
		r, ok := v.resolve(t.RawData)
		if !ok {
			return nil
		}
		raw, err := r.read()
		t.RawData = raw
		return err
	})
}

// readModel returns the bytes of a model file: all of a small one, and of a
// large one those without the weights that stay in it.
func readModel(path string, whole int64) ([]byte, *views, error) {
	f, info, err := openModel(path)
	if err != nil {
		return nil, nil, err
	}
	if info.Size() <= whole {
		defer f.Close()
		data := make([]byte, info.Size())
		if _, err := io.ReadFull(f, data); err != nil {
			return nil, nil, fmt.Errorf("the file changed while it was read: %w", err)
		}
		return data, nil, nil
	}
	token := make([]byte, 16)
	rand.Read(token) // never fails
	v := &views{
		file:  &dataFile{dir: filepath.Dir(path), location: filepath.Base(path), info: info, pinned: f},
		token: token,
	}
	s := &skimmer{views: v, in: f, buf: bufio.NewReaderSize(io.NewSectionReader(f, 0, info.Size()), minView)}
	data, err := s.message(info.Size(), (&onnxpb.ModelProto{}).ProtoReflect().Descriptor(), maxDepth)
	if err != nil {
		defer f.Close()
		head := make([]byte, 512)
		n, _ := f.ReadAt(head, 0)
		return nil, nil, notModel(head[:n], err)
	}
	return data, v, nil
}

// openModel opens a model file, which must be a regular one: others have no
// size or no end.
func openModel(path string) (*os.File, os.FileInfo, error) {
	// Opening a pipe would wait for a writer: look first.
	if info, err := os.Stat(path); err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil, nil, errIrregular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, bareError(err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = bareError(err)
	case info.IsDir():
		err = errors.New("is a folder: give the .onnx file in it")
	case !info.Mode().IsRegular():
		err = errIrregular
	case info.Size() > maxMessage:
		err = fmt.Errorf("has %d bytes, an ONNX file is below 2 GiB: keep the weights in external data", info.Size())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

var errIrregular = errors.New("is not a regular file: copy the model to one")

// skimmer reads a message and leaves large raw_data out.
type skimmer struct {
	*views
	in  io.ReaderAt
	buf *bufio.Reader
	at  int64 // place of buf in the file
}

// seek goes to a place in the file.
func (s *skimmer) seek(to int64) {
	if d := to - s.at; d >= 0 && d <= int64(s.buf.Buffered()) {
		s.buf.Discard(int(d))
	} else {
		s.buf.Reset(io.NewSectionReader(s.in, to, 1<<62))
	}
	s.at = to
}

func (s *skimmer) ReadByte() (byte, error) {
	b, err := s.buf.ReadByte()
	if err == nil {
		s.at++
	}
	return b, err
}

// rawData is the number of TensorProto.raw_data.
const rawData = 9

// holdsTensors are the messages, from a model down, in which tensors may be
// looked for. Training information is kept as it is.
var holdsTensors = map[protoreflect.Name]bool{
	"GraphProto": true, "FunctionProto": true, "NodeProto": true, "AttributeProto": true,
	"SparseTensorProto": true, "TensorProto": true,
}

// message returns the message of type d that goes on to the place end.
func (s *skimmer) message(end int64, d protoreflect.MessageDescriptor, depth int) ([]byte, error) {
	if depth == 0 {
		return nil, errors.New("messages are nested too deep")
	}
	var out []byte
	groups := 0 // that are open; their fields are not those of d
	for s.at < end {
		tag, err := binary.ReadUvarint(s)
		if err != nil {
			return nil, err
		}
		num, typ := protowire.DecodeTag(tag)
		if num < protowire.MinValidNumber {
			return nil, errors.New("invalid field number")
		}
		out = protowire.AppendVarint(out, tag)
		size := int64(0)
		switch typ {
		case protowire.VarintType:
			v, err := binary.ReadUvarint(s)
			if err != nil {
				return nil, err
			}
			out = protowire.AppendVarint(out, v)
		case protowire.Fixed32Type:
			size = 4
		case protowire.Fixed64Type:
			size = 8
		case protowire.StartGroupType:
			groups++
		case protowire.EndGroupType:
			groups--
		case protowire.BytesType:
			n, err := binary.ReadUvarint(s)
			if err != nil {
				return nil, err
			}
			if n > uint64(end-s.at) {
				return nil, io.ErrUnexpectedEOF
			}
			fd := d.Fields().ByNumber(num)
			switch {
			case groups == 0 && fd != nil && fd.Message() != nil && holdsTensors[fd.Message().Name()]:
				body, err := s.message(s.at+int64(n), fd.Message(), depth-1)
				if err != nil {
					return nil, err
				}
				out = protowire.AppendBytes(out, body)
			case groups == 0 && num == rawData && d.Name() == "TensorProto" && n >= minView:
				token := binary.LittleEndian.AppendUint64(bytes.Clone(s.token), uint64(len(s.spans)))
				out = protowire.AppendBytes(out, token)
				s.spans = append(s.spans, span{s.at, int64(n)})
				s.seek(s.at + int64(n))
			default:
				out = protowire.AppendVarint(out, n)
				size = int64(n)
			}
		default:
			return nil, errors.New("unknown wire type")
		}
		if size > end-s.at {
			return nil, io.ErrUnexpectedEOF
		}
		out = append(out, make([]byte, size)...)
		if _, err := io.ReadFull(s.buf, out[int64(len(out))-size:]); err != nil {
			return nil, err
		}
		s.at += size
	}
	if s.at != end || groups != 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return out, nil
}

// part is a piece of a file: bytes in memory, or a range of another file.
type part struct {
	bytes []byte
	file  *fileRange
}

func (p part) size() int64 {
	if p.file != nil {
		return p.file.length
	}
	return int64(len(p.bytes))
}

// WriteTo writes the piece, in blocks of no more than 1 MiB.
func (p part) WriteTo(w io.Writer) (int64, error) {
	const block = 1 << 20
	if p.file == nil {
		total := int64(0)
		for b := p.bytes; len(b) > 0; b = b[min(len(b), block):] {
			n, err := w.Write(b[:min(len(b), block)])
			if total += int64(n); err != nil {
				return total, err
			}
		}
		return total, nil
	}
	in, done, err := p.file.open()
	if err != nil {
		return 0, err
	}
	defer done()
	// Neither side may choose another way to copy.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, min(p.size()+1, block)))
	if err == nil && n < p.size() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// rope is a message on the wire in parts, so that weights need not be copied
// into one piece, nor read.
type rope struct {
	parts []part
	size  int64
}

func (r *rope) add(b []byte) {
	if len(b) > 0 {
		r.parts = append(r.parts, part{bytes: b})
		r.size += int64(len(b))
	}
}

// WriteTo writes the message.
func (r *rope) WriteTo(w io.Writer) (int64, error) {
	total := int64(0)
	for _, p := range r.parts {
		n, err := p.WriteTo(w)
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}
