package passes_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

func interfaceOf(m *graph.Model) (inputs, outputs []string) {
	for _, v := range m.Graph.Inputs() {
		inputs = append(inputs, v.Name)
	}
	for _, v := range m.Graph.Outputs() {
		outputs = append(outputs, v.Name)
	}
	return inputs, outputs
}

// TestDropCaches drops attentions with a cache, layer 0's too, which positions
// are counted by, in the three ways that the interface can go. What is left
// computes the same in all.
func TestDropCaches(t *testing.T) {
	for _, c := range testmodels.Cases() {
		if !slices.Contains([]string{"gpt2-17-cache", "gpt2-17-merged-past", "gpt2-17-merged-start", "llama-17-cache", "llama-17-fused-step", "llama-23-cache"}, c.Name) {
			continue
		}
		_, err := runtime.Compile(c.Model(), runtime.Options{})
		runs := err == nil
		feeds := feedsOf(t, c.Inputs)
		for _, gone := range [][]string{{"A0"}, {"A1", "M1"}, {"A0", "A2"}} {
			with := map[passes.Caches]*graph.Model{}
			for _, how := range []passes.Caches{passes.CachesRemove, passes.CachesRenumber, passes.CachesPassthrough} {
				m := c.Model()
				drop(t, m, passes.DropOptions{Caches: how}, gone...)
				if err := graph.Check(m); err != nil {
					t.Fatalf("%s without %v, %s: %v", c.Name, gone, how, err)
				}
				with[how] = m
			}
			// The numbers of the layers that are left.
			layers := slices.DeleteFunc([]string{"0", "1", "2"}, func(l string) bool { return slices.Contains(gone, "A"+l) })
			number := func(name string) string { // what renumber makes of a name
				for i, l := range layers {
					if f := strings.Split(name, "."); len(f) == 3 && f[1] == l {
						return f[0] + "." + []string{"0", "1", "2"}[i] + "." + f[2]
					}
				}
				return name
			}
			in, out := interfaceOf(c.Model())
			left := func(names []string) []string {
				return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
					f := strings.Split(name, ".")
					return len(f) == 3 && !slices.Contains(layers, f[1])
				})
			}
			for how, want := range map[passes.Caches]func(string) string{passes.CachesRemove: func(s string) string { return s }, passes.CachesRenumber: number} {
				gotIn, gotOut := interfaceOf(with[how])
				wantIn, wantOut := left(in), left(out)
				for _, names := range [][]string{wantIn, wantOut} {
					for i := range names {
						names[i] = want(names[i])
					}
				}
				if !slices.Equal(gotIn, wantIn) || !slices.Equal(gotOut, wantOut) {
					t.Errorf("%s without %v, %s: inputs %v, outputs %v, want %v and %v", c.Name, gone, how, gotIn, gotOut, wantIn, wantOut)
				}
			}
			if gotIn, gotOut := interfaceOf(with[passes.CachesPassthrough]); !slices.Equal(gotIn, in) || !slices.Equal(gotOut, out) {
				t.Errorf("%s without %v, passed through: inputs %v, outputs %v, want %v and %v", c.Name, gone, gotIn, gotOut, in, out)
			}
			if !runs {
				continue
			}
			has := func(m *graph.Model) map[string]tensor.Tensor {
				f := maps.Clone(feeds)
				maps.DeleteFunc(f, func(name string, _ tensor.Tensor) bool { v := m.Graph.Value(name); return v == nil || !v.IsInput() })
				return f
			}
			want := run(t, with[passes.CachesRemove], has(with[passes.CachesRemove]), runtime.Options{})
			renamed := map[string]tensor.Tensor{}
			for name, x := range has(with[passes.CachesRemove]) {
				renamed[number(name)] = x
			}
			again := run(t, with[passes.CachesRenumber], renamed, runtime.Options{})
			through := run(t, with[passes.CachesPassthrough], feeds, runtime.Options{})
			for name, w := range want {
				if d := difference(t, name, again[number(name)], w); d != 0 {
					t.Errorf("%s without %v, renumbered: output %q differs by %g", c.Name, gone, name, d)
				}
				if d := difference(t, name, through[name], w); d != 0 {
					t.Errorf("%s without %v, passed through: output %q differs by %g", c.Name, gone, name, d)
				}
			}
			for name, x := range through {
				if want[name] != nil {
					continue
				}
				if d := difference(t, name, x, feeds[strings.Replace(name, "present", "past_key_values", 1)]); d != 0 {
					t.Errorf("%s without %v: output %q is not what came in", c.Name, gone, name)
				}
			}
		}
	}
}

// TestDropCachesSaysWhy: what cannot be done with caches is said in words.
func TestDropCachesSaysWhy(t *testing.T) {
	c := func() *graph.Model {
		return testmodels.GPT2(testmodels.Size{Opset: 17, Seed: 1}, testmodels.GPT2Options{Cache: true})
	}
	for _, x := range []struct {
		caches passes.Caches
		gone   []string
		want   string
	}{
		{"keep", []string{"A0"}, `nothing called "keep" is done with caches`},
		{passes.CachesPassthrough, []string{"A0", "A1", "A2"}, "keep one more attention"},
	} {
		err := passes.Run(ctx, c(), &passes.Journal{}, passes.DropModules(x.gone, passes.DropOptions{Caches: x.caches}))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v, want %q", err, x.want)
		}
	}
}
