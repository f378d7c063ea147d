package lathe_test

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/onnx-lathe/lathe"

// floors is the law of imports: a package imports only from floors below its
// own. Floors are separated by "<", the lowest comes first. Test files are
// free, since a test may look at its subject from above.
const floors = `
	internal/simd, internal/atomicfile, graph/onnxpb, graph/internal/schemagen
	< graph
	< graph/modules, runtime/circulant, runtime/fixed, internal/npz, internal/tokenizer
	< testmodels, testmodels/fixed
	< testmodels/gen
	< runtime
	< runtime/generate, runtime/onnxgo, runtime/conformance, calib/metric
	< calib
	< passes
	< passes/train
	< passes/optimize
	< internal/report
	< cmd/lathe, testmodels/train
`

// narrower says what a package may import where that is less than all floors
// below it: of this module, and of others.
var narrower = []struct {
	pkg     string
	only    []string // of this module; nil for all below
	outside []string // modules or paths that it must not know
	why     string
}{
	{"testmodels", []string{"graph", "internal/npz"}, nil, "a model builder that knows passes or kernels could hide their faults"},
	{"graph", nil, []string{"gorgonia.org", "gonum.org"}, "a model in memory needs no tensor library, and those panic on empty dimensions"},
	{"runtime/generate", []string{"graph", "graph/modules", "runtime"}, nil, "decoding is for programs that know no passes"},
	{"internal/simd", []string{}, []string{"gorgonia.org", "gonum.org"}, "kernels work on slices"},
}

// parseFloors maps a package, as a path inside the module, to its floor.
func parseFloors(text string) map[string]int {
	floor := map[string]int{}
	for n, line := range strings.Split(text, "<") {
		for _, pkg := range strings.Split(line, ",") {
			floor[strings.TrimSpace(pkg)] = n
		}
	}
	return floor
}

// A source is one Go file: its package's path inside the module and what it
// imports.
type source struct {
	pkg, file string
	imports   []string
}

// sources parses every Go file of the module, whatever its build constraints.
// Nested modules and folders that the go command leaves out are no part of it.
func sources(root fs.FS) ([]source, error) {
	var all []source
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name == "." {
				return nil
			}
			if base == "testdata" || base == "vendor" || base == "node_modules" || base[0] == '.' || base[0] == '_' {
				return fs.SkipDir
			}
			if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		s := source{pkg: path.Dir(name), file: name}
		for _, imp := range parsed.Imports {
			target, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, target)
		}
		all = append(all, s)
		return nil
	})
	return all, err
}

// breaches returns a line for everything in the files that breaks the law.
func breaches(files []source, floor map[string]int) []string {
	var found []string
	say := func(format string, a ...any) { found = append(found, fmt.Sprintf(format, a...)) }
	for _, f := range files {
		if slices.Contains(f.imports, "C") {
			say(`%s imports "C": the main module has no cgo`, f.file)
		}
		if strings.HasSuffix(f.file, "_test.go") {
			continue
		}
		own, ok := floor[f.pkg]
		if !ok {
			say("%s: package %s stands on no floor: give it one in deps_test.go", f.file, f.pkg)
			continue
		}
		for _, target := range f.imports {
			inside, ok := strings.CutPrefix(target, module+"/")
			if ok {
				if at, ok := floor[inside]; !ok {
					say("%s imports %s, which stands on no floor", f.file, inside)
				} else if at >= own {
					say("%s: %s (floor %d) imports %s (floor %d): only floors below its own are open to it", f.file, f.pkg, own, inside, at)
				}
			}
			for _, n := range narrower {
				if n.pkg != f.pkg {
					continue
				}
				if ok && n.only != nil && !slices.Contains(n.only, inside) {
					say("%s: %s imports %s: of this module it may import %v only: %s", f.file, f.pkg, inside, n.only, n.why)
				}
				for _, out := range n.outside {
					if target == out || strings.HasPrefix(target, out+"/") {
						say("%s: %s imports %s: %s", f.file, f.pkg, target, n.why)
					}
				}
			}
		}
	}
	return found
}

func TestImportsKeepTheFloors(t *testing.T) {
	files, err := sources(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f source) bool { return f.file == "graph/ir.go" }) {
		t.Fatal("the search for source files does not even find graph/ir.go")
	}
	for _, b := range breaches(files, parseFloors(floors)) {
		t.Error(filepath.FromSlash(b))
	}
}

// The law itself: what it must catch, and what it must let pass.
func TestFloorLawCatches(t *testing.T) {
	floor := parseFloors("a, graph < testmodels, b < c")
	for _, c := range []struct {
		file   string
		target string
		breach string // part of the message, or "" for none
	}{
		{"b/x.go", module + "/a", ""},
		{"c/x.go", module + "/a", ""},
		{"c/x.go", "fmt", ""},
		{"b/x.go", module + "/testmodels", "only floors below"},
		{"a/x.go", module + "/c", "only floors below"},
		{"a/x_test.go", module + "/c", ""},
		{"a/x_test.go", "C", "no cgo"},
		{"a/x.go", "C", "no cgo"},
		{"d/x.go", "fmt", "stands on no floor"},
		{"c/x.go", module + "/d", "stands on no floor"},
		{"testmodels/x.go", module + "/graph", ""},
		{"testmodels/x.go", module + "/a", "graph internal/npz] only"},
		{"graph/x.go", "gorgonia.org/tensor", "no tensor library"},
		{"b/x.go", "gorgonia.org/tensor", ""},
	} {
		got := strings.Join(breaches([]source{{path.Dir(c.file), c.file, []string{c.target}}}, floor), "\n")
		if c.breach == "" && got != "" || !strings.Contains(got, c.breach) {
			t.Errorf("%s imports %s: got %q, want %q", c.file, c.target, got, c.breach)
		}
	}
}
