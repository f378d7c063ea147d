// Package atomicfile replaces a file in one step that survives a crash.
package atomicfile

import (
	"os"
	"path/filepath"

	"github.com/natefinch/atomic"
)

// Write makes data the content of path: a temporary file in the same folder is
// written, synced and renamed, so that path holds either what it held before
// or all of data. Unlike natefinch/atomic's own WriteFile it syncs, and gives
// the file the mode that os.Create would.
func Write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode(path))
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return atomic.ReplaceFile(f.Name(), path)
}

// mode is the mode of the file that is replaced, else 0644.
func mode(path string) os.FileMode {
	if st, err := os.Stat(path); err == nil {
		return st.Mode().Perm()
	}
	return 0o644
}
