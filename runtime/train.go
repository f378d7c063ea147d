package runtime

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// TrainingOptions says how a model is made ready to be trained.
type TrainingOptions struct {
	// Parameters names the constants to be trained: initializers, or outputs
	// of Constant nodes, of the main graph, float32. See Trainable.
	Parameters []string

	// Values names what the loss reads: outputs or any other values of the
	// main graph; nil for the outputs.
	Values []string

	// Recompute names values of the main graph: those of the residual stream in
	// front of every module, say. What lies between them is computed again in
	// the backward pass, in place of being kept. That saves memory, costs up to
	// a forward pass, and changes no bit.
	Recompute []string

	// Threads is how many samples, or batches of samples, are worked on at a
	// time; 0 means one per processor. Results do not depend on it.
	Threads int

	// Path and MemoryLimit are as in Options; the limit is for each thread.
	Path        string
	MemoryLimit int64
}

// Parameter is a constant that is trained. Value and Gradient are the
// training's own memory, in row-major order: see Training.Update.
type Parameter struct {
	Name     string
	Shape    []int
	Value    []float32
	Gradient []float32

	// Block is the block size where the parameter is a block-circulant
	// matrix, else 0.
	Block int
}

// Training is a model with the gradients of a loss with respect to its
// parameters, by reverse-mode differentiation of the compiled graph. It makes
// one call at a time.
type Training struct {
	prog     *Program
	train    *training
	params   []Parameter
	lanes    [][]float32
	sessions []*Session
}

// training is what the nodes of a training share.
type training struct {
	names   map[string]int // parameter number + 1
	values  []string
	params  []Parameter
	konst   []*lvalue // of the parameters
	refresh []func()  // what is made of parameters, to be made again after changes
}

// trainRun is what a session computes gradients with.
type trainRun struct {
	simd      *simd.Kernels
	gradients [][]float32 // per parameter, to be added to
	loss      func(values, grads []*Tensor) error
}

// CompileTraining makes a model ready to be trained. Of a merged decoder, whose
// If has the same modules in both branches, the branch that starts a cache is the one
// that runs. It fails where operators between a parameter and the loss have no
// gradient, and names them all. The model is not changed; Store writes parameters
// back.
func CompileTraining(m *graph.Model, o TrainingOptions) (*Training, error) {
	t, err := compileTraining(m, o)
	if err != nil {
		return nil, fmt.Errorf("compile for training: %w", err)
	}
	return t, nil
}

func compileTraining(m *graph.Model, o TrainingOptions) (*Training, error) {
	if m == nil || m.Graph == nil {
		return nil, errors.New("the model has no graph")
	}
	tr := &training{names: map[string]int{}, values: o.Values}
	if tr.values == nil {
		for _, v := range m.Graph.Outputs() {
			tr.values = append(tr.values, v.Name)
		}
	}
	if len(o.Parameters) == 0 {
		return nil, errors.New("no parameters are named")
	}
	const unit = 16 // elements of a cache line
	size := 0
	for _, name := range o.Parameters {
		v := m.Graph.Value(name)
		c := v.ConstTensor()
		if c == nil {
			return nil, fmt.Errorf("parameter %q is no constant of the main graph", name)
		}
		if c.DType != graph.Float32 || c.Len() == 0 {
			return nil, fmt.Errorf("parameter %q is %v%v, want float32", name, c.DType, c.Dims)
		}
		if tr.names[name] != 0 {
			return nil, fmt.Errorf("parameter %q is named twice", name)
		}
		p := Parameter{Name: name}
		for _, d := range c.Dims {
			p.Shape = append(p.Shape, int(d))
		}
		for _, u := range v.Uses() {
			if u.Node.Domain == graph.LatheDomain && u.Index == 1 && len(p.Shape) >= 3 {
				p.Block = p.Shape[2]
			}
		}
		tr.params = append(tr.params, p)
		tr.names[name] = len(tr.params)
		size += (int(c.Len()) + unit - 1) / unit * unit
	}
	values, gradients := cast[float32](aligned(4*size)), cast[float32](aligned(4*size))
	at := 0
	for i := range tr.params {
		p := &tr.params[i]
		f, err := m.Graph.Value(p.Name).ConstTensor().Float32s()
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", p.Name, err)
		}
		p.Value, p.Gradient = values[at:at+len(f):at+len(f)], gradients[at:at+len(f):at+len(f)]
		copy(p.Value, f)
		at += (len(f) + unit - 1) / unit * unit
	}
	// Definitions of fused operators go by the ranks of their inputs. Where
	// inference fails, they say what they lack.
	open, err := opened(m)
	if err != nil {
		return nil, err
	}
	m = open.Clone()
	_ = graph.Infer(m)
	tr.konst = make([]*lvalue, len(tr.params))
	prog, err := compile(m, Options{Path: o.Path, MemoryLimit: o.MemoryLimit, Probes: [][]string{tr.values, o.Recompute}, training: tr})
	if err != nil {
		return nil, err
	}
	t := &Training{prog: prog, train: tr, params: tr.params, lanes: make([][]float32, lanes)}
	threads := o.Threads
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	k, err := simd.For(simd.Auto)
	if o.Path != "" {
		path, _ := simd.ParsePath(o.Path) // compiled with it already
		k, err = simd.For(path)
	}
	if err != nil {
		return nil, err
	}
	for range min(threads, lanes) {
		s := prog.NewSession(SessionOptions{Threads: 1})
		s.train = &trainRun{simd: k, gradients: make([][]float32, len(tr.params))}
		t.sessions = append(t.sessions, s)
	}
	return t, nil
}

// lanes is how many sums of gradients a step has: batch i of a step goes to
// sum i mod lanes, and the sums are added in order, so that no bit depends on
// the threads.
const lanes = 8

// trainFusions are the fusions that have gradients.
var trainFusions = []string{"layer-norm", "rms-norm", "gelu", "silu", "scores", "attention", "context", "rotary pairs", "rotary halves"}

// build turns the lowered forward graph into one with gradients.
func (tr *training) build(l *lowering, main *scope, values, keep []*graph.Value) error {
	for i, v := range tr.konst {
		if v == nil || v.konst == nil {
			return fmt.Errorf("parameter %q is not read", tr.params[i].Name)
		}
		v.konst = FromSlice(tr.params[i].Shape, tr.params[i].Value)
	}
	main.outputs = nil
	for _, v := range values {
		lv := l.named[v]
		if lv == nil {
			return fmt.Errorf("value %q is not computed by itself", v.Name)
		}
		main.outputs = append(main.outputs, lv)
	}
	var cuts []*lvalue
	for _, v := range keep {
		if lv := l.named[v]; lv != nil && lv.def != nil && lv.scope == main && !slices.Contains(cuts, lv) {
			cuts = append(cuts, lv)
		}
	}
	mark(main)
	if err := l.missing.err(); err != nil {
		return err
	}
	moved, _ := movedBy(main)
	fuse(main, trainFusions, moved)
	for _, v := range cuts {
		v.pinned = slices.Contains(main.outputs, v) // they are to be freed like others
	}
	b := &backward{train: tr, scope: main, simd: l.simd, lookup: lookup}
	return b.build(cuts)
}

// prepared runs f, which makes something of the constant v, now and after
// every change of v.
func (tr *training) prepared(v *lvalue, f func()) {
	f()
	if v.param > 0 {
		tr.refresh = append(tr.refresh, f)
	}
}

// lossKernel hands the values of the loss to it and takes their gradients,
// zeros unless it sets them.
func lossKernel(c *call) error {
	grads := make([]*Tensor, len(c.in))
	for i, v := range c.in {
		if !c.wants(i) {
			continue
		}
		if v.DType != graph.Float32 {
			return fmt.Errorf("value %d of the loss is %v, want float32", i, v.DType)
		}
		g, err := c.alloc(i, graph.Float32, v.Shape...)
		if err != nil {
			return err
		}
		clear(g.F32())
		grads[i] = g
	}
	return c.s.train.loss(c.in, grads)
}

// Parameters returns the parameters, in the order of the options. Between calls of
// Gradients and Values their values may be changed, and Update called then.
func (t *Training) Parameters() []Parameter { return t.params }

// Inputs returns what a batch has to hold.
func (t *Training) Inputs() []Port { return t.prog.Inputs() }

// Update makes the training see changed parameters: it packs matrices and
// transforms block-circulant ones again.
func (t *Training) Update() {
	t.each(len(t.train.refresh), func(i int) { t.train.refresh[i]() })
}

// each runs f(0) … f(n−1) on the threads.
func (t *Training) each(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(t.sessions), n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// Gradients sets the parameters' gradients to the sums over n batches. batch
// returns the inputs of batch i; loss gets the values of TrainingOptions for
// it and sets the gradients of the loss with respect to them (nil where no
// parameter moves the value), which it finds zeroed. Both are called for
// several batches at a time, and the tensors hold until loss returns.
func (t *Training) Gradients(ctx context.Context, n int, batch func(i int) (map[string]tensor.Tensor, error), loss func(i int, values, grads []*Tensor) error) error {
	err := t.run(ctx, min(n, lanes), func(s *Session, lane int) error {
		if t.lanes[lane] == nil {
			t.lanes[lane] = make([]float32, t.elements())
		}
		clear(t.lanes[lane])
		at := 0
		for i, p := range t.params {
			s.train.gradients[i] = t.lanes[lane][at : at+len(p.Value)]
			at += len(p.Value)
		}
		for i := lane; i < n; i += lanes {
			if err := t.batch(ctx, s, i, batch, func(values, grads []*Tensor) error { return loss(i, values, grads) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Sum the lanes, parameter by parameter.
	starts := make([]int, len(t.params))
	at := 0
	for i, p := range t.params {
		starts[i] = at
		at += len(p.Value)
	}
	t.each(len(t.params), func(i int) {
		to := t.params[i].Gradient
		clear(to)
		for _, lane := range t.lanes[:min(n, lanes)] {
			t.sessions[0].train.simd.Add(to, to, lane[starts[i]:starts[i]+len(to)])
		}
	})
	return nil
}

// elements is the number of trained numbers.
func (t *Training) elements() int {
	n := 0
	for _, p := range t.params {
		n += len(p.Value)
	}
	return n
}

// errForward ends a run that wants no gradients.
var errForward = errors.New("forward only")

// Values computes the values of the loss alone, for n batches; see Gradients.
func (t *Training) Values(ctx context.Context, n int, batch func(i int) (map[string]tensor.Tensor, error), see func(i int, values []*Tensor) error) error {
	return t.run(ctx, n, func(s *Session, i int) error {
		return t.batch(ctx, s, i, batch, func(values, _ []*Tensor) error {
			if err := see(i, values); err != nil {
				return err
			}
			return errForward
		})
	})
}

func (t *Training) batch(ctx context.Context, s *Session, i int, batch func(i int) (map[string]tensor.Tensor, error), loss func(values, grads []*Tensor) error) error {
	in, err := batch(i)
	if err != nil {
		return err
	}
	s.train.loss = loss
	defer func() { s.train.loss = nil }()
	if err = s.run(ctx, in, nil, nil); errors.Is(err, errForward) {
		return nil
	}
	return err
}

// run calls f for items 0 … n−1 on the threads, each with its session. The
// error is that of the first item that has one.
func (t *Training) run(ctx context.Context, n int, f func(s *Session, i int) error) error {
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, n)
	for _, s := range t.sessions[:min(len(t.sessions), n)] {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[i] = f(s, i); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fmt.Errorf("train: %w", errs[i])
	}
	return nil
}

// Bytes is the memory that a call of Gradients with n batches holds:
// parameters, sums of gradients, and the activations of all threads, each
// taken to be those of the largest batch so far.
func (t *Training) Bytes(n int) int64 {
	most := 0
	for _, s := range t.sessions {
		most = max(most, s.pool.bytes)
	}
	return int64(min(n, len(t.sessions)))*int64(most) + int64(2+min(n, lanes))*4*int64(t.elements())
}

// Store writes the parameters' values, or those given for them in the same
// order, into a model that has constants of their names and shapes: that of
// CompileTraining or a copy of it.
func (t *Training) Store(m *graph.Model, values [][]float32) error {
	for i, p := range t.params {
		v := m.Graph.Value(p.Name)
		c := v.ConstTensor()
		if c == nil || c.Len() != int64(len(p.Value)) {
			return fmt.Errorf("the model has no constant %q of shape %v", p.Name, p.Shape)
		}
		from := p.Value
		if values != nil {
			from = values[i]
		}
		fresh := graph.Float32Tensor(c.Dims, slices.Clone(from))
		if v.Const != nil {
			v.Const = fresh
			continue
		}
		n := v.Def()
		for _, a := range slices.Clone(n.Attrs) {
			n.RemoveAttr(a.Name)
		}
		n.SetAttr(graph.TensorAttr("value", fresh))
	}
	return nil
}
