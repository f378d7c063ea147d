package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"time"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
)

// A workbench is what the checks share: the tool, built once, a folder for files,
// and the results of long steps.
type workbench struct {
	ctx   context.Context
	root  string // of the repository
	dir   string // for files of the checks
	data  string // LATHE_DATA, "" without
	build func() (string, error)

	once map[string]any // results by step, kept by remember
}

func newWorkbench(ctx context.Context) (*workbench, error) {
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return nil, fmt.Errorf("this is run inside the repository: %w", err)
	}
	dir, err := os.MkdirTemp("", "lathe-acceptance")
	if err != nil {
		return nil, err
	}
	b := &workbench{ctx: ctx, root: strings.TrimSpace(string(out)), dir: dir, data: os.Getenv("LATHE_DATA"), once: map[string]any{}}
	b.build = sync.OnceValues(func() (string, error) {
		binary := filepath.Join(b.dir, "lathe")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/lathe")
		cmd.Dir = b.root
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build ./cmd/lathe: %s", firstLine(string(out)))
		}
		return binary, nil
	})
	return b, nil
}

func (b *workbench) close() { os.RemoveAll(b.dir) }

// model and set return paths under LATHE_DATA.
func (b *workbench) model(name string) (string, error) { return b.public("models", name) }
func (b *workbench) set(name string) (string, error)   { return b.public("sets", name) }

func (b *workbench) public(kind, name string) (string, error) {
	if b.data == "" {
		return "", leftOut("LATHE_DATA names no folder with the public models and sets")
	}
	path := filepath.Join(b.data, kind, filepath.FromSlash(name))
	_, err := os.Stat(path)
	return path, err
}

// file returns the path of a file of the checks' own.
func (b *workbench) file(name string) string { return filepath.Join(b.dir, name) }

// remember runs a step the first time that its name is asked for.
func remember[T any](b *workbench, name string, step func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	if _, ok := b.once[name]; !ok {
		value, err := step()
		b.once[name] = outcome{value, err}
	}
	o := b.once[name].(outcome)
	return o.value, o.err
}

// A finished is how a process ended.
type finished struct {
	code           int
	stdout, stderr string
	cpu, wall      time.Duration
	memory         int64 // greatest resident size, in bytes
}

// exec runs the tool.
func (b *workbench) exec(args ...string) (finished, error) {
	binary, err := b.build()
	if err != nil {
		return finished{}, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, &stdout, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return finished{}, err
	}
	peak := make(chan int64)
	done := make(chan struct{})
	go func() { peak <- watchMemory(cmd.Process.Pid, done) }()
	err = cmd.Wait()
	close(done)
	memory := <-peak
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return finished{}, err
	}
	f := finished{
		memory: memory,
		code:   cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(),
		cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), wall: time.Since(began),
	}
	return f, nil
}

// watchMemory returns the greatest resident size of a process in bytes, read
// every millisecond until done. What wait4 says will not do: a child begins
// with the high-water mark of the process that it was forked from.
func watchMemory(pid int, done <-chan struct{}) int64 {
	var most int64
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return most
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
				most = max(most, kib*1024)
			}
		}
	}
}

// lathe runs the tool with --json, demands success, and reads what it prints
// into answer, where that is not nil.
func (b *workbench) lathe(answer any, args ...string) error {
	f, err := b.exec(append(args, "--json")...)
	if err != nil {
		return err
	}
	if f.code != 0 {
		lines := strings.Split(strings.TrimSpace(f.stderr), "\n")
		return fmt.Errorf("lathe %s: exit status %d: %s", args[0], f.code, lines[len(lines)-1])
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(f.stdout), answer); err != nil {
		return fmt.Errorf("lathe %s --json: %w", args[0], err)
	}
	return nil
}

// runBoth runs a model over the first samples of a set, in ONNX Runtime and
// with `lathe run`, and returns the outputs of both.
func (b *workbench) runBoth(model, set string, samples int) (theirs, ours map[string]nd.Array, err error) {
	if theirs, err = b.runORT(model, set, samples); err != nil {
		return nil, nil, err
	}
	arrays, err := nd.ReadNPZ(set)
	if err != nil {
		return nil, nil, err
	}
	for name, a := range arrays {
		if arrays[name], err = a.Rows(0, min(samples, int(a.Shape[0]))); err != nil {
			return nil, nil, err
		}
	}
	ours, err = b.runLathe(model, arrays)
	return theirs, ours, err
}

// runLathe runs a model on arrays with `lathe run`.
func (b *workbench) runLathe(model string, arrays map[string]nd.Array) (map[string]nd.Array, error) {
	in, out := b.file("run-in.npz"), b.file("run-out.npz")
	os.Remove(out)
	if err := nd.WriteNPZ(in, arrays); err != nil {
		return nil, err
	}
	if err := b.lathe(nil, "run", model, "--data", in, "-o", out); err != nil {
		return nil, err
	}
	return nd.ReadNPZ(out)
}

// runORT runs a model over the first samples of a set in ONNX Runtime.
func (b *workbench) runORT(model, set string, samples int) (map[string]nd.Array, error) {
	arrays, err := nd.ReadNPZ(set)
	if err != nil {
		return nil, err
	}
	s, err := ort.Open(model, ort.Options{Threads: 2})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.All(ort.Samples{Arrays: arrays, Limit: samples, Batch: 32})
}
