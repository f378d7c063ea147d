package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// dropsLarge drops two modules from a model of three gigabytes, whose weights
// lie in a file beside it, and compares the time with that of copying the two
// files. Both write to the disk, not to its cache alone.
func dropsLarge(b *workbench) (result, error) {
	const room = 12 << 30
	if free, err := freeBytes(b.dir); err != nil || free < room {
		return result{}, leftOut(fmt.Sprintf("%s has no room for %d GiB", b.dir, room>>30))
	}
	if m, err := availableMemory(); err != nil || m < 8<<30 {
		return result{}, leftOut("there is not enough memory to build a model of 3 GB")
	}
	dir := b.file("large")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	model, out := filepath.Join(dir, "model.onnx"), filepath.Join(dir, "small.onnx")
	m := testmodels.LLaMA(testmodels.Size{Opset: 17, Layers: 11, Width: 2048, Heads: 16, KVHeads: 16, Hidden: 8192, Vocab: 8000, Tiled: true}, testmodels.LLaMAOptions{})
	if err := m.Save(model, graph.SaveOptions{}); err != nil {
		return result{}, err
	}
	files, err := filepath.Glob(model + "*")
	if err != nil {
		return result{}, err
	}
	var size int64
	for _, f := range files {
		s, err := os.Stat(f)
		if err != nil {
			return result{}, err
		}
		size += s.Size()
	}
	m = nil
	exec.Command("sync").Run()
	began := time.Now()
	for _, f := range files {
		if out, err := exec.CommandContext(b.ctx, "dd", "if="+f, "of="+f+".copy", "bs=1M", "conv=fsync", "status=none").CombinedOutput(); err != nil {
			return result{}, fmt.Errorf("dd: %w: %s", err, out)
		}
	}
	copying := time.Since(began)
	for _, f := range files {
		os.Remove(f + ".copy")
	}
	exec.Command("sync").Run()
	f, err := b.exec("drop", model, "--modules", "A3,M6", "-o", out)
	if err != nil {
		return result{}, err
	}
	if f.code != 0 {
		return result{}, fmt.Errorf("lathe drop: exit status %d: %s", f.code, firstLine(f.stderr))
	}
	ratio := f.wall.Seconds() / copying.Seconds()
	return result{
		fmt.Sprintf("%.2f GB: %.1f s, copying %.1f s: × %.2f; %d MB", float64(size)/1e9, f.wall.Seconds(), copying.Seconds(), ratio, f.memory/1e6),
		size > 3e9 && ratio <= 2 && f.memory <= 300e6,
	}, nil
}

// freeBytes is the room on the disk of a folder.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	err := syscall.Statfs(dir, &s)
	return int64(s.Bavail) * int64(s.Bsize), err
}

// availableMemory is what Linux can hand out, in bytes.
func availableMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}
