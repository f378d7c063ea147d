package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/bench/wire"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// family takes every form of a family of models: the modules are found, the
// same with scrambled names, and scored; each is dropped, and the file is
// accepted by the ONNX checker (up to opset 17, where Debian's python3-onnx is
// here) and computes in ONNX Runtime what an export without the module does.
func family(name string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		forms, drops, checked, scored, worst := 0, 0, 0, 0, 0.0
		var wrong []string
		for _, c := range testmodels.Cases() {
			if f, _, _ := strings.Cut(c.Name, "-"); f != name {
				continue
			}
			forms++
			bad := func(format string, a ...any) { wrong = append(wrong, c.Name+": "+fmt.Sprintf(format, a...)) }
			model, out := b.file("family.onnx"), b.file("family-dropped.onnx")
			original := c.Model()
			if err := original.Save(model, graph.SaveOptions{Force: true}); err != nil {
				return result{}, err
			}
			found, err := b.inspect(model)
			if err != nil {
				return result{}, err
			}
			m, err := wire.ReadModel(model)
			if err != nil {
				return result{}, err
			}
			m.ScrambleNames()
			if err := m.Write(out); err != nil {
				return result{}, err
			}
			again, err := b.inspect(out)
			if err != nil {
				return result{}, err
			}
			if !slices.Equal(found, again) || len(found) < 6 {
				bad("%d modules, %d with scrambled names", len(found), len(again))
			}
			inputs := b.file("family.npz")
			file, err := os.Create(inputs)
			if err != nil {
				return result{}, err
			}
			if err := npz.Write(file, c.Inputs...); err != nil {
				return result{}, err
			}
			if err := file.Close(); err != nil {
				return result{}, err
			}
			all, err := nd.ReadNPZ(inputs)
			if err != nil {
				return result{}, err
			}
			// Scores come from the branch that starts a cache.
			if !strings.HasSuffix(c.Name, "-merged-past") {
				var answer struct{ Modules []module }
				switch err := b.lathe(&answer, "score", model, "--data", inputs, "-o", b.file("family.json"), "--force"); {
				case err != nil:
					why, _, _ := strings.Cut(firstLine(err.Error()), " (") // of an operator without a kernel the name
					bad("not scored: %s", why[strings.LastIndex(why, ": ")+2:])
				case len(answer.Modules) != len(found) || slices.ContainsFunc(answer.Modules, func(m module) bool { return !(m.Score > 0) }):
					bad("scores %v", answer.Modules)
				default:
					scored++
				}
			}
			opset, _ := original.Opset("")
			checkable := opset <= 17 && !strings.HasPrefix(c.Name, "llama-17-fused") // ONNX Runtime's SimplifiedLayerNormalization is not ONNX's
			for _, x := range found {
				if !x.Droppable {
					bad("%s cannot be dropped", x.ID)
					continue
				}
				if err := b.lathe(nil, "drop", model, "--modules", x.ID, "-o", out, "--force"); err != nil {
					return result{}, err
				}
				got, err := runFile(out, all)
				if err != nil {
					return result{}, err
				}
				if checkable {
					switch err := onnxCheck(out); {
					case err == nil:
						checked++
					case err != errNoChecker:
						bad("without %s the ONNX checker says: %v", x.ID, err)
					}
				}
				if err := c.Model(x.ID).Save(out, graph.SaveOptions{Force: true}); err != nil {
					return result{}, err
				}
				want, err := runFile(out, all)
				if err != nil {
					return result{}, err
				}
				for output, w := range want {
					if slices.Contains(w.Shape, 0) {
						continue
					}
					e, err := quality.RelativeError(got[output], w)
					if err != nil || !(e <= 1e-5) {
						bad("without %s %s differs by %.1e (%v)", x.ID, output, e, err)
					}
					worst = max(worst, e)
				}
				drops++
			}
		}
		measured := fmt.Sprintf("%d forms, %d scored; %d drops, %d seen by the ONNX checker, differ by ≤ %.0e", forms, scored, drops, checked, worst)
		if len(wrong) > 0 {
			measured += "; " + strings.Join(wrong[:min(3, len(wrong))], "; ")
		}
		return result{measured, len(wrong) == 0 && drops > 0}, nil
	}
}

// runFile runs a file in ONNX Runtime on those of the arrays that it takes.
func runFile(path string, all map[string]nd.Array) (map[string]nd.Array, error) {
	s, err := ort.Open(path, ort.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	feeds := map[string]nd.Array{}
	for _, in := range s.Inputs {
		if a, ok := all[in.Name]; ok {
			feeds[in.Name] = a
		}
	}
	return s.Run(feeds)
}

// errNoChecker says that Debian's python3-onnx is not installed.
var errNoChecker = errors.New("python3-onnx is not installed")

// onnxCheck runs the official checker, shape inference included.
func onnxCheck(path string) error {
	const script = `
import sys
try:
    import onnx
except ImportError:
    sys.exit(77)
onnx.checker.check_model(sys.argv[1], full_check=True)`
	out, err := exec.Command("/usr/bin/python3", "-c", script, path).CombinedOutput()
	if e, ok := err.(*exec.ExitError); ok && e.ExitCode() != 77 {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s", lines[len(lines)-1])
	} else if err != nil {
		return errNoChecker
	}
	return nil
}
