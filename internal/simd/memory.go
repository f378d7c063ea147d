package simd

// LongLived returns n zeros for weights, and caches, that stay and are read
// from end to end again and again. They lie in large pages where the system
// has them and n is large: with one token at a time a model is read from memory
// and does little else, and looking up small pages costs a fifth of that.
func LongLived(n int) []float32 {
	x := make([]float32, n)
	largePages(x)
	return x
}
