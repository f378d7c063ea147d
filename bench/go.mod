module github.com/onnx-lathe/lathe/bench

go 1.26

require (
	github.com/sbinet/npyio v0.6.0
	github.com/yalue/onnxruntime_go v1.27.0
	google.golang.org/protobuf v1.36.12
)

require gonum.org/v1/gonum v0.17.0 // indirect

replace github.com/onnx-lathe/lathe => ../
