package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/onnx-lathe/lathe/bench/quality"
)

// optimizesExport takes an export of exports/export.py, of which nothing in
// lathe knows, through `lathe optimize` without a word about it. The result has
// two modules less, block-circulant layers, and computes in ONNX Runtime what
// it computes in lathe.
func optimizesExport(name string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		folder, err := remember(b, "exports", func() (string, error) { return export(b) })
		if err != nil {
			return result{}, err
		}
		data, out, report := filepath.Join(folder, name+".npz"), b.file(name+"-small.onnx"), b.file(name+".html")
		err = b.lathe(nil, "optimize", filepath.Join(folder, name+".onnx"), "--data", data,
			"--drop", "2", "--block", "4", "--heal", "40", "-o", out, "--report", report)
		if err != nil {
			return result{err.Error(), false}, nil
		}
		var small struct {
			Parameters int64
			History    struct{ Dropped, Rewrites []any }
		}
		if err := b.lathe(&small, "inspect", out); err != nil {
			return result{}, err
		}
		theirs, ours, err := b.runBoth(out, data, 8)
		if err != nil {
			return result{}, err
		}
		worst := 0.0
		for output, want := range theirs {
			e, err := quality.RelativeError(ours[output], want)
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", output, err)
			}
			worst = max(worst, e)
		}
		st, err := os.Stat(report)
		if err != nil {
			return result{}, err
		}
		return result{
			fmt.Sprintf("%d modules dropped, %d layers rewritten, %d parameters left, differs by %.0e; report of %d KB",
				len(small.History.Dropped), len(small.History.Rewrites), small.Parameters, worst, st.Size()>>10),
			len(small.History.Dropped) == 2 && len(small.History.Rewrites) > 0 && len(theirs) > 0 && worst <= 1e-4,
		}, nil
	}
}

// export runs the script, where Debian's python3-torch is installed.
func export(b *workbench) (string, error) {
	if exec.Command("/usr/bin/python3", "-c", "import torch").Run() != nil {
		return "", leftOut("python3-torch is not installed")
	}
	folder := b.file("exports")
	script := filepath.Join(b.root, "bench", "exports", "export.py")
	if out, err := exec.CommandContext(b.ctx, "/usr/bin/python3", script, folder).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return folder, nil
}
