package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitter cuts pieces into words, and may change them.
type splitter func(pieces []piece) ([]piece, error)

func newSplitter(c *component) (splitter, error) {
	if c == nil {
		return func(p []piece) ([]piece, error) { return p, nil }, nil
	}
	switch c.Type {
	case "Sequence":
		var list []splitter
		for i := range c.PreTokenizers {
			s, err := newSplitter(&c.PreTokenizers[i])
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
		return func(p []piece) (_ []piece, err error) {
			for _, s := range list {
				if p, err = s(p); err != nil {
					break
				}
			}
			return p, err
		}, nil
	case "BertPreTokenizer":
		return steps(cutting(runs(unicode.IsSpace), removed), cutting(each(isPunctuation), isolated)), nil
	case "WhitespaceSplit":
		return cutting(runs(unicode.IsSpace), removed), nil
	case "Whitespace":
		// The words of \w+|[^\w\s]+.
		return steps(cutting(runs(unicode.IsSpace), removed), cutting(runs(isWord), isolated)), nil
	case "Punctuation":
		b, err := behavior(c.Behavior, isolated)
		return cutting(each(isPunctuation), b), err
	case "Digits":
		if c.Individual {
			return cutting(each(unicode.IsNumber), isolated), nil
		}
		return cutting(runs(unicode.IsNumber), isolated), nil
	case "CharDelimiterSplit":
		if c.Delimiter == "" {
			return nil, errors.New("pre-tokenizer CharDelimiterSplit: no delimiter")
		}
		return cutting((&pattern{text: c.Delimiter}).find, removed), nil
	case "Split":
		p, err := newPattern(c.Pattern)
		if err != nil {
			return nil, fmt.Errorf("pre-tokenizer Split: %w", err)
		}
		b, err := behavior(c.Behavior, "")
		return rule{p.find, b, c.Invert}.cut, err
	case "ByteLevel":
		return newByteLevel(c)
	case "Metaspace":
		return newMetaspace(c)
	}
	return nil, unknown("pre-tokenizer", c.Type)
}

func steps(list ...splitter) splitter {
	return func(p []piece) (_ []piece, err error) {
		for _, s := range list {
			if p, err = s(p); err != nil {
				break
			}
		}
		return p, err
	}
}

// What becomes of the parts of a piece that a pattern matches.
const (
	removed    = "Removed"
	isolated   = "Isolated"
	withBefore = "MergedWithPrevious"
	withNext   = "MergedWithNext"
	contiguous = "Contiguous"
)

func behavior(name, unsaid string) (string, error) {
	switch name {
	case removed, isolated, withBefore, withNext, contiguous:
		return name, nil
	case "":
		if unsaid != "" {
			return unsaid, nil
		}
	}
	return "", fmt.Errorf("pre-tokenizer: behavior %q is not supported", name)
}

// rule cuts pieces where find finds something, or with invert set counts what
// is between as found.
type rule struct {
	find   func(string) ([][2]int, error)
	how    string
	invert bool
}

func cutting(find func(string) ([][2]int, error), how string) splitter {
	return rule{find, how, false}.cut
}

func (r rule) cut(pieces []piece) ([]piece, error) {
	var out []piece
	for _, p := range pieces {
		at, err := r.find(p.text)
		if err != nil {
			return nil, err
		}
		out = p.cut(out, at, r.how, r.invert)
	}
	return out, nil
}

// cut appends the parts of p to out, of which those at the offsets at, or with
// invert set the others, are matches.
func (p piece) cut(out []piece, at [][2]int, how string, invert bool) []piece {
	type part struct {
		from, to int
		match    bool
	}
	var parts []part
	done := 0
	for _, m := range at {
		if done < m[0] {
			parts = append(parts, part{done, m[0], invert})
		}
		parts = append(parts, part{m[0], m[1], !invert})
		done = m[1]
	}
	if done < len(p.text) {
		parts = append(parts, part{done, len(p.text), invert})
	}
	var kept []part
	for i, x := range parts {
		join := false // with the part before
		switch how {
		case removed:
			if x.match {
				continue
			}
		case withBefore:
			join = x.match && i > 0 && !parts[i-1].match
		case withNext:
			join = !x.match && i > 0 && parts[i-1].match
		case contiguous:
			join = i > 0 && x.match == parts[i-1].match
		}
		if join {
			kept[len(kept)-1].to = x.to
		} else {
			kept = append(kept, x)
		}
	}
	for _, x := range kept {
		out = append(out, piece{p.text[x.from:x.to], -1, p.first && x.from == 0})
	}
	return out
}

// runs finds the longest runs of characters that is holds for.
func runs(is func(rune) bool) func(string) ([][2]int, error) {
	return func(s string) (at [][2]int, _ error) {
		for i, r := range s {
			switch n := len(at); {
			case !is(r):
			case n > 0 && at[n-1][1] == i:
				at[n-1][1] = i + utf8.RuneLen(r)
			default:
				at = append(at, [2]int{i, i + utf8.RuneLen(r)})
			}
		}
		return at, nil
	}
}

// each finds every character that is holds for.
func each(is func(rune) bool) func(string) ([][2]int, error) {
	return func(s string) (at [][2]int, _ error) {
		for i, r := range s {
			if is(r) {
				at = append(at, [2]int{i, i + utf8.RuneLen(r)})
			}
		}
		return at, nil
	}
}

// isPunctuation counts ASCII's symbols as punctuation, as BERT does.
func isPunctuation(r rune) bool {
	return unicode.IsPunct(r) || r > ' ' && r < 0x7F && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// gpt2Words is the expression by which GPT-2 splits text.
const gpt2Words = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

func newByteLevel(c *component) (splitter, error) {
	split := steps()
	if or(c.UseRegex, true) {
		p, err := compile(gpt2Words)
		if err != nil {
			return nil, err
		}
		split = cutting(p.find, isolated)
	}
	return func(pieces []piece) ([]piece, error) {
		if or(c.AddPrefixSpace, true) {
			for i, p := range pieces {
				if !strings.HasPrefix(p.text, " ") {
					pieces[i].text = " " + p.text
				}
			}
		}
		out, err := split(pieces)
		for i := range out {
			out[i].text = bytesToRunes(out[i].text)
		}
		return out, err
	}, nil
}

// byteRunes is the alphabet in which GPT-2 writes bytes: those that print as
// themselves, the others from U+0100 on.
var byteRunes, runeBytes = func() (to [256]rune, from map[rune]byte) {
	from = map[rune]byte{}
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(r >= '!' && r <= '~' || r >= 0xA1 && r <= 0xAC || r >= 0xAE) {
			r = next
			next++
		}
		to[b], from[r] = r, byte(b)
	}
	return to, from
}()

func bytesToRunes(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(byteRunes[s[i]])
	}
	return b.String()
}

func newMetaspace(c *component) (splitter, error) {
	space, scheme := c.Replacement, c.PrependScheme
	if space == "" {
		space = "▁"
	}
	if scheme == "" { // as files said it until 2024
		scheme = "never"
		if or(c.AddPrefixSpace, true) {
			scheme = "always"
		}
	}
	words := (&pattern{text: space}).find
	return func(pieces []piece) ([]piece, error) {
		var out []piece
		for _, p := range pieces {
			p.text = strings.ReplaceAll(p.text, " ", space)
			if !strings.HasPrefix(p.text, space) && (scheme == "always" || scheme == "first" && p.first) {
				p.text = space + p.text
			}
			if !or(c.Split, true) {
				out = append(out, p)
				continue
			}
			at, err := words(p.text)
			if err != nil {
				return nil, err
			}
			out = p.cut(out, at, withNext, false)
		}
		return out, nil
	}, nil
}
