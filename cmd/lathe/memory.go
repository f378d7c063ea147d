package main

import (
	"fmt"
	"os"
	goruntime "runtime"

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

// foreseeTraining says how much memory the training of a model over a feed will
// take, chunk samples in a run of every thread, where that is much. It is an
// estimate of what train.Result.Bytes tells afterwards.
func (a *app) foreseeTraining(m, teacher *graph.Model, feed *calib.Feed, chunk int) {
	if a.quiet {
		return
	}
	in, err := feed.Batch(0, min(feed.BatchSize(chunk), feed.Len()))
	if err != nil {
		return // the training will say so
	}
	values, known := calib.Total(m, in)
	threads := a.threads
	if threads == 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	// A value and its gradient; of a weight the eight sums of gradients, the two
	// moments, the best and the average, and what kernels make of it.
	const ofWeight = 1 + 1 + 8 + 2 + 2
	run, weights := 2*float64(values)*float64(threads), ofWeight*float64(m.WeightBytes())
	if teacher != nil {
		weights += 2 * float64(teacher.WeightBytes())
	}
	data := float64(feed.Source().Bytes())
	if run+weights+data < large {
		return
	}
	const gb = 1e9
	more := ""
	if !known {
		more = " and more, for not all shapes are known"
	}
	fmt.Fprintf(a.stderr, "%s: training takes about %.1f GB of memory: weights and their gradients %.1f, data %.1f, values %.1f%s; less with fewer --threads\n",
		m.Path(), (run+weights+data)/gb, weights/gb, data/gb, run/gb, more)
}

// foreseeWeights says how much memory the weights of a model take, where that is
// much.
func (a *app) foreseeWeights(m *graph.Model) {
	if n := 2 * m.WeightBytes(); !a.quiet && n >= large {
		fmt.Fprintf(a.stderr, "%s: takes about %.1f GB of memory for its weights\n", m.Path(), float64(n)/1e9)
	}
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
