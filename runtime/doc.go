// Package runtime runs ONNX models.
//
// Compile turns a graph.Model into a Program: functions inlined, constant
// subexpressions computed, attributes read, weights packed, the lifetime of
// every value known. A Program does not change and serves any number of
// Sessions; a Session owns the memory of a run and makes one at a time.
//
// An operator is a row in one of the tables of this package (elementwiseOps,
// matmulOps, …) and a prepare function, which reads what does not depend on
// the inputs and returns the kernel; see type operator.
//
// Numbers: a kernel gives the same result however its work is split, so the
// number of threads does not show. float16 and bfloat16 are computed in
// float32 and rounded where they are stored.
package runtime
