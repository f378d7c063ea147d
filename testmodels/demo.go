// Package testmodels builds models to try things on: small instances of the families
// that lathe knows, in the forms that exporters write them ([BERT], [GPT2], [LLaMA],
// [ResNet], …), with random weights; and one that was trained, with its data ([Demo],
// [DemoModel], [WordSamples]). They need no files. The same arguments give the same
// model.
package testmodels

import (
	_ "embed"

	"github.com/onnx-lathe/lathe/graph"
)

// demoModel is a transformer of 8 pre-LN layers of width 64 that hears the
// words of WordSamples: features [batch, WordFrames, WordFeatures] → logits
// [batch, WordClasses]. train/README.md says how it was made.
//
//go:embed data/demo.onnx
var demoModel []byte

// Samples of the two data sets of Demo.
const (
	DemoCalib = 512
	DemoEval  = 1024
)

// Demo returns the trained model that comes with lathe, as the bytes of an ONNX file,
// features [batch, WordFrames, WordFeatures] → logits [batch, WordClasses], and
// two npz archives as [WordArchive] makes them, of samples that it has not seen, for
// calibration and for evaluation. The model is not to be changed; the archives are
// made anew, which takes some tenths of a second.
func Demo() (model, calib, eval []byte) {
	archive := func(seed uint64, n int) []byte {
		data, err := WordArchive(seed, n)
		if err != nil {
			panic(err) // it is written to memory
		}
		return data
	}
	return demoModel, archive(CalibSeed, DemoCalib), archive(EvalSeed, DemoEval)
}

// DemoModel returns the model of [Demo], decoded anew: it may be changed.
func DemoModel() *graph.Model {
	m, err := graph.Decode(demoModel)
	if err != nil {
		panic(err) // a test reads it
	}
	return m
}
