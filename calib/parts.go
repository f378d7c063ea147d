package calib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
)

// A model that memory has no room for runs part by part: it is cut at values of
// the residual stream, and one part after the other runs over all samples.
// Only the weights of the part at hand are in memory; the values that later
// parts read (the stream, masks, rotary tables, encoder states) lie in files
// meanwhile. Kernels get what they would get in the whole model, since the
// stream is watched there, so that nothing is fused across a cut: all results
// have the same bits.

// segment is a part of a model that runs by itself.
type segment struct {
	inputs []string // of the model, that it reads
	reads  []string // values of earlier parts
	writes []string // values for later parts
	ends   []string // values of earlier parts that no later one reads
	probes []int
	wanted []string // values that it computes for its probes
}

// compiledTimes is what compiled weights take for a moment: as they lie in the
// file, and in the order of the kernels.
const compiledTimes = 2

// leastMemory is what the garbage collector is given at least: with less it
// would do nothing else.
const leastMemory = 64 << 20

// fitsMemory estimates whether a run of m over the feed stays within limit bytes, and
// otherwise what the weights of a part may take, as they lie in the file.
func fitsMemory(m *graph.Model, feed *Feed, opts ScoreOptions, limit int64) (yes bool, budget int64, err error) {
	weights := compiledTimes * m.WeightBytes()
	if weights <= (limit-feed.source.Bytes())/2 || feed.Len() == 0 {
		return true, 0, nil // were values to take the rest, parts would take as much
	}
	in, err := feed.Batch(0, min(feed.BatchSize(opts.Batch), feed.Len()))
	if err != nil {
		return false, 0, err
	}
	values, _ := Peak(m, in)
	left := limit - feed.source.Bytes() - values
	if weights <= left {
		return true, 0, nil
	}
	const slack = 8 // a part of the memory, for the program and for garbage
	return false, (left - limit/slack) / compiledTimes, nil
}

// cutter cuts a model.
type cutter struct {
	m      *graph.Model
	reads  map[*graph.Node][]*graph.Value // of the nodes of the main graph, bodies included
	folded map[*graph.Node]bool           // nodes of constants alone, which every part computes for itself
	unit   map[*graph.Node]int            // pieces that are not cut
}

// segments cuts m, for these probes, into parts whose weights take at most budget
// bytes where that is possible.
func segments(m *graph.Model, probes []*probe, budget int64) ([]segment, error) {
	c := &cutter{m: m, reads: map[*graph.Node][]*graph.Value{}, folded: map[*graph.Node]bool{}, unit: map[*graph.Node]int{}}
	c.look()
	cuts, err := cutsOf(m)
	if err != nil {
		return nil, err
	}
	for i, v := range cuts {
		c.assign(v, i)
	}
	values := make([][]*graph.Value, len(probes)) // of the main graph
	for i, p := range probes {
		for _, name := range p.values {
			v := c.find(name)
			if v == nil {
				return nil, fmt.Errorf("the model has no value %q", name)
			}
			c.assign(v, len(cuts))
			values[i] = append(values[i], v)
		}
	}
	of, n := c.pack(len(cuts)+1, budget)
	where := func(v *graph.Value) int { // the part that computes v; −1 for none
		if u, ok := c.unit[v.Def()]; ok && v.Def() != nil {
			return of[u]
		}
		return -1
	}
	out := make([]segment, n)
	last := map[*graph.Value]int{} // the part that reads a value last
	need := make([]map[*graph.Value]bool, n)
	for i := range need {
		need[i] = map[*graph.Value]bool{}
	}
	read := func(v *graph.Value, by int) {
		if need[by][v] || v.IsInitializer() || v.Def() != nil && where(v) < 0 {
			return
		}
		need[by][v] = true
		last[v] = max(last[v], by)
	}
	for _, node := range m.Graph.Nodes() {
		if u, ok := c.unit[node]; ok {
			for _, v := range c.reads[node] {
				c.sources(v, func(v *graph.Value) { read(v, of[u]) })
			}
		}
	}
	for i, list := range values {
		at := 0
		for _, v := range list {
			at = max(at, where(v))
		}
		out[at].probes = append(out[at].probes, i)
		for _, v := range list {
			read(v, at)
			w := where(v)
			constant := w < 0 && (v.Def() != nil || v.IsInitializer())
			if (w == at || constant) && !slices.Contains(out[at].wanted, v.Name) {
				out[at].wanted = append(out[at].wanted, v.Name)
			}
		}
	}
	var order []*graph.Value // of the main graph
	order = append(order, m.Graph.Inputs()...)
	for _, node := range m.Graph.Nodes() {
		for _, v := range node.Outputs() {
			if v != nil {
				order = append(order, v)
			}
		}
	}
	for _, v := range order {
		from := where(v)
		for i := range out {
			if !need[i][v] {
				continue
			}
			switch {
			case from < 0:
				out[i].inputs = append(out[i].inputs, v.Name)
			case from < i:
				out[i].reads = append(out[i].reads, v.Name)
			}
		}
		if from >= 0 && last[v] > from {
			out[from].writes = append(out[from].writes, v.Name)
			out[last[v]].ends = append(out[last[v]].ends, v.Name)
		}
	}
	return slices.DeleteFunc(out, func(p segment) bool { return len(p.writes) == 0 && len(p.probes) == 0 }), nil
}

// cutsOf are the values of the residual stream in front of every module and
// behind the last one.
func cutsOf(m *graph.Model) ([]*graph.Value, error) {
	mods, err := modules.Find(m)
	if err != nil {
		return nil, err
	}
	var out []*graph.Value
	add := func(v *graph.Value) {
		if v != nil && v.Graph() == m.Graph && v.Def() != nil && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	for _, x := range mods {
		if x.Kind != modules.Other {
			add(x.Stream)
			if x.Norm != nil {
				add(x.Norm.Out)
			}
			add(x.Sum)
		}
	}
	return out, nil
}

// look finds what the nodes of the main graph read, and which of them compute
// constants.
func (c *cutter) look() {
	g := c.m.Graph
	nodes := g.Nodes()
	note := func(v *graph.Value) {
		for _, u := range v.Uses() {
			n := u.Node
			for n.Graph() != g {
				n = n.Graph().Holder()
			}
			if list := c.reads[n]; !slices.Contains(list, v) {
				c.reads[n] = append(list, v)
			}
		}
	}
	for _, v := range slices.Concat(g.Inputs(), g.Initializers()) {
		note(v)
	}
	for _, n := range nodes {
		for _, v := range n.Outputs() {
			if v != nil {
				note(v)
			}
		}
	}
	for _, n := range nodes {
		random := strings.HasPrefix(n.Op, "Random") || n.Is("Bernoulli", "Multinomial", "Dropout")
		c.folded[n] = !random && !slices.ContainsFunc(c.reads[n], func(v *graph.Value) bool {
			return !v.IsInitializer() && (v.Def() == nil || !c.folded[v.Def()])
		})
	}
}

// find returns the value of that name, or one of the node that holds it in a
// body.
func (c *cutter) find(name string) *graph.Value {
	if v := c.m.Graph.Value(name); v != nil {
		return v
	}
	for s := range c.m.Graphs {
		if s.Function() != nil || s.Value(name) == nil {
			continue
		}
		n := s.Holder()
		for n.Graph() != c.m.Graph {
			n = n.Graph().Holder()
		}
		for _, v := range n.Outputs() {
			if v != nil {
				return v
			}
		}
	}
	return nil
}

// assign gives all nodes that v comes from to a unit, unless they are of one
// already.
func (c *cutter) assign(v *graph.Value, unit int) {
	todo := []*graph.Value{v}
	for len(todo) > 0 {
		n := todo[len(todo)-1].Def()
		todo = todo[:len(todo)-1]
		if n == nil || c.folded[n] {
			continue
		}
		if _, ok := c.unit[n]; !ok {
			c.unit[n] = unit
			todo = append(todo, c.reads[n]...)
		}
	}
}

// sources calls f for v or, where nodes of constants alone compute it, for what
// they read.
func (c *cutter) sources(v *graph.Value, f func(v *graph.Value)) {
	seen := map[*graph.Value]bool{}
	todo := []*graph.Value{v}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		switch {
		case seen[v]:
		case v.Def() != nil && c.folded[v.Def()] && v.ConstTensor() == nil:
			todo = append(todo, c.reads[v.Def()]...)
		default:
			f(v)
		}
		seen[v] = true
	}
}

// pack joins units whose weights fit into budget together, and returns the part
// of every unit and how many there are.
func (c *cutter) pack(units int, budget int64) (of []int, n int) {
	constants := make([][]*graph.Value, units)
	for _, node := range c.m.Graph.Nodes() {
		if u, ok := c.unit[node]; ok {
			for _, v := range c.reads[node] {
				c.sources(v, func(v *graph.Value) {
					if v.ConstTensor() != nil {
						constants[u] = append(constants[u], v)
					}
				})
			}
		}
	}
	of = make([]int, units)
	var held map[*graph.Value]bool
	var size int64
	for u, list := range constants {
		more := int64(0)
		fresh := map[*graph.Value]bool{}
		for _, v := range list {
			if !held[v] && !fresh[v] {
				fresh[v] = true
				more += v.ConstTensor().Size()
			}
		}
		if len(held) > 0 && more > 0 && size+more > budget {
			n++
			held, size, more = nil, 0, 0
			fresh = map[*graph.Value]bool{}
			for _, v := range list {
				if !fresh[v] {
					fresh[v] = true
					more += v.ConstTensor().Size()
				}
			}
		}
		if held == nil {
			held = map[*graph.Value]bool{}
		}
		for v := range fresh {
			held[v] = true
		}
		size += more
		of[u] = n
	}
	return of, n + 1
}

// model is the part of m as a model of its own, without outputs.
func (p *segment) model(m *graph.Model) (*graph.Model, error) {
	outputs := slices.Clone(p.wanted)
	for _, name := range p.writes {
		if !slices.Contains(outputs, name) {
			outputs = append(outputs, name)
		}
	}
	s, err := m.Extract(slices.Concat(p.inputs, p.reads), outputs)
	if err != nil {
		return nil, err
	}
	for _, name := range p.reads {
		// What a model says about dims inside of it is not held against it.
		v := s.Graph.Value(name)
		if t := v.Type(); t != nil && t.Kind == graph.KindTensor && t.Shape != nil {
			v.Declared = graph.TensorType(t.Elem, slices.Repeat([]graph.Dim{graph.UnknownDim}, len(t.Shape.Dims))...)
		}
	}
	for i := len(s.Graph.Outputs()) - 1; i >= 0; i-- {
		s.Graph.RemoveOutput(i)
	}
	return s, nil
}

// observeParts is observe, part by part.
func observeParts(ctx context.Context, m *graph.Model, feed *Feed, probes []*probe, list []segment, limit int64, opts ScoreOptions) (err error) {
	shelf, err := newShelf()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shelf.close()) }()
	slog.Info("the model runs part by part", "parts", len(list), "folder", shelf.dir)
	// Garbage of one part must not lie beside the weights of the next.
	was := debug.SetMemoryLimit(max(limit, leastMemory))
	defer debug.SetMemoryLimit(was)
	for k := range list {
		p := &list[k]
		if err := p.observe(ctx, m, feed, probes, shelf, opts, func(done, total int) {
			if opts.Progress != nil {
				opts.Progress((k*total+done)/len(list), total)
			}
		}); err != nil {
			return fmt.Errorf("part %d of %d: %w", k+1, len(list), err)
		}
		for _, name := range p.ends {
			if err := shelf.drop(name); err != nil {
				return err
			}
		}
		debug.FreeOSMemory()
	}
	return nil
}

func (p *segment) observe(ctx context.Context, m *graph.Model, feed *Feed, probes []*probe, shelf *shelf, opts ScoreOptions, progress func(done, total int)) error {
	sub, err := p.model(m)
	if err != nil {
		return err
	}
	var groups [][]string
	for _, i := range p.probes {
		groups = append(groups, probes[i].values)
	}
	for _, name := range p.writes {
		groups = append(groups, []string{name})
	}
	prog, err := feed.source.compile(sub, groups)
	if err != nil {
		return err
	}
	session := prog.NewSession(runtime.SessionOptions{Threads: opts.Threads})
	batch := 0
	return Batches(ctx, feed, opts.Batch, progress, func(from, to int, in map[string]tensor.Tensor) error {
		fail := func(err error) error { return fmt.Errorf("samples %d … %d: %w", from, to-1, err) }
		tokens, err := feed.Mask(from, to, in)
		if err != nil {
			return err
		}
		all, err := feed.batch(from, to)
		if err != nil {
			return err
		}
		feeds := map[string]*runtime.Tensor{}
		for _, name := range p.inputs {
			feeds[name] = all[name]
		}
		for _, name := range p.reads {
			if feeds[name], err = shelf.get(name, batch); err != nil {
				return fail(err)
			}
		}
		err = session.ProbeTensors(ctx, feeds, func(i int, v []*runtime.Tensor) error {
			if i >= len(p.probes) {
				return shelf.put(p.writes[i-len(p.probes)], v[0])
			}
			return probes[p.probes[i]].show(v, tokens)
		})
		if err != nil {
			return fail(err)
		}
		batch++
		return nil
	})
}

// shelf keeps values in files, batch by batch.
type shelf struct {
	dir   string
	files map[string]*shelved
}

type shelved struct {
	f       *os.File
	end     int64
	batches []kept
}

type kept struct {
	dtype  graph.DType
	dims   []int64
	offset int64
	size   int64
}

func newShelf() (*shelf, error) {
	dir, err := os.MkdirTemp("", "lathe-values-")
	if err != nil {
		return nil, fmt.Errorf("a folder for activations: %w; the variable TMPDIR names another place", err)
	}
	return &shelf{dir: dir, files: map[string]*shelved{}}, nil
}

// put appends the next batch of a value.
func (s *shelf) put(name string, t *runtime.Tensor) error {
	fail := func(err error) error {
		return fmt.Errorf("keep value %q in %s: %w; the variable TMPDIR names another place", name, s.dir, err)
	}
	v := s.files[name]
	if v == nil {
		f, err := os.CreateTemp(s.dir, "")
		if err != nil {
			return fail(err)
		}
		_ = os.Remove(f.Name()) // where the system lets it, it is gone with the process, killed or not
		v = &shelved{f: f}
		s.files[name] = v
	}
	g, err := runtime.ToGraphTensor(t)
	if err != nil {
		return fail(err)
	}
	raw, err := g.Bytes()
	if err != nil {
		return fail(err)
	}
	if _, err := v.f.WriteAt(raw, v.end); err != nil {
		return fail(err)
	}
	v.batches = append(v.batches, kept{g.DType, g.Dims, v.end, int64(len(raw))})
	v.end += int64(len(raw))
	return nil
}

// get reads a batch of a value.
func (s *shelf) get(name string, batch int) (*runtime.Tensor, error) {
	v := s.files[name]
	if v == nil || batch >= len(v.batches) {
		return nil, fmt.Errorf("value %q was not computed", name)
	}
	b := v.batches[batch]
	raw := make([]byte, b.size)
	if _, err := v.f.ReadAt(raw, b.offset); err != nil && !(errors.Is(err, io.EOF) && b.size == 0) {
		return nil, fmt.Errorf("value %q: %w", name, err)
	}
	g, err := graph.NewTensor(b.dtype, b.dims, raw)
	if err != nil {
		return nil, fmt.Errorf("value %q: %w", name, err)
	}
	return runtime.FromGraphTensor(g)
}

// drop forgets a value.
func (s *shelf) drop(name string) error {
	v := s.files[name]
	if v == nil {
		return nil
	}
	delete(s.files, name)
	return errors.Join(v.f.Close(), os.RemoveAll(v.f.Name()))
}

func (s *shelf) close() error {
	for _, v := range s.files {
		v.f.Close()
	}
	return os.RemoveAll(s.dir)
}
