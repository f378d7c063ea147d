package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// template is what stands around the tokens of a text.
type template struct {
	before, behind       []int
	beforeType, backType []int // their segments
	kind                 int   // segment of the text itself
}

func (t *template) size() int { return len(t.before) + len(t.behind) }

func (t *template) around(ids []int) Encoding {
	e := Encoding{IDs: append(append(append([]int{}, t.before...), ids...), t.behind...), Types: append([]int{}, t.beforeType...)}
	for range ids {
		e.Types = append(e.Types, t.kind)
	}
	e.Types = append(e.Types, t.backType...)
	return e
}

// frameToken is a token with its id, written ["[SEP]", 102].
type frameToken struct{ id int }

func (f *frameToken) UnmarshalJSON(b []byte) error {
	var pair []any
	if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
		return fmt.Errorf("%s is not a token and its id", b)
	}
	id, ok := pair[1].(float64)
	if !ok || id < 0 || id != float64(int32(id)) {
		return fmt.Errorf("%s is not a token and its id", b)
	}
	f.id = int(id)
	return nil
}

// templatePiece is a token of a template or the place of the text.
type templatePiece struct {
	Special *struct {
		ID   string `json:"id"`
		Type int    `json:"type_id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID   string `json:"id"`
		Type int    `json:"type_id"`
	} `json:"Sequence"`
}

func newTemplate(c *component) (template, error) {
	var t template
	if c == nil {
		return t, nil
	}
	switch c.Type {
	case "ByteLevel": // moves offsets only
	case "BertProcessing", "RobertaProcessing":
		if c.Cls == nil || c.Sep == nil {
			return t, fmt.Errorf("post-processor %s: no cls or no sep", c.Type)
		}
		t.before, t.behind, t.beforeType, t.backType = []int{c.Cls.id}, []int{c.Sep.id}, []int{0}, []int{0}
	case "TemplateProcessing":
		texts := 0
		for _, p := range c.Single {
			switch {
			case p.Sequence != nil:
				t.kind = p.Sequence.Type
				texts++
			case p.Special != nil:
				s, ok := c.Special[p.Special.ID]
				if !ok {
					return t, fmt.Errorf("post-processor TemplateProcessing: %q is none of its special tokens", p.Special.ID)
				}
				for _, id := range s.IDs {
					if texts == 0 {
						t.before, t.beforeType = append(t.before, id), append(t.beforeType, p.Special.Type)
					} else {
						t.behind, t.backType = append(t.behind, id), append(t.backType, p.Special.Type)
					}
				}
			}
		}
		if texts != 1 {
			return t, errors.New("post-processor TemplateProcessing: want one place for the text")
		}
	case "Sequence":
		for i := range c.Processors {
			inner, err := newTemplate(&c.Processors[i])
			if err != nil {
				return t, err
			}
			t.before, t.beforeType = append(inner.before, t.before...), append(inner.beforeType, t.beforeType...)
			t.behind, t.backType = append(t.behind, inner.behind...), append(t.backType, inner.backType...)
			t.kind = max(t.kind, inner.kind)
		}
	default:
		return t, unknown("post-processor", c.Type)
	}
	return t, nil
}

// decoder changes a list of tokens on their way to text.
type decoder func(words []string) []string

func newDecoders(c *component) ([]decoder, error) {
	if c == nil {
		return nil, nil
	}
	one := func(d decoder) ([]decoder, error) { return []decoder{d}, nil }
	switch c.Type {
	case "Sequence":
		list := []decoder{}
		for i := range c.Decoders {
			d, err := newDecoders(&c.Decoders[i])
			if err != nil {
				return nil, err
			}
			list = append(list, d...)
		}
		return list, nil
	case "ByteLevel":
		return one(func(words []string) []string {
			var b []byte
			for _, w := range words {
				b = append(b, runesToBytes(w)...)
			}
			return []string{lossy(b)}
		})
	case "WordPiece":
		return one(wordPieceDecoder(c))
	case "Metaspace":
		return one(metaspaceDecoder(c))
	case "BPEDecoder":
		suffix := c.Suffix
		if suffix == "" {
			suffix = "</w>"
		}
		return one(func(words []string) []string {
			for i, w := range words {
				space := " "
				if i == len(words)-1 {
					space = ""
				}
				words[i] = strings.ReplaceAll(w, suffix, space)
			}
			return words
		})
	case "ByteFallback":
		return one(byteFallback)
	case "Fuse":
		return one(func(words []string) []string { return []string{strings.Join(words, "")} })
	case "Replace":
		p, err := newPattern(c.Pattern)
		if err != nil {
			return nil, fmt.Errorf("decoder Replace: %w", err)
		}
		return one(func(words []string) []string {
			for i, w := range words {
				if s, err := p.replace(w, c.Content); err == nil {
					words[i] = s
				}
			}
			return words
		})
	case "Strip":
		return one(func(words []string) []string {
			for i, w := range words {
				for n := 0; n < c.Start && c.Content != "" && strings.HasPrefix(w, c.Content); n++ {
					w = w[len(c.Content):]
				}
				for n := 0; n < c.Stop && c.Content != "" && strings.HasSuffix(w, c.Content); n++ {
					w = w[:len(w)-len(c.Content)]
				}
				words[i] = w
			}
			return words
		})
	}
	return nil, unknown("decoder", c.Type)
}

func wordPieceDecoder(c *component) decoder {
	prefix := c.Prefix
	if prefix == "" {
		prefix = "##"
	}
	// What BERT's tokenizer tidies up, in its order.
	tidy := [...][2]string{{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}}
	return func(words []string) []string {
		for i, w := range words {
			if i > 0 {
				if rest, ok := strings.CutPrefix(w, prefix); ok {
					w = rest
				} else {
					w = " " + w
				}
			}
			if or(c.Cleanup, true) {
				for _, t := range tidy {
					w = strings.ReplaceAll(w, t[0], t[1])
				}
			}
			words[i] = w
		}
		return words
	}
}

func metaspaceDecoder(c *component) decoder {
	space := c.Replacement
	if space == "" {
		space = "▁"
	}
	prepended := c.PrependScheme != "never"
	if c.PrependScheme == "" {
		prepended = or(c.AddPrefixSpace, true)
	}
	return func(words []string) []string {
		for i, w := range words {
			by := " "
			if i == 0 && prepended {
				by = ""
			}
			words[i] = strings.ReplaceAll(w, space, by)
		}
		return words
	}
}

// byteFallback joins tokens <0x00> … <0xFF> in a row to the characters that
// they are.
func byteFallback(words []string) []string {
	var out []string
	var held []byte
	flush := func() {
		switch {
		case len(held) == 0:
			return
		case utf8.Valid(held):
			out = append(out, string(held))
		default:
			for range held {
				out = append(out, "\uFFFD")
			}
		}
		held = held[:0]
	}
	for _, w := range words {
		if len(w) == 6 && strings.HasPrefix(w, "<0x") && w[5] == '>' {
			if b, err := strconv.ParseUint(w[3:5], 16, 8); err == nil {
				held = append(held, byte(b))
				continue
			}
		}
		flush()
		out = append(out, w)
	}
	flush()
	return out
}

// runesToBytes reads bytes as GPT-2 writes them; a token that is not written so
// stands for itself.
func runesToBytes(s string) []byte {
	var out []byte
	for _, r := range s {
		b, ok := runeBytes[r]
		if !ok {
			return []byte(s)
		}
		out = append(out, b)
	}
	return out
}

// lossy is b as text: a byte that is no part of a character, or the beginning of
// one that is cut off, is U+FFFD.
func lossy(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		for r == utf8.RuneError && n < len(b) && !utf8.FullRune(b[:n+1]) {
			n++
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}
