// Package modules finds the residual modules of a transformer: the branches
// f(X) that an Add joins to a residual stream X, such as attentions and MLPs.
// They are found by the flow of data, never by name. [Find] lists them, each a
// [Module]; [CostOf] tells what a run costs, [ReadHistory] what was done to a model.
//
// # How
//
//  1. The main graph is looked at through a view (view.go): local functions
//     in place of their calls, Identity, Dropout and casts between
//     floating-point types left out, ONNX Runtime's fused Add and norm in two
//     nodes, one branch in place of an If whose branches both hold layers. The
//     model stays as it is. Such Ifs are looked at twice, and the modules of
//     their branches paired (merged.go).
//  2. Adds are gathered into sums of addends that are not constant; an Add
//     that only feeds another Add belongs to its sum (parallel branches), one
//     of an activation and a constant is a bias and ends a branch.
//  3. An addend s is a residual stream, and the Add m a merge, if m is the
//     immediate post-dominator of s (dominate.go) and another addend f comes
//     from s. That s is an ancestor of f is not enough: an attention mask that
//     layers share is an ancestor of the scores it is added to from the second
//     layer on, and x of 0.044715·x³ in a GELU by tanh. Nodes that read dims
//     (Shape, Size) read no data; outputs beside the main one do not hide a
//     merge.
//  4. The body is the nodes on the ways from s to f. What it reads from
//     elsewhere may be anything (masks, rotary tables, encoder states, caches).
//     What others read from it may be dims, a present of the cache, or what
//     only parallel branches need; else the module is declined. A branch that
//     holds other modules is one of kind Other.
//  5. By its body a branch is an attention (classify.go: a Softmax between two
//     products of activations, or a fused operator; a cross-attention if its
//     values do not come from s), an MLP (linear layers over the last axis, and
//     nothing that could mix tokens), or Other.
//  6. In a post-LN model the sum goes through a norm (norm.go) before it is
//     the stream again; that norm is part of the finding.
//
// Every step is linear in the size of the graph but for a logarithm in 3, or
// is counted and given up with an error when the graph is so tangled that it
// is not.
//
// # Sources
//
// Dropping whole attentions and MLPs by the similarity of what goes in and
// out: He, Sun, Shen, Li, "What Matters in Transformers? Not All Attention is
// Needed" (2024). Post-dominators: Prosser, "Applications of Boolean matrices
// to the analysis of flow diagrams" (1959), and the papers in dominate.go. The
// idioms of norms, caches and fused operators are those of the exporters of
// PyTorch, TensorFlow and Hugging Face and of ONNX Runtime's optimizers, as
// their models show them.
package modules

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// Kind is what a module does.
type Kind string

const (
	Attention      Kind = "attention"       // mixes tokens of the stream
	CrossAttention Kind = "cross-attention" // takes in tokens of another stream
	MLP            Kind = "mlp"             // acts on every token alone, with linear layers
	Other          Kind = "other"           // anything else; never dropped
)

// letter of the kind in a module's id; the order is that within a layer.
var letters = []struct {
	kind   Kind
	letter string
}{{Attention, "A"}, {CrossAttention, "X"}, {MLP, "M"}, {Other, "O"}}

func (k Kind) rank() int {
	for i, l := range letters {
		if l.kind == k {
			return i
		}
	}
	return len(letters)
}

// Module is a residual branch, Y = X + f(X), of the main graph. Its values and nodes
// are those of the model that was looked at.
type Module struct {
	ID    string // A0, M0, A1, …: kind and layer; X for cross-attention, O (numbered on its own) for other
	Kind  Kind
	Layer int

	// Stream is X, the residual value that the branch starts from and is
	// added to.
	Stream *graph.Value
	// Branch is f(X), the addend that a drop takes away; Join is where it
	// goes in: an input of Merge, or with parallel branches perhaps of an
	// Add that only feeds Merge. To drop the module, what reads the result
	// of Join.Node reads its other input instead; a fused Add and norm becomes
	// the norm of its other input.
	Branch *graph.Value
	Join   graph.Use
	// Merge is the node that joins, Sum its result: Y = X + f(X). It is an Add,
	// or ONNX Runtime's fused Add and norm; Sum is nil where that keeps it to
	// itself.
	Merge *graph.Node
	Sum   *graph.Value
	// Parallel says that Merge sums up more than Stream and Branch, other
	// branches from the same Stream for one; Y of this module alone is
	// Stream + Branch then, and not Sum.
	Parallel bool
	// Norm is the norm behind the sum in a post-LN model, through which the
	// stream goes on; nil for pre-LN.
	Norm *Norm

	// Call is a call of a local function that keeps Stream, Join or Norm
	// inside, nil where they all lie in a graph. To change the module, its
	// calls are inlined first.
	Call *graph.Node
	// Twin is the same module in the other branch of an If, nil if there is
	// none: the merged decoders of exporters have a branch that starts a cache,
	// which the module itself is of, and one that reads it. What is done to
	// one has to be done to both. Caches is that of both.
	Twin *Module

	// Body holds the nodes on the ways from Stream to Branch, in order.
	// Identity, Cast and Dropout are looked through and not listed. Weights
	// holds the nodes that multiply by constant weights (MatMul, Gemm and
	// their kin), in the body and in what is computed for it alone: the keys
	// and values of a cross-attention.
	Body, Weights []*graph.Node
	// Caches is the key-value cache of an attention.
	Caches []Cache

	// Droppable says that dropping takes the whole module away and changes
	// nothing else; if not, Reason says why.
	Droppable bool
	Reason    string

	// Params counts the elements of the constants that the nodes of Body and
	// Weights compute with: weights, biases and norm scales.
	Params int64
	// FLOPs is the work for one token, two for a multiply-add, of the linear
	// layers; it leaves out the products of activations in an attention,
	// whose work grows with the sequence (see Cost).
	FLOPs int64
}

// Observable reports whether Stream, Branch, Sum and the output of Norm are
// values of the main graph, so that a run can be watched there: those of a
// local function or of a branch of an If are not, nor is a sum that a fused
// operator keeps to itself. In what Unfold returns they are.
func (m *Module) Observable() bool {
	list := []*graph.Value{m.Stream, m.Branch, m.Sum}
	if m.Norm != nil {
		list = append(list, m.Norm.Out)
	}
	for _, v := range list {
		if v == nil || v.Graph().Function() != nil || v.Graph().Holder() != nil {
			return false
		}
	}
	return true
}

// Analysis is all that is found in a model.
type Analysis struct {
	Modules []Module // as Find lists them
	// Notes says what was not looked at, such as the bodies of If nodes.
	Notes []string
}

// Find returns the modules of m's main graph in the order of their merges; m
// stays as it is. It tells more where graph.Infer was run before. It fails on
// a graph with a cycle, on one too tangled to be analysed, and on a history
// that cannot be read.
func Find(m *graph.Model) ([]Module, error) {
	a, err := Analyze(m)
	if err != nil {
		return nil, err
	}
	return a.Modules, nil
}

// FLOPs sums Module.FLOPs over the modules of m: the work for one token. It fails
// where [Find] does.
func FLOPs(m *graph.Model) (int64, error) {
	list, err := Find(m)
	var sum int64
	for _, mod := range list {
		sum += mod.FLOPs
	}
	return sum, err
}

// Analyze is [Find] with notes on what was left out.
func Analyze(m *graph.Model) (*Analysis, error) {
	a, _, err := analyze(m)
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	return a, nil
}

// analyze also returns the finder that the modules come from.
func analyze(m *graph.Model) (*Analysis, *finder, error) {
	h, err := ReadHistory(m)
	if err != nil {
		return nil, nil, err
	}
	f, err := findIn(m, thenTaken)
	if err != nil {
		return nil, nil, err
	}
	if len(f.ifs) > 0 {
		if f, err = f.merge(m); err != nil {
			return nil, nil, err
		}
	}
	f.number(h)
	a := &Analysis{Notes: f.notes}
	for _, b := range f.found {
		if t := b.Twin; t != nil {
			t.ID, t.Layer = b.ID, b.Layer
		}
		a.Modules = append(a.Modules, b.Module)
	}
	return a, f, nil
}

// findIn finds the modules of m with one branch in the place of its Ifs.
func findIn(m *graph.Model, t taken) (*finder, error) {
	v, err := newView(m, t)
	if err != nil {
		return nil, err
	}
	f := &finder{view: v}
	return f, f.find()
}

// number gives layers and ids. A layer is a run of modules in the order
// attention, cross-attention, MLP, each at most once.
func (f *finder) number(h *History) {
	layer, others, highest := 0, 0, -1
	for k := range f.found {
		m := &f.found[k]
		if m.Kind == Other {
			m.Layer, m.ID = layer, "O"+strconv.Itoa(others)
			others++
			continue
		}
		if m.Kind.rank() <= highest {
			layer++
		}
		highest = m.Kind.rank()
		m.Layer, m.ID = layer, letters[highest].letter+strconv.Itoa(layer)
	}
	if len(h.Modules) == 0 {
		return
	}
	layers, n := make([]int, len(f.found)), 0
	taken := map[string]bool{}
	for k := range f.found {
		m := &f.found[k]
		if m.Kind == Other {
			continue
		}
		ok := n < len(h.Modules) && strings.HasPrefix(h.Modules[n], letters[m.Kind.rank()].letter)
		if ok {
			l, err := strconv.Atoi(h.Modules[n][1:])
			layers[k], ok = l, err == nil && l >= 0 && !taken[h.Modules[n]]
			taken[h.Modules[n]] = true
		}
		if !ok {
			n = -1
			break
		}
		n++
	}
	if n != len(h.Modules) {
		f.notes = append(f.notes, fmt.Sprintf("the history tells of the modules %v, the graph has others; ids are counted anew", h.Modules))
		return
	}
	n = 0
	for k := range f.found {
		if m := &f.found[k]; m.Kind != Other {
			m.ID, m.Layer = h.Modules[n], layers[k]
			n++
		}
	}
}
