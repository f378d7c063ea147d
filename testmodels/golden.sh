#!/usr/bin/env bash
# Computes the golden outputs of every case of cases.go with ONNX Runtime and
# writes them to testdata/. Needs bench/install-onnxruntime.sh once.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go run ./testmodels/gen -cases "$work"
(cd bench && go build -o "$work/ortrun" ./ortrun)
mkdir -p testmodels/testdata
for model in "$work"/*.onnx; do
	name=$(basename "$model" .onnx)
	(cd bench && "$work/ortrun" --data "$work/$name.npz" -o "../testmodels/testdata/$name.npz" "$model")
done
