package simd

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkRows reports the time for an element of one row of 768.
func BenchmarkRows(b *testing.B) {
	const n = 768
	rng := rand.New(rand.NewPCG(1, 1))
	x, y, z, dst := randoms(rng, n), randoms(rng, n), randoms(rng, n), make([]float32, n)
	for _, op := range []struct {
		name string
		run  func(k *Kernels)
	}{
		{"Add", func(k *Kernels) { k.Add(dst, x, y) }},
		{"Max", func(k *Kernels) { k.Max(dst, x, y) }},
		{"Exp", func(k *Kernels) { k.Exp(dst, x) }},
		{"Tanh", func(k *Kernels) { k.Tanh(dst, x) }},
		{"Silu", func(k *Kernels) { k.Silu(dst, x) }},
		{"Erf", func(k *Kernels) { k.Erf(dst, x) }},
		{"Gelu", func(k *Kernels) { k.Gelu(dst, x) }},
		{"GeluTanh", func(k *Kernels) { k.GeluTanh(dst, x) }},
		{"Softmax", func(k *Kernels) { k.Softmax(dst, x) }},
		{"LayerNorm", func(k *Kernels) { k.LayerNorm(dst, x, y, z, 1e-5) }},
		{"Sum", func(k *Kernels) { k.Sum(x) }},
		{"Dot", func(k *Kernels) { k.Dot(x, y) }},
		{"MaxOf", func(k *Kernels) { k.MaxOf(x) }},
		{"MomentsF64", func(k *Kernels) { k.MomentsF64(x, y) }},
	} {
		for _, p := range Supported() {
			k, _ := For(p)
			b.Run(op.name+"/"+p.String(), func(b *testing.B) {
				for b.Loop() {
					op.run(k)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/elem")
			})
		}
	}
}

// BenchmarkPack reports the time for an element of B [768, 768].
func BenchmarkPack(b *testing.B) {
	const n = 768
	k := Best()
	x, buf := make([]float32, n*n), make([]float32, k.PackedLen(n, n))
	for name, m := range map[string]Mat{"rows": RowMajor(x, n), "columns": RowMajor(x, n).T()} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				k.PackInto(buf, m, n, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n/n, "ns/elem")
		})
	}
}
