package simd

// LongLived returns n zeros for weights, and caches, that stay and are read
// from end to end again and again. They lie in large pages where the system
// has them and n is large: with one token at a time a model is read from memory
// and does little else, and looking up small pages costs a fifth of that.
func LongLived(n int) []float32 {
	x := make([]float32, n)
	LargePages(x)
	return x
}

// LargePages asks for large pages for x, which has not been written to yet.
func LargePages(x []float32) {
	if 4*len(x) >= worthLarge {
		largePages(x)
	}
}

// worthLarge is from how many bytes on large pages are asked for. Small layers lie
// next to each other, so that a few pages hold a model of them.
const worthLarge = 32 << 10
