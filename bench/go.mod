module github.com/onnx-lathe/lathe/bench

go 1.26.0

require (
	github.com/sbinet/npyio v0.6.0
	github.com/yalue/onnxruntime_go v1.27.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/x448/float16 v0.8.4 // indirect
	gonum.org/v1/gonum v0.17.0 // indirect
)

require github.com/onnx-lathe/lathe v0.0.0

replace github.com/onnx-lathe/lathe => ../
