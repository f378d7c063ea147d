package modules

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// What a Cache holds.
const (
	Key      = "key"
	Value    = "value"
	KeyValue = "key+value" // stacked in one tensor, as [2, batch, heads, past, head size]
)

// Cache is one tensor of the key-value cache of an attention.
type Cache struct {
	Role    string       // Key, Value or KeyValue
	Past    *graph.Value // the graph input that brings it in; nil if there is none
	Present *graph.Value // the graph output that hands it on; nil if there is none
}

// caches finds the cache of an attention. What the keys and values of its
// cores consist of is followed backwards through operators that only move
// elements, and scalings: a graph input met there is a past, and a graph
// output that is made from the values met by operators of the same sort is a
// present.
func (v *view) caches(r *region, c candidate, cores []core) []Cache {
	type end struct{ key, value bool }
	past, present := map[int32]*end{}, map[int32]*end{}
	var pasts, presents []int32 // in the order they are met
	meet := func(m map[int32]*end, list *[]int32, x int32, key bool) {
		if m[x] == nil {
			m[x] = &end{}
			*list = append(*list, x)
		}
		m[x].key = m[x].key || key
		m[x].value = m[x].value || !key
	}
	for _, k := range cores {
		for i, x := range k.past {
			if x >= 0 {
				for _, s := range v.sources(c, []int32{x}) {
					if v.vals[s].input {
						meet(past, &pasts, s, i == 0)
						if len(k.past) == 1 {
							meet(past, &pasts, s, false)
						}
					}
				}
			}
		}
		for i, x := range k.present {
			if x >= 0 {
				for _, o := range v.ends(x) {
					meet(present, &presents, o, i == 0)
					if len(k.present) == 1 {
						meet(present, &presents, o, false)
					}
				}
			}
		}
		for _, key := range []bool{true, false} {
			from := k.values
			if key {
				from = k.keys
			}
			for _, s := range v.sources(c, from) {
				if v.vals[s].input {
					meet(past, &pasts, s, key)
					continue
				}
				for _, o := range v.ends(s) {
					meet(present, &presents, o, key)
				}
			}
		}
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
		n := Cache{Role: role(present[x]), Present: v.vals[x].origin}
		i := slices.IndexFunc(out, func(o Cache) bool { return o.Role == n.Role && o.Present == nil })
		if i < 0 {
			out = append(out, n)
		} else {
			out[i].Present = n.Present
		}
	}
	return out
}

// sources lists the values that the given ones are made from by moving
// elements and scaling alone, themselves first. The stream is none of them.
func (v *view) sources(c candidate, from []int32) []int32 {
	seen := map[int32]bool{}
	var out []int32
	push := func(x int32) {
		if x >= 0 && x != c.stream && !seen[x] && !v.vals[x].konst && v.spend(1) {
			seen[x] = true
			out = append(out, x)
		}
	}
	for _, x := range from {
		push(x)
	}
	for k := 0; k < len(out); k++ {
		d := v.vals[out[k]].def
		if d < 0 {
			continue
		}
		x := &v.nodes[d]
		switch {
		case x.name == "Concat":
			for _, in := range x.in {
				push(in)
			}
		case x.name == "ScatterND", x.name == "ScatterElements", x.name == "TensorScatter":
			push(v.data(d, 0))
			if x.name == "TensorScatter" {
				push(v.data(d, 1))
			} else {
				push(v.data(d, 2))
			}
		case x.class == layout:
			push(v.data(d, 0))
		case x.name == "Mul", x.name == "Div":
			for s := range 2 {
				if e := v.data(d, 1-s); e >= 0 && (v.konst(e) || v.rank(e) == 0) {
					push(v.data(d, s))
				}
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
		for _, u := range l.uses {
			if n := &v.nodes[u]; n.class == layout && v.spend(1) {
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
