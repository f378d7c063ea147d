package graph

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The text form is ONNX's textual syntax (onnx/docs/Syntax.md):
//
//	<
//	  ir_version: 8,
//	  opset_import: ["": 17]
//	>
//	classifier (float[N,128] X) => (float[N,10] Y)
//	<
//	  int64[2] shape = {-1, 128},
//	  float[N,10] H
//	>
//	{
//	  [flatten] F = Reshape (X, shape)
//	  H = Gemm <transB = 1> (F, W)
//	  Y = Softmax <axis = -1> (H)
//	}
//
// An angle-bracketed list behind the header of a graph holds initializers and
// the declared types of inner values; functions follow the graph. "float" is
// a scalar, "float[]" a tensor of unknown rank, "float[?,N]" one with an
// unknown and a named dimension. Elements of float16, bfloat16 and the
// floating-point types of 8 bits or less are written as their bits.
//
// What the syntax of ONNX does not have and this one does:
//
//   - Every name may be quoted, attribute names, domains and operators too.
//     In a string \n, \r, \t and \xHH stand for bytes; behind any other
//     character the backslash is dropped, as in ONNX.
//   - Doc strings and metadata: @doc "..." and @meta ["key": "value"] behind
//     the name of a value, the signature of a graph, a node, an attribute or
//     the data of a tensor.
//   - Sparse tensors: sparse_tensor(float[3,4]) w = {float[1] {7}, int64[1] {5}},
//     values and indices.
//   - nan(0x7fc00001) for a NaN with a payload, dtype(99) for an element type
//     that is not known, undefined[...] for one that is not given, unknown for
//     a type of which nothing is given.
//   - {... 4096 bytes sha256:0123456789abcdef} for data that was left out
//     (ElideOver); such a text cannot be parsed.
//
// Attribute types are written only where the value does not tell them. Data
// of tensors outside the model file are never written, only where they lie,
// and protobuf fields that lathe does not know are left out; everything else
// comes back from Parse as it was.

// TextOption changes how a model is printed.
type TextOption func(*printer)

// ElideOver leaves out the data of tensors with more than n elements. Such a text
// is for people: Parse does not take it.
func ElideOver(n int64) TextOption { return func(p *printer) { p.elideOver = n } }

// OmitDocs leaves out doc strings and the metadata of graphs and nodes.
func OmitDocs() TextOption { return func(p *printer) { p.omitDocs = true } }

// Text returns the model in ONNX's textual syntax, which [Parse] reads.
func (m *Model) Text(opts ...TextOption) string {
	var b strings.Builder
	if err := m.WriteText(&b, opts...); err != nil {
		panic("graph: " + err.Error()) // a Builder never fails
	}
	return b.String()
}

// WriteText writes what Text returns; it fails only where w does.
func (m *Model) WriteText(w io.Writer, opts ...TextOption) error {
	p := &printer{w: bufio.NewWriter(w), elideOver: math.MaxInt64}
	for _, o := range opts {
		o(p)
	}
	p.model(m)
	return p.w.Flush()
}

// String returns the type in ONNX's textual syntax, such as "float[N,128]".
func (t *Type) String() string {
	var b strings.Builder
	p := &printer{w: bufio.NewWriter(&b)}
	p.typ(t)
	p.w.Flush()
	return b.String()
}

// Equal reports whether both types say the same, names of dimensions included.
func (t *Type) Equal(u *Type) bool {
	if t == nil || u == nil {
		return t == u
	}
	if t.Kind != u.Kind || t.Elem != u.Elem || t.Key != u.Key || (t.Shape == nil) != (u.Shape == nil) || !t.Sub.Equal(u.Sub) {
		return false
	}
	return t.Shape == nil || slices.EqualFunc(t.Shape.Dims, u.Shape.Dims, func(a, b Dim) bool {
		return a.IsKnown() && a.N == b.N || !a.IsKnown() && !b.IsKnown() && a.Sym == b.Sym
	})
}

type printer struct {
	w         *bufio.Writer // keeps the first error; Flush returns it
	indent    int
	elideOver int64
	omitDocs  bool
}

func (p *printer) str(parts ...string) {
	for _, s := range parts {
		p.w.WriteString(s)
	}
}

// newline starts a line at the present indent.
func (p *printer) newline() {
	p.w.WriteByte('\n')
	for range p.indent {
		p.w.WriteString("  ")
	}
}

// list prints n elements with separators between them.
func (p *printer) list(n int, open, sep, end string, elem func(i int)) {
	p.str(open)
	for i := range n {
		if i > 0 {
			p.str(sep)
		}
		elem(i)
	}
	p.str(end)
}

// lines prints n elements on a line of their own, between open and end.
func (p *printer) lines(n int, open, end string, elem func(i int)) {
	p.str(open)
	p.indent++
	for i := range n {
		p.newline()
		elem(i)
		if i < n-1 {
			p.str(",")
		}
	}
	p.indent--
	p.newline()
	p.str(end)
}

func (p *printer) model(m *Model) {
	type field struct{ key, value string }
	fields := []field{{"ir_version", strconv.FormatInt(m.IRVersion, 10)}, {"opset_import", opsetsText(m.Opsets)}}
	for _, f := range []field{{"producer_name", m.ProducerName}, {"producer_version", m.ProducerVersion}, {"domain", m.Domain}} {
		if f.value != "" {
			fields = append(fields, field{f.key, quote(f.value)})
		}
	}
	if m.ModelVersion != 0 {
		fields = append(fields, field{"model_version", strconv.FormatInt(m.ModelVersion, 10)})
	}
	if m.Doc != "" {
		fields = append(fields, field{"doc_string", quote(m.Doc)})
	}
	if len(m.Metadata) > 0 {
		fields = append(fields, field{"metadata_props", metadataText(m.Metadata)})
	}
	p.lines(len(fields), "<", ">", func(i int) { p.str(fields[i].key, ": ", fields[i].value) })
	p.newline()
	if m.Graph != nil {
		p.graph(m.Graph)
	}
	p.newline()
	for _, f := range m.Functions {
		fields := []field{{"domain", quote(f.Domain)}, {"opset_import", opsetsText(f.Opsets)}}
		if f.Overload != "" {
			fields = append(fields, field{"overload", quote(f.Overload)})
		}
		if f.Doc != "" {
			fields = append(fields, field{"doc_string", quote(f.Doc)})
		}
		if len(f.Metadata) > 0 {
			fields = append(fields, field{"metadata_props", metadataText(f.Metadata)})
		}
		p.lines(len(fields), "<", ">", func(i int) { p.str(fields[i].key, ": ", fields[i].value) })
		p.newline()
		p.function(f)
		p.newline()
	}
}

func opsetsText(list []Opset) string {
	parts := make([]string, len(list))
	for i, o := range list {
		parts[i] = quote(o.Domain) + ": " + strconv.FormatInt(o.Version, 10)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func metadataText(list []Metadata) string {
	parts := make([]string, len(list))
	for i, m := range list {
		parts[i] = quote(m.Key) + ": " + quote(m.Value)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (p *printer) notes(doc string, meta []Metadata) {
	if p.omitDocs {
		return
	}
	if doc != "" {
		p.str(" @doc ", quote(doc))
	}
	if len(meta) > 0 {
		p.str(" @meta ", metadataText(meta))
	}
}

func (p *printer) graph(g *Graph) {
	p.name(g.Name)
	p.list(len(g.inputs), " (", ", ", ")", func(i int) { p.declaration(g.inputs[i]) })
	p.list(len(g.outputs), " => (", ", ", ")", func(i int) { p.declaration(g.outputs[i]) })
	p.notes(g.Doc, g.Metadata)
	inner := map[*Value]bool{}
	for _, v := range slices.Concat(g.inputs, g.outputs) {
		inner[v] = true
	}
	p.body(g, inner)
}

func (p *printer) function(f *Function) {
	g := f.Graph
	p.name(g.Name)
	if n := len(f.AttrNames); n+len(f.AttrDefaults) > 0 {
		p.list(n+len(f.AttrDefaults), " <", ", ", ">", func(i int) {
			if i < n {
				p.name(f.AttrNames[i])
			} else {
				p.attr(f.AttrDefaults[i-n])
			}
		})
	}
	p.list(len(g.inputs), " (", ", ", ")", func(i int) { p.name(g.inputs[i].Name) })
	p.list(len(g.outputs), " => (", ", ", ")", func(i int) { p.name(g.outputs[i].Name) })
	p.notes(g.Doc, g.Metadata)
	p.body(g, nil)
}

// body prints the initializers, the declarations of all values but those
// that the signature declared, and the nodes.
func (p *printer) body(g *Graph, declared map[*Value]bool) {
	var typed []*Value
	for _, v := range g.ownValues() {
		if !declared[v] && (v.Declared != nil || v.Doc != "" && !p.omitDocs) {
			typed = append(typed, v)
		}
	}
	if n := len(g.inits); n+len(typed) > 0 {
		p.newline()
		p.lines(n+len(typed), "<", ">", func(i int) {
			if i >= n {
				p.declaration(typed[i-n])
				return
			}
			v := g.inits[i]
			if v.Sparse != nil {
				p.sparse(v.Sparse, v.Name)
			} else {
				p.tensor(v.Const, v.Name, " = ")
			}
		})
	}
	p.newline()
	p.str("{")
	p.indent++
	for _, n := range g.nodes {
		p.newline()
		p.node(n)
	}
	p.indent--
	p.newline()
	p.str("}")
}

// ownValues returns the values that g defines: inputs, initializers and the
// outputs of its nodes, in this order.
func (g *Graph) ownValues() []*Value {
	out := slices.Clone(g.inputs)
	for _, v := range g.inits {
		if !v.input {
			out = append(out, v)
		}
	}
	for _, n := range g.nodes {
		for _, v := range n.outputs {
			if v != nil {
				out = append(out, v)
			}
		}
	}
	return out
}

func (p *printer) declaration(v *Value) {
	if v.Declared != nil {
		p.typ(v.Declared)
		p.str(" ")
	}
	p.name(v.Name)
	p.notes(v.Doc, nil)
}

func (p *printer) node(n *Node) {
	if n.Name != "" {
		p.str("[")
		p.name(n.Name)
		p.str("] ")
	}
	p.values(n.outputs, "", "")
	p.str(" = ")
	if n.Domain != "" {
		p.domain(n.Domain)
		p.str(".")
	}
	p.name(n.Op)
	if n.Overload != "" {
		p.str(":")
		p.name(n.Overload)
	}
	nested := len(n.Subgraphs()) > 0
	if len(n.Attrs) > 0 && !nested {
		p.list(len(n.Attrs), " <", ", ", ">", func(i int) { p.attr(n.Attrs[i]) })
	}
	p.values(n.inputs, " (", ")")
	if nested {
		p.lines(len(n.Attrs), " <", ">", func(i int) { p.attr(n.Attrs[i]) })
	}
	p.notes(n.Doc, n.Metadata)
}

func (p *printer) values(list []*Value, open, end string) {
	p.list(len(list), open, ", ", end, func(i int) {
		if list[i] == nil {
			p.str(`""`)
		} else {
			p.name(list[i].Name)
		}
	})
}

// name prints an identifier, or a string where name is none or would be taken
// for a type or a number.
func (p *printer) name(name string) {
	if isIdentifier(name) && !isTypeWord(name) && !isFloatWord(name) {
		p.str(name)
	} else {
		p.str(quote(name))
	}
}

// domain prints identifiers joined by dots as they are.
func (p *printer) domain(d string) {
	for part := range strings.SplitSeq(d, ".") {
		if !isIdentifier(part) {
			p.str(quote(d))
			return
		}
	}
	p.str(d)
}

func isIdentifier(s string) bool {
	for i := range len(s) {
		if !isLetter(s[i]) && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }

func isTypeWord(s string) bool {
	switch s {
	case "seq", "map", "optional", "sparse_tensor", "opaque", "undefined", "unknown", "dtype":
		return true
	}
	_, ok := ParseDType(s)
	return ok
}

func isFloatWord(s string) bool {
	switch strings.ToLower(s) {
	case "inf", "infinity", "nan":
		return true
	}
	return false
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 0x7f || r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}

func (p *printer) typ(t *Type) {
	switch {
	case t == nil || t.Kind == KindUnknown:
		p.str("unknown")
		return
	case t.Kind == KindOpaque:
		p.str("opaque()")
		return
	}
	switch t.Kind {
	case KindTensor:
		p.tensorType(t.Elem, t.Shape)
	case KindSparseTensor:
		p.str("sparse_tensor(")
		p.tensorType(t.Elem, t.Shape)
		p.str(")")
	case KindSequence:
		p.str("seq(")
		p.typ(t.Sub)
		p.str(")")
	case KindOptional:
		p.str("optional(")
		p.typ(t.Sub)
		p.str(")")
	case KindMap:
		p.str("map(", t.Key.String(), ", ")
		p.typ(t.Sub)
		p.str(")")
	}
}

func (p *printer) tensorType(elem DType, s *Shape) {
	p.str(elem.String())
	if s == nil {
		p.str("[]")
		return
	}
	if len(s.Dims) == 0 {
		return
	}
	p.list(len(s.Dims), "[", ",", "]", func(i int) {
		switch d := s.Dims[i]; {
		case d.IsKnown() || d.Sym == "":
			p.str(d.String())
		case isIdentifier(d.Sym):
			p.str(d.Sym)
		default:
			p.str(quote(d.Sym))
		}
	})
}

func (p *printer) attr(a *Attr) {
	if isIdentifier(a.Name) {
		p.str(a.Name)
	} else {
		p.str(quote(a.Name))
	}
	inferred := a.Type // the type that Parse would find without being told
	if a.Ref != "" || a.listLen() == 0 || a.Type == AttrUndefined {
		inferred = AttrUndefined
	}
	if inferred == AttrUndefined {
		p.str(": ", a.Type.String())
	}
	p.str(" = ")
	if a.Ref != "" {
		p.str("@")
		p.name(a.Ref)
		p.notes(a.Doc, nil)
		return
	}
	switch a.Type {
	case AttrInt:
		p.str(strconv.FormatInt(a.I, 10))
	case AttrFloat:
		p.str(floatAttrText(a.F))
	case AttrString:
		p.str(quote(string(a.S)))
	case AttrTensor:
		p.tensor(a.T, tensorName(a.T), "")
	case AttrGraph:
		p.graph(a.G)
	case AttrSparse:
		p.sparse(a.Sparse, "")
	case AttrTypeProto:
		p.typ(a.TP)
	case AttrInts:
		p.list(len(a.Ints), "[", ", ", "]", func(i int) { p.str(strconv.FormatInt(a.Ints[i], 10)) })
	case AttrFloats:
		p.list(len(a.Floats), "[", ", ", "]", func(i int) { p.str(floatAttrText(a.Floats[i])) })
	case AttrStrings:
		p.list(len(a.Strings), "[", ", ", "]", func(i int) { p.str(quote(string(a.Strings[i]))) })
	case AttrTensors:
		p.list(len(a.Tensors), "[", ", ", "]", func(i int) { p.tensor(a.Tensors[i], tensorName(a.Tensors[i]), "") })
	case AttrGraphs:
		p.list(len(a.Graphs), "[", ", ", "]", func(i int) { p.graph(a.Graphs[i]) })
	case AttrSparses:
		p.list(len(a.Sparses), "[", ", ", "]", func(i int) { p.sparse(a.Sparses[i], "") })
	case AttrTypes:
		p.list(len(a.Types), "[", ", ", "]", func(i int) { p.typ(a.Types[i]) })
	default:
		p.str("[]")
	}
	p.notes(a.Doc, nil)
}

func tensorName(t *Tensor) string {
	if t == nil {
		return ""
	}
	return t.Name
}

// listLen is the number of elements of a list attribute, 1 for a single one.
func (a *Attr) listLen() int {
	switch a.Type {
	case AttrInts:
		return len(a.Ints)
	case AttrFloats:
		return len(a.Floats)
	case AttrStrings:
		return len(a.Strings)
	case AttrTensors:
		return len(a.Tensors)
	case AttrGraphs:
		return len(a.Graphs)
	case AttrSparses:
		return len(a.Sparses)
	case AttrTypes:
		return len(a.Types)
	}
	return 1
}

// floatAttrText writes a float such that it is not taken for an integer.
func floatAttrText(f float32) string {
	s := float32Text(f)
	if strings.ContainsAny(s, ".en") { // 1.5, 1e9, nan, inf
		return s
	}
	return s + ".0"
}

func float32Text(f float32) string {
	if bits := math.Float32bits(f); f != f && bits != 0x7fc00000 {
		return fmt.Sprintf("nan(%#08x)", bits)
	}
	return infText(float64(f), 32)
}

func float64Text(f float64) string {
	if bits := math.Float64bits(f); f != f && bits != 0x7ff8000000000000 {
		return fmt.Sprintf("nan(%#016x)", bits)
	}
	return infText(f, 64)
}

func infText(f float64, bits int) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case f != f:
		return "nan"
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}

func (p *printer) sparse(s *SparseTensor, name string) {
	var elem DType
	if s.Values != nil {
		elem = s.Values.DType
	}
	dims := make([]Dim, len(s.Dims))
	for i, d := range s.Dims {
		dims[i] = Known(d)
	}
	p.typ(&Type{Kind: KindSparseTensor, Elem: elem, Shape: &Shape{Dims: dims}})
	if name != "" {
		p.str(" ")
		p.name(name)
		p.str(" =")
	}
	p.str(" {")
	p.tensor(s.Values, tensorName(s.Values), "")
	p.str(", ")
	p.tensor(s.Indices, tensorName(s.Indices), "")
	p.str("}")
}

// tensor prints a tensor under the given name, with equals between name and
// data.
func (p *printer) tensor(t *Tensor, name, equals string) {
	if t == nil {
		p.str("undefined {}")
		return
	}
	if t.inFile != nil {
		u := *t
		u.raw, _ = t.Bytes() // printed as unreadable if it is
		t = &u
	}
	p.str(t.DType.String())
	if len(t.Dims) > 0 {
		p.list(len(t.Dims), "[", ",", "]", func(i int) { p.str(strconv.FormatInt(t.Dims[i], 10)) })
	}
	if name != "" {
		p.str(" ")
		p.name(name)
	}
	if equals == "" {
		equals = " "
	}
	p.str(equals)
	switch {
	case t.external != nil:
		e := t.external
		p.str(`["location": `, quote(e.Location), `, "offset": "`, strconv.FormatInt(e.Offset, 10),
			`", "length": "`, strconv.FormatInt(e.Length, 10), `"]`)
	case t.Len() > p.elideOver || !t.printable():
		p.str("{... ", strconv.FormatInt(t.Size(), 10), " bytes")
		h := sha256.New()
		h.Write(t.raw)
		for _, s := range t.strs {
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
		p.str(" sha256:", fmt.Sprintf("%x", h.Sum(nil)[:8]), "}")
	default:
		p.str("{")
		p.elements(t)
		p.str("}")
	}
	p.notes(t.Doc, nil)
}

// printable reports whether the elements are there and of a known type.
func (t *Tensor) printable() bool {
	n, ok := NumElements(t.Dims)
	if t.DType == String {
		return ok && int64(len(t.strs)) == n
	}
	size, known := t.DType.ByteSize(n)
	return ok && known && int64(len(t.raw)) == size
}

func (p *printer) elements(t *Tensor) {
	le := binary.LittleEndian
	n := int(t.Len())
	if t.DType == Complex64 || t.DType == Complex128 {
		n *= 2 // real and imaginary part
	}
	var buf []byte
	for i := range n {
		if i > 0 {
			p.str(", ")
		}
		switch t.DType {
		case String:
			p.str(quote(string(t.strs[i])))
			continue
		case Float32, Complex64:
			p.str(float32Text(math.Float32frombits(le.Uint32(t.raw[4*i:]))))
			continue
		case Float64, Complex128:
			p.str(float64Text(math.Float64frombits(le.Uint64(t.raw[8*i:]))))
			continue
		}
		buf = buf[:0]
		switch bits := t.DType.Bits(); {
		case t.DType == Int64:
			buf = strconv.AppendInt(buf, int64(le.Uint64(t.raw[8*i:])), 10)
		case t.DType == Int32:
			buf = strconv.AppendInt(buf, int64(int32(le.Uint32(t.raw[4*i:]))), 10)
		case t.DType == Int16:
			buf = strconv.AppendInt(buf, int64(int16(le.Uint16(t.raw[2*i:]))), 10)
		case t.DType == Int8:
			buf = strconv.AppendInt(buf, int64(int8(t.raw[i])), 10)
		case bits == 64:
			buf = strconv.AppendUint(buf, le.Uint64(t.raw[8*i:]), 10)
		case bits == 32:
			buf = strconv.AppendUint(buf, uint64(le.Uint32(t.raw[4*i:])), 10)
		case bits == 16:
			buf = strconv.AppendUint(buf, uint64(le.Uint16(t.raw[2*i:])), 10)
		case bits == 8:
			buf = strconv.AppendUint(buf, uint64(t.raw[i]), 10)
		default: // 4 or 2 bits, the first element in the lowest bits
			v := int64(t.raw[i*bits/8]>>(i*bits%8)) & (1<<bits - 1)
			if (t.DType == Int4 || t.DType == Int2) && v >= 1<<(bits-1) {
				v -= 1 << bits
			}
			buf = strconv.AppendInt(buf, v, 10)
		}
		p.w.Write(buf)
	}
}
