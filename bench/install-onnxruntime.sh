#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into .cache/ort (ignored by git) and prints its path.
# The library comes inside the npm package onnxruntime-node, whose own install
# script is not run. Running this again, with the library in place, only prints.
# LATHE_ORT, when set, names a library to use instead.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
version=$(cat "$top/bench/ort/version.txt") # the one that docs and baselines speak of

if [ -n "${LATHE_ORT:-}" ]; then
	[ -f "$LATHE_ORT" ] || { echo "install-onnxruntime: LATHE_ORT=$LATHE_ORT: no such file" >&2; exit 1; }
	echo "$LATHE_ORT"
	exit 0
fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) platform=linux/x64 library=libonnxruntime.so.1 ;;
Linux-aarch64) platform=linux/arm64 library=libonnxruntime.so.1 ;;
Darwin-arm64) platform=darwin/arm64 library=libonnxruntime.$version.dylib ;;
*)
	echo "install-onnxruntime: no library for $(uname -sm): set LATHE_ORT to one" >&2
	exit 1
	;;
esac

cache=$top/.cache/ort/$version

if [ ! -f "$cache/$library" ]; then
	command -v npm >/dev/null || { echo "install-onnxruntime: npm not found: install Node.js, or set LATHE_ORT" >&2; exit 1; }
	mkdir -p "$top/.cache/ort"
	work=$(mktemp -d "$top/.cache/ort/install.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	npm install --ignore-scripts --no-save --no-audit --no-fund --prefix "$work" "onnxruntime-node@$version" >&2
	found=$(find "$work/node_modules/onnxruntime-node/bin" -path "*/$platform/$library" -type f | head -n 1)
	[ -n "$found" ] || { echo "install-onnxruntime: onnxruntime-node@$version holds no $platform/$library" >&2; exit 1; }
	mkdir -p "$cache"
	cp "$found" "$cache/$library.part"
	mv "$cache/$library.part" "$cache/$library"
fi
echo "$cache/$library"
