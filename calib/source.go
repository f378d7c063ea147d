// Package calib is what is learnt from data: it opens calibration and
// evaluation data, feeds it to a model, and gathers in one pass what the
// passes need to know (importance of every module, moments of the inputs of
// weights, mean updates, ranges), which a Ledger keeps.
package calib

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"gorgonia.org/tensor"
)

// DefaultLimit bounds the bytes of data and of the values of a run unless
// SourceOptions says otherwise.
const DefaultLimit = 4 << 30

// SourceOptions says how data is read.
type SourceOptions struct {
	Map map[string]string // array name → model input that it feeds
	// Limit bounds the bytes of all arrays and of the intermediate values of
	// a model that runs over them, together; 0 means DefaultLimit.
	Limit int64
}

// Source is a set of samples. It is one of: an .npz archive, whose arrays
// have the samples along the first axis, or a folder in the layout of the
// ONNX operator tests, each test_data_set_K being one sample.
type Source struct {
	path   string
	opts   SourceOptions
	arrays []*npz.Array // npz
	cases  []testCase   // folder
	print  string
}

// testCase is one test_data_set: inputs and expected outputs by position.
type testCase struct {
	dir     string
	inputs  []*graph.Tensor
	outputs []*graph.Tensor
}

// OpenSource reads the data at path.
func OpenSource(path string, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w; give an .npz file or a folder with test_data_set_0", path, errors.Unwrap(err))
	}
	if st.IsDir() {
		return openFolder(path, opts)
	}
	f, err := npz.Open(path, opts.Limit)
	if err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	defer f.Close()
	return fromNPZ(f, path, opts)
}

// SourceFromBytes reads an .npz archive held in memory; name stands for its
// path.
func SourceFromBytes(name string, data []byte, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	f, err := npz.FromBytes(name, data, opts.Limit)
	if err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	return fromNPZ(f, name, opts)
}

func fromNPZ(f *npz.File, path string, opts SourceOptions) (*Source, error) {
	s := &Source{path: path, opts: opts}
	sum := sha256.New()
	names := f.Names()
	if len(names) == 0 {
		return nil, fmt.Errorf("data %s: the archive has no arrays", path)
	}
	left := opts.Limit
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("data %s: two arrays are called %q", path, name)
		}
		a, err := f.Read(name)
		if err != nil {
			return nil, fmt.Errorf("data %w", err)
		}
		if left -= int64(len(a.Raw)); left < 0 {
			return nil, fmt.Errorf("data %s: array %q: more than the %w of %d MB of data", path, name, npz.ErrLimit, opts.Limit>>20)
		}
		fmt.Fprintf(sum, "%q %v %v\n", a.Name, a.DType, a.Shape)
		sum.Write(a.Raw)
		s.arrays = append(s.arrays, a)
	}
	s.print = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

func openFolder(path string, opts SourceOptions) (*Source, error) {
	dirs, err := filepath.Glob(filepath.Join(globEscape(path), "test_data_set_*"))
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", path, err)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("data %s: the folder has no test_data_set_0; give a folder in the ONNX test layout or an .npz file", path)
	}
	number := func(dir string) int {
		n, err := strconv.Atoi(dir[strings.LastIndexByte(dir, '_')+1:])
		if err != nil {
			return 1 << 30
		}
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return number(a) - number(b) })
	s := &Source{path: path, opts: opts}
	sum := sha256.New()
	left := opts.Limit
	for _, dir := range dirs {
		c := testCase{dir: dir}
		for _, kind := range []struct {
			name string
			list *[]*graph.Tensor
		}{{"input", &c.inputs}, {"output", &c.outputs}} {
			for i := 0; ; i++ {
				file := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", kind.name, i))
				st, err := os.Stat(file)
				if errors.Is(err, os.ErrNotExist) {
					break
				}
				if err != nil {
					return nil, fmt.Errorf("data %w", err)
				}
				if left -= st.Size(); left < 0 || !st.Mode().IsRegular() {
					return nil, fmt.Errorf("data %s: no file, or more than the %w of %d MB of data", file, npz.ErrLimit, opts.Limit>>20)
				}
				b, err := os.ReadFile(file)
				if err != nil {
					return nil, fmt.Errorf("data %w", err)
				}
				t, err := graph.DecodeTensor(b)
				if err != nil {
					return nil, fmt.Errorf("data %s: %w", file, err)
				}
				fmt.Fprintf(sum, "%s %d %d\n", kind.name, i, len(b))
				sum.Write(b)
				*kind.list = append(*kind.list, t)
			}
		}
		fmt.Fprintln(sum, "case")
		s.cases = append(s.cases, c)
	}
	s.print = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

// globEscape takes the special characters of filepath.Glob out of a path.
func globEscape(p string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(p)
}

// Path is where the data lies.
func (s *Source) Path() string { return s.path }

// Fingerprint is a hash of names, types, shapes and elements, in their order.
func (s *Source) Fingerprint() string { return s.print }

// Bytes is the size of the arrays.
func (s *Source) Bytes() int64 {
	var n int64
	for _, a := range s.arrays {
		n += int64(len(a.Raw))
	}
	for _, c := range s.cases {
		for _, t := range slices.Concat(c.inputs, c.outputs) {
			n += t.Size()
		}
	}
	return n
}

// Runtime is how models are compiled that run over the data: their values may
// take what the data leaves of the limit.
func (s *Source) Runtime() runtime.Options {
	return runtime.Options{MemoryLimit: max(s.opts.Limit-s.Bytes(), 1)}
}

// compile makes m ready to run over the data, with its probes.
func (s *Source) compile(m *graph.Model, probes [][]string) (*runtime.Program, error) {
	o := s.Runtime()
	o.Probes = probes
	return runtime.Compile(m, o)
}

// Array returns the array of that name, for labels and expectations.
func (s *Source) Array(name string) (*npz.Array, error) {
	var names []string
	for _, a := range s.arrays {
		if a.Name == name {
			return a, nil
		}
		names = append(names, a.Name)
	}
	if s.arrays == nil {
		return nil, fmt.Errorf("data %s: a test folder has no array %q; labels come from an .npz file", s.path, name)
	}
	return nil, fmt.Errorf("data %s: no array %q; it has %s", s.path, name, strings.Join(names, ", "))
}

// Outputs returns the expected outputs of sample i of a test folder, by
// position.
func (s *Source) Outputs(i int) []*graph.Tensor {
	if i < len(s.cases) {
		return s.cases[i].outputs
	}
	return nil
}

// Feed is a Source bound to the inputs of one model, or a part of it.
type Feed struct {
	// Notes say which array feeds which input where the names differ, what was
	// filled in and what is left out.
	Notes []string

	source   *Source
	ports    []runtime.Port
	arrays   []*npz.Array // per port, nil where it is filled or from a folder
	position []int        // per port: input number in a test folder, −1 elsewhere
	fill     []filler     // per port, nil where data feeds it
	total    int          // samples of the source
	samples  []int        // those of the feed, by number, ascending
	fixed    int          // samples of every batch, where the model or a folder fixes them; else 0
}

// Bind finds for every input what feeds it: the array mapped to it, else the
// array of its name, else the only array that fits in rank, dims and type (a
// note says so). Inputs that the data lacks and that a decoder may leave empty
// on its first step are filled the way an inference program would: an empty
// past (zero length along its symbolic axis), an attention mask of ones,
// position ids (0 … T−1, or counted along the mask that the data has), and
// use_cache_branch false. Anything else missing is an error.
//
// A model whose inputs fix their first axis is fed that many samples at a
// time; samples beyond a multiple of it are left out, with a note.
func (s *Source) Bind(ports []runtime.Port) (*Feed, error) {
	f := &Feed{source: s, ports: ports}
	f.arrays = make([]*npz.Array, len(ports))
	f.position = slices.Repeat([]int{-1}, len(ports))
	f.fill = make([]filler, len(ports))
	bind := f.bindArrays
	if s.cases != nil {
		bind = f.bindCases
	}
	if err := bind(); err != nil {
		return nil, fmt.Errorf("data %s: %w", s.path, err)
	}
	var kinds []string // of what is filled in
	filled := map[string][]string{}
	for i, p := range ports {
		if f.bound(i) {
			continue
		}
		what := ""
		if what, f.fill[i] = f.filler(p); f.fill[i] == nil {
			return nil, fmt.Errorf("data %s: %w", s.path, f.missing(p))
		}
		if filled[what] == nil {
			kinds = append(kinds, what)
		}
		filled[what] = append(filled[what], strconv.Quote(p.Name))
	}
	for _, what := range kinds {
		list := filled[what]
		if n := len(list); n > 4 {
			list = []string{list[0], list[1], "…", list[n-1]}
		}
		f.Notes = append(f.Notes, fmt.Sprintf("filled with %s: %s", what, strings.Join(list, ", ")))
	}
	return f, f.batches()
}

// bound tells whether data feeds port i.
func (f *Feed) bound(i int) bool { return f.arrays[i] != nil || f.position[i] >= 0 }

func (f *Feed) missing(p runtime.Port) error {
	var have []string
	for _, a := range f.source.arrays {
		have = append(have, fmt.Sprintf("%s %v%v", a.Name, a.DType, a.Shape))
	}
	what := strings.Join(have, ", ")
	if f.source.cases != nil {
		return fmt.Errorf("nothing feeds input %v; a case has %d inputs", p, len(f.source.cases[0].inputs))
	}
	return fmt.Errorf("nothing feeds input %v; the data has %s; name the array with --map array=%s", p, what, p.Name)
}

func (f *Feed) bindArrays() error {
	s := f.source
	names := map[string]bool{}
	for _, a := range s.arrays {
		names[a.Name] = true
	}
	used := map[string]bool{}
	bind := func(i int, a *npz.Array) error {
		p := f.ports[i]
		if err := fits(a, p); err != nil {
			return fmt.Errorf("array %q for input %q: %w", a.Name, p.Name, err)
		}
		if f.arrays[i] != nil {
			return fmt.Errorf("arrays %q and %q are both mapped to input %q", f.arrays[i].Name, a.Name, p.Name)
		}
		f.arrays[i] = a
		used[a.Name] = true
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.opts.Map)) {
		at := slices.IndexFunc(s.arrays, func(a *npz.Array) bool { return a.Name == name })
		to := slices.IndexFunc(f.ports, func(p runtime.Port) bool { return p.Name == s.opts.Map[name] })
		if at < 0 || to < 0 {
			return fmt.Errorf("--map %s=%s: there is no such array or no such input", name, s.opts.Map[name])
		}
		if err := bind(to, s.arrays[at]); err != nil {
			return err
		}
	}
	for i, p := range f.ports {
		at := slices.IndexFunc(s.arrays, func(a *npz.Array) bool { return a.Name == p.Name && s.opts.Map[a.Name] == "" })
		if f.arrays[i] == nil && at >= 0 {
			if err := bind(i, s.arrays[at]); err != nil {
				return err
			}
		}
	}
	for i, p := range f.ports {
		if _, fill := f.filler(p); f.bound(i) || fill != nil {
			continue
		}
		var only *npz.Array
		for _, a := range s.arrays {
			if used[a.Name] || fits(a, p) != nil {
				continue
			}
			if only != nil {
				return fmt.Errorf("arrays %q and %q both fit input %q; choose with --map %s=%s", only.Name, a.Name, p.Name, a.Name, p.Name)
			}
			only = a
		}
		if only != nil {
			if err := bind(i, only); err != nil {
				return err
			}
			f.Notes = append(f.Notes, fmt.Sprintf("array %q feeds input %q: the only one that fits", only.Name, p.Name))
		}
	}
	var first *npz.Array
	for _, a := range f.arrays {
		switch {
		case a == nil:
		case first == nil:
			first = a
		case a.Shape[0] != first.Shape[0]:
			return fmt.Errorf("%q has %d samples and %q %d; they must agree", first.Name, first.Shape[0], a.Name, a.Shape[0])
		}
	}
	switch {
	case len(f.ports) == 0:
		return errors.New("the model has no inputs to feed")
	case first == nil:
		return f.missing(f.ports[0])
	case first.Shape[0] == 0:
		return fmt.Errorf("array %q has no samples", first.Name)
	}
	f.total = first.Shape[0]
	return nil
}

func (f *Feed) bindCases() error {
	list := f.source.cases[0].inputs
	for i, p := range f.ports {
		for k, t := range list {
			if t.Name == p.Name || (t.Name == "" && k == i) {
				f.position[i] = k
			}
		}
	}
	// Names differ between model and data in some test sets: then position
	// decides, as the layout says.
	if !slices.ContainsFunc(f.position, func(k int) bool { return k >= 0 }) {
		for i := range min(len(f.ports), len(list)) {
			f.position[i] = i
		}
	}
	f.total = len(f.source.cases)
	return nil
}

// batches finds how many samples a batch has to have, and cuts the samples to
// a multiple of that.
func (f *Feed) batches() error {
	for i := range f.total {
		f.samples = append(f.samples, i)
	}
	if f.source.cases != nil {
		f.fixed = 1
		return nil
	}
	by := ""
	for i, p := range f.ports {
		// Positions broadcast, and use_cache_branch is one flag.
		follows := f.arrays[i] != nil || isPast(p) || isMask(p)
		if !follows || p.Rank < 1 || !p.Shape.Dims[0].IsKnown() || isPast(p) && p.Rank > 4 {
			continue
		}
		n := int(p.Shape.Dims[0].N)
		if by != "" && n != f.fixed {
			return fmt.Errorf("data %s: input %q takes %d samples at a time and input %q %d", f.source.path, by, f.fixed, p.Name, n)
		}
		f.fixed, by = n, p.Name
	}
	if f.fixed > f.total || by != "" && f.fixed < 1 {
		return fmt.Errorf("data %s: input %q takes %d samples at a time, the data has %d", f.source.path, by, f.fixed, f.total)
	}
	if f.fixed > 1 && f.total%f.fixed > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("the last %d of %d samples are left out: the model takes %d at a time", f.total%f.fixed, f.total, f.fixed))
	}
	f.samples = f.samples[:f.whole(f.total)]
	return nil
}

// whole is n rounded down to samples that fill batches.
func (f *Feed) whole(n int) int {
	if f.fixed > 1 {
		return n / f.fixed * f.fixed
	}
	return n
}

// BatchSize is the number of samples of a batch where size is asked for, 0
// meaning no number in particular.
func (f *Feed) BatchSize(size int) int {
	switch {
	case f.fixed > 0:
		return f.fixed
	case size <= 0:
		return DefaultBatch
	}
	return size
}

// fits says why array a, whose first axis counts samples, cannot feed p.
func fits(a *npz.Array, p runtime.Port) error {
	if a.DType != p.DType && (a.DType != graph.Float64 || p.DType != graph.Float32) {
		return fmt.Errorf("is %v, the input wants %v", a.DType, p.DType)
	}
	wrong := fmt.Errorf("has shape %v, the input is %v", a.Shape, p)
	if len(a.Shape) == 0 || p.Rank >= 0 && len(a.Shape) != p.Rank {
		return wrong
	}
	for k, d := range p.Shape.Dims {
		if k > 0 && d.IsKnown() && int64(a.Shape[k]) != d.N {
			return wrong
		}
	}
	return nil
}

// Len is the number of samples.
func (f *Feed) Len() int { return len(f.samples) }

// MaxBatch is the number of samples that every batch holds where the model
// fixes it, 0 for any number.
func (f *Feed) MaxBatch() int { return f.fixed }

// Fingerprint identifies the data that the feed is a part of.
func (f *Feed) Fingerprint() string { return f.source.print }

// Range is the part of the source that the feed covers, or lies in where it
// is spread.
func (f *Feed) Range() (from, to int) {
	if len(f.samples) == 0 {
		return 0, 0
	}
	return f.samples[0], f.samples[len(f.samples)-1] + 1
}

// Source is what the feed was bound from.
func (f *Feed) Source() *Source { return f.source }

// Slice returns the samples from … to−1 of the feed, 0 ≤ from ≤ to; where to
// is beyond the end, up to that. Where the model fixes the samples of a batch
// both are rounded down to whole batches.
func (f *Feed) Slice(from, to int) *Feed {
	g := *f
	g.samples = f.samples[f.whole(from):f.whole(min(to, f.Len()))]
	return &g
}

// Spread returns n samples of the feed, evenly spaced: data is often sorted by
// class, and the first n would see few of them. It returns the feed itself
// where n is 0 or not less than Len. Where the model fixes the samples of a
// batch n is rounded down to whole batches.
func (f *Feed) Spread(n int) *Feed {
	if n <= 0 || n >= f.Len() {
		return f
	}
	g := *f
	g.samples = make([]int, f.whole(n))
	for i := range g.samples {
		g.samples[i] = f.samples[i*f.Len()/len(g.samples)]
	}
	return &g
}

// Pick returns a feed of these samples of the feed, in this order; a sample may
// come more than once.
func (f *Feed) Pick(samples []int) *Feed {
	g := *f
	g.samples = make([]int, len(samples))
	for i, s := range samples {
		g.samples[i] = f.samples[s]
	}
	return &g
}

// Shard returns part i of n equal parts, 0 ≤ i < n.
func (f *Feed) Shard(i, n int) (*Feed, error) {
	unit := max(f.fixed, 1)
	units := f.Len() / unit
	if n < 1 || i < 0 || i >= n || n > units {
		return nil, fmt.Errorf("shard %d/%d of %d samples: want 0 ≤ i < n ≤ %d", i, n, f.Len(), units)
	}
	return f.Slice(i*units/n*unit, (i+1)*units/n*unit), nil
}

// For binds the same samples to the inputs of another model.
func (f *Feed) For(ports []runtime.Port) (*Feed, error) {
	g, err := f.source.Bind(ports)
	if err != nil {
		return nil, err
	}
	if f.Len() > 0 && g.fixed > 1 && f.Len()%g.fixed > 0 {
		return nil, fmt.Errorf("data %s: %d samples for a model that takes %d at a time", f.source.path, f.Len(), g.fixed)
	}
	g.samples = f.samples
	return g, nil
}

// Labels returns one integer array of the source, cut to the feed's samples:
// its elements a sample (1 for class labels) times Len.
func (f *Feed) Labels(name string) ([]int64, error) {
	a, err := f.source.Array(name)
	if err != nil {
		return nil, err
	}
	all, err := a.Int64s()
	if err != nil {
		return nil, fmt.Errorf("data %s: labels %w", f.source.path, err)
	}
	if len(a.Shape) == 0 || a.Shape[0] != f.total {
		return nil, fmt.Errorf("data %s: labels %q have shape %v for %d samples", f.source.path, name, a.Shape, f.total)
	}
	per := len(all) / f.total
	out := make([]int64, 0, f.Len()*per)
	for _, i := range f.samples {
		out = append(out, all[i*per:(i+1)*per]...)
	}
	return out, nil
}

// Batch returns the inputs of samples from … to−1 of the feed, each with the
// samples along its first axis.
func (f *Feed) Batch(from, to int) (map[string]tensor.Tensor, error) {
	if from < 0 || to > f.Len() || from >= to || f.fixed > 0 && to-from != f.fixed {
		return nil, fmt.Errorf("data %s: no batch of samples %d … %d of %d", f.source.path, from, to-1, f.Len())
	}
	samples := f.samples[from:to]
	fail := func(p runtime.Port, err error) (map[string]tensor.Tensor, error) {
		return nil, fmt.Errorf("data %s: samples %d … %d: input %q: %w", f.source.path, samples[0], samples[len(samples)-1], p.Name, err)
	}
	s := step{samples: len(samples), syms: map[string]int{}, in: map[string]*runtime.Tensor{}}
	for i, p := range f.ports {
		var t *runtime.Tensor
		var err error
		switch {
		case f.arrays[i] != nil:
			t, err = rows(f.arrays[i], p.DType, samples)
		case f.position[i] >= 0:
			t, err = f.source.cases[samples[0]].input(f.position[i])
		default:
			continue
		}
		if err != nil {
			return fail(p, err)
		}
		s.feed(p, t)
	}
	for i, p := range f.ports {
		if f.fill[i] != nil {
			t, err := f.fill[i](s)
			if err != nil {
				return fail(p, err)
			}
			s.in[p.Name] = t
		}
	}
	out := make(map[string]tensor.Tensor, len(s.in))
	for _, p := range f.ports {
		d, err := s.in[p.Name].Dense()
		if err != nil {
			return fail(p, err)
		}
		out[p.Name] = d
	}
	return out, nil
}

// input returns input k of a case.
func (c *testCase) input(k int) (*runtime.Tensor, error) {
	if k >= len(c.inputs) {
		return nil, fmt.Errorf("%s has no input_%d.pb", c.dir, k)
	}
	return runtime.FromGraphTensor(c.inputs[k])
}

// rows picks samples out of an array.
func rows(a *npz.Array, want graph.DType, samples []int) (*runtime.Tensor, error) {
	per := len(a.Raw) / a.Shape[0]
	dims := []int64{int64(len(samples))}
	for _, d := range a.Shape[1:] {
		dims = append(dims, int64(d))
	}
	raw := make([]byte, 0, len(samples)*per)
	for _, i := range samples {
		raw = append(raw, a.Raw[i*per:(i+1)*per]...)
	}
	if a.DType == graph.Bool { // a file may hold any byte
		for i := range raw {
			raw[i] = min(raw[i], 1)
		}
	}
	t, err := graph.NewTensor(a.DType, dims, raw)
	if err != nil {
		return nil, err
	}
	if a.DType == graph.Float64 && want == graph.Float32 {
		v, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		t = graph.Float32Tensor(dims, v)
	}
	return runtime.FromGraphTensor(t)
}
