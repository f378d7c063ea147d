package ortcheck

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// operatorCase is one node: its inputs as name: type[dims], in order, "" for one
// that is left out. Floats are normal, whole numbers those of values or random
// below 2.
type operatorCase struct {
	op      string // with its domain; ai.onnx is left out
	opset   int    // of ai.onnx; 17 where it is 0
	attrs   string // in the textual syntax
	inputs  []string
	outputs string
	values  map[string]any // a []int32, []int64, … for an input
	close   float64        // relative error where 1e-5 is too close, as for halves
}

func (c operatorCase) String() string {
	return fmt.Sprintf("%s<%s>(%s)→%s", c.op, c.attrs, strings.Join(c.inputs, ","), c.outputs)
}

// text is the model of the node. Outputs have no declared shapes.
func (c operatorCase) text() string {
	opset := c.opset
	if opset == 0 {
		opset = 17
	}
	var declared, names []string
	for _, in := range c.inputs {
		name, typ, _ := strings.Cut(in, ": ")
		names = append(names, name)
		if name == "" {
			names[len(names)-1] = `""`
			continue
		}
		declared = append(declared, typ+" "+name)
	}
	var outs, given []string
	for _, out := range strings.Fields(c.outputs) {
		name, typ, ok := strings.Cut(out, ":")
		if !ok {
			typ = "float"
		}
		if name == "_" {
			given = append(given, `""`)
			continue
		}
		given = append(given, name)
		outs = append(outs, typ+" "+name)
	}
	attrs := c.attrs
	if attrs != "" {
		attrs = "<" + attrs + ">"
	}
	return fmt.Sprintf(`<ir_version: 10, opset_import: ["": %d, "com.microsoft": 1]> g (%s) => (%s) { %s = %s %s (%s) }`,
		opset, strings.Join(declared, ", "), strings.Join(outs, ", "), strings.Join(given, ", "), c.op, attrs, strings.Join(names, ", "))
}

// TestOperatorsAgree holds single nodes against ONNX Runtime: for what ONNX has
// no test for, and com.microsoft, whose only definition it is.
func TestOperatorsAgree(t *testing.T) {
	for i, c := range operatorCases() {
		t.Run(fmt.Sprintf("%d/%s", i, c.op), func(t *testing.T) {
			m, err := graph.Parse(c.text())
			if err != nil {
				t.Fatalf("%v\n%s", err, c.text())
			}
			for _, v := range m.Graph.Outputs() { // unknown rank
				v.Declared = &graph.Type{Kind: graph.KindTensor, Elem: v.Declared.Elem}
			}
			path := save(t, m)
			theirs, err := ort.Open(path, ort.Options{Basic: true})
			if err != nil {
				if _, missing := ort.Library(); missing != nil {
					t.Skip(missing)
				}
				t.Fatalf("%v: ONNX Runtime: %v", c, err)
			}
			defer theirs.Close()
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			feeds := map[string]nd.Array{}
			for _, v := range m.Graph.Inputs() {
				var shape []int64
				for _, d := range v.Type().Shape.Dims {
					shape = append(shape, d.N)
				}
				a, err := randomArray(v.Type().Elem, shape, c.values[v.Name], rng)
				if err != nil {
					t.Fatal(err)
				}
				feeds[v.Name] = a
			}
			want, err := theirs.Run(feeds)
			if err != nil {
				t.Fatalf("%v: ONNX Runtime: %v", c, err)
			}
			loaded, err := graph.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := graph.Infer(loaded); err != nil {
				t.Errorf("%v: %v", c, err)
			}
			program, err := runtime.Compile(loaded, runtime.Options{})
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			for _, threads := range []int{1, 2} {
				got, err := program.NewSession(runtime.SessionOptions{Threads: threads, Poison: true}).Run(context.Background(), toTensors(feeds))
				if err != nil {
					t.Fatalf("%v: %v", c, err)
				}
				for name, w := range want {
					g := fromTensor(got[name])
					if fmt.Sprint(g.Shape) != fmt.Sprint(w.Shape) {
						t.Errorf("%v: output %s has shape %v, want %v", c, name, g.Shape, w.Shape)
						continue
					}
					limit := max(c.close, tolerance)
					if e, err := quality.RelativeError(g, w); err != nil || !(e <= limit) {
						t.Errorf("%v: output %s: relative error %.2g, %v\n got %.4v\nwant %.4v", c, name, e, err, head(g), head(w))
					}
				}
			}
			// What inference says is what came out.
			for _, v := range loaded.Graph.Outputs() {
				ty := v.Type()
				if ty.Shape == nil {
					t.Errorf("%v: the shape of output %s is not inferred", c, v.Name)
					continue
				}
				shape := want[v.Name].Shape
				if len(ty.Shape.Dims) != len(shape) {
					t.Errorf("%v: output %s is inferred to be %v, is %v", c, v.Name, ty, shape)
					continue
				}
				for k, d := range ty.Shape.Dims {
					if d.IsKnown() && d.N != shape[k] {
						t.Errorf("%v: output %s is inferred to be %v, is %v", c, v.Name, ty, shape)
					}
				}
			}
		})
	}
}

func head(a nd.Array) []float64 {
	x := a.Float64s()
	return x[:min(len(x), 24)]
}

func randomArray(d graph.DType, shape []int64, given any, rng *rand.Rand) (nd.Array, error) {
	if shape == nil {
		shape = []int64{}
	}
	n := nd.Size(shape)
	if given != nil {
		switch x := given.(type) {
		case []int32:
			return nd.Of(x, shape...), nil
		case []int64:
			return nd.Of(x, shape...), nil
		case []uint8:
			return nd.Of(x, shape...), nil
		case []float32:
			return nd.Of(x, shape...), nil
		case []bool:
			return nd.Of(x, shape...), nil
		}
		return nd.Array{}, fmt.Errorf("no arrays of %T", given)
	}
	switch d {
	case graph.Float32:
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return nd.Of(x, shape...), nil
	case graph.Int32:
		x := make([]int32, n)
		for i := range x {
			x[i] = rng.Int32N(2)
		}
		return nd.Of(x, shape...), nil
	case graph.Int64:
		x := make([]int64, n)
		for i := range x {
			x[i] = rng.Int64N(2)
		}
		return nd.Of(x, shape...), nil
	case graph.Uint8:
		x := make([]uint8, n)
		for i := range x {
			x[i] = uint8(rng.IntN(256))
		}
		return nd.Of(x, shape...), nil
	case graph.Int8:
		x := make([]int8, n)
		for i := range x {
			x[i] = int8(rng.IntN(256))
		}
		return nd.Of(x, shape...), nil
	case graph.Bool:
		x := make([]bool, n)
		for i := range x {
			x[i] = rng.IntN(2) == 0
		}
		return nd.Of(x, shape...), nil
	}
	return nd.Array{}, fmt.Errorf("no random arrays of %v", d)
}
