package onnxpb_test

import (
	"os/exec"
	"testing"

	_ "github.com/owulveryck/onnx-go" // claims the file onnx.proto3 and the package onnx
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// A program that uses lathe beside onnx-go must start: the registry panics at
// init when two schemas claim one name.
func TestRegistersBesideOnnxGo(t *testing.T) {
	for _, path := range []string{"onnx.proto3", "lathe/onnxpb/onnx.proto"} {
		if _, err := protoregistry.GlobalFiles.FindFileByPath(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, name := range []string{"onnx.ModelProto", "lathe.onnxpb.ModelProto"} {
		if _, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Explicit zeros, absent fields and fields of a newer schema stay what they were.
func TestPresenceSurvives(t *testing.T) {
	var wire []byte
	wire = protowire.AppendTag(wire, 1, protowire.VarintType) // ir_version = 0
	wire = protowire.AppendVarint(wire, 0)
	wire = protowire.AppendTag(wire, 2, protowire.BytesType) // producer_name = ""
	wire = protowire.AppendString(wire, "")
	wire = protowire.AppendTag(wire, 999, protowire.BytesType)
	wire = protowire.AppendString(wire, "newer")

	var m onnxpb.ModelProto
	if err := proto.Unmarshal(wire, &m); err != nil {
		t.Fatal(err)
	}
	if m.IrVersion == nil || m.ProducerName == nil || m.ModelVersion != nil {
		t.Errorf("presence: ir_version %v, producer_name %v, model_version %v; want set, set, unset", m.IrVersion, m.ProducerName, m.ModelVersion)
	}
	got, err := proto.MarshalOptions{Deterministic: true}.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(wire) {
		t.Errorf("marshalled %x, want %x", got, wire)
	}
}

// The checked-in bindings are what the schema gives.
func TestBindingsAreCurrent(t *testing.T) {
	for _, tool := range []string{"protoc", "sh", "diff"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed; CI runs generate.sh -check", tool)
		}
	}
	if out, err := exec.Command("./generate.sh", "-check").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
