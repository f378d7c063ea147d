package simd

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// anonymousLargePages is how many bytes of this process lie in large pages.
func anonymousLargePages(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "AnonHugePages: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Skip("the system does not count large pages")
	return 0
}
