package calib

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// step is one batch that is being made: the first step of a decoder.
type step struct {
	samples int
	syms    map[string]int             // sizes of the symbolic dims that data fixes
	in      map[string]*runtime.Tensor // by input
	lengths []lengthOf                 // of the inputs that data feeds, in the order of the ports
}

// lengthOf is the number of tokens of an input.
type lengthOf struct {
	decoder bool // of an encoder-decoder model
	n       int
}

func isDecoder(name string) bool { return strings.Contains(strings.ToLower(name), "decoder") }

// feed adds an input that data feeds.
func (s *step) feed(p runtime.Port, t *runtime.Tensor) {
	s.in[p.Name] = t
	for k, d := range p.Shape.Dims {
		if d.Sym != "" && k < len(t.Shape) {
			s.syms[d.Sym] = t.Shape[k]
		}
	}
	if len(t.Shape) >= 2 {
		s.lengths = append(s.lengths, lengthOf{isDecoder(p.Name), t.Shape[1]})
	}
}

// length is the number of tokens that a mask or positions speak for: that of
// the dim's symbol, else of the first input of the same side of the model.
func (s *step) length(p runtime.Port) int {
	d := p.Shape.Dims[len(p.Shape.Dims)-1]
	if d.IsKnown() {
		return int(d.N)
	}
	if n, ok := s.syms[d.Sym]; ok {
		return n
	}
	at := slices.IndexFunc(s.lengths, func(l lengthOf) bool { return l.decoder == isDecoder(p.Name) })
	switch {
	case at >= 0:
		return s.lengths[at].n
	case len(s.lengths) > 0:
		return s.lengths[0].n
	}
	return 0
}

// filler makes an input that the data lacks.
type filler func(s step) (*runtime.Tensor, error)

func isInteger(d graph.DType) bool { return d == graph.Int64 || d == graph.Int32 }

func isPast(p runtime.Port) bool {
	return strings.Contains(strings.ToLower(p.Name), "past") && p.DType.IsFloat() && p.Rank >= 3
}

func isMask(p runtime.Port) bool {
	return strings.Contains(strings.ToLower(p.Name), "mask") && p.Rank == 2 &&
		(isInteger(p.DType) || p.DType == graph.Float32 || p.DType == graph.Bool)
}

// filler returns what a decoder's input is filled with on its first step where
// the data lacks it, in words and as a function; nil where it cannot be left
// empty.
func (f *Feed) filler(p runtime.Port) (string, filler) {
	name := strings.ToLower(p.Name)
	switch {
	case p.DType == graph.Bool && strings.Contains(name, "use_cache") && p.Rank >= 0:
		return "false", func(step) (*runtime.Tensor, error) {
			return runtime.FromSlice(slices.Repeat([]int{1}, p.Rank), []bool{false}), nil
		}
	case isPast(p):
		axis := f.pastAxis(p)
		if axis < 0 {
			return "", nil
		}
		return "an empty past", func(s step) (*runtime.Tensor, error) {
			shape := make([]int, p.Rank)
			for i, d := range p.Shape.Dims {
				n, ok := s.syms[d.Sym]
				switch {
				case i == axis:
				case d.IsKnown():
					shape[i] = int(d.N)
				case ok && d.Sym != "":
					shape[i] = n
				default: // the one other open axis of a cache is the batch
					shape[i] = s.samples
				}
			}
			return zeros(p.DType, shape)
		}
	case isMask(p):
		return "ones", func(s step) (*runtime.Tensor, error) {
			return counted(p.DType, []int{s.samples, s.length(p)}, func(int) int { return 1 })
		}
	case strings.Contains(name, "position") && isInteger(p.DType) && (p.Rank == 1 || p.Rank == 2):
		return "positions", func(s step) (*runtime.Tensor, error) { return s.positions(p) }
	}
	return "", nil
}

// positions are 0 … T−1, or where the data has an attention mask those of the
// tokens that count, as decoders with padding in front want them; a token
// that does not count has the position of the last one that does, or 0.
func (s *step) positions(p runtime.Port) (*runtime.Tensor, error) {
	n := s.length(p)
	shape := []int{s.samples, n}
	if p.Rank == 1 {
		shape = []int{n}
	} else if d := p.Shape.Dims[0]; d.IsKnown() {
		shape[0] = int(d.N)
	}
	for _, name := range []string{"attention_mask", "decoder_attention_mask"} {
		m := s.in[name]
		if m == nil || !isInteger(m.DType) || !slices.Equal(m.Shape, shape) || isDecoder(name) != isDecoder(p.Name) {
			continue
		}
		at := 0
		return counted(p.DType, shape, func(i int) int {
			if i%n == 0 {
				at = -1
			}
			if m.DType == graph.Int64 && m.I64()[i] != 0 || m.DType == graph.Int32 && m.I32()[i] != 0 {
				at++
			}
			return max(at, 0)
		})
	}
	return counted(p.DType, shape, func(i int) int { return i % n })
}

// pastAxis finds the axis of a cache that counts past tokens: the one open
// axis that is not the batch. The batch is the open axis that an input fed by
// data has, or that is called so, or where symbols are missing the first of
// two. It is −1 where that leaves none or several.
func (f *Feed) pastAxis(p runtime.Port) int {
	fed := map[string]bool{}
	for i, q := range f.ports {
		if f.bound(i) {
			for _, d := range q.Shape.Dims {
				fed[d.Sym] = true
			}
		}
	}
	var open []int
	batch := false
	for i, d := range p.Shape.Dims {
		switch {
		case d.IsKnown():
		case d.Sym != "" && fed[d.Sym] || strings.Contains(strings.ToLower(d.Sym), "batch"):
			batch = true
		default:
			open = append(open, i)
		}
	}
	if len(open) == 2 && !batch {
		open = open[1:]
	}
	if len(open) != 1 {
		return -1
	}
	return open[0]
}

// fillLimit bounds the bytes of an input that is filled.
const fillLimit = 1 << 30

func zeros(d graph.DType, shape []int) (*runtime.Tensor, error) {
	dims := make([]int64, len(shape))
	for i, n := range shape {
		dims[i] = int64(n)
	}
	n, ok := graph.NumElements(dims)
	size, ok2 := d.ByteSize(n)
	if !ok || !ok2 || size > fillLimit {
		return nil, fmt.Errorf("cannot be filled: %v%v is too large", d, shape)
	}
	t, err := graph.NewTensor(d, dims, make([]byte, size))
	if err != nil {
		return nil, err
	}
	return runtime.FromGraphTensor(t)
}

// counted returns a tensor with f(i) at element i.
func counted(d graph.DType, shape []int, f func(i int) int) (*runtime.Tensor, error) {
	t, err := zeros(d, shape)
	if err != nil {
		return nil, err
	}
	for i := range t.Len() {
		v := f(i)
		switch d {
		case graph.Int64:
			t.I64()[i] = int64(v)
		case graph.Int32:
			t.I32()[i] = int32(v)
		case graph.Float32:
			t.F32()[i] = float32(v)
		case graph.Bool:
			t.Bytes()[i] = byte(v)
		default:
			return nil, fmt.Errorf("cannot be filled: it is %v", d)
		}
	}
	return t, nil
}
