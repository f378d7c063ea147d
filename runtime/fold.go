package runtime

import (
	"context"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// folder computes nodes of constant inputs while a model is compiled.
type folder struct {
	session *Session
	budget  int // bytes that may still be made
}

func newFolder(budget int) *folder {
	return &folder{session: &Session{ctx: context.Background(), team: newTeam(1)}, budget: budget}
}

// foldedSize bounds what folding may make out of small inputs: a node like
// ConstantOfShape would otherwise put gigabytes into the program.
const foldedSize = 64 << 20

// try computes x if all its inputs are constant, and makes its outputs so. It
// reports false where x has to stay: also when the computation fails, which
// then is the run's to report, since the node may lie where none gets to.
func (f *folder) try(x *lnode) bool {
	if x.row.flags&(random|body) != 0 || f.budget <= 0 {
		return false
	}
	size := 0
	for _, v := range x.in {
		if v == nil {
			continue
		}
		if v.konst == nil || v.param > 0 {
			return false
		}
		size += len(v.konst.mem)
	}
	k, err := x.ready()
	if err != nil {
		return false
	}
	in := make([]*Tensor, len(x.in))
	for i, v := range x.in {
		if v != nil && !x.dropped[i] { // as a kernel finds it in a run
			in[i] = v.konst
		}
	}
	f.session.pool.limit = min(f.budget, foldedSize+4*size)
	out, err := f.session.once(k, in, len(x.out))
	f.session.pool.trim()
	f.session.pool.given = 0
	if err != nil || slices.ContainsFunc(out, func(t *Tensor) bool { return t.seq != nil }) {
		return false
	}
	for i, v := range x.out {
		if v != nil {
			v.konst, v.def = out[i], nil
			f.budget -= len(out[i].mem)
		}
	}
	return true
}

// once runs a kernel by itself; its outputs outlive the session's pool.
func (s *Session) once(k kernel, in []*Tensor, outputs int) (out []*Tensor, err error) {
	c := &call{in: in, s: s}
	for range outputs {
		c.out = append(c.out, &Tensor{keep: true})
	}
	defer func() {
		c.tidy()
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	if err := k(c); err != nil {
		return nil, err
	}
	for _, t := range c.out {
		if t.buf != nil { // a view of scratch
			t.mem = append([]byte(nil), t.mem...)
			s.pool.put(t.buf)
			t.buf = nil
		}
	}
	return c.out, nil
}

// Eval computes one node on given inputs, nil where one is left out, as
// constant folding does: it fails where the outputs would take more than 64
// MiB and four times the inputs' size. The node's attributes must not refer to
// those of a function, and it must not hold subgraphs.
func Eval(n *graph.Node, inputs []*Tensor) ([]*Tensor, error) {
	x := &lnode{node: node{name: n.Name, op: n.Op, domain: graph.NormalDomain(n.Domain), attrs: n.Attrs}}
	k, err := simd.For(simd.Auto)
	if err != nil {
		return nil, err
	}
	x.simd = k
	x.version = n.Opset()
	x.opset = int(x.version)
	row, ok := lookup(x.domain, x.op, x.version)
	if !ok {
		return nil, fmt.Errorf("%v: no kernel for it in opset %d", n, x.version)
	}
	if row.flags&body != 0 {
		return nil, fmt.Errorf("%v: cannot be computed by itself", n)
	}
	x.row = row
	for _, t := range inputs {
		if t == nil {
			x.in = append(x.in, nil)
			continue
		}
		x.in = append(x.in, &lvalue{konst: t})
	}
	for _, v := range n.Outputs() {
		if v == nil {
			x.out = append(x.out, nil)
			continue
		}
		x.out = append(x.out, &lvalue{name: v.Name})
	}
	run, err := x.ready()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", n, err)
	}
	f := newFolder(maxBytes)
	f.session.pool.limit = foldedSize
	for _, t := range inputs {
		if t != nil {
			f.session.pool.limit += 4 * len(t.mem)
		}
	}
	out, err := f.session.once(run, inputs, len(x.out))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", n, err)
	}
	return out, nil
}
