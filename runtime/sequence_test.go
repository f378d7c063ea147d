package runtime

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

func runText(t *testing.T, text string, o Options, feeds map[string]*Tensor) (map[string]*Tensor, error) {
	t.Helper()
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(m, o)
	if err != nil {
		return nil, err
	}
	s := p.NewSession(SessionOptions{Threads: 1, Poison: true})
	var out map[string]*Tensor
	for range 2 { // the second run meets what the first left
		if out, err = s.RunTensors(context.Background(), feeds); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// A loop that collects, as exporters write it, gives what was collected, and
// a sequence that is read twice is not changed by an insertion.
func TestSequencesInLoops(t *testing.T) {
	const text = `<ir_version: 8, opset_import: ["": 17]>
	g (int64 n, float[2] x) => (float[K] all, int64 before, int64 after, float[2] first) {
		empty = SequenceEmpty <dtype = 1> ()
		list = Loop (n, "", empty) <body = b (int64 i, bool c, seq(float[2]) s) => (bool d, seq(float[2]) u) {
			d = Identity (c)
			f = Cast <to = 1> (i)
			y = Add (x, f)
			u = SequenceInsert (s, y)
		}>
		all = ConcatFromSequence <axis = 0> (list)
		zero = Constant <value = int64 {0}> ()
		more = SequenceInsert (list, x, zero)
		before = SequenceLength (list)
		after = SequenceLength (more)
		minus = Constant <value = int64 {-1}> ()
		first = SequenceAt (list, minus)
	}`
	feeds := map[string]*Tensor{"n": FromSlice(nil, []int64{50}), "x": FromSlice([]int{2}, []float32{0.5, -1})}
	out, err := runText(t, text, Options{}, feeds)
	if err != nil {
		t.Fatal(err)
	}
	all := out["all"].F32()
	for i := range 50 {
		if all[2*i] != float32(i)+0.5 || all[2*i+1] != float32(i)-1 {
			t.Fatalf("item %d is %v", i, all[2*i:2*i+2])
		}
	}
	if b, a := out["before"].I64()[0], out["after"].I64()[0]; b != 50 || a != 51 {
		t.Errorf("%d items before and %d after an insertion, want 50 and 51", b, a)
	}
	if f := out["first"].F32(); f[0] != 49.5 {
		t.Errorf("the last item is %v", f)
	}
	if _, err := runText(t, text, Options{MemoryLimit: 2000}, feeds); err == nil || !strings.Contains(err.Error(), "memory limit") {
		t.Errorf("a sequence beyond the memory limit gives %v", err)
	}
}

// What cannot be is an error that says so.
func TestSequencesRefuse(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`p = Constant <value = int64 {2}> () y = SequenceAt (s, p)`, "position 2 is out of range for a sequence of 2"},
		{`p = Constant <value = int64 {-3}> () u = SequenceErase (s, p) y = SequenceAt (u, p)`, "position -3 is out of range"},
		{`p = Constant <value = float {0}> () y = SequenceAt (s, p)`, "want one whole number"},
		{`y = Relu (s)`, "input 0 is a sequence, want a tensor"},
		{`y = ConcatFromSequence <axis = 2> (s)`, "axis 2 is out of range"},
		{`i = Constant <value = int64[2] {1, 2}> () u = SequenceInsert (s, i) y = ConcatFromSequence <axis = 0> (u)`, "a tensor of int64 in a sequence of float"},
		{`p = Constant <value = int64[1] {3}> () u = SplitToSequence (x, p) y = ConcatFromSequence <axis = 0> (u)`, "does not sum up"},
		{`p = Constant <value = int64 {0}> () u = SplitToSequence (x, p) y = ConcatFromSequence <axis = 0> (u)`, "split = 0"},
		{`o = Optional <type = float[2]> () y = OptionalGetElement (o)`, "holds nothing"},
	} {
		text := fmt.Sprintf(`<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float y) { s = SequenceConstruct (x, x) %s }`, c.body)
		_, err := runText(t, text, Options{}, map[string]*Tensor{"x": FromSlice([]int{2}, []float32{1, 2})})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.body, err, c.want)
		}
	}
}
