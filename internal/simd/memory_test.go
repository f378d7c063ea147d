package simd

import (
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"unsafe"
)

// TestStore checks that nobody gets memory that another has, that it is zero, and
// that whole vectors can be read from its start, for a store that several
// goroutines use, and without one.
func TestStore(t *testing.T) {
	for _, s := range []*Store{nil, new(Store)} {
		var mu sync.Mutex
		var all [][]float32
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 40 {
					n := []int{0, 1, worthLarge - 1, worthLarge, worthLarge + 5, 100_000, largePage, largePage + 1}[(g+i)%8]
					x := s.Get(n)
					if len(x) != n || cap(x) != n {
						t.Errorf("%d elements and room for %d, want %d", len(x), cap(x), n)
					}
					if slices.ContainsFunc(x, func(v float32) bool { return v != 0 }) {
						t.Errorf("%d elements are not zero", n)
					}
					if n > 0 && uintptr(unsafe.Pointer(&x[0]))%64 != 0 {
						t.Errorf("%d elements start at %p", n, &x[0])
					}
					mu.Lock()
					id := float32(len(all) + 1)
					all = append(all, x)
					mu.Unlock()
					for k := range x {
						x[k] = id
					}
				}
			})
		}
		wg.Wait()
		for i, x := range all {
			if slices.ContainsFunc(x, func(v float32) bool { return v != float32(i+1) }) {
				t.Fatalf("somebody else wrote to %d elements", len(x))
			}
		}
	}
}

// TestStoreKeepsLargePages puts what is thrown away between pieces of a store, as
// compiling a model does, and looks whether large pages survive that the system
// gets it back.
func TestStoreKeepsLargePages(t *testing.T) {
	const n, count = 300 << 10 / 4, 40
	s := new(Store)
	var kept, junk [][]float32
	before := anonymousLargePages(t)
	for range count {
		junk = append(junk, make([]float32, n))
		kept = append(kept, s.Get(n))
		for _, x := range [][]float32{junk[len(junk)-1], kept[len(kept)-1]} {
			for i := range x {
				x[i] = 1
			}
		}
	}
	if anonymousLargePages(t)-before < 4*n*count {
		t.Skip("the system gives no large pages")
	}
	clear(junk)
	debug.FreeOSMemory()
	if have := anonymousLargePages(t); have < 4*n*count {
		t.Errorf("%d bytes of the store were in large pages, and %d of the process are", 4*n*count, have)
	}
	for _, x := range kept {
		if x[0] != 1 || x[n-1] != 1 {
			t.Fatal("memory of the store was lost")
		}
	}
}
