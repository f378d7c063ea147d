package graph

import "testing"

func TestExprAlgebra(t *testing.T) {
	a, b := symbol("a"), symbol("b")
	n := constant
	for _, c := range []struct {
		got  *expr
		want string
	}{
		{a.add(b), "a + b"},
		{b.add(a), "a + b"},
		{a.add(n(1)).add(a), "2*a + 1"},
		{a.sub(a), "0"},
		{a.sub(b).sub(n(3)), "a - b - 3"},
		{n(2).sub(a), "-a + 2"},
		{a.mul(b).mul(n(3)), "3*a*b"},
		{a.add(n(1)).mul(a.sub(n(1))), "a*a - 1"},
		{a.mul(b).mul(n(6)).div(b.mul(n(2))), "3*a"},
		{a.add(b).mul(a).div(a.add(b)), "a"},
		{a.div(n(2)), "?"},
		{n(0).div(a), "0"},
		{a.div(n(0)), "?"},
		{n(7).floorDiv(n(2)), "3"},
		{n(-7).floorDiv(n(2)), "-4"},
		{a.mul(n(4)).floorDiv(n(2)), "2*a"},
		{a.add(n(1)).floorDiv(n(2)), "(a + 1)//2"},
		{a.sub(n(1)).floorDiv(n(2)), "?"}, // may be negative
		{a.minimum(a.add(n(1))), "a"},
		{a.minimum(b), "min(a, b)"},
		{a.maximum(n(-1)), "a"},
		{n(1 << 62).add(n(1 << 62)), "?"},
		{n(1 << 40).mul(n(1 << 40)), "?"},
		{(*expr)(nil).add(a), "?"},
		{a.mul(nil), "?"},
	} {
		if got := c.got.String(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	for _, c := range []struct {
		a, b              *expr
		same, known       bool
		isLess, lessKnown bool
	}{
		{a, a, true, true, false, true},
		{a, n(-1), false, true, false, true}, // a dimension is not negative
		{n(-1), a, false, true, true, true},
		{a, n(0), false, false, false, true},
		{a, b, false, false, false, false},
		{a, a.add(n(1)), false, true, true, true},
	} {
		if same, known := c.a.equals(c.b); same != c.same || known != c.known {
			t.Errorf("%v = %v: %v %v", c.a, c.b, same, known)
		}
		if yes, known := c.a.less(c.b); yes != c.isLess || known != c.lessKnown {
			t.Errorf("%v < %v: %v %v", c.a, c.b, yes, known)
		}
	}
}

// Names that are sums or products are taken apart; others, however they
// look, are one symbol. What inference prints it reads back as the same.
func TestParseExpr(t *testing.T) {
	for name, terms := range map[string]int{
		"batch": 1, "past + seq": 2, "past_sequence_length + 1": 2, "2*batch*seq": 1, "a - b + 3": 3,
		"batch-size": 1, "a+b": 1, "a + ": 1, " + a": 1, "max(a, b) + 1": 1, "(a + 1)//2": 1, "-a + b": 1, "unk__12": 1, "a * b": 1, "": 0,
	} {
		e := parseExpr(name)
		if len(e.terms) != terms {
			t.Errorf("%q has %d terms (%v), want %d", name, len(e.terms), e, terms)
		}
		if name != "" && e.String() != name && terms > 1 {
			t.Errorf("%q prints as %q", name, e)
		}
	}
}
