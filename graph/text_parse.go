package graph

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxTextDepth bounds how deep graphs and types nest in a text.
const maxTextDepth = 64

// TextError says where a text is not what Parse expects; Line and Column (in
// bytes) count from 1.
type TextError struct {
	Line, Column int
	Msg          string
}

func (e *TextError) Error() string { return fmt.Sprintf("text %d:%d: %s", e.Line, e.Column, e.Msg) }

// Parse reads a model in ONNX's textual syntax (onnx/docs/Syntax.md), as
// [Model.Text] writes it; what goes beyond ONNX is listed at the top of text.go. Nodes may stand in any order
// (Check and Sort are for that), but every name that is read must be defined,
// and none twice in a graph. Errors are of type *[TextError].
func Parse(text string) (m *Model, err error) {
	p := &parser{text: text, functions: map[[3]string]bool{}}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*TextError)
			if !ok {
				panic(r)
			}
			m, err = nil, e
		}
	}()
	return p.model(), nil
}

// parser is a recursive-descent parser over the characters of the text; it
// leaves by a panic with a *TextError, which Parse catches.
type parser struct {
	text  string
	pos   int
	depth int

	functions map[[3]string]bool // domain, name and overload of those read

	// Names are resolved when all of a top-level graph was read, so that
	// nodes may stand in any order.
	inputs  []pendingInputs
	outputs []pendingValue
	decls   []pendingValue
}

type pendingInputs struct {
	node  *Node
	names []string
	at    []int
}

type pendingValue struct {
	graph *Graph
	declared
}

// declared is a name with an optional type, at a place in the text.
type declared struct {
	typ  *Type
	name string
	doc  string
	at   int
}

func (p *parser) failAt(pos int, format string, args ...any) {
	before := p.text[:pos]
	panic(&TextError{
		Line:   1 + strings.Count(before, "\n"),
		Column: pos - strings.LastIndexByte(before, '\n'),
		Msg:    fmt.Sprintf(format, args...),
	})
}

func (p *parser) fail(format string, args ...any) { p.failAt(p.pos, format, args...) }

// enter bounds the nesting; leave undoes it.
func (p *parser) enter() {
	if p.depth++; p.depth > maxTextDepth {
		p.fail("nested deeper than %d", maxTextDepth)
	}
}

func (p *parser) leave() { p.depth-- }

// Characters and tokens.

// skip goes to the next character that is neither space nor comment.
func (p *parser) skip() {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			p.pos++
		case c == '#':
			if i := strings.IndexByte(p.text[p.pos:], '\n'); i >= 0 {
				p.pos += i
			} else {
				p.pos = len(p.text)
			}
		default:
			return
		}
	}
}

// next returns the next character without taking it, 0 at the end.
func (p *parser) next() byte {
	p.skip()
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// match takes s if it comes next.
func (p *parser) match(s string) bool {
	p.skip()
	if strings.HasPrefix(p.text[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

func (p *parser) expect(s string) {
	if !p.match(s) {
		p.fail("expected %q, found %s", s, p.found())
	}
}

// found describes what comes next, for messages.
func (p *parser) found() string {
	if p.next() == 0 && p.pos >= len(p.text) {
		return "the end"
	}
	rest := p.text[p.pos:]
	if i := strings.IndexAny(rest, " \t\r\n,(){}<>=[]"); i > 0 {
		rest = rest[:i]
	} else if i == 0 {
		rest = rest[:1]
	}
	if len(rest) > 20 {
		rest = rest[:20] + "…"
	}
	return strconv.Quote(rest)
}

// peekWord returns the identifier that comes next without taking it, "" if
// none does.
func (p *parser) peekWord() string {
	p.skip()
	i := p.pos
	for i < len(p.text) && (isLetter(p.text[i]) || i > p.pos && p.text[i] >= '0' && p.text[i] <= '9') {
		i++
	}
	return p.text[p.pos:i]
}

func (p *parser) word() string {
	w := p.peekWord()
	if w == "" {
		p.fail("expected a word, found %s", p.found())
	}
	p.pos += len(w)
	return w
}

// optionalName takes an identifier or a string; it reports false if neither
// comes next.
func (p *parser) optionalName() (string, bool) {
	if p.next() == '"' {
		return p.str(), true
	}
	w := p.peekWord()
	p.pos += len(w)
	return w, w != ""
}

func (p *parser) name() string {
	s, ok := p.optionalName()
	if !ok {
		p.fail("expected a name, found %s", p.found())
	}
	return s
}

func (p *parser) str() string {
	if p.next() != '"' {
		p.fail("expected a string, found %s", p.found())
	}
	start := p.pos
	p.pos++
	if i := strings.IndexAny(p.text[p.pos:], `"\`); i >= 0 && p.text[p.pos+i] == '"' {
		s := p.text[p.pos : p.pos+i]
		p.pos += i + 1
		return s
	}
	var b strings.Builder
	for {
		if p.pos >= len(p.text) {
			p.failAt(start, "the string does not end")
		}
		c := p.text[p.pos]
		p.pos++
		if c == '"' {
			return b.String()
		}
		if c == '\\' {
			if p.pos >= len(p.text) {
				p.failAt(start, "the string does not end")
			}
			c = p.text[p.pos]
			p.pos++
			switch c {
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'x':
				if p.pos+2 > len(p.text) {
					p.failAt(start, "the string does not end")
				}
				v, err := strconv.ParseUint(p.text[p.pos:p.pos+2], 16, 8)
				if err != nil {
					p.fail(`\x needs two hexadecimal digits`)
				}
				c = byte(v)
				p.pos += 2
			}
		}
		b.WriteByte(c)
	}
}

// number takes a number and returns its text: digits, a decimal fraction, or
// one of inf, infinity and nan with an optional sign.
func (p *parser) number() string {
	p.skip()
	start := p.pos
	if p.pos < len(p.text) && (p.text[p.pos] == '-' || p.text[p.pos] == '+') {
		p.pos++
	}
	if w := p.peekWordHere(); isFloatWord(w) {
		p.pos += len(w)
		if w == "nan" && strings.HasPrefix(p.text[p.pos:], "(0x") {
			if i := strings.IndexByte(p.text[p.pos:], ')'); i > 0 {
				p.pos += i + 1
			}
		}
		return p.text[start:p.pos]
	}
	digits := 0
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		exponent := p.pos > start && p.text[p.pos-1]|0x20 == 'e'
		if c >= '0' && c <= '9' {
			digits++
		} else if c != '.' && (c|0x20 != 'e' || digits == 0) && (!exponent || c != '-' && c != '+') {
			break
		}
		p.pos++
	}
	if digits == 0 {
		p.pos = start
		p.fail("expected a number, found %s", p.found())
	}
	return p.text[start:p.pos]
}

func (p *parser) peekWordHere() string {
	if p.pos < len(p.text) && isLetter(p.text[p.pos]) {
		return p.peekWord()
	}
	return ""
}

func (p *parser) int() int64 {
	at := p.at()
	s := p.number()
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		p.failAt(at, "%q is no 64-bit integer", s)
	}
	return v
}

// at is the place of the next token.
func (p *parser) at() int {
	p.skip()
	return p.pos
}

// float converts a number to a float of that many bits and returns its bits.
func (p *parser) float(at int, s string, bits int) uint64 {
	if hex, ok := strings.CutPrefix(s, "nan(0x"); ok {
		v, err := strconv.ParseUint(strings.TrimSuffix(hex, ")"), 16, bits)
		f := math.Float64frombits(v)
		if bits == 32 {
			f = float64(math.Float32frombits(uint32(v)))
		}
		if err != nil || f == f {
			p.failAt(at, "%q is no %d-bit NaN", s, bits)
		}
		return v
	}
	negative := strings.HasPrefix(s, "-")
	if strings.EqualFold(strings.TrimLeft(s, "+-"), "nan") {
		v := uint64(0x7fc00000)
		if bits == 64 {
			v = 0x7ff8000000000000
		}
		if negative {
			v |= 1 << (bits - 1)
		}
		return v
	}
	f, err := strconv.ParseFloat(s, bits)
	if err != nil {
		p.failAt(at, "%q is no %d-bit floating-point number", s, bits)
	}
	if bits == 32 {
		return uint64(math.Float32bits(float32(f)))
	}
	return math.Float64bits(f)
}

// Model, functions and graphs.

func (p *parser) model() *Model {
	m := &Model{}
	if p.match("<") {
		p.header(func(key string) bool {
			switch key {
			case "ir_version":
				m.IRVersion = p.int()
			case "opset_import":
				m.Opsets = p.opsets()
			case "producer_name":
				m.ProducerName = p.str()
			case "producer_version":
				m.ProducerVersion = p.str()
			case "domain":
				m.Domain = p.str()
			case "model_version":
				m.ModelVersion = p.int()
			case "doc_string":
				m.Doc = p.str()
			case "metadata_props":
				m.Metadata = p.metadata()
			default:
				return false
			}
			return true
		})
	}
	m.Graph = newGraph(m, nil, nil)
	m.Graph.Name = p.name()
	p.graph(m.Graph)
	p.resolve()
	for p.next() != 0 {
		p.function(m)
		p.resolve()
	}
	if p.pos < len(p.text) { // a zero byte
		p.fail("expected a function or the end, found %s", p.found())
	}
	return m
}

// header reads "key: value" pairs up to the closing bracket; field reports
// false for a key that it does not know.
func (p *parser) header(field func(key string) bool) {
	for {
		at := p.at()
		key := p.word()
		p.expect(":")
		if !field(key) {
			p.failAt(at, "unknown field %q", key)
		}
		if !p.match(",") {
			break
		}
	}
	p.expect(">")
}

func (p *parser) opsets() []Opset {
	var list []Opset
	p.expect("[")
	for p.next() != ']' {
		domain := p.str()
		p.expect(":")
		list = append(list, Opset{Domain: domain, Version: p.int()})
		if !p.match(",") {
			break
		}
	}
	p.expect("]")
	return list
}

func (p *parser) metadata() []Metadata {
	var list []Metadata
	p.expect("[")
	for p.next() != ']' {
		key := p.str()
		p.expect(":")
		list = append(list, Metadata{Key: key, Value: p.str()})
		if !p.match(",") {
			break
		}
	}
	p.expect("]")
	return list
}

// notes reads doc strings and, where meta is not nil, metadata.
func (p *parser) notes(doc *string, meta *[]Metadata) {
	for {
		switch {
		case p.match("@doc"):
			*doc = p.str()
		case meta != nil && p.match("@meta"):
			*meta = p.metadata()
		default:
			return
		}
	}
}

func (p *parser) function(m *Model) {
	f := &Function{model: m}
	if p.match("<") {
		p.header(func(key string) bool {
			switch key {
			case "domain":
				f.Domain = p.str()
			case "opset_import":
				f.Opsets = p.opsets()
			case "overload":
				f.Overload = p.str()
			case "doc_string":
				f.Doc = p.str()
			case "metadata_props":
				f.Metadata = p.metadata()
			default:
				return false
			}
			return true
		})
	}
	at := p.at()
	f.Name = p.name()
	key := [3]string{NormalDomain(f.Domain), f.Name, f.Overload}
	if p.functions[key] {
		p.failAt(at, "function %s.%s is defined twice", f.Domain, f.Name)
	}
	p.functions[key] = true
	g := newGraph(m, f, nil)
	g.Name, f.Graph = f.Name, g
	m.Functions = append(m.Functions, f)
	if p.match("<") {
		for p.next() != '>' {
			name := p.name()
			if c := p.next(); c == ':' || c == '=' {
				f.AttrDefaults = append(f.AttrDefaults, p.attr(name, g, nil))
			} else {
				f.AttrNames = append(f.AttrNames, name)
			}
			if !p.match(",") {
				break
			}
		}
		p.expect(">")
	}
	p.graph(g)
}

// graph reads what follows a graph's name.
func (p *parser) graph(g *Graph) {
	p.enter()
	defer p.leave()
	p.expect("(")
	for p.next() != ')' {
		d := p.declaration()
		v := p.define(g, d)
		v.Declared, v.Doc, v.input = d.typ, d.doc, true
		g.inputs = append(g.inputs, v)
		if p.match("=") {
			p.initializer(v, d)
		}
		if !p.match(",") {
			break
		}
	}
	p.expect(")")
	p.expect("=>")
	p.expect("(")
	for p.next() != ')' {
		p.outputs = append(p.outputs, pendingValue{g, p.declaration()})
		if !p.match(",") {
			break
		}
	}
	p.expect(")")
	p.notes(&g.Doc, &g.Metadata)
	if p.match("<") {
		for p.next() != '>' {
			d := p.declaration()
			if !p.match("=") {
				p.decls = append(p.decls, pendingValue{g, d})
			} else {
				v := g.values[d.name]
				if v == nil {
					v = p.define(g, d)
				} else if !v.input || v.IsInitializer() {
					p.failAt(d.at, "%q is defined already", d.name)
				}
				p.initializer(v, d)
				if d.doc != "" {
					v.Doc = d.doc
				}
			}
			if !p.match(",") {
				break
			}
		}
		p.expect(">")
	}
	p.expect("{")
	for p.next() != '}' {
		p.node(g)
	}
	p.expect("}")
}

func (p *parser) define(g *Graph, d declared) *Value {
	if d.name == "" {
		p.failAt(d.at, "a value needs a name")
	}
	if g.values[d.name] != nil {
		p.failAt(d.at, "%q is defined already", d.name)
	}
	return g.newValue(d.name)
}

// declaration reads an optional type, a name and an optional doc string.
func (p *parser) declaration() declared {
	var d declared
	if isTypeWord(p.peekWord()) {
		d.typ = p.typ()
	}
	d.at = p.at()
	d.name = p.name()
	p.notes(&d.doc, nil)
	return d
}

// initializer reads the data of v.
func (p *parser) initializer(v *Value, d declared) {
	if d.typ != nil && d.typ.Kind == KindSparseTensor {
		v.Sparse = p.sparseData(d.typ, d.at)
	} else {
		v.Const = p.tensorData(d.typ, d.at)
		v.Const.Name = d.name
	}
	v.graph.inits = append(v.graph.inits, v)
}

func (p *parser) node(g *Graph) {
	n := &Node{graph: g}
	if p.match("[") {
		n.Name = p.name()
		p.expect("]")
	}
	names, at := p.names()
	p.expect("=")
	n.Op = p.name()
	for p.match(".") {
		if n.Domain != "" {
			n.Domain += "."
		}
		n.Domain += n.Op
		n.Op = p.name()
	}
	if p.match(":") {
		n.Overload = p.name()
	}
	g.nodes = append(g.nodes, n)
	for i, name := range names {
		if name == "" {
			n.outputs = append(n.outputs, nil)
			continue
		}
		v := p.define(g, declared{name: name, at: at[i]})
		v.def, v.defIndex = n, i
		n.outputs = append(n.outputs, v)
	}
	p.attrs(n)
	p.expect("(")
	names, at = p.names()
	p.expect(")")
	p.inputs = append(p.inputs, pendingInputs{n, names, at})
	if len(n.Attrs) == 0 {
		p.attrs(n)
	}
	p.notes(&n.Doc, &n.Metadata)
}

// names reads names separated by commas; one that is left out, or "", stands
// for an optional value that is left out.
func (p *parser) names() (names []string, at []int) {
	for {
		pos := p.at()
		name, ok := p.optionalName()
		if !ok && p.next() != ',' {
			return names, at
		}
		names, at = append(names, name), append(at, pos)
		if !p.match(",") {
			return names, at
		}
	}
}

func (p *parser) attrs(n *Node) {
	if !p.match("<") {
		return
	}
	seen := map[string]bool{}
	for p.next() != '>' {
		at := p.at()
		name := p.name()
		if seen[name] {
			p.failAt(at, "attribute %q is set twice", name)
		}
		seen[name] = true
		n.Attrs = append(n.Attrs, p.attr(name, n.graph, n))
		if !p.match(",") {
			break
		}
	}
	p.expect(">")
}

// resolve connects the names that were read.
func (p *parser) resolve() {
	for _, d := range p.decls {
		v := d.graph.values[d.name]
		if v == nil {
			p.failAt(d.at, "%q is declared and nothing defines it", d.name)
		}
		p.declare(v, d.declared)
	}
	for _, o := range p.outputs {
		v := o.graph.Lookup(o.name)
		if v == nil {
			p.failAt(o.at, "nothing defines the output %q", o.name)
		}
		p.declare(v, o.declared)
		o.graph.outputs = append(o.graph.outputs, v)
	}
	for _, in := range p.inputs {
		n := in.node
		n.inputs = make([]*Value, len(in.names))
		for i, name := range in.names {
			if name == "" {
				continue
			}
			v := n.graph.Lookup(name)
			if v == nil {
				p.failAt(in.at[i], "nothing defines %q", name)
			}
			n.inputs[i] = v
			v.uses = append(v.uses, Use{n, i})
		}
	}
	p.decls, p.outputs, p.inputs = p.decls[:0], p.outputs[:0], p.inputs[:0]
}

// declare gives v a type and doc string, which it may be given twice only if
// they are the same.
func (p *parser) declare(v *Value, d declared) {
	if d.typ != nil {
		if v.Declared != nil && !v.Declared.Equal(d.typ) {
			p.failAt(d.at, "%q is declared as %v and as %v", d.name, v.Declared, d.typ)
		}
		v.Declared = d.typ
	}
	if d.doc != "" {
		v.Doc = d.doc
	}
}

// Types.

func (p *parser) typ() *Type {
	p.enter()
	defer p.leave()
	at := p.at()
	word := p.word()
	t := &Type{}
	sub := func() {
		p.expect("(")
		t.Sub = p.typ()
		p.expect(")")
	}
	switch word {
	case "unknown":
		return t
	case "opaque":
		p.expect("(")
		for p.next() != ')' { // names, which lathe does not keep
			p.name()
			if !p.match(".") && !p.match(",") {
				break
			}
		}
		p.expect(")")
		t.Kind = KindOpaque
	case "seq":
		t.Kind = KindSequence
		sub()
	case "optional":
		t.Kind = KindOptional
		sub()
	case "map":
		t.Kind = KindMap
		p.expect("(")
		t.Key = p.elemType(p.word())
		p.expect(",")
		t.Sub = p.typ()
		p.expect(")")
	case "sparse_tensor":
		t.Kind = KindSparseTensor
		p.expect("(")
		t.Elem = p.elemType(p.word())
		t.Shape = p.shape()
		p.expect(")")
	default:
		if !isTypeWord(word) {
			p.failAt(at, "expected a type, found %q", word)
		}
		t.Kind = KindTensor
		t.Elem = p.elemType(word)
		t.Shape = p.shape()
	}
	return t
}

func (p *parser) elemType(word string) DType {
	if d, ok := ParseDType(word); ok {
		return d
	}
	switch word {
	case "undefined":
		return Undefined
	case "dtype":
		p.expect("(")
		at := p.at()
		n := p.int()
		p.expect(")")
		if n != int64(int32(n)) {
			p.failAt(at, "%d is no element type", n)
		}
		return DType(n)
	}
	p.fail("expected an element type, found %q", word)
	return 0
}

// shape reads the dims behind an element type: none is a scalar, "[]" an
// unknown rank.
func (p *parser) shape() *Shape {
	if !p.match("[") {
		return &Shape{}
	}
	if p.match("]") {
		return nil
	}
	s := &Shape{}
	for {
		if p.match("?") {
			s.Dims = append(s.Dims, UnknownDim)
		} else if sym, ok := p.optionalName(); ok {
			if sym == "" {
				p.fail("a dimension needs a name; an unknown one is written ?")
			}
			s.Dims = append(s.Dims, Symbol(sym))
		} else {
			at := p.at()
			n := p.int()
			if n < 0 {
				p.failAt(at, "negative dimension %d", n)
			}
			s.Dims = append(s.Dims, Known(n))
		}
		if !p.match(",") {
			break
		}
	}
	p.expect("]")
	return s
}

// Attributes.

// listType maps the type of an element to that of a list.
var listType = map[AttrType]AttrType{
	AttrInt: AttrInts, AttrFloat: AttrFloats, AttrString: AttrStrings, AttrTensor: AttrTensors,
	AttrGraph: AttrGraphs, AttrSparse: AttrSparses, AttrTypeProto: AttrTypes,
}

// elementType is the inverse of listType.
var elementType = map[AttrType]AttrType{
	AttrInts: AttrInt, AttrFloats: AttrFloat, AttrStrings: AttrString, AttrTensors: AttrTensor,
	AttrGraphs: AttrGraph, AttrSparses: AttrSparse, AttrTypes: AttrTypeProto,
}

// attr reads what follows an attribute's name; graphs that it holds lie
// around n in g.
func (p *parser) attr(name string, g *Graph, n *Node) *Attr {
	a := &Attr{Name: name}
	at := p.at()
	if p.match(":") {
		at = p.at()
		word := p.word()
		var ok bool
		if a.Type, ok = ParseAttrType(word); !ok && word != "undefined" {
			p.failAt(at, "unknown attribute type %q", word)
		}
	}
	p.expect("=")
	defer func() { p.notes(&a.Doc, nil) }()
	if !p.match("[") {
		want := a.Type
		p.single(a, want, g, n)
		if want != AttrUndefined && a.Type != want {
			p.failAt(at, "attribute %q is declared as %v and given as %v", name, want, a.Type)
		}
		return a
	}
	elem := elementType[a.Type]
	if a.Type != AttrUndefined && elem == AttrUndefined {
		p.failAt(at, "attribute %q of type %v is given as a list", name, a.Type)
	}
	var list []Attr
	for p.next() != ']' {
		var e Attr
		at := p.at()
		p.single(&e, elem, g, n)
		if e.Ref != "" {
			p.failAt(at, "a reference cannot be an element of a list")
		}
		switch {
		case elem == AttrUndefined:
			elem = e.Type
		case elem == AttrInt && e.Type == AttrFloat && a.Type == AttrUndefined: // [1, 2.5]
			for i := range list {
				list[i].F = float32(list[i].I)
			}
			elem = AttrFloat
		case elem == AttrFloat && e.Type == AttrInt:
			e.F = float32(e.I)
		case elem != e.Type:
			p.failAt(at, "attribute %q is a list of %v and has an element of type %v", name, elem, e.Type)
		}
		list = append(list, e)
		if !p.match(",") {
			break
		}
	}
	p.expect("]")
	a.Type = listType[elem]
	for _, e := range list {
		switch elem {
		case AttrInt:
			a.Ints = append(a.Ints, e.I)
		case AttrFloat:
			a.Floats = append(a.Floats, e.F)
		case AttrString:
			a.Strings = append(a.Strings, e.S)
		case AttrTensor:
			a.Tensors = append(a.Tensors, e.T)
		case AttrGraph:
			a.Graphs = append(a.Graphs, e.G)
		case AttrSparse:
			a.Sparses = append(a.Sparses, e.Sparse)
		case AttrTypeProto:
			a.Types = append(a.Types, e.TP)
		}
	}
	return a
}

// single reads one attribute value; want is its type if that is known.
func (p *parser) single(a *Attr, want AttrType, g *Graph, n *Node) {
	at := p.at()
	switch c := p.next(); {
	case c == '@':
		p.pos++
		a.Ref = p.name()
		a.Type = want
	case c == '"':
		s := p.str()
		if want == AttrGraph || want == AttrUndefined && p.next() == '(' {
			a.Type, a.G = AttrGraph, p.subgraph(s, g, n)
			return
		}
		a.Type, a.S = AttrString, []byte(s)
	case isLetter(c) && isTypeWord(p.peekWord()) && want != AttrGraph:
		t := p.typ()
		name, named := p.optionalName()
		switch hasData := p.match("=") || p.next() == '{' || p.next() == '[' || named; {
		case !hasData:
			a.Type, a.TP = AttrTypeProto, t
		case t.Kind == KindSparseTensor:
			a.Type, a.Sparse = AttrSparse, p.sparseData(t, at)
		default:
			a.Type, a.T = AttrTensor, p.tensorData(t, at)
			a.T.Name = name
		}
	case isLetter(c) && !(isFloatWord(p.peekWord()) && want != AttrGraph):
		a.Type, a.G = AttrGraph, p.subgraph(p.word(), g, n)
	default:
		s := p.number()
		if want == AttrFloat || strings.ContainsAny(s, ".eEnN") {
			a.Type, a.F = AttrFloat, math.Float32frombits(uint32(p.float(at, s, 32)))
			return
		}
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			p.failAt(at, "%q is no 64-bit integer", s)
		}
		a.Type, a.I = AttrInt, v
	}
}

func (p *parser) subgraph(name string, around *Graph, n *Node) *Graph {
	g := newGraph(around.model, around.fn, n)
	g.Name = name
	p.graph(g)
	return g
}

// Tensors.

// tensorData reads the data of a tensor of type t, whose declaration stands
// at the given place.
func (p *parser) tensorData(t *Type, at int) *Tensor {
	if t == nil || t.Kind != KindTensor {
		p.failAt(at, "data needs the type of a tensor, such as float[2,3]")
	}
	dims, ok := t.StaticDims()
	n, fits := NumElements(dims)
	if !ok || !fits {
		p.failAt(at, "data needs fixed dims, found %v", t)
	}
	if len(dims) == 0 {
		dims = nil
	}
	if p.next() == '[' {
		p.fail("the data lie in another file, which a text does not carry")
	}
	p.expect("{")
	if strings.HasPrefix(p.text[p.at():], "...") {
		p.fail("the data were left out when the text was printed")
	}
	out := &Tensor{DType: t.Elem, Dims: dims}
	bits := int64(t.Elem.Bits())
	if bits == 0 && t.Elem != String {
		p.failAt(at, "data of type %v have no textual form", t.Elem)
	}
	parts := int64(1)
	if t.Elem == Complex64 || t.Elem == Complex128 {
		parts, bits = 2, bits/2
	}
	count := int64(0)
	for ; p.next() != '}'; count++ {
		if t.Elem == String {
			out.strs = append(out.strs, []byte(p.str()))
		} else {
			out.raw = p.element(out.raw, t.Elem, int(bits), count)
		}
		if !p.match(",") {
			count++
			break
		}
	}
	p.expect("}")
	if count%parts != 0 || count/parts != n {
		p.failAt(at, "%v has %d elements, the data %d", t, n, count/parts)
	}
	if out.raw == nil && t.Elem != String {
		out.raw = []byte{}
	}
	p.notes(&out.Doc, nil)
	return out
}

// element appends number i of the given type to raw.
func (p *parser) element(raw []byte, d DType, bits int, i int64) []byte {
	le := binary.LittleEndian
	at := p.at()
	s := p.number()
	var v uint64
	switch d {
	case Float32, Float64, Complex64, Complex128:
		v = p.float(at, s, bits)
	case Int64, Int32, Int16, Int8, Int4, Int2:
		n, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			p.failAt(at, "%q is no %v", s, d)
		}
		v = uint64(n)
	default: // unsigned, or the bits of a narrow float
		n, err := strconv.ParseUint(s, 10, bits)
		if err != nil {
			p.failAt(at, "%q is no %v (0 to %d)", s, d, uint64(math.MaxUint64)>>(64-bits))
		}
		v = n
	}
	switch bits {
	case 64:
		return le.AppendUint64(raw, v)
	case 32:
		return le.AppendUint32(raw, uint32(v))
	case 16:
		return le.AppendUint16(raw, uint16(v))
	case 8:
		return append(raw, byte(v))
	}
	shift := int(i) * bits % 8 // the first element in the lowest bits
	if shift == 0 {
		raw = append(raw, 0)
	}
	raw[len(raw)-1] |= byte(v&(1<<bits-1)) << shift
	return raw
}

// sparseData reads the values and indices of a sparse tensor of type t.
func (p *parser) sparseData(t *Type, at int) *SparseTensor {
	dense := *t
	dense.Kind = KindTensor
	dims, ok := dense.StaticDims()
	if !ok {
		p.failAt(at, "data needs fixed dims, found %v", t)
	}
	s := &SparseTensor{Dims: dims}
	p.expect("{")
	s.Values = p.namedTensor()
	p.expect(",")
	s.Indices = p.namedTensor()
	p.expect("}")
	return s
}

// namedTensor reads a tensor with its type and optional name.
func (p *parser) namedTensor() *Tensor {
	at := p.at()
	t := p.typ()
	name, _ := p.optionalName()
	p.match("=")
	out := p.tensorData(t, at)
	out.Name = name
	return out
}
