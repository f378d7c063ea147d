package calib

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/image/riff"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// sounds is a folder of waveforms.
type sounds struct {
	*files
	longest int // samples of a sound
}

// DefaultRate is the usual rate of models of speech, in samples a second.
const DefaultRate = 16000

// maxSound bounds the length that sounds are filled up to unless a model or
// --seq says otherwise, in seconds.
const maxSound = 30

// maxChannels bounds the channels of a sound: no loudspeakers are set up so.
const maxChannels = 64

const arraySamples = "samples"

func openSounds(f *files) (kind, error) {
	o := &f.source.opts
	switch o.Normalize {
	case "", NormalizeNone, NormalizeStandard:
	default:
		return nil, fmt.Errorf("--normalize %s is for pictures; sounds take none or standard", o.Normalize)
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	s := &sounds{files: f}
	for _, i := range o.choose(len(f.list)) {
		w, err := openWave(f.list[i].path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.list[i].path, err)
		}
		w.file.Close()
		if w.rate != o.Rate {
			return nil, fmt.Errorf("%s: has %d samples a second, and %d are wanted; resample it, as in sox in.wav -r %d out.wav, or give --rate %d if the model takes that",
				f.list[i].path, w.rate, o.Rate, o.Rate, w.rate)
		}
		s.longest = max(s.longest, w.frames)
	}
	return s, nil
}

func (s *sounds) lacks(port runtime.Port) string {
	return "sounds feed one float input of [samples, length] and its mask; name it with --map samples=" + port.Name
}

func (s *sounds) bind(f *Feed) error {
	mapped, err := f.mapped([]string{arraySamples, arrayMask})
	if err != nil {
		return err
	}
	// The axis of time; the others count one channel.
	wave := func(p runtime.Port) int {
		one := func(k int) bool { return p.Shape.Dims[k].IsKnown() && p.Shape.Dims[k].N == 1 }
		switch {
		case p.DType != graph.Float32 || isMask(p) || isPast(p):
		case p.Rank == 2, p.Rank == 3 && one(2):
			return 1
		case p.Rank == 3 && (one(1) || !p.Shape.Dims[1].IsKnown()):
			return 2
		}
		return -1
	}
	at, chosen := mapped[arraySamples]
	if !chosen {
		at = -1
		for i, p := range f.ports {
			if wave(p) < 0 {
				continue
			}
			if at >= 0 {
				return fmt.Errorf("inputs %q and %q may both take sounds; choose with --map samples=%s", f.ports[at].Name, p.Name, p.Name)
			}
			at = i
		}
	}
	if at < 0 || wave(f.ports[at]) < 0 {
		return fmt.Errorf("no input takes sounds as they are, which are float of [samples, length]; the inputs are %v", f.ports)
	}
	port, axis := f.ports[at], wave(f.ports[at])
	o := s.source.opts
	length := min(s.longest, maxSound*o.Rate)
	if o.Sequence > 0 {
		length = o.Sequence
	}
	if d := port.Shape.Dims[axis]; d.IsKnown() {
		if o.Sequence > 0 && int64(o.Sequence) != d.N {
			return fmt.Errorf("input %v takes %d samples of a sound, and --seq says %d", port, d.N, o.Sequence)
		}
		length = int(min(d.N, math.MaxInt32))
	}
	if length < 1 {
		return fmt.Errorf("sounds of %d samples", length)
	}
	normalize := o.Normalize
	if normalize == "" {
		normalize = NormalizeNone
	}
	f.Notes = append(f.Notes, fmt.Sprintf("sounds are cut or filled up to %.2f s for input %q, normalised as %s", float64(length)/float64(o.Rate), port.Name, normalize))
	f.total = len(s.list)
	shape := []int{length}
	switch {
	case port.Rank == 3 && axis == 1:
		shape = []int{length, 1}
	case port.Rank == 3:
		shape = []int{1, length}
	}
	if err := s.feed(f, at, shape, func(path string) ([]float32, error) { return readSound(path, length, normalize) }); err != nil {
		return err
	}
	for i, p := range f.ports {
		if to, ok := mapped[arrayMask]; i != at && (ok && to == i || !ok && isMask(p)) {
			f.feeds[i] = func(samples []int) (*runtime.Tensor, error) { return s.mask(p, samples, length) }
		}
	}
	return nil
}

// mask counts the samples of sounds that are not filling.
func (s *sounds) mask(p runtime.Port, samples []int, length int) (*runtime.Tensor, error) {
	frames := make([]int, len(samples))
	for i, n := range samples {
		w, err := openWave(s.list[n].path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.list[n].path, err)
		}
		w.file.Close()
		frames[i] = w.frames
	}
	return counted(p.DType, []int{len(samples), length}, func(i int) int {
		if i%length < frames[i/length] {
			return 1
		}
		return 0
	})
}

// wave is a file of sound whose header has been read.
type wave struct {
	file           *os.File
	data           io.Reader // of the samples, which lie behind the header
	format, bits   int
	channels, rate int
	frames         int // samples of a channel
}

// Formats of samples (Microsoft's mmreg.h).
const (
	formatPCM        = 1
	formatFloat      = 3
	formatExtensible = 0xFFFE
)

// openWave reads the header of a RIFF file of sound. The file is open when it
// succeeds.
func openWave(path string) (w *wave, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	kind, chunks, err := riff.NewReader(file)
	if err != nil || kind != (riff.FourCC{'W', 'A', 'V', 'E'}) {
		return nil, errors.New("is no WAV file")
	}
	w = &wave{file: file}
	for {
		id, size, data, err := chunks.Next()
		if err != nil {
			return nil, fmt.Errorf("is a WAV file without samples: %w", err)
		}
		switch id {
		case riff.FourCC{'f', 'm', 't', ' '}:
			head := make([]byte, min(size, 40))
			if _, err := io.ReadFull(data, head); err != nil || len(head) < 16 {
				return nil, errors.New("is a WAV file whose header is cut off")
			}
			u16 := func(at int) int { return int(binary.LittleEndian.Uint16(head[at:])) }
			w.format, w.channels, w.bits = u16(0), u16(2), u16(14)
			w.rate = int(min(binary.LittleEndian.Uint32(head[4:]), math.MaxInt32))
			if w.format == formatExtensible && len(head) >= 26 {
				w.format = u16(24) // the first bytes of the sub-format
			}
			if frame := w.channels * w.bits / 8; frame == 0 || u16(12) != frame || w.channels > maxChannels {
				return nil, fmt.Errorf("is a WAV file of %d channels of %d bits in frames of %d bytes", w.channels, w.bits, u16(12))
			}
		case riff.FourCC{'d', 'a', 't', 'a'}:
			if w.channels == 0 {
				return nil, errors.New("is a WAV file whose samples come before their format")
			}
			switch {
			case w.format == formatPCM && (w.bits == 8 || w.bits == 16 || w.bits == 24 || w.bits == 32):
			case w.format == formatFloat && (w.bits == 32 || w.bits == 64):
			default:
				return nil, fmt.Errorf("is a WAV file of format %d with %d bits; PCM of 8 to 32 bits and float are read", w.format, w.bits)
			}
			// A header may promise more than the file has.
			w.frames = int(min(int64(size), st.Size()) / int64(w.channels*w.bits/8))
			w.data = data
			return w, nil
		}
	}
}

// readSound reads the first length samples of a sound, the mean of its
// channels, and zeros behind its end.
func readSound(path string, length int, normalize Normalize) ([]float32, error) {
	w, err := openWave(path)
	if err != nil {
		return nil, err
	}
	defer w.file.Close()
	n := min(w.frames, length)
	size := w.bits / 8
	raw := make([]byte, n*w.channels*size)
	if _, err := io.ReadFull(w.data, raw); err != nil {
		return nil, fmt.Errorf("is cut off: %w", err)
	}
	out := make([]float32, length)
	for i := range n {
		sum := 0.0
		for range w.channels {
			sum += w.sample(raw)
			raw = raw[size:]
		}
		if math.IsNaN(sum) || math.IsInf(sum, 0) {
			return nil, fmt.Errorf("sample %d is not a number", i)
		}
		out[i] = float32(sum / float64(w.channels))
	}
	if normalize == NormalizeStandard {
		standardize(out[:n])
	}
	return out, nil
}

// sample reads one sample, as a number from −1 to 1.
func (w *wave) sample(b []byte) float64 {
	switch {
	case w.format == formatFloat && w.bits == 32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case w.format == formatFloat:
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	case w.bits == 8:
		return (float64(b[0]) - 128) / (1 << 7)
	case w.bits == 16:
		return float64(int16(binary.LittleEndian.Uint16(b))) / (1 << 15)
	case w.bits == 24:
		return float64(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)) / (1 << 31)
	}
	return float64(int32(binary.LittleEndian.Uint32(b))) / (1 << 31)
}

// standardize gives x a mean of 0 and a variance of 1, as wav2vec 2.0's front
// end does.
func standardize(x []float32) {
	mean, square := 0.0, 0.0
	for _, v := range x {
		mean += float64(v)
	}
	mean /= float64(max(len(x), 1))
	for _, v := range x {
		square += (float64(v) - mean) * (float64(v) - mean)
	}
	deviation := math.Sqrt(square/float64(max(len(x), 1)) + 1e-7)
	for i, v := range x {
		x[i] = float32((float64(v) - mean) / deviation)
	}
}
