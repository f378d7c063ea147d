package testmodels

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"testing"
)

// The embedded model was trained on this language: another draw of it, or
// another way to record it, would make the model deaf.
func TestWordSamplesAreTheSameEverywhere(t *testing.T) {
	for _, c := range []struct {
		seed uint64
		want string
	}{
		{CalibSeed, "c5d089c0ecdc2fe5e02b2c604c5b3793b446f17e0bc72e73d91b4dd3ad948720"},
		{EvalSeed, "3a304624da7485defd6f20ca4214dc9e17434db5bbd192568f08f1dac74520f6"},
	} {
		features, labels := WordSamples(c.seed, 256)
		h := sha256.New()
		for _, v := range features {
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
		}
		for _, v := range labels {
			h.Write(binary.LittleEndian.AppendUint64(nil, uint64(v)))
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.want {
			t.Errorf("seed %d: samples hash to %s, want %s", c.seed, got, c.want)
		}
	}
}

func TestWordSamples(t *testing.T) {
	const n = 600
	features, labels := WordSamples(EvalSeed, n)
	if len(features) != n*WordFrames*WordFeatures || len(labels) != n {
		t.Fatalf("%d features and %d labels for %d samples", len(features), len(labels), n)
	}
	var count [WordClasses]int
	for _, c := range labels {
		count[c]++ // out of range panics
	}
	for c, k := range count {
		if k < n/WordClasses/2 || k > n/WordClasses*2 {
			t.Errorf("class %d has %d of %d samples", c, k, n)
		}
	}
	for i, v := range features {
		if s := v * unit; s != float32(math.Trunc(float64(s))) || math.Abs(float64(v)) > 8 {
			t.Fatalf("feature %d is %v, want a multiple of 1/%d within ±8", i, v, unit)
		}
	}
	first, firstLabels := WordSamples(EvalSeed, 10)
	if !slices.Equal(first, features[:len(first)]) || !slices.Equal(firstLabels, labels[:10]) {
		t.Error("the samples of a short stream are not the first ones of a long stream")
	}
	other, _ := WordSamples(CalibSeed, 10)
	if slices.Equal(first, other) {
		t.Error("two seeds give the same samples")
	}
}

// The classes are words, all different, three of them other words with two
// sounds swapped; class 0 is never one of them.
func TestLanguage(t *testing.T) {
	l := newLanguage()
	anagrams := 0
	for i, w := range l.words {
		if c := l.class(w); c != i+1 {
			t.Errorf("word %d %v is of class %d", i+1, w, c)
		}
		for _, v := range l.words[:i] {
			a, b := w, v
			slices.Sort(a[:])
			slices.Sort(b[:])
			if a == b {
				anagrams++
			}
		}
	}
	if anagrams < 3 {
		t.Errorf("%d pairs of words have the same sounds, want 3 or more", anagrams)
	}
}
