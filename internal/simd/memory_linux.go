package simd

import (
	"syscall"
	"unsafe"
)

// largePages asks for large pages for x before it is written to: for memory
// that has no pages yet, and, from Linux 6.1 on, in place of small ones that it
// had for something else before. The range is rounded outwards: what lies beside
// x are other weights, or memory that is as well off. It is advice only, and
// kernels that have no large pages refuse it.
func largePages(x []float32) {
	const page = 2 << 20 // bytes
	const collapse = 25  // MADV_COLLAPSE
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(x)))
	hi := lo + uintptr(4*len(x))
	lo, hi = lo&^(page-1), (hi+page-1)&^(page-1)
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, lo, hi-lo, syscall.MADV_HUGEPAGE)
	for ; lo < hi; lo += page {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, lo, page, collapse)
	}
}
