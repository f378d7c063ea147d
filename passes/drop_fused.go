package passes

import (
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// ONNX Runtime's optimizers put an Add of the residual stream and the norm
// behind it into one node,
//
//	norm, _, _, sum = SkipLayerNormalization(x, y, scale, shift, bias)
//	sum = x + y + bias
//
// and SkipSimplifiedLayerNormalization likewise for RMS norms, without a
// shift. So the node that joins a module holds what the next one begins with.
// Where y is dropped, its bias goes too and
//
//	norm = LayerNormalization(x, scale, shift)
//	sum  = x
//
// is left. Where x is itself the sum of such a node, whose own norm nothing
// reads any more, that node takes over scale, shift and ε: the model is what
// the optimizers would have made without the module.

const microsoft = "com.microsoft"

// fusedNorm is an operator that gives a sum and its norm.
type fusedNorm struct {
	op    string
	sum   int // output
	scale int // input; the shift is behind it
}

var fusedNorms = []fusedNorm{
	{"SkipLayerNormalization", 3, 2},
	{"SkipSimplifiedLayerNormalization", 3, 2},
	{"EmbedLayerNormalization", 2, 5}, // of the embeddings
}

func isSkipNorm(n *graph.Node) bool {
	return n.Domain == microsoft && (n.Op == "SkipLayerNormalization" || n.Op == "SkipSimplifiedLayerNormalization")
}

// unfuse takes the branch that comes in at join out of a fused Add and norm;
// its mean update, if there is one, is added in its place.
func (d *dropper) unfuse(mod modules.Module, join graph.Use, mean []float64) {
	n := join.Node
	g := n.Graph()
	x := n.Input(1 - join.Index)
	if mean != nil {
		x = g.InsertBefore(n, "", "Add", g.FreshNodeName(mod.ID+"_mean"),
			[]*graph.Value{x, d.constant(mod, mean)}, []string{g.FreshName(mod.ID + "_mean_update")}).Output(0)
	}
	// ONNX Runtime has both norms in the default domain for every opset.
	op, inputs := "SimplifiedLayerNormalization", []*graph.Value{x, n.Input(2)}
	if n.Op == "SkipLayerNormalization" {
		op = "LayerNormalization"
		if shift := n.Input(3); shift != nil {
			inputs = append(inputs, shift)
		}
	}
	out := n.Output(0)
	alone := g.InsertBefore(n, "", op, g.FreshNodeName(mod.ID+"_norm"), inputs, []string{g.FreshName(out.Name + "_alone")},
		graph.IntAttr("axis", -1), graph.FloatAttr("epsilon", n.Float("epsilon", modules.SkipEpsilon)))
	d.alone = append(d.alone, alone)
	d.replace(out, alone.Output(0))
	if sum := n.Output(3); sum != nil {
		d.replace(sum, x)
	}
	g.Remove(n)
}

// fuse puts the norms that lost their Add into the node before them, where
// that gives the sum and its own norm is not needed any more.
func (d *dropper) fuse() bool {
	done := false
	for _, n := range d.alone {
		if n.Graph() == nil {
			continue // nothing needed it
		}
		sum := n.Input(0)
		s := sum.Def()
		if s == nil || s.Graph() != n.Graph() || (s.Op != "SkipSimplifiedLayerNormalization") != n.Is("LayerNormalization") {
			continue
		}
		at := slices.IndexFunc(fusedNorms, func(f fusedNorm) bool { return s.Domain == microsoft && s.Op == f.op && s.Output(f.sum) == sum })
		if at < 0 {
			continue
		}
		f := fusedNorms[at]
		own := s.Output(0)
		if own == nil || len(own.Uses()) > 0 || own.IsOutput() || !isInitializer(n.Input(1)) || !isInitializer(n.Input(2)) {
			continue
		}
		g := n.Graph()
		s.SetInput(f.scale, n.Input(1))
		if n.Is("LayerNormalization") {
			s.SetInput(f.scale+1, n.Input(2))
		}
		s.SetAttr(n.Attr("epsilon"))
		n.Output(0).ReplaceUses(own)
		g.ReplaceOutput(n.Output(0), own)
		g.Remove(n)
		if len(sum.Uses()) == 0 && !sum.IsOutput() {
			s.DropOutput(f.sum)
		}
		done = true
	}
	return done
}

// isInitializer reports whether v is left out or there before every node.
func isInitializer(v *graph.Value) bool { return v == nil || v.Def() == nil }
