package runtime

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// operator is one row of the tables of operators: how a node of that name is
// made ready to run, from version since of its domain on, until a later row
// of the same name takes over.
//
// To add an operator, write its prepare function (and its gradient, if models
// that have it are to be trained) and add a row here and one
// to the inference table of package graph.
type operator struct {
	domain string
	name   string
	since  int

	// prepare does what does not depend on the inputs: it reads the
	// attributes and the constant inputs and returns the kernel.
	prepare func(n *node) (kernel, error)

	// gradient is how the operator is differentiated; nil where it is not.
	gradient gradient

	flags flags
}

type flags uint8

const (
	// halves: float16 and bfloat16 inputs reach the kernel as float32, and
	// its float32 outputs are rounded back to the type of the first such
	// input. For kernels that compute in float32 and do not mix types.
	halves flags = 1 << iota
	// random: the result is not a function of the inputs; never folded.
	random
	// body: the operator runs subgraphs.
	body
	// sequences: inputs may be sequences and optionals; for all other
	// operators the engine refuses them.
	sequences
)

// kernel computes one node. It is shared by all sessions, so what it keeps
// between calls it keeps in the call. It checks its inputs' types and shapes
// and returns an error for what it cannot compute; the engine adds the node's
// name. It may not write to its inputs nor keep them.
type kernel func(c *call) error

// tables lists the operators by family, each in the file of its kernels.
func tables() [][]operator {
	return [][]operator{
		elementwiseOps,
		unaryOps,
		castOps,
		matmulOps,
		convOps,
		poolOps,
		normalizeOps,
		reduceOps,
		shapeOps,
		movementOps,
		sliceOps,
		pickOps,
		scatterOps,
		sortOps,
		quantizeOps,
		resizeOps,
		recurrentOps,
		detectOps,
		signalOps,
		lossOps,
		constantOps,
		controlOps,
		structuredOps,
		sequenceOps,
		opset6Ops,
		int16Ops,
		microsoftOps,
		attentionOps,
		sampleOps,
		randomOps,
		textOps,
		microsoftAttentionOps,
		rotaryOps,
	}
}

// lookup finds the row in force for an operator at an opset version.
func lookup(domain, name string, version int64) (*operator, bool) {
	domain = graph.NormalDomain(domain)
	var best *operator
	for _, t := range tables() {
		for i := range t {
			o := &t[i]
			if o.name == name && o.domain == domain && int64(o.since) <= version && (best == nil || o.since > best.since) {
				best = o
			}
		}
	}
	return best, best != nil
}

// Supports reports whether the runtime has a kernel for an operator of that
// domain in that opset version.
func Supports(domain, op string, version int64) bool {
	_, ok := lookup(domain, op, version)
	return ok
}

// node is what prepare sees of a node: resolved attributes, its opset, the
// inputs that are constant, and compiled bodies. A wrong attribute type is
// kept in err, which fails the compilation, so that prepare functions can
// read attributes without checking each.
type node struct {
	name   string // for messages
	op     string
	domain string
	opset  int // version of the node's domain

	attrs   []*graph.Attr
	consts  []*Tensor // per input; nil where it is not constant
	given   []bool    // per input; false where it is left out
	wanted  []bool    // per output; false where it is left out
	bodies  map[string]*plan
	dropped []bool // per input; see drop
	bodyRun bool   // Options.Bodies
	err     error
	simd    *simd.Kernels
}

func (n *node) attr(name string, want graph.AttrType) *graph.Attr {
	for _, a := range n.attrs {
		if a.Name == name {
			if a.Type != want && n.err == nil {
				n.err = fmt.Errorf("attribute %q has type %d, want %d", name, a.Type, want)
			}
			if a.Type != want {
				return nil
			}
			return a
		}
	}
	return nil
}

// int returns an integer attribute, or def where it is not set.
func (n *node) int(name string, def int) int {
	if a := n.attr(name, graph.AttrInt); a != nil {
		return int(a.I)
	}
	return def
}

// bool returns an integer attribute that means yes or no.
func (n *node) bool(name string, def bool) bool {
	d := 0
	if def {
		d = 1
	}
	return n.int(name, d) != 0
}

// float returns a float attribute, or def where it is not set.
func (n *node) float(name string, def float32) float32 {
	if a := n.attr(name, graph.AttrFloat); a != nil {
		return a.F
	}
	return def
}

// str returns a string attribute, or def where it is not set.
func (n *node) str(name, def string) string {
	if a := n.attr(name, graph.AttrString); a != nil {
		return string(a.S)
	}
	return def
}

// oneOf returns a string attribute that must be one of the values.
func (n *node) oneOf(name, def string, values ...string) string {
	s := n.str(name, def)
	if !slices.Contains(values, s) && n.err == nil {
		n.err = fmt.Errorf("attribute %s = %q, want one of %q", name, s, values)
	}
	return s
}

// ints returns a list attribute, nil where it is not set.
func (n *node) ints(name string) []int {
	a := n.attr(name, graph.AttrInts)
	if a == nil {
		return nil
	}
	out := make([]int, len(a.Ints))
	for i, v := range a.Ints {
		out[i] = int(v)
	}
	return out
}

// floats returns a list attribute, nil where it is not set.
func (n *node) floats(name string) []float32 {
	if a := n.attr(name, graph.AttrFloats); a != nil {
		return a.Floats
	}
	return nil
}

// strings returns a list attribute, nil where it is not set.
func (n *node) strings(name string) []string {
	a := n.attr(name, graph.AttrStrings)
	if a == nil {
		return nil
	}
	out := make([]string, len(a.Strings))
	for i, s := range a.Strings {
		out[i] = string(s)
	}
	return out
}

// tensor returns a tensor attribute, nil where it is not set.
func (n *node) tensor(name string) *Tensor {
	a := n.attr(name, graph.AttrTensor)
	if a == nil || a.T == nil {
		return nil
	}
	t, err := FromGraphTensor(a.T)
	if err != nil && n.err == nil {
		n.err = err
	}
	return t
}

// isSet reports whether the node has the attribute.
func (n *node) isSet(name string) bool {
	return slices.ContainsFunc(n.attrs, func(a *graph.Attr) bool { return a.Name == name })
}

// has reports whether input i is there.
func (n *node) has(i int) bool { return i < len(n.given) && n.given[i] }

// wants reports whether output i is there.
func (n *node) wants(i int) bool { return i < len(n.wanted) && n.wanted[i] }

// constant returns input i where it is constant, else nil.
func (n *node) constant(i int) *Tensor {
	if i < len(n.consts) {
		return n.consts[i]
	}
	return nil
}

// drop says that the kernel keeps what it needs of constant input i and does
// not read it: it will find nil there.
func (n *node) drop(i int) { n.dropped[i] = true }

// inputs fails unless the node has between least and most inputs, the first
// least ones all there; most < 0 sets no bound.
func (n *node) inputs(least, most int) error {
	for i := range least {
		if !n.has(i) {
			return fmt.Errorf("input %d is missing", i)
		}
	}
	if most >= 0 && len(n.given) > most {
		return fmt.Errorf("%d inputs, at most %d can be used", len(n.given), most)
	}
	return nil
}

// required is inputs for operators whose optional inputs come among the others.
func (n *node) required(most int, inputs ...int) error {
	for _, i := range inputs {
		if !n.has(i) {
			return fmt.Errorf("input %d is missing", i)
		}
	}
	return n.inputs(0, most)
}

// call is one node in one session: where a kernel finds its inputs and puts
// its outputs. It lives as long as the session.
type call struct {
	in  []*Tensor // nil where left out
	out []*Tensor // nil where left out

	dies []bool // per input: see over

	// state is what the kernel keeps between calls of the session, such as
	// the strides it worked out for the shapes that it saw last.
	state any

	arg    any // for parallel bodies
	s      *Session
	bodies []*frame
	temps  []*buffer
	lost   []*Tensor // stand-ins for outputs that are left out
	half   *call     // the float32 twin of a call with float16 inputs
	flops  int64     // kernels add what KindTime counts
}

// wants reports whether output i is there.
func (c *call) wants(i int) bool { return i < len(c.out) && c.out[i] != nil }

// has reports whether input i is there.
func (c *call) has(i int) bool { return i < len(c.in) && c.in[i] != nil }

// input returns input i, nil where it is left out.
func (c *call) input(i int) *Tensor {
	if i < len(c.in) {
		return c.in[i]
	}
	return nil
}

// alloc makes output i a tensor of that type and shape with memory whose
// content is not defined; the shape is copied. It can be called for outputs
// that are left out.
func (c *call) alloc(i int, d graph.DType, shape ...int) (*Tensor, error) {
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	t := c.target(i)
	c.s.pool.release(t)
	t.DType = d
	t.Shape = append(t.Shape[:0], shape...)
	if d == graph.String {
		if n > c.s.pool.limit/16 {
			return nil, fmt.Errorf("%d strings pass the %w of %d bytes", n, ErrMemory, c.s.pool.limit)
		}
		t.strs, t.own = make([]string, n), t.keep
		return t, nil
	}
	w := elemSize(d)
	if w == 0 {
		return nil, fmt.Errorf("element type %v has no size", d)
	}
	if n > c.s.pool.limit/w {
		return nil, fmt.Errorf("an output %v%v passes the %w of %d bytes", d, shape, ErrMemory, c.s.pool.limit)
	}
	if t.keep && len(t.dest) == n*w && n > 0 {
		t.mem, t.own = t.dest, true
		return t, nil
	}
	if t.keep {
		if err := c.s.pool.spend(n * w); err != nil {
			return nil, fmt.Errorf("output %v%v: %w", d, shape, err)
		}
		t.mem, t.own = aligned(n*w), true
		return t, nil
	}
	if n == 0 {
		return t, nil
	}
	b, err := c.s.pool.get(n * w)
	if err != nil {
		return nil, fmt.Errorf("output %v%v: %w", d, shape, err)
	}
	t.buf, t.mem = b, b.mem[:n*w]
	return t, nil
}

// over is alloc in the memory of input j, where that is of the size wanted and
// nothing reads it any more. It is for kernels that read element k of input j
// before they write element k of the output, and never after.
func (c *call) over(i, j int, d graph.DType, shape ...int) (*Tensor, error) {
	x := c.in[j]
	if j < len(c.dies) && c.dies[j] && c.wants(i) && !c.out[i].keep && x.DType == d && x.buf != nil && x.buf.refs == 1 {
		if n, err := count(shape); err == nil && n*elemSize(d) == len(x.mem) {
			t := c.out[i]
			c.s.pool.share(t, x)
			t.Shape = append(t.Shape[:0], shape...)
			return t, nil
		}
	}
	return c.alloc(i, d, shape...)
}

func (c *call) target(i int) *Tensor {
	if c.wants(i) {
		return c.out[i]
	}
	t := &Tensor{}
	c.lost = append(c.lost, t)
	return t
}

// view makes output i the elements of x under another shape of as many
// elements, without a copy.
func (c *call) view(i int, x *Tensor, shape ...int) error {
	n, err := count(shape)
	if err != nil {
		return err
	}
	if n != x.Len() {
		return fmt.Errorf("cannot view %v as %v", x.Shape, shape)
	}
	c.share(i, x)
	t := c.target(i)
	t.Shape = append(t.Shape[:0], shape...)
	return nil
}

// share makes output i the same as x, without a copy.
func (c *call) share(i int, x *Tensor) {
	c.s.pool.share(c.target(i), x)
}

// scratch returns n elements of memory, content not defined, until the end of
// the call.
func scratch[T element](c *call, n int) ([]T, error) {
	if n == 0 {
		return nil, nil
	}
	w := elemSize(dtypeOf[T]())
	if n < 0 || n > c.s.pool.limit/w {
		return nil, fmt.Errorf("%d elements of scratch pass the %w of %d bytes", n, ErrMemory, c.s.pool.limit)
	}
	b, err := c.s.pool.get(n * w)
	if err != nil {
		return nil, err
	}
	c.temps = append(c.temps, b)
	return cast[T](b.mem[:n*w]), nil
}

// tidy gives back what the call borrowed.
func (c *call) tidy() {
	for i, b := range c.temps {
		c.s.pool.put(b)
		c.temps[i] = nil
	}
	c.temps = c.temps[:0]
	for i, t := range c.lost {
		c.s.pool.release(t)
		c.lost[i] = nil
	}
	c.lost = c.lost[:0]
	c.arg = nil
}

// parallel splits [0, n) into runs of at least grain indices and calls body
// for each, on the threads of the session. body must give the same results
// however [0, n) is split, and may not depend on the order; it finds its
// arguments in c (arg is free for it), not in a closure, so that a call costs
// no allocation.
func (c *call) parallel(n, grain int, body func(c *call, lo, hi int)) {
	c.s.team.run(c, n, grain, body, nil)
}

// parallelWorkers is parallel for bodies that need memory of their own: worker
// is less than workers() and no other call with it runs at the same time.
func (c *call) parallelWorkers(n, grain int, body func(c *call, worker, lo, hi int)) {
	c.s.team.run(c, n, grain, nil, body)
}

// workers is the number of threads of the session.
func (c *call) workers() int { return c.s.team.helpers + 1 }

// axis turns an axis that may count from the end into an index of rank dims.
func axis(a, rank int) (int, error) {
	if a < -rank || a >= rank {
		return 0, fmt.Errorf("axis %d is out of range for rank %d", a, rank)
	}
	if a < 0 {
		a += rank
	}
	return a, nil
}

// wrongType is the error for an element type that an operator does not take.
func wrongType(d graph.DType) error { return fmt.Errorf("element type %v is not supported", d) }

// byType chooses a kernel by the element type of an input.
type byType map[graph.DType]kernel

func (b byType) kernel(input int) kernel {
	var table [32]kernel
	for d, k := range b {
		table[d] = k
	}
	return func(c *call) error {
		x := c.input(input)
		if x == nil {
			return fmt.Errorf("input %d is missing", input)
		}
		if d := x.DType; d >= 0 && int(d) < len(table) && table[d] != nil {
			return table[d](c)
		}
		return wrongType(x.DType)
	}
}
