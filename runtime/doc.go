// Package runtime runs ONNX models: [Compile] a model, make a session with
// [Program.NewSession], and call [Session.Run]. [CompileTraining] adds gradients.
//
// Compile turns a [graph.Model] into a [Program]: functions inlined, constant
// subexpressions computed, attributes read, weights packed, the lifetime of
// every value known. A Program does not change and serves any number of
// Sessions; a [Session] owns the memory of a run and makes one at a time.
//
// [Session.Run] takes and gives tensors of gorgonia.org/tensor; RunTensors takes and
// gives [Tensor], which has every element type of ONNX.
//
// (For those who work on this package: an operator is a row in one of the tables,
// elementwiseOps, matmulOps, …, and a prepare function, which reads what does not
// depend on the inputs and returns the kernel; see type operator.)
//
// Numbers: a kernel gives the same result however its work is split, so the
// number of threads does not show. float16 and bfloat16 are computed in
// float32 and rounded where they are stored.
package runtime
