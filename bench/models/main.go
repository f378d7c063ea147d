// Command models tries everything that lathe does to a model on every form of
// every family that testmodels builds, and prints a table: modules found, also
// in disguise, scored, dropped one by one and compared in ONNX Runtime with an
// export without the module, healed, rewritten, run. With -docs it puts the
// table into models.md of a folder of documents.
//
//	go run ./models -docs ../docs
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/bench/document"
	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// forms says what each test model stands for.
var forms = []struct{ name, family, form string }{
	{"bert-13", "BERT", "opset 13, norms and GELU in many nodes"},
	{"bert-17", "BERT", "opset 17, LayerNormalization"},
	{"bert-20", "BERT", "opset 20, Gelu"},
	{"bert-17-functions", "BERT", "a local function per layer"},
	{"bert-17-fused", "BERT", "fused by ONNX Runtime: Attention, SkipLayerNormalization"},
	{"bert-17-multihead", "BERT", "fused: EmbedLayerNormalization, MultiHeadAttention"},
	{"gpt2-13", "GPT-2", "opset 13"},
	{"gpt2-17-untied-erf", "GPT-2", "opset 17, erf GELU, own head"},
	{"gpt2-17-cache", "GPT-2", "cache, positions counted by it"},
	{"gpt2-17-merged-past", "GPT-2", "merged decoder: If on use_cache_branch"},
	{"gpt2-17-fused", "GPT-2", "fused: Attention with a stacked cache"},
	{"llama-13", "LLaMA", "opset 13, RMSNorm in many nodes"},
	{"llama-18-bias", "Qwen 2", "biases on queries, keys and values"},
	{"llama-17-headnorm", "Qwen 3", "norms on the heads"},
	{"llama-17-sandwich", "Gemma 2", "norms around every branch, soft caps"},
	{"llama-17-cache", "LLaMA", "cache"},
	{"llama-18-functions", "LLaMA", "cache, a local function per layer"},
	{"llama-17-fused-start", "LLaMA", "fused: GroupQueryAttention, SkipSimplifiedLayerNormalization"},
	{"llama-23", "LLaMA", "opset 23: Attention, RMSNormalization, RotaryEmbedding"},
	{"llama-23-cache", "LLaMA", "opset 23, cache"},
	{"neox-17", "GPT-NeoX", "attention and MLP in parallel"},
	{"neox-13-sharednorm", "GPT-J, Phi", "in parallel behind one norm, opset 13"},
	{"t5-17", "T5", "encoder-decoder, relative positions"},
	{"whisper-17", "Whisper", "convolutions, encoder-decoder"},
	{"whisper-17-step", "Whisper", "decoder with the caches of both attentions"},
	{"whisper-17-merged-past", "Whisper", "merged decoder, dummy outputs in one branch"},
	{"vit-13", "ViT", "opset 13"},
	{"vit-17-layerscale", "DINOv2", "LayerScale"},
}

func main() {
	docs := flag.String("docs", "", "`folder` of models.md")
	flag.Parse()
	text, err := table(context.Background())
	if err == nil && *docs != "" {
		err = document.Splice(filepath.Join(*docs, "models.md"), begin, end, text)
	} else if err == nil {
		fmt.Print(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "models:", err)
		os.Exit(2)
	}
}

const begin, end = "<!-- families: go run ./models -docs ../docs, in bench -->", "<!-- end of families -->"

func table(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "lathe-models")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	byName := map[string]testmodels.Case{}
	for _, c := range testmodels.Cases() {
		byName[c.Name] = c
	}
	var b strings.Builder
	b.WriteString("| family | form | found | scored | dropped | healed | rewritten | run |\n|---|---|---|---|---|---|---|---|\n")
	for _, f := range forms {
		c, ok := byName[f.name]
		if !ok {
			return "", fmt.Errorf("there is no test model %q", f.name)
		}
		t := trial{ctx: ctx, c: c, dir: dir}
		cells := []string{f.family, f.form}
		for _, try := range []func() (string, error){t.found, t.scored, t.dropped, t.healed, t.rewritten, t.run} {
			cell, err := try()
			if err != nil {
				cell = "no: " + short(err)
			}
			cells = append(cells, cell)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String(), nil
}

// short is the part of an error that fits into a cell.
func short(err error) string {
	s := strings.ReplaceAll(err.Error(), "|", "/")
	s, _, _ = strings.Cut(s, "\n")
	if i := strings.Index(s, "no kernel for "); i >= 0 {
		s, _, _ = strings.Cut(s[i:], " (")
	}
	if i := strings.Index(s, "no gradient"); i >= 0 {
		s, _, _ = strings.Cut(s[i:], " (")
	}
	if r := []rune(s); len(r) > 90 {
		s = string(r[:87]) + "…"
	}
	return s
}

// trial is what is tried on one model.
type trial struct {
	ctx  context.Context
	c    testmodels.Case
	dir  string
	list []modules.Module
}

// found counts the modules, in disguise too.
func (t *trial) found() (string, error) {
	var err error
	if t.list, err = modules.Find(t.c.Model()); err != nil {
		return "", err
	}
	m := t.c.Model()
	m.Graphs(func(g *graph.Graph) bool {
		for i, n := range g.Nodes() {
			n.Name = fmt.Sprint("n", i)
			for _, v := range n.Outputs() {
				if v != nil {
					v.Rename(g.FreshName(fmt.Sprint("v", i)))
				}
			}
		}
		return true
	})
	again, err := modules.Find(m)
	if err != nil {
		return "", err
	}
	if len(again) != len(t.list) {
		return "", fmt.Errorf("%d modules, %d when names are scrambled", len(t.list), len(again))
	}
	kinds := map[modules.Kind]int{}
	for i, x := range t.list {
		kinds[x.Kind]++
		if again[i].ID != x.ID {
			return "", fmt.Errorf("%s is %s when names are scrambled", x.ID, again[i].ID)
		}
		if !x.Droppable {
			return "", fmt.Errorf("%s: %s", x.ID, x.Reason)
		}
	}
	var out []string
	for _, k := range []struct {
		kind   modules.Kind
		letter string
	}{{modules.Attention, "A"}, {modules.CrossAttention, "X"}, {modules.MLP, "M"}} {
		if n := kinds[k.kind]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, k.letter))
		}
	}
	return strings.Join(out, ", "), nil
}

// source is made-up data in the form of the case's inputs, n samples of it.
// Caches and positions are left to be filled.
func (t *trial) source(n int) (*calib.Source, error) {
	r := rand.New(rand.NewPCG(1, 2))
	decoder := slices.ContainsFunc(t.c.Inputs, func(a *npz.Array) bool { return strings.HasPrefix(a.Name, "past_") })
	step := strings.HasSuffix(t.c.Name, "-step") // its cache of the encoder cannot be empty
	var list []*npz.Array
	for _, a := range t.c.Inputs {
		past := strings.HasPrefix(a.Name, "past_")
		if past && !step || a.Name == "use_cache_branch" || a.Name == "position_ids" || decoder && a.Name == "attention_mask" {
			continue
		}
		shape := slices.Clone(a.Shape)
		shape[0] = n
		if decoder && a.Name == "input_ids" && !step {
			shape[1] = 6
		}
		size := 1
		for _, d := range shape {
			size *= d
		}
		if a.DType == graph.Float32 {
			data := make([]float32, size)
			for i := range data {
				data[i] = float32(r.NormFloat64())
			}
			list = append(list, npz.Float32Array(a.Name, shape, data))
			continue
		}
		limit := int64(40)
		if a.Name == "token_type_ids" {
			limit = 2
		}
		data := make([]int64, size)
		for i := range data {
			if data[i] = r.Int64N(limit); strings.Contains(a.Name, "mask") {
				data[i] = 1
			}
		}
		list = append(list, npz.Int64Array(a.Name, shape, data))
	}
	var b bytes.Buffer
	if err := npz.Write(&b, list...); err != nil {
		return nil, err
	}
	return calib.SourceFromBytes("made up", b.Bytes(), calib.SourceOptions{})
}

func (t *trial) scored() (string, error) {
	m := t.c.Model()
	src, err := t.source(8)
	if err != nil {
		return "", err
	}
	ports, err := runtime.Ports(m)
	if err != nil {
		return "", err
	}
	feed, err := src.Bind(ports)
	if err != nil {
		return "", err
	}
	l, err := calib.Score(t.ctx, m, feed, calib.ScoreOptions{})
	if err != nil {
		return "", err
	}
	for _, x := range l.Modules {
		if x.Sums.Tokens == 0 || !(x.Score > 0 && x.Score < 2) {
			return "", fmt.Errorf("%s has the score %g of %d tokens", x.ID, x.Score, x.Sums.Tokens)
		}
	}
	return fmt.Sprintf("%d", len(l.Modules)), nil
}

// theirs runs a model in ONNX Runtime.
func (t *trial) theirs(m *graph.Model) (map[string]nd.Array, error) {
	path := filepath.Join(t.dir, "model.onnx")
	if err := m.Save(path, graph.SaveOptions{Force: true}); err != nil {
		return nil, err
	}
	s, err := ort.Open(path, ort.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	f, err := os.Create(filepath.Join(t.dir, "inputs.npz"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(npz.Write(f, t.c.Inputs...), f.Close()); err != nil {
		return nil, err
	}
	all, err := nd.ReadNPZ(f.Name())
	if err != nil {
		return nil, err
	}
	feeds := map[string]nd.Array{}
	for _, in := range s.Inputs {
		if a, ok := all[in.Name]; ok {
			feeds[in.Name] = a
		}
	}
	return s.Run(feeds)
}

// tolerance is what two runs of one model in float32 may differ by.
const tolerance = 1e-5

// worst is the largest relative error over all outputs of want.
func worst(got, want map[string]nd.Array) (float64, error) {
	most := 0.0
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			return 0, fmt.Errorf("no output %q", name)
		}
		if slices.Contains(w.Shape, 0) {
			continue
		}
		e, err := quality.RelativeError(g, w)
		if err != nil {
			return 0, fmt.Errorf("output %q: %w", name, err)
		}
		if most = max(most, e); !(e <= tolerance) {
			return most, fmt.Errorf("output %q: relative error %.1g", name, e)
		}
	}
	return most, nil
}

// dropped drops each module and compares with an export without it.
func (t *trial) dropped() (string, error) {
	most := 0.0
	for _, x := range t.list {
		m := t.c.Model()
		if err := passes.Run(t.ctx, m, &passes.Journal{}, passes.DropModules([]string{x.ID}, passes.DropOptions{}), passes.EliminateDeadCode()); err != nil {
			return "", err
		}
		got, err := t.theirs(m)
		if err != nil {
			return "", fmt.Errorf("without %s: %w", x.ID, err)
		}
		want, err := t.theirs(t.c.Model(x.ID))
		if err != nil {
			return "", fmt.Errorf("export without %s: %w", x.ID, err)
		}
		if len(got) != len(want) {
			return "", fmt.Errorf("without %s: %d outputs, want %d", x.ID, len(got), len(want))
		}
		e, err := worst(got, want)
		if err != nil {
			return "", fmt.Errorf("without %s: %w", x.ID, err)
		}
		most = max(most, e)
	}
	return fmt.Sprintf("%d of %d", len(t.list), len(t.list)), nil
}

// healed trains the model without its second layer, with itself as teacher.
func (t *trial) healed() (string, error) {
	src, err := t.source(64)
	if err != nil {
		return "", err
	}
	var layer []string
	for _, x := range t.list {
		if x.Layer == 1 {
			layer = append(layer, x.ID)
		}
	}
	m := t.c.Model()
	if err := passes.Run(t.ctx, m, &passes.Journal{}, passes.DropModules(layer, passes.DropOptions{}), passes.EliminateDeadCode()); err != nil {
		return "", err
	}
	r, err := train.Run(t.ctx, m, src, train.Options{Teacher: t.c.Model(), Steps: 30, Batch: 16, HeldOut: 0.25})
	if err != nil {
		return "", err
	}
	before, after := r.Curve[0].HeldOut, r.Best.HeldOut
	if !(after < before) {
		return "", fmt.Errorf("loss %.3g before, %.3g after", before, after)
	}
	return fmt.Sprintf("−%.0f %% loss", 100*(1-after/before)), nil
}

// rewritten counts the layers that become block-circulant, in a model that
// gives the same in both runtimes.
func (t *trial) rewritten() (string, error) {
	m, layers := t.c.Model(), 0
	rewrite := passes.RewriteCirculant(passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius, Layer: func(passes.CirculantLayer) { layers++ }})
	if err := passes.Run(t.ctx, m, &passes.Journal{}, rewrite, passes.EliminateDeadCode()); err != nil {
		return "", err
	}
	if layers == 0 {
		return "", errors.New("no layer")
	}
	want, err := t.theirs(m)
	if err != nil {
		return "", err
	}
	got, err := t.ours(m)
	if err != nil && strings.Contains(err.Error(), "no kernel") {
		return fmt.Sprint(layers), nil
	}
	if err == nil {
		_, err = worst(got, want)
	}
	return fmt.Sprint(layers), err
}

// ours runs a model in lathe.
func (t *trial) ours(m *graph.Model) (map[string]nd.Array, error) {
	p, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		return nil, err
	}
	feeds := map[string]tensor.Tensor{}
	for _, a := range t.c.Inputs {
		if v := m.Graph.Value(a.Name); v == nil || !v.IsInput() {
			continue
		}
		dims := make([]int64, len(a.Shape))
		for i, d := range a.Shape {
			dims[i] = int64(d)
		}
		g, err := graph.NewTensor(a.DType, dims, a.Raw)
		if err != nil {
			return nil, err
		}
		x, err := runtime.FromGraphTensor(g)
		if err != nil {
			return nil, err
		}
		if feeds[a.Name], err = x.Dense(); err != nil {
			return nil, err
		}
	}
	out, err := p.NewSession(runtime.SessionOptions{}).Run(t.ctx, feeds)
	if err != nil {
		return nil, err
	}
	arrays := map[string]nd.Array{}
	for name, x := range out {
		a := nd.Array{Shape: []int64{}}
		for _, d := range x.Shape() {
			a.Shape = append(a.Shape, int64(d))
		}
		if x.Shape().TotalSize() > 0 {
			a.Data = x.Data()
		}
		arrays[name] = a
	}
	return arrays, nil
}

// run compares a run with ONNX Runtime's.
func (t *trial) run() (string, error) {
	want, err := t.theirs(t.c.Model())
	if err != nil {
		return "", err
	}
	got, err := t.ours(t.c.Model())
	if err != nil {
		return "", err
	}
	e, err := worst(got, want)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("to %.0e", math.Max(e, 0x1p-24)), nil
}
