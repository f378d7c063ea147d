package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// inClone runs a command in a fresh clone of the commit that is checked out,
// with an empty build cache that the commands share, and without the public
// models: as a reader of the README would.
func (b *workbench) inClone(limit time.Duration, command ...string) (result, error) {
	clone, err := remember(b, "clone", func() (string, error) {
		dir := b.file("clone")
		out, err := exec.Command("git", "clone", "--quiet", "--no-hardlinks", b.root, dir).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("git clone: %s", firstLine(string(out)))
		}
		return dir, nil
	})
	if err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(b.ctx, command[0], command[1:]...)
	cmd.Dir = clone
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "LATHE_") && !strings.HasPrefix(v, "GOFLAGS=") && !strings.HasPrefix(v, "GOCACHE=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GOMAXPROCS=2", "GOCACHE="+filepath.Join(b.dir, "gocache"))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "FAIL") || strings.Contains(line, "rror") {
				return result{strings.TrimSpace(line), false}, nil
			}
		}
		return result{strings.Join(command, " ") + ": " + err.Error(), false}, nil
	}
	return result{fmt.Sprintf("%.0f s, compiled from nothing", took.Seconds()), took <= limit}, nil
}

func cloneTests(b *workbench) (result, error) {
	return b.inClone(5*time.Minute, "go", "test", "-count=1", "./...")
}

func cloneDemo(b *workbench) (result, error) {
	return b.inClone(2*time.Minute, "go", "run", "./cmd/lathe", "demo")
}
