package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

var bless = flag.Bool("bless", false, "write the goldens in testdata anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *bless {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; look at what changed, then go test ./cmd/lathe -bless\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// result is what one command line did.
type result struct {
	code     int
	out, err string
}

func lathe(args ...string) result { return latheContext(context.Background(), args...) }

func latheContext(ctx context.Context, args ...string) result {
	var out, err bytes.Buffer
	code := execute(ctx, args, &out, &err)
	return result{code, out.String(), err.String()}
}

// ok runs a command line that has to succeed, and returns its output.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := lathe(args...)
	if r.code != 0 {
		t.Fatalf("lathe %s: status %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// refused runs a command line that has to end with status 2, one line that
// holds all words, and nothing on standard output.
func refused(t *testing.T, words []string, args ...string) {
	t.Helper()
	r := lathe(args...)
	line := "lathe " + strings.Join(args, " ")
	if r.code != exitBad || r.out != "" {
		t.Errorf("%s: status %d, %q on standard output; want 2 and nothing", line, r.code, r.out)
	}
	if !strings.HasPrefix(r.err, "lathe: ") || strings.Count(r.err, "\n") != 1 || !strings.HasSuffix(r.err, "\n") || strings.Contains(r.err, "panic") {
		t.Errorf("%s: want one line, got %q", line, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			t.Errorf("%s: %q does not say %q", line, r.err, w)
		}
	}
}

// object runs a command line with --json and decodes the one object that it
// has to print.
func object(t *testing.T, args ...string) map[string]any {
	t.Helper()
	return decode(t, ok(t, append(args, "--json")...))
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("not a JSON object: %v\n%s", err, text)
	}
	if d.More() {
		t.Fatalf("more than one JSON object:\n%s", text)
	}
	return v
}

// folder is a new folder with the embedded model, calibration and evaluation
// data of a few samples, and what the commands make of them.
type folder struct{ dir string }

func newFolder(t *testing.T) folder {
	t.Helper()
	f := folder{t.TempDir()}
	model, _, _ := testmodels.Demo()
	f.write(t, "model.onnx", model)
	for name, seed := range map[string]uint64{"calib.npz": testmodels.CalibSeed, "eval.npz": testmodels.EvalSeed} {
		data, err := testmodels.WordArchive(seed, 24)
		if err != nil {
			t.Fatal(err)
		}
		f.write(t, name, data)
	}
	return f
}

func (f folder) in(name string) string { return filepath.Join(f.dir, name) }

func (f folder) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(f.in(name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return f.in(name)
}

func (f folder) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(f.in(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// plain takes the folder and the sizes of files out of a text.
func (f folder) plain(text string) string {
	return regexp.MustCompile(`[0-9,]+ bytes`).ReplaceAllString(strings.ReplaceAll(text, f.dir+string(filepath.Separator), ""), "N bytes")
}

// archive is an .npz of arrays.
func archive(t *testing.T, arrays ...*npz.Array) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := npz.Write(&b, arrays...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// list is what lies in the folder.
func (f folder) list(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// commands lists every command that a user can call, those of groups too.
func commands() []*cobra.Command {
	var out []*cobra.Command
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.Hidden {
			out = append(out, c)
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk((&app{}).root())
	return out
}

// TestHelp holds the help of every command: what a reader sees first.
func TestHelp(t *testing.T) {
	var all strings.Builder
	for _, c := range commands() {
		path := strings.Fields(c.CommandPath())[1:]
		text := ok(t, append(path, "--help")...)
		if again := ok(t, append([]string{"help"}, path...)...); again != text {
			t.Errorf("help %s differs from %s --help", path, path)
		}
		if path := strings.Join(path, " "); !strings.HasPrefix(path, "completion") {
			all.WriteString("# lathe " + path + "\n\n" + text + "\n")
			if !strings.Contains(text, "Examples:\n") {
				t.Errorf("%s: the help has no example", c.CommandPath())
			}
		}
		for _, line := range strings.Split(text, "\n") {
			if strings.Contains(line, "(default -1)") || strings.Contains(line, "NaN") {
				t.Errorf("%s: the help shows what stands for \"not given\": %s", c.CommandPath(), line)
			}
		}
	}
	golden(t, "help.txt", all.String())
	if alone := ok(t); alone != ok(t, "--help") {
		t.Error("lathe alone does not show the help")
	}
}

// TestUsage: wrong usage is one line that says what is wrong and where to
// look.
func TestUsage(t *testing.T) {
	f := newFolder(t)
	m, d, o := f.in("model.onnx"), f.in("calib.npz"), f.in("out")
	big := f.write(t, "big.npz", archive(t, npz.Float32Array("features", []int{1000, 40, 8}, make([]float32, 320000))))
	for _, c := range []struct {
		args  string
		words string // that the line has to hold, separated by |
	}{
		{"insepct", `no command "insepct"|did you mean inspect?|lathe --help`},
		{"insepct x --data y", `no command "insepct"`},
		{"--jsn", "no flag --jsn|did you mean --json?"},
		{"ledger merg", "did you mean merge?|lathe ledger --help"},
		{"completion tcsh", `no command "tcsh"`},
		{"help nothing", `no command "nothing"`},
		{"help inspect nothing", `no command "nothing"`},
		{"version x", "want nothing more"},
		{"inspect", "want one model, got none|lathe inspect --help"},
		{"inspect a b", "got 2 arguments"},
		{"inspect M --tokens 0", "--tokens 0|1 or more"},
		{"inspect NONE", "NONE|no such file"},
		{"inspect DIR", "is a folder"},
		{"text M --elide -1", "--elide -1"},
		{"score M --data D", "-o LEDGER.json|--dry-run"},
		{"score M -o O", "score needs --data"},
		{"score M --data=-o -o O", "-o: no such file"},
		{"score M --data D -o", "needs an argument"},
		{"score M --data NONE -o O", "NONE|no such file|.npz"},
		{"score M --data DIR -o O", "test_data_set_0"},
		{"score M --data M -o O", "not an .npz"},
		{"score M --data D -o O --samples -1", "--samples -1"},
		{"score M --data D -o O --samples 1e3", "--samples 1e3|whole number"},
		{"score M --data D -o O --threads -2", "--threads -2"},
		{"score M --data D -o O --memory 0", "--memory 0"},
		{"score M --data D -o O --shard 2/2", "--shard 2/2"},
		{"score M --data D -o O --shard 1", "--shard 1|0/4"},
		{"score M --data D -o O --shard 0/1000", "24 samples"},
		{"score M --data D -o O --map features", "want array=input"},
		{"score M --data D -o O --map a=b", "a=b"},
		{"score M --data D -o O --map a=b --map a=c", "already"},
		{"score M --data D -o O --map labels=features", "labels|int64"},
		{"score M --data D -o DIR", "is a folder"},
		{"score M --data D -o NONE/O", "NONE|name another folder"},
		{"score M --data D -o M", "is also an input|--force"},
		{"score M --data D -o D", "is also an input"},
		{"drop M -o O", "--count"},
		{"drop M -o O --count 2 --fraction 0.5", "one of"},
		{"drop M -o O --count -2", "--count -2|0 or more"},
		{"drop M -o O --count 2", "--ledger L or --data D"},
		{"drop M -o O --count 2 --recover mean --select deepest", "--recover mean"},
		{"drop M -o O --count 2 --select loss", "data"},
		{"drop M -o O --count 99 --data D", "99 to drop of 16"},
		{"drop M -o O --fraction 1.5", "from 0 to 1"},
		{"drop M -o O --fraction NaN", "from 0 to 1"},
		{"drop M -o O --modules A1,M99", "M99|A0 M0"},
		{"drop M -o O --modules A1,A1", "twice"},
		{"drop M -o O --count 1 --mode heads", "--mode heads|joint, attention, mlp or block"},
		{"drop M -o O --count 1 --select best", "--select best|cosine"},
		{"drop M -o O --count 1 --ledger NONE", "NONE|lathe score"},
		{"drop M -o O --count 1 --ledger DIR", "DIR"},
		{"drop M -o O --count 1 --ledger M", "is it a file that lathe score wrote?"},
		{"drop M -o M --count 0", "is also an input|--force"},
		{"circulant M -o O", "--block"},
		{"circulant M -o O --block 1", "2 or more"},
		{"circulant M -o O --block 4", "--data D|--fit frobenius"},
		{"circulant M -o O --block 4 --data D --ledger L", "one of them"},
		{"circulant M -o O --block 4 --fit best", "lsq or frobenius"},
		{"circulant M -o O --block 4 --fit frobenius --only (", "--only"},
		{"circulant M -o O --block 4 --fit frobenius --only nothing", "nothing"},
		{"circulant M -o O --block 10000 --fit frobenius", "no layer was rewritten|10000"},
		{"circulant M -o O --block 1000000 --fit frobenius", "block size 1000000"},
		{"circulant M -o O --block 4 --data D --ridge -1", "--ridge -1"},
		{"heal M --data D -o O", "--teacher MODEL"},
		{"heal M --teacher M -o O", "heal needs --data"},
		{"heal M --teacher M --data D", "-o OUT.onnx|--dry-run"},
		{"heal M --teacher M --data D -o M", "is also an input"},
		{"heal M --teacher M --data D -o O --checkpoint O", "is also an input"},
		{"heal M --teacher M --data D -o O --resume", "--checkpoint FILE"},
		{"heal M --teacher M --data D -o O --lr 0", "--lr 0"},
		{"heal M --teacher M --data D -o O --steps 0", "--steps 0|1 or more"},
		{"heal M --teacher M --data D -o O --labels none", "none|features, labels"},
		{"heal M --teacher M --data D -o O --only nothing", "nothing to train"},
		{"heal M --teacher M --data D -o O --memory 1", "memory limit|--memory|smaller chunks|recompute"},
		{"heal M --teacher M --data D -o O --memory 4 --chunk 1 --threads 2", "memory limit|--memory"},
		{"heal M --teacher NONE --data D -o O", "NONE|no such file"},
		{"train M --data D -o O", "--labels NAME"},
		{"train M --data D -o O --labels labels --begin best", "random or given"},
		{"optimize M --data D", "-o OUT.onnx|--report"},
		{"optimize M --data D -o O --report O", "is also an input"},
		{"optimize M --data D -o O --recipe NONE", "NONE"},
		{"optimize M --data D -o O --metric best", "--metric best"},
		{"optimize M --data D -o O --labels none", "none|features, labels"},
		{"run M", "needs --data"},
		{"run M --data D --expect NONE", "NONE"},
		{"run M --data D --expect D", "no output of the model|logits"},
		{"run M --data D --expect DIR", "the one given as --data"},
		{"run M --data D --rtol -1", "--rtol -1"},
		{"run M --data D -o D", "is also an input"},
		{"run M --data BIG --memory 1", "over the limit|--memory"},
		{"run M --data D --batch 24 --memory 1", "memory limit|--memory"},
		{"eval M --data D", "kl compares with a first model"},
		{"eval M M --data D --metric accuracy", "--labels"},
		{"eval M M --data D --metric nll", "token ids"},
		{"eval M M --data D --labels labels --output-name x", "x|logits"},
		{"eval M M --data D --gate high", "--gate high|a number"},
		{"bench M --runs 0", "--runs 0"},
		{"bench M --batch 0", "--batch 0"},
		{"bench M --batch 100000000000", "--memory"},
		{"verify M --data D", "give a second model"},
		{"verify M M M --data D", "one or two models"},
		{"ledger merge -o O", "want ledgers"},
		{"ledger merge NONE -o O", "NONE"},
		{"ledger merge M -o O", "lathe score"},
		{"demo x", "want nothing more"},
		{"demo --dir M", "M"},
	} {
		t.Run(c.args, func(t *testing.T) {
			before := f.list(t)
			args := strings.Fields(c.args)
			words := strings.Split(c.words, "|")
			for _, list := range [][]string{args, words} {
				for i, a := range list {
					switch a {
					case "M":
						list[i] = m
					case "D":
						list[i] = d
					case "BIG":
						list[i] = big
					case "O":
						list[i] = o
					case "DIR":
						list[i] = f.dir
					case "NONE", "NONE/O", "L":
						list[i] = f.in("none/" + a)
					}
				}
			}
			refused(t, words, args...)
			if after := f.list(t); !slices.Equal(before, after) {
				t.Errorf("left behind: %v, there was %v", after, before)
			}
		})
	}
}

// TestCompletion: the scripts name the program, and words are completed.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if s := ok(t, "completion", shell); !strings.Contains(s, "lathe") || len(s) < 1000 {
			t.Errorf("%s: no script:\n%s", shell, s)
		}
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"in"}, []string{"inspect"}},
		{[]string{"help", "op"}, []string{"optimize"}},
		{[]string{"drop", "m.onnx", "--mode", ""}, []string{"joint", "attention", "mlp", "block"}},
		{[]string{"eval", "m.onnx", "--metric", "a"}, []string{"accuracy", "agreement"}},
		{[]string{"inspect", ""}, []string{"onnx", ":8"}}, // files that end in .onnx
		{[]string{"drop", "m.onnx", "--ledger", ""}, []string{"json", ":8"}},
	} {
		got := strings.Fields(ok(t, append([]string{cobra.ShellCompRequestCmd}, c.args...)...))
		for _, w := range c.want {
			if !slices.Contains(got, w) {
				t.Errorf("%v completes to %v, want %s among it", c.args, got, w)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	if s := ok(t, "version"); !strings.HasPrefix(s, "lathe ") || strings.Count(s, "\n") != 1 {
		t.Errorf("got %q", s)
	}
	v := object(t, "version")
	for _, key := range []string{"version", "go", "os", "arch"} {
		if s, _ := v[key].(string); s == "" {
			t.Errorf("no %s in %v", key, v)
		}
	}
}
