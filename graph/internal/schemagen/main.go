// Schemagen writes graph/schema.txt, the signatures of the operators that
// lathe knows, from two JSON files:
//
//	go run ./graph/internal/schemagen operators.json contrib_operators.json > graph/schema.txt
//
// Each file is a list of objects, one a signature: domain, op, since, inputs
// and outputs ({name, type, optional, variadic, heterogeneous}), attributes
// ({name, type, required, default}) and types (constraint → type strings).
// The first restates the operator changelog of ONNX (onnx/docs/Changelog.md,
// Apache-2.0), the second the operator documentation of ONNX Runtime
// (docs/ContribOperators.md, MIT). The form of the output is described at the
// top of it.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
)

type param struct {
	Name, Type                        string
	Optional, Variadic, Heterogeneous bool
}

type attribute struct {
	Name, Type string
	Required   bool
	Default    *string
}

type signature struct {
	Domain, Op      string
	Since           int64
	Deprecated      bool
	Inputs, Outputs []param
	Attributes      []attribute
	Types           map[string][]string
}

const header = `# The signatures of ONNX operators, every version of each, as data.
#
# From the operator changelog of ONNX (Apache-2.0, onnx.ai) and, for the domain
# com.microsoft, the operator documentation of ONNX Runtime (MIT). Written by
# internal/schemagen, read by schema.go.
#
#   types NAME TYPE...            a list of types; "float" means "tensor(float)"
#   domain NAME VERSION           the domain of what follows, newest version known
#   op NAME SINCE [deprecated]    a signature, in force from that version on
#   in NAME TYPE [optional] [variadic [mixed] [min0]]     inputs in order
#   out NAME TYPE ...             outputs in order; TYPE is a constraint or a type
#   attr NAME TYPE [required | = DEFAULT]
#   type CONSTRAINT NAME          the types list that a constraint allows
#
# variadic: one or more (min0: or none) at the end; mixed: their types may differ.
`

// corrections are the places where the documentation says less than the
// operator's definition.
func correct(s *signature) {
	previous := map[string]signature{ // signatures that a deprecation blanked
		"Scatter": {
			Inputs:     []param{{Name: "data", Type: "T"}, {Name: "indices", Type: "Tind"}, {Name: "updates", Type: "T"}},
			Outputs:    []param{{Name: "output", Type: "T"}},
			Attributes: []attribute{{Name: "axis", Type: "int", Default: new("0")}},
		},
		"Upsample": {
			Inputs:     []param{{Name: "X", Type: "T"}, {Name: "scales", Type: "tensor(float)"}},
			Outputs:    []param{{Name: "Y", Type: "T"}},
			Attributes: []attribute{{Name: "mode", Type: "string", Default: new("nearest")}},
		},
		"GroupNormalization": {
			Inputs:  []param{{Name: "X", Type: "T"}, {Name: "scale", Type: "T"}, {Name: "bias", Type: "T"}},
			Outputs: []param{{Name: "Y", Type: "T"}},
			Attributes: []attribute{{Name: "epsilon", Type: "float", Default: new("1e-05")},
				{Name: "num_groups", Type: "int", Required: true}},
		},
	}
	if p, ok := previous[s.Op]; ok && s.Deprecated {
		s.Inputs, s.Outputs, s.Attributes = p.Inputs, p.Outputs, p.Attributes
		all := []string{"tensor(bool)", "tensor(complex128)", "tensor(complex64)", "tensor(double)", "tensor(float)",
			"tensor(float16)", "tensor(int16)", "tensor(int32)", "tensor(int64)", "tensor(int8)", "tensor(string)",
			"tensor(uint16)", "tensor(uint32)", "tensor(uint64)", "tensor(uint8)"}
		s.Types = map[string][]string{"T": all}
		if s.Op == "Scatter" {
			s.Types["Tind"] = []string{"tensor(int32)", "tensor(int64)"}
		}
		if s.Op == "GroupNormalization" {
			s.Types["T"] = []string{"tensor(bfloat16)", "tensor(double)", "tensor(float)", "tensor(float16)"}
		}
	}
	if s.Op == "Clip" && s.Since == 6 { // printed with seven digits there
		s.Attributes[0].Default, s.Attributes[1].Default = new("3.4028235e+38"), new("-3.4028235e+38")
	}
}

// minArity0 holds the variadic parameters that may be empty; the rest have at
// least one element.
func minArity0(s signature, name string) bool {
	return s.Op == "Loop" && name == "v_initial" && s.Since >= 11 || s.Op == "SequenceMap" && name == "additional_inputs"
}

var attrTypes = map[string]string{
	"int": "int", "float": "float", "string": "string", "tensor": "tensor", "graph": "graph",
	"list of ints": "ints", "list of floats": "floats", "list of strings": "strings",
	": sparse_tensor": "sparse_tensor", ": type_proto": "type_proto",
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("schemagen: ")
	if len(os.Args) < 2 {
		log.Fatal("usage: schemagen FILE.json...")
	}
	var all []signature
	for _, file := range os.Args[1:] {
		data, err := os.ReadFile(file)
		if err != nil {
			log.Fatal(err)
		}
		var list []signature
		if err := json.Unmarshal(data, &list); err != nil {
			log.Fatalf("%s: %v", file, err)
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b signature) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Op, b.Op), cmp.Compare(a.Since, b.Since))
	})

	var types, body strings.Builder
	sets := map[string]string{} // types list → its name
	newest := map[string]int64{}
	for i := range all {
		correct(&all[i])
		newest[all[i].Domain] = max(newest[all[i].Domain], all[i].Since)
	}
	domain := "?"
	for _, s := range all {
		if s.Domain != domain {
			domain = s.Domain
			fmt.Fprintf(&body, "\ndomain %q %d\n", domain, newest[domain])
		}
		fmt.Fprintf(&body, "op %s %d%s\n", s.Op, s.Since, word(s.Deprecated, "deprecated"))
		for side, list := range [][]param{s.Inputs, s.Outputs} {
			for _, p := range list {
				fmt.Fprintf(&body, "%s %s %s%s%s%s%s\n", []string{"in", "out"}[side], p.Name, p.Type, word(p.Optional, "optional"),
					word(p.Variadic, "variadic"), word(p.Heterogeneous, "mixed"), word(minArity0(s, p.Name), "min0"))
			}
		}
		for _, a := range s.Attributes {
			t, ok := attrTypes[a.Type]
			if !ok {
				log.Fatalf("%s-%d: attribute %s has the unknown type %q", s.Op, s.Since, a.Name, a.Type)
			}
			fmt.Fprintf(&body, "attr %s %s%s%s\n", a.Name, t, word(a.Required, "required"), defaultValue(s, a, t))
		}
		names := make([]string, 0, len(s.Types))
		for n := range s.Types {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			list := make([]string, len(s.Types[n]))
			for i, t := range s.Types[n] {
				list[i] = t
				if inner, ok := strings.CutPrefix(t, "tensor("); ok {
					list[i] = strings.TrimSuffix(inner, ")")
				}
			}
			slices.Sort(list)
			key := strings.Join(list, " ")
			if sets[key] == "" {
				sets[key] = "t" + strconv.Itoa(len(sets)+1)
				fmt.Fprintf(&types, "types %s %s\n", sets[key], key)
			}
			fmt.Fprintf(&body, "type %s %s\n", n, sets[key])
		}
	}
	w := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(w, "%s\n%s%s", header, types.String(), body.String())
	if err := w.Flush(); err != nil {
		log.Fatal(err)
	}
}

func word(on bool, w string) string {
	if on {
		return " " + w
	}
	return ""
}

// defaultValue prints " = VALUE"; strings are quoted and lists separated by
// spaces.
func defaultValue(s signature, a attribute, t string) string {
	if a.Default == nil {
		return ""
	}
	v := *a.Default
	switch t {
	case "int", "float":
		if _, err := strconv.ParseFloat(v, 64); err != nil {
			log.Fatalf("%s-%d: attribute %s has the default %q", s.Op, s.Since, a.Name, v)
		}
	case "string":
		v = strconv.Quote(v)
	case "ints", "strings":
		var parts []string
		for _, e := range strings.Split(strings.Trim(v, "[]"), ",") {
			e = strings.Trim(e, " '")
			if t == "strings" {
				e = strconv.Quote(e)
			}
			parts = append(parts, e)
		}
		v = strings.Join(parts, " ")
	default:
		log.Fatalf("%s-%d: attribute %s of type %s has a default", s.Op, s.Since, a.Name, t)
	}
	return " = " + v
}
