package train

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
)

// samples is a part of the data: those to train on or those held out.
type samples struct {
	feed    *calib.Feed // all of the data, bound to the student
	teacher *calib.Feed // the same, bound to the teacher; nil without one
	labels  []int64     // of all samples; nil without
	numbers []int       // of the samples of this part
	logits  [][]float32 // of the teacher, by sample of all; nil where they are not kept
}

func (s *samples) n() int { return len(s.numbers) }

// splitSamples sets a part of the samples aside, drawn at random, but none of
// the last ones, which were made up.
func splitSamples(feed *calib.Feed, madeUp int, heldOut float64, seed uint64) (train, held []int, err error) {
	n, unit := feed.Len()-madeUp, max(feed.MaxBatch(), 1)
	units := n / unit
	k := 0
	if heldOut > 0 {
		k = max(int(float64(units)*heldOut), 1)
	}
	if units-k+madeUp/unit < 1 {
		return nil, nil, fmt.Errorf("%d samples leave none to train on; hold out less", n)
	}
	order := rand.New(rand.NewPCG(seed, 0)).Perm(units)
	pick := func(list []int) []int {
		slices.Sort(list)
		out := make([]int, 0, len(list)*unit)
		for _, u := range list {
			for i := range unit {
				out = append(out, u*unit+i)
			}
		}
		return out
	}
	train, held = pick(order[k:]), pick(order[:k])
	for i := range madeUp / unit * unit {
		train = append(train, units*unit+i)
	}
	return train, held, nil
}

// batch is the samples of a step: they go through a new permutation in every
// pass over the data, without a gap between passes.
func (s *samples) batch(seed uint64, step, size int) []int {
	unit := max(s.feed.MaxBatch(), 1)
	units := len(s.numbers) / unit
	want := (size + unit - 1) / unit
	out := make([]int, 0, want*unit)
	var order []int
	pass := -1
	for i := range want {
		at := step*want + i
		if p := at / units; p != pass {
			pass = p
			order = rand.New(rand.NewPCG(seed, uint64(pass)+1)).Perm(units)
		}
		u := order[at%units]
		out = append(out, s.numbers[u*unit:(u+1)*unit]...)
	}
	return out
}

// chunk is the samples of one run.
type chunk struct {
	of      *samples
	numbers []int
	next    *chunk                   // the one behind it in the step
	inputs  map[string]tensor.Tensor // of the student, once they are read
	changed bool                     // they are no longer those of the data
	mixed   []bool                   // of each sample: it is no longer one of its label; nil for none
}

// chunks cuts a list of samples into the batches of the runs.
func (s *samples) chunks(list []int, size int) []*chunk {
	var out []*chunk
	for c := range slices.Chunk(list, s.feed.BatchSize(size)) {
		out = append(out, &chunk{of: s, numbers: c})
	}
	for i, c := range out {
		c.next = out[(i+1)%len(out)]
	}
	return out
}

// mask says which tokens count.
func (c *chunk) mask() (calib.Mask, error) {
	if c.changed { // the data does not know them
		return calib.MaskOf(c.inputs, len(c.numbers))
	}
	return c.of.feed.Pick(c.numbers).Mask(0, len(c.numbers), c.inputs)
}

// read reads the inputs.
func (c *chunk) read() (err error) {
	c.inputs, err = c.of.feed.Pick(c.numbers).Batch(0, len(c.numbers))
	return err
}
