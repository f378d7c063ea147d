package simd

import (
	"sync"
	"unsafe"
)

// A Store hands out memory that stays and is read from end to end again and
// again: weights, caches, workspaces. It lies in large pages where the system has
// them: with one token at a time a model is read from memory and does little
// else, and looking up small pages costs a fifth of that; and small pages,
// wherever they are, fall on few sets of the second cache by chance.
//
// Nothing else lies in these pages. The garbage collector gives memory that it has
// no use for back to the system, and breaks the large page around it into small
// ones, those of the weights beside it too.
//
// The zero Store is ready for use, by several goroutines at once. A nil Store
// hands out memory like any other. Memory goes back to the garbage collector chunk
// by chunk.
type Store struct {
	mu    sync.Mutex
	rest  []float32 // of a chunk
	given int       // elements of all chunks
}

// Sizes in elements.
const (
	largePage  = 2 << 20 / 4
	mostChunk  = 16 * largePage
	worthLarge = 32 << 10 / 4 // from which on memory comes from chunks
	cacheLine  = 64 / 4
)

// Get returns n zeros from the start of a cache line on.
func (s *Store) Get(n int) []float32 {
	if s == nil || !hasLargePages || n < worthLarge {
		return AlignLine(make([]float32, n+cacheLine-1))[:n:n]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := roundUp(n, cacheLine)
	from := s.rest
	if size > len(from) {
		// As much as there is already, so that half of it is empty at most.
		chunk := roundUp(max(size, min(s.given, mostChunk)), largePage)
		from = alignPage(make([]float32, chunk+largePage))[:chunk:chunk]
		s.given += chunk
	}
	largePages(from[:size])
	x := from[:n:n]
	if from = from[size:]; size <= len(s.rest) || len(from) > len(s.rest) {
		s.rest = from
	}
	return x
}

// alignPage returns x from its first element that lies at a multiple of a large
// page.
func alignPage(x []float32) []float32 {
	return x[int(-uintptr(unsafe.Pointer(&x[0]))%(4*largePage))/4:]
}
