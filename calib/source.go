// Package calib is what is learnt from data: it opens calibration and
// evaluation data, feeds it to a model, and gathers in one pass what the
// passes need to know (importance of every module, moments of the inputs of
// weights, mean updates, ranges), which a Ledger keeps.
//
// A [Source] is data, from [OpenSource] or [SourceFromTensors]; Source.Feed binds it
// to a model, and [Score] runs the [Feed] through that and gives a [Ledger].
// [Evaluate] compares models. Samples are along the first axis of every input.
package calib

import (
	"errors"
	"fmt"
	"hash"
	"maps"
	"math/rand/v2"
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
	// Map pairs an array of the data with the model input that it feeds. The
	// arrays of a text are "tokens", "mask" and "types", and every field of
	// JSON lines; those of pictures and sounds "pixels", "samples" and "mask".
	Map map[string]string

	// Limit bounds the bytes of all arrays and of the intermediate values of
	// a model that runs over them, together; 0 means DefaultLimit.
	Limit int64

	Samples int    // how many to use of the data; 0 means all
	Choice  Choice // which ones; "" means the first
	Seed    uint64 // of ChooseRandom

	// Tokenizer is the path of the tokenizer.json that text is read with, Field
	// the field of JSON lines that holds the text ("" means "text").
	Tokenizer, Field string

	// Sequence is the number of tokens that texts, or of values that sounds, are
	// cut or filled up to where the model leaves it open. 0 means the longest
	// text, but at most 512, or the longest sound. Join joins all texts and cuts
	// them into pieces of that length, so that none is filled up.
	Sequence int
	Join     bool

	Normalize Normalize // of pixels or of sounds; "" means what is usual
	Size      int       // height and width of pictures where the model leaves them open
	Crop      float64   // part of a picture's shorter side that is kept; 0 means 1
	Rate      int       // samples a second of sounds; 0 means 16000
}

// Choice says which samples are taken where not all are.
type Choice string

const (
	ChooseFirst  Choice = "first"  // in their order
	ChooseSpread Choice = "spread" // evenly spaced: data is often sorted by class
	ChooseRandom Choice = "random" // by the seed, without repetition, in their order
)

// Choices lists the choices.
var Choices = []Choice{ChooseFirst, ChooseSpread, ChooseRandom}

// choose picks samples of total.
func (o *SourceOptions) choose(total int) []int {
	n := total
	if o.Samples > 0 {
		n = min(n, o.Samples)
	}
	out := make([]int, n)
	switch o.Choice {
	case ChooseSpread:
		for i := range out {
			out[i] = i * total / n
		}
	case ChooseRandom:
		// The stream is particular to the choice of samples.
		r := rand.New(rand.NewPCG(o.Seed, 0x73616d706c6573))
		copy(out, r.Perm(total))
		slices.Sort(out)
	default:
		for i := range out {
			out[i] = i
		}
	}
	return out
}

// choice is choose, and lets a fingerprint tell what was chosen.
func (s *Source) choice(sum hash.Hash, total int) []int {
	if s.opts.Samples > 0 && s.opts.Choice != ChooseFirst && s.opts.Choice != "" {
		fmt.Fprintf(sum, "%s %d %d\n", s.opts.Choice, s.opts.Samples, s.opts.Seed)
	}
	return s.opts.choose(total)
}

// Source is a set of samples: arrays, test cases, texts, pictures or sounds.
type Source struct {
	path  string
	opts  SourceOptions
	kind  kind
	print string
}

// kind is one kind of data.
type kind interface {
	bytes() int64
	// bind finds for the inputs of a feed what feeds them, and how many samples
	// there are.
	bind(f *Feed) error
	// lacks says what the data holds in place of what p wants, and what to do.
	lacks(p runtime.Port) string
	array(name string) (*npz.Array, error)
}

// OpenSource reads the data at path: an .npz archive, whose arrays have the
// samples along the first axis; a folder in the layout of the ONNX operator
// tests, each test_data_set_K being one sample; a text, a line (.txt) or a JSON
// object (.jsonl) a sample; or a folder of pictures or sounds, in sub-folders
// where they have classes.
func OpenSource(path string, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	if opts.Choice == "" {
		opts.Choice = ChooseFirst
	}
	s := &Source{path: path, opts: opts}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w; give %s", path, errors.Unwrap(err), forms)
	}
	open := openArchive
	switch extension := strings.ToLower(filepath.Ext(path)); {
	case st.IsDir():
		open = openFolder
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("data %s: is not a regular file; copy the data to one", path)
	case extension == ".txt" || extension == ".jsonl":
		open = openText
	case opts.Tokenizer != "":
		return nil, fmt.Errorf("data %s: a tokenizer is for text, in a file .txt or .jsonl", path)
	}
	if err := open(s); err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	return s, nil
}

// forms is what data may be.
const forms = "an .npz, a .txt or .jsonl with a tokenizer, a folder of pictures or sounds, or one with test_data_set_0"

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
	s := &Source{path: name, opts: opts}
	if err := s.fromNPZ(f); err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	return s, nil
}

// SourceFromTensors makes a source of arrays in memory, by name, with the samples
// along their first axis: those that feed inputs, and labels. It copies them;
// name stands for a path in messages.
func SourceFromTensors(name string, arrays map[string]tensor.Tensor, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	s := &Source{path: name, opts: opts}
	err := s.fromArrays(slices.Sorted(maps.Keys(arrays)), func(array string) (*npz.Array, error) {
		a, err := arrayOf(array, arrays[array])
		if err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", name, array, err)
		}
		return a, nil
	})
	if err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	return s, nil
}

func openFolder(s *Source) error {
	cases, err := filepath.Glob(filepath.Join(globEscape(s.path), "test_data_set_*"))
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if len(cases) > 0 {
		return openCases(s, cases)
	}
	return openFiles(s)
}

// globEscape takes the special characters of filepath.Glob out of a path.
func globEscape(p string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(p)
}

// Path is where the data lies, or the name that it was given.
func (s *Source) Path() string { return s.path }

// Fingerprint is a hash of names, types, shapes and elements, in their order, and of
// the choice of samples.
func (s *Source) Fingerprint() string { return s.print }

// Bytes is the size of the samples in memory.
func (s *Source) Bytes() int64 { return s.kind.bytes() }

// Runtime returns the options that a model is compiled with to run over the data: its
// values may take what the data leaves of the limit.
func (s *Source) Runtime() runtime.Options {
	return runtime.Options{MemoryLimit: max(s.opts.Limit-s.Bytes(), 1)}
}

// compile makes m ready to run over the data, with its probes.
func (s *Source) compile(m *graph.Model, probes [][]string) (*runtime.Program, error) {
	o := s.Runtime()
	o.Probes = probes
	return runtime.Compile(m, o)
}

// Array returns the array of that name, for labels and expectations. Pictures
// and sounds in sub-folders have the array "labels", the numbers of the
// sub-folders in the order of their names; a field of JSON lines that holds
// whole numbers is an array, and so is one of strings, as their numbers in the
// order of the alphabet.
func (s *Source) Array(name string) (*npz.Array, error) {
	a, err := s.kind.array(name)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", s.path, err)
	}
	return a, nil
}

// Outputs returns the expected outputs of sample i of a folder of test cases, by
// position; nil for any other data.
func (s *Source) Outputs(i int) []*graph.Tensor {
	if c, ok := s.kind.(cases); ok && i < len(c) {
		return c[i].outputs
	}
	return nil
}

// Feed is a Source bound to the inputs of one model, or a part of it.
type Feed struct {
	// Notes say which array feeds which input where the names differ, what was
	// filled in and what is left out.
	Notes []string

	source  *Source
	ports   []runtime.Port
	feeds   []feeder                   // per port, nil where it is filled
	fill    []filler                   // per port, nil where data feeds it
	keep    func(samples []int) []bool // which tokens count, where the model takes no mask that tells; nil for all
	total   int                        // samples of the source
	samples []int                      // those of the feed, by number, ascending
	fixed   int                        // samples of every batch, where the model or a folder fixes them; else 0
}

// feeder makes the input of some samples, by number.
type feeder func(samples []int) (*runtime.Tensor, error)

// Bind finds for every input what feeds it: the array mapped to it, else the
// array of its name, else the only array that fits in rank, dims and type (a
// note says so). An array of float64 or float16 feeds an input of float32, one of
// int32 that of int64 where it has its name. Inputs that the data lacks and that a
// decoder may leave empty on its first step are filled the way an inference program
// would: an empty past (zero length along its symbolic axis), an attention mask of
// ones, position ids (0 … T−1, or counted along the mask that the data has), and
// use_cache_branch false. Anything else missing is an error.
//
// A model whose inputs fix their first axis is fed that many samples at a
// time; samples beyond a multiple of it are left out, with a note.
func (s *Source) Bind(ports []runtime.Port) (*Feed, error) {
	f := &Feed{source: s, ports: ports}
	f.feeds, f.fill = make([]feeder, len(ports)), make([]filler, len(ports))
	if len(ports) == 0 {
		return nil, fmt.Errorf("data %s: the model has no inputs to feed", s.path)
	}
	if err := s.kind.bind(f); err != nil {
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

// Feed binds the data to the inputs of a model, as Bind does.
func (s *Source) Feed(m *graph.Model) (*Feed, error) {
	ports, err := runtime.Ports(m)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", s.path, err)
	}
	return s.Bind(ports)
}

// bound tells whether data feeds port i.
func (f *Feed) bound(i int) bool { return f.feeds[i] != nil }

func (f *Feed) missing(p runtime.Port) error {
	return fmt.Errorf("nothing feeds input %v; %s", p, f.source.kind.lacks(p))
}

// mapped finds the ports that Map names; its arrays must be among names.
func (f *Feed) mapped(names []string) (ports map[string]int, err error) {
	ports = map[string]int{}
	at := map[int]string{}
	for _, name := range slices.Sorted(maps.Keys(f.source.opts.Map)) {
		to := slices.IndexFunc(f.ports, func(p runtime.Port) bool { return p.Name == f.source.opts.Map[name] })
		if !slices.Contains(names, name) || to < 0 {
			return nil, fmt.Errorf("--map %s=%s: there is no such array or no such input", name, f.source.opts.Map[name])
		}
		if other, ok := at[to]; ok {
			return nil, fmt.Errorf("arrays %q and %q are both mapped to input %q", other, name, f.ports[to].Name)
		}
		ports[name], at[to] = to, name
	}
	return ports, nil
}

// batches finds how many samples a batch has to have, and cuts the samples to
// a multiple of that.
func (f *Feed) batches() error {
	f.samples = f.source.opts.choose(f.total)
	if f.fixed > 0 {
		return nil
	}
	by, have := "", len(f.samples)
	for i, p := range f.ports {
		// Positions broadcast, and use_cache_branch is one flag.
		follows := f.bound(i) || isPast(p) || isMask(p)
		if !follows || p.Rank < 1 || !p.Shape.Dims[0].IsKnown() || isPast(p) && p.Rank > 4 {
			continue
		}
		n := int(p.Shape.Dims[0].N)
		if by != "" && n != f.fixed {
			return fmt.Errorf("data %s: input %q takes %d samples at a time and input %q %d", f.source.path, by, f.fixed, p.Name, n)
		}
		f.fixed, by = n, p.Name
	}
	if f.fixed > have || by != "" && f.fixed < 1 {
		return fmt.Errorf("data %s: input %q takes %d samples at a time, the data has %d", f.source.path, by, f.fixed, have)
	}
	if f.fixed > 1 && have%f.fixed > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("the last %d of %d samples are left out: the model takes %d at a time", have%f.fixed, have, f.fixed))
	}
	f.samples = f.samples[:f.whole(have)]
	return nil
}

// whole is n rounded down to samples that fill batches.
func (f *Feed) whole(n int) int {
	if f.fixed > 1 {
		return n / f.fixed * f.fixed
	}
	return n
}

// BatchSize is the number of samples that a batch has where size is asked for: the
// number that the model fixes, else size, and DefaultBatch where that is 0.
func (f *Feed) BatchSize(size int) int {
	switch {
	case f.fixed > 0:
		return f.fixed
	case size <= 0:
		return DefaultBatch
	}
	return size
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

// Number returns the place in the source of sample i of the feed.
func (f *Feed) Number(i int) int { return f.samples[i] }

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

// Shard returns part i of n parts of about the same size, 0 ≤ i < n.
func (f *Feed) Shard(i, n int) (*Feed, error) {
	unit := max(f.fixed, 1)
	units := f.Len() / unit
	if n < 1 || i < 0 || i >= n || n > units {
		return nil, fmt.Errorf("shard %d/%d of %d samples: want 0 ≤ i < n ≤ %d", i, n, f.Len(), units)
	}
	return f.Slice(i*units/n*unit, (i+1)*units/n*unit), nil
}

// For binds the same samples to the inputs of another model, which are ports.
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

// Mask says which tokens of samples from … to−1, whose inputs are in, count:
// those that a mask among the inputs says (MaskOf), and where the model takes
// none, those that the data did not fill texts up with.
func (f *Feed) Mask(from, to int, in map[string]tensor.Tensor) (Mask, error) {
	m, err := MaskOf(in, to-from)
	if err == nil && f.keep != nil {
		m.masks = append(m.masks, f.keep(f.samples[from:to]))
	}
	return m, err
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
	in, err := f.batch(from, to)
	if err != nil {
		return nil, err
	}
	out := make(map[string]tensor.Tensor, len(in))
	for name, t := range in {
		if out[name], err = t.Dense(); err != nil {
			return nil, fmt.Errorf("data %s: samples %d … %d: input %q: %w", f.source.path, f.samples[from], f.samples[to-1], name, err)
		}
	}
	return out, nil
}

// batch is Batch with tensors as the runtime holds them.
func (f *Feed) batch(from, to int) (map[string]*runtime.Tensor, error) {
	if from < 0 || to > f.Len() || from >= to || f.fixed > 0 && to-from != f.fixed {
		return nil, fmt.Errorf("data %s: no batch of samples %d … %d of %d", f.source.path, from, to-1, f.Len())
	}
	samples := f.samples[from:to]
	fail := func(p runtime.Port, err error) (map[string]*runtime.Tensor, error) {
		return nil, fmt.Errorf("data %s: samples %d … %d: input %q: %w", f.source.path, samples[0], samples[len(samples)-1], p.Name, err)
	}
	s := step{samples: len(samples), syms: map[string]int{}, in: map[string]*runtime.Tensor{}}
	for i, p := range f.ports {
		if !f.bound(i) {
			continue
		}
		t, err := f.feeds[i](samples)
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
	return s.in, nil
}
