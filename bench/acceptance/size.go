package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// a largeModel is a model of three gigabytes.
type largeModel struct {
	dir, path string
	files     []string
}

// largeModel builds 11 layers of LLaMA whose weights lie in a file beside it,
// where there is room and memory for that.
func (b *workbench) largeModel() (largeModel, error) {
	return remember(b, "large model", func() (largeModel, error) {
		const room = 12 << 30
		if free, err := freeBytes(b.dir); err != nil || free < room {
			return largeModel{}, leftOut(fmt.Sprintf("%s has no room for %d GiB", b.dir, room>>30))
		}
		if m, err := availableMemory(); err != nil || m < 8<<30 {
			return largeModel{}, leftOut("there is not enough memory to build a model of 3 GB")
		}
		l := largeModel{dir: b.file("large")}
		if err := os.Mkdir(l.dir, 0o755); err != nil {
			return l, err
		}
		l.path = filepath.Join(l.dir, "model.onnx")
		m := testmodels.LLaMA(testmodels.Size{Opset: 17, Layers: 11, Width: 2048, Heads: 16, KVHeads: 16, Hidden: 8192, Vocab: 8000, Tiled: true}, testmodels.LLaMAOptions{})
		err := m.Save(l.path, graph.SaveOptions{})
		if err == nil {
			l.files, err = filepath.Glob(l.path + "*")
		}
		return l, err
	})
}

// scoresLarge scores that model in a fifth of the memory that its weights
// take, and compares the bytes of the ledger with those of a run that has all
// memory.
func scoresLarge(b *workbench) (result, error) {
	const limit = 600 // MB
	l, err := b.largeModel()
	if err != nil {
		return result{}, err
	}
	const samples, length = 16, 32
	ids, mask := make([]int64, samples*length), make([]int64, samples*length)
	for i := range ids {
		ids[i], mask[i] = int64(i*7919%8000), 1
	}
	data := filepath.Join(l.dir, "tokens.npz")
	err = nd.WriteNPZ(data, map[string]nd.Array{"input_ids": nd.Of(ids, samples, length), "attention_mask": nd.Of(mask, samples, length)})
	if err != nil {
		return result{}, err
	}
	score := func(memory int) (f finished, ledger []byte, err error) {
		out := filepath.Join(l.dir, fmt.Sprint(memory, ".json"))
		if f, err = b.exec("score", l.path, "--data", data, "--memory", fmt.Sprint(memory), "--means=false", "-o", out); err != nil {
			return f, nil, err
		}
		if f.code != 0 {
			return f, nil, fmt.Errorf("lathe score: exit status %d: %s", f.code, firstLine(f.stderr))
		}
		ledger, err = os.ReadFile(out)
		return f, ledger, err
	}
	parts, ledger, err := score(limit)
	if err != nil {
		return result{}, err
	}
	whole, want, err := score(16 << 10)
	if err != nil {
		return result{}, err
	}
	same := bytes.Equal(ledger, want)
	said := fmt.Sprintf("%d MB, %.1f s; in memory %d MB, %.1f s", parts.memory/1e6, parts.wall.Seconds(), whole.memory/1e6, whole.wall.Seconds())
	if !same {
		said += "; the ledgers differ"
	}
	return result{said, same && parts.memory <= limit<<20}, nil
}

// dropsLarge drops two modules from a model of three gigabytes, whose weights
// lie in a file beside it, and compares the time with that of copying the two
// files. Both write to the disk, not to its cache alone.
func dropsLarge(b *workbench) (result, error) {
	l, err := b.largeModel()
	if err != nil {
		return result{}, err
	}
	model, out, files := l.path, filepath.Join(l.dir, "small.onnx"), l.files
	var size int64
	for _, f := range files {
		s, err := os.Stat(f)
		if err != nil {
			return result{}, err
		}
		size += s.Size()
	}
	// In turns, as disks are now slower and now faster.
	const rounds = 3
	var ratios, drops, copies []float64
	memory := 0.0
	for range rounds {
		exec.Command("sync").Run()
		began := time.Now()
		for _, f := range files {
			if out, err := exec.CommandContext(b.ctx, "dd", "if="+f, "of="+f+".copy", "bs=1M", "conv=fsync", "status=none").CombinedOutput(); err != nil {
				return result{}, fmt.Errorf("dd: %w: %s", err, out)
			}
		}
		copying := time.Since(began).Seconds()
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
		copies, drops = append(copies, copying), append(drops, f.wall.Seconds())
		ratios, memory = append(ratios, f.wall.Seconds()/copying), max(memory, float64(f.memory))
	}
	median := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[rounds/2] }
	ratio := median(ratios)
	return result{
		fmt.Sprintf("%.2f GB: %.1f s, copying %.1f s: × %.2f; %.0f MB (medians of %d)", float64(size)/1e9, median(drops), median(copies), ratio, memory/1e6, rounds),
		size > 3e9 && ratio <= 2 && memory <= 300e6,
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
