package simd

import (
	"syscall"
	"unsafe"
)

const hasLargePages = true

// largePages asks for large pages for x, which has not been written to yet: for
// memory that has no pages yet, and, from Linux 6.1 on, in place of small ones
// that it had for something else before. The range is rounded outwards. It is
// advice only, and kernels that have no large pages refuse it.
func largePages(x []float32) {
	const page = 4 * largePage // bytes
	const collapse = 25        // MADV_COLLAPSE
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(x)))
	hi := lo + uintptr(4*len(x))
	lo, hi = lo&^(page-1), (hi+page-1)&^(page-1)
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, lo, hi-lo, syscall.MADV_HUGEPAGE)
	for ; lo < hi; lo += page {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, lo, page, collapse)
	}
}
