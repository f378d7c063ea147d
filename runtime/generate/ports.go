package generate

import (
	"fmt"
	"slices"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
)

// How the ports of a decoder are told apart:
//
//   - The tokens are the integers that pick rows of a constant table; where
//     several do (positions have a table too, and kinds of tokens) the one with
//     the usual name, or else the largest table.
//   - Other integers are an attention mask where their last dim is called
//     otherwise than the tokens', since it counts the past too; else positions
//     or kinds of tokens by their names, and positions without.
//   - One boolean is use_cache_branch.
//   - Floats of three dims or more are a cache: its parts are paired with the
//     outputs that hand them on by the attention that they belong to, or by
//     following the past through operators that move elements, or in order.
//   - The logits are the float output that is left, and whose last dim, where
//     it is fixed, is about the rows of the table.

// role is what an input is for.
type role int

const (
	tokenIDs role = iota
	attentionMask
	positionIDs
	tokenTypes
	useCache
)

// ports is what the inputs and outputs of a decoder are.
type ports struct {
	inputs     []input
	logits     string
	cache      []runtime.CachePair
	vocabulary int // rows of the table of tokens; 0: not known
	length     int // fixed number of tokens of a run; 0: any
}

type input struct {
	name  string
	role  role
	dtype graph.DType
	rank  int
}

// findPorts looks at a model.
func findPorts(m *graph.Model) (*ports, error) {
	if m == nil || m.Graph == nil {
		return nil, fmt.Errorf("the model has no graph")
	}
	all, err := runtime.Ports(m)
	if err != nil {
		return nil, err
	}
	p := &ports{}
	ids, table := findTokens(m, all)
	if ids == "" {
		return nil, fmt.Errorf("no decoder: no input of integers picks rows of a table, as input_ids do; the inputs are %s", list(all))
	}
	at := slices.IndexFunc(all, func(q runtime.Port) bool { return q.Name == ids })
	tokens := all[at]
	p.vocabulary = table
	if tokens.Rank != 2 && tokens.Rank != 1 {
		return nil, fmt.Errorf("no decoder: the tokens %v are no [batch, sequence]", tokens)
	}
	if d := tokens.Shape.Dims; len(d) == 2 && d[0].IsKnown() && d[0].N != 1 {
		return nil, fmt.Errorf("the tokens %v are a batch of %d; one text at a time can be decoded", tokens, d[0].N)
	}
	if d := tokens.Shape.Dims[tokens.Rank-1]; d.IsKnown() {
		if d.N < 1 {
			return nil, fmt.Errorf("no decoder: the tokens %v have no place for any", tokens)
		}
		p.length = int(d.N)
	}
	var pasts []string
	for _, q := range all {
		in := input{q.Name, tokenIDs, q.DType, q.Rank}
		switch {
		case q.Name == ids:
		case q.DType == graph.Bool && q.Rank <= 1:
			in.role = useCache
		case q.DType == graph.Int64 || q.DType == graph.Int32:
			in.role = roleOf(q, tokens)
			if q.Rank != 2 && q.Rank != 1 {
				return nil, fmt.Errorf("input %v: decoders have tokens, a mask, positions and a cache, and it is none of them", q)
			}
		case q.DType.IsFloat() && (q.Rank > 2 || q.Rank < 0):
			pasts = append(pasts, q.Name)
			continue
		default:
			return nil, fmt.Errorf("input %v: decoders have tokens, a mask, positions and a cache, and it is none of them", q)
		}
		p.inputs = append(p.inputs, in)
	}
	pairs, err := pairCache(m, pasts)
	if err != nil {
		return nil, err
	}
	var batch string
	if tokens.Rank == 2 {
		batch = tokens.Shape.Dims[0].Sym
	}
	for _, c := range pairs {
		a, err := cacheAxis(m.Graph.Value(c[0].Name), outputNamed(m, c[1].Name), batch)
		if err != nil {
			return nil, err
		}
		p.cache = append(p.cache, runtime.CachePair{Past: c[0].Name, Present: c[1].Name, Axis: a})
	}
	p.logits, err = findLogits(m, pairs, p.vocabulary)
	return p, err
}

// list gives ports as errors show them.
func list(all []runtime.Port) string {
	if len(all) == 0 {
		return "none"
	}
	var names []string
	for i, p := range all {
		if i == 8 {
			names = append(names, fmt.Sprintf("and %d more", len(all)-i))
			break
		}
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}

// findTokens returns the input that holds tokens, and the rows of their table.
func findTokens(m *graph.Model, all []runtime.Port) (name string, rows int) {
	best := -1
	for _, p := range all {
		if p.DType != graph.Int64 && p.DType != graph.Int32 {
			continue
		}
		n := tableRows(m, m.Graph.Value(p.Name))
		if n == 0 {
			continue
		}
		score := n
		switch lower := strings.ToLower(p.Name); {
		case lower == "input_ids" || lower == "decoder_input_ids":
			score += 1 << 30
		case strings.Contains(lower, "position") || strings.Contains(lower, "type") || strings.Contains(lower, "mask"):
			score -= 1 << 30
			if best == -1 {
				best = score - 1
			}
		}
		if score > best {
			best, name, rows = score, p.Name, n
		}
	}
	return name, rows
}

// tableRows follows integers to the Gather that takes them as they are into a
// constant table [rows, width], and returns its rows, 0 if there is none.
func tableRows(m *graph.Model, from *graph.Value) int {
	seen := map[*graph.Value]bool{}
	queue := []*graph.Value{from}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		if seen[v] {
			continue
		}
		seen[v] = true
		for _, u := range v.Uses() {
			n := u.Node
			if f := m.Function(n.Domain, n.Op, n.Overload); f != nil {
				if u.Index < len(f.Graph.Inputs()) {
					queue = append(queue, f.Graph.Inputs()[u.Index])
				}
				continue
			}
			switch {
			case n.Is("Gather") && u.Index == 1 && n.Int("axis", 0) == 0:
				if t := n.Input(0).Type(); t.Rank() == 2 && t.Elem.IsFloat() && fixedTable(n.Input(0)) {
					return int(t.Shape.Dims[0].N)
				}
			case n.Is("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Clip") && u.Index == 0:
				queue = append(queue, n.Outputs()...)
			}
		}
	}
	return 0
}

// fixedTable reports whether v has a known number of rows and is constant as
// far as can be seen: weights may come through a Cast, a DequantizeLinear or a
// Transpose.
func fixedTable(v *graph.Value) bool {
	if !v.Type().Shape.Dims[0].IsKnown() {
		return false
	}
	for depth := 0; v != nil && depth < 8; depth++ {
		if v.IsInitializer() || v.ConstTensor() != nil {
			return true
		}
		if v.Def() == nil {
			return v.Graph() != nil && v.Graph().Function() != nil // the weight of a call
		}
		v = v.Def().Input(0)
	}
	return false
}

// roleOf tells what integers beside the tokens are.
func roleOf(q, tokens runtime.Port) role {
	lower := strings.ToLower(q.Name)
	switch {
	case strings.Contains(lower, "mask"):
		return attentionMask
	case strings.Contains(lower, "position"):
		return positionIDs
	case strings.Contains(lower, "type") || strings.Contains(lower, "segment"):
		return tokenTypes
	}
	a, b := q.Shape.Dims, tokens.Shape.Dims
	if len(a) > 0 && len(b) > 0 && a[len(a)-1].Sym != b[len(b)-1].Sym {
		return attentionMask
	}
	return positionIDs
}

func outputNamed(m *graph.Model, name string) *graph.Value {
	for _, v := range m.Graph.Outputs() {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// pairCache finds the output that hands every past on.
func pairCache(m *graph.Model, pasts []string) ([][2]*graph.Value, error) {
	if len(pasts) == 0 {
		return nil, nil
	}
	present := map[string]*graph.Value{}
	taken := map[*graph.Value]bool{}
	pair := func(past string, v *graph.Value) {
		if v != nil && present[past] == nil && slices.Contains(pasts, past) && !taken[v] {
			present[past], taken[v] = v, true
		}
	}
	if found, err := modules.Find(m); err == nil {
		for _, mod := range found {
			for _, c := range mod.Caches {
				if c.Past != nil && c.Present != nil {
					pair(c.Past.Name, outputNamed(m, c.Present.Name))
				}
			}
		}
	}
	for _, name := range pasts {
		if present[name] == nil {
			pair(name, handedOn(m.Graph.Value(name), taken))
		}
	}
	// In order, where as many are left on both sides.
	var left []string
	var free []*graph.Value
	for _, name := range pasts {
		if present[name] == nil {
			left = append(left, name)
		}
	}
	for _, v := range m.Graph.Outputs() {
		if t := v.Type(); !taken[v] && len(left) > 0 && similar(m.Graph.Value(left[min(len(free), len(left)-1)]).Type(), t) {
			free = append(free, v)
		}
	}
	if len(left) != len(free) {
		return nil, fmt.Errorf("no decoder: no output hands on what input %v brings in, as a cache would need", left)
	}
	for i, name := range left {
		pair(name, free[i])
	}
	var out [][2]*graph.Value
	for _, name := range pasts {
		if present[name] == nil {
			return nil, fmt.Errorf("no decoder: no output hands on what input %q brings in, as a cache would need", name)
		}
		out = append(out, [2]*graph.Value{m.Graph.Value(name), present[name]})
	}
	return out, nil
}

// handedOn follows a past through operators that move elements to the first
// output that is not taken.
func handedOn(past *graph.Value, taken map[*graph.Value]bool) *graph.Value {
	seen := map[*graph.Value]bool{}
	queue := []*graph.Value{past}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		if v.IsOutput() && !taken[v] && v.Graph() == past.Graph() {
			return v
		}
		for _, u := range v.Uses() {
			n := u.Node
			switch {
			case n.Is("Concat"), u.Index == 0 && n.Is("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Split",
				"Gather", "ScatterND", "ScatterElements", "TensorScatter"):
				queue = append(queue, n.Outputs()...)
			}
		}
		// What a branch gives is what its If gives.
		if g := v.Graph(); v.IsOutput() && g != past.Graph() && g.Holder() != nil && g.Holder().Is("If") {
			for i, o := range g.Outputs() {
				if o == v {
					queue = append(queue, g.Holder().Output(i))
				}
			}
		}
	}
	return nil
}

// similar reports whether two types are of one element type and rank, as far
// as they say.
func similar(a, b *graph.Type) bool {
	if a == nil || b == nil {
		return true
	}
	return (a.Elem == b.Elem || a.Elem == graph.Undefined || b.Elem == graph.Undefined) && (a.Rank() == b.Rank() || a.Rank() < 0 || b.Rank() < 0)
}

// cacheAxis finds the axis of the tokens: free in the past, no batch, and
// called otherwise in the present, since it is longer there.
func cacheAxis(past, present *graph.Value, batch string) (int, error) {
	t := past.Declared
	if t == nil {
		t = past.Type()
	}
	if t == nil || t.Shape == nil {
		return 0, fmt.Errorf("cache input %q: its dims are not declared, so that an empty cache cannot be made", past.Name)
	}
	longer := present.Declared
	if longer == nil {
		longer = present.Type()
	}
	var free, grows []int
	for i, d := range t.Shape.Dims {
		if d.IsKnown() || d.Sym != "" && d.Sym == batch {
			continue
		}
		free = append(free, i)
		if longer != nil && longer.Shape != nil && len(longer.Shape.Dims) == len(t.Shape.Dims) && longer.Shape.Dims[i].Sym != d.Sym {
			grows = append(grows, i)
		}
	}
	r := len(t.Shape.Dims)
	for _, list := range [][]int{grows, free} {
		switch {
		case len(list) == 1:
			return list[0], nil
		case slices.Contains(list, r-2): // [batch, heads, tokens, size]
			return r - 2, nil
		}
	}
	return 0, fmt.Errorf("cache input %q: no dim of %v is free to grow by the tokens", past.Name, t)
}

// findLogits finds the output of [batch, tokens, vocabulary].
func findLogits(m *graph.Model, cache [][2]*graph.Value, vocabulary int) (string, error) {
	var found []*graph.Value
	var seen []string
	for _, v := range m.Graph.Outputs() {
		if slices.ContainsFunc(cache, func(c [2]*graph.Value) bool { return c[1] == v }) {
			continue
		}
		t := v.Declared
		if t == nil {
			t = v.Type()
		}
		seen = append(seen, fmt.Sprintf("%s %v", v.Name, t))
		if t == nil || (t.Elem.IsFloat() || t.Elem == graph.Undefined) && (t.Rank() == 2 || t.Rank() == 3 || t.Rank() < 0) {
			found = append(found, v)
		}
	}
	// Tables and heads are filled up to round sizes, not always alike; half as
	// many logits as tokens are those of something else.
	found = slices.DeleteFunc(found, func(v *graph.Value) bool { w := width(v); return w > 0 && 2*w < vocabulary })
	rank := func(v *graph.Value) int {
		switch {
		case strings.EqualFold(v.Name, "logits"):
			return 0
		case width(v) == vocabulary:
			return 1
		case width(v) > 0:
			return 2
		}
		return 3
	}
	slices.SortStableFunc(found, func(a, b *graph.Value) int { return rank(a) - rank(b) })
	if len(found) == 0 {
		what := "none beside the cache"
		if len(seen) > 0 {
			what = strings.Join(seen, ", ")
		}
		return "", fmt.Errorf("no decoder: no output gives logits [batch, sequence, %d], one for each token that the model knows; the outputs are %s", vocabulary, what)
	}
	return found[0].Name, nil
}

// width is the last dim of v, 0 where it is free.
func width(v *graph.Value) int {
	t := v.Declared
	if t == nil {
		t = v.Type()
	}
	if t == nil || t.Shape == nil || len(t.Shape.Dims) == 0 {
		return 0
	}
	return int(max(t.Shape.Dims[len(t.Shape.Dims)-1].N, 0))
}

// chunk is how many tokens a run takes of n.
func (p *ports) chunk(n int, cached bool) int {
	if cached && p.length > 0 {
		return p.length
	}
	return n
}

// feed makes the inputs of a run that reads all[from:], and returns how many
// places it has: more than tokens where their number is fixed.
func (p *ports) feed(feeds map[string]tensor.Tensor, all []int, from int) (places int, err error) {
	n := len(all) - from
	if places = n; p.length > 0 {
		places = p.length
	}
	switch {
	case n > places:
		return 0, fmt.Errorf("%d tokens are more than the %d that the model takes", n, places)
	case n < places && len(p.cache) > 0:
		return 0, fmt.Errorf("%d tokens, but with its cache the model takes %d at a time", n, places)
	}
	for _, in := range p.inputs {
		if in.role == useCache {
			shape := tensor.Shape{1}
			if in.rank == 0 {
				shape = tensor.ScalarShape()
			}
			feeds[in.name] = tensor.New(tensor.WithShape(shape...), tensor.WithBacking([]bool{from > 0}))
			continue
		}
		row := make([]int64, places)
		switch in.role {
		case tokenIDs:
			for i := range n {
				row[i] = int64(all[from+i])
			}
		case positionIDs:
			for i := range row {
				row[i] = int64(from + i)
			}
		case attentionMask:
			row = make([]int64, from+places)
			for i := range from + n {
				row[i] = 1
			}
		}
		feeds[in.name] = integers(row, in.dtype, in.rank)
	}
	return places, nil
}

func integers(row []int64, d graph.DType, rank int) tensor.Tensor {
	shape := []int{1, len(row)}[2-rank:]
	if d == graph.Int32 {
		narrow := make([]int32, len(row))
		for i, v := range row {
			narrow[i] = int32(v)
		}
		return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(narrow))
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(row))
}

// last takes the logits of place i out of the model's output for places.
func (p *ports) last(t tensor.Tensor, i, places int) ([]float32, error) {
	x, ok := t.Data().([]float32)
	if !ok {
		return nil, fmt.Errorf("output %q is %v, want logits in float32", p.logits, t.Dtype())
	}
	shape := t.Shape()
	vocabulary := shape[len(shape)-1]
	rows := len(x) / max(vocabulary, 1)
	switch {
	case vocabulary == 0 || rows == 0:
		return nil, fmt.Errorf("output %q has shape %v, and so no logits", p.logits, shape)
	case rows == places:
		return x[i*vocabulary : (i+1)*vocabulary], nil
	case rows == 1: // of the last token alone
		return x, nil
	}
	return nil, fmt.Errorf("output %q has shape %v, want logits for each of %d tokens or for the last", p.logits, shape, places)
}
