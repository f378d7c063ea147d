package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// A checkpoint is an npz: "state", the JSON of state and of who wrote it, and
// the vectors of the state.

const checkpointVersion = 1

type header struct {
	Version int
	Of      string // fingerprint of what the training is
	Early   bool
	State   *state
}

// fingerprint says which training this is: one that differs in anything that
// moves a weight must not go on from another's state. The weights that the
// model came with are in it, those of a teacher too.
func (t *trainer) fingerprint() (string, error) {
	o := t.o
	o.Threads, o.Recompute, o.Checkpoint, o.Resume = 0, false, "", false
	b, err := json.Marshal(struct {
		Options Options
		Data    string
		Names   []string
		Augment bool
	}{o, t.train.feed.Fingerprint(), t.names(), t.o.Augment != nil})
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(b)
	h.Write([]byte(t.print))
	if t.o.Teacher != nil {
		h.Write([]byte(t.o.Teacher.Fingerprint()))
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func (t *trainer) names() []string {
	var out []string
	for _, p := range t.params {
		out = append(out, fmt.Sprint(p.Name, p.Shape))
	}
	return out
}

// vectors are the arrays of a checkpoint.
func (t *trainer) vectors() []struct {
	name string
	data []float32
} {
	return []struct {
		name string
		data []float32
	}{{"value", t.value}, {"first_moment", t.first}, {"second_moment", t.second}, {"average", t.average}, {"best", t.best}}
}

// save writes the checkpoint.
func (t *trainer) save() error {
	of, err := t.fingerprint()
	if err != nil {
		return err
	}
	t.gather()
	b, err := json.Marshal(header{checkpointVersion, of, t.result.Early, &t.state})
	if err != nil {
		return err
	}
	arrays := []*npz.Array{{Name: "state", DType: graph.Uint8, Shape: []int{len(b)}, Raw: b}}
	for _, v := range t.vectors() {
		arrays = append(arrays, npz.Float32Array(v.name, []int{len(v.data)}, v.data))
	}
	var buf bytes.Buffer
	if err := npz.Write(&buf, arrays...); err != nil {
		return err
	}
	if err := atomicfile.Write(t.o.Checkpoint, buf.Bytes()); err != nil {
		return fmt.Errorf("checkpoint %s: %w", t.o.Checkpoint, err)
	}
	return nil
}

// load reads the checkpoint, if there is one.
func (t *trainer) load() error {
	if _, err := os.Stat(t.o.Checkpoint); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := t.read(); err != nil {
		return fmt.Errorf("checkpoint %s: %w; remove it to begin anew", t.o.Checkpoint, err)
	}
	return nil
}

func (t *trainer) read() error {
	const slack = 1 << 20 // the curve
	f, err := npz.Open(t.o.Checkpoint, int64(4*t.result.Parameters+slack))
	if err != nil {
		return err
	}
	defer f.Close()
	a, err := f.Read("state")
	if err != nil {
		return err
	}
	was := header{State: &state{}}
	if err := json.Unmarshal(a.Raw, &was); err != nil {
		return err
	}
	of, err := t.fingerprint()
	if err != nil {
		return err
	}
	if was.Version != checkpointVersion || was.Of != of {
		return errors.New("is that of another training: other options, another model or other data")
	}
	if was.State.Done < 0 || was.State.Done > t.o.Steps || len(was.State.Curve) == 0 {
		return errors.New("its steps make no sense")
	}
	for _, v := range t.vectors() {
		a, err := f.Read(v.name)
		if err != nil {
			return err
		}
		x, err := a.Float32s()
		if err != nil {
			return err
		}
		if len(x) != len(v.data) {
			return fmt.Errorf("array %q has %d elements, want %d", v.name, len(x), len(v.data))
		}
		copy(v.data, x)
	}
	s := *was.State
	s.value, s.first, s.second, s.average, s.best = t.value, t.first, t.second, t.average, t.best
	t.state, t.result.Early = s, was.Early
	t.eachParameter(func(_ int, p *runtime.Parameter, from, to int) { copy(p.Value, t.value[from:to]) })
	t.model.Update()
	return nil
}
