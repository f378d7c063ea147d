// Package atomicfile replaces a file in one step that survives a crash.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/natefinch/atomic"
)

// suffix ends the names of temporary files.
const suffix = ".lathe-tmp"

// TempName is a new name for a temporary file beside path.
func TempName(path string) string {
	dir, base := filepath.Split(path)
	return dir + "." + base + "." + rand.Text() + suffix
}

// staleAfter is the age at which a temporary file belongs to a program that was
// killed: one that lives writes all the time.
const staleAfter = time.Hour

// RemoveStale removes temporary files beside path that writing it left when it
// was killed.
func RemoveStale(path string) {
	dir, base := filepath.Split(path)
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+base+".") || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAfter {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// Write makes data the content of path: a temporary file in the same folder is
// written, synced and renamed, so that path holds either what it held before
// or all of data. Unlike natefinch/atomic's own WriteFile it syncs, and gives
// a new file the mode that os.Create would. Errors are the system's alone,
// without a path, since the caller's says more than a temporary one.
func Write(path string, data []byte) error {
	err := write(path, data)
	var p *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &p):
		return p.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

func write(path string, data []byte) error {
	RemoveStale(path)
	temp := TempName(path)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer os.Remove(temp) // fails once it has its name
	_, err = f.Write(data)
	if st, e := os.Stat(path); err == nil && e == nil {
		err = f.Chmod(st.Mode().Perm())
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
	return atomic.ReplaceFile(temp, path)
}
