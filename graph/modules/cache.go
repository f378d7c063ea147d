package modules

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// What a Cache holds.
const (
	Key      = "key"       // [batch, heads, past, head size], or as the exporter has it
	Value    = "value"     // the same
	KeyValue = "key+value" // stacked in one tensor, as [2, batch, heads, past, head size]
)

// Cache is one tensor of the key-value cache of an attention.
type Cache struct {
	Role    string       // Key, Value or KeyValue
	Past    *graph.Value // the graph input that brings it in; nil if there is none
	Present *graph.Value // the graph output that hands it on; nil if there is none
}

// caches finds the cache of an attention. What the keys and values of its
// cores are made from is followed backwards, over everything but products and
// norms: a graph input met there is a past. A graph output that is made from
// the values met by operators that only move elements is a present.
func (v *view) caches(c candidate, cores []core) []Cache {
	type end struct{ key, value bool }
	past, present := map[int32]*end{}, map[int32]*end{}
	var pasts, presents []int32 // in the order they are met
	meet := func(m map[int32]*end, list *[]int32, x int32, key, value bool) {
		if m[x] == nil {
			m[x] = &end{}
			*list = append(*list, x)
		}
		m[x].key = m[x].key || key
		m[x].value = m[x].value || value
	}
	follow := func(from []int32, key, value bool) {
		for _, s := range v.sources(c, from) {
			if v.isPast(s.val) {
				meet(past, &pasts, s.val, key, value)
			} else if s.whole && !v.vals[s.val].input {
				for _, o := range v.ends(s.val) {
					meet(present, &presents, o, key, value)
				}
			}
		}
	}
	for _, k := range cores {
		for i, x := range k.past {
			follow(some(x), i == 0, i == 1 || len(k.past) == 1)
		}
		for i, x := range k.present {
			if x >= 0 {
				for _, o := range v.ends(x) {
					meet(present, &presents, o, i == 0, i == 1 || len(k.present) == 1)
				}
			}
		}
		follow(k.keys, true, false)
		follow(k.values, false, true)
	}
	role := func(e *end) string {
		switch {
		case e.key && e.value:
			return KeyValue
		case e.key:
			return Key
		}
		return Value
	}
	var out []Cache
	for _, x := range pasts {
		out = append(out, Cache{Role: role(past[x]), Past: v.vals[x].origin})
	}
	for _, x := range presents {
		n := Cache{Role: role(present[x]), Present: v.gives[x]}
		i := slices.IndexFunc(out, func(o Cache) bool { return o.Role == n.Role && o.Present == nil })
		if i < 0 {
			out = append(out, n)
		} else {
			out[i].Present = n.Present
		}
	}
	return out
}

// isPast reports whether value x can be a cache that comes in: an input of
// floats with at least three axes.
func (v *view) isPast(x int32) bool {
	if !v.vals[x].input {
		return false
	}
	t := v.vals[x].origin.Type()
	return t == nil || (t.Elem == graph.Undefined || t.Elem.IsFloat()) && (t.Rank() < 0 || t.Rank() > 2)
}

func some(x int32) []int32 {
	if x < 0 {
		return nil
	}
	return []int32{x}
}

// source is a value that others are made from; whole, if without picking a
// part of it.
type source struct {
	val   int32
	whole bool
}

// sources lists what the given values are made from by moving elements and
// element-wise operators, themselves first. The stream of c is none of them.
func (v *view) sources(c candidate, from []int32) []source {
	seen := map[int32]bool{}
	var out []source
	push := func(x int32, whole bool) {
		if x >= 0 && x != c.stream && !seen[x] && !v.vals[x].konst && v.spend(1) {
			seen[x] = true
			out = append(out, source{x, whole})
		}
	}
	for _, x := range from {
		push(x, true)
	}
	for k := 0; k < len(out); k++ {
		whole := out[k].whole
		d := v.vals[out[k].val].def
		if d < 0 {
			continue
		}
		switch x := &v.nodes[d]; x.class {
		case elementwise, addition:
			for _, in := range x.in {
				push(in, whole)
			}
		case layout:
			switch x.name {
			case "Concat":
				for _, in := range x.in {
					push(in, whole)
				}
			case "TensorScatter": // past cache, update, write indices
				push(v.data(d, 0), whole)
				push(v.data(d, 1), whole)
			case "ScatterND", "ScatterElements": // data, indices, updates
				push(v.data(d, 0), whole)
				push(v.data(d, 2), whole)
			case "Split", "Slice", "Gather", "GatherND", "GatherElements":
				push(v.data(d, 0), false)
			default:
				push(v.data(d, 0), whole)
			}
		}
	}
	return out
}

// ends lists the graph outputs that value x is, or is made into by moving
// elements alone.
func (v *view) ends(x int32) []int32 {
	seen := map[int32]bool{x: true}
	list := []int32{x}
	var out []int32
	for k := 0; k < len(list); k++ {
		l := &v.vals[list[k]]
		if l.output {
			out = append(out, list[k])
		}
		if !v.spend(1 + len(l.uses)) {
			break
		}
		for _, u := range l.uses {
			if n := &v.nodes[u]; n.class == layout {
				for _, o := range n.out {
					if o >= 0 && !seen[o] && v.vals[o].live {
						seen[o] = true
						list = append(list, o)
					}
				}
			}
		}
	}
	return out
}

// reads follows value x through operators that only move elements to the
// nodes outside of body that do more with it than read its dims; it returns
// the first, -1 if there is none.
func (v *view) reads(x int32, body []int32) int32 {
	seen := map[int32]bool{x: true}
	list := []int32{x}
	for k := 0; k < len(list) && v.spend(len(v.vals[list[k]].uses)); k++ {
		for _, u := range v.vals[list[k]].uses {
			if _, ok := slices.BinarySearch(body, u); ok || !v.alive(u) {
				continue
			}
			if v.nodes[u].class != layout {
				return u
			}
			for _, o := range v.nodes[u].out {
				if o >= 0 && !seen[o] {
					seen[o] = true
					list = append(list, o)
				}
			}
		}
	}
	return -1
}

// CacheShapeReaders tells what still depends on a cache input when the
// attention that it belongs to is gone: it follows past through operators
// that only move elements (a stacked cache is taken apart before its dims are
// read) to the nodes that read dims. Where only is false something reads its
// data as well, and no other cache can stand in for it.
func CacheShapeReaders(past *graph.Value) (readers []*graph.Node, only bool) {
	seen := map[*graph.Value]bool{past: true}
	list := []*graph.Value{past}
	only = true
	for k := 0; k < len(list); k++ {
		if k > 0 && list[k].IsOutput() {
			only = false
		}
		for _, u := range list[k].Uses() {
			name := u.Node.Op
			if d := graph.NormalDomain(u.Node.Domain); d != "" {
				name = d + "." + name
			}
			switch c := operators[name].class; {
			case c == shapeOf:
				if !slices.Contains(readers, u.Node) {
					readers = append(readers, u.Node)
				}
			case (c == layout || c == through || name == "Cast") && u.Index == 0:
				for _, o := range u.Node.Outputs() {
					if o != nil && !seen[o] {
						seen[o] = true
						list = append(list, o)
					}
				}
			default:
				only = false
			}
		}
	}
	return readers, only
}

// SubstituteCache returns the cache input among left that has the dims of the
// cache gone, so that what reads the dims of one can read those of the other;
// nil if there is none. The names of free dims need not agree, since
// exporters number them, but one that has the same names is taken first.
func SubstituteCache(gone Cache, left []Cache) *graph.Value {
	var loose *graph.Value
	for _, c := range left {
		if c.Past == nil || c.Past == gone.Past || c.Role != gone.Role {
			continue
		}
		same, fits := sameDims(gone.Past.Type(), c.Past.Type())
		if same {
			return c.Past
		}
		if fits && loose == nil {
			loose = c.Past
		}
	}
	return loose
}

// sameDims reports whether two tensor types have the same dims by name, and
// whether they can have as far as numbers tell.
func sameDims(a, b *graph.Type) (same, fits bool) {
	if a == nil || b == nil || a.Shape == nil || b.Shape == nil {
		return a == b, a == b
	}
	if a.Elem != b.Elem || len(a.Shape.Dims) != len(b.Shape.Dims) {
		return false, false
	}
	same = true
	for i, d := range a.Shape.Dims {
		e := b.Shape.Dims[i]
		if d.N != e.N {
			return false, false
		}
		same = same && d.Sym == e.Sym
	}
	return same, true
}
