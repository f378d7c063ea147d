// Package fixed is arithmetic in 16-bit fixed point: the operators of domain
// lathe whose names end in Int16. This comment is their specification. It is
// complete: every output of every operator is determined to the bit by it, so
// that a second implementation gives the same bits (testmodels/fixed has one,
// in plain Python integers, which makes the goldens that this one is held to).
//
// # Numbers
//
// All integers are two's complement. An activation is an int16 q that stands
// for q·2ᵉ; its exponent e is a property of the value in the graph, is fixed
// by calibration, and is not stored beside the elements. Where two operators
// meet, the one has to give what the other expects. ⌊x⌋ is the largest integer
// not above x, and
//
//	round(v, s)  = ⌊v/2ˢ + ½⌋              s > 0, half up;  v·2⁻ˢ for s ≤ 0
//	sat(v)       = min(max(v, −2¹⁵), 2¹⁵ − 1)
//	near(v, s)   = v/2ˢ to the nearest integer, ties to even
//	mac(a, x, w) = near(a·2¹⁵ + x·w, 15)
//	macᵤ(a, x, w) = near(a·2¹⁵ + x·w, 15 + u)·2ᵘ
//	⟨v⟩          = near(v, s)·2ˢ, s the least with |v| ≤ 2²⁴⁺ˢ: v with 24 significant bits
//
// Sums are exact but in F and G below: the order of terms has no effect. Nothing wraps
// around.
//
// # Between float32 and int16
//
//	QuantizeInt16(X, E):    y = sat(⌊x·2⁻ᴱ ⊕ ½⌋)    ⊕ the float32 addition; NaN gives 0
//	DequantizeInt16(X, E):  y = x·2ᴱ                rounded to float32 where that is subnormal
//	RequantizeInt16(X, S):  y = sat(round(x, S))
//
// E and S are int32 with one element, from −126 to 126 and from −16 to 31. E of
// DequantizeInt16 may be int8, and may have an element for every channel, the
// places along the last axis of X.
// x·2⁻ᴱ is a float32 product, which is exact but for overflow and underflow.
//
// # Dense layers
//
//	MatMulInt16(X [..., n], W [m, n], S [m], B [m]) → Y [..., m]
//	ConvInt16(X [N, C, d…], W [M, C/group, k…], S [M], B [M]) → Y [N, M, o…]
//
//	y[r] = sat(round(Σ_k w[r, k]·x[k] + B[r], S[r]))
//
// X and W are int16, S is int32 and B int64. The sum of ConvInt16 runs over
// the window that the attributes of Conv define, with zeros outside of X.
// Weights are from −32767 to 32767, S from 0 to 62, |B| ≤ 2⁶⁰ and there are at
// most 2²⁸ products in a sum; other values are errors. Then |Σ + B + 2ˢ⁻¹| ≤
// 2²⁸·2³⁰ + 2⁶⁰ + 2⁶¹ < 2⁶³, so 64 bits hold the accumulator for every X. The
// exponents obey e_y = e_x + f_r + S[r], f_r the exponent of row r of W. B has
// the exponent e_x + f_r of the accumulator.
//
// # Other layers
//
//	AddInt16(A, B, E [3]):           y = sat(round(a·2^E₀ + b·2^E₁, E₂))   E₀, E₁ from 0 to 16, E₂ from 0 to 40
//	ClipInt16(X, L [1], H [1]):      y = min(max(x, L), H)                 L, H int16; a ReLU has L = 0, H = 32767
//	MaxPoolInt16(X):                 y = the largest of the window         attributes of MaxPool
//	AveragePoolInt16(X, L [1]):      y = sat(⌊Σ·2ᴸ/count + ½⌋)             attributes of AveragePool; L from 0 to 15
//	GlobalAveragePoolInt16(X, L):    the same over all spatial positions
//
// E and L are int32. A and B of AddInt16 broadcast. A window of AveragePool
// counts what AveragePool counts. Reshape, Transpose, Flatten, Squeeze,
// Unsqueeze and Concat are those of ONNX, on int16.
//
// # Block-circulant layers
//
//	BlockCirculantMatMulInt16(X [..., n], W [p, q, b], S [p, b/2+1], B [p, b], R [q, b/2+1], E [m], A [2]) <rounding> → Y [..., m]
//
// b is a power of two from 2 to 256. X and W are int16, S, R and E int8, B and A
// int32. X is padded with zeros to q·b elements, x_j being block j, and of the p·b
// results the first m are kept. A spectrum lists b numbers: bin 0, bin b/2, then
// real and imaginary part of bins 1, 2, …, b/2 − 1; S and R list its bins in that
// order, and S(i, k) and R(j, k) are those of the bin of number k. W[i, j] is the
// spectrum of block (i, j), Σ_c w[c]·exp(−2πi·f·c/b), without a factor 1/b, at the
// exponent f_i(k) − R(j, k), f_i(k) one for every bin of every block row. B[i] is the spectrum of the bias of block row i in
// the format of the accumulator. A[0] is how many blocks are summed up before the
// sum is shifted by A[1]. With * the product of bins (of reals for bins 0 and b/2,
// of complex numbers for the others), h over the groups of A[0] blocks j, and all
// of it for every one of the b numbers k
//
//	x̂_j = clamp(round′(F_b(2ᵍ·x_j), g + R(j, k)))            to ±(2¹⁵ − 1)
//	T_i = B[i] + Σ_h round(Σ_{j in h} W[i, j]*x̂_j, A[1])
//	ŷ_i = clamp(round(T_i, S(i, k)))                       to ±2^K
//	y[i·b + c] = sat(round′(G_b(ŷ_i)[c], E[i·b + c]))
//
// and round′(v, s) = ⌊⟨v + 2ˢ⁻¹⟩/2ˢ⌋, v for s = 0. g is 8 − log₂ b and K is 23 − log₂ b, but both are 2 more from b = 64 on. Weights are from −32767 to
// 32767, R from 0 to 31, S and A[1] from 0 to 30, E from 0 to 40, A[0] is at least
// 1, and even where there are more blocks. And no sum may leave 32 bits: with |W|
// the magnitude of a real number, or the sum of those of both parts of a complex
// bin, for every i and k
//
//	P_h = 32767·Σ_{j in h} |W[i, j]| + 2^(A[1]−1) < 2³¹                 for all h
//	|B[i]| + Σ_h (⌊P_h/2^A[1]⌋ + 1) + 2^(S(i, k)−1) < 2³¹
//
// where a power of −1 stands for 0. Other values are errors. A part of a product
// is at most 32767·|W|, so 32 bits hold the sums for every X.
//
// F is the Fourier transform and G its inverse without the factor 1/b, which
// is in E. In integers, with h = N/2 and for 0 < f < h/2
//
//	c = near(2³⁰·cos(2πf/N), 15),  s = near(2³⁰·sin(2πf/N), 15)
//
// (no cosine or sine of these is near a tie), and with a + b standing for ⟨a + b⟩, of
// each part of complex numbers, F_N(x) of N numbers is
//
//	F_2:  X(0) = x₀ + x₁,  X(1) = x₀ − x₁
//	F_N:  E = F_h(x₀, x₂, …),  O = F_h(x₁, x₃, …)
//	      X(0) = E(0) + O(0),  X(h) = E(0) − O(0),  X(h/2) = E(h/2) − i·O(h/2)
//	      P = macᵤ(macᵤ(0, Im O(f), s), Re O(f), c) + i·macᵤ(macᵤ(0, Re O(f), −s), Im O(f), c)
//	      X(f) = E(f) + P,  X(h − f) = conj(E(f) − P)
//
// and G_N(X) is
//
//	G_2:  x₀ = X(0) + X(1),  x₁ = X(0) − X(1)
//	G_N:  E(0) = X(0) + X(h),  O(0) = X(0) − X(h),  E(h/2) = 2·Re X(h/2),  O(h/2) = −2·Im X(h/2)
//	      E(f) = X(f) + conj X(h − f),  D = X(f) − conj X(h − f)
//	      O(f) = macᵤ(macᵤ(0, Im D, −s), Re D, c) + i·macᵤ(macᵤ(0, Re D, s), Im D, c)
//	      (x₀, x₂, …) = G_h(E),  (x₁, x₃, …) = G_h(O)
//
// u is 0 for b ≤ 32. For b ≥ 64 it is 1 in F_N for N = b/2 and 2 for N = b; and in G_N
// it is 1 for N = 16 and 2 for N = 8.
//
// For every input, the results of macᵤ are at or below 2²²⁺ᵘ in magnitude, so that they
// are exact multiples of 2ᵘ in 24 bits, and so are those of all other steps:
//
//   - Forward: |2ᵍ·x| ≤ 2²³/b for b ≤ 32, so the sums of F_N are at most N·2²³/b ≤
//     2²³, and ⟨v⟩ is v. A rotated bin O(f), 0 < f < h/2, of h ≤ b/2 reals is at most
//     2²³/b·max_φ Σ_c |cos(2πfc/h + φ)| ≤ 2²³/b·h/√2 in magnitude (the angles run
//     through at least four directions alike), so below 0.71·2²². For b ≥ 64 all that is
//     four times as much: rotated bins are below 0.71·2²⁴ for N = b, 0.71·2²³ for N =
//     b/2, and 0.71·2²² else, and sums above 2²⁴ are those for N = b alone.
//   - Inverse, |ŷ| ≤ 2^K in each component. A complex bin is at most √2·2^K, and
//     every level doubles that: behind G_N it is √2·2^K·2b/N. For b ≤ 32 the last
//     level with a rotation, N = 8, has √2·2²¹, and the last of all √2·2²³. For b ≥
//     64 they are √2·2²³ and √2·2²⁵: N = 16 has √2·2²² ≤ 2²³, N = 8 √2·2²³ ≤ 2²⁴,
//     which are the bounds for u = 1 and 2; sums above 2²⁴ are behind them.
//   - Rounding adds at most 2ᵘ a level, which these bounds have room for.
//
// So a float32 holds every number, its addition is ⟨a + b⟩, and macᵤ is one fused
// multiply-add with a number of magnitude 2²³⁺ᵘ added to its sum: the vector kernels
// compute these integers in floating-point registers. The bound of ±2^K, ties to even,
// not half up, and ⟨v⟩ are there for that; with one rounding in 2²² the choice
// has no effect on accuracy.
//
// The exponents: number k of x̂_j has e_x + R(j, k), of the accumulator T_i e_x +
// f_i(k) + A[1], ŷ_i has the same e_i = e_x + f_i(k) + A[1] + S(i, k) for all k, and y[i·b + c] has e_i + E[i·b + c] − log₂ b.
//
// # Block-circulant convolutions
//
//	BlockCirculantConvInt16(X [N, C, d…], W [p, q, b, k…], S [p, b/2+1], B [p, b], R [G·q, b/2+1], E [m], A [2]) <rounding> → Y [N, m, o…]
//
// has the attributes of Conv, group = G. Each group is a convolution in one group: of
// the channels, of the block rows of W, S and B, of R and of the outputs and E the
// first has the first G-th, and so on; A is that of all. In one group, the kernel k…
// has t taps, τ in row-major order. With x_o the column of output o, for every tap the C channels
// of X at the pixel that the attributes of Conv define, zeros outside of X, and
// zeros behind them up to q·b,
//
//	y_o = BlockCirculantMatMulInt16(x_o, W′ [p, t·q, b], S, B, R′ [t·q, b/2+1], E, A)
//	W′[i, τ·q + j] = W[i, j, :, τ],  R′[τ·q + j] = R[j]
//
// for every o: A[0] counts the blocks of all taps, and the limits of W′ are those of
// W. As R is the same at every tap, so is x̂ of a pixel, which is computed once; that
// of zeros is zeros. Exponents are those of the product.
//
// # Rounding as in CirCNN
//
// With the attribute rounding = "circnn" (the default is "once") transforms
// are those of hardware with 16-bit registers: every butterfly halves its
// outputs, a rotation is one rounded product. In F and G every sum or
// difference of the formulas above, v, is replaced by sat(round(v, 1)), so are
// both parts of X(h/2) in F (v their value there), the factors 2 of G are left
// out, and rotations are
//
//	P    = sat(round(Re O·c + Im O·s, 15)) + i·sat(round(Im O·c − Re O·s, 15))
//	O(f) = sat(round(Re D·c − Im D·s, 15)) + i·sat(round(Im D·c + Re D·s, 15))
//
// Both transforms divide by b so. All of R and E have to be log₂ b: x̂ = F(x) clamped
// to ±(2¹⁵ − 1), ŷ = sat(round(T, S)), y = G(ŷ) with no further shift.
package fixed
