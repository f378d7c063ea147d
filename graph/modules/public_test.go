package modules_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

// public are the models of LATHE_DATA. Each has as many attentions as MLPs,
// one of both per layer, in turn.
var public = []struct {
	file   string
	layers int
	norm   string // kind of the norm behind the sums, "" for pre-LN
	cache  string // past and present of layer 1
}{
	{"kwt1_mfcc_opset13.onnx", 12, modules.LayerNorm, ""},
	{"kwt1_mfcc_opset17.onnx", 12, modules.LayerNorm, ""},
	{"stories260K_opset17.onnx", 5, "", ""},
	{"stories260K_kv_opset17.onnx", 5, "", "key past_key_values.1.key present.1.key; value past_key_values.1.value present.1.value"},
	{"cnn_mnist_pytorch.onnx", 0, "", ""},
	{"graphs/bert24_keras2onnx.onnx", 24, modules.LayerNorm, ""},
	{"graphs/gpt2_12layer_past.onnx", 12, "", "key+value past_1 present_1"},
	{"graphs/bert5_pytorch_opset12.onnx", 5, modules.LayerNorm, ""},
	{"graphs/bert5_ort_fused.onnx", 5, modules.LayerNorm, ""},
}

func loadPublic(t *testing.T, file string) *graph.Model {
	t.Helper()
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA is not set: no public models")
	}
	m, err := graph.Load(filepath.Join(dir, "models", file))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPublicModels finds every module of the public models and nothing else,
// as they are and in disguise.
func TestPublicModels(t *testing.T) {
	disguises := []struct {
		name  string
		apply func(*graph.Model, *rand.Rand)
	}{
		{"as it is", func(*graph.Model, *rand.Rand) {}},
		{"names scrambled", scrambleNames},
		{"operands swapped", swapOperands},
		{"nodes shuffled", shuffleNodes},
		{"all of it", func(m *graph.Model, r *rand.Rand) { scrambleNames(m, r); swapOperands(m, r); shuffleNodes(m, r) }},
	}
	for _, c := range public {
		for i, d := range disguises {
			t.Run(c.file+"/"+d.name, func(t *testing.T) {
				m := loadPublic(t, c.file)
				past := cacheNames(m, c.cache)
				d.apply(m, rand.New(rand.NewPCG(1, uint64(i))))
				list, err := modules.Find(m)
				if err != nil {
					t.Fatal(err)
				}
				if len(list) != 2*c.layers {
					t.Fatalf("%d modules, want %d: %v", len(list), 2*c.layers, ids(list))
				}
				for k, x := range list {
					kind, id := modules.Attention, fmt.Sprintf("A%d", k/2)
					if k%2 == 1 {
						kind, id = modules.MLP, fmt.Sprintf("M%d", k/2)
					}
					norm := ""
					if x.Norm != nil {
						norm = x.Norm.Kind
						if k+1 < len(list) && x.Norm.Out != list[k+1].Stream {
							t.Errorf("%s: the norm gives %q, the next stream is %q", id, x.Norm.Out.Name, list[k+1].Stream.Name)
						}
					} else if k+1 < len(list) && x.Sum != list[k+1].Stream {
						t.Errorf("%s: the sum is %q, the next stream is %q", id, x.Sum.Name, list[k+1].Stream.Name)
					}
					if x.ID != id || x.Kind != kind || x.Layer != k/2 || !x.Droppable || norm != c.norm {
						t.Errorf("module %d is %s, %s, layer %d, norm %q, droppable %v (%s), want %s, %s, layer %d, norm %q",
							k, x.ID, x.Kind, x.Layer, norm, x.Droppable, x.Reason, id, kind, k/2, c.norm)
					}
					sum := x.Merge.Output(0)
					if strings.HasPrefix(x.Merge.Op, "Skip") {
						sum = nil // it hands out the norm alone
					}
					if x.Join.Node != x.Merge || x.Branch != x.Merge.Input(x.Join.Index) || x.Sum != sum {
						t.Errorf("%s: Join, Branch, Merge and Sum do not fit", id)
					}
				}
				if c.cache != "" {
					if got := cacheText(list[2].Caches); got != cacheText(past()) {
						t.Errorf("cache of A1: %s, want %s", got, cacheText(past()))
					}
				}
			})
		}
	}
}

// TestPublicNumbers checks weights, parameters and FLOPs against the
// architectures.
func TestPublicNumbers(t *testing.T) {
	for _, c := range []struct {
		file          string
		attn, mlp     int64 // parameters
		attnW, mlpW   int
		attnFl, mlpFl int64
	}{
		// d = 64, 256 hidden, biases on the output projection and both MLP
		// layers; post-LN, so that the norms are not inside.
		{"kwt1_mfcc_opset13.onnx", 4*64*64 + 64, 2*64*256 + 256 + 64, 4, 2, 2 * 4 * 64 * 64, 2 * 2 * 64 * 256},
		{"kwt1_mfcc_opset17.onnx", 4*64*64 + 64, 2*64*256 + 256 + 64, 4, 2, 2 * 4 * 64 * 64, 2 * 2 * 64 * 256},
		// d = 64, 4 KV heads of 8, 172 hidden, an RMSNorm each.
		{"stories260K_opset17.onnx", 2*64*64 + 2*64*32 + 64, 3*64*172 + 64, 4, 3, 2 * (2*64*64 + 2*64*32), 2 * 3 * 64 * 172},
		// BERT has biases everywhere.
		{"graphs/bert24_keras2onnx.onnx", 4*8*8 + 4*8, 2*8*32 + 32 + 8, 4, 2, 2 * 4 * 8 * 8, 2 * 2 * 8 * 32},
		{"graphs/gpt2_12layer_past.onnx", 4*4*4 + 4*4 + 8, 2*4*16 + 16 + 4 + 8, 2, 2, 2 * 4 * 4 * 4, 2 * 2 * 4 * 16},
	} {
		t.Run(c.file, func(t *testing.T) {
			list, err := modules.Find(loadPublic(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			for k, x := range list {
				p, w, f := c.attn, c.attnW, c.attnFl
				if k%2 == 1 {
					p, w, f = c.mlp, c.mlpW, c.mlpFl
				}
				if x.Params != p || len(x.Weights) != w || x.FLOPs != f {
					t.Errorf("%s: %d parameters, %d weight nodes, %d FLOPs, want %d, %d, %d", x.ID, x.Params, len(x.Weights), x.FLOPs, p, w, f)
				}
			}
		})
	}
}

func ids(list []modules.Module) []string {
	var out []string
	for _, x := range list {
		out = append(out, x.ID)
	}
	return out
}

func cacheText(list []modules.Cache) string {
	var out []string
	for _, c := range list {
		s := c.Role
		for _, v := range []*graph.Value{c.Past, c.Present} {
			if v == nil {
				s += " -"
			} else {
				s += " " + v.Name
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// cacheNames looks the values of a cache up before their names are
// scrambled.
func cacheNames(m *graph.Model, text string) func() []modules.Cache {
	var out []modules.Cache
	for _, s := range strings.Split(text, "; ") {
		if f := strings.Fields(s); len(f) == 3 {
			out = append(out, modules.Cache{Role: f[0], Past: m.Graph.Value(f[1]), Present: m.Graph.Value(f[2])})
		}
	}
	return func() []modules.Cache { return out }
}

// scrambleNames gives every value and node a name that tells nothing, and the
// initializers another order of names.
func scrambleNames(m *graph.Model, r *rand.Rand) {
	m.Graphs(func(g *graph.Graph) bool {
		var vals []*graph.Value
		add := func(v *graph.Value) {
			if v != nil && !slices.Contains(vals[max(0, len(vals)-4):], v) {
				vals = append(vals, v)
			}
		}
		for _, v := range g.Inputs() {
			add(v)
		}
		for _, v := range g.Initializers() {
			if !v.IsInput() {
				add(v)
			}
		}
		for _, n := range g.Nodes() {
			for _, v := range n.Outputs() {
				add(v)
			}
		}
		for i, p := range r.Perm(len(vals)) {
			vals[i].Rename(fmt.Sprintf("s%d.%x", p, r.Uint32()))
		}
		names := r.Perm(len(g.Nodes()))
		for i, n := range g.Nodes() {
			n.Name = fmt.Sprintf("n%d", names[i])
		}
		return true
	})
}

// swapOperands swaps the operands of half of the operators that allow it.
func swapOperands(m *graph.Model, r *rand.Rand) {
	for _, n := range m.Graph.Nodes() {
		if n.Is("Add", "Mul") && len(n.Inputs()) == 2 && r.IntN(2) == 0 {
			a, b := n.Input(0), n.Input(1)
			n.SetInput(0, b)
			n.SetInput(1, a)
		}
	}
}

// shuffleNodes puts the nodes into an order that is not topological.
func shuffleNodes(m *graph.Model, r *rand.Rand) {
	nodes := m.Graph.Nodes()
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
}
