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

// Demo returns the trained model that comes with lathe, as an ONNX file, and
// two npz archives of samples that it has not seen, for calibration and for
// evaluation. The model is not to be changed; the archives are made anew.
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

// DemoModel returns the model of Demo, to be changed at will.
func DemoModel() *graph.Model {
	m, err := graph.Decode(demoModel)
	if err != nil {
		panic(err) // a test reads it
	}
	return m
}
