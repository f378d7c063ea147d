package calib_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

func input(name string, d graph.DType, dims ...any) runtime.Port {
	p := runtime.Port{Name: name, DType: d, Rank: len(dims), Shape: graph.Shape{}}
	for _, x := range dims {
		switch x := x.(type) {
		case int:
			p.Shape.Dims = append(p.Shape.Dims, graph.Known(int64(x)))
		case string:
			p.Shape.Dims = append(p.Shape.Dims, graph.Symbol(x))
		}
	}
	return p
}

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// batch opens data and returns the inputs of all its samples.
func batch(t testing.TB, path string, o calib.SourceOptions, ports ...runtime.Port) (*calib.Feed, map[string]*runtime.Tensor) {
	t.Helper()
	f, err := bindFile(path, o, ports...)
	if err != nil {
		t.Fatal(err)
	}
	in, err := f.Batch(0, f.Len())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*runtime.Tensor{}
	for name, d := range in {
		if out[name], err = runtime.FromDense(d); err != nil {
			t.Fatal(err)
		}
	}
	return f, out
}

func bindFile(path string, o calib.SourceOptions, ports ...runtime.Port) (*calib.Feed, error) {
	s, err := calib.OpenSource(path, o)
	if err != nil {
		return nil, err
	}
	return s.Bind(ports)
}

func tokenizerFile(name string) string {
	return filepath.Join("..", "internal", "tokenizer", "testdata", name+".json")
}

// tokensOf is what the library that defines tokenizer.json gives for a text.
func tokensOf(t testing.TB, name, text string) (ids []int64) {
	t.Helper()
	b, err := os.ReadFile(tokenizerFile("golden"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Texts  []string
		Golden map[string][]struct{ IDs []int64 }
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	at := slices.Index(g.Texts, text)
	if at < 0 {
		t.Fatalf("%q is not among the golden texts", text)
	}
	return g.Golden[name][at].IDs
}

// TestText: lines of text become the inputs of an encoder, with the tokens of
// the reference, filled up, and everything else by its meaning.
func TestText(t *testing.T) {
	lines := []string{"The Lathe TURNS the wood!", "the lathe turns", "木の器を回す。"}
	path := write(t, filepath.Join(t.TempDir(), "text.txt"), []byte("\ufeff"+lines[0]+"\r\n\n  \n"+lines[1]+"\n"+lines[2]))
	o := calib.SourceOptions{Tokenizer: tokenizerFile("bert")}
	f, in := batch(t, path, o, input("input_ids", graph.Int64, "N", "T"), input("attention_mask", graph.Int64, "N", "T"),
		input("token_type_ids", graph.Int32, "N", "T"), input("position_ids", graph.Int64, "N", "T"))
	length := 0
	for _, l := range lines {
		length = max(length, len(tokensOf(t, "bert", l)))
	}
	var ids, mask []int64
	for _, l := range lines {
		row := tokensOf(t, "bert", l)
		for i := range length {
			id, m := int64(0), int64(0)
			if i < len(row) {
				id, m = row[i], 1
			}
			ids, mask = append(ids, id), append(mask, m)
		}
	}
	if got := in["input_ids"]; !slices.Equal(got.Shape, []int{3, length}) || !slices.Equal(got.I64(), ids) {
		t.Errorf("ids %v %v, want %v", got.Shape, got.I64(), ids)
	}
	if got := in["attention_mask"]; !slices.Equal(got.I64(), mask) {
		t.Errorf("mask %v, want %v", got.I64(), mask)
	}
	if got := in["token_type_ids"]; got.DType != graph.Int32 || got.Len() != 3*length || slices.Max(got.I32()) != 0 {
		t.Errorf("types %v %v", got.DType, got.I32())
	}
	if got := in["position_ids"]; got.I64()[1] != 1 || got.I64()[length+4] != 4 {
		t.Errorf("positions %v", got.I64())
	}
	if len(f.Notes) == 0 || !strings.Contains(strings.Join(f.Notes, "\n"), "filled up to") {
		t.Errorf("notes %q", f.Notes)
	}
	// Other names, a fixed length, longer and shorter than the texts.
	_, in = batch(t, path, calib.SourceOptions{Tokenizer: o.Tokenizer, Map: map[string]string{"tokens": "input_1", "mask": "input_2", "types": "input_3"}},
		input("input_3", graph.Int32, "N", 4), input("input_1", graph.Int32, "N", 4), input("input_2", graph.Int32, "N", 4))
	if got := in["input_1"].I32()[:4]; !slices.Equal(got, []int32{2, int32(ids[1]), int32(ids[2]), 3}) {
		t.Errorf("cut at 4: %v", got)
	}
	if got := in["input_2"].I32(); slices.Min(got) != 1 {
		t.Errorf("mask at 4: %v", got)
	}
	// A decoder's cache begins empty, and its padding stands in front.
	_, in = batch(t, path, calib.SourceOptions{Tokenizer: leftPadded(t), Sequence: 12},
		input("input_ids", graph.Int64, "N", "T"), input("attention_mask", graph.Int64, "N", "P+T"), input("position_ids", graph.Int64, "N", "T"),
		input("past_key_values.0.key", graph.Float32, "N", 2, "P", 4))
	if got := in["past_key_values.0.key"].Shape; !slices.Equal(got, []int{3, 2, 0, 4}) {
		t.Errorf("past %v", got)
	}
	if got := in["attention_mask"].I64()[12:24]; !slices.IsSorted(got) || got[0] != 0 || got[11] != 1 {
		t.Errorf("padding in front: mask %v", got)
	}
	if got := in["position_ids"].I64()[12:24]; got[0] != 0 || got[11] != int64(len(tokensOf(t, "bert", lines[1]))-1) {
		t.Errorf("padding in front: positions %v", got)
	}
}

// leftPadded is BERT's tokenizer with its padding in front.
func leftPadded(t testing.TB) string {
	b, err := os.ReadFile(tokenizerFile("bert"))
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"padding":null`), []byte(`"padding":{"direction":"Left","pad_id":0,"pad_type_id":0}`), 1)
	return write(t, filepath.Join(t.TempDir(), "tokenizer.json"), b)
}

// TestUnmaskedText: of a model that takes no mask, tokens that fill up do not
// count in metrics: a text has the value that it has alone.
func TestUnmaskedText(t *testing.T) {
	m := testmodels.LLaMA(testmodels.Size{Seed: 1}, testmodels.LLaMAOptions{})
	dir := t.TempDir()
	var vocab []string
	for i := range 40 {
		vocab = append(vocab, fmt.Sprintf(`"w%d": %d`, i, i))
	}
	o := calib.SourceOptions{Tokenizer: write(t, filepath.Join(dir, "tokenizer.json"),
		[]byte(`{"pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": {`+strings.Join(vocab, ", ")+`}}}`))}
	short, long := "w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10 w11"
	nll := func(text string) []float64 {
		src, err := calib.OpenSource(write(t, filepath.Join(dir, "text.txt"), []byte(text)), o)
		if err != nil {
			t.Fatal(err)
		}
		e, err := calib.Evaluate(ctx, []*graph.Model{m}, src, calib.EvalOptions{Metric: calib.MetricNLL})
		if err != nil {
			t.Fatal(err)
		}
		return e[0].Samples
	}
	both, one, other := nll(short+"\n"+long), nll(short), nll(long)
	if math.Abs(both[0]-one[0]) > 1e-5 || math.Abs(both[1]-other[0]) > 1e-5 {
		t.Errorf("together %v, alone %v and %v", both, one, other)
	}
	src, err := calib.OpenSource(write(t, filepath.Join(dir, "text.txt"), []byte(short+"\n"+long)), o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{})
	if err != nil || l.Tokens != 3+8 {
		t.Errorf("%d tokens are scored, want 11; %v", l.Tokens, err)
	}
}

// TestJoin: pieces of one length, of all texts with an end between them.
func TestJoin(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "text.txt"), []byte("the lathe turns\nunknown ☃ snow\n"))
	var all []int64
	end := int64(376) // <|endoftext|> of the fixture
	for _, l := range []string{"the lathe turns", "unknown ☃ snow"} {
		all = append(append(all, tokensOf(t, "gpt2", l)...), end)
	}
	f, in := batch(t, path, calib.SourceOptions{Tokenizer: tokenizerFile("gpt2"), Join: true, Sequence: 5}, input("input_ids", graph.Int64, "N", "T"))
	if got := in["input_ids"]; f.Len() != len(all)/5 || !slices.Equal(got.I64(), all[:f.Len()*5]) {
		t.Errorf("%d pieces %v, want %v", f.Len(), got.I64(), all)
	}
	if _, err := f.Labels("label"); err == nil {
		t.Error("labels of joined texts")
	}
}

// TestJSONLines: fields of JSON lines are texts of several inputs, and labels.
func TestJSONLines(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "text.jsonl"), []byte(`{"body": "the lathe turns", "title": "trailing ", "label": 3, "topic": "wood"}
{"body": "unknown ☃ snow", "title": " leading", "label": 0, "topic": "snow"}
`))
	o := calib.SourceOptions{Tokenizer: tokenizerFile("t5"), Field: "body", Map: map[string]string{"title": "decoder_input_ids"}}
	f, in := batch(t, path, o, input("input_ids", graph.Int64, "N", "T"), input("attention_mask", graph.Int64, "N", "T"),
		input("decoder_input_ids", graph.Int64, "N", "D"), input("decoder_attention_mask", graph.Int64, "N", "D"))
	body, title := tokensOf(t, "t5", "the lathe turns"), tokensOf(t, "t5", "trailing ")
	if got := in["input_ids"].I64()[:len(body)]; !slices.Equal(got, body) {
		t.Errorf("ids %v, want %v", got, body)
	}
	if got := in["decoder_input_ids"].I64()[:len(title)]; !slices.Equal(got, title) {
		t.Errorf("decoder's ids %v, want %v", got, title)
	}
	if in["decoder_attention_mask"].Shape[1] != in["decoder_input_ids"].Shape[1] || in["attention_mask"].Shape[1] != in["input_ids"].Shape[1] {
		t.Errorf("masks %v and %v", in["attention_mask"].Shape, in["decoder_attention_mask"].Shape)
	}
	for name, want := range map[string][]int64{"label": {3, 0}, "topic": {1, 0}} {
		if got, err := f.Labels(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

// TestChoice: which samples are taken, and that the fingerprint tells.
func TestChoice(t *testing.T) {
	var text strings.Builder
	for i := range 40 {
		fmt.Fprintf(&text, `{"text": "the lathe turns", "n": %d}`+"\n", i)
	}
	path := write(t, filepath.Join(t.TempDir(), "text.jsonl"), []byte(text.String()))
	prints := map[string]bool{}
	numbers := func(o calib.SourceOptions) []int64 {
		o.Tokenizer = tokenizerFile("bert")
		f, err := bindFile(path, o, input("input_ids", graph.Int64, "N", "T"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := f.Labels("n")
		if err != nil {
			t.Fatal(err)
		}
		prints[f.Fingerprint()] = true
		return n
	}
	if got := numbers(calib.SourceOptions{Samples: 4}); !slices.Equal(got, []int64{0, 1, 2, 3}) {
		t.Errorf("first: %v", got)
	}
	if got := numbers(calib.SourceOptions{Samples: 4, Choice: calib.ChooseSpread}); !slices.Equal(got, []int64{0, 10, 20, 30}) {
		t.Errorf("spread: %v", got)
	}
	a := numbers(calib.SourceOptions{Samples: 8, Choice: calib.ChooseRandom, Seed: 1})
	b := numbers(calib.SourceOptions{Samples: 8, Choice: calib.ChooseRandom, Seed: 2})
	if again := numbers(calib.SourceOptions{Samples: 8, Choice: calib.ChooseRandom, Seed: 1}); !slices.Equal(a, again) {
		t.Errorf("the same seed gives %v and %v", a, again)
	}
	if len(a) != 8 || !slices.IsSorted(a) || len(slices.Compact(slices.Clone(a))) != 8 || slices.Equal(a, b) {
		t.Errorf("random: %v and %v", a, b)
	}
	if len(prints) != 4 {
		t.Errorf("%d fingerprints of 4 choices", len(prints))
	}
}

// ramp is the picture that the expected pixels were made of.
func ramp() image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, 40, 30))
	for y := range 30 {
		for x := range 40 {
			m.Set(x, y, color.NRGBA{uint8((6*x + y) % 256), uint8((8*y + x) % 256), uint8(x * y % 256), 255})
		}
	}
	return m
}

func encodePNG(t testing.TB, m image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The first row of each channel, and the third of blue, of the middle 24×24 of
// ramp scaled to 8×8, by torch 1.13's interpolate(mode="bilinear",
// antialias=True), which filters as Pillow does.
var scaledRamp = map[[2]int][]float64{
	{0, 0}: {59.75, 76.25, 94.25, 112.25, 130.25, 148.25, 166.25, 182.75},
	{1, 0}: {43.25, 46.0, 49.0, 52.0, 55.0, 58.0, 61.0, 63.75},
	{2, 0}: {39.31, 51.0, 63.75, 76.5, 89.25, 102.0, 114.75, 126.44},
	{2, 2}: {92.5, 120.0, 150.0, 180.0, 200.52, 164.15, 102.49, 77.06},
}

func TestPictures(t *testing.T) {
	dir := t.TempDir()
	for _, class := range []string{"b", "a"} {
		for i := range 2 {
			write(t, filepath.Join(dir, class, fmt.Sprint(i, ".png")), encodePNG(t, ramp()))
		}
	}
	write(t, filepath.Join(dir, "readme.txt"), []byte("not a picture"))
	o := calib.SourceOptions{Crop: 0.8, Normalize: calib.NormalizeNone}
	f, in := batch(t, dir, o, input("pixel_values", graph.Float32, "N", 3, 8, 8))
	p := in["pixel_values"]
	if !slices.Equal(p.Shape, []int{4, 3, 8, 8}) {
		t.Fatalf("shape %v", p.Shape)
	}
	for at, want := range scaledRamp {
		for x, w := range want {
			if got := float64(p.F32()[(at[0]*8+at[1])*8+x]); math.Abs(got-w) > 1 {
				t.Errorf("channel %d, row %d, column %d: %v, want %v", at[0], at[1], x, got, w)
			}
		}
	}
	if labels, err := f.Labels("labels"); err != nil || !slices.Equal(labels, []int64{0, 0, 1, 1}) {
		t.Errorf("labels %v, %v", labels, err)
	}
	// The other normalizations and layouts are the same pixels.
	raw := p.F32()
	for _, c := range []struct {
		normalize  calib.Normalize
		less, over [3]float64
	}{
		{calib.NormalizeImageNet, [3]float64{0.485 * 255, 0.456 * 255, 0.406 * 255}, [3]float64{0.229 * 255, 0.224 * 255, 0.225 * 255}},
		{"", [3]float64{0.485 * 255, 0.456 * 255, 0.406 * 255}, [3]float64{0.229 * 255, 0.224 * 255, 0.225 * 255}},
		{calib.NormalizeHalf, [3]float64{127.5, 127.5, 127.5}, [3]float64{127.5, 127.5, 127.5}},
		{calib.NormalizeZeroOne, [3]float64{}, [3]float64{255, 255, 255}},
	} {
		_, in := batch(t, dir, calib.SourceOptions{Crop: 0.8, Normalize: c.normalize, Size: 8}, input("x", graph.Float32, "N", "H", "W", 3))
		got := in["x"]
		for i, v := range raw[:3*64] {
			ch, at := i/64, i%64
			if want := (float64(v) - c.less[ch]) / c.over[ch]; math.Abs(float64(got.F32()[at*3+ch])-want) > 1e-5 {
				t.Fatalf("%s: pixel %d of channel %d is %v, want %v", c.normalize, at, ch, got.F32()[at*3+ch], want)
			}
		}
	}
	_, in = batch(t, dir, o, input("x", graph.Uint8, "N", 8, 8, 3))
	if b := in["x"]; b.DType != graph.Uint8 || float32(b.Bytes()[2]) != raw[2*64] {
		t.Errorf("uint8: %v %v, want %v", b.DType, b.Bytes()[2], raw[2*64])
	}
	_, in = batch(t, dir, calib.SourceOptions{Normalize: calib.NormalizeNone}, input("x", graph.Float32, "N", 30, 40))
	if g := in["x"].F32()[5]; math.Abs(float64(g)-(0.299*30+0.587*5)) > 1 { // 0.114 of blue, which is 0 there
		t.Errorf("grey: %v", g)
	}
}

// sound makes a WAV file.
func sound(format, bits, channels, rate int, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("RIFF")
	le := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	le(uint32(4 + 24 + 8 + len(data)))
	b.WriteString("WAVEfmt ")
	le(uint32(16))
	le(uint16(format))
	le(uint16(channels))
	le(uint32(rate))
	le(uint32(rate * channels * bits / 8))
	le(uint16(channels * bits / 8))
	le(uint16(bits))
	b.WriteString("data")
	le(uint32(len(data)))
	b.Write(data)
	return b.Bytes()
}

func TestSounds(t *testing.T) {
	dir := t.TempDir()
	pcm := func(v ...int16) []byte {
		var b bytes.Buffer
		binary.Write(&b, binary.LittleEndian, v)
		return b.Bytes()
	}
	ieee := func(v ...float32) []byte {
		var b bytes.Buffer
		binary.Write(&b, binary.LittleEndian, v)
		return b.Bytes()
	}
	write(t, filepath.Join(dir, "no", "a.wav"), sound(1, 16, 2, 16000, pcm(16384, 0, -32768, -32768, 8192, -8192)))
	write(t, filepath.Join(dir, "yes", "b.WAV"), sound(3, 32, 1, 16000, ieee(0.5, -0.25, 1, 0.125, 0.75)))
	write(t, filepath.Join(dir, "yes", "c.wav"), sound(1, 8, 1, 16000, []byte{128, 255, 0}))
	write(t, filepath.Join(dir, "yes", "d.wav"), sound(1, 24, 1, 16000, []byte{0, 0, 0x40, 0, 0, 0xC0}))
	f, in := batch(t, dir, calib.SourceOptions{}, input("input_values", graph.Float32, "N", 4), input("attention_mask", graph.Int64, "N", "T"))
	want := []float32{0.25, -1, 0, 0, 0.5, -0.25, 1, 0.125, 0, 127. / 128, -1, 0, 0.5, -0.5, 0, 0}
	if got := in["input_values"]; !slices.Equal(got.F32(), want) {
		t.Errorf("%v, want %v", got.F32(), want)
	}
	if got := in["attention_mask"].I64(); !slices.Equal(got, []int64{1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0}) {
		t.Errorf("mask %v", got)
	}
	if labels, err := f.Labels("labels"); err != nil || !slices.Equal(labels, []int64{0, 1, 1, 1}) {
		t.Errorf("labels %v, %v", labels, err)
	}
	_, in = batch(t, dir, calib.SourceOptions{Normalize: calib.NormalizeStandard}, input("x", graph.Float32, "N", 1, "T"))
	if got := in["x"]; !slices.Equal(got.Shape, []int{4, 1, 5}) || math.Abs(float64(got.F32()[15])-1) > 1e-5 || got.F32()[17] != 0 {
		t.Errorf("standard: %v %v", got.Shape, got.F32())
	}
}

// TestMediaErrors: what cannot be read says why, in one line, whatever a file
// claims.
func TestMediaErrors(t *testing.T) {
	ids, mask := input("input_ids", graph.Int64, "N", "T"), input("attention_mask", graph.Int64, "N", "T")
	image3, wave := input("pixels", graph.Float32, "N", 3, 8, 8), input("wave", graph.Float32, "N", 16)
	bert := calib.SourceOptions{Tokenizer: tokenizerFile("bert")}
	huge := encodePNG(t, ramp())
	binary.BigEndian.PutUint32(huge[16:], 1e5) // width, behind the signature and the chunk's head
	binary.BigEndian.PutUint32(huge[20:], 1e5)
	binary.BigEndian.PutUint32(huge[29:], crcOf(huge[12:29]))
	cut := sound(1, 16, 1, 16000, make([]byte, 8))
	binary.LittleEndian.PutUint32(cut[40:], 0xFFFF0000) // the size of the data
	binary.LittleEndian.PutUint32(cut[4:], 0xFFFFFFF0)
	for _, c := range []struct {
		name, file string
		data       []byte
		o          calib.SourceOptions
		ports      []runtime.Port
		want       string
	}{
		{"no tokenizer", "a.txt", []byte("text"), calib.SourceOptions{}, []runtime.Port{ids}, "--tokenizer tokenizer.json"},
		{"a tokenizer for arrays", "a.npz", []byte("text"), bert, []runtime.Port{ids}, "a tokenizer is for text"},
		{"no tokenizer.json", "a.txt", []byte("text"), calib.SourceOptions{Tokenizer: "none.json"}, []runtime.Port{ids}, "none.json"},
		{"empty", "a.txt", []byte("\n \n"), bert, []runtime.Port{ids}, "holds no text"},
		{"a long line", "a.txt", bytes.Repeat([]byte("a"), 5<<20), bert, []runtime.Port{ids}, "longer than 4 MB"},
		{"over the limit", "a.txt", bytes.Repeat([]byte("the lathe\n"), 1000), calib.SourceOptions{Tokenizer: bert.Tokenizer, Limit: 5000}, []runtime.Port{ids}, "limit"},
		{"no JSON", "a.jsonl", []byte("{]"), bert, []runtime.Port{ids}, "line 1: no JSON object"},
		{"no field", "a.jsonl", []byte(`{"a": 1, "b": 2}`), bert, []runtime.Port{ids}, `no field "text"; it has a, b; choose the text with --field`},
		{"no string", "a.jsonl", []byte(`{"text": 1}`), bert, []runtime.Port{ids}, "is not a string"},
		{"two inputs", "a.txt", []byte("text"), bert, []runtime.Port{input("a", graph.Int64, "N", "T"), input("b", graph.Int64, "N", "T")}, "--map tokens=a"},
		{"no input", "a.txt", []byte("text"), bert, []runtime.Port{image3}, "no input takes tokens"},
		{"an input that lacks", "a.txt", []byte("text"), bert, []runtime.Port{ids, image3}, "nothing feeds input pixels"},
		{"no room", "a.txt", []byte("text"), bert, []runtime.Port{input("input_ids", graph.Int64, "N", 1), mask}, "adds 2 to every text"},
		{"two lengths", "a.txt", []byte("text"), calib.SourceOptions{Tokenizer: bert.Tokenizer, Sequence: 9}, []runtime.Port{input("input_ids", graph.Int64, "N", 4)}, "--seq"},
		{"no such array", "a.txt", []byte("text"), calib.SourceOptions{Tokenizer: bert.Tokenizer, Map: map[string]string{"title": "input_ids"}}, []runtime.Port{ids}, "no such array"},
		{"too few to join", "a.txt", []byte("text"), calib.SourceOptions{Tokenizer: bert.Tokenizer, Join: true, Sequence: 100}, []runtime.Port{ids}, "a piece has 100"},
		{"no picture", "d/a.png", []byte("picture"), calib.SourceOptions{}, []runtime.Port{image3}, "is no PNG or JPEG"},
		{"a huge picture", "d/a.png", huge, calib.SourceOptions{}, []runtime.Port{image3}, "100000×100000 pixels"},
		{"a cut picture", "d/a.png", encodePNG(t, ramp())[:200], calib.SourceOptions{}, []runtime.Port{image3}, "cannot be decoded"},
		{"an open size", "d/a.png", encodePNG(t, ramp()), calib.SourceOptions{}, []runtime.Port{input("x", graph.Float32, "N", 3, "H", "W")}, "--size 224"},
		{"a huge input", "d/a.png", encodePNG(t, ramp()), calib.SourceOptions{}, []runtime.Port{input("x", graph.Float32, "N", 3, 1<<40, 1<<40)}, "the largest have"},
		{"two channels", "d/a.png", encodePNG(t, ramp()), calib.SourceOptions{}, []runtime.Port{input("x", graph.Float32, "N", 2, 8, 8)}, "neither one channel nor three"},
		{"no input for pictures", "d/a.png", encodePNG(t, ramp()), calib.SourceOptions{}, []runtime.Port{ids}, "no input takes pictures"},
		{"grey of ImageNet", "d/a.png", encodePNG(t, ramp()), calib.SourceOptions{Normalize: calib.NormalizeImageNet}, []runtime.Port{input("x", graph.Float32, "N", 1, 8, 8)}, "three channels"},
		{"a picture for sounds", "d/a.wav", cut, calib.SourceOptions{Normalize: calib.NormalizeHalf}, []runtime.Port{wave}, "is for pictures"},
		{"no sound", "d/a.wav", []byte("RIFF"), calib.SourceOptions{}, []runtime.Port{wave}, "is no WAV file"},
		{"a cut sound", "d/a.wav", cut, calib.SourceOptions{}, []runtime.Port{wave}, "cut off"},
		{"an unknown format", "d/a.wav", sound(85, 16, 1, 16000, make([]byte, 8)), calib.SourceOptions{}, []runtime.Port{wave}, "format 85"},
		{"another rate", "d/a.wav", sound(1, 16, 1, 44100, make([]byte, 8)), calib.SourceOptions{}, []runtime.Port{wave}, "-r 16000 out.wav, or give --rate 44100"},
		{"not a number", "d/a.wav", sound(3, 32, 1, 16000, []byte{0, 0, 0xC0, 0x7F}), calib.SourceOptions{}, []runtime.Port{wave}, "is not a number"},
		{"no input for sounds", "d/a.wav", sound(1, 16, 1, 16000, make([]byte, 8)), calib.SourceOptions{}, []runtime.Port{ids}, "no input takes sounds"},
		{"a long input", "d/a.wav", sound(1, 16, 1, 16000, make([]byte, 8)), calib.SourceOptions{Limit: 1 << 20}, []runtime.Port{input("x", graph.Float32, "N", 1<<40)}, "limit"},
		{"nothing", "d/a.doc", []byte("x"), calib.SourceOptions{}, []runtime.Port{ids}, "has no test_data_set_0, no pictures"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), c.file), c.data)
			if strings.HasPrefix(c.file, "d/") {
				path = filepath.Dir(path)
			}
			f, err := bindFile(path, c.o, c.ports...)
			if err == nil {
				_, err = f.Batch(0, f.Len())
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "data ") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	both := t.TempDir()
	write(t, filepath.Join(both, "a.png"), encodePNG(t, ramp()))
	write(t, filepath.Join(both, "a.wav"), cut)
	if _, err := calib.OpenSource(both, calib.SourceOptions{}); err == nil || !strings.Contains(err.Error(), "folders of their own") {
		t.Errorf("pictures and sounds: %v", err)
	}
}

func crcOf(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

// FuzzMedia: no file of text, picture or sound does worse than an error.
func FuzzMedia(f *testing.F) {
	f.Add(encodePNG(f, ramp()), uint8(0))
	f.Add(sound(1, 16, 2, 16000, make([]byte, 16)), uint8(1))
	f.Add([]byte(`{"text": "the lathe", "label": 1}`), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		dir := t.TempDir()
		o := calib.SourceOptions{Limit: 16 << 20}
		p := input("x", graph.Float32, "N", 3, 8, 8)
		path := dir
		switch kind % 3 {
		case 0:
			write(t, filepath.Join(dir, "a.png"), data)
		case 1:
			write(t, filepath.Join(dir, "a.wav"), data)
			p = input("x", graph.Float32, "N", 16)
		case 2:
			path = write(t, filepath.Join(dir, "a.jsonl"), data)
			o.Tokenizer = tokenizerFile("words")
			p = input("x", graph.Int64, "N", "T")
		}
		if feed, err := bindFile(path, o, p); err == nil {
			feed.Batch(0, feed.Len())
			feed.Labels("label")
		}
	})
}
