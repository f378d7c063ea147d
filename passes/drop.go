package passes

import (
	"cmp"
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
	// Norm is for post-LN models; "" means NormKept under RecoverMean, where
	// something is left for the norm to act on, and NormGone otherwise.
	Norm    Norm
	Recover Recover // "" means RecoverNone
	Caches  Caches  // "" means CachesRemove
	// Means gives the mean update E[f(X)] of a module and, for a post-LN
	// module, E[LN(X + f(X)) − X]; needed for RecoverMean. A Ledger's
	// MeanUpdate is one.
	Means func(id string) (branch, unit []float64, ok bool)
}

// norm is what Norm means.
func (o DropOptions) norm() Norm {
	switch {
	case o.Norm != "":
		return o.Norm
	case o.Recover == RecoverMean:
		return NormKept
	}
	return NormGone
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
// model's interface, unless opts.Caches says otherwise, and what read the
// shape of such an input reads a surviving cache of the same layout instead.
// Everything that no output needs after that is removed. The ids of the modules that
// are left stay what they were: metadata "lathe.history" keeps them. It fails where a
// module is not there or is not Droppable.
func DropModules(ids []string, opts DropOptions) Pass {
	return Pass{
		Name:     dropPass,
		Doc:      "take attention and MLP modules off the residual stream",
		Contract: Lossy,
		Run: func(_ context.Context, m *graph.Model, j *Journal) error {
			return dropModules(m, j, ids, opts)
		},
	}
}

const dropPass = "drop-modules"

func dropModules(m *graph.Model, j *Journal, ids []string, opts DropOptions) error {
	if len(ids) == 0 {
		return nil
	}
	opts.Norm, opts.Recover, opts.Caches = opts.norm(), cmp.Or(opts.Recover, RecoverNone), cmp.Or(opts.Caches, CachesRemove)
	if opts.Norm != NormGone && opts.Norm != NormKept || opts.Recover != RecoverNone && opts.Recover != RecoverMean {
		return fmt.Errorf("no norm %q or recovery %q; there are %s and %s, %s and %s", opts.Norm, opts.Recover,
			NormGone, NormKept, RecoverNone, RecoverMean)
	}
	if !slices.Contains([]Caches{CachesRemove, CachesRenumber, CachesPassthrough}, opts.Caches) {
		return fmt.Errorf("nothing called %q is done with caches; there are %s, %s and %s", opts.Caches, CachesRemove, CachesRenumber, CachesPassthrough)
	}
	if opts.Recover == RecoverMean {
		_ = graph.Infer(m) // tells how wide the stream is; what contradicts itself stays unknown
	}
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
	history.Modules = nil
	var gone, left []modules.Module
	for again := true; again; {
		gone, left, again = nil, nil, false
		for _, mod := range all {
			if !slices.Contains(ids, mod.ID) {
				left = append(left, mod)
				continue
			}
			if !mod.Droppable {
				return fmt.Errorf("module %s cannot be dropped: %s", mod.ID, mod.Reason)
			}
			gone = append(gone, mod)
		}
		if again, err = inlineCalls(m, j, gone); err != nil {
			return err
		}
		if again { // the modules are where the calls were
			if all, err = modules.Find(m); err != nil {
				return err
			}
		}
	}
	for i, id := range ids {
		if !slices.ContainsFunc(gone, func(mod modules.Module) bool { return mod.ID == id }) {
			var have []string
			for _, mod := range all {
				have = append(have, mod.ID)
			}
			return fmt.Errorf("no module %q; the model has %s", id, strings.Join(have, " "))
		}
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("module %q is named twice", id)
		}
	}
	names := map[slot][]string{}
	eachCache(all, func(s slot, v *graph.Value) { names[s] = append(names[s], v.Name) })
	d := dropper{m: m, j: j, opts: opts, stands: map[*graph.Value]*graph.Value{}, moved: map[*graph.Node]graph.Use{}}
	for _, mod := range gone {
		for x := &mod; x != nil; x = x.Twin {
			if err := d.unlink(*x); err != nil {
				return fmt.Errorf("module %s: %w", mod.ID, err)
			}
		}
		drop := modules.Drop{ID: mod.ID, Kind: mod.Kind}
		if mod.Norm != nil {
			drop.Norm = string(opts.Norm)
		}
		if opts.Recover != RecoverNone {
			drop.Recover = string(opts.Recover)
		}
		history.Dropped = append(history.Dropped, drop)
	}
	if err := d.unlinkOutputs(gone); err != nil {
		return err
	}
	dead := &Journal{}
	eliminateDead(m, dead)
	if d.fuse() {
		eliminateDead(m, dead)
	}
	if err := d.unlinkInputs(gone, left); err != nil {
		return err
	}
	eliminateDead(m, dead)
	if opts.Caches == CachesRenumber {
		d.renumber(names, left)
	}
	for _, mod := range left {
		if mod.Branch.Def() == nil {
			// Without cross-attention nothing reads the encoder.
			j.Add(dropPass, mod.ID, "removed", "nothing needs it after the drop")
			continue
		}
		history.Modules = append(history.Modules, mod.ID)
	}
	if n := len(dead.Entries); n > 0 {
		j.Add(dropPass, "", fmt.Sprintf("removed %d nodes, initializers and inputs", n), "nothing needs them after the drop")
	}
	return modules.WriteHistory(m, history)
}

// inlineCalls puts the bodies of local functions in the place of the calls
// that keep one of these modules; other calls of the same functions stay. It
// reports whether there were any.
func inlineCalls(m *graph.Model, j *Journal, list []modules.Module) (done bool, err error) {
	for _, mod := range list {
		for x := &mod; x != nil; x = x.Twin {
			if x.Call == nil {
				continue
			}
			done = true
			if x.Call.Graph() == nil {
				continue // another module's call, gone already
			}
			call := x.Call.String()
			if err := modules.Inline(m, x.Call); err != nil {
				return false, fmt.Errorf("module %s: %w", mod.ID, err)
			}
			j.Add(dropPass, call, "inlined", mod.ID+" lies inside")
		}
	}
	return done, nil
}

type dropper struct {
	m    *graph.Model
	j    *Journal
	opts DropOptions
	// stands maps a value that was taken off the stream to what carries the
	// stream in its place.
	stands map[*graph.Value]*graph.Value
	// moved maps an Add that gave way to one of its branches to where that
	// branch goes in now.
	moved map[*graph.Node]graph.Use
	// alone holds the norms whose Add went with a branch.
	alone []*graph.Node
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
	old.ReplaceUses(with)
	old.Graph().ReplaceOutput(old, with)
	d.stands[old] = with
}

// unlink takes one module off the stream.
func (d *dropper) unlink(mod modules.Module) error {
	join := mod.Join
	for d.moved[join.Node].Node != nil {
		join = d.moved[join.Node]
	}
	add := join.Node
	skip := isSkipNorm(add)
	if !skip && (!add.Is("Add", "Sum") || len(add.Inputs()) != 2) {
		return fmt.Errorf("its branch %q joins the stream through %v, which this version cannot take apart", mod.Branch.Name, add)
	}
	normGone := mod.Norm != nil && d.opts.Norm == NormGone
	var mean []float64
	if d.opts.Recover == RecoverMean {
		var err error
		if mean, err = d.mean(mod, normGone); err != nil {
			return err
		}
	}
	g := add.Graph()
	why := fmt.Sprintf("%s of layer %d was selected", mod.Kind, mod.Layer)
	switch {
	case normGone:
		stream := d.now(mod.Stream)
		if mean != nil {
			// The Add stands where the norm's last node stood, so that the
			// order stays topological.
			stream = g.InsertBefore(mod.Norm.Out.Def(), "", "Add", g.FreshNodeName(mod.ID+"_mean"),
				[]*graph.Value{stream, d.constant(mod, mean)}, []string{g.FreshName(mod.ID + "_mean_update")}).Output(0)
		}
		d.replace(mod.Norm.Out, stream)
		d.j.Add(dropPass, mod.ID, "dropped with its norm", why)
	case skip:
		d.unfuse(mod, join, mean)
		what := "dropped"
		switch {
		case mean != nil:
			what = "replaced by its mean update"
		case mod.Norm != nil:
			what = "dropped, its norm kept"
		}
		d.j.Add(dropPass, mod.ID, what, why)
	case mean != nil:
		add.SetInput(join.Index, d.constant(mod, mean))
		d.j.Add(dropPass, mod.ID, "replaced by its mean update", why)
	default:
		sum := add.Output(0)
		for v := sum; len(v.Uses()) == 1 && !v.IsOutput(); v = v.Uses()[0].Node.Output(0) {
			if d.moved[add] = v.Uses()[0]; !d.moved[add].Node.Is("Identity", "Cast", "Dropout") {
				break
			}
		}
		d.replace(sum, add.Input(1-join.Index))
		g.Remove(add)
		what := "dropped"
		if mod.Norm != nil {
			what = "dropped, its norm kept"
		}
		d.j.Add(dropPass, mod.ID, what, why)
	}
	return nil
}

// mean is the update that takes the place of a module: E[f(X)], or over the
// norm E[LN(X + f(X)) − X].
func (d *dropper) mean(mod modules.Module, overNorm bool) ([]float64, error) {
	if d.opts.Means == nil {
		return nil, errors.New("no mean updates are known; give data or a ledger scored with means")
	}
	branch, unit, ok := d.opts.Means(mod.ID)
	v := branch
	if overNorm {
		v = unit
	}
	if !ok || v == nil {
		return nil, errors.New("the ledger has no mean update of it; score again with means")
	}
	if t := mod.Stream.Type(); t != nil {
		if t.Elem != graph.Float32 && t.Elem != graph.Undefined {
			return nil, fmt.Errorf("the stream is %v; mean updates are for float models", t.Elem)
		}
		if n := t.Rank(); n > 0 && t.Shape.Dims[n-1].IsKnown() && t.Shape.Dims[n-1].N != int64(len(v)) {
			return nil, fmt.Errorf("its mean update has %d features, the stream %v; score this model", len(v), t.Shape.Dims[n-1])
		}
	}
	return v, nil
}

// constant adds an initializer of a mean update.
func (d *dropper) constant(mod modules.Module, v []float64) *graph.Value {
	allowInitializers(d.m, d.j, dropPass)
	g := d.m.Graph // branches of an If read it there
	f := make([]float32, len(v))
	for i, x := range v {
		f[i] = float32(x)
	}
	return g.AddInitializer(g.FreshName(mod.ID+"_mean"), graph.Float32Tensor([]int64{int64(len(f))}, f))
}
