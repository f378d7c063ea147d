package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/onnx-lathe/lathe/bench/wire"
)

// dropsNothing drops no module from every public model and compares the files
// field by field, with a reader that sees which fields are present.
func dropsNothing(b *workbench) (result, error) {
	root, err := b.public("models", ".")
	if err != nil {
		return result{}, err
	}
	equal, fields := 0, 0
	var wrong []string
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".onnx" {
			return err
		}
		name, _ := filepath.Rel(root, path)
		out := b.file("nothing-dropped.onnx")
		os.Remove(out)
		if err := b.lathe(nil, "drop", path, "--count", "0", "-o", out); err != nil {
			wrong = append(wrong, name+": "+err.Error())
			return nil
		}
		before, err := wire.ReadModel(path)
		if err != nil {
			return err
		}
		after, err := wire.ReadModel(out)
		if err != nil {
			return err
		}
		if d := wire.Diff(before, after, 1); len(d) > 0 {
			wrong = append(wrong, name+": "+d[0])
			return nil
		}
		equal++
		fields += before.Count()
		return nil
	})
	measured := fmt.Sprintf("%d models equal, %d fields", equal, fields)
	if len(wrong) > 0 {
		measured += "; " + strings.Join(wrong, "; ")
	}
	return result{measured, len(wrong) == 0 && equal >= 9}, err
}
