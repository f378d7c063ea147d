package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// A breakage makes a bad model or bad data of a good one.
type breakage struct {
	what  string
	model func(good []byte) []byte     // nil: the good model
	edit  func(m, g *wire.Message)     // nil: none; on the model and its graph
	data  func(mfcc nd.Array) nd.Array // nil: the good data
	file  func(good []byte) []byte     // nil: none; on the bytes of the data
}

var breakages = []breakage{
	{what: "an empty model", model: func([]byte) []byte { return nil }},
	{what: "a text for a model", model: func([]byte) []byte { return []byte("This is no model.\nNot at all.\n") }},
	{what: "random bytes for a model", model: func([]byte) []byte { return noise(100_000) }},
	{what: "a model cut at 10 bytes", model: func(m []byte) []byte { return m[:10] }},
	{what: "a model cut in the middle", model: func(m []byte) []byte { return m[:len(m)/2] }},
	{what: "a model without its last byte", model: func(m []byte) []byte { return m[:len(m)-1] }},
	{what: "a weight with other dims than data", edit: func(_, g *wire.Message) { g.Messages("initializer")[0].AddInt("dims", 7) }},
	{what: "a weight of 2^60 elements", edit: func(_, g *wire.Message) {
		w := g.Messages("initializer")[0]
		w.Remove("dims")
		w.AddInt("dims", 1<<30).AddInt("dims", 1<<30)
	}},
	{what: "a weight of 2^60 elements and no data", edit: func(_, g *wire.Message) {
		w := g.Messages("initializer")[0]
		w.Remove("dims")
		w.Remove("raw_data")
		w.Remove("float_data")
		w.AddInt("dims", 1<<60)
	}},
	{what: "a negative dimension", edit: func(_, g *wire.Message) {
		w := g.Messages("initializer")[0]
		w.Remove("dims")
		w.AddInt("dims", -1)
	}},
	{what: "a cycle", edit: func(_, g *wire.Message) {
		nodes := g.Messages("node")
		nodes[0].All("input")[0].Bytes = []byte(nodes[len(nodes)-1].Texts("output")[0])
	}},
	{what: "an input that nothing gives", edit: func(_, g *wire.Message) {
		g.Messages("node")[0].All("input")[0].Bytes = []byte("nobody")
	}},
	{what: "an operator that does not exist", edit: func(_, g *wire.Message) {
		g.Messages("node")[0].All("op_type")[0].Bytes = []byte("Teleport")
	}},
	{what: "an external path with ..", edit: func(_, g *wire.Message) { external(g.Messages("initializer")[0], "../../etc/passwd") }},
	{what: "an absolute external path", edit: func(_, g *wire.Message) { external(g.Messages("initializer")[0], "/etc/passwd") }},
	{what: "an external file that is not there", edit: func(_, g *wire.Message) { external(g.Messages("initializer")[0], "weights.bin") }},
	{what: "NaN weights", edit: func(_, g *wire.Message) {
		for _, w := range g.Messages("initializer") {
			for _, raw := range w.All("raw_data") {
				if float32s := w.Ints("data_type"); len(float32s) == 1 && float32s[0] == 1 {
					raw.Bytes = bytes.Repeat([]byte{0, 0, 0xc0, 0x7f}, len(raw.Bytes)/4)
				}
			}
		}
	}},
	{what: "data of another shape", data: func(a nd.Array) nd.Array { return nd.Of(make([]float32, 2*98*39), 2, 98, 39) }},
	{what: "data of another rank", data: func(a nd.Array) nd.Array { return nd.Of(make([]float32, 98*40), 98, 40) }},
	{what: "data of another type", data: func(a nd.Array) nd.Array { return nd.Of(make([]int64, 2*98*40), 2, 98, 40) }},
	{what: "no samples", data: func(a nd.Array) nd.Array { return nd.Of([]float32{}, 0, 98, 40) }},
	{what: "empty data", file: func([]byte) []byte { return nil }},
	{what: "random bytes for data", file: func([]byte) []byte { return noise(10_000) }},
	{what: "data cut in the middle", file: func(f []byte) []byte { return f[:len(f)/2] }},
	{what: "data of 2^60 elements", file: func([]byte) []byte { return hugeNPZ() }},
}

// noise is the same n random bytes every time.
func noise(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// external moves a weight's data, as it says, into another file.
func external(w *wire.Message, path string) {
	w.Remove("raw_data")
	w.AddInt("data_location", 1).AddMessage("external_data",
		(&wire.Message{Type: "StringStringEntryProto"}).AddText("key", "location").AddText("value", path))
}

// hugeNPZ is a file whose header claims more than any machine holds.
func hugeNPZ() []byte {
	dir, err := os.MkdirTemp("", "lathe-huge")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "x.npz")
	huge := nd.Array{Shape: []int64{1 << 40, 1 << 10, 1 << 10}, Data: []float32{1}}
	if err := nd.WriteNPZ(path, map[string]nd.Array{"mfcc": huge}); err != nil {
		return nil
	}
	text, _ := os.ReadFile(path)
	return text
}

// refuses gives `lathe score` each kind of bad input: it must end with exit
// status 2 and one line that names the file, without a panic, in little memory.
func refuses(b *workbench) (result, error) {
	goodModel, set, err := b.files("kwt1_mfcc_opset13.onnx", "kwt_eval.npz")
	if err != nil {
		return result{}, err
	}
	modelBytes, err := os.ReadFile(goodModel)
	if err != nil {
		return result{}, err
	}
	arrays, err := nd.ReadNPZ(set)
	if err != nil {
		return result{}, err
	}
	good, err := arrays["mfcc"].Rows(0, 2)
	if err != nil {
		return result{}, err
	}
	var wrong []string
	most := int64(0)
	for _, c := range breakages {
		model, data, out := b.file("bad-model.onnx"), b.file("bad-data.npz"), b.file("bad-ledger.json")
		named := model
		text := modelBytes
		if c.model != nil {
			text = c.model(modelBytes)
		}
		if c.edit != nil {
			m, err := wire.Parse(modelBytes, "ModelProto")
			if err != nil {
				return result{}, err
			}
			c.edit(m, m.Message("graph"))
			text = m.Append(nil)
		}
		if err := os.WriteFile(model, text, 0o644); err != nil {
			return result{}, err
		}
		samples := good
		if c.data != nil {
			samples, named = c.data(good), data
		}
		if err := nd.WriteNPZ(data, map[string]nd.Array{"mfcc": samples}); err != nil {
			return result{}, err
		}
		if c.file != nil {
			whole, err := os.ReadFile(data)
			if err == nil {
				named, err = data, os.WriteFile(data, c.file(whole), 0o644)
			}
			if err != nil {
				return result{}, err
			}
		}
		f, err := b.exec("score", model, "--data", data, "-o", out, "--quiet")
		if err != nil {
			return result{}, err
		}
		most = max(most, f.memory)
		message := strings.TrimSpace(f.stderr)
		complain := func(why string) {
			wrong = append(wrong, fmt.Sprintf("%s: %s: %q", c.what, why, firstLine(message)))
		}
		switch _, err := os.Stat(out); {
		case strings.Contains(f.stderr, "goroutine ") || strings.Contains(f.stderr, "panic"):
			complain("panic")
		case f.code != 2:
			complain(fmt.Sprintf("exit status %d", f.code))
		case message == "" || strings.Contains(message, "\n"):
			complain(fmt.Sprintf("%d lines", strings.Count(f.stderr, "\n")))
		case !strings.Contains(message, filepath.Base(named)):
			complain("does not name the file")
		case err == nil:
			complain("left an output")
			os.Remove(out)
		case f.memory > 256<<20:
			complain(fmt.Sprintf("used %d MiB", f.memory>>20))
		}
	}
	measured := fmt.Sprintf("%d of %d, at most %d MiB", len(breakages)-len(wrong), len(breakages), most>>20)
	if len(wrong) > 0 {
		measured += "; " + strings.Join(wrong, "; ")
	}
	return result{measured, len(wrong) == 0}, nil
}
