package runtime

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// TestRandomNodes gives every operator of the tables inputs and attributes
// that are random, mostly of the kinds that its schema names: the node may be
// computed or refused, but a kernel that panics has missed a check.
func TestRandomNodes(t *testing.T) {
	tries := 200
	if testing.Short() {
		tries = 40
	}
	for _, table := range tables() {
		for _, o := range table {
			if o.flags&body != 0 {
				continue
			}
			name := o.name
			if o.domain != "" {
				name = o.domain + "." + name
			}
			t.Run(fmt.Sprintf("%s-%d", name, o.since), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(o.since), uint64(len(o.name))))
				worked := 0
				for range tries {
					inputs, attrs := randomNode(r, &o)
					_, err := tryEvalIn(o.domain, o.name, int64(o.since), inputs, attrs...)
					if err == nil {
						worked++
						continue
					}
					if strings.Contains(err.Error(), "internal error") {
						var what []string
						for _, x := range inputs {
							if x == nil {
								what = append(what, "none")
								continue
							}
							d := fmt.Sprint(x.DType, x.Shape)
							if x.DType == graph.Int64 && x.Len() < 9 {
								d += fmt.Sprint(x.I64())
							}
							what = append(what, d)
						}
						for _, a := range attrs {
							what = append(what, fmt.Sprintf("%s=%v%v%v%s", a.Name, a.I, a.Ints, a.F, a.S))
						}
						t.Fatalf("%s: %v", strings.Join(what, " "), err)
					}
				}
				if worked == 0 && !testing.Short() {
					t.Logf("refused all of %d random nodes", tries)
				}
			})
		}
	}
}

// randomNode draws inputs and attributes for an operator.
func randomNode(r *rand.Rand, o *operator) ([]*Tensor, []*graph.Attr) {
	var s *graph.Schema
	version := int64(o.since)
	for s == nil && version < 30 {
		s, _ = graph.LookupSchema(o.domain, o.name, version)
		version++
	}
	base := make([]int, r.IntN(5))
	for i := range base {
		base[i] = []int{0, 1, 2, 3, 5}[r.IntN(5)]
	}
	main := numberTypes[r.IntN(len(numberTypes))]
	if r.IntN(2) == 0 {
		main = graph.Float32
	}
	n := r.IntN(6)
	if s != nil && len(s.Inputs) > 0 && r.IntN(2) == 0 {
		p := s.Inputs[len(s.Inputs)-1]
		if set := s.Types[p.TypeStr]; set != nil && len(set.Names) > 0 {
			name := strings.TrimSuffix(strings.TrimPrefix(set.Names[r.IntN(len(set.Names))], "tensor("), ")")
			if d, ok := graph.ParseDType(name); ok {
				main = d
			}
		}
	}
	if s != nil {
		n = s.MinInputs + r.IntN(min(s.MaxInputs-s.MinInputs, 3)+1)
	}
	var inputs []*Tensor
	for i := range n {
		if r.IntN(12) == 0 {
			inputs = append(inputs, nil)
			continue
		}
		d := main
		kind := ""
		if s != nil && len(s.Inputs) > 0 {
			p := s.Inputs[min(i, len(s.Inputs)-1)]
			kind = p.TypeStr
			if set := s.Types[kind]; set != nil && len(set.Names) > 0 && i > 0 && kind != s.Inputs[0].TypeStr {
				kind = set.Names[r.IntN(len(set.Names))]
			}
		}
		if name, ok := strings.CutPrefix(kind, "tensor("); ok {
			if k, ok := graph.ParseDType(strings.TrimSuffix(name, ")")); ok {
				d = k
			}
		}
		shape := append([]int(nil), base...)
		switch {
		case kind == "tensor(int64)" && r.IntN(2) == 0:
			shape = []int{r.IntN(5)}
		case r.IntN(4) == 0:
			shape = shape[:r.IntN(len(shape)+1)]
		case r.IntN(4) == 0 && len(shape) > 0:
			shape = shape[len(shape)-1:]
		case r.IntN(4) == 0 && len(shape) > 0:
			shape[r.IntN(len(shape))] = 1
		case r.IntN(8) == 0:
			shape = append(shape, r.IntN(4))
		}
		inputs = append(inputs, randomTensor(r, d, shape))
	}
	var attrs []*graph.Attr
	if s == nil {
		return inputs, nil
	}
	number := func() int64 {
		if r.IntN(40) == 0 {
			return []int64{1 << 62, -1 << 63, 1<<31 - 1, 1 << 20}[r.IntN(4)]
		}
		return int64(r.IntN(9) - 3)
	}
	for _, a := range s.Attrs {
		if !a.Required && r.IntN(2) == 0 {
			continue
		}
		switch a.Type {
		case graph.AttrInt:
			v := number()
			if a.Name == "to" || a.Name == "dtype" || a.Name == "output_dtype" {
				v = int64(r.IntN(28))
			}
			attrs = append(attrs, graph.IntAttr(a.Name, v))
		case graph.AttrInts:
			v := make([]int64, []int{len(base), max(len(base)-2, 0), 2 * max(len(base)-2, 0), r.IntN(6)}[r.IntN(4)])
			for i := range v {
				v[i] = number()
				if r.IntN(3) > 0 {
					v[i] = int64(r.IntN(4))
				}
			}
			if a.Name == "perm" && r.IntN(4) > 0 {
				v = v[:0]
				for _, p := range r.Perm(len(base)) {
					v = append(v, int64(p))
				}
			}
			attrs = append(attrs, graph.IntsAttr(a.Name, v...))
		case graph.AttrFloat:
			attrs = append(attrs, graph.FloatAttr(a.Name, float32(r.NormFloat64())))
		case graph.AttrFloats:
			v := make([]float32, r.IntN(5))
			for i := range v {
				v[i] = float32(r.NormFloat64())
			}
			attrs = append(attrs, graph.FloatsAttr(a.Name, v))
		case graph.AttrString:
			words := []string{"", "none", "tanh", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "nearest", "linear", "cubic", "constant", "reflect",
				"edge", "wrap", "add", "mul", "max", "min", "LEFT", "RIGHT", "ij,jk->ik", "ij->", "...", "DCR", "CRD", "avg", "half_pixel", "asymmetric",
				"align_corners", "tf_crop_and_resize", "bilinear", "zeros", "border", "reflection", "stretch", "not_larger", "forward", "bidirectional"}
			attrs = append(attrs, graph.StringAttr(a.Name, words[r.IntN(len(words))]))
		case graph.AttrTensor:
			if g, err := ToGraphTensor(randomTensor(r, numberTypes[r.IntN(len(numberTypes))], []int{1 + r.IntN(2)})); err == nil {
				attrs = append(attrs, graph.TensorAttr(a.Name, g))
			}
		}
	}
	return inputs, attrs
}

func randomTensor(r *rand.Rand, d graph.DType, shape []int) *Tensor {
	x, err := newTensor(d, shape)
	if err != nil {
		return FromSlice([]int{1}, []float32{1})
	}
	for i := range x.strs {
		x.strs[i] = fmt.Sprint(r.IntN(3))
	}
	wide := make([]float64, x.Len())
	for i := range wide {
		switch r.IntN(30) {
		case 0:
			wide[i] = r.NormFloat64() * 1e9
		case 1:
			wide[i] = float64(r.IntN(200) - 100)
		default:
			wide[i] = float64(r.IntN(8) - 2)
		}
	}
	if d != graph.String {
		if err := convert(x, FromSlice(shape, wide), castRules{}); err != nil {
			return x
		}
	}
	return x
}
