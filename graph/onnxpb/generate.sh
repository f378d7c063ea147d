#!/bin/sh
# Writes onnx.pb.go from onnx.proto. With -check it writes nothing and fails
# when the file that is checked in is not what the schema gives.
# Needs protoc (Debian: protobuf-compiler); protoc-gen-go is built from the
# module that go.mod names.
set -eu
cd "$(dirname "$0")"

command -v protoc >/dev/null || { echo "generate.sh: protoc not found: apt-get install protobuf-compiler" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

go build -o "$work/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go

# protoc registers a file under its path relative to the proto path: lathe/onnxpb/onnx.proto.
mkdir -p "$work/lathe/onnxpb" "$work/out"
cp onnx.proto "$work/lathe/onnxpb/"
PATH="$work:$PATH" protoc -I "$work" --go_out="$work/out" \
	--go_opt=module=github.com/onnx-lathe/lathe/graph/onnxpb lathe/onnxpb/onnx.proto
# The version of protoc is in a comment of the output and says nothing about the schema.
sed -i.bak '/^\/\/ 	protoc  *v/d' "$work/out/onnx.pb.go"

if [ "${1-}" = -check ]; then
	diff -u onnx.pb.go "$work/out/onnx.pb.go" || { echo "generate.sh: onnx.pb.go is stale: run go generate ./graph/onnxpb" >&2; exit 1; }
else
	mv "$work/out/onnx.pb.go" onnx.pb.go
fi
