package runtime

import (
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// Operators on strings, on the examples of ONNX's documentation and at their
// edges.
func TestText(t *testing.T) {
	texts := func(shape []int, list ...string) *Tensor { return FromSlice(shape, list) }
	for _, c := range []struct {
		node   string
		inputs []*Tensor
		want   []*Tensor
	}{
		{"y0 = StringConcat (x0, x1)", []*Tensor{texts([]int{2}, "abc", "def"), texts([]int{2}, ".com", ".net")}, []*Tensor{texts([]int{2}, "abc.com", "def.net")}},
		{"y0 = StringConcat (x0, x1)", []*Tensor{texts([]int{2, 1}, "a", "b"), texts([]int{3}, "1", "2", "3")}, []*Tensor{texts([]int{2, 3}, "a1", "a2", "a3", "b1", "b2", "b3")}},
		{"y0 = StringConcat (x0, x1)", []*Tensor{texts([]int{0, 1}), texts([]int{3}, "1", "2", "3")}, []*Tensor{texts([]int{0, 3})}},
		{`y0, y1 = StringSplit <delimiter = "."> (x0)`, []*Tensor{texts([]int{2}, "abc.com", "abc.net.x")}, []*Tensor{texts([]int{2, 3}, "abc", "com", "", "abc", "net", "x"), FromSlice([]int{2}, []int64{2, 3})}},
		{`y0, y1 = StringSplit <maxsplit = 1> (x0)`, []*Tensor{texts([]int{3}, " hello  big world", "", "one")}, []*Tensor{texts([]int{3, 2}, "hello", "big world", "", "", "one", ""), FromSlice([]int{3}, []int64{2, 0, 1})}},
		{`y0, y1 = StringSplit <delimiter = "-", maxsplit = 1> (x0)`, []*Tensor{texts([]int{1}, "a--b-c")}, []*Tensor{texts([]int{1, 2}, "a", "-b-c"), FromSlice([]int{1}, []int64{2})}},
		{`y0 = RegexFullMatch <pattern = "www\\.[\\w.-]+\\.\\bcom\\b"> (x0)`, []*Tensor{texts([]int{3}, "www.google.com", "www.facebook.com", "www.bbc.co.uk")}, []*Tensor{FromSlice([]int{3}, []bool{true, true, false})}},
		{`y0 = RegexFullMatch <pattern = "a|ab"> (x0)`, []*Tensor{texts([]int{3}, "ab", "a", "abc")}, []*Tensor{FromSlice([]int{3}, []bool{true, true, false})}},
		{`y0 = StringNormalizer <stopwords = ["The"], case_change_action = "UPPER"> (x0)`, []*Tensor{texts([]int{1, 3}, "the", "cat", "THE")}, []*Tensor{texts([]int{1, 1}, "CAT")}},
		{`y0 = StringNormalizer <stopwords = ["the"], is_case_sensitive = 1> (x0)`, []*Tensor{texts([]int{1}, "the")}, []*Tensor{texts([]int{1}, "")}},
		{`y0 = TfIdfVectorizer <mode = "TFIDF", min_gram_length = 1, max_gram_length = 2, max_skip_count = 1, ngram_counts = [0, 2], ngram_indexes = [1, 0, 2], pool_strings = ["a", "b", "a", "b"], weights = [2.0, 1.0, 0.5]> (x0)`,
			[]*Tensor{texts([]int{2, 4}, "a", "b", "c", "b", "c", "c", "a", "a")}, []*Tensor{FromSlice([]int{2, 3}, []float32{2, 2, 0.5, 0, 4, 0})}},
	} {
		got, err := operate(t, 22, c.node, c.inputs...)
		if err != nil {
			t.Errorf("%s: %v", c.node, err)
			continue
		}
		for i, w := range c.want {
			g := got[i]
			same := g.DType == w.DType && slices.Equal(g.Shape, w.Shape)
			if w.DType == graph.String {
				same = same && slices.Equal(g.strs, w.strs)
			} else {
				same = same && slices.Equal(g.mem, w.mem)
			}
			if !same {
				t.Errorf("%s: output %d is %v%v %v %v, want %v%v %v %v", c.node, i, g.DType, g.Shape, g.strs, g.mem, w.DType, w.Shape, w.strs, w.mem)
			}
		}
	}
	for _, node := range []string{`y0 = RegexFullMatch <pattern = "("> (x0)`, "y0 = StringConcat (x0, x1)"} {
		if _, err := operate(t, 22, node, texts([]int{2}, "a", "b"), texts([]int{3}, "1", "2", "3")); err == nil {
			t.Errorf("%s runs", node)
		}
	}
}
