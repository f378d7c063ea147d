package graph

import (
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// An independent reader of the wire format: it takes nothing but field types
// from the schema, and writes one line for each field that is there. Two files
// are equal field by field if their lines are; order counts within a repeated
// field only, and packed lists equal unpacked ones.

// wireLines returns the lines of a message.
func wireLines(t testing.TB, data []byte) []string {
	t.Helper()
	out, err := appendWireLines(nil, "", data, (&onnxpb.ModelProto{}).ProtoReflect().Descriptor())
	if err != nil {
		t.Fatalf("not a model on the wire: %v", err)
	}
	return out
}

func appendWireLines(out []string, path string, data []byte, d protoreflect.MessageDescriptor) ([]string, error) {
	fields := map[protowire.Number][]string{}
	count := map[protowire.Number]int{}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		data = data[n:]
		n = protowire.ConsumeFieldValue(num, typ, data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		value := data[:n]
		data = data[n:]
		fd := d.Fields().ByNumber(num)
		var values [][]byte
		switch {
		case fd == nil:
			fields[num] = append(fields[num], fmt.Sprintf("%s/unknown %d:%d %x", path, num, typ, value))
			continue
		case fd.IsList() && typ == protowire.BytesType && fd.Kind() != protoreflect.StringKind &&
			fd.Kind() != protoreflect.BytesKind && fd.Kind() != protoreflect.MessageKind:
			list, _ := protowire.ConsumeBytes(value)
			_, each := wireType(fd.Kind())
			for len(list) > 0 {
				n := protowire.ConsumeFieldValue(num, each, list)
				if n < 0 {
					return nil, protowire.ParseError(n)
				}
				values = append(values, list[:n])
				list = list[n:]
			}
		default:
			values = [][]byte{value}
		}
		for _, v := range values {
			at := fmt.Sprintf("%s/%s", path, fd.Name())
			if fd.IsList() {
				at += fmt.Sprintf("[%d]", count[num])
			}
			count[num]++
			if fd.Kind() == protoreflect.MessageKind {
				body, _ := protowire.ConsumeBytes(v)
				sub, err := appendWireLines([]string{at + " {}"}, at, body, fd.Message())
				if err != nil {
					return nil, err
				}
				fields[num] = append(fields[num], sub...)
				continue
			}
			fields[num] = append(fields[num], at+" = "+wireScalar(fd.Kind(), v))
		}
	}
	var nums []protowire.Number
	for num := range fields {
		nums = append(nums, num)
	}
	slices.Sort(nums)
	for _, num := range nums {
		out = append(out, fields[num]...)
	}
	return out, nil
}

func wireType(k protoreflect.Kind) (string, protowire.Type) {
	switch k {
	case protoreflect.FloatKind:
		return "float", protowire.Fixed32Type
	case protoreflect.DoubleKind:
		return "double", protowire.Fixed64Type
	}
	return "int", protowire.VarintType
}

func wireScalar(k protoreflect.Kind, v []byte) string {
	switch k {
	case protoreflect.FloatKind:
		x, _ := protowire.ConsumeFixed32(v)
		return fmt.Sprintf("%#x (%v)", x, math.Float32frombits(x))
	case protoreflect.DoubleKind:
		x, _ := protowire.ConsumeFixed64(v)
		return fmt.Sprintf("%#x (%v)", x, math.Float64frombits(x))
	case protoreflect.StringKind, protoreflect.BytesKind:
		x, _ := protowire.ConsumeBytes(v)
		if len(x) > 64 {
			return fmt.Sprintf("%d bytes, sha256 %x", len(x), sha256.Sum256(x))
		}
		return fmt.Sprintf("%q", x)
	}
	x, _ := protowire.ConsumeVarint(v)
	return fmt.Sprint(int64(x))
}

// sameOnWire fails the test where two models differ in a field.
func sameOnWire(t testing.TB, got, want []byte) {
	t.Helper()
	sameLines(t, wireLines(t, got), wireLines(t, want))
}

func sameLines(t testing.TB, g, w []string) {
	t.Helper()
	for i := range max(len(g), len(w)) {
		a, b := "nothing", "nothing"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Fatalf("field %d of %d is\n\t%s\nwant\n\t%s", i, len(w), a, b)
		}
	}
}

// The reader itself must see what a careless one misses.
func TestWireLinesSeePresence(t *testing.T) {
	entry := func(b ...byte) []byte { return b }
	for name, c := range map[string][2][]byte{
		"explicit zero":  {entry(0x08, 0), entry()},
		"explicit empty": {entry(0x12, 0), entry()},
		"empty message":  {entry(0x3a, 0), entry()},
		"unknown field":  {entry(0xf8, 0x3f, 1), entry()},
		"value":          {entry(0x08, 1), entry(0x08, 2)},
	} {
		a, b := wireLines(t, c[0]), wireLines(t, c[1])
		if slices.Equal(a, b) {
			t.Errorf("%s: %x and %x read the same", name, c[0], c[1])
		}
	}
}

// publicModels calls f for every model in the folder that LATHE_DATA names.
func publicModels(t *testing.T, f func(t *testing.T, path string)) {
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA names no folder with public models")
	}
	found := 0
	err := filepath.WalkDir(filepath.Join(dir, "models"), func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".onnx") {
			found++
			t.Run(filepath.Base(path), func(t *testing.T) { f(t, path) })
		}
		return err
	})
	if err != nil || found == 0 {
		t.Fatalf("no models in %s: %v", dir, err)
	}
}
