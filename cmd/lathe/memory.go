package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

const defaultMemory = calib.DefaultLimit >> 20 // MB

func (a *app) memoryFlag(c *cobra.Command) {
	addCount(c.Flags(), &a.memory, 1, "memory", "most megabytes that the data and the intermediate values of a model may take together")
}

// large is from how many bytes on memory is worth a word.
const large = 1 << 30

// foresee says how much memory runs of a model over a feed will take, batch
// samples at a time, where that is much. The values of kept more batches are
// held besides. It is an estimate; --memory limits what is really taken.
func (a *app) foresee(m *graph.Model, feed *calib.Feed, batch, kept int) {
	a.estimate(m, feed, batch, kept, false)
}

// estimate is foresee; a run that can go part by part does so where the limit
// asks for it.
func (a *app) estimate(m *graph.Model, feed *calib.Feed, batch, kept int, parts bool) {
	if a.quiet {
		return
	}
	in, err := feed.Batch(0, min(feed.BatchSize(batch), feed.Len()))
	if err != nil {
		return // the run will say so
	}
	run, known := calib.Peak(m, in)
	weights := 2 * float64(m.WeightBytes()) // compiled ones are a copy in the layout of the kernels
	data := float64(feed.Source().Bytes())
	values := float64(run) * float64(1+kept)
	if weights+data+values < large {
		return
	}
	const gb = 1e9
	s := fmt.Sprintf("%s: takes about %.1f GB of memory: weights %.1f, data %.1f, ", m.Path(), (weights+data+values)/gb, weights/gb, data/gb)
	if known {
		s += fmt.Sprintf("values %.1f", values/gb)
	} else {
		s += fmt.Sprintf("values %.1f and more, for not all shapes are known", values/gb)
	}
	switch limit := float64(a.memory << 20); {
	case parts && data+values+weights > limit && data+values <= limit:
		s += fmt.Sprintf("; that is over --memory %d: it runs module by module, with the values between them in files in %s", a.memory, os.TempDir())
	case data+float64(run) > limit:
		s += fmt.Sprintf("; that is over --memory %d: give more, or fewer samples in a run", a.memory)
	}
	fmt.Fprintln(a.stderr, s)
}

// compile makes a model ready to run.
func (a *app) compile(m *graph.Model, o runtime.Options) (*runtime.Program, error) {
	defer a.busy("compiling " + m.Path())()
	prog, err := runtime.Compile(m, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	return prog, nil
}
