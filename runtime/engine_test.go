package runtime

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// program compiles a model in the textual form.
func program(t testing.TB, text string, o Options) *Program {
	t.Helper()
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// session is a session with NaN in every buffer that it lends.
func session(p *Program, threads int) *Session {
	s := p.NewSession(SessionOptions{Threads: threads})
	s.pool.dirty = true
	return s
}

func i64(shape []int, data ...int64) tensor.Tensor {
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data))
}

const loopText = `<ir_version: 8, opset_import: ["" : 17]>
loops (float[n] x, int64 trips) => (float[n] last, float[k, n] all, float[n] outer)
<bool yes = {1}, float two = {2}>
{
  outer = Mul (x, two)
  last, all = Loop (trips, yes, x) <body = body (int64 i, bool c, float[n] state) => (bool c_out, float[n] next, float[n] copy)
  {
    f = Cast <to = 1> (i)
    small = Less (f, two)
    add = If (small) <
      then_branch = then () => (float[n] a) { a = Add (outer, two) },
      else_branch = else () => (float[n] b) { b = Neg (state) }>
    next = Add (state, add)
    copy = Identity (next)
    c_out = Identity (c)
  }>
}`

// TestLoop: state, scan outputs, values of the graphs around, and no
// iteration at all.
func TestLoop(t *testing.T) {
	for _, threads := range []int{1, 2} {
		s := session(program(t, loopText, Options{}), threads)
		for range 2 {
			out := run(t, s, map[string]tensor.Tensor{"x": f32([]int{2}, 1, 10), "trips": tensor.New(tensor.FromScalar(int64(3)))})
			// state: x, then + 2x + 2 twice, then − itself.
			if got := out["all"].Data().([]float32); !slices.Equal(got, []float32{5, 32, 9, 54, 0, 0}) || !out["all"].Shape().Eq(tensor.Shape{3, 2}) {
				t.Errorf("all = %v%v", out["all"].Shape(), got)
			}
			if got := out["last"].Data().([]float32); !slices.Equal(got, []float32{0, 0}) {
				t.Errorf("last = %v", got)
			}
			out = run(t, s, map[string]tensor.Tensor{"x": f32([]int{2}, 1, 10), "trips": tensor.New(tensor.FromScalar(int64(0)))})
			if got := out["last"].Data().([]float32); !slices.Equal(got, []float32{1, 10}) || out["all"].Shape()[0] != 0 {
				t.Errorf("no iteration: last = %v, all %v", got, out["all"].Shape())
			}
		}
		if live := s.live(); live != 0 {
			t.Errorf("%d buffers are still lent after the runs", live)
		}
	}
}

// live counts the buffers that no tensor gave back, by what the pool knows,
// without those of values that are kept.
func (s *Session) live() int {
	free := 0
	kept := map[*buffer]bool{}
	for _, slot := range s.main.plan.kept {
		if b := s.main.values[slot].buf; b != nil && !kept[b] {
			kept[b] = true
			free += len(b.mem)
		}
	}
	for _, l := range s.pool.free {
		for _, b := range l {
			free += len(b.mem)
		}
	}
	return s.pool.bytes - free
}

func TestLoopStopsOnCancel(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
forever (float x) => (float y) <bool yes = {1}>
{
  y = Loop ("", yes, x) <body = body (int64 i, bool c, float s) => (bool c, float s) {}>
}`, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := p.NewSession(SessionOptions{Threads: 1}).Run(ctx, map[string]tensor.Tensor{"x": tensor.New(tensor.FromScalar(float32(1)))})
		done <- err
	}()
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("got %v", err)
	}
}

func TestScan(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
scans (float[2] init, float[2, 3] x) => (float[2] sum, float[2, 3] back)
{
  sum, back = Scan (init, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
    scan_output_axes = [1], scan_output_directions = [1],
    body = body (float[2] s, float[2] e) => (float[2] next, float[2] next2) { next = Add (s, e) next2 = Identity (next) }>
}`, Options{})
	s := session(p, 1)
	out := run(t, s, map[string]tensor.Tensor{"init": f32([]int{2}, 100, 200), "x": f32([]int{2, 3}, 1, 2, 3, 4, 5, 6)})
	if got := out["sum"].Data().([]float32); !slices.Equal(got, []float32{106, 215}) {
		t.Errorf("sum = %v", got)
	}
	if got := out["back"].Data().([]float32); !slices.Equal(got, []float32{106, 105, 103, 215, 211, 206}) {
		t.Errorf("back = %v", got)
	}
	if live := s.live(); live != 0 {
		t.Errorf("%d bytes are still lent", live)
	}
}

// TestFunctions: attributes given, defaulted and left out; an optional input
// left out; a function that calls another; opsets of their own.
func TestFunctions(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
calls (float[2] x) => (float[2] a, float[2] b)
{
  a = f.Outer <alpha = 0.5> (x)
  b = f.Outer (x)
}
<domain: "f", opset_import: ["" : 10, "f" : 1]>
Outer <alpha: float = 0.25> (v) => (w)
{
  l = f.Inner <slope: float = @alpha> (v)
  w = Clip <max = 3.0> (l)
}
<domain: "f", opset_import: ["" : 17]>
Inner <slope> (v, low) => (w)
{
  l = LeakyRelu <alpha: float = @slope> (v)
  w = Clip (l, low)
}`
	p := program(t, text, Options{})
	out := run(t, session(p, 1), map[string]tensor.Tensor{"x": f32([]int{2}, -8, 5)})
	if a, b := out["a"].Data().([]float32), out["b"].Data().([]float32); !slices.Equal(a, []float32{-4, 3}) || !slices.Equal(b, []float32{-2, 3}) {
		t.Errorf("a = %v, b = %v, want [-4 3] and [-2 3]", a, b)
	}
	m, err := graph.Parse(strings.Replace(text, "l = f.Inner <slope: float = @alpha> (v)", "l = f.Outer (v)", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(m, Options{}); err == nil || !strings.Contains(err.Error(), "calls itself") {
		t.Errorf("a recursive function: %v", err)
	}
}

// TestBillionLaughs: functions that double at every level must not be
// inlined without end.
func TestBillionLaughs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float x) => (float y) { y = f.F0 (x) }`)
	const depth = 40
	for i := range depth {
		fmt.Fprintf(&b, "\n<domain: \"f\", opset_import: [\"\" : 17, \"f\" : 1]> F%d (x) => (y) { a = f.F%d (x) y = f.F%d (a) }", i, i+1, i+1)
	}
	fmt.Fprintf(&b, "\n<domain: \"f\", opset_import: [\"\" : 17]> F%d (x) => (y) { y = Neg (x) }", depth)
	m, err := graph.Parse(b.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(m, Options{}); err == nil || !strings.Contains(err.Error(), "inlined") {
		t.Errorf("got %v", err)
	}
}

// TestFolding: constant subexpressions leave no step, and a branch that is
// known is taken at compile time; what would be huge is not folded, and what
// fails fails when it is run.
func TestFolding(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
folds (float[n] x) => (float[n] y)
<float a = {2}, float b = {3}, bool no = {0}>
{
  c = Mul (a, b)
  d = If (no) <then_branch = t () => (float d1) { d1 = Neg (c) }, else_branch = e () => (float d2) { d2 = Add (c, a) }>
  y = Mul (x, d)
}`, Options{})
	if len(p.main.steps) != 1 {
		t.Errorf("%d steps are left, want 1", len(p.main.steps))
	}
	out := run(t, session(p, 1), map[string]tensor.Tensor{"x": f32([]int{1}, 1)})
	if got := out["y"].Data().([]float32)[0]; got != 8 {
		t.Errorf("y = %v, want 8", got)
	}

	p = program(t, `<ir_version: 8, opset_import: ["" : 17]>
fails (bool c) => (int64 y) <int64 one = {1}, int64 zero = {0}>
{
  y = If (c) <then_branch = t () => (int64 q) { q = Div (one, zero) }, else_branch = e () => (int64 r) { r = Identity (one) }>
}`, Options{})
	s := session(p, 1)
	if got := run(t, s, map[string]tensor.Tensor{"c": tensor.New(tensor.FromScalar(false))})["y"].Data().(int64); got != 1 {
		t.Errorf("y = %v, want 1", got)
	}
	if _, err := s.Run(context.Background(), map[string]tensor.Tensor{"c": tensor.New(tensor.FromScalar(true))}); err == nil || !strings.Contains(err.Error(), `node "→q" (Div): integer division by zero`) {
		t.Errorf("got %v", err)
	}
}

// TestProbesInBodies: probes are delivered for every run of the body that has
// the value.
func TestProbesInBodies(t *testing.T) {
	p := program(t, loopText, Options{Probes: [][]string{{"state", "next"}, {"outer"}}})
	var got [][]float32
	_, err := session(p, 1).RunProbed(context.Background(),
		map[string]tensor.Tensor{"x": f32([]int{1}, 1), "trips": tensor.New(tensor.FromScalar(int64(2)))},
		func(group int, v []*Tensor) error {
			for _, t := range v {
				got = append(got, slices.Clone(t.F32()))
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(got); s != "[[2] [1] [5] [5] [9]]" {
		t.Errorf("delivered %v", s)
	}
}

// TestViewsShareMemory: Reshape and its like copy nothing, and the memory
// stays until the last of them is read.
func TestViewsShareMemory(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
views (float[2, 3] x) => (float[6] y, float[3, 2] z)
<int64[1] flat = {6}, int64[2] other = {3, 2}, int64[1] first = {0}>
{
  a = Neg (x)
  b = Reshape (a, flat)
  c = Unsqueeze (b, first)
  d = Squeeze (c, first)
  e = Reshape (d, other)
  y = Neg (b)
  z = Neg (e)
}`, Options{})
	s := session(p, 1)
	for range 3 {
		out := run(t, s, map[string]tensor.Tensor{"x": f32([]int{2, 3}, 1, 2, 3, 4, 5, 6)})
		if y, z := out["y"].Data().([]float32), out["z"].Data().([]float32); !slices.Equal(y, z) || y[5] != 6 {
			t.Errorf("y = %v, z = %v", y, z)
		}
	}
	if s.live() != 0 {
		t.Errorf("%d bytes are still lent", s.live())
	}
}

// TestSteadyState: a session that runs the shapes it has run before makes
// nothing but its outputs and the map that holds them.
func TestSteadyState(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
steady (float[n, 8] x) => (float[n, 4] y)
<float[8, 4] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31}, float[4] b = {1,2,3,4}, float[8] g = {1,1,1,1,1,1,1,1}, int64[2] shape = {-1, 4}>
{
  n = LayerNormalization (x, g)
  a = MatMul (n, w)
  c = Add (a, b)
  d = Softmax (c)
  e = Reshape (d, shape)
  f = Pow (e, e)
  b2 = Constant <value = float[4, 4] {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> ()
  y = Gemm (f, b2, b)
}`, Options{})
	s := p.NewSession(SessionOptions{Threads: 1})
	feeds := map[string]tensor.Tensor{"x": f32([]int{64, 8}, make([]float32, 512)...)}
	ctx := context.Background()
	run := func() {
		if _, err := s.Run(ctx, feeds); err != nil {
			t.Fatal(err)
		}
	}
	run()
	// What gorgonia's tensor of one output takes (12), its memory and shape,
	// the feed's data (1), and the map (2).
	if n := testing.AllocsPerRun(20, run); n > 17 {
		t.Errorf("%v allocations a run", n)
	}
	// Into the outputs of the run before: the data and the shapes that gorgonia
	// hands out (2 of the feed, 2 of the output).
	out := map[string]tensor.Tensor{}
	into := func() {
		if err := s.RunInto(ctx, feeds, out); err != nil {
			t.Fatal(err)
		}
	}
	into()
	if n := testing.AllocsPerRun(20, into); n > 4 {
		t.Errorf("%v allocations a run into given outputs", n)
	}
}

// TestRunInto: outputs go where the caller says if they fit there, into new
// tensors if not, and never over what the run reads.
func TestRunInto(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
into (float[n, 2] x) => (float[n, 2] computed, float[m, k] shaped, float[n, 2] passed, int64[2] size, float[2] fixed)
<int64[2] flip = {2, -1}>
{
  computed = Neg (x)
  shaped = Reshape (computed, flip)
  passed = Identity (x)
  size = Shape (x)
  fixed = Constant <value_floats = [7.0, 8.0]> ()
}`, Options{})
	s := session(p, 1)
	garbage := func(n int) []float32 {
		z := make([]float32, n)
		for i := range z {
			z[i] = -999
		}
		return z
	}
	x := f32([]int{3, 2}, 1, 2, 3, 4, 5, 6)
	want, err := s.Run(context.Background(), map[string]tensor.Tensor{"x": x})
	if err != nil {
		t.Fatal(err)
	}
	both := f32([]int{3, 2}, garbage(6)...)
	wide := tensor.New(tensor.WithShape(3, 4), tensor.WithBacking(garbage(12)))
	columns, err := wide.Slice(nil, tensor.S(0, 2))
	if err != nil {
		t.Fatal(err)
	}
	f := func(shape ...int) tensor.Tensor { return f32(shape, garbage(tensor.Shape(shape).TotalSize())...) }
	i64 := tensor.New(tensor.WithShape(2), tensor.WithBacking([]int64{-9, -9}))
	for _, c := range []struct {
		name string
		out  map[string]tensor.Tensor
		kept []string // entries that stay the caller's tensors
	}{
		{"nothing given", map[string]tensor.Tensor{}, nil},
		{"all fit", map[string]tensor.Tensor{"computed": f(3, 2), "shaped": f(2, 3), "passed": f(3, 2), "size": i64, "fixed": f(2)}, []string{"computed", "shaped", "passed", "size", "fixed"}},
		{"one fits", map[string]tensor.Tensor{"computed": f(3, 2), "shaped": f(3, 2), "passed": f(6)}, []string{"computed"}},
		{"too large", map[string]tensor.Tensor{"computed": f(4, 2)}, nil},
		{"another type", map[string]tensor.Tensor{"computed": tensor.New(tensor.WithShape(3, 2), tensor.WithBacking(make([]int32, 6)))}, nil},
		{"a feed", map[string]tensor.Tensor{"computed": x, "passed": x}, nil},
		{"two outputs in one", map[string]tensor.Tensor{"computed": both, "passed": both}, []string{"computed"}},
		{"no row-major order", map[string]tensor.Tensor{"computed": columns}, nil},
		{"no tensor", map[string]tensor.Tensor{"computed": nil}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			given := maps.Clone(c.out)
			for range 2 { // the second time with the tensors of the first
				if err := s.RunInto(context.Background(), map[string]tensor.Tensor{"x": x}, c.out); err != nil {
					t.Fatal(err)
				}
				for name, w := range want {
					if g := c.out[name]; !slices.Equal(g.Shape(), w.Shape()) || !reflect.DeepEqual(g.Data(), w.Data()) {
						t.Errorf("%s = %v, want %v", name, g, w)
					}
				}
				if got := x.Data().([]float32); got[0] != 1 || got[5] != 6 {
					t.Fatalf("the feed became %v", got)
				}
			}
			for name, d := range given {
				if kept := slices.Contains(c.kept, name); (c.out[name] == d) != kept {
					t.Errorf("%s: the caller's tensor is kept: %v, want %v", name, !kept, kept)
				}
			}
			if s.live() != 0 {
				t.Errorf("%d bytes are still lent", s.live())
			}
		})
	}
}

// TestThreadsDoNotShow: the bytes of the outputs are the same for any number
// of threads.
func TestThreadsDoNotShow(t *testing.T) {
	text := `<ir_version: 8, opset_import: ["" : 17]>
wide (float[n, 96] x, float[96, 96] v) => (float[n, 96] y)
<float[96] g>
{
  g1 = Constant <value_float = 0.5> ()
  a = MatMul (x, v)
  b = Erf (a)
  c = Mul (b, g1)
  d = Add (c, x)
  e = Softmax (d)
  y = MatMul (e, v)
}`
	text = strings.Replace(text, "<float[96] g>\n", "", 1)
	p := program(t, text, Options{})
	x, v := make([]float32, 300*96), make([]float32, 96*96)
	seed := uint32(1)
	for i := range x {
		seed = seed*1664525 + 1013904223
		x[i] = float32(int32(seed)) / (1 << 31)
	}
	copy(v, x)
	feeds := map[string]tensor.Tensor{"x": f32([]int{300, 96}, x...), "v": f32([]int{96, 96}, v...)}
	want := run(t, session(p, 1), feeds)["y"].Data().([]float32)
	for _, threads := range []int{2, 3, 7} {
		if got := run(t, session(p, threads), feeds)["y"].Data().([]float32); !slices.Equal(got, want) {
			t.Errorf("%d threads give other bits", threads)
		}
	}
	// A row's bits do not depend on the rows around it.
	one := run(t, session(p, 2), map[string]tensor.Tensor{"x": f32([]int{1, 96}, x[96*17:96*18]...), "v": f32([]int{96, 96}, v...)})["y"].Data().([]float32)
	if !slices.Equal(one, want[96*17:96*18]) {
		t.Error("a row alone gives other bits than in its batch")
	}
}

// TestConcurrentSessions: one program, many sessions.
func TestConcurrentSessions(t *testing.T) {
	p := program(t, loopText, Options{})
	errs := make(chan error)
	for g := range 4 {
		go func() {
			s := p.NewSession(SessionOptions{Threads: 2})
			for i := range 50 {
				v := float32(g*100 + i)
				out, err := s.Run(context.Background(), map[string]tensor.Tensor{"x": f32([]int{1}, v), "trips": tensor.New(tensor.FromScalar(int64(1)))})
				if err == nil && out["last"].Data().([]float32)[0] != v+2*v+2 {
					err = fmt.Errorf("session %d run %d: %v", g, i, out["last"].Data())
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	runtime.GC() // ends the helpers of the sessions
}

// TestHostileShapes: what asks for absurd memory or does not fit is an error
// that names the node.
func TestHostileShapes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = MatMul (x, y) }`, `node "→z" (MatMul): [2 3] times [2 3]: 3 columns meet 2 rows`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { s = Constant <value_ints = [9223372036854775807, 9223372036854775807, -1]> () z = Reshape (x, s) }`, `too large`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = Softmax <axis = 2> (x) }`, `axis 2 is out of range for rank 2`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { s = Constant <value_ints = [-3]> () z = Squeeze (x, s) }`, `axis -3 is out of range`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = LayerNormalization <axis = 5> (x, y) }`, `axis 5`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = Gemm (x, y) }`, `meet`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = If (x) <then_branch = t () => (float q) { q = Neg (x) }, else_branch = e () => (float r) { r = Neg (x) }> }`, `the condition is float[2 3]`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = InstanceNormalization (x, y, y) }`, `want 3 of float`},
		{`g (float[a, b] x, float[c, d] y) => (float z) { z = And (x, y) }`, `element type float is not supported`},
	} {
		m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]> ` + c.text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Compile(m, Options{})
		if err == nil {
			_, err = p.NewSession(SessionOptions{Threads: 1}).Run(context.Background(), map[string]tensor.Tensor{
				"x": f32([]int{2, 3}, 1, 2, 3, 4, 5, 6), "y": f32([]int{2, 3}, 1, 2, 3, 4, 5, 6)})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "node") || strings.Contains(err.Error(), "internal error") {
			t.Errorf("%s:\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

// denseFeeds names tensors after the inputs of a program, in order.
func denseFeeds(t testing.TB, p *Program, in ...*Tensor) map[string]tensor.Tensor {
	t.Helper()
	feeds := map[string]tensor.Tensor{}
	for i, port := range p.Inputs() {
		d, err := toDense(in[i], false)
		if err != nil {
			t.Fatal(err)
		}
		feeds[port.Name] = d
	}
	return feeds
}

// TestInPlace: an operator takes over the memory of an input that nothing
// reads any more, and no other; values read twice, viewed, captured, probed or
// given out keep their elements.
func TestInPlace(t *testing.T) {
	p := program(t, `<ir_version: 8, opset_import: ["" : 17]>
places (float[n] x, bool c) => (float[n] y, float[n] out, float[n] m)
<int64[1] flat = {-1}, float one = {1}, float[4] g = {1, 1, 1, 1}>
{
  a = Neg (x)
  b = Neg (a)
  d = Add (a, b)
  v = Reshape (b, flat)
  e = Neg (b)
  f = Add (v, e)
  h = Exp (f)
  k = Add (h, h)
  q = If (c) <then_branch = t () => (float[n] t1) { t1 = Neg (k) }, else_branch = e () => (float[n] e1) { e1 = Sub (one, k) }>
  r = Add (k, q)
  out = Neg (r)
  y = Add (d, out)
  l, m = LayerNormalization (y, g)
}`, Options{Probes: [][]string{{"h", "k"}}})
	s := session(p, 1)
	for range 2 {
		feeds := map[string]tensor.Tensor{"x": f32([]int{4}, 1, 2, 3, 4), "c": tensor.New(tensor.FromScalar(false))}
		probed := false
		outs, err := s.RunProbed(t.Context(), feeds, func(_ int, v []*Tensor) error {
			probed = true
			if !slices.Equal(v[0].F32(), []float32{1, 1, 1, 1}) || !slices.Equal(v[1].F32(), []float32{2, 2, 2, 2}) {
				t.Errorf("h = %v, k = %v", v[0].F32(), v[1].F32())
			}
			return nil
		})
		if err != nil || !probed {
			t.Fatal(err, probed)
		}
		if y, out := outs["y"].Data().([]float32), outs["out"].Data().([]float32); !slices.Equal(y, []float32{-1, -1, -1, -1}) || !slices.Equal(out, y) {
			t.Errorf("y = %v, out = %v", y, out)
		}
	}
	// The chain Neg, Neg, Neg needs one buffer.
	p = program(t, `<ir_version: 8, opset_import: ["" : 17]>
chain (float[n] x) => (float[n] y) { a = Neg (x) b = Neg (a) c = Neg (b) d = Exp (c) y = Neg (d) }`, Options{})
	s = session(p, 1)
	run(t, s, map[string]tensor.Tensor{"x": f32([]int{1000}, make([]float32, 1000)...)})
	if _, size := sizeClass(4000); s.pool.bytes != size {
		t.Errorf("the chain took %d bytes, want %d", s.pool.bytes, size)
	}
}

// TestPoolForgets: a session that has run many shapes does not hold the
// memory of all of them.
func TestPoolForgets(t *testing.T) {
	s := program(t, `<ir_version: 8, opset_import: ["" : 17]>
grow (float[n] x) => (float[n] y) { a = Neg (x) b = Exp (a) c = Add (a, b) y = Neg (c) }`, Options{}).NewSession(SessionOptions{Threads: 1})
	peak := 0
	for n := 1000; n < 400000; n = n * 6 / 5 {
		for range 6 {
			run(t, s, map[string]tensor.Tensor{"x": f32([]int{n}, make([]float32, n)...)})
		}
		peak = 2 * 4 * n // two values live at a time
	}
	// The last three shapes and the rounding of sizes, 5/4 at most.
	if s.pool.bytes > 4*peak {
		t.Errorf("the session holds %d bytes, the last run took %d", s.pool.bytes, peak)
	}
}

// TestSessionsEndTheirThreads: a session that nothing refers to takes its
// helpers with it.
func TestSessionsEndTheirThreads(t *testing.T) {
	p := program(t, loopText, Options{})
	before := runtime.NumGoroutine()
	for range 20 {
		run(t, p.NewSession(SessionOptions{Threads: 8}), map[string]tensor.Tensor{"x": f32([]int{1}, 1), "trips": tensor.New(tensor.FromScalar(int64(1)))})
	}
	for range 200 {
		runtime.GC()
		if runtime.NumGoroutine() <= before+8 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after the sessions are gone", before, runtime.NumGoroutine())
}
