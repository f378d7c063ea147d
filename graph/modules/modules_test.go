package modules_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// The graphs of the cases below work on x [B, T, 4]. Names in capitals are
// weights: W is [4, 4], U [4, 8], D [8, 4], P [5, 5] (positions), G and E
// vectors of 4, K a convolution [4, 4, 3], C a scalar; a suffix tells them
// apart.

// parse reads a graph in short form: its signature, then its nodes. Weights
// are added for the names that need them.
func parse(t testing.TB, opset int, signature, nodes string, rest ...string) *graph.Model {
	t.Helper()
	dims := map[byte][]int{'W': {4, 4}, 'U': {4, 8}, 'D': {8, 4}, 'P': {5, 5}, 'G': {4}, 'E': {4}, 'K': {4, 4, 3}, 'C': {1}}
	var inits []string
	seen := map[string]bool{}
	for _, f := range strings.FieldsFunc(nodes, func(r rune) bool { return strings.ContainsRune(" (),=\n\t<>[]", r) }) {
		if d, ok := dims[f[0]]; ok && !seen[f] && (len(f) == 1 || strings.ContainsAny(f[1:2], "0123456789_")) {
			seen[f] = true
			n, s := 1, []string{}
			for _, k := range d {
				n *= k
				s = append(s, fmt.Sprint(k))
			}
			inits = append(inits, fmt.Sprintf("float[%s] %s = {%s}", strings.Join(s, ","), f, strings.TrimSuffix(strings.Repeat("0.5,", n), ",")))
		}
	}
	text := fmt.Sprintf("<ir_version: 8, opset_import: [\"\": %d, \"com.microsoft\": 1, \"local\": 1]>\ng %s\n<\n%s\n>\n{%s}\n%s",
		opset, signature, strings.Join(inits, ",\n"), nodes, strings.Join(rest, "\n"))
	m, err := graph.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return m
}

// attention returns the nodes of an attention from q to kv, the result being
// p_y; without a mask if mask is empty.
func attention(p, q, kv, mask string) string {
	s := strings.NewReplacer("$", p+"_", "@Q", q, "@K", kv).Replace(`
  $q = MatMul (@Q, W_$q)
  $k = MatMul (@K, W_$k)
  $v = MatMul (@K, W_$v)
  $t = Transpose <perm = [0, 2, 1]> ($k)
  $s = MatMul ($q, $t)
`)
	scores := p + "_s"
	if mask != "" {
		scores = p + "_m"
		s += fmt.Sprintf("  %s = Add (%s_s, %s)\n", scores, p, mask)
	}
	return s + strings.NewReplacer("$", p+"_", "@S", scores).Replace(`
  $p = Softmax <axis = -1> (@S)
  $o = MatMul ($p, $v)
  $y = MatMul ($o, W_$o)
`)
}

// mlp returns the nodes of an MLP on x, the result being p_y.
func mlp(p, x string) string {
	return strings.NewReplacer("$", p+"_", "@X", x).Replace(`
  $u = MatMul (@X, U_$u)
  $b = Relu ($u)
  $y = MatMul ($b, D_$d)
`)
}

func ln(y, x string) string {
	return fmt.Sprintf("  %s = LayerNormalization <axis = -1> (%s, G_%s, E_%s)\n", y, x, y, y)
}

func add(y string, x ...string) string {
	return fmt.Sprintf("  %s = Add (%s)\n", y, strings.Join(x, ", "))
}

const (
	one = "(float[B,T,4] x) => (float[B,T,4] y)"
)

// describe is a module in one line: id, stream + branch at the node that
// computes sum, the norm behind it, its cache, and why it is declined.
func describe(x modules.Module) string {
	s := fmt.Sprintf("%s %s + %s", x.ID, name(x.Stream), name(x.Branch))
	if x.Parallel {
		s += " …"
	}
	s += " = " + name(x.Merge.Output(0))
	if x.Norm != nil {
		s += " → " + name(x.Norm.Out)
	}
	if len(x.Caches) > 0 {
		s += " [" + cacheText(x.Caches) + "]"
	}
	if !x.Droppable {
		s += ": " + x.Reason
	}
	return s
}

func name(v *graph.Value) string {
	if v == nil {
		return "-"
	}
	return v.Name
}

var cases = []struct {
	name      string
	signature string
	nodes     string
	rest      string   // functions
	want      []string // what describe says
	notes     string   // part of the only note
}{
	{"pre-LN", one, ln("a", "x") + attention("q", "a", "a", "") + add("h", "x", "q_y") +
		ln("b", "h") + mlp("f", "b") + add("r", "f_y", "h") + ln("y", "r"), "",
		[]string{"A0 x + q_y = h", "M0 h + f_y = r"}, ""},
	{"post-LN", one, attention("q", "x", "x", "") + add("h", "x", "q_y") + ln("a", "h") +
		mlp("f", "a") + add("r", "f_y", "a") + ln("y", "r"), "",
		[]string{"A0 x + q_y = h → a", "M0 a + f_y = r → y"}, ""},
	{"norm of the branch alone, final norm behind", one, // OLMo 2
		attention("q", "x", "x", "") + ln("a", "q_y") + add("h", "x", "a") +
			mlp("f", "h") + ln("b", "f_y") + add("r", "b", "h") + ln("y", "r"), "",
		[]string{"A0 x + a = h", "M0 h + b = r"}, ""},
	{"sandwich norms and a residual multiplier", one, // Gemma 2, Granite
		ln("a", "x") + attention("q", "a", "a", "") + ln("b", "q_y") + add("h", "x", "b") +
			ln("c", "h") + mlp("f", "c") + "d = Mul (f_y, C)\n" + add("r", "h", "d") + ln("y", "r"), "",
		[]string{"A0 x + b = h", "M0 h + d = r"}, ""},
	{"LayerScale", one, ln("a", "x") + attention("q", "a", "a", "") + "s = Mul (q_y, G_s)\n" + add("h", "x", "s") +
		ln("b", "h") + mlp("f", "b") + "u = Mul (G_u, f_y)\n" + add("y", "u", "h"), "",
		[]string{"A0 x + s = h", "M0 h + u = y"}, ""},
	{"parallel, one norm, Phi", one, ln("a", "x") + attention("q", "a", "a", "") + mlp("f", "a") +
		add("i", "q_y", "f_y") + add("y", "i", "x"), "",
		[]string{"A0 x + q_y … = y", "M0 x + f_y … = y"}, ""},
	{"parallel, stream added first, GPT-J", one, ln("a", "x") + attention("q", "a", "a", "") + mlp("f", "a") +
		add("i", "x", "q_y") + add("y", "f_y", "i"), "",
		[]string{"A0 x + q_y … = y", "M0 x + f_y … = y"}, ""},
	{"parallel, two norms and biases, Sum", one, ln("a", "x") + attention("q", "a", "a", "") + ln("b", "x") + mlp("f", "b") +
		add("c", "E", "f_y") + "  y = Sum (c, x, q_y)\n", "",
		[]string{"A0 x + q_y … = y", "M0 x + c … = y"}, ""},
	{"something foreign is added besides", "(float[B,T,4] x, float[B,T,4] e) => (float[B,T,4] y)",
		ln("a", "x") + attention("q", "a", "a", "") + add("h", "x", "q_y") + add("i", "h", "e") + mlp("f", "i") + add("y", "f_y", "i"), "",
		[]string{"A0 x + q_y = h", "M0 i + f_y = y"}, ""},
	{"encoder-decoder", "(float[B,T,4] x, float[B,S,4] states, float[B,T,T] mask, float[B,1,S] far) => (float[B,T,4] y)",
		ln("a", "x") + attention("q", "a", "a", "mask") + add("h", "x", "q_y") +
			ln("b", "h") + attention("c", "b", "states", "far") + add("i", "h", "c_y") +
			ln("d", "i") + mlp("f", "d") + add("j", "i", "f_y") +
			ln("a2", "j") + attention("q2", "a2", "a2", "mask") + add("h2", "j", "q2_y") +
			ln("b2", "h2") + attention("c2", "b2", "states", "far") + add("y", "h2", "c2_y"), "",
		[]string{"A0 x + q_y = h", "X0 h + c_y = i", "M0 i + f_y = j", "A1 j + q2_y = h2", "X1 h2 + c2_y = y"}, ""},
	{"shared mask computed in the graph", "(float[B,T,4] x, int64[B,T] keep) => (float[B,T,4] y)",
		"k = Cast <to = 1> (keep)\n k1 = Unsqueeze (k, axes)\n mask = Mul (k1, C)\n axes = Constant <value_ints = [1]> ()\n" +
			attention("q", "x", "x", "mask") + add("h", "x", "q_y") + attention("r", "h", "h", "mask") + add("y", "h", "r_y"), "",
		[]string{"A0 x + q_y = h", "A1 h + r_y = y"}, ""},
	{"GELU by tanh", one, `
  u = MatMul (x, U)
  three = Constant <value_float = 3.0> ()
  c = Pow (u, three)
  d = Mul (c, C1)
  e = Add (u, d)
  f = Mul (e, C2)
  g = Tanh (f)
  h = Add (g, C3)
  i = Mul (u, h)
  j = Mul (i, C4)
  k = MatMul (j, D)
  y = Add (k, x)
`, "", []string{"M0 x + k = y"}, ""},
	{"sums that are no residuals", "(float[B,T,4] x, int64[B,T] ids, int64[B,T] at) => (float[B,T,4] y)", `
  w = Gather (W, ids)
  p = Gather (W_p, at)
  e = Add (w, p)
  f = Add (e, x)
  a = MatMul (f, W_a)
  b = MatMul (f, W_b)
  c = Add (a, b)
  r = Relu (c)
  y = Add (r, c)
`, "", nil, ""},
	{"attention weights are an output", "(float[B,T,4] x) => (float[B,T,4] y, float[B,T,T] q_p, float[B,T,4] h)",
		attention("q", "x", "x", "") + add("h", "x", "q_y") + mlp("f", "h") + add("y", "f_y", "h"), "",
		[]string{`A0 x + q_y = h: branch feeds output "q_p"`, "M0 h + f_y = y"}, ""},
	{"attention weights are an output, averaged", "(float[B,T,4] x) => (float[B,T,4] y, float[B,T] p)",
		attention("q", "x", "x", "") + add("h", "x", "q_y") + mlp("f", "h") + add("y", "f_y", "h") +
			"p = ReduceMean <axes = [-1], keepdims = 0> (q_p)\n", "",
		[]string{`A0 x + q_y = h: branch feeds output "p"`, "M0 h + f_y = y"}, ""},
	{"the branch is an output", "(float[B,T,4] x) => (float[B,T,4] y, float[B,T,4] q_y)",
		attention("q", "x", "x", "") + add("y", "x", "q_y"), "",
		[]string{`A0 x + q_y = y: branch feeds output "q_y"`}, ""},
	{"a second head with a sum of its own", "(float[B,T,4] x) => (float[B,T,4] y, float[B,T,4] z)",
		attention("q", "x", "x", "") + add("h", "x", "q_y") + mlp("f", "h") + add("y", "f_y", "h") +
			mlp("g", "h") + mlp("e", "h") + add("z", "e_y", "g_y"), "",
		[]string{"A0 x + q_y = h"}, ""},
	{"two towers", "(float[B,T,4] x, float[B,T,4] z) => (float[B,T,4] y, float[B,T,4] w)",
		attention("q", "x", "x", "") + add("h", "x", "q_y") + mlp("f", "h") + add("y", "f_y", "h") +
			attention("r", "z", "z", "") + add("w", "z", "r_y"), "",
		[]string{"A0 x + q_y = h", "M0 h + f_y = y", "A1 z + r_y = w"}, ""},
	{"tokens mixed by a transposition", one, `
  t = Transpose <perm = [0, 2, 1]> (x)
  u = MatMul (t, P)
  r = Relu (u)
  v = MatMul (r, P_v)
  b = Transpose <perm = [0, 2, 1]> (v)
  y = Add (b, x)
`, "", []string{`O0 x + b = y: neither attention nor MLP: node "→t" (Transpose) moves more than the feature axis`}, ""},
	{"tokens mixed by weights on the left", "(float[B,5,4] x) => (float[B,5,4] y)", `
  u = MatMul (P, x)
  r = Relu (u)
  v = MatMul (r, W)
  y = Add (v, x)
`, "", []string{`O0 x + v = y: neither attention nor MLP: node "→u" (MatMul) multiplies by weights from the left, which mixes positions`}, ""},
	{"tokens mixed by a reshape", "(float[B,6,4] x) => (float[B,6,4] y)", `
  s = Constant <value_ints = [0, 3, 8]> ()
  u = Reshape (x, s)
  v = MatMul (u, D)
  w = MatMul (v, U)
  s2 = Constant <value_ints = [0, 6, 4]> ()
  b = Reshape (w, s2)
  y = Add (b, x)
`, "", []string{`O0 x + b = y: neither attention nor MLP: node "→u" (Reshape) makes rows of 8 out of rows of 4 features`}, ""},
	{"tokens mixed by a mean", one, `
  u = ReduceMean <axes = [1]> (x)
  v = MatMul (u, W)
  w = Mul (v, x)
  y = Add (w, x)
`, "", []string{`O0 x + w = y: neither attention nor MLP: node "→u" (ReduceMean) reduces more than the feature axis`}, ""},
	{"residual convolution", "(float[B,4,T] x) => (float[B,4,T] y)", `
  u = Conv <pads = [1, 1]> (x, K)
  r = Relu (u)
  v = Conv <pads = [1, 1]> (r, K_v)
  s = Add (v, x)
  y = Relu (s)
`, "", []string{`O0 x + v = s: neither attention nor MLP: node "→u" (Conv) is not known to act on each token alone`}, ""},
	{"no weights in the branch", one, "  r = Relu (x)\n  y = Add (r, x)\n", "", nil, ""},
	{"linear layers between reshapes, by attributes and by inputs", one, `
  s = Constant <value_ints = [-1, 4]> ()
  a = Reshape (x, s)
  u = Gemm (a, U, B8)
  B8 = Constant <value_floats = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]> ()
  r = Relu (u)
  v = Gemm <transB = 1> (r, U_v)
  d = Shape (x)
  b = Reshape (v, d)
  y = Add (x, b)
`, "", []string{"M0 x + b = y"}, ""},
	{"gated by halves", one, `
  u = MatMul (x, U)
  g, v = Split <axis = -1, num_outputs = 2> (u)
  s = Sigmoid (g)
  p = Mul (s, v)
  q = MatMul (p, W)
  y = Add (q, x)
`, "", []string{"M0 x + q = y"}, ""},
	{"attention in Einsum, softmax by hand", one, `
  q = Einsum <equation = "btd,de->bte"> (x, W_q)
  k = Einsum <equation = "btd,de->bte"> (x, W_k)
  v = Einsum <equation = "btd,de->bte"> (x, W_v)
  s = Einsum <equation = "bsd,btd->bts"> (k, q)
  m = ReduceMax <axes = [-1]> (s)
  d = Sub (s, m)
  e = Exp (d)
  t = ReduceSum (e, last)
  last = Constant <value_ints = [-1]> ()
  p = Div (e, t)
  o = Einsum <equation = "bts,bsd->btd"> (p, v)
  y = Add (o, x)
`, "", []string{"A0 x + o = y"}, ""},
	{"branch is broadcast", "(float[B,5,4] x) => (float[B,5,4] y)", `
  u = MatMul (x, W)
  r = ReduceMean <axes = [1]> (u)
  y = Add (r, x)
`, "", []string{`O0 x + r = y: neither attention nor MLP: node "→r" (ReduceMean) reduces more than the feature axis`}, ""},
	{"experts with one router", one, `
  g = MatMul (x, W)
  p = Softmax <axis = -1> (g)
  p1, p2 = Split <axis = -1, num_outputs = 2> (p)
  m1 = ReduceMax <axes = [-1]> (p1)
  m2 = ReduceMax <axes = [-1]> (p2)
` + mlp("f", "x") + mlp("h", "x") + `
  e1 = Mul (f_y, m1)
  e2 = Mul (h_y, m2)
  e = Add (e1, e2)
  y = Add (x, e)
`, "", []string{"M0 x + e = y"}, ""},
	{"low-rank part beside the projection", one, attention("q", "x", "x", "") + `
  l = MatMul (q_o, U)
  m = MatMul (l, D)
  n = Add (q_y, m)
  y = Add (x, n)
`, "", []string{"A0 x + n = y"}, ""},
	{"low-rank part that is added last", one, attention("q", "x", "x", "") + `
  l = MatMul (q_o, U)
  m = MatMul (l, D)
  n = Add (q_y, x)
  y = Add (m, n)
`, "", []string{`A0 x + m … = y: branch feeds node "→n" (Add) outside of it`}, ""},
	{"added twice", one, mlp("f", "x") + add("i", "f_y", "x") + add("y", "i", "f_y"), "",
		[]string{`M0 x + f_y … = y: it is added 2 times`}, ""},
	{"a whole network in a branch", one, "  n = MatMul (x, W)\n" + attention("q", "n", "n", "") + add("h", "n", "q_y") +
		mlp("f", "h") + add("i", "f_y", "h") + "  o = MatMul (i, W_o)\n" + add("y", "x", "o"), "",
		[]string{"A0 n + q_y = h", "M0 h + f_y = i", `O0 x + o = y: other modules lie inside it, the first joined by node "→i" (Add)`}, ""},
	{"a branch that gave way to its mean", one, add("h", "x", "G") + mlp("f", "h") + add("i", "f_y", "h") +
		ln("a", "i") + add("j", "E", "a") + ln("b", "j") + attention("q", "b", "b", "") + add("k", "b", "q_y") + ln("y", "k"), "",
		[]string{"M0 h + f_y = i → a", "A1 b + q_y = k → y"}, ""},
	{"casts and dropout", "(float16[B,T,4] x) => (float16[B,T,4] y)", `
  c = Cast <to = 1> (x)
  a = LayerNormalization <axis = -1> (c, G, E)
` + mlp("f", "a") + `
  d, keep = Dropout (f_y)
  b = Cast <to = 10> (d)
  s = Identity (x)
  y = Add (s, b)
`, "", []string{"M0 x + b = y"}, ""},
	{"cache, positions hang on it", "(float[B,T,4] x, float[B,1,P,4] pk, float[B,1,P,4] pv) => (float[B,T,4] y, float[B,1,S,4] nk, float[B,1,S,4] nv)", `
  q = MatMul (x, W_q)
  k = MatMul (x, W_k)
  v = MatMul (x, W_v)
  one = Constant <value_ints = [1]> ()
  k4 = Unsqueeze (k, one)
  v4 = Unsqueeze (v, one)
  q4 = Unsqueeze (q, one)
  nk = Concat <axis = 2> (pk, k4)
  nv = Concat <axis = 2> (pv, v4)
  d = Shape (pk)
  rk = Mul (nk, C)
  t = Transpose <perm = [0, 1, 3, 2]> (rk)
  s = MatMul (q4, t)
  p = Softmax (s)
  o = MatMul (p, nv)
  o3 = Squeeze (o, one)
  y = Add (o3, x)
`, "", []string{"A0 x + o3 = y [key pk nk; value pv nv]"}, ""},
	{"cache that is used besides", "(float[B,T,4] x, float[B,P,4] pk) => (float[B,T,4] y, float[B,P,4] z)", `
  q = MatMul (x, W_q)
  v = MatMul (x, W_v)
  k0 = MatMul (x, W_k)
  k = Concat <axis = 1> (pk, k0)
  t = Transpose <perm = [0, 2, 1]> (k)
  s = MatMul (q, t)
  p = Softmax (s)
  o = MatMul (p, v)
  y = Add (o, x)
  z = Relu (pk)
`, "", []string{`A0 x + o = y [key pk -]: its cache "pk" is read by node "→z" (Relu) too`}, ""},
	{"presents of all layers in one", "(float[B,T,4] x) => (float[B,T,4] y, float[B,S,4] z)",
		attention("q", "x", "x", "") + add("h", "x", "q_y") + attention("r", "h", "h", "") + add("y", "h", "r_y") +
			"  z = Concat <axis = 1> (q_k, r_k)\n", "",
		[]string{`A0 x + q_y = h [key - z]: its cache "z" holds other modules' too`, `A1 h + r_y = y [key - z]: its cache "z" holds other modules' too`}, ""},
	// The stream goes on past the first sum in the keys that are lent, so it
	// is no branch; the second attention takes in tokens that are not its own.
	{"keys of another layer", one,
		attention("q", "x", "x", "") + add("h", "x", "q_y") + `
  r_q = MatMul (h, W_r)
  r_s = MatMul (r_q, q_t)
  r_p = Softmax (r_s)
  r_o = MatMul (r_p, q_v)
  y = Add (h, r_o)
`, "", []string{"X0 h + r_o = y"}, ""},
	{"fused operators", "(float[B,T,4] x, float[B,1,P,4] pk, float[B,1,P,4] pv) => (float[B,T,4] y, float[B,1,S,4] nk, float[B,1,S,4] nv)", `
  q = MatMul (x, W_q)
  k = MatMul (x, W_k)
  v = MatMul (x, W_v)
  o, nk, nv = com.microsoft.MultiHeadAttention <num_heads = 1> (q, k, v, "", "", "", pk, pv)
  n, "", "", h = com.microsoft.SkipLayerNormalization (o, x, G, E)
  u = MatMul (n, U)
  g = com.microsoft.FastGelu (u)
  d = MatMul (g, D)
  y = Add (h, d)
`, "", []string{
		`A0 x + o = n [key pk nk; value pv nv]`,
		"M0 h + d = y"}, ""},
	{"If beside the stream", "(float[B,T,4] x, bool c) => (float[B,T,4] y)", mlp("f", "x") + add("h", "x", "f_y") + `
  o = If (c) <then_branch = a () => (ta) { tb = MatMul (h, W) ta = Add (tb, h) }, else_branch = b () => (ea) { ea = Identity (h) }>
  y = Relu (o)
`, "", []string{"M0 x + f_y = h"}, "its bodies hold 1 matrix products"},
	{"If in the branch", "(float[B,T,4] x, bool c) => (float[B,T,4] y)", mlp("f", "x") + `
  o = If (c) <then_branch = a () => (ta) { ta = Identity (f_y) }, else_branch = b () => (ea) { ea = Identity (x) }>
  y = Add (x, o)
`, "", []string{`O0 x + o = y: neither attention nor MLP: node "→o" (If) is not known to act on each token alone`}, ""},
	{"a local function per branch", one, "  f = local.Half <axis = -1> (x, U, D)\n  y = Add (f, x)\n", `
<domain: "local", opset_import: ["": 18]>
Half <axis> (a, u, d) => (r)
{
  n = Softmax <axis: int = @axis> (a)
  h = MatMul (n, u)
  i = Relu (h)
  r = MatMul (i, d)
}
`, []string{"M0 x + f = y"}, ""},
	{"a local function per layer", one, "  h = local.Layer (x, U, D)\n  y = local.Layer (h, U, D)\n", `
<domain: "local", opset_import: ["": 18]>
Layer (a, u, d) => (r)
{
  h = MatMul (a, u)
  i = Relu (h)
  j = MatMul (i, d)
  r = Add (a, j)
}
`, []string{
		"M0 x + j = r", "M1 h + j = r"}, ""},
	{"a local function of another opset", one, "  h = local.Layer (x, U, D)\n  y = local.Layer (h, U, D)\n", `
<domain: "local", opset_import: ["": 17]>
Layer (a, u, d) => (r)
{
  h = MatMul (a, u)
  i = Relu (h)
  j = MatMul (i, d)
  r = Add (a, j)
}
`, []string{
		`M0 x + j = r: node "→h" (local.Layer) cannot be taken apart: function "Layer" is of opset 17 of domain "", the model of 18`,
		`M1 h + j = r: node "→y" (local.Layer) cannot be taken apart: function "Layer" is of opset 17 of domain "", the model of 18`}, ""},
	{"layers in both branches of an If", "(float[B,T,4] x, bool c) => (float[B,T,4] y)", "  y = If (c) <then_branch = a () => (float[B,T,4] t) {" +
		mlp("f", "x") + add("t", "f_y", "x") + "}, else_branch = b () => (float[B,T,4] e) {" + mlp("g", "x") + add("e", "g_y", "x") + "}>\n", "",
		[]string{"M0 x + g_y = e"}, ""},
	{"other layers in the branches of an If", "(float[B,T,4] x, bool c) => (float[B,T,4] y)", "  y = If (c) <then_branch = a () => (float[B,T,4] t) {" +
		attention("f", "x", "x", "") + add("t", "f_y", "x") + "}, else_branch = b () => (float[B,T,4] e) {" + mlp("g", "x") + add("e", "g_y", "x") + "}>\n", "",
		nil, "no module is looked for in its branches: module 0 is of kind attention in the then branch, of kind mlp in the else branch"},
}

func TestCases(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, 18, c.signature, c.nodes, c.rest)
			before := m.Text()
			a, err := modules.Analyze(m)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range a.Modules {
				got = append(got, describe(x))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
			if notes := strings.Join(a.Notes, "; "); c.notes == "" && notes != "" || !strings.Contains(notes, c.notes) {
				t.Errorf("notes: %q, want %q", notes, c.notes)
			}
			if m.Text() != before {
				t.Error("the model was changed")
			}
		})
	}
}

func TestHistory(t *testing.T) {
	layers := mlp("f", "x") + add("h", "x", "f_y") + attention("q", "h", "h", "") + add("y", "h", "q_y")
	for _, c := range []struct {
		name, meta, want, note, err string
	}{
		{"none", "", "M0 A1", "", ""},
		{"ids of the original", `{"original": "sha256:0", "modules": ["M3", "A7"], "dropped": [{"id": "A3", "kind": "attention"}]}`, "M3 A7", "", ""},
		{"fields of a later version", `{"modules": ["M3", "A7"], "healed": {"steps": 5}}`, "M3 A7", "", ""},
		{"one too many", `{"modules": ["M3", "A7", "M7"]}`, "M0 A1", "counted anew", ""},
		{"one too few", `{"modules": ["M3"]}`, "M0 A1", "counted anew", ""},
		{"other kinds", `{"modules": ["A3", "M3"]}`, "M0 A1", "counted anew", ""},
		{"one twice", `{"modules": ["M3", "M3"]}`, "M0 A1", "counted anew", ""},
		{"no numbers", `{"modules": ["M", "A-1"]}`, "M0 A1", "counted anew", ""},
		{"broken", `{"modules": 3}`, "", "", `metadata "lathe.history"`},
	} {
		m := parse(t, 18, one, layers)
		if c.meta != "" {
			m.SetMeta(modules.HistoryKey, c.meta)
		}
		a, err := modules.Analyze(m)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(ids(a.Modules), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if notes := strings.Join(a.Notes, "; "); c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
			t.Errorf("%s: notes %q", c.name, notes)
		}
	}
	want := &modules.History{Original: "sha256:1", Modules: []string{"A0"}, Dropped: []modules.Drop{{ID: "M0", Kind: modules.MLP, Norm: "gone", Recover: "mean"}},
		Rewrites: []modules.Rewrite{{Pass: "rewrite-circulant", Node: "n", Block: 4}}}
	m := parse(t, 18, one, layers)
	if err := modules.WriteHistory(m, want); err != nil {
		t.Fatal(err)
	}
	if got, err := modules.ReadHistory(m); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v, want %+v", got, err, want)
	}
}
