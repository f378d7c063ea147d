package runtime

import (
	"fmt"
	"maps"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// plan is the compiled form of a graph: the main graph or a body.
type plan struct {
	steps    []step
	slots    int // values of a frame
	consts   []constSlot
	inputs   []int // slots
	outputs  []int
	types    []*graph.Type // declared, of the outputs of a body
	captures []capture
	probes   map[int][]probe // by the step that they follow; -1: before the first
	stills   bool            // some steps are still
	kept     []int           // slots of the still values that other steps read
}

type constSlot struct {
	slot   int
	tensor *Tensor
}

// capture is a value of the graph around a body that the body reads.
type capture struct{ outer, inner int }

// probe is a group of Options.Probes and where its values are.
type probe struct {
	group int
	slots []int
}

// step is one kernel and the slots it works on; -1 stands for an input or
// output that is left out.
type step struct {
	kernel  kernel
	in, out []int
	free    []int  // slots that nothing reads after this step
	dies    []bool // per input: it is read here for the last time, and once
	bodies  []*plan
	lists   bool   // inputs may be sequences
	still   bool   // not to be run again for inputs of the same shapes
	title   string // for errors
	kind    string // for profiles
}

// builder turns scopes into plans and places the probes.
type builder struct {
	probes  []probeGroup
	kernels map[*lnode]kernel // of nodes that were made ready
}

type probeGroup struct {
	index  int
	values []*lvalue
	placed bool
}

// home is the scope that computes the group's values, nil where all are
// constant.
func (g *probeGroup) home() *scope {
	for _, v := range g.values {
		if v.konst == nil {
			return v.scope
		}
	}
	return nil
}

// planner makes the plan of one scope.
type planner struct {
	*plan
	scope   *scope
	slots   map[*lvalue]int
	values  []*lvalue // by slot
	defined []int     // by slot: the step that defines it; -1 where none does
	last    []int     // by slot: the last step that reads it; -1 where none does
}

// slot returns the place of v in the frame; a value of another scope is
// captured.
func (p *planner) slot(v *lvalue) int {
	if v == nil {
		return -1
	}
	if s, ok := p.slots[v]; ok {
		return s
	}
	s := len(p.values)
	p.slots[v] = s
	p.values = append(p.values, v)
	p.defined, p.last = append(p.defined, -1), append(p.last, -1)
	switch {
	case v.konst != nil:
		p.consts = append(p.consts, constSlot{s, v.konst})
	case v.scope != p.scope:
		p.captures = append(p.captures, capture{inner: s})
	}
	return s
}

// owned reports whether the frame holds the value of a slot itself.
func (p *planner) owned(s int) bool {
	return p.values[s].konst == nil && p.values[s].scope == p.scope
}

// plan makes the plan of a scope and of the bodies in it. It also returns the
// values that the plan captures, in the order of its captures.
func (b *builder) plan(sc *scope) (*plan, []*lvalue, error) {
	p := &planner{plan: &plan{types: sc.types, probes: map[int][]probe{}}, scope: sc, slots: map[*lvalue]int{}}
	for _, v := range sc.inputs {
		p.inputs = append(p.inputs, p.slot(v))
	}
	for _, x := range sc.nodes {
		if !x.live {
			continue
		}
		if err := b.step(p, x); err != nil {
			return nil, nil, err
		}
	}
	for _, v := range sc.outputs {
		p.outputs = append(p.outputs, p.slot(v))
	}
	b.place(p)
	p.release()
	p.plan.slots = len(p.values)
	var captured []*lvalue
	for _, c := range p.captures {
		captured = append(captured, p.values[c.inner])
	}
	return p.plan, captured, nil
}

// step adds the step of a node.
func (b *builder) step(p *planner, x *lnode) error {
	st := step{title: x.title(), kind: x.kind()}
	st.lists = x.kernel == nil && x.row != nil && x.row.flags&sequences != 0
	i := len(p.steps)
	x.bodies = map[string]*plan{}
	for _, name := range slices.Sorted(maps.Keys(x.scopes)) {
		sub, captured, err := b.plan(x.scopes[name])
		if err != nil {
			return err
		}
		for k, v := range captured {
			s := p.slot(v)
			sub.captures[k].outer, p.last[s] = s, i
		}
		x.bodies[name] = sub
		st.bodies = append(st.bodies, sub)
	}
	if y := x.like; y != nil && x.kernel == nil {
		x.dropped, st.kernel = y.dropped, b.kernels[y]
	} else if st.kernel = x.kernel; st.kernel == nil {
		var err error
		if st.kernel, err = x.ready(); err != nil {
			return fmt.Errorf("%s: %w", st.title, err)
		}
		b.kernels[x] = st.kernel
	}
	for j, v := range x.in {
		if j < len(x.dropped) && x.dropped[j] {
			v = nil
		}
		s := p.slot(v)
		st.in = append(st.in, s)
		if s >= 0 {
			p.last[s] = i
		}
	}
	for _, v := range x.out {
		s := p.slot(v)
		st.out = append(st.out, s)
		if s >= 0 {
			p.defined[s], p.last[s] = i, i
		}
	}
	p.steps = append(p.steps, st)
	return nil
}

// place puts the probes of the scope behind the step that computes the last
// of their values, and keeps the values until then.
func (b *builder) place(p *planner) {
	for k := range b.probes {
		g := &b.probes[k]
		home := g.home()
		if home != p.scope && (home != nil || p.scope.parent != nil) {
			continue
		}
		if slices.ContainsFunc(g.values, func(v *lvalue) bool { return v.konst == nil && v.scope != home }) {
			continue
		}
		at, pr := -1, probe{group: g.index}
		for _, v := range g.values {
			s := p.slot(v)
			pr.slots = append(pr.slots, s)
			at = max(at, p.defined[s])
		}
		for _, s := range pr.slots {
			p.last[s] = max(p.last[s], at)
		}
		p.plan.probes[at] = append(p.plan.probes[at], pr)
		g.placed = true
	}
}

// release sets what each step frees, and which inputs it may overwrite.
func (p *planner) release() {
	for s, i := range p.last {
		if i < 0 || !p.owned(s) || slices.Contains(p.outputs, s) {
			continue
		}
		p.steps[i].free = append(p.steps[i].free, s)
	}
	p.keep()
	for i := range p.steps {
		st := &p.steps[i]
		st.dies = make([]bool, len(st.in))
		for j, s := range st.in {
			if s < 0 || !slices.Contains(st.free, s) || p.values[s].pinned {
				continue
			}
			first, others := slices.Index(st.in, s), slices.Contains(st.in[j+1:], s)
			captured := slices.ContainsFunc(st.bodies, func(b *plan) bool {
				return slices.ContainsFunc(b.captures, func(c capture) bool { return c.outer == s })
			})
			st.dies[j] = first == j && !others && !captured
		}
	}
}
