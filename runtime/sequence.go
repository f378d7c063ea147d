package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// sequenceOps make and take apart sequences and optionals. What an optional
// holds stands for the optional itself.
var sequenceOps = []operator{
	{"", "SequenceEmpty", 11, prepareSequenceEmpty, nil, 0},
	{"", "SequenceConstruct", 11, prepareSequenceConstruct, nil, 0},
	{"", "SequenceInsert", 11, prepareSequenceInsert, nil, sequences},
	{"", "SequenceErase", 11, prepareSequenceErase, nil, sequences},
	{"", "SequenceAt", 11, prepareSequenceAt, nil, sequences},
	{"", "SequenceLength", 11, prepareSequenceLength, nil, sequences},
	{"", "SplitToSequence", 11, prepareSplitToSequence, nil, 0},
	{"", "ConcatFromSequence", 11, prepareConcatFromSequence, nil, sequences},
	{"", "SequenceMap", 17, prepareSequenceMap, nil, body | sequences},
	{"", "Optional", 15, prepareOptional, nil, sequences},
	{"", "OptionalGetElement", 15, prepareOptionalGetElement, nil, sequences},
	{"", "OptionalHasElement", 15, prepareOptionalHasElement, nil, sequences},
}

// sequence is the value of a Tensor that is none: tensors one after the other,
// or an optional that holds nothing. Its items share memory with the tensors
// that they came from; each counts as one reader of its buffer.
type sequence struct {
	items []Tensor
	none  bool
	elem  graph.DType // Undefined where nothing says
	refs  int
}

// itemBytes is what an item costs beside its elements, for the memory limit.
const itemBytes = 160

// SequenceOf returns a sequence of tensors, which share their memory with it.
func SequenceOf(items ...*Tensor) *Tensor {
	s := &sequence{refs: 1}
	for _, t := range items {
		s.items = append(s.items, Tensor{DType: t.DType, Shape: slices.Clone(t.Shape), mem: t.mem, strs: t.strs})
		s.elem = t.DType
	}
	return &Tensor{seq: s}
}

// NoElement returns an optional that holds nothing.
func NoElement() *Tensor { return &Tensor{seq: &sequence{none: true, refs: 1}} }

// IsNone reports whether t is an optional that holds nothing.
func (t *Tensor) IsNone() bool { return t.seq != nil && t.seq.none }

// Items returns the tensors of a sequence; it reports false where t is none.
func (t *Tensor) Items() ([]*Tensor, bool) {
	if t.seq == nil || t.seq.none {
		return nil, false
	}
	out := make([]*Tensor, len(t.seq.items))
	for i := range out {
		out[i] = &t.seq.items[i]
	}
	return out, true
}

// kindOf names what t is, for errors.
func (t *Tensor) kindOf() string {
	switch {
	case t.seq == nil:
		return "a tensor"
	case t.seq.none:
		return "an empty optional"
	}
	return "a sequence"
}

// list returns the sequence that is input i.
func (c *call) list(i int) (*sequence, error) {
	t := c.input(i)
	if t == nil {
		return nil, fmt.Errorf("input %d is missing", i)
	}
	if t.seq == nil || t.seq.none {
		return nil, fmt.Errorf("input %d is %s, want a sequence", i, t.kindOf())
	}
	return t.seq, nil
}

// tensorsOnly fails where an input from the first on is no tensor.
func (c *call) tensorsOnly(first int) error {
	for i := first; i < len(c.in); i++ {
		if t := c.in[i]; t != nil && t.seq != nil {
			return fmt.Errorf("input %d is %s, want a tensor", i, t.kindOf())
		}
	}
	return nil
}

// newList makes output i a sequence with room for n items.
func (c *call) newList(i, n int, elem graph.DType) (*sequence, error) {
	if n > c.s.pool.limit/itemBytes {
		return nil, fmt.Errorf("a sequence of %d items passes the %w of %d bytes", n, ErrMemory, c.s.pool.limit)
	}
	t := c.target(i)
	c.s.pool.release(t)
	t.DType, t.Shape = graph.Undefined, t.Shape[:0]
	t.seq = &sequence{items: make([]Tensor, 0, n), elem: elem, refs: 1}
	return t.seq, nil
}

// add appends x to a sequence, sharing its memory.
func (s *sequence) add(p *pool, x *Tensor) error {
	if s.elem != graph.Undefined && s.elem != x.DType {
		return fmt.Errorf("a tensor of %v in a sequence of %v", x.DType, s.elem)
	}
	s.elem = x.DType
	s.items = append(s.items, Tensor{})
	p.share(&s.items[len(s.items)-1], x)
	return nil
}

// position reads a place in a sequence of n from input i, from −n to n
// exclusive, or inclusive with end; def where the input is left out.
func (c *call) position(i, n int, end bool, def int) (int, error) {
	t := c.input(i)
	if t == nil {
		if def < 0 {
			return 0, errors.New("the sequence is empty")
		}
		return def, nil
	}
	if t.seq != nil || t.Len() != 1 || t.DType != graph.Int32 && t.DType != graph.Int64 {
		return 0, fmt.Errorf("position is %v%v, want one whole number", t.DType, t.Shape)
	}
	var at [1]int64
	if err := wide(at[:], t); err != nil {
		return 0, err
	}
	most := n
	if end {
		most++
	}
	if at[0] < int64(-n) || at[0] >= int64(most) {
		return 0, fmt.Errorf("position %d is out of range for a sequence of %d", at[0], n)
	}
	if at[0] < 0 {
		at[0] += int64(n)
	}
	return int(at[0]), nil
}

func prepareSequenceEmpty(n *node) (kernel, error) {
	d := graph.DType(n.int("dtype", int(graph.Float32)))
	if !d.Known() {
		return nil, fmt.Errorf("dtype = %d is no element type", d)
	}
	return func(c *call) error {
		_, err := c.newList(0, 0, d)
		return err
	}, n.inputs(0, 0)
}

func prepareSequenceConstruct(n *node) (kernel, error) {
	return func(c *call) error {
		s, err := c.newList(0, len(c.in), graph.Undefined)
		if err != nil {
			return err
		}
		for _, t := range c.in {
			if err := s.add(&c.s.pool, t); err != nil {
				return err
			}
		}
		return nil
	}, n.inputs(len(n.given), -1)
}

// edited makes output 0 the sequence of input 0 to be changed: itself where
// nothing reads it any more, else a copy.
func (c *call) edited(more int) (*sequence, error) {
	old, err := c.list(0)
	if err != nil {
		return nil, err
	}
	if len(c.dies) > 0 && c.dies[0] && old.refs == 1 && len(c.out) > 0 && c.out[0] != nil && c.out[0] != c.in[0] {
		c.s.pool.release(c.out[0])
		c.out[0].seq, c.in[0].seq = old, nil
		c.out[0].DType, c.out[0].Shape = graph.Undefined, c.out[0].Shape[:0]
		if len(old.items)+more > c.s.pool.limit/itemBytes {
			return nil, fmt.Errorf("a sequence of %d items passes the %w of %d bytes", len(old.items)+more, ErrMemory, c.s.pool.limit)
		}
		return old, nil
	}
	s, err := c.newList(0, len(old.items)+more, old.elem)
	if err != nil {
		return nil, err
	}
	for i := range old.items {
		if err := s.add(&c.s.pool, &old.items[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func prepareSequenceInsert(n *node) (kernel, error) {
	return func(c *call) error {
		if err := c.tensorsOnly(1); err != nil {
			return err
		}
		old, err := c.list(0)
		if err != nil {
			return err
		}
		at, err := c.position(2, len(old.items), true, len(old.items))
		if err != nil {
			return err
		}
		s, err := c.edited(1)
		if err != nil {
			return err
		}
		if err := s.add(&c.s.pool, c.in[1]); err != nil {
			return err
		}
		last := len(s.items) - 1
		x := s.items[last]
		copy(s.items[at+1:], s.items[at:last])
		s.items[at] = x
		return nil
	}, n.inputs(2, 3)
}

func prepareSequenceErase(n *node) (kernel, error) {
	return func(c *call) error {
		old, err := c.list(0)
		if err != nil {
			return err
		}
		at, err := c.position(1, len(old.items), false, len(old.items)-1)
		if err != nil {
			return err
		}
		s, err := c.edited(0)
		if err != nil {
			return err
		}
		c.s.pool.release(&s.items[at])
		s.items = slices.Delete(s.items, at, at+1)
		return nil
	}, n.inputs(1, 2)
}

func prepareSequenceAt(n *node) (kernel, error) {
	return func(c *call) error {
		s, err := c.list(0)
		if err != nil {
			return err
		}
		at, err := c.position(1, len(s.items), false, -1)
		if err != nil {
			return err
		}
		c.share(0, &s.items[at])
		return nil
	}, n.inputs(2, 2)
}

func prepareSequenceLength(n *node) (kernel, error) {
	return func(c *call) error {
		s, err := c.list(0)
		if err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Int64)
		if err != nil {
			return err
		}
		z.I64()[0] = int64(len(s.items))
		return nil
	}, n.inputs(1, 1)
}

// prepareSplitToSequence cuts a tensor along an axis: into pieces of one
// length (a scalar split, the last piece may be shorter), of the lengths of a
// vector, or of 1, whose axis keepdims = 0 takes away.
func prepareSplitToSequence(n *node) (kernel, error) {
	at, keep := n.int("axis", 0), n.bool("keepdims", true)
	return func(c *call) error {
		x := c.in[0]
		a, err := axis(at, len(x.Shape))
		if err != nil {
			return err
		}
		l := linesOf(x.Shape, a)
		shape := slices.Clone(x.Shape)
		sizes, each := []int64(nil), int64(1)
		if c.has(1) {
			split := c.in[1]
			if split.DType != graph.Int32 && split.DType != graph.Int64 || len(split.Shape) > 1 {
				return fmt.Errorf("split is %v%v, want a whole number or a list of them", split.DType, split.Shape)
			}
			if sizes, err = scratch[int64](c, split.Len()); err != nil {
				return err
			}
			if err := wide(sizes, split); err != nil {
				return err
			}
			if len(split.Shape) == 0 {
				if each, sizes = sizes[0], nil; each < 1 {
					return fmt.Errorf("split = %d, want at least 1", each)
				}
			} else {
				left := int64(l.n)
				for _, s := range sizes {
					if s < 0 || s > left {
						return fmt.Errorf("split %v does not sum up to the %d of axis %d", sizes, l.n, a)
					}
					left -= s
				}
				if left != 0 {
					return fmt.Errorf("split %v does not sum up to the %d of axis %d", sizes, l.n, a)
				}
			}
		} else if !keep {
			shape = slices.Delete(shape, a, a+1)
		}
		pieces := len(sizes)
		if sizes == nil {
			pieces = l.n / int(min(each, int64(l.n)+1))
			if int64(pieces)*each < int64(l.n) {
				pieces++
			}
		}
		s, err := c.newList(0, pieces, x.DType)
		if err != nil {
			return err
		}
		from := 0
		for i := range pieces {
			size := int(min(each, int64(l.n-from)))
			if sizes != nil {
				size = int(sizes[i])
			}
			s.items = append(s.items, Tensor{})
			t := &s.items[i]
			if t.Shape = slices.Clone(shape); len(shape) == len(x.Shape) {
				t.Shape[a] = size
			}
			if err := c.cut(t, x, l, from, size); err != nil {
				return err
			}
			from += size
		}
		return nil
	}, n.inputs(1, 2)
}

// prepareConcatFromSequence joins the tensors along an axis: one that they
// have, or with new_axis one that they get.
func prepareConcatFromSequence(n *node) (kernel, error) {
	at, fresh := n.int("axis", 0), n.bool("new_axis", false)
	if !n.isSet("axis") {
		return nil, errors.New("attribute axis is missing")
	}
	join := concat(at)
	return func(c *call) error {
		s, err := c.list(0)
		if err != nil {
			return err
		}
		if len(s.items) == 0 {
			return errors.New("the sequence is empty")
		}
		items := slices.Clone(s.items)
		sub := &call{s: c.s, out: c.out}
		for i := range items {
			t := &items[i]
			if fresh {
				a, err := axis(at, len(t.Shape)+1)
				if err != nil {
					return err
				}
				t.Shape = slices.Insert(slices.Clone(t.Shape), a, 1)
			}
			sub.in = append(sub.in, t)
		}
		defer sub.tidy()
		return join(sub)
	}, n.inputs(1, 1)
}

// prepareSequenceMap runs its body on the items of its sequences, one of each
// at a time; inputs that are tensors are the same every time.
func prepareSequenceMap(n *node) (kernel, error) {
	at, p, err := n.body("body")
	if err != nil {
		return nil, err
	}
	if len(p.inputs) != len(n.given) || len(p.outputs) < len(n.wanted) {
		return nil, fmt.Errorf("its body has %d inputs and %d outputs, the node %d and %d", len(p.inputs), len(p.outputs), len(n.given), len(n.wanted))
	}
	return func(c *call) error {
		first, err := c.list(0)
		if err != nil {
			return err
		}
		out := make([]*sequence, len(c.out))
		for i := range c.out {
			if !c.wants(i) {
				continue
			}
			elem := graph.Undefined
			if t := p.types[i]; t != nil {
				elem = t.Elem
			}
			if out[i], err = c.newList(i, len(first.items), elem); err != nil {
				return err
			}
		}
		f := c.bodies[at]
		defer f.reset()
		var arg Tensor
		for i := range first.items {
			if err := c.s.ctx.Err(); err != nil {
				return err
			}
			for k, t := range c.in {
				switch {
				case t.seq == nil:
				case t.seq.none:
					return fmt.Errorf("input %d is %s", k, t.kindOf())
				case len(t.seq.items) != len(first.items):
					return fmt.Errorf("input %d has %d items, input 0 has %d", k, len(t.seq.items), len(first.items))
				default:
					t = &t.seq.items[i]
				}
				c.s.pool.share(&arg, t)
				f.give(k, &arg)
			}
			if err := f.exec(); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
			for k, s := range out {
				if s == nil {
					continue
				}
				t := f.values[p.outputs[k]]
				if t.seq != nil {
					return fmt.Errorf("output %d of the body is %s", k, t.kindOf())
				}
				if err := s.add(&c.s.pool, t); err != nil {
					return err
				}
			}
			f.reset()
		}
		return nil
	}, n.inputs(len(n.given), -1)
}

func prepareOptional(n *node) (kernel, error) {
	return func(c *call) error {
		if c.has(0) {
			c.share(0, c.in[0])
			return nil
		}
		s, err := c.newList(0, 0, graph.Undefined)
		if err == nil {
			s.none = true
		}
		return err
	}, n.inputs(0, 1)
}

func prepareOptionalGetElement(n *node) (kernel, error) {
	return func(c *call) error {
		if c.in[0].IsNone() {
			return errors.New("the optional holds nothing")
		}
		c.share(0, c.in[0])
		return nil
	}, n.inputs(1, 1)
}

// prepareOptionalHasElement: an input that is left out is an optional that
// holds nothing (since opset 18).
func prepareOptionalHasElement(n *node) (kernel, error) {
	return func(c *call) error {
		z, err := c.alloc(0, graph.Bool)
		if err != nil {
			return err
		}
		z.Bools()[0] = c.has(0) && !c.in[0].IsNone()
		return nil
	}, n.inputs(0, 1)
}
