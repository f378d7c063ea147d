package conformance

import (
	"fmt"
	"io"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// without has the operators that the runtime does not have on purpose.
var without = []struct {
	reason string
	ops    string
}{
	{"decodes files", "ImageDecoder"},
}

// WriteMarkdown writes what docs/operators.md holds: the results, and every
// operator with the opsets that the runtime has it for.
func (r *Report) WriteMarkdown(w io.Writer) error {
	p := &printer{w: w}
	p.line("# Operators")
	p.line("")
	p.line("What `lathe` runs, and how it does in the official operator tests of ONNX")
	p.line("(Debian's package libonnx-testdata, or `onnx/backend/test/data` of ONNX). Written by")
	p.line("")
	p.line("```")
	p.line("lathe conformance DIR -o docs/operators.md")
	p.line("```")
	p.line("")
	p.line("where DIR holds those tests; any folder in their layout will do. Each case runs on one")
	p.line("thread and on two, with unused memory full of NaN; whole numbers must be equal, floats")
	p.line("within 1e-5 relative and 1e-6 absolute (float16 and bfloat16: 1e-3), and the types that shape")
	p.line("inference finds must be those of the outputs.")
	p.line("")
	p.line("## Results")
	p.line("")
	p.row("suite", "cases", "passed", "failed", "skipped", "of them out of scope", "passed of those in scope")
	p.row("---", "--:", "--:", "--:", "--:", "--:", "--:")
	for _, s := range append(r.Suites(), r.Total()) {
		out := 0
		for _, x := range r.Of(Skipped) {
			if (s.Name == "all" || x.Suite == s.Name) && Exceptions[x.Exception].OutOfScope {
				out++
			}
		}
		p.row(s.Name, s.Total, s.Passed, s.Failed, s.Skipped, fmt.Sprintf("%d (%.1f %%)", out, percent(out, s.Total)), fmt.Sprintf("%.1f %%", percent(s.Passed, s.Total-out)))
	}
	p.line("")
	p.line("## What does not pass")
	p.line("")
	p.row("cases", "out of scope", "why")
	p.row("--:", "---", "---")
	for i, e := range Exceptions {
		n := 0
		for _, x := range r.Of(Skipped) {
			if x.Exception == i {
				n++
			}
		}
		if n > 0 {
			p.row(n, yes(e.OutOfScope), e.Reason)
		}
	}
	for _, x := range r.Of(Failed) {
		p.row(1, "no", fmt.Sprintf("`%s`: %s", x.Name, strings.ReplaceAll(firstLine(x.Reason), "|", "\\|")))
	}
	p.line("")
	counts := map[string]Count{}
	for _, n := range r.Operators() {
		counts[n.Name] = n
	}
	_, newest := graph.Operators("")
	p.line("## ai.onnx")
	p.line("")
	p.line("Opsets up to %d. A case counts for every operator in its model; \"6+\" means from opset 6 on.", newest)
	p.line("float16 and bfloat16 are computed in float32.")
	p.line("")
	p.row("operator", "opsets", "cases", "passed", "skipped")
	p.row("---", "---", "--:", "--:", "--:")
	var missing []string
	names, _ := graph.Operators("")
	for _, name := range names {
		if versions := supported("", name); versions != "" {
			n := counts[name]
			p.row(name, versions, n.Total, n.Passed, n.Skipped)
		} else {
			missing = append(missing, name)
		}
	}
	p.line("")
	p.line("Not there:")
	p.line("")
	p.row("operator", "why")
	p.row("---", "---")
	for _, name := range missing {
		p.row(name, reason(name))
	}
	for _, domain := range []string{"com.microsoft", graph.LatheDomain} {
		p.line("")
		p.line("## %s", domain)
		p.line("")
		switch domain {
		case "com.microsoft":
			p.line("What ONNX Runtime's optimizer and its exporters write. They have no official tests: `bench/ortcheck`")
			p.line("compares them with ONNX Runtime, over random shapes, attributes and optional inputs.")
		default:
			p.line("Models carry these as functions of standard operators; see ARCHITECTURE.md.")
		}
		p.line("")
		var list []string
		names, _ := graph.Operators(domain)
		for _, name := range names {
			if runtime.Supports(domain, name, 1) {
				list = append(list, name)
			}
		}
		p.line("%s.", strings.Join(list, ", "))
	}
	return p.err
}

// supported lists the opsets that the runtime has an operator for, as in "6+"
// or "7–9"; it is empty where there are none.
func supported(domain, name string) string {
	_, newest := graph.Operators(domain)
	var out []string
	from := int64(0)
	for v := int64(1); v <= newest+1; v++ {
		s, known := graph.LookupSchema(domain, name, v)
		ok := v <= newest && known && !s.Deprecated && runtime.Supports(domain, name, v)
		switch {
		case ok && from == 0:
			from = v
		case !ok && from > 0:
			switch {
			case v > newest:
				out = append(out, fmt.Sprintf("%d+", from))
			case from == v-1:
				out = append(out, fmt.Sprint(from))
			default:
				out = append(out, fmt.Sprintf("%d–%d", from, v-1))
			}
			from = 0
		}
	}
	return strings.Join(out, ", ")
}

func reason(name string) string {
	for _, w := range without {
		for _, op := range strings.Fields(w.ops) {
			if op == name {
				return w.reason
			}
		}
	}
	return "not yet"
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) row(cells ...any) {
	s := make([]string, len(cells))
	for i, c := range cells {
		s[i] = fmt.Sprint(c)
	}
	p.line("| %s |", strings.Join(s, " | "))
}
