package calib

import (
	"context"
	"fmt"
	"time"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// profileTime is how long Profile measures, a batch at least.
const profileTime = 300 * time.Millisecond

// Profile runs the model over the first batch of the data again and again, for
// some tenths of a second after a warm-up, and returns the time and the
// operations per kind of operator and the number of samples that they are for.
// Of o it uses Batch and Threads.
func Profile(ctx context.Context, m *graph.Model, src *Source, o EvalOptions) (kinds []runtime.KindTime, samples int, err error) {
	fail := func(err error) ([]runtime.KindTime, int, error) {
		return nil, 0, fmt.Errorf("profile (%s): %w", m.Path(), err)
	}
	r, err := newEvalRun(m, src, o, true)
	if err != nil {
		return fail(err)
	}
	e := evaluator{o: o, runs: []*evalRun{r}}
	size, err := e.batch()
	if err != nil {
		return fail(err)
	}
	size = min(size, r.feed.Len())
	if err := r.step(ctx, 0, size); err != nil {
		return fail(err)
	}
	r.session.ResetProfile()
	for start := time.Now(); samples == 0 || time.Since(start) < profileTime; samples += size {
		if err := r.step(ctx, 0, size); err != nil {
			return fail(err)
		}
	}
	return r.session.Profile(), samples, nil
}
