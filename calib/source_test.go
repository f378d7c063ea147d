package calib_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// port parses "name: float[N,2]".
func port(t testing.TB, text string) runtime.Port {
	t.Helper()
	name, typ, _ := strings.Cut(text, ": ")
	m := parse(t, fmt.Sprintf("<ir_version: 10, opset_import: [\"\": 17]>\ng (%s %q) => (%s \"the output\") { \"the output\" = Identity (%q) }", typ, name, typ, name))
	ports, err := runtime.Ports(m)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

func ports(t testing.TB, list ...string) []runtime.Port {
	t.Helper()
	var out []runtime.Port
	for _, text := range list {
		out = append(out, port(t, text))
	}
	return out
}

func floats(name string, shape ...int) *npz.Array {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(i)
	}
	return npz.Float32Array(name, shape, data)
}

func integers(name string, shape ...int) *npz.Array {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]int64, n)
	for i := range data {
		data[i] = int64(i)
	}
	return npz.Int64Array(name, shape, data)
}

// TestBind: which array feeds which input.
func TestBind(t *testing.T) {
	for _, c := range []struct {
		name   string
		ports  []string
		arrays []*npz.Array
		use    map[string]string
		notes  string // part of all notes
		err    string // part of the error
		shapes map[string][]int
	}{
		{name: "by name", ports: []string{"x: float[N,2]", "ids: int64[N,K]"}, arrays: []*npz.Array{floats("x", 3, 2), integers("ids", 3, 5), integers("labels", 3)},
			shapes: map[string][]int{"x": {3, 2}, "ids": {3, 5}}},
		{name: "the only array that fits", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("a", 3, 2), floats("b", 3, 3), integers("c", 3, 2)},
			notes: `array "a" feeds input "x": the only one that fits`, shapes: map[string][]int{"x": {3, 2}}},
		{name: "two arrays that fit", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("a", 3, 2), floats("b", 3, 2)},
			err: `arrays "a" and "b" both fit input "x"; choose with --map b=x`},
		{name: "one array for two inputs", ports: []string{"x: float[N,2]", "y: float[N,2]"}, arrays: []*npz.Array{floats("a", 3, 2)},
			err: `nothing feeds input y: float[N, 2]; the data has a float[3 2]; name the array with --map array=y`},
		{name: "a map", ports: []string{"x: float[N,2]", "y: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 2), floats("b", 3, 2)},
			use: map[string]string{"x": "y", "b": "x"}, shapes: map[string][]int{"x": {3, 2}, "y": {3, 2}}},
		{name: "a map wins over a name", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 4, 2), floats("b", 3, 2)},
			use: map[string]string{"b": "x"}, shapes: map[string][]int{"x": {3, 2}}},
		{name: "two arrays mapped to one input", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("a", 3, 2), floats("b", 3, 2)},
			use: map[string]string{"a": "x", "b": "x"}, err: `arrays "a" and "b" are both mapped to input "x"`},
		{name: "a map of no array", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 2)}, use: map[string]string{"z": "x"},
			err: "--map z=x: there is no such array or no such input"},
		{name: "a map to no input", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 2)}, use: map[string]string{"x": "z"},
			err: "--map x=z: there is no such array or no such input"},
		{name: "another rank", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 2, 1)},
			err: `array "x" for input "x": has shape [3 2 1], the input is x: float[N, 2]`},
		{name: "other dims", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 4)}, err: `has shape [3 4]`},
		{name: "another type", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{integers("x", 3, 2)}, err: `is int64, the input wants float`},
		{name: "a scalar", ports: []string{"x: float[]"}, arrays: []*npz.Array{floats("x")}, err: `has shape [], the input is x: float`},
		{name: "any rank", ports: []string{"x: float[]"}, arrays: []*npz.Array{floats("x", 3, 4)}, shapes: map[string][]int{"x": {3, 4}}},
		{name: "no samples", ports: []string{"x: float[N,2]"}, arrays: []*npz.Array{floats("x", 0, 2)}, err: `array "x" has no samples`},
		{name: "samples that do not agree", ports: []string{"x: float[N,2]", "y: float[N,2]"}, arrays: []*npz.Array{floats("x", 3, 2), floats("y", 4, 2)},
			err: `"x" has 3 samples and "y" 4; they must agree`},
		{name: "no inputs", arrays: []*npz.Array{floats("x", 3, 2)}, err: "the model has no inputs to feed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, err := sourceOf(t, calib.SourceOptions{Map: c.use}, c.arrays...)
			if err != nil {
				t.Fatal(err)
			}
			f, err := src.Bind(ports(t, c.ports...))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.HasPrefix(err.Error(), "data data.npz: ") {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(f.Notes, "; "); got != c.notes {
				t.Errorf("notes %q, want %q", got, c.notes)
			}
			in, err := f.Batch(0, f.Len())
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range c.shapes {
				if got := []int(in[name].Shape()); !slices.Equal(got, want) {
					t.Errorf("%s has shape %v, want %v", name, got, want)
				}
			}
		})
	}
}

// TestBatch: samples come in order, doubles and halves as floats, int32 as int64,
// bools as bools.
func TestBatch(t *testing.T) {
	src := source(t, npz.Float64Array("x", []int{4, 2}, []float64{0, 1, 2, 3, 4, 5, 6, 7}),
		&npz.Array{Name: "b", DType: graph.Bool, Shape: []int{4}, Raw: []byte{0, 1, 2, 255}},
		&npz.Array{Name: "h", DType: graph.Float16, Shape: []int{4}, Raw: []byte{0, 0, 0, 0x3c, 0, 0x42, 0, 0xc4}}, // 0 1 3 -4
		&npz.Array{Name: "i", DType: graph.Int32, Shape: []int{4}, Raw: []byte{0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}})
	f, err := src.Bind(ports(t, "x: float[N,2]", "b: bool[N]", "h: float[N]", "i: int64[N]"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := f.Slice(1, 9).Batch(1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got := in["x"].Data(); !reflect.DeepEqual(got, []float32{4, 5, 6, 7}) {
		t.Errorf("x is %v", got)
	}
	if got := in["b"].Data(); !reflect.DeepEqual(got, []bool{true, true}) {
		t.Errorf("b is %v", got)
	}
	if got := in["h"].Data(); !reflect.DeepEqual(got, []float32{3, -4}) {
		t.Errorf("h is %v", got)
	}
	if got := in["i"].Data(); !reflect.DeepEqual(got, []int64{5, -1}) {
		t.Errorf("i is %v", got)
	}
	// Under another name only an array of the input's own type is taken.
	if _, err := src.Bind(ports(t, "y: int64[N]")); err == nil {
		t.Error("an array of int32 was guessed to feed an input of int64")
	}
	for _, r := range [][2]int{{-1, 2}, {2, 2}, {3, 2}, {0, 5}} {
		if _, err := f.Batch(r[0], r[1]); err == nil {
			t.Errorf("no error for samples %v", r)
		}
	}
}

// TestParts: slices, shards and spreads take the samples they say.
func TestParts(t *testing.T) {
	f, err := source(t, integers("x", 10), integers("labels", 10, 2), integers("few", 9), floats("scores", 10)).Bind(ports(t, "x: int64[N]"))
	if err != nil {
		t.Fatal(err)
	}
	samples := func(f *calib.Feed) []int64 {
		in, err := f.Batch(0, f.Len())
		if err != nil {
			t.Fatal(err)
		}
		return in["x"].Data().([]int64)
	}
	shard := func(i, n int) *calib.Feed {
		s, err := f.Shard(i, n)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		feed     *calib.Feed
		want     []int64
		from, to int
	}{
		{f.Slice(2, 5), []int64{2, 3, 4}, 2, 5},
		{f.Slice(8, 99), []int64{8, 9}, 8, 10},
		{f.Slice(2, 8).Slice(1, 3), []int64{3, 4}, 3, 5},
		{shard(0, 3), []int64{0, 1, 2}, 0, 3},
		{shard(1, 3), []int64{3, 4, 5}, 3, 6},
		{shard(2, 3), []int64{6, 7, 8, 9}, 6, 10},
		{f.Spread(4), []int64{0, 2, 5, 7}, 0, 8},
		{f.Slice(4, 8).Spread(2), []int64{4, 6}, 4, 7},
		{f.Spread(4).Slice(1, 3), []int64{2, 5}, 2, 6},
	} {
		if got := samples(c.feed); !slices.Equal(got, c.want) {
			t.Errorf("samples %v, want %v", got, c.want)
		}
		if from, to := c.feed.Range(); from != c.from || to != c.to {
			t.Errorf("samples %v: range %d … %d, want %d … %d", c.want, from, to, c.from, c.to)
		}
		labels, err := c.feed.Labels("labels")
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range c.want {
			if labels[2*i] != 2*s || labels[2*i+1] != 2*s+1 {
				t.Errorf("samples %v have labels %v", c.want, labels)
			}
		}
	}
	if f.Spread(0) != f || f.Spread(10) != f {
		t.Error("a spread of all samples is not the feed itself")
	}
	for _, c := range [][2]int{{0, 0}, {-1, 2}, {2, 2}, {0, 11}} {
		if _, err := f.Shard(c[0], c[1]); err == nil {
			t.Errorf("no error for shard %v", c)
		}
	}
	for name, want := range map[string]string{"few": "have shape [9] for 10 samples", "scores": "labels", "none": "no array \"none\"; it has x, labels"} {
		if _, err := f.Labels(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("labels %q: %v, want %q", name, err, want)
		}
	}
}

// TestFixedBatch: an input whose first axis is fixed gets that many samples.
func TestFixedBatch(t *testing.T) {
	for _, c := range []struct {
		ports []string
		n     int
		fixed int
		used  int
		err   string
	}{
		{[]string{"x: float[1,2]"}, 5, 1, 5, ""},
		{[]string{"x: float[2,2]"}, 6, 2, 6, ""},
		{[]string{"x: float[3,2]"}, 11, 3, 9, ""},
		{[]string{"x: float[3,2]", "y: float[1,2]"}, 6, 0, 0, `input "x" takes 3 samples at a time and input "y" 1`},
		{[]string{"x: float[7,2]"}, 6, 0, 0, `input "x" takes 7 samples at a time, the data has 6`},
		{[]string{"x: float[0,2]"}, 6, 0, 0, `input "x" takes 0 samples at a time`},
	} {
		f, err := source(t, floats("x", c.n, 2), floats("y", c.n, 2)).Bind(ports(t, c.ports...))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: %v, want %q", c.ports, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.MaxBatch() != c.fixed || f.Len() != c.used || (len(f.Notes) > 0) != (c.used < c.n) {
			t.Errorf("%v: %d of %d samples in batches of %d, notes %v", c.ports, f.Len(), c.n, f.MaxBatch(), f.Notes)
		}
		batches := 0
		err = calib.Batches(ctx, f, 4, nil, func(from, to int, in map[string]tensor.Tensor) error {
			if batches++; to-from != c.fixed || in["x"].Shape()[0] != c.fixed {
				t.Errorf("%v: batch %d … %d", c.ports, from, to)
			}
			return nil
		})
		if err != nil || batches != c.used/c.fixed {
			t.Errorf("%v: %d batches, %v", c.ports, batches, err)
		}
	}
	f, err := source(t, floats("x", 12, 2)).Bind(ports(t, "x: float[3,2]"))
	if err != nil {
		t.Fatal(err)
	}
	part, err := f.Shard(1, 3)
	if err != nil || part.Len() != 3 || f.Slice(2, 11).Len() != 9 || f.Spread(7).Len() != 6 {
		t.Errorf("shard of %d, slice of %d, spread of %d samples: want whole batches", part.Len(), f.Slice(2, 11).Len(), f.Spread(7).Len())
	}
	if _, err := f.Shard(0, 5); err == nil {
		t.Error("no error for five shards of four batches")
	}
	if _, err := f.Slice(0, 3).For(ports(t, "x: float[2,2]")); err == nil {
		t.Error("no error for three samples and a model that takes two at a time")
	}
}

// TestFill: what an inference program gives a decoder on its first step.
func TestFill(t *testing.T) {
	ids := integers("input_ids", 2, 3)
	mask := npz.Int64Array("attention_mask", []int{2, 3}, []int64{0, 1, 1, 1, 1, 1})
	for _, c := range []struct {
		name   string
		ports  []string
		arrays []*npz.Array
		want   map[string]any // shape and data
		err    string
	}{
		{"cache with names", []string{"input_ids: int64[batch,seq]", "past_key_values.0.key: float[batch,4,past,8]"}, []*npz.Array{ids},
			map[string]any{"past_key_values.0.key": []int{2, 4, 0, 8}}, ""},
		{"stacked cache without names", []string{"input_ids: int64[N,K]", "past_0: float[2,?,4,?,8]"}, []*npz.Array{ids},
			map[string]any{"past_0": []int{2, 2, 4, 0, 8}}, ""},
		{"cache whose batch is a product", []string{"input_ids: int64[N,K]", `past.key: float["batch_size x 4",past,8]`}, []*npz.Array{ids},
			map[string]any{"past.key": []int{2, 0, 8}}, ""},
		{"half a cache", []string{"input_ids: int64[N,K]", "past.key: float16[N,4,P,8]"}, []*npz.Array{ids}, map[string]any{"past.key": []int{2, 4, 0, 8}}, ""},
		{"cache of which all is open", []string{"input_ids: int64[N,K]", "past.key: float[?,?,?,?]"}, []*npz.Array{ids}, nil, "nothing feeds input past.key"},
		{"cache of fixed length", []string{"input_ids: int64[N,K]", "past.key: float[N,4,16,8]"}, []*npz.Array{ids}, nil, "nothing feeds input past.key"},
		{"mask and positions", []string{"input_ids: int64[N,K]", "attention_mask: int64[N,total]", "position_ids: int64[N,K]"}, []*npz.Array{ids},
			map[string]any{"attention_mask": []int64{1, 1, 1, 1, 1, 1}, "position_ids": []int64{0, 1, 2, 0, 1, 2}}, ""},
		{"other types", []string{"input_ids: int64[N,K]", "attention_mask: float[N,total]", "mask: bool[N,K]", "position_ids: int32[K]"}, []*npz.Array{ids},
			map[string]any{"attention_mask": []float32{1, 1, 1, 1, 1, 1}, "mask": []bool{true, true, true, true, true, true}, "position_ids": []int32{0, 1, 2}}, ""},
		{"positions for all samples at once", []string{"input_ids: int64[N,K]", "position_ids: int64[1,K]"}, []*npz.Array{ids}, map[string]any{"position_ids": []int64{0, 1, 2}}, ""},
		{"positions behind padding", []string{"input_ids: int64[N,K]", "position_ids: int64[N,K]", "attention_mask: int64[N,K]"}, []*npz.Array{ids, mask},
			map[string]any{"position_ids": []int64{0, 0, 1, 0, 1, 2}, "attention_mask": []int64{0, 1, 1, 1, 1, 1}}, ""},
		{"masks of two sides", []string{"input_ids: int64[N,K]", "attention_mask: int64[N,K]", "decoder_input_ids: int64[N,D]", "decoder_attention_mask: int64[N,?]"},
			[]*npz.Array{ids, integers("decoder_input_ids", 2, 1)}, map[string]any{"attention_mask": []int64{1, 1, 1, 1, 1, 1}, "decoder_attention_mask": []int64{1, 1}}, ""},
		{"no cache branch", []string{"input_ids: int64[N,K]", "use_cache_branch: bool[1]"}, []*npz.Array{ids}, map[string]any{"use_cache_branch": []bool{false}}, ""},
		{"what the data has comes first", []string{"input_ids: int64[N,K]", "past.key: float[N,4,P,8]"}, []*npz.Array{ids, floats("past.key", 2, 4, 1, 8)},
			map[string]any{"past.key": []int{2, 4, 1, 8}}, ""},
		{"token types", []string{"input_ids: int64[N,K]", "token_type_ids: int64[N,K]"}, []*npz.Array{ids}, nil,
			"nothing feeds input token_type_ids: int64[N, K]; the data has input_ids int64[2 3]; name the array with --map array=token_type_ids"},
		{"nothing at all", []string{"attention_mask: int64[N,K]"}, []*npz.Array{floats("x", 2, 3)}, nil, "nothing feeds input attention_mask"},
		{"too large", []string{"input_ids: int64[N,K]", "past.key: float[N,4,P,8]", "position_ids: int64[1152921504606846976]"}, []*npz.Array{ids}, nil, "cannot be filled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := source(t, c.arrays...).Bind(ports(t, c.ports...))
			var in map[string]tensor.Tensor
			if err == nil {
				in, err = f.Batch(0, f.Len())
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if fills := len(c.ports) - len(c.arrays); (len(f.Notes) > 0) != (fills > 0) {
				t.Errorf("notes %q for %d inputs that are filled", f.Notes, fills)
			}
			for name, want := range c.want {
				var got any
				if _, ok := want.([]int); ok {
					got = []int(in[name].Shape())
				} else {
					got = in[name].Data()
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
		})
	}
}

// TestFolder: test cases in the ONNX layout are samples in the order of their
// numbers, bound by name, else by position.
func TestFolder(t *testing.T) {
	named := func(name string, x *graph.Tensor) *graph.Tensor { x.Name = name; return x }
	ids := func(v ...int64) *graph.Tensor { return graph.Int64Tensor([]int64{1, int64(len(v))}, v) }
	x := func(v float32) *graph.Tensor { return graph.Float32Tensor([]int64{1, 1}, []float32{v}) }
	var cases [][]*graph.Tensor
	for i := range 11 {
		cases = append(cases, []*graph.Tensor{x(float32(i))})
	}
	open := func(t *testing.T, dir string) *calib.Source {
		src, err := calib.OpenSource(dir, calib.SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	dir := folder(t, cases...)
	f, err := open(t, dir).Bind(ports(t, "y: float[N,1]"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Len() != 11 || f.MaxBatch() != 1 {
		t.Errorf("%d samples in batches of %d", f.Len(), f.MaxBatch())
	}
	for i := range f.Len() {
		in, err := f.Batch(i, i+1)
		if err != nil {
			t.Fatal(err)
		}
		if got := in["y"].Data().([]float32)[0]; got != float32(i) {
			t.Errorf("sample %d is %v", i, got)
		}
	}

	swapped := folder(t, []*graph.Tensor{named("b", ids(1, 2)), named("a", x(3))})
	f, err = open(t, swapped).Bind(ports(t, "a: float[N,1]", "b: int64[N,K]", "position_ids: int64[N,K]"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := f.Batch(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := in["position_ids"].Data(); !reflect.DeepEqual(in["a"].Data(), []float32{3}) || !reflect.DeepEqual(got, []int64{0, 1}) {
		t.Errorf("inputs %v", in)
	}

	// Hostile folders.
	short := folder(t, []*graph.Tensor{x(1), x(2)}, []*graph.Tensor{x(1)})
	f, err = open(t, short).Bind(ports(t, "a: float[N,1]", "b: float[N,1]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Batch(1, 2); err == nil || !strings.Contains(err.Error(), "has no input_1.pb") {
		t.Errorf("a case that lacks an input: %v", err)
	}
	if _, err := open(t, folder(t, nil)).Bind(ports(t, "a: float[N,1]")); err == nil || !strings.Contains(err.Error(), "a case has 0 inputs") {
		t.Errorf("a case without inputs: %v", err)
	}
	if _, err := calib.OpenSource(t.TempDir(), calib.SourceOptions{}); err == nil || !strings.Contains(err.Error(), "has no test_data_set_0") {
		t.Errorf("an empty folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "test_data_set_3", "input_0.pb"), []byte("no protobuf"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := calib.OpenSource(dir, calib.SourceOptions{}); err == nil || !strings.Contains(err.Error(), filepath.Join("test_data_set_3", "input_0.pb")) {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := calib.OpenSource(short, calib.SourceOptions{Limit: 20}); err == nil || !strings.Contains(err.Error(), "more than the limit") {
		t.Errorf("a limit: %v", err)
	}
}

// TestSourceFails: files that are no data.
func TestSourceFails(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := archive(t, floats("x", 100, 100), floats("y", 2))
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none.npz"), "no such file"},
		{file("text.npz", []byte("hello")), "not an .npz archive"},
		{file("empty.npz", nil), "not an .npz archive"},
		{file("short.npz", whole[:len(whole)/2]), "not an .npz archive"},
		{file("nothing.npz", archive(t)), "has no arrays"},
		{file("twice.npz", archive(t, floats("x", 1), floats("x", 2))), `two arrays are called "x"`},
	} {
		if _, err := calib.OpenSource(c.path, calib.SourceOptions{}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "data ") {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
	// The limit is on all arrays together.
	if _, err := calib.SourceFromBytes("big.npz", whole, calib.SourceOptions{Limit: 40_004}); err == nil || !strings.Contains(err.Error(), `array "y": more than the limit`) {
		t.Errorf("data over the limit: %v", err)
	}
	if _, err := calib.SourceFromBytes("big.npz", whole, calib.SourceOptions{Limit: 40_008}); err != nil {
		t.Error(err)
	}
}

// TestFingerprint: other data has another fingerprint, the same data the same.
func TestFingerprint(t *testing.T) {
	seen := map[string]int{}
	for i, arrays := range [][]*npz.Array{
		{floats("x", 2, 3)}, {floats("x", 3, 2)}, {floats("y", 2, 3)}, {integers("x", 2, 3)}, {floats("x", 2, 3), floats("y", 1)},
	} {
		f := source(t, arrays...).Fingerprint()
		if k, ok := seen[f]; ok {
			t.Errorf("data %d and %d have one fingerprint", i, k)
		}
		seen[f] = i
	}
	if f := source(t, floats("x", 2, 3)).Fingerprint(); seen[f] != 0 || !strings.HasPrefix(f, "sha256:") {
		t.Errorf("the same data has another fingerprint, %s", f)
	}
}

// TestMasks: which tokens count.
func TestMasks(t *testing.T) {
	in := func(arrays ...*npz.Array) map[string]tensor.Tensor {
		out := map[string]tensor.Tensor{}
		for _, a := range arrays {
			x, err := graph.NewTensor(a.DType, []int64{int64(a.Shape[0]), int64(a.Shape[1])}, a.Raw)
			if err != nil {
				t.Fatal(err)
			}
			r, err := runtime.FromGraphTensor(x)
			if err != nil {
				t.Fatal(err)
			}
			if out[a.Name], err = r.Dense(); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	value := func(shape ...int) *runtime.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return runtime.FromSlice(shape, make([]float32, n))
	}
	mask := npz.Int64Array("attention_mask", []int{2, 3}, []int64{1, 1, 0, 0, 1, 1})
	for _, c := range []struct {
		name string
		in   map[string]tensor.Tensor
		x    *runtime.Tensor
		want [][2]int
	}{
		{"none", nil, value(2, 3, 4), [][2]int{{0, 6}}},
		{"tokens in the middle", in(mask), value(2, 3, 4), [][2]int{{0, 2}, {4, 6}}},
		{"flat tokens", in(mask), value(6, 4), [][2]int{{0, 2}, {4, 6}}},
		{"a value of other tokens", in(mask), value(2, 4, 4), [][2]int{{0, 8}}},
		{"bytes of bools", in(&npz.Array{Name: "Mask", DType: graph.Bool, Shape: []int{2, 3}, Raw: []byte{0, 0, 0, 0, 1, 0}}), value(2, 3, 1), [][2]int{{4, 5}}},
		{"nothing", in(npz.Int64Array("mask", []int{2, 3}, make([]int64, 6))), value(2, 3, 1), nil},
		{"floats", in(floats("mask", 2, 3)), value(2, 3, 1), [][2]int{{0, 6}}},
		{"the first by name", in(npz.Int64Array("b_mask", []int{1, 2}, []int64{0, 1}), npz.Int64Array("a_mask", []int{1, 2}, []int64{1, 0})), value(1, 2, 1), [][2]int{{0, 1}}},
		{"one of each length", in(npz.Int64Array("a_mask", []int{1, 3}, []int64{0, 1, 0}), npz.Int64Array("b_mask", []int{1, 2}, []int64{1, 0})), value(1, 2, 1), [][2]int{{0, 1}}},
	} {
		m, err := calib.MaskOf(c.in, 2)
		if err != nil {
			t.Fatal(err)
		}
		var got [][2]int
		if err := m.Runs(c.x, func(from, to int) { got = append(got, [2]int{from, to}) }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, x := range []*runtime.Tensor{value(), value(2, 0)} {
		if err := (calib.Mask{}).Runs(x, func(int, int) {}); err == nil {
			t.Errorf("no error for a value of shape %v", x.Shape)
		}
	}
}

// TestWeight: constants behind Identity and Transpose.
func TestWeight(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
< float[2,3] w = {1, 2, 3, 4, 5, 6}, float[1,2,3] deep = {1, 2, 3, 4, 5, 6} >
{
  t = Transpose (w)
  tt = Transpose <perm = [1, 0]> (t)
  i = Identity (t)
  same = Transpose <perm = [0, 1]> (w)
  d = Transpose (deep)
  p = Transpose <perm = [0, 2, 1]> (deep)
  c = Constant <value = float[1,1] {2}> ()
  n = Neg (w)
  xt = Transpose (x)
  y = Identity (x)
}`)
	for _, c := range []struct {
		name, root string
		transposed bool
	}{{"w", "w", false}, {"t", "w", true}, {"tt", "w", false}, {"i", "w", true}, {"same", "w", false}, {"deep", "deep", false},
		{"d", "", false}, {"p", "", false}, {"c", "c", false}, {"n", "", false}, {"x", "", false}, {"xt", "", false}, {"y", "", false}} {
		root, transposed := calib.Weight(m.Graph.Value(c.name))
		name := ""
		if root != nil {
			name = root.Name
		}
		if name != c.root || transposed != c.transposed {
			t.Errorf("%s: %q, transposed %v, want %q, %v", c.name, name, transposed, c.root, c.transposed)
		}
	}
	if root, _ := calib.Weight(nil); root != nil {
		t.Errorf("an input that is left out has the weight %v", root)
	}
}

// TestSourceFromTensors: arrays in memory are the same data as an archive of them,
// and what no archive can hold is refused.
func TestSourceFromTensors(t *testing.T) {
	const n = 4
	data, err := testmodels.WordArchive(testmodels.CalibSeed, n)
	if err != nil {
		t.Fatal(err)
	}
	want, err := calib.SourceFromBytes("words", data, calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := words(testmodels.CalibSeed, n)
	if got.Fingerprint() != want.Fingerprint() || got.Bytes() != want.Bytes() {
		t.Errorf("%s, %d bytes; the archive is %s, %d bytes", got.Fingerprint(), got.Bytes(), want.Fingerprint(), want.Bytes())
	}
	for _, c := range []struct {
		name   string
		arrays map[string]tensor.Tensor
		limit  int64
		want   string
	}{
		{"nothing", nil, 0, "has no arrays"},
		{"strings", map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(1), tensor.WithBacking([]string{"a"}))}, 0, `array "x"`},
		{"too much", map[string]tensor.Tensor{"x": tensor.New(tensor.WithShape(4), tensor.WithBacking(make([]float32, 4)))}, 15, "limit"},
	} {
		if _, err := calib.SourceFromTensors("memory", c.arrays, calib.SourceOptions{Limit: c.limit}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}
