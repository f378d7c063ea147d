// Package onnxpb holds the protobuf bindings of the ONNX schema, generated from
// onnx.proto. It serves package graph at load and save; everything else works on
// graph's own objects.
//
// The schema is proto2 so that presence is explicit, and registers under its own
// names so that a program can link other ONNX bindings too.
package onnxpb

//go:generate ./generate.sh
