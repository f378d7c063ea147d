package calib

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// Normalize says what becomes of the values of pixels and sounds.
type Normalize string

const (
	NormalizeImageNet Normalize = "imagenet" // pixels from 0 to 1, less ImageNet's mean, over its deviation
	NormalizeHalf     Normalize = "half"     // pixels from −1 to 1
	NormalizeZeroOne  Normalize = "zero-one" // pixels from 0 to 1
	NormalizeNone     Normalize = "none"     // pixels from 0 to 255, sounds from −1 to 1
	NormalizeStandard Normalize = "standard" // sounds with a mean of 0 and a variance of 1 each
)

// Normalizes lists the normalizations.
var Normalizes = []Normalize{NormalizeImageNet, NormalizeHalf, NormalizeZeroOne, NormalizeNone, NormalizeStandard}

// files is a folder of files, one a sample, in sub-folders where they have
// classes. Files are read again for every run, unless what they turn into fits
// into the memory that is kept for it.
type files struct {
	source  *Source
	list    []file
	classes []string // names of the sub-folders, in their order; nil where there are none

	mu   sync.Mutex
	kept map[string][]float32
	room int64 // bytes that may still be kept
	size int64 // bytes that all samples take, but at most what may be kept
}

type file struct {
	path  string
	class int
}

// media are the kinds of files, by the end of their names.
var media = []struct {
	what       string
	extensions []string
	open       func(f *files) (kind, error)
}{
	{"pictures", []string{".png", ".jpg", ".jpeg"}, openPictures},
	{"sounds", []string{".wav"}, openSounds},
}

func openFiles(s *Source) error {
	// What is decoded may take a quarter of the memory.
	f := &files{source: s, kept: map[string][]float32{}, room: s.opts.Limit / 4}
	found := make([][]file, len(media))
	folders, err := look(s.path, 0, found)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(l []file) bool { return len(l) > 0 }) {
		for i, name := range folders {
			if _, err := look(filepath.Join(s.path, name), i, found); err != nil {
				return err
			}
		}
		f.classes = folders
	}
	medium := -1
	for i := range media {
		if len(found[i]) == 0 {
			continue
		}
		if medium >= 0 {
			return fmt.Errorf("%s: the folder has %s and %s; keep them in folders of their own", s.path, media[medium].what, media[i].what)
		}
		medium, f.list = i, found[i]
	}
	if medium < 0 {
		return fmt.Errorf("%s: the folder has no test_data_set_0, no pictures (.png, .jpg) and no sounds (.wav), nor have its sub-folders", s.path)
	}
	if s.kind, err = media[medium].open(f); err != nil {
		return err
	}
	sum := sha256.New()
	o := s.opts
	fmt.Fprintf(sum, "%s %q %q %d %g %d %d\n", media[medium].what, f.classes, o.Normalize, o.Size, o.Crop, o.Sequence, o.Rate)
	for _, i := range s.choice(sum, len(f.list)) { // only what is used is read
		x := f.list[i]
		name, err := filepath.Rel(s.path, x.path)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %d\n", filepath.ToSlash(name), x.class)
		if err := copyInto(sum, x.path); err != nil {
			return err
		}
	}
	s.print = fingerprint(sum)
	return nil
}

// look adds the files of a folder to found, by medium, and returns the names
// of the folders in it; both are in the order of their names.
func look(dir string, class int, found [][]file) (folders []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		st, err := os.Stat(path) // of what a link leads to
		if err != nil {
			return nil, err
		}
		if st.IsDir() {
			folders = append(folders, e.Name())
			continue
		}
		extension := strings.ToLower(filepath.Ext(path))
		for i, m := range media {
			if st.Mode().IsRegular() && slices.Contains(m.extensions, extension) {
				found[i] = append(found[i], file{path, class})
			}
		}
	}
	return folders, nil
}

func copyInto(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func (f *files) bytes() int64 { return f.size }

func (f *files) array(name string) (*npz.Array, error) {
	switch {
	case f.classes == nil:
		return nil, fmt.Errorf("there are no %q: the files lie in no sub-folders, whose names are the labels", name)
	case name != "labels":
		return nil, fmt.Errorf(`no array %q; the numbers of the sub-folders are "labels"`, name)
	}
	labels := make([]int64, len(f.list))
	for i, x := range f.list {
		labels[i] = int64(x.class)
	}
	return npz.Int64Array(name, []int{len(labels)}, labels), nil
}

// feed makes port i read every sample with load, which gives as many values as
// the shape of a sample has.
func (f *files) feed(to *Feed, i int, shape []int, load func(path string) ([]float32, error)) error {
	per := int64(4)
	for _, n := range shape {
		per *= int64(n)
	}
	if per > f.source.opts.Limit/4 {
		return fmt.Errorf("a sample for input %v takes %d MB, more than a quarter of the %w of %d MB", to.ports[i], per>>20, npz.ErrLimit, f.source.opts.Limit>>20)
	}
	f.size = max(f.size, min(f.source.opts.Limit/4, per*int64(len(f.source.opts.choose(len(f.list))))))
	p := to.ports[i]
	to.feeds[i] = func(samples []int) (*runtime.Tensor, error) {
		all := make([]float32, 0, int64(len(samples))*per/4)
		for _, s := range samples {
			v, err := f.read(f.list[s].path, fmt.Sprint(shape), load)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.list[s].path, err)
			}
			all = append(all, v...)
		}
		shape := append([]int{len(samples)}, shape...)
		if p.DType == graph.Uint8 {
			pixels := make([]uint8, len(all))
			for i, v := range all {
				pixels[i] = uint8(v + 0.5)
			}
			return runtime.FromSlice(shape, pixels), nil
		}
		return runtime.FromSlice(shape, all), nil
	}
	return nil
}

// read loads a file unless it is kept.
func (f *files) read(path, shape string, load func(path string) ([]float32, error)) ([]float32, error) {
	key := path + "\x00" + shape
	f.mu.Lock()
	v, ok := f.kept[key]
	f.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := load(path)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.kept[key]; !ok && 4*int64(len(v)) <= f.room {
		f.kept[key] = v
		f.room -= 4 * int64(len(v))
	}
	return v, nil
}
