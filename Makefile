# What there is to do here; `make` alone lists it.

.PHONY: help test generate bench microbench golden acceptance ci

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## the tests; nothing but Go is needed
	go test ./...

generate: ## write generated files anew (needs protoc, Debian's protobuf-compiler)
	go generate ./...

bench: ## compare the speed with ONNX Runtime's, into docs/performance.md (needs npm and a C compiler)
	@bench/install-onnxruntime.sh >/dev/null
	@cd bench && go run ./speed -docs ../docs

microbench: ## time kernels by themselves
	go test -run '^$$' -bench . ./...

golden: ## make golden outputs anew with ONNX Runtime (needs npm and a C compiler)
	testmodels/golden.sh

acceptance: ## measure every goal that a machine can measure, on the models in LATHE_DATA; SPEED=1 for speed, HEAL=1 for healing too
	@bench/install-onnxruntime.sh >/dev/null
	@cd bench && go run ./acceptance

ci: ## everything that must hold before a change goes in
	.ci/run
