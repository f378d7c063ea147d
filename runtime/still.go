package runtime

import "slices"

// A value is still if the shapes of the inputs of the program decide it, not
// their elements: the numbers that exporters compute shapes from, positions,
// causal masks. A session computes still values once and keeps those that the
// other steps read for the next runs of the same shapes.

// formOps are the operators whose outputs have shapes that those of the inputs
// decide, but for the inputs listed, whose elements count.
var formOps = map[string][]int{
	"Reshape": {1}, "Expand": {1}, "Slice": {1, 2, 3, 4}, "Squeeze": {1}, "Unsqueeze": {1}, "Tile": {1}, "Split": {1}, "Pad": {1, 3},
	"ReduceMean": {1}, "ReduceSum": {1}, "ReduceMax": {1}, "ReduceMin": {1}, "ReduceProd": {1}, "ReduceL2": {1},

	"Abs": nil, "Add": nil, "And": nil, "ArgMax": nil, "ArgMin": nil, "Cast": nil, "Clip": nil, "Concat": nil, "Conv": nil, "Cos": nil,
	"Div": nil, "Dropout": nil, "Equal": nil, "Erf": nil, "Exp": nil, "Flatten": nil, "Floor": nil, "Gather": nil, "Gelu": nil, "Gemm": nil,
	"Greater": nil, "GreaterOrEqual": nil, "Identity": nil, "LayerNormalization": nil, "Less": nil, "LessOrEqual": nil, "Log": nil,
	"MatMul": nil, "Max": nil, "Min": nil, "Mod": nil, "Mul": nil, "Neg": nil, "Not": nil, "Or": nil, "Pow": nil, "RMSNormalization": nil,
	"Reciprocal": nil, "Relu": nil, "Shape": nil, "Sigmoid": nil, "Sin": nil, "Size": nil, "Softmax": nil, "Sqrt": nil, "Sub": nil,
	"Sum": nil, "Tanh": nil, "Transpose": nil, "Where": nil, "Xor": nil,

	"lathe.BlockCirculantMatMul": {1, 2},
	"lathe.BlockCirculantConv":   {1, 2},
}

// settle finds out whether the outputs of x are still, and whether their
// shapes are, for a node of the main graph.
func (x *lnode) settle() {
	if x.row == nil || x.row.flags&(random|body) != 0 || len(x.scopes) > 0 {
		return
	}
	values, formed := formOps[x.kind()]
	still := true
	for i, v := range x.in {
		lasts := v == nil || v.konst != nil && v.param == 0 || v.still
		still = still && lasts
		if !lasts {
			formed = formed && v.formed && !slices.Contains(values, i)
		}
	}
	if x.domain == "" && (x.op == "Shape" || x.op == "Size") {
		still = formed
	}
	for _, v := range x.out {
		if v != nil {
			v.still, v.formed = still, still || formed
		}
	}
}

// keep marks the steps that need no second run and takes what others read of
// them from the lists of what is free.
func (p *planner) keep() {
	if p.scope.parent != nil {
		return
	}
	for i := range p.steps {
		st := &p.steps[i]
		st.still = len(st.out) > 0 && len(st.bodies) == 0 && !slices.ContainsFunc(st.out, func(s int) bool {
			return s >= 0 && (!p.values[s].still || p.values[s].pinned || slices.Contains(p.outputs, s))
		})
		p.stills = p.stills || st.still
	}
	if !p.stills {
		return
	}
	read := func(s int) {
		if s >= 0 && p.owned(s) && p.values[s].still && !slices.Contains(p.kept, s) {
			p.kept = append(p.kept, s)
		}
	}
	for i := range p.steps {
		if st := &p.steps[i]; !st.still {
			for _, s := range st.in {
				read(s)
			}
			for _, b := range st.bodies {
				for _, c := range b.captures {
					read(c.outer)
				}
			}
		}
	}
	for i := range p.steps {
		st := &p.steps[i]
		st.free = slices.DeleteFunc(st.free, func(s int) bool { return slices.Contains(p.kept, s) })
	}
}

// form is the types and shapes of the inputs of a run.
type form []Tensor

// equal reports whether the frame's inputs are of the form.
func (o form) equal(f *frame) bool {
	if len(o) != len(f.plan.inputs) {
		return false
	}
	for i, s := range f.plan.inputs {
		if t := f.values[s]; o[i].DType != t.DType || !slices.Equal(o[i].Shape, t.Shape) {
			return false
		}
	}
	return true
}

// set makes o the form of the frame's inputs.
func (o *form) set(f *frame) {
	if len(*o) != len(f.plan.inputs) {
		*o = make(form, len(f.plan.inputs))
	}
	for i, s := range f.plan.inputs {
		t, u := f.values[s], &(*o)[i]
		u.DType, u.Shape = t.DType, append(u.Shape[:0], t.Shape...)
	}
}
