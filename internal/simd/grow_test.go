package simd

import (
	"math/rand/v2"
	"testing"
)

// TestGrow: a matrix that was filled piece by piece gives the bits of the same
// matrix packed at once, however far it has grown, and stale rows and columns
// beyond do not matter.
func TestGrow(t *testing.T) {
	eachPath(t, func(t *testing.T, kn *Kernels) {
		for _, s := range []struct{ k, n, m int }{{64, 192, 1}, {8, 192, 3}, {33, 97, 9}, {5, 64, 2}, {1, 48, 1}, {20, 100, 8}} {
			for _, transposed := range []bool{false, true} {
				rng := rand.New(rand.NewPCG(uint64(s.k), uint64(s.n)))
				b := matrix(rng, s.k, s.n, transposed)
				a := randoms(rng, s.m*s.k)
				ws := newGuarded(kn.PackedLen(s.k, s.n), 1)
				check := func(what string, p Packed) {
					t.Helper()
					ws.check(t)
					k, n := p.Dims()
					want, got := make([]float32, s.m*n), newGuarded(s.m*n, 2)
					kn.Gemm(want, n, RowMajor(a, s.k), s.m, kn.PackB(b, k, n), nil, false)
					kn.Gemm(got.s, n, RowMajor(a, s.k), s.m, p, nil, false)
					got.check(t)
					for i := range want {
						if want[i] != got.s[i] {
							t.Fatalf("%s, %v, %d×%d, transposed %v: element %d is %v, want %v", what, s, k, n, transposed, i, got.s[i], want[i])
						}
					}
					for _, turned := range []bool{false, true} {
						out := newGuarded(k*n, 3)
						dst := RowMajor(out.s, n)
						if turned {
							dst = RowMajor(out.s, k).T()
						}
						p.Unpack(dst)
						out.check(t)
						for i := range k {
							for j := range n {
								if dst.at(i, j) != b.at(i, j) {
									t.Fatalf("%s: unpacked (%d, %d) = %v, want %v", what, i, j, dst.at(i, j), b.at(i, j))
								}
							}
						}
					}
					for parts := 2; parts < 5; parts++ {
						total := 0
						for i := range parts {
							part, col := p.Split(i, parts)
							_, pn := part.Dims()
							total += pn
							if pn == 0 {
								continue
							}
							kn.Gemm(got.s[col:], n, RowMajor(a, s.k), s.m, part, nil, false)
						}
						for i := range want {
							if want[i] != got.s[i] || total != n {
								t.Fatalf("%s, %v, %d×%d in %d parts: element %d is %v, want %v", what, s, k, n, parts, i, got.s[i], want[i])
							}
						}
					}
				}
				room := kn.Room(ws.s, s.k, s.n)
				for at := 0; at < s.n; {
					count := min(1+rng.IntN(20), s.n-at)
					kn.PutColumns(room, at, Mat{b.Data[at*b.ColStride:], b.RowStride, b.ColStride}, count)
					at += count
					check("columns", room.Leading(s.k, at))
				}
				ws = newGuarded(kn.PackedLen(s.k, s.n), 0)
				room = kn.Room(ws.s, s.k, s.n)
				for at := 0; at < s.k; {
					count := min(1+rng.IntN(5), s.k-at)
					kn.PutRows(room, at, Mat{b.Data[at*b.RowStride:], b.RowStride, b.ColStride}, count)
					at += count
					check("rows", room.Leading(at, s.n))
				}
			}
		}
	})
}

// TestInPlace: a row-major matrix that is not packed gives the bits of the
// packed one, and nothing outside of it is read.
func TestInPlace(t *testing.T) {
	eachPath(t, func(t *testing.T, kn *Kernels) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, s := range []struct{ m, k, n int }{{1, 257, 64}, {8, 31, 128}, {3, 900, 16}, {9, 12, 80}, {2, 0, 16}} {
			b, a := matrix(rng, s.k, s.n, false), randoms(rng, s.m*s.k)
			p, ok := kn.InPlace(b, s.k, s.n)
			if !ok {
				t.Fatalf("%v is not taken", s)
			}
			want, got := make([]float32, s.m*s.n), newGuarded(s.m*s.n, 1)
			kn.Gemm(want, s.n, RowMajor(a, s.k), s.m, kn.PackB(b, s.k, s.n), nil, false)
			for parts := 1; parts < 4; parts++ {
				for i := range parts {
					part, col := p.Split(i, parts)
					if _, n := part.Dims(); n > 0 {
						kn.Gemm(got.s[col:], s.n, RowMajor(a, s.k), s.m, part, nil, false)
					}
				}
				got.check(t)
				for i := range want {
					if want[i] != got.s[i] {
						t.Fatalf("%v in %d parts: element %d is %v, want %v", s, parts, i, got.s[i], want[i])
					}
				}
			}
		}
		for _, s := range []struct{ k, n int }{{4, 1}, {4, 15}, {4, 49}} {
			if _, ok := kn.InPlace(matrix(rng, s.k, s.n, false), s.k, s.n); ok && s.n%4 != 0 {
				t.Errorf("%v is taken, though a vector would be partial", s)
			}
		}
		if _, ok := kn.InPlace(matrix(rng, 4, 16, true), 4, 16); ok {
			t.Error("a transposed matrix is taken")
		}
	})
}
