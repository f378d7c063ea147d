package passes

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// Caches says what becomes of the cache inputs and outputs of dropped
// attentions.
type Caches string

const (
	// CachesRemove takes them out; the names of the others stay, with gaps in
	// their numbers.
	CachesRemove Caches = "remove"
	// CachesRenumber takes them out and gives those that are left the names
	// of the first ones, in order: no number is skipped.
	CachesRenumber Caches = "renumber"
	// CachesPassthrough leaves the interface as it is: the output hands out
	// what came in. Such a cache does not grow: who feeds it an empty one
	// gets an empty one.
	CachesPassthrough Caches = "passthrough"
)

// unlinkOutputs takes the caches that dropped attentions wrote out of the
// outputs, or makes them those that come in.
func (d *dropper) unlinkOutputs(gone []modules.Module) error {
	g := d.m.Graph
	for _, mod := range gone {
		for _, c := range mod.Caches {
			if c.Present == nil || !c.Present.IsOutput() {
				continue
			}
			if d.opts.Caches == CachesPassthrough {
				if c.Past == nil {
					return fmt.Errorf("module %s: its cache %q has no input that could be passed through; have it removed", mod.ID, c.Present.Name)
				}
				name := c.Present.Name
				g.ReplaceOutput(c.Present, c.Past)
				g.Value(name).Declared = c.Past.Declared
				d.j.Add(dropPass, name, "hands out "+c.Past.Name, "it was the cache of "+mod.ID)
				continue
			}
			for i := len(g.Outputs()) - 1; i >= 0; i-- {
				if g.Outputs()[i] == c.Present {
					g.RemoveOutput(i)
					d.j.Add(dropPass, c.Present.Name, "removed output", "it was the cache of "+mod.ID)
				}
			}
		}
	}
	return nil
}

// unlinkInputs takes the caches that dropped attentions read out of the
// inputs, unless they are passed through. What is left to read such an input
// reads its shape; it gets a surviving cache of the same layout.
func (d *dropper) unlinkInputs(gone, left []modules.Module) error {
	var surviving []modules.Cache
	for _, mod := range left {
		surviving = append(surviving, mod.Caches...)
	}
	for _, mod := range gone {
		for _, c := range mod.Caches {
			if c.Past == nil || !c.Past.IsInput() {
				continue
			}
			var through *graph.Value // the output that hands it on
			uses := slices.DeleteFunc(slices.Clone(c.Past.Uses()), func(u graph.Use) bool {
				v := u.Node.Output(0)
				if d.opts.Caches != CachesPassthrough || !u.Node.Is("Identity") || v.Graph() != d.m.Graph || !v.IsOutput() {
					return false
				}
				through = v
				return true
			})
			if len(uses) > 0 {
				var s *graph.Value
				if _, only := modules.CacheShapeReaders(c.Past); !only && through == nil {
					return fmt.Errorf("module %s: %v still reads its cache %q", mod.ID, uses[0].Node, c.Past.Name)
				}
				if s = modules.SubstituteCache(c, surviving); s == nil {
					return fmt.Errorf("module %s: %v reads the shape of its cache %q and no cache of that layout is left; keep one more attention",
						mod.ID, uses[0].Node, c.Past.Name)
				}
				for _, u := range uses {
					u.Node.SetInput(u.Index, s)
				}
				d.j.Add(dropPass, c.Past.Name, "its shape is read from "+s.Name, "the cache of "+mod.ID+" leaves the model")
			}
			if d.opts.Caches == CachesPassthrough {
				continue
			}
			d.m.Graph.RemoveInput(c.Past)
			d.j.Add(dropPass, c.Past.Name, "removed input", "it was the cache of "+mod.ID)
		}
	}
	return nil
}

// slot is the kind of place that a cache has in the interface: caches of one
// kind are numbered through.
type slot struct {
	kind    modules.Kind
	role    string
	present bool
}

// eachCache calls f for the inputs and outputs of caches in the order of the
// modules.
func eachCache(list []modules.Module, f func(s slot, v *graph.Value)) {
	for _, mod := range list {
		for _, c := range mod.Caches {
			if c.Past != nil {
				f(slot{mod.Kind, c.Role, false}, c.Past)
			}
			if c.Present != nil {
				f(slot{mod.Kind, c.Role, true}, c.Present)
			}
		}
	}
}

// renumber gives the caches of the modules that are left the first of names,
// which were those of all.
func (d *dropper) renumber(names map[slot][]string, left []modules.Module) {
	g := d.m.Graph
	next := map[slot]int{}
	type rename struct {
		v    *graph.Value
		name string
	}
	var list []rename
	eachCache(left, func(s slot, v *graph.Value) {
		if name := names[s][next[s]]; name != v.Name {
			list = append(list, rename{v, name})
		}
		next[s]++
	})
	for i, r := range list {
		d.j.Add(dropPass, r.v.Name, "renamed "+r.name, "caches are numbered without gaps")
		r.v.Rename(g.FreshName(fmt.Sprintf("%s_%d", r.name, i))) // as its own may be another's next
	}
	for _, r := range list {
		r.v.Rename(r.name)
	}
}
