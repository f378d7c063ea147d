package passes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// Norm says what a drop does with the norm that follows a module in a post-LN
// model.
type Norm string

const (
	NormGone Norm = "gone" // the norm goes with its module
	NormKept Norm = "kept" // the stream still passes through it
)

// Recover says what takes the place of a dropped module.
type Recover string

const (
	RecoverNone Recover = "none"
	RecoverMean Recover = "mean" // its mean update, one Add of a constant
)

// DropOptions says how modules are dropped.
type DropOptions struct {
	Norm    Norm    // "" means NormGone
	Recover Recover // "" means RecoverNone
	// Means gives the mean update E[f(X)] of a module and, for a post-LN
	// module, E[LN(X + f(X)) − X]; needed for RecoverMean. A Ledger's
	// MeanUpdate is one.
	Means func(id string) (branch, unit []float64, ok bool)
}

// DropModules removes the modules of these ids: their branch no longer joins
// the residual stream,
//
//	pre-LN                X + f(X)      →  X
//	post-LN, norm gone    LN(X + f(X))  →  X
//	post-LN, norm kept    LN(X + f(X))  →  LN(X)
//
// with E[f(X)] (E[LN(X + f(X)) − X] where the norm is gone) added under
// RecoverMean. The cache inputs and outputs of a dropped attention leave the
// model's interface, and what read the shape of such an input reads a
// surviving cache of the same layout instead. Everything that no output needs
// after that is removed. The ids of the modules that are left stay what they
// were: metadata "lathe.history" keeps them.
func DropModules(ids []string, opts DropOptions) Pass {
	const name = "drop-modules"
	return Pass{
		Name:     name,
		Doc:      "take attention and MLP modules off the residual stream",
		Contract: Lossy,
		Run: func(_ context.Context, m *graph.Model, j *Journal) error {
			if len(ids) == 0 {
				return nil
			}
			return dropModules(name, m, j, ids, opts)
		},
	}
}

func dropModules(pass string, m *graph.Model, j *Journal, ids []string, opts DropOptions) error {
	all, err := modules.Find(m)
	if err != nil {
		return err
	}
	history, err := modules.ReadHistory(m)
	if err != nil {
		return err
	}
	if history.Original == "" {
		history.Original = m.Fingerprint()
	}
	if opts.Norm == "" {
		opts.Norm = NormGone
	}
	d := dropper{m: m, j: j, pass: pass, opts: opts, stands: map[*graph.Value]*graph.Value{}}
	history.Modules = nil
	var gone []modules.Module
	for _, mod := range all {
		if mod.Kind == modules.Other {
			continue
		}
		if !slices.Contains(ids, mod.ID) {
			history.Modules = append(history.Modules, mod.ID)
			continue
		}
		if !mod.Droppable {
			return fmt.Errorf("module %s cannot be dropped: %s", mod.ID, mod.Reason)
		}
		if err := d.unlink(mod); err != nil {
			return fmt.Errorf("module %s: %w", mod.ID, err)
		}
		history.Dropped = append(history.Dropped, modules.Drop{ID: mod.ID, Norm: string(opts.Norm), Recover: string(opts.Recover)})
		gone = append(gone, mod)
	}
	if len(gone) != len(ids) {
		var have []string
		for _, mod := range all {
			have = append(have, mod.ID)
		}
		for _, id := range ids {
			if !slices.ContainsFunc(gone, func(g modules.Module) bool { return g.ID == id }) {
				return fmt.Errorf("no module %q; the model has %s", id, strings.Join(have, " "))
			}
		}
		return errors.New("a module is named twice")
	}
	d.unlinkOutputs(gone)
	dead := &Journal{}
	eliminateDead(m, dead)
	if err := d.unlinkInputs(gone, all); err != nil {
		return err
	}
	eliminateDead(m, dead)
	j.Add(pass, "", fmt.Sprintf("removed %d nodes, initializers and inputs", len(dead.Entries)), "nothing needs them after the drop")
	return modules.WriteHistory(m, history)
}

type dropper struct {
	m    *graph.Model
	j    *Journal
	pass string
	opts DropOptions
	// stands maps a value that was taken off the stream to what carries the
	// stream in its place.
	stands map[*graph.Value]*graph.Value
}

// now returns what carries the stream where v did.
func (d *dropper) now(v *graph.Value) *graph.Value {
	for d.stands[v] != nil {
		v = d.stands[v]
	}
	return v
}

// replace makes every reader of old read with, graph outputs included.
func (d *dropper) replace(old, with *graph.Value) {
	g := old.Graph()
	old.ReplaceUses(with)
	if slices.Contains(g.Outputs(), old) {
		g.ReplaceOutput(old, with)
	}
	d.stands[old] = with
}

// unlink takes one module off the stream.
func (d *dropper) unlink(mod modules.Module) error {
	node, at := d.join(mod)
	if node == nil || !node.Is("Add", "Sum") || len(node.Inputs()) != 2 {
		return fmt.Errorf("its branch %q joins the stream through %v, which this version cannot take apart", mod.Branch.Name, node)
	}
	mean := d.opts.Recover == RecoverMean
	var branch, unit []float64
	if mean {
		var ok bool
		if d.opts.Means == nil {
			return errors.New("no mean updates are known; give data or a ledger scored with means")
		}
		if branch, unit, ok = d.opts.Means(mod.ID); !ok {
			return errors.New("the ledger has no mean update of it; score again with means")
		}
	}
	stream := d.now(mod.Stream)
	g := node.Graph()
	switch {
	case mod.Norm != nil && d.opts.Norm == NormGone:
		if mean {
			if unit == nil {
				return errors.New("the ledger has no mean update over its norm; score again with means")
			}
			c, err := d.constant(g, mod, unit)
			if err != nil {
				return err
			}
			// The Add stands where the norm's last node stood, so that the
			// order stays topological.
			add := g.InsertBefore(mod.Norm.Out.Def(), "", "Add", g.FreshNodeName(mod.ID+"_mean"),
				[]*graph.Value{stream, c}, []string{g.FreshName(mod.ID + "_mean_update")})
			stream = add.Output(0)
		}
		d.replace(mod.Norm.Out, stream)
		d.j.Add(d.pass, mod.ID, "dropped with its norm", d.why(mod))
	case mean:
		c, err := d.constant(g, mod, branch)
		if err != nil {
			return err
		}
		node.SetInput(at, c)
		d.j.Add(d.pass, mod.ID, "replaced by its mean update", d.why(mod))
	default:
		d.replace(node.Output(0), d.now(node.Input(1-at)))
		what := "dropped"
		if mod.Norm != nil {
			what = "dropped, its norm kept"
		}
		d.j.Add(d.pass, mod.ID, what, d.why(mod))
	}
	return nil
}

// join is where the module's branch enters the stream by now: with parallel
// branches the Add it entered first may have given way to the branch when the
// other one was dropped.
func (d *dropper) join(mod modules.Module) (*graph.Node, int) {
	node, at := mod.Join.Node, mod.Join.Index
	for d.stands[node.Output(0)] == mod.Branch {
		i := slices.IndexFunc(mod.Branch.Uses(), func(u graph.Use) bool { return u.Node != node && u.Node.Is("Add", "Sum") })
		if i < 0 {
			return nil, 0
		}
		node, at = mod.Branch.Uses()[i].Node, mod.Branch.Uses()[i].Index
	}
	return node, at
}

func (d *dropper) why(mod modules.Module) string {
	return fmt.Sprintf("%s of layer %d was selected", mod.Kind, mod.Layer)
}

// constant adds an initializer of a mean update.
func (d *dropper) constant(g *graph.Graph, mod modules.Module, v []float64) (*graph.Value, error) {
	if t := mod.Stream.Type(); t != nil && t.Elem != graph.Float32 && t.Elem != graph.Undefined {
		return nil, fmt.Errorf("the stream is %v; mean updates are for float models", t.Elem)
	}
	f := make([]float32, len(v))
	for i, x := range v {
		f[i] = float32(x)
	}
	return g.AddInitializer(g.FreshName(mod.ID+"_mean"), graph.Float32Tensor([]int64{int64(len(f))}, f)), nil
}

// unlinkOutputs takes the caches that dropped attentions wrote out of the
// outputs.
func (d *dropper) unlinkOutputs(gone []modules.Module) {
	g := d.m.Graph
	for _, mod := range gone {
		for _, c := range mod.Caches {
			for i := len(g.Outputs()) - 1; i >= 0; i-- {
				if c.Present != nil && g.Outputs()[i] == c.Present {
					g.RemoveOutput(i)
					d.j.Add(d.pass, c.Present.Name, "removed output", "it was the cache of "+mod.ID)
				}
			}
		}
	}
}

// unlinkInputs takes the caches that dropped attentions read out of the
// inputs. What is left to read such an input reads its shape; it gets a
// surviving cache of the same layout.
func (d *dropper) unlinkInputs(gone, all []modules.Module) error {
	g := d.m.Graph
	var surviving []modules.Cache
	for _, mod := range all {
		if !slices.ContainsFunc(gone, func(x modules.Module) bool { return x.ID == mod.ID }) {
			surviving = append(surviving, mod.Caches...)
		}
	}
	for _, mod := range gone {
		for _, c := range mod.Caches {
			if c.Past == nil || !c.Past.IsInput() {
				continue
			}
			if len(c.Past.Uses()) > 0 {
				readers, only := modules.CacheShapeReaders(c.Past)
				if !only {
					return fmt.Errorf("module %s: %v still reads its cache %q", mod.ID, c.Past.Uses()[0].Node, c.Past.Name)
				}
				s := modules.SubstituteCache(c, surviving)
				if s == nil {
					return fmt.Errorf("module %s: %v reads the shape of its cache %q and no cache of that layout is left; keep one more attention",
						mod.ID, readers[0], c.Past.Name)
				}
				c.Past.ReplaceUses(s)
				d.j.Add(d.pass, c.Past.Name, "its shape is read from "+s.Name, "the cache of "+mod.ID+" leaves the model")
			}
			g.RemoveInput(c.Past)
			d.j.Add(d.pass, c.Past.Name, "removed input", "it was the cache of "+mod.ID)
		}
	}
	return nil
}
