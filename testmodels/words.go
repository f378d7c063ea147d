package testmodels

import (
	"bytes"
	"math/rand/v2"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/internal/npz"
)

// The data of the embedded model is a made-up language. It has six sounds,
// each a path through an eight-dimensional feature space, and eleven words of
// four sounds. A sample is one word as a microphone would hear it: the sounds
// are stretched, the whole is shifted in time, louder or softer, coloured by
// the channel and noisy. Class 0 is everything that is no word of the
// language, half of it words with one sound wrong or two swapped, so that a
// model must hear every sound and their order.
const (
	WordFrames   = 40 // frames in a sample
	WordFeatures = 8  // features in a frame
	WordClasses  = 12 // class 0: not a word; classes 1 to 11: the words
)

const (
	sounds     = 6 // in the language
	soundsWord = 4 // in a word
	soundKeys  = 4 // points that a sound's path goes through
	unit       = 32
)

// Seeds of the three streams that models are trained, calibrated and measured
// on. Streams of different seeds are independent.
const (
	TrainSeed uint64 = 1
	CalibSeed uint64 = 2
	EvalSeed  uint64 = 3
)

// language is what all samples share.
type language struct {
	paths [sounds][soundKeys][WordFeatures]int
	words [WordClasses - 1][soundsWord]int
}

// newLanguage draws the language. Every third word is the one before with two
// sounds swapped, so that the set of sounds does not tell them apart.
func newLanguage() *language {
	r := rand.New(rand.NewPCG(0, 0x6c61746865)) // "lathe"
	l := new(language)
	for s := range l.paths {
		for k := range l.paths[s] {
			for f := range l.paths[s][k] {
				l.paths[s][k][f] = r.IntN(2*unit+1) - unit
			}
		}
	}
	for i := range l.words {
		for ok := false; !ok; ok = l.class(l.words[i]) == i+1 {
			if i%3 == 2 {
				l.words[i] = swap(r, l.words[i-1])
			} else {
				l.words[i] = draw(r)
			}
		}
	}
	return l
}

// class is the class of a sequence of sounds: the first word that it is.
func (l *language) class(w [soundsWord]int) int {
	for i := range l.words {
		if l.words[i] == w {
			return i + 1
		}
	}
	return 0
}

func draw(r *rand.Rand) (w [soundsWord]int) {
	for i := range w {
		w[i] = r.IntN(sounds)
	}
	return w
}

func swap(r *rand.Rand, w [soundsWord]int) [soundsWord]int {
	i := r.IntN(soundsWord - 1)
	w[i], w[i+1] = w[i+1], w[i]
	return w
}

// say draws the sounds of one sample and its class.
func (l *language) say(r *rand.Rand) ([soundsWord]int, int) {
	if class := r.IntN(WordClasses); class > 0 {
		return l.words[class-1], class
	}
	for {
		w := draw(r)
		if r.IntN(2) == 0 {
			w = l.words[r.IntN(len(l.words))]
			if r.IntN(2) == 0 {
				w = swap(r, w)
			} else {
				w[r.IntN(soundsWord)] = r.IntN(sounds)
			}
		}
		if l.class(w) == 0 {
			return w, 0
		}
	}
}

// WordSamples draws n samples: features is [n, WordFrames, WordFeatures] in
// row-major order, multiples of 1/32 in about ±4, and labels [n] holds classes.
// All arithmetic is on integers, so a seed gives the same bits on every
// machine, and the first samples of a longer stream are those of a shorter
// one. The stream TrainSeed is noisier than all others.
func WordSamples(seed uint64, n int) (features []float32, labels []int64) {
	l := newLanguage()
	r := rand.New(rand.NewPCG(seed, 0x776f726473)) // "words"
	loudest := 14
	if seed == TrainSeed {
		loudest = 18
	}
	features = make([]float32, 0, n*WordFrames*WordFeatures)
	labels = make([]int64, 0, n)
	for range n {
		word, class := l.say(r)
		labels = append(labels, int64(class))
		features = l.record(r, word, loudest, features)
	}
	return features, labels
}

// record appends one recording of word, [WordFrames, WordFeatures]; loudest
// bounds its noise, in units of 1/unit.
func (l *language) record(r *rand.Rand, word [soundsWord]int, loudest int, to []float32) []float32 {
	const shortest, longest = 5, 9 // frames of a sound
	var frames [soundsWord]int
	total := 0
	for i := range frames {
		frames[i] = shortest + r.IntN(longest-shortest+1)
		total += frames[i]
	}
	start := r.IntN(WordFrames - total + 1)
	gain := 12 + r.IntN(9)         // sixteenths
	noise := 4 + r.IntN(loudest-3) // largest of each of the four uniform terms of the noise
	var colour [WordFeatures]int
	for f := range colour {
		colour[f] = r.IntN(unit+1) - unit/2
	}

	var clean [WordFrames][WordFeatures]int
	at := start
	for i, s := range word {
		path := &l.paths[s]
		for t := range frames[i] {
			// Linear between the keys: position t·(keys−1)/(frames−1).
			num, den := t*(soundKeys-1), frames[i]-1
			k := min(num/den, soundKeys-2)
			part := num - k*den
			for f := range WordFeatures {
				clean[at][f] = (path[k][f]*(den-part) + path[k+1][f]*part) / den
			}
			at++
		}
	}
	for t := range clean {
		for f, c := range clean[t] {
			v := c*gain/16 + colour[f]
			for range 4 {
				v += r.IntN(2*noise+1) - noise
			}
			to = append(to, float32(v)/unit)
		}
	}
	return to
}

// WordTensors is WordSamples as tensors: features [n, WordFrames, WordFeatures] float32
// and labels [n] int64.
func WordTensors(seed uint64, n int) map[string]tensor.Tensor {
	features, labels := WordSamples(seed, n)
	return map[string]tensor.Tensor{
		"features": tensor.New(tensor.WithShape(n, WordFrames, WordFeatures), tensor.WithBacking(features)),
		"labels":   tensor.New(tensor.WithShape(n), tensor.WithBacking(labels)),
	}
}

// WordArchive is WordSamples as the bytes of an npz archive: features
// [n, WordFrames, WordFeatures] float32 and labels [n] int64.
func WordArchive(seed uint64, n int) ([]byte, error) {
	features, labels := WordSamples(seed, n)
	var b bytes.Buffer
	err := npz.Write(&b,
		npz.Float32Array("features", []int{n, WordFrames, WordFeatures}, features),
		npz.Int64Array("labels", []int{n}, labels))
	return b.Bytes(), err
}
