package runtime

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// Options says how a model is compiled. The zero value is right for most programs.
type Options struct {
	// Probes names values to be observed, in groups: the values of a group
	// are delivered together, as soon as all of them exist (see
	// Session.RunProbed). A name is that of a value of the main graph, or of
	// the one body that has it.
	Probes [][]string

	// Path names the vector kernels: portable, avx2 or avx512; "" or auto for
	// the best that this machine has. The environment variable LATHE_SIMD
	// names another default. Results are the same bytes for the same path.
	Path string

	// Bodies runs the bodies of the functions of domain lathe in place of
	// the kernels for them, for checking one against the other.
	Bodies bool

	// NoFusion keeps every node of the model a step of its own, for
	// profiles that should match the model.
	NoFusion bool

	// Cache names the pairs of a decoder's cache that sessions keep from run to
	// run: a past is no input of the program then, and a present no output.
	// A session begins with an empty cache. See Session.Truncate.
	Cache []CachePair

	// MemoryLimit bounds the bytes of intermediate values of each session
	// and of what is computed at compile time; 0 means 4 GiB. Weights do not
	// count.
	MemoryLimit int64

	// training adds gradients; see CompileTraining.
	training *training
}

const defaultMemoryLimit = 4 << 30

// Port is an input or output of a program.
type Port struct {
	Name  string
	DType graph.DType // of a tensor
	Shape graph.Shape // without dims where Rank is −1
	Rank  int         // -1 where the model does not fix it
	Other *graph.Type // of a sequence or an optional; nil for a tensor
}

// Program is a compiled model. It is immutable and can be run by any number
// of sessions at once.
type Program struct {
	inputs, outputs []Port
	main            *plan
	caches          []cachePlan // their pasts and presents follow inputs and outputs in the plan
	limit           int
	probes          int
}

// Inputs returns what a run has to be fed, in the order of the model; initializers
// and what the session keeps are not among them.
func (p *Program) Inputs() []Port { return slices.Clone(p.inputs) }

// Outputs returns what a run gives, in the order of the model.
func (p *Program) Outputs() []Port { return slices.Clone(p.outputs) }

// Compile makes a model ready to run. It does all work that does not depend
// on the inputs, and fails, naming every operator at once, where the model
// needs one that the runtime does not have. The model is not changed and can
// be edited afterwards; its constants are shared.
func Compile(m *graph.Model, o Options) (*Program, error) {
	p, err := compile(m, o)
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	return p, nil
}

func compile(m *graph.Model, o Options) (*Program, error) {
	if m == nil || m.Graph == nil {
		return nil, fmt.Errorf("the model has no graph")
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = defaultMemoryLimit
	}
	path := simd.Auto
	if o.Path != "" {
		var err error
		if path, err = simd.ParsePath(o.Path); err != nil {
			return nil, err
		}
	}
	kernels, err := simd.For(path)
	if err != nil {
		return nil, err
	}
	kernels = kernels.With(new(simd.Store)) // the program's weights
	p := &Program{limit: int(min(o.MemoryLimit, maxBytes)), probes: len(o.Probes)}
	l := &lowering{model: m, opts: &o, simd: kernels, fold: newFolder(p.limit), named: map[*graph.Value]*lvalue{}}
	groups, err := l.findProbes(m, o.Probes)
	if err != nil {
		return nil, err
	}

	main := &scope{}
	e := &env{values: map[*graph.Value]*lvalue{}}
	if p.inputs, err = Ports(m); err != nil {
		return nil, err
	}
	for _, v := range m.Graph.Inputs() {
		if v.IsInitializer() {
			continue
		}
		lv := &lvalue{name: v.Name, scope: main, rank: v.Type().Rank(), formed: true}
		l.track(v, lv)
		e.values[v] = lv
		main.inputs = append(main.inputs, lv)
	}
	if main.outputs, err = l.graph(main, m.Graph, e); err != nil {
		return nil, err
	}
	for _, v := range m.Graph.Outputs() {
		port, err := portOf(v)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", v.Name, err)
		}
		p.outputs = append(p.outputs, port)
	}
	if err := l.caches(p, main); err != nil {
		return nil, err
	}
	if o.training != nil {
		if err := o.training.build(l, main, groups[0], groups[1]); err != nil {
			return nil, err
		}
		p.outputs, groups = nil, nil // the loss sees its values
	} else if !o.NoFusion {
		fuse(main, nil, nil)
	}
	mark(main)
	if err := l.missing.err(); err != nil {
		return nil, err
	}
	b := &builder{kernels: map[*lnode]kernel{}}
	for i, g := range groups {
		pg := probeGroup{index: i}
		for _, v := range g {
			lv := l.named[v]
			if lv == nil {
				return nil, fmt.Errorf("probe %q: the value is not computed by itself", v.Name)
			}
			pg.values = append(pg.values, lv)
		}
		b.probes = append(b.probes, pg)
	}
	if p.main, _, err = b.plan(main); err != nil {
		return nil, err
	}
	p.placeCaches()
	for _, g := range b.probes {
		if !g.placed {
			return nil, fmt.Errorf("probe %q: its values lie in different graphs", o.Probes[g.index])
		}
	}
	return p, nil
}

// Ports describes the inputs that a program of m will have to be fed, without
// compiling it.
func Ports(m *graph.Model) ([]Port, error) {
	var out []Port
	for _, v := range m.Graph.Inputs() {
		if v.IsInitializer() {
			continue
		}
		port, err := portOf(v)
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", v.Name, err)
		}
		out = append(out, port)
	}
	return out, nil
}

// portOf describes a graph input or output.
func portOf(v *graph.Value) (Port, error) {
	t := v.Declared
	if t == nil {
		t = v.Type()
	}
	p := Port{Name: v.Name, Rank: -1}
	if t == nil {
		return p, nil
	}
	if t.Kind != graph.KindTensor && t.Kind != graph.KindUnknown {
		p.Other = t
		return p, nil
	}
	p.DType = t.Elem
	if t.Shape != nil {
		p.Shape, p.Rank = *t.Shape, len(t.Shape.Dims)
	}
	return p, nil
}

// findProbes resolves the names of probes: to values of the main graph, else
// to the one body that has the name.
func (l *lowering) findProbes(m *graph.Model, groups [][]string) ([][]*graph.Value, error) {
	l.probes = map[string]*graph.Value{}
	out := make([][]*graph.Value, len(groups))
	for i, g := range groups {
		for _, name := range g {
			v := l.probes[name]
			if v == nil {
				v = m.Graph.Value(name)
			}
			if v == nil {
				for s := range m.Graphs {
					w := s.Value(name)
					if w == nil || s.Function() != nil {
						continue
					}
					if v != nil {
						return nil, fmt.Errorf("probe %q: more than one body has a value of that name", name)
					}
					v = w
				}
			}
			if v == nil {
				return nil, fmt.Errorf("probe %q: the model has no such value", name)
			}
			l.probes[name] = v
			out[i] = append(out[i], v)
		}
	}
	return out, nil
}

// mark sets live on every node that an output or a probe needs.
func mark(sc *scope) {
	need := map[*lvalue]bool{}
	markScope(sc, need)
}

func markScope(sc *scope, need map[*lvalue]bool) {
	for _, v := range sc.outputs {
		need[v] = true
	}
	for i := len(sc.nodes) - 1; i >= 0; i-- {
		x := sc.nodes[i]
		x.live = slices.ContainsFunc(x.out, func(v *lvalue) bool { return v != nil && (need[v] || v.pinned) })
		for _, s := range x.scopes {
			x.live = x.live || pinnedInside(s)
		}
		if !x.live {
			continue
		}
		for _, v := range x.in {
			if v != nil {
				need[v] = true
			}
		}
		for _, s := range x.scopes {
			markScope(s, need)
		}
	}
}

func pinnedInside(sc *scope) bool {
	for _, v := range sc.inputs {
		if v.pinned {
			return true
		}
	}
	for _, x := range sc.nodes {
		for _, v := range x.out {
			if v != nil && v.pinned {
				return true
			}
		}
		for _, s := range x.scopes {
			if pinnedInside(s) {
				return true
			}
		}
	}
	return false
}

// kind is the operator as profiles name it.
func (x *lnode) kind() string {
	if x.domain != "" {
		return x.domain + "." + x.op
	}
	return x.op
}

// ready prepares the node's kernel. A panic in a prepare function is a bug; it
// fails the compilation.
func (x *lnode) ready() (_ kernel, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v\n%s", r, debug.Stack())
		}
	}()
	x.known()
	k, err := x.row.prepare(&x.node)
	if err == nil {
		err = x.err
	}
	if err != nil {
		return nil, err
	}
	if x.row.flags&halves != 0 {
		k = throughFloat32(k)
	}
	return k, nil
}

// known sets what a prepare function sees of the inputs and outputs.
func (x *lnode) known() {
	x.consts = make([]*Tensor, len(x.in))
	x.given = make([]bool, len(x.in))
	x.dropped = make([]bool, len(x.in))
	for i, v := range x.in {
		if v != nil {
			x.given[i] = true
			if v.param == 0 { // a parameter's value changes
				x.consts[i] = v.konst
			}
		}
	}
	x.wanted = make([]bool, len(x.out))
	for i, v := range x.out {
		x.wanted[i] = v != nil
	}
}
