// Package tokenizer turns text into the token ids of a model and back, as a
// tokenizer.json says: the file that Hugging Face's tokenizers library writes
// beside a model. It knows WordPiece, BPE (of bytes, and with a fallback to
// bytes), Unigram and whole-word models with the normalizers, pre-tokenizers,
// post-processors and decoders that published models use; a file that asks for
// anything else is refused when it is read.
//
// A text goes through four stages: the tokens that the file adds to the model's
// are cut out, what is between them is normalized, split into words, and the
// model cuts each word into tokens; a template then adds tokens around the text.
package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxFile is the size of the largest file that is read, in bytes. Vocabularies
// of 250,000 tokens take 20 MB.
const MaxFile = 256 << 20

// MaxText is the length of the longest text that is encoded, in bytes.
const MaxText = 4 << 20

// Tokenizer is one tokenizer.json. It never changes, and serves any number of
// goroutines.
type Tokenizer struct {
	added  []addedToken // in the order of the file
	byID   map[int]addedToken
	raw    matcher // tokens that are looked for before the text is normalized
	normal matcher // and after
	change normalizer
	split  splitter
	model  model
	frame  template
	decode []decoder // nil joins tokens by spaces

	// Padding and truncation of the file: the id and type of the token that
	// fills up, and whether what is filled up or cut off is on the left.
	pad, padType     int
	padLeft, cutLeft bool
}

// Encoding is a text as tokens, with those of the template around it.
type Encoding struct {
	IDs   []int
	Types []int // the segment of every token, 0 for a single text
}

// file is the layout of tokenizer.json.
type file struct {
	Added         []addedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Decoder       *component   `json:"decoder"`
	Model         *modelFile   `json:"model"`
	Truncation    *struct {
		Direction string `json:"direction"`
	} `json:"truncation"`
	Padding *struct {
		Direction string `json:"direction"`
		ID        int    `json:"pad_id"`
		Type      int    `json:"pad_type_id"`
	} `json:"padding"`
}

// component is one normalizer, pre-tokenizer, post-processor or decoder: what
// any of them may say.
type component struct {
	Type          string      `json:"type"`
	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`

	Lowercase      *bool           `json:"lowercase"`
	StripAccents   *bool           `json:"strip_accents"`
	CleanText      *bool           `json:"clean_text"`
	ChineseChars   *bool           `json:"handle_chinese_chars"`
	StripLeft      *bool           `json:"strip_left"`
	StripRight     *bool           `json:"strip_right"`
	Prepend        string          `json:"prepend"`
	Pattern        json.RawMessage `json:"pattern"` // {"String": s}, {"Regex": r} or s
	Content        string          `json:"content"`
	Charsmap       []byte          `json:"precompiled_charsmap"` // base64
	AddPrefixSpace *bool           `json:"add_prefix_space"`
	UseRegex       *bool           `json:"use_regex"`
	Replacement    string          `json:"replacement"`
	PrependScheme  string          `json:"prepend_scheme"`
	Split          *bool           `json:"split"`
	Behavior       string          `json:"behavior"`
	Invert         bool            `json:"invert"`
	Individual     bool            `json:"individual_digits"`
	Delimiter      string          `json:"delimiter"`
	Cls            *frameToken     `json:"cls"`
	Sep            *frameToken     `json:"sep"`
	Single         []templatePiece `json:"single"`
	Special        map[string]struct {
		IDs []int `json:"ids"`
	} `json:"special_tokens"`
	Prefix  string `json:"prefix"`
	Suffix  string `json:"suffix"`
	Cleanup *bool  `json:"cleanup"`
	Start   int    `json:"start"`
	Stop    int    `json:"stop"`
}

// or is *b, or what holds where a file does not say.
func or(b *bool, unsaid bool) bool {
	if b == nil {
		return unsaid
	}
	return *b
}

// unknown is the error of a component that this package does not have.
func unknown(stage, name string) error {
	return fmt.Errorf("%s %q is not supported", stage, name)
}

// Load reads the file at path.
func Load(path string) (*Tokenizer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = fmt.Errorf("larger than %d MB, which no tokenizer.json is", MaxFile>>20)
	}
	var t *Tokenizer
	if err == nil {
		t, err = Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Parse reads the contents of a tokenizer.json.
func Parse(b []byte) (*Tokenizer, error) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("no tokenizer.json: %w", err)
	}
	if f.Model == nil {
		return nil, errors.New(`no tokenizer.json: it has no "model"; give the file that lies beside the model, not tokenizer_config.json or vocab.json`)
	}
	t := &Tokenizer{added: f.Added, byID: map[int]addedToken{}}
	var err error
	if t.model, err = newModel(f.Model); err != nil {
		return nil, err
	}
	if t.change, err = newNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if t.split, err = newSplitter(f.PreTokenizer); err != nil {
		return nil, err
	}
	if t.frame, err = newTemplate(f.PostProcessor); err != nil {
		return nil, err
	}
	if t.decode, err = newDecoders(f.Decoder); err != nil {
		return nil, err
	}
	for _, a := range f.Added {
		if a.Content == "" {
			continue
		}
		t.byID[a.ID] = a
		if !a.Normalized {
			t.raw.add(a.Content, a)
			continue
		}
		s, err := t.change(a.Content)
		if err != nil {
			return nil, fmt.Errorf("added token %q: %w", a.Content, err)
		}
		t.normal.add(s, a)
		a.Content = s
		t.byID[a.ID] = a
	}
	if f.Padding != nil {
		t.pad, t.padType, t.padLeft = f.Padding.ID, f.Padding.Type, f.Padding.Direction == "Left"
	} else if a, ok := t.named("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"); ok {
		t.pad = a.ID
	}
	t.cutLeft = f.Truncation != nil && f.Truncation.Direction == "Left"
	return t, nil
}

// named returns the first added token that has one of the names.
func (t *Tokenizer) named(names ...string) (addedToken, bool) {
	for _, name := range names {
		if i := slices.IndexFunc(t.added, func(a addedToken) bool { return a.Content == name }); i >= 0 {
			return t.added[i], true
		}
	}
	return addedToken{}, false
}

// Pad returns the token that fills texts up to a length, its segment, and
// whether it stands before the text. Where the file does not say, it is the
// token that is called so, or 0, behind the text.
func (t *Tokenizer) Pad() (id, segment int, left bool) { return t.pad, t.padType, t.padLeft }

// ID returns the id of a token by its text, as in "</s>".
func (t *Tokenizer) ID(token string) (int, bool) {
	if a, ok := t.named(token); ok {
		return a.ID, true
	}
	return t.model.id(token)
}

// Size is one more than the largest id.
func (t *Tokenizer) Size() int {
	n := t.model.size()
	for id := range t.byID {
		n = max(n, id+1)
	}
	return n
}

// piece is a part of a text on its way to tokens.
type piece struct {
	text  string
	token int  // the added token that it is, or −1
	first bool // the text begins with it
}

// Encode turns text into tokens: Frame of Tokens.
func (t *Tokenizer) Encode(text string, max int) (Encoding, error) {
	ids, err := t.Tokens(text)
	if err != nil {
		return Encoding{}, err
	}
	return t.Frame(ids, max)
}

// Frame puts the tokens of the template around those of a text: at most max of
// them all where max > 0. Longer texts are cut, at the end that the file names
// or on the right.
func (t *Tokenizer) Frame(ids []int, max int) (Encoding, error) {
	if room := max - t.Around(); max > 0 && len(ids) > room {
		if room < 0 {
			return Encoding{}, fmt.Errorf("%d tokens have no room for the %d that the tokenizer adds to every text", max, t.Around())
		}
		if t.cutLeft {
			ids = ids[len(ids)-room:]
		} else {
			ids = ids[:room]
		}
	}
	return t.frame.around(ids), nil
}

// Prompt turns a text that is to be continued into tokens: with those of the
// template in front, and without those behind, which end a text.
func (t *Tokenizer) Prompt(text string) ([]int, error) {
	ids, err := t.Tokens(text)
	return append(slices.Clone(t.frame.before), ids...), err
}

// Ends returns the tokens that end a text by their usual names.
func (t *Tokenizer) Ends() (ids []int) {
	for _, name := range ends {
		if id, ok := t.ID(name); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// ends are the names of tokens that end a text: of GPT-2, LLaMA, LLaMA 3,
// Gemma, Qwen and others.
var ends = []string{"<|endoftext|>", "</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<end_of_turn>", "<|im_end|>"}

// Around is the number of tokens that Frame adds.
func (t *Tokenizer) Around() int { return t.frame.size() }

// Tokens turns text into tokens without those of the template.
func (t *Tokenizer) Tokens(text string) ([]int, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("a text of %d MB; the longest that is read has %d", len(text)>>20, MaxText>>20)
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	var ids []int
	for _, outer := range t.raw.cut(piece{text, -1, true}) {
		if outer.token >= 0 {
			ids = append(ids, outer.token)
			continue
		}
		s, err := t.change(outer.text)
		if err != nil {
			return nil, err
		}
		for _, p := range t.normal.cut(piece{s, -1, outer.first}) {
			if p.token >= 0 {
				ids = append(ids, p.token)
				continue
			}
			words, err := t.split([]piece{p})
			if err != nil {
				return nil, err
			}
			for _, w := range words {
				if w.text == "" {
					continue
				}
				if ids, err = t.model.tokens(ids, w.text); err != nil {
					return nil, err
				}
			}
		}
	}
	return ids, nil
}

// Decode turns tokens into text. Special tokens, such as those of the
// template, are left out.
func (t *Tokenizer) Decode(ids []int) string {
	var words []string
	for _, id := range ids {
		a, ok := t.byID[id]
		switch {
		case ok && a.Special:
		case ok:
			words = append(words, a.Content)
		default:
			if s, ok := t.model.text(id); ok {
				words = append(words, s)
			}
		}
	}
	if t.decode == nil {
		return strings.Join(words, " ")
	}
	for _, d := range t.decode {
		words = d(words)
	}
	return strings.Join(words, "")
}

// Stream decodes tokens as they come.
type Stream struct {
	t    *Tokenizer
	ids  []int
	said int // of them are said
	from int // the said tokens that still matter begin here
}

// Stream returns a stream behind the tokens of a prompt.
func (t *Tokenizer) Stream(prompt []int) *Stream {
	s := &Stream{t: t}
	for _, id := range prompt {
		s.Next(id)
	}
	return s
}

// Next returns the text that a token adds. It is empty while the token is but
// a part of a character.
func (s *Stream) Next(id int) string {
	s.ids = append(s.ids, id)
	before, now := s.t.Decode(s.ids[s.from:s.said]), s.t.Decode(s.ids[s.from:])
	const most = 16 // tokens that one character may have: more are no character
	if len(now) <= len(before) || strings.HasSuffix(now, "\uFFFD") && len(s.ids)-s.said < most {
		return ""
	}
	// The tokens before decide on spaces; one of them is enough.
	s.from, s.said = s.said, len(s.ids)
	if !strings.HasPrefix(now, before) {
		return now
	}
	return now[len(before):]
}

// Rest returns what is left when no more tokens come: a character that lacks a
// part is U+FFFD.
func (s *Stream) Rest() string {
	before, now := s.t.Decode(s.ids[s.from:s.said]), s.t.Decode(s.ids[s.from:])
	s.from, s.said = s.said, len(s.ids)
	if !strings.HasPrefix(now, before) {
		return now
	}
	return now[len(before):]
}

// addedToken is a token that the file adds to the model's.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LeftStrip  bool   `json:"lstrip"`
	RightStrip bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// matcher finds added tokens in a text: the leftmost, and of those the longest.
type matcher struct {
	texts [256][]match // by first byte, the longest first
}

type match struct {
	text  string
	token addedToken
}

func (m *matcher) add(text string, token addedToken) {
	if text == "" {
		return
	}
	list := append(m.texts[text[0]], match{text, token})
	slices.SortStableFunc(list, func(a, b match) int { return cmp.Compare(len(b.text), len(a.text)) })
	m.texts[text[0]] = list
}

// cut cuts the tokens out of p.
func (m *matcher) cut(p piece) []piece {
	var out []piece
	s, done := p.text, 0
	emit := func(to int) {
		if done < to {
			out = append(out, piece{s[done:to], -1, p.first && done == 0})
		}
	}
	for i := 0; i < len(s); i++ {
		for _, c := range m.texts[s[i]] {
			if !strings.HasPrefix(s[i:], c.text) {
				continue
			}
			from, to := i, i+len(c.text)
			i = to - 1 // also where it does not count, it has been read
			if c.token.SingleWord && (wordEnds(s[:from]) || wordBegins(s[to:])) {
				break
			}
			if c.token.LeftStrip {
				from = max(done, len(strings.TrimRightFunc(s[:from], unicode.IsSpace)))
			}
			if c.token.RightStrip {
				to = len(s) - len(strings.TrimLeftFunc(s[to:], unicode.IsSpace))
			}
			emit(from)
			out = append(out, piece{s[from:to], c.token.ID, false})
			done, i = to, to-1
			break
		}
	}
	emit(len(s))
	return out
}

func wordEnds(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return s != "" && isWord(r)
}

func wordBegins(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return s != "" && isWord(r)
}

// isWord is \w of Unicode's rules for regular expressions (UTS #18, annex C).
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}
