package calib

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/internal/tokenizer"
	"github.com/onnx-lathe/lathe/runtime"
)

// texts is the data of a text: a sample is a line that is not empty, or a JSON
// object.
type texts struct {
	source    *Source
	tokenizer *tokenizer.Tokenizer
	columns   []*column                    // the text first, then the fields that Map names
	fields    []map[string]json.RawMessage // the short ones of JSON lines, for labels
}

// column is one text of every sample.
type column struct {
	name string
	ids  [][]int // tokens, without those that the tokenizer puts around them
	size int     // tokens together
}

// Names of the arrays that every text has.
const (
	arrayTokens = "tokens"
	arrayMask   = "mask"
	arrayTypes  = "types"
)

// defaultSequence is the length that long texts are cut at unless something
// says otherwise: what BERT's family takes.
const defaultSequence = 512

func openText(s *Source) error {
	if s.opts.Tokenizer == "" {
		return fmt.Errorf("%s: a text needs --tokenizer tokenizer.json, the file beside the model that says what its tokens are", s.path)
	}
	t := &texts{source: s}
	var err error
	if t.tokenizer, err = tokenizer.Load(s.opts.Tokenizer); err != nil {
		return fmt.Errorf("--tokenizer %w", err)
	}
	field := s.opts.Field
	if field == "" {
		field = "text"
	}
	t.columns = []*column{{name: field}}
	lines := strings.EqualFold(filepath.Ext(s.path), ".jsonl")
	if lines {
		for name := range s.opts.Map {
			if !slices.Contains([]string{arrayTokens, arrayMask, arrayTypes, field}, name) {
				t.columns = append(t.columns, &column{name: name})
			}
		}
		rest := t.columns[1:]
		slices.SortFunc(rest, func(a, b *column) int { return cmp.Compare(a.name, b.name) })
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	// One byte more than the limit shows that there is more.
	scan := bufio.NewScanner(io.TeeReader(io.LimitReader(f, s.opts.Limit+1), sum))
	scan.Buffer(nil, tokenizer.MaxText)
	read := int64(0)
	for n := 1; scan.Scan(); n++ {
		line := bytes.TrimPrefix(scan.Bytes(), []byte("\ufeff"))
		if read += int64(len(line)) + 1; read > s.opts.Limit || t.bytes() > s.opts.Limit {
			return fmt.Errorf("%s: line %d: more than the %w of %d MB of data", s.path, n, npz.ErrLimit, s.opts.Limit>>20)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		add := t.line
		if lines {
			add = t.object
		}
		if err := add(line); err != nil {
			return fmt.Errorf("%s: line %d: %w", s.path, n, err)
		}
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s: a line is longer than %d MB; write a sample a line", s.path, tokenizer.MaxText>>20)
	} else if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if len(t.columns[0].ids) == 0 {
		return fmt.Errorf("%s: holds no text", s.path)
	}
	fmt.Fprintf(sum, "%d %v\n", s.opts.Sequence, s.opts.Join)
	for _, c := range t.columns {
		fmt.Fprintf(sum, "%q %v\n", c.name, c.ids)
	}
	if s.opts.Join {
		if len(t.columns) > 1 {
			return fmt.Errorf("%s: --join joins the one text of every sample; leave --map %s out", s.path, t.columns[1].name)
		}
		t.join()
	} else {
		s.choice(sum, len(t.columns[0].ids))
	}
	s.kind, s.print = t, fingerprint(sum)
	return nil
}

// line adds a line of plain text.
func (t *texts) line(line []byte) error { return t.add(t.columns[0], string(line)) }

// object adds a line of JSON.
func (t *texts) object(line []byte) error {
	var o map[string]json.RawMessage
	if err := json.Unmarshal(line, &o); err != nil {
		return fmt.Errorf("no JSON object: %w", err)
	}
	for _, c := range t.columns {
		raw, ok := o[c.name]
		var text string
		if !ok {
			var names []string
			for name := range o {
				names = append(names, name)
			}
			slices.Sort(names)
			return fmt.Errorf("no field %q; it has %s; choose the text with --field", c.name, strings.Join(names, ", "))
		}
		if err := json.Unmarshal(raw, &text); err != nil {
			return fmt.Errorf("field %q is not a string", c.name)
		}
		if err := t.add(c, text); err != nil {
			return err
		}
	}
	const short = 256 // bytes of what may be a label
	for name, raw := range o {
		if len(raw) > short {
			delete(o, name)
		} else {
			o[name] = bytes.Clone(raw)
		}
	}
	t.fields = append(t.fields, o)
	return nil
}

func (t *texts) add(c *column, text string) error {
	ids, err := t.tokenizer.Tokens(text)
	c.ids, c.size = append(c.ids, ids), c.size+len(ids)
	return err
}

// join makes one text of all: each with the tokens that the tokenizer puts
// around it, or where it puts none with one that ends a text behind it.
func (t *texts) join() {
	var all []int
	ends := t.tokenizer.Ends()
	for _, ids := range t.columns[0].ids {
		e, _ := t.tokenizer.Frame(ids, 0) // fails only where it cuts
		if all = append(all, e.IDs...); len(ends) > 0 && t.tokenizer.Around() == 0 {
			all = append(all, ends[0])
		}
	}
	t.columns[0].ids, t.fields = [][]int{all}, nil
}

func (t *texts) bytes() (n int64) {
	const word, header = 8, 24 // bytes of a token, and of the slice of a sample
	for _, c := range t.columns {
		n += int64(word*c.size + header*len(c.ids))
	}
	return n
}

func (t *texts) lacks(p runtime.Port) string {
	if t.fields != nil {
		return fmt.Sprintf("a text gives tokens, mask and types; name a field of the JSON lines with --map field=%s, or one of these with --map tokens=%s", p.Name, p.Name)
	}
	return fmt.Sprintf("a text gives tokens, mask and types; name one with --map tokens=%s; several texts a sample come from JSON lines", p.Name)
}

// array makes labels of a field of JSON lines.
func (t *texts) array(name string) (*npz.Array, error) {
	if t.source.opts.Join {
		return nil, fmt.Errorf("no %q: texts that are joined have no labels", name)
	}
	if t.fields == nil {
		return nil, fmt.Errorf("no %q: lines of text have no labels; give JSON lines, in a .jsonl, with a field for them", name)
	}
	numbers, words := make([]int64, len(t.fields)), make([]string, len(t.fields))
	named := 0
	for i, o := range t.fields {
		raw, ok := o[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("object %d has no short field %q", i+1, name)
		case json.Unmarshal(raw, &numbers[i]) == nil:
		case json.Unmarshal(raw, &words[i]) == nil:
			named++
		default:
			return nil, fmt.Errorf("field %q of object %d is %s, which is no whole number and no string", name, i+1, raw)
		}
	}
	if named > 0 && named < len(words) {
		return nil, fmt.Errorf("field %q is a number in some objects and a string in others", name)
	}
	if named > 0 {
		numbers = numbered(words)
	}
	return npz.Int64Array(name, []int{len(numbers)}, numbers), nil
}

// numbered gives every word its number in the order of the alphabet.
func numbered(words []string) []int64 {
	all := slices.Clone(words)
	slices.Sort(all)
	all = slices.Compact(all)
	out := make([]int64, len(words))
	for i, w := range words {
		at, _ := slices.BinarySearch(all, w)
		out[i] = int64(at)
	}
	return out
}

// textPort is what an input wants of a text.
type textPort struct {
	array  string
	column int
}

func (t *texts) bind(f *Feed) error {
	want, err := t.assign(f)
	if err != nil {
		return err
	}
	masked := false
	lengths := make([]int, len(t.columns))
	for i, w := range want {
		p := f.ports[i]
		if masked = masked || w.array == arrayMask; w.array == "" || !p.Shape.Dims[1].IsKnown() {
			continue
		}
		n := int(p.Shape.Dims[1].N)
		if n < 1 || lengths[w.column] > 0 && lengths[w.column] != n || t.source.opts.Sequence > 0 && t.source.opts.Sequence != n {
			return fmt.Errorf("input %v takes %d tokens, which is not what --seq or another input says", p, n)
		}
		lengths[w.column] = n
	}
	for i, c := range t.columns {
		if lengths[i] == 0 {
			lengths[i] = t.source.opts.Sequence
		}
		if t.source.opts.Join {
			lengths[i] = cmp.Or(lengths[i], min(defaultSequence, len(c.ids[0])))
			if f.total = len(c.ids[0]) / max(lengths[i], 1); f.total == 0 {
				return fmt.Errorf("the texts have %d tokens together, and a piece has %d", len(c.ids[0]), lengths[i])
			}
			continue
		}
		if err := t.fit(f, c, &lengths[i], masked); err != nil {
			return err
		}
	}
	if n, c := lengths[0], t.columns[0]; !masked && !t.source.opts.Join {
		f.keep = func(samples []int) []bool {
			keep := make([]bool, 0, len(samples)*n)
			for _, s := range samples {
				row, _ := t.row(c, s, n, arrayMask) // the tokens of the sample have told of what may fail
				for _, v := range row {
					keep = append(keep, v != 0)
				}
			}
			return keep
		}
	}
	for i, w := range want {
		if w.array == "" {
			continue
		}
		p, n, c := f.ports[i], lengths[w.column], t.columns[w.column]
		f.feeds[i] = func(samples []int) (*runtime.Tensor, error) {
			values := make([]int, 0, len(samples)*n)
			for _, s := range samples {
				row, err := t.row(c, s, n, w.array)
				if err != nil {
					return nil, err
				}
				values = append(values, row...)
			}
			return counted(p.DType, []int{len(samples), n}, func(i int) int { return values[i] })
		}
	}
	return nil
}

// assign decides by the names of the inputs, and by Map, what each is fed.
func (t *texts) assign(f *Feed) ([]textPort, error) {
	names := []string{arrayTokens, arrayMask, arrayTypes}
	for _, c := range t.columns {
		names = append(names, c.name)
	}
	mapped, err := f.mapped(names)
	if err != nil {
		return nil, err
	}
	want := make([]textPort, len(f.ports))
	wants := func(i int) bool { return f.ports[i].Rank == 2 && (isInteger(f.ports[i].DType) || isMask(f.ports[i])) }
	decoder := 0 // the column of the decoder of a model that has an encoder too
	for name, i := range mapped {
		at := slices.IndexFunc(t.columns, func(c *column) bool { return c.name == name })
		if !wants(i) {
			return nil, fmt.Errorf("--map %s=%s: the input is %v, and a text gives [samples, tokens] of whole numbers", name, f.ports[i].Name, f.ports[i])
		}
		switch {
		case name == arrayMask || name == arrayTypes:
			want[i] = textPort{name, 0}
		default:
			want[i] = textPort{arrayTokens, max(at, 0)}
			if isDecoder(f.ports[i].Name) {
				decoder = max(at, 0)
			}
		}
	}
	var open []int // inputs that may take the text
	for i, p := range f.ports {
		name := strings.ToLower(p.Name)
		switch {
		case want[i].array != "" || !wants(i) || strings.Contains(name, "position") || strings.Contains(name, "past"):
		case isMask(p):
			want[i].array = arrayMask
		case strings.Contains(name, "type") || strings.Contains(name, "segment"):
			want[i].array = arrayTypes
		default:
			open = append(open, i)
		}
		if want[i].array != "" && want[i].array != arrayTokens && isDecoder(p.Name) {
			want[i].column = decoder
		}
	}
	if slices.ContainsFunc(want, func(w textPort) bool { return w == textPort{arrayTokens, 0} }) {
		return want, nil
	}
	// The encoder's text, and of several inputs that which is called so.
	for _, fits := range []func(string) bool{
		func(name string) bool { return !isDecoder(name) },
		func(name string) bool { return strings.Contains(strings.ToLower(name), "input_ids") },
	} {
		var rest []int
		for _, i := range open {
			if fits(f.ports[i].Name) {
				rest = append(rest, i)
			}
		}
		if len(open) > 1 && len(rest) > 0 {
			open = rest
		}
	}
	switch len(open) {
	case 0:
		return nil, fmt.Errorf("no input takes tokens, which are whole numbers of [samples, tokens]; the inputs are %v", f.ports)
	case 1:
		want[open[0]] = textPort{arrayTokens, 0}
		return want, nil
	}
	a, b := f.ports[open[0]].Name, f.ports[open[1]].Name
	return nil, fmt.Errorf("inputs %q and %q may both take the tokens; choose with --map tokens=%s, and likewise for mask and types", a, b, a)
}

// fit finds the length of a column unless it is given, and says what that means.
func (t *texts) fit(f *Feed, c *column, length *int, masked bool) error {
	f.total = len(c.ids)
	longest, shortest := 0, len(c.ids[0])
	for _, ids := range c.ids {
		longest, shortest = max(longest, len(ids)), min(shortest, len(ids))
	}
	longest, shortest = longest+t.tokenizer.Around(), shortest+t.tokenizer.Around()
	*length = max(1, cmp.Or(*length, min(longest, defaultSequence)))
	if _, err := t.tokenizer.Frame(nil, *length); err != nil || *length < t.tokenizer.Around() {
		return fmt.Errorf("texts of %d tokens: the tokenizer adds %d to every text; give more with --seq", *length, t.tokenizer.Around())
	}
	cut := 0
	for _, ids := range c.ids {
		if len(ids)+t.tokenizer.Around() > *length {
			cut++
		}
	}
	note := fmt.Sprintf("%q has %d to %d tokens", c.name, shortest, longest)
	if cut > 0 {
		note += fmt.Sprintf("; %d of %d texts are cut at %d", cut, len(c.ids), *length)
	}
	if shortest < *length {
		note += fmt.Sprintf("; shorter ones are filled up to %d", *length)
		if !masked {
			note += ", which does not count, but the model takes no attention mask and sees it; --join joins texts instead"
		}
	}
	f.Notes = append(f.Notes, note)
	return nil
}

// row makes n numbers of a sample.
func (t *texts) row(c *column, sample, n int, array string) ([]int, error) {
	if t.source.opts.Join {
		e := c.ids[0][sample*n : (sample+1)*n]
		switch array {
		case arrayMask:
			return slices.Repeat([]int{1}, n), nil
		case arrayTypes:
			return make([]int, n), nil
		}
		return e, nil
	}
	e, err := t.tokenizer.Frame(c.ids[sample], n)
	if err != nil {
		return nil, err
	}
	pad, segment, left := t.tokenizer.Pad()
	values, filling := e.IDs, pad
	switch array {
	case arrayMask:
		values, filling = slices.Repeat([]int{1}, len(e.IDs)), 0
	case arrayTypes:
		values, filling = e.Types, segment
	}
	fill := slices.Repeat([]int{filling}, n-len(values))
	if left {
		return append(fill, values...), nil
	}
	return append(slices.Clip(values), fill...), nil
}
