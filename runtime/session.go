package runtime

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// SessionOptions says how a session runs.
type SessionOptions struct {
	// Threads is how many threads compute; 0 means one per processor.
	// Results do not depend on it.
	Threads int

	// Poison fills memory with NaNs before kernels get it, so that a kernel that
	// reads what nothing wrote is found out. It is for tests.
	Poison bool

	// Profile collects the time of every kind of node; see Session.Profile.
	Profile bool
}

// Session runs a program. It owns the memory of intermediate values, which a
// run leaves behind for the next one: after the first run of some shapes, the
// next runs of them allocate little but their outputs. A session makes one
// run at a time, and a second one is an error; use one session per goroutine. It
// need not be closed.
type Session struct {
	prog *Program
	ctx  context.Context
	pool pool
	team *team
	main *frame

	probe   func(group int, values []*Tensor) error
	probed  []*Tensor
	symbols map[string]symbol
	profile map[string]*KindTime
	busy    bool

	targets []Tensor // by output: the caller's tensor; no mem where there is none
	caches  []sessionCache

	train *trainRun // of sessions that train
}

// NewSession returns a session of p. It takes no memory for values before its first
// run.
func (p *Program) NewSession(o SessionOptions) *Session {
	s := &Session{prog: p, team: newTeam(o.Threads), symbols: map[string]symbol{}}
	s.pool.limit, s.pool.dirty = p.limit, o.Poison
	if o.Profile {
		s.profile = map[string]*KindTime{}
	}
	s.main = newFrame(p.main, s)
	s.targets = make([]Tensor, len(p.outputs))
	s.caches = make([]sessionCache, len(p.caches))
	for i := range p.caches {
		if g := p.caches[i].growing; g != nil {
			s.caches[i].stack = &cacheStack{growing: g}
		}
	}
	for _, slot := range p.given() {
		if t := s.main.values[slot]; !s.main.fixed[slot] {
			t.keep = true
		}
	}
	runtime.AddCleanup(s, (*team).close, s.team)
	return s
}

// KindTime is the time that the nodes of one kind took.
type KindTime struct {
	Kind  string // the operator, or what several were joined to
	Calls int
	Total time.Duration

	// FLOPs counts the floating-point operations of matrix products and
	// convolutions, two for a multiply-add; it is 0 for other kinds, whose
	// time goes into reading and writing. Dense products of [m, k] and [k, n]
	// count 2·m·k·n whatever zeros they hold; block-circulant ones count what
	// they compute, see [circulant.Operator.FLOPs].
	FLOPs int64
}

// GFLOPS is the rate of the operations that FLOPs counts, in 10⁹ a second.
func (k KindTime) GFLOPS() float64 {
	return float64(k.FLOPs) / max(float64(k.Total.Nanoseconds()), 1)
}

// Peak measures how many floating-point operations a second one core does at most
// with the vector instructions of a path ("" for the best that this machine has; see
// Options.Path), and returns that and the path's name. It takes some 20 ms, and fails
// where this machine does not have the path.
func Peak(path string) (flops float64, name string, err error) {
	p := simd.Auto
	if path != "" {
		if p, err = simd.ParsePath(path); err != nil {
			return 0, "", err
		}
	}
	k, err := simd.For(p)
	if err != nil {
		return 0, "", err
	}
	return k.Peak(), k.Path().String(), nil
}

// Profile returns the time per kind of node since the session was made or
// ResetProfile called, the longest first; it is empty unless SessionOptions asked for
// it. The time of a control-flow node contains that of its bodies.
func (s *Session) Profile() []KindTime {
	var out []KindTime
	for _, k := range s.profile {
		out = append(out, *k)
	}
	slices.SortFunc(out, func(a, b KindTime) int {
		if a.Total != b.Total {
			return int(b.Total - a.Total)
		}
		if a.Kind < b.Kind {
			return -1
		}
		return 1
	})
	return out
}

// ResetProfile makes the session forget what Profile returned so far, for a
// start after a warm-up.
func (s *Session) ResetProfile() { clear(s.profile) }

// Run feeds the inputs by name and returns the outputs by name, in memory of
// their own. The tensors fed are read in place where they lie row by row, and
// must not change during the run. float16 and bfloat16 inputs are fed as
// float32 (rounded to the nearest) or as their bits in uint16, and such
// outputs are given as float32; other types without a Go counterpart pass as
// their bits in uint8 or int8.
//
// A cancelled context ends the run before its next node. An input that is missing,
// unknown or of another type or shape than the model declares is an error (a symbol in
// its shapes stands for one size within a run), and so are
// values that would take more than Options.MemoryLimit (ErrMemory); the session can be
// used again after any.
func (s *Session) Run(ctx context.Context, feeds map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	return s.RunProbed(ctx, feeds, nil)
}

// RunInto is Run with the outputs put into out. An entry that has the element
// type and the shape of its output, lies row by row and shares no memory with
// a feed is written in place; any other becomes a new tensor. So a loop that
// passes the same map again and again allocates outputs once, and each run
// writes over those of the run before. After an error, tensors of out may hold
// a part of the results.
func (s *Session) RunInto(ctx context.Context, feeds, out map[string]tensor.Tensor) error {
	if err := s.run(ctx, feeds, out, nil); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// RunProbed is Run with the probes of Options.Probes delivered: probe is
// called, on the goroutine of the caller and in an order that does not
// change, with the index of the group and its values, in the order of their names
// there. They hold until it returns. An error from it ends the run.
func (s *Session) RunProbed(ctx context.Context, feeds map[string]tensor.Tensor, probe func(group int, values []*Tensor) error) (map[string]tensor.Tensor, error) {
	out := make(map[string]tensor.Tensor, len(s.prog.outputs))
	if err := s.run(ctx, feeds, out, probe); err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return out, nil
}

// RunTensors is Run with values as the runtime holds them: any element type,
// and also sequences and optionals, which Run refuses. The outputs have memory
// of their own.
func (s *Session) RunTensors(ctx context.Context, feeds map[string]*Tensor) (map[string]*Tensor, error) {
	out := make(map[string]*Tensor, len(s.prog.outputs))
	if err := s.runTensors(ctx, feeds, out); err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return out, nil
}

// ProbeTensors is RunProbed with inputs as the runtime holds them, as RunTensors
// takes them, and without outputs.
func (s *Session) ProbeTensors(ctx context.Context, feeds map[string]*Tensor, probe func(group int, values []*Tensor) error) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer s.end()
	s.probe = probe
	err := s.feedTensors(feeds)
	if err == nil {
		err = s.main.exec()
	}
	if err == nil {
		err = s.keepCaches()
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

func (s *Session) runTensors(ctx context.Context, feeds, out map[string]*Tensor) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	if err := s.feedTensors(feeds); err != nil {
		return err
	}
	if err := s.main.exec(); err != nil {
		return err
	}
	for i, slot := range s.prog.given() {
		out[s.prog.outputs[i].Name] = s.main.values[slot].clone()
	}
	return s.keepCaches()
}

// begin starts a run, which end ends.
func (s *Session) begin(ctx context.Context) error {
	if s.busy {
		return fmt.Errorf("the session is running already")
	}
	s.busy, s.ctx = true, ctx
	return nil
}

func (s *Session) end() {
	s.displace()
	s.main.reset()
	s.pool.age()
	s.busy, s.ctx, s.probe = false, nil, nil
}

func (s *Session) run(ctx context.Context, feeds, out map[string]tensor.Tensor, probe func(group int, values []*Tensor) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	s.probe = probe
	f := s.main
	if err := s.feed(feeds); err != nil {
		return err
	}
	s.place(out)
	if err := f.exec(); err != nil {
		return err
	}
	for i, slot := range s.prog.given() {
		name, t := s.prog.outputs[i].Name, f.values[slot]
		if s.settled(i, t) {
			continue
		}
		own := t.own && !t.placed() && !s.shared(slot, i)
		d, err := toDense(t, own)
		if err != nil {
			return fmt.Errorf("output %q: %w", name, err)
		}
		out[name] = d
	}
	return s.keepCaches()
}

// frame is the values of a plan in a session.
type frame struct {
	plan   *plan
	s      *Session
	values []*Tensor
	fixed  []bool // constants and captures: not the frame's to release
	calls  []call

	form    form   // of the inputs that the still values are of
	kept    bool   // there are such values
	lasting []bool // by slot: a still value that is kept
}

func newFrame(p *plan, s *Session) *frame {
	f := &frame{plan: p, s: s, values: make([]*Tensor, p.slots), fixed: make([]bool, p.slots), calls: make([]call, len(p.steps))}
	for _, c := range p.consts {
		f.values[c.slot], f.fixed[c.slot] = c.tensor, true
	}
	for _, c := range p.captures {
		f.fixed[c.inner] = true
	}
	f.lasting = make([]bool, p.slots)
	for _, s := range p.kept {
		f.lasting[s] = true
	}
	for i := range f.values {
		if f.values[i] == nil && !f.fixed[i] {
			f.values[i] = &Tensor{}
		}
	}
	for i := range p.steps {
		st := &p.steps[i]
		c := &f.calls[i]
		c.s = s
		c.in = make([]*Tensor, len(st.in))
		c.out = make([]*Tensor, len(st.out))
		c.dies = st.dies
		for _, b := range st.bodies {
			c.bodies = append(c.bodies, newFrame(b, s))
		}
	}
	return f
}

// capture points the frame of a body at the values that it reads of the frame
// around it.
func (f *frame) capture(outer *frame) {
	for _, c := range f.plan.captures {
		f.values[c.inner] = outer.values[c.outer]
	}
}

// reset gives the frame's memory back.
func (f *frame) reset() {
	for i, t := range f.values {
		if !f.fixed[i] && !(f.kept && f.lasting[i]) {
			f.s.pool.release(t)
		}
	}
	for i := range f.calls {
		c := &f.calls[i]
		c.tidy()
		for _, b := range c.bodies {
			b.reset()
		}
	}
}

// exec runs the steps. A panic in a kernel is a bug; it ends the run with an
// error that names the node.
func (f *frame) exec() (err error) {
	at := -1
	defer func() {
		if r := recover(); r != nil {
			title := "before the first node"
			if at >= 0 {
				title = f.plan.steps[at].title
			}
			err = fmt.Errorf("%s: internal error: %v\n%s", title, r, debug.Stack())
		}
	}()
	if err := f.deliver(-1); err != nil {
		return err
	}
	again := f.kept && f.form.equal(f)
	f.kept = again
	for i := range f.plan.steps {
		at = i
		st := &f.plan.steps[i]
		if again && st.still {
			continue
		}
		if err := f.s.ctx.Err(); err != nil {
			return fmt.Errorf("before %s: %w", st.title, err)
		}
		c := &f.calls[i]
		for k, s := range st.in {
			if s >= 0 {
				c.in[k] = f.values[s]
			}
		}
		if !st.lists {
			if err := c.tensorsOnly(0); err != nil {
				return fmt.Errorf("%s: %w", st.title, err)
			}
		}
		for k, s := range st.out {
			if s >= 0 {
				c.out[k] = f.values[s]
			}
		}
		for _, b := range c.bodies {
			b.capture(f)
		}
		var start time.Time
		if f.s.profile != nil {
			start, c.flops = time.Now(), 0
		}
		if err := st.kernel(c); err != nil {
			return fmt.Errorf("%s: %w", st.title, err)
		}
		if f.s.profile != nil {
			k := f.s.profile[st.kind]
			if k == nil {
				k = &KindTime{Kind: st.kind}
				f.s.profile[st.kind] = k
			}
			k.Calls++
			k.Total += time.Since(start)
			k.FLOPs += c.flops
		}
		c.tidy()
		if err := f.deliver(i); err != nil {
			return err
		}
		for _, s := range st.free {
			f.s.pool.release(f.values[s])
		}
	}
	if f.plan.stills {
		f.form.set(f)
		f.kept = true
	}
	return nil
}

// deliver hands out the probes that follow a step.
func (f *frame) deliver(step int) error {
	if f.s.probe == nil {
		return nil
	}
	for _, p := range f.plan.probes[step] {
		f.s.probed = f.s.probed[:0]
		for _, s := range p.slots {
			if t := f.values[s]; t.seq != nil {
				return fmt.Errorf("probe %d: the value is %s", p.group, t.kindOf())
			}
			f.s.probed = append(f.s.probed, f.values[s])
		}
		if err := f.s.probe(p.group, f.s.probed); err != nil {
			return fmt.Errorf("probe %d: %w", p.group, err)
		}
	}
	return nil
}
