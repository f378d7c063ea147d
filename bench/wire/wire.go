// Package wire reads, edits and compares ONNX files as what protobuf puts on
// the wire: fields with numbers, present or absent. It shares no code with the
// main module's reader, which it checks.
package wire

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

//go:embed schema.txt
var schemaText string

// A fieldType says what a field's content is.
type fieldType struct {
	name     string
	typ      string // a scalar, "string", "bytes", a message or an enum
	repeated bool
}

var schema = parseSchema(schemaText)

func parseSchema(text string) map[string]map[protowire.Number]fieldType {
	messages := map[string]map[protowire.Number]fieldType{}
	var at map[protowire.Number]fieldType
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '\t':
			f := strings.Fields(line)
			n, err := strconv.Atoi(f[0])
			if err != nil || len(f) != 3 {
				panic("wire: schema.txt: " + line)
			}
			typ, repeated := strings.CutSuffix(f[2], "*")
			at[protowire.Number(n)] = fieldType{f[1], typ, repeated}
		default:
			at = map[protowire.Number]fieldType{}
			messages[line] = at
		}
	}
	return messages
}

// A Message is a message of the schema, fields in the order of the file.
type Message struct {
	Type   string // "ModelProto", …
	Fields []Field
}

// A Field is one occurrence of a field: Message for a message of the schema,
// Bytes for other length-delimited content, Bits for scalars. Packed scalars
// are one Field each.
type Field struct {
	Number  protowire.Number
	Wire    protowire.Type
	Bits    uint64
	Bytes   []byte
	Message *Message
}

// Parse reads a message of a type of the schema.
func Parse(data []byte, typ string) (*Message, error) {
	m := &Message{Type: typ}
	for len(data) > 0 {
		number, wire, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, fmt.Errorf("%s: %w", typ, protowire.ParseError(n))
		}
		data = data[n:]
		f := Field{Number: number, Wire: wire}
		known := schema[typ][number]
		if wire == protowire.BytesType {
			if f.Bytes, n = protowire.ConsumeBytes(data); n < 0 {
				return nil, fmt.Errorf("%s.%s: %w", typ, m.name(number), protowire.ParseError(n))
			}
			data = data[n:]
			var err error
			element, scalar := scalars[known.typ]
			switch {
			case schema[known.typ] != nil:
				f.Message, err = Parse(f.Bytes, known.typ)
				f.Bytes = nil
				m.Fields = append(m.Fields, f)
			case known.repeated && scalar:
				err = m.unpack(number, element, f.Bytes)
			default:
				m.Fields = append(m.Fields, f)
			}
			if err != nil {
				return nil, fmt.Errorf("%s.%s: %w", typ, known.name, err)
			}
			continue
		}
		if f.Bits, n = consumeScalar(data, wire); n < 0 {
			return nil, fmt.Errorf("%s.%s: %w", typ, m.name(number), protowire.ParseError(n))
		}
		data = data[n:]
		m.Fields = append(m.Fields, f)
	}
	return m, nil
}

// scalars has the wire type of every scalar type of the schema that can be packed.
var scalars = map[string]protowire.Type{
	"float": protowire.Fixed32Type, "double": protowire.Fixed64Type,
	"int32": protowire.VarintType, "int64": protowire.VarintType, "uint64": protowire.VarintType,
}

func (m *Message) unpack(number protowire.Number, element protowire.Type, packed []byte) error {
	for len(packed) > 0 {
		bits, n := consumeScalar(packed, element)
		if n < 0 {
			return protowire.ParseError(n)
		}
		m.Fields = append(m.Fields, Field{Number: number, Wire: element, Bits: bits})
		packed = packed[n:]
	}
	return nil
}

func consumeScalar(data []byte, wire protowire.Type) (bits uint64, n int) {
	switch wire {
	case protowire.VarintType:
		return protowire.ConsumeVarint(data)
	case protowire.Fixed32Type:
		v, n := protowire.ConsumeFixed32(data)
		return uint64(v), n
	case protowire.Fixed64Type:
		return protowire.ConsumeFixed64(data)
	}
	return 0, -1 // groups are in no ONNX file
}

// Append appends the message as protobuf encodes it, repeated scalars not packed.
func (m *Message) Append(out []byte) []byte {
	for _, f := range m.Fields {
		out = protowire.AppendTag(out, f.Number, f.Wire)
		switch {
		case f.Message != nil:
			out = protowire.AppendBytes(out, f.Message.Append(nil))
		case f.Wire == protowire.BytesType:
			out = protowire.AppendBytes(out, f.Bytes)
		case f.Wire == protowire.VarintType:
			out = protowire.AppendVarint(out, f.Bits)
		case f.Wire == protowire.Fixed32Type:
			out = protowire.AppendFixed32(out, uint32(f.Bits))
		default:
			out = protowire.AppendFixed64(out, f.Bits)
		}
	}
	return out
}

// number returns the number of a field by its name in the schema.
func (m *Message) number(name string) protowire.Number {
	for n, f := range schema[m.Type] {
		if f.name == name {
			return n
		}
	}
	panic(fmt.Sprintf("wire: %s has no field %s", m.Type, name))
}

func (m *Message) name(n protowire.Number) string {
	if f, ok := schema[m.Type][n]; ok {
		return f.name
	}
	return fmt.Sprintf("unknown field %d", n)
}

// All returns the occurrences of a field, to read or change in place.
func (m *Message) All(name string) []*Field {
	n := m.number(name)
	var all []*Field
	for i := range m.Fields {
		if m.Fields[i].Number == n {
			all = append(all, &m.Fields[i])
		}
	}
	return all
}

// Text returns a string field, "" where it is absent.
func (m *Message) Text(name string) string {
	if all := m.All(name); len(all) > 0 {
		return string(all[len(all)-1].Bytes)
	}
	return ""
}

// Texts returns a repeated string field.
func (m *Message) Texts(name string) []string {
	var texts []string
	for _, f := range m.All(name) {
		texts = append(texts, string(f.Bytes))
	}
	return texts
}

// Ints returns the values of an integer field.
func (m *Message) Ints(name string) []int64 {
	var ints []int64
	for _, f := range m.All(name) {
		ints = append(ints, int64(f.Bits))
	}
	return ints
}

// Messages returns the messages of a field.
func (m *Message) Messages(name string) []*Message {
	var all []*Message
	for _, f := range m.All(name) {
		all = append(all, f.Message)
	}
	return all
}

// Message returns the message of a singular field, nil where it is absent.
func (m *Message) Message(name string) *Message {
	if all := m.Messages(name); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// AddText, AddInt and AddMessage append an occurrence of a field.
func (m *Message) AddText(name, text string) *Message {
	m.Fields = append(m.Fields, Field{Number: m.number(name), Wire: protowire.BytesType, Bytes: []byte(text)})
	return m
}

func (m *Message) AddInt(name string, v int64) *Message {
	m.Fields = append(m.Fields, Field{Number: m.number(name), Wire: protowire.VarintType, Bits: uint64(v)})
	return m
}

func (m *Message) AddMessage(name string, child *Message) *Message {
	m.Fields = append(m.Fields, Field{Number: m.number(name), Wire: protowire.BytesType, Message: child})
	return m
}

// Remove removes all occurrences of a field.
func (m *Message) Remove(name string) {
	n := m.number(name)
	m.Fields = slices.DeleteFunc(m.Fields, func(f Field) bool { return f.Number == n })
}

// Diff returns where two messages of one type differ, at most limit places.
// Fields are compared by number: presence, number of occurrences, content in
// order; the order of different fields has no meaning in protobuf.
func Diff(a, b *Message, limit int) []string {
	var found []string
	diff(a, b, a.Type, func(format string, args ...any) bool {
		found = append(found, fmt.Sprintf(format, args...))
		return len(found) < limit
	})
	return found
}

func diff(a, b *Message, path string, say func(string, ...any) bool) bool {
	fa, fb := a.byNumber(), b.byNumber()
	var numbers []protowire.Number
	for n := range fa {
		numbers = append(numbers, n)
	}
	for n := range fb {
		if _, ok := fa[n]; !ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		at := path + "." + a.name(n)
		if len(fa[n]) != len(fb[n]) {
			if !say("%s: present %d times against %d", at, len(fa[n]), len(fb[n])) {
				return false
			}
			continue
		}
		for i, x := range fa[n] {
			y := fb[n][i]
			where := at
			if len(fa[n]) > 1 {
				where = fmt.Sprintf("%s[%d]", at, i)
			}
			switch {
			case x.Message != nil && y.Message != nil:
				if !diff(x.Message, y.Message, where, say) {
					return false
				}
			case x.Wire != y.Wire || x.Bits != y.Bits || !bytes.Equal(x.Bytes, y.Bytes):
				if !say("%s: %s against %s", where, x, y) {
					return false
				}
			}
		}
	}
	return true
}

func (m *Message) byNumber() map[protowire.Number][]*Field {
	fields := map[protowire.Number][]*Field{}
	for i := range m.Fields {
		f := &m.Fields[i]
		fields[f.Number] = append(fields[f.Number], f)
	}
	return fields
}

func (f *Field) String() string {
	switch {
	case f.Wire != protowire.BytesType:
		return fmt.Sprint(f.Bits)
	case len(f.Bytes) > 40:
		return fmt.Sprintf("%d bytes %q…", len(f.Bytes), f.Bytes[:40])
	}
	return strconv.Quote(string(f.Bytes))
}

// Count returns the number of fields in the message and the messages inside.
func (m *Message) Count() int {
	n := len(m.Fields)
	for _, f := range m.Fields {
		if f.Message != nil {
			n += f.Message.Count()
		}
	}
	return n
}
