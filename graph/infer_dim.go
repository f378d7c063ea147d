package graph

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// expr is an integer that is known up to symbols, such as 2*batch*seq + 1: a
// polynomial in canonical form. Symbols stand for dimensions and are not
// negative. The zero expr is 0; a nil *expr is an integer of which nothing is
// known, and every operation passes that on, as it does where a result would
// overflow or grow out of hand.
type expr struct{ terms []term }

// term is coef times the symbols, which are sorted and joined by \x00; the
// terms of an expr are sorted by symbols, the constant (no symbols) last.
type term struct {
	coef int64
	syms string
}

// Limits on expressions; a shape that exceeds them is of no use to anybody.
const (
	maxTerms   = 8
	maxSymbols = 8   // in a term
	maxSymLen  = 200 // bytes of a dimension's name
)

func constant(n int64) *expr {
	if n == 0 {
		return &expr{}
	}
	return &expr{[]term{{n, ""}}}
}

func symbol(name string) *expr { return &expr{[]term{{1, name}}} }

// value returns the number that e is, if it is one.
func (e *expr) value() (int64, bool) {
	switch {
	case e == nil || len(e.terms) > 1:
		return 0, false
	case len(e.terms) == 0:
		return 0, true
	}
	return e.terms[0].coef, e.terms[0].syms == ""
}

// is reports whether e is the number n.
func (e *expr) is(n int64) bool {
	v, ok := e.value()
	return ok && v == n
}

// equal reports whether both are known to be the same.
func (e *expr) equal(f *expr) bool { return e != nil && f != nil && slices.Equal(e.terms, f.terms) }

// newExpr sorts and merges terms.
func newExpr(terms []term) *expr {
	slices.SortFunc(terms, func(a, b term) int {
		if (a.syms == "") != (b.syms == "") {
			if a.syms == "" {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.syms, b.syms)
	})
	out := terms[:0]
	for _, t := range terms {
		if n := len(out); n > 0 && out[n-1].syms == t.syms {
			sum, ok := addInt(out[n-1].coef, t.coef)
			if !ok {
				return nil
			}
			out[n-1].coef = sum
		} else {
			out = append(out, t)
		}
	}
	out = slices.DeleteFunc(out, func(t term) bool { return t.coef == 0 })
	if len(out) > maxTerms {
		return nil
	}
	return &expr{out}
}

func addInt(a, b int64) (int64, bool) {
	s := a + b
	return s, (s > a) == (b > 0)
}

func mulInt(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(max(a, -a)), uint64(max(b, -b)))
	if hi != 0 || lo > 1<<62 || a == -a && a != 0 || b == -b && b != 0 {
		return 0, false
	}
	return a * b, true
}

func (e *expr) add(f *expr) *expr {
	if e == nil || f == nil {
		return nil
	}
	return newExpr(slices.Concat(e.terms, f.terms))
}

func (e *expr) sub(f *expr) *expr { return e.add(f.mul(constant(-1))) }

func (e *expr) mul(f *expr) *expr {
	if e == nil || f == nil {
		return nil
	}
	var out []term
	for _, a := range e.terms {
		for _, b := range f.terms {
			coef, ok := mulInt(a.coef, b.coef)
			syms, fits := mulSyms(a.syms, b.syms)
			if !ok || !fits {
				return nil
			}
			out = append(out, term{coef, syms})
		}
	}
	return newExpr(out)
}

func mulSyms(a, b string) (string, bool) {
	switch {
	case a == "":
		return b, true
	case b == "":
		return a, true
	}
	all := append(strings.Split(a, "\x00"), strings.Split(b, "\x00")...)
	slices.Sort(all)
	s := strings.Join(all, "\x00")
	return s, len(all) <= maxSymbols && len(s) <= maxSymLen
}

// divTerm divides one term by another, if nothing remains.
func divTerm(a, b term) (term, bool) {
	if b.coef == 0 || a.coef%b.coef != 0 {
		return term{}, false
	}
	if b.syms == "" {
		return term{a.coef / b.coef, a.syms}, true
	}
	have := strings.Split(a.syms, "\x00")
	for s := range strings.SplitSeq(b.syms, "\x00") {
		i := slices.Index(have, s)
		if i < 0 {
			return term{}, false
		}
		have = slices.Delete(have, i, i+1)
	}
	return term{a.coef / b.coef, strings.Join(have, "\x00")}, true
}

// div returns e/f where it is an expression without remainder, else nil;
// symbols that cancel are taken not to be 0.
func (e *expr) div(f *expr) *expr {
	if e == nil || f == nil || len(f.terms) == 0 {
		return nil
	}
	if len(e.terms) == 0 {
		return e
	}
	if len(f.terms) == 1 {
		out := make([]term, len(e.terms))
		for i, t := range e.terms {
			var ok bool
			if out[i], ok = divTerm(t, f.terms[0]); !ok {
				return nil
			}
		}
		return newExpr(out)
	}
	q, ok := divTerm(e.terms[0], f.terms[0])
	if !ok {
		return nil
	}
	if quotient := newExpr([]term{q}); f.mul(quotient).equal(e) {
		return quotient
	}
	return nil
}

// floorDiv returns ⌊e/f⌋; where that is no polynomial, a symbol named
// "(e)//f".
func (e *expr) floorDiv(f *expr) *expr {
	a, aKnown := e.value()
	b, bKnown := f.value()
	switch {
	case e == nil || f == nil || bKnown && b == 0:
		return nil
	case aKnown && bKnown:
		q := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return constant(q)
	}
	if q := e.div(f); q != nil {
		return q
	}
	if e.sign() < 0 || f.sign() < 0 {
		return nil // a symbol is not negative
	}
	return named("(" + e.String() + ")//" + f.factor())
}

// minimum returns the smaller of both; where it is not known which that is, a
// symbol named "min(e, f)".
func (e *expr) minimum(f *expr) *expr {
	if e == nil || f == nil {
		return nil
	}
	switch d := e.sub(f); {
	case d.upTo0():
		return e
	case d.mul(constant(-1)).upTo0():
		return f
	case e.sign() < 0 || f.sign() < 0:
		return nil
	}
	return named("min(" + e.String() + ", " + f.String() + ")")
}

// maximum is minimum for the larger.
func (e *expr) maximum(f *expr) *expr {
	if e == nil || f == nil {
		return nil
	}
	switch d := e.sub(f); {
	case d.upTo0():
		return f
	case d.mul(constant(-1)).upTo0():
		return e
	case e.sign() < 0 || f.sign() < 0:
		return nil
	}
	return named("max(" + e.String() + ", " + f.String() + ")")
}

// named returns a symbol for something that is no polynomial.
func named(s string) *expr {
	if len(s) > maxSymLen {
		return nil
	}
	return symbol(s)
}

// sign is 1 where e is positive for all values of its symbols, 0 where it is
// not negative, and -1 where it may be negative or is not known.
func (e *expr) sign() int {
	if e == nil {
		return -1
	}
	s := 0
	for _, t := range e.terms {
		if t.coef < 0 {
			return -1
		}
		if t.syms == "" {
			s = 1
		}
	}
	return s
}

// upTo0 reports whether e is at most 0 for all values of its symbols.
func (e *expr) upTo0() bool { return e.mul(constant(-1)).sign() >= 0 }

// equals reports whether e and f are the same number: known is false where
// that depends on symbols.
func (e *expr) equals(f *expr) (same, known bool) {
	d := e.sub(f)
	if d == nil {
		return false, false
	}
	if len(d.terms) == 0 {
		return true, true
	}
	_, number := d.value()
	return false, number || d.sign() > 0 || d.mul(constant(-1)).sign() > 0
}

// less reports whether e < f.
func (e *expr) less(f *expr) (yes, known bool) {
	switch d := f.sub(e); {
	case d == nil:
		return false, false
	case d.sign() > 0:
		return true, true
	default:
		return false, d.upTo0()
	}
}

func (e *expr) greater(f *expr) (yes, known bool) { return f.less(e) }

func (e *expr) lessOrEqual(f *expr) (yes, known bool) {
	more, known := f.less(e)
	return !more, known
}

func (e *expr) greaterOrEqual(f *expr) (yes, known bool) {
	less, known := e.less(f)
	return !less, known
}

// and takes e and f as truth values, 1 and 0.
func (e *expr) and(f *expr) (yes, known bool) {
	if e.is(0) || f.is(0) {
		return false, true
	}
	return true, e.is(1) && f.is(1)
}

// or takes e and f as truth values, 1 and 0.
func (e *expr) or(f *expr) (yes, known bool) {
	if e.is(1) || f.is(1) {
		return true, true
	}
	return false, e.is(0) && f.is(0)
}

// String writes "2*a*b - c + 1".
func (e *expr) String() string {
	if e == nil {
		return "?"
	}
	if len(e.terms) == 0 {
		return "0"
	}
	var b strings.Builder
	for i, t := range e.terms {
		coef := t.coef
		switch {
		case i > 0 && coef < 0:
			b.WriteString(" - ")
			coef = -coef
		case i > 0:
			b.WriteString(" + ")
		case coef == -1 && t.syms != "":
			b.WriteByte('-')
			coef = 1
		}
		switch {
		case t.syms == "":
			b.WriteString(strconv.FormatInt(coef, 10))
			continue
		case coef != 1:
			b.WriteString(strconv.FormatInt(coef, 10))
			b.WriteByte('*')
		}
		b.WriteString(strings.ReplaceAll(t.syms, "\x00", "*"))
	}
	return b.String()
}

// factor is String in brackets where a factor needs them.
func (e *expr) factor() string {
	if len(e.terms) > 1 {
		return "(" + e.String() + ")"
	}
	return e.String()
}

// symbols remembers what the names mean that inference made up.
type symbols map[string]*expr

// expr returns the integer that a dimension is. A name like "past + seq" or
// "2*batch", which exporters write, is taken as the sum or product it says.
func (s symbols) expr(d Dim) *expr {
	switch {
	case d.IsKnown():
		return constant(d.N)
	case d.Sym == "" || len(d.Sym) > maxSymLen || strings.Contains(d.Sym, "\x00"):
		return nil
	}
	if e, ok := s[d.Sym]; ok {
		return e
	}
	e := parseExpr(d.Sym)
	s[d.Sym] = e
	return e
}

// dim returns the dimension that an integer is, the unknown one for an
// integer that is not known or negative.
func (s symbols) dim(e *expr) Dim {
	if e == nil {
		return UnknownDim
	}
	if n, ok := e.value(); ok {
		if n < 0 {
			return UnknownDim
		}
		return Known(n)
	}
	name := e.String()
	if len(name) > maxSymLen {
		return UnknownDim
	}
	s[name] = e
	return Symbol(name)
}

// parseExpr reads terms separated by " + " and " - ", factors by "*"; a name
// that is not so made is one symbol.
func parseExpr(name string) *expr {
	var terms []term
	rest, sign := name, int64(1)
	for rest != "" {
		part := rest
		next := sign
		if i := strings.IndexAny(rest, "+-"); i > 0 && strings.HasPrefix(rest[i+1:], " ") && rest[i-1] == ' ' {
			part, next = rest[:i-1], 1
			if rest[i] == '-' {
				next = -1
			}
			rest = rest[i+2:]
			if rest == "" {
				return symbol(name)
			}
		} else {
			rest = ""
		}
		e := constant(sign)
		for f := range strings.SplitSeq(part, "*") {
			if n, err := strconv.ParseInt(f, 10, 64); err == nil {
				e = e.mul(constant(n))
			} else if f == "" || f[0] == '-' || strings.ContainsAny(f, " (),") {
				return symbol(name)
			} else {
				e = e.mul(symbol(f))
			}
		}
		if e == nil {
			return symbol(name)
		}
		terms = append(terms, e.terms...)
		sign = next
	}
	if e := newExpr(terms); e != nil {
		return e
	}
	return symbol(name)
}
