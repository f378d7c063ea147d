package tokenizer

import (
	"bytes"
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// model cuts words into tokens.
type model interface {
	tokens(ids []int, word string) ([]int, error) // appended to ids
	id(token string) (int, bool)
	text(id int) (string, bool)
	size() int // one more than the largest id
}

// modelFile is the model of a tokenizer.json.
type modelFile struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"` // {token: id}, or [[token, score]] of Unigram
	Merges       json.RawMessage `json:"merges"`
	Unk          *string         `json:"unk_token"`
	UnkID        *int            `json:"unk_id"`
	Prefix       *string         `json:"continuing_subword_prefix"`
	Suffix       *string         `json:"end_of_word_suffix"`
	MaxChars     int             `json:"max_input_chars_per_word"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
}

func newModel(f *modelFile) (model, error) {
	kind := f.Type
	if kind == "" { // as files were written at first
		switch {
		case f.Merges != nil:
			kind = "BPE"
		case bytes.HasPrefix(bytes.TrimSpace(f.Vocab), []byte("[")):
			kind = "Unigram"
		case f.MaxChars > 0:
			kind = "WordPiece"
		default:
			kind = "WordLevel"
		}
	}
	var m model
	var err error
	switch kind {
	case "WordPiece":
		m, err = newWordPiece(f)
	case "BPE":
		m, err = newBPE(f)
	case "Unigram":
		m, err = newUnigram(f)
	case "WordLevel":
		m, err = newWordLevel(f)
	default:
		return nil, unknown("model", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", kind, err)
	}
	return m, nil
}

// vocabulary is the tokens of a model.
type vocabulary struct {
	ids   map[string]int
	texts map[int]string
	end   int
}

func (v *vocabulary) id(s string) (int, bool)    { id, ok := v.ids[s]; return id, ok }
func (v *vocabulary) text(id int) (string, bool) { s, ok := v.texts[id]; return s, ok }
func (v *vocabulary) size() int                  { return v.end }

func (v *vocabulary) add(s string, id int) error {
	if id < 0 || id > math.MaxInt32 {
		return fmt.Errorf("token %q has the id %d", s, id)
	}
	v.ids[s], v.texts[id], v.end = id, s, max(v.end, id+1)
	return nil
}

func newVocabulary(raw json.RawMessage) (vocabulary, error) {
	v := vocabulary{texts: map[int]string{}}
	if err := json.Unmarshal(raw, &v.ids); err != nil {
		return v, fmt.Errorf("vocab: %w", err)
	}
	if len(v.ids) == 0 {
		return v, errors.New("the vocabulary is empty")
	}
	for s, id := range v.ids {
		if err := v.add(s, id); err != nil {
			return v, err
		}
	}
	return v, nil
}

// unknown finds the token that stands for what the vocabulary lacks, −1 where
// there is none.
func (v *vocabulary) unknown(name *string) (int, error) {
	if name == nil || *name == "" {
		return -1, nil
	}
	id, ok := v.ids[*name]
	if !ok {
		return -1, fmt.Errorf("the token for what is unknown, %q, is not in the vocabulary", *name)
	}
	return id, nil
}

// bytes appends the tokens <0x00> … <0xFF> of the bytes of s; false where one
// of them is missing.
func (v *vocabulary) bytes(ids []int, s string) ([]int, bool) {
	n := len(ids)
	for i := range len(s) {
		id, ok := v.ids[fmt.Sprintf("<0x%02X>", s[i])]
		if !ok {
			return ids[:n], false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// wordLevel knows whole words only.
type wordLevel struct {
	vocabulary
	unk int
}

func newWordLevel(f *modelFile) (*wordLevel, error) {
	v, err := newVocabulary(f.Vocab)
	if err != nil {
		return nil, err
	}
	unk, err := v.unknown(f.Unk)
	return &wordLevel{v, unk}, err
}

func (m *wordLevel) tokens(ids []int, word string) ([]int, error) {
	id, ok := m.ids[word]
	if !ok {
		id = m.unk
	}
	if id < 0 {
		return ids, noUnknown(word)
	}
	return append(ids, id), nil
}

// noUnknown is the error of a word that a model has no token for.
func noUnknown(word string) error {
	if len(word) > 20 {
		word = strings.ToValidUTF8(word[:20], "") + "…"
	}
	return fmt.Errorf("%q is not in the vocabulary, which has no token for what is unknown", word)
}

// wordPiece takes the longest token that a word begins with, then the longest
// that what is left begins with, and so on.
type wordPiece struct {
	vocabulary
	unk, most int // most characters of a word
	prefix    string
	longest   int // token, in bytes
}

func newWordPiece(f *modelFile) (*wordPiece, error) {
	m := &wordPiece{most: f.MaxChars, prefix: "##"}
	var err error
	if m.vocabulary, err = newVocabulary(f.Vocab); err != nil {
		return nil, err
	}
	if m.unk, err = m.unknown(f.Unk); err != nil {
		return nil, err
	}
	if m.most <= 0 {
		m.most = 100
	}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	for s := range m.ids {
		m.longest = max(m.longest, len(s))
	}
	return m, nil
}

func (m *wordPiece) tokens(ids []int, word string) ([]int, error) {
	n := len(ids)
	fits := utf8.RuneCountInString(word) <= m.most
	for from := 0; fits && from < len(word); {
		prefix := ""
		if from > 0 {
			prefix = m.prefix
		}
		to := min(len(word), from+m.longest)
		for ; to > from; to-- {
			if to < len(word) && !utf8.RuneStart(word[to]) {
				continue
			}
			if id, ok := m.ids[prefix+word[from:to]]; ok {
				ids = append(ids, id)
				break
			}
		}
		fits = to > from
		from = to
	}
	if fits {
		return ids, nil
	}
	if m.unk < 0 {
		return ids, noUnknown(word)
	}
	return append(ids[:n], m.unk), nil
}

// bpe joins the neighbours that its list of merges names first, until none of
// the list is left.
type bpe struct {
	vocabulary
	merges                    map[[2]int]merge
	unk                       int
	prefix, suffix            string
	fuse, fallback, wholeWord bool
}

type merge struct{ rank, id int }

func newBPE(f *modelFile) (*bpe, error) {
	m := &bpe{merges: map[[2]int]merge{}, fuse: f.FuseUnk, fallback: f.ByteFallback, wholeWord: f.IgnoreMerges}
	var err error
	if m.vocabulary, err = newVocabulary(f.Vocab); err != nil {
		return nil, err
	}
	if m.unk, err = m.unknown(f.Unk); err != nil {
		return nil, err
	}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	if f.Suffix != nil {
		m.suffix = *f.Suffix
	}
	var pairs [][]string
	if json.Unmarshal(f.Merges, &pairs) != nil {
		var lines []string // as files were written until 2024
		if err := json.Unmarshal(f.Merges, &lines); err != nil {
			return nil, fmt.Errorf("merges: %w", err)
		}
		pairs = nil
		for _, l := range lines {
			pairs = append(pairs, strings.Split(l, " "))
		}
	}
	for i, p := range pairs {
		if len(p) != 2 {
			return nil, fmt.Errorf("merge %d: %q is not a pair of tokens", i, p)
		}
		a, ok := m.ids[p[0]]
		b, ok2 := m.ids[p[1]]
		c, ok3 := m.ids[p[0]+strings.TrimPrefix(p[1], m.prefix)]
		if !ok || !ok2 || !ok3 {
			return nil, fmt.Errorf("merge %d: %q and %q, or what they make, are not in the vocabulary", i, p[0], p[1])
		}
		m.merges[[2]int{a, b}] = merge{i, c}
	}
	return m, nil
}

// symbol is a token of a word that may still be joined to a neighbour.
type symbol struct{ id, before, next int } // −1 at the ends; id is −1 once it is joined

// candidate is a pair that may be joined.
type candidate struct {
	at int // its first symbol
	merge
}

// queue holds candidates, those of low rank first, then those on the left.
type queue []candidate

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].rank < q[j].rank || q[i].rank == q[j].rank && q[i].at < q[j].at
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (m *bpe) tokens(ids []int, word string) ([]int, error) {
	if id, ok := m.ids[word]; ok && m.wholeWord {
		return append(ids, id), nil
	}
	list, err := m.characters(word)
	if err != nil {
		return ids, err
	}
	var q queue
	consider := func(at int) {
		if at < 0 || list[at].next < 0 {
			return
		}
		if j, ok := m.merges[[2]int{list[at].id, list[list[at].next].id}]; ok {
			heap.Push(&q, candidate{at, j})
		}
	}
	for i := range list {
		consider(i)
	}
	for len(q) > 0 {
		c := heap.Pop(&q).(candidate)
		a := &list[c.at]
		if a.id < 0 || a.next < 0 {
			continue
		}
		b := &list[a.next]
		if j, ok := m.merges[[2]int{a.id, b.id}]; !ok || j != c.merge {
			continue // one of them has been joined since
		}
		a.id, a.next, b.id = c.id, b.next, -1
		if a.next >= 0 {
			list[a.next].before = c.at
		}
		consider(a.before)
		consider(c.at)
	}
	for i := 0; i >= 0 && i < len(list); i = list[i].next {
		ids = append(ids, list[i].id)
	}
	return ids, nil
}

// characters turns a word into its single characters.
func (m *bpe) characters(word string) ([]symbol, error) {
	var ids, single []int
	unknown := false // the last one is the unknown token
	for i, r := range word {
		s := word[i : i+utf8.RuneLen(r)]
		if i > 0 {
			s = m.prefix + s
		}
		if i+utf8.RuneLen(r) == len(word) {
			s += m.suffix
		}
		if id, ok := m.ids[s]; ok {
			ids, unknown = append(ids, id), false
			continue
		}
		if m.fallback {
			var ok bool
			if single, ok = m.bytes(single[:0], s); ok {
				ids, unknown = append(ids, single...), false
				continue
			}
		}
		if m.unk >= 0 && !(unknown && m.fuse) {
			ids = append(ids, m.unk)
		}
		unknown = true
	}
	list := make([]symbol, len(ids))
	for i, id := range ids {
		list[i] = symbol{id, i - 1, i + 1}
	}
	if len(list) > 0 {
		list[len(list)-1].next = -1
	}
	return list, nil
}

// unigram takes the tokens whose scores, logarithms of probabilities, have the
// largest sum (Viterbi).
type unigram struct {
	vocabulary
	scores   map[int]float64
	unk      int
	fallback bool
	longest  int     // token, in bytes
	penalty  float64 // the score of a character that is unknown
}

func newUnigram(f *modelFile) (*unigram, error) {
	m := &unigram{vocabulary: vocabulary{ids: map[string]int{}, texts: map[int]string{}}, scores: map[int]float64{}, unk: -1, fallback: f.ByteFallback}
	var list [][2]any
	if err := json.Unmarshal(f.Vocab, &list); err != nil {
		return nil, fmt.Errorf("vocab: %w", err)
	}
	least := math.Inf(1)
	for i, e := range list {
		s, ok := e[0].(string)
		score, ok2 := e[1].(float64)
		if !ok || !ok2 {
			return nil, fmt.Errorf("vocab: entry %d is not a token and a score", i)
		}
		if err := m.add(s, i); err != nil {
			return nil, err
		}
		m.scores[i], least, m.longest = score, min(least, score), max(m.longest, len(s))
	}
	if len(list) == 0 {
		return nil, errors.New("the vocabulary is empty")
	}
	const far = 10 // kUnkPenalty of SentencePiece
	m.penalty = least - far
	if f.UnkID != nil {
		if *f.UnkID < 0 || *f.UnkID >= len(list) {
			return nil, fmt.Errorf("unk_id %d is none of the %d tokens", *f.UnkID, len(list))
		}
		m.unk = *f.UnkID
	}
	return m, nil
}

func (m *unigram) tokens(ids []int, word string) ([]int, error) {
	// best[i] is the best way to the first i bytes: its score, and where its
	// last token begins and which it is (−1 for an unknown character).
	type way struct {
		score     float64
		from, id  int
		reachable bool
	}
	best := make([]way, len(word)+1)
	best[0].reachable = true
	for from, r := range word {
		if !best[from].reachable {
			continue
		}
		one := utf8.RuneLen(r)
		single := false
		offer := func(to int, score float64, id int) {
			if score += best[from].score; !best[to].reachable || score > best[to].score {
				best[to] = way{score, from, id, true}
			}
		}
		for to := from + 1; to <= min(len(word), from+m.longest); to++ {
			if to < len(word) && !utf8.RuneStart(word[to]) {
				continue
			}
			if id, ok := m.ids[word[from:to]]; ok {
				offer(to, m.scores[id], id)
				single = single || to == from+one
			}
		}
		if !single {
			offer(from+one, m.penalty, -1)
		}
	}
	var reversed []way
	var ends []int
	for to := len(word); to > 0; to = best[to].from {
		reversed, ends = append(reversed, best[to]), append(ends, to)
	}
	for i := len(reversed) - 1; i >= 0; i-- {
		w, to := reversed[i], ends[i]
		if w.id >= 0 && w.id != m.unk {
			ids = append(ids, w.id)
			continue
		}
		// Unknown characters in a row are one token.
		for ; i > 0 && (reversed[i-1].id < 0 || reversed[i-1].id == m.unk); i-- {
			to = ends[i-1]
		}
		text := word[w.from:to]
		if id, ok := m.ids[text]; ok {
			ids = append(ids, id)
			continue
		}
		if m.fallback {
			var ok bool
			if ids, ok = m.bytes(ids, text); ok {
				continue
			}
		}
		if m.unk < 0 {
			return ids, noUnknown(text)
		}
		ids = append(ids, m.unk)
	}
	return ids, nil
}
