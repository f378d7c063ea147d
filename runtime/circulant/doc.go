// Package circulant is the block-circulant matrix: its definition, its fast
// product, its gradients, and the two ways to fit one to a trained dense
// matrix. A [Matrix] is one, an [Operator] multiplies by it, [Frobenius] and
// [LeastSquares] fit it.
//
// # Definition
//
// A block-circulant matrix of m rows and n columns with block size b is given
// by w, an array [p, q, b] with p = ⌈m/b⌉ and q = ⌈n/b⌉. Block (i, j) is the
// circulant matrix whose first column is w_ij = w[i, j, :], so that
//
//	W[i·b + a, j·b + c] = w[i, j, (a − c) mod b],   0 ≤ a, c < b.
//
// It has p·q·b parameters, one b-th of the dense matrix. Sizes that b does not
// divide are padded: the input is zero beyond n, and rows from m on are
// discarded.
//
// # Product
//
// A circulant block is a circular convolution, and the discrete Fourier
// transform turns that into an element-wise product. With hats for the real
// DFT of length b, x̂(f) = Σ_c x[c]·exp(−2πi·f·c/b), f = 0 … ⌊b/2⌋,
//
//	y_i = IDFT( Σ_j ŵ_ij ∘ x̂_j ) + bias_i :
//
// q forward transforms, one p×q matrix product for every frequency, p inverse
// transforms. [Operator] computes it with the spectra prepared once. (The
// convention of first rows would need conj(ŵ); this package has first columns
// everywhere.)
//
// # Gradients
//
// With g = ∂L/∂y and the sum over all tokens,
//
//	∂L/∂w_ij = IDFT( Σ_t ĝ_i(t) ∘ conj(x̂_j(t)) )
//	∂L/∂x_j  = IDFT( Σ_i ĝ_i ∘ conj(ŵ_ij) )
//	∂L/∂bias = Σ_t g(t).
//
// The second is the product with the transpose, which is block-circulant
// again: block (j, i) has the first column w_ij[−c mod b] (see
// [Matrix.Transpose]). See [Gradient].
//
// # Fit
//
// [Frobenius] is the orthogonal projection of a dense matrix: the mean of
// every wrapped diagonal. [LeastSquares] and [LeastSquaresCross] minimise the
// error of the layer's output instead. By Parseval's identity
// E‖y − Bx‖² decouples by frequency into E‖ŷ(f) − B̂(f)x̂(f)‖², so
//
//	B̂(f) = C(f)·A(f)⁻¹,   A(f) = E[x̂ x̂ᴴ] (q×q),   C(f) = E[ŷ x̂ᴴ] (p×q);
//
// see the functions for centring, ridge and padding. Entry (j, k) of A(f) is the
// transform of the sums over the wrapped diagonals of block (j, k) of the
// covariance E[x xᵀ] (and C likewise), so one set of [Moments] serves every
// block size.
//
// # Sources
//
// C. Ding et al., "CirCNN: Accelerating and Compressing Deep Neural Networks
// Using Block-Circulant Weight Matrices", MICRO 2017 (arXiv:1708.08917):
// section 3.1 has the fully connected layer with its forward and backward
// equations, section 3.2 the convolutional layer. The three-multiplication
// complex product is due to Gauss; see D. E. Knuth, The Art of Computer
// Programming, volume 2, section 4.6.4.
package circulant
