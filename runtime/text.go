package runtime

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// textOps compute with strings.
var textOps = []operator{
	{"", "StringNormalizer", 10, prepareStringNormalizer, nil, 0},
	{"", "StringConcat", 20, prepareStringConcat, nil, 0},
	{"", "StringSplit", 20, prepareStringSplit, nil, 0},
	{"", "RegexFullMatch", 20, prepareRegexFullMatch, nil, 0},
	{"", "TfIdfVectorizer", 9, prepareTfIdf, nil, 0},
}

// texts fails unless the inputs named hold strings.
func (c *call) texts(inputs ...int) error {
	for _, i := range inputs {
		if t := c.in[i]; t.DType != graph.String {
			return fmt.Errorf("input %d: %w", i, wrongType(t.DType))
		}
	}
	return nil
}

// prepareStringNormalizer: X [C] or [1, C] without the stop words, in upper or
// lower case; one empty string where nothing is left.
func prepareStringNormalizer(n *node) (kernel, error) {
	change := n.oneOf("case_change_action", "NONE", "NONE", "LOWER", "UPPER")
	sensitive := n.bool("is_case_sensitive", false)
	stops := map[string]bool{}
	for _, s := range n.strings("stopwords") {
		if !sensitive {
			s = strings.ToLower(s)
		}
		stops[s] = true
	}
	return func(c *call) error {
		if err := c.texts(0); err != nil {
			return err
		}
		x := c.in[0]
		if r := len(x.Shape); r != 1 && (r != 2 || x.Shape[0] != 1) {
			return fmt.Errorf("input is %v, want [C] or [1, C]", x.Shape)
		}
		var out []string
		for _, s := range x.strs {
			key := s
			if !sensitive {
				key = strings.ToLower(s)
			}
			if stops[key] {
				continue
			}
			switch change {
			case "LOWER":
				s = strings.ToLower(s)
			case "UPPER":
				s = strings.ToUpper(s)
			}
			out = append(out, s)
		}
		if len(out) == 0 {
			out = []string{""}
		}
		shape := []int{len(out)}
		if len(x.Shape) == 2 {
			shape = []int{1, len(out)}
		}
		z, err := c.alloc(0, graph.String, shape...)
		if err != nil {
			return err
		}
		copy(z.strs, out)
		return nil
	}, n.inputs(1, 1)
}

// prepareStringConcat: each string of X with one of Y behind it, broadcast.
func prepareStringConcat(n *node) (kernel, error) {
	return func(c *call) error {
		if err := c.texts(0, 1); err != nil {
			return err
		}
		x, y := c.in[0], c.in[1]
		rank := max(len(x.Shape), len(y.Shape))
		shape, sx, sy := make([]int, rank), make([]int, rank), make([]int, rank) // the result's, and strides
		for _, t := range []struct {
			of      *Tensor
			strides []int
		}{{x, sx}, {y, sy}} {
			step := 1
			for i := len(t.of.Shape) - 1; i >= 0; i-- {
				at, d := rank-len(t.of.Shape)+i, t.of.Shape[i]
				switch {
				case d == 1 && shape[at] > 0:
				case shape[at] == 0 || shape[at] == 1 || shape[at] == d:
					shape[at] = d
				default:
					return fmt.Errorf("%v and %v do not broadcast", x.Shape, y.Shape)
				}
				if d != 1 {
					t.strides[at] = step
				}
				step *= d
			}
		}
		if x.Len() == 0 || y.Len() == 0 {
			for i := range shape { // a dim of 0 stays one
				for _, s := range [][]int{x.Shape, y.Shape} {
					if at := i - rank + len(s); at >= 0 && s[at] == 0 {
						shape[i] = 0
					}
				}
			}
		}
		z, err := c.alloc(0, graph.String, shape...)
		if err != nil {
			return err
		}
		total := 0
		for k := range z.strs {
			i, j, rest := 0, 0, k
			for d := rank - 1; d >= 0; d-- {
				i, j = i+rest%shape[d]*sx[d], j+rest%shape[d]*sy[d]
				rest /= shape[d]
			}
			z.strs[k] = x.strs[i] + y.strs[j]
			if total += len(z.strs[k]); total > c.s.pool.limit {
				return fmt.Errorf("the strings pass the %w of %d bytes", ErrMemory, c.s.pool.limit)
			}
		}
		return nil
	}, n.inputs(2, 2)
}

// prepareStringSplit: X [...] → the parts of each string between delimiters
// [..., parts], empty strings behind the last, and how many there are. Without a
// delimiter runs of white space part.
func prepareStringSplit(n *node) (kernel, error) {
	delimiter, most := n.str("delimiter", ""), n.int("maxsplit", -1)
	split := func(s string) []string {
		switch {
		case delimiter != "" && s == "":
			return nil
		case delimiter != "" && most >= 0 && most < math.MaxInt32:
			return strings.SplitN(s, delimiter, most+1)
		case delimiter != "":
			return strings.Split(s, delimiter)
		case most < 0:
			return strings.Fields(s)
		}
		var out []string
		for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
			at := strings.IndexAny(s, " \t\n\v\f\r")
			if at < 0 || len(out) == most {
				return append(out, s)
			}
			out, s = append(out, s[:at]), s[at:]
		}
		return out
	}
	return func(c *call) error {
		if err := c.texts(0); err != nil {
			return err
		}
		x := c.in[0]
		counts, err := c.alloc(1, graph.Int64, x.Shape...)
		if err != nil {
			return err
		}
		parts := make([][]string, len(x.strs))
		wide := 0
		for i, s := range x.strs {
			parts[i] = split(s)
			counts.I64()[i] = int64(len(parts[i]))
			wide = max(wide, len(parts[i]))
		}
		z, err := c.alloc(0, graph.String, append(slices.Clone(x.Shape), wide)...)
		if err != nil {
			return err
		}
		for i, p := range parts {
			clear(z.strs[i*wide:][copy(z.strs[i*wide:][:wide], p):wide])
		}
		return nil
	}, n.inputs(1, 1)
}

// prepareRegexFullMatch: whether each string is one of the pattern, in RE2's
// syntax, which is that of package regexp.
func prepareRegexFullMatch(n *node) (kernel, error) {
	pattern, err := regexp.Compile(`^(?:` + n.str("pattern", "") + `)$`)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	return func(c *call) error {
		if err := c.texts(0); err != nil {
			return err
		}
		z, err := c.alloc(0, graph.Bool, c.in[0].Shape...)
		if err != nil {
			return err
		}
		for i, s := range c.in[0].strs {
			z.Bools()[i] = pattern.MatchString(s)
		}
		return nil
	}, n.inputs(1, 1)
}

// tfIdf counts n-grams.
type tfIdf struct {
	least, most, skips int
	places             map[string]int // of an n-gram in the output
	weights            []float32      // by place in the output; nil: ones
	wide               int
	count, weigh       bool
}

// prepareTfIdf: X [C] or [N, C], whole numbers or strings → for every row how
// often each n-gram of the pool is in it, weighted as the mode says. With skips
// up to max_skip_count elements lie between two of an n-gram.
func prepareTfIdf(n *node) (kernel, error) {
	mode := n.oneOf("mode", "TF", "TF", "IDF", "TFIDF")
	a := &tfIdf{least: n.int("min_gram_length", 1), most: n.int("max_gram_length", 1), skips: n.int("max_skip_count", 0),
		count: mode != "IDF", weigh: mode != "TF", places: map[string]int{}}
	starts, indexes, weights := n.ints("ngram_counts"), n.ints("ngram_indexes"), n.floats("weights")
	var pool []string
	texts := n.isSet("pool_strings")
	if texts {
		pool = n.strings("pool_strings")
	} else {
		for _, v := range n.ints("pool_int64s") {
			pool = append(pool, fmt.Sprint(v))
		}
	}
	if a.least < 1 || a.most < a.least || a.skips < 0 || len(starts) < 1 || a.most > len(starts) {
		return nil, fmt.Errorf("n-grams of %d to %d with %d skips, ngram_counts = %v", a.least, a.most, a.skips, starts)
	}
	if weights != nil && len(weights) != len(indexes) {
		return nil, fmt.Errorf("%d weights for %d n-grams", len(weights), len(indexes))
	}
	for _, at := range indexes {
		if at < 0 || at >= 1<<24 {
			return nil, fmt.Errorf("ngram_indexes has %d", at)
		}
		a.wide = max(a.wide, at+1)
	}
	a.weights = slices.Repeat([]float32{1}, a.wide)
	next := 0 // n-gram
	for k, from := range starts {
		to := len(pool)
		if k+1 < len(starts) {
			to = starts[k+1]
		}
		if from < 0 || from > to || to > len(pool) || (to-from)%(k+1) != 0 {
			return nil, fmt.Errorf("ngram_counts = %v for a pool of %d", starts, len(pool))
		}
		for ; from < to; from += k + 1 {
			if next >= len(indexes) {
				return nil, fmt.Errorf("%d ngram_indexes are too few for the pool", len(indexes))
			}
			a.places[gram(pool[from:from+k+1])] = indexes[next]
			if weights != nil {
				a.weights[indexes[next]] = weights[next]
			}
			next++
		}
	}
	return func(c *call) error {
		x := c.in[0]
		rows, l := 1, x.Len()
		shape := []int{a.wide}
		switch {
		case len(x.Shape) == 2:
			rows, l = x.Shape[0], x.Shape[1]
			shape = []int{rows, a.wide}
		case len(x.Shape) != 1:
			return fmt.Errorf("input is %v, want [C] or [N, C]", x.Shape)
		}
		var all []string
		switch {
		case texts != (x.DType == graph.String):
			return fmt.Errorf("input is %v and the pool of another type", x.DType)
		case texts:
			all = x.strs
		case x.DType == graph.Int32:
			for _, v := range x.I32() {
				all = append(all, fmt.Sprint(v))
			}
		case x.DType == graph.Int64:
			for _, v := range x.I64() {
				all = append(all, fmt.Sprint(v))
			}
		default:
			return wrongType(x.DType)
		}
		z, err := c.alloc(0, graph.Float32, shape...)
		if err != nil {
			return err
		}
		clear(z.F32())
		for r := range rows {
			a.row(z.F32()[r*a.wide:][:a.wide], all[r*l:][:l])
		}
		return nil
	}, n.inputs(1, 1)
}

// gram is the key of an n-gram.
func gram(items []string) string {
	var b strings.Builder
	for _, s := range items {
		fmt.Fprintf(&b, "%d:%s", len(s), s)
	}
	return b.String()
}

func (a *tfIdf) row(z []float32, items []string) {
	for size := a.least; size <= a.most; size++ {
		skips := a.skips
		if size == 1 {
			skips = 0 // nothing lies between
		}
		for step := 1; step <= skips+1 && (size-1)*step < len(items); step++ {
			key := make([]string, size)
			for at := 0; at+(size-1)*step < len(items); at++ {
				for k := range key {
					key[k] = items[at+k*step]
				}
				if place, ok := a.places[gram(key)]; ok {
					z[place]++
				}
			}
		}
	}
	for i, n := range z {
		if !a.count && n > 0 {
			z[i] = 1
		}
		if a.weigh {
			z[i] *= a.weights[i]
		}
	}
}
