package passes

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"regexp"
	"slices"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// RangeMethod is how the range of an activation follows from calibration data.
type RangeMethod string

const (
	// RangeMax is the largest magnitude that was seen and headroom: other data
	// go beyond that of the calibration now and then.
	RangeMax RangeMethod = "max"
	// RangePercentile is the magnitude that all but a small share of the elements keep to.
	RangePercentile RangeMethod = "percentile"
)

// QuantizeOptions says what becomes 16-bit fixed point, and how.
type QuantizeOptions struct {
	Feed       *calib.Feed    // data for the ranges
	Range      RangeMethod    // "" means RangeMax
	Percentile float64        // of RangePercentile, in percent; 0 means 99.999
	Rounding   fixed.Rounding // of block-circulant layers; "" means fixed.Once
	Only, Skip *regexp.Regexp // names of layers; nil means all, none

	Threads  int                    // 0 means one per processor
	Progress func(done, total int)  // samples; may be nil
	Layer    func(l QuantizedLayer) // called for every layer; may be nil
}

// QuantizedLayer is a layer with weights that was put into fixed point, with the
// ReLU (and pooling) behind it where nothing else reads its output. Values are
// those of the original model and of the quantised one; exponents those of the
// latter.
type QuantizedLayer struct {
	Node       string `json:"node"`            // its name
	Op         string `json:"op"`              // the int16 operator
	Block      int    `json:"block,omitempty"` // block size; 0 for a dense layer
	In         string `json:"in"`              // names of values, in the original
	Out        string `json:"out"`
	Int16In    string `json:"int16_in"` // and in the quantised model
	Int16Out   string `json:"int16_out"`
	ExponentX  int    `json:"exponent_in"`  // a step of the input is 2 to this
	ExponentY  int    `json:"exponent_out"` // the largest, where channels have their own
	ExponentsY []int  `json:"-"`            // one, or one for every channel
	Parameters int64  `json:"parameters"`   // weights and biases
}

// Int16Key is the key of a model's metadata under which its QuantizedLayers are
// kept, as JSON.
const Int16Key = "lathe.int16"

// Int16Layers returns the layers that QuantizeInt16 put into fixed point, from
// the metadata of the model; none where it has none.
func Int16Layers(m *graph.Model) ([]QuantizedLayer, error) {
	text, ok := m.Meta(Int16Key)
	if !ok {
		return nil, nil
	}
	var out []QuantizedLayer
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("metadata %q: %w; quantise the original model again", Int16Key, err)
	}
	for i := range out {
		l := &out[i]
		l.ExponentsY = []int{l.ExponentY}
		v := m.Graph.Value(l.Int16Out)
		if v == nil {
			continue
		}
		for _, u := range v.Uses() {
			if u.Node.Domain == graph.LatheDomain && u.Node.Op == "DequantizeInt16" {
				if es, err := exponentsOf(u.Node); err == nil && len(es) > 1 {
					l.ExponentsY = es
				}
			}
		}
	}
	return out, nil
}

// exponentsOf are those of a DequantizeInt16.
func exponentsOf(n *graph.Node) ([]int, error) {
	t := n.Input(1).ConstTensor()
	if t == nil {
		return nil, fmt.Errorf("%v: its exponents are no constant", n)
	}
	raw, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	var out []int
	switch t.DType {
	case graph.Int8:
		for _, b := range raw {
			out = append(out, int(int8(b)))
		}
	case graph.Int32:
		for i := 0; i+4 <= len(raw); i += 4 {
			out = append(out, int(int32(binary.LittleEndian.Uint32(raw[i:]))))
		}
	}
	return out, nil
}

const quantizePass = "quantize-int16"

// QuantizeInt16 puts operators of 16-bit fixed point (package fixed) in the place
// of MatMul, Gemm, Conv, BlockCirculantMatMul and BlockCirculantConv nodes with
// constant weights, and of what lies between them: activations, pooling, sums and changes of shape
// whose inputs are in fixed point already. Everything else stays float, with
// explicit conversions at the borders.
//
// An activation q stands for q·2ᵉ, e the smallest for which its range on the data
// fits; channels that only floating-point operators read have exponents of their
// own. Weights have an exponent for every output row, the smallest too, and in
// spectra for every bin of a block row; biases are in the format of the accumulator.
func QuantizeInt16(o QuantizeOptions) Pass {
	return Pass{
		Name:     quantizePass,
		Doc:      "compute layers in 16-bit fixed point",
		Contract: Lossy,
		Run: func(ctx context.Context, m *graph.Model, j *Journal) error {
			o.Range, o.Rounding = cmp.Or(o.Range, RangeMax), cmp.Or(o.Rounding, fixed.Once)
			o.Percentile = cmp.Or(o.Percentile, 99.999)
			q := quantizer{m: m, j: j, o: o, units: map[*graph.Node]*fixedUnit{}, made: map[*graph.Value]*fixedUnit{}, forms: map[*graph.Value]form{},
				used: map[string]bool{}}
			return q.run(ctx)
		},
	}
}

type quantizer struct {
	m      *graph.Model
	j      *Journal
	o      QuantizeOptions
	units  map[*graph.Node]*fixedUnit // by the node that computes the result
	list   []*fixedUnit               // in order
	made   map[*graph.Value]*fixedUnit
	ranges map[calib.Magnitude]*calib.Magnitudes
	forms  map[*graph.Value]form
	used   map[string]bool // operators
	layers []QuantizedLayer
	done   []modules.Rewrite
}

// form is an int16 value and its exponent.
type form struct {
	v  *graph.Value
	e  int
	es []int // by channel, e the largest of them; nil where all have e
}

// fixedUnit is what becomes one int16 operator.
type fixedUnit struct {
	node     *graph.Node   // the last of its nodes
	gone     []*graph.Node // all of them
	in       []*graph.Value
	out      *graph.Value
	layer    bool // has weights
	shape    bool // moves elements only
	build    func(u *fixedUnit, in []form) (form, error)
	block    int  // of a circulant layer
	groups   int  // that it is in
	channels bool // the last axis of its output has a row of the weights for every element

	// While the ranges of a block-circulant layer are measured, the values whose last
	// axes have its blocks: of its input, and of its output with the rows of a last
	// block that are discarded.
	blocksIn, blocksOut string
}

func (q *quantizer) run(ctx context.Context) error {
	switch {
	case q.o.Feed == nil:
		return errors.New("fixed point needs data to find ranges on")
	case q.o.Range != RangeMax && q.o.Range != RangePercentile:
		return fmt.Errorf("no range %q; there are %s and %s", q.o.Range, RangeMax, RangePercentile)
	case !(q.o.Percentile > 0 && q.o.Percentile <= 100):
		return fmt.Errorf("percentile is %v; choose more than 0, at most 100", q.o.Percentile)
	case q.o.Rounding != fixed.Once && q.o.Rounding != fixed.CirCNN:
		return fmt.Errorf("no rounding %q; there are %s and %s", q.o.Rounding, fixed.Once, fixed.CirCNN)
	}
	opset, ok := q.m.Opset("")
	if !ok || opset < minBodyOpset {
		return fmt.Errorf("the model has opset %d, fixed point needs %d; upgrade the model first", opset, minBodyOpset)
	}
	if v, ok := q.m.Opset(graph.LatheDomain); ok && v > graph.LatheVersion {
		return fmt.Errorf("the model imports version %d of domain %q; this program knows up to %d", v, graph.LatheDomain, graph.LatheVersion)
	}
	if err := graph.Infer(q.m); err != nil && !errors.As(err, new(*graph.InferError)) {
		return err
	}
	if err := q.find(); err != nil {
		return err
	}
	if len(q.list) == 0 {
		return nil
	}
	if err := q.measure(ctx); err != nil {
		return err
	}
	original := q.m.Fingerprint()
	for _, u := range q.list {
		if err := q.apply(u); err != nil {
			return fmt.Errorf("%v: %w", u.node, err)
		}
	}
	for i := range q.layers {
		l := &q.layers[i]
		// Where what is below zero may saturate, the layer ends with its ReLU.
		if out := rangeOf(q.m.Graph.Value(l.Out)); q.forms[out].v != nil {
			l.Out, l.Int16Out = out.Name, q.forms[out].v.Name
		}
		if q.o.Layer != nil {
			q.o.Layer(*l)
		}
	}
	q.connect()
	for _, f := range int16Bodies {
		if q.used[f.name] && q.m.Function(graph.LatheDomain, f.name, "") == nil {
			fn, err := int16Function(f.name, opset)
			if err != nil {
				return err
			}
			q.m.CopyFunction(fn)
		}
	}
	q.m.SetOpset(graph.LatheDomain, graph.LatheVersion)
	if q.m.IRVersion < 8 {
		q.j.Add(quantizePass, "", fmt.Sprintf("ir_version %d → 8", q.m.IRVersion), "model-local functions came with 8")
		q.m.IRVersion = 8
	}
	text, err := json.Marshal(q.layers)
	if err != nil {
		return err
	}
	q.m.SetMeta(Int16Key, string(text))
	h, err := modules.ReadHistory(q.m)
	if err != nil {
		return err
	}
	h.Original = cmp.Or(h.Original, original)
	h.Rewrites = append(h.Rewrites, q.done...)
	return modules.WriteHistory(q.m, h)
}

// find lists what can be in fixed point.
func (q *quantizer) find() error {
	matched, adds := false, map[*graph.Node]bool{}
	var others []string // names that are not asked for
	for _, n := range q.m.Graph.Nodes() {
		if adds[n] {
			continue // the bias of a layer before
		}
		u, why := q.layerOf(n)
		if u != nil {
			name := cmp.Or(n.Name, u.out.Name)
			switch {
			case q.o.Only != nil && !q.o.Only.MatchString(name):
				u, why, others = nil, "not among those asked for", append(others, name)
			case q.o.Skip != nil && q.o.Skip.MatchString(name):
				u, why, matched = nil, "asked to be skipped", true
			default:
				matched = true
				for _, g := range u.gone {
					adds[g] = true
				}
			}
		}
		if why != "" {
			q.j.Add(quantizePass, n.String(), "left float", why)
		}
		if u == nil {
			u = q.between(n)
		}
		if u != nil {
			q.list = append(q.list, u)
			q.made[u.out] = u
		}
	}
	if !matched && q.o.Only != nil {
		return noneCalled(q.o.Only, others)
	}
	// A change of shape that only float operators read is done in float, where
	// the runtime may fuse it.
	for i := len(q.list) - 1; i >= 0; i-- {
		u := q.list[i]
		if u.shape && !u.out.IsOutput() && !slices.ContainsFunc(u.out.Uses(), func(x graph.Use) bool { return q.reads(x.Node, u.out) }) {
			delete(q.made, u.out)
			q.list = slices.Delete(q.list, i, i+1)
		}
	}
	return nil
}

// reads reports whether a unit reads v through node n.
func (q *quantizer) reads(n *graph.Node, v *graph.Value) bool {
	return slices.ContainsFunc(q.list, func(u *fixedUnit) bool { return slices.Contains(u.gone, n) && slices.Contains(u.in, v) })
}

// layerOf reads n as a layer with constant weights. Where it is one that cannot
// be in fixed point it returns the reason.
func (q *quantizer) layerOf(n *graph.Node) (*fixedUnit, string) {
	if n.Graph() != q.m.Graph {
		return nil, ""
	}
	switch {
	case n.Is("MatMul", "Gemm"):
		l, why := denseLayer(n)
		if l == nil {
			return nil, why
		}
		if x := l.x().Type(); n.Op == "MatMul" && x.Rank() == 1 {
			return nil, "its input has one axis"
		}
		u := &fixedUnit{node: n, gone: []*graph.Node{n}, in: []*graph.Value{l.x()}, out: l.out(), layer: true, channels: true}
		if l.add != nil {
			u.node, u.gone = l.add, append(u.gone, l.add)
		}
		u.build = func(u *fixedUnit, in []form) (form, error) {
			if err := l.load(); err != nil {
				return form{}, err
			}
			defer func() { l.dense = nil }()
			return q.dense(u, "MatMulInt16", in[0], l.dense, []int64{int64(l.m), int64(l.n)}, l.bias, nil)
		}
		return u, ""
	case n.Is("Conv"):
		w := n.Input(1)
		if w == nil || n.Input(0) == nil {
			return nil, ""
		}
		t := constant(w)
		switch {
		case t == nil:
			return nil, "its weight is no constant"
		case t.DType != graph.Float32 || len(t.Dims) < 3 || t.Len() == 0:
			return nil, fmt.Sprintf("its weight is %v%v", t.DType, t.Dims)
		}
		bias := make([]float32, t.Dims[0])
		if b := n.Input(2); b != nil {
			c := constant(b)
			if c == nil || c.DType != graph.Float32 || c.Len() != t.Dims[0] {
				return nil, "its bias is no constant of float"
			}
			var err error
			if bias, err = c.Float32s(); err != nil {
				return nil, err.Error()
			}
		}
		u := &fixedUnit{node: n, gone: []*graph.Node{n}, in: []*graph.Value{n.Input(0)}, out: n.Output(0), layer: true}
		u.build = func(u *fixedUnit, in []form) (form, error) {
			data, err := t.Float32s()
			if err != nil {
				return form{}, err
			}
			return q.dense(u, "ConvInt16", in[0], data, t.Dims, bias, q.passed(n, "ConvInt16"))
		}
		return u, ""
	case n.Domain == graph.LatheDomain && (n.Op == "BlockCirculantMatMul" || n.Op == "BlockCirculantConv"):
		conv := n.Op == "BlockCirculantConv"
		w, b := n.Input(1), n.Input(2)
		if n.Input(0) == nil || w == nil || b == nil || w.ConstTensor() == nil || b.ConstTensor() == nil {
			return nil, "its weights are no constants"
		}
		t, c := w.ConstTensor(), b.ConstTensor()
		if t.DType != graph.Float32 || len(t.Dims) < 3 || conv != (len(t.Dims) > 3) || c.DType != graph.Float32 || t.Len() == 0 {
			return nil, fmt.Sprintf("its weight is %v%v", t.DType, t.Dims)
		}
		block, groups := int(t.Dims[2]), int64(1)
		if conv {
			groups = n.Int("group", 1)
		}
		switch {
		case block < 2 || block > fixed.MaxBlock || block&(block-1) != 0:
			return nil, fmt.Sprintf("its block size is %d, no power of two from 2 to %d", block, fixed.MaxBlock)
		case conv && n.Int("out_channels", 0) != c.Len():
			return nil, "its bias is not one for every channel"
		case groups < 1 || t.Dims[0]%groups != 0 || c.Len()%groups != 0 || c.Len()/groups > t.Dims[0]/groups*t.Dims[2]:
			return nil, fmt.Sprintf("its weight is %v for %d outputs in %d groups", t.Dims, c.Len(), groups)
		}
		u := &fixedUnit{node: n, gone: []*graph.Node{n}, in: []*graph.Value{n.Input(0)}, out: n.Output(0), layer: true, block: block, groups: int(groups), channels: !conv}
		u.build = func(u *fixedUnit, in []form) (form, error) { return q.circulant(u, in[0], t, c) }
		return u, ""
	}
	return nil, ""
}

// passed are the attributes of n that the int16 operator has too.
func (q *quantizer) passed(n *graph.Node, op string) []*graph.Attr {
	var out []*graph.Attr
	for _, f := range int16Bodies {
		for _, a := range f.attributes {
			if x := n.Attr(a.name); f.name == op && x != nil && !(a.kind == "ints" && len(x.Ints) == 0) {
				c := *x
				out = append(out, &c)
			}
		}
	}
	return out
}

// between reads n as an operator between layers whose inputs are in fixed point.
func (q *quantizer) between(n *graph.Node) *fixedUnit {
	if n.Graph() != q.m.Graph || n.Input(0) == nil || n.Output(0) == nil || q.made[n.Input(0)] == nil {
		return nil
	}
	u := &fixedUnit{node: n, gone: []*graph.Node{n}, in: []*graph.Value{n.Input(0)}, out: n.Output(0)}
	one := len(n.Outputs()) == 1 || len(n.Outputs()) == 2 && (n.Output(1) == nil || len(n.Output(1).Uses()) == 0 && !n.Output(1).IsOutput())
	switch {
	case !one:
		return nil
	case n.Is("Relu"):
		u.build = func(u *fixedUnit, in []form) (form, error) { return q.clip(u, in[0], 0, math.Inf(1)), nil }
	case n.Is("Clip"):
		low, high, ok := clipBounds(n)
		if !ok {
			return nil
		}
		u.build = func(u *fixedUnit, in []form) (form, error) { return q.clip(u, in[0], low, high), nil }
	case n.Is("MaxPool"):
		u.build = func(u *fixedUnit, in []form) (form, error) {
			return form{v: q.node(u, "MaxPoolInt16", []*graph.Value{in[0].v}, q.passed(n, "MaxPoolInt16")...), e: in[0].e}, nil
		}
	case n.Is("AveragePool", "GlobalAveragePool"):
		op := n.Op + "Int16"
		u.build = func(u *fixedUnit, in []form) (form, error) {
			left := min(max(in[0].e-q.exponent(u.out), 0), 15)
			return form{v: q.node(u, op, []*graph.Value{in[0].v, q.ints(u.out.Name+"_left", left)}, q.passed(n, op)...), e: in[0].e - left}, nil
		}
	case n.Is("Add"):
		if n.Input(1) == nil || q.made[n.Input(1)] == nil {
			return nil
		}
		u.in = append(u.in, n.Input(1))
		u.build = func(u *fixedUnit, in []form) (form, error) { return q.add(u, in[0], in[1]), nil }
	case n.Is("Concat"):
		u.in = n.Inputs()
		for _, v := range u.in {
			if v == nil || q.made[v] == nil {
				return nil
			}
		}
		u.build = func(u *fixedUnit, in []form) (form, error) {
			e := in[0].e
			for _, f := range in {
				e = max(e, f.e)
			}
			var list []*graph.Value
			for _, f := range in {
				list = append(list, q.requantize(u, f, e).v)
			}
			v := q.m.Graph.InsertBefore(u.node, "", "Concat", q.m.Graph.FreshNodeName(cmp.Or(n.Name, u.out.Name)+"_int16"), list, []string{q.m.Graph.FreshName(u.out.Name + "_int16")}, cloneAttrs(n)...)
			return form{v: v.Output(0), e: e}, nil
		}
	case n.Is("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"):
		if n.Op == "Dropout" && n.Opset() >= 12 && n.Input(2) != nil { // training_mode
			return nil
		}
		u.shape = true
		u.build = func(u *fixedUnit, in []form) (form, error) {
			g := q.m.Graph
			ins := slices.Clone(n.Inputs())
			ins[0] = in[0].v
			op, attrs := n.Op, cloneAttrs(n)
			if op == "Dropout" {
				op, ins, attrs = "Identity", ins[:1], nil
			}
			v := g.InsertBefore(u.node, "", op, g.FreshNodeName(cmp.Or(n.Name, u.out.Name)+"_int16"), ins, []string{g.FreshName(u.out.Name + "_int16")}, attrs...)
			return form{v: v.Output(0), e: in[0].e}, nil
		}
	default:
		return nil
	}
	return u
}

func cloneAttrs(n *graph.Node) []*graph.Attr {
	var out []*graph.Attr
	for _, a := range n.Attrs {
		c := *a
		out = append(out, &c)
	}
	return out
}

// clipBounds are the constant bounds of a Clip, attributes before opset 11.
func clipBounds(n *graph.Node) (low, high float64, ok bool) {
	low, high = math.Inf(-1), math.Inf(1)
	if n.Opset() < 11 {
		return float64(n.Float("min", -math.MaxFloat32)), float64(n.Float("max", math.MaxFloat32)), true
	}
	for i, b := range []*float64{&low, &high} {
		v := n.Input(i + 1)
		if v == nil {
			continue
		}
		c := v.ConstTensor()
		if c == nil || c.DType != graph.Float32 || c.Len() != 1 {
			return 0, 0, false
		}
		x, err := c.Float32s()
		if err != nil || x[0] != x[0] {
			return 0, 0, false
		}
		*b = float64(x[0])
	}
	return low, high, true
}

// rangeOf is the value whose range decides the exponent of v: that of a ReLU,
// where nothing else comes of v but largest elements, because what is below zero
// may saturate.
func rangeOf(v *graph.Value) *graph.Value {
	for w := v; len(w.Uses()) == 1 && !w.IsOutput() && w.Uses()[0].Node.Graph() == v.Graph(); {
		n := w.Uses()[0].Node
		if n.Is("Relu") {
			return n.Output(0)
		}
		if !n.Is("MaxPool") || len(n.Outputs()) > 1 {
			break
		}
		w = n.Output(0)
	}
	return v
}

// measure runs the data through the model for all ranges.
func (q *quantizer) measure(ctx context.Context) error {
	// Rows of a last block that are discarded are part of its spectrum, so it is
	// measured on layers that keep them; and channels are the last axis there.
	m := q.m.Clone()
	g := m.Graph
	blocks := func(u *fixedUnit) error {
		n := g.Value(u.out.Name).Def()
		w, c := n.Input(1).ConstTensor(), n.Input(2).ConstTensor()
		axes := len(w.Dims) - 3 // of a window
		last := func(v *graph.Value) *graph.Value {
			if axes == 0 {
				return v
			}
			perm := []int64{0}
			for i := range axes {
				perm = append(perm, int64(i+2))
			}
			name := g.FreshName(v.Name + "_last")
			in, to, attr := []*graph.Value{v}, []string{name}, graph.IntsAttr("perm", append(perm, 1)...)
			if i := slices.Index(g.Nodes(), n) + 1; i < len(g.Nodes()) { // behind n, so that v need not be kept longer
				return g.InsertBefore(g.Nodes()[i], "", "Transpose", g.FreshNodeName(name), in, to, attr).Output(0)
			}
			return g.NewNode("", "Transpose", g.FreshNodeName(name), in, to, attr).Output(0)
		}
		out := n.Output(0)
		if rows := w.Dims[0] * w.Dims[2]; rows != c.Len() {
			bias, err := c.Float32s()
			if err != nil {
				return err
			}
			padded := u.padded(bias, int(rows))
			name := g.FreshName(u.out.Name + "_whole")
			attrs := cloneAttrs(n)
			for _, a := range attrs {
				if a.Name == "out_features" || a.Name == "out_channels" {
					a.I = rows
				}
			}
			out = g.InsertBefore(n, graph.LatheDomain, n.Op, g.FreshNodeName(name), []*graph.Value{n.Input(0), n.Input(1),
				g.AddInitializer(g.FreshName(name+"_bias"), graph.Float32Tensor([]int64{rows}, padded))}, []string{name}, attrs...).Output(0)
		}
		u.blocksIn, u.blocksOut = last(n.Input(0)).Name, last(out).Name
		return nil
	}
	var wanted []calib.Magnitude
	want := func(v *graph.Value) { wanted = append(wanted, calib.Magnitude{Value: v.Name}) }
	for _, u := range q.list {
		if u.layer {
			for _, v := range u.in {
				if q.made[v] == nil {
					want(v)
				}
			}
			if u.block > 0 {
				if err := blocks(u); err != nil {
					return err
				}
				wanted = append(wanted, calib.Magnitude{Value: u.blocksIn, Block: u.block, Groups: u.groups, By: calib.ByBin},
					calib.Magnitude{Value: u.blocksOut, Block: u.block, By: calib.ByBlock})
			}
			if q.byChannel(u) {
				wanted = append(wanted, calib.Magnitude{Value: u.out.Name, By: calib.ByChannel})
			}
		}
		if !u.shape {
			want(rangeOf(u.out))
		}
	}
	var err error
	q.ranges, err = calib.MeasureMagnitudes(ctx, m, q.o.Feed, wanted, calib.ScoreOptions{Threads: q.o.Threads, Progress: q.o.Progress})
	return err
}

// padded is what every output of a block-circulant layer has, and zeros in the rows
// that are discarded: of the last block, of every group.
func (u *fixedUnit) padded(v []float32, rows int) []float32 {
	out, per := make([]float32, rows), len(v)/u.groups
	for g := range u.groups {
		copy(out[g*rows/u.groups:], v[g*per:(g+1)*per])
	}
	return out
}

// How much larger ranges are than the largest magnitude seen. Each bit costs 6
// dB; without, a single number that saturates on other data costs a layer more
// than that. There is more of it where a range was seen on few numbers: by bin and
// by channel, whose noise is little beside that of louder ones. Spectra of outputs
// have bits to spare, where it costs nothing. Those of long blocks are sums of
// many elements, so that larger ones than were seen are rare.
const (
	headroom        = 1.1
	headroomChannel = 2
)

// spectrumHeadroom is that of the spectra of blocks of b, of inputs and outputs.
func spectrumHeadroom(b int) (in, out float64) {
	if b < 64 {
		return 1.4, 1.6
	}
	return 1.2, 1.3
}

// byChannel reports whether the channels of a layer's output may have exponents of
// their own, because only floating-point operators read it.
func (q *quantizer) byChannel(u *fixedUnit) bool {
	read := slices.ContainsFunc(q.list, func(r *fixedUnit) bool { return slices.Contains(r.in, u.out) })
	return u.channels && !read && q.o.Rounding == fixed.Once
}

// quieter is how many bits the exponent of a channel may be below that of the
// loudest: enough for its noise not to count.
const quieter = 6

// channelExponents are the exponents of the channels of u, whose values fit e.
func (q *quantizer) channelExponents(u *fixedUnit, e, channels int) []int {
	es := slices.Repeat([]int{e}, channels)
	if tops := q.ranges[calib.Magnitude{Value: u.out.Name, By: calib.ByChannel}]; tops != nil && len(tops.Tops) == channels {
		for i, top := range tops.Tops {
			es[i] = min(max(exponentFor(headroomChannel*float64(top), fixed.High), e-quieter), e)
		}
	}
	return es
}

// largest is the range of v.
func (q *quantizer) largest(v *graph.Value) float64 {
	return q.bound(q.ranges[calib.Magnitude{Value: rangeOf(v).Name}], headroom)
}

// bound is the range of all that m has seen.
func (q *quantizer) bound(m *calib.Magnitudes, room float64) float64 {
	if q.o.Range == RangePercentile {
		return float64(m.Quantile(q.o.Percentile / 100))
	}
	return room * float64(m.Quantile(1))
}

// bounds are the ranges of the classes of m, none above that of all.
func (q *quantizer) bounds(m *calib.Magnitudes, room float64) []float64 {
	var out []float64
	for _, top := range m.Tops {
		out = append(out, min(room*float64(top), q.bound(m, room)))
	}
	return out
}

// exponentFor is the smallest e with x ≤ most·2ᵉ.
func exponentFor(x, most float64) int {
	if x == 0 {
		return -fixedPoint
	}
	e := int(math.Ceil(math.Log2(x / most)))
	for math.Ldexp(most, e) < x {
		e++
	}
	return min(max(e, -100), 100)
}

// fixedPoint is the exponent of what is always zero.
const fixedPoint = 15

// exponent is that of activation v.
func (q *quantizer) exponent(v *graph.Value) int { return exponentFor(q.largest(v), fixed.High) }

// apply adds the int16 operator of u, in front of its node.
func (q *quantizer) apply(u *fixedUnit) error {
	var in []form
	for _, v := range u.in {
		f, ok := q.forms[v]
		if !ok {
			f = form{e: q.exponent(v)}
			g := q.m.Graph
			n := g.InsertBefore(u.node, graph.LatheDomain, "QuantizeInt16", g.FreshNodeName(v.Name+"_quantize"),
				[]*graph.Value{v, q.ints(v.Name+"_exponent", f.e)}, []string{g.FreshName(v.Name + "_int16")})
			q.used["QuantizeInt16"] = true
			f.v = n.Output(0)
			q.forms[v] = f
		}
		in = append(in, f)
	}
	out, err := u.build(u, in)
	if err != nil {
		return err
	}
	q.forms[u.out] = out
	if !u.layer {
		q.j.Add(quantizePass, u.node.String(), "int16", fmt.Sprintf("between layers in fixed point; exponent %d", out.e))
		return nil
	}
	n := out.v.Def()
	l := QuantizedLayer{Node: cmp.Or(u.gone[0].Name, u.out.Name), Op: n.Op, Block: u.block, In: u.in[0].Name, Out: u.out.Name, Int16In: in[0].v.Name,
		Int16Out: out.v.Name, ExponentX: in[0].e, ExponentY: out.e, ExponentsY: []int{out.e}, Parameters: n.Input(1).ConstTensor().Len() + n.Input(3).ConstTensor().Len()}
	if out.es != nil {
		l.ExponentsY = out.es
	}
	q.layers = append(q.layers, l)
	q.done = append(q.done, modules.Rewrite{Pass: quantizePass, Node: l.Node, Block: u.block, Note: l.Op})
	q.j.Add(quantizePass, u.gone[0].String(), l.Op, fmt.Sprintf("exponents %d → %d, ranges by %s", l.ExponentX, l.ExponentY, q.o.Range))
	return nil
}

// connect gives what still reads float values of units their dequantised form,
// and removes the nodes of the units.
func (q *quantizer) connect() {
	g := q.m.Graph
	gone := map[*graph.Node]bool{}
	for _, u := range q.list {
		for _, n := range u.gone {
			gone[n] = true
		}
	}
	for _, u := range q.list {
		v := u.out
		if !v.IsOutput() && !slices.ContainsFunc(v.Uses(), func(x graph.Use) bool { return !gone[x.Node] }) {
			continue
		}
		f := q.forms[v]
		n := g.InsertBefore(u.node, graph.LatheDomain, "DequantizeInt16", g.FreshNodeName(v.Name+"_dequantize"),
			[]*graph.Value{f.v, q.exponents(v.Name+"_exponent", f)}, []string{g.FreshName(v.Name + "_float")})
		q.used["DequantizeInt16"] = true
		v.GiveWay(n.Output(0), "_gone")
	}
	for i := len(q.list) - 1; i >= 0; i-- {
		for _, n := range slices.Backward(q.list[i].gone) {
			g.Remove(n)
		}
	}
}

// node adds an int16 operator in front of that of u.
func (q *quantizer) node(u *fixedUnit, op string, in []*graph.Value, attrs ...*graph.Attr) *graph.Value {
	g := q.m.Graph
	q.used[op] = true
	n := g.InsertBefore(u.node, graph.LatheDomain, op, g.FreshNodeName(cmp.Or(u.gone[0].Name, u.out.Name)+"_int16"), in, []string{g.FreshName(u.out.Name + "_int16")}, attrs...)
	return n.Output(0)
}

// exponents adds the constant with the exponents of f.
func (q *quantizer) exponents(name string, f form) *graph.Value {
	if f.es == nil {
		return q.ints(name, f.e)
	}
	return q.shorts(name, []int64{int64(len(f.es))}, f.es)
}

// requantize returns f at exponent e ≥ f.e.
func (q *quantizer) requantize(u *fixedUnit, f form, e int) form {
	if e == f.e {
		return f
	}
	g := q.m.Graph
	q.used["RequantizeInt16"] = true
	n := g.InsertBefore(u.node, graph.LatheDomain, "RequantizeInt16", g.FreshNodeName(f.v.Name+"_requantize"),
		[]*graph.Value{f.v, q.ints(f.v.Name+"_shift", min(e-f.e, 31))}, []string{g.FreshName(f.v.Name + "_requantized")})
	return form{v: n.Output(0), e: e}
}

func (q *quantizer) clip(u *fixedUnit, in form, low, high float64) form {
	bound := func(name string, x float64) *graph.Value {
		v := fixed.Saturate(int64(min(max(math.Floor(math.Ldexp(x, -in.e)+0.5), fixed.Low), fixed.High)))
		return q.constant(u.out.Name+name, graph.Int16, []int64{1}, binary.LittleEndian.AppendUint16(nil, uint16(v)))
	}
	return form{v: q.node(u, "ClipInt16", []*graph.Value{in.v, bound("_low", low), bound("_high", high)}), e: in.e}
}

func (q *quantizer) add(u *fixedUnit, a, b form) form {
	most := max(a.e, b.e)
	a, b = q.requantize(u, a, max(a.e, most-16)), q.requantize(u, b, max(b.e, most-16))
	least := min(a.e, b.e)
	e := min(max(q.exponent(u.out), least), least+40)
	return form{v: q.node(u, "AddInt16", []*graph.Value{a.v, b.v, q.ints(u.out.Name+"_shifts", a.e-least, b.e-least, e-least)}), e: e}
}

// The most that an accumulator is shifted by; weights too small for it count as
// zeros beside the range of the output.
const mostShift = 46

// dense adds a layer with weights w [m, …].
func (q *quantizer) dense(u *fixedUnit, op string, x form, w []float32, dims []int64, bias []float32, attrs []*graph.Attr) (form, error) {
	m := int(dims[0])
	rows := len(w) / m
	es := slices.Repeat([]int{q.exponent(u.out)}, m)
	if q.byChannel(u) {
		es = q.channelExponents(u, es[0], m)
	}
	exponents := make([]int, m)
	for r := range m {
		var top float64
		for _, v := range w[r*rows : (r+1)*rows] {
			if v-v != 0 {
				return form{}, errors.New("its weight holds NaN or infinity")
			}
			top = max(top, math.Abs(float64(v)))
		}
		exponents[r] = math.MinInt
		if top > 0 {
			exponents[r] = exponentFor(top, fixed.High)
			es[r] = max(es[r], x.e+exponents[r])
		}
	}
	if !q.byChannel(u) {
		es = slices.Repeat([]int{slices.Max(es)}, m)
	}
	weights, shifts, biases := make([]int16, len(w)), make([]int32, m), make([]int64, m)
	for r := range m {
		f := max(exponents[r], es[r]-x.e-mostShift)
		shifts[r] = int32(es[r] - x.e - f)
		for k, v := range w[r*rows : (r+1)*rows] {
			weights[r*rows+k] = rounded16(float64(v), f)
		}
		biases[r] = rounded64(float64(bias[r]), x.e+f)
	}
	name := cmp.Or(u.gone[0].Name, u.out.Name)
	v := q.node(u, op, []*graph.Value{x.v, q.constant(name+"_int16_weight", graph.Int16, dims, littleEndian16(weights)),
		q.constant(name+"_int16_shift", graph.Int32, []int64{int64(m)}, littleEndian32(shifts)),
		q.m.Graph.AddInitializer(q.m.Graph.FreshName(name+"_int16_bias"), graph.Int64Tensor([]int64{int64(m)}, biases))}, attrs...)
	return formOf(v, es), nil
}

// formOf is v with the exponents of its channels.
func formOf(v *graph.Value, es []int) form {
	f := form{v: v, e: slices.Max(es)}
	if slices.Min(es) != f.e {
		f.es = es
	}
	return f
}

// circulant adds a block-circulant layer with weights [p, q, b], and behind them the
// kernel of a convolution, and bias [m]. Blocks of a convolution are those of all
// taps, tap by tap; rows of blocks and outputs those of all groups, one by one.
func (q *quantizer) circulant(u *fixedUnit, x form, weight, bias *graph.Tensor) (form, error) {
	w, err := weight.Float32s()
	if err != nil {
		return form{}, err
	}
	c, err := bias.Float32s()
	if err != nil {
		return form{}, err
	}
	p, q1, b := int(weight.Dims[0]), int(weight.Dims[1]), int(weight.Dims[2])
	taps := len(w) / (p * q1 * b)
	cols := taps * q1
	spectra := make([]float64, len(w))
	fft := fourier.NewFFT(b)
	in, bins := make([]float64, b), make([]complex128, b/2+1)
	transform := func(to []float64, from []float32) {
		for i, v := range from {
			in[i] = float64(v)
		}
		fft.Coefficients(bins, in)
		to[0], to[1] = real(bins[0]), real(bins[b/2])
		for f := 1; f < b/2; f++ {
			to[2*f], to[2*f+1] = real(bins[f]), imag(bins[f])
		}
	}
	block := make([]float32, b)
	for i := range p {
		for j := range cols {
			at := (i*cols + j) * b
			for c := range block {
				block[c] = w[((i*q1+j%q1)*b+c)*taps+j/q1]
			}
			transform(spectra[at:at+b], block)
			for _, v := range spectra[at : at+b] {
				if v-v != 0 {
					return form{}, errors.New("its weight holds NaN or infinity")
				}
			}
		}
	}
	c64, whole := make([]float64, p*b), u.padded(c, p*b)
	for i := range p {
		transform(c64[i*b:(i+1)*b], whole[i*b:(i+1)*b])
	}
	f := fixedSpectra{p: p, q: cols, b: b, groups: u.groups, w: spectra, bias: c64, rounding: q.o.Rounding, x: x.e}
	e := q.exponent(u.out)
	f.y = slices.Repeat([]int{e}, len(c))
	if q.byChannel(u) {
		f.y = q.channelExponents(u, e, len(c))
	}
	roomX, roomY := spectrumHeadroom(b)
	seenX := q.ranges[calib.Magnitude{Value: u.blocksIn, Block: b, Groups: u.groups, By: calib.ByBin}]
	seenY := q.ranges[calib.Magnitude{Value: u.blocksOut, Block: b, By: calib.ByBlock}]
	everywhere := func(seen []float64) (out []float64) { // at every place of the window
		per := len(seen) / u.groups
		for g := range u.groups {
			one := make([]float64, q1*(b/2+1)) // blocks without channels are zeros
			copy(one, seen[g*per:(g+1)*per])
			out = append(out, slices.Repeat(one, taps)...)
		}
		return out
	}
	f.xTops, f.xSquares = everywhere(q.bounds(seenX, roomX)), everywhere(seenX.Squares)
	f.yTops, f.ySquares = q.bounds(seenY, roomY), seenY.Squares
	f.rows = float64(seenY.Count) / float64(len(seenY.Tops)*b) / (float64(seenX.Count) / float64(len(seenX.Tops)/(b/2+1)*b))
	spec, err := f.quantize()
	if most := slices.Max(f.y); err == nil && !q.byChannel(u) && slices.Min(f.y) != most {
		f.y = slices.Repeat([]int{most}, len(c)) // who reads them in fixed point expects one
		spec, err = f.quantize()
	}
	if err != nil {
		return form{}, err
	}
	op := u.node.Op + "Int16"
	stored := make([]int16, len(w)) // as weight lies
	for i := range p {
		for j := range cols {
			for c, v := range spec.W[(i*cols+j)*b:][:b] {
				stored[((i*q1+j%q1)*b+c)*taps+j/q1] = v
			}
		}
	}
	name := cmp.Or(u.gone[0].Name, u.out.Name)
	attrs := q.passed(u.node, op)
	if q.o.Rounding != fixed.Once {
		attrs = append(attrs, graph.StringAttr("rounding", string(q.o.Rounding)))
	}
	var shifts []int8 // of the input, the same at every tap
	for g := range u.groups {
		shifts = append(shifts, spec.R[g*cols*(b/2+1):][:q1*(b/2+1)]...)
	}
	bytes := func(v []int8) (out []byte) {
		for _, x := range v {
			out = append(out, byte(x))
		}
		return out
	}
	v := q.node(u, op, []*graph.Value{x.v, q.constant(name+"_int16_weight", graph.Int16, weight.Dims, littleEndian16(stored)),
		q.constant(name+"_int16_shift", graph.Int8, []int64{int64(p), int64(b/2 + 1)}, bytes(spec.S)),
		q.constant(name+"_int16_bias", graph.Int32, []int64{int64(p), int64(b)}, littleEndian32(spec.Bias)),
		q.constant(name+"_int16_in", graph.Int8, []int64{int64(u.groups * q1), int64(b/2 + 1)}, bytes(shifts)), q.constant(name+"_int16_out", graph.Int8, []int64{int64(len(spec.E))}, bytes(spec.E)),
		q.ints(name+"_int16_sums", spec.Group, spec.Shift)}, attrs...)
	return formOf(v, f.y), nil
}

// rounded16 is x/2ᵉ as a weight: to nearest, from −High to High.
func rounded16(x float64, e int) int16 {
	return int16(min(max(math.RoundToEven(math.Ldexp(x, -e)), -fixed.High), fixed.High))
}

// rounded64 is x/2ᵉ as a bias, of magnitude up to 2⁶⁰.
func rounded64(x float64, e int) int64 {
	return int64(min(max(math.RoundToEven(math.Ldexp(x, -e)), -1<<60), 1<<60))
}

func littleEndian16(v []int16) []byte {
	var out []byte
	for _, x := range v {
		out = binary.LittleEndian.AppendUint16(out, uint16(x))
	}
	return out
}

func littleEndian32(v []int32) []byte {
	var out []byte
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, uint32(x))
	}
	return out
}

func (q *quantizer) constant(name string, d graph.DType, dims []int64, raw []byte) *graph.Value {
	t, err := graph.NewTensor(d, dims, raw)
	if err != nil {
		panic(err) // the sizes are ours
	}
	return q.m.Graph.AddInitializer(q.m.Graph.FreshName(name), t)
}

// ints adds a constant of int32.
func (q *quantizer) ints(name string, v ...int) *graph.Value {
	var list []int32
	for _, x := range v {
		list = append(list, int32(x))
	}
	return q.constant(name, graph.Int32, []int64{int64(len(v))}, littleEndian32(list))
}

// shorts adds a constant of int8.
func (q *quantizer) shorts(name string, dims []int64, v []int) *graph.Value {
	raw := make([]byte, len(v))
	for i, x := range v {
		raw[i] = byte(int8(x))
	}
	return q.constant(name, graph.Int8, dims, raw)
}
