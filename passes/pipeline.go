// Package passes is what changes a model. A [Pass] is a value: its name, what it
// promises about the outputs, and one function that edits the model in place
// and writes into a [Journal] what it changed and why. [Run] checks the model
// before and after every pass.
//
// Most programs need [Select] and [DropModules], or [RewriteCirculant], or
// [QuantizeInt16], and [EliminateDeadCode] behind the last two. [Allocate] searches
// for what to drop and rewrite in a budget. Package optimize does all of it in one
// call. Data comes from package calib.
package passes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// Contract is what a pass promises about the outputs of the model. It is there to be
// read; tests hold the passes of this package to it.
type Contract int

const (
	// Exact passes leave every bit of every output as it was.
	Exact Contract = iota
	// Rounding passes compute the same function in another order.
	Rounding
	// Lossy passes compute another function; how far off is for data to say.
	Lossy
)

// String returns "exact", "rounding" or "lossy".
func (c Contract) String() string {
	return [...]string{"exact", "rounding", "lossy"}[c]
}

// Pass is one change to a model. When Run fails the model may be half edited
// and must not be used.
type Pass struct {
	Name     string   // imperative, as in "drop-modules"
	Doc      string   // one line
	Contract Contract // about the outputs
	Run      func(ctx context.Context, m *graph.Model, j *Journal) error
}

// Journal is what passes did, in order.
type Journal struct {
	Entries []Entry `json:"entries"`
}

// Entry is one change.
type Entry struct {
	Pass string `json:"pass"`
	Node string `json:"node,omitempty"` // the node, value or module concerned
	What string `json:"what"`
	Why  string `json:"why"`
}

// Add records a change.
func (j *Journal) Add(pass, node, what, why string) {
	j.Entries = append(j.Entries, Entry{pass, node, what, why})
}

// By returns the entries of one pass.
func (j *Journal) By(pass string) []Entry {
	var out []Entry
	for _, e := range j.Entries {
		if e.Pass == pass {
			out = append(out, e)
		}
	}
	return out
}

// order is the law of the sequence: where both passes run, the first comes
// before the second.
var order = []struct{ first, second, why string }{
	{"drop-modules", "rewrite-circulant", "a weight that is about to go needs no fit, and moments in a ledger are those of the original"},
	{"drop-modules", "eliminate-dead-code", "what a drop leaves without readers is dead too"},
	{"drop-modules", "quantize-int16", "a weight that is about to go needs no ranges"},
	{"rewrite-circulant", "quantize-int16", "blocks are fitted in floating point, and their spectra quantised"},
	{"fold-constants", "quantize-int16", "weights that are computed become constants that can be quantised"},
	{"quantize-int16", "eliminate-dead-code", "float weights go when their last reader is quantised"},
	{"rewrite-circulant", "eliminate-dead-code", "the dense weight goes when its last reader is rewritten"},
	{"fold-constants", "eliminate-dead-code", "folding leaves the folded nodes without readers"},
	{"inline-functions", "eliminate-dead-code", "bodies compute shapes that nothing needs once they are known"},
}

// Run runs passes over m in turn, checking the invariants of [graph.Check]
// before the first and after each, and ctx before each. What passes do is added to
// j; nil drops it. It fails before anything is done where passes that depend on each
// other are in the wrong order, saying why; else with the name of the pass, and m may
// be half edited then: keep a clone of what is still needed.
func Run(ctx context.Context, m *graph.Model, j *Journal, list ...Pass) error {
	if j == nil {
		j = new(Journal)
	}
	at := func(name string) int {
		return slices.IndexFunc(list, func(p Pass) bool { return p.Name == name })
	}
	for _, o := range order {
		if f, s := at(o.first), at(o.second); f >= 0 && s >= 0 && f > s {
			return fmt.Errorf("passes: %s must come before %s: %s", o.first, o.second, o.why)
		}
	}
	if err := graph.Check(m); err != nil {
		return fmt.Errorf("model before the first pass: %w", err)
	}
	for _, p := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		before := len(j.Entries)
		if err := p.Run(ctx, m, j); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if err := graph.Check(m); err != nil {
			return fmt.Errorf("%s broke the model: %w", p.Name, err)
		}
		slog.Debug("pass", "name", p.Name, "contract", p.Contract, "changes", len(j.Entries)-before)
	}
	return nil
}

// allowInitializers raises the version of a model's format to 4 where it is
// older: before that every initializer had to be a graph input too.
func allowInitializers(m *graph.Model, j *Journal, pass string) {
	if m.IRVersion < 4 {
		j.Add(pass, "", fmt.Sprintf("ir_version %d → 4", m.IRVersion), "an initializer need not be a graph input from 4 on")
		m.IRVersion = 4
	}
}
