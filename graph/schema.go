package graph

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// schemaText holds the signatures; its first lines describe its form.
//
//go:embed schema.txt
var schemaText string

// Schema is the signature of one version of an operator.
type Schema struct {
	Domain, Op string
	Since      int64 // the opset that it is in force from
	Deprecated bool  // no longer to be used from that opset on
	Inputs     []Param
	Outputs    []Param
	Attrs      []AttrSpec
	Types      map[string]*TypeSet // the type constraints, such as "T"

	// MinInputs … MaxOutputs count the inputs and outputs a node may have,
	// optional ones that are left out in the middle included.
	MinInputs, MaxInputs, MinOutputs, MaxOutputs int
}

// Param is a formal input or output.
type Param struct {
	Name     string
	TypeStr  string // a constraint ("T") or a type ("tensor(int64)")
	Optional bool
	Variadic bool // stands for all inputs from here on
	Mixed    bool // the elements of a variadic may differ in type
	minimum  int  // fewest elements of a variadic
	types    *TypeSet
}

// AttrSpec is a formal attribute. Default is nil where there is none; it must
// not be changed.
type AttrSpec struct {
	Name     string
	Type     AttrType
	Required bool
	Default  *Attr
}

// TypeSet is a set of types written as ONNX does: "tensor(float)",
// "seq(tensor(int64))".
type TypeSet struct {
	Names   []string
	tensors uint64 // bit d is set where tensor(d) is a member
}

// Allows reports whether a value of type t may stand for the parameter; a
// type that is not known may.
func (p *Param) Allows(t *Type) bool { return p.types == nil || p.types.Has(t) }

// Has reports whether t is in the set; a type or element type that is not
// known is in every set.
func (s *TypeSet) Has(t *Type) bool {
	if t == nil || t.Kind == KindUnknown {
		return true
	}
	if t.Kind == KindTensor {
		return t.Elem == Undefined || !t.Elem.Known() || s.tensors>>uint(t.Elem)&1 == 1
	}
	name, whole := t.typeString()
	return !whole || slices.Contains(s.Names, name)
}

// typeString returns the ONNX type string of t, without its dims; whole is
// false where a part of it is not known.
func (t *Type) typeString() (s string, whole bool) {
	if t == nil {
		return "?", false
	}
	sub := func(format string) (string, bool) {
		inner, whole := t.Sub.typeString()
		return fmt.Sprintf(format, inner), whole
	}
	switch t.Kind {
	case KindTensor:
		return "tensor(" + t.Elem.String() + ")", t.Elem.Known()
	case KindSparseTensor:
		return "sparse_tensor(" + t.Elem.String() + ")", t.Elem.Known()
	case KindSequence:
		return sub("seq(%s)")
	case KindOptional:
		return sub("optional(%s)")
	case KindMap:
		inner, whole := t.Sub.typeString()
		return "map(" + t.Key.String() + "," + inner + ")", whole && t.Key.Known()
	}
	return "?", false
}

// Input returns the formal parameter for input i: the last one for all that a
// variadic stands for, nil past the end.
func (s *Schema) Input(i int) *Param { return formal(s.Inputs, i) }

// Output returns the formal parameter for output i, as Input does.
func (s *Schema) Output(i int) *Param { return formal(s.Outputs, i) }

func formal(list []Param, i int) *Param {
	switch n := len(list); {
	case i < n:
		return &list[i]
	case n > 0 && list[n-1].Variadic:
		return &list[n-1]
	}
	return nil
}

// Attr returns the formal attribute of that name, nil if there is none.
func (s *Schema) Attr(name string) *AttrSpec {
	for i := range s.Attrs {
		if s.Attrs[i].Name == name {
			return &s.Attrs[i]
		}
	}
	return nil
}

// LookupSchema returns the signature of an operator that is in force at an
// opset: the newest with Since ≤ opset. It reports false for an operator that
// is not known, and for every operator of an opset newer than the ones the
// tables were made from, where a newer signature may exist.
func LookupSchema(domain, op string, opset int64) (*Schema, bool) {
	t := schemas()
	domain = NormalDomain(domain)
	if opset > t.newest[domain] {
		return nil, false
	}
	list := t.ops[opKey{domain, op}]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Since <= opset {
			return list[i], true
		}
	}
	return nil, false
}

// Schema returns the signature of the node's operator at the opset in force where
// it stands, and whether it is known; see [LookupSchema].
func (n *Node) Schema() (*Schema, bool) { return LookupSchema(n.Domain, n.Op, n.Opset()) }

type opKey struct{ domain, op string }

type schemaTable struct {
	ops    map[opKey][]*Schema // in ascending order of Since
	newest map[string]int64    // domain → newest opset known
}

// schemas reads the table at its first use, which takes a few milliseconds.
var schemas = sync.OnceValue(func() *schemaTable {
	t, err := parseSchemas(schemaText)
	if err != nil {
		panic("graph: schema.txt: " + err.Error())
	}
	return t
})

var attrTypeNames = [...]string{
	AttrUndefined: "undefined",
	AttrFloat:     "float",
	AttrInt:       "int",
	AttrString:    "string",
	AttrTensor:    "tensor",
	AttrGraph:     "graph",
	AttrFloats:    "floats",
	AttrInts:      "ints",
	AttrStrings:   "strings",
	AttrTensors:   "tensors",
	AttrGraphs:    "graphs",
	AttrSparse:    "sparse_tensor",
	AttrSparses:   "sparse_tensors",
	AttrTypeProto: "type_proto",
	AttrTypes:     "type_protos",
}

// String returns the name used in ONNX's textual syntax, such as "ints".
func (t AttrType) String() string {
	if t >= 0 && int(t) < len(attrTypeNames) {
		return attrTypeNames[t]
	}
	return fmt.Sprintf("attrtype(%d)", int32(t))
}

// ParseAttrType is the inverse of AttrType.String.
func ParseAttrType(name string) (AttrType, bool) {
	i := slices.Index(attrTypeNames[:], name)
	return AttrType(i), i > 0
}

func parseSchemas(text string) (*schemaTable, error) {
	t := &schemaTable{ops: map[opKey][]*Schema{}, newest: map[string]int64{}}
	sets := map[string]*TypeSet{}
	var domain string
	var s *Schema
	line := 0
	for l := range strings.Lines(text) {
		line++
		l, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " = ")
		f := strings.Fields(l)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		bad := func(err error) error { return fmt.Errorf("line %d: %q: %v", line, l, err) }
		if len(f) < 3 || s == nil && f[0] != "types" && f[0] != "domain" && f[0] != "op" {
			return nil, bad(fmt.Errorf("unexpected line"))
		}
		switch f[0] {
		case "types":
			sets[f[1]] = newTypeSet(f[2:])
		case "domain":
			domain = strings.Trim(f[1], `"`)
			version, err := strconv.ParseInt(f[2], 10, 64)
			if err != nil {
				return nil, bad(err)
			}
			t.newest[domain] = version
		case "op":
			since, err := strconv.ParseInt(f[2], 10, 64)
			if err != nil {
				return nil, bad(err)
			}
			s = &Schema{Domain: domain, Op: f[1], Since: since, Deprecated: len(f) > 3, Types: map[string]*TypeSet{}}
			key := opKey{domain, f[1]}
			t.ops[key] = append(t.ops[key], s)
		case "in":
			s.Inputs = append(s.Inputs, newParam(f))
		case "out":
			s.Outputs = append(s.Outputs, newParam(f))
		case "attr":
			a := AttrSpec{Name: f[1], Required: slices.Contains(f[3:], "required")}
			a.Type, _ = ParseAttrType(f[2])
			if value != "" {
				var err error
				if a.Default, err = parseDefault(a.Name, a.Type, value); err != nil {
					return nil, bad(err)
				}
			}
			s.Attrs = append(s.Attrs, a)
		case "type":
			if s.Types[f[1]] = sets[f[2]]; sets[f[2]] == nil {
				return nil, bad(fmt.Errorf("no such list of types"))
			}
		default:
			return nil, bad(fmt.Errorf("unknown word"))
		}
	}
	for _, list := range t.ops {
		for _, s := range list {
			s.MinInputs, s.MaxInputs = s.complete(s.Inputs, sets)
			s.MinOutputs, s.MaxOutputs = s.complete(s.Outputs, sets)
		}
	}
	return t, nil
}

// newTypeSet makes a set of type strings, where "float" is short for
// "tensor(float)".
func newTypeSet(short []string) *TypeSet {
	set := &TypeSet{Names: make([]string, len(short))}
	for i, name := range short {
		set.Names[i] = name
		if d, ok := ParseDType(name); ok {
			set.Names[i] = "tensor(" + name + ")"
			set.tensors |= 1 << uint(d)
		}
	}
	return set
}

func newParam(f []string) Param {
	p := Param{Name: f[1], TypeStr: f[2]}
	for _, word := range f[3:] {
		switch word {
		case "optional":
			p.Optional = true
		case "variadic":
			p.Variadic, p.minimum = true, 1
		case "mixed":
			p.Mixed = true
		case "min0":
			p.minimum = 0
		}
	}
	return p
}

// maxArity is the most inputs or outputs of a variadic operator.
const maxArity = 1 << 30

// complete resolves the types of a parameter list and returns how many
// arguments it takes: at least up to the last that is required.
func (s *Schema) complete(list []Param, sets map[string]*TypeSet) (least, most int) {
	most = len(list)
	for i := range list {
		p := &list[i]
		p.types = s.Types[p.TypeStr]
		if inner, ok := strings.CutPrefix(p.TypeStr, "tensor("); p.types == nil && ok {
			if sets[p.TypeStr] == nil {
				sets[p.TypeStr] = newTypeSet([]string{strings.TrimSuffix(inner, ")")})
			}
			p.types = sets[p.TypeStr]
		}
		switch {
		case p.Variadic:
			least, most = i+p.minimum, maxArity
		case !p.Optional:
			least = i + 1
		}
	}
	return least, most
}

func parseDefault(name string, t AttrType, value string) (*Attr, error) {
	a := &Attr{Name: name, Type: t}
	var err error
	switch t {
	case AttrInt:
		a.I, err = strconv.ParseInt(value, 10, 64)
	case AttrFloat:
		var f float64
		f, err = strconv.ParseFloat(value, 32)
		a.F = float32(f)
	case AttrString:
		var s string
		s, err = strconv.Unquote(value)
		a.S = []byte(s)
	case AttrInts:
		for _, e := range strings.Fields(value) {
			var n int64
			if n, err = strconv.ParseInt(e, 10, 64); err != nil {
				break
			}
			a.Ints = append(a.Ints, n)
		}
	case AttrStrings:
		for _, e := range strings.Fields(value) {
			a.Strings = append(a.Strings, []byte(strings.Trim(e, `"`)))
		}
	default:
		err = fmt.Errorf("attributes of type %v have no default", t)
	}
	return a, err
}

// Operators returns the names of the operators of a domain whose signatures
// are known, sorted, and the newest opset that they are from.
func Operators(domain string) (names []string, newest int64) {
	t := schemas()
	domain = NormalDomain(domain)
	for key := range t.ops {
		if key.domain == domain {
			names = append(names, key.op)
		}
	}
	slices.Sort(names)
	return names, t.newest[domain]
}
