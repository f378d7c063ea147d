package passes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// ShareEqual makes equal constants of the main graph one initializer, and equal
// nodes of deterministic standard operators with the same inputs one node.
// Constants of more than a megabyte are left alone.
func ShareEqual() Pass {
	return Pass{
		Name:     "share-equal",
		Doc:      "make equal constants one, and nodes that compute the same",
		Contract: Exact,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			s := sharer{m: m, j: j, outputs: graphOutputs(m), now: map[string]string{}}
			if err := s.constants(); err != nil {
				return err
			}
			s.nodes()
			return renameInt16(m, s.now)
		},
	}
}

// graphOutputs are the outputs of all graphs of m.
func graphOutputs(m *graph.Model) map[*graph.Value]bool {
	out := map[*graph.Value]bool{}
	m.Graphs(func(g *graph.Graph) bool {
		for _, v := range g.Outputs() {
			out[v] = true
		}
		return true
	})
	return out
}

const sharePass = "share-equal"

type sharer struct {
	m       *graph.Model
	j       *Journal
	outputs map[*graph.Value]bool
	now     map[string]string // by the name of a value that is gone, that which stands for it
}

// constants moves what Constant nodes hold into initializers, each once.
func (s *sharer) constants() error {
	g := s.m.Graph
	first := map[string]*graph.Value{}
	for _, v := range slices.Clone(g.Initializers()) {
		if v.IsInput() || s.outputs[v] {
			continue // a caller may set it, or it has a name to keep
		}
		key, ok, err := tensorKey(v.Const)
		if err != nil {
			return fmt.Errorf("initializer %q: %w", v.Name, err)
		}
		switch w := first[key]; {
		case !ok:
		case w == nil:
			first[key] = v
		default:
			s.j.Add(sharePass, v.Name, "removed initializer", fmt.Sprintf("%q is equal", w.Name))
			v.ReplaceUses(w)
			g.RemoveInitializer(v)
		}
	}
	for _, n := range slices.Clone(g.Nodes()) {
		if !n.Is("Constant") || len(n.Outputs()) != 1 || n.Output(0) == nil || s.outputs[n.Output(0)] {
			continue
		}
		v := n.Output(0)
		key, ok, err := tensorKey(v.ConstTensor())
		if err != nil {
			return fmt.Errorf("%v: %w", n, err)
		}
		if !ok {
			continue
		}
		if w := first[key]; w != nil {
			s.j.Add(sharePass, n.String(), "removed", fmt.Sprintf("%q is equal", w.Name))
			v.ReplaceUses(w)
			g.Remove(n)
			continue
		}
		allowInitializers(s.m, s.j, sharePass)
		s.j.Add(sharePass, n.String(), "made an initializer", "which takes fewer bytes")
		replaceWithConstants(n, []*graph.Tensor{v.ConstTensor()})
		first[key] = g.Initializers()[len(g.Initializers())-1]
	}
	return nil
}

// tensorKey is the same for equal tensors only; ok is false for those that are
// not compared.
func tensorKey(t *graph.Tensor) (key string, ok bool, err error) {
	if t == nil || t.DType == graph.String || t.Size() > foldLimit {
		return "", false, nil
	}
	raw, err := t.Bytes()
	if err != nil {
		return "", false, err
	}
	return fmt.Sprintf("%v%v:%s", t.DType, t.Dims, raw), true, nil
}

// nodes makes nodes one that do the same with the same values.
func (s *sharer) nodes() {
	number := map[*graph.Value]int{}
	first := map[string]*graph.Node{}
	for _, n := range slices.Clone(s.m.Graph.Nodes()) {
		key, ok := s.nodeKey(n, number)
		if !ok || slices.ContainsFunc(n.Outputs(), func(v *graph.Value) bool { return s.outputs[v] }) {
			continue
		}
		before := first[key]
		if before == nil {
			first[key] = n
			continue
		}
		s.j.Add(sharePass, n.String(), "removed", fmt.Sprintf("%v computes the same", before))
		for i, v := range n.Outputs() {
			if v != nil {
				s.now[v.Name] = before.Output(i).Name
				v.ReplaceUses(before.Output(i))
			}
		}
		s.m.Graph.Remove(n)
	}
}

// random are the operators that give something else every time.
var random = []string{"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}

// nodeKey is the same for nodes only that compute the same; ok is false for those
// that are not compared.
func (s *sharer) nodeKey(n *graph.Node, number map[*graph.Value]int) (key string, ok bool) {
	ours := n.Domain == graph.LatheDomain
	if !ours && (graph.NormalDomain(n.Domain) != "" || s.m.Function(n.Domain, n.Op, n.Overload) != nil || n.Is(random...)) {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q", graph.NormalDomain(n.Domain), n.Op, n.Overload)
	for _, v := range n.Inputs() {
		at := 0
		if v != nil {
			if number[v] == 0 {
				number[v] = len(number) + 1
			}
			at = number[v]
		}
		fmt.Fprintf(&b, " %d", at)
	}
	for _, v := range n.Outputs() {
		fmt.Fprintf(&b, " %v", v != nil)
	}
	attrs := slices.Clone(n.Attrs)
	slices.SortFunc(attrs, func(x, y *graph.Attr) int { return strings.Compare(x.Name, y.Name) })
	for _, a := range attrs {
		fmt.Fprintf(&b, " %q %v ", a.Name, a.Type)
		switch a.Type {
		case graph.AttrInt:
			fmt.Fprint(&b, a.I)
		case graph.AttrFloat:
			fmt.Fprint(&b, strconv.FormatFloat(float64(a.F), 'g', -1, 32))
		case graph.AttrString:
			fmt.Fprintf(&b, "%q", a.S)
		case graph.AttrInts:
			fmt.Fprint(&b, a.Ints)
		case graph.AttrFloats:
			fmt.Fprint(&b, a.Floats)
		case graph.AttrStrings:
			fmt.Fprintf(&b, "%q", a.Strings)
		case graph.AttrTensor:
			k, ok, err := tensorKey(a.T)
			if !ok || err != nil {
				return "", false
			}
			fmt.Fprintf(&b, "%q", k)
		default:
			return "", false
		}
	}
	return b.String(), true
}

// ShortNames numbers the values of the main graph and of functions that are neither
// inputs nor outputs, in base 36, and takes names, doc strings and notes of exporters away
// from nodes. Layers can no more be chosen by name; modules keep their ids, and
// what lathe's metadata says of the original its names.
func ShortNames() Pass {
	const pass = "short-names"
	return Pass{
		Name:     pass,
		Doc:      "leave out the names that nothing outside needs",
		Contract: Exact,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			outputs := graphOutputs(m)
			now, changed := shorten(m.Graph, outputs)
			for _, f := range m.Functions {
				_, more := shorten(f.Graph, outputs)
				changed += more
			}
			if changed > 0 {
				j.Add(pass, "", fmt.Sprintf("named %d values and nodes shorter or not at all", changed), "nothing outside needs their names")
			}
			return renameInt16(m, now)
		},
	}
}

// shorten numbers the values of g, that of the model or of a function, and returns
// the new names by the old, and how many things changed.
func shorten(g *graph.Graph, outputs map[*graph.Value]bool) (now map[string]string, changed int) {
	var inner []*graph.Value
	add := func(v *graph.Value) {
		if !v.IsInput() && !outputs[v] {
			inner = append(inner, v)
		}
	}
	eachValue(g, add)
	was := map[*graph.Value]string{}
	for i, v := range inner {
		was[v] = v.Name
		v.Rename(g.FreshName(fmt.Sprintf("compact:%d", i))) // out of the way of the new names
	}
	taken := map[string]bool{}
	g.Model().Graphs(func(h *graph.Graph) bool {
		if h.Function() == g.Function() { // g and what lies in it
			eachValue(h, func(v *graph.Value) { taken[v.Name] = true })
		}
		return true
	})
	next := 0
	now = map[string]string{}
	for _, v := range inner {
		name := strconv.FormatInt(int64(next), 36)
		for ; taken[name]; name = strconv.FormatInt(int64(next), 36) {
			next++
		}
		next++
		if was[v] != name || v.Doc != "" {
			changed++
		}
		now[was[v]] = name
		v.Rename(name)
		v.Doc = ""
	}
	for _, n := range g.Nodes() {
		if n.Name != "" || n.Doc != "" || len(n.Metadata) > 0 {
			changed++
		}
		n.Name, n.Doc, n.Metadata = "", "", nil
	}
	return now, changed
}

// eachValue calls do for the values that g defines.
func eachValue(g *graph.Graph, do func(*graph.Value)) {
	for _, list := range [][]*graph.Value{g.Inputs(), g.Initializers()} {
		for _, v := range list {
			do(v)
		}
	}
	for _, n := range g.Nodes() {
		for _, v := range n.Outputs() {
			if v != nil {
				do(v)
			}
		}
	}
}

// renameInt16 puts new names of values into what QuantizeInt16 noted, and leaves
// the note as the only one.
func renameInt16(m *graph.Model, now map[string]string) error {
	layers, err := Int16Layers(m)
	if err != nil || len(layers) == 0 || len(now) == 0 {
		return err
	}
	for i := range layers {
		for _, name := range []*string{&layers[i].Int16In, &layers[i].Int16Out} {
			if s, ok := now[*name]; ok {
				*name = s
			}
		}
	}
	text, err := json.Marshal(layers)
	if err != nil {
		return err
	}
	m.SetMeta(Int16Key, string(text))
	// The history need not list these layers a second time.
	h, err := modules.ReadHistory(m)
	if err != nil {
		return err
	}
	h.Rewrites = slices.DeleteFunc(h.Rewrites, func(r modules.Rewrite) bool { return r.Pass == quantizePass })
	return modules.WriteHistory(m, h)
}
