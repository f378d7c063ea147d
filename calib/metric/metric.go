// Package metric measures how good a model's outputs are, on their own
// (accuracy, next-token loss) or beside those of the original model (KL,
// agreement, cosine, signal to quantization-noise ratio).
//
// Every metric yields one number a sample, so that a mean and a bootstrap
// confidence interval follow from the same list (Mean, Bootstrap). All sums
// are float64.
package metric

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// logSoftmax writes the log of the softmax of row into dst, both of length n.
func logSoftmax(dst []float64, row []float32) {
	max := math.Inf(-1)
	for _, v := range row {
		max = math.Max(max, float64(v))
	}
	var sum float64
	for _, v := range row {
		sum += math.Exp(float64(v) - max)
	}
	lse := max + math.Log(sum)
	for i, v := range row {
		dst[i] = float64(v) - lse
	}
}

// ArgMax is the index of the largest value of row, the first of equals; a NaN
// is larger than every number, as in ONNX Runtime.
func ArgMax(row []float32) int {
	best := 0
	for i, v := range row {
		if v > row[best] || (v != v && row[best] == row[best]) {
			best = i
		}
	}
	return best
}

// Accuracy is 1 where the largest logit of the sample's rows is its label and
// 0 elsewhere, averaged over the rows. logits is [rows, classes], labels
// [rows].
func Accuracy(logits []float32, classes int, labels []int64) (float64, error) {
	if classes <= 0 || len(logits) != classes*len(labels) {
		return 0, fmt.Errorf("accuracy: %d logits of %d classes for %d labels", len(logits), classes, len(labels))
	}
	var right int
	for r, want := range labels {
		if want < 0 || want >= int64(classes) {
			return 0, fmt.Errorf("accuracy: label %d is outside 0 … %d", want, classes-1)
		}
		row := logits[r*classes : (r+1)*classes]
		if got := ArgMax(row); int64(got) == want && row[got] == row[got] {
			right++
		}
	}
	return float64(right) / float64(len(labels)), nil
}

// NLL is the mean negative log-likelihood, in nats per token, of each next
// token: logits [T, vocab] at positions 0 … T−2 against tokens 1 … T−1.
func NLL(logits []float32, vocab int, tokens []int64) (float64, error) {
	T := len(tokens)
	if vocab <= 0 || len(logits) != T*vocab {
		return 0, fmt.Errorf("nll: %d logits of a vocabulary of %d for %d tokens", len(logits), vocab, T)
	}
	if T < 2 {
		return 0, fmt.Errorf("nll: a sequence of %d tokens has no next token", T)
	}
	lp := make([]float64, vocab)
	var sum float64
	for t := 0; t < T-1; t++ {
		next := tokens[t+1]
		if next < 0 || next >= int64(vocab) {
			return 0, fmt.Errorf("nll: token %d is outside 0 … %d", next, vocab-1)
		}
		logSoftmax(lp, logits[t*vocab:(t+1)*vocab])
		sum -= lp[next]
	}
	return sum / float64(T-1), nil
}

// KL is the mean Kullback-Leibler divergence, in nats per row, of the
// candidate's distribution from the original's: Σ p ln(p/q) with p, q the
// softmax of the rows of original and candidate, both [rows, classes].
func KL(original, candidate []float32, classes int) (float64, error) {
	rows, err := sameRows("kl", original, candidate, classes)
	if err != nil {
		return 0, err
	}
	lp, lq := make([]float64, classes), make([]float64, classes)
	var sum float64
	for r := range rows {
		logSoftmax(lp, original[r*classes:(r+1)*classes])
		logSoftmax(lq, candidate[r*classes:(r+1)*classes])
		for i, l := range lp {
			if p := math.Exp(l); p > 0 {
				sum += p * (l - lq[i])
			}
		}
	}
	return sum / float64(rows), nil
}

// Agreement is the share of rows whose largest logit is the same class in
// both, original and candidate being [rows, classes].
func Agreement(original, candidate []float32, classes int) (float64, error) {
	rows, err := sameRows("agreement", original, candidate, classes)
	if err != nil {
		return 0, err
	}
	var same int
	for r := range rows {
		if ArgMax(original[r*classes:(r+1)*classes]) == ArgMax(candidate[r*classes:(r+1)*classes]) {
			same++
		}
	}
	return float64(same) / float64(rows), nil
}

func sameRows(what string, a, b []float32, classes int) (int, error) {
	if classes <= 0 || len(a) == 0 || len(a)%classes != 0 || len(a) != len(b) {
		return 0, fmt.Errorf("%s: outputs of %d and %d values in rows of %d do not match", what, len(a), len(b), classes)
	}
	return len(a) / classes, nil
}

// Cosine is the cosine of the angle between a and b, taken as vectors.
func Cosine(a, b []float32) (float64, error) {
	if len(a) == 0 || len(a) != len(b) {
		return 0, fmt.Errorf("cosine: outputs of %d and %d values do not match", len(a), len(b))
	}
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab += x * y
		aa += x * x
		bb += y * y
	}
	if aa == 0 || bb == 0 {
		if aa == bb {
			return 1, nil
		}
		return 0, nil
	}
	return ab / math.Sqrt(aa*bb), nil
}

// SQNR is the signal to quantization-noise ratio of b against a in decibel:
// 10 log₁₀(Σa² / Σ(a−b)²), +Inf where they are equal.
func SQNR(a, b []float32) (float64, error) {
	if len(a) == 0 || len(a) != len(b) {
		return 0, fmt.Errorf("sqnr: outputs of %d and %d values do not match", len(a), len(b))
	}
	var signal, noise float64
	for i := range a {
		x, d := float64(a[i]), float64(a[i])-float64(b[i])
		signal += x * x
		noise += d * d
	}
	if noise == 0 {
		return math.Inf(1), nil
	}
	return 10 * math.Log10(signal/noise), nil
}

// SDR is the speed-up degradation ratio: percentage points of average quality
// lost per percent of speed gained ("What Matters in Transformers?", eq. 5).
// It reports false where the candidate is not faster.
func SDR(quality, candidateQuality, ms, candidateMs float64) (float64, bool) {
	gain := 100 * (ms/candidateMs - 1)
	if !(gain > 0) {
		return 0, false
	}
	return 100 * (quality - candidateQuality) / gain, true
}

// Mean is the arithmetic mean.
func Mean(samples []float64) float64 {
	var sum float64
	for _, v := range samples {
		sum += v
	}
	return sum / float64(len(samples))
}

// Resamples is the number of bootstrap resamples; a thousand puts the error
// of a 95 % bound itself near 2 % of the interval (Efron & Tibshirani, 1993,
// ch. 13).
const Resamples = 1000

// Bootstrap returns the 95 % percentile bootstrap confidence interval of the
// mean of samples, the same for the same seed.
func Bootstrap(samples []float64, seed uint64) (low, high float64) {
	if len(samples) == 0 {
		return math.NaN(), math.NaN()
	}
	rng := rand.New(rand.NewPCG(seed, 0x6c61746865)) // "lathe"
	means := make([]float64, Resamples)
	for r := range means {
		var sum float64
		for range samples {
			sum += samples[rng.IntN(len(samples))]
		}
		means[r] = sum / float64(len(samples))
	}
	slices.Sort(means)
	at := func(q float64) float64 { return means[int(math.Round(q*float64(Resamples-1)))] }
	return at(0.025), at(0.975)
}
