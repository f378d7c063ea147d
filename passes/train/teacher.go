package train

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
)

// teacher is the model that is learnt from.
type teacher struct {
	output   string
	hidden   []string // values to be matched
	inputs   []string
	sessions chan *runtime.Session // that are free
}

// lesson is what the teacher makes of a chunk.
type lesson struct {
	logits [][]float32 // of each sample
	hidden [][]float32 // of each value, of all samples
}

// keepLogits bounds the bytes of the teacher's logits that are kept rather
// than computed anew in every pass over the data.
const keepLogits = 256 << 20

func newTeacher(m *graph.Model, output string, hidden []string, threads int, limits runtime.Options) (*teacher, error) {
	limits.Probes = nil
	if len(hidden) > 0 {
		limits.Probes = [][]string{hidden}
	}
	prog, err := runtime.Compile(m, limits)
	if err != nil {
		return nil, fmt.Errorf("teacher: %w", err)
	}
	t := &teacher{hidden: hidden, sessions: make(chan *runtime.Session, threads)}
	outs := prog.Outputs()
	at := slices.IndexFunc(outs, func(p runtime.Port) bool { return p.Name == output })
	if at < 0 {
		at = 0 // models of two toolchains may name outputs differently
	}
	if len(outs) == 0 {
		return nil, fmt.Errorf("teacher: it has no outputs")
	}
	t.output = outs[at].Name
	for _, p := range prog.Inputs() {
		t.inputs = append(t.inputs, p.Name)
	}
	for range threads {
		t.sessions <- prog.NewSession(runtime.SessionOptions{Threads: 1})
	}
	return t, nil
}

// of returns the lesson for a chunk: kept logits, or what the teacher gives
// for its own inputs, or for the student's where those were changed.
func (t *teacher) of(ctx context.Context, c *chunk) (*lesson, error) {
	if c.of.logits != nil && !c.changed && len(t.hidden) == 0 {
		l := &lesson{}
		for _, i := range c.numbers {
			l.logits = append(l.logits, c.of.logits[i])
		}
		return l, nil
	}
	in := map[string]tensor.Tensor{}
	if c.changed {
		for _, name := range t.inputs {
			if c.inputs[name] == nil {
				return nil, fmt.Errorf("the teacher has an input %q that the student has not: inputs cannot be augmented", name)
			}
			in[name] = c.inputs[name]
		}
	} else {
		var err error
		if in, err = c.of.teacher.Pick(c.numbers).Batch(0, len(c.numbers)); err != nil {
			return nil, err
		}
	}
	return t.run(ctx, in, len(c.numbers))
}

func (t *teacher) run(ctx context.Context, in map[string]tensor.Tensor, n int) (*lesson, error) {
	session := <-t.sessions
	defer func() { t.sessions <- session }()
	l := &lesson{}
	out, err := session.RunProbed(ctx, in, func(_ int, values []*runtime.Tensor) error {
		for i, v := range values {
			if v.DType != graph.Float32 {
				return fmt.Errorf("value %q is %v, want float32", t.hidden[i], v.DType)
			}
			l.hidden = append(l.hidden, slices.Clone(v.F32()))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("teacher: %w", err)
	}
	x, err := runtime.FromDense(out[t.output])
	if err != nil {
		return nil, fmt.Errorf("teacher: output %q: %w", t.output, err)
	}
	if x.DType != graph.Float32 || x.Len()%n != 0 || x.Len() == 0 {
		return nil, fmt.Errorf("teacher: output %q is %v%v for %d samples", t.output, x.DType, x.Shape, n)
	}
	l.logits = slices.Collect(slices.Chunk(x.F32(), x.Len()/n))
	return l, nil
}

// keep computes the logits of all samples of a part once, if they fit.
func (t *teacher) keep(ctx context.Context, s *samples, size, threads int) error {
	if len(t.hidden) > 0 || s.n() == 0 {
		return nil
	}
	chunks := s.chunks(s.numbers, size)
	out := make([][]float32, s.feed.Len())
	errs := make([]error, len(chunks))
	do := func(i int) {
		c := chunks[i].numbers
		in, err := s.teacher.Pick(c).Batch(0, len(c))
		if err == nil {
			var l *lesson
			if l, err = t.run(ctx, in, len(c)); err == nil {
				for k, sample := range c {
					out[sample] = l.logits[k]
				}
			}
		}
		errs[i] = err
	}
	do(0)
	if errs[0] != nil {
		return errs[0]
	}
	if len(out[chunks[0].numbers[0]])*4*s.n() > keepLogits {
		return nil
	}
	free := make(chan struct{}, threads)
	var wg sync.WaitGroup
	for i := 1; i < len(chunks); i++ {
		free <- struct{}{}
		wg.Go(func() {
			do(i)
			<-free
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	s.logits = out
	return nil
}

// entries returns the values of the residual stream in front of the modules.
func entries(m *graph.Model) ([]string, error) {
	list, err := modules.Find(m)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, x := range list {
		if x.Stream.Graph() == m.Graph && !slices.Contains(out, x.Stream.Name) {
			out = append(out, x.Stream.Name)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the model has no modules whose activations could be computed again; train without recomputation")
	}
	return out, nil
}

// streams returns the values behind the modules that both models have: of the
// residual stream, after the norm in a post-LN model.
func streams(student, original *graph.Model) (ours, theirs []string, err error) {
	a, err := modules.Find(student)
	if err != nil {
		return nil, nil, err
	}
	b, err := modules.Find(original)
	if err != nil {
		return nil, nil, fmt.Errorf("teacher: %w", err)
	}
	after := func(m modules.Module) string {
		if m.Norm != nil {
			return m.Norm.Out.Name
		}
		return m.Sum.Name
	}
	for _, m := range a {
		i := slices.IndexFunc(b, func(o modules.Module) bool { return o.ID == m.ID })
		if i < 0 || m.Kind == modules.Other || m.Parallel || slices.Contains(ours, after(m)) || slices.Contains(theirs, after(b[i])) {
			continue
		}
		ours, theirs = append(ours, after(m)), append(theirs, after(b[i]))
	}
	if len(ours) == 0 {
		return nil, nil, fmt.Errorf("student and teacher have no module in common whose hidden states could be matched")
	}
	return ours, theirs, nil
}
