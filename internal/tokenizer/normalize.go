package tokenizer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/dlclark/regexp2/v2"
	"github.com/rivo/uniseg"
	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text before it is split.
type normalizer func(s string) (string, error)

// of makes a normalizer of a function that cannot fail.
func of(f func(string) string) normalizer {
	return func(s string) (string, error) { return f(s), nil }
}

func newNormalizer(c *component) (normalizer, error) {
	if c == nil {
		return of(func(s string) string { return s }), nil
	}
	switch c.Type {
	case "Sequence":
		var list []normalizer
		for i := range c.Normalizers {
			n, err := newNormalizer(&c.Normalizers[i])
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
		return func(s string) (_ string, err error) {
			for _, n := range list {
				if s, err = n(s); err != nil {
					break
				}
			}
			return s, err
		}, nil
	case "BertNormalizer":
		return of(bertNormalizer(c)), nil
	case "NFC":
		return of(norm.NFC.String), nil
	case "NFD":
		return of(norm.NFD.String), nil
	case "NFKC":
		return of(norm.NFKC.String), nil
	case "NFKD":
		return of(norm.NFKD.String), nil
	case "Lowercase":
		return of(lowercase), nil
	case "StripAccents":
		return of(func(s string) string { return without(unicode.M, s) }), nil
	case "Strip":
		return of(func(s string) string {
			if or(c.StripLeft, true) {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if or(c.StripRight, true) {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}), nil
	case "Prepend":
		return of(func(s string) string {
			if s == "" {
				return s
			}
			return c.Prepend + s
		}), nil
	case "Replace":
		p, err := newPattern(c.Pattern)
		if err != nil {
			return nil, fmt.Errorf("normalizer Replace: %w", err)
		}
		return func(s string) (string, error) { return p.replace(s, c.Content) }, nil
	case "Nmt":
		return of(nmt), nil
	case "ByteLevel":
		return of(bytesToRunes), nil
	case "Precompiled":
		return newPrecompiled(c.Charsmap)
	}
	return nil, unknown("normalizer", c.Type)
}

// bertNormalizer is the cleaning of BERT's own tokenizer.
func bertNormalizer(c *component) func(string) string {
	clean, chinese, lower := or(c.CleanText, true), or(c.ChineseChars, true), or(c.Lowercase, true)
	accents := or(c.StripAccents, lower)
	return func(s string) string {
		if clean {
			s = strings.Map(func(r rune) rune {
				switch {
				case r == '\t' || r == '\n' || r == '\r':
					return ' '
				case r == 0 || r == 0xFFFD || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
					return -1
				case unicode.IsSpace(r):
					return ' '
				}
				return r
			}, s)
		}
		if chinese {
			var b strings.Builder
			for _, r := range s {
				if isIdeograph(r) {
					b.WriteRune(' ')
					b.WriteRune(r)
					b.WriteRune(' ')
				} else {
					b.WriteRune(r)
				}
			}
			s = b.String()
		}
		if accents {
			s = without(unicode.Mn, norm.NFD.String(s))
		}
		if lower {
			s = lowercase(s)
		}
		return s
	}
}

// isIdeograph tells the blocks of CJK ideographs that BERT's tokenizer lists.
func isIdeograph(r rune) bool {
	for _, b := range [...][2]rune{{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
		{0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF}, {0x2F800, 0x2FA1F}} {
		if b[0] <= r && r <= b[1] {
			return true
		}
	}
	return false
}

func without(t *unicode.RangeTable, s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(t, r) {
			return -1
		}
		return r
	}, s)
}

// lowercase is Unicode's full mapping, which differs from the simple one that
// Go has for a single character.
func lowercase(s string) string { return strings.ToLower(strings.ReplaceAll(s, "İ", "i\u0307")) }

// nmt is the cleaning of SentencePiece's nmt rules.
func nmt(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 1 && r <= 8, r == 0xB, r >= 0xE && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
			return -1
		case r == '\t', r == '\n', r == '\f', r == '\r', r == 0x1680, r >= 0x200B && r <= 0x200F, r == 0x2028, r == 0x2029,
			r == 0x2581, r == 0xFEFF, r == 0xFFFD:
			return ' '
		}
		return r
	}, s)
}

// pattern is a string or a regular expression.
type pattern struct {
	text  string
	regex *regexp2.Regexp
}

// patience bounds a search by a regular expression: one that takes longer is
// made to.
const patience = 3 * time.Second

func newPattern(raw json.RawMessage) (*pattern, error) {
	var p struct{ String, Regex *string }
	var plain string
	if json.Unmarshal(raw, &plain) == nil {
		p.String = &plain
	} else if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	switch {
	case p.String != nil && *p.String != "":
		return &pattern{text: *p.String}, nil
	case p.Regex != nil && *p.Regex != "":
		return compile(*p.Regex)
	}
	return nil, errors.New("an empty pattern")
}

func compile(expr string) (_ *pattern, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("regular expression %q: %v", expr, r)
		}
	}()
	re, err := regexp2.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	re.MatchTimeout = patience
	return &pattern{regex: re}, nil
}

// find returns where in s the pattern is: pairs of byte offsets.
func (p *pattern) find(s string) (at [][2]int, err error) {
	if p.regex == nil {
		for from := 0; ; {
			i := strings.Index(s[from:], p.text)
			if i < 0 {
				return at, nil
			}
			at = append(at, [2]int{from + i, from + i + len(p.text)})
			from += i + len(p.text)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("regular expression %q: %v", p.regex, r)
		}
	}()
	found, err := p.regex.FindAllStringIndex(s, -1)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", p.regex, err)
	}
	for _, m := range found {
		if m[0] < m[1] {
			at = append(at, [2]int{m[0], m[1]})
		}
	}
	return at, nil
}

func (p *pattern) replace(s, by string) (string, error) {
	at, err := p.find(s)
	if err != nil || at == nil {
		return s, err
	}
	var b strings.Builder
	done := 0
	for _, m := range at {
		if size := b.Len() + m[0] - done + len(by); size > MaxText {
			return "", fmt.Errorf("a text that grows over %d MB", MaxText>>20)
		}
		b.WriteString(s[done:m[0]])
		b.WriteString(by)
		done = m[1]
	}
	b.WriteString(s[done:])
	return b.String(), nil
}

// precompiled is SentencePiece's table of normalizations: a double array, as
// darts-clone lays it out, from characters to offsets of their replacements,
// which end with a zero byte.
type precompiled struct {
	units        []uint32
	replacements []byte
}

func newPrecompiled(b []byte) (normalizer, error) {
	if len(b) == 0 { // rules that change nothing
		return of(func(s string) string { return s }), nil
	}
	if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) || binary.LittleEndian.Uint32(b)%4 != 0 {
		return nil, errors.New("normalizer Precompiled: the table is cut off")
	}
	size := binary.LittleEndian.Uint32(b)
	p := &precompiled{replacements: b[4+size:]}
	for t := b[4 : 4+size]; len(t) > 0; t = t[4:] {
		p.units = append(p.units, binary.LittleEndian.Uint32(t))
	}
	return func(s string) (string, error) {
		var out strings.Builder
		for g := uniseg.NewGraphemes(s); g.Next(); {
			cluster := g.Str()
			if r, ok := p.lookup(cluster); ok && len(cluster) < 6 {
				out.WriteString(r)
			} else {
				for _, c := range cluster {
					if r, ok := p.lookup(string(c)); ok {
						out.WriteString(r)
					} else {
						out.WriteRune(c)
					}
				}
			}
			if out.Len() > MaxText {
				return "", fmt.Errorf("a text that grows over %d MB", MaxText>>20)
			}
		}
		return out.String(), nil
	}, nil
}

// lookup finds the replacement of the shortest prefix of s that has one.
func (p *precompiled) lookup(s string) (string, bool) {
	// Bit 8 tells that a key ends at a unit, bits 10 to 30 where its children
	// are, with bit 9 in units of 256; the low byte is the unit's label.
	offset := func(u uint32) uint32 { return u >> 10 << ((u & (1 << 9)) >> 6) }
	at := func(i uint32) (uint32, bool) {
		if uint64(i) < uint64(len(p.units)) {
			return p.units[i], true
		}
		return 0, false
	}
	u, ok := at(0)
	pos := offset(u)
	for i := 0; ok && i < len(s) && s[i] != 0; i++ {
		pos ^= uint32(s[i])
		if u, ok = at(pos); !ok || u&(1<<31|0xFF) != uint32(s[i]) {
			return "", false
		}
		pos ^= offset(u)
		if u>>8&1 == 0 {
			continue
		}
		leaf, ok := at(pos)
		value := leaf &^ (1 << 31)
		if !ok || uint64(value) >= uint64(len(p.replacements)) {
			return "", false
		}
		text, _, _ := strings.Cut(string(p.replacements[value:min(len(p.replacements), int(value)+256)]), "\x00")
		return text, true
	}
	return "", false
}
