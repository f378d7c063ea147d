package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// controlOps run subgraphs. The frames of their bodies belong to the call, in
// the order of node.body.
var controlOps = []operator{
	{"", "If", 1, prepareIf, nil, body},
	{"", "Loop", 1, prepareLoop, nil, body | sequences},
	{"", "Scan", 8, prepareScan8, nil, body},
	{"", "Scan", 9, prepareScan, nil, body},
}

// body returns where the frame of the body in that attribute is among
// call.bodies, and its plan.
func (n *node) body(attr string) (int, *plan, error) {
	p := n.bodies[attr]
	if p == nil {
		return 0, nil, fmt.Errorf("attribute %q is missing", attr)
	}
	i := 0
	for name := range n.bodies {
		if name < attr {
			i++
		}
	}
	return i, p, nil
}

// one reads a tensor of one element.
func one[T element](t *Tensor, what string) (T, error) {
	var z T
	if t.DType != dtypeOf[T]() || t.Len() != 1 {
		return z, fmt.Errorf("%s is %v%v, want one element of %v", what, t.DType, t.Shape, dtypeOf[T]())
	}
	return view[T](t)[0], nil
}

func prepareIf(n *node) (kernel, error) {
	then, p, err := n.body("then_branch")
	if err != nil {
		return nil, err
	}
	other, q, err := n.body("else_branch")
	if err != nil {
		return nil, err
	}
	if len(p.outputs) < len(n.wanted) || len(q.outputs) < len(n.wanted) {
		return nil, fmt.Errorf("its branches give %d and %d outputs, the node has %d", len(p.outputs), len(q.outputs), len(n.wanted))
	}
	return func(c *call) error {
		cond, err := one[bool](c.in[0], "the condition")
		if err != nil {
			return err
		}
		f := c.bodies[other]
		if cond {
			f = c.bodies[then]
		}
		defer f.reset()
		if err := f.exec(); err != nil {
			return err
		}
		for i := range c.out {
			if c.wants(i) {
				c.share(i, f.values[f.plan.outputs[i]])
			}
		}
		return nil
	}, n.inputs(1, 1)
}

// iteration is what Loop and Scan keep: the state variables, and per scan
// output what the iterations gave.
type iteration struct {
	carried []Tensor
	scanned [][]Tensor
	num     [1]int64
	cond    [1]bool
	slices  []Tensor
}

func (c *call) iteration(carried, scanned int) *iteration {
	it, ok := c.state.(*iteration)
	if !ok {
		it = &iteration{carried: make([]Tensor, carried), scanned: make([][]Tensor, scanned)}
		c.state = it
	}
	return it
}

// drop gives back what an iteration that ended early left.
func (it *iteration) drop(p *pool) {
	for i := range it.carried {
		p.release(&it.carried[i])
	}
	for k := range it.scanned {
		for i := range it.scanned[k] {
			p.release(&it.scanned[k][i])
		}
		it.scanned[k] = it.scanned[k][:0]
	}
}

// give hands t's elements on to a body's input.
func (f *frame) give(input int, t *Tensor) {
	in := f.values[f.plan.inputs[input]]
	f.s.pool.release(in)
	shape := in.Shape
	keep := in.keep
	*in = *t
	in.keep, in.own = keep, false
	in.Shape = append(shape[:0], t.Shape...)
	t.buf, t.mem, t.strs, t.seq = nil, nil, nil, nil
}

// take makes dst a tensor that shares output i of a body.
func (f *frame) take(dst *Tensor, output int) {
	f.s.pool.share(dst, f.values[f.plan.outputs[output]])
}

// prepareLoop: inputs are the trip count and the condition, both optional,
// and the state variables; the body maps (iteration, condition, state…) to
// (condition, state…, scan outputs…).
func prepareLoop(n *node) (kernel, error) {
	at, p, err := n.body("body")
	if err != nil {
		return nil, err
	}
	states := max(0, len(n.given)-2)
	if len(p.inputs) != states+2 {
		return nil, fmt.Errorf("its body has %d inputs, want %d", len(p.inputs), states+2)
	}
	scans := len(p.outputs) - 1 - states
	if scans < 0 || len(n.wanted) > states+scans {
		return nil, fmt.Errorf("its body gives %d outputs for %d state variables and %d outputs of the node", len(p.outputs), states, len(n.wanted))
	}
	return func(c *call) error {
		trips, cond := int64(-1), true
		var err error
		if c.has(0) {
			if trips, err = one[int64](c.in[0], "the trip count"); err != nil {
				return err
			}
			trips = max(trips, 0)
		}
		if c.has(1) {
			if cond, err = one[bool](c.in[1], "the condition"); err != nil {
				return err
			}
		}
		it := c.iteration(states, scans)
		f := c.bodies[at]
		defer func() {
			it.drop(&c.s.pool)
			f.reset()
		}()
		for i := range states {
			if !c.has(i + 2) {
				return fmt.Errorf("state variable %d is missing", i)
			}
			c.s.pool.share(&it.carried[i], c.in[i+2])
		}
		for i := int64(0); cond && (trips < 0 || i < trips); i++ {
			if err := c.s.ctx.Err(); err != nil {
				return err
			}
			it.num[0], it.cond[0] = i, cond
			f.give(0, &Tensor{DType: graph.Int64, mem: bytesOf(it.num[:])})
			f.give(1, &Tensor{DType: graph.Bool, mem: bytesOf(it.cond[:])})
			for k := range it.carried {
				f.give(k+2, &it.carried[k])
			}
			if err := f.exec(); err != nil {
				return fmt.Errorf("iteration %d: %w", i, err)
			}
			if cond, err = one[bool](f.values[f.plan.outputs[0]], "the condition of the body"); err != nil {
				return err
			}
			if err := it.collect(c, f, 1, states); err != nil {
				return err
			}
			f.reset()
		}
		for i := range states {
			if c.wants(i) {
				c.share(i, &it.carried[i])
			}
		}
		for k := range scans {
			if err := c.stack(states+k, it.scanned[k], p.types[1+states+k], 0, false); err != nil {
				return err
			}
		}
		return nil
	}, n.inputs(0, -1)
}

// collect takes over the outputs of an iteration: states from output first
// on, then what is to be stacked.
func (it *iteration) collect(c *call, f *frame, first, states int) error {
	for k := range states {
		f.take(&it.carried[k], first+k)
	}
	for k := range it.scanned {
		if !c.wants(states + k) {
			continue
		}
		if n := len(it.scanned[k]); n < cap(it.scanned[k]) {
			it.scanned[k] = it.scanned[k][:n+1]
		} else {
			it.scanned[k] = append(it.scanned[k], Tensor{})
		}
		t := &it.scanned[k][len(it.scanned[k])-1]
		f.take(t, first+states+k)
		if t.seq != nil {
			return fmt.Errorf("scan output %d is %s", k, t.kindOf())
		}
		if s := it.scanned[k]; len(s) > 1 && (t.DType != s[0].DType || !slices.Equal(t.Shape, s[0].Shape)) {
			return fmt.Errorf("scan output %d is %v%v after %v%v: it must not change", k, t.DType, t.Shape, s[0].DType, s[0].Shape)
		}
	}
	return nil
}

// stack makes output i of tensors of one shape, along a new axis; t is the
// declared type of one of them, for when there is none.
func (c *call) stack(i int, list []Tensor, t *graph.Type, at int, reverse bool) error {
	if !c.wants(i) {
		return nil
	}
	shape := []int{}
	d := graph.Float32
	if len(list) > 0 {
		d = list[0].DType
		shape = append(shape, list[0].Shape...)
	} else if t != nil {
		if t.Elem != graph.Undefined {
			d = t.Elem
		}
		if t.Shape != nil {
			for _, dim := range t.Shape.Dims {
				shape = append(shape, int(max(dim.N, 0)))
			}
		}
	}
	if at < 0 {
		at += len(shape) + 1
	}
	if at < 0 || at > len(shape) {
		return fmt.Errorf("axis %d of scan output is out of range for rank %d", at, len(shape)+1)
	}
	outer, err := count(shape[:at])
	if err != nil {
		return err
	}
	inner, err := count(shape[at:])
	if err != nil {
		return err
	}
	z, err := c.alloc(i, d, slices.Insert(shape, at, len(list))...)
	if err != nil {
		return err
	}
	w := elemSize(d) * inner
	for k := range list {
		to := k
		if reverse {
			to = len(list) - 1 - k
		}
		for o := range outer {
			if d == graph.String {
				copy(z.strs[(o*len(list)+to)*inner:][:inner], list[k].strs[o*inner:])
			} else {
				copy(z.mem[(o*len(list)+to)*w:][:w], list[k].mem[o*w:])
			}
		}
	}
	return nil
}

// prepareScan: inputs are N state variables, then the scan inputs, whose
// slices along an axis the body sees one after the other.
func prepareScan(n *node) (kernel, error) {
	at, p, err := n.body("body")
	if err != nil {
		return nil, err
	}
	scanIn := n.int("num_scan_inputs", 0)
	states := len(n.given) - scanIn
	if scanIn < 1 || states < 0 || len(p.inputs) != len(n.given) {
		return nil, fmt.Errorf("num_scan_inputs = %d with %d inputs and %d of the body", scanIn, len(n.given), len(p.inputs))
	}
	scanOut := len(p.outputs) - states
	if scanOut < 0 || len(n.wanted) > len(p.outputs) {
		return nil, fmt.Errorf("its body gives %d outputs for %d state variables and %d outputs of the node", len(p.outputs), states, len(n.wanted))
	}
	list := func(name string, size int) ([]int, error) {
		v := n.ints(name)
		if v == nil {
			v = make([]int, size)
		}
		if len(v) != size {
			return nil, fmt.Errorf("attribute %s has %d elements, want %d", name, len(v), size)
		}
		return v, nil
	}
	inAxes, err1 := list("scan_input_axes", scanIn)
	inBack, err2 := list("scan_input_directions", scanIn)
	outAxes, err3 := list("scan_output_axes", scanOut)
	outBack, err4 := list("scan_output_directions", scanOut)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	return func(c *call) error {
		it := c.iteration(states, scanOut)
		if it.slices == nil {
			it.slices = make([]Tensor, scanIn)
		}
		f := c.bodies[at]
		defer func() {
			it.drop(&c.s.pool)
			f.reset()
		}()
		for i := range states {
			c.s.pool.share(&it.carried[i], c.in[i])
		}
		steps := -1
		cuts := make([]lines, scanIn)
		for k := range scanIn {
			x := c.in[states+k]
			a, err := axis(inAxes[k], len(x.Shape))
			if err != nil {
				return err
			}
			cuts[k] = linesOf(x.Shape, a)
			if steps >= 0 && cuts[k].n != steps {
				return fmt.Errorf("scan inputs have %d and %d slices", steps, cuts[k].n)
			}
			steps = cuts[k].n
			s := &it.slices[k]
			s.Shape = slices.Delete(append(s.Shape[:0], x.Shape...), a, a+1)
		}
		for i := range steps {
			if err := c.s.ctx.Err(); err != nil {
				return err
			}
			for k := range states {
				f.give(k, &it.carried[k])
			}
			for k := range scanIn {
				j := i
				if inBack[k] != 0 {
					j = steps - 1 - i
				}
				x, s := c.in[states+k], &it.slices[k]
				if err := c.cut(s, x, cuts[k], j, 1); err != nil {
					return err
				}
				shape := s.Shape
				f.give(states+k, s)
				s.Shape = shape
			}
			if err := f.exec(); err != nil {
				return fmt.Errorf("iteration %d: %w", i, err)
			}
			if err := it.collect(c, f, 0, states); err != nil {
				return err
			}
			f.reset()
		}
		for i := range states {
			if c.wants(i) {
				c.share(i, &it.carried[i])
			}
		}
		for k := range scanOut {
			if err := c.stack(states+k, it.scanned[k], p.types[states+k], outAxes[k], outBack[k] != 0); err != nil {
				return err
			}
		}
		return nil
	}, n.inputs(1, -1)
}

// cut makes s slices [j, j+n) of x, in x's own memory where they lie in one
// piece. The shape of s is set already.
func (c *call) cut(s, x *Tensor, l lines, j, n int) error {
	s.DType = x.DType
	each := elemSize(x.DType) * l.inner // bytes of a slice in one piece
	w := n * each
	switch {
	case x.DType == graph.String:
		s.strs = nil
		for o := range l.outer {
			s.strs = append(s.strs, x.strs[(o*l.n+j)*l.inner:][:n*l.inner]...)
		}
	case l.outer == 1:
		s.mem, s.buf = x.mem[j*each:][:w], x.buf
		if s.buf != nil {
			s.buf.refs++
		}
	case l.outer*w == 0:
		s.mem, s.buf = nil, nil
	default:
		b, err := c.s.pool.get(l.outer * w)
		if err != nil {
			return err
		}
		s.buf, s.mem = b, b.mem[:l.outer*w]
		for o := range l.outer {
			copy(s.mem[o*w:(o+1)*w], x.mem[(o*l.n+j)*each:])
		}
	}
	return nil
}
