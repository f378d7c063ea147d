package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, text := range []string{"one", "two, longer", ""} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
	}
	if err := Write(filepath.Join(dir, "none", "a"), nil); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	// A folder cannot be replaced; nothing may be left behind.
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "folder", "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "folder"), []byte("x")); err == nil {
		t.Error("replaced a folder")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left %v, %v; want a and folder", left, err)
	}
}

// TestStale: what a killed program left goes with the next write of the same
// file, once it is old enough to be nobody's.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.npz")
	names := []string{TempName(path), TempName(path), TempName(filepath.Join(dir, "b.npz")), filepath.Join(dir, ".a.npz.swp")}
	for i, name := range names {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if old := time.Now().Add(-2 * time.Hour); i != 1 {
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Write(path, nil); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) != (i == 0) {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
	}
}
