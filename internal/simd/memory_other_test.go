//go:build !linux

package simd

import "testing"

func anonymousLargePages(t *testing.T) int {
	t.Skip("large pages are asked for on Linux alone")
	return 0
}
